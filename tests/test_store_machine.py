# SPDX-License-Identifier: Apache-2.0
"""State machines: a store beside the naive model, every verb and option, compared at every step.

    StoreMachine            the store in memory, orders 3, 4 and 32
    DurableStoreMachine     tiny segments; reopened clean, with checkpoints, synced or not

In a soak they go on with further examples.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from typing import Any

import machines
import models
import pairs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from soak import Soaking

import kvcore

RAM = "/dev/shm" if os.path.isdir("/dev/shm") else None


class Held:
    """A snapshot of the store with the model's."""

    def __init__(self, pair: pairs.Pair) -> None:
        self.pair = pairs.Pair(pair.db.snapshot(), pair.model.snapshot())
        assert self.pair.db.revision == self.pair.model.revision

    def whole(self) -> None:
        """All it shows, then lets go of it."""
        self.pair.same("range")
        self.pair.db.release()


class StoreMachine(RuleBasedStateMachine):
    """The store in memory."""

    snapshots = Bundle("snapshots")
    kind = "store in memory"

    def __init__(self) -> None:
        super().__init__()
        self.pair: Any = None
        self.held: list[Held] = []

    def opened(self, order: int) -> kvcore.Store:
        return kvcore.open(order=order, maintenance=False, max_request_bytes=pairs.MAX_REQUEST)

    @initialize(order=st.sampled_from([3, 4, 32]), keys=st.integers(0, 60))
    def start(self, order: int, keys: int) -> None:
        self.order = order
        model = models.ModelStore(max_request_bytes=pairs.MAX_REQUEST)
        self.pair = pairs.Pair(self.opened(order), model)
        if keys:
            self.pair.same("put_many", [(b"fill/%d" % (i * 7 % 64), b"f") for i in range(keys)])

    # writes

    @rule(recipe=pairs.puts(), submit=pairs.rare)
    def put(self, recipe: pairs.Recipe, submit: bool) -> None:
        self.pair.same_op(recipe, submit)

    @rule(recipe=pairs.puts())
    def put_again(self, recipe: pairs.Recipe) -> None:
        self.pair.same_op(recipe)

    @rule(recipe=pairs.deletes(), submit=pairs.rare)
    def delete(self, recipe: pairs.Recipe, submit: bool) -> None:
        self.pair.same_op(recipe, submit)

    @rule(items=st.lists(st.tuples(pairs.keys, pairs.values), max_size=12))
    def put_many(self, items: list[tuple[bytes, bytes]]) -> None:
        self.pair.same("put_many", items)

    @rule(data=st.data(), submit=pairs.rare)
    def txn(self, data: st.DataObject, submit: bool) -> None:
        self.pair.same_op(data.draw(pairs.txns(self.pair.model.revision)), submit)

    @rule(data=st.data())
    def submit_some(self, data: st.DataObject) -> None:
        """Several in flight: they take effect in the order submitted."""
        recipes = data.draw(st.lists(pairs.operations(self.pair.model.revision), max_size=6))
        futures: list[Any] = []
        for recipe in recipes:
            if recipe.kind in ("Put", "Delete", "Compact"):
                futures.append((recipe, self._submitted(recipe)))
        for recipe, future in futures:
            got = future if isinstance(future, str) else pairs.outcome(future.result, 60)
            wanted = pairs.outcome(lambda r=recipe: self.pair.model.do(pairs.build(r, models)))
            assert got == wanted

    def _submitted(self, recipe: pairs.Recipe) -> Any:
        try:
            return self.pair.db.submit(pairs.build(recipe, kvcore))
        except kvcore.Error as error:
            return type(error).__name__

    # compaction

    @rule(back=st.integers(-1, 12), submit=pairs.rare, physical=pairs.rare)
    def compact(self, back: int, submit: bool, physical: bool) -> None:
        revision = self.pair.model.revision - back
        if submit:
            self.pair.same_op(pairs.Recipe("Compact", (revision,)), True)
        else:
            self.pair.same("compact", revision, physical=physical)

    @rule(budget=st.integers(1, 40))
    def step(self, budget: int) -> None:
        self.pair.db.step(budget=budget)

    @rule()
    def finish_background(self) -> None:
        """Behind a finished sweep the index holds what etcd would keep, and no more."""
        while self.pair.db.step():
            pass
        assert self.pair.db.status().versions in self.pair.model.versions()

    # reads

    @rule(data=st.data(), submit=pairs.rare)
    def range(self, data: st.DataObject, submit: bool) -> None:
        self.pair.same_op(data.draw(pairs.ranges(self.pair.model.revision)), submit)

    @rule(data=st.data())
    def get(self, data: st.DataObject) -> None:
        self.pair.same_op(data.draw(pairs.gets(self.pair.model.revision)))

    @rule(data=st.data(), wanted=st.lists(pairs.keys, max_size=12))
    def get_many(self, data: st.DataObject, wanted: list[bytes]) -> None:
        revision = data.draw(pairs.revisions(self.pair.model.revision))
        self.pair.same("get_many", wanted, revision)

    @rule(limit=st.integers(1, 9), key=pairs.keys)
    def pages(self, limit: int, key: bytes) -> None:
        """A paged list at one revision, with a write between its pages."""
        first = self.pair.db.range(limit=limit)
        got, page = list(first), first
        self.pair.same("put", key, b"between pages")
        while page.more:
            page = self.pair.db.range(got[-1].key + b"\0", b"\0", limit=limit,
                                      revision=first.revision)
            got += list(page)
        wanted = self.pair.model.range(revision=first.revision)
        assert models.plain(got) == models.plain(list(wanted))
        assert first.count == wanted.count

    @rule(data=st.data())
    def hash(self, data: st.DataObject) -> None:
        self.pair.same("hash", data.draw(st.integers(-1, self.pair.model.revision + 1)))

    # snapshots

    @rule(target=snapshots)
    def snapshot(self) -> Any:
        if len(self.held) >= 6:
            return multiple()
        held = Held(self.pair)
        self.held.append(held)
        return held

    @rule(held=snapshots, data=st.data())
    def read_snapshot(self, held: Held, data: st.DataObject) -> None:
        if held not in self.held:
            return
        recipe = data.draw(pairs.ranges(held.pair.model.revision))
        held.pair.same("range", **recipe.kwargs)
        held.pair.same("get", data.draw(pairs.keys),
                       data.draw(pairs.revisions(held.pair.model.revision)))
        held.pair.same("count", prefix=data.draw(st.sampled_from([b"", b"a", b"/"])))

    @rule(held=consumes(snapshots))
    def release(self, held: Held) -> None:
        if held in self.held:
            self.held.remove(held)
            held.whole()

    # after every step

    @invariant()
    def sound(self) -> None:
        if self.pair is None:
            return
        machines.STEPS[self.kind] += 1
        self.pair.same_state()
        self.pair.db._check()
        assert self.pair.db.status().snapshots >= len(self.held)

    def let_go(self) -> None:
        """Releases what is held, in any order; then nothing may be kept for it any more."""
        random.shuffle(self.held)
        while self.held:
            self.held.pop().whole()

    def teardown(self) -> None:
        if self.pair is None or self.pair.db.closed:
            return  # closed: a reopen failed, and says so
        try:
            self.let_go()
            while self.pair.db.step():
                pass
            self.pair.db._check()
            self.pair.same("hash")
            assert self.pair.db.check() == []
        finally:
            self.pair.db.close()


class DurableStoreMachine(StoreMachine):
    """Segments of 64 KiB on a RAM disk; clean reopens and checkpoints between the commands."""

    kind = "durable store"

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(prefix="kvcore-machine-", dir=RAM)
        self.sync = "always"

    def opened(self, order: int) -> kvcore.Store:
        return kvcore.open(self.directory, order=order, sync=self.sync, maintenance=False,
                           segment_bytes=65536, max_request_bytes=pairs.MAX_REQUEST)

    @precondition(lambda self: self.pair is not None)
    @rule(order=st.sampled_from([3, 4, 32]), sync=st.sampled_from(["always", "interval", "off"]))
    def reopen(self, order: int, sync: str) -> None:
        self.let_go()
        self.pair.db.close()
        self.sync = sync
        self.pair.db = self.opened(order)
        self.pair.same("hash")
        self.pair.same("range")

    @rule()
    def checkpoint(self) -> None:
        before = self.pair.db.status().checkpoint_number
        assert self.pair.db.checkpoint() in (before + 1, before + 2)     # one was under way
        assert self.pair.db.status().checkpoint_revision == self.pair.model.revision

    @rule(key=pairs.keys, size=st.integers(8000, 15000))
    def put_large(self, key: bytes, size: int) -> None:
        """Fills a segment in a few steps."""
        self.pair.same("put", key, b"L" * size)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            shutil.rmtree(self.directory)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(4))
def test_store_in_memory(part: int, counts: Counter[str], soaking: Soaking) -> None:
    """Part of the examples each, so that a failure ends the rest early."""
    machines.run(StoreMachine, StoreMachine.kind, 90, 100, counts, soaking)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(4))
def test_durable_store(part: int, counts: Counter[str], soaking: Soaking) -> None:
    """The same for the durable store."""
    machines.run(DurableStoreMachine, DurableStoreMachine.kind, 65, 100, counts, soaking)
