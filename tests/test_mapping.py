# SPDX-License-Identifier: Apache-2.0
"""StoreMapping and SnapshotMapping: a dictionary's behaviour, snapshots, codecs, races."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from stores import Stores

import kvcore
from kvcore.mapping import PAGE, json_values, text_keys

# Keys that meet each other, and bytes that sort around the end of a prefix.
KEYS = st.binary(min_size=1, max_size=2) | st.sampled_from([b"a", b"b", b"a/", b"\xff", b"\x00"])
VALUES = st.binary(max_size=3)
PREFIXES = [b"", b"/m/", b"m\xff", b"\xff\xff"]
OUTSIDE = [(b"!", b"1"), (b"/m", b"2"), (b"/m0", b"3"), (b"n", b"4"), (b"\xff\xfe", b"5")]


class MappingMachine(RuleBasedStateMachine):
    """A StoreMapping beside a dict; neighbours of its prefix must not change."""

    @initialize(prefix=st.sampled_from(PREFIXES))
    def begin(self, prefix: bytes) -> None:
        self.db = kvcore.open()
        self.around = [] if prefix == b"" else [
            pair for pair in OUTSIDE if not pair[0].startswith(prefix)]
        self.db.put_many(self.around)
        self.m = self.db.mapping(prefix)
        self.model: dict[bytes, bytes] = {}

    def teardown(self) -> None:
        if not hasattr(self, "db"):
            return
        inside = {self.m.prefix + key for key in self.model}
        others = [(kv.key, kv.value) for kv in self.db.range() if kv.key not in inside]
        self.db._check()
        self.db.close()
        assert others == self.around

    def both(self, call: Callable[[MutableMapping[bytes, bytes]], Any]) -> None:
        """The same answer, or the same exception, of both."""
        outcomes = []
        for mapping in (self.m, self.model):
            try:
                outcomes.append(call(mapping))
            except KeyError as error:
                outcomes.append(error.args)
        assert outcomes[0] == outcomes[1]

    @rule(key=KEYS, value=VALUES)
    def set(self, key: bytes, value: bytes) -> None:
        self.m[key] = self.model[key] = value

    @rule(key=KEYS)
    def look(self, key: bytes) -> None:
        self.both(lambda m: m[key])
        self.both(lambda m: m.get(key))
        self.both(lambda m: m.get(key, b"?"))
        self.both(lambda m: key in m)

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        self.both(lambda m: m.__delitem__(key))

    @rule(key=KEYS, default=st.none() | VALUES)
    def pop(self, key: bytes, default: bytes | None) -> None:
        self.both(lambda m: m.pop(key) if default is None else m.pop(key, default))

    @rule()
    def popitem(self) -> None:
        if self.model:
            first = min(self.model)
            assert self.m.popitem() == (first, self.model.pop(first))
        else:
            with pytest.raises(KeyError):
                self.m.popitem()

    @rule(key=KEYS, value=VALUES)
    def setdefault(self, key: bytes, value: bytes) -> None:
        self.both(lambda m: m.setdefault(key, value))

    @rule(pairs=st.lists(st.tuples(KEYS, VALUES), max_size=5), as_dict=st.booleans())
    def update(self, pairs: list[tuple[bytes, bytes]], as_dict: bool) -> None:
        self.both(lambda m: m.update(dict(pairs) if as_dict else iter(pairs)))

    @rule(key=KEYS, value=VALUES, stale=st.booleans())
    def compare_and_set(self, key: bytes, value: bytes, stale: bool) -> None:
        old, revision = self.m.get_with_revision(key)
        assert old == self.model.get(key) and (revision > 0) == (key in self.model)
        made = self.m.compare_and_set(key, revision + stale, value)
        assert (made == 0) == stale
        if made:
            self.model[key] = value
            assert self.m.get_with_revision(key) == (value, made)

    @rule()
    def clear(self) -> None:
        before = self.db.revision
        self.both(lambda m: m.clear())
        assert self.db.revision <= before + 1

    @invariant()
    def same_contents(self) -> None:
        if not hasattr(self, "db"):
            return
        ordered = sorted(self.model.items())
        assert len(self.m) == len(ordered)
        assert list(self.m.items()) == ordered
        assert list(self.m) == list(self.m.keys()) == [key for key, _ in ordered]
        assert list(self.m.values()) == [value for _, value in ordered]
        assert self.m == self.model and self.model == self.m
        assert bool(self.m) == bool(self.model)
        with self.db.snapshot() as snap:
            assert dict(snap.mapping(self.m.prefix)) == self.model


TestMappingMachine = MappingMachine.TestCase


@pytest.fixture
def m(db: kvcore.Store) -> kvcore.StoreMapping[bytes, bytes]:
    return db.mapping(b"/m/")


def test_the_empty_key(db: kvcore.Store) -> None:
    below, everything = db.mapping(b"/m/"), db.mapping()
    below[b""] = b"the prefix itself"
    assert db.get(b"/m/") is not None and list(below) == [b""] and b"" in below
    assert b"" not in everything and everything.get(b"") is None
    assert everything.get_with_revision(b"") == (None, 0) and everything.pop(b"", None) is None
    for absent in (everything.__getitem__, everything.__delitem__, everything.pop):
        with pytest.raises(KeyError):
            absent(b"")
    for write in (everything.__setitem__, everything.setdefault):
        with pytest.raises(kvcore.EmptyKeyError):
            write(b"", b"x")
    with pytest.raises(kvcore.EmptyKeyError):
        everything.compare_and_set(b"", 0, b"x")


@pytest.mark.parametrize("count", [0, 1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 1])
def test_iteration_goes_over_pages(m: kvcore.StoreMapping[bytes, bytes], count: int) -> None:
    expected = [(b"%05d" % n, b"v%d" % n) for n in range(count)]
    m.update(expected)
    assert list(m.items()) == expected and len(m) == len(m.keys()) == len(m.values()) == count
    assert list(m.values()) == [value for _, value in expected]


def test_iteration_shows_the_store_as_it_began(m: kvcore.StoreMapping[bytes, bytes]) -> None:
    before = {b"%05d" % n: b"old" for n in range(2 * PAGE)}
    m.update(before)
    iterators: list[Iterator[Any]] = [iter(m), iter(m.keys()), iter(m.values()), iter(m.items())]
    m.update((key, b"new") for key in list(before)[:PAGE + 7])
    m[b"99999"] = b"new"
    del m[b"00001"]
    keys, keys_again, values, items = map(list, iterators)
    assert keys == keys_again == list(before)
    assert values == [b"old"] * len(before) and items == list(before.items())
    for key in m:
        del m[key]
    assert len(m) == 0


def test_iterators_let_go_of_their_snapshots(db: kvcore.Store) -> None:
    m = db.mapping(b"/m/")
    m.update((b"%05d" % n, b"") for n in range(PAGE + 1))
    started, never, finished = iter(m), iter(m), iter(m)
    next(started)
    assert db.status().snapshots == 3
    assert len(list(finished)) == PAGE + 1
    assert db.status().snapshots == 2
    del started, never
    assert db.status().snapshots == 0


def test_a_snapshot_is_read_only_and_ends(db: kvcore.Store) -> None:
    db.put(b"/m/a", b"1")
    snap = db.snapshot()
    view = snap.mapping(b"/m/")
    db.put(b"/m/a", b"2")
    db.put(b"/m/b", b"3")
    assert dict(view) == {b"a": b"1"} and view.get_with_revision(b"a") == (b"1", 2)
    assert not isinstance(view, MutableMapping) and not hasattr(view, "update")
    with pytest.raises(TypeError):
        view[b"a"] = b"4"  # type: ignore[index]
    assert list(view.items()) == [(b"a", b"1")] and db.status().snapshots == 1
    snap.release()
    with pytest.raises(kvcore.ClosedError):
        view[b"a"]


def test_what_is_not_bytes(db: kvcore.Store) -> None:
    m: Any = db.mapping(b"/m/")
    for call in (lambda: m["a"], lambda: "a" in m, lambda: m.get("a"), lambda: m.pop("a", 0),
                 lambda: m.__setitem__("a", b""), lambda: m.__delitem__("a"),
                 lambda: m.setdefault("a", b""), lambda: m.update(a=b""),
                 lambda: m.compare_and_set("a", 0, b"")):
        with pytest.raises(TypeError, match="is bytes, not str.*text_keys"):
            call()
    with pytest.raises(TypeError, match="a value of this mapping is bytes, not str"):
        m[b"a"] = "x"
    with pytest.raises(TypeError, match="prefix must be bytes"):
        db.mapping("/m/")  # type: ignore[call-overload]
    for half in ({"encode": bytes}, {"decode": bytes}, {"key_encode": bytes},
                 {"key_decode": bytes}):
        with pytest.raises(TypeError, match="go together"):
            db.mapping(b"", **half)  # type: ignore[call-overload]
    wrong: Any = db.mapping(b"", encode=str, decode=str, key_encode=str, key_decode=str)
    with pytest.raises(TypeError, match="key_encode must return bytes, not str"):
        wrong["a"]
    wrong = db.mapping(b"", encode=str, decode=str)
    with pytest.raises(TypeError, match="encode must return bytes, not str"):
        wrong[b"a"] = "x"
    assert db.revision == 1


def test_nothing_of_a_bad_update_is_written(db: kvcore.Store) -> None:
    m = db.mapping(b"/m/", **text_keys, **json_values)
    for bad in ({"a": 1, "b": {1, 2}}, [("a", 1), ("b", float("nan"))], [("a", 1), (b"b", 2)]):
        with pytest.raises((TypeError, ValueError)):
            m.update(bad)
    assert db.revision == 1


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5)
                    | st.floats(allow_nan=False, allow_infinity=False),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=5)


@given(contents=st.dictionaries(st.text(max_size=5), JSON, max_size=8))
def test_text_keys_and_json_values(contents: dict[str, Any]) -> None:
    with kvcore.open() as db:
        m = db.mapping(b"/j/", **text_keys, **json_values)
        m.update(contents)
        assert m == contents and sorted(m, key=str.encode) == list(m)
        with db.snapshot() as snap:
            assert snap.mapping(b"/j/", **text_keys, **json_values) == contents
        with pytest.raises(TypeError, match="is str, not bytes"):
            m[b"a"]  # type: ignore[index]


def test_a_value_that_cannot_be_decoded_stays(db: kvcore.Store) -> None:
    db.put(b"/m/a", b"{broken")
    m = db.mapping(b"/m/", **json_values)
    for read in (lambda: m[b"a"], lambda: m.get(b"a", 1), lambda: m.pop(b"a", 1), m.popitem,
                 lambda: m.setdefault(b"a", 1)):
        with pytest.raises(ValueError):
            read()
    assert b"a" in m and len(m) == 1


def test_a_decoder_that_raises_keyerror_is_not_a_missing_key(db: kvcore.Store) -> None:
    db.put(b"/m/a", b"x")
    m = db.mapping(b"/m/", encode=bytes, decode=lambda raw: {b"y": b"z"}[raw])
    with pytest.raises(KeyError, match="x"):
        m.get(b"a")
    with pytest.raises(KeyError, match="x"):
        m.pop(b"a", b"")


def test_setdefault_returns_what_is_stored(db: kvcore.Store) -> None:
    m = db.mapping(b"", **text_keys, **json_values)
    assert m.setdefault("a", (1, 2)) == [1, 2] == m["a"]
    assert m.setdefault("b") is None and "b" in m


def race(count: int, work: Callable[[int], None]) -> None:
    """Runs work(0), work(1), ... at once; the first exception, if there is one."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_every_item_is_popped_once(m: kvcore.StoreMapping[bytes, bytes]) -> None:
    m.update((b"%04d" % n, b"x") for n in range(400))
    got: list[list[bytes]] = [[] for _ in range(4)]

    def work(number: int) -> None:
        while True:
            try:
                got[number].append(m.popitem()[0])
            except KeyError:
                return

    race(4, work)
    assert sorted(key for keys in got for key in keys) == [b"%04d" % n for n in range(400)]
    assert all(keys == sorted(keys) for keys in got)


def test_one_of_many_sets_the_default(m: kvcore.StoreMapping[bytes, bytes]) -> None:
    answers: list[dict[bytes, bytes]] = [{} for _ in range(4)]

    def work(number: int) -> None:
        for n in range(100):
            answers[number][b"%d" % n] = m.setdefault(b"%d" % n, b"%d" % number)

    race(4, work)
    assert all(answer == m for answer in answers)


def test_compare_and_set_counts(db: kvcore.Store) -> None:
    m = db.mapping(b"", **text_keys, **json_values)

    def work(number: int) -> None:
        for _ in range(50):
            done = 0
            while not done:
                value, revision = m.get_with_revision("n")
                done = m.compare_and_set("n", revision, (value or 0) + 1)

    race(4, work)
    assert m["n"] == 200


def test_update_is_one_request(db: kvcore.Store) -> None:
    before = db.status().batches
    db.mapping(b"/m/").update((b"%04d" % n, b"x") for n in range(1000))
    assert (db.status().batches - before, db.revision) == (1, 1001)


def test_equality(opened: Stores) -> None:
    one, two = opened(), opened()
    a, b = one.mapping(b"/x/"), two.mapping(b"/elsewhere/")
    a[b"k"] = b[b"k"] = b"v"
    assert a == b and a == one.mapping(b"/x/") and a == {b"k": b"v"}
    b[b"l"] = b""
    assert a != b and a != {} and a != [(b"k", b"v")]
    with pytest.raises(TypeError):
        hash(a)


def test_views(m: kvcore.StoreMapping[bytes, bytes]) -> None:
    m.update({b"a": b"1", b"b": b"2"})
    assert b"a" in m.keys() and b"1" in m.values() and (b"b", b"2") in m.items()
    assert b"c" not in m.keys() and b"3" not in m.values() and (b"b", b"3") not in m.items()
    assert m.keys() & {b"a", b"z"} == {b"a"} and m.keys() == {b"a", b"b"}
    assert m.items() == {(b"a", b"1"), (b"b", b"2")}


def test_representation_and_copies(m: kvcore.StoreMapping[bytes, bytes]) -> None:
    assert repr(m).startswith("<kvcore.StoreMapping of b'/m/' in <kvcore.Store ")
    assert repr(m.keys()) == f"<keys of {m!r}>"
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="dict"):
            attempt(m)


class Meddled:
    """A store in which somebody puts b"theirs" right after each of the first looks."""

    def __init__(self, db: kvcore.Store, times: int) -> None:
        self.db, self.times = db, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)

    def meddle(self, key: bytes) -> None:
        if self.times:
            self.times -= 1
            self.db.put(key, b"theirs")

    def get(self, key: bytes) -> kvcore.KeyValue | None:
        found = self.db.get(key)
        self.meddle(key)
        return found

    def range(self, *args: Any, **options: Any) -> kvcore.RangeResult:
        found = self.db.range(*args, **options)
        for kv in found:
            self.meddle(kv.key)
        return found


def test_who_comes_between_a_look_and_a_change(db: kvcore.Store) -> None:
    m: kvcore.StoreMapping[bytes, bytes] = kvcore.StoreMapping(Meddled(db, 1), b"/m/")
    assert m.setdefault(b"a", b"mine") == b"theirs" == m[b"a"]
    for times, take in ((3, lambda m: (b"a", m.pop(b"a"))), (3, lambda m: m.popitem())):
        db.put(b"/m/a", b"first")
        m = kvcore.StoreMapping(Meddled(db, times), b"/m/")
        assert take(m) == (b"a", b"theirs") and len(m) == 0
