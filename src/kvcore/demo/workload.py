# SPDX-License-Identifier: Apache-2.0
"""Many objects out of a few manifests: object i is a pure function of (seed, i, turn).

    i ── slot of the mix (pods 55 of 100, ...) ── template of that resource ── format % fields
    │                                                                            │
    └── two 64-bit hashes ── name, namespace, uid, node                          └── JSON bytes

Nothing is kept per object, so a million of them cost no memory, and whoever wants to compare a
value that was read back makes it once more.  A turn is one update of an object: it moves the stamp
in its managedFields, and renewTime in a lease.

Invariants: keys are distinct (the hash is a bijection of i); every value is valid JSON and carries
the name and namespace of its key.

May not know: the store.
"""

from __future__ import annotations

import copy
import random
import re
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import kvcore
from kvcore import manifests
from kvcore.manifests import Manifest, ManifestSet, Problem

EXAMPLES = Path(kvcore.__file__).parent / "examples"

# Objects out of a hundred; "others" are all kinds that have no share of their own.
MIX = {"pods": 55, "configmaps": 12, "secrets": 10, "endpointslices": 8, "replicasets": 7,
       "deployments": 4, "leases": 2, "nodes": 1, "others": 1}
CYCLE = sum(MIX.values())
GROUPS = {"endpointslices": "discovery.k8s.io", "replicasets": "apps", "deployments": "apps",
          "leases": "coordination.k8s.io"}
CHOICES = 1024               # how finely the templates of a resource share its objects
MAX_OBJECT_BYTES = 1 << 20   # what an API server takes, more or less, and below what a store takes
NODE_LEASES = "kube-node-lease"

WORDS = (b"apple", b"basil", b"cider", b"damson", b"elder", b"fennel", b"ginger", b"hazel", b"iris",
         b"juniper", b"kale", b"linden", b"medlar", b"nettle", b"olive", b"plum", b"quince",
         b"russet", b"sorrel", b"thyme", b"ulmo", b"vetch", b"willow", b"yarrow")

MASK = (1 << 64) - 1
ALPHABET = b"0123456789abcdefghijklmnopqrstuvwxyz"
TWO = [bytes((ALPHABET[v // 36], ALPHABET[v % 36])) for v in range(1 << 10)]
THREE = [bytes((ALPHABET[v // 1296],)) + bytes((ALPHABET[v // 36 % 36], ALPHABET[v % 36]))
         for v in range(1 << 14)]

# The order of the fields that a template leaves open.
NAME, NAMESPACE, UID, NODE, STAMP = range(5)
FIELDS = ("name", "namespace", "uid", "node", "stamp")


class Template:
    """One manifest with its name, namespace, uid, node and stamp left open."""

    __slots__ = ("_format", "_pick", "namespaced", "prefix")

    def __init__(self, manifest: Manifest) -> None:
        self.namespaced = manifest.namespaced
        group = f"{manifest.group}/" if manifest.group else ""
        self.prefix = f"{manifests.REGISTRY}/{group}{manifest.resource}/".encode()
        encoded = manifests.encode(_opened(manifest))
        pieces = re.split("\ue000(\\w+)\ue000".encode(), encoded)
        self._format = b"%b".join(piece.replace(b"%", b"%%") for piece in pieces[::2])
        self._pick = itemgetter(*(FIELDS.index(field.decode()) for field in pieces[1::2]))

    def value(self, fields: Sequence[bytes]) -> bytes:
        """The JSON of the object with these fields."""
        value: bytes = self._format % self._pick(fields)
        return value

    def key(self, fields: Sequence[bytes]) -> bytes:
        """Its key."""
        if self.namespaced:
            return b"%b%b/%b" % (self.prefix, fields[NAMESPACE], fields[NAME])
        return self.prefix + fields[NAME]


def _opened(manifest: Manifest) -> dict[str, Any]:
    """The manifest's object with marks where an object of its own needs its own words."""
    def mark(field: str) -> str:
        return f"\ue000{field}\ue000"

    obj = copy.deepcopy(manifest.object)
    metadata = obj["metadata"]
    metadata["name"] = mark("name")
    metadata.pop("namespace", None)
    if manifest.namespaced:
        metadata["namespace"] = mark("namespace")
    metadata["uid"] = mark("uid")
    metadata["creationTimestamp"] = "2026-03-02T08:00:00Z"
    metadata["managedFields"] = [
        {"manager": "kvcore-demo", "operation": "Update", "time": mark("stamp")}]
    spec = obj.get("spec")
    if isinstance(spec, dict):
        if manifest.kind == "Pod":
            spec["nodeName"] = mark("node")
        elif manifest.kind == "Lease":
            spec["renewTime"] = mark("stamp")
    return obj


class Workload:
    """Objects 0, 1, 2, ... of a control plane with `nodes` nodes and `namespaces` namespaces.

    Kinds of the mix that `found` does not have come from `fallback`; thread-safe, holds no state.
    """

    def __init__(self, found: ManifestSet, fallback: ManifestSet, *, seed: int = 1,
                 nodes: int = 1000, namespaces: int = 500) -> None:
        self.nodes = nodes
        self._namespaces = [b"%b-%03d" % (WORDS[i % len(WORDS)], i) for i in range(namespaces)]
        self._seed = _mix(seed)
        shares = [name for name, share in MIX.items() for _ in range(share)]
        random.Random(seed).shuffle(shares)
        seen: Counter[str] = Counter()
        self._slots: list[tuple[str, int, int]] = []     # resource, rank in this cycle, share
        for name in shares:
            self._slots.append((name, seen[name], MIX[name]))
            seen[name] += 1
        self._templates = {name: _choices(_manifests(found, name) or _manifests(fallback, name))
                           for name in MIX}

    @property
    def pods_prefix(self) -> bytes:
        """What the keys of all pods begin with."""
        return f"{manifests.REGISTRY}/pods/".encode()

    @property
    def namespaces(self) -> list[bytes]:
        """The names of the namespaces."""
        return list(self._namespaces)

    def resource(self, index: int) -> str:
        """The share of the mix object `index` belongs to; nodes beyond `nodes` become leases."""
        name, rank, share = self._slots[index % CYCLE]
        if name == "nodes" and index // CYCLE * share + rank >= self.nodes:
            return "leases"
        return name

    def _describe(self, index: int, turn: int) -> tuple[Template, tuple[bytes, ...]]:
        name, rank, share = self._slots[index % CYCLE]
        rank += index // CYCLE * share
        first = _mix(self._seed + index)
        second = _mix(first)
        node = b"node-%04d" % (second % self.nodes)
        namespace = self._namespaces[(second >> 20) % len(self._namespaces)]
        own = b"app-%b-%010x-%b%b" % (WORDS[(second >> 40) % len(WORDS)], first >> 24,
                                      TWO[first >> 14 & 1023], THREE[first & 16383])
        if name == "nodes":
            if rank < self.nodes:
                own = node = b"node-%04d" % rank
            else:
                name = "leases"
        elif name == "leases" and rank < self.nodes:
            own, namespace = b"node-%04d" % rank, NODE_LEASES.encode()
        uid = b"%08x-%04x-4%03x-a%03x-%012x" % (
            first >> 32, first >> 16 & 0xffff, first >> 4 & 0xfff, second >> 52,
            second & 0xffffffffffff)
        stamp = b"2026-03-02T%02d:%02d:%02d.%06dZ" % (
            8 + turn // 3600 % 12, turn // 60 % 60, turn % 60, second >> 8 & 0x7ffff)
        choices = self._templates[name]
        return choices[(second >> 30) % len(choices)], (own, namespace, uid, node, stamp)

    def key(self, index: int) -> bytes:
        """The key of object `index`."""
        template, fields = self._describe(index, 0)
        return template.key(fields)

    def item(self, index: int, turn: int = 0) -> tuple[bytes, bytes]:
        """Key and value of object `index` after `turn` updates."""
        template, fields = self._describe(index, turn)
        return template.key(fields), template.value(fields)

    def pod_namespace(self, index: int) -> bytes | None:
        """The namespace of object `index` if it is a pod, else None."""
        if self._slots[index % CYCLE][0] != "pods":
            return None
        second = _mix(_mix(self._seed + index))
        return self._namespaces[(second >> 20) % len(self._namespaces)]


def _share(manifest: Manifest) -> str:
    """The share of the mix a manifest belongs to."""
    resource = manifest.resource
    known = resource in MIX and manifest.group == GROUPS.get(resource, "")
    return resource if known else "others"


def _manifests(found: ManifestSet, share: str) -> list[Manifest]:
    return [manifest for manifest in found.manifests if _share(manifest) == share]


def _choices(found: list[Manifest]) -> list[Template]:
    """Templates to choose from evenly: each at least once, large ones in proportion less often.

    A dashboard of 300 KiB in one manifest in ten would otherwise make the store thirty times as
    large as that of any real cluster.
    """
    weights = [1 / len(manifests.encode(manifest.object)) for manifest in found]
    room = max(CHOICES, 4 * len(found)) / sum(weights)
    choices: list[Template] = []
    for manifest, weight in zip(found, weights, strict=True):
        choices += [Template(manifest)] * max(1, round(weight * room))
    return choices


def _mix(value: int) -> int:
    """splitmix64: a bijection on 64 bits that looks random."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


def build(paths: Sequence[str], *, seed: int = 1, nodes: int = 1000,
          namespaces: int = 500) -> tuple[Workload, ManifestSet]:
    """The workload of these paths (none: the project's examples), and what was read."""
    examples = manifests.load([EXAMPLES])
    found = manifests.load(paths) if paths else examples
    kept = []
    for manifest in found.manifests:
        size = len(manifests.encode(manifest.object))
        if size <= MAX_OBJECT_BYTES:
            kept.append(manifest)
        else:
            found.problems.append(Problem(manifest.path, manifest.line,
                                          f"is larger than a store takes: {size:,} bytes"))
    found.manifests = kept
    return Workload(found, examples, seed=seed, nodes=nodes, namespaces=namespaces), found
