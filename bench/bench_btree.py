# SPDX-License-Identifier: Apache-2.0
"""Which B-tree order is fastest for a cluster's keys, and what does MVCC cost beside plain
mappings?

Run: pytest bench/bench_btree.py --benchmark-only
(a smoke size; KVCORE_BENCH=real: 1,000,000 keys).
Times are per round of OPS operations (extra_info "per_op_ns"); extra_info also has depth and bytes
per key.  The peers hold one int per key and no history; their bytes per key are not measured.
"""

from __future__ import annotations

import array
import bisect
import functools
import gc
import os
import random

import pytest
from workload import registry_keys

from kvcore._btree import BTreeIndex

REAL = os.environ.get("KVCORE_BENCH") == "real"
N = 1_000_000 if REAL else 20_000
OPS = 100_000 if REAL else 5_000
ROUNDS = 5 if REAL else 2
ORDERS = (3, 4, 8, 16, 32, 64, 128, 256, 1024) if REAL else (3, 32, 1024)
PAGE = 500


@functools.lru_cache(maxsize=1)
def keys():
    """(random order, sorted, a sample that is there, a sample that is not)"""
    shuffled = registry_keys(N)
    probe = random.Random(2).sample(shuffled, OPS)
    return shuffled, sorted(shuffled), probe, [k + b"~" for k in probe]


@functools.lru_cache(maxsize=1)
def loaded(order):
    """An index that grew by random insertion; the reads of one order share it."""
    index = BTreeIndex(order)
    for rev, key in enumerate(keys()[0], 1):
        index.insert(key, rev)
    return index


def measure(benchmark, run, operations, index=None, setup=None):
    gc.collect()
    gc.freeze()
    benchmark.pedantic(run, setup=setup, rounds=ROUNDS, warmup_rounds=0 if setup else 1)
    gc.unfreeze()
    benchmark.extra_info["per_op_ns"] = round(benchmark.stats.stats.median / operations * 1e9, 1)
    if index is not None:
        stats = index.stats()
        benchmark.extra_info.update(depth=stats.depth, fill=round(stats.fill, 3),
                                    bytes_per_key=round(stats.bytes_per_key, 1))


@pytest.fixture(params=ORDERS, ids=lambda n: f"order{n}", scope="module")
def order(request):
    return request.param


@pytest.mark.parametrize("kind", ("hit", "miss"))
def bench_get(benchmark, order, kind):
    index = loaded(order)
    probe = keys()[2 if kind == "hit" else 3]

    def run(get=index.get):
        for key in probe:
            get(key)

    measure(benchmark, run, OPS, index)


def bench_get_many(benchmark, order):
    index = loaded(order)
    measure(benchmark, lambda: index.get_many(keys()[2]), OPS, index)


def bench_page(benchmark, order):
    index = loaded(order)
    ordered = keys()[1]
    starts = random.Random(3).sample(range(N - PAGE), 50)
    pages = [(ordered[i], ordered[i + PAGE - 1] + b"\0") for i in starts]

    def run():
        for start, end in pages:
            index.range_query(start, end)

    measure(benchmark, run, len(pages), index)


def bench_mod_revisions_of_everything(benchmark, order):
    index = loaded(order)
    measure(benchmark, lambda: index.mod_revisions(b"/"), 1, index)


def bench_count_of_everything(benchmark, order):
    index = loaded(order)
    measure(benchmark, lambda: [index.count(b"/registry/c", b"/registry/s") for _ in range(100)],
            100, index)


def bench_snapshot(benchmark, order):
    index = loaded(order)

    def run():
        for _ in range(100):
            index.snapshot().close()

    measure(benchmark, run, 100, index)


@pytest.mark.parametrize("kind", ("random", "sorted"))
def bench_insert(benchmark, order, kind):
    source = keys()[0 if kind == "random" else 1]
    made = []

    def setup():
        made[:] = [BTreeIndex(order)]

    def run():
        insert = made[0].insert
        for rev, key in enumerate(source, 1):
            insert(key, rev)

    measure(benchmark, run, N, None, setup)
    benchmark.extra_info["bytes_per_key"] = round(made[0].stats().bytes_per_key, 1)


def bench_bulk_load(benchmark, order):
    revisions = array.array("q", range(1, N + 1))
    made = []

    def setup():
        made[:] = [BTreeIndex(order)]

    measure(benchmark, lambda: made[0].bulk_load(keys()[1], revisions), N, None, setup)


@pytest.mark.parametrize("held", (False, True), ids=("free", "snapshot"))
def bench_overwrite(benchmark, order, held):
    """A million writes (real size) over loaded keys; with a snapshot held, nodes are copied
    once."""
    shuffled = keys()[0]
    made = []

    def setup():
        index = BTreeIndex(order)
        index.bulk_load(keys()[1], array.array("q", [1] * N))
        made[:] = [index, index.snapshot() if held else None]

    def run():
        insert = made[0].insert
        for rev, key in enumerate(shuffled, 2):
            insert(key, rev)

    measure(benchmark, run, N, None, setup)
    benchmark.extra_info["copied_nodes"] = made[0].stats().copied_nodes


def bench_churn(benchmark, order):
    """Insert, overwrite, delete and compact in equal parts: free lists and merges at work."""
    index = BTreeIndex(order)
    index.bulk_load(keys()[1], array.array("q", [1] * N))
    state = [1]

    def run():
        rev = state[0]
        for key in keys()[2]:
            index.insert(key, rev + 1)
            index.delete(key, rev + 2)
            index.insert(key + b"~", rev + 1)
            index.delete(key + b"~", rev + 2)
            rev += 2
        index.compact(rev + 1)
        state[0] = rev + 1

    measure(benchmark, run, 4 * OPS, index)


def peers():
    from BTrees.OOBTree import OOBTree
    from sortedcontainers import SortedDict

    return {"dict": dict, "SortedDict": SortedDict, "OOBTree": OOBTree}


@functools.lru_cache(maxsize=1)
def loaded_peer(name):
    peer = peers()[name]()
    for rev, key in enumerate(keys()[0], 1):
        peer[key] = rev
    return peer


@pytest.fixture(params=("dict", "SortedDict", "OOBTree"), scope="module")
def peer(request):
    return request.param


@pytest.mark.parametrize("kind", ("hit", "miss"))
def bench_peer_get(benchmark, peer, kind):
    get = loaded_peer(peer).get
    probe = keys()[2 if kind == "hit" else 3]

    def run():
        for key in probe:
            get(key)

    measure(benchmark, run, OPS)


def bench_peer_page(benchmark, peer):
    mapping = loaded_peer(peer)
    ordered = keys()[1]
    starts = random.Random(3).sample(range(N - PAGE), 50 if peer != "dict" else 1)
    pages = [(ordered[i], ordered[i + PAGE - 1]) for i in starts]
    read = {
        "dict": lambda a, b: (lambda s: s[bisect.bisect_left(s, a):bisect.bisect_right(s, b)])(
            sorted(mapping)),
        "SortedDict": lambda a, b: list(mapping.irange(a, b)) if peer == "SortedDict" else None,
        "OOBTree": lambda a, b: list(mapping.items(a, b)) if peer == "OOBTree" else None,
    }[peer]
    measure(benchmark, lambda: [read(a, b) for a, b in pages], len(pages))


@pytest.mark.parametrize("kind", ("random", "sorted"))
def bench_peer_insert(benchmark, peer, kind):
    source = keys()[0 if kind == "random" else 1]
    made = []

    def setup():
        made[:] = [peers()[peer]()]

    def run():
        mapping = made[0]
        for rev, key in enumerate(source, 1):
            mapping[key] = rev

    measure(benchmark, run, N, None, setup)


def bench_peer_all_values(benchmark, peer):
    mapping = loaded_peer(peer)
    measure(benchmark, lambda: list(mapping.values()), 1)
