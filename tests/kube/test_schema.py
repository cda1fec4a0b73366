# SPDX-License-Identifier: Apache-2.0
"""Fields: what a decoder in Go refuses, drops or spells anew, and what is told of it."""

from __future__ import annotations

import copy
import doctest
from fractions import Fraction
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process import RESOURCES, Server

from kvcore.kube import defaults, fields, gojson, schema, strategy, values
from kvcore.kube.gojson import syntax_problem
from kvcore.kube.validation import cron, rules
from kvcore.kube.values import canonical_micro, canonical_quantity, canonical_time, quantity

PODS = "/api/v1/namespaces/default/pods"
POD: dict[str, Any] = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
    "spec": {"containers": [{"name": "a", "image": "b", "ports": [{"containerPort": 80}]}]}}


def pod(**spec: Any) -> dict[str, Any]:
    obj = copy.deepcopy(POD)
    obj["spec"].update(spec)
    return obj


@pytest.mark.parametrize("module", [defaults, gojson, schema, strategy, values, rules, cron])
def test_doctests(module: Any) -> None:
    tried = doctest.testmod(module)
    assert tried.attempted and not tried.failed


# --- the data -------------------------------------------------------------------------------------

def test_every_served_kind_has_a_type() -> None:
    for resource in RESOURCES:
        name = schema.type_of_kind(resource.api_version, resource.kind)
        assert name is not None, resource
        assert {"apiVersion", "kind", "metadata"} <= schema.fields_of(name).keys()


def test_every_type_that_is_named_exists() -> None:
    for name in schema._data()["types"]:
        for field in schema.fields_of(name).values():
            assert field.base in fields.SCALARS or schema.fields_of(field.base) is not None


@pytest.mark.parametrize(("kind", "field", "keys", "merge"), [
    ("core.v1.PodSpec", "containers", ("name",), "name"),
    ("core.v1.ServiceSpec", "ports", ("port", "protocol"), "port"),
    ("meta.v1.ObjectMeta", "ownerReferences", ("uid",), "uid"),
    ("core.v1.PodSpec", "tolerations", (), None),
])
def test_lists(kind: str, field: str, keys: tuple[str, ...], merge: str | None) -> None:
    found = schema.fields_of(kind)[field]
    assert found.keys == keys
    assert found.more.get("merge") == merge


# --- unknown and repeated -------------------------------------------------------------------------

REPEATED = (b'{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","name":"b","labels":{"x":"1",'
            b'"x":"2"}},"spec":{"foo":1,"containers":[{"name":"a","image":"b","zzz":{}}]}}')
TOLD = ['duplicate field "metadata.name"', 'duplicate field "metadata.labels.x"',
        'unknown field "spec.foo"', 'unknown field "spec.containers[0].zzz"']


def test_strict_refuses_and_stores_nothing(server: Server) -> None:
    answer = server.send("POST", PODS + "?fieldValidation=Strict", REPEATED)
    assert answer.code == 400
    assert orjson.loads(answer.body)["message"] == (
        'Pod in version "v1" cannot be handled as a Pod: strict decoding error: '
        + ", ".join(TOLD))
    assert server.stored() == 0


def test_a_field_given_twice_is_refused_although_all_are_known(server: Server) -> None:
    answer = server.send(
        "POST", "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
        b'{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"z","name":"z"},"data":'
        b'{"a":"1","a":"2"}}')
    assert (answer.code, orjson.loads(answer.body)["message"]) == (
        400, 'ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: '
        'duplicate field "metadata.name", duplicate field "data.a"')
    assert server.stored() == 0


@pytest.mark.parametrize("query", ["", "?fieldValidation=Warn"])
def test_warn_warns_and_drops(server: Server, query: str) -> None:
    answer = server.send("POST", PODS + query, REPEATED)
    assert answer.code == 201
    assert [text for name, text in answer.lines() if name == "Warning"] == [
        '299 - "' + text.replace('"', '\\"') + '"' for text in TOLD]
    obj = orjson.loads(answer.body)
    assert "foo" not in obj["spec"] and "zzz" not in obj["spec"]["containers"][0]
    assert obj["metadata"]["name"] == "b"


def test_ignore_drops_silently(server: Server) -> None:
    answer = server.send("POST", PODS + "?fieldValidation=Ignore", REPEATED)
    assert answer.code == 201 and answer.warnings == []
    assert "foo" not in orjson.loads(answer.body)["spec"]


def test_repeated_keys_of_yaml(server: Server) -> None:
    body = b"kind: Pod\napiVersion: v1\nmetadata:\n  name: a\n  name: b\nspec:\n  foo: 1\n"
    answer = server.send("POST", PODS + "?fieldValidation=Strict", body, "application/yaml")
    assert orjson.loads(answer.body)["message"] == (
        'Pod in version "v1" cannot be handled as a Pod: strict decoding error: yaml: unmarshal '
        'errors:\n  line 5: key "name" already set in map, unknown field "spec.foo"')


@pytest.mark.parametrize("body", [
    b'{"a" :1,"a":2}', b'{"a":1,"\\u0061":2}', b'{"a":{"b":":"},"a":1}', b'{"a"\n:1,"a":2}',
    b'{"a":"\\u003a","a":1}',
])
def test_a_repeated_key_is_not_missed(body: bytes) -> None:
    assert fields.may_repeat(body, orjson.loads(body))


NAMES = st.sampled_from(["a", "b", "a:", '"', "\\", "é"])
TREES = st.recursive(st.none() | st.integers(0, 9) | NAMES, lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8)


@given(TREES, st.booleans())
def test_what_is_not_repeated_is_mostly_seen_so(tree: Any, escaped: bool) -> None:
    body = orjson.dumps({"a": tree})
    assert not fields.may_repeat(body, orjson.loads(body))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["1", '":"', '{"a":1}'])),
                min_size=2, max_size=4), st.sampled_from(["", " ", "\n"]))
def test_certain_means_certain(pairs: list[tuple[str, str]], space: str) -> None:
    body = ("{" + ",".join(f'"{k}"{space}:{v}' for k, v in pairs) + "}").encode()
    repeated = len({k for k, _ in pairs}) < len(pairs)
    if repeated:
        assert fields.may_repeat(body, orjson.loads(body))


# --- ill-typed ------------------------------------------------------------------------------------

@pytest.mark.parametrize(("spec", "said"), [
    ({"containers": "x"},
     "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type "
     "[]v1.Container"),
    ({"containers": [{"ports": [{"containerPort": "80"}]}]},
     "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports."
     "containerPort of type int32"),
    ({"containers": [{"ports": [{"containerPort": 3 * 10 ** 10}]}]},
     "json: cannot unmarshal number 30000000000 into Go struct field ContainerPort.spec.containers."
     "ports.containerPort of type int32"),
    ({"containers": [{"ports": [{"containerPort": 1.5}]}]},
     "json: cannot unmarshal number 1.5 into Go struct field ContainerPort.spec.containers.ports."
     "containerPort of type int32"),
    ({"nodeSelector": {"a": 1}},
     "json: cannot unmarshal number into Go struct field PodSpec.spec.nodeSelector of type string"),
    ({"dnsPolicy": 7}, "json: cannot unmarshal number into Go struct field PodSpec.spec.dnsPolicy "
     "of type v1.DNSPolicy"),
    ({"hostNetwork": "true"}, "json: cannot unmarshal string into Go struct field "
     "PodSpec.spec.hostNetwork of type bool"),
    ({"containers": [{"resources": {"limits": {"cpu": "x"}}}]},
     "quantities must match the regular expression "
     "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
    ({"containers": [{"resources": {"limits": []}}]},
     "json: cannot unmarshal array into Go struct field ResourceRequirements.spec.containers."
     "resources.limits of type v1.ResourceList"),
    ({"volumes": [{"hostPath": 1}]},
     "json: cannot unmarshal number into Go struct field Volume.spec.volumes.VolumeSource.hostPath "
     "of type v1.HostPathVolumeSource"),
    ({"containers": [{"livenessProbe": {"httpGet": {"port": True}}}]},
     "json: cannot unmarshal bool into Go struct field HTTPGetAction.spec.containers.livenessProbe."
     "ProbeHandler.httpGet.port of type int32"),
])
def test_what_a_field_cannot_hold(server: Server, spec: dict[str, Any], said: str) -> None:
    code, answer = server.create(pod(**spec))
    assert code == 400, answer
    assert answer["message"] == f'Pod in version "v1" cannot be handled as a Pod: {said}'
    assert server.stored() == 0


def test_times_and_bytes_are_refused_in_words(server: Server) -> None:
    code, answer = server.create({**POD, "metadata": {"name": "a", "creationTimestamp": "x"}})
    assert (code, answer["message"].partition("Pod: ")[2]) == (
        400, 'parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006"')
    code, answer = server.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"},
                                "data": {"a": "b!"}})
    assert (code, answer["message"].partition("Secret: ")[2]) == (
        400, "illegal base64 data at input byte 1")


def test_null_is_absent(server: Server) -> None:
    code, answer = server.create(pod(nodeName=None, nodeSelector=None, hostNetwork=None))
    assert code == 201
    assert not {"nodeName", "nodeSelector", "hostNetwork"} & answer["spec"].keys()


# --- bodies ---------------------------------------------------------------------------------------

@pytest.mark.parametrize(("body", "said"), [
    (b"{", "couldn't get version/kind; json parse error: unexpected end of JSON input ({)"),
    (b"", "couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)"),
    (b'{"apiVersion":5,"kind":"Pod"}', "couldn't get version/kind; json parse error: json: cannot "
     'unmarshal number into Go struct field .apiVersion of type string ({"apiVersion":5,'
     '"kind":"Pod"})'),
    (b'{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},}',
     "couldn't get version/kind; json parse error: invalid character '}' looking for beginning of "
     'object key string ({"apiVersion":"v1","kind":"Pod ...)'),
    (b"[" * 2000, "couldn't get version/kind; json parse error: unexpected end of JSON input "
     "(5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b ...)"),
])
def test_a_body_that_is_no_object(server: Server, body: bytes, said: str) -> None:
    answer = server.send("POST", PODS, body)
    assert answer.code == 400
    assert orjson.loads(answer.body)["message"] == (
        f"the object provided is unrecognized (must be of type Pod): {said}")


@pytest.mark.parametrize(("text", "said"), [
    (b'{"a" 1}', "invalid character '1' after object key"),
    (b'{"a":1 2}', "invalid character '2' after object key:value pair"),
    (b"[1 2]", "invalid character '2' after array element"),
    (b"{} {}", "invalid character '{' after top-level value"),
    (b"trux", "invalid character 'x' in literal true (expecting 'e')"),
    (b"1.x", "invalid character 'x' after decimal point in numeric literal"),
    (b'"\\q"', "invalid character 'q' in string escape code"),
    (b'"\x01"', r"invalid character '\x01' in string literal"),
])
def test_words_of_the_scanner(text: bytes, said: str) -> None:
    assert syntax_problem(text) == said


@given(st.binary(max_size=30) | TREES.map(orjson.dumps).flatmap(
    lambda body: st.integers(0, len(body)).map(lambda cut: body[:cut])))
def test_the_scanner_ends(body: bytes) -> None:
    assert syntax_problem(body)


@pytest.mark.parametrize("body", [
    b"a: [", b"- a", b"a: b: c", b"a: &a [*a]", b"{a: !!binary YQ==}", b"a: .inf",
    b"a: &a [1,1,1,1,1,1,1,1]\n" + b"".join(
        b"b%d: &b%d [*%s]\n" % (i, i, b", *".join([b"a" if not i else b"b%d" % (i - 1)] * 10))
        for i in range(8)),
    b"[" * 3000,
])
def test_broken_yaml_is_refused(server: Server, body: bytes) -> None:
    answer = server.send("POST", PODS, body, "application/yaml")
    assert answer.code == 400, answer.body[:200]
    assert server.stored() == 0


def test_yaml_is_read_as_goyaml_reads_it(server: Server) -> None:
    body = (b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  creationTimestamp: "
            b"2026-01-01T00:00:00Z\ndata:\n  1: '2'\n  time: 12:30:45\n  yes: \"no\"\n---\nkind: x")
    answer = server.send("POST", "/api/v1/namespaces/default/configmaps", body, "application/yaml")
    assert answer.code == 201, answer.body
    assert orjson.loads(answer.body)["data"] == {"1": "2", "time": "12:30:45", "true": "no"}


# --- values ---------------------------------------------------------------------------------------

@pytest.mark.parametrize(("written", "stored"), [
    ("0.5", "500m"), ("1024Mi", "1Gi"), ("1000", "1k"), ("1.5Gi", "1536Mi"), ("1e3", "1e3"),
    ("0", "0"), ("0Mi", "0"), ("-1.5", "-1500m"), ("1n", "1n"), ("0.1n", "1n"), ("1000m", "1"),
    ("128Mi", "128Mi"), ("1023Ki", "1023Ki"), ("1500Ki", "1500Ki"), ("8E", "8E"),
    ("12E", "9223372036854775807"), (1, "1"),
    (0.1, "100m"), ("+5", "5"), (".5", "500m"), ("5.", "5"),
])
def test_quantities(written: Any, stored: str) -> None:
    assert canonical_quantity(written) == stored


@given(st.integers(-10 ** 6, 10 ** 6), st.integers(0, 999),
       st.sampled_from(["n", "u", "m", "", "k", "M", "G", "Ki", "Mi", "Gi", "e2", "E-3"]))
def test_a_spelling_means_the_same(whole: int, part: int, suffix: str) -> None:
    text = f"{whole}.{part:03}{suffix}"
    spelled = canonical_quantity(text)
    assert canonical_quantity(spelled) == spelled
    lost = abs(quantity(spelled) - quantity(text))
    assert lost < Fraction(1, 10 ** 9) or (suffix in ("Ki", "Mi", "Gi") and lost < 1)


@pytest.mark.parametrize("text", ["", "x", "1x", "1Kii", "--1", "1 ", "1e", "Mi"])
def test_no_quantities(text: str) -> None:
    with pytest.raises(ValueError, match="quantit"):
        quantity(text)


@pytest.mark.parametrize(("written", "stored"), [
    ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
    ("2026-01-02T03:04:05.999+02:00", "2026-01-02T01:04:05Z"),
    ("2026-01-01T00:00:00-01:30", "2026-01-01T01:30:00Z"),
])
def test_times(written: str, stored: str) -> None:
    assert canonical_time(written) == stored
    assert canonical_micro(written).startswith(stored[:-1])


@pytest.mark.parametrize("text", ["", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z",
                                  "2026-01-01", "2026-01-01T00:00:00", "0000-01-01T00:00:00Z"])
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError, match="parsing time"):
        canonical_time(text)
