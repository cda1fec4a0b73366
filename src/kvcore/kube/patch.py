# SPDX-License-Identifier: Apache-2.0
"""Patches: what a body of a PATCH makes of the object that is stored.

    application/json-patch+json     [{"op": "test", "path": "/metadata/uid", ...}, ...]    RFC 6902
    application/merge-patch+json    {"metadata": {"labels": {"a": null}}}                  RFC 7386

`PATCHES` has one function a content type: body -> (object -> object). It reads the body once and is
asked for each object it is tried on. A room is kept for strategic merge and apply patches.
A JSON patch is limited in operations (10,000) and in what its copies add (rfc6902.py).
Source: apiserver endpoints/handlers/patch.go.
Thread safety: none needed. May not know: the store, HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from kvcore.kube import rfc6902, status
from kvcore.kube.decode import DEPTH, unwritable
from kvcore.kube.gojson import json_type

__all__ = ["PATCHES", "merge", "reader_of"]

Object = dict[str, Any]
Patch = Callable[[Object], Object]

OPERATIONS_MAX = 10_000
LATER = frozenset({"application/strategic-merge-patch+json", "application/apply-patch+yaml",
                   "application/apply-patch+cbor"})


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
        named = json_type(patch)
        raise status.bad_request(f"error decoding patch: json: cannot unmarshal {named} into Go "
                                 f"value of type {go}")
    return patch


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

def read_json(body: bytes) -> Patch:
    operations = _decoded(body, list, "[]handlers.jsonPatchOp")
    if len(operations) > OPERATIONS_MAX:
        raise status.entity_too_large(
            f"The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got "
            f"{len(operations)}")
    for operation in operations:
        if operation is not None:
            _check_operation(operation)
    return lambda obj: _json_patched(obj, operations)


def _check_operation(operation: Any) -> None:
    if not isinstance(operation, dict):
        raise status.bad_request("error decoding patch: json: cannot unmarshal "
                                 f"{json_type(operation)} into Go value of type "
                                 "handlers.jsonPatchOp")
    for field in ("op", "path", "from"):
        value = operation.get(field)
        if value is not None and not isinstance(value, str):
            raise status.bad_request(f"error decoding patch: json: cannot unmarshal "
                                     f"{json_type(value)} into Go struct field jsonPatchOp.{field} "
                                     "of type string")


def _json_patched(obj: Object, operations: list[Object | None]) -> Object:
    """Errors: 422 for any operation that fails, and an outcome that is no object."""
    try:
        made = rfc6902.apply(obj, operations)
    except rfc6902.Misfit:
        raise status.unprocessable() from None     # upstream does not say why
    if not isinstance(made, dict):
        raise status.unprocessable()
    return made


PATCHES: dict[str, Callable[[bytes], Patch]] = {
    "application/json-patch+json": read_json,
    "application/merge-patch+json": read_merge,
}
