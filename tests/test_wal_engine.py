# SPDX-License-Identifier: Apache-2.0
"""The log as the engine uses it: kinds of batches, ceilings, checkpoints, maintenance."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from model_wal import CEILING, COMMANDS, MARK, SEAL, model_crc32c, read_segment

import kvcore
from kvcore import errors
from kvcore.testing._wal_probe import LogProbe, cell, put_keys
from kvcore.testing.faults import CrashImages, RecordingIo

SMALL = 64 * 1024


def probe(path: Path | None, **options: object) -> LogProbe:
    options.setdefault("segment_bytes", SMALL)
    log = LogProbe(path, **options)
    log.recover()
    return log


def filled(path: Path, batches: int, size: int = 20_000) -> tuple[LogProbe, list[int]]:
    log = probe(path)
    log.start()
    ends = []
    for i in range(batches):
        log.append(COMMANDS, bytes([i]) * size, count=1, first_index=i + 1, revision=i)
        log.sync()
        ends.append(log.end)
    return log, ends


def segment(directory: Path, seq: int) -> Path:
    return directory / f"wal-{seq:016d}.seg"


def test_worked_example_of_the_format(tmp_path: Path) -> None:
    log = LogProbe(tmp_path / "log")
    log.recover()
    log.start()
    put = bytes.fromhex("94010000") + cell(b"/a", b"1")
    position = log.append(COMMANDS, put, count=1, first_index=1, term=1, revision=1)
    log.sync()
    assert position == 0x4000080 and log.end == 0x40000C0
    raw = segment(tmp_path / "log", 1).read_bytes()[:192]
    body = bytes.fromhex("c500022f61 c60000000131")
    assert raw[128:148] == b"\x94\1\0\0\xce" + model_crc32c(body).to_bytes(4, "big") + body
    assert raw[64 + 56 : 64 + 60] == (20).to_bytes(4, "little")
    assert log.value(0x4000084, 2, 1) == b"1"
    for wrong in ((0x4000084, 1, 1), (0x4000084, 2, 2), (0x4000085, 2, 1)):
        with pytest.raises(errors.CorruptError):
            log.value(*wrong)
    log.shut()
    assert log.value(0x4000084, 2, 1) == b"1", "mappings live until the log is deallocated"


@pytest.mark.parametrize("mapped", [True, False])
def test_replay_hands_over_every_field(tmp_path: Path, mapped: bool) -> None:
    io = RecordingIo(map=mapped)
    log = probe(tmp_path / "log", io=io)
    log.start()
    log.append(CEILING, b"", first_index=1, term=3, revision=1_000_000)
    log.sync()
    log.append(COMMANDS, b"payload" * 100, count=7, first_index=1, term=3, revision=1, grow=True)
    log.append(MARK, b"m", first_index=8, term=3, revision=5)
    log.sync()
    assert log.is_mapped(SMALL + 64, 64) is mapped
    log.shut()
    again = probe(tmp_path / "log", io=io)
    ceiling, commands, mark = again.batches
    assert (ceiling.kind, ceiling.revision, ceiling.term) == (CEILING, 1_000_000, 3)
    assert (commands.count, commands.first_index, commands.revision) == (7, 1, 1)
    assert commands.payload == b"payload" * 100
    assert again.read(commands.payload_pos, 700) == commands.payload
    assert commands.durable_upto == commands.pos and mark.durable_upto == commands.pos
    report = again.log.recovery
    assert (report.clean, report.ceiling, report.commands) == (False, 1_000_000, 7)
    again.start(revision=1_000_000, next_index=8, term=3)
    again.shut()
    third = probe(tmp_path / "log", io=io)
    assert third.log.recovery.clean, "a seal alone behind an unclean open is a clean end"
    assert third.log.recovery.seal_revision == 1_000_000
    assert third.batches[-1].kind == SEAL and third.batches[-1].first_index == 8
    third.shut()


def test_replay_from_a_checkpoint(tmp_path: Path) -> None:
    log, ends = filled(tmp_path / "log", 10)
    names = log.segments()
    log.shut()
    for number, position in enumerate(ends):
        again = LogProbe(tmp_path / "log")
        expected = {s: n for s, n in names.items() if s <= position // SMALL}
        again.recover(position, expected)
        assert [b.revision for b in again.batches] == list(range(number + 1, 10))
        assert again.read(ends[0] - 64, 1) == b"\0", "segments before are there for reading"
        again.shut()


def test_checkpoint_names_a_segment_that_is_not_there(tmp_path: Path) -> None:
    log, ends = filled(tmp_path / "log", 10)
    names = log.segments()
    log.shut()
    with pytest.raises(errors.CorruptError, match="not the segment"):
        LogProbe(tmp_path / "log").recover(ends[8], {**names, 2: (1, 2)})
    segment(tmp_path / "log", 2).unlink()
    with pytest.raises(errors.CorruptError, match="missing"):
        LogProbe(tmp_path / "log").recover(ends[8], names)
    without = {s: n for s, n in names.items() if s != 2}
    log = LogProbe(tmp_path / "log")
    log.recover(ends[8], without)
    assert log.log.recovery.segments == max(names)
    with pytest.raises(errors.CorruptError):
        log.read(2 * SMALL + 64, 1)
    log.start()
    log.append(COMMANDS, b"x", count=1)
    log.shut()


def test_checkpoint_names_an_empty_segment(tmp_path: Path) -> None:
    """One in which nothing lives may be there or not; one it does not name is only a file."""
    log, ends = filled(tmp_path / "log", 10)
    names = log.segments()
    log.shut()
    listed = {**names, 2: (*names[2], 0)}
    del listed[1]
    again = LogProbe(tmp_path / "log")
    again.recover(ends[8], listed)
    assert again.read(2 * SMALL + 64, 4) == b"KVB1", "there, and the older checkpoint may need it"
    with pytest.raises(errors.CorruptError):
        again.read(1 * SMALL + 64, 1)
    again.shut()
    segment(tmp_path / "log", 2).unlink()
    again = LogProbe(tmp_path / "log")
    again.recover(ends[8], listed)
    assert not segment(tmp_path / "log", 2).exists()
    assert segment(tmp_path / "log", 1).exists()
    again.start()
    while max(again.segments()) < max(names) + 2:       # the file of 1 is written again
        again.append(COMMANDS, b"x" * (SMALL // 4), count=1)
        again.sync()
    assert not segment(tmp_path / "log", 1).exists()
    again.shut()
    again = LogProbe(tmp_path / "log")
    again.recover(ends[8], listed)
    assert again.batches[-1].payload == b"x" * (SMALL // 4) and not again.log.recovery.clean
    again.shut()


def test_log_that_ends_before_the_checkpoint_is_refused(tmp_path: Path) -> None:
    log, ends = filled(tmp_path / "log", 2)
    log.shut()
    with pytest.raises(errors.CorruptError):
        LogProbe(tmp_path / "log").recover(ends[1] + 3 * SMALL, None)


def test_replayer_refuses_a_batch(tmp_path: Path) -> None:
    log, ends = filled(tmp_path / "log", 3)
    log.shut()
    again = LogProbe(tmp_path / "log")
    again.refuse_at = ends[0]
    with pytest.raises(errors.CorruptError, match="contradicts") as caught:
        again.recover()
    assert caught.value.offset == ends[0] - SMALL


def test_only_a_started_log_takes_batches(tmp_path: Path) -> None:
    log = LogProbe(tmp_path / "log", segment_bytes=SMALL)
    with pytest.raises(RuntimeError):
        log.start()
    log.recover()
    with pytest.raises(RuntimeError):
        log.recover()
    with pytest.raises(errors.ClosedError):
        log.append(COMMANDS, b"x")
    log.start()
    with pytest.raises(RuntimeError):
        log.start()
    log.seal(0, 1)
    log.shut()
    log.shut()
    with pytest.raises(errors.ClosedError):
        log.append(COMMANDS, b"x")
    assert log.prepare_step(1 << 20) == (False, -10)


# ---- maintenance ---------------------------------------------------------------------------------


def test_blocks_are_written_ahead_and_the_next_segment_made_ready(tmp_path: Path) -> None:
    size = 8 * 1024 * 1024
    log = probe(tmp_path / "log", segment_bytes=size)
    log.start()
    assert log.written_upto == 64, "an open writes no blocks ahead"
    while log.prepare_step(1 << 20)[0]:
        pass
    assert 3 << 20 <= log.written_upto <= 4 << 20
    while log.end - size < size // 2:
        log.append(COMMANDS, b"x" * 500_000, count=1)
    assert not log.spare_ready
    while log.prepare_step(1 << 20)[0]:
        pass
    assert log.spare_ready and segment(tmp_path / "log", 2).stat().st_size == size
    while log.end < 2 * size:
        log.append(COMMANDS, b"x" * 500_000, count=1)
    assert not log.spare_ready and log.written_upto == size, "the whole segment is written"
    log.shut()
    log = probe(tmp_path / "log")
    assert all(b.payload == b"x" * 500_000 for b in log.batches)
    log.shut()


@pytest.mark.parametrize("kind", ["open", "allocate", "write", "sync", "rename", "sync_dir"])
def test_failed_maintenance_leaves_the_log_usable(tmp_path: Path, kind: str) -> None:
    io = RecordingIo()
    log = probe(tmp_path / "log", io=io)
    log.start()
    log.append(COMMANDS, b"x" * 40_000, count=1)
    io.fail(kind, 1, errno.ENOSPC)
    statuses = {log.prepare_step(SMALL)[1] for _ in range(20)}
    assert statuses == {0, -7}           # told as what it is: no space
    for _ in range(5):
        log.append(COMMANDS, b"y" * 40_000, count=1)
    log.sync()
    log.shut()
    log = probe(tmp_path / "log")
    assert len(log.batches) == 6
    log.shut()


def test_half_made_spare_is_taken_as_it_is(tmp_path: Path) -> None:
    log = probe(tmp_path / "log", segment_bytes=1 << 20)
    log.start()
    log.append(COMMANDS, b"x" * 600_000, count=1)
    while log.written_upto < 1 << 20:
        log.prepare_step(1 << 18)
    log.prepare_step(1 << 18)
    log.prepare_step(1 << 18)
    assert not log.spare_ready
    log.append(COMMANDS, b"y" * 600_000, count=1)
    log.sync()
    log.shut()
    log = probe(tmp_path / "log")
    assert [b.payload[:1] for b in log.batches] == [b"x", b"y"]
    log.shut()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_that_drops_the_log_leaves_the_parents_spare(tmp_path: Path) -> None:
    holder = [probe(tmp_path / "log", segment_bytes=1 << 20)]
    holder[0].start()
    holder[0].append(COMMANDS, b"x" * 600_000, count=1)
    while holder[0].written_upto < 1 << 20:
        holder[0].prepare_step(1 << 18)
    holder[0].prepare_step(1 << 18)
    child = os.fork()
    if child == 0:
        holder.clear()
        os._exit(0)
    os.waitpid(child, 0)
    holder[0].append(COMMANDS, b"y" * 600_000, count=1)
    holder[0].sync()
    holder[0].shut()
    assert len(probe(tmp_path / "log").batches) == 2


def test_appends_beside_maintenance_and_readers(tmp_path: Path) -> None:
    log = probe(tmp_path / "log")
    log.start()
    done = threading.Event()
    written: list[tuple[int, bytes]] = []
    failures: list[object] = []

    def maintain() -> None:
        while not done.is_set():
            status = log.prepare_step(SMALL)[1]
            if status:
                failures.append(status)

    def reader() -> None:
        while not done.is_set():
            for position, value in written[-50:]:
                if log.read(position, len(value)) != value:
                    failures.append(position)

    threads = [threading.Thread(target=maintain), threading.Thread(target=reader)]
    for thread in threads:
        thread.start()
    for i in range(3000):
        value = (b"%d|" % i) * 100
        position = log.append(COMMANDS, value, count=1, revision=i)
        written.append((position, value))
        if i % 100 == 0:
            log.sync()
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    log.sync()
    log.shut()
    again = probe(tmp_path / "log")
    assert [(b.payload_pos, b.payload) for b in again.batches] == written
    again.shut()


def test_crashes_with_maintenance_in_every_gap(tmp_path: Path) -> None:
    io = RecordingIo(sync=False)
    root = tmp_path / "live"
    root.mkdir()
    log = probe(root, io=io)
    log.start()
    payloads = []
    for i in range(60):
        payloads.append(bytes([i + 1]) * 4000)
        log.append(COMMANDS, payloads[-1], count=1, revision=i)
        log.prepare_step(16_384)
        log.sync()
        io.marker(i + 1)
        log.prepare_step(16_384)
    log.shut()
    images = CrashImages(io.ops(), root)
    for index, materialise in images.images(seed=9, per_point=3):
        materialise(tmp_path / "image")
        again = probe(tmp_path / "image", io=RecordingIo(sync=False))
        found = [b.payload for b in again.batches]
        assert found == payloads[: len(found)]
        assert len(found) >= max(images.markers(index), default=0)
        again.start()
        again.shut()


def test_memory_segments(tmp_path: Path) -> None:
    log = probe(None)
    log.start()
    positions = [log.append(COMMANDS, cell(b"k", b"%d" % i * 100), count=1) for i in range(2000)]
    for i, position in enumerate(positions):
        assert log.value(position, 1, len(b"%d" % i) * 100) == b"%d" % i * 100
    log.seal(1, 1)
    log.shut()
    assert log.value(positions[0], 1, 100) == b"0" * 100


def test_independent_reader_sees_all_kinds(tmp_path: Path) -> None:
    log = probe(tmp_path / "log")
    log.start()
    for kind in (COMMANDS, CEILING, MARK):
        log.append(kind, b"p" * kind, count=kind == COMMANDS, first_index=9, term=2, revision=kind)
    log.seal(7, 10, 2)
    log.shut()
    _, batches = read_segment(segment(tmp_path / "log", 1))
    assert [(b.kind, b.payload, b.term) for b in batches] == [
        (COMMANDS, b"p", 2), (CEILING, b"ppp", 2), (MARK, b"ppppp", 2), (SEAL, b"", 2)]
    assert batches[-1].revision == 7 and batches[-1].first_index == 10


def test_keys_of_puts_among_commands(tmp_path: Path) -> None:
    """What the committer looks up while the disk writes: puts, also in transactions, no others."""
    nested = kvcore.Txn([kvcore.Compare.version(b"n") > 0], [kvcore.Put(b"4", bytes(70_000))],
                        [kvcore.Delete(b"y"), kvcore.Put(b"5", b"\x96\1" * 40)])
    ops = [kvcore.Put(b"%d" % i) for i in range(100, 120)]
    with kvcore.open(tmp_path / "db", maintenance=False) as db:
        db.put_many([(b"1", b"a"), (b"2", b"\x94\3")])
        db.delete(b"x", prev=True)
        db.txn([kvcore.Compare.value(b"3") == b"\x96\1", kvcore.Compare.lease(b"3") < 4],
               [kvcore.Get(b"g"), kvcore.Put(b"3", lease=0), nested], [kvcore.Range(b"r", b"s")])
        db.txn([], ops)
        db.txn([], [], [])
        db.compact(db.revision)
        db.lease(60)
        db.put(b"6")
    probe = LogProbe(tmp_path / "db")
    probe.recover()
    found = [key for batch in probe.batches if batch.kind == COMMANDS
             for key in put_keys(batch.payload)]
    assert found == [b"1", b"2", b"3", b"4", b"5", *(op.key for op in ops), b"6"]
