# SPDX-License-Identifier: Apache-2.0
"""What does each admission plugin cost a pod, and what does validation behind the write save?

The pod is the one of the comparison with kube-apiserver, in a namespace with nothing but its
default account: no LimitRange, no quota, no webhook. Per plugin: both phases, median of the means
of batches of pods.
Estimate: a look-up or two and a few dictionary reads each: 1-3 us; ServiceAccount 8 us with the
volume it makes. First mark: 5 us a plugin.
The other: a create in process behind a plugin that thinks for 5 ms, before the write and after it.
Estimate: 5 ms less. Real size: KVCORE_BENCH=real.
"""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Any

import pytest

import kvcore
from kvcore.kube.admission import Chain
from kvcore.kube.admission.plugins import PLUGINS, build_chain
from kvcore.kube.api import Api
from kvcore.kube.call import Call
from kvcore.kube.request import ADMIN, Request, Target

REAL = os.environ.get("KVCORE_BENCH") == "real"
PODS = 20_000 if REAL else 500
BATCH = 100
CREATES = 500 if REAL else 20
THINKING = 0.005

POD: dict[str, Any] = {
    "apiVersion": "v1", "kind": "Pod",
    "metadata": {"generateName": "p-", "namespace": "default", "labels": {
        "app": "web", "tier": "front", "pod-template-hash": "6d4cf56db6"},
        "annotations": {"kubernetes.io/config.source": "api"}},
    "spec": {"containers": [{
        "name": "web", "image": "nginx:1.27", "ports": [{"containerPort": 80, "protocol": "TCP"}],
        "env": [{"name": "A", "value": "1"},
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"},
                      "limits": {"cpu": "500m", "memory": "256Mi"}},
        "volumeMounts": [{"name": "c", "mountPath": "/etc/c"}],
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": 80}, "periodSeconds": 10}}],
        "volumes": [{"name": "c", "configMap": {"name": "cfg"}}], "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                         "effect": "NoExecute", "tolerationSeconds": 300}]}}


@contextmanager
def serving(chain: Chain) -> Iterator[tuple[Api, asyncio.AbstractEventLoop]]:
    """An Api over a store in memory with the default namespace and its account."""
    loop = asyncio.new_event_loop()
    with kvcore.open() as db:
        api = Api(db, admission=chain)
        loop.run_until_complete(api.start())
        for plural, kind, name, space in (("namespaces", "Namespace", "default", ""),
                                          ("serviceaccounts", "ServiceAccount", "default",
                                           "default")):
            resource = api.resources.of_path("", "v1", plural)
            assert resource is not None
            obj = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}
            done = db.put(api.layout.key(resource, space, name), api.codec.encode(obj))
            loop.run_until_complete(api.feed.reach(done.revision, mine=True))
        yield api, loop
        loop.run_until_complete(api.stop())
        loop.close()


def calls(api: Api, count: int) -> list[Call]:
    resource = api.resources.of_path("", "v1", "pods")
    assert resource is not None
    target = Target("create", "", "api", "", "v1", "pods", "", "default")
    made = []
    for _ in range(count):
        call = Call(api, Request("POST", ""), target, resource, ADMIN, "CREATE", "default")
        call.object = copy.deepcopy(POD)
        made.append(call)
    return made


def mean_us(api: Api, before: list[Any], hooks: list[Any]) -> float:
    """Of the hooks, over many pods made anew and dropped again, as a server does: the median of
    the means of batches, since a pause of the machine belongs to no plugin."""
    means = []
    while len(means) * BATCH < PODS:
        made = calls(api, BATCH)
        for call in made:
            for hook in before:
                hook(call)
            call.object["metadata"]["name"] = call.name = "p-abcde"
        started = perf_counter()
        for call in made:
            for hook in hooks:
                assert hook(call) is None
        means.append((perf_counter() - started) / BATCH * 1e6)
    return median(means)


DEFAULTS = {row.name for row in PLUGINS if row.default}


@pytest.mark.parametrize("name", [row.name for row in PLUGINS if row.make is not None
                                  and row.name != "AlwaysDeny"])
def test_plugin(benchmark: Any, name: str) -> None:
    """Both hooks of one plugin behind those before it, without what the chain adds."""
    chain = build_chain([name] if name not in DEFAULTS else [])
    with serving(chain) as (api, _):
        plugin = next(p for p in chain.plugins if p.name == name)
        before = [p.admit for p in chain.plugins[:chain.plugins.index(plugin)]
                  if hasattr(p, "admit")]
        hooks = [getattr(plugin, kind) for kind in ("admit", "validate") if hasattr(plugin, kind)]
        benchmark.extra_info["us"] = round(benchmark.pedantic(
            lambda: mean_us(api, before, hooks), rounds=1), 2)


def test_chain(benchmark: Any) -> None:
    """The whole default chain, times included."""
    with serving(build_chain()) as (api, _):
        hooks = [api.admission.mutate, api.admission.validate]
        benchmark.extra_info["us"] = round(benchmark.pedantic(
            lambda: mean_us(api, [], hooks), rounds=1), 2)


class Thinking:
    """A validating plugin that takes its time."""

    name = "Thinking"
    operations = frozenset({"CREATE"})

    async def validate(self, call: Call) -> None:
        await asyncio.sleep(THINKING)


@pytest.mark.parametrize("late", [False, True], ids=["before the write", "after it"])
def test_async_admission(benchmark: Any, late: bool) -> None:
    """One create after another; the median of each."""
    with serving(build_chain(plugins=[Thinking], async_admission=late)) as (api, loop):
        resource = api.resources.of_path("", "v1", "pods")
        assert resource is not None
        times: list[float] = []

        async def run() -> None:
            for _ in range(CREATES):
                obj, started = copy.deepcopy(POD), perf_counter()
                await api.create(resource, obj, "default")
                times.append(perf_counter() - started)

        benchmark.pedantic(lambda: loop.run_until_complete(run()), rounds=1)
        benchmark.extra_info["median_ms"] = round(median(times) * 1e3, 3)
