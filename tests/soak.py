# SPDX-License-Identifier: Apache-2.0
"""How long a test goes on in `make soak SECONDS=n`: until its share of those seconds is used.

    @pytest.mark.soak(weight=4)          collected: weights 4 + 1 + 1 ──► 4/6 of the seconds
    def test_it(soaking):
        for seed in soaking(3): ...      0, 1, 2 always; in a soak 3, 4, ... until the share is used

`make soak` runs the tests with the mark, and no others; the seconds are beside what they always do.
Invariant: (same-tests) a soak runs what `make test` runs, with more seeds; nothing is only there.
Thread safety: none. May not know: what a test does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator

import pytest

SECONDS = float(os.environ.get("KVCORE_SOAK_SECONDS", "0"))
MARK = "soak(weight=1): goes on for its share of KVCORE_SOAK_SECONDS"


def weight(item: pytest.Item) -> float:
    """What the test's mark asks for; 0 without one."""
    mark = item.get_closest_marker("soak")
    return 0.0 if mark is None else float(mark.kwargs.get("weight", 1))


class Soaking:
    """One test's share."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, least: int) -> Iterator[int]:
        """0, 1, ... at least `least` numbers, and more until the share is used."""
        ends = time.monotonic() + self.seconds
        number = 0
        while number < least or time.monotonic() < ends:
            yield number
            number += 1


def share(item: pytest.Item, collected: Iterable[pytest.Item]) -> Soaking:
    """The share of one of the tests of this session."""
    whole = sum(weight(other) for other in collected)
    assert weight(item), f"{item.nodeid} goes on in a soak: it needs the mark"
    return Soaking(SECONDS * weight(item) / whole)
