# SPDX-License-Identifier: Apache-2.0
"""PodSecurity: what pods of a namespace may do to the machine they run on.

    labels of the namespace (or the defaults) ──> Policy: enforce, audit, warn: a level, a version
    pods                 enforce -> 403; audit -> annotation; warn -> Warning header
    workloads            audit and warn about their pod template
    namespaces           labels that mean nothing -> 422; a stricter level warns of pods there are

Exempt: users, runtime classes and namespaces that the configuration names. Words are upstream's.
Thread safety: the server's event loop. Source: pod-security-admission admission/, api/.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import orjson

from kvcore.kube import status
from kvcore.kube.admission.chain import WRITES, review
from kvcore.kube.admission.lookups import Lister
from kvcore.kube.admission.podchecks import check_pod
from kvcore.kube.call import Call, Object

__all__ = ["Exemptions", "PodSecurity", "Policy", "Standard", "parse_level", "parse_version"]

PREFIX = "pod-security.kubernetes.io/"
LEVELS = ("privileged", "baseline", "restricted")
LATEST = 1 << 30                                 # a minor version newer than all
VERSION = re.compile(r"v1\.([0-9]|[1-9][0-9]*)\Z", re.ASCII)
PODS_CHECKED = 3000                              # of a namespace that gets stricter


class Standard(NamedTuple):
    """A level at a version of the standards, for example restricted:v1.30."""

    level: str = "privileged"
    minor: int = LATEST

    def __str__(self) -> str:
        return f"{self.level}:{'latest' if self.minor == LATEST else f'v1.{self.minor}'}"


@dataclass(frozen=True)
class Policy:
    """What a namespace asks for."""

    enforce: Standard = Standard()
    audit: Standard = Standard()
    warn: Standard = Standard()

    @cached_property
    def privileged(self) -> bool:
        return {self.enforce.level, self.audit.level, self.warn.level} == {"privileged"}


@dataclass(frozen=True)
class Exemptions:
    usernames: frozenset[str] = field(default_factory=frozenset)
    namespaces: frozenset[str] = field(default_factory=frozenset)
    runtime_classes: frozenset[str] = field(default_factory=frozenset)


def parse_level(text: str) -> str:
    """Errors: ValueError."""
    if text not in LEVELS:
        raise ValueError(f"must be one of {', '.join(LEVELS)}")
    return text


def parse_version(text: str) -> int:
    """The minor version of "latest" or "v1.x". Errors: ValueError."""
    if text == "latest":
        return LATEST
    found = VERSION.match(text)
    if found is None or len(found[1]) > 9:
        raise ValueError('must be "latest" or "v1.x"')
    return int(found[1])


def policy_of(labels: dict[str, str], defaults: Policy) -> tuple[Policy, list[status.Cause]]:
    """The policy that labels ask for, and what is wrong with them. A level that cannot be read
    enforces the strictest one, and neither audits nor warns."""
    if not labels:
        return defaults, []
    causes: list[status.Cause] = []
    read: dict[str, Any] = {}
    for mode in ("enforce", "audit", "warn"):
        standard: Standard = getattr(defaults, mode)
        for part, parse, otherwise in (
                ("", parse_level, "restricted" if mode == "enforce" else "privileged"),
                ("-version", parse_version, LATEST)):
            label = f"{PREFIX}{mode}{part}"
            text = labels.get(label)
            if text is None:
                continue
            value: Any = otherwise
            try:
                value = parse(text)
                read[mode + part] = value
            except ValueError as error:
                causes.append(status.Cause(
                    f"metadata.labels[{label}]", "FieldValueInvalid",
                    f'Invalid value: "{text}": {error}'))
            standard = standard._replace(**{"minor" if part else "level": value})
        read[f"={mode}"] = standard
    enforce, warn = read["=enforce"], read["=warn"]
    if "enforce" in read and f"{PREFIX}warn" not in labels \
            and LEVELS.index(enforce.level) > LEVELS.index(warn.level):
        warn = warn._replace(level=enforce.level)     # what is enforced is warned of, too
        if f"{PREFIX}warn-version" not in labels:
            warn = enforce
    return Policy(enforce, read["=audit"], warn), causes


TEMPLATES = {                                    # resource: where its pod template is
    "podtemplates": ("template",),
    "replicationcontrollers": ("spec", "template"),
    "replicasets.apps": ("spec", "template"),
    "deployments.apps": ("spec", "template"),
    "statefulsets.apps": ("spec", "template"),
    "daemonsets.apps": ("spec", "template"),
    "jobs.batch": ("spec", "template"),
    "cronjobs.batch": ("spec", "jobTemplate", "spec", "template"),
}
IGNORED_SUBRESOURCES = frozenset({"exec", "attach", "binding", "eviction", "log", "portforward",
                                  "proxy", "status"})


class PodSecurity:
    """Args: defaults: for namespaces without labels."""

    name = "PodSecurity"
    operations = WRITES

    def __init__(self, defaults: Policy | None = None,
                 exemptions: Exemptions | None = None) -> None:
        self.defaults, self.exempt = defaults or Policy(), exemptions or Exemptions()
        self._namespaces = Lister("", "v1", "namespaces")
        self._pods = Lister("", "v1", "pods")
        self._policies: dict[str, tuple[Object, Policy, list[status.Cause]]] = {}

    def validate(self, call: Call) -> None:
        resource = call.resource.qualified
        if resource == "pods":
            if call.target.subresource not in IGNORED_SUBRESOURCES:
                self._pod(call)
        elif resource in TEMPLATES:
            if not call.target.subresource:
                self._template(call, TEMPLATES[resource])
        elif resource == "namespaces" and not call.target.subresource:
            self._namespace(call)

    def _policy(self, call: Call) -> tuple[Policy, list[status.Cause]] | None:
        """Of the call's namespace; None when there is no such namespace."""
        name = call.namespace
        found = self._namespaces.get(call.api, "", name) \
            or self._namespaces.live(call.api, "", name)
        if found is None:
            return None
        known = self._policies.get(name)
        if known is None or known[0] is not found:
            if len(self._policies) > 4096:
                self._policies.clear()
            labels = found["metadata"].get("labels") or {}
            known = self._policies[name] = found, *policy_of(labels, self.defaults)
        return known[1], known[2]

    def _exempted(self, call: Call) -> bool:
        reason = "namespace" if call.namespace in self.exempt.namespaces else \
            "user" if call.user.name in self.exempt.usernames else ""
        if reason:
            review(call).annotations[f"{PREFIX}exempt"] = reason
        return bool(reason)

    def _pod(self, call: Call) -> None:
        if self._exempted(call):
            return
        known = self._policy(call)
        if known is None:
            raise status.internal(f'failed to lookup namespace "{call.namespace}"')
        policy, causes = known
        if not causes and policy.privileged:
            return
        spec = call.object.get("spec") or {}
        if call.operation == "UPDATE" and call.old is not None \
                and not significant(spec, call.old.get("spec") or {}):
            return
        self._evaluate(call, known, call.object["metadata"], spec, enforce=True)

    def _template(self, call: Call, path: Iterable[str]) -> None:
        if self._exempted(call):
            return
        known = self._policy(call)
        if known is None or not known[1] and \
                known[0].warn.level == known[0].audit.level == "privileged":
            return
        template: Any = call.object
        for part in path:
            template = template.get(part) if isinstance(template, dict) else None
        if template:
            self._evaluate(call, known, template.get("metadata") or {},
                           template.get("spec") or {}, enforce=False)

    def _evaluate(self, call: Call, known: tuple[Policy, list[status.Cause]], metadata: Object,
                  spec: Object, *, enforce: bool) -> None:
        policy, causes = known
        annotations = review(call).annotations
        if spec.get("runtimeClassName") in self.exempt.runtime_classes:
            annotations[f"{PREFIX}exempt"] = "runtimeClass"
            return
        if causes:
            said = ", ".join(f"{c.field}: {c.message}" for c in causes)
            annotations[f"{PREFIX}error"] = "Failed to parse policy: " + (
                said if len(causes) == 1 else f"[{said}]")
        results: dict[Standard, str] = {}

        def violations(standard: Standard) -> str:
            if standard not in results:
                results[standard] = detail(check_pod(*standard, metadata, spec))
            return results[standard]

        refused = ""
        if enforce:
            annotations[f"{PREFIX}enforce-policy"] = str(policy.enforce)
            refused = violations(policy.enforce)
        if violations(policy.audit):
            annotations[f"{PREFIX}audit-violations"] = \
                f'would violate PodSecurity "{policy.audit}": {violations(policy.audit)}'
        if refused:
            raise status.forbidden(call.resource, named(call),
                                   f'violates PodSecurity "{policy.enforce}": {refused}')
        if violations(policy.warn):
            call.warn(f'would violate PodSecurity "{policy.warn}": {violations(policy.warn)}')

    # --- namespaces ------------------------------------------------------------------------------

    def _namespace(self, call: Call) -> None:
        labels = call.object["metadata"].get("labels") or {}
        policy, causes = policy_of(labels, self.defaults)
        name = named(call)
        if call.operation == "CREATE":
            if causes:
                raise status.invalid(call.resource, name, causes)
            self._warn_exempt(call, name, policy, labels)
            return
        before, old_causes = policy_of(((call.old or {}).get("metadata") or {}).get("labels") or {},
                                       self.defaults)
        if causes and causes != old_causes:
            raise status.invalid(call.resource, name, causes)
        new, old = policy.enforce, before.enforce
        if new == old or new.level == "privileged" or (
                new.minor == old.minor and LEVELS.index(new.level) <= LEVELS.index(old.level)):
            return
        if name in self.exempt.namespaces:
            self._warn_exempt(call, name, policy, labels)
            return
        for text in self._violating(call, name, new):
            call.warn(text)

    def _warn_exempt(self, call: Call, name: str, policy: Policy, labels: dict[str, str]) -> None:
        if name not in self.exempt.namespaces or policy.privileged or policy == self.defaults:
            return
        said = [f"{mode}={getattr(policy, mode)}" for mode in ("enforce", "audit", "warn")
                if getattr(policy, mode).level != "privileged"
                and {f"{PREFIX}{mode}", f"{PREFIX}{mode}-version"} & labels.keys()]
        call.warn(f'namespace "{name}" is exempt from Pod Security, and the policy '
                  f"({', '.join(said)}) will be ignored")

    def _violating(self, call: Call, name: str, standard: Standard) -> list[str]:
        """Warnings about the pods that are there already: one of each controller first."""
        pods = self._prioritized(call, name)
        names: dict[str, str] = {}
        counts: Counter[str] = Counter()
        for pod in pods[:PODS_CHECKED]:
            found = check_pod(*standard, pod["metadata"], pod.get("spec") or {})
            if found:
                reason = ", ".join(reason for reason, _ in found)
                own = pod["metadata"].get("name", "")
                names[reason] = min(names.get(reason, own), own)
                counts[reason] += 1
        warnings = []
        if len(pods) > PODS_CHECKED:
            warnings.append("new PodSecurity enforce level only checked against the first "
                            f"{PODS_CHECKED} of {len(pods)} existing pods")
        if names:
            warnings.append(f'existing pods in namespace "{name}" violate the new PodSecurity '
                            f'enforce level "{standard}"')
        return warnings + sorted(f"{names[reason]}{others(counts[reason])}: {reason}"
                                 for reason in names)

    def _prioritized(self, call: Call, namespace: str) -> list[Object]:
        cacher = self._pods.cacher(call.api)
        if cacher is None:
            return []
        start = self._pods.key(namespace, "")
        first: list[Object] = []
        more: list[Object] = []
        seen: set[str] = set()
        for entry in cacher.entries(start, start[:-1] + b"0"):
            pod: Object = orjson.loads(entry.body)
            if (pod.get("spec") or {}).get("runtimeClassName") in self.exempt.runtime_classes:
                continue
            owner = next((o.get("uid", "") for o in pod["metadata"].get("ownerReferences") or ()
                          if o.get("controller")), None)
            (more if owner in seen else first).append(pod)
            if owner is not None:
                seen.add(owner)
        return first + more


def named(call: Call) -> str:
    return call.name or call.object["metadata"].get("name") or ""


def others(count: int) -> str:
    return "" if count == 1 else " (and 1 other pod)" if count == 2 else \
        f" (and {count - 1} other pods)"


def detail(findings: list[tuple[str, str]]) -> str:
    """All findings in one line; "" when there are none."""
    return ", ".join(f"{reason} ({more})" if more else reason for reason, more in findings)


def significant(new: Object, old: Object) -> bool:
    """Whether an update of a pod changes what is checked: containers that came, went, or have
    another image."""
    for part in ("containers", "initContainers"):
        now, before = new.get(part) or [], old.get(part) or []
        if [c.get("image") for c in now] != [c.get("image") for c in before]:
            return True
    known = {c.get("name"): c.get("image") for c in old.get("ephemeralContainers") or ()}
    return any(c.get("name") not in known or known[c.get("name")] != c.get("image")
               for c in new.get("ephemeralContainers") or ())
