# SPDX-License-Identifier: Apache-2.0
"""The official Kubernetes Python client, its informer, and curl against a server as it comes.

Everything is on: authentication, RBAC, admission, housekeeping. What a call answers is looked at
as that client shows it: models, ApiException with a Status in its body.
"""

from __future__ import annotations

import json
import queue
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kube_wires import PATIENCE
from kubernetes import client, config, informer, watch
from kubernetes.client import ApiException

import kvcore
from kvcore.kube import serve
from kvcore.kube.server import Server

Object = dict[str, Any]
NS = "default"
POD_SPEC = {"containers": [{"name": "c", "image": "registry.example/i:1"}]}


@pytest.fixture
def api() -> Iterator[Server]:
    with kvcore.open() as store, serve(store) as server:
        yield server


@pytest.fixture
def conn(api: Server) -> Iterator[client.ApiClient]:
    with config.new_client_from_config_dict(api.kubeconfig) as made:
        yield made


@pytest.fixture
def core(conn: client.ApiClient) -> client.CoreV1Api:
    return client.CoreV1Api(conn)


@pytest.fixture
def apps(conn: client.ApiClient) -> client.AppsV1Api:
    return client.AppsV1Api(conn)


def config_map(name: str, data: dict[str, str] | None = None, **labels: str) -> Object:
    return {"metadata": {"name": name, "labels": labels}, "data": data or {"k": "v"}}


def pod(name: str, **spec: Any) -> Object:
    return {"metadata": {"name": name}, "spec": POD_SPEC | spec}


def deployment(name: str) -> Object:
    labels = {"app": name}
    return {"metadata": {"name": name}, "spec": {
        "replicas": 2, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": POD_SPEC}}}


def refused(code: int, reason: str, call: Any, *args: Any, **kwargs: Any) -> Object:
    """A call that fails. Returns: its Status."""
    with pytest.raises(ApiException) as caught:
        call(*args, **kwargs)
    assert caught.value.status == code, caught.value.body
    assert caught.value.headers["Content-Type"] == "application/json"
    status: Object = json.loads(caught.value.body)
    assert (status["kind"], status["apiVersion"], status["status"]) == ("Status", "v1", "Failure")
    assert (status["code"], status.get("reason", "")) == (code, reason)
    return status


def names(listed: Any) -> list[str]:
    return [item.metadata.name for item in listed.items]


# --- reading --------------------------------------------------------------------------------------

def test_pages_and_selectors(core: client.CoreV1Api) -> None:
    for number in range(7):
        core.create_namespaced_config_map(NS, config_map(f"m{number}", app="ab"[number % 2]))
    found, token, pages = [], None, 0
    while True:
        page = core.list_namespaced_config_map(NS, limit=3, label_selector="app", _continue=token)
        found, pages = found + names(page), pages + 1
        token = page.metadata._continue
        if not token:
            break
    assert (found, pages) == ([f"m{number}" for number in range(7)], 3)
    first = core.list_namespaced_config_map(NS, limit=3)
    assert first.metadata.remaining_item_count == 8 - 3            # and kube-root-ca.crt
    listed = core.list_config_map_for_all_namespaces(label_selector="app in (b),app!=c")
    assert names(listed) == ["m1", "m3", "m5"]
    assert names(core.list_namespaced_config_map(NS, field_selector="metadata.name=m2")) == ["m2"]
    status = refused(400, "BadRequest", core.list_namespaced_config_map, NS,
                     field_selector="data.k=v")
    assert status["message"] == ('"data.k" is not a known field selector: only "metadata.name", '
                                 '"metadata.namespace"')


def test_a_watch_resumes(core: client.CoreV1Api) -> None:
    begin = core.list_namespaced_config_map(NS).metadata.resource_version
    made = core.create_namespaced_config_map(NS, config_map("a"))
    core.patch_namespaced_config_map("a", NS, [{"op": "add", "path": "/data/x", "value": "y"}])
    core.delete_namespaced_config_map("a", NS)
    kinds = []
    stream = watch.Watch()
    for event in stream.stream(core.list_namespaced_config_map, NS, resource_version=begin):
        kinds.append(event["type"])
        if event["type"] == "DELETED":
            stream.stop()
    assert kinds == ["ADDED", "MODIFIED", "DELETED"]
    again = watch.Watch()
    event = next(iter(again.stream(core.list_namespaced_config_map, NS, timeout_seconds=5,
                                   resource_version=made.metadata.resource_version)))
    assert event["type"] == "MODIFIED" and event["object"].data == {"k": "v", "x": "y"}
    again.stop()


def test_bookmarks_tell_how_far_a_watch_is(core: client.CoreV1Api) -> None:
    begin = core.list_namespaced_pod(NS).metadata.resource_version
    core.create_namespaced_config_map(NS, config_map("a"))           # of another resource
    stream = watch.Watch()
    for event in stream.stream(core.list_namespaced_pod, NS, resource_version=begin,
                               allow_watch_bookmarks=True, timeout_seconds=3):
        assert event["type"] == "BOOKMARK"
        stream.stop()
    assert int(stream.resource_version) > int(begin)


def test_a_version_that_is_gone(api: Server, core: client.CoreV1Api) -> None:
    core.create_namespaced_config_map(NS, config_map("a"))
    page = core.list_namespaced_config_map(NS, limit=1)
    api.store.compact(api.store.put(b"other", b"").revision)
    with pytest.raises(ApiException) as caught:
        list(watch.Watch().stream(core.list_namespaced_secret, NS, resource_version="1",
                                  timeout_seconds=1))
    assert caught.value.status == 410
    status = refused(410, "Expired", core.list_namespaced_config_map, NS, limit=1,
                     _continue=page.metadata._continue)
    rest = core.list_namespaced_config_map(NS, _continue=status["metadata"]["continue"])
    assert names(page) + names(rest) == ["a", "kube-root-ca.crt"]


# --- writing --------------------------------------------------------------------------------------

def test_a_replace_that_conflicts(core: client.CoreV1Api) -> None:
    made = core.create_namespaced_config_map(NS, config_map("a"))
    made.data = {"k": "1"}
    newer = core.replace_namespaced_config_map("a", NS, made)
    assert int(newer.metadata.resource_version) > int(made.metadata.resource_version)
    made.data = {"k": "2"}
    status = refused(409, "Conflict", core.replace_namespaced_config_map, "a", NS, made)
    assert status["message"] == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; please '
        "apply your changes to the latest version and try again")
    assert status["details"] == {"name": "a", "kind": "configmaps"}
    assert core.read_namespaced_config_map("a", NS).data == {"k": "1"}


def test_what_was_read_can_be_put_back(core: client.CoreV1Api, apps: client.AppsV1Api) -> None:
    """Through the client's models, and it changes nothing."""
    core.create_namespaced_pod(NS, pod("p"))
    apps.create_namespaced_deployment(NS, deployment("d"))
    for read, replace, name in (
            (core.read_namespaced_pod, core.replace_namespaced_pod, "p"),
            (apps.read_namespaced_deployment, apps.replace_namespaced_deployment, "d"),
            (core.read_namespaced_service_account, core.replace_namespaced_service_account, NS),
            (core.read_namespaced_config_map, core.replace_namespaced_config_map,
             "kube-root-ca.crt")):
        found = read(name, NS)
        assert replace(name, NS, found) == found
        found.metadata.labels = {"new": "label"}
        assert replace(name, NS, found).metadata.labels == {"new": "label"}
    assert core.read_namespaced_pod("p", NS).spec.service_account == NS


def test_patches(conn: client.ApiClient, core: client.CoreV1Api) -> None:
    core.create_namespaced_config_map(NS, config_map("a"))
    patched = core.patch_namespaced_config_map("a", NS, [
        {"op": "add", "path": "/data/x", "value": "1"}])
    assert patched.data == {"k": "v", "x": "1"}
    merged = core.patch_namespaced_config_map(
        "a", NS, {"data": {"k": None, "y": "2"}}, _content_type="application/merge-patch+json")
    assert merged.data == {"x": "1", "y": "2"}
    for kind in ("application/strategic-merge-patch+json", "application/apply-patch+yaml"):
        more = {"field_manager": "m"} if "apply" in kind else {}
        refused(415, "UnsupportedMediaType", core.patch_namespaced_config_map, "a", NS,
                {"data": {"z": "3"}}, _content_type=kind, **more)
    refused(422, "Invalid", core.patch_namespaced_config_map, "a", NS, [
        {"op": "test", "path": "/data/x", "value": "other"}])
    assert core.read_namespaced_config_map("a", NS).data == {"x": "1", "y": "2"}


def test_dry_runs_write_nothing(core: client.CoreV1Api) -> None:
    made = core.create_namespaced_config_map(NS, config_map("a"), dry_run="All")
    assert made.metadata.uid and not made.metadata.resource_version
    refused(404, "NotFound", core.read_namespaced_config_map, "a", NS)
    stored = core.create_namespaced_config_map(NS, config_map("a"))
    core.replace_namespaced_config_map("a", NS, config_map("a", {"x": "y"}), dry_run="All")
    core.patch_namespaced_config_map("a", NS, [{"op": "remove", "path": "/data/k"}], dry_run="All")
    core.delete_namespaced_config_map("a", NS, dry_run="All")
    core.delete_collection_namespaced_config_map(NS, dry_run="All")
    assert core.read_namespaced_config_map("a", NS) == stored


def test_field_validation(api: Server, conn: client.ApiClient, core: client.CoreV1Api) -> None:
    """Past the client's models, which refuse unknown fields themselves."""
    url, body = f"{api.url}/api/v1/namespaces/default/configmaps", config_map("a") | {"nonsense": 1}
    kind = {"Content-Type": "application/json"}
    answer = conn.rest_client.request("POST", f"{url}?fieldValidation=Strict", kind, body)
    assert answer.status == 400
    assert 'unknown field "nonsense"' in json.loads(answer.read())["message"]
    answer = conn.rest_client.request("POST", url, kind, body)
    assert answer.status == 201 and "nonsense" not in json.loads(answer.read())
    assert answer.getheader("Warning") == '299 - "unknown field \\"nonsense\\""'
    answer = conn.rest_client.request("PUT", f"{url}/a?fieldValidation=Ignore", kind, body)
    assert answer.status == 200 and not answer.getheader("Warning")
    answer.read()
    assert core.read_namespaced_config_map("a", NS).data == {"k": "v"}


def test_what_is_invalid_says_why(core: client.CoreV1Api, apps: client.AppsV1Api) -> None:
    status = refused(422, "Invalid", core.create_namespaced_pod, NS, pod(
        "Not_A_Name", restartPolicy="Sometimes"))
    assert {cause["field"] for cause in status["details"]["causes"]} == {
        "metadata.name", "spec.restartPolicy"}
    apps.create_namespaced_deployment(NS, deployment("d"))
    status = refused(409, "AlreadyExists", apps.create_namespaced_deployment, NS, deployment("d"))
    assert status["details"] == {"name": "d", "group": "apps", "kind": "deployments"}
    status = refused(404, "NotFound", core.create_namespaced_config_map, "nowhere", config_map("a"))
    assert status["message"] == 'namespaces "nowhere" not found'


# --- deleting -------------------------------------------------------------------------------------

def test_deletes_with_grace(core: client.CoreV1Api) -> None:
    core.create_namespaced_pod(NS, pod("free"))
    core.create_namespaced_pod(NS, pod("bound", nodeName="n1"))
    core.delete_namespaced_pod("free", NS)
    refused(404, "NotFound", core.read_namespaced_pod, "free", NS)
    going = core.delete_namespaced_pod("bound", NS, grace_period_seconds=20)
    assert going.metadata.deletion_grace_period_seconds == 20
    assert core.read_namespaced_pod("bound", NS).metadata.deletion_timestamp
    core.delete_namespaced_pod("bound", NS, body=client.V1DeleteOptions(grace_period_seconds=0))
    refused(404, "NotFound", core.read_namespaced_pod, "bound", NS)


def test_propagation_and_preconditions(apps: client.AppsV1Api) -> None:
    made = apps.create_namespaced_deployment(NS, deployment("d"))
    wrong = client.V1Preconditions(uid="0")
    refused(409, "Conflict", apps.delete_namespaced_deployment, "d", NS,
            body=client.V1DeleteOptions(preconditions=wrong))
    refused(422, "Invalid", apps.delete_namespaced_deployment, "d", NS,
            propagation_policy="Sideways")
    apps.delete_namespaced_deployment("d", NS, propagation_policy="Foreground")
    held = apps.read_namespaced_deployment("d", NS)
    assert held.metadata.finalizers == ["foregroundDeletion"] and held.metadata.deletion_timestamp
    apps.patch_namespaced_deployment("d", NS, [{"op": "remove", "path": "/metadata/finalizers"}])
    refused(404, "NotFound", apps.read_namespaced_deployment, "d", NS)
    again = apps.create_namespaced_deployment(NS, deployment("d"))
    assert again.metadata.uid != made.metadata.uid
    gone = apps.delete_namespaced_deployment("d", NS, propagation_policy="Background")
    assert gone["status"] == "Success" and gone["details"]["uid"] == again.metadata.uid


def test_collections(core: client.CoreV1Api) -> None:
    for number in range(6):
        core.create_namespaced_pod(NS, pod(f"p{number}") | {
            "metadata": {"name": f"p{number}", "labels": {"app": "ab"[number % 2]}}})
    core.delete_collection_namespaced_pod(NS, label_selector="app=a", grace_period_seconds=0)
    assert names(core.list_namespaced_pod(NS)) == ["p1", "p3", "p5"]
    core.delete_collection_namespaced_pod(NS)
    assert names(core.list_namespaced_pod(NS)) == []


def test_a_namespace_ends(core: client.CoreV1Api) -> None:
    core.create_namespace({"metadata": {"name": "brief"}})
    core.create_namespaced_config_map("brief", config_map("a"))
    stream = watch.Watch()
    begin = core.list_namespace().metadata.resource_version
    core.delete_namespace("brief")
    for event in stream.stream(core.list_namespace, resource_version=begin,
                               field_selector="metadata.name=brief"):
        if event["type"] == "DELETED":
            stream.stop()
    assert names(core.list_namespaced_config_map("brief")) == []


# --- parts ----------------------------------------------------------------------------------------

def test_a_pods_way_to_its_node(core: client.CoreV1Api) -> None:
    core.create_namespaced_pod(NS, pod("p"))
    bind = client.V1Binding(metadata=client.V1ObjectMeta(name="p"),
                            target=client.V1ObjectReference(kind="Node", name="n1"))
    core.create_namespaced_pod_binding("p", NS, bind, _preload_content=False)
    bound = core.read_namespaced_pod("p", NS)
    assert bound.spec.node_name == "n1"
    assert [c.type for c in bound.status.conditions] == ["PodScheduled"]
    refused(409, "Conflict", core.create_namespaced_pod_binding, "p", NS, bind)
    running = core.patch_namespaced_pod_status("p", NS, {"status": {"phase": "Running"}},
                                               _content_type="application/merge-patch+json")
    assert running.status.phase == "Running"
    assert names(core.list_pod_for_all_namespaces(
        field_selector="spec.nodeName=n1,status.phase=Running")) == ["p"]
    evict = client.V1Eviction(metadata=client.V1ObjectMeta(name="p", namespace=NS))
    core.create_namespaced_pod_eviction("p", NS, evict)
    assert core.read_namespaced_pod("p", NS).metadata.deletion_timestamp


def test_a_budget_holds_a_pod(conn: client.ApiClient, core: client.CoreV1Api) -> None:
    policy = client.PolicyV1Api(conn)
    core.create_namespaced_pod(NS, pod("p", nodeName="n1") | {
        "metadata": {"name": "p", "labels": {"app": "a"}}})
    core.patch_namespaced_pod_status("p", NS, {"status": {"phase": "Running", "conditions": [
        {"type": "Ready", "status": "True"}]}}, _content_type="application/merge-patch+json")
    policy.create_namespaced_pod_disruption_budget(NS, {
        "metadata": {"name": "b"}, "spec": {"minAvailable": 1,
                                            "selector": {"matchLabels": {"app": "a"}}}})
    evict = client.V1Eviction(metadata=client.V1ObjectMeta(name="p", namespace=NS))
    refused(429, "TooManyRequests", core.create_namespaced_pod_eviction, "p", NS, evict)
    assert core.read_namespaced_pod("p", NS).metadata.deletion_timestamp is None


def test_a_deployments_status_and_scale(apps: client.AppsV1Api) -> None:
    made = apps.create_namespaced_deployment(NS, deployment("d"))
    assert made.metadata.generation == 1
    scale = apps.read_namespaced_deployment_scale("d", NS)
    assert (scale.spec.replicas, scale.status.selector) == (2, "app=d")
    scale.spec.replicas = 5
    assert apps.replace_namespaced_deployment_scale("d", NS, scale).spec.replicas == 5
    now = apps.read_namespaced_deployment("d", NS)
    assert (now.spec.replicas, now.metadata.generation) == (5, 2)
    now.status = client.V1DeploymentStatus(replicas=5, observed_generation=2)
    now.spec.replicas = 9                               # not the status: stays
    told = apps.replace_namespaced_deployment_status("d", NS, now)
    assert (told.status.replicas, told.spec.replicas, told.metadata.generation) == (5, 5, 2)
    patched = apps.patch_namespaced_deployment_scale(
        "d", NS, {"spec": {"replicas": 0}}, _content_type="application/merge-patch+json")
    assert (patched.spec.replicas, patched.status.replicas) == (None, 5)    # 0 is left out


# --- who ------------------------------------------------------------------------------------------

def by_token(api: Server, core: client.CoreV1Api) -> client.ApiClient:
    """As a service account of its own, by its token."""
    core.create_namespaced_service_account(NS, {"metadata": {"name": "reader"}})
    token = core.create_namespaced_service_account_token("reader", NS, {
        "spec": {"expirationSeconds": 600}}).status.token
    given = api.kubeconfig
    given["users"][0]["user"] = {"token": token}
    return config.new_client_from_config_dict(given)


def test_a_user_who_may_only_read(api: Server, conn: client.ApiClient,
                                  core: client.CoreV1Api) -> None:
    rbac = client.RbacAuthorizationV1Api(conn)
    core.create_namespaced_config_map(NS, config_map("a"))
    with by_token(api, core) as other:
        mine = client.CoreV1Api(other)
        status = refused(403, "Forbidden", mine.list_namespaced_config_map, NS)
        assert status["message"] == (
            'configmaps is forbidden: User "system:serviceaccount:default:reader" cannot list '
            'resource "configmaps" in API group "" in the namespace "default"')
        rbac.create_namespaced_role(NS, {"metadata": {"name": "r"}, "rules": [
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]})
        rbac.create_namespaced_role_binding(NS, {
            "metadata": {"name": "b"}, "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": NS}]})
        assert mine.read_namespaced_config_map("a", NS).data == {"k": "v"}
        assert "a" in names(mine.list_namespaced_config_map(NS))
        refused(403, "Forbidden", mine.list_config_map_for_all_namespaces)
        refused(403, "Forbidden", mine.create_namespaced_config_map, NS, config_map("b"))
        refused(403, "Forbidden", mine.delete_namespaced_config_map, "a", NS)
        myself = client.AuthenticationV1Api(other).create_self_subject_review({})
        assert myself.status.user_info.username == "system:serviceaccount:default:reader"
        core.delete_namespaced_service_account("reader", NS)
        refused(401, "Unauthorized", mine.read_namespaced_config_map, "a", NS)


# --- the informer ---------------------------------------------------------------------------------

def test_the_informer(core: client.CoreV1Api) -> None:
    core.create_namespaced_config_map(NS, config_map("before", app="x"))
    told: queue.Queue[tuple[str, str]] = queue.Queue()
    follower = informer.SharedInformer(core.list_namespaced_config_map, namespace=NS,
                                       label_selector="app=x")
    for kind in (informer.ADDED, informer.MODIFIED, informer.DELETED):
        follower.add_event_handler(
            kind, lambda obj, kind=kind: told.put((kind, obj.metadata.name)))
    follower.add_event_handler(informer.ERROR, lambda error: told.put(("ERROR", str(error))))
    follower.start()
    try:
        assert told.get(timeout=PATIENCE) == ("ADDED", "before")
        core.create_namespaced_config_map(NS, config_map("a", app="x"))
        core.create_namespaced_config_map(NS, config_map("other", app="y"))
        assert told.get(timeout=PATIENCE) == ("ADDED", "a")
        core.patch_namespaced_config_map("a", NS, [
            {"op": "replace", "path": "/data/k", "value": "w"}])
        assert told.get(timeout=PATIENCE) == ("MODIFIED", "a")
        assert follower.cache.get_by_key(f"{NS}/a").data == {"k": "w"}
        core.patch_namespaced_config_map("a", NS, [                # it is selected no more
            {"op": "replace", "path": "/metadata/labels/app", "value": "y"}])
        assert told.get(timeout=PATIENCE) == ("DELETED", "a")
        core.delete_namespaced_config_map("before", NS)
        assert told.get(timeout=PATIENCE) == ("DELETED", "before")
        assert follower.cache.list_keys() == []
    finally:
        follower.stop()


# --- curl -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl_by_certificate_and_by_token(api: Server, core: client.CoreV1Api, tmp_path: Path,
                                          version: str) -> None:
    for name, data in (("ca", api.ca), ("cert", api.pki.admin.pem),
                       ("key", api.pki.admin.key_pem)):
        (tmp_path / name).write_bytes(data)
    certificate = ["--cert", str(tmp_path / "cert"), "--key", str(tmp_path / "key")]
    token = core.create_namespaced_service_account_token(NS, NS, {"spec": {}}).status.token
    path = f"{api.url}/api/v1/namespaces/default/configmaps"

    def curl(*arguments: str) -> tuple[int, Object]:
        said = subprocess.run(
            ["curl", "-sS", version, "--cacert", str(tmp_path / "ca"), "-w",
             "\n%{http_code} %{http_version}", *arguments],
            capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
        body, _, tail = said.rpartition("\n")
        code, spoken = tail.split()
        assert spoken == ("2" if version == "--http2" else "1.1")
        return int(code), json.loads(body)

    kind = ["-H", "Content-Type: application/json", "--data", json.dumps(config_map("a"))]
    assert curl(*certificate, *kind, path)[0] == 201
    code, status = curl("-H", f"Authorization: Bearer {token}", f"{path}/a")
    assert code == 403 and "system:serviceaccount:default:default" in status["message"]
    code, status = curl("-H", "Authorization: Bearer wrong", f"{path}/a")
    assert code == 401 and status["reason"] == "Unauthorized"
    code, status = curl(f"{path}/a")
    assert code == 403 and 'User "system:anonymous"' in status["message"]
    code, event = curl(*certificate, f"{path}?watch=1&timeoutSeconds=1&fieldSelector="
                                     "metadata.name%3Da")
    assert (code, event["type"]) == (200, "ADDED")
    assert curl(*certificate, "-X", "DELETE", f"{path}/a")[0] == 200
