# SPDX-License-Identifier: Apache-2.0
"""`kvcore backup DIR TARGET` and `kvcore restore BACKUP DIR`.

    backup:  DIR (not open elsewhere) ─► TARGET: whole, or not there
    restore: BACKUP, every checksum right? ─► DIR: whole, opened once, or not there

A DIR that another process has open is backed up by that process: Store.backup.
May not know: what is in a backup (kvcore.backup has it).
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from typing import Any

import kvcore
from kvcore.cli.output import OK, Output, UsageError, add_json, opened


def add(commands: Any) -> None:
    """Adds both sub-commands."""
    out = commands.add_parser(
        "backup", help="copy a directory's state into a new directory",
        description="Makes a backup of DIR in TARGET. DIR must not be open in another process: "
                    "that one calls db.backup(TARGET) itself.")
    out.add_argument("directory", metavar="DIR")
    out.add_argument("target", metavar="TARGET", help="missing, or an empty directory")
    out.add_argument("--copy", action="store_true",
                     help="copy every file, also those that could be hard-linked")
    add_json(out)
    out.set_defaults(run=run_backup)
    back = commands.add_parser(
        "restore", help="make a directory from a backup",
        description="Verifies every checksum of BACKUP, copies it to DIR, and opens it once.")
    back.add_argument("backup", metavar="BACKUP")
    back.add_argument("directory", metavar="DIR", help="missing, or an empty directory")
    add_json(back)
    back.set_defaults(run=run_restore)


def run_backup(args: argparse.Namespace, output: Output) -> int:
    """Makes the backup and says what is in it."""
    must_be_new(args.target)
    try:
        with opened(args.directory) as db, output.growing("backup") as bar:
            made = db.backup(args.target, link=not args.copy, progress=bar.reach)
    except kvcore.LockedError as error:
        raise kvcore.LockedError(f"{error}; that process has to make the backup: "
                                 f"db.backup({args.target!r})") from error
    if output.json:
        output.document(asdict(made))
    else:
        print(f"{made.path}: revision {made.revision:,}, {made.bytes:,} bytes in {made.files} "
              f"files, {made.linked_bytes:,} of them linked")
    return OK


def run_restore(args: argparse.Namespace, output: Output) -> int:
    """Restores and says what is there."""
    must_be_new(args.directory)
    if not os.path.isdir(args.backup):
        raise OSError(2, "no such directory", args.backup)
    with output.growing("restore") as bar:
        made = kvcore.restore(args.backup, args.directory, progress=bar.reach)
    if output.json:
        output.document(asdict(made))
    else:
        print(f"{made.path}: revision {made.revision:,}, {made.keys:,} keys, "
              f"{made.bytes:,} bytes")
    return OK


def must_be_new(path: str) -> None:
    """Usage: a directory that is made must be missing or empty."""
    if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise UsageError(f"{path} is there already and not an empty directory")
