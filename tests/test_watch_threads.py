# SPDX-License-Identifier: Apache-2.0
"""Crowds of writers and watches, with compaction, cancel and close at any time.

What matters is not asserted here: every watch is recorded, and the checker compares what it
delivered with the history of its store, event by event. See watch_checker.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from together import drain, finish, run_all

import kvcore
from kvcore import Compact, Delete, Put, Txn

Opener = Callable[..., kvcore.Store]
SMALL = {"segment_bytes": 1 << 20, "max_request_bytes": 16384, "order": 8, "watch_capacity": 100}
pytestmark = pytest.mark.usefixtures("nothing_hangs")

SPANS: list[dict[str, Any]] = [
    {}, {"prefix": b"w"}, {"prefix": b"w3/"}, {"key": b"w1/05"}, {"key": b"w2", "end": b"w5"},
    {"key": b"w6", "end": b"\0"}, {"key": b"leased"},
]


def options_of(n: int) -> dict[str, Any]:
    """Of the n-th watch: every mixture comes up."""
    return {**SPANS[n % len(SPANS)], "prev_kv": n % 2 == 0, "no_put": n % 5 == 4,
            "no_delete": n % 7 == 6, "progress_notify": n % 3 == 0}


class Crowd:
    """Eight writers, and whoever watches them until they are done."""

    def __init__(self, db: kvcore.Store, writes: int) -> None:
        self.db = db
        self.writes = writes
        self.done = threading.Event()
        self._writing = 8
        self._lock = threading.Lock()

    def writer(self, n: int) -> None:
        """Puts, transactions, deletions, leases: all that makes events."""
        chance = random.Random(n)
        try:
            for i in range(self.writes):
                key = b"w%d/%02d" % (n, chance.randrange(20))
                kind = chance.randrange(20)
                if kind == 0:
                    self.db.delete(prefix=b"w%d/1" % n)
                elif kind == 1:
                    with self.db.lease(60) as lease:
                        self.db.put(b"leased", key, lease=lease.id)
                        self.db.put(b"w%d/leased" % n, key, lease=lease.id)
                elif kind == 2:
                    self.db.txn([], [Put(key, b"%d" % i), Put(key + b"x"), Delete(b"w%d/0x" % n)])
                elif kind == 3:
                    self.db.put_many([(key + b"m%d" % m, b"v") for m in range(8)])
                elif kind < 7:
                    self.db.submit(Txn([], [Put(key, b"%d" % i)])).result(60)
                else:
                    self.db.put(key, b"%d" % i)
        finally:
            with self._lock:
                self._writing -= 1
                if self._writing == 0:
                    self.done.set()

    def writers(self) -> list[Callable[[], None]]:
        return [lambda n=n: self.writer(n) for n in range(8)]

    def watcher(self, n: int) -> None:
        """Reads in one of the ways until the writers are done, then what is left."""
        with self.db.watch(**options_of(n)) as watch:
            while not self.done.is_set():
                if n % 3 == 0:
                    watch.get_batch(limit=1 + n, timeout=0.01)
                else:
                    watch.get(0.01)
                if n % 4 == 0:
                    watch.progress()
            drain(watch)

    def resumer(self, n: int) -> None:
        """Cancels and goes on from next_revision; or begins anew when that is compacted."""
        chance = random.Random(n)
        start = 1
        while not self.done.is_set():
            with self.db.watch(**options_of(n), start_revision=start) as watch:
                try:
                    for _ in range(chance.randrange(1, 40)):
                        watch.get_batch(limit=10, timeout=0.01)
                    start = watch.next_revision
                except kvcore.CompactedError as error:
                    start = error.compact_revision

    def compacter(self) -> None:
        """Racing everybody, close behind the newest revision."""
        done, turn = 0, 0
        while not self.done.is_set():
            target = self.db.revision - 30
            if target <= done:
                self.done.wait(0.001)
                continue
            if turn % 2:
                self.db.submit(Compact(target)).result(60)
            else:
                self.db.compact(target, physical=turn % 4 == 0)
            done, turn = target, turn + 1
            finish(self.db)


@contextlib.contextmanager
def may_be_compacted() -> Any:
    """A slow watch may be overtaken; that it was rightly so is for the checker."""
    try:
        yield
    except kvcore.CompactedError as error:
        assert error.compact_revision


def test_crowd_of_threads(open_store: Opener) -> None:
    """8 writers, 30 watches in threads of their own, some of them resuming all the time."""
    crowd = Crowd(open_store(**SMALL), 120)
    run_all(*crowd.writers(), *[lambda n=n: crowd.watcher(n) for n in range(20)],
            *[lambda n=n: crowd.resumer(n) for n in range(10)])
    crowd.db._check()
    assert crowd.db.status().watchers == 0


async def follow(watch: Any, last: Callable[[], int]) -> None:
    """Until the revision is reached that `last` names once it is known."""
    async for response in watch:
        if last() and response.revision >= last():
            break


def test_crowd_of_tasks(open_store: Opener) -> None:
    """8 writers, 100 watches as tasks of two loops."""
    db = open_store(**SMALL)
    crowd = Crowd(db, 100)
    last: list[int] = []

    async def main(first: int) -> None:
        watches = [db.watch(**options_of(n)) for n in range(first, first + 50)]
        tasks = [asyncio.create_task(follow(watch, lambda: last[0] if last else 0))
                 for watch in watches]
        await asyncio.to_thread(crowd.done.wait)
        last[:] = [db.revision]
        for watch in watches:
            watch.progress()
        await asyncio.gather(*tasks)

    run_all(*crowd.writers(), lambda: asyncio.run(main(0)), lambda: asyncio.run(main(50)))
    db._check()


def test_crowd_with_compaction(open_store: Opener) -> None:
    """The same with a compaction always close behind: CompactedError when it is due, else all."""
    crowd = Crowd(open_store(**SMALL), 100)

    def watcher(n: int) -> None:
        while not crowd.done.is_set():
            with may_be_compacted():
                crowd.watcher(n)

    run_all(*crowd.writers(), crowd.compacter, *[lambda n=n: watcher(n) for n in range(14)],
            *[lambda n=n: crowd.resumer(n) for n in range(7)])
    crowd.db._check()


def test_tasks_with_compaction(open_store: Opener) -> None:
    db = open_store(**SMALL)
    crowd = Crowd(db, 80)

    async def read(n: int) -> None:
        while not crowd.done.is_set():
            with may_be_compacted():
                async for _ in db.watch(**options_of(n), start_revision=max(1, db.revision - 20)):
                    if crowd.done.is_set():
                        break

    async def main() -> None:
        tasks = [asyncio.create_task(read(n)) for n in range(60)]
        await asyncio.to_thread(crowd.done.wait)
        for task in tasks:  # those whose spans nobody writes to any more
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() or task.exception() is None for task in tasks)

    run_all(*crowd.writers(), crowd.compacter, lambda: asyncio.run(main()))
    db._check()


def test_cancel_during_use(open_store: Opener) -> None:
    """Watches come and go, cancelled by others while they are read."""
    crowd = Crowd(open_store(**SMALL), 100)

    def pair(n: int) -> None:
        turn = 0
        while not crowd.done.is_set():
            watch = crowd.db.watch(**options_of(n + turn))
            turn += 1

            def read(watch: Any = watch) -> None:
                with contextlib.suppress(StopIteration):
                    while True:
                        next(watch)

            run_all(read, watch.cancel)

    run_all(*crowd.writers(), *[lambda n=n: pair(n) for n in range(4)])
    assert crowd.db.status().watchers == 0
    crowd.db._check()


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_close_during_use(open_store: Opener, how: str) -> None:
    """Everybody gets ClosedError and nobody hangs; what was delivered until then was right."""
    for turn in range(5):
        db = open_store(**SMALL)
        enough = threading.Event()

        def write(n: int, db: Any = db, enough: Any = enough) -> None:
            with pytest.raises(kvcore.ClosedError):
                for i in range(10**9):
                    db.put(b"w%d/%02d" % (n, i % 20), b"%d" % i)
                    if i == 30:
                        enough.set()

        def read(n: int, db: Any = db) -> None:
            with pytest.raises(kvcore.ClosedError):
                for _ in db.watch(**options_of(n), start_revision=1):
                    pass
                raise AssertionError("the watch ended, it was not cancelled")

        async def read_all(db: Any = db) -> None:
            async def one(n: int) -> None:
                with pytest.raises(kvcore.ClosedError):
                    async for _ in db.watch(**options_of(n)):
                        pass
                    raise AssertionError("the watch ended, it was not cancelled")

            await asyncio.gather(*[one(n) for n in range(40)])

        def close(db: Any = db, enough: Any = enough) -> None:
            enough.wait()
            db.close()

        readers = ([lambda n=n: read(n) for n in range(turn, turn + 10)] if how == "threads"
                   else [lambda: asyncio.run(read_all())])
        run_all(*[lambda n=n: write(n) for n in range(3)], *readers, close)


def test_dropped_while_others_write(open_store: Opener) -> None:
    """Watches that are forgotten, in every state, while events come in."""
    crowd = Crowd(open_store(**SMALL), 100)

    def forget() -> None:
        chance = random.Random(5)
        kept: list[Any] = []
        while not crowd.done.is_set():
            kept.append(crowd.db.watch(**options_of(chance.randrange(100)),
                                       start_revision=chance.randrange(2)))
            with may_be_compacted():
                kept[chance.randrange(len(kept))].get(0)
            if len(kept) > 20:
                del kept[chance.randrange(len(kept))]

    run_all(*crowd.writers(), crowd.compacter, forget, forget)
    crowd.db._check()


def test_readers_share_history(opened: Opener) -> None:
    """Several threads read one watch that falls behind: each event has its own key and value."""
    def read(watch: Any) -> None:
        with contextlib.suppress(StopIteration):
            while True:
                for event in next(watch).events:
                    assert event.kv.key == event.kv.value

    def write(db: Any, watch: Any) -> None:
        for i in range(1500):
            db.put(b"k%d" % (i % 7), b"k%d" % (i % 7))
        while watch.next_revision <= db.revision:
            watch.progress()
        watch.cancel()

    for _ in range(20):
        db = opened(**SMALL)
        db.put_many([(b"k%d" % (i % 7), b"k%d" % (i % 7)) for i in range(400)])
        watch = db.watch(start_revision=1)
        run_all(lambda db=db, watch=watch: write(db, watch),
                *[lambda watch=watch: read(watch)] * 6)


def test_expiry_while_others_watch(opened: Opener) -> None:
    """Leases that end in the background are events like any others, one revision each."""
    db = opened(min_lease_ttl=1, **SMALL)
    for id in range(1, 9):
        db.lease(1, id=id)
        db.put_many([(b"w%d/%02d" % (id, i), b"v") for i in range(30)], lease=id)
    watch = db.watch(prefix=b"w", no_put=True, prev_kv=True)

    async def main() -> list[Any]:
        return [response async for response, _ in _some(watch, 8)]

    found = asyncio.run(main())
    assert [len(r.events) for r in found] == [30] * 8
    for response in found:
        keys = [e.kv.key for e in response.events]
        assert keys == sorted(keys)
        assert len({e.prev_kv.lease for e in response.events}) == 1
    assert db.leases() == []


async def _some(watch: Any, count: int) -> Any:
    """The first responses, numbered."""
    for number in range(count):
        yield await anext(watch), number


def test_a_pass_wakes_who_waited_for_it(open_store: Opener, nothing_hangs: None) -> None:
    """Readers that share a watch: one reads history, the others take what it found.

    No write comes to wake them, and they wait without end."""
    db = open_store()
    for i in range(0, 100_000, 10_000):
        db.put_many([(b"k%07d" % j, b"v") for j in range(i, i + 10_000)])
    for _ in range(5):
        watch = db.watch(prefix=b"k", start_revision=2)
        got = run_all(*[lambda watch=watch: watch.get()] * 3)
        assert sorted(r.revision for r in got) == [2, 3, 4]


def test_next_revision_while_history_is_read(open_store: Opener) -> None:
    """It never runs ahead of what was delivered."""
    db = open_store()
    for i in range(0, 100_000, 10_000):
        db.put_many([(b"k%07d" % j, b"v") for j in range(i, i + 10_000)])
    watch = db.watch(prefix=b"k", start_revision=2)
    done: list[int] = []

    def read() -> None:
        done.append(watch.get().revision)

    def look() -> list[int]:
        seen = [watch.next_revision]
        while not done:
            seen.append(watch.next_revision)
        return seen

    seen = run_all(read, look)[1]
    assert set(seen) <= {2, 3}
