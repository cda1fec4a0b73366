# SPDX-License-Identifier: Apache-2.0
"""Running out: of disk, of quota, of open files, of permission, of a directory, of sane time.

    runs out ─► every call succeeds or says why ─► there is again ─► the store goes on, or opens
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fault_lives import LIVES, OPTIONS, Plain
from ledger import Ledger

import kvcore
from kvcore import Compare, Delete, LeaseGrant, Put, Txn
from kvcore.testing.clocks import ManualClock
from kvcore.testing.faults import RecordingIo

YEAR = 366 * 86400.0


# --- the disk ------------------------------------------------------------------------------------

@pytest.mark.parametrize("life", ["plain", "space", "backup"])
def test_no_blocks_for_a_while(life: str, ram_dir: Path, counts: Counter[str]) -> None:
    """From the nth reservation of blocks on there are none, then there are again: the store lives
    on, since what is written lies in blocks that were reserved."""
    nth, struck = 1, 1
    while struck:
        io = RecordingIo()
        lived = LIVES[life](ram_dir / f"{nth}", io)
        io.fail("allocate", nth, errno.ENOSPC, times=None)
        lived.live()
        struck = io.struck
        assert not lived.db.status().poisoned
        io.heal()
        lived.steps(30, 13)
        lived.ask(lived.db.disarm)
        failed = len(lived.failed)
        for target in lived.root.glob("backup?"):
            shutil.rmtree(target)
        lived.live()
        assert len(lived.failed) == failed, lived.failed[failed:]
        lived.end()
        counts["system calls failed"] += struck
        nth += 1
    assert nth > 2


@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("pattern", [None, "*.tmp", "checkpoint-*"])
def test_no_room_for_a_while(life: str, pattern: str | None, ram_dir: Path,
                             counts: Counter[str]) -> None:
    """The same for writes and new files: a write of the log that fails stops it until a reopen."""
    nth, struck = 1, 1
    while struck:
        io = RecordingIo()
        lived = LIVES[life](ram_dir / f"{nth}", io)
        for kind in ("write", "allocate", "open"):
            io.fail(kind, nth, errno.ENOSPC, times=None, path=pattern)
        lived.live()
        struck = io.struck
        io.heal()
        if not lived.db.status().poisoned:
            lived.steps(30, 13)
            lived.ask(lived.db.disarm)
            assert lived.ask(lambda lived=lived: lived.db.put(b"again")) is not None
            lived.may[b"again"] = {b""}
        lived.end(strict=False)
        counts["system calls failed"] += struck
        nth += 1
    assert nth > 2


def test_a_full_disk_can_be_opened(ram_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock file's text is a courtesy: no block for it is no reason to keep the store shut."""
    kvcore.open(ram_dir / "db", **OPTIONS).close()
    for number in (errno.ENOSPC, errno.EIO):
        def full(*args: Any, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", full)
            if number == errno.ENOSPC:
                kvcore.open(ram_dir / "db", **OPTIONS).close()
            else:
                with pytest.raises(OSError, match="Input/output"):
                    kvcore.open(ram_dir / "db", **OPTIONS)
        kvcore.open(ram_dir / "db", **OPTIONS).close()           # the lock was given back


# --- the quota -----------------------------------------------------------------------------------

def test_leases_end_at_the_quota(ram_dir: Path) -> None:
    """Full, and refusing: expiry, revokes and deletes in transactions go on, and make room."""
    clock = ManualClock()
    db = kvcore.open(ram_dir / "db", clock=clock, quota=10 * 65536, **OPTIONS)
    short, other = db.lease(10), db.lease(1000)
    grows: list[Callable[[], Any]] = [
        lambda: db.put_many([(b"x", b"y")]), lambda: db.submit(Put(b"x")),
        lambda: db.txn([], [Txn([], [Put(b"x")])]), lambda: db.submit(Txn([], [Put(b"x")])),
        lambda: db.lease(5), lambda: db.submit(LeaseGrant(5))]
    count = 0
    with pytest.raises(kvcore.NoSpaceError):
        for count in range(1000):
            db.put(b"%04d" % count, b"v" * 2000, lease=(short if count % 2 else other).id)
    for call in grows:
        with pytest.raises(kvcore.NoSpaceError):
            call()
    assert other.keepalive() == 1000
    db.compact(db.revision - 1)
    assert db.txn([Compare.version(b"0000") == 1], [Delete(b"0000")]).succeeded
    assert db.submit(Delete(b"0002")).result(60).deleted == 1
    clock.advance(11)
    db.step()
    assert db.range(count_only=True).count == (count + 1) // 2 - 2
    other.revoke()
    assert db.range(count_only=True).count == 0 and not db.leases()
    db.compact(db.revision)
    for _ in range(6):
        db.checkpoint()
        clock.advance(61)
        while db.step():
            pass
    db.disarm()
    for call in grows:
        call()
    assert db.check() == []
    db.close()


# --- open files ----------------------------------------------------------------------------------

@contextlib.contextmanager
def files_left(count: int) -> Iterator[None]:
    """So many more files can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(2))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_many_open_files(ram_dir: Path, counts: Counter[str]) -> None:
    """Each call with ever more files that may be opened, until it succeeds; the store goes on."""
    book = Ledger(kvcore.StorageError, OSError, kvcore.LockedError)
    db = kvcore.open(ram_dir / "db", **{**OPTIONS, "replay_target": 0.01})
    db.put_many([(b"%d" % i, b"v" * 2000) for i in range(20)])
    wanted = {kv.key: kv.value for kv in db.range()}

    def fill() -> None:
        for i in range(40):                      # past the end of the segment
            db.put(b"f%d" % i, b"f" * 2000)

    def opens() -> None:
        kvcore.open(ram_dir / "other", **OPTIONS).close()

    def backs_up() -> None:
        shutil.rmtree(ram_dir / "backup", ignore_errors=True)
        db.backup(ram_dir / "backup")

    def again() -> None:
        kvcore.open(ram_dir / "copy", **OPTIONS).close()

    for call in (db.checkpoint, fill, opens, backs_up, again):
        if call is again:
            shutil.copytree(ram_dir / "backup", ram_dir / "copy")
        left, refused = 0, 0
        while True:
            failed = len(book.failed)
            with files_left(left):
                book.ask(call)
            assert {kv.key: kv.value for kv in db.range() if kv.key in wanted} == wanted
            if len(book.failed) == failed:
                break
            assert getattr(book.failed[-1], "errno", 0) == errno.EMFILE, book.failed[-1]
            refused += 1
            left += 1
            assert left < 30
        counts["calls without a file descriptor"] += refused
        assert refused or call is fill, call
    assert list(ram_dir.glob("*.partial*")) == []
    db.close()
    with kvcore.open(ram_dir / "db", **OPTIONS) as db:
        assert db.check() == []
        assert wanted.items() <= {kv.key: kv.value for kv in db.range()}.items()


# --- permission, and the directory ---------------------------------------------------------------

@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root may do everything: as somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def modes(root: Path, directory: int, files: int, lock: int) -> None:
    root.parent.chmod(0o755)
    for path in root.iterdir():
        path.chmod(lock if path.name == "LOCK" else files)
    root.chmod(directory)


@pytest.mark.parametrize("lock", [0o444, 0o666])
@pytest.mark.parametrize("directory", [0o555, 0o777])
def test_read_only(directory: int, lock: int, ram_dir: Path) -> None:
    """A directory, or its files, that may only be read: said clearly, and nothing is changed."""
    where = ram_dir / "db"
    with kvcore.open(where, **OPTIONS) as db:
        db.put(b"a", b"1")
        db.checkpoint()
    before = {path.name: path.read_bytes() for path in where.iterdir()}
    modes(where, directory, 0o444, lock)
    with unprivileged(), pytest.raises(OSError, match="Permission denied") as raised:
        kvcore.open(where, **OPTIONS)
    assert raised.value.errno == errno.EACCES
    assert {path.name: path.read_bytes() for path in where.iterdir()} == before
    if directory == 0o555:
        with unprivileged(), pytest.raises(OSError, match="Permission denied"):
            kvcore.open(where / "below", **OPTIONS)
    modes(where, 0o755, 0o644, 0o644)
    with kvcore.open(where, **OPTIONS) as db:
        assert db.get(b"a").value == b"1" and db.check() == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_file_system_turned_read_only(number: int, ram_dir: Path) -> None:
    """As one does that met an error: reads go on, writes say so, and later all is there."""
    io = RecordingIo()
    life = Plain(ram_dir / "root", io)
    life.put(b"a", b"1")
    for kind in ("write", "open", "allocate", "truncate", "rename", "unlink", "sync_dir"):
        io.fail(kind, 1, number, times=None)     # type: ignore[arg-type]
    life.put(b"b", b"2")
    assert life.failed and os.strerror(number) in str(life.failed[0].__cause__ or life.failed[0])
    assert life.db.get(b"a").value == b"1"
    for call in (life.db.checkpoint, lambda: life.db.backup(ram_dir / "backup")):
        assert life.ask(call) is None
    life.end(strict=False)


def test_a_directory_that_vanishes(ram_dir: Path) -> None:
    """What needs a file says that there is none; reads of what was mapped go on; close is quiet."""
    db = kvcore.open(ram_dir / "db", **OPTIONS)
    db.put(b"a", b"1")
    shutil.rmtree(ram_dir / "db")
    assert db.get(b"a").value == b"1"
    for call in (db.checkpoint, lambda: db.backup(ram_dir / "backup")):
        with pytest.raises(kvcore.StorageError, match="No such file"):
            call()
    with pytest.raises(kvcore.StorageError, match="No such file"):
        for i in range(40):                      # into blocks that nobody can find again, until
            db.put(b"f%d" % i, b"f" * 3000)      # the next segment is to be made
    assert not (ram_dir / "backup").exists() and list(ram_dir.iterdir()) == []
    assert db.check() and all("No such file" in problem for problem in db.check())
    db.close()
    with kvcore.open(ram_dir / "db", **OPTIONS) as again:
        assert again.revision == 1


# --- time ----------------------------------------------------------------------------------------

def test_a_clock_that_jumps_ahead(ram_dir: Path) -> None:
    """By years: leases end in their order, old history goes, nothing hangs, the rest stays."""
    clock = ManualClock()
    db = kvcore.open(ram_dir / "db", clock=clock, history=timedelta(days=1), sync="interval",
                     **OPTIONS)
    for i in range(3000):                        # more than are revoked at once
        db.lease(60 + i, id=i + 1)
    db.put_many([(b"l/%04d" % i, b"v") for i in range(9)], lease=2)
    db.put(b"stays", b"1")
    db.put(b"stays", b"2")
    last = db.lease(9_000_000_000, id=99999)
    for years in (1, 40, 250):
        clock.advance(years * YEAR)
        for _ in range(200):
            if not db.step():
                break
        assert not db.step()
        assert [lease.id for lease in db.leases()] == ([99999] if years < 250 else [])
        assert db.get(b"stays").value == b"2" and db.range(prefix=b"l/").count == 0
    assert last.ttl() <= 0
    assert db.put(b"more").revision == db.revision
    db.close()
    with kvcore.open(ram_dir / "db", **OPTIONS) as again:
        assert again.get(b"stays").value == b"2" and again.check() == []


def test_a_clock_that_goes_back(ram_dir: Path) -> None:
    """It may not, by contract; if it does, nothing ends early, nothing hangs, and behind it all
    goes on."""
    clock = ManualClock(10 * YEAR)
    db = kvcore.open(ram_dir / "db", clock=clock, history=timedelta(hours=1), sync="interval",
                     **{**OPTIONS, "replay_target": 0.0001})
    lease = db.lease(600)
    db.put(b"leased", b"1", lease=lease.id)
    for i in range(30):
        db.put(b"k", b"%d" % i)
        clock.advance(60)
        db.step()
    assert db.lease_of(lease.id).ttl() < 600
    lease = db.lease(600)
    db.put(b"leased", b"2", lease=lease.id)
    compacted = db.compact_revision
    clock.set(3 * YEAR)
    for i in range(30):
        db.put(b"k", b"%d" % i)
        clock.advance(10)
        for _ in range(100):
            db.step()
    assert db.get(b"leased").value == b"2" and lease.ttl() > 0
    assert db.compact_revision == compacted
    db.checkpoint()
    clock.set(10 * YEAR + 1800)
    lease.keepalive()
    assert lease.ttl() == 600
    clock.advance(7200)
    for _ in range(100):
        db.step()
    assert db.get(b"leased") is None and not db.leases()
    assert db.compact_revision > compacted
    assert db.check() == []
    db.close()
