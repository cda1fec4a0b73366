# SPDX-License-Identifier: Apache-2.0
"""The ring against a list: any sequence of pushes, trims, refusals of memory, under both policies.

What a window costs beside what it holds is bounded here too: chunks and blocks go with their
records.
"""

from __future__ import annotations

from collections import Counter

import machines
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from model_ring import ModelRing
from soak import Soaking

from kvcore.errors import OutOfMemoryError
from kvcore.testing._ring_probe import RingProbe, RingRow

INCREMENTAL, FULL = 0, 1
CHUNK, CHUNK_BYTES, BLOCK, RECORD = 1024, 1024 * 48 + 8, 65536, 48
SIZES = st.one_of(st.integers(0, 64), st.integers(0, 5000),
                  st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1, 200_000]))


class RingMachine(RuleBasedStateMachine):
    """The owner pushes and trims, at times without the other."""

    policy = INCREMENTAL

    @initialize(capacity=st.sampled_from([1, 7, 100, 101, 1500]),
                interval=st.sampled_from([0, 30]))
    def start(self, capacity: int, interval: int) -> None:
        self.ring = RingProbe(capacity, policy=self.policy, interval_ns=interval)
        self.model: ModelRing[RingRow] = ModelRing(capacity, interval)
        self.now = 0
        self.mod = 1
        self.peak = 0

    def push(self, size: int, seed: int) -> None:
        row = RingRow(self.mod, seed, seed % 7, -seed, seed % 65536, bytes([seed % 251]) * size)
        self.ring.push(row.mod, row.payload, create=row.create, version=row.version,
                       lease=row.lease, note=row.note)
        self.model.push(self.mod, row)

    def trim(self) -> None:
        assert self.ring.due(self.now) == self.model.due(self.now)
        assert self.ring.trim(self.now)
        self.model.trim(self.now)

    @rule(size=SIZES, step=st.integers(0, 2), seed=st.integers(0, 1 << 40), trim=st.booleans())
    def one(self, size: int, step: int, seed: int, trim: bool) -> None:
        self.mod += step
        self.push(size, seed)
        if trim:
            self.trim()

    @rule(n=st.integers(1, 1300), size=st.integers(0, 200), step=st.integers(0, 2),
          seed=st.integers(0, 1 << 40), trim=st.booleans())
    def many(self, n: int, size: int, step: int, seed: int, trim: bool) -> None:
        for i in range(n):
            self.mod += step
            self.push(size, seed + i)
            if trim:
                self.trim()

    @rule(ns=st.integers(0, 40))
    def time_passes(self, ns: int) -> None:
        self.now += ns
        self.trim()

    @rule(n=st.integers(1, 2), size=SIZES)
    def memory_is_refused(self, n: int, size: int) -> None:
        """A push that needs memory changes nothing; one that needs none goes through."""
        self.ring.refuse_after(n)
        before = self.ring.stats()
        try:
            self.push(size, 5)
        except OutOfMemoryError:
            after = self.ring.stats()
            for name in ("first", "next", "payload_bytes", "dropped", "dropped_mod"):
                assert before[name] == after[name]
        self.ring.refuse_after(0)

    @rule(n=st.integers(1, 20))
    def memory_is_refused_to_a_compaction(self, n: int) -> None:
        """The window is compacted all the same."""
        due, bytes_before = self.model.due(self.now), self.ring.stats()["bytes"]
        self.ring.refuse_after(n)
        if not self.ring.trim(self.now):
            assert due and self.policy == FULL
            assert self.ring.stats()["bytes"] <= bytes_before
        self.ring.refuse_after(0)
        self.model.trim(self.now)

    @rule(size=SIZES)
    def room_for_a_record_that_is_not_pushed(self, size: int) -> None:
        self.ring.room(size)

    @precondition(lambda self: self.mod > 1)
    @rule(back=st.integers(-2, 3000))
    def search(self, back: int) -> None:
        assert self.ring.after(self.mod - back) == self.model.after(self.mod - back)

    @invariant()
    def agrees(self) -> None:
        machines.STEPS["ring"] += 1
        ring, model = self.ring, self.model
        ring.check()
        stats = ring.stats()
        assert (stats["first"], stats["next"]) == (model.first, model.next)
        assert stats["dropped"] == model.first and stats["dropped_mod"] == model.dropped_mod
        assert stats["compactions"] == model.compactions
        assert stats["payload_bytes"] == sum(len(row.payload) for _, row in model.rows)
        assert ring.at(model.first - 1) is None if model.first else True
        assert ring.at(model.next) is None
        seqs = range(model.first, model.next)
        for seq in [*seqs[:40], *seqs[40:-40:97], *seqs[-40:]]:
            assert ring.at(seq) == model.at(seq)[1]
        assert stats["peak_bytes"] >= max(stats["bytes"], self.peak)
        self.peak = stats["peak_bytes"]


class FullRingMachine(RingMachine):
    """The same, rebuilt at each compaction."""

    policy = FULL


@pytest.mark.soak(weight=0.5)
@pytest.mark.parametrize("machine", [RingMachine, FullRingMachine])
def test_ring(machine: type[RingMachine], counts: Counter[str],
              soaking: Soaking) -> None:
    machines.run(machine, "ring", 40, 30, counts, soaking)


def filled(policy: int, capacity: int, pushes: int, size: int) -> RingProbe:
    ring = RingProbe(capacity, policy=policy)
    for mod in range(1, pushes + 1):
        ring.push(mod, bytes(size))
        ring.trim()
    return ring


@pytest.mark.parametrize("policy", [INCREMENTAL, FULL])
def test_memory_goes_with_the_records(policy: int) -> None:
    """After many windows there is no more than one window, a chunk and a block at each end."""
    ring = filled(policy, 10_000, 60_000, 100)
    stats = ring.stats()
    length = stats["next"] - stats["first"]
    assert 9000 <= length <= 11_000
    assert stats["bytes"] <= (length * (RECORD + 100) * 1.01 + 2 * (CHUNK_BYTES + BLOCK) + 4096)
    ring.check()


def test_a_full_rebuild_needs_both_copies() -> None:
    incremental, full = (filled(policy, 10_000, 30_000, 100).stats()
                         for policy in (INCREMENTAL, FULL))
    assert full["compactions"] == incremental["compactions"]
    window, kept = 11_000 * (RECORD + 100), 9000 * (RECORD + 100)
    assert incremental["peak_bytes"] < window * 1.15
    assert full["peak_bytes"] > window + kept


def test_large_payloads_do_not_waste_blocks() -> None:
    """Payloads that fill a little more than half a block: what is left behind is cut off."""
    ring = RingProbe(100)
    for mod in range(1, 101):
        ring.push(mod, bytes(BLOCK // 2 + 100 if mod % 2 else 50))
    stats = ring.stats()
    assert stats["payload_bytes"] > 50 * BLOCK // 2
    assert stats["bytes"] < stats["payload_bytes"] * 1.15 + CHUNK_BYTES + BLOCK


def test_the_clock_may_go_back() -> None:
    """Time that goes back is no time that passes; the ceiling holds whatever the clock says."""
    ring = RingProbe(100, interval_ns=30)
    for mod in range(1, 112):
        ring.push(mod)
    assert ring.trim(1000) and ring.stats()["compactions"] == 1
    for mod in range(112, 134):
        ring.push(mod)
    assert not ring.due(10) and not ring.due(1029) and ring.due(1030)
    for mod in range(134, 112 + 111):
        assert not ring.due(10)
        ring.push(mod)
    assert ring.due(10)


def test_a_rebuild_refused_memory_anywhere_drops_in_place() -> None:
    """Whichever request is refused: nothing of the half-made copy stays, the window is as cut."""
    refused = 0
    for n in range(1, 100):
        ring = RingProbe(3000, policy=FULL)
        for mod in range(1, 3302):
            ring.push(mod, bytes(100))
        ring.refuse_after(n)
        whole = ring.trim()
        ring.check()
        assert (ring.stats()["first"], ring.stats()["dropped_mod"]) == (601, 601)
        assert ring.at(601) == RingRow(602, 0, 0, 0, 0, bytes(100))
        if whole:
            break
        refused += 1
    assert refused > 2 + 3 + 3  # two tables, the chunks, the blocks
