# SPDX-License-Identifier: Apache-2.0
"""The watch cache against a list: two stores, their history and Kubernetes, under both policies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import machines
import msgpack
import pytest
from cache_events import event, seen
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from model_ring import ModelRing
from soak import Soaking

import kvcore
from kvcore import WatchCache
from kvcore.errors import CompactedError, InvalidArgument
from kvcore.testing.clocks import ManualClock


class CacheMachine(RuleBasedStateMachine):
    """A list of what was added, cut as the policy says; each step's answer is compared.

    Events come from two stores, which number their revisions each for itself, and from Kubernetes.
    """

    policy = "incremental"

    @initialize(capacity=st.integers(100, 130), interval=st.sampled_from([0, 30]))
    def start(self, capacity: int, interval: int) -> None:
        self.clock = ManualClock()
        self.cache = WatchCache("pods", capacity, interval, self.policy, self.clock)
        self.model: ModelRing[tuple[str, bytes, bytes]] = ModelRing(capacity, interval)
        self.newest = 0
        self.stores = [kvcore.open(maintenance=False) for _ in range(2)]
        self.watches = [db.watch() for db in self.stores]

    def teardown(self) -> None:
        for db in getattr(self, "stores", ()):
            db.close()

    def add(self, what: Any, version: int, row: tuple[str, bytes, bytes]) -> None:
        if version > 0 and version >= self.newest:
            self.cache.add_event(what)
            self.model.push(version, row)
            self.model.trim(self.clock.seconds)
            self.newest = version
        else:
            with pytest.raises(InvalidArgument):
                self.cache.add_event(what)

    def add_changes(self, events: Iterable[kvcore.Event]) -> None:
        for each in events:
            self.add(each, each.kv.mod_revision, (each.type, each.kv.key, each.kv.value))

    @rule(which=st.integers(0, 1), n=st.integers(1, 150), keys=st.integers(1, 40),
          value=st.binary(max_size=30))
    def a_store_changes(self, which: int, n: int, keys: int, value: bytes) -> None:
        self.stores[which].put_many([(b"%d" % (i % keys), value + b"%d" % i) for i in range(n)])
        self.add_changes(self.watches[which].get_batch(n, 60))

    @rule(which=st.integers(0, 1), keys=st.integers(1, 40))
    def a_transaction(self, which: int, keys: int) -> None:
        """Puts and deletions of one revision."""
        self.stores[which].txn(success=[
            kvcore.Delete(b"%d" % i) if i % 3 == 1 else kvcore.Put(b"%d" % i, b"txn")
            for i in range(keys)])
        self.add_changes(self.watches[which].get_batch(1, 60))

    @rule(which=st.integers(0, 1), back=st.integers(0, 60))
    def history(self, which: int, back: int) -> None:
        """Old events once more, from the index: taken if nothing newer is there."""
        db = self.stores[which]
        if db.revision > 1:
            with db.watch(start_revision=max(db.revision - back, 2)) as watch:
                self.add_changes(watch.get_batch(1000, 60))

    @rule(step=st.integers(-2, 3), kind=st.sampled_from(["ADDED", "MODIFIED", "DELETED"]),
          name=st.sampled_from("abc"), size=st.integers(0, 3000), n=st.integers(1, 40))
    def objects(self, step: int, kind: str, name: str, size: int, n: int) -> None:
        for _ in range(n):
            version = self.newest + step
            what = event(str(version), kind, name=name, data="x" * size)
            self.add(what, version, (kind, f"shop/{name}".encode(), msgpack.packb(what["object"])))

    @rule(step=st.integers(-1, 5))
    def bookmark(self, step: int) -> None:
        version = self.newest + step
        if version < max(self.newest, 1):
            with pytest.raises(InvalidArgument):
                self.cache.add_event(event(version, "BOOKMARK"))
            return
        self.cache.add_event(event(version, "BOOKMARK"))
        self.newest = version
        self.model.trim(self.clock.seconds)

    @rule(seconds=st.sampled_from([1, 10, 30]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(back=st.integers(-3, 300), limit=st.integers(0, 20))
    def read(self, back: int, limit: int) -> None:
        since = self.newest - back
        if since < self.model.dropped_mod:
            with pytest.raises(CompactedError) as caught:
                self.cache.events_since(since, limit)
            assert caught.value.compact_revision == self.model.dropped_mod
            return
        wanted = [(kind, key, mod, value)
                  for mod, (kind, key, value) in self.model.rows if mod > since]
        if limit and len(wanted) > limit:
            last = wanted[limit - 1][2]
            wanted = [row for row in wanted if row[2] <= last]
        assert seen(self.cache.events_since(since, limit)) == wanted

    @invariant()
    def agrees(self) -> None:
        machines.STEPS["watch cache"] += 1
        self.cache._check()
        stats, rows = self.cache.stats(), self.model.rows
        assert stats[:2] == (len(rows), self.model.capacity) and len(self.cache) == len(rows)
        assert stats.payload_bytes >= sum(len(key) + len(value) for _, (_, key, value) in rows)
        assert stats.peak_bytes >= stats.bytes and (stats.bytes > 0 or not rows)
        assert (stats.compactions, stats.dropped) == (self.model.compactions, self.model.first)
        assert stats.oldest_version == (rows[0][0] if rows else 0)
        assert stats.newest_version == self.newest


class FullCacheMachine(CacheMachine):
    """The same, rebuilt at each compaction."""

    policy = "full"


@pytest.mark.soak(weight=0.5)
@pytest.mark.parametrize("machine", [CacheMachine, FullCacheMachine])
def test_watch_cache(machine: type[CacheMachine], counts: Counter[str],
                     soaking: Soaking) -> None:
    machines.run(machine, "watch cache", 40, 30, counts, soaking)
