# SPDX-License-Identifier: Apache-2.0
"""Fuzz target: the batches of a segment.

    kind 1 | count 1 | says 1 | [8 for each bit of says] | length 2 | payload    ... and so on
    first byte 255: the rest is the segment behind its header, checksums put right

Checksums are right, so that what is behind them is reached. Accepted is what the model accepts,
with the same hash, leases and revision, before and after another open; what is refused is repaired.
"""

from __future__ import annotations

import struct

import command_bytes as cb
from common import SIZE, Bytes, Model, directory, judge, log_of, words

from kvcore._native import crc32c

NAME = "wal-0000000000000001.seg"
SAID = ("first_index", "revision", "term", "durable_upto")
TOKENS = (b"KVB1", cb.put(b"a", b"1"), cb.put(b"b", b"", lease=1), cb.pack([6, 1, 60]),
          cb.pack([7, 1]), cb.pack([4, 3]), cb.pack([2, 0, b"a", None]), b"\xff" * 8, b"\0" * 8,
          struct.pack("<QqII", SIZE + 132, 2, 0, 15) + cb.cell(b"a", b"1").data)


def record(kind: int, count: int, payload: bytes, says: int = 0, numbers: bytes = b"") -> bytes:
    return bytes([kind, count, says]) + numbers + struct.pack("<H", len(payload)) + payload


def seeds() -> list[bytes]:
    puts = cb.put(b"a", b"1") + cb.put(b"b", b"2", lease=0)
    txn = cb.pack([3, [[0, 1, 0, b"a", None]], [cb.Raw(cb.put(b"c", b"3"))], [[2, 0, b"a", None]]])
    move = struct.pack("<QqII", SIZE + 132, 2, 0, 15) + cb.cell(b"a", b"1").data
    return [
        record(1, 2, puts) + record(1, 1, txn) + record(2, 0, b""),
        record(3, 0, b"", 2, words(1000)) + record(1, 2, puts) + record(4, 1, move),
        record(1, 3, puts + cb.pack([4, 2])) + record(5, 0, b"x") + record(2, 0, b"", 2, words(9)),
        record(1, 1, cb.pack([6, 1, 60])) + record(1, 1, cb.put(b"k", b"v", lease=1), 1, words(2)),
        b"\xff" + cb.batch(cb.model_wal.Segment(1, SIZE, 7, 9), 64, puts, count=2),
    ]


def one(data: bytes) -> None:
    """One input."""
    if data[:1] == b"\xff":
        path = directory().fill({NAME: mended(data[1:])})
        judge(path, Model(), False, again=True)
        return
    rest, batches = Bytes(data), []
    while rest.more() and len(batches) < 40:
        kind, count, says = rest.number(1), rest.number(1), rest.number(1)
        more = {name: rest.number(8) for bit, name in enumerate(SAID) if says >> bit & 1}
        if "revision" in more and more["revision"] >= 1 << 63:
            more["revision"] -= 1 << 64
        if says & 0x80:
            count |= rest.number(2) << 8
        batches.append((kind, count, rest.take(rest.number(2)), more))
    raw, model, decided = log_of(batches)
    judge(directory().fill({NAME: raw}), model, decided, again=len(data) % 3 == 0)


def mended(data: bytes) -> bytes:
    """A segment with these bytes behind its header: batches get the checksum that they need."""
    raw = bytearray(cb.segment_header(1, SIZE, 7, 9) + data[: SIZE - 64]).ljust(SIZE, b"\0")
    at = 64
    while at + 64 < SIZE and raw[at : at + 4] == b"KVB1":
        length = int.from_bytes(raw[at + 56 : at + 60], "little")
        if at + 64 + length > SIZE:
            break
        crc = crc32c(bytes(raw[at + 8 : at + 64 + length]), 9)
        raw[at + 4 : at + 8] = crc.to_bytes(4, "little")
        at += 64 + -(-length // 64) * 64
    return bytes(raw)
