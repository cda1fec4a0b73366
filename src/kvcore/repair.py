# SPDX-License-Identifier: Apache-2.0
"""Repair: all that can be saved of a damaged directory, written into a new one.

    DIR (only read) ─► checkpoint that proves itself, or none ─► every batch that proves itself
        ─► versions whose values prove themselves ─► NEWDIR: checkpoint, their segments, a seal
        └► RepairResult: what was damaged, revisions lost, values lost

What is kept is as it was: revisions, versions, leases, hash. What is not:
- a damaged value is left out; its key shows its newest older version that is readable, if there is
  one, else it is gone. (Better an old value that is named than none: the list says which.)
- revisions in a damaged stretch of the log are lost; changes behind it are kept where what they did
  does not depend on it (_salvage says when that is known).
- of a key whose earlier life was lost, create_revision and version count from what is left.
- the new store's revision is never below one that was shown: where the end of the log is damaged,
  as many revisions are passed over as could have been there.

Invariants: read-only - nothing in DIR is changed; whole-or-absent - NEWDIR gets its name when it
has been opened and checked.
Thread safety: one repair at a time of a directory, which nobody has open.
May not know: the command line.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kvcore._directory import segment_path, segments, synced_mark
from kvcore._files import sync_dir
from kvcore._native import crc32c
from kvcore._parts import sound_parts
from kvcore._salvage import BatchHead, Salvage
from kvcore.backup import NewDirectory, Proof, add_image, refuse_existing, seal_off
from kvcore.errors import CorruptError, LockedError, NewerFormatError

__all__ = ["LostRevisions", "LostValue", "RepairResult", "repair"]

HEADER = 64
COMMANDS, SEAL, CEILING, MOVES = 1, 2, 3, 4
DEFAULT_SEGMENT_BYTES = 64 << 20
SMALLEST_CHANGE = 3          # bytes of a command: the end of a lease with a small id
FOREVER = 1 << 62
MOST_MISSING = 1 << 20       # segments between two

_BATCH = struct.Struct("<4sIQQQQQqII")


@dataclass(frozen=True, slots=True)
class LostRevisions:
    """Changes that could not be saved; `last` < `first`: log entries that changed no key."""

    first: int
    last: int
    why: str


@dataclass(frozen=True, slots=True)
class LostValue:
    """A version whose value is damaged."""

    key: bytes
    mod_revision: int
    shows: int
    """The mod_revision that the key shows instead; 0: the key is gone."""


@dataclass(slots=True)
class RepairResult:
    """What a repair saved, and what it could not."""

    path: str = ""
    """The new directory; "" when it was only asked for what could be saved."""
    revision: int = 1
    keys: int = 0
    versions: int = 0
    problems: list[str] = field(default_factory=list)
    """Damage that was met, a line each."""
    lost_revisions: list[LostRevisions] = field(default_factory=list)
    lost_values: list[LostValue] = field(default_factory=list)


def repair(path: str | os.PathLike[str], into: str | os.PathLike[str] | None = None, *,
           progress: Callable[[int], None] | None = None) -> RepairResult:
    """Save what can be saved of a damaged directory into a new one.

    Args: path: a directory that nobody has open; it is only read. into: must be missing or an
    empty directory; None: nothing is written, the result says what would be. progress: called
    with the number of versions read since the last call.
    Returns: RepairResult. Errors: LockedError, NewerFormatError, StorageError, OSError.
    Cost: reads the log once or twice and every value; writes the live segments.

    >>> import kvcore, os, tempfile
    >>> from kvcore.repair import repair
    >>> with tempfile.TemporaryDirectory() as there:
    ...     with kvcore.open(there) as db:
    ...         _ = db.put(b"/a", b"1")
    ...     found = repair(there)
    >>> found.keys, found.problems, found.lost_values
    (1, [], [])
    """
    source = os.fspath(path)
    if into is not None:
        refuse_existing(os.fspath(into))
    with _held(source):
        work = _Repair(source)
        work.read()
        result = work.sift(progress)
        if into is not None:
            work.write(os.fspath(into), result)
        return result


@contextmanager
def _held(directory: str) -> Iterator[None]:
    """Keeps others from opening the directory, without writing into it."""
    try:
        descriptor = os.open(os.path.join(directory, "LOCK"),
                             os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        yield                                # never opened, or copied without it
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(f"kvcore: {directory} is in use by another process") from error
        yield
    finally:
        os.close(descriptor)


class _Repair:
    """One directory, from its files to what is saved of it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.problems: list[str] = []
        self.files = {seq: file for seq, file in segments(path).items() if self._legible(file)}
        names = sorted(os.listdir(path), reverse=True)
        self.checkpoints = [file for name in names
                            if re.fullmatch(r"checkpoint-[0-9a-f]{16}\.ckp", name)
                            and self._legible(file := os.path.join(path, name))]
        self.synced = synced_mark(path)
        self.ended = False                   # the end of the log was met
        self._check_format()
        self.size = self._segment_bytes()
        self.salvage = Salvage(self.size)
        self.mapped: set[int] = set()

    def _problem(self, path: str, offset: int, reason: str) -> None:
        self.problems.append(f"{path} at offset {offset}: {reason}")

    def _legible(self, path: str) -> bool:
        """Whether it is a file that can be opened; else it is a problem, and as good as missing."""
        legible = os.path.isfile(path) and os.access(path, os.R_OK)
        if not legible:
            self._problem(path, 0, "not a file that can be read")
        return legible

    def _check_format(self) -> None:
        path = os.path.join(self.path, "FORMAT")
        line = []
        if os.path.isfile(path):
            with open(path, "rb") as file:
                line = file.read(64).split()
        if len(line) != 2 or line[0] != b"kvcore" or not line[1].isdigit():
            self._problem(path, 0, "not a kvcore FORMAT file, or missing")
        elif int(line[1]) > 1:
            raise NewerFormatError(f"{NewerFormatError.message} ({path}: {int(line[1])})")

    def _segment_bytes(self) -> int:
        """What a whole header says; else the longest file, which is a segment in full."""
        longest = 0
        for path in [*self.files.values(), *self.checkpoints]:
            with open(path, "rb") as file:
                raw = file.read(128)
            longest = max(longest, os.path.getsize(path) if path in self.files.values() else 0)
            size, upto = (24, 64) if raw[:8] == b"KVCSEG01" else (16, 128)
            if (raw[:8] in (b"KVCSEG01", b"KVCCKP01") and len(raw) >= upto
                    and crc32c(raw[12:upto]) == int.from_bytes(raw[8:12], "little")):
                return int.from_bytes(raw[size : size + 8], "little")
        rounded = 1 << max(longest - 1, 1).bit_length()
        return min(max(rounded, 64 << 10), 1 << 30) if longest else DEFAULT_SEGMENT_BYTES

    # --- reading: checkpoint, segments, batches ---------------------------------------------

    def read(self) -> None:
        """Everything that proves itself, into the index."""
        from_pos, listed = self._load()
        first = (from_pos - 1) // self.size if from_pos else min(self.files, default=1)
        needed = {seq for seq, entry in listed.items() if entry[2]}
        if from_pos:
            needed.add(first)
        for seq in sorted(needed | {seq for seq in self.files if seq >= first}):
            self._map(seq, seq >= first, listed.get(seq))
        used = [seq for seq in self.mapped if seq >= first
                and (self.salvage.batch(seq, HEADER) or self.salvage.find(seq, HEADER))]
        last = max(used, default=first)
        for seq in range(first, last + 1):
            if seq not in self.mapped:
                if seq not in needed and seq not in self.files:
                    self._problem(segment_path(self.path, seq), 0, "the segment is missing")
                continue
            start = from_pos - seq * self.size if seq == first and from_pos else HEADER
            self._walk(seq, max(start, HEADER), last)
        if not self.ended:
            self._end(last, HEADER)

    def _load(self) -> tuple[int, dict[int, tuple[int, int, int]]]:
        for path in self.checkpoints:
            try:
                loaded = self.salvage.load(path)
            except CorruptError as error:
                self._problem(path, error.offset, error.reason)
                continue
            if self._is_of_this_log(loaded[1]):
                return loaded
            self._problem(path, 0, "names none of the segments that are here: another store's")
            self.salvage = Salvage(self.size)
        if self.files and min(self.files) == 1 and self._whole():
            return 0, {}                     # the log has everything from the beginning
        found = []
        for path in self.checkpoints:
            with open(path, "rb") as file:
                parts = sound_parts(file.read())
            if parts is not None:
                found.append((path, *parts))
        if not found:
            return 0, {}
        # the one that misses least; of equals the newest, which is the first
        return self._load_parts(*min(found, key=lambda parts: len(parts[3])))

    def _is_of_this_log(self, listed: dict[int, tuple[int, int, int]]) -> bool:
        """Whether one of the segments that a checkpoint names is here, or nothing speaks of any."""
        seen = []
        for seq in listed.keys() & self.files.keys():
            with open(self.files[seq], "rb") as file:
                raw = file.read(HEADER)
            if len(raw) == HEADER and crc32c(raw[12:]) == int.from_bytes(raw[8:12], "little"):
                seen.append(struct.unpack_from("<QI", raw, 32) == listed[seq][:2])
        return any(seen) or not seen

    def _whole(self) -> bool:
        return len(self.files) == max(self.files)

    def _load_parts(self, path: str, raw: bytes, revision: int,
                    lost: list[str]) -> tuple[int, dict[int, tuple[int, int, int]]]:
        """What is whole of a damaged checkpoint, as one of its own."""
        with tempfile.TemporaryDirectory() as there:
            name = os.path.join(there, os.path.basename(path))
            with open(name, "wb") as file:
                file.write(raw)
            loaded = self.salvage.load(name)
        self._problem(path, HEADER, "used nevertheless, without its damaged parts")
        for why in lost:
            self.salvage.doubt(2, revision, why)
        return loaded

    def _map(self, seq: int, replayed: bool, listed: tuple[int, int, int] | None) -> None:
        path = self.files.get(seq) or segment_path(self.path, seq)
        if seq > max(self.mapped, default=seq) + MOST_MISSING:
            self._problem(path, 0, "its number is far from all others: left out")
            return
        header = self.salvage.add_segment(seq, path) if seq in self.files else None
        if header is None:
            self._problem(path, 0, "the segment is missing" if seq not in self.files
                          else "the segment is empty")
            return
        self.mapped.add(seq)
        nonce, seed, size = header
        if nonce and size == self.size:
            self.salvage.identify(seq, nonce, seed)
            if listed and listed[:2] != (nonce, seed):
                self._problem(path, 32, "not the segment that the checkpoint names")
            return
        if listed:
            self.salvage.identify(seq, *listed[:2])
        known = bool(listed) or not replayed or self._identify(seq)
        if known or self.salvage.left_behind(seq, HEADER):
            self._problem(path, 0, "the segment's header is damaged"
                          + ("" if known else ", and nothing proves what it was"))

    def _identify(self, seq: int) -> bool:
        """Nonce and seed of a segment without a header: from what is left of it, or from two
        batches that agree on the seed their checksums began with."""
        raw = self.salvage.bytes_at(seq, 0, self.size)
        nonce, seed = struct.unpack_from("<QI", raw, 32)
        if nonce and self._proves(seq, nonce, seed):
            return True
        seen: set[tuple[int, int]] = set()
        at = raw.find(b"KVB1", HEADER)
        while at >= 0:
            if at % HEADER == 0 and at + HEADER <= len(raw):
                _, crc, nonce, pos, *_, length, _ = _BATCH.unpack_from(raw, at)
                if pos == seq * self.size + at and at + HEADER + length <= len(raw):
                    pair = (nonce, _begun_at(crc, raw[at + 8 : at + HEADER + length]))
                    if pair in seen:
                        return self._proves(seq, *pair)
                    seen.add(pair)
            at = raw.find(b"KVB1", at + 1)
        return False

    def _proves(self, seq: int, nonce: int, seed: int) -> bool:
        self.salvage.identify(seq, nonce, seed)
        return bool(self.salvage.batch(seq, HEADER) or self.salvage.find(seq, HEADER))

    def _end_of(self, seq: int) -> int:
        """Where the next segment says that this one ends."""
        following = self.salvage.batch(seq + 1, HEADER)
        if following is None:
            return FOREVER
        end = following.durable_upto - seq * self.size
        return end if HEADER <= end <= self.size else FOREVER

    def _walk(self, seq: int, off: int, last: int) -> None:
        """Every valid batch of one segment, over damage."""
        end = self._end_of(seq) if seq < last else FOREVER
        path = segment_path(self.path, seq)
        while off < end:
            head = self.salvage.batch(seq, off)
            if head is not None:
                if not self.salvage.replay(seq, off, self._following(seq, head, end)):
                    self._problem(path, off, "the batch contradicts what is known, and is left "
                                             "out")
                off = head.end
                continue
            behind = self.salvage.find(seq, off, proof=seq == last)
            if behind:
                behind = self.salvage.find(seq, off)
            if not behind or behind >= end:
                self._tail(seq, off, end, seq == last)
                return
            self._problem(path, off, f"no valid batch up to offset {behind}")
            off = behind

    def _tail(self, seq: int, off: int, end: int, is_last: bool) -> None:
        """Behind the last valid batch: damage, or a write that a crash tore."""
        if is_last:
            self._end(seq, off)
        elif end != FOREVER or self.salvage.left_behind(seq, off):
            self._problem(segment_path(self.path, seq), off, "no valid batch from here on"
                          if end == FOREVER else f"no valid batch up to the segment's end at {end}")

    def _end(self, seq: int, off: int) -> None:
        """What may have been behind the last valid batch of all."""
        path, self.ended = segment_path(self.path, seq), True
        left = self.salvage.left_behind(seq, off)
        gone = self.synced - seq * self.size - off
        seal = self.salvage.batch(seq, off - HEADER)
        cut = (self.size - os.path.getsize(path)
               if seq in self.files and (seal is None or seal.kind != SEAL) else 0)
        if gone > 0:
            self._problem(path, off, "the log ends here, but LOCK says that all up to position "
                                     f"{self.synced:#x} was synced")
        elif left or cut:
            self._problem(path, off, "the file is cut short" if cut else f"{left} bytes behind the "
                          "last valid batch: torn by a crash, or damaged")
        if max(left, gone, cut) > 0 and not (gone == HEADER >= left):      # that is a seal
            self.salvage.lose(max(left, gone, cut) // SMALLEST_CHANGE + 1,
                              "may have been at the damaged end of the log")

    def _following(self, seq: int, head: BatchHead, end: int) -> int:
        """The revision behind a batch, if the one behind it says so; else -1."""
        at = head.end
        index = head.first_index + head.count
        while True:
            if at >= end:
                seq, at, end = seq + 1, HEADER, FOREVER
            behind = self.salvage.batch(seq, at)
            if behind is None or behind.first_index != index:
                return -1
            if behind.kind in (COMMANDS, MOVES):
                return behind.revision
            if behind.kind == SEAL:
                return behind.revision if behind.revision <= head.revision + head.count else -1
            at = behind.end

    # --- writing ----------------------------------------------------------------------------

    def sift(self, progress: Callable[[int], None] | None) -> RepairResult:
        """Leaves out what is not readable; what there is, and what there is not."""
        damaged = self.salvage.sift(progress)
        keys, versions, _ = self.salvage.counts()
        return RepairResult(
            revision=max(self.salvage.revision, self.salvage.ceiling), keys=keys,
            versions=versions, problems=self.problems,
            lost_revisions=[LostRevisions(*note) for note in self.salvage.notes],
            lost_values=[LostValue(key, mod, shows) for key, mod, _, shows in damaged])

    def write(self, into: str, result: RepairResult) -> None:
        """The new directory, which is opened and checked before it gets its name."""
        with NewDirectory(None, into) as out:
            numbers, table, ends = self.salvage.write(out.part)
            seal_off(out, add_image(out, numbers, table, ends, self.salvage.write_segment))
            sync_dir(None, out.part)
            with Proof(out.part) as proof:
                if (proof.revision, proof.keys) != (result.revision, result.keys) or proof.bad():
                    raise CorruptError(path=out.part, offset=0,
                                       reason="what was written cannot be read back")
            out.finish(lambda: None)
            result.path = out.path


# --- seeds --------------------------------------------------------------------------------------

def _make_table() -> tuple[list[int], list[int]]:
    table, back = [], [0] * 256
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
        back[crc >> 24] = byte
    return table, back


_TABLE, _BACK = _make_table()


def _begun_at(crc: int, data: bytes) -> int:
    """The start value with which the CRC-32C of `data` comes out as `crc`."""
    state = crc ^ 0xFFFFFFFF
    for byte in reversed(data):
        index = _BACK[state >> 24]
        state = ((state ^ _TABLE[index]) << 8 & 0xFFFFFFFF) | index ^ byte
    return state ^ 0xFFFFFFFF
