# SPDX-License-Identifier: Apache-2.0
"""What a watch delivers: live, from history, filtered, with previous pairs, progress, compaction.

Every watch here is recorded, and checked against the history of its store when the test is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from together import drain, drained, finish, run_all, told

import kvcore
from kvcore import Delete, Put
from kvcore.testing.clocks import ManualClock

Opener = Callable[..., kvcore.Store]
pytestmark = pytest.mark.usefixtures("nothing_hangs")


def keys_of(response: Any) -> list[bytes]:
    return [event.kv.key for event in response.events]


def revisions(watch: Any) -> list[int]:
    """Of all responses that are there; progress as its negative."""
    return [-r.revision if r.is_progress else r.revision for r in drain(watch)]


# --- live and from history -----------------------------------------------------------------------


def test_live(db: kvcore.Store) -> None:
    """A watch from now on: what was before is not told, what comes is, one revision a response."""
    db.put(b"old", b"0")
    with db.watch() as watch:
        assert (watch.start_revision, watch.next_revision) == (3, 3)
        assert watch.get(0) is None
        db.put(b"a", b"1")
        db.put(b"a", b"2")
        db.delete(b"a")
        assert drained(watch) == [(3, [("PUT", b"a", b"1")]), (4, [("PUT", b"a", b"2")]),
                                  (5, [("DELETE", b"a", b"")])]
        assert watch.next_revision == 6
        assert not watch.cancelled
    assert watch.cancelled


def test_fields_of_an_event(db: kvcore.Store) -> None:
    """A put tells all of its pair; a deletion its key and revision, and nothing else."""
    watch = db.watch(prev_kv=True)
    lease = db.lease(60, id=77)
    db.put(b"a", b"1")
    db.put(b"a", b"2", lease=lease.id)
    db.delete(b"a")
    db.put(b"a", b"3")
    first, second, gone, again = (response.events[0] for response in drain(watch))
    kv = second.kv
    assert (kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease) == (
        b"a", b"2", 2, 3, 2, 77)
    assert [e.is_create for e in (first, second, gone, again)] == [True, False, False, True]
    assert [e.type for e in (first, second, gone, again)] == ["PUT", "PUT", "DELETE", "PUT"]
    kv = gone.kv
    assert (kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease) == (
        b"a", b"", 0, 4, 0, 0)
    assert first.prev_kv is None
    assert (second.prev_kv.value, second.prev_kv.mod_revision) == (b"1", 2)
    assert (gone.prev_kv.value, gone.prev_kv.lease, gone.prev_kv.version) == (b"2", 77, 2)
    assert again.prev_kv is None
    assert (again.kv.create_revision, again.kv.version) == (5, 1)


@pytest.mark.parametrize("start", [1, 2, 3, 5, 6, 7])
def test_from_history(db: kvcore.Store, start: int) -> None:
    """History from the start on, then what comes, as if there had been no border."""
    for i in range(2, 7):
        db.put(b"k%d" % (i % 2), b"%d" % i)
    watch = db.watch(prefix=b"k", start_revision=start)
    assert watch.start_revision == start
    db.put(b"k0", b"7")
    assert revisions(watch) == list(range(max(2, start), 8))
    db.delete(prefix=b"k")
    assert [keys_of(r) for r in drain(watch)] == [[b"k0", b"k1"]]


def test_future_start(db: kvcore.Store) -> None:
    """Accepted; what happens before it is left out, and progress comes when it is reached."""
    watch = db.watch(start_revision=5)
    assert watch.next_revision == 5
    watch.progress()
    for i in range(2, 5):
        db.put(b"k", b"%d" % i)
        assert [r for r in drain(watch) if not r.is_progress] == []
    db.put(b"k", b"5")
    db.put(b"k", b"6")
    assert [r for r in revisions(watch) if r > 0] == [5, 6]


def test_history_is_read_in_pieces(db: kvcore.Store) -> None:
    """Far more of it than a pass collects, with large and small revisions mixed."""
    for i in range(1500):
        db.put(b"k%03d" % (i % 97), b"%d" % i)
        if i % 250 == 0:
            db.txn([], [Put(b"t%02d" % n, b"%d" % i) for n in range(60)])
    watch = db.watch(start_revision=1)
    found = drain(watch)
    assert [r.revision for r in found] == list(range(2, db.revision + 1))
    assert sum(len(r.events) for r in found) == 1500 + 6 * 60
    batch = db.watch(start_revision=1).get_batch(limit=100_000, timeout=0)
    assert 0 < len(batch) <= 1860


def test_writers_while_a_watch_joins(db: kvcore.Store) -> None:
    """Wherever in the traffic a watch begins, at the end it has every revision from there on."""
    todo = 2000
    found: list[list[int]] = []

    def write(n: int) -> None:
        for i in range(todo // 4):
            db.put(b"%d/%d" % (n, i % 50), b"%d" % i)

    def join() -> None:
        for back in (0, 1, 5, 50, 10_000):
            now = db.revision
            start = max(1, now - back)
            with db.watch(start_revision=start) as watch:
                seen = [] if start > 1 else [1]
                while not seen or seen[-1] < min(now + 100, todo + 1):
                    seen.append(watch.get(60).revision)
                found.append(seen)

    run_all(*[lambda n=n: write(n) for n in range(4)], join, join)
    for seen in found:
        assert seen == list(range(seen[0], seen[-1] + 1))


# --- spans and filters ---------------------------------------------------------------------------

KEYS = [b"\0", b"a", b"a\0", b"a/1", b"a/2", b"b", b"\xff", b"\xff\xff"]


@pytest.mark.parametrize(("span", "wanted"), [
    ({}, KEYS),
    ({"key": b"a"}, [b"a"]),
    ({"key": b""}, [b"\0"]),
    ({"key": b"", "end": b"\0"}, KEYS),
    ({"key": b"\0", "end": b"\0"}, KEYS),
    ({"key": b"a", "end": b"b"}, [b"a", b"a\0", b"a/1", b"a/2"]),
    ({"key": b"a", "end": b"\0"}, KEYS[1:]),
    ({"prefix": b"a/"}, [b"a/1", b"a/2"]),
    ({"prefix": b"\xff"}, [b"\xff", b"\xff\xff"]),
    ({"prefix": b""}, KEYS),
    ({"prefix": b"nothing"}, []),
])
def test_spans(db: kvcore.Store, span: dict[str, bytes], wanted: list[bytes]) -> None:
    """One key, a half-open range, no upper bound, a prefix, everything: live and from history."""
    live = db.watch(**span)
    for key in KEYS:
        db.put(key, b"v")
    past = db.watch(**span, start_revision=1)
    for watch in (live, past):
        assert [key for r in drain(watch) for key in keys_of(r)] == wanted


@pytest.mark.parametrize(("filters", "wanted"), [
    ({"no_put": True}, [4, 5]), ({"no_delete": True}, [2, 3, 5]),
    ({"no_put": True, "no_delete": True}, []), ({}, [2, 3, 4, 5]),
])
def test_filters(db: kvcore.Store, filters: dict[str, bool], wanted: list[int]) -> None:
    """What is filtered leaves no empty response; of a mixed revision the rest comes."""
    live = db.watch(**filters)
    db.put(b"a")
    db.put(b"b")
    db.delete(b"a")
    db.txn([], [Delete(b"b"), Put(b"c")])
    past = db.watch(**filters, start_revision=2)
    for watch in (live, past):
        found = drain(watch)
        assert [r.revision for r in found] == wanted
        assert all(r.events for r in found)
        assert watch.next_revision == 6


# --- revisions are atomic ------------------------------------------------------------------------


def test_a_revision_is_one_response(db: kvcore.Store) -> None:
    """A transaction in the order of its operations; a range delete in the order of its keys."""
    watch = db.watch()
    db.txn([], [Put(b"c", b"1"), Put(b"a", b"2"), Put(b"b", b"3"), Delete(b"none")])
    db.delete(b"a", b"z")
    db.delete(b"a", b"z")
    db.txn([], [Delete(b"a", b"z")])
    assert drained(watch) == [
        (2, [("PUT", b"c", b"1"), ("PUT", b"a", b"2"), ("PUT", b"b", b"3")]),
        (3, [("DELETE", b"a", b""), ("DELETE", b"b", b""), ("DELETE", b"c", b"")])]


def test_a_revoked_lease_is_one_response(db: kvcore.Store) -> None:
    """All of its keys in one revision, in order."""
    lease = db.lease(60)
    for key in (b"c", b"a", b"b"):
        db.put(key, b"v", lease=lease.id)
    with db.watch(prev_kv=True) as watch:
        lease.revoke()
        (response,) = drain(watch)
    assert told(response) == (5, [("DELETE", key, b"") for key in (b"a", b"b", b"c")])
    assert [e.prev_kv.lease for e in response.events] == [lease.id] * 3


def test_a_large_revision(opened: Opener) -> None:
    """A delete of 150,000 keys is one response: live, from history, and with a tiny ring."""
    db = opened(watch_capacity=100)
    for base in range(0, 150_000, 10_000):
        db.put_many([(b"k%06d" % i, b"") for i in range(base, base + 10_000)])
    live = db.watch()
    gone = db.delete(prefix=b"k")
    assert gone.deleted == 150_000
    db.put(b"behind")
    first, second = live.get(60), live.get(60)
    assert (first.revision, len(first.events)) == (gone.revision, 150_000)
    assert keys_of(second) == [b"behind"]
    past = db.watch(start_revision=gone.revision, prev_kv=True)
    batch = past.get_batch(limit=1, timeout=60)
    assert (len(batch), batch.revision) == (150_000, gone.revision)
    assert batch.keys()[::50_000] == [b"k000000", b"k050000", b"k100000"]
    assert batch[-1].prev_kv.key == b"k149999"


# --- previous pairs and compaction ---------------------------------------------------------------


def test_prev_kv_and_compaction(db: kvcore.Store) -> None:
    """The pair before is told while it can be read: revision - 1 is not compacted."""
    for i in range(2, 8):
        db.put(b"k", b"%d" % i)
    db.compact(5, physical=True)
    watch = db.watch(start_revision=5, prev_kv=True)
    events = [r.events[0] for r in drain(watch)]
    assert [e.kv.value for e in events] == [b"5", b"6", b"7"]
    assert [e.prev_kv and e.prev_kv.value for e in events] == [None, b"5", b"6"]


def test_prev_kv_of_a_long_batch(db: kvcore.Store) -> None:
    """They are looked up a few at a time: each event has its own."""
    keys = [b"k%03d" % i for i in range(300)]
    db.put_many([(key, key + b"/old") for key in keys])
    live, old = db.watch(prev_kv=True), db.watch(start_revision=302, prev_kv=True)
    db.put_many([(key, b"new") for key in keys])
    for watch in (live, old):
        batch = watch.get_batch(limit=1000)
        assert [event.prev_kv.value for event in batch] == [key + b"/old" for key in keys]


def test_prev_kv_read_before_it_is_compacted(db: kvcore.Store) -> None:
    """An event that was taken keeps its pair whatever is compacted behind it."""
    watch = db.watch(prev_kv=True)
    db.put(b"k", b"1")
    db.put(b"k", b"2")
    first, second = watch.get(), watch.get()
    db.put(b"k", b"3")
    db.compact(4, physical=True)
    assert first.events[0].prev_kv is None
    assert second.events[0].prev_kv.value == b"1"
    assert second.events[0].kv.value == b"2"


@pytest.mark.parametrize("start", [1, 2, 4])
def test_compacted_start(db: kvcore.Store, start: int) -> None:
    """Made without complaint; each get says so, with the revision to begin again from."""
    for i in range(2, 8):
        db.put(b"k", b"%d" % i)
    db.compact(5)
    watch = db.watch(start_revision=start)
    for _ in range(3):
        with pytest.raises(kvcore.CompactedError) as caught:
            watch.get(60)
        assert caught.value.compact_revision == 5
        assert str(caught.value) == "etcdserver: mvcc: required revision has been compacted"
    with pytest.raises(kvcore.CompactedError):
        watch.get_batch(timeout=0)
    with pytest.raises(kvcore.CompactedError):
        next(watch)
    assert watch.compact_revision == 5
    assert not watch.cancelled
    db.put(b"k", b"8")
    with pytest.raises(kvcore.CompactedError):
        watch.get(0)
    again = db.watch(start_revision=watch.compact_revision)
    assert revisions(again) == [5, 6, 7, 8]
    assert again.compact_revision == 0


def test_start_at_the_compaction(db: kvcore.Store) -> None:
    """A tombstone at the very revision of the compaction is still an event."""
    db.put(b"a")
    db.put(b"b")
    db.delete(b"a")
    db.compact(4, physical=True)
    assert drained(db.watch(start_revision=4)) == [(4, [("DELETE", b"a", b"")])]


def test_start_at_the_compaction_behind_its_sweep(db: kvcore.Store) -> None:
    """What was swept is not told, though its memory holds other changes by now."""
    for i in range(2, 40):
        db.put(b"k", b"%d" % i)
    db.compact(30, physical=True)
    for i in range(90):
        db.put(b"other%d" % (i % 3), b"")
    assert revisions(db.watch(b"k", start_revision=30)) == list(range(30, 40))


def test_negative_start(db: kvcore.Store) -> None:
    with pytest.raises(kvcore.CompactedError) as caught:
        db.watch(start_revision=-1)
    assert caught.value.compact_revision in (0, None)


def test_overtaken_by_compaction(opened: Opener) -> None:
    """A slow watch that lost what it had to come is told so; one that had all goes on."""
    db = opened(watch_capacity=100)
    slow, quick, elsewhere = db.watch(), db.watch(), db.watch(b"other")
    for i in range(500):
        db.put(b"k%d" % (i % 7), b"%d" % i)
    assert revisions(quick) == list(range(2, 502))
    db.compact(400, physical=True)
    with pytest.raises(kvcore.CompactedError) as caught:
        slow.get(60)
    assert caught.value.compact_revision == slow.compact_revision == 400
    for watch in (quick, elsewhere):
        assert watch.get(0) is None
    db.put(b"other", b"x")
    assert revisions(quick) == revisions(elsewhere) == [502]


def test_compaction_of_what_was_delivered(db: kvcore.Store) -> None:
    """Compaction does no harm to a watch that is up to date."""
    watch = db.watch(prefix=b"k", start_revision=1)
    for i in range(2, 200):
        db.put(b"k", b"%d" % i)
        assert watch.get(60).revision == i
        if i % 3 == 0:
            db.compact(i, physical=i % 2 == 0)
    assert watch.get(0) is None


# --- progress ------------------------------------------------------------------------------------


def test_progress_asked(db: kvcore.Store) -> None:
    """It comes behind every event up to its revision, also of a watch that never had one."""
    watch, quiet = db.watch(prefix=b"k"), db.watch(b"never")
    db.put(b"k1")
    db.put(b"k2")
    watch.progress()
    quiet.progress()
    db.put(b"k3")
    found = drain(watch)
    at = next(i for i, r in enumerate(found) if r.is_progress)
    assert [r.revision for r in found[:at] if r.revision > found[at].revision] == []
    assert [r.revision for r in found if not r.is_progress] == [2, 3, 4]
    assert found[at].revision >= 3
    assert found[at].events == ()
    (told_quiet,) = drain(quiet)
    assert told_quiet.is_progress
    assert told_quiet.revision >= 3
    assert watch.get(0) is None


@pytest.mark.parametrize("writes", [0, 3])
def test_progress_of_a_new_watch(db: kvcore.Store, writes: int) -> None:
    """A watch from now on is up to date at once, whether anybody ever wrote or not."""
    for i in range(writes):
        db.put(b"%d" % i)
    watch = db.watch()
    watch.progress()
    assert revisions(watch) == [-1 - writes]
    db.put(b"k")
    assert revisions(watch) == [2 + writes]


def test_progress_asked_again_and_again(db: kvcore.Store) -> None:
    """Questions that nobody answered yet are one; each answered one is answered once."""
    watch = db.watch()
    for _ in range(5):
        watch.progress()
    assert revisions(watch) == [-1]
    db.put(b"a")
    for _ in range(5):
        watch.progress()
    assert revisions(watch) == [2, -2]


def test_progress_in_history(db: kvcore.Store) -> None:
    """Asked of a watch that is still reading history, it does not overtake it."""
    for i in range(3000):
        db.put(b"k%d" % (i % 11), b"%d" % i)
    watch = db.watch(start_revision=1)
    watch.progress()
    assert revisions(watch) == [*range(2, 3002), -3001]


def test_progress_in_a_batch(db: kvcore.Store) -> None:
    """A batch's revision says it by itself."""
    watch = db.watch(b"k")
    db.put(b"k")
    db.put(b"other")
    watch.progress()
    batch = watch.get_batch(timeout=0)
    assert (batch.keys(), batch.revision) == ([b"k"], 3)
    empty = watch.get_batch(timeout=0)
    assert (len(empty), empty.revision) == (0, 3)


def test_periodic_progress(opened: Opener) -> None:
    """Each interval in which nothing was delivered, for those that asked for it."""
    clock = ManualClock()
    db = opened(clock=clock, maintenance=False, progress_interval=10.0)
    watch = db.watch(b"k", progress_notify=True)
    silent = db.watch(b"k")
    db.put(b"other")
    finish(db)
    assert revisions(watch) == []
    clock.advance(10)
    finish(db)
    assert revisions(watch) == [-2]
    db.put(b"k")
    assert revisions(watch) == [3]
    clock.advance(10)
    finish(db)
    assert revisions(watch) == []
    clock.advance(10)
    finish(db)
    assert revisions(watch) == [-3]
    assert revisions(silent) == [3]


def test_progress_is_a_bookmark(opened: Opener) -> None:
    """Resumed behind it, nothing is missing and nothing comes twice."""
    db = opened()
    watch = db.watch(prefix=b"k")
    for i in range(30):
        db.put(b"k%d" % i if i % 3 == 0 else b"x", b"")
    found = [r.revision for r in drain(watch)]
    watch.progress()
    mark = watch.get(60)
    assert mark.is_progress
    watch.cancel()
    assert mark.revision == db.revision
    db.compact(mark.revision)
    again = db.watch(prefix=b"k", start_revision=mark.revision + 1)
    for i in range(6):
        db.put(b"k%d" % i)
    found += revisions(again)
    assert found == [2 + i for i in range(30) if i % 3 == 0] + list(range(32, 38))


# --- batches and iteration -----------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 1])
def test_batches(db: kvcore.Store, start: int) -> None:
    """Whole revisions until there are enough; an event by index, slice and iteration."""
    live = db.watch()
    for i in range(10):
        db.txn([], [Put(b"%d/%d" % (i, n), b"%d" % n) for n in range(3)])
    watch = db.watch(start_revision=2) if start else live
    first = watch.get_batch(limit=4)
    assert (len(first), first.revision) == (6, 3)
    assert first.mod_revisions.tolist() == [2, 2, 2, 3, 3, 3]
    assert first.mod_revisions.dtype == "int64"
    assert first.keys() == [e.kv.key for e in first] == [
        b"0/0", b"0/1", b"0/2", b"1/0", b"1/1", b"1/2"]
    assert first[-1] == first[5]
    assert [e.kv.value for e in first[1:3]] == [b"1", b"2"]
    with pytest.raises(IndexError):
        first[6]
    assert watch.get_batch(limit=1).mod_revisions.tolist() == [4, 4, 4]
    assert watch.next_revision == 5
    rest = watch.get_batch()
    assert (len(rest), rest.revision) == (21, 11)
    empty = watch.get_batch(timeout=0)
    assert (len(empty), empty.revision, empty.keys()) == (0, 11, [])
    assert "EventBatch" in repr(first)


def test_iteration_ends_with_cancel(db: kvcore.Store) -> None:
    """`for` ends after cancel(), also when that comes from its own body."""
    watch = db.watch(start_revision=1)
    for i in range(5):
        db.put(b"%d" % i)
    found = []
    for response in watch:
        found.append(response.revision)
        if len(found) == 3:
            watch.cancel()
    assert found == [2, 3, 4]
    assert list(watch) == []
    watch.cancel()


# --- many of them --------------------------------------------------------------------------------


def test_thousand_watchers_of_one_prefix(opened: Opener) -> None:
    db = opened()
    watches = [db.watch(prefix=b"k") for _ in range(1000)]
    for i in range(5):
        db.put(b"k%d" % i, b"v")
    for watch in watches:
        assert watch.get_batch(timeout=0).keys() == [b"k%d" % i for i in range(5)]
    assert db.status().watchers == 1000
    for watch in watches[::2]:
        watch.cancel()
    assert db.status().watchers == 500
    db._check()


def test_ten_thousand_watchers_of_distinct_keys(opened: Opener) -> None:
    db = opened()
    watches = [db.watch(b"k%05d" % i) for i in range(10_000)]
    db.put_many([(b"k%05d" % i, b"v") for i in range(0, 10_000, 10)])
    for i, watch in enumerate(watches):
        response = watch.get(0)
        assert (response is not None) == (i % 10 == 0)
        if response is not None:
            assert keys_of(response) == [b"k%05d" % i]
    db._check()
    for watch in watches:
        watch.cancel()
    assert db.status().watchers == 0
    db._check()


@pytest.mark.parametrize("reads", [1, 7, 1000])
def test_slow_watcher_of_a_tiny_ring(open_store: Opener, reads: int) -> None:
    """Overtaken by the ring again and again, it loses nothing."""
    db = open_store(watch_capacity=100)
    slow, one = db.watch(prev_kv=True), db.watch(b"k3")
    found: list[int] = []
    for i in range(3000):
        db.put(b"k%d" % (i % 10), b"%d" % i)
        if i % 500 == 499:
            found += slow.get_batch(limit=reads, timeout=0).mod_revisions.tolist()
    found += [r.revision for r in drain(slow)]
    assert found == list(range(2, 3002))
    assert [r.events[0].kv.value for r in drain(one)] == [b"%d" % i for i in range(3, 3000, 10)]
    assert db.status().watchers_behind > 0
    db._check()


def test_readers_share_one_watch(db: kvcore.Store) -> None:
    """Of several threads reading one watch, each event reaches exactly one."""
    watch = db.watch()
    got: list[list[int]] = [[] for _ in range(4)]

    def read(n: int) -> None:
        while (response := watch.get(60)).revision <= 1001:
            got[n].append(response.revision)

    def write() -> None:
        for i in range(1000 + 4):
            db.put(b"k%d" % (i % 20), b"%d" % i)

    run_all(write, *[lambda n=n: read(n) for n in range(4)])
    assert sorted(r for mine in got for r in mine) == list(range(2, 1002))
    assert all(mine == sorted(mine) for mine in got)


def test_reopened_store(ram_dir: Any, opened: Opener) -> None:
    """History outlives a restart: a watch resumes where one of the last run stopped."""
    db = opened(ram_dir / "store")
    watch = db.watch(start_revision=1)
    for i in range(20):
        db.put(b"k%d" % (i % 3), b"%d" % i)
    seen = [watch.get(60).revision for _ in range(7)]
    resume = watch.next_revision
    db.checkpoint()
    db.put(b"k", b"last")
    db.close()
    again = opened(ram_dir / "store")
    seen += revisions(again.watch(start_revision=resume))
    assert seen == list(range(2, 23))
