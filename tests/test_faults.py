# SPDX-License-Identifier: Apache-2.0
"""The fault layer itself, and what a store does with each thing it can do.

    fail · from there on · by name · gate · delay · flip · power cut · a sync that lies afterwards
"""

from __future__ import annotations

import doctest
import errno
import random
import tempfile
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fault_lives import OPTIONS

import kvcore
from kvcore import Put
from kvcore.testing import _faults, _refusals, faults
from kvcore.testing.faults import (
    CrashImages,
    Gate,
    Materialise,
    Op,
    RecordingIo,
    power_cut,
)

pytestmark = pytest.mark.usefixtures("nothing_hangs")


def opened(where: Path, io: RecordingIo, **options: Any) -> kvcore.Store:
    return kvcore.open(where, io=io, **{**OPTIONS, **options})


@pytest.mark.parametrize("module", [faults, _faults, _refusals])
def test_doctests(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 1 and result.failed == 0


# --- plans ---------------------------------------------------------------------------------------

def test_plans_count_what_matches(ram_dir: Path) -> None:
    """By kind and name, each plan for itself; a plan that is used up is gone."""
    io = RecordingIo()
    db = opened(ram_dir, io)
    io.fail("sync", 2, errno.EIO, path="checkpoint-*")
    io.fail("rename", 1, errno.EIO, path="checkpoint-0000000000000002*")
    db.put(b"a")
    db.checkpoint()
    with pytest.raises(kvcore.StorageError):
        db.checkpoint()
    assert io.struck == 1
    with pytest.raises(kvcore.StorageError):
        db.checkpoint()
    assert io.struck == 2
    db.checkpoint()
    assert [op.kind for op in io.ops() if op.error == errno.EIO] == ["sync", "rename"]
    db.close()


def test_some_times_and_for_ever(ram_dir: Path) -> None:
    io = RecordingIo()
    db = opened(ram_dir, io)
    db.put(b"a")
    io.fail("open", 2, errno.EMFILE, times=2, path="checkpoint-*")
    done = [attempt(db) for _ in range(5)]
    assert done == [True, False, False, True, True]
    io.fail("open", 1, errno.EMFILE, times=None, path="checkpoint-*")
    assert [attempt(db) for _ in range(5)] == [False] * 5
    io.heal()
    assert attempt(db)
    db.close()


def attempt(db: kvcore.Store) -> bool:
    try:
        db.checkpoint()
    except kvcore.StorageError:
        return False
    return True


def test_what_plans_refuse() -> None:
    io = RecordingIo()
    for kind in ("marker", "no such kind"):
        with pytest.raises(ValueError, match="no call of kind"):
            io.fail(kind, 1, errno.EIO)          # type: ignore[arg-type]
    with pytest.raises(ValueError, match="too long"):
        io.fail("open", 1, errno.EIO, path="x" * 64)
    with pytest.raises(ValueError, match="no bits"):
        io.flip("sync", 1)                       # type: ignore[arg-type]
    for _ in range(32):
        io.fail("open", 1, errno.EIO)
    with pytest.raises(IndexError):
        io.gate("open")
    with pytest.raises(TypeError):
        Gate()


# --- gates ---------------------------------------------------------------------------------------

def test_a_sync_that_takes_long(ram_dir: Path) -> None:
    """Meanwhile reads go on, other writers wait and share the next sync, nothing is shown early."""
    io = RecordingIo()
    db = opened(ram_dir, io)
    db.put(b"a", b"1")
    gate, syncs = io.gate("sync"), io.calls("sync")
    first = threading.Thread(target=db.put, args=(b"a", b"2"))
    first.start()
    gate.wait()
    futures = [db.submit(Put(b"f%d" % i)) for i in range(20)]
    assert db.get(b"a").value == b"1" and db.revision == 2
    assert db.range(count_only=True).count == 1
    assert not any(future.done() for future in futures)
    gate.open()
    first.join()
    assert sorted(future.result(60).revision for future in futures) == list(range(4, 24))
    assert db.get(b"a").value == b"2"
    assert io.calls("sync") == syncs + 2         # twenty that waited are one batch
    db.close()


@pytest.mark.parametrize("kind", ["write", "sync", "rename", "sync_dir"])
def test_a_checkpoint_that_takes_long(kind: Any, ram_dir: Path) -> None:
    """Nobody waits for it."""
    io = RecordingIo()
    db = opened(ram_dir, io)
    db.put(b"a", b"1")
    with io.gate(kind, path="checkpoint-*" if kind != "sync_dir" else None) as gate:
        thread = threading.Thread(target=db.checkpoint)
        thread.start()
        gate.wait()
        assert db.put(b"b").revision == 3
        assert db.status().checkpoint_number == 0
    thread.join()
    assert db.status().checkpoint_number == 1
    db.close()


def test_a_gate_gives_the_gil_away(ram_dir: Path) -> None:
    """Also calls that an open makes with the GIL held can stand there."""
    io = RecordingIo()
    opened(ram_dir, io).close()
    gate = io.gate("read", path="FORMAT")
    found: list[int] = []

    def look() -> None:
        with opened(ram_dir, io) as db:
            found.append(db.revision)

    thread = threading.Thread(target=look)
    thread.start()
    gate.wait()
    assert found == []
    gate.open()
    thread.join()
    assert found == [1]
    with pytest.raises(TimeoutError):
        io.gate("read").wait(0.01)


def test_a_delay(ram_dir: Path) -> None:
    io = RecordingIo()
    db = opened(ram_dir, io)
    io.delay("sync", 0.02, times=2)
    before = time.monotonic()
    for i in range(3):
        db.put(b"k%d" % i)
    assert time.monotonic() - before >= 0.04
    db.close()


# --- flipped bits --------------------------------------------------------------------------------

def at_value(where: Path, value: bytes) -> tuple[str, int]:
    """File and offset of a value."""
    for path in sorted(where.glob("wal-*.seg")):
        at = path.read_bytes().find(value)
        if at >= 0:
            return path.name, at
    raise AssertionError("no file has it")


@pytest.mark.parametrize("bit", [0, 7])
def test_a_read_that_flips_a_bit(bit: int, ram_dir: Path) -> None:
    """The value is not returned; when the disk says something else next time, that is."""
    io = RecordingIo(map=False)
    db = opened(ram_dir, io)
    db.put(b"a", b"value of a")
    name, at = at_value(ram_dir, b"value of a")
    io.flip("read", at + 3, bit, path=name)
    with pytest.raises(kvcore.CorruptError):
        print(db.get(b"a").value)
    assert db.get(b"a").value == b"value of a"
    io.flip("read", at + 3, bit, path=name)
    assert len(db.check()) == 1
    assert db.check() == []
    db.close()


def test_a_map_that_flips_a_bit(ram_dir: Path) -> None:
    """As with a block that the disk returns wrongly: found by each who touches it, the file is
    right."""
    io = RecordingIo()
    with opened(ram_dir, io) as db:
        db.put(b"a", b"value of a")
        db.put(b"b", b"value of b")
        db.checkpoint()
    name, at = at_value(ram_dir, b"value of a")
    io.flip("map", at, path=name)
    with opened(ram_dir, io) as db:
        assert len(db.check()) == 1
        with pytest.raises(kvcore.CorruptError):
            print(db.get(b"a").value)
        assert db.get(b"b").value == b"value of b"
    with opened(ram_dir, io) as db:
        assert db.check() == [] and db.get(b"a").value == b"value of a"


def test_a_write_that_flips_a_bit(ram_dir: Path) -> None:
    """Nobody gets the wrong value: neither now nor behind a reopen, which says where it is."""
    io = RecordingIo()
    db = opened(ram_dir, io)
    db.put(b"a", b"1")
    last = next(op for op in reversed(io.ops()) if op.kind == "write").offset
    io.flip("write", last + 400, 5, path="wal-*")          # inside the next value
    db.put(b"b", b"value of b" * 50)
    assert io.struck == 0
    with pytest.raises(kvcore.CorruptError):
        print(db.get(b"b").value)
    db.put(b"c", b"3")
    db.close()
    with pytest.raises(kvcore.CorruptError, match="says that all up to"):
        opened(ram_dir, io)


# --- the power -----------------------------------------------------------------------------------

@pytest.mark.parametrize("sync", ["always", "off"])
def test_the_power_goes(sync: str, ram_dir: Path, counts: Counter[str]) -> None:
    """What was durable is there; the store of before fails from then on, and can be closed."""
    for seed in (None, *range(20)):
        io, where, rng = RecordingIo(sync=False), ram_dir / f"{seed}", random.Random(seed)
        db = opened(where, io, sync=sync)
        sure: dict[bytes, bytes] = {}
        for i in range(rng.randrange(1, 30)):
            db.put(b"k%d" % i, b"v" * rng.randrange(5000))
            if sync == "always" or rng.random() < 0.3:
                db.sync()
                sure = {kv.key: kv.value for kv in db.range()}
        held = {kv.key: kv.value for kv in db.range()}
        power_cut(io, where, seed=seed)
        with pytest.raises(kvcore.OutcomeUnknownError):
            db.put(b"more")
        assert {kv.key: kv.value for kv in db.range()} == held       # of its memory
        db.close()
        with kvcore.open(where, sync=sync, **OPTIONS) as again:
            found = {kv.key: kv.value for kv in again.range()}
            assert sure.items() <= found.items() <= held.items()
            assert again.check() == []
        counts["power cuts"] += 1


def test_writes_between_two_syncs_in_any_order(ram_dir: Path) -> None:
    """A later write may be on the disk and an earlier one not; what a sync covers is."""
    io = RecordingIo(sync=False)
    db = opened(ram_dir / "db", io, sync="off")
    db.put(b"sure", b"0")
    db.sync()
    first = len(io.ops())
    for i in range(3):
        db.put(b"maybe%d" % i, b"%d" % i * 900)
    ops = io.ops()
    db.close()
    images, later = CrashImages(ops, ram_dir / "db"), 0
    where = next(op.path for op in ops if op.kind == "rename" and op.to.endswith(".seg"))
    assert where.endswith(".tmp")
    for _, materialise in images.systematic([len(ops)], bound=200):
        materialise(ram_dir / "image")
        data = b"".join(p.read_bytes() for p in (ram_dir / "image").glob("wal-*.seg"))
        later += b"2" * 900 in data and b"0" * 900 not in data
        with kvcore.open(ram_dir / "image", **OPTIONS) as again:
            keys = again.range().keys()
            assert keys == sorted([b"maybe%d" % i for i in range(len(keys) - 1)] + [b"sure"])
    assert later > 0 and first < len(ops)


# --- a sync that fails, and lies afterwards ------------------------------------------------------

@pytest.mark.parametrize("sync", ["always", "off"])
@pytest.mark.parametrize("seed", range(6))
def test_a_sync_that_lies_afterwards(sync: str, seed: int, ram_dir: Path,
                                     counts: Counter[str]) -> None:
    """Its pages are dropped, the next sync succeeds: nothing is acknowledged behind it, and when
    the directory is opened again, over the same page cache, what it shows is durable at last."""
    rng, io, where = random.Random(seed), RecordingIo(sync=False), ram_dir / "db"
    db = opened(where, io, sync=sync)
    durable: dict[bytes, bytes] = {}
    for generation in range(3):
        for i in range(rng.randrange(1, 6)):
            db.put(b"%d/%d" % (generation, i), bytes([65 + i]) * rng.randrange(3000))
        if sync == "off":
            db.put(b"unsynced", b"%d" % generation * 700)
        io.fail("sync", 1, errno.EIO, path="wal-*")
        held = {kv.key: kv.value for kv in db.range()}
        with pytest.raises(kvcore.OutcomeUnknownError):
            if sync == "always":
                db.put(b"hit%d" % generation, b"h" * 500)
            elif seed % 2:
                db.sync()
            else:
                db.close()                       # the seal's own sync
        if not db.closed:
            for call in (partial(db.put, b"x"), db.checkpoint):
                with pytest.raises(kvcore.PoisonedError):
                    call()
            assert {kv.key: kv.value for kv in db.range()} == held
            db.close()
        db = opened(where, io, sync=sync)        # reads the page cache, which still has it
        durable = {kv.key: kv.value for kv in db.range()}
        assert held.items() <= durable.items()
        db.sync()
        db.put(b"behind", b"%d" % generation)
        db.sync()
        durable = {kv.key: kv.value for kv in db.range()}
    ops = io.ops()
    db.close()
    for number, (_, materialise) in enumerate(
            (*CrashImages(ops, where).systematic([len(ops)]),
             *CrashImages(ops, where).images(seed, 20, [len(ops)]))):
        materialise(ram_dir / "image")
        with kvcore.open(ram_dir / "image", **OPTIONS) as again:
            assert {kv.key: kv.value for kv in again.range()} == durable, number
            assert again.check() == []
        counts["images behind a sync that lied"] += 1


def test_images_of_a_sync_that_lied() -> None:
    """What it should have written stays a maybe, until it is written again and synced."""
    root = Path("/store")
    ops = [Op("open", 3, offset=2, path="/store/a"), Op("sync_dir", path="/store"),
           Op("write", 3, data=b"abcd"), Op("sync", 3, error=errno.EIO),
           Op("write", 3, offset=4, data=b"ef"), Op("sync", 3),
           Op("write", 3, offset=1, data=b"BC"), Op("sync", 3),
           Op("write", 3, offset=0, data=b"A"), Op("write", 3, offset=3, data=b"D"),
           Op("sync", 3)]

    def contents(upto: int) -> set[bytes]:
        found = set()
        for _, materialise in CrashImages(ops[:upto], root).images(1, 60, [upto]):
            found.add(content(materialise))
        return found

    assert contents(4) >= {b"", b"abcd"}
    assert contents(6) == {b"\0\0\0\0ef", b"abcdef"}
    assert contents(8) == {b"\0BC\0ef", b"aBCdef", b"aBC\0ef", b"\0BCdef"}
    assert contents(11) == {b"ABCDef"}


def content(materialise: Materialise) -> bytes:
    """Of the file `a` of an image."""
    with tempfile.TemporaryDirectory() as name:
        materialise(Path(name) / "image")
        file = Path(name) / "image" / "a"
        return file.read_bytes() if file.exists() else b""
