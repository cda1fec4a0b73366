# SPDX-License-Identifier: Apache-2.0
"""Writers, readers, watchers and snapshots while segments are emptied and retired beneath them.

Every value names its key and its number, so that one read from the wrong place shows.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from together import run_all

import kvcore
from kvcore.testing.clocks import ManualClock

Opener = Callable[..., kvcore.Store]
KEYS = [b"/k/%02d" % i for i in range(60)]
WRITERS, PUTS = 3, 5000
PLAIN_WATCH = kvcore.Store.watch   # what retention forgets the recording does not know


def value(key: bytes, n: int) -> bytes:
    return b"%s|%06d|" % (key, n) * 20


def check(kv: Any) -> None:
    key, number, _ = kv.value.split(b"|", 2)
    assert key == kv.key and kv.value == value(kv.key, int(number))


@pytest.mark.parametrize("history", [None, 300])
def test_readers_beside_retirement(open_store: Opener, nothing_hangs: None,
                                   history: int | None) -> None:
    clock = ManualClock()
    db = open_store(clock=clock, segment_bytes=65536, max_request_bytes=16384, history=history,
                    replay_target=0.002)
    open_watch = kvcore.Store.watch if history is None else PLAIN_WATCH
    done = threading.Event()
    running = [WRITERS]
    guard = threading.Lock()

    def write(seed: int) -> None:
        rng = random.Random(seed)
        for n in range(PUTS):
            key = rng.choice(KEYS)
            db.put(key, value(key, n))
            if n % 30 == 0:
                clock.advance(1)             # checkpoints for space come ten seconds apart
            if history is None and n % 100 == 0 and seed == 0:
                db.compact(db.revision, physical=n % 300 == 0)
        with guard:
            running[0] -= 1
            if running[0] == 0:
                done.set()

    def read() -> None:
        held: deque[Any] = deque(maxlen=30)
        while not done.is_set():
            held.append(db.range(prefix=b"/k/"))
            for kv in held[0]:
                check(kv)
            held.append(db.submit(kvcore.Range(prefix=b"/k/", limit=5)).result())
            for key in KEYS[::7]:
                kv = db.get(key)
                if kv is not None:
                    check(kv)

    def watch() -> None:
        held: deque[Any] = deque(maxlen=3000)
        while not done.is_set():
            try:
                with open_watch(db, prefix=b"/k/", start_revision=db.revision,
                                prev_kv=True) as watch:
                    while not done.is_set():
                        for event in watch.get_batch(limit=50, timeout=0.01):
                            held.append(event)
                        while len(held) > 2000:
                            event = held.popleft()
                            check(event.kv)
                            if event.prev_kv is not None:
                                check(event.prev_kv)
            except kvcore.CompactedError:
                pass
        for event in held:
            check(event.kv)

    def look() -> None:
        while not done.is_set():
            with db.snapshot() as snap:
                hashes = [kv.mod_revision for kv in snap.range(prefix=b"/k/")]
                for kv in snap.range(prefix=b"/k/"):
                    check(kv)
                assert hashes == [kv.mod_revision for kv in snap.range(prefix=b"/k/")]

    run_all(*[lambda n=n: write(n) for n in range(WRITERS)], read, watch, look)
    status = db.status()
    assert status.log_bytes > 20 * 65536
    assert status.retired_segments > 0
    assert db.check() == []
    db._check()
