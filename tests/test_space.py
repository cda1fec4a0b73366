# SPDX-License-Identifier: Apache-2.0
"""Space comes back: census, moves, retirement, recycling; pins; retention; quota; full disks."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from together import drain

import kvcore
from kvcore import LeaseGrant, Put, Txn
from kvcore.testing.clocks import ManualClock
from kvcore.testing.faults import RecordingIo

Opener = Callable[..., kvcore.Store]
SMALL: dict[str, Any] = {"segment_bytes": 65536, "max_request_bytes": 16384,
                         "maintenance": False}
KEPT = [b"/kept/%03d" % i for i in range(120)]
CHURN = [b"/churn/%02d" % i for i in range(20)]


class Timed:
    """A store of small segments, whose background work and clock a test drives."""

    def __init__(self, open_store: Opener, **options: Any) -> None:
        self.clock = ManualClock()
        self.db = open_store(**{**SMALL, "clock": self.clock, **options})
        self.wanted: dict[bytes, bytes] = {}

    def put(self, items: list[tuple[bytes, bytes]]) -> None:
        self.db.put_many(items)
        self.wanted.update(items)

    def churn(self, rounds: int, compact: bool = True) -> None:
        """A few keys over and over, beside others that stay."""
        for n in range(rounds):
            self.put([(key, b"%03d" % n * 300) for key in CHURN])
            self.put([(KEPT[n % len(KEPT)], b"%03d" % n * 50)])
            if compact and n % 4 == 3:
                self.db.compact(self.db.revision)
            self.work()

    def work(self) -> None:
        for _ in range(3):
            self.clock.advance(11)
            for _ in range(10_000):
                if not self.db.step():
                    break

    def same(self) -> None:
        assert {kv.key: kv.value for kv in self.db.range(prefix=b"/")} == self.wanted
        assert self.db.check() == []
        self.db._check()


@pytest.fixture
def timed(open_store: Opener) -> Timed:
    return Timed(open_store)


def segments(db: kvcore.Store) -> dict[int, str]:
    """inode -> name of the segment files."""
    return {path.stat().st_ino: path.name for path in Path(db.log_path).glob("wal-*.seg")}


# --- moves and retirement ------------------------------------------------------------------------


def test_space_stays_flat(timed: Timed) -> None:
    """Forty times the live data is written; what is used stays near what is live."""
    timed.put([(key, b"k" * 150) for key in KEPT])
    timed.churn(20)
    early = timed.db.status().used_bytes
    timed.churn(80)
    status = timed.db.status()
    assert status.used_bytes <= early + 2 * 65536 < status.log_bytes / 2
    assert status.moved_bytes > 0 and status.retired_segments > 10
    assert status.pinned_bytes == 0
    timed.same()


def test_what_status_says_of_space(timed: Timed) -> None:
    """Live, history and garbage are what the index and the log say, counted by hand."""
    db = timed.db
    timed.put([(b"/a/%d" % i, b"v" * 1000) for i in range(300)])
    timed.put([(b"/a/%d" % i, b"w" * 1000) for i in range(100)])
    db.delete(prefix=b"/a/2")
    for key in [key for key in timed.wanted if key.startswith(b"/a/2")]:
        del timed.wanted[key]
    if db.log_path:
        db.checkpoint()
    else:                                    # in memory nothing is counted until much is garbage
        db.compact(db.revision - 1)
        timed.work()
    status = db.status()
    versions = db._versions()
    newest = {key: mod for key, mod, *_ in versions}
    sizes = {(key, mod): 13 + len(key) + 1000 for key, mod, _, _, v, *_ in versions if v}
    live = sum(n for (key, mod), n in sizes.items() if newest[key] == mod)
    if db.log_path:
        assert (status.live_bytes, status.history_bytes) == (live, sum(sizes.values()) - live)
        assert status.counted_revision == db.revision
        assert status.garbage_bytes > 0
    assert status.write_amplification >= 1.0
    timed.same()


def test_a_checkpoint_for_space_pays(opened: Opener, ram_dir: Path) -> None:
    """It frees four times what it costs to write, or three times its size of log has come: so all
    of them together cost less than 1/3 + 1/4 of the log, however small what one would free is."""
    clock = ManualClock()
    db = opened(ram_dir / "db", **SMALL | {"replay_target": 1e6, "clock": clock})
    keys = [b"/lease/%05d" % i for i in range(3000)]
    for n in range(300):
        db.put_many([(key, b"%03d" % n * 33) for key in keys[n % 10::10]])
        db.compact(db.revision)
        clock.advance(11)
        while db.step():
            pass
    s = db._stats()
    newest = sum(path.stat().st_size for path in Path(db.log_path).glob("checkpoint-*"))
    assert s["checkpoint_bytes"] > 4 * newest    # enough of them to see how often they come
    assert s["checkpoint_bytes"] <= s["log_bytes"] * (1 / 3 + 1 / 4) + newest
    assert db.check() == []


def test_a_put_that_ignores_the_value_keeps_its_cell(timed: Timed) -> None:
    """Two versions name one cell; moved, it is named by both."""
    db = timed.db
    db.put(b"/kept/shared", b"s" * 500)
    first = db.revision
    timed.churn(4, compact=False)
    for _ in range(3):
        db.put(b"/kept/shared", ignore_value=True)
    timed.wanted[b"/kept/shared"] = b"s" * 500
    floor = db.revision
    timed.churn(12, compact=False)
    db.compact(floor - 1)
    timed.work()
    assert db.get(b"/kept/shared", revision=floor).value == b"s" * 500
    assert db.get(b"/kept/shared", revision=floor).create_revision == first
    timed.churn(12)
    assert db.status().moved_bytes > 0
    timed.same()


def test_reopened_after_moves(opened: Opener, ram_dir: Path) -> None:
    """Clean and unclean, from the newest checkpoint and from the older one."""
    timed = Timed(opened, path=ram_dir / "db")
    timed.put([(key, b"k" * 150) for key in KEPT])
    for generation in range(4):
        timed.churn(12)
        if generation % 2:
            timed.db.checkpoint()
        moved = timed.db.status().moved_bytes
        hashed = timed.db.hash()
        timed.db.close()
        if generation == 2:
            newest = max((ram_dir / "db").glob("checkpoint-*.ckp"))
            newest.write_bytes(newest.read_bytes()[:-1])
        timed.db = opened(ram_dir / "db", **SMALL, clock=timed.clock)
        assert timed.db.hash() == hashed and moved > 0
        assert len(timed.db.damaged_checkpoints) == (generation == 2)
        if generation == 2:
            assert "passed over" in timed.db.check()[0]
            max((ram_dir / "db").glob("checkpoint-*.ckp")).unlink()
            timed.db.close()
            timed.db = opened(ram_dir / "db", **SMALL, clock=timed.clock)
        timed.same()


def test_the_older_checkpoint_is_enough_at_any_time(opened: Opener, ram_dir: Path) -> None:
    """Whatever was retired: a newest checkpoint that is damaged is no loss."""
    timed = Timed(opened, path=ram_dir / "db")
    timed.put([(key, b"k" * 150) for key in KEPT])
    seen: set[tuple[int, int]] = set()
    for n in range(24):
        timed.put([(key, b"%03d" % n * 300) for key in CHURN])
        timed.db.compact(timed.db.revision)
        for _ in range(60):
            timed.clock.advance(1)
            timed.db.step()
            status = timed.db.status()
            if (status.checkpoint_number, status.retired_segments) in seen:
                continue
            seen.add((status.checkpoint_number, status.retired_segments))
            checkpoints = sorted((ram_dir / "db").glob("checkpoint-*.ckp"))
            if len(checkpoints) == 2:
                shutil.rmtree(ram_dir / "image", ignore_errors=True)
                shutil.copytree(ram_dir / "db", ram_dir / "image")
                (ram_dir / "image" / checkpoints[1].name).write_bytes(b"")
                with kvcore.open(ram_dir / "image", **SMALL) as db:
                    assert db.hash() == timed.db.hash()
                    assert len(db.check()) == 1 == len(db.damaged_checkpoints)
    assert timed.db.status().retired_segments > 5 and len(seen) > 14


def test_files_are_written_again(opened: Opener, ram_dir: Path) -> None:
    """A retired file becomes a later segment, unless it has another name."""
    timed = Timed(opened, path=ram_dir / "db")
    timed.churn(10)
    before = segments(timed.db)
    timed.churn(30)
    again = segments(timed.db)
    assert {n: name for n, name in before.items() if n in again and again[n] != name}
    link = min((ram_dir / "db").glob("wal-*.seg"))
    os.link(link, ram_dir / "linked")
    content = (ram_dir / "linked").read_bytes()
    timed.churn(60)
    assert not link.exists()
    assert (ram_dir / "linked").stat().st_ino not in segments(timed.db)
    assert (ram_dir / "linked").read_bytes() == content
    timed.same()


def test_a_damaged_value_keeps_its_segment(opened: Opener, ram_dir: Path) -> None:
    """It is neither moved nor lost: check names it as long as it lives."""
    timed = Timed(opened, path=ram_dir / "db")
    timed.put([(b"/kept/damaged", b"d" * 700)])
    position = next(v[-1] for v in timed.db._versions())
    timed.churn(3)
    path = ram_dir / "db" / f"wal-{position // 65536:016d}.seg"
    with path.open("r+b") as file:
        file.seek(position % 65536 + 100)
        file.write(b"D")
    timed.churn(60)
    assert path.exists() and timed.db.status().retired_segments > 5
    with pytest.raises(kvcore.CorruptError):
        timed.db.get(b"/kept/damaged")
    assert len(timed.db.check()) == 1
    timed.db.delete(b"/kept/damaged")
    del timed.wanted[b"/kept/damaged"]
    timed.churn(12)
    assert not path.exists()
    timed.same()


# --- pins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["range", "value", "snapshot", "future", "txn", "prev"])
def test_results_keep_what_they_name(timed: Timed, kind: str) -> None:
    """What was returned is readable however much is retired, and lets go when it is dropped."""
    db = timed.db
    timed.put([(key, b"k" * 150) for key in KEPT])
    timed.put([(key, b"old" * 100) for key in CHURN])
    expected = dict(timed.wanted)
    held: Any
    if kind == "range":
        held = db.range(prefix=b"/")
    elif kind == "value":
        held = list(db.range(prefix=b"/"))
    elif kind == "snapshot":
        held = db.snapshot()
    elif kind == "future":
        held = db.submit(kvcore.Range(prefix=b"/"))
    elif kind == "txn":
        held = db.txn([], [kvcore.Range(prefix=b"/")])
    else:
        held = db.delete(prefix=b"/", prev=True)
        timed.wanted.clear()
    timed.churn(40)
    status = db.status()
    assert status.pinned_bytes > 0 or kind == "snapshot"
    found = held
    if kind == "snapshot":
        found = held.range(prefix=b"/")
    elif kind == "future":
        found = held.result()
    elif kind == "txn":
        found = held.responses[0]
    elif kind == "prev":
        found = held.prev
    assert {kv.key: kv.value for kv in found} == expected
    if kind == "snapshot":
        held.release()
    del held, found
    gc.collect()
    timed.work()
    assert db.status().pinned_bytes == 0
    timed.churn(8)
    timed.same()


def test_a_value_that_was_read_keeps_nothing(timed: Timed) -> None:
    """Touched, and kept for ever: its segment goes."""
    timed.put([(key, b"old" * 100) for key in CHURN])
    kept = list(timed.db.range(prefix=b"/churn"))
    values = [kv.value for kv in kept]
    timed.churn(30)
    assert timed.db.status().pinned_bytes == 0
    assert [kv.value for kv in kept] == values == [b"old" * 100] * len(CHURN)


def test_events_survive_retirement(timed: Timed) -> None:
    """Taken before: readable. Not taken: from history, or CompactedError. Cached: readable."""
    db = timed.db
    early, late, cache = db.watch(prev_kv=True), db.watch(), kvcore.WatchCache("all", capacity=100)
    timed.churn(2, compact=False)
    batch = early.get_batch(limit=10_000)
    for response in drain(db.watch(start_revision=2)):
        for event in response.events:
            cache.add_event(event)
    timed.churn(40)
    assert db.status().retired_segments > 5
    assert {event.kv.value for event in batch if event.kv.key in CHURN} == {
        b"000" * 300, b"001" * 300}
    assert [event.prev_kv.value for event in batch if event.prev_kv] == [b"000" * 300] * len(CHURN)
    assert {event.value for event in cache.events_since(cache.stats().oldest_version)} <= {
        b"000" * 300, b"001" * 300, b"000" * 50, b"001" * 50}
    with pytest.raises(kvcore.CompactedError):
        drain(late)
    with db.watch(start_revision=db.compact_revision) as again:
        assert [r.revision for r in drain(again)] == list(
            range(db.compact_revision, db.revision + 1))
    del batch, cache
    early.cancel()
    timed.same()


def test_a_watch_reads_history_while_segments_go(timed: Timed) -> None:
    """What a pass over history found is found again when segments went meanwhile."""
    db = timed.db
    timed.put([(key, b"%d" % n * 300) for n, key in enumerate(KEPT)])
    floor = db.revision
    watch = db.watch(prefix=b"/kept/", start_revision=2)
    first = watch.get_batch(limit=5)
    for n in range(30):
        timed.put([(key, b"%03d" % n * 200) for key in CHURN])
        db.compact(db.revision) if n > 28 else db.compact(2) if n == 0 else None
        timed.work()
    del floor
    revisions = [event.kv.mod_revision for event in first]
    try:
        for response in drain(watch):
            revisions += [event.kv.mod_revision for event in response.events]
            assert all(event.kv.value for event in response.events)
    except kvcore.CompactedError:
        assert len(revisions) < len(KEPT)
    assert revisions == list(range(2, 2 + len(revisions)))


def test_the_next_page_after_moves(opened: Opener) -> None:
    """A snapshot kept for the next page of a list does not lead to where a value lay before."""
    timed = Timed(opened)
    db = timed.db
    for i in range(2500):
        timed.put([(b"/p/%04d" % i, b"%d" % i * 30), (CHURN[i % 20], b"c" * 1000)])
    page = db.range(prefix=b"/p/", limit=500)
    revision, values, last = page.revision, page.values(), page.keys()[-1]
    del page                                 # it would keep the segments, too
    timed.put([(b"/p/%04d" % i, b"new") for i in range(2500)])
    db.compact(revision)
    for _ in range(200):                     # the clock stands still: the snapshot is kept
        db.step()
    assert db.status().moved_bytes > 0 and db.status().retired_segments > 0
    rest = db.range(last + b"\0", b"/p0", limit=2000, revision=revision)
    assert values + rest.values() == [b"%d" % i * 30 for i in range(2500)]


# --- retention -----------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 10, 1000])
def test_history_by_number(open_store: Opener, keep: int) -> None:
    """The newest revisions are always there; what is much older is not."""
    timed = Timed(open_store, history=keep)
    for n in range(60):
        timed.put([(key, b"%d" % n) for key in CHURN])
        timed.work()
        db = timed.db
        for revision in range(max(1, db.revision - keep), db.revision + 1, 7):
            db.range(prefix=b"/", revision=revision)
        assert db.revision - db.compact_revision <= keep + keep // 16 + 1 + len(CHURN) or (
            db.compact_revision == 0 and db.revision <= keep + keep // 16 + 1 + len(CHURN))
    timed.same()


def test_history_by_age(open_store: Opener) -> None:
    """A revision that was the newest within the age is there; older ones go."""
    timed = Timed(open_store, history=timedelta(seconds=480))
    shown: list[tuple[float, int]] = []
    now = 0.0
    rng = random.Random(3)
    for n in range(200):
        timed.put([(rng.choice(CHURN), b"%d" % n)])
        shown.append((now, timed.db.revision))
        pause = rng.choice([1, 5, 20])
        timed.clock.advance(pause)
        now += pause
        timed.db.step()
        timed.db.step()
        oldest = max((rev for at, rev in shown if at <= now - 480), default=1)
        assert timed.db.compact_revision <= oldest
        gone = max((rev for at, rev in shown if at <= now - 480 - 2 * (480 / 48) - 20), default=0)
        assert timed.db.compact_revision >= gone
    assert timed.db.compact_revision > 50
    timed.same()


def test_history_after_a_reopen(opened: Opener, ram_dir: Path) -> None:
    """Times are not known any more: kept for the whole age again."""
    timed = Timed(opened, path=ram_dir / "db", history=timedelta(seconds=100))
    timed.put([(b"/a", b"%d" % n) for n in range(10)])
    timed.clock.advance(99)
    timed.db.step()
    timed.db.close()
    timed.db = opened(ram_dir / "db", **SMALL, clock=timed.clock, history=timedelta(seconds=100))
    timed.db.step()
    timed.clock.advance(99)
    timed.db.step()
    assert timed.db.compact_revision == 0
    timed.clock.advance(2)
    timed.db.step()
    assert timed.db.compact_revision == timed.db.revision


@pytest.mark.parametrize("history", [0, -1, timedelta(0), timedelta(seconds=-1), 1.5, "5m",
                                     timedelta(days=99999), 2**63])
def test_wrong_history(history: Any) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        kvcore.open(history=history)


# --- quota ---------------------------------------------------------------------------------------

QUOTA = 12 * 65536


def fill(db: kvcore.Store, prefix: bytes = b"/fill/") -> int:
    """Puts until there is no more space; how many went in."""
    for n in range(100_000):
        try:
            db.put(prefix + b"%06d" % n, b"f" * 3000)
        except kvcore.NoSpaceError:
            return n
    raise AssertionError("never full")


def test_quota(open_store: Opener) -> None:
    """Full: reads, deletes and compaction go on, puts do not; emptied and disarmed: all goes on."""
    timed = Timed(open_store, quota=QUOTA)
    db = timed.db
    count = fill(db)
    assert 100 < count < QUOTA // 3000
    assert db.status().used_bytes <= QUOTA
    assert db.alarms() == ("NOSPACE",) == db.status().alarms
    refused: list[Callable[[], Any]] = [
        lambda: db.put(b"k", b"v"), lambda: db.put_many([(b"k", b"v")]),
        lambda: db.submit(Put(b"k", b"v")), lambda: db.lease(10), lambda: db.submit(LeaseGrant(9)),
        lambda: db.txn([], [], [Txn([], [Put(b"k", b"v")])])]
    for call in refused:
        with pytest.raises(kvcore.NoSpaceError, match="database space exceeded"):
            call()
    assert db.range(prefix=b"/fill/", count_only=True).count == count
    assert db.txn([], [kvcore.Get(b"/fill/000001")]).responses[0].value == b"f" * 3000
    db.disarm()
    with pytest.raises(kvcore.NoSpaceError):     # the cause is still there
        db.put(b"k", b"v")
    assert db.delete(prefix=b"/fill/").deleted == count
    db.compact(db.revision)
    timed.work()
    with pytest.raises(kvcore.NoSpaceError):     # until it is disarmed, as etcd's
        db.put(b"k", b"v")
    db.disarm()
    assert db.alarms() == ()
    db.disarm()
    assert fill(db) > count // 2
    db.delete(prefix=b"/fill/")
    assert db.check() == []


def test_the_alarm_survives(opened: Opener, ram_dir: Path) -> None:
    """In the log, and in a checkpoint."""
    timed = Timed(opened, path=ram_dir / "db", quota=QUOTA)
    fill(timed.db)
    for checkpoint in (False, True):
        if checkpoint:
            timed.db.checkpoint()
        timed.db.close()
        timed.db = opened(ram_dir / "db", **SMALL, clock=timed.clock)
        assert timed.db.alarms() == ("NOSPACE",)
        with pytest.raises(kvcore.NoSpaceError):
            timed.db.put(b"k", b"v")
    timed.db.disarm()
    timed.db.close()
    timed.db = opened(ram_dir / "db", **SMALL)
    assert timed.db.alarms() == () and timed.db.put(b"k", b"v")


def test_random_overwrites_at_the_quota(open_store: Opener) -> None:
    """Live data of half the quota, overwritten at random for long: moves make room in time."""
    timed = Timed(open_store, quota=16 * 65536, history=50)
    rng = random.Random(5)
    keys = [b"/r/%03d" % i for i in range(150)]
    for n in range(1500):
        timed.put([(rng.choice(keys), b"%d" % n * 500)])
        if n % 10 == 0:
            timed.work()
    assert timed.db.alarms() == ()
    assert timed.db.status().moved_bytes > 0
    timed.same()


def test_a_quota_too_small() -> None:
    with pytest.raises(ValueError, match="at least 4 segments"):
        kvcore.open(quota=1 << 20)


def test_status_can_be_kept(timed: Timed) -> None:
    assert pickle.loads(pickle.dumps(timed.db.status())) == timed.db.status()


# --- full disks ----------------------------------------------------------------------------------
_SMALL_DISK = """
import os, subprocess, sys
import kvcore
disk, seconds = sys.argv[1], 0
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
from kvcore.testing.clocks import ManualClock
from kvcore.testing.faults import RecordingIo
clock = ManualClock()
options = dict(segment_bytes=65536, max_request_bytes=16384, maintenance=False, clock=clock,
               sync=sys.argv[2])

def work():
    for _ in range(6):
        clock.advance(61)
        for _ in range(3000):
            if not db.step():
                break

db = kvcore.open(disk + "/db", **options)
counts = []
for turn in range(3):
    count = 0
    try:
        while True:
            db.put(b"/%d/%06d" % (turn, count), b"f" * 2000)
            count += 1
            if count % 10 == 0:
                clock.advance(1.1)
                db.step()
    except kvcore.NoSpaceError:
        counts.append(count)
    # the last byte, too: whatever else is on the disk wants to grow
    with open(disk + "/ballast", "wb", buffering=0) as ballast:
        try:
            while ballast.write(b"b" * 512):
                pass
        except OSError:
            pass
    assert os.statvfs(disk).f_bavail == 0
    assert db.range(prefix=b"/%d/" % turn, count_only=True).count == count
    assert db.get(b"/%d/%06d" % (turn, count // 2)).value == b"f" * 2000
    assert db.delete(prefix=b"/").deleted == count
    db.compact(db.revision)
    work()
    os.unlink(disk + "/ballast")
    work()
    if turn == 1:
        db.close()
        db = kvcore.open(disk + "/db", **options)
    assert db.check() == [] and db.status().keys == 0
assert min(counts) > 1000, counts
db.close()
print("fine", counts)
"""


def can_mount() -> list[str]:
    """How a file system of one's own can be had here, in a namespace that goes with the process."""
    ways = (["unshare", "-m"], ["unshare", "-Urm"])
    for way in ways:
        probe = [*way, "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
        if shutil.which("unshare") and subprocess.run(probe, capture_output=True).returncode == 0:
            return way
    return []


@pytest.mark.parametrize("sync", ["always", "off"])
def test_a_disk_filled_to_the_last_byte(tmp_path: Path, counts: Counter[str], sync: str) -> None:
    """A real file system of 4 MiB: full, emptied, full again; what was put is there until then.

    Where no file system may be mounted there is the fault layer's (test_no_next_segment)."""
    way = can_mount()
    if way:
        done = subprocess.run([*way, sys.executable, "-W", "error", "-c", _SMALL_DISK,
                               str(tmp_path), sync], capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stdout[:4]) == (0, "fine"), done.stderr
    counts["small disks filled" if way else "small disks that may not be mounted here"] += 1


def test_no_next_segment(opened: Opener, ram_dir: Path) -> None:
    """The disk is full: puts stop an eighth before the end of the segment, deletes go on."""
    io = RecordingIo()
    db = opened(ram_dir / "db", io=io, **SMALL)
    for n in range(14):
        io.fail("allocate", n, errno.ENOSPC)
    count = 0
    with pytest.raises(kvcore.NoSpaceError):
        for count in range(200):
            db.put(b"/%06d" % count, b"f" * 500)
            if count in (70, 80):            # past the middle the next segment is tried for
                db.step()
    assert abs(count * 640 - 65536 * 7 // 8) < 1300      # a put takes 640 bytes of log
    assert db.alarms() == ()
    assert db.delete(prefix=b"/00000").deleted == 10
    db.compact(db.revision)
    for _ in range(1000):                    # the disk has room again some time
        db.step()
    for n in range(300):
        db.put(b"/again/%d" % n, b"f" * 500)
        db.step()
    assert db.check() == [] and db.status().segments > 2
