# SPDX-License-Identifier: Apache-2.0
"""Repair: of a damaged directory everything is saved that proves itself, and the rest is named.

    a run, every change noted ─► a directory ─► one damage ─► repair ─► opened, held against the run

Nothing is invented (each version saved was written so, at that revision), nothing is lost silently
(each one not saved is in the list), and nothing is lost without need: revisions only where a batch
overlaps the damage, values only where their cell does.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import model_wal
import pytest

import kvcore
from kvcore.repair import LostRevisions, RepairResult, repair

OPTIONS: dict[str, Any] = {"segment_bytes": 65536, "max_request_bytes": 16384,
                           "maintenance": False, "replay_target": 0.0}
KINDS = ["plain", "checkpoints", "moves", "txns", "mixed", "killed"]
SECTOR = 512


@dataclasses.dataclass
class Run:
    """What a run did, and what its store held in the end."""

    changes: dict[bytes, dict[int, bytes | None]] = dataclasses.field(default_factory=dict)
    revision: int = 1
    hash: int = 0
    depend: set[int] = dataclasses.field(default_factory=set)   # on what was there before
    versions: dict[tuple[bytes, int], tuple[int, int, int]] = dataclasses.field(
        default_factory=dict)
    cells: dict[tuple[bytes, int], int] = dataclasses.field(default_factory=dict)

    def note(self, key: bytes, revision: int, value: bytes | None) -> None:
        self.changes.setdefault(key, {})[revision] = value

    def at(self, key: bytes, revision: int) -> bytes | None:
        """What the key showed at a revision."""
        known = [mod for mod in self.changes.get(key, {}) if mod <= revision]
        return self.changes[key][max(known)] if known else None


def build(directory: Path, kind: str, seed: int) -> Run:
    """A small directory with a history."""
    rng, run = random.Random(seed), Run()
    db = kvcore.open(directory, **OPTIONS)
    db.lease(100, id=5)
    for number in range(1200 if kind == "moves" else 420):
        write(db, run, rng, kind)
        if kind == "moves" and number % 15 == 0:
            run.note(b"still/%d" % number, db.put(b"still/%d" % number, b"s" * 200).revision,
                     b"s" * 200)
        if kind in ("checkpoints", "mixed") and number % 130 == 100:
            db.checkpoint()
        if kind == "moves" and number % 150 == 149:
            db.compact(max(db.revision - 40, 2), physical=True)
            db.checkpoint()
            while db.step():
                pass
    if kind in ("txns", "mixed"):
        db.compact(db.revision - 300)
    run.revision, run.hash = db.revision, db.hash().hash
    for key, mod, _, create, version, lease, position in db._versions():
        if version:
            run.versions[key, mod] = (create, version, lease)
            run.cells[key, mod] = position
    if kind == "moves":
        assert db.status().moved_bytes > 0
    if kind == "killed":
        shutil.copytree(directory, directory.with_name("copy"))
    db.close()
    if kind == "killed":
        shutil.rmtree(directory)
        directory.with_name("copy").rename(directory)
    return run


def write(db: kvcore.Store, run: Run, rng: random.Random, kind: str) -> None:
    """One request."""
    key = b"/k/%02d" % rng.randrange(40)
    value = rng.randbytes(rng.choice([0, 20, 300, 700]))
    what = rng.choice(["put"] * 6 + ["many", "delete"]
                      + (["update"] * 8 + ["both", "ignore", "leased"]) * (kind in ("txns",
                                                                                    "mixed")))
    if what == "many":
        items = [(b"/k/%02d" % n, rng.randbytes(50)) for n in rng.sample(range(40), 5)]
        for (name, data), at in zip(items, db.put_many(items), strict=True):
            run.note(name, at, data)
    elif what == "delete":
        done = db.delete(key)
        if done.deleted:
            run.note(key, done.revision, None)
    elif what == "update":
        found = db.get(key)
        mod = found.mod_revision if found else 0
        answer = db.txn([kvcore.Compare.mod_revision(key) == mod - (rng.random() < 0.2)],
                        [kvcore.Put(key, value), kvcore.Put(b"/index" + key, b"x")],
                        [kvcore.Get(key)])
        if answer.succeeded:
            run.note(key, answer.revision, value)
            run.note(b"/index" + key, answer.revision, b"x")
    elif what == "both":
        answer = db.txn([kvcore.Compare.value(key) == value],
                        [kvcore.Put(key, b"yes")], [kvcore.Put(key, b"no" + value)])
        run.depend.add(answer.revision)
        run.note(key, answer.revision, b"yes" if answer.succeeded else b"no" + value)
    elif what == "ignore" and db.get(key):
        old = run.at(key, db.revision)
        run.depend.add(db.revision + 1)
        run.note(key, db.put(key, ignore_value=True).revision, old)
    elif what == "leased":
        run.note(key, db.put(key, value, lease=5).revision, value)
    else:
        run.note(key, db.put(key, value).revision, value)


# --- damage ---------------------------------------------------------------------------------------

@dataclasses.dataclass
class Damage:
    """What was done to which bytes of which file; end < 0: the file is gone, or cut at start."""

    path: Path
    start: int
    end: int


def used(path: Path) -> int:
    return max(len(path.read_bytes().rstrip(b"\0")), 1)


def damage(directory: Path, rng: random.Random) -> Damage:
    """One bit, one sector, the end of a file, or a whole one."""
    path = rng.choice([p for p in sorted(directory.iterdir())
                       if p.name != "LOCK" and used(p) > 1])
    at = rng.randrange(min(64, used(path))) if rng.random() < 0.1 else rng.randrange(used(path))
    raw = bytearray(path.read_bytes())
    what = rng.choice(["flip"] * 4 + ["zero", "noise", "cut", "remove"])
    if what == "flip":
        raw[at] ^= 1 << rng.randrange(8)
        done = Damage(path, at, at + 1)
    elif what in ("zero", "noise"):
        first, end = at // SECTOR * SECTOR, min(at // SECTOR * SECTOR + SECTOR, len(raw))
        raw[first:end] = bytes(end - first) if what == "zero" else rng.randbytes(end - first)
        done = Damage(path, first, end)
    elif what == "cut":
        del raw[at:]
        done = Damage(path, at, -1)
    else:
        path.unlink()
        return Damage(path, 0, -1)
    path.write_bytes(raw)
    return done


def hit(run: Run, sound: Path, done: Damage) -> tuple[set[int], set[tuple[bytes, int]], bool]:
    """Revisions of batches and versions whose cells overlap the damage; whether it reaches the end
    of the log, where nothing can say what was there."""
    if done.path.suffix != ".seg":
        return set(), set(), False
    path = sound / done.path.name
    segment, batches = model_wal.read_segment(path)
    end = done.end if done.end >= 0 else len(path.read_bytes())
    revisions = set[int]()
    for batch in batches:
        if batch.offset < end and batch.end > done.start and batch.kind == model_wal.COMMANDS:
            revisions |= set(range(batch.revision + 1, batch.revision + batch.count + 1))
    cells = {name for name, position in run.cells.items()
             if position // 65536 == segment.seq and position % 65536 < end
             and position % 65536 + 2000 > done.start}
    newest = max(p for p in sound.glob("*.seg") if model_wal.read_segment(p)[1])
    last = done.path.name == newest.name and (done.end < 0 or batches[-1].end <= end + 1)
    return revisions, cells, last


# --- what must hold -------------------------------------------------------------------------------

def lost(result: RepairResult, revision: int) -> bool:
    return any(span.first <= revision <= span.last for span in result.lost_revisions)


def held_against(run: Run, result: RepairResult, db: kvcore.Store) -> None:
    """Nothing invented, nothing lost silently."""
    assert db.check() == [] and db.revision == result.revision
    named = {(value.key, value.mod_revision) for value in result.lost_values}
    saved = dict[tuple[bytes, int], tuple[int, int, int]]()
    for key, mod, _, create, version, lease, _ in db._versions():
        if not version:
            assert run.at(key, mod) is None, f"{key!r} was not deleted at {mod}"
            continue
        saved[key, mod] = (create, version, lease)
        found = db.get(key, revision=max(mod, db.compact_revision))
        assert found and run.changes[key][mod] == found.value, f"{key!r} was not this at {mod}"
        if not result.lost_revisions and (key, mod) in run.versions:
            assert saved[key, mod] == run.versions[key, mod]
    for key, mod in run.versions:
        if not lost(result, mod):
            assert (key, mod) in saved or (key, mod) in named, f"{key!r} at {mod} is not named"
    for key, history in run.changes.items():
        newest = max(history)
        found = db.get(key)
        if (key, newest) not in named and not lost(result, newest):
            assert (found.value if found else None) == history[newest]
    for value in result.lost_values:
        now = db.get(value.key)
        if value.mod_revision == max(run.changes[value.key]):
            assert (now.mod_revision if now else 0) == value.shows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_one_damage(ram_dir: Path, counts: Counter[str], kind: str, seed: int) -> None:
    """Many places: what is saved is right, what is not is named, and is not more than was hit."""
    run = build(ram_dir / "sound", kind, seed)
    rng = random.Random(seed + 100)
    for _ in range(60):
        shutil.rmtree(ram_dir / "db", ignore_errors=True)
        shutil.rmtree(ram_dir / "repaired", ignore_errors=True)
        shutil.copytree(ram_dir / "sound", ram_dir / "db")
        done = damage(ram_dir / "db", rng)
        before = {p.name: p.read_bytes() for p in (ram_dir / "db").iterdir()}
        if done.path.name == "FORMAT" and newer(done.path):
            with pytest.raises(kvcore.NewerFormatError):
                repair(ram_dir / "db", ram_dir / "repaired")
            continue
        foretold = repair(ram_dir / "db")
        result = repair(ram_dir / "db", ram_dir / "repaired")
        assert dataclasses.replace(result, path="") == foretold
        assert {p.name: p.read_bytes() for p in (ram_dir / "db").iterdir()} == before, done
        revisions, cells, at_end = hit(run, ram_dir / "sound", done)
        with kvcore.open(ram_dir / "repaired", **OPTIONS) as db:
            if at_end and done.end < 0:
                assume_gone(run, result, revisions)
            held_against(run, result, db)
            assert db.revision >= run.revision or at_end and done.end < 0
            if not result.lost_revisions and not result.lost_values:
                assert db.hash().hash == run.hash
        gone = {r for r in range(run.revision + 1) if lost(result, r)}
        assert {(v.key, v.mod_revision) for v in result.lost_values} <= cells, done
        if kind == "killed":                 # no seal: what the newest did need not be known
            gone.discard(run.revision)
        assert gone <= revisions | (run.depend if revisions else set()), done
        counts["damaged directories repaired"] += 1
        counts["revisions saved behind a loss"] += sum(
            1 for r in range(min(gone, default=run.revision), run.revision) if r not in gone)
        counts["values lost in repairs"] += len(result.lost_values)
        counts["revisions lost in repairs"] += len(gone)


def newer(path: Path) -> bool:
    """Whether a changed FORMAT says what a newer kvcore's would."""
    words = path.read_bytes().split() if path.exists() else []
    return len(words) == 2 and words[0] == b"kvcore" and words[1].isdigit() and words[1] > b"1"


def assume_gone(run: Run, result: RepairResult, revisions: set[int]) -> None:
    """The end of the log was cut off: no trace is left of what was there."""
    result.lost_revisions += [LostRevisions(revision, revision, "cut") for revision in revisions]


@pytest.mark.parametrize("kind", KINDS)
def test_no_damage(ram_dir: Path, kind: str) -> None:
    """Of a sound directory everything is saved, to the last number."""
    run = build(ram_dir / "db", kind, 50)
    result = repair(ram_dir / "db", ram_dir / "repaired")
    assert (result.problems, result.lost_revisions, result.lost_values) == ([], [], [])
    with kvcore.open(ram_dir / "repaired", **OPTIONS) as db:
        held_against(run, result, db)
        assert (db.revision, db.hash().hash) == (run.revision, run.hash)
        assert db.recovery.clean and [lease.id for lease in db.leases()] == [5]
        assert db.put(b"after").revision == run.revision + 1


@pytest.mark.parametrize("kind", ["checkpoints", "mixed", "moves"])
@pytest.mark.parametrize("seed", range(2))
def test_every_checkpoint_damaged(ram_dir: Path, kind: str, seed: int) -> None:
    """The log alone is enough while it is all there; else what is whole of a checkpoint is used."""
    run = build(ram_dir / "sound", kind, seed)
    rng = random.Random(seed)
    saved = 0
    for _ in range(25):
        shutil.rmtree(ram_dir / "db", ignore_errors=True)
        shutil.rmtree(ram_dir / "repaired", ignore_errors=True)
        shutil.copytree(ram_dir / "sound", ram_dir / "db")
        for path in (ram_dir / "db").glob("*.ckp"):
            raw = bytearray(path.read_bytes())
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            path.write_bytes(raw)
        result = repair(ram_dir / "db", ram_dir / "repaired")
        assert len(result.problems) >= 2
        with kvcore.open(ram_dir / "repaired", **OPTIONS) as db:
            held_against(run, result, db)
            assert db.revision >= run.revision
            if kind != "moves":
                assert not result.lost_revisions and db.hash().hash == run.hash
            saved += bool(db.range(prefix=b"still/").count)
    assert kind != "moves" or saved > 0


def test_a_large_checkpoint_in_parts(ram_dir: Path) -> None:
    """Of many blocks the damaged ones are missing, and their keys are named."""
    with kvcore.open(ram_dir / "db", **OPTIONS) as db:
        for _ in range(3):
            db.put_many((b"%06d" % n, b"v%d" % n * 5) for n in range(20_000))
            db.compact(db.revision, physical=True)
            for _ in range(2):
                db.checkpoint()
                while db.step():
                    pass
        assert db.status().retired_segments > 0
        revision = db.revision
    for path in (ram_dir / "db").glob("*.ckp"):
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    result = repair(ram_dir / "db", ram_dir / "repaired")
    assert 12_000 < result.keys < 20_000 and result.revision == revision
    assert len(result.lost_revisions) == 1 and "keys between b'0" in result.lost_revisions[0].why
    with kvcore.open(ram_dir / "repaired") as db:
        assert db.check() == []
        assert all(kv.value == b"v%d" % int(kv.key) * 5 for kv in db.range())
