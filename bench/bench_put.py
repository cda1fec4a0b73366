# SPDX-License-Identifier: Apache-2.0
"""What does a durable put cost, by sync mode and number of callers, beside a raw append and
sqlite3?

Every figure stands beside a raw pwrite + fdatasync of the same bytes into blocks written before,
taken in the same round (`raw_us`, `ratio`). Estimates: lone put = the raw append (142-180 us) +
2 us; 64 threads: GIL hand-overs, 40,000/s; submit and put_many: the disk's bandwidth, > 100,000/s.
Size: smoke by default, real with KVCORE_BENCH=real. Durable figures have their syncs on.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kvcore

REAL = os.environ.get("KVCORE_BENCH") == "real"
LONE = 2000 if REAL else 20
MANY = 100_000 if REAL else 500
ROUNDS = 5 if REAL else 2
KEY_BYTES, VALUE = 53, b"v" * 512
RECORD = 64 + 16 + KEY_BYTES + len(VALUE)  # batch header and cell around the same bytes


def key(i: int) -> bytes:
    """A key of 53 bytes."""
    return b"/registry/pods/ns-%03d/app-%030d" % (i % 500, i)


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Callable[[int], list[int]]]:
    """Times n raw appends of RECORD bytes, each synced, into a file written before; nanoseconds."""
    fd = os.open(tmp_path / "raw", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"\0" * (RECORD * (LONE + 1)), 0)
    os.fsync(fd)
    record = b"r" * RECORD

    def run(n: int) -> list[int]:
        took = []
        for i in range(n):
            began = time.perf_counter_ns()
            os.pwrite(fd, record, i * RECORD)
            os.fdatasync(fd)
            took.append(time.perf_counter_ns() - began)
        return took

    yield run
    os.close(fd)


def lone_puts(db: kvcore.Store, n: int, first: int) -> list[int]:
    """Times n puts one after the other, nanoseconds each."""
    took = []
    for i in range(first, first + n):
        began = time.perf_counter_ns()
        db.put(key(i), VALUE)
        took.append(time.perf_counter_ns() - began)
    return took


def note(benchmark, took: list[int], raw_took: list[int] | None = None) -> None:
    """Median and p99 of single operations, and the ratio to the raw append of the same run."""
    took = sorted(took)
    info = benchmark.extra_info
    info["p50_us"] = round(statistics.median(took) / 1e3, 1)
    info["p99_us"] = round(took[int(len(took) * 0.99)] / 1e3, 1)
    if raw_took:
        info["raw_us"] = round(statistics.median(raw_took) / 1e3, 1)
        info["ratio"] = round(info["p50_us"] / info["raw_us"], 3)


@pytest.mark.parametrize("sync", ["always", "interval", "off"])
def test_one_caller(benchmark, raw, tmp_path: Path, sync: str) -> None:
    """A lone caller: one write, one sync, nobody woken."""
    took: list[int] = []
    raw_took: list[int] = []
    with kvcore.open(tmp_path / "db", sync=sync) as db:
        def run() -> None:
            raw_took.extend(raw(LONE))
            took.extend(lone_puts(db, LONE, len(took)))

        benchmark.pedantic(run, rounds=ROUNDS)
        assert db.range(count_only=True).count == LONE * ROUNDS
    note(benchmark, took, raw_took)


@pytest.mark.parametrize("callers", [8, 64])
def test_threads(benchmark, raw, tmp_path: Path, callers: int) -> None:
    """Many blocking callers share syncs; the GIL is handed over twice a put."""
    each = max(LONE * 10 // callers, 4)
    took: list[int] = []
    rates: list[float] = []
    raw_took: list[int] = []
    with kvcore.open(tmp_path / "db") as db:
        def run() -> None:
            raw_took.extend(raw(LONE))
            first = len(took)
            threads = [
                threading.Thread(target=lambda k=k: took.extend(
                    lone_puts(db, each, first + k * each)))
                for k in range(callers)
            ]
            began = time.perf_counter()
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            rates.append(each * callers / (time.perf_counter() - began))

        benchmark.pedantic(run, rounds=ROUNDS)
        assert db.range(count_only=True).count == each * callers * ROUNDS
    note(benchmark, took, raw_took)
    benchmark.extra_info["per_second"] = round(statistics.median(rates))
    benchmark.extra_info["times_raw"] = round(
        statistics.median(rates) * statistics.median(raw_took) / 1e9, 1)


@pytest.mark.parametrize("how", ["put_many", "submit"])
def test_in_flight(benchmark, raw, tmp_path: Path, how: str) -> None:
    """Many puts in flight from one thread: up to 4 MiB share a sync."""
    rates: list[float] = []
    raw_took: list[int] = []
    items = [(key(i), VALUE) for i in range(MANY)]
    with kvcore.open(tmp_path / "db") as db:
        def run() -> None:
            raw_took.extend(raw(LONE))
            began = time.perf_counter()
            if how == "put_many":
                db.put_many(items)
            else:
                for future in [db.submit(kvcore.Put(k, v)) for k, v in items]:
                    future.result()
            rates.append(MANY / (time.perf_counter() - began))

        benchmark.pedantic(run, rounds=ROUNDS)
        assert db.get(key(MANY - 1)).version == ROUNDS
    benchmark.extra_info["per_second"] = round(statistics.median(rates))
    benchmark.extra_info["raw_us"] = round(statistics.median(raw_took) / 1e3, 1)
    benchmark.extra_info["times_raw"] = round(
        statistics.median(rates) * statistics.median(raw_took) / 1e9, 1)


def test_during_background_work(benchmark, raw, tmp_path: Path) -> None:
    """p99 of a lone put while checkpoints and a compaction run."""
    took: list[int] = []
    stop = threading.Event()
    with kvcore.open(tmp_path / "db") as db:
        db.put_many([(key(i), VALUE) for i in range(MANY * 2)])
        db.put_many([(key(i), VALUE) for i in range(MANY * 2)])

        def background() -> None:
            while not stop.is_set():
                db.compact(db.revision)
                db.checkpoint()

        worker = threading.Thread(target=background)
        worker.start()

        def run() -> None:
            took.extend(lone_puts(db, LONE, len(took)))

        benchmark.pedantic(run, rounds=ROUNDS)
        stop.set()
        worker.join()
    note(benchmark, took, raw(LONE))


def test_beside_a_spinning_thread(benchmark, raw, tmp_path: Path) -> None:
    """A lone put beside a thread that computes in Python: the GIL's switch interval is the
    price."""
    took: list[int] = []
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(100))

    worker = threading.Thread(target=spin)
    with kvcore.open(tmp_path / "db") as db:
        worker.start()
        benchmark.pedantic(lambda: took.extend(lone_puts(db, LONE // 4, len(took))), rounds=ROUNDS)
        stop.set()
        worker.join()
    note(benchmark, took, raw(LONE))


def test_sqlite3(benchmark, raw, tmp_path: Path) -> None:
    """The peer everybody has: WAL mode, synchronous=FULL, one row per transaction."""
    took: list[int] = []
    raw_took: list[int] = []
    con = sqlite3.connect(tmp_path / "db.sqlite", isolation_level=None)
    con.execute("PRAGMA journal_mode=WAL")
    con.execute("PRAGMA synchronous=FULL")
    con.execute("CREATE TABLE kv (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")

    def run() -> None:
        raw_took.extend(raw(LONE))
        first = len(took)
        for i in range(first, first + LONE):
            began = time.perf_counter_ns()
            con.execute("INSERT OR REPLACE INTO kv VALUES (?, ?)", (key(i), VALUE))
            took.append(time.perf_counter_ns() - began)

    benchmark.pedantic(run, rounds=ROUNDS)
    assert con.execute("SELECT count(*) FROM kv").fetchone() == (LONE * ROUNDS,)
    con.close()
    note(benchmark, took, raw_took)
