# SPDX-License-Identifier: Apache-2.0
"""`kvcore status DIR`: revisions, sizes and counters of a directory."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from kvcore.cli.output import OK, Output, add_json, opened


def add(commands: Any) -> None:
    """Adds the sub-command."""
    command = commands.add_parser("status", help="revisions, sizes and counters of a directory",
                                  description="Opens DIR and prints what it says about itself.")
    command.add_argument("directory", metavar="DIR")
    add_json(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> int:
    """Prints the status."""
    with opened(args.directory) as db:
        status = asdict(db.status())
    if output.json:
        output.document(status)
    else:
        rows = [[name.replace("_", " "), _text(value)] for name, value in status.items()]
        output.table(args.directory, [("", "left"), ("", "right")], rows)
    return OK


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
