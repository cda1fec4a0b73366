# SPDX-License-Identifier: Apache-2.0
"""RFC 6902 as kube-apiserver's library does it: for PATCH, and for what webhooks answer.

    add copy move remove replace test ── one after the other, in place ──> the object, or Misfit

It differs from the RFC: replace makes a key that is missing, test and copy take one as null,
indices may be negative (from the end) or begin with 0 or +, what stands before a pointer's first
slash is ignored, and the whole may only be replaced or tested. Texts of refusals are upstream's.
A patch is limited in what its copies add (3 MiB), or a small one could make a huge object.
Source: evanphx/json-patch v4. Thread safety: none needed. May not know: the store, HTTP.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from kvcore.kube.decode import unwritable
from kvcore.kube.gojson import json_type

__all__ = ["COPY_LIMIT", "Misfit", "apply", "same"]

Object = dict[str, Any]

COPY_LIMIT = 3 * 1024 * 1024                       # bytes of JSON that "copy" may add
KINDS = frozenset({"add", "copy", "move", "remove", "replace", "test"})
INDEX = re.compile(r"[+-]?[0-9]+", re.ASCII)
DIGITS = 18                                        # of an index: what a Go int surely holds


class Misfit(Exception):
    """Why a patch does not apply."""


def apply(obj: Any, operations: list[Object | None]) -> Any:
    """The object after all operations, which change it in place; the patch may be used again.

    Errors: Misfit for the first operation that does not apply.

    >>> apply({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}])
    {'a': [1, 2, 3]}
    """
    document = _Document(obj)
    try:
        for operation in operations:
            document.apply(operation or {})
    except (RecursionError, orjson.JSONEncodeError):     # moves can nest as deep as they like
        raise Misfit("exceeded max depth") from None
    if problem := unwritable(document.root):
        raise Misfit(problem)
    return document.root


class _Document:
    """What is patched; `copied`: bytes that "copy" has added."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.copied = 0

    def apply(self, operation: Object) -> None:
        kind = operation.get("op")
        if not isinstance(kind, str):
            kind = "unknown"
        if kind not in KINDS:
            raise Misfit(f"Unexpected kind: {kind}")
        getattr(self, f"_{kind}")(operation)

    def _add(self, operation: Object) -> None:
        path = _path(operation, "add")
        parent, key = self._find(
            path, f'add operation does not apply: doc is missing path: "{path}"')
        _insert(parent, key, _own(operation.get("value")), f"error in add for path: '{path}'")

    def _remove(self, operation: Object) -> None:
        path = _path(operation, "remove")
        parent, key = self._find(
            path, f'remove operation does not apply: doc is missing path: "{path}"')
        _delete(parent, key, f"error in remove for path: '{path}'")

    def _replace(self, operation: Object) -> None:
        path = _text(operation, "path", "replace operation failed to decode path")
        value = _own(operation.get("value"))
        if path == "":
            if not isinstance(value, (dict, list)):
                raise Misfit("replace operation value must be object or array: %!w(<nil>)")
            self.root = value
            return
        parent, key = self._find(path, f"replace operation does not apply: doc is missing path: "
                                       f"{path}")
        if isinstance(parent, dict):
            parent[key] = value
            return
        try:
            parent[_index(key, len(parent))] = value
        except Misfit:
            raise Misfit(f"replace operation does not apply: doc is missing key: {path}: missing "
                         "value") from None

    def _test(self, operation: Object) -> None:
        path = _text(operation, "path", "test operation failed to decode path")
        found = self.root
        if path:
            parent, key = self._find(path, f"test operation does not apply: is missing path: "
                                           f"{path}")
            found = _get(parent, key, f"error in test for path: '{path}'")
        if not same(found, operation.get("value")):
            raise Misfit(f"testing value {path} failed: test failed")

    def _move(self, operation: Object) -> None:
        source = _text(operation, "from", "move operation failed to decode from")
        parent, key = self._find(
            source, f"move operation does not apply: doc is missing from path: {source}")
        where = f"error in move for path: '{key}'"
        value = _get(parent, key, where)
        _delete(parent, key, where)
        path = _text(operation, "path", "move operation failed to decode path")
        parent, key = self._find(
            path, f"move operation does not apply: doc is missing destination path: {path}")
        _insert(parent, key, value, f"error in move for path: '{path}'")

    def _copy(self, operation: Object) -> None:
        source = _text(operation, "from", "copy operation failed to decode from")
        parent, key = self._find(
            source, f"copy operation does not apply: doc is missing from path: {source}")
        text = orjson.dumps(_get(parent, key, f"error in copy for from: '{source}'"))
        path = _path(operation, "copy")
        parent, key = self._find(
            path, f"copy operation does not apply: doc is missing destination path: {path}")
        self.copied += len(text)
        if self.copied > COPY_LIMIT:
            raise Misfit("Unable to complete the copy, the accumulated size increase of copy is "
                         f"{self.copied}, exceeding the limit {COPY_LIMIT}")
        _insert(parent, key, orjson.loads(text), "error while adding value during copy")

    def _find(self, pointer: str, missing: str) -> tuple[Any, str]:
        """The object or array that a pointer's last part is looked for in, and that part.

        Errors: Misfit, `missing`."""
        _, *parts = pointer.split("/")
        if "~" in pointer:
            parts = [part.replace("~1", "/").replace("~0", "~") for part in parts]
        at = self.root
        try:
            for part in parts[:-1]:
                at = _get(at, part, "")
        except Misfit:
            at = None
        if not parts or not isinstance(at, (dict, list)):
            raise Misfit(f"{missing}: missing value")
        return at, parts[-1]


# --- one place ------------------------------------------------------------------------------------

def _get(parent: Any, key: str, where: str) -> Any:
    """A value; what an object does not have, and what is in no object or array, is null."""
    if isinstance(parent, dict):
        return parent.get(key)
    return parent[_index(key, len(parent), where)] if isinstance(parent, list) else None


def _insert(parent: Any, key: str, value: Any, where: str) -> None:
    if isinstance(parent, dict):
        parent[key] = value
    elif key == "-":
        parent.append(value)
    else:
        if not INDEX.fullmatch(key):
            where += f": value was not a proper array index: '{key}'"
        parent.insert(_index(key, len(parent) + 1, where), value)


def _delete(parent: Any, key: str, where: str) -> None:
    if isinstance(parent, list):
        del parent[_index(key, len(parent), where)]
    elif key in parent:
        del parent[key]
    else:
        raise Misfit(f"{where}: Unable to remove nonexistent key: {key}: missing value")


def _index(key: str, length: int, where: str = "") -> int:
    """Errors: Misfit, behind `where`."""
    if not INDEX.fullmatch(key):
        raise Misfit(f'{where}: strconv.Atoi: parsing "{key}": invalid syntax')
    if len(key.lstrip("+-0")) > DIGITS:
        raise Misfit(f'{where}: strconv.Atoi: parsing "{key}": value out of range')
    number = int(key)
    if not -length <= number < length:
        raise Misfit(f"{where}: Unable to access invalid index: {number}: invalid index referenced")
    return number % length


# --- an operation's fields ------------------------------------------------------------------------

def _text(operation: Object, field: str, where: str) -> str:
    value = operation.get(field)
    if isinstance(value, str):
        return value
    if value is None:
        comma = "," if field == "from" else ""     # as upstream
        raise Misfit(f"{where}: operation{comma} missing {field} field: missing value")
    raise Misfit(f"{where}: json: cannot unmarshal {json_type(value)} into Go value of type string")


def _path(operation: Object, kind: str) -> str:
    value = operation.get("path")
    if not isinstance(value, str):
        raise Misfit(f"{kind} operation failed to decode path: missing value")
    return value


def _own(value: Any) -> Any:
    """A copy, where later operations may change it: the patch may be tried again."""
    return orjson.loads(orjson.dumps(value)) if isinstance(value, (dict, list)) else value


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
