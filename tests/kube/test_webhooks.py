# SPDX-License-Identifier: Apache-2.0
"""Admission webhooks over real HTTPS: asked, obeyed, distrusted."""

from __future__ import annotations

import asyncio
import base64
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from admission_world import Object, World, forbidden, namespace, pod, said, thing
from aiohttp import web
from webhook_server import WebhookServer, certificate, patch

from kvcore.kube import status
from kvcore.kube.admission import Chain, mutating
from kvcore.kube.admission.webhook_client import Verdict
from kvcore.kube.admission.webhook_match import Rule, label_selector
from kvcore.kube.admission.webhooks import (
    MutatingAdmissionWebhook,
    ValidatingAdmissionWebhook,
    patched,
)
from kvcore.kube.request import ADMIN, Request, User


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebhookServer]:
    with WebhookServer(tmp_path) as made:
        yield made


@pytest.fixture
def world() -> Iterator[World]:
    with World(MutatingAdmissionWebhook(), ValidatingAdmissionWebhook()) as made:
        yield made


def configure(world: World, *hooks: Object, name: str = "c", kind: str = "Validating") -> None:
    world.store(thing(f"{kind}WebhookConfiguration", name, "", webhooks=list(hooks)))


FAILED = 'Internal error occurred: failed calling webhook "{0}.example.com": '


# --- asked ----------------------------------------------------------------------------------------

def test_the_question(world: World, server: WebhookServer) -> None:
    configure(world, server.hook("ok"))
    user = User("ann", ("devs",), "u1", {"scope": ("a", "b")})
    world.admit(pod(), user=user, fieldManager="kubectl")
    (path, review), = server.asked
    request = review["request"]
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    resource = {"group": "", "version": "v1", "resource": "pods"}
    assert path == "/ok" and (review["kind"], review["apiVersion"]) == (
        "AdmissionReview", "admission.k8s.io/v1")
    uid = request.pop("uid")
    assert len(uid) == 36
    assert request == {
        "kind": kind, "resource": resource, "requestKind": kind, "requestResource": resource,
        "name": "web", "namespace": "default", "operation": "CREATE",
        "userInfo": {"username": "ann", "uid": "u1", "groups": ["devs"],
                     "extra": {"scope": ["a", "b"]}},
        "object": pod(), "oldObject": None, "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"}}
    world.admit(pod(), pod("web", "default", nodeName="n"), operation="DELETE")
    last = server.asked[-1][1]["request"]
    assert last["object"] is None and last["oldObject"]["spec"]["nodeName"] == "n"


@pytest.mark.parametrize(("rule", "matches"), [
    ({}, True), ({"operations": ["*"]}, True), ({"operations": ["UPDATE"]}, False),
    ({"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}, True),
    ({"apiGroups": ["apps"]}, False), ({"apiVersions": ["v2"]}, False),
    ({"resources": ["*/*"]}, True), ({"resources": ["pods/status"]}, False),
    ({"resources": ["pods/*"]}, True), ({"resources": ["*/status"]}, False),
    ({"scope": "Namespaced"}, True), ({"scope": "Cluster"}, False), ({"scope": "*"}, True),
])
def test_rules(world: World, rule: Object, matches: bool) -> None:
    base = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
            "resources": ["pods"]}
    assert Rule.of(base | rule).matches(world.call(pod())) is matches


def test_rules_of_subresources_and_clusters(world: World) -> None:
    base: Object = {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"]}
    status_call = world.call(pod(), subresource="status")
    for resources, matches in ((["pods/status"], True), (["pods"], False), (["*/status"], True),
                               (["pods/*"], True), (["*"], False)):
        assert Rule.of(base | {"resources": resources}).matches(status_call) is matches
    spaces = Rule.of(base | {"resources": ["*"], "scope": "Cluster"})
    assert spaces.matches(world.call(namespace())) and not spaces.matches(world.call(pod()))


def test_label_selectors() -> None:
    both = label_selector({"matchLabels": {"a": "1"}, "matchExpressions": [
        {"key": "b", "operator": "NotIn", "values": ["x"]}]})
    assert both and both({"a": "1"}) and both({"a": "1", "b": "y"})
    assert not both({"a": "1", "b": "x"}) and not both({"b": "y"})
    absent = label_selector({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]})
    assert absent and absent({}) and not absent({"a": ""})
    assert label_selector({}) is None and label_selector(None) is None
    with pytest.raises(ValueError, match='"Odd" is not a valid label selector operator'):
        label_selector({"matchExpressions": [{"key": "a", "operator": "Odd"}]})


def test_selectors_and_conditions(world: World, server: WebhookServer) -> None:
    server.answers["/no"] = lambda review: {"allowed": False}
    labelled = pod()
    labelled["metadata"]["labels"] = {"app": "a"}
    configure(world, server.hook("no", objectSelector={"matchLabels": {"app": "a"}}))
    world.admit(pod())
    assert said(world.refused(labelled))[0] == 400
    assert said(world.refused(pod(), labelled, operation="UPDATE"))[0] == 400    # the old one does
    configure(world, server.hook("no", namespaceSelector={"matchLabels": {"watched": "yes"}}))
    world.admit(pod())
    world.store(namespace("default", watched="yes"))
    assert said(world.refused(pod()))[0] == 400
    found = world.refused(pod("web", "nowhere"))
    assert said(found) == (404, "NotFound", 'namespaces "nowhere" not found')
    for policy, refused in (("Fail", True), ("Ignore", False)):
        configure(world, server.hook("no", matchConditions=[{"name": "x", "expression": "true"}],
                                     failurePolicy=policy))
        if refused:
            assert said(world.refused(pod("web"), pod("web"), operation="UPDATE")) == forbidden(
                'pods "web"', 'webhook "no.example.com": matchConditions are written in CEL, which '
                "kvcore does not evaluate")
        else:
            world.admit(pod())


def test_configurations_are_not_asked_about(world: World, server: WebhookServer) -> None:
    server.answers["/no"] = lambda review: {"allowed": False}
    every = {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}
    for kind in ("Validating", "Mutating"):
        configure(world, server.hook("no", rules=[every]), kind=kind)
    world.admit(thing("ValidatingWebhookConfiguration", "c", "", webhooks=[]))
    assert said(world.refused(thing("ConfigMap", "m")))[0] == 400


@pytest.mark.parametrize(("method", "query", "body", "kind", "options"), [
    ("POST", "?fieldManager=fm&fieldValidation=Strict", pod("b"), "CreateOptions",
     {"fieldManager": "fm", "fieldValidation": "Strict"}),
    ("DELETE", "?gracePeriodSeconds=5&propagationPolicy=Background", None, "DeleteOptions",
     {"gracePeriodSeconds": 5, "propagationPolicy": "Background"}),
    ("DELETE", "", {"orphanDependents": True, "preconditions": {"resourceVersion": "RV"},
                    "dryRun": ["All"]}, "DeleteOptions",
     {"orphanDependents": True, "preconditions": {"resourceVersion": "RV"}, "dryRun": ["All"]}),
])
def test_it_is_told_the_options(world: World, server: WebhookServer, method: str, query: str,
                                body: Object | None, kind: str, options: Object) -> None:
    revision = world.store(pod("a"))
    if body and "preconditions" in body:
        body["preconditions"]["resourceVersion"] = str(revision)
        options = options | {"preconditions": body["preconditions"]}
    configure(world, server.hook("ok"))
    name = "" if method == "POST" else "/a"
    world.run(world.api.handle(Request.of(
        method, f"/api/v1/namespaces/default/pods{name}{query}", user=ADMIN,
        body=orjson.dumps(body) if body is not None else b"")))
    (_, review), = server.asked
    assert review["request"]["options"] == {
        "kind": kind, "apiVersion": "meta.k8s.io/v1"} | options


# --- obeyed ---------------------------------------------------------------------------------------

@pytest.mark.parametrize(("response", "found"), [
    ({}, (400, "", "without explanation")),
    ({"status": {"message": "no pods today"}}, (400, "", ": no pods today")),
    ({"status": {"reason": "Forbidden", "code": 403}}, (403, "Forbidden", ": Forbidden")),
    ({"status": {"code": 200, "message": "m"}}, (400, "", ": m")),
    ({"status": {"code": 418, "reason": "Teapot", "message": "m"}}, (418, "Teapot", ": m")),
])
def test_a_denial(world: World, server: WebhookServer, response: Object,
                  found: tuple[int, str, str]) -> None:
    server.answers["/no"] = lambda review: {"allowed": False} | response
    configure(world, server.hook("no"))
    code, reason, tail = found
    space = "" if tail.startswith(":") else " "
    assert said(world.refused(pod())) == (
        code, reason, f'admission webhook "no.example.com" denied the request{space}{tail}')
    with pytest.raises(status.ApiError):
        world.create(pod())
    assert world.stored("Pod", "web") is None


def test_warnings_and_annotations(world: World, server: WebhookServer) -> None:
    server.answers["/ok"] = lambda review: {
        "allowed": True, "warnings": ["careful"], "auditAnnotations": {"why": "so"}}
    configure(world, server.hook("ok"))
    world.admit(pod())
    assert world.warnings == ["careful"]
    assert world.last and world.last.admission
    assert world.last.admission.annotations == {"ok.example.com/why": "so"}


def test_a_patch(world: World, server: WebhookServer) -> None:
    server.answers["/patch"] = lambda review: patch(
        {"op": "add", "path": "/metadata/labels", "value": {"patched": "yes"}},
        {"op": "replace", "path": "/spec/containers/0/image", "value": "other"})
    configure(world, server.hook("patch"), kind="Mutating")
    created = world.create(pod())
    assert created["metadata"]["labels"] == {"patched": "yes"}
    assert created["spec"]["containers"][0]["image"] == "other"


def test_one_sees_what_the_one_before_made(world: World, server: WebhookServer) -> None:
    for i, path in enumerate(("b", "a")):
        server.answers[f"/{path}"] = lambda review, i=i: patch(
            {"op": "add", "path": "/spec/containers/-", "value": {"name": f"s{i}"}})
    configure(world, server.hook("b"), name="first", kind="Mutating")
    configure(world, server.hook("a"), name="second", kind="Mutating")
    found = world.admit(pod())
    assert [c["name"] for c in found["spec"]["containers"]] == ["web", "s0", "s1"]
    assert [path for path, _ in server.asked] == ["/b", "/a"]
    assert len(server.asked[1][1]["request"]["object"]["spec"]["containers"]) == 2


@pytest.mark.parametrize(("policies", "paths"), [
    ({}, ["/a", "/b"]),
    ({"a": "IfNeeded"}, ["/a", "/b", "/a"]),
    ({"b": "IfNeeded"}, ["/a", "/b"]),          # nothing changed behind it
    ({"a": "IfNeeded", "b": "IfNeeded"}, ["/a", "/b", "/a"]),
])
def test_reinvocation(world: World, server: WebhookServer, policies: dict[str, str],
                      paths: list[str]) -> None:
    def add_once(name: str) -> Any:
        def answer(review: Object) -> Object:
            names = [c["name"] for c in review["request"]["object"]["spec"]["containers"]]
            return {"allowed": True} if name in names else patch(
                {"op": "add", "path": "/spec/containers/-", "value": {"name": name}})
        return answer

    for name in ("a", "b"):
        server.answers[f"/{name}"] = add_once(name)
    configure(world, *(server.hook(name, reinvocationPolicy=policies.get(name, "Never"))
                       for name in ("a", "b")), kind="Mutating")
    found = world.admit(pod())
    assert [path for path, _ in server.asked] == paths
    assert [c["name"] for c in found["spec"]["containers"]] == ["web", "a", "b"]


def test_plugins_run_again_behind_a_webhook(server: WebhookServer) -> None:
    """What a webhook adds gets its defaults; the webhook then sees the object once more."""
    @mutating()
    def named(call: Any) -> None:
        for container in call.object["spec"]["containers"]:
            container.setdefault("image", "default")

    server.answers["/a"] = lambda review: {"allowed": True} if len(
        review["request"]["object"]["spec"]["containers"]) > 1 else patch(
        {"op": "add", "path": "/spec/containers/-", "value": {"name": "s"}})
    with World(named, MutatingAdmissionWebhook()) as world:
        configure(world, server.hook("a", reinvocationPolicy="IfNeeded"), kind="Mutating")
        found = world.admit(pod())
        assert found["spec"]["containers"][1].items() >= {"name": "s", "image": "default"}.items()
        assert len(server.asked) == 2


def test_dry_run(world: World, server: WebhookServer) -> None:
    for effects in ("None", "NoneOnDryRun"):
        configure(world, server.hook("ok", sideEffects=effects))
        world.admit(pod(), dry_run=True)
        assert server.asked[-1][1]["request"]["dryRun"] is True
    configure(world, server.hook("ok", sideEffects="Some"))
    assert said(world.refused(pod(), dry_run=True)) == (
        400, "BadRequest", 'admission webhook "ok.example.com" does not support dry run')


def test_a_service(server: WebhookServer) -> None:
    async def resolve(space: str, name: str, port: int) -> tuple[str, int]:
        if name != "hook":
            raise LookupError(f'service "{name}" not found')
        assert (space, port) == ("default", 8443)
        return "127.0.0.1", server.port

    def of(name: str) -> Object:
        hook = server.hook("ok")
        hook["clientConfig"] = {"caBundle": hook["clientConfig"]["caBundle"], "service": {
            "namespace": "default", "name": name, "port": 8443, "path": "/by-service"}}
        return hook

    with World(ValidatingAdmissionWebhook(resolve)) as world:
        configure(world, of("hook"))
        world.admit(pod())
        assert server.asked[-1][0] == "/by-service"
        configure(world, of("ghost"))
        assert said(world.refused(pod()))[2] == FAILED.format("ok") + (
            'failed to call webhook: Post "https://ghost.default.svc:8443/by-service?timeout=10s": '
            'service "ghost" not found')


def test_a_service_of_the_store(world: World, server: WebhookServer) -> None:
    hook = server.hook("ok")
    hook["clientConfig"] = {"caBundle": hook["clientConfig"]["caBundle"], "service": {
        "namespace": "default", "name": "hook", "port": server.port}}
    configure(world, hook)
    assert 'service "hook" not found' in said(world.refused(pod()))[2]
    world.store(thing("Service", "hook", spec={"clusterIP": "None"}))
    assert 'no endpoints available for service "hook"' in said(world.refused(pod()))[2]
    world.store(thing("Service", "hook", spec={"clusterIP": "127.0.0.1"}))
    world.admit(pod())
    assert server.asked


# --- distrusted -----------------------------------------------------------------------------------

def raw(body: bytes | str, code: int = 200, kind: str = "application/json", **headers: str) -> Any:
    body = body.encode() if isinstance(body, str) else body
    return lambda review: web.Response(body=body, status=code, content_type=kind, headers=headers)


def whole(**response: Any) -> Any:
    def answer(review: Object) -> web.Response:
        uid = review["request"]["uid"]
        return web.json_response({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
                                  "response": {"uid": uid, "allowed": True} | response})
    return answer


INVALID = "received invalid webhook response: "
CALL = "failed to call webhook: "
NO_OBJECT = ("couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value "
             "of type struct ")


@pytest.mark.parametrize(("answer", "why"), [
    (raw("garbage"), CALL + NO_OBJECT.format("string")),
    (raw("[]"), CALL + NO_OBJECT.format("array")),
    (raw("7", kind="text/plain"), CALL + NO_OBJECT.format("number")),
    (whole(allowed="yes"), f"{CALL}json: cannot unmarshal string into Go struct field "
     "AdmissionResponse.response.allowed of type bool"),
    (raw('{"response":[]}'), f"{CALL}json: cannot unmarshal array into Go struct field "),
    (raw("{}"), f"{INVALID}webhook response was absent"),
    (whole(uid="other"), f"{INVALID}expected response.uid=\""),
    (lambda review: web.json_response({"response": {"uid": review["request"]["uid"]}}),
     f"{INVALID}expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, "
     "Kind="),
    (whole(patch="W10=", patchType="JSONPatch"),
     f"{INVALID}validating webhook may not return response.patch"),
    (whole(patchType="JSONPatch"),
     f"{INVALID}validating webhook may not return response.patchType"),
    (raw(b"x" * (3 * 1024 * 1024 + 1)), f"{CALL}the answer is larger than 3145728 bytes"),
    (raw("", 307, Location="https://127.0.0.1:1/"),
     f"{CALL}the server responded with the status code 307 but did not return more information"),
    (raw("x", 500), f'{CALL}an error on the server ("unknown") has prevented the request from '
     "succeeding"),
    (raw("broken", 500, kind="text/plain"),
     f'{CALL}an error on the server ("broken") has prevented the request from succeeding'),
    (raw("", 404), f"{CALL}the server could not find the requested resource"),
    (raw('{"kind":"Status","status":"Failure","message":"tired"}', 503), f"{CALL}tired"),
    (raw(""), f"{CALL}0-length response with status code: 200 and content type: application/json"),
    (raw("null"), f"{INVALID}webhook response was absent"),
    (raw('{"a":'), f"{CALL}couldn't get version/kind; json parse error: unexpected end of JSON "
     "input"),
    (raw("{}xx"), f"{CALL}couldn't get version/kind; json parse error: invalid character 'x' after "
     "top-level value"),
    (raw('{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}'),
     f"{CALL}converting (v1beta1.AdmissionReview) to (v1.AdmissionReview): unknown conversion"),
    (raw('{"apiVersion":"v1","kind":"Pod"}'),
     f'{CALL}no kind "Pod" is registered for version "v1" in scheme "pkg/runtime/scheme.go:111"'),
    (whole(status={"code": "403"}), f"{CALL}json: cannot unmarshal string into Go struct field "
     "Status.response.status.code of type int32"),
    (whole(status="no"), f"{CALL}json: cannot unmarshal string into Go struct field "
     "AdmissionResponse.response.status of type v1.Status"),
    (whole(warnings=[5]), f"{CALL}json: cannot unmarshal number into Go struct field "
     "AdmissionResponse.response.warnings of type string"),
    (whole(auditAnnotations=[]), f"{CALL}json: cannot unmarshal array into Go struct field "
     "AdmissionResponse.response.auditAnnotations of type map[string]string"),
    (whole(patch="***", patchType="JSONPatch"), f"{CALL}illegal base64 data at input byte 0"),
    (whole(patch=5), f"{CALL}json: cannot unmarshal number into Go struct field "
     "AdmissionResponse.response.patch of type []uint8"),
])
def test_a_liar(world: World, server: WebhookServer, answer: Any, why: str) -> None:
    server.answers["/lie"] = answer
    configure(world, server.hook("lie"))
    code, reason, message = said(world.refused(pod()))
    assert (code, reason) == (500, "InternalError")
    assert message.startswith(FAILED.format("lie") + why), message
    configure(world, server.hook("lie", failurePolicy="Ignore"))
    world.admit(pod())
    assert world.last and world.last.admission
    assert world.last.admission.annotations == {
        "failed-open.validating.webhook.admission.k8s.io/round_0_index_0": "lie.example.com"}


@pytest.mark.parametrize(("response", "why"), [
    ({"patch": "W10="}, INVALID + "webhook returned response.patch but not response.patchType"),
    ({"patchType": "JSONPatch"},
     INVALID + "webhook returned response.patchType but not response.patch"),
    ({"patch": "W3t9XQ==", "patchType": "Merge"}, 'unsupported patch type "Merge"'),
    ({"patch": "Wzdd", "patchType": "JSONPatch"}, "received undecodable patch in webhook response: "
     "json: cannot unmarshal number into Go value of type jsonpatch.Operation"),
    ({"patch": "e30=", "patchType": "JSONPatch"},
     "received undecodable patch in webhook response: json: cannot unmarshal object"),
    ({"patch": base64.b64encode(b"junk").decode(), "patchType": "JSONPatch"}, "received "
     "undecodable patch in webhook response: invalid character 'j' looking for beginning of value"),
])
def test_a_bad_patch_is_a_failed_call(world: World, server: WebhookServer, response: Object,
                                      why: str) -> None:
    server.answers["/lie"] = whole(**response)
    configure(world, server.hook("lie"), kind="Mutating")
    assert said(world.refused(pod()))[2].startswith(FAILED.format("lie") + why)
    configure(world, server.hook("lie", failurePolicy="Ignore"), kind="Mutating")
    assert world.admit(pod()) == pod()


@pytest.mark.parametrize(("operations", "code", "why"), [
    ([{"op": "remove", "path": "/spec/nothing"}], 500, "error in remove for path: '/spec/nothing': "
     "Unable to remove nonexistent key: nothing: missing value"),
    ([{"op": "replace", "path": "", "value": []}], 500, NO_OBJECT.format("array")),
    ([{"op": "replace", "path": "/metadata", "value": []}], 500, "json: cannot unmarshal array "
     "into Go struct field Pod.metadata of type v1.ObjectMeta"),
    ([{"op": "replace", "path": "/spec", "value": "x"}], 500, "json: cannot unmarshal string into "
     "Go struct field Pod.spec of type v1.PodSpec"),
    ([{"op": "add", "path": "/metadata/labels", "value": {"a": 5}}], 500, "json: cannot unmarshal "
     "number into Go struct field ObjectMeta.metadata.labels of type string"),
    ([{"op": "replace", "path": "/apiVersion", "value": "v9"}], 500, 'Internal error occurred: no '
     'kind "Pod" is registered for version "v9" in scheme "pkg/runtime/scheme.go:111"'),
    ([{"op": "test", "path": "/kind", "value": "x"}], 500,
     "testing value /kind failed: test failed"),
    ([{"op": "replace", "path": "/kind", "value": "Node"}], 500,
     "converting (v1.Node) to (core.Pod): unknown conversion"),
    ([{"op": "replace", "path": "/metadata/namespace", "value": "x"}], 400,
     "the namespace of the provided object does not match"),
    ([{"op": "frob", "path": "/x"}], 500, "Unexpected kind: frob"),
    ([{"op": "add"}], 500, "add operation failed to decode path: missing value"),
    ([None], 500, "Unexpected kind: unknown"),
])
def test_a_patch_that_does_not_fit(world: World, server: WebhookServer, operations: list[Any],
                                   code: int, why: str) -> None:
    server.answers["/lie"] = lambda review: patch(*operations)
    configure(world, server.hook("lie", failurePolicy="Ignore"), kind="Mutating")
    found = said(world.refused(pod()))
    assert found[0] == code and why in found[2]


def test_a_patched_object_is_read_like_a_body(world: World, server: WebhookServer) -> None:
    server.answers["/patch"] = lambda review: patch(
        {"op": "add", "path": "/bogus", "value": 5},
        {"op": "add", "path": "/spec/containers/0/resources", "value": {"limits": {"cpu": "0.5"}}},
        {"op": "replace", "path": "/metadata/labels", "value": {}})
    configure(world, server.hook("patch"), kind="Mutating")
    found = world.admit(pod())
    assert "bogus" not in found and "labels" not in found["metadata"]
    assert found["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "500m"}


def test_subresources_have_kinds_of_their_own(world: World, server: WebhookServer) -> None:
    """Scales and bindings are asked about, and patched, as what they are."""
    wanted: list[Any] = [3]
    server.answers["/patch"] = lambda review: patch(
        {"op": "add", "path": "/metadata/annotations", "value": {"a": "1"}}
        if review["request"]["kind"]["kind"] == "Binding" else
        {"op": "add", "path": "/spec/replicas", "value": wanted[-1]})
    configure(world, server.hook("patch", rules=[{
        "operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"],
        "resources": ["deployments/scale", "pods/binding"]}]), kind="Mutating")
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod()["spec"]}
    deployments = "/apis/apps/v1/namespaces/default/deployments"

    def send(method: str, url: str, obj: Object) -> tuple[int, Object]:
        answer = world.run(world.api.handle(Request.of(
            method, url, body=orjson.dumps(obj), user=ADMIN)))
        return answer.code, orjson.loads(answer.body)
    assert send("POST", deployments, {"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": template}})[0] == 201
    code, found = send("PUT", f"{deployments}/d/scale", {
        "metadata": {"name": "d"}, "spec": {"replicas": 2}})
    assert (code, found.get("spec")) == (200, {"replicas": 3}), found
    wanted.append(1.5)
    code, found = send("PUT", f"{deployments}/d/scale", {
        "metadata": {"name": "d"}, "spec": {"replicas": 2}})
    assert code == 400 and "ScaleSpec.spec.replicas of type int32" in found["message"]
    world.create(pod())
    code, found = send("POST", "/api/v1/namespaces/default/pods/web/binding", {
        "metadata": {"name": "web"}, "target": {"name": "n"}})
    assert code == 201, found
    bound = world.stored("Pod", "web")
    assert bound is not None and bound["metadata"]["annotations"] == {"a": "1"}
    assert [review["request"]["requestKind"] for _, review in server.asked] == [
        {"group": "autoscaling", "version": "v1", "kind": "Scale"}] * 2 + [
        {"group": "", "version": "v1", "kind": "Binding"}]


def test_no_patch_is_none(world: World, server: WebhookServer) -> None:
    server.answers["/null"] = whole(patch=base64.b64encode(b"null").decode(),
                                    patchType="JSONPatch")
    configure(world, server.hook("null"), kind="Mutating")
    assert world.admit(pod())["metadata"] == pod()["metadata"]


def test_nothing_is_no_warning(world: World, server: WebhookServer) -> None:
    server.answers["/ok"] = lambda review: {"allowed": True, "warnings": ["", "careful"]}
    configure(world, server.hook("ok"))
    world.admit(pod())
    assert world.warnings == ["careful"]


def test_a_patch_cannot_fill_the_memory() -> None:
    grow: list[Object] = [{"op": "add", "path": "/a", "value": ["x" * 1000]}]
    grow += [{"op": "copy", "from": "/a", "path": "/a/-"}] * 40
    with pytest.raises(status.ApiError, match="accumulated size increase of copy"):
        patched({}, Verdict(True, {}, orjson.dumps(grow), "JSONPatch"), "x")


@pytest.mark.parametrize(("answer", "why"), [
    (b"", "EOF"), (b"HTTP/1.1 400 Bad Request\r\n\r\n",
                   "tls: first record does not look like a TLS handshake"),
])
def test_no_tls(world: World, server: WebhookServer, answer: bytes, why: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        def serve() -> None:
            there, _ = listening.accept()
            with there:
                if answer:
                    there.recv(100)
                    there.sendall(answer)
                else:                            # a reset, not an end
                    there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        url = f"https://127.0.0.1:{listening.getsockname()[1]}/x"
        hook = server.hook("no")
        hook["clientConfig"]["url"] = url
        configure(world, hook)
        thread = threading.Thread(target=serve)
        thread.start()
        found = said(world.refused(pod()))[2]
        thread.join()
    assert found == FAILED.format("no") + f'{CALL}Post "{url}?timeout=10s": {why}'


def test_nobody_listens(world: World, server: WebhookServer) -> None:
    hook = server.hook("ok")
    for config, why in (
            ({"url": "https://127.0.0.1:1/x"}, 'Post "https://127.0.0.1:1/x?timeout=10s": dial tcp '
             "127.0.0.1:1: connect: connection refused"),
            ({"url": "http://127.0.0.1/x"}, 'Unparsable URL: "http://127.0.0.1/x" is not '
             "https://host[/path]"),
            ({}, "webhook configuration must have either service or URL"),
            ({"url": server.url("ok"), "caBundle": "?"}, "could not get REST client: unable to "
             "load root certificates: unable to parse bytes as PEM block")):
        configure(world, hook | {"clientConfig": config})
        assert said(world.refused(pod()))[2] == FAILED.format("ok") + CALL + why


def test_a_certificate_of_somebody_else(world: World, server: WebhookServer) -> None:
    hook = server.hook("ok")
    other = base64.b64encode(certificate()[0]).decode()
    configure(world, hook | {"clientConfig": hook["clientConfig"] | {"caBundle": other}})
    assert said(world.refused(pod()))[2] == (
        FAILED.format("ok") + f'{CALL}Post "{server.url("ok")}?timeout=10s": tls: failed to verify '
        "certificate: x509: certificate signed by unknown authority")
    assert server.asked == []


def test_a_webhook_that_hangs(world: World, server: WebhookServer) -> None:
    """Its requests end with its timeout; others are served meanwhile."""
    hung = server.hook("hang", timeoutSeconds=1, objectSelector={"matchLabels": {"slow": "yes"}})
    configure(world, hung)
    slow = pod("slow")
    slow["metadata"]["labels"] = {"slow": "yes"}

    async def both() -> list[Any]:
        resource = world.resource(slow)
        waiting = [asyncio.ensure_future(world.api.create(resource, slow | {
            "metadata": slow["metadata"] | {"name": f"slow{i}"}}, "default")) for i in range(3)]
        for _ in range(3):                       # all three are at the webhook
            await asyncio.get_running_loop().run_in_executor(None, server.arrived.acquire)
        for i in range(20):
            await world.api.create(resource, pod(f"quick{i}"), "default")
        assert not any(task.done() for task in waiting)
        return await asyncio.gather(*waiting, return_exceptions=True)

    for error in world.run(both()):
        assert isinstance(error, status.ApiError) and error.code == 500
        assert error.message == FAILED.format("hang") + (
            f'{CALL}Post "{server.url("hang")}?timeout=1s": context deadline exceeded')
    assert world.stored("Pod", "slow0") is None and world.stored("Pod", "quick19") is not None


def test_validating_ones_are_asked_at_once(world: World, server: WebhookServer) -> None:
    """All five are at the server before one of them is answered."""
    configure(world, *(server.hook("hang", name=f"h{i}.example.com") for i in range(5)))

    async def run() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(world.admitting(world.call(pod())))
        for _ in range(5):
            await loop.run_in_executor(None, server.arrived.acquire)
        assert not task.done()
        server._loop.call_soon_threadsafe(server.release.set)
        await task

    world.run(run())


def test_a_cancelled_request_harms_nobody(world: World, server: WebhookServer) -> None:
    configure(world, server.hook("hang"), kind="Mutating")

    async def run() -> None:
        task = asyncio.ensure_future(world.admitting(world.call(pod())))
        await asyncio.get_running_loop().run_in_executor(None, server.arrived.acquire)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    world.run(run())
    configure(world, server.hook("ok"), kind="Mutating")
    world.admit(pod())
    assert server.asked[-1][0] == "/ok"


def test_both_kinds_in_a_chain_stop(server: WebhookServer) -> None:
    chain = Chain([MutatingAdmissionWebhook(), ValidatingAdmissionWebhook()])
    with World(chain=chain) as world:
        for kind in ("Mutating", "Validating"):
            configure(world, server.hook("ok"), kind=kind)
        world.create(pod())
        assert [path for path, _ in server.asked] == ["/ok", "/ok"]
        world.run(chain.stop())
        world.run(chain.stop())                  # idempotent
