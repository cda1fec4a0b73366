# SPDX-License-Identifier: Apache-2.0
"""RBAC, disruption budgets, autoscalers, priority classes, leases, runtime classes,
signing requests.

Thread safety: none needed. Source: kubernetes pkg/apis/{rbac,policy,autoscaling,scheduling,
coordination,node,certificates}/validation. May not know: requests.
"""

from __future__ import annotations

from base64 import b64decode

from kvcore.kube.validation.containers import check_requirements
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
from kvcore.kube.validation.metadata import check_selector, immutable
from kvcore.kube.validation.rules import (
    at_most_100_percent,
    check_labels,
    dns_label,
    int_or_percent,
    nonnegative,
    path_segment,
    subdomain,
)
from kvcore.kube.validation.scheduling import check_tolerations
from kvcore.kube.values import quantity

__all__ = ["check_autoscaler", "check_binding", "check_budget", "check_cluster_binding",
           "check_cluster_role", "check_lease", "check_priority_class", "check_role"]

# --- RBAC -----------------------------------------------------------------------------------------

GROUP = "rbac.authorization.k8s.io"


def check_role(errs: Errors, obj: Object, old: Object | None = None) -> None:
    for i, rule in enumerate(obj.get("rules") or ()):
        _rule(errs, rule, True, f"rules[{i}]")


def check_cluster_role(errs: Errors, obj: Object, old: Object | None = None) -> None:
    for i, rule in enumerate(obj.get("rules") or ()):
        _rule(errs, rule, False, f"rules[{i}]")
    aggregation = obj.get("aggregationRule")
    if aggregation is not None:
        path = "aggregationRule.clusterRoleSelectors"
        if not aggregation.get("clusterRoleSelectors"):
            required(errs, path,
                     "at least one clusterRoleSelector required if aggregationRule is non-nil")
        for i, selector in enumerate(aggregation.get("clusterRoleSelectors", ())):
            check_selector(errs, selector, f"{path}[{i}]")


def _rule(errs: Errors, rule: Object, namespaced: bool, path: str) -> None:
    if not rule.get("verbs"):
        required(errs, f"{path}.verbs", "verbs must contain at least one value")
    urls = rule.get("nonResourceURLs")
    if urls:
        if namespaced:
            invalid(errs, f"{path}.nonResourceURLs", urls,
                    "namespaced rules cannot apply to non-resource URLs")
        if any(rule.get(key) for key in ("apiGroups", "resources", "resourceNames")):
            invalid(errs, f"{path}.nonResourceURLs", urls,
                    "rules cannot apply to both regular resources and non-resource URLs")
        return
    if not rule.get("apiGroups"):
        required(errs, f"{path}.apiGroups", "resource rules must supply at least one api group")
    if not rule.get("resources"):
        required(errs, f"{path}.resources", "resource rules must supply at least one resource")


def check_binding(errs: Errors, obj: Object, old: Object | None = None) -> None:
    _binding(errs, obj, old, ("Role", "ClusterRole"))


def check_cluster_binding(errs: Errors, obj: Object, old: Object | None = None) -> None:
    _binding(errs, obj, old, ("ClusterRole",))


def _binding(errs: Errors, obj: Object, old: Object | None, kinds: tuple[str, ...]) -> None:
    ref = obj.get("roleRef", {})
    if ref.get("apiGroup", "") != GROUP:
        not_supported(errs, "roleRef.apiGroup", ref.get("apiGroup", ""), (GROUP,))
    if ref.get("kind", "") not in kinds:
        not_supported(errs, "roleRef.kind", ref.get("kind", ""), kinds)
    name = ref.get("name", "")
    if not name:
        required(errs, "roleRef.name")
    else:
        invalid_each(errs, "roleRef.name", name, path_segment(name))
    for i, subject in enumerate(obj.get("subjects", ())):
        _subject(errs, subject, len(kinds) > 1, f"subjects[{i}]")
    if old is not None and ref != old.get("roleRef"):
        invalid(errs, "roleRef", {"APIGroup": ref.get("apiGroup", ""),
                                  "Kind": ref.get("kind", ""), "Name": name},
                "cannot change roleRef")


def _subject(errs: Errors, subject: Object, namespaced: bool, path: str) -> None:
    name, kind, group = (subject.get(key, "") for key in ("name", "kind", "apiGroup"))
    if not name:
        required(errs, f"{path}.name")
    if kind == "ServiceAccount":
        if name:
            invalid_each(errs, f"{path}.name", name, subdomain(name))
        if group:
            not_supported(errs, f"{path}.apiGroup", group, ("",))
        if not namespaced and not subject.get("namespace"):
            required(errs, f"{path}.namespace")
    elif kind in ("User", "Group"):
        if group != GROUP:
            not_supported(errs, f"{path}.apiGroup", group, (GROUP,))
    else:
        not_supported(errs, f"{path}.kind", kind, ("ServiceAccount", "User", "Group"))


# --- budgets and autoscalers ----------------------------------------------------------------------

EVICTION = ("AlwaysAllow", "IfHealthyBudget")


def check_budget(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj.get("spec", {})
    if "minAvailable" in spec and "maxUnavailable" in spec:
        # upstream shows its internal struct
        invalid(errs, "spec", {"MinAvailable": spec["minAvailable"],
                               "Selector": spec.get("selector"),
                               "MaxUnavailable": spec["maxUnavailable"],
                               "UnhealthyPodEvictionPolicy":
                                   spec.get("unhealthyPodEvictionPolicy")},
                "minAvailable and maxUnavailable cannot be both set")
    for key in ("minAvailable", "maxUnavailable"):
        if key in spec:
            int_or_percent(errs, spec[key], f"spec.{key}")
            at_most_100_percent(errs, spec[key], f"spec.{key}")
    check_selector(errs, spec.get("selector"), "spec.selector")
    policy = spec.get("unhealthyPodEvictionPolicy")
    if policy is not None and policy not in EVICTION:
        not_supported(errs, "spec.unhealthyPodEvictionPolicy", policy, EVICTION)


METRICS = {"ContainerResource": "containerResource", "External": "external", "Object": "object",
           "Pods": "pods", "Resource": "resource"}


def check_autoscaler(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj["spec"]
    least, most = spec.get("minReplicas"), spec.get("maxReplicas", 0)
    if least is not None and least < 1:
        invalid(errs, "spec.minReplicas", least, "must be greater than or equal to 1")
    if most == 0:
        required(errs, "spec.maxReplicas", "must be set and greater than 0")
    elif most < 0:
        invalid(errs, "spec.maxReplicas", most, "must be greater than or equal to 1")
    if least is not None and most < least:
        invalid(errs, "spec.maxReplicas", most, "must be greater than or equal to `minReplicas`")
    target = spec.get("scaleTargetRef", {})
    for key in ("kind", "name"):
        if not target.get(key):
            required(errs, f"spec.scaleTargetRef.{key}")
        else:
            invalid_each(errs, f"spec.scaleTargetRef.{key}", target[key],
                         path_segment(target[key]))
    version = target.get("apiVersion", "")
    if "/" not in version and (version, target.get("kind")) != ("v1", "ReplicationController"):
        invalid(errs, "spec.scaleTargetRef.apiVersion", version,
                "apiVersion must specify API group")
    for i, metric in enumerate(spec.get("metrics", ())):
        _metric(errs, metric, f"spec.metrics[{i}]")
    if least == 0 and not any(metric.get("type") in ("Object", "External")
                              for metric in spec.get("metrics", ())):
        forbidden(errs, "spec.metrics", "must specify at least one Object or External metric to "
                  "support scaling to zero replicas")
    for key, rules in spec.get("behavior", {}).items():
        _scaling(errs, rules, f"spec.behavior.{key}")


SELECT = ("Disabled", "Max", "Min")
WINDOW_MAX, PERIOD_MAX = 3600, 1800


def _scaling(errs: Errors, rules: Object, path: str) -> None:
    window = rules.get("stabilizationWindowSeconds")
    if window is not None and window < 0:
        invalid(errs, f"{path}.stabilizationWindowSeconds", window,
                "must be greater than or equal to zero")
    elif window is not None and window > WINDOW_MAX:
        invalid(errs, f"{path}.stabilizationWindowSeconds", window,
                f"must be less than or equal to {WINDOW_MAX}")
    if rules.get("selectPolicy", "Max") not in SELECT:
        not_supported(errs, f"{path}.selectPolicy", rules["selectPolicy"], SELECT)
    if not rules.get("policies"):
        required(errs, f"{path}.policies", "must specify at least one Policy")
    for i, policy in enumerate(rules.get("policies", ())):
        here = f"{path}.policies[{i}]"
        if policy.get("type") not in ("Percent", "Pods"):
            not_supported(errs, f"{here}.type", policy.get("type", ""), ("Percent", "Pods"))
        for key in ("value", "periodSeconds"):
            if policy.get(key, 0) <= 0:
                invalid(errs, f"{here}.{key}", policy.get(key, 0), "must be greater than zero")
        if policy.get("periodSeconds", 0) > PERIOD_MAX:
            invalid(errs, f"{here}.periodSeconds", policy["periodSeconds"],
                    f"must be less than or equal to {PERIOD_MAX}")


def _metric(errs: Errors, metric: Object, path: str) -> None:
    kind = metric.get("type", "")
    if not kind:
        required(errs, f"{path}.type", "must specify a metric source type")
    if kind not in METRICS:
        not_supported(errs, f"{path}.type", kind, METRICS)
        not_supported(errs, f"{path}.type", kind, METRICS)       # upstream says it twice
        return
    wanted = METRICS[kind]
    if wanted not in metric:
        required(errs, f"{path}.{wanted}",
                 "must populate information for the given metric source")
    for key in METRICS.values():
        if key in metric and key != wanted:
            forbidden(errs, f"{path}.{key}", "must populate the given metric source only")
    source = metric.get(wanted)
    if source is None:
        return
    if wanted in ("resource", "containerResource") and not source.get("name"):
        required(errs, f"{path}.{wanted}.name", "must specify a resource name")
    target, here = source.get("target", {}), f"{path}.{wanted}.target"
    if not target.get("type"):
        required(errs, f"{here}.type", "must specify a metric target type")
    if target.get("type") not in ("Utilization", "Value", "AverageValue"):
        invalid(errs, f"{here}.type", target.get("type", ""),
                "must be either Utilization, Value, or AverageValue")
    for key in ("value", "averageValue"):
        if key in target and quantity(target[key]) <= 0:
            invalid(errs, f"{here}.{key}", target[key], "must be positive")
    if target.get("averageUtilization", 1) < 1:
        invalid(errs, f"{here}.averageUtilization", target["averageUtilization"],
                "must be greater than 0")
    if wanted in ("pods", "object", "external") and not source.get("metric", {}).get("name"):
        required(errs, f"{path}.{wanted}.metric.name", "must specify a metric name")
    if wanted == "pods" and "averageValue" not in target:
        required(errs, f"{here}.averageValue", "must specify a positive target averageValue")
    if wanted in ("resource", "containerResource"):
        utilization, average = "averageUtilization" in target, "averageValue" in target
        if not utilization and not average:
            required(errs, f"{here}.averageUtilization",
                     "must set either a target raw value or a target utilization")
        if utilization and average:
            forbidden(errs, f"{here}.averageValue",
                      "may not set both a target raw value and a target utilization")


# --- priority classes and leases ------------------------------------------------------------------

HIGHEST = 1_000_000_000
SYSTEM = {"system-node-critical": 2_000_001_000, "system-cluster-critical": 2_000_000_000}


def check_priority_class(errs: Errors, obj: Object, old: Object | None = None) -> None:
    name, value = obj["metadata"].get("name", ""), obj.get("value", 0)
    if name.startswith("system-"):
        if SYSTEM.get(name) != value or obj.get("globalDefault"):
            why = f"value of {name} PriorityClass must be {SYSTEM[name]}" \
                if name in SYSTEM and SYSTEM[name] != value else \
                f"globalDefault of {name} PriorityClass must be false" if name in SYSTEM else \
                f"{name} is not a known system priority class"
            forbidden(errs, "metadata.name", "priority class names with 'system-' prefix are "
                      f"reserved for system use only. error: {why}")
    elif value > HIGHEST:
        forbidden(errs, "value",
                  f"maximum allowed value of a user defined priority is {HIGHEST}")
    policy = obj.get("preemptionPolicy")
    if policy not in (None, "PreemptLowerPriority", "Never"):
        not_supported(errs, "preemptionPolicy", policy, ("PreemptLowerPriority", "Never"))
    if old is not None:
        if value != old.get("value", 0):
            forbidden(errs, "value", "may not be changed in an update.")
        immutable(errs, policy, old.get("preemptionPolicy"), "preemptionPolicy")


def check_lease(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj.get("spec", {})
    seconds = spec.get("leaseDurationSeconds")
    if seconds is not None and seconds <= 0:
        invalid(errs, "spec.leaseDurationSeconds", seconds, "must be greater than 0")
    nonnegative(errs, spec, "leaseTransitions", "spec")
    if spec.get("preferredHolder") and not spec.get("strategy"):
        forbidden(errs, "spec.preferredHolder", "may only be specified if `strategy` is defined")


def check_runtime_class(errs: Errors, obj: Object, old: Object | None = None) -> None:
    handler = obj.get("handler", "")
    if not handler:
        required(errs, "handler")
    else:
        invalid_each(errs, "handler", handler, dns_label(handler))
    check_requirements(errs, {"limits": obj.get("overhead", {}).get("podFixed", {})}, "overhead")
    scheduling = obj.get("scheduling", {})
    check_labels(errs, scheduling.get("nodeSelector", {}), "scheduling.nodeSelector")
    check_tolerations(errs, scheduling.get("tolerations", ()), "scheduling.tolerations")
    if old is not None:
        immutable(errs, handler, old.get("handler"), "handler")


USAGES = (
    "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign",
    "data encipherment", "decipher only", "digital signature", "email protection",
    "encipher only", "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement",
    "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime",
    "server auth", "signing", "timestamping")
PEM = b"-----BEGIN CERTIFICATE REQUEST-----"
SHORTEST = 600


def check_signing_request(errs: Errors, obj: Object, old: Object | None = None) -> None:
    """A CertificateSigningRequest; that its request is well signed is for its signer to see."""
    spec = obj["spec"]
    request = spec.get("request")
    if not b64decode(request or "").lstrip().startswith(PEM):
        invalid(errs, "spec.request", request,
                "PEM block type must be CERTIFICATE REQUEST")
    usages = spec.get("usages", ())
    if not usages:
        required(errs, "spec.usages")
    for i, usage in enumerate(usages):
        if usage not in USAGES:
            not_supported(errs, f"spec.usages[{i}]", usage, USAGES)
    known: set[str] = set()
    for i, usage in enumerate(usages):
        if usage in known:
            duplicate(errs, f"spec.usages[{i}]", usage)
        known.add(usage)
    signer = spec.get("signerName", "")
    if not signer:
        required(errs, "spec.signerName")
    elif "/" not in signer:
        invalid(errs, "spec.signerName", signer,
                "must be a fully qualified domain and path of the form 'example.com/signer-name'")
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < SHORTEST:
        invalid(errs, "spec.expirationSeconds", seconds,
                "may not specify a duration less than 600 seconds (10 minutes)")
    if old is not None:
        immutable(errs, spec, old["spec"], "spec")
