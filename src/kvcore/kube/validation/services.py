# SPDX-License-Identifier: Apache-2.0
"""Services: ports, types, addresses.

Thread safety: none needed. Source: kubernetes pkg/apis/core/validation. May not know: requests.
"""

from __future__ import annotations

from kvcore.kube.validation.core import PROTOCOLS, check_reachable
from kvcore.kube.validation.errors import (
    Errors,
    Object,
    duplicate,
    forbidden,
    invalid,
    invalid_each,
    not_supported,
    required,
)
from kvcore.kube.validation.metadata import IMMUTABLE
from kvcore.kube.validation.rules import (
    check_cidr,
    check_ip,
    check_labels,
    check_port,
    dns_label,
    label_key,
    port_number,
    subdomain,
)

__all__ = ["check_service"]

TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
BALANCED = "may only be used when `type` is 'LoadBalancer'"
AFFINITIES = ("ClientIP", "None")
DAY = 86400


def check_service(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj["spec"]
    if old is not None:
        _addresses_stay(errs, spec, old["spec"])
    kind, ports = spec.get("type", ""), spec.get("ports", ())
    headless = spec.get("clusterIP") == "None" or spec.get("clusterIPs", [""])[0] == "None"
    if not ports and not headless and kind != "ExternalName":
        required(errs, "spec.ports")
    if headless and kind in ("LoadBalancer", "NodePort"):
        invalid(errs, "spec.clusterIPs[0]", "None",
                f"may not be set to 'None' for {kind} services")
    if kind == "ExternalName":
        _external_name(errs, spec)
    names: set[str] = set()
    for i, port in enumerate(ports):
        _port(errs, port, len(ports) > 1, names, f"spec.ports[{i}]")
    if "selector" in spec:
        check_labels(errs, spec["selector"], "spec.selector")
    _affinity(errs, spec)
    for i, address in enumerate(spec.get("clusterIPs") or [spec["clusterIP"]]
                                if spec.get("clusterIP") else ()):
        if address not in ("", "None"):
            check_ip(errs, address, f"spec.clusterIPs[{i}]")
    for i, address in enumerate(spec.get("externalIPs", ())):
        if check_ip(errs, address, f"spec.externalIPs[{i}]"):
            check_reachable(errs, address, f"spec.externalIPs[{i}]")
    if not kind:
        required(errs, "spec.type")
    elif kind not in TYPES:
        not_supported(errs, "spec.type", kind, TYPES)
    _unique_ports(errs, ports, kind)
    _balancer(errs, spec, kind)
    _traffic(errs, spec, kind)


def _external_name(errs: Errors, spec: Object) -> None:
    for key in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        if spec.get(key) or key == "clusterIPs" and spec.get("clusterIP"):
            forbidden(errs, f"spec.{key}", "may not be set for ExternalName services")
    name = spec.get("externalName", "").removesuffix(".")
    if name:
        invalid_each(errs, "spec.externalName", name, subdomain(name))
    else:
        required(errs, "spec.externalName")


def _port(errs: Errors, port: Object, named: bool, names: set[str], path: str) -> None:
    name, number, protocol = port.get("name", ""), port.get("port", 0), port.get("protocol", "")
    if named and not name:
        required(errs, f"{path}.name")
    elif name:
        invalid_each(errs, f"{path}.name", name, dns_label(name))
        if name in names:
            duplicate(errs, f"{path}.name", name)
        names.add(name)
    invalid_each(errs, f"{path}.port", number, port_number(number))
    if not protocol:
        required(errs, f"{path}.protocol")
    elif protocol not in PROTOCOLS:
        not_supported(errs, f"{path}.protocol", protocol, PROTOCOLS)
    check_port(errs, port.get("targetPort", 0), f"{path}.targetPort")
    if "appProtocol" in port:
        invalid_each(errs, f"{path}.appProtocol", port["appProtocol"],
                     label_key(port["appProtocol"]))


def _affinity(errs: Errors, spec: Object) -> None:
    affinity = spec.get("sessionAffinity", "")
    if not affinity:
        required(errs, "spec.sessionAffinity")
    elif affinity not in AFFINITIES:
        not_supported(errs, "spec.sessionAffinity", affinity, AFFINITIES)
    if affinity == "ClientIP":
        path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        seconds = (spec.get("sessionAffinityConfig", {}).get("clientIP") or {}).get(
            "timeoutSeconds")
        if seconds is not None and not 0 < seconds <= DAY:
            invalid(errs, path, seconds, f"must be greater than 0 and less than {DAY}")


def _unique_ports(errs: Errors, ports: object, kind: str) -> None:
    listed: list[Object] = list(ports)  # type: ignore[call-overload]
    if kind == "ClusterIP":
        for i, port in enumerate(listed):
            if port.get("nodePort"):
                forbidden(errs, f"spec.ports[{i}].nodePort",
                          "may not be used when `type` is 'ClusterIP'")
    taken: set[tuple[str, int]] = set()
    for i, port in enumerate(listed):
        number = port.get("nodePort", 0)
        key = port.get("protocol", ""), number
        if number and key in taken:
            duplicate(errs, f"spec.ports[{i}].nodePort", number)
        taken.add(key)
    used: set[tuple[str, int]] = set()
    for i, port in enumerate(listed):
        key = port.get("protocol", ""), port.get("port", 0)
        if key in used:
            duplicate(errs, f"spec.ports[{i}]", {
                "Name": "", "Protocol": key[0], "AppProtocol": None, "Port": key[1],
                "TargetPort": 0, "NodePort": 0})
        used.add(key)


def _balancer(errs: Errors, spec: Object, kind: str) -> None:
    ranges = spec.get("loadBalancerSourceRanges", ())
    if ranges and kind != "LoadBalancer":
        forbidden(errs, "spec.LoadBalancerSourceRanges", BALANCED)
    for i, cidr in enumerate(ranges):
        check_cidr(errs, cidr.strip(), f"spec.LoadBalancerSourceRanges[{i}]")
    if "allocateLoadBalancerNodePorts" in spec and kind != "LoadBalancer":
        forbidden(errs, "spec.allocateLoadBalancerNodePorts", BALANCED)
    if "loadBalancerClass" in spec and kind != "LoadBalancer":
        forbidden(errs, "spec.loadBalancerClass", BALANCED)


POLICIES = ("Cluster", "Local")


def _traffic(errs: Errors, spec: Object, kind: str) -> None:
    outside = kind in ("LoadBalancer", "NodePort") or (
        kind == "ClusterIP" and spec.get("externalIPs"))
    policy = spec.get("externalTrafficPolicy")
    if policy is not None:
        if not outside:
            invalid(errs, "spec.externalTrafficPolicy", policy,
                    "may only be set for externally-accessible services")
        elif policy not in POLICIES:
            not_supported(errs, "spec.externalTrafficPolicy", policy, POLICIES)
    internal = spec.get("internalTrafficPolicy")
    if internal is not None and internal not in POLICIES:
        not_supported(errs, "spec.internalTrafficPolicy", internal, POLICIES)


def _addresses_stay(errs: Errors, spec: Object, old: Object) -> None:
    """A cluster IP that is given out stays, unless the type goes to ExternalName."""
    if "ExternalName" in (spec.get("type"), old.get("type")):
        return
    before = old.get("clusterIP")
    if before and spec.get("clusterIP") != before:
        invalid(errs, "spec.clusterIPs[0]",
                spec.get("clusterIPs") or [spec.get("clusterIP") or ""],
                "may not change once set")
    families, olds = spec.get("ipFamilies"), old.get("ipFamilies")
    if families and olds and families[0] != olds[0]:
        invalid(errs, "spec.ipFamilies[0]", families[0], IMMUTABLE)
