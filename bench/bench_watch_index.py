# SPDX-License-Identifier: Apache-2.0
"""Do 1,000,000 watchers on distinct keys work, and what does a write cost among them?

Estimate: a probe of the table whose lines are cold: ~0.5 us a write more than among none; memory:
~450 bytes a watcher with a key of 30 bytes. Real size: KVCORE_BENCH=real.
"""

from __future__ import annotations

import os
import random
import resource
import time

import kvcore

REAL = os.environ.get("KVCORE_BENCH") == "real"
WATCHERS = 1_000_000 if REAL else 1000
PUTS = 50_000 if REAL else 200


def test_distinct_keys(benchmark) -> None:
    """Opens them, writes among them, and closes them all at once."""
    rng = random.Random(1)
    picks = [rng.randrange(WATCHERS) for _ in range(PUTS)]
    info = benchmark.extra_info

    def run() -> None:
        with kvcore.open() as db:
            keys = [b"/registry/leases/node-%09d" % i for i in range(WATCHERS)]
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            began = time.perf_counter()
            watches = [db.watch(key) for key in keys]
            info["open_us"] = round((time.perf_counter() - began) / WATCHERS * 1e6, 2)
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            info["bytes_each"] = round((after - before) * 1024 / WATCHERS)
            began = time.perf_counter()
            for i in picks:
                db.put(keys[i], b"v")
            info["put_us"] = round((time.perf_counter() - began) / PUTS * 1e6, 2)
            assert sum(len(watches[i].get_batch(timeout=0)) for i in set(picks)) == PUTS

    benchmark.pedantic(run, rounds=1)
