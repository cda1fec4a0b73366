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

from kvcore.kube.patch import merge
from kvcore.kube.request import Answer
from kvcore.kube.rfc6902 import Misfit, same
from kvcore.kube.rfc6902 import apply as json_patch

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
    ("json", [None], A, 422, "Invalid", REJECTED),
    ("json", [{"op": 5, "path": "/data"}], A, 400, "BadRequest", "error decoding patch: json: "
     "cannot unmarshal number into Go struct field jsonPatchOp.op of type string"),
    ("json", [{"op": "copy", "path": "/data/b", "from": []}], A, 400, "BadRequest", "error "
     "decoding patch: json: cannot unmarshal array into Go struct field jsonPatchOp.from of type "
     "string"),
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
    """Where ours differs it is because it is as upstream: no removal of the whole, and the missing
    is null in tests, may be copied, and may be replaced."""
    wanted: Any
    try:
        wanted = jsonpatch.JsonPatch(copy.deepcopy(patch)).apply(copy.deepcopy(obj))
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError,
            IndexError, KeyError, AttributeError, ValueError):
        wanted = None
    before = copy.deepcopy(patch)
    try:
        made: Any = json_patch(copy.deepcopy(obj), patch)
    except Misfit:
        made = None
    assert patch == before                     # it may be tried again
    strange = any(op["op"] == "test" or "" in (op["path"], op["from"])
                  or "-" in op["path"] or "-" in op["from"] for op in patch)
    lenient = any(op["op"] in ("replace", "copy") for op in patch)
    if not strange and not (lenient and wanted is None):
        assert made == wanted


@pytest.mark.parametrize(("value", "path", "passes"), [
    (1, "/a", True), (True, "/a", False), (None, "/none", True), (None, "/none/deep", False),
    ([1], "/l", True), ([True], "/l", False), ("1", "/l/0", False), (1, "/l/0", True),
    (1, "/l/00", True), (1, "/l/-", False), (1, "/l/9", False), (1, "/l/-1", True),
    ({"a": 1, "l": [1]}, "", True), ({"a": 1}, "", False),
])
def test_test(value: Any, path: str, passes: bool) -> None:
    obj = {"a": 1, "l": [1]}
    patch = [{"op": "test", "path": path, "value": value}]
    if passes:
        assert json_patch(obj, patch) == {"a": 1, "l": [1]}
    else:
        with pytest.raises(Misfit):
            json_patch(obj, patch)


def test_same() -> None:
    assert same([{"a": 1.0}], [{"a": 1}]) and not same({"a": 1}, {"a": 1, "b": None})


# --- what kube-apiserver 1.36 made of each --------------------------------------------------------

SAMPLE = {"l": ["x", "y"], "d": {"a": "1"}}


@pytest.mark.parametrize(("op", "made"), [
    ({"op": "add", "path": "/l/-1", "value": "z"}, {"l": ["x", "y", "z"]}),
    ({"op": "remove", "path": "/l/-1"}, {"l": ["x"]}),
    ({"op": "add", "path": "/l/01", "value": "z"}, {"l": ["x", "z", "y"]}),
    ({"op": "add", "path": "/l/+1", "value": "z"}, {"l": ["x", "z", "y"]}),
    ({"op": "replace", "path": "/l/-2", "value": "z"}, {"l": ["z", "y"]}),
    ({"op": "replace", "path": "/d/none", "value": "2"}, {"d": {"a": "1", "none": "2"}}),
    ({"op": "add", "path": "x/d/b", "value": "2"}, {"d": {"a": "1", "b": "2"}}),
    ({"op": "add", "path": "/d/b"}, {"d": {"a": "1", "b": None}}),
    ({"op": "copy", "from": "/d/none", "path": "/d/b"}, {"d": {"a": "1", "b": None}}),
    ({"op": "move", "from": "/d/a", "path": "/d/a"}, {}),
    ({"op": "add", "path": "/d/x~1y~01", "value": "2"}, {"d": {"a": "1", "x/y~1": "2"}}),
])
def test_more_than_the_rfc_allows(op: Object, made: Object) -> None:
    assert json_patch(copy.deepcopy(SAMPLE), [op]) == SAMPLE | made


INVALID = "Unable to access invalid index: {}: invalid index referenced"


@pytest.mark.parametrize(("op", "why"), [
    (None, "Unexpected kind: unknown"),
    ({"op": None, "path": "/d"}, "Unexpected kind: unknown"),
    ({"op": "frob", "path": "/d"}, "Unexpected kind: frob"),
    ({"op": "add"}, "add operation failed to decode path: missing value"),
    ({"op": "remove", "path": 5}, "remove operation failed to decode path: missing value"),
    ({"op": "test"}, "test operation failed to decode path: operation missing path field: missing "
     "value"),
    ({"op": "move", "path": "/d"}, "move operation failed to decode from: operation, missing from "
     "field: missing value"),
    ({"op": "copy", "from": 5}, "copy operation failed to decode from: json: cannot unmarshal "
     "number into Go value of type string"),
    ({"op": "copy", "from": "/d"}, "copy operation failed to decode path: missing value"),
    ({"op": "add", "path": "", "value": {}},
     'add operation does not apply: doc is missing path: "": missing value'),
    ({"op": "add", "path": "/none/b"},
     'add operation does not apply: doc is missing path: "/none/b": missing value'),
    ({"op": "add", "path": "/d/a/b"},
     'add operation does not apply: doc is missing path: "/d/a/b": missing value'),
    ({"op": "add", "path": "/l/x"}, "error in add for path: '/l/x': value was not a proper array "
     "index: 'x': strconv.Atoi: parsing \"x\": invalid syntax"),
    ({"op": "add", "path": "/l/3"}, f"error in add for path: '/l/3': {INVALID.format(3)}"),
    ({"op": "add", "path": "/l/-4"}, f"error in add for path: '/l/-4': {INVALID.format(-4)}"),
    ({"op": "remove", "path": ""},
     'remove operation does not apply: doc is missing path: "": missing value'),
    ({"op": "remove", "path": "/d/b"}, "error in remove for path: '/d/b': Unable to remove "
     "nonexistent key: b: missing value"),
    ({"op": "remove", "path": "/l/2"}, f"error in remove for path: '/l/2': {INVALID.format(2)}"),
    ({"op": "remove", "path": f"/l/{9 ** 99}"}, f"error in remove for path: '/l/{9 ** 99}': "
     f'strconv.Atoi: parsing "{9 ** 99}": value out of range'),
    ({"op": "replace", "path": "", "value": 5},
     "replace operation value must be object or array: %!w(<nil>)"),
    ({"op": "replace", "path": "/none/b"},
     "replace operation does not apply: doc is missing path: /none/b: missing value"),
    ({"op": "replace", "path": "/l/2"},
     "replace operation does not apply: doc is missing key: /l/2: missing value"),
    ({"op": "test", "path": "/none/b"},
     "test operation does not apply: is missing path: /none/b: missing value"),
    ({"op": "test", "path": "/l/2"}, f"error in test for path: '/l/2': {INVALID.format(2)}"),
    ({"op": "test", "path": "/d/a", "value": "2"}, "testing value /d/a failed: test failed"),
    ({"op": "move", "from": "/none/b", "path": "/d/b"},
     "move operation does not apply: doc is missing from path: /none/b: missing value"),
    ({"op": "move", "from": "/d/b", "path": "/d/c"}, "error in move for path: 'b': Unable to "
     "remove nonexistent key: b: missing value"),
    ({"op": "move", "from": "/d", "path": "/d/x"},
     "move operation does not apply: doc is missing destination path: /d/x: missing value"),
    ({"op": "copy", "from": "", "path": "/d/x"},
     "copy operation does not apply: doc is missing from path: : missing value"),
    ({"op": "copy", "from": "/l/2", "path": "/d/x"},
     f"error in copy for from: '/l/2': {INVALID.format(2)}"),
    ({"op": "copy", "from": "/d", "path": "/none/x"},
     "copy operation does not apply: doc is missing destination path: /none/x: missing value"),
    ({"op": "copy", "from": "/d", "path": "/l/9"},
     f"error while adding value during copy: {INVALID.format(9)}"),
])
def test_what_does_not_apply(op: Object | None, why: str) -> None:
    with pytest.raises(Misfit) as told:
        json_patch(copy.deepcopy(SAMPLE), [op])
    assert str(told.value) == why


def test_moves_that_nest_without_end() -> None:
    deeper: list[Object | None] = [{"op": "add", "path": "/b", "value": {}},
                                   {"op": "move", "from": "/a", "path": "/b/a"},
                                   {"op": "move", "from": "/b", "path": "/a"}]
    for last in ([], [{"op": "copy", "from": "/a", "path": "/c"}]):
        with pytest.raises(Misfit, match="exceeded max depth"):
            json_patch({"a": {}}, deeper * 1000 + last)
