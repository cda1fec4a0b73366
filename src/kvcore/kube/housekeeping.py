# SPDX-License-Identifier: Apache-2.0
"""What goes on by itself: the system's namespaces, what each namespace has, and their end.

    start ── default, kube-system, kube-public, kube-node-lease, and in each of them:
    a namespace comes ──> ServiceAccount "default", ConfigMap "kube-root-ca.crt"
    one of these two is deleted ──> made again
    a namespace is deleted ──> every object in it is deleted; when all are gone, its finalizer
    a pod's delete was cut short by the end of a process ──> done at the next start
    a watch ends though the store is open ──> begun anew, after a look at all namespaces

Each thing is done by "put if absent" or "put if unchanged", so several servers over one store may
all do it, and it happens once. An object that may not go yet (finalizers, a pod's grace) is waited
for by a watch of deletions, not by asking again. A pod on a node that does not exist has nobody who
would end it: it is deleted without grace, as upstream's pod garbage collector does.
Source: kube-controller-manager: namespace controller, serviceaccounts controller, root-ca-cert
publisher, podgc; kube-apiserver: controlplane/controller/systemnamespaces.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import orjson

from kvcore import Event
from kvcore.errors import Error, NoSpaceError, StorageError
from kvcore.kube import status
from kvcore.kube.caching import Blame
from kvcore.kube.call import Call, Object
from kvcore.kube.changing import VIEWS, change, ends
from kvcore.kube.codec import object_of
from kvcore.kube.create import plant
from kvcore.kube.deletion import DeleteOptions, delete_object
from kvcore.kube.entry import Damaged, readable
from kvcore.kube.request import Request, Target, User
from kvcore.kube.resources import Resource
from kvcore.kube.storage import Changed

if TYPE_CHECKING:
    from kvcore.kube.api import Api

__all__ = ["Housekeeping", "SYSTEM_NAMESPACES"]

_log = logging.getLogger("kvcore.kube")

SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
CONTROLLER = User("system:serviceaccount:kube-system:namespace-controller",
                  ("system:serviceaccounts", "system:serviceaccounts:kube-system",
                   "system:authenticated"))
AGAIN_SECONDS = 1.0              # before what went wrong is tried again
CA_NAME = "kube-root-ca.crt"
CA_NOTE = ("Contains a CA bundle that can be used to verify the kube-apiserver when using internal "
           "endpoints such as the internal service IP or kubernetes.default.svc. No other usage is "
           "guaranteed across distributions of Kubernetes clusters.")


class Housekeeping:
    """See the module. Belongs to the server's event loop."""

    def __init__(self, api: Api, ca: str = "") -> None:
        self.api, self.ca = api, ca
        self.restarts = 0                      # of its watches
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._namespaces = self._resource("namespaces")
        self._accounts = self._resource("serviceaccounts")
        self._maps = self._resource("configmaps")

    def _resource(self, plural: str) -> Resource:
        found = self.api.resources.of_path("", "v1", plural)
        if found is None:
            raise ValueError(f"housekeeping needs {plural}")
        return found

    async def start(self) -> None:
        """Makes what must be there; then follows the store in tasks. Cost: two groups of commits
        for an empty store."""
        api = self.api
        revision = api.store.revision
        await asyncio.gather(*(self._plant(self._namespaces, _named("Namespace", name))
                               for name in SYSTEM_NAMESPACES))
        await self._finish_deletes()
        await self._look_round()
        self._run(self._follow(self._namespaces, revision,
                               lambda event: self._see(event.kv.value), deletes=False))
        for resource in (self._accounts, self._maps):
            self._run(self._follow(resource, revision, self._restore(resource), deletes=True))

    async def _finish_deletes(self) -> None:
        """A pod goes in two writes, and a process may have been killed between them."""
        api, pods = self.api, self.api.resources.of_path("", "v1", "pods")
        for kv in api.store.range(prefix=api.layout.prefix(pods)) if pods else ():
            if b"deletionTimestamp" not in kv.value:
                continue
            try:
                pod = orjson.loads(readable(kv.value, kv.mod_revision))
                if ends(pod, pod):
                    await api.objects.remove(kv.key, kv.mod_revision)
            except (ValueError, Changed):
                pass                           # no object; another server was faster

    async def stop(self) -> None:
        """Ends what goes on; idempotent. What is half done is done by the next start."""
        tasks = [*self._tasks, *self._ending.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self._ending.clear()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(_tell)

    # --- what each namespace has ----------------------------------------------------------------

    async def _follow(self, resource: Resource, revision: int,
                      seen: Callable[[Event], Awaitable[None]], *, deletes: bool) -> None:
        """Tells of puts, or of deletes, after a revision, until the store is closed. When something
        else ends the watch it is begun anew, after a look at what may have been missed."""
        store, prefix = self.api.store, self.api.layout.prefix(resource)
        missed = False
        while not store.closed:
            try:
                if missed:
                    await asyncio.sleep(AGAIN_SECONDS)
                    self.restarts, revision = self.restarts + 1, store.revision
                    await self._look_round()
                missed = True
                with store.watch(prefix=prefix, start_revision=revision + 1, no_put=deletes,
                                 no_delete=not deletes) as watch:
                    async for response in watch:
                        await asyncio.gather(*map(seen, response.events))
            except Exception as error:
                if not store.closed:
                    _log.error("housekeeping's watch of %s begins anew", resource.qualified,
                               exc_info=error)

    async def _look_round(self) -> None:
        """Each namespace as it is now: it gets what it lacks, or comes to its end."""
        rows = self.api.store.range(prefix=self.api.layout.prefix(self._namespaces))
        await asyncio.gather(*(self._see(kv.value) for kv in rows))

    async def _see(self, stored: bytes) -> None:
        """A namespace as it was stored; another program's bytes that are none are left alone."""
        try:
            namespace = orjson.loads(readable(stored, 0, "Namespace"))
        except Damaged:
            return
        name = namespace["metadata"]["name"]
        if "deletionTimestamp" in namespace["metadata"]:
            if name not in self._ending:
                task = asyncio.get_running_loop().create_task(self._end(name))
                self._ending[name] = task
                task.add_done_callback(_tell)
            return
        try:
            await asyncio.gather(
                self._plant(self._accounts, _named("ServiceAccount", "default"), name),
                self._plant(self._maps, self._ca_map(), name))
        except (status.ApiError, NoSpaceError, StorageError) as error:
            _log.error("namespace %s has no account or CA yet: %s", name, error)

    def _ca_map(self) -> Object:
        return {**_named("ConfigMap", CA_NAME, {"annotations": {
            "kubernetes.io/description": CA_NOTE}}), "data": {"ca.crt": self.ca}}

    async def _plant(self, resource: Resource, obj: Object, namespace: str = "") -> None:
        """Makes an object unless it is there, which a read tells without a write."""
        api, name = self.api, obj["metadata"]["name"]
        if api.store.get(api.layout.key(resource, namespace, name)) is None:
            await plant(api, resource, obj, namespace)

    def _restore(self, resource: Resource) -> Callable[[Event], Awaitable[None]]:
        """Makes the two objects again when they are deleted and their namespace is not."""
        api, prefix = self.api, self.api.layout.prefix(resource)
        mine = b"/default" if resource is self._accounts else b"/" + CA_NAME.encode()

        async def deleted(event: Event) -> None:
            if event.kv.key.endswith(mine):
                name = event.kv.key[len(prefix):-len(mine)].decode(errors="replace")
                found = api.store.get(api.layout.key(self._namespaces, "", name))
                if found is not None:
                    await self._see(found.value)

        return deleted

    # --- the end of a namespace -----------------------------------------------------------------

    async def _end(self, name: str) -> None:
        """Deletes all that is in a namespace, waits for what takes longer, and lets it go."""
        try:
            while not await self._ended(name):
                await asyncio.sleep(AGAIN_SECONDS)
        finally:
            self._ending.pop(name, None)

    async def _ended(self, name: str) -> bool:
        """Whether it was brought to its end; something may be in the way for a moment."""
        try:
            while (left := await self._empty(name)) is not None:
                prefix, revision = left
                with self.api.store.watch(prefix=prefix, no_put=True,
                                          start_revision=revision + 1) as watch:
                    await anext(watch)         # something there is gone: look again
            await self._let_go(name)
        except Exception as error:
            if not self.api.store.closed:
                _log.error("the end of namespace %s is tried again", name, exc_info=error)
                return False
        return True

    async def _empty(self, name: str) -> tuple[bytes, int] | None:
        """Deletes every object. Returns: None when nothing is left, or where something is, and at
        which revision it was seen."""
        api, left = self.api, None
        for resource in list(api.resources):
            if not resource.namespaced or "delete" not in resource.verbs:
                continue
            prefix = api.layout.prefix(resource, name)
            names = [kv.key[len(prefix):].decode() for kv in api.store.range(prefix=prefix)]
            for start in range(0, len(names), 64):
                await asyncio.gather(*(self._delete(resource, name, one)
                                       for one in names[start:start + 64]))
            rows = api.store.range(prefix=prefix, limit=1)
            if len(rows) and left is None:
                left = prefix, rows.revision
        return left

    async def _delete(self, resource: Resource, namespace: str, name: str) -> None:
        """One object; that it is gone already, or changes all the time, is no error."""
        options = DeleteOptions(policy="Background")
        call = self._call("delete", resource, namespace, name)
        try:
            if resource.kind == "Pod" and self._is_lost(call):
                options.grace = 0
            await delete_object(call, options)
        except status.ApiError as error:
            if error.code != 404:
                _log.warning("%s %s/%s stays in a namespace that is terminating: %s",
                             resource.qualified, namespace, name, error.message)

    def _is_lost(self, call: Call) -> bool:
        """Whether the pod's node does not exist."""
        api = self.api
        key = api.layout.key(call.resource, call.namespace, call.name)
        found, nodes = api.store.get(key), api.resources.of_path("", "v1", "nodes")
        with Blame(api.store, key):
            node = (object_of(found.value).get("spec") or {}).get("nodeName") if found else None
        return bool(node and nodes is not None
                    and api.store.get(api.layout.key(nodes, "", node)) is None)

    async def _let_go(self, name: str) -> None:
        """Takes the finalizer `kubernetes` off; the namespace goes if it was the last."""
        def without(call: Call, seen: Object) -> Object:
            made = copy.deepcopy(seen)
            spec = made.setdefault("spec", {})
            spec["finalizers"] = [f for f in spec.get("finalizers") or () if f != "kubernetes"]
            return made
        try:
            await change(self._call("update", self._namespaces, "", name, "finalize"),
                         VIEWS["finalize"], without)
        except status.ApiError as error:
            if error.code != 404:
                raise

    def _call(self, verb: str, resource: Resource, namespace: str, name: str,
              subresource: str = "") -> Call:
        target = Target(verb, "", "apis" if resource.group else "api", resource.group,
                        resource.version, resource.plural, subresource, namespace, name)
        return Call(self.api, Request("", ""), target, resource, CONTROLLER, "DELETE", namespace,
                    name)


def _named(kind: str, name: str, metadata: Object | None = None) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, **(metadata or {})}}


def _tell(task: asyncio.Task[None]) -> None:
    """A task of housekeeping that ended by an error is not lost silently; a closed store is no
    error."""
    if task.cancelled():
        return
    error = task.exception()
    if error is not None and not (isinstance(error, Error) and "closed" in str(error)):
        _log.error("housekeeping ended", exc_info=error)
