# SPDX-License-Identifier: Apache-2.0
"""Objects as bytes: what a body says, and what is stored.

    body (JSON · YAML · envelope) ──decode_body──> dict ──Codec.encode──> stored bytes
    stored bytes ──json_of──> JSON ──with_version──> answer        (no dict on this way)

Stored bytes say by their first byte how they are written, so that one store may hold all three:
    json       `{`: apiVersion, kind and metadata first, in this order, without resourceVersion
    msgpack    a map's head (0x80-0x8f, 0xde, 0xdf)
    protobuf   `k8s\\0`, then runtime.Unknown whose raw is that JSON

Named invariant (spliced): in the JSON of a stored object `"metadata":{` stands first where the
object's metadata begins, and metadata is not empty; so resourceVersion, which is known only after
the write, is put in by cutting bytes, and lists and watches never decode what they send.
Source of the envelope: apimachinery runtime/serializer/protobuf. May not know: the store.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Protocol

import msgpack
import orjson

__all__ = ["CODECS", "Codec", "json_of", "object_of", "with_version"]

Object = dict[str, Any]

ENVELOPE = b"k8s\x00"
METADATA = b'"metadata":{'


class Codec(Protocol):
    """A way to store objects; `name` as `storage_codec=` takes it."""

    name: str

    def encode(self, obj: Object) -> bytes: ...


FIRST = ["apiVersion", "kind", "metadata"]


def canonical(obj: Object) -> Object:
    """The object with apiVersion, kind, metadata first and without its resourceVersion; itself
    where it is so already, as most bodies are."""
    if "resourceVersion" not in obj["metadata"] and [*islice(obj, 3)] == FIRST:
        return obj
    metadata = obj["metadata"]
    if "resourceVersion" in metadata:
        metadata = {k: v for k, v in metadata.items() if k != "resourceVersion"}
    ordered = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata}
    for key, value in obj.items():
        if key not in ordered:
            ordered[key] = value
    return ordered


class JsonCodec:
    name = "json"

    def encode(self, obj: Object) -> bytes:
        return orjson.dumps(canonical(obj))


class MsgpackCodec:
    name = "msgpack"

    def encode(self, obj: Object) -> bytes:
        packed: bytes = msgpack.packb(canonical(obj))
        return packed


class ProtobufCodec:
    name = "protobuf"

    def encode(self, obj: Object) -> bytes:
        return envelope(obj["apiVersion"], obj["kind"], orjson.dumps(canonical(obj)))


CODECS: dict[str, Codec] = {"json": JsonCodec(), "msgpack": MsgpackCodec(),
                            "protobuf": ProtobufCodec()}


def json_of(stored: bytes) -> bytes:
    """The stored object as JSON, without resourceVersion. Cost: none for "json"."""
    first = stored[0]
    if first == 0x7B:
        return stored
    if stored.startswith(ENVELOPE):
        return open_envelope(stored).raw
    return orjson.dumps(msgpack.unpackb(stored))


def object_of(stored: bytes, revision: int = 0) -> Object:
    """The stored object as a dictionary; with its resourceVersion when a revision is given."""
    if stored[0] == 0x7B or stored.startswith(ENVELOPE):
        obj: Object = orjson.loads(json_of(stored))
    else:
        obj = msgpack.unpackb(stored)
    if revision:
        obj["metadata"]["resourceVersion"] = str(revision)
    return obj


def with_version(body: bytes, revision: int) -> bytes:
    """JSON of a stored object with the revision of its write in it.

    >>> with_version(b'{"kind":"Pod","metadata":{"name":"a"}}', 7)
    b'{"kind":"Pod","metadata":{"resourceVersion":"7","name":"a"}}'
    """
    return body.replace(METADATA, b'%b"resourceVersion":"%d",' % (METADATA, revision), 1)


# --- the envelope: runtime.Unknown {1: {1: apiVersion, 2: kind}, 2: raw, 3: encoding, 4: type} ---

class Envelope:
    __slots__ = ("api_version", "kind", "raw", "encoding", "content_type")

    def __init__(self) -> None:
        self.api_version = self.kind = self.encoding = self.content_type = ""
        self.raw = b""


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _field(number: int, data: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + _varint(len(data)) + data


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    """runtime.Unknown around JSON."""
    type_meta = _field(1, api_version.encode()) + _field(2, kind.encode())
    return (ENVELOPE + _field(1, type_meta) + _field(2, raw) + _field(3, b"")
            + _field(4, b"application/json"))


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    """The length-delimited fields of a message; ValueError for anything else."""
    found, at = [], 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        size, at = _read_varint(data, at)
        if tag & 7 != 2 or at + size > len(data):
            raise ValueError(f"field {tag >> 3} is damaged")
        found.append((tag >> 3, data[at:at + size]))
        at += size
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 63:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number without an end")


def open_envelope(data: bytes) -> Envelope:
    """Errors: ValueError when it is none, or is damaged."""
    if not data.startswith(ENVELOPE):
        raise ValueError("the magic k8s\\0 is missing")
    found = Envelope()
    for number, content in _fields(data[len(ENVELOPE):]):
        if number == 1:
            for inner, text in _fields(content):
                if inner == 1:
                    found.api_version = text.decode()
                elif inner == 2:
                    found.kind = text.decode()
        elif number == 2:
            found.raw = content
        elif number == 3:
            found.encoding = content.decode()
        elif number == 4:
            found.content_type = content.decode()
    return found
