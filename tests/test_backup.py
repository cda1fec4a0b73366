# SPDX-License-Identifier: Apache-2.0
"""Backups: one revision exactly, made while others write; whole or absent; apart from the source.

The model of a run is the list of its acknowledged changes by revision: what a restored store shows,
and its hash, must be that list up to the backup's revision.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kvcore
from kvcore import _files, _salvage, _wal
from kvcore.repair import repair
from kvcore.testing.faults import CrashImages, Op, RecordingIo

SMALL: dict[str, Any] = {"segment_bytes": 65536, "max_request_bytes": 16384}
Change = tuple[int, bytes, bytes | None]      # revision, key, value; None: deleted


class Writers:
    """Threads that put and delete until told to stop; every change that was acknowledged."""

    def __init__(self, db: kvcore.Store, threads: int = 4) -> None:
        self.db = db
        self.changes: list[Change] = []
        self.stop = threading.Event()
        self.many = threading.Condition()
        self.threads = [threading.Thread(target=self._write, args=(n,)) for n in range(threads)]

    def __enter__(self) -> Writers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _write(self, number: int) -> None:
        rng = random.Random(number)
        while not self.stop.is_set():
            key = b"/%d/%d" % (number, rng.randrange(150))
            if rng.random() < 0.1:
                done = self.db.delete(key)
                change: Change | None = (done.revision, key, None) if done.deleted else None
            else:
                value = rng.randbytes(rng.randrange(900))
                change = (self.db.put(key, value).revision, key, value)
            with self.many:
                self.changes += [change] if change else []
                self.many.notify_all()

    def wait_for(self, more: int) -> None:
        """Until so many further changes are there."""
        with self.many:
            target = len(self.changes) + more
            assert self.many.wait_for(lambda: len(self.changes) >= target, 120)


def reference(changes: list[Change], revision: int, compacted: int) -> kvcore.Store:
    """A store in memory that made the same changes, up to a revision."""
    db = kvcore.open()
    for at, key, value in sorted(changes):
        if at <= revision:
            done = db.delete(key) if value is None else db.put(key, value)
            assert done.revision == at
    if compacted:
        db.compact(compacted)
    return db


def same(directory: Path, changes: list[Change], revision: int) -> None:
    """A directory opens clean, at this revision, with what was changed up to it."""
    with kvcore.open(directory) as db:
        assert db.recovery.clean and db.revision == revision
        assert db.check() == []
        with reference(changes, revision, db.compact_revision) as wanted:
            assert db.hash() == wanted.hash()
            assert {kv.key: kv.value for kv in db.range()} == {
                kv.key: kv.value for kv in wanted.range()}
        assert db.put(b"after").revision == revision + 1


def contents(directory: Path, sizes: dict[str, int] | None = None) -> dict[str, bytes]:
    """Bytes of each file, as far as the manifest counts them."""
    manifest = json.loads((directory / "MANIFEST").read_bytes())
    return {entry["name"]: (directory / entry["name"]).read_bytes()[: entry["bytes"]]
            for entry in manifest["files"]}


@pytest.mark.parametrize(("sync", "link"), [("always", True), ("always", False),
                                            ("interval", True), ("off", True)])
def test_backups_while_four_write(ram_dir: Path, counts: Counter[str], nothing_hangs: None,
                                  sync: str, link: bool) -> None:
    """Retention, moves and recycling go on; linked files stay what they were."""
    with kvcore.open(ram_dir / "db", sync=sync, history=200, replay_target=0.001, **SMALL) as db:
        made: list[tuple[Path, kvcore.BackupResult, dict[str, bytes]]] = []
        with Writers(db) as writers:
            for number in range(5):
                writers.wait_for(600)
                path = ram_dir / f"backup{number}"
                result = db.backup(path, link=link)
                made.append((path, result, contents(path)))
            retired = db.status().retired_segments
            while db.status().retired_segments < retired + 8 or not db.status().moved_bytes:
                writers.wait_for(300)        # files of the backups' time are given back
    for path, result, before in made:
        assert contents(path) == before
        assert (sum(r.linked_bytes for _, r, _ in made) > 0) == link
        assert result.bytes == sum(map(len, before.values()))
        restored = kvcore.restore(path, ram_dir / f"restored-{path.name}")
        assert restored.revision == result.revision
        assert contents(path) == before
        same(ram_dir / f"restored-{path.name}", writers.changes, result.revision)
        same(path, writers.changes, result.revision)
        counts["backups restored"] += 1


@pytest.mark.parametrize("link", [True, False])
def test_segments_retired_while_they_are_copied(ram_dir: Path, link: bool) -> None:
    """What the checkpoint names is given back, and written again, only when the backup is made."""
    with kvcore.open(ram_dir / "db", maintenance=False, replay_target=0.0, **SMALL) as db:
        wanted = {b"%03d" % n: b"old %d" % n * 120 for n in range(700)}
        db.put_many(wanted.items())          # no verb that pins: only the backup may
        left = [1]

        def meanwhile(done: int, total: int) -> None:
            if left.pop() if left else 0:
                overwrite(db, 3)

        result = db.backup(ram_dir / "backup", link=link, progress=meanwhile)
        assert result.revision == 701 and not left
        before = contents(ram_dir / "backup")
        overwrite(db, 3)
        assert db.status().retired_segments >= 5
        assert contents(ram_dir / "backup") == before
    kvcore.restore(ram_dir / "backup", ram_dir / "restored")
    with kvcore.open(ram_dir / "restored") as db:
        assert {kv.key: kv.value for kv in db.range()} == wanted and db.check() == []


def overwrite(db: kvcore.Store, rounds: int) -> None:
    """All that was there before is forgotten, and its segments given back."""
    for _ in range(rounds):
        db.put_many((b"%03d" % n, os.urandom(700)) for n in range(700))
        db.compact(db.revision, physical=True)
        for _ in range(3):
            db.checkpoint()
            while db.step():
                pass


def test_a_backup_in_memory(ram_dir: Path) -> None:
    """A store without files makes a directory too; moves during it harm nothing."""
    with kvcore.open(history=200, **SMALL) as db:
        with Writers(db) as writers:
            results = []
            for number in range(4):
                writers.wait_for(500)
                results.append(db.backup(ram_dir / f"{number}"))
            while not db.status().retired_segments:
                writers.wait_for(300)
    for number, result in enumerate(results):
        assert result.linked_bytes == 0
        kvcore.restore(ram_dir / f"{number}", ram_dir / f"restored{number}")
        same(ram_dir / f"restored{number}", writers.changes, result.revision)


@pytest.mark.parametrize("memory", [False, True])
def test_an_empty_store_leases_and_alarms(ram_dir: Path, memory: bool) -> None:
    with kvcore.open(None if memory else ram_dir / "db", **SMALL) as db:
        assert db.backup(ram_dir / "empty").revision == 1
        db.lease(1000, id=7)
        db.put(b"leased", b"1", lease=7)
        db.put(b"other", b"2")
        db.compact(3)
        db.backup(ram_dir / "leases")
    assert kvcore.restore(ram_dir / "empty", ram_dir / "a").keys == 0
    assert kvcore.restore(ram_dir / "leases", ram_dir / "b").keys == 2
    with kvcore.open(ram_dir / "b", **SMALL) as db:
        assert db.lease_of(7).keys() == [b"leased"] and db.compact_revision == 3
        db.lease_of(7).revoke()
        assert db.range().keys() == [b"other"]


def test_a_segment_that_is_exactly_full(ram_dir: Path) -> None:
    """The log ends at the very end of a segment: the seal begins the next one."""
    with kvcore.open(ram_dir / "db", **SMALL) as db:
        # batches of 64 + 16 KiB - 64 bytes: four fill a segment but for its header's 64 bytes
        for number in range(3):
            db.put(b"%d" % number, bytes(16384 - 64 - 18))
        db.put(b"3", bytes(16384 - 128 - 18))
        result = db.backup(ram_dir / "backup")
        sizes = {name: len(data) for name, data in contents(ram_dir / "backup").items()}
        assert sizes["wal-0000000000000001.seg"] == 65536
        assert result.linked_bytes == 0      # the source still appends to it
    kvcore.restore(ram_dir / "backup", ram_dir / "restored")
    with kvcore.open(ram_dir / "restored") as db:
        assert (db.revision, db.status().keys, db.check()) == (result.revision, 4, [])


def test_a_checkpoint_superseded_before_it_is_copied(ram_dir: Path) -> None:
    class Hasty(kvcore.Store):
        rounds = 0

        def checkpoint(self) -> int:
            number = super().checkpoint()
            self.rounds += 1
            if self.rounds == 1:
                self.put(b"more")
                super().checkpoint()
                super().checkpoint()
            return number

    db = Hasty(ram_dir / "db", **SMALL)
    with db:
        db.put(b"a")
        assert db.backup(ram_dir / "backup").revision == 3
        assert db.rounds == 2


def test_a_target_that_is_there(ram_dir: Path) -> None:
    with kvcore.open(ram_dir / "db") as db:
        (ram_dir / "file").write_text("mine")
        (ram_dir / "full").mkdir()
        (ram_dir / "full" / "file").write_text("mine")
        (ram_dir / "empty").mkdir()
        for name in ("file", "full"):
            with pytest.raises(kvcore.StorageError, match="is there already"):
                db.backup(ram_dir / name)
        with pytest.raises(OSError, match="No such file"):
            db.backup(ram_dir / "nowhere" / "backup")
        db.backup(ram_dir / "empty")
        assert (ram_dir / "full" / "file").read_text() == "mine"
        with pytest.raises(kvcore.StorageError, match="is there already"):
            kvcore.restore(ram_dir / "empty", ram_dir / "full")
    assert partials(ram_dir) == []


def test_ctrl_c_as_the_directory_is_made(open_store: Callable[[], kvcore.Store],
                                         ram_dir: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes behind the system call and before its caller goes on."""
    mkdir = os.mkdir

    def made_and_interrupted(path: str) -> None:
        mkdir(path)
        raise KeyboardInterrupt

    db = open_store()
    monkeypatch.setattr(os, "mkdir", made_and_interrupted)
    with pytest.raises(KeyboardInterrupt):
        db.backup(ram_dir / "backup")
    assert not (ram_dir / "backup").exists() and partials(ram_dir) == []


def partials(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if ".partial-" in path.name]


def test_two_backups_at_once(ram_dir: Path, nothing_hangs: None) -> None:
    """To different targets both are made; to the same one, one is."""
    with kvcore.open(ram_dir / "db", replay_target=0.001, **SMALL) as db, Writers(db) as writers:
        writers.wait_for(300)
        for number in range(4):
            targets = [ram_dir / f"same{number}", ram_dir / f"same{number}",
                       ram_dir / f"other{number}"]
            outcomes = in_threads(db, targets)
            assert outcomes[2] == ""
            assert sorted(outcomes[:2])[0] == "" and outcomes[0] != outcomes[1]
        for path in sorted(ram_dir.glob("*[0-9]")):
            kvcore.restore(path, ram_dir / f"restored-{path.name}")
    assert partials(ram_dir) == []


def in_threads(db: kvcore.Store, targets: list[Path]) -> list[str]:
    """Backs up into all of them at once: "" or the kind of error of each."""
    outcomes = ["never ran"] * len(targets)
    barrier = threading.Barrier(len(targets))

    def make(number: int, target: Path) -> None:
        barrier.wait()
        try:
            db.backup(target)
            outcomes[number] = ""
        except kvcore.Error as error:
            outcomes[number] = type(error).__name__

    threads = [threading.Thread(target=make, args=pair) for pair in enumerate(targets)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize("memory", [False, True])
def test_closed_meanwhile(ram_dir: Path, nothing_hangs: None, memory: bool) -> None:
    """A close at any point: the backup is whole, or ClosedError and nothing is left."""
    outcomes = Counter[str]()
    for steps in range(14):
        db = kvcore.open(None if memory else ram_dir / f"db{steps}", **SMALL)
        db.put_many((b"%05d" % n, bytes(150)) for n in range(1500))
        target = ram_dir / f"backup{steps}"
        left = [steps]

        def progress(done: int, total: int, db: kvcore.Store = db, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                db.close()

        try:
            db.backup(target, progress=progress, link=False)
            outcomes["whole"] += 1
            assert not db.closed or memory and left[0] <= 0
            assert kvcore.restore(target, ram_dir / f"restored{steps}").keys == 1500
        except kvcore.ClosedError:
            outcomes["closed"] += 1
            assert not target.exists()
        db.close()
        with pytest.raises(kvcore.ClosedError):
            db.backup(ram_dir / "never")
    assert partials(ram_dir) == []
    assert outcomes["whole"] >= 1 and (memory or outcomes["closed"] >= 2)


def test_closed_by_another_thread(ram_dir: Path, nothing_hangs: None) -> None:
    for number in range(12):
        db = kvcore.open(None if number % 2 else ram_dir / f"db{number}", **SMALL)
        db.put_many((b"%05d" % n, bytes(150)) for n in range(800))
        go = threading.Event()
        closer = threading.Thread(target=lambda db=db, go=go: (go.wait(), db.close()))
        closer.start()
        go.set()
        target = ram_dir / f"backup{number}"
        try:
            db.backup(target)
            assert kvcore.restore(target, ram_dir / f"restored{number}").keys == 800
        except kvcore.ClosedError:
            assert not target.exists()
        closer.join()
    assert partials(ram_dir) == []


@pytest.mark.parametrize("kind", ["open", "write", "sync", "rename", "sync_dir", "read"])
def test_no_space(ram_dir: Path, counts: Counter[str], kind: Any) -> None:
    """The nth call of a kind fails, for every n of a backup: no target, nothing left over, and the
    store goes on."""
    io = RecordingIo()
    nth = 1
    db = kvcore.open(ram_dir / "db", io=io, maintenance=False, **SMALL)
    db.put_many((b"%05d" % n, bytes(150)) for n in range(800))
    while True:
        before = io.calls(kind)
        io.fail(kind, nth, errno.ENOSPC)
        try:
            db.backup(ram_dir / "backup", link=nth % 2 == 0)
        except kvcore.StorageError:
            assert not (ram_dir / "backup").exists() and partials(ram_dir) == []
        if io.calls(kind) - before < nth:
            break
        assert not (ram_dir / "backup").exists()
        db.put(b"on")
        counts["system calls failed in a backup"] += 1
        nth += 1
    assert nth > 2
    kvcore.restore(ram_dir / "backup", ram_dir / "restored")
    with contextlib.suppress(kvcore.StorageError):       # the last plan is still to come
        db.close()


def of_directory(ops: list[Op], directory: str) -> list[Op]:
    """The calls that concern files of one directory."""
    handles, kept = set[int](), []
    for op in ops:
        mine = op.path.startswith(directory) if op.path else op.handle in handles
        if op.kind == "open" and op.error == 0:
            (handles.add if mine else handles.discard)(op.handle)
        if mine:
            kept.append(op)
        if op.kind == "close":
            handles.discard(op.handle)
    return kept


def test_power_loss(ram_dir: Path, counts: Counter[str]) -> None:
    """When TARGET may have its name, all that it holds is durable."""
    io = RecordingIo(sync=False)
    with kvcore.open(ram_dir / "db", io=io, maintenance=False, **SMALL) as db:
        db.put_many((b"%05d" % n, b"%d" % n * 40) for n in range(800))
        wanted = db.hash()
        io.clear()
        db.backup(ram_dir / "backup", link=False)
        ops = io.ops()
    names = [op.path for op in ops if op.kind == "rename" and op.to == str(ram_dir / "backup")]
    ops = of_directory(ops, names[0])
    images = CrashImages(ops, Path(names[0]))
    renamed = next(i for i, op in enumerate(ops) if op.kind == "rename") + 1
    for seed in range(8):
        for _, materialise in images.images(seed, points=[renamed, len(ops)]):
            materialise(ram_dir / "image")
            restored = ram_dir / f"restored{counts['crash images of a backup']}"
            kvcore.restore(ram_dir / "image", restored)
            with kvcore.open(restored) as db:
                assert db.hash() == wanted
            counts["crash images of a backup"] += 1
    whole = 0
    for number, (_, materialise) in enumerate(images.images(9, points=list(range(renamed)))):
        materialise(ram_dir / "image")
        try:
            kvcore.restore(ram_dir / "image", ram_dir / f"early{number}")
            whole += 1
        except kvcore.CorruptError:
            counts["crash images of a backup"] += 1
    assert whole < renamed / 3


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_restore_refuses_a_damaged_backup(ram_dir: Path, damage: str) -> None:
    """Every file, many places: nothing is made."""
    with kvcore.open(ram_dir / "db", **SMALL) as db:
        db.put_many((b"%05d" % n, bytes(150)) for n in range(800))
        db.backup(ram_dir / "backup", link=False)
    for path in sorted((ram_dir / "backup").iterdir()):
        sound = path.read_bytes()
        for at in sorted(random.Random(1).sample(range(len(sound)), min(12, len(sound)))):
            if damage == "flip":
                path.write_bytes(sound[:at] + bytes((sound[at] ^ 4,)) + sound[at + 1:])
            elif damage == "cut":
                path.write_bytes(sound[:at])
            else:
                path.unlink()
            with pytest.raises(kvcore.CorruptError) as error:
                kvcore.restore(ram_dir / "backup", ram_dir / "restored")
            assert path.name in str(error.value)
            assert not (ram_dir / "restored").exists() and partials(ram_dir) == []
            path.write_bytes(sound)
    assert kvcore.restore(ram_dir / "backup", ram_dir / "restored").keys == 800


def test_a_manifest_of_a_newer_kvcore(ram_dir: Path) -> None:
    with kvcore.open(ram_dir / "db") as db:
        db.backup(ram_dir / "backup")
    path = ram_dir / "backup" / "MANIFEST"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2}))
    with pytest.raises(kvcore.NewerFormatError):
        kvcore.restore(ram_dir / "backup", ram_dir / "restored")


def test_progress_reaches_its_total(ram_dir: Path) -> None:
    seen: list[tuple[int, int]] = []
    with kvcore.open(ram_dir / "db", **SMALL) as db:
        db.put_many((b"%05d" % n, bytes(150)) for n in range(800))
        result = db.backup(ram_dir / "backup", progress=lambda *at: seen.append(at))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert all(done <= total for done, total in seen) and seen[-1][0] == seen[-1][1]
    seen.clear()
    kvcore.restore(ram_dir / "backup", ram_dir / "restored",
                   progress=lambda *at: seen.append(at))
    assert seen[-1] == (2 * result.bytes, 2 * result.bytes)


def test_no_hard_links_here(ram_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without them: everything is copied; another error is told."""
    def refuse(source: str, target: str) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    with kvcore.open(ram_dir / "db", **SMALL) as db:
        db.put_many((b"%05d" % n, bytes(150)) for n in range(800))
        code = errno.EOPNOTSUPP
        assert db.backup(ram_dir / "backup").linked_bytes == 0
        code = errno.EIO
        with pytest.raises(OSError, match="Input/output"):
            db.backup(ram_dir / "other")
    assert partials(ram_dir) == [] and not (ram_dir / "other").exists()


@pytest.mark.parametrize("what", ["restore", "repair"])
def test_power_loss_of_a_new_directory(ram_dir: Path, counts: Counter[str], what: str,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """A restored and a repaired directory are durable when they get their name."""
    with kvcore.open(ram_dir / "db", maintenance=False, **SMALL) as db:
        db.put_many((b"%05d" % n, b"%d" % n * 40) for n in range(800))
        db.checkpoint()
        db.put_many((b"%05d" % n, b"%d" % n * 30) for n in range(0, 800, 3))
        wanted = db.hash()
        db.backup(ram_dir / "backup", link=False)
    io, target = RecordingIo(sync=False), ram_dir / "new"
    for module in (_files, _salvage, _wal):              # what writes where no table is given
        monkeypatch.setattr(module, "POSIX_IO", io)
    if what == "restore":
        kvcore.restore(ram_dir / "backup", target)
    else:
        assert repair(ram_dir / "db", target).lost_values == []
    monkeypatch.undo()
    part = next(op.path for op in io.ops() if op.kind == "rename" and op.to == str(target))
    ops = of_directory(io.ops(), part)
    named = next(i for i, op in enumerate(ops) if op.kind == "rename" and op.path == part) + 1
    for seed in range(12):
        for _, materialise in CrashImages(ops, Path(part)).images(
                seed, points=list(range(named, len(ops) + 1))):
            materialise(ram_dir / "image")
            with kvcore.open(ram_dir / "image") as db:
                assert db.hash() == wanted and db.check() == []
            counts[f"crash images of a {what}"] += 1
