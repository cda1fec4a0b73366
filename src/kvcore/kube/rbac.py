# SPDX-License-Identifier: Apache-2.0
"""RBAC: from roles and bindings as they are stored to a decision in two look-ups.

    cachers of roles, clusterroles, rolebindings, clusterrolebindings
        └─(a revision moved: objects that are others than before are parsed)─> Policy
             subject -> bindings, cluster-wide and by namespace
             (user, groups, namespace) -> Grants: the rules that hold there, each with its reason
                  (verb, group, resource, subresource) -> who allows it: anybody, or by name

Nothing is computed before it is asked for, and everything below a change is dropped at once: the
parsed objects stay, the Grants are made anew when their user comes again.

Named invariants:
1. **as the objects say**: a decision is that of a walk over all bindings of the cluster and of the
   namespace and their roles, in order of names; the first rule that allows gives the reason.
2. **nothing out of rubbish**: a part of an object that is not of its type grants nothing.
3. **bounded**: what clients can make up (names of namespaces, paths, resources) fills tables up to
   a limit; then they are emptied.
An aggregated ClusterRole has the rules of the roles it selects, computed here; its stored rules do
not count (kvcore.kube.aggregation keeps them for readers).
Thread safety: one event loop. Source: kubernetes plugin/pkg/auth/authorizer/rbac, apis/rbac/v1.
May not know: HTTP, verbs, how objects are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import orjson

from kvcore.kube.request import Target, User
from kvcore.kube.selectors import Requirement

__all__ = ["Binding", "Grants", "Policy", "Role", "Rule", "quoted", "role_of", "uncovered"]

GROUP = "rbac.authorization.k8s.io"
SERVICE_ACCOUNT = "system:serviceaccount:"
MOST_GRANTS = 4096               # users and namespaces whose rules are kept ready
MOST_ANSWERS = 1024              # decisions kept of each
OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}
NOTHING = Requirement("", "in")  # what no label is

Object = dict[str, Any]
Subject = tuple[str, str]        # ("User", name) or ("Group", name)


class Stored(Protocol):
    """One version of an object; another version is another Stored."""

    body: bytes


class Table(Protocol):
    """Objects by key, and a number that moves when one of them changes. A Cacher is one."""

    @property
    def state(self) -> Mapping[bytes, Stored]: ...
    @property
    def revision(self) -> int: ...


# --- parsing -------------------------------------------------------------------------------------

def _strings(value: Any) -> tuple[str, ...]:
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()


def _dicts(value: Any) -> list[Object]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _dict(value: Any) -> Object:
    return value if isinstance(value, dict) else {}


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


class Rule(NamedTuple):
    """A PolicyRule. Empty `names`: any name."""

    verbs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()

    @classmethod
    def of(cls, rule: Object) -> Rule:
        return cls(_strings(rule.get("verbs")), _strings(rule.get("apiGroups")),
                   _strings(rule.get("resources")), _strings(rule.get("resourceNames")),
                   _strings(rule.get("nonResourceURLs")))

    def object(self) -> Object:
        """As it is stored: only what it has."""
        said = {"apiGroups": self.groups, "nonResourceURLs": self.urls,
                "resourceNames": self.names, "resources": self.resources, "verbs": self.verbs}
        return {key: list(value) for key, value in said.items() if value}

    def allows(self, verb: str, group: str, resource: str, subresource: str) -> bool:
        """Whether it concerns these, whatever the name.

        >>> Rule(("get",), ("",), ("*/status",)).allows("get", "", "pods", "status")
        True
        """
        if verb not in self.verbs and "*" not in self.verbs:
            return False
        if group not in self.groups and "*" not in self.groups:
            return False
        if not subresource:
            return resource in self.resources or "*" in self.resources
        return any(r in ("*", f"{resource}/{subresource}", f"*/{subresource}")
                   for r in self.resources)

    def allows_url(self, verb: str, path: str) -> bool:
        """A trailing "*" stands for the rest of a path."""
        if verb not in self.verbs and "*" not in self.verbs:
            return False
        return any(url_covers(url, path) for url in self.urls)


def url_covers(url: str, path: str) -> bool:
    return url == path or (url.endswith("*") and path.startswith(url.rstrip("*")))


@dataclass(frozen=True, slots=True)
class Role:
    """A Role or ClusterRole. `selectors` None: its rules are its own."""

    name: str
    rules: tuple[Rule, ...]
    labels: dict[str, str]
    selectors: tuple[tuple[Requirement, ...], ...] | None


@dataclass(frozen=True, slots=True)
class Binding:
    """A RoleBinding (`namespace` set) or ClusterRoleBinding. Subjects: kind, name, namespace."""

    name: str
    namespace: str
    role_kind: str
    role_name: str
    subjects: tuple[tuple[str, str, str], ...]

    def keys(self) -> set[Subject]:
        """What a user or one of its groups must be."""
        found = set()
        for kind, name, namespace in self.subjects:
            if kind == "ServiceAccount":
                if namespace := namespace or self.namespace:
                    found.add(("User", f"{SERVICE_ACCOUNT}{namespace}:{name}"))
            elif kind in ("User", "Group"):
                found.add((kind, name))
        return found

    def reason(self, user: User) -> str:
        """Why it allows something, in upstream's words (a service account's name and namespace
        stand in this order there)."""
        kind = subject = ""
        for kind, name, namespace in self.subjects:
            where = namespace or self.namespace
            if ((kind == "User" and name == user.name) or (kind == "Group" and name in user.groups)
                    or (kind == "ServiceAccount" and where
                        and user.name == f"{SERVICE_ACCOUNT}{where}:{name}")):
                subject = f"{name}/{where}" if kind == "ServiceAccount" else name
                break
        what, own = (("RoleBinding", f"{self.name}/{self.namespace}") if self.namespace
                     else ("ClusterRoleBinding", self.name))
        return (f"RBAC: allowed by {what} {quoted(own)} of {self.role_kind} "
                f"{quoted(self.role_name)} to {kind} {quoted(subject)}")


def role_of(obj: Object) -> Role:
    metadata, aggregation = _dict(obj.get("metadata")), obj.get("aggregationRule")
    labels = {k: v for k, v in _dict(metadata.get("labels")).items() if isinstance(v, str)}
    selectors = None
    if isinstance(aggregation, dict):
        selectors = tuple(_requirements(s) for s in _dicts(aggregation.get("clusterRoleSelectors")))
    return Role(_string(metadata.get("name")), tuple(map(Rule.of, _dicts(obj.get("rules")))),
                labels, selectors)


def _requirements(selector: Object) -> tuple[Requirement, ...]:
    """Of a LabelSelector; an empty one selects everything, an unreadable one nothing."""
    labels, expressions = selector.get("matchLabels"), selector.get("matchExpressions")
    if not (isinstance(labels, dict | None) and isinstance(expressions, list | None)):
        return (NOTHING,)
    found = [Requirement(key, "in", (value,)) if isinstance(value, str) else NOTHING
             for key, value in (labels or {}).items()]
    for said in map(_dict, expressions or ()):
        operator = OPERATORS.get(_string(said.get("operator")), "")
        values = _strings(said.get("values"))
        found.append(Requirement(_string(said.get("key")), operator, values)
                     if operator in ("exists", "!") or (operator and values) else NOTHING)
    return tuple(found)


def binding_of(obj: Object) -> Binding:
    metadata, ref = _dict(obj.get("metadata")), _dict(obj.get("roleRef"))
    subjects = tuple((_string(s.get("kind")), _string(s.get("name")), _string(s.get("namespace")))
                     for s in _dicts(obj.get("subjects")) if _string(s.get("name")))
    return Binding(_string(metadata.get("name")), _string(metadata.get("namespace")),
                   _string(ref.get("kind")), _string(ref.get("name")), subjects)


def quoted(text: str) -> str:
    """As Go's %q writes it.

    >>> quoted('a"b\\n\\x01')
    '"a\\\\"b\\\\n\\\\x01"'
    """
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + "".join(map(_escaped, text)) + '"'


ESCAPES = {'"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n",
           "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def _escaped(char: str) -> str:
    if char in ESCAPES:
        return ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 \
        else f"\\U{code:08x}"


# --- following the tables -------------------------------------------------------------------------

class _Parsed:
    """The objects of one table, parsed; `changed(key, old, new)` is told of each difference.
    Cost of `follow`: one comparison an object, and the parsing of those that are others."""

    def __init__(self, parse: Callable[[Object], Any],
                 changed: Callable[[Any, Any], None]) -> None:
        self.revision = -1
        self._parse, self._changed = parse, changed
        self._seen: dict[bytes, tuple[Stored, Any]] = {}

    def follow(self, table: Table) -> None:
        if self.revision == table.revision:
            return
        seen, state = self._seen, table.state
        for key, stored in state.items():
            before = seen.get(key)
            if before is None or before[0] is not stored:
                now = self._parse(orjson.loads(stored.body))
                seen[key] = stored, now
                self._changed(before[1] if before else None, now)
        if len(seen) != len(state):
            for key in [key for key in seen if key not in state]:
                self._changed(seen.pop(key)[1], None)
        self.revision = table.revision


Answer = tuple[str | None, dict[str, str] | None]     # reason for any name, reasons by name


class Grants:
    """The rules that hold for one user in one namespace, in order, and what is missing."""

    __slots__ = ("rules", "errors", "_answers", "_urls")

    def __init__(self, rules: list[tuple[Rule, str]], errors: list[str]) -> None:
        self.rules, self.errors = rules, errors
        self._answers: dict[tuple[str, str, str, str], Answer] = {}
        self._urls: dict[tuple[str, str], str | None] = {}

    def resource(self, verb: str, group: str, resource: str, subresource: str,
                 name: str) -> str | None:
        """Why it is allowed; None if it is not."""
        key = verb, group, resource, subresource
        answer = self._answers.get(key)
        if answer is None:
            answer = self._answer(key)
        anybody, named = answer
        return anybody if named is None else named.get(name, anybody)

    def _answer(self, key: tuple[str, str, str, str]) -> Answer:
        anybody, named = None, dict[str, str]()
        for rule, reason in self.rules:
            if rule.allows(*key):
                if not rule.names:
                    anybody = reason
                    break
                for name in rule.names:
                    named.setdefault(name, reason)
        if len(self._answers) >= MOST_ANSWERS:
            self._answers.clear()
        answer = self._answers[key] = anybody, named or None
        return answer

    def url(self, verb: str, path: str) -> str | None:
        """The same for a path that is no resource."""
        key = verb, path
        if key not in self._urls:
            if len(self._urls) >= MOST_ANSWERS:
                self._urls.clear()
            self._urls[key] = next((reason for rule, reason in self.rules
                                    if rule.allows_url(verb, path)), None)
        return self._urls[key]


class Policy:
    """All roles and bindings. `tables`: those of roles, clusterroles, rolebindings and
    clusterrolebindings, asked for when the first decision is. Cost of a decision for a user seen
    before: 1 us; of the first one after a change: one look at every role and binding."""

    def __init__(self, tables: Callable[[], tuple[Table, Table, Table, Table]]) -> None:
        self._source = tables
        self._tables: tuple[Table, ...] = ()
        self._stamp = -1
        self._roles: dict[tuple[str, str], Role] = {}          # ClusterRoles: namespace ""
        self._bound: dict[str, dict[Subject, dict[str, Binding]]] = {}
        self._aggregated: dict[str, tuple[Rule, ...]] = {}
        self._grants: dict[tuple[str, tuple[str, ...], str], Grants] = {}
        self._parsed = (
            _Parsed(lambda obj: (_string(_dict(obj.get("metadata")).get("namespace")),
                                 role_of(obj)), self._role),
            _Parsed(lambda obj: ("", role_of(obj)), self._role),
            _Parsed(binding_of, self._binding), _Parsed(binding_of, self._binding))

    def decide(self, user: User, target: Target) -> tuple[bool, str]:
        """Whether a rule allows it, and which; or which roles could not be found."""
        grants = self.grants(user, target.namespace)
        if target.resource:
            reason = grants.resource(target.verb, target.group, target.resource,
                                     target.subresource, target.name)
        else:
            reason = grants.url(target.verb, target.path)
        if reason is not None:
            return True, reason
        return False, f"RBAC: {aggregate(grants.errors)}" if grants.errors else ""

    def grants(self, user: User, namespace: str) -> Grants:
        """What a user may do in a namespace; "": everywhere."""
        tables = self._tables
        if not tables:
            tables = self._tables = self._source()
        one, two, three, four = tables
        stamp = one.revision + two.revision + three.revision + four.revision
        if stamp != self._stamp:              # revisions only grow, so a sum cannot hide a change
            self._follow(stamp)
        if namespace not in self._bound:
            namespace = ""                    # nothing is bound there: as everywhere
        key = user.name, user.groups, namespace
        grants = self._grants.get(key)
        return self._granted(key, user) if grants is None else grants

    def rules_of(self, kind: str, name: str, namespace: str) -> tuple[Rule, ...] | str:
        """The rules of a role that is referred to, or why there are none."""
        if kind == "ClusterRole":
            namespace = ""
        elif kind != "Role":
            return f"unsupported role reference kind: {quoted(kind)}"
        role = self._roles.get((namespace, name)) if kind == "ClusterRole" or namespace else None
        if role is None:
            return f"{kind.lower()}.{GROUP} {quoted(name)} not found"
        return role.rules if role.selectors is None else self._aggregate(role)

    # --- changes --------------------------------------------------------------------------------

    def _follow(self, stamp: int) -> None:
        for parsed, table in zip(self._parsed, self._tables, strict=True):
            parsed.follow(table)
        self._aggregated.clear()
        self._grants.clear()
        self._stamp = stamp

    def _role(self, old: tuple[str, Role] | None, new: tuple[str, Role] | None) -> None:
        if old is not None:
            self._roles.pop((old[0], old[1].name), None)
        if new is not None:
            self._roles[new[0], new[1].name] = new[1]

    def _binding(self, old: Binding | None, new: Binding | None) -> None:
        if old is not None and (keys := old.keys()):
            bound = self._bound.get(old.namespace, {})
            for subject in keys:
                bound.get(subject, {}).pop(old.name, None)
                if not bound.get(subject):
                    bound.pop(subject, None)
            if not bound:
                self._bound.pop(old.namespace, None)
        if new is not None and (keys := new.keys()):
            bound = self._bound.setdefault(new.namespace, {})
            for subject in keys:
                bound.setdefault(subject, {})[new.name] = new

    # --- computing ------------------------------------------------------------------------------

    def _granted(self, key: tuple[str, tuple[str, ...], str], user: User) -> Grants:
        subjects = [("User", user.name), *(("Group", group) for group in user.groups)]
        rules: list[tuple[Rule, str]] = []
        errors: list[str] = []
        for namespace in ("", key[2]) if key[2] else ("",):
            bound = self._bound.get(namespace, {})
            found: dict[str, Binding] = {}
            for subject in subjects:
                found.update(bound.get(subject, {}))
            for name in sorted(found):
                binding = found[name]
                granted = self.rules_of(binding.role_kind, binding.role_name, namespace)
                if isinstance(granted, str):
                    errors.append(granted)
                elif granted:
                    reason = binding.reason(user)
                    rules.extend((rule, reason) for rule in granted)
        if len(self._grants) >= MOST_GRANTS:
            self._grants.clear()
        grants = self._grants[key] = Grants(rules, errors)
        return grants

    def _aggregate(self, role: Role) -> tuple[Rule, ...]:
        known = self._aggregated.get(role.name)
        if known is None:
            cluster = [r for (namespace, _), r in sorted(self._roles.items()) if not namespace]
            known = self._aggregated[role.name] = aggregated(role, cluster)
        return known


def aggregated(role: Role, cluster_roles: Iterable[Role]) -> tuple[Rule, ...]:
    """The rules of all roles it selects, and of those that these select, each once, in order.

    Upstream comes to the same by writing rules again and again until nothing changes.
    """
    everyone = list(cluster_roles)
    rules: dict[Rule, None] = {}
    ways, visited = [role], {role.name}
    while ways:
        for selected in everyone:
            if selected.name in visited or not _selects(ways[0], selected):
                continue
            visited.add(selected.name)
            if selected.selectors is None:
                rules.update(dict.fromkeys(selected.rules))
            else:
                ways.append(selected)
        ways.pop(0)
    return tuple(rules)


def _selects(role: Role, other: Role) -> bool:
    return any(all(r.matches(other.labels) for r in selector) for selector in role.selectors or ())


def aggregate(errors: list[str]) -> str:
    """Several errors as one, each once, as apimachinery writes them."""
    once = list(dict.fromkeys(errors))
    return once[0] if len(once) == 1 else f"[{', '.join(once)}]"


# --- covering -------------------------------------------------------------------------------------

def uncovered(owned: Iterable[Rule], asked: Iterable[Rule]) -> list[Rule]:
    """What of `asked` goes beyond `owned`, broken down to one verb and resource a rule, then joined
    by verbs. Cost: number of atoms times number of owned rules."""
    owners = list(owned)
    missing: dict[Rule, list[str]] = {}
    for rule in asked:
        for atom in _atoms(rule):
            if not any(_covers(owner, atom) for owner in owners):
                what = atom if atom.urls else atom._replace(verbs=())
                missing.setdefault(what, []).append(atom.verbs[0])
    return [what._replace(verbs=tuple(verbs)) for what, verbs in missing.items()]


def _atoms(rule: Rule) -> Iterable[Rule]:
    names: list[tuple[str, ...]] = [(name,) for name in rule.names] or [()]
    for group in rule.groups:
        for resource in rule.resources:
            for verb in rule.verbs:
                for name in names:
                    yield Rule((verb,), (group,), (resource,), name)
    for url in rule.urls:
        for verb in rule.verbs:
            yield Rule((verb,), urls=(url,))


def _covers(owner: Rule, atom: Rule) -> bool:
    if "*" not in owner.verbs and atom.verbs[0] not in owner.verbs:
        return False
    if atom.urls:
        return any(url_covers(url, atom.urls[0]) for url in owner.urls)
    resource = atom.resources[0]
    star = f"*/{resource.partition('/')[2]}" if "/" in resource else "*"
    return (("*" in owner.groups or atom.groups[0] in owner.groups)
            and any(r in ("*", resource, star) for r in owner.resources)
            and (not owner.names or (bool(atom.names) and atom.names[0] in owner.names)))
