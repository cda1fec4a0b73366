# SPDX-License-Identifier: Apache-2.0
"""What the demo measures and checks: Samples, Claim, Figure, Order, Check, Report.

    phase ─ Samples ─► Figure ─┐
            compared ─► Check ─┼─► Report ─► as_dict() ─► JSON, and from it the page and its plots
            index    ─► Order ─┘

A Figure is one line of the closing table.  Its spread is the middle half of the samples (25th to
75th percentile).  A Report is all figures and all checks; it is `ok` when no check failed, and
`complete` when the run came to its end.

Not thread-safe.  May not know: the store, the terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

from kvcore.demo.histogram import Histogram

T = TypeVar("T")

PAGE = 500                   # objects of a page, as API servers ask for them

# What the index is asked at each order: question -> (in words, unit).
QUESTIONS = {
    "insert": ("insert a random key", "us"),
    "everything": ("all keys, metadata copied", "ms"),
    "revisions": ("all revisions", "ms"),
    "page": (f"a page of {PAGE}", "us"),
    "count": ("count a random span", "us"),
    "get": ("get a random key", "us"),
}

SAME = 0.03                  # a difference from a claim that is none


class Step(Protocol):
    """A progress bar of one phase."""

    def advance(self, count: int) -> None:
        """`count` more are done."""


class Ui(Protocol):
    """Where progress is shown."""

    def phase(self, title: str, total: int) -> Any:
        """A context manager around one phase; yields its Step."""


class Samples(Histogram):
    """Durations in nanoseconds, or rates."""

    __slots__ = ()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Adds how long the body takes, in nanoseconds; costs a microsecond, part of it inside."""
        start = time.perf_counter_ns()
        yield
        self.add(time.perf_counter_ns() - start)

    def call(self, function: Callable[[], T]) -> T:
        """Calls the function and adds how long it took."""
        start = time.perf_counter_ns()
        result = function()
        self.add(time.perf_counter_ns() - start)
        return result


@dataclass(frozen=True)
class Claim:
    """What the article says: its words, the number in the figure's unit, and how to compare.

    `of` names the figure's field, `most` the other end of a claim that is a span; `unlike` says why
    the two cannot be compared ("": they can).
    """

    text: str
    value: float
    better: str = "less"         # or "more"
    of: str = "median"           # or "p99"
    most: float | None = None
    unlike: str = ""

    def verdict(self, measured: float) -> tuple[str, str]:
        """(better | same | worse | unlike, in words)."""
        if self.unlike:
            return "unlike", f"not comparable: {self.unlike}"
        if measured <= 0:
            return ("better", "better") if self.better == "less" else ("worse", "worse")
        if self.most is not None and self.value <= measured <= self.most:
            return "same", "as said"
        ratio = self.value / measured if self.better == "less" else measured / self.value
        if abs(ratio - 1) <= SAME:
            return "same", "as said"
        if ratio > 1:
            return "better", f"{number(ratio)} × better"
        return "worse", f"{number(1 / ratio)} × worse"


@dataclass(frozen=True)
class Figure:
    """One line of the table; median, p99 and spread are in `unit`.

    `plot` names the plot that shows its distribution ("": none), which is in nanoseconds.
    """

    name: str
    unit: str
    samples: int
    median: float
    p99: float | None = None
    low: float | None = None
    high: float | None = None
    article: str = ""
    claim: float | None = None   # the article's number, in `unit`
    judged: str = ""             # better | same | worse | unlike; "" without a claim
    verdict: str = ""
    plot: str = ""
    distribution: dict[str, Any] | None = None


@dataclass(frozen=True)
class Order:
    """The index alone at one order; `figures` by question (QUESTIONS)."""

    order: int
    keys: int
    depth: int
    fill: float
    bytes_per_key: float
    build_seconds: float
    figures: dict[str, Figure]


@dataclass(frozen=True)
class Check:
    """Something that was compared: what, whether it held, and the difference if not."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True)
class Phase:
    """What was done when: how many, how long, and the anonymous memory afterwards (MB or None)."""

    title: str
    total: int
    seconds: float
    memory: float | None = None


SCALES = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}


def figure(name: str, unit: str, samples: Samples, claim: Claim | None = None,
           plot: str = "") -> Figure:
    """A figure from durations in nanoseconds, at least one."""
    scale = SCALES[unit]
    median, p99, low, high = (samples.quantile(share) / scale
                              for share in (0.5, 0.99, 0.25, 0.75))
    return Figure(name, unit, len(samples), median, p99, low, high, *_judge(claim, median, p99),
                  plot, samples.as_dict() if plot else None)


def _judge(claim: Claim | None, median: float,
           p99: float | None = None) -> tuple[str, float | None, str, str]:
    """A figure's fields from article to verdict."""
    if claim is None:
        return "", None, "", ""
    measured = p99 if claim.of == "p99" and p99 is not None else median
    return claim.text, claim.value, *claim.verdict(measured)


@dataclass
class Report:
    """Everything the demo found, as far as it came."""

    setting: dict[str, Any] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    complete: bool = False
    stopped: str = ""            # why and where the run ended early

    @property
    def ok(self) -> bool:
        """True when every check held."""
        return all(check.ok for check in self.checks)

    def time(self, name: str, unit: str, samples: Samples, claim: Claim | None = None,
             plot: str = "") -> None:
        """A figure from durations in nanoseconds."""
        if len(samples):
            self.figures.append(figure(name, unit, samples, claim, plot))

    def rate(self, name: str, unit: str, samples: Samples, claim: Claim | None = None) -> None:
        """A figure from rates; a 99th percentile would be the best moment, so there is none."""
        if len(samples):
            median, low, high = (samples.quantile(share) for share in (0.5, 0.25, 0.75))
            self.figures.append(Figure(name, unit, len(samples), median, None, low, high,
                                       *_judge(claim, median)))

    def value(self, name: str, unit: str, value: float, claim: Claim | None = None) -> None:
        """A figure that was counted, not sampled."""
        self.figures.append(Figure(name, unit, 1, value, None, None, None, *_judge(claim, value)))

    def check(self, name: str, ok: bool, detail: str = "") -> None:
        """Records whether something held."""
        self.checks.append(Check(name, ok, "" if ok else detail))

    def equal(self, name: str, found: object, expected: object) -> None:
        """Records whether `found` is what was expected."""
        self.check(name, found == expected, f"found {found!r:.200}, expected {expected!r:.200}")

    def as_dict(self) -> dict[str, Any]:
        """For `--json`, and all that the page is made of."""
        return {"ok": self.ok and self.complete, "complete": self.complete,
                "stopped": self.stopped, "setting": self.setting,
                "figures": [asdict(figure) for figure in self.figures],
                "orders": [asdict(order) for order in self.orders],
                "checks": [asdict(check) for check in self.checks],
                "phases": [asdict(phase) for phase in self.phases], "problems": self.problems}


def number(value: float | None) -> str:
    """Three significant digits below a thousand, whole numbers with separators above."""
    if value is None:
        return ""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
