# SPDX-License-Identifier: Apache-2.0
"""Damage to a directory, byte for byte: bits, sectors, cuts of every length.

    damage ─► open ─► the exact state, or a refusal with file, offset and remedy ─► check, repair

The one exception is the last batch before an unclean end, where damage cannot be told from a tear.
Which bytes tell nothing stands in corruption.py. A plain run flips each bit of what all hangs on
(headers, the last batches) and a part of the rest; a soak goes on with every 64th bit, from the
first, the second, ... one: after 64 rounds all of them are done.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from corruption import SIZE, Bench, Sound, rich, small
from soak import Soaking

SECTOR = 512
REPAIR_EVERY = 23            # repair and the command line are tried for one damage in so many


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sound]:
    """The directories that are damaged here."""
    root = tmp_path_factory.mktemp("sound")
    killed, closed, _ = rich(root / "rich")
    return {"small closed": small(root / "closed", True),
            "small killed": small(root / "killed", False),
            "rich closed": closed, "rich killed": killed}


def bits(sound: Sound, name: str, round_: int) -> Iterator[int]:
    """The bits of a file that are flipped in one round."""
    raw = sound.files[name]
    if round_:
        yield from range((round_ - 1) % 64, min(8 * len(raw.rstrip(b"\0")) + 512, 8 * len(raw)), 64)
        return
    if name == "FORMAT":
        yield from range(min(8 * len(raw.rstrip(b"\0")) + 64, 8 * len(raw)))
        return
    rng = random.Random(len(raw))
    batches = sound.segments()[name][1] if name.endswith(".seg") else []
    tail = batches[-3:] if name == sound.last() else []
    chosen = set(range(8 * 64))
    for batch in tail:
        chosen |= set(range(8 * batch.offset, 8 * (batch.offset + 64)))
    for batch in batches[:: max(len(batches) // 12, 1)]:
        chosen |= {8 * batch.offset + rng.randrange(8 * 64) for _ in range(24)}
        chosen |= {8 * at + rng.randrange(8) for at in range(batch.offset + 64, batch.end, 5)}
    end = 8 * len(raw.rstrip(b"\0"))
    if name.endswith(".ckp"):
        chosen |= set(range(8 * 128)) | set(range(end - 8 * 16, end))
    chosen |= {rng.randrange(end + 512) for _ in range(300)}
    yield from sorted(bit for bit in chosen if bit < 8 * len(raw))


@pytest.mark.soak(weight=2)
@pytest.mark.parametrize("kind", ["small closed", "small killed", "rich closed", "rich killed"])
def test_every_bit(ram_dir: Path, sounds: dict[str, Sound], kind: str, counts: Counter[str],
                   soaking: Soaking) -> None:
    sound = sounds[kind]
    bench = Bench(ram_dir, sound, counts)
    found = Counter[str]()
    rng = random.Random(1)
    for round_ in soaking(1):
        for name in sorted(name for name, raw in sound.files.items() if raw):
            chosen = list(bits(sound, name, round_))
            if kind.startswith("rich") and not round_:
                chosen = rng.sample(chosen, min(len(chosen), 150))
            for number, bit in enumerate(chosen):
                found[flipped(bench, name, bit, mended=number % REPAIR_EVERY == 0)] += 1
    assert found["refused"] > 100 and found["exact"] > 20, found
    assert ("shorter" in found) == kind.endswith("killed"), found
    assert ("damaged values" in found) == kind.startswith("rich"), found


def flipped(bench: Bench, name: str, bit: int, mended: bool) -> str:
    """One bit changed, judged, and put back."""
    at = bit // 8
    told = bench.flip(name, bit)
    outcome = bench.judge(told, bench.may_end_at(name, at, at + 1), mended=mended)
    assert told or outcome == "exact" or at < 64, (name, bit, outcome)
    bench.reset()
    return outcome


@pytest.mark.parametrize("kind", ["small closed", "small killed", "rich closed", "rich killed"])
def test_zeroed_sectors(ram_dir: Path, sounds: dict[str, Sound], kind: str,
                        counts: Counter[str]) -> None:
    """One sector after the other, and blocks of 4 KiB."""
    sound = sounds[kind]
    bench = Bench(ram_dir, sound, counts)
    for name, raw in sound.files.items():
        end = len(raw.rstrip(b"\0"))
        for size in (SECTOR, 4096):
            step = 1 if kind.startswith("small") else 5
            for number, start in enumerate(range(0, end, size * step)):
                stop = min(start + size, len(raw))
                if not raw[start:stop].strip(b"\0"):
                    continue
                told = bench.damage(name, raw[:start] + bytes(stop - start) + raw[stop:])
                bench.judge(told, bench.may_end_at(name, start, stop), mended=number % 5 == 0)
                bench.reset()


@pytest.mark.parametrize("kind", ["small closed", "small killed", "rich closed", "rich killed"])
def test_cut_at_every_byte(ram_dir: Path, sounds: dict[str, Sound], kind: str,
                           counts: Counter[str]) -> None:
    """The last batches at every byte, the rest in steps; files are whole or they are refused."""
    sound = sounds[kind]
    bench = Bench(ram_dir, sound, counts)
    for name, raw in sound.files.items():
        if name == "LOCK":
            continue
        batches = sound.segments()[name][1] if name.endswith(".seg") else []
        lengths = set(range(0, min(len(raw), 70), 7)) | set(range(0, len(raw), 997)) | {
            len(raw) - 1}
        if name == sound.last():
            lengths |= set(range(batches[-3].offset, batches[-1].end + 1, 3))
        elif batches:
            lengths |= {b.offset for b in batches[::9]} | {batches[-1].end - 1}
        for number, length in enumerate(sorted(lengths)):
            outcome = bench.judge(bench.damage(name, raw[:length]),
                                  mended=number % REPAIR_EVERY == 0)
            assert outcome != "shorter"
            bench.reset()


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["rich closed", "rich killed"])
def test_any_damage(ram_dir: Path, sounds: dict[str, Sound], kind: str, counts: Counter[str],
                    soaking: Soaking) -> None:
    """One damage of any kind anywhere."""
    sound = sounds[kind]
    bench = Bench(ram_dir, sound, counts)
    names = [name for name, raw in sound.files.items() if name != "LOCK" and raw.strip(b"\0")]
    for number in soaking(120):
        rng = random.Random(f"{kind} {number}")
        name = rng.choice(names)
        raw = sound.files[name]
        at = rng.randrange(len(raw.rstrip(b"\0")))
        stop = min(at + rng.choice([1, 2, 8, 64, SECTOR, 4096]), len(raw))
        noise = rng.choice([bytes(stop - at), rng.randbytes(stop - at), b"\xff" * (stop - at)])
        if noise == raw[at:stop]:
            continue
        told = bench.damage(name, raw[:at] + noise + raw[stop:])
        bench.judge(told, bench.may_end_at(name, at, stop), mended=number % 3 == 0)
        bench.reset()


def test_the_log_ends_where_lock_says(ram_dir: Path, sounds: dict[str, Sound],
                                      counts: Counter[str]) -> None:
    """A closed log that lost its end is refused, also where no batch is left to say so; without
    LOCK's word it is shorter by its last batches, as after a kill."""
    sound = sounds["small closed"]
    bench = Bench(ram_dir, sound, counts)
    name = sound.last()
    batches = sound.segments()[name][1]
    for batch in batches[:-1]:
        lost = sound.files[name][: batch.offset] + bytes(SIZE - batch.offset)
        bench.path(name).write_bytes(lost)
        assert bench.judge(True) == "refused"
        bench.reset()
        bench.path(name).write_bytes(lost)
        bench.path("LOCK").write_bytes(b"")
        assert bench.judge(True, batch.revision) == (
            "exact" if batch.revision == sound.run.revision else "shorter")
        bench.reset()
    for lock in (b"nonsense", b"\nsynced 9999999 00000000\n", b"\xff" * 300,
                 sound.files["LOCK"].replace(b"synced 6", b"synced 7")):
        bench.path("LOCK").write_bytes(lock)
        assert bench.judge(False) == "exact"
        bench.reset()
