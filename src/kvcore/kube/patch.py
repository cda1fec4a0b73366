# SPDX-License-Identifier: Apache-2.0
"""Patches: what a body of a PATCH makes of the object that is stored.

    application/json-patch+json     [{"op": "test", "path": "/metadata/uid", ...}, ...]    RFC 6902
    application/merge-patch+json    {"metadata": {"labels": {"a": null}}}                  RFC 7386

`PATCHES` has one function a content type: body -> (object -> object). It reads the body once and is
asked for each object it is tried on. A room is kept for strategic merge and apply patches.
A JSON patch is limited in operations (10,000) and in what its copies add (3 MiB), or a small body
could make a huge object.
Source: apiserver endpoints/handlers/patch.go, evanphx/json-patch (v4).
Thread safety: none needed. May not know: the store, HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from kvcore.kube import status
from kvcore.kube.decode import DEPTH, unwritable

__all__ = ["PATCHES", "json_patch", "merge", "reader_of"]

Object = dict[str, Any]
Patch = Callable[[Object], Object]

OPERATIONS_MAX = 10_000
LATER = frozenset({"application/strategic-merge-patch+json", "application/apply-patch+yaml",
                   "application/apply-patch+cbor"})
COPIED_MAX = 3 * 1024 * 1024                       # bytes of JSON that "copy" may add


def reader_of(content_type: str) -> Callable[[bytes], Patch]:
    """What reads a patch of that content type. Errors: 415, with the known ones for a type that is
    upstream's but not known here."""
    kind = content_type.partition(";")[0].strip()
    found = PATCHES.get(kind)
    if found is None:
        if kind in LATER:
            raise status.unsupported_media_type(", ".join(PATCHES))
        raise status.ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
    return found


def _decoded(body: bytes, kind: type, go: str) -> Any:
    try:
        patch = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise status.bad_request(f"error decoding patch: {error}") from None
    if patch is None:
        raise status.bad_request("Invalid JSON Patch")
    if body.count(b"{") + body.count(b"[") > DEPTH and (problem := unwritable(patch)):
        raise status.bad_request(f"error decoding patch: {problem}")
    if not isinstance(patch, kind):
        named = _json_type(patch)
        raise status.bad_request(f"error decoding patch: json: cannot unmarshal {named} into Go "
                                 f"value of type {go}")
    return patch


def _json_type(value: Any) -> str:
    return {dict: "object", list: "array", str: "string", bool: "bool"}.get(type(value), "number")


# --- RFC 7386 -------------------------------------------------------------------------------------

def read_merge(body: bytes) -> Patch:
    patch = _decoded(body, dict, "map[string]interface {}")
    return lambda obj: merge(obj, patch)


def merge(target: Any, patch: Object) -> Object:
    """The target with the patch in it; neither is changed.

    >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"b": None, "d": 3}})
    {'a': {'c': 2, 'd': 3}}
    """
    made = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, dict):
            made[key] = merge(made.get(key), value)
        else:
            made[key] = value
    return made


# --- RFC 6902 -------------------------------------------------------------------------------------

class _Refused(Exception):
    """The patch does not apply."""


def read_json(body: bytes) -> Patch:
    operations = _decoded(body, list, "[]handlers.jsonPatchOp")
    if len(operations) > OPERATIONS_MAX:
        raise status.entity_too_large(
            f"The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got "
            f"{len(operations)}")
    for operation in operations:
        if not isinstance(operation, dict):
            raise status.bad_request("error decoding patch: json: cannot unmarshal "
                                     f"{_json_type(operation)} into Go value of type "
                                     "handlers.jsonPatchOp")
    return lambda obj: json_patch(obj, operations)


def json_patch(obj: Object, operations: list[Object]) -> Object:
    """The object after all operations, which change it in place. Errors: 422 for any that fails.

    >>> json_patch({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}])
    {'a': [1, 2, 3]}
    """
    holder: Object = {"": obj}                     # so that the whole may be replaced
    copied = 0
    try:
        for operation in operations:
            copied += _apply(holder, operation)
            if copied > COPIED_MAX:
                raise _Refused("copies too much")
    except (_Refused, KeyError, IndexError, TypeError, ValueError):
        raise status.unprocessable() from None
    made = holder[""]
    if not isinstance(made, dict) or unwritable(made):      # moves can nest as deep as they like
        raise status.unprocessable()
    return made


def _apply(holder: Object, operation: Object) -> int:
    """One operation. Returns: the bytes it copied."""
    kind, path = operation["op"], _pointer(operation["path"])
    if kind == "add":
        _add(holder, path, _own(operation.get("value")))
    elif kind == "remove":
        _remove(holder, path)
    elif kind == "replace":
        _find(holder, path)
        _set(holder, path, _own(operation.get("value")))
    elif kind == "test":
        parent = _find(holder, path[:-1])
        found = parent.get(path[-1]) if isinstance(parent, dict) else _find(holder, path)
        if not same(found, operation.get("value")):      # what is missing is null, as upstream
            raise _Refused("test")
    elif kind == "move":
        source = _pointer(operation["from"])
        if path[:len(source)] == source and path != source:
            raise _Refused("into itself")
        _add(holder, path, _remove(holder, source) if path != source else _find(holder, source))
    elif kind == "copy":
        text = orjson.dumps(_find(holder, _pointer(operation["from"])))
        _add(holder, path, orjson.loads(text))
        return len(text)
    else:
        raise _Refused(kind)
    return 0


def _own(value: Any) -> Any:
    """A copy, where later operations may change it: the patch may be tried again."""
    return orjson.loads(orjson.dumps(value)) if isinstance(value, (dict, list)) else value


def _pointer(text: Any) -> list[str]:
    """The parts of a JSON pointer, behind the holder's one key."""
    if not isinstance(text, str):
        raise _Refused("pointer")
    if text and text[0] != "/":
        raise _Refused("pointer")
    parts = text.split("/")
    return [part.replace("~1", "/").replace("~0", "~") for part in parts] if "~" in text else parts


def _index(part: str, length: int) -> int:
    if part != "0" and (not part.isascii() or not part.isdigit() or part[0] == "0"):
        raise _Refused("index")
    number = int(part[:9])
    if number >= length or len(part) > 9:
        raise _Refused("index")
    return number


def _find(holder: Object, path: list[str]) -> Any:
    at: Any = holder
    for part in path:
        at = at[part] if isinstance(at, dict) else at[_index(part, len(at))] \
            if isinstance(at, list) else _nowhere()
    return at


def _nowhere() -> Any:
    raise _Refused("path")


def _add(holder: Object, path: list[str], value: Any) -> None:
    parent, last = _find(holder, path[:-1]), path[-1]
    if isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else _index(last, len(parent) + 1), value)
    elif isinstance(parent, dict):
        parent[last] = value
    else:
        _nowhere()


def _set(holder: Object, path: list[str], value: Any) -> None:
    parent, last = _find(holder, path[:-1]), path[-1]
    if isinstance(parent, list):
        parent[_index(last, len(parent))] = value
    else:
        parent[last] = value


def _remove(holder: Object, path: list[str]) -> Any:
    if len(path) == 1:
        _nowhere()
    parent, last = _find(holder, path[:-1]), path[-1]
    if isinstance(parent, list):
        return parent.pop(_index(last, len(parent)))
    if not isinstance(parent, dict):
        _nowhere()
    return parent.pop(last)


def same(a: Any, b: Any) -> bool:
    """Equal as JSON is: true is not 1.

    >>> same({"a": [1, None]}, {"a": [1.0, None]}), same(True, 1)
    (True, False)
    """
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


PATCHES: dict[str, Callable[[bytes], Patch]] = {
    "application/json-patch+json": read_json,
    "application/merge-patch+json": read_merge,
}
