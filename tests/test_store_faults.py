# SPDX-License-Identifier: Apache-2.0
"""Calls of the operating system that fail, one at a time, anywhere in a store's life.

Whatever fails: nothing acknowledged is lost, the request it hit is whole or absent, nothing is
written behind a failed write or sync of the log, reads go on, and the directory opens again.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kvcore
from kvcore.testing.faults import RecordingIo

OPTIONS: dict[str, Any] = {"segment_bytes": 65536, "max_request_bytes": 16384,
                           "maintenance": False, "replay_target": 0.0}
KINDS = ["open", "close", "write", "allocate", "truncate", "sync", "rename", "unlink",
         "sync_dir", "map"]


class Life:
    """A store that puts, steps, checkpoints and compacts while something fails."""

    def __init__(self, directory: Path, io: RecordingIo, sync: str) -> None:
        self.db = kvcore.open(directory, io=io, sync=sync, **OPTIONS)
        self.acked: dict[bytes, bytes] = {}
        self.unknown: dict[bytes, bytes] = {}
        self.errors: list[str] = []

    def attempt(self, call: Callable[[], Any]) -> bool:
        try:
            call()
        except kvcore.StorageError as error:
            self.errors.append(type(error).__name__)
            return False
        return True

    def live(self) -> None:
        for i in range(14):
            key, value = b"k%02d" % i, b"%02d" % i * 3500
            if self.attempt(lambda key=key, value=value: self.db.put(key, value)):
                self.acked[key] = value
            elif self.errors[-1] == "OutcomeUnknownError":
                self.unknown[key] = value
            self.db.step()
            if i in (4, 8):
                self.attempt(self.db.checkpoint)
            if i == 10:
                self.attempt(lambda: self.db.compact(self.db.revision))
                self.attempt(self.db.sync)
        for key, value in self.acked.items():
            assert self.db.get(key).value == value
        self.db._check()


def first_error_stays(life: Life) -> None:
    """At most one request's outcome is unknown; behind it nothing is written any more."""
    assert life.errors.count("OutcomeUnknownError") <= 1
    if "OutcomeUnknownError" in life.errors:
        at = life.errors.index("OutcomeUnknownError")
        assert set(life.errors[at + 1:]) <= {"PoisonedError", "StorageError"}
        assert life.db.status().poisoned
    if life.db.status().poisoned:
        with pytest.raises(kvcore.PoisonedError, match="No space left on device"):
            life.db.put(b"more")
        with pytest.raises(kvcore.PoisonedError):
            life.db.submit(kvcore.Put(b"more")).result(60)


@pytest.mark.parametrize("sync", ["always", "off"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_failure(kind: str, sync: str, ram_dir: Path, counts: Counter[str]) -> None:
    """The nth call of a kind fails, for every n of a store's life."""
    nth, poisoned = 1, 0
    while True:
        directory, io = ram_dir / f"{nth}", RecordingIo()
        life = Life(directory, io, sync)
        before = io.calls(kind)
        io.fail(kind, nth, errno.ENOSPC)
        life.live()
        reached = io.calls(kind) - before >= nth
        first_error_stays(life)
        poisoned += life.db.status().poisoned
        life.attempt(life.db.close)
        with kvcore.open(directory, sync=sync, **OPTIONS) as again:
            assert again.check() == []
            found = {kv.key: kv.value for kv in again.range()}
            assert life.acked.items() <= found.items()
            assert found.items() <= {**life.acked, **life.unknown}.items()
            assert again.put(b"on").revision > len(life.acked)
        if not reached:
            break
        counts["system calls failed"] += 1
        nth += 1
    assert nth > 1 or kind in ("truncate", "close")
    assert poisoned == 0 or kind not in ("unlink", "map", "close")
    assert poisoned > 0 or kind not in ("write", "sync")


def test_short_write(ram_dir: Path) -> None:
    """A write that stops in the middle leaves a tear, which the next open cuts."""
    for short in (0, 1, 63, 64, 65, 512, 6999):
        io = RecordingIo()
        db = kvcore.open(ram_dir / f"{short}", io=io, **OPTIONS)
        db.put(b"a", b"1")
        io.fail("write", 1, errno.EIO, short_bytes=short)
        with pytest.raises(kvcore.OutcomeUnknownError):
            db.put(b"b", b"v" * 7000)
        assert db.get(b"a").value == b"1"
        assert db.get(b"b") is None
        assert db.revision == 2
        db.close()
        with kvcore.open(ram_dir / f"{short}", **OPTIONS) as again:
            assert again.range().keys() == [b"a"]
            assert again.check() == []
            assert again.put(b"b").revision == 3


def test_failed_read(ram_dir: Path) -> None:
    """Without a mapping a read can fail: it says so, and the next one is right."""
    io = RecordingIo(map=False)
    db = kvcore.open(ram_dir, io=io, **OPTIONS)
    db.put(b"a", b"1")
    page = db.range()
    for call in (lambda: db.get(b"a"), page.values, db.hash,
                 lambda: db.txn([kvcore.Compare.value(b"a") == b"1"])):
        io.fail("read", 1, errno.EIO)
        with pytest.raises(kvcore.StorageError):
            call()
        call()
    assert page.values() == [b"1"]
    db.close()


@pytest.mark.parametrize("mapped", [True, False])
def test_without_mapping(mapped: bool, ram_dir: Path) -> None:
    """Reads through read_at and through mappings are the same, behind a reopen and close too."""
    wanted = [b"%d" % i * 900 for i in range(60)]
    io = RecordingIo(map=mapped)
    db = kvcore.open(ram_dir, io=io, **OPTIONS)
    db.put_many([(b"%02d" % i, value) for i, value in enumerate(wanted)])
    db.checkpoint()
    db.txn([kvcore.Compare.value(b"00") == wanted[0]], [kvcore.Put(b"x")])
    db.close()
    db = kvcore.open(ram_dir, io=io, **OPTIONS)
    page = db.range(prefix=b"", limit=60)
    assert [kv.value for kv in db.get_many(page.keys())] == wanted
    assert db.get(b"x") is not None
    assert db.check() == []
    assert page.values() == wanted
    db.close()
