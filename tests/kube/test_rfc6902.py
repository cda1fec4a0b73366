# SPDX-License-Identifier: Apache-2.0
"""JSON patches of webhooks: what kube-apiserver 1.36 makes of them, and what it says."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcore.kube import rfc6902
from kvcore.kube.rfc6902 import Misfit, apply

Object = dict[str, Any]


def fresh() -> Object:
    return {"data": {"k": "v"}, "list": ["a", "b"], "none": None}


def test_doctests() -> None:
    tried = doctest.testmod(rfc6902)
    assert tried.attempted and not tried.failed


@pytest.mark.parametrize(("operation", "changed"), [
    ({"op": "add", "path": "/data/x", "value": "1"}, {"data": {"k": "v", "x": "1"}}),
    ({"op": "add", "path": "/data/x"}, {"data": {"k": "v", "x": None}}),
    ({"op": "add", "path": "data/x", "value": "1"}, {"x": "1"}),
    ({"op": "add", "path": "/data/a~1b~0", "value": "1"}, {"data": {"k": "v", "a/b~": "1"}}),
    ({"op": "add", "path": "/list/-", "value": "c"}, {"list": ["a", "b", "c"]}),
    ({"op": "add", "path": "/list/-1", "value": "c"}, {"list": ["a", "b", "c"]}),
    ({"op": "add", "path": "/list/-3", "value": "c"}, {"list": ["c", "a", "b"]}),
    ({"op": "add", "path": "/list/01", "value": "c"}, {"list": ["a", "c", "b"]}),
    ({"op": "replace", "path": "/data/x", "value": "1"}, {"data": {"k": "v", "x": "1"}}),
    ({"op": "replace", "path": "/list/-1", "value": "c"}, {"list": ["a", "c"]}),
    ({"op": "remove", "path": "/list/-1"}, {"list": ["a"]}),
    ({"op": "copy", "from": "/data/zz", "path": "/data/x"}, {"data": {"k": "v", "x": None}}),
    ({"op": "copy", "from": "/data", "path": "/data/k"}, {"data": {"k": {"k": "v"}}}),
    ({"op": "move", "from": "/data/k", "path": "/data/l"}, {"data": {"l": "v"}}),
    ({"op": "test", "path": "/data/zz", "value": None}, {}),
    ({"op": "test", "path": "/data/zz"}, {}),
    ({"op": "test", "path": "/none", "value": None}, {}),
    ({"op": "test", "path": "/list/-1", "value": "b"}, {}),
    ({"op": "test", "path": "", "value": fresh()}, {}),
])
def test_fits(operation: Object, changed: Object) -> None:
    assert apply(fresh(), [operation]) == fresh() | changed


MISSING = "missing value"
BAD_INDEX = "invalid index referenced"


@pytest.mark.parametrize(("operation", "why"), [
    ({"op": "add", "path": "/nothere/x"},
     f'add operation does not apply: doc is missing path: "/nothere/x": {MISSING}'),
    ({"op": "add", "path": ""},
     f'add operation does not apply: doc is missing path: "": {MISSING}'),
    ({"op": "add"}, f"add operation failed to decode path: {MISSING}"),
    ({"op": "add", "path": "/list/5"}, "error in add for path: '/list/5': Unable to access invalid "
     f"index: 5: {BAD_INDEX}"),
    ({"op": "add", "path": "/list/x"}, "error in add for path: '/list/x': value was not a proper "
     "array index: 'x': strconv.Atoi: parsing \"x\": invalid syntax"),
    ({"op": "add", "path": "/data/k/x"},
     f'add operation does not apply: doc is missing path: "/data/k/x": {MISSING}'),
    ({"op": "remove", "path": "/data/zz"}, "error in remove for path: '/data/zz': Unable to remove "
     f"nonexistent key: zz: {MISSING}"),
    ({"op": "remove", "path": "/nothere/x"},
     f'remove operation does not apply: doc is missing path: "/nothere/x": {MISSING}'),
    ({"op": "remove", "path": "/list/2"}, "error in remove for path: '/list/2': Unable to access "
     f"invalid index: 2: {BAD_INDEX}"),
    ({"op": "replace", "path": "/nothere/x"},
     f"replace operation does not apply: doc is missing path: /nothere/x: {MISSING}"),
    ({"op": "replace", "path": "/list/2"},
     f"replace operation does not apply: doc is missing key: /list/2: {MISSING}"),
    ({"op": "replace", "path": "", "value": "x"},
     "replace operation value must be object or array"),
    ({"op": "move", "from": "/data/zz", "path": "/data/x"},
     f"error in move for path: 'zz': Unable to remove nonexistent key: zz: {MISSING}"),
    ({"op": "move", "from": "/data", "path": "/data/x"},
     f"move operation does not apply: doc is missing destination path: /data/x: {MISSING}"),
    ({"op": "move", "path": "/x"},
     f"move operation failed to decode from: operation, missing from field: {MISSING}"),
    ({"op": "copy", "from": "/zz/a", "path": "/x"},
     f"copy operation does not apply: doc is missing from path: /zz/a: {MISSING}"),
    ({"op": "test", "path": "/data/k", "value": "no"}, "testing value /data/k failed: test failed"),
    ({"op": "test", "path": "/data/zz", "value": 1}, "testing value /data/zz failed: test failed"),
    ({"op": "test", "path": "/zz/zz"},
     f"test operation does not apply: is missing path: /zz/zz: {MISSING}"),
    ({"op": "bogus", "path": "/x"}, "Unexpected kind: bogus"),
    ({"path": "/x"}, "Unexpected kind: unknown"),
    ({"op": ["add"], "path": "/x"}, "Unexpected kind: unknown"),
])
def test_misfits(operation: Object, why: str) -> None:
    with pytest.raises(Misfit) as refused:
        apply(fresh(), [operation])
    assert str(refused.value) == why


def test_a_value_is_the_patchs_own() -> None:
    value: Object = {"a": 1}
    made = apply({}, [{"op": "add", "path": "/x", "value": value},
                      {"op": "add", "path": "/x/b", "value": 2}])
    assert made == {"x": {"a": 1, "b": 2}} and value == {"a": 1}


keys = st.sampled_from(["a", "b", "", "~", "x/y", "0", "1", "-", "-1", "99999999999999999999"])
values = st.recursive(st.sampled_from([None, True, 1, "s"]),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                          keys, inner, max_size=3), max_leaves=6)
pointers = st.lists(keys, max_size=3).map(lambda parts: "".join("/" + p for p in parts)) | values
operations = st.fixed_dictionaries({}, optional={
    "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]) | values,
    "path": pointers, "from": pointers, "value": values})


@given(st.dictionaries(keys, values, max_size=4), st.lists(operations, max_size=4))
def test_applies_or_says_why(obj: Object, patch: list[Object]) -> None:
    try:
        assert isinstance(apply(obj, patch), (dict, list))
    except Misfit as misfit:
        assert str(misfit)
