# SPDX-License-Identifier: Apache-2.0
"""The file by which clients find a server: its URL, its CA, who they are.

    kubeconfig(url, ca, ...) ─> dict ─write_kubeconfig─> YAML, whole or not at all, 0600

Source: client-go tools/clientcmd/api/v1. May not know: servers.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml

from kvcore.kube.tls import write_private

__all__ = ["kubeconfig", "write_kubeconfig"]


def kubeconfig(url: str, ca: bytes, *, certificate: bytes = b"", key: bytes = b"",
               token: str = "", user: str = "kubernetes-admin",
               cluster: str = "kvcore") -> dict[str, Any]:
    """One cluster, one user, one context, all inline. Args: ca, certificate, key: PEM.

    >>> kubeconfig("https://127.0.0.1:6443", b"PEM", token="t")["users"][0]["user"]
    {'token': 't'}
    """
    who: dict[str, str] = {}
    if certificate:
        who = {"client-certificate-data": _text(certificate), "client-key-data": _text(key)}
    if token:
        who["token"] = token
    name = f"{user}@{cluster}"
    return {
        "apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": name,
        "clusters": [{"name": cluster, "cluster": {
            "server": url, "certificate-authority-data": _text(ca)}}],
        "users": [{"name": user, "user": who}],
        "contexts": [{"name": name, "context": {"cluster": cluster, "user": user}}],
    }


def write_kubeconfig(path: str | Path, config: dict[str, Any]) -> None:
    """Replaces the file in one step; readable by its owner only. Errors: OSError."""
    write_private(Path(path), yaml.safe_dump(config, sort_keys=False).encode())


def _text(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
