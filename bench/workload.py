# SPDX-License-Identifier: Apache-2.0
"""The keys and values of a Kubernetes cluster's storage, seeded:
`/registry/<resource>/<ns>/<name>`.

    >>> keys = registry_keys(1000)
    >>> len(set(keys)), all(k.startswith(b"/registry/") for k in keys)
    (1000, True)
"""

from __future__ import annotations

import random

SHARES = (
    ("pods", 55), ("configmaps", 12), ("secrets", 10), ("services/endpointslices", 8),
    ("replicasets", 7), ("deployments", 4), ("minions", 2), ("leases", 2),
)
WORDS = (
    "api", "web", "auth", "cache", "queue", "worker", "batch", "mail", "search", "proxy", "front",
    "billing", "report", "ingest", "stream", "index", "login", "media", "graph", "audit",
)
HEX = "0123456789abcdef"
ALNUM = "bcdfghjklmnpqrstvwxz2456789"


def registry_keys(n: int, seed: int = 1, namespaces: int = 500) -> list[bytes]:
    """`n` distinct keys in random order, about 53 bytes each."""
    rng = random.Random(seed)
    spaces = [f"{rng.choice(WORDS)}-{i:03d}" for i in range(namespaces)]
    kinds = [kind for kind, share in SHARES for _ in range(share)]
    out: set[bytes] = set()
    while len(out) < n:
        kind = rng.choice(kinds)
        name = (f"app-{rng.choice(WORDS)}-{rng.getrandbits(40):010x}-"
                f"{''.join(rng.choices(ALNUM, k=5))}")
        space = "" if kind == "minions" else rng.choice(spaces) + "/"
        out.add(f"/registry/{kind}/{space}{name}".encode())
    keys = sorted(out)
    rng.shuffle(keys)
    return keys


def value(seed: int, nbytes: int = 1024) -> bytes:
    """A value of which about half compresses away."""
    rng = random.Random(seed)
    half = nbytes // 2
    text = b'{"apiVersion":"v1","kind":"Pod"}' * (half // 32 + 1)
    return rng.randbytes(half) + text[:nbytes - half]
