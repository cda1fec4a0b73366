# SPDX-License-Identifier: Apache-2.0
"""A crowd of threads on one store, everything it is told written down: what makes the histories.

    Crowd(db, seed).run() ─► workers · a watcher · a compacter · who closes ─► .calls ─► check()

Everything random comes from the seed but the interleaving, for which the switch interval is set
small.  Values name who put them and when, so that no two are equal.
"""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from linearizability import Call, Client, revision_of
from pairs import Recipe
from together import run_all

import kvcore

KEYS = [b"k%d" % n for n in range(6)]
LEASED = [b"l%d" % n for n in range(4)]
INTERVALS = [1e-6, 1e-5, 1e-4, 5e-3]


@contextlib.contextmanager
def switching(seconds: float) -> Iterator[None]:
    """Threads take turns that often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Worker:
    """One thread: draws requests and does them."""

    def __init__(self, client: Client, seed: int, padding: int = 0) -> None:
        self.client = client
        self.chance = random.Random(seed * 1000 + client.who)
        self.padding = b"." * padding
        self.known = 1
        self.made = 10 * len(client.calls)     # a second crowd's values are new too
        self.leases: list[int] = []

    def value(self) -> bytes:
        self.made += 1
        return b"%d/%d" % (self.client.who, self.made) + self.padding

    def do(self, recipe: Recipe, submit: bool = False) -> Any:
        answer = self.client.do(recipe, submit)
        self.known = max(self.known, revision_of(answer) if recipe.kind != "Grant" else 0)
        return answer

    def turn(self, leases: bool) -> bool:
        """One request or a few; False when the store takes no more."""
        turns = [self.put, self.put, self.put, self.get, self.get, self.get, self.past, self.many,
                 self.page, self.delete, self.cas, self.txn, self.put_many, self.flight,
                 self.snapshot, self.keep_value, self.revision]
        if leases:
            turns += [self.lease, self.leased, self.leased, self.revoke]
        first = len(self.client.calls)
        self.chance.choice(turns)()
        return not any(call.answer == "ClosedError" for call in self.client.calls[first:])

    def key(self) -> bytes:
        return self.chance.choice(KEYS)

    def maybe(self) -> bool:
        return self.chance.random() < 0.4

    def put_recipe(self, **options: Any) -> Recipe:
        return Recipe("Put", (self.key(), self.value()), {"prev": self.maybe(), **options})

    # turns

    def put(self) -> None:
        self.do(self.put_recipe(), submit=self.chance.random() < 0.2)

    def keep_value(self) -> None:
        self.do(Recipe("Put", (self.key(),), {"ignore_value": True}))

    def get(self) -> None:
        self.do(Recipe("Get", (self.key(),)))

    def past(self) -> None:
        """Around the newest revision, compacted ones and future ones included."""
        revision = max(1, self.known + self.chance.randrange(-40, 4))
        if self.maybe():
            self.do(Recipe("Get", (self.key(), revision)))
        else:
            self.do(Recipe("Range", (), {"prefix": b"k", "revision": revision}))

    def many(self) -> None:
        self.do(Recipe("GetMany", (self.chance.sample(KEYS, 3),)))

    def page(self) -> None:
        options: dict[str, Any] = {"prefix": self.chance.choice([b"", b"k", b"l", b"k1"]),
                                   "keys_only": self.maybe()}
        if self.maybe():
            options["limit"] = self.chance.randrange(1, 4)
        self.do(Recipe("Range", (), options))

    def delete(self) -> None:
        if self.maybe():
            self.do(Recipe("Delete", (b"k2", b"k4"), {"prev": self.maybe()}))
        else:
            self.do(Recipe("Delete", (self.key(),), {"prev": self.maybe()}))

    def cas(self) -> None:
        """Read, then change if nobody else did meanwhile."""
        key = self.key()
        found = self.do(Recipe("Get", (key,)))
        if isinstance(found, str):
            return
        compare = Recipe("Compare", ("mod_revision", {"key": key}, "==", found[3] if found else 0))
        self.do(Recipe("Txn", ([compare], [Recipe("Put", (key, self.value()), {"prev": True})],
                               [Recipe("Get", (key,))])), submit=self.maybe())

    def txn(self) -> None:
        """Two puts and a deletion in one revision, or a look at everything."""
        first, second, third = self.chance.sample(KEYS, 3)
        target, operand = self.chance.choice([("version", self.chance.randrange(3)),
                                              ("create_revision", self.known)])
        compare = Recipe("Compare", (target, {"key": first}, self.chance.choice("<>"), operand))
        self.do(Recipe("Txn", (
            [compare],
            [Recipe("Put", (first, self.value())), Recipe("Get", (first,)),
             Recipe("Put", (second, self.value()), {"prev": True}),
             Recipe("Delete", (third,), {"prev": True})],
            [Recipe("Range", (), {"prefix": b"k"})])))

    def put_many(self) -> None:
        self.do(Recipe("PutMany", ([(key, self.value()) for key in self.chance.sample(KEYS, 4)],)))

    def flight(self) -> None:
        """Several submitted before the first is waited for."""
        flying = [self.client.start(self.put_recipe()) for _ in range(self.chance.randrange(2, 6))]
        for pending in flying:
            self.client.finish(pending)

    def snapshot(self) -> None:
        self.client.read_snapshot(
            [Recipe("Get", (self.key(),)), Recipe("Range", (), {"prefix": b""})],
            lambda: self.do(self.put_recipe()))

    def revision(self) -> None:
        self.do(Recipe("Revision"))

    def lease(self) -> None:
        self.made += 1
        id = 1 + self.client.who * 1_000_000 + self.made
        self.leases.append(id)
        self.do(Recipe("Grant", (self.chance.randrange(2, 5), id)))

    def leased(self) -> None:
        if self.leases:
            self.do(Recipe("Put", (self.chance.choice(LEASED), self.value()),
                           {"lease": self.chance.choice(self.leases), "prev": True}))

    def revoke(self) -> None:
        if self.leases:
            self.do(Recipe("Revoke", (self.chance.choice(self.leases),)))


class Crowd:
    """Workers on one store, and who else is asked for.

    compacting: somebody compacts close behind the newest revision; leases: some keys hang on
    leases; closing: the store is closed when so many requests were made; clock: moved on by one
    second now and then; watching: somebody watches everything."""

    def __init__(self, db: Any, seed: int, *, workers: int = 8, turns: int = 40, padding: int = 0,
                 compacting: bool = False, leases: bool = False, closing: int = 0,
                 clock: Any = None, watching: bool = True) -> None:
        self.db = db
        self.seed = seed
        self.turns = turns
        self.padding = padding
        self.compacting = compacting
        self.leases = leases
        self.closing = closing
        self.clock = clock
        self.watching = watching
        self.clients = [Client(db, who) for who in range(workers + 2)]
        self.done = threading.Event()
        self.enough = threading.Event()
        self._guard = threading.Lock()
        self._working = workers
        self._requests = 0

    @property
    def calls(self) -> list[Call]:
        """Everything that was asked so far."""
        return [call for client in self.clients for call in client.calls]

    def run(self) -> list[Call]:
        """Everybody at once; the calls of all."""
        chance = random.Random(self.seed)
        jobs: list[Callable[[], None]] = [
            lambda who=who: self.worker(who) for who in range(self._working)]  # type: ignore[misc]
        if self.watching:                        # opened before anybody compacts: the recording
            watch = self.db.watch(start_revision=1, prev_kv=True)    # of watches needs that
            jobs.append(lambda: self.watcher(watch))
        if self.compacting:
            jobs.append(self.compacter)
        if self.closing:
            jobs.append(self.closer)
        with switching(chance.choice(INTERVALS)):
            run_all(*jobs)
        return self.calls

    def read_all(self, db: Any) -> list[Call]:
        """The calls of all, and a last look at everything, at a store that may be another one."""
        self.clients[0].db = db
        self.clients[0].do(Recipe("Range"))
        return self.calls

    def worker(self, who: int) -> None:
        worker = Worker(self.clients[who], self.seed, self.padding)
        try:
            for number in range(self.turns):
                if not worker.turn(self.leases):
                    break
                self._count(number)
        finally:
            with self._guard:
                self._working -= 1
                if self._working == 0:
                    self.done.set()
                    self.enough.set()

    def _count(self, number: int) -> None:
        with self._guard:
            self._requests += 1
            if self._requests == self.closing:
                self.enough.set()
        if self.clock is not None and number % 8 == 7:
            self.clock.advance(1)
            with contextlib.suppress(kvcore.ClosedError):
                self.db.step()

    def watcher(self, watch: Any) -> None:
        """Everything that happens, to the last change, or to the end of the store."""
        client, finished = self.clients[-1], False
        with watch:
            while not finished:
                finished = self.done.is_set()              # one look more behind the last change
                while (found := client.watched(watch, 50, 0.005)) > 0:
                    pass
                finished = finished or found < 0

    def compacter(self) -> None:
        client, compacted = self.clients[-2], 0
        while not self.done.is_set():
            revision = client.do(Recipe("Revision"))
            if isinstance(revision, str):
                return
            if revision - 30 <= compacted:
                self.done.wait(0.001)
                continue
            compacted = revision - 30
            client.do(Recipe("Compact", (compacted,), {"physical": compacted % 2 == 0}))

    def closer(self) -> None:
        self.enough.wait()
        self.db.close()
