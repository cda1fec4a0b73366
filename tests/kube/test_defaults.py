# SPDX-License-Identifier: Apache-2.0
"""Defaults: what an object gets where it is silent, and that it gets it once.

That they are upstream's is shown by test_validation.py::test_accepted, against recorded answers.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
from in_process import Server
from test_validation import ACCEPTED, OBJECTS

from kvcore.kube import fields, schema
from kvcore.kube.defaults import CONSTANTS, HOOKS, apply_defaults
from kvcore.kube.strategy import quality_of_service


def filled(obj: dict[str, Any]) -> dict[str, Any]:
    obj = copy.deepcopy(obj)
    name = schema.type_of_kind(obj["apiVersion"], obj["kind"])
    assert name is not None
    fields.settle(name, obj)
    apply_defaults(obj)
    return obj


@pytest.mark.parametrize("number", range(len(OBJECTS)))
def test_idempotent(number: int) -> None:
    once = filled(OBJECTS[number])
    twice = copy.deepcopy(once)
    apply_defaults(twice)
    assert twice == once


@pytest.mark.parametrize("number", range(len(OBJECTS)))
def test_what_is_filled_in_is_as_the_decoder_wants_it(number: int) -> None:
    once = filled(OBJECTS[number])
    name = schema.type_of_kind(once["apiVersion"], once["kind"])
    assert name is not None
    again = copy.deepcopy(once)
    fields.settle(name, again)
    apply_defaults(again)
    assert again == once
    assert fields.strict_errors(name, None, once) == []


@pytest.mark.parametrize("number", range(len(ACCEPTED)))
def test_nothing_is_taken_away(number: int) -> None:
    """What was filled in is still there when the answer of a server is sent again."""
    got = ACCEPTED[number]["got"]
    if got["kind"] in ("Job", "Pod"):
        return                           # their status is the server's own
    once = filled(got)
    assert {key: once.get(key) for key in got if key != "status"} == {
        key: value for key, value in got.items() if key != "status"}


def test_tables_name_fields_that_exist() -> None:
    for name, constants in CONSTANTS.items():
        assert constants.keys() <= schema.fields_of(name).keys(), name
    for name in HOOKS:
        assert schema.fields_of(name)


@pytest.mark.parametrize(("image", "policy"), [
    ("nginx", "Always"), ("nginx:latest", "Always"), ("nginx:1.27", "IfNotPresent"),
    ("a.b:5000/c", "Always"), ("a.b:5000/c:1", "IfNotPresent"), ("", "IfNotPresent"),
    ("nginx@sha256:" + "0" * 64, "IfNotPresent"),
    ("nginx:latest@sha256:" + "0" * 64, "Always"), ("NGINX", "IfNotPresent"),
    ("a" * 64, "IfNotPresent"), ("a" * 65, "Always"),
])
def test_pull_policy(image: str, policy: str) -> None:
    pod = filled({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
                  "spec": {"containers": [{"name": "a", "image": image}]}})
    assert pod["spec"]["containers"][0]["imagePullPolicy"] == policy


def test_requests_come_from_limits_in_pods_only() -> None:
    spec = {"containers": [{"name": "a", "image": "b", "resources": {
        "limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}}}]}
    pod = filled({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec})
    assert pod["spec"]["containers"][0]["resources"]["requests"] == {
        "cpu": "100m", "memory": "1Gi"}
    template = filled({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
                       "spec": {"template": {"spec": spec}}})
    assert template["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"] == {
        "cpu": "100m"}


@pytest.mark.parametrize(("resources", "quality"), [
    ([{}], "BestEffort"),
    ([{"requests": {"cpu": "1"}}], "Burstable"),
    ([{"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}],
     "Guaranteed"),
    ([{"requests": {"cpu": "1000m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1024Mi"}}],
     "Guaranteed"),
    ([{"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}, {}],
     "Burstable"),
    ([{"requests": {"cpu": "0"}}], "BestEffort"),
    ([{"requests": {"nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "1"}}], "BestEffort"),
])
def test_quality_of_service(resources: list[dict[str, Any]], quality: str) -> None:
    assert quality_of_service({"containers": [{"resources": r} for r in resources]}) == quality


def test_a_client_cannot_set_the_status_of_a_new_object(server: Server) -> None:
    code, answer = server.create({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "generation": 9},
        "spec": {"containers": [{"name": "a", "image": "b"}]}, "status": {"phase": "Running"}})
    assert code == 201
    assert answer["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert answer["metadata"]["generation"] == 1
    code, answer = server.create({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"},
        "status": {"phase": "Terminating"}})
    assert code == 201 and answer["status"] == {"phase": "Active"}


def test_string_data_becomes_data(server: Server) -> None:
    code, answer = server.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"},
                                "data": {"a": "YQ==", "b": "YQ=="}, "stringData": {"b": "é"}})
    assert code == 201
    assert answer["data"] == {"a": "YQ==", "b": "w6k="}
    assert "stringData" not in answer and answer["type"] == "Opaque"


def test_a_job_selects_its_own_pods(server: Server) -> None:
    code, answer = server.create({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"},
        "spec": {"template": {"spec": {"restartPolicy": "Never",
                                       "containers": [{"name": "a", "image": "b"}]}}}})
    assert code == 201
    uid = answer["metadata"]["uid"]
    assert answer["spec"]["selector"] == {
        "matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    assert answer["spec"]["template"]["metadata"]["labels"]["job-name"] == "a"
