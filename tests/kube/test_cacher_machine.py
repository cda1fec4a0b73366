# SPDX-License-Identifier: Apache-2.0
"""The watch cache against a list of all that was ever written: lists and every watcher's events.

Writers put, delete and write several objects of one revision, below /registry and elsewhere; the
ring of recent events overflows, the store is compacted, the feed dies. After each step every
watcher has been told exactly what the naive model says, type, object and version, in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cache_world import PODS, Kube, StillLoop, Stream, stored, turns
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import kvcore
from kvcore.kube.api import Api

NAMESPACES = ["a", "b"]
NAMES = ["p1", "p2", "p3"]
NODES = ["", "n1", "n2"]
APPS = ["", "web", "db"]


@dataclass(frozen=True)
class Pod:
    namespace: str
    name: str
    node: str
    app: str
    revision: int


@dataclass(frozen=True)
class Wish:
    """What a watcher or a list selects: a namespace, a node, apps; "" and () are any."""

    namespace: str = ""
    node: str = ""
    apps: tuple[str, ...] = ()
    name: str = ""

    def wants(self, pod: Pod | None) -> bool:
        return (pod is not None and self.namespace in ("", pod.namespace)
                and self.node in ("", pod.node) and (not self.apps or pod.app in self.apps)
                and self.name in ("", pod.name))

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods" if self.namespace else PODS

    @property
    def query(self) -> str:
        fields = [f"spec.nodeName={self.node}"] * bool(self.node)
        fields += [f"metadata.name={self.name}"] * bool(self.name)
        query = [f"fieldSelector={','.join(fields)}"] * bool(fields)
        if self.apps:
            query.append(f"labelSelector=app+in+({','.join(self.apps)})")
        return "&".join(query)


wishes = st.builds(Wish, st.sampled_from(["", *NAMESPACES]), st.sampled_from(NODES),
                   st.sampled_from([(), ("web",), ("web", "db")]), st.sampled_from(["", "p1"]))
Key = tuple[str, str]
Told = tuple[str, str, str, int]


@dataclass
class Model:
    """All that happened: (revision, key, what is there since, what was there before)."""

    changes: list[tuple[int, Key, Pod | None, Pod | None]] = field(default_factory=list)
    now: dict[Key, Pod] = field(default_factory=dict)

    def write(self, revision: int, key: Key, pod: Pod | None) -> None:
        before = self.now.get(key)
        if pod is not None:
            self.now[key] = pod
        elif before is None:
            return
        else:
            del self.now[key]
        self.changes.append((revision, key, pod, before))

    def at(self, revision: int) -> list[Pod]:
        """In key order."""
        state: dict[Key, Pod] = {}
        for at, key, pod, _ in self.changes:
            if at <= revision:
                if pod is None:
                    state.pop(key)
                else:
                    state[key] = pod
        return [state[key] for key in sorted(state)]

    def told(self, wish: Wish, since: int) -> list[Told]:
        """The events of a watcher after a revision."""
        found = []
        for at, (namespace, name), pod, before in self.changes:
            if at > since:
                now, was = wish.wants(pod), wish.wants(before)
                if now or was:
                    kind = "DELETED" if not now else "MODIFIED" if was else "ADDED"
                    found.append((kind, namespace, name, at))
        return found


@dataclass
class Watching:
    wish: Wish
    stream: Stream
    initial: list[Told]
    since: int
    got: list[Told] = field(default_factory=list)
    bookmarks: list[tuple[int, int]] = field(default_factory=list)   # (events before it, version)


class CacherMachine(RuleBasedStateMachine):
    @initialize(capacity=st.sampled_from([0, 100, 10_000]))
    def begin(self, capacity: int) -> None:
        self.loop = StillLoop()
        self.db = kvcore.open(maintenance=False)
        self.model = Model()
        self.compacted = 0
        self.watching: list[Watching] = []
        self.run(self._start(capacity))

    async def _start(self, capacity: int) -> None:
        api = Api(self.db, capacity=capacity, clock=self.loop.time)
        await api.start()
        self.kube = Kube(self.db, api)

    def teardown(self) -> None:
        if hasattr(self, "kube"):
            self.run(self._stop())
            self.db.close()
            self.loop.close()

    async def _stop(self) -> None:
        for each in self.watching:
            await each.stream.close()
        await self.kube.api.stop()

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    # --- writers --------------------------------------------------------------------------------

    def op(self, key: Key, node: str | None, app: str) -> kvcore.Put | kvcore.Delete:
        place = self.kube.key(key[1], key[0])
        if node is None:
            return kvcore.Delete(place)
        labels = {"app": app} if app else {}
        return kvcore.Put(place, stored(key[1], key[0], node=node, **labels))

    @rule(writes=st.dictionaries(
        st.tuples(st.sampled_from(NAMESPACES), st.sampled_from(NAMES)),
        st.tuples(st.sampled_from([None, *NODES]), st.sampled_from(APPS)), min_size=1))
    def write(self, writes: dict[Key, tuple[str | None, str]]) -> None:
        """All in one revision, in key order, which is then the order of the events."""
        revision = self.db.txn(success=[
            self.op(key, node, app) for key, (node, app) in sorted(writes.items())]).revision
        for key, (node, app) in sorted(writes.items()):
            self.model.write(revision, key,
                             None if node is None else Pod(*key, node, app, revision))

    @rule(n=st.integers(1, 150), app=st.sampled_from(APPS))
    def burst(self, n: int, app: str) -> None:
        """More than a small ring holds."""
        for i in range(n):
            key, node = ("a", NAMES[i % 2]), NODES[i % 3]
            revision = self.db.txn(success=[self.op(key, node, app)]).revision
            self.model.write(revision, key, Pod(*key, node, app, revision))

    @rule(key=st.sampled_from([b"/registry/nodes/n1", b"/registry/apps/deployments/a/d",
                               b"/registry/podsandmore/a/p1", b"/elsewhere", b"/registry/x"]))
    def write_elsewhere(self, key: bytes) -> None:
        self.db.put(key, b"what others keep")

    @rule(back=st.integers(0, 30))
    def compact(self, back: int) -> None:
        revision = self.db.revision - back
        if revision > self.compacted:
            self.db.compact(revision)
            self.compacted = revision

    @rule()
    def the_feed_dies(self) -> None:
        """Watchers are closed, at a point up to which they were told everything."""
        self.run(self._die())

    async def _die(self) -> None:
        self.kube.api.feed.catch_up()
        await self._read()
        self.kube.api.feed._watch.cancel()
        for _ in range(5):
            self.loop.advance(10)
            await turns()
            await self._read()
        assert all(each.stream.ended for each in self.watching)
        self.compare()
        self.watching.clear()

    # --- readers --------------------------------------------------------------------------------

    @rule(wish=wishes, initial=st.booleans(), back=st.integers(0, 200), bookmarks=st.booleans())
    def watch(self, wish: Wish, initial: bool, back: int, bookmarks: bool) -> None:
        now = self.db.revision
        since = now if initial else max(now - back, 1)
        if since < self.compacted - 1:
            self.run(self._too_old(wish, since))
        elif since >= self.compacted:
            self.run(self._watch(wish, initial, since, bookmarks))

    async def _watch(self, wish: Wish, initial: bool, since: int, bookmarks: bool) -> None:
        version = "" if initial else f"&resourceVersion={since}"
        stream = await self.kube.watch(
            f"timeoutSeconds=100000&{wish.query}{version}"
            + "&allowWatchBookmarks=1" * bookmarks, wish.path)
        first = [("ADDED", p.namespace, p.name, p.revision)
                 for p in self.model.at(since) if wish.wants(p)] if initial else []
        self.watching.append(Watching(wish, stream, first, since))
        await self._read()

    async def _too_old(self, wish: Wish, since: int) -> None:
        """410 in the stream, unless it has no event to tell whose beginning is gone."""
        stream = await self.kube.watch(f"{wish.query}&resourceVersion={since}", wish.path)
        events = await stream.events()
        if any(at > since for at, *_ in self.model.changes):
            assert events[-1]["type"] == "ERROR" and events[-1]["object"]["code"] == 410
            assert stream.ended
        await stream.close()

    @rule(which=st.integers(0, 20))
    def leave(self, which: int) -> None:
        if self.watching:
            self.run(self.watching.pop(which % len(self.watching)).stream.close())

    @rule(seconds=st.sampled_from([1, 30, 60]))
    def time_passes(self, seconds: int) -> None:
        self.loop.advance(seconds)

    @rule(wish=wishes, limit=st.integers(0, 3))
    def list_now(self, wish: Wish, limit: int) -> None:
        got = self.run(self._pages(wish, f"limit={limit}"))
        assert got == (self.expected(wish, self.db.revision), self.db.revision)

    @rule(wish=wishes, limit=st.integers(0, 3), back=st.integers(0, 50))
    def list_then(self, wish: Wish, limit: int, back: int) -> None:
        revision = max(self.db.revision - back, 1)
        query = f"limit={limit}&resourceVersion={revision}&resourceVersionMatch=Exact"
        if revision < self.compacted:
            url = f"{wish.path}?{wish.query}&{query}"
            assert self.run(self.kube.json(url, 410))["reason"] == "Expired"
        else:
            got = self.run(self._pages(wish, query))
            assert got == (self.expected(wish, revision), revision)

    async def _pages(self, wish: Wish, query: str) -> tuple[list[tuple[str, str, int]], int]:
        """All pages of a list and its version; between them others write elsewhere."""
        items, token = [], ""
        while True:
            part = f"continue={token}&limit=2" if token else query
            page = await self.kube.json(f"{wish.path}?{wish.query}&{part}")
            items += [(m["namespace"], m["name"], int(m["resourceVersion"]))
                      for m in (item["metadata"] for item in page["items"])]
            revision = int(page["metadata"]["resourceVersion"])
            token = page["metadata"].get("continue", "")
            if not token:
                return items, revision

    def expected(self, wish: Wish, revision: int) -> list[tuple[str, str, int]]:
        return [(p.namespace, p.name, p.revision) for p in self.model.at(revision)
                if wish.wants(p)]

    async def _read(self) -> None:
        for each in self.watching:
            for event in await each.stream.events():
                metadata = event["object"]["metadata"]
                revision = int(metadata["resourceVersion"])
                if event["type"] == "BOOKMARK":
                    each.bookmarks.append((len(each.got), revision))
                    continue
                assert (event["object"]["kind"], event["object"]["apiVersion"]) == ("Pod", "v1")
                each.got.append((event["type"], metadata["namespace"], metadata["name"],
                                 revision))

    @invariant()
    def told_everything(self) -> None:
        if hasattr(self, "kube"):
            self.run(self._caught_up())
            self.compare()

    async def _caught_up(self) -> None:
        feed = self.kube.api.feed
        feed.catch_up()
        assert feed.revision == self.db.revision
        await self._read()
        for cacher in feed.cachers.values():
            cacher.check(self.db)

    def compare(self) -> None:
        for each in self.watching:
            expected = each.initial + self.model.told(each.wish, each.since)
            assert each.got == expected
            for position, revision in each.bookmarks:
                told = each.initial + [t for t in expected[len(each.initial):]
                                       if t[3] <= revision]
                assert position >= len(told), "a bookmark ahead of what was told"


CacherMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestCacher = CacherMachine.TestCase
