# SPDX-License-Identifier: Apache-2.0
"""A real etcd with the face of a store, so that tests written for kvcore run against it.

    EtcdStore(etcd)    db.put(...), db.txn(...), db.range(...)   with the operations of models.py

Revisions are shown as if the etcd had just been started: what was there before is revision 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import models
from etcd_process import Etcd, Refused

from kvcore import errors
from kvcore.etcd import messages as m

KINDS: dict[str, type[errors.Error]] = {
    kind.message: kind for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.Error)}
TARGETS = {"value": m.Compare.VALUE, "version": m.Compare.VERSION,
           "create_revision": m.Compare.CREATE, "mod_revision": m.Compare.MOD,
           "lease": m.Compare.LEASE}
RESULTS = {"==": m.Compare.EQUAL, "!=": m.Compare.NOT_EQUAL, "<": m.Compare.LESS,
           ">": m.Compare.GREATER}
SORTS = {"key": m.RangeRequest.KEY, "version": m.RangeRequest.VERSION,
         "create_revision": m.RangeRequest.CREATE, "mod_revision": m.RangeRequest.MOD,
         "value": m.RangeRequest.VALUE}


class EtcdStore:
    """The verbs of a store, by etcd."""

    def __init__(self, etcd: Etcd) -> None:
        self.etcd = etcd
        self.compact_revision = 0
        self._before = 0
        self._before = self.revision - 1     # of etcd's revisions, when ours is 0

    def _call(self, path: str, request: Any) -> Any:
        answer = self.etcd.call(f"/etcdserverpb.{path}", request)
        if isinstance(answer, Refused):
            raise KINDS[answer.text](answer.text)
        return answer

    # --- verbs ------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        answer = self._call("KV/Range", m.RangeRequest(key=b"\0", count_only=True))
        return self._ours(answer.header.revision)

    def put(self, key: bytes, value: bytes = b"", **options: Any) -> models.PutResult:
        op = models.Put(key, value, **options)
        return self._put_result(self._call("KV/Put", self._put(op)))

    def delete(self, *args: Any, **options: Any) -> models.DeleteResult:
        request = self._delete(models.Delete(*args, **options))
        return self._delete_result(self._call("KV/DeleteRange", request))

    def get(self, key: bytes, revision: int | None = None) -> models.KeyValue | None:
        found = self.range(key, revision=revision)
        return found[0] if len(found) else None

    def range(self, *args: Any, **options: Any) -> models.RangeResult:
        request = self._range(models.Range(*args, **options))
        return self._range_result(self._call("KV/Range", request))

    def txn(self, compare: Iterable[models.Compare] = (), success: Iterable[Any] = (),
            failure: Iterable[Any] = ()) -> models.TxnResult:
        op = models.Txn(compare, success, failure)
        answer = self._call("KV/Txn", self._txn(op))
        return self._txn_result(op, answer, self._ours(answer.header.revision))

    def compact(self, revision: int, *, physical: bool = False) -> int:
        request = m.CompactionRequest(revision=self._theirs(revision), physical=physical)
        answer = self._call("KV/Compact", request)
        self.compact_revision = revision
        return self._ours(answer.header.revision)

    def hash(self, revision: int = 0) -> models.HashResult:
        request = m.HashKVRequest(revision=self._theirs(revision))
        return models.HashResult(self._call("Maintenance/HashKV", request).hash, 0, revision)

    # --- requests ---------------------------------------------------------------------------------

    def _ours(self, revision: int) -> int:
        return revision - self._before

    def _theirs(self, revision: int) -> int:
        return revision + self._before if revision > 0 else revision

    def _put(self, op: models.Put) -> m.PutRequest:
        return m.PutRequest(key=op.key, value=op.value, lease=op.lease, prev_kv=op.prev,
                            ignore_value=op.ignore_value, ignore_lease=op.ignore_lease)

    def _delete(self, op: models.Delete) -> m.DeleteRangeRequest:
        return m.DeleteRangeRequest(key=op.span.key, range_end=op.span.end, prev_kv=op.prev)

    def _range(self, op: models.Range) -> m.RangeRequest:
        sort = op.sort or ""
        order = (m.RangeRequest.DESCEND if sort.startswith("-")
                 else m.RangeRequest.ASCEND if sort else m.RangeRequest.NONE)
        mods, creates = ([self._theirs(n) for n in pair] for pair in (op.mods, op.creates))
        return m.RangeRequest(
            key=op.span.key, range_end=op.span.end, limit=op.limit,
            revision=self._theirs(op.revision), keys_only=op.keys_only, count_only=op.count_only,
            sort_order=order, sort_target=SORTS[sort.removeprefix("-") or "key"],
            min_mod_revision=mods[0], max_mod_revision=mods[1],
            min_create_revision=creates[0], max_create_revision=creates[1])

    def _compare(self, c: models.Compare) -> m.Compare:
        operand = self._theirs(c.operand) if c.target.endswith("_revision") else c.operand
        return m.Compare(key=c.span.key, range_end=c.span.end, target=TARGETS[c.target],
                         result=RESULTS[c.result], **{c.target: operand})

    def _op(self, op: Any) -> m.RequestOp:
        if isinstance(op, models.Put):
            return m.RequestOp(request_put=self._put(op))
        if isinstance(op, models.Range):
            return m.RequestOp(request_range=self._range(op))
        if isinstance(op, models.Delete):
            return m.RequestOp(request_delete_range=self._delete(op))
        return m.RequestOp(request_txn=self._txn(op))

    def _txn(self, op: models.Txn) -> m.TxnRequest:
        return m.TxnRequest(compare=map(self._compare, op.compare),
                            success=map(self._op, op.success), failure=map(self._op, op.failure))

    # --- answers ----------------------------------------------------------------------------------

    def _kv(self, kv: m.KeyValue) -> models.KeyValue:
        return models.KeyValue(kv.key, kv.value, self._ours(kv.create_revision),
                               self._ours(kv.mod_revision), kv.version, kv.lease)

    def _put_result(self, answer: m.PutResponse) -> models.PutResult:
        prev = self._kv(answer.prev_kv) if answer.HasField("prev_kv") else None
        return models.PutResult(self._ours(answer.header.revision), prev)

    def _delete_result(self, answer: m.DeleteRangeResponse) -> models.DeleteResult:
        return models.DeleteResult(self._ours(answer.header.revision), answer.deleted,
                                   [self._kv(kv) for kv in answer.prev_kvs])

    def _range_result(self, answer: m.RangeResponse) -> models.RangeResult:
        return models.RangeResult([self._kv(kv) for kv in answer.kvs], answer.count, answer.more,
                                  self._ours(answer.header.revision))

    def _txn_result(self, op: models.Txn, answer: m.TxnResponse,
                    revision: int) -> models.TxnResult:
        ops = op.success if answer.succeeded else op.failure
        responses = [self._response(inner, response, revision)
                     for inner, response in zip(ops, answer.responses, strict=True)]
        return models.TxnResult(answer.succeeded, responses, revision)

    def _response(self, op: Any, response: m.ResponseOp, revision: int) -> Any:
        if isinstance(op, models.Put):
            return self._put_result(response.response_put)
        if isinstance(op, models.Delete):
            return self._delete_result(response.response_delete_range)
        if isinstance(op, models.Range):
            found = self._range_result(response.response_range)
            return (found[0] if len(found) else None) if op.single else found
        return self._txn_result(op, response.response_txn, revision)
