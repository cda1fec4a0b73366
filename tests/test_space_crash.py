# SPDX-License-Identifier: Apache-2.0
"""Power loss and SIGKILL while segments are emptied, retired, and written again.

    churn: put_many over few keys, retention by number, small checkpoints ──► moves, retirement,
    recycling ──► crash at any call ──► the image must be the model's, as in test_crash_images
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from soak import Soaking
from test_crash_images import (
    ACKNOWLEDGED,
    BEGUN,
    DURABLE,
    OPTIONS,
    Recording,
    points,
    recovered,
)

import kvcore
from kvcore.testing.clocks import ManualClock
from kvcore.testing.faults import CrashImages, RecordingIo

HISTORY = 120
CHURN = [b"/churn/%02d" % i for i in range(40)]
STATIC = [b"/static/%03d" % i for i in range(400)]


class Moving(Recording):
    """A run whose background work has much to do."""

    def __init__(self, root: Path, sync: str, seed: int) -> None:
        self.space: Counter[str] = Counter()
        self.clock = ManualClock()
        super().__init__(root, sync, seed)
        self._reopen()

    def _count(self) -> None:
        status = self.db.status()
        for name in ("moved_bytes", "retired_segments"):
            self.space[name] += getattr(status, name)

    def _reopen(self) -> None:
        self._count()
        self.db.close()
        self._mark(DURABLE)
        self.db = kvcore.open(self.root, sync=self.sync, io=self.io, history=HISTORY,
                              clock=self.clock, **{**OPTIONS, "replay_target": 0.001})

    def command(self) -> None:
        if self.rng.random() < 0.2:
            return super().command()
        items = [(self.rng.choice(CHURN), self.rng.randbytes(900)) for _ in range(20)]
        items += [(self.rng.choice(STATIC), self.rng.randbytes(300)) for _ in range(3)]
        for item in items:
            self.model.put(*item)
        self.states.append(self._state())        # one request is one batch: whole, or absent
        self._mark(BEGUN)
        self.db.put_many(items)
        self._mark(ACKNOWLEDGED)
        if self.sync == "always":
            self._mark(DURABLE)
        return None

    def other(self) -> None:
        what = self.rng.choice(["steps"] * 8 + ["checkpoint", "sync", "reopen"])
        if what == "reopen":
            self._reopen()
        elif what == "steps":
            self._steps()
        elif what == "sync":
            self.db.sync()
            self._mark(DURABLE)
        else:
            self.db.checkpoint()
            self._mark(DURABLE)

    def _steps(self) -> None:
        """Retention compacts by itself: one more state, which the model takes over."""
        self.clock.advance(6)                    # checkpoints for space come ten seconds apart
        for _ in range(self.rng.randint(1, 40)):
            self._mark(BEGUN, len(self.states))
            more = self.db.step(budget=64)
            if self.db.compact_revision != max(self.model.compact_revision, 0):
                self.model.compact(self.db.compact_revision)
                self.states.append(self._state())
                self._mark(ACKNOWLEDGED)
                if self.sync == "always":
                    self._mark(DURABLE)
            if not more:
                return


@pytest.mark.soak(weight=6)
@pytest.mark.parametrize("sync", ["always", "interval", "off"])
def test_images_of_moving(ram_dir: Path, counts: Counter[str], sync: str,
                          soaking: Soaking) -> None:
    """Nothing acknowledged is in a segment that is gone, whenever the crash comes."""
    seen: Counter[str] = Counter()
    for seed in soaking(3):
        seen += _images_of(Moving(ram_dir / f"db{seed}", sync, seed), seed, ram_dir, counts)
    assert seen["moved_bytes"] > 0 and seen["retired_segments"] > 12
    assert seen["written again"] > 0


def _images_of(run: Moving, seed: int, ram_dir: Path, counts: Counter[str]) -> Counter[str]:
    images = run.run(120)
    run.space["written again"] = sum(
        op.kind == "rename" and ".seg" in op.path and not op.path.endswith(".tmp")
        for op in images.ops)
    for index, materialise in images.images(seed, points=points(run, images, 150)):
        materialise(ram_dir / "image")
        recovered(ram_dir / "image", run, images.ops, index)
        counts["crash images with moves and recycling"] += 1
    shutil.rmtree(run.root)
    return run.space


@pytest.mark.parametrize("busy", [False, True])
def test_a_checkpoint_names_only_what_is_synced(ram_dir: Path, counts: Counter[str],
                                                busy: bool) -> None:
    """Nothing syncs but checkpoints, moves are under way, and the power goes behind each one.

    busy: between any two pieces of background work there is a put, so that one is always due."""
    io, clock = RecordingIo(sync=False), ManualClock()
    options = {**OPTIONS, "sync": "off", "replay_target": 1e-9}
    with kvcore.open(ram_dir / "db", io=io, clock=clock, **options) as db:
        db.put_many([(key, b"s" * 300) for key in STATIC])
        for n in range(12):
            db.put_many([(key, b"%d/" % n * 300) for key in CHURN])
            db.put_many([(key, b"%d/" % n * 100) for key in STATIC[n * 9 : n * 9 + 9]])
            db.compact(db.revision)
            for m in range(30):
                clock.advance(1 if busy else 11)
                db.step()
                if busy:
                    db.put(b"/busy", b"%d" % m)
        assert db.status().moved_bytes > 0
    ops = io.ops()
    named = [i for i, op in enumerate(ops) if op.kind == "rename" and op.to.endswith(".ckp")]
    points = [next(j for j in range(i, len(ops)) if ops[j].kind == "sync_dir") + 1 for i in named]
    images = CrashImages(ops, ram_dir / "db")
    for index, materialise in images.systematic(bound=0, points=points):
        materialise(ram_dir / "image")
        with kvcore.open(ram_dir / "image", **options) as db:
            assert db.check() == [], f"crash at call {index}"
        counts["crash images with moves and recycling"] += 1
