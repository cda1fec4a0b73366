# SPDX-License-Identifier: Apache-2.0
"""kvcore as it comes: sync="always", order 32, every value's checksum compared.

A batch is a transaction of 100 puts (all or nothing); a load is put_many, whose puts share syncs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from bench.peers.data import Item

import kvcore

PAGE = 500                   # its keys and values stay in the processor's cache


class Kvcore:
    """A kvcore.Store."""

    title = "kvcore"
    settings = "sync=always, order=32, verify=True; batch: txn; load: put_many; scan: pages of " \
        "500 of one snapshot"
    reads = True

    def __init__(self, directory: Path, capacity: int) -> None:
        self._db = kvcore.open(directory)

    @staticmethod
    def version() -> str:
        return kvcore.__version__

    def put(self, key: bytes, value: bytes) -> None:
        self._db.put(key, value)

    def put_batch(self, items: Sequence[Item]) -> None:
        self._db.txn(success=[kvcore.Put(key, value) for key, value in items])

    def get(self, key: bytes) -> bytes | None:
        kv = self._db.get(key)
        return None if kv is None else kv.value

    def page(self, start: bytes, limit: int) -> list[Item]:
        rows = self._db.range(start, b"\0", limit=limit)
        return list(zip(rows.keys(), rows.values(), strict=True))

    def scan(self) -> Iterable[Item]:
        return chain.from_iterable(self._pages())

    def _pages(self) -> Iterator[Iterable[Item]]:
        start = b"\0"
        with self._db.snapshot() as snapshot:
            more = True
            while more:
                rows = snapshot.range(start, b"\0", limit=PAGE)
                keys = rows.keys()
                yield zip(keys, rows.values(), strict=True)
                more = rows.more
                start = keys[-1] + b"\0" if keys else start

    def load(self, items: Sequence[Item]) -> None:
        self._db.put_many(items)

    def close(self) -> None:
        self._db.close()
