# SPDX-License-Identifier: Apache-2.0
"""What does a durable append cost beside the same write and sync without a log?

Peer in the same run: pwrite + fdatasync of as many bytes into a file written before.  Smoke size by
default; KVCORE_BENCH=real measures.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvcore._record_log import WriteAheadLog

REAL = os.environ.get("KVCORE_BENCH") == "real"
ROUNDS = 2000 if REAL else 3
READS = 100_000 if REAL else 100
PAYLOAD = random.Random(1).randbytes(512)
BATCH = [PAYLOAD] * 100
ON_DISK = 64 + -(-(512 + 13) // 64) * 64  # of a lone record
BATCH_ON_DISK = 64 + -(-(100 * (512 + 13)) // 64) * 64


@pytest.fixture
def wal(tmp_path: Path) -> Iterator[WriteAheadLog]:
    with WriteAheadLog(tmp_path / "log") as log:
        log.append(PAYLOAD)
        yield log


def _raw(path: Path, size: int):
    """A function that writes and syncs `size` bytes at the next offset of a file written before."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    for _ in range(16):
        os.write(descriptor, bytes(1 << 20))
    os.fsync(descriptor)
    data = bytes(size)
    offset = 64

    def step() -> None:
        nonlocal offset
        os.pwrite(descriptor, data, offset)
        os.fdatasync(descriptor)
        offset = (offset + size) % (15 << 20)

    return step


def test_raw_write_and_sync(benchmark, tmp_path: Path) -> None:
    benchmark.pedantic(_raw(tmp_path / "raw", ON_DISK), rounds=ROUNDS, warmup_rounds=2)


def test_lone_append(benchmark, wal: WriteAheadLog) -> None:
    benchmark.pedantic(wal.append, (PAYLOAD,), rounds=ROUNDS, warmup_rounds=2)


def test_raw_write_and_sync_of_a_batch(benchmark, tmp_path: Path) -> None:
    benchmark.pedantic(_raw(tmp_path / "raw", BATCH_ON_DISK), rounds=ROUNDS // 4 or 1,
                       warmup_rounds=2)


def test_append_of_100(benchmark, wal: WriteAheadLog) -> None:
    benchmark.pedantic(wal.append_many, (BATCH,), rounds=ROUNDS // 4 or 1, warmup_rounds=2)


@pytest.mark.parametrize("verify", [True, False])
def test_reads_by_position(benchmark, tmp_path: Path, verify: bool) -> None:
    with WriteAheadLog(tmp_path / "log", sync="off", verify=verify) as log:
        positions = log.append_many([PAYLOAD] * READS)
        random.Random(2).shuffle(positions)
        read = log.read

        def reads() -> None:
            for position in positions:
                read(position)

        benchmark.pedantic(reads, rounds=3)
        benchmark.extra_info["reads"] = READS
