# SPDX-License-Identifier: Apache-2.0
"""Ingresses, ingress classes, network policies, endpoint slices.

Thread safety: none needed. Source: kubernetes pkg/apis/networking/validation, discovery/validation.
May not know: requests.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from kvcore.kube.validation.core import check_reachable
from kvcore.kube.validation.errors import (
    Errors,
    Object,
    duplicate,
    forbidden,
    invalid,
    invalid_each,
    not_supported,
    required,
    too_many,
)
from kvcore.kube.validation.metadata import check_selector, immutable
from kvcore.kube.validation.rules import (
    check_cidr,
    check_ip,
    dns_label,
    ip_of,
    label_key,
    path_segment,
    port_name,
    port_number,
    subdomain,
    wildcard,
)

__all__ = ["check_endpoint_slice", "check_ingress", "check_ingress_class", "check_network_policy"]

# --- ingresses ------------------------------------------------------------------------------------

CLASS_ANNOTATION = "kubernetes.io/ingress.class"
PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
BAD_SEQUENCES, BAD_ENDS = ("//", "/./", "/../", "%2f", "%2F"), ("/..", "/.")


def check_ingress(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec, rules = obj["spec"], obj["spec"].get("rules") or []
    if not rules and "defaultBackend" not in spec:
        invalid(errs, "spec", rules or None, "either `defaultBackend` or `rules` must be specified")
    if "defaultBackend" in spec:
        _backend(errs, spec["defaultBackend"], "spec.defaultBackend")
    for i, rule in enumerate(rules):
        path = f"spec.rules[{i}]"
        _host(errs, rule.get("host", ""), f"{path}.host")
        http = rule.get("http")
        if http is not None:
            if not http.get("paths"):
                required(errs, f"{path}.http.paths")
            for j, entry in enumerate(http.get("paths") or ()):
                _path(errs, entry, f"{path}.http.paths[{j}]")
    for i, tls in enumerate(spec.get("tls", ())):
        for j, host in enumerate(tls.get("hosts", ())):
            rule = wildcard if "*" in host else subdomain
            invalid_each(errs, f"spec.tls[{i}].hosts[{j}]", host, rule(host))
        if tls.get("secretName"):
            invalid_each(errs, f"spec.tls[{i}].secretName", tls["secretName"],
                         subdomain(tls["secretName"]))
    name = spec.get("ingressClassName")
    if name is not None:
        invalid_each(errs, "spec.ingressClassName", name, subdomain(name))
    annotated = obj["metadata"].get("annotations", {}).get(CLASS_ANNOTATION)
    if old is None and annotated is not None and name is not None and annotated != name:
        invalid(errs, f"annotations.{CLASS_ANNOTATION}", annotated,
                "must match `ingressClassName` when both are specified")


def _host(errs: Errors, host: str, path: str) -> None:
    if not host:
        return
    if ip_of(host) is not None:
        invalid(errs, path, host, "must be a DNS name, not an IP address")
    invalid_each(errs, path, host, (wildcard if "*" in host else subdomain)(host))


def _path(errs: Errors, entry: Object, path: str) -> None:
    kind, where = entry.get("pathType"), entry.get("path", "")
    if kind is None:
        required(errs, f"{path}.pathType", "pathType must be specified")
        return
    if kind in ("Exact", "Prefix"):
        if not where.startswith("/"):
            invalid(errs, f"{path}.path", where, "must be an absolute path")
        for bad in BAD_SEQUENCES:
            if bad in where:
                invalid(errs, f"{path}.path", where, f"must not contain '{bad}'")
        for bad in BAD_ENDS:
            if where.endswith(bad):
                invalid(errs, f"{path}.path", where, f"cannot end with '{bad}'")
    elif kind == "ImplementationSpecific":
        if where and not where.startswith("/"):
            invalid(errs, f"{path}.path", where, "must be an absolute path")
    else:
        not_supported(errs, f"{path}.pathType", kind, PATH_TYPES)
    _backend(errs, entry.get("backend", {}), f"{path}.backend")


def _backend(errs: Errors, backend: Object, path: str) -> None:
    service, resource = backend.get("service"), backend.get("resource")
    if service is not None and resource is not None:
        invalid(errs, path, "", "cannot set both resource and service backends")
    elif resource is not None:
        for key in ("kind", "name"):
            if not resource.get(key):
                required(errs, f"{path}.resource.{key}")
    elif service is not None:
        name, port = service.get("name", ""), service.get("port", {})
        if not name:
            required(errs, f"{path}.service.name")
        else:
            invalid_each(errs, f"{path}.service.name", name, dns_label(name))
        named, number = port.get("name"), port.get("number")
        if named and number:
            invalid(errs, path, "", "cannot set both port name & port number")
        elif named:
            invalid_each(errs, f"{path}.service.port.name", named, port_name(named))
        elif number:
            invalid_each(errs, f"{path}.service.port.number", number, port_number(number))
        else:
            required(errs, path, "port name or number is required")
    else:
        invalid(errs, path, "", "resource or service backend is required")


def check_ingress_class(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj.get("spec", {})
    controller = spec.get("controller", "")
    if not controller:
        required(errs, "spec.controller")
    elif len(controller) > 250:
        from kvcore.kube.validation.errors import too_long
        too_long(errs, "spec.controller", 250)
    elif "/" not in controller:
        invalid(errs, "spec.controller", controller,
                "must be a domain-prefixed path (such as \"acme.io/foo\")")
    parameters = spec.get("parameters")
    if parameters is not None:
        if parameters.get("apiGroup"):
            invalid_each(errs, "spec.parameters.apiGroup", parameters["apiGroup"],
                         subdomain(parameters["apiGroup"]))
        for key in ("kind", "name"):
            if not parameters.get(key):
                required(errs, f"spec.parameters.{key}")
            else:
                invalid_each(errs, f"spec.parameters.{key}", parameters[key],
                             path_segment(parameters[key]))
        scope = parameters.get("scope")
        if scope not in ("Cluster", "Namespace"):
            not_supported(errs, "spec.parameters.scope", scope, ("Cluster", "Namespace"))
        if scope == "Namespace" and not parameters.get("namespace"):
            required(errs, "spec.parameters.namespace",
                     "`parameters.scope` is set to 'Namespace'")
        if scope == "Cluster" and "namespace" in parameters:
            forbidden(errs, "spec.parameters.namespace",
                      "`parameters.scope` is set to 'Cluster'")
    if old is not None:
        immutable(errs, controller, old["spec"].get("controller"), "spec.controller")


# --- network policies -----------------------------------------------------------------------------

POLICY_TYPES = ("Ingress", "Egress")
POLICY_PROTOCOLS = ("TCP", "UDP", "SCTP")


def check_network_policy(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj["spec"]
    check_selector(errs, spec.get("podSelector"), "spec.podSelector")
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for i, rule in enumerate(spec.get(direction, ())):
            for j, port in enumerate(rule.get("ports", ())):
                _policy_port(errs, port, f"spec.{direction}[{i}].ports[{j}]")
            for j, peer in enumerate(rule.get(peers, ())):
                _peer(errs, peer, f"spec.{direction}[{i}].{peers}[{j}]")
    types = spec.get("policyTypes", ())
    if len(types) > 2:
        invalid(errs, "spec.policyTypes", types, "may not specify more than two policyTypes")
    for i, kind in enumerate(types):
        if kind not in POLICY_TYPES:
            not_supported(errs, f"spec.policyTypes[{i}]", kind, POLICY_TYPES)


def _policy_port(errs: Errors, port: Object, path: str) -> None:
    if port.get("protocol", "TCP") not in POLICY_PROTOCOLS:
        not_supported(errs, f"{path}.protocol", port["protocol"], POLICY_PROTOCOLS)
    number, end = port.get("port"), port.get("endPort")
    if number is None:
        if end is not None:
            invalid(errs, f"{path}.endPort", end,
                    "may not be specified when `port` is not specified")
    elif number.__class__ is int:
        invalid_each(errs, f"{path}.port", number, port_number(number))
        if end is not None:
            if end < number:
                invalid(errs, f"{path}.endPort", number,
                        "must be greater than or equal to `port`")
            invalid_each(errs, f"{path}.endPort", end, port_number(end))
    else:
        if end is not None:
            invalid(errs, f"{path}.endPort", end,
                    "may not be specified when `port` is non-numeric")
        invalid_each(errs, f"{path}.port", number, port_name(number))


def _peer(errs: Errors, peer: Object, path: str) -> None:
    check_selector(errs, peer.get("podSelector"), f"{path}.podSelector")
    check_selector(errs, peer.get("namespaceSelector"), f"{path}.namespaceSelector")
    block = peer.get("ipBlock")
    if block is not None:
        _block(errs, block, f"{path}.ipBlock")
    if not peer:
        required(errs, path, "must specify a peer")
    elif block is not None and len(peer) > 1:
        forbidden(errs, path, "may not specify both ipBlock and another peer")


def _block(errs: Errors, block: Object, path: str) -> None:
    cidr = block.get("cidr", "")
    if not cidr:
        required(errs, f"{path}.cidr")
        return
    if not check_cidr(errs, cidr, f"{path}.cidr"):
        return
    whole: Any = ipaddress.ip_network(cidr, strict=False)
    for i, text in enumerate(block.get("except", ())):
        if not check_cidr(errs, text, f"{path}.except[{i}]"):
            continue
        part: Any = ipaddress.ip_network(text, strict=False)
        if part.version != whole.version or not part.subnet_of(whole) \
                or part.prefixlen <= whole.prefixlen:
            invalid(errs, f"{path}.except[{i}]", text, "must be a strict subset of `cidr`")


# --- endpoint slices ------------------------------------------------------------------------------

ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
ENDPOINTS_MAX, ADDRESSES_MAX, PORTS_MAX = 1000, 100, 20000
SLICE_PROTOCOLS = ("SCTP", "TCP", "UDP")


def check_endpoint_slice(errs: Errors, obj: Object, old: Object | None = None) -> None:
    kind = obj.get("addressType", "")
    if not kind:
        required(errs, "addressType")
    elif kind not in ADDRESS_TYPES:
        not_supported(errs, "addressType", kind, ADDRESS_TYPES)
    names: set[str] = set()
    ports = obj.get("ports") or ()
    if len(ports) > PORTS_MAX:
        too_many(errs, "ports", len(ports), PORTS_MAX)
        ports = ()                                 # upstream looks at none of them then
    for i, port in enumerate(ports):
        path, name = f"ports[{i}]", port.get("name", "")
        if name:
            invalid_each(errs, f"{path}.name", name, dns_label(name))
        if name in names:
            duplicate(errs, f"{path}.name", name)
        names.add(name)
        if port.get("protocol", "TCP") not in SLICE_PROTOCOLS:
            not_supported(errs, f"{path}.protocol", port["protocol"], SLICE_PROTOCOLS)
        if "appProtocol" in port:
            invalid_each(errs, f"{path}.appProtocol", port["appProtocol"],
                         label_key(port["appProtocol"]))
    endpoints = obj.get("endpoints") or ()
    if len(endpoints) > ENDPOINTS_MAX:
        too_many(errs, "endpoints", len(endpoints), ENDPOINTS_MAX)
    for i, endpoint in enumerate(endpoints):
        _endpoint(errs, endpoint, kind, f"endpoints[{i}]")
    if old is not None:
        immutable(errs, kind, old.get("addressType"), "addressType")


def _endpoint(errs: Errors, endpoint: Object, kind: str, path: str) -> None:
    addresses = endpoint.get("addresses") or ()
    if not addresses:
        required(errs, f"{path}.addresses", "must contain at least 1 address")
    elif len(addresses) > ADDRESSES_MAX:
        too_many(errs, f"{path}.addresses", len(addresses), ADDRESSES_MAX)
    for i, address in enumerate(addresses):
        here = f"{path}.addresses[{i}]"
        if kind == "FQDN":
            invalid_each(errs, here, address, subdomain(address.removesuffix(".")))
        elif kind in ADDRESS_TYPES and check_ip(errs, address, here):
            if (":" in address) != (kind == "IPv6"):
                invalid(errs, f"{path}.addresses", address, f"must be an {kind} address")
            check_reachable(errs, address, here)
    if "nodeName" in endpoint:
        invalid_each(errs, f"{path}.nodeName", endpoint["nodeName"],
                     subdomain(endpoint["nodeName"]))
    if "hostname" in endpoint:
        invalid_each(errs, f"{path}.hostname", endpoint["hostname"],
                     dns_label(endpoint["hostname"]))
