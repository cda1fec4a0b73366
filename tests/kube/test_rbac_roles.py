# SPDX-License-Identifier: Apache-2.0
"""Default roles, aggregation, and who may grant what."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import orjson
import pytest
from secured import RBAC, ask, made, named, role_ref, rule, server, subject

import kvcore
from kvcore.errors import StorageError
from kvcore.kube import aggregation, status
from kvcore.kube.aggregation import aggregate_once, keep_aggregated
from kvcore.kube.api import Api
from kvcore.kube.authorization import Authorizer, check_escalation
from kvcore.kube.bootstrap_roles import bootstrap, expected_bindings, expected_roles
from kvcore.kube.call import Call
from kvcore.kube.codec import object_of
from kvcore.kube.request import Request, Target, User
from kvcore.kube.security import secure
from kvcore.kube.status import ApiError

Object = dict[str, Any]
GROUP = "rbac.authorization.k8s.io"
USER = User("u", ("devs", "system:authenticated"))


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def allows(api: Api, user: User, target: Target) -> bool:
    assert isinstance(api.authorize, Authorizer)
    return api.authorize.decide(user, target).allowed


def stored(api: Api, plural: str, name: str, namespace: str = "") -> Object:
    resource = api.resources.of_path(GROUP, "v1", plural)
    assert resource is not None
    found = api.store.get(api.layout.key(resource, namespace, name))
    assert found is not None
    return object_of(found.value)


async def write(api: Api, plural: str, obj: Object) -> None:
    """As somebody would who reaches the store past the server."""
    resource = api.resources.of_path(GROUP, "v1", plural)
    assert resource is not None
    api.store.put(api.layout.key(resource, "", obj["metadata"]["name"]), api.codec.encode(obj))
    await api.feed.reach(api.store.revision)


# --- default roles --------------------------------------------------------------------------------

def test_default_roles_are_made_once_in_one_transaction() -> None:
    async def lives() -> None:
        async with server() as api:
            written = await bootstrap(api)
            assert written == len(expected_roles()) + len(expected_bindings()) == 43
            assert api.store.revision == 2
            assert await bootstrap(api) == 0
            assert await aggregate_once(api) == 0        # they come with their rules
            role = stored(api, "clusterroles", "cluster-admin")
            assert role["metadata"]["labels"] == {"kubernetes.io/bootstrapping": "rbac-defaults"}
            assert role["metadata"]["uid"]
            assert role["rules"] == [
                {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
                {"nonResourceURLs": ["*"], "verbs": ["*"]}]
    run(lives())


@pytest.mark.parametrize(("user", "target", "allowed"), [
    (User("x", ("system:masters",)), Target("delete", "", "api", "", "v1", "nodes"), True),
    (User("x", ("system:authenticated",)), Target("get", "/version"), True),
    (User("x", ("system:unauthenticated",)), Target("get", "/version"), True),
    (User("x", ("system:unauthenticated",)), Target("get", "/apis"), False),
    (User("system:kube-scheduler"), Target("create", "", "api", "", "v1", "pods", "binding"), True),
    (User("system:kube-scheduler"), Target("create", "", "api", "", "v1", "pods"), False),
    (User("system:kube-controller-manager"), Target("list", "", "apis", "x", "v1", "y"), True),
    (User("system:kube-proxy"), Target("watch", "", "api", "", "v1", "services"), True),
    (User("x", ("system:nodes",)), Target("list", "", "api", "", "v1", "pods"), False),
    (User("system:serviceaccount:kube-system:kube-dns"),
     Target("list", "", "api", "", "v1", "services"), True),
])
def test_default_rights(user: User, target: Target, allowed: bool) -> None:
    async def lives() -> None:
        async with server() as api:
            await bootstrap(api)
            assert allows(api, user, target) is allowed
    run(lives())


@pytest.mark.parametrize(("role", "verb", "resource", "allowed"), [
    ("view", "get", "pods", True), ("view", "get", "secrets", False),
    ("view", "create", "pods", False), ("edit", "create", "pods", True),
    ("edit", "get", "secrets", True), ("admin", "get", "secrets", True),
    ("admin", "get", "nodes", False)])
def test_view_edit_and_admin_in_a_namespace(role: str, verb: str, resource: str,
                                            allowed: bool) -> None:
    async def lives() -> None:
        async with server() as api:
            await bootstrap(api)
            await made(api, f"{RBAC}/namespaces/n1/rolebindings", named(
                "b", roleRef=role_ref(role), subjects=[subject("User", "u")]))
            target = Target(verb, "", "api", "", "v1", resource, "", "n1")
            assert allows(api, USER, target) is allowed
            roles = Target("create", "", "apis", GROUP, "v1", "rolebindings", "", "n1")
            assert allows(api, USER, roles) is (role == "admin")
    run(lives())


def test_what_was_taken_away_comes_back_and_what_was_added_stays() -> None:
    async def lives() -> None:
        async with server() as api:
            await bootstrap(api)
            mine = rule("get", "core", "secrets")
            basic = stored(api, "clusterroles", "system:basic-user")
            before = basic["metadata"]["uid"]
            basic["rules"] = [basic["rules"][0], mine]
            basic["metadata"]["labels"] = {"my": "label"}
            await write(api, "clusterroles", basic)
            binding = stored(api, "clusterrolebindings", "system:discovery")
            binding["subjects"] = [subject("User", "u")]
            await write(api, "clusterrolebindings", binding)
            other = stored(api, "clusterrolebindings", "system:monitoring")
            other["roleRef"]["name"] = "cluster-admin"
            await write(api, "clusterrolebindings", other)
            assert await bootstrap(api) == 3
            basic = stored(api, "clusterroles", "system:basic-user")
            assert mine in basic["rules"]
            assert {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"],
                    "resources": ["selfsubjectreviews"]} in basic["rules"]
            assert basic["metadata"]["labels"] == {"my": "label",
                                                   "kubernetes.io/bootstrapping": "rbac-defaults"}
            assert basic["metadata"]["uid"] == before
            subjects = stored(api, "clusterrolebindings", "system:discovery")["subjects"]
            assert [s["name"] for s in subjects] == ["u", "system:authenticated"]
            made_anew = stored(api, "clusterrolebindings", "system:monitoring")
            assert made_anew["roleRef"]["name"] == "system:monitoring"
            assert made_anew["metadata"]["uid"] != other["metadata"]["uid"]
            assert await bootstrap(api) == 0
    run(lives())


def test_what_is_not_to_be_updated_is_left_alone() -> None:
    async def lives() -> None:
        async with server() as api:
            await bootstrap(api)
            changes: list[tuple[str, str, Object]] = [
                ("clusterroles", "system:discovery", {"rules": []}),
                ("clusterrolebindings", "cluster-admin", {"roleRef": role_ref("view")})]
            for plural, name, changed in changes:
                obj = stored(api, plural, name) | changed
                obj["metadata"]["annotations"] = {
                    "rbac.authorization.kubernetes.io/autoupdate": "false"}
                await write(api, plural, obj)
            assert await bootstrap(api) == 0
    run(lives())


def test_several_servers_over_one_store_make_them_once() -> None:
    async def lives() -> None:
        with kvcore.open() as store:
            apis = [Api(store) for _ in range(3)]
            for api in apis:
                secure(api)
                await api.start()
            written = await asyncio.gather(*(bootstrap(api) for api in apis))
            assert sorted(written) == [0, 0, 43]
            for api in apis:
                await api.stop()
    run(lives())


# --- aggregation ----------------------------------------------------------------------------------

def test_stored_rules_of_aggregated_roles_follow() -> None:
    async def lives() -> None:
        async with server() as api:
            await bootstrap(api)
            task = asyncio.create_task(keep_aggregated(api))
            mine = rule("get", "example.com", "things")
            await made(api, f"{RBAC}/clusterroles", {"metadata": {"name": "things", "labels": {
                "rbac.authorization.k8s.io/aggregate-to-view": "true"}}, "rules": [mine]})
            resource = api.resources.of_path(GROUP, "v1", "clusterroles")
            assert resource is not None
            cacher = api.feed.cacher(resource)
            wanted = {"view", "edit", "admin"}
            while wanted - {n for n in wanted if mine in stored(api, "clusterroles", n)["rules"]}:
                await api.feed.reach(api.feed.revision + 1, mine=True)
            key = api.layout.key(resource, "", "things")
            api.store.delete(key)
            await api.feed.reach(api.store.revision)
            while any(mine in orjson.loads(e.body).get("rules", ())
                      for e in cacher.state.values()):
                await api.feed.reach(api.feed.revision + 1, mine=True)
            assert await aggregate_once(api) == 0        # and then it rests
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    run(lives())


def test_aggregation_survives_what_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that begins anew, or a write that fails, is not its end."""
    failures, looks = [status.too_many_requests("not now"), StorageError("no")], asyncio.Event()

    async def failing(api: Api) -> int:
        if failures:
            raise failures.pop()
        looks.set()
        return await aggregate_once(api)

    async def lives() -> None:
        async with server() as api:
            task = asyncio.create_task(keep_aggregated(api))
            await asyncio.wait_for(looks.wait(), 20)
            assert not failures and not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    monkeypatch.setattr(aggregation, "AGAIN_SECONDS", 0, raising=False)
    monkeypatch.setattr(aggregation, "aggregate_once", failing)
    run(lives())


def test_an_aggregated_role_has_the_rules_of_those_it_selects_before_they_are_stored() -> None:
    async def lives() -> None:
        async with server() as api:
            await made(api, f"{RBAC}/clusterroles", named("sum", aggregationRule={
                "clusterRoleSelectors": [{"matchLabels": {"in": "sum"}}]}, rules=[
                    rule("delete", "core", "pods")]))
            await made(api, f"{RBAC}/clusterroles", {"metadata": {
                "name": "part", "labels": {"in": "sum"}}, "rules": [rule("get", "core", "pods")]})
            await made(api, f"{RBAC}/clusterrolebindings", named(
                "b", roleRef=role_ref("sum"), subjects=[subject("User", "u")]))
            code, _ = await ask(api, "GET", "/api/v1/namespaces/n1/pods/x", user=USER)
            assert code == 404
            code, _ = await ask(api, "DELETE", "/api/v1/namespaces/n1/pods/x", user=USER)
            assert code == 403
            assert await aggregate_once(api) == 1
            assert stored(api, "clusterroles", "sum")["rules"] == [rule("get", "core", "pods")]
    run(lives())


# --- escalation -----------------------------------------------------------------------------------

HELD = ('user "u" (groups=["devs" "system:authenticated"]) is attempting to grant RBAC '
        "permissions not currently held:\n")


async def granting(api: Api, *more: Object, cluster: bool = False) -> None:
    """USER writes roles and bindings and reads pods, in n1 or everywhere."""
    rules = [rule("create update", GROUP, "roles rolebindings clusterroles clusterrolebindings"),
             rule("get", "core", "pods"), *more]
    await made(api, f"{RBAC}/clusterroles", named("granter", rules=rules))
    where = "clusterrolebindings" if cluster else "namespaces/n1/rolebindings"
    await made(api, f"{RBAC}/{where}", named("granter", roleRef=role_ref("granter"),
                                             subjects=[subject("User", "u")]))


def test_nobody_grants_what_he_has_not() -> None:
    async def lives() -> None:
        async with server() as api:
            await granting(api)
            roles = f"{RBAC}/namespaces/n1/roles"
            code, _ = await ask(api, "POST", roles, named("ok", rules=[
                rule("get", "core", "pods", "a b")]), user=USER)
            assert code == 201
            before = api.store.revision
            code, answer = await ask(api, "POST", roles, named("no", rules=[
                rule("get delete", "core", "pods secrets"),
                rule("list", "core", "pods", "x")]), user=USER)
            assert code == 403
            assert answer["message"] == (
                f'roles.{GROUP} "no" is forbidden: {HELD}'
                '{APIGroups:[""], Resources:["pods"], ResourceNames:["x"], Verbs:["list"]}\n'
                '{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}\n'
                '{APIGroups:[""], Resources:["secrets"], Verbs:["get" "delete"]}')
            assert answer["details"] == {"name": "no", "group": GROUP, "kind": "roles"}
            assert api.store.revision == before
            code, answer = await ask(api, "POST", roles, named("no", rules=[{
                "verbs": "rubbish"}]), user=USER)
            assert code == 400                # grants nothing, and is none
    run(lives())


def test_bindings_need_what_their_role_grants_or_bind() -> None:
    async def lives() -> None:
        async with server() as api:
            await granting(api)
            await made(api, f"{RBAC}/clusterroles", named("pods", rules=[
                rule("get", "core", "pods")]))
            await made(api, f"{RBAC}/clusterroles", named("big", rules=[rule("*", "*", "*")]))
            url = f"{RBAC}/namespaces/n1/rolebindings"

            async def bind(name: str, role: str, kind: str = "ClusterRole") -> tuple[int, str]:
                code, answer = await ask(api, "POST", url, named(
                    name, roleRef=role_ref(role, kind), subjects=[subject("User", "u")]), user=USER)
                return code, answer.get("message", "")
            assert await bind("a", "pods") == (201, "")
            assert await bind("b", "big") == (403, f'rolebindings.{GROUP} "b" is forbidden: {HELD}'
                                              '{APIGroups:["*"], Resources:["*"], Verbs:["*"]}')
            assert await bind("c", "none") == (404, f'rolebindings.{GROUP} "none" not found')
            assert (await bind("c", "none", "Role"))[0] == 404
            await made(api, f"{RBAC}/namespaces/n1/roles", named("binder", rules=[
                rule("bind", GROUP, "clusterroles", "big")]))
            await made(api, url, named("binder", roleRef=role_ref("binder", "Role"),
                                       subjects=[subject("User", "u")]))
            assert await bind("b", "big") == (201, "")
    run(lives())


def test_escalate_is_asked_for_and_aggregation_needs_everything() -> None:
    async def lives() -> None:
        for verbs, codes in (("create", [403, 403]), ("create escalate", [201, 201])):
            async with server() as api:
                await granting(api, rule(verbs, GROUP, "clusterroles"), cluster=True)
                big = named("big", rules=[rule("*", "*", "*")])
                sums = named("sum", rules=[], aggregationRule={
                    "clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]})
                got = [await ask(api, "POST", f"{RBAC}/clusterroles", obj, user=USER)
                       for obj in (big, sums)]
                assert [code for code, _ in got] == codes
                if codes[1] == 403:
                    assert got[1][1]["message"] == (
                        f'clusterroles.{GROUP} "sum" is forbidden: must have cluster-admin '
                        "privileges to use the aggregationRule")
    run(lives())


@pytest.mark.parametrize(("old", "new", "refused"), [
    ({"rules": [rule("*", "*", "*")]}, {"rules": [rule("*", "*", "*")]}, False),
    ({"rules": []}, {"rules": [rule("*", "*", "*")]}, True),
    ({"rules": [rule("*", "*", "*")], "metadata": {"name": "r", "labels": {"a": "b"}}},
     {"rules": [rule("*", "*", "*")]}, True),
    ({"rules": [rule("*", "*", "*")]}, {"rules": [rule("get", "core", "pods")]}, False),
    ({"rules": [rule("*", "*", "*")], "metadata": {"name": "r", "finalizers": ["x"]}},
     {"rules": [rule("*", "*", "*")]}, False),
    ({"rules": [], "aggregationRule": {"clusterRoleSelectors": [{}]}}, {"rules": []}, True),
])
def test_updates(old: Object, new: Object, refused: bool) -> None:
    async def lives() -> None:
        async with server() as api:
            await granting(api, cluster=True)
            resource = api.resources.of_path(GROUP, "v1", "clusterroles")
            assert resource is not None
            target = Target("update", "", "apis", GROUP, "v1", "clusterroles", "", "", "r")
            call = Call(api, Request("PUT", ""), target, resource, USER, "UPDATE", "", "r",
                        {"metadata": {"name": "r"}} | new, {"metadata": {"name": "r"}} | old)
            if not refused:
                return check_escalation(call)
            with pytest.raises(ApiError) as error:
                check_escalation(call)
            assert error.value.code == 403
    run(lives())
