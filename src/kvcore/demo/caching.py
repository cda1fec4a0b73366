# SPDX-License-Identifier: Apache-2.0
"""What 100,000 events cost in memory: the watch cache fed by the store, and with own objects.

    store ─ watch ─► WatchCache                  a record each; the payload stays in the store's log
    pods as watch events ─► WatchCache           a record and the object, by both policies:
         incremental: the oldest go in place · full: what is kept is copied (the article's "before")

May not know: other phases.
"""

from __future__ import annotations

from typing import Any

import kvcore
from kvcore import manifests
from kvcore.demo.measure import Claim, Report, Ui
from kvcore.demo.workload import Workload

EVENTS = 100_000
WINDOWS = 3                  # how often the cache is filled over
BATCH = 1000


def cache(db: kvcore.Store, workload: Workload, count: int, report: Report, ui: Ui) -> None:
    """Both feeds, both policies."""
    events = max(min(EVENTS, count // 2), 100)
    _from_store(db, events, report, ui)
    peaks = {policy: _own_objects(policy, workload, events, report, ui)
             for policy in ("incremental", "full")}
    report.value("watch cache: peak of incremental below full", "%",
                 100 * (1 - peaks["incremental"] / peaks["full"]), Claim("62 %", 62, "more"))


def _from_store(db: kvcore.Store, events: int, report: Report, ui: Ui) -> None:
    """The newest events of the store's history, delivered by a watch."""
    recent = kvcore.WatchCache("events", capacity=events, compaction_interval=0)
    newest = db.revision
    with ui.phase(f"{events:,} events into a watch cache", events) as step, \
            db.watch(start_revision=newest - events + 1) as watch:
        while len(recent) < events:
            batch = watch.get_batch(BATCH, timeout=0)
            for event in batch:
                recent.add_event(event)
            step.advance(len(batch))
            if not len(batch):
                break
    stats = recent.stats()
    report.equal("events of the store in a watch cache", stats.length, events)
    report.value(f"watch cache: {events:,} events of the store", "MB", stats.bytes / 1e6,
                 Claim("~150 MB", 150, unlike=_unlike(events)))
    sample = recent.events_since(newest - min(events, 100))
    report.equal("cached events that differ from the store", sum(
        event.value != found.value for event in sample
        if (found := db.get(event.key)) is not None
        and found.mod_revision == event.resource_version), 0)


def _own_objects(policy: Any, workload: Workload, events: int, report: Report, ui: Ui) -> int:
    """Pods as an API server sends them, into an arena; returns the peak of bytes."""
    pods = _pods(workload)
    cached = kvcore.WatchCache("pods", capacity=events, compaction_interval=0, policy=policy)
    total = WINDOWS * events
    with ui.phase(f"{total:,} pods, {policy} compaction", total) as step:
        for version in range(1, total + 1):
            pod = pods[version % len(pods)]
            pod["metadata"]["resourceVersion"] = str(version)
            cached.add_event({"type": "MODIFIED", "object": pod})
            if version % BATCH == 0:
                step.advance(BATCH)
    stats = cached.stats()
    cached._check()
    report.check(f"the {policy} watch cache compacted", stats.compactions > 0, "never")
    report.value(f"watch cache: {events:,} pods, {policy}: peak", "MB", stats.peak_bytes / 1e6)
    report.value(f"watch cache: {events:,} pods, {policy}: longest pause", "ms",
                 stats.longest_pause * 1e3,
                 _pause(events) if policy == "full" else None)
    return stats.peak_bytes


def _pause(events: int) -> Claim:
    """What the article says of the policy before the incremental one."""
    return Claim("100-500 ms", 100, most=500, unlike=_unlike(events))


def _unlike(events: int) -> str:
    return "" if events == EVENTS else f"{events:,} events, not {EVENTS:,}"


def _pods(workload: Workload) -> list[dict[str, Any]]:
    """Some hundred different pods."""
    found: list[dict[str, Any]] = []
    index = 0
    while len(found) < 200:
        if workload.resource(index) == "pods":
            found.append(manifests.decode(workload.item(index)[1]))
        index += 1
    return found
