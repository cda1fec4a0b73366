# SPDX-License-Identifier: Apache-2.0
"""Unknown, repeated and ill-typed fields: the part of upstream's decoder that a dictionary lacks.

    object ── ok(): one look at every value ── all as it should be: done
                      └─ else ── settle(): prune, respell, refuse ── strict_errors(): what to tell

`ok` is a closure a type, made when its first object comes, and says only yes or no; nearly every
object takes this way. Whatever it does not like is walked again by `settle`, which knows paths:
it drops unknown and null fields and those that upstream leaves out when empty, writes quantities
and times in their one spelling, and refuses what Go's decoder would refuse, in its words.

Named invariants:
1. **settled**: what `settle` has been through is `ok`.
2. **first in the document**: the value that is refused is the first bad one, as Go reads it.
Thread safety: any threads; a closure that another is still making says no, and the long way then
says the same. May not know: HTTP, the store.
Source: sigs.k8s.io/json, apiserver endpoints/handlers/rest.go (transformDecodeError).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from kvcore.kube.gojson import json_type
from kvcore.kube.schema import Field, fields_of, kind_of_type
from kvcore.kube.values import (
    base64_problem,
    canonical_micro,
    canonical_quantity,
    canonical_time,
    is_canonical_quantity,
)

__all__ = ["IllTyped", "may_repeat", "ok", "settle", "strict_errors"]

Check = Callable[[Any], bool]
INT32, INT64 = 2 ** 31, 2 ** 63
STRICT_MAX = 100                        # errors told; upstream stops there too


class IllTyped(Exception):
    """A value that its field cannot hold; the text is the decoder's."""


# --- ok ------------------------------------------------------------------------------------------

def _int32(value: Any) -> bool:
    return value.__class__ is int and -INT32 <= value < INT32


def _int64(value: Any) -> bool:
    return value.__class__ is int and -INT64 <= value < INT64


def _intstr(value: Any) -> bool:
    return value.__class__ is str or _int32(value)


def _time(value: Any) -> bool:
    return value.__class__ is str and _same(canonical_time, value)


def _micro(value: Any) -> bool:
    return value.__class__ is str and _same(canonical_micro, value)


def _same(spell: Callable[[str], str], value: str) -> bool:
    try:
        return spell(value) == value
    except ValueError:
        return False


def _bytes(value: Any) -> bool:
    return value.__class__ is str and base64_problem(value) is None


def _raw(value: Any) -> bool:
    return value is not None


def _float(value: Any) -> bool:
    return value.__class__ is float or _int64(value)


SCALARS: dict[str, Check] = {
    "int32": _int32, "int64": _int64, "intstr": _intstr, "quantity": is_canonical_quantity,
    "time": _time, "microtime": _micro, "bytes": _bytes, "raw": _raw, "float64": _float,
    "string": lambda value: value.__class__ is str, "bool": lambda value: value.__class__ is bool,
}


_made: dict[str, Check] = {}


def ok(name: str) -> Check:
    """The check of a type: whether an object has known fields only, each as it is stored.

    Cost: some 60 ns a field, nothing allocated; 20 us a type when it is first asked for.
    """
    check = _made.get(name)
    if check is not None:
        return check
    table: dict[str, Any] = {}           # a class that the value must be of, or a Check
    kept: set[str] = set()               # stored although empty
    _made[name] = check = _object_check(table, kept)
    for key, field in fields_of(name).items():
        plain = PLAIN.get(field.base) if not field.shape else None
        table[key] = plain or _check(field.shape, field.base)
        if not (field.omitted or field.shape.startswith("[]")):
            kept.add(key)
    return check


def _object_check(table: dict[str, Any], kept: set[str]) -> Check:
    def check(value: Any) -> bool:
        if value.__class__ is not dict:
            return False
        try:
            for key, inner in value.items():
                want = table[key]
                if want is inner.__class__:
                    if not inner:
                        if key not in kept:
                            return False
                    elif want is int and not -INT32 <= inner < INT32:
                        return False
                elif want.__class__ is type or not want(inner) or (not inner and key not in kept):
                    return False
        except KeyError:                 # unknown
            return False
        return True

    return check


PLAIN: dict[str, type] = {"string": str, "bool": bool, "int32": int}


def _check(shape: str, base: str) -> Check:
    if not shape:
        return SCALARS[base] if base in SCALARS else ok(base)
    inner = _check(shape[2:], base)
    if shape == "{}" and base == "string":
        return _texts

    def items(value: Any) -> bool:
        if value.__class__ is not list:
            return False
        for item in value:
            if not inner(item):
                return False
        return True

    def values(value: Any) -> bool:
        if value.__class__ is not dict:
            return False
        for item in value.values():
            if not inner(item):
                return False
        return True

    return items if shape.startswith("[]") else values


def _texts(value: Any) -> bool:
    if value.__class__ is not dict:
        return False
    for item in value.values():
        if item.__class__ is not str:
            return False
    return True


# --- settle --------------------------------------------------------------------------------------

ZERO: dict[str, Any] = {"string": "", "bool": False, "int32": 0, "int64": 0, "float64": 0,
                        "bytes": "", "quantity": "0", "intstr": 0, "time": None,
                        "microtime": None, "raw": None}


class _Place:
    """Where a value stands, as Go's decoder says it: the struct and the way from the root, without
    indices."""

    __slots__ = ("struct", "way")

    def __init__(self, struct: str = "", way: tuple[str, ...] = ()) -> None:
        self.struct, self.way = struct, way

    def refuse(self, value: Any, go: str) -> IllTyped:
        said = json_type(value)
        if said == "number" and ("int" in go or value.__class__ is float):
            said = f"number {_spelled(value)}" if _numeric(go) else "number"
        if not self.struct:
            return IllTyped(f"json: cannot unmarshal {said} into Go value of type {go}")
        return IllTyped(f"json: cannot unmarshal {said} into Go struct field "
                        f"{self.struct}.{'.'.join(self.way)} of type {go}")


def _numeric(go: str) -> bool:
    return go in ("int", "int32", "int64", "float64")


def _spelled(value: Any) -> str:
    return str(value) if value.__class__ is int else orjson.dumps(value).decode()


def settle(name: str, value: Any) -> None:
    """Makes an object of a type what it would be after upstream's decoder, in place.

    Errors: IllTyped. Cost: some 10 us and 1 us a field.
    """
    _struct(name, value, _Place(), f"{'.'.join(name.split('.')[1:])}")


def _struct(name: str, value: Any, place: _Place, go: str) -> dict[str, Any]:
    if value is None:
        return {}
    if value.__class__ is not dict:
        raise place.refuse(value, go)
    known, struct = fields_of(name), kind_of_type(name)
    for key in list(value):
        field = known.get(key)
        inner = value[key]
        if field is None or inner is None:
            del value[key]
            continue
        way = (*place.way, field.within, key) if field.within else (*place.way, key)
        settled = _value(field.shape, field.base, inner, field, _Place(struct, way))
        if not settled and (field.omitted or field.shape.startswith("[]")):
            del value[key]
        else:
            value[key] = settled
    return value


def _value(shape: str, base: str, value: Any, field: Field, place: _Place) -> Any:
    go = field.go[2 * (len(field.shape) - len(shape)) // 2:] if shape != field.shape \
        and field.shape.startswith("[]") else field.go if shape == field.shape else _inner(field)
    if shape.startswith("[]"):
        if value is None:
            return []
        if value.__class__ is not list:
            raise place.refuse(value, go)
        value[:] = [_value(shape[2:], base, item, field, place) for item in value]
        return value
    if shape:
        return _map(shape[2:], base, value, field, place, go)
    if base not in SCALARS:
        return _struct(base, value, place, go)
    return _scalar(base, value, field, place, go)


def _inner(field: Field) -> str:
    """The Go type of what is in a map."""
    go = field.go.removeprefix("map[string]")
    return go if go != field.go else {"quantity": "resource.Quantity"}.get(field.base, field.base)


def _map(shape: str, base: str, value: Any, field: Field, place: _Place, go: str) -> Any:
    if value is None:
        return {}
    if value.__class__ is not dict:
        raise place.refuse(value, go)
    for key, item in value.items():
        value[key] = _value(shape, base, item, field, place)
    return value


def _scalar(base: str, value: Any, field: Field, place: _Place, go: str) -> Any:
    if value is None:
        return ZERO[base]
    if base in ("string", "bool"):
        if value.__class__ is not (str if base == "string" else bool):
            raise place.refuse(value, go)
        return value
    if base in ("int32", "int64", "float64"):
        if not SCALARS[base](value):
            raise place.refuse(value, go if _numeric(go) or json_type(value) != "number" else base)
        return value
    try:
        return SPELL[base](value, field, place)
    except ValueError as error:
        raise IllTyped(str(error)) from None


def _to_quantity(value: Any, field: Field, place: _Place) -> Any:
    if value.__class__ is bool or value.__class__ in (list, dict):
        raise ValueError("quantities must match the regular expression "
                         "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    return canonical_quantity(value, -3 if field.go == "v1.ResourceList" else -9)


def _to_intstr(value: Any, field: Field, place: _Place) -> Any:
    if not _intstr(value):
        raise place.refuse(value, "int32")
    return value


def _to_text(value: Any, place: _Place) -> str:
    if value.__class__ is not str:
        raise place.refuse(value, "string")
    return value


def _to_bytes(value: Any, field: Field, place: _Place) -> str:
    if value.__class__ is not str:
        raise place.refuse(value, "[]uint8")
    problem = base64_problem(value)
    if problem:
        raise ValueError(problem)
    return value.replace("\n", "").replace("\r", "")


SPELL: dict[str, Callable[[Any, Field, _Place], Any]] = {
    "quantity": _to_quantity, "intstr": _to_intstr, "bytes": _to_bytes,
    "time": lambda value, field, place: canonical_time(_to_text(value, place)),
    "microtime": lambda value, field, place: canonical_micro(_to_text(value, place)),
    "raw": lambda value, field, place: value,
}


# --- unknown and repeated ------------------------------------------------------------------------

def may_repeat(body: bytes, obj: Any) -> bool:
    """Whether a JSON body may name a field twice in one object. False is certain.

    Each key of the body has a colon behind it, and those of repeated keys are not in the object: as
    many colons here as there, none of them written as an escape, means nothing was repeated.
    Cost: 2 us a KiB.
    """
    again = orjson.dumps(obj)
    if body == again:
        return False
    return body.count(b":") != again.count(b":") or (
        b"\\" in body and b"\\u003a" in body.lower())


class _Pairs:
    """An object of the body with its fields as they stand there, repeated ones too."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


def strict_errors(name: str, body: bytes | None, obj: Any) -> list[str]:
    """`unknown field "spec.foo"`, `duplicate field "metadata.name"`, in the body's order.

    Args: body: JSON, or None when repeated fields cannot be told; obj: what it says, not settled.
    """
    if body is not None:
        try:
            obj = json.loads(body, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError):
            pass                         # orjson has read it: what json cannot, has no duplicates
    found: dict[str, None] = {}
    for text in _strict("", name, obj, ""):
        found[text] = None
        if len(found) >= STRICT_MAX:
            break
    return list(found)


def _strict(shape: str, base: str, value: Any, way: str) -> Iterator[str]:
    if isinstance(value, list):
        if shape.startswith("[]"):
            for i, item in enumerate(value):
                yield from _strict(shape[2:], base, item, f"{way}[{i}]")
        return
    pairs = value.pairs if isinstance(value, _Pairs) else \
        value.items() if isinstance(value, dict) else ()
    seen = set()
    struct = not shape and base not in SCALARS
    if not struct and not shape.startswith("{}"):
        return
    for key, inner in pairs:
        path = f"{way}.{key}" if way else key
        field = fields_of(base).get(key) if struct else None
        if struct and field is None:
            yield f'unknown field "{path}"'
            continue
        if key in seen:
            yield f'duplicate field "{path}"'
        seen.add(key)
        if field is not None:
            yield from _strict(field.shape, field.base, inner, path)
        else:
            yield from _strict(shape[2:], base, inner, path)
