# SPDX-License-Identifier: Apache-2.0
"""The index alone beside ordered maps in C++ and Go: one program each, one line of JSON.

    PROGRAM KEYS COUNT ──► {"version", "insert_random", "insert_sorted", "get", "scan", "bytes",
                            "checksum", "sum"}

`python -m bench.peers.maps ORDER KEYS COUNT` is that program for kvcore.BTreeIndex, from Python,
the loop's own cost included; the others are timed natively.  All hold the key and one revision;
kvcore's index holds all that MVCC needs beside (see docs/index-layout.md).  Probe i is key number
i * STRIDE modulo COUNT: neither the order of the keys nor that of the memory.

Invariant: the checksum (CRC-32 of all keys in order, a line break behind each) and the sum of the
revisions seen by the scans are the same for all.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers.data import read_keys
from bench.peers.native.build import build
from bench.peers.store import Absent

from kvcore import BTreeIndex, __version__

STRIDE = 2654435761
PROBES = 100_000
SCANS = 200
ENTRIES = 500


@dataclass(frozen=True)
class Map:
    """A program that measures one map."""

    name: str
    title: str
    command: tuple[str, ...]


def maps() -> tuple[list[Map], dict[str, str]]:
    """Those that can run here, and why the others cannot."""
    own = (sys.executable, "-m", "bench.peers.maps")
    found = [Map(f"order{order}", f"BTreeIndex, order {order}", (*own, str(order)))
             for order in (32, 64)]
    absent = {}
    for name, title in (("absl_btree", "absl::btree_map"),
                        ("google_btree", "google/btree, degree 32, pointer items")):
        try:
            found.append(Map(name, title, (str(build(name)),)))
        except Absent as error:
            absent[title] = str(error)
    return found, absent


def loaded(order: int, keys: Sequence[bytes]) -> tuple[BTreeIndex, float]:
    """An index with these keys inserted in this order, and nanoseconds an insertion."""
    index = BTreeIndex(order)
    insert = index.insert
    gc.collect()
    gc.freeze()
    began = time.perf_counter_ns()
    for revision, key in enumerate(keys, 1):
        insert(key, revision)
    return index, (time.perf_counter_ns() - began) / len(keys)


def scans(index: BTreeIndex, ordered: Sequence[bytes]) -> tuple[float, int]:
    """Microseconds a scan, and the sum of the revisions that the scans saw."""
    count = len(ordered)
    spans = []
    for i in range(min(SCANS, count)):
        at = i * STRIDE % count
        end = ordered[at + ENTRIES] if at + ENTRIES < count else ordered[-1] + b"\0"
        spans.append((ordered[at], end))
    began = time.perf_counter_ns()
    for start, end in spans:
        index.range_query(start, end)
    took = (time.perf_counter_ns() - began) / len(spans) / 1e3
    return took, sum(int(index.range_query(*span).mod_revisions.sum()) for span in spans)


def measure(order: int, path: Path, count: int) -> dict[str, Any]:
    """All figures of one order."""
    keys = read_keys(path, 0, count)
    ordered = sorted(keys)
    answer: dict[str, Any] = {"version": f"kvcore {__version__}"}
    index, answer["insert_sorted"] = loaded(order, ordered)
    del index
    index, answer["insert_random"] = loaded(order, keys)
    probes = [keys[i * STRIDE % count] for i in range(min(PROBES, count))]
    get = index.get
    began = time.perf_counter_ns()
    for key in probes:
        get(key)
    answer["get"] = (time.perf_counter_ns() - began) / len(probes)
    answer["scan"], answer["sum"] = scans(index, ordered)
    answer["bytes"] = index.stats().bytes_per_key
    crc = 0
    for entry in index.range_query(b"\0"):
        crc = zlib.crc32(b"%b\n" % entry.key, crc)
    answer["checksum"] = crc
    return answer


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
                     + "\n")
