# SPDX-License-Identifier: Apache-2.0
"""What a store must be able to do to be asked, and which stores there are.

    find("lmdb") ──► the class, or Absent("...: No module named 'lmdb'")
    Lmdb(directory, capacity) ──► a Store, open on that directory

Invariant: a put, a batch and a load are on disk when they return; a batch is there whole or not at
all, also after a crash.

May not know: the questions.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, cast

from bench.peers.data import Item

CACHE_BYTES = 64 << 20       # for stores that keep a cache of their own


class Store(Protocol):
    """One open store.  Safe for many threads in put; else one caller."""

    title: str
    settings: str
    """How it is configured, in words."""
    reads: bool
    """Whether it finds keys; the floor does not."""

    def __init__(self, directory: Path, capacity: int) -> None:
        """Opens, or makes, the store in a directory that exists; for `capacity` objects at most."""

    @staticmethod
    def version() -> str:
        """Of the library and of the engine in it."""

    def put(self, key: bytes, value: bytes) -> None:
        """One object, durable."""

    def put_batch(self, items: Sequence[Item]) -> None:
        """All or nothing, durable."""

    def get(self, key: bytes) -> bytes | None:
        """The newest value, as bytes of the caller's own."""

    def page(self, start: bytes, limit: int) -> list[Item]:
        """The first `limit` objects from `start` on."""

    def scan(self) -> Iterable[Item]:
        """All objects in the order of their keys, made one after the other."""

    def load(self, items: Sequence[Item]) -> None:
        """As put_batch, but need not be one piece after a crash."""

    def close(self) -> None:
        """As an orderly end of the program does."""


class Absent(Exception):
    """A peer that is not to be had here; says why."""


# name -> module and class; in the order of the table
STORES = {
    "kvcore": ("store_kvcore", "Kvcore"),
    "floor": ("store_floor", "Floor"),
    "lmdb": ("store_lmdb", "Lmdb"),
    "rocksdb": ("store_rocksdb", "RocksDb"),
    "leveldb": ("store_leveldb", "LevelDb"),
    "sqlite": ("store_sqlite", "Sqlite"),
}


def find(name: str) -> type[Store]:
    """The class of a store; raises Absent when what it needs is not installed."""
    module, kind = STORES[name]
    try:
        found = importlib.import_module(f"bench.peers.{module}")
    except ImportError as error:
        raise Absent(f"cannot be imported: {error}; pip install '.[peers]'") from error
    return cast(type[Store], getattr(found, kind))
