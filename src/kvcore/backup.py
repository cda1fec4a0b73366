# SPDX-License-Identifier: Apache-2.0
"""Backups: a store's state at one revision as a directory that opens, made while writing goes on.

    TARGET.partial-x/                                                TARGET/
        checkpoint-n.ckp    copied: the index at revision r              │
        wal-5.seg           linked: closed, never written again          │
        wal-9.seg           copied up to where the checkpoint ends       ├─ rename, when all is
        wal-10.seg          a seal: the log ends here, at revision r     │  synced
        FORMAT  MANIFEST    names, bytes and CRC-32C of all that         │

Invariants: one-revision - a backup opens at exactly the checkpoint's revision; whole-or-absent -
TARGET is there only when everything in it is durable; source-apart - nothing the source does later
changes bytes that the manifest counts. The last holds since a linked file is closed (segments
behind it are in use), so that: zeros and batches go to later files; a retired file that has
another name is unlinked, not written again; the cut of a torn end takes the last segment in use,
which is copied, never linked - and even of a linked one it could only take what lies behind its
last batch, which the manifest does not count.
A Pin, taken before the checkpoint, keeps every file it names under its name while it is copied.
No lock is held over I/O, but in memory, where background work waits for the index to be written.
Thread safety: every function. May not know: the command line, Store.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kvcore._directory import segment_path
from kvcore._engine import Engine
from kvcore._files import copy_file, rename, sync_dir, write_file
from kvcore._image import segment_ends, store_io, take_pin, write_checkpoint, write_segment
from kvcore._native import Io, crc32c
from kvcore._version import __version__
from kvcore.errors import CorruptError, NewerFormatError, StorageError

__all__ = ["BackupResult", "RestoreResult", "backup", "restore"]

ANOTHER = "use another backup"

FORMAT, VERSION = "kvcore backup", 1
MANIFEST = "MANIFEST"
# No hard links here, or not to these files: they are copied.
NO_LINK = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EACCES}

Progress = Callable[[int, int], None]

_CK_HEADER = struct.Struct("<8sII14Q")       # magic, CRC, format, then what docs/log-format.md says
_CK_SEGMENT = struct.Struct("<QQIIQQ")
_SEGMENT = struct.Struct("<8sIIQQQI20x")
_BATCH = struct.Struct("<4sIQQQQQqII")
_HEADER_BYTES = 64
_SEAL = 2


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What `Store.backup` made."""

    path: str
    revision: int
    """The revision that it holds."""
    bytes: int
    """Of all files, as far as they matter."""
    linked_bytes: int
    """Of these, shared with the store's own files."""
    files: int


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What `kvcore.restore` made."""

    path: str
    revision: int
    keys: int
    bytes: int


# --- what is written --------------------------------------------------------------------------

def segment_header(seq: int, segment_bytes: int, nonce: int, seed: int) -> bytes:
    """The 64 bytes at the beginning of a segment."""
    raw = _SEGMENT.pack(b"KVCSEG01", 0, 1, seq, segment_bytes, nonce, seed)
    return raw[:8] + struct.pack("<I", crc32c(raw[12:])) + raw[12:]


def sealed_segment(numbers: dict[str, int]) -> bytes:
    """Segment `seal`, which only says that the log ended at replay_from, cleanly."""
    size, end, seq = (numbers[name] for name in ("segment_bytes", "replay_from", "seal"))
    nonce, seed = secrets.randbits(63) + 1, secrets.randbits(32)
    batch = _BATCH.pack(b"KVB1", 0, nonce, seq * size + _HEADER_BYTES, end,
                        numbers["applied_index"] + 1, numbers["term"], numbers["revision"],
                        0, _SEAL << 24)
    batch = batch[:4] + struct.pack("<I", crc32c(batch[8:], seed)) + batch[8:]
    return segment_header(seq, size, nonce, seed) + batch


def seal_off(out: NewDirectory, numbers: dict[str, int]) -> None:
    """The last files of a directory that shall open."""
    out.write(os.path.basename(segment_path("", numbers["seal"])), sealed_segment(numbers))
    out.write("FORMAT", b"kvcore 1\n")


class NewDirectory:
    """A directory that has another name until all in it is durable; removed when anything fails.

    Errors on entering: StorageError when `path` is there and not an empty directory.
    """

    def __init__(self, io: Io | None, path: str, progress: Progress | None = None) -> None:
        self.io = io
        self.path = os.path.abspath(path)
        self.part = f"{self.path}.partial-{secrets.token_hex(4)}"
        self.files: list[dict[str, Any]] = []
        self.bytes = self.linked_bytes = 0
        self.total = self._read = 0
        self._progress = progress
        self._spare = -1                     # a descriptor, so that one is left to clean up with

    def __enter__(self) -> NewDirectory:
        refuse_existing(self.path)
        self._spare = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.mkdir(self.part)
        except BaseException:                # Ctrl-C: it may be there all the same
            os.close(self._spare)
            if os.path.isdir(self.part):
                os.rmdir(self.part)
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        os.close(self._spare)
        if error is not None and os.path.isdir(self.part):
            _remove(self.part)

    def name(self, path: str) -> str:
        """Where a file goes that has the name of `path`."""
        return os.path.join(self.part, os.path.basename(path))

    def add(self, name: str, size: int, crc: int, linked: bool = False) -> None:
        """Counts a file that is there."""
        self.files.append({"name": name, "bytes": size, "crc32c": f"{crc:08x}"})
        self.bytes += size
        self.linked_bytes += size if linked else 0

    def write(self, name: str, data: bytes) -> None:
        """A small file."""
        write_file(self.io, os.path.join(self.part, name), data)
        self.add(name, len(data), crc32c(data))

    def copy(self, source: str, size: int, link: bool = False) -> int:
        """The first `size` bytes of a file, or the file itself; their CRC."""
        target = self.name(source)
        linked = link and _link(source, target)
        crc = copy_file(self.io, source, None if linked else target, size, self.step())
        self.add(os.path.basename(source), size, crc, linked)
        return crc

    def checked(self, count: int) -> None:
        """So many bytes were read that are not in the new directory."""
        self._read += count

    def step(self) -> Callable[[int], None] | None:
        done, tell = self._read + self.bytes, self._progress
        if tell is None:
            return None

        def step(count: int) -> None:
            nonlocal done
            done += count
            tell(done, max(done, self.total))

        return step

    def finish(self, still: Callable[[], object]) -> None:
        """Syncs, asks `still` whether it may be (it raises if not), and gives the name."""
        sync_dir(self.io, self.part)
        still()
        rename(self.io, self.part, self.path)
        try:
            sync_dir(self.io, os.path.dirname(self.path))
        except BaseException:
            _remove(self.path)
            raise


def _remove(directory: str) -> None:
    """A directory without others in it; rmtree would take several descriptors."""
    for name in os.listdir(directory):
        os.unlink(os.path.join(directory, name))
    os.rmdir(directory)


def _link(source: str, target: str) -> bool:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        return False
    return True


def refuse_existing(path: str) -> None:
    """StorageError unless there is nothing at `path`, or an empty directory."""
    if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise StorageError(f"kvcore: {path} is there already and not an empty directory",
                           errno=errno.EEXIST)


# --- backup -----------------------------------------------------------------------------------

def backup(engine: Engine, path: str | os.PathLike[str], *, link: bool = True,
           progress: Progress | None = None) -> BackupResult:
    """See Store.backup."""
    pin = take_pin(engine)                   # kept until the end: what it is for
    with NewDirectory(store_io(engine), os.fspath(path), progress) as out:
        numbers = _from_disk(engine, out, link) if engine.log_path else _from_memory(engine, out)
        seal_off(out, numbers)
        write_file(out.io, out.name(MANIFEST), _manifest(out, numbers))
        out.finish(lambda: engine.revision)  # closed: another process may own the files by now
        del pin
        return BackupResult(out.path, numbers["revision"], out.bytes, out.linked_bytes,
                            len(out.files) + 1)


def _from_disk(engine: Engine, out: NewDirectory, link: bool) -> dict[str, int]:
    numbers, table = _copy_checkpoint(engine, out)
    ends = segment_ends(engine)
    size, end = numbers["segment_bytes"], numbers["replay_from"]
    last = (end - 1) // size
    wanted = {seq: ends[seq] for seq, live in table.items() if live and seq < last}
    out.total = out.bytes + sum(wanted.values()) + end - last * size
    for seq, upto in wanted.items():
        out.copy(segment_path(engine.log_path, seq), upto, link)
    out.copy(segment_path(engine.log_path, last), end - last * size)
    return {**numbers, "seal": last + 1}


def _copy_checkpoint(engine: Engine, out: NewDirectory) -> tuple[dict[str, int], dict[int, int]]:
    """The newest checkpoint; one that is superseded before it is open is tried no further."""
    while True:
        number = engine.checkpoint()
        source = os.path.join(engine.log_path, f"checkpoint-{number:016x}.ckp")
        try:
            out.copy(source, os.path.getsize(source))
        except (StorageError, FileNotFoundError) as error:
            if error.errno != errno.ENOENT or engine.closed:
                raise
            continue
        return _read_checkpoint(out.name(source))


def _read_checkpoint(path: str) -> tuple[dict[str, int], dict[int, int]]:
    """Numbers of the header, and live bytes by segment."""
    with open(path, "rb") as file:
        words = _CK_HEADER.unpack(file.read(_CK_HEADER.size))[3:]
        numbers = dict(zip(("segment_bytes", "replay_from", "applied_index", "term", "revision"),
                           words, strict=False))
        count, table_off = words[10], words[11]
        file.seek(table_off + 8)
        table = file.read(count * _CK_SEGMENT.size)
    return numbers, {entry[0]: entry[4] for entry in _CK_SEGMENT.iter_unpack(table)}


def _from_memory(engine: Engine, out: NewDirectory) -> dict[str, int]:
    numbers, table = write_checkpoint(engine, out.part)
    ends = segment_ends(engine)
    return add_image(out, numbers, table, ends, lambda path, header, seq, upto: write_segment(
        engine, path, header, seq, upto))


def add_image(out: NewDirectory, numbers: dict[str, int],
              table: list[tuple[int, int, int, int]], ends: dict[int, int],
              write: Callable[[str, bytes, int, int], int]) -> dict[str, int]:
    """Counts a checkpoint that the core has written, and writes the segments that it names."""
    path = os.path.join(out.part, "checkpoint-0000000000000001.ckp")
    size = os.path.getsize(path)
    out.add(os.path.basename(path), size, copy_file(out.io, path, None, size))
    for seq, nonce, seed, live in table:
        if live:
            target = segment_path(out.part, seq)
            header = segment_header(seq, numbers["segment_bytes"], nonce, seed)
            out.add(os.path.basename(target), ends[seq], write(target, header, seq, ends[seq]))
    return {**numbers, "seal": numbers["replay_from"] // numbers["segment_bytes"]}


def _manifest(out: NewDirectory, numbers: dict[str, int]) -> bytes:
    fields = {"format": FORMAT, "version": VERSION, "kvcore": __version__,
              "revision": numbers["revision"], "segment_bytes": numbers["segment_bytes"],
              "files": out.files}
    return json.dumps({**fields, "crc32c": _crc_of(fields)}, indent=1).encode() + b"\n"


def _crc_of(fields: dict[str, Any]) -> str:
    return f"{crc32c(json.dumps(fields, sort_keys=True).encode()):08x}"


# --- restore ----------------------------------------------------------------------------------

def restore(backup: str | os.PathLike[str], path: str | os.PathLike[str], *,
            progress: Progress | None = None) -> RestoreResult:
    """Make a store's directory from a backup.

    Args: backup: a directory that Store.backup made; path: must be missing or an empty directory;
    progress: called with bytes done and bytes in all (each file is read twice).
    Returns: RestoreResult(path, revision, keys, bytes).
    Errors: CorruptError (the backup is damaged or none: nothing was made), StorageError, OSError.
    Cost: two reads and one write of the backup, and an open. Files are copied, never linked.

    >>> import kvcore, os, tempfile
    >>> with tempfile.TemporaryDirectory() as there:
    ...     with kvcore.open() as db:
    ...         _ = db.put(b"/a", b"1")
    ...         _ = db.backup(os.path.join(there, "backup"))
    ...     kvcore.restore(os.path.join(there, "backup"), os.path.join(there, "store")).keys
    1
    """
    source = os.fspath(backup)
    fields = _read_manifest(source)
    refuse_existing(os.fspath(path))
    with NewDirectory(None, os.fspath(path), progress) as out:
        out.total = 2 * sum(entry["bytes"] for entry in fields["files"])
        for entry in fields["files"]:
            _verified(out, source, entry)
        for entry in fields["files"]:
            if out.copy(os.path.join(source, entry["name"]), entry["bytes"]) != _crc(entry):
                raise _changed(source, entry)
        sync_dir(None, out.part)
        with Proof(out.part) as proof:
            if proof.revision != fields["revision"]:
                raise CorruptError(path=os.path.join(source, MANIFEST), offset=0,
                                   reason=f"says revision {fields['revision']}, but the backup "
                                          f"opens at {proof.revision}", remedy=ANOTHER)
        out.finish(lambda: None)
        return RestoreResult(out.path, proof.revision, proof.keys, out.bytes)


class Proof:
    """Opens a directory once, and closes it: its revision and number of keys."""

    def __init__(self, path: str) -> None:
        self._engine = Engine(path, maintenance=False, replay_target=0.0)
        try:
            stats = self._engine._stats()
        except BaseException:
            self._engine.close()
            raise
        self.revision, self.keys = int(stats["revision"]), int(stats["keys"])

    def bad(self) -> bool:
        """Whether anything in it is unsound; reads everything."""
        return self._engine._check_index() is not None or bool(self._engine._damaged_values())

    def __enter__(self) -> Proof:
        return self

    def __exit__(self, *error: object) -> None:
        self._engine.close()


def _crc(entry: dict[str, Any]) -> int:
    return int(entry["crc32c"], 16)


def _changed(source: str, entry: dict[str, Any]) -> CorruptError:
    return CorruptError(path=os.path.join(source, entry["name"]), offset=0,
                        reason="the file is not as the backup's manifest says", remedy=ANOTHER)


def _verified(out: NewDirectory, source: str, entry: dict[str, Any]) -> None:
    name = os.path.join(source, entry["name"])
    try:
        if os.path.getsize(name) >= entry["bytes"]:
            crc = copy_file(None, name, None, entry["bytes"], out.step())
            out.checked(entry["bytes"])
            if crc == _crc(entry):
                return
    except FileNotFoundError as error:
        raise CorruptError(path=name, offset=0, reason="the file is missing",
                           remedy=ANOTHER) from error
    raise _changed(source, entry)


def _read_manifest(source: str) -> dict[str, Any]:
    path = os.path.join(source, MANIFEST)
    try:
        with open(path, "rb") as file:
            fields = json.loads(file.read())
        crc = fields.pop("crc32c")
        files = fields["files"]
    except FileNotFoundError as error:
        raise CorruptError(path=path, offset=0,
                           reason="there is no manifest: not a backup, or not a whole one",
                           remedy=ANOTHER) from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CorruptError(path=path, offset=0, reason=f"not a manifest: {error}",
                           remedy=ANOTHER) from error
    if fields.get("format") == FORMAT and fields.get("version", 0) > VERSION:
        raise NewerFormatError(f"{NewerFormatError.message} ({path})")
    if crc != _crc_of(fields) or not files:
        raise CorruptError(path=path, offset=0, reason="the manifest fails its checksum",
                           remedy=ANOTHER)
    return dict(fields)
