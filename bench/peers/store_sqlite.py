# SPDX-License-Identifier: Apache-2.0
"""SQLite: WAL, synchronous=FULL (a commit is on disk when it returns), one table.

An ordinary table: WITHOUT ROWID, whose rows of 1 KiB do not fit its pages of 4 KiB, took three
times the time to load and the disk.  One connection, and a lock around it: SQLite has one writer,
and threads that wait for a lock in Python are served sooner than by its busy handler, which sleeps.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.peers.data import Item
from bench.peers.store import CACHE_BYTES

PUT = "INSERT OR REPLACE INTO kv VALUES (?, ?)"


class Sqlite:
    """A sqlite3.Connection."""

    title = "sqlite3"
    settings = "journal_mode=WAL, synchronous=FULL, cache 64 MiB, mmap"
    reads = True

    def __init__(self, directory: Path, capacity: int) -> None:
        self._lock = threading.Lock()
        self._con = sqlite3.connect(directory / "db.sqlite", isolation_level=None,
                                    check_same_thread=False)
        self._con.execute("PRAGMA journal_mode=WAL")
        self._con.execute("PRAGMA synchronous=FULL")
        self._con.execute(f"PRAGMA cache_size=-{CACHE_BYTES >> 10}")
        self._con.execute(f"PRAGMA mmap_size={8 << 30}")
        self._con.execute("CREATE TABLE IF NOT EXISTS kv (k BLOB PRIMARY KEY, "
                          "v BLOB NOT NULL)")

    @staticmethod
    def version() -> str:
        return sqlite3.sqlite_version

    def put(self, key: bytes, value: bytes) -> None:
        with self._lock:
            self._con.execute(PUT, (key, value))

    def put_batch(self, items: Sequence[Item]) -> None:
        with self._lock:
            self._con.execute("BEGIN IMMEDIATE")
            self._con.executemany(PUT, items)
            self._con.execute("COMMIT")

    def get(self, key: bytes) -> bytes | None:
        row = self._con.execute("SELECT v FROM kv WHERE k = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def page(self, start: bytes, limit: int) -> list[Item]:
        return self._con.execute("SELECT k, v FROM kv WHERE k >= ? ORDER BY k LIMIT ?",
                                 (start, limit)).fetchall()

    def scan(self) -> Iterable[Item]:
        return self._con.execute("SELECT k, v FROM kv ORDER BY k")

    def load(self, items: Sequence[Item]) -> None:
        self.put_batch(items)

    def close(self) -> None:
        self._con.close()
