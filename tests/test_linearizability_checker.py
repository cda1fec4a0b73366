# SPDX-License-Identifier: Apache-2.0
"""The checker of histories finds what it is for.

By hand: one history that is right, and one for each way to be wrong. By comparison: random small
histories, right and spoilt, judged by the checker and by the general search, which share nothing
but the model. By planting: stores with a bug of the kind that threads make, each found.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import models
import pytest
from linearizability import (
    FOREVER,
    Call,
    Model,
    Undecided,
    changed,
    check,
    explained,
    partition,
    register,
    revision_of,
)
from linearizability_crowd import Crowd
from models import plain
from pairs import Recipe

import kvcore

A, B = b"a", b"b"


def put(begin: int, end: int, key: bytes, value: bytes, revision: int, before: Any = None,
        **options: Any) -> Call:
    return Call(1, begin, end, Recipe("Put", (key, value), options), ("put", revision, before))


def get(begin: int, end: int, key: bytes, answer: Any, *at: int) -> Call:
    return Call(2, begin, end, Recipe("Get", (key, *at)), answer)


def pair(key: bytes, value: bytes, mod: int, create: int = 0, version: int = 1) -> Any:
    return (key, value, create or mod, mod, version, 0)


def rules(*calls: Call, **options: Any) -> set[str]:
    return {line.split(":")[0] for line in check(list(calls), **options)}


# 2 put a=1 in [10, 20]; 3 put a=2 in [30, 40]; 4 put b=3 in [50, 60]
FIRST = put(10, 20, A, b"1", 2)
SECOND = put(30, 40, A, b"2", 3, pair(A, b"1", 2), prev=True)
THIRD = put(50, 60, B, b"3", 4)
ALL = [FIRST, SECOND, THIRD]
NEW = pair(A, b"2", 3, 2, 2)


# --- by hand -------------------------------------------------------------------------------------


def test_right_histories() -> None:
    """What is side by side may be seen either way."""
    assert rules() == set()
    assert rules(*ALL, get(70, 71, A, NEW), get(70, 71, B, pair(B, b"3", 4))) == set()
    assert rules(*ALL, get(35, 36, A, NEW)) == set()
    assert rules(*ALL, get(35, 36, A, pair(A, b"1", 2))) == set()
    assert rules(*ALL, get(5, 15, A, None), get(5, 15, A, pair(A, b"1", 2))) == set()
    assert rules(*ALL, get(70, 71, A, pair(A, b"1", 2), 2), get(70, 71, A, None, 1)) == set()
    assert rules(*ALL, Call(3, 70, 71, Recipe("Revision"), 4)) == set()
    assert rules(*ALL, Call(3, 40, 70, Recipe("GetMany", ([A, B],)), [NEW, None])) == set()
    assert rules(*ALL, Call(3, 9, 70, Recipe("Delete", (b"c",)), ("delete", 3, 0, []))) == set()


def test_a_stale_read() -> None:
    assert rules(*ALL, get(41, 42, A, pair(A, b"1", 2))) == {"stale"}
    assert rules(*ALL, get(21, 22, A, None)) == {"stale"}
    assert rules(*ALL, Call(3, 61, 62, Recipe("Revision"), 3)) == {"stale"}
    assert rules(*ALL, Call(3, 61, 62, Recipe("Range", (A,)),
                            ("range", 3, 1, False, [NEW]))) == {"stale"}
    assert rules(*ALL, Call(3, 61, 62, Recipe("Put", (b"c",), {"ignore_value": True}),
                            "KeyNotFoundError")) == set()
    assert rules(*ALL, Call(3, 61, 62, Recipe("Put", (A,), {"ignore_value": True}),
                            "KeyNotFoundError")) == {"stale"}
    assert rules(*ALL, get(61, 62, A, "FutureRevisionError", 4)) == {"stale"}
    assert rules(*ALL, get(55, 62, A, "FutureRevisionError", 4)) == set()


def test_a_read_behind_another_read() -> None:
    """Who begins after a reader's answer sees no less than that reader, also while the put runs."""
    new, old = get(32, 33, A, NEW), get(34, 35, A, pair(A, b"1", 2))
    assert rules(*ALL, new, old) == {"stale"}
    assert rules(*ALL, new._replace(begin=34, end=35), old._replace(begin=32, end=33)) == set()


def test_two_keys_at_different_times() -> None:
    """get_many and range show one state."""
    assert rules(*ALL, Call(3, 9, 70, Recipe("GetMany", ([A, B],)),
                            [pair(A, b"1", 2), pair(B, b"3", 4)])) == {"never"}
    assert rules(*ALL, Call(3, 9, 70, Recipe("Range"), (
        "range", 4, 2, False, [pair(A, b"1", 2), pair(B, b"3", 4)]))) == {"answer"}


def test_a_dirty_read() -> None:
    """Of a change before it began, or of one that failed."""
    assert rules(*ALL, get(25, 26, A, NEW)) == {"early"}
    assert rules(FIRST, get(25, 26, A, pair(A, b"9", 3, 2, 2)),
                 put(24, 30, A, b"9", 0)._replace(answer="ClosedError")) == {"gap"}
    assert rules(*ALL, get(61, 62, A, pair(A, b"7", 2))) == {"never"}
    assert rules(*ALL, Call(3, 25, 26, Recipe("Revision"), 3)) == {"early"}
    assert rules(*ALL, get(25, 26, A, NEW, 3)) == {"early"}


def test_order_against_real_time() -> None:
    assert rules(put(10, 20, A, b"1", 3), put(30, 40, B, b"2", 2)) == {"order"}
    assert rules(put(10, 30, A, b"1", 3), put(30, 40, B, b"2", 2)) == set()
    many = Call(1, 10, 20, Recipe("PutMany", ([(A, b"1"), (B, b"2")],)), [3, 2])
    assert rules(many) == {"order"}
    assert rules(many._replace(answer=[2, 3])) == set()


def test_a_lost_update() -> None:
    """Two that compared with the same revision and both won; a previous pair that was replaced."""
    def cas(begin: int, revision: int, ok: bool, at: int) -> Call:
        compare = Recipe("Compare", ("mod_revision", {"key": A}, "==", at))
        return Call(3, begin, begin + 1, Recipe("Txn", ([compare], [Recipe("Put", (A, b"x"))], [])),
                    ("txn", ok, revision, [("put", revision, None)] if ok else []))

    assert rules(FIRST, cas(25, 3, True, 2), cas(27, 4, True, 3)) == set()
    assert rules(FIRST, cas(25, 3, True, 2), cas(27, 4, True, 2)) == {"answer"}
    assert rules(FIRST, cas(25, 2, False, 2)) == {"answer"}
    assert rules(FIRST, cas(25, 2, False, 7)) == set()
    late = put(45, 46, A, b"x", 4, pair(A, b"1", 2), prev=True)
    assert rules(FIRST, SECOND, late) == {"answer"}


def test_wrong_versions() -> None:
    assert rules(*ALL, get(70, 71, A, pair(A, b"2", 3, 3, 2))) == {"never"}
    assert rules(*ALL, get(70, 71, A, pair(A, b"2", 3, 2, 1))) == {"never"}
    gone = Call(1, 62, 63, Recipe("Delete", (A,), {"prev": True}), ("delete", 5, 1, [NEW]))
    assert rules(*ALL, gone, put(64, 65, A, b"9", 6), get(70, 71, A, pair(A, b"9", 6))) == set()
    assert rules(*ALL, gone._replace(answer=("delete", 5, 1, [pair(A, b"1", 2)]))) == {"answer"}


def test_a_revision_twice_or_never() -> None:
    assert rules(*ALL, put(50, 60, B, b"4", 4)) == {"unique"}
    assert rules(FIRST, THIRD) == {"gap"}
    assert rules(*ALL, Call(3, 70, 71, Recipe("Revision"), 5)) == {"gap"}


def test_outcomes_unknown() -> None:
    """Such a change may be there, from its begin on, once, or not at all."""
    lost = put(45, 46, B, b"x", 0)._replace(answer="OutcomeUnknownError")
    assert rules(*ALL, lost) == set()
    seen = get(90, 91, B, pair(B, b"x", 5, 4, 2))
    assert rules(*ALL, lost, get(80, 81, B, pair(B, b"3", 4)), seen) == set()
    assert rules(*ALL, lost, seen, get(92, 93, B, pair(B, b"3", 4))) == {"stale"}
    assert rules(*ALL, lost._replace(begin=95), seen) == {"gap"}
    assert rules(*ALL, seen) == {"gap"}
    assert rules(*ALL, lost, seen, put(94, 95, A, b"y", 7)) == {"gap"}
    assert rules(*ALL, lost, lost._replace(recipe=Recipe("Put", (A, b"y"))),
                 get(94, 95, A, pair(A, b"y", 5, 2, 3)), get(96, 97, B, pair(B, b"x", 6, 4, 2)),
                 ) == set()
    many = [lost] * 12
    late = Call(3, 99, 100, Recipe("Revision"), 16)
    assert check([*ALL, *many, late, get(101, 102, B, pair(B, b"?", 16))], bound=50) == [
        "gap: undecided, too many ways to explain 12 outcomes"]


def test_leases() -> None:
    """A lease that ends takes its keys in one revision, and nobody puts with it afterwards."""
    grant = Call(1, 1, 2, Recipe("Grant", (10, 7)), 10)
    leased = put(10, 20, A, b"1", 2, lease=7)
    revoke = Call(1, 30, 40, Recipe("Revoke", (7,)), ("delete", 3, 1, []))
    refused = Call(2, 35, 36, leased.recipe, "LeaseNotFoundError")
    assert rules(grant, leased, revoke, refused, get(50, 51, A, None)) == set()
    assert rules(grant, leased, revoke, put(50, 60, A, b"1", 4, lease=7)) == {"answer"}
    assert rules(grant, leased, refused) == {"answer"}
    assert rules(grant, leased, refused, mortal=True) == set()
    gone = [get(50, 51, A, None), put(60, 61, B, b"2", 4)]
    assert rules(grant, leased, *gone) == {"gap"}
    assert rules(grant, leased, *gone, mortal=True) == set()
    assert rules(grant, leased, *gone, get(70, 71, A, (A, b"1", 2, 2, 1, 7)), mortal=True) == {
        "stale"}


def test_snapshots_and_watches() -> None:
    taken = Call(3, 25, 26, Recipe("Snapshot"), 2)
    assert rules(*ALL, taken, get(70, 71, A, pair(A, b"1", 2))._replace(at=2)) == set()
    assert rules(*ALL, taken, get(70, 71, A, NEW)._replace(at=2)) == {"answer"}
    assert rules(*ALL, taken._replace(begin=41, end=42)) == {"stale"}
    event = ("PUT", NEW, pair(A, b"1", 2))
    assert rules(*ALL, Call(3, 70, 71, Recipe("Watch"), [event])) == set()
    assert rules(*ALL, Call(3, 21, 22, Recipe("Watch"), [event])) == {"early"}
    assert rules(*ALL, Call(3, 70, 71, Recipe("Watch"), [("PUT", NEW, pair(A, b"0", 2))])) == {
        "answer"}
    gone = (A, b"", 0, 4, 0, 0)
    assert rules(*ALL, Call(3, 70, 71, Recipe("Watch"), [("DELETE", gone, None)])) == {"never"}


def test_compaction() -> None:
    compact = Call(3, 70, 75, Recipe("Compact", (3,)), 4)
    refused = get(80, 81, A, "CompactedError", 2)
    assert rules(*ALL, compact, refused, get(80, 81, A, NEW, 3)) == set()
    assert rules(*ALL, compact, get(80, 81, A, pair(A, b"1", 2), 2)) == {"compacted"}
    assert rules(*ALL, compact, get(72, 81, A, pair(A, b"1", 2), 2)) == set()
    assert rules(*ALL, compact, refused._replace(begin=60, end=61)) == {"compacted"}
    assert rules(*ALL, compact, get(80, 81, A, "CompactedError", 3)) == {"compacted"}
    assert rules(*ALL, compact, compact._replace(begin=80, end=85)) == {"compacted"}
    assert rules(*ALL, compact, compact._replace(begin=80, end=85, answer="CompactedError")) == (
        set())


def test_the_general_search() -> None:
    def call(kind: str, begin: int, end: int, value: Any = None, answer: Any = None) -> Call:
        return Call(1, begin, end, Recipe(kind, (A, value)), answer)

    sets = [call("set", 1, 4, b"1"), call("set", 2, 5, b"2")]
    assert explained([*sets, call("get", 6, 7, answer=b"1")], register)
    assert explained([*sets, call("get", 6, 7, answer=b"2")], register)
    assert not explained([*sets, call("get", 6, 7)], register)
    assert not explained([*sets, call("get", 6, 7, answer=b"1"), call("get", 8, 9, answer=b"2")],
                         register)
    assert explained([call("setdefault", 1, 2, b"1", b"1"), call("setdefault", 3, 4, b"2", b"1"),
                      call("pop", 5, 6, answer=b"1"), call("get", 7, 8)], register)
    assert not explained([call("pop", 1, 9, answer=b"1"), call("pop", 2, 9, answer=b"1"),
                          call("set", 1, 2, b"1")], register)
    lost = call("set", 1, FOREVER, b"3")
    assert explained([lost, call("get", 6, 7), call("get", 8, 9, answer=b"3")], register)
    assert not explained([lost, call("get", 6, 7, answer=b"3"), call("get", 8, 9)], register)
    with pytest.raises(Undecided):
        explained([call("set", 1, 9, b"%d" % n) for n in range(9)] + [
            call("get", 10, 11, answer=b"?")], register, bound=100)
    assert set(partition([*sets, sets[0]._replace(recipe=Recipe("get", (B,)))])) == {A, B}


# --- by comparison with the general search --------------------------------------------------------


def invented(chance: random.Random) -> list[Call]:
    """A right history: each call takes effect somewhere between its begin and its end."""
    model, calls, free = Model(), [], [0, 0, 0]
    clock = 0
    for _ in range(chance.randrange(3, 8)):
        clock += 10
        who = chance.randrange(3)
        begin = max(free[who], clock - chance.randrange(30)) + 1
        clock = max(clock, begin)
        end = clock + 1 + chance.randrange(30)
        key = chance.choice([A, B])
        value = b"%d" % clock
        recipe = chance.choice([
            Recipe("Put", (key, value), {"prev": True}), Recipe("Put", (key, value)),
            Recipe("Get", (key,)), Recipe("Get", (key,)), Recipe("Range"),
            Recipe("Delete", (key,)), Recipe("GetMany", ([A, B],)),
            Recipe("Txn", ([Recipe("Compare", ("version", {"key": A}, "<", 2))],
                           [Recipe("Put", (B, value)), Recipe("Get", (A,))], []))])
        calls.append(Call(who, begin, end, recipe, model.outcome(recipe)))
        free[who] = end
    return calls


def spoilt(calls: list[Call], chance: random.Random) -> list[Call]:
    """One answer or one time changed; it may still be right."""
    calls = list(calls)
    at = chance.randrange(len(calls))
    call = calls[at]
    kind = chance.choice(["answer", "early", "late", "revision"])
    if kind == "answer":
        others = [c.answer for c in calls if c.recipe.kind == call.recipe.kind]
        calls[at] = call._replace(answer=chance.choice(others))
    elif kind == "early":
        shift = chance.randrange(1, 40)
        calls[at] = call._replace(begin=call.begin - shift, end=max(call.begin - shift + 1,
                                                                    call.end - shift))
    elif kind == "late":
        shift = chance.randrange(1, 40)
        calls[at] = call._replace(begin=call.begin + shift, end=call.end + shift)
    elif isinstance(call.answer, tuple) and call.answer[0] in ("put", "delete", "range"):
        calls[at] = call._replace(answer=(call.answer[0], call.answer[1] + chance.choice([-1, 1]),
                                          *call.answer[2:]))
    return calls


def whole_store(state: Any, call: Call) -> list[Any]:
    """A step of the general search: the state is the changes that were made so far."""
    model = Model()
    for recipe in state:
        model.outcome(recipe.recipe)
    if model.outcome(call.recipe) != call.answer:
        return []
    return [(*state, Step(call))] if changed(call.answer) else [state]


class Step:
    """A change, equal to itself: recipes hold lists, which cannot be hashed."""

    def __init__(self, call: Call) -> None:
        self.recipe = call.recipe
        self._is = (call.who, call.begin, call.end)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Step) and self._is == other._is

    def __hash__(self) -> int:
        return hash(self._is)


def test_the_same_verdict_as_the_general_search(counts: Counter[str]) -> None:
    verdicts: Counter[bool] = Counter()
    for seed in range(600):
        chance = random.Random(seed)
        calls = invented(chance)
        assert check(calls) == [], f"seed {seed}"
        if seed % 5:
            calls = spoilt(calls, chance)
        right = explained(calls, whole_store, ())
        assert (check(calls) == []) is right, f"seed {seed}: {check(calls)}, {calls}"
        verdicts[right] += 1
    assert min(verdicts.values()) > 80
    counts["linearizability: verdicts compared"] += sum(verdicts.values())


# --- by planting ---------------------------------------------------------------------------------


class Planted:
    """A store with a bug; what it does not spoil is the store's."""

    def __init__(self, db: kvcore.Store) -> None:
        self.db = db
        self.turn = 0
        self.kept: dict[bytes, Any] = {}
        self.guard = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)

    def every(self, number: int) -> bool:
        """Once in so many calls."""
        with self.guard:
            self.turn += 1
            return self.turn % number == 0


class StaleCache(Planted):
    """Answers a get now and then as it did before."""

    def get(self, key: bytes, revision: int | None = None) -> Any:
        if revision is None and key in self.kept and self.every(5):
            return self.kept[key]
        found = self.db.get(key, revision)
        if revision is None:
            self.kept.setdefault(key, found)
        return found


class AnswersFirst(Planted):
    """Acknowledges a put, then does it."""

    def put(self, key: bytes, value: bytes = b"", **options: Any) -> Any:
        if options.get("prev") or options.get("ignore_value") or not self.every(5):
            return self.db.put(key, value, **options)
        future = self.db.submit(kvcore.Put(key, value))
        thread = threading.Thread(target=future.result)
        thread.start()
        answer = models.PutResult(self.db.revision + 1)
        thread.join()
        return answer


class ForgetsWrites(Planted):
    """Acknowledges a put that it does not do."""

    def put(self, key: bytes, value: bytes = b"", **options: Any) -> Any:
        if options.get("ignore_value") or not self.every(10):
            return self.db.put(key, value, **options)
        return models.PutResult(self.db.revision)


class WritesTwice(Planted):
    """Does a put again, as a retry would whose first try was not lost."""

    def put(self, key: bytes, value: bytes = b"", **options: Any) -> Any:
        done = self.db.put(key, value, **options)
        if not options.get("ignore_value") and self.every(10):
            self.db.put(key, value)
        return done


class ComparesApart(Planted):
    """Looks, and changes behind it: an update between the two is lost."""

    def txn(self, compare: Any = (), success: Any = (), failure: Any = ()) -> Any:
        asked = self.db.txn(compare, [], [kvcore.Get(b"k0")])
        return self.db.txn([], success if asked.succeeded else failure, []) if (
            asked.succeeded) else self.db.txn(compare, success, failure)


class ReadsAhead(Planted):
    """Shows a value that is being put, before it is."""

    def put(self, key: bytes, value: bytes = b"", **options: Any) -> Any:
        self.kept[key] = value
        try:
            return self.db.put(key, value, **options)
        finally:
            self.kept.pop(key, None)

    def get(self, key: bytes, revision: int | None = None) -> Any:
        found = self.db.get(key, revision)
        ahead = self.kept.get(key)
        if found is None or revision is not None or ahead is None or ahead == b"":
            return found
        return models.KeyValue(key, ahead, found.create_revision, found.mod_revision + 1,
                               found.version + 1, found.lease)


class ReadsInHalves(Planted):
    """A range in two parts, each as of another time."""

    def range(self, *args: Any, **options: Any) -> Any:
        if options != {"prefix": b"k", "keys_only": False}:
            return self.db.range(*args, **options)
        first = self.db.range(b"k", b"k3")
        time.sleep(0)                        # a long walk gives others their turn
        second = self.db.range(b"k3", b"l")
        kvs = [models.KeyValue(*plain(kv)) for kv in (*first, *second)]
        return models.RangeResult(kvs, len(kvs), False, second.revision)


class TearsPutMany(Planted):
    """Gives the revisions of others for its own."""

    def put_many(self, items: Any, **options: Any) -> Any:
        first = self.db.put(*items[0]).revision
        for item in items[1:]:
            self.db.put(*item)
        return list(range(first, first + len(items)))


class ShowsCompacted(Planted):
    """A snapshot that moves on with the store."""

    def snapshot(self) -> Any:
        return Moving(self.db)


class Moving:
    def __init__(self, db: Any) -> None:
        self.db = db
        self.revision = db.revision

    def get(self, key: bytes) -> Any:
        return self.db.get(key)

    def range(self, **options: Any) -> Any:
        return models.RangeResult([models.KeyValue(*plain(kv)) for kv in self.db.range(**options)],
                                  self.db.range(**options, count_only=True).count, False,
                                  self.revision)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: Any) -> None:
        return None


BUGS: list[tuple[Callable[[Any], Planted], set[str]]] = [
    (StaleCache, {"stale"}),
    (AnswersFirst, {"unique", "answer", "order", "stale", "gap"}),
    (ForgetsWrites, {"unique", "gap", "order", "answer"}),
    (WritesTwice, {"gap"}),
    (ComparesApart, {"answer"}),
    (ReadsAhead, {"never", "early"}),
    (ReadsInHalves, {"answer"}),
    (TearsPutMany, {"unique"}),
    (ShowsCompacted, {"answer"}),
]


@pytest.mark.parametrize("bug, wanted", BUGS, ids=[bug.__name__ for bug, _ in BUGS])
def test_a_planted_bug_is_found(bug: Callable[[Any], Planted], wanted: set[str],
                                opened: Callable[..., kvcore.Store],
                                nothing_hangs: None) -> None:
    """Within a few histories of the ordinary crowd."""
    for seed in range(20):
        crowd = Crowd(bug(opened(order=4)), seed, workers=8, turns=40, watching=False)
        found = check(crowd.run())
        if found:
            assert found[0].split(":")[0] in wanted, found
            return
    raise AssertionError("twenty histories, and nothing was found")


def test_revisions_in_answers() -> None:
    assert revision_of(("txn", True, 7, [])) == 7
    assert revision_of([None, pair(A, b"1", 2)]) == 0
    assert revision_of([4, 5]) == 5
    assert not changed(("txn", True, 7, [("delete", 7, 0, []), pair(A, b"1", 2), None]))
