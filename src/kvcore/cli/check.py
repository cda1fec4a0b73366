# SPDX-License-Identifier: Apache-2.0
"""`kvcore check DIR`: opens a directory, reads every value, compares every checksum.

    sound ─► 0      unsound ─► what is wrong, what --repair would save, what it could not ─► 1
    --repair: the same, and all that can be saved goes into a new directory; DIR is only read

A directory whose damage keeps it from being opened is a problem found (exit code 1), since finding
that is what the command is for; one that is locked, missing or not kvcore's cannot be opened (3).
With --repair, 0 says that nothing was lost, also of a damaged DIR, and 1 that something was.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import kvcore
from kvcore.cli.backup import must_be_new
from kvcore.cli.dump import printable
from kvcore.cli.output import OK, PROBLEM, Output, UsageError, add_json, is_store, opened
from kvcore.repair import RepairResult, repair

SHOWN = 20                   # lost values told one by one; all with --json


def add(commands: Any) -> None:
    """Adds the sub-command."""
    command = commands.add_parser(
        "check", help="read everything in a directory and verify it",
        description="Reads every value in DIR and compares every checksum. With --repair, saves "
                    "what can be saved of a damaged DIR into a new directory, and lists what "
                    "cannot; DIR itself is not changed.")
    command.add_argument("directory", metavar="DIR")
    command.add_argument("--repair", action="store_true",
                         help="write what can be saved into a new directory")
    command.add_argument("--into", metavar="NEWDIR",
                         help="with --repair: its name (default: DIR.repaired)")
    add_json(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> int:
    """Prints problems, one a line; 1 if there are any."""
    if args.into is not None and not args.repair:
        raise UsageError("--into goes with --repair")
    return _repair(args, output) if args.repair else _check(args, output)


def _check(args: argparse.Namespace, output: Output) -> int:
    keys = versions = revision = 0
    try:
        with opened(args.directory) as db:
            status = db.status()
            keys, versions, revision = status.keys, status.versions, status.revision
            with output.phase("check", versions) as step:
                problems = db.check(step.advance)
    except kvcore.CorruptError as error:
        problems = [str(error)]
    saved = repair(args.directory) if problems else None
    if output.json:
        document = {"ok": not problems, "path": args.directory, "keys": keys,
                    "versions": versions, "revision": revision, "problems": problems}
        if saved is not None:
            document["repair"] = as_json(saved)
        output.document(document)
    else:
        for problem in problems:
            print(problem)
        if saved is not None:
            print(f"kvcore check --repair {args.directory} would save {_summary(saved)}")
            _print_lost(saved)
        if not problems:
            print(f"{args.directory}: sound: {keys:,} keys, {versions:,} versions, "
                  f"revision {revision:,}")
    return PROBLEM if problems else OK


def _repair(args: argparse.Namespace, output: Output) -> int:
    is_store(args.directory, damaged=True)
    into = args.into or os.path.abspath(args.directory) + ".repaired"
    must_be_new(into)
    with output.growing("repair") as step:
        saved = repair(args.directory, into, progress=step.advance)
    if output.json:
        output.document({"ok": not lost_anything(saved), **as_json(saved)})
    else:
        for problem in saved.problems:
            print(problem)
        print(f"{saved.path}: saved {_summary(saved)}")
        _print_lost(saved)
    return PROBLEM if lost_anything(saved) else OK


def lost_anything(saved: RepairResult) -> bool:
    """Whether the list of losses has an entry."""
    return bool(saved.lost_revisions or saved.lost_values)


def as_json(saved: RepairResult) -> dict[str, Any]:
    """A repair's result, keys as `kvcore dump` writes them."""
    return {
        "path": saved.path, "revision": saved.revision, "keys": saved.keys,
        "versions": saved.versions, "problems": saved.problems,
        "lost_revisions": [{"first": lost.first, "last": lost.last, "why": lost.why}
                           for lost in saved.lost_revisions],
        "lost_values": [{"key": printable(lost.key), "mod_revision": lost.mod_revision,
                         "shows": lost.shows} for lost in saved.lost_values]}


def _summary(saved: RepairResult) -> str:
    return f"{saved.keys:,} keys, {saved.versions:,} versions, revision {saved.revision:,}"


def _print_lost(saved: RepairResult) -> None:
    if not lost_anything(saved):
        print("nothing is lost")
    for lost in saved.lost_revisions:
        if lost.first == lost.last:
            print(f"lost: revision {lost.first:,} ({lost.why})")
        elif lost.first < lost.last:
            print(f"lost: revisions {lost.first:,} to {lost.last:,} ({lost.why})")
        else:
            print(f"lost: nothing of a key, behind revision {lost.last:,} ({lost.why})")
    for value in saved.lost_values[:SHOWN]:
        now = f"shows revision {value.shows:,} now" if value.shows else "is gone"
        print(f"lost: the value of {printable(value.key)} at revision {value.mod_revision:,}; "
              f"the key {now}")
    if len(saved.lost_values) > SHOWN:
        print(f"lost: {len(saved.lost_values) - SHOWN:,} more values (--json lists them)")
