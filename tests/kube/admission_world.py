# SPDX-License-Identifier: Apache-2.0
"""What tests of admission share: an Api with a chain on a loop of its own, and objects in it.

    with World(LimitRanger()) as world:
        world.store({"kind": "LimitRange", ...})        into the store, without admission
        world.admit(pod())                              mutate and validate: the object, or ApiError
        world.create(pod())                             the whole create path

The loop stands still between calls.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine
from typing import Any, TypeVar

import orjson
import pytest

import kvcore
from kvcore.kube import status
from kvcore.kube.admission import Chain
from kvcore.kube.api import Api
from kvcore.kube.call import Call, Options
from kvcore.kube.request import ADMIN, Request, Target, User
from kvcore.kube.resources import Resource

T = TypeVar("T")
Object = dict[str, Any]

KINDS = {"Pod": "v1", "Namespace": "v1", "ServiceAccount": "v1", "LimitRange": "v1",
         "ResourceQuota": "v1", "PersistentVolumeClaim": "v1", "Service": "v1", "ConfigMap": "v1",
         "Secret": "v1", "Event": "v1", "StorageClass": "storage.k8s.io/v1",
         "PriorityClass": "scheduling.k8s.io/v1", "Deployment": "apps/v1", "CronJob": "batch/v1",
         "MutatingWebhookConfiguration": "admissionregistration.k8s.io/v1",
         "ValidatingWebhookConfiguration": "admissionregistration.k8s.io/v1"}


def thing(kind: str, name: str = "", namespace: str = "default", /, **rest: Any) -> Object:
    """An object of a kind; rest: what it has beside metadata."""
    metadata: Object = {"name": name} if name else {}
    obj = {"apiVersion": KINDS[kind], "kind": kind, "metadata": metadata}
    if namespace:
        metadata["namespace"] = namespace
    return obj | rest


def namespace(name: str = "default", **labels: str) -> Object:
    obj = thing("Namespace", name, "", status={"phase": "Active"})
    obj["metadata"]["labels"] = {key.replace("_", "-"): value for key, value in labels.items()}
    return obj


def pod(name: str = "web", namespace: str = "default", /, **spec: Any) -> Object:
    """A pod of one container, unless the spec says otherwise."""
    return thing("Pod", name, namespace,
                 spec={"containers": [{"name": "web", "image": "nginx"}]} | spec)


def asking(requests: Object | None = None, limits: Object | None = None,
           name: str = "web") -> Object:
    """A container that asks for something."""
    resources = {key: value for key, value in (("requests", requests), ("limits", limits)) if value}
    return {"name": name, "image": "nginx", "resources": resources}


class World:
    """See the module. Args: plugins; chain: instead of them; more: of the Api."""

    def __init__(self, *plugins: Any, chain: Chain | None = None, bare: bool = False,
                 **more: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.db = kvcore.open()
        self.api = Api(self.db, housekeeping=False, admission=chain or Chain(plugins), **more)
        self.warnings: list[str] = []
        self.last: Call | None = None
        self.run(self.api.start())
        if not bare:
            self.store(namespace("default"))

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.run(self.api.stop())
        finally:
            self.loop.close()
            self.db.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def resource(self, obj: Object) -> Resource:
        found = self.api.resources.of_kind(obj["apiVersion"], obj["kind"])
        assert found is not None
        return found

    def store(self, *objects: Object) -> int:
        """Puts them, waits until the caches have them; the last revision."""
        async def put() -> int:
            revision = 0
            for obj in objects:
                resource, metadata = self.resource(obj), obj["metadata"]
                key = self.api.layout.key(resource, metadata.get("namespace", ""),
                                          metadata["name"])
                revision = self.db.put(key, self.api.codec.encode(obj)).revision
                await self.api.feed.reach(revision, mine=True)
            return revision
        return self.run(put())

    def stored(self, kind: str, name: str, namespace: str = "default") -> Object | None:
        """As the store has it."""
        resource = self.api.resources.of_kind(KINDS[kind], kind)
        assert resource is not None
        found = self.db.get(self.api.layout.key(resource, namespace, name))
        return None if found is None else orjson.loads(found.value)

    def call(self, obj: Object, old: Object | None = None, *, operation: Any = "CREATE",
             subresource: str = "", dry_run: bool = False, user: User = ADMIN,
             **query: str) -> Call:
        """A call as the verbs make it, `obj` its own."""
        resource = self.resource(obj)
        metadata = obj["metadata"]
        space = metadata.get("namespace", "") if resource.namespaced else ""
        name = "" if operation == "CREATE" else metadata.get("name", "")
        target = Target("create", "", "api", resource.group, resource.version, resource.plural,
                        subresource, space, name)
        call = Call(self.api, Request("POST", "", query), target, resource, user, operation, space,
                    name, old=old, options=Options(dry_run=dry_run))
        call.object = copy.deepcopy(obj)
        return call

    async def admitting(self, call: Call) -> Object:
        for phase in (self.api.admission.mutate, self.api.admission.validate):
            waiting = phase(call)
            if waiting is not None:
                await waiting
        return call.object

    def admit(self, obj: Object, old: Object | None = None, **more: Any) -> Object:
        """Both phases; the object afterwards. Errors: ApiError. `last`, `warnings`: of this."""
        self.last = call = self.call(obj, old, **more)
        self.warnings = call.warnings
        return self.run(self.admitting(call))

    def create(self, obj: Object, user: User = ADMIN) -> Object:
        """The create path; what the client gets. Errors: ApiError."""
        resource, metadata = self.resource(obj), obj["metadata"]
        body = self.run(self.api.create(resource, copy.deepcopy(obj),
                                        metadata.get("namespace", ""), user))
        created: Object = orjson.loads(body)
        return created

    def refused(self, obj: Object, old: Object | None = None, **more: Any) -> Object:
        """The Status it is refused with."""
        with pytest.raises(status.ApiError) as caught:
            self.admit(obj, old, **more)
        return caught.value.status()


def said(found: Object) -> tuple[int, str, str]:
    """Code, reason and message of a Status."""
    return found["code"], found.get("reason", ""), found["message"]


def forbidden(what: str, why: str) -> tuple[int, str, str]:
    return 403, "Forbidden", f"{what} is forbidden: {why}"
