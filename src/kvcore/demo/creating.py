# SPDX-License-Identifier: Apache-2.0
"""Creates every object: encode, key, put if absent.

A part of the objects is created by one caller that waits for each, which is what a single client
feels; the rest with many requests in flight, which is what a server does to the store.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from typing import Any

import kvcore
from kvcore.demo.measure import Claim, Report, Samples, Step, Ui
from kvcore.demo.system import anonymous_memory
from kvcore.demo.workload import Workload

LONE = 2000                  # objects created one at a time, at most
WINDOW = 1024                # requests in flight
CHUNK = 4096                 # completions per sample of the rate
FLOOR_WRITES = 500
FLOOR_BYTES = 1024


def create_op(key: bytes, value: bytes) -> kvcore.Txn:
    """The transaction of an API server's create: put if the key is absent."""
    return kvcore.Txn([kvcore.Compare.mod_revision(key) == 0], [kvcore.Put(key, value)], [])


def create(db: kvcore.Store, workload: Workload, count: int, report: Report, ui: Ui) -> None:
    """Creates objects 0 to count - 1."""
    lone = min(LONE, count // 10)
    refused = 0
    with ui.phase("create, one at a time", lone) as step:
        refused += _one_at_a_time(db, workload, lone, report, step)
    with ui.phase("create, many in flight", count - lone) as step:
        refused += _in_flight(db, workload, lone, count, report, step)
    report.equal("objects that were there before they were created", refused, 0)
    status = db.status()
    report.equal("live keys after the load", status.keys, count)
    report.equal("revision after the load", db.revision, count + 1)
    report.value(f"depth of the store's index (order {status.order})", "levels", status.depth)
    memory = anonymous_memory()
    if memory is not None:
        report.value("memory of the process without the mapped log", "MB", memory)
    report.value("bytes on disk per object", "B", status.log_bytes / count)


def disk(path: str, report: Report, ui: Ui) -> None:
    """The floor below every durable write: append and fdatasync into blocks written before."""
    latencies = Samples()
    record = os.urandom(FLOOR_BYTES)
    handle, name = tempfile.mkstemp(dir=path)
    try:
        os.write(handle, bytes(FLOOR_WRITES * FLOOR_BYTES))
        os.fsync(handle)
        with ui.phase("the disk's floor", FLOOR_WRITES) as step:
            for number in range(FLOOR_WRITES):
                with latencies.timed():
                    os.pwrite(handle, record, number * FLOOR_BYTES)
                    os.fdatasync(handle)
                step.advance(1)
    finally:
        os.close(handle)
        os.unlink(name)
    report.time("the disk: append 1 KiB and fdatasync", "ms", latencies)


def _one_at_a_time(db: kvcore.Store, workload: Workload, count: int, report: Report,
                   step: Step) -> int:
    latencies, encoding = Samples(), Samples()
    refused = 0
    for index in range(count):
        with encoding.timed():
            key, value = workload.item(index)
        start = time.perf_counter_ns()
        result = db.txn([kvcore.Compare.mod_revision(key) == 0], [kvcore.Put(key, value)])
        latencies.add(time.perf_counter_ns() - start)
        refused += not result.succeeded
        step.advance(1)
    report.time("encode one object", "us", encoding)
    report.time("create, one caller, durable", "ms", latencies,
                Claim("p99 140 ms", 140, of="p99"), plot="create, one caller")
    return refused


def _in_flight(db: kvcore.Store, workload: Workload, first: int, last: int, report: Report,
               step: Step) -> int:
    rates = Samples()
    flight: deque[Any] = deque()
    refused = 0
    done, mark = 0, time.perf_counter_ns()
    for index in range(first, last):
        flight.append(db.submit(create_op(*workload.item(index))))
        if len(flight) < WINDOW:
            continue
        refused += not flight.popleft().result().succeeded
        done += 1
        if done % CHUNK == 0:
            now = time.perf_counter_ns()
            rates.add(CHUNK * 1e9 / (now - mark))
            mark = now
            step.advance(CHUNK)
    while flight:
        refused += not flight.popleft().result().succeeded
        done += 1
    rates.add((done % CHUNK or CHUNK) * 1e9 / (time.perf_counter_ns() - mark))
    step.advance(done % CHUNK)
    report.rate("create, many in flight, durable", "/s", rates, Claim("12,000/s", 12_000, "more"))
    return refused
