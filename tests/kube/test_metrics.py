# SPDX-License-Identifier: Apache-2.0
"""Metrics: names and labels as upstream's, numbers as they happened, the text format."""

from __future__ import annotations

import re

import pytest
from cache_world import PODS, kube, run
from hypothesis import given
from hypothesis import strategies as st
from kube_server import CONFIG_MAPS, DEPLOYMENTS, Kube, config_map, deployment

from kvcore.kube.metrics import CONTENT_TYPE, Counter, Histogram, Metrics

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


def parse(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels; every line must be one, or a comment."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.match(r"# (HELP [a-z_]+ .|TYPE [a-z_]+ (counter|gauge|histogram)$)", line)
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        at = match[1], tuple(sorted(LABEL.findall(match[2] or "")))
        assert at not in found, line
        found[at] = float(match[3])
    return found


def test_what_a_server_counts() -> None:
    async def main() -> None:
        async with kube(capacity=500) as k:
            for i in range(5):
                k.put(f"p{i}")
            await k.json(PODS)
            await k.json("/api/v1/namespaces/default/pods/p1")
            await k.json("/api/v1/namespaces/default/pods/none", 404)
            stream = await k.watch()
            await stream.events()
            k.put("p5"), k.db.put(k.key("bad"), b"damage")
            await stream.events()
            k.api.metrics.of_admission("LimitRanger", "admit", "CREATE", False)(0.000004)
            answer = await k.ask("/metrics")
            assert (answer.code, answer.content_type) == (200, CONTENT_TYPE)
            found = parse(answer.body.decode())

            def of(name: str, /, **labels: str) -> float:
                return found[name, tuple(sorted(labels.items()))]

            pods = {"group": "", "resource": "pods"}
            assert of("apiserver_watch_cache_capacity", **pods) == 500
            assert of("apiserver_watch_cache_length", **pods) == 2
            assert of("apiserver_watch_cache_events_received_total", **pods) == 2
            assert of("apiserver_watch_cache_events_dispatched_total", **pods) == 1
            assert of("apiserver_storage_decode_errors_total", **pods) == 1
            assert of("apiserver_kvcore_watchers", **pods) == 1
            assert of("apiserver_kvcore_watch_cache_bytes", **pods) > 0
            request = {"component": "apiserver", "group": "", "resource": "pods",
                       "subresource": "", "version": "v1"}
            assert of("apiserver_request_total", **request, verb="LIST", scope="cluster",
                      code="200", dry_run="") == 1
            for code in ("200", "404"):
                assert of("apiserver_request_total", **request, verb="GET", scope="resource",
                          code=code, dry_run="") == 1
            assert of("apiserver_request_duration_seconds_count", **request, verb="GET",
                      scope="resource", dry_run="") == 2
            assert of("apiserver_longrunning_requests", **request, verb="WATCH",
                      scope="cluster") == 1
            assert of("apiserver_watch_events_total", group="", version="v1",
                      resource="pods") == 6
            assert of("etcd_request_duration_seconds_count", **pods, operation="get") == 1
            admitted = {"name": "LimitRanger", "operation": "CREATE", "rejected": "false",
                        "type": "admit"}
            name = "apiserver_admission_controller_admission_duration_seconds"
            assert of(f"{name}_bucket", **admitted, le="2.5e-06") == 0
            assert of(f"{name}_bucket", **admitted, le="5e-06") == 1
            assert of(f"{name}_bucket", **admitted, le="+Inf") == 1
            assert of("apiserver_admission_controller_duration_seconds_count",
                      name="LimitRanger") == 1
            await stream.close()
            found = parse((await k.ask("/metrics")).body.decode())
            assert of("apiserver_longrunning_requests", **request, verb="WATCH",
                      scope="cluster") == 0
    run(main)


@pytest.mark.parametrize("layout", ["grouped", "kubernetes"])
def test_writes_of_the_store_are_counted(layout: str) -> None:
    """Under upstream's operations, each attempt once; a dry run, and what changes nothing, never.
    """
    with Kube(key_layout=layout) as kube:
        def counts(group: str, plural: str) -> list[int]:
            return [kube.api.metrics.store.count((operation, group, plural))
                    for operation in ("create", "update", "delete")]

        services = "/api/v1/namespaces/default/services"
        for url, group, plural, body in (
                (CONFIG_MAPS, "", "configmaps", config_map("a")),
                (DEPLOYMENTS, "apps", "deployments", deployment("a")),
                (services, "", "services", {"metadata": {"name": "a"}, "spec": {
                    "ports": [{"port": 80}]}})):
            assert kube.call("POST", f"{url}?dryRun=All", body).code == 201
            assert counts(group, plural) == [0, 0, 0]
            kube.make(url, body)
            assert kube.call("POST", url, body).code == 409
            assert counts(group, plural) == [2, 0, 0]
            for label in ("x", "x", "y"):
                assert kube.call("PATCH", f"{url}/a", {"metadata": {"labels": {"a": label}}},
                                 patch="merge").code == 200
            assert counts(group, plural) == [2, 2, 0]
            assert kube.call("DELETE", f"{url}/a").code == 200
            assert counts(group, plural) == [2, 2, 1]
        assert kube.api.metrics.store.sum(("create", "", "services")) > 0


@given(st.lists(st.floats(0, 20), max_size=50))
def test_histograms(seconds: list[float]) -> None:
    histogram = Histogram("h", "Help.", ("a",), (0.001, 0.5, 1.0))
    for each in seconds:
        histogram.observe(("x",), each)
    found = parse("\n".join(histogram.lines()))
    for bound in (0.001, 0.5, 1):
        if seconds:
            assert found["h_bucket", (("a", "x"), ("le", str(bound)))] == sum(
                each <= bound for each in seconds)
    assert histogram.count(("x",)) == len(seconds)
    if seconds:
        assert abs(found["h_sum", (("a", "x"),)] - sum(seconds)) < 1e-6


@given(st.text(alphabet=st.characters(exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029",
                                      exclude_categories=("Cs",))))
def test_any_label(value: str) -> None:
    counter = Counter("c", "Help.", ("a",))
    counter.inc((value,), 2)
    [((_, ((_, escaped),)), n)] = parse("\n".join(counter.lines())).items()
    assert n == 2
    assert re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), escaped) == value


def test_labels_are_as_many_as_names() -> None:
    metrics = Metrics()
    for family in metrics.families():
        values = ("x",) * len(family.labels)
        if isinstance(family, Counter):
            family.inc(values)
        else:
            family.observe(values, 0.1)
        assert parse("\n".join(family.lines()))


def test_an_observer_counts_as_observe_does() -> None:
    one, other = (Histogram("x", "X.", ("a",), (0.1, 1.0)) for _ in range(2))
    observe = other.observer(("v",))
    assert other.counts == {}                # label values appear with their first seconds
    for seconds in (0.05, 0.1, 0.5, 2.0, 0.5):
        one.observe(("v",), seconds)
        observe(seconds)
        assert one.counts == other.counts
