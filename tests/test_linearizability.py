# SPDX-License-Identifier: Apache-2.0
"""Crowds of threads whose every answer must fit into one order of all changes.

In memory and on disk, in each sync mode; with compaction, moved values, leases that end, a close in
the middle, a log that fails. The checker is in linearizability.py, what it finds when something is
wrong in test_linearizability_checker.py. In a soak they make as many histories as fit in.
"""

from __future__ import annotations

import contextlib
import errno
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from linearizability import Call, Client, check, explained, partition, register
from linearizability_crowd import INTERVALS, Crowd, switching
from pairs import Recipe
from soak import Soaking
from together import run_all

import kvcore
from kvcore.testing.clocks import ManualClock
from kvcore.testing.faults import RecordingIo

SMALL: dict[str, Any] = {"segment_bytes": 65536, "max_request_bytes": 16384, "order": 4,
                         "watch_capacity": 100, "min_lease_ttl": 1, "sync_interval": 0.001}
MODES = ["memory", "always", "interval", "off"]
Opener = Callable[..., kvcore.Store]
pytestmark = pytest.mark.usefixtures("nothing_hangs")


class Place:
    """Where the stores of one mode live."""

    def __init__(self, opened: Opener, directory: Path, mode: str) -> None:
        self.opened = opened
        self.directory = directory
        self.mode = mode

    @property
    def durable(self) -> bool:
        return self.mode != "memory"

    def fresh(self, **options: Any) -> kvcore.Store:
        """An empty store."""
        if self.directory.exists():
            shutil.rmtree(self.directory)
        return self.again(**options)

    def again(self, **options: Any) -> kvcore.Store:
        """The store of the directory, opened again."""
        options = {**SMALL, **options}
        if self.durable:
            return self.opened(self.directory, sync=self.mode, **options)
        return self.opened(**options)


@pytest.fixture(params=MODES)
def place(request: pytest.FixtureRequest, opened: Opener, ram_dir: Path) -> Place:
    return Place(opened, ram_dir / "store", request.param)


def judge(calls: list[Call], counts: Counter[str], seed: int, *, mortal: bool = False) -> None:
    wrong = check(calls, mortal=mortal)
    assert not wrong, f"seed {seed}: {wrong[0]}"
    counts["linearizability: histories"] += 1
    counts["linearizability: operations"] += len(calls)


@pytest.mark.soak(weight=0.5)
def test_a_crowd_is_explained(place: Place, counts: Counter[str], soaking: Soaking) -> None:
    """Readers, writers, snapshots and a watch, of eight to sixteen threads."""
    for seed in (100 + n for n in soaking(8)):
        workers = random.Random(seed).choice([8, 12, 16])
        db = place.fresh()
        crowd = Crowd(db, seed, workers=workers)
        crowd.run()
        judge(crowd.read_all(db), counts, seed)
        db.close()


@pytest.mark.soak(weight=0.5)
def test_while_space_comes_back(place: Place, counts: Counter[str], soaking: Soaking) -> None:
    """Compaction close behind, values moved, segments retired beneath the readers."""
    retired = 0
    for seed in (200 + n for n in soaking(6)):
        clock = ManualClock()
        db = place.fresh(clock=clock, replay_target=0.002)
        crowd = Crowd(db, seed, workers=8, turns=60, padding=1500, compacting=True, clock=clock)
        crowd.run()
        judge(crowd.read_all(db), counts, seed)
        retired += db.status().retired_segments
        assert db.check() == []
        db.close()
    assert retired > 0


@pytest.mark.soak(weight=0.5)
def test_while_leases_end(place: Place, counts: Counter[str], soaking: Soaking) -> None:
    """Keys go with leases that are revoked, or end by themselves."""
    ended = 0
    for seed in (300 + n for n in soaking(8)):
        clock = ManualClock()
        db = place.fresh(clock=clock)
        crowd = Crowd(db, seed, workers=10, leases=True, clock=clock)
        crowd.run()
        calls = crowd.read_all(db)
        judge(calls, counts, seed, mortal=True)
        granted = sum(call.recipe.kind == "Grant" for call in calls)
        revoked = sum(call.recipe.kind == "Revoke" and isinstance(call.answer, tuple)
                      for call in calls)
        ended += granted - revoked - len(db.leases())
        db.close()
    assert ended > 0


@pytest.mark.soak(weight=0.5)
def test_a_close_in_the_middle(place: Place, counts: Counter[str], soaking: Soaking) -> None:
    """Who comes too late changed nothing; the store goes on where it was, with a second crowd."""
    late = 0
    for seed in (400 + n for n in soaking(8)):
        db = place.fresh()
        crowd = Crowd(db, seed, workers=12, closing=100 + seed % 50)
        calls = crowd.run()
        late += sum(call.answer == "ClosedError" for call in calls)
        if place.durable:
            db = place.again()
            for client in crowd.clients:
                client.db = db
            second = Crowd(db, seed + 1, workers=12, turns=15, watching=False)
            second.clients = crowd.clients
            second.run()
            calls = second.read_all(db)
            db.close()
        judge(calls, counts, seed)
    assert late > 0


@pytest.mark.soak(weight=0.5)
@pytest.mark.parametrize("kind", ["write", "sync"])
def test_a_log_that_fails(kind: str, opened: Opener, ram_dir: Path, counts: Counter[str],
                          soaking: Soaking) -> None:
    """What was in the failed batch may be there after a reopen, and nothing behind it is."""
    unknown = 0
    for seed in (500 + n for n in soaking(10)):
        io = RecordingIo()
        place = Place(opened, ram_dir / "store", "always")
        db = place.fresh(io=io, replay_target=0.0)
        io.fail(kind, 20 + seed % 30, errno.EIO)
        crowd = Crowd(db, seed, workers=8, turns=25)
        calls = crowd.run()
        unknown += sum(call.answer == "OutcomeUnknownError" for call in calls)
        crowd.read_all(db)                       # reads go on
        with contextlib.suppress(kvcore.StorageError):
            db.close()
        db = place.again()
        judge(crowd.read_all(db), counts, seed)
        db.close()
    assert unknown > 0


# --- a mapping: answers without revisions ---------------------------------------------------------


def use_mapping(client: Client, mapping: Any, seed: int, turns: int) -> None:
    chance = random.Random(seed * 100 + client.who)
    for number in range(turns):
        key, value = b"%d" % chance.randrange(4), b"%d/%d" % (client.who, number)
        kind = chance.choice(["set", "set", "get", "get", "get", "pop", "setdefault"])
        calls: dict[str, Callable[[], Any]] = {
            "set": lambda k=key, v=value: mapping.__setitem__(k, v),
            "get": lambda k=key: mapping.get(k),
            "pop": lambda k=key: mapping.pop(k, None),
            "setdefault": lambda k=key, v=value: mapping.setdefault(k, v),
        }
        client.measured(Recipe(kind, (key, value)), calls[kind], plainly=bytes_or_none)


def bytes_or_none(answer: Any) -> Any:
    assert answer is None or type(answer) is bytes
    return answer


@pytest.mark.soak(weight=0.5)
def test_a_mapping_is_explained(place: Place, counts: Counter[str], soaking: Soaking) -> None:
    """Set, get, pop and setdefault of eight threads: each key by itself, by the general search."""
    for seed in (600 + n for n in soaking(6)):
        db = place.fresh()
        clients = [Client(db, who) for who in range(8)]
        with switching(random.Random(seed).choice(INTERVALS)):
            run_all(*[lambda c=c, s=seed: use_mapping(c, c.db.mapping(b"/m/"), s, 60)
                      for c in clients])
        calls = [call for client in clients for call in client.calls]
        for key, mine in partition(calls).items():
            assert explained(mine, register), f"seed {seed}: key {key!r}"
        counts["linearizability: histories"] += 1
        counts["linearizability: operations"] += len(calls)
        db.close()
