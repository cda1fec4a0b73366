# SPDX-License-Identifier: Apache-2.0
"""An API server without a socket for tests that are not coroutines.

    with Kube() as kube:
        reply = kube.call("POST", "/api/v1/namespaces/default/configmaps", {...})
        reply.code, reply.obj["metadata"]["uid"], reply.reason

The loop stands still between calls.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import orjson

import kvcore
from kvcore.kube.api import Api
from kvcore.kube.request import ADMIN, Answer, Request, User

__all__ = ["Events", "Kube", "Reply", "config_map", "failure", "pod"]

T = TypeVar("T")
Object = dict[str, Any]

PODS = "/api/v1/namespaces/default/pods"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


class Reply:
    """An answer, decoded."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.code = answer, answer.code
        self.obj: Object = orjson.loads(answer.body) if answer.body else {}

    @property
    def reason(self) -> str:
        return str(self.obj.get("reason", ""))

    @property
    def message(self) -> str:
        return str(self.obj.get("message", ""))

    @property
    def meta(self) -> Object:
        found: Object = self.obj["metadata"]
        return found

    @property
    def rv(self) -> int:
        return int(self.meta["resourceVersion"])

    @property
    def warnings(self) -> list[str]:
        return [value for name, value in self.answer.lines() if name == "Warning"]

    def __repr__(self) -> str:
        return f"<{self.code} {self.obj}>"


class Events:
    """A watch; `take()`: the events that are there."""

    def __init__(self, kube: Kube, chunks: AsyncIterator[bytes]) -> None:
        self._kube, self._chunks = kube, chunks
        self._lines: list[bytes] = []
        self._task = kube.run(self._begin())

    async def _begin(self) -> asyncio.Task[None]:
        self._lines.extend((await anext(self._chunks)).splitlines())
        return asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        async for chunk in self._chunks:
            self._lines.extend(chunk.splitlines())

    def take(self) -> list[tuple[str, Object]]:
        """(type, object) of what the store's revision has brought until now."""
        self._kube.settle()
        lines, self._lines = self._lines, []
        events = [orjson.loads(line) for line in lines]
        return [(event["type"], event["object"]) for event in events]

    def close(self) -> None:
        self._task.cancel()
        self._kube.run(asyncio.sleep(0))


class Kube:
    """See the module. `now`: the server's clock, which stands still unless a test moves it."""

    def __init__(self, store: kvcore.Store | None = None, user: User = ADMIN,
                 **options: Any) -> None:
        self.store = store or kvcore.open()
        self.user = user
        self.now = 1_800_000_000.0
        self.loop = asyncio.new_event_loop()
        options.setdefault("housekeeping", False)
        self.api = Api(self.store, now=lambda: self.now, **options)
        self._watches: list[Events] = []

    def __enter__(self) -> Kube:
        self.run(self.api.start())
        return self

    def __exit__(self, *unused: object) -> None:
        for watch in self._watches:
            watch.close()
        self.run(self.api.stop())
        self.loop.close()
        if not self.store.closed:
            self.store.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def settle(self) -> None:
        """Until the caches are at the store's revision and those woken by it have run."""
        async def wait() -> None:
            await self.api.feed.reach(self.store.revision)
            for _ in range(10):
                await asyncio.sleep(0)
        self.run(wait())

    async def ask(self, method: str, url: str, body: Object | bytes | None = None, *,
                  headers: dict[str, str] | None = None, user: User | None = None) -> Answer:
        raw = body if isinstance(body, bytes) else orjson.dumps(body) if body is not None else b""
        return await self.api.handle(Request.of(
            method, url, body=raw, headers=headers or {}, user=user or self.user))

    def call(self, method: str, url: str, body: Object | bytes | list[Any] | None = None, *,
             patch: str = "", headers: dict[str, str] | None = None,
             user: User | None = None) -> Reply:
        """`patch`: "json", "merge", "strategic": the content type of a PATCH."""
        headers = dict(headers or {})
        if patch:
            headers["content-type"] = {
                "json": "application/json-patch+json", "merge": "application/merge-patch+json",
                "strategic": "application/strategic-merge-patch+json"}[patch]
        if isinstance(body, list):
            body = orjson.dumps(body)
        return Reply(self.run(self.ask(method, url, body, headers=headers, user=user)))

    def make(self, url: str, body: Object, code: int = 201) -> Reply:
        """A POST that must succeed."""
        reply = self.call("POST", url, body)
        assert reply.code == code, reply
        return reply

    def watch(self, url: str, since: int | None = None) -> Events:
        """Events after a revision; None: after now."""
        revision = self.store.revision if since is None else since
        mark = "&" if "?" in url else "?"
        answer = self.run(self.ask("GET", f"{url}{mark}watch=1&resourceVersion={revision}"))
        assert answer.code == 200 and answer.chunks is not None, answer
        events = Events(self, answer.chunks)
        self._watches.append(events)
        return events


_numbers = itertools.count()


def config_map(name: str = "", data: dict[str, str] | None = None, **metadata: Any) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name or f"c{next(_numbers)}", **metadata},
            "data": data if data is not None else {"a": "1"}}


def failure(code: int, reason: str, message: str, details: Any = None) -> Object:
    """The Status of a refusal."""
    said: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {},
                            "status": "Failure", "message": message}
    if reason:
        said["reason"] = reason
    if details is not None:
        said["details"] = details
    return {**said, "code": code}


def pod(name: str = "", node: str = "", spec: Object | None = None, **metadata: Any) -> Object:
    made: Object = {"containers": [{"name": "web", "image": "nginx"}], **(spec or {})}
    if node:
        made["nodeName"] = node
    return {"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name or f"p{next(_numbers)}", **metadata}, "spec": made}


def deployment(name: str, replicas: int = 1, **metadata: Any) -> Object:
    labels = {"app": name}
    return {"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, **metadata},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                     "template": {"metadata": {"labels": labels}, "spec": {
                         "containers": [{"name": "web", "image": "nginx"}]}}}}


class SlowRandom(random.Random):
    """Jitter of nothing."""

    def random(self) -> float:
        return 0.0
