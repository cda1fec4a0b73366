# SPDX-License-Identifier: Apache-2.0
"""LevelDB through plyvel: sync=True, Bloom filters, cache and write buffer as RocksDB has them.

Its write buffer of 4 MiB by default would make a load many times slower; 64 MiB is RocksDB's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import plyvel
from bench.peers.data import Item
from bench.peers.store import CACHE_BYTES


class LevelDb:
    """A plyvel.DB."""

    title = "plyvel (LevelDB)"
    settings = "sync=True, Bloom filter 10 bits, cache and write buffer 64 MiB, default compression"
    reads = True

    def __init__(self, directory: Path, capacity: int) -> None:
        self._db = plyvel.DB(str(directory / "db"), create_if_missing=True,
                             write_buffer_size=CACHE_BYTES, lru_cache_size=CACHE_BYTES,
                             bloom_filter_bits=10)

    @staticmethod
    def version() -> str:
        return f"{plyvel.__version__} (LevelDB {plyvel.__leveldb_version__})"

    def put(self, key: bytes, value: bytes) -> None:
        self._db.put(key, value, sync=True)

    def put_batch(self, items: Sequence[Item]) -> None:
        with self._db.write_batch(transaction=True, sync=True) as batch:
            for key, value in items:
                batch.put(key, value)

    def get(self, key: bytes) -> bytes | None:
        found: bytes | None = self._db.get(key)
        return found

    def page(self, start: bytes, limit: int) -> list[Item]:
        with self._db.iterator(start=start) as rows:
            return list(islice(rows, limit))

    def scan(self) -> Iterable[Item]:
        rows: Iterable[Item] = self._db.iterator(fill_cache=False)
        return rows

    def load(self, items: Sequence[Item]) -> None:
        self.put_batch(items)

    def close(self) -> None:
        self._db.close()
