# SPDX-License-Identifier: Apache-2.0
"""The demo's report as one HTML page that needs nothing else: no network, no script.

    Report.as_dict() ─► page(): verdicts · latencies · orders · every figure · checks · phases ·
                                machine

The page is a pure function of the JSON, so it cannot say what `--json` does not.  Plots are inline
SVG (charts.py); colours follow the reader's system, printing is always light, tables scroll inside
themselves on a narrow screen, and every plot has its numbers in a table.

May not know: the store, the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from kvcore.demo import plot
from kvcore.demo.charts import latencies, orders, unit
from kvcore.demo.measure import QUESTIONS, number

STYLE = """
:root{color-scheme:light dark;--ink:#1b2430;--soft:#566272;--line:#d5dae1;--paper:#fff;
--band:#f4f6f9;--good:#156b3f;--bad:#b3261e;--link:#1f66c1}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e8edf3;--soft:#a7b3c1;--line:#3a4452;
--paper:#151b23;--band:#1d252f;--good:#57cc92;--bad:#ff8f86;--link:#78b0ff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1200px;padding:20px 16px 48px;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:.2em 0}h2{font-size:1.25rem;margin:2em 0 .4em}
p{max-width:46em;margin:.5em 0}.soft{color:var(--soft)}a{color:var(--link)}
.state{border-left:5px solid var(--good);background:var(--band);padding:10px 14px;margin:16px 0}
.state.bad{border-color:var(--bad)}.state p{margin:.2em 0}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:12px 0}
.wide{overflow-x:auto;margin:10px 0}
table{border-collapse:collapse;font-size:.875rem;line-height:1.35;min-width:100%}
caption{text-align:left;color:var(--soft);padding:4px 0 8px}
th,td{padding:5px 10px;border-bottom:1px solid var(--line);vertical-align:top;text-align:left}
thead th{border-bottom:2px solid var(--soft);vertical-align:bottom}thead .n{white-space:normal}
tbody th{font-weight:400;min-width:12em}th.n{min-width:0}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.better,.held{color:var(--good)}.worse,.failed{color:var(--bad);font-weight:600}
.unlike{color:var(--soft)}.whole,.better,.worse,.same{white-space:nowrap}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(330px,100%),1fr));gap:14px;
margin:14px 0}figure.tall{grid-row:span 2}
figure{margin:0;border:1px solid var(--line);border-radius:6px;overflow:hidden}
figure svg{display:block;width:100%;height:auto}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:10px 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
code{font:.875em ui-monospace,SFMono-Regular,Menlo,monospace;overflow-wrap:anywhere}
@media (max-width:520px){body{padding:12px 12px 32px}th,td{padding:5px 6px}tbody th{min-width:7.5em}
.better,.worse,.same{white-space:normal}
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:8px}}
@media print{body{max-width:none;padding:0;font-size:10pt}nav{display:none}
.wide{overflow:visible}table{font-size:8pt}th,td{padding:2px 5px}
.plots{grid-template-columns:repeat(3,1fr)}figure,tr,.state{break-inside:avoid}
h2{break-after:avoid}thead{display:table-header-group}}
"""

NOTES = """<p>What is in the column “the article” comes from a description of a Kubernetes control
plane with more than 1,000 nodes: API servers and three etcd members, over a network. What is
measured here runs inside one process on one machine, so a verdict compares what an operation
costs, not two clusters. It compares the 99th percentile where the article gives one, else the
median; less than 3 % apart counts as the same. Of fewer than 100 samples, the 99th percentile is
the largest.</p>
<p>The middle half lies between the 25th and the 75th percentile. Quantiles come from histograms
whose buckets are less than 1 % wide. Updates come at a fixed pace, and their latency counts from
the moment each was due, so that a stall also counts for those that wait behind it. Single figures
on a shared machine vary by 20 to 50 %.</p>"""

SETTING = {
    "command": "command", "started": "started", "seconds": "took, in seconds", "kvcore": "kvcore",
    "python": "Python", "numpy": "NumPy", "system": "system", "processor": "processor",
    "cpus": "CPUs", "memory_mib": "memory, MiB", "filesystem": "file system", "objects": "objects",
    "nodes": "nodes", "namespaces": "namespaces", "order": "order of the store's index",
    "sync": "sync", "seed": "seed", "manifest_files": "files of manifests",
    "manifests": "manifests",
}

Cell = tuple[str, str]       # text, CSS class


def page(document: dict[str, Any]) -> str:
    """The page of a report (`Report.as_dict()`, or its JSON read back)."""
    sections = [
        ("article", "Against the article", _article(document)),
        ("latency", "Latencies", _plots(latencies(document))),
        ("orders", "The index at four orders", _orders(document)),
        ("figures", "Every figure", _figures(document["figures"], "Everything that was measured, "
                                             "in the order in which it was")),
        ("checks", "Checks", _checks(document["checks"])),
        ("phases", "Where the time went", _phases(document["phases"])),
        ("machine", "Machine and settings", _machine(document)),
        ("notes", "How to read it", NOTES),
    ]
    shown = [(ident, title, body) for ident, title, body in sections if body]
    links = "".join(f'<a href="#{ident}">{title}</a>' for ident, title, _ in shown)
    body = "".join(f'<section id="{ident}"><h2>{title}</h2>{body}</section>\n'
                   for ident, title, body in shown)
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            '<link rel="icon" href="data:,"><title>kvcore demo</title>'
            f"<style>{STYLE}{plot.STYLE}</style></head>\n<body><main>{_head(document)}"
            f'<nav aria-label="Sections">{links}</nav>\n{body}</main></body></html>\n')


def _head(document: dict[str, Any]) -> str:
    setting = document["setting"]
    return ("<header><h1>The storage of a 1,000-node control plane</h1>"
            f'<p class="soft">kvcore {escape(str(setting.get("kvcore", "")))} on this machine: '
            f"{_whole(setting.get('objects'))} objects, {_whole(setting.get('nodes'))} nodes, "
            f"{_whole(setting.get('namespaces'))} namespaces, "
            f'<span class="whole">{escape(str(setting.get("started", "")))}</span>.</p></header>'
            + _state(document))


def _state(document: dict[str, Any]) -> str:
    held = sum(check["ok"] for check in document["checks"])
    lines = []
    if not document["complete"]:
        lines.append("<strong>This report is partial: the run was "
                     f"{escape(document['stopped'] or 'not finished')}.</strong>")
    lines.append(f"{held} of {len(document['checks'])} checks held.")
    judged = [figure["judged"] for figure in document["figures"] if figure["judged"]]
    if judged:
        lines.append(f"Of {len(judged)} figures beside the article's, "
                     f"{judged.count('better')} are better, {judged.count('same')} as said, "
                     f"{judged.count('worse')} worse, {judged.count('unlike')} not comparable.")
    bad = "" if document["ok"] else " bad"
    return (f'<div class="state{bad}" role="status">'
            + "".join(f"<p>{line}</p>" for line in lines) + "</div>")


def _whole(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _table(caption: str, columns: Sequence[Cell], rows: Sequence[Sequence[Cell]]) -> str:
    """A table that scrolls in itself; the first cell of a row is its header."""
    def cell(tag: str, scope: str, text: str, css: str) -> str:
        css = f' class="{css}"' if css else ""
        return f"<{tag}{scope}{css}>{escape(text)}</{tag}>"

    head = "".join(cell("th", ' scope="col"', *column) for column in columns)
    body = "".join(
        "<tr>" + cell("th", ' scope="row"', *row[0])
        + "".join(cell("td", "", *rest) for rest in row[1:]) + "</tr>\n" for row in rows)
    return (f'<div class="wide" role="region" tabindex="0" aria-label="{escape(caption)}">'
            f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table></div>")


def _article(document: dict[str, Any]) -> str:
    found = [figure for figure in document["figures"] if figure["judged"]]
    if not found:
        return ""
    rows = [[(figure["name"], ""), (figure["article"], "n"), (_judged(figure), "n"),
             (figure["verdict"], figure["judged"])] for figure in found]
    return _table("What the article says, and what was measured here",
                  [("figure", ""), ("the article", "n"), ("here", "n"), ("verdict", "")], rows)


def _judged(figure: dict[str, Any]) -> str:
    """The value that the verdict is about."""
    rare = figure["article"].startswith("p99")
    value = number(figure["p99" if rare else "median"])
    gap = "" if figure["unit"] in {"", "/s"} else " "
    return f"{'p99 ' if rare else ''}{value}{gap}{unit(figure['unit'])}"


def _figures(figures: Sequence[dict[str, Any]], caption: str) -> str:
    if not figures:
        return ""
    rows = [[(figure["name"], ""), (figure["article"], "n"), (number(figure["median"]), "n"),
             (number(figure["p99"]) if figure["samples"] > 1 else "", "n"), (middle(figure), "n"),
             (unit(figure["unit"]), ""), (f"{figure['samples']:,}", "n"),
             (figure["verdict"], figure["judged"])] for figure in figures]
    return _table(caption, [("figure", ""), ("the article", "n"), ("median", "n"), ("p99", "n"),
                            ("middle half", "n"), ("unit", ""), ("samples", "n"),
                            ("verdict", "")], rows)


def middle(figure: dict[str, Any]) -> str:
    """The middle half of a figure's samples, "" when there is only one."""
    if figure["low"] is None or figure["samples"] < 2:
        return ""
    return f"{number(figure['low'])} – {number(figure['high'])}"


def _plots(plots: dict[str, str]) -> str:
    if not plots:
        return ""
    figures = []
    for name, svg in plots.items():
        css = ' class="tall"' if name.endswith("-tails") else ""
        figures.append(f"<figure{css}>{svg}</figure>\n")
    return f'<div class="plots">{"".join(figures)}</div>'


def _orders(document: dict[str, Any]) -> str:
    found = document["orders"]
    if not found:
        return ""
    shape = [[(str(order["order"]), "n"), (str(order["depth"]), "n"),
              (f"{100 * order['fill']:.0f} %", "n"), (number(order["bytes_per_key"]), "n"),
              (number(order["build_seconds"]), "n"),
              (order["figures"]["everything"]["article"], "n")]
             + [(_pair(order["figures"][question]), "n") for question in QUESTIONS]
             for order in found]
    columns = [("order", "n"), ("depth", "n"), ("fill", "n"), ("bytes per key", "n"),
               ("build, s", "n"), ("range in the article", "n"),
               *((f"{words}, {unit(measure)}", "n") for words, measure in QUESTIONS.values())]
    keys = found[0]["keys"]
    return (_table(f"{keys:,} keys, the same at every order; median (p99). Inserts are averages "
                   "over 10,000 keys", columns, shape)
            + _plots(orders(document)))


def _pair(figure: dict[str, Any]) -> str:
    return f"{number(figure['median'])} ({number(figure['p99'])})"


def _checks(checks: Sequence[dict[str, Any]]) -> str:
    if not checks:
        return ""
    rows = [[(check["name"], ""),
             ("held", "held") if check["ok"] else (f"FAILED: {check['detail']}", "failed")]
            for check in checks]
    return _table("What was compared, and whether it held", [("check", ""), ("result", "")], rows)


def _phases(phases: Sequence[dict[str, Any]]) -> str:
    if not phases:
        return ""
    rows = [[(phase["title"], ""), (f"{phase['total']:,}", "n"), (f"{phase['seconds']:.2f}", "n"),
             (number(phase["memory"]), "n")] for phase in phases]
    return _table("Memory is the process's after the phase, without the mapped log",
                  [("phase", ""), ("steps", "n"), ("seconds", "n"), ("memory, MB", "n")], rows)


def _machine(document: dict[str, Any]) -> str:
    terms = []
    for key, title in SETTING.items():
        value = document["setting"].get(key)
        if value in (None, ""):
            continue
        words = number(value) if isinstance(value, (int, float)) and key != "seed" else str(value)
        text = f"<code>{escape(words)}</code>" if key == "command" else escape(words)
        terms.append(f"<dt>{title}</dt><dd>{text}</dd>")
    problems = "".join(f"<li>{escape(problem)}</li>" for problem in document["problems"])
    return (f"<dl>{''.join(terms)}</dl>"
            + (f"<p>Documents that could not be used:</p><ul>{problems}</ul>" if problems else ""))
