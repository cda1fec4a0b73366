# SPDX-License-Identifier: Apache-2.0
"""Which plots a report has: name -> SVG, made of nothing but the report's JSON.

    figures with a distribution ─► latency-tails, latency-<title>…
    orders                      ─► order-<question>…, order-memory, order-depth, order-fill

May not know: the store, the page around the plots.
"""

from __future__ import annotations

import re
from typing import Any

from kvcore.demo import plot
from kvcore.demo.measure import QUESTIONS, SCALES

MICRO = {"us": "µs"}


def unit(name: str) -> str:
    """A unit as people write it."""
    return MICRO.get(name, name)


def latencies(document: dict[str, Any]) -> dict[str, str]:
    """The plots of durations: all tails in one, then each distribution."""
    shown = [figure for figure in document["figures"] if figure["distribution"]]
    plots: dict[str, str] = {}
    if shown:
        plots["latency-tails"] = plot.tails(
            "latency-tails", "How many take longer than …",
            [(figure["plot"], figure["distribution"]) for figure in shown])
    for figure in shown:
        name = "latency-" + re.sub(r"[^a-z0-9]+", "-", figure["plot"].lower()).strip("-")
        plots[name] = plot.distribution(name, _capital(figure["plot"]), figure["distribution"],
                                        _marks(figure))
    return plots


def _marks(figure: dict[str, Any]) -> list[tuple[str, float, bool]]:
    scale = SCALES[figure["unit"]]
    marks = [(f"median {plot.duration(figure['median'] * scale)}", figure["median"] * scale, False),
             (f"p99 {plot.duration(figure['p99'] * scale)}", figure["p99"] * scale, False)]
    if figure["claim"] is not None:
        marks.append((f"article {figure['article']}", figure["claim"] * scale, True))
    return marks


def orders(document: dict[str, Any]) -> dict[str, str]:
    """The plots of the index against its order."""
    found = document["orders"]
    if not found:
        return {}
    plots = {}
    for question, (words, measure) in QUESTIONS.items():
        name = f"order-{question}"
        figures = [(str(order["order"]), order["figures"][question]) for order in found]
        plots[name] = plot.ladder(name, _capital(words), unit(measure), "order", [
            plot.Point(step, figure["median"], figure["p99"], figure["claim"])
            for step, figure in figures])
    for field, title, measure, factor in (
            ("bytes_per_key", "Index memory per key", "bytes", 1), ("depth", "Depth", "levels", 1),
            ("fill", "How full the nodes are", "%", 100)):
        name = {"bytes_per_key": "order-memory"}.get(field, f"order-{field}")
        plots[name] = plot.ladder(name, title, measure, "order", [
            plot.Point(str(order["order"]), order[field] * factor) for order in found])
    return plots


def charts(document: dict[str, Any]) -> dict[str, str]:
    """All plots of a report (`Report.as_dict()`, or its JSON read back)."""
    return {**latencies(document), **orders(document)}


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
