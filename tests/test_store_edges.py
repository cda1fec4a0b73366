# SPDX-License-Identifier: Apache-2.0
"""Edges between the store's parts: ends beside work, failures beside checkpoints, futures twice."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import kvcore
from kvcore.testing.faults import RecordingIo

TINY: dict[str, Any] = {"segment_bytes": 65536, "max_request_bytes": 16384, "maintenance": False}


def together(*jobs: Any) -> None:
    """Runs the jobs in threads and raises what any of them raised."""
    failures: list[BaseException] = []

    def guarded(job: Any) -> None:
        try:
            job()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_snapshot_released_while_it_is_read(opened: Any) -> None:
    """The last reader carries the release out: a walk never loses what it walks over."""
    db = opened(maintenance=False)
    db.put_many([(b"k%05d" % i, b"v") for i in range(5000)])
    for round_ in range(30):
        snap = db.snapshot()
        db.put_many([(b"k%05d" % i, b"%d" % round_) for i in range(0, 5000, 7)])

        def read(snap: kvcore.Snapshot = snap) -> None:
            try:
                assert len(snap.range()) == 5000
            except kvcore.ClosedError:
                assert "released" in repr(snap)

        together(read, read, snap.release, lambda: db.step(budget=10_000))
    while db.step():
        pass
    db._check()
    assert db.status().snapshots == 0 and db.status().dead_blocks == 0


@pytest.mark.parametrize("work", ["checkpoint", "step", "compact"])
def test_close_beside_background_work(ram_dir: Path, work: str) -> None:
    """Whoever comes second gets ClosedError; the directory opens again whole."""
    for round_ in range(12):
        db = kvcore.open(ram_dir / "db", maintenance=False)
        db.put_many([(b"k%05d" % i, b"%d" % round_) for i in range(4000)])
        begun = threading.Event()

        def job(db: kvcore.Store = db, begun: threading.Event = begun) -> None:
            begun.set()
            try:
                if work == "compact":
                    db.compact(db.revision, physical=True)
                else:
                    for _ in range(50):
                        db.checkpoint() if work == "checkpoint" else db.step()
            except kvcore.ClosedError as error:
                assert "closed" in str(error)

        def end(db: kvcore.Store = db, begun: threading.Event = begun) -> None:
            begun.wait()
            db.close()

        together(job, end, end)
        assert db.closed
    with kvcore.open(ram_dir / "db") as db:
        assert db.check() == []
        assert db.get(b"k00000").value == b"11"


def test_close_returns_when_it_is_closed(ram_dir: Path) -> None:
    """Also for the second of two threads: the directory is free then."""
    for _ in range(20):
        db = kvcore.open(ram_dir / "db")
        db.put(b"a", b"1")

        def end(db: kvcore.Store = db) -> None:
            db.close()
            assert db.closed

        together(end, end, end)
        kvcore.open(ram_dir / "db").close()


def test_poisoned_log_takes_no_checkpoint(ram_dir: Path) -> None:
    """It would name an end that nobody knows."""
    io = RecordingIo()
    db = kvcore.open(ram_dir / "db", io=io, **TINY)
    db.put(b"a", b"1")
    io.fail("sync", 1, errno.EIO)
    with pytest.raises(kvcore.OutcomeUnknownError):
        db.put(b"b", b"2")
    with pytest.raises(kvcore.PoisonedError):
        db.checkpoint()
    assert db.status().poisoned and db.get(b"a").value == b"1"
    db.close()
    assert not list((ram_dir / "db").glob("checkpoint-*"))
    with kvcore.open(ram_dir / "db", **TINY) as db:
        assert db.get(b"a").value == b"1"


def test_failed_checkpoint_leaves_nothing_and_is_tried_again(ram_dir: Path) -> None:
    """A full disk gets back what the checkpoint had reserved; a later step writes one."""
    io = RecordingIo()
    options = {**TINY, "segment_bytes": 1 << 20, "replay_target": 0.001}
    db = kvcore.open(ram_dir / "db", io=io, **options)
    db.put_many([(b"k%05d" % i, b"v") for i in range(3000)])
    while db.status().background_status == 0:
        io.fail("rename", 1, errno.ENOSPC)
        db.step(now=1.0)
    assert not [p for p in (ram_dir / "db").iterdir() if "checkpoint" in p.name]
    assert db.status().checkpoint_number == 0
    now = 100.0
    while db.status().checkpoint_number == 0:
        now += 100.0
        db.step(now=now)
    assert db.status().background_status == 0
    db.close()


def test_no_room_for_a_segment_is_no_end(ram_dir: Path) -> None:
    """The put that needed it failed, and is known not to be done; the next one may find room."""
    io = RecordingIo()
    db = kvcore.open(ram_dir / "db", io=io, **TINY)
    io.fail("allocate", 1, errno.ENOSPC)
    refused = 0
    for i in range(12):
        try:
            db.put(b"k%d" % i, b"x" * 12_000)
        except kvcore.NoSpaceError:
            refused += 1
            assert db.get(b"k%d" % i) is None
    assert refused == 1 and db.range(count_only=True).count == 11
    db.close()


def test_reopened_with_other_sizes(ram_dir: Path) -> None:
    """The directory's segment size counts, not the argument's: batches still fit."""
    kvcore.open(ram_dir / "db", **TINY).close()
    with kvcore.open(ram_dir / "db") as db:
        assert len(db.put_many([(b"k%d" % i, b"x" * 100) for i in range(2000)])) == 2000
        futures = [db.submit(kvcore.Put(b"s%d" % i, b"x" * 1000)) for i in range(300)]
        assert [f.exception() for f in futures] == [None] * 300
        with pytest.raises(kvcore.RequestTooLargeError):
            db.put(b"big", b"x" * 40_000)


def test_compare_of_a_damaged_value(ram_dir: Path) -> None:
    """The transaction fails and changes nothing; the store goes on and opens again."""
    with kvcore.open(ram_dir / "db", **TINY) as db:
        db.put(b"a", b"precious")
        db.put(b"b", b"other")
    segment = ram_dir / "db" / "wal-0000000000000001.seg"
    with kvcore.open(ram_dir / "db", **TINY) as db:
        db.checkpoint()
        data = bytearray(segment.read_bytes())
        data[data.index(b"precious")] ^= 1
        segment.write_bytes(data)
        before = db.revision
        with pytest.raises(kvcore.CorruptError):
            db.txn([kvcore.Compare.value(b"a") == b"precious"], [kvcore.Put(b"c", b"1")])
        assert db.revision == before and db.get(b"c") is None
        db.put(b"d", b"1")
    with kvcore.open(ram_dir / "db", **TINY) as db:
        assert db.get(b"d").value == b"1" and db.get(b"b").value == b"other"
        assert len(db.check()) == 1


def test_one_future_told_twice(opened: Any) -> None:
    """Two event loops, a callback and a thread wait for one; a callback that raises harms none."""
    db = opened()
    for _ in range(3):
        db.put_many([(b"k%06d" % i, b"") for i in range(100_000)])
        db.submit(kvcore.Delete(prefix=b"k"))            # long: what comes behind it has to wait
        future = db.submit(kvcore.Put(b"a", b"1"))
        called = threading.Event()
        future.add_done_callback(lambda f: 1 // 0)
        future.add_done_callback(lambda f, called=called: called.set())

        async def wait(future: kvcore.Future = future) -> int:
            return (await asyncio.wait_for(future, 30)).revision

        answers: list[int] = []
        together(lambda answers=answers, wait=wait: answers.append(asyncio.run(wait())),
                 lambda answers=answers, wait=wait: answers.append(asyncio.run(wait())),
                 lambda answers=answers, f=future: answers.append(f.result().revision))
        assert called.wait(30)
        assert answers == [db.revision] * 3


def test_futures_and_fork(opened: Any) -> None:
    """The parent's future cannot be asked in a child; a new store of the child calls back."""
    db = opened()
    future = db.submit(kvcore.Put(b"a", b"1"))
    future.add_done_callback(lambda f: None)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            future.result()
        except kvcore.ForkedError:
            with kvcore.open() as own:
                called = threading.Event()
                own.submit(kvcore.Put(b"b", b"1")).add_done_callback(lambda f: called.set())
                code = 0 if called.wait(60) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert future.result().revision == 2


def test_only_ints_are_ints(opened: Any) -> None:
    """Floats are refused, not cut."""
    db = opened()
    db.put(b"a", b"1")
    for call in (lambda: db.range(limit=1.5), lambda: db.get(b"a", revision=2.0),
                 lambda: db.compact(2.0), lambda: db.put(b"a", lease=0.5),
                 lambda: kvcore.Range(limit=1.5), lambda: kvcore.Put(b"a", lease=1.5)):
        with pytest.raises(TypeError):
            call()
    assert db.revision == 2


def test_objects_made_by_nobody() -> None:
    """Classes that only a store makes say so instead of crashing."""
    for kind, use in ((kvcore.KeyValue, lambda o: o.key), (kvcore.Snapshot, lambda o: o.get(b"a")),
                      (kvcore.Future, lambda o: o.result())):
        with pytest.raises(TypeError):
            kind()
        with pytest.raises(TypeError):
            use(kind.__new__(kind))


def test_reading_transactions_leave_nothing_behind(opened: Any) -> None:
    """A submitted transaction that only reads is answered at once; its revision is the store's."""
    db = opened()
    db.put(b"a", b"1")
    for _ in range(1000):
        answer = db.submit(kvcore.Txn([], [kvcore.Get(b"a")], [])).result()
        assert answer.responses[0].value == b"1" and answer.revision == 2
    assert db.status().commands == 1
