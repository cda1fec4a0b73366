# SPDX-License-Identifier: Apache-2.0
"""What does it cost that every call of the operating system goes through a table?

The production path and the fault layer are the same path: a call through a pointer. Beside each
figure stands the same call without a table (`direct_ns`), taken in the same round, alternately.
Estimate: 2 ns a call, of 400 ns for a write into the page cache and 140,000 ns for one that is
synced: below what can be measured. First mark: a write within 2 %, a synced one within 1 %, of the
direct one, as medians. Real size: KVCORE_BENCH=real.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import pytest

import kvcore
from kvcore._native import POSIX_IO
from kvcore.testing._io_probe import write_times
from kvcore.testing.faults import RecordingIo

REAL = os.environ.get("KVCORE_BENCH") == "real"
ROUNDS = 11 if REAL else 3
SPAN = 4 << 20
RECORD = b"r" * 704              # as a put of 512 bytes writes


def medians(handle: int, calls: int, sync: bool) -> tuple[float, float]:
    """Of all calls through the table, and of all direct ones, in turns."""
    table: list[int] = []
    direct: list[int] = []
    for _ in range(ROUNDS):
        table += write_times(POSIX_IO, handle, RECORD, calls, span=SPAN // 704 * 704, sync=sync)
        direct += write_times(None, handle, RECORD, calls, span=SPAN // 704 * 704, sync=sync)
    return statistics.median(table), statistics.median(direct)


@pytest.mark.parametrize("sync", [False, True])
def test_a_call(benchmark, tmp_path: Path, sync: bool) -> None:
    """A write into blocks that were written before, alone and with its sync."""
    calls = (300 if sync else 20_000) if REAL else 20
    handle = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(handle, bytes(SPAN), 0)
    os.fsync(handle)
    table, direct = benchmark.pedantic(medians, (handle, calls, sync), rounds=1)
    benchmark.extra_info.update(table_ns=table, direct_ns=direct,
                                ratio=round(table / direct, 4))
    os.close(handle)


@pytest.mark.parametrize("table", ["production", "recording"])
def test_a_durable_put(benchmark, tmp_path: Path, table: str) -> None:
    """On the table that everybody uses, and on the one that writes everything down."""
    io = RecordingIo() if table == "recording" else None
    with kvcore.open(tmp_path / "db", io=io) as db:
        db.put(b"/warm", bytes(1 << 20))
        number = iter(range(1 << 60))
        benchmark.pedantic(lambda: db.put(b"/k/%d" % next(number), b"v" * 512),
                           rounds=2000 if REAL else 20, warmup_rounds=5)
