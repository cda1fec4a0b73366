# SPDX-License-Identifier: Apache-2.0
"""RocksDB through rocksdict: WriteOptions.sync, Bloom filters, cache and buffer like LevelDB's.

Raw mode, so that keys and values are bytes and nothing is pickled.  Compression and the rest are
the library's defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from bench.peers.data import Item
from bench.peers.store import CACHE_BYTES
from rocksdict import BlockBasedOptions, Cache, Options, Rdict, WriteBatch, WriteOptions


class RocksDb:
    """A rocksdict.Rdict."""

    title = "rocksdict (RocksDB)"
    settings = "WriteOptions.sync, Bloom filter 10 bits, cache and write buffer 64 MiB, " \
        "default compression"
    reads = True

    def __init__(self, directory: Path, capacity: int) -> None:
        table = BlockBasedOptions()
        table.set_block_cache(Cache(CACHE_BYTES))
        table.set_bloom_filter(10.0, False)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(CACHE_BYTES)
        options.set_block_based_table_factory(table)
        self._db = Rdict(str(directory / "db"), options)
        self._durable = WriteOptions()
        self._durable.sync = True
        self._db.set_write_options(self._durable)

    @staticmethod
    def version() -> str:
        return version("rocksdict")

    def put(self, key: bytes, value: bytes) -> None:
        self._db.put(key, value, self._durable)

    def put_batch(self, items: Sequence[Item]) -> None:
        batch = WriteBatch(raw_mode=True)
        for key, value in items:
            batch.put(key, value)
        self._db.write(batch, self._durable)

    def get(self, key: bytes) -> bytes | None:
        found: bytes | None = self._db.get(key)
        return found

    def page(self, start: bytes, limit: int) -> list[Item]:
        return list(islice(self._items(start), limit))

    def scan(self) -> Iterable[Item]:
        return self._items(None)

    def _items(self, start: bytes | None) -> Iterator[Item]:
        return iter(self._db.items(from_key=start))

    def load(self, items: Sequence[Item]) -> None:
        self.put_batch(items)

    def close(self) -> None:
        self._db.close()
