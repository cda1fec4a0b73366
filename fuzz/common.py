# SPDX-License-Identifier: Apache-2.0
"""What the targets share: a directory on a RAM disk, and a model that applies what a log says.

    bytes ─ taken apart by Bytes ─► files in a Directory ─► kvcore.open ─┬─► refused: repaired
                                                                        └─► held against Model

The model decodes commands by tests/command_bytes.py, which knows nothing of the core's decoder, and
only those parts that a replay looks at: a branch that is not taken is only stepped over.
"""

from __future__ import annotations

import atexit
import os
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import command_bytes as cb
import model_leases
import models

import kvcore
from kvcore import errors
from kvcore.repair import repair

SIZE = 65536
OPTIONS: dict[str, Any] = {"segment_bytes": SIZE, "max_request_bytes": 16384, "verify": True,
                           "maintenance": False, "replay_target": 0.0}
REFUSALS = (kvcore.CorruptError, kvcore.NewerFormatError)
DEEPEST = 100                # levels of nesting up to which model and store are compared


class Bytes:
    """An input, taken apart from the front; zeros behind its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def more(self) -> bool:
        return self.at < len(self.data)

    def take(self, count: int) -> bytes:
        """As many bytes; fewer at the end."""
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")


class Directory:
    """A directory that is filled anew for each input."""

    def __init__(self) -> None:
        base = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.owner = os.getpid()
        self.parent = Path(tempfile.mkdtemp(prefix=f"kvcore-fuzz-{self.owner}-", dir=base))
        self.path = self.parent / "db"
        atexit.register(shutil.rmtree, self.parent, ignore_errors=True)

    def fill(self, files: dict[str, bytes]) -> Path:
        """FORMAT and these files, nothing else."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir()
        for name, raw in {"FORMAT": b"kvcore 1\n", **files}.items():
            (self.path / name).write_bytes(raw)
        return self.path

    def repaired(self) -> None:
        """What is saved of a refused directory opens and is sound."""
        into = self.parent / "repaired"
        shutil.rmtree(into, ignore_errors=True)
        try:
            repair(self.path, into)
        except kvcore.NewerFormatError:
            return
        with kvcore.open(into, **OPTIONS) as db:
            db._check()
            assert db.check() == [], "repair wrote what is not sound"


_directory: Directory | None = None


def directory() -> Directory:
    """One for each process."""
    global _directory
    if _directory is None or _directory.owner != os.getpid():
        _directory = Directory()
    return _directory


class Model(model_leases.LeaseModel):
    """Applies commands as a replay must, after checks that only the decoder makes."""

    def __init__(self) -> None:
        super().__init__(min_lease_ttl=1)

    def apply(self, value: Any) -> None:
        """One command; Malformed when no store wrote it. A failed one changes nothing."""
        self._path: list[list[Any]] = []
        kind = cb.kind_of(value)
        try:
            if kind == cb.TXN:
                self._plan_raw(value, 0)
                self._sub = 0
                self._run_raw(0)
                self.revision += 1 if self._sub else 0
                return
            op = cb.operation(value)
            if isinstance(op, models.Range):
                raise cb.Malformed("a range is no command")
            if isinstance(op, cb.Alarm):
                return
            if isinstance(op, model_leases.LeaseGrant) and (
                    op.id == 0 or not 1 <= op.ttl <= model_leases.MAX_TTL):
                raise cb.Malformed("no store grants such a lease")
            if isinstance(op, models.Put):
                self._check_put_state(op)
            if isinstance(op, models.Put | models.Delete):
                self._sub = 0
                self._run(op, [])
                self.revision += 1 if self._sub else 0
            else:
                self.do(op)
        except (errors.KeyNotFoundError, errors.LeaseNotFoundError, errors.LeaseExistsError,
                errors.CompactedError, errors.FutureRevisionError):
            return

    def _plan_raw(self, value: Any, depth: int) -> None:
        """As the store does: in order, the path taken alone, on the state before."""
        if depth > 128:
            raise cb.Malformed("nested too deep")
        _, compares, *branches = cb.fields(value, 4)
        if not isinstance(compares, list):
            raise cb.Malformed("compares are an array")
        holds = all([self._holds(compare) if ok else False
                     for compare, ok in self._judged(compares)])
        taken: list[Any] = []
        self._path.append(taken)
        branch = branches[0 if holds else 1]
        if not isinstance(branch, list):
            raise cb.Malformed("a branch is an array")
        for raw in branch:
            if cb.kind_of(raw) == cb.TXN:
                taken.append(None)
                self._plan_raw(raw, depth + 1)
                continue
            op = cb.operation(raw)
            if not isinstance(op, models.Put | models.Delete | models.Range):
                raise cb.Malformed("not in a transaction")
            if isinstance(op, models.Put):
                self._check_put_state(op)
            elif isinstance(op, models.Range):
                if op.revision > self.revision:
                    raise errors.FutureRevisionError()
                if op.revision != 0 and op.revision < self.compacted:
                    raise errors.CompactedError()
            taken.append(op)

    @staticmethod
    def _judged(compares: list[Any]) -> list[tuple[models.Compare, bool]]:
        return [(cb.compare_of(raw), True) for raw in compares]

    def _run_raw(self, depth: int) -> None:
        for op in self._path.pop(0):
            if op is None:
                self._run_raw(depth + 1)
            elif isinstance(op, models.Put):
                kept = self.live_at(op.key, self.revision + 1)
                if (op.ignore_value or op.ignore_lease) and kept is None:
                    raise cb.Malformed("what it keeps is gone")
                self._run(op, [])
            elif isinstance(op, models.Delete):
                self._run(op, [])


def nesting(value: Any) -> int:
    return 1 + max(map(nesting, value), default=0) if isinstance(value, list) else 0


def log_of(batches: list[tuple[int, int, bytes, dict[str, int]]], *, seq: int = 1,
           nonce: int = 7, seed: int = 9) -> tuple[bytes, Model | None, bool]:
    """A segment of these (kind, count, payload, what else its header says); the model behind it,
    None when the log must be refused; whether the model's word counts."""
    segment = cb.model_wal.Segment(seq, SIZE, nonce, seed)
    raw = bytearray(cb.segment_header(seq, SIZE, nonce, seed))
    model: Model | None = Model()
    index, decided, revision = 1, True, 1
    for kind, count, payload, more in batches:
        if len(raw) + 64 + len(payload) + 64 > SIZE:
            break
        said = {"first_index": index, "revision": revision, **more}
        raw += cb.batch(segment, len(raw), payload, kind=kind, count=count, **said)
        if model is None:
            continue
        try:
            if said["first_index"] != index or not 0 <= said["revision"] < cb.MAX_REVISION:
                raise cb.Malformed("the header contradicts")
            if kind == 1:
                if said["revision"] != model.revision or count == 0:
                    raise cb.Malformed("the header contradicts")
                reader = cb.Reader(payload)
                for _ in range(count):
                    value = reader.value()
                    decided &= nesting(value) < DEEPEST
                    model.apply(value)
                    index += 1
                if reader.at != len(payload):
                    raise cb.Malformed("bytes behind the last command")
            elif kind == 2:
                model.revision = max(model.revision, said["revision"])
            elif kind == 4:
                decided = False              # which values it moves the model does not know
            elif kind not in (3, 5):
                raise cb.Malformed("no such batch")
            revision = model.revision
        except cb.TooDeep:
            model, decided = None, False
        except cb.Malformed:
            model = None
    return bytes(raw) + bytes(SIZE - len(raw)), model, decided


def judge(path: Path, model: Model | None, decided: bool, again: bool) -> None:
    """Opens a directory: refused as it must be, or sound, like the model, and the same later."""
    try:
        db = kvcore.open(path, **OPTIONS)
    except REFUSALS as error:
        assert str(path) in str(error)
        assert model is None or not decided, f"refused, but the model takes it: {error}"
        if again:
            directory().repaired()
        return
    with db:
        assert model is not None or not decided, "taken, but the model refuses it"
        db._check()
        state = db.revision, db.compact_revision
        try:
            digest = db.hash().hash
        except kvcore.CorruptError:          # a forged cell: its checksum is its own
            digest = None
            assert db.check() != []
        if model is not None and decided:
            assert state[1] == model.compact_revision and state[0] >= model.revision
            assert sorted(lease.id for lease in db.leases()) == sorted(model.terms)
            for id in model.terms:
                assert db.lease_of(id).keys() == model.keys_of(id)
                assert db.lease_of(id).granted_ttl == model.terms[id].ttl
            if digest is not None:
                assert digest == model.hash().hash
    if again:
        with kvcore.open(path, **OPTIONS) as db:
            db._check()
            assert (db.revision, db.compact_revision) == state
            assert digest is None or db.hash().hash == digest


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)
