# SPDX-License-Identifier: Apache-2.0
"""Requests drawn at random: every option of every call, good ones and bad ones.

    Draw(random, revision, compacted, leases).txn()  ->  TxnRequest

`random` is a random.Random, or Hypothesis's, which shrinks what was drawn. Revisions are drawn near
the store's, keys and leases from a few, so that requests meet each other. What is documented as
different and would part the two histories (docs/differences-from-etcd.md) is not drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from kvcore.etcd import messages as m

KEYS = (b"\0", b"a", b"a\0", b"a/1", b"a/2", b"b", b"b\xff", b"b\xff\xff", b"c", b"\xff",
        b"\xff\xff")
ENDS = (b"\0", b"a\0", b"a0", b"b", b"c", b"d", b"\xff", b"\xff\xff\xff", b"a", b"")
VALUES = (b"", b"1", b"2", b"10", b"\0", b"x" * 100)
LEASES = (1, 2, 3, 7, -5, (1 << 63) - 1)
NO_LEASE = 99
TTLS = (3600, 7200, 10**6, 9 * 10**9)
BAD_TTLS = (9 * 10**9 + 1, (1 << 63) - 1)
SHORT_TTLS = (0, -1, 1, 5, 6, -(1 << 63))


class Draw:
    """Draws requests for two stores at a revision."""

    def __init__(self, rng: random.Random, revision: int, compacted: int,
                 leases: Sequence[int] = ()) -> None:
        self.rng = rng
        self.now = revision
        self.compacted = compacted
        self.leases = leases

    def chance(self, percent: int) -> bool:
        """True in so many of a hundred."""
        return self.rng.randrange(100) < percent

    def key(self) -> bytes:
        """A key; rarely none."""
        return b"" if self.chance(2) else self.rng.choice(KEYS)

    def span(self) -> tuple[bytes, bytes]:
        """A key, or a span, or one that ends before it begins."""
        kind = self.rng.randrange(10)
        if kind < 4:
            return self.key(), b""
        if kind < 6:
            return b"\0", b"\0"
        return self.key(), self.rng.choice(ENDS)

    def revision(self) -> int:
        """Mostly the newest; else one near what can be read, inside it or not."""
        if self.chance(60):
            return 0
        kind = self.rng.randrange(12)
        if kind < 7:
            return max(self.now - self.rng.randrange(12), 1)
        return (self.compacted - 1, self.compacted, self.compacted + 1, self.now + 1,
                -self.rng.randrange(1, 4))[kind - 7]

    def bound(self) -> int:
        """A bound of a filter; mostly none."""
        return 0 if self.chance(80) else self.now - self.rng.randrange(-2, 12)

    def lease(self) -> int:
        """A lease for a key: none, a living one, or one that is not there."""
        if self.chance(70):
            return 0
        if self.leases and self.chance(90):
            return self.rng.choice(self.leases)
        return NO_LEASE

    # --- KV ---------------------------------------------------------------------------------------

    def range(self, in_txn: bool = False) -> m.RangeRequest:
        """A read with any of its options."""
        key, end = self.span()
        request = m.RangeRequest(
            key=key, range_end=end, revision=self.revision(), serializable=self.chance(20),
            keys_only=self.chance(20), count_only=self.chance(12),
            min_mod_revision=self.bound(), max_mod_revision=self.bound(),
            min_create_revision=self.bound(), max_create_revision=self.bound())
        if self.chance(40):
            request.limit = self.rng.choice((1, 2, 3, 5, 100, -1, (1 << 63) - 1))
        if self.chance(40):
            request.sort_order = self.rng.randrange(3)
            request.sort_target = self.rng.randrange(5)
        if in_txn and request.sort_target != m.RangeRequest.KEY:
            request.limit = 0             # which of equal rows are cut off cannot be known later
            request.keys_only = False
        return request

    def put(self) -> m.PutRequest:
        """A put with any of its options."""
        return m.PutRequest(
            key=self.key(), value=self.rng.choice(VALUES) if self.chance(85) else b"",
            lease=self.lease(), prev_kv=self.chance(40), ignore_value=self.chance(10),
            ignore_lease=self.chance(10))

    def delete(self) -> m.DeleteRangeRequest:
        """A delete: of everything seldom, so that something is there."""
        key, end = self.span()
        if end == b"\0" and self.chance(80):
            end = b""
        return m.DeleteRangeRequest(key=key, range_end=end, prev_kv=self.chance(50))

    def compare(self) -> m.Compare:
        """A guard, also with an operand of another kind than its target."""
        key, end = (self.key(), b"") if self.chance(70) else self.span()
        target = self.rng.randrange(5)
        compare = m.Compare(key=key, range_end=end, target=target, result=self.rng.randrange(4))
        kind = self.rng.randrange(5) if self.chance(5) else target
        if self.chance(95):
            if kind == m.Compare.VALUE:
                compare.value = self.rng.choice(VALUES)
            elif kind == m.Compare.LEASE:
                compare.lease = self.rng.choice((0, *LEASES))
            elif kind == m.Compare.VERSION:
                compare.version = self.rng.randrange(-1, 4)
            else:
                number = self.rng.choice((0, 0, self.now, self.now - self.rng.randrange(6)))
                setattr(compare, "mod_revision" if kind == m.Compare.MOD else "create_revision",
                        number)
        return compare

    def op(self, depth: int) -> m.RequestOp:
        """An operation of a transaction; rarely none."""
        kind = self.rng.randrange(20)
        if kind < 6:
            return m.RequestOp(request_range=self.range(in_txn=True))
        if kind < 12:
            return m.RequestOp(request_put=self.put())
        if kind < 16:
            return m.RequestOp(request_delete_range=self.delete())
        if kind == 16 and self.chance(10):
            return m.RequestOp()
        if depth < 3:
            return m.RequestOp(request_txn=self._txn(depth + 1))
        return m.RequestOp(request_put=self.put())

    def _txn(self, depth: int) -> m.TxnRequest:
        most = 5 if depth == 1 else 3
        return m.TxnRequest(
            compare=[self.compare() for _ in range(self.rng.randrange(3))],
            success=[self.op(depth) for _ in range(self.rng.randrange(most))],
            failure=[self.op(depth) for _ in range(self.rng.randrange(most))])

    def txn(self) -> m.TxnRequest:
        """A transaction; half of them without keys given twice, which would refuse most."""
        request = self._txn(1)
        if self.chance(60):
            put_once(request)
        bound_deletes(request)
        return request

    def compact(self) -> m.CompactionRequest:
        """A compaction near what can be compacted, inside it or not."""
        revision = self.rng.choice((self.compacted - 1, self.compacted, self.compacted + 1,
                                    self.now - self.rng.randrange(8), self.now, self.now + 1))
        return m.CompactionRequest(revision=revision, physical=self.chance(30))

    def hashed(self) -> int:
        """A revision to hash: neither the compact nor a negative one, where the two differ."""
        revision = self.revision()
        return 0 if revision < 0 or revision == self.compacted else revision

    # --- leases -----------------------------------------------------------------------------------

    def lease_request(self) -> Any:
        """A request about leases, of living ones mostly; grants live long."""
        known = self.rng.choice((*LEASES, NO_LEASE, 0))
        kind = self.rng.randrange(10)
        if kind < 4:
            ttl = self.rng.choice(TTLS if self.chance(90) else BAD_TTLS)
            return m.LeaseGrantRequest(TTL=ttl, ID=known or 1)
        if kind < 6:
            return m.LeaseTimeToLiveRequest(ID=known, keys=self.chance(80))
        if kind < 7:
            return m.LeaseLeasesRequest()
        if kind < 8:
            return m.LeaseKeepAliveRequest(ID=known)
        return m.LeaseRevokeRequest(ID=known)

    # --- watches ----------------------------------------------------------------------------------

    def watch(self, ids: Sequence[int]) -> m.WatchCreateRequest:
        """A watch from now, from the past or the future, also with an id that is taken."""
        key, end = self.span()
        start = self.rng.choice((0, 0, self.now, self.now + 1, self.now + 4, self.compacted,
                                 self.compacted + 1, self.compacted - 1,
                                 self.now - self.rng.randrange(12)))
        filters = [f for f in (m.WatchCreateRequest.NOPUT, m.WatchCreateRequest.NODELETE)
                   if self.chance(12)]
        given = self.rng.choice((0, 0, 0, *range(1, 6), *ids))
        return m.WatchCreateRequest(key=key, range_end=end, start_revision=max(start, 0),
                                    filters=filters, prev_kv=self.chance(50),
                                    fragment=self.chance(20), watch_id=given)

    def request(self) -> Any:
        """Any request of KV or Lease but a compaction, which watches must be ready for."""
        kind: Callable[[], Any] = self.rng.choice(
            (self.range,) * 7 + (self.put,) * 5 + (self.delete, self.txn, self.txn, self.txn)
            + (self.lease_request, self.lease_request))
        return kind()


# --- what may stand in one transaction ------------------------------------------------------------

def put_once(request: m.TxnRequest) -> None:
    """Makes keys of puts differ from each other, and from what single deletes name."""
    free = [*KEYS]

    def give(ops: Sequence[m.RequestOp]) -> None:
        for op in ops:
            kind = op.WhichOneof("request")
            if kind == "request_txn":
                give(op.request_txn.success)
                give(op.request_txn.failure)
            elif kind in ("request_put", "request_delete_range"):
                target = op.request_put if kind == "request_put" else op.request_delete_range
                if target.key in free:
                    free.remove(target.key)
                elif free:
                    target.key = free.pop(0)
                if kind == "request_delete_range":
                    op.request_delete_range.range_end = b""

    give(request.success)
    give(request.failure)


def bound_deletes(request: m.TxnRequest) -> None:
    """No delete in a transaction is without an upper bound: etcd overlooks what it overlaps."""
    for op in (*request.success, *request.failure):
        kind = op.WhichOneof("request")
        if kind == "request_txn":
            bound_deletes(op.request_txn)
        elif kind == "request_delete_range" and op.request_delete_range.range_end == b"\0":
            op.request_delete_range.range_end = b"\xff\xff\xff"
