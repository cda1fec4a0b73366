# SPDX-License-Identifier: Apache-2.0
"""POST: what the server decides, what it refuses and in which words, and where nothing is stored.

The Statuses are those a kube-apiserver 1.36 gives for the same requests.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable
from typing import Any

import orjson
import pytest
from kube_server import CONFIG_MAPS, PODS, Kube, config_map, pod

import kvcore
from kvcore.kube import meta, status
from kvcore.kube.admission import Chain
from kvcore.kube.call import Call
from kvcore.kube.request import Answer, Request, parse_target

ROLES = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
NOT_OF_THE_PATH = ("the namespace of the provided object does not match the namespace sent on the "
                   "request")


def failure(code: int, reason: str, message: str, details: Any = None) -> dict[str, Any]:
    said: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {},
                            "status": "Failure", "message": message}
    if reason:
        said["reason"] = reason
    if details is not None:
        said["details"] = details
    return {**said, "code": code}


def test_what_the_server_decides(kube: Kube) -> None:
    reply = kube.make(CONFIG_MAPS, config_map(
        "a", uid="mine", creationTimestamp="2001-01-01T00:00:00Z", selfLink="/x",
        deletionTimestamp="2001-01-01T00:00:00Z", deletionGracePeriodSeconds=3))
    made = dict(reply.meta)
    assert uuid.UUID(made.pop("uid")).version == 4
    assert made == {"name": "a", "namespace": "default",
                    "resourceVersion": str(kube.store.revision),
                    "creationTimestamp": "2027-01-15T08:00:00Z"}
    assert reply.obj["data"] == {"a": "1"} and reply.obj["kind"] == "ConfigMap"
    assert kube.call("GET", f"{CONFIG_MAPS}/a").obj == reply.obj


def test_a_silent_body_is_of_the_path(kube: Kube) -> None:
    reply = kube.make(CONFIG_MAPS, {"metadata": {"name": "a"}})
    assert (reply.obj["apiVersion"], reply.obj["kind"]) == ("v1", "ConfigMap")
    assert reply.meta["namespace"] == "default"


def test_a_pod_begins_pending(kube: Kube) -> None:
    reply = kube.make(PODS, {**pod("a"), "status": {"phase": "Running"}})
    assert reply.obj["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert reply.meta["generation"] == 1


REFUSED: list[tuple[str, Any, dict[str, Any]]] = [
    (CONFIG_MAPS, config_map("there"), failure(
        409, "AlreadyExists", 'configmaps "there" already exists',
        {"name": "there", "kind": "configmaps"})),
    (CONFIG_MAPS, config_map("there", generateName="th"), failure(
        409, "AlreadyExists", 'configmaps "there" already exists, the server was not able to '
        "generate a unique name for the object",
        {"name": "there", "kind": "configmaps", "retryAfterSeconds": 1})),
    (f"{CONFIG_MAPS}?dryRun=All", config_map("there"), failure(
        409, "AlreadyExists", 'configmaps "there" already exists',
        {"name": "there", "kind": "configmaps"})),
    (CONFIG_MAPS, config_map("a", namespace="other"), failure(400, "BadRequest", NOT_OF_THE_PATH)),
    (CONFIG_MAPS, config_map("a", resourceVersion="5"), failure(
        500, "", "resourceVersion should not be set on objects to be created")),
    (CONFIG_MAPS, {"apiVersion": "v1", "kind": "Secret"}, failure(
        400, "BadRequest", 'Secret in version "v1" cannot be handled as a ConfigMap: converting '
        "(v1.Secret) to (core.ConfigMap): unknown conversion")),
    (CONFIG_MAPS, {"apiVersion": "v1", "kind": "Foo"}, failure(
        400, "BadRequest", 'Foo in version "v1" cannot be handled as a ConfigMap: no kind "Foo" is '
        'registered for version "v1" in scheme "pkg/runtime/scheme.go:111"')),
    (CONFIG_MAPS, {"apiVersion": "v2", "kind": "ConfigMap"}, failure(
        400, "BadRequest", 'ConfigMap in version "v2" cannot be handled as a ConfigMap: no kind '
        '"ConfigMap" is registered for version "v2" in scheme "pkg/runtime/scheme.go:111"')),
    (CONFIG_MAPS, {"metadata": "foo"}, failure(
        400, "BadRequest", 'ConfigMap in version "v1" cannot be handled as a ConfigMap: json: '
        "cannot unmarshal string into Go struct field ConfigMap.metadata of type v1.ObjectMeta")),
    (CONFIG_MAPS, {"metadata": {"name": 5}}, failure(
        400, "BadRequest", 'ConfigMap in version "v1" cannot be handled as a ConfigMap: json: '
        "cannot unmarshal number into Go struct field ObjectMeta.metadata.name of type string")),
    (f"{CONFIG_MAPS}?dryRun=foo", config_map("a"), failure(
        422, "Invalid", 'CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: '
        '["foo"]: supported values: "All"',
        {"group": "meta.k8s.io", "kind": "CreateOptions", "causes": [
            {"reason": "FieldValueNotSupported", "field": "dryRun",
             "message": 'Unsupported value: ["foo"]: supported values: "All"'}]})),
    (f"{CONFIG_MAPS}?fieldManager={'x' * 129}", config_map("a"), failure(
        422, "Invalid", 'CreateOptions.meta.k8s.io "" is invalid: fieldManager: Too long: may not '
        "be more than 128 bytes",
        {"group": "meta.k8s.io", "kind": "CreateOptions", "causes": [
            {"reason": "FieldValueTooLong", "field": "fieldManager",
             "message": "Too long: may not be more than 128 bytes"}]})),
    (f"{CONFIG_MAPS}?fieldValidation=foo", config_map("a"), failure(
        422, "Invalid", 'CreateOptions.meta.k8s.io "" is invalid: fieldValidation: Unsupported '
        'value: "foo": supported values: "", "Ignore", "Strict", "Warn"',
        {"group": "meta.k8s.io", "kind": "CreateOptions", "causes": [
            {"reason": "FieldValueNotSupported", "field": "fieldValidation", "message":
             'Unsupported value: "foo": supported values: "", "Ignore", "Strict", "Warn"'}]})),
    (f"{CONFIG_MAPS}/a", config_map("a"), failure(
        405, "MethodNotAllowed", "the server does not allow this method on the requested resource",
        {})),
    ("/api/v1/configmaps", config_map("a"), failure(
        405, "MethodNotAllowed", "the server does not allow this method on the requested resource",
        {})),
]


@pytest.mark.parametrize(("url", "body", "said"), REFUSED)
def test_refused(kube: Kube, url: str, body: Any, said: dict[str, Any]) -> None:
    kube.make(CONFIG_MAPS, config_map("there"))
    before = kube.store.revision
    reply = kube.call("POST", url, body)
    assert (reply.code, reply.obj) == (said["code"], said)
    assert list(reply.obj) == list(said)       # clients do not mind, people who read it do
    assert kube.store.revision == before


@pytest.mark.parametrize("name", ["", "A_b", "a/b", "..", ".", "a..b", "ü", "a\n", "x" * 254,
                                  "a%2fb", "-a", "a/../../secrets/default/s"])
def test_names_that_are_none(kube: Kube, name: str) -> None:
    before = kube.store.revision
    reply = kube.call("POST", CONFIG_MAPS, config_map("x") | {"metadata": {"name": name}})
    assert (reply.code, reply.reason) == (422, "Invalid")
    assert reply.obj["details"]["causes"][0]["field"] == "metadata.name"
    assert kube.store.revision == before


def test_a_role_may_have_any_name_that_is_one_segment(kube: Kube) -> None:
    reply = kube.make(ROLES, {"metadata": {"name": "Ünï:x y", "namespace": "ignored"}})
    assert "namespace" not in reply.meta
    assert kube.call("GET", f"{ROLES}/%C3%9Cn%C3%AF:x%20y").obj == reply.obj
    for name in ("a/b", "..", "a%b"):
        assert kube.call("POST", ROLES, {"metadata": {"name": name}}).code == 422


PATHS = [
    (f"{CONFIG_MAPS}/..", 400, "Name parameter invalid: \"..\": may not be '..'"),
    (f"{CONFIG_MAPS}/.", 400, "Name parameter invalid: \".\": may not be '.'"),
    (f"{CONFIG_MAPS}/a%25b", 400, "Name parameter invalid: \"a%b\": may not contain '%'"),
    (f"{CONFIG_MAPS}/a%2Fb", 404, "the server could not find the requested resource"),
    ("/api/v1/namespaces/../configmaps/a", 500, 'invalid key: "/configmaps/../a"'),
    ("/api/v1/namespaces/%2E%2E/configmaps/a", 500, 'invalid key: "/configmaps/../a"'),
    ("/api/v1//namespaces/default/configmaps/a", 404,
     "the server could not find the requested resource"),
    (f"{CONFIG_MAPS}/a/status", 404, "the server could not find the requested resource"),
    (f"{PODS}/a/status/more", 404, "the server could not find the requested resource"),
    ("/api/v1/namespaces/default/nodes", 404, "the server could not find the requested resource"),
    ("/api/v1/namespaces/default/namespaces", 404,
     "the server could not find the requested resource"),
    ("/api/v1/configmaps/a", 404, "the server could not find the requested resource"),
]


@pytest.mark.parametrize(("url", "code", "message"), PATHS)
def test_paths_that_lead_nowhere(kube: Kube, url: str, code: int, message: str) -> None:
    reply = kube.call("GET", url)
    assert (reply.code, reply.message) == (code, message)


def test_a_namespace_is_not_in_itself(kube: Kube) -> None:
    reply = kube.make("/api/v1/namespaces", {"metadata": {"name": "n", "namespace": "n"}})
    assert kube.call("GET", "/api/v1/namespaces/n").obj == reply.obj
    assert reply.obj["spec"] == {"finalizers": ["kubernetes"]}
    assert reply.obj["status"] == {"phase": "Active"}
    assert reply.meta["labels"] == {"kubernetes.io/metadata.name": "n"}


def test_dry_run_stores_nothing(kube: Kube) -> None:
    before = kube.store.revision
    reply = kube.make(f"{CONFIG_MAPS}?dryRun=All", config_map("a"))
    assert "resourceVersion" not in reply.meta and reply.meta["uid"]
    assert kube.store.revision == before and kube.call("GET", f"{CONFIG_MAPS}/a").code == 404


def test_being_deleted_is_said(kube: Kube) -> None:
    kube.make(CONFIG_MAPS, config_map("a", finalizers=["x.y/z"]))
    kube.call("DELETE", f"{CONFIG_MAPS}/a")
    assert kube.call("POST", CONFIG_MAPS, config_map("a")).message == (
        'object is being deleted: configmaps "a" already exists')


def test_too_big_for_the_store() -> None:
    with Kube(kvcore.open(max_request_bytes=10_000)) as kube:
        reply = kube.call("POST", CONFIG_MAPS, config_map("a", {"a": "x" * 20_000}))
        assert reply.obj == failure(500, "", "etcdserver: request is too large")
        assert kube.store.revision == 1


# --- generated names ------------------------------------------------------------------------------

def test_a_name_is_generated(kube: Kube) -> None:
    reply = kube.make(CONFIG_MAPS, {"metadata": {"generateName": "web-"}})
    name = reply.meta["name"]
    assert name.startswith("web-") and len(name) == 9
    assert set(name[4:]) <= set("bcdfghjklmnpqrstvwxz2456789")
    long = kube.make(CONFIG_MAPS, {"metadata": {"generateName": "w" * 100}})
    assert len(long.meta["name"]) == 63


@pytest.mark.parametrize("clashes", [0, 1, 7, 8])
def test_a_generated_name_is_tried_eight_times(kube: Kube, monkeypatch: pytest.MonkeyPatch,
                                               clashes: int) -> None:
    numbers = iter(range(100))
    monkeypatch.setattr(meta, "draw", lambda: next(numbers))
    for number in range(clashes):
        kube.store.put(b"/registry/jobs/default/x-%d" % number, b"")       # moves the revision
        kube.make("/api/v1/namespaces", {"metadata": {"generateName": "x-"}})
    numbers = iter(range(100))
    reply = kube.call("POST", "/api/v1/namespaces", {"metadata": {"generateName": "x-"}})
    if clashes == 8:
        assert reply.code == 409 and "not able to generate a unique name" in reply.message
        assert reply.obj["details"]["retryAfterSeconds"] == 1
        assert reply.answer.headers["Retry-After"] == "1"
    else:
        assert reply.code == 201
        assert reply.meta["labels"]["kubernetes.io/metadata.name"] == reply.meta["name"]
        assert kube.call("GET", f"/api/v1/namespaces/{reply.meta['name']}").obj == reply.obj


def test_a_name_that_was_sent_is_tried_once(kube: Kube) -> None:
    kube.make(CONFIG_MAPS, config_map("a"))
    assert kube.call("POST", CONFIG_MAPS, config_map("a", generateName="b-")).code == 409
    assert kube.call("GET", CONFIG_MAPS).obj["items"][0]["metadata"]["name"] == "a"


# --- admission ------------------------------------------------------------------------------------

class Meddler:
    """An admission plugin that does what a test says."""

    name, operations = "Meddler", frozenset({"CREATE"})

    def __init__(self, **changes: str) -> None:
        self.changes = changes

    def admit(self, call: Call) -> Awaitable[None] | None:
        call.warn('meddled "here"')
        call.warn("twice")
        call.object["metadata"].update(self.changes)
        return None


@pytest.mark.parametrize(("changes", "code", "message"), [
    ({"name": ""}, 422, 'ConfigMap "" is invalid: metadata.name: Required value: name or '
     "generateName is required"),
    ({"namespace": "other"}, 400, NOT_OF_THE_PATH),
])
def test_admission_may_not_change_where_it_is(changes: dict[str, str], code: int,
                                              message: str) -> None:
    with Kube(admission=Chain([Meddler(**changes)])) as kube:
        reply = kube.call("POST", CONFIG_MAPS, config_map("a"))
        assert (reply.code, reply.message) == (code, message)
        assert kube.store.revision == 1


def test_admission_may_give_another_name() -> None:
    with Kube(admission=Chain([Meddler(name="other")])) as kube:
        assert kube.make(CONFIG_MAPS, config_map("a")).meta["name"] == "other"
        assert kube.call("GET", f"{CONFIG_MAPS}/other").code == 200
        assert kube.call("GET", f"{CONFIG_MAPS}/a").code == 404


def test_a_uid_of_admission_counts_for_nothing() -> None:
    with Kube(admission=Chain([Meddler(uid="mine")])) as kube:
        assert kube.make(CONFIG_MAPS, config_map("a")).meta["uid"] != "mine"


def test_each_warning_is_a_header() -> None:
    with Kube(admission=Chain([Meddler()])) as kube:
        assert kube.make(CONFIG_MAPS, config_map("a")).warnings == [
            '299 - "meddled \\"here\\""', '299 - "twice"']


@pytest.mark.parametrize(("text", "value"), [
    ('say "x" \\ y', '299 - "say \\"x\\" \\\\ y"'),
    ("a\r\nSet-Cookie: x", '299 - "aSet-Cookie: x"'), ("ü", '299 - "ü"'),
])
def test_a_warning_stays_in_its_line(text: str, value: str) -> None:
    assert Answer(200, warnings=[text]).lines() == [("Warning", value)]


# --- in process, and many at once -----------------------------------------------------------------

def test_in_process(kube: Kube) -> None:
    pods = kube.api.resources.of_path("", "v1", "pods")
    assert pods is not None
    made = orjson.loads(kube.run(kube.api.create(pods, pod("a"), "default")))
    assert made == kube.call("GET", f"{PODS}/a").obj
    with pytest.raises(status.ApiError) as refused:
        kube.run(kube.api.create(pods, pod("a"), "default"))
    assert refused.value.reason == "AlreadyExists"


def test_many_of_one_name_make_one(kube: Kube) -> None:
    async def all_at_once() -> list[Answer]:
        return await asyncio.gather(*(kube.ask("POST", CONFIG_MAPS, config_map("a", {"n": str(n)}))
                                      for n in range(50)))
    answers = kube.run(all_at_once())
    assert sorted(a.code for a in answers) == [201] + [409] * 49
    won = next(a for a in answers if a.code == 201)
    assert kube.call("GET", f"{CONFIG_MAPS}/a").obj == orjson.loads(won.body)


def test_a_create_is_seen_by_a_list_after_it(kube: Kube) -> None:
    kube.call("GET", CONFIG_MAPS)
    kube.make(CONFIG_MAPS, config_map("a"))
    assert len(kube.call("GET", f"{CONFIG_MAPS}?resourceVersion=0").obj["items"]) == 1


def test_targets() -> None:
    target = parse_target(Request.of("GET", "/api/v1/namespaces/n/pods/p/status/x"))
    assert (target.resource, target.subresource, target.rest) == ("pods", "status", "x")
    target = parse_target(Request.of("GET", "/api/v1/nodes/n/proxy/metrics/a"))
    assert (target.name, target.subresource, target.rest) == ("n", "proxy", "metrics/a")
    assert parse_target(Request.of("OPTIONS", "/api/v1/pods")).verb == ""
    assert not parse_target(Request.of("GET", "/api/v1/namespaces//pods")).is_resource


def test_a_version_in_a_dry_run(kube: Kube) -> None:
    versioned = config_map("a", resourceVersion="5")
    assert kube.call("POST", f"{CONFIG_MAPS}?dryRun=All", versioned).code == 201
    reply = kube.call("POST", CONFIG_MAPS, versioned)
    assert (reply.code, reply.message) == (
        500, "resourceVersion should not be set on objects to be created")
