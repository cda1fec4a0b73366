# SPDX-License-Identifier: Apache-2.0
"""What of a quota is used, counted from nothing: when a quota appears or changes, when objects go.

    resourcequotas   put whose spec.hard is not status.hard   ─┐
    what they count  delete; a pod that has finished           ├─> recount(namespace), soon
    every five minutes all of them                            ─┘

    recount: read everything up to now; per quota: sum over the objects + requests in flight;
             status {hard, used}: put if unchanged; changed by others: once more

Only resources that some quota counts are followed. Thread safety: the server's event loop.
Source: kubernetes pkg/controller/resourcequota.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from kvcore import Event, Range, Txn
from kvcore.errors import ClosedError, Error
from kvcore.kube.admission.lookups import Lister
from kvcore.kube.admission.podresources import Amounts, add, amounts
from kvcore.kube.admission.usage import Evaluator, evaluator, scopes_of
from kvcore.kube.call import Call, Object
from kvcore.kube.codec import json_of, object_of
from kvcore.kube.quantity import ZERO
from kvcore.kube.resources import Resource
from kvcore.kube.storage import Changed

if TYPE_CHECKING:
    from kvcore.kube.api import Api

__all__ = ["Inflight", "QuotaStatus"]

_log = logging.getLogger("kvcore.kube.admission")

FINISHED = (b'"Succeeded"', b'"Failed"')
AGAIN_SECONDS = 1.0                       # after a watch of the store has failed
RESYNC_SECONDS = 300.0


def stale(quota: Object) -> bool:
    """Whether its status is not about its spec."""
    hard, now = (quota.get("spec") or {}).get("hard"), quota.get("status") or {}
    if now.get("used") is None or now.get("hard") is None:
        return True
    return now["hard"] != hard and amounts(now["hard"]) != amounts(hard)


@dataclass(frozen=True)
class Inflight:
    """A request that was counted and whose object is not in the cache yet, by quota's key."""

    call: Call
    used: dict[bytes, Amounts]


class QuotaStatus:
    """Follows the store and says which namespaces want a recount; `recount` does it.

    Args: wanted: told a namespace; calls `recount` when nothing else works on its quotas.
    """

    def __init__(self, api: Api, quotas: Lister, wanted: Callable[[str], None]) -> None:
        self._api, self._quotas, self._wanted = api, quotas, wanted
        self._tasks: dict[bytes, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Follow the quotas; count those that are there."""
        cacher = self._quotas.cacher(self._api)
        if cacher is None or self._quotas.resource is None:
            return
        for quota in self._quotas.all(self._api):
            for resource in self._counted(quota):
                self._follow(resource, self._object_changed)
            if stale(quota):
                self._wanted(quota["metadata"]["namespace"])
        self._follow(self._quotas.resource, self._quota_changed)
        self._tasks[b""] = asyncio.get_running_loop().create_task(self._resync())

    async def _resync(self) -> None:
        """What was counted by a server that died before it stored is found now and then."""
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            for quota in self._quotas.all(self._api):
                self._wanted(quota["metadata"]["namespace"])

    async def stop(self) -> None:
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)

    # --- following --------------------------------------------------------------------------------

    def _follow(self, resource: Resource, changed: Callable[[bytes, Event], None]) -> None:
        prefix = self._api.layout.prefix(resource)
        if prefix not in self._tasks:
            start = self._api.store.revision + 1
            self._tasks[prefix] = asyncio.get_running_loop().create_task(
                self._watch(prefix, start, changed))

    async def _watch(self, prefix: bytes, start: int,
                     changed: Callable[[bytes, Event], None]) -> None:
        store = self._api.store
        while True:
            watch = store.watch(prefix=prefix, start_revision=start)
            try:
                async for response in watch:
                    for event in response.events:
                        changed(prefix, event)
                return
            except ClosedError:
                return
            except Error as error:                # compacted: what was missed is counted anew
                _log.warning("a watch of quotas begins again: %s", error)
                await asyncio.sleep(AGAIN_SECONDS)
                start = store.revision + 1
                for quota in self._quotas.all(self._api):
                    self._wanted(quota["metadata"]["namespace"])
            finally:
                watch.cancel()

    def _quota_changed(self, prefix: bytes, event: Event) -> None:
        if event.type != "PUT":
            return
        quota = object_of(event.kv.value)
        if stale(quota):
            self._wanted(quota["metadata"]["namespace"])

    def _object_changed(self, prefix: bytes, event: Event) -> None:
        if event.type == "PUT":
            stored = json_of(event.kv.value)
            if not any(phase in stored for phase in FINISHED):
                return
        namespace = event.kv.key[len(prefix):].partition(b"/")[0].decode()
        if self._quotas.all(self._api, namespace):
            self._wanted(namespace)

    # --- counting ---------------------------------------------------------------------------------

    async def recount(self, namespace: str,
                      inflight: dict[int, Inflight]) -> list[tuple[bytes, Object, int]]:
        """Counts the quotas of a namespace; what was written: key, object, revision.

        Cost: all objects of the namespace that a quota looks into are decoded.
        Errors: the store's.
        """
        api = self._api
        cacher = self._quotas.cacher(api)
        assert cacher is not None
        await api.objects.submit(Txn([], [Range(self._quotas.prefix)], []))   # behind all writes
        await api.feed.reach(api.store.revision)
        written = []
        start = self._quotas.key(namespace, "")
        for entry in cacher.entries(start, start[:-1] + b"0"):
            found = api.store.get(entry.key)
            if found is None:
                continue
            quota = object_of(found.value)
            state = self._status(namespace, entry.key, quota, inflight)
            before = quota.get("status") or {}
            if state == {"hard": before.get("hard"), "used": before.get("used")}:
                continue
            quota["status"] = state
            try:
                revision = await api.objects.replace(entry.key, api.codec.encode(quota),
                                                     found.mod_revision)
            except Changed:
                self._wanted(namespace)
                continue
            written.append((entry.key, quota, revision))
        return written

    def _status(self, namespace: str, key: bytes, quota: Object,
                inflight: dict[int, Inflight]) -> Object:
        hard = amounts((quota.get("spec") or {}).get("hard"))
        used: Amounts = amounts((quota.get("status") or {}).get("used"))
        for resource in self._counted(quota):
            found = evaluator(resource)
            assert found is not None
            names = [name for name in hard if found.counts(name)]
            self._follow(resource, self._object_changed)
            sums = self._sum(resource, found, namespace, quota)
            for each in inflight.values():
                if each.call.resource is resource and key in each.used \
                        and not self._arrived(resource, each.call):
                    sums = add(sums, each.used[key])
            used |= {name: sums.get(name, ZERO) for name in names}
        return {"hard": {name: str(q) for name, q in sorted(hard.items())},
                "used": {name: str(used[name]) for name in sorted(hard) if name in used}}

    def _counted(self, quota: Object) -> list[Resource]:
        """The resources that a quota counts."""
        hard = (quota.get("spec") or {}).get("hard") or {}
        return [resource for resource in self._api.resources if resource.namespaced
                and (found := evaluator(resource)) is not None and any(map(found.counts, hard))]

    def _sum(self, resource: Resource, found: Evaluator, namespace: str, quota: Object) -> Amounts:
        api = self._api
        cacher = api.feed.cacher(resource)
        start = api.layout.prefix(resource, namespace)
        entries = cacher.entries(start, start[:-1] + b"0")
        scopes = scopes_of(quota)
        if found.only_counts:
            one = found.usage({}, 0.0)
            count = 0 if scopes else len(entries)
            return {name: type(q)(count) for name, q in one.items()}
        now, sums = api.now(), Amounts()
        for entry in entries:
            obj = orjson.loads(entry.body)
            if all(found.scope(scope, obj) for scope in scopes):
                sums = add(sums, found.usage(obj, now))
        return sums

    def _arrived(self, resource: Resource, call: Call) -> bool:
        """Whether the cache has the object of a request: by uid, since names are taken twice."""
        entry = self._api.feed.cacher(resource).state.get(call.key) if call.key else None
        uid = call.object["metadata"].get("uid") or ""
        return entry is not None and bool(uid) and uid.encode() in entry.body
