# SPDX-License-Identifier: Apache-2.0
"""Bodies into objects: JSON, YAML, the protobuf envelope; each refusal with its Status.

    body, content type ── decode_body ──> dictionary, or ApiError 400, 413, 415
    YAML ── repeated_keys ──> what its second look finds

Limits: 3 MiB a body, 10,000 levels upstream and 250 here (a writer's stack). YAML is read as
upstream's reader does: the first document, YAML 1.1 without times and base-60 numbers, keys as
strings, aliases only as long as what they stand for stays small. An envelope's content must be
JSON: messages of k8s.io/api are not known yet, and are refused with 415.
Thread safety: none needed. Source: apiserver endpoints/handlers (negotiation, limits, rest.go),
sigs.k8s.io/yaml. May not know: the store.
"""

from __future__ import annotations

import math
import re
from typing import Any

import orjson
import yaml

from kvcore.kube import status
from kvcore.kube.codec import ENVELOPE, open_envelope
from kvcore.kube.gojson import json_type, syntax_problem

__all__ = ["BODY_LIMIT", "decode_body", "media_of", "repeated_keys"]

Object = dict[str, Any]

BODY_LIMIT = 3 * 1024 * 1024
JSON, YAML = "application/json", "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
ACCEPTED = f"{JSON}, {YAML}, {PROTOBUF}"
SHOWN = 30                       # bytes of a refused body that its refusal shows
YAML_NODES = 1_000_000           # with aliases written out
YAML_TEXT = 64                   # characters of a text that count as one more
YAML_DEPTH = 1000
DEPTH = 250                      # levels that can be written again, with some around them
REPEATED_MAX = 100               # keys given twice that are told


def decode_body(body: bytes, content_type: str, kind: str = "Object") -> Object:
    """The object a body says.

    Args: kind: what it should be, for the refusal. Errors: ApiError 400, 413, 415.
    Cost: orjson's, for JSON.
    """
    if len(body) > BODY_LIMIT:
        raise status.too_large(BODY_LIMIT)
    media = media_of(content_type)
    if media == JSON:
        obj = _json(body, kind)
    elif media == YAML:
        obj = _yaml(body, kind)
    elif media == PROTOBUF:
        obj = _enveloped(body, kind)
    else:
        raise status.unsupported_media_type(ACCEPTED)
    if obj is None:
        return {}
    if not isinstance(obj, dict):
        raise _unrecognized(kind, body, f"{PARSE}json: cannot unmarshal {json_type(obj)} into Go "
                            f"value of type {VERSION_AND_KIND}")
    for field in ("apiVersion", "kind"):
        value = obj.get(field)
        if value.__class__ is not str and value is not None:
            raise _unrecognized(kind, body, f"{PARSE}json: cannot unmarshal {json_type(value)} "
                                f"into Go struct field .{field} of type string")
    return obj


def media_of(content_type: str) -> str:
    """The media type of a body; JSON where nothing is said.

    >>> media_of("Application/YAML; charset=utf-8"), media_of("")
    ('application/yaml', 'application/json')
    """
    return content_type.partition(";")[0].strip().lower() or JSON


PARSE = "couldn't get version/kind; json parse error: "
VERSION_AND_KIND = (r'struct { APIVersion string "json:\"apiVersion,omitempty\""; '
                    r'Kind string "json:\"kind,omitempty\"" }')


def _unrecognized(kind: str, body: bytes, why: str) -> status.ApiError:
    return status.bad_request(f"the object provided is unrecognized (must be of type {kind}): "
                              f"{why} ({_summary(body)})")


def _summary(body: bytes) -> str:
    """The beginning of a body: as text if it looks like JSON, else in hexadecimal."""
    if not body:
        return "<empty>"
    dots = " ..." if len(body) > SHOWN else ""
    if body[:1] == b"{":
        return body[:SHOWN].decode("utf-8", "replace") + dots
    return body[:SHOWN].hex() + dots


def _json(body: bytes, kind: str) -> Any:
    try:
        obj = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise _unrecognized(kind, body, f"{PARSE}{syntax_problem(body)}") from None
    if body.count(b"{") + body.count(b"[") > DEPTH and (problem := unwritable(obj)):
        raise _unrecognized(kind, body, f"{PARSE}{problem}")
    return obj


def unwritable(obj: Any) -> str:
    """Why an object could never be stored, as far as its form goes; "" if it could.

    >>> unwritable({"a": 1 << 64}), unwritable({"a": []})
    ('Integer exceeds 64-bit range', '')
    """
    try:
        orjson.dumps([[[[obj]]]])              # its limit is 254: DEPTH, and what is put around
    except orjson.JSONEncodeError as error:
        return "exceeded max depth" if "ecursion" in str(error) else str(error)
    return ""


def _enveloped(body: bytes, kind: str) -> Any:
    try:
        found = open_envelope(body)
    except (ValueError, UnicodeDecodeError) as error:
        what = "provided data does not appear to be a protobuf message, expected prefix" \
            if not body.startswith(ENVELOPE) else "the envelope cannot be read"
        raise status.bad_request(f"{what}: {error}") from None
    if found.content_type not in ("", JSON) or not found.raw.lstrip().startswith(b"{"):
        raise status.unsupported_media_type(f"{JSON}, {YAML}")
    return _json(found.raw, kind)


# --- YAML -----------------------------------------------------------------------------------------

class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML 1.1 as goyaml reads it: no times, no base 60; exponents need no point."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
        ("bool", r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)",
         "yYnNtTfFoO"),
        ("int", r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|(?:0|[1-9][0-9_]*))",
         "-+0123456789"),
        ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
         r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+0123456789."),
        ("null", r"(?:~|null|Null|NULL|)", "~nN\0"),
        ("merge", "<<", "<")):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"),
                                  ["" if c == "\0" else c for c in _first])


def _integer(loader: Any, node: Any) -> int:
    text = node.value.replace("_", "").lower()
    sign, digits = (-1 if text[0] == "-" else 1), text.lstrip("+-")
    for prefix, base in (("0b", 2), ("0x", 16), ("0o", 8)):
        if digits.startswith(prefix):
            return sign * int(digits[2:], base)
    return sign * int(digits, 8 if digits[0] == "0" and len(digits) > 1 else 10)


def _number(loader: Any, node: Any) -> float | int:
    value = float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if not math.isfinite(value):
        raise yaml.YAMLError(f"json: unsupported value: {node.value}")
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


def _yaml(body: bytes, kind: str) -> Any:
    try:
        loader = _Loader(body)
        try:
            if not loader.check_node():
                return None
            node = loader.get_node()
            _measure(node, {}, 0)
            obj = _keyed(loader.construct_document(node))
            if problem := unwritable(obj):
                raise yaml.YAMLError(problem)
            return obj
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, LookupError,
            AttributeError) as error:         # PyYAML's own, of values that their tags belie
        raise _unrecognized(kind, body, f"yaml: {_yaml_problem(error)}") from None


def _yaml_problem(error: Exception) -> str:
    """As goyaml words it: the line of the context if there is one, else of the problem."""
    problem = getattr(error, "problem", None)
    if problem is None:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    scanner = isinstance(error, yaml.scanner.ScannerError)
    for mark in (error.context_mark, error.problem_mark):     # type: ignore[attr-defined]
        if mark is not None and mark.line:
            return f"line {mark.line + scanner}: {problem}"
    return str(problem)


def _measure(node: Any, sizes: dict[int, int], depth: int) -> int:
    """How many values a node is, aliases written out. Errors: YAMLError when there are too many, or
    they are too deep: what contains itself is."""
    known = sizes.get(id(node))
    if known is not None:
        return known
    if depth > YAML_DEPTH:
        raise yaml.YAMLError(f"exceeded max depth of {YAML_DEPTH}")
    size = 1
    if isinstance(node, yaml.ScalarNode):
        size += len(node.value) // YAML_TEXT   # a long text behind many aliases
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            if isinstance(child, tuple):
                _name(child[0])
            for part in (child if isinstance(child, tuple) else (child,)):
                size += _measure(part, sizes, depth + 1)
                if size > YAML_NODES:
                    raise yaml.YAMLError("document contains excessive aliasing")
    sizes[id(node)] = size
    return size


def _name(node: Any) -> None:
    """Makes a key the string that JSON would have: 1 and true are two keys, as 1 and True are not.
    """
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.YAMLError("a key must be a single value")
    tag = node.tag.rpartition(":")[2]
    if tag == "int":
        node.value = str(_integer(None, node))
    elif tag == "bool":
        node.value = "true" if node.value.lower() in ("yes", "true", "on") else "false"
    elif tag == "null":
        node.value = "null"
    if tag != "merge":
        node.tag = "tag:yaml.org,2002:str"


def _keyed(value: Any) -> Any:
    """The same with nothing shared between two places, and nothing that JSON has not."""
    if isinstance(value, dict):
        return {key: _keyed(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_keyed(inner) for inner in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise yaml.YAMLError(f"a {type(value).__name__} has no place in JSON")


def repeated_keys(body: bytes) -> list[str]:
    """`line 5: key "name" already set in map` for each key that a YAML body gives twice, the first
    hundred."""
    loader = _Loader(body)
    try:
        node = loader.get_node() if loader.check_node() else None
    finally:
        loader.dispose()
    found: list[str] = []
    stack, seen = [node], set[int]()
    while stack and len(found) < REPEATED_MAX:
        node = stack.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        keys: set[str] = set()
        children = []
        for child in node.value:
            if isinstance(child, tuple):
                key = child[0]
                if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                    if key.value in keys:
                        found.append(f'line {key.start_mark.line + 1}: key "{key.value}" already '
                                     "set in map")
                        if len(found) == REPEATED_MAX:
                            return found
                    keys.add(key.value)
                children.append(child[1])
            else:
                children.append(child)
        stack.extend(reversed(children))
    return found
