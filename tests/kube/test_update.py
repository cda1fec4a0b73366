# SPDX-License-Identifier: Apache-2.0
"""PUT: what stays, what counts as a change, who was faster, and the words of each refusal."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from kube_server import CONFIG_MAPS, DEPLOYMENTS, PODS, Kube, Object, config_map, deployment, pod

from kvcore.kube import status
from kvcore.kube.admission import Chain, mutating
from kvcore.kube.call import Call
from kvcore.kube.request import Answer
from kvcore.kube.storage import Changed

LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
A = f"{CONFIG_MAPS}/a"
MODIFIED = ('Operation cannot be fulfilled on configmaps "a": the object has been modified; please '
            "apply your changes to the latest version and try again")


def lease(name: str, holder: str, **metadata: Any) -> Object:
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, **metadata}, "spec": {"holderIdentity": holder}}


def test_system_fields_stay(kube: Kube) -> None:
    made = kube.make(CONFIG_MAPS, config_map("a")).meta
    kube.now += 60
    reply = kube.call("PUT", A, config_map(
        "a", {"b": "2"}, creationTimestamp="2001-01-01T00:00:00Z", generation=99, selfLink="/x"))
    assert reply.code == 200 and reply.obj["data"] == {"b": "2"}
    assert reply.meta == {**made, "resourceVersion": reply.meta["resourceVersion"]}
    assert reply.rv == kube.store.revision == int(made["resourceVersion"]) + 1
    assert kube.call("GET", A).obj == reply.obj


def test_a_deletion_stays(kube: Kube) -> None:
    """Whoever does not know of it updates all the same, and takes nothing back."""
    kube.make(CONFIG_MAPS, config_map("a", finalizers=["f.io/x"]))
    going = kube.call("DELETE", A).meta
    kube.now += 60
    reply = kube.call("PUT", A, config_map("a", {"b": "2"}, finalizers=["f.io/x"]))
    assert reply.code == 200
    assert reply.meta == {**going, "resourceVersion": reply.meta["resourceVersion"]}
    assert reply.meta["deletionTimestamp"] and kube.call("GET", A).obj == reply.obj


def test_what_changes_nothing_writes_nothing(kube: Kube) -> None:
    first = kube.make(CONFIG_MAPS, config_map("a", {"x": "1", "y": "2"}, labels={"l": "1"}))
    events = kube.watch(CONFIG_MAPS)
    again = {"data": {"y": "2", "x": "1"}, "kind": "ConfigMap", "apiVersion": "v1",
             "metadata": {"labels": {"l": "1"}, "name": "a"}}
    assert kube.call("PUT", A, again).obj == first.obj
    assert kube.call("PUT", A, first.obj).obj == first.obj
    assert kube.store.revision == first.rv and events.take() == []
    other = kube.call("PUT", A, config_map("a", {"x": "1"}))
    assert [(kind, obj["metadata"]["resourceVersion"]) for kind, obj in events.take()] == [
        ("MODIFIED", str(other.rv))]


def test_true_is_not_one(kube: Kube) -> None:
    made = kube.make(LEASES, lease("l", "x") | {"spec": {"leaseTransitions": 1}})
    spec = {"spec": {"leaseTransitions": True}}
    reply = kube.call("PUT", f"{LEASES}/l", {**made.obj, **spec})
    assert reply.code != 200 or reply.rv != made.rv


REFUSED: list[tuple[str, Object, int, str, str]] = [
    ("a", config_map("b"), 400, "BadRequest",
     "the name of the object (b) does not match the name on the URL (a)"),
    ("a", {"metadata": {}}, 400, "BadRequest",
     "the name of the object (a based on URL) was undeterminable: name must be provided"),
    ("nope", config_map("nope"), 404, "NotFound", 'configmaps "nope" not found'),
    ("a", config_map("a", resourceVersion="1"), 409, "Conflict", MODIFIED),
    ("a", config_map("a", resourceVersion="999999"), 409, "Conflict", MODIFIED),
    ("a", config_map("a", resourceVersion="abc"), 500, "",
     'strconv.ParseUint: parsing "abc": invalid syntax'),
    ("a", config_map("a", resourceVersion="9" * 20), 500, "",
     f'strconv.ParseUint: parsing "{"9" * 20}": value out of range'),
    ("a", config_map("a", namespace="other"), 400, "BadRequest", "the namespace of the provided "
     "object does not match the namespace sent on the request"),
    ("a", {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}}, 400, "BadRequest",
     'Secret in version "v1" cannot be handled as a ConfigMap: converting (v1.Secret) to '
     "(core.ConfigMap): unknown conversion"),
    ("a", config_map("a", deletionTimestamp="2030-01-01T00:00:00Z"), 422, "Invalid",
     'ConfigMap "a" is invalid: metadata.deletionTimestamp: Invalid value: '
     '"2030-01-01T00:00:00Z": field is immutable'),
    ("a?dryRun=x", config_map("a"), 422, "Invalid", 'UpdateOptions.meta.k8s.io "" is invalid: '
     'dryRun: Unsupported value: ["x"]: supported values: "All"'),
]


@pytest.mark.parametrize(("name", "body", "code", "reason", "message"), REFUSED)
def test_refused(kube: Kube, name: str, body: Object, code: int, reason: str,
                 message: str) -> None:
    kube.make(CONFIG_MAPS, config_map("a"))
    before = kube.store.revision
    reply = kube.call("PUT", f"{CONFIG_MAPS}/{name}", body)
    assert (reply.code, reply.reason, reply.message) == (code, reason, message)
    assert kube.store.revision == before


def test_another_objects_uid(kube: Kube) -> None:
    made = kube.make(CONFIG_MAPS, config_map("a"))
    reply = kube.call("PUT", A, config_map("a", uid="x"))
    assert (reply.code, reply.message) == (409, (
        'Operation cannot be fulfilled on configmaps "a": StorageError: invalid object, Code: 4, '
        "Key: /configmaps/default/a, ResourceVersion: 0, AdditionalErrorMsg: Precondition "
        f"failed: UID in precondition: x, UID in object meta: {made.meta['uid']}"))


def test_dry_run_stores_nothing(kube: Kube) -> None:
    made = kube.make(CONFIG_MAPS, config_map("a"))
    reply = kube.call("PUT", f"{A}?dryRun=All", config_map("a", {"b": "2"}))
    assert reply.obj["data"] == {"b": "2"} and reply.rv == made.rv
    assert kube.call("GET", A).obj == made.obj


# --- who was faster -------------------------------------------------------------------------------

def test_without_a_version_the_last_one_wins(kube: Kube) -> None:
    kube.make(CONFIG_MAPS, config_map("a"))

    async def all_at_once() -> list[Answer]:
        return await asyncio.gather(*(kube.ask("PUT", A, config_map("a", {"n": str(n)}))
                                      for n in range(30)))
    answers = kube.run(all_at_once())
    assert {a.code for a in answers} == {200}
    versions = {int(orjson.loads(a.body)["metadata"]["resourceVersion"]) for a in answers}
    assert len(versions) == 30 and max(versions) == kube.store.revision


def test_with_a_version_one_wins(kube: Kube) -> None:
    rv = kube.make(CONFIG_MAPS, config_map("a")).meta["resourceVersion"]

    async def all_at_once() -> list[Answer]:
        return await asyncio.gather(*(
            kube.ask("PUT", A, config_map("a", {"n": str(n)}, resourceVersion=rv))
            for n in range(30)))
    assert sorted(a.code for a in kube.run(all_at_once())) == [200] + [409] * 29


def test_somebody_is_always_faster_at_first(kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt looks again, and what admission did to the last attempt is forgotten."""
    kube.make(CONFIG_MAPS, config_map("a"))
    replace, tries = kube.api.objects.replace, []

    async def slower(key: bytes, stored: bytes, revision: int, lease: int = 0) -> int:
        tries.append(revision)
        if len(tries) < 4:
            kube.store.put(key, kube.store.get(key).value)     # type: ignore[union-attr]
            raise Changed(None)
        return await replace(key, stored, revision, lease)
    monkeypatch.setattr(kube.api.objects, "replace", slower)
    assert kube.call("PUT", A, config_map("a", {"b": "2"})).code == 200
    assert tries == sorted(set(tries)) and len(tries) == 4


def test_kinds_that_need_a_version(kube: Kube) -> None:
    kube.make(LEASES, lease("l", "x"))
    reply = kube.call("PUT", f"{LEASES}/l", lease("l", "y"))
    assert (reply.code, reply.message) == (422, (
        'leases.coordination.k8s.io "l" is invalid: metadata.resourceVersion: Invalid value: 0: '
        "must be specified for an update"))
    assert reply.obj["details"]["kind"] == "leases"


# --- creating by PUT ------------------------------------------------------------------------------

def test_some_kinds_are_created_by_put(kube: Kube) -> None:
    reply = kube.call("PUT", f"{LEASES}/l", lease("l", "x"))
    assert reply.code == 201 and reply.meta["uid"]
    assert kube.call("GET", f"{LEASES}/l").obj == reply.obj
    other = kube.call("PUT", f"{LEASES}/m", lease("m", "x", uid="zz"))
    assert other.code == 409 and other.message.endswith("UID in object meta: ")
    assert kube.call("PUT", f"{PODS}/p", pod("p")).code == 404


def test_creating_by_put_is_authorized_as_a_create(kube: Kube) -> None:
    def authorize(user: object, target: Any) -> None:
        if target.verb == "create":
            raise status.forbidden(None, "", "no")
    kube.api.authorize = authorize
    assert kube.call("PUT", f"{LEASES}/l", lease("l", "x")).code == 403
    assert kube.call("GET", f"{LEASES}/l").code == 404


def test_admission_does_not_rename_what_a_put_creates() -> None:
    """Or a PUT of one name would be an update of another, which its writer may not touch."""
    @mutating()
    def rename(call: Call) -> None:
        call.object["metadata"]["name"] = "other"

    with Kube(admission=Chain([rename])) as kube:
        made = kube.make(LEASES, lease("posted", "x"))
        assert made.meta["name"] == "other"
        for name in ("l", "m"):
            reply = kube.call("PUT", f"{LEASES}/{name}", lease(name, "mine"))
            assert reply.code == 500
            assert reply.message.endswith("admission may not change metadata.name")
        assert kube.call("GET", f"{LEASES}/other").obj == made.obj
        assert kube.call("GET", LEASES).obj["items"] == [made.obj]


# --- generation and status ------------------------------------------------------------------------

D = f"{DEPLOYMENTS}/d"


def test_generation_counts_what_is_wanted(kube: Kube) -> None:
    kube.make(DEPLOYMENTS, deployment("d"))

    def generation(body: Object, url: str = D) -> int:
        reply = kube.call("PUT", url, body)
        assert reply.code == 200, reply
        return int(reply.meta["generation"])
    assert generation(deployment("d")) == 1
    assert generation(deployment("d", 2)) == 2
    assert generation(deployment("d", 2, labels={"a": "1"})) == 2
    assert generation(deployment("d", 2, annotations={"a": "1"})) == 3
    assert generation({**deployment("d", 9), "status": {"replicas": 1}}, f"{D}/status") == 3
    assert generation({**deployment("d", 3), "status": {"replicas": 5}}) == 4
    assert kube.make(CONFIG_MAPS, config_map("a")).meta.get("generation") is None
    assert kube.call("PUT", A, config_map("a", {"b": "2"})).meta.get("generation") is None


def test_status_and_spec_are_written_apart(kube: Kube) -> None:
    kube.make(DEPLOYMENTS, {**deployment("d"), "status": {"replicas": 9}})
    assert not kube.call("GET", D).obj.get("status", {}).get("replicas")
    reply = kube.call("PUT", f"{D}/status", {**deployment("d", 7, labels={"no": "1"}),
                                             "status": {"replicas": 3}})
    assert reply.obj["spec"]["replicas"] == 1 and reply.obj["status"]["replicas"] == 3
    assert "labels" not in reply.meta
    reply = kube.call("PUT", D, {**deployment("d", 7), "status": {"replicas": 4}})
    assert reply.obj["spec"]["replicas"] == 7 and reply.obj["status"]["replicas"] == 3
    assert kube.call("GET", f"{D}/status").obj == reply.obj


def test_a_pods_status_keeps_its_owners(kube: Kube) -> None:
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}
    kube.make(PODS, pod("p", ownerReferences=[owner]))
    reply = kube.call("PUT", f"{PODS}/p/status", {**pod("p"), "status": {"phase": "Running"}})
    assert reply.meta["ownerReferences"] == [owner]
    assert reply.obj["status"] == {"phase": "Running", "qosClass": "BestEffort"}
    assert reply.meta["generation"] == 1


# --- the end of an object -------------------------------------------------------------------------

def test_the_last_finalizer(kube: Kube) -> None:
    kube.make(CONFIG_MAPS, config_map("a", finalizers=["x.y/1", "x.y/2"]))
    kube.call("DELETE", A)
    events = kube.watch(CONFIG_MAPS)
    more = kube.call("PUT", A, config_map("a", finalizers=["x.y/1", "x.y/2", "x.y/3"]))
    assert (more.code, more.message) == (422, (
        'ConfigMap "a" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added '
        'if the object is being deleted, found new finalizers []string{"x.y/3"}'))
    one = kube.call("PUT", A, config_map("a", finalizers=["x.y/2"]))
    assert one.code == 200 and one.meta["deletionTimestamp"]
    dry = kube.call("PUT", f"{A}?dryRun=All", config_map("a"))
    assert dry.code == 200 and kube.call("GET", A).code == 200
    last = kube.call("PUT", A, config_map("a"))
    assert last.code == 200 and last.rv == one.rv and "finalizers" not in last.meta
    assert kube.call("GET", A).code == 404
    assert [(kind, obj["metadata"]["resourceVersion"]) for kind, obj in events.take()] == [
        ("MODIFIED", str(one.rv)), ("DELETED", str(kube.store.revision))]


def test_update_in_process(kube: Kube) -> None:
    maps = kube.api.resources.of_path("", "v1", "configmaps")
    assert maps is not None
    made = orjson.loads(kube.run(kube.api.create(maps, config_map("a"), "default")))
    made["data"] = {"b": "2"}
    body = orjson.loads(kube.run(kube.api.update(maps, made, "default")))
    assert body["data"] == {"b": "2"}
    assert orjson.loads(kube.run(kube.api.get(maps, "a", "default"))) == body
    listed = orjson.loads(kube.run(kube.api.list(maps, "default", limit="1")))
    assert listed["items"] == [body]


def test_owners_are_kept_once(kube: Kube) -> None:
    made = kube.make(CONFIG_MAPS, config_map("a"))
    one = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}
    other = one | {"controller": True}           # the same uid, and yet another reference
    told = (".metadata.ownerReferences contains duplicate entries{}; API server dedups owner "
            "references in 1.20+, and may reject such requests as early as 1.24; please fix your "
            "requests; duplicate UID(s) observed: u")
    owned = config_map("a", ownerReferences=[one, other, one])
    for reply, when in (
            (kube.call("POST", f"{CONFIG_MAPS}?dryRun=All", owned | {
                "metadata": owned["metadata"] | {"name": "b"}}), ""),
            (kube.call("PUT", f"{A}?dryRun=All", owned), ""),
            (kube.call("PATCH", f"{A}?dryRun=All", {"metadata": {
                "ownerReferences": [one, other, one]}}, patch="merge"),
             " after mutating admission happens")):
        assert reply.code in (200, 201) and reply.meta["ownerReferences"] == [one, other]
        assert [text.replace('\\"', '"') for text in reply.warnings] == [
            f'299 - "{told.format(when)}"']
    assert kube.call("GET", A).obj == made.obj
