# SPDX-License-Identifier: Apache-2.0
"""Stores come and go, with everything that can be open on them; what they took is given back.

    round: open (memory, disk, fresh or again) ─► requests, watches, snapshots, leases, backups,
           compactions in random order ─► closed, often with much still open ─► all forgotten

After rounds that fill every cache the process is measured, and again after more: descriptors,
threads, ranges of addresses, mapped files of stores: exactly as many; memory: within a bound.
In a store the same: emptied and compacted its index holds exactly the blocks of a fresh one.
In a soak: as many rounds as fit in.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from soak import Soaking
from together import finish

import kvcore
from kvcore.testing.clocks import ManualClock

RANGE_BYTES = 1 << 30          # addresses reserved for an index; nothing else here is as large
MEMORY_SLACK = 24 << 20
LEAF_BYTES, ENTRY_BYTES = 384, 80      # a leaf keeps its block when its keys go
WARM_UP, ROUNDS = 25, 100
SMALL: dict[str, Any] = {"segment_bytes": 65536, "max_request_bytes": 16384,
                         "watch_capacity": 100, "min_lease_ttl": 1}
PLAIN_WATCH = kvcore.Store.watch   # what is recorded is remembered, and that is measured here
pytestmark = pytest.mark.usefixtures("nothing_hangs")


class Footprint(NamedTuple):
    """What of the system a process holds; None where /proc does not tell."""

    descriptors: int | None
    threads: int | None
    ranges: int | None
    mapped: int | None         # files of stores


def footprint(directory: Path) -> Footprint:
    """Now, behind a collection of what is garbage."""
    gc.collect()
    if not os.path.isdir("/proc/self/task"):
        return Footprint(None, None, None, None)
    ranges = mapped = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        ranges += end - begin >= RANGE_BYTES
        mapped += str(directory) in line
    return Footprint(len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), ranges,
                     mapped)


def settled(directory: Path, wanted: Footprint) -> Footprint:
    """The same once the kernel has buried the threads that were joined: it wakes who joins one
    before it forgets it."""
    ends = time.monotonic() + 20
    found = footprint(directory)
    while found != wanted and time.monotonic() < ends:
        found = footprint(directory)
    return found


def anonymous_bytes() -> int:
    """Memory of the process that no file holds, behind a return of what malloc keeps."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon in /proc/self/status")


class Life:
    """One store and all that is open on it."""

    def __init__(self, chance: random.Random, directory: Path) -> None:
        self.chance = chance
        self.directory = directory
        self.clock = ManualClock()
        self.held: list[Any] = []
        self.made = 0
        options = {**SMALL, "order": chance.choice([3, 4, 32]), "clock": self.clock,
                   "maintenance": chance.random() < 0.7, "replay_target": 0.002,
                   "history": chance.choice([None, None, 50, timedelta(seconds=5)])}
        path = None
        if chance.random() < 0.7:
            path = directory / f"store{chance.randrange(3)}"
            options["sync"] = chance.choice(["always", "interval", "off"])
            if chance.random() < 0.3:
                shutil.rmtree(path, ignore_errors=True)
        self.db = kvcore.open(path, **options)

    def key(self) -> bytes:
        return b"/%d/%03d" % (self.chance.randrange(3), self.chance.randrange(200))

    def turn(self) -> None:
        """Something of everything."""
        self.chance.choice([
            self.put, self.put, self.put_many, self.put_many, self.delete, self.txn, self.submit,
            self.awaited, self.read, self.watch, self.watch, self.look, self.snapshot, self.lease,
            self.compact, self.checkpoint, self.backup, self.let_go, self.refused, self.tick])()

    def put(self) -> None:
        self.held.append(self.db.put(self.key(), b"v" * self.chance.randrange(3000), prev=True))

    def put_many(self) -> None:
        self.made += 1
        self.db.put_many([(self.key(), b"%d" % self.made * 30) for _ in range(60)])

    def delete(self) -> None:
        self.held.append(self.db.delete(prefix=b"/%d/" % self.chance.randrange(3), prev=True))

    def txn(self) -> None:
        self.held.append(self.db.txn(
            [kvcore.Compare.version(self.key()) > 1],
            [kvcore.Put(b"txn", b"1"), kvcore.Delete(self.key(), prev=True)],
            [kvcore.Range(prefix=b"/1/", limit=5), kvcore.Put(b"txn", b"2")]))

    def submit(self) -> None:
        """Some are never asked for their answer."""
        futures = [self.db.submit(kvcore.Put(self.key(), b"s")) for _ in range(5)]
        futures[0].add_done_callback(lambda future: future.result())
        self.held.append(futures[0].result(60))
        self.held.append(futures[1])

    def awaited(self) -> None:
        """An event loop of its own: futures, a watch, and a wait that is given up."""
        async def main() -> None:
            await asyncio.gather(*[self.db.submit(kvcore.Put(b"await", b"%d" % n))
                                   for n in range(5)])
            watch = PLAIN_WATCH(self.db, b"await", start_revision=self.db.revision)
            await anext(watch)
            waiting = asyncio.ensure_future(_next(watch))
            await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            self.held.append(watch)

        asyncio.run(main())

    def read(self) -> None:
        page = self.db.range(prefix=b"/", limit=self.chance.choice([0, 7, 120]))
        self.held.append(page)
        self.held.append(page.mod_revisions)
        self.held.append([kv.value for kv in page[:5]])
        self.held.append(self.db.get_many([self.key() for _ in range(10)]))

    def watch(self) -> None:
        start = self.chance.choice([0, max(1, self.db.compact_revision), self.db.revision])
        self.held.append(PLAIN_WATCH(self.db, prefix=b"/", start_revision=start, prev_kv=True))

    def look(self) -> None:
        """A batch or a response of one of the watches that are open."""
        watches = [one for one in self.held if isinstance(one, kvcore.Watch)]
        if watches:
            with contextlib.suppress(kvcore.CompactedError):
                watch = self.chance.choice(watches)
                self.held.append(watch.get_batch(limit=20, timeout=0) if self.chance.random() < 0.5
                                 else watch.get(0))

    def snapshot(self) -> None:
        snap = self.db.snapshot()
        self.held.append(snap)
        self.held.append(snap.range(prefix=b"/", limit=20))

    def lease(self) -> None:
        lease = self.db.lease(self.chance.randrange(1, 20))
        self.db.put(b"leased/%d" % self.chance.randrange(5), b"v", lease=lease.id)
        if self.chance.random() < 0.3:
            lease.revoke()

    def tick(self) -> None:
        self.clock.advance(3)
        self.db.step()

    def compact(self) -> None:
        target = self.db.revision - self.chance.randrange(20)
        if target > self.db.compact_revision:
            with contextlib.suppress(kvcore.CompactedError):     # by `history`, meanwhile
                self.db.compact(target, physical=self.chance.random() < 0.5)

    def checkpoint(self) -> None:
        self.db.checkpoint()

    def backup(self) -> None:
        target = self.directory / "backup"
        shutil.rmtree(target, ignore_errors=True)
        self.db.backup(target)
        with kvcore.open(target) as copy:
            assert copy.revision <= self.db.revision

    def refused(self) -> None:
        """Errors leave nothing behind either."""
        for call in (lambda: self.db.put(b""), lambda: self.db.put(b"k", b"v" * 20000),
                     lambda: self.db.get(b"k", 1 << 40), lambda: self.db.put(b"k", lease=7),
                     lambda: self.db.txn([], [kvcore.Put(b"k"), kvcore.Put(b"k")])):
            with pytest.raises(kvcore.Error):
                call()

    def let_go(self) -> None:
        """Half of what is held, in no order, some of it closed before."""
        self.chance.shuffle(self.held)
        while len(self.held) > 10:
            one = self.held.pop()
            if isinstance(one, kvcore.Watch) and self.chance.random() < 0.5:
                one.cancel()
            elif hasattr(one, "release") and self.chance.random() < 0.5:
                one.release()

    def end(self) -> None:
        """Closed before what is held goes, or behind it."""
        if self.chance.random() < 0.5:
            self.held.clear()
        self.db.close()
        self.held.clear()


async def _next(watch: Any) -> Any:
    return await anext(watch)


def one_round(chance: random.Random, directory: Path, turns: int = 30) -> int:
    life = Life(chance, directory)
    try:
        for _ in range(turns):
            life.turn()
        life.db._check()
    finally:
        life.end()
    return turns


@pytest.mark.soak(weight=2)
def test_the_process_is_as_it_was(ram_dir: Path, counts: Counter[str], soaking: Soaking) -> None:
    """Descriptors, threads, ranges and mapped files to the last one; memory within a bound."""
    chance = random.Random(5)
    for _ in range(WARM_UP):
        one_round(chance, ram_dir)
    before = footprint(ram_dir)
    before = settled(ram_dir, before._replace(mapped=before.mapped and 0))
    memory = anonymous_bytes() if before.threads else 0
    done = turns = 0
    for _ in soaking(ROUNDS):
        turns += one_round(chance, ram_dir)
        done += 1
        if done % 25 == 0:
            assert settled(ram_dir, before) == before
    assert settled(ram_dir, before) == before
    if before.threads:
        assert anonymous_bytes() - memory < MEMORY_SLACK
    counts["churn: rounds"] += done
    counts["churn: turns"] += turns


def test_the_footprint_sees(ram_dir: Path) -> None:
    """A store that stays open is seen in each of its parts."""
    nothing = footprint(ram_dir)
    db = kvcore.open(ram_dir / "store", **SMALL)
    db.put(b"k", b"v")
    held = footprint(ram_dir)
    if nothing.threads:
        assert all(now > before for now, before in zip(held, nothing, strict=True))
    db.close()
    assert footprint(ram_dir).descriptors == nothing.descriptors
    del db                                   # mappings live as long as somebody may read in them
    assert settled(ram_dir, nothing) == nothing


class Remains(NamedTuple):
    """What is left of a store that holds one key and no past."""

    blocks: int                # of the index: its one leaf
    versions: int
    dead_blocks: int
    snapshots: int
    leases: int
    leased_keys: int
    watchers: int
    pinned_bytes: int


NOTHING = Remains(1, 1, 0, 0, 0, 0, 0, 0)


def emptied(db: kvcore.Store, clock: ManualClock, order: int) -> Remains:
    """Behind the end of all leases, a deletion of everything and a compaction."""
    clock.advance(20)                        # snapshots kept for the next page of a list go, too
    for lease in db.leases():
        lease.revoke()
    db.delete(prefix=b"")
    db.put(b"last", b"v")
    db.put(b"last", b"v")
    db.compact(db.revision, physical=True)
    finish(db)
    db.get(b"last")                          # whoever comes next forgets what is kept for nobody
    finish(db)
    db._check()
    status = db.status()
    blocks = db._stats()["leaves"] + db._stats()["inners"] + (
        status.index_live_bytes > LEAF_BYTES + order * ENTRY_BYTES)
    return Remains(blocks, status.versions, status.dead_blocks, status.snapshots, status.leases,
                   status.leased_keys, status.watchers, status.pinned_bytes)


@pytest.mark.parametrize("order", [3, 4, 32])
def test_a_store_is_as_it_was(order: int, open_store: Callable[..., kvcore.Store],
                              counts: Counter[str]) -> None:
    """Every block of the index, every snapshot, watch and lease is given back."""
    options: dict[str, Any] = {**SMALL, "order": order, "maintenance": False}
    chance = random.Random(order)
    life = Life.__new__(Life)
    life.chance, life.held, life.made, life.clock = chance, [], 0, ManualClock()
    life.db = open_store(clock=life.clock, **options)
    life.directory = Path(life.db.log_path).parent if life.db.log_path else Path(os.devnull)
    life.backup = life.checkpoint  # type: ignore[method-assign]
    for _ in range(4):
        for _ in range(60):
            life.turn()
        while life.held:
            one = life.held.pop()
            if isinstance(one, kvcore.Watch):
                one.cancel()
        del one
        gc.collect()
        assert emptied(life.db, life.clock, order) == NOTHING
        counts["churn: turns"] += 60


# --- what holds a segment, and must not -----------------------------------------------------------


def pinned_behind(db: kvcore.Store, clock: ManualClock) -> int:
    """Bytes of retired segments still held after a lot was overwritten and compacted."""
    before = db.status().retired_segments
    for _ in range(3):
        for number in range(600):
            db.put(b"z%d" % (number % 7), b"v" * 500)
        db.compact(db.revision, physical=True)
        clock.advance(20)
        finish(db)
    db.get(b"z0")
    finish(db)
    assert db.status().retired_segments > before
    return db.status().pinned_bytes


def open_manual(open_store: Callable[..., kvcore.Store]) -> tuple[kvcore.Store, ManualClock]:
    clock = ManualClock()
    return open_store(clock=clock, maintenance=False, replay_target=0.002, **SMALL), clock


def test_events_shared_by_watches_hold_no_segment(
        open_store: Callable[..., kvcore.Store]) -> None:
    """Those kept for the next watch, when there is none any more."""
    db, clock = open_manual(open_store)
    watches = [PLAIN_WATCH(db, prefix=b"k") for _ in range(3)]
    db.put(b"k", b"v")
    shared = {id(watch.get(0).events[0]) for watch in watches}
    for watch in watches:
        watch.cancel()
    assert len(shared) == 1
    assert pinned_behind(db, clock) == 0


def test_late_events_of_an_old_epoch_hold_no_segment(
        open_store: Callable[..., kvcore.Store]) -> None:
    """An event taken before a segment was retired, and made into an object behind it."""
    db, clock = open_manual(open_store)
    watches = [PLAIN_WATCH(db, prefix=b"k") for _ in range(3)]
    db.put(b"k", b"v")
    batch = watches[0].get_batch(timeout=0)
    assert pinned_behind(db, clock) > 0
    assert batch[0].kv.value == b"v"
    del batch
    for watch in watches:
        watch.cancel()
    finish(db)
    assert db.status().pinned_bytes == 0


def test_a_released_snapshot_holds_no_segment(open_store: Callable[..., kvcore.Store]) -> None:
    db, clock = open_manual(open_store)
    db.put(b"k", b"v")
    with db.snapshot() as snap:
        assert pinned_behind(db, clock) > 0
        page = snap.range(prefix=b"k")
    assert db.status().pinned_bytes > 0
    assert page.values() == [b"v"]
    del page
    finish(db)
    assert db.status().pinned_bytes == 0
    assert "released" in repr(snap)
