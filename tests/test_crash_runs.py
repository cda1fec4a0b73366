# SPDX-License-Identifier: Apache-2.0
"""Crash images of the whole store: every image a disk may hold opens with what was acknowledged.

    run        commands on a recording I/O table, a marker behind each acknowledgement
    crash      an image of the directory for a crash between any two calls
    reopen     its state is the model's after some prefix of the commands, all acknowledged included
    again      recovery is recorded too, crashed in, and reopened once more

In sync="interval" and "off" an acknowledgement promises only that no revision is given twice; what was
durable before (a sync(), a checkpoint, a close) must be there.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import pairs
import pytest

import kvcore
from kvcore.testing.faults import CrashImages, RecordingIo

OPTIONS: dict[str, Any] = {"segment_bytes": 65536, "max_request_bytes": pairs.MAX_REQUEST,
                           "maintenance": False, "order": 4, "replay_target": 0.0}
PER_SYNC = int(os.environ.get("KVCORE_CRASH_IMAGES", "3000"))
RAM = "/dev/shm" if os.path.isdir("/dev/shm") else None


@pytest.fixture
def arena() -> Iterator[Path]:
    """A directory of its own, kept as evidence when the test fails."""
    directory = Path(tempfile.mkdtemp(prefix="kvcore-crash-", dir=RAM))
    yield directory
    shutil.rmtree(directory)


class Recording:
    """A run of commands beside the model, and what the disk was told meanwhile.

    Marker n: command n was answered. durable[n]: how many commands are durable by then for certain.
    """

    def __init__(self, directory: Path, sync: str, seed: int) -> None:
        self.directory = directory
        self.sync = sync
        self.io = RecordingIo()
        self.rng = random.Random(seed)
        self.states = [models.ModelStore(max_request_bytes=pairs.MAX_REQUEST)]
        self.durable = [0]
        self.db = self.open()

    def open(self) -> kvcore.Store:
        return kvcore.open(self.directory, io=self.io, sync=self.sync, **OPTIONS)

    def command(self, run: Callable[[Any, Any], Any]) -> None:
        """One command on both; it may be any number of verbs that change nothing."""
        model = self.states[-1].clone()
        wanted = pairs.outcome(run, model, models)
        assert pairs.outcome(run, self.db, kvcore) == wanted
        self.states.append(model)
        self.durable.append(len(self.states) - 1 if self.sync == "always" else self.durable[-1])
        self.io.marker(len(self.states) - 1)

    def is_durable(self) -> None:
        """All commands so far were made durable by something else than their own sync."""
        self.durable.append(len(self.states) - 1)
        self.states.append(self.states[-1])
        self.io.marker(len(self.states) - 1)

    def some_command(self) -> None:
        rng, newest = self.rng, self.states[-1].revision
        key, data = b"k%d" % rng.randrange(12), b"%d" % newest * rng.choice([1, 5, 300, 2500])
        kind = rng.choices(["put", "delete", "txn", "compact", "many"], [8, 2, 4, 1, 1])[0]
        if kind == "put":
            self.command(lambda db, api: db.put(key, data, prev=True))
        elif kind == "delete":
            self.command(lambda db, api: db.delete(key, key[:1] + b"l", prev=True))
        elif kind == "txn":
            self.command(lambda db, api: db.txn(
                [api.Compare.version(key) == 0], [api.Put(key, data), api.Put(b"other", data)],
                [api.Delete(key), api.Put(b"t" + key), api.Get(b"other")]))
        elif kind == "compact":
            target = newest - rng.randrange(3)
            self.command(lambda db, api: db.compact(target))
        else:
            items = [(b"m%d" % i, data[:200]) for i in range(5)]
            for item in items:
                self.command(lambda db, api, item=item: db.put_many([item]))

    def some_maintenance(self) -> None:
        kind = self.rng.choice(["step", "step", "checkpoint", "sync", "reopen"])
        if kind == "step":
            self.db.step(budget=self.rng.choice([1, 4, 4096]))
        elif kind == "checkpoint":
            self.db.checkpoint()
            self.is_durable()
        elif kind == "sync":
            self.db.sync()
            self.is_durable()
        else:
            self.db.close()
            self.is_durable()
            self.db = self.open()

    def go(self, commands: int) -> None:
        while len(self.states) < commands:
            self.some_command()
            if self.rng.random() < 0.25:
                self.some_maintenance()
        if self.rng.random() < 0.5:
            self.db.close()
            self.is_durable()
        else:
            self.db.close()


class Image:
    """One image, opened and compared."""

    def __init__(self, run: Recording, directory: Path, markers: list[int]) -> None:
        self.run = run
        self.directory = directory
        answered = max([0, *markers])
        self.at_least = run.durable[answered]
        self.answered = answered

    def open(self, io: Any = None) -> kvcore.Store:
        return kvcore.open(self.directory, io=io, sync=self.run.sync, **OPTIONS)

    def verify(self, db: kvcore.Store) -> int:
        """The state is that after some prefix; returns its number of commands."""
        db._check()
        assert db.check() == []
        shown = (db.hash().hash, db.compact_revision)
        candidates = self.run.states[self.at_least:]
        matches = [n for n, model in enumerate(candidates, self.at_least)
                   if shown == (hash_of(model), model.compact_revision)
                   and db.revision >= model.revision]
        assert matches, f"no prefix of at least {self.at_least} commands: {shown}"
        model = self.run.states[matches[-1]]
        assert models.plain(db.range())[2:] == models.plain(model.range())[2:]
        if self.run.sync == "always":
            assert db.revision == model.revision or len(matches) > 1
        assert db.revision >= self.run.states[self.answered].revision  # none is given twice
        return matches[-1]


def hash_of(model: models.ModelStore) -> int:
    """The model's hash, computed once."""
    if not hasattr(model, "known_hash"):
        model.known_hash = model.hash().hash  # type: ignore[attr-defined]
    return model.known_hash  # type: ignore[attr-defined]


def goes_on(db: kvcore.Store) -> None:
    """A recovered store takes writes, under revisions never seen."""
    before = db.revision
    assert db.put(b"behind the crash", b"v").revision > before
    assert db.get(b"behind the crash").value == b"v"


def crash_again(image: Image, arena: Path, rng: random.Random, counts: Counter[str]) -> None:
    """Recovery is recorded; a crash inside it changes nothing."""
    initial = arena / "initial"
    shutil.copytree(image.directory, initial)
    io = RecordingIo()
    with image.open(io) as db:
        found = image.verify(db)
    recovery = CrashImages(io.ops(), image.directory, initial)
    points = rng.sample(range(len(io.ops()) + 1), min(4, len(io.ops()) + 1))
    for _, materialise in recovery.images(rng.randrange(1 << 30), points=sorted(points)):
        twice = Image(image.run, arena / "twice", [])
        twice.at_least, twice.answered = image.at_least, image.answered
        materialise(twice.directory)
        with twice.open() as db:
            assert twice.verify(db) == found
            goes_on(db)
        counts["crash images, crashed in recovery again"] += 1
    shutil.rmtree(initial)


@pytest.mark.parametrize("sync", ["always", "interval", "off"])
def test_crash_images(sync: str, arena: Path, counts: Counter[str]) -> None:
    """Random images at random points of recorded runs."""
    done, seed = 0, 0
    while done < PER_SYNC:
        seed += 1
        rng = random.Random(seed)
        run = Recording(arena / f"run{seed}", sync, seed)
        run.go(50)
        ops = run.io.ops()
        crashes = CrashImages(ops, run.directory)
        points = sorted(rng.sample(range(len(ops) + 1), min(80, len(ops))))
        for index, materialise in crashes.images(seed, per_point=2, points=points):
            image = Image(run, arena / "image", crashes.markers(index))
            materialise(image.directory)
            if rng.random() < 0.1:
                crash_again(image, arena, rng, counts)
                materialise(image.directory)
            with image.open() as db:
                image.verify(db)
                goes_on(db)
            done += 1
            counts["crash images"] += 1
        shutil.rmtree(run.directory)


@pytest.mark.parametrize("sync", ["always", "off"])
def test_systematic_images(sync: str, arena: Path, counts: Counter[str]) -> None:
    """At every point of a short run: nothing unsynced, all of it, all but one, one write torn."""
    run = Recording(arena / "run", sync, 1)
    for i in range(4):
        run.command(lambda db, api, i=i: db.put(b"k", b"%d" % i * 400))
    run.command(lambda db, api: db.compact(3))
    run.db.checkpoint()
    run.is_durable()
    run.command(lambda db, api: db.delete(b"k"))
    run.db.close()
    crashes = CrashImages(run.io.ops(), run.directory)
    for index, materialise in crashes.systematic(bound=6):
        image = Image(run, arena / "image", crashes.markers(index))
        materialise(image.directory)
        with image.open() as db:
            image.verify(db)
            goes_on(db)
        counts["crash images"] += 1


@pytest.mark.parametrize("how", ["removed", "damaged"])
def test_older_checkpoint(how: str, arena: Path) -> None:
    """Without the newest checkpoint the older one and the log behind it say the same."""
    for seed in range(5):
        run = Recording(arena / f"run{seed}", "always", seed)
        for commands in (20, 40, 60):
            while len(run.states) < commands:
                run.some_command()
            run.db.checkpoint()
        while len(run.states) < 70:
            run.some_command()
        run.db.close()
        checkpoints = sorted(run.directory.glob("checkpoint-*.ckp"))
        assert len(checkpoints) == 2
        if how == "removed":
            checkpoints[-1].unlink()
        else:
            data = bytearray(checkpoints[-1].read_bytes())
            data[len(data) // 2] ^= 1
            checkpoints[-1].write_bytes(data)
        with kvcore.open(run.directory, **OPTIONS) as db:
            wanted = run.states[-1]
            assert (db.revision, db.hash().hash) == (wanted.revision, hash_of(wanted))
            assert len(db.check()) == (1 if how == "damaged" else 0)
            goes_on(db)
