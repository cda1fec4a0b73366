# SPDX-License-Identifier: Apache-2.0
"""get and list: answers cut and joined from stored bytes.

    get   "" -> the store, now        "0", N -> the cache (N: once it has come so far)
    list  ""  -> the cache, once it has reached the store's revision (consistent)
          "0" -> the cache as it is (a limit is ignored)   N -> the cache, not older than N
          Exact N, limit with N, continue -> the store's history at N

No object is decoded unless a selector asks for labels or fields. The cache waits three seconds for
a version that is yet to come; the history does not. A list that would hold what cannot be decoded
is refused with 500: leaving it out would tell clients that it is gone.
Source: apiserver storage/cacher (delegator.go, watch_cache.go), registry/generic/registry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import perf_counter

from kvcore.errors import CompactedError, FutureRevisionError
from kvcore.kube import status
from kvcore.kube.caching import Cacher, damage
from kvcore.kube.call import Call
from kvcore.kube.entry import Damaged, Entry, readable
from kvcore.kube.list_options import (
    EXACT,
    NOT_OLDER,
    ListOptions,
    parse_version,
    read_token,
    write_token,
)
from kvcore.kube.request import Answer
from kvcore.kube.selectors import Selector

__all__ = ["get", "list_objects"]

CONTINUE_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start "
    "a new list without the continue parameter, or use the continue token in this response to "
    "retrieve the remainder of the results. Continuing with the provided token results in an "
    "inconsistent list - objects that were created, modified, or deleted between the time the "
    "first chunk was returned and now may show up in the list.")
LIST_TOO_OLD = "The resourceVersion for the provided list is too old."
AT_ONCE = 10_000                 # objects read before others have a turn
LOOKED_AT = 2000                 # ... when a selector looks into each
Span = tuple[bytes, bytes]


async def get(call: Call) -> Answer:
    """One object. Errors: 404; 500 for bytes that are none. Cost: one look-up and one cut of
    its bytes."""
    api, asked = call.api, call.request.query.get("resourceVersion")
    key = api.layout.key(call.resource, call.namespace, call.name)
    if asked:
        if revision := parse_version(asked):
            await api.feed.reach(revision)
        cacher = api.feed.cacher(call.resource)
        cacher.refuse_damage(key, key + b"\0")
        entry = cacher.state.get(key)
        if entry is None:
            raise status.not_found(call.resource, call.name)
        body = entry.body
    else:
        before = perf_counter()
        found = api.store.get(key)
        if found is None:
            raise status.not_found(call.resource, call.name)
        try:
            body = readable(found.value, found.mod_revision, call.resource.kind)
        except Damaged as error:
            raise damage(key, str(error)) from None
        api.metrics.of_store("get", call.resource, perf_counter() - before)
    return Answer(200, body)


async def list_objects(call: Call) -> Answer:
    """A page or all; see the module for where it is read.

    Errors: 400, 410, 422, 504; 500 for bytes that are no object. Cost: 100 us a page of 500.
    """
    options = ListOptions.of(call, watching=False)
    api, limit, revision = call.api, max(options.limit, 0), options.revision
    prefix = api.layout.prefix(call.resource, call.namespace)
    span = prefix, prefix[:-1] + b"0"                 # "/" + 1
    if options.name and (call.namespace or not call.resource.namespaced):
        key = api.layout.key(call.resource, call.namespace, options.name)
        span = key, key + b"\0"
    if options.token:
        revision, rest = read_token(options.token)
        if options.version not in ("", "0"):
            raise status.bad_request("specifying resource version is not allowed when using "
                                     "continue")
        span = max(prefix + rest, span[0]), span[1]
        return await _from_store(call, options, prefix, span, limit, max(revision, 0), token=rest)
    if options.match == EXACT or (revision and limit and options.match != NOT_OLDER):
        return await _from_store(call, options, prefix, span, limit, revision)
    if options.version == "":
        await api.feed.reach(api.store.revision)
    elif revision:
        await api.feed.reach(revision)
    if options.version == "0":
        limit = 0                                     # as upstream
    cacher = api.feed.cacher(call.resource)
    if not cacher.capacity:
        return await _from_store(call, options, prefix, span, limit, 0)
    return await _from_cache(call, cacher, options.selector, prefix, span, limit)


async def _from_cache(call: Call, cacher: Cacher, selector: Selector, prefix: bytes, span: Span,
                      limit: int) -> Answer:
    start, end = span
    revision = call.api.feed.revision
    if selector:
        chosen = await _matching(cacher, selector, span, limit)
    else:
        chosen = cacher.entries(start, end, limit + 1 if limit else 0)
    if not limit or len(chosen) <= limit:
        return _answer(call, chosen, revision)
    following = chosen.pop().key
    remaining = 0 if selector else cacher.count(following, end)
    return _answer(call, chosen, revision, chosen[-1].key[len(prefix):], remaining)


async def _matching(cacher: Cacher, selector: Selector, span: Span, limit: int) -> list[Entry]:
    """Up to one more than limit, so that it is known whether there are more; all as it is now,
    though others have turns while it is looked at."""
    start, end = span
    matches, chosen = selector.matches, list[Entry]()
    page = cacher.entries(start, end, LOOKED_AT)
    rest: list[Entry] | None = None
    at = 0
    while True:
        for entry in page:
            if matches(entry):
                chosen.append(entry)
                if limit and len(chosen) > limit:
                    return chosen
        if len(page) < LOOKED_AT:
            return chosen
        if rest is None:
            rest = cacher.entries(page[-1].key + b"\0", end)
        await asyncio.sleep(0)
        page = rest[at:at + LOOKED_AT]
        at += LOOKED_AT


async def _from_store(call: Call, options: ListOptions, prefix: bytes, span: Span, limit: int,
                      revision: int, token: bytes = b"") -> Answer:
    """At a revision, 0: now; page after page until there are enough, others have turns between."""
    api, selector, (start, end) = call.api, options.selector, span
    before = perf_counter()
    revision = revision or api.store.revision
    chosen: list[Entry] = []
    size = min(limit + 1, AT_ONCE) if limit else AT_ONCE
    try:
        while True:
            page = api.store.range(start, end, revision=revision, limit=size)
            for kv in page:
                entry = _entry(call, kv.key, kv.mod_revision, kv.value)
                if not selector or selector.matches(entry):
                    chosen.append(entry)
            if not page.more or (limit and len(chosen) > limit):
                break
            start = page[-1].key + b"\0"
            await asyncio.sleep(0)
    except CompactedError:
        raise _gone(token) from None
    except FutureRevisionError:
        raise status.too_new(revision, api.store.revision, retry=False) from None
    api.metrics.of_store("list", call.resource, perf_counter() - before)
    if not limit or len(chosen) <= limit:
        return _answer(call, chosen, revision)
    following = chosen[limit].key
    del chosen[limit:]
    remaining = 0 if selector else api.store.range(
        following, end, revision=revision, count_only=True).count
    return _answer(call, chosen, revision, chosen[-1].key[len(prefix):], remaining)


def _entry(call: Call, key: bytes, revision: int, stored: bytes) -> Entry:
    try:
        return Entry(key, revision, stored, call.resource.kind)
    except Damaged as error:
        raise damage(key, str(error)) from None


def _gone(token: bytes) -> status.ApiError:
    """410; behind a token with another that goes on now, at whatever revision that is."""
    if not token:
        return status.expired(LIST_TOO_OLD)
    error = status.expired(CONTINUE_TOO_OLD)
    error.metadata["continue"] = write_token(-1, token)
    return error


def _answer(call: Call, chosen: Iterable[Entry], revision: int, last: bytes = b"",
            remaining: int = 0) -> Answer:
    """Args: last: what follows the list's prefix in the last key, if there are more objects."""
    resource = call.resource
    metadata = b'"resourceVersion":"%d"' % revision
    if last:
        metadata += b',"continue":"%b"' % write_token(revision, last + b"\0").encode()
        if remaining:
            metadata += b',"remainingItemCount":%d' % remaining
    head = b'{"kind":"%bList","apiVersion":"%b","metadata":{%b},"items":[' % (
        resource.kind.encode(), resource.api_version.encode(), metadata)
    bodies = [entry.body for entry in chosen]
    if not bodies:
        return Answer(200, head + b"]}")
    bodies[0] = head + bodies[0]                      # so that all is copied once
    bodies[-1] += b"]}"
    return Answer(200, b",".join(bodies))
