# SPDX-License-Identifier: Apache-2.0
"""Samples as a log-bucketed histogram: a million latencies in a few hundred numbers.

    value ── frexp ── exponent · 128 + mantissa's first 7 bits ── bucket ── count

Every doubling has 128 buckets, so a bucket is at most 1/128 of its values wide and its middle at
most 1/256 off; least, most, count and total are exact.  Whole numbers below 128 have a bucket each.

Invariants: the counts of all buckets add up to `count`; least <= every quantile <= most.

Not thread-safe: one writer, and readers after it.  May not know: what is measured.
"""

from __future__ import annotations

from math import ceil, frexp, inf, ldexp
from typing import Any

STEPS = 128                  # buckets per doubling
COARSE = 8                   # buckets that become one when a histogram is written out
ZERO = -(1 << 20)            # the bucket of 0, below that of the smallest float


class Histogram:
    """Counts of values >= 0, whatever their unit.

    Adding takes some 0.2 us and, for most values, no memory; quantiles sort the buckets.

    >>> some = Histogram()
    >>> for value in (100, 1000, 1000, 50_000): some.add(value)
    >>> some.count, some.least, some.most, some.quantile(0.0), some.quantile(1.0)
    (4, 100, 50000, 100.0, 50000.0)
    >>> round(some.quantile(0.5) / 1000, 2)
    1.0
    """

    __slots__ = ("_counts", "count", "least", "most", "total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        self.least: float = inf
        self.most: float = 0.0

    def __len__(self) -> int:
        return self.count

    def add(self, value: float) -> None:
        """Counts one value; ValueError when it is negative, infinite or not a number."""
        if value > 0:
            if value == inf:
                raise ValueError("a histogram takes no infinity")
            mantissa, exponent = frexp(value)
            bucket = exponent * STEPS + int(mantissa * (2 * STEPS)) - STEPS
        elif value == 0:
            bucket = ZERO
        else:
            raise ValueError(f"a histogram takes values from 0 on, got {value}")
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.count += 1
        self.total += value
        if value < self.least:
            self.least = value
        if value > self.most:
            self.most = value

    def merge(self, other: Histogram) -> None:
        """Takes the other's values in: exactly as if each had been added here."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        self.count += other.count
        self.total += other.total
        self.least = min(self.least, other.least)
        self.most = max(self.most, other.most)

    def quantile(self, share: float) -> float:
        """The smallest value that at least this share of the values does not exceed, +- 1/256.

        ValueError when there is none.
        """
        if not self.count:
            raise ValueError("a histogram without values has no quantiles")
        wanted = min(self.count, max(1, ceil(share * self.count)))
        if wanted == 1:
            return float(self.least)
        if wanted == self.count:
            return float(self.most)
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                break
        low, high = edges(bucket)
        return float(min(max(low + (high - low) / 2, self.least), self.most))

    def buckets(self) -> list[tuple[float, float, int]]:
        """(from, to, count) of every bucket that is not empty, ascending; `to` is excluded."""
        return [(*edges(bucket), self._counts[bucket]) for bucket in sorted(self._counts)]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: sixteen buckets a doubling, as columns."""
        coarse: dict[int, int] = {}
        for bucket, count in self._counts.items():
            wide = bucket // COARSE * COARSE
            coarse[wide] = coarse.get(wide, 0) + count
        spans = [edges(bucket, COARSE) for bucket in sorted(coarse)]
        return {"count": self.count, "total": self.total,
                "least": self.least if self.count else None, "most": self.most,
                "from": [low for low, _ in spans], "to": [high for _, high in spans],
                "counts": [coarse[bucket] for bucket in sorted(coarse)]}


def edges(bucket: int, width: int = 1) -> tuple[float, float]:
    """Where `width` buckets from this one on begin and end."""
    return (0.0, 0.0) if bucket == ZERO else (_edge(bucket), _edge(bucket + width))


def _edge(bucket: int) -> float:
    exponent, step = divmod(bucket, STEPS)
    if exponent > 1024:
        return float.fromhex("0x1.fffffffffffffp+1023")     # the last bucket ends with the floats
    return ldexp(STEPS + step, exponent - 8)
