# SPDX-License-Identifier: Apache-2.0
"""The watch cache: what it takes and refuses, what it gives back, what it drops and when."""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import threading
from collections import OrderedDict, UserDict
from typing import Any

import msgpack
import pytest
from cache_events import add_all, as_seen, event, pod, put, seen, versions

import kvcore
from kvcore import CachedEvent, WatchCache
from kvcore.errors import CompactedError, InvalidArgument, KeyTooLargeError
from kvcore.testing.clocks import ManualClock

POLICIES = ["incremental", "full"]
RECORD = 48


def filled(n: int, *, data: bytes = b"v", **options: Any) -> WatchCache:
    cache = WatchCache("pods", **options)
    for version in range(1, n + 1):
        cache.add_event(put(version, f"k{version}", data))
    return cache


def changes(db: kvcore.Store, n: int, value: bytes = b"v") -> kvcore.EventBatch:
    """n events of a store, straight from its window."""
    watch = db.watch()
    db.put_many([(b"k%d" % i, value) for i in range(n)])
    return watch.get_batch(n, 60)


# --- what comes back ------------------------------------------------------------------------------

@pytest.mark.parametrize("policy", POLICIES)
def test_events_come_back_as_they_were(policy: str) -> None:
    cache = WatchCache("pods", policy=policy)
    cache.add_event(event("7", "ADDED", spec={"replicas": 3, "ratio": 0.5, "on": None, "b": b"x"}))
    cache.add_event(event("9", "DELETED", namespace=None))
    cache.add_event(event(11, "MODIFIED", name="näme"))
    a, b, c = cache.events_since(0)
    assert (a.type, a.key, a.resource_version) == ("ADDED", b"shop/cart", 7)
    assert a.object == pod("7", spec={"replicas": 3, "ratio": 0.5, "on": None, "b": b"x"})
    assert msgpack.unpackb(a.value) == a.object and a.object is not a.object
    assert (b.type, b.key, b.resource_version) == ("DELETED", b"cart", 9)
    assert (c.key, c.resource_version) == ("shop/näme".encode(), 11)
    assert versions(cache.events_since(8)) == versions(cache.events_since(7)) == [9, 11]
    assert versions(cache.events_since(10)) == [11]
    assert cache.events_since(11) == cache.events_since(2**62) == []
    assert len(cache) == 3
    cache._check()


def test_events_outlive_the_cache_and_compare() -> None:
    cache = filled(3)
    one, two, three = cache.events_since(0)
    again = cache.events_since(0)[0]
    del cache
    gc.collect()
    assert (two.key, three.object["data"]) == (b"k2", b"v")
    assert one == again and hash(one) == hash(again) and one != two and one != "one"
    assert repr(one) == f"<CachedEvent MODIFIED b'k1' at 1, {len(one.value)} bytes>"
    for make in (CachedEvent, lambda: CachedEvent.__new__(CachedEvent).key,
                 lambda: pickle.dumps(one)):
        with pytest.raises(TypeError):
            make()


# --- a store's events -----------------------------------------------------------------------------

def test_a_stores_events_stay_in_its_log(db: kvcore.Store) -> None:
    """Nothing but their records is held, and they are read when touched, after close() too."""
    cache = WatchCache("keys")
    with db.watch() as watch:
        db.put(b"a", b"1" * 100_000)
        db.put(b"b", b"")
        db.txn(success=[kvcore.Delete(b"a"), kvcore.Put(b"c", b"3")])
        events = [e for _ in range(3) for e in watch.get(60).events]
    add_all(cache, events)
    found = cache.events_since(0)
    assert cache.stats().bytes < 60_000 < cache.stats().payload_bytes
    db.close()
    assert seen(found) == as_seen(events) == [
        ("PUT", b"a", 2, b"1" * 100_000), ("PUT", b"b", 3, b""), ("DELETE", b"a", 4, b""),
        ("PUT", b"c", 4, b"3")]
    assert [e.object for e in found] == [None] * 4
    assert repr(found[2]) == "<CachedEvent DELETE b'a' at 4, 0 bytes>"
    del db, events, watch
    gc.collect()
    assert found == cache.events_since(0)
    cache._check()


def test_events_of_history_are_copied(db: kvcore.Store) -> None:
    db.put(b"a", b"1" * 1000)
    db.delete(b"a")
    cache = WatchCache("keys")
    events = db.watch(start_revision=1).get_batch(10, 60)
    add_all(cache, events)
    stats = cache.stats()
    assert stats.payload_bytes == 1002 and stats.bytes > 49_000 + 65_536
    assert seen(cache.events_since(0)) == as_seen(events)
    cache._check()


def test_events_of_a_second_store_are_copied(open_store: Any) -> None:
    first, second = open_store(), open_store()
    cache = WatchCache("keys", 100, compaction_interval=0)
    one = changes(first, 50)
    add_all(cache, one)
    before = cache.stats().bytes
    two = changes(second, 60, b"other")
    add_all(cache, two[49:])
    assert cache.stats().bytes > before
    assert seen(cache.events_since(0)) == as_seen([*one, *two[49:]])
    add_all(cache, changes(first, 200)[20:])
    cache._check()
    assert cache.stats().bytes < before + 65_536    # the block went with its records


def test_an_event_that_is_none(db: kvcore.Store) -> None:
    with pytest.raises(TypeError, match="Event objects come from a watch"):
        WatchCache("keys").add_event(kvcore.Event.__new__(kvcore.Event))


def test_a_refused_event_of_a_store(db: kvcore.Store) -> None:
    first, second = changes(db, 2)
    cache = WatchCache("keys")
    cache.add_event(second)
    with pytest.raises(InvalidArgument, match="^resource version 2 is smaller than the newest, 3$"):
        cache.add_event(first)
    cache.add_event(second)                         # what is equal is not compared further
    assert seen(cache.events_since(0)) == as_seen([second, second])


# --- mappings -------------------------------------------------------------------------------------

@pytest.mark.parametrize("mapping", [OrderedDict, UserDict])
def test_any_mapping_is_an_event(mapping: Any) -> None:
    cache = WatchCache("pods")
    cache.add_event(mapping(type="ADDED", object=mapping(metadata={
        "name": "cart", "resourceVersion": "3"})))
    assert cache.events_since(0)[0].object == {"metadata": {"name": "cart",
                                                            "resourceVersion": "3"}}


# --- limits and versions --------------------------------------------------------------------------

def test_a_limit_never_divides_a_version() -> None:
    cache = WatchCache("pods")
    for version, name in [(1, "a"), (2, "a"), (2, "b"), (2, "c"), (3, "a")]:
        cache.add_event(put(version, name))
    assert versions(cache.events_since(0, limit=1)) == [1]
    assert versions(cache.events_since(0, 2)) == [1, 2, 2, 2]
    assert versions(cache.events_since(1, 3)) == [2, 2, 2]
    assert versions(cache.events_since(1, 4)) == versions(cache.events_since(1, 0)) == [2, 2, 2, 3]


def test_a_long_answer_is_copied_in_slices() -> None:
    cache = WatchCache("pods", capacity=20_000)
    for version in range(1, 20_001):
        cache.add_event(put(version // 2 + 1, str(version), b"x" * (version % 700)))
    found = cache.events_since(0)
    assert [e.key for e in found] == [b"%d" % v for v in range(1, 20_001)]
    assert all(len(e.object["data"]) == v % 700 for v, e in enumerate(found, 1))
    resumed: list[CachedEvent] = []
    while batch := cache.events_since(resumed[-1].resource_version if resumed else 0, 6001):
        resumed += batch
    assert resumed == found


def test_one_revision_changes_several_keys() -> None:
    cache = WatchCache("pods")
    cache.add_event(put(5, "a"))
    cache.add_event(event("5", name="b"))
    cache.add_event(put(6, "a"))
    assert versions(cache.events_since(4)) == [5, 5, 6]
    cache._check()


def test_a_bookmark_moves_the_version() -> None:
    cache = WatchCache("pods")
    cache.add_event(event("5"))
    cache.add_event({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}})
    assert (len(cache), cache.stats().newest_version, cache.stats().oldest_version) == (1, 9, 5)
    assert cache.events_since(5) == []
    for kind in ("ADDED", "BOOKMARK"):
        with pytest.raises(InvalidArgument, match="version 8 is smaller than the newest, 9"):
            cache.add_event(event("8", kind))
    cache.add_event(event("9", "BOOKMARK"))
    cache.add_event(event("9"))
    cache.add_event(event("10"))
    assert versions(cache.events_since(5)) == [9, 10]
    cache._check()


# --- refusals -------------------------------------------------------------------------------------

@pytest.mark.parametrize(("bad", "message"), [
    ({"type": "ADDED", "object": {}}, "^event object has no readable metadata$"),
    ({"type": "ADDED"}, "^event object has no readable metadata$"),
    ({"type": "ADDED", "object": "pod"}, "^event object has no readable metadata$"),
    ({"type": "ADDED", "object": {"metadata": []}}, "^event object has no readable metadata$"),
    ({"type": "BOOKMARK", "object": {}}, "^event object has no readable metadata$"),
    (event("6", name=None), "^event object has no readable metadata$"),
    (event("6", name=""), "^event object has no readable metadata$"),
    (event("6", namespace=3), "^event object has no readable metadata$"),
    (event("6", name="\ud800"), "^event object has no readable metadata$"),
    ({"type": "ADDED", "object": {"metadata": {"name": "n"}}}, "^resource version is empty$"),
    (event(""), "^resource version is empty$"),
    (event(None), "^resource version is empty$"),
    (event("", "BOOKMARK"), "^resource version is empty$"),
    (event("x1"), "^resource version is not a number: 'x1'$"),
    (event("-1"), "^resource version is not a number: '-1'$"),
    (event(" 6"), "^resource version is not a number"),
    (event("6.0"), "^resource version is not a number"),
    (event("٦"), "^resource version is not a number"),
    (event(6.0), "^resource version is not a number"),
    (event(True), "^resource version is not a number"),
    (event(b"6"), "^resource version is not a number"),
    (event("9" * 5000), "^resource version is not a number"),
    (event("0"), "^resource version is out of range"),
    (event(-5), "^resource version is out of range"),
    (event(str(2**63)), "^resource version is out of range"),
    (event("4"), "^resource version 4 is smaller than the newest, 5$"),
    (event("6", "ERROR"), "^unknown event type 'ERROR'$"),
    (event("6", "PUT"), "^unknown event type 'PUT'$"),
    (event("6", None), "^unknown event type None$"),
    (event("6", ["ADDED"]), "^unknown event type"),
    ({}, "^unknown event type None$"),
    (event("6", at={1, 2}), "^event object cannot be kept"),
    (event("6", big=2**70), "^event object cannot be kept"),
    (event("6", text="\ud800"), "^event object cannot be kept"),
])
@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_refused(policy: str, bad: Any, message: str) -> None:
    cache = WatchCache("pods", policy=policy)
    cache.add_event(event("5"))
    before = cache.stats(), cache.events_since(0)
    with pytest.raises(InvalidArgument, match=message):
        cache.add_event(bad)
    assert (cache.stats(), cache.events_since(0)) == before
    cache._check()


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def test_other_refusals() -> None:
    cache = WatchCache("pods")
    with pytest.raises(InvalidArgument, match="^event object cannot be kept"):
        cache.add_event(event("6", deep=nested(5000)))
    with pytest.raises(KeyTooLargeError):
        cache.add_event(event("6", name="n" * 65_536))
    for bad in (None, 5, "event", b"event", [("type", "ADDED")], object()):
        with pytest.raises(TypeError, match="an event is a kvcore.Event or a mapping"):
            cache.add_event(bad)
    for version in ("5", 5.0, None):
        with pytest.raises(TypeError):
            cache.events_since(version)
        with pytest.raises(TypeError):
            cache.events_since(0, version)
    with pytest.raises(OverflowError):
        cache.events_since(2**63)
    with pytest.raises(ValueError, match="limit must not be negative, got -1"):
        cache.events_since(0, -1)
    with pytest.raises(TypeError, match="a watch cache cannot be pickled"):
        pickle.dumps(cache)
    assert len(cache) == 0 and cache and cache.stats().bytes == 0
    cache.add_event(put(6, "k" * 65_535))
    assert len(cache.events_since(0)[0].key) == 65_535


@pytest.mark.parametrize(("options", "message"), [
    ({"capacity": 99}, "^watch cache capacity must be at least 100, got 99$"),
    ({"capacity": -1}, "^watch cache capacity must be at least 100, got -1$"),
    ({"capacity": 2**60}, "at most"),
    ({"policy": "partial"}, "^policy must be \"incremental\" or \"full\", got 'partial'$"),
    ({"policy": []}, "^policy must be"),
    ({"compaction_interval": -1}, "^compaction_interval must be at least 0, got -1$"),
    ({"compaction_interval": float("nan")}, "^compaction_interval must be at least 0"),
])
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WatchCache("pods", **options)


@pytest.mark.parametrize("options", [
    {"capacity": "100"}, {"capacity": 100.5}, {"clock": 5}, {"compaction_interval": "1"},
])
def test_options_of_another_type(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        WatchCache("pods", **options)
    with pytest.raises(TypeError):
        WatchCache(b"pods")


# --- what is dropped, and when --------------------------------------------------------------------

@pytest.mark.parametrize("policy", POLICIES)
def test_the_oldest_ninth_goes_at_110_percent(policy: str) -> None:
    cache = filled(110, capacity=100, policy=policy)
    assert (len(cache), cache.stats().compactions) == (110, 0)
    assert len(cache.events_since(0)) == 110
    cache.add_event(put(111))
    stats = cache.stats()
    assert (stats.length, stats.dropped, stats.compactions) == (90, 21, 1)
    assert (stats.oldest_version, stats.newest_version) == (22, 111)
    assert versions(cache.events_since(21)) == list(range(22, 112))
    for version in (20, 0, -1):
        with pytest.raises(CompactedError) as caught:
            cache.events_since(version)
        assert caught.value.compact_revision == 21
    cache._check()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("interval", [30, 1e9, float("inf"), 1e300])
def test_the_ceiling_holds_inside_the_interval(policy: str, interval: float) -> None:
    clock = ManualClock(1000)
    cache = filled(111, capacity=100, policy=policy, clock=clock, compaction_interval=interval)
    lengths = []
    for version in range(112, 400):
        cache.add_event(put(version))
        lengths.append(len(cache))
        cache._check()
    assert max(lengths) == 200 and cache.stats().compactions == 3
    assert lengths[:111] == [*range(91, 201), 90]


def test_the_interval_is_the_clocks() -> None:
    clock = ManualClock()
    cache = filled(111, capacity=100, clock=clock, compaction_interval=30.0)
    for version in range(112, 150):
        cache.add_event(put(version))
    assert cache.stats().compactions == 1
    clock.advance(29.999)
    cache.add_event(put(150))
    assert cache.stats().compactions == 1
    clock.advance(0.001)
    with pytest.raises(InvalidArgument):
        cache.add_event(put(149))                   # what is refused changes nothing
    assert cache.stats().compactions == 1
    cache.add_event(put(151))
    assert (cache.stats().compactions, len(cache)) == (2, 90)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_revision_larger_than_the_cache(policy: str) -> None:
    cache = WatchCache("pods", 100, policy=policy)
    for i in range(1000):
        cache.add_event(put(7, str(i)))
    assert cache.stats().dropped == 1000 - len(cache) > 700
    with pytest.raises(CompactedError) as caught:
        cache.events_since(6)
    assert caught.value.compact_revision == 7
    assert cache.events_since(7) == []
    cache._check()


def test_pauses_are_measured() -> None:
    cache = filled(110, capacity=100)
    assert cache.stats().longest_pause == 0.0
    cache.add_event(put(111))
    assert cache.stats().longest_pause > 0.0


# --- memory ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("policy", POLICIES)
def test_a_hundred_thousand_events_take_less_than_ten_megabytes(opened: Any, policy: str) -> None:
    """Of a store: nothing but records.  Of Kubernetes: records, and blocks that are full."""
    events = changes(opened(watch_capacity=200_000), 100_000, b"v" * 100)
    cache, pods = (WatchCache("pods", policy=policy) for _ in range(2))
    add_all(cache, events)
    assert len(cache) == 100_000 and cache.stats().compactions == 0
    assert RECORD * 100_000 <= cache.stats().bytes < 5_000_000
    for version in range(1, 100_001):
        pods.add_event(put(version, f"k{version}", b"v" * 100))
    stats = pods.stats()
    assert len(pods) == 100_000 and stats.payload_bytes > 100 * 100_000
    assert RECORD * 100_000 <= stats.bytes - stats.payload_bytes < 6_000_000
    for _ in range(100_000):
        pods.add_event(put(100_001, data=b"v" * 100))
    assert pods.stats().bytes - pods.stats().payload_bytes < 10_000_000
    pods._check()


def test_a_rebuild_holds_both_copies_for_a_while() -> None:
    peaks = {policy: filled(25_000, data=b"v" * 200, capacity=10_000, policy=policy,
                            compaction_interval=0).stats() for policy in POLICIES}
    incremental, full = peaks["incremental"], peaks["full"]
    assert incremental.compactions == full.compactions > 5
    assert incremental.bytes == full.bytes
    assert full.peak_bytes > incremental.peak_bytes * 1.7


# --- threads --------------------------------------------------------------------------------------

class Feed:
    """Writers that share one numbering: the lock makes the versions ascend."""

    def __init__(self, cache: WatchCache, until: int) -> None:
        self.cache = cache
        self.until = until
        self.lock = threading.Lock()
        self.version = 0
        self.failures: list[BaseException] = []

    def write(self) -> None:
        try:
            while True:
                with self.lock:
                    if self.version >= self.until:
                        return
                    self.version += 1
                    self.cache.add_event(put(self.version, str(self.version), b"x" * 50))
        except BaseException as error:
            self.failures.append(error)

    def read(self, limit: int) -> None:
        """Follows the events: none is missed, but for those behind a CompactedError."""
        seen = 0
        try:
            while seen < self.until:
                try:
                    for found in self.cache.events_since(seen, limit):
                        assert found.resource_version == seen + 1, (found, seen)
                        assert found.key == b"%d" % (seen + 1)
                        seen += 1
                except CompactedError as error:
                    assert error.compact_revision > seen
                    seen = error.compact_revision
                assert self.cache.stats().length <= 2 * self.cache.stats().capacity
        except BaseException as error:
            self.failures.append(error)


@pytest.mark.parametrize("policy", POLICIES)
def test_writers_and_readers(policy: str) -> None:
    cache = WatchCache("pods", 1000, compaction_interval=0, policy=policy)
    feed = Feed(cache, 30_000)
    threads = [threading.Thread(target=feed.write) for _ in range(2)]
    threads += [threading.Thread(target=feed.read, args=(limit,)) for limit in (0, 1, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert feed.failures == []
    assert cache.stats().newest_version == 30_000
    cache._check()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_long_answer_may_be_overtaken(policy: str) -> None:
    """Copied a MiB at a time while the window moves on: whole, or CompactedError."""
    cache = WatchCache("pods", 100, compaction_interval=0, policy=policy)
    failures: list[BaseException] = []

    def read() -> None:
        since = 0
        try:
            while since < 600:
                try:
                    found = versions(cache.events_since(since))
                    assert found == list(range(since + 1, since + 1 + len(found)))
                    since = cache.stats().oldest_version - 1 if since < 500 else since + len(found)
                except CompactedError as error:
                    assert error.compact_revision > since
                    since = error.compact_revision
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for version in range(1, 601):
        cache.add_event(put(version, data=b"x" * 200_000))
    for thread in threads:
        thread.join()
    assert failures == []
    cache._check()


def test_a_cache_follows_a_store(db: kvcore.Store) -> None:
    """Fed by a watch in one thread, read in others while the store is written to."""
    cache = WatchCache("keys", 100, compaction_interval=0)
    failures: list[BaseException] = []
    watch = db.watch()

    def feed() -> None:
        for response in watch:
            add_all(cache, response.events)

    def read() -> None:
        since = 1
        try:
            while since < 3001:
                try:
                    for found in cache.events_since(since):
                        since += 1
                        assert (found.resource_version, found.key) == (since, b"%d" % (since - 2))
                        assert found.value == found.key * 3
                except CompactedError as error:
                    since = error.compact_revision
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=target) for target in (feed, read, read)]
    for thread in threads:
        thread.start()
    db.put_many([(b"%d" % i, b"%d" % i * 3) for i in range(3000)])
    for thread in threads[1:]:
        thread.join()
    watch.cancel()
    threads[0].join()
    assert failures == [] and cache.stats().newest_version == 3001
    cache._check()


def test_unordered_writers_are_refused_but_break_nothing() -> None:
    cache = WatchCache("pods", 1000)
    numbers = itertools.count(1)
    added: list[int] = []

    def write() -> None:
        for _ in range(3000):
            version = next(numbers)
            try:
                cache.add_event(put(version))
            except InvalidArgument:
                continue
            added.append(version)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats()
    assert stats.length + stats.dropped == len(added)
    assert versions(cache.events_since(stats.oldest_version - 1)) == sorted(added)[-stats.length:]
    cache._check()


def test_a_forked_child_is_told() -> None:
    cache = filled(3)
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        answer = b"no error"
        try:
            cache.events_since(0)
        except kvcore.ForkedError as error:
            answer = str(error).encode()
        finally:
            os.write(write_fd, answer)
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as pipe:
        assert pipe.read() == b"kvcore: used after fork; make the watch cache where it is used"
    os.waitpid(child, 0)
    assert len(cache) == 3
