# SPDX-License-Identifier: Apache-2.0
"""Watches and leases while calls of the operating system fail, and behind a crash.

What was not committed is never delivered, what was is never lost; a lease and its keys go, or stay,
together.
"""

from __future__ import annotations

import asyncio
import errno
import queue
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import model_leases
import models
import pytest
from together import drain, finish, run_all, told

import kvcore
from kvcore.testing.clocks import ManualClock
from kvcore.testing.faults import CrashImages, RecordingIo

OPTIONS: dict[str, Any] = {"segment_bytes": 65536, "max_request_bytes": 16384,
                           "maintenance": False, "replay_target": 0.0, "watch_capacity": 100}
pytestmark = pytest.mark.usefixtures("nothing_hangs")


# --- writes that fail ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_failed_write_is_not_delivered(opened: Any, ram_dir: Path, kind: str) -> None:
    """Neither live, nor from history, nor by a bookmark; what was acknowledged stays to be read."""
    io = RecordingIo()
    db = opened(ram_dir / "store", io=io, **OPTIONS)
    live = db.watch(prev_kv=True)
    db.put(b"a", b"1")
    io.fail(kind, 1, errno.EIO)
    with pytest.raises(kvcore.OutcomeUnknownError):
        db.put(b"a", b"2")
    with pytest.raises(kvcore.PoisonedError):
        db.put(b"b", b"3")
    with pytest.raises(kvcore.PoisonedError):
        db.lease(60)
    late = db.watch(start_revision=1)
    for watch in (live, late):
        assert [told(r) for r in drain(watch)] == [(2, [("PUT", b"a", b"1")])]
        assert watch.next_revision == 3
        watch.progress()
        assert [(r.is_progress, r.revision) for r in drain(watch)] == [(True, 2)]


def test_waiting_through_a_failed_write(opened: Any, ram_dir: Path) -> None:
    """Who waits is not woken by it with anything, and ends with the store."""
    for kind in ("write", "sync"):
        io = RecordingIo()
        db = opened(ram_dir / kind, io=io, **OPTIONS)
        watch = db.watch()

        def wait(watch: Any = watch) -> list[int]:
            found: list[int] = []
            with pytest.raises(kvcore.ClosedError):
                while True:
                    found.append(watch.get(60).revision)
            return found

        def fail(db: Any = db, io: RecordingIo = io, kind: str = kind) -> None:
            for i in range(20):
                db.put(b"k%d" % i)
            io.fail(kind, 1, errno.EIO)
            with pytest.raises(kvcore.OutcomeUnknownError):
                db.put(b"k")
            db.close()

        found, _ = run_all(wait, fail)
        assert found == list(range(2, 2 + len(found)))


class Life:
    """A store with leases and watches while something fails."""

    def __init__(self, db: kvcore.Store, clock: ManualClock) -> None:
        self.db = db
        self.clock = clock
        self.found: list[tuple[int, bytes]] = []
        self.acked: list[tuple[int, bytes]] = []
        self.watch = db.watch(prefix=b"k")

    def attempt(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (kvcore.StorageError, kvcore.LeaseNotFoundError):
            return None

    def read(self) -> None:
        for response in drain(self.watch):
            self.found += [(response.revision, e.kv.key) for e in response.events
                           if e.type == "PUT"]

    def live(self) -> None:
        for i in range(12):
            lease = self.attempt(lambda i=i: self.db.lease(5, id=i + 1))
            key = b"k%02d" % i
            done = self.attempt(lambda key=key, lease=lease: self.db.put(
                key, key * 1200, lease=lease.id if lease else 0))
            if done is not None:
                self.acked.append((done.revision, key))
            self.clock.advance(1.0)
            self.db.step()
            if i % 3 == 0:
                self.read()
            if i in (4, 8):
                self.attempt(self.db.checkpoint)
        self.read()


@pytest.mark.parametrize("kind", ["write", "sync", "allocate", "open", "rename", "unlink"])
def test_one_failure(opened: Any, ram_dir: Path, kind: str, counts: Counter[str]) -> None:
    """The nth call of a kind fails: delivered is exactly what was acknowledged, in order."""
    nth = 1
    while True:
        io, clock = RecordingIo(), ManualClock()
        db = opened(ram_dir / f"{nth}", io=io, clock=clock, **OPTIONS)
        life = Life(db, clock)
        before = io.calls(kind)
        io.fail(kind, nth, errno.ENOSPC)
        life.live()
        reached = io.calls(kind) - before >= nth
        assert life.found == life.acked
        held = {lease.id: lease.keys() for lease in db.leases()}
        for id, keys in held.items():
            assert keys == [kv.key for kv in db.range() if kv.lease == id]
        resume = life.watch.next_revision
        life.attempt(db.close)
        again = opened(ram_dir / f"{nth}", clock=clock, **OPTIONS)
        past = [e for r in drain(again.watch(prefix=b"k", start_revision=1)) for e in r.events]
        assert [(e.kv.mod_revision, e.kv.key) for e in past if e.type == "PUT"][
            : len(life.acked)] == life.acked
        rest = [r.revision for r in drain(again.watch(prefix=b"k", start_revision=resume))]
        assert rest == sorted({e.kv.mod_revision for e in past if e.kv.mod_revision >= resume})
        assert all(lease.ttl() == lease.granted_ttl == 5 for lease in again.leases())
        again.close()
        if not reached:
            break
        counts["system calls failed"] += 1
        nth += 1
    assert nth > 1


def test_expiry_that_cannot_be_written(opened: Any, ram_dir: Path) -> None:
    """The lease stays with its keys, step() goes on; reopened, it has its full time again."""
    io, clock = RecordingIo(), ManualClock()
    db = opened(ram_dir / "store", io=io, clock=clock, **OPTIONS)
    lease = db.lease(5, id=9)
    db.put(b"k", b"v", lease=9)
    watch = db.watch()
    clock.advance(5)
    io.fail("write", 1, errno.EIO)
    for _ in range(5):
        finish(db)
        clock.advance(100)
    assert db.get(b"k").lease == 9
    assert ([known.id for known in db.leases()], lease.keys(), lease.ttl()) == ([9], [b"k"], 0)
    assert watch.get(0) is None
    with pytest.raises(kvcore.PoisonedError):
        lease.keepalive()
    db.close()
    again = opened(ram_dir / "store", clock=clock, **OPTIONS)
    (lease,) = again.leases()
    assert (lease.ttl(), lease.keys()) == (5, [b"k"])
    clock.advance(5)
    finish(again)
    assert (again.leases(), again.get(b"k")) == ([], None)


# --- reads that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("way", ["get", "batch", "next", "async"])
def test_failed_read_loses_nothing(opened: Any, ram_dir: Path, way: str, history: bool) -> None:
    """What a get could not hand out because a read failed is what the next one hands out."""
    io = RecordingIo(map=False)
    db = opened(ram_dir / "store", io=io, **OPTIONS)
    live = db.watch(prev_kv=True)
    for i in range(30):
        db.put(b"k%d" % (i % 3), b"%d" % i)
    watch = db.watch(prev_kv=True, start_revision=2) if history else live

    async def one(events: list[Any]) -> None:  # asyncio reads what it prints of a task's result
        events += (await anext(watch)).events

    def take() -> list[Any]:
        if way == "batch":
            return list(watch.get_batch(limit=3, timeout=0))
        if way == "async":
            asyncio.run(one(events := []))
            return events
        return list((next(watch) if way == "next" else watch.get(0)).events)

    found: list[tuple[int, bytes, Any]] = []
    failed = 0
    while len(found) < 30:
        io.fail("read", 1, errno.EIO)
        try:
            events = take()
        except kvcore.StorageError:
            failed += 1
            events = take()
        for event in events:
            try:
                event.kv.value  # noqa: B018
            except kvcore.StorageError:
                failed += 1
            found.append((event.kv.mod_revision, event.kv.value, event.prev_kv))
    assert [(mod, value) for mod, value, _ in found] == [(i + 2, b"%d" % i) for i in range(30)]
    assert [prev and prev.value for _, _, prev in found] == [
        None, None, None, *[b"%d" % i for i in range(27)]]
    assert failed > 0
    io.fail("read", 10**9, errno.EIO)
    assert watch.get(0) is None


def test_given_back_wakes_another_reader(opened: Any, ram_dir: Path) -> None:
    """Of readers that share a watch one fails and stops: the event goes to one that waits."""
    io = RecordingIo(map=False)
    db = opened(ram_dir / "store", io=io, **OPTIONS)
    watch = db.watch(prev_kv=True)
    got: queue.Queue[int] = queue.Queue()
    on = threading.Event()

    def read() -> None:
        while True:
            try:
                got.put(watch.get().revision)
            except kvcore.StorageError:
                on.wait()
            except kvcore.ClosedError:
                return

    def write() -> None:
        try:
            db.put(b"k", b"first")
            assert got.get(timeout=60) == 2
            for i in range(200):
                on.clear()
                io.fail("read", 1, errno.EIO)
                db.put(b"k", b"%d" % i)
                assert got.get(timeout=20) == 3 + i
                on.set()
        finally:
            on.set()
            watch.cancel()

    run_all(write, *[read] * 6)


# --- crashes -------------------------------------------------------------------------------------


class State(NamedTuple):
    """All that must come back."""

    revision: int
    compact_revision: int
    hash: int
    leases: dict[int, tuple[int, list[bytes]]]


def state_of(db: Any) -> State:
    """Of a store or of its model."""
    leases = {lease.id: (lease.granted_ttl, lease.keys()) for lease in db.leases()}
    return State(db.revision, db.compact_revision, db.hash().hash, leases)


class Recorded:
    """A run of a durable store with leases: its state behind each entry of the log.

    Marker 2 * n: the state n is durable; marker 2 * n + 1: the state n may be.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.io = RecordingIo()
        self.clock = ManualClock()
        self.directory = directory
        self.db = kvcore.open(directory, io=self.io, clock=self.clock, **OPTIONS)
        self.model = model_leases.LeaseModel(max_request_bytes=16384)
        self.states = [state_of(self.model)]

    def both(self, call: Callable[[Any, Any], Any]) -> None:
        """One entry of the log."""
        call(self.model, models)
        self.states.append(state_of(self.model))
        self.io.marker(2 * len(self.states) - 1)
        call(self.db, kvcore)
        self.io.marker(2 * len(self.states) - 2)

    def expire(self) -> None:
        """Whatever is due by now, in entries of their own."""
        seconds = self.rng.randrange(4)
        self.clock.advance(seconds)
        self.model.advance(seconds)
        for id in self.model.due():
            self.model.do(model_leases.LeaseRevoke(id))
            self.states.append(state_of(self.model))
        self.io.marker(2 * len(self.states) - 1)
        finish(self.db)
        self.io.marker(2 * len(self.states) - 2)

    def command(self) -> None:
        rng = self.rng
        key, id = b"k%d" % rng.randrange(8), rng.randrange(1, 5)
        known = id in self.model.terms
        lease = id if known and rng.random() < 0.7 else 0
        value = rng.randbytes(rng.choice([0, 10, 3000]))
        what = rng.choice(["lease", "put", "put", "put", "txn", "delete", "expire", "revoke",
                           "compact", "checkpoint", "keepalive", "reopen"])
        if what == "lease" and not known:
            ttl = rng.randrange(2, 9)
            self.both(lambda db, _: db.lease(ttl, id))
        elif what == "put":
            self.both(lambda db, _: db.put(key, value, lease=lease))
        elif what == "txn":
            self.both(lambda db, api: db.txn([], [api.Put(key, value, lease=lease),
                                                  api.Put(b"t", b"", lease=lease)]))
        elif what == "delete":
            self.both(lambda db, _: db.delete(key))
        elif what == "revoke" and known:
            self.both(lambda db, _: db.lease_of(id).revoke())
        elif what == "compact" and self.model.revision > self.model.compacted + 1:
            self.both(lambda db, _: db.compact(db.revision - 1))
        elif what == "keepalive" and known:
            if self.model.terms[id].expiry > self.model.now:
                assert self.db.lease_of(id).keepalive() == self.model.lease_of(id).keepalive()
        elif what == "expire":
            self.expire()
        elif what == "checkpoint":
            self.db.checkpoint()
        elif what == "reopen":
            self.db.close()
            self.db = kvcore.open(self.directory, io=self.io, clock=self.clock, **OPTIONS)
            self.model.restart()
        assert state_of(self.db) == self.states[-1]

    def run(self, commands: int) -> CrashImages:
        for _ in range(commands):
            self.command()
        self.db.close()
        return CrashImages(self.io.ops(), self.directory)


@pytest.mark.parametrize("seed", range(6))
def test_leases_behind_a_crash(ram_dir: Path, counts: Counter[str], seed: int) -> None:
    """At any call of a run: leases, their keys and the history are those of one moment of it."""
    run = Recorded(ram_dir / "store", seed)
    images = run.run(60)
    changing = [i + 1 for i, op in enumerate(images.ops) if op.kind not in ("marker", "read")]
    points = sorted(run.rng.sample(changing, min(60, len(changing))))
    for index, materialise in images.images(seed, points=points):
        materialise(ram_dir / "image")
        marks = [op.offset for op in images.ops[:index] if op.kind == "marker"]
        durable = max([mark // 2 for mark in marks if mark % 2 == 0], default=0)
        begun = max([mark // 2 for mark in marks], default=0)
        with kvcore.open(ram_dir / "image", clock=ManualClock(7), **OPTIONS) as db:
            assert db.check() == []
            db._check()
            assert state_of(db) in run.states[durable : begun + 1], f"crash at call {index}"
            assert all(lease.ttl() == lease.granted_ttl for lease in db.leases())
            revisions = [r.revision for r in drain(db.watch(
                start_revision=max(1, db.compact_revision)))]
            assert revisions == sorted(set(revisions))
            assert max([1, *revisions]) <= db.revision
        counts["crash images of leases"] += 1


PLAIN_WATCH = kvcore.Store.watch  # not recorded: with several readers, given back is out of order


def test_given_back_during_a_pass(opened: Any, ram_dir: Path) -> None:
    """What a reader gives back while another reads history is delivered, too."""
    few = [(b"k%d" % j, b"") for j in range(80)]
    many = [(b"k%d" % j, b"") for j in range(400)]
    for n in range(60):
        io = RecordingIo(map=False)
        db = opened(ram_dir / f"store{n}", io=io, watch_capacity=100, segment_bytes=1 << 20,
                    max_request_bytes=1 << 17, maintenance=False)
        watch = PLAIN_WATCH(db, prev_kv=True)
        seen: set[int] = set()
        done: list[int] = []
        for i in range(16):
            io.fail("read", 50 + i * 40, errno.EIO)

        def write(db: Any = db, done: Any = done) -> None:
            for _ in range(15):
                db.put_many(few)
                db.put_many(many)
            done.append(1)

        def read(watch: Any = watch, seen: Any = seen, done: Any = done) -> None:
            while True:
                over = len(done) == 2
                try:
                    batch = watch.get_batch(limit=2000, timeout=0.02)
                except kvcore.StorageError:
                    continue
                seen.update(event.kv.mod_revision for event in batch)
                if over and not len(batch):
                    return

        run_all(write, write, *[read] * 4)
        missing = set(range(2, db.revision + 1)) - seen
        assert not missing, (n, sorted(missing)[:5])
        db.close()
