# SPDX-License-Identifier: Apache-2.0
"""Directories written by who knows the format: every checksum right, what it says impossible.

A log of one segment, its last batch forged ─► open ─► refused with file and offset, or accepted;
what is accepted is sound, and the same after another open.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_bytes as cb
import pytest
from corruption import OPTIONS, SIZE, Bench, Sound, refusal, rich, small

import kvcore
from kvcore._native import crc32c
from kvcore.repair import repair

BIG = 1 << 63


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return small(tmp_path_factory.mktemp("sound") / "db", False)


@pytest.fixture
def bench(ram_dir: Path, sound: Sound, counts: Counter[str]) -> Bench:
    return Bench(ram_dir, sound, counts)


def forge(bench: Bench, payload: bytes, **fields: Any) -> None:
    """One more batch behind the last."""
    name = bench.sound.last()
    segment, batches = bench.sound.segments()[name]
    index = max(b.first_index + b.count * (b.kind == 1) for b in batches)
    said = {"first_index": index, "revision": bench.sound.run.revision, **fields}
    raw = bytearray(bench.sound.files[name])
    made = cb.batch(segment, batches[-1].end, payload, **said)
    raw[batches[-1].end : batches[-1].end + len(made)] = made
    bench.path(name).write_bytes(raw)
    bench.counts["damaged directories"] += 1


def is_refused(bench: Bench) -> None:
    """With the place of the forged batch; repair saves what is in front of it."""
    name = bench.sound.last()
    with pytest.raises(kvcore.CorruptError) as caught:
        kvcore.open(bench.root, **OPTIONS)
    refusal(bench.root, caught.value)
    assert caught.value.offset == bench.sound.segments()[name][1][-1].end
    result = repair(bench.root, bench.into)
    assert result.problems or result.lost_revisions
    with kvcore.open(bench.into, **OPTIONS) as db:
        assert db.check() == []
        for key, mod, *_ in bench.sound.versions:
            kv = db.get(key, revision=max(mod, db.compact_revision))
            assert kv is None or kv.value == bench.sound.run.changes[key][kv.mod_revision]
        assert {row[:2] for row in bench.sound.versions} <= {row[:2] for row in db._versions()}


def is_sound(bench: Bench) -> None:
    """It opens, is sound, and is the same when it is opened again."""
    with kvcore.open(bench.root, **OPTIONS) as db:
        db._check()
        state = db.revision, db.hash()
    with kvcore.open(bench.root, **OPTIONS) as db:
        assert (db.revision, db.hash()) == state
        db.disarm()
        assert db.put(b"behind", b"1").revision == state[0] + 1


DEEP = b"\x94\x03\x90\x91" * 200 + b"\x94\x03\x90\x90\x90" + b"\x90" * 200
NONSENSE: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
    "no array": cb.pack(5),
    "an empty array": cb.pack([]),
    "no kind": cb.pack([None]),
    "unknown kind": cb.pack([77, 1]),
    "negative kind": cb.pack([-1, 1]),
    "huge kind": cb.pack([BIG - 1]),
    "a put that ends early": cb.put(b"k", b"value")[:-2],
    "a put with bytes behind": cb.put(b"k", b"value") + b"\0",
    "two for one": cb.put(b"k") * 2,
    "a put of nothing": cb.put(b""),
    "a put without a value": cb.pack([1, 0, 0, 0, b"k", None]),
    "a put without a cell": cb.pack([1, 0, 0, 0, b"k", b"v"]),
    "a put of too few": b"\x95" + cb.put(b"k", b"v")[1:],
    "a put of unknown flags": cb.put(b"k", b"v", flags=64),
    "a key of 32 bits": b"\x96\1\0\0\xce\0\0\0\0\xc6\0\1\0\0" + b"k" * 65536 + b"\xc6\0\0\0\0",
    "a key behind the end": b"\x96\1\0\0\xce\0\0\0\0\xc5\xff\xff" + b"k",
    "a value behind the end": b"\x96\1\0\0\xce\0\0\0\0\xc5\0\1k\xc6\xff\xff\xff\xffv",
    "a cell whose checksum is wrong": cb.put(b"k", b"v").replace(b"\xce", b"\xce\1", 1)[:-1],
    "a delete of nothing": cb.pack([2, 0, b"", None]),
    "a delete of a number": cb.pack([2, 0, 5, None]),
    "a delete to a number": cb.pack([2, 0, b"k", 7]),
    "a compare of what is not": cb.pack([3, [[9, 0, 1, b"k", None]], [], []]),
    "a compare with what is not": cb.pack([3, [[0, 9, 1, b"k", None]], [], []]),
    "a compare of four": cb.pack([3, [[0, 0, 1, b"k"]], [], []]),
    "a value compared with a number": cb.pack([3, [[3, 0, 1, b"k", None]], [], []]),
    "a compaction in a transaction": cb.pack([3, [], [[4, 3]], []]),
    "a lease in a transaction": cb.pack([3, [], [[6, 9, 60]], []]),
    "a transaction of three": cb.pack([3, [], []]),
    "branches that are numbers": cb.pack([3, 1, 2, 3]),
    "nested too deep": DEEP,
    "an array that never ends": b"\x94\x03\x90\xdc\xff\xff",
    "a compaction of bytes": cb.pack([4, b"3"]),
    "a lease without an end": cb.pack([6, 9]),
    "a lease of minus one second": cb.pack([6, 9, -1]),
    "a lease for ever": cb.pack([6, 9, BIG - 1]),
    "lease number nothing": cb.pack([6, 0, 60]),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_with_the_right_checksum(bench: Bench, name: str) -> None:
    forge(bench, NONSENSE[name])
    is_refused(bench)


@pytest.mark.parametrize("fields", [
    {"count": 0}, {"count": 2}, {"count": 0xFFFFFF}, {"first_index": 0}, {"first_index": 1},
    {"first_index": 2**64 - 1}, {"revision": 0}, {"revision": 1}, {"revision": -1},
    {"revision": BIG - 1}, {"revision": -BIG},
], ids=str)
def test_headers_that_contradict(bench: Bench, fields: dict[str, int]) -> None:
    forge(bench, cb.put(b"k", b"v"), **fields)
    is_refused(bench)


@pytest.mark.parametrize("kind", [2, 3])
@pytest.mark.parametrize("revision", [-1, -BIG, BIG - 1, 1 << 62])
def test_seals_and_ceilings_beyond_all_revisions(bench: Bench, kind: int, revision: int) -> None:
    """The next revision would be none."""
    forge(bench, b"", kind=kind, count=0, revision=revision)
    is_refused(bench)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, SIZE, SIZE - 64, 0xFFFFFFC0])
def test_absurd_lengths(bench: Bench, length: int) -> None:
    """Longer than the file: as no batch at all, which is the end of a killed log."""
    forge(bench, cb.put(b"k", b"v"), length=length)
    is_sound(bench)


@pytest.mark.parametrize("kind", [0, 5, 6, 99, 255])
def test_unknown_kinds_of_batches(bench: Bench, kind: int) -> None:
    """Marks are passed over; what is not known says that something newer wrote it."""
    forge(bench, b"whatever", kind=kind, count=0)
    if kind == 5:
        is_sound(bench)
    else:
        is_refused(bench)


def moved(old: int, mod: int, sub: int, cell: bytes, length: int | None = None) -> bytes:
    return struct.pack("<QqII", old, mod, sub, len(cell) if length is None else length) + cell


@pytest.mark.parametrize("payload", [
    b"x", moved(0, 2, 0, b"", 5), moved(0, 2, 0, b"no cell"),
    moved(0, 2, 0, cb.cell(b"a", b"first").data, 7),
    moved(0, 2, 0, cb.cell(b"a", b"first").data, 0xFFFFFFFF),
], ids=repr)
def test_moves_that_are_none(bench: Bench, payload: bytes) -> None:
    forge(bench, payload, kind=4)
    is_refused(bench)


@pytest.mark.parametrize("payload", [
    moved(0, 2, 0, cb.cell(b"a", b"x").data), moved(1 << 63, 2, 0, cb.cell(b"nobody", b"").data),
    moved(5, -9, 0xFFFFFFFF, cb.cell(b"a", b"").data),
], ids=repr)
def test_moves_of_what_lies_elsewhere(bench: Bench, payload: bytes) -> None:
    """Passed over, as the format says."""
    forge(bench, payload, kind=4)
    is_sound(bench)
    with kvcore.open(bench.root, **OPTIONS) as db:
        assert db.check() == []


@pytest.mark.parametrize("payload", [
    cb.put(b"k", b"v"), cb.put(b"k", lease=99), cb.put(b"missing", flags=2), cb.pack([4, 3]),
    cb.pack([4, BIG - 1]), cb.pack([4, -5]), cb.pack([6, 5, 60]), cb.pack([7, 99]), cb.pack([8, 1]),
    cb.pack([2, 1, b"\0", b"\0"]), cb.pack([3, [], [[3, [], [[3, [], [], []]], []]], []]),
    cb.pack([2, 0, b"z", b"a"]), cb.pack([3, [[4, 1, 0, b"a", b"\0"]], [[2, 0, b"a", None]], []]),
], ids=repr)
def test_what_a_store_may_have_written(bench: Bench, payload: bytes) -> None:
    forge(bench, payload)
    is_sound(bench)


# --- checkpoints ----------------------------------------------------------------------------------

FIELDS = ("segment_bytes", "replay_from", "applied_index", "term", "revision", "compact_revision",
          "ceiling", "keys", "versions", "blocks", "segments", "table_off", "leases", "alarms")


# What nothing else says: who forges it has made another store.
UNTOLD = {"term", "alarms", "compact_revision"}


@pytest.fixture(scope="module")
def with_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return rich(tmp_path_factory.mktemp("sound") / "rich")[1]


def reheaded(raw: bytes, change: Callable[[list[int]], None]) -> bytes:
    """A checkpoint with other numbers in its header, whose checksum is right."""
    words = list(struct.unpack_from("<14Q", raw, 16))
    change(words)
    rest = raw[12:16] + struct.pack("<14Q", *(word % (1 << 64) for word in words))
    return raw[:8] + struct.pack("<I", crc32c(rest)) + rest + raw[128:]


@pytest.mark.parametrize("field", sorted(set(FIELDS) - UNTOLD))
def test_checkpoint_headers_that_lie(ram_dir: Path, with_checkpoints: Sound, counts: Counter[str],
                                     field: str) -> None:
    """One number after the other is absurd: passed over or refused; never taken and wrong."""
    bench = Bench(ram_dir, with_checkpoints, counts)
    name = with_checkpoints.checkpoints()[-1]
    for value in (0, 1, 63, 65, 1 << 15, 1 << 31, 1 << 62, BIG, 2**64 - 1):
        raw = reheaded(with_checkpoints.files[name],
                       lambda words, value=value: words.__setitem__(FIELDS.index(field), value))
        if raw == with_checkpoints.files[name]:
            continue
        bench.path(name).write_bytes(raw)
        assert bench.judge(field != "ceiling") in ("refused", "exact"), value
        bench.repaired(0)
        bench.reset()


def block(*entries: tuple[int, bytes, list[tuple[int, ...]]], keys: int | None = None) -> bytes:
    """A block whose checksum is right: (shared, suffix, versions), a version (mod, create, version,
    lease, position, length, sub)."""
    body = b""
    for shared, suffix, versions in entries:
        body += struct.pack("<HHI", shared, len(suffix), len(versions)) + suffix
        body += b"".join(struct.pack("<qqqqQII", *version) for version in versions)
    count = len(entries) if keys is None else keys
    return struct.pack("<IIII", len(body), crc32c(body), count, 0) + body


GOOD = (700, 700, 1, 0, SIZE, 0, 0)
BLOCKS = {
    "empty": block(), "empty with keys": block(keys=3), "of no key": block((0, b"", [GOOD])),
    "of a key without a version": block((0, b"~", [])),
    "out of order": block((0, b"/a", [GOOD])),
    "twice the same": block((0, b"~", [GOOD]), (1, b"", [GOOD])),
    "shares more than there is": block((9, b"~", [GOOD])),
    "more keys than it has": block((0, b"~", [GOOD]), keys=9),
    "fewer keys than it has": block((0, b"~", [GOOD]), (0, b"~~", [GOOD]), keys=1),
    "of the future": block((0, b"~", [(BIG - 1, 1, 1, 0, SIZE, 0, 0)])),
    "before all revisions": block((0, b"~", [(-5, -5, 1, 0, SIZE, 0, 0)])),
    "created after it was changed": block((0, b"~", [(5, 700, 1, 0, SIZE, 0, 0)])),
    "of a negative version": block((0, b"~", [(700, 700, -1, 0, SIZE, 0, 0)])),
    "of a version without a creation": block((0, b"~", [(700, 0, 1, 0, SIZE, 0, 0)])),
    "versions that descend": block((0, b"~", [GOOD, (699, 699, 1, 0, SIZE, 0, 0)])),
    "of a lease that is not": block((0, b"~", [(700, 700, 1, 99, SIZE, 0, 0)])),
    "a deletion with a lease": block((0, b"~", [(700, 0, 0, 5, SIZE, 0, 0)])),
    "longer than the file": struct.pack("<IIII", 0x3FFFFFFF, 0, 1, 0),
    "absurdly long": struct.pack("<IIII", 0xFFFFFFFF, 0, 1, 0),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_checkpoint_blocks_that_lie(ram_dir: Path, with_checkpoints: Sound, counts: Counter[str],
                                    name: str) -> None:
    """A last block that no store writes: the older checkpoint serves, and repair knows it too."""
    bench = Bench(ram_dir, with_checkpoints, counts)
    newest = with_checkpoints.checkpoints()[-1]
    raw, more = with_checkpoints.files[newest], BLOCKS[name]
    begin = struct.unpack_from("<Q", raw, 104)[0]

    def change(words: list[int]) -> None:
        words[7] += struct.unpack_from("<I", more, 8)[0]
        words[8] += max((len(more) - 16) // 56, 0)
        words[9] += 1
        words[11] += len(more)

    made = reheaded(raw[:begin] + more + raw[begin:], change)
    bench.path(newest).write_bytes(made[:-8] + struct.pack("<Q", struct.unpack_from(
        "<Q", made, 88)[0]))
    assert bench.judge(True, mended=True) == "exact"
    assert bench.repaired(with_checkpoints.run.revision).problems
