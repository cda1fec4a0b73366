# SPDX-License-Identifier: Apache-2.0
"""LimitRanger: what a container gets when it says nothing, and what it may say.

    LimitRange of the namespace ──> Limits, parsed once a version
    admit      pods: default requests and limits into containers; an annotation says which
    validate   pods: each container, and the pod in all, against min, max and ratio
               claims: requested storage against min and max

All that is wrong is told at once. Pods are only looked at when they are made or resized.
Thread safety: the server's event loop. Source: kubernetes plugin/pkg/admission/limitranger; the
defaults of a LimitRange itself: pkg/apis/core/v1/defaults.go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kvcore.kube.admission.chain import WRITES, forbidden
from kvcore.kube.admission.lookups import Derived, Lister
from kvcore.kube.admission.podresources import Amounts, amounts, containers, pod_level, total
from kvcore.kube.call import Call, Object
from kvcore.kube.quantity import ZERO, Quantity

__all__ = ["LimitRanger"]

ANNOTATION = "kubernetes.io/limit-ranger"
MAX_MILLI = ((1 << 63) - 1) // 1000          # up to here, thousandths are compared


@dataclass(frozen=True)
class Limits:
    """One item of a LimitRange. `type`: Pod, Container, PersistentVolumeClaim."""

    type: str
    min: Amounts
    max: Amounts
    ratio: Amounts


@dataclass(frozen=True)
class Range:
    """One LimitRange; the defaults are those of all its Container items, as they are written."""

    limits: tuple[Limits, ...]
    requests_by_default: dict[str, str]
    limits_by_default: dict[str, str]


class LimitRanger:
    name = "LimitRanger"
    operations = WRITES

    def __init__(self) -> None:
        self._ranges = Derived(Lister("", "v1", "limitranges"), ranges_of)

    def admit(self, call: Call) -> None:
        if call.resource.qualified != "pods" or not self._concerns(call):
            return
        for found in self._ranges.get(call.api, call.namespace):
            apply_defaults(call.object, found)

    def validate(self, call: Call) -> None:
        if not self._concerns(call):
            return
        for found in self._ranges.get(call.api, call.namespace):
            wrong = check_pod(call.object, found) if call.resource.qualified == "pods" \
                else check_claim(call.object, found)
            if wrong:
                raise forbidden(call, aggregate(wrong))

    def _concerns(self, call: Call) -> bool:
        subresource = call.target.subresource
        if call.old is not None and "deletionTimestamp" in call.old["metadata"]:
            return False
        if call.resource.qualified == "pods":
            return subresource == ("resize" if call.operation == "UPDATE" else "")
        return call.resource.qualified == "persistentvolumeclaims" and not subresource


def ranges_of(found: tuple[Object, ...]) -> tuple[Range, ...]:
    """LimitRanges, parsed."""
    return tuple(range_of((each.get("spec") or {}).get("limits") or ()) for each in found)


def range_of(items: Iterable[Object]) -> Range:
    """Missing defaults are taken from max (limits), from limits and from min (requests)."""
    limits: list[Limits] = []
    requests_by_default: dict[str, str] = {}
    limits_by_default: dict[str, str] = {}
    for item in items:
        limits.append(Limits(item.get("type", ""), amounts(item.get("min")),
                             amounts(item.get("max")), amounts(item.get("maxLimitRequestRatio"))))
        if item.get("type") == "Container":
            default = (item.get("max") or {}) | (item.get("default") or {})
            requested = (item.get("min") or {}) | default | (item.get("defaultRequest") or {})
            requests_by_default |= requested
            limits_by_default |= default
    return Range(tuple(limits), requests_by_default, limits_by_default)


def apply_defaults(pod: Object, found: Range) -> None:
    """Into each container what it does not say; the annotation names what was set."""
    said: list[str] = []
    spec = pod.get("spec") or {}
    for field, kind in (("containers", "container"), ("initContainers", "init container")):
        for container in spec.get(field) or ():
            resources = container.get("resources") or {}
            for part, word, defaults in (("requests", "request", found.requests_by_default),
                                         ("limits", "limit", found.limits_by_default)):
                now = resources.get(part) or {}
                missing = sorted(defaults.keys() - now.keys())
                if missing:
                    resources[part] = now | {name: defaults[name] for name in missing}
                    container["resources"] = resources
                    said.append(f"{', '.join(missing)} {word} for {kind} "
                                f"{container.get('name', '')}")
    if said:
        metadata = pod["metadata"]
        annotations = metadata.get("annotations") or {}
        metadata["annotations"] = annotations | {
            ANNOTATION: f"LimitRanger plugin set: {'; '.join(said)}"}


def aggregate(wrong: list[str]) -> str:
    """Several errors as one, each said once."""
    said = list(dict.fromkeys(wrong))
    return said[0] if len(said) == 1 else f"[{', '.join(said)}]"


# --- checks: what is wrong, in upstream's words --------------------------------------------------

def check_claim(claim: Object, found: Range) -> list[str]:
    wrong: list[str] = []
    resources = (claim.get("spec") or {}).get("resources") or {}
    requests = amounts(resources.get("requests"))
    for limits in found.limits:
        if limits.type == "PersistentVolumeClaim":
            wrong += checks(limits.type, Limits(limits.type, limits.min, {}, {}), requests, {})
            for name, most in sorted(limits.max.items()):
                wrong += check_max_request(limits.type, name, most, requests.get(name))
    return wrong


def check_pod(pod: Object, found: Range) -> list[str]:
    wrong: list[str] = []
    spec = pod.get("spec") or {}
    for limits in found.limits:
        if limits.type == "Container":
            for container in containers(spec, "containers", "initContainers"):
                resources = container.get("resources") or {}
                wrong += checks(limits.type, limits, amounts(resources.get("requests")),
                                amounts(resources.get("limits")))
        elif limits.type == "Pod":
            wrong += checks(limits.type, limits,
                            total(spec, "requests") | pod_level(spec, "requests"),
                            total(spec, "limits") | pod_level(spec, "limits"))
    return wrong


def checks(type: str, limits: Limits, requests: Amounts, limited: Amounts) -> list[str]:
    wrong: list[str] = []
    for name, least in sorted(limits.min.items()):
        wrong += check_min(type, name, least, requests.get(name), limited.get(name))
    for name, most in sorted(limits.max.items()):
        wrong += check_max(type, name, most, requests.get(name), limited.get(name))
    for name, ratio in sorted(limits.ratio.items()):
        wrong += check_ratio(type, name, ratio, requests.get(name), limited.get(name))
    return wrong


def compared(*quantities: Quantity | None) -> list[int]:
    """All as thousandths; as whole numbers, rounded up, when one is too large for that."""
    values = [(q or ZERO).value for q in quantities]
    return [(q or ZERO).scaled(-3) for q in quantities] if max(values) <= MAX_MILLI else values


def check_min(type: str, name: str, least: Quantity, request: Quantity | None,
              limit: Quantity | None) -> list[str]:
    said = f"minimum {name} usage per {type} is {least}"
    if request is None:
        return [f"{said}.  No request is specified"]
    asked, limited, enforced = compared(request, limit, least)
    if asked < enforced:
        return [f"{said}, but request is {request}"]
    if limit is not None and limited < enforced:
        return [f"{said}, but limit is {limit}"]
    return []


def check_max_request(type: str, name: str, most: Quantity,
                      request: Quantity | None) -> list[str]:
    said = f"maximum {name} usage per {type} is {most}"
    if request is None:
        return [f"{said}.  No request is specified"]
    asked, enforced = compared(request, most)
    return [f"{said}, but request is {request}"] if asked > enforced else []


def check_max(type: str, name: str, most: Quantity, request: Quantity | None,
              limit: Quantity | None) -> list[str]:
    said = f"maximum {name} usage per {type} is {most}"
    if limit is None:
        return [f"{said}.  No limit is specified"]
    asked, limited, enforced = compared(request, limit, most)
    if limited > enforced:
        return [f"{said}, but limit is {limit}"]
    if request is not None and asked > enforced:
        return [f"{said}, but request is {request}"]
    return []


def check_ratio(type: str, name: str, most: Quantity, request: Quantity | None,
                limit: Quantity | None) -> list[str]:
    said = f"{name} max limit to request ratio per {type} is {most}, but"
    asked, limited, _ = compared(request, limit, most)
    if not asked:
        return [f"{said} no request is specified or request is 0"]
    if not limited:
        return [f"{said} no limit is specified or limit is 0"]
    ratio = limited / asked
    if ratio * 1000 > most.scaled(-3):
        return [f"{said} provided ratio is {ratio:f}"]
    return []
