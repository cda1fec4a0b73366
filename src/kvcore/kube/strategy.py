# SPDX-License-Identifier: Apache-2.0
"""What the server alone decides of a new object, kind by kind.

    defaulted, mutated object with uid ── prepare_create ──> status, generation, selector, ...

Source: the strategies of kubernetes pkg/registry/*/*/strategy.go (PrepareForCreate).
Thread safety: none needed. May not know: the store, HTTP.
"""

from __future__ import annotations

from collections.abc import Callable

from kvcore.kube import meta
from kvcore.kube.call import Call, Object
from kvcore.kube.views import NAME_LABEL, TEMPLATE_GENERATION

__all__ = ["prepare_create"]

# kind -> status of a new object, whatever the client says; kinds not here keep what they bring
STATUS: dict[str, Object] = {
    "Namespace": {"phase": "Active"},
    "PersistentVolumeClaim": {"phase": "Pending"},
    "Service": {"loadBalancer": {}},
    "Ingress": {"loadBalancer": {}},
    "ReplicationController": {"replicas": 0},
    "ReplicaSet": {"replicas": 0},
    "StatefulSet": {"replicas": 0, "availableReplicas": 0},
    "DaemonSet": {"currentNumberScheduled": 0, "numberMisscheduled": 0,
                  "desiredNumberScheduled": 0, "numberReady": 0},
    "PodDisruptionBudget": {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0,
                            "expectedPods": 0},
    "HorizontalPodAutoscaler": {"desiredReplicas": 0, "currentMetrics": None},
    "VolumeAttachment": {"attached": False},
    **dict.fromkeys(("ResourceQuota", "Deployment", "Job", "CronJob",
                     "CertificateSigningRequest"), {}),
}


def prepare_create(call: Call) -> None:
    """Fills in what the server alone says of a new object; its uid and times are there."""
    obj, kind = call.object, call.resource.kind
    status = STATUS.get(kind)
    if status is not None:
        obj["status"] = dict(status)
    own = OWN.get(kind)
    if own is not None:
        own(call)


def _pod(call: Call) -> None:
    spec = call.object.get("spec") or {}
    status: Object = {"phase": "Pending", "qosClass": qos_class(spec)}
    if spec.get("schedulingGates"):
        status["conditions"] = [{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": None, "lastTransitionTime": None}]
    call.object["status"] = status


def qos_class(spec: Object) -> str:
    """Guaranteed, Burstable or BestEffort, from resources in their one spelling.

    >>> qos_class({"containers": [{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]})
    'Guaranteed'
    """
    seen, guaranteed = False, True
    for where in ("containers", "initContainers"):
        for container in spec.get(where) or ():
            resources = container.get("resources") or {}
            limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
            for name in ("cpu", "memory"):
                limit, request = limits.get(name, "0"), requests.get(name)
                if limit in ("0", 0):
                    guaranteed = False
                    seen = seen or request not in (None, "0", 0)
                else:
                    seen = True
                    if request is not None and request != limit:
                        guaranteed = False
    return "BestEffort" if not seen else "Guaranteed" if guaranteed else "Burstable"


def _namespace(call: Call) -> None:
    metadata = call.object["metadata"]
    if metadata.get("name"):
        metadata.setdefault("labels", {})[NAME_LABEL] = metadata["name"]
    spec = call.object.setdefault("spec", {})
    finalizers = spec.get("finalizers") or []
    if "kubernetes" not in finalizers:
        spec["finalizers"] = [*finalizers, "kubernetes"]


def _volume(call: Call) -> None:
    call.object["status"] = {"phase": "Pending",
                             "lastPhaseTransitionTime": meta.rfc3339(call.api.now())}


def _request(call: Call) -> None:
    """A certificate signing request is of the user who asks, whatever it says itself."""
    spec, user = call.object.setdefault("spec", {}), call.user
    for part in ("username", "uid", "groups", "extra"):
        spec.pop(part, None)
    spec["username"] = user.name
    if user.groups:
        spec["groups"] = list(user.groups)
    if user.uid:
        spec["uid"] = user.uid
    if user.extra:
        spec["extra"] = {name: list(values) for name, values in user.extra.items()}


def _daemon_set(call: Call) -> None:
    annotations = call.object["metadata"].setdefault("annotations", {})
    annotations[TEMPLATE_GENERATION] = "1"


def _job(call: Call) -> None:
    """A job's pods are found by its uid, unless it brings its own selector."""
    job = call.object
    spec = job.get("spec")
    if not isinstance(spec, dict) or spec.get("manualSelector"):
        return
    name, uid = job["metadata"].get("name", ""), job["metadata"]["uid"]
    labels = spec.setdefault("template", {}).setdefault("metadata", {}).setdefault("labels", {})
    for prefix in ("", "batch.kubernetes.io/"):
        labels.setdefault(f"{prefix}job-name", name)
        labels.setdefault(f"{prefix}controller-uid", uid)
    selector = spec.setdefault("selector", {}).setdefault("matchLabels", {})
    selector.setdefault("batch.kubernetes.io/controller-uid", uid)
    if not job["metadata"].get("labels"):
        job["metadata"]["labels"] = dict(labels)


OWN: dict[str, Callable[[Call], None]] = {
    "Pod": _pod, "Namespace": _namespace, "PersistentVolume": _volume, "DaemonSet": _daemon_set,
    "Job": _job, "CertificateSigningRequest": _request}
