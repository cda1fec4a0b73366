# SPDX-License-Identifier: Apache-2.0
"""How many objects a second does the create path make, in process, and where does the time go?

Pods as a client sends them, through every stage, into a durable store: one after the other, and 256
in flight. `stages` is the mean of each in microseconds: waiting for the store's sync is in `store`,
for the watch cache in `observe`.
Estimate: 60 us of Python a create; with 256 in flight a sync is shared by all that came meanwhile:
10,000 a second on one core. First mark: that.
Real size: KVCORE_BENCH=real.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

import kvcore
from kvcore.kube.admission.plugins import build_chain
from kvcore.kube.api import Api

REAL = os.environ.get("KVCORE_BENCH") == "real"
COUNT = 20_000 if REAL else 512

POD = orjson.dumps({
    "apiVersion": "v1", "kind": "Pod",
    "metadata": {"generateName": "p-", "labels": {"app": "web", "pod-template-hash": "6d4cf56db6"},
                 "annotations": {"kubernetes.io/config.source": "api"}},
    "spec": {
        "containers": [{
            "name": "web", "image": "nginx:1.27", "ports": [{"containerPort": 80}],
            "env": [{"name": "A", "value": "1"}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"},
                          "limits": {"cpu": "500m", "memory": "256Mi"}},
            "volumeMounts": [{"name": "c", "mountPath": "/etc/c"}],
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": 80}}}],
        "volumes": [{"name": "c", "configMap": {"name": "cfg"}}], "nodeSelector": {"disk": "ssd"}}})


async def creates(api: Api, count: int, in_flight: int) -> None:
    """That many, by as many workers as are to be in flight."""
    pods = api.resources.of_path("", "v1", "pods")
    assert pods is not None
    left = iter(range(count))

    async def work() -> None:
        for _ in left:
            await api.create(pods, orjson.loads(POD), "default")
    await asyncio.gather(*(work() for _ in range(in_flight)))


def served(path: Path, work: Callable[[Api], Awaitable[None]]) -> Api:
    """The work over a durable store of its own. Returns: the server, for its measures."""
    async def main() -> Api:
        with kvcore.open(path) as store:
            api = Api(store, admission=build_chain())
            await api.start()
            try:
                await work(api)
            finally:
                await api.stop()
            return api
    return asyncio.run(main())


@pytest.mark.parametrize("in_flight", [1, 256])
def test_creates(benchmark: Any, tmp_path: Path, in_flight: int) -> None:
    """A round is COUNT creates (a tenth of them one after the other)."""
    count = COUNT if in_flight > 1 else max(COUNT // 10, 50)
    numbers = iter(range(1000))
    last: list[Api] = []

    def run() -> None:
        last.append(served(tmp_path / str(next(numbers)),
                           lambda api: creates(api, count, in_flight)))
    benchmark.pedantic(run, rounds=5 if REAL else 2, warmup_rounds=1)
    stages = last[-1].metrics.stages
    benchmark.extra_info["creates_per_s"] = round(count / benchmark.stats.stats.median)
    benchmark.extra_info["stages_us"] = {
        name: round(total[0] / sum(counts) * 1e6, 1)
        for (verb, name), (counts, total) in stages.counts.items() if verb == "create"}


def test_start(benchmark: Any, tmp_path: Path) -> None:
    """An empty store with the system's namespaces in it: what a test waits for."""
    numbers = iter(range(1000))

    async def nothing(api: Api) -> None:
        return None
    benchmark.pedantic(lambda: served(tmp_path / str(next(numbers)), nothing), rounds=5)
