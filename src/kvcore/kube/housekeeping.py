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
for by a watch of deletions, not by asking again; what fails (a webhook, a full store) is tried
again after pauses that double. A namespace may come again under its name while some server still
ends the one before: an end belongs to a uid, and so does each delete in it. A pod on a node that
does not exist has nobody who would end it: it is deleted without grace, as upstream's pod garbage
collector does.
Source: kube-controller-manager: namespace controller, serviceaccounts controller, root-ca-cert
publisher, podgc; kube-apiserver: controlplane/controller/systemnamespaces.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from kvcore import Event, KeyValue
from kvcore.errors import ClosedError, Error
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

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
AT_ONCE = 64                                   # deletes of one namespace under way together
SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
CONTROLLER = User("system:serviceaccount:kube-system:namespace-controller",
                  ("system:serviceaccounts", "system:serviceaccounts:kube-system",
                   "system:authenticated"))
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
        self._ending: dict[tuple[str, str], asyncio.Task[None]] = {}     # by name and uid
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
        await self._see_all()
        self._begin(revision)

    def _begin(self, revision: int) -> None:
        """To follow the store."""
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
        task.add_done_callback(self._tasks.discard)

    # --- what each namespace has ----------------------------------------------------------------

    async def _follow(self, resource: Resource, revision: int,
                      seen: Callable[[Event], Awaitable[None]], *, deletes: bool) -> None:
        """Tells of puts, or of deletes, after a revision, until the store is closed. When something
        else ends the watch it begins anew, after a look at how things are now."""
        store, prefix = self.api.store, self.api.layout.prefix(resource)
        missed, pause = False, FIRST_PAUSE
        while not store.closed:
            try:
                if missed:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                    self.restarts, revision = self.restarts + 1, store.revision
                    await self._see_all()
                missed = True
                with store.watch(prefix=prefix, start_revision=revision + 1, no_put=deletes,
                                 no_delete=not deletes) as watch:
                    async for response in watch:
                        await asyncio.gather(*map(seen, response.events))
                        pause = FIRST_PAUSE
            except Exception as error:
                if not store.closed:
                    _log.error("housekeeping's watch of %s begins anew", resource.qualified,
                               exc_info=error)

    async def _see_all(self) -> None:
        rows = self.api.store.range(prefix=self.api.layout.prefix(self._namespaces))
        await asyncio.gather(*(self._see(kv.value) for kv in rows))

    async def _see(self, stored: bytes) -> None:
        """A namespace as it was stored; another program's bytes that are none are left alone."""
        namespace = _read(stored)
        if namespace is None:
            return
        name, uid = namespace["metadata"]["name"], namespace["metadata"].get("uid", "")
        if "deletionTimestamp" in namespace["metadata"]:
            if (name, uid) not in self._ending:
                task = asyncio.get_running_loop().create_task(self._end(name, uid))
                self._ending[name, uid] = task
                task.add_done_callback(_tell)
        elif not await self._equip(name):
            self._run(self._equip_later(name))

    def _stored(self, name: str) -> Object | None:
        """The namespace of that name as it is stored now."""
        found = self.api.store.get(self.api.layout.key(self._namespaces, "", name))
        return None if found is None else _read(found.value)

    def _lives(self, name: str) -> bool:
        namespace = self._stored(name)
        return namespace is not None and "deletionTimestamp" not in namespace["metadata"]

    async def _equip(self, name: str) -> bool:
        """Gives a namespace its two objects. Returns: False when it must be tried again."""
        if not self._lives(name):              # this server is behind
            return True
        try:
            await asyncio.gather(
                self._plant(self._accounts, _named("ServiceAccount", "default"), name),
                self._plant(self._maps, self._ca_map(), name))
            if not self._lives(name):          # it went meanwhile, and nobody looks there again
                await asyncio.gather(self._uproot(self._accounts, name, "default"),
                                     self._uproot(self._maps, name, CA_NAME))
        except ClosedError:
            raise
        except (status.ApiError, Error) as error:
            _log.error("namespace %s has no account or CA yet: %s", name, error)
            return False
        return True

    async def _equip_later(self, name: str) -> None:
        pause = FIRST_PAUSE
        while True:
            await asyncio.sleep(pause)
            if await self._equip(name):
                return
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _uproot(self, resource: Resource, namespace: str, name: str) -> None:
        key = self.api.layout.key(resource, namespace, name)
        found = self.api.store.get(key)
        if found is not None:
            with suppress(Changed):            # somebody else deleted it
                await self.api.objects.remove(key, found.mod_revision)

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

    def _is_ending(self, name: str, uid: str) -> bool:
        """Whether the namespace is still this one; a server that was faster may have ended it."""
        namespace = self._stored(name)
        return (namespace is not None and namespace["metadata"].get("uid", "") == uid
                and "deletionTimestamp" in namespace["metadata"])

    async def _end(self, name: str, uid: str) -> None:
        """Deletes all that is in a namespace, waits for what takes longer, and lets it go."""
        pause = FIRST_PAUSE
        try:
            while self._is_ending(name, uid):
                try:
                    if await self._ended(name, uid):
                        return
                    pause = FIRST_PAUSE
                except ClosedError:
                    raise
                except Exception as error:
                    known = isinstance(error, (status.ApiError, Error))
                    _log.warning("the end of namespace %s is tried again: %s", name, error,
                                 exc_info=None if known else error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self._ending.pop((name, uid), None)

    async def _ended(self, name: str, uid: str) -> bool:
        """One attempt. Returns: False when something that was waited for is gone: look again.
        Errors: what hinders a delete."""
        left = await self._empty(name, uid)
        if left is None:
            await self._let_go(name, uid)
            return True
        prefix, revision = left
        with self.api.store.watch(prefix=prefix, no_put=True,
                                  start_revision=revision + 1) as watch:
            async for _ in watch:
                return False
        raise Error("the watch of what is left in it has ended")

    async def _empty(self, name: str, uid: str) -> tuple[bytes, int] | None:
        """Deletes every object. Returns: None when nothing is left, or the namespace is another by
        now; else where something is, and at which revision it was seen.

        Errors: of the first delete that failed, after all were tried.
        """
        left, failed = None, list[BaseException]()
        for resource in list(self.api.resources):
            if not resource.namespaced or "delete" not in resource.verbs:
                continue
            prefix, tried = self.api.layout.prefix(resource, name), set[tuple[str, str]]()
            while True:
                rows = self.api.store.range(prefix=prefix)
                new = [one for kv in rows if (one := _who(kv)) and one not in tried]
                if not new:
                    break
                if not self._is_ending(name, uid):
                    return None                # else all that was seen is this namespace's
                for start in range(0, len(new), AT_ONCE):
                    failed += await self._delete_some(resource, name, new[start:start + AT_ONCE])
                tried.update(new)
            if len(rows) and left is None:
                left = prefix, rows.revision
        if failed:
            raise failed[0]
        return left

    async def _delete_some(self, resource: Resource, namespace: str,
                           some: list[tuple[str, str]]) -> list[BaseException]:
        """Returns: what failed, but for a closed store, which is raised."""
        done = await asyncio.gather(*(self._delete(resource, namespace, *one) for one in some),
                                    return_exceptions=True)
        failed = [error for error in done if error is not None]
        for error in failed:
            if isinstance(error, ClosedError) or not isinstance(error, (status.ApiError, Error)):
                raise error
        return failed

    async def _delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """One object; that it is gone already, or is another by now, is no error."""
        options = DeleteOptions(policy="Background", uid=uid or None)
        call = self._call("delete", resource, namespace, name)
        try:
            if resource.kind == "Pod" and self._is_lost(call):
                options.grace = 0
            await delete_object(call, options)
        except status.ApiError as error:
            if error.code != 404 and not (error.code == 409 and self._is_another(call, uid)):
                _log.warning("%s %s/%s stays in a namespace that is terminating: %s",
                             resource.qualified, namespace, name, error.message)
                raise

    def _is_another(self, call: Call, uid: str) -> bool:
        """Whether the call's object is gone, or not the one of that uid: a conflict may also be
        what a webhook says."""
        found = self.api.store.get(call.key)
        return found is None or _who(found) != (call.name, uid)

    def _is_lost(self, call: Call) -> bool:
        """Whether the pod's node does not exist."""
        api = self.api
        key = api.layout.key(call.resource, call.namespace, call.name)
        found = api.store.get(key)
        nodes = api.resources.of_path("", "v1", "nodes")
        with Blame(api.store, key):
            node = (object_of(found.value).get("spec") or {}).get("nodeName") if found else None
        return bool(node and nodes is not None
                    and api.store.get(api.layout.key(nodes, "", node)) is None)

    async def _let_go(self, name: str, uid: str) -> None:
        """Takes the finalizer `kubernetes` off; the namespace goes if it was the last."""
        def without(call: Call, seen: Object) -> Object:
            if seen["metadata"].get("uid", "") != uid:
                raise status.not_found(call.resource, name)
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


def _read(stored: bytes) -> Object | None:
    """A namespace; None for bytes that are none."""
    try:
        namespace: Object = orjson.loads(readable(stored, 0, "Namespace"))
    except Damaged:
        return None
    return namespace


def _who(kv: KeyValue) -> tuple[str, str] | None:
    """Name and uid of what is stored; None for bytes that are no object, which stay."""
    try:
        metadata = orjson.loads(readable(kv.value, 0))["metadata"]
        return kv.key.rpartition(b"/")[2].decode(), metadata.get("uid", "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _tell(task: asyncio.Task[None]) -> None:
    """A task of housekeeping that ended by an error is not lost silently; a closed store is no
    error."""
    if task.cancelled():
        return
    error = task.exception()
    if error is not None and not (isinstance(error, Error) and "closed" in str(error)):
        _log.error("housekeeping ended", exc_info=error)
