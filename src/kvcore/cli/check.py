# SPDX-License-Identifier: Apache-2.0
"""`kvcore check DIR`: opens a directory, reads every value, compares every checksum.

A directory whose damage keeps it from being opened is a problem found (exit code 1), since finding
that is what the command is for; one that is locked, missing or not kvcore's cannot be opened (3).
"""

from __future__ import annotations

import argparse
from typing import Any

import kvcore
from kvcore.cli.output import OK, PROBLEM, Output, add_json, opened


def add(commands: Any) -> None:
    """Adds the sub-command."""
    command = commands.add_parser(
        "check", help="read everything in a directory and verify it",
        description="Reads every value in DIR and compares every checksum.")
    command.add_argument("directory", metavar="DIR")
    add_json(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> int:
    """Prints problems, one a line; 1 if there are any."""
    keys = versions = revision = 0
    try:
        with opened(args.directory) as db:
            status = db.status()
            keys, versions, revision = status.keys, status.versions, status.revision
            with output.phase("check", versions) as step:
                problems = db.check(step.advance)
    except kvcore.CorruptError as error:
        problems = [str(error)]
    if output.json:
        output.document({"ok": not problems, "path": args.directory, "keys": keys,
                         "versions": versions, "revision": revision, "problems": problems})
    else:
        for problem in problems:
            print(problem)
        if not problems:
            print(f"{args.directory}: sound: {keys:,} keys, {versions:,} versions, "
                  f"revision {revision:,}")
    return PROBLEM if problems else OK
