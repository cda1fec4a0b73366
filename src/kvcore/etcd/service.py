# SPDX-License-Identifier: Apache-2.0
"""A store as etcd's services: each call takes a request and gives the answer, or raises.

    service.call("/etcdserverpb.KV/Put", PutRequest(key=b"a"))  ->  PutResponse
                                      a failed one raises kvcore.Error: status_of(error)

Calls: KV, Lease (a keep-alive is one request of its stream, one answer), Maintenance/HashKV.
A Watch is watch_stream.WatchStream.
Thread safety: that of the store.  Ownership: the store stays its opener's.
May not know: gRPC, sockets.
"""

from __future__ import annotations

from typing import Any

from kvcore.etcd import messages as m
from kvcore.etcd.translate import (
    Identity,
    delete_answer,
    put_answer,
    range_answer,
    range_op,
    txn_answer,
    txn_op,
)
from kvcore.store import Store

__all__ = ["Service"]


class Service:
    """The calls of KV and Lease, and HashKV, on one store.

    >>> import kvcore
    >>> service = Service(kvcore.open())
    >>> service.put(m.PutRequest(key=b"a", value=b"1")).header.revision
    2
    """

    def __init__(self, store: Store, identity: Identity | None = None,
                 max_txn_ops: int = 128) -> None:
        self.store = store
        self.identity = identity or Identity()
        self._max_txn_ops = max_txn_ops
        self._calls: dict[str, Any] = {
            "/etcdserverpb.KV/Range": self.range,
            "/etcdserverpb.KV/Put": self.put,
            "/etcdserverpb.KV/DeleteRange": self.delete_range,
            "/etcdserverpb.KV/Txn": self.txn,
            "/etcdserverpb.KV/Compact": self.compact,
            "/etcdserverpb.Lease/LeaseGrant": self.lease_grant,
            "/etcdserverpb.Lease/LeaseRevoke": self.lease_revoke,
            "/etcdserverpb.Lease/LeaseKeepAlive": self.lease_keep_alive,
            "/etcdserverpb.Lease/LeaseTimeToLive": self.lease_time_to_live,
            "/etcdserverpb.Lease/LeaseLeases": self.lease_leases,
            "/etcdserverpb.Maintenance/HashKV": self.hash_kv,
        }

    def call(self, path: str, request: m.Message) -> m.Message:
        """The answer to one request. Errors: kvcore.Error; KeyError for a path not known."""
        answer: m.Message = self._calls[path](request)
        return answer

    # --- KV ---------------------------------------------------------------------------------------

    def range(self, request: m.RangeRequest) -> m.RangeResponse:
        """KV/Range. Every read is current; `serializable` changes nothing."""
        result = self.store.submit(range_op(request)).result()
        return range_answer(request, result, self.identity.header(result.revision))

    def put(self, request: m.PutRequest) -> m.PutResponse:
        """KV/Put."""
        result = self.store.put(request.key, request.value, lease=request.lease,
                                prev=request.prev_kv, ignore_value=request.ignore_value,
                                ignore_lease=request.ignore_lease)
        return put_answer(result, self.identity.header(result.revision))

    def delete_range(self, request: m.DeleteRangeRequest) -> m.DeleteRangeResponse:
        """KV/DeleteRange."""
        result = self.store.delete(request.key, request.range_end, prev=request.prev_kv)
        return delete_answer(result, self.identity.header(result.revision))

    def txn(self, request: m.TxnRequest) -> m.TxnResponse:
        """KV/Txn."""
        op = txn_op(request, self._max_txn_ops)
        result = self.store.txn(op.compare, op.success, op.failure)
        return txn_answer(request, result, self.identity.header(result.revision))

    def compact(self, request: m.CompactionRequest) -> m.CompactionResponse:
        """KV/Compact."""
        revision = self.store.compact(request.revision, physical=request.physical)
        return m.CompactionResponse(header=self.identity.header(revision))

    # --- Lease ------------------------------------------------------------------------------------

    def lease_grant(self, request: m.LeaseGrantRequest) -> m.LeaseGrantResponse:
        """Lease/LeaseGrant."""
        lease = self.store.lease(request.TTL, request.ID)
        return m.LeaseGrantResponse(header=self._now(), ID=lease.id, TTL=lease.granted_ttl)

    def lease_revoke(self, request: m.LeaseRevokeRequest) -> m.LeaseRevokeResponse:
        """Lease/LeaseRevoke."""
        result = self.store.lease_of(request.ID).revoke()
        return m.LeaseRevokeResponse(header=self.identity.header(result.revision))

    def lease_keep_alive(self, request: m.LeaseKeepAliveRequest) -> m.LeaseKeepAliveResponse:
        """One request of Lease/LeaseKeepAlive; TTL 0: there is no such lease."""
        header = self._now()
        ttl = self.store.lease_of(request.ID).keepalive()
        return m.LeaseKeepAliveResponse(header=header, ID=request.ID, TTL=ttl)

    def lease_time_to_live(self, request: m.LeaseTimeToLiveRequest) -> m.LeaseTimeToLiveResponse:
        """Lease/LeaseTimeToLive; TTL -1: there is no such lease."""
        found = self.store._lease_look(request.ID)
        granted, left, keys = found if found is not None else (0, -1, [])
        return m.LeaseTimeToLiveResponse(header=self._now(), ID=request.ID, TTL=left,
                                         grantedTTL=granted, keys=keys if request.keys else [])

    def lease_leases(self, request: m.LeaseLeasesRequest) -> m.LeaseLeasesResponse:
        """Lease/LeaseLeases, soonest expiry first."""
        leases = [m.LeaseStatus(ID=lease.id) for lease in self.store.leases()]
        return m.LeaseLeasesResponse(header=self._now(), leases=leases)

    # --- Maintenance ------------------------------------------------------------------------------

    def hash_kv(self, request: m.HashKVRequest) -> m.HashKVResponse:
        """Maintenance/HashKV; compact_revision -1: never compacted."""
        crc, compacted, revision = self.store._hash(request.revision)
        return m.HashKVResponse(header=self._now(), hash=crc, compact_revision=compacted,
                                hash_revision=revision)

    def _now(self) -> m.ResponseHeader:
        return self.identity.header(self.store.revision)
