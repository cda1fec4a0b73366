# SPDX-License-Identifier: Apache-2.0
"""Every input that the fuzzer keeps, through its target, without the fuzzer.

fuzz/corpus/<target>/<hash> ─► fuzz/fuzz_<target>.py: one(data), which asserts what must hold
"""

from __future__ import annotations

import hashlib
import importlib
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import kvcore
from kvcore import transfer

FUZZ = Path(__file__).parents[1] / "fuzz"
NAMES = sorted(path.stem.removeprefix("fuzz_") for path in FUZZ.glob("fuzz_*.py"))
MUTATED = 40                 # changed inputs tried for each target, always the same


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    sys.path.insert(0, str(FUZZ))
    yield
    sys.path.remove(str(FUZZ))


def target(name: str) -> ModuleType:
    return importlib.import_module(f"fuzz_{name}")


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((FUZZ / "corpus" / name).iterdir())]


@pytest.mark.parametrize("name", NAMES)
def test_corpus(name: str, counts: Counter[str]) -> None:
    """And the seeds that are made anew."""
    inputs = [*target(name).seeds(), *corpus(name)]
    assert len(inputs) > 10
    for data in inputs:
        target(name).one(data)
    counts["inputs of fuzz targets"] += len(inputs)


@pytest.mark.parametrize("name", NAMES)
def test_mutated(name: str, counts: Counter[str]) -> None:
    engine = importlib.import_module("engine")
    inputs = [*target(name).seeds(), *corpus(name)]
    rng = random.Random(name)
    mutator = engine.Mutator(rng, target(name).TOKENS)
    for _ in range(MUTATED):
        made = mutator.mutate(rng.choice(inputs), rng.choice(inputs), [(1, 2, 1), (258, 9, 4)])
        assert len(made) <= engine.MOST
        target(name).one(made)
    counts["inputs of fuzz targets"] += MUTATED


# --- what the fuzzer found ------------------------------------------------------------------------

@pytest.mark.parametrize("key", ["\u00e4", "YQ=\u00e4", "\ud800", "a", "YQ==YQ=="])
def test_a_key_that_is_not_base64(key: str) -> None:
    """Not ASCII either: a ValueError came out of an import."""
    with kvcore.open() as db:
        db.put(b"\xff", b"v")
        lines = list(transfer.export_lines(db))
    fields = {**json.loads(lines[1]), "key_base64": key}
    with kvcore.open() as db, pytest.raises(kvcore.TransferError) as caught:
        transfer.import_lines(db, [lines[0], json.dumps(fields) + "\n", lines[2]])
    assert caught.value.line == 2


# A checkpoint's block without bytes, and a key without bytes, were told as "out of memory":
# test_corruption_forged.py::test_checkpoint_blocks_that_lie[empty, of no key].


# --- the corpus and the targets themselves --------------------------------------------------------

def test_names_are_contents() -> None:
    """Nobody has edited one; small, since it is kept with the sources."""
    files = [path for path in (FUZZ / "corpus").rglob("*") if path.is_file()]
    for path in files:
        if path.name != "README.md":
            assert path.name == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert sum(path.stat().st_size for path in files) < 300_000


@pytest.mark.parametrize("name", ["log", "commands", "leases"])
def test_a_target_fails_when_the_model_lies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a target asserts is seen."""
    common = importlib.import_module("common")
    monkeypatch.setattr(common.Model, "apply", lambda self, value: None)
    failed = 0
    for data in target(name).seeds():
        try:
            target(name).one(data)
        except AssertionError:
            failed += 1
    assert failed >= 2


def test_a_transaction_target_fails_when_the_model_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    models = importlib.import_module("models")
    monkeypatch.setattr(models.ModelStore, "_holds", lambda self, compare: True)
    with pytest.raises(AssertionError):
        for data in [*target("transactions").seeds(), *corpus("transactions")]:
            target("transactions").one(data)
