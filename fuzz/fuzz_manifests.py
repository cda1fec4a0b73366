# SPDX-License-Identifier: Apache-2.0
"""Fuzz target: Kubernetes manifests as YAML and JSON.

    first byte: odd JSON, even YAML | the file

Whatever is in a file, loading ends with objects and problems. An object has a key without an empty
or doubled part, and is the same after it was stored and read.
"""

from __future__ import annotations

from common import directory

from kvcore import manifests

LINES_OF = {manifests.__file__}
TOKENS = (b"apiVersion: v1\n", b"kind: Pod\n", b"metadata:\n  name: a\n", b"---\n", b"\n- ", b"  ",
          b"items:\n", b"kind: List\n", b"&a ", b"*a", b"<<: ", b"!!binary ", b"{", b"}", b"[",
          b"]", b'"',
          b"namespace: b\n", b"1:30", b".nan", b"2001-01-01", b"\xef\xbb\xbf", b"? ", b"=")


def seeds() -> list[bytes]:
    pod = b"apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: b}\nspec: {x: [1, 2.5, ~]}\n"
    crd = (b"apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n"
           b"metadata: {name: w.e}\n"
           b"spec: {group: e, scope: Cluster, names: {kind: W, plural: ws}}\n")
    return [b"\0" + pod, b"\0" + crd + b"---\napiVersion: e/v1\nkind: W\nmetadata: {name: c}\n",
            b'\1{"apiVersion":"v1","kind":"PodList","items":[{"metadata":{"name":"a"}}]}',
            b"\0" + pod + b"--- \n{{ template }}\n---\n" + pod, b"\0a: &a [*a]\n", b"\1[1]{}"]


def one(data: bytes) -> None:
    """One input."""
    name = "file.json" if data[:1] and data[0] & 1 else "file.yaml"
    path = directory().fill({name: data[1:]}) / name
    found = manifests.load([path])
    assert found.files == 1
    for problem in found.problems:
        assert problem.line >= 1 and problem.reason and str(path) in str(problem)
    for manifest in found.manifests:
        parts = manifest.key.decode().split("/")
        assert parts[:2] == ["", "registry"] and all(parts[2:]), manifest.key
        stored = manifests.encode(manifest.object)
        read = manifests.decode(stored)
        assert manifests.decode(manifests.encode(read)) == read
        assert manifest.kind and manifest.name == read["metadata"]["name"]
