# SPDX-License-Identifier: Apache-2.0
"""Types, fields and lists of the served kinds, from one data file.

    schema.json: "apps/v1/Deployment" ──kinds──> "apps.v1.Deployment" ──types──> field -> text

A field's text: its type, then what is known of it.
    string bool int32 int64 float64   as in Go
    bytes                             base64           quantity   "100m", also a number
    intstr                            int32 or string  time, microtime   RFC 3339
    raw                               any JSON         core.v1.Container   a type
    []x  {}x                          list, map of x
    !  required     ?  left out when empty     *  a pointer: null and empty differ
    =  a struct that is always there           :v1.Protocol  the name of the Go type
    @VolumeSource  the embedded Go struct that has the field
A field with keys is a list: [text, {"list": "map", "keys": ["name"], "merge": "name", ...}], as the
x-kubernetes extensions of OpenAPI say.

Made by tests/kube_schema_generate.py from the OpenAPI definitions and struct tags of Kubernetes
1.36 (Apache-2.0, Copyright The Kubernetes Authors). Read when the first object comes (1 ms).
Thread safety: read only after loading. May not know: objects, requests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import orjson

__all__ = ["Field", "fields_of", "kind_of_type", "type_of_kind"]

TEXT = re.compile(r"([\[\]{}]*)([A-Za-z0-9_.]+)([!?*=]*)(?:@([\w.]+))?(?::(.*))?\Z")


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `shape`: "" a value, "[]" a list, "{}" a map, or several of them; `base`: the type
    of what is in it; `go`: how Go's decoder names the whole type."""

    shape: str
    base: str
    required: bool
    omitted: bool                # left out when empty
    pointer: bool
    always: bool                 # a struct by value
    within: str                  # embedded structs on the way to it
    go: str
    more: dict[str, Any]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of a list of type map; () for other lists."""
        return tuple(self.more.get("keys", ()))


@cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = orjson.loads(files("kvcore.kube").joinpath("schema.json").read_bytes())
    return data


def type_of_kind(api_version: str, kind: str) -> str | None:
    """The type of a kind; None for kinds that are not built in.

    >>> type_of_kind("apps/v1", "Deployment")
    'apps.v1.Deployment'
    """
    return _data()["kinds"].get(f"{api_version}/{kind}")  # type: ignore[no-any-return]


def kind_of_type(name: str) -> str:
    """core.v1.PodSpec -> PodSpec."""
    return name.rpartition(".")[2]


@cache
def fields_of(name: str) -> dict[str, Field]:
    """The fields of a type. Errors: KeyError for an unknown type.

    >>> fields_of("core.v1.PodSpec")["containers"].keys
    ('name',)
    """
    return {field: parse(row) for field, row in _data()["types"][name].items()}


def parse(row: str | list[Any]) -> Field:
    text, more = (row, {}) if isinstance(row, str) else row
    match = TEXT.match(text)
    assert match is not None, text
    shape, base, flags, told = match[1], match[2], match[3], match[5] or ""
    return Field(shape, base, "!" in flags, "?" in flags, "*" in flags, "=" in flags,
                 match[4] or "", _go(shape, base, told), more)


GO = {"bytes": "[]uint8", "raw": "map[string]interface {}"}


def _go(shape: str, base: str, told: str) -> str:
    """As reflect.Type.String() says it."""
    inner = ".".join(base.split(".")[1:]) if base.count(".") == 2 else GO.get(base, base)
    if base == "quantity":
        inner = "resource.Quantity"
    if told and (not shape or shape == "[]"):
        inner = told
    elif told:
        return told
    return shape.replace("{}", "map[string]") + inner
