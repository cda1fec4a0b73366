# SPDX-License-Identifier: Apache-2.0
"""A state machine that asks a real etcd what it asks the embedded store; answers are equal.

Each example begins with both empty at an equal revision and ends with what its watches and leases
still have to say. What differs and why: docs/differences-from-etcd.md.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

import machines
import pytest
from etcd_fixtures import pair, shared  # noqa: F401
from etcd_pair import NO_WATCH, Pair
from etcd_requests import KEYS
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from soak import Soaking

RANDOM = st.randoms(use_true_random=False)


class Oracle(RuleBasedStateMachine):
    """Requests of every kind, in any order."""

    both: ClassVar[Pair]

    @contextlib.contextmanager
    def asking(self) -> Iterator[Pair]:
        """Counts the step; a failure leaves the two parted (an end of data to draw from does not).
        """
        machines.STEPS["etcd oracle"] += 1
        try:
            yield self.both
        except Exception:
            self.both.broken = True
            raise

    @initialize(keys=st.lists(st.sampled_from(KEYS), max_size=12))
    def populate(self, keys: list[bytes]) -> None:
        with self.asking() as both:
            for key in keys:
                both.put(key, b"0")

    @rule(rng=RANDOM)
    def kv_or_lease(self, rng: random.Random) -> None:
        with self.asking() as both:
            both.ask(both.draw(rng).request())

    @rule(rng=RANDOM)
    def put(self, rng: random.Random) -> None:
        with self.asking() as both:
            both.ask(both.draw(rng).put())

    @rule(rng=RANDOM)
    def read(self, rng: random.Random) -> None:
        with self.asking() as both:
            for _ in range(3):
                both.ask(both.draw(rng).range())

    @rule(rng=RANDOM)
    def transaction(self, rng: random.Random) -> None:
        with self.asking() as both:
            both.ask(both.draw(rng).txn())

    @rule(rng=RANDOM)
    def lease(self, rng: random.Random) -> None:
        with self.asking() as both:
            both.ask(both.draw(rng).lease_request())

    @rule(rng=RANDOM)
    def compact(self, rng: random.Random) -> None:
        with self.asking() as both:
            both.compact(both.draw(rng).compact())

    @rule(rng=RANDOM)
    def hash(self, rng: random.Random) -> None:
        with self.asking() as both:
            both.hash(both.draw(rng).hashed())

    @rule(rng=RANDOM)
    def watch(self, rng: random.Random) -> None:
        with self.asking() as both:
            both.watch().create(both.draw(rng).watch(sorted(both.watch().ids)))

    @rule(rng=RANDOM)
    def cancel(self, rng: random.Random) -> None:
        with self.asking() as both:
            both.watch().cancel(rng.choice((NO_WATCH, *sorted(both.watch().ids))))

    @rule()
    def deliver(self) -> None:
        with self.asking() as both:
            both.watch().drain()

    @rule()
    def progress(self) -> None:
        with self.asking() as both:
            both.watch().progress()

    def teardown(self) -> None:
        self.both.finish()


@pytest.mark.soak
def test_machine(pair: Pair, counts: Counter[str], soaking: Soaking) -> None:  # noqa: F811
    Oracle.both = pair
    machines.run(Oracle, "etcd oracle", 60, 50, counts, soaking)
