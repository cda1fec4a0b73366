# SPDX-License-Identifier: Apache-2.0
"""scale, binding, eviction, approval; events that vanish by themselves."""

from __future__ import annotations

import asyncio
import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kube_server import DEPLOYMENTS, PODS, Kube, Object, deployment, pod

import kvcore
from kvcore.errors import LeaseNotFoundError
from kvcore.kube.request import Answer
from kvcore.kube.storage import EventLease

D = f"{DEPLOYMENTS}/d"
P = f"{PODS}/p"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
EVENTS = "/api/v1/namespaces/default/events"


def binding(name: str, node: str, **metadata: object) -> Object:
    return {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, **metadata},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}}


def eviction(name: str, **rest: object) -> Object:
    return {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, **rest}


# --- scale ----------------------------------------------------------------------------------------

def scale(name: str, replicas: object, **metadata: object) -> Object:
    return {"apiVersion": "autoscaling/v1", "kind": "Scale",
            "metadata": {"name": name, "namespace": "default", **metadata},
            "spec": {"replicas": replicas}}


def test_scale(kube: Kube) -> None:
    made = kube.make(DEPLOYMENTS, deployment("d", 2)).meta
    kube.call("PATCH", f"{D}/status", {"status": {"replicas": 1}}, patch="merge")
    seen = kube.call("GET", f"{D}/scale")
    assert seen.obj == {
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {"name": "d", "namespace": "default", "uid": made["uid"],
                     "resourceVersion": str(kube.store.revision),
                     "creationTimestamp": made["creationTimestamp"]},
        "spec": {"replicas": 2}, "status": {"replicas": 1, "selector": "app=d"}}
    reply = kube.call("PUT", f"{D}/scale", scale("d", 5))
    assert reply.code == 200 and reply.obj["spec"] == {"replicas": 5}
    assert reply.rv == kube.store.revision
    reply = kube.call("PATCH", f"{D}/scale", {"spec": {"replicas": 0}}, patch="merge")
    assert reply.code == 200 and reply.obj["spec"] == {}
    whole = kube.call("GET", D)
    assert whole.obj["spec"]["replicas"] == 0 and whole.meta["generation"] == 3
    assert kube.call("PATCH", f"{D}/scale", {}, patch="merge").rv == whole.rv


@pytest.mark.parametrize(("body", "code", "message"), [
    (scale("d", -5), 422, 'Scale.autoscaling "d" is invalid: spec.replicas: Invalid value: -5: '
     "must be greater than or equal to 0"),
    (scale("e", 1), 400, "the name of the object (e) does not match the name on the URL (d)"),
    (scale("d", 1, resourceVersion="3"), 409, 'Operation cannot be fulfilled on deployments.apps '
     '"d": the object has been modified; please apply your changes to the latest version and try '
     "again"),
    (scale("d", "x"), 400, 'Scale in version "v1" cannot be handled as a Scale: json: cannot '
     "unmarshal string into Go struct field ScaleSpec.spec.replicas of type int32"),
    (deployment("d"), 400, 'Deployment in version "v1" cannot be handled as a Scale: converting '
     "(v1.Deployment) to (autoscaling.Scale): unknown conversion"),
])
def test_scales_that_are_none(kube: Kube, body: Object, code: int, message: str) -> None:
    made = kube.make(DEPLOYMENTS, deployment("d"))
    reply = kube.call("PUT", f"{D}/scale", body)
    assert (reply.code, reply.message) == (code, message)
    assert kube.store.revision == made.rv


@pytest.mark.parametrize(("replicas", "said"), [
    (1 << 31, "number 2147483648"), (-(1 << 31) - 1, "number -2147483649"), (1.5, "number 1.5"),
    (True, "bool"), ("3", "string"), ([1], "array")])
def test_replicas_that_a_field_cannot_hold(kube: Kube, replicas: object, said: str) -> None:
    """Or the stored object would be one that nobody can change any more."""
    made = kube.make(DEPLOYMENTS, deployment("d", 2))
    for method, code in (("PUT", 400), ("PATCH", 422)):
        reply = kube.call(method, f"{D}/scale", scale("d", replicas),
                          **({"patch": "merge"} if method == "PATCH" else {}))
        assert reply.code == code
        assert f"json: cannot unmarshal {said} into Go struct field ScaleSpec.spec.replicas" \
            in reply.message
    assert kube.call("GET", D).obj == made.obj


def test_what_has_no_scale(kube: Kube) -> None:
    assert kube.call("GET", f"{PODS}/p/scale").code == 404
    missing = kube.call("GET", f"{DEPLOYMENTS}/none/scale")
    assert missing.message == 'deployments.apps "none" not found'


# --- binding --------------------------------------------------------------------------------------

@pytest.mark.parametrize("url", [f"{P}/binding", "/api/v1/namespaces/default/bindings"])
def test_a_pod_is_bound_once(kube: Kube, url: str) -> None:
    kube.make(PODS, pod("p"))
    events = kube.watch(PODS)
    reply = kube.call("POST", url, binding("p", "n1", annotations={"a": "1"}, labels={"l": "2"}))
    assert (reply.code, reply.obj) == (201, {"kind": "Status", "apiVersion": "v1", "metadata": {},
                                             "status": "Success", "code": 201})
    (kind, bound), = events.take()
    assert kind == "MODIFIED" and bound["spec"]["nodeName"] == "n1"
    assert bound["metadata"]["annotations"] == {"a": "1"}
    assert bound["metadata"]["labels"] == {"l": "2"} and bound["metadata"]["generation"] == 1
    assert bound["status"]["conditions"] == [{
        "lastProbeTime": None, "lastTransitionTime": "2027-01-15T08:00:00Z",
        "type": "PodScheduled", "status": "True"}]
    reply = kube.call("POST", url, binding("p", "n2"))
    assert (reply.code, reply.message) == (409, (
        'Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node '
        '"n1"'))
    assert reply.obj["details"] == {"name": "p", "kind": "pods/binding"}


def test_schedulers_that_race(kube: Kube) -> None:
    kube.make(PODS, pod("p"))

    async def all_at_once() -> list[Answer]:
        return await asyncio.gather(*(kube.ask("POST", f"{P}/binding", binding("p", f"n{n}"))
                                      for n in range(20)))
    assert sorted(a.code for a in kube.run(all_at_once())) == [201] + [409] * 19


def test_bindings_that_are_refused(kube: Kube) -> None:
    made = kube.make(PODS, pod("p"))
    other = kube.call("POST", f"{P}/binding", binding("p", "n1", uid="x"))
    assert (other.code, other.message) == (409, (
        'Operation cannot be fulfilled on pods "p": StorageError: invalid object, Code: 4, Key: '
        "/pods/default/p, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: "
        f"UID in precondition: x, UID in object meta: {made.meta['uid']}"))
    assert kube.call("POST", f"{P}/binding", binding("q", "n1")).message == (
        "name in URL does not match name in Binding object")
    bad = binding("p", "")
    bad["target"]["kind"] = "Foo"
    assert kube.call("POST", f"{P}/binding", bad).message == (
        '[target.kind: Unsupported value: "Foo": supported values: "Node", "<empty>", '
        "target.name: Required value]")
    assert kube.call("POST", f"{PODS}/none/binding", binding("none", "n1")).code == 404
    assert kube.call("POST", f"{P}/binding?dryRun=All", binding("p", "n1")).code == 201
    assert kube.call("GET", P).obj == made.obj and kube.store.revision == made.rv
    assert kube.call("GET", f"{P}/binding").code == 405
    assert kube.call("GET", "/api/v1/namespaces/default/bindings").code == 405
    wide = kube.call("POST", "/api/v1/namespaces/default/bindings", binding("a/b", "n1"))
    assert wide.code == 400


@pytest.mark.parametrize("url", [f"{P}/binding", "/api/v1/namespaces/default/bindings"])
@pytest.mark.parametrize("part", ["labels", "annotations"])
def test_a_bindings_fields_are_looked_at(kube: Kube, url: str, part: str) -> None:
    """Its labels and annotations become the pod's, which must be an object afterwards."""
    made = kube.make(PODS, pod("p"))
    wrong = binding("p", "n1")
    wrong["metadata"][part] = {"a": 5}
    reply = kube.call("POST", url, wrong)
    assert reply.code == 400 and reply.message == (
        'Binding in version "v1" cannot be handled as a Binding: json: cannot unmarshal number '
        f"into Go struct field ObjectMeta.metadata.{part} of type string")
    assert kube.call("GET", P).obj == made.obj
    reply = kube.call("POST", url, {**binding("p", "n1"), "extra": 1})
    assert reply.code == 201
    assert reply.warnings == ['299 - "unknown field \\"extra\\""']


def test_a_pod_that_ends_is_not_bound(kube: Kube) -> None:
    kube.make(PODS, pod("p", finalizers=["x.y/z"]))
    kube.call("DELETE", P)
    assert kube.call("POST", f"{P}/binding", binding("p", "n1")).message == (
        'Operation cannot be fulfilled on pods/binding "p": pod p is being deleted, cannot be '
        "assigned to a host")


# --- eviction -------------------------------------------------------------------------------------

def running(kube: Kube, ready: bool = True) -> None:
    kube.make(PODS, pod("p", "n1", {"terminationGracePeriodSeconds": 30}, labels={"app": "web"}))
    kube.call("PATCH", f"{P}/status", {"status": {"phase": "Running", "conditions": [
        {"type": "Ready", "status": str(ready)}]}}, patch="merge")


def budget(kube: Kube, name: str = "b", **state: object) -> None:
    kube.make(BUDGETS, {"metadata": {"name": name}, "spec": {
        "minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}})
    kube.call("PATCH", f"{BUDGETS}/{name}/status",
              {"status": {"observedGeneration": 1, **state}}, patch="merge")


def test_an_eviction_is_a_delete(kube: Kube) -> None:
    running(kube)
    reply = kube.call("POST", f"{P}/eviction", eviction("p"))
    assert reply.code == 201 and reply.obj["status"] == "Success"
    ending = kube.call("GET", P)
    assert ending.meta["deletionGracePeriodSeconds"] == 30
    assert ending.obj["status"]["conditions"][1] == {
        "lastProbeTime": None, "lastTransitionTime": "2027-01-15T08:00:00Z",
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting"}
    assert kube.call("POST", f"{P}/eviction", eviction("p")).code == 201
    assert kube.call("POST", f"{PODS}/none/eviction", eviction("none")).code == 404
    assert kube.call("POST", f"{P}/eviction", eviction("q")).message == (
        "name in URL does not match name in Eviction object")


def test_a_budget_is_against_it(kube: Kube) -> None:
    running(kube)
    budget(kube, currentHealthy=1, desiredHealthy=1)
    before = kube.store.revision
    reply = kube.call("POST", f"{P}/eviction", eviction("p"))
    assert (reply.code, reply.obj["reason"]) == (429, "TooManyRequests")
    assert reply.message == "Cannot evict pod as it would violate the pod's disruption budget."
    assert reply.obj["details"] == {"causes": [{
        "reason": "DisruptionBudget",
        "message": "The disruption budget b needs 1 healthy pods and has 1 currently"}]}
    assert kube.store.revision == before
    kube.call("PATCH", f"{BUDGETS}/b/status", {"status": {"disruptionsAllowed": 1}}, patch="merge")
    before = kube.store.revision
    assert kube.call("POST", f"{P}/eviction?dryRun=All", eviction("p")).code == 201
    assert kube.store.revision == before
    assert kube.call("POST", f"{P}/eviction", eviction("p")).code == 201
    counted = kube.call("GET", f"{BUDGETS}/b").obj["status"]
    assert counted["disruptionsAllowed"] == 0
    assert counted["disruptedPods"] == {"p": "2027-01-15T08:00:00Z"}


def test_a_budget_that_was_not_looked_at_yet(kube: Kube) -> None:
    running(kube)
    budget(kube, observedGeneration=0)
    reply = kube.call("POST", f"{P}/eviction", eviction("p"))
    assert reply.code == 429 and reply.answer.headers["Retry-After"] == "10"


def test_an_unready_pod_counts_for_nothing(kube: Kube) -> None:
    running(kube, ready=False)
    budget(kube, currentHealthy=1, desiredHealthy=1)
    assert kube.call("POST", f"{P}/eviction", eviction("p")).code == 201


def test_two_budgets(kube: Kube) -> None:
    running(kube)
    budget(kube, "b")
    budget(kube, "c")
    reply = kube.call("POST", f"{P}/eviction", eviction("p"))
    assert (reply.code, reply.message) == (500, (
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not "
        "support."))


# --- events ---------------------------------------------------------------------------------------

def test_events_of_a_minute_share_a_lease(kube: Kube) -> None:
    now = 100.0
    kube.api.event_lease = EventLease(kube.store, lambda: now)

    def lease_of(name: str) -> int:
        kube.make(EVENTS, {"metadata": {"name": name}, "involvedObject": {}})
        found = kube.store.get(f"/registry/events/default/{name}".encode())
        assert found is not None
        return found.lease
    first = lease_of("a")
    now += 59
    assert lease_of("b") == first
    handle = kube.store.lease_of(first)
    assert handle.granted_ttl == 3660          # the last of them lives an hour, too
    now += 1
    second = lease_of("c")
    assert second != first
    kube.call("PATCH", f"{EVENTS}/a", {"reason": "again"}, patch="merge")
    renewed = kube.store.get(b"/registry/events/default/a")
    assert renewed is not None and renewed.lease == second
    watch = kube.watch(EVENTS)
    handle.revoke()
    assert [(kind, obj["metadata"]["name"]) for kind, obj in watch.take()] == [("DELETED", "b")]


def test_a_lease_holds_a_thousand_at_most() -> None:
    async def run() -> None:
        with kvcore.open() as store:
            leases = EventLease(store, lambda: 0.0)
            ids = await asyncio.gather(*(leases.take() for _ in range(1001)))
            assert len(set(ids[:1000])) == 1 and ids[1000] != ids[0]
            with pytest.raises(LeaseNotFoundError):
                store.put(b"/x", b"", lease=12345)
    asyncio.run(run())


# --- approval -------------------------------------------------------------------------------------

def signing_request() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return base64.b64encode(made.public_bytes(serialization.Encoding.PEM)).decode()


def test_a_signing_request_is_of_its_user_and_decided_apart(kube: Kube) -> None:
    url = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    made = kube.make(url, {"metadata": {"name": "r"}, "spec": {
        "request": signing_request(), "signerName": "x.y/z", "usages": ["client auth"],
        "username": "somebody-else", "groups": ["system:masters"]}})
    assert made.obj["spec"]["username"] == "kubernetes-admin"
    conditions = [{"type": "Approved", "status": "True", "reason": "x"}]
    sneaky = kube.call("PATCH", f"{url}/r/status", {"status": {"conditions": conditions}},
                       patch="merge")
    assert not sneaky.obj["status"].get("conditions")
    reply = kube.call("PATCH", f"{url}/r/approval", {"status": {"conditions": conditions}},
                      patch="merge")
    assert reply.obj["status"]["conditions"][0]["type"] == "Approved"
    reply = kube.call("PATCH", f"{url}/r/status", {"status": {"conditions": None}}, patch="merge")
    assert reply.obj["status"]["conditions"][0]["type"] == "Approved"
    assert kube.call("PATCH", f"{url}/r", {"spec": {"username": "x"}}, patch="merge").obj[
        "spec"] == made.obj["spec"]
