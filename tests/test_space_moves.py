# SPDX-License-Identifier: Apache-2.0
"""Moves and retirement beside what goes on: opens, checkpoints, watches of history, whole files.

    mostly_dead: four segments of which a fifth stays, and one more behind them, all of it
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from test_space import CHURN, KEPT, SMALL, Timed, segments
from together import drain

import kvcore

Opener = Callable[..., kvcore.Store]


@pytest.fixture
def timed(open_store: Opener) -> Timed:
    return Timed(open_store)


def mostly_dead(timed: Timed) -> int:
    """Revision of the first of the twelve KEPT[36:48], which stay in the last of the four; what was
    before it is garbage but for the other KEPT[:36]."""
    for part in range(4):
        timed.put([(CHURN[i % 20], b"j" * 1000) for i in range(45)])
        timed.db.delete(prefix=b"/churn/")
        timed.put([(KEPT[part * 12 + i], b"%d" % part * 1000) for i in range(12)])
    for key in CHURN:
        del timed.wanted[key]
    first = timed.db.revision - 11
    timed.put([(b"/more/%d" % i, b"m" * 1000) for i in range(80)])
    return first


def positions(db: kvcore.Store) -> set[tuple[bytes, int]]:
    """Where the values of KEPT[36:48] lie."""
    return {(key, version[-1]) for key, *version in db._versions() if key in KEPT[36:48]}


# --- opens ---------------------------------------------------------------------------------------


def test_a_checkpoint_behind_moves_has_them(opened: Opener, ram_dir: Path) -> None:
    """An open from it replays the seal alone."""
    timed = Timed(opened, path=ram_dir / "db")
    timed.put([(key, b"k" * 150) for key in KEPT])
    for n in range(60):
        timed.put([(key, b"%03d" % n * 300) for key in CHURN])
        timed.put([(KEPT[n], b"%03d" % n * 50)])
        timed.db.compact(timed.db.revision)
        moved = timed.db.status().moved_bytes
        timed.work()
        if timed.db.status().moved_bytes > moved > 0:
            break
    assert timed.db.status().moved_bytes > moved > 0
    timed.db.checkpoint()
    timed.db.close()
    timed.db = opened(ram_dir / "db", **SMALL, clock=timed.clock)
    assert timed.db.recovery.batches == 1
    timed.same()


def test_an_open_moves_what_was_moved(opened: Opener, ram_dir: Path) -> None:
    """Also where no checkpoint came behind it: the index names the places it named."""
    timed = Timed(opened, path=ram_dir / "db")
    timed.db.compact(mostly_dead(timed))
    for _ in range(1000):
        timed.clock.advance(11)
        timed.db.step()
        if timed.db.status().moved_bytes:
            break
    assert timed.db.status().moved_bytes > 0
    before = timed.db._versions()
    timed.db.close()
    timed.db = opened(ram_dir / "db", **SMALL, clock=timed.clock)
    assert timed.db._versions() == before
    timed.same()


def test_files_of_retired_segments_do_not_pile_up(opened: Opener, ram_dir: Path) -> None:
    """What was kept to be written again when a store was closed is not left behind."""
    timed = Timed(opened, path=ram_dir / "db")
    for _ in range(6):
        timed.churn(12)
        timed.db.close()
        timed.db = opened(ram_dir / "db", **SMALL, clock=timed.clock)
        timed.work()
        kept = len(segments(timed.db)) - timed.db.status().segments
        assert kept <= 3                     # the next one, and two to be written again
    timed.same()


# --- retirement ----------------------------------------------------------------------------------


def test_what_comes_into_a_segment_counted_empty(opened: Opener, ram_dir: Path) -> None:
    """The segment being written may hold nothing when it is counted, and much when that ends."""
    timed = Timed(opened, path=ram_dir / "db", replay_target=1e-9)
    db = timed.db
    db.put(b"/gone", b"g" * 1000)
    db.delete(b"/gone")
    db.compact(db.revision, physical=True)
    db.checkpoint()
    number = db.checkpoint()
    db.delete(b"/none")                      # a command, so that the next one is due
    db.step()
    timed.put([(key, b"k" * 1000) for key in KEPT])
    assert db.status().checkpoint_number == number and db.status().segments > 1
    timed.work()
    assert db.status().checkpoint_number > number
    timed.same()


def test_a_watch_reads_history_that_was_moved(timed: Timed) -> None:
    """What a pass found, and was not taken yet, is found again where it lies now."""
    db = timed.db
    first = mostly_dead(timed)
    watch = db.watch(start_revision=first)
    found = [(e.kv.key, e.kv.value) for e in watch.get_batch(limit=1)]
    before = positions(db)
    db.compact(first)
    for n in range(4):
        timed.put([(b"/last", b"%d" % n)])
        timed.work()
    assert not before & positions(db) and db.status().retired_segments > 0
    assert db.status().pinned_bytes == 0     # what was read does not keep where it lay
    found += [(e.kv.key, e.kv.value) for response in drain(watch) for e in response.events]
    assert found[:12] == [(key, b"3" * 1000) for key in KEPT[36:48]]
    assert len(found) == 12 + 80 + 4
    timed.same()
