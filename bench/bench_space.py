# SPDX-License-Identifier: Apache-2.0
"""Does space stay flat, what is written for it, and how long does a writer wait because of it?

    leases renewed 12,000 times a second, five minutes of history, a clock run by the benchmark:
        an hour of that time: segments in use and resident memory, at its end and in its first part
    append-only: a million values of 1 KiB
    pauses: one writer, on a RAM disk and in memory, so that no wait is the disk's own

Estimates: history of 3.6 million versions, 1.4 GB, and the log of three checkpoints; write
amplification 1.26 with checkpoints, 1.08 append-only; a batch of moves (256 KiB) is
0.3 ms of copying and 0.8 ms of index, a slice of sweep 0.1 ms.
First marks: flat; <= 1.5; <= 1.1; <= 10 ms. Real size: KVCORE_BENCH=real.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import kvcore
from kvcore.testing.clocks import ManualClock

REAL = os.environ.get("KVCORE_BENCH") == "real"
RATE = 12_000 if REAL else 600
HOUR = 3600 if REAL else 60
HISTORY = 300 if REAL else 5
NODES = 10_000 if REAL else 500
STEPS = 4                        # background rounds in a second of that time


def resident() -> int:
    """Anonymous memory of this process, MB: mapped files are the page cache's."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous")) // 1024


@pytest.mark.parametrize("kind", ["memory", "durable"])
def test_an_hour_of_leases(benchmark: Any, tmp_path: Path, kind: str) -> None:
    info = benchmark.extra_info
    lease = os.urandom(330)
    keys = [b"/registry/leases/kube-node-lease/node-%05d" % i for i in range(NODES)]
    rng = random.Random(1)

    def run() -> None:
        clock = ManualClock()
        small = {} if REAL else {"segment_bytes": 1 << 20, "max_request_bytes": 1 << 18}
        with kvcore.open(tmp_path / "db" if kind == "durable" else None, clock=clock,
                         maintenance=False, history=timedelta(seconds=HISTORY), **small) as db:
            used, memory = [], []
            for second in range(HOUR):
                db.put_many([(rng.choice(keys), lease) for _ in range(RATE)])
                for _ in range(STEPS):
                    clock.advance(1 / STEPS)
                    for _ in range(400):     # the thread has half the time; here it has its share
                        if not db.step():
                            break
                if second % max(HOUR // 60, 1) == 0:
                    used.append(db.status().used_bytes >> 20)
                    memory.append(resident())
            status = db.status()
            first, rest = len(used) // 4, len(used) // 2
            info["used_MB"] = [max(used[first:rest]), max(used[rest:])]
            info["anonymous_MB"] = [max(memory[first:rest]), max(memory[rest:])]
            info["live_MB"] = status.live_bytes >> 20
            info["history_MB"] = status.history_bytes >> 20
            info["write_amplification"] = round(status.write_amplification, 3)
            info["moved_MB"] = status.moved_bytes >> 20
            info["checkpoints_MB"] = status.checkpoint_bytes >> 20
            info["retired_segments"] = status.retired_segments
            assert db.check() == []

    benchmark.pedantic(run, rounds=1)


def test_append_only(benchmark: Any, tmp_path: Path) -> None:
    """Nothing is ever garbage."""
    count = 1_000_000 if REAL else 2_000
    value = os.urandom(512) + b"\0" * 512

    def run() -> None:
        with kvcore.open(tmp_path / "db") as db:
            for i in range(0, count, 2000):
                db.put_many([(b"/registry/pods/default/app-%09d" % j, value)
                             for j in range(i, i + 2000)])
            while db.step():
                pass
            status = db.status()
            benchmark.extra_info.update(
                write_amplification=round(status.write_amplification, 3),
                zeroed_MB=status.zeroed_bytes >> 20, log_MB=status.log_bytes >> 20,
                checkpoints_MB=status.checkpoint_bytes >> 20)
        benchmark.extra_info["disk_MB"] = sum(
            path.stat().st_blocks * 512 for path in (tmp_path / "db").iterdir()) >> 20

    benchmark.pedantic(run, rounds=1)


@pytest.mark.parametrize("kind", ["memory", "ram disk"])
@pytest.mark.parametrize("background", [False, True], ids=["alone", "background"])
def test_pauses_of_a_writer(benchmark: Any, kind: str, background: bool) -> None:
    """The longest puts, with sweeps, moves, retirement and checkpoints beside them, and without."""
    seconds = 20.0 if REAL else 0.2
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    directory = Path(tempfile.mkdtemp(dir=base))
    keys = [b"/registry/leases/kube-node-lease/node-%05d" % i for i in range(NODES)]
    kept = [(b"/registry/pods/default/app-%06d" % i, os.urandom(400)) for i in range(20 * NODES)]
    rng = random.Random(2)
    value = os.urandom(330)
    more: dict[str, Any] = {"history": 5 * NODES} if background else {"maintenance": False}

    def run() -> None:
        took = []
        with kvcore.open(directory / "db" if kind == "ram disk" else None,
                         segment_bytes=1 << 23, max_request_bytes=1 << 20, **more) as db:
            db.put_many(kept)
            ends = time.perf_counter() + seconds
            after = time.perf_counter()
            while after < ends:
                before = after
                db.put(rng.choice(keys) if rng.random() < 0.99 else rng.choice(kept)[0], value)
                after = time.perf_counter()
                took.append(after - before)
            status = db.status()
        took.sort()
        benchmark.extra_info.update(
            puts=len(took), median_us=round(took[len(took) // 2] * 1e6, 2),
            p999_us=round(took[-len(took) // 1000 - 1] * 1e6, 1),
            longest_ms=[round(t * 1e3, 2) for t in took[-5:]],
            moved_MB=status.moved_bytes >> 20, retired_segments=status.retired_segments,
            checkpoints=status.checkpoint_number)

    try:
        benchmark.pedantic(run, rounds=1)
    finally:
        shutil.rmtree(directory)
