# SPDX-License-Identifier: Apache-2.0
"""Objects against the answers of a real kube-apiserver: what it stored, and what it refused.

`recorded.json` holds objects of most kinds, what came back, and some 500 ways to break one value
with the causes that were told.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import orjson
import pytest
from in_process import RESOURCES, Server

RECORDED = orjson.loads((Path(__file__).parent / "recorded.json").read_bytes())
OBJECTS, ACCEPTED, REFUSED = (RECORDED[key] for key in ("objects", "accepted", "refused"))
KINDS = sorted({obj["kind"] for obj in OBJECTS})
OURS_ALONE = ("uid", "creationTimestamp", "managedFields", "resourceVersion")
ADDRESSES = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")


def comparable(obj: dict[str, Any]) -> dict[str, Any]:
    """Without what two servers cannot agree on, and without the addresses given to services."""
    uid = obj["metadata"].get("uid")
    text = orjson.dumps(obj)
    obj = orjson.loads(text.replace(uid.encode(), b"UID") if uid else text)
    for key in OURS_ALONE:
        obj["metadata"].pop(key, None)
    if obj["metadata"].get("generateName"):
        del obj["metadata"]["name"]
    if obj["kind"] == "Service":
        for key in ADDRESSES:
            obj["spec"].pop(key, None)
        for port in obj["spec"].get("ports", ()):
            port.pop("nodePort", None)
    return obj


def broken(entry: dict[str, Any], base: dict[str, Any] | None = None) -> dict[str, Any]:
    """The entry's object, or another one, with the entry's value in it."""
    obj = copy.deepcopy(base or OBJECTS[entry["base"]])
    *way, last = entry["at"]
    holder: Any = obj
    for step in way:
        holder = holder[step]
    if "value" in entry:
        holder[last] = entry["value"]
    else:
        del holder[last]
    return obj  # type: ignore[no-any-return]


def test_the_record_is_there() -> None:
    assert len(ACCEPTED) >= 30 and len(REFUSED) >= 500
    assert len(KINDS) >= 28


@pytest.mark.parametrize("number", range(len(ACCEPTED)), ids=[
    f"{e['sent']['kind']}-{i}" for i, e in enumerate(ACCEPTED)])
def test_accepted(server: Server, number: int) -> None:
    entry = ACCEPTED[number]
    code, answer = server.create(entry["sent"], "?fieldValidation=Strict")
    assert code == 201, answer
    assert comparable(answer) == comparable(entry["got"])


@pytest.mark.parametrize("kind", KINDS)
def test_refused(server: Server, kind: str) -> None:
    for entry in REFUSED:
        if OBJECTS[entry["base"]]["kind"] != kind:
            continue
        obj = broken(entry)
        code, answer = server.create(obj, "?fieldValidation=Strict")
        told = answer.get("message") if entry["code"] == 400 else sorted(
            [c["reason"], c["field"], c["message"]] for c in answer["details"]["causes"])
        assert (code, told) == (entry["code"], entry["causes"]), entry["at"]
    assert server.stored() == 0


def test_the_message_lists_the_causes_in_order(server: Server) -> None:
    code, answer = server.create({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "A"}, "spec": {"containers": [
            {"name": "a", "ports": [{"containerPort": 0}]}]}})
    assert code == 422
    assert answer["reason"] == "Invalid" and answer["details"]["kind"] == "Pod"
    assert answer["message"].startswith('Pod "A" is invalid: [metadata.name: Invalid value: "A": ')
    assert [cause["field"] for cause in answer["details"]["causes"]] == [
        "metadata.name", "spec.containers[0].image", "spec.containers[0].ports[0].containerPort"]
    assert server.stored() == 0


@pytest.mark.parametrize(("sent", "said"), [
    ({"apiVersion": "v1", "kind": "Service"},
     'Service in version "v1" cannot be handled as a Pod: converting (v1.Service) to (core.Pod): '
     "unknown conversion"),
    ({"apiVersion": "apps/v1", "kind": "Deployment"},
     'Deployment in version "v1" cannot be handled as a Pod: converting (v1.Deployment) to '
     "(core.Pod): unknown conversion"),
    ({"apiVersion": "v2", "kind": "Pod"},
     'Pod in version "v2" cannot be handled as a Pod: no kind "Pod" is registered for version "v2" '
     'in scheme "pkg/runtime/scheme.go:111"'),
])
def test_another_kind(server: Server, sent: dict[str, Any], said: str) -> None:
    code, answer = server.create(sent, path="/api/v1/namespaces/default/pods")
    assert (code, answer["message"]) == (400, said)


@pytest.mark.parametrize("silent", ["", None])
@pytest.mark.parametrize("part", ["apiVersion", "kind"])
@pytest.mark.parametrize("large", [0, 140_000])
def test_a_body_that_is_silent_about_its_kind(server: Server, silent: str | None, part: str,
                                              large: int) -> None:
    """What says that it is nothing is taken to be what the path serves, with all its rules."""
    maps = "/api/v1/namespaces/default/configmaps"
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
           "data": {"a": 5, "b": "x" * large}, part: silent}
    said = ('ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal '
            "number into Go struct field ConfigMap.data of type string")
    assert server.create(obj, path=maps)[1]["message"] == said
    obj |= {"data": {"b": "x" * large}, "extra": 1}
    answer = server.send("POST", maps, orjson.dumps(obj))
    assert answer.warnings == ['unknown field "extra"']
    assert "extra" not in orjson.loads(answer.body)
    obj["data"] = 5
    for method, media in (("PUT", "json"), ("PATCH", "merge-patch+json")):
        answer = server.send(method, f"{maps}/a", orjson.dumps(obj), f"application/{media}")
        assert answer.code in (400, 422) and b"ConfigMap.data of type map" in answer.body
    review = {"apiVersion": silent, "spec": {"user": 5}, "extra": "x" * large}
    answer = server.send("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews",
                         orjson.dumps(review))
    assert answer.code == 400 and b"spec.user of type string" in answer.body


def test_a_slice_with_too_many_ports(server: Server) -> None:
    """The number alone is told, not what else is wrong with 20,000 of them."""
    code, answer = server.create({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "a"},
        "addressType": "IPv4", "endpoints": [], "ports": [{"name": "a b", "port": 1}] * 20_001})
    assert (code, answer["message"]) == (
        422, 'EndpointSlice.discovery.k8s.io "a" is invalid: ports: Too many: 20001: must have at '
        "most 20000 items")


@pytest.mark.parametrize(("labels", "said"), [
    ({"a/b/c": "d"}, "a valid label key must consist of"),
    ({"/a": "d"}, "prefix part must be non-empty"),
    ({"a/": "d"}, "name part must be non-empty"),
    ({"x" * 64: "d"}, "name part must be no more than 63 bytes"),
    ({"a": "x" * 64}, "must be no more than 63 bytes"),
    ({"a": "-"}, "a valid label must be an empty string or consist of"),
])
def test_labels(server: Server, labels: dict[str, str], said: str) -> None:
    code, answer = server.create({"apiVersion": "v1", "kind": "ConfigMap",
                                "metadata": {"name": "a", "labels": labels}})
    assert code == 422 and said in answer["message"], answer


@pytest.mark.parametrize(("annotations", "good"), [
    ({"a": "x" * 262143}, True), ({"a": "x" * 262144}, False), ({"a": "é" * 131072}, False),
])
def test_annotations_have_a_limit(server: Server, annotations: dict[str, str], good: bool) -> None:
    code, answer = server.create({"apiVersion": "v1", "kind": "ConfigMap",
                                "metadata": {"name": "a", "annotations": annotations}})
    assert (code == 201) is good
    if not good:
        assert answer["message"] == ('ConfigMap "a" is invalid: metadata.annotations: Too long: '
                                     "may not be more than 262144 bytes")


def test_data_has_a_limit(server: Server) -> None:
    for size, code in ((1048576, 201), (1048577, 422)):
        got, answer = server.create({"apiVersion": "v1", "kind": "ConfigMap",
                                   "metadata": {"name": f"a{size}"}, "data": {"a": "x" * size}})
        assert got == code, answer["message"][:200]


def test_a_generated_name_keeps_the_rule_of_its_prefix(server: Server) -> None:
    code, answer = server.create({"apiVersion": "v1", "kind": "ConfigMap",
                                "metadata": {"generateName": "web-"}})
    assert code == 201 and len(answer["metadata"]["name"]) == 9
    code, answer = server.create({"apiVersion": "v1", "kind": "ConfigMap",
                                "metadata": {"generateName": "-web"}})
    assert code == 422
    assert [c["field"] for c in answer["details"]["causes"]] == [
        "metadata.generateName", "metadata.name"]


def test_every_kind_with_rules_is_served() -> None:
    from kvcore.kube.validation import KINDS as RULES
    assert RULES.keys() <= {resource.kind for resource in RESOURCES}


def test_a_spec_that_was_sound_once(server: Server) -> None:
    """Specs are remembered whole: what differs, and what hangs on the name, is looked at."""
    def pod(name: str, **more: Any) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "containers": [{"name": "c", "image": "i", **more}]}}

    for name in ("a", "b"):
        assert server.create(pod(name))[0] == 201
    code, answer = server.create(pod("c", ports=[{"containerPort": 0}]))
    assert (code, answer["details"]["causes"][0]["field"]) == (
        422, "spec.containers[0].ports[0].containerPort")
    assert server.create(pod("c", ports=[{"containerPort": 0}]))[0] == 422
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    for name, wanted in (("d", 201), ("x" * 250, 422)):
        obj = pod(name)
        obj["spec"]["volumes"] = [{"name": "scratch", "ephemeral": {
            "volumeClaimTemplate": {"spec": claim}}}]
        assert server.create(obj)[0] == wanted


HOOK = {"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"]}
NAME_PART = ("name part must consist of alphanumeric characters, '-', '_' or '.', and must start "
             "and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', "
             "regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')")


def configuration(**hook: Any) -> dict[str, Any]:
    return {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "x"},
            "kind": "ValidatingWebhookConfiguration",
            "webhooks": [HOOK | {"clientConfig": {"url": "https://x/"}} | hook]}


def limited(hard: dict[str, str], *terms: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "x"},
            "spec": {"hard": hard, "scopeSelector": {"matchExpressions": list(terms)}}}


TERMS = "spec.scopeSelector.matchExpressions"


@pytest.mark.parametrize(("sent", "causes"), [
    (configuration(clientConfig={"url": "https://u:p@x/?q=1#f"}), [
        ("webhooks[0].clientConfig.url",
         'Invalid value: "u:p": user information is not permitted in the URL'),
        ("webhooks[0].clientConfig.url",
         'Invalid value: "f": fragments are not permitted in the URL'),
        ("webhooks[0].clientConfig.url",
         'Invalid value: "q=1": query parameters are not permitted in the URL')]),
    (configuration(matchConditions=[{"name": "a", "expression": " "},
                                    {"name": "-", "expression": "true"},
                                    {"name": "a", "expression": "true"}]), [
        ("webhooks[0].matchConditions[0].expression", "Required value"),
        ("webhooks[0].matchConditions[1].name", f'Invalid value: "-": {NAME_PART}'),
        ("webhooks[0].matchConditions[2].name", 'Duplicate value: "a"')]),
    (limited({"pods": "1"}, {"scopeName": "PriorityClass", "operator": "In"}), [
        (f"{TERMS}.values", "Required value: must be at least one value when `operator` is 'In' or "
         "'NotIn' for scope selector")]),
    (limited({"pods": "1"}, {"scopeName": "PriorityClass", "operator": "Exists", "values": ["a"]}),
     [(f"{TERMS}.values", 'Invalid value: ["a"]: must be no value when `operator` is \'Exist\' or '
       "'DoesNotExist' for scope selector")]),
    (limited({"pods": "1"}, {"scopeName": "X", "operator": "Y"}), [
        (f"{TERMS}.scopeName", 'Invalid value: "X": unsupported scope'),
        (f"{TERMS}.operator", 'Invalid value: "Y": not a valid selector operator')]),
    (limited({"cpu": "1", "pods": "1"}, {"scopeName": "BestEffort", "operator": "Exists"}), [
        (TERMS, 'Invalid value: {"MatchExpressions":[{"ScopeName":"BestEffort","Operator":"Exists",'
         '"Values":null}]}: unsupported scope applied to resource')]),
    (limited({"pods": "1"}, {"scopeName": "Terminating", "operator": "Exists"},
             {"scopeName": "NotTerminating", "operator": "Exists"}), [
        (TERMS, "Invalid value: null: conflicting scopes")]),
    ({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "ownerReferences": [
        {"apiVersion": "a/b/c", "kind": "Pod", "name": "a", "uid": "u"}]}}, [
        ("metadata.ownerReferences.apiVersion",
         'Invalid value: "a/b/c": version must not be empty')]),
])
def test_causes(server: Server, sent: dict[str, Any], causes: list[tuple[str, str]]) -> None:
    code, answer = server.create(sent)
    assert code == 422, answer
    assert [(c["field"], c["message"]) for c in answer["details"]["causes"]] == causes


def test_a_binding_keeps_its_role(server: Server) -> None:
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "a"}
    binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
               "metadata": {"name": "b"}, "roleRef": reference}
    assert server.create(binding)[0] == 201
    answer = server.send("PUT", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/b",
                         orjson.dumps(binding | {"roleRef": reference | {"name": "other"}}))
    (cause,) = orjson.loads(answer.body)["details"]["causes"]
    assert cause["message"] == (
        'Invalid value: {"APIGroup":"rbac.authorization.k8s.io","Kind":"ClusterRole",'
        '"Name":"other"}: cannot change roleRef')
