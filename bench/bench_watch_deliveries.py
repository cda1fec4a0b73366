# SPDX-License-Identifier: Apache-2.0
"""How many deliveries a second reach 1,000 watchers?

Every watcher watches the same prefix, so that each put is a delivery to each of them, while the
writer writes on: through `async for` on one event loop, and through native cursors (get_batch).
Estimate: async: one hop through the loop, 2-3 us; batches: 50 ns an event and 1 us a call.
First marks: 200,000/s and 1,000,000/s. Real size: KVCORE_BENCH=real.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time

import kvcore

REAL = os.environ.get("KVCORE_BENCH") == "real"
WATCHERS = 1000 if REAL else 20
PUTS = 300 if REAL else 10
ROUNDS = 5 if REAL else 2


def test_async(benchmark) -> None:
    """Each event is looked at by each of the tasks."""
    rates: list[float] = []

    async def reader(watch: kvcore.Watch) -> int:
        seen = 0
        async for response in watch:
            for event in response.events:
                seen += event.kv.mod_revision > 0
            if seen == PUTS:
                return seen
        return seen

    async def main() -> None:
        with kvcore.open() as db:
            watches = [db.watch(prefix=b"/a/") for _ in range(WATCHERS)]
            tasks = [asyncio.create_task(reader(watch)) for watch in watches]
            await asyncio.sleep(0)
            began = time.perf_counter()
            for i in range(PUTS):
                await db.submit(kvcore.Put(b"/a/%d" % i, b"v" * 100))
            assert await asyncio.gather(*tasks) == [PUTS] * WATCHERS
            rates.append(PUTS * WATCHERS / (time.perf_counter() - began))

    benchmark.pedantic(lambda: asyncio.run(main()), rounds=ROUNDS)
    benchmark.extra_info["deliveries_per_s"] = round(statistics.median(rates))
    benchmark.extra_info["spread"] = f"{min(rates):.0f}-{max(rates):.0f}"


def test_batches(benchmark) -> None:
    """Each cursor takes what came since its last look, ten puts at a time."""
    rates: list[float] = []

    def run() -> None:
        with kvcore.open() as db:
            watches = [db.watch(prefix=b"/a/") for _ in range(WATCHERS)]
            seen = 0
            began = time.perf_counter()
            for i in range(PUTS // 10):
                db.put_many([(b"/a/%d" % (10 * i + k), b"v" * 100) for k in range(10)])
                for watch in watches:
                    seen += len(watch.get_batch(1000, timeout=0))
            took = time.perf_counter() - began
            assert seen == PUTS * WATCHERS
            rates.append(seen / took)

    benchmark.pedantic(run, rounds=ROUNDS)
    benchmark.extra_info["deliveries_per_s"] = round(statistics.median(rates))
    benchmark.extra_info["spread"] = f"{min(rates):.0f}-{max(rates):.0f}"
