# SPDX-License-Identifier: Apache-2.0
"""Requests of etcd's RPC as operations of kvcore, and results and errors as etcd answers them.

    TxnRequest ── txn_op ──► kvcore.Txn ── a store ──► TxnResult ── txn_answer ──► TxnResponse
                                               └ kvcore.Error ── status_of ──► (code, text)

Every function is pure: the same arguments give the same messages.  What etcd checks before a
request reaches its store is checked here, or by the operations' own encoding, in etcd's order.
Thread safety: pure.  May not know: gRPC, sockets, which store will run the operations.
Differences that stay are listed in docs/differences-from-etcd.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeAlias

from kvcore import errors
from kvcore._event import Event, WatchResponse
from kvcore._operation import Compare, Delete, Put, Range, Txn
from kvcore._result import DeleteResult, KeyValue, PutResult, RangeResult, TxnResult
from kvcore.etcd import messages as m

__all__ = [
    "FRAGMENT_BYTES", "Identity", "compare_of", "delete_answer", "delete_op", "event_response",
    "fragments", "kv_of", "put_answer", "put_op", "range_answer", "range_op", "status_of",
    "txn_answer", "txn_op",
]

Op: TypeAlias = "Put | Range | Delete | Txn"

FRAGMENT_BYTES = (1536 + 512) << 10
"""A watch response of as many bytes is cut, when its watch asked for that."""

# gRPC's numbers of the codes etcd answers with.
UNKNOWN, INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED = 2, 3, 5, 8
FAILED_PRECONDITION, OUT_OF_RANGE, INTERNAL, UNAVAILABLE, DATA_LOSS = 9, 11, 13, 14, 15

# The first class that fits counts.
CODES: tuple[tuple[type[errors.Error], int], ...] = (
    (errors.LeaseTTLTooLargeError, OUT_OF_RANGE),
    (errors.InvalidArgument, INVALID_ARGUMENT),
    (errors.CompactedError, OUT_OF_RANGE),
    (errors.FutureRevisionError, OUT_OF_RANGE),
    (errors.LeaseNotFoundError, NOT_FOUND),
    (errors.LeaseExistsError, FAILED_PRECONDITION),
    (errors.NoSpaceError, RESOURCE_EXHAUSTED),
    (errors.OutOfMemoryError, RESOURCE_EXHAUSTED),
    (errors.CorruptError, DATA_LOSS),
    (errors.OutcomeUnknownError, UNKNOWN),
    (errors.StorageError, UNAVAILABLE),
    (errors.ClosedError, UNAVAILABLE),
)

SORTS = {
    m.RangeRequest.KEY: "key", m.RangeRequest.VERSION: "version",
    m.RangeRequest.CREATE: "create_revision", m.RangeRequest.MOD: "mod_revision",
    m.RangeRequest.VALUE: "value",
}

TARGETS: dict[int, tuple[Callable[[bytes, bytes], Compare], str]] = {
    m.Compare.VERSION: (Compare.version, "version"),
    m.Compare.CREATE: (Compare.create_revision, "create_revision"),
    m.Compare.MOD: (Compare.mod_revision, "mod_revision"),
    m.Compare.VALUE: (Compare.value, "value"),
    m.Compare.LEASE: (Compare.lease, "lease"),
}


def status_of(error: errors.Error) -> tuple[int, str]:
    """The code and the text that etcd answers a failed request with.

    >>> from kvcore import CompactedError
    >>> status_of(CompactedError())
    (11, 'etcdserver: mvcc: required revision has been compacted')
    """
    for kind, code in CODES:
        if isinstance(error, kind):
            return code, str(error)
    return INTERNAL, str(error)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answers, as every header says."""

    cluster_id: int = 1
    member_id: int = 1
    raft_term: int = 1

    def header(self, revision: int) -> m.ResponseHeader:
        """The header of an answer given at this revision."""
        return m.ResponseHeader(cluster_id=self.cluster_id, member_id=self.member_id,
                                revision=revision, raft_term=self.raft_term)


# --- requests ------------------------------------------------------------------------------------

def _fetched_by_key(request: m.RangeRequest) -> bool:
    """Whether etcd takes the first rows by key and sorts only these.

    It does for a target without an order, under a limit and without filters.
    """
    return (request.limit > 0 and request.sort_order == m.RangeRequest.NONE
            and request.sort_target != m.RangeRequest.KEY
            and not (request.min_mod_revision or request.max_mod_revision
                     or request.min_create_revision or request.max_create_revision))


def _sort(request: m.RangeRequest) -> str | None:
    target = SORTS.get(request.sort_target)
    if target is None or request.sort_order not in (
            m.RangeRequest.NONE, m.RangeRequest.ASCEND, m.RangeRequest.DESCEND):
        raise errors.InvalidSortError()
    if request.sort_order == m.RangeRequest.NONE and target == "key":
        return None
    return f"-{target}" if request.sort_order == m.RangeRequest.DESCEND else target


def range_op(request: m.RangeRequest) -> Range:
    """The operation of a RangeRequest; range_answer() does the rest of it.

    Errors: InvalidSortError; others when it is run.

    >>> range_op(m.RangeRequest(key=b"a", range_end=b"c", limit=2))
    Range(b'a', b'c', limit=2)
    """
    sort, limit, keys_only = _sort(request), request.limit, request.keys_only
    if _fetched_by_key(request):
        sort, limit, keys_only = None, min(limit, 1 << 62) + 1, False
    return Range(request.key, request.range_end, limit=limit, revision=request.revision,
                 keys_only=keys_only, count_only=request.count_only, sort=sort,
                 min_mod_revision=request.min_mod_revision,
                 max_mod_revision=request.max_mod_revision,
                 min_create_revision=request.min_create_revision,
                 max_create_revision=request.max_create_revision)


def put_op(request: m.PutRequest) -> Put:
    """The operation of a PutRequest."""
    return Put(request.key, request.value, lease=request.lease, prev=request.prev_kv,
               ignore_value=request.ignore_value, ignore_lease=request.ignore_lease)


def delete_op(request: m.DeleteRangeRequest) -> Delete:
    """The operation of a DeleteRangeRequest."""
    return Delete(request.key, request.range_end, prev=request.prev_kv)


def compare_of(compare: m.Compare) -> Compare:
    """A guard. An operand of another kind than the target counts as zero or empty, as in etcd.

    Errors: InvalidArgument for a target or a result that does not exist.

    >>> compare_of(m.Compare(key=b"a", target=m.Compare.VALUE, value=b"1"))
    Compare.value(b'a') == b'1'
    """
    if compare.target not in TARGETS:
        raise errors.InvalidArgument(f"kvcore: unknown compare target {compare.target}")
    make, name = TARGETS[compare.target]
    left = make(compare.key, compare.range_end)
    right: bytes | int = getattr(compare, name)
    if compare.result == m.Compare.EQUAL:
        return left == right
    if compare.result == m.Compare.NOT_EQUAL:
        return left != right
    if compare.result == m.Compare.GREATER:
        return left > right
    if compare.result == m.Compare.LESS:
        return left < right
    raise errors.InvalidArgument(f"kvcore: unknown compare result {compare.result}")


class _EmptyOp(Exception):
    """A RequestOp without an operation."""


def _op(op: m.RequestOp) -> Op:
    kind = op.WhichOneof("request")
    if kind == "request_range":
        return range_op(op.request_range)
    if kind == "request_put":
        return put_op(op.request_put)
    if kind == "request_delete_range":
        return delete_op(op.request_delete_range)
    if kind == "request_txn":
        return _txn(op.request_txn)
    raise _EmptyOp()


def _txn(request: m.TxnRequest) -> Txn:
    return Txn(map(compare_of, request.compare), map(_op, request.success),
               map(_op, request.failure))


def txn_op(request: m.TxnRequest, max_txn_ops: int = 128) -> Txn:
    """The operation of a TxnRequest, nested ones included.

    Args: max_txn_ops: the store's, for the order in which the faults of a request are found.
    Errors: those of the operations it holds; KeyNotFoundError for a RequestOp that holds none.
    """
    try:
        return _txn(request)
    except _EmptyOp:
        _find_fault(request, max_txn_ops)
        raise errors.KeyNotFoundError() from None


def _find_fault(request: m.TxnRequest, budget: int) -> None:
    """Raises for the first fault as etcd looks for them; cold: an empty operation is one."""
    used = max(len(request.compare), len(request.success), len(request.failure))
    if used > budget:
        raise errors.TooManyOpsError()
    for compare in request.compare:
        if not compare.key:
            raise errors.EmptyKeyError()
    for op in (*request.success, *request.failure):
        _find_fault_of_op(op, budget - used)


def _find_fault_of_op(op: m.RequestOp, budget: int) -> None:
    kind = op.WhichOneof("request")
    if kind is None:
        raise errors.KeyNotFoundError()
    if kind == "request_txn":
        _find_fault(op.request_txn, budget)
    elif not getattr(op, kind).key:
        raise errors.EmptyKeyError()
    elif kind == "request_put" and op.request_put.ignore_value and op.request_put.value:
        raise errors.ValueProvidedError()
    elif kind == "request_put" and op.request_put.ignore_lease and op.request_put.lease:
        raise errors.LeaseProvidedError()


# --- answers -------------------------------------------------------------------------------------

def kv_of(kv: KeyValue) -> m.KeyValue:
    """A KeyValue as a message. Errors: CorruptError when its value cannot be read."""
    return m.KeyValue(key=kv.key, value=kv.value, create_revision=kv.create_revision,
                      mod_revision=kv.mod_revision, version=kv.version, lease=kv.lease)


def range_answer(request: m.RangeRequest, result: RangeResult,
                 header: m.ResponseHeader) -> m.RangeResponse:
    """What a RangeRequest is answered with; `result` is that of range_op(request)."""
    rows: Sequence[KeyValue] = result
    more = result.more
    if _fetched_by_key(request):
        rows = sorted(result, key=attrgetter(SORTS[request.sort_target]))[:request.limit]
        more = len(result) > request.limit
    kvs = map(kv_of, rows)
    if request.keys_only:
        kvs = map(_without_value, kvs)
    return m.RangeResponse(header=header, kvs=kvs, more=more, count=result.count)


def _without_value(kv: m.KeyValue) -> m.KeyValue:
    kv.ClearField("value")
    return kv


def put_answer(result: PutResult, header: m.ResponseHeader) -> m.PutResponse:
    """What a PutRequest is answered with."""
    prev = kv_of(result.prev) if result.prev is not None else None
    return m.PutResponse(header=header, prev_kv=prev)


def delete_answer(result: DeleteResult, header: m.ResponseHeader) -> m.DeleteRangeResponse:
    """What a DeleteRangeRequest is answered with."""
    return m.DeleteRangeResponse(header=header, deleted=result.deleted,
                                 prev_kvs=map(kv_of, result.prev))


def txn_answer(request: m.TxnRequest, result: TxnResult,
               header: m.ResponseHeader) -> m.TxnResponse:
    """What a TxnRequest is answered with.

    Headers inside carry a revision only, those of nested transactions not even that: etcd's way.
    """
    taken = request.success if result.succeeded else request.failure
    return m.TxnResponse(header=header, succeeded=result.succeeded,
                         responses=map(_op_answer, taken, result.responses))


def _op_answer(op: m.RequestOp, result: Any) -> m.ResponseOp:
    kind = op.WhichOneof("request")
    if kind == "request_txn":
        return m.ResponseOp(response_txn=txn_answer(op.request_txn, result, m.ResponseHeader()))
    header = m.ResponseHeader(revision=result.revision)
    if kind == "request_range":
        return m.ResponseOp(response_range=range_answer(op.request_range, result, header))
    if kind == "request_put":
        return m.ResponseOp(response_put=put_answer(result, header))
    return m.ResponseOp(response_delete_range=delete_answer(result, header))


# --- watches -------------------------------------------------------------------------------------

def _event_of(event: Event) -> m.Event:
    kind = m.Event.PUT if event.type == "PUT" else m.Event.DELETE
    prev = event.prev_kv
    return m.Event(type=kind, kv=kv_of(event.kv), prev_kv=kv_of(prev) if prev is not None else None)


def event_response(watch_id: int, response: WatchResponse,
                   header: m.ResponseHeader) -> m.WatchResponse:
    """The events of one revision, or, without any, how far the watch is."""
    return m.WatchResponse(header=header, watch_id=watch_id,
                           events=map(_event_of, response.events))


def fragments(response: m.WatchResponse, limit: int = FRAGMENT_BYTES) -> Iterator[m.WatchResponse]:
    """A response in pieces below `limit` bytes, one event at least in each; all but the last say
    that more follows.

    >>> events = [m.Event(kv=m.KeyValue(key=b"k", value=b"v" * 60)) for _ in range(3)]
    >>> [(len(r.events), r.fragment) for r in fragments(m.WatchResponse(events=events), 150)]
    [(2, True), (1, False)]
    """
    if response.ByteSize() < limit or len(response.events) < 2:
        yield response
        return
    pieces = list(_pieces(response, limit))
    for number, events in enumerate(pieces, 1):
        yield m.WatchResponse(header=response.header, watch_id=response.watch_id, events=events,
                              fragment=number < len(pieces))


def _pieces(response: m.WatchResponse, limit: int) -> Iterator[list[m.Event]]:
    piece: list[m.Event] = []
    for event in response.events:
        trial = m.WatchResponse(header=response.header, watch_id=response.watch_id, fragment=True,
                                events=[*piece, event])
        if piece and trial.ByteSize() >= limit:
            yield piece
            piece = []
        piece.append(event)
    yield piece
