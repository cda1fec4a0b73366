# SPDX-License-Identifier: Apache-2.0
"""Fuzz target: the lines of an export.

    first byte: bit 0: the last line is made right | bit 1: leases | bit 2: merge | the file

An import ends with TransferError and the number of a line, having put whole batches or nothing; one
that returns has put what a second export says, and check_lines agrees with it.
"""

from __future__ import annotations

import hashlib
import json

import kvcore
from kvcore import transfer

LINES_OF = {transfer.__file__}
TOKENS = (b'"key": "', b'"value": "', b'"lease": 7', b'"ttl": 60', b'"count": 1',
          b'"key_base64": "',
          b'"AP8="', b'{"lease": 7, "ttl": 60}\n', b"\n", b"{", b"}", b"-1", b"9223372036854775808",
          b'\\ud800', b"1e9", b"true", b"null", b'{"end": true, "count": 1, "sha256": ""}', b'""')


def exported() -> bytes:
    with kvcore.open() as db:
        db.lease(60, id=7)
        db.put(b"/a", b"text")
        db.put(b"/b", b"\x00\xff", lease=7)
        db.put(b"\xff", b"")
        return "".join(transfer.export_lines(db)).encode()


def seeds() -> list[bytes]:
    whole = exported()
    return [b"\1" + whole, b"\3" + whole, b"\7" + whole, b"\0" + whole, b"\1" + whole[:200]]


def mended(raw: bytes) -> bytes:
    """With a last line that says what is in front of it, and the first one's count."""
    lines = [line for line in raw.split(b"\n") if line and b'"end"' not in line]
    count = sum(b'"value' in line for line in lines)
    try:
        head = json.loads(lines[0])
        head["count"] = count
        lines[0] = json.dumps(head).encode()
    except (ValueError, IndexError, TypeError, KeyError, RecursionError):
        pass
    body = b"".join(line + b"\n" for line in lines)
    return body + json.dumps({"end": True, "count": count,
                              "sha256": hashlib.sha256(body).hexdigest()}).encode() + b"\n"


def one(data: bytes) -> None:
    """One input."""
    flags = data[0] if data else 0
    raw = mended(data[1:]) if flags & 1 else data[1:]
    lines = raw.splitlines(keepends=True)
    try:
        header = transfer.check_lines(lines)
    except kvcore.TransferError as error:
        assert error.reason and error.line <= len(lines)
        header = None
    with kvcore.open() as db, kvcore.open() as twin:
        if flags & 4:
            db.put(b"/mine", b"1")
        try:
            done = transfer.import_lines(db, lines, merge=bool(flags & 4), leases=bool(flags & 2))
        except kvcore.TransferError as error:
            assert error.reason and 0 <= error.keys <= len(lines)
            assert db.range(count_only=True).count <= error.keys + 1
            return
        assert header == done.header and done.keys == header.count
        again = list(transfer.export_lines(db))
        transfer.import_lines(twin, again, leases=True)
        assert [(kv.key, kv.value) for kv in twin.range()] == [
            (kv.key, kv.value) for kv in db.range()]
        db._check()
