# SPDX-License-Identifier: Apache-2.0
"""State machines: watches and leases of a store beside those of the naive model.

    WatchMachine          the store in memory; a ring of 100 records: most fall behind
    DurableWatchMachine   tiny segments; checkpoints, reopened clean

Every answer of every watch is predicted by its ModelWatch, and checked by watch_checker as well.
In a soak they go on with further examples.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from itertools import groupby
from typing import Any

import machines
import model_leases
import model_watch
import models
import pairs
import pytest
import watch_checker
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
from together import finish

import kvcore
from kvcore.testing.clocks import ManualClock

RAM = "/dev/shm" if os.path.isdir("/dev/shm") else None
IDS = [1, -1, 1 << 62]  # what pairs.puts() names
INTERVAL = 50.0
OPTIONS: dict[str, Any] = {"maintenance": False, "max_request_bytes": pairs.MAX_REQUEST,
                           "watch_capacity": 100, "progress_interval": INTERVAL}
lease_ids = st.sampled_from([*IDS, 2])


class Opened:
    """A watch of the store with the model's, and what it may answer besides events."""

    def __init__(self, watch: Any, model: model_watch.ModelWatch, notified: bool,
                 from_now: bool) -> None:
        self.watch = watch
        self.least = model.start - from_now  # no progress of a lesser revision
        self.model = model
        self.notified = notified
        self.asked = 0  # revision of the last question, 0: answered
        self.may_answer = False  # a batch was an answer, too; then a progress response is optional

    def read(self) -> bool:
        """One answer; False when there was none, or never will be any."""
        try:
            response = self.watch.get(0)
        except kvcore.CompactedError as error:
            return self._overtaken(error.compact_revision)
        assert not self.model.compacted, "its start was compacted"
        if response is None:
            self._nothing()
        elif response.is_progress:
            self._progress(response.revision)
        else:
            self.model.accept(response.revision,
                              [model_watch.plain(event) for event in response.events])
        return response is not None

    def read_batch(self, limit: int) -> None:
        try:
            batch = self.watch.get_batch(limit=limit, timeout=0)
        except kvcore.CompactedError as error:
            self._overtaken(error.compact_revision)
            return
        events = [model_watch.plain(event) for event in batch]
        assert batch.keys() == [e.kv.key for e in events]
        assert batch.mod_revisions.tolist() == [e.kv.mod_revision for e in events]
        groups = [(mod, list(group))
                  for mod, group in groupby(events, key=lambda e: e.kv.mod_revision)]
        assert len(events) - len(groups[-1][1] if groups else []) < limit
        for mod, group in groups:
            self.model.accept(mod, group)
        if not events and not self.may_answer and not self.notified:
            self._nothing()
        self.model.quiet(batch.revision)
        if self.asked <= batch.revision:
            self.asked = 0

    def ask(self) -> None:
        self.watch.progress()
        if not self.model.compacted:
            self.asked, self.may_answer = self.model.model.revision, True

    def _nothing(self) -> None:
        newest = self.model.model.revision
        self.model.quiet(newest)
        assert not self.asked or self.least > newest, "progress was asked for"

    def _progress(self, revision: int) -> None:
        assert self.may_answer or self.notified, "nobody asked for progress"
        assert self.asked <= revision <= self.model.model.revision
        assert revision >= self.least
        self.model.quiet(revision)
        self.asked, self.may_answer = 0, False

    def _overtaken(self, revision: int) -> bool:
        assert self.model.may_be_compacted(), "nothing that is to come was compacted"
        assert self.watch.compact_revision == revision <= self.model.model.compacted
        self.model.compacted = True
        return False


class WatchMachine(RuleBasedStateMachine):
    """The store in memory."""

    watches = Bundle("watches")
    kind = "watches in memory"

    def __init__(self) -> None:
        super().__init__()
        self.pair: Any = None
        self.open: list[Opened] = []
        self.clock = ManualClock(seconds=100.0)

    def opened(self, order: int) -> kvcore.Store:
        return kvcore.open(order=order, clock=self.clock, **OPTIONS)

    @initialize(order=st.sampled_from([3, 32]), keys=st.integers(0, 60))
    def start(self, order: int, keys: int) -> None:
        model = model_leases.LeaseModel(max_request_bytes=pairs.MAX_REQUEST)
        model.now = 100.0
        self.pair = pairs.Pair(self.opened(order), model)
        for id in IDS[: keys % 4]:
            self.grant(id, 5, False)
        if keys:
            self.pair.same("put_many", [(b"fill/%d" % (i * 7 % 16), b"f") for i in range(keys)])

    # writes

    @rule(recipe=pairs.puts(), submit=pairs.rare)
    def put(self, recipe: pairs.Recipe, submit: bool) -> None:
        self.pair.same_op(recipe, submit)

    @rule(recipe=pairs.deletes(), submit=pairs.rare)
    def delete(self, recipe: pairs.Recipe, submit: bool) -> None:
        self.pair.same_op(recipe, submit)

    @rule(data=st.data(), submit=pairs.rare)
    def txn(self, data: st.DataObject, submit: bool) -> None:
        self.pair.same_op(data.draw(pairs.txns(self.pair.model.revision)), submit)

    @rule(number=st.integers(20, 130), lease=st.sampled_from([0, 0, 0, *IDS]))
    def burst(self, number: int, lease: int) -> None:
        """Drives watches out of the ring."""
        items = [(pairs.KEYS[i % 7], b"%d" % i) for i in range(number)]
        self.pair.same("put_many", items, lease=lease)

    @rule(back=st.sampled_from([-1, 0, 0, 1, 2, 5, 20, 60]), physical=st.booleans())
    def compact(self, back: int, physical: bool) -> None:
        """A physical one does the background work that is due, whatever that is."""
        revision = self.pair.model.revision - back
        done = self.pair.same("compact", revision, physical=physical)
        if physical and not isinstance(done, str):
            self.pair.model.step()

    # leases

    @rule(id=lease_ids, ttl=st.integers(-1, 12), submit=st.booleans())
    def grant(self, id: int, ttl: int, submit: bool) -> None:
        db, model = self.pair.db, self.pair.model
        wanted = pairs.outcome(model.do, model_leases.LeaseGrant(ttl, id))
        if submit:
            got = pairs.outcome(lambda: db.submit(kvcore.LeaseGrant(ttl, id)).result(60))
            assert got == wanted
        elif isinstance(wanted, str):
            assert pairs.outcome(lambda: db.lease(ttl, id)) == wanted
        else:
            lease = db.lease(ttl, id)
            assert (lease.id, lease.granted_ttl) == wanted[1:3]

    @rule(id=lease_ids, submit=st.booleans())
    def revoke(self, id: int, submit: bool) -> None:
        db, model = self.pair.db, self.pair.model
        if submit:
            got = pairs.outcome(lambda: db.submit(kvcore.LeaseRevoke(id)).result(60))
        else:
            got = pairs.outcome(db.lease_of(id).revoke)
        assert got == pairs.outcome(model.do, model_leases.LeaseRevoke(id))

    @rule(id=lease_ids)
    def keepalive(self, id: int) -> None:
        """Of one that expired and was not revoked yet, too."""
        wanted = self.pair.model.lease_of(id).keepalive()
        assert self.pair.db.lease_of(id).keepalive() == wanted

    @rule(seconds=st.sampled_from([0.25, 1.0, 2.0, 4.5, INTERVAL + 1]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.pair.model.advance(seconds)

    @rule()
    def step(self) -> None:
        """The background work: what is due expires, compactions sweep, progress is told."""
        finish(self.pair.db)
        self.pair.model.step()

    # watches

    @rule(target=watches, data=st.data())
    def watch(self, data: st.DataObject) -> Any:
        if len(self.open) >= 12:
            return multiple()
        model = self.pair.model
        named = pairs._named(data.draw(pairs.spans(needed=False)))
        start = data.draw(st.one_of(
            st.just(0), st.integers(1, model.revision + 3), st.just(max(model.compacted, 0)),
            st.integers(max(1, model.revision - 150), model.revision)))
        flags = {name: True for name in ("prev_kv", "no_put", "no_delete")
                 if data.draw(st.integers(0, 3)) == 0}
        notified = data.draw(pairs.rare)
        span = model_watch.span_of(**named)
        try:
            watch = self.pair.db.watch(**named, start_revision=start, progress_notify=notified,
                                       **flags)
        except kvcore.EmptyRangeError:
            assert span.end not in (b"", b"\0")
            assert span.key >= span.end
            return multiple()
        assert span.end in (b"", b"\0") or span.key < span.end
        made = Opened(watch, model_watch.ModelWatch(model, span, start, **flags), notified,
                      start == 0)
        assert watch.start_revision == made.model.start
        self.open.append(made)
        return made

    @rule(opened=watches)
    def read(self, opened: Opened) -> None:
        if opened in self.open:
            opened.read()

    @rule(opened=watches)
    def read_all(self, opened: Opened) -> None:
        while opened in self.open and opened.read():
            pass

    @rule(opened=watches, limit=st.sampled_from([1, 2, 7, 50, 1000]))
    def read_batch(self, opened: Opened, limit: int) -> None:
        if opened in self.open:
            opened.read_batch(limit)

    @rule(opened=watches)
    def ask(self, opened: Opened) -> None:
        if opened in self.open:
            opened.ask()

    @rule(opened=watches)
    def resume(self, opened: Opened) -> None:
        """next_revision is where this watch goes on; a new watch there goes on as well."""
        if opened not in self.open or opened.model.compacted:
            return
        start = opened.watch.next_revision
        opened.model.quiet(start - 1)
        if start < self.pair.model.compacted:
            return
        with self.pair.db.watch(start_revision=start) as watch:
            every = model_watch.ModelWatch(self.pair.model, models.Span(b"\0", b"\0"), start)
            again = Opened(watch, every, False, False)
            while again.read():
                pass

    @rule(opened=consumes(watches), forget=st.booleans())
    def cancel(self, opened: Opened, forget: bool) -> None:
        if opened not in self.open:
            return
        self.open.remove(opened)
        if not forget:
            opened.watch.cancel()
            ends = (kvcore.ClosedError, kvcore.CompactedError)[: 1 + opened.model.compacted]
            with pytest.raises(ends):
                opened.watch.get(0)
        opened.watch = None

    # after every step

    @invariant()
    def sound(self) -> None:
        if self.pair is None:
            return
        machines.STEPS[self.kind] += 1
        self.pair.same_state()
        self.pair.db._check()
        got, model = self.pair.db.leases(), self.pair.model
        ids = [lease.id for lease in model.leases()]
        assert [lease.id for lease in got] == ids, (got, ids, model.now)
        for lease, wanted in zip(got, model.leases(), strict=True):
            assert lease.granted_ttl == wanted.granted_ttl
            assert lease.keys() == wanted.keys()
            assert lease.ttl() == wanted.ttl() or lease.ttl() <= 0 == wanted.ttl()

    def let_go(self) -> None:
        """Every watch to its end; then nothing of them is left."""
        for opened in self.open:
            while opened.read():
                pass
        self.open.clear()
        watch_checker.verify(self.pair.db)

    def teardown(self) -> None:
        if self.pair is None or self.pair.db.closed:
            return  # closed: a reopen failed, and says so
        try:
            self.let_go()
            self.step()
            self.pair.db._check()
            self.pair.same("hash")
        finally:
            self.pair.db.close()


class DurableWatchMachine(WatchMachine):
    """Segments of 64 KiB on a RAM disk; leases come back with their full time."""

    kind = "durable watches"

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(prefix="kvcore-machine-", dir=RAM)

    def opened(self, order: int) -> kvcore.Store:
        return kvcore.open(self.directory, order=order, clock=self.clock, segment_bytes=65536,
                           **OPTIONS)

    @precondition(lambda self: self.pair is not None)
    @rule(order=st.sampled_from([3, 32]))
    def reopen(self, order: int) -> None:
        self.let_go()
        self.pair.db.close()
        self.pair.db = self.opened(order)
        self.pair.model.restart()
        self.pair.same("hash")

    @rule()
    def checkpoint(self) -> None:
        before = self.pair.db.status().checkpoint_number
        assert self.pair.db.checkpoint() == before + 1

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            shutil.rmtree(self.directory)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(2))
def test_watches_in_memory(part: int, counts: Counter[str], soaking: Soaking) -> None:
    """Part of the examples each, so that a failure ends the rest early."""
    machines.run(WatchMachine, WatchMachine.kind, 20, 80, counts, soaking)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(2))
def test_durable_watches(part: int, counts: Counter[str], soaking: Soaking) -> None:
    """The same for the durable store."""
    machines.run(DurableWatchMachine, DurableWatchMachine.kind, 14, 80, counts, soaking)
