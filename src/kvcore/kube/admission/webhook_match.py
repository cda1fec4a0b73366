# SPDX-License-Identifier: Apache-2.0
"""Which webhooks a request concerns: configurations read once a version, rules asked first.

    {Mutating,Validating}WebhookConfiguration ──hooks_of──> Webhook ... by configuration's name
    hook.about(call)     operations, groups, versions, resources, scope
    hook.matches(call)   objectSelector (new or old), namespaceSelector, matchConditions

matchPolicy: every kind is served in one version, so Equivalent and Exact mean the same here.
matchConditions are CEL, which kvcore does not evaluate: with failurePolicy Ignore such a webhook is
never called, with Fail its requests are refused with 403: as upstream does when an expression
fails.
Thread safety: values. Source: apiserver admission/plugin/webhook (generic, predicates).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kvcore.kube import status
from kvcore.kube.admission.lookups import Lister
from kvcore.kube.call import Call, Object

__all__ = ["Rule", "Webhook", "hooks_of", "label_selector"]

Labels = Mapping[str, str]
Selects = Callable[[Labels], bool]

EXEMPT_GROUP = "admissionregistration.k8s.io"    # or nobody could take back a bad webhook
NO_CEL = "matchConditions are written in CEL, which kvcore does not evaluate"


def label_selector(selector: Any) -> Selects | None:
    """A LabelSelector as a function; None: it selects everything. Errors: ValueError.

    >>> selects = label_selector({"matchExpressions": [{"key": "a", "operator": "Exists"}]})
    >>> selects({"a": "1"}), selects({})
    (True, False)
    """
    selector = selector or {}
    tests = [_expression(key, "In", (value,))
             for key, value in (selector.get("matchLabels") or {}).items()]
    for each in selector.get("matchExpressions") or ():
        tests.append(_expression(each["key"], each.get("operator"), each.get("values") or ()))
    if not tests:
        return None
    return lambda labels: all(test(labels) for test in tests)


def _expression(key: str, operator: Any, values: Any) -> Selects:
    known = frozenset(values)
    match operator:
        case "In":
            return lambda labels: labels.get(key) in known
        case "NotIn":
            return lambda labels: labels.get(key) not in known
        case "Exists":
            return lambda labels: key in labels
        case "DoesNotExist":
            return lambda labels: key not in labels
    raise ValueError(f'"{operator}" is not a valid label selector operator')


@dataclass(frozen=True)
class Rule:
    operations: frozenset[str]
    groups: frozenset[str]
    versions: frozenset[str]
    resources: frozenset[tuple[str, str]]        # (resource, subresource); "*": any
    scope: str = "*"

    @classmethod
    def of(cls, rule: Object) -> Rule:
        resources = frozenset((name.partition("/")[0], name.partition("/")[2])
                              for name in rule.get("resources") or ())
        return cls(frozenset(rule.get("operations") or ()), frozenset(rule.get("apiGroups") or ()),
                   frozenset(rule.get("apiVersions") or ()), resources, rule.get("scope") or "*")

    def matches(self, call: Call) -> bool:
        resource, sub = call.resource, call.target.subresource
        if not (call.operation in self.operations or "*" in self.operations):
            return False
        if not (resource.group in self.groups or "*" in self.groups):
            return False
        if not (resource.version in self.versions or "*" in self.versions):
            return False
        if not any((name, part) in self.resources
                   for name in (resource.plural, "*") for part in (sub, "*")):
            return False
        return self.scope == "*" or (self.scope == "Namespaced") == resource.namespaced


@dataclass(frozen=True)
class Webhook:
    """One webhook, its defaults filled in. `uid`: the same as long as its configuration has it."""

    uid: str
    configuration: str
    name: str
    rules: tuple[Rule, ...]
    namespaces: Selects | None
    objects: Selects | None
    conditions: bool
    ignore: bool                                 # failurePolicy Ignore
    side_effects: str
    timeout: float
    reinvoke: bool                               # reinvocationPolicy IfNeeded
    versions: tuple[str, ...]                    # of AdmissionReview
    client: Object                               # clientConfig
    wrong: str = ""                              # why its selectors cannot be read

    def about(self, call: Call) -> bool:
        """Whether a rule matches. Cost: 1 us a rule."""
        return any(rule.matches(call) for rule in self.rules)

    def matches(self, call: Call, namespaces: Lister) -> bool:
        """Whether the selectors do, too. Errors: ApiError."""
        if self.wrong:
            raise status.internal(self.wrong)
        if self.objects is not None and not any(
                self.objects(labels_of(each)) for each in (call.object, call.old) if each):
            return False
        if self.namespaces is not None and not self._in_namespace(call, namespaces):
            return False
        if self.conditions:
            if self.ignore:
                return False
            raise status.forbidden(call.resource, call.name, f'webhook "{self.name}": {NO_CEL}')
        return True

    def _in_namespace(self, call: Call, namespaces: Lister) -> bool:
        assert self.namespaces is not None
        own = call.resource.qualified == "namespaces"
        if own and not call.target.subresource and call.operation in ("CREATE", "UPDATE"):
            return self.namespaces(labels_of(call.object))
        name = call.namespace or (call.name if own else "")
        if not name:
            return True
        found = namespaces.get(call.api, "", name) or namespaces.live(call.api, "", name)
        if found is None:
            raise status.not_found(namespaces.resource, name) if namespaces.resource \
                else status.no_such_path()
        return self.namespaces(labels_of(found))


def labels_of(obj: Object) -> Labels:
    labels: Labels = (obj.get("metadata") or {}).get("labels") or {}
    return labels


def hooks_of(configurations: tuple[Object, ...]) -> tuple[Webhook, ...]:
    """The webhooks of all configurations, which come by name."""
    return tuple(hook for each in configurations for hook in _hooks(each))


def _hooks(configuration: Object) -> list[Webhook]:
    name, seen = configuration["metadata"]["name"], dict[str, int]()
    found = []
    for hook in configuration.get("webhooks") or ():
        own = hook.get("name", "")
        number = seen[own] = seen.get(own, -1) + 1
        found.append(_hook(f"{name}/{own}/{number}", name, hook))
    return found


def _hook(uid: str, configuration: str, hook: Object) -> Webhook:
    namespaces = objects = None
    wrong = ""
    try:
        namespaces = label_selector(hook.get("namespaceSelector"))
        objects = label_selector(hook.get("objectSelector"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        wrong = str(error)
    return Webhook(
        uid, configuration, hook.get("name", ""),
        tuple(Rule.of(rule) for rule in hook.get("rules") or ()), namespaces, objects,
        bool(hook.get("matchConditions")), hook.get("failurePolicy") == "Ignore",
        hook.get("sideEffects") or "", float(hook.get("timeoutSeconds") or 10),
        hook.get("reinvocationPolicy") == "IfNeeded",
        tuple(hook.get("admissionReviewVersions") or ()), hook.get("clientConfig") or {}, wrong)
