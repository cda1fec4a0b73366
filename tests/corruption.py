# SPDX-License-Identifier: Apache-2.0
"""Sound directories with all that is true of them, and the judge of what a damage does to them.

    build ──► Sound: bytes of every file, model, history       telling(): bytes that must be noticed
    Bench ──► files put back ─► one damage ─► judge: open ─┬─► refusal: file, offset, remedy
                                                           ├─► the exact state; each value right, or
                                                           │   CorruptError with file and offset
                                                           └─► the end is gone: only of a killed one

Bytes that tell nothing, and may be damaged in silence (the state is exact then, too):
- LOCK, but for the line that says where the log ended, which proves itself or does not count;
- of a batch, the zeros that fill it up to a multiple of 64;
- of a segment, what lies behind its last batch, and all of a file that is not in use (made ready
  ahead, retired and kept to be written again, or with nothing that anything names); its first 64
  bytes may be a reason to refuse nevertheless;
- before the place in the log from which the older checkpoint replays: all but the cells that a
  version still names.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import model_leases
import model_wal
import models
import numpy
from test_repair import Run, held_against

import kvcore
from kvcore.cli import main
from kvcore.repair import LostRevisions, RepairResult, repair

SIZE = 65536
OPTIONS: dict[str, Any] = {"segment_bytes": SIZE, "max_request_bytes": 16384,
                           "maintenance": False, "replay_target": 0.0}
REFUSALS = (kvcore.CorruptError, kvcore.NewerFormatError, kvcore.StorageError)
LEASE = 5

State = tuple[int, int, int]                 # revision, compact revision, hash


@dataclasses.dataclass
class Sound:
    """One directory, before any damage."""

    files: dict[str, bytes]
    clean: bool
    run: Run
    states: list[State]                      # after each command of the model
    versions: list[tuple[Any, ...]]          # of a store opened on it: those that are not deletions
    read: dict[str, tuple[model_wal.Segment, list[model_wal.Batch]]] | None = None

    @property
    def state(self) -> State:
        return self.states[-1]

    def tracked_from(self) -> int:
        """The first revision whose state is known."""
        return min(state[0] for state in self.states if state[0] > 1)

    def segments(self) -> dict[str, tuple[model_wal.Segment, list[model_wal.Batch]]]:
        """Header and batches of every segment file; read once."""
        if self.read is not None:
            return self.read
        found = {}
        for name, raw in self.files.items():
            if name.endswith(".seg"):
                segment, batches, offset = model_wal.read_header(raw), [], 64
                while (batch := model_wal.read_batch(raw, segment, offset)) is not None:
                    batches.append(batch)
                    offset = batch.end
                found[name] = segment, batches
        self.read = found
        return found

    def checkpoints(self) -> list[str]:
        """Names, the older first."""
        return sorted(name for name in self.files if name.endswith(".ckp"))

    def replay_from(self, name: str) -> int:
        return int(struct.unpack_from("<Q", self.files[name], 24)[0])

    def last(self) -> str:
        """The segment in which the log ends."""
        return max(name for name, (_, batches) in self.segments().items() if batches)

    def in_use(self) -> set[str]:
        """Segments that the newest checkpoint names, and those behind it that have a batch."""
        named, begin = set[int](), 0
        if self.checkpoints():
            raw = self.files[self.checkpoints()[-1]]
            begin = self.replay_from(self.checkpoints()[-1])
            count, at = struct.unpack_from("<QQ", raw, 96)
            named = {struct.unpack_from("<Q", raw, at + 8 + 40 * i)[0] for i in range(count)}
        return {name for name, (segment, batches) in self.segments().items()
                if segment.seq in named or (batches and (segment.seq + 1) * SIZE > begin)}

    def telling(self) -> dict[str, bytearray]:
        """Of every file, 1 for each byte whose damage must be noticed."""
        masks = {name: bytearray(len(raw)) for name, raw in self.files.items()}
        begin = min(map(self.replay_from, self.checkpoints()), default=0)
        for name in self.in_use():
            segment, batches = self.segments()[name]
            for batch in batches:
                if batch.position >= begin:
                    end = batch.offset + 64 + len(batch.payload)
                    masks[name][batch.offset : end] = b"\1" * (end - batch.offset)
        by_number = {segment.seq: name for name, (segment, _) in self.segments().items()}
        for key, mod, *_, position in self.versions:
            length = 13 + len(key) + len(self.run.changes[key][mod] or b"")
            at = position % SIZE
            masks[by_number[position // SIZE]][at : at + length] = b"\1" * length
        for name, mask in masks.items():
            if name.endswith(".seg") and any(mask):
                mask[:64] = b"\1" * 64
        for name in ("FORMAT", *self.checkpoints()):
            masks[name] = bytearray(b"\1" * len(self.files[name]))
        return masks


class Builder:
    """A store and the model, changed together."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.rng = random.Random(seed)
        self.model = model_leases.LeaseModel()
        self.db = kvcore.open(directory, **OPTIONS)
        self.states = [self._state()]
        self.track = True                    # a state after each command

    def _state(self) -> State:
        return self.model.revision, self.model.compact_revision, self.model.hash().hash

    def do(self, name: str, *args: Any, **options: Any) -> None:
        """The same verb on both."""
        for store in (self.model, self.db):
            getattr(store, name)(*args, **options)
        assert self.model.revision == self.db.revision
        if self.track:
            self.states.append(self._state())

    def nested(self, key: bytes, value: bytes) -> None:
        """A transaction inside a transaction."""
        for api, store in ((models, self.model), (kvcore, self.db)):
            store.txn([api.Compare.version(key) > 0],
                      [api.Put(b"yes" + key, value), api.Txn(
                          [api.Compare.mod_revision(b"never") == 0],
                          [api.Put(b"inner", key), api.Delete(b"yes/gone")], [])],
                      [api.Put(b"no" + key, b"")])
        if self.track:
            self.states.append(self._state())

    def image(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.directory.iterdir())}

    def sound(self, clean: bool) -> Sound:
        """The directory as it is now, with the truth about it."""
        run = Run(revision=self.model.revision, hash=self.model.hash().hash)
        for key, history in self.model.history.items():
            for change in history:
                run.note(key, change.mod, change.value)
        files = self.image()
        copy = self.directory.with_name("looked-at")
        copy.mkdir()
        for name, raw in files.items():
            (copy / name).write_bytes(raw)
        with kvcore.open(copy, **OPTIONS) as db:
            assert (db.revision, db.compact_revision, db.hash().hash) == self.states[-1]
            assert db.check() == []
            versions = live_versions(db)
        shutil.rmtree(copy)
        for key, mod, _, create, version, lease, position in versions:
            run.versions[key, mod] = (create, version, lease)
            run.cells[key, mod] = position
        return Sound(files, clean, run, self.states, versions)


def live_versions(db: kvcore.Store) -> list[tuple[Any, ...]]:
    return [row for row in db._versions() if row[4]]


def small(directory: Path, clean: bool) -> Sound:
    """One segment, a few batches, nothing but the log."""
    work = Builder(directory, 1)
    work.do("lease", 60, id=LEASE)
    work.do("put", b"a", b"first")
    work.do("put", b"a", b"second", lease=LEASE)
    work.do("put_many", [(b"k%d" % n, b"v" * n) for n in range(4)])
    work.do("delete", b"k1")
    work.nested(b"a", b"deep")
    work.do("put", b"k2", ignore_value=True)
    work.do("compact", 5)
    work.do("put", b"long", b"x" * 150)
    work.do("put", b"k2", b"last")
    if clean:
        work.db.close()
    made = work.sound(clean)
    work.db.close()
    return made


def rich(directory: Path, seed: int = 3) -> tuple[Sound, Sound, list[dict[str, bytes]]]:
    """Several segments, two checkpoints, moves, segments used again: killed, closed, and what the
    directory was earlier."""
    work = Builder(directory, seed)
    work.do("lease", 1000, id=LEASE)
    rng, earlier, work.track = work.rng, [], False
    for number in range(700):
        key, value = b"/k/%02d" % rng.randrange(30), rng.randbytes(rng.choice([0, 30, 400, 900]))
        what = rng.randrange(12)
        if what == 0:
            work.do("delete", key)
        elif what == 1:
            work.nested(key, value)
        elif what == 2:
            work.do("put", key, value, lease=LEASE)
        else:
            work.do("put", key, value)
        if number % 12 == 0:
            work.do("put", b"still/%d" % number, b"s" * 150)
        if number % 100 == 99:
            work.do("compact", max(work.db.revision - 30, 2), physical=True)
            work.db.checkpoint()
            while work.db.step():
                pass
            earlier.append(work.image())
    work.track = True
    for number in range(4):
        work.do("put", b"/end/%d" % number, b"e" * number)
    status = work.db.status()
    assert status.moved_bytes > 0 and status.retired_segments > 0
    killed = work.sound(False)
    work.db.close()
    closed = work.sound(True)
    assert len(killed.checkpoints()) == 2 and len(killed.in_use()) >= 3
    assert any(killed.files[name][44] for name in killed.in_use()), "none was recycled"
    return killed, closed, earlier


class Bench:
    """One directory that is damaged, judged and put back, over and over."""

    def __init__(self, root: Path, sound: Sound, counts: Counter[str]) -> None:
        self.root = root / "damaged"
        self.into = root / "repaired"
        self.sound = sound
        self.counts = counts
        self.masks = sound.telling()
        self.reset()

    def path(self, name: str) -> Path:
        return self.root / name

    def reset(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()
        for name, raw in self.sound.files.items():
            self.path(name).write_bytes(raw)

    def flip(self, name: str, bit: int) -> bool:
        raw = bytearray(self.sound.files[name])
        raw[bit // 8] ^= 1 << bit % 8
        return self.damage(name, bytes(raw))

    def tells(self, name: str, now: bytes) -> bool:
        """Whether a file that is so now must be noticed."""
        before = numpy.frombuffer(self.sound.files[name], numpy.uint8)
        differ = numpy.ones(len(before), bool)
        n = min(len(now), len(before))
        differ[:n] = before[:n] != numpy.frombuffer(now, numpy.uint8)[:n]
        return bool((differ & (numpy.frombuffer(self.masks[name], numpy.uint8) != 0)).any())

    def damage(self, name: str, now: bytes) -> bool:
        """Writes a file anew; whether that must be noticed."""
        self.path(name).write_bytes(now)
        return self.tells(name, now)

    def may_end_at(self, name: str, start: int, end: int) -> int:
        """The earliest revision at which the log may end, when these bytes are damaged: of a killed
        store's last batches, if nothing sound comes behind them."""
        revision = self.sound.run.revision
        if self.sound.clean or name != self.sound.last():
            return revision
        batches = self.sound.segments()[name][1]
        hit = [b for b in batches if b.offset < end and b.offset + 64 + len(b.payload) > start]
        return hit[0].revision if hit and hit[-1] is batches[-1] else revision

    def judge(self, told: bool, earliest: int | None = None, mended: bool = False) -> str:
        """What an open makes of the directory: "refused", "exact", "damaged values" or "shorter".

        told: the damage must be noticed. earliest: the revision at which the log may end.
        mended: repair and the command line are tried too."""
        self.counts["damaged directories"] += 1
        least = self.sound.run.revision if earliest is None else earliest
        before = {p.name: p.read_bytes() for p in self.root.iterdir() if p.is_file()}
        try:
            db = kvcore.open(self.root, **OPTIONS)
        except REFUSALS as error:
            outcome = "refused"
            refusal(self.root, error)
        else:
            with db:
                outcome = self.opened(db, least)
                problems = db.check()
                assert problems or not told or outcome == "shorter", "not noticed"
                assert all(str(self.root) in problem for problem in problems)
                assert not (outcome == "damaged values") or problems
        if mended:
            self.put_back(before)
            self.command(outcome, told)
            self.put_back(before)
            self.repaired(least)
        self.counts[f"damaged directories, {outcome}"] += 1
        return outcome

    def put_back(self, files: dict[str, bytes]) -> None:
        for path in list(self.root.iterdir()):
            if path.is_file() and path.name not in files:
                path.unlink()
        for name, raw in files.items():
            self.path(name).write_bytes(raw)

    def opened(self, db: kvcore.Store, least: int) -> str:
        """A store that opened holds what was there; asserts it."""
        db._check()
        state = (db.revision, db.compact_revision)
        if state != self.sound.state[:2]:
            assert least <= db.revision < self.sound.run.revision
            assert {row[:2] for row in live_versions(db)} <= {
                (key, mod) for key, changes in self.sound.run.changes.items() for mod in changes}
            try:
                now = (*state, db.hash().hash)
                assert now in self.sound.states or now[0] < self.sound.tracked_from(), now
            except kvcore.CorruptError:
                self.values(db)
            return "shorter"
        assert live_versions(db) == self.sound.versions
        try:
            assert db.hash().hash == self.sound.state[2]
            return "exact"
        except kvcore.CorruptError:
            return self.values(db)

    def values(self, db: kvcore.Store) -> str:
        """Every value is right, or its read says which file, and where in it."""
        damaged = 0
        for key, mod, *_, position in self.sound.versions:
            if mod > db.revision:
                continue
            try:
                found = db.get(key, revision=max(mod, db.compact_revision))
                assert found is not None and found.mod_revision == mod
                assert found.value == self.sound.run.changes[key][mod]
            except kvcore.CorruptError as error:
                refusal(self.root, error)
                assert error.path.endswith(f"wal-{position // SIZE:016d}.seg")
                assert error.offset == position % SIZE
                damaged += 1
        assert damaged, "the hash does not agree, and no value says why"
        return "damaged values"

    def command(self, outcome: str, told: bool) -> None:
        """`kvcore check`: 0 sound, 1 damaged, 3 cannot be opened."""
        code = main(["check", str(self.root)])
        if told and outcome != "shorter":
            assert code in (1, 3)
        assert code != 0 or outcome != "refused"

    def repaired(self, least: int) -> RepairResult | None:
        """What repair saves is true, and what it does not it names."""
        shutil.rmtree(self.into, ignore_errors=True)
        before = {p.name: p.read_bytes() for p in self.root.iterdir() if p.is_file()}
        try:
            result = repair(self.root, self.into)
        except kvcore.NewerFormatError:
            return None
        assert {p.name: p.read_bytes() for p in self.root.iterdir() if p.is_file()} == before
        with kvcore.open(self.into, **OPTIONS) as db:
            if least < self.sound.run.revision:          # nothing may be left of the end
                result.lost_revisions.append(
                    LostRevisions(least + 1, self.sound.run.revision, "the end"))
            held_against(self.sound.run, result, db)
            assert db.revision >= least
        self.counts["damaged directories repaired"] += 1
        return result


def refusal(root: Path, error: Exception) -> None:
    """It names the file, the place in it, and what to do."""
    text = str(error)
    assert str(root) in text, text
    if isinstance(error, kvcore.CorruptError):
        assert error.path.startswith(str(root)) and error.offset >= 0, text
        assert f"{error.path} at offset {error.offset}: {error.reason}" in text
        assert "restore a backup" in text and "kvcore check --repair" in text
