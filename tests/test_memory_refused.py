# SPDX-License-Identifier: Apache-2.0
"""Memory refused at every place where the store asks for it, one at a time, or from there on.

    a life of every verb, run once for each request for memory it makes, which is then refused:
    each call gives the right answer or raises OutOfMemoryError (a write: its outcome is open),
    what was acknowledged is there afterwards, behind a reopen if the state machine stopped,
    and every block is given back.
"""

from __future__ import annotations

import gc
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import watch_checker
from ledger import Ledger
from soak import Soaking

import kvcore
from kvcore import Compare, Delete, Get, Put, Range
from kvcore.repair import repair
from kvcore.testing.clocks import ManualClock
from kvcore.testing.memory import Refusals, index_left, refuse_index

OPTIONS: dict[str, Any] = {"segment_bytes": 65536, "max_request_bytes": 16384, "order": 4,
                           "maintenance": False, "replay_target": 0.0}
MANY = [b"m/%03d" % i for i in range(300)]


@pytest.fixture
def refusals() -> Iterator[Refusals]:
    """Behind it, nothing is refused any more."""
    gc.collect()                                 # what others took is not given back meanwhile
    with Refusals() as made:
        yield made


class Life(Ledger):
    """Every verb of a store, some of them refused memory."""

    def __init__(self, directory: Path | None) -> None:
        super().__init__(MemoryError, kvcore.OutcomeUnknownError, kvcore.CompactedError)
        self.directory = directory
        self.clock = ManualClock()
        self.db = self.open()

    def open(self) -> kvcore.Store:
        return kvcore.open(self.directory, clock=self.clock, history=400, **OPTIONS)

    # -- the verbs --

    def writes(self) -> None:
        db = self.db
        for i in range(6):
            key, value = b"k/%d" % i, b"%d" % i * 1500
            self.write({key: value}, lambda k=key, v=value: db.put(k, v))
        self.write({b"k/0": b"new"}, lambda: db.put(b"k/0", b"new", prev=True))
        items: dict[bytes, bytes | None] = {key: key * 9 for key in MANY}
        self.write(items, lambda: db.put_many([(key, key * 9) for key in MANY]))
        done = self.write({b"t/a": b"1", b"t/b": b"2"}, lambda: db.txn(
            [Compare.version(b"none") == 0, Compare.value(b"k/0") != b"no"],
            [Put(b"t/a", b"1"), Put(b"t/b", b"2", prev=True), Range(b"t/", b"t0"), Get(b"t/a")]))
        if done is not None and not done.succeeded:
            assert None in self.may[b"k/0"]
            self.may[b"t/a"] = self.may[b"t/b"] = {None}
        gone = {key: None for key in MANY[:40]}
        self.write(gone, lambda: db.delete(b"m/000", MANY[40], prev=True))
        self.write({b"f/1": b"s"}, lambda: db.submit(Put(b"f/1", b"s")).result(60))
        self.write({b"f/1": None}, lambda: db.submit(Delete(b"f/1", prev=True)).result(60))

    def leased(self) -> None:
        db = self.db
        lease = self.ask(lambda: db.lease(5, id=77))
        if lease is not None:
            self.write({b"l/1": b"x", b"k/1": b"y"}, lambda: (
                db.put(b"l/1", b"x", lease=77), db.put(b"k/1", b"y", lease=77)))
            self.ask(lease.ttl), self.ask(lease.keepalive), self.ask(lease.keys)
            self.clock.advance(6)
            self.write({b"l/1": None, b"k/1": None}, db.step)
            for key in (b"l/1", b"k/1"):         # a step does not say that it could not revoke
                self.may[key] |= {b"x", b"y", b"1" * 1500}
        other = self.ask(lambda: db.lease(50, id=78))
        if other is not None:
            self.write({b"l/2": b"z"}, lambda: db.put(b"l/2", b"z", lease=78))
            self.write({b"l/2": None}, other.revoke)

    def reads(self) -> None:
        db = self.db
        found = self.ask(lambda: db.get(b"k/2"))
        if found is not None:
            self.same(b"k/2", found)
        for key, kv in zip(MANY, self.ask(lambda: db.get_many(MANY)) or [], strict=False):
            self.same(key, kv)
        for options in ({"sort": "-value"}, {"limit": 120}, {"prefix": b"m/", "keys_only": True}):
            page = self.ask(lambda options=options: db.range(**options))
            for kv in self.ask(lambda page=page: list(page)) or [] if page is not None else []:
                if "keys_only" not in options:
                    self.same(kv.key, kv)
        snap = self.ask(db.snapshot)
        if snap is not None:
            with snap:
                self.ask(lambda: snap.range(prefix=b"k/").values())
                self.write({b"k/3": b"later"}, lambda: db.put(b"k/3", b"later"))
                self.ask(lambda: snap.get(b"k/3"))
        self.ask(db.hash), self.ask(db.check), self.ask(db.status), self.ask(db.leases)

    def watches(self) -> None:
        db = self.db
        for options in ({}, {"start_revision": 1, "prev_kv": True}, {"prefix": b"w/"}):
            watch = self.ask(lambda options=options: db.watch(**options))
            if watch is None:
                continue
            for i in range(3):
                key = b"w/%d" % i
                self.write({key: b"%d" % i}, lambda key=key, i=i: db.put(key, b"%d" % i))
            for _ in range(3):
                response = self.ask(lambda watch=watch: watch.get(0))
                for event in response.events if response is not None else ():
                    self.ask(lambda event=event: (event.kv.value, event.prev_kv))
            self.ask(lambda watch=watch: watch.get_batch(timeout=0))
            self.ask(watch.cancel)

    def background(self) -> None:
        db = self.db
        for n in range(3):
            items: dict[bytes, bytes | None] = {b"c/%d" % i: b"%d" % n * 3000 for i in range(20)}
            self.write(items, lambda items=items: db.put_many(items.items()))
            self.ask(lambda: db.compact(db.revision, physical=True))
            for _ in range(4):
                self.clock.advance(11)
                self.ask(db.step)
            self.ask(db.checkpoint)
        self.ask(db.sync)

    def live(self) -> None:
        self.writes()
        self.leased()
        self.reads()
        self.watches()
        self.background()

    def end(self) -> None:
        """Nothing is refused any more: all is there, in this store or in the next."""
        if self.ask(lambda: self.db.get(b"k/2") or True) is None:       # the state machine stopped
            self.db.__dict__.pop("_history", None)      # its index says no more what was true
            self.db.close()
            if self.directory is None:
                return
            self.db = self.open()
        self.db._check()
        assert self.db.check() == []
        self.holds(self.db)
        watch_checker.verify(self.db)
        self.db.put(b"after", b"all")
        self.db.close()
        if self.directory is not None:
            with self.open() as again:
                assert again.check() == []
                assert again.get(b"after").value == b"all"


def one_life(directory: Path | None, refusals: Refusals, nth: int, forever: bool) -> bool:
    """A life whose nth request is refused; False when it has no nth."""
    held = refusals.held
    life = Life(directory)
    refusals.arm(nth, forever=forever)
    before = refusals.refused
    life.live()
    refusals.disarm()
    refused = refusals.refused > before
    assert refused or not life.failed
    life.end()
    del life
    if refusals.held != held:
        gc.collect()
    assert refusals.held == held
    return refused


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["memory", "durable"])
def test_each_request_refused(kind: str, ram_dir: Path, refusals: Refusals, counts: Counter[str],
                              soaking: Soaking) -> None:
    """The nth request, for every n of a life; from the nth on, for some."""
    one_life(ram_dir / "warm" if kind == "durable" else None, refusals, 0, False)
    nth = 1
    while one_life(ram_dir / f"{nth}" if kind == "durable" else None, refusals, nth, False):
        counts["requests for memory refused"] += 1
        nth += 1
    assert nth > 300
    rng = random.Random(nth)
    for seed in soaking(20):
        where = ram_dir / f"on-{seed}" if kind == "durable" else None
        assert one_life(where, refusals, rng.randrange(1, nth), True)
        counts["requests for memory refused"] += 1


@pytest.mark.parametrize("kind", ["memory", "durable"])
def test_each_block_of_the_index_refused(kind: str, ram_dir: Path, counts: Counter[str]) -> None:
    """The nth allocation of the index, for every n of a life."""
    nth, reached = 1, True
    while reached:
        life = Life(ram_dir / f"{nth}" if kind == "durable" else None)
        refuse_index(life.db, nth)
        life.live()
        reached = index_left(life.db) == 0
        refuse_index(life.db, 0)
        life.end()
        counts["requests for memory refused"] += reached
        nth += 1
    assert nth > 60


def prepared(directory: Path) -> dict[bytes, bytes]:
    """A directory with two checkpoints, leases, history, and a log behind them, not sealed."""
    life = Life(directory.with_name("lived"))
    life.live()
    life.db.lease(60, id=5)
    life.db.put(b"l/5", b"leased", lease=5)
    life.db.checkpoint()
    life.db.put_many([(b"z/%d" % i, b"z") for i in range(30)])
    shutil.copytree(directory.with_name("lived"), directory)     # open yet: an unclean end
    found = {kv.key: kv.value for kv in life.db.range()}
    life.db.close()
    return found


def test_an_open_refused(ram_dir: Path, refusals: Refusals, counts: Counter[str]) -> None:
    """The nth request of an open, for every n: OutOfMemoryError, and the next one is as before."""
    wanted = prepared(ram_dir / "db")
    nth = 1
    while True:
        held, before = refusals.held, refusals.refused
        refusals.arm(nth)
        try:
            db = kvcore.open(ram_dir / "db", **OPTIONS)
        except MemoryError:
            refusals.disarm()
            assert refusals.refused > before
        else:
            refusals.disarm()
            assert {kv.key: kv.value for kv in db.range()} == wanted
            assert db.check() == [] and db.lease_of(5).keys() == [b"l/5"]
            db.close()
            del db
        if refusals.held != held:
            gc.collect()
        assert refusals.held == held, nth
        if refusals.refused == before:
            break
        counts["requests for memory refused"] += 1
        nth += 1
    assert nth > 20


@pytest.mark.parametrize("what", ["backup", "restore", "repair"])
def test_copies_refused(what: str, ram_dir: Path, refusals: Refusals,
                        counts: Counter[str]) -> None:
    """A backup, a restore and a repair: whole, or nothing is there."""
    wanted = prepared(ram_dir / "db")
    with kvcore.open(ram_dir / "db", **OPTIONS) as db:
        db.backup(ram_dir / "backup")
        nth = 1
        while True:
            target, before = ram_dir / f"new-{nth}", refusals.refused
            calls: dict[str, Callable[[], Any]] = {
                "backup": lambda target=target: db.backup(target),
                "restore": lambda target=target: kvcore.restore(ram_dir / "backup", target),
                "repair": lambda target=target: repair(ram_dir / "backup", target)}
            refusals.arm(nth)
            try:
                calls[what]()
            except MemoryError:
                refusals.disarm()
                assert not target.exists()
            else:
                refusals.disarm()
                with kvcore.open(target) as copy:
                    assert {kv.key: kv.value for kv in copy.range()} == wanted
            assert list(ram_dir.glob("*.partial*")) == []
            if refusals.refused == before:
                break
            counts["requests for memory refused"] += 1
            nth += 1
    assert nth > 5
