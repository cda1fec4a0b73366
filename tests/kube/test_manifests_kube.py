# SPDX-License-Identifier: Apache-2.0
"""Real manifests through the whole create path.

The manifests beside the project where they are, the project's own examples otherwise.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from in_process import RESOURCES, Server, path_of
from test_validation_random import kept

from kvcore import manifests
from kvcore.demo.workload import EXAMPLES
from kvcore.kube import fields, schema

BESIDE = Path(__file__).parents[2].parent / "shared" / "data" / "manifests"
SOURCE = BESIDE if BESIDE.is_dir() else EXAMPLES
FOUND = manifests.load([SOURCE])

# What a real server of 1.36 refuses of them too; everything else is stored.
REFUSED = {
    ("kube-controller-manager.yaml", "Pod"): 422,          # a patch: no image
    ("vttablet-pod-template.yaml", "Pod"): 422,            # names with {{braces}}
    ("sysdig-rc.yaml", "ReplicationController"): 422,
    ("aws-ebs-web.yaml", "Pod"): 422,
    ("cinder-web.yaml", "Pod"): 422,
    ("fc.yaml", "Pod"): 400,                               # a number that is a string
}


def served(manifest: manifests.Manifest) -> bool:
    return RESOURCES.of_kind(manifest.object["apiVersion"], manifest.kind) is not None


def expected(obj: dict[str, Any]) -> dict[str, Any]:
    """What of a manifest must be read back: known fields as the decoder leaves them."""
    settled: dict[str, Any] = orjson.loads(orjson.dumps(obj))
    name = schema.type_of_kind(obj["apiVersion"], obj["kind"])
    assert name is not None
    fields.settle(name, settled)
    settled.pop("status", None)
    settled["metadata"].pop("generation", None)      # the server's to count
    texts = settled.pop("stringData", None)
    assert texts is None or obj["kind"] == "Secret"
    return settled


def test_there_is_something_to_read() -> None:
    assert len(FOUND.manifests) >= 10


def test_built_in_kinds_are_stored_and_read_back(server: Server) -> None:
    stored = 0
    for manifest in FOUND.manifests:
        obj = manifest.object
        if not served(manifest):
            continue
        resource = RESOURCES.of_kind(obj["apiVersion"], obj["kind"])
        assert resource is not None
        namespace = manifest.namespace or "default"
        code, answer = server.create(obj, path=path_of(resource, namespace))
        refused = REFUSED.get((Path(manifest.path).name, manifest.kind))
        if refused is not None:
            assert code == refused, answer
            continue
        if code == 409:                      # the same name in two files
            continue
        assert code == 201, (manifest.path, answer)
        stored += 1
        url = f"{path_of(resource, namespace)}/{answer['metadata']['name']}"
        got = orjson.loads(server.send("GET", url).body)
        assert got == answer
        lost = kept(expected(obj), got, "")
        assert [way for way in lost if not way.endswith(".metadata.namespace")] == [], manifest.path
    assert stored == server.stored() >= 10


def test_what_is_not_served_has_no_path(server: Server) -> None:
    refused = Counter[str]()
    for manifest in FOUND.manifests:
        if served(manifest):
            continue
        group, _, version = manifest.object["apiVersion"].rpartition("/")
        path = f"/apis/{group}/{version}/namespaces/default/{manifests.plural(manifest.kind)}"
        code, answer = server.create(manifest.object, path=path)
        assert (code, answer["reason"], answer["message"]) == (
            404, "NotFound", "the server could not find the requested resource"), manifest.path
        refused[manifest.kind] += 1
    assert server.stored() == 0
    assert refused["CustomResourceDefinition"] >= 1


@pytest.mark.parametrize("version", ["apps/v1beta1", "extensions/v1beta1", "apps/v2"])
def test_outdated_versions_are_refused(server: Server, version: str) -> None:
    body = {"apiVersion": version, "kind": "Deployment", "metadata": {"name": "a"}}
    code, answer = server.create(body, path=f"/apis/{version}/namespaces/default/deployments")
    assert (code, answer["reason"]) == (404, "NotFound")
    code, answer = server.create(body, path="/apis/apps/v1/namespaces/default/deployments")
    assert (code, answer["reason"]) == (400, "BadRequest")
    assert server.stored() == 0


@pytest.mark.parametrize("problem", FOUND.problems or [None], ids=str)
def test_broken_files_are_refused(server: Server, problem: manifests.Problem | None) -> None:
    """As a body, a file that has no object in it is no object."""
    if problem is None:                      # the project's own examples have none
        assert FOUND.problems == []
        return
    path = Path(problem.path)
    body = path.read_bytes() if path.is_absolute() else (SOURCE / path).read_bytes()
    for piece in body.split(b"\n---"):
        answer = server.send("POST", "/api/v1/namespaces/default/pods", piece, "application/yaml")
        assert answer.code in (201, 400, 422)
        assert json.loads(answer.body)["kind"] in ("Status", "Pod")
