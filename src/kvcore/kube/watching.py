# SPDX-License-Identifier: Apache-2.0
"""watch: what is, what was since, what comes; one JSON line each, until the time is over.

    resourceVersion ""    all objects as ADDED, consistent with the store now, then changes
                    "0"   all objects of the cache as it is, then changes
                    N     changes after N, from the recent events; too old: one ERROR event, 410
    sendInitialEvents     all objects, a bookmark annotated k8s.io/initial-events-end, then changes

Bookmarks: at most 60 s apart, two seconds before the end, and at once behind initial events; they
say how far the whole cache is. A watcher that is too slow is closed without an ERROR: clients
come back with the last version they saw.
Source: apiserver endpoints/handlers/watch.go, storage/cacher/cache_watcher.go. May not know: HTTP.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

from kvcore.kube import status
from kvcore.kube.caching import Cacher, Watcher, event_line
from kvcore.kube.call import Call
from kvcore.kube.reading import _forbid, options_invalid, parse_version
from kvcore.kube.request import Answer, is_true
from kvcore.kube.selectors import parse_selector

__all__ = ["watch"]

BOOKMARK_SECONDS = 55.0          # clients give up at 70 without a sign of life
BEFORE_END = 2.0
SHORTEST, LONGEST = 1800, 3600   # seconds, for clients that name no timeout


async def watch(call: Call) -> Answer:
    """An answer in chunks. Errors before it begins are ordinary ones; later ones are events."""
    query, api = call.request.query, call.api
    check_watch_options(query)
    fields = query.get("fieldSelector", "")
    if call.name:
        fields = f"metadata.name={call.name}" + (f",{fields}" if fields else "")
    selector = parse_selector(call.resource, query.get("labelSelector", ""), fields)
    asked = query.get("resourceVersion", "")
    revision = parse_version(asked)
    initial = is_true(query.get("sendInitialEvents")) if "sendInitialEvents" in query else None
    if asked == "" and initial is not False:
        await api.feed.reach(api.store.revision)
    elif revision and initial:
        await api.feed.reach(revision)
    cacher = api.feed.cacher(call.resource)
    name = call.name or selector.field_equal("metadata.name") or ""
    watcher = cacher.watch(call.namespace, name, selector)
    try:
        first = _first(call, cacher, watcher, revision, initial)
    except status.ApiError as error:
        watcher.close()
        first = [event_line("ERROR", error.body())]
    return Answer(200, chunks=_stream(call, watcher, first))


def check_watch_options(query: dict[str, str]) -> None:
    """Errors: 422 as upstream's validation of ListOptions."""
    match, initial = query.get("resourceVersionMatch", ""), "sendInitialEvents" in query
    if initial and match != "NotOlderThan":
        _forbid("resourceVersionMatch", "sendInitialEvents requires setting "
                "resourceVersionMatch to NotOlderThan")
    if match and not initial:
        _forbid("resourceVersionMatch", "resourceVersionMatch is forbidden for watch unless "
                "sendInitialEvents is provided")
    if "continue" in query and query["continue"]:
        raise options_invalid("continue", "FieldValueForbidden",
                              "Forbidden: continue is forbidden for watch")


def _first(call: Call, cacher: Cacher, watcher: Watcher, revision: int,
           initial: bool | None) -> list[bytes]:
    """The lines before the first change that is yet to come. Nothing is awaited between the
    watcher's beginning and here, so nothing is missed or said twice."""
    feed, api = call.api.feed, call.api
    if initial or (initial is None and not revision):
        prefix = api.layout.prefix(call.resource, call.namespace)
        lines = [event_line("ADDED", entry.body)
                 for entry in cacher.entries(prefix, prefix[:-1] + b"0") if watcher.wants(entry)]
        if initial and call.flag("allowWatchBookmarks"):
            lines.append(bookmark(call, max(feed.revision, revision), initial_end=True))
        return lines
    if revision:
        for change in cacher.since(revision, api.store):
            if in_scope(call, cacher, change.entry or change.prev):
                watcher.offer(change)
    return watcher.take()


def in_scope(call: Call, cacher: Cacher, entry: object) -> bool:
    """Whether an object is below the path that is watched."""
    prefix = call.api.layout.prefix(call.resource, call.namespace)
    return entry is not None and entry.key.startswith(prefix)  # type: ignore[attr-defined]


def bookmark(call: Call, revision: int, *, initial_end: bool = False) -> bytes:
    """Says that everything up to a revision was sent."""
    annotations = ',"annotations":{"k8s.io/initial-events-end":"true"}' if initial_end else ""
    resource = call.resource
    return event_line("BOOKMARK", (
        f'{{"kind":"{resource.kind}","apiVersion":"{resource.api_version}","metadata":'
        f'{{"resourceVersion":"{revision}","creationTimestamp":null{annotations}}}}}').encode())


def _timeout(call: Call) -> float:
    text = call.request.query.get("timeoutSeconds", "")
    try:
        seconds = int(text or 0)
    except ValueError:
        raise status.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None
    return seconds if seconds > 0 else random.uniform(SHORTEST, LONGEST)


async def _stream(call: Call, watcher: Watcher, first: list[bytes]) -> AsyncIterator[bytes]:
    """The chunks; closes the watcher when it is closed, or left by its client."""
    api, bookmarks = call.api, call.flag("allowWatchBookmarks")
    clock = api.clock
    end = clock() + _timeout(call)
    due = clock() + BOOKMARK_SECONDS
    last_one = end - BEFORE_END
    try:
        yield b"".join(first)                 # also when empty: the headers go out now
        while not watcher.closed:
            now = clock()
            if now >= end:
                break
            if bookmarks and not watcher.lines and now >= min(due, last_one):
                yield bookmark(call, api.feed.revision)
                if now >= last_one:
                    last_one = end + 1
                due = now + BOOKMARK_SECONDS
                continue
            await watcher.wait(min(due, end, last_one) - now)
            if watcher.lines:
                yield b"".join(watcher.take())
    finally:
        watcher.close()
