# SPDX-License-Identifier: Apache-2.0
"""An independent reader of the log's files, after docs/log-format.md, with its own CRC-32C.

It shares no code with the core: the core's bytes are judged by it.  `read_segment` gives the header
and the batches from the start to the first place without a valid one.
"""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

HEADER = struct.Struct("<8sIIQQQI20x")
BATCH = struct.Struct("<4sIQQQQQqII")

COMMANDS, SEAL, CEILING, MOVES, MARK = 1, 2, 3, 4, 5


def _make_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _make_table()


def model_crc32c(data: bytes, start: int = 0) -> int:
    """CRC-32C, bit order and final inversion as in RFC 3720."""
    crc = start ^ 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@dataclasses.dataclass(frozen=True)
class Segment:
    seq: int
    segment_bytes: int
    nonce: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Batch:
    offset: int
    position: int
    durable_upto: int
    first_index: int
    term: int
    revision: int
    count: int
    kind: int
    payload: bytes

    @property
    def end(self) -> int:
        return self.offset + 64 + -(-len(self.payload) // 64) * 64


def read_header(raw: bytes) -> Segment:
    """The segment's header; ValueError when it is not one."""
    magic, crc, version, seq, size, nonce, seed = HEADER.unpack_from(raw)
    if magic != b"KVCSEG01" or version != 1 or crc != model_crc32c(raw[12:64]):
        raise ValueError("no segment header")
    return Segment(seq, size, nonce, seed)


def read_batch(raw: bytes, segment: Segment, offset: int) -> Batch | None:
    """The valid batch at `offset`, or None."""
    if offset + 64 > len(raw):
        return None
    fields = BATCH.unpack_from(raw, offset)
    magic, crc, nonce, position, durable_upto, first_index, term, revision, length, tail = fields
    if magic != b"KVB1" or nonce != segment.nonce:
        return None
    if position != segment.seq * segment.segment_bytes + offset:
        return None
    if offset + 64 + -(-length // 64) * 64 > len(raw):
        return None
    body = raw[offset + 8 : offset + 64 + length]
    if crc != model_crc32c(body, segment.seed):
        return None
    return Batch(offset, position, durable_upto, first_index, term, revision, tail & 0xFFFFFF,
                 tail >> 24, body[56:])


def read_segment(path: Path) -> tuple[Segment, list[Batch]]:
    """Header and batches of a file, up to the first place without a valid batch."""
    raw = path.read_bytes()
    segment = read_header(raw)
    batches = []
    offset = 64
    while (batch := read_batch(raw, segment, offset)) is not None:
        batches.append(batch)
        offset = batch.end
    return segment, batches


def read_cells(batch: Batch) -> list[tuple[int, bytes, bytes]]:
    """(position, key, value) of back-to-back cells; ValueError when a byte is wrong."""
    cells = []
    data, at = batch.payload, 0
    while at < len(data):
        key_length = int.from_bytes(data[at + 6 : at + 8], "big")
        key_end = at + 8 + key_length
        value_length = int.from_bytes(data[key_end + 1 : key_end + 5], "big")
        end = key_end + 5 + value_length
        heads = (data[at], data[at + 5], data[key_end])
        crc = int.from_bytes(data[at + 1 : at + 5], "big")
        if heads != (0xCE, 0xC5, 0xC6) or crc != model_crc32c(data[at + 5 : end]):
            raise ValueError(f"no cell at {at}")
        cells.append((batch.position + 64 + at, data[at + 8 : key_end], data[key_end + 5 : end]))
        at = end
    return cells


def read_records(directory: Path) -> list[tuple[int, bytes]]:
    """(position, record) of everything in a directory written by the stand-alone log."""
    records = []
    for path in sorted(directory.glob("wal-*.seg")):
        for batch in read_segment(path)[1]:
            if batch.kind == COMMANDS:
                records += [(position, value) for position, _, value in read_cells(batch)]
    return records
