# SPDX-License-Identifier: Apache-2.0
"""The fixtures of tests that compare with a real etcd: one etcd for each module, or one alone.

    from etcd_fixtures import pair, shared  # noqa: F401
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from etcd_pair import Pair
from etcd_process import MIN_LEASE_TTL, PROGRESS_SECONDS, Etcd

import kvcore


def begin(counts: Counter[str], cleanup: Callable[[Callable[[], None]], object]) -> Pair:
    """A fresh etcd and a fresh store, on a RAM disk where there is one, until the clean-up."""
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    directory = Path(tempfile.mkdtemp(prefix="kvcore-etcd-", dir=base))
    cleanup(lambda: shutil.rmtree(directory))
    etcd = Etcd(directory)
    cleanup(etcd.stop)

    def open_store() -> kvcore.Store:
        return kvcore.open(directory / "kvcore", sync="off", min_lease_ttl=MIN_LEASE_TTL,
                           progress_interval=PROGRESS_SECONDS)

    pair = Pair(etcd, open_store, counts)
    cleanup(pair.close)
    return pair


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, counts: Counter[str]) -> Pair:
    """The two of a module: none is left beside the tests of others."""
    both = begin(counts, request.addfinalizer)
    both.reset()
    return both


@pytest.fixture
def pair(shared: Pair) -> Iterator[Pair]:
    """Both stores, empty, at equal revisions; what a test leaves behind is compared too."""
    yield shared
    shared.finish()


@pytest.fixture
def fresh(request: pytest.FixtureRequest, counts: Counter[str]) -> Pair:
    """Both stores as they are before their first request."""
    return begin(counts, request.addfinalizer)
