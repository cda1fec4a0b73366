# SPDX-License-Identifier: Apache-2.0
"""Calls of the operating system that fail, one at a time and in pairs, anywhere in a store's life.

Whatever fails: nothing acknowledged is lost, the request it hit is whole or absent, nothing is
written behind a failed write or sync of the log, reads go on, and the directory opens again.
A soak tries more pairs.
"""

from __future__ import annotations

import errno
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fault_lives import LIVES, OPTIONS, Plain
from soak import Soaking

import kvcore
from kvcore.testing.faults import RecordingIo

KINDS: list[Any] = ["open", "close", "write", "allocate", "truncate", "sync", "begin_sync",
                    "rename", "unlink", "sync_dir", "map", "read"]
ERRNOS = [errno.ENOSPC, errno.EIO, errno.EINTR]
NEVER = {"unlink", "map", "close", "truncate", "read"}        # kinds that never stop the log


def test_the_lives_are_lived(ram_dir: Path) -> None:
    """Without a failure they do what they are for."""
    for name, kind in LIVES.items():
        io = RecordingIo()
        life = kind(ram_dir / name, io)
        life.live()
        assert not life.failed
        status = life.db.status()
        names = [(Path(op.path).name, Path(op.to).name) for op in io.ops() if op.kind == "rename"]
        again = [a for a, b in names if a.startswith("wal-") and a.endswith(".seg")]
        if name == "space":
            assert status.moved_bytes > 0 and status.retired_segments > 3 and again
            assert status.compact_revision > 100 and status.checkpoint_number > 3
            assert status.leases == 0 and life.db.revision > 300
        assert status.segments > 1 and status.checkpoint_number
        assert name != "backup" or len(list(life.root.glob("backup?"))) == 3
        life.end()


def one_life(root: Path, life: str, sync: str, plans: list[tuple[Any, int, int, dict[str, Any]]],
             counts: Counter[str]) -> tuple[bool, bool]:
    """A life with these plans; whether it was poisoned, and whether the first plan struck."""
    io = RecordingIo()
    lived = LIVES[life](root, io, sync=sync)
    before = io.calls(plans[0][0])
    for kind, nth, number, more in plans:
        io.fail(kind, nth, number, **more)
    lived.live()
    reached = io.calls(plans[0][0]) - before >= plans[0][1]
    poisoned = not lived.db.closed and lived.db.status().poisoned
    lived.end(strict=len(plans) == 1)
    counts["system calls failed"] += io.struck
    return poisoned, reached


@pytest.mark.parametrize("sync", ["always", "off"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("life", LIVES)
def test_one_failure(life: str, kind: str, sync: str, ram_dir: Path, counts: Counter[str]) -> None:
    """The nth call of a kind fails, for every n of a store's life."""
    nth, lives, poisoned, reached = 1, 0, 0, True
    while reached:
        stopped, reached = one_life(ram_dir / f"{nth}", life, sync,
                                    [(kind, nth, ERRNOS[lives % 3], {})], counts)
        poisoned += stopped
        lives += reached
        nth += 1
    assert lives or kind in ("truncate", "read", "map", "unlink", "begin_sync")
    assert poisoned == 0 or kind not in NEVER
    assert poisoned > 0 or kind not in ("write", "sync") or life == "opens"


@pytest.mark.parametrize("sync", ["always", "off"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", ERRNOS[1:])
def test_other_errors(number: int, kind: str, sync: str, ram_dir: Path,
                      counts: Counter[str]) -> None:
    """Each call of the short life with each other error."""
    nth, reached = 1, True
    while reached:
        _, reached = one_life(ram_dir / f"{nth}", "plain", sync, [(kind, nth, number, {})], counts)
        nth += 1


@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_from_there_on(life: str, kind: str, ram_dir: Path, counts: Counter[str]) -> None:
    """Every call of a kind fails from the nth on: of the log, of checkpoints, of any file."""
    for nth, pattern in ((1, None), (4, "wal-*"), (2, "checkpoint-*"), (23, None)):
        one_life(ram_dir / f"{nth}", life, "always",
                 [(kind, nth, ERRNOS[nth % 3], {"times": None, "path": pattern})] * 1, counts)


def random_pair(rng: random.Random) -> list[tuple[Any, int, int, dict[str, Any]]]:
    """Two plans: anything, anywhere."""
    plans = []
    for _ in range(2):
        kind = rng.choice(KINDS)
        nth = rng.choice([rng.randrange(1, 8), rng.randrange(1, 40), rng.randrange(1, 200)])
        more: dict[str, Any] = {"times": rng.choice([1, 1, 2, 5, None]),
                                "path": rng.choice([None, None, "wal-*", "checkpoint-*", "*.tmp"])}
        if kind == "write":
            more["short_bytes"] = rng.choice([0, 0, 1, 63, 64, 512, 4095, 70000])
        plans.append((kind, nth, rng.choice(ERRNOS), more))
    return plans


@pytest.mark.soak
@pytest.mark.parametrize("life", LIVES)
def test_pairs(life: str, ram_dir: Path, counts: Counter[str], soaking: Soaking) -> None:
    """Two plans at once, seeded; a failing seed names itself."""
    for seed in soaking(40):
        rng = random.Random(f"{life}{seed}")
        plans = random_pair(rng)
        try:
            one_life(ram_dir / f"{seed}", life, rng.choice(["always", "off", "interval"]), plans,
                     counts)
        except BaseException as error:
            error.add_note(f"seed {seed}: {plans}")
            raise
        counts["pairs of failures"] += 1


@pytest.mark.parametrize("short", [1, 63, 64, 100, 512, 3600])
def test_short_writes_anywhere(short: int, ram_dir: Path, counts: Counter[str]) -> None:
    """The nth write stops in the middle."""
    nth, reached = 1, True
    while reached:
        _, reached = one_life(ram_dir / f"{nth}", "plain", "always",
                              [("write", nth, errno.EIO, {"short_bytes": short})], counts)
        nth += 1


def test_the_errno_is_told(ram_dir: Path) -> None:
    """Who meets a stopped log is told why it stopped."""
    io = RecordingIo()
    life = Plain(ram_dir / "root", io)
    io.fail("sync", 2, errno.ENOSPC)
    life.live()
    for call in (lambda: life.db.put(b"more"),
                 lambda: life.db.submit(kvcore.Put(b"more")).result(60)):
        with pytest.raises(kvcore.PoisonedError, match="No space left on device"):
            call()
    life.end()


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
