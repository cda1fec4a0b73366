# SPDX-License-Identifier: Apache-2.0
"""`kvcore compact DIR REVISION` or `--keep N`: forgets versions that only older revisions show.

With --keep the revision is the newest minus N; when that is compacted already, nothing is done and
nothing is wrong.  A checkpoint behind it makes the next open load the compacted form.
"""

from __future__ import annotations

import argparse
from typing import Any

import kvcore
from kvcore.cli.output import OK, Output, UsageError, add_json, opened


def add(commands: Any) -> None:
    """Adds the sub-command."""
    command = commands.add_parser(
        "compact", help="forget old versions",
        description="Forgets what only revisions before REVISION show; it stays readable itself.")
    command.add_argument("directory", metavar="DIR")
    command.add_argument("revision", metavar="REVISION", type=int, nargs="?",
                         help="the oldest revision to keep")
    command.add_argument("--keep", type=int, metavar="N", help="keep the last N revisions before "
                                                               "the newest, instead of REVISION")
    add_json(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> int:
    """Compacts and says how many versions are left."""
    if (args.revision is None) == (args.keep is None):
        raise UsageError("give either REVISION or --keep")
    if args.keep is not None and args.keep < 0:
        raise UsageError("--keep cannot be negative")
    if args.revision is not None and args.revision < 1:
        raise UsageError("REVISION must be at least 1")
    with opened(args.directory) as db:
        before = db.status()
        done = _compact(db, args.revision, args.keep, before, output)
        after = db.status()
    if output.json:
        output.document({"path": args.directory, "revision": after.revision,
                         "compact_revision": after.compact_revision, "compacted": done,
                         "versions_before": before.versions, "versions": after.versions})
    elif done:
        print(f"{args.directory}: compacted at revision {after.compact_revision:,} of "
              f"{after.revision:,}: {before.versions:,} versions, now {after.versions:,}")
    else:
        print(f"{args.directory}: nothing to do: compacted at revision "
              f"{after.compact_revision:,} of {after.revision:,} already")
    return OK


def _compact(db: kvcore.Store, revision: int | None, keep: int | None, before: kvcore.Status,
             output: Output) -> bool:
    if keep is not None:
        revision = before.revision - keep
        if revision <= before.compact_revision:
            return False
    assert revision is not None
    with output.phase("compact", before.versions):
        db.compact(revision, physical=True)
        db.checkpoint()
    return True
