# SPDX-License-Identifier: Apache-2.0
"""Power loss: directories as a disk may hold them, opened again and held against the model.

    a run of commands on a recording I/O table ──► calls, with markers:
        begun k | acknowledged k | durable k
    crash between two calls: synced bytes stay, any sector of the rest may be there or not
    open the image ──► its state must be the model's after j commands, acknowledged <= j <= begun

In sync="always" what is acknowledged is durable. In the other modes it is what the last sync
covered; but there too no revision that was shown may be given again.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import models
import pytest
from soak import Soaking

import kvcore
from kvcore.testing.faults import CrashImages, Op, RecordingIo

OPTIONS: dict[str, Any] = {"segment_bytes": 65536, "max_request_bytes": 16384,
                           "maintenance": False, "replay_target": 0.0}
KEYS = [b"/k/%d" % i for i in range(12)] + [b"a", b"a\0", b"/long/" + b"x" * 300]
MARK = 1_000_000
ACKNOWLEDGED, DURABLE, BEGUN = 0, 1, 2


class State(NamedTuple):
    """What the model shows after so many commands."""

    revision: int
    compact_revision: int
    hash: int


class Recording:
    """One run: the calls it made, and the model's state after each command."""

    def __init__(self, root: Path, sync: str, seed: int) -> None:
        self.root = root
        self.sync = sync
        self.io = RecordingIo(sync=False)
        self.rng = random.Random(seed)
        self.model = models.ModelStore()
        self.states = [self._state()]
        self.db = kvcore.open(root, sync=sync, io=self.io, **OPTIONS)
        self._mark(DURABLE)

    def _state(self) -> State:
        h = self.model.hash()
        return State(self.model.revision, self.model.compact_revision, h.hash)

    def _mark(self, kind: int, number: int | None = None) -> None:
        self.io.marker(kind * MARK + (len(self.states) - 1 if number is None else number))

    def command(self) -> None:
        """One request to the store, and the same to the model; one state per log entry."""
        before = len(self.states)
        rng, db, model = self.rng, self.db, self.model
        what = rng.choice(["put"] * 6 + ["put_many", "delete", "txn", "compact"])
        key, value = rng.choice(KEYS), rng.randbytes(rng.choice([0, 5, 100, 700, 3000]))
        if what == "put_many":
            items = [(rng.choice(KEYS), rng.randbytes(40)) for _ in range(rng.randint(2, 9))]
            for item in items:
                model.put(*item)
                self.states.append(self._state())
            self._mark(BEGUN)
            db.put_many(items)
        else:
            self._mark(BEGUN, before)
            if what == "put":
                model.put(key, value)
                db.put(key, value)
            elif what == "delete":
                model.delete(prefix=b"/k/1")
                db.delete(prefix=b"/k/1")
            elif what == "txn":
                gone = b"/k/2" if key != b"/k/2" else b"/k/3"
                for api, store in ((models, model), (kvcore, db)):
                    store.txn([api.Compare.version(key) > 0, api.Compare.value(key) != b"1"],
                              [api.Put(key, value), api.Put(b"t", b"1"), api.Delete(gone)],
                              [api.Put(b"e", value)])
            elif model.revision > model.compact_revision + 3:
                target = rng.randint(model.compact_revision + 1, model.revision)
                model.compact(target)
                db.compact(target)
            self.states.append(self._state())
        self._mark(ACKNOWLEDGED)
        if self.sync == "always":
            self._mark(DURABLE)

    def other(self) -> None:
        """Background work, an explicit sync, or a clean end and a new open."""
        what = self.rng.choice(["step"] * 4 + ["checkpoint", "checkpoint", "sync", "reopen"])
        if what == "step":
            self.db.step(budget=1)
        elif what == "checkpoint":
            self.db.checkpoint()
            self._mark(DURABLE)
        elif what == "sync":
            self.db.sync()
            self._mark(DURABLE)
        else:
            self.db.close()
            self._mark(DURABLE)
            self.db = kvcore.open(self.root, sync=self.sync, io=self.io, **OPTIONS)

    def run(self, commands: int) -> CrashImages:
        """Runs and closes; the images of every possible crash."""
        for _ in range(commands):
            self.command()
            if self.rng.random() < 0.3:
                self.other()
        self.db.close()
        self._mark(DURABLE)
        return CrashImages(self.io.ops(), self.root)


def marks(ops: list[Op], index: int) -> list[int]:
    """Highest number of each kind of marker before call `index`."""
    highest = [0, 0, 0]
    for op in ops[:index]:
        if op.kind == "marker":
            highest[op.offset // MARK] = max(highest[op.offset // MARK], op.offset % MARK)
    return highest


def recovered(directory: Path, run: Recording, ops: list[Op], index: int) -> State:
    """Opens an image and finds which prefix of the run it holds; asserts what must hold of it."""
    acknowledged, durable, begun = marks(ops, index)
    with kvcore.open(directory, sync=run.sync, **OPTIONS) as db:
        db._check()
        assert db.check() == []
        state = State(db.revision, db.compact_revision, db.hash().hash)
        wanted = run.states[durable : max(begun, acknowledged) + 1]
        if run.sync == "always":
            assert state in wanted, f"crash at call {index}: {state} not in {wanted}"
        else:
            assert state[1:] in [s[1:] for s in wanted], f"crash at call {index}"
            assert state.revision >= run.states[acknowledged].revision
        shown = max(state.revision, run.states[acknowledged].revision)
        assert db.put(b"after", b"1").revision > shown
        after = State(db.revision, db.compact_revision, db.hash().hash)
    with kvcore.open(directory, sync=run.sync, **OPTIONS) as db:
        assert State(db.revision, db.compact_revision, db.hash().hash) == after
        assert db.get(b"after").value == b"1"
    return state


@pytest.mark.soak(weight=3)
@pytest.mark.parametrize("sync", ["always", "interval", "off"])
def test_random_images(ram_dir: Path, counts: Counter[str], sync: str, soaking: Soaking) -> None:
    """Any part of what was not synced may be missing, at any call of the run."""
    for seed in soaking(4):
        run = Recording(ram_dir / f"db{seed}", sync, seed)
        images = run.run(60)
        for index, materialise in images.images(seed, points=points(run, images, 160)):
            materialise(ram_dir / "image")
            recovered(ram_dir / "image", run, images.ops, index)
            counts["crash images of a store"] += 1
        shutil.rmtree(run.root)


def points(run: Recording, images: CrashImages, most: int) -> list[int]:
    """Crash points: right behind the calls that change something, as many as asked for."""
    changing = [i + 1 for i, op in enumerate(images.ops) if op.kind not in ("marker", "read")]
    return sorted(run.rng.sample(changing, min(most, len(changing))))


@pytest.mark.parametrize("sync", ["always", "off"])
def test_systematic_images(ram_dir: Path, counts: Counter[str], sync: str) -> None:
    """Nothing of the unsynced, all of it, all but one write, each write torn at each sector."""
    run = Recording(ram_dir / "db", sync, 99)
    images = run.run(12)
    for index, materialise in images.systematic(bound=6, points=points(run, images, 60)):
        materialise(ram_dir / "image")
        recovered(ram_dir / "image", run, images.ops, index)
        counts["crash images of a store"] += 1


@pytest.mark.soak
@pytest.mark.parametrize("sync", ["always", "interval"])
def test_crash_during_recovery(ram_dir: Path, counts: Counter[str], sync: str,
                               soaking: Soaking) -> None:
    """A recovery that is cut short leaves an image that recovers to the same state."""
    for seed in soaking(1):
        _recover_twice(Recording(ram_dir / f"db{seed}", sync, 7 + seed), ram_dir, counts)


def _recover_twice(run: Recording, ram_dir: Path, counts: Counter[str]) -> None:
    images = run.run(40)
    first, second = ram_dir / "image", ram_dir / "second"
    for index, materialise in images.images(3, points=points(run, images, 25)):
        materialise(first)
        shutil.rmtree(ram_dir / "initial", ignore_errors=True)
        shutil.copytree(first, ram_dir / "initial")
        io = RecordingIo(sync=False)
        with kvcore.open(first, sync=run.sync, io=io, **OPTIONS) as db:
            wanted = db.hash().hash
        again = CrashImages(io.ops(), first, initial=ram_dir / "initial")
        some = sorted(run.rng.sample(range(len(again.ops) + 1), min(12, len(again.ops))))
        for _, materialise_again in again.images(index, points=some):
            materialise_again(second)
            with kvcore.open(second, sync=run.sync, **OPTIONS) as db:
                assert db.hash().hash == wanted
                assert db.revision >= run.states[marks(images.ops, index)[0]].revision
                db._check()
            counts["crash images of a recovery"] += 1
    shutil.rmtree(run.root)


def test_older_checkpoint_serves_when_the_newest_is_damaged(ram_dir: Path) -> None:
    """Two checkpoints are kept; damage anywhere in the newest is seen, and the older one is
    enough."""
    with kvcore.open(ram_dir / "db", **OPTIONS) as db:
        for round_ in range(3):
            db.put_many([(b"/k/%d" % i, b"%d" % round_) for i in range(50)])
            db.checkpoint()
        db.put(b"/tail", b"1")
        wanted = (db.revision, db.hash())
    newest = sorted((ram_dir / "db").glob("checkpoint-*.ckp"))[-1]
    assert len(list((ram_dir / "db").glob("checkpoint-*.ckp"))) == 2
    sound = newest.read_bytes()
    for offset in range(0, len(sound), 97):
        newest.write_bytes(sound[:offset] + bytes([sound[offset] ^ 0x40]) + sound[offset + 1 :])
        with kvcore.open(ram_dir / "db", **OPTIONS) as db:
            assert [path for path, _, _ in db.damaged_checkpoints] == [str(newest)]
            assert (db.revision, db.hash()) == wanted
            assert db.check()
    for length in range(0, len(sound), 211):
        newest.write_bytes(sound[:length])
        with kvcore.open(ram_dir / "db", **OPTIONS) as db:
            assert (db.revision, db.hash()) == wanted
