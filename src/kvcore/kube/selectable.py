# SPDX-License-Identifier: Apache-2.0
"""Which fields of a kind may be selected, and where they stand in an object.

    FIELDS["Pod"]["spec.nodeName"] ──> path to look it up       values_of(kind, object) ──> tuple

A kind that is not in the table has metadata.name and metadata.namespace. The values of an object
are a tuple in the table's order: a tenth of what a dictionary an object would take.
Source: the selectable fields of each registry strategy and the field label conversions of
pkg/apis/*/v1. Thread safety: constants. May not know: selectors' grammar, the store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["FIELDS", "field_index", "unsupported", "values_of"]

Look = Callable[[dict[str, Any]], str]
# "spec.nodeName" as ("spec", "nodeName", what an absent one is), or a function of the object.
Place = tuple[str, str, str] | Look
NOTHING: dict[str, Any] = {}


def _text(value: Any) -> str:
    if value is True or value is False:
        return "true" if value else "false"
    return "" if value is None else str(value)


def _part(obj: dict[str, Any], section: str) -> dict[str, Any]:
    part = obj.get(section)
    return part if isinstance(part, dict) else NOTHING


def _top(field: str) -> Look:
    return lambda obj: _text(obj.get(field))


def _source(obj: dict[str, Any]) -> str:
    return _text(_part(obj, "source").get("component") or obj.get("reportingComponent"))


def _pod_ip(obj: dict[str, Any]) -> str:
    """The first of podIPs, which podIP repeats."""
    status = _part(obj, "status")
    ips = status.get("podIPs")
    if isinstance(ips, list) and ips and isinstance(ips[0], dict):
        return _text(ips[0].get("ip"))
    return _text(status.get("podIP"))


def _paths(*paths: str, **others: Place) -> dict[str, Place]:
    """Of fields by their paths; `others`: those with more to them, "." written "__"."""
    table = dict[str, Place]()
    for path in paths:
        section, _, field = path.partition(".")
        table[path] = (section, field, "") if field else _top(section)
    return table | {name.replace("__", "."): place for name, place in others.items()}


NAME, NAMESPACE = "metadata.name", "metadata.namespace"
COMMON = _paths(NAME, NAMESPACE)
# kind -> field -> where its value stands; what is not named here is refused.
FIELDS: dict[str, dict[str, Place]] = {
    "Pod": _paths(NAME, NAMESPACE, "spec.nodeName", "spec.restartPolicy", "spec.schedulerName",
                  "spec.serviceAccountName", "status.phase", "status.nominatedNodeName",
                  spec__hostNetwork=("spec", "hostNetwork", "false"), status__podIP=_pod_ip,
                  # accepted and never set, as upstream
                  status__podIPs=lambda obj: ""),
    "Node": _paths(NAME, spec__unschedulable=("spec", "unschedulable", "false")),
    "ReplicationController": _paths(NAME, NAMESPACE,
                                    status__replicas=("status", "replicas", "0")),
    "Event": _paths(NAME, NAMESPACE, "involvedObject.kind", "involvedObject.namespace",
                    "involvedObject.name", "involvedObject.uid", "involvedObject.apiVersion",
                    "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
                    "reportingComponent", "type", source=_source),
    "Namespace": _paths(NAME, "status.phase"),
    "Secret": _paths(NAME, NAMESPACE, "type"),
    "Service": _paths(NAME, NAMESPACE, "spec.clusterIP", "spec.type"),
    "Job": _paths(NAME, NAMESPACE, status__successful=("status", "succeeded", "0")),
    "CertificateSigningRequest": _paths(NAME, "spec.signerName"),
}
ALIASES = {("Pod", "spec.host"): "spec.nodeName"}       # of clients before 1.0
_INDEX = {kind: {field: i for i, field in enumerate(table)} for kind, table in FIELDS.items()}
_PLACES = {kind: tuple(table.values()) for kind, table in FIELDS.items()}
_COMMON_PLACES = tuple(COMMON.values())
_COMMON_INDEX = {field: i for i, field in enumerate(COMMON)}


def values_of(kind: str, obj: dict[str, Any]) -> tuple[str, ...]:
    """The values of all selectable fields of an object; "" where it has none. Cost: 1.5 us.

    >>> values_of("Secret", {"metadata": {"name": "s", "namespace": "a"}, "type": "Opaque"})
    ('s', 'a', 'Opaque')
    """
    values = []
    section, part = "", NOTHING
    for place in _PLACES.get(kind, _COMMON_PLACES):
        if type(place) is tuple:
            if place[0] != section:
                section = place[0]
                part = _part(obj, section)
            value = part.get(place[1])
            values.append((value if isinstance(value, str) else _text(value)) or place[2])
        else:
            values.append(place(obj))         # type: ignore[operator]
    return tuple(values)


def field_index(kind: str, field: str) -> int | None:
    """Where the value of a field stands in `values_of`; None: it cannot be selected.

    >>> field_index("Secret", "type"), field_index("ConfigMap", "type")
    (2, None)
    """
    return _INDEX.get(kind, _COMMON_INDEX).get(ALIASES.get((kind, field), field))


def unsupported(kind: str, field: str) -> str:
    """Upstream's words for a field that cannot be selected."""
    if kind == "Job":
        return f'field label "{field}" not supported for Job'
    if kind in FIELDS:
        return f"field label not supported: {field}"
    return f'"{field}" is not a known field selector: only "{NAME}", "{NAMESPACE}"'
