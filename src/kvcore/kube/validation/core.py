# SPDX-License-Identifier: Apache-2.0
"""The smaller kinds of the core group: config maps, secrets, nodes, quotas, limits, events.

Thread safety: none needed. Source: kubernetes pkg/apis/core/validation (validation.go, events.go).
May not know: requests.
"""

from __future__ import annotations

import base64
from fractions import Fraction
from typing import Any

import orjson

from kvcore.kube.validation.containers import COMPUTE, check_amount
from kvcore.kube.validation.errors import (
    WHOLE,
    Errors,
    Object,
    duplicate,
    forbidden,
    invalid,
    invalid_each,
    not_supported,
    required,
    too_long,
)
from kvcore.kube.validation.metadata import immutable
from kvcore.kube.validation.pods import check_template
from kvcore.kube.validation.rules import (
    check_cidr,
    check_ip,
    config_key,
    dns_label,
    ip_of,
    label_key,
    port_number,
    subdomain,
)
from kvcore.kube.validation.scheduling import check_taints
from kvcore.kube.values import quantity

__all__ = ["check_config_map", "check_endpoints", "check_event", "check_limit_range",
           "check_namespace", "check_node", "check_pod_template", "check_quota", "check_secret"]

DATA_MAX = 1024 * 1024
SEALED = "field is immutable when `immutable` is set"


def size64(text: str) -> int:
    """Bytes that base64 text means."""
    return len(text) // 4 * 3 - text.count("=", -2)


# --- config maps and secrets ----------------------------------------------------------------------

def check_config_map(errs: Errors, obj: Object, old: Object | None = None) -> None:
    if old is not None:
        _sealed(errs, obj, old, ("data", "binaryData"))
    data, binary = obj.get("data", {}), obj.get("binaryData", {})
    size = 0
    for key, value in data.items():
        invalid_each(errs, f"data[{key}]", key, config_key(key))
        if key in binary:
            invalid(errs, f"data[{key}]", key, "duplicate of key present in binaryData")
        size += len(value) if value.isascii() else len(value.encode())
    for key, value in binary.items():
        invalid_each(errs, f"binaryData[{key}]", key, config_key(key))
        size += size64(value)
    if size > DATA_MAX:
        too_long(errs, "[]", DATA_MAX)         # upstream's name of the whole


def _sealed(errs: Errors, obj: Object, old: Object, keys: tuple[str, ...]) -> None:
    if not old.get("immutable"):
        return
    if not obj.get("immutable"):
        forbidden(errs, "immutable", SEALED)
    for key in keys:
        if obj.get(key, {}) != old.get(key, {}):
            forbidden(errs, key, SEALED)


TYPES: dict[str, tuple[str, ...]] = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}
ACCOUNT_NAME = "kubernetes.io/service-account.name"


def check_secret(errs: Errors, obj: Object, old: Object | None = None) -> None:
    if old is not None:
        immutable(errs, obj.get("type"), old.get("type"), "type")
        _sealed(errs, obj, old, ("data",))
    data, kind = obj.get("data", {}), obj.get("type", "")
    for key in data:
        invalid_each(errs, f"data[{key}]", key, config_key(key))
    if sum(size64(value) for value in data.values()) > DATA_MAX:
        too_long(errs, "data", DATA_MAX)
    if kind == "kubernetes.io/service-account-token":
        if not obj["metadata"].get("annotations", {}).get(ACCOUNT_NAME):
            required(errs, f"metadata.annotations[{ACCOUNT_NAME}]")
    elif kind == "kubernetes.io/basic-auth":
        if "username" not in data and "password" not in data:
            required(errs, "data[username]")
            required(errs, "data[password]")
    for key in TYPES.get(kind, ()):
        if key not in data or key == "ssh-privatekey" and not data[key]:
            required(errs, f"data[{key}]")
        elif key.startswith(".docker"):
            _docker(errs, data[key], f"data[{key}]")


def _docker(errs: Errors, text: str, path: str) -> None:
    try:
        config = orjson.loads(base64.b64decode(text))
    except ValueError:
        config, why = None, "invalid character in JSON"
        if not text:
            why = "unexpected end of JSON input"
    else:
        why = "json: cannot unmarshal into Go value of type map[string]interface {}"
    if not isinstance(config, dict):
        invalid(errs, path, "<secret contents redacted>", why)


# --- namespaces and nodes -------------------------------------------------------------------------

FINALIZERS = ("kubernetes",)


def check_namespace(errs: Errors, obj: Object, old: Object | None = None) -> None:
    for finalizer in obj.get("spec", {}).get("finalizers", ()):
        invalid_each(errs, "spec.finalizers", finalizer, label_key(finalizer))
        if "/" not in finalizer and finalizer not in FINALIZERS:
            invalid(errs, "spec.finalizers", finalizer,
                    "name is neither a standard finalizer name nor is it fully qualified")


def check_node(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    check_taints(errs, spec.get("taints", ()), "metadata.taints")
    for key in ("capacity", "allocatable"):
        for name, amount in status.get(key, {}).items():
            check_amount(errs, name, amount, f"status.{key}.{name}")
    cidrs = spec.get("podCIDRs", ())
    for i, cidr in enumerate(cidrs):
        check_cidr(errs, cidr, f"spec.podCIDRs[{i}]")
    if len(cidrs) > 2 or len(cidrs) == 2 and (":" in cidrs[0]) == (":" in cidrs[1]):
        invalid(errs, "spec.podCIDRs", cidrs,
                "may specify no more than one CIDR for each IP family")
    if old is not None:
        for key, told in (("podCIDRs", "podCIDR"), ("providerID", "providerID")):
            before = old.get("spec", {}).get(key)
            if before and spec.get(key) != before:
                forbidden(errs, f"spec.{key}",
                          f'node updates may not change {told} except from "" to valid')


def check_pod_template(errs: Errors, obj: Object, old: Object | None = None) -> None:
    check_template(errs, obj["template"], "template")


# --- quotas and limits ----------------------------------------------------------------------------

SCOPES = ("BestEffort", "CrossNamespacePodAffinity", "NotBestEffort", "NotTerminating",
          "PriorityClass", "Terminating", "VolumeAttributesClass")


def check_quota(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj.get("spec", {})
    for name, amount in spec.get("hard", {}).items():
        path = f"spec.hard[{name}]"
        faults = label_key(name)
        invalid_each(errs, path, name, faults)
        if "/" not in name and name not in COMPUTE and not name.startswith(
                ("requests.hugepages-", "hugepages-", "limits.hugepages-")):
            invalid(errs, path, name, "must be a standard resource for quota" if faults else
                    "must be a standard resource type or fully qualified")
            if not faults:
                invalid(errs, path, name, "must be a standard resource for quota")
        check_amount(errs, name, amount, path)
        if name.startswith("count/") and quantity(amount).denominator != 1:
            invalid(errs, path, amount, "must be an integer")
    for scope in spec.get("scopes", ()):
        if len(errs) >= WHOLE:                 # each shows all scopes
            break
        if scope not in SCOPES:
            invalid(errs, "spec.scopes", spec["scopes"], "unsupported scope")
        elif not _counts(scope, spec.get("hard", {})):
            invalid(errs, "spec.scopes", spec["scopes"], "unsupported scope applied to resource")
    for pair in CONFLICTING:
        if set(pair) <= set(spec.get("scopes", ())):
            invalid(errs, "spec.scopes", spec["scopes"], "conflicting scopes")
    if "scopeSelector" in spec:
        _check_scope_selector(errs, spec, "spec.scopeSelector.matchExpressions")
    if old is not None and spec.get("scopes", []) != old.get("spec", {}).get("scopes", []):
        invalid(errs, "spec.scopes", spec.get("scopes"), "field is immutable")


def _check_scope_selector(errs: Errors, spec: Object, path: str) -> None:
    terms = spec["scopeSelector"].get("matchExpressions", ())
    shown = {"MatchExpressions": [{"ScopeName": term.get("scopeName", ""), "Operator":
                                   term.get("operator", ""), "Values": term.get("values")}
                                  for term in terms]}
    for term in terms:
        scope, operator = term.get("scopeName", ""), term.get("operator", "")
        values = term.get("values") or []
        if scope not in SCOPES:
            invalid(errs, f"{path}.scopeName", scope, "unsupported scope")
        else:
            for name in sorted(spec.get("hard", {})):
                if len(errs) < WHOLE and name in COMPUTE and not _counts(scope, {name: ""}):
                    invalid(errs, path, shown, "unsupported scope applied to resource")
        if scope in SCOPES and scope not in VALUED and operator != "Exists":
            invalid(errs, f"{path}.operator", operator, ONLY_EXISTS)
        if operator in ("In", "NotIn"):
            if not values:
                required(errs, f"{path}.values", "must be at least one value when `operator` is "
                         "'In' or 'NotIn' for scope selector")
        elif operator not in ("Exists", "DoesNotExist"):
            invalid(errs, f"{path}.operator", operator, "not a valid selector operator")
        elif values:
            invalid(errs, f"{path}.values", values, "must be no value when `operator` is 'Exist' "
                    "or 'DoesNotExist' for scope selector")
    found = {term.get("scopeName") for term in terms}
    for pair in CONFLICTING:
        if found.issuperset(pair):
            invalid(errs, path, spec.get("scopes"), "conflicting scopes")


VALUED = ("PriorityClass", "VolumeAttributesClass")      # scopes that are told apart by values
CONFLICTING = (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating"))
ONLY_EXISTS = ("must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, "
               "ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, "
               "ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity")
PODS = frozenset({"pods", "count/pods"})
POD_COMPUTE = frozenset({"cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu",
                         "requests.memory"})


def _counts(scope: str, hard: Object) -> bool:
    """Whether a scope means something for everything that is limited."""
    if scope == "VolumeAttributesClass":
        return True
    return hard.keys() <= (PODS if scope == "BestEffort" else PODS | POD_COMPUTE)


LIMITED = ("Pod", "Container", "PersistentVolumeClaim")
LIMIT_FIELDS = ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio")


def check_limit_range(errs: Errors, obj: Object, old: Object | None = None) -> None:
    seen: set[str] = set()
    for i, limit in enumerate(obj.get("spec", {}).get("limits") or ()):
        path, kind = f"spec.limits[{i}]", limit.get("type", "")
        faults = label_key(kind)
        invalid_each(errs, f"{path}.type", kind, faults)
        if not faults and "/" not in kind and kind not in LIMITED:
            invalid(errs, f"{path}.type", kind, "must be a standard limit type or fully qualified")
        if kind in seen:
            duplicate(errs, f"{path}.type", kind)
        seen.add(kind)
        if kind == "Pod":
            for key in ("default", "defaultRequest"):
                if limit.get(key):
                    forbidden(errs, f"{path}.{key}", "may not be specified when `type` is 'Pod'")
        if kind == "PersistentVolumeClaim" and not any(
                "storage" in limit.get(key, {}) for key in ("min", "max")):
            required(errs, f"{path}.limits", "either minimum or maximum storage value is required, "
                     "but neither was provided")
        names = dict.fromkeys(name for key in LIMIT_FIELDS for name in limit.get(key, {}))
        for name in names:
            _bounds(errs, limit, name, path)


def _bounds(errs: Errors, limit: Object, name: str, path: str) -> None:
    """min <= defaultRequest <= default <= max, and the ratio of max to min."""
    texts = {key: limit.get(key, {}).get(name) for key in LIMIT_FIELDS}
    known = {key: quantity(text) for key, text in texts.items() if text is not None}

    def above(first: str, second: str) -> bool:
        return first in known and second in known and known[first] > known[second]

    for first, second, at, says in (
            ("min", "max", "min", "min value {0} is greater than max value {1}"),
            ("min", "defaultRequest", "defaultRequest",
             "min value {0} is greater than default request value {1}"),
            ("defaultRequest", "max", "defaultRequest",
             "default request value {0} is greater than max value {1}"),
            ("defaultRequest", "default", "defaultRequest",
             "default request value {0} is greater than default limit value {1}"),
            ("min", "default", "default", "min value {0} is greater than default value {1}"),
            ("default", "max", "default", "default value {0} is greater than max value {1}")):
        if above(first, second):
            value = texts[at if at != "default" else first if first == "min" else "max"]
            invalid(errs, f"{path}.{at}[{name}]", value,
                    says.format(texts[first], texts[second]))
    ratio: Any = known.get("maxLimitRequestRatio")
    if ratio is not None:
        text, here = texts["maxLimitRequestRatio"], f"{path}.maxLimitRequestRatio[{name}]"
        if ratio < 1:
            invalid(errs, here, text, f"ratio {text} is less than 1")
        if known.get("min") and "max" in known:
            most = Fraction(known["max"], known["min"])
            if ratio > most:
                invalid(errs, here, text,
                        f"ratio {text} is greater than max/min = {float(most):f}")


# --- endpoints and events -------------------------------------------------------------------------

PROTOCOLS = ("SCTP", "TCP", "UDP")


def check_endpoints(errs: Errors, obj: Object, old: Object | None = None) -> None:
    for i, subset in enumerate(obj.get("subsets", ())):
        path = f"subsets[{i}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            required(errs, path, "must specify `addresses` or `notReadyAddresses`")
        for key in ("addresses", "notReadyAddresses"):
            for j, address in enumerate(subset.get(key, ())):
                _address(errs, address, f"{path}.{key}[{j}]")
        ports = subset.get("ports", ())
        for j, port in enumerate(ports):
            check_endpoint_port(errs, port, len(ports) > 1, f"{path}.ports[{j}]")


def _address(errs: Errors, address: Object, path: str) -> None:
    text = address.get("ip", "")
    check_ip(errs, text, f"{path}.ip")
    if address.get("hostname"):
        invalid_each(errs, f"{path}.hostname", address["hostname"], dns_label(address["hostname"]))
    if "nodeName" in address:
        invalid_each(errs, f"{path}.nodeName", address["nodeName"], subdomain(address["nodeName"]))
    check_reachable(errs, text, f"{path}.ip")


def check_reachable(errs: Errors, text: str, path: str) -> None:
    """An address that others can send to."""
    address = ip_of(text)
    if address is None:
        invalid(errs, path, text, "must be a valid IP address")
        return
    for is_one, says in (
            (address.is_unspecified, f"may not be unspecified ({text})"),
            (address.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
            (address.is_link_local,
             "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
            (address.is_multicast and (text.startswith("224.0.0.") or text.startswith("ff02")),
             "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")):
        if is_one:
            invalid(errs, path, text, says)


def check_endpoint_port(errs: Errors, port: Object, named: bool, path: str) -> None:
    name, protocol = port.get("name", ""), port.get("protocol", "")
    if named and not name:
        required(errs, f"{path}.name")
    elif name:
        invalid_each(errs, f"{path}.name", name, dns_label(name))
    invalid_each(errs, f"{path}.port", port.get("port", 0), port_number(port.get("port", 0)))
    if not protocol:
        required(errs, f"{path}.protocol")
    elif protocol not in PROTOCOLS:
        not_supported(errs, f"{path}.protocol", protocol, PROTOCOLS)
    if "appProtocol" in port:
        invalid_each(errs, f"{path}.appProtocol", port["appProtocol"],
                     label_key(port["appProtocol"]))


def check_event(errs: Errors, obj: Object, old: Object | None = None) -> None:
    """An event of the core group, with or without eventTime."""
    namespace = obj["metadata"].get("namespace", "")
    about = obj.get("involvedObject", {}).get("namespace", "")
    mismatch = "does not match event.namespace"
    if not obj.get("eventTime"):
        if about != namespace and (about or namespace != "default"):
            invalid(errs, "involvedObject.namespace", about, mismatch)
        return
    if not about and namespace not in ("default", "kube-system"):
        invalid(errs, "involvedObject.namespace", about, mismatch)
    reporter = obj.get("reportingComponent") or ""
    if not reporter:
        required(errs, "reportingComponent")
    invalid_each(errs, "reportingComponent", reporter, label_key(reporter))
    for key, most in (("reportingInstance", 128), ("action", 128), ("reason", 128),
                      ("message", 1024)):
        value = obj.get(key) or ""
        if not value and key != "message":
            required(errs, key)
        if len(value.encode()) > most:
            invalid(errs, key, "", f"can have at most {most} characters")
