# SPDX-License-Identifier: Apache-2.0
"""The checker of watches finds what it is for: every rule, broken on purpose."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import model_leases
import model_watch
import models
import pytest
import watch_checker
from watch_checker import Delivery, Record, Row, Seen, Truth

import kvcore
from kvcore import errors

ME = (1, 0)
EVERY = models.Span(b"\0", b"\0")
A, B, C = b"a", b"b", b"c"

# 2 put a; 3 put b, c; 4 put a; 5 delete a, b; 6 put b
TRUTH = [Row(2, 0, A, 2, 1, 0), Row(3, 0, B, 3, 1, 7), Row(3, 1, C, 3, 1, 0),
         Row(4, 0, A, 2, 2, 0), Row(5, 0, A, 0, 0, 0), Row(5, 1, B, 0, 0, 0),
         Row(6, 0, B, 6, 1, 0)]
PREV = {(4, A): (A, 2, 2, 1, 0), (5, A): (A, 2, 4, 2, 0), (5, B): (B, 3, 3, 1, 7)}


def event(row: Row, **changed: Any) -> Seen:
    """A row as it should be delivered to a watch with prev_kv, but for what is changed."""
    kind = "PUT" if row.version else "DELETE"
    right = Seen(kind, row.key, row.mod, row.create, row.version, row.lease, row.version == 1,
                 PREV.get((row.mod, row.key)))
    return right._replace(**changed)


def response(*events: Seen, revision: int = 0) -> Delivery:
    return Delivery(ME, "response", revision or events[-1].mod, events)


def right() -> list[Delivery]:
    """All of it as it should come."""
    e = [event(row) for row in TRUTH]
    return [response(e[0]), response(e[1], e[2]), response(e[3]), response(e[4], e[5]),
            response(e[6])]


def rules(deliveries: list[Delivery], record: Record | None = None) -> set[str]:
    """The rules that a record breaks."""
    record = record or Record(EVERY, 2, prev_kv=True)
    record.deliveries = deliveries
    found = watch_checker.violations(record, Truth(TRUTH, 6))
    return {line.split(":")[0] for line in found}


def test_nothing_is_wrong() -> None:
    """Responses, batches, progress, polls: a faultless record has no findings."""
    assert rules(right()) == set()
    assert rules([]) == set()
    assert rules(right()[:2]) == set()
    events = [e for d in right() for e in d.events]
    assert rules([Delivery(ME, "batch", 6, tuple(events))]) == set()
    assert rules([Delivery(ME, "batch", 4, tuple(events[:4])), Delivery(ME, "progress", 4),
                  Delivery(ME, "nothing", 4), *right()[3:], Delivery(ME, "progress", 6)]) == set()
    assert rules([*right(), Delivery(ME, "nothing", 6), Delivery(ME, "batch", 6)]) == set()


def test_two_readers_share_a_watch() -> None:
    """Their records may interleave, as long as each sees ascending revisions."""
    mixed = [d._replace(reader=(i % 2, 0)) for i, d in enumerate(right())]
    assert rules([mixed[1], mixed[0], *mixed[2:]]) == set()
    assert "ordered" in rules([mixed[0], mixed[3], mixed[2], mixed[1], mixed[4]])


def test_missing_event() -> None:
    found = right()
    assert rules(found[:2] + found[3:]) == {"reliable"}
    assert rules(found[1:]) == {"resumable"}
    assert rules([found[0], response(event(TRUTH[1])), *found[2:]]) == {"atomic"}
    assert rules(found[:4] + [Delivery(ME, "progress", 6)]) == {"reliable"}
    assert rules(found[:4] + [Delivery(ME, "nothing", 6)]) == {"reliable"}
    assert rules(found[:4] + [Delivery(ME, "batch", 6)]) == {"reliable"}
    assert rules([*found[:3], found[3]._replace(upto=6)]) == {"reliable"}


def test_invented_event() -> None:
    never = event(TRUTH[0], key=b"never")
    assert rules([response(event(TRUTH[0]), never), *right()[1:]]) >= {"reliable"}
    assert rules([response(event(TRUTH[0]), event(TRUTH[0], type="DELETE", create=0, version=0)),
                  *right()[1:]]) >= {"reliable"}


def test_duplicate() -> None:
    found = right()
    assert rules([found[0], *found]) >= {"unique", "ordered", "atomic"}
    twice = event(TRUTH[0])
    assert rules([response(twice, twice), *found[1:]]) >= {"unique"}


def test_reordered() -> None:
    found = right()
    assert rules([found[0], found[2], found[1], *found[3:]]) >= {"ordered"}
    first, second = found[1].events
    assert rules([found[0], response(second, first), *found[2:]]) == {"ordered"}


def test_split_revision() -> None:
    first, second = right()[1].events
    assert rules([right()[0], response(first), response(second), *right()[2:]]) >= {"atomic"}
    assert rules([right()[0], response(first, second, *right()[2].events),
                  *right()[3:]]) == {"atomic"}
    assert rules([Delivery(ME, "batch", 3, (*right()[0].events, first)),
                  Delivery(ME, "batch", 6, (second, *[e for d in right()[2:]
                                                      for e in d.events]))]) >= {"atomic"}
    assert rules([response(event(TRUTH[0]), revision=3), *right()[1:]]) == {"atomic"}


@pytest.mark.parametrize("record", [
    Record(models.Span(A), 2, prev_kv=True), Record(models.Span(A, C), 2, prev_kv=True),
    Record(EVERY, 3, prev_kv=True), Record(EVERY, 2, prev_kv=True, no_delete=True),
    Record(EVERY, 2, prev_kv=True, no_put=True),
])
def test_wrong_filter(record: Record) -> None:
    """Another key, a revision before the start, an event of a type that was not wanted."""
    assert rules(right(), record) == {"filter"}
    for delivery in right():
        kept = [e for e in delivery.events if record.span.holds(e.key)]
        if kept == list(delivery.events):
            assert rules([], record) == set()


def test_filters_leave_no_gap() -> None:
    """What is filtered is not missing; what is not, is."""
    puts = [event(row) for row in TRUTH if row.version]
    record = Record(EVERY, 2, prev_kv=True, no_delete=True)
    assert rules([response(puts[0]), response(puts[1], puts[2]), response(puts[3]),
                  response(puts[4])], record) == set()
    assert rules([response(puts[0]), response(puts[3])], record) == {"reliable"}
    gone = event(TRUTH[5])
    assert rules([response(gone)], Record(models.Span(B), 2, prev_kv=True,
                                          no_put=True)) == set()


@pytest.mark.parametrize("prev", [None, (A, 2, 2, 1, 5), (A, 2, 4, 2, 0), (B, 3, 3, 1, 7)])
def test_wrong_prev(prev: Any) -> None:
    found = right()
    found[2] = response(event(TRUTH[3], prev=prev))
    assert rules(found) == {"prev_kv"}


def test_prev_of_a_creation() -> None:
    found = right()
    found[4] = response(event(TRUTH[6], prev=(B, 3, 3, 1, 7)))
    assert rules(found) == {"prev_kv"}


def test_prev_unasked() -> None:
    assert rules(right(), Record(EVERY, 2)) == {"prev_kv"}


def test_prev_compacted() -> None:
    """It may be missing once the revision before is compacted, and only then."""
    found = right()
    for compacted, wanted in ((0, {"prev_kv"}), (3, {"prev_kv"}), (4, set[str]())):
        found[2] = response(event(TRUTH[3], prev=None))._replace(compacted=compacted)
        assert rules(found) == wanted


def test_event_behind_a_bookmark() -> None:
    for kind in ("progress", "batch", "nothing"):
        mark = Delivery(ME, kind, 4)
        assert "bookmarkable" in rules([*right()[:2], mark, *right()[2:]])
    early = Delivery(ME, "batch", 3, tuple(e for d in right()[:3] for e in d.events))
    assert rules([early, *right()[3:]]) == {"bookmarkable"}


@pytest.mark.parametrize("at", range(7))
def test_wrong_is_create(at: int) -> None:
    row = TRUTH[at]
    found = []
    for delivery in right():
        events = tuple(e._replace(is_create=not e.is_create)
                       if (e.mod, e.key) == (row.mod, row.key) else e for e in delivery.events)
        found.append(delivery._replace(events=events))
    assert rules(found) == {"is_create"}


@pytest.mark.parametrize(("at", "changed"), [
    (0, {"create": 1}), (0, {"version": 2}), (1, {"lease": 0}), (4, {"create": 2}),
    (4, {"version": 3}), (5, {"lease": 7}),
])
def test_wrong_fields(at: int, changed: dict[str, Any]) -> None:
    """Also a DELETE that has more than its key and revision."""
    wrong = event(TRUTH[at], **changed)
    found = []
    for delivery in right():
        events = tuple(wrong if (e.mod, e.key) == (wrong.mod, wrong.key) else e
                       for e in delivery.events)
        found.append(delivery._replace(events=events))
    assert rules(found) == {"fields"}


def test_compacted_without_need() -> None:
    """Only a watch that something older was to come to may be told; then nothing comes any more."""
    error = Delivery(ME, "compacted", 5, compacted=5)
    assert rules([*right()[:2], error, error]) == set()
    assert rules([*right()[:4], error]) == {"compacted"}
    assert rules([Delivery(ME, "nothing", 4), error]) >= {"compacted"}
    assert rules([*right()[:2], error, *right()[2:]]) == {"compacted"}
    assert rules([error._replace(revision=6)]) == {"compacted"}


def test_compacted_on_a_shared_span() -> None:
    """A poll proves nothing there, an event does."""
    error = Delivery(ME, "compacted", 5, compacted=5)
    shared = Record(EVERY, 2, prev_kv=True)
    shared.shares_span = True
    assert "compacted" not in rules([Delivery(ME, "nothing", 4), error], shared)
    assert rules([*right()[:4], error], shared) == {"compacted"}


def test_superseded_in_its_own_revision() -> None:
    """A compaction at a revision takes what that revision itself replaced."""
    rows = [Row(2, 0, A, 2, 1, 0), Row(2, 1, A, 0, 0, 0)]
    record = Record(EVERY, 2)
    gone = Seen("DELETE", A, 2, 0, 0, 0, False, None)
    record.deliveries = [response(gone)]
    assert watch_checker.violations(record, Truth(rows, 2))
    record.deliveries = [response(gone)._replace(compacted=2)]
    assert watch_checker.violations(record, Truth(rows, 2)) == []


def test_beyond_the_truth() -> None:
    """Nothing is said about revisions that nobody looked at."""
    record = Record(EVERY, 2, prev_kv=True)
    later = Seen("PUT", A, 9, 9, 3, 0, False, None)
    record.deliveries = [*right(), response(later)]
    assert watch_checker.violations(record, Truth(TRUTH, 6)) == []
    assert watch_checker.violations(record, Truth(TRUTH, 9))


# --- the models ----------------------------------------------------------------------------------


def test_model_watch_takes_what_is_due() -> None:
    model = models.ModelStore()
    model.put(b"a", b"1")
    live = model_watch.ModelWatch(model, EVERY)
    whole = model_watch.ModelWatch(model, EVERY, 2, prev_kv=True)
    model.txn([], [models.Put(b"b", b"2"), models.Put(b"a", b"3")])
    model.delete(b"a")
    assert [(mod, [e.kv.key for e in events]) for mod, events in live.due()] == [
        (3, [b"b", b"a"]), (4, [b"a"])]
    (_, first), (_, second), (_, third) = whole.due()
    assert first[0].is_create
    assert second[1].prev_kv == models.KeyValue(b"a", b"1", 2, 2, 1, 0)
    assert third[0] == model_watch.Event(
        "DELETE", models.KeyValue(b"a", b"", 0, 4, 0, 0),
        models.KeyValue(b"a", b"3", 2, 3, 2, 0), False)
    whole.accept(2, first)
    with pytest.raises(AssertionError, match="3 was due"):
        whole.accept(4, third)
    with pytest.raises(AssertionError):
        whole.accept(3, second[:1])
    whole.accept(3, second)
    with pytest.raises(AssertionError, match="missing"):
        whole.quiet(4)
    whole.accept(4, third)
    whole.quiet(4)


def test_model_watch_and_compaction() -> None:
    model = models.ModelStore()
    for i in range(5):
        model.put(b"a", b"%d" % i)
    slow = model_watch.ModelWatch(model, EVERY, 2, prev_kv=True)
    model.compact(4)
    assert slow.may_be_compacted()
    assert model_watch.ModelWatch(model, EVERY, 3).compacted
    at = model_watch.ModelWatch(model, EVERY, 4, prev_kv=True)
    assert not at.may_be_compacted()
    (_, first), (_, second), _ = at.due()
    at.accept(4, [first[0]._replace(prev_kv=None)])
    with pytest.raises(AssertionError):
        at.accept(5, [second[0]._replace(prev_kv=None)])
    with pytest.raises(errors.CompactedError):
        model_watch.ModelWatch(model, EVERY, -1)


def test_model_watch_filters() -> None:
    model = models.ModelStore()
    watches = [model_watch.ModelWatch(model, EVERY, no_put=True),
               model_watch.ModelWatch(model, EVERY, no_delete=True),
               model_watch.ModelWatch(model, models.Span(b"b"))]
    model.put(b"a")
    model.delete(b"a")
    assert [[mod for mod, _ in watch.due()] for watch in watches] == [[3], [2], []]


def test_model_leases() -> None:
    """Due in the order of expiry, then id; each its own revision; a moved key stays."""
    model = model_leases.LeaseModel()
    slow, fast, twin = (model.lease(ttl, id) for ttl, id in ((9, 1), (3, 9), (3, 5)))
    for key, lease in ((b"a", slow), (b"c", fast), (b"b", fast), (b"d", twin), (b"e", twin)):
        model.put(key, lease=lease.id)
    model.put(b"e", lease=slow.id)
    model.put(b"b", ignore_lease=True)
    assert [lease.id for lease in model.leases()] == [5, 9, 1]
    assert fast.keys() == [b"b", b"c"]
    model.advance(2.5)
    assert (model.due(), fast.ttl(), slow.keepalive()) == ([], 0, 9)
    model.advance(0.5)
    assert model.due() == [5, 9]
    before = model.revision
    model.step()
    assert model.revision == before + 2
    assert model.history[b"d"][-1].mod == before + 1
    assert [model.history[key][-1][:2] for key in (b"b", b"c")] == [
        (before + 2, 0), (before + 2, 1)]
    assert (fast.ttl(), fast.keepalive(), slow.ttl()) == (-1, 0, 8)
    model.restart()
    assert slow.ttl() == 9
    assert model.clone().leases()[0].ttl() == 9
    with pytest.raises(errors.LeaseNotFoundError):
        model.put(b"x", lease=5)


# --- the recorder --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["get", "next", "batch", "async"])
def test_a_recorded_watch(db: kvcore.Store, recording: watch_checker.Recording,
                          how: str) -> None:
    """What the store delivers is in the record, and the test that loses some of it fails."""
    watch = db.watch(prefix=b"", prev_kv=True)
    db.put(b"a", b"1")
    db.put(b"a", b"2")

    async def main() -> None:
        await watch.__anext__()
        await watch.__anext__()

    if how == "async":
        asyncio.run(main())
    elif how == "batch":
        assert len(watch.get_batch(limit=2)) == 2
    else:
        for _ in range(2):
            next(watch) if how == "next" else watch.get()
    assert watch.get(0) is None
    history = recording.of(db)
    record = history.records[0]
    found = [e for d in record.deliveries for e in d.events]
    assert [(e.type, e.key, e.mod, e.version, e.is_create) for e in found] == [
        ("PUT", b"a", 2, 1, True), ("PUT", b"a", 3, 2, False)]
    assert found[1].prev == (b"a", 2, 2, 1, 0)
    assert record.deliveries[-1].kind == "nothing"
    lost = Record(record.span, record.start, prev_kv=True)
    lost.deliveries = record.deliveries[-1:]
    history.records.append(lost)
    with pytest.raises(AssertionError, match="reliable"):
        history.verify(Counter())


def test_truth_outlives_compaction(db: kvcore.Store, recording: watch_checker.Recording) -> None:
    """It is taken before a compaction, through the verb or submitted, and before a close."""
    watch = db.watch()
    for i in range(20):
        db.put(b"k", b"%d" % i)
    db.compact(10, physical=True)
    for i in range(20):
        db.put(b"k", b"%d" % i)
    db.submit(kvcore.Compact(30)).result(60)
    while db.step():
        pass
    watch.cancel()
    history = recording.of(db)
    db.close()
    assert [row.mod for row in history.truth.of_key(b"k")] == list(range(2, 42))
    assert history.truth.known == 41
