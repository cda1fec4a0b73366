# SPDX-License-Identifier: Apache-2.0
"""Lives of a store for the fault layer: each a run of verbs and background work that anything in
may fail, and the proof behind it.

    plain   puts, steps, checkpoints, compaction
    space   overwrites, retention, leases that expire, moves, retirement, recycling
    backup  the same beside backups
    opens   opened, written to, closed, again and again
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ledger import Ledger

import kvcore
from kvcore.testing.clocks import ManualClock
from kvcore.testing.faults import RecordingIo

OPTIONS: dict[str, Any] = {"segment_bytes": 65536, "max_request_bytes": 16384,
                           "maintenance": False, "replay_target": 0.0}
ERRORS = (kvcore.StorageError, kvcore.NoSpaceError)


class Life(Ledger):
    """A store on a recording table; `io` may fail whatever it wants once it is open."""

    def __init__(self, root: Path, io: RecordingIo, **options: Any) -> None:
        super().__init__(*ERRORS)
        self.root = root
        self.io = io
        self.clock = ManualClock()
        self.options = {**OPTIONS, "clock": self.clock, **options}
        self.db = self.open()

    def open(self) -> kvcore.Store:
        return kvcore.open(self.root / "db", io=self.io, **self.options)

    def put(self, key: bytes, value: bytes, **more: Any) -> None:
        self.write({key: value}, lambda: self.db.put(key, value, **more))

    def steps(self, count: int, seconds: float) -> None:
        for _ in range(count):
            self.clock.advance(seconds)
            self.ask(self.db.step)

    def end(self, strict: bool = True) -> None:
        """Reads go on; behind a failure of the log nothing is written; the directory opens.

        strict: one call failed, so that at most one request's outcome is unknown, and reads go
        on whatever still fails; two may leave no way to read."""
        if not strict:
            self.io.heal()
        unknown = [e for e in self.failed if type(e) is kvcore.OutcomeUnknownError]
        assert len(unknown) <= 1 or not strict
        if not self.db.closed:
            poisoned = self.db.status().poisoned
            assert poisoned or not unknown or type(self) is Opens
            behind = self.failed[self.failed.index(unknown[0]) + 1:] if unknown else []
            for key in self.may:
                self.same(key, self.db.get(key))
            self.db._check()
            problems = [p for p in self.db.check() if "passed over" not in p]
            assert problems == [], problems
            self.write({b"more": b""}, lambda: self.db.put(b"more"))
            assert not poisoned or isinstance(self.failed[-1], kvcore.PoisonedError)
            if type(self) is not Opens:      # whose failures are those of several logs
                assert not any(type(e) is kvcore.NoSpaceError for e in behind)
            self.ask(self.db.close)
        self.io.heal()
        self.reopened()

    def reopened(self) -> None:
        with kvcore.open(self.root / "db", **self.options) as again:
            assert again.check() == []
            again._check()
            self.holds(again)
            again.put(b"on")
            again.delete(b"on")
            again.checkpoint()
        with kvcore.open(self.root / "db", **self.options) as again:
            assert again.recovery.clean and again.check() == []
            self.holds(again)
        shutil.rmtree(self.root)


class Plain(Life):
    """Puts that fill three segments, two checkpoints, a compaction."""

    def live(self) -> None:
        for i in range(14):
            self.put(b"k%02d" % i, b"%02d" % i * 3500)
            self.steps(1, 0)
            if i in (4, 8):
                self.ask(self.db.checkpoint)
            if i == 10:
                self.ask(lambda: self.db.compact(self.db.revision))
                self.ask(self.db.sync)


class Space(Life):
    """Few keys over and over beside others that stay: segments are emptied and written again."""

    def __init__(self, root: Path, io: RecordingIo, **options: Any) -> None:
        super().__init__(root, io, history=60, **{"replay_target": 0.0005, **options})

    def live(self) -> None:
        for n in range(20):
            items = {b"c/%02d" % i: b"%03d" % n * 500 for i in range(18)}
            items[b"s/%d" % n] = b"s" * 600
            self.write(items, lambda items=items: self.db.put_many(items.items()))
            if n % 5 == 1:
                lease = self.ask(lambda n=n: self.db.lease(15, id=n + 1))
                if lease is not None:
                    self.put(b"l/%d" % n, b"leased", lease=lease.id)
            for i in range(1, n):                # those may have expired, or not yet
                if b"l/%d" % i in self.may:
                    self.may[b"l/%d" % i].add(None)
            self.steps(10, 2.5)


class Backup(Space):
    """Backups between: whole under their names, or not there."""

    def live(self) -> None:
        for n in range(3):
            items = {b"c/%02d" % i: b"%03d" % n * 900 for i in range(18)}
            self.write(items, lambda items=items: self.db.put_many(items.items()))
            target = self.root / f"backup{n}"
            self.ask(lambda target=target, n=n: self.db.backup(target, link=n == 1))
            self.steps(6, 3)
        for target in self.root.glob("backup?"):
            kvcore.restore(target, self.root / "restored")
            with kvcore.open(self.root / "restored") as db:
                for kv in db.range():
                    assert kv.key in self.may
            shutil.rmtree(self.root / "restored")
        assert not list(self.root.glob("*.partial*"))


class Opens(Life):
    """Opened and closed, cleanly and not, and everything that an open does may fail."""

    def live(self) -> None:
        for n in range(4):
            for i in range(3):
                self.put(b"%d/%d" % (n, i), b"v" * 9000)
            if n == 1:
                self.ask(self.db.checkpoint)
            if n == 2:
                self.steps(8, 1)
            self.ask(self.db.close)
            assert self.db.closed
            self.db = self.opened_at_last()

    def opened_at_last(self) -> kvcore.Store:
        """An open that failed has changed nothing: the next one may do it."""
        for _ in itertools.repeat(None, 3):
            db = self.ask(self.open)
            if db is not None:
                return db
        self.io.heal()
        return self.open()


LIVES: dict[str, Callable[..., Any]] = {"plain": Plain, "space": Space, "backup": Backup,
                                        "opens": Opens}
