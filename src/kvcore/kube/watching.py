# SPDX-License-Identifier: Apache-2.0
"""watch: what is, what was since, what comes; one JSON line each, until the time is over.

    resourceVersion ""    all objects as ADDED, consistent with the store now, then changes
                    "0"   all objects of the cache as it is, then changes
                    N     changes after N: from the recent events, else from the store's history;
                          compacted: one ERROR event, 410
    sendInitialEvents     true: all objects, and changes; false: changes from "now", "any" or N on

Behind all objects comes a bookmark annotated k8s.io/initial-events-end, if bookmarks are allowed.
Bookmarks: at most 60 s apart, two seconds before the end, and never ahead of a line not yet sent.
A watcher that is too slow is closed without an ERROR, and so is one whose cache begins anew:
clients come back with the last version they saw. ERROR is only ever 410: some clients die of
others.

Named invariants:
1. **no gap, no repetition**: the watcher is taken in by the cacher in the very step of the loop in
   which the last line before it was made; what it was told is at or below its floor.
2. **in turn**: nothing is registered before the first chunk is asked for, so an answer that
   nobody reads holds nothing; long beginnings come in pieces, others have turns between.
Source: apiserver endpoints/handlers/watch.go, storage/cacher/cacher.go. May not know: HTTP.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Generator

from kvcore.errors import ClosedError
from kvcore.kube import status
from kvcore.kube.caching import Cacher
from kvcore.kube.call import Call
from kvcore.kube.entry import Change, event_line
from kvcore.kube.list_options import ListOptions
from kvcore.kube.negotiation import negotiate
from kvcore.kube.request import Answer
from kvcore.kube.watcher import Watcher

__all__ = ["watch"]

BOOKMARK_SECONDS = 55.0          # clients give up at 70 without a sign of life
BEFORE_END = 2.0
SHORTEST, LONGEST = 1800, 3600   # seconds, for clients that name no timeout
SLICE = 500                      # changes of the past looked up before others have a turn
LOOKED_AT = 2000                 # objects that are looked at before others have a turn
CHUNK_BYTES = 1 << 18


async def watch(call: Call) -> Answer:
    """An answer in chunks.

    Errors before it begins are ordinary ones (400, 406, 422, 504); later there is only 410.
    """
    negotiate(call.request.headers.get("accept", ""), stream=True)
    options = ListOptions.of(call, watching=True)
    feed = call.api.feed
    if options.version == "":
        options.revision = call.api.store.revision
        await feed.reach(options.revision)
    elif options.revision and options.initial:
        await feed.reach(options.revision)
    cacher = feed.cacher(call.resource)
    if options.initial:
        cacher.refuse_damage(*_span(call, options))
    elif options.version == "0":
        options.revision = feed.revision
    return Answer(200, chunks=_stream(call, options, cacher))


def _span(call: Call, options: ListOptions) -> tuple[bytes, bytes]:
    """The keys that may concern a watch."""
    prefix = call.api.layout.prefix(call.resource, call.namespace)
    if options.name and (call.namespace or not call.resource.namespaced):
        key = prefix + options.name.encode()
        return key, key + b"\0"
    return prefix, prefix[:-1] + b"0"                 # "/" + 1


def _watcher(call: Call, options: ListOptions) -> Watcher:
    scope = call.api.layout.prefix(call.resource, call.namespace)
    selector = options.selector
    if call.name and not selector.field_equal("metadata.name"):
        return Watcher(scope + call.name.encode(), selector, namespace=call.namespace,
                       name=call.name)
    return Watcher(scope, selector, namespace=call.namespace, name=options.name)


# --- the beginning: everything before the first change that is yet to come ------------------------

def _initial(call: Call, options: ListOptions, cacher: Cacher, watcher: Watcher
             ) -> Generator[bytes, None, None]:
    """All objects there are, in pieces, and the bookmark behind them."""
    revision = call.api.feed.revision
    entries = cacher.entries(*_span(call, options))
    cacher.watch(watcher, revision)
    lines, size = list[bytes](), 0
    for number, entry in enumerate(entries, 1):
        if not number % LOOKED_AT:
            yield b""                         # others have a turn
        if watcher.wants(entry):
            lines.append(event_line("ADDED", entry.body))
            size += len(lines[-1])
            if size >= CHUNK_BYTES:
                yield b"".join(lines)
                lines, size = [], 0
    if options.bookmarks:
        lines.append(bookmark(call, revision, initial_end=True))
    yield b"".join(lines)


def _past(call: Call, options: ListOptions, cacher: Cacher, watcher: Watcher
          ) -> Generator[bytes, None, None]:
    """What happened after a revision, in slices; the last one takes the watcher in.

    Errors: 410.
    """
    store, revision = call.api.store, options.revision
    while True:
        found = cacher.since(revision, SLICE, store)
        if found is None:
            break
        changes, reached = found
        if reached == revision:
            cacher.watch(watcher, revision)
            return
        revision = reached
        yield _lines(watcher, changes)
    for changes, reached in cacher.history(revision, SLICE, store):
        if changes:
            yield _lines(watcher, changes)
        revision = max(revision, reached)
    cacher.watch(watcher, revision)


def _lines(watcher: Watcher, changes: list[Change]) -> bytes:
    return b"".join(filter(None, map(watcher.line_of, changes)))


def bookmark(call: Call, revision: int, *, initial_end: bool = False) -> bytes:
    """Says that everything up to a revision was sent."""
    annotations = ',"annotations":{"k8s.io/initial-events-end":"true"}' if initial_end else ""
    resource = call.resource
    return event_line("BOOKMARK", (
        f'{{"kind":"{resource.kind}","apiVersion":"{resource.api_version}","metadata":'
        f'{{"resourceVersion":"{revision}","creationTimestamp":null{annotations}}}}}').encode())


# --- the stream ---------------------------------------------------------------------------------

async def _stream(call: Call, options: ListOptions, cacher: Cacher) -> AsyncIterator[bytes]:
    """The chunks; gives the watcher back when the time is over, or its client has left."""
    api = call.api
    clock, feed = api.clock, api.feed
    seconds = options.timeout if options.timeout > 0 else random.uniform(SHORTEST, LONGEST)
    end = clock() + seconds
    watcher = _watcher(call, options)
    begin = (_initial if options.initial else _past)(call, options, cacher, watcher)
    running, count = api.metrics.running("WATCH", call), api.metrics.watched(call.resource)
    running(1)
    try:
        sent = False
        feed.usable()                         # once it has ended nobody would close the watcher
        for chunk in begin:
            if chunk:
                sent = True
                count(chunk.count(b"\n"))
                yield chunk
            await asyncio.sleep(0)
            feed.usable()
            if watcher.closed:
                return
        if not sent:
            yield b""                         # the headers go out now
        due = clock() + BOOKMARK_SECONDS
        last_one = end - BEFORE_END
        if not options.bookmarks:
            due = last_one = end
        elif last_one < clock():
            last_one = end
        while not watcher.closed:
            if watcher.lines:
                lines = watcher.take()
                count(len(lines))
                yield b"".join(lines)
                continue
            now = clock()
            if now >= end:
                break
            if now >= min(due, last_one):
                if now >= last_one:
                    last_one = end
                due = now + BOOKMARK_SECONDS if options.bookmarks else end
                if feed.revision >= watcher.floor:
                    yield bookmark(call, feed.revision)
                continue
            await watcher.wait(min(due, end, last_one) - now)
    except status.ApiError as error:
        if error.code == 410:
            yield event_line("ERROR", error.body())
    except ClosedError:
        pass                                  # the store is closed: its client comes back
    finally:
        running(-1)
        begin.close()
        cacher.close(watcher)
