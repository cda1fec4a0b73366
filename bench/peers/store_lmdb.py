# SPDX-License-Identifier: Apache-2.0
"""LMDB with its defaults, which are the durable ones; a read transaction of its own for each get.

sync and metasync on, no writemap (its documentation: safe, and what corrupts least); a map large
enough for everything, as it must be fixed at the open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import lmdb
from bench.peers.data import Item

BYTES_PER_OBJECT = 8 << 10   # of address space; two to three of 1 KiB fill a page of 4 KiB


class Lmdb:
    """An lmdb.Environment."""

    title = "lmdb"
    settings = "sync=True, metasync=True, writemap=False, large map_size; a transaction a get"
    reads = True

    def __init__(self, directory: Path, capacity: int) -> None:
        self._env = lmdb.open(str(directory), map_size=(64 << 20) + capacity * BYTES_PER_OBJECT,
                              sync=True, metasync=True, writemap=False, max_readers=256)

    @staticmethod
    def version() -> str:
        return f"{lmdb.__version__} (LMDB {'.'.join(map(str, lmdb.version()))})"

    def put(self, key: bytes, value: bytes) -> None:
        with self._env.begin(write=True) as txn:
            txn.put(key, value)

    def put_batch(self, items: Sequence[Item]) -> None:
        with self._env.begin(write=True) as txn:
            for key, value in items:
                txn.put(key, value)

    def get(self, key: bytes) -> bytes | None:
        with self._env.begin() as txn:
            found: bytes | None = txn.get(key)
            return found

    def page(self, start: bytes, limit: int) -> list[Item]:
        with self._env.begin() as txn, txn.cursor() as cursor:
            if not cursor.set_range(start):
                return []
            return list(islice(cursor.iternext(), limit))

    def scan(self) -> Iterable[Item]:
        return self._items()

    def _items(self) -> Iterator[Item]:
        with self._env.begin() as txn, txn.cursor() as cursor:
            yield from cursor.iternext()

    def load(self, items: Sequence[Item]) -> None:
        with self._env.begin(write=True) as txn, txn.cursor() as cursor:
            cursor.putmulti(items)

    def close(self) -> None:
        self._env.close()
