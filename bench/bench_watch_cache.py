# SPDX-License-Identifier: Apache-2.0
"""What does the watch cache cost: adding an event, reading since a version, memory, compactions?

Objects are shaped like pods and made here. Estimates: a store's event 0.1 us (its record; key and
value stay in the log); a pod of 1.5 KB 10 us, nearly all of it msgpack (`pack_us` stands beside
it); events_since 1 us and 0.1 us an event; 100,000 events 50 bytes each beside their payload (10 MB
are the goal, 100 bytes); dropping a fifth in place 0.1 ms of records and 2 ms of blocks, rebuilding
150 MB 100 ms and both copies in memory.
Size: smoke by default, real with KVCORE_BENCH=real.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from typing import Any

import msgpack
import pytest

import kvcore
from kvcore.testing._ring_probe import RingProbe

REAL = os.environ.get("KVCORE_BENCH") == "real"
EVENTS = 100_000 if REAL else 2000
ROUNDS = 5 if REAL else 1
POLICIES = ["incremental", "full"]


def pod(rng: random.Random, version: int) -> dict[str, Any]:
    """An object of about 1.5 KB of msgpack, as a controller writes it."""
    app = rng.choice(["api", "web", "auth", "cache", "queue", "worker"])
    name = f"{app}-{rng.getrandbits(40):010x}-{rng.getrandbits(20):05x}"
    stamp = "2025-11-25T12:00:00Z"
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": f"team-{rng.randrange(50)}",
            "uid": f"{rng.getrandbits(128)}",
            "resourceVersion": str(version), "creationTimestamp": stamp,
            "labels": {"app": app, "pod-template-hash": f"{rng.getrandbits(40):010x}"},
            "annotations": {"checksum/config": f"{rng.getrandbits(256):064x}"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app,
                                 "uid": f"{rng.getrandbits(128)}", "controller": True}],
        },
        "spec": {
            "nodeName": f"node-{rng.randrange(1000)}", "serviceAccountName": "default",
            "containers": [{
                "name": c, "image": f"registry.example/{app}/{c}:{rng.randrange(100)}",
                "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                "env": [{"name": f"SETTING_{i}", "value": f"{rng.getrandbits(64)}"}
                        for i in range(4)],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
            } for c in ("main", "proxy")],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                             "effect": "NoExecute", "tolerationSeconds": 300}],
        },
        "status": {
            "phase": "Running", "podIP": f"10.0.{rng.randrange(256)}.{rng.randrange(256)}",
            "conditions": [{"type": t, "status": "True", "lastTransitionTime": stamp}
                           for t in ("Initialized", "Ready", "ContainersReady", "PodScheduled")],
        },
    }


def pods(n: int, first: int = 1) -> list[dict[str, Any]]:
    """n watch events; the objects are a thousand, with a version of their own each."""
    rng = random.Random(1)
    shapes = [pod(rng, 1) for _ in range(1000)]
    return [{"type": "MODIFIED", "object": {**shapes[i % 1000], "metadata": {
        **shapes[i % 1000]["metadata"], "resourceVersion": str(first + i)}}} for i in range(n)]


def changes(n: int, value: bytes = b"v" * 100) -> Sequence[kvcore.Event]:
    """n events of a store in memory, as its watch delivers them; the first is of revision 2."""
    with kvcore.open(watch_capacity=2 * n) as db:
        watch = db.watch()
        db.put_many([(b"/registry/pods/team/app-%010d" % i, value) for i in range(n)])
        return list(watch.get_batch(n))      # events outlive their store


def add_all(cache: kvcore.WatchCache, events: Sequence[Any]) -> int:
    """Adds them; nanoseconds."""
    add = cache.add_event
    began = time.perf_counter_ns()
    for event in events:
        add(event)
    return time.perf_counter_ns() - began


@pytest.mark.parametrize("kind", ["change", "pod"])
def test_add_event(benchmark, kind: str) -> None:
    """One event after the other, into a cache with room."""
    events = changes(EVENTS) if kind == "change" else pods(EVENTS)
    took: list[int] = []

    def run() -> None:
        took.append(add_all(kvcore.WatchCache("pods", EVENTS), events))

    benchmark.pedantic(run, rounds=ROUNDS)
    benchmark.extra_info["us_per_event"] = round(min(took) / EVENTS / 1e3, 3)
    if kind == "pod":
        began = time.perf_counter_ns()
        for event in events:
            msgpack.packb(event["object"])
        benchmark.extra_info["pack_us"] = round(
            (time.perf_counter_ns() - began) / EVENTS / 1e3, 3)


@pytest.mark.parametrize("back", [0, 1, 100, EVENTS])
def test_events_since(benchmark, back: int) -> None:
    """A watcher that is `back` events behind."""
    cache = kvcore.WatchCache("pods", EVENTS)
    add_all(cache, changes(EVENTS))
    calls = 1 if back == EVENTS else 1000

    def run() -> None:
        for _ in range(calls):
            cache.events_since(newest - back)

    newest = cache.stats().newest_version
    assert len(cache.events_since(newest - back)) == back
    benchmark.pedantic(run, rounds=max(ROUNDS, 3))
    benchmark.extra_info["us_per_call"] = round(benchmark.stats.stats.min / calls * 1e6, 3)


@pytest.mark.parametrize("kind", ["change", "pod"])
def test_touching(benchmark, kind: str) -> None:
    """What reading a store's values, or decoding objects, costs whoever looks at them."""
    cache = kvcore.WatchCache("pods", EVENTS)
    add_all(cache, changes(EVENTS) if kind == "change" else pods(EVENTS))

    def run() -> list[Any]:
        events = cache.events_since(0, 1000)
        return [event.value if kind == "change" else event.object for event in events]

    benchmark.pedantic(run, rounds=max(ROUNDS, 3))
    benchmark.extra_info["us_per_event"] = round(
        benchmark.stats.stats.min / min(EVENTS, 1000) * 1e6, 2)


@pytest.mark.parametrize("kind", ["change", "pod"])
def test_memory(benchmark, kind: str) -> None:
    """Bytes an event, beside its payload and in all; the goal is 100 beside it."""
    events = changes(EVENTS) if kind == "change" else pods(EVENTS)
    cache = kvcore.WatchCache("pods", EVENTS)
    benchmark.pedantic(lambda: add_all(cache, events), rounds=1)
    stats = cache.stats()
    beside = stats.bytes - (stats.payload_bytes if kind == "pod" else 0)
    benchmark.extra_info["beside_payload"] = round(beside / EVENTS, 1)
    benchmark.extra_info["payload"] = round(stats.payload_bytes / EVENTS, 1)
    benchmark.extra_info["mb"] = round(stats.bytes / 1e6, 2)
    if REAL:
        assert beside <= 10_000_000


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["change", "pod"])
def test_compaction(benchmark, kind: str, policy: str) -> None:
    """Three windows of events pass through, compacted whenever 110 % are reached."""
    cache = kvcore.WatchCache("pods", EVENTS, compaction_interval=0, policy=policy)
    events = changes(3 * EVENTS) if kind == "change" else None

    def run() -> None:
        for first in range(1, 3 * EVENTS, 1000):
            add_all(cache, events[first - 1:first + 999] if events else pods(1000, first))

    benchmark.pedantic(run, rounds=1)
    stats = cache.stats()
    benchmark.extra_info["compactions"] = stats.compactions
    benchmark.extra_info["longest_pause_ms"] = round(stats.longest_pause * 1e3, 4)
    benchmark.extra_info["peak_mb"] = round(stats.peak_bytes / 1e6, 1)
    benchmark.extra_info["held_mb"] = round(stats.bytes / 1e6, 1)


@pytest.mark.parametrize("payload", [0, 100, 1500])
def test_the_ring_alone(benchmark, payload: int) -> None:
    """A push and the question whether to compact, in C; the store's hub pays this per event."""
    took: list[int] = []

    def run() -> None:
        took.append(RingProbe(EVENTS).time_pushes(1, EVENTS * 3, payload))

    benchmark.pedantic(run, rounds=ROUNDS)
    benchmark.extra_info["ns_per_push"] = round(min(took) / EVENTS / 3, 1)
