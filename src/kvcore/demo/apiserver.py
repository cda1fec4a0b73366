# SPDX-License-Identifier: Apache-2.0
"""Pods through the whole create path: in process, over HTTPS, and from there to a node.

    a pod ─ decode · default · mutate · prepare · validate · admit · encode · store · observe ─► 201
      one at a time: each stage's time, each admission plugin's
      many in flight: the rate · a child process over HTTPS: what a client sees
      scheduling: created ─ watch ─► scheduler ─ binding ─► bound ─ watch ─► kubelet ─► Running

All of it on a durable store of its own, with authentication, RBAC and the default admission
plugins. May not know: other phases.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import multiprocessing
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from kvcore import manifests
from kvcore.demo.measure import Claim, Report, Samples, Step, Ui
from kvcore.demo.store import open_store
from kvcore.demo.workload import Workload
from kvcore.kube.metrics import Histogram
from kvcore.kube.request import ADMIN
from kvcore.kube.server import Server, serve
from kvcore.kube.tls import client_context
from kvcore.sim import Cluster, LocalClient
from kvcore.sim.client import HttpsClient

Object = dict[str, Any]
Create = Callable[[Object], Awaitable[Any]]

MOST = 20_000                # pods made in process
LONE, FLIGHT = 1000, 256     # made one at a time; in flight afterwards
STREAMS = 16                 # connections of the client over HTTPS
NODES, PACE = 20, 0.01       # of the scheduling flow; seconds between its pods
PODS = "/api/v1/namespaces/default/pods"
KEPT = ("labels", "annotations")
PLACED = ("nodeName", "serviceAccount", "serviceAccountName", "priorityClassName",
          "imagePullSecrets")
NOBODY = "nobody"            # schedules the pods that are only made


class Recorded(Histogram):
    """Stands for a histogram of the server's, and keeps each time beside."""

    def __init__(self, counted: Histogram) -> None:
        super().__init__(counted.name, counted.help, counted.labels, counted.bounds)
        self.counted = counted
        self.samples: dict[tuple[str, ...], Samples] = {}

    def observe(self, values: tuple[str, ...], seconds: float) -> None:
        self.counted.observe(values, seconds)
        self.samples.setdefault(values, Samples()).add(int(seconds * 1e9))


def api_server(path: str, workload: Workload, objects: int, report: Report, ui: Ui) -> None:
    """All phases, on a store below `path` that is removed afterwards."""
    count = max(min(MOST, objects // 10), 100)
    remote, scheduled = max(count // 4, 20), max(count // 40, 20)
    made = pods(workload)
    with tempfile.TemporaryDirectory(prefix="apiserver-", dir=path) as below, \
            open_store(below, 32) as db, serve(db) as server:
        _in_process(server, made, count, report, ui)
        _over_https(server, made, remote, report, ui)
        _scheduled(server, made, scheduled, report, ui)
        listed = db.range(prefix=b"/registry/pods/", count_only=True).count
        report.equal("pods created through the whole path", listed, count + remote + scheduled)
        report.equal("problems of the API server's store", db.check(), [])


def pods(workload: Workload) -> list[Object]:
    """Pods as somebody would send them: the workload's, without what a server or a cluster adds."""
    found: list[Object] = []
    for index in itertools.count():
        if workload.resource(index) == "pods":
            pod = manifests.decode(workload.item(index)[1])
            pod["metadata"] = {key: value for key, value in pod["metadata"].items()
                               if key in KEPT} | {"generateName": "demo-"}
            for field in PLACED:
                pod["spec"].pop(field, None)
            pod["spec"]["schedulerName"] = NOBODY
            pod.pop("status", None)
            found.append(pod)
        if len(found) == 50:
            break
    return found


def _again(made: list[Object]) -> Iterator[Object]:
    """Copies, for ever: the path takes the object it is given."""
    return map(copy.deepcopy, itertools.cycle(made))


async def _one_after_the_other(create: Create, some: Iterator[Object], step: Step) -> Samples:
    latencies = Samples()
    for pod in some:
        start = time.perf_counter_ns()
        await create(pod)
        latencies.add(time.perf_counter_ns() - start)
        step.advance(1)
    return latencies


async def _at_once(create: Create, some: Iterator[Object], workers: int, step: Step) -> float:
    """Returns: seconds."""
    async def work() -> None:
        for pod in some:
            await create(pod)
            step.advance(1)

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(workers)))
    return time.perf_counter() - start


# --- in process -----------------------------------------------------------------------------------

def _in_process(server: Server, made: list[Object], count: int, report: Report, ui: Ui) -> None:
    api = server.api
    resource = api.resources.of_path("", "v1", "pods")
    assert resource is not None
    lone = min(LONE, count // 2)
    some = _again(made)
    stages = api.metrics.stages = Recorded(api.metrics.stages)
    before = _plugin_seconds(api.metrics.admission)

    async def create(pod: Object) -> bytes:
        return await api.create(resource, pod, "default", ADMIN)

    with ui.phase("pods through the create path, one at a time", lone) as step:
        latencies = server.run(_one_after_the_other(create, itertools.islice(some, lone), step))
    report.time("pod created, all stages, one caller, durable", "ms", latencies,
                Claim("p99 140 ms", 140, of="p99"), plot="pod created, in process")
    for (_, name), samples in stages.samples.items():
        report.time(f"create path, one caller: {name}", "us", samples)
    for plugin, seconds in _plugin_seconds(api.metrics.admission).items():
        report.value(f"admission: {plugin}", "us", (seconds - before[plugin]) / lone * 1e6,
                     Claim("2-5 ms", 2000, most=5000))
    api.metrics.stages = stages.counted
    with ui.phase("pods through the create path, many in flight", count - lone) as step:
        seconds = server.run(_at_once(create, itertools.islice(some, count - lone), FLIGHT, step))
    report.value(f"pods created in process, {FLIGHT} in flight", "/s", (count - lone) / seconds)


def _plugin_seconds(admission: Histogram) -> dict[str, float]:
    """What each plugin has taken so far, both of its turns together."""
    sums: dict[str, float] = defaultdict(float)
    for (name, *_), (_, total) in admission.counts.items():
        sums[name] += total[0]
    return sums


# --- over HTTPS -----------------------------------------------------------------------------------

def _over_https(server: Server, made: list[Object], count: int, report: Report, ui: Ui) -> None:
    """A client in a process of its own: what is measured is the server, and the wire."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    child = spawn.Process(target=_client, daemon=True, args=(
        theirs, server.url, server.ca, server.pki.admin.chain, made, count))
    with ui.phase(f"pods over HTTPS, {STREAMS} connections", count) as step:
        child.start()
        theirs.close()
        try:
            while isinstance(said := ours.recv(), int):
                step.advance(said)
        finally:
            child.kill()
            child.join()
            ours.close()
    lone, seconds, rest = said
    latencies = Samples()
    for nanoseconds in lone:
        latencies.add(nanoseconds)
    report.time("pod created over HTTPS, one connection, durable", "ms", latencies,
                Claim("p99 140 ms", 140, of="p99"), plot="pod created, over HTTPS")
    report.value(f"pods created over HTTPS, {STREAMS} connections", "/s", rest / seconds)


class _Told(Step):
    """Progress through a pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._done = pipe, 0

    def advance(self, count: int) -> None:
        self._done += count
        if self._done >= 50:
            self.flush()

    def flush(self) -> None:
        self._pipe.send(self._done)
        self._done = 0


def _client(pipe: Connection, url: str, ca: bytes, chain: bytes, made: list[Object],
            count: int) -> None:
    """In the child: sends numbers while it works, then (latencies in ns, seconds, how many)."""
    async def load() -> tuple[list[int], float, int]:
        some, lone, told = _again(made), min(LONE, count // 4), _Told(pipe)
        async with HttpsClient(url, client_context(ca, chain)) as client:
            async def create(pod: Object) -> Object:
                return await client.request("POST", PODS, pod)

            found: list[int] = []
            for pod in itertools.islice(some, lone):
                start = time.perf_counter_ns()
                await create(pod)
                found.append(time.perf_counter_ns() - start)
                told.advance(1)
            rest = count - lone
            seconds = await _at_once(create, itertools.islice(some, rest), STREAMS, told)
            told.flush()
            return found, seconds, rest

    signal.signal(signal.SIGINT, signal.SIG_IGN)      # Ctrl-C is the parent's, who ends us
    pipe.send(asyncio.run(load()))


# --- scheduling -----------------------------------------------------------------------------------

def _scheduled(server: Server, made: list[Object], count: int, report: Report, ui: Ui) -> None:
    """Pods created one after the other while scheduler and kubelets work."""
    with ui.phase(f"pods scheduled to {NODES} nodes", count) as step:
        latencies, failures = server.run(_flow(server, made, count, step))
    report.time("pod created to bound", "ms", latencies, Claim("320 ms", 320),
                plot="pod created to bound")
    report.equal("requests of the simulated cluster that failed", failures, 0)


async def _flow(server: Server, made: list[Object], count: int, step: Step) -> tuple[Samples, int]:
    client = LocalClient(server.api)
    began: dict[str, int] = {}
    latencies, every = Samples(), asyncio.Event()

    def bound(key: str) -> None:
        start = began.pop(key, None)
        if start is not None:
            latencies.add(time.perf_counter_ns() - start)
            step.advance(1)
            if len(latencies) == count:
                every.set()

    cluster = Cluster(client, NODES, on_bound=bound)
    await cluster.start()
    for number, pod in zip(range(count), _again(made), strict=False):
        del pod["spec"]["schedulerName"]
        pod["metadata"]["name"] = name = f"scheduled-{number}"
        began[f"default/{name}"] = time.perf_counter_ns()
        await client.request("POST", PODS, pod)
        await asyncio.sleep(PACE)        # the pace of the flow
    await every.wait()
    report = cluster.report(0, 0)
    await cluster.stop()
    return latencies, report.failures
