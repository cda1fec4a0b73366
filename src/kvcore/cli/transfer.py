# SPDX-License-Identifier: Apache-2.0
"""`kvcore export DIR [FILE]` and `kvcore import DIR FILE`: contents as lines of JSON.

    export: DIR ─► FILE.partial ─► FILE         a file is whole or not there; - and none: to a pipe
    import: FILE ─ read to its end ─► right? ─► DIR    a wrong file is refused before DIR is touched

Exit code 1: the file is cut, changed or not an export; what was imported before is said.
May not know: the format (kvcore.transfer has it).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import kvcore
from kvcore.cli.output import OK, PROBLEM, Output, UsageError, add_json, opened
from kvcore.transfer import check_lines, export_lines, import_lines


def add(commands: Any) -> None:
    """Adds both sub-commands."""
    out = commands.add_parser(
        "export", help="write the contents of a directory as JSON lines",
        description="Writes the keys of DIR as lines of JSON that `kvcore import` reads.")
    out.add_argument("directory", metavar="DIR")
    out.add_argument("file", metavar="FILE", nargs="?", default="-",
                     help="replaced if it is there (default: standard output)")
    out.add_argument("--prefix", default="", help="only keys that begin with this")
    out.add_argument("--revision", type=int, default=0, metavar="R", help="as of revision R")
    add_json(out)
    out.set_defaults(run=run_export)
    back = commands.add_parser(
        "import", help="put an export's keys into a directory",
        description="Puts the keys of an export into DIR, which is made if missing. The keys' "
                    "revisions are new, their history is not in an export.")
    back.add_argument("directory", metavar="DIR")
    back.add_argument("file", metavar="FILE", help="an export; -: standard input")
    back.add_argument("--merge", action="store_true",
                      help="also into a directory that has keys; those of the export win")
    back.add_argument("--leases", action="store_true",
                      help="grant the export's leases again, with their ids and full TTL, and "
                           "attach their keys (default: these keys stay for good)")
    add_json(back)
    back.set_defaults(run=run_import)


# --- export ---------------------------------------------------------------------------------------

def run_export(args: argparse.Namespace, output: Output) -> int:
    """Writes the lines; says how many when they go into a file."""
    if args.revision < 0:
        raise UsageError("--revision cannot be negative")
    with opened(args.directory) as db:
        lines = export_lines(db, prefix=args.prefix.encode(errors="surrogateescape"),
                             revision=args.revision or None)
        first = next(lines)
        header = json.loads(first)
        with _target(args.file) as file, output.phase("export", header["count"]) as step:
            file.write(first)
            for line in lines:
                file.write(line)
                step.advance(1)
    if args.file != "-":
        if output.json:
            output.document({"path": args.directory, "file": args.file, "keys": header["count"],
                             "revision": header["revision"]})
        else:
            print(f"{args.file}: {header['count']:,} keys of revision {header['revision']:,}")
    return OK


@contextmanager
def _target(path: str) -> Iterator[IO[str]]:
    """Standard output, or a file that takes its name when it is complete and on disk."""
    if path == "-":
        yield sys.stdout
        return
    partial = f"{path}.partial"
    try:
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        if os.path.exists(partial):
            os.unlink(partial)
        raise


# --- import ---------------------------------------------------------------------------------------

def run_import(args: argparse.Namespace, output: Output) -> int:
    """Checks the file to its end, then puts its keys."""
    try:
        with _source(args.file) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            with output.phase("check the export, bytes", size) as step:
                header = check_lines(_counted(file, step.advance))
            file.seek(0)
            with _importable(args.directory, args.merge) as db:
                with output.phase("import", header.count) as step:
                    done = import_lines(db, file, merge=args.merge, leases=args.leases,
                                        progress=step.advance)
    except kvcore.TransferError as error:
        print(f"kvcore import: {args.file}: {error}", file=sys.stderr)
        return PROBLEM
    if output.json:
        output.document({"path": args.directory, "file": args.file, "keys": done.keys,
                         "leases_granted": done.leases, "keys_without_their_lease": done.detached,
                         "revision": done.revision})
        return OK
    print(f"{args.directory}: {done.keys:,} keys of revision {header.revision:,} imported, now at "
          f"revision {done.revision:,}")
    if args.leases:
        print(f"leases: {done.leases:,} granted again, with their full TTL")
    if done.detached:
        print(f"leases: {done.detached:,} keys had one and have none now, so they stay"
              + ("; the export does not tell its TTL" if args.leases
                 else "; --leases grants them again"))
    return OK


def _counted(file: IO[bytes], advance: Callable[[int], None]) -> Iterator[bytes]:
    for line in file:
        yield line
        advance(len(line))


@contextmanager
def _source(path: str) -> Iterator[IO[bytes]]:
    """A file that can be read twice; what comes through a pipe is kept meanwhile."""
    if path != "-" and os.path.isfile(path):
        with open(path, "rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as kept:
        if path == "-":
            shutil.copyfileobj(sys.stdin.buffer, kept)
        else:
            with open(path, "rb") as pipe:
                shutil.copyfileobj(pipe, kept)
        yield kept


@contextmanager
def _importable(path: str, merge: bool) -> Iterator[kvcore.Store]:
    """The store to import into: made where there is nothing, with keys only to be merged."""
    if os.path.isdir(path) and os.listdir(path) and not os.path.exists(
            os.path.join(path, "FORMAT")):
        raise OSError(2, "not a kvcore directory (it has no FORMAT file), and not empty", path)
    with kvcore.open(path, maintenance=False) as db:
        if not merge and db.status().keys:
            raise UsageError(f"{path} has keys; --merge imports beside them")
        yield db
