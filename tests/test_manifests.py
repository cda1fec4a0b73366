# SPDX-License-Identifier: Apache-2.0
"""Manifests: what is read, what is reported and where, and the keys that come out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvcore import manifests
from kvcore.demo.workload import EXAMPLES
from kvcore.manifests import decode, encode, load, plural

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def keys(*paths: Path) -> list[str]:
    return [m.key.decode() for m in load(paths).manifests]


def problems(*paths: Path) -> list[tuple[int, str]]:
    return [(p.line, p.reason) for p in load(paths).problems]


def test_the_examples_are_read_without_a_problem() -> None:
    found = load([EXAMPLES])
    assert found.problems == []
    kinds = {m.kind for m in found.manifests}
    assert kinds >= {"Pod", "Deployment", "ReplicaSet", "Service", "ConfigMap", "Secret", "Lease",
                     "Node", "EndpointSlice", "CustomResourceDefinition", "Harvest"}
    sizes = [len(encode(m.object)) for m in found.manifests]
    assert 200 <= min(sizes) and max(sizes) <= 3072


@pytest.mark.parametrize(("text", "key"), [
    ("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: n}", "/registry/pods/n/a"),
    ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}", "/registry/pods/default/a"),
    ("apiVersion: v1\nkind: Node\nmetadata: {name: a}", "/registry/nodes/a"),
    ("apiVersion: v1\nkind: Node\nmetadata: {name: a, namespace: n}", "/registry/nodes/a"),
    ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, namespace: n}",
     "/registry/apps/deployments/n/a"),
    ("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: n}",
     "/registry/networking.k8s.io/networkpolicies/n/a"),
    ("apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: a}",
     "/registry/storage.k8s.io/storageclasses/a"),
])
def test_keys(tmp_path: Path, text: str, key: str) -> None:
    assert keys(write(tmp_path / "a.yaml", text)) == [key]


@pytest.mark.parametrize(("kind", "resource"), [
    ("Pod", "pods"), ("Endpoints", "endpoints"), ("Ingress", "ingresses"),
    ("NetworkPolicy", "networkpolicies"), ("EndpointSlice", "endpointslices"),
    ("StorageClass", "storageclasses"), ("Gateway", "gateways"), ("Prometheus", "prometheuses"),
    ("ComponentStatus", "componentstatuses"), ("CSINode", "csinodes"),
])
def test_plurals(kind: str, resource: str) -> None:
    assert plural(kind) == resource


def test_a_definition_names_its_resources(tmp_path: Path) -> None:
    write(tmp_path / "b.yaml", """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: geese.farm.example}
spec: {group: farm.example, scope: Cluster, names: {kind: Goose, plural: geese}}
""")
    write(tmp_path / "a.yaml", "apiVersion: farm.example/v1\nkind: Goose\nmetadata: {name: g}")
    assert "/registry/farm.example/geese/g" in keys(tmp_path)


def test_many_documents_lists_and_directories(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "---\n" + POD % "one" + "---\n# nothing\n---\n" + POD % "two")
    write(tmp_path / "deep" / "er" / "b.yml", "apiVersion: v1\nkind: PodList\nitems:\n"
          "- metadata: {name: three}\n- metadata: {name: four, namespace: n}\n")
    write(tmp_path / "c.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "five"}},
        {"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "six"}}]}]}))
    write(tmp_path / "notes.txt", "not a manifest")
    found = load([tmp_path])
    assert found.files == 3 and found.problems == []
    assert [m.name for m in found.manifests] == ["one", "two", "five", "six", "three", "four"]
    assert [m.line for m in found.manifests][:2] == [2, 8]
    assert found.manifests[4].kind == "Pod" and found.manifests[5].namespace == "n"


def test_json_documents_one_behind_the_other(tmp_path: Path) -> None:
    one = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}, indent=1)
    path = write(tmp_path / "a.json", one + "\n" + one + "\n{broken")
    found = load([path])
    assert [m.line for m in found.manifests] == [1, 1 + one.count("\n") + 1]
    assert [p.line for p in found.problems] == [2 * one.count("\n") + 3]


def test_a_document_that_does_not_parse_leaves_the_others(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml",
                 POD % "one" + "---\nkind: [\n---\n" + POD % "two" + "---\na: b: c\n")
    found = load([path])
    assert [(m.name, m.line) for m in found.manifests] == [("one", 1), ("two", 7)]
    assert [p.line for p in found.problems] == [6, 11]
    assert all("does not parse" in p.reason for p in found.problems)
    assert str(found.problems[0]).startswith(f"{path}:6: ")


@pytest.mark.parametrize(("text", "reason"), [
    ("kind: Pod\nmetadata: {name: a}", "has no apiVersion"),
    ("apiVersion: v1\nmetadata: {name: a}", "has no kind"),
    ("apiVersion: v1\nkind: ''\nmetadata: {name: a}", "has no kind"),
    ("apiVersion: v1\nkind: Pod", "has no metadata.name (Pod)"),
    ("apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}", "has no metadata.name (Pod)"),
    ("apiVersion: v1\nkind: Pod\nmetadata: [name]", "has no metadata.name (Pod)"),
    ("apiVersion: v1\nkind: Pod\nmetadata: {name: 7}", "has no metadata.name (Pod)"),
    ("apiVersion: v1\nkind: Pod\nmetadata: {name: a/b}", "has a slash in its name"),
    ("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: [n]}", "not a string"),
    ("- a\n- b", "is not an object but list"),
    ("just text", "is not an object but str"),
    ("apiVersion: v1\nkind: List\nitems: [7]", "items[0] is not an object but int"),
    ("apiVersion: v1\nkind: List\nitems:\n- {kind: Pod}", "items[0] has no apiVersion"),
    ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: .nan", "cannot be written as JSON"),
    ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: !!binary aGk=", "written as JSON"),
    ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: &s [*s]", "more than 1,000,000"),
    ("kind: {{ .Values.kind }}\n", "does not parse"),
    ("{{- if .Values.on }}\nkind: Pod\n{{- end }}\n", "does not parse"),
    ("a: *nobody", "does not parse"),
    ("a: !ruby/object {}", "does not parse"),
    ("a: \t- b", "does not parse"),
])
def test_bad_documents_are_reported(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path / "a.yaml", "# a comment\n" + text)
    found = load([path])
    assert found.manifests == []
    assert len(found.problems) >= 1
    assert reason in found.problems[0].reason
    assert found.problems[0].line >= 1 and found.problems[0].path == str(path)


def test_an_alias_bomb_is_reported(tmp_path: Path) -> None:
    levels = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 9))
    text = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nl0: &l0 [x, x]\n{levels}\n"
    assert problems(write(tmp_path / "a.yaml", text)) == [(1, "has more than 1,000,000 values")]


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: b\nc: \xff\n")
    assert problems(path) == [(2, "is not UTF-8")]
    path.write_bytes(b"a: \x00\n")
    assert "does not parse" in problems(path)[0][1]
    path.write_bytes(b"\xef\xbb\xbf" + (POD % "bom").encode())
    assert keys(path) == ["/registry/pods/default/bom"]
    path.write_bytes(b"")
    assert (problems(path), keys(path)) == ([], [])


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load([tmp_path / "gone"])


def test_yaml_as_kubernetes_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n"
                 "  at: 2026-03-02T08:14:09Z\n  day: 2026-03-02\n  port: 22:22\n  op: =\n"
                 "  mode: 0644\n  share: 0.5\n")
    assert load([path]).manifests[0].object["spec"] == {
        "at": "2026-03-02T08:14:09Z", "day": "2026-03-02", "port": "22:22", "op": "=",
        "mode": 420, "share": 0.5}


def test_encoding_is_compact_sorted_and_comes_back() -> None:
    obj = {"b": [1, {"d": "ü", "c": None}], "a": True}
    assert encode(obj) == '{"a":true,"b":[1,{"c":null,"d":"ü"}]}'.encode()
    assert decode(encode(obj)) == obj
    with pytest.raises(ValueError):
        decode(b"[]")


def test_the_module_exports_what_it_says() -> None:
    assert all(hasattr(manifests, name) for name in manifests.__all__)
