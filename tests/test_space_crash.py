# SPDX-License-Identifier: Apache-2.0
"""Power loss and SIGKILL while segments are emptied, retired, and written again.

    churn: put_many over few keys, retention by number, small checkpoints ──► moves, retirement,
    recycling ──► crash at any call ──► the image must be the model's, as in test_crash_images

KVCORE_IMAGES=n asks for n images of each run.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import test_crash_images
from test_crash_images import ACKNOWLEDGED, BEGUN, DURABLE, OPTIONS, Recording, recovered

import kvcore
from kvcore.testing.clocks import ManualClock

IMAGES = int(os.environ.get("KVCORE_IMAGES", "150"))
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


@pytest.mark.parametrize("sync", ["always", "interval", "off"])
@pytest.mark.parametrize("seed", range(3))
def test_images_of_moving(tmp_path: Path, ram_dir: Path, counts: Counter[str], sync: str,
                          seed: int) -> None:
    """Nothing acknowledged is in a segment that is gone, whenever the crash comes."""
    run = Moving(ram_dir / "db", sync, seed)
    images = run.run(120)
    assert run.space["moved_bytes"] > 0 and run.space["retired_segments"] > 4
    renamed = [op for op in images.ops if op.kind == "rename" and ".seg" in str(op.path)
               and not str(op.path).endswith(".tmp")]
    assert renamed, "a retired file was written again"
    points = test_crash_images._points(run, images, IMAGES)
    for index, materialise in images.images(seed, points=points):
        materialise(ram_dir / "image")
        recovered(ram_dir / "image", run, images.ops, index)
        counts["crash images with moves and recycling"] += 1


def churn(db: kvcore.Store, rounds: int, **more: Any) -> dict[bytes, bytes]:
    """Overwrites few keys beside many that stay; what is there at the end."""
    wanted = {key: b"s" * 300 for key in STATIC}
    db.put_many(wanted.items())
    for n in range(rounds):
        items = [(key, b"%d/" % n * 200) for key in CHURN]
        db.put_many(items)
        wanted.update(items)
        while db.step():
            pass
    return wanted
