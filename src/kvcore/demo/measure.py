# SPDX-License-Identifier: Apache-2.0
"""What the demo measures and checks: Samples, Figure, Report.

A Figure is one line of the closing table.  Its spread is the middle half of the samples (25th to
75th percentile).  A Report is all figures and all checks; it is `ok` when no check failed.

May not know: the store, the terminal.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Step(Protocol):
    """A progress bar of one phase."""

    def advance(self, count: int) -> None:
        """`count` more are done."""


class Ui(Protocol):
    """Where progress is shown."""

    def phase(self, title: str, total: int) -> Any:
        """A context manager around one phase; yields its Step."""


class Samples:
    """Durations in nanoseconds, or rates; eight bytes each."""

    def __init__(self) -> None:
        self._values = array("d")

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float) -> None:
        """Adds one."""
        self._values.append(value)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Adds how long the body takes, in nanoseconds."""
        start = time.perf_counter_ns()
        yield
        self._values.append(time.perf_counter_ns() - start)

    def call(self, function: Callable[[], T]) -> T:
        """Calls the function and adds how long it took."""
        start = time.perf_counter_ns()
        result = function()
        self._values.append(time.perf_counter_ns() - start)
        return result

    def quantile(self, share: float) -> float:
        """The smallest value that at least this share of the samples does not exceed."""
        ordered = sorted(self._values)
        return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


@dataclass(frozen=True)
class Figure:
    """One line of the table; median, p99 and spread are in `unit`."""

    name: str
    unit: str
    samples: int
    median: float
    p99: float | None = None
    low: float | None = None
    high: float | None = None
    article: str = ""


@dataclass(frozen=True)
class Check:
    """Something that was compared: what, whether it held, and the difference if not."""

    name: str
    ok: bool
    detail: str = ""


SCALES = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}


@dataclass
class Report:
    """Everything the demo found."""

    setting: dict[str, Any] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when every check held."""
        return all(check.ok for check in self.checks)

    def time(self, name: str, unit: str, samples: Samples, article: str = "") -> None:
        """A figure from durations in nanoseconds."""
        if len(samples):
            scale = SCALES[unit]
            median, p99, low, high = (samples.quantile(share) / scale
                                      for share in (0.5, 0.99, 0.25, 0.75))
            self.figures.append(Figure(name, unit, len(samples), median, p99, low, high, article))

    def rate(self, name: str, unit: str, samples: Samples, article: str = "") -> None:
        """A figure from rates; a 99th percentile would be the best moment, so there is none."""
        if len(samples):
            median, low, high = (samples.quantile(share) for share in (0.5, 0.25, 0.75))
            self.figures.append(Figure(name, unit, len(samples), median, None, low, high, article))

    def value(self, name: str, unit: str, value: float, article: str = "") -> None:
        """A figure that was counted, not sampled."""
        self.figures.append(Figure(name, unit, 1, value, article=article))

    def check(self, name: str, ok: bool, detail: str = "") -> None:
        """Records whether something held."""
        self.checks.append(Check(name, ok, "" if ok else detail))

    def equal(self, name: str, found: object, expected: object) -> None:
        """Records whether `found` is what was expected."""
        self.check(name, found == expected, f"found {found!r:.200}, expected {expected!r:.200}")

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {"ok": self.ok, "setting": self.setting,
                "figures": [asdict(figure) for figure in self.figures],
                "checks": [asdict(check) for check in self.checks], "problems": self.problems}
