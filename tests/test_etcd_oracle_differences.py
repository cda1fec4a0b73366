# SPDX-License-Identifier: Apache-2.0
"""Each difference of docs/differences-from-etcd.md, shown on a real etcd: test_ and its name.

One that is gone, on either side, fails here: then it leaves the table and the page.
"""

from __future__ import annotations

from typing import Any

from etcd_differences import DIFFERENCES
from etcd_fixtures import fresh, pair, shared  # noqa: F401
from etcd_pair import PATHS, Pair, Refused
from etcd_process import START_SECONDS

from kvcore.etcd import messages as m

EVERYTHING = {"key": b"\0", "range_end": b"\0"}


def both(pair: Pair, request: Any) -> tuple[Any, Any]:  # noqa: F811
    """The answers of kvcore and of etcd, whatever they are; the two may part."""
    pair.broken = True
    path = PATHS[type(request)]
    return pair.ours(path, request), pair.etcd.call(path, request)


def watched(pair: Pair, create: m.WatchCreateRequest, count: int) -> tuple[Any, Any]:  # noqa: F811
    """What a new watch's first responses are, on both sides; behind `created`."""
    request = m.WatchRequest(create_request=create)
    watches = pair.watch()
    ours = [watches.ours.receive(request), *watches.ours.pull()]
    watches.theirs.send(request)
    return ours[1:], [watches.theirs.next() for _ in range(count + 1)][1:]


def test_each_difference_is_shown() -> None:
    shown = {name.removeprefix("test_").replace("_", "-") for name in globals()
             if name.startswith("test_")} - {"each-difference-is-shown"}
    assert shown == set(DIFFERENCES)


def test_equal_sort_keys(pair: Pair) -> None:  # noqa: F811
    for i in range(40):
        pair.put(b"%02d" % i, b"%d" % (i % 2))
    ours, theirs = both(pair, m.RangeRequest(
        **EVERYTHING, sort_order=m.RangeRequest.DESCEND, sort_target=m.RangeRequest.VALUE))
    assert [kv.value for kv in ours.kvs] == [kv.value for kv in theirs.kvs]
    mine, other = ([kv.key for kv in answer.kvs] for answer in (ours, theirs))
    assert mine == sorted(mine[:20]) + sorted(mine[20:])
    assert other != mine and sorted(other) == sorted(mine)


def test_unknown_sort(fresh: Pair) -> None:  # noqa: F811
    fresh.put(b"a")
    fresh.put(b"b")
    ours, theirs = both(fresh, m.RangeRequest(**EVERYTHING, sort_order=7))
    assert ours == Refused(3, "etcdserver: invalid sort option")
    assert [kv.key for kv in theirs.kvs] == [b"a", b"b"]
    ours, theirs = both(fresh, m.RangeRequest(**EVERYTHING, sort_target=7))
    assert ours == Refused(3, "etcdserver: invalid sort option")
    assert isinstance(theirs, Refused)
    assert fresh.etcd.process.wait(START_SECONDS) != 0           # it is no more
    assert any("nil pointer" in line for line in fresh.etcd.log())


def test_unknown_compare(pair: Pair) -> None:  # noqa: F811
    for compare, kind in ((m.Compare(key=b"a", target=9), "target"),
                          (m.Compare(key=b"a", result=9), "result")):
        ours, theirs = both(pair, m.TxnRequest(compare=[compare]))
        assert ours == Refused(3, f"kvcore: unknown compare {kind} 9")
        assert theirs.succeeded


def test_delete_to_the_end(pair: Pair) -> None:  # noqa: F811
    put = m.RequestOp(request_put=m.PutRequest(key=b"b"))
    delete = m.RequestOp(request_delete_range=m.DeleteRangeRequest(key=b"a", range_end=b"\0"))
    for ops in ([put, delete], [delete, put]):
        ours, theirs = both(pair, m.TxnRequest(success=ops))
        assert ours == Refused(3, "etcdserver: duplicate key given in txn request")
        assert theirs.succeeded


def test_key_size(pair: Pair) -> None:  # noqa: F811
    long = b"k" * 65536
    for request in (m.DeleteRangeRequest(key=long), m.DeleteRangeRequest(key=b"a", range_end=long),
                    m.TxnRequest(compare=[m.Compare(key=long)]), m.PutRequest(key=long)):
        ours, theirs = both(pair, request)
        assert ours.code == 3 and "too large" in ours.text
        assert not isinstance(theirs, Refused)
    ours, theirs = both(pair, m.RangeRequest(key=long))
    assert not ours.kvs and theirs.kvs[0].key == long


def test_request_size(pair: Pair) -> None:  # noqa: F811
    """At the limit each counts its own encoding; far beyond etcd's transport answers."""
    verdicts = set()
    for size in range((3 << 19) - 64, 3 << 19):
        ours, theirs = both(pair, m.PutRequest(key=b"a", value=b"v" * size))
        verdicts.add((isinstance(ours, Refused), isinstance(theirs, Refused)))
    assert {(False, False), (True, True)} < verdicts <= {
        (False, False), (False, True), (True, False), (True, True)}
    ours, theirs = both(pair, m.PutRequest(key=b"a", value=b"v" * (2 << 20)))
    assert ours == Refused(3, "etcdserver: request is too large")
    assert theirs.code == 8 and "received message larger than max" in theirs.text


def test_lease_ids(pair: Pair) -> None:  # noqa: F811
    ours, theirs = both(pair, m.LeaseGrantRequest(TTL=100))
    assert ours.ID > 0 and theirs.ID > 0 and ours.ID != theirs.ID


def test_lease_clocks(pair: Pair) -> None:  # noqa: F811
    """A time measured in each process: all that can be said is that it goes down."""
    pair.ask(m.LeaseGrantRequest(TTL=3600, ID=1))
    ours, theirs = both(pair, m.LeaseTimeToLiveRequest(ID=1))
    assert 0 < ours.TTL < 3600 and 0 < theirs.TTL < 3600
    pair.restart()
    ours, theirs = both(pair, m.LeaseTimeToLiveRequest(ID=1))
    assert 0 < ours.TTL < 3600 < theirs.TTL


def test_lease_forgotten(pair: Pair) -> None:  # noqa: F811
    """A restarted etcd reads leases from 0 up to, and without, the largest id."""
    forgotten = (-1, (1 << 63) - 1)
    for lease in (*forgotten, 1, (1 << 63) - 2):
        pair.ask(m.LeaseGrantRequest(TTL=3600, ID=lease))
        pair.put(b"k%d" % lease, lease=lease)
    pair.restart()
    for lease in (*forgotten, 1, (1 << 63) - 2):
        ours, theirs = both(pair, m.LeaseTimeToLiveRequest(ID=lease, keys=True))
        assert (ours.grantedTTL, list(ours.keys)) == (3600, [b"k%d" % lease])
        assert (theirs.TTL == -1) == (lease in forgotten)


def test_lease_key_order(pair: Pair) -> None:  # noqa: F811
    keys = [b"%02d" % i for i in range(30)]
    pair.ask(m.LeaseGrantRequest(TTL=3600, ID=1))
    for key in keys:
        pair.put(key, lease=1)
    ours, theirs = both(pair, m.LeaseTimeToLiveRequest(ID=1, keys=True))
    assert list(ours.keys) == keys == sorted(theirs.keys) and list(theirs.keys) != keys


def test_watch_history(pair: Pair) -> None:  # noqa: F811
    start = pair.put(b"a").header.revision
    for _ in range(3):
        pair.put(b"a")
    ours, theirs = watched(pair, m.WatchCreateRequest(key=b"a", start_revision=start), 1)
    assert [(len(r.events), r.header.revision) for r in ours] == [
        (1, start + i) for i in range(4)]
    assert [(len(r.events), r.header.revision) for r in theirs] == [(4, start + 3)]
    assert [e for r in ours for e in r.events] == [e for r in theirs for e in r.events]


def test_watch_before_the_first(pair: Pair) -> None:  # noqa: F811
    request = m.WatchRequest(create_request=m.WatchCreateRequest(key=b"a", start_revision=-1))
    watches = pair.watch()
    ours = watches.ours.receive(request)
    watches.theirs.send(request)
    assert (ours.created, ours.canceled, ours.watch_id, ours.cancel_reason) == (
        True, True, -1, "etcdserver: mvcc: required revision has been compacted")
    theirs = [watches.theirs.next() for _ in range(2)]
    assert [(r.created, r.canceled, r.watch_id) for r in theirs] == [
        (True, False, 0), (False, True, 0)]
    assert theirs[1].compact_revision == pair.store.compact_revision


def test_tombstone_of_compaction(pair: Pair) -> None:  # noqa: F811
    pair.put(b"a")
    pair.ask(m.DeleteRangeRequest(key=b"a"))
    deleted = pair.revision
    pair.put(b"a")
    pair.compact(m.CompactionRequest(revision=deleted, physical=True))
    ours, theirs = watched(pair, m.WatchCreateRequest(key=b"a", start_revision=deleted), 1)
    assert [e.type for r in ours for e in r.events] == [m.Event.DELETE, m.Event.PUT]
    assert [e.type for r in theirs for e in r.events] == [m.Event.PUT]


def test_progress_unsynced(pair: Pair) -> None:  # noqa: F811
    """Without a watch, with one that begins later, with one that a compaction ended."""
    pair.put(b"a")
    pair.ask(m.CompactionRequest(revision=pair.revision))
    request = m.WatchRequest(progress_request=m.WatchProgressRequest())
    creates = (None, m.WatchCreateRequest(key=b"a", start_revision=pair.revision + 2),
               m.WatchCreateRequest(key=b"a", start_revision=1))
    for create in creates:
        watches = pair.watch()
        if create is not None:
            watches.create(create)
            watches.drain()
        assert watches.ours.receive(request) is None
        watches.theirs.send(request)
        reply = watches.theirs.next()
        assert (reply.watch_id, reply.header.revision) == (-1, pair.revision)
        pair.close_streams()


def test_hash_revision(pair: Pair) -> None:  # noqa: F811
    pair.put(b"a")
    ours, theirs = both(pair, m.HashKVRequest())
    assert (ours.hash_revision, theirs.hash_revision) == (pair.revision, 0)
    ours.ClearField("hash_revision")
    assert ours == theirs


def test_hash_at_compaction(pair: Pair) -> None:  # noqa: F811
    revision = pair.put(b"a").header.revision
    pair.put(b"b")
    pair.ask(m.CompactionRequest(revision=revision))
    ours, theirs = both(pair, m.HashKVRequest(revision=revision))
    assert ours.hash_revision == revision
    assert theirs == Refused(11, "etcdserver: mvcc: required revision has been compacted")


def test_hash_negative(pair: Pair) -> None:  # noqa: F811
    pair.put(b"a")
    ours, theirs = both(pair, m.HashKVRequest(revision=-1))
    assert ours.hash == pair.ask(m.HashKVRequest()).hash
    assert theirs.hash == 0x40A4756D         # CRC-32C of "key", the name of a table: of no row


def test_hash_without_keys(fresh: Pair) -> None:  # noqa: F811
    """With nothing alive, compacted versions count in etcd until they are swept, here never."""
    revision = fresh.put(b"a").header.revision
    fresh.ask(m.DeleteRangeRequest(key=b"a"))
    fresh.ask(m.CompactionRequest(revision=revision, physical=True))
    ours, theirs = both(fresh, m.HashKVRequest())
    assert ours.compact_revision == theirs.compact_revision == revision
    assert ours.hash != theirs.hash
