# SPDX-License-Identifier: Apache-2.0
"""Makes src/kvcore/kube/schema.json: which fields the served kinds have, and of which type.

    python tests/kube_schema_generate.py DEFINITIONS.json GO_MODULES

DEFINITIONS.json: the OpenAPI definitions of Kubernetes 1.36, as the PyPI package
kubernetes-validate has them (kubernetes-json-schema/v1.36.0-local/_definitions.json). GO_MODULES: a
directory with the Go modules k8s.io/api and k8s.io/apimachinery of the same release: from their
struct tags comes what OpenAPI does not say, the names of Go types that stand in a decoder's errors,
and which fields are left out of JSON when they are empty. Both sources are Apache-2.0, Copyright
The Kubernetes Authors; taken over are facts (names of types and fields, keys of lists), no
descriptions.

What comes out is described in kvcore/kube/schema.py.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from kvcore.kube.resources import BUILT_IN

TARGET = Path(__file__).parents[1] / "src" / "kvcore" / "kube" / "schema.json"
FORMATS = {"int32": "int32", "int64": "int64", "double": "float64", "byte": "bytes"}
SPECIAL = {
    "resource.Quantity": "quantity", "intstr.IntOrString": "intstr", "v1.Time": "time",
    "v1.MicroTime": "microtime", "v1.FieldsV1": "raw", "runtime.RawExtension": "raw",
}
LISTS = {"x-kubernetes-list-type": "list", "x-kubernetes-list-map-keys": "keys",
         "x-kubernetes-patch-merge-key": "merge", "x-kubernetes-patch-strategy": "strategy",
         "x-kubernetes-map-type": "map"}
EMPTY_NUMBERS = frozenset({"int32", "int64", "float64", "int"})

QUESTIONS = {                                       # kinds that are answered and never stored
    "authentication.k8s.io": ("SelfSubjectReview", "TokenRequest", "TokenReview"),
    "authorization.k8s.io": ("LocalSubjectAccessReview", "SelfSubjectAccessReview",
                             "SelfSubjectRulesReview", "SubjectAccessReview"),
}
TEXT, META = {"type": "string"}, "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1."
WEBHOOKS: dict[str, Any] = {                        # not in OpenAPI: what a webhook answers
    "io.k8s.api.admission.v1.AdmissionReview": {"properties": {
        "apiVersion": TEXT, "kind": TEXT, "request": {"type": "object"},
        "response": {"$ref": "#/$defs/io.k8s.api.admission.v1.AdmissionResponse"}}},
    "io.k8s.api.admission.v1.AdmissionResponse": {"properties": {
        "uid": TEXT, "allowed": {"type": "boolean"}, "status": {"$ref": f"{META}Status"},
        "patch": {"type": "string", "format": "byte"}, "patchType": TEXT,
        "auditAnnotations": {"type": "object", "additionalProperties": TEXT},
        "warnings": {"type": "array", "items": TEXT}}},
}

Fields = dict[str, tuple[str, str]]                 # JSON name -> (Go type, rest of the tag)


def short(name: str) -> str:
    """io.k8s.api.core.v1.Pod -> core.v1.Pod; metav1.ObjectMeta -> meta.v1.ObjectMeta."""
    return ".".join(name.split(".")[-3:])


# --- Go ---------------------------------------------------------------------------------------

class Go:
    """The structs of one Go module tree: (package directory, type) -> fields."""

    def __init__(self, root: Path) -> None:
        self.structs: dict[tuple[str, str], Fields] = {}
        self.named: dict[tuple[str, str], str] = {}
        for module in ("api", "apimachinery"):
            found = sorted(root.glob(f"{module}@v0.36.*"))
            for path in found[-1].rglob("types*.go"):
                self._read(path, "/".join(path.parent.parts[-2:]))

    def _read(self, path: Path, package: str) -> None:
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
        for name, body in re.findall(r"^type (\w+) struct \{\n(.*?)^\}", text, re.M | re.S):
            fields: Fields = {}
            for line in body.splitlines():
                match = re.match(r'\s+(?:(\w+)\s+)?([\w.\[\]*]+)\s+`json:"([^"]*)"', line)
                if match:
                    tag, _, rest = match[3].partition(",")
                    fields[tag or f"<{match[2]}>"] = (match[2], rest)
            self.structs[package, name] = fields
        for name, kind in re.findall(r"^type (\w+) ([\w.\[\]]+)$", text, re.M):
            self.named[package, name] = kind

    def field(self, package: str, kind: str, name: str) -> tuple[str, str, str, str] | None:
        """(Go type, rest of the tag, package it stands in, embedded structs on the way)."""
        fields = self.structs.get((package, kind))
        if fields is None:
            return None
        if name in fields:
            return (*fields[name], package, "")
        for key in fields:
            if key.startswith("<"):
                inner = key[1:-1].lstrip("*")
                where = "core/v1" if inner.startswith("v1.") and package != "core/v1" else package
                found = self.field(where, inner.rpartition(".")[2], name)
                if found:
                    within = inner.rpartition(".")[2]
                    return (*found[:3], f"{within}.{found[3]}" if found[3] else within)
        return None

    def scalar(self, package: str, kind: str) -> tuple[str, str] | None:
        """The name and the basic type of a named type: Protocol -> ("v1.Protocol", "string")."""
        if "." in kind:
            qualifier, _, kind = kind.partition(".")
            package = {"v1": "core/v1", "metav1": "meta/v1", "types": "pkg/types"}.get(
                qualifier, package)
            if (package, kind) not in self.named:
                return (f"{qualifier}.{kind}", "string") if qualifier == "types" else None
        basic = self.named.get((package, kind))
        return (f"{package.rpartition('/')[2]}.{kind}", basic) if basic else None


# --- fields -----------------------------------------------------------------------------------

def base_type(spec: dict[str, Any]) -> str:
    """What schema.py calls the type of an OpenAPI schema."""
    ref = spec.get("$ref")
    if ref:
        last = ".".join(ref.rpartition("/")[2].split(".")[-2:])
        return SPECIAL.get(last) or short(ref.rpartition("/")[2])
    kinds = spec.get("type", "object")
    kind = kinds if isinstance(kinds, str) else next(k for k in kinds if k != "null")
    if kind == "array":
        return "[]" + base_type(spec["items"])
    if kind == "object":
        return "{}" + base_type(spec["additionalProperties"]) if "additionalProperties" in spec \
            else "raw"
    if kind in ("integer", "number"):
        return FORMATS.get(spec.get("format", ""), "int64" if kind == "integer" else "float64")
    if kind == "boolean":
        return "bool"
    return FORMATS.get(spec.get("format", ""), "string")


def left_out(kind: str, go: str, tag: str, basic: str) -> bool:
    """Whether encoding/json leaves the field out when it is empty."""
    if "omitempty" not in tag and "omitzero" not in tag or go.startswith("*"):
        return False
    if "omitzero" in tag and kind in ("time", "microtime"):
        return True
    return go.startswith(("[]", "map[")) or kind.startswith(("[]", "{}")) \
        or basic in EMPTY_NUMBERS or basic in ("string", "bool")


def field_row(go: Go, type_name: str, name: str, spec: dict[str, Any], required: bool) -> Any:
    group, version, kind = type_name.split(".")
    text = base_type(spec)
    found = go.field(f"{group}/{version}", kind, name)
    suffix = "!" if required else ""
    told = ""
    if found:
        typed, tag, package, within = found
        bare = typed.lstrip("*")
        named = go.scalar(package, bare.removeprefix("[]"))
        basic = named[1] if named and not bare.startswith("[]") else bare
        if left_out(text, typed, tag, basic):
            suffix += "?"
        elif typed.startswith("*"):
            suffix += "*"
        elif text.count(".") == 2 and not text.startswith(("[]", "{}")) and "omitzero" not in tag:
            suffix += "="                      # a struct by value: always there
        if within:
            suffix += f"@{within}"
        if named and text.removeprefix("[]") in ("string", "int32", "int64"):
            told = ":" + named[0]
        elif named and text.startswith("{}"):
            told = ":" + named[0]
    more = {LISTS[key]: value for key, value in spec.items() if key in LISTS}
    row = text + suffix + told
    return [row, more] if more else row


def build(definitions: dict[str, Any], go: Go) -> dict[str, Any]:
    """All types reachable from the served kinds, and which type a kind is."""
    by_kind, by_name = {}, {}
    for name, spec in (definitions | WEBHOOKS).items():
        by_name[short(name)] = spec
        for gvk in spec.get("x-kubernetes-group-version-kind", ()):
            by_kind[gvk["group"], gvk["version"], gvk["kind"]] = short(name)
    kinds = {f"{r.api_version}/{r.kind}": by_kind[r.group, r.version, r.kind]
             for r in sorted(BUILT_IN, key=lambda r: (r.api_version, r.kind))}
    kinds |= {f"{group}/v1/{kind}": by_kind[group, "v1", kind]
              for group, asked in QUESTIONS.items() for kind in asked}
    waiting = [*kinds.values(), *map(short, WEBHOOKS)]
    types: dict[str, dict[str, Any]] = {}
    while waiting:
        name = waiting.pop()
        if name in types:
            continue
        spec = by_name[name]
        required = spec.get("required", ())
        row = types[name] = {field: field_row(go, name, field, inner, field in required)
                             for field, inner in spec.get("properties", {}).items()}
        for entry in row.values():
            text = entry if isinstance(entry, str) else entry[0]
            inner = re.split(r"[!?*=:@]", text)[0].lstrip("[]{}")
            if inner.count(".") == 2:
                waiting.append(inner)
    return {"kinds": kinds, "types": dict(sorted(types.items()))}


def render(schema: dict[str, Any]) -> str:
    """One line a type, so that a new release shows as a readable difference."""
    lines = [f"{json.dumps(name)}: {json.dumps(fields, separators=(',', ':'))}"
             for name, fields in schema["types"].items()]
    return ('{"//": "SPDX-License-Identifier: Apache-2.0. Facts from the OpenAPI definitions and '
            'Go types of Kubernetes 1.36, Copyright The Kubernetes Authors; made by '
            'tests/kube_schema_generate.py",\n"kinds": '
            + json.dumps(schema["kinds"], indent=0).replace("\n", " ")
            + ',\n"types": {\n' + ",\n".join(lines) + "\n}}\n")


def main(definitions: str, modules: str) -> None:
    everything = json.loads(Path(definitions).read_text())["$defs"]
    TARGET.write_text(render(build(everything, Go(Path(modules)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
