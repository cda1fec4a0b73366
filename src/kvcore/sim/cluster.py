# SPDX-License-Identifier: Apache-2.0
"""A whole cluster of simulated clients over one API server, and what it did.

    Cluster(client, nodes=1000) ── start ── kubelets · scheduler · replica controller ── stop
    simulate(...)               ── a store in memory, an Api and a Cluster on virtual time

>>> report = simulate(nodes=2, replicas=4, seconds=30)
>>> report.bound, report.failures
(4, 0)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import kvcore
from kvcore.kube.admission.plugins import build_chain
from kvcore.kube.api import Api
from kvcore.sim.client import Client, LocalClient, Object
from kvcore.sim.clock import VirtualLoop, direct, virtual_loop
from kvcore.sim.kubelet import LEASE_SECONDS, Kubelet
from kvcore.sim.replicas import ReplicaController
from kvcore.sim.scheduler import Scheduler

__all__ = ["Cluster", "Report", "simulate"]


@dataclass(frozen=True)
class Report:
    """Counts since the start: `bound` pods, `running` ones told by kubelets, `leases` renewed,
    pods `created` and `deleted` by the controller, `failures`: refusals nobody expected;
    `revision` of the store, virtual `seconds`."""

    nodes: int
    bound: int
    running: int
    leases: int
    created: int
    deleted: int
    failures: int
    revision: int
    seconds: float


class Cluster:
    """Args: nodes: how many kubelets; now: seconds since 1970; on_bound: as Scheduler's.

    Start it in an event loop; its renewals are spread over ten seconds.
    """

    def __init__(self, client: Client, nodes: int, *, now: Callable[[], float] = time.time,
                 on_bound: Callable[[str], None] | None = None) -> None:
        self.client = client
        self.kubelets = [Kubelet(client, f"node-{i}", now, number=i,
                                 offset=LEASE_SECONDS * i / max(nodes, 1)) for i in range(nodes)]
        self.scheduler = Scheduler(client, on_bound=on_bound)
        self.controller = ReplicaController(client)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Everybody works; returns when scheduler and controller know the cluster."""
        begin = asyncio.get_running_loop().create_task
        runs = [self.scheduler.run, self.controller.run, *(k.run for k in self.kubelets)]
        self._tasks = [begin(run()) for run in runs]
        for informer in (self.scheduler.pods, self.scheduler.nodes, self.controller.sets,
                         self.controller.pods):
            await self._or_fail(informer.synced.wait())

    async def _or_fail(self, wait: Coroutine[Any, Any, Any]) -> None:
        """Waits, unless one of the parts ends: then its error is raised."""
        waiting = asyncio.ensure_future(wait)
        done, _ = await asyncio.wait([waiting, *self._tasks],
                                     return_when=asyncio.FIRST_COMPLETED)
        if waiting not in done:
            waiting.cancel()
            for task in done:
                task.result()

    async def stop(self) -> None:
        """All end. Errors: the first that a part ended with."""
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for error in ended:
            if isinstance(error, Exception):
                raise error

    def report(self, revision: int, seconds: float) -> Report:
        kubelets, control = self.kubelets, self.controller
        return Report(
            nodes=len(kubelets), bound=self.scheduler.bound,
            running=sum(k.started for k in kubelets), leases=sum(k.renewals for k in kubelets),
            created=control.created, deleted=control.deleted,
            failures=(self.scheduler.failures + control.failures
                      + sum(k.failures for k in kubelets)),
            revision=revision, seconds=seconds)


def replica_set(name: str, replicas: int, namespace: str = "default") -> Object:
    """A small one, complete."""
    labels = {"app": name}
    return {"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                     "template": {"metadata": {"labels": labels}, "spec": {"containers": [
                         {"name": "main", "image": "registry.example/main:1"}]}}}}


def simulate(*, nodes: int, replicas: int = 0, seconds: float = 60.0, **options: Any) -> Report:
    """A cluster on virtual time, with default admission, over a store in memory (or `path=` and
    other options of kvcore.open).

    Args: replicas: pods asked for by one ReplicaSet; seconds: virtual ones.
    Cost: about half a millisecond of real time a lease renewed.
    """
    async def main(loop: VirtualLoop) -> Report:
        with kvcore.open(**options) as store:
            api = direct(Api(store, admission=build_chain(), clock=loop.time, now=loop.now))
            await api.start()
            cluster = Cluster(LocalClient(api), nodes, now=loop.now)
            try:
                await cluster.start()
                if replicas:
                    await cluster.client.request(
                        "POST", "/apis/apps/v1/namespaces/default/replicasets",
                        replica_set("web", replicas))
                await asyncio.sleep(seconds - loop.time())
                return cluster.report(store.revision, loop.time())
            finally:
                await cluster.stop()
                await api.stop()

    return virtual_loop(main)
