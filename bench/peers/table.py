# SPDX-License-Identifier: Apache-2.0
"""The table: medians, spread and ratios, for a terminal and as Markdown for docs/numbers.md.

    summary ── figure -> name -> median, min, max, ratios (to each base)
    text ───── a block per figure, a line per store
    markdown ─ a line per figure: question, estimate, measured, peers, ratio, what limits it now

A ratio says how many times better kvcore is; below 1 the peer is ahead.

May not know: how anything was measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from bench.peers.figures import FIGURES, MAP_FIGURES, Figure

BASES = {"stores": ("kvcore",), "maps": ("order32", "order64")}
GROUPS = (("stores", FIGURES), ("maps", MAP_FIGURES))
HEAD = ("| question | estimate | measured | peers | ratio | what limits it now |",
        "|---|---|---|---|---|---|")

Summary = dict[str, dict[str, dict[str, Any]]]


def summary(result: dict[str, Any], group: str) -> Summary:
    """Of one group ("stores" or "maps") of a result's dictionary."""
    found: Summary = {}
    for figure in dict(GROUPS)[group]:
        given = result[group].get(figure.name, {})
        samples = {name: given[name] for name in result["peers"] if name in given}
        medians = {name: statistics.median(numbers) for name, numbers in samples.items()}
        found[figure.name] = {
            name: {"median": medians[name], "min": min(numbers), "max": max(numbers),
                   "ratios": [figure.ratio(medians[name], medians[base])
                              for base in BASES[group] if base in medians]}
            for name, numbers in samples.items()}
    return found


def show(number: float | None) -> str:
    """Three digits that count.

    >>> [show(n) for n in (0.01234, 1.5, 12.34, 1234567.0, None)]
    ['0.0123', '1.5', '12.3', '1,234,567', '-']
    """
    if number is None:
        return "-"
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def about(result: dict[str, Any]) -> list[str]:
    """Machine, sizes, versions and settings, who is absent."""
    on = result["machine"]
    sizes = result["sizes"]
    lines = [f"{on['processor']}, {on['cpus']} processors, {on['memory_gib']} GiB, "
             f"{on['filesystem'] or 'unknown file system'}, {on['system']}, Python {on['python']}",
             f"{sizes['objects']:,} objects of 1 KiB, {result['repeat']} repetitions, medians "
             f"(min - max); {result['compared']} answers had the checksum another's had"]
    for peer in result["peers"].values():
        lines.append(f"{peer['title']} {peer['version']}"
                     + (f": {peer['settings']}" if peer["settings"] else ""))
    lines += [f"ABSENT: {name}: {reason}" for name, reason in result["absent"].items()]
    return lines


def text(result: dict[str, Any]) -> str:
    """For a terminal."""
    lines = [*about(result), ""]
    titles = {name: peer["title"] for name, peer in result["peers"].items()}
    width = max((len(title) for title in titles.values()), default=0)
    for group, figures in GROUPS:
        found = summary(result, group)
        for figure in figures:
            if not found[figure.name]:
                continue
            lines.append(f"{figure.title} ({figure.unit})")
            for name, row in found[figure.name].items():
                spread = f"{show(row['min'])} - {show(row['max'])}"
                ratios = " / ".join(f"{show(ratio)} x" for ratio in row["ratios"])
                lines.append(f"  {titles[name]:{width}} {show(row['median']):>10}   {spread:21} "
                             f"{'' if name in BASES[group][:1] else ratios}".rstrip())
            lines.append("")
    lines.append("A ratio says how many times better kvcore is (index alone: order 32 / order 64).")
    return "\n".join(lines)


def markdown(result: dict[str, Any]) -> str:
    """The table of docs/numbers.md, head and body."""
    return "\n".join([*HEAD, *_rows(result)])


def _rows(result: dict[str, Any]) -> Iterator[str]:
    titles = {name: peer["title"] for name, peer in result["peers"].items()}
    for group, figures in GROUPS:
        found = summary(result, group)
        for figure in figures:
            own, peers, ratios = [], [], []
            for name, row in found[figure.name].items():
                words = f"{show(row['median'])} ({show(row['min'])} - {show(row['max'])})"
                if name in BASES[group]:
                    own.append(words if group == "stores" else f"{titles[name][12:]}: {words}")
                else:
                    peers.append(f"{titles[name]}: {words}")
                    ratios.append(" / ".join(show(ratio) for ratio in row["ratios"]))
            yield (f"| {_question(group, figure)} | {figure.estimate} | {'; '.join(own)} "
                   f"| {'; '.join(peers)} | {'; '.join(ratios)} | {figure.limit} |")


def _question(group: str, figure: Figure) -> str:
    return f"{'index alone: ' if group == 'maps' else ''}{figure.title} ({figure.unit})"


def questions() -> list[str]:
    """The first column, in order."""
    return [_question(group, figure) for group, figures in GROUPS for figure in figures]
