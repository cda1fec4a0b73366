# SPDX-License-Identifier: Apache-2.0
"""The watch cache: current objects of each resource, recent events, and who watches.

    store.watch("/registry/") ──> Feed ──> Cacher of pods ──> state: key -> Entry, in order
                                   │                      ├─> kvcore.WatchCache: recent events
                                   │                      └─> Watchers, found by what they want
                                   └── revision: how far everything has come

One Feed an API server: all its caches are at one revision, so a list waits for one number, and
several servers over one store agree because each follows the store, not its own writes. A Cacher is
made when somebody first lists or watches its resource.

Named invariants (`_check`):
1. **state is the store's** at `feed.revision`: same keys, same mod_revisions.
2. **ordered**: the index holds exactly the keys of the state.
3. **one line**: an event is encoded at most once a type, however many watchers take it.
4. **nobody waits for a watcher**: `offer` never blocks; who is too far behind is closed.
Thread safety: one event loop's thread. Source: apiserver storage/cacher. May not know: HTTP, verbs.
"""

from __future__ import annotations

import asyncio
import heapq
from array import array
from collections.abc import Callable, Iterator
from typing import Any, Literal

import orjson

from kvcore import BTreeIndex, Event, Store, WatchCache
from kvcore.errors import CompactedError
from kvcore.kube import status
from kvcore.kube.codec import json_of, with_version
from kvcore.kube.keys import ROOT, KeyLayout
from kvcore.kube.resources import Resource
from kvcore.kube.selectors import Selector, field_values

__all__ = ["Cacher", "Change", "Entry", "Feed", "Watcher"]

DEFAULT_CAPACITY = 100_000
FRESH_SECONDS = 3.0              # how long a read waits for a revision that has not come yet
BACKLOG = 10_000                 # lines a watcher may be behind before it is closed


class Entry:
    """One object at one version: its JSON with resourceVersion, shared by all who send it; labels
    and selectable fields are looked up in it when a selector first asks."""

    __slots__ = ("key", "revision", "body", "_labels", "_fields", "_kind", "_object")

    def __init__(self, key: bytes, revision: int, stored: bytes, kind: str) -> None:
        self.key, self.revision, self._kind = key, revision, kind
        self.body = with_version(json_of(stored), revision)
        self._labels: dict[str, str] | None = None
        self._fields: dict[str, str] = {}
        self._object: dict[str, Any] | None = None

    @property
    def object(self) -> dict[str, Any]:
        """The object, decoded when somebody first asks and kept from then on; shared, so it is
        only read. Meant for kinds of which there are few (admission asks for them)."""
        if self._object is None:
            self._object = orjson.loads(self.body)
        return self._object

    def _look(self) -> None:
        obj = orjson.loads(self.body)
        self._labels = obj["metadata"].get("labels") or {}
        self._fields = field_values(self._kind, obj)

    @property
    def labels(self) -> dict[str, str]:
        if self._labels is None:
            self._look()
        return self._labels or {}

    @property
    def fields(self) -> dict[str, str]:
        if self._labels is None:
            self._look()
        return self._fields


class Change:
    """What happened to one object at one revision: `entry` None: deleted; `prev` None: created."""

    __slots__ = ("revision", "entry", "prev", "_lines")

    def __init__(self, revision: int, entry: Entry | None, prev: Entry | None) -> None:
        self.revision, self.entry, self.prev = revision, entry, prev
        self._lines: dict[str, bytes] = {}

    def line(self, type: Literal["ADDED", "MODIFIED", "DELETED"]) -> bytes:
        """The event as a watch sends it. DELETED carries the last state, at this revision."""
        line = self._lines.get(type)
        if line is None:
            if type == "DELETED":
                assert self.prev is not None
                body = reversioned(self.prev.body, self.prev.revision, self.revision)
            else:
                assert self.entry is not None
                body = self.entry.body
            line = self._lines[type] = event_line(type, body)
        return line


def event_line(type: str, body: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (type.encode(), body)


def reversioned(body: bytes, old: int, new: int) -> bytes:
    """The same object said to be of another version."""
    return body.replace(b'"resourceVersion":"%d"' % old, b'"resourceVersion":"%d"' % new, 1)


class Watcher:
    """Who wants what: a namespace and name or all, selectors; and the lines not yet sent."""

    __slots__ = ("namespace", "name", "selector", "lines", "closed", "_wake", "_cacher", "trigger")

    def __init__(self, cacher: Cacher, namespace: str, name: str, selector: Selector) -> None:
        self._cacher = cacher
        self.namespace, self.name, self.selector = namespace, name, selector
        self.trigger: tuple[str, str] | None = None    # the index it stands in, set by the cacher
        self.lines: list[bytes] = []
        self.closed = False
        self._wake: asyncio.Future[None] | None = None

    def wants(self, entry: Entry | None) -> bool:
        return entry is not None and self.selector.matches(entry)

    def offer(self, change: Change) -> None:
        """Takes the change's line if it concerns this watcher. What comes to match is ADDED, what
        ceases to match is DELETED."""
        now, before = self.wants(change.entry), self.wants(change.prev)
        if now:
            self.push(change.line("MODIFIED" if before else "ADDED"))
        elif before:
            self.push(change.line("DELETED"))

    def push(self, line: bytes) -> None:
        if len(self.lines) >= BACKLOG:
            self.close()
            return
        self.lines.append(line)
        self._awake()

    def _awake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def take(self) -> list[bytes]:
        """The lines that came since the last call."""
        lines, self.lines = self.lines, []
        return lines

    async def wait(self, seconds: float) -> None:
        """Until there are lines, the watcher is closed, or the time is over."""
        if self.lines or self.closed:
            return
        loop = asyncio.get_running_loop()
        self._wake = wake = loop.create_future()
        timer = loop.call_later(max(seconds, 0), self._awake)
        try:
            await wake
        finally:
            timer.cancel()
            self._wake = None

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._cacher.forget(self)
            self._awake()


class Cacher:
    """The cache of one resource. `triggers`: fields by which watchers are found, so that a change
    costs only those who asked for its value (pods: spec.nodeName)."""

    TRIGGERS = {"Pod": "spec.nodeName", "Secret": "metadata.name", "ConfigMap": "metadata.name"}

    def __init__(self, resource: Resource, prefix: bytes, capacity: int,
                 policy: Literal["incremental", "full"] = "incremental") -> None:
        self.resource, self.prefix = resource, prefix
        self.state: dict[bytes, Entry] = {}
        self.index = BTreeIndex(64)
        self.recent = WatchCache(resource.qualified, capacity, policy=policy)
        self.oldest = 0                       # events up to here are not known
        self.revision = 0                     # of the list this began with, or the newest change
        self.received = 0                     # changes taken in, for the metrics
        self._trigger = self.TRIGGERS.get(resource.kind)
        self._watchers: dict[tuple[str, str], set[Watcher]] = {}

    # --- taking in ------------------------------------------------------------------------------

    def begin(self, entries: Iterator[tuple[bytes, int, bytes]], revision: int) -> None:
        """The state at a revision: key, mod_revision and stored bytes of each object."""
        keys = []
        for key, mod, stored in entries:
            self.state[key] = Entry(key, mod, stored, self.resource.kind)
            keys.append(key)
        if keys:
            self.index.bulk_load(keys, array("q", (1,)) * len(keys))
        self._serial = 1
        self.oldest = self.revision = revision

    def apply(self, event: Event) -> None:
        """One change of the store: into state, recent events and the watchers it concerns."""
        kv = event.kv
        key, revision = kv.key, kv.mod_revision
        if revision <= self.oldest:           # the list had it
            return
        prev = self.state.get(key)
        self._serial += 1
        if event.type == "PUT":
            entry = self.state[key] = Entry(key, revision, kv.value, self.resource.kind)
            if prev is None:
                self.index.insert(key, self._serial)
        else:
            entry = None
            if prev is None:
                return
            del self.state[key]
            self.index.delete(key, self._serial)
            self.index.compact(self._serial)
        self.recent.add_event(event)
        self.revision = revision
        self.received += 1
        if self._watchers:
            self._dispatch(Change(revision, entry, prev))

    def _dispatch(self, change: Change) -> None:
        some = change.entry or change.prev
        assert some is not None
        namespace, _, name = some.key[len(self.prefix):].decode().rpartition("/")
        places = [("", ""), ("namespace", namespace), ("name", f"{namespace}/{name}")]
        field = self._trigger
        if field is not None and ("field", field) in self._watchers:
            values = {e.fields.get(field, "") for e in (change.entry, change.prev) if e is not None}
            places.extend((field, value) for value in values)
        for place in places:
            for watcher in tuple(self._watchers.get(place, ())):
                watcher.offer(change)

    # --- watchers -------------------------------------------------------------------------------

    def watch(self, namespace: str, name: str, selector: Selector) -> Watcher:
        """A watcher of all changes from now on. Close it."""
        watcher = Watcher(self, namespace, name, selector)
        watcher.trigger = place = self._place(watcher)
        self._watchers.setdefault(place, set()).add(watcher)
        if place[0] == self._trigger:         # says that somebody is found by this field
            self._watchers.setdefault(("field", place[0]), set())
        return watcher

    def _place(self, watcher: Watcher) -> tuple[str, str]:
        if watcher.name and (watcher.namespace or not self.resource.namespaced):
            return "name", f"{watcher.namespace}/{watcher.name}"
        if self._trigger is not None:
            value = watcher.selector.field_equal(self._trigger)
            if value is not None:
                return self._trigger, value
        return ("namespace", watcher.namespace) if watcher.namespace else ("", "")

    def forget(self, watcher: Watcher) -> None:
        place = watcher.trigger
        if place is not None and place in self._watchers:
            self._watchers[place].discard(watcher)
            if not self._watchers[place]:
                del self._watchers[place]

    @property
    def watchers(self) -> int:
        return sum(len(found) for found in self._watchers.values())

    def since(self, revision: int, store: Store) -> list[Change]:
        """The changes after a revision, oldest first, with what was before each.

        Errors: 410 Expired when they are no longer known.
        """
        if revision < self.oldest:
            raise status.too_old(revision, self.oldest)
        try:
            events = self.recent.events_since(revision)
            changes, last = [], dict[bytes, Entry | None]()
            for event in events:
                key, at = event.key, event.resource_version
                prev = last[key] if key in last else self._at(key, at - 1, store)
                entry = (Entry(key, at, event.value, self.resource.kind)
                         if event.type == "PUT" else None)
                last[key] = entry
                changes.append(Change(at, entry, prev))
        except CompactedError as gone:
            raise status.too_old(revision, gone.compact_revision) from None
        return changes

    def _at(self, key: bytes, revision: int, store: Store) -> Entry | None:
        found = store.get(key, revision)
        if found is None:
            return None
        return Entry(key, found.mod_revision, found.value, self.resource.kind)

    # --- reading --------------------------------------------------------------------------------

    def entries(self, start: bytes, end: bytes, limit: int = 0) -> list[Entry]:
        """In key order, from start up to end."""
        state = self.state
        found = self.index.range_at(start, end, 0, limit)
        return [state[key] for key in found.keys()]

    def count(self, start: bytes, end: bytes) -> int:
        return self.index.count(start, end)

    def _check(self, store: Store) -> None:
        """Assert the named invariants; the feed must have reached the store's revision."""
        self.index._check()
        now = {kv.key: kv.mod_revision for kv in store.range(prefix=self.prefix)}
        mine = {key: entry.revision for key, entry in self.state.items()}
        assert mine == now, f"state differs from the store: {set(mine.items()) ^ set(now.items())}"
        assert [e.key for e in self.entries(self.prefix, self.prefix + b"\xff")] == sorted(now), \
            "index and state differ"


class Feed:
    """One watch of the store for all caches of a server, and how far it has come.

    Errors come back from `failed`: when the store's watch ends, reads that wait are told.
    """

    def __init__(self, store: Store, layout: KeyLayout, *, capacity: int = DEFAULT_CAPACITY,
                 capacities: dict[str, int] | None = None,
                 policy: Literal["incremental", "full"] = "incremental") -> None:
        self.store, self.layout, self.policy = store, layout, policy
        self.capacity, self.capacities = capacity, capacities or {}
        self.cachers: dict[bytes, Cacher] = {}
        self.revision = store.revision
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._ticket = 0
        self._watch: Any = None
        self._task: asyncio.Task[None] | None = None
        self.on_change: Callable[[int], None] | None = None

    def start(self) -> None:
        """Begin to follow the store; in the event loop's thread."""
        self.revision = self.store.revision
        self._watch = self.store.watch(prefix=f"{ROOT}/".encode(),
                                       start_revision=self.revision + 1)
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        """End all watches; idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            self._watch.cancel()
        for cacher in self.cachers.values():
            for watchers in list(cacher._watchers.values()):
                for watcher in tuple(watchers):
                    watcher.close()

    async def _follow(self) -> None:
        find = self.cachers.get
        async for response in self._watch:
            for event in response.events:
                cacher = find(resource_prefix(event.kv.key)) or self._long_prefix(event.kv.key)
                if cacher is not None:
                    cacher.apply(event)
            self._arrived(response.revision)

    def _long_prefix(self, key: bytes) -> Cacher | None:
        """Of prefixes with a group: /registry/<group>/<resource>/."""
        parts = key.split(b"/", 4)
        return self.cachers.get(b"/".join(parts[:4]) + b"/") if len(parts) > 4 else None

    def _arrived(self, revision: int) -> None:
        self.revision = revision
        waiting = self._waiting
        while waiting and waiting[0][0] <= revision:
            future = heapq.heappop(waiting)[2]
            if not future.done():
                future.set_result(None)

    def cacher(self, resource: Resource) -> Cacher:
        """The cache of a resource; begun now if nobody asked before. Cost then: one read of all
        its objects."""
        prefix = self.layout.prefix(resource)
        found = self.cachers.get(prefix)
        if found is None:
            capacity = self.capacities.get(resource.plural, self.capacity)
            found = Cacher(resource, prefix, max(capacity, 100), self.policy)
            rows = self.store.range(prefix=prefix)
            found.begin(((kv.key, kv.mod_revision, kv.value) for kv in rows), rows.revision)
            self.cachers[prefix] = found
        return found

    async def reach(self, revision: int, *, mine: bool = False) -> None:
        """Until everything up to a revision is in the caches.

        Args: mine: the revision changed an object, so the feed hears of it by itself.
        Errors: 504 with cause ResourceVersionTooLarge after 3 seconds.
        """
        if revision <= self.revision:
            return
        if not mine:                          # other keys may have taken it: ask how far it is
            self._watch.progress()
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._ticket += 1
        heapq.heappush(self._waiting, (revision, self._ticket, future))
        timer = loop.call_later(FRESH_SECONDS, _give_up, future)
        try:
            await future
        except TimeoutError:
            raise status.too_new(revision, self.revision) from None
        finally:
            timer.cancel()


def _give_up(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


def resource_prefix(key: bytes) -> bytes:
    """/registry/<resource>/ of a key of a core kind."""
    return key[:key.find(b"/", len(ROOT) + 1) + 1]
