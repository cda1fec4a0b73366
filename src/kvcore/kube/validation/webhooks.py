# SPDX-License-Identifier: Apache-2.0
"""Webhook configurations: whom to ask, about what.

Thread safety: none needed. Source: kubernetes pkg/apis/admissionregistration/validation, apiserver
util/webhook. May not know: requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from kvcore.kube.validation.errors import (
    Errors,
    Object,
    duplicate,
    invalid,
    invalid_each,
    not_supported,
    required,
    too_many,
)
from kvcore.kube.validation.metadata import check_label_key, check_selector
from kvcore.kube.validation.rules import label_1035, port_number, subdomain

__all__ = ["check_webhooks"]

OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
FAILURE, MATCH = ("Fail", "Ignore"), ("Equivalent", "Exact")
EFFECTS = ("None", "NoneOnDryRun")
SCOPES = ("*", "Cluster", "Namespaced")
REINVOCATION = ("IfNeeded", "Never")
CONDITIONS_MAX = 64


def check_webhooks(errs: Errors, obj: Object, old: Object | None = None) -> None:
    """Both kinds of webhook configuration."""
    names: set[str] = set()
    for i, hook in enumerate(obj.get("webhooks", ())):
        path, name = f"webhooks[{i}]", hook.get("name", "")
        _hook(errs, hook, path)
        versions = hook.get("admissionReviewVersions") or ()
        if not versions:
            required(errs, f"{path}.admissionReviewVersions", "must specify one of v1, v1beta1")
        elif not {"v1", "v1beta1"} & set(versions):
            invalid(errs, f"{path}.admissionReviewVersions", versions,
                    "must include at least one of v1, v1beta1")
        for j, version in enumerate(versions):
            here = f"{path}.admissionReviewVersions[{j}]"
            if version in versions[:j]:
                invalid(errs, here, version, "duplicate version")
            else:
                invalid_each(errs, here, version, label_1035(version))
        if name in names:
            duplicate(errs, f"{path}.name", name)
        names.add(name)


def _hook(errs: Errors, hook: Object, path: str) -> None:
    name = hook.get("name", "")
    if not name:
        required(errs, f"{path}.name")
    else:
        faults = subdomain(name)
        invalid_each(errs, f"{path}.name", name, faults)
        if not faults and name.count(".") < 2:
            invalid(errs, f"{path}.name", name,
                    "should be a domain with at least three segments separated by dots")
    for i, rule in enumerate(hook.get("rules", ())):
        _hook_rule(errs, rule, f"{path}.rules[{i}]")
    for key, values in (("failurePolicy", FAILURE), ("matchPolicy", MATCH)):
        if key in hook and hook[key] not in values:
            not_supported(errs, f"{path}.{key}", hook[key], values)
    effects = hook.get("sideEffects")
    if effects is None:
        required(errs, f"{path}.sideEffects", "must specify one of None, NoneOnDryRun")
    elif effects not in EFFECTS:
        not_supported(errs, f"{path}.sideEffects", effects, EFFECTS)
    seconds = hook.get("timeoutSeconds", 10)
    if not 1 <= seconds <= 30:
        invalid(errs, f"{path}.timeoutSeconds", seconds,
                "the timeout value must be between 1 and 30 seconds")
    for key in ("namespaceSelector", "objectSelector"):
        check_selector(errs, hook.get(key), f"{path}.{key}")
    _client(errs, hook.get("clientConfig", {}), f"{path}.clientConfig")
    if hook.get("reinvocationPolicy", "Never") not in REINVOCATION:
        not_supported(errs, f"{path}.reinvocationPolicy", hook["reinvocationPolicy"], REINVOCATION)
    _conditions(errs, hook.get("matchConditions", ()), f"{path}.matchConditions")


def _conditions(errs: Errors, conditions: Sequence[Object], path: str) -> None:
    """All but their expressions, which are CEL."""
    if len(conditions) > CONDITIONS_MAX:
        too_many(errs, path, len(conditions), CONDITIONS_MAX)
    names: set[str] = set()
    for i, condition in enumerate(conditions):
        name = condition.get("name", "")
        if not condition.get("expression", "").strip():
            required(errs, f"{path}[{i}].expression")
        if not name:
            required(errs, f"{path}[{i}].name")
            continue
        check_label_key(errs, name, f"{path}[{i}].name")
        if name in names:
            duplicate(errs, f"{path}[{i}].name", name)
        names.add(name)


def _hook_rule(errs: Errors, rule: Object, path: str) -> None:
    operations = rule.get("operations", ())
    if not operations:
        required(errs, f"{path}.operations")
    if len(operations) > 1 and "*" in operations:
        invalid(errs, f"{path}.operations", operations,
                "if '*' is present, must not specify other operations")
    for i, operation in enumerate(operations):
        if operation not in OPERATIONS:
            not_supported(errs, f"{path}.operations[{i}]", operation, OPERATIONS)
    for key, what in (("apiGroups", "API groups"), ("apiVersions", "API versions")):
        values = rule.get(key, ())
        if not values:
            required(errs, f"{path}.{key}")
        if len(values) > 1 and "*" in values:
            invalid(errs, f"{path}.{key}", values,
                    f"if '*' is present, must not specify other {what}")
    if not rule.get("resources"):
        required(errs, f"{path}.resources")
    for key in ("apiVersions", "resources"):
        for i, value in enumerate(rule.get(key, ())):
            if not value:
                required(errs, f"{path}.{key}[{i}]")
    _resources(errs, rule.get("resources", []), f"{path}.resources")
    if rule.get("scope", "*") not in SCOPES:
        not_supported(errs, f"{path}.scope", rule["scope"], SCOPES)


def _resources(errs: Errors, resources: list[str], path: str) -> None:
    """Wildcards that say already what stands behind them."""
    whole: set[str] = set()                  # resources with all their subresources
    every: set[str] = set()                  # subresources of all resources
    for i, text in enumerate(resources):
        name, slash, sub = text.partition("/")
        if not slash:
            continue
        if name in whole:
            invalid(errs, f"{path}[{i}]", text,
                    f"if '{name}/*' is present, must not specify {text}")
        if sub in every:
            invalid(errs, f"{path}[{i}]", text,
                    f"if '*/{sub}' is present, must not specify {text}")
        if sub == "*":
            whole.add(name)
        if name == "*":
            every.add(sub)
    if len(resources) > 1 and "*/*" in resources:
        invalid(errs, path, resources,
                "if '*/*' is present, must not specify other resources")
    if "*" in resources and any("/" not in text and text != "*" for text in resources):
        invalid(errs, path, resources, "if '*' is present, must not specify other resources "
                "without subresources")


def _client(errs: Errors, config: Object, path: str) -> None:
    url, service = config.get("url"), config.get("service")
    if (url is None) == (service is None):
        required(errs, path, "exactly one of url or service is required")
    if url is not None:
        parts = urlsplit(url)
        if parts.scheme != "https":
            invalid(errs, f"{path}.url", parts.scheme,
                    "'https' is the only allowed URL scheme; desired format: "
                    "https://host[/path]")
        if not parts.netloc:
            invalid(errs, f"{path}.url", parts.netloc, "host must be specified; desired format: "
                    "https://host[/path]")
        user, sign, _ = parts.netloc.rpartition("@")
        for value, what in ((user or sign, "user information is"),
                            (parts.fragment, "fragments are"),
                            (parts.query, "query parameters are")):
            if value:
                invalid(errs, f"{path}.url", user if value == sign else value,
                        f"{what} not permitted in the URL")
    if service is not None:
        # upstream hands the two over in the wrong order, and so tells the other one's name
        for key, told in (("namespace", "name"), ("name", "namespace")):
            if not service.get(key):
                required(errs, f"{path}.service.{told}")
        port = service.get("port", 443)
        faults = port_number(port)
        if faults:
            invalid(errs, f"{path}.service.port", port, f"port is not valid: {faults[0]}")
        _hook_path(errs, service.get("path", ""), f"{path}.service.path")


def _hook_path(errs: Errors, where: str, path: str) -> None:
    """The path of a webhook's service: segments that are names."""
    if where in ("", "/"):
        return
    if where == "//":
        invalid(errs, path, where, "segment[0] may not be empty")
        return
    if not where.startswith("/"):
        invalid(errs, path, where, "must start with a '/'")
    for i, step in enumerate(where[1:].removesuffix("/").split("/")):
        if not step:
            invalid(errs, path, where, f"segment[{i}] may not be empty")
            continue
        invalid_each(errs, path, where, [f"segment[{i}]: {fault}" for fault in subdomain(step)])
