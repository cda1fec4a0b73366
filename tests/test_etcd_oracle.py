# SPDX-License-Identifier: Apache-2.0
"""The embedded store and a real etcd give the same answers: long streams of requests, bad requests
one by one, watches, leases, and both restarted.

What differs and why: docs/differences-from-etcd.md.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from etcd_fixtures import fresh, pair  # noqa: F401
from etcd_pair import COUNT, Pair, Refused
from etcd_requests import SHORT_TTLS

import kvcore
from kvcore.etcd import messages as m

STREAMS = 8
BLOCKS = 14
BLOCK = 170


@pytest.mark.parametrize("seed", range(STREAMS))
@pytest.mark.usefixtures("nothing_hangs")
def test_a_stream_of_requests(pair: Pair, seed: int) -> None:  # noqa: F811
    rng = random.Random(seed)
    before = pair.counts[COUNT]
    for _ in range(BLOCKS):
        for _ in range(BLOCK):
            pair.step(rng)
        pair.reset()
    assert pair.counts[COUNT] - before >= 20_000 / STREAMS
