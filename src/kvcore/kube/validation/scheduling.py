# SPDX-License-Identifier: Apache-2.0
"""Where a pod may run: tolerations, affinity, node selectors, topology spread.

Thread safety: none needed. Source: kubernetes pkg/apis/core/validation. May not know: pods.
"""

from __future__ import annotations

from kvcore.kube.validation.errors import (
    Errors,
    Object,
    duplicate,
    invalid,
    invalid_each,
    not_supported,
    required,
)
from kvcore.kube.validation.metadata import check_selector, check_set_operator
from kvcore.kube.validation.rules import check_label_key, dns_label, label_value

__all__ = ["check_affinity", "check_node_selector", "check_taints", "check_tolerations",
           "check_topology"]

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def check_tolerations(errs: Errors, tolerations: list[Object], path: str) -> None:
    for i, toleration in enumerate(tolerations):
        here, get = f"{path}[{i}]", toleration.get
        key, operator, value = get("key"), get("operator", ""), get("value", "")
        effect = get("effect", "")
        if key:
            check_label_key(errs, key, f"{here}.key")
        elif operator != "Exists":
            invalid(errs, f"{here}.operator", operator, "operator must be Exists when `key` is "
                    'empty, which means "match all values and all keys"')
        if "tolerationSeconds" in toleration and effect != "NoExecute":
            invalid(errs, f"{here}.effect", effect,
                    "effect must be 'NoExecute' when `tolerationSeconds` is set")
        if operator in ("Equal", ""):
            faults = label_value(value)
            if faults:
                invalid(errs, f"{here}.operator", value, ";".join(faults))
        elif operator == "Exists":
            if value:
                invalid(errs, f"{here}.operator", value,
                        "value must be empty when `operator` is 'Exists'")
        else:
            not_supported(errs, f"{here}.operator", operator,
                          ("Equal", "Exists", "Lt", "Gt") if operator in ("Lt", "Gt")
                          else ("Equal", "Exists"))
        if effect and effect not in EFFECTS:
            not_supported(errs, f"{here}.effect", effect, EFFECTS)


def check_taints(errs: Errors, taints: list[Object], path: str) -> None:
    """The taints of a node."""
    seen: set[tuple[str, str]] = set()
    for i, taint in enumerate(taints):
        here = f"{path}[{i}]"
        key, value, effect = (taint.get(k, "") for k in ("key", "value", "effect"))
        check_label_key(errs, key, f"{here}.key")
        faults = label_value(value)
        if faults:
            invalid(errs, f"{here}.value", value, ";".join(faults))
        if not effect:
            required(errs, f"{here}.effect")
        elif effect not in EFFECTS:
            not_supported(errs, f"{here}.effect", effect, EFFECTS)
        if (key, effect) in seen:
            # upstream shows its internal struct
            duplicate(errs, here, {"Key": key, "Value": value, "Effect": effect,
                                   "TimeAdded": taint.get("timeAdded")},
                      "taints must be unique by key and effect pair")
        seen.add((key, effect))


# --- affinity -------------------------------------------------------------------------------------

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def check_affinity(errs: Errors, affinity: Object, path: str) -> None:
    node = affinity.get("nodeAffinity")
    if node:
        here = f"{path}.nodeAffinity"
        if REQUIRED in node:
            check_node_selector(errs, node[REQUIRED], f"{here}.{REQUIRED}")
        for i, term in enumerate(node.get(PREFERRED, ())):
            _weight(errs, term, f"{here}.{PREFERRED}[{i}]")
            _node_term(errs, term.get("preference", {}), f"{here}.{PREFERRED}[{i}].preference")
    for kind in ("podAffinity", "podAntiAffinity"):
        for i, term in enumerate(affinity.get(kind, {}).get(REQUIRED, ())):
            _pod_term(errs, term, f"{path}.{kind}.{REQUIRED}[{i}]")
        for i, term in enumerate(affinity.get(kind, {}).get(PREFERRED, ())):
            here = f"{path}.{kind}.{PREFERRED}[{i}]"
            _weight(errs, term, here)
            _pod_term(errs, term.get("podAffinityTerm", {}), f"{here}.podAffinityTerm")


def _weight(errs: Errors, term: Object, path: str) -> None:
    weight = term.get("weight", 0)
    if not 1 <= weight <= 100:
        invalid(errs, f"{path}.weight", weight, "must be in the range 1-100")


def check_node_selector(errs: Errors, selector: Object, path: str) -> None:
    """A core NodeSelector: terms, at least one."""
    terms = selector.get("nodeSelectorTerms")
    if not terms:
        required(errs, f"{path}.nodeSelectorTerms",
                 "must have at least one node selector term")
    for i, term in enumerate(terms or ()):
        _node_term(errs, term, f"{path}.nodeSelectorTerms[{i}]")


def _node_term(errs: Errors, term: Object, path: str) -> None:
    for i, rule in enumerate(term.get("matchExpressions", ())):
        here = f"{path}.matchExpressions[{i}]"
        operator, values = rule.get("operator", ""), rule.get("values", ())
        if operator in ("Gt", "Lt"):
            if len(values) != 1:
                required(errs, f"{here}.values",
                         "must be specified single value when `operator` is 'Lt' or 'Gt'")
        elif not check_set_operator(errs, operator, values, here):
            invalid(errs, f"{here}.operator", operator, "not a valid selector operator")
        check_label_key(errs, rule.get("key", ""), f"{here}.key")
        for j, value in enumerate(values):
            invalid_each(errs, f"{here}.values[{j}]", value, label_value(value))
    for i, rule in enumerate(term.get("matchFields", ())):
        here = f"{path}.matchFields[{i}]"
        if rule.get("operator") not in ("In", "NotIn"):
            invalid(errs, f"{here}.operator", rule.get("operator", ""),
                    "not a valid selector operator")
        elif len(rule.get("values", ())) != 1:
            required(errs, f"{here}.values",
                     "must be only one value when `operator` is 'In' or 'NotIn' for node field "
                     "selector")
        if rule.get("key") != "metadata.name":
            invalid(errs, f"{here}.key", rule.get("key", ""), "not a valid field selector key")


def _pod_term(errs: Errors, term: Object, path: str) -> None:
    check_selector(errs, term.get("labelSelector"), f"{path}.labelSelector")
    check_selector(errs, term.get("namespaceSelector"), f"{path}.namespaceSelector")
    for name in term.get("namespaces", ()):
        invalid_each(errs, f"{path}.namespace", name, dns_label(name))
    key = term.get("topologyKey", "")
    if not key:
        required(errs, f"{path}.topologyKey", "can not be empty")
    check_label_key(errs, key, f"{path}.topologyKey")


# --- topology -------------------------------------------------------------------------------------

UNSATISFIABLE = ("DoNotSchedule", "ScheduleAnyway")


def check_topology(errs: Errors, constraints: list[Object], path: str) -> None:
    """topologySpreadConstraints."""
    pairs = [(c.get("topologyKey", ""), c.get("whenUnsatisfiable", "")) for c in constraints]
    last = {pair: i for i, pair in enumerate(pairs)}
    for i, constraint in enumerate(constraints):
        here, skew = f"{path}[{i}]", constraint.get("maxSkew", 0)
        key, when = pairs[i]
        if skew <= 0:
            invalid(errs, f"{here}.maxSkew", skew, "must be greater than zero")
        if not key:
            required(errs, f"{here}.topologyKey", "can not be empty")
        else:
            check_label_key(errs, key, f"{here}.topologyKey")
        if when not in UNSATISFIABLE:
            not_supported(errs, f"{here}.whenUnsatisfiable", when, UNSATISFIABLE)
        if last[key, when] > i:
            duplicate(errs, f"{here}.{{topologyKey, whenUnsatisfiable}}", f"{{{key}, {when}}}")
        domains = constraint.get("minDomains")
        if domains is not None and domains <= 0:
            invalid(errs, f"{here}.minDomains", domains, "must be greater than zero")
        check_selector(errs, constraint.get("labelSelector"), f"{here}.labelSelector")
