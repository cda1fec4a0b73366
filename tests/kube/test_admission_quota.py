# SPDX-License-Identifier: Apache-2.0
"""ResourceQuota: usage by name, words of refusals, many at once, and what is given back."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from admission_world import KINDS, Object, World, asking, forbidden, pod, said, thing
from hypothesis import given
from hypothesis import strategies as st

from kvcore.kube import status
from kvcore.kube.admission import Chain, validating
from kvcore.kube.admission import forbidden as refusal
from kvcore.kube.admission.quota import Limited, ResourceQuota
from kvcore.kube.admission.usage import evaluator
from kvcore.kube.api import Api
from kvcore.kube.quantity import parse
from kvcore.kube.resources import Resources


def quota(name: str = "q", /, hard: Object | None = None, used: Object | None = None,
          **spec: Any) -> Object:
    """With its status, unless used is None."""
    made = thing("ResourceQuota", name, spec={"hard": hard or {}} | spec)
    if used is not None:
        made["status"] = {"hard": hard, "used": used}
    return made


def used(world: World, name: str = "q") -> Object:
    found = world.stored("ResourceQuota", name)
    assert found is not None
    now: Object = found["status"]["used"]
    return now


def becomes(world: World, wanted: Object, name: str = "q") -> None:
    """Waits until status.used is that; fails with what it is instead."""
    async def wait() -> None:
        end = world.loop.time() + 10
        while (now := (world.stored("ResourceQuota", name) or {}).get("status", {}).get("used")) \
                != wanted:
            assert world.loop.time() < end, now
            await asyncio.sleep(0)
    world.run(wait())


# --- usage ----------------------------------------------------------------------------------------

def usage(obj: Object) -> dict[str, str]:
    resource = Resources().of_kind(obj["apiVersion"], obj["kind"])
    assert resource is not None
    found = evaluator(resource)
    assert found is not None
    return {name: str(quantity) for name, quantity in found.usage(obj, 0.0).items()}


def test_usage_of_a_pod() -> None:
    wanted = pod(containers=[asking({"cpu": "100m", "memory": "1Gi", "nvidia.com/gpu": "1"},
                                    {"cpu": "1"}), asking({"cpu": "200m"}, name="b")],
                 initContainers=[asking({"cpu": "1", "hugepages-2Mi": "4Mi"}, name="i")],
                 overhead={"cpu": "10m"})
    assert usage(wanted) == {
        "count/pods": "1", "pods": "1", "cpu": "1010m", "requests.cpu": "1010m",
        "limits.cpu": "1010m", "memory": "1Gi", "requests.memory": "1Gi",
        "requests.nvidia.com/gpu": "1", "hugepages-2Mi": "4Mi", "requests.hugepages-2Mi": "4Mi"}
    assert usage(wanted | {"status": {"phase": "Succeeded"}}) == {"count/pods": "1"}
    gone = pod() | {"metadata": {"deletionTimestamp": "1969-12-31T23:59:00Z",
                                 "deletionGracePeriodSeconds": 30}}
    assert usage(gone) == {"count/pods": "1"}
    gone["metadata"]["deletionGracePeriodSeconds"] = 90
    assert usage(gone)["pods"] == "1"


def test_usage_of_others() -> None:
    assert usage(thing("ConfigMap", "c")) == {"count/configmaps": "1", "configmaps": "1"}
    assert usage(thing("Deployment", "d")) == {"count/deployments.apps": "1"}
    ports = [{"port": 1, "nodePort": 30000}, {"port": 2}]
    counted = {"count/services": "1", "services": "1"}
    for spec, balancers, opened in (
            ({"type": "ClusterIP"}, "0", "0"), ({"type": "NodePort"}, "0", "2"),
            ({"type": "LoadBalancer"}, "1", "2"),
            ({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False}, "1", "1")):
        assert usage(thing("Service", "s", spec=spec | {"ports": ports})) == counted | {
            "services.loadbalancers": balancers, "services.nodeports": opened}
    claim = thing("PersistentVolumeClaim", "c", spec={
        "storageClassName": "gold", "resources": {"requests": {"storage": "1.5"}}})
    by_class = "gold.storageclass.storage.k8s.io/"
    assert usage(claim) == {
        "persistentvolumeclaims": "1", "count/persistentvolumeclaims": "1",
        "requests.storage": "2", f"{by_class}requests.storage": "2",
        f"{by_class}persistentvolumeclaims": "1"}
    event = Resources().of_path("", "v1", "events")
    assert event is not None and evaluator(event) is None


# --- refusals -------------------------------------------------------------------------------------

def test_exceeded() -> None:
    hard = {"pods": "2", "requests.cpu": "1", "limits.memory": "1Gi"}
    with World(ResourceQuota()) as world:
        world.store(quota(hard=hard, used={"pods": "1", "requests.cpu": "900m",
                                           "limits.memory": "0"}))
        big = pod(containers=[asking({"cpu": "200m"}, {"memory": "2Gi"})])
        assert said(world.refused(big)) == forbidden('pods "web"', (
            "exceeded quota: q, requested: limits.memory=2Gi,requests.cpu=200m, "
            "used: limits.memory=0,requests.cpu=900m, limited: limits.memory=1Gi,requests.cpu=1"))
        assert said(world.refused(pod())) == forbidden(
            'pods "web"', "failed quota: q: must specify limits.memory for: web; "
            "requests.cpu for: web")
        fits = pod(containers=[asking({"cpu": "100m"}, {"memory": "1Gi"})])
        world.admit(fits, dry_run=True)
        assert used(world)["pods"] == "1"
        world.admit(fits)
        assert used(world) == {"pods": "2", "requests.cpu": "1", "limits.memory": "1Gi"}
        world.admit(thing("ConfigMap", "c"))
        world.admit(pod("web", "elsewhere"))


def test_status_unknown() -> None:
    with World(ResourceQuota()) as world:
        world.store(quota(hard={"pods": "1", "count/pods": "1"}, used={}))
        assert said(world.refused(pod())) == forbidden(
            'pods "web"', "status unknown for quota: q, resources: count/pods,pods")


@pytest.mark.parametrize(("scope", "inside", "outside"), [
    ({"scopes": ["Terminating"]}, pod(activeDeadlineSeconds=5), pod()),
    ({"scopes": ["NotTerminating"]}, pod(), pod(activeDeadlineSeconds=0)),
    ({"scopes": ["BestEffort"]}, pod(), pod(containers=[asking({"cpu": "1"})])),
    ({"scopes": ["NotBestEffort"]}, pod(containers=[asking({}, {"memory": "1"})]), pod()),
    ({"scopes": ["PriorityClass"]}, pod(priorityClassName="a"), pod()),
    ({"scopes": ["CrossNamespacePodAffinity"]}, pod(affinity={"podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{"namespaces": ["x"]}]}}), pod()),
    ({"scopeSelector": {"matchExpressions": [
        {"scopeName": "PriorityClass", "operator": "In", "values": ["a"]}]}},
     pod(priorityClassName="a"), pod(priorityClassName="b")),
    ({"scopeSelector": {"matchExpressions": [
        {"scopeName": "PriorityClass", "operator": "NotIn", "values": ["a"]}]}},
     pod(), pod(priorityClassName="a")),
])
def test_scopes(scope: Object, inside: Object, outside: Object) -> None:
    with World(ResourceQuota()) as world:
        world.store(quota("q", {"pods": "0"}, {"pods": "0"}, **scope))
        world.admit(outside)
        assert said(world.refused(inside)) == forbidden(
            'pods "web"', "exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0")


def test_updates_cost_their_difference() -> None:
    def claim(size: str) -> Object:
        return thing("PersistentVolumeClaim", "c", spec={"resources": {"requests": {
            "storage": size}}})

    with World(ResourceQuota()) as world:
        world.store(quota("q", {"requests.storage": "10Gi"}, {"requests.storage": "8Gi"}))
        world.admit(claim("2Gi"), claim("3Gi"), operation="UPDATE")
        assert used(world)["requests.storage"] == "8Gi"
        world.admit(claim("4Gi"), claim("3Gi"), operation="UPDATE")
        assert used(world)["requests.storage"] == "9Gi"
        assert said(world.refused(claim("5Gi"), claim("3Gi"), operation="UPDATE")) == forbidden(
            'persistentvolumeclaims "c"', "exceeded quota: q, requested: requests.storage=2Gi, "
            "used: requests.storage=9Gi, limited: requests.storage=10Gi")


def test_objects_are_counted() -> None:
    hard = {"count/deployments.apps": "1", "configmaps": "1", "count/secrets": "0"}
    with World(ResourceQuota()) as world:
        world.store(quota("q", hard, dict.fromkeys(hard, "0")))
        for kind in ("Deployment", "ConfigMap"):
            world.admit(thing(kind, "a"))
            assert said(world.refused(thing(kind, "b")))[2].endswith("=1")
        assert said(world.refused(thing("Secret", "s")))[2] == (
            'secrets "s" is forbidden: exceeded quota: q, requested: count/secrets=1, '
            "used: count/secrets=0, limited: count/secrets=0")


def test_what_needs_a_quota() -> None:
    with World(ResourceQuota([Limited("", "pods", ("requests.cpu",))])) as world:
        wanted = pod(containers=[asking({"cpu": "1"})])
        assert said(world.refused(wanted)) == forbidden(
            'pods "web"', "insufficient quota to consume: requests.cpu")
        world.admit(pod())
        world.store(quota("q", {"requests.cpu": "1"}, {"requests.cpu": "0"}))
        world.admit(wanted)


# --- many at once ---------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(5))
def test_many_at_once_share_what_there_is(seed: int) -> None:
    """Two servers over one store; as many creates succeed as there is room, and used says so."""
    rng = random.Random(seed)
    with World(ResourceQuota()) as world:
        room = rng.randrange(5, 40)
        world.store(quota("a", {"pods": str(room)}, {"pods": "0"}),
                    quota("b", {"requests.cpu": "3"}, {"requests.cpu": "0"}))
        other = Api(world.db, housekeeping=False, admission=Chain([ResourceQuota()]))
        outcomes: list[tuple[str, bool]] = []

        async def one(i: int) -> None:
            api = rng.choice([world.api, other])
            cpu = rng.choice(["10m", "100m", "0.5"])
            await asyncio.sleep(rng.random() * 0.01)
            resource = world.resource(pod())
            try:
                await api.create(resource, pod(f"p{i}", containers=[asking({"cpu": cpu})]),
                                 "default")
            except status.ApiError as error:
                assert error.code in (403, 409), error.message
                outcomes.append((cpu, False))
            else:
                outcomes.append((cpu, True))

        async def all_of_them() -> None:
            await other.start()
            try:
                await asyncio.gather(*(one(i) for i in range(60)))
            finally:
                await other.stop()

        world.run(all_of_them())
        stored = [cpu for cpu, ok in outcomes if ok]
        assert len(stored) == len(list(world.db.range(prefix=b"/registry/pods/")))
        assert 0 < len(stored) <= room
        assert sum((parse(cpu) for cpu in stored), parse("0")) <= parse("3")
        becomes(world, {"pods": str(len(stored))}, "a")       # what was given back is counted
        cpu = sum((parse(cpu) for cpu in stored), parse("0"))
        becomes(world, {"requests.cpu": str(cpu)}, "b")


@given(st.lists(st.sampled_from(["1", "2", "3"]), min_size=1, max_size=12), st.integers(0, 12))
def test_one_after_another_beside_a_model(wanted: list[str], room: int) -> None:
    with World(ResourceQuota()) as world:
        world.store(quota("q", {"requests.cpu": str(room)}, {"requests.cpu": "0"}))
        taken = 0
        for i, cpu in enumerate(wanted):
            fits = taken + int(cpu) <= room
            obj = pod(f"p{i}", containers=[asking({"cpu": cpu})])
            if fits:
                world.admit(obj)
                taken += int(cpu)
            else:
                assert said(world.refused(obj))[2].endswith(
                    f"requested: requests.cpu={cpu}, used: requests.cpu={taken}, "
                    f"limited: requests.cpu={room}")
        assert used(world)["requests.cpu"] == str(taken)


def test_a_batch_is_one_write() -> None:
    with World(ResourceQuota()) as world:
        world.store(quota("q", {"pods": "100"}, {"pods": "0"}))
        before = world.db.revision

        async def many() -> None:
            calls = [world.call(pod(f"p{i}")) for i in range(50)]
            await asyncio.gather(*(world.admitting(call) for call in calls))

        world.run(many())
        assert used(world)["pods"] == "50"
        assert world.db.revision - before <= 2


def test_a_quota_that_others_change_all_the_time() -> None:
    """After a few tries the client is told of the conflict; nothing was counted."""
    with World(ResourceQuota()) as world:
        world.store(quota("q", {"pods": "100"}, {"pods": "0"}))
        real = world.api.objects.replace

        async def beaten(key: bytes, stored: bytes, revision: int, lease: int = 0) -> int:
            world.db.put(key, world.db.get(key).value)
            return await real(key, stored, revision, lease)

        world.api.objects.replace = beaten       # type: ignore[method-assign]
        found = world.refused(pod())
        assert found["code"] == 409 and found["reason"] == "Conflict"
        assert used(world)["pods"] == "0"


# --- counting from nothing ------------------------------------------------------------------------

def test_a_new_quota_is_counted() -> None:
    with World(ResourceQuota()) as world:
        world.store(pod("a", containers=[asking({"cpu": "1"})]), pod("b"),
                    pod("c") | {"status": {"phase": "Failed"}}, thing("ConfigMap", "m"),
                    pod("d", "elsewhere"))
        world.store(quota("q", {"pods": "5", "count/pods": "5", "requests.cpu": "2",
                                "configmaps": "3", "count/deployments.apps": "1"}))
        becomes(world, {"configmaps": "1", "count/deployments.apps": "0", "count/pods": "3",
                        "pods": "2", "requests.cpu": "1"})
        found = world.stored("ResourceQuota", "q")
        assert found and found["status"]["hard"] == found["spec"]["hard"]


def test_quotas_there_before_the_server() -> None:
    with World(ResourceQuota()) as world:
        world.store(pod("a"), quota("q", {"pods": "1"}))
        becomes(world, {"pods": "1"})
        assert said(world.refused(pod("b")))[0] == 403


def test_what_goes_is_given_back() -> None:
    with World(ResourceQuota()) as world:
        world.store(quota("q", {"pods": "1"}))
        becomes(world, {"pods": "0"})
        world.create(pod("a"))
        assert said(world.refused(pod("b")))[0] == 403
        world.db.delete(b"/registry/pods/default/a")
        becomes(world, {"pods": "0"})
        world.create(pod("b"))
        becomes(world, {"pods": "1"})
        world.store(world.stored("Pod", "b") | {"status": {"phase": "Succeeded"}})  # type: ignore
        becomes(world, {"pods": "0"})


def test_what_is_not_stored_is_given_back() -> None:
    """A name that is taken, and a refusal behind the quota."""
    @validating()
    def later(call: Any) -> None:
        if call.name == "bad":
            raise refusal(call, "no")

    with World(ResourceQuota(), later) as world:
        world.store(quota("q", {"pods": "3"}))
        becomes(world, {"pods": "0"})
        world.create(pod("a"))
        for name in ("a", "bad"):
            with pytest.raises(status.ApiError):
                world.create(pod(name))
        becomes(world, {"pods": "1"})


def plugin_counts(world: World, plugin: ResourceQuota) -> None:
    """A recount of the default namespace, from beginning to end."""
    async def count() -> None:
        plugin._recount(world.api, "default")
        await asyncio.gather(*plugin._tasks)
    world.run(count())


def test_requests_in_flight_are_in_a_recount() -> None:
    with World(ResourceQuota()) as world:
        world.store(quota("q", {"pods": "3"}, {"pods": "0"}))
        call = world.call(pod("a"))
        world.run(world.admitting(call))         # counted, but not stored yet
        plugin = world.api.admission.plugins[0]
        assert isinstance(plugin, ResourceQuota)
        plugin_counts(world, plugin)
        assert used(world) == {"pods": "1"}
        assert call.admission is not None
        finish = call.admission.finish
        world.loop.call_soon(lambda: finish(False))
        becomes(world, {"pods": "0"})


def test_kinds_are_known() -> None:
    """The table of the tests fits the server's."""
    resources = Resources()
    assert all(resources.of_kind(version, kind) for kind, version in KINDS.items())
