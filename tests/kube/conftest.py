# SPDX-License-Identifier: Apache-2.0
"""What tests of the Kubernetes path share: an API server without a socket, on a loop of its own.

    kube ──> Kube ── call(method, url, body) ──> Reply ── .code, .obj, .reason, .rv
                 └── run(coroutine), watch(url) ──> Events

Nothing runs between two calls of `run`: what is in the background goes on only inside of them, so a
test decides what happens when.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from in_process import Server
from kube_server import Kube


@pytest.fixture
def kube() -> Iterator[Kube]:
    """An API server over an empty store in memory; without housekeeping, without admission."""
    with Kube() as made:
        yield made


@pytest.fixture
def server() -> Iterator[Server]:
    """A started Api over a store in memory, which a test asks in process."""
    made = Server()
    yield made
    made.close()
