# SPDX-License-Identifier: Apache-2.0
"""Waiting for a watch, ending one, and watches under odd circumstances: loops, forks, crowds."""

from __future__ import annotations

import asyncio
import gc
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from together import drain, drained, run_all, told

import kvcore
from kvcore import Put

Opener = Callable[..., kvcore.Store]
pytestmark = pytest.mark.usefixtures("nothing_hangs")
CANCELLED = "kvcore: the watch was cancelled"


# --- waiting -------------------------------------------------------------------------------------


def test_get_waits(db: kvcore.Store) -> None:
    """A blocked get returns with the write of another thread."""
    watch = db.watch(key=b"k")

    def read() -> list[Any]:
        return [told(watch.get()) for _ in range(50)]

    def write() -> None:
        for i in range(50):
            db.put(b"other")
            db.put(b"k", b"%d" % i)

    got, _ = run_all(read, write)
    assert got == [(3 + 2 * i, [("PUT", b"k", b"%d" % i)]) for i in range(50)]


def test_many_wait(db: kvcore.Store) -> None:
    """Threads on watches of their own and on one of all: each event wakes whom it concerns."""
    watches = [db.watch(key=b"k%d" % i) for i in range(6)]
    shared = db.watch(prefix=b"s")

    def read(watch: Any, n: int) -> list[int]:
        return [watch.get().revision for _ in range(n)]

    def write() -> None:
        for i in range(20):
            for n in range(6):
                db.put(b"k%d" % n, b"%d" % i)
            db.put_many([(b"s%d" % i, b"")] * 3)

    results = run_all(*[lambda w=w: read(w, 20) for w in watches],
                      *[lambda: read(shared, 20)] * 3, write)
    taken = sorted(r for mine in results[6:9] for r in mine)
    assert len(set(taken)) == 60
    for mine in results[:9]:
        assert mine == sorted(mine)


def test_timeouts(db: kvcore.Store) -> None:
    """Zero, short, fractions and negative ones; nothing comes before its time is over."""
    watch = db.watch()
    for timeout in (0, 0.0, -1, 0.01, 0.12):
        before = time.monotonic()
        assert watch.get(timeout) is None
        assert watch.get(timeout=timeout) is None
        assert len(watch.get_batch(timeout=timeout)) == 0
        assert time.monotonic() - before >= timeout
    db.put(b"a")
    assert watch.get(1e9).revision == 2


def test_interrupted_wait(ram_dir: Path) -> None:
    """Ctrl-C ends a wait in the main thread; the watch goes on."""
    code = """
import signal, sys, kvcore
signal.signal(signal.SIGINT, signal.default_int_handler)     # a shell's background job ignores it
with kvcore.open() as db:
    watch = db.watch()
    try:
        sys.stdout.write("waiting\\n")
        sys.stdout.flush()
        watch.get()
    except KeyboardInterrupt:
        db.put(b"a")
        sys.stdout.write(f"{watch.get().revision}\\n")
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE,
                          text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waiting\n"
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=60)
    assert (child.returncode, out) == (0, "2\n")


# --- the end -------------------------------------------------------------------------------------


def test_cancel(db: kvcore.Store) -> None:
    """Idempotent; afterwards nothing comes, whatever was still to come."""
    watch = db.watch()
    db.put(b"a")
    assert not watch.cancelled
    watch.cancel()
    watch.cancel()
    assert watch.cancelled
    for call in (watch.get, lambda: watch.get(0), lambda: watch.get_batch(timeout=0)):
        with pytest.raises(kvcore.ClosedError, match=CANCELLED):
            call()
    assert list(watch) == []
    watch.progress()
    db.put(b"b")
    assert "cancelled" in repr(watch)
    assert db.watch(start_revision=2).get(0).revision == 2


def test_context_manager_cancels(db: kvcore.Store) -> None:
    with db.watch() as watch:
        db.put(b"a")
        assert watch.get(0).revision == 2
    assert watch.cancelled


def test_iteration(db: kvcore.Store) -> None:
    """`for` goes on until somebody cancels."""
    watch = db.watch()
    assert iter(watch) is watch
    db.put_many([(b"k%d" % i, b"") for i in range(9)])
    got = []
    for response in watch:
        got.append(response.revision)
        if len(got) == 6:
            watch.cancel()
    assert got == [2, 3, 4, 5, 6, 7]
    with pytest.raises(StopIteration):
        next(watch)


@pytest.mark.parametrize("how", ["cancel", "close"])
@pytest.mark.parametrize("wait", ["get", "get_batch", "for"])
def test_end_during_a_wait(open_store: Opener, how: str, wait: str) -> None:
    """Whoever waits is woken: with ClosedError, or with the end of the iteration."""
    for _ in range(20):
        db = open_store()
        watches = [db.watch(key=b"k%d" % (i % 2)) for i in range(4)]
        waiting = threading.Semaphore(0)

        def read(watch: Any, waiting: Any = waiting) -> str:
            waiting.release()
            try:
                if wait == "for":
                    return f"ended {list(watch)}"
                getattr(watch, wait)()
            except kvcore.ClosedError as error:
                return str(error)
            return "something came"

        def end(db: Any = db, watches: Any = watches, waiting: Any = waiting) -> str:
            for _ in watches:
                waiting.acquire()
            if how == "close":
                db.close()
            else:
                for watch in watches:
                    watch.cancel()
            return ""

        *results, _ = run_all(*[lambda w=w: read(w) for w in watches], end)
        wanted = {("cancel", True): "ended []", ("cancel", False): CANCELLED}.get(
            (how, wait == "for"), "kvcore: closed")
        assert results == [wanted] * 4
        db.close()


def test_closed_store(open_store: Opener) -> None:
    """ClosedError from everything, also from iteration; cancelling still works."""
    db = open_store()
    watch = db.watch()
    db.put(b"a")
    db.close()
    for call in (watch.get, lambda: watch.get(0), lambda: watch.get_batch(timeout=0),
                 lambda: next(watch), lambda: list(watch), db.watch):
        with pytest.raises(kvcore.ClosedError):
            call()
    watch.cancel()
    assert watch.cancelled


def test_responses_outlive_their_store(open_store: Opener) -> None:
    """What was taken stays readable behind cancel and close."""
    db = open_store()
    watch = db.watch()
    db.put_many([(b"k%d" % i, b"v%d" % i) for i in range(20)])
    response, batch = watch.get(), watch.get_batch()
    watch.cancel()
    db.close()
    assert told(response) == (2, [("PUT", b"k0", b"v0")])
    assert [e.kv.value for e in batch] == [b"v%d" % i for i in range(1, 20)]


def test_watch_keeps_its_store(open_store: Opener) -> None:
    """A store nobody else holds lives as long as its watch."""
    db = kvcore.open()
    db.put(b"a", b"1")
    watch = db.watch(start_revision=2)
    close = db.close
    del db
    gc.collect()
    assert told(watch.get(0)) == (2, [("PUT", b"a", b"1")])
    close()


def test_forgotten_watches_leave(db: kvcore.Store) -> None:
    """A watch that nobody holds costs nothing any more, whatever state it was in."""
    for i in range(200):
        watch = db.watch(key=b"k%d" % (i % 7), start_revision=1 + i % 3)
        if i % 2:
            watch.progress()
        if i % 3 == 0:
            watch.get(0)
        db.put(b"k%d" % (i % 7), b"%d" % i)
        if i % 5:
            del watch
    gc.collect()
    db._check()
    assert db.put(b"k1").revision == 202


# --- asyncio -------------------------------------------------------------------------------------


def test_async_for(db: kvcore.Store) -> None:
    """Events come to the loop; cancel() ends the iteration."""
    async def main() -> list[Any]:
        watch = db.watch(prefix=b"k")
        assert watch.__aiter__() is watch

        async def read() -> list[Any]:
            got = []
            async for response in watch:
                got.append(told(response))
                if len(got) == 30:
                    watch.cancel()
            return got

        reader = asyncio.create_task(read())
        for i in range(30):
            await db.submit(Put(b"k%d" % i, b"%d" % i))
        return await reader

    first = db.revision + 1
    assert asyncio.run(main()) == [
        (first + i, [("PUT", b"k%d" % i, b"%d" % i)]) for i in range(30)]


def test_async_from_history(db: kvcore.Store) -> None:
    db.put_many([(b"k%d" % (i % 10), b"%d" % i) for i in range(3000)])

    async def main() -> None:
        watch = db.watch(start_revision=2)
        got = []
        async for response in watch:
            got.append(response.revision)
            if response.revision == 3001:
                break
        assert got == list(range(2, 3002))

    asyncio.run(main())


def test_async_woken_by_threads(db: kvcore.Store) -> None:
    """Several loops in threads, several tasks each, writes from outside."""
    ready = threading.Barrier(4)

    async def main(n: int) -> int:
        async def read(watch: Any) -> list[int]:
            return [(await watch.__anext__()).revision for _ in range(40)]

        watches = [db.watch(prefix=b"%d/" % (i % 3)) for i in range(9)]
        tasks = [asyncio.create_task(read(watch)) for watch in watches]
        await asyncio.sleep(0)
        await asyncio.to_thread(ready.wait)
        lists = await asyncio.gather(*tasks)
        for i, mine in enumerate(lists):
            assert mine == lists[i % 3]
        return len(lists)

    def write() -> None:
        ready.wait()
        for i in range(120):
            db.put(b"%d/x" % (i % 3), b"%d" % i)

    results = run_all(*[lambda n=n: asyncio.run(main(n)) for n in range(3)], write)
    assert results[:3] == [9, 9, 9]


def test_cancelled_tasks_lose_nothing(db: kvcore.Store) -> None:
    """A task cancelled while it waits, or just as its event came, takes no event with it."""
    async def main() -> None:
        watch = db.watch()
        got: list[int] = []

        async def one() -> None:
            got.append((await watch.__anext__()).revision)

        for i in range(60):
            task = asyncio.create_task(one())
            await asyncio.sleep(0)
            if i % 3:
                db.put(b"k", b"%d" % i)
            if i % 2:
                await asyncio.sleep(0)
            task.cancel()
            results = await asyncio.gather(task, return_exceptions=True)
            assert results[0] is None or isinstance(results[0], asyncio.CancelledError)
        got += [r.revision for r in drain(watch)]
        assert got == list(range(2, db.revision + 1))

    asyncio.run(main())


def test_async_timeout(db: kvcore.Store) -> None:
    async def main() -> None:
        watch = db.watch()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(watch.__anext__(), 0.01)
        db.put(b"a")
        assert (await asyncio.wait_for(watch.__anext__(), 60)).revision == 2

    asyncio.run(main())


@pytest.mark.parametrize("how", ["cancel", "close", "compact"])
def test_async_end_during_a_wait(open_store: Opener, how: str) -> None:
    """Waiting tasks are woken by cancel(), by close(), and by a compaction that overtakes."""
    db = open_store(watch_capacity=100)

    async def main() -> list[Any]:
        watches = [db.watch(key=b"k", start_revision=0 if how != "compact" else 1)
                   for _ in range(5)]
        if how == "compact":
            db.put_many([(b"k", b"")] * 5)
            db.compact(4)

        async def read(watch: Any) -> str:
            try:
                async for _ in watch:
                    return "something came"
            except kvcore.Error as error:
                return type(error).__name__
            return "ended"

        tasks = [asyncio.create_task(read(watch)) for watch in watches]
        await asyncio.sleep(0)
        if how == "cancel":
            for watch in watches:
                watch.cancel()
        if how == "close":
            await asyncio.to_thread(db.close)
        return await asyncio.gather(*tasks)

    wanted = {"cancel": "ended", "close": "ClosedError", "compact": "CompactedError"}[how]
    assert asyncio.run(main()) == [wanted] * 5


def test_loop_closed_with_parked_watches(db: kvcore.Store) -> None:
    """A loop that is gone leaves its watches usable, and wakes into nothing."""
    watches = [db.watch(key=b"k") for _ in range(10)]

    async def wait(watch: Any) -> None:
        await watch.__anext__()

    async def main() -> None:
        for watch in watches:
            asyncio.ensure_future(wait(watch))
        await asyncio.sleep(0)

    asyncio.run(main())
    db.put(b"k", b"1")
    assert [drained(watch) for watch in watches] == [[(2, [("PUT", b"k", b"1")])]] * 10
    asyncio.run(main())
    db.put(b"k", b"2")

    async def again() -> list[int]:
        return [(await watch.__anext__()).revision for watch in watches]

    assert asyncio.run(again()) == [3] * 10


def test_loop_thrown_away_with_parked_watches(db: kvcore.Store) -> None:
    """Also one that was never closed properly: its tasks are dropped as they are."""
    watch = db.watch()
    loop = asyncio.new_event_loop()
    waits = [watch.__anext__().__await__()]

    async def main() -> None:
        next(waits[0])

    loop.run_until_complete(main())
    db.put(b"k")
    loop.close()
    waits.clear()
    gc.collect()
    db.put(b"k")
    assert [r.revision for r in drain(watch)] == [2, 3]


# --- forks, pickles, wrong arguments -------------------------------------------------------------

_FORK = """
import os, sys, kvcore
db = kvcore.open(sys.argv[1] or None)
db.put(b"k", b"v")
watch = db.watch(start_revision=1)
lease = db.lease(100)
child = os.fork()
if child == 0:
    calls = [lambda: watch.get(0), lambda: watch.get_batch(timeout=0), lambda: next(watch),
             lambda: watch.progress(), lambda: db.watch(), lambda: db.lease(5),
             lambda: db.leases(), lambda: lease.ttl(), lambda: lease.keepalive(),
             lambda: lease.revoke(), lambda: lease.keys()]
    refused = 0
    for call in calls:
        try:
            call()
        except kvcore.ForkedError:
            refused += 1
    assert refused == len(calls), refused
    watch.cancel()
    del watch
    db.close()
    with kvcore.open() as own, own.watch() as mine:
        own.put(b"own")
        assert mine.get(60).revision == 2
    sys.exit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
db.put(b"after", b"fork")
assert [watch.get(60).revision for _ in range(2)] == [2, 3]
assert watch.get(0) is None and lease.ttl() > 0
db._check()
db.close()
print("fine")
"""


@pytest.mark.parametrize("kind", ["memory", "durable"])
def test_use_after_fork(kind: str, ram_dir: Path) -> None:
    """A child gets ForkedError from every verb of a watch and a lease; the parent goes on."""
    where = str(ram_dir) if kind == "durable" else ""
    done = subprocess.run([sys.executable, "-W", "error", "-c", _FORK, where], timeout=120,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_not_pickled(db: kvcore.Store) -> None:
    watch: Any = db.watch()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps(watch.native, protocol)


def test_not_made_by_hand() -> None:
    for kind in (kvcore.Watch, kvcore.WatchResponse, kvcore.Event, kvcore.EventBatch):
        with pytest.raises(TypeError):
            kind()


@pytest.mark.parametrize("options", [
    {"key": "a"}, {"key": 1}, {"key": bytearray(b"a")}, {"key": b"a", "end": "b"},
    {"prefix": "a"}, {"prefix": 5}, {"start_revision": "1"}, {"start_revision": 1.5},
    {"start_revision": None}, {"colour": b"blue"}, {"end": b"a"},
    {"key": b"a", "prefix": b"a"},
], ids=str)
def test_bad_arguments(db: kvcore.Store, options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, kvcore.InvalidArgument)) as caught:
        db.watch(**options)
    if any(isinstance(value, str | int | bytearray) for name, value in options.items()
           if name in ("key", "end", "prefix")):
        assert isinstance(caught.value, TypeError)
    assert db.watch().get(0) is None


@pytest.mark.parametrize(("key", "end"), [(b"b", b"a"), (b"a", b"a"), (b"a\0", b"a")])
def test_empty_range(db: kvcore.Store, key: bytes, end: bytes) -> None:
    with pytest.raises(kvcore.EmptyRangeError, match="^mvcc: watcher range is empty$"):
        db.watch(key, end)


def test_bad_limits_and_timeouts(db: kvcore.Store) -> None:
    watch = db.watch()
    for limit in (0, -1):
        with pytest.raises(ValueError):
            watch.get_batch(limit=limit, timeout=0)
    for timeout in ("1", b"1", [1]):
        with pytest.raises(TypeError):
            watch.get(timeout)
    with pytest.raises(ValueError):
        watch.get(float("nan"))
    db.put(b"a")
    assert watch.get(0).revision == 2


@pytest.mark.parametrize("capacity", [99, 1, 0, -5])
def test_capacity_too_small(capacity: int) -> None:
    with pytest.raises(ValueError,
                       match=f"^watch cache capacity must be at least 100, got {capacity}$"):
        kvcore.open(watch_capacity=capacity)


@pytest.mark.parametrize("options", [
    {"progress_interval": 0.0}, {"progress_interval": -1.0}, {"min_lease_ttl": 0},
    {"min_lease_ttl": -1},
], ids=str)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        kvcore.open(**options)


# --- crowds --------------------------------------------------------------------------------------


def test_a_thousand_on_one_prefix(db: kvcore.Store) -> None:
    """Each gets everything; a thousand more come and go meanwhile."""
    watches = [db.watch(prefix=b"/pods/") for _ in range(1000)]
    for i in range(20):
        db.put(b"/pods/%d" % i, b"v")
        for watch in watches[i::20]:
            late = db.watch(prefix=b"/pods/")
            late.cancel()
            assert watch.get(0).revision == 2
    for i, watch in enumerate(watches):
        batch = watch.get_batch(limit=100, timeout=0)
        assert batch.keys() == [b"/pods/%d" % n for n in range(1, 20)], i
    db._check()


def test_ten_thousand_on_keys(opened: Any) -> None:
    """One event concerns one of them."""
    db = opened()
    watches = [db.watch(key=b"k%05d" % i) for i in range(10_000)]
    db.put_many([(b"k%05d" % (i * 7919 % 10_000), b"%d" % i) for i in range(10_000)])
    db._check()
    for i, watch in enumerate(watches):
        (event,) = watch.get(0).events
        assert event.kv.key == b"k%05d" % i
        watch.cancel()
    db._check()
    assert db.put(b"k00000").revision == 10_002


def test_slow_watches_of_a_tiny_ring(open_store: Opener) -> None:
    """Overtaken again and again, each at another pace: nothing is lost."""
    db = open_store(watch_capacity=100)
    watches = [db.watch(prefix=b"k%d" % (i % 3)) for i in range(9)]
    got: list[list[int]] = [[] for _ in watches]
    for i in range(3000):
        db.put(b"k%d" % (i % 3), b"%d" % i)
        for n, watch in enumerate(watches):
            if i % (n * n * 10 + 1) == 0:
                response = watch.get(0)
                got[n] += [response.revision] if response else []
    for n, watch in enumerate(watches):
        got[n] += [r.revision for r in drain(watch)]
        assert got[n] == [r for r in range(2, 3002) if (r - 2) % 3 == n % 3]


def test_slow_watches_stay_light(opened: Any) -> None:
    """Their lists of matches are bounded, however far behind they are."""
    db = opened(watch_capacity=100, maintenance=False)
    watches = [db.watch(prefix=b"k%d" % i) for i in range(50)]
    most = 0
    for _ in range(20):
        db.put_many([(b"k%d/%d" % (i % 50, i), b"") for i in range(5000)])
        most = max(most, db.status().watch_bytes)
    assert most <= 50 * 256 * 8 + 100 * 2 * 48 + (1 << 16)
    assert len(watches[7].get_batch(limit=1_000_000, timeout=0)) > 0


def test_forgotten_while_its_progress_waits(db: kvcore.Store) -> None:
    """Of watches of the future that were asked, those that are gone take nobody's answer along."""
    watches = [db.watch(key=b"k", start_revision=5) for _ in range(60)]
    for watch in watches:
        watch.progress()
    del watches[::2], watch
    new = [db.watch(key=b"other") for _ in range(60)]  # where those were
    db.put_many([(b"x", b"")] * 4)
    assert [[(r.revision, r.is_progress) for r in drain(watch)] for watch in watches] == (
        [[(5, True)]] * 30)
    assert [drain(watch) for watch in new] == [[]] * 60
