# SPDX-License-Identifier: Apache-2.0
"""Many threads and event loops on one store."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from together import run_all

import kvcore
from kvcore import Compact, Compare, Delete, Get, Put, Txn

Opener = Callable[..., kvcore.Store]
SMALL = {"segment_bytes": 65536, "max_request_bytes": 16384, "order": 4}
pytestmark = pytest.mark.usefixtures("nothing_hangs")


# --- writers, readers, compaction, snapshots ---------------------------------------------------


class Crowd:
    """What runs against one store until the writers are done."""

    def __init__(self, db: kvcore.Store, writes: int) -> None:
        self.db = db
        self.writes = writes
        self.writing = 8
        self.lock = threading.Lock()

    def writer(self, n: int) -> list[int]:
        revisions = []
        try:
            for i in range(self.writes):
                key = b"w%d/%02d" % (n, i % 20)
                if i % 10 == 9:
                    done: Any = self.db.txn([], [Put(key, b"%d" % i), Put(key + b"x", b"%d" % i)])
                elif i % 10 == 8:
                    done = self.db.submit(Put(key, b"%d" % i)).result(60)
                else:
                    done = self.db.put(key, b"%d" % i)
                assert self.db.revision >= done.revision
                assert self.db.get(key).value == b"%d" % i
                revisions.append(done.revision)
        finally:
            with self.lock:
                self.writing -= 1
        return revisions

    def reader(self) -> int:
        """Every answer is a state of the store, and never an older one than the last."""
        seen = mod = 0
        while self.writing:
            revision = self.db.revision
            assert revision >= seen
            page = self.db.range(prefix=b"w", keys_only=True)
            assert page.revision >= revision
            assert page.count == len(page)
            newest = max([0, *page.mod_revisions.tolist()])
            assert mod <= newest <= page.revision
            seen, mod = page.revision, newest
        return seen

    def compacter(self) -> int:
        compacted = 0
        while self.writing:
            target = self.db.revision - 50
            if target > compacted:
                self.db.compact(target, physical=target % 2 == 0)
                compacted = target
            self.db.step()
        return compacted

    def watcher(self) -> int:
        """A snapshot shows the same before and after whatever happens meanwhile."""
        rounds = 0
        while self.writing or rounds == 0:
            with self.db.snapshot() as snap:
                before = snap.range()
                assert snap.revision == before.revision
                self.db.range()
                after = snap.range()
                assert before == after
                assert all(kv.mod_revision <= snap.revision for kv in after)
                assert snap.count() == before.count
            rounds += 1
        return rounds


def test_a_crowd(open_store: Opener) -> None:
    """Revisions are unique and dense; readers, compaction and snapshots never disagree."""
    db = open_store(**SMALL)
    crowd = Crowd(db, 300)
    results = run_all(*[lambda n=n: crowd.writer(n) for n in range(8)], crowd.reader,
                      crowd.reader, crowd.compacter, crowd.watcher)
    revisions = [revision for mine in results[:8] for revision in mine]
    assert sorted(revisions) == list(range(2, 2402))
    for mine in results[:8]:
        assert mine == sorted(mine)
    assert db.revision == 2401
    assert db.compact_revision == results[10]
    assert db.status().keys == 8 * 22
    assert db.check() == []


def test_one_key(open_store: Opener) -> None:
    """Compare-and-put from eight threads: each wins once a round, and no update is lost."""
    db = open_store(**SMALL)
    db.put(b"n", b"0")

    def add() -> Counter[bool]:
        verdicts: Counter[bool] = Counter()
        while verdicts[True] < 50:
            kv = db.get(b"n")
            done = db.txn([Compare.mod_revision(b"n") == kv.mod_revision],
                          [Put(b"n", b"%d" % (int(kv.value) + 1))], [Get(b"n")])
            assert done.succeeded or done.responses[0].mod_revision > kv.mod_revision
            verdicts[done.succeeded] += 1
        return verdicts

    run_all(*[add] * 8)
    kv = db.get(b"n")
    assert (kv.value, kv.version, kv.mod_revision) == (b"400", 401, 402)


def test_all_of_a_batch_return(open_store: Opener) -> None:
    """Callers whose writes shared a sync are woken two at a time, and wake each other."""
    db = open_store()
    value = b"v" * 100_000                   # so that writing takes longer than to come to it
    for _ in range(20):
        run_all(*[lambda i=i: db.put(b"%d" % i, value) for i in range(16)])
    assert db.revision == 1 + 20 * 16


def test_put_many_side_by_side(open_store: Opener) -> None:
    """A chunk's revisions are consecutive, whatever the others do."""
    db = open_store(**SMALL)

    def many(n: int) -> list[int]:
        return db.put_many([(b"m%d/%d" % (n, i), b"v") for i in range(200)])

    results = run_all(*[lambda n=n: many(n) for n in range(6)])
    for mine in results:
        assert mine == list(range(mine[0], mine[0] + 200))
    assert sorted(r for mine in results for r in mine) == list(range(2, 1202))


@pytest.mark.parametrize("how", ["put", "submit", "mixed"])
def test_close_during_use(open_store: Opener, how: str) -> None:
    """Whoever comes too late gets ClosedError; nothing acknowledged is lost, nothing hangs."""
    db = open_store(**SMALL)
    enough = threading.Event()
    acked: list[list[bytes]] = [[] for _ in range(8)]

    def work(n: int) -> None:
        i = 0
        with pytest.raises(kvcore.ClosedError):
            while True:
                key = b"%d/%d" % (n, i)
                if how == "put" or (how == "mixed" and n % 2):
                    db.put(key, key)
                else:
                    db.submit(Put(key, key)).result(60)
                acked[n].append(key)
                i += 1
                if i == 20:
                    enough.set()

    def read() -> None:
        with pytest.raises(kvcore.ClosedError):
            while True:
                db.range(limit=10)
                with db.snapshot() as snap:
                    snap.range()

    def close() -> None:
        enough.wait()
        db.close()

    path = db.log_path
    run_all(*[lambda n=n: work(n) for n in range(8)], read, read, close, close)
    if path:
        with kvcore.open(path) as again:
            assert set(again.range(keys_only=True).keys()) >= {k for mine in acked for k in mine}
            again._check()


def test_results_from_other_threads(db: kvcore.Store) -> None:
    """One result read by many threads at once while the store goes on."""
    db.put_many([(b"%04d" % i, b"v%d" % i) for i in range(500)])
    page = db.range()

    def read() -> None:
        assert page.values() == [b"v%d" % i for i in range(500)]
        assert [kv.key for kv in page] == page.keys()
        assert page.mod_revisions.tolist() == list(range(2, 502))

    def write() -> None:
        db.put_many([(b"%04d" % i, b"new") for i in range(500)])

    run_all(read, write, read, read)


def test_snapshot_released_while_read(open_store: Opener) -> None:
    """A read ends well or with ClosedError; a second release does nothing."""
    db = open_store(**SMALL)
    db.put_many([(b"%04d" % i, b"v") for i in range(3000)])
    for _ in range(30):
        snap = db.snapshot()
        started = threading.Semaphore(0)

        def read(snap: Any = snap, started: Any = started) -> None:
            with pytest.raises(kvcore.ClosedError):
                while True:
                    assert snap.range(keys_only=True).count == 3000
                    started.release()

        def release(snap: Any = snap, started: Any = started) -> None:
            started.acquire()
            snap.release()

        run_all(read, read, release)
        db.put(b"%04d" % 5, b"again")
    assert db.status().snapshots == 0


# --- futures -------------------------------------------------------------------------------------


def test_many_in_flight(db: kvcore.Store) -> None:
    """They take effect in the order submitted, and answer with it."""
    futures = [db.submit(Put(b"k%03d" % (i % 100), b"%d" % i)) for i in range(1000)]
    futures.append(db.submit(Delete(prefix=b"k0")))
    futures.append(db.submit(Txn([], [Put(b"t"), Get(b"k100")])))
    futures.append(db.submit(Compact(500)))
    answers = [future.result(60) for future in futures]
    assert [a.revision for a in answers[:-1]] == list(range(2, 1004))
    assert answers[-3].deleted == 100
    assert answers[-1] == 1003
    assert (db.revision, db.compact_revision) == (1003, 500)


def test_future_face(db: kvcore.Store) -> None:
    """done, cancelled, exception; the same answer as often as it is asked for."""
    future = db.submit(Put(b"k", b"v"))
    first = future.result()
    assert future.result(0) is first
    assert future.done()
    assert not future.cancelled()
    assert not future.cancel()
    assert not future.running()
    assert future.exception() is None
    failed = db.submit(Put(b"x", ignore_value=True))
    assert type(failed.exception(60)) is kvcore.KeyNotFoundError
    for _ in range(2):
        with pytest.raises(kvcore.KeyNotFoundError):
            failed.result()
    assert db.submit(Get(b"k")).result().value == b"v"
    assert db.submit(kvcore.Range()).result().keys() == [b"k"]
    assert "done" in repr(failed)


def test_future_outlives_its_store(open_store: Opener) -> None:
    """close() waits for what was submitted; its answers stay."""
    db = open_store()
    futures = [db.submit(Put(b"%d" % i, b"v", prev=True)) for i in range(200)]
    db.close()
    assert [f.result(60).revision for f in futures] == list(range(2, 202))


def test_callbacks(db: kvcore.Store) -> None:
    """Each is called exactly once with its future, also when that is done already."""
    called: list[Any] = []
    everything = threading.Event()

    def on_done(future: Any) -> None:
        called.append(future)
        if len(called) == 500:
            everything.set()

    futures = [db.submit(Put(b"k%d" % i)) for i in range(499)]
    for future in futures:
        future.add_done_callback(on_done)
    late = db.submit(Put(b"late"))
    late.result(60)
    late.add_done_callback(on_done)
    assert everything.wait(60)
    assert len(called) == 500
    assert {id(f) for f in called} == {id(f) for f in (*futures, late)}
    assert all(f.done() for f in called)


# --- asyncio -------------------------------------------------------------------------------------


def test_await(db: kvcore.Store) -> None:
    """Hundreds in flight from one loop; each await gets its own answer."""
    async def main() -> None:
        async def one(i: int) -> int:
            return (await db.submit(Put(b"k%d" % (i % 50), b"%d" % i))).revision

        revisions = await asyncio.gather(*[one(i) for i in range(800)])
        assert revisions == list(range(2, 802))
        assert (await db.submit(Get(b"k0"))).value == b"750"
        with pytest.raises(kvcore.KeyNotFoundError):
            await db.submit(Put(b"missing", ignore_value=True))
        future = db.submit(Put(b"twice"))
        assert (await future) is (await future)

    asyncio.run(main())
    asyncio.run(main_again(db))


async def main_again(db: kvcore.Store) -> None:
    """A second loop in the same process."""
    before = db.revision
    done = await asyncio.gather(*[db.submit(Put(b"again")) for _ in range(50)])
    assert [d.revision for d in done] == list(range(before + 1, before + 51))


def test_cancelled_awaits(db: kvcore.Store) -> None:
    """Cancelling a task does not cancel its operation, nor harm the others."""
    async def main() -> None:
        async def one(i: int) -> int:
            return (await db.submit(Put(b"k%d" % i, b"v"))).revision

        tasks = [asyncio.create_task(one(i)) for i in range(300)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for i, result in enumerate(results):
            if isinstance(result, asyncio.CancelledError):
                assert i % 3 == 0
            else:
                assert result == i + 2
        assert (await db.submit(Put(b"last"))).revision == 302

    asyncio.run(main())
    assert db.range(prefix=b"k", count_only=True).count == 300


def test_loops_in_threads(db: kvcore.Store) -> None:
    """One loop a thread, all on one store."""
    async def main(n: int) -> list[int]:
        done = await asyncio.gather(*[db.submit(Put(b"%d/%d" % (n, i))) for i in range(200)])
        return [d.revision for d in done]

    results = run_all(*[lambda n=n: asyncio.run(main(n)) for n in range(4)])
    assert sorted(r for mine in results for r in mine) == list(range(2, 802))
    for mine in results:
        assert mine == sorted(mine)


def test_loop_closed_with_operations_in_flight(db: kvcore.Store) -> None:
    """A loop that ends before its answers come takes nothing with it."""
    async def main() -> None:
        for i in range(100):
            asyncio.ensure_future(_waits(db.submit(Put(b"k%d" % i))))
        await asyncio.sleep(0)

    asyncio.run(main())
    assert db.submit(Put(b"last")).result(60).revision == 102


async def _waits(future: Any) -> None:
    await future
