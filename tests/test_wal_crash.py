# SPDX-License-Identifier: Apache-2.0
"""Crashes of the stand-alone log: every image a disk may hold opens, with all that was
acknowledged.

A run is recorded call by call; images are built for crashes between any two calls; then the
recovery of such an image is itself recorded and crashed.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kvcore._record_log import WriteAheadLog
from kvcore.testing.faults import CrashImages, Op, RecordingIo

SEGMENT_BYTES = 64 * 1024


class Run:
    """What was appended, and which marker acknowledged how much."""

    def __init__(self) -> None:
        self.records: list[tuple[int, bytes]] = []
        self.acknowledged = [0]  # by marker number: how many records were surely durable

    def mark(self, io: RecordingIo, durable: int) -> None:
        self.acknowledged.append(durable)
        io.marker(len(self.acknowledged) - 1)

    def surely(self, markers: list[int]) -> int:
        return self.acknowledged[markers[-1]] if markers else 0


def record_run(directory: Path, sync: str, seed: int, steps: int) -> tuple[Run, list[Op]]:
    """A run of random appends over several segments and reopens."""
    rng = random.Random(seed)
    io = RecordingIo(sync=False)
    run = Run()
    directory.mkdir()
    wal = WriteAheadLog(directory, sync=sync, io=io, segment_bytes=SEGMENT_BYTES)
    durable = 0
    for _ in range(steps):
        what = rng.random()
        if what < 0.80:
            payloads = [rng.randbytes(rng.choice((0, 1, 51, 500, 3000)))
                        for _ in range(rng.choice((1, 1, 1, 4)))]
            run.records += zip(wal.append_many(payloads), payloads, strict=True)
            if sync == "always":
                durable = len(run.records)
        elif what < 0.85:
            payload = rng.randbytes(rng.choice((20_000, 40_000)))
            run.records.append((wal.append(payload), payload))
            if sync == "always":
                durable = len(run.records)
        elif what < 0.93:
            wal.sync()
            durable = len(run.records)
        else:
            if rng.random() < 0.5:
                wal.close()
                durable = len(run.records)
                run.mark(io, durable)
            else:
                wal._abandon()  # a killed process: what it wrote is in the page cache
            wal = WriteAheadLog(directory, sync=sync, io=io, segment_bytes=SEGMENT_BYTES)
            durable = len(run.records)  # an open makes durable what it shows
        run.mark(io, durable)
    wal._abandon()
    return run, io.ops()


def check_image(image: Path, run: Run, surely: int, sync: str = "always") -> None:
    """The image opens, holds a beginning of the records with all acknowledged, and works on."""
    io = RecordingIo(sync=False)
    wal = WriteAheadLog(image, sync=sync, segment_bytes=SEGMENT_BYTES, io=io)
    try:
        found = list(wal.replay())
        assert found == run.records[: len(found)], "others whole or absent, positions right"
        assert len(found) >= surely, f"{surely} acknowledged, {len(found)} found"
        wal._check()
        position = wal.append(b"after the crash")
        assert wal.read(position) == b"after the crash"
        wal._check()
    finally:
        wal._abandon()
    again = WriteAheadLog(image, segment_bytes=SEGMENT_BYTES, io=io)
    assert list(again.replay()) == [*found, (position, b"after the crash")]
    again._check()
    again._abandon()


@pytest.mark.parametrize("sync", ["always", "interval", "off"])
def test_acknowledged_survive_every_crash(tmp_path: Path, sync: str) -> None:
    root = tmp_path / "live"
    run, ops = record_run(root, sync, seed=len(sync), steps=150)
    images = CrashImages(ops, root)
    count = 0
    for index, materialise in images.images(seed=1, per_point=4):
        materialise(tmp_path / "image")
        check_image(tmp_path / "image", run, run.surely(images.markers(index)))
        count += 1
    assert count > 600


def test_systematic_tears(tmp_path: Path) -> None:
    root = tmp_path / "live"
    run, ops = record_run(root, "off", seed=3, steps=25)
    images = CrashImages(ops, root)
    count = 0
    for index, materialise in images.systematic(bound=6):
        materialise(tmp_path / "image")
        check_image(tmp_path / "image", run, run.surely(images.markers(index)))
        count += 1
    assert count > 600


@pytest.mark.parametrize("sync", ["always", "off"])
def test_crash_during_recovery_is_harmless(tmp_path: Path, sync: str) -> None:
    root = tmp_path / "live"
    run, ops = record_run(root, sync, seed=5, steps=60)
    images = CrashImages(ops, root)
    rng = random.Random(11)
    points = sorted(rng.sample(range(len(ops)), 60))
    count = 0
    for index, materialise in images.images(seed=2, points=points):
        first, second, image = tmp_path / "first", tmp_path / "second", tmp_path / "image"
        materialise(first)
        materialise(second)
        surely = run.surely(images.markers(index))
        io = RecordingIo(sync=False)
        wal = WriteAheadLog(second, io=io, segment_bytes=SEGMENT_BYTES)
        found = len(list(wal.replay()))
        wal._abandon()
        # what the first recovery showed, the second one must show again: it was made durable
        recovered = len(io.ops())
        for again, build in CrashImages(io.ops(), second, first).images(seed=index, per_point=2):
            build(image)
            check_image(image, run, found if again == recovered else surely)
            count += 1
    assert count > 600
