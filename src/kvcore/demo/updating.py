# SPDX-License-Identifier: Apache-2.0
"""Updates leases and pods as controllers and kubelets do: read, change, write if unchanged.

Three times: paced at 12,000 writes a second, with latencies counted from the moment at which a
write was due (an open loop: a stall delays the writes behind it, and counts); the same with 1,000
watchers (watching.py); and as fast as it goes.
Then history: old versions are still there, until the store is compacted.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import kvcore
from kvcore.demo.caching import cache
from kvcore.demo.measure import Claim, Report, Samples, Ui
from kvcore.demo.watching import watch
from kvcore.demo.workload import Workload

RATE = 12_000                # writes per second
LEASE_EVERY = 4              # every fourth update is a lease
TICK_SECONDS = 0.0002        # how often the open loop looks; part of its latencies
WINDOW = 1024
CHUNK = 4096
SAMPLE = 1000


class Updater:
    """Submits updates of one object after another and keeps how often each was updated.

    Invariant: no object has two updates in flight, so every compare must hold.
    """

    def __init__(self, db: kvcore.Store, workload: Workload, count: int) -> None:
        self._db = db
        self._workload = workload
        self._count = count
        self._sent = 0
        self._at = {"leases": 0, "pods": 0}
        self._pending: dict[int, Any] = {}
        self.turns: dict[int, int] = {}
        self.refused = 0

    def submit(self) -> int:
        """Sends the next update; returns the object's index."""
        share = "leases" if self._sent % LEASE_EVERY == 0 else "pods"
        self._sent += 1
        index = self._next(share)
        if index in self._pending:           # only with fewer objects than requests in flight
            self.finish(index)
        turn = self.turns.get(index, 0) + 1
        key, value = self._workload.item(index, turn)
        found = self._db.get(key)
        known = found.mod_revision if found is not None else -1
        self._pending[index] = self._db.submit(kvcore.Txn(
            [kvcore.Compare.mod_revision(key) == known], [kvcore.Put(key, value)], []))
        self.turns[index] = turn
        return index

    def _next(self, share: str) -> int:
        at = self._at[share]
        while self._workload.resource(at) != share:
            at = (at + 1) % self._count
        self._at[share] = (at + 1) % self._count
        return at

    def done(self, index: int) -> bool:
        """Whether the update of this object was acknowledged (or finished already)."""
        future = self._pending.get(index)
        return future is None or bool(future.done())

    def finish(self, index: int) -> None:
        """Waits for the update of this object."""
        future = self._pending.pop(index, None)
        if future is not None:
            self.refused += not future.result().succeeded


def update(db: kvcore.Store, workload: Workload, count: int, seconds: float, report: Report,
           ui: Ui) -> dict[int, int]:
    """All runs of updates, then compaction; returns how often each object was updated."""
    updater = Updater(db, workload, count)
    created = db.revision
    _paced(updater, seconds, report, ui)
    watch(db, updater, workload, count, seconds, report, ui)
    _flat_out(updater, seconds, report, ui)
    cache(db, workload, count, report, ui)
    report.equal("updates refused although nobody else wrote", updater.refused, 0)
    report.equal("revisions given to updates", db.revision - created, sum(updater.turns.values()))
    _compact(db, workload, updater.turns, count, created, report, ui)
    return updater.turns


def _paced(updater: Updater, seconds: float, report: Report, ui: Ui) -> None:
    latencies = Samples()
    flight: deque[tuple[float, int]] = deque()
    total, sent = int(RATE * seconds), 0
    gap = 1e9 / RATE
    with ui.phase(f"update, {RATE:,} a second", total) as step:
        start = time.perf_counter_ns()
        while sent < total or flight:
            due = min(total, int((time.perf_counter_ns() - start) / gap) + 1)
            while sent < due:
                flight.append((start + sent * gap, updater.submit()))
                sent += 1
            finished = 0
            while flight and updater.done(flight[0][1]):
                latencies.add(time.perf_counter_ns() - flight[0][0])
                updater.finish(flight.popleft()[1])
                finished += 1
            step.advance(finished)
            time.sleep(TICK_SECONDS)         # the pace of the loop, not a wait for anything
        took = time.perf_counter_ns() - start
    report.value("updates, paced: reached", "/s", total * 1e9 / took,
                 Claim("12,000/s", RATE, "more"))
    report.time("updates, paced: latency since due", "ms", latencies,
                Claim("p99 140 ms", 140, of="p99"), plot=f"update, paced at {RATE:,}/s")


def _flat_out(updater: Updater, seconds: float, report: Report, ui: Ui) -> None:
    rates = Samples()
    flight: deque[int] = deque()
    with ui.phase("update, as fast as it can", int(seconds * 10)) as step:
        start = mark = time.perf_counter_ns()
        end, tenths, done = start + seconds * 1e9, 0, 0
        while mark < end or done % CHUNK:
            flight.append(updater.submit())
            if len(flight) >= WINDOW:
                updater.finish(flight.popleft())
                done += 1
                if done % CHUNK == 0:
                    now = time.perf_counter_ns()
                    rates.add(CHUNK * 1e9 / (now - mark))
                    mark = now
                    step.advance(int((now - start) / 1e8) - tenths)
                    tenths = int((now - start) / 1e8)
        while flight:
            updater.finish(flight.popleft())
    report.rate("updates, as fast as it can", "/s", rates,
                Claim("12,000/s", RATE, "more"))


def _compact(db: kvcore.Store, workload: Workload, turns: dict[int, int], count: int, created: int,
             report: Report, ui: Ui) -> None:
    sample = list(turns)[:SAMPLE]
    report.equal("updated objects read with another value than was written last",
                 sum(_differs(db, workload, index, turns[index]) for index in sample), 0)
    report.equal("old versions read with another value than was created",
                 sum(_differs(db, workload, index, 0, created) for index in sample), 0)
    before = db.status().versions
    report.equal("versions before the compaction", before, count + sum(turns.values()))
    samples = Samples()
    with ui.phase("compact", 1) as step:
        revision = db.revision
        samples.call(lambda: db.compact(revision, physical=True))
        step.advance(1)
    report.time(f"compact away {before - count:,} versions", "ms", samples)
    report.equal("versions after the compaction", db.status().versions, count)
    report.equal("updated objects that the compaction changed",
                 sum(_differs(db, workload, index, turns[index]) for index in sample), 0)
    _checkpoint(db, count, report, ui)
    try:
        db.get(workload.key(0), revision=created)
        report.check("a compacted revision is refused", False, "it was read")
    except kvcore.CompactedError:
        report.check("a compacted revision is refused", True)


def _checkpoint(db: kvcore.Store, count: int, report: Report, ui: Ui) -> None:
    """Also a moment at which no snapshot of a checkpoint keeps dead blocks: memory is read then."""
    samples = Samples()
    with ui.phase("checkpoint", 1) as step:
        samples.call(db.checkpoint)
        while db.step():                 # what its snapshot kept is given back now
            continue
        step.advance(1)
    status = db.status()
    report.time(f"checkpoint of {count:,} objects", "ms", samples)
    report.value("index memory per key, blocks in use", "B", status.index_live_bytes / count)
    report.equal("revision of the newest checkpoint", status.checkpoint_revision, db.revision)


def _differs(db: kvcore.Store, workload: Workload, index: int, turn: int,
             revision: int | None = None) -> bool:
    key, value = workload.item(index, turn)
    found = db.get(key, revision=revision)
    return found is None or found.value != value or found.version != turn + 1
