# SPDX-License-Identifier: Apache-2.0
"""The log, rule by rule: bytes on disk, ends, tears, damage, seals, failures, locks."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from model_wal import (
    COMMANDS,
    SEAL,
    model_crc32c,
    read_cells,
    read_header,
    read_records,
    read_segment,
)

from kvcore import errors
from kvcore._native import crc32c, crc32c_software
from kvcore._record_log import WriteAheadLog
from kvcore.testing.faults import RecordingIo

SMALL = 64 * 1024


def segment(directory: Path, seq: int) -> Path:
    return directory / f"wal-{seq:016d}.seg"


def opened(directory: Path, **options: object) -> WriteAheadLog:
    options.setdefault("segment_bytes", SMALL)
    return WriteAheadLog(directory, **options)


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x5A]))


def written(directory: Path, payloads: list[bytes], *, seal: bool = False) -> list[int]:
    wal = opened(directory)
    positions = [wal.append(payload) for payload in payloads]
    wal.close() if seal else wal._abandon()
    return positions


def contents(directory: Path) -> list[bytes]:
    wal = opened(directory)
    wal._check()
    found = [record for _, record in wal.replay()]
    wal._abandon()
    return found


# ---- bytes on disk -------------------------------------------------------------------------------


def test_model_crc_is_crc32c() -> None:
    assert model_crc32c(b"123456789") == 0xE3069283
    for n in (0, 1, 7, 64, 1000):
        data = random.Random(n).randbytes(n)
        assert model_crc32c(data, 77) == crc32c(data, 77)
        assert model_crc32c(data, 77) == crc32c_software(data, 77)


def test_crc_of_every_length() -> None:
    """Three streams side by side, and what is left over, are one stream."""
    rng = random.Random(0)
    data = rng.randbytes(6000)
    for n in [*range(2500), 3071, 3072, 3073, 4607, 4608, 5990]:
        at, seed = rng.randrange(10), rng.getrandbits(32)
        assert crc32c(data[at:at + n], seed) == crc32c_software(data[at:at + n], seed)


def test_first_batch_has_the_documented_bytes(tmp_path: Path) -> None:
    wal = WriteAheadLog(tmp_path / "log")
    position = wal.append(b"1")
    assert position == 0x4000080
    raw = segment(tmp_path / "log", 1).read_bytes()
    assert len(raw) == 0x4000000
    header = read_header(raw)
    assert (header.seq, header.segment_bytes) == (1, 0x4000000)
    assert raw[:8] == b"KVCSEG01" and raw[12:16] == b"\1\0\0\0" and raw[44:64] == bytes(20)
    head = raw[64:128]
    assert head[0:4] == b"KVB1"
    assert head[8:16] == header.nonce.to_bytes(8, "little")
    assert head[16:24] == (0x4000040).to_bytes(8, "little")
    assert head[24:32] == (0x4000040).to_bytes(8, "little"), "durable_upto"
    assert head[32:40] == (1).to_bytes(8, "little"), "first_index"
    assert head[40:56] == bytes(16), "term, revision"
    assert head[56:60] == (14).to_bytes(4, "little")
    assert head[60:64] == b"\1\0\0\1", "count 1, kind commands"
    cell = bytes.fromhex("c50000 c600000001 31".replace(" ", ""))
    assert raw[128:142] == b"\xce" + model_crc32c(cell).to_bytes(4, "big") + cell
    assert int.from_bytes(head[4:8], "little") == model_crc32c(raw[72:142], header.seed)
    assert not any(raw[142:]), "padding and what is not yet written"
    assert wal.append(b"") == 0x40000C0 + 64
    wal.close()
    assert (tmp_path / "log" / "FORMAT").read_bytes() == b"kvcore 1\n"


def test_independent_reader_agrees(tmp_path: Path) -> None:
    rng = random.Random(1)
    wal = opened(tmp_path / "log")
    records: list[bytes] = []
    positions: list[int] = []
    for _ in range(60):
        many = [rng.randbytes(rng.randint(0, 3000)) for _ in range(rng.randint(1, 5))]
        records += many
        positions += wal.append_many(many)
    assert wal.stats().segments > 2
    assert read_records(tmp_path / "log") == list(zip(positions, records, strict=True))
    assert list(wal.replay()) == list(zip(positions, records, strict=True))
    wal.close()


def test_a_batch_never_spans_segments_and_the_next_names_the_end(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    written(directory, [b"x" * 30_000] * 5)
    ends = []
    for seq in (1, 2, 3):
        header, batches = read_segment(segment(directory, seq))
        if ends:
            assert batches[0].durable_upto == ends[-1]
        ends.append(header.seq * SMALL + batches[-1].end)
    assert len(ends) == 3


def test_largest_record_fits_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    largest = SMALL - 64 - 64 - 13
    with opened(tmp_path / "log") as wal:
        full = wal.append(b"a" * largest)
        wal.append(b"b")
        with pytest.raises(errors.RequestTooLargeError):
            wal.append_many([b"ok", b"c" * (largest + 1)])
        wal.append(b"d" * largest)
        wal._check()
        assert wal.read(full) == b"a" * largest
        assert wal.stats().records == 3, "a refused call appends nothing"
    assert contents(tmp_path / "log") == [b"a" * largest, b"b", b"d" * largest]


# ---- ends: clean, torn, damaged ------------------------------------------------------------------


def test_clean_reopen_continues_in_the_same_segment(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    written(directory, [b"one"], seal=True)
    with opened(directory) as wal:
        assert wal.recovery.clean and wal.recovery.torn_bytes == 0 and wal.recovery.cut_path == ""
        wal.append(b"two")
    assert not segment(directory, 2).exists()
    _, batches = read_segment(segment(directory, 1))
    assert [b.kind for b in batches] == [COMMANDS, SEAL, COMMANDS, SEAL]
    assert [b.revision for b in batches] == [0, 1, 1, 2]


def test_open_and_close_without_appending_writes_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    written(directory, [b"one"], seal=True)
    before = segment(directory, 1).read_bytes()
    for _ in range(3):
        opened(directory).close()
    assert segment(directory, 1).read_bytes()[:4096] == before[:4096]


def test_unclean_open_seals_a_new_segment_and_cuts_the_old(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    written(directory, [b"one", b"two"])
    end = read_segment(segment(directory, 1))[1][-1].end
    with opened(directory) as wal:
        assert not wal.recovery.clean
        assert wal.recovery.cut_path == str(segment(directory, 1))
        assert wal.recovery.cut_offset == end
        assert (wal.recovery.batches, wal.recovery.commands) == (2, 2)
        assert segment(directory, 1).stat().st_size == end
        assert [record for _, record in wal.replay()] == [b"one", b"two"]
        wal._check()
    header, batches = read_segment(segment(directory, 2))
    assert batches[0].kind == SEAL and batches[0].durable_upto == SMALL + end
    assert batches[0].revision == 2
    assert header.nonce != read_segment(segment(directory, 1))[0].nonce


def test_tear_at_every_byte_of_the_last_batch(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    written(directory, [b"first", b"second" * 20])
    raw = segment(directory, 1).read_bytes()
    _, batches = read_segment(segment(directory, 1))
    last = batches[-1]
    for cut in range(last.offset, last.offset + 64 + len(last.payload)):
        for name in directory.iterdir():
            name.unlink()
        (directory / "FORMAT").write_bytes(b"kvcore 1\n")
        torn = raw[:cut] + bytes(len(raw) - cut)
        segment(directory, 1).write_bytes(torn)
        wal = opened(directory)
        whole = torn == raw
        assert [r for _, r in wal.replay()] == [b"first"] + [b"second" * 20] * whole
        assert wal.recovery.torn_bytes == (0 if whole else len(torn[last.offset:].rstrip(b"\0")))
        wal._check()
        wal._abandon()


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_damage_before_synced_batches_is_refused(tmp_path: Path, victim: int) -> None:
    directory = tmp_path / "log"
    written(directory, [b"a" * 100, b"b" * 100, b"c" * 100, b"d" * 100])
    _, batches = read_segment(segment(directory, 1))
    flip(segment(directory, 1), batches[victim].offset + 70)
    with pytest.raises(errors.CorruptError) as caught:
        opened(directory)
    assert caught.value.path == str(segment(directory, 1))
    assert caught.value.offset == batches[victim].offset
    assert "was synced" in caught.value.reason
    assert segment(directory, 1).stat().st_size == SMALL, "a refused open changes nothing"


def test_damage_to_the_last_batch_is_told_from_a_tear_after_a_clean_close(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    written(directory, [b"a" * 100, b"b" * 100], seal=True)
    flip(segment(directory, 1), read_segment(segment(directory, 1))[1][1].offset + 70)
    with pytest.raises(errors.CorruptError, match="was synced"):
        opened(directory)


def test_damage_in_an_earlier_segment_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    written(directory, [b"x" * 30_000] * 5)
    _, batches = read_segment(segment(directory, 1))
    flip(segment(directory, 1), batches[-1].offset + 100)
    with pytest.raises(errors.CorruptError, match="ends at offset") as caught:
        opened(directory)
    assert caught.value.offset == batches[-1].offset


def test_damaged_first_batch_of_a_middle_segment_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    written(directory, [b"x" * 30_000] * 5)
    flip(segment(directory, 2), 64 + 100)
    with pytest.raises(errors.CorruptError) as caught:
        opened(directory)
    assert (caught.value.path, caught.value.offset) == (str(segment(directory, 2)), 64)


def test_damaged_first_batch_of_the_last_segment_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    written(directory, [b"x" * 30_000] * 3 + [b"small"] * 2)
    assert len(read_segment(segment(directory, 2))[1]) == 3
    flip(segment(directory, 2), 64 + 100)
    with pytest.raises(errors.CorruptError, match="was synced") as caught:
        opened(directory)
    assert (caught.value.path, caught.value.offset) == (str(segment(directory, 2)), 64)


def test_torn_first_batch_of_the_last_segment_is_dropped(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    written(directory, [b"x" * 30_000] * 2 + [b"only batch of segment two" * 300])
    flip(segment(directory, 2), 64 + 70)
    wal = opened(directory)
    assert not wal.recovery.clean and wal.recovery.torn_bytes > 0
    assert [len(r) for _, r in wal.replay()] == [30_000] * 2
    wal._check()
    wal.close()


@pytest.mark.parametrize("missing", [1, 2])
def test_missing_segment_is_refused(tmp_path: Path, missing: int) -> None:
    directory = tmp_path / "log"
    written(directory, [b"x" * 30_000] * 5)
    segment(directory, missing).unlink()
    with pytest.raises(errors.CorruptError, match="missing") as caught:
        opened(directory)
    assert caught.value.path == str(segment(directory, missing))


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_damaged_segment_header_is_refused(tmp_path: Path, seq: int) -> None:
    directory = tmp_path / "log"
    written(directory, [b"x" * 30_000] * 5)
    flip(segment(directory, seq), 33)
    with pytest.raises(errors.CorruptError, match="header") as caught:
        opened(directory)
    assert caught.value.path == str(segment(directory, seq))


def test_unused_and_unfinished_files_are_removed(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    written(directory, [b"one"], seal=True)
    segment(directory, 2).write_bytes(bytes(SMALL))
    (directory / "wal-0000000000000003.seg.tmp").write_bytes(b"junk")
    assert contents(directory) == [b"one"]
    assert sorted(p.name for p in directory.iterdir()) == [
        "FORMAT", "LOCK", "wal-0000000000000001.seg"]


@pytest.mark.parametrize("recycled", [False, True])
def test_lost_write_behind_a_seal_makes_no_clean_end(tmp_path: Path, recycled: bool) -> None:
    # An unsynced batch whose predecessor was lost must not become valid again behind a new one.
    directory = tmp_path / "log"
    written(directory, [b"one"], seal=True)
    if recycled:                             # what is not zero behind the end proves nothing there
        raw = bytearray(segment(directory, 1).read_bytes())
        raw[44] = 1
        raw[8:12] = crc32c(bytes(raw[12:64])).to_bytes(4, "little")
        segment(directory, 1).write_bytes(raw)
    wal = opened(directory, sync="off")
    wal.append(b"lost")
    wal.append(b"ghost")
    wal._abandon()
    raw = bytearray(segment(directory, 1).read_bytes())
    lost = read_segment(segment(directory, 1))[1][-2]
    raw[lost.offset : lost.end] = bytes(lost.end - lost.offset)
    segment(directory, 1).write_bytes(raw)
    wal = opened(directory, sync="off")
    assert not wal.recovery.clean
    wal.append(b"news")
    wal._abandon()
    assert contents(directory) == [b"one", b"news"]


def test_cut_segments_are_full_history_after_many_kills(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    expected = []
    for round_ in range(6):
        wal = opened(directory)
        expected.append(b"%d" % round_)
        wal.append(expected[-1])
        wal._check()
        wal._abandon()
    assert contents(directory) == expected


# ---- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_first_failure_poisons_and_is_never_retried(tmp_path: Path, kind: str) -> None:
    io = RecordingIo()
    wal = opened(tmp_path / "log", io=io)
    kept = wal.append(b"before")
    io.fail(kind, 1, errno.EIO, short_bytes=20)
    with pytest.raises(errors.OutcomeUnknownError) as caught:
        wal.append(b"unknown")
    assert caught.value.errno == errno.EIO
    calls = (io.calls("write"), io.calls("sync"))
    io.fail("write", 1, errno.ENOSPC)
    for verb in (lambda: wal.append(b"later"), lambda: wal.append_many([b"x"]), wal.sync):
        with pytest.raises(errors.PoisonedError) as later:
            verb()
        assert later.value.errno == errno.EIO, "the first errno is kept"
    assert (io.calls("write"), io.calls("sync")) == calls, "nothing is written, nothing retried"
    assert wal.read(kept) == b"before"
    assert wal.stats().poison_errno == errno.EIO
    wal.close()
    assert contents(tmp_path / "log")[0] == b"before"


def test_no_space_for_the_next_segment_is_known_and_may_be_retried(tmp_path: Path) -> None:
    io = RecordingIo()
    wal = opened(tmp_path / "log", io=io, sync="off")
    wal.append(b"x" * 60_000)
    io.fail("allocate", 1, errno.ENOSPC)
    with pytest.raises(errors.NoSpaceError):
        wal.append(b"y" * 60_000)
    wal.append(b"z" * 60_000)            # nothing was written of the other: the log goes on
    wal.close()
    assert contents(tmp_path / "log") == [b"x" * 60_000, b"z" * 60_000]


@pytest.mark.parametrize("kind", ["open", "write", "sync", "rename", "sync_dir", "allocate"])
def test_failed_open_gives_the_directory_back(tmp_path: Path, kind: str) -> None:
    directory = tmp_path / "log"
    written(directory, [b"kept"])
    for nth in range(1, 4):
        io = RecordingIo()
        io.fail(kind, nth, errno.EIO)
        try:
            opened(directory, io=io)._abandon()
        except errors.StorageError as error:
            assert error.errno == errno.EIO
    assert contents(directory) == [b"kept"]


def test_reads_without_mapping(tmp_path: Path) -> None:
    io = RecordingIo(map=False)
    wal = opened(tmp_path / "log", io=io)
    payloads = [b"%d" % i * 500 for i in range(200)]
    positions = wal.append_many(payloads)
    assert [wal.read(p) for p in positions] == payloads
    wal._check()
    wal._abandon()
    wal = opened(tmp_path / "log", io=RecordingIo(map=False))
    assert [wal.read(p) for p in positions] == payloads
    wal._check()
    wal.close()


@pytest.mark.parametrize("mapped", [True, False])
def test_damage_under_a_running_log_is_seen_on_read(tmp_path: Path, mapped: bool) -> None:
    directory = tmp_path / "log"
    wal = opened(directory, io=RecordingIo(map=mapped))
    position = wal.append(b"payload")
    flip(segment(directory, 1), position - SMALL + 15)
    with pytest.raises(errors.CorruptError) as caught:
        wal.read(position)
    assert (caught.value.path, caught.value.offset) == (
        str(segment(directory, 1)), position - SMALL)
    with pytest.raises(AssertionError, match="value-proof"):
        wal._check()
    wal._abandon()


def test_verify_false_skips_the_checksum(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    with opened(directory, verify=False) as wal:
        position = wal.append(b"payload")
        flip(segment(directory, 1), position - SMALL + 15)
        assert wal.read(position) != b"payload"


# ---- who may use it ------------------------------------------------------------------------------


def test_newer_format_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    written(directory, [b"one"])
    (directory / "FORMAT").write_bytes(b"kvcore 2\n")
    with pytest.raises(errors.NewerFormatError):
        opened(directory)
    (directory / "FORMAT").write_bytes(b"nonsense")
    with pytest.raises(errors.CorruptError):
        opened(directory)
    (directory / "FORMAT").unlink()
    with pytest.raises(errors.CorruptError, match="missing"):
        opened(directory)


def test_second_open_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    with opened(directory):
        with pytest.raises(errors.LockedError, match=str(os.getpid())):
            opened(tmp_path / "." / "log")
        program = (
            "import sys; from kvcore import errors; from kvcore._record_log import WriteAheadLog\n"
            "try: WriteAheadLog(sys.argv[1])\n"
            "except errors.LockedError as error: print(error)"
        )
        done = subprocess.run([sys.executable, "-c", program, str(directory)],
                              capture_output=True, text=True, check=True)
        assert f"process {os.getpid()} on " in done.stdout
    opened(directory).close()


def _in_child(use: Callable[[], object], kind: type[Exception]) -> None:
    def child() -> None:
        try:
            use()
        except kind:
            os._exit(0)
        os._exit(1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_is_refused_in_the_child_and_harmless_to_the_parent(tmp_path: Path) -> None:
    wal = opened(tmp_path / "log")
    position = wal.append(b"parent")
    for use in (lambda: wal.append(b"child"), lambda: wal.append_many([b"x"]), wal.sync,
                lambda: wal.read(position), lambda: list(wal.replay()), wal.stats, wal.close,
                wal._check, wal.__enter__):
        _in_child(use, errors.ForkedError)
    _in_child(lambda: opened(tmp_path / "log"), errors.LockedError)
    wal.append(b"parent still")
    wal.close()
    opened(tmp_path / "log").close()


def test_every_verb_of_a_closed_log(tmp_path: Path) -> None:
    wal = opened(tmp_path / "log")
    position = wal.append(b"x")
    walk = wal.replay()
    next(walk)
    wal.close()
    wal.close()
    for verb in (lambda: wal.append(b"y"), lambda: wal.append_many([b"y"]),
                 lambda: wal.append_many([]), lambda: wal.read(position), wal.sync, wal.stats,
                 wal._check, lambda: list(wal.replay()), wal.__enter__):
        with pytest.raises(errors.ClosedError):
            verb()
    assert "closed" in repr(wal)


def test_arguments(tmp_path: Path) -> None:
    with opened(tmp_path / "log") as wal:
        for wrong in ("text", 3, None, ["x"]):
            with pytest.raises(TypeError):
                wal.append(wrong)
            with pytest.raises(TypeError):
                wal.append_many([b"fine", wrong])
        assert wal.stats().records == 0
        for position in (0, 1, SMALL - 1, wal.stats().end_position, 2**63, 2**64 - 1):
            with pytest.raises(errors.InvalidArgument):
                wal.read(position)
        start = wal.append(b"abc")
        assert wal.append(bytearray(b"x")) and wal.append(memoryview(b"y"))
        with pytest.raises(errors.CorruptError):
            wal.read(start + 1)
    for size in (0, 1000, 65537, 2 << 30, -65536):
        with pytest.raises(ValueError, match="power of two"):
            WriteAheadLog(tmp_path / "other", segment_bytes=size)
    with pytest.raises(ValueError, match="sync"):
        WriteAheadLog(tmp_path / "other", sync="sometimes")
    with pytest.raises(TypeError):
        WriteAheadLog(tmp_path / "other", "always")


def test_the_directory_keeps_its_segment_size(tmp_path: Path) -> None:
    written(tmp_path / "log", [b"x"])
    with WriteAheadLog(tmp_path / "log") as wal:
        assert [r for _, r in wal.replay()] == [b"x"]
        wal.append(b"y")
    assert read_segment(segment(tmp_path / "log", 2))[0].segment_bytes == SMALL


def test_memory_mode() -> None:
    wal = WriteAheadLog(None, segment_bytes=SMALL)
    payloads = [b"%d" % i * 100 for i in range(2000)]
    positions = wal.append_many(payloads) + [wal.append(b"last")]
    assert [wal.read(p) for p in positions] == [*payloads, b"last"]
    assert list(wal.replay()) == list(zip(positions, [*payloads, b"last"], strict=True))
    assert wal.stats().segments > 3 and wal.stats().syncs == 0
    wal._check()
    wal.close()
    with pytest.raises(errors.ClosedError):
        wal.append(b"x")


def test_sync_modes_sync_as_often_as_they_say(tmp_path: Path) -> None:
    syncs = {}
    for mode in ("always", "off"):
        with opened(tmp_path / mode, sync=mode) as wal:
            for _ in range(10):
                wal.append(b"x")
            wal.append(b"x", sync=mode == "off")
            syncs[mode] = wal.stats().syncs
            wal.sync()
            assert wal.stats().durable_position == wal.stats().end_position
    assert syncs == {"always": 10, "off": 1}


def test_threads_append_and_read(tmp_path: Path) -> None:
    wal = opened(tmp_path / "log", sync="off")
    found: list[tuple[int, bytes]] = []

    def work(number: int) -> None:
        for i in range(300):
            payload = b"%d-%d" % (number, i) * 20
            position = wal.append(payload)
            assert wal.read(position) == payload
            found.append((position, payload))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(wal.replay()) == sorted(found)
    wal._check()
    wal.close()


def test_unclosed_log_warns(tmp_path: Path) -> None:
    wal = opened(tmp_path / "log")
    wal.append(b"x")
    with pytest.warns(ResourceWarning, match="unclosed"):
        del wal
    assert contents(tmp_path / "log") == [b"x"]


def test_checks_of_cells_agree_with_the_model(tmp_path: Path) -> None:
    written(tmp_path / "log", [b"", b"a", b"bc" * 300], seal=True)
    _, batches = read_segment(segment(tmp_path / "log", 1))
    values = [cell[2] for b in batches if b.kind == COMMANDS for cell in read_cells(b)]
    assert values == [b"", b"a", b"bc" * 300]
