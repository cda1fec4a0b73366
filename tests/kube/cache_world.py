# SPDX-License-Identifier: Apache-2.0
"""What tests of lists, watches and the cache share: an Api over a store in memory, pods by name,
requests and their answers, a loop whose time stands still until a test moves it on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import orjson

import kvcore
from kvcore.kube.api import Api
from kvcore.kube.codec import CODECS
from kvcore.kube.request import ADMIN, Answer, Request
from kvcore.kube.resources import Resource

T = TypeVar("T")
Object = dict[str, Any]
PODS = "/api/v1/pods"


class StillLoop(asyncio.SelectorEventLoop):
    """Its time moves only by `advance`."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__()

    def time(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def run(main: Callable[[], Awaitable[T]], loop: asyncio.AbstractEventLoop | None = None) -> T:
    """A coroutine function to its end, in a loop of its own."""
    loop = loop or asyncio.new_event_loop()

    async def whole() -> T:
        return await main()

    try:
        return loop.run_until_complete(whole())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def turns(n: int = 30) -> None:
    """Gives whatever is ready its turns."""
    for _ in range(n):
        await asyncio.sleep(0)


class Kube:
    """An Api and short words for what tests ask of it."""

    def __init__(self, db: kvcore.Store, api: Api) -> None:
        self.db, self.api = db, api

    def resource(self, plural: str = "pods", group: str = "") -> Resource:
        found = self.api.resources.of_path(group, "v1", plural)
        assert found is not None
        return found

    def key(self, name: str, namespace: str = "default", plural: str = "pods") -> bytes:
        return self.api.layout.key(self.resource(plural), namespace, name)

    def put(self, name: str, namespace: str = "default", **more: Any) -> int:
        """A pod into the store, as any other server would; its resourceVersion."""
        return self.db.put(self.key(name, namespace), stored(name, namespace, **more)).revision

    def delete(self, name: str, namespace: str = "default") -> int:
        return self.db.delete(self.key(name, namespace)).revision

    async def ask(self, url: str, method: str = "GET", **headers: str) -> Answer:
        return await self.api.handle(Request.of(method, url, user=ADMIN, headers=headers))

    async def json(self, url: str, code: int = 200) -> Object:
        answer = await self.ask(url)
        assert answer.code == code, answer.body
        found: Object = orjson.loads(answer.body)
        return found

    async def watch(self, query: str = "", path: str = PODS) -> Stream:
        answer = await self.ask(f"{path}?watch=1&{query}")
        assert answer.code == 200 and answer.chunks is not None, answer.body
        return Stream(answer.chunks)


class Stream:
    """A watch that is read whenever a test wants to see what came."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self.chunks = chunks
        self.ended = False
        self._next: asyncio.Task[bytes] | None = None

    async def events(self) -> list[Object]:
        """What is there now, without waiting for more."""
        found: list[Object] = []
        while not self.ended:
            if self._next is None:
                self._next = asyncio.create_task(self._one())
            await turns()
            if not self._next.done():
                break
            chunk, self._next = self._next.result(), None
            found += [orjson.loads(line) for line in chunk.splitlines()]
        return found

    async def _one(self) -> bytes:
        try:
            return await anext(self.chunks)
        except StopAsyncIteration:
            self.ended = True
            return b""

    async def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await self.chunks.aclose()           # type: ignore[attr-defined]


@asynccontextmanager
async def kube(db: kvcore.Store | None = None, **options: Any) -> AsyncIterator[Kube]:
    """A started Api over a store in memory, or over `db`, which is left open."""
    own = db is None
    db = db or kvcore.open(maintenance=False)
    loop = asyncio.get_running_loop()
    api = Api(db, housekeeping=False, clock=loop.time, **options)
    await api.start()
    try:
        yield Kube(db, api)
    finally:
        await api.stop()
        if own:
            db.close()


def pod(name: str, namespace: str = "default", node: str = "", phase: str = "",
        **labels: str) -> Object:
    metadata: Object = {"name": name, "namespace": namespace, "uid": f"uid-{name}"}
    if labels:
        metadata["labels"] = labels
    obj: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
                   "spec": {"containers": [{"name": "c", "image": "i"}]}}
    if node:
        obj["spec"]["nodeName"] = node
    if phase:
        obj["status"] = {"phase": phase}
    return obj


def stored(name: str, namespace: str = "default", codec: str = "json", **more: Any) -> bytes:
    return CODECS[codec].encode(pod(name, namespace, **more))


def names(found: Object) -> list[str]:
    """Of the items of a list."""
    return [item["metadata"]["name"] for item in found["items"]]


def short(events: list[Object]) -> list[tuple[str, str, int]]:
    """(type, name, resourceVersion) of each event; a bookmark has no name."""
    return [(e["type"], e["object"]["metadata"].get("name", ""),
             int(e["object"]["metadata"].get("resourceVersion", 0))) for e in events]
