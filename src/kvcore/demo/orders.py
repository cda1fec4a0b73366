# SPDX-License-Identifier: Apache-2.0
"""The index alone, at the article's two orders: depth, and a range over all keys.

The article speaks of one million keys, so this phase has its own number of them, whatever the size
of the store was.
"""

from __future__ import annotations

import time

import kvcore
from kvcore.demo.measure import Report, Samples, Ui
from kvcore.demo.workload import Workload

RANGES = 7
CHUNK = 10_000
ARTICLE_MS = {32: 68, 48: 47}


def orders(workload: Workload, count: int, report: Report, ui: Ui) -> None:
    """Loads `count` keys into an index of order 48 and of order 32, and ranges over all of them."""
    with ui.phase(f"{count:,} keys for the index alone", count) as step:
        keys = []
        for index in range(count):
            keys.append(workload.key(index))
            if index % CHUNK == CHUNK - 1:
                step.advance(CHUNK)
    for order in (48, 32):
        _order(order, keys, report, ui)


def _order(order: int, keys: list[bytes], report: Report, ui: Ui) -> None:
    tree = kvcore.BTreeIndex(order=order)
    inserting, ranging, reading = Samples(), Samples(), Samples()
    with ui.phase(f"insert at order {order}", len(keys)) as step:
        for low in range(0, len(keys), CHUNK):
            chunk = keys[low:low + CHUNK]
            start = time.perf_counter_ns()
            for revision, key in enumerate(chunk, low + 2):
                tree.insert(key, revision, revision)
            inserting.add((time.perf_counter_ns() - start) / len(chunk))
            step.advance(len(chunk))
    wrong = 0
    newest = len(keys) + 1
    with ui.phase(f"range over all at order {order}", RANGES) as step:
        for _ in range(RANGES):
            found = ranging.call(lambda: tree.range_query(b"\0", b"\xff"))
            wrong += len(found) != len(keys) or int(found.mod_revisions.max()) != newest
            del found                        # a result is 100 MB: one at a time
            column = reading.call(lambda: tree.mod_revisions(b"\0", b"\xff"))
            wrong += len(column) != len(keys) or int(column.max()) != newest
            step.advance(1)
    tree._check()
    stats = tree.stats()
    many = f"{len(keys):,} keys"
    if order == 32:
        report.value(f"depth, {many}, order 32", "levels", stats.depth, "~4")
    report.time(f"range over {many}, order {order}, everything copied", "ms", ranging,
                f"{ARTICLE_MS[order]} ms")
    report.time(f"range over {many}, order {order}, revisions", "ms", reading,
                f"{ARTICLE_MS[order]} ms")
    report.time(f"insert, {many}, random, order {order}", "us", inserting)
    report.value(f"bytes per key, {many}, order {order}", "B", stats.bytes_per_key)
    report.equal(f"ranges over everything at order {order} that were wrong", wrong, 0)
