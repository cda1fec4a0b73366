# SPDX-License-Identifier: Apache-2.0
# Made from kv.proto and rpc.proto by tests/etcd_generate.py; do not edit.
from collections.abc import Iterable, Iterator
from typing import ClassVar, NamedTuple, Protocol, TypeVar

T = TypeVar("T")
M = TypeVar("M", bound="Message")

class Repeated(Protocol[T]):
    def __getitem__(self, i: int) -> T: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[T]: ...
    def append(self, item: T) -> None: ...
    def extend(self, items: Iterable[T]) -> None: ...

class Message:
    @classmethod
    def FromString(cls: type[M], data: bytes) -> M: ...
    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...
    def ByteSize(self) -> int: ...
    def CopyFrom(self: M, other: M) -> None: ...
    def Clear(self) -> None: ...
    def ClearField(self, name: str) -> None: ...
    def HasField(self, name: str) -> bool: ...
    def WhichOneof(self, name: str) -> str | None: ...

class KeyValue(Message):
    key: bytes
    create_revision: int
    mod_revision: int
    version: int
    value: bytes
    lease: int
    def __init__(
        self, *,
        key: bytes = ...,
        create_revision: int = ...,
        mod_revision: int = ...,
        version: int = ...,
        value: bytes = ...,
        lease: int = ...,
    ) -> None: ...

class Event(Message):
    PUT: ClassVar[int]
    DELETE: ClassVar[int]
    type: int
    @property
    def kv(self) -> KeyValue: ...
    @property
    def prev_kv(self) -> KeyValue: ...
    def __init__(
        self, *,
        type: int = ...,
        kv: KeyValue | None = ...,
        prev_kv: KeyValue | None = ...,
    ) -> None: ...

class ResponseHeader(Message):
    cluster_id: int
    member_id: int
    revision: int
    raft_term: int
    def __init__(
        self, *,
        cluster_id: int = ...,
        member_id: int = ...,
        revision: int = ...,
        raft_term: int = ...,
    ) -> None: ...

class RangeRequest(Message):
    NONE: ClassVar[int]
    ASCEND: ClassVar[int]
    DESCEND: ClassVar[int]
    KEY: ClassVar[int]
    VERSION: ClassVar[int]
    CREATE: ClassVar[int]
    MOD: ClassVar[int]
    VALUE: ClassVar[int]
    key: bytes
    range_end: bytes
    limit: int
    revision: int
    sort_order: int
    sort_target: int
    serializable: bool
    keys_only: bool
    count_only: bool
    min_mod_revision: int
    max_mod_revision: int
    min_create_revision: int
    max_create_revision: int
    def __init__(
        self, *,
        key: bytes = ...,
        range_end: bytes = ...,
        limit: int = ...,
        revision: int = ...,
        sort_order: int = ...,
        sort_target: int = ...,
        serializable: bool = ...,
        keys_only: bool = ...,
        count_only: bool = ...,
        min_mod_revision: int = ...,
        max_mod_revision: int = ...,
        min_create_revision: int = ...,
        max_create_revision: int = ...,
    ) -> None: ...

class RangeResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def kvs(self) -> Repeated[KeyValue]: ...
    more: bool
    count: int
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
        kvs: Iterable[KeyValue] = ...,
        more: bool = ...,
        count: int = ...,
    ) -> None: ...

class PutRequest(Message):
    key: bytes
    value: bytes
    lease: int
    prev_kv: bool
    ignore_value: bool
    ignore_lease: bool
    def __init__(
        self, *,
        key: bytes = ...,
        value: bytes = ...,
        lease: int = ...,
        prev_kv: bool = ...,
        ignore_value: bool = ...,
        ignore_lease: bool = ...,
    ) -> None: ...

class PutResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def prev_kv(self) -> KeyValue: ...
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
        prev_kv: KeyValue | None = ...,
    ) -> None: ...

class DeleteRangeRequest(Message):
    key: bytes
    range_end: bytes
    prev_kv: bool
    def __init__(
        self, *,
        key: bytes = ...,
        range_end: bytes = ...,
        prev_kv: bool = ...,
    ) -> None: ...

class DeleteRangeResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    deleted: int
    @property
    def prev_kvs(self) -> Repeated[KeyValue]: ...
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
        deleted: int = ...,
        prev_kvs: Iterable[KeyValue] = ...,
    ) -> None: ...

class RequestOp(Message):
    @property
    def request_range(self) -> RangeRequest: ...
    @property
    def request_put(self) -> PutRequest: ...
    @property
    def request_delete_range(self) -> DeleteRangeRequest: ...
    @property
    def request_txn(self) -> TxnRequest: ...
    def __init__(
        self, *,
        request_range: RangeRequest | None = ...,
        request_put: PutRequest | None = ...,
        request_delete_range: DeleteRangeRequest | None = ...,
        request_txn: TxnRequest | None = ...,
    ) -> None: ...

class ResponseOp(Message):
    @property
    def response_range(self) -> RangeResponse: ...
    @property
    def response_put(self) -> PutResponse: ...
    @property
    def response_delete_range(self) -> DeleteRangeResponse: ...
    @property
    def response_txn(self) -> TxnResponse: ...
    def __init__(
        self, *,
        response_range: RangeResponse | None = ...,
        response_put: PutResponse | None = ...,
        response_delete_range: DeleteRangeResponse | None = ...,
        response_txn: TxnResponse | None = ...,
    ) -> None: ...

class Compare(Message):
    EQUAL: ClassVar[int]
    GREATER: ClassVar[int]
    LESS: ClassVar[int]
    NOT_EQUAL: ClassVar[int]
    VERSION: ClassVar[int]
    CREATE: ClassVar[int]
    MOD: ClassVar[int]
    VALUE: ClassVar[int]
    LEASE: ClassVar[int]
    result: int
    target: int
    key: bytes
    version: int
    create_revision: int
    mod_revision: int
    value: bytes
    lease: int
    range_end: bytes
    def __init__(
        self, *,
        result: int = ...,
        target: int = ...,
        key: bytes = ...,
        version: int = ...,
        create_revision: int = ...,
        mod_revision: int = ...,
        value: bytes = ...,
        lease: int = ...,
        range_end: bytes = ...,
    ) -> None: ...

class TxnRequest(Message):
    @property
    def compare(self) -> Repeated[Compare]: ...
    @property
    def success(self) -> Repeated[RequestOp]: ...
    @property
    def failure(self) -> Repeated[RequestOp]: ...
    def __init__(
        self, *,
        compare: Iterable[Compare] = ...,
        success: Iterable[RequestOp] = ...,
        failure: Iterable[RequestOp] = ...,
    ) -> None: ...

class TxnResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    succeeded: bool
    @property
    def responses(self) -> Repeated[ResponseOp]: ...
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
        succeeded: bool = ...,
        responses: Iterable[ResponseOp] = ...,
    ) -> None: ...

class CompactionRequest(Message):
    revision: int
    physical: bool
    def __init__(
        self, *,
        revision: int = ...,
        physical: bool = ...,
    ) -> None: ...

class CompactionResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
    ) -> None: ...

class WatchRequest(Message):
    @property
    def create_request(self) -> WatchCreateRequest: ...
    @property
    def cancel_request(self) -> WatchCancelRequest: ...
    @property
    def progress_request(self) -> WatchProgressRequest: ...
    def __init__(
        self, *,
        create_request: WatchCreateRequest | None = ...,
        cancel_request: WatchCancelRequest | None = ...,
        progress_request: WatchProgressRequest | None = ...,
    ) -> None: ...

class WatchCreateRequest(Message):
    NOPUT: ClassVar[int]
    NODELETE: ClassVar[int]
    key: bytes
    range_end: bytes
    start_revision: int
    progress_notify: bool
    @property
    def filters(self) -> Repeated[int]: ...
    prev_kv: bool
    watch_id: int
    fragment: bool
    def __init__(
        self, *,
        key: bytes = ...,
        range_end: bytes = ...,
        start_revision: int = ...,
        progress_notify: bool = ...,
        filters: Iterable[int] = ...,
        prev_kv: bool = ...,
        watch_id: int = ...,
        fragment: bool = ...,
    ) -> None: ...

class WatchCancelRequest(Message):
    watch_id: int
    def __init__(
        self, *,
        watch_id: int = ...,
    ) -> None: ...

class WatchProgressRequest(Message):
    def __init__(self) -> None: ...

class WatchResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    watch_id: int
    created: bool
    canceled: bool
    compact_revision: int
    cancel_reason: str
    fragment: bool
    @property
    def events(self) -> Repeated[Event]: ...
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
        watch_id: int = ...,
        created: bool = ...,
        canceled: bool = ...,
        compact_revision: int = ...,
        cancel_reason: str = ...,
        fragment: bool = ...,
        events: Iterable[Event] = ...,
    ) -> None: ...

class LeaseGrantRequest(Message):
    TTL: int
    ID: int
    def __init__(
        self, *,
        TTL: int = ...,
        ID: int = ...,
    ) -> None: ...

class LeaseGrantResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    ID: int
    TTL: int
    error: str
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
        ID: int = ...,
        TTL: int = ...,
        error: str = ...,
    ) -> None: ...

class LeaseRevokeRequest(Message):
    ID: int
    def __init__(
        self, *,
        ID: int = ...,
    ) -> None: ...

class LeaseRevokeResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
    ) -> None: ...

class LeaseKeepAliveRequest(Message):
    ID: int
    def __init__(
        self, *,
        ID: int = ...,
    ) -> None: ...

class LeaseKeepAliveResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    ID: int
    TTL: int
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
        ID: int = ...,
        TTL: int = ...,
    ) -> None: ...

class LeaseTimeToLiveRequest(Message):
    ID: int
    keys: bool
    def __init__(
        self, *,
        ID: int = ...,
        keys: bool = ...,
    ) -> None: ...

class LeaseTimeToLiveResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    ID: int
    TTL: int
    grantedTTL: int
    @property
    def keys(self) -> Repeated[bytes]: ...
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
        ID: int = ...,
        TTL: int = ...,
        grantedTTL: int = ...,
        keys: Iterable[bytes] = ...,
    ) -> None: ...

class LeaseLeasesRequest(Message):
    def __init__(self) -> None: ...

class LeaseStatus(Message):
    ID: int
    def __init__(
        self, *,
        ID: int = ...,
    ) -> None: ...

class LeaseLeasesResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def leases(self) -> Repeated[LeaseStatus]: ...
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
        leases: Iterable[LeaseStatus] = ...,
    ) -> None: ...

class AlarmRequest(Message):
    GET: ClassVar[int]
    ACTIVATE: ClassVar[int]
    DEACTIVATE: ClassVar[int]
    action: int
    memberID: int
    alarm: int
    def __init__(
        self, *,
        action: int = ...,
        memberID: int = ...,
        alarm: int = ...,
    ) -> None: ...

class AlarmMember(Message):
    memberID: int
    alarm: int
    def __init__(
        self, *,
        memberID: int = ...,
        alarm: int = ...,
    ) -> None: ...

class AlarmResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def alarms(self) -> Repeated[AlarmMember]: ...
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
        alarms: Iterable[AlarmMember] = ...,
    ) -> None: ...

class StatusRequest(Message):
    def __init__(self) -> None: ...

class DowngradeInfo(Message):
    enabled: bool
    targetVersion: str
    def __init__(
        self, *,
        enabled: bool = ...,
        targetVersion: str = ...,
    ) -> None: ...

class StatusResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    version: str
    dbSize: int
    leader: int
    raftIndex: int
    raftTerm: int
    raftAppliedIndex: int
    @property
    def errors(self) -> Repeated[str]: ...
    dbSizeInUse: int
    isLearner: bool
    storageVersion: str
    dbSizeQuota: int
    @property
    def downgradeInfo(self) -> DowngradeInfo: ...
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
        version: str = ...,
        dbSize: int = ...,
        leader: int = ...,
        raftIndex: int = ...,
        raftTerm: int = ...,
        raftAppliedIndex: int = ...,
        errors: Iterable[str] = ...,
        dbSizeInUse: int = ...,
        isLearner: bool = ...,
        storageVersion: str = ...,
        dbSizeQuota: int = ...,
        downgradeInfo: DowngradeInfo | None = ...,
    ) -> None: ...

class DefragmentRequest(Message):
    def __init__(self) -> None: ...

class DefragmentResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
    ) -> None: ...

class HashRequest(Message):
    def __init__(self) -> None: ...

class HashResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    hash: int
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
        hash: int = ...,
    ) -> None: ...

class HashKVRequest(Message):
    revision: int
    def __init__(
        self, *,
        revision: int = ...,
    ) -> None: ...

class HashKVResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    hash: int
    compact_revision: int
    hash_revision: int
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
        hash: int = ...,
        compact_revision: int = ...,
        hash_revision: int = ...,
    ) -> None: ...

class SnapshotRequest(Message):
    def __init__(self) -> None: ...

class SnapshotResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    remaining_bytes: int
    blob: bytes
    version: str
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
        remaining_bytes: int = ...,
        blob: bytes = ...,
        version: str = ...,
    ) -> None: ...

class Member(Message):
    ID: int
    name: str
    @property
    def peerURLs(self) -> Repeated[str]: ...
    @property
    def clientURLs(self) -> Repeated[str]: ...
    isLearner: bool
    def __init__(
        self, *,
        ID: int = ...,
        name: str = ...,
        peerURLs: Iterable[str] = ...,
        clientURLs: Iterable[str] = ...,
        isLearner: bool = ...,
    ) -> None: ...

class MemberListRequest(Message):
    linearizable: bool
    def __init__(
        self, *,
        linearizable: bool = ...,
    ) -> None: ...

class MemberListResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def members(self) -> Repeated[Member]: ...
    def __init__(
        self, *,
        header: ResponseHeader | None = ...,
        members: Iterable[Member] = ...,
    ) -> None: ...

NONE: int
NOSPACE: int
CORRUPT: int
class Method(NamedTuple):
    request: type[Message]
    response: type[Message]
    request_stream: bool
    response_stream: bool

METHODS: dict[str, Method]
