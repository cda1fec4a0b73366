# SPDX-License-Identifier: Apache-2.0
"""The embedded store and a real etcd give the same answers: long streams of requests, bad requests
one by one, watches, leases, and both restarted.

What differs and why: docs/differences-from-etcd.md.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from etcd_fixtures import fresh, pair, shared  # noqa: F401
from etcd_pair import COUNT, Pair, Refused
from etcd_requests import SHORT_TTLS
from soak import Soaking

import kvcore
from kvcore.etcd import messages as m
from kvcore.etcd.translate import event_response

STREAMS = 8
BLOCKS = 14
BLOCK = 170


@pytest.mark.soak
def test_streams_of_requests(pair: Pair, soaking: Soaking) -> None:  # noqa: F811
    """At least 20,000 requests of every kind; each stream is a seed."""
    before = pair.counts[COUNT]
    for seed in soaking(STREAMS):
        rng = random.Random(seed)
        for _ in range(BLOCKS):
            for _ in range(BLOCK):
                pair.step(rng)
            pair.reset()
    assert pair.counts[COUNT] - before >= 20_000


# --- bad requests, one by one --------------------------------------------------------------------

def refused(pair: Pair, request: Any) -> str:  # noqa: F811
    """What both refuse a request with."""
    answer = pair.ask(request)
    assert isinstance(answer, Refused), answer
    return f"{answer.code} {answer.text}"


def put_op(key: bytes, **options: Any) -> m.RequestOp:
    return m.RequestOp(request_put=m.PutRequest(key=key, **options))


def range_op(**options: Any) -> m.RequestOp:
    return m.RequestOp(request_range=m.RangeRequest(**options))


def delete_op(key: bytes, end: bytes = b"") -> m.RequestOp:
    return m.RequestOp(request_delete_range=m.DeleteRangeRequest(key=key, range_end=end))


def txn_op(success: list[m.RequestOp], failure: Any = ()) -> m.RequestOp:
    return m.RequestOp(request_txn=m.TxnRequest(success=success, failure=failure))


EMPTY_KEY = "3 etcdserver: key is not provided"
BAD: dict[str, tuple[Any, str]] = {
    "range": (m.RangeRequest(), EMPTY_KEY),
    "range to an end": (m.RangeRequest(range_end=b"z"), EMPTY_KEY),
    "put": (m.PutRequest(value=b"1"), EMPTY_KEY),
    "delete": (m.DeleteRangeRequest(), EMPTY_KEY),
    "compare": (m.TxnRequest(compare=[m.Compare()]), EMPTY_KEY),
    "range in a txn": (m.TxnRequest(failure=[range_op()]), EMPTY_KEY),
    "future": (m.RangeRequest(key=b"a", revision=1 << 40),
               "11 etcdserver: mvcc: required revision is a future revision"),
    "compacted": (m.RangeRequest(key=b"a", revision=1),
                  "11 etcdserver: mvcc: required revision has been compacted"),
    "compact again": (m.CompactionRequest(revision=1),
                      "11 etcdserver: mvcc: required revision has been compacted"),
    "compact the future": (m.CompactionRequest(revision=1 << 40),
                           "11 etcdserver: mvcc: required revision is a future revision"),
    "value and ignore_value": (m.PutRequest(key=b"a", value=b"1", ignore_value=True),
                               "3 etcdserver: value is provided"),
    "lease and ignore_lease": (m.PutRequest(key=b"a", lease=1, ignore_lease=True),
                               "3 etcdserver: lease is provided"),
    "ignore_value of nothing": (m.PutRequest(key=b"gone", ignore_value=True),
                                "3 etcdserver: key not found"),
    "unknown lease": (m.PutRequest(key=b"a", lease=1), "5 etcdserver: requested lease not found"),
    "unknown lease before no key": (m.PutRequest(key=b"gone", lease=1, ignore_value=True),
                                    "5 etcdserver: requested lease not found"),
    "no key before unknown lease, in a txn": (
        m.TxnRequest(success=[put_op(b"gone", lease=1, ignore_value=True)]),
        "3 etcdserver: key not found"),
    "a put before a range, in a txn": (
        m.TxnRequest(success=[range_op(key=b"a", revision=1 << 40), put_op(b"a", lease=1)]),
        "5 etcdserver: requested lease not found"),
    "a nested put before a range": (
        m.TxnRequest(success=[range_op(key=b"a", revision=1), txn_op([put_op(b"a", lease=1)])]),
        "5 etcdserver: requested lease not found"),
    "the first of two ranges": (
        m.TxnRequest(success=[range_op(key=b"a", revision=1 << 40), put_op(b"a"),
                              range_op(key=b"a", revision=1)]),
        "11 etcdserver: mvcc: required revision is a future revision"),
    "revoke an unknown lease": (m.LeaseRevokeRequest(ID=1),
                                "5 etcdserver: requested lease not found"),
    "revoke lease 0": (m.LeaseRevokeRequest(), "5 etcdserver: requested lease not found"),
    "ttl": (m.LeaseGrantRequest(ID=1, TTL=9_000_000_001), "11 etcdserver: too large lease TTL"),
    "no operation": (m.TxnRequest(success=[m.RequestOp()]), "3 etcdserver: key not found"),
    "no operation behind an empty key": (
        m.TxnRequest(success=[put_op(b""), m.RequestOp()]), EMPTY_KEY),
    "no operation before an empty key": (
        m.TxnRequest(success=[m.RequestOp(), put_op(b"")]), "3 etcdserver: key not found"),
    "no operation in a nested txn": (
        m.TxnRequest(failure=[txn_op([], [m.RequestOp()])]), "3 etcdserver: key not found"),
    "no operation behind a value": (
        m.TxnRequest(success=[put_op(b"a", value=b"1", ignore_value=True), m.RequestOp()]),
        "3 etcdserver: value is provided"),
    "no operation among too many": (
        m.TxnRequest(success=[m.RequestOp()] * 129),
        "3 etcdserver: too many operations in txn request"),
    "129 compares": (m.TxnRequest(compare=[m.Compare(key=b"a")] * 129),
                     "3 etcdserver: too many operations in txn request"),
    "129 operations": (m.TxnRequest(failure=[range_op(key=b"a")] * 129),
                       "3 etcdserver: too many operations in txn request"),
    "too many nested": (
        m.TxnRequest(success=[*[range_op(key=b"a")] * 99, txn_op([range_op(key=b"a")] * 29)]),
        "3 etcdserver: too many operations in txn request"),
    "two puts": (m.TxnRequest(success=[put_op(b"a"), put_op(b"a")]),
                 "3 etcdserver: duplicate key given in txn request"),
    "two puts in nested branches": (
        m.TxnRequest(success=[txn_op([put_op(b"a")]), txn_op([], [put_op(b"a")])]),
        "3 etcdserver: duplicate key given in txn request"),
    "a put and a nested delete": (
        m.TxnRequest(failure=[put_op(b"a"), txn_op([delete_op(b"a", b"b")])]),
        "3 etcdserver: duplicate key given in txn request"),
    "too many before duplicate": (
        m.TxnRequest(success=[put_op(b"a")] * 129),
        "3 etcdserver: too many operations in txn request"),
    "empty key before duplicate": (
        m.TxnRequest(success=[put_op(b"a"), put_op(b"a"), put_op(b"")]), EMPTY_KEY),
    "duplicate before unknown lease": (
        m.TxnRequest(success=[put_op(b"a", lease=1), put_op(b"a")]),
        "3 etcdserver: duplicate key given in txn request"),
    "too large": (m.PutRequest(key=b"a", value=b"v" * (3 << 19)),
                  "3 etcdserver: request is too large"),
    "too large in all": (
        m.TxnRequest(success=[put_op(b"a", value=b"v" * (1 << 20)),
                              put_op(b"b", value=b"v" * (1 << 19))]),
        "3 etcdserver: request is too large"),
    "hash of the future": (m.HashKVRequest(revision=1 << 40),
                           "11 etcdserver: mvcc: required revision is a future revision"),
    "hash of the past": (m.HashKVRequest(revision=1),
                         "11 etcdserver: mvcc: required revision has been compacted"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request(pair: Pair, name: str) -> None:  # noqa: F811
    request, answer = BAD[name]
    pair.put(b"a")
    before = pair.revision
    assert refused(pair, request) == answer
    assert pair.ask(m.RangeRequest(key=b"\0", range_end=b"\0")).header.revision == before


def test_a_fault_of_a_branch_not_taken(pair: Pair) -> None:  # noqa: F811
    """What the request shows is refused; what only the state shows is not looked at."""
    missing = [m.Compare(key=b"gone", target=m.Compare.VERSION, version=1)]
    assert refused(pair, m.TxnRequest(compare=missing, success=[put_op(b"")])) == EMPTY_KEY
    answer = pair.ask(m.TxnRequest(compare=missing, failure=[put_op(b"a")],
                                   success=[put_op(b"a", lease=1), range_op(key=b"a", revision=1)]))
    assert not answer.succeeded and len(answer.responses) == 1


def test_nested_txns(pair: Pair) -> None:  # noqa: F811
    """As deep as a message may be; headers inside are etcd's."""
    request = m.TxnRequest(success=[put_op(b"a"), delete_op(b"b"), range_op(key=b"a")])
    for _ in range(40):
        request = m.TxnRequest(success=[m.RequestOp(request_txn=request)])
    answer = pair.ask(request)
    for _ in range(40):
        answer = answer.responses[0].response_txn
        assert answer.HasField("header") and answer.header.revision == 0
    assert answer.responses[2].response_range.header.revision == pair.revision


# --- leases --------------------------------------------------------------------------------------

@pytest.mark.parametrize("ttl", SHORT_TTLS)
def test_a_short_lease(pair: Pair, ttl: int) -> None:  # noqa: F811
    """TTLs below the least are raised to it."""
    assert pair.ask(m.LeaseGrantRequest(ID=5, TTL=ttl)).TTL == 6
    pair.ask(m.LeaseTimeToLiveRequest(ID=5, keys=True))
    pair.ask(m.LeaseRevokeRequest(ID=5))


def test_leases(pair: Pair) -> None:  # noqa: F811
    for number, ttl in ((1, 9 * 10**9), (-1, 5000), (-(1 << 63), 600), ((1 << 63) - 1, 7000)):
        pair.ask(m.LeaseGrantRequest(ID=number, TTL=ttl))
    assert refused(pair, m.LeaseGrantRequest(ID=-1, TTL=10)) == "9 etcdserver: lease already exists"
    for key in (b"c", b"a", b"b", b"d"):
        pair.put(key, lease=-1)
    pair.put(b"b")                                        # detached
    pair.put(b"c", lease=1)                               # moved
    pair.put(b"a", ignore_lease=True, value=b"kept")
    pair.ask(m.DeleteRangeRequest(key=b"d"))
    for lease in pair.leases:
        assert pair.ask(m.LeaseKeepAliveRequest(ID=lease)).TTL > 0
        pair.ask(m.LeaseTimeToLiveRequest(ID=lease, keys=True))
        pair.ask(m.LeaseTimeToLiveRequest(ID=lease))
    assert len(pair.ask(m.LeaseLeasesRequest()).leases) == 4
    assert pair.ask(m.LeaseKeepAliveRequest(ID=77)).TTL == 0
    assert pair.ask(m.LeaseTimeToLiveRequest(ID=77, keys=True)).TTL == -1
    watches = pair.watch()
    watches.create(m.WatchCreateRequest(key=b"\0", range_end=b"\0", prev_kv=True))
    before = pair.revision
    pair.ask(m.LeaseRevokeRequest(ID=-1))
    assert pair.revision == before + 1
    pair.ask(m.LeaseRevokeRequest(ID=-(1 << 63)))         # without keys: no revision
    assert pair.revision == before + 1
    watches.drain()


# --- watches -------------------------------------------------------------------------------------

def test_watches_of_one_call(pair: Pair) -> None:  # noqa: F811
    """Ids given and picked, taken ones, empty spans, cancelled and unknown ones."""
    watches = pair.watch()
    reasons = []
    for create in (
            m.WatchCreateRequest(key=b"a"), m.WatchCreateRequest(key=b"a", watch_id=2),
            m.WatchCreateRequest(), m.WatchCreateRequest(range_end=b"\0"),
            m.WatchCreateRequest(key=b"a", watch_id=2), m.WatchCreateRequest(key=b"a", watch_id=-9),
            m.WatchCreateRequest(key=b"b", range_end=b"a"),
            m.WatchCreateRequest(key=b"b", range_end=b"b", watch_id=2),
            m.WatchCreateRequest(key=b"b", start_revision=pair.revision + 3),
            m.WatchCreateRequest(key=b"a", range_end=b"c", filters=[m.WatchCreateRequest.NOPUT]),
            m.WatchCreateRequest(key=b"a", range_end=b"c",
                                 filters=[m.WatchCreateRequest.NODELETE, 9])):
        reasons.append(watches.create(create).cancel_reason)
    assert [reason for reason in reasons if reason] == [
        "mvcc: duplicate watch ID provided on the WatchStream",
        *["mvcc: watcher range is empty"] * 2]
    for key in (b"a", b"b", b"\0", b"b", b"c"):
        pair.put(key)
    pair.ask(m.DeleteRangeRequest(key=b"a", range_end=b"c"))
    watches.cancel(99)
    watches.cancel(2)
    watches.create(m.WatchCreateRequest(key=b"a", watch_id=2))
    pair.put(b"a")
    watches.drain()
    assert watches.progress().watch_id == -1


def test_a_watch_of_a_long_history(pair: Pair) -> None:  # noqa: F811
    """More revisions than etcd reads at a time, in order, with what was before."""
    start = pair.revision
    for i in range(1300):
        pair.put(b"a%d" % (i % 7), b"%d" % i)
    for key, end in ((b"a", b"b"), (b"a3", b"")):
        pair.watch().create(m.WatchCreateRequest(key=key, range_end=end, start_revision=start,
                                                 prev_kv=True))
    before = pair.counts["watch events compared with etcd"]
    pair.watch().fence()
    assert pair.counts["watch events compared with etcd"] - before >= 1300 + 1300 // 7


def test_compaction_and_watches(pair: Pair) -> None:  # noqa: F811
    """At the compact revision a watch begins, before it it is ended, with that revision."""
    for i in range(6):
        pair.put(b"a", b"%d" % i)
    pair.compact(m.CompactionRequest(revision=pair.revision - 2))
    compacted = pair.store.compact_revision
    watches = pair.watch()
    for start in (1, compacted - 1, compacted, compacted + 1):
        watches.create(m.WatchCreateRequest(key=b"a", start_revision=start, prev_kv=True))
    watches.drain()
    assert watches.ended == {0, 1}
    watches.create(m.WatchCreateRequest(key=b"a", watch_id=1))   # the ended one has it still
    watches.cancel(1)
    watches.create(m.WatchCreateRequest(key=b"a", watch_id=1))
    pair.put(b"a")
    pair.compact(m.CompactionRequest(revision=pair.revision, physical=True))
    pair.put(b"a")
    watches.drain()


def test_progress_of_itself(pair: Pair) -> None:  # noqa: F811
    """A quiet watch that asked for it says how far it is, once in an interval."""
    watches = pair.watch()
    watches.create(m.WatchCreateRequest(key=b"a", progress_notify=True))
    for key in (b"a", b"b", b"b"):
        pair.put(key)
    watch = watches.ours._watches[0]
    assert watch is not None
    told: list[Any] = [[], []]
    while len(told[0]) < 2:
        response = watch.get(timeout=60)
        header = pair.service.identity.header(response.revision)
        told[0] += [r for r in (event_response(0, response, header),)
                    if r.events or r.header.revision == pair.revision]
    while len(told[1]) < 2:
        told[1] += [r for r in (watches.theirs.next(),)
                    if r.events or r.header.revision == pair.revision]
    assert told[0] == told[1] and len(told[0][0].events) == 1 and not told[0][1].events
    pair.close_streams()                     # more of it comes all the time


@pytest.mark.parametrize("asked", [True, False])
def test_fragments(pair: Pair, asked: bool) -> None:  # noqa: F811
    """Events of one revision too many for one response come in the same pieces, if asked for."""
    for i in range(5):
        pair.put(b"a%d" % i, b"v" * 900_000)
    watches = pair.watch()
    watches.create(m.WatchCreateRequest(key=b"a", range_end=b"b", prev_kv=True, fragment=asked))
    pair.ask(m.DeleteRangeRequest(key=b"a", range_end=b"b"))
    ours = list(watches.ours.pull())
    theirs = [watches.theirs.next() for _ in ours]
    assert ours == theirs
    assert [(len(r.events), r.fragment) for r in ours] == (
        [(2, True), (2, True), (1, False)] if asked else [(5, False)])


# --- the rest ------------------------------------------------------------------------------------

def test_pages_of_many_keys(pair: Pair) -> None:  # noqa: F811
    for i in range(20):
        pair.ask(m.TxnRequest(success=[put_op(b"k%04d" % (i * 100 + j), value=b"%d" % j)
                                       for j in range(100)]))
    revision, key, pages = pair.revision, b"k", 0
    while True:
        page = pair.ask(m.RangeRequest(key=key, range_end=b"l", limit=300, revision=revision,
                                       keys_only=pages % 2 == 1))
        pair.put(b"k0000", b"later")
        pages += 1
        if not page.more:
            break
        key = page.kvs[-1].key + b"\0"
    assert pages == 7
    for target in range(5):
        for order in (m.RangeRequest.ASCEND, m.RangeRequest.DESCEND):
            pair.ask(m.RangeRequest(key=b"k", range_end=b"l", sort_order=order, sort_target=target))


@pytest.mark.parametrize("seed", range(2))
def test_thousands_of_keys(pair: Pair, seed: int) -> None:  # noqa: F811
    """Many leaves, long answers of now and of the past, spans deleted, history cut and watched."""
    rng = random.Random(seed)
    everything = {"key": b"\0", "range_end": b"\0"}

    def key() -> bytes:
        return b"%05d" % rng.randrange(5000)

    watches: list[int] = []
    for _ in range(8):
        for _ in range(8):
            puts = [put_op(k, value=b"%d" % rng.randrange(9) * rng.randrange(20))
                    for k in {key() for _ in range(110)}]
            pair.ask(m.TxnRequest(success=puts))
        low, high = sorted((key(), key()))
        if rng.randrange(3) == 0:
            pair.ask(m.DeleteRangeRequest(key=low, range_end=high[:3] + b"z", prev_kv=True))
        for start in (0, max(pair.revision - rng.randrange(20), pair.store.compact_revision)):
            watches.append(pair.watch().create(m.WatchCreateRequest(
                key=low, range_end=b"\0", prev_kv=True, start_revision=start)).watch_id)
        for watch in watches[:-4]:
            pair.watch().cancel(watch)
        del watches[:-4]
        for _ in range(8):
            back = max(pair.revision - rng.randrange(25), pair.store.compact_revision)
            pair.ask(m.RangeRequest(
                **everything, revision=back, keys_only=rng.randrange(2) == 1,
                sort_target=rng.randrange(5), sort_order=rng.randrange(3),
                limit=rng.choice((0, 0, 7, 500)), min_mod_revision=back - rng.randrange(30)))
            pair.ask(m.RangeRequest(key=low, range_end=high, revision=back, count_only=True))
            pair.ask(m.RangeRequest(key=low, limit=100, range_end=b"\0"))
            pair.hash(max(back, pair.store.compact_revision + 1))
        pair.compact(m.CompactionRequest(revision=pair.revision - rng.randrange(1, 12)))


def test_kubernetes_shapes(pair: Pair) -> None:  # noqa: F811
    """Create, update, delete, and the compactor's key, each once as won and once as lost."""
    key = b"/registry/pods/default/web"
    for mod in (0, 0, pair.revision + 1, 1):
        guard = [m.Compare(key=key, target=m.Compare.MOD, mod_revision=mod)]
        pair.ask(m.TxnRequest(compare=guard, success=[put_op(key, value=b"%d" % mod)],
                              failure=[range_op(key=key)]))
    newest = pair.ask(m.RangeRequest(key=key, limit=1)).kvs[0].mod_revision
    for mod in (newest - 1, newest):
        guard = [m.Compare(key=key, target=m.Compare.MOD, mod_revision=mod)]
        pair.ask(m.TxnRequest(compare=guard, success=[delete_op(key)], failure=[range_op(key=key)]))
    for version in (0, 0, 1):
        guard = [m.Compare(key=b"compact_rev_key", target=m.Compare.VERSION, version=version)]
        pair.ask(m.TxnRequest(compare=guard, failure=[range_op(key=b"compact_rev_key")],
                              success=[put_op(b"compact_rev_key", value=b"%d" % version)]))


@pytest.mark.usefixtures("nothing_hangs")
def test_both_restarted(fresh: Pair) -> None:  # noqa: F811
    """From their first request on, and again after both were stopped and started."""
    fresh.ask(m.HashKVRequest())
    assert refused(fresh, m.CompactionRequest(revision=-1))[:2] == "11"
    fresh.ask(m.CompactionRequest())
    fresh.ask(m.HashKVRequest())
    assert refused(fresh, m.CompactionRequest())[:2] == "11"
    rng = random.Random(7)
    for _ in range(150):
        fresh.ask(fresh.draw(rng).request())
    fresh.ask(m.LeaseGrantRequest(ID=50, TTL=4000))
    fresh.put(b"a", lease=50)
    for _ in range(2):
        ttls = set[int]()                # of equal ones the order would be anybody's afterwards
        for lease in fresh.leases:
            ttl = fresh.ask(m.LeaseTimeToLiveRequest(ID=lease)).grantedTTL
            if ttl in ttls or not 0 < lease < (1 << 63) - 1:      # lease-forgotten
                fresh.ask(m.LeaseRevokeRequest(ID=lease))
            else:
                ttls.add(ttl)
        revision = fresh.revision
        fresh.restart()
        assert fresh.revision == revision
        fresh.ask(m.LeaseLeasesRequest())
        for lease in fresh.leases:
            fresh.ask(m.LeaseTimeToLiveRequest(ID=lease, keys=True))
        fresh.ask(m.RangeRequest(key=b"\0", range_end=b"\0"))
        for back in range(8):
            fresh.ask(m.RangeRequest(key=b"\0", range_end=b"\0", revision=revision - back))
            if revision - back != fresh.store.compact_revision:   # hash-at-compaction
                fresh.ask(m.HashKVRequest(revision=revision - back))
        for _ in range(30):
            fresh.ask(fresh.draw(rng).request())
        fresh.ask(m.CompactionRequest(revision=fresh.revision - 4))
        fresh.put(b"a", lease=50)


def test_a_difference_is_found(pair: Pair) -> None:  # noqa: F811
    """The comparison itself: each side told something else."""
    pair.put(b"a", b"1")
    pair.store.put(b"b")
    with pytest.raises(AssertionError, match="kvcore and etcd differ"):
        pair.ask(m.RangeRequest(key=b"a"))
    pair.recover()
    pair.watch().create(m.WatchCreateRequest(key=b"a", range_end=b"c"))
    pair.put(b"a", b"2")
    pair.store._call(kvcore.Delete(b"a"))
    with pytest.raises(AssertionError, match="kvcore and etcd differ"):
        pair.put(b"a", b"2")
    pair.recover()
