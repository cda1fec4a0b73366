# SPDX-License-Identifier: Apache-2.0
"""The demo's page, its plots and its histograms: whole, self-contained, and true to the JSON."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import kvcore.cli.demo
from kvcore.cli import main
from kvcore.demo import plot
from kvcore.demo.charts import charts
from kvcore.demo.histogram import STEPS, Histogram
from kvcore.demo.measure import (
    QUESTIONS,
    Claim,
    Order,
    Phase,
    Report,
    Samples,
    figure,
    number,
)
from kvcore.demo.plot import Point, standalone
from kvcore.demo.report import middle, page

SMALL = ["demo", "--objects", "400", "--seconds", "0.2"]
SVG = "{http://www.w3.org/2000/svg}"
VOID = {"meta", "link", "br", "hr", "img", "input"}

finite = st.floats(min_value=0, allow_infinity=False, allow_nan=False, allow_subnormal=False)
durations = st.one_of(st.integers(0, 10**12), finite)


# --- histograms -----------------------------------------------------------------------------------

def histogram(values: list[float]) -> Histogram:
    found = Histogram()
    for value in values:
        found.add(value)
    return found


def naive_quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered), max(1, math.ceil(share * len(ordered)))) - 1]


@given(st.lists(durations, min_size=1, max_size=60), st.floats(0, 1))
def test_quantiles_against_a_sorted_list(values: list[float], share: float) -> None:
    found, expected = histogram(values).quantile(share), naive_quantile(values, share)
    assert min(values) <= found <= max(values)
    if expected >= sys.float_info.min:       # subnormal floats have fewer bits than a bucket
        assert found == pytest.approx(expected, rel=1 / (2 * STEPS), abs=0)


@given(st.lists(st.lists(durations, max_size=30), max_size=5))
def test_merged_is_as_if_added_to_one(parts: list[list[float]]) -> None:
    merged = Histogram()
    for part in parts:
        merged.merge(histogram(part))
    together = histogram([value for part in parts for value in part])
    assert merged.buckets() == together.buckets()
    assert (merged.count, merged.least, merged.most) == (
        together.count, together.least, together.most)
    assert merged.total == pytest.approx(together.total)


@given(st.lists(durations, max_size=60))
def test_buckets_hold_their_values(values: list[float]) -> None:
    found = histogram(values)
    for buckets in (found.buckets(), [*zip(*(found.as_dict()[name] for name in
                                            ("from", "to", "counts")), strict=True)]):
        assert sum(count for _, _, count in buckets) == len(values) == found.count
        starts = [low for low, _, _ in buckets]
        assert starts == sorted(set(starts))
        expected = [0] * len(buckets)
        for value in values:
            at = bisect_right(starts, value) - 1
            expected[at] += 1
            low, high, _ = buckets[at]
            assert low <= value and (value < high or value == high == 0 or high > 1.7e308)
        assert [count for _, _, count in buckets] == expected


@pytest.mark.parametrize("value", [-1, -1e-300, math.inf, math.nan])
def test_what_a_histogram_does_not_take(value: float) -> None:
    found = Histogram()
    with pytest.raises(ValueError):
        found.add(value)
    assert found.count == 0 and found.buckets() == []
    with pytest.raises(ValueError):
        found.quantile(0.5)


# --- plots ----------------------------------------------------------------------------------------

def well_formed(svg: str) -> ElementTree.Element:
    """Parses a plot; titles, descriptions, ids and numbers are as they must be."""
    root = ElementTree.fromstring(svg)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert root.get("role") == "img" and (root.get("aria-labelledby") or "").split() == ids
    for name in ("title", "desc"):
        element = root.find(SVG + name)
        assert element is not None and element.text
    assert not re.search(r'="[^"]*\b(nan|inf)\b', svg)
    width, height = map(float, (root.get("viewBox") or "").split()[2:])
    for text in root.iter(SVG + "text"):
        size = len(text.text or "") * plot.CHARACTER
        start = float(text.get("x") or 0) - size * {"middle": 0.5, "end": 1.0}.get(
            text.get("text-anchor") or "", 0.0)
        assert -8 <= start and start + size <= width + 8, text.text
        assert 0 < float(text.get("y") or 0) <= height
    for mark in root.iter(SVG + "rect"):
        x, y, wide, high = (float(mark.get(name) or 0) for name in ("x", "y", "width", "height"))
        assert -0.1 <= x <= x + wide <= width + 0.1 and 0 <= y <= y + high <= height + 0.1
    for path in root.iter(SVG + "path"):
        points = [float(text) for text in re.findall(r"[-\d.]+", path.get("d") or "")]
        assert all(0 <= x <= width for x in points[::2])
        assert all(0 <= y <= height for y in points[1::2])
    return root


@given(st.lists(durations, max_size=20), st.lists(st.tuples(finite, st.booleans()), max_size=3))
@example([], [])
@example([0, 0], [])
@example([5e-324, 1.7e308], [(1.7e308, True), (0.0, False), (3.0, False)])
@example([1000], [(1000, False), (1000, False), (1000, True)])
def test_distributions_of_anything(values: list[float], marks: list[tuple[float, bool]]) -> None:
    named = [(f"p{at} {plot.duration(value)}"[:30], value, claimed)
             for at, (value, claimed) in enumerate(marks)]
    root = well_formed(plot.distribution("d", "Of <what> & why", histogram(values).as_dict(),
                                         named))
    bars = [rect for rect in root.iter(SVG + "rect") if rect.get("class") == "bar"]
    assert bool(bars) == any(values)
    assert any(text.text == plot.NONE for text in root.iter(SVG + "text")) != any(values)
    if bars:
        shown = {text.text for text in root.iter(SVG + "text")}
        assert {words for words, _, _ in named} <= shown


@given(st.lists(st.lists(durations, max_size=20), max_size=8))
def test_tails_of_anything(many: list[list[float]]) -> None:
    root = well_formed(plot.tails("t", "Tails", [
        (f"number {at}", histogram(values).as_dict()) for at, values in enumerate(many)]))
    texts = {text.text for text in root.iter(SVG + "text")}
    assert {f"number {at}" for at, values in enumerate(many) if any(values)} <= texts


def test_tails_fall_where_the_samples_are() -> None:
    samples = histogram([1000] * 900 + [100_000] * 99 + [10_000_000])
    root = well_formed(plot.tails("t", "Tails", [("one", samples.as_dict())]))
    line = next(path for path in root.iter(SVG + "path") if path.get("class") == "l0")
    points = [tuple(map(float, pair.split())) for pair in (line.get("d") or "")[1:].split("L")]
    top, bottom = plot.TOP, plot.TALL - plot.BOTTOM - 16
    down = [round((y - top) / (bottom - top) * 3, 2) for _, y in points]   # in powers of ten
    assert down == [0, 0, 1, 1, 3, 3, 3]


@given(st.lists(st.builds(Point, st.sampled_from(["16", "32"]), finite,
                          st.none() | finite, st.none() | finite), max_size=6))
@example([Point("16", 0.0)])
@example([Point("16", 1.7e308, 5e-324, 1.0)])
def test_ladders_of_anything(points: list[Point]) -> None:
    root = well_formed(plot.ladder("l", "A ladder", "ms", "order", points))
    assert len([*root.iter(SVG + "circle")]) == len(points)


@given(finite)
@example(5e-324)
def test_steps_reach_the_highest(high: float) -> None:
    found = plot.steps(high)
    assert 2 <= len(found) <= 7 and found[0] == 0 and found == sorted(set(found))
    assert found[-1] >= min(high, 1e300) * (1 - 1e-6)


@pytest.mark.parametrize(("value", "words"), [
    (0.5, "0.5 ns"), (999, "999 ns"), (999.9, "1 µs"), (1500, "1.5 µs"), (12e6, "12 ms"),
    (140e6, "140 ms"), (3e9, "3 s"), (3.6e12, "1 h"),
])
def test_durations_in_words(value: float, words: str) -> None:
    assert plot.duration(value) == words


@given(st.floats(0, 1e300))
@example(999_999.7)
def test_brief_numbers_are_short_and_true(value: float) -> None:
    words = plot.brief(value)
    assert len(words) <= 8
    assert float(words.replace(",", "")) == pytest.approx(value, rel=0.06)


# --- the page -------------------------------------------------------------------------------------

def made_report() -> Report:
    """A report with everything in it, and words that must be escaped."""
    report = Report(setting={"objects": 1200, "nodes": 10, "kvcore": "0.1", "seed": 1234,
                             "command": "kvcore demo --report '<a & b>'", "memory_mib": 24105.6})
    samples = Samples()
    for value in range(1, 2001):
        samples.add(value * 1000)
    report.time("get <fast> & true", "us", samples, Claim("p99 12 ms", 12_000, of="p99"),
                plot="get <fast>")
    report.time("put", "ms", samples, Claim("140 ms", 0.5), plot="put")
    report.value("depth", "levels", 5, Claim("~4", 4, unlike="few keys"))
    report.rate("rate", "/s", samples, Claim("12,000/s", 12_000, "more"))
    report.check("a check that holds", True)
    report.equal("a check that <fails>", 1, 2)
    report.phases.append(Phase("load", 1200, 1.25, None))
    report.problems.append("a.yaml:1: <bad>")
    for order in (16, 32):
        report.orders.append(Order(order, 1200, 3, 0.7, 76.25, 1.5, {
            question: figure(f"{words}, order {order}", unit, samples,
                             Claim("68 ms", 68) if order == 32 else None)
            for question, (words, unit) in QUESTIONS.items()}))
    report.complete = True
    return report


class Reader(HTMLParser):
    """What a page has: open and closed tags in balance, references, rows of tables, words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self.headers_without_scope = 0
        self._cell: list[str] | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs)
        self.references += [value or "" for name, value in attrs if name in {
            "src", "href", "xlink:href", "srcset", "action", "data", "poster"}]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.headers_without_scope += tag == "th" and "scope" not in found
            self._cell = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag
        if tag in {"td", "th"} and self._cell is not None:
            self.tables[-1][-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._cell is not None:
            self._cell.append(data)


def read_page(text: str) -> Reader:
    """A page that is well-formed and refers to nothing outside itself."""
    reader = Reader(text)
    assert text.startswith("<!DOCTYPE html>") and reader.headers_without_scope == 0
    assert all(target == "data:," or target[0] == "#" and target[1:] in reader.ids
               for target in reader.references)
    assert len(reader.ids) == len(set(reader.ids))
    outside = text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//\w|@import|url\(|<script|<iframe|<object|<img", outside)
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        well_formed(svg)
    return reader


def agrees(document: dict[str, Any], reader: Reader) -> None:
    """Every figure, order, check and phase of the JSON is a row of the page, with its numbers."""
    rows = {tuple(row) for table in reader.tables for row in table}
    micro = {"us": "µs"}
    for found in document["figures"]:
        many = found["samples"] > 1
        assert (found["name"], found["article"], number(found["median"]),
                number(found["p99"]) if many else "", middle(found),
                micro.get(found["unit"], found["unit"]), f"{found['samples']:,}",
                found["verdict"]) in rows
    verdicts = {(row[0], row[1], row[3]) for row in rows if len(row) == 4}
    for found in document["figures"]:
        if found["judged"]:
            assert (found["name"], found["article"], found["verdict"]) in verdicts
    for order in document["orders"]:
        assert (str(order["order"]), str(order["depth"]), f"{100 * order['fill']:.0f} %",
                number(order["bytes_per_key"]), number(order["build_seconds"]),
                order["figures"]["everything"]["article"],
                *(f"{number(found['median'])} ({number(found['p99'])})"
                  for found in order["figures"].values())) in rows
    for check in document["checks"]:
        assert (check["name"], "held" if check["ok"] else f"FAILED: {check['detail']}") in rows
    for phase in document["phases"]:
        assert (phase["title"], f"{phase['total']:,}", f"{phase['seconds']:.2f}",
                number(phase["memory"])) in rows


def test_the_page_of_a_report() -> None:
    document = made_report().as_dict()
    text = page(document)
    reader = read_page(text)
    agrees(document, reader)
    words = " ".join(reader.words)
    assert "1 of 2 checks held." in words and "partial" not in words
    assert "kvcore demo --report '<a & b>'" in words and "a.yaml:1: <bad>" in words
    assert ("Of 4 figures beside the article's, 2 are better, 0 as said, 1 worse, "
            "1 not comparable.") in words
    assert "1234" in words and "24,106" in words
    assert text.count("<svg") == len(charts(document)) == 3 + len(QUESTIONS) + 3
    assert page(json.loads(json.dumps(document))) == text


def test_the_page_of_nothing() -> None:
    report = Report(stopped="interrupted in 'get', at 1 of 2")
    reader = read_page(page(report.as_dict()))
    assert "This report is partial: the run was interrupted in 'get', at 1 of 2." in reader.words
    assert charts(report.as_dict()) == {}


def test_plots_as_files() -> None:
    for name, svg in charts(made_report().as_dict()).items():
        text = standalone(svg)
        assert re.fullmatch(r"[a-z0-9-]+", name)
        root = ElementTree.fromstring(text.encode())
        style = root.find(SVG + "style")
        assert style is not None and "prefers-color-scheme" in (style.text or "")
        assert not re.search(r"https?:|url\(|@import", text.replace(SVG[1:-1], ""))


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two colours #rrggbb or #rgb."""
    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[at:at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4
                            for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_colours_can_be_told_from_the_paper() -> None:
    text = page(made_report().as_dict())
    palettes = [dict(re.findall(r"--(\w+):(#\w+)", block))
                for block in re.findall(r"(?::root|\.plot)\{[^}]*--paper[^}]*\}", text)]
    assert len(palettes) == 4                # page and plots, light and dark
    for palette in palettes:
        for name, colour in palette.items():
            if name not in {"paper", "band", "line"}:
                assert contrast(colour, palette["paper"]) >= 4.5, (name, colour)
                assert "band" not in palette or contrast(colour, palette["band"]) >= 4.5


# --- the command line -----------------------------------------------------------------------------

def test_the_demo_writes_page_and_plots(
        capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, plots = tmp_path / "r.html", tmp_path / "new" / "plots"
    file.write_text("an older one")
    assert main([*SMALL, "--json", "--report", str(file), "--plots", str(plots)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert file.read_text() == page(document)
    agrees(document, read_page(file.read_text()))
    assert {path.stem: path.read_text() for path in plots.iterdir()} == {
        name: standalone(svg) for name, svg in charts(document).items()}
    titles = {found["plot"] for found in document["figures"]} - {""}
    assert titles == {"create, one caller", "get", "page of 500", "values of a page of 500",
                      "update, paced at 12,000/s", "delivery to 1,000 watchers",
                      "pod created, in process", "pod created, over HTTPS",
                      "pod created to bound"}
    assert f"--report {file}" in document["setting"]["command"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "r.html"]


@pytest.mark.parametrize(("option", "target"), [
    ("--report", "gone/r.html"), ("--report", "folder"), ("--report", "file/r.html"),
    ("--plots", "file"), ("--plots", "file/plots"),
])
def test_what_cannot_be_written_is_said_first(
        capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        option: str, target: str) -> None:
    monkeypatch.setattr(kvcore.cli.demo, "run_demo", None)        # would be called
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    assert main([*SMALL, option, str(tmp_path / target)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith(f"kvcore demo: {option} {tmp_path / target} ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_report_to_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvcore.cli.demo, "run_demo", fills(lambda: None))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        try:
            assert main([*SMALL, "--report", str(pipe)]) == 0
            assert pipe.is_fifo()            # written to, not replaced
            written = reader.communicate(timeout=60)[0]
        finally:
            reader.kill()
    read_page(written)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def fills(end: Callable[[], None]) -> Callable[..., None]:
    """A run that finds everything of `made_report`, less its failing check, and ends like this."""
    def run(settings: object, ui: object, report: Report) -> None:
        made = made_report()
        report.setting = {**made.setting, "manifests": 1, "namespaces": 5, "python": "3",
                          "system": "s", "cpus": 2, "filesystem": ""}
        report.figures, report.checks = made.figures, made.checks[:1]
        report.stopped = "in 'get', at 5 of 9"
        end()
        report.complete = True
    return run


def interrupt() -> None:
    raise KeyboardInterrupt


def full() -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("end", "code", "reason"), [
    (interrupt, 130, "interrupted in 'get', at 5 of 9"),
    (full, 3, "ended by OSError: [Errno 28] No space left on device in 'get', at 5 of 9"),
])
@pytest.mark.parametrize("as_json", [False, True])
def test_what_was_found_before_the_end_is_shown(
        capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        end: Callable[[], None], code: int, reason: str, as_json: bool) -> None:
    monkeypatch.setattr(kvcore.cli.demo, "run_demo", fills(end))
    file = tmp_path / "r.html"
    assert main([*SMALL, "--report", str(file), *["--json"] * as_json]) == code
    out = capsys.readouterr().out
    if as_json:
        document = json.loads(out)
        assert document["stopped"] == reason
        assert document["ok"] is document["complete"] is False
    else:
        assert out.startswith("PARTIAL: the run was ") and "get <fast>" in out
        assert f"PARTIAL: the run was {reason}" in out.splitlines()[-1]
    assert f"This report is partial: the run was {reason}." in read_page(file.read_text()).words


def test_an_early_end_leaves_no_page(tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    assert main([*SMALL, "--manifests", str(tmp_path / "gone"), "--report", str(file)]) == 3
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_writes_the_report(tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    process = subprocess.Popen(
        [sys.executable, "-m", "kvcore", "demo", "--objects", "500000", "--data-dir",
         str(tmp_path / "s"), "--report", str(file)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert process.stderr is not None
    line = process.stderr.readline()
    while line and not line.startswith("create, one at a time"):
        line = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert out.startswith("PARTIAL: the run was interrupted ")
    reader = read_page(file.read_text())
    assert any(re.search("partial: the run was interrupted (in|after) 'create, ", words)
               for words in reader.words)
    assert any(row[0] == "create, one caller, durable" for table in reader.tables for row in table)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html", "s"]
