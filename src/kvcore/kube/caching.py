# SPDX-License-Identifier: Apache-2.0
"""The watch cache of one resource: current objects, recent events, and who watches.

    Feed ── apply(event) ──> state: key -> Entry       keys: the same keys, in order
                         ├─> recent: kvcore.WatchCache, what watchers that come back have missed
                         └─> Watchers, found by what they want

A change costs only those whom it may concern: watchers stand under the object's name, the value of
the trigger field (pods: spec.nodeName), the namespace, or everything. A thousand kubelets that
watch their own pods cost a pod's write one of them.

An object whose bytes cannot be read is kept out of the state, under `damaged` with what was last
readable there: no watcher hears that it is deleted, since it is not; a list that would hold it is
refused, since it would be incomplete; what comes next is compared with the last readable state.

Named invariants (`check`):
1. **state is the store's** at the feed's revision: same keys, same mod_revisions.
2. **ordered**: the keys in order are exactly those of the state.
3. **placed**: every watcher stands in the one place its wishes name, and no place is empty.
Thread safety: one event loop's thread. Source: apiserver storage/cacher (cacher.go,
watch_cache.go). May not know: HTTP, verbs, asyncio.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from typing import Literal

from kvcore import Event, KeyValue, Store, WatchCache
from kvcore.errors import CompactedError
from kvcore.kube import status
from kvcore.kube.entry import NOT_READABLE, Change, Entry, why_damaged
from kvcore.kube.resources import Resource
from kvcore.kube.selectable import field_index
from kvcore.kube.watcher import Watcher

__all__ = ["Cacher", "SortedKeys"]

_log = logging.getLogger("kvcore.kube")

Policy = Literal["incremental", "full"]

TRIGGERS = {"Pod": "spec.nodeName"}
SMALLEST = 100                   # what kvcore.WatchCache keeps at least
BLOCK = 512


class SortedKeys:
    """Keys in order, in blocks of some 512.

    Cost: add and remove 1 us at 6,000 keys and 4 us at 200,000 (one list: 50 us; a BTreeIndex with
    its versions compacted away: 80 us and 4 ms); a page of 500 8 us; count 10 us at 200,000.

    >>> keys = SortedKeys([b"b", b"a", b"c"])
    >>> keys.add(b"aa")
    >>> keys.span(b"a", b"c", 2), keys.count(b"a", b"c")
    ([b'a', b'aa'], 3)
    """

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        ordered = sorted(keys)
        self._blocks = [ordered[i:i + BLOCK] for i in range(0, len(ordered), BLOCK)] or [[]]
        self._firsts = [block[0] if block else b"" for block in self._blocks]

    def _block(self, key: bytes) -> int:
        return max(bisect_right(self._firsts, key) - 1, 0)

    def add(self, key: bytes) -> None:
        """A key that is not there yet."""
        i = self._block(key)
        block = self._blocks[i]
        insort(block, key)
        self._firsts[i] = block[0]
        if len(block) > 2 * BLOCK:
            self._blocks.insert(i + 1, block[BLOCK:])
            self._firsts.insert(i + 1, block[BLOCK])
            del block[BLOCK:]

    def remove(self, key: bytes) -> None:
        """A key that is there."""
        i = self._block(key)
        block = self._blocks[i]
        at = bisect_left(block, key)
        assert block[at] == key
        del block[at]
        if block:
            self._firsts[i] = block[0]
        elif len(self._blocks) > 1:
            del self._blocks[i], self._firsts[i]

    def span(self, start: bytes, end: bytes, limit: int = 0) -> list[bytes]:
        """The keys from start up to end, at most `limit` of them; 0: all."""
        found: list[bytes] = []
        i = self._block(start)
        low = bisect_left(self._blocks[i], start)
        while i < len(self._blocks):
            block = self._blocks[i]
            last = not block or block[-1] >= end
            found += block[low:bisect_left(block, end) if last else None]
            if last or (limit and len(found) >= limit):
                break
            i, low = i + 1, 0
        return found[:limit] if limit else found

    def count(self, start: bytes, end: bytes) -> int:
        """How many keys there are from start up to end."""
        if start >= end:
            return 0
        i, j = self._block(start), self._block(end)
        between = sum(map(len, self._blocks[i:j]))
        return between + bisect_left(self._blocks[j], end) - bisect_left(self._blocks[i], start)

    def __len__(self) -> int:
        return sum(map(len, self._blocks))

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            yield from block


class Cacher:
    """The cache of one resource.

    Attributes: state (key to Entry), damaged (key to what was last readable, or None), revision
    (of the newest change), oldest (changes up to it are not in `recent`), and counters:
    received (events), dispatched (events somebody may have wanted), offered (to watchers),
    terminated (watchers that were too slow).
    """

    def __init__(self, resource: Resource, prefix: bytes, capacity: int,
                 policy: Policy = "incremental") -> None:
        self.resource, self.prefix, self.policy = resource, prefix, policy
        self.capacity = capacity
        self.state: dict[bytes, Entry] = {}
        self.damaged: dict[bytes, Entry | None] = {}
        self.keys = SortedKeys()
        self.oldest = self.revision = 0
        self.received = self.dispatched = self.offered = self.terminated = self.broken = 0
        self.begun = 0                        # how often it was read from the store as a whole
        self._trigger = TRIGGERS.get(resource.kind)
        index = field_index(resource.kind, self._trigger) if self._trigger else None
        self._trigger_index = index or 0
        self._places: dict[tuple[str, str], dict[Watcher, None]] = {}
        self._triggered = 0                   # watchers that stand under a value of the trigger
        self._forget_events()

    def _forget_events(self) -> None:
        self.recent = WatchCache(self.resource.qualified, max(self.capacity, SMALLEST),
                                 policy=self.policy)

    # --- taking in ------------------------------------------------------------------------------

    def begin(self, rows: Iterable[tuple[bytes, int, bytes]], revision: int) -> None:
        """The state at a revision: key, mod_revision and stored bytes of each object. What was
        known before is forgotten; watchers are closed, since they might miss something.
        Cost: 2 us an object."""
        self.close_all()
        self.state, self.damaged = {}, {}
        for key, mod, stored in rows:
            entry = self._read(key, mod, stored)
            if entry is None:
                self.damaged[key] = None
            else:
                self.state[key] = entry
        self.keys = SortedKeys(self.state)
        self._forget_events()
        self.oldest = self.revision = revision
        self.begun += 1

    def _read(self, key: bytes, revision: int, stored: bytes) -> Entry | None:
        """None for bytes that are no object, which are counted and reported."""
        try:
            key.decode()
            return Entry(key, revision, stored, self.resource.kind)
        except ValueError as error:           # Damaged and UnicodeDecodeError
            self.broken += 1
            _log.error("what lies at %r is no object of %s: %s", key, self.resource.qualified,
                       error)
            return None

    def apply(self, event: Event, kv: KeyValue) -> None:
        """One change of the store (kv: the event's), into state, recent events and the watchers
        it concerns.
        Cost: 3 us, and 1 us a watcher concerned; with a trigger in use a decode of the object."""
        key, revision = kv.key, kv.mod_revision
        if revision <= self.oldest:           # the list had it
            return
        self.received += 1
        self.revision = revision
        self.recent.add_event(event)
        prev = self.state.get(key)
        if event.type == "PUT":
            entry = self._read(key, revision, kv.value)
            if entry is None:
                self._damage(key, prev)
                return
            if prev is None:
                prev = self.damaged.pop(key, None)
                self.keys.add(key)
            self.state[key] = entry
        else:
            entry = None
            if prev is None:
                prev = self.damaged.pop(key, None)
                if prev is None:
                    return
            else:
                del self.state[key]
                self.keys.remove(key)
        if self._places:
            self._dispatch(Change(revision, entry, prev))

    def _damage(self, key: bytes, prev: Entry | None) -> None:
        if prev is not None:
            del self.state[key]
            self.keys.remove(key)
        if prev is not None or key not in self.damaged:
            self.damaged[key] = prev

    def _dispatch(self, change: Change) -> None:
        tail = change.key[len(self.prefix):].decode()
        namespace = tail.rpartition("/")[0]
        places = [("", ""), ("namespace", namespace), ("name", tail)]
        if self._triggered:
            places += [("field", value) for value in self._trigger_values(change)]
        self.dispatched += 1
        late: list[Watcher] = []
        for place in places:
            for watcher in self._places.get(place, ()):
                self.offered += 1
                if not watcher.offer(change):
                    late.append(watcher)
        for watcher in late:
            self.terminated += 1
            self.close(watcher)

    def _trigger_values(self, change: Change) -> set[str]:
        return {entry.fields[self._trigger_index] for entry in (change.entry, change.prev)
                if entry is not None}

    # --- watchers -------------------------------------------------------------------------------

    def watch(self, watcher: Watcher, floor: int) -> None:
        """Takes in a watcher of all changes behind `floor`, which must not be in the past unless
        it was told of them. Give it back with `close`."""
        place = watcher.place = self._place(watcher)
        watcher.floor = floor
        self._places.setdefault(place, {})[watcher] = None
        self._triggered += place[0] == "field"

    def _place(self, watcher: Watcher) -> tuple[str, str]:
        if watcher.name and watcher.namespace:
            return "name", f"{watcher.namespace}/{watcher.name}"
        if watcher.name and not self.resource.namespaced:
            return "name", watcher.name
        if self._trigger is not None:
            value = watcher.selector.field_equal(self._trigger)
            if value is not None:
                return "field", value
        return ("namespace", watcher.namespace) if watcher.namespace else ("", "")

    def close(self, watcher: Watcher) -> None:
        """Ends a watcher; idempotent."""
        place = watcher.place
        if place is not None:
            watcher.place = None
            there = self._places[place]
            del there[watcher]
            if not there:
                del self._places[place]
            self._triggered -= place[0] == "field"
        watcher.close()

    def close_all(self) -> None:
        for there in list(self._places.values()):
            for watcher in list(there):
                self.close(watcher)

    @property
    def watchers(self) -> int:
        return sum(map(len, self._places.values()))

    def since(self, revision: int, limit: int, store: Store) -> tuple[list[Change], int] | None:
        """The next changes after a revision, oldest first, with what was before each; and the
        revision they reach, `revision` itself when there are no more. None: they are not here, or
        not with what was before. A revision is never divided; what cannot be read is left out.
        Cost: 10 us a change.
        """
        if revision < self.oldest:
            return None
        changes, last = list[Change](), dict[bytes, Entry | None]()
        try:
            for event in self.recent.events_since(revision, limit):
                key, revision = event.key, event.resource_version
                prev = last[key] if key in last else self._at(key, revision - 1, store)
                stored = event.value if event.type == "PUT" else None
                last[key] = self._changed(changes, key, revision, stored, prev)
        except CompactedError:
            return None
        return changes, revision

    def _changed(self, changes: list[Change], key: bytes, revision: int, stored: bytes | None,
                 prev: Entry | None) -> Entry | None:
        """Adds the change, if it can be read; returns what is readable there now."""
        entry = None
        if stored is not None:
            entry = self._read(key, revision, stored)
            if entry is None:
                return prev
        if entry is not None or prev is not None:
            changes.append(Change(revision, entry, prev))
        return entry

    def history(self, revision: int, limit: int, store: Store
                ) -> Iterator[tuple[list[Change], int]]:
        """As `since`, again and again, out of the store's own history: slower, and further back.

        Errors: 410 Expired when the store has compacted it.
        """
        last = dict[bytes, Entry | None]()
        with store.watch(prefix=self.prefix, start_revision=revision + 1, prev_kv=True) as watch:
            while True:
                changes: list[Change] = []
                try:
                    batch = watch.get_batch(limit, 0)
                    for event in batch:
                        kv, before = event.kv, event.prev_kv
                        prev = last.get(kv.key)
                        if before is None and not event.is_create:
                            raise CompactedError
                        if prev is None and before is not None:
                            prev = self._read(kv.key, before.mod_revision, before.value)
                        stored = kv.value if event.type == "PUT" else None
                        last[kv.key] = self._changed(changes, kv.key, kv.mod_revision, stored,
                                                     prev)
                except CompactedError:
                    raise status.too_old(revision, store.status().compact_revision) from None
                yield changes, batch.revision
                if not len(batch):
                    return

    def _at(self, key: bytes, revision: int, store: Store) -> Entry | None:
        found = store.get(key, revision)
        return None if found is None else self._read(key, found.mod_revision, found.value)

    # --- reading --------------------------------------------------------------------------------

    def entries(self, start: bytes, end: bytes, limit: int = 0) -> list[Entry]:
        """The objects in key order, from start up to end; limit 0: all.

        Errors: 500 when bytes between are no object. Cost: 50 us a page of 500.
        """
        self.refuse_damage(start, end)
        return list(map(self.state.__getitem__, self.keys.span(start, end, limit)))

    def refuse_damage(self, start: bytes, end: bytes) -> None:
        """Errors: 500 when bytes between are no object."""
        if not self.damaged:
            return
        bad = min((key for key in self.damaged if start <= key < end), default=None)
        if bad is not None:
            raise damage(bad, "its bytes cannot be decoded")

    def count(self, start: bytes, end: bytes) -> int:
        return self.keys.count(start, end)

    def check(self, store: Store) -> None:
        """Assert the named invariants; the feed must have reached the store's revision."""
        now = {kv.key: kv.mod_revision for kv in store.range(prefix=self.prefix)}
        mine = {key: entry.revision for key, entry in self.state.items()}
        assert mine == {key: mod for key, mod in now.items() if key not in self.damaged}, \
            f"state differs from the store: {set(mine.items()) ^ set(now.items())}"
        assert self.damaged.keys() <= now.keys()
        assert list(self.keys) == sorted(mine), "keys and state differ"
        for block, first in zip(self.keys._blocks, self.keys._firsts, strict=True):
            assert block == [] or block[0] == first
        for place, there in self._places.items():
            assert there, f"{place} is empty"
            for watcher in there:
                assert watcher.place == place == self._place(watcher)
        assert self._triggered == sum(
            len(there) for place, there in self._places.items() if place[0] == "field")


def damage(key: bytes, why: str) -> status.ApiError:
    """500 about what lies at a key."""
    return status.internal(f"unable to decode the object stored at {key.decode(errors='replace')}: "
                           f"{why}")


class Blame:
    """`with Blame(store, key)`: what goes wrong inside because of what is stored there is told as
    500 about that, in whatever way it went wrong: nobody looks at stored objects twice just in
    case. Cost: 0.3 us. Errors: ApiError 500."""

    __slots__ = ("store", "key")

    def __init__(self, store: Store, key: bytes) -> None:
        self.store, self.key = store, key

    def __enter__(self) -> None:
        """Nothing to be done before."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, (status.ApiError, *CONFUSED)):
            return
        if isinstance(error, status.ApiError) and error.code not in (422, 500):
            return
        found = self.store.get(self.key)
        if found is not None and (why := why_damaged(found.value)):
            raise damage(self.key, why) from error


# What code raises that was promised an object.
CONFUSED = (*NOT_READABLE, AttributeError, LookupError)

