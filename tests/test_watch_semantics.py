# SPDX-License-Identifier: Apache-2.0
"""etcd's leases and watches, fact by fact: items of the conformance checklist, by number.

What belongs to etcd's stream of many watches, and not to a watch, is told at its item. The items
about leases run against the model, too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import model_leases
import models
import pytest
from together import drain, drained, finish

import kvcore
from kvcore import Delete, Put
from kvcore.testing.clocks import ManualClock


class Side(NamedTuple):
    """A store, the module its operations come from, and the way its time passes."""

    db: Any
    api: Any
    pass_: Callable[[float], None]


@pytest.fixture(params=["model", "memory", "durable"])
def side(request: pytest.FixtureRequest, opened: Any, ram_dir: Path) -> Side:
    if request.param == "model":
        model = model_leases.LeaseModel()
        api = SimpleNamespace(**{**vars(models), **vars(model_leases)})
        return Side(model, api, lambda seconds: (model.advance(seconds), model.step())[0])
    clock = ManualClock()
    db = opened(ram_dir / "store" if request.param == "durable" else None, clock=clock,
                maintenance=False)
    return Side(db, kvcore, lambda seconds: (clock.advance(seconds), finish(db))[0])


def refused(error: type[Exception], call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The message of the error a call must raise."""
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# --- leases --------------------------------------------------------------------------------------


def test_item_18_put_without_lease_detaches(side: Side) -> None:
    """And a put with another lease moves the key."""
    db, api, pass_ = side
    db.lease(5, 1)
    db.lease(9, 2)
    for key in (b"moved", b"detached", b"kept", b"stays"):
        db.put(key, b"v", lease=1)
    db.put(b"moved", b"v", lease=2)
    db.put(b"detached", b"v")
    db.put(b"kept", b"w", ignore_lease=True)
    assert [db.get(k).lease for k in (b"moved", b"detached", b"kept", b"stays")] == [2, 0, 1, 1]
    pass_(5)
    assert db.range().keys() == [b"detached", b"moved"]
    pass_(4)
    assert db.range().keys() == [b"detached"]


def test_item_19_revoke_is_one_revision(side: Side) -> None:
    """Of many keys, deleted in ascending order."""
    db, api, _ = side
    db.lease(5, 1)
    for key in (b"b", b"\xff", b"a", b"a\0"):
        db.put(key, b"v", lease=1)
    done = db.do(api.LeaseRevoke(1)) if hasattr(db, "do") else db.submit(
        api.LeaseRevoke(1)).result(60)
    assert (done.revision, done.deleted, db.revision) == (6, 4, 6)
    assert db.range().count == 0
    if not hasattr(db, "do"):
        (response,) = drain(db.watch(start_revision=6))
        assert [e.kv.key for e in response.events] == [b"a", b"a\0", b"b", b"\xff"]
        assert all((e.type, e.kv.mod_revision) == ("DELETE", 6) for e in response.events)


def test_item_20_revoke_of_an_empty_lease(side: Side) -> None:
    """Takes no revision; nor does a grant, a keep-alive or an expiry without keys."""
    db, _, pass_ = side
    db.put(b"a")
    lease = db.lease(5, 1)
    lease.keepalive()
    assert lease.revoke().revision == 2
    db.lease(5, 1)
    pass_(10)
    assert (db.revision, db.leases()) == (2, [])


def test_item_21_unknown_leases(side: Side) -> None:
    """Keep-alive says 0, time to live says -1: no errors. Revoking is one, granting twice too."""
    db, _, pass_ = side
    unknown = db.lease_of(404)
    assert (unknown.keepalive(), unknown.ttl()) == (0, -1)
    assert refused(kvcore.LeaseNotFoundError, unknown.revoke) == (
        "etcdserver: requested lease not found")
    assert refused(kvcore.LeaseNotFoundError, db.put, b"a", b"", lease=404) == (
        "etcdserver: requested lease not found")
    lease = db.lease(5, 1)
    assert refused(kvcore.LeaseExistsError, db.lease, 5, 1) == "etcdserver: lease already exists"
    pass_(5)
    assert (lease.keepalive(), lease.ttl()) == (0, -1)
    assert db.lease(5, 1).ttl() == 5


def test_item_22_least_and_largest_ttl(side: Side) -> None:
    """Raised to 2 seconds; more than nine thousand million is refused."""
    db, _, pass_ = side
    assert [db.lease(ttl, 10 + i).granted_ttl for i, ttl in enumerate((-5, 0, 1, 2, 3))] == [
        2, 2, 2, 2, 3]
    assert db.lease(9_000_000_000, 1).granted_ttl == 9_000_000_000
    assert refused(kvcore.LeaseTTLTooLargeError, db.lease, 9_000_000_001) == (
        "etcdserver: too large lease TTL")
    pass_(2)
    assert [lease.id for lease in db.leases()] == [14, 1]


# --- watches -------------------------------------------------------------------------------------


def test_item_26_create(db: kvcore.Store) -> None:
    """An empty range, a negative, a compacted and a future start.

    Ids, their duplicates and the cancel of an unknown one belong to etcd's stream: a watch of the
    library is an object. That no event precedes the created reply is that watch() returns first.
    """
    for _ in range(9):
        db.put(b"a", b"v")
    db.compact(5)
    for key, end in ((b"b", b"a"), (b"b", b"b")):
        assert refused(kvcore.EmptyRangeError, db.watch, key, end) == (
            "mvcc: watcher range is empty")
    with pytest.raises(kvcore.CompactedError) as negative:
        db.watch(start_revision=-1)
    assert str(negative.value) == "etcdserver: mvcc: required revision has been compacted"
    assert negative.value.compact_revision == 0
    compacted = db.watch(start_revision=4)
    with pytest.raises(kvcore.CompactedError) as late:
        compacted.get(0)
    assert (late.value.compact_revision, compacted.compact_revision) == (5, 5)
    assert [r.revision for r in drain(db.watch(start_revision=5))] == [5, 6, 7, 8, 9, 10]
    future = db.watch(start_revision=13)
    for _ in range(4):
        db.put(b"a", b"v")
    assert [r.revision for r in drain(future)] == [13, 14]
    future.cancel()
    future.cancel()


def test_item_26_empty_key(db: kvcore.Store) -> None:
    """It is read as the smallest key."""
    one, all_ = db.watch(b""), db.watch(b"", b"\0")
    db.put(b"\0")
    db.put(b"a")
    assert [r.revision for r in drain(one)] == [2]
    assert [r.revision for r in drain(all_)] == [2, 3]


def test_item_27_prev_kv(db: kvcore.Store) -> None:
    """The pair at the revision before; absent for creations and when it is compacted."""
    db.put(b"a", b"1")
    db.put(b"a", b"2")
    db.delete(b"a")
    db.put(b"a", b"3")
    got = [r.events[0] for r in drain(db.watch(start_revision=2, prev_kv=True))]
    assert [e.prev_kv and e.prev_kv.value for e in got] == [None, b"1", b"2", None]
    for start in (2, 3, 4):
        waiting = db.watch(start_revision=start, prev_kv=True)
        db.compact(start)
        got = [r.events[0] for r in drain(waiting)]
        assert got[0].kv.mod_revision == start
        assert got[0].prev_kv is None
        assert [e.prev_kv and e.prev_kv.value for e in got[1:]] == [b"1", b"2", None][start - 2:]


def test_item_28_filters(db: kvcore.Store) -> None:
    """NOPUT and NODELETE; of what is filtered away entirely nothing is sent."""
    no_put, no_delete = db.watch(no_put=True), db.watch(no_delete=True)
    both = db.watch(no_put=True, no_delete=True)
    db.put(b"a", b"1")
    db.txn([], [Put(b"b", b"2"), Delete(b"a")])
    db.delete(b"b")
    assert drained(no_put) == [(3, [("DELETE", b"a", b"")]), (4, [("DELETE", b"b", b"")])]
    assert drained(no_delete) == [(2, [("PUT", b"a", b"1")]), (3, [("PUT", b"b", b"2")])]
    assert drained(both) == []


def test_item_29_progress(opened: Any) -> None:
    """Asked for: behind what was due. Periodic: after a quiet interval. Not before the start.

    In etcd one answer with id -1 stands for all watches of a stream, when all are synchronised;
    here each watch is asked, and answers for itself.
    """
    clock = ManualClock()
    db = opened(clock=clock, maintenance=False, progress_interval=600.0)
    asked, unasked = db.watch(b"k"), db.watch(b"k")
    periodic, future = db.watch(b"k", progress_notify=True), db.watch(b"k", start_revision=9)
    db.put(b"k")
    db.put(b"x")
    for watch in (asked, future):
        watch.progress()
    assert [(r.revision, r.is_progress) for r in drain(asked)] == [(2, False), (3, True)]
    assert drain(future) == []
    assert [r.revision for r in drain(periodic)] == [2]
    finish(db)
    for _ in range(2):
        clock.advance(601)
        finish(db)
    assert [(r.revision, r.is_progress) for r in drain(periodic)] == [(3, True)]
    assert [r.is_progress for r in drain(unasked)] == [False]


def test_item_31_progress_does_not_overtake(db: kvcore.Store) -> None:
    """Whenever it is asked for, every event up to its revision came before it."""
    watches = [db.watch(prefix=b"k", start_revision=1) for _ in range(3)]
    for i in range(60):
        db.put(b"k%d" % (i % 5), b"%d" % i)
        for n, watch in enumerate(watches):
            if i % (n + 2) == 0:
                watch.progress()
            if i % (n + 5) == 0:
                watch.get(0)
    for watch in watches:
        watch.progress()
        answers = drain(watch)
        marks = [i for i, r in enumerate(answers) if r.is_progress]
        assert answers[marks[-1]].revision == 61
        for mark in marks:
            assert all(r.revision <= answers[mark].revision for r in answers[:mark])
            assert all(r.revision > answers[mark].revision for r in answers[mark + 1:])


def test_item_37_delete_has_key_and_revision_only(db: kvcore.Store) -> None:
    """Its create_revision, version, lease and value are zero; also from history."""
    lease = db.lease(60)
    db.put(b"a", b"v", lease=lease.id)
    db.put(b"a", b"w", lease=lease.id)
    live = db.watch()
    db.delete(b"a")
    for watch in (live, db.watch(start_revision=4)):
        ((event,),) = [r.events for r in drain(watch)]
        assert models.plain(event.kv) == (b"a", b"", 0, 4, 0, 0)
        assert (event.type, event.is_create) == ("DELETE", False)


def test_compacting_on_a_delete(db: kvcore.Store) -> None:
    """etcd #18089, #19179: a watch from the compacted revision sees the deletion at it."""
    for _ in range(3):
        db.put(b"a", b"v")
    db.delete(b"a")
    db.put(b"a", b"again")
    db.compact(5, physical=True)
    finish(db)
    assert drained(db.watch(start_revision=5)) == [
        (5, [("DELETE", b"a", b"")]), (6, [("PUT", b"a", b"again")])]


def test_a_future_start_tells_nothing_old(db: kvcore.Store) -> None:
    """etcd #20221: neither progress nor events from before it."""
    watch = db.watch(start_revision=4)
    watch.progress()
    db.put(b"a")
    db.put(b"a")
    assert watch.get(0) is None
    db.put(b"a")
    assert [r.revision for r in drain(watch)][0] == 4


def test_one_response_of_a_transaction(db: kvcore.Store) -> None:
    """etcd #17247: no event twice, all of a revision together, to every watch."""
    watches = [db.watch(start_revision=n) for n in (0, 1, 2)] + [db.watch(prefix=b"k")]
    db.txn([], [Put(b"k%d" % i, b"v") for i in range(100)])
    for watch in watches:
        (response,) = drain(watch)
        assert [e.kv.key for e in response.events] == [b"k%d" % i for i in range(100)]
