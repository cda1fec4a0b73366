# SPDX-License-Identifier: Apache-2.0
"""What a pod asks for in all: the sum of its containers, or its greediest start, whichever is more.

    total(spec, "requests") = max( sum of containers and sidecars,
                                   each init container + the sidecars started before it )
                              then what the pod itself says of cpu and memory
                              (quotas: then its overhead)

A sidecar is an init container with restartPolicy Always. Thread safety: values.
Sources: kubernetes plugin/pkg/admission/limitranger, component-helpers resource.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvcore.kube import status
from kvcore.kube.call import Object
from kvcore.kube.quantity import Quantity, quantity_of

__all__ = ["Amounts", "add", "amounts", "best_effort", "containers", "pod_level", "pod_limits",
           "pod_requests", "total"]

Amounts = dict[str, Quantity]

POD_LEVEL = ("cpu", "memory")
HUGE_PAGES = "hugepages-"


def amounts(values: Any) -> Amounts:
    """A map of names to quantities, parsed. Errors: 400 for what is none."""
    if not values:
        return {}
    try:
        return {name: quantity_of(value) for name, value in values.items()}
    except (ValueError, AttributeError) as error:
        raise status.bad_request(f"unable to parse quantities {values!r}: {error}") from None


def containers(spec: Object, *fields: str) -> Iterator[Object]:
    """The containers of some lists of a pod's spec, in order."""
    for field in fields:
        yield from spec.get(field) or ()


def add(a: Mapping[str, Quantity], b: Mapping[str, Quantity]) -> Amounts:
    """Name by name."""
    result = dict(a)
    for name, quantity in b.items():
        result[name] = result[name] + quantity if name in result else quantity
    return result


def most(a: Mapping[str, Quantity], b: Mapping[str, Quantity]) -> Amounts:
    """The greater, name by name."""
    result = dict(a)
    for name, quantity in b.items():
        if name not in result or quantity > result[name]:
            result[name] = quantity
    return result


def total(spec: Object, kind: str, running: Mapping[str, Amounts] | None = None) -> Amounts:
    """Requests or limits of all containers.

    Args: kind: "requests" or "limits"; running: what containers, by name, have now, where that may
    be more than the spec says (a resize on its way).
    """
    def of(container: Object) -> Amounts:
        own = amounts((container.get("resources") or {}).get(kind))
        return most(own, running[container["name"]]) \
            if running and container.get("name") in running else own

    result: Amounts = {}
    for container in spec.get("containers") or ():
        result = add(result, of(container))
    sidecars: Amounts = {}
    start: Amounts = {}
    for container in spec.get("initContainers") or ():
        own = of(container)
        if container.get("restartPolicy") == "Always":
            result, sidecars = add(result, own), add(sidecars, own)
            own = sidecars
        else:
            own = add(own, sidecars)
        start = most(start, own)
    return most(result, start)


def pod_level(spec: Object, kind: str, *, huge_pages: bool = False) -> Amounts:
    """What the pod itself says, of the resources it may say something of."""
    said = amounts((spec.get("resources") or {}).get(kind))
    return {name: quantity for name, quantity in said.items()
            if name in POD_LEVEL or huge_pages and name.startswith(HUGE_PAGES)}


def pod_requests(pod: Object) -> Amounts:
    """As quotas count them: with the overhead, and what containers already have."""
    spec = pod.get("spec") or {}
    result = total(spec, "requests", _running(pod, "requests"))
    result |= pod_level(spec, "requests", huge_pages=True)
    return add(result, amounts(spec.get("overhead")))


def pod_limits(pod: Object) -> Amounts:
    """As quotas count them: overhead only where there is a limit."""
    spec = pod.get("spec") or {}
    result = total(spec, "limits", _running(pod, "limits"))
    result |= pod_level(spec, "limits", huge_pages=True)
    overhead = amounts(spec.get("overhead"))
    return add(result, {name: quantity for name, quantity in overhead.items()
                        if result.get(name)})


def _running(pod: Object, kind: str) -> dict[str, Amounts]:
    """By container, what its status says it has."""
    found: dict[str, Amounts] = {}
    now = pod.get("status") or {}
    for state in (*(now.get("containerStatuses") or ()), *(now.get("initContainerStatuses") or ())):
        if state.get("resources") is not None:
            own = amounts(state["resources"].get(kind))
            if kind == "requests":
                own = most(own, amounts(state.get("allocatedResources")))
            found[state.get("name", "")] = own
    return found


def best_effort(pod: Object) -> bool:
    """Whether its quality of service is BestEffort: no cpu and no memory asked for."""
    known = (pod.get("status") or {}).get("qosClass")
    if known:
        return bool(known == "BestEffort")
    spec = pod.get("spec") or {}
    holders = [spec] if spec.get("resources") else \
        list(containers(spec, "containers", "initContainers"))
    for holder in holders:
        resources = holder.get("resources") or {}
        for kind in ("requests", "limits"):
            said = amounts(resources.get(kind))
            if any(name in said and said[name].unscaled > 0 for name in POD_LEVEL):
                return False
    return True
