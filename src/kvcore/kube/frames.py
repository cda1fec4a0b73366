# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 in bytes: frames, settings, what a request's header block must be, an answer's block.

Answers are encoded without the dynamic table and without Huffman codes: literal fields only, behind
one announcement that the table's size is 0. So an encoder has no state, and the blocks of common
answers are made once. Requests are decoded by the `hpack` library.
Source: RFC 9113, RFC 7541 (the code is of neither). May not know: connections, Kubernetes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from kvcore.kube.request import joined
from kvcore.kube.wire import clean

__all__ = ["Fatal", "HeaderReader", "Reset", "frame", "header_block", "parse_headers"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, \
    CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 5, 6, 7, 8
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 9, 11

INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5              # names of settings
MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE, ENABLE_PUSH = 3, 6, 2
DEFAULT_WINDOW, DEFAULT_FRAME = 65_535, 16_384
LARGEST_WINDOW = (1 << 31) - 1

TABLE_SIZE_ZERO = b"\x20"                               # stands once, before the first block

# what HTTP/1.1 says of a connection has no place in HTTP/2
CONNECTION_HEADERS = frozenset({b"connection", b"keep-alive", b"proxy-connection",
                                b"transfer-encoding", b"upgrade"})
REQUIRED = frozenset({b":method", b":scheme", b":path"})


class Fatal(Exception):
    """The connection cannot go on: GOAWAY with this code."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class Reset(Exception):
    """One stream cannot go on: RST_STREAM with this code."""

    def __init__(self, stream: int, code: int) -> None:
        super().__init__(f"stream {stream}, code {code}")
        self.stream, self.code = stream, code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame.

    >>> frame(PING, ACK, 0, b"12345678").hex(" ")
    '00 00 08 06 01 00 00 00 00 31 32 33 34 35 36 37 38'
    """
    return b"%b%c%c%b%b" % (len(payload).to_bytes(3, "big"), kind, flags,
                            stream.to_bytes(4, "big"), payload)


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(
        name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in values))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Name and value of each. Errors: Fatal, also for values that may not be."""
    if len(payload) % 6:
        raise Fatal(FRAME_SIZE_ERROR, "SETTINGS of a strange length")
    found = [(int.from_bytes(payload[at:at + 2], "big"),
              int.from_bytes(payload[at + 2:at + 6], "big")) for at in range(0, len(payload), 6)]
    for name, value in found:
        if name == INITIAL_WINDOW_SIZE and value > LARGEST_WINDOW:
            raise Fatal(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
        if (name == ENABLE_PUSH and value > 1
                or name == MAX_FRAME_SIZE and not DEFAULT_FRAME <= value < 1 << 24):
            raise Fatal(PROTOCOL_ERROR, "a setting has a value that it cannot have")
    return found


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without its padding. Errors: Fatal."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Fatal(PROTOCOL_ERROR, "more padding than payload")
    return payload[1:len(payload) - payload[0]]


Fields = list[tuple[bytes, bytes]]
REMEMBERED = 64                               # header blocks a connection


class HeaderReader:
    """Decodes the header blocks of one connection.

    Clients send the same blocks again and again. Named invariant (same table): what is remembered
    was decoded without changing the dynamic table, and the table is still the one of then; so the
    same bytes mean the same fields. Cost: 30 us, 0.3 us for a remembered block.
    """

    def __init__(self, limit: int) -> None:
        self._decoder = Decoder(max_header_list_size=4 * limit)
        self._known: dict[bytes, tuple[Fields, int]] = {}
        self._newest: object = None               # entry of the dynamic table

    def fields(self, block: bytes) -> tuple[Fields, int]:
        """The fields, not to be changed, and the size of all.

        Errors: Fatal: the table is not the peer's any more.
        """
        found = self._known.get(block)
        if found is not None:
            return found
        try:
            fields = [(bytes(name), bytes(value))
                      for name, value in self._decoder.decode(block, raw=True)]
        except OversizedHeaderListError:
            raise Fatal(ENHANCE_YOUR_CALM, "the headers are too large") from None
        except HPACKError as error:
            raise Fatal(COMPRESSION_ERROR, str(error)) from None
        found = fields, sum(len(name) + len(value) for name, value in fields)
        entries = self._decoder.header_table.dynamic_entries
        newest = entries[0] if entries else None
        if newest is not self._newest or block[:1] and 0x20 <= block[0] < 0x40:
            self._newest = newest                 # grown, or resized
            self._known.clear()
        else:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            if len(block) < DEFAULT_FRAME:
                self._known[block] = found
        return found


def parse_headers(stream: int, fields: Iterable[tuple[bytes, bytes]]
                  ) -> tuple[str, str, dict[str, str]]:
    """Method, path with query, headers. Errors: Reset when they are malformed (RFC 9113, 8.2, 8.3).

    A name that comes twice has its values joined (`request.joined`).
    """
    special: dict[bytes, bytes] = {}
    headers: dict[str, str] = {}
    for name, value in fields:
        if name[:1] == b":":
            if headers or name in special or name not in REQUIRED and name != b":authority":
                raise Reset(stream, PROTOCOL_ERROR)
            special[name] = value
            continue
        if (name in CONNECTION_HEADERS or not name or name != name.lower()
                or name == b"te" and value != b"trailers" or b"\n" in value or b"\0" in value):
            raise Reset(stream, PROTOCOL_ERROR)
        key, text = name.decode("latin-1"), value.decode("latin-1")
        known = headers.get(key)
        headers[key] = text if known is None else joined(key, known, text)
    try:
        if special.keys() < REQUIRED or not REQUIRED <= special.keys():
            raise Reset(stream, PROTOCOL_ERROR)
        method, path = special[b":method"].decode("ascii"), special[b":path"].decode()
    except UnicodeDecodeError:
        raise Reset(stream, PROTOCOL_ERROR) from None
    if not path.startswith("/") and not (path == "*" and method == "OPTIONS"):
        raise Reset(stream, PROTOCOL_ERROR)
    if b":authority" in special and "host" not in headers:
        headers["host"] = special[b":authority"].decode("latin-1")
    return method, path, headers


def _integer(value: int, bits: int, first: int = 0) -> bytes:
    """RFC 7541, 5.1.

    >>> _integer(1337, 5).hex()
    '1f9a0a'
    """
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    out = bytearray((first | most,))
    value -= most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\0%b%b%b%b" % (_integer(len(name), 7), name, _integer(len(value), 7), value)


STATUS_INDEX = {200: 8, 204: 9, 206: 10, 304: 11, 400: 12, 404: 13, 500: 14}


@lru_cache(maxsize=256)
def _first_fields(code: int, content_type: str) -> bytes:
    known = STATUS_INDEX.get(code)
    status = (bytes((0x80 | known,)) if known is not None
              else b"\x08\x03%d" % code)      # literal, its name :status from the static table
    value = clean(content_type)
    return status + _integer(31, 4) + _integer(len(value), 7) + value


def header_block(code: int, content_type: str, lines: list[tuple[str, str]],
                 length: int = -1) -> bytes:
    """An answer's header block. Args: length: of the body in bytes; -1: not known.

    >>> header_block(200, "application/json", [], 5)
    b'\\x88\\x0f\\x10\\x10application/json\\x0f\\r\\x015'
    """
    block = _first_fields(code, content_type)
    for name, value in lines:
        block += _literal(name.lower().encode(), clean(value))
    if length >= 0:
        digits = b"%d" % length
        block += b"\x0f\x0d%c%b" % (len(digits), digits)      # content-length is 28 in the table
    return block
