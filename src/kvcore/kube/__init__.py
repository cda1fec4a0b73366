# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes API server's path over a kvcore store.

    with kvcore.kube.serve(store) as api:
        api.url, api.kubeconfig
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvcore.kube.server import Server, serve

__all__ = ["Server", "serve"]


def __getattr__(name: str) -> Any:
    """The server's modules are loaded when somebody serves: TLS and HTTP cost what a caller in
    process does not need."""
    if name in __all__:
        from kvcore.kube import server
        return getattr(server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
