# SPDX-License-Identifier: Apache-2.0
"""What does the API server's watch cache cost: an event taken in, a page, watchers, memory?

The pods are of 1 KB, shaped like one that a controller makes. Estimates: an event 5 us (1 us out of
the store's watch, 1 us its version, 1 us the state, half of them the collector's), with kubelets
watching 5 us more (its decoding); a page of 500 60 us, most of it one copy of 500 KB; an event to
1,000 watchers of everything 1 ms; to 1,000 kubelets 2 us; a cached pod 350 bytes beside its own; a
watcher 4 KB.
Size: smoke by default, real with KVCORE_BENCH=real.
"""

from __future__ import annotations

import asyncio
import os
import random
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter
from typing import Any

import pytest

import kvcore
from kvcore.kube.api import Api
from kvcore.kube.caching import SortedKeys
from kvcore.kube.codec import CODECS
from kvcore.kube.request import ADMIN, Request

REAL = os.environ.get("KVCORE_BENCH") == "real"
PODS = 20_000 if REAL else 500
WATCHERS = 1000 if REAL else 50
ROUNDS = 5 if REAL else 1


def pod(i: int, node: str = "") -> bytes:
    """About 1 KB as it is stored."""
    return CODECS["json"].encode({
        "apiVersion": "v1", "kind": "Pod", "metadata": {
            "generateName": "p-", "name": f"p-{i:06}", "namespace": "default",
            "labels": {"app": "web", "tier": "front", "pod-template-hash": "6d4cf56db6"},
            "annotations": {"kubernetes.io/config.source": "api"},
            "uid": f"0c2d5b1e-7f0a-4c8e-9d21-{i:012}",
            "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1},
        "spec": {"nodeName": node, "containers": [{
            "name": "web", "image": "nginx:1.27",
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "env": [{"name": "A", "value": "1"},
                    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"},
                          "limits": {"cpu": "500m", "memory": "256Mi"}},
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": 80}, "periodSeconds": 10}}],
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                             "effect": "NoExecute", "tolerationSeconds": 300}]}})


def key(i: int) -> bytes:
    return b"/registry/pods/default/p-%06d" % i


def with_api(main: Callable[[kvcore.Store, Api], Awaitable[None]]) -> None:
    async def whole() -> None:
        with kvcore.open(maintenance=False) as db:
            api = Api(db)
            await api.start()
            await main(db, api)
            await api.stop()
    asyncio.run(whole())


def fill(db: kvcore.Store, n: int) -> None:
    order = list(range(n))
    random.Random(1).shuffle(order)
    db.put_many([(key(i), pod(i, f"n{i % WATCHERS}")) for i in order])


async def watch(api: Api, query: str = "") -> AsyncIterator[bytes]:
    """A watch from now on, taken in by the cacher."""
    url = f"/api/v1/pods?watch=1&timeoutSeconds=3600&resourceVersion={api.store.revision}{query}"
    chunks = (await api.handle(Request.of("GET", url, user=ADMIN))).chunks
    assert chunks is not None
    await anext(chunks)
    return chunks


@pytest.mark.parametrize("kubelets", [False, True])
def test_taking_in(benchmark: Any, kubelets: bool) -> None:
    """From the store's watch into the cache, new pods in random order."""
    took: list[float] = []

    async def main(db: kvcore.Store, api: Api) -> None:
        api.feed.cacher(api.resources.of_path("", "v1", "pods"))
        watches = [await watch(api, f"&fieldSelector=spec.nodeName=n{i}")
                   for i in range(WATCHERS)] if kubelets else []
        fill(db, PODS)
        began = perf_counter()
        api.feed.catch_up()
        took.append(perf_counter() - began)
        for each in watches:
            await each.aclose()              # type: ignore[attr-defined]

    benchmark.pedantic(lambda: with_api(main), rounds=ROUNDS)
    benchmark.extra_info["us_per_event"] = round(min(took) / PODS * 1e6, 2)


@pytest.mark.parametrize("query", ["limit=500", "limit=500&labelSelector=app=web",
                                   "resourceVersion=0"])
def test_list(benchmark: Any, query: str) -> None:
    """Through the whole handler, without a socket; of the selector's the second time and on."""
    took: list[float] = []
    sizes: list[int] = []

    async def main(db: kvcore.Store, api: Api) -> None:
        fill(db, PODS)
        request = Request.of("GET", f"/api/v1/pods?{query}", user=ADMIN)
        for _ in range(20 if REAL else 2):
            began = perf_counter()
            answer = await api.handle(request)
            took.append(perf_counter() - began)
            sizes.append(len(answer.body))

    benchmark.pedantic(lambda: with_api(main), rounds=1)
    benchmark.extra_info["us"] = round(min(took) * 1e6, 1)
    benchmark.extra_info["kb"] = sizes[0] // 1000


@pytest.mark.parametrize("kubelets", [False, True])
def test_fan_out(benchmark: Any, kubelets: bool) -> None:
    """Events to watchers, each a task that takes its lines: deliveries a second."""
    rates: list[float] = []
    events = 200 if REAL else 5

    async def main(db: kvcore.Store, api: Api) -> None:
        watches = [await watch(api, f"&fieldSelector=spec.nodeName=n{i}" if kubelets else "")
                   for i in range(WATCHERS)]
        expected = events * (1 if kubelets else WATCHERS)
        done = asyncio.get_running_loop().create_future()
        seen = 0

        async def follow(chunks: AsyncIterator[bytes]) -> None:
            nonlocal seen
            async for chunk in chunks:
                seen += chunk.count(b"\n")
                if seen == expected:
                    done.set_result(None)

        tasks = [asyncio.create_task(follow(each)) for each in watches]
        await asyncio.sleep(0)
        began = perf_counter()
        for i in range(events):
            db.put(key(i), pod(i, f"n{i % WATCHERS}"))
            await asyncio.sleep(0)
        await done
        rates.append(expected / (perf_counter() - began))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    benchmark.pedantic(lambda: with_api(main), rounds=ROUNDS)
    benchmark.extra_info["deliveries_per_s"] = round(max(rates))


def test_memory(benchmark: Any) -> None:
    """Python's bytes: a cached pod, as it is and once a selector has looked into it; a watcher."""
    found: dict[str, float] = {}

    async def main(db: kvcore.Store, api: Api) -> None:
        fill(db, PODS)
        tracemalloc.start()
        cacher = api.feed.cacher(api.resources.of_path("", "v1", "pods"))
        plain = tracemalloc.get_traced_memory()[0]
        found["stored"] = sum(len(e.key) + len(e.body) for e in cacher.state.values()) / PODS
        found["cached"] = plain / PODS
        for entry in cacher.state.values():
            assert entry.labels and entry.fields
        looked = tracemalloc.get_traced_memory()[0]
        found["looked_into"] = looked / PODS
        watches = [await watch(api, f"&fieldSelector=spec.nodeName=n{i}")
                   for i in range(WATCHERS)]
        found["watcher"] = (tracemalloc.get_traced_memory()[0] - looked) / WATCHERS
        tracemalloc.stop()
        for each in watches:
            await each.aclose()              # type: ignore[attr-defined]

    benchmark.pedantic(lambda: with_api(main), rounds=1)
    benchmark.extra_info.update({name: round(n) for name, n in found.items()})


@pytest.mark.parametrize("n", [6000, 200_000])
def test_keys(benchmark: Any, n: int) -> None:
    """A key added and removed somewhere among n."""
    n = n if REAL else n // 100
    rng = random.Random(2)
    keys = SortedKeys(key(rng.randrange(10 ** 6)) + b"-%d" % i for i in range(n))
    more = [key(rng.randrange(10 ** 6)) + b"-x%d" % i for i in range(1000)]

    def run() -> None:
        for each in more:
            keys.add(each)
        for each in more:
            keys.remove(each)

    benchmark.pedantic(run, rounds=max(ROUNDS, 3))
    benchmark.extra_info["us_both"] = round(benchmark.stats.stats.min / len(more) * 1e6, 2)


def test_metrics(benchmark: Any) -> None:
    """One observation of a histogram with its labels."""
    from kvcore.kube.metrics import Metrics
    observe = Metrics().stages.observe
    n = 10_000

    def run() -> None:
        for _ in range(n):
            observe(("create", "store"), 0.0001)

    benchmark.pedantic(run, rounds=max(ROUNDS, 3))
    benchmark.extra_info["us"] = round(benchmark.stats.stats.min / n * 1e6, 3)
