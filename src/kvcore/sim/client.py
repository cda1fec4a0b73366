# SPDX-License-Identifier: Apache-2.0
"""What the simulated components speak: requests and watches, in process or over HTTPS.

    LocalClient(api, user)          api.handle(Request): no socket, no TLS, every stage behind them
    HttpsClient(url, ssl_context)   the same over aiohttp

Refusals are ApiErrors either way. Thread safety: the event loop's thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from ssl import SSLContext
from types import TracebackType
from typing import Any, Protocol

import orjson

from kvcore.kube.api import Api
from kvcore.kube.request import ADMIN, Request, User
from kvcore.kube.status import ApiError

__all__ = ["Client", "HttpsClient", "LocalClient", "Object"]

Object = dict[str, Any]

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"


class Client(Protocol):
    """One way to an API server."""

    async def request(self, method: str, url: str, body: Object | None = None,
                      content_type: str = JSON) -> Object:
        """The answer's object. Errors: ApiError."""
        ...

    def watch(self, url: str) -> AsyncIterator[tuple[str, Object]]:
        """(type, object) of each event, until the server ends the watch. Errors: ApiError."""
        ...


def refused(code: int, body: bytes) -> ApiError:
    """The Status of an answer as the exception it came from."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ApiError(code, "", body[:200].decode(errors="replace"))
    return ApiError(code, said.get("reason", ""), said.get("message", ""), said.get("details"))


class Lines:
    """Bytes as they come into whole lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[tuple[str, Object]]:
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        events = []
        for line in whole:
            event = orjson.loads(line)
            if event["type"] == "ERROR":
                raise refused(event["object"]["code"], orjson.dumps(event["object"]))
            events.append((event["type"], event["object"]))
        return events


class LocalClient:
    """In process."""

    def __init__(self, api: Api, user: User = ADMIN) -> None:
        self.api, self.user = api, user

    def _request(self, method: str, url: str, body: Object | None, content_type: str) -> Request:
        data = b"" if body is None else orjson.dumps(body)
        return Request.of(method, url, body=data, headers={"content-type": content_type},
                          user=self.user)

    async def request(self, method: str, url: str, body: Object | None = None,
                      content_type: str = JSON) -> Object:
        answer = await self.api.handle(self._request(method, url, body, content_type))
        if answer.code >= 400:
            raise refused(answer.code, answer.body)
        found: Object = orjson.loads(answer.body)
        return found

    async def watch(self, url: str) -> AsyncIterator[tuple[str, Object]]:
        answer = await self.api.handle(self._request("GET", url, None, JSON))
        if answer.chunks is None:
            raise refused(answer.code, answer.body)
        lines = Lines()
        async with aclosing(answer.chunks) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                for event in lines.feed(chunk):
                    yield event


class HttpsClient:
    """Over HTTPS. Use as an asynchronous context."""

    def __init__(self, url: str, context: SSLContext) -> None:
        self.url, self._context = url.rstrip("/"), context
        self._session: Any = None

    async def __aenter__(self) -> HttpsClient:
        import aiohttp
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._context, limit=0),
            timeout=aiohttp.ClientTimeout(total=None))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self._session.close()

    async def request(self, method: str, url: str, body: Object | None = None,
                      content_type: str = JSON) -> Object:
        data = None if body is None else orjson.dumps(body)
        async with self._session.request(method, self.url + url, data=data,
                                         headers={"Content-Type": content_type}) as answer:
            said = await answer.read()
            if answer.status >= 400:
                raise refused(answer.status, said)
            found: Object = orjson.loads(said)
            return found

    async def watch(self, url: str) -> AsyncIterator[tuple[str, Object]]:
        lines = Lines()
        async with self._session.get(self.url + url) as answer:
            if answer.status >= 400:
                raise refused(answer.status, await answer.read())
            async for chunk in answer.content.iter_any():
                for event in lines.feed(chunk):
                    yield event
