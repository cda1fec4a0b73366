# SPDX-License-Identifier: Apache-2.0
"""Random changes of good objects: the answer is a Status or the object, and no known field is lost.
"""

from __future__ import annotations

import copy
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_process import RESOURCES, Server, path_of
from test_validation import OBJECTS

from kvcore.kube import fields, schema
from kvcore.kube.defaults import apply_defaults

LEAVES = (st.none() | st.booleans() | st.integers(-2 ** 63, 2 ** 64 - 1) | st.floats(
    allow_nan=False, allow_infinity=False) | st.text(max_size=8) | st.sampled_from(
        ["", "x", "1", "-1", "100%", "1Gi", "TCP", "None", "a/b", "2026-01-01T00:00:00Z",
         "x" * 64]))
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["name", "a", "key", "value", "port"]), inner, max_size=3), max_leaves=5)


def ways(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [way] if way else []
    items = value.items() if isinstance(value, dict) else \
        enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += ways(inner, (*way, key))
    return found


@st.composite
def changed(draw: st.DrawFn) -> tuple[int, dict[str, Any]]:
    """The number of a good object, and the object with a few values replaced or gone."""
    number = draw(st.integers(0, len(OBJECTS) - 1))
    obj = copy.deepcopy(OBJECTS[number])
    for _ in range(draw(st.integers(1, 3))):
        places = [w for w in ways(obj) if w not in (("apiVersion",), ("kind",))]
        if not places:
            break
        *way, last = draw(st.sampled_from(places))
        holder: Any = obj
        for step in way:
            holder = holder[step]
        if draw(st.booleans()):
            holder[last] = draw(VALUES)
        else:
            del holder[last]
    return number, obj


SERVER: list[Server] = []


def server() -> Server:
    """One for all examples: nothing of it is asked but answers."""
    if not SERVER:
        SERVER.append(Server())
    return SERVER[0]


def teardown_module() -> None:
    while SERVER:
        SERVER.pop().close()


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(changed(), st.sampled_from(["Strict", "Warn", "Ignore"]))
def test_the_answer_is_an_object_or_a_status(case: tuple[int, dict[str, Any]], told: str) -> None:
    number, obj = case
    base = OBJECTS[number]
    resource = RESOURCES.of_kind(base["apiVersion"], base["kind"])
    assert resource is not None
    answer = server().send(
        "POST", f"{path_of(resource)}?dryRun=All&fieldValidation={told}", orjson.dumps(obj))
    said = orjson.loads(answer.body)
    assert answer.code in (201, 400, 422) or said["message"].startswith("resourceVersion should")
    if answer.code == 201:
        name = schema.type_of_kind(resource.api_version, resource.kind)
        assert name is not None
        assert fields.strict_errors(name, None, said) == []


def kept(sent: Any, got: Any, way: str) -> list[str]:
    """What of a settled object is not in what became of it."""
    if isinstance(sent, dict):
        if not isinstance(got, dict):
            return [way]
        return [lost for key, value in sent.items()
                for lost in (kept(value, got[key], f"{way}.{key}") if key in got
                             else [f"{way}.{key}"])]
    if isinstance(sent, list):
        if not isinstance(got, list) or len(got) != len(sent):
            return [way]
        return [lost for i, value in enumerate(sent) for lost in kept(value, got[i], f"{way}[{i}]")]
    return [] if sent == got else [way]


# The few fields that a default replaces: written in one place, read in another.
REPLACED = (".stringData", ".sessionAffinityConfig", ".podCIDRs", ".serviceAccount", ".apiVersion",
            ".kind", ".metadata.labels", ".allocatable", ".data", ".targetPort", ".apiGroup")


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(changed())
def test_no_known_field_is_lost(case: tuple[int, dict[str, Any]]) -> None:
    number, obj = case
    name = schema.type_of_kind(OBJECTS[number]["apiVersion"], OBJECTS[number]["kind"])
    assert name is not None
    try:
        fields.settle(name, obj)
    except fields.IllTyped:
        return
    assert fields.strict_errors(name, None, obj) == []
    settled = copy.deepcopy(obj)
    fields.settle(name, settled)
    assert settled == obj and fields.ok(name)(obj)
    apply_defaults(settled)
    assert [lost for lost in kept(obj, settled, "") if not any(r in lost for r in REPLACED)] == []
    again = copy.deepcopy(settled)
    apply_defaults(again)
    assert again == settled
