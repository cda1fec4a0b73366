# SPDX-License-Identifier: Apache-2.0
"""1,000 watchers, as a cluster has them, while leases and pods are updated at 12,000 a second.

    updater ─ submit ─► store ─► 500 watches of a namespace's pods ─┐
                              └► 500 watches of one node's lease ───┴► a task each: latency, order

A latency counts from the moment at which the write was due until the task has the event.  The end
is asked for: progress comes behind all events, so a watch that has it has seen everything.

May not know: other phases.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from typing import Protocol

import kvcore
from kvcore.demo.measure import Claim, Report, Samples, Ui
from kvcore.demo.workload import Workload

RATE = 12_000                # writes per second
WATCHERS = 1000
TICK_SECONDS = 0.0002        # how often the open loop looks; part of its latencies
LOOKED_AT = 50_000           # objects searched for namespaces and leases to watch


class Updates(Protocol):
    """Where updates come from."""

    def submit(self) -> int: ...
    def done(self, index: int) -> bool: ...
    def finish(self, index: int) -> None: ...


def spans(workload: Workload, count: int) -> list[bytes]:
    """What each watcher watches: a prefix (a namespace's pods) or a key (a node's lease)."""
    namespaces: dict[bytes, None] = {}
    leases: dict[bytes, None] = {}
    for index in range(min(count, LOOKED_AT)):
        resource = workload.resource(index)
        if resource == "pods":
            key = workload.key(index)
            namespaces[key[:key.rindex(b"/") + 1]] = None
        elif resource == "leases":
            leases[workload.key(index)] = None
    half = WATCHERS // 2
    found = list(namespaces)[:half] + list(leases)[:half]
    return (found * (WATCHERS // len(found) + 1))[:WATCHERS]


class Watchers:
    """A task for each watch, and what they saw."""

    def __init__(self, db: kvcore.Store, watched: list[bytes]) -> None:
        self.watches = [db.watch(prefix=span) if span.endswith(b"/") else db.watch(span)
                        for span in watched]
        self.latencies = Samples()
        self.due: dict[bytes, float] = {}
        self.out_of_order = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Every task is waiting for its first event when it returns."""
        self._tasks = [asyncio.create_task(self._watch(watch)) for watch in self.watches]
        await asyncio.sleep(0)

    async def _watch(self, watch: kvcore.Watch) -> None:
        newest = 0
        async for response in watch:
            if response.is_progress:
                return
            now = time.perf_counter_ns()
            for event in response.events:
                self.latencies.add(now - self.due[event.kv.key])
            self.out_of_order += response.revision <= newest
            newest = response.revision

    async def finish(self) -> None:
        """Until every watch has seen everything."""
        for watch in self.watches:
            watch.progress()
        await asyncio.gather(*self._tasks)
        for watch in self.watches:
            watch.cancel()


def watch(db: kvcore.Store, updates: Updates, workload: Workload, count: int, seconds: float,
          report: Report, ui: Ui) -> None:
    """The paced updates again, watched."""
    watched = spans(workload, count)
    watchers = Watchers(db, watched)
    each = Counter(watched)
    expected = 0
    total = int(RATE * seconds)

    async def run() -> float:
        nonlocal expected
        flight: deque[int] = deque()
        gap, sent = 1e9 / RATE, 0
        await watchers.start()
        with ui.phase(f"{WATCHERS:,} watchers, {RATE:,} updates a second", total) as step:
            start = time.perf_counter_ns()
            while sent < total or flight:
                due = min(total, int((time.perf_counter_ns() - start) / gap) + 1)
                while sent < due:
                    index = updates.submit()
                    key = workload.key(index)
                    watchers.due[key] = start + sent * gap
                    expected += each[key] + each[key[:key.rindex(b"/") + 1]]
                    flight.append(index)
                    sent += 1
                finished = 0
                while flight and updates.done(flight[0]):
                    updates.finish(flight.popleft())
                    finished += 1
                step.advance(finished)
                await asyncio.sleep(TICK_SECONDS)     # the pace of the loop
            await watchers.finish()
            return float(time.perf_counter_ns() - start)

    took = asyncio.run(run())
    delivered = len(watchers.latencies)
    report.value("watched updates: reached", "/s", total * 1e9 / took,
                 Claim("12,000/s", RATE, "more"))
    report.value(f"{WATCHERS:,} watchers: matches per write", "", delivered / total)
    report.value(f"{WATCHERS:,} watchers: deliveries", "/s", delivered * 1e9 / took)
    report.time(f"{WATCHERS:,} watchers: latency since due", "ms",
                watchers.latencies, Claim("p99 12 ms", 12, of="p99"),
                plot=f"delivery to {WATCHERS:,} watchers")
    if delivered:
        report.value(f"{WATCHERS:,} watchers: latency since due, p99.9", "ms",
                     watchers.latencies.quantile(0.999) / 1e6)
    report.equal("deliveries to watchers", delivered, expected)
    report.equal("responses out of order", watchers.out_of_order, 0)
