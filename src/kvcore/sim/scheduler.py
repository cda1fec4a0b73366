# SPDX-License-Identifier: Apache-2.0
"""A scheduler as the API server sees it: watches pods without a node, and binds them.

    pod with spec.nodeName "" ── queue ── the node with the fewest pods ── POST pods/<name>/binding

Which node is best is not its study; what the API server must carry is: one watch of unassigned
pods, one of all nodes, one of the assigned pods' counts, one binding a pod.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from kvcore.kube.status import ApiError
from kvcore.sim.client import Client, Object
from kvcore.sim.informer import Informer, key_of

__all__ = ["Scheduler"]


class Scheduler:
    """Args: workers: bindings in flight at once; on_bound: called with namespace/name."""

    def __init__(self, client: Client, *, workers: int = 8, name: str = "default-scheduler",
                 on_bound: Callable[[str], None] | None = None) -> None:
        self.client, self.workers, self.name, self.on_bound = client, workers, name, on_bound
        self.bound = self.failures = 0
        self._queue: asyncio.Queue[Object] = asyncio.Queue()
        self._nodes: list[tuple[int, str]] = []       # heap of (pods, node)
        self._known: set[str] = set()
        self._free = asyncio.Event()                  # there is a node
        self.pods = Informer(client, "/api/v1/pods",
                             f"fieldSelector=spec.nodeName%3D,spec.schedulerName%3D{name}",
                             self._pod)
        self.nodes = Informer(client, "/api/v1/nodes", "", self._node)

    def _pod(self, type: str, pod: Object) -> None:
        if type == "ADDED" and "deletionTimestamp" not in pod["metadata"]:
            self._queue.put_nowait(pod)

    def _node(self, type: str, node: Object) -> None:
        name = node["metadata"]["name"]
        usable = type != "DELETED" and not node.get("spec", {}).get("unschedulable")
        if usable and name not in self._known:
            self._known.add(name)
            heapq.heappush(self._nodes, (0, name))
            self._free.set()
        elif not usable and name in self._known:      # or it would stand twice when it is back
            self._known.discard(name)
            self._nodes = [entry for entry in self._nodes if entry[1] != name]
            heapq.heapify(self._nodes)

    def pick(self) -> str | None:
        """The node with the fewest pods bound by this scheduler; None: there is none."""
        if not self._nodes:
            self._free.clear()
            return None
        pods, name = self._nodes[0]
        heapq.heapreplace(self._nodes, (pods + 1, name))
        return name

    async def run(self) -> None:
        """Until cancelled."""
        tasks = [asyncio.ensure_future(work) for work in (
            self.nodes.run(), self.pods.run(), *(self._bind() for _ in range(self.workers)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _bind(self) -> None:
        while True:
            pod = await self._queue.get()
            node = self.pick()
            while node is None:
                await self._free.wait()
                node = self.pick()
            metadata = pod["metadata"]
            url = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/binding"
            try:
                await self.client.request("POST", url, {
                    "apiVersion": "v1", "kind": "Binding",
                    "metadata": {"name": metadata["name"], "namespace": metadata["namespace"],
                                 "uid": metadata["uid"]},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": node}})
            except ApiError as error:
                if error.code not in (404, 409):
                    self.failures += 1
                continue
            self.bound += 1
            if self.on_bound is not None:
                self.on_bound(key_of(pod))
