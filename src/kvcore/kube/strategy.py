# SPDX-License-Identifier: Apache-2.0
"""What the server alone decides of a new object, kind by kind.

    defaulted, mutated object with uid ── prepare_create ──> status, generation, selector, ...

A client's status is dropped where status is a subresource, and begins as upstream begins it. Which
kinds count generations is a table. Cluster IPs are given out by nobody yet: a Service keeps what it
was sent with.
Thread safety: none needed. Source: kubernetes pkg/registry/*/strategy.go (PrepareForCreate).
May not know: the store, HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvcore.kube import meta
from kvcore.kube.call import Call
from kvcore.kube.defaults import fill
from kvcore.kube.schema import fields_of, type_of_kind
from kvcore.kube.values import nano
from kvcore.kube.views import GENERATION, WITHOUT_FIRST

__all__ = ["COUNTED", "prepare_create"]

Object = dict[str, Any]

# Kinds whose metadata.generation begins with 1; others begin without one.
COUNTED = frozenset(GENERATION) - WITHOUT_FIRST
# Kinds whose status a create does not take from the client; pods' is begun by `_pod`.
STATUS_IS_OURS = (COUNTED - {"Pod"}) | {
    "Namespace", "Service", "PersistentVolume", "PersistentVolumeClaim", "ResourceQuota",
    "HorizontalPodAutoscaler", "VolumeAttachment", "CertificateSigningRequest",
}


def prepare_create(call: Call) -> None:
    """In place; the name and the uid are there already. Cost: 5 us for a pod."""
    obj = call.object
    name = type_of_kind(obj["apiVersion"], obj["kind"])
    if name is None:
        return
    kind, metadata = call.resource.kind, obj["metadata"]
    managed = metadata.get("managedFields")
    if managed and any(entry.get("operation") not in ("Apply", "Update")
                       or entry.get("fieldsType") != "FieldsV1" for entry in managed):
        del metadata["managedFields"]        # what cannot be read is begun anew
    if kind in COUNTED:
        metadata["generation"] = 1
    else:
        metadata.pop("generation", None)
    if kind in STATUS_IS_OURS:
        _begin_status(name, obj)
    special = SPECIAL.get(kind)
    if special is not None:
        special(call, obj)


def _begin_status(name: str, obj: Object) -> None:
    status = fields_of(name).get("status")
    if status is None:
        obj.pop("status", None)
        return
    obj["status"] = {}
    fill(status.base)(obj["status"])


# --- pods -----------------------------------------------------------------------------------------

def quality_of_service(spec: Object) -> str:
    """Guaranteed, Burstable or BestEffort, as the requests and limits of the containers say.

    >>> quality_of_service({"containers": [{"resources": {"limits": {"cpu": "1"}}}]})
    'Burstable'
    """
    own = spec.get("resources")
    holders = [{"resources": own}] if own else (
        *spec.get("containers", ()), *spec.get("initContainers", ()))
    requests, limits, guaranteed = dict[str, int](), dict[str, int](), True
    for holder in holders:
        resources = holder.get("resources") or {}
        limited = 0
        for name in ("cpu", "memory"):
            asked = resources.get("requests", {}).get(name)
            if asked is not None and (amount := nano(asked)) > 0:
                requests[name] = requests.get(name, 0) + amount
            limit = resources.get("limits", {}).get(name)
            if limit is not None and (amount := nano(limit)) > 0:
                limits[name] = limits.get(name, 0) + amount
                limited += 1
        guaranteed = guaranteed and limited == 2
        if (requests or limits) and not guaranteed:
            return "Burstable"
    if not requests and not limits:
        return "BestEffort"
    return "Guaranteed" if guaranteed and requests == limits else "Burstable"


def _pod(call: Call, obj: Object) -> None:
    obj["status"] = status = {"phase": "Pending", "qosClass": quality_of_service(obj["spec"])}
    if obj["spec"].get("schedulingGates"):
        status["conditions"] = [{  # type: ignore[assignment]
            "type": "PodScheduled", "status": "False", "lastProbeTime": None,
            "lastTransitionTime": obj["metadata"].get("creationTimestamp"),
            "reason": "SchedulingGated", "observedGeneration": 1,
            "message": "Scheduling is blocked due to non-empty scheduling gates"}]


# --- the others -----------------------------------------------------------------------------------

def _namespace(call: Call, obj: Object) -> None:
    finalizers = obj["spec"].setdefault("finalizers", [])
    if "kubernetes" not in finalizers:
        finalizers.append("kubernetes")
    obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = call.name


def _volume(call: Call, obj: Object) -> None:
    obj["status"]["lastPhaseTransitionTime"] = meta.rfc3339(call.api.now())


def _claim(call: Call, obj: Object) -> None:
    """dataSource and dataSourceRef say the same where one of them could say it."""
    spec = obj["spec"]
    source, ref = spec.get("dataSource"), spec.get("dataSourceRef")
    if source and not ref:
        spec["dataSourceRef"] = dict(source)
    elif ref and not source and not ref.get("namespace"):
        spec["dataSource"] = {k: v for k, v in ref.items() if k != "namespace"}


JOB_NAME = ("job-name", "batch.kubernetes.io/job-name")
JOB_UID = ("controller-uid", "batch.kubernetes.io/controller-uid")


def _job(call: Call, obj: Object) -> None:
    """The selector of the job's own pods, unless the client says that it knows better."""
    spec = obj["spec"]
    if spec.get("manualSelector"):
        return
    uid = obj["metadata"]["uid"]
    labels = spec["template"].setdefault("metadata", {}).setdefault("labels", {})
    for label in JOB_NAME:
        labels.setdefault(label, call.name)
    for label in JOB_UID:
        labels.setdefault(label, uid)
    spec.setdefault("selector", {}).setdefault("matchLabels", {}).setdefault(JOB_UID[1], uid)
    if not obj["metadata"].get("labels") and not meta.name_problem(call.name):
        obj["metadata"]["labels"] = dict(labels)


def _service_account(call: Call, obj: Object) -> None:
    """A reference to a secret is a name, no more."""
    if "secrets" in obj:
        obj["secrets"] = [{"name": secret["name"]} if "name" in secret else {}
                          for secret in obj["secrets"]]


def _signing_request(call: Call, obj: Object) -> None:
    """Who asks is who sent it, whatever it says."""
    spec, user = obj["spec"], call.user
    for told in ("username", "uid", "groups", "extra"):
        spec.pop(told, None)
    spec["username"], spec["groups"] = user.name, list(user.groups)
    if user.uid:
        spec["uid"] = user.uid
    if user.extra:
        spec["extra"] = {key: list(values) for key, values in user.extra.items()}


def _daemon_set(call: Call, obj: Object) -> None:
    annotations = obj["metadata"].setdefault("annotations", {})
    annotations.setdefault("deprecated.daemonset.template.generation", "1")


def _limit_range(call: Call, obj: Object) -> None:
    """One without a name is named by chance."""
    if not call.name:
        call.name = obj["metadata"]["name"] = meta.new_uid()


SPECIAL: dict[str, Callable[[Call, Object], None]] = {
    "Pod": _pod, "Namespace": _namespace, "PersistentVolume": _volume,
    "PersistentVolumeClaim": _claim, "Job": _job, "ServiceAccount": _service_account,
    "CertificateSigningRequest": _signing_request, "DaemonSet": _daemon_set,
    "LimitRange": _limit_range,
}
