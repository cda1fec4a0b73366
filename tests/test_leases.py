# SPDX-License-Identifier: Apache-2.0
"""Leases: granted, kept alive, revoked, expired on a clock moved by hand, and reopened."""

from __future__ import annotations

import pickle
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from together import drain, finish, run_all

import kvcore
from kvcore import Compare, Delete, Get, LeaseGrant, LeaseRevoke, Put, Txn
from kvcore.testing.clocks import ManualClock

Opener = Callable[..., kvcore.Store]
pytestmark = pytest.mark.usefixtures("nothing_hangs")


class Timed:
    """A store on a clock that only `pass_` moves, with its background work done at once."""

    def __init__(self, db: kvcore.Store, clock: ManualClock) -> None:
        self.db = db
        self.clock = clock

    def pass_(self, seconds: float) -> None:
        self.clock.advance(seconds)
        finish(self.db)


@pytest.fixture
def timed(open_store: Opener) -> Timed:
    clock = ManualClock(seconds=1000.0)
    return Timed(open_store(clock=clock, maintenance=False), clock)


def ids(db: kvcore.Store) -> list[int]:
    return [lease.id for lease in db.leases()]


# --- grants --------------------------------------------------------------------------------------


def test_grant(timed: Timed) -> None:
    """A random positive id or the one asked for; no revision is taken."""
    db = timed.db
    chosen = [db.lease(10) for _ in range(50)]
    assert len({lease.id for lease in chosen}) == 50
    assert all(0 < lease.id < 1 << 63 for lease in chosen)
    assert (chosen[0].granted_ttl, chosen[0].ttl(), chosen[0].keys()) == (10, 10, [])
    for id in (1, -1, (1 << 63) - 1, -(1 << 63)):
        assert db.lease(10, id).id == id
        assert db.lease(10, id=id + (1 if id < 0 else -1) * 7).granted_ttl == 10
    assert db.revision == 1
    assert repr(chosen[0]) != repr(chosen[1])


def test_grant_submitted(timed: Timed) -> None:
    db = timed.db
    db.put(b"a")
    done = db.submit(LeaseGrant(5, id=77)).result(60)
    assert (done.id, done.ttl, done.revision) == (77, 5, 2)
    assert db.submit(LeaseGrant(1)).result(60).ttl == 2
    assert db.submit(LeaseGrant(9)).result(60).id > 0
    db.put(b"a", lease=77)
    gone = db.submit(LeaseRevoke(77)).result(60)
    assert (gone.deleted, gone.revision) == (1, 4)
    with pytest.raises(kvcore.LeaseNotFoundError):
        db.submit(LeaseRevoke(77)).result(60)


def test_id_taken(timed: Timed) -> None:
    db = timed.db
    db.lease(10, 5)
    with pytest.raises(kvcore.LeaseExistsError, match="^etcdserver: lease already exists$"):
        db.lease(20, 5)
    with pytest.raises(kvcore.LeaseExistsError):
        db.submit(LeaseGrant(20, 5)).result(60)
    assert db.lease_of(5).ttl() == 10
    db.lease_of(5).revoke()
    assert db.lease(20, 5).ttl() == 20


def test_shortest_and_longest(open_store: Opener) -> None:
    """Raised to the least; more than 9,000,000,000 seconds is refused."""
    db = open_store(maintenance=False, clock=ManualClock())
    for ttl in (-(1 << 63), -1, 0, 1, 2):
        assert db.lease(ttl).granted_ttl == 2
    assert db.lease(3).granted_ttl == 3
    assert db.lease(9_000_000_000).ttl() == 9_000_000_000
    for ttl in (9_000_000_001, (1 << 63) - 1):
        with pytest.raises(kvcore.LeaseTTLTooLargeError,
                           match="^etcdserver: too large lease TTL$"):
            db.lease(ttl)
    assert len(db.leases()) == 7
    other = open_store(min_lease_ttl=60, maintenance=False)
    assert (other.lease(59).granted_ttl, other.lease(61).granted_ttl) == (60, 61)


@pytest.mark.parametrize("call", [
    lambda db: db.lease("5"), lambda db: db.lease(5.0), lambda db: db.lease(None),
    lambda db: db.lease(), lambda db: db.lease(5, "1"), lambda db: db.lease(5, 1.5),
    lambda db: db.put(b"a", lease="1"), lambda db: LeaseGrant("5"), lambda db: LeaseRevoke("1"),
    lambda db: LeaseRevoke(None), lambda db: db.lease_of("1"),
])
def test_bad_types(db: kvcore.Store, call: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError):
        call(db)
    assert db.leases() == []


@pytest.mark.parametrize("number", [1 << 63, -(1 << 63) - 1, 1 << 100])
def test_numbers_out_of_range(db: kvcore.Store, number: int) -> None:
    for call in (lambda: db.lease(5, number), lambda: db.put(b"a", lease=number),
                 lambda: db.lease_of(number).revoke()):
        with pytest.raises((OverflowError, kvcore.InvalidArgument)):
            call()
    assert (db.revision, db.leases()) == (1, [])


def test_not_in_a_transaction(db: kvcore.Store) -> None:
    for op in (LeaseGrant(5, 1), LeaseRevoke(1)):
        for make in (lambda op=op: db.txn([], [op]), lambda op=op: db.submit(Txn([], [op])),
                     lambda op=op: db.txn([], [], [Txn([], [op])])):
            with pytest.raises((TypeError, kvcore.InvalidArgument)):
                make()
    assert (db.revision, db.leases()) == (1, [])


# --- keys ----------------------------------------------------------------------------------------


def test_attach_and_detach(timed: Timed) -> None:
    """A put attaches, moves or detaches; a delete detaches; ignore_lease keeps."""
    db = timed.db
    one, two = db.lease(10, 1), db.lease(10, 2)
    db.put(b"b", b"v", lease=1)
    db.put(b"a", b"v", lease=1)
    assert (one.keys(), db.get(b"a").lease) == ([b"a", b"b"], 1)
    db.put(b"a", b"v", lease=2)
    assert (one.keys(), two.keys()) == ([b"b"], [b"a"])
    db.put(b"a", b"w", ignore_lease=True)
    assert (two.keys(), db.get(b"a").lease, db.get(b"a").value) == ([b"a"], 2, b"w")
    db.put(b"a", ignore_value=True, lease=1)
    assert (one.keys(), two.keys(), db.get(b"a").value) == ([b"a", b"b"], [], b"w")
    db.put(b"a", b"v")
    assert (one.keys(), db.get(b"a").lease) == ([b"b"], 0)
    db.delete(b"b")
    assert one.keys() == []
    db.put(b"b", b"v")
    assert (one.keys(), db.get(b"b").lease) == ([], 0)
    db.put(b"b", b"v", lease=1)
    db.put(b"b", ignore_value=True)
    assert (one.keys(), db.get(b"b").lease) == ([], 0)
    assert one.revoke().deleted == 0
    assert db.get(b"b").value == b"v"
    db._check()


def test_lease_of_old_revisions(timed: Timed) -> None:
    """The lease of a version is part of it."""
    db = timed.db
    db.lease(10, 7)
    db.put(b"a", lease=7)
    db.put(b"a")
    assert [db.get(b"a", revision=r).lease for r in (2, 3)] == [7, 0]
    assert db.range().leases.tolist() == [0]
    assert db.txn([Compare.lease(b"a") == 0], [Put(b"a", lease=7)]).succeeded
    assert db.txn([Compare.lease(b"a") == 7]).succeeded


def test_unknown_lease(timed: Timed) -> None:
    """Refused wherever it is named; nothing of the request happens."""
    db = timed.db
    db.lease(10, 1)
    db.put(b"a", lease=1)
    before = (db.revision, db.hash())
    for call in (lambda: db.put(b"a", lease=9), lambda: db.put_many([(b"b", b"")], lease=9),
                 lambda: db.txn([], [Put(b"b"), Put(b"a", lease=9)]),
                 lambda: db.submit(Put(b"b", lease=9)).result(60),
                 lambda: db.lease_of(9).revoke(), lambda: db.submit(LeaseRevoke(9)).result(60)):
        with pytest.raises(kvcore.LeaseNotFoundError,
                           match="^etcdserver: requested lease not found$"):
            call()
    assert (db.revision, db.hash()) == before
    assert db.lease_of(1).keys() == [b"a"]
    nobody = db.lease_of(9)
    assert (nobody.id, nobody.ttl(), nobody.keepalive(), nobody.keys()) == (9, -1, 0, [])
    with pytest.raises(kvcore.LeaseProvidedError):
        db.put(b"a", lease=1, ignore_lease=True)


def test_leases_in_transactions(timed: Timed) -> None:
    """Only the path taken matters, as it was before."""
    db = timed.db
    one = db.lease(10, 1)
    done = db.txn([Compare.version(b"x") == 0],
                  [Put(b"a", b"1", lease=1), Put(b"b", b"2"), Txn([], [Put(b"c", lease=1)])],
                  [Put(b"d", lease=99)])
    assert (done.succeeded, done.revision) == (True, 2)
    assert one.keys() == [b"a", b"c"]
    db.txn([], [Delete(b"a"), Put(b"b", lease=1), Put(b"c"), Get(b"b")])
    assert one.keys() == [b"b"]
    db.txn([], [Txn([], [Put(b"n", lease=1)]), Txn([], [Delete(b"n")])])
    assert (one.keys(), db.get(b"n")) == ([b"b"], None)
    assert db.put_many([(b"m%d" % i, b"") for i in range(3)], lease=1) == [5, 6, 7]
    assert one.keys() == [b"b", b"m0", b"m1", b"m2"]
    db._check()


def test_range_delete_detaches(timed: Timed) -> None:
    db = timed.db
    one = db.lease(10, 1)
    db.put_many([(b"%03d" % i, b"") for i in range(300)], lease=1)
    db.delete(b"050", b"250")
    assert one.keys() == [b"%03d" % i for i in range(300) if not 50 <= i < 250]
    assert one.revoke().deleted == 100


# --- revocation ----------------------------------------------------------------------------------


def test_revoke_is_one_revision_in_key_order(timed: Timed) -> None:
    db = timed.db
    lease = db.lease(10)
    keys = [b"%04d" % i for i in range(2000)]
    shuffled = keys[:]
    random.Random(1).shuffle(shuffled)
    db.put_many([(key, b"v") for key in shuffled], lease=lease.id)
    db.put(b"stays")
    watch = db.watch()
    done = lease.revoke()
    assert (done.deleted, done.revision, db.revision) == (2000, 2003, 2003)
    (response,) = drain(watch)
    assert [e.kv.key for e in response.events] == keys
    assert db.range(keys_only=True).keys() == [b"stays"]
    assert (ids(db), lease.ttl(), lease.keepalive()) == ([], -1, 0)
    with pytest.raises(kvcore.LeaseNotFoundError):
        lease.revoke()
    with pytest.raises(kvcore.LeaseNotFoundError):
        db.put(b"a", lease=lease.id)


def test_revoke_without_keys_takes_no_revision(timed: Timed) -> None:
    db = timed.db
    db.put(b"a")
    done = db.lease(10).revoke()
    assert (done.deleted, done.revision, db.revision) == (0, 2, 2)


def test_context_manager_revokes(timed: Timed) -> None:
    db = timed.db
    with db.lease(10) as lease:
        db.put(b"a", lease=lease.id)
    assert (db.get(b"a"), db.revision, lease.ttl()) == (None, 3, -1)
    with db.lease(10) as lease:
        lease.revoke()
    assert ids(db) == []


def test_a_lease_is_not_pickled(timed: Timed) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(timed.db.lease(10))


# --- time ----------------------------------------------------------------------------------------


def test_never_early(timed: Timed) -> None:
    db = timed.db
    lease = db.lease(5)
    db.put(b"a", lease=lease.id)
    for passed, left in ((0.5, 4), (3.5, 1), (0.999, 0)):
        timed.pass_(passed)
        assert (lease.ttl(), db.get(b"a") is None) == (left, False)
    timed.pass_(0.001)
    assert (db.get(b"a"), db.revision, lease.ttl(), ids(db)) == (None, 3, -1, [])


def test_expired_but_not_revoked(timed: Timed) -> None:
    """Until the background work comes to it, nothing happens to it but through a keep-alive."""
    db = timed.db
    one, two = db.lease(5, 1), db.lease(5, 2)
    db.put(b"a", lease=1)
    db.put(b"b", lease=2)
    timed.clock.advance(6)
    assert (db.get(b"a").lease, one.keys()) == (1, [b"a"])
    assert one.ttl() <= 0
    assert one.keepalive() == 0
    assert (db.get(b"a"), db.revision, one.ttl(), ids(db)) == (None, 4, -1, [2])
    assert two.revoke().revision == 5
    finish(db)
    assert db.revision == 5


def test_keepalive(timed: Timed) -> None:
    """The full time again, as often as it is asked for; others are not touched."""
    db = timed.db
    kept, other = db.lease(5), db.lease(7)
    db.put(b"kept", lease=kept.id)
    db.put(b"other", lease=other.id)
    for _ in range(10):
        timed.pass_(4.5)
        assert (kept.keepalive(), kept.ttl()) == (5, 5)
    assert db.range(keys_only=True).keys() == [b"kept"]
    timed.pass_(5)
    assert db.range(count_only=True).count == 0
    assert kept.keepalive() == 0
    assert db.revision == 5


def test_order_of_expiry(timed: Timed) -> None:
    """Due together: by expiry, then by id; each in a revision of its own."""
    db = timed.db
    plan = [(9, 4), (3, 7), (8, 4), (1, 9), (5, 4), (2, 7), (-6, 4)]
    for id, ttl in plan:
        db.lease(ttl, id)
        db.put_many([(b"%d/b" % id, b""), (b"%d/a" % id, b"")], lease=id)
    assert ids(db) == [-6, 5, 8, 9, 2, 3, 1]
    watch = db.watch()
    timed.pass_(100)
    assert [[e.kv.key for e in r.events] for r in drain(watch)] == [
        [b"%d/a" % id, b"%d/b" % id] for id in (-6, 5, 8, 9, 2, 3, 1)]
    assert db.revision == 1 + 14 + 7


def test_list_follows_keepalives(timed: Timed) -> None:
    db = timed.db
    leases = [db.lease(10, id) for id in (3, 1, 2)]
    timed.pass_(1)
    assert ids(db) == [1, 2, 3]
    leases[1].keepalive()
    assert ids(db) == [2, 3, 1]
    assert [lease.ttl() for lease in db.leases()] == [9, 9, 10]
    assert [lease.granted_ttl for lease in db.leases()] == [10] * 3


def test_thousands_at_once(timed: Timed) -> None:
    """More than one step takes; none is forgotten."""
    db = timed.db
    for id in range(1, 5001):
        db.lease(3 + id % 3, id)
    for id in range(1, 5001, 2):
        db.put(b"%05d" % id, lease=id)
    watch = db.watch()
    timed.pass_(4.5)
    got = [r.events[0].kv.key for r in drain(watch)]
    assert got == [b"%05d" % id for ttl in (3, 4) for id in range(1, 5001, 2)
                   if 3 + id % 3 == ttl]
    assert sorted(ids(db)) == [id for id in range(1, 5001) if id % 3 == 2]
    db._check()
    timed.pass_(0.5)
    assert (ids(db), db.range(count_only=True).count) == ([], 0)
    db._check()


def test_clock_that_jumps(timed: Timed) -> None:
    """Forward: what is over expires, once. Back: nothing does early, and nothing is lost."""
    db, clock = timed.db, timed.clock
    one, two = db.lease(10, 1), db.lease(100, 2)
    db.put(b"a", lease=1)
    db.put(b"b", lease=2)
    clock.set(900.0)
    finish(db)
    assert ids(db) == [1, 2]
    assert (one.keepalive(), two.keepalive()) == (10, 100)
    clock.set(909.0)
    finish(db)
    assert ids(db) == [1, 2]
    clock.set(910.0)
    finish(db)
    assert ids(db) == [2]
    clock.set(1e6)
    finish(db)
    assert (ids(db), db.revision) == ([], 5)
    late = db.lease(2)
    clock.set(0.0)
    finish(db)
    assert late.ttl() >= 2
    assert late.keepalive() == 2
    timed.pass_(2)
    assert ids(db) == []


def test_very_long_lease(timed: Timed) -> None:
    """The longest there may be, to its end: 285 years."""
    db = timed.db
    lease = db.lease(9_000_000_000)
    timed.pass_(8_000_000_000.0)
    assert lease.ttl() in (999_999_999, 1_000_000_000)
    timed.pass_(999_999_990.0)
    assert ids(db) == [lease.id]
    timed.pass_(11.0)
    assert ids(db) == []


def test_background_thread_expires(open_store: Opener) -> None:
    """Without any call of step()."""
    clock = ManualClock()
    db = open_store(clock=clock)
    for id in range(1, 20):
        db.lease(2, id)
        db.put(b"%d" % id, lease=id)
    watch = db.watch()
    clock.advance(2)
    assert [watch.get(60).events[0].kv.key for _ in range(19)] == [
        b"%d" % id for id in range(1, 20)]
    assert db.range(count_only=True).count == 0


# --- reopening -----------------------------------------------------------------------------------


def reopened(opened: Any, path: Path, clock: ManualClock) -> kvcore.Store:
    return opened(path, clock=clock, maintenance=False, segment_bytes=65536,
                  max_request_bytes=16384)


@pytest.mark.parametrize("checkpoints", [0, 1, 5])
@pytest.mark.parametrize("tail", [False, True])
def test_reopen(opened: Any, ram_dir: Path, checkpoints: int, tail: bool) -> None:
    """From a checkpoint, from the log, from both: every lease with its keys and its full time."""
    clock = ManualClock()
    db = reopened(opened, ram_dir, clock)
    for id in range(1, 40):
        db.lease(10 + id, id)
        db.put_many([(b"%02d/%d" % (id, i), b"v" * 40) for i in range(id % 5)], lease=id)
    for id in range(1, 40, 4):
        db.lease_of(id).revoke()
    for i in range(checkpoints):
        db.put(b"38/0", b"%d" % i, lease=38)
        db.checkpoint()
    if tail:
        db.put(b"02/1", b"detached")
        db.put(b"02/0", b"moved", lease=3)
        db.delete(b"03/1")
        db.lease_of(4).revoke()
        db.lease(99, 1)
        db.put(b"late", lease=1)
    wanted = {lease.id: (lease.granted_ttl, lease.keys()) for lease in db.leases()}
    clock.advance(9)
    before = db.hash()
    db.close()
    again = reopened(opened, ram_dir, clock)
    assert again.hash() == before
    assert {lease.id: (lease.granted_ttl, lease.keys()) for lease in again.leases()} == wanted
    assert [(lease.ttl(), lease.id) for lease in again.leases()] == sorted(
        (ttl, id) for id, (ttl, _) in wanted.items())
    clock.advance(11.5)
    finish(again)
    assert 2 not in wanted or 2 in ids(again)
    clock.advance(1000)
    finish(again)
    assert ids(again) == []
    left = again.range(keys_only=True).keys()
    assert left == ([b"02/1"] if tail else [])


def test_reopen_after_a_time_away(opened: Any, ram_dir: Path) -> None:
    """What ended while the store was closed lives again for its full time."""
    clock = ManualClock()
    db = reopened(opened, ram_dir, clock)
    db.put(b"a", lease=db.lease(5, 1).id)
    db.close()
    clock.advance(100)
    db = reopened(opened, ram_dir, clock)
    finish(db)
    assert (ids(db), db.lease_of(1).ttl()) == ([1], 5)
    clock.set(0.0)
    db.close()
    db = reopened(opened, ram_dir, clock)
    assert db.lease_of(1).ttl() == 5
    clock.advance(5)
    finish(db)
    assert (ids(db), db.get(b"a")) == ([], None)
    db.close()
    db = reopened(opened, ram_dir, clock)
    assert (ids(db), db.revision) == ([], 3)


def test_unclean_reopen(opened: Any, ram_dir: Path) -> None:
    """A copy of the directory taken while the store is open: as after a crash."""
    clock = ManualClock()
    db = reopened(opened, ram_dir / "live", clock)
    for id in range(1, 10):
        db.lease(id + 2, id)
        db.put(b"k%d" % id, lease=id)
        if id == 5:
            db.checkpoint()
    clock.advance(5)
    finish(db)
    alive, state = ids(db), db.hash()
    assert alive == [4, 5, 6, 7, 8, 9]
    shutil.copytree(ram_dir / "live", ram_dir / "crashed")
    again = reopened(opened, ram_dir / "crashed", clock)
    assert (ids(again), again.hash()) == (alive, state)
    assert again.lease_of(4).ttl() == 6
    clock.advance(11)
    finish(again)
    assert (ids(again), again.range(count_only=True).count) == ([], 0)


def test_ids_of_a_reopened_store(opened: Any, ram_dir: Path) -> None:
    """No id is given twice, and a dead one can be taken again."""
    clock = ManualClock()
    db = reopened(opened, ram_dir, clock)
    first = db.lease(10).id
    db.lease(10, 5).revoke()
    db.close()
    db = reopened(opened, ram_dir, clock)
    with pytest.raises(kvcore.LeaseExistsError):
        db.lease(10, first)
    assert db.lease(10, 5).ttl() == 10


def test_many_checkpoints_between_grants(opened: Any, ram_dir: Path) -> None:
    clock = ManualClock()
    alive: dict[int, list[bytes]] = {}
    for turn in range(6):
        db = reopened(opened, ram_dir, clock)
        assert {lease.id: lease.keys() for lease in db.leases()} == alive
        for id in range(turn * 10 + 1, turn * 10 + 8):
            db.lease(1000, id)
            db.put(b"%02d" % id, b"x" * 3000, lease=id)
            if id % 3 == 0:
                db.checkpoint()
        db.lease_of(turn * 10 + 2).revoke()
        if turn % 2:
            db.checkpoint()
        alive = {lease.id: lease.keys() for lease in db.leases()}
        db.close()
    assert len(alive) == 36


# --- closing, threads ----------------------------------------------------------------------------


def test_closed_store(open_store: Opener) -> None:
    db = open_store()
    lease = db.lease(10)
    db.close()
    for call in (lambda: db.lease(10), db.leases, lease.ttl, lease.keepalive, lease.revoke,
                 lease.keys):
        with pytest.raises(kvcore.ClosedError):
            call()


def test_threads(open_store: Opener) -> None:
    """Grants, puts, keep-alives, revokes and expiry side by side."""
    clock = ManualClock()
    db = open_store(clock=clock, segment_bytes=65536, max_request_bytes=16384)
    working = threading.Semaphore(0)

    def work(n: int) -> int:
        gone = 0
        for i in range(60):
            lease = db.lease(2 + i % 3)
            try:
                for k in range(3):
                    db.put(b"%d/%d/%d" % (n, i, k), lease=lease.id)
                lease.keepalive()
                if i % 4 == 0:
                    lease.revoke()
            except kvcore.LeaseNotFoundError:
                gone += 1
            working.release()
        return gone

    def tick() -> None:
        for _ in range(240):
            working.acquire()
            clock.advance(0.1)

    run_all(*[lambda n=n: work(n) for n in range(4)], tick)
    db._check()
    attached = {key for lease in db.leases() for key in lease.keys()}
    assert set(db.range(keys_only=True).keys()) == attached
    clock.advance(10)
    finish(db)
    assert (ids(db), db.range(count_only=True).count) == ([], 0)


def test_keepalive_when_its_time_is_over(timed: Timed) -> None:
    """At the very end of its time it is too late, also before the background work."""
    lease = timed.db.lease(5)
    timed.db.put(b"a", lease=lease.id)
    timed.clock.advance(5)
    assert (lease.keepalive(), ids(timed.db), timed.db.get(b"a")) == (0, [], None)


def test_one_of_those_due_is_revoked_first(opened: Opener, ram_dir: Path) -> None:
    """Of leases that end together some are revoked while their end waits its turn: all end."""
    clock = ManualClock()
    db = opened(ram_dir / "db", clock=clock, maintenance=False)
    for n in range(6):
        leases = [db.lease(5) for _ in range(60)]
        for lease in leases:
            db.put(b"%d" % lease.id, lease=lease.id)
        clock.advance(6)
        # What stands before them in the queue takes longer than to come to the end of this.
        slow = [db.submit(Put(b"slow", b"s" * 1_400_000)) for _ in range(6)]
        gone = [db.submit(LeaseRevoke(lease.id)) for lease in leases[10:20]]
        finish(db)
        for future in slow + gone:
            future.result(60)
        assert (n, ids(db), db.range(keys_only=True).keys()) == (n, [], [b"slow"])
    revision = db.revision
    db.close()
    assert opened(ram_dir / "db", clock=clock, maintenance=False).revision == revision


def test_revoked_out_of_the_middle(timed: Timed) -> None:
    """One taken out of the middle leaves the others in their order."""
    leases = {ttl: timed.db.lease(ttl) for ttl in (2, 10, 3, 20, 30, 4, 5)}
    leases[20].revoke()
    timed.db._check()
    timed.pass_(5)
    assert [lease.granted_ttl for lease in timed.db.leases()] == [10, 30]
