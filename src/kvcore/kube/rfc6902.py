# SPDX-License-Identifier: Apache-2.0
"""JSON patches as kube-apiserver's library applies them, and what it says of those that do not fit.

    object, [{"op": ..., "path": ...}, ...] ── apply ──> the object, changed in place, or Misfit

What differs from RFC 6902, and is relied upon: `replace` makes a key that is missing, `copy` of a
missing key and `add` without a value make null, an index counts from the end when it is negative,
and what a pointer has before its first slash counts for nothing.
Thread safety: none needed. Source: evanphx/json-patch v4. May not know: requests, kinds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from kvcore.kube.patch import same

__all__ = ["COPY_LIMIT", "Misfit", "apply"]

Object = dict[str, Any]
Holder = dict[str, Any] | list[Any]

COPY_LIMIT = 3 * 1024 * 1024             # bytes that "copy" operations of a patch may add
MISSING, BAD_INDEX = "missing value", "invalid index referenced"
NUMBER = re.compile(r"[+-]?[0-9]{1,18}\Z", re.ASCII)


class Misfit(Exception):
    """The patch does not apply; the text says why."""


def apply(obj: Any, operations: list[Object]) -> Any:
    """The object after all operations, which change it in place. Errors: Misfit.

    >>> apply({"a": [1, 3]}, [{"op": "add", "path": "/a/-1", "value": 4}])
    {'a': [1, 3, 4]}
    """
    copied = 0
    for operation in operations:
        kind = operation.get("op")
        if kind == "copy":
            copied += _copy(obj, operation, copied)
        elif kind == "replace" and operation.get("path") == "":
            obj = operation.get("value")
            if not isinstance(obj, (dict, list)):
                raise Misfit("replace operation value must be object or array")
        elif isinstance(kind, str) and kind in OPERATIONS:
            OPERATIONS[kind](obj, operation)
        else:
            raise Misfit(f"Unexpected kind: {kind if isinstance(kind, str) else 'unknown'}")
    return obj


# --- where ----------------------------------------------------------------------------------------

def _pointer(operation: Object, field: str, missing: str = "") -> str:
    """Args: missing: what is said when there is none; "": the library's own words."""
    text = operation.get(field)
    if isinstance(text, str):
        return text
    comma = "," if field == "from" else ""
    why = missing or f"operation{comma} missing {field} field: {MISSING}"
    raise Misfit(f"{operation['op']} operation failed to decode {field}: {why}")


def _find(obj: Any, path: str) -> tuple[Holder, str] | None:
    """What holds the last part of a pointer, and that part."""
    _, *parts = path.split("/")
    if not parts:
        return None
    *way, last = (part.replace("~1", "/").replace("~0", "~") for part in parts)
    for part in way:
        if isinstance(obj, dict):
            obj = obj.get(part)
        elif isinstance(obj, list):
            try:
                obj = obj[_index(part, len(obj))]
            except Misfit:
                return None
    return (obj, last) if isinstance(obj, (dict, list)) else None


def _index(part: str, length: int, end: int | None = None) -> int:
    """Args: end: the first index that is too large, if it is not the length."""
    number = _number(part)
    end = length if end is None else end
    if not -end <= number < end:
        raise Misfit(f"Unable to access invalid index: {number}: {BAD_INDEX}")
    return number if number >= 0 else number + end


def _number(part: str) -> int:
    if not NUMBER.match(part):
        raise Misfit(f'strconv.Atoi: parsing {orjson.dumps(part).decode()}: invalid syntax')
    return int(part)


def _get(holder: Holder, key: str) -> Any:
    return holder.get(key) if isinstance(holder, dict) else holder[_index(key, len(holder))]


def _put_in(holder: Holder, key: str, value: Any) -> None:
    if isinstance(holder, dict):
        holder[key] = value
    elif key == "-":
        holder.append(value)
    else:
        if not NUMBER.match(key):
            raise Misfit(f"value was not a proper array index: '{key}': strconv.Atoi: parsing "
                         f"{orjson.dumps(key).decode()}: invalid syntax")
        holder.insert(_index(key, len(holder), len(holder) + 1), value)


def _take_out(holder: Holder, key: str) -> Any:
    if isinstance(holder, list):
        return holder.pop(_index(key, len(holder)))
    if key not in holder:
        raise Misfit(f"Unable to remove nonexistent key: {key}: {MISSING}")
    return holder.pop(key)


def _own(value: Any) -> Any:
    """A copy, where later operations may change it."""
    return orjson.loads(orjson.dumps(value)) if isinstance(value, (dict, list)) else value


# --- what -----------------------------------------------------------------------------------------

def _at(obj: Any, kind: str, path: str, what: str = "doc is missing path", *,
        quoted: bool = False) -> tuple[Holder, str]:
    found = _find(obj, path)
    if found is None:
        shown = f'"{path}"' if quoted else path
        raise Misfit(f"{kind} operation does not apply: {what}: {shown}: {MISSING}")
    return found


def _told(where: str, work: Callable[..., Any], *args: Any) -> Any:
    try:
        return work(*args)
    except Misfit as error:
        raise Misfit(f"{where}: {error}") from None


def _add(obj: Any, operation: Object) -> None:
    path = _pointer(operation, "path", MISSING)
    holder, key = _at(obj, "add", path, quoted=True)
    _told(f"error in add for path: '{path}'", _put_in, holder, key, _own(operation.get("value")))


def _remove(obj: Any, operation: Object) -> None:
    path = _pointer(operation, "path", MISSING)
    holder, key = _at(obj, "remove", path, quoted=True)
    _told(f"error in remove for path: '{path}'", _take_out, holder, key)


def _replace(obj: Any, operation: Object) -> None:
    path = _pointer(operation, "path")
    holder, key = _at(obj, "replace", path)
    if isinstance(holder, dict):
        holder[key] = _own(operation.get("value"))
        return
    try:
        index = _index(key, len(holder))
    except Misfit:
        raise Misfit("replace operation does not apply: doc is missing key: "
                     f"{path}: {MISSING}") from None
    holder[index] = _own(operation.get("value"))


def _move(obj: Any, operation: Object) -> None:
    source = _pointer(operation, "from")
    holder, key = _at(obj, "move", source, "doc is missing from path")
    value = _told(f"error in move for path: '{key}'", _take_out, holder, key)
    path = _pointer(operation, "path")
    holder, key = _at(obj, "move", path, "doc is missing destination path")
    _told(f"error in move for path: '{path}'", _put_in, holder, key, value)


def _test(obj: Any, operation: Object) -> None:
    path = _pointer(operation, "path")
    found = obj
    if path:
        holder, key = _at(obj, "test", path, "is missing path")
        found = _told(f"error in test for path: '{path}'", _get, holder, key)
    if not same(found, operation.get("value")):          # what is missing is null
        raise Misfit(f"testing value {path} failed: test failed")


def _copy(obj: Any, operation: Object, before: int) -> int:
    """Returns: the bytes it copied. Args: before: those that were copied already."""
    source = _pointer(operation, "from")
    holder, key = _at(obj, "copy", source, "doc is missing from path")
    value = _told(f"error in copy for from: '{source}'", _get, holder, key)
    path = _pointer(operation, "path", MISSING)
    holder, key = _at(obj, "copy", path, "doc is missing destination path")
    text = orjson.dumps(value)
    size = len(text) if value is not None else 0
    if before + size > COPY_LIMIT:
        raise Misfit("Unable to complete the copy, the accumulated size increase of copy is "
                     f"{before + size}, exceeding the limit {COPY_LIMIT}")
    _told("error while adding value during copy", _put_in, holder, key, orjson.loads(text))
    return size


OPERATIONS: dict[str, Callable[[Any, Object], None]] = {
    "add": _add, "remove": _remove, "replace": _replace, "move": _move, "test": _test}
