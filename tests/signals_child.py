# SPDX-License-Identifier: Apache-2.0
"""A child that is interrupted in one blocking call, and looks at its store afterwards.

    python signals_child.py CASE DIRECTORY           prints "fine" and ends with 0

    main thread ─ call() ────── blocks, lets the GIL go ──────── KeyboardInterrupt ─► store sound?
    helper      ─ waits for the GIL, which nobody takes away ─ kill(SIGINT) ─ told that it arrived

The switch interval is a quarter of an hour, so that the helper gets the GIL only where the call
gives it away: the signal arrives inside the call, and no clock says when. A signal's arrival is
known by the wake-up descriptor, which the C handler writes to. A hang ends the child, with its
stacks.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import kvcore
from kvcore import Compare, Put, cli
from kvcore.testing.faults import Gate, RecordingIo
from kvcore.transfer import export_lines

OPTIONS: dict[str, Any] = {"segment_bytes": 1 << 20, "max_request_bytes": 1 << 16,
                           "maintenance": False, "replay_target": 0.0}
CASES: dict[str, Callable[[Path], None]] = {}


def case(function: Callable[[Path], None]) -> Callable[[Path], None]:
    CASES[function.__name__] = function
    return function


def signalled(call: Callable[[Callable[[], None]], Any], gate: Gate | None, number: int) -> Any:
    """The call's result; the signal arrives behind the call's word that it is ready, where it gives
    the GIL away, or where it stands at the gate, which opens when the signal has arrived."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    about = threading.Lock()
    about.acquire()

    def interrupt() -> None:
        about.acquire()
        if gate is not None:
            gate.wait()
        os.kill(os.getpid(), number)
        os.read(read, 1)
        if gate is not None:
            gate.open()

    helper = threading.Thread(target=interrupt)
    helper.start()
    sys.setswitchinterval(900)
    try:
        return call(about.release)
    finally:
        sys.setswitchinterval(0.005)
        signal.set_wakeup_fd(-1)
        helper.join()
        os.close(read)
        os.close(write)


def interrupted_behind(call: Callable[[Callable[[], None]], Any],
                       gate: Gate | None = None) -> None:
    """Ctrl-C ends the call."""
    try:
        signalled(call, gate, signal.SIGINT)
    except KeyboardInterrupt:
        return
    raise AssertionError("it was not interrupted")


def interrupted(call: Callable[[], Any], gate: Gate | None = None) -> None:
    """The same, ready from the beginning."""
    interrupted_behind(lambda ready: (ready(), call()), gate)


def sound(db: kvcore.Store, where: Path | None) -> None:
    """The store goes on, and opens again."""
    db._check()
    assert db.check() == []
    revision = db.put(b"after", b"1").revision
    found = {kv.key: kv.value for kv in db.range()}
    db.close()
    if where is not None:
        with kvcore.open(where, **OPTIONS) as again:
            assert again.recovery.clean and again.revision == revision
            assert {kv.key: kv.value for kv in again.range()} == found


class Busy:
    """A store whose committer waits for the disk, in another thread, until `release`."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.io = RecordingIo(sync=False)
        self.db = kvcore.open(where, io=self.io, **OPTIONS)
        self.db.put_many([(b"k%d" % i, b"v") for i in range(10)])
        self.gate = self.io.gate("sync", path="wal-*")
        self.other = threading.Thread(target=self.db.put, args=(b"other", b"1"))
        self.other.start()
        self.gate.wait()

    def release(self) -> None:
        self.gate.open()
        self.other.join()
        assert self.db.get(b"other").value == b"1"

    def withdrawn(self, call: Callable[[], Any]) -> None:
        """A request that waits in the queue is taken back: nothing of it happens."""
        interrupted(call)
        self.release()
        before = self.db.revision
        assert before == 12 and self.db.get(b"mine") is None and not self.db.leases()
        assert self.db.get(b"k1") is not None and self.db.compact_revision == 0
        sound(self.db, self.where)


@case
def put(where: Path) -> None:
    busy = Busy(where)
    busy.withdrawn(lambda: busy.db.put(b"mine", b"1"))


@case
def put_many(where: Path) -> None:
    busy = Busy(where)
    busy.withdrawn(lambda: busy.db.put_many([(b"mine", b"1"), (b"yours", b"2")]))


@case
def delete(where: Path) -> None:
    busy = Busy(where)
    busy.withdrawn(lambda: busy.db.delete(prefix=b"k"))


@case
def txn(where: Path) -> None:
    busy = Busy(where)
    busy.withdrawn(lambda: busy.db.txn([Compare.version(b"x") == 0], [Put(b"mine")]))


@case
def lease(where: Path) -> None:
    busy = Busy(where)
    busy.withdrawn(lambda: busy.db.lease(60))


@case
def compact(where: Path) -> None:
    busy = Busy(where)
    busy.withdrawn(lambda: busy.db.compact(5))


@case
def result(where: Path) -> None:
    """What was submitted happens all the same."""
    busy = Busy(where)
    future = busy.db.submit(Put(b"mine", b"1"))
    interrupted(future.result)
    assert not future.done()
    busy.release()
    assert future.result(60).revision == 13
    sound(busy.db, where)


@case
def sync(where: Path) -> None:
    busy = Busy(where)
    interrupted(busy.db.sync)
    busy.release()
    busy.db.sync()
    sound(busy.db, where)


@case
def checkpoint(where: Path) -> None:
    busy = Busy(where)
    interrupted(busy.db.checkpoint)
    busy.release()
    assert busy.db.status().checkpoint_number == 0 and busy.db.checkpoint() == 1
    sound(busy.db, where)


@case
def close(where: Path) -> None:
    """The store is as open as before."""
    busy = Busy(where)
    interrupted(busy.db.close)
    assert not busy.db.closed
    busy.release()
    sound(busy.db, where)


@case
def backup(where: Path) -> None:
    busy = Busy(where)
    target = where.with_name("backup")
    interrupted(lambda: busy.db.backup(target))
    busy.release()
    assert not target.exists() and not list(where.parent.glob("*.partial*"))
    busy.db.backup(target)
    sound(busy.db, where)


# --- waiting for events ---------------------------------------------------------------------------

def watching(wait: Callable[[kvcore.Watch], Any]) -> None:
    watching_behind(lambda watch, ready: (ready(), wait(watch)))


def watching_behind(wait: Callable[[kvcore.Watch, Callable[[], None]], Any]) -> None:
    """The watch goes on behind it."""
    db = kvcore.open()
    with db.watch() as watch:
        interrupted_behind(lambda ready: wait(watch, ready))
        db.put(b"a")
        assert watch.get(0).revision == 2
    sound(db, None)


@case
def watch_get(where: Path) -> None:
    watching(lambda watch: watch.get())


@case
def watch_get_timeout(where: Path) -> None:
    watching(lambda watch: watch.get(3600))


@case
def watch_batch(where: Path) -> None:
    watching(lambda watch: watch.get_batch())


@case
def watch_iterator(where: Path) -> None:
    watching(lambda watch: next(iter(watch)))


@case
def task_watch(where: Path) -> None:
    async def wait(watch: kvcore.Watch, ready: Callable[[], None]) -> None:
        ready()
        async for _ in watch:
            raise AssertionError("there was nothing")

    watching_behind(lambda watch, ready: asyncio.run(wait(watch, ready)))


@case
def task_future(where: Path) -> None:
    busy = Busy(where)

    async def wait(ready: Callable[[], None]) -> None:
        future = busy.db.submit(Put(b"mine", b"1"))
        ready()
        await future

    interrupted_behind(lambda ready: asyncio.run(wait(ready)))
    busy.release()
    busy.db.sync()
    assert busy.db.get(b"mine").value == b"1"
    sound(busy.db, where)


# --- calls that are long by themselves ------------------------------------------------------------

def large(where: Path, io: RecordingIo) -> kvcore.Store:
    """30,000 keys, twice, in some thirty segments."""
    db = kvcore.open(where, io=io, **OPTIONS)
    for n in range(2):
        db.put_many([(b"k%05d" % i, b"%d" % n * 500) for i in range(30000)])
    return db


@case
def checkpoint_between_steps(where: Path) -> None:
    """It is left begun, and the next call goes on with it."""
    io = RecordingIo(sync=False)
    db = large(where, io)
    interrupted(db.checkpoint, io.gate("write", path="checkpoint-*"))
    assert db.status().checkpoint_number == 0
    db.put(b"goes on")
    while db.status().checkpoint_number == 0:
        db.step()
    assert db.checkpoint() == 2
    sound(db, where)


@case
def backup_between_pieces(where: Path) -> None:
    io = RecordingIo(sync=False)
    db = large(where, io)
    target = where.with_name("backup")
    db.checkpoint()
    interrupted(lambda: db.backup(target, link=False), io.gate("write", 3, path="wal-*"))
    assert not target.exists() and not list(where.parent.glob("*.partial*"))
    sound(db, where)


@case
def backup_of_memory(where: Path) -> None:
    io = RecordingIo(sync=False)
    db = kvcore.open(io=io, **OPTIONS)
    db.put_many([(b"k%05d" % i, b"v" * 500) for i in range(9000)])
    target = where.with_name("backup")
    interrupted(lambda: db.backup(target), io.gate("write", 2, path="wal-*"))
    assert not target.exists() and not list(where.parent.glob("*.partial*"))
    interrupted(lambda: db.backup(target), io.gate("write", 1, path="checkpoint-*"))
    assert not target.exists() and not list(where.parent.glob("*.partial*"))
    sound(db, None)


@case
def compact_physical(where: Path) -> None:
    """The command is in the log; the sweep goes on in the background."""
    db = kvcore.open(**OPTIONS)
    for n in range(2):
        db.put_many([(b"k%06d" % i, b"%d" % n) for i in range(60000)])
    interrupted(lambda: db.compact(db.revision, physical=True))
    assert db.status().compacting and db.compact_revision == db.revision
    while db.step():
        pass
    assert not db.status().compacting and db.status().versions == 60000
    sound(db, None)


@case
def open_with_a_replay(where: Path) -> None:
    """Nothing of the directory has been changed; the next open is as if there had been none."""
    with kvcore.open(where, **{**OPTIONS, "segment_bytes": 64 << 20}) as db:
        for _ in range(4):
            db.put_many([(b"k%05d" % i, b"v" * 500) for i in range(9000)])
    io = RecordingIo(map=False)
    gate = io.gate("read", 3, path="wal-*0001.seg")          # header, first batch, all of it
    interrupted(lambda: kvcore.open(where, io=io, **OPTIONS), gate)
    assert io.calls("write") == 0
    with kvcore.open(where, **OPTIONS) as db:
        assert db.recovery.clean and db.recovery.batches > 4
        assert db.range(count_only=True).count == 9000 and db.check() == []


def reading(where: Path, call: Callable[[kvcore.Store], Any]) -> None:
    """Reads change nothing; the interrupt comes when the core takes the GIL back.

    Over and over, since one may be through before the helper is awake."""
    db = large(where, RecordingIo(sync=False))

    def read() -> None:
        while True:
            call(db)

    interrupted(read)
    sound(db, where)


@case
def long_range(where: Path) -> None:
    reading(where, lambda db: db.range())


@case
def long_snapshot_range(where: Path) -> None:
    def read(db: kvcore.Store) -> None:
        with db.snapshot() as snap:
            snap.range()

    reading(where, read)


@case
def long_get_many(where: Path) -> None:
    keys = [b"k%05d" % i for i in range(30000)]
    reading(where, lambda db: db.get_many(keys))


@case
def long_hash(where: Path) -> None:
    reading(where, lambda db: db.hash())


@case
def long_check(where: Path) -> None:
    told: list[int] = []

    def check(db: kvcore.Store) -> None:
        told.clear()
        db.check(told.append)

    reading(where, check)
    assert sum(told) < 60000                     # it did not read to the end


@case
def long_put_many(where: Path) -> None:
    """Chunks that were committed are there, whole."""
    db = kvcore.open(where, io=RecordingIo(sync=False), **OPTIONS)
    interrupted(lambda: db.put_many([(b"k%05d" % i, b"v" * 500) for i in range(30000)]))
    keys = db.range().keys()
    assert 0 < len(keys) < 30000 and keys == [b"k%05d" % i for i in range(len(keys))]
    sound(db, where)


@case
def long_delete(where: Path) -> None:
    """It is in the log, so it happens whole."""
    io = RecordingIo(sync=False)
    db = large(where, io)
    interrupted(lambda: db.delete(prefix=b"k"), io.gate("sync", path="wal-*"))
    assert db.range(count_only=True).count == 0
    sound(db, where)


# --- the command line -----------------------------------------------------------------------------

def command(where: Path, io: RecordingIo, gate: Gate, number: int, *arguments: object) -> None:
    """`kvcore ...` in this process, on a recording table: its exit code tells the signal, the store
    is closed, and nothing is left by half."""
    real = kvcore.open
    opened: list[kvcore.Store] = []

    def on_table(path: Any = None, **options: Any) -> kvcore.Store:
        opened.append(real(path, **{"io": io, **options}))
        return opened[-1]

    kvcore.open = on_table
    with open(os.devnull, "w") as null, redirect_stderr(null), redirect_stdout(null):
        code = signalled(lambda ready: (ready(), cli.main([str(a) for a in arguments]))[1], gate,
                         number)
    kvcore.open = real
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], code
    assert opened and all(store.closed for store in opened)
    assert not list(where.parent.glob("*.partial*"))
    sound(real(where, **OPTIONS), where)


def cli_backup(where: Path, number: int) -> None:
    io = RecordingIo(sync=False)
    large(where, io).close()
    target = where.with_name("backup")
    gate = io.gate("write", 3, path="wal-*00[5-9].seg")
    command(where, io, gate, number, "backup", where, target, "--copy")
    assert not target.exists()


def cli_compact(where: Path, number: int) -> None:
    io = RecordingIo(sync=False)
    large(where, io).close()
    command(where, io, io.gate("write", path="checkpoint-*"), number, "compact", where, "--keep",
            "9")
    with kvcore.open(where, **OPTIONS) as db:
        assert db.compact_revision == 60001 - 9  # it was in the log


def cli_import(where: Path, number: int) -> None:
    io = RecordingIo(sync=False)
    with kvcore.open(**OPTIONS) as db:
        db.put_many([(b"k%05d" % i, b"v" * 100) for i in range(9000)])
        file = where.with_name("export")
        file.write_text("".join(export_lines(db)))
    command(where, io, io.gate("sync", 5, path="wal-*"), number, "import", where, file)
    with kvcore.open(where, **OPTIONS) as db:
        keys = [key for key in db.range().keys() if key != b"after"]
        assert 0 < len(keys) < 9000 and keys == [b"k%05d" % i for i in range(len(keys))]


def cli_check(where: Path, number: int) -> None:
    io = RecordingIo(sync=False, map=False)
    large(where, io).close()
    command(where, io, io.gate("read", 900, path="wal-*"), number, "check", where)


def cli_export(where: Path, number: int) -> None:
    io = RecordingIo(sync=False, map=False)
    large(where, io).close()
    file = where.with_name("export")
    file.write_text("the one before")
    command(where, io, io.gate("read", 900, path="wal-*"), number, "export", where, file)
    assert file.read_text() == "the one before"


for _command in (cli_backup, cli_compact, cli_import, cli_check, cli_export):
    for _number in (signal.SIGINT, signal.SIGTERM):
        CASES[f"{_command.__name__}_{_number.name}"] = partial(_command, number=_number)


def main() -> None:
    faulthandler.dump_traceback_later(100, exit=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)     # a background job ignores it
    CASES[sys.argv[1]](Path(sys.argv[2]))
    os.write(1, b"fine\n")


if __name__ == "__main__":
    main()
