# SPDX-License-Identifier: Apache-2.0
"""May they: modes in order, the first that allows; and the words of a refusal.

    Authorizer(user, target) ── system:masters ─> allowed
        └─ each of --authorization-mode: RBAC (rbac.Policy) · AlwaysAllow · AlwaysDeny
             └─ nobody allows ─> 403 with all reasons

`api.authorize` is an Authorizer: called, it raises; `decide` answers, for the reviews. Nobody can
take away what another mode allows.
`check_escalation` guards roles and bindings: who writes one must hold what it grants, or be allowed
the verb `escalate` on it (roles) or `bind` on the role it refers to (bindings).
Thread safety: one event loop. Source: apiserver authorization/union, endpoints/handlers/
responsewriters (errors.go), kubernetes registry/rbac. May not know: HTTP, how tokens are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from kvcore.kube import status
from kvcore.kube.call import Call, Object
from kvcore.kube.feed import Feed
from kvcore.kube.meta import name_problem
from kvcore.kube.rbac import (
    GROUP,
    Grants,
    Policy,
    Rule,
    Table,
    aggregate,
    quoted,
    role_of,
    uncovered,
)
from kvcore.kube.request import Target, User
from kvcore.kube.resources import Resource, Resources
from kvcore.kube.selectors import parse_fields

__all__ = ["Authorizer", "Decision", "check_escalation", "denied", "named", "policy_of"]

MASTERS = "system:masters"
MODES = ("AlwaysAllow", "AlwaysDeny", "RBAC")
EVERYTHING = (Rule(("*",), ("*",), ("*",)), Rule(("*",), urls=("*",)))

Mode = Callable[[User, Target], tuple[bool, str]]


class Decision(NamedTuple):
    allowed: bool
    reason: str = ""


def always_allow(user: User, target: Target) -> tuple[bool, str]:
    return True, ""


def always_deny(user: User, target: Target) -> tuple[bool, str]:
    return False, "Everything is forbidden."


def policy_of(feed: Feed, resources: Resources) -> Policy:
    """The policy of the roles and bindings in a store, through its watch cache."""
    def tables() -> tuple[Table, Table, Table, Table]:
        one, two, three, four = (feed.cacher(found) for plural in (
            "roles", "clusterroles", "rolebindings", "clusterrolebindings")
            if (found := resources.of_path(GROUP, "v1", plural)) is not None)
        return one, two, three, four
    return Policy(tables)


class Authorizer:
    """See the module. Args: modes: names of MODES, in order; policy: also used without the mode
    RBAC, for what a user holds (escalation). Errors: ValueError: unknown mode, none, one twice."""

    def __init__(self, modes: Sequence[str], policy: Policy) -> None:
        unknown = [mode for mode in modes if mode not in MODES]
        if unknown or not modes or len(set(modes)) != len(modes):
            raise ValueError(f"authorization modes must be one or more of {', '.join(MODES)}, "
                             f"each once, got {', '.join(modes) or 'none'}")
        self.modes, self.policy = tuple(modes), policy
        known: dict[str, Mode] = {"AlwaysAllow": always_allow, "AlwaysDeny": always_deny,
                                  "RBAC": policy.decide}
        self._modes = [known[mode] for mode in modes]

    def __call__(self, user: User, target: Target) -> None:
        """Errors: ApiError 403."""
        decision = self.decide(user, target)
        if not decision.allowed:
            raise denied(user, target, decision.reason)

    def decide(self, user: User, target: Target) -> Decision:
        """Cost: 1 us for a user seen before."""
        if MASTERS in user.groups:
            return Decision(True)
        reasons = []
        for mode in self._modes:
            allowed, reason = mode(user, target)
            if allowed:
                return Decision(True, reason)
            if reason:
                reasons.append(reason)
        return Decision(False, "\n".join(reasons))

    def rules(self, user: User, namespace: str) -> tuple[list[Rule], list[str]]:
        """All that holds for a user there, as far as rules can say it, and what is missing."""
        found: list[Rule] = list(EVERYTHING) if "AlwaysAllow" in self.modes else []
        if "RBAC" not in self.modes:
            return found, []
        grants: Grants = self.policy.grants(user, namespace)
        return found + [rule for rule, _ in grants.rules], grants.errors


def named(target: Target, field_selector: str) -> Target:
    """A list or watch of one object, `fieldSelector=metadata.name=x`, counts as one of this name:
    so rules with resourceNames may allow it.

    >>> named(Target("list", "", "api", "", "v1", "pods"), "metadata.name=x").name
    'x'
    """
    if target.name or target.verb not in ("list", "watch"):
        return target
    try:
        found = next((value for field, value, equal in parse_fields(field_selector)
                      if field == "metadata.name" and equal), "")
    except ValueError:
        return target                         # the verb refuses it
    return replace(target, name=found) if found and name_problem(found, "path") is None else target


# --- refusals -------------------------------------------------------------------------------------

def denied(user: User, target: Target, reason: str = "") -> status.ApiError:
    """403 in upstream's words.

    >>> denied(User("u"), Target("list", "", "api", "", "v1", "pods", "", "default")).message
    'pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace \
"default"'
    """
    who, tail = quoted(user.name), f": {reason}" if reason else ""
    if not target.resource:
        said = f"User {who} cannot {target.verb} path {quoted(target.path)}"
        return status.forbidden(None, "", _harmless(said) + tail)
    what = f"{target.resource}/{target.subresource}" if target.subresource else target.resource
    where = (f"in the namespace {quoted(target.namespace)}" if target.namespace
             else "at the cluster scope")
    said = (f"User {who} cannot {target.verb} resource {quoted(what)} in API group "
            f"{quoted(target.group)} {where}")
    return status.forbidden(_named(target), target.name, _harmless(said) + tail)


def _named(target: Target) -> Resource:
    """A resource to be named only: it need not exist."""
    return Resource(target.group, target.version, target.resource, "")


def _harmless(text: str) -> str:
    """What a browser could take for HTML is escaped."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# --- escalation -----------------------------------------------------------------------------------

def check_escalation(call: Call) -> None:
    """That a role or binding which is about to be written gives nobody what its writer has not.

    A no-op for other kinds, for system:masters, and where no Authorizer is set. `call.object` is
    what will be stored, `call.old` what was (None for a create). Errors: 403; 404 for a role that
    is referred to and does not exist. Cost: for other kinds 0.1 us.
    """
    if call.resource.group != GROUP:
        return
    authorizer = call.api.authorize
    if not isinstance(authorizer, Authorizer) or MASTERS in call.user.groups:
        return
    if call.old is not None and _granting(call.old) == _granting(call.object):
        return                                # only what a garbage collector must change
    if call.resource.kind in ("Role", "ClusterRole"):
        _check_role(call, authorizer)
    elif call.resource.kind in ("RoleBinding", "ClusterRoleBinding"):
        _check_binding(call, authorizer)


NOT_GRANTING = frozenset({"finalizers", "generation", "managedFields", "ownerReferences",
                          "resourceVersion"})


def _granting(obj: Object) -> Object:
    metadata = {k: v for k, v in obj["metadata"].items() if k not in NOT_GRANTING}
    return obj | {"metadata": metadata}


def _check_role(call: Call, authorizer: Authorizer) -> None:
    if _may(call, authorizer, "escalate", call.resource.plural, call.target.name):
        return
    _must_hold(call, authorizer, role_of(call.object).rules)
    if any(_aggregates(obj) for obj in (call.object, call.old) if obj is not None):
        try:
            _must_hold(call, authorizer, EVERYTHING)
        except status.ApiError:
            raise status.forbidden(call.resource, call.name, "must have cluster-admin privileges "
                                   "to use the aggregationRule") from None


def _aggregates(obj: Object) -> bool:
    rule = obj.get("aggregationRule")
    return isinstance(rule, dict) and bool(rule.get("clusterRoleSelectors"))


def _check_binding(call: Call, authorizer: Authorizer) -> None:
    ref = call.object.get("roleRef")
    if not isinstance(ref, dict):
        return                                # validation refuses it
    kind, name = str(ref.get("kind", "")), str(ref.get("name", ""))
    if kind in ("Role", "ClusterRole") and _may(call, authorizer, "bind", f"{kind.lower()}s", name):
        return
    rules = authorizer.policy.rules_of(kind, name, call.namespace)
    if isinstance(rules, str):
        if not kind.endswith("Role"):
            return
        raise status.not_found(call.resource, name)     # upstream names the binding's kind
    _must_hold(call, authorizer, rules)


def _may(call: Call, authorizer: Authorizer, verb: str, plural: str, name: str) -> bool:
    target = Target(verb, "", "apis", GROUP, "*", plural, "", call.namespace, name)
    return authorizer.decide(call.user, target).allowed


def _must_hold(call: Call, authorizer: Authorizer, rules: Sequence[Rule]) -> None:
    user = call.user
    grants = authorizer.policy.grants(user, call.namespace)
    missing = uncovered((rule for rule, _ in grants.rules), rules)
    if missing:
        groups = " ".join(map(quoted, user.groups))
        what = "\n".join(sorted(set(map(_compact, missing))))
        errors = f"; resolution errors: {aggregate(grants.errors)}" if grants.errors else ""
        raise status.forbidden(call.resource, call.name, f"user {quoted(user.name)} (groups=["
                               f"{groups}]) is attempting to grant RBAC permissions not currently "
                               f"held:\n{what}{errors}")


def _compact(rule: Rule) -> str:
    said = (("APIGroups", rule.groups), ("Resources", rule.resources),
            ("NonResourceURLs", rule.urls), ("ResourceNames", rule.names), ("Verbs", rule.verbs))
    return "{" + ", ".join(f"{key}:[{' '.join(map(quoted, values))}]"
                           for key, values in said if values) + "}"
