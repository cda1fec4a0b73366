# SPDX-License-Identifier: Apache-2.0
"""`kvcore demo`: the storage of a 1,000-node control plane, measured and checked here."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from kvcore.cli.output import OK, PROBLEM, Output, UsageError, add_json
from kvcore.demo import Figure, Report, Settings
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
    add_json(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> int:
    """Runs the demo and prints its table; 1 if a check failed."""
    report = run_demo(_settings(args), output)
    if output.json:
        output.document(report.as_dict())
    else:
        _print(report, output)
    return OK if report.ok else PROBLEM


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
                    index_keys=args.index_keys)


def _print(report: Report, output: Output) -> None:
    for problem in report.problems[:SHOWN_PROBLEMS]:
        print(f"manifest not used: {problem}", file=sys.stderr)
    setting = report.setting
    title = (f"{setting['objects']:,} objects from {setting['manifests']:,} manifests, "
             f"{setting['nodes']:,} nodes, {setting['namespaces']:,} namespaces; kvcore "
             f"{setting['kvcore']}, Python {setting['python']}, {setting['system']}, "
             f"{setting['cpus']} CPUs, {setting['filesystem'] or 'unknown file system'}")
    columns = [("figure", "left"), ("the article", "right"), ("median", "right"), ("p99", "right"),
               ("middle half", "right"), ("unit", "left")]
    output.table(title, columns, [_row(figure) for figure in report.figures])
    for check in report.checks:
        if not check.ok:
            print(f"CHECK FAILED: {check.name}: {check.detail}")
    failed = sum(not check.ok for check in report.checks)
    problems = len(report.problems)
    print(f"{len(report.checks) - failed} of {len(report.checks)} checks held; "
          f"{problems} {'document' if problems == 1 else 'documents'} could not be used.")


def _row(figure: Figure) -> list[str]:
    spread = "" if figure.low is None or figure.samples < 2 else (
        f"{number(figure.low)} - {number(figure.high)}")
    p99 = "" if figure.samples < 2 else number(figure.p99)
    return [figure.name, figure.article, number(figure.median), p99, spread, figure.unit]


def number(value: float | None) -> str:
    """Three significant digits below a thousand, whole numbers with separators above."""
    if value is None:
        return ""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
