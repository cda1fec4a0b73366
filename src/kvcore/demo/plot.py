# SPDX-License-Identifier: Apache-2.0
"""Small plots as SVG text: a distribution, the tails of several, values at a few steps.

    Scale (value -> pixel, ticks) ── Canvas (marks as strings) ── svg(): title, desc, style

Every plot is 360 wide, so that one fills a telephone and three stand side by side on a desk, with
text of a readable size in both.  Colours are CSS classes; STYLE gives them values for light and
dark, once per page or inside a file of its own.  Colour is never alone: lines differ in dashes,
marks in shape, and the description says in words what is to be seen.

Invariants: well-formed XML whatever the data (none, one value, a range of any size); every number
in an attribute is finite; no id is used twice as long as callers' idents differ.

May not know: the store, the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Any

WIDTH = 360
LEFT, RIGHT, TOP, BOTTOM = 60, 14, 46, 34
BODY = 150                   # height of the plotted area
TALL = 476                   # height of a plot beside two others, one above the other
CHARACTER = 6.6              # width of one, on average, at the size of labels
NONE = "no samples"
SHORTEST, LONGEST = 1e-3, 1e18   # nanoseconds that an axis of time reaches: 1 ps, 31 years

STYLE = """
.plot{--ink:#1b2430;--soft:#566272;--line:#d5dae1;--paper:#fff;
--c0:#1f66c1;--c1:#b4530a;--c2:#187a4b;--c3:#9b2f86;--c4:#4d5b6b;--c5:#7a6200}
@media screen and (prefers-color-scheme:dark){.plot{--ink:#e8edf3;--soft:#a7b3c1;--line:#3a4452;
--paper:#151b23;--c0:#78b0ff;--c1:#f2a25c;--c2:#57cc92;--c3:#ec9bdb;--c4:#b3bfcd;--c5:#dcc24f}}
.plot text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--soft)}
.plot .name{font-size:13px;font-weight:600;fill:var(--ink)}
.plot .strong{fill:var(--ink)}
.plot .grid{stroke:var(--line);stroke-width:1;fill:none}
.plot .rule{stroke:var(--ink);stroke-width:1.2;fill:none}
.plot .claim{stroke:var(--c1);stroke-width:1.8;fill:none;stroke-dasharray:5 3}
.plot text.said{fill:var(--c1)}
.plot .halo{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
.plot .ground{fill:var(--paper)}
.plot .bar{fill:var(--c0)}
.plot .l0,.plot .l1,.plot .l2,.plot .l3,.plot .l4,.plot .l5{fill:none;stroke-width:2}
.plot .l0{stroke:var(--c0)}.plot .l1{stroke:var(--c1);stroke-dasharray:7 3}
.plot .l2{stroke:var(--c2);stroke-dasharray:2 2}.plot .l3{stroke:var(--c3);stroke-dasharray:9 3 2 3}
.plot .l4{stroke:var(--c4);stroke-dasharray:4 4}.plot .l5{stroke:var(--c5);stroke-dasharray:12 3}
"""

# unit, nanoseconds of one, and where the next begins
_UNITS = (("ns", 1.0, 1e3), ("µs", 1e3, 1e6), ("ms", 1e6, 1e9), ("s", 1e9, 3.6e12),
          ("h", 3.6e12, 8.64e13), ("d", 8.64e13, 3.15576e16))


def duration(nanoseconds: float) -> str:
    """A length of time in words: 250 ns, 1.5 µs, 12 ms, 3 s, 4 h, 5 d, 6 y."""
    for unit, size, limit in _UNITS:
        if nanoseconds < limit * 0.9995:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds / 3.15576e16:.3g} y"


@dataclass(frozen=True)
class Scale:
    """From values to pixels, linear or logarithmic; values outside end at its ends."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, value = log10(low), log10(high), log10(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def decades(self, most: int) -> list[float]:
        """Powers of ten inside, at most so many of them, evenly left out."""
        first, last = ceil(log10(self.low) - 1e-9), floor(log10(self.high) + 1e-9)
        stride = max(1, ceil((last - first + 1) / most))
        return [10.0 ** power for power in range(first, last + 1, stride)]


def log_scale(low: float, high: float, start: float, end: float) -> Scale:
    """A logarithmic scale over these values with some air, at least a decade wide."""
    low, high = (min(max(value, SHORTEST), LONGEST) for value in (low, high))
    air = (high / low) ** 0.03
    low, high = low / air, high * air
    if high / low < 10:
        middle = (low * high) ** 0.5
        low, high = middle / 10 ** 0.5, middle * 10 ** 0.5
    return Scale(low, high, start, end, True)


def steps(high: float) -> list[float]:
    """Three to six round values from 0 up to at least `high`."""
    high = min(high, 1e300)
    if high < 1e-300:
        return [0.0, 1.0]
    unit = 10.0 ** floor(log10(high))
    step = next(unit * factor for factor in (0.2, 0.5, 1.0, 2.0) if high / (unit * factor) <= 5)
    return [index * step for index in range(ceil(high / step - 1e-9) + 1)]


class Canvas:
    """The pieces of one plot, and the document around them."""

    def __init__(self, ident: str, title: str, description: str, bottom: int = TOP + BODY,
                 legend: int = 0) -> None:
        self.ident, self.title, self.description = ident, title, description
        self.bottom = bottom
        self.height = bottom + BOTTOM + 16 * legend
        self._pieces: list[str] = []

    def text(self, x: float, y: float, words: str, anchor: str = "start", css: str = "") -> None:
        """Words; `anchor` is start, middle or end."""
        css = f' class="{css}"' if css else ""
        self._pieces.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{css}>'
                            f'{escape(words)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """A straight line."""
        self._pieces.append(f'<path class="{css}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>')

    def path(self, points: Sequence[tuple[float, float]], css: str) -> None:
        """A line through points."""
        joined = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._pieces.append(f'<path class="{css}" d="M{joined}"/>')

    def bar(self, x: float, y: float, width: float, height: float) -> None:
        """A filled rectangle."""
        self._pieces.append(f'<rect class="bar" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" '
                            f'height="{height:.2f}"/>')

    def dot(self, x: float, y: float, radius: float = 4) -> None:
        """A filled circle."""
        self._pieces.append(f'<circle class="bar" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>')

    def nothing(self) -> str:
        """The plot when there is nothing to show."""
        self.text(WIDTH / 2, (TOP + self.bottom) / 2, NONE, "middle")
        return self.svg()

    def svg(self) -> str:
        """The plot as an element; its style is the page's."""
        names = f"{self.ident}-title {self.ident}-desc"
        return (f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" role="img" '
                f'aria-labelledby="{names}" viewBox="0 0 {WIDTH} {self.height}">'
                f'<title id="{self.ident}-title">{escape(self.title)}</title>'
                f'<desc id="{self.ident}-desc">{escape(self.description)}</desc>'
                f'<rect class="ground" width="{WIDTH}" height="{self.height}"/>'
                f'<text class="name" x="10" y="18">{escape(self.title)}</text>'
                + "".join(self._pieces) + "</svg>")


def standalone(svg: str) -> str:
    """The same plot as a file of its own, style included."""
    head, _, rest = svg.partition(">")
    return ('<?xml version="1.0" encoding="UTF-8"?>\n'
            f'{head} width="{2 * WIDTH}">\n<style>{STYLE}</style>{rest}\n')


def _time_axis(canvas: Canvas, scale: Scale) -> None:
    bottom = canvas.bottom
    for value in scale.decades(5):
        x = scale(value)
        canvas.line(x, TOP, x, bottom, "grid")
        canvas.text(x, bottom + 15, duration(value), "middle")
    canvas.line(LEFT, bottom, WIDTH - RIGHT, bottom, "rule")


def _marks(canvas: Canvas, scale: Scale, marks: Sequence[tuple[str, float, bool]]) -> None:
    """Vertical lines with labels above, in as many rows as keep them apart."""
    ends, labels = [-1.0, -1.0, -1.0], []
    for words, value, claimed in sorted(marks, key=lambda mark: mark[1]):
        x, half = scale(value), len(words) * CHARACTER / 2
        middle = min(max(x, half + 2), WIDTH - half - 2)
        row = next((row for row, end in enumerate(ends) if middle - half > end + 6),
                   ends.index(min(ends)))
        ends[row] = middle + half
        y = TOP - 4 + 12 * row
        canvas.line(x, y + 3, x, canvas.bottom, "claim" if claimed else "rule")
        labels.append((middle, y, words, "middle", "halo said" if claimed else "halo strong"))
    for label in labels:                     # over all lines
        canvas.text(*label)


def distribution(ident: str, title: str, samples: dict[str, Any],
                 marks: Sequence[tuple[str, float, bool]] = ()) -> str:
    """How often a duration took how long, on a logarithmic axis; one bar per bucket.

    `samples` is a `Histogram.as_dict()` in nanoseconds; a mark is (words, nanoseconds, whether
    somebody claims it).
    """
    count = samples["count"]
    told = "; ".join(words for words, _, _ in marks)
    canvas = Canvas(ident, title, f"Distribution of {count:,} durations on a logarithmic axis. "
                                  f"{told}." if count else NONE)
    buckets = [(low, high, number) for low, high, number in zip(
        samples["from"], samples["to"], samples["counts"], strict=True) if high > 0]
    if not buckets:
        return canvas.nothing()
    low = min([buckets[0][0], *(value for _, value, _ in marks)])
    high = max([buckets[-1][1], *(value for _, value, _ in marks)])
    across = log_scale(low, high, LEFT, WIDTH - RIGHT)
    _time_axis(canvas, across)
    most = max(number for _, _, number in buckets)
    room = BODY - 24                         # below the rows of labels
    for start, end, number in buckets:
        x = across(start)
        height = max(0.6, number / most * room)
        canvas.bar(x, TOP + BODY - height, max(1.0, across(end) - x), height)
    canvas.text(LEFT - 6, TOP + 24 + 4, f"{100 * most / count:.3g} %", "end")
    canvas.text(LEFT - 6, TOP + BODY, "0", "end")
    _marks(canvas, across, marks)
    canvas.text(WIDTH - RIGHT, TOP + BODY + 29, f"{count:,} samples", "end")
    return canvas.svg()


def tails(ident: str, title: str, series: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Which share of the requests takes longer than how long; both axes logarithmic."""
    shown = [(name, samples) for name, samples in series if samples["count"] and samples["most"]]
    told = (f"For each of {len(shown)} requests, the share that takes longer than a given time: "
            + ", ".join(name for name, _ in shown) + ".")
    bottom = max(TALL - BOTTOM - 16 * len(shown), TOP + BODY)
    canvas = Canvas(ident, title, told, bottom, len(shown))
    if not shown:
        return canvas.nothing()
    across = log_scale(min(max(samples["least"], 1.0) for _, samples in shown),
                       max(samples["most"] for _, samples in shown), LEFT, WIDTH - RIGHT)
    rarest = min(max(1, ceil(log10(max(samples["count"] for _, samples in shown)))), 6)
    down = Scale(10.0 ** -rarest, 1.0, bottom, TOP, True)
    for power in range(rarest + 1):
        y = down(10.0 ** -power)
        canvas.line(LEFT, y, WIDTH - RIGHT, y, "grid")
        canvas.text(LEFT - 6, y + 4, "all" if power == 0 else f"1 in {_short(10 ** power)}", "end")
    _time_axis(canvas, across)
    for index, (name, samples) in enumerate(shown):
        left, points = samples["count"], [(across(max(samples["least"], 1.0)), down(1.0))]
        for start, end, number in zip(samples["from"], samples["to"], samples["counts"],
                                      strict=True):
            points.append((across(start), points[-1][1]))    # nothing falls between buckets
            left -= number
            if left and end > 0:
                points.append((across(end), down(left / samples["count"])))
        points.append((across(samples["most"]), points[-1][1]))
        canvas.path(points, f"l{index % 6}")
        y = bottom + 34 + 16 * index
        canvas.line(LEFT, y - 4, LEFT + 34, y - 4, f"l{index % 6}")
        canvas.text(LEFT + 42, y, name, css="strong")
    return canvas.svg()


def _short(count: int) -> str:
    return f"{count // 10**6}M" if count >= 10**6 else f"{count // 1000}k" if count >= 1000 else (
        str(count))


def brief(value: float) -> str:
    """A number in at most eight characters."""
    if value == 0 or 0.001 <= value < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if 1000 <= value < 1e6 - 0.5 else f"{value:.2g}"


@dataclass(frozen=True)
class Point:
    """One step of a ladder: its name, the value, perhaps a 99th percentile, perhaps a claim."""

    name: str
    value: float
    p99: float | None = None
    claim: float | None = None


def ladder(ident: str, title: str, unit: str, along: str, points: Sequence[Point]) -> str:
    """A value at each of a few steps, from zero up: dot, 99th percentile, the article's mark."""
    told = "; ".join(
        f"{along} {point.name}: {brief(point.value)}"
        + (f", 99th percentile {brief(point.p99)}" if point.p99 is not None else "")
        + (f", the article {brief(point.claim)}" if point.claim is not None else "")
        for point in points)
    claimed = any(point.claim is not None for point in points)
    canvas = Canvas(ident, title, f"In {unit}. {told}." if points else NONE)
    if not points:
        return canvas.nothing()
    values = [value for point in points
              for value in (point.value, point.p99, point.claim) if value is not None]
    marks = steps(max(values))
    up = Scale(0.0, marks[-1], TOP + BODY, TOP)
    for value in marks:
        canvas.line(LEFT, up(value), WIDTH - RIGHT, up(value), "grid")
        canvas.text(LEFT - 6, up(value) + 4, brief(value), "end")
    canvas.line(LEFT, TOP + BODY, WIDTH - RIGHT, TOP + BODY, "rule")
    canvas.text(10, 34, unit)
    canvas.text(WIDTH - RIGHT, 34, "● median  ┬ p99" * any(p.p99 is not None for p in points)
                + "  ╌ the article" * claimed, "end")
    width = (WIDTH - RIGHT - LEFT) / len(points)
    for index, point in enumerate(points):
        x = LEFT + width * (index + 0.5)
        if point.p99 is not None:
            canvas.line(x, up(point.value), x, up(point.p99), "rule")
            canvas.line(x - 5, up(point.p99), x + 5, up(point.p99), "rule")
        if point.claim is not None:
            canvas.line(x - 16, up(point.claim), x + 16, up(point.claim), "claim")
        canvas.dot(x, up(point.value))
        words = brief(point.value)
        left = x + 8 + len(words) * CHARACTER > WIDTH
        canvas.text(x - 8 if left else x + 8, up(point.value) + 4, words,
                    "end" if left else "start", "halo strong")
        canvas.text(x, TOP + BODY + 15, point.name, "middle")
    canvas.text(LEFT + (WIDTH - RIGHT - LEFT) / 2, TOP + BODY + 29, along, "middle")
    return canvas.svg()
