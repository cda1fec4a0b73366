# SPDX-License-Identifier: Apache-2.0
"""A local copy of a resource, kept up to date: list by watch, watch, and begin again when told.

    watch sendInitialEvents ── ADDED ... ── bookmark ── ADDED MODIFIED DELETED ...
          ^                                                     │
          └── 410, or the watch ended: again from the last version, or from nothing

Named invariant (equal): behind a bookmark at version R, `objects` is what a list at R would say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kvcore.kube.status import ApiError
from kvcore.sim.client import Client, Object

__all__ = ["Informer"]

Handler = Callable[[str, Object], None]
PAUSE = 1.0                      # seconds before a server that refused is asked again


def key_of(obj: Object) -> str:
    """namespace/name."""
    metadata = obj["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


class Informer:
    """Args: path: of the resource, for example /api/v1/pods; selector: a query, for example
    fieldSelector=spec.nodeName=n1; handler: called with ADDED, MODIFIED or DELETED and the object,
    in order."""

    def __init__(self, client: Client, path: str, selector: str = "",
                 handler: Handler | None = None) -> None:
        self.client, self.path, self.selector = client, path, selector
        self.handler = handler
        self.objects: dict[str, Object] = {}
        self.version = ""
        self.synced = asyncio.Event()
        self.restarts = 0

    async def run(self) -> None:
        """Follows until it is cancelled."""
        while True:
            try:
                await self._follow()
            except ApiError as error:
                if error.code == 410:
                    self.version = ""
                else:
                    await asyncio.sleep(PAUSE)
            self.restarts += 1

    async def _follow(self) -> None:
        fresh = not self.version
        query = "watch=true&allowWatchBookmarks=true&resourceVersion=" + self.version
        if fresh:
            query += "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
        if self.selector:
            query += "&" + self.selector
        initial: dict[str, Object] | None = {} if fresh else None
        async for type, obj in self.client.watch(f"{self.path}?{query}"):
            version = obj["metadata"]["resourceVersion"]
            if type == "BOOKMARK":
                if initial is not None:
                    self._replace(initial)
                    initial = None
                    self.synced.set()
            elif initial is not None:
                initial[key_of(obj)] = obj
                continue
            else:
                self._take(type, obj)
            self.version = version

    def _replace(self, objects: dict[str, Object]) -> None:
        """What the server has now: told as the differences from what was known."""
        for key in [key for key in self.objects if key not in objects]:
            self._take("DELETED", self.objects[key])
        for key, obj in objects.items():
            known = self.objects.get(key)
            if known is None:
                self._take("ADDED", obj)
            elif known["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
                self._take("MODIFIED", obj)

    def _take(self, type: str, obj: Object) -> None:
        if type == "DELETED":
            self.objects.pop(key_of(obj), None)
        else:
            self.objects[key_of(obj)] = obj
        if self.handler is not None:
            self.handler(type, obj)
