# SPDX-License-Identifier: Apache-2.0
"""An independent writer and reader of commands, batches and segments, after docs/log-format.md.

    operations of models.py ◄─ read ─ bytes of a batch ◄─ write ─ anything, also what cannot be

Only the CRC is the core's (tests/test_native.py compares it with another); nothing else is shared,
so that a forged file is judged by something that does not know the core's decoder.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import model_leases
import model_wal
import models

from kvcore._native import crc32c

PUT, DELETE, TXN, COMPACT, RANGE, GRANT, REVOKE, ALARM = range(1, 9)
PREV, IGNORE_VALUE, IGNORE_LEASE = 1, 2, 4
TARGETS = ("version", "create_revision", "mod_revision", "value", "lease")
RESULTS = ("==", ">", "<", "!=")
MAX_REVISION = 1 << 62


class Malformed(Exception):
    """Bytes that are no command."""


@dataclasses.dataclass
class Alarm:
    """A command without an operation: it changes nothing of the keys."""

    number: int


# --- writing ----------------------------------------------------------------------------------

def pack(value: Any) -> bytes:
    """None, int, bytes, and lists of them, in the forms that commands use; `raw(b)` as it is."""
    if isinstance(value, Raw):
        return value.data
    if value is None:
        return b"\xc0"
    if isinstance(value, Int32):
        return b"\xce" + value.to_bytes(4, "big")
    if isinstance(value, Bytes32):
        return b"\xc6" + len(value).to_bytes(4, "big") + value
    if isinstance(value, int):
        return bytes([value]) if 0 <= value < 128 else (
            b"\xd3" + (value & (1 << 64) - 1).to_bytes(8, "big"))
    if isinstance(value, bytes):
        head = (b"\xc5" + len(value).to_bytes(2, "big") if len(value) < 65536
                else b"\xc6" + len(value).to_bytes(4, "big"))
        return head + value
    head = (bytes([0x90 | len(value)]) if len(value) < 16
            else b"\xdc" + len(value).to_bytes(2, "big"))
    return head + b"".join(map(pack, value))


@dataclasses.dataclass
class Raw:
    """Bytes that stand for a value as they are."""

    data: bytes


def cell(key: bytes, value: bytes) -> Raw:
    """CRC, key and value of a put."""
    body = (b"\xc5" + len(key).to_bytes(2, "big") + key
            + b"\xc6" + len(value).to_bytes(4, "big") + value)
    return Raw(b"\xce" + crc32c(body).to_bytes(4, "big") + body)


def put(key: bytes, value: bytes = b"", flags: int = 0, lease: int = 0) -> bytes:
    return b"\x96" + pack(PUT) + pack(flags) + pack(lease) + cell(key, value).data


def segment_header(seq: int, size: int, nonce: int, seed: int, recycled: int = 0) -> bytes:
    raw = bytearray(model_wal.HEADER.pack(b"KVCSEG01", 0, 1, seq, size, nonce, seed))
    raw[44] = recycled
    raw[8:12] = crc32c(bytes(raw[12:])).to_bytes(4, "little")
    return bytes(raw)


def batch(segment: model_wal.Segment, offset: int, payload: bytes, *, kind: int = 1,
          count: int = 1, first_index: int = 1, revision: int = 1, term: int = 0,
          durable_upto: int | None = None, length: int | None = None) -> bytes:
    """A batch whose checksum is right, whatever it says."""
    position = segment.seq * segment.segment_bytes + offset
    fields = [b"KVB1", 0, segment.nonce, position,
              position if durable_upto is None else durable_upto, first_index, term, revision,
              len(payload) if length is None else length, count | kind << 24]
    body = model_wal.BATCH.pack(*fields)[8:] + payload
    fields[1] = crc32c(body, segment.seed)
    raw = model_wal.BATCH.pack(*fields) + payload
    return raw + bytes(-len(raw) % 64)


# --- reading ----------------------------------------------------------------------------------

class TooDeep(Malformed):
    """More levels than this reader follows: nothing is said of the bytes."""


class Int32(int):
    """A number that stands in four bytes: a checksum."""


class Bytes16(bytes):
    """Bytes whose length stands in two bytes: a key."""


class Bytes32(bytes):
    """Bytes whose length stands in four bytes: a value."""


class Reader:
    """A cursor over bytes; Malformed where they end or are not what is asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = self.began = 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise Malformed("ends early")
        self.at += count
        return self.data[self.at - count : self.at]

    def value(self, depth: int = 0) -> Any:
        """One value; arrays as lists. `began`: where the last one asked for begins."""
        if depth == 0:
            self.began = self.at
        head = self.take(1)[0]
        if head < 0x80:
            return head
        if head == 0xD3:
            return int.from_bytes(self.take(8), "big", signed=True)
        if head == 0xCE:
            return Int32(int.from_bytes(self.take(4), "big"))
        if head == 0xC0:
            return None
        if head == 0xC5:
            return Bytes16(self.take(int.from_bytes(self.take(2), "big")))
        if head == 0xC6:
            return Bytes32(self.take(int.from_bytes(self.take(4), "big")))
        if head & 0xF0 == 0x90 or head == 0xDC:
            count = head & 15 if head != 0xDC else int.from_bytes(self.take(2), "big")
            if depth > 400:
                raise TooDeep("nested too deep")
            return [self.value(depth + 1) for _ in range(count)]
        raise Malformed(f"head {head:#x}")


def integer(value: Any) -> int:
    if not isinstance(value, int):
        raise Malformed("not a number")
    return value


def text(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise Malformed("not bytes")
    return value


def fields(value: Any, count: int) -> list[Any]:
    if not isinstance(value, list) or len(value) != count:
        raise Malformed(f"not an array of {count}")
    return value


def span(key: Any, end: Any) -> models.Span:
    if not text(key):
        raise Malformed("an empty key")
    if end is None:
        return models.Span(key)
    return models.Span(key, end) if text(end) else models.Span(b"\2", b"\1")    # up to nothing


def compare_of(value: Any) -> models.Compare:
    target, result, operand, key, end = fields(value, 5)
    if integer(target) not in range(len(TARGETS)) or integer(result) not in range(len(RESULTS)):
        raise Malformed("no such compare")
    made = models.Compare(TARGETS[target], span(key, end))
    made.result = RESULTS[result]
    made.operand = text(operand) if TARGETS[target] == "value" else integer(operand)
    return made


def kind_of(value: Any) -> int:
    """The kind of a command."""
    if not isinstance(value, list) or not value:
        raise Malformed("not a command")
    return integer(value[0])


def operation(value: Any) -> Any:
    """One operation of models.py or model_leases.py."""
    kind = kind_of(value)
    if kind == PUT:
        _, flags, lease, _, key, data = fields(value, 6)
        if not 0 <= integer(flags) < 8 or not isinstance(value[3], Int32) or not key or (
                not isinstance(key, Bytes16) or not isinstance(data, Bytes32)):
            raise Malformed("no such put")
        return models.Put(key, text(data), integer(lease), bool(flags & PREV),
                          bool(flags & IGNORE_VALUE), bool(flags & IGNORE_LEASE))
    if kind == DELETE:
        _, flags, key, end = fields(value, 4)
        made = models.Delete(b"x", prev=bool(integer(flags) & PREV))
        if flags not in (0, PREV):
            raise Malformed("no such delete")
        made.span = span(key, end)
        return made
    if kind == RANGE:
        parts = fields(value, 12)
        if integer(parts[1]) & ~56 or integer(parts[6]) not in range(3) or (
                integer(parts[7]) not in range(5)):
            raise Malformed("no such range")
        read = models.Range(b"x", revision=integer(parts[5]))
        read.span = span(parts[2], parts[3])
        for number in (1, *range(4, 12)):
            integer(parts[number])
        return read
    if kind == TXN:
        _, compares, success, failure = fields(value, 4)
        for branch in (compares, success, failure):
            if not isinstance(branch, list):
                raise Malformed("not a branch")
        return models.Txn(list(map(compare_of, compares)), list(map(operation, success)),
                          list(map(operation, failure)))
    return other(kind, value)


def other(kind: int, value: Any) -> Any:
    """What cannot stand in a transaction."""
    if kind == COMPACT:
        return models.Compact(integer(fields(value, 2)[1]))
    if kind == GRANT:
        _, lease, ttl = fields(value, 3)
        return model_leases.LeaseGrant(integer(ttl), integer(lease))
    if kind == REVOKE:
        return model_leases.LeaseRevoke(integer(fields(value, 2)[1]))
    if kind == ALARM:
        return Alarm(integer(fields(value, 2)[1]))
    raise Malformed(f"kind {kind}")


def operations(payload: bytes, count: int) -> list[Any]:
    """All commands of a batch; Malformed unless they fill it."""
    reader = Reader(payload)
    found = [operation(reader.value()) for _ in range(count)]
    if reader.at != len(payload):
        raise Malformed("bytes behind the last command")
    return found
