# SPDX-License-Identifier: Apache-2.0
"""Answers in YAML, and clients that accept nothing there is. As a kube-apiserver 1.36 answers."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import yaml
from kube_server import CONFIG_MAPS, Kube, config_map

A = f"{CONFIG_MAPS}/a"
HTML = {"accept": "text/html"}


def in_yaml(kube: Kube, method: str, url: str, body: Any = None, kind: str = "json") -> Any:
    answer = kube.run(kube.ask(method, url, body, headers={
        "accept": "application/yaml", "content-type": f"application/{kind}"}))
    assert answer.content_type == "application/yaml"
    return answer.code, yaml.safe_load(answer.body)


def test_every_verb(kube: Kube) -> None:
    code, made = in_yaml(kube, "POST", CONFIG_MAPS, config_map("a"))
    assert code == 201 and made == kube.call("GET", A).obj == in_yaml(kube, "GET", A)[1]
    made["data"] = {"a": "2"}
    made["metadata"].pop("creationTimestamp")            # which YAML reads as a time
    assert in_yaml(kube, "PUT", A, made)[1]["data"] == {"a": "2"}
    assert in_yaml(kube, "PATCH", A, {"data": {"a": "3"}}, "merge-patch+json")[1]["data"] == {
        "a": "3"}
    assert in_yaml(kube, "GET", CONFIG_MAPS)[1]["items"][0]["data"] == {"a": "3"}
    assert in_yaml(kube, "DELETE", A)[1]["status"] == "Success"


@pytest.mark.parametrize(("method", "url", "body", "code"), [
    ("GET", A, None, 404), ("PUT", CONFIG_MAPS, {}, 405), ("POST", CONFIG_MAPS, b"{", 400),
    ("GET", "/api/v1/nonsense", None, 404), ("GET", "/nothing", None, 404)])
def test_refusals(kube: Kube, method: str, url: str, body: Any, code: int) -> None:
    said = in_yaml(kube, method, url, body)
    assert said[0] == said[1]["code"] == code and said[1]["kind"] == "Status"


def test_a_large_answer_is_written_beside_the_loop(
        kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    from kvcore.kube import api
    kube.make(CONFIG_MAPS, config_map("a"))
    small = in_yaml(kube, "GET", CONFIG_MAPS)
    monkeypatch.setattr(api, "LARGE_ANSWER", 0)
    apart: list[Any] = []

    async def thread(work: Any, *args: Any) -> None:
        apart.append(work)
        work(*args)
    monkeypatch.setattr(api.asyncio, "to_thread", thread)
    assert in_yaml(kube, "GET", CONFIG_MAPS) == small and len(apart) == 1


def test_nothing_acceptable(kube: Kube) -> None:
    """Before the body is read, and nothing is done; a method that there is not goes first."""
    for method, url, body, code in (
            ("POST", CONFIG_MAPS, b"{", 406), ("DELETE", A, None, 406), ("GET", A, None, 406),
            ("POST", CONFIG_MAPS, orjson.dumps(config_map("b")), 406),
            ("PUT", CONFIG_MAPS, None, 405), ("GET", "/api/v1/nonsense", None, 404)):
        answer = kube.run(kube.ask(method, url, body, headers=HTML))
        assert (answer.code, answer.content_type) == (code, "application/json")
    assert kube.store.get(b"/registry/configmaps/default/b") is None
    assert kube.run(kube.ask("GET", "/healthz", headers=HTML)).code == 200
