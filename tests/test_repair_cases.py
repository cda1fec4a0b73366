# SPDX-License-Identifier: Apache-2.0
"""Repair, case by case: what each kind of change becomes when something before it is lost."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import model_wal
import pytest

import kvcore
from kvcore import Compare, Put
from kvcore.repair import repair

OPTIONS: dict[str, Any] = {"segment_bytes": 65536, "max_request_bytes": 16384,
                           "maintenance": False, "replay_target": 0.0}


def spoil(directory: Path, needle: bytes) -> None:
    """Changes one bit of these bytes, where they stand first."""
    for path in sorted(directory.glob("*.seg")):
        raw = path.read_bytes()
        if needle in raw:
            path.write_bytes(raw.replace(needle, bytes((needle[0] ^ 1,)) + needle[1:], 1))
            return
    raise AssertionError("no segment has these bytes")


def spans(result: Any) -> list[tuple[int, int]]:
    return [(lost.first, lost.last) for lost in result.lost_revisions]


def test_a_compare_of_a_damaged_value(ram_dir: Path) -> None:
    """Which branch ran is known when only one can change something."""
    with kvcore.open(ram_dir / "db", **OPTIONS) as db:
        db.put(b"k", b"the compared value")                                     # 2
        db.checkpoint()
        compare = [Compare.value(b"k") == b"the compared value"]
        db.txn(compare, [Put(b"one", b"1"), Put(b"two", b"2")], [])             # 3
        db.txn(compare, [], [Put(b"never", b"1")])
        db.txn(compare, [Put(b"yes", b"1")], [Put(b"no", b"1")])                # 4
        db.put(b"behind", b"1")                                                 # 5
        db.txn([Compare.version(b"behind") == 1], [Put(b"behind", b"2")])       # 6
    spoil(ram_dir / "db", b"the compared value")
    result = repair(ram_dir / "db", ram_dir / "repaired")
    assert spans(result) == [(4, 4)]
    assert [(v.key, v.mod_revision, v.shows) for v in result.lost_values] == [(b"k", 2, 0)]
    with kvcore.open(ram_dir / "repaired") as db:
        assert {kv.key: (kv.value, kv.mod_revision, kv.version) for kv in db.range()} == {
            b"one": (b"1", 3, 1), b"two": (b"2", 3, 1), b"behind": (b"2", 6, 2)}
        assert db.check() == [] and db.revision == 6


def test_a_lost_grant(ram_dir: Path) -> None:
    """Keys of a lease that was granted in the damaged stretch are kept, the lease without an end.

    Its revoke is left out: whose keys it took is not known."""
    with kvcore.open(ram_dir / "db", **OPTIONS) as db:
        db.put(b"spoilt", b"in front of the grants")                            # 2
        db.lease(60, id=8)
        db.lease(60, id=9)
        db.put(b"put", b"1", lease=9)                                           # 3
        db.txn([Compare.version(b"txn") == 0], [Put(b"txn", b"1", lease=8)])    # 4
        db.put(b"free", b"1")                                                   # 5
        batches = model_wal.read_segment(ram_dir / "db" / "wal-0000000000000001.seg")[1]
    path = ram_dir / "db" / "wal-0000000000000001.seg"
    raw = bytearray(path.read_bytes())
    for batch in batches:
        if batch.kind == model_wal.COMMANDS and batch.first_index <= 3:
            raw[batch.offset + 40] ^= 1
    path.write_bytes(raw)
    result = repair(ram_dir / "db", ram_dir / "repaired")
    assert any("lease 9" in lost.why for lost in result.lost_revisions)
    with kvcore.open(ram_dir / "repaired") as db:
        assert {kv.key: kv.mod_revision for kv in db.range()} == {
            b"put": 3, b"txn": 4, b"free": 5}
        assert (db.lease_of(9).keys(), db.lease_of(8).keys()) == ([b"put"], [b"txn"])
        assert db.check() == []


def test_an_older_version_whose_lease_is_over(ram_dir: Path) -> None:
    with kvcore.open(ram_dir / "db", **OPTIONS) as db:
        db.lease(60, id=9)
        db.put(b"k", b"older", lease=9)
        db.put(b"k", b"the newest value")
        db.lease_of(9).revoke()
        db.checkpoint()
    spoil(ram_dir / "db", b"the newest value")
    result = repair(ram_dir / "db", ram_dir / "repaired")
    assert [(v.key, v.mod_revision, v.shows) for v in result.lost_values] == [(b"k", 3, 2)]
    with kvcore.open(ram_dir / "repaired") as db:
        found = db.get(b"k")
        assert found and (found.value, found.mod_revision, found.lease) == (b"older", 2, 0)
        assert db.check() == [] and db.revision == 3


def test_a_life_that_is_lost_between_two_deletions(ram_dir: Path) -> None:
    with kvcore.open(ram_dir / "db", **OPTIONS) as db:
        for number in range(3):
            db.put(b"k", b"value number %d" % number)        # 2, 4, 6
            db.delete(b"k")                                  # 3, 5, 7
        db.checkpoint()
    spoil(ram_dir / "db", b"value number 1")
    repair(ram_dir / "db", ram_dir / "repaired")
    with kvcore.open(ram_dir / "repaired") as db:
        assert db.check() == [] and db.get(b"k") is None
        seen = [db.get(b"k", revision=at) for at in range(2, 8)]
        assert [kv and kv.value for kv in seen] == [
            b"value number 0", None, None, None, b"value number 2", None]


@pytest.mark.parametrize("sync", ["always", "interval", "off"])
def test_a_directory_that_was_not_closed(ram_dir: Path, sync: str) -> None:
    """Sound, but without a seal: repair and open agree, also on revisions shown before they were
    durable."""
    with kvcore.open(ram_dir / "db", sync=sync, **OPTIONS) as db:
        for number in range(50):
            db.put(b"%d" % (number % 7), b"%d" % number)
        shutil.copytree(ram_dir / "db", ram_dir / "copy")
    result = repair(ram_dir / "copy", ram_dir / "repaired")
    assert not result.problems and not result.lost_revisions and not result.lost_values
    with kvcore.open(ram_dir / "copy") as wanted, kvcore.open(ram_dir / "repaired") as db:
        assert (db.revision, db.hash()) == (wanted.revision, wanted.hash())
        assert db.revision >= (51 if sync == "always" else 1_000_000)


def test_the_damaged_end_of_the_log(ram_dir: Path) -> None:
    """Nothing behind it says what was there: revisions that may have been shown are passed over."""
    with kvcore.open(ram_dir / "db", **OPTIONS) as db:
        db.put(b"a", b"1")
        db.put_many((b"%d" % n, b"") for n in range(20))
        shutil.copytree(ram_dir / "db", ram_dir / "copy")
    path = ram_dir / "copy" / "wal-0000000000000001.seg"
    sound = path.read_bytes()
    batches = model_wal.read_segment(path)[1]
    for at in range(batches[-1].offset, batches[-1].offset + 64 + len(batches[-1].payload)):
        path.write_bytes(sound[:at] + bytes((sound[at] ^ 16,)) + sound[at + 1:])
        result = repair(ram_dir / "copy")
        assert result.revision >= 22 and spans(result) == [(3, result.revision)], at


def test_a_tear_without_proof_is_the_end(ram_dir: Path) -> None:
    """Of two unsynced batches the second alone is there: as an open, repair ends before both."""
    with kvcore.open(ram_dir / "db", sync="off", **OPTIONS) as db:
        db.put(b"a", b"1")
        db.sync()
        db.put(b"b", b"the first of two")
        db.put(b"c", b"the second of two")
        shutil.copytree(ram_dir / "db", ram_dir / "copy")
    spoil(ram_dir / "copy", b"the first of two")
    result = repair(ram_dir / "copy", ram_dir / "repaired")
    with kvcore.open(ram_dir / "copy") as wanted, kvcore.open(ram_dir / "repaired") as db:
        assert db.range().keys() == wanted.range().keys() == [b"a"]
        assert db.revision >= wanted.revision and spans(result)[0][0] == 3


def test_answers_that_a_batch_does_not_tell(ram_dir: Path) -> None:
    """Behind a loss, of a batch in which some changed something and some did not, only what is sure
    is kept, at its own revision."""
    with kvcore.open(ram_dir / "db", **OPTIONS) as db:
        db.put(b"x", b"what is lost")                                           # 2
        for round_ in range(20):
            futures = [db.submit(op) for op in (
                Put(b"a%d" % round_, b"1"), kvcore.Delete(b"missing"),
                Put(b"b%d" % round_, b"1"), kvcore.Delete(b"a%d" % round_), Put(b"c", b"1"))]
            done = [future.result(60) for future in futures]
        wanted = {(kv.key, kv.mod_revision) for kv in db.range()}
        wanted |= {(b"a%d" % n, done[0].revision - 4 * (19 - n)) for n in range(20)}
        wanted |= {(b"c", done[4].revision - 4 * n) for n in range(20)}
    spoil(ram_dir / "db", b"what is lost")
    result = repair(ram_dir / "db", ram_dir / "repaired")
    with kvcore.open(ram_dir / "repaired") as db:
        found = {(key, mod) for key, mod, _, _, version, *_ in db._versions() if version}
        assert found <= wanted and db.check() == [] and db.revision == result.revision
        missing = {mod for _, mod in wanted - found}
        assert all(any(first <= mod <= last for first, last in spans(result)) for mod in missing)


def test_locked_and_existing(ram_dir: Path) -> None:
    with kvcore.open(ram_dir / "db") as db:
        db.put(b"a")
        with pytest.raises(kvcore.LockedError):
            repair(ram_dir / "db")
    (ram_dir / "full").mkdir()
    (ram_dir / "full" / "file").write_text("mine")
    with pytest.raises(kvcore.StorageError, match="is there already"):
        repair(ram_dir / "db", ram_dir / "full")
    (ram_dir / "db" / "FORMAT").unlink()
    assert repair(ram_dir / "db", ram_dir / "new").problems
    with kvcore.open(ram_dir / "new") as db:
        assert db.range().keys() == [b"a"]
