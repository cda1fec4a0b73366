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

Look = Callable[[Any], str]


def _text(value: Any) -> str:
    if value is True or value is False:
        return "true" if value else "false"
    return "" if value is None else str(value)


def _path(path: str, default: str = "") -> Look:
    parts = path.split(".")

    def look(obj: Any) -> str:
        for part in parts:
            if not isinstance(obj, dict):
                return default
            obj = obj.get(part)
        return _text(obj) or default
    return look


def _source(obj: Any) -> str:
    return _path("source.component")(obj) or _path("reportingComponent")(obj)


def _pod_ip(obj: Any) -> str:
    """The first of podIPs, which podIP repeats."""
    status = obj.get("status")
    ips = status.get("podIPs") if isinstance(status, dict) else None
    if isinstance(ips, list) and ips and isinstance(ips[0], dict):
        return _text(ips[0].get("ip"))
    return _path("status.podIP")(obj)


def _paths(*paths: str, **others: Look) -> dict[str, Look]:
    return {path: _path(path) for path in paths} | {
        name.replace("__", "."): look for name, look in others.items()}


NAME, NAMESPACE = "metadata.name", "metadata.namespace"
COMMON = _paths(NAME, NAMESPACE)
# kind -> field -> where its value stands; what is not named here is refused.
FIELDS: dict[str, dict[str, Look]] = {
    "Pod": _paths(NAME, NAMESPACE, "spec.nodeName", "spec.restartPolicy", "spec.schedulerName",
                  "spec.serviceAccountName", "status.phase", "status.nominatedNodeName",
                  spec__hostNetwork=_path("spec.hostNetwork", "false"), status__podIP=_pod_ip,
                  # accepted and never set, as upstream
                  status__podIPs=lambda obj: ""),
    "Node": _paths(NAME, spec__unschedulable=_path("spec.unschedulable", "false")),
    "ReplicationController": _paths(NAME, NAMESPACE,
                                    status__replicas=_path("status.replicas", "0")),
    "Event": _paths(NAME, NAMESPACE, "involvedObject.kind", "involvedObject.namespace",
                    "involvedObject.name", "involvedObject.uid", "involvedObject.apiVersion",
                    "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
                    "reportingComponent", "type", source=_source),
    "Namespace": _paths(NAME, "status.phase"),
    "Secret": _paths(NAME, NAMESPACE, "type"),
    "Service": _paths(NAME, NAMESPACE, "spec.clusterIP", "spec.type"),
    "Job": _paths(NAME, NAMESPACE, status__successful=_path("status.succeeded", "0")),
    "CertificateSigningRequest": _paths(NAME, "spec.signerName"),
}
ALIASES = {("Pod", "spec.host"): "spec.nodeName"}       # of clients before 1.0
_INDEX = {kind: {field: i for i, field in enumerate(table)} for kind, table in FIELDS.items()}
_COMMON_INDEX = {field: i for i, field in enumerate(COMMON)}


def values_of(kind: str, obj: dict[str, Any]) -> tuple[str, ...]:
    """The values of all selectable fields of an object; "" where it has none.

    >>> values_of("Secret", {"metadata": {"name": "s", "namespace": "a"}, "type": "Opaque"})
    ('s', 'a', 'Opaque')
    """
    return tuple([look(obj) for look in FIELDS.get(kind, COMMON).values()])


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
