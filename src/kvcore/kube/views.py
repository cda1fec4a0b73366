# SPDX-License-Identifier: Apache-2.0
"""What an update makes of an object, kind by kind: tables, and a few functions.

    VIEWS["status"](new, old) -> the object that is stored when /status is written
    VIEWS[""](new, old)       -> ... when the object itself is written: its status stays

A kind that is in no table has no generation, may not be created by PUT, may be overwritten without
a resourceVersion, and answers a delete with a Status.
Source: the strategies of kubernetes pkg/registry/*/*/strategy.go (PrepareForUpdate) and storage.go.
Thread safety: none needed. May not know: the store, HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvcore.kube.status import Cause

__all__ = ["CHECKS", "CREATED_BY_UPDATE", "NEEDS_VERSION", "RETURNS_OBJECT", "VIEWS", "changed",
           "nothing", "renamed", "whole"]

Object = dict[str, Any]

CREATED_BY_UPDATE = frozenset({
    "RuntimeClass", "RoleBinding", "ClusterRoleBinding", "Role", "ClusterRole", "Lease",
    "LimitRange", "Event", "Service", "Endpoints"})
NEEDS_VERSION = frozenset({
    "RuntimeClass", "PodDisruptionBudget", "CSIDriver", "CSIStorageCapacity", "VolumeAttachment",
    "CSINode", "Lease", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"})
RETURNS_OBJECT = frozenset({
    "CSIDriver", "StorageClass", "VolumeAttachment", "CSINode", "ResourceQuota", "Namespace",
    "PersistentVolume", "PersistentVolumeClaim", "ServiceAccount", "Pod", "Service",
    "PodTemplate"})

# kind -> the parts whose change is a new generation; an empty tuple: always 1
GENERATION: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("IngressClass", "NetworkPolicy", "Ingress", "PodDisruptionBudget", "DaemonSet",
                     "StatefulSet", "ReplicaSet", "Job", "CronJob", "Pod", "Deployment",
                     "ReplicationController", "CSIDriver"), ("spec",)),
    "PodTemplate": ("template",),
    "EndpointSlice": ("addressType", "endpoints", "ports"),
    "MutatingWebhookConfiguration": ("webhooks",),
    "ValidatingWebhookConfiguration": ("webhooks",),
    "PriorityClass": (),
}
WITHOUT_FIRST = frozenset({"CSIDriver"})           # no generation until the spec changes
HAS_STATUS = frozenset({
    "Namespace", "PersistentVolume", "PersistentVolumeClaim", "Service", "Ingress", "Node", "Pod",
    "ReplicationController", "ReplicaSet", "StatefulSet", "DaemonSet", "Deployment", "Job",
    "CronJob", "PodDisruptionBudget", "HorizontalPodAutoscaler", "VolumeAttachment",
    "ResourceQuota", "CertificateSigningRequest"})
NAME_LABEL = "kubernetes.io/metadata.name"
TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"


def renamed(obj: Object, before: str) -> None:
    """What hangs on the name, when a generated one was taken and there is another."""
    metadata = obj["metadata"]
    if obj["kind"] == "Namespace":
        metadata.setdefault("labels", {})[NAME_LABEL] = metadata["name"]
    elif obj["kind"] == "Job":
        for labels in (metadata.get("labels"), obj["spec"]["template"]["metadata"].get("labels")):
            for label in ("job-name", "batch.kubernetes.io/job-name"):
                if labels and labels.get(label) == before:
                    labels[label] = metadata["name"]


# (what the client wants, what is stored) -> what is to be stored. Both have apiVersion, kind and
# metadata; the first may be changed.
View = Callable[[Object, Object], Object]


def _keep(new: Object, old: Object, *parts: str) -> None:
    for part in parts:
        if part in old:
            new[part] = old[part]
        else:
            new.pop(part, None)


def whole(new: Object, old: Object) -> Object:
    """The object itself: its status cannot be written this way; its generation counts."""
    kind = old["kind"]
    if kind in HAS_STATUS:
        _keep(new, old, "status")
    if kind == "Namespace":
        spec = new.setdefault("spec", {})
        _keep(spec, old.get("spec") or {}, "finalizers")
    elif kind == "CertificateSigningRequest":
        _keep(new, old, "spec")
    elif kind == "Secret" and not new.get("type"):
        _keep(new, old, "type")
    elif kind == "DaemonSet":
        _count_template(new, old)
    if changed(new, old):
        new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
    return _labelled(new)


def _labelled(obj: Object) -> Object:
    """Every namespace says its name in a label."""
    if obj["kind"] == "Namespace":
        obj["metadata"].setdefault("labels", {})[NAME_LABEL] = obj["metadata"]["name"]
    return obj


def changed(new: Object, old: Object) -> bool:
    """Whether this is a new generation."""
    kind = old["kind"]
    parts = GENERATION.get(kind, ())
    if any(new.get(part) != old.get(part) for part in parts):
        return True
    extra = {"Deployment": "annotations", "EndpointSlice": "labels"}.get(kind)
    return extra is not None and (
        (new["metadata"].get(extra) or {}) != (old["metadata"].get(extra) or {}))


def _count_template(new: Object, old: Object) -> None:
    def template(obj: Object) -> Any:
        return (obj.get("spec") or {}).get("template")

    count = int((old["metadata"].get("annotations") or {}).get(TEMPLATE_GENERATION) or 0)
    if template(new) != template(old):
        count += 1
    if count:
        new["metadata"].setdefault("annotations", {})[TEMPLATE_GENERATION] = str(count)


def status_only(new: Object, old: Object) -> Object:
    """/status: the status and, but for some kinds, the metadata."""
    metadata, old_metadata = new["metadata"], old["metadata"]
    kind = old["kind"]
    for part in FROZEN.get(kind, ()):
        _keep(metadata, old_metadata, part)
    if kind == "Pod":
        status = new.get("status")
        if isinstance(status, dict) and not status.get("qosClass"):
            _keep(status, old.get("status") or {}, "qosClass")
    elif kind == "CertificateSigningRequest":
        _keep_decisions(new, old)
    made = {key: value for key, value in old.items() if key != "status"}
    made["metadata"] = metadata
    if "status" in new:
        made["status"] = new["status"]
    return _labelled(made)


FROZEN: dict[str, tuple[str, ...]] = {
    "Pod": ("ownerReferences",),
    "Deployment": ("labels",),
    "VolumeAttachment": ("labels", "annotations", "finalizers", "ownerReferences"),
}


def _keep_decisions(new: Object, old: Object) -> None:
    """Approved and Denied are written by /approval alone."""
    def conditions(obj: Object, decided: bool) -> list[Any]:
        return [c for c in (obj.get("status") or {}).get("conditions") or ()
                if (c.get("type") in ("Approved", "Denied")) == decided]

    found = conditions(new, False) + conditions(old, True)
    if found:
        new.setdefault("status", {})["conditions"] = found
    else:
        (new.get("status") or {}).pop("conditions", None)


def approval_only(new: Object, old: Object) -> Object:
    """/approval of certificate signing requests: the conditions."""
    status = dict(old.get("status") or {})
    _keep(status, new.get("status") or {}, "conditions")
    made = dict(old, metadata=new["metadata"], status=status)
    return made


def finalizers_only(new: Object, old: Object) -> Object:
    """/finalize of namespaces: the spec, which is its finalizers."""
    _keep(new, old, "status")
    return _labelled(new)


# --- what may not be written to a part ------------------------------------------------------------

Check = Callable[[Object, Object], list[Cause]]


def nothing(new: Object, old: Object) -> list[Cause]:
    return []


def check_phase(new: Object, old: Object) -> list[Cause]:
    """A namespace is terminating exactly while it is being deleted."""
    if old["kind"] != "Namespace":
        return []
    phase = (new.get("status") or {}).get("phase", "")
    ending = "deletionTimestamp" in old["metadata"]
    wanted = "Terminating" if ending else "Active"
    if phase == wanted:
        return []
    return [Cause.invalid("status.Phase", phase, f"may only be '{wanted}' if `deletionTimestamp` "
                          f"is {'not ' if ending else ''}empty")]


def check_finalizers(new: Object, old: Object) -> list[Cause]:
    return [Cause.invalid(f"spec.finalizers[{at}]", name, "name is neither a standard finalizer "
                          "name nor is it fully qualified")
            for at, name in enumerate((new.get("spec") or {}).get("finalizers") or ())
            if "/" not in name and name not in ("kubernetes", "orphan", "foregroundDeletion")]


CHECKS: dict[str, Check] = {"status": check_phase, "finalize": check_finalizers}
VIEWS: dict[str, View] = {"": whole, "status": status_only, "approval": approval_only,
                          "finalize": finalizers_only}
