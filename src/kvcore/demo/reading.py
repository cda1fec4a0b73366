# SPDX-License-Identifier: Apache-2.0
"""Reads: gets, a namespace listed, all pods in pages of 500, everything ranged and counted.

What comes back is compared with the workload: values byte for byte for gets, counts for every list,
order and membership of keys for every page.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator

import kvcore
from kvcore.demo.measure import PAGE, Report, Samples, Ui
from kvcore.demo.workload import Workload

GETS = 20_000
LISTS = 50
COUNTS = 1000
RANGES = 5


def read(db: kvcore.Store, workload: Workload, count: int, seed: int, report: Report,
         ui: Ui) -> None:
    """All reads, on objects 0 to count - 1 as they were created."""
    chosen = random.Random(seed)
    _gets(db, workload, [chosen.randrange(count) for _ in range(min(GETS, 2 * count))], report, ui)
    expected: Counter[bytes] = Counter()
    with ui.phase("count what to expect", count) as step:
        for index in range(count):
            namespace = workload.pod_namespace(index)
            if namespace is not None:
                expected[namespace] += 1
            if index % 10_000 == 9_999:
                step.advance(10_000)
    _namespaces(db, workload, expected, chosen, report, ui)
    _pages(db, workload, sum(expected.values()), report, ui)
    _everything(db, count, report, ui)


def _gets(db: kvcore.Store, workload: Workload, indices: list[int], report: Report, ui: Ui) -> None:
    latencies = Samples()
    wrong = 0
    with ui.phase("get", len(indices)) as step:
        for index in indices:
            key, value = workload.item(index)
            start = time.perf_counter_ns()
            found = db.get(key)
            latencies.add(time.perf_counter_ns() - start)
            wrong += found is None or found.value != value or found.version != 1
            step.advance(1)
    report.time("get, value verified", "us", latencies, plot="get")
    report.equal("gets with another value than was written", wrong, 0)


def _namespaces(db: kvcore.Store, workload: Workload, expected: Counter[bytes],
                chosen: random.Random, report: Report, ui: Ui) -> None:
    latencies = Samples()
    names = workload.namespaces
    with ui.phase("list a namespace", LISTS) as step:
        wrong = 0
        for _ in range(LISTS):
            name = chosen.choice(names)
            prefix = workload.pods_prefix + name + b"/"
            with latencies.timed():
                found = db.range(prefix=prefix)
                values = found.values()
            wrong += found.count != expected[name] or len(values) != expected[name]
            wrong += sum(not _belongs(key, value, prefix)
                         for key, value in zip(found.keys(), values, strict=True))
            step.advance(1)
    report.time("list the pods of a namespace, values read", "ms", latencies)
    report.equal("namespaces listed with other objects than expected", wrong, 0)


def _belongs(key: bytes, value: bytes, prefix: bytes) -> bool:
    """Whether this key is of the list, and this value of this key."""
    return key.startswith(prefix) and b'"name":"%b"' % key.rpartition(b"/")[2] in value


def pages(db: kvcore.Store, prefix: bytes, latencies: Samples) -> Iterator[kvcore.RangeResult]:
    """The pages of a list as an API server asks for them: all at the first one's revision."""
    end = prefix[:-1] + bytes((prefix[-1] + 1,))
    start, revision = prefix, None
    while True:
        began = time.perf_counter_ns()
        page = db.range(start, end, limit=PAGE, revision=revision)
        latencies.add(time.perf_counter_ns() - began)
        yield page
        if not page.more:
            return
        revision = revision or page.revision
        start = page[len(page) - 1].key + b"\0"


def _pages(db: kvcore.Store, workload: Workload, expected: int, report: Report, ui: Ui) -> None:
    latencies, reading = Samples(), Samples()
    seen = wrong = 0
    last = b""
    with ui.phase("page through all pods", expected) as step:
        for page in pages(db, workload.pods_prefix, latencies):
            keys = page.keys()
            with reading.timed():
                values = page.values()
            wrong += page.count != expected - seen
            wrong += keys != sorted(set(keys)) or keys[0] <= last
            wrong += sum(not _belongs(key, value, workload.pods_prefix)
                         for key, value in zip(keys, values, strict=True))
            seen += len(keys)
            last = keys[-1]
            step.advance(len(keys))
    report.time(f"page of {PAGE} pods, undecoded", "us", latencies, plot=f"page of {PAGE}")
    report.time(f"every value of a page of {PAGE}", "us", reading,
                plot=f"values of a page of {PAGE}")
    report.equal("pods met while paging", seen, expected)
    report.equal("pages out of order, or with another count or value than expected", wrong, 0)


def _everything(db: kvcore.Store, count: int, report: Report, ui: Ui) -> None:
    counting, ranging = Samples(), Samples()
    wrong = 0
    with ui.phase("count and range everything", COUNTS + RANGES) as step:
        for _ in range(COUNTS):
            wrong += counting.call(lambda: db.range(prefix=b"", count_only=True)).count != count
            step.advance(1)
        for _ in range(RANGES):
            found = ranging.call(lambda: db.range(prefix=b"", keys_only=True))
            wrong += len(found) != count or int(found.mod_revisions.max()) != count + 1
            del found
            step.advance(1)
    report.time("count of everything", "us", counting)
    report.time(f"range of all {count:,} objects of the store", "ms", ranging)
    report.equal("counts and ranges of everything that were wrong", wrong, 0)
