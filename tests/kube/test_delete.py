# SPDX-License-Identifier: Apache-2.0
"""DELETE: at once, with finalizers, with grace; preconditions; collections; what each answers."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from kube_server import CONFIG_MAPS, DEPLOYMENTS, PODS, Kube, Object, config_map, deployment, pod

from kvcore.kube import status
from kvcore.kube.admission import Chain
from kvcore.kube.call import Call
from kvcore.kube.request import Answer
from kvcore.kube.storage import Changed

A = f"{CONFIG_MAPS}/a"
P = f"{PODS}/p"
NAMESPACE = "/api/v1/namespaces/n"


def kinds(events: list[tuple[str, Object]]) -> list[str]:
    return [kind for kind, _ in events]


def test_at_once(kube: Kube) -> None:
    made = kube.make(CONFIG_MAPS, config_map("a"))
    events = kube.watch(CONFIG_MAPS)
    reply = kube.call("DELETE", A)
    assert (reply.code, reply.obj) == (200, {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": "a", "kind": "configmaps", "uid": made.meta["uid"]}})
    (kind, obj), = events.take()
    assert kind == "DELETED" and obj["metadata"]["resourceVersion"] == str(kube.store.revision)
    assert kube.call("DELETE", A).code == 404


def test_some_kinds_show_the_object(kube: Kube) -> None:
    url = "/api/v1/namespaces/default/serviceaccounts"
    made = kube.make(url, {"metadata": {"name": "s"}})
    reply = kube.call("DELETE", f"{url}/s")
    assert reply.code == 200 and reply.obj["kind"] == "ServiceAccount"
    assert reply.meta["uid"] == made.meta["uid"] and reply.rv == kube.store.revision


REFUSED: list[tuple[str, Any, int, str, str]] = [
    ("", {"preconditions": {"uid": "x"}}, 409, "Conflict", 'Operation cannot be fulfilled on '
     'ConfigMap "a": the UID in the precondition (x) does not match the UID in record (UID). The '
     "object might have been deleted and then recreated"),
    ("", {"preconditions": {"resourceVersion": "1"}}, 409, "Conflict", 'Operation cannot be '
     'fulfilled on ConfigMap "a": the ResourceVersion in the precondition (1) does not match the '
     "ResourceVersion in record (RV). The object might have been modified"),
    ("", {"propagationPolicy": "Foo"}, 422, "Invalid", 'DeleteOptions.meta.k8s.io "" is invalid: '
     'propagationPolicy: Unsupported value: "Foo": supported values: "Foreground", "Background", '
     '"Orphan", "nil"'),
    ("?propagationPolicy=Foo", None, 422, "Invalid", 'DeleteOptions.meta.k8s.io "" is invalid: '
     'propagationPolicy: Unsupported value: "Foo": supported values: "Foreground", "Background", '
     '"Orphan", "nil"'),
    ("", {"propagationPolicy": "Orphan", "orphanDependents": True}, 422, "Invalid",
     'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Invalid value: "Orphan": '
     "orphanDependents and deletionPropagation cannot be both set"),
    ("", {"dryRun": ["x"]}, 422, "Invalid", 'DeleteOptions.meta.k8s.io "" is invalid: dryRun: '
     'Unsupported value: ["x"]: supported values: "All"'),
    ("?gracePeriodSeconds=abc", None, 400, "BadRequest",
     'strconv.ParseInt: parsing "abc": invalid syntax'),
    ("", {"gracePeriodSeconds": "x"}, 400, "BadRequest", "json: cannot unmarshal string into Go "
     "struct field DeleteOptions.gracePeriodSeconds of type int64"),
    ("", b"{", 400, "BadRequest", "couldn't get version/kind; json parse error: unexpected end of "
     "JSON input"),
    ("", {"kind": "Pod", "apiVersion": "v1"}, 400, "BadRequest", 'no kind "Pod" is registered for '
     'version "v1" in scheme "pkg/runtime/scheme.go:111"'),
]


@pytest.mark.parametrize(("query", "body", "code", "reason", "message"), REFUSED)
def test_refused(kube: Kube, query: str, body: Any, code: int, reason: str, message: str) -> None:
    made = kube.make(CONFIG_MAPS, config_map("a"))
    reply = kube.call("DELETE", A + query, body)
    message = message.replace("UID)", f"{made.meta['uid']})").replace("RV)", f"{made.rv})")
    assert (reply.code, reply.reason, reply.message) == (code, reason, message)
    if code == 409:
        assert reply.obj["details"] == {"name": "a", "kind": "ConfigMap"}
    assert kube.call("GET", A).obj == made.obj and kube.store.revision == made.rv


def test_preconditions_that_hold(kube: Kube) -> None:
    made = kube.make(CONFIG_MAPS, config_map("a"))
    before = {"uid": made.meta["uid"], "resourceVersion": str(made.rv)}
    assert kube.call("DELETE", A, {"preconditions": before}).code == 200
    made = kube.make(PODS, pod("p", "n1"))        # two writes: the second is behind the first
    before = {"uid": made.meta["uid"], "resourceVersion": str(made.rv)}
    assert kube.call("DELETE", P, {"preconditions": before, "gracePeriodSeconds": 0}).code == 200
    assert kube.call("GET", P).code == 404


def test_a_precondition_held_when_it_was_asked(kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody writes between the two writes of a pod's delete: it goes all the same."""
    made = kube.make(PODS, pod("p", "n1"))
    remove, tries = kube.api.objects.remove, []

    async def slower(key: bytes, revision: int) -> int:
        tries.append(revision)
        if len(tries) == 1:
            kube.store.put(key, kube.store.get(key).value)     # type: ignore[union-attr]
            raise Changed(kube.store.get(key))
        return await remove(key, revision)
    monkeypatch.setattr(kube.api.objects, "remove", slower)
    before = {"resourceVersion": str(made.rv)}
    assert kube.call("DELETE", P, {"preconditions": before, "gracePeriodSeconds": 0}).code == 200
    assert len(tries) == 2 and kube.call("GET", P).code == 404


@pytest.mark.parametrize("how", ["?dryRun=All", {"dryRun": ["All"]}])
def test_dry_run(kube: Kube, how: Any) -> None:
    kube.make(CONFIG_MAPS, config_map("a"))
    made = kube.make(PODS, pod("p", "n1"))
    for url in (A, P):
        reply = kube.call("DELETE", url + how) if isinstance(how, str) else \
            kube.call("DELETE", url, how)
        assert reply.code == 200
    assert kube.store.revision == made.rv and kube.call("GET", P).obj == made.obj


# --- finalizers -----------------------------------------------------------------------------------

def test_finalizers(kube: Kube) -> None:
    kube.make(DEPLOYMENTS, deployment("d", finalizers=["x.y/z"]))
    events = kube.watch(DEPLOYMENTS)
    kube.now += 10
    reply = kube.call("DELETE", f"{DEPLOYMENTS}/d")
    assert reply.code == 200 and reply.obj["kind"] == "Deployment"
    assert reply.meta["deletionTimestamp"] == "2027-01-15T08:00:10Z"
    assert reply.meta["deletionGracePeriodSeconds"] == 0 and reply.meta["generation"] == 2
    kube.now += 10
    assert kube.call("DELETE", f"{DEPLOYMENTS}/d").obj == reply.obj
    assert kinds(events.take()) == ["MODIFIED"] and kube.store.revision == reply.rv
    reply = kube.call("PATCH", f"{DEPLOYMENTS}/d", {"metadata": {"finalizers": None}},
                      patch="merge")
    assert reply.code == 200 and kube.call("GET", f"{DEPLOYMENTS}/d").code == 404
    assert kinds(events.take()) == ["DELETED"]


@pytest.mark.parametrize(("how", "finalizers"), [
    ({"propagationPolicy": "Foreground"}, ["foregroundDeletion"]),
    ({"propagationPolicy": "Orphan"}, ["orphan"]), ({"orphanDependents": True}, ["orphan"]),
    ({"propagationPolicy": "Background"}, None), ({"orphanDependents": False}, None), ({}, None),
])
def test_propagation(kube: Kube, how: Object, finalizers: list[str] | None) -> None:
    kube.make(CONFIG_MAPS, config_map("a"))
    reply = kube.call("DELETE", A, how)
    assert reply.code == 200
    if finalizers is None:
        assert reply.obj["status"] == "Success" and kube.call("GET", A).code == 404
    else:
        assert reply.meta["finalizers"] == finalizers and reply.meta["deletionTimestamp"]
        other = kube.call("DELETE", A, {"propagationPolicy": "Orphan"})
        assert other.meta["finalizers"] == ["orphan"]          # it may be thought of otherwise
        assert kube.call("DELETE", A, {"propagationPolicy": "Background"}).code == 200
        assert kube.call("GET", A).code == 404


def test_waiting_for_dependents_is_accepted(kube: Kube) -> None:
    kube.make(CONFIG_MAPS, config_map("a", finalizers=["x.y/z"]))
    assert kube.call("DELETE", A, {"orphanDependents": False}).code == 202


# --- grace ----------------------------------------------------------------------------------------

SLOW: Object = {"terminationGracePeriodSeconds": 30}


@pytest.mark.parametrize("phase", ["", "Failed", "Succeeded"])
def test_a_pod_that_runs_nowhere_goes_at_once(kube: Kube, phase: str) -> None:
    kube.make(PODS, pod("p", "n1" if phase else "", SLOW))
    if phase:
        kube.call("PATCH", f"{P}/status", {"status": {"phase": phase}}, patch="merge")
    events = kube.watch(PODS)
    reply = kube.call("DELETE", P)
    assert reply.code == 200 and reply.meta["deletionGracePeriodSeconds"] == 0
    assert reply.meta["generation"] == 2 and reply.rv == kube.store.revision
    assert kinds(events.take()) == ["MODIFIED", "DELETED"]


def test_a_pod_has_time_to_end(kube: Kube) -> None:
    kube.make(PODS, pod("p", "n1", SLOW))
    events = kube.watch(PODS)
    first = kube.call("DELETE", P)
    assert first.meta["deletionTimestamp"] == "2027-01-15T08:00:30Z"
    assert first.meta["deletionGracePeriodSeconds"] == 30 and first.meta["generation"] == 2
    for longer in ("", "?gracePeriodSeconds=30", "?gracePeriodSeconds=60"):
        assert kube.call("DELETE", P + longer).obj == first.obj
    kube.now += 2
    shorter = kube.call("DELETE", f"{P}?gracePeriodSeconds=5")
    assert shorter.meta["deletionTimestamp"] == "2027-01-15T08:00:05Z"
    assert shorter.meta["deletionGracePeriodSeconds"] == 5 and shorter.meta["generation"] == 2
    kube.now += 10
    over = kube.call("DELETE", f"{P}?gracePeriodSeconds=3")      # over already: nearly nothing left
    assert over.meta["deletionGracePeriodSeconds"] == 1
    assert over.meta["deletionTimestamp"] == "2027-01-15T08:00:12Z"
    assert kinds(events.take()) == ["MODIFIED"] * 3
    last = kube.call("DELETE", P, {"gracePeriodSeconds": 0})
    assert last.code == 200 and kube.call("GET", P).code == 404
    assert kinds(events.take()) == ["MODIFIED", "DELETED"]


def test_a_client_that_leaves_between_the_two_writes(kube: Kube) -> None:
    """A pod that goes at once is marked and deleted: both, or nothing."""
    kube.make(PODS, pod("p"))
    write = kube.api.objects.replace

    async def leave() -> None:
        asked = asyncio.ensure_future(kube.ask("DELETE", P))

        async def marked(*what: Any) -> int:
            asked.cancel()
            return await write(*what)
        kube.api.objects.replace = marked      # type: ignore[method-assign]
        with kube.store.watch(prefix=b"/registry/pods/", no_put=True) as watch:
            with pytest.raises(asyncio.CancelledError):
                await asked
            await asyncio.wait_for(anext(watch), 20)
    kube.run(leave())
    assert kube.call("GET", P).code == 404


@pytest.mark.parametrize("error", [Changed(None), OSError("input/output error")])
def test_what_fails_when_nobody_waits_is_told(kube: Kube, error: Exception,
                                              caplog: pytest.LogCaptureFixture) -> None:
    kube.make(PODS, pod("p"))

    async def leave() -> None:
        asked = asyncio.ensure_future(kube.ask("DELETE", P))
        ended = asyncio.Event()

        async def failing(*what: Any) -> int:
            asked.cancel()
            try:
                await asyncio.sleep(0)
                raise error
            finally:
                ended.set()
        kube.api.objects.remove = failing      # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await asked
        await ended.wait()
    kube.run(leave())
    kube.settle()
    assert ("cut short" in caplog.text) == isinstance(error, OSError)


def test_an_update_between_the_two_writes_is_the_end(kube: Kube) -> None:
    kube.make(PODS, pod("p"))
    remove, first = kube.api.objects.remove, [True]

    async def slow(*what: Any) -> int:
        if first:
            first.clear()
            await kube.ask("PATCH", P, {"metadata": {"labels": {"a": "b"}}},
                           headers={"content-type": "application/merge-patch+json"})
            assert kube.store.get(b"/registry/pods/default/p") is None
        return await remove(*what)
    kube.api.objects.remove = slow             # type: ignore[method-assign]
    reply = kube.call("DELETE", P)
    assert (reply.code, reply.meta["name"]) == (200, "p")


@pytest.mark.parametrize(("query", "grace"), [("", 30), ("?gracePeriodSeconds=7", 7),
                                              ("?gracePeriodSeconds=-3", 1)])
def test_how_long(kube: Kube, query: str, grace: int) -> None:
    kube.make(PODS, pod("p", "n1", SLOW))
    assert kube.call("DELETE", P + query).meta["deletionGracePeriodSeconds"] == grace


def test_a_pod_with_a_finalizer(kube: Kube) -> None:
    kube.make(PODS, pod("p", "n1", SLOW, finalizers=["x.y/z"]))
    assert kube.call("DELETE", P).meta["deletionGracePeriodSeconds"] == 30
    done = kube.call("DELETE", f"{P}?gracePeriodSeconds=0")
    assert done.code == 200 and done.meta["deletionGracePeriodSeconds"] == 0
    assert kube.call("GET", P).code == 200
    kube.call("PATCH", P, {"metadata": {"finalizers": []}}, patch="merge")
    assert kube.call("GET", P).code == 404


def test_grace_holds_a_pod_whose_finalizers_are_gone(kube: Kube) -> None:
    kube.make(PODS, pod("p", "n1", SLOW, finalizers=["x.y/z"]))
    kube.call("DELETE", P)
    kube.call("PATCH", P, {"metadata": {"finalizers": None}}, patch="merge")
    assert kube.call("GET", P).code == 200


# --- collections ----------------------------------------------------------------------------------

def test_a_collection(kube: Kube) -> None:
    for n in range(5):
        kube.make(CONFIG_MAPS, config_map(f"c{n}", labels={"odd": str(n % 2)}))
    dry = kube.call("DELETE", f"{CONFIG_MAPS}?labelSelector=odd%3D1&dryRun=All")
    assert [i["metadata"]["name"] for i in dry.obj["items"]] == ["c1", "c3"]
    assert len(kube.call("GET", CONFIG_MAPS).obj["items"]) == 5
    reply = kube.call("DELETE", f"{CONFIG_MAPS}?labelSelector=odd%3D1")
    assert (reply.code, reply.obj["kind"]) == (200, "ConfigMapList")
    assert [i["metadata"]["name"] for i in reply.obj["items"]] == ["c1", "c3"]
    limited = kube.call("DELETE", f"{CONFIG_MAPS}?limit=2")
    assert len(limited.obj["items"]) == 2 and limited.meta["continue"]
    assert [i["metadata"]["name"] for i in kube.call("GET", CONFIG_MAPS).obj["items"]] == ["c4"]
    assert kube.call("DELETE", "/api/v1/configmaps").code == 405
    assert kube.call("DELETE", "/api/v1/namespaces").code == 405


def test_a_collection_in_yaml(kube: Kube) -> None:
    kube.make(CONFIG_MAPS, config_map("a"))
    answer = kube.run(kube.ask("DELETE", CONFIG_MAPS, headers={"accept": "application/yaml"}))
    assert (answer.code, answer.content_type) == (200, "application/yaml")
    assert b"kind: ConfigMapList" in answer.body and b"name: a" in answer.body
    assert kube.call("GET", CONFIG_MAPS).obj["items"] == []


def test_a_collection_waits_for_finalizers(kube: Kube) -> None:
    kube.make(CONFIG_MAPS, config_map("a", finalizers=["x.y/z"]))
    kube.make(CONFIG_MAPS, config_map("b"))
    assert len(kube.call("DELETE", CONFIG_MAPS).obj["items"]) == 2
    left, = kube.call("GET", CONFIG_MAPS).obj["items"]
    assert left["metadata"]["name"] == "a" and left["metadata"]["deletionTimestamp"]


class Guard:
    """An admission plugin that refuses deletes of one name."""

    name, operations = "Guard", frozenset({"DELETE"})

    def __init__(self) -> None:
        self.seen: list[tuple[Object, Object | None]] = []

    def validate(self, call: Call) -> None:
        self.seen.append((call.object, call.old))
        if call.name == "kept":
            raise status.forbidden(call.resource, call.name, "it is kept")


def test_admission_sees_what_is_deleted() -> None:
    guard = Guard()
    with Kube(admission=Chain([guard])) as kube:
        made = kube.make(CONFIG_MAPS, config_map("kept"))
        reply = kube.call("DELETE", f"{CONFIG_MAPS}/kept")
        assert (reply.code, reply.reason) == (403, "Forbidden")
        assert kube.call("DELETE", CONFIG_MAPS).code == 403
        assert kube.call("GET", f"{CONFIG_MAPS}/kept").obj == made.obj
        assert guard.seen == [({}, made.obj)] * 2


def test_many_at_once(kube: Kube) -> None:
    """A delete, a last finalizer and an update at the same time: somebody's object is gone once."""
    for _ in range(10):
        kube.make(CONFIG_MAPS, config_map("a", finalizers=["x.y/z"]))
        merge = {"content-type": "application/merge-patch+json"}
        bare: Object = {"metadata": {"finalizers": None}}

        async def all_at_once(bare: Object = bare, merge: Any = merge) -> list[Answer]:
            return await asyncio.gather(
                *(kube.ask("DELETE", A) for _ in range(5)),
                *(kube.ask("PATCH", A, bare, headers=merge) for _ in range(5)),
                kube.ask("PUT", A, config_map("a", {"b": "2"})))
        assert {a.code for a in kube.run(all_at_once())} <= {200, 404}
        kube.call("DELETE", A)
        assert kube.call("GET", A).code == 404


# --- namespaces -----------------------------------------------------------------------------------

def test_a_namespace_is_terminating(kube: Kube) -> None:
    made = kube.make("/api/v1/namespaces", {"metadata": {"name": "n"}})
    wrong = kube.call("DELETE", NAMESPACE, {"preconditions": {"uid": "x"}})
    assert (wrong.code, wrong.message) == (409, (
        'Operation cannot be fulfilled on namespaces "n": Precondition failed: UID in '
        f"precondition: x, UID in object meta: {made.meta['uid']}"))
    first = kube.call("DELETE", NAMESPACE)
    assert first.code == 200 and first.obj["status"] == {"phase": "Terminating"}
    assert first.meta["deletionTimestamp"] and first.obj["spec"] == {"finalizers": ["kubernetes"]}
    assert kube.call("DELETE", NAMESPACE).obj == first.obj
    assert kube.call("PUT", NAMESPACE, {"metadata": {"name": "n"}, "spec": {}}).obj["spec"] == {
        "finalizers": ["kubernetes"]}
    phase = kube.call("PATCH", f"{NAMESPACE}/status", {"status": {"phase": "Active"}},
                      patch="merge")
    assert (phase.code, phase.message) == (422, (
        'Namespace "n" is invalid: status.Phase: Invalid value: "Active": may only be '
        "'Terminating' if `deletionTimestamp` is not empty"))
    bad = kube.call("PUT", f"{NAMESPACE}/finalize", {"metadata": {"name": "n"},
                                                     "spec": {"finalizers": ["bad"]}})
    assert (bad.code, bad.reason) == (422, "Invalid")
    assert kube.call("PATCH", f"{NAMESPACE}/finalize", {}, patch="merge").code == 405
    last = kube.call("PUT", f"{NAMESPACE}/finalize", {"metadata": {"name": "n"}, "spec": {}})
    assert last.code == 200 and kube.call("GET", NAMESPACE).code == 404


def test_delete_in_process(kube: Kube) -> None:
    maps = kube.api.resources.of_path("", "v1", "configmaps")
    assert maps is not None
    kube.make(CONFIG_MAPS, config_map("a"))
    body = orjson.loads(kube.run(kube.api.delete(maps, "a", "default",
                                                 propagationPolicy="Orphan")))
    assert body["metadata"]["finalizers"] == ["orphan"]
