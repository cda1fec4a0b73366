# SPDX-License-Identifier: Apache-2.0
"""The demo's phase of the API server: what its figures are of, by a clock that a test moves; and
that its checks can fail."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kvcore
from kvcore.demo import apiserver
from kvcore.demo.measure import Figure, Report
from kvcore.demo.workload import build
from kvcore.kube.admission.plugins import build_chain
from kvcore.kube.create import CREATE
from kvcore.kube.metrics import Histogram

Object = dict[str, Any]


class Phases:
    """A Ui. `done`: of each phase, how many it said it would do, and did."""

    def __init__(self) -> None:
        self.done: dict[str, tuple[int, int]] = {}

    @contextmanager
    def phase(self, title: str, total: int) -> Iterator[Step]:
        step = Step()
        yield step
        self.done[title] = total, step.count


class Step:
    def __init__(self) -> None:
        self.count = 0

    def advance(self, count: int) -> None:
        self.count += count


class Clock:
    """In place of the module `time`."""

    def __init__(self) -> None:
        self.now = 5_000_000_000

    def perf_counter_ns(self) -> int:
        return self.now

    def perf_counter(self) -> float:
        return self.now / 1e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(apiserver, "time", made)
    return made


def figure(report: Report, name: str) -> Figure:
    [found] = [figure for figure in report.figures if figure.name == name]
    return found


def near(wanted: float) -> Any:
    return pytest.approx(wanted, rel=0.01)               # a histogram's middle


def test_a_stages_time_is_in_its_unit() -> None:
    counted = Histogram("h", "", ("verb", "stage"), (1.0,))
    stages = apiserver.Recorded(counted)
    for seconds in (0.002, 0.002, 0.5):
        stages.observe(("create", "store"), seconds)
    report = Report()
    report.time("store", "us", stages.samples["create", "store"])
    assert (figure(report, "store").samples, figure(report, "store").median) == (3, near(2000))
    assert counted.sum(("create", "store")) == near(0.504)


def test_a_plugins_time_is_of_both_its_turns() -> None:
    admission = Histogram("h", "", ("name", "operation", "type"), (1.0,))
    for _ in range(10):
        admission.observe(("Webhook", "CREATE", "admit"), 0.004)
        admission.observe(("Webhook", "CREATE", "validate"), 0.002)
        admission.observe(("Quota", "CREATE", "validate"), 0.000010)
    assert apiserver._plugin_seconds(admission) == {"Webhook": near(0.06), "Quota": near(0.0001)}


def test_latencies_and_rates_are_of_the_creates_alone(clock: Clock) -> None:
    """Each create takes 3 ms; what a copy takes is not counted."""
    async def create(pod: Object) -> None:
        clock.now += 3_000_000

    def copies(count: int) -> Iterator[Object]:
        for _ in range(count):
            clock.now += 1_000_000
            yield {}

    async def lives() -> None:
        step = Step()
        found = await apiserver._one_after_the_other(create, copies(7), step)
        assert (found.count, found.least, found.most) == (7, 3_000_000, 3_000_000)
        assert await apiserver._at_once(create, copies(5), 2, step) == near(5 * 0.004)
        assert step.count == 12

    asyncio.run(lives())


def test_pods_are_as_somebody_would_send_them() -> None:
    """Nothing of an earlier life: no server, no node, no account is known to this one."""
    found = apiserver.pods(build([])[0])
    assert len(found) == 50
    for pod in found:
        assert pod["kind"] == "Pod" and "status" not in pod
        assert set(pod["metadata"]) <= {"labels", "annotations", "generateName"}
        assert not set(pod["spec"]) & {"nodeName", "serviceAccount", "serviceAccountName",
                                       "priorityClassName", "imagePullSecrets"}
        assert pod["spec"]["schedulerName"] == "nobody"


def test_all_phases(tmp_path: Path) -> None:
    """Every figure is of as many pods as its phase says: 100 in process, of which 50 alone, 25 over
    HTTPS, of which 6 alone, and 20 scheduled."""
    report, ui = Report(), Phases()
    apiserver.api_server(str(tmp_path), build([])[0], 1000, report, ui)
    assert ui.done == {
        "pods through the create path, one at a time": (50, 50),
        "pods through the create path, many in flight": (50, 50),
        "pods over HTTPS, 16 connections": (25, 25),
        "pods scheduled to 20 nodes": (20, 20)}
    samples = {figure.name: figure.samples for figure in report.figures}
    stages = {f"create path, one caller: {name}": 50 for name, _ in CREATE}
    assert samples.items() >= (stages | {
        "pod created, all stages, one caller, durable": 50,
        "pod created over HTTPS, one connection, durable": 6,
        "pod created to bound": 20}).items()
    assert {name for name in samples if name.startswith("create path")} == set(stages)
    plugins = {name.removeprefix("admission: ") for name in samples if "admission: " in name}
    assert {"NamespaceLifecycle", "ServiceAccount", "PodSecurity"} <= plugins <= {
        plugin.name for plugin in build_chain().plugins}
    assert all(figure.median > 0 for figure in report.figures)
    assert [(check.name, check.detail) for check in report.checks] == [
        ("requests of the simulated cluster that failed", ""),
        ("pods created through the whole path", ""), ("problems of the API server's store", "")]
    assert list(tmp_path.iterdir()) == []


def test_a_pod_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for phase in ("_in_process", "_scheduled"):
        monkeypatch.setattr(apiserver, phase, lambda *_: None)
    report = Report()
    apiserver.api_server(str(tmp_path), build([])[0], 1000, report, Phases())
    [check] = [check for check in report.checks if not check.ok]
    assert (check.name, check.detail) == ("pods created through the whole path",
                                          "found 25, expected 145")


def test_failures_and_damage_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(apiserver.Cluster):
        def report(self, revision: int, seconds: float) -> Any:
            return replace(super().report(revision, seconds), failures=3)

    monkeypatch.setattr(apiserver, "Cluster", Failing)
    monkeypatch.setattr(kvcore.Store, "check", lambda _: ["damage"])
    for phase in ("_in_process", "_over_https"):
        monkeypatch.setattr(apiserver, phase, lambda *_: None)
    report = Report()
    apiserver.api_server(str(tmp_path), build([])[0], 1000, report, Phases())
    assert [check.detail for check in report.checks] == [
        "found 3, expected 0", "found 20, expected 145", "found ['damage'], expected []"]


def test_rates_are_a_second_and_plugins_cost_is_a_pods(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(create: Any, some: Any, workers: int, step: Any) -> float:
        return 2.0

    before_and_after = iter([{"Webhook": 1.0, "Quota": 0.5}, {"Webhook": 1.3, "Quota": 0.5005}])
    monkeypatch.setattr(apiserver, "_at_once", at_once)
    monkeypatch.setattr(apiserver, "_plugin_seconds", lambda _: next(before_and_after))
    for phase in ("_over_https", "_scheduled"):
        monkeypatch.setattr(apiserver, phase, lambda *_: None)
    report = Report()
    apiserver.api_server(str(tmp_path), build([])[0], 1000, report, Phases())
    rate = figure(report, "pods created in process, 256 in flight")
    assert (rate.median, rate.unit) == (25, "/s")
    webhook, quota = figure(report, "admission: Webhook"), figure(report, "admission: Quota")
    assert (webhook.median, webhook.unit, webhook.judged) == (near(6000), "us", "worse")
    assert (quota.median, quota.judged) == (near(10), "better")


def test_the_time_to_bound_begins_before_the_create(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    class Slow(apiserver.LocalClient):
        async def request(self, method: str, url: str, *rest: Any) -> Object:
            if (method, url) == ("POST", apiserver.PODS):
                clock.now += 3_000_000
            return await super().request(method, url, *rest)

    monkeypatch.setattr(apiserver, "LocalClient", Slow)
    for phase in ("_in_process", "_over_https"):
        monkeypatch.setattr(apiserver, phase, lambda *_: None)
    report = Report()
    apiserver.api_server(str(tmp_path), build([])[0], 1000, report, Phases())
    bound = figure(report, "pod created to bound")
    assert bound.low is not None and bound.low > 2.9 and bound.unit == "ms"
