# SPDX-License-Identifier: Apache-2.0
"""When do 100,000 leases that end together go, and what does a keep-alive cost?

Half of them hold a key. Every deletion is a revision of its own; the lateness of each is what a
watch of the keys measures against the machine's clock.
Estimate: 1,024 revokes a sync: 100 syncs and 100,000 deletions, 0.2 s. First mark: never early, at
most 1 s late. Real size: KVCORE_BENCH=real.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import kvcore

REAL = os.environ.get("KVCORE_BENCH") == "real"
LEASES = 100_000 if REAL else 500


def test_expiry(benchmark, tmp_path: Path) -> None:
    """All granted within moments, all due together; durable."""
    info = benchmark.extra_info

    def run() -> None:
        with kvcore.open(tmp_path / "db", min_lease_ttl=1) as db:
            ttl = 30 if REAL else 1
            first = time.monotonic()         # before any is granted
            futures = [db.submit(kvcore.LeaseGrant(ttl, id=i + 1)) for i in range(LEASES)]
            for future in futures:
                future.result()
            last = time.monotonic()
            puts = [db.submit(kvcore.Put(b"/l/%06d" % i, b"", lease=i + 1))
                    for i in range(0, LEASES, 2)]
            for future in puts:
                future.result()
            with db.watch(prefix=b"/l/", no_put=True) as watch:
                seen = 0
                began = 0.0
                while seen < LEASES // 2:
                    got = len(watch.get_batch(100_000))
                    began = began or time.monotonic()
                    seen += got
            ended = time.monotonic()
            info["leases"] = LEASES
            info["earliest_after_ttl_s"] = round(began - (first + ttl), 3)
            info["latest_after_ttl_s"] = round(ended - (last + ttl), 3)

    benchmark.pedantic(run, rounds=1)


def test_keepalive(benchmark) -> None:
    """One among all."""
    with kvcore.open(maintenance=False) as db:
        leases = [db.lease(3600) for _ in range(LEASES // 100)]
        benchmark(leases[len(leases) // 2].keepalive)
