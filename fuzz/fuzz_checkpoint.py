# SPDX-License-Identifier: Apache-2.0
"""Fuzz target: a checkpoint, its checksums right.

    which words of the header 2 | 8 each | blocks 1 | per block: keys, entries | leases | table

A checkpoint that is taken gives a sound index with just the versions it holds, and the same after
the store has written a checkpoint of its own; one that is passed over, or refused, is repaired.
"""

from __future__ import annotations

import struct

import command_bytes as cb
from common import OPTIONS, REFUSALS, SIZE, Bytes, directory, words

import kvcore
from kvcore._native import crc32c

LOG, CHECKPOINT = "wal-0000000000000001.seg", "checkpoint-0000000000000001.ckp"
VERSION = struct.Struct("<qqqqQII")
TOKENS = (words(SIZE), words(SIZE + 64), b"\xff" * 8, words(1 << 62), b"\x01\x01\x01a")


def seeds() -> list[bytes]:
    entry = b"\0\1a\1" + b"\2\2\1\0\1\1"
    older = b"\0\1b\2" + b"\2\2\1\0\1\0" + b"\3\2\2\0\1\1"
    leased = b"\1\1c\1" + b"\4\4\1\1\0\1"
    gone = b"\0\1d\1" + b"\5\0\0\0\0\0"
    return [b"\0\0\1\1" + entry, b"\0\0\1\3" + entry + older + leased + b"\1\1\x3c",
            b"\0\0\2\1" + entry + b"\2" + older + gone + b"\0\1",
            b"\x10\0" + words(3) + b"\1\1" + entry]


def number(rest: Bytes) -> int:
    """A small one, or eight bytes behind 255."""
    value = rest.number(1)
    if value != 255:
        return value
    value = rest.number(8)
    return value - (1 << 64) if value >= 1 << 63 else value


def built(data: bytes) -> bytes:
    """The file that an input describes."""
    rest = Bytes(data)
    said = rest.number(2)
    given = [rest.number(8) if said >> bit & 1 else None for bit in range(14)]
    blocks, keys, versions = list[bytes](), 0, 0
    for _ in range(rest.number(1) % 8):
        body, entries = b"", rest.number(1) % 32
        for _ in range(entries):
            shared, suffix, count = rest.number(1), rest.take(rest.number(1)), rest.number(1) % 8
            body += struct.pack("<HHI", shared, len(suffix), count) + suffix
            for _ in range(count):
                mod, create, version, lease = (number(rest) for _ in range(4))
                body += VERSION.pack(mod, create, version, lease, SIZE + rest.number(1),
                                     rest.number(1), 0)
            versions += count
        keys += entries
        blocks.append(struct.pack("<IIII", len(body), crc32c(body), entries, 0) + body)
    leases = b"".join(struct.pack("<qq", number(rest), number(rest))
                      for _ in range(rest.number(1) % 16))
    table = struct.pack("<QQIIQQ", 1, 7, 9, 0, 1, 0) + rest.take(40 * (rest.number(1) % 3))
    table = table[: len(table) // 40 * 40]
    numbers = [SIZE, SIZE + 64, 0, 0, 9, -1, 0, keys, versions, len(blocks), len(table) // 40,
               128 + sum(map(len, blocks)), len(leases) // 16, 0]
    numbers = [mine if theirs is None else theirs
               for mine, theirs in zip(numbers, given, strict=True)]
    head = struct.pack("<I", 1) + words(*(n % (1 << 64) for n in numbers))
    tables = b"".join(struct.pack("<II", crc32c(part), len(part) // size) + part
                      for part, size in ((table, 40), (leases, 16)))
    return (b"KVCCKP01" + struct.pack("<I", crc32c(head)) + head + b"".join(blocks) + tables
            + b"KVCCKEND" + words(len(blocks)))


def one(data: bytes) -> None:
    """One input."""
    files = {LOG: cb.segment_header(1, SIZE, 7, 9).ljust(SIZE, b"\0"), CHECKPOINT: built(data)}
    path = directory().fill(files)
    try:
        with kvcore.open(path, **OPTIONS) as db:
            db._check()
            taken, versions = not db.damaged_checkpoints, db._versions()
            if not taken:
                assert not versions and db.check()
            state = db.revision, db.compact_revision, len(db.leases())
            db.checkpoint()
        with kvcore.open(path, **OPTIONS) as db:
            db._check()
            assert db._versions() == versions
            assert (db.revision, db.compact_revision, len(db.leases())) == state
    except REFUSALS as error:
        assert str(path) in str(error)
    if len(data) % 4 == 0:
        directory().fill(files)
        directory().repaired()
