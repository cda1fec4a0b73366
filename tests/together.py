# SPDX-License-Identifier: Apache-2.0
"""Jobs that run at the same time, and what tests of watches say again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def run_all(*jobs: Callable[[], Any]) -> list[Any]:
    """Runs the jobs at the same time; their results, or the first one's exception."""
    barrier = threading.Barrier(len(jobs))

    def started(job: Callable[[], Any]) -> Any:
        barrier.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(started, job) for job in jobs]]


def told(response: Any) -> tuple[int, list[tuple[str, bytes, bytes]]]:
    """A response in short: revision and (type, key, value) of its events."""
    return response.revision, [(e.type, e.kv.key, e.kv.value) for e in response.events]


def drain(watch: Any) -> list[Any]:
    """Every response that is there, without waiting."""
    return list(iter(lambda: watch.get(0), None))


def drained(watch: Any) -> list[tuple[int, list[tuple[str, bytes, bytes]]]]:
    """The same in short."""
    return [told(response) for response in drain(watch)]


def finish(db: Any) -> None:
    """Does all background work that is to be done by now."""
    while db.step():
        pass
