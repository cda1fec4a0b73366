# SPDX-License-Identifier: Apache-2.0
"""What an object costs a ResourceQuota, by the names that quotas use.

    resource ──evaluator──> Evaluator: names of a quota it counts, scopes, usage of one object
        pods                    pods, count/pods, cpu, requests.memory, hugepages-*, requests.x/y
        services                services, services.loadbalancers, services.nodeports
        persistentvolumeclaims  requests.storage, the same by class, by VolumeAttributesClass
        all others              count/<plural>.<group>; five core kinds also under their own name

Thread safety: values. Source: kubernetes pkg/quota/v1/evaluator/core, apiserver pkg/quota/v1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kvcore.kube.admission.podresources import (
    Amounts,
    add,
    amounts,
    best_effort,
    containers,
    pod_level,
    pod_limits,
    pod_requests,
)
from kvcore.kube.call import Call, Object
from kvcore.kube.quantity import ZERO, Quantity
from kvcore.kube.resources import Resource

__all__ = ["Evaluator", "evaluator", "exceeding", "matches", "scopes_of", "subtract"]

ONE = Quantity(1)
COUNTED_BY_NAME = frozenset({"configmaps", "resourcequotas", "replicationcontrollers", "secrets"})
IGNORED = frozenset({"bindings", "events", "events.events.k8s.io"})
IGNORED_GROUPS = frozenset({"authentication.k8s.io", "authorization.k8s.io"})

POD_NAMES = frozenset({
    "count/pods", "pods", "cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory",
    "requests.ephemeral-storage", "limits.cpu", "limits.memory", "limits.ephemeral-storage"})
NEEDED = ("cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory")
SERVICE_NAMES = frozenset({"count/services", "services", "services.loadbalancers",
                           "services.nodeports"})
CLAIM_NAMES = frozenset({"count/persistentvolumeclaims", "persistentvolumeclaims",
                         "requests.storage"})
BY_CLASS = ".storageclass.storage.k8s.io/"
CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"

Scope = Mapping[str, Any]                       # scopeName, operator, values


@dataclass(frozen=True)
class Evaluator:
    """How one resource is counted. `counts(name)`: whether a quota's name is about it; `scope`:
    whether an object is in a scope; `usage(object, now)`; `handles(call)`; `needs`: what a quota
    makes an object say, in upstream's words."""

    counts: Callable[[str], bool]
    usage: Callable[[Object, float], Amounts]
    handles: Callable[[Call], bool]
    scope: Callable[[Scope, Object], bool] = lambda scope, obj: False
    needs: Callable[[Iterable[str], Object], str] = lambda names, obj: ""
    only_counts: bool = False                   # each object counts one, whatever it says
    scoped: bool = False                        # scopes are looked at


_evaluators: dict[str, Evaluator | None] = {}


def evaluator(resource: Resource) -> Evaluator | None:
    """None: quotas do not count it. Cost: 0.1 us."""
    name = resource.qualified
    if name not in _evaluators:
        skip = name in IGNORED or resource.group in IGNORED_GROUPS
        _evaluators[name] = None if skip else SPECIAL.get(name) or _counting(name)
    return _evaluators[name]


def _counting(name: str) -> Evaluator:
    names = frozenset({f"count/{name}"} | ({name} & COUNTED_BY_NAME))
    return Evaluator(
        counts=names.__contains__, usage=lambda obj, now: dict.fromkeys(names, ONE),
        handles=lambda call: call.operation == "CREATE" and not call.target.subresource,
        only_counts=True)


# --- scopes --------------------------------------------------------------------------------------

def scopes_of(quota: Object) -> list[Scope]:
    """The scopes of a quota's spec, old and new spelling."""
    spec = quota.get("spec") or {}
    found: list[Scope] = [{"scopeName": name, "operator": "Exists"}
                          for name in spec.get("scopes") or ()]
    return found + list((spec.get("scopeSelector") or {}).get("matchExpressions") or ())


def matches(found: Evaluator, quota: Object, names: Iterable[str], obj: Object) -> bool:
    """Whether the quota is about the object: one of its names, all of its scopes."""
    return any(found.counts(name) for name in names) \
        and all(found.scope(scope, obj) for scope in scopes_of(quota))


def in_values(scope: Scope, values: set[str]) -> bool:
    """In, NotIn, Exists and DoesNotExist of a scope about names."""
    match scope.get("operator"):
        case "Exists":
            return bool(values)
        case "DoesNotExist":
            return not values
        case "In":
            return bool(values & set(scope.get("values") or ()))
        case "NotIn":
            return not values or bool(values - set(scope.get("values") or ()))
    return False


# --- pods ----------------------------------------------------------------------------------------

def pod_counts(name: str) -> bool:
    if name in POD_NAMES or name.startswith(("hugepages-", "requests.hugepages-")):
        return True
    return name.startswith("requests.") and ("/" in name and "kubernetes.io/" not in name
                                             or name.startswith("requests.deviceclass."))


def pod_usage(pod: Object, now: float) -> Amounts:
    result: Amounts = {"count/pods": ONE}
    if pod_is_over(pod, now):
        return result
    return result | compute(pod_requests(pod), pod_limits(pod))


def pod_is_over(pod: Object, now: float) -> bool:
    """Finished, or past its grace after a deletion."""
    if (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded"):
        return True
    metadata = pod["metadata"]
    deleted, grace = metadata.get("deletionTimestamp"), metadata.get("deletionGracePeriodSeconds")
    if not deleted or grace is None:
        return False
    end = datetime.fromisoformat(deleted.replace("Z", "+00:00")).timestamp() + float(grace)
    return now > end


def compute(requests: Amounts, limits: Amounts) -> Amounts:
    """Requests and limits under the names of quotas."""
    result: Amounts = {"pods": ONE}
    for name in ("cpu", "memory", "ephemeral-storage"):
        if name in requests:
            result[name] = result[f"requests.{name}"] = requests[name]
        if name in limits:
            result[f"limits.{name}"] = limits[name]
    for name, quantity in requests.items():
        if name.startswith("hugepages-"):
            result[name] = result[f"requests.{name}"] = quantity
        elif "/" in name and "kubernetes.io/" not in name and not name.startswith("requests."):
            result[f"requests.{name}"] = quantity
    return result


def pod_needs(names: Iterable[str], pod: Object) -> str:
    """"must specify cpu for: a,b" when a container is silent about what a quota counts."""
    spec = pod.get("spec") or {}
    if pod_level(spec, "requests", huge_pages=True) or pod_level(spec, "limits", huge_pages=True):
        return ""
    needed = sorted(set(names).intersection(NEEDED))
    silent: dict[str, set[str]] = {}
    for container in containers(spec, "containers", "initContainers") if needed else ():
        resources = container.get("resources") or {}
        said = compute(resources.get("requests") or {}, resources.get("limits") or {})
        for name in needed:
            if name not in said:
                silent.setdefault(name, set()).add(container.get("name", ""))
    said_of = (f"{name} for: {','.join(sorted(silent[name]))}" for name in sorted(silent))
    return f"must specify {'; '.join(said_of)}" if silent else ""


def pod_handles(call: Call) -> bool:
    match call.target.subresource:
        case "":
            return call.operation == "CREATE" or (
                call.operation == "UPDATE" and call.old is not None
                and terminating(call.old) != terminating(call.object))
        case "resize":
            return call.operation == "UPDATE"
    return False


def terminating(pod: Object) -> bool:
    deadline: int | None = (pod.get("spec") or {}).get("activeDeadlineSeconds")
    return deadline is not None and deadline >= 0


def pod_scope(scope: Scope, pod: Object) -> bool:
    match scope.get("scopeName"):
        case "Terminating":
            return terminating(pod)
        case "NotTerminating":
            return not terminating(pod)
        case "BestEffort":
            return best_effort(pod)
        case "NotBestEffort":
            return not best_effort(pod)
        case "PriorityClass":
            name = (pod.get("spec") or {}).get("priorityClassName")
            return in_values(scope, {name} if name else set())
        case "CrossNamespacePodAffinity":
            return crosses_namespaces(pod)
    return False


def crosses_namespaces(pod: Object) -> bool:
    """Whether an affinity term looks at pods of other namespaces."""
    affinity = (pod.get("spec") or {}).get("affinity") or {}
    for kind in ("podAffinity", "podAntiAffinity"):
        terms = affinity.get(kind) or {}
        weighted = terms.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        for term in (*(terms.get("requiredDuringSchedulingIgnoredDuringExecution") or ()),
                     *(each.get("podAffinityTerm") or {} for each in weighted)):
            if term.get("namespaces") or term.get("namespaceSelector") is not None:
                return True
    return False


# --- services, claims ----------------------------------------------------------------------------

def created_or_updated(call: Call) -> bool:
    return call.operation in ("CREATE", "UPDATE") and not call.target.subresource


def service_usage(service: Object, now: float) -> Amounts:
    spec = service.get("spec") or {}
    ports = spec.get("ports") or ()
    balanced = spec.get("type") == "LoadBalancer"
    opened = len(ports) if balanced or spec.get("type") == "NodePort" else 0
    if balanced and spec.get("allocateLoadBalancerNodePorts") is False:
        opened = sum(1 for port in ports if port.get("nodePort"))
    return {"count/services": ONE, "services": ONE, "services.loadbalancers": Quantity(balanced),
            "services.nodeports": Quantity(opened)}


def claim_usage(claim: Object, now: float) -> Amounts:
    result: Amounts = {"persistentvolumeclaims": ONE, "count/persistentvolumeclaims": ONE}
    spec = claim.get("spec") or {}
    annotations = claim["metadata"].get("annotations") or {}
    own = annotations.get(CLASS_ANNOTATION) or spec.get("storageClassName")
    if own:
        result[f"{own}{BY_CLASS}persistentvolumeclaims"] = ONE
    asked = amounts((spec.get("resources") or {}).get("requests")).get("storage")
    if asked is not None:
        size = asked.round_up()
        given = amounts((claim.get("status") or {}).get("allocatedResources")).get("storage")
        if given is not None and given > size:
            size = given.round_up()
        result["requests.storage"] = size
        if own:
            result[f"{own}{BY_CLASS}requests.storage"] = size
    return result


def claim_counts(name: str) -> bool:
    return name in CLAIM_NAMES or name.endswith((f"{BY_CLASS}persistentvolumeclaims",
                                                 f"{BY_CLASS}requests.storage"))


def claim_scope(scope: Scope, claim: Object) -> bool:
    if scope.get("scopeName") != "VolumeAttributesClass":
        return False
    state = claim.get("status") or {}
    names = {(claim.get("spec") or {}).get("volumeAttributesClassName"),
             state.get("currentVolumeAttributesClassName"),
             (state.get("modifyVolumeStatus") or {}).get("targetVolumeAttributesClassName")}
    return in_values(scope, {name for name in names if name})


SPECIAL = {
    "pods": Evaluator(pod_counts, pod_usage, pod_handles, pod_scope, pod_needs, scoped=True),
    "services": Evaluator(SERVICE_NAMES.__contains__, service_usage, created_or_updated),
    "persistentvolumeclaims": Evaluator(claim_counts, claim_usage, created_or_updated, claim_scope,
                                        scoped=True),
}


# --- arithmetic ----------------------------------------------------------------------------------

def subtract(a: Amounts, b: Amounts) -> Amounts:
    """a - b, name by name, nothing below zero."""
    result: Amounts = {}
    for name in a.keys() | b.keys():
        rest = a.get(name, ZERO) - b.get(name, ZERO)
        result[name] = rest if rest.unscaled > 0 else ZERO
    return result


def exceeding(requested: Amounts, used: Amounts, hard: Amounts) -> list[str]:
    """The requested names whose sum with what is used is more than the quota has."""
    new = add(used, requested)
    return sorted(name for name in requested if name in hard and new[name] > hard[name])
