# SPDX-License-Identifier: Apache-2.0
"""`kvcore demo`: the storage of a 1,000-node control plane, measured and checked here.

    arguments ─► files proven writable ─► demo.run ─► Report ─► table or JSON, page, plots

Ctrl-C, SIGTERM or an error on the way publishes what there is, said to be partial.

May not know: how anything is measured.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from typing import Any, TextIO

from kvcore.cli.output import OK, PROBLEM, Output, UsageError, add_json
from kvcore.demo import Figure, Report, Settings
from kvcore.demo.charts import charts
from kvcore.demo.measure import QUESTIONS, number
from kvcore.demo.plot import standalone
from kvcore.demo.report import page
from kvcore.demo.run import MIN_OBJECTS
from kvcore.demo.run import run as run_demo

SHOWN_PROBLEMS = 20


def add(commands: Any) -> None:
    """Adds the sub-command."""
    default = Settings()
    command = commands.add_parser(
        "demo", help="run the storage of a 1,000-node control plane and measure it",
        description="Creates, reads, updates and compacts the objects of a 1,000-node control "
                    "plane, kills a writer, checks what it was promised, and prints one table.")
    command.add_argument("--manifests", action="append", default=[], metavar="PATH",
                         help="Kubernetes manifests, a file or a directory; may be repeated "
                              "(default: the project's examples)")
    command.add_argument("--objects", type=int, default=default.objects, metavar="N",
                         help=f"how many objects (default {default.objects:,})")
    command.add_argument("--data-dir", metavar="DIR",
                         help="an empty or new directory, kept afterwards (default: temporary)")
    command.add_argument("--seconds", type=float, default=default.seconds, metavar="S",
                         help=f"length of each of both update runs (default {default.seconds:g})")
    command.add_argument("--seed", type=int, default=default.seed, metavar="N",
                         help=f"seed of names and choices (default {default.seed})")
    command.add_argument("--order", type=int, default=default.order, metavar="N",
                         help=f"order of the store's index (default {default.order})")
    command.add_argument("--index-keys", type=int, metavar="N",
                         help="keys of the comparison of orders (default 1,000,000; as many as "
                              "objects when those are fewer than 100,000)")
    command.add_argument("--report", metavar="FILE",
                         help="write everything into one HTML page, also when interrupted")
    command.add_argument("--plots", metavar="DIR",
                         help="write the page's plots into this directory, as SVG files")
    add_json(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> int:
    """Runs the demo and prints its table; 1 if a check failed.

    Whatever ends it early, what was measured until then is printed and written, said to be partial.
    """
    settings = _settings(args)
    report = Report()
    with _Page(args.report) as file, _Plots(args.plots) as plots:
        try:
            run_demo(settings, output, report)
        except BaseException as error:
            report.stopped = " ".join(f"{_reason(error)} {report.stopped}".split())
            if report.figures:
                _publish(report, output, file, plots)
            raise
        _publish(report, output, file, plots)
    return OK if report.ok else PROBLEM


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, Exception):
        return f"ended by {type(error).__name__}: {error}"
    return type(error).__name__.lower()


def _publish(report: Report, output: Output, file: _Page, plots: _Plots) -> None:
    document = report.as_dict()
    file.write(document)
    plots.write(document)
    if output.json:
        output.document(document)
    else:
        _print(report, output)
        sys.stdout.flush()


class _Page:
    """The file of --report: proven writable before anything is measured, then replaced whole."""

    def __init__(self, path: str | None) -> None:
        self._path = self._part = None if path is None else os.path.realpath(path)
        self._file: TextIO | None = None
        if path is None or self._path is None:
            return
        if os.path.isdir(self._path):
            raise UsageError(f"--report {path} is a directory")
        if os.path.isfile(self._path) or not os.path.exists(self._path):
            folder, name = os.path.split(self._path)
            self._part = os.path.join(folder, f".{name}.{os.getpid()}.part")
        try:
            self._file = open(self._part or "", "w", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--report {path} cannot be written: {error.strerror}") from error

    def __enter__(self) -> _Page:
        return self

    def write(self, document: dict[str, Any]) -> None:
        """Writes the page and puts it in its place."""
        if self._file is None or self._path is None or self._part is None:
            return
        self._file.write(page(document))
        self._file.close()
        self._file = None
        if self._part != self._path:
            os.replace(self._part, self._path)

    def __exit__(self, *error: object) -> None:
        if self._file is None or self._part is None:
            return
        self._file.close()
        if self._part != self._path:
            os.unlink(self._part)


class _Plots:
    """The directory of --plots, made and proven writable first."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        if path is None:
            return
        try:
            os.makedirs(path, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                return
        except OSError as error:
            raise UsageError(f"--plots {path} cannot be written: {error.strerror}") from error

    def __enter__(self) -> _Plots:
        return self

    def write(self, document: dict[str, Any]) -> None:
        """Writes every plot as a file of its own."""
        if self._path is None:
            return
        for name, svg in charts(document).items():
            with open(os.path.join(self._path, f"{name}.svg"), "w", encoding="utf-8") as file:
                file.write(standalone(svg))

    def __exit__(self, *error: object) -> None:
        """What is written stays."""


def _command(args: argparse.Namespace) -> str:
    """The command line, without what is at its default anyway."""
    words = ["kvcore", "demo"]
    default = Settings()
    for path in args.manifests:
        words += ["--manifests", path]
    for name in ("objects", "data_dir", "seconds", "seed", "order", "index_keys", "report",
                 "plots"):
        value = getattr(args, name)
        if value != getattr(default, name, None):
            words += ["--" + name.replace("_", "-"), str(value)]
    return shlex.join(words + ["--json"] * args.json)


def _settings(args: argparse.Namespace) -> Settings:
    if args.objects < MIN_OBJECTS:
        raise UsageError(f"--objects must be at least {MIN_OBJECTS}, got {args.objects}")
    if args.order < 3 or args.order > 1024:
        raise UsageError(f"--order must be between 3 and 1024, got {args.order}")
    if not 0 < args.seconds <= 86400:
        raise UsageError("--seconds must be between 0 and 86400")
    if args.index_keys is not None and args.index_keys < 1:
        raise UsageError("--index-keys must be at least 1")
    if args.data_dir is not None and os.path.exists(args.data_dir):
        if not os.path.isdir(args.data_dir):
            raise UsageError(f"--data-dir {args.data_dir} is not a directory")
        if os.listdir(args.data_dir):
            raise UsageError(f"--data-dir {args.data_dir} is not empty")
    return Settings(objects=args.objects, manifests=tuple(args.manifests), data_dir=args.data_dir,
                    seconds=args.seconds, seed=args.seed, order=args.order,
                    index_keys=args.index_keys, command=_command(args))


def _print(report: Report, output: Output) -> None:
    for problem in report.problems[:SHOWN_PROBLEMS]:
        print(f"manifest not used: {problem}", file=sys.stderr)
    setting = report.setting
    title = (f"{setting['objects']:,} objects from {setting['manifests']:,} manifests, "
             f"{setting['nodes']:,} nodes, {setting['namespaces']:,} namespaces; kvcore "
             f"{setting['kvcore']}, {setting['python']}, {setting['system']}, "
             f"{setting['cpus']} CPUs, {setting['filesystem'] or 'unknown file system'}")
    if not report.complete:
        title = f"PARTIAL: the run was {report.stopped}\n{title}"
    columns = [("figure", "left"), ("the article", "right"), ("median", "right"), ("p99", "right"),
               ("middle half", "right"), ("unit", "left"), ("verdict", "left")]
    output.table(title, columns, [_row(figure) for figure in report.figures])
    if report.orders:
        _print_orders(report, output)
    for check in report.checks:
        if not check.ok:
            print(f"CHECK FAILED: {check.name}: {check.detail}")
    failed = sum(not check.ok for check in report.checks)
    problems = len(report.problems)
    print(f"{len(report.checks) - failed} of {len(report.checks)} checks held; "
          f"{problems} {'document' if problems == 1 else 'documents'} could not be used.")
    if not report.complete:
        print(f"PARTIAL: the run was {report.stopped}; what follows it was not measured.")


def _print_orders(report: Report, output: Output) -> None:
    found = report.orders
    rows = [["depth", *(str(order.depth) for order in found)],
            ["fill", *(f"{100 * order.fill:.0f} %" for order in found)],
            ["bytes per key", *(number(order.bytes_per_key) for order in found)],
            ["build, s", *(number(order.build_seconds) for order in found)]]
    rows += [[f"{words}, {unit}", *(_pair(order.figures[question]) for order in found)]
             for question, (words, unit) in QUESTIONS.items()]
    rows += [["the article's range", *(order.figures["everything"].article for order in found)]]
    columns = [("order", "left"), *((str(order.order), "right") for order in found)]
    output.table(f"The index alone, {found[0].keys:,} keys: median (p99)", columns, rows)


def _pair(figure: Figure) -> str:
    return f"{number(figure.median)} ({number(figure.p99)})"


def _row(figure: Figure) -> list[str]:
    spread = "" if figure.low is None or figure.samples < 2 else (
        f"{number(figure.low)} - {number(figure.high)}")
    p99 = "" if figure.samples < 2 else number(figure.p99)
    return [figure.name, figure.article, number(figure.median), p99, spread, figure.unit,
            figure.verdict.partition(":")[0]]
