# SPDX-License-Identifier: Apache-2.0
"""A stub of client-go's reflector: keeps a copy of a server's objects by list and watch.

    sync ── WatchList: ADDED into a new store until the annotated BOOKMARK, then it is swapped in
        └── or LIST (resourceVersion=0 first, pages of 500) and WATCH from the list's version
    stream ends ── watch again from the last version; 410 ── list again, from the last version
    first and then from ""; "too large resource version" ── from "" as well

Source of the behaviour: client-go tools/cache/reflector.go. May not know: the server's inside.
"""

from __future__ import annotations

from typing import Any

import orjson
from cache_world import Kube, Stream

Object = dict[str, Any]
MARK = "k8s.io/initial-events-end"


class Reflector:
    """`store`: name in namespace to object; `version`: of the last list, event or bookmark."""

    def __init__(self, kube: Kube, path: str, query: str = "", *, watch_list: bool = True) -> None:
        self.kube, self.path, self.query, self.watch_list = kube, path, query, watch_list
        self.store: dict[tuple[str, str], Object] = {}
        self.version = ""
        self.unavailable = False              # the last version was refused: list from ""
        self.relist = True
        self.stream: Stream | None = None
        self.fresh: dict[tuple[str, str], Object] | None = None
        self.lists = 0

    async def step(self) -> None:
        """Takes what is there; begins what has ended."""
        if self.stream is None:
            await self._begin()
        if self.stream is not None:
            for event in await self.stream.events():
                self._take(event)
            if self.stream is not None and self.stream.ended:
                await self.close()

    async def _begin(self) -> None:
        version = "" if self.unavailable else self.version
        if not self.relist:
            await self._watch(f"resourceVersion={version}")
        elif self.watch_list:
            self.fresh = {}
            await self._watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
                              f"&resourceVersion={version}")
        else:
            await self._list()

    async def _watch(self, more: str) -> None:
        answer = await self.kube.ask(f"{self.path}?watch=true&allowWatchBookmarks=true"
                                     f"&timeoutSeconds=300&{more}&{self.query}")
        if answer.code == 200:
            assert answer.chunks is not None
            self.stream = Stream(answer.chunks)
        else:
            self._refused(orjson.loads(answer.body))

    async def _list(self) -> None:
        version, token, found = "" if self.unavailable else self.version or "0", "", {}
        while True:
            answer = await self.kube.ask(f"{self.path}?limit=2&{self.query}" + (
                f"&continue={token}" if token else f"&resourceVersion={version}"))
            page = orjson.loads(answer.body)
            if answer.code != 200:
                return self._refused(page)
            found |= {key(item): item for item in page["items"]}
            token = page["metadata"].get("continue", "")
            if not token:
                break
        self._replace(found, page["metadata"]["resourceVersion"])

    def _refused(self, status: Object) -> None:
        """410 and too large a version: again from "". 429 and 503: later."""
        causes = [c["reason"] for c in status.get("details", {}).get("causes", ())]
        if status["reason"] in ("Expired", "Gone") or "ResourceVersionTooLarge" in causes:
            self.unavailable = self.relist = True
        else:
            assert status["code"] in (429, 503), status

    def _replace(self, found: dict[tuple[str, str], Object], version: str) -> None:
        self.store, self.version, self.unavailable, self.relist = found, version, False, False
        self.lists += 1

    def _take(self, event: Object) -> None:
        obj, store = event["object"], self.store if self.fresh is None else self.fresh
        if event["type"] == "ERROR":
            return self._refused(obj)
        assert (obj["kind"], obj["apiVersion"]) == ("Pod", "v1")
        version = obj["metadata"]["resourceVersion"]
        if event["type"] == "BOOKMARK":
            if obj["metadata"].get("annotations", {}).get(MARK) == "true":
                assert self.fresh is not None
                self._replace(self.fresh, version)
                self.fresh = None
        elif event["type"] == "DELETED":
            assert store.pop(key(obj), None) is not None, f"{key(obj)} was not known"
        else:
            known = key(obj) in store
            assert known == (event["type"] == "MODIFIED"), f"{key(obj)}: {event['type']}"
            store[key(obj)] = obj
        if self.fresh is None:
            assert int(version) >= int(self.version or 0), "time runs backward"
            self.version = version

    async def close(self) -> None:
        if self.stream is not None:
            stream, self.stream = self.stream, None
            await stream.close()
        self.fresh = None


def key(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
