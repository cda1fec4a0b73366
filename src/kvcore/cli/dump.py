# SPDX-License-Identifier: Apache-2.0
"""`kvcore dump DIR`: keys and values, in key order, page by page.

Plain output is one line per key, `revision version key value`, separated by tabs; bytes that do not
print are written as \\xNN, \\t, \\n, \\r, and a backslash as two.  With --json, each line is an
object; a key or value that is not UTF-8 appears as `key_base64` or `value_base64` instead.
"""

from __future__ import annotations

import argparse
import base64
import re
from collections.abc import Iterator
from typing import Any

import kvcore
from kvcore.cli.output import OK, Output, UsageError, add_json, opened

PAGE = 1000


def add(commands: Any) -> None:
    """Adds the sub-command."""
    command = commands.add_parser("dump", help="print the keys and values of a directory",
                                  description="Prints keys, revisions and values in key order.")
    command.add_argument("directory", metavar="DIR")
    command.add_argument("--prefix", default="", help="only keys that begin with this")
    command.add_argument("--limit", type=int, default=0, metavar="N", help="at most N keys")
    command.add_argument("--revision", type=int, default=0, metavar="R", help="as of revision R")
    command.add_argument("--keys-only", action="store_true", help="no values")
    add_json(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> int:
    """Prints one line per key."""
    if args.limit < 0 or args.revision < 0:
        raise UsageError("--limit and --revision cannot be negative")
    with opened(args.directory) as db:
        for kv in _pages(db, args.prefix.encode(errors="surrogateescape"), args.limit,
                         args.revision or db.revision, args.keys_only):
            if output.json:
                output.line(_fields(kv, args.keys_only))
            else:
                value = "" if args.keys_only else "\t" + printable(kv.value)
                print(f"{kv.mod_revision}\t{kv.version}\t{printable(kv.key)}{value}")
    return OK


def _pages(db: kvcore.Store, prefix: bytes, limit: int, revision: int,
           keys_only: bool) -> Iterator[kvcore.KeyValue]:
    start, end = prefix or b"\0", kvcore.prefix_end(prefix) if prefix else b"\0"
    left = limit
    while True:
        page = db.range(start, end, limit=min(PAGE, left) if limit else PAGE, revision=revision,
                        keys_only=keys_only)
        yield from page
        left -= len(page)
        if not page.more or (limit and left <= 0):
            return
        start = page[len(page) - 1].key + b"\0"


def _fields(kv: kvcore.KeyValue, keys_only: bool) -> dict[str, Any]:
    fields: dict[str, Any] = dict([_text("key", kv.key)])
    fields.update(create_revision=kv.create_revision, mod_revision=kv.mod_revision,
                  version=kv.version, lease=kv.lease)
    if not keys_only:
        fields.update([_text("value", kv.value)])
    return fields


def _text(name: str, value: bytes) -> tuple[str, str]:
    try:
        return name, value.decode()
    except UnicodeDecodeError:
        return f"{name}_base64", base64.b64encode(value).decode()


def printable(value: bytes) -> str:
    """Bytes as text on one line, without loss."""
    text = value.decode(errors="surrogateescape").replace("\\", "\\\\")
    return re.sub(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]", _escape, text)


def _escape(match: re.Match[str]) -> str:
    named = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}
    raw = match.group().encode(errors="surrogateescape")
    return named.get(match.group(), "".join(f"\\x{byte:02x}" for byte in raw))
