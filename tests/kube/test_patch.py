# SPDX-License-Identifier: Apache-2.0
"""PATCH: JSON patches beside the jsonpatch library, merge patches beside RFC 7386's examples, and
the words of each refusal."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import jsonpatch
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kube_server import CONFIG_MAPS, Kube, Object, config_map

from kvcore.kube.patch import json_patch, merge, same
from kvcore.kube.request import Answer
from kvcore.kube.status import ApiError

A = f"{CONFIG_MAPS}/a"
REJECTED = "the server rejected our request due to an error in our request"


def test_patches(kube: Kube) -> None:
    made = kube.make(CONFIG_MAPS, config_map("a"))
    reply = kube.call("PATCH", A, {"data": {"b": "2"}, "metadata": {"labels": {"l": "1"}}},
                      patch="merge")
    assert reply.code == 200 and reply.obj["data"] == {"a": "1", "b": "2"}
    assert reply.rv == made.rv + 1 == kube.store.revision
    reply = kube.call("PATCH", A, [{"op": "test", "path": "/metadata/resourceVersion",
                                    "value": str(reply.rv)},
                                   {"op": "remove", "path": "/data/a"}], patch="json")
    assert reply.code == 200 and reply.obj["data"] == {"b": "2"}
    assert kube.call("GET", A).obj == reply.obj


def test_a_patch_that_changes_nothing(kube: Kube) -> None:
    made = kube.make(CONFIG_MAPS, config_map("a"))
    events = kube.watch(CONFIG_MAPS)
    bodies: list[tuple[Any, str]] = [({}, "merge"), ({"data": {"a": "1", "none": None}}, "merge"),
                                     ([], "json"),
                                     ([{"op": "test", "path": "/data/a", "value": "1"}], "json")]
    for body, kind in bodies:
        assert kube.call("PATCH", A, body, patch=kind).obj == made.obj
    assert kube.store.revision == made.rv and events.take() == []


REFUSED: list[tuple[str, Any, str, int, str, str]] = [
    ("json", [{"op": "test", "path": "/data/a", "value": "2"}], A, 422, "Invalid", REJECTED),
    ("json", [{"op": "remove", "path": "/data/none"}], A, 422, "Invalid", REJECTED),
    ("json", [{"op": "nothing", "path": "/data"}], A, 422, "Invalid", REJECTED),
    ("json", [{"op": "replace", "path": "", "value": 5}], A, 422, "Invalid", REJECTED),
    ("json", [{"op": "add"}], A, 422, "Invalid", REJECTED),
    ("json", {"op": "add"}, A, 400, "BadRequest", "error decoding patch: json: cannot unmarshal "
     "object into Go value of type []handlers.jsonPatchOp"),
    ("json", [1], A, 400, "BadRequest", "error decoding patch: json: cannot unmarshal number into "
     "Go value of type handlers.jsonPatchOp"),
    ("json", [{"op": "add", "path": "/data/b", "value": "2"}] * 10_001, A, 413,
     "RequestEntityTooLarge", "Request entity too large: The allowed maximum operations in a JSON "
     "patch is 10000, got 10001"),
    ("json", [{"op": "replace", "path": "/metadata/name", "value": "b"}], A, 400, "BadRequest",
     "the name of the object (b) does not match the name on the URL (a)"),
    ("merge", [], A, 400, "BadRequest", "error decoding patch: json: cannot unmarshal array into "
     "Go value of type map[string]interface {}"),
    ("merge", b"null", A, 400, "BadRequest", "Invalid JSON Patch"),
    ("merge", {"metadata": None}, A, 400, "BadRequest", "the name of the object (a based on URL) "
     "was undeterminable: name must be provided"),
    ("merge", {"metadata": {"namespace": "o"}}, A, 400, "BadRequest", "the namespace of the "
     "provided object does not match the namespace sent on the request"),
    ("merge", {"metadata": {"uid": "x"}}, A, 422, "Invalid",
     'ConfigMap "a" is invalid: metadata.uid: Invalid value: "x": field is immutable'),
    ("merge", {"metadata": {"resourceVersion": "1"}}, A, 409, "Conflict",
     'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply '
     "your changes to the latest version and try again"),
    ("merge", {}, f"{CONFIG_MAPS}/b", 404, "NotFound", 'configmaps "b" not found'),
    ("merge", {}, f"{A}?force=true", 422, "Invalid", 'PatchOptions.meta.k8s.io "" is invalid: '
     "force: Forbidden: may not be specified for non-apply patch"),
    ("", {}, A, 415, "UnsupportedMediaType", "415: Unsupported Media Type"),
]


@pytest.mark.parametrize(("body", "query", "why"), [
    ({"data": {"a": 5}}, "", "json: cannot unmarshal number into Go struct field ConfigMap.data of "
     "type string"),
    ({"metadata": {"labels": "x"}}, "", "json: cannot unmarshal string into Go struct field "
     "ObjectMeta.metadata.labels of type map[string]string"),
    ({"bogus": 1}, "?fieldValidation=Strict", 'strict decoding error: unknown field "bogus"'),
    ({"kind": "Foo"}, "", 'no kind "Foo" is registered for version "v1" in scheme '
     '"pkg/runtime/scheme.go:111"'),
])
def test_what_is_wrong_with_a_patched_object(kube: Kube, body: Any, query: str, why: str) -> None:
    kube.make(CONFIG_MAPS, config_map("a"))
    reply = kube.call("PATCH", A + query, body, patch="merge")
    assert (reply.code, reply.reason) == (422, "Invalid")
    assert reply.message.startswith(' "" is invalid: patch: Invalid value: "{')
    assert reply.message.endswith(f'}}": {why}')


@pytest.mark.parametrize(("kind", "body", "url", "code", "reason", "message"), REFUSED)
def test_refused(kube: Kube, kind: str, body: Any, url: str, code: int, reason: str,
                 message: str) -> None:
    made = kube.make(CONFIG_MAPS, config_map("a"))
    reply = kube.call("PATCH", url, body, patch=kind)
    assert (reply.code, reply.reason, reply.message) == (code, reason, message)
    assert kube.store.revision == made.rv and kube.call("GET", A).obj == made.obj


def test_a_patch_that_makes_another_kind(kube: Kube) -> None:
    kube.make(CONFIG_MAPS, config_map("a"))
    reply = kube.call("PATCH", A, {"kind": "Secret"}, patch="merge")
    assert (reply.code, reply.reason) == (422, "Invalid")
    assert reply.message.startswith(' "" is invalid: patch: Invalid value: "{')
    assert list(reply.obj["details"]) == ["causes"]


def test_patches_that_are_not_known_yet(kube: Kube) -> None:
    for kind in ("application/apply-patch+cbor", "application/apply-patch+yaml"):
        reply = kube.call("PATCH", A, {}, headers={"content-type": kind})
        assert (reply.code, reply.reason) == (415, "UnsupportedMediaType")
        assert reply.message.startswith("the body of the request was in an unknown format - "
                                        "accepted media types include: "
                                        "application/json-patch+json, application/merge-patch+json")


def test_copies_do_not_grow_without_end(kube: Kube) -> None:
    """Each copies all that was copied before."""
    kube.make(CONFIG_MAPS, config_map("a", {"a": "x" * 1000}))
    doubling = [{"op": "add", "path": "/data/l", "value": {"x": "y" * 1000}}]
    doubling += [{"op": "copy", "from": "/data/l", "path": f"/data/l/{n}"} for n in range(13)]
    reply = kube.call("PATCH", A, doubling, patch="json")
    assert (reply.code, reply.message) == (422, REJECTED)


def test_a_patch_may_be_tried_again() -> None:
    patch: list[Object] = [{"op": "add", "path": "/l", "value": []},
                           {"op": "add", "path": "/l/-", "value": 1}]
    for _ in range(2):
        assert json_patch({}, patch) == {"l": [1]}


def test_all_patches_count(kube: Kube) -> None:
    kube.make(CONFIG_MAPS, config_map("a"))

    async def all_at_once() -> list[Answer]:
        return await asyncio.gather(*(kube.ask(
            "PATCH", A, {"data": {f"k{n}": "1"}},
            headers={"content-type": "application/merge-patch+json"}) for n in range(40)))
    assert {a.code for a in kube.run(all_at_once())} == {200}
    assert len(kube.call("GET", A).obj["data"]) == 41


def test_patch_in_process(kube: Kube) -> None:
    maps = kube.api.resources.of_path("", "v1", "configmaps")
    assert maps is not None
    kube.make(CONFIG_MAPS, config_map("a"))
    body = orjson.loads(kube.run(kube.api.patch(maps, "a", {"data": {"b": "2"}}, "default")))
    assert body["data"] == {"a": "1", "b": "2"}
    body = orjson.loads(kube.run(kube.api.patch(
        maps, "a", [{"op": "remove", "path": "/data/a"}], "default")))
    assert body["data"] == {"b": "2"}


# --- RFC 7386, appendix A -------------------------------------------------------------------------

@pytest.mark.parametrize(("target", "patch", "made"), [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
])
def test_merge(target: Any, patch: Object, made: Object) -> None:
    before = copy.deepcopy((target, patch))
    assert merge(target, patch) == made
    assert (target, patch) == before


# --- RFC 6902 beside the library ------------------------------------------------------------------

keys = st.sampled_from(["a", "b", "", "~", "x/y", "0", "1", "-"])
values = st.recursive(st.sampled_from([None, True, 1, "s"]),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                          keys, inner, max_size=3), max_leaves=6)
pointers = st.lists(keys, max_size=3).map(
    lambda parts: "".join("/" + p.replace("~", "~0").replace("/", "~1") for p in parts))
operations = st.fixed_dictionaries({
    "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]),
    "path": pointers, "from": pointers, "value": values})


@given(st.dictionaries(keys, values, max_size=4), st.lists(operations, max_size=4))
def test_as_the_library(obj: Object, patch: list[Object]) -> None:
    """Where ours differs it is because it is as upstream: no removal of the whole, the missing is
    null in tests, and the outcome must be an object."""
    wanted: Any
    try:
        wanted = jsonpatch.JsonPatch(copy.deepcopy(patch)).apply(copy.deepcopy(obj))
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError,
            IndexError, KeyError, AttributeError, ValueError):
        wanted = None
    before = copy.deepcopy(patch)
    try:
        made: Any = json_patch(copy.deepcopy(obj), patch)
    except ApiError as error:
        assert (error.code, error.message) == (422, REJECTED)
        made = None
    assert patch == before                     # it may be tried again
    strange = any(op["op"] == "test" or "" in (op["path"], op["from"])
                  or "-" in op["path"] or "-" in op["from"] for op in patch)
    if not strange:
        assert made == wanted


@pytest.mark.parametrize(("value", "path", "passes"), [
    (1, "/a", True), (True, "/a", False), (None, "/none", True), (None, "/none/deep", False),
    ([1], "/l", True), ([True], "/l", False), ("1", "/l/0", False), (1, "/l/0", True),
    (1, "/l/00", False), (1, "/l/-", False), (1, "/l/9", False),
])
def test_test(value: Any, path: str, passes: bool) -> None:
    obj = {"a": 1, "l": [1]}
    patch = [{"op": "test", "path": path, "value": value}]
    if passes:
        assert json_patch(obj, patch) == {"a": 1, "l": [1]}
    else:
        with pytest.raises(ApiError):
            json_patch(obj, patch)


def test_same() -> None:
    assert same([{"a": 1.0}], [{"a": 1}]) and not same({"a": 1}, {"a": 1, "b": None})
