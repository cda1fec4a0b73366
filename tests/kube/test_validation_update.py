# SPDX-License-Identifier: Apache-2.0
"""What may not change: a real server's causes for some 200 changes of stored objects."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from in_process import RESOURCES, Server
from test_validation import KINDS, OBJECTS, RECORDED, broken

from kvcore.kube import fields, schema, status
from kvcore.kube.defaults import apply_defaults
from kvcore.kube.validation import validate_status, validate_update

UPDATES = RECORDED["updates"]
Object = dict[str, Any]


def stored(server: Server, number: int) -> Object:
    """An object of the record as the server has it."""
    obj = copy.deepcopy(OBJECTS[number])
    obj["metadata"].pop("generateName", None)
    obj["metadata"].pop("finalizers", None)
    obj["metadata"]["name"] = obj["metadata"].get("name", "gen1") + "u"
    code, answer = server.create(obj)
    assert code == 201, answer
    return answer


def causes(new: Object, old: Object, check: Any = validate_update) -> list[list[str]]:
    """What is told of an update, each once; of long ones the first line."""
    resource = RESOURCES.of_kind(old["apiVersion"], old["kind"])
    name = schema.type_of_kind(old["apiVersion"], old["kind"])
    assert resource is not None and name is not None
    fields.settle(name, new)
    apply_defaults(new)
    if "status" in old:
        new["status"] = copy.deepcopy(old["status"])
    try:
        check(SimpleNamespace(object=new, resource=resource), old)
    except status.ApiError as error:
        assert error.code == 422 and error.details is not None
        return [list(c) for c in sorted({
            (c["reason"], c["field"], c["message"].split("\n")[0])
            for c in error.details["causes"]})]
    return []


def replayed(server: Server, entry: Object, olds: dict[int, Object]) -> list[list[str]]:
    """Args: olds: objects made before, by number."""
    number = entry["base"]
    if number not in olds:
        olds[number] = stored(server, number)
    old = olds[number]
    return causes(broken(entry, old), orjson.loads(orjson.dumps(old)))


def test_the_record_is_there() -> None:
    assert len(UPDATES) >= 190


@pytest.mark.parametrize("kind", KINDS)
def test_updates(server: Server, kind: str) -> None:
    olds: dict[int, Object] = {}
    for entry in UPDATES:
        if OBJECTS[entry["base"]]["kind"] == kind:
            told = replayed(server, entry, olds)
            assert told == entry["causes"], (entry["at"], entry.get("value"))


@pytest.mark.parametrize("number", [i for i, obj in enumerate(OBJECTS)
                                    if obj["kind"] != "CertificateSigningRequest"])
def test_no_change_is_no_fault(server: Server, number: int) -> None:
    old = stored(server, number)
    assert causes(orjson.loads(orjson.dumps(old)), old) == []
    assert causes(orjson.loads(orjson.dumps(old)), old, validate_status) == []


POD: Object = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {
        "activeDeadlineSeconds": 50, "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "a", "image": "b"}]}}


@pytest.mark.parametrize(("change", "fault"), [
    (lambda spec: spec["containers"][0].update(image="c:2"), None),
    (lambda spec: spec.update(activeDeadlineSeconds=40), None),
    (lambda spec: spec["tolerations"].append({"key": "a", "operator": "Exists"}), None),
    (lambda spec: spec.update(activeDeadlineSeconds=60),
     ("FieldValueInvalid", "spec.activeDeadlineSeconds")),
    (lambda spec: spec.pop("activeDeadlineSeconds"),
     ("FieldValueInvalid", "spec.activeDeadlineSeconds")),
    (lambda spec: spec.pop("tolerations"), ("FieldValueForbidden", "spec.tolerations")),
    (lambda spec: spec["containers"].append({"name": "c", "image": "c"}),
     ("FieldValueForbidden", "spec.containers")),
    (lambda spec: spec["containers"][0].update(command=["x"]), ("FieldValueForbidden", "spec")),
    (lambda spec: spec.update(nodeSelector={"a": "b"}), ("FieldValueForbidden", "spec")),
])
def test_what_of_a_pod_may_change(server: Server, change: Any,
                                  fault: tuple[str, str] | None) -> None:
    code, old = server.create(POD)
    assert code == 201
    new = copy.deepcopy(old)
    change(new["spec"])
    found = causes(new, old)
    assert [tuple(c[:2]) for c in found] == ([fault] if fault else []), found


@pytest.mark.parametrize(("key", "value"), [
    ("name", "b"), ("namespace", "b"), ("uid", "b"), ("creationTimestamp", "2020-01-01T00:00:00Z"),
    ("deletionTimestamp", "2020-01-01T00:00:00Z"), ("deletionGracePeriodSeconds", 1),
])
def test_the_system_s_metadata_stays(server: Server, key: str, value: Any) -> None:
    code, old = server.create(POD)
    assert code == 201
    new = copy.deepcopy(old)
    new["metadata"][key] = value
    for check in (validate_update, validate_status):
        assert ["FieldValueInvalid", f"metadata.{key}",
                f"Invalid value: {orjson.dumps(value).decode()}: field is immutable"] in causes(
                    copy.deepcopy(new), old, check)


def test_no_new_finalizers_once_it_is_being_deleted(server: Server) -> None:
    code, old = server.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
        "name": "a", "finalizers": ["a/b", "a/c"]}})
    assert code == 201
    old["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    new = copy.deepcopy(old)
    new["metadata"]["finalizers"] = ["a/b"]
    assert causes(copy.deepcopy(new), old) == []
    new["metadata"]["finalizers"] = ["a/b", "a/d"]
    assert causes(new, old) == [[
        "FieldValueForbidden", "metadata.finalizers", "Forbidden: no new finalizers can be added "
        'if the object is being deleted, found new finalizers []string{"a/d"}']]


def test_an_immutable_config_map(server: Server) -> None:
    code, old = server.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
                             "immutable": True, "data": {"a": "b"}})
    assert code == 201
    for change, field in (({"data": {"a": "c"}}, "data"), ({"immutable": False}, "immutable"),
                          ({"binaryData": {"x": "YQ=="}}, "binaryData")):
        assert causes({**copy.deepcopy(old), **change}, old) == [[
            "FieldValueForbidden", field,
            "Forbidden: field is immutable when `immutable` is set"]]
