# SPDX-License-Identifier: Apache-2.0
"""kvcore.sim: a cluster's clients do what they say, on virtual time and over HTTPS.

Virtual time makes every wait a fact: what has not happened when nothing is in flight and the clock
has passed does not happen.
"""

from __future__ import annotations

import asyncio
import doctest
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from event_loops import connections_closed

import kvcore
import kvcore.sim
from kvcore import Put
from kvcore.kube import serve
from kvcore.kube.api import Api
from kvcore.kube.status import ApiError
from kvcore.sim import (
    Cluster,
    Informer,
    LocalClient,
    ReplicaController,
    Scheduler,
    replicas,
    simulate,
    virtual_loop,
)
from kvcore.sim.client import MERGE_PATCH, HttpsClient, Lines
from kvcore.sim.clock import VirtualLoop, direct
from kvcore.sim.cluster import replica_set

PODS = "/api/v1/namespaces/default/pods"
SETS = "/apis/apps/v1/namespaces/default/replicasets"
Object = dict[str, Any]


class World:
    """An Api on virtual time, and clusters over it."""

    def __init__(self, loop: VirtualLoop, api: Api) -> None:
        self.loop, self.api, self.client = loop, api, LocalClient(api)

    @asynccontextmanager
    async def cluster(self, nodes: int) -> AsyncIterator[Cluster]:
        cluster = Cluster(self.client, nodes, now=self.loop.now)
        await cluster.start()
        try:
            yield cluster
        finally:
            await cluster.stop()

    async def pods(self) -> list[Object]:
        found: list[Object] = (await self.client.request("GET", PODS))["items"]
        return found


class Told(LocalClient):
    """Remembers what it was asked. `gate`: closed, watches tell nothing; `broken`: a part of URLs
    that are refused."""

    def __init__(self, api: Api) -> None:
        super().__init__(api)
        self.asked: list[tuple[str, str, Object | None]] = []
        self.gate, self.broken = asyncio.Event(), ""
        self.gate.set()

    async def request(self, method: str, url: str, body: Object | None = None,
                      content_type: str = "application/json") -> Object:
        self.asked.append((method, url, body))
        if self.broken and self.broken in url:
            raise ApiError(500, "", "broken")
        return await super().request(method, url, body, content_type)

    async def watch(self, url: str) -> AsyncIterator[tuple[str, Object]]:
        async for event in super().watch(url):
            await self.gate.wait()
            yield event


@asynccontextmanager
async def running(part: Scheduler | ReplicaController, *informers: Informer) -> AsyncIterator[None]:
    """A part at work; behind it nothing of it is."""
    task = asyncio.ensure_future(part.run())
    try:
        for informer in informers:
            await informer.synced.wait()
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def pod(name: str, **metadata: Any) -> Object:
    return {"metadata": {"name": name, **metadata},
            "spec": {"containers": [{"name": "main", "image": "registry.example/main:1"}]}}


def lives(life: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def main(loop: VirtualLoop) -> None:
        with kvcore.open() as store:
            api = direct(Api(store, clock=loop.time, now=loop.now))
            await api.start()
            try:
                await life(World(loop, api))
            finally:
                await api.stop()
    virtual_loop(main)


@pytest.mark.parametrize("name", ["", ".clock", ".cluster"])
def test_examples(name: str) -> None:
    module = __import__(f"kvcore.sim{name}", fromlist=["x"])
    done = doctest.testmod(module)
    assert (done.failed, done.attempted > 0) == (0, True)


# --- time -----------------------------------------------------------------------------------------

def test_time_goes_from_timer_to_timer() -> None:
    async def main(loop: VirtualLoop) -> list[tuple[str, float]]:
        said: list[tuple[str, float]] = []

        async def every(name: str, seconds: float) -> None:
            while True:
                await asyncio.sleep(seconds)
                said.append((name, loop.time()))
        tasks = [loop.create_task(every("a", 20)), loop.create_task(every("b", 30))]
        await asyncio.sleep(65)
        for task in tasks:
            task.cancel()
        return said
    assert virtual_loop(main) == [("a", 20), ("b", 30), ("a", 40), ("b", 60), ("a", 60)]


def test_time_waits_for_what_can_be_read() -> None:
    async def main(loop: VirtualLoop) -> list[float]:
        here, there = socket.socketpair()
        read: list[float] = []

        def readable() -> None:
            here.recv(1)
            read.append(loop.time())
        with here, there:
            loop.add_reader(here, readable)
            there.send(b"1")
            await asyncio.sleep(10)
            loop.remove_reader(here)
        return read
    assert virtual_loop(main) == [0]


def test_what_is_written_is_in_the_watch_cache_at_once() -> None:
    async def life(world: World) -> None:
        await world.api.objects.submit(Put(b"/registry/pods/default/a", b"{}"))
        assert world.api.feed.revision == world.api.store.revision > 1
    lives(life)


def test_the_same_each_time() -> None:
    first, *others = (simulate(nodes=7, replicas=20, seconds=95) for _ in range(5))
    assert others == [first] * 4
    assert (first.bound, first.running, first.failures) == (20, 20, 0)


def test_an_hour_of_leases() -> None:
    report = simulate(nodes=5, seconds=3601)
    assert report.leases == 5 * 360 + 1 and report.failures == 0       # the first begins at 0


# --- the parts ------------------------------------------------------------------------------------

def test_a_replica_set_grows_and_shrinks() -> None:
    async def life(world: World) -> None:
        async with world.cluster(3) as cluster:
            await world.client.request("POST", SETS, replica_set("web", 9))
            await asyncio.sleep(5)
            pods = await world.pods()
            assert [p["status"]["phase"] for p in pods] == ["Running"] * 9
            assert sorted(p["spec"]["nodeName"] for p in pods) == [
                f"node-{n}" for n in (0, 0, 0, 1, 1, 1, 2, 2, 2)]
            found = await world.client.request("GET", f"{SETS}/web")
            assert found["status"]["readyReplicas"] == 9
            for wanted in (2, 4):
                await world.client.request("PATCH", f"{SETS}/web", {"spec": {"replicas": wanted}},
                                           MERGE_PATCH)
                await asyncio.sleep(60)
                assert len(await world.pods()) == wanted
            assert cluster.controller.deleted == sum(k.removed for k in cluster.kubelets) == 7
            report = cluster.report(0, 0)
            assert (report.created, report.bound, report.failures) == (11, 11, 0)
            assert (report.running, report.deleted, report.nodes) == (11, 7, 3)
    lives(life)


def test_pods_that_go_are_made_again() -> None:
    async def life(world: World) -> None:
        async with world.cluster(2):
            await world.client.request("POST", SETS, replica_set("web", 3))
            await asyncio.sleep(5)
            before = {p["metadata"]["name"] for p in await world.pods()}
            for name in before:
                await world.client.request("DELETE", f"{PODS}/{name}")
            await asyncio.sleep(60)
            after = {p["metadata"]["name"] for p in await world.pods()}
            assert len(after) == 3 and not after & before
    lives(life)


def test_a_pod_waits_for_a_node() -> None:
    async def life(world: World) -> None:
        async with world.cluster(0) as cluster:
            await world.client.request("POST", SETS, replica_set("web", 1))
            await asyncio.sleep(100)
            assert cluster.scheduler.bound == 0
            async with world.cluster(1):
                await asyncio.sleep(5)
                assert [p["spec"]["nodeName"] for p in await world.pods()] == ["node-0"]
    lives(life)


def test_a_kubelet_that_begins_again_finds_its_node_and_pods() -> None:
    async def life(world: World) -> None:
        async with world.cluster(1):
            await world.client.request("POST", SETS, replica_set("web", 2))
            await asyncio.sleep(5)
        async with world.cluster(1) as cluster:
            await asyncio.sleep(35)
            report = cluster.report(0, 0)
            assert (report.leases, report.created, report.bound, report.failures) == (4, 0, 0, 0)
    lives(life)


LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


def test_leases_and_nodes_say_when_they_were_renewed() -> None:
    """Times are those of the virtual clock, which begins at 22:13:20; node-1 renews 3.3 s later
    than node-0."""
    async def life(world: World) -> None:
        async def heartbeat() -> tuple[str, str]:
            node = await world.client.request("GET", "/api/v1/nodes/node-1")
            assert node["status"]["allocatable"] == node["status"]["capacity"] != {}
            [ready] = node["status"]["conditions"]
            assert ready["type"] == "Ready"
            return ready["status"], ready["lastHeartbeatTime"]

        async with world.cluster(3):
            assert await heartbeat() == ("True", "2023-11-14T22:13:20Z")
            for seconds, time in ((4, "23.333333"), (9, "23.333333"), (14, "33.333333")):
                await asyncio.sleep(seconds - world.loop.time())
                lease = await world.client.request("GET", f"{LEASES}/node-1")
                assert lease["spec"] == {"holderIdentity": "node-1", "leaseDurationSeconds": 40,
                                         "renewTime": f"2023-11-14T22:13:{time}Z"}
            await asyncio.sleep(299 - world.loop.time())
            assert await heartbeat() == ("True", "2023-11-14T22:13:20Z")
            await asyncio.sleep(2)
            assert await heartbeat() == ("True", "2023-11-14T22:18:20Z")
    lives(life)


def test_a_lease_that_was_deleted_is_made_again() -> None:
    async def life(world: World) -> None:
        async with world.cluster(1) as cluster:
            await asyncio.sleep(1)
            await world.client.request("DELETE", f"{LEASES}/node-0")
            await asyncio.sleep(30)
            lease = await world.client.request("GET", f"{LEASES}/node-0")
            assert lease["spec"]["renewTime"] == "2023-11-14T22:13:50.000000Z"
            report = cluster.report(0, 0)
            assert (report.leases, report.failures) == (3, 1)     # at 0, 20, 30; not at 10
    lives(life)


def test_what_a_kubelet_says_of_its_pods() -> None:
    """All that a pod has when it runs; no two have the same address, old or new."""
    async def life(world: World) -> None:
        async with world.cluster(2):
            await world.client.request("POST", SETS, replica_set("web", 6))
            await asyncio.sleep(5)
            for _ in range(2):
                pods = await world.pods()
                for each in pods:
                    said = each["status"]
                    assert {c["type"]: c["status"] for c in said["conditions"]} == dict.fromkeys(
                        ("PodScheduled", "Initialized", "ContainersReady", "Ready"), "True")
                    [container] = said["containerStatuses"]
                    assert container["name"] == "main" and container["ready"] is True
                    assert container["state"] == {"running": {"startedAt": said["startTime"]}}
                assert sorted(p["status"]["podIP"] for p in pods) == [
                    f"10.0.{node}.{n}" for node in (0, 1) for n in (1, 2, 3)]
                name = next(p["metadata"]["name"] for p in pods      # of the node whose turn it is
                            if p["spec"]["nodeName"] == "node-0")
                await world.client.request("DELETE", f"{PODS}/{name}")
                await asyncio.sleep(60)
    lives(life)


def test_a_scheduler_binds_each_pod_once_and_only_its_own() -> None:
    async def life(world: World) -> None:
        client = Told(world.api)
        keys: list[str] = []
        await client.request("POST", "/api/v1/nodes", {"metadata": {"name": "n"}})
        made = [await client.request("POST", PODS, pod(f"p{n}")) for n in range(3)]
        await client.request("POST", PODS, pod("going", finalizers=["f.io/x"]))
        await client.request("DELETE", f"{PODS}/going")
        others = pod("others")
        others["spec"]["schedulerName"] = "other"
        await client.request("POST", PODS, others)
        del client.asked[:]
        scheduler = Scheduler(client, on_bound=keys.append)
        async with running(scheduler, scheduler.nodes, scheduler.pods):
            await asyncio.sleep(5)
            made.append(await client.request("POST", PODS, pod("p3")))
            await asyncio.sleep(5)
        bindings = [(url, body) for _, url, body in client.asked if url.endswith("/binding")]
        assert sorted(url for url, _ in bindings) == [f"{PODS}/p{n}/binding" for n in range(4)]
        assert {body["metadata"]["uid"] for _, body in bindings if body} == {
            p["metadata"]["uid"] for p in made}
        assert sorted(keys) == [f"default/p{n}" for n in range(4)]
        assert (scheduler.bound, scheduler.failures) == (4, 0)
        assert {p["metadata"]["name"] for p in await world.pods()
                if "nodeName" not in p["spec"]} == {"going", "others"}
    lives(life)


def test_a_binding_that_is_refused_is_a_failure() -> None:
    async def life(world: World) -> None:
        client = Told(world.api)
        await client.request("POST", "/api/v1/nodes", {"metadata": {"name": "n"}})
        scheduler = Scheduler(client)
        async with running(scheduler, scheduler.nodes, scheduler.pods):
            client.broken = "/broken/binding"
            for name in ("broken", "whole"):
                await client.request("POST", PODS, pod(name))
            await asyncio.sleep(5)
        assert (scheduler.bound, scheduler.failures) == (1, 1)
    lives(life)


def test_pods_go_to_nodes_that_are_there_and_take_them() -> None:
    async def life(world: World) -> None:
        client, nodes = world.client, "/api/v1/nodes"
        scheduler = Scheduler(client)

        async def placed(count: int, round: int) -> list[str]:
            for n in range(count):
                await client.request("POST", PODS, pod(f"r{round}-{n}"))
            await asyncio.sleep(5)
            return sorted(p["spec"].get("nodeName", "") for p in await world.pods()
                          if p["metadata"]["name"].startswith(f"r{round}-"))

        async def cordon(name: str, yes: bool) -> None:
            await client.request("PATCH", f"{nodes}/{name}", {"spec": {"unschedulable": yes}},
                                 MERGE_PATCH)
            await asyncio.sleep(1)

        for name in ("a", "b"):
            await client.request("POST", nodes, {"metadata": {"name": name}})
        async with running(scheduler, scheduler.nodes, scheduler.pods):
            for yes in (True, False, True, False):        # back, it counts as one node still
                await cordon("b", yes)
            assert await placed(6, 0) == ["a"] * 3 + ["b"] * 3
            await cordon("b", True)
            assert await placed(2, 1) == ["a"] * 2
            await client.request("DELETE", f"{nodes}/a")
            assert await placed(2, 2) == [""] * 2
            await cordon("b", False)
            assert await placed(2, 3) == ["b"] * 2
            assert await placed(0, 2) == ["b"] * 2
    lives(life)


def test_a_watch_that_is_behind_makes_and_removes_no_pod_twice() -> None:
    async def life(world: World) -> None:
        client = Told(world.api)
        control = ReplicaController(client)
        async with running(control, control.sets, control.pods):
            client.gate = asyncio.Event()
            await client.request("POST", SETS, replica_set("web", 3))
            [obj] = (await client.request("GET", SETS))["items"]
            for seconds in range(2):
                control._set("MODIFIED", obj)
                control.sets.objects["default/web"] = obj
                await asyncio.sleep(seconds + 1)
            assert (control.created, len(await world.pods())) == (3, 3)
            client.gate.set()
            await asyncio.sleep(5)
            client.gate = asyncio.Event()
            obj = obj | {"spec": obj["spec"] | {"replicas": 1}}
            for seconds in range(2):
                control.sets.objects["default/web"] = obj
                control._set("MODIFIED", obj)
                await asyncio.sleep(seconds + 1)
            assert (control.deleted, len(await world.pods())) == (2, 1)
            assert len([method for method, *_ in client.asked if method == "DELETE"]) == 2
            assert (control.created, control.failures) == (3, 0)
            client.gate.set()
    lives(life)


def test_a_part_that_ends_is_told_at_the_start_and_at_the_stop() -> None:
    async def life(world: World) -> None:
        client = Told(world.api)
        client.broken = "/api/v1/nodes"
        client.gate.clear()                       # nobody knows the cluster before it fails
        cluster = Cluster(client, 1, now=world.loop.now)
        with pytest.raises(ApiError, match="broken"):
            await cluster.start()
        with pytest.raises(ApiError, match="broken"):
            await cluster.stop()
        with pytest.raises(ApiError, match='nodes "node-0" not found'):
            async with world.cluster(1):
                await world.client.request("DELETE", "/api/v1/nodes/node-0")
                await asyncio.sleep(301)          # when its status is due
    lives(life)


def test_a_replica_set_makes_pods_in_bursts_and_counts_its_own_only(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod that names it, but not as its controller, is another's; one that is being deleted makes
    no pods; one whose pods are refused is not tried without end."""
    monkeypatch.setattr(replicas, "BURST", 2)

    async def life(world: World) -> None:
        client = Told(world.api)
        control = ReplicaController(client)
        going = replica_set("going", 1)
        going["metadata"]["finalizers"] = ["f.io/x"]
        await client.request("POST", SETS, going)
        await client.request("DELETE", f"{SETS}/going")
        made = await client.request("POST", SETS, replica_set("web", 5))
        await client.request("POST", PODS, pod("guest", ownerReferences=[{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web",
            "uid": made["metadata"]["uid"]}]))
        async with running(control, control.sets, control.pods):
            await asyncio.sleep(5)
            assert (control.created, len(await world.pods())) == (5, 6)
            client.broken = "/pods"
            await client.request("PATCH", f"{SETS}/web", {"spec": {"replicas": 9}}, MERGE_PATCH)
            await asyncio.sleep(5)
            assert (control.created, control.failures) == (5, 2)
    lives(life)


def test_an_informer_follows_through_every_end_of_its_watch() -> None:
    """Watches that are closed, history that is gone: what it holds is what a list says."""
    async def life(world: World) -> None:
        informer = Informer(world.client, "/api/v1/configmaps")
        task = world.loop.create_task(informer.run())
        await informer.synced.wait()
        cacher = world.api.feed.cacher(world.api.resources.of_path("", "v1", "configmaps"))
        maps = "/api/v1/namespaces/default/configmaps"
        for number in range(30):
            await world.client.request("POST", maps, {"metadata": {"name": f"m{number}"}})
            if number % 3 == 0:
                await world.client.request("DELETE", f"{maps}/m{number}")
            if number % 5 == 0:
                for watchers in list(cacher._places.values()):
                    for watcher in list(watchers):
                        cacher.close(watcher)
            if number % 7 == 0:
                await asyncio.sleep(3)
        await asyncio.sleep(10)
        listed = await world.client.request("GET", "/api/v1/configmaps")
        assert {key: obj["metadata"]["resourceVersion"] for key, obj in informer.objects.items()
                } == {f"{o['metadata']['namespace']}/{o['metadata']['name']}":
                      o["metadata"]["resourceVersion"] for o in listed["items"]}
        assert informer.restarts == 5          # the first watch was closed before it began
        task.cancel()
    lives(life)


class Script:
    """A client whose watches say what a test wrote down: events, and how each of them ends."""

    def __init__(self, *watches: list[tuple[str, Object] | ApiError]) -> None:
        self.watches, self.urls = list(watches), list[str]()

    async def request(self, method: str, url: str, body: Object | None = None,
                      content_type: str = "") -> Object:
        raise AssertionError("only watches")

    async def watch(self, url: str) -> AsyncIterator[tuple[str, Object]]:
        self.urls.append(url)
        for event in self.watches.pop(0) if self.watches else ():
            if isinstance(event, ApiError):
                raise event
            yield event
        if not self.watches:
            await asyncio.Event().wait()


def test_an_informer_tells_each_difference_once() -> None:
    """Through the end of a watch, a server that is away, and history that is gone."""
    def event(type: str, name: str, version: int) -> tuple[str, Object]:
        return type, {"metadata": {"name": name, "namespace": "n", "resourceVersion": str(version)}}

    client = Script(
        [event("ADDED", "a", 2), event("ADDED", "b", 3), event("ADDED", "c", 4),
         event("BOOKMARK", "", 5), event("MODIFIED", "a", 6)],
        [event("DELETED", "c", 7), event("BOOKMARK", "", 8)],
        [ApiError(503, "", "away")],
        [ApiError(410, "Expired", "too old")],
        [event("ADDED", "a", 6), event("ADDED", "d", 9), event("BOOKMARK", "", 10)],
        [event("MODIFIED", "d", 11)],
        [ApiError(410, "Expired", "too old")],
        [event("ADDED", "a", 6), event("ADDED", "d", 12), event("BOOKMARK", "", 13)])
    told: list[tuple[str, str, str]] = []

    def handler(type: str, obj: Object) -> None:
        told.append((type, obj["metadata"]["name"], obj["metadata"]["resourceVersion"]))

    async def main(loop: VirtualLoop) -> None:
        informer = Informer(client, "/x", "l=1", handler)
        task = loop.create_task(informer.run())
        await asyncio.sleep(0.5)
        assert told == [("ADDED", "a", "2"), ("ADDED", "b", "3"), ("ADDED", "c", "4"),
                        ("MODIFIED", "a", "6"), ("DELETED", "c", "7")]
        await asyncio.sleep(1)                 # it asks a server that is away a second later
        assert told[5:] == [("DELETED", "b", "3"), ("ADDED", "d", "9"), ("MODIFIED", "d", "11"),
                            ("MODIFIED", "d", "12")]
        assert (sorted(informer.objects), informer.version) == (["n/a", "n/d"], "13")
        task.cancel()

    virtual_loop(main)
    again = "/x?watch=true&allowWatchBookmarks=true&resourceVersion="
    fresh = again + "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&l=1"
    assert client.urls == [fresh, again + "6&l=1", again + "8&l=1", again + "8&l=1", fresh,
                           again + "10&l=1", again + "11&l=1", fresh]


def test_lines_come_in_any_pieces() -> None:
    events = [("ADDED", {"metadata": {"name": str(n)}}) for n in range(3)]
    data = b"".join(orjson.dumps({"type": t, "object": o}) + b"\n" for t, o in events)
    for size in (1, 7, len(data)):
        lines = Lines()
        pieces = [data[i:i + size] for i in range(0, len(data), size)]
        assert [event for piece in pieces for event in lines.feed(piece)] == events
    with pytest.raises(ApiError, match="gone") as told:
        Lines().feed(b'{"type":"ERROR","object":{"code":410,"message":"gone"}}\n')
    assert told.value.code == 410


def test_over_https() -> None:
    """The same clients, through TLS, authentication, RBAC and default admission."""
    async def life(url: str, context: Any) -> None:
        async with HttpsClient(url, context) as client:
            running = asyncio.Event()

            def seen(type: str, pod: Object) -> None:
                phases[pod["metadata"]["name"]] = pod["status"]["phase"]
                if list(phases.values()) == ["Running"] * 4:
                    running.set()
            phases: dict[str, str] = {}
            cluster = Cluster(client, 2)
            await cluster.start()
            watch = asyncio.ensure_future(Informer(client, PODS, "", seen).run())
            await client.request("POST", SETS, replica_set("web", 4))
            await asyncio.wait_for(running.wait(), 30)
            watch.cancel()
            await cluster.stop()
            with pytest.raises(ApiError, match='pods "nobody" not found'):
                await client.request("GET", f"{PODS}/nobody")
        await connections_closed()

    with kvcore.open() as store, serve(store) as server:
        asyncio.run(life(server.url, server.ssl_context()))
