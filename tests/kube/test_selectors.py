# SPDX-License-Identifier: Apache-2.0
"""Selectors: what they read, what they refuse and in which words, what they select.

The words were compared with those of a kube-apiserver 1.36.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from cache_world import pod
from hypothesis import given
from hypothesis import strategies as st

from kvcore.kube.resources import Resource, Resources
from kvcore.kube.selectable import FIELDS, values_of
from kvcore.kube.selectors import (
    KEY_WORDS,
    VALUE_WORDS,
    Requirement,
    parse_labels,
    parse_selector,
)
from kvcore.kube.status import ApiError

RESOURCES = Resources()


def resource(plural: str, group: str = "") -> Resource:
    found = RESOURCES.of_path(group, "v1", plural)
    assert found is not None
    return found


@dataclass
class Item:
    """As an Entry, of a dictionary."""

    kind: str
    obj: dict[str, Any]

    @property
    def labels(self) -> dict[str, str]:
        found: dict[str, str] = self.obj["metadata"].get("labels") or {}
        return found

    @property
    def fields(self) -> tuple[str, ...]:
        return values_of(self.kind, self.obj)


@pytest.mark.parametrize(("text", "words"), [
    ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
    ("a in", "unable to parse requirement: found '' expected: '('"),
    ("a in (", "unable to parse requirement: found '', expected: ',', ')' or identifier"),
    ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
    ("a in (b,", "unable to parse requirement: found '', expected: ',', or identifier"),
    ("a in b", "unable to parse requirement: found 'b' expected: '('"),
    ("a=,", "found '', expected: identifier after ','"),
    ("a=b=c", "found '=', expected: ',' or 'end of string'"),
    ("=", "found '=', expected: !, identifier, or 'end of string'"),
    ("!", "unable to parse requirement: found '', expected: identifier"),
    ("!a=b", "found '=', expected: ',' or 'end of string'"),
    ("a,,b", "found ',', expected: identifier after ','"),
    ("a!", "unable to parse requirement: found '!', expected: in, notin, =, ==, !=, gt, lt"),
    ("a=(", "unable to parse requirement: found '(', expected: identifier"),
    ("a>5 b", "found 'b', expected: ',' or 'end of string'"),
    ("-x", f'unable to parse requirement: <nil>: Invalid value: "-x": name part {KEY_WORDS}'),
    ("x/y/z", 'unable to parse requirement: <nil>: Invalid value: "x/y/z": a valid label key '
     f"{KEY_WORDS} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"),
    ("/a", 'unable to parse requirement: <nil>: Invalid value: "/a": prefix part must be '
     "non-empty"),
    ("a=-b", 'unable to parse requirement: values[0][a]: Invalid value: "-b": ' + VALUE_WORDS),
    ("a in (b,-c,_d)", 'unable to parse requirement: [values[0][a]: Invalid value: "-c": '
     f'{VALUE_WORDS}, values[1][a]: Invalid value: "_d": {VALUE_WORDS}]'),
    ("a>x", 'unable to parse requirement: values[0]: Invalid value: "x": for \'Gt\', \'Lt\' '
     "operators, the value must be an integer"),
    ("x" * 64, f'unable to parse requirement: <nil>: Invalid value: "{"x" * 64}": name part must '
     "be no more than 63 bytes"),
])
def test_labels_refused(text: str, words: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse_selector(resource("pods"), text, "")
    assert (refused.value.code, refused.value.message) == (400, words)


@pytest.mark.parametrize(("text", "wanted"), [
    ("", ()),
    (" a = b ", (Requirement("a", "in", ("b",)),)),
    ("a==", (Requirement("a", "in", ("",)),)),
    ("a in ()", (Requirement("a", "in", ("",)),)),
    ("a in (,b,,)", (Requirement("a", "in", ("", "b")),)),
    ("in in (in,notin),notin", (Requirement("in", "in", ("in", "notin")),
                                Requirement("notin", "exists"))),
    ("a notin (c,b,c),!d,e>1,f<2", (
        Requirement("a", "notin", ("b", "c")), Requirement("d", "!"),
        Requirement("e", "gt", ("1",)), Requirement("f", "lt", ("2",)))),
    ("example.com/a!=b\n", (Requirement("example.com/a", "notin", ("b",)),)),
])
def test_labels_read(text: str, wanted: tuple[Requirement, ...]) -> None:
    assert parse_labels(text) == wanted


@pytest.mark.parametrize(("plural", "group", "text", "words"), [
    ("pods", "", "x=1", "field label not supported: x"),
    ("pods", "", "=x", "field label not supported: "),
    ("pods", "", "a b", "invalid selector: 'a b'; can't understand 'a b'"),
    ("pods", "", "metadata.name=a=b",
     "invalid field selector: unescaped character in value: 61"),
    ("pods", "", r"metadata.name=a\q", r"invalid field selector: invalid escape sequence: \q"),
    ("pods", "", "metadata.name=a\\", "invalid field selector: invalid escape sequence: \\"),
    ("nodes", "", "metadata.namespace=a", "field label not supported: metadata.namespace"),
    ("jobs", "batch", "x=1", 'field label "x" not supported for Job'),
    ("configmaps", "", "type=1", '"type" is not a known field selector: only "metadata.name", '
     '"metadata.namespace"'),
    ("replicasets", "apps", "status.replicas=1", '"status.replicas" is not a known field '
     'selector: only "metadata.name", "metadata.namespace"'),
])
def test_fields_refused(plural: str, group: str, text: str, words: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse_selector(resource(plural, group), "", text)
    assert (refused.value.code, refused.value.message) == (400, words)


@pytest.mark.parametrize(("text", "matches"), [
    ("", True), ("spec.nodeName=n1", True), ("spec.nodeName==n1,metadata.name=p", True),
    ("spec.nodeName!=n1", False), ("spec.host=n1", True), ("spec.hostNetwork=false", True),
    ("status.phase=", True), ("status.podIP=10.0.0.1", True), (",,metadata.name=p,", True),
    ("status.podIPs=10.0.0.1", False), ("=", True), ("metadata.namespace!=default", False),
])
def test_fields_of_a_pod(text: str, matches: bool) -> None:
    obj = pod("p", node="n1")
    obj["status"] = {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "::1"}]}
    assert parse_selector(resource("pods"), "", text).matches(Item("Pod", obj)) is matches


def test_escapes() -> None:
    selector = parse_selector(resource("secrets"), "", r"type=a\,b\=c\\")
    assert selector.field_equal("type") == "a,b=c\\"


def test_other_kinds() -> None:
    assert values_of("Job", {"metadata": {"name": "j"}, "status": {"succeeded": 3}})[2] == "3"
    assert values_of("Event", {"metadata": {}, "source": {"component": "kubelet"}})[-1] == "kubelet"
    assert values_of("Event", {"metadata": {}, "reportingComponent": "s"})[-1] == "s"
    assert values_of("Node", {"metadata": {"name": "n"}, "spec": {"unschedulable": True}}) == (
        "n", "true")


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner)
                    | st.dictionaries(st.sampled_from(["name", "phase", "podIPs", "ip"]), inner)),
       st.sampled_from(sorted(FIELDS)))
def test_fields_of_odd_objects(part: Any, kind: str) -> None:
    """Whatever stands where fields are looked for, there are as many values, all of them text."""
    obj = {"metadata": part, "spec": part, "status": part, "source": part}
    found = values_of(kind, obj)
    assert len(found) == len(FIELDS[kind]) and all(isinstance(value, str) for value in found)


keys = st.sampled_from(["a", "b"])
labels = st.dictionaries(keys, st.sampled_from(["", "1", "2", "x"]))


@given(key=keys, values=st.sets(st.sampled_from(["", "1", "2", "x"]), min_size=1),
       negative=st.booleans(), labels=labels)
def test_sets(key: str, values: set[str], negative: bool, labels: dict[str, str]) -> None:
    text = f"{key} {'notin' if negative else 'in'} ({','.join(values)})"
    item = Item("Pod", {"metadata": {"labels": labels}})
    wanted = (labels.get(key, "missing") in values) is not negative
    assert parse_selector(resource("pods"), text, "").matches(item) is wanted


@pytest.mark.parametrize(("text", "value", "matches"), [
    ("n>4", "5", True), ("n>5", "5", False), ("n<6", "5", True), ("n<6", "x", False),
    ("n>4", "5_0", False), ("n>4", str(1 << 63), False), ("n<4", "", False),
])
def test_numbers(text: str, value: str, matches: bool) -> None:
    item = Item("Pod", {"metadata": {"labels": {"n": value}}})
    assert parse_selector(resource("pods"), text, "").matches(item) is matches


@given(st.text(alphabet="ab=!,()<> in", max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_selector(resource("pods"), text, "")
    except ApiError as error:
        assert error.code == 400
