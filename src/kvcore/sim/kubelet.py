# SPDX-License-Identifier: Apache-2.0
"""A kubelet as the API server sees it: its node, its lease, the status of its pods.

    start    POST node · POST lease in kube-node-lease
    10 s     PUT lease (renewTime)                           the load of a quiet cluster
    5 min    PATCH node status (Ready)
    pod      watched by fieldSelector spec.nodeName=<node>:
             bound  -> PATCH status Running, Ready, podIP
             deletionTimestamp set -> DELETE with grace 0
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kvcore.kube.meta import rfc3339
from kvcore.kube.status import ApiError
from kvcore.sim.client import MERGE_PATCH, Client, Object
from kvcore.sim.informer import Informer

__all__ = ["Kubelet"]

LEASE_SECONDS = 10.0             # between two renewals; a lease holds four times as long
STATUS_SECONDS = 300.0           # node status without a change
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


def micro_time(seconds: float) -> str:
    """RFC 3339 with microseconds."""
    return f"{rfc3339(seconds)[:-1]}.{int(seconds % 1 * 1e6):06d}Z"


class Kubelet:
    """Args: now: seconds since 1970; offset: seconds before its first renewal, so that nodes do
    not all renew at once."""

    def __init__(self, client: Client, name: str, now: Callable[[], float], *, offset: float = 0.0,
                 number: int = 0, pods: int = 110) -> None:
        self.client, self.name, self.now, self.offset = client, name, now, offset
        self.capacity = {"cpu": "8", "memory": "32Gi", "pods": str(pods)}
        self.subnet = f"10.{number >> 8 & 255}.{number & 255}"
        self.renewals = self.started = self.removed = self.failures = 0
        self._lease: Object = {}
        self._work: asyncio.Queue[Object] = asyncio.Queue()
        self._seen: dict[str, str] = {}          # uid of a pod -> its address, "": none yet
        self.informer = Informer(client, "/api/v1/pods", f"fieldSelector=spec.nodeName%3D{name}",
                                 self._changed)

    async def run(self) -> None:
        """Until cancelled."""
        await self.register()
        tasks = [asyncio.ensure_future(work) for work in (
            self.informer.run(), self._pods(), self._renew(), self._report())]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def register(self) -> None:
        """Node and lease; those of an earlier life are taken over."""
        node = {"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name}},
                "spec": {}, "status": {"capacity": self.capacity, "allocatable": self.capacity}}
        await self._create("/api/v1/nodes", node)
        await self._create(LEASES, {
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": self.name, "namespace": "kube-node-lease"},
            "spec": self._lease_spec()})
        self._lease = await self.client.request("GET", f"{LEASES}/{self.name}")
        await self._ready()

    async def _create(self, url: str, obj: Object) -> None:
        try:
            await self.client.request("POST", url, obj)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    def _lease_spec(self) -> Object:
        return {"holderIdentity": self.name, "leaseDurationSeconds": int(4 * LEASE_SECONDS),
                "renewTime": micro_time(self.now())}

    async def _renew(self) -> None:
        await asyncio.sleep(self.offset)
        while True:
            self._lease["spec"] = self._lease_spec()
            try:
                self._lease = await self.client.request("PUT", f"{LEASES}/{self.name}",
                                                        self._lease)
                self.renewals += 1
            except ApiError as error:
                self.failures += 1
                if error.code in (404, 409):
                    await self.register()
            await asyncio.sleep(LEASE_SECONDS)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(STATUS_SECONDS)
            await self._ready()

    async def _ready(self) -> None:
        at = rfc3339(self.now())
        status = {"status": {"conditions": [{"type": "Ready", "status": "True",
                                             "reason": "KubeletReady", "lastHeartbeatTime": at,
                                             "lastTransitionTime": at}],
                             "capacity": self.capacity, "allocatable": self.capacity}}
        await self.client.request("PATCH", f"/api/v1/nodes/{self.name}/status", status,
                                  MERGE_PATCH)

    # --- pods -----------------------------------------------------------------------------------

    def _changed(self, type: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if type == "DELETED":
            self._seen.pop(uid, None)
        elif "deletionTimestamp" in pod["metadata"]:
            self._work.put_nowait(pod)
        elif uid not in self._seen:
            self._seen[uid] = pod.get("status", {}).get("podIP", "")
            self._work.put_nowait(pod)

    async def _pods(self) -> None:
        while True:
            pod = await self._work.get()
            metadata = pod["metadata"]
            url = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
            try:
                if "deletionTimestamp" in metadata:
                    await self.client.request("DELETE", url, {"gracePeriodSeconds": 0})
                    self.removed += 1
                elif pod.get("status", {}).get("phase") != "Running":
                    await self.client.request("PATCH", url + "/status", self._running(pod),
                                              MERGE_PATCH)
                    self.started += 1
            except ApiError as error:
                if error.code not in (404, 409):
                    self.failures += 1

    def _address(self) -> str:
        """One that no pod here has; more pods than a subnet has addresses share its last."""
        taken = set(self._seen.values())
        return next((address for address in (f"{self.subnet}.{n}" for n in range(1, 254))
                     if address not in taken), f"{self.subnet}.254")

    def _running(self, pod: Object) -> Object:
        at = rfc3339(self.now())
        address = self._address()
        if pod["metadata"]["uid"] in self._seen:
            self._seen[pod["metadata"]["uid"]] = address
        statuses = [{"name": c["name"], "image": c.get("image", ""), "imageID": "", "ready": True,
                     "restartCount": 0, "started": True, "state": {"running": {"startedAt": at}}}
                    for c in pod["spec"]["containers"]]
        return {"status": {
            "phase": "Running", "startTime": at, "podIP": address,
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": at}
                           for kind in ("PodScheduled", "Initialized", "ContainersReady",
                                        "Ready")],
            "containerStatuses": statuses}}
