# SPDX-License-Identifier: Apache-2.0
"""Who waits for a watch, and what ends the wait: events, cancel, close, timeouts, loops, fork.

A test that needs somebody waiting cannot see that a thread is parked; it lets the thread say that
it is about to wait, and does this often enough that the end comes before, in and behind the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from together import drain, run_all

import kvcore

Opener = Callable[..., kvcore.Store]
CANCELLED = "kvcore: the watch was cancelled"
pytestmark = pytest.mark.usefixtures("nothing_hangs")


def waiting(wait: Callable[[], Any], end: Callable[[], Any]) -> Any:
    """Runs `end` once another thread is about to `wait`; what the wait gave or raised."""
    about = threading.Event()

    def waiter() -> Any:
        about.set()
        try:
            return wait()
        except kvcore.Error as error:
            return error

    def ender() -> None:
        about.wait()
        end()

    return run_all(waiter, ender)[0]


WAYS: dict[str, Callable[[Any], Any]] = {
    "get": lambda watch: watch.get(),
    "get with a timeout": lambda watch: watch.get(60),
    "batch": lambda watch: watch.get_batch(),
    "next": lambda watch: watch.__next__(),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return WAYS[request.param]


# --- threads -------------------------------------------------------------------------------------


def test_woken_by_an_event(opened: Opener, way: Callable[[Any], Any]) -> None:
    db = opened()
    with db.watch(b"k") as watch:
        for i in range(100):
            got = waiting(lambda: way(watch), lambda: (db.put(b"x"), db.put(b"k", b"1")))
            assert got.revision == 3 + 2 * i


def test_not_woken_by_others(opened: Opener) -> None:
    """What is filtered, or of another span, is no answer to a get that waits."""
    db = opened()
    with db.watch(prefix=b"k", no_put=True) as watch:
        got = waiting(lambda: watch.get(60), lambda: (
            db.put(b"k"), db.put(b"l"), db.delete(b"l"), db.put(b"k"), db.delete(b"k")))
        assert (got.revision, [e.type for e in got.events]) == (6, ["DELETE"])


def test_woken_by_progress(opened: Opener) -> None:
    db = opened()
    with db.watch(b"k") as watch:
        for _ in range(50):
            assert waiting(lambda: watch.get(60), watch.progress).is_progress


def test_cancel_during_a_wait(opened: Opener, way: Callable[[Any], Any]) -> None:
    """Whoever waits is woken, and told that the watch was cancelled; `next` just ends."""
    db = opened()

    def wait(watch: Any) -> Any:
        try:
            return way(watch)
        except StopIteration:
            return kvcore.ClosedError(CANCELLED)

    for _ in range(100):
        watch = db.watch()
        got = waiting(lambda watch=watch: wait(watch), watch.cancel)
        assert (type(got), str(got)) == (kvcore.ClosedError, CANCELLED)
        with pytest.raises(kvcore.ClosedError, match=CANCELLED):
            watch.get(0)
    assert db.status().watchers == 0


def test_close_during_a_wait(open_store: Opener, way: Callable[[Any], Any]) -> None:
    """ClosedError, and not the one of a cancelled watch."""
    for _ in range(30):
        db = open_store()
        watch = db.watch()
        got = waiting(lambda watch=watch: way(watch), db.close)
        assert (type(got), str(got)) == (kvcore.ClosedError, "kvcore: closed")
        with pytest.raises(kvcore.ClosedError, match="kvcore: closed"):
            next(watch)
        watch.cancel()


def test_many_waiters_of_one_watch(opened: Opener) -> None:
    """All of them are woken by its cancellation."""
    db = opened()
    for _ in range(20):
        watch = db.watch()
        gate = threading.Barrier(9)

        def wait(watch: Any = watch, gate: Any = gate) -> None:
            gate.wait()
            with pytest.raises(kvcore.ClosedError, match=CANCELLED):
                watch.get()

        def cancel(watch: Any = watch, gate: Any = gate) -> None:
            gate.wait()
            watch.cancel()

        run_all(*[wait] * 8, cancel)


@pytest.mark.parametrize("timeout", [0, 0.0, 0.001, 0.02, -1, 1e-12])
def test_timeouts(opened: Opener, timeout: float) -> None:
    """None, or an empty batch, when they are over."""
    db = opened()
    with db.watch(prefix=b"k") as watch:
        assert watch.get(timeout) is None
        assert watch.get(timeout=timeout) is None
        assert len(watch.get_batch(timeout=timeout)) == 0
        db.put(b"other")
        assert watch.get(timeout) is None
        db.put(b"k")
        assert watch.get(timeout).revision == 3


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 10**9])
def test_huge_timeouts(opened: Opener, timeout: float) -> None:
    db = opened()
    with db.watch() as watch:
        db.put(b"k")
        assert watch.get(timeout).revision == 2


def test_a_signal_ends_a_wait(opened: Opener) -> None:
    """The handler runs while the main thread waits, and its exception comes out of get()."""
    class Enough(Exception):
        pass

    def handler(*_: Any) -> None:
        raise Enough

    db = opened()
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with db.watch() as watch:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Enough):
                watch.get()
            db.put(b"k")
            assert watch.get(60).revision == 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- asyncio -------------------------------------------------------------------------------------


async def collect(watch: Any, last: int) -> list[int]:
    found = []
    async for response in watch:
        found.append(response.revision)
        if response.revision >= last:
            break
    return found


def test_async_for(db: kvcore.Store) -> None:
    """Events that are there, that come while the loop sleeps, and that it writes itself."""
    async def write() -> None:
        for i in range(150):
            await db.submit(kvcore.Put(b"k%d" % i, b"v"))

    async def main() -> None:
        watches = [db.watch(start_revision=2), db.watch(), db.watch(prefix=b"k")]
        results = await asyncio.gather(write(), *[collect(watch, 200) for watch in watches])
        assert results[1] == list(range(2, 201))
        assert results[2] == results[3] == list(range(51, 201))

    db.put_many([(b"k%d" % i, b"v") for i in range(49)])
    asyncio.run(main())


def test_async_for_on_several_loops(db: kvcore.Store) -> None:
    """One loop a thread, many tasks each, written to by threads."""
    async def main() -> list[list[int]]:
        watches = [db.watch(start_revision=2) for _ in range(10)]
        return list(await asyncio.gather(*[collect(watch, 401) for watch in watches]))

    def write() -> None:
        for i in range(200):
            db.put(b"%d" % i)

    *_, first, second, third = run_all(write, write, *[lambda: asyncio.run(main())] * 3)
    assert first == second == third == [list(range(2, 402))] * 10


def test_one_watch_on_loops_one_after_the_other(opened: Opener) -> None:
    db = opened()
    watch = db.watch()
    found = []
    for i in range(5):
        async def main() -> int:
            asyncio.get_running_loop().call_soon(db.put, b"k")
            return (await watch.__anext__()).revision

        found.append(asyncio.run(main()))
        db.put(b"between %d" % i)
        found.append(watch.get(60).revision)
    assert found == list(range(2, 12))


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_async_for_ends(opened: Opener, end: str) -> None:
    """With cancel() the loop just ends; with the store it raises ClosedError."""
    db = opened()

    async def read(watch: Any) -> str:
        try:
            async for _ in watch:
                pass
        except kvcore.ClosedError:
            return "closed"
        return "ended"

    async def main() -> None:
        watches = [db.watch() for _ in range(20)]
        tasks = [asyncio.create_task(read(watch)) for watch in watches]
        await asyncio.sleep(0)
        if end == "close":
            await asyncio.to_thread(db.close)
        else:
            for watch in watches:
                await asyncio.to_thread(watch.cancel)
        wanted = "closed" if end == "close" else "ended"
        assert await asyncio.gather(*tasks) == [wanted] * 20

    asyncio.run(main())


def test_cancelled_tasks_lose_nothing(opened: Opener) -> None:
    """A task cancelled while it waits, or when its answer was about to come, takes no event."""
    db = opened()

    async def main() -> list[int]:
        watch = db.watch()
        found: list[int] = []
        for i in range(300):
            task = asyncio.ensure_future(collect(watch, 0))
            await asyncio.sleep(0)
            if i % 3:
                db.put(b"k%d" % i)
            if i % 2:
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                found += await task
        return found + [r.revision for r in drain(watch)]

    assert asyncio.run(main()) == list(range(2, 202))


def test_tasks_share_one_watch(opened: Opener) -> None:
    """Of several tasks awaiting one watch, some cancelled, each event reaches exactly one."""
    db = opened()

    async def main() -> None:
        watch = db.watch()
        found: list[list[int]] = [[] for _ in range(6)]

        async def read(mine: list[int]) -> None:
            async for response in watch:
                mine.append(response.revision)
                if response.revision == 601:
                    watch.cancel()

        tasks = [asyncio.create_task(read(mine)) for mine in found]
        for i in range(600):
            db.put(b"k%d" % (i % 9), b"%d" % i)
            if i % 7 == 0:
                await asyncio.sleep(0)
            if i % 200 == 100:
                tasks[i // 200].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(r for mine in found for r in mine) == list(range(2, 602))
        assert all(mine == sorted(mine) for mine in found)

    asyncio.run(main())


def test_a_thread_and_a_task_share_one_watch(opened: Opener) -> None:
    db = opened()
    watch = db.watch()

    def read() -> list[int]:
        return [response.revision for response in watch]

    async def main() -> list[int]:
        return [response.revision async for response in watch]

    def write() -> None:
        for i in range(500):
            db.put(b"k%d" % (i % 9), b"%d" % i)
        while watch.next_revision <= 501:
            watch.progress()
        watch.cancel()

    _, first, second = run_all(write, read, lambda: asyncio.run(main()))
    assert sorted({*first, *second}) == list(range(2, 502))


def test_wait_for_with_a_timeout(opened: Opener) -> None:
    """asyncio's own timeouts are the timeouts of a watch on a loop."""
    db = opened()

    async def main() -> None:
        watch = db.watch()
        for _ in range(20):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(watch), 0.001)
        db.put(b"k")
        assert (await asyncio.wait_for(anext(watch), 60)).revision == 2

    asyncio.run(main())


def test_loop_closed_with_parked_watches(opened: Opener) -> None:
    """A loop that ends takes its waiters with it; watches and writers go on."""
    db = opened()
    watches = [db.watch() for _ in range(50)]

    async def main() -> None:
        for watch in watches:
            asyncio.ensure_future(collect(watch, 10**9))
        await asyncio.sleep(0)

    for _ in range(5):
        asyncio.run(main())
    db.put(b"k")
    for watch in watches:
        assert watch.get(60).revision == 2


def test_loop_dropped_with_parked_watches(opened: Opener) -> None:
    """Closed without running its tasks to an end: events for them wake nobody, and harm nobody."""
    db = opened()
    watch = db.watch()
    loop = asyncio.new_event_loop()
    coroutine = collect(watch, 10**9)
    task = loop.create_task(coroutine)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    for i in range(10):
        db.put(b"k%d" % i)
    task._log_destroy_pending = False
    coroutine.close()
    del task, coroutine, loop
    gc.collect()
    db.put(b"last")
    assert [r.revision for r in drain(watch)] == list(range(2, 13))
    db._check()


# --- life ----------------------------------------------------------------------------------------


def test_dropped_watch_leaves(opened: Opener) -> None:
    """A watch nobody holds costs writers nothing any more; it need not be cancelled."""
    db = opened()
    for _ in range(100):
        db.watch(prefix=b"k")
    gc.collect()
    assert db.status().watchers == 0
    watch = db.watch()
    db.put(b"k")
    response = watch.get(60)
    del watch
    gc.collect()
    assert response.events[0].kv.value == b""
    db._check()


def test_watch_keeps_its_store(opened: Opener) -> None:
    """Events can be read as long as somebody holds the watch."""
    db = kvcore.open()
    alive = weakref.ref(db)
    watch = db.watch()
    db.put(b"k", b"v")
    with contextlib.closing(db):
        del db
        gc.collect()
        store = alive()
        assert store is not None
        assert watch.get(60).events[0].kv.value == b"v"


def test_store_that_holds_its_watch() -> None:
    """A ring of references: both go, with the warning of a store that was not closed."""
    db = kvcore.open()
    db.mine = db.watch()
    db.put(b"k")
    alive = weakref.ref(db)
    with pytest.warns(ResourceWarning, match="unclosed"):
        del db
        gc.collect()
    assert alive() is None


def test_events_outlive_watch_and_store(opened: Opener, ram_dir: Any) -> None:
    """What was delivered stays readable, values that nobody looked at before included."""
    db = opened(ram_dir / "store")
    watch = db.watch(prev_kv=True)
    db.put(b"k", b"1" * 5000)
    db.put(b"k", b"2" * 5000)
    batch = watch.get_batch(limit=1)
    response = watch.get()
    watch.cancel()
    db.close()
    del watch, db
    gc.collect()
    (event,) = response.events
    assert (batch[0].kv.value, event.kv.value) == (b"1" * 5000, b"2" * 5000)
    assert event.prev_kv.value == b"1" * 5000
    assert batch.keys() == [b"k"]


def test_closed_store(opened: Opener) -> None:
    db = opened()
    watch = db.watch()
    db.close()
    with pytest.raises(kvcore.ClosedError):
        db.watch()
    for call in (watch.get, watch.get_batch, watch.__next__):
        with pytest.raises(kvcore.ClosedError, match="kvcore: closed"):
            call()
    watch.progress()
    assert isinstance(watch.next_revision, int)
    watch.cancel()
    assert watch.cancelled


def in_child(check: Callable[[], bool]) -> bool:
    """Whether the check holds in a forked child."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if check() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def refuses(call: Callable[[], Any]) -> bool:
    try:
        call()
    except kvcore.ForkedError:
        return True
    return False


@pytest.fixture
def watch(opened: Opener) -> Iterator[Any]:
    """Of a store with one event to come."""
    db = opened()
    with db.watch() as made:
        db.put(b"k", b"v")
        yield made.native


@pytest.mark.parametrize("call", [
    lambda w: w.get(0), lambda w: w.get_batch(timeout=0), lambda w: next(w),
    lambda w: w.progress(), lambda w: w.__anext__(), lambda w: w.next_revision,
])
def test_forked_child(watch: Any, call: Callable[[Any], Any]) -> None:
    """Refused in the child, whole in the parent."""
    assert in_child(lambda: refuses(lambda: call(watch)))
    assert watch.get(0).revision == 2


def test_forked_child_lets_go(opened: Opener) -> None:
    """cancel(), `with` and dropping are no error there, and change nothing in the parent."""
    db = opened()
    made = db.watch()
    held = [made.native]
    made = None

    def let_go() -> bool:
        held[0].cancel()
        held.clear()
        gc.collect()
        return refuses(db.watch)

    db.put(b"k")
    assert in_child(let_go)
    assert held[0].get(0).revision == 2


def test_child_of_a_parked_loop_has_its_own(opened: Opener) -> None:
    """A child opens a store, watches it on a loop of its own, and leaves the parent's alone."""
    db = opened()
    watch = db.watch()

    def own() -> bool:
        with kvcore.open() as mine:
            made = mine.watch()

            async def main() -> int:
                asyncio.get_running_loop().call_soon(mine.put, b"k")
                return (await anext(made)).revision

            return asyncio.run(main()) == 2

    assert asyncio.run(_parked(watch, lambda: in_child(own)))
    db.put(b"k")
    assert watch.get(60).revision == 2


async def _parked(watch: Any, check: Callable[[], bool]) -> bool:
    task = asyncio.ensure_future(collect(watch, 10**9))
    await asyncio.sleep(0)
    found = check()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return found


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("refused", [
    lambda w: pickle.dumps(w), lambda w: copy.copy(w), lambda w: copy.deepcopy(w),
    lambda w: type(w)(), lambda w: w.get(b"1"), lambda w: w.get("1"),
    lambda w: w.get_batch("1"), lambda w: type("Sub", (type(w),), {}), lambda w: w.get_batch(1.5),
])
def test_type_errors(watch: Any, refused: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError):
        refused(watch)
    assert watch.get(0).revision == 2


@pytest.mark.parametrize("refused", [
    lambda w: w.get_batch(0), lambda w: w.get_batch(limit=-1), lambda w: w.get(float("nan")),
    lambda w: w.get_batch(timeout=float("nan")),
])
def test_value_errors(watch: Any, refused: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        refused(watch)
    assert watch.get(0).revision == 2


@pytest.mark.parametrize("name", ["Event", "WatchResponse", "EventBatch"])
def test_only_a_watch_makes_them(name: str) -> None:
    with pytest.raises(TypeError):
        getattr(kvcore, name)()


def test_read_only_attributes(watch: Any) -> None:
    event = watch.get(0).events[0]
    for thing, name in ((watch, "cancelled"), (watch, "start_revision"), (event, "type"),
                        (event, "kv"), (watch, "next_revision"), (watch, "compact_revision")):
        with pytest.raises(AttributeError):
            setattr(thing, name, 1)


@pytest.mark.parametrize("args", [
    {"key": "a"}, {"key": b"a", "end": "b"}, {"prefix": "a"}, {"key": 1}, {"key": bytearray(b"a")},
    {"start_revision": "1"}, {"start_revision": 1.5}, {"start_revision": None},
    {"key": b"a", "prefix": b"a"}, {"end": b"b"}, {"unknown": 1},
])
def test_bad_arguments(opened: Opener, args: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        opened().watch(**args)


@pytest.mark.parametrize(("key", "end"), [(b"b", b"a"), (b"a", b"a"), (b"\xff", b"a\xff"),
                                          (b"a\0", b"a"), (b"\0\0", b"\0\0")])
def test_empty_range(opened: Opener, key: bytes, end: bytes) -> None:
    """etcd's words."""
    db = opened()
    with pytest.raises(kvcore.EmptyRangeError, match="mvcc: watcher range is empty") as caught:
        db.watch(key, end)
    assert isinstance(caught.value, kvcore.InvalidArgument)


def test_ranges_that_look_empty(opened: Opener) -> None:
    """An empty key is the smallest there is; an empty end is none, as in a range read."""
    db = opened()
    first, single = db.watch(b"", b"\0\0"), db.watch(b"b", b"")
    for key in (b"\0", b"\0\0", b"b", b"b\0"):
        db.put(key)
    assert [r.events[0].kv.key for r in drain(first)] == [b"\0"]
    assert [r.events[0].kv.key for r in drain(single)] == [b"b"]


@pytest.mark.parametrize("start", [2**63, -2**63 - 1])
def test_start_beyond_int64(opened: Opener, start: int) -> None:
    with pytest.raises((OverflowError, ValueError)):
        opened().watch(start_revision=start)


def test_start_at_the_last_revision_there_can_be(opened: Opener) -> None:
    db = opened()
    watch = db.watch(start_revision=2**63 - 1)
    db.put(b"k")
    assert watch.get(0) is None
    assert watch.next_revision == 2**63 - 1
    db._check()


@pytest.mark.parametrize("capacity", [99, 0, -1])
def test_capacity(opened: Opener, capacity: int) -> None:
    with pytest.raises(ValueError, match=f"capacity must be at least 100, got {capacity}"):
        opened(watch_capacity=capacity)


@pytest.mark.parametrize("capacity", [2**62, 2**63 - 1])
def test_huge_capacity(capacity: int) -> None:
    """Opens, or is refused; in a process of its own because it must not take for ever."""
    program = (f"import kvcore\ntry:\n    kvcore.open(watch_capacity={capacity}).close()\n"
               "except (ValueError, MemoryError):\n    pass")
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_repr(opened: Opener) -> None:
    watch = opened().watch(b"a", b"b")
    assert "b'a'" in repr(watch)
    watch.cancel()
    assert "cancelled" in repr(watch)
