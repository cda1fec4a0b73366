# SPDX-License-Identifier: Apache-2.0
"""Damage to a directory, file for file: missing, emptied, swapped, doubled, older, another store's,
and what only looks like a file of a store.

The exact state or a refusal with file, offset and remedy; the one exception are files whose absence
leaves what an earlier kill would have left, which only a closed store's LOCK can tell.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from pathlib import Path

import command_bytes
import pytest
from corruption import OPTIONS, REFUSALS, SIZE, Bench, Sound, refusal, rich

import kvcore
from kvcore.repair import repair

Rich = tuple[Sound, Sound, list[dict[str, bytes]]]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Rich:
    """Killed, closed, earlier images."""
    return rich(tmp_path_factory.mktemp("sound") / "rich")


@pytest.fixture(params=["killed", "closed"])
def bench(request: pytest.FixtureRequest, ram_dir: Path, stores: Rich,
          counts: Counter[str]) -> Bench:
    return Bench(ram_dir, stores[request.param == "closed"], counts)


def files(sound: Sound) -> list[str]:
    return [name for name in sound.files if name != "LOCK" and not name.endswith(".tmp")]


def tells(bench: Bench, name: str) -> bool:
    return any(bench.masks[name])


def number(name: str) -> int:
    return int(name[4:20])


def test_missing(bench: Bench) -> None:
    """Each file, and each pair of files."""
    names = files(bench.sound)
    for gone in [*((name,) for name in names), *itertools.combinations(names, 2)]:
        for name in gone:
            bench.path(name).unlink()
        told = any(tells(bench, name) for name in gone if name.endswith(".seg"))
        least = bench.sound.run.revision
        if bench.sound.last() in gone and not bench.sound.clean:
            least = 1                        # what an earlier kill would have left
        bench.judge(told, least, mended=len(gone) == 1)
        bench.reset()


def test_all_segments_missing(bench: Bench) -> None:
    """Only FORMAT and LOCK are left: a closed store's LOCK says that there was more."""
    for name in files(bench.sound):
        if name != "FORMAT":
            bench.path(name).unlink()
    if bench.sound.clean:
        assert bench.judge(True) == "refused"
    else:
        assert bench.judge(True, 1) == "shorter"


@pytest.mark.parametrize("how", ["empty", "directory", "loop", "pipe", "dangling"])
def test_no_file_in_its_place(bench: Bench, how: str) -> None:
    """None of them is waited for, and repair saves the rest."""
    for name in bench.sound.files:
        path = bench.path(name)
        path.unlink()
        if how == "empty":
            path.write_bytes(b"")
        elif how == "directory":
            path.mkdir()
        elif how == "loop":
            path.symlink_to(path)
        elif how == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(bench.root / "nowhere" / "at all")
        try:
            with kvcore.open(bench.root, **OPTIONS) as db:
                assert bench.opened(db, bench.sound.run.revision) == "exact"
                assert db.check() or not tells(bench, name) or name == "LOCK"
        except (*REFUSALS, OSError) as error:
            assert str(path) in str(error), error
        if how == "directory":
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        bench.counts["damaged directories"] += 1
        bench.reset()


def test_a_pipe_is_a_missing_file_to_repair(bench: Bench) -> None:
    for name in files(bench.sound):
        bench.path(name).unlink()
        os.mkfifo(bench.path(name))
        result = repair(bench.root, bench.into)
        assert any(str(bench.path(name)) in problem for problem in result.problems)
        with kvcore.open(bench.into, **OPTIONS) as db:
            assert db.check() == []
        bench.path(name).unlink()
        bench.reset()
        for path in sorted(bench.into.iterdir()):
            path.unlink()
        bench.into.rmdir()


def test_links_are_followed(bench: Bench, ram_dir: Path) -> None:
    """A file that lies elsewhere is as good as one that lies here."""
    for name in files(bench.sound):
        elsewhere = ram_dir / "elsewhere"
        elsewhere.write_bytes(bench.sound.files[name])
        bench.path(name).unlink()
        bench.path(name).symlink_to(elsewhere)
        assert bench.judge(False) == "exact"
        bench.path(name).unlink(missing_ok=True)
        bench.reset()


def test_swapped_and_doubled(bench: Bench) -> None:
    """Any file in the place of any other of its kind, and two in each other's."""
    names = files(bench.sound)
    for one, other in itertools.permutations(names, 2):
        if Path(one).suffix != Path(other).suffix:
            continue
        # each of two checkpoints proves itself, under any name
        told = bench.damage(one, bench.sound.files[other]) and one.endswith(".seg")
        least = None
        if bench.sound.last() in (one, other) and not bench.sound.clean:
            least = 1                        # what an earlier kill would have left
        bench.judge(told, least, mended=names.index(one) % 3 == 0)
        if one < other:
            told |= bench.damage(other, bench.sound.files[one]) and other.endswith(".seg")
            outcome = bench.judge(told, least)
            assert not one.endswith(".seg") or outcome == "refused"
        bench.reset()


def test_doubled_under_the_next_number(bench: Bench) -> None:
    """A copy of each segment behind the last one, and before the first."""
    numbers = [number(name) for name in bench.sound.segments()]
    for name in bench.sound.segments():
        for seq in (max(numbers) + 1, min(numbers) - 1 or max(numbers) + 2):
            copy = bench.path(f"wal-{seq:016d}.seg")
            copy.write_bytes(bench.sound.files[name])
            assert bench.judge(True, mended=True) == "refused"
            copy.unlink(missing_ok=True)
            bench.reset()


def shows_another_version(bench: Bench, name: str, raw: bytes) -> bool:
    """Whether older bytes have, where a version's cell belongs, a cell of the same key and length
    with another value: its checksum is right, and nothing in it says of which version it is."""
    for key, mod, *_, position in bench.sound.versions:
        value = bench.sound.run.changes[key][mod] or b""
        cell = command_bytes.cell(key, value).data
        at = position % SIZE
        if position // SIZE == number(name) and raw[at : at + len(cell)] != cell:
            there = raw[at + 13 + len(key) : at + len(cell)]
            if raw[at : at + len(cell)] == command_bytes.cell(key, there).data:
                return True
    return False


def test_an_older_copy_of_itself(bench: Bench, stores: Rich) -> None:
    """Files as they were earlier: under the same number another nonce, or the same and less.

    Left out are copies of what the file was before it was used again, where they happen to hold a
    cell of the same key and length at the same place (shows_another_version): the format does not
    tell these apart when they lie before the checkpoint's place in the log."""
    tried = 0
    for earlier, name in itertools.product(stores[2], files(bench.sound)):
        raw = earlier.get(name)
        if raw is None or raw == bench.sound.files[name] or not tells(bench, name):
            continue
        if name.endswith(".seg") and shows_another_version(bench, name, raw):
            continue
        told = bench.damage(name, raw)
        at_end = name == bench.sound.last() and not bench.sound.clean
        bench.judge(told, 1 if at_end else None, mended=True)
        bench.reset()
        tried += 1
    assert tried > 2


def test_older_checkpoints(bench: Bench, stores: Rich) -> None:
    """Beside the two, or alone: older than the oldest segment they prove too little."""
    alone = 0
    for earlier in stores[2]:
        for name in earlier:
            if not name.endswith(".ckp") or name in bench.sound.files:
                continue
            bench.path(name).write_bytes(earlier[name])
            assert bench.judge(False) == "exact"
            bench.reset()
            for newer in bench.sound.checkpoints():
                bench.path(newer).unlink()
            bench.path(name).write_bytes(earlier[name])
            assert bench.judge(False, mended=True) in ("refused", "exact")
            alone += 1
            bench.path(name).unlink(missing_ok=True)
            bench.reset()
    assert alone


def test_another_stores_files(ram_dir: Path, bench: Bench) -> None:
    """One file after the other from a store that was made in the same way."""
    other = rich(ram_dir / "other", seed=4)[1]
    for name in files(bench.sound):
        if name == "FORMAT" or name not in other.files:
            continue
        told = bench.damage(name, other.files[name])
        at_end = name == bench.sound.last() and not bench.sound.clean
        bench.judge(told, 1 if at_end else None, mended=True)
        bench.reset()
    for name, raw in other.files.items():
        if name.endswith(".ckp"):
            for mine in bench.sound.checkpoints():
                bench.path(mine).unlink(missing_ok=True)
            bench.path(name).write_bytes(raw)
            assert bench.judge(True) == "refused"
            bench.path(name).unlink(missing_ok=True)
            bench.reset()


def test_both_checkpoints_damaged(bench: Bench) -> None:
    """Segments were retired: the state cannot be built again, and the refusal says why."""
    for bit in range(0, 8 * 4000, 997):
        for name in bench.sound.checkpoints():
            bench.flip(name, bit)
        with pytest.raises(kvcore.CorruptError, match=r"checkpoint-\w+\.ckp at offset") as caught:
            kvcore.open(bench.root, **OPTIONS)
        refusal(bench.root, caught.value)
        assert bench.judge(True, mended=bit % 5 == 0) == "refused"
        bench.reset()


def test_names_that_look_alike(bench: Bench) -> None:
    """Other people's files are left alone; an absurd number does not make an open count to it."""
    sound = bench.sound
    segment, checkpoint = sound.last(), sound.checkpoints()[-1]
    for name in (f"{segment}.bak", "wal-1.seg", "wal-0000000000000001.SEG", f"copy of {segment}",
                 "wal-000000000000000x.seg", f"{checkpoint}~", "checkpoint-7.ckp", "FORMAT.old",
                 "wal-00000000000000001.seg", "MANIFEST", "checkpoint-00000000000000zz.ckp"):
        bench.path(name).write_bytes(sound.files[segment])
        assert bench.judge(False) == "exact", name
        assert bench.path(name).read_bytes() == sound.files[segment]
        bench.path(name).unlink()
        bench.reset()
    for content in (b"", bytes(SIZE), b"\xff" * SIZE, sound.files[segment]):
        stray = bench.path("wal-9999999999999999.seg")
        stray.write_bytes(content)
        bench.judge(False, mended=True)
        stray.unlink(missing_ok=True)
        bench.reset()
    for name, told in (("checkpoint-ffffffffffffffff.ckp", True),
                       ("checkpoint-0000000000000000.ckp", False)):    # an older one is removed
        bench.path(name).write_bytes(b"no checkpoint")
        assert bench.judge(told, mended=True) == "exact"
        with kvcore.open(bench.root, **OPTIONS) as db:
            for _ in range(2):
                db.put(b"more", b"1")
                db.checkpoint()
            assert len(db.damaged_checkpoints) <= 1
        with kvcore.open(bench.root, **OPTIONS) as db:
            assert db.get(b"more").version == 2
            assert all(name in problem for problem in db.check())
        bench.path(name).unlink(missing_ok=True)
        bench.reset()
