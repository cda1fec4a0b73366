# SPDX-License-Identifier: Apache-2.0
"""etcd's data model, fact by fact: rules R1..R8 and items of a conformance checklist.

Every test runs against the model (so that the oracle itself is proven by hand-computed facts), the
store in memory and the durable one.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import models
import pytest

import kvcore
from kvcore import Put


class Side(NamedTuple):
    """A store and the module its operations come from."""

    db: Any
    api: ModuleType


@pytest.fixture(params=["model", "memory", "durable"])
def side(request: pytest.FixtureRequest, opened: Any, ram_dir: Path) -> Side:
    if request.param == "model":
        return Side(models.ModelStore(), models)
    return Side(opened(ram_dir / "store" if request.param == "durable" else None), kvcore)


def kv(db: Any, key: bytes) -> Any:
    """All of a key but its name, as a tuple."""
    return models.plain(db.get(key))[1:]


def refused(error: type[Exception], call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The message of the error a call must raise."""
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# --- R1..R8 --------------------------------------------------------------------------------------


def test_rule_1_revision_starts_at_1(side: Side) -> None:
    """An empty store has revision 1 and was never compacted; the first write is revision 2."""
    db = side.db
    assert (db.revision, db.compact_revision) == (1, 0)
    assert db.range().revision == 1
    assert db.put(b"a").revision == 2
    assert db.revision == 2


def test_rule_2_one_revision_per_write_transaction(side: Side) -> None:
    """A transaction takes exactly one revision; inside, changes are ordered by sub."""
    db, api = side
    done = db.txn(success=[api.Put(b"b", b"1"), api.Put(b"a", b"2"), api.Delete(b"x")])
    assert done.revision == db.revision == 2
    assert [row.mod_revision for row in db.range()] == [2, 2]
    assert db.txn(success=[api.Delete(b"a", b"z"), api.Put(b"z", b"")]).revision == 3


def test_rule_3_no_change_no_revision(side: Side) -> None:
    """Deleting nothing, an empty or read-only branch, and compaction take no revision."""
    db, api = side
    db.put(b"a")
    assert db.delete(b"x").revision == 2
    assert db.delete(b"b", b"c").revision == 2
    assert db.txn().revision == 2
    assert db.txn(success=[api.Get(b"a")]).revision == 2
    assert db.txn(success=[api.Delete(b"x")]).revision == 2
    assert db.compact(2) == 2
    assert db.revision == 2


def test_rule_4_put_always_bumps(side: Side) -> None:
    """A put takes a revision also when nothing about the key changes."""
    db = side.db
    assert [db.put(b"a", b"same").revision for _ in range(3)] == [2, 3, 4]
    assert kv(db, b"a") == (b"same", 2, 4, 3, 0)


def test_rule_5_key_value_fields(side: Side) -> None:
    """Alive: create_revision stays and version grows. Otherwise both start anew."""
    db = side.db
    db.put(b"a", b"1")
    db.put(b"b", b"2")
    db.put(b"a", b"3")
    assert kv(db, b"a") == (b"3", 2, 4, 2, 0)
    db.delete(b"a")
    db.put(b"a", b"4")
    assert kv(db, b"a") == (b"4", 6, 6, 1, 0)


def test_rule_6_tombstone_ends_a_generation(side: Side) -> None:
    """A deleted key is absent from its tombstone's revision on, and there before it."""
    db = side.db
    db.put(b"a", b"1")
    assert db.delete(b"a").revision == 3
    assert db.get(b"a") is None
    assert db.get(b"a", revision=3) is None
    assert db.get(b"a", revision=2).value == b"1"
    assert db.delete(b"a").deleted == 0


def test_rule_7_delete_range_in_key_order(side: Side) -> None:
    """DeleteRange deletes live keys in key order, in one revision."""
    db = side.db
    for key in (b"c", b"a", b"b", b"d"):
        db.put(key, key)
    db.delete(b"b")
    gone = db.delete(b"a", b"d", prev=True)
    assert (gone.revision, gone.deleted) == (7, 2)
    assert [row.key for row in gone.prev] == [b"a", b"c"]
    assert db.range().keys() == [b"d"]


def test_rule_8_revisions_in_answers(side: Side) -> None:
    """Writes answer with their revision, reads with the store's, also reads of the past."""
    db, api = side
    assert db.put(b"a").revision == 2
    assert db.put(b"b").revision == 3
    assert db.range(b"a", revision=2).revision == 3
    assert db.delete(b"a").revision == 4
    assert db.delete(b"a").revision == 4
    assert db.txn(success=[api.Get(b"b")]).revision == 4
    assert db.compact(3) == 4


def test_rule_10_revisions_inside_a_txn(side: Side) -> None:
    """A range before the first write reports the begin revision, one behind it the txn's own."""
    db, api = side
    db.put(b"a")
    before, none, put, after, gone = db.txn(success=[
        api.Range(b"a"), api.Delete(b"x"), api.Put(b"b"), api.Range(b"a"), api.Delete(b"x"),
    ]).responses
    assert (before.revision, none.revision) == (2, 2)
    assert (put.revision, after.revision, gone.revision) == (3, 3, 3)


# --- the checklist -------------------------------------------------------------------------------


def test_item_1_fresh_revision(side: Side) -> None:
    """Fresh revision 1; the first put is 2."""
    assert side.db.revision == 1
    assert side.db.put(b"k", b"v").revision == 2


def test_item_2_delete_missing(side: Side) -> None:
    """Deleting a missing key: same revision, deleted 0, no error."""
    gone = side.db.delete(b"k", prev=True)
    assert (gone.revision, gone.deleted, list(gone.prev)) == (1, 0, [])


def test_item_3_txn_that_deletes_nothing(side: Side) -> None:
    """A transaction whose only op deletes nothing takes no revision."""
    db, api = side
    done = db.txn(success=[api.Delete(b"k"), api.Delete(prefix=b"k")])
    assert (done.succeeded, done.revision, db.revision) == (True, 1, 1)


def test_item_4_three_ops_one_revision(side: Side) -> None:
    """Three puts in one transaction: one revision, equal mod_revision."""
    db, api = side
    done = db.txn(success=[api.Put(b"a"), api.Put(b"b"), api.Put(b"c")])
    assert [r.revision for r in done.responses] == [2, 2, 2]
    assert [(row.mod_revision, row.create_revision) for row in db.range()] == [(2, 2)] * 3
    assert db.put(b"d").revision == 3


def test_item_5_version_resets(side: Side) -> None:
    """After a delete the version starts at 1 and create_revision is the new revision."""
    db = side.db
    db.put(b"k")
    db.put(b"k")
    db.delete(b"k")
    db.put(b"k", b"new")
    assert kv(db, b"k") == (b"new", 5, 5, 1, 0)
    assert models.plain(db.get(b"k", revision=3))[2:5] == (2, 3, 2)


def test_item_6_historic_range_has_current_revision(side: Side) -> None:
    """A range of the past shows the past, under the current revision."""
    db = side.db
    db.put(b"a", b"1")
    db.put(b"a", b"2")
    db.put(b"b", b"3")
    page = db.range(revision=2)
    assert (page.values(), page.count, page.revision) == ([b"1"], 1, 4)


def test_item_7_bounds_of_history(side: Side) -> None:
    """At the compact revision: fine. Below: compacted. Above the current one: future."""
    db = side.db
    for value in (b"2", b"3", b"4"):
        db.put(b"a", value)
    db.compact(3)
    assert db.get(b"a", revision=3).value == b"3"
    assert db.range(b"a", revision=3).values() == [b"3"]
    message = "etcdserver: mvcc: required revision has been compacted"
    assert refused(kvcore.CompactedError, db.get, b"a", revision=2) == message
    assert refused(kvcore.CompactedError, db.range, b"a", revision=1) == message
    message = "etcdserver: mvcc: required revision is a future revision"
    assert refused(kvcore.FutureRevisionError, db.get, b"a", revision=5) == message
    assert refused(kvcore.FutureRevisionError, db.range, revision=5) == message
    assert refused(kvcore.FutureRevisionError, db.hash, 5) == message


def test_item_8_count_and_more(side: Side) -> None:
    """count ignores limit and filters; more says that the filtered result was longer."""
    db = side.db
    for i in range(5):
        db.put(b"k%d" % i, b"%d" % (9 - i))
    page = db.range(prefix=b"k", limit=2)
    assert (page.keys(), page.count, page.more) == ([b"k0", b"k1"], 5, True)
    page = db.range(prefix=b"k", limit=5)
    assert (len(page), page.count, page.more) == (5, 5, False)
    page = db.range(prefix=b"k", min_mod_revision=5)
    assert (page.keys(), page.count, page.more) == ([b"k3", b"k4"], 5, False)
    page = db.range(prefix=b"k", max_create_revision=4, limit=1)
    assert (page.keys(), page.count, page.more) == ([b"k0"], 5, True)
    page = db.range(prefix=b"k", min_mod_revision=5, limit=2)
    assert (len(page), page.count, page.more) == (2, 5, False)
    page = db.range(prefix=b"k", count_only=True, keys_only=True, limit=1)
    assert (len(page), page.count, page.more) == (0, 5, False)
    page = db.range(prefix=b"k", keys_only=True)
    assert page.values() == [b""] * 5
    assert [row.mod_revision for row in page] == [2, 3, 4, 5, 6]
    page = db.range(prefix=b"k", sort="value", limit=2)
    assert (page.keys(), page.count, page.more) == ([b"k4", b"k3"], 5, True)
    assert db.range(prefix=b"k", sort="-key", limit=1).keys() == [b"k4"]
    assert db.range(prefix=b"k", sort="value", keys_only=True, limit=1).keys() == [b"k4"]


def test_item_9_range_conventions(side: Side) -> None:
    """End "\\0" is no bound; "\\0" to "\\0" is everything; a prefix of 0xff has no end."""
    db, api = side
    keys = [b"\0", b"a", b"a\0", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff"]
    for key in keys:
        db.put(key)
    everything = sorted(keys)
    assert db.range(b"\0", b"\0").keys() == everything
    assert db.range().keys() == everything
    assert db.range(prefix=b"").keys() == everything
    assert db.range(b"a\0", b"\0").keys() == everything[2:]
    assert db.range(b"a").keys() == [b"a"]
    assert db.range(b"a", b"b").keys() == [b"a", b"a\0", b"a\xff", b"a\xff\xff"]
    assert db.range(prefix=b"a\xff").keys() == [b"a\xff", b"a\xff\xff"]
    assert db.range(prefix=b"\xff").keys() == [b"\xff", b"\xff\xff"]
    assert api.prefix_end(b"a\xff\xff") == b"b"
    assert api.prefix_end(b"\xff\xff") == b"\0"
    assert db.delete(b"b", b"\0").deleted == 3


def test_item_10_end_before_start(side: Side) -> None:
    """A range that ends at or before its start is empty, and no error."""
    db = side.db
    db.put(b"b")
    for start, end in ((b"b", b"b"), (b"c", b"a"), (b"b\0", b"b")):
        page = db.range(start, end)
        assert (len(page), page.count, page.more) == (0, 0, False)
        assert db.delete(start, end).deleted == 0
    assert db.revision == 2


def test_item_11_compare_on_a_missing_key(side: Side) -> None:
    """A missing key is all zeros; a compare of its value is false for every operator."""
    db, api = side
    value = api.Compare.value(b"x")
    for compare in (value == b"", value != b"", value < b"z", value > b"", value != b"z"):
        assert not db.txn([compare]).succeeded
    for target in ("version", "create_revision", "mod_revision", "lease"):
        compare = getattr(api.Compare, target)(b"x")
        verdicts = [db.txn([c]).succeeded for c in (
            compare == 0, compare != 0, compare < 1, compare > -1, compare > 0, compare == 1)]
        assert verdicts == [True, False, True, True, False, False]


def test_item_11_compare_on_a_deleted_key(side: Side) -> None:
    """A deleted key is a missing one, whatever its deletion was."""
    db, api = side
    db.put(b"x", b"1")
    db.delete(b"x")
    compare = api.Compare
    for what in (compare.version(b"x"), compare.create_revision(b"x"), compare.mod_revision(b"x"),
                 compare.lease(b"x"), compare.mod_revision(b"x", b"y")):
        assert [db.txn([c]).succeeded for c in (what == 0, what > 0)] == [True, False]
    for value in (compare.value(b"x") == b"", compare.value(b"x") != b"1"):
        assert not db.txn([value]).succeeded


def test_item_11_compare_on_a_range(side: Side) -> None:
    """Every live key of the range must satisfy it; an empty range is a missing key."""
    db, api = side
    db.put(b"a", b"1")
    db.put(b"b", b"1")
    db.put(b"b", b"2")
    compare = api.Compare

    def holds(what: Any) -> bool:
        return db.txn([what]).succeeded

    assert holds(compare.version(b"a", b"z") > 0)
    assert not holds(compare.version(b"a", b"z") == 1)
    assert holds(compare.value(prefix=b"") < b"3")
    assert not holds(compare.value(b"a", b"\0") == b"1")
    assert holds(compare.create_revision(b"x", b"z") == 0)
    assert not holds(compare.value(b"x", b"z") != b"1")
    assert holds(compare.value(b"b", b"a") == b"") is False


def test_item_12_nested_compare_sees_the_state_before(side: Side) -> None:
    """All compares, nested ones too, are decided before any operation runs."""
    db, api = side
    done = db.txn(success=[
        api.Put(b"a", b"1"),
        api.Txn([api.Compare.version(b"a") == 0], [api.Put(b"saw", b"none")],
                [api.Put(b"saw", b"one")]),
    ])
    assert done.responses[1].succeeded
    assert db.get(b"saw").value == b"none"


def test_item_13_reads_see_earlier_writes(side: Side) -> None:
    """Inside a transaction a get sees what was put and deleted before it."""
    db, api = side
    db.put(b"b", b"old")
    answers = db.txn(success=[
        api.Get(b"a"), api.Put(b"a", b"1"), api.Get(b"a"), api.Delete(b"b"), api.Range(),
        api.Range(revision=2),
    ]).responses
    assert answers[0] is None
    assert (answers[2].value, answers[2].mod_revision) == (b"1", 3)
    assert answers[4].keys() == [b"a"]
    assert answers[5].keys() == [b"b"]


DUPLICATES: dict[str, Callable[[Any], list[Any]]] = {
    "put put": lambda o: [o.Put(b"a"), o.Put(b"a")],
    "put delete": lambda o: [o.Put(b"a"), o.Delete(b"a")],
    "delete put": lambda o: [o.Delete(b"a"), o.Put(b"a")],
    "put delete range": lambda o: [o.Put(b"b"), o.Delete(b"a", b"c")],
    "delete prefix put": lambda o: [o.Delete(prefix=b"b"), o.Put(b"bb")],
    "put delete all": lambda o: [o.Put(b"b"), o.Delete(b"a", b"\0")],
    "put nested put": lambda o: [o.Put(b"a"), o.Txn([], [o.Put(b"a")])],
    "nested put put": lambda o: [o.Txn([], [], [o.Put(b"a")]), o.Put(b"a")],
    "delete nested put": lambda o: [o.Txn([], [o.Put(b"a")]), o.Delete(b"a")],
    "nested delete put": lambda o: [o.Put(b"a"), o.Txn([], [o.Delete(b"a")])],
    "sibling puts": lambda o: [o.Txn([], [o.Put(b"a")]), o.Txn([], [], [o.Put(b"a")])],
    "sibling delete put": lambda o: [o.Txn([], [o.Delete(b"a")]), o.Txn([], [o.Put(b"a")])],
    "within a nested one": lambda o: [o.Txn([], [o.Put(b"a"), o.Put(b"a")])],
    "nested in failure": lambda o: [o.Txn([], [], [o.Put(b"a"), o.Delete(b"a")])],
}

NO_DUPLICATES: dict[str, Callable[[Any], list[Any]]] = {
    "two keys": lambda o: [o.Put(b"a"), o.Put(b"b")],
    "then and else": lambda o: [o.Txn([], [o.Put(b"a")], [o.Put(b"a")])],
    "two deletes": lambda o: [o.Delete(b"a"), o.Delete(b"a", b"c"), o.Delete(prefix=b"")],
    "range and put": lambda o: [o.Range(), o.Put(b"a"), o.Get(b"a")],
    "delete up to the key": lambda o: [o.Delete(b"a", b"b"), o.Put(b"b")],
    "empty delete range": lambda o: [o.Delete(b"b", b"a"), o.Put(b"b")],
    "nested deletes": lambda o: [o.Delete(b"a"), o.Txn([], [o.Delete(b"a")])],
}


@pytest.mark.parametrize("branch", ["success", "failure"])
@pytest.mark.parametrize("name", DUPLICATES)
def test_item_14_duplicate_key_in_txn(side: Side, name: str, branch: str) -> None:
    """One branch may not put a key twice, or put and delete it, nested ones included."""
    db, api = side
    message = refused(kvcore.DuplicateKeyError, db.txn, **{branch: DUPLICATES[name](api)})
    assert message == "etcdserver: duplicate key given in txn request"
    assert db.revision == 1


@pytest.mark.parametrize("name", NO_DUPLICATES)
def test_item_14_not_a_duplicate(side: Side, name: str) -> None:
    """Branches exclude each other; deletes may overlap; ranges never conflict."""
    db, api = side
    db.put(b"a")
    assert db.txn(success=NO_DUPLICATES[name](api), failure=[api.Put(b"a")]).revision == 3


def test_item_15_number_of_operations(side: Side) -> None:
    """At most 128 in the longest of the three lists; a nested one has what its parent left."""
    db, api = side
    puts = [api.Put(b"%03d" % i) for i in range(129)]
    compares = [api.Compare.version(b"x") == 0] * 129
    message = "etcdserver: too many operations in txn request"
    assert refused(kvcore.TooManyOpsError, db.txn, success=puts) == message
    refused(kvcore.TooManyOpsError, db.txn, failure=puts)
    refused(kvcore.TooManyOpsError, db.txn, compares)
    assert db.revision == 1
    assert len(db.txn(compares[:128], puts[:128], puts[:128]).responses) == 128
    assert db.revision == 2


def test_item_15_nested_budget(side: Side) -> None:
    """The budget of a nested transaction is its parent's less the parent's longest list."""
    db, api = side

    def nested(outer: int, inner: int) -> list[Any]:
        return [api.Get(b"a")] * (outer - 1) + [api.Txn([], [api.Get(b"a")] * inner)]

    assert db.txn(success=nested(100, 28)).succeeded
    refused(kvcore.TooManyOpsError, db.txn, success=nested(100, 29))
    refused(kvcore.TooManyOpsError, db.txn, [], [api.Txn([], nested(64, 64))])
    assert db.txn([], [api.Txn([], nested(63, 64))]).succeeded


def test_item_16_failed_operation_leaves_nothing(side: Side) -> None:
    """An operation that fails on the state fails the transaction before its first change."""
    db, api = side
    db.put(b"a", b"1")
    bad = [
        (kvcore.LeaseNotFoundError, api.Put(b"b", lease=7)),
        (kvcore.LeaseNotFoundError, api.Put(b"c", lease=-7)),
        (kvcore.KeyNotFoundError, api.Put(b"d", ignore_value=True)),
        (kvcore.FutureRevisionError, api.Range(b"a", revision=3)),
        (kvcore.FutureRevisionError, api.Txn([], [api.Get(b"a", revision=3)])),
    ]
    before = db.hash().hash
    for error, op in bad:
        refused(error, db.txn, success=[api.Put(b"x", b"2"), api.Delete(b"a"), op])
        assert (db.revision, db.hash().hash) == (2, before)
    assert db.txn(success=[api.Put(b"x")], failure=[op for _, op in bad]).revision == 3


def test_item_16_checks_see_the_state_before(side: Side) -> None:
    """ignore_* on a key that only the transaction creates fails; so does a compacted read."""
    db, api = side
    create = api.Txn([], [api.Put(b"a", b"1")])
    refused(kvcore.DuplicateKeyError, db.txn,
            success=[create, api.Put(b"a", ignore_value=True)])
    db.put(b"k")
    db.put(b"k")
    db.compact(3)
    refused(kvcore.CompactedError, db.txn, success=[api.Put(b"x"), api.Get(b"k", revision=2)])
    refused(kvcore.CompactedError, db.txn, success=[api.Put(b"x"), api.Get(b"k", revision=-1)])
    assert db.revision == 3


def test_item_16_order_of_the_checks(side: Side) -> None:
    """Puts are checked before ranges; a put by itself for its lease first, in a txn for its key."""
    db, api = side
    bad_range, bad_lease = api.Range(b"a", revision=9), api.Put(b"a", lease=7)
    bad_both = api.Put(b"gone", lease=7, ignore_value=True)
    db.put(b"a")
    for ops in ([bad_range, bad_lease], [bad_range, api.Txn([], [bad_lease])],
                [api.Txn([], [bad_range]), bad_lease], [bad_lease, bad_both]):
        message = refused(kvcore.LeaseNotFoundError, db.txn, success=ops)
        assert message == "etcdserver: requested lease not found"
    assert refused(kvcore.KeyNotFoundError, db.txn, success=[bad_range, bad_both]) == (
        "etcdserver: key not found")
    refused(kvcore.LeaseNotFoundError, db.put, b"gone", lease=7, ignore_value=True)
    db.put(b"a")
    db.compact(3)
    ranges = [api.Range(b"a", revision=2), api.Put(b"b"), bad_range]
    refused(kvcore.CompactedError, db.txn, success=ranges)
    refused(kvcore.FutureRevisionError, db.txn, success=ranges[::-1])
    assert refused(kvcore.LeaseNotFoundError, db.txn, success=[*ranges[:1], bad_lease]) == message


def test_item_17_ignore_flags(side: Side) -> None:
    """ignore_value keeps the value, ignore_lease the lease; version and mod_revision grow."""
    db = side.db
    assert refused(kvcore.KeyNotFoundError, db.put, b"a", ignore_value=True) == (
        "etcdserver: key not found")
    refused(kvcore.KeyNotFoundError, db.put, b"a", b"1", ignore_lease=True)
    db.put(b"a", b"1")
    assert refused(kvcore.ValueProvidedError, db.put, b"a", b"2", ignore_value=True) == (
        "etcdserver: value is provided")
    assert refused(kvcore.LeaseProvidedError, db.put, b"a", lease=1, ignore_lease=True) == (
        "etcdserver: lease is provided")
    kept = db.put(b"a", ignore_value=True, prev=True)
    assert (kept.revision, kept.prev.value) == (3, b"1")
    assert kv(db, b"a") == (b"1", 2, 3, 2, 0)
    db.put(b"a", b"2", ignore_lease=True)
    assert kv(db, b"a") == (b"2", 2, 4, 3, 0)
    db.delete(b"a")
    refused(kvcore.KeyNotFoundError, db.put, b"a", ignore_value=True, ignore_lease=True)


def test_item_17_prev(side: Side) -> None:
    """prev is the pair before, absent when the key was not alive; values may be empty."""
    db = side.db
    assert db.put(b"a", b"", prev=True).prev is None
    before = db.put(b"a", b"2", prev=True).prev
    assert (before.key, before.value, before.mod_revision) == (b"a", b"", 2)
    assert db.put(b"a").prev is None
    db.delete(b"a")
    assert db.put(b"a", b"3", prev=True).prev is None


def test_item_23_compaction_bounds(side: Side) -> None:
    """Twice the same: compacted. Above the current revision: future. At it: fine."""
    db = side.db
    for _ in range(4):
        db.put(b"a")
    assert db.compact(3) == 5
    refused(kvcore.CompactedError, db.compact, 3)
    refused(kvcore.CompactedError, db.compact, 2)
    refused(kvcore.FutureRevisionError, db.compact, 6)
    assert db.compact(5) == 5
    refused(kvcore.CompactedError, db.compact, 5)
    assert (db.revision, db.compact_revision) == (5, 5)


def test_item_23_compact_0_once(side: Side) -> None:
    """A fresh store's compact revision is -1 inside, so compacting at 0 is legal once."""
    db = side.db
    refused(kvcore.CompactedError, db.compact, -1)
    assert db.compact(0) == 1
    refused(kvcore.CompactedError, db.compact, 0)
    assert db.compact_revision == 0


def test_item_24_compaction_at_a_tombstone(side: Side) -> None:
    """put x3, delete at 5, put at 6, compact 5: at 5 the key is absent, at 6 it is there."""
    db = side.db
    for i in range(3):
        db.put(b"a", b"%d" % i)
    assert db.delete(b"a").revision == 5
    db.put(b"a", b"new")
    db.compact(5, physical=True)
    assert db.get(b"a", revision=5) is None
    assert db.range(revision=5).count == 0
    assert models.plain(db.get(b"a", revision=6)) == (b"a", b"new", 6, 6, 1, 0)
    if isinstance(db, models.ModelStore):
        assert db.versions() == range(2, 3)
    else:
        assert db.status().versions == 2


def test_item_36_read_only_txn_in_the_past(side: Side) -> None:
    """A transaction of reads may read old revisions, and takes none itself."""
    db, api = side
    db.put(b"a", b"1")
    db.put(b"a", b"2")
    done = db.txn([api.Compare.version(b"a") == 2],
                  [api.Get(b"a", revision=2), api.Range(b"a", revision=3), api.Get(b"a")])
    assert done.succeeded
    assert (done.responses[0].value, done.responses[2].value) == (b"1", b"2")
    assert (done.responses[1].revision, done.revision) == (3, 3)
    refused(kvcore.FutureRevisionError, db.txn, success=[api.Get(b"a", revision=4)])
    db.compact(3)
    refused(kvcore.CompactedError, db.txn, success=[api.Get(b"a", revision=2)])


# --- durable -------------------------------------------------------------------------------------

_DELETE_COMPACT_DIE = """
import os, signal, sys, kvcore
db = kvcore.open(sys.argv[1], maintenance=False)
db.put(b"a", b"1")
assert db.delete(b"a").revision == 3
db.compact(3)
if sys.argv[2] == "swept":
    while db.step():
        pass
if sys.argv[2] == "checkpoint":
    db.checkpoint()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("state", ["pending", "swept", "checkpoint"])
def test_item_25_revision_survives_compaction_and_crash(
    opened: Any, tmp_path: Path, state: str
) -> None:
    """Delete the last key, compact at its tombstone, crash: the revision must not go back."""
    died = subprocess.run([sys.executable, "-c", _DELETE_COMPACT_DIE, tmp_path, state],
                          timeout=60)
    assert died.returncode == -signal.SIGKILL
    db = opened(tmp_path)
    assert (db.revision, db.compact_revision) == (3, 3)
    assert db.get(b"a") is None
    assert db.put(b"b").revision == 4


AT = (0, 2250, 2300)  # now, the compact revision, one behind it


@pytest.mark.parametrize("checkpointed", [False, True])
def test_item_34_hash_is_stable(opened: Any, ram_dir: Path, checkpointed: bool) -> None:
    """The hash is the same before, during and after a compaction's sweep, and after a restart."""
    db = opened(ram_dir, maintenance=False)
    model = models.ModelStore()
    for side in (db, model):
        side.put_many([(b"k%04d" % (i % 700), b"%d" % i) for i in range(2000)])
        for i in range(300):
            side.delete(b"k%04d" % (i * 2))
        side.compact(2250)
    wanted = [model.hash(revision) for revision in AT]
    seen = 0
    while True:
        assert [models.plain(db.hash(r)) for r in AT] == list(map(models.plain, wanted))
        seen += db.status().compacting
        if not db.step(budget=10):
            break
    assert seen > 2
    if checkpointed:
        assert db.checkpoint() == 1
    db.close()
    db = opened(ram_dir, maintenance=False)
    assert [models.plain(db.hash(r)) for r in AT] == list(map(models.plain, wanted))
    while db.step():
        pass
    assert db.status().versions in model.versions()


def test_hash_of_etcd_rows() -> None:
    """HashKV spelled out once, byte by byte, for a put, a second put and a tombstone."""
    rows = (
        b"key"
        b"\0\0\0\0\0\0\0\2_\0\0\0\0\0\0\0\0" b"\x0a\1a\x10\2\x18\2\x20\1\x2a\2v1"
        b"\0\0\0\0\0\0\0\3_\0\0\0\0\0\0\0\0" b"\x0a\1a\x10\2\x18\3\x20\2"
        b"\0\0\0\0\0\0\0\4_\0\0\0\0\0\0\0\0t" b"\x0a\1a"
    )
    wanted = models.crc32c(0, rows)
    for db in (models.ModelStore(), kvcore.open()):
        db.put(b"a", b"v1")
        db.put(b"a", b"")
        db.delete(b"a")
        assert models.plain(db.hash()) == ("hash", wanted, 0, 4)
        db.close()


@pytest.mark.parametrize("where", ["same segment", "another segment", "behind a checkpoint"])
def test_compare_of_a_value_replays(opened: Any, ram_dir: Path, where: str) -> None:
    """A compare of a value reads the log while the log is being replayed."""
    options = {"maintenance": False, "segment_bytes": 65536, "max_request_bytes": 16384}
    db = opened(ram_dir, **options)
    db.put(b"a", b"1")
    if where == "another segment":
        for i in range(10):
            db.put(b"%d" % i, b"f" * 15000)
    if where == "behind a checkpoint":
        db.checkpoint()
    value = kvcore.Compare.value(b"a")
    done = db.txn([value == b"1"], [Put(b"won"), kvcore.Txn([value != b"1"], [], [Put(b"too")])])
    assert done.succeeded
    before = db.hash()
    db.close()
    db = opened(ram_dir, **options)
    assert db.hash() == before
    assert db.get(b"too").mod_revision == db.get(b"won").mod_revision == done.revision
