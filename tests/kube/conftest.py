# SPDX-License-Identifier: Apache-2.0
"""A server in process for the tests of kvcore.kube."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from in_process import Server


@pytest.fixture
def kube() -> Iterator[Server]:
    """A started Api over a store in memory, with its own event loop."""
    server = Server()
    yield server
    server.close()
