# SPDX-License-Identifier: Apache-2.0
"""RBAC: the compiled policy beside a walk over all roles and bindings, while these change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from secured import RBAC, ask, made, named, role_ref, rule, server, subject

from kvcore.kube.rbac import MOST_ANSWERS, MOST_GRANTS, Policy, Rule, quoted, uncovered
from kvcore.kube.request import Target, User

Object = dict[str, Any]

VERBS, GROUPS = ["get", "list", "*"], ["", "apps", "*"]
RESOURCES = ["pods", "pods/log", "*/log", "*", "pods/*", "nodes"]
URLS = ["/x", "/x/y", "/x*", "/x/*", "*", "/*/y"]
NAMES, NAMESPACES, ROLES, BINDINGS = ["a", "b"], ["n1", "n2"], ["r1", "r2", "r3"], ["b1", "b2"]
USERS = [User("u1"), User("u2", ("g1",)), User("system:serviceaccount:n1:a", ("g2", "g1")),
         User("system:serviceaccount:n2:a")]
REQUESTS = [
    *(Target(verb, "", "api", group, "v1", "pods", subresource, namespace, name)
      for verb in ("get", "list") for group in ("", "apps") for subresource in ("", "log")
      for namespace in ("", "n1", "n2") for name in ("", "a")),
    *(Target(verb, path) for verb in ("get", "list") for path in ("/x", "/x/y", "/xx", "/q/y"))]


# --- the model: what upstream's documentation says, word for word ------------------------------

def model_rule(obj: Object, target: Target) -> bool:
    def holds(field: str, *wanted: str) -> bool:
        return any(w in (obj.get(field) or []) for w in wanted)

    if not holds("verbs", target.verb, "*"):
        return False
    if not target.resource:
        return any(url == target.path or (url[-1:] == "*" and target.path.startswith(
            url.rstrip("*"))) for url in obj.get("nonResourceURLs") or [])
    wanted = ["*", target.resource]
    if target.subresource:
        wanted = ["*", f"{target.resource}/{target.subresource}", f"*/{target.subresource}"]
    names = obj.get("resourceNames") or []
    return (holds("apiGroups", target.group, "*") and holds("resources", *wanted)
            and (not names or target.name in names))


@dataclass
class Model:
    """Four dictionaries, by namespace and name, and what they mean."""

    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)

    def rules(self, kind: str, namespace: str, name: str, seen: tuple[str, ...] = ()
              ) -> list[Object] | None:
        where = "" if kind == "ClusterRole" else namespace
        obj = self.objects.get((kind, where, name)) if kind == "ClusterRole" or where else None
        if obj is None:
            return None
        if "aggregationRule" not in obj:
            return list(obj["rules"])
        found: list[Object] = []
        for selector in obj["aggregationRule"]["clusterRoleSelectors"]:
            for (other, _, label), role in sorted(self.objects.items()):
                labels = role["metadata"].get("labels", {})
                if other == "ClusterRole" and label not in (name, *seen) and all(
                        labels.get(k) == v for k, v in selector["matchLabels"].items()):
                    found += self.rules("ClusterRole", "", label, (*seen, name)) or []
        return found

    def applies(self, binding: Object, user: User, namespace: str) -> bool:
        for said in binding.get("subjects") or []:
            if said["kind"] == "User" and said["name"] == user.name:
                return True
            if said["kind"] == "Group" and said["name"] in user.groups:
                return True
            where = said.get("namespace") or namespace
            if said["kind"] == "ServiceAccount" and where and (
                    user.name == f"system:serviceaccount:{where}:{said['name']}"):
                return True
        return False

    def allows(self, user: User, target: Target) -> bool:
        for (kind, where, _), binding in self.objects.items():
            here = kind == "ClusterRoleBinding" or (
                kind == "RoleBinding" and target.namespace and where == target.namespace)
            if here and self.applies(binding, user, where):
                ref = binding["roleRef"]
                rules = self.rules(ref["kind"], where, ref["name"])
                if rules and any(model_rule(obj, target) for obj in rules):
                    return True
        return False


# --- tables without a store -----------------------------------------------------------------------

@dataclass
class Stored:
    body: bytes


@dataclass
class Table:
    state: dict[bytes, Stored] = field(default_factory=dict)
    revision: int = 0


class Tables:
    """What four cachers would show of a model."""

    KINDS = ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")

    def __init__(self) -> None:
        self.model, self.clock = Model(), 0
        self.tables = {kind: Table() for kind in self.KINDS}

    def source(self) -> tuple[Table, Table, Table, Table]:
        one, two, three, four = self.tables.values()
        return one, two, three, four

    def put(self, kind: str, namespace: str, name: str, obj: Object | None) -> None:
        self.clock += 1
        table, key = self.tables[kind], f"{namespace}/{name}".encode()
        if obj is None:
            if self.model.objects.pop((kind, namespace, name), None) is None:
                return
            del table.state[key]
        else:
            metadata = {"name": name, "labels": obj.pop("labels", {})}
            obj["metadata"] = metadata | ({"namespace": namespace} if namespace else {})
            self.model.objects[kind, namespace, name] = obj
            table.state[key] = Stored(orjson.dumps(obj))
        table.revision = self.clock


# --- strategies -----------------------------------------------------------------------------------

def some(values: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


labels = st.dictionaries(st.sampled_from(["l1", "l2"]), st.just("x"))
rules_ = st.one_of(
    st.fixed_dictionaries({"verbs": some(VERBS), "apiGroups": some(GROUPS),
                           "resources": some(RESOURCES)},
                          optional={"resourceNames": some(NAMES)}),
    st.fixed_dictionaries({"verbs": some(VERBS), "nonResourceURLs": some(URLS)}))
plain = st.fixed_dictionaries({"rules": st.lists(rules_, max_size=2), "labels": labels})
aggregating = st.fixed_dictionaries({
    "rules": st.lists(rules_, max_size=1), "labels": labels,
    "aggregationRule": st.fixed_dictionaries({"clusterRoleSelectors": st.lists(
        st.fixed_dictionaries({"matchLabels": st.dictionaries(
            st.sampled_from(["l1", "l2"]), st.just("x"), min_size=1)}), max_size=2)})})
subjects_ = st.one_of(
    st.builds(lambda n: subject("User", n), st.sampled_from([u.name for u in USERS])),
    st.builds(lambda n: subject("Group", n), st.sampled_from(["g1", "g2"])),
    st.builds(lambda n: subject("ServiceAccount", "a", n), st.sampled_from(["", *NAMESPACES])))
bindings = st.fixed_dictionaries({
    "subjects": st.lists(subjects_, max_size=2),
    "roleRef": st.builds(role_ref, st.sampled_from(ROLES),
                         st.sampled_from(["ClusterRole", "ClusterRole", "Role"]))})
PLACES: dict[tuple[str, str, str], st.SearchStrategy[Object]] = {
    **{("Role", namespace, name): plain for namespace in NAMESPACES for name in ROLES},
    **{("ClusterRole", "", name): st.one_of(plain, aggregating) for name in ROLES},
    **{("RoleBinding", namespace, name): bindings
       for namespace in NAMESPACES for name in BINDINGS},
    **{("ClusterRoleBinding", "", name): bindings for name in BINDINGS}}
changes = st.one_of([st.tuples(st.just(place), st.one_of(objects, objects, st.none()))
                     for place, objects in PLACES.items()])


@given(st.fixed_dictionaries({}, optional=PLACES),
       st.lists(changes, max_size=6))
def test_the_compiled_policy_decides_as_a_walk_over_everything(begin: Any, changed: Any) -> None:
    tables = Tables()
    policy = Policy(tables.source)
    for (kind, namespace, name), obj in begin.items():
        tables.put(kind, namespace, name, dict(obj))
    for place, obj in [(None, None), *changed]:
        if place is not None:
            kind, namespace, name = place
            tables.put(kind, namespace, name, dict(obj) if obj is not None else None)
        for user in USERS:
            for target in REQUESTS:
                allowed, reason = policy.decide(user, target)
                assert allowed == tables.model.allows(user, target), (user, target, reason)
                assert not allowed or reason.startswith("RBAC: allowed by ")


def test_a_service_account_of_another_namespace_is_not_that_of_ones_own() -> None:
    tables = Tables()
    tables.put("ClusterRole", "", "r1", {"rules": [rule("get", "core", "pods")]})
    tables.put("RoleBinding", "n1", "b1", {"roleRef": role_ref("r1"), "subjects": [
        subject("ServiceAccount", "a", "n2")]})
    policy, pods = Policy(tables.source), Target("get", "", "api", "", "v1", "pods", "", "n1")
    assert policy.decide(User("system:serviceaccount:n2:a"), pods)[0]
    assert not policy.decide(User("system:serviceaccount:n1:a"), pods)[0]


def test_an_aggregated_role_follows_those_it_selects() -> None:
    tables = Tables()
    tables.put("ClusterRole", "", "r1", {"rules": [], "aggregationRule": {
        "clusterRoleSelectors": [{"matchLabels": {"l1": "x"}}]}})
    tables.put("ClusterRoleBinding", "", "b1", {
        "subjects": [subject("User", "u1")], "roleRef": role_ref("r1")})
    policy, pods = Policy(tables.source), Target("get", "", "api", "", "v1", "pods")
    assert not policy.decide(User("u1"), pods)[0]
    tables.put("ClusterRole", "", "r2", {"rules": [rule("get", "core", "pods")],
                                         "labels": {"l1": "x"}})
    assert policy.decide(User("u1"), pods)[0]
    tables.put("ClusterRole", "", "r2", {"rules": [rule("get", "core", "pods")]})
    assert not policy.decide(User("u1"), pods)[0]


def test_the_first_binding_by_name_is_the_reason() -> None:
    tables = Tables()
    for name, names in (("b2", "a b"), ("b1", "a")):
        tables.put("ClusterRole", "", f"r-{name}", {"rules": [rule("get", "core", "pods", names)]})
        tables.put("ClusterRoleBinding", "", name, {
            "roleRef": role_ref(f"r-{name}"), "subjects": [subject("User", "u1")]})
    policy = Policy(tables.source)
    for name, binding in (("a", "b1"), ("b", "b2")):
        _, reason = policy.decide(User("u1"), Target("get", "", "api", "", "v1", "pods", "", "",
                                                     name))
        assert f'ClusterRoleBinding "{binding}"' in reason


def test_the_model_itself_says_no_and_yes() -> None:
    tables = Tables()
    tables.put("ClusterRole", "", "r1", {"rules": [rule("get", "core", "pods", "a")]})
    tables.put("RoleBinding", "n1", "b1", {"subjects": [subject("User", "u1")],
                                           "roleRef": role_ref("r1")})
    allowed = Target("get", "", "api", "", "v1", "pods", "", "n1", "a")
    assert tables.model.allows(User("u1"), allowed)
    assert not tables.model.allows(User("u2"), allowed)
    assert not tables.model.allows(User("u1"), Target("get", "", "api", "", "v1", "pods", "",
                                                      "n2", "a"))


@pytest.mark.parametrize(("verb", "path", "allowed"), [
    ("get", "n1/pods", True), ("get", "n1/pods/any", True), ("get", "n2/pods", False),
    ("get", "/pods", False), ("delete", "n1/pods", False), ("get", "n1/deployments.apps", False),
    ("get", "n1/pods.apps", False), ("get", "n1/pods/any/exec", False),
    ("get", "n1/pods/any/log", True), ("get", "n1/services/any/log", True),
    ("get", "n1/secrets/a", True), ("get", "n1/secrets/b", False), ("get", "n1/secrets", False),
])
def test_each_part_of_a_rule_counts(verb: str, path: str, allowed: bool) -> None:
    """Namespace of the binding, verb, group, resource, subresource, name."""
    tables = Tables()
    tables.put("ClusterRole", "", "r1", {"rules": [
        rule("get", "core", "pods */log"), rule("get", "core", "secrets", "a")]})
    tables.put("RoleBinding", "n1", "b1", {
        "subjects": [subject("User", "u1")], "roleRef": role_ref("r1")})
    policy = Policy(tables.source)
    namespace, resource, name, sub = [*path.split("/"), "", ""][:4]
    resource, _, group = resource.partition(".")
    target = Target(verb, "", "apis" if group else "api", group, "v1", resource, sub, namespace,
                    name)
    assert policy.decide(User("u1"), target)[0] is allowed
    tables.put("RoleBinding", "n1", "b1", None)
    assert not policy.decide(User("u1"), target)[0]


# --- what the tables may do to memory, and rubbish in objects -------------------------------------

def policy_with(kind: str, obj: Object, binding: Object | None = None) -> Policy:
    tables = Tables()
    tables.put(kind, "", "r1", obj)
    tables.put("ClusterRoleBinding", "", "b1", binding or {
        "subjects": [subject("User", "u1")], "roleRef": role_ref("r1")})
    return Policy(tables.source)


def test_what_clients_make_up_fills_no_memory() -> None:
    policy = policy_with("ClusterRole", {"rules": [rule("get", "core", "pods")]})
    for i in range(MOST_ANSWERS + 100):
        policy.decide(User("u1"), Target("get", "", "api", "", "v1", f"r{i}"))
        policy.decide(User("u1"), Target("get", f"/{i}"))
        policy.decide(User("u1"), Target("get", "", "api", "", "v1", "pods", "", f"n{i}"))
    grants = policy.grants(User("u1"), "")
    assert len(grants._answers) <= MOST_ANSWERS
    assert len(grants._urls) <= MOST_ANSWERS
    assert len(policy._grants) == 1           # a namespace with no bindings is as everywhere
    for i in range(MOST_GRANTS + 1):
        policy.decide(User(f"u{i}"), Target("get", "/"))
    assert len(policy._grants) <= MOST_GRANTS


@pytest.mark.parametrize("obj", [
    {"rules": None}, {"rules": "get"}, {"rules": [None, 3, "x"]},
    {"rules": [{"verbs": "get", "apiGroups": [""], "resources": ["pods"]}]},
    {"rules": [{"verbs": ["get"], "apiGroups": "*", "resources": "*"}]},
    {"rules": [{"verbs": [["get"]], "apiGroups": [""], "resources": ["pods"]}]},
    {"rules": [], "aggregationRule": {"clusterRoleSelectors": "x"}},
    {"rules": [], "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": ["l1"]}]}},
    {"rules": [], "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"l1": 1}}]}},
    {"rules": [], "aggregationRule": {"clusterRoleSelectors": [
        {"matchExpressions": [{"key": "l1", "operator": "Is", "values": ["x"]}]}]}},
    {"rules": [], "aggregationRule": {"clusterRoleSelectors": [{"matchExpressions": [None]}]}},
])
def test_rubbish_grants_nothing(obj: Object) -> None:
    tables = Tables()
    tables.put("ClusterRole", "", "r1", obj)
    tables.put("ClusterRole", "", "r2", {"rules": [rule("*", "*", "*")], "labels": {"l1": "x"}})
    tables.put("ClusterRoleBinding", "", "b1", {
        "subjects": [subject("User", "u1")], "roleRef": role_ref("r1")})
    target = Target("get", "", "api", "", "v1", "pods")
    assert Policy(tables.source).decide(User("u1"), target) == (False, "")


@pytest.mark.parametrize("binding", [
    {"subjects": "u1", "roleRef": role_ref("r1")}, {"subjects": [None], "roleRef": role_ref("r1")},
    {"subjects": [{"kind": "User", "name": ["u1"]}], "roleRef": role_ref("r1")},
    {"subjects": [subject("ServiceAccount", "a")], "roleRef": role_ref("r1")},
])
def test_a_binding_of_rubbish_binds_nobody(binding: Object) -> None:
    policy = policy_with("ClusterRole", {"rules": [rule("*", "*", "*")]}, binding)
    for name in ("u1", "system:serviceaccount::a", ""):
        assert not policy.decide(User(name), Target("get", "", "api", "", "v1", "pods"))[0]


def test_match_expressions_select_as_label_selectors_do() -> None:
    def allowed(*expressions: Object) -> bool:
        tables = Tables()
        tables.put("ClusterRole", "", "r1", {"rules": [], "aggregationRule": {
            "clusterRoleSelectors": [{"matchExpressions": list(expressions)}]}})
        tables.put("ClusterRole", "", "r2", {"rules": [rule("get", "core", "pods")],
                                             "labels": {"l1": "x"}})
        tables.put("ClusterRoleBinding", "", "b1", {
            "subjects": [subject("User", "u1")], "roleRef": role_ref("r1")})
        return Policy(tables.source).decide(User("u1"), Target(
            "get", "", "api", "", "v1", "pods"))[0]

    assert allowed({"key": "l1", "operator": "In", "values": ["y", "x"]})
    assert allowed({"key": "l2", "operator": "NotIn", "values": ["x"]})
    assert allowed({"key": "l1", "operator": "Exists"})
    assert allowed({"key": "l2", "operator": "DoesNotExist"})
    assert not allowed({"key": "l1", "operator": "Exists"}, {"key": "l2", "operator": "Exists"})


# --- words ----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "said"), [
    ("a", '"a"'), ('"', '"\\""'), ("\\", '"\\\\"'), ("\n\t\0", '"\\n\\t\\x00"'), ("é", '"é"'),
    ("\u200b", '"\\u200b"'), ("\U000e0001", '"\\U000e0001"'), ("", '""'),
])
def test_names_are_quoted_as_go_quotes_them(text: str, said: str) -> None:
    assert quoted(text) == said


def test_reasons_name_the_binding_the_role_and_the_subject() -> None:
    tables = Tables()
    tables.put("ClusterRole", "", "r1", {"rules": [rule("get", "core", "pods")]})
    tables.put("RoleBinding", "n1", "b1", {"roleRef": role_ref("r1"), "subjects": [
        subject("Group", "g1"), subject("ServiceAccount", "a")]})
    tables.put("RoleBinding", "n1", "b2", {"roleRef": role_ref("r9", "Role"),
                                           "subjects": [subject("Group", "g1")]})
    tables.put("ClusterRoleBinding", "", "b1", {"roleRef": role_ref("r9"),
                                                "subjects": [subject("User", "u1")]})
    policy = Policy(tables.source)
    pods = Target("get", "", "api", "", "v1", "pods", "", "n1")
    assert policy.decide(User("system:serviceaccount:n1:a"), pods) == (
        True, 'RBAC: allowed by RoleBinding "b1/n1" of ClusterRole "r1" to ServiceAccount "a/n1"')
    assert policy.decide(User("u1", ("g1",)), pods)[1] == (
        'RBAC: allowed by RoleBinding "b1/n1" of ClusterRole "r1" to Group "g1"')
    nodes = Target("get", "", "api", "", "v1", "nodes", "", "n1")
    assert policy.decide(User("u1", ("g1",)), nodes) == (
        False, 'RBAC: [clusterrole.rbac.authorization.k8s.io "r9" not found, '
        'role.rbac.authorization.k8s.io "r9" not found]')


# --- covering -------------------------------------------------------------------------------------

def covers(owned: Rule, asked: Rule) -> bool:
    return not uncovered([owned], [asked])


@pytest.mark.parametrize(("owned", "asked", "yes"), [
    (Rule(("*",), ("*",), ("*",)), Rule(("get",), ("",), ("pods",), ("a",)), True),
    (Rule(("get",), ("",), ("pods",)), Rule(("get",), ("",), ("pods",), ("a",)), True),
    (Rule(("get",), ("",), ("pods",), ("a",)), Rule(("get",), ("",), ("pods",)), False),
    (Rule(("get",), ("",), ("pods",), ("a",)), Rule(("get",), ("",), ("pods",), ("b",)), False),
    (Rule(("get",), ("",), ("*/log",)), Rule(("get",), ("",), ("pods/log",)), True),
    (Rule(("get",), ("",), ("*/log",)), Rule(("get",), ("",), ("pods",)), False),
    (Rule(("get",), ("",), ("pods",)), Rule(("*",), ("",), ("pods",)), False),
    (Rule(("get",), ("",), ("pods",)), Rule(("get",), ("*",), ("pods",)), False),
    (Rule(("get",), urls=("/x*",)), Rule(("get",), urls=("/x/y", "/x*")), True),
    (Rule(("get",), urls=("/x",)), Rule(("get",), urls=("/x*",)), False),
    (Rule(("*",), ("*",), ("*",)), Rule(("get",), urls=("/x",)), False),
])
def test_covering(owned: Rule, asked: Rule, yes: bool) -> None:
    assert covers(owned, asked) is yes


# --- through a server -----------------------------------------------------------------------------

def run(test: Callable[[], Any]) -> None:
    asyncio.run(test())


def test_a_change_counts_for_the_next_request() -> None:
    async def lives() -> None:
        user = User("u1", ("system:authenticated",))
        async with server() as api:
            assert (await ask(api, "GET", "/api/v1/namespaces/n1/pods", user=user))[0] == 403
            await made(api, f"{RBAC}/clusterroles", named("r", rules=[
                rule("list", "core", "pods")]))
            await made(api, f"{RBAC}/namespaces/n1/rolebindings", named(
                "b", roleRef=role_ref("r"), subjects=[subject("User", "u1")]))
            assert (await ask(api, "GET", "/api/v1/namespaces/n1/pods", user=user))[0] == 200
            assert (await ask(api, "GET", "/api/v1/namespaces/n2/pods", user=user))[0] == 403
            key = api.layout.key(api.resources.of_path(  # type: ignore[arg-type]
                "rbac.authorization.k8s.io", "v1", "rolebindings"), "n1", "b")
            api.store.delete(key)
            await api.feed.reach(api.store.revision)
            assert (await ask(api, "GET", "/api/v1/namespaces/n1/pods", user=user))[0] == 403
    run(lives)
