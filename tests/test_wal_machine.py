# SPDX-License-Identifier: Apache-2.0
"""The stand-alone log against a list: any sequence of appends, syncs, reads, closes, crashes."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import machines
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from soak import Soaking

from kvcore._record_log import WriteAheadLog
from kvcore.testing.faults import CrashImages, RecordingIo

PAYLOADS = st.one_of(
    st.binary(max_size=200),
    st.integers(0, 65_000).map(lambda n: bytes([n % 251]) * n),
)


class WalMachine(RuleBasedStateMachine):
    """The model is the list of (position, record) and how many of them are surely durable."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="kvcore-wal-"))
        self.generation = 0
        self.records: list[tuple[int, bytes]] = []
        self.durable = 0
        self.mode = "always"
        self.wal: WriteAheadLog | None = None
        self.start(self.root / "0", None)

    def start(self, directory: Path, initial: Path | None) -> None:
        self.directory = directory
        self.initial = initial
        self.io = RecordingIo(sync=False)
        self.wal = WriteAheadLog(directory, sync=self.mode, io=self.io, segment_bytes=65536)

    def acknowledged(self) -> None:
        if self.mode == "always":
            self.durable = len(self.records)

    @rule(payload=PAYLOADS)
    def append(self, payload: bytes) -> None:
        self.records.append((self.wal.append(payload), payload))
        self.acknowledged()

    @rule(payloads=st.lists(PAYLOADS, max_size=8))
    def append_many(self, payloads: list[bytes]) -> None:
        self.records += zip(self.wal.append_many(payloads), payloads, strict=True)
        self.acknowledged()

    @rule()
    def sync(self) -> None:
        self.wal.sync()
        self.durable = len(self.records)

    @rule(mode=st.sampled_from(["always", "interval", "off"]))
    def reopen_cleanly(self, mode: str) -> None:
        self.wal.close()
        self.durable = len(self.records)
        self.reopen(mode)
        assert self.wal.recovery.clean or not self.records

    @rule(mode=st.sampled_from(["always", "interval", "off"]))
    def kill_process(self, mode: str) -> None:
        self.wal._abandon()  # what was written stays in the page cache: nothing is lost
        self.reopen(mode)

    def reopen(self, mode: str) -> None:
        self.mode = mode
        # the recording goes on: what is durable is not yet what is in the files
        self.wal = WriteAheadLog(self.directory, sync=mode, io=self.io)

    @rule(seed=st.integers(0, 2**32), mode=st.sampled_from(["always", "off"]))
    def power_loss(self, seed: int, mode: str) -> None:
        self.wal._abandon()
        ops = self.io.ops()
        images = CrashImages(ops, self.directory, self.initial)
        ((_, materialise),) = images.images(seed, points=[len(ops)])
        self.generation += 1
        image = self.root / str(self.generation)
        initial = self.root / f"{self.generation}.initial"
        materialise(image)
        shutil.copytree(image, initial)
        self.mode = mode
        self.start(image, initial)
        found = list(self.wal.replay())
        assert found == self.records[: len(found)]
        assert len(found) >= self.durable
        self.records = found

    @precondition(lambda self: self.records)
    @rule(seed=st.integers(0, 2**32))
    def read(self, seed: int) -> None:
        rng = random.Random(seed)
        for position, record in rng.choices(self.records, k=10):
            assert self.wal.read(position) == record

    @invariant()
    def agrees(self) -> None:
        machines.STEPS["log"] += 1
        self.wal._check()
        assert list(self.wal.replay()) == self.records
        assert self.wal.stats().records == len(self.records)

    def teardown(self) -> None:
        self.wal._abandon()
        shutil.rmtree(self.root)


@pytest.mark.soak
def test_log(counts: Counter[str], soaking: Soaking) -> None:
    machines.run(WalMachine, "log", 60, 25, counts, soaking)
