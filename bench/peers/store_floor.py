# SPDX-License-Identifier: Apache-2.0
"""The floor below every durable write: the same bytes appended to a file, and fdatasync.

    loaded.log   grows with the load, as a new store's files must
    put.log      blocks written before: what a store that reuses its log writes into

It finds nothing: `scan` reads the loaded file and sorts it, for the checksum only.  One caller.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.peers.data import Item

HEADER = struct.Struct("<QII")           # what any log must add: a checksum's place and two lengths
RESERVED = 64 << 20
PIECE = 4096                             # larger ones get large pages, whose syncs take 15 % longer
ALIGNED = 64                             # where appends begin: the system copies faster then


def record(key: bytes, value: bytes) -> bytes:
    """One object as it is appended."""
    return b"%b%b%b" % (HEADER.pack(0, len(key), len(value)), key, value)


class Floor:
    """Two files, no store."""

    title = "write + fdatasync"
    settings = "the same bytes and 16 more an object; put, batch: into 64 MiB written before; " \
        "load: into a growing file; two calls from Python"
    reads = False

    def __init__(self, directory: Path, capacity: int) -> None:
        self._loaded = os.open(directory / "loaded.log", os.O_RDWR | os.O_CREAT)
        self._size = os.fstat(self._loaded).st_size
        self._put = os.open(directory / "put.log", os.O_RDWR | os.O_CREAT)
        self._at = 0
        if os.fstat(self._put).st_size < RESERVED:
            for at in range(0, RESERVED, PIECE):
                os.pwrite(self._put, bytes(PIECE), at)
            os.fsync(self._put)

    @staticmethod
    def version() -> str:
        return f"system {os.uname().release}"

    def put(self, key: bytes, value: bytes) -> None:
        self._append(record(key, value))

    def _append(self, data: bytes) -> None:
        if self._at + len(data) > RESERVED:
            raise ValueError(f"more than {RESERVED} bytes put")
        os.pwrite(self._put, data, self._at)
        os.fdatasync(self._put)
        self._at += -(-len(data) // ALIGNED) * ALIGNED

    def put_batch(self, items: Sequence[Item]) -> None:
        self._append(b"".join(record(key, value) for key, value in items))

    def get(self, key: bytes) -> bytes | None:
        raise NotImplementedError("the floor finds nothing")

    def page(self, start: bytes, limit: int) -> list[Item]:
        raise NotImplementedError("the floor finds nothing")

    def scan(self) -> Iterable[Item]:
        data = os.pread(self._loaded, self._size, 0)
        items, at = [], 0
        while at < len(data):
            _, key, value = HEADER.unpack_from(data, at)
            at += HEADER.size + key + value
            items.append((data[at - key - value:at - value], data[at - value:at]))
        return sorted(items)

    def load(self, items: Sequence[Item]) -> None:
        data = b"".join(record(key, value) for key, value in items)
        os.pwrite(self._loaded, data, self._size)
        os.fdatasync(self._loaded)
        self._size += len(data)

    def close(self) -> None:
        os.close(self._loaded)
        os.close(self._put)
