# SPDX-License-Identifier: Apache-2.0
"""The clock for tests: it stands still, and moves by exactly what it is told."""

from __future__ import annotations

import threading

import pytest

from kvcore._native import MONOTONIC, Clock
from kvcore.testing.clocks import ManualClock


def test_it_stands_still_until_it_is_moved() -> None:
    clock = ManualClock()
    assert isinstance(clock, Clock)
    assert (clock.seconds, clock.now_ns()) == (0.0, 0)
    clock.advance(2)
    clock.advance(0.5)
    assert (clock.seconds, clock.now_ns(), repr(clock)) == (2.5, 2_500_000_000, "ManualClock(2.5)")
    clock.set(1.0)
    assert clock.seconds == 1.0
    assert ManualClock(seconds=7).now_ns() == 7_000_000_000


def test_small_steps_add_up() -> None:
    clock = ManualClock()
    for _ in range(1000):
        clock.advance(0.001)
    assert clock.now_ns() == 1_000_000_000


@pytest.mark.parametrize("seconds", [-1, -0.1, float("nan")])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    clock = ManualClock(5)
    for move in (clock.advance, clock.set, ManualClock):
        with pytest.raises(ValueError):
            move(seconds)
    assert clock.seconds == 5.0


@pytest.mark.parametrize("seconds", [1e12, 10**30, float("inf")])
def test_a_time_too_far_ahead_is_refused(seconds: float) -> None:
    clock = ManualClock(5)
    for move in (clock.advance, clock.set, ManualClock):
        with pytest.raises(OverflowError):
            move(seconds)
    assert clock.seconds == 5.0


def test_two_small_steps_may_not_pass_the_end() -> None:
    clock = ManualClock(1.8e10)
    with pytest.raises(OverflowError):
        clock.advance(1.8e10)
    assert clock.seconds == 1.8e10


def test_threads_see_whole_steps() -> None:
    clock = ManualClock()
    seen: list[float] = []

    def look() -> None:
        while not seen or seen[-1] < 100:
            seen.append(clock.seconds)

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(100):
        clock.advance(1)
    reader.join()
    assert seen == sorted(seen) and all(s == int(s) for s in seen)


def test_the_system_clock_moves_by_itself() -> None:
    assert MONOTONIC.now_ns() <= MONOTONIC.now_ns()
