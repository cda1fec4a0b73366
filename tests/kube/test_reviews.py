# SPDX-License-Identifier: Apache-2.0
"""Access reviews, refusals in upstream's words, and paths that must not fool authorisation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import orjson
import pytest
from secured import RBAC, ask, made, named, role_ref, rule, server, subject

from kvcore.kube.bootstrap_roles import bootstrap
from kvcore.kube.request import ADMIN, ANONYMOUS, Request, User
from kvcore.kube.reviews import KINDS, REVIEWS

Object = dict[str, Any]
AUTHORIZATION = "/apis/authorization.k8s.io/v1"
AUTHENTICATION = "/apis/authentication.k8s.io/v1"
ACCESS = f"{AUTHORIZATION}/subjectaccessreviews"
USER = User("u", ("devs", "system:authenticated"), "7", {"k": ("v",)})


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


async def rights(api: Any) -> None:
    """USER reads pods of n1 and one config map there, and what everybody may."""
    await bootstrap(api)
    await made(api, f"{RBAC}/namespaces/n1/roles", named("reader", rules=[
        rule("get list", "core", "pods pods/log"), rule("get", "core", "configmaps", "one")]))
    await made(api, f"{RBAC}/namespaces/n1/rolebindings", named(
        "b1", roleRef=role_ref("reader", "Role"), subjects=[subject("User", "u")]))


async def review(api: Any, spec: Object, url: str = ACCESS, user: User = ADMIN
                 ) -> tuple[int, Object]:
    return await ask(api, "POST", url, {"spec": spec}, user=user)


# --- refusals -------------------------------------------------------------------------------------

@pytest.mark.parametrize(("method", "path", "message", "details"), [
    ("GET", "/api/v1/pods", 'pods is forbidden: User "u" cannot list resource "pods" in API group '
     '"" at the cluster scope', {"kind": "pods"}),
    ("GET", "/api/v1/namespaces/n2/pods/x", 'pods "x" is forbidden: User "u" cannot get resource '
     '"pods" in API group "" in the namespace "n2"', {"name": "x", "kind": "pods"}),
    ("GET", "/api/v1/namespaces/n1/pods/x/status", 'pods "x" is forbidden: User "u" cannot get '
     'resource "pods/status" in API group "" in the namespace "n1"',
     {"name": "x", "kind": "pods"}),
    ("GET", "/apis/apps/v1/namespaces/n1/deployments?watch=1", "deployments.apps is forbidden: "
     'User "u" cannot watch resource "deployments" in API group "apps" in the namespace "n1"',
     {"group": "apps", "kind": "deployments"}),
    ("DELETE", "/api/v1/namespaces/n1/pods", 'pods is forbidden: User "u" cannot deletecollection '
     'resource "pods" in API group "" in the namespace "n1"', {"kind": "pods"}),
    ("GET", "/api/v1/namespaces/n1/configmaps/two", 'configmaps "two" is forbidden: User "u" '
     'cannot get resource "configmaps" in API group "" in the namespace "n1"',
     {"name": "two", "kind": "configmaps"}),
    ("GET", "/metrics", 'forbidden: User "u" cannot get path "/metrics"', {}),
    ("GET", "/<b>&", 'forbidden: User "u" cannot get path "/&lt;b&gt;&amp;"', {}),
    ("GET", "/api/v1/namespaces/n1/unknown", 'unknown is forbidden: User "u" cannot list resource '
     '"unknown" in API group "" in the namespace "n1"', {"kind": "unknown"}),
    ("GET", "/api/v1/nodes/n/proxy/metrics/a", 'nodes "n" is forbidden: User "u" cannot get '
     'resource "nodes/proxy" in API group "" at the cluster scope', {"name": "n", "kind": "nodes"}),
    ("OPTIONS", "/api/v1/pods", 'pods is forbidden: User "u" cannot  resource "pods" in API group '
     '"" at the cluster scope', {"kind": "pods"}),
])
def test_refusals_in_upstreams_words(method: str, path: str, message: str, details: Object) -> None:
    async def lives() -> None:
        async with server() as api:
            await rights(api)
            code, answer = await ask(api, method, path, user=USER)
            assert answer == {"kind": "Status", "apiVersion": "v1", "metadata": {},
                              "status": "Failure", "message": message, "reason": "Forbidden",
                              "details": details, "code": 403}
            assert code == 403
    run(lives())


def test_roles_that_are_missing_are_named_at_the_end() -> None:
    async def lives() -> None:
        async with server() as api:
            await made(api, f"{RBAC}/clusterrolebindings", named(
                "b", roleRef=role_ref("gone"), subjects=[subject("User", "u")]))
            _, answer = await ask(api, "GET", "/api/v1/nodes", user=USER)
            assert answer["message"].endswith(
                'at the cluster scope: RBAC: clusterrole.rbac.authorization.k8s.io "gone" not '
                "found")
    run(lives())


@pytest.mark.parametrize(("path", "code"), [
    ("/api/v1/namespaces/n1/pods", 200), ("/api/v1/namespaces/n1/configmaps/one", 404),
    ("/api/v1/namespaces/n1/pods/x", 404), ("/healthz", 200), ("/version", 404)])
def test_what_is_allowed_goes_on(path: str, code: int) -> None:
    async def lives() -> None:
        async with server() as api:
            await rights(api)
            assert (await ask(api, "GET", path, user=USER))[0] == code
    run(lives())


@pytest.mark.parametrize(("selector", "code"), [
    ("metadata.name=one", 200), ("metadata.name==one", 200), ("metadata.name=two", 403),
    ("metadata.name!=one", 403), ("metadata.name=", 403), ("metadata.name=one/two", 403),
    ("nonsense", 403), ("", 403)])
def test_a_list_of_one_object_is_allowed_by_its_name(selector: str, code: int) -> None:
    async def lives() -> None:
        async with server() as api:
            await made(api, f"{RBAC}/clusterroles", named("one", rules=[
                rule("list watch deletecollection", "core", "configmaps", "one one/two")]))
            await made(api, f"{RBAC}/clusterrolebindings", named(
                "one", roleRef=role_ref("one"), subjects=[subject("User", "u")]))
            url = f"/api/v1/namespaces/n1/configmaps?fieldSelector={selector}"
            assert (await ask(api, "GET", url, user=USER))[0] == code
            assert (await ask(api, "DELETE", url, user=USER))[0] == 403
    run(lives())


# --- paths that say one thing to authorisation and another to a verb ------------------------------

@pytest.mark.parametrize(("method", "path"), [
    ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/n1/clusterroles"),
    ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/n1/clusterrolebindings"),
    ("GET", "/api/v1/namespaces/n1/nodes"), ("GET", "/api/v1/namespaces/n1/nodes/m"),
    ("GET", "/api/v1/namespaces/n1/pods/p/unknown"), ("POST", "/api/v1/namespaces/n1/pods/p/foo"),
    ("POST", f"{AUTHORIZATION}/namespaces/n1/subjectaccessreviews"),
    ("POST", f"{AUTHORIZATION}/localsubjectaccessreviews"),
])
def test_cluster_resources_cannot_be_reached_through_a_namespace(method: str, path: str) -> None:
    """Who may do all in one namespace must not make roles for the cluster."""
    async def lives() -> None:
        async with server() as api:
            await rights(api)
            await made(api, f"{RBAC}/namespaces/n1/rolebindings", named(
                "all", roleRef=role_ref("cluster-admin"), subjects=[subject("User", "u")]))
            before = api.store.revision
            code, _ = await ask(api, method, path, named("x"), user=USER)
            assert code == (403 if path.endswith("/v1/localsubjectaccessreviews") else 404)
            assert api.store.revision == before
    run(lives())


@pytest.mark.parametrize("path", ["/api/v1/namespaces/n1/pods/p/status",
                                  "/api/v1/namespaces/n1/pods/p"])
def test_a_post_to_something_named_creates_nothing(path: str) -> None:
    async def lives() -> None:
        async with server() as api:
            code, _ = await ask(api, "POST", path, named("p"))
            assert (code, api.store.revision) == (405, 1)
    run(lives())


def test_a_namespace_is_found_by_its_own_path() -> None:
    async def lives() -> None:
        async with server() as api:
            await made(api, "/api/v1/namespaces", named("n1"))
            code, answer = await ask(api, "GET", "/api/v1/namespaces/n1")
            assert (code, answer["kind"]) == (200, "Namespace")
    run(lives())


# --- access reviews -------------------------------------------------------------------------------

PODS = {"verb": "get", "resource": "pods", "namespace": "n1"}
REASON = 'RBAC: allowed by RoleBinding "b1/n1" of Role "reader" to User "u"'


def without_empty(spec: Object) -> Object:
    """As a decoder and an encoder leave it."""
    return {key: without_empty(value) if isinstance(value, dict) else value
            for key, value in spec.items() if value != ""}


@pytest.mark.parametrize(("spec", "status"), [
    ({"user": "u", "resourceAttributes": PODS}, {"allowed": True, "reason": REASON}),
    ({"user": "u", "resourceAttributes": PODS | {"subresource": "log"}},
     {"allowed": True, "reason": REASON}),
    ({"user": "u", "resourceAttributes": PODS | {"subresource": "exec"}}, {"allowed": False}),
    ({"user": "u", "resourceAttributes": PODS | {"resource": "configmaps", "name": "one"}},
     {"allowed": True, "reason": REASON}),
    ({"user": "u", "resourceAttributes": PODS | {"resource": "configmaps"}}, {"allowed": False}),
    ({"user": "u", "resourceAttributes": PODS | {"namespace": ""}}, {"allowed": False}),
    ({"groups": ["system:masters"], "resourceAttributes": PODS}, {"allowed": True}),
    ({"user": "x", "groups": ["devs"], "nonResourceAttributes": {"path": "/x", "verb": "get"}},
     {"allowed": False}),
    ({"user": "x", "groups": ["system:authenticated"],
      "nonResourceAttributes": {"path": "/api/v1", "verb": "get"}}, {
          "allowed": True, "reason": 'RBAC: allowed by ClusterRoleBinding "system:discovery" of '
          'ClusterRole "system:discovery" to Group "system:authenticated"'}),
])
def test_may_they(spec: Object, status: Object) -> None:
    async def lives() -> None:
        async with server() as api:
            await rights(api)
            before = api.store.revision
            code, answer = await review(api, spec)
            assert (code, answer["status"]) == (201, status)
            assert answer["kind"] == "SubjectAccessReview"
            assert answer["spec"] == without_empty(spec)
            assert api.store.revision == before
    run(lives())


def test_may_i_and_may_they_here() -> None:
    async def lives() -> None:
        async with server() as api:
            await rights(api)
            mine = f"{AUTHORIZATION}/selfsubjectaccessreviews"
            _, answer = await review(api, {"resourceAttributes": PODS}, mine, USER)
            assert answer["status"] == {"allowed": True, "reason": REASON}
            code, _ = await review(api, {"resourceAttributes": PODS}, mine, ANONYMOUS)
            assert code == 403
            here = f"{AUTHORIZATION}/namespaces/n1/localsubjectaccessreviews"
            _, answer = await review(api, {"user": "u", "resourceAttributes": PODS}, here)
            assert answer["status"]["allowed"]
            _, answer = await review(api, {"user": "x", "resourceAttributes": PODS}, here)
            assert not answer["status"]["allowed"]
            code, _ = await review(api, {"user": "u", "resourceAttributes": PODS}, here, USER)
            assert code == 403
    run(lives())


ONE = "exactly one of nonResourceAttributes or resourceAttributes must be specified"


@pytest.mark.parametrize(("body", "code", "message"), [
    ({"spec": {"user": "u"}}, 422, '.authorization.k8s.io "" is invalid: spec.resourceAttributes: '
     f"Invalid value: null: {ONE}"),
    ({"spec": {"resourceAttributes": PODS}}, 422, '.authorization.k8s.io "" is invalid: spec.user: '
     'Invalid value: "": at least one of user or group must be specified'),
    ({"spec": {"user": "u", "resourceAttributes": PODS,
               "nonResourceAttributes": {"path": "/x", "verb": "get"}}}, 422,
     '.authorization.k8s.io "" is invalid: spec.nonResourceAttributes: Invalid value: '
     '{"Path":"/x","Verb":"get"}: cannot be specified in combination with resourceAttributes'),
    ({"metadata": {"name": "x"}, "spec": {"user": "u", "resourceAttributes": PODS}}, 422,
     '.authorization.k8s.io "" is invalid: metadata: Invalid value: {"name":"x"}: must be empty'),
    ({"spec": {"user": "u", "resourceAttributes": {"verb": 3}}}, 400,
     'SubjectAccessReview in version "v1" cannot be handled as a SubjectAccessReview: json: cannot '
     "unmarshal number into Go struct field ResourceAttributes.spec.resourceAttributes.verb of "
     "type string"),
    ({"spec": {"user": "u", "groups": ["a", 1]}}, 400,
     'SubjectAccessReview in version "v1" cannot be handled as a SubjectAccessReview: json: cannot '
     "unmarshal number into Go struct field SubjectAccessReviewSpec.spec.groups of type string"),
    ({"spec": {"user": "u", "extra": {"k": "v"}, "resourceAttributes": PODS}}, 400, None),
    ({"spec": 3}, 400, 'SubjectAccessReview in version "v1" cannot be handled as a '
     "SubjectAccessReview: json: cannot unmarshal number into Go struct field "
     "SubjectAccessReview.spec of type v1.SubjectAccessReviewSpec"),
    ({"apiVersion": "v1", "kind": "Pod"}, 400, 'Pod in version "v1" cannot be handled as a '
     "SubjectAccessReview: converting (v1.Pod) to (authorization.SubjectAccessReview): unknown "
     "conversion"),
    ({"kind": ["x"]}, 400, None), ([], 400, None),
    ({"apiVersion": "authorization.k8s.io/v1", "kind": "Pod"}, 400, 'Pod in version "v1" cannot be '
     'handled as a SubjectAccessReview: no kind "Pod" is registered for version '
     '"authorization.k8s.io/v1" in scheme "pkg/runtime/scheme.go:111"'),
    ({"spec": {"user": "u", "resourceAttributes": {"fieldSelector": {}, "labelSelector": {
        "rawSelector": "a", "requirements": [{"key": "a", "operator": "Newer"}]}}}}, 422,
     '.authorization.k8s.io "" is invalid: [spec.resourceAttributes.fieldSelector.requirements: '
     "Required value: when spec.resourceAttributes.fieldSelector is specified, requirements or "
     "rawSelector is required, spec.resourceAttributes.labelSelector.rawSelector: Invalid value: "
     '"a": may not specified at the same time as requirements]'),
    ({"spec": {"user": "u", "resourceAttributes": {"fieldSelector": {"requirements": [
        {"key": "", "operator": "Exists", "values": ["q"]}, {"key": "b", "operator": "In"}]}}}},
     422, '.authorization.k8s.io "" is invalid: [spec.resourceAttributes.fieldSelector.'
     "requirements[0].key: Required value: must be specified, spec.resourceAttributes."
     "fieldSelector.requirements[0].values: Forbidden: may not be specified when `operator` is "
     "'Exists' or 'DoesNotExist', spec.resourceAttributes.fieldSelector.requirements[1].values: "
     "Required value: must be specified when `operator` is 'In' or 'NotIn']"),
])
def test_reviews_that_ask_nothing_sensible(body: Any, code: int, message: str | None) -> None:
    async def lives() -> None:
        async with server() as api:
            got, answer = await ask(api, "POST", ACCESS, body)
            assert got == code, answer
            assert message in (None, answer["message"])
    run(lives())


@pytest.mark.parametrize("path", [f"{AUTHORIZATION}/{kind}" for kind in (
    "subjectaccessreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews",
    "namespaces/n1/localsubjectaccessreviews")] + [f"{AUTHENTICATION}/{kind}" for kind in (
        "tokenreviews", "selfsubjectreviews")])
def test_fields_of_reviews_are_checked(path: str) -> None:
    row = next(row for row in KINDS if row.plural == path.rpartition("/")[2])
    body = {"spec": {"user": "u", "namespace": "n1", "token": "t", "resourceAttributes": PODS},
            "bogus": 1}

    async def lives() -> None:
        async with server() as api:
            code, answer = await ask(api, "POST", f"{path}?fieldValidation=Strict", body)
            assert code == 400 and answer["message"].startswith(
                f'{row.kind} in version "v1" cannot be handled as a {row.kind}: strict decoding '
                "error: ")
            assert answer["message"].endswith('unknown field "bogus"')
            request = Request.of("POST", path, body=orjson.dumps(body), user=ADMIN)
            reply = await api.handle(request)
            assert reply.code == 201 and 'unknown field "bogus"' in reply.warnings
            assert "bogus" not in orjson.loads(reply.body)
            request = Request.of("POST", path, user=ADMIN)
            assert orjson.loads((await api.handle(request)).body)["message"] == (
                f"the object provided is unrecognized (must be of type {row.kind}): couldn't get "
                "version/kind; json parse error: unexpected end of JSON input (<empty>)")
    run(lives())


def test_a_cluster_has_no_namespace() -> None:
    body = {"metadata": {"namespace": "q"}, "spec": {"user": "u", "resourceAttributes": PODS}}

    async def lives() -> None:
        async with server() as api:
            code, answer = await ask(api, "POST", ACCESS, body)
            assert (code, answer["metadata"]) == (201, {})
    run(lives())


@pytest.mark.parametrize(("spec", "message"), [
    ({"user": "u", "resourceAttributes": PODS | {"namespace": "n2"}},
     '.authorization.k8s.io "" is invalid: spec.resourceAttributes.namespace: Invalid value: "n2": '
     "must match metadata.namespace"),
    ({"user": "u", "nonResourceAttributes": {"path": "/x", "verb": "get"}},
     '.authorization.k8s.io "" is invalid: spec.nonResourceAttributes: Invalid value: '
     '{"Path":"/x","Verb":"get"}: disallowed on this kind of request')])
def test_a_local_review_stays_in_its_namespace(spec: Object, message: str) -> None:
    async def lives() -> None:
        async with server() as api:
            code, answer = await review(
                api, spec, f"{AUTHORIZATION}/namespaces/n1/localsubjectaccessreviews")
            assert (code, answer["message"]) == (422, message)
    run(lives())


def test_reviews_are_created_and_nothing_else() -> None:
    async def lives() -> None:
        async with server() as api:
            for method in ("GET", "PUT", "PATCH", "DELETE"):
                assert (await ask(api, method, ACCESS))[0] == 405
            for kind in KINDS:
                assert (kind.qualified, "") in REVIEWS
                assert api.resources.of_kind(kind.api_version, kind.kind) is kind
    run(lives())


# --- rules and names ------------------------------------------------------------------------------

def test_all_that_i_may() -> None:
    async def lives() -> None:
        async with server() as api:
            await rights(api)
            await made(api, f"{RBAC}/namespaces/n1/rolebindings", named(
                "b2", roleRef=role_ref("gone"), subjects=[subject("Group", "devs")]))
            url = f"{AUTHORIZATION}/selfsubjectrulesreviews"
            _, answer = await review(api, {"namespace": "n1"}, url, USER)
            status = answer["status"]
            assert rule("get", "core", "configmaps", "one") in status["resourceRules"]
            assert {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"],
                    "resources": ["selfsubjectreviews"]} in status["resourceRules"]
            assert all("nonResourceURLs" in said for said in status["nonResourceRules"])
            assert len(status["nonResourceRules"]) == 2
            assert status["incomplete"] is False
            assert status["evaluationError"] == (
                'clusterrole.rbac.authorization.k8s.io "gone" not found')
            code, answer = await review(api, {}, url, USER)
            assert (code, answer["message"]) == (400, "no namespace on request")
    run(lives())


def test_who_i_am() -> None:
    async def lives() -> None:
        async with server() as api:
            await bootstrap(api)
            url = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
            code, answer = await ask(api, "POST", url, {}, user=USER)
            assert (code, answer["status"]["userInfo"]) == (201, {
                "username": "u", "uid": "7", "groups": ["devs", "system:authenticated"],
                "extra": {"k": ["v"]}})
    run(lives())
