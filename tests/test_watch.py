# SPDX-License-Identifier: Apache-2.0
"""What a watch delivers: live, from history, filtered, with previous pairs, with progress.

Every watch here is also checked against the store's history (watch_checker) after its test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import model_watch
import pytest
from together import drain, drained, finish, told

import kvcore
from kvcore import Delete, Put, Txn
from kvcore.testing.clocks import ManualClock

Opener = Callable[..., kvcore.Store]


# --- live ----------------------------------------------------------------------------------------


def test_live(db: kvcore.Store) -> None:
    """Nothing that was there; everything that comes, in order, and at once."""
    db.put(b"old", b"0")
    watch = db.watch()
    assert watch.get(0) is None
    db.put(b"a", b"1")
    assert told(watch.get()) == (3, [("PUT", b"a", b"1")])
    db.put(b"a", b"2")
    db.delete(b"a")
    assert drained(watch) == [(4, [("PUT", b"a", b"2")]), (5, [("DELETE", b"a", b"")])]
    assert watch.get(0) is None


def test_every_way_to_write(db: kvcore.Store) -> None:
    """put, put_many, delete, txn and submit are all seen."""
    watch = db.watch()
    db.put(b"a", b"1")
    db.put_many([(b"b", b"2"), (b"c", b"3")])
    db.delete(b"a")
    db.txn([], [Put(b"d", b"4"), Delete(b"b")])
    db.submit(Put(b"e", b"5")).result(60)
    assert drained(watch) == [
        (2, [("PUT", b"a", b"1")]), (3, [("PUT", b"b", b"2")]), (4, [("PUT", b"c", b"3")]),
        (5, [("DELETE", b"a", b"")]), (6, [("PUT", b"d", b"4"), ("DELETE", b"b", b"")]),
        (7, [("PUT", b"e", b"5")])]


def test_what_changes_nothing_is_not_told(db: kvcore.Store) -> None:
    watch = db.watch()
    db.delete(b"missing")
    db.txn([], [Delete(b"missing")])
    db.txn([kvcore.Compare.version(b"x") == 1], [Put(b"x")])
    with pytest.raises(kvcore.LeaseNotFoundError):
        db.put(b"x", lease=5)
    db.put(b"a")
    assert [r.revision for r in drain(watch)] == [2]


def test_event_fields(db: kvcore.Store) -> None:
    """A PUT has everything a get shows; its value is the one of its revision."""
    watch = db.watch()
    for i in range(4):
        db.put(b"k", b"value %d" % i)
        if i == 1:
            db.delete(b"k")
    kept = drain(watch)
    for response in kept:
        (event,) = response.events
        at = db.get(b"k", revision=response.revision)
        if event.type == "PUT":
            assert event.kv == at
            assert event.kv.value == at.value
        else:
            assert at is None
            assert model_watch.plain(event).kv == (b"k", b"", 0, 4, 0, 0)
        assert event.prev_kv is None
    assert [r.events[0].is_create for r in kept] == [True, False, False, True, False]
    assert not any(r.is_progress for r in kept)
    assert repr(kept[0])
    assert repr(kept[0].events[0])


def test_values_later(db: kvcore.Store) -> None:
    """An event is what it was when it is looked at late: behind writes and a compaction."""
    watch = db.watch(prev_kv=True)
    for i in range(50):
        db.put(b"k", b"%d" % i * 100)
    responses = drain(watch)
    db.put(b"k", b"new")
    db.compact(db.revision, physical=True)
    finish(db)
    for i, response in enumerate(responses):
        (event,) = response.events
        assert event.kv.value == b"%d" % i * 100
        if i:
            assert event.prev_kv.value == b"%d" % (i - 1) * 100


def test_large_and_empty_values(open_store: Opener) -> None:
    db = open_store()
    watch = db.watch(prev_kv=True)
    values = [b"", b"x" * 1_000_000, b"\0" * 255, b"", b"y" * 65536]
    for value in values:
        db.put(b"k", value)
    events = [r.events[0] for r in drain(watch)]
    assert [e.kv.value for e in events] == values
    assert [e.prev_kv.value for e in events[1:]] == values[:-1]


# --- spans ---------------------------------------------------------------------------------------

KEYS = [b"\0", b"a", b"a\0", b"ab", b"b", b"b\xff", b"b\xff\xff", b"c", b"\xff", b"\xff\xff"]


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("span", [
    {}, {"key": b"a"}, {"key": b"a\0"}, {"key": b"a", "end": b"b"}, {"key": b"a", "end": b"\0"},
    {"key": b"b", "end": b"b\xff\xff\0"}, {"prefix": b"a"}, {"prefix": b"b\xff"},
    {"prefix": b"\xff"}, {"prefix": b""}, {"key": b"", "end": b"\0"}, {"key": b""},
    {"key": b"", "end": b"b"}, {"key": b"nobody"}, {"prefix": b"nobody"},
], ids=str)
def test_spans(db: kvcore.Store, span: dict[str, bytes], start: int) -> None:
    """etcd's spans: a key, a range, everything from a key on, a prefix; live and from history."""
    if start:
        db.put_many([(key, b"v") for key in KEYS])
    watch = db.watch(**span, start_revision=start)
    if not start:
        db.put_many([(key, b"v") for key in KEYS])
    holds = model_watch.span_of(**span).holds
    wanted = [key for key in KEYS if holds(key)]
    assert [e.kv.key for r in drain(watch) for e in r.events] == wanted
    db.delete(prefix=b"")
    assert [[e.kv.key for e in r.events] for r in drain(watch)] == [wanted] * bool(wanted)


def test_many_spans_side_by_side(db: kvcore.Store) -> None:
    """Overlapping ranges and keys, some several times: each gets its own."""
    spans: list[dict[str, bytes]] = [
        {"key": a, "end": b} for a in KEYS for b in [*KEYS, b"\0"] if a < b or b == b"\0"]
    spans += [{"key": key} for key in KEYS] + [{"prefix": key} for key in KEYS]
    spans += spans[::3]
    watches = [db.watch(**span) for span in spans]
    for key in KEYS:
        db.put(key, key)
    for watch in watches[::5]:
        watch.cancel()
    db.delete(prefix=b"b")
    for span, watch in zip(spans, watches, strict=True):
        if watch.cancelled:
            continue
        holds = model_watch.span_of(**span).holds
        got = [e.kv.key for r in drain(watch) for e in r.events]
        assert got == [k for k in KEYS if holds(k)] + [k for k in KEYS
                                                        if k[:1] == b"b" and holds(k)]
    db._check()


# --- from history --------------------------------------------------------------------------------


def test_from_every_revision(db: kvcore.Store) -> None:
    """Resumable: from any revision on, first what was, then what comes, without a seam."""
    for i in range(12):
        db.put(b"k%d" % (i % 4), b"%d" % i)
        if i % 5 == 4:
            db.delete(b"k", b"l")
    whole = db.watch(start_revision=1)
    everything = drained(whole)
    assert [revision for revision, _ in everything] == list(range(2, db.revision + 1))
    for start in range(1, db.revision + 1):
        watch = db.watch(start_revision=start)
        assert watch.start_revision == start
        assert told(watch.get()) == everything[max(0, start - 2)]
        assert drained(watch) == everything[max(0, start - 2) + 1:]
    watches = [db.watch(start_revision=start) for start in range(1, db.revision + 1)]
    db.put(b"k0", b"now")
    for watch in watches:
        last = drained(watch)[-1]
        assert last == (db.revision, [("PUT", b"k0", b"now")])


def test_next_revision_resumes(db: kvcore.Store) -> None:
    """A watch opened at another's next_revision goes on where it is."""
    db.put_many([(b"k%02d" % (i % 7), b"%d" % i) for i in range(40)])
    got, start = [], 1
    for _ in range(100):
        with db.watch(start_revision=start) as watch:
            response = watch.get(0)
            if response is None:
                break
            got.append(response.revision)
            start = watch.next_revision
    assert got == list(range(2, 42))
    assert start == 42
    live = db.watch(key=b"other")
    assert live.next_revision == 42
    db.put(b"k00", b"x")
    assert live.get(0) is None
    assert live.next_revision == 43


def test_start_at_now(db: kvcore.Store) -> None:
    db.put(b"a", b"1")
    assert told(db.watch(start_revision=2).get()) == (2, [("PUT", b"a", b"1")])
    watch = db.watch(start_revision=3)
    assert watch.get(0) is None
    assert (watch.start_revision, db.watch().start_revision) == (3, 3)


def test_future_start(db: kvcore.Store) -> None:
    """Events before a start to come are suppressed."""
    watch = db.watch(start_revision=5)
    for i in range(6):
        db.put(b"k", b"%d" % i)
        if i < 3:
            assert watch.get(0) is None
    assert [r.revision for r in drain(watch)] == [5, 6, 7]


def test_future_start_inside_put_many(db: kvcore.Store) -> None:
    watches = [db.watch(start_revision=start) for start in (50, 101, 150, 1 << 62)]
    db.put_many([(b"%d" % i, b"") for i in range(120)])
    assert [len(drain(watch)) for watch in watches] == [72, 21, 0, 0]


def test_long_history(db: kvcore.Store) -> None:
    """More than any ring, list or pass holds at once; read by get and by get_batch."""
    db.put_many([(b"%05d" % (i * 7919 % 10_000), b"%d" % i) for i in range(30_000)])
    watch, batched = db.watch(start_revision=2), db.watch(start_revision=2)
    assert [r.revision for r in drain(watch)] == list(range(2, 30_002))
    mods: list[int] = []
    while len(mods) < 30_000:
        batch = batched.get_batch(limit=777, timeout=0)
        assert len(batch) <= 777
        mods += batch.mod_revisions.tolist()
        assert batch.revision >= mods[-1]
    assert mods == list(range(2, 30_002))


# --- filters -------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 2])
def test_filters(db: kvcore.Store, start: int) -> None:
    """no_put and no_delete drop events; what is left of a revision comes, if anything is."""
    def write() -> None:
        db.put(b"a", b"1")
        db.txn([], [Put(b"b", b"2"), Delete(b"a")])
        db.delete(b"b")
        db.put(b"c", b"3")

    if start:
        write()
    watches = [db.watch(no_put=a, no_delete=b, start_revision=start)
               for a in (False, True) for b in (False, True)]
    if not start:
        write()
    assert [[(r, [e[0] for e in events]) for r, events in drained(w)] for w in watches] == [
        [(2, ["PUT"]), (3, ["PUT", "DELETE"]), (4, ["DELETE"]), (5, ["PUT"])],
        [(2, ["PUT"]), (3, ["PUT"]), (5, ["PUT"])],
        [(3, ["DELETE"]), (4, ["DELETE"])],
        []]
    assert [w.next_revision for w in watches] == [6] * 4


def test_filtered_backlog_is_passed_over(open_store: Opener) -> None:
    db = open_store(watch_capacity=100)
    watch = db.watch(no_put=True)
    db.put_many([(b"k%d" % (i % 10), b"v") for i in range(1000)])
    assert watch.get(0) is None
    db.delete(b"k3")
    assert told(watch.get(0)) == (1002, [("DELETE", b"k3", b"")])


# --- previous pairs ------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 2])
def test_prev_kv(db: kvcore.Store, start: int) -> None:
    """The pair before the revision: none for a creation, also behind a deletion."""
    def write() -> None:
        db.put(b"a", b"1")
        db.put(b"a", b"2")
        db.delete(b"a")
        db.put(b"a", b"3")
        db.txn([], [Put(b"a", b"4"), Put(b"b", b"5")])
        db.delete(prefix=b"")

    if start:
        write()
    watch = db.watch(prev_kv=True, start_revision=start)
    if not start:
        write()
    events = [model_watch.plain(e) for r in drain(watch) for e in r.events]
    assert [e.prev_kv and (e.prev_kv.value, e.prev_kv.mod_revision, e.prev_kv.version)
            for e in events] == [
        None, (b"1", 2, 1), (b"2", 3, 2), None, (b"3", 5, 1), None, (b"4", 6, 2), (b"5", 6, 1)]


def test_prev_is_of_the_revision_before(db: kvcore.Store) -> None:
    """Not of the same transaction: a key put and deleted in one has the pair before it twice."""
    db.put(b"a", b"1")
    watch = db.watch(prev_kv=True)
    done = db.txn([], [Txn([], [Put(b"a", b"2"), Put(b"n", b"x")]),
                       Txn([], [Delete(b"a"), Delete(b"n")])])
    assert (done.revision, db.range(count_only=True).count) == (3, 0)
    events = [model_watch.plain(e) for e in watch.get(0).events]
    assert [(e.type, e.kv.key, e.prev_kv and e.prev_kv.value) for e in events] == [
        ("PUT", b"a", b"1"), ("PUT", b"n", None), ("DELETE", b"a", b"1"), ("DELETE", b"n", None)]


def test_prev_compacted(db: kvcore.Store) -> None:
    """The pair before is gone with the revision before: then there is none."""
    for i in range(5):
        db.put(b"a", b"%d" % i)
    db.compact(5, physical=True)
    finish(db)
    events = [r.events[0] for r in drain(db.watch(start_revision=5, prev_kv=True))]
    assert [e.kv.value for e in events] == [b"3", b"4"]
    assert events[0].prev_kv is None
    assert events[1].prev_kv.value == b"3"


def test_prev_unasked(db: kvcore.Store) -> None:
    db.put(b"a")
    watch = db.watch()
    db.put(b"a")
    db.delete(b"a")
    assert [r.events[0].prev_kv for r in drain(watch)] == [None, None]


# --- atomic revisions ----------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("capacity", [100, 100_000])
def test_large_revisions_in_one_piece(open_store: Opener, start: int, capacity: int) -> None:
    """A revision of thousands of keys is one response and one batch, in key order."""
    db = open_store(watch_capacity=capacity)
    keys = [b"%05d" % i for i in range(5000)]
    db.put_many([(key, key) for key in keys[::-1]])
    watch = db.watch(start_revision=start)
    batched = db.watch(start_revision=5002)
    done = db.delete(prefix=b"")
    assert (done.deleted, done.revision) == (5000, 5002)
    if start:
        assert watch.get_batch(limit=5000, timeout=0).mod_revisions.tolist() == list(
            range(2, 5002))
    response = watch.get(0)
    assert response.revision == 5002
    assert [e.kv.key for e in response.events] == keys
    batch = batched.get_batch(limit=1, timeout=0)
    assert batch.keys() == keys
    assert (batch.revision, len(batch)) == (5002, 5000)
    assert watch.get(0) is None
    assert len(batched.get_batch(timeout=0)) == 0


def test_txn_is_one_response(db: kvcore.Store) -> None:
    """In the order of its operations, also of nested ones; a span sees its own part only."""
    db.put_many([(b"d/%d" % i, b"") for i in range(4)])
    watch, part, one = db.watch(), db.watch(prefix=b"d/"), db.watch(key=b"d/2")
    db.txn([], [Put(b"z", b"1"), Txn([], [Put(b"y", b"2")]), Delete(b"d/1", b"d/3"),
                Put(b"x", b"3")])
    assert drained(watch) == [(6, [
        ("PUT", b"z", b"1"), ("PUT", b"y", b"2"), ("DELETE", b"d/1", b""),
        ("DELETE", b"d/2", b""), ("PUT", b"x", b"3")])]
    assert drained(part) == [(6, [("DELETE", b"d/1", b""), ("DELETE", b"d/2", b"")])]
    assert drained(one) == [(6, [("DELETE", b"d/2", b"")])]
    assert drained(db.watch(start_revision=6)) == [(6, [
        ("PUT", b"z", b"1"), ("PUT", b"y", b"2"), ("DELETE", b"d/1", b""),
        ("DELETE", b"d/2", b""), ("PUT", b"x", b"3")])]


def test_a_huge_delete_from_a_tiny_ring(opened: Any) -> None:
    """150,000 keys at one revision, for a live watch whose ring holds 100."""
    db = opened(watch_capacity=100)
    keys = [b"%06d" % i for i in range(150_000)]
    db.put_many([(key, b"") for key in keys])
    watch, few = db.watch(), db.watch(b"000100", b"000110")
    assert db.delete(prefix=b"").deleted == 150_000
    batch = watch.get_batch(timeout=60)
    assert len(batch) == 150_000
    assert batch.keys() == keys
    assert set(batch.mod_revisions.tolist()) == {150_002}
    assert [e.kv.key for e in few.get(60).events] == keys[100:110]
    db.put(b"next")
    assert told(watch.get(60)) == (150_003, [("PUT", b"next", b"")])


def test_revoke_is_one_response(db: kvcore.Store) -> None:
    lease = db.lease(60)
    for key in (b"c", b"a", b"b"):
        db.put(key, b"v", lease=lease.id)
    watch = db.watch(prev_kv=True)
    lease.revoke()
    (response,) = drain(watch)
    assert told(response) == (5, [("DELETE", key, b"") for key in (b"a", b"b", b"c")])
    assert [e.prev_kv.lease for e in response.events] == [lease.id] * 3


# --- batches -------------------------------------------------------------------------------------


def test_batch(db: kvcore.Store) -> None:
    """Whole revisions until there are enough; a sequence of events."""
    watch = db.watch(prev_kv=True)
    db.put_many([(b"k%d" % i, b"%d" % i) for i in range(10)])
    db.delete(b"k3", b"k6")
    batch = watch.get_batch(limit=4, timeout=0)
    assert (len(batch), batch.revision, batch.keys()) == (
        4, 5, [b"k0", b"k1", b"k2", b"k3"])
    assert [e.kv.value for e in batch] == [b"0", b"1", b"2", b"3"]
    assert batch[-1].kv.key == b"k3"
    assert [e.kv.key for e in batch[1:3]] == [b"k1", b"k2"]
    with pytest.raises(IndexError):
        batch[4]
    rest = watch.get_batch(limit=7, timeout=0)
    assert len(rest) == 9
    assert rest.mod_revisions.tolist() == [6, 7, 8, 9, 10, 11, 12, 12, 12]
    assert rest.mod_revisions.dtype == "int64"
    assert [e.type for e in rest][-3:] == ["DELETE"] * 3
    assert [e.prev_kv.value for e in rest[-3:]] == [b"3", b"4", b"5"]
    assert rest.revision == 12
    nothing = watch.get_batch(timeout=0)
    assert (len(nothing), nothing.keys(), nothing.mod_revisions.tolist()) == (0, [], [])
    assert nothing.revision == 12
    assert repr(batch)


def test_batch_and_get_take_turns(db: kvcore.Store) -> None:
    db.put_many([(b"k%d" % i, b"") for i in range(20)])
    watch = db.watch(start_revision=2)
    assert watch.get().revision == 2
    assert watch.get_batch(limit=5).mod_revisions.tolist() == [3, 4, 5, 6, 7]
    assert next(watch).revision == 8
    assert watch.get_batch().mod_revisions.tolist() == list(range(9, 22))


def test_bookmark_covers_other_keys(db: kvcore.Store) -> None:
    """A batch says how far the watch is, also over revisions that did not concern it."""
    watch = db.watch(key=b"mine")
    db.put(b"mine")
    db.put_many([(b"other", b"")] * 10)
    assert watch.get_batch(timeout=0).revision in range(2, 13)
    assert watch.get_batch(timeout=0).revision == 12
    assert watch.next_revision == 13


# --- progress ------------------------------------------------------------------------------------


def test_progress_when_asked(db: kvcore.Store) -> None:
    """One response without events, behind all events up to its revision."""
    watch = db.watch()
    watch.progress()
    response = watch.get(0)
    assert (response.is_progress, response.revision, response.events) == (True, 1, ())
    assert watch.get(0) is None
    db.put_many([(b"k", b"")] * 3)
    watch.progress()
    db.put(b"k", b"later")
    answers = [(r.is_progress, r.revision) for r in drain(watch)]
    assert sorted(r for progress, r in answers if not progress) == [2, 3, 4, 5]
    (mark,) = [r for progress, r in answers if progress]
    assert mark >= 4
    assert answers.index((True, mark)) == mark - 1


def test_progress_of_who_is_not_concerned(db: kvcore.Store) -> None:
    watch = db.watch(key=b"quiet")
    db.put_many([(b"k", b"")] * 5)
    watch.progress()
    assert watch.get(0).revision == 6
    assert watch.get(0) is None


def test_progress_behind_history(db: kvcore.Store) -> None:
    """It does not overtake what is still to be read from history."""
    db.put_many([(b"k%d" % (i % 9), b"") for i in range(5000)])
    watch = db.watch(start_revision=2)
    watch.progress()
    answers = [(r.is_progress, r.revision) for r in drain(watch)]
    assert answers == [(False, r) for r in range(2, 5002)] + [(True, 5001)]


def test_progress_of_the_future(db: kvcore.Store) -> None:
    """None for a watch whose first revision is still to come."""
    watch = db.watch(start_revision=4)
    watch.progress()
    assert watch.get(0) is None
    db.put(b"a")
    assert watch.get(0) is None
    db.put_many([(b"a", b"")] * 4)
    assert [r.revision for r in drain(watch) if not r.is_progress] == [4, 5, 6]


def test_progress_in_a_batch(db: kvcore.Store) -> None:
    """A batch is its own bookmark: with events or, when there is no news, without."""
    watch = db.watch(key=b"k")
    watch.progress()
    batch = watch.get_batch(timeout=0)
    assert (len(batch), batch.revision) == (0, 1)
    db.put(b"k")
    db.put(b"x")
    watch.progress()
    assert watch.get_batch(timeout=0).revision == 3


def periodic(open_store: Opener, **options: Any) -> tuple[kvcore.Store, ManualClock]:
    clock = ManualClock()
    return open_store(clock=clock, maintenance=False, progress_interval=10.0, **options), clock


def test_periodic_progress(open_store: Opener) -> None:
    """Each interval, to who asked for it, when nothing was delivered since."""
    db, clock = periodic(open_store)
    watch, other = db.watch(key=b"k", progress_notify=True), db.watch(key=b"k")
    finish(db)
    clock.advance(9.0)
    finish(db)
    assert watch.get(0) is None
    db.put(b"x")
    clock.advance(11.0)
    finish(db)
    response = watch.get(0)
    assert (response.is_progress, response.revision) == (True, 2)
    assert (watch.get(0), other.get(0)) == (None, None)
    for i in range(3):
        db.put(b"x")
        clock.advance(10.5)
        finish(db)
        assert [(r.is_progress, r.revision) for r in drain(watch)] == [(True, 3 + i)]


def test_no_periodic_progress_behind_events(open_store: Opener) -> None:
    """An interval in which something was delivered needs none."""
    db, clock = periodic(open_store)
    watch = db.watch(progress_notify=True)
    finish(db)
    clock.advance(10.5)
    finish(db)
    drain(watch)
    db.put(b"a")
    assert [r.is_progress for r in drain(watch)] == [False]
    clock.advance(10.5)
    finish(db)
    assert watch.get(0) is None
    clock.advance(10.5)
    finish(db)
    assert [r.is_progress for r in drain(watch)] == [True]


def test_periodic_progress_does_not_pile_up(open_store: Opener) -> None:
    """Of a watch that nobody reads."""
    db, clock = periodic(open_store)
    watch = db.watch(progress_notify=True)
    for _ in range(50):
        db.put(b"k")
        clock.advance(10.5)
        finish(db)
    answers = drain(watch)
    assert [r.revision for r in answers if not r.is_progress] == list(range(2, 52))
    assert len([r for r in answers if r.is_progress]) <= 1


# --- compaction ----------------------------------------------------------------------------------


def refused(watch: Any) -> int:
    """The compact revision of the error that a watch raises, now and ever after."""
    found = set()
    for call in (lambda: watch.get(0), lambda: watch.get(), lambda: watch.get_batch(timeout=0),
                 lambda: next(watch)):
        with pytest.raises(kvcore.CompactedError) as caught:
            call()
        found.add(caught.value.compact_revision)
    (revision,) = found
    assert watch.compact_revision == revision
    return revision


def test_compacted_start(db: kvcore.Store) -> None:
    """Created as any other; the first get says where the history begins."""
    db.put_many([(b"a", b"")] * 9)
    db.compact(6)
    for start in (1, 2, 5):
        watch = db.watch(start_revision=start)
        assert (watch.compact_revision, watch.start_revision) == (0, start)
        assert refused(watch) == 6
        watch.cancel()
    assert [r.revision for r in drain(db.watch(start_revision=6))] == [6, 7, 8, 9, 10]
    assert db.watch(start_revision=6).compact_revision == 0


def test_negative_start(db: kvcore.Store) -> None:
    for start in (-1, -(1 << 62)):
        with pytest.raises(kvcore.CompactedError) as caught:
            db.watch(start_revision=start)
        assert caught.value.compact_revision == 0


def test_slow_watch_is_overtaken(open_store: Opener) -> None:
    """What it has not read is gone; another one goes on from the compacted revision."""
    db = open_store(watch_capacity=100)
    watch, quiet = db.watch(), db.watch(key=b"quiet")
    db.put_many([(b"k%d" % (i % 3), b"%d" % i) for i in range(1000)])
    db.compact(900, physical=True)
    finish(db)
    assert refused(watch) == 900
    assert quiet.get(0) is None
    db.put(b"quiet")
    assert told(quiet.get(0)) == (1002, [("PUT", b"quiet", b"")])
    again = db.watch(start_revision=watch.compact_revision)
    assert [r.revision for r in drain(again)][-102:] == list(range(901, 1003))


def test_read_up_watch_survives_compaction(open_store: Opener) -> None:
    """Nothing that is still to come to it was compacted."""
    db = open_store(watch_capacity=100)
    watch = db.watch()
    for i in range(5):
        db.put_many([(b"k", b"%d" % i)] * 60)
        assert len(drain(watch)) == 60
        db.compact(db.revision, physical=True)
        finish(db)
    assert watch.get(0) is None


def test_compaction_below_the_backlog(open_store: Opener) -> None:
    """A slow watch whose whole backlog is younger than the compaction loses nothing."""
    db = open_store(watch_capacity=100)
    watch = db.watch(prefix=b"mine")
    db.put_many([(b"other", b"")] * 50)
    db.put_many([(b"mine%d" % i, b"%d" % i) for i in range(300)])
    db.compact(40, physical=True)
    finish(db)
    assert [r.revision for r in drain(watch)] == list(range(52, 352))


# --- found by planting bugs ----------------------------------------------------------------------


def test_progress_behind_filtered_events(db: kvcore.Store) -> None:
    """Events that a filter passes over do not take the answer back before the question."""
    watch, other = db.watch(key=b"k", no_put=True), db.watch(key=b"k")
    db.put(b"k")
    db.put(b"other")
    watch.progress()
    db.put(b"k")
    db.delete(b"k")
    assert [(r.revision, r.is_progress) for r in drain(watch)] == [(3, True), (5, False)]
    assert [r.revision for r in drain(other)] == [2, 4, 5]


def test_read_up_watches_survive_compaction(open_store: Opener) -> None:
    """Several of one span, that no event concerned between their last and the compaction."""
    db = open_store(watch_capacity=100, maintenance=False)
    watches = [db.watch(key=b"k") for _ in range(2)]
    db.put(b"k")
    assert [watch.get(0).revision for watch in watches] == [2, 2]
    db.put_many([(b"other", b"")] * 5)
    db.compact(db.revision)
    db.put_many([(b"k", b"")] * 500)
    for watch in watches:
        assert [r.revision for r in drain(watch)] == list(range(8, 508))


def test_no_periodic_progress_behind_history(open_store: Opener) -> None:
    """What came from history in the interval tells how far the watch is, too."""
    clock = ManualClock()
    db = open_store(clock=clock, maintenance=False, progress_interval=10.0)
    db.put(b"a")
    finish(db)
    watch = db.watch(start_revision=2, progress_notify=True)
    assert [r.revision for r in drain(watch)] == [2]
    for wanted in ([], [(2, True)]):
        clock.advance(11)
        finish(db)
        assert [(r.revision, r.is_progress) for r in drain(watch)] == wanted


@pytest.mark.parametrize("first", [0, 1])
def test_prev_asked_by_one_of_two(db: kvcore.Store, first: int) -> None:
    """The shared event of one is not the other's."""
    watches = [db.watch(key=b"k"), db.watch(key=b"k", prev_kv=True)]
    db.put(b"k", b"1")
    db.put(b"k", b"2")
    got = {n: [r.events[0].prev_kv for r in drain(watches[n])] for n in (first, 1 - first)}
    assert [prev and prev.value for prev in got[1]] == [None, b"1"]
    assert got[0] == [None, None]
