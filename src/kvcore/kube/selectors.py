# SPDX-License-Identifier: Apache-2.0
"""Label and field selectors: parsed once, asked for each object.

    labelSelector=app=web,tier in (a, b),!old   fieldSelector=spec.nodeName=n1,status.phase!=Failed
          └─> Selector(labels, fields) ── matches(entry) ──> bool

Which fields may be selected depends on the kind; others are refused with 400, as upstream refuses
them. Sources: apimachinery labels/selector.go and fields/selector.go, the field lists of each
registry strategy. Thread safety: immutable values. May not know: the store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kvcore.kube import status
from kvcore.kube.resources import Resource

__all__ = ["EVERYTHING", "Selector", "field_values", "parse_selector"]

Object = dict[str, Any]


class HasAttributes(Protocol):
    @property
    def labels(self) -> dict[str, str]: ...
    @property
    def fields(self) -> dict[str, str]: ...


@dataclass(frozen=True, slots=True)
class Requirement:
    """`operator`: "in" (= too), "notin" (!= too), "exists", "!", "gt", "lt"."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value in self.values
            case "notin":
                return value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
        try:
            number, bound = int(value or ""), int(self.values[0])
        except ValueError:
            return False
        return number > bound if self.operator == "gt" else number < bound


@dataclass(frozen=True, slots=True)
class Selector:
    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()

    def matches(self, entry: HasAttributes) -> bool:
        if self.labels and not all(r.matches(entry.labels) for r in self.labels):
            return False
        return not self.fields or all(r.matches(entry.fields) for r in self.fields)

    def field_equal(self, field: str) -> str | None:
        """The value that a field must have; None: any."""
        for requirement in self.fields:
            if requirement.key == field and requirement.operator == "in":
                return requirement.values[0]
        return None

    def __bool__(self) -> bool:
        return bool(self.labels or self.fields)


EVERYTHING = Selector()

TOKEN = re.compile(r"\s*(?:(!=|==|=|!|,|\(|\)|<|>)|([^\s!=,()<>]+))")


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """The requirements of a label selector. Errors: ValueError."""
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        found = TOKEN.match(text, at)
        assert found is not None
        tokens.append(found.group(1) or found.group(2))
        at = found.end()
    return tuple(_requirements(tokens)) if tokens else ()


def _requirements(tokens: list[str]) -> list[Requirement]:
    found, at = [], 0

    def take() -> str:
        nonlocal at
        if at >= len(tokens):
            raise ValueError("found '', expected: identifier")
        at += 1
        return tokens[at - 1]

    while True:
        key = take()
        if key == "!":
            found.append(Requirement(take(), "!"))
        elif at == len(tokens) or tokens[at] == ",":
            found.append(Requirement(key, "exists"))
        else:
            operator = take()
            if operator in ("=", "==", "!="):
                value = take() if at < len(tokens) and tokens[at] != "," else ""
                found.append(Requirement(key, "notin" if operator == "!=" else "in", (value,)))
            elif operator in ("<", ">"):
                found.append(Requirement(key, "lt" if operator == "<" else "gt", (take(),)))
            elif operator in ("in", "notin"):
                found.append(Requirement(key, operator, _values(take)))
            else:
                raise ValueError(f"found '{operator}', expected: in, notin, =, ==, !=, gt, lt")
        if at == len(tokens):
            return found
        comma = take()
        if comma != ",":
            raise ValueError(f"found '{comma}', expected: ',' or 'end of string'")


def _values(take: Any) -> tuple[str, ...]:
    if take() != "(":
        raise ValueError("expected: '('")
    values, word = [], take()
    while word != ")":
        if word == ",":
            values.append("")
            word = take()
            continue
        values.append(word)
        word = take()
        if word == ",":
            word = take()
        elif word != ")":
            raise ValueError(f"found '{word}', expected: ',' or ')'")
    return tuple(values) or ("",)


def parse_fields(text: str) -> tuple[Requirement, ...]:
    """The requirements of a field selector: only =, == and !=. Errors: ValueError."""
    found = []
    for term in re.split(r"(?<!\\),", text):
        if not term:
            continue
        split = re.match(r"([^!=]+)(!=|==|=)(.*)\Z", term, re.S)
        if split is None:
            raise ValueError(f"invalid selector: '{text}'; can't understand '{term}'")
        key, operator, value = split.groups()
        value = re.sub(r"\\(.)", r"\1", value)
        found.append(Requirement(key, "notin" if operator == "!=" else "in", (value,)))
    return tuple(found)


# --- which fields a kind has ---------------------------------------------------------------------

def _path(*parts: str) -> Any:
    def look(obj: Any) -> str:
        for part in parts:
            if not isinstance(obj, dict):
                return ""
            obj = obj.get(part)
        if obj is True or obj is False:
            return str(obj).lower()
        return "" if obj is None else str(obj)
    return look


def _paths(*fields: str) -> dict[str, Any]:
    return {field: _path(*field.split(".")) for field in fields}


COMMON = _paths("metadata.name", "metadata.namespace")
FIELDS: dict[str, dict[str, Any]] = {
    "Pod": _paths("spec.nodeName", "spec.restartPolicy", "spec.schedulerName",
                  "spec.serviceAccountName", "spec.hostNetwork", "status.phase", "status.podIP",
                  "status.nominatedNodeName"),
    "Event": _paths("involvedObject.kind", "involvedObject.namespace", "involvedObject.name",
                    "involvedObject.uid", "involvedObject.apiVersion",
                    "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
                    "reportingComponent", "source", "type"),
    "Secret": _paths("type"),
    "Namespace": _paths("status.phase"),
    "Node": _paths("spec.unschedulable"),
    "Job": _paths("status.successful"),
    "ReplicaSet": _paths("status.replicas"),
    "ReplicationController": _paths("status.replicas"),
    "CertificateSigningRequest": _paths("spec.signerName"),
}
FIELDS["Event"]["source"] = _path("source", "component")
DEFAULTS = {"spec.hostNetwork": "false", "spec.unschedulable": "false", "status.successful": "0",
            "status.replicas": "0"}


def field_values(kind: str, obj: Object) -> dict[str, str]:
    """The selectable fields of an object.

    >>> field_values("Secret", {"metadata": {"name": "s"}, "type": "Opaque"})["type"]
    'Opaque'
    """
    fields = COMMON | FIELDS.get(kind, {})
    return {name: look(obj) or DEFAULTS.get(name, "") for name, look in fields.items()}


def parse_selector(resource: Resource, labels: str, fields: str) -> Selector:
    """Both selectors of a request. Errors: 400 for what cannot be read or selected."""
    if not labels and not fields:
        return EVERYTHING
    try:
        wanted = Selector(parse_labels(labels), parse_fields(fields))
    except ValueError as error:
        raise status.bad_request(f"unable to parse requirement: {error}") from None
    known = COMMON | FIELDS.get(resource.kind, {})
    for requirement in wanted.fields:
        if requirement.key not in known:
            raise status.bad_request(f'field label not supported: {requirement.key}')
    return wanted
