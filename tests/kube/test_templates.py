# SPDX-License-Identifier: Apache-2.0
"""Specs that were seen before: nobody can tell, but by the clock.

Each pod is made twice: the first time its spec is new, the second time it is known. What must be
the same is everything but uid, name and times: the object, the warnings, the refusal.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process import Server
from kube_server import PODS

from kvcore.kube import templates
from kvcore.kube.templates import Memo
from kvcore.kube.validation import pods

Object = dict[str, Any]

container = st.fixed_dictionaries({"name": st.sampled_from(["a", "b"]), "image": st.sampled_from(
    ["nginx", "nginx:1.27", "x/y@sha256:" + "0" * 64])}, optional={
    "resources": st.fixed_dictionaries({}, optional={
        "limits": st.sampled_from([{"cpu": "1"}, {"cpu": "1000m"}, {"memory": "1.5Gi"}, {}]),
        "requests": st.sampled_from([{"cpu": "100m"}, {"cpu": 1}, {"memory": "-1"}])}),
    "ports": st.lists(st.fixed_dictionaries({"containerPort": st.sampled_from([80, 0, "80"])}),
                      max_size=2),
    "livenessProbe": st.sampled_from([{"tcpSocket": {"port": 1}}, {"httpGet": {"port": "x"}}]),
    "unknown": st.just(1), "command": st.sampled_from([[], ["a"], None])})
spec = st.fixed_dictionaries({"containers": st.lists(container, max_size=2)}, optional={
    "hostNetwork": st.booleans(), "volumes": st.sampled_from(
        [[{"name": "v"}], [{"name": "v", "ephemeral": {}}], [{"name": "v", "configMap": {
            "name": "c"}}]]),
    "securityContext": st.sampled_from([{}, {"runAsUser": 1}]),
    "serviceAccount": st.just("x"), "nodeSelector": st.sampled_from([{"a": "b"}, {"-": ""}]),
    "resources": st.sampled_from([{"limits": {"cpu": "2"}}, {"claims": []}])})


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_defaulted", Memo())
    monkeypatch.setattr(pods, "_sound", Memo())


def told(server: Server, body: bytes, query: str = "", media: str = "application/json") -> Any:
    """The answer without what differs from pod to pod."""
    answer = server.send("POST", PODS + query, body, media)
    obj = orjson.loads(answer.body)
    for part in ("uid", "creationTimestamp", "resourceVersion", "name"):
        obj["metadata"].pop(part, None)
    said = orjson.dumps(obj).decode()
    for name in names(obj):
        said = said.replace(name, "NAME")
    return answer.code, said, answer.warnings


def names(obj: Object) -> Iterator[str]:
    name = (obj.get("details") or {}).get("name")
    if name:
        yield name


def pod(spec: Any, **metadata: Any) -> bytes:
    return orjson.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {
        "generateName": "p-", **metadata}, "spec": spec})


@given(spec=spec, query=st.sampled_from(["", "?fieldValidation=Strict"]))
def test_known_or_not_is_the_same(spec: Object, query: str) -> None:
    server = Server()
    try:
        with pytest.MonkeyPatch.context() as patch:
            forget(patch)
            first = told(server, pod(spec), query)
            assert told(server, pod(spec), query) == first
            assert told(server, pod(spec, labels={"a": "b"}), query)[0] == first[0]
    finally:
        server.close()


def test_only_what_has_no_fault_is_known(server: Server) -> None:
    sound = {"containers": [{"name": "a", "image": "b"}]}
    assert told(server, pod(sound))[0] == 201 and len(templates._defaulted) == 1
    for fault in ({"unknown": 1}, {"hostname": None}, {"hostname": 1}, {"priority": "1"}):
        told(server, pod({**sound, **fault}))
    assert len(templates._defaulted) == 1


@pytest.mark.parametrize(("body", "said"), [
    (b'{"metadata":{"generateName":"p-","labels":{"a":"b"},"labels":{"a":"c"}},"spec":%b}',
     'duplicate field "metadata.labels"'),
    (b'{"metadata":{"generateName":"p-"},"spec":%b,"spec":{}}', 'duplicate field "spec"'),
    (b'{"metadata":{"generateName":"p-","x":1},"spec":%b}', 'unknown field "metadata.x"'),
    (b'{"metadata":{"generateName":"p-"},"x":1,"spec":%b}', 'unknown field "x"')])
def test_faults_beside_a_known_spec_are_told(server: Server, body: bytes, said: str) -> None:
    sound = orjson.dumps({"containers": [{"name": "a", "image": "b"}]})
    assert told(server, b'{"metadata":{"generateName":"p-"},"spec":%b}' % sound)[0] == 201
    assert told(server, body % sound)[2] == [said]
    code, text, _ = told(server, body % sound, "?fieldValidation=Strict")
    assert code == 400 and said in orjson.loads(text)["message"]


def test_a_known_spec_in_yaml(server: Server) -> None:
    text = b"metadata: {generateName: p-}\nspec: {containers: [{name: a, image: b}]}\n"
    first = told(server, text, media="application/yaml")
    assert first[0] == 201 and told(server, text, media="application/yaml") == first
    twice = text + b"spec: {containers: [{name: a, image: b}]}\n"
    assert told(server, twice, media="application/yaml")[2] == [
        'line 3: key "spec" already set in map']


def test_each_pod_has_its_own_spec(server: Server) -> None:
    """What a plugin does to one pod is not seen in the next."""
    body = pod({"containers": [{"name": "a", "image": "b"}]})
    first = told(server, body)

    def spoil(call: Any) -> None:
        call.object["spec"]["containers"][0]["image"] = "spoiled"

    before = server.api.admission.mutate
    server.api.admission.mutate = spoil  # type: ignore[assignment,method-assign]
    assert "spoiled" in told(server, body)[1]
    server.api.admission.mutate = before  # type: ignore[method-assign]
    assert told(server, body) == first


def test_what_json_cannot_say_is_refused_as_ever(server: Server) -> None:
    resource = server.api.resources.of_path("", "v1", "pods")
    assert resource is not None
    sound = {"containers": [{"name": "a", "image": "b"}]}
    for odd in ({"hostname": object()}, {"priority": 1 << 70}):
        made = {"metadata": {"generateName": "p-"}, "spec": {**copy.deepcopy(sound), **odd}}
        with pytest.raises(Exception, match="Pod in version"):
            server.loop.run_until_complete(server.api.create(resource, made, "default"))


def test_a_memo_is_bounded() -> None:
    memo: Memo[int] = Memo(most=3, longest=4)
    for number in range(10):
        memo.put(b"%d" % number, number)
        assert 1 <= len(memo) <= 3 and memo.get(b"%d" % number) == number
    memo.put(b"12345", 1)
    assert memo.get(b"12345") is None
