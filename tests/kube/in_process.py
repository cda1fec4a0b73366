# SPDX-License-Identifier: Apache-2.0
"""An Api that tests talk to without a socket: one event loop, run until each answer is there."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

import kvcore
from kvcore.kube.api import Api
from kvcore.kube.request import ADMIN, Answer, Request
from kvcore.kube.resources import Resource, Resources

Object = dict[str, Any]
RESOURCES = Resources()


def path_of(resource: Resource, namespace: str = "default") -> str:
    """The collection's path."""
    base = f"/apis/{resource.group}/{resource.version}" if resource.group else \
        f"/api/{resource.version}"
    within = f"/namespaces/{namespace}" if resource.namespaced else ""
    return f"{base}{within}/{resource.plural}"


class Server:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.store = kvcore.open()
        self.api = self.loop.run_until_complete(self._start())

    async def _start(self) -> Api:
        api = Api(self.store, housekeeping=False)
        await api.start()
        return api

    def close(self) -> None:
        self.loop.run_until_complete(self.api.stop())
        self.loop.close()
        self.store.close()

    def send(self, method: str, url: str, body: bytes = b"",
             content_type: str = "application/json") -> Answer:
        request = Request.of(method, url, headers={"content-type": content_type}, body=body,
                             user=ADMIN)
        return self.loop.run_until_complete(self.api.handle(request))

    def create(self, obj: Object, query: str = "", path: str = "") -> tuple[int, Object]:
        """Posts an object to where its kind is served; code and answer."""
        if not path:
            resource = RESOURCES.of_kind(obj["apiVersion"], obj["kind"])
            assert resource is not None, obj["kind"]
            metadata = obj.get("metadata")
            namespace = metadata.get("namespace") if isinstance(metadata, dict) else None
            path = path_of(resource, namespace if isinstance(namespace, str) else "default")
        answer = self.send("POST", path + query, orjson.dumps(obj))
        return answer.code, orjson.loads(answer.body)

    def stored(self) -> int:
        """How many objects the store has."""
        return len(self.store.mapping(b"/registry/"))
