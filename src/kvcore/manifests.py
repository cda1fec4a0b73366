# SPDX-License-Identifier: Apache-2.0
"""Kubernetes manifests: files and directories in, objects with their storage keys out.

    path ── files ── documents ── objects (List kinds opened) ── checked ── Manifest(key, object)
                        │                                           │
                        └── Problem(path, line, reason)  <──────────┘

Nothing that is wrong with one document keeps another one from being read: a stream that does not
parse as a whole is split at its `---` lines and each piece is read alone.  Files with templates in
them (Helm, Jinja) are not expanded; what does not parse in them is reported like anything else.

Keys: `/registry/<resource>/<namespace>/<name>` for kinds of the core group,
`/registry/<group>/<resource>/<namespace>/<name>` otherwise; without the namespace for kinds that
have none.  Resource names come from a table, from CustomResourceDefinitions among the
manifests, or from the English plural.

May not know: the store.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

__all__ = ["Manifest", "ManifestSet", "Problem", "Scheme", "decode", "encode", "load", "plural"]

Object = dict[str, Any]

SUFFIXES = (".yaml", ".yml", ".json")
MAX_NODES = 1_000_000        # values in one document: an alias bomb stops here
REGISTRY = "/registry"

# Plural names that the rules of `plural` would get wrong.
IRREGULAR = {
    "Endpoints": "endpoints",
    "ComponentStatus": "componentstatuses",
    "PodMetrics": "pods",
    "NodeMetrics": "nodes",
}

# Kinds without a namespace; anything else, and any custom resource, has one until a
# CustomResourceDefinition says otherwise.
CLUSTER_SCOPED = frozenset({
    "APIService", "CSIDriver", "CSINode", "CertificateSigningRequest", "ClusterRole",
    "ClusterRoleBinding", "ComponentStatus", "CustomResourceDefinition", "DeviceClass",
    "FlowSchema", "GatewayClass", "IngressClass", "MutatingWebhookConfiguration", "Namespace",
    "Node", "PersistentVolume", "PodSecurityPolicy", "PriorityClass", "PriorityLevelConfiguration",
    "RuntimeClass", "StorageClass", "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration", "VolumeAttachment",
})


@dataclass(frozen=True)
class Problem:
    """A document, or an item of a list, that could not be used: where, and why."""

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class Manifest:
    """One object and where it came from."""

    path: str
    line: int
    key: bytes
    group: str
    resource: str
    namespaced: bool
    object: Object

    @property
    def kind(self) -> str:
        """The object's kind, as written."""
        return str(self.object["kind"])

    @property
    def name(self) -> str:
        """metadata.name."""
        return str(self.object["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """metadata.namespace, "default" when none is written, "" for cluster-scoped kinds."""
        if not self.namespaced:
            return ""
        return str(self.object["metadata"].get("namespace") or "default")


@dataclass
class ManifestSet:
    """What `load` found: objects in the order of the files, problems, and the files read."""

    manifests: list[Manifest] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    files: int = 0


def plural(kind: str) -> str:
    """The resource name of a kind by English rules: Ingress -> ingresses, Policy -> policies."""
    if kind in IRREGULAR:
        return IRREGULAR[kind]
    word = kind.lower()
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


class Scheme:
    """Resource name and scope of kinds: the known ones, and those definitions teach it."""

    def __init__(self) -> None:
        self._custom: dict[tuple[str, str], tuple[str, bool]] = {}

    def learn(self, definition: Object) -> None:
        """Takes plural name and scope from a CustomResourceDefinition, unless it is malformed."""
        spec = definition.get("spec")
        names = spec.get("names") if isinstance(spec, dict) else None
        if not isinstance(spec, dict) or not isinstance(names, dict):
            return
        group, kind, resource = spec.get("group"), names.get("kind"), names.get("plural")
        if isinstance(group, str) and isinstance(kind, str) and isinstance(resource, str):
            self._custom[group, kind] = (resource, spec.get("scope") != "Cluster")

    def resource(self, group: str, kind: str) -> tuple[str, bool]:
        """Resource name, and whether its objects live in a namespace."""
        custom = self._custom.get((group, kind))
        return custom if custom is not None else (plural(kind), kind not in CLUSTER_SCOPED)


def encode(obj: Object) -> bytes:
    """The stored form of an object: compact JSON with sorted keys."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False,
                      allow_nan=False).encode()


def decode(value: bytes) -> Object:
    """The object of a stored value."""
    obj = json.loads(value)
    if not isinstance(obj, dict):
        raise ValueError("a stored object is a JSON object")
    return obj


def load(paths: Iterable[str | os.PathLike[str]]) -> ManifestSet:
    """Reads files, and directories recursively.

    A path that does not exist raises FileNotFoundError; everything that is wrong inside a file is a
    Problem of the result.
    """
    found = ManifestSet()
    raw: list[tuple[str, int, Object]] = []
    for path in _files(paths):
        found.files += 1
        for line, document in _documents(path, found.problems):
            for reason, item in _items(document):
                if reason is not None:
                    found.problems.append(Problem(path, line, reason))
                else:
                    raw.append((path, line, item))
    scheme = Scheme()
    for _, _, obj in raw:
        if obj["kind"] == "CustomResourceDefinition":
            scheme.learn(obj)
    for path, line, obj in raw:
        found.manifests.append(_manifest(scheme, path, line, obj))
    return found


# --- from paths to documents --------------------------------------------------------------------

def _files(paths: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
    for given in paths:
        path = os.fspath(given)
        if not os.path.exists(path):
            raise FileNotFoundError(2, os.strerror(2), path)
        if not os.path.isdir(path):
            yield path
            continue
        for folder, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                file = os.path.join(folder, name)
                if name.endswith(SUFFIXES) and os.path.isfile(file):
                    yield file


def _documents(path: str, problems: list[Problem]) -> Iterator[tuple[int, object]]:
    try:
        with open(path, "rb") as file:
            data = file.read()
        text = data.decode("utf-8-sig")
    except OSError as error:
        problems.append(Problem(path, 1, f"cannot be read: {error.strerror}"))
        return
    except UnicodeDecodeError as error:
        problems.append(Problem(path, data.count(b"\n", 0, error.start) + 1, "is not UTF-8"))
        return
    if path.endswith(".json"):
        yield from _json_documents(path, text, problems)
        return
    try:
        yield from list(_yaml_documents(text, 1))
    except (yaml.YAMLError, ValueError, RecursionError):
        yield from _split_documents(path, text, problems)


def _json_documents(path: str, text: str, problems: list[Problem]) -> Iterator[tuple[int, object]]:
    decoder = json.JSONDecoder()
    at = _skip_space(text, 0)
    while at < len(text):
        try:
            document, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            problems.append(Problem(path, error.lineno, f"does not parse: {error.msg}"))
            return
        except (ValueError, RecursionError) as error:
            problems.append(Problem(path, text.count("\n", 0, at) + 1, f"does not parse: {error}"))
            return
        yield text.count("\n", 0, at) + 1, document
        at = _skip_space(text, end)


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _split_documents(path: str, text: str, problems: list[Problem]) -> Iterator[tuple[int, object]]:
    """The documents of a stream that does not parse as a whole, each on its own."""
    first, piece = 1, list[str]()
    pieces: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if re.match(r"---(\s|$)", line):
            pieces.append((first, "".join(piece)))
            first, piece = number, []
        piece.append(line)
    pieces.append((first, "".join(piece)))
    for first, chunk in pieces:
        try:
            yield from list(_yaml_documents(chunk, first))
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
            line_number = first + (mark.line if mark is not None else 0)
            reason = getattr(error, "problem", None) or str(error).splitlines()[0]
            problems.append(Problem(path, line_number, f"does not parse: {reason}"))
        except (ValueError, RecursionError) as error:
            problems.append(Problem(path, first, f"does not parse: {error}"))


def _yaml_documents(text: str, first_line: int) -> Iterator[tuple[int, object]]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            document = loader.construct_document(node)
            if document is not None:
                yield first_line + node.start_mark.line, document
    finally:
        loader.dispose()


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as Kubernetes reads it: no timestamps, no base-60 numbers, `=` is a string."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers
                if tag not in {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value"}]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _construct_number(loader: Any, node: Any) -> object:
    text = str(node.value)
    if ":" in text:
        return text
    if node.tag.endswith(":int"):
        return loader.construct_yaml_int(node)
    return loader.construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_number)


# --- from documents to objects ------------------------------------------------------------------

def _items(document: object) -> Iterator[tuple[str | None, Object]]:
    """The objects of a document: itself, or the items of a List; with the reason where unusable."""
    if not isinstance(document, dict):
        yield f"is not an object but {type(document).__name__}", {}
        return
    kind, items = document.get("kind"), document.get("items")
    if not (isinstance(kind, str) and kind.endswith("List") and isinstance(items, list)):
        yield _fault(document), document
        return
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            yield f"items[{number}] is not an object but {type(item).__name__}", {}
            continue
        if kind != "List":                 # the items of a PodList need not repeat what they are
            item = {"apiVersion": document.get("apiVersion"), "kind": kind[:-4], **item}
        for reason, nested in _items(item):
            yield None if reason is None else f"items[{number}] {reason}", nested


def _fault(obj: Object) -> str | None:
    """Why an object cannot be stored; None if it can."""
    for required in ("apiVersion", "kind"):
        if not isinstance(obj.get(required), str) or not obj[required]:
            return f"has no {required}"
    metadata = obj.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(name, str) or not name:
        return f"has no metadata.name ({obj['kind']})"
    namespace = metadata.get("namespace")
    if namespace is not None and not isinstance(namespace, str):
        return "has a metadata.namespace that is not a string"
    if "/" in name or "/" in (namespace or "") or obj["apiVersion"].count("/") > 1:
        return "has a slash in its name, namespace or group"
    if _too_large(obj):
        return f"has more than {MAX_NODES:,} values"
    try:
        encode(obj)
    except (TypeError, ValueError, RecursionError) as error:
        return f"cannot be written as JSON: {error}"
    return None


def _too_large(obj: object) -> bool:
    left, stack = MAX_NODES, [obj]
    while stack and left:
        left -= 1
        value = stack.pop()
        if isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return bool(stack)


def _manifest(scheme: Scheme, path: str, line: int, obj: Object) -> Manifest:
    group = obj["apiVersion"].rpartition("/")[0]
    resource, namespaced = scheme.resource(group, obj["kind"])
    metadata = obj["metadata"]
    parts = [REGISTRY, group, resource] if group else [REGISTRY, resource]
    if namespaced:
        parts.append(metadata.get("namespace") or "default")
    key = "/".join([*parts, metadata["name"]]).encode()
    return Manifest(path, line, key, group, resource, namespaced, obj)
