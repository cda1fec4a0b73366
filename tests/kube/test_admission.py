# SPDX-License-Identifier: Apache-2.0
"""Admission plugins one by one: what each fills in, lets pass and refuses, with the exact Status.

Texts are those of a kube-apiserver 1.36.
"""

from __future__ import annotations

from typing import Any

import pytest
from admission_world import Object, World, asking, forbidden, namespace, pod, said, thing

from kvcore.kube import status
from kvcore.kube.admission.defaulting import (
    AlwaysAdmit,
    AlwaysDeny,
    DefaultStorageClass,
    DefaultTolerationSeconds,
)
from kvcore.kube.admission.lifecycle import NamespaceLifecycle
from kvcore.kube.admission.limits import LimitRanger
from kvcore.kube.admission.priority import Priority
from kvcore.kube.admission.serviceaccount import ServiceAccount

# --- NamespaceLifecycle ---------------------------------------------------------------------------


def test_a_missing_namespace() -> None:
    with World(NamespaceLifecycle()) as world:
        assert world.admit(pod())["metadata"]["name"] == "web"
        assert world.refused(pod("web", "nowhere")) == {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": 'namespaces "nowhere" not found', "reason": "NotFound",
            "details": {"name": "nowhere", "kind": "namespaces"}, "code": 404}
        assert said(world.refused(pod("web", "nowhere"), pod(), operation="UPDATE"))[0] == 404
        world.admit(pod("web", "nowhere"), pod(), operation="DELETE")
        world.admit(thing("PriorityClass", "p", ""))


def test_a_namespace_that_the_cache_does_not_have_yet() -> None:
    with World(NamespaceLifecycle()) as world:
        world.admit(pod())
        resource = world.resource(namespace("new"))
        world.db.put(world.api.layout.key(resource, "", "new"),
                     world.api.codec.encode(namespace("new")))
        call = world.call(pod("web", "new"))
        assert world.api.admission.mutate(call) is None      # from the store, at once


def test_a_terminating_namespace() -> None:
    with World(NamespaceLifecycle()) as world:
        world.store(namespace("old") | {"status": {"phase": "Terminating"}})
        found = world.refused(pod("", "old") | {"metadata": {"generateName": "web-",
                                                             "namespace": "old"}})
        why = "unable to create new content in namespace old because it is being terminated"
        assert said(found) == forbidden('pods "web-"', why)
        assert found["details"] == {"name": "web-", "kind": "pods", "causes": [{
            "reason": "NamespaceTerminating", "message": "namespace old is being terminated",
            "field": "metadata.namespace"}]}
        world.admit(pod("web", "old"), pod("web", "old"), operation="UPDATE")


@pytest.mark.parametrize("name", ["default", "kube-system", "kube-public"])
def test_immortal_namespaces(name: str) -> None:
    with World(NamespaceLifecycle()) as world:
        found = world.refused(namespace(name), namespace(name), operation="DELETE")
        assert said(found) == forbidden(f'namespaces "{name}"', "this namespace may not be deleted")
        world.admit(namespace("kube-node-lease"), namespace(), operation="DELETE")


def test_a_lately_deleted_namespace_is_read_from_the_store() -> None:
    now = [0.0]
    with World(NamespaceLifecycle(), clock=lambda: now[0]) as world:
        world.store(namespace("old"))
        world.admit(pod("web", "old"))
        world.admit(namespace("old"), namespace("old"), operation="DELETE")
        world.db.delete(world.api.layout.key(world.resource(namespace()), "", "old"))
        call = world.call(pod("web", "old"))
        with pytest.raises(status.ApiError, match='namespaces "old" not found'):
            world.api.admission.mutate(call)                 # the cache still has it
        now[0] = 31.0
        assert world.api.admission.mutate(call) is None      # and is believed again


# --- DefaultTolerationSeconds ---------------------------------------------------------------------

def tolerating(key: str, seconds: int = 300) -> Object:
    return {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}


NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"


@pytest.mark.parametrize(("own", "added"), [
    ([], [tolerating(NOT_READY), tolerating(UNREACHABLE)]),
    ([{"key": NOT_READY, "operator": "Exists"}], [tolerating(UNREACHABLE)]),
    ([{"key": UNREACHABLE, "effect": "NoExecute"}], [tolerating(NOT_READY)]),
    ([{"key": UNREACHABLE, "effect": "NoSchedule"}],
     [tolerating(NOT_READY), tolerating(UNREACHABLE)]),
    ([{"operator": "Exists"}], []),
    ([{"operator": "Exists", "effect": "NoSchedule"}],
     [tolerating(NOT_READY), tolerating(UNREACHABLE)]),
])
def test_default_tolerations(own: list[Object], added: list[Object]) -> None:
    with World(DefaultTolerationSeconds()) as world:
        assert world.admit(pod(tolerations=own))["spec"]["tolerations"] == own + added
        again = world.admit(pod(tolerations=own + added), operation="UPDATE", old=pod())
        assert again["spec"]["tolerations"] == own + added


def test_tolerations_of_other_things() -> None:
    with World(DefaultTolerationSeconds(10, 20)) as world:
        assert "tolerations" not in world.admit(pod(), subresource="status")["spec"]
        assert world.admit(pod())["spec"]["tolerations"] == [
            tolerating(NOT_READY, 10), tolerating(UNREACHABLE, 20)]
        assert world.admit(thing("Deployment", "d", spec={})) == thing("Deployment", "d", spec={})


# --- DefaultStorageClass --------------------------------------------------------------------------

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def storage_class(name: str, created: str, default: str = "true", key: str = DEFAULT_CLASS
                  ) -> Object:
    made = thing("StorageClass", name, "", provisioner="x")
    made["metadata"] |= {"creationTimestamp": created, "annotations": {key: default}}
    return made


def test_the_newest_default_class() -> None:
    claim = thing("PersistentVolumeClaim", "c", spec={})
    with World(DefaultStorageClass()) as world:
        assert world.admit(claim)["spec"] == {}
        world.store(storage_class("a", "2026-01-01T00:00:00Z"),
                    storage_class("b", "2026-01-03T00:00:00Z", "false"))
        assert world.admit(claim)["spec"] == {"storageClassName": "a"}
        world.store(storage_class("d", "2026-01-02T00:00:00Z"),
                    storage_class("c", "2026-01-02T00:00:00Z",
                                  key="storageclass.beta.kubernetes.io/is-default-class"))
        assert world.admit(claim)["spec"] == {"storageClassName": "c"}
        for own in ("", "mine"):
            named = claim | {"spec": {"storageClassName": own}}
            assert world.admit(named)["spec"] == {"storageClassName": own}
        annotated = thing("PersistentVolumeClaim", "c", spec={})
        annotated["metadata"]["annotations"] = {"volume.beta.kubernetes.io/storage-class": ""}
        assert world.admit(annotated)["spec"] == {}


# --- Priority -------------------------------------------------------------------------------------

def priority_class(name: str, value: int, *, default: bool = False, **rest: Any) -> Object:
    return thing("PriorityClass", name, "", value=value, globalDefault=default, **rest)


def chosen(spec: Object) -> tuple[Any, Any, Any]:
    return spec.get("priorityClassName"), spec.get("priority"), spec.get("preemptionPolicy")


def test_priority_of_a_pod() -> None:
    with World(Priority()) as world:
        lower = "PreemptLowerPriority"
        assert chosen(world.admit(pod())["spec"]) == (None, 0, lower)
        world.store(priority_class("high", 1000, preemptionPolicy="Never"),
                    priority_class("usual", 7, default=True),
                    priority_class("other", 9, default=True))
        assert chosen(world.admit(pod())["spec"]) == ("usual", 7, lower)
        assert chosen(world.admit(pod(priorityClassName="high"))["spec"]) == ("high", 1000, "Never")
        assert chosen(world.admit(pod(priorityClassName="high", priority=1000))["spec"])[1] == 1000
        for name, value in (("system-node-critical", 2000001000),
                            ("system-cluster-critical", 2000000000)):
            assert chosen(world.admit(pod(priorityClassName=name))["spec"]) == (name, value, lower)
        kept = world.admit(pod(), pod(priority=5, preemptionPolicy="Never"), operation="UPDATE")
        assert chosen(kept["spec"]) == (None, 5, "Never")


@pytest.mark.parametrize(("spec", "why"), [
    ({"priorityClassName": "none"}, "no PriorityClass with name none was found"),
    ({"priority": 3}, "the integer value of priority (3) must not be provided in pod spec; "
     "priority admission controller computed 0 from the given PriorityClass name"),
    ({"preemptionPolicy": "Never"}, "the string value of PreemptionPolicy (Never) must not be "
     "provided in pod spec; priority admission controller computed PreemptLowerPriority from the "
     "given PriorityClass name"),
])
def test_priority_refuses(spec: Object, why: str) -> None:
    with World(Priority()) as world:
        assert said(world.refused(pod(**spec))) == forbidden('pods "web"', why)


def test_one_default_class() -> None:
    with World(Priority()) as world:
        first, second = (priority_class(name, 1, default=True) for name in ("first", "second"))
        world.admit(first)
        world.store(first)
        what = 'priorityclasses.scheduling.k8s.io "second"'
        why = "PriorityClass first is already marked as default. Only one default can exist"
        assert said(world.refused(second)) == forbidden(what, why)
        assert said(world.refused(second, second, operation="UPDATE")) == forbidden(what, why)
        world.admit(first, first, operation="UPDATE")
        world.admit(priority_class("third", 1))


# --- ServiceAccount -------------------------------------------------------------------------------

def account(name: str = "default", **rest: Any) -> Object:
    return thing("ServiceAccount", name) | rest


TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


def no_sleep(slept: list[float]) -> Any:
    async def sleep(seconds: float) -> None:
        slept.append(seconds)
    return sleep


def test_the_token_is_mounted() -> None:
    with World(ServiceAccount()) as world:
        world.store(account(imagePullSecrets=[{"name": "registry"}]))
        own = {"name": "c", "mountPath": "/c"}
        spec = world.admit(pod(
            containers=[{"name": "a", "volumeMounts": [own]},
                        {"name": "b", "volumeMounts": [{"name": "x", "mountPath": TOKEN}]}],
            initContainers=[{"name": "i"}], volumes=[{"name": "c"}]))["spec"]
        volume = spec["volumes"][1]
        name = volume["name"]
        assert name.startswith("kube-api-access-") and len(name) == len("kube-api-access-") + 5
        mount = {"name": name, "readOnly": True, "mountPath": TOKEN}
        assert spec["serviceAccountName"] == "default"
        assert spec["containers"][0]["volumeMounts"] == [own, mount]
        assert len(spec["containers"][1]["volumeMounts"]) == 1
        assert spec["initContainers"][0]["volumeMounts"] == [mount]
        assert spec["imagePullSecrets"] == [{"name": "registry"}]
        assert volume["projected"] == {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt",
                           "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {
                "apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}
        again = world.admit(pod(**spec))["spec"]                # a second time nothing is added
        assert again == spec


@pytest.mark.parametrize(("of_pod", "of_account", "mounted"), [
    (None, None, True), (None, False, False), (True, False, True), (False, True, False)])
def test_automount(of_pod: bool | None, of_account: bool | None, mounted: bool) -> None:
    with World(ServiceAccount()) as world:
        world.store(account("robot", automountServiceAccountToken=of_account))
        spec = world.admit(pod(serviceAccountName="robot",
                               automountServiceAccountToken=of_pod))["spec"]
        assert ("volumes" in spec) is mounted


def test_an_account_must_exist() -> None:
    slept: list[float] = []
    with World(ServiceAccount(no_sleep(slept))) as world:
        found = world.refused(pod(serviceAccountName="ghost"))
        assert said(found) == forbidden(
            'pods "web"', 'error looking up service account default/ghost: serviceaccount "ghost" '
            "not found")
        assert slept == []
        assert said(world.refused(pod())) == forbidden(
            'pods "web"', 'error looking up service account default/default: serviceaccount '
            '"default" not found')
        assert len(slept) == 9 and all(0.1 <= seconds <= 0.2 for seconds in slept)


def test_a_default_account_is_waited_for() -> None:
    with World(bare=True) as world:
        async def sleep(seconds: float) -> None:
            key = world.api.layout.key(world.resource(account()), "default", "default")
            world.db.put(key, world.api.codec.encode(account()))
        world.api.admission = type(world.api.admission)([ServiceAccount(sleep)])
        assert world.admit(pod())["spec"]["serviceAccountName"] == "default"


ENFORCED = {"metadata": {"name": "robot", "namespace": "default", "annotations": {
    "kubernetes.io/enforce-mountable-secrets": "true"}}, "secrets": [{"name": "mine"}]}
TAIL = "is not allowed because service account robot does not reference that"


@pytest.mark.parametrize(("spec", "why"), [
    ({"volumes": [{"name": "v", "secret": {"secretName": "x"}}]},
     f'volume with secret.secretName="x" {TAIL} secret'),
    ({"containers": [{"name": "a", "env": [
        {"name": "E", "valueFrom": {"secretKeyRef": {"name": "x"}}}]}]},
     f'container a with envVar E referencing secret.secretName="x" {TAIL} secret'),
    ({"initContainers": [{"name": "a", "envFrom": [{"secretRef": {"name": "x"}}]}]},
     f'init container a with envFrom referencing secret.secretName="x" {TAIL} secret'),
    ({"imagePullSecrets": [{"name": "x"}]},
     f'imagePullSecrets[0].name="x" {TAIL} imagePullSecret'),
])
def test_only_the_accounts_secrets(spec: Object, why: str) -> None:
    with World(ServiceAccount()) as world:
        world.store(account("robot") | ENFORCED)
        named = {"serviceAccountName": "robot"}
        assert said(world.refused(pod(**spec, **named))) == forbidden('pods "web"', why)
        world.admit(pod(volumes=[{"name": "v", "secret": {"secretName": "mine"}}], **named))


@pytest.mark.parametrize(("spec", "why"), [
    ({"serviceAccountName": "x"}, "a mirror pod may not reference service accounts"),
    ({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]},
     "a mirror pod may not reference secrets"),
    ({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {}}]}}]},
     "a mirror pod may not use ServiceAccountToken volume projections"),
    ({}, ""),
])
def test_mirror_pods(spec: Object, why: str) -> None:
    mirror = pod(**spec)
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": ""}
    with World(ServiceAccount()) as world:
        if why:
            assert said(world.refused(mirror)) == forbidden('pods "web"', why)
        else:
            assert world.admit(mirror) == mirror


# --- LimitRanger ----------------------------------------------------------------------------------

def limit_range(*items: Object, name: str = "limits") -> Object:
    return thing("LimitRange", name, spec={"limits": list(items)})


def test_default_requests_and_limits() -> None:
    with World(LimitRanger()) as world:
        world.store(limit_range({
            "type": "Container", "default": {"cpu": "500m", "memory": "512Mi"},
            "defaultRequest": {"cpu": "100m"}, "min": {"ephemeral-storage": "1Gi"},
            "max": {"ephemeral-storage": "10Gi"}}))
        found = world.admit(pod(
            containers=[asking({"cpu": "200m"}, name="a"), asking(name="b")],
            initContainers=[asking({}, {"cpu": "1"}, name="i")]))
        requests = {"cpu": "100m", "memory": "512Mi", "ephemeral-storage": "10Gi"}
        limits = {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "10Gi"}
        a, b = found["spec"]["containers"]
        assert a["resources"] == {"requests": requests | {"cpu": "200m"}, "limits": limits}
        assert b["resources"] == {"requests": requests, "limits": limits}
        assert found["metadata"]["annotations"] == {"kubernetes.io/limit-ranger": (
            "LimitRanger plugin set: ephemeral-storage, memory request for container a; "
            "cpu, ephemeral-storage, memory limit for container a; "
            "cpu, ephemeral-storage, memory request for container b; "
            "cpu, ephemeral-storage, memory limit for container b; "
            "cpu, ephemeral-storage, memory request for init container i; "
            "ephemeral-storage, memory limit for init container i")}
        unchanged = pod()
        assert world.admit(unchanged, pod(), operation="UPDATE") == unchanged


CONTAINER_MIN = {"type": "Container", "min": {"cpu": "100m"}}
CONTAINER_MAX = {"type": "Container", "max": {"memory": "1Gi"}}
RATIO = {"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}
POD_MAX = {"type": "Pod", "max": {"cpu": "1"}}


@pytest.mark.parametrize(("item", "containers", "why"), [
    (CONTAINER_MIN, [asking({"cpu": "50m"})],
     "minimum cpu usage per Container is 100m, but request is 50m"),
    (CONTAINER_MIN, [asking({"cpu": "100m"}, {"cpu": "0.05"})],
     "minimum cpu usage per Container is 100m, but limit is 50m"),
    (CONTAINER_MIN, [asking({"cpu": "0.1"})], ""),
    (CONTAINER_MAX, [asking({"memory": "1Gi"}, {"memory": "2Gi"})],
     "maximum memory usage per Container is 1Gi, but limit is 2Gi"),
    (CONTAINER_MAX, [asking({"memory": "1025Mi"}, {"memory": "1Gi"})],
     "maximum memory usage per Container is 1Gi, but request is 1025Mi"),
    (CONTAINER_MAX, [asking({}, {"memory": "2Gi"}, "a"), asking({}, {"memory": "3Gi"}, "b")],
     "[maximum memory usage per Container is 1Gi, but limit is 2Gi, "
     "maximum memory usage per Container is 1Gi, but limit is 3Gi]"),
    (CONTAINER_MAX, [asking({}, {"memory": "2Gi"}, "a"), asking({}, {"memory": "2Gi"}, "b")],
     "maximum memory usage per Container is 1Gi, but limit is 2Gi"),
    (RATIO, [asking({"cpu": "100m"}, {"cpu": "300m"})],
     "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"),
    (RATIO, [asking({"cpu": "100m"}, {"cpu": "200m"})], ""),
    (RATIO, [asking({}, {"cpu": "300m"})], "cpu max limit to request ratio per Container is 2, but "
     "no request is specified or request is 0"),
    (RATIO, [asking({"cpu": "1"})], "cpu max limit to request ratio per Container is 2, but no "
     "limit is specified or limit is 0"),
    (POD_MAX, [asking({}, {"cpu": "600m"}, "a"), asking({}, {"cpu": "600m"}, "b")],
     "maximum cpu usage per Pod is 1, but limit is 1200m"),
    (POD_MAX, [asking({"cpu": "1"})],
     "maximum cpu usage per Pod is 1.  No limit is specified"),
    (POD_MAX, [asking({}, {"cpu": "500m"}, "a"), asking({}, {"cpu": "500m"}, "b")], ""),
    ({"type": "Pod", "min": {"cpu": "1"}}, [asking()],
     "minimum cpu usage per Pod is 1.  No request is specified"),
])
def test_limits_of_containers_and_pods(item: Object, containers: list[Object], why: str) -> None:
    with World(LimitRanger()) as world:
        world.store(limit_range(item))
        wanted = pod(containers=containers)
        if why:
            assert said(world.refused(wanted)) == forbidden('pods "web"', why)
        else:
            world.admit(wanted)
        world.admit(wanted, wanted, operation="UPDATE")


def test_a_pods_init_containers_count_as_the_greediest() -> None:
    with World(LimitRanger()) as world:
        world.store(limit_range(POD_MAX))
        limits = {"cpu": "600m"}
        sidecar = asking({}, limits, "s") | {"restartPolicy": "Always"}
        world.admit(pod(containers=[asking({}, limits)], initContainers=[asking({}, limits, "i")]))
        found = world.refused(pod(containers=[asking({}, limits)], initContainers=[sidecar]))
        assert said(found)[2].endswith("but limit is 1200m")
        found = world.refused(pod(containers=[asking({}, {"cpu": "100m"})],
                                  initContainers=[sidecar, asking({}, {"cpu": "900m"}, "i")]))
        assert said(found)[2].endswith("but limit is 1500m")


def test_limits_of_claims() -> None:
    def claim(**requests: str) -> Object:
        return thing("PersistentVolumeClaim", "c", spec={"resources": {"requests": requests}})

    with World(LimitRanger()) as world:
        world.store(limit_range({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"},
                                 "max": {"storage": "5Gi"}}))
        per, what = "storage usage per PersistentVolumeClaim is", 'persistentvolumeclaims "c"'
        world.admit(claim(storage="3Gi"))
        assert said(world.refused(claim(storage="6Gi"))) == forbidden(
            what, f"maximum {per} 5Gi, but request is 6Gi")
        assert said(world.refused(claim(storage="1"), claim(), operation="UPDATE")) == forbidden(
            what, f"minimum {per} 1Gi, but request is 1")
        assert said(world.refused(claim())) == forbidden(
            what, f"[minimum {per} 1Gi.  No request is specified, "
            f"maximum {per} 5Gi.  No request is specified]")


def test_bad_quantities_are_told() -> None:
    with World(LimitRanger()) as world:
        world.store(limit_range(POD_MAX))
        code, reason, message = said(world.refused(pod(containers=[asking({"cpu": "much"})])))
        assert (code, reason) == (400, "BadRequest") and "regular expression" in message


# --- for tests ------------------------------------------------------------------------------------

def test_always() -> None:
    with World(AlwaysAdmit()) as world:
        assert world.admit(pod()) == pod()
    with World(AlwaysDeny()) as world:
        assert said(world.refused(pod())) == forbidden(
            'pods "web"', "admission control is denying all modifications")
