# SPDX-License-Identifier: Apache-2.0
"""get and list: answers cut and joined from stored bytes.

    get   "" -> the store, now        "0", N -> the cache (N: once it has come so far)
    list  ""  -> the cache, once it has reached the store's revision (consistent)
          "0" -> the cache as it is   N -> the cache, not older than N
          Exact N, limit with N, continue -> the store's history at N

No object is decoded unless a selector asks for labels or fields. Continue tokens are upstream's:
base64url of {"v":"meta.k8s.io/v1","rv":N,"start":"<rest of the key>\\u0000"}.
Source: apiserver storage/cacher (delegate.go), storage/continue.go, registry/generic/registry.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

import orjson

from kvcore.errors import CompactedError, FutureRevisionError
from kvcore.kube import status
from kvcore.kube.caching import Cacher, Entry
from kvcore.kube.call import Call
from kvcore.kube.codec import json_of, with_version
from kvcore.kube.request import Answer
from kvcore.kube.selectors import Selector, parse_selector

__all__ = ["get", "list_objects", "parse_version"]

CONTINUE_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start "
    "a new list without the continue parameter, or use the continue token in this response to "
    "retrieve the remainder of the results. Continuing with the provided token results in an "
    "inconsistent list - objects that were created, modified, or deleted between the time the "
    "first chunk was returned and now may show up in the list.")


def parse_version(text: str) -> int:
    """A resourceVersion as a number; 0 for "" and "0". Errors: 400."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or int(text) >= 1 << 63:
        raise status.bad_request(f'Invalid value: "{text}": resourceVersion: Invalid value: '
                                 f'"{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


async def get(call: Call) -> Answer:
    """One object. Cost: one look-up and one cut of its bytes."""
    api, asked = call.api, call.request.query.get("resourceVersion")
    key = api.layout.key(call.resource, call.namespace, call.name)
    if asked:
        if revision := parse_version(asked):
            await api.feed.reach(revision)
        entry = api.feed.cacher(call.resource).state.get(key)
        if entry is None:
            raise status.not_found(call.resource, call.name)
        return Answer(200, entry.body)
    found = api.store.get(key)
    if found is None:
        raise status.not_found(call.resource, call.name)
    return Answer(200, with_version(json_of(found.value), found.mod_revision))


async def list_objects(call: Call) -> Answer:
    """A page or all; see the module for where it is read."""
    query, api = call.request.query, call.api
    selector = parse_selector(call.resource, query.get("labelSelector", ""),
                              query.get("fieldSelector", ""))
    limit = _limit(query.get("limit", ""))
    match, asked = query.get("resourceVersionMatch", ""), query.get("resourceVersion", "")
    token = query.get("continue", "")
    check_list_options(query)
    start = prefix = api.layout.prefix(call.resource, call.namespace)
    end = prefix[:-1] + b"0"                          # "/" + 1
    if token:
        revision, rest = read_token(token)
        start = api.layout.prefix(call.resource) + rest
        if not prefix <= start < end:
            raise status.bad_request("continue key is not valid: it is outside of the list")
        return await _from_store(call, selector, start, end, limit, revision, token=rest)
    revision = parse_version(asked)
    if match == "Exact" or (revision and limit and match != "NotOlderThan"):
        return await _from_store(call, selector, start, end, limit, revision)
    if asked == "":
        await api.feed.reach(api.store.revision)
    elif revision:
        await api.feed.reach(revision)
    if asked == "0":
        limit = 0                                     # upstream ignores a limit at "0"
    return _from_cache(call, api.feed.cacher(call.resource), selector, (start, end), limit)


def check_list_options(query: dict[str, str]) -> None:
    """What may not stand together. Errors: 400 (upstream: Invalid of ListOptions)."""
    match, version = query.get("resourceVersionMatch", ""), query.get("resourceVersion", "")
    if "sendInitialEvents" in query:
        _forbid("sendInitialEvents", "sendInitialEvents is forbidden for list")
    if match:
        if query.get("continue"):
            _forbid("resourceVersionMatch",
                    "resourceVersionMatch is forbidden with continue")
        if not version:
            _forbid("resourceVersionMatch",
                    "resourceVersionMatch is forbidden unless resourceVersion is provided")
        if match not in ("Exact", "NotOlderThan"):
            raise options_invalid("resourceVersionMatch", "FieldValueNotSupported",
                                  f'Unsupported value: "{match}": supported values: "Exact", '
                                  '"NotOlderThan"')
        if match == "Exact" and version == "0":
            _forbid("resourceVersionMatch",
                    'resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
    if query.get("continue") and version not in ("", "0"):
        raise status.bad_request("specifying resource version is not allowed when using continue")


def _forbid(field: str, why: str) -> None:
    raise options_invalid(field, "FieldValueForbidden", f"Forbidden: {why}")


def options_invalid(field: str, reason: str, message: str) -> status.ApiError:
    """422 about ListOptions, which no object is."""
    return status.ApiError(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {field}: '
                           f"{message}", {"group": "meta.k8s.io", "kind": "ListOptions", "causes": [
                               {"reason": reason, "message": message, "field": field}]})


def _limit(text: str) -> int:
    try:
        limit = int(text or 0)
    except ValueError:
        raise status.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None
    return max(limit, 0)


def _from_cache(call: Call, cacher: Cacher, selector: Selector, span: tuple[bytes, bytes],
                limit: int) -> Answer:
    start, end = span
    revision = call.api.feed.revision
    if not selector:
        found = cacher.entries(start, end, limit + 1 if limit else 0)
        more = bool(limit) and len(found) > limit
        remaining = cacher.count(found[limit].key, end) if more else 0
        return _list(call, (e.body for e in found[:limit or None]), revision,
                     next_key=found[limit - 1].key if more else b"", remaining=remaining)
    chosen: list[Entry] = []
    for entry in cacher.entries(start, end):
        if selector.matches(entry):
            chosen.append(entry)
            if limit and len(chosen) > limit:
                break
    more = bool(limit) and len(chosen) > limit
    return _list(call, (e.body for e in chosen[:limit or None]), revision,
                 next_key=chosen[limit - 1].key if more else b"")


async def _from_store(call: Call, selector: Selector, start: bytes, end: bytes, limit: int,
                      revision: int, token: bytes = b"") -> Answer:
    """At a past revision; with a selector, page after page until there are enough."""
    api, kind = call.api, call.resource.kind
    if revision < 0:                                  # an inconsistent continuation: now
        revision = api.store.revision
    chosen: list[Entry] = []
    try:
        while True:
            page = api.store.range(start, end, revision=revision,
                                   limit=limit + 1 if limit else 0)
            for kv in page:
                entry = Entry(kv.key, kv.mod_revision, kv.value, kind)
                if selector.matches(entry):
                    chosen.append(entry)
            if not limit or len(chosen) > limit or not page.more:
                break
            start = page[-1].key + b"\0"
    except CompactedError:
        raise _gone(token) from None
    except FutureRevisionError:
        raise status.too_new(revision, api.store.revision) from None
    more = bool(limit) and len(chosen) > limit
    remaining = page.count - limit if more and not selector else 0
    return _list(call, (e.body for e in chosen[:limit or None]), revision,
                 next_key=chosen[limit - 1].key if more else b"", remaining=remaining)


def _gone(token: bytes) -> status.ApiError:
    if not token:
        return status.expired("The resourceVersion for the provided list is too old.")
    error = status.expired(CONTINUE_TOO_OLD)
    error.metadata["continue"] = write_token(-1, token)
    return error


def _list(call: Call, bodies: Iterable[bytes], revision: int, *, next_key: bytes = b"",
          remaining: int = 0) -> Answer:
    resource = call.resource
    metadata = b'"resourceVersion":"%d"' % revision
    if next_key:
        rest = next_key[len(call.api.layout.prefix(resource)):] + b"\0"
        metadata += b',"continue":"%b"' % write_token(revision, rest).encode()
        if remaining:
            metadata += b',"remainingItemCount":%d' % remaining
    head = b'{"kind":"%bList","apiVersion":"%b","metadata":{%b},"items":[' % (
        resource.kind.encode(), resource.api_version.encode(), metadata)
    return Answer(200, b"%b%b]}" % (head, b",".join(bodies)))


def write_token(revision: int, rest: bytes) -> str:
    text = orjson.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": rest.decode()})
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def read_token(token: str) -> tuple[int, bytes]:
    """The revision and the rest of the key. Errors: 400."""
    try:
        said = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        revision, start = said["rv"], said["start"]
        if said["v"] != "meta.k8s.io/v1" or type(revision) is not int or ".." in start.split("/"):
            raise ValueError
        return revision, start.encode()
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        raise status.bad_request("continue key is not valid: it cannot be decoded") from None
