# SPDX-License-Identifier: Apache-2.0
"""A replica controller as the API server sees it: as many pods as each ReplicaSet asks for.

    ReplicaSet or one of its pods changed ── queue of names ── count ── POST or DELETE pods
                                                                    └── PATCH status

Pods are found by their controller owner reference. What was asked for and has not come back through
the watch yet is remembered (expectations), so that a slow watch makes no pod twice.
"""

from __future__ import annotations

import asyncio

from kvcore.kube.status import ApiError
from kvcore.sim.client import MERGE_PATCH, Client, Object
from kvcore.sim.informer import Informer, key_of

__all__ = ["ReplicaController"]

BURST = 500                      # pods made for one ReplicaSet in one go; they bring it back
AT_ONCE = 16                     # requests in flight


def owner_of(pod: Object) -> str | None:
    """The uid of the controller that owns a pod."""
    for reference in pod["metadata"].get("ownerReferences", ()):
        if reference.get("controller"):
            return str(reference["uid"])
    return None


class ReplicaController:
    """See the module."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.created = self.deleted = self.failures = 0
        self._pods_of: dict[str, dict[str, Object]] = {}     # uid -> pods by key
        self._expected: dict[str, set[str]] = {}             # uid -> keys made, not seen yet
        self._leaving: set[str] = set()                      # keys of pods that were deleted
        self._keys: dict[str, str] = {}                      # uid -> key of the ReplicaSet
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._flight = asyncio.Semaphore(AT_ONCE)
        self.sets = Informer(client, "/apis/apps/v1/replicasets", "", self._set)
        self.pods = Informer(client, "/api/v1/pods", "", self._pod)

    def _set(self, type: str, obj: Object) -> None:
        uid = obj["metadata"]["uid"]
        if type == "DELETED":
            self._keys.pop(uid, None)
        else:
            self._keys[uid] = key_of(obj)
        self._enqueue(uid)

    def _pod(self, type: str, pod: Object) -> None:
        uid, key = owner_of(pod), key_of(pod)
        if uid is None:
            return
        pods = self._pods_of.setdefault(uid, {})
        self._expected.get(uid, set()).discard(key)
        if type == "DELETED" or "deletionTimestamp" in pod["metadata"]:
            pods.pop(key, None)
            if type == "DELETED":
                self._leaving.discard(key)
        else:
            pods[key] = pod
        self._enqueue(uid)

    def _enqueue(self, uid: str) -> None:
        if uid not in self._queued:
            self._queued.add(uid)
            self._queue.put_nowait(uid)

    async def run(self) -> None:
        """Until cancelled."""
        tasks = [asyncio.ensure_future(work) for work in (self.sets.run(), self.pods.run(),
                                                          self._work())]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        await self.sets.synced.wait()
        await self.pods.synced.wait()
        while True:
            uid = await self._queue.get()
            self._queued.discard(uid)
            owner = self.sets.objects.get(self._keys.get(uid, ""))
            if owner is None or "deletionTimestamp" in owner["metadata"]:
                continue
            await self._sync(owner)

    async def _sync(self, owner: Object) -> None:
        """One look at one ReplicaSet."""
        uid = owner["metadata"]["uid"]
        pods = [key for key in self._pods_of.get(uid, {}) if key not in self._leaving]
        coming = self._expected.setdefault(uid, set())
        missing = owner["spec"].get("replicas", 1) - len(pods) - len(coming)
        if missing > 0:
            await asyncio.gather(*(self._make(owner) for _ in range(min(missing, BURST))))
        elif missing < 0:
            await asyncio.gather(*(self._remove(key) for key in pods[missing:]))
        await self._report(owner)

    async def _make(self, owner: Object) -> None:
        metadata, template = owner["metadata"], owner["spec"]["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "spec": template["spec"], "metadata": {
            "generateName": metadata["name"] + "-",
            "labels": template.get("metadata", {}).get("labels", {}),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                                 "name": metadata["name"], "uid": metadata["uid"],
                                 "controller": True, "blockOwnerDeletion": True}]}}
        async with self._flight:
            try:
                made = await self.client.request(
                    "POST", f"/api/v1/namespaces/{metadata['namespace']}/pods", pod)
            except ApiError:
                self.failures += 1
                return
        self.created += 1
        key = key_of(made)
        if key not in self._pods_of.get(metadata["uid"], {}):
            self._expected[metadata["uid"]].add(key)

    async def _remove(self, key: str) -> None:
        namespace, _, name = key.partition("/")
        self._leaving.add(key)
        async with self._flight:
            try:
                await self.client.request("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}")
                self.deleted += 1
            except ApiError as error:
                if error.code != 404:
                    self._leaving.discard(key)
                    self.failures += 1

    async def _report(self, owner: Object) -> None:
        """The status, if it says something else than before."""
        metadata = owner["metadata"]
        pods = self._pods_of.get(metadata["uid"], {}).values()
        ready = sum(pod.get("status", {}).get("phase") == "Running" for pod in pods)
        said = owner.get("status", {})
        if (said.get("replicas"), said.get("readyReplicas", 0)) == (len(pods), ready):
            return
        url = (f"/apis/apps/v1/namespaces/{metadata['namespace']}/replicasets/{metadata['name']}"
               "/status")
        try:
            await self.client.request("PATCH", url, {"status": {
                "replicas": len(pods), "readyReplicas": ready, "availableReplicas": ready,
                "fullyLabeledReplicas": len(pods),
                "observedGeneration": metadata.get("generation", 0)}}, MERGE_PATCH)
        except ApiError as error:
            if error.code != 404:
                self.failures += 1
