# SPDX-License-Identifier: Apache-2.0
"""The facts that test_etcd_semantics states, asked of a real etcd: what they say of it is true."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import models
import pytest
import test_etcd_semantics
from etcd_as_store import EtcdStore
from etcd_fixtures import pair, shared  # noqa: F401
from etcd_pair import Pair
from test_etcd_semantics import DUPLICATES, Side

# Delete up to the end beside a put: delete-to-the-end in docs/differences-from-etcd.md.
OVERLOOKED = "put delete all"
# What only a store that was never compacted, or its own counters, can show; what has OVERLOOKED.
NOT_AS_IT_IS = {"test_item_23_compact_0_once", "test_item_24_compaction_at_a_tombstone",
                "test_item_14_duplicate_key_in_txn"}

FACTS = {name: test for name, test in vars(test_etcd_semantics).items()
         if name.startswith("test_") and "side" in inspect.signature(test).parameters
         and name not in NOT_AS_IT_IS}
globals().update(FACTS)


@pytest.fixture
def side(pair: Pair) -> Iterator[Side]:  # noqa: F811
    """etcd in the place of the store and the model."""
    pair.broken = True                       # the embedded store does not see these requests
    yield Side(EtcdStore(pair.etcd), models)


@pytest.mark.parametrize("branch", ["success", "failure"])
@pytest.mark.parametrize("name", [name for name in DUPLICATES if name != OVERLOOKED])
def test_duplicate_key_in_txn(side: Side, name: str, branch: str) -> None:
    test_etcd_semantics.test_item_14_duplicate_key_in_txn(side, name, branch)


def test_the_list_is_not_empty() -> None:
    assert len(FACTS) > 25
