# SPDX-License-Identifier: Apache-2.0
"""kvcore: an etcd you can import.

    store     Store and open(): the library
    _operation  Put, Get, Range, Delete, Txn, Compact, Compare, LeaseGrant, LeaseRevoke
    _result   what comes back: KeyValue, RangeResult, PutResult, DeleteResult, TxnResult, ...
    _watch    Watch;  _event: Event, WatchResponse, EventBatch;  lease: Lease
    mapping   StoreMapping, SnapshotMapping: keys below a prefix as a dictionary
    _watch_cache  WatchCache: the recent events of one resource, for watchers that resume
    _btree    BTreeIndex, the MVCC index alone;  _record_log: Wal, the log alone
    backup    restore(): a backup that Store.backup made becomes a store again
    transfer  export_lines, import_lines: contents as lines of JSON (import kvcore.transfer)
    errors    every exception, below Error

See ARCHITECTURE.md for the house, docs/ for its formats.
"""

from kvcore._btree import BTreeIndex
from kvcore._event import Event, EventBatch, WatchResponse
from kvcore._future import Future
from kvcore._operation import (
    Compact,
    Compare,
    Delete,
    Get,
    LeaseGrant,
    LeaseRevoke,
    Put,
    Range,
    Txn,
    prefix_end,
)
from kvcore._record_log import WriteAheadLog as Wal
from kvcore._result import DeleteResult, GrantResult, KeyValue, PutResult, RangeResult, TxnResult
from kvcore._snapshot import Snapshot
from kvcore._version import __version__ as __version__
from kvcore._watch import Watch
from kvcore._watch_cache import CachedEvent, WatchCache, WatchCacheStats
from kvcore.backup import BackupResult, RestoreResult, restore
from kvcore.errors import (
    ClosedError,
    CompactedError,
    CorruptError,
    DuplicateKeyError,
    EmptyKeyError,
    EmptyRangeError,
    Error,
    ForkedError,
    FutureRevisionError,
    InvalidArgument,
    InvalidSortError,
    KeyNotFoundError,
    KeyTooLargeError,
    LeaseExistsError,
    LeaseNotFoundError,
    LeaseProvidedError,
    LeaseTTLTooLargeError,
    LockedError,
    NewerFormatError,
    NoSpaceError,
    OutcomeUnknownError,
    OutOfMemoryError,
    PoisonedError,
    RequestTooLargeError,
    StorageError,
    TooManyOpsError,
    TransferError,
    ValueProvidedError,
)
from kvcore.lease import Lease
from kvcore.mapping import SnapshotMapping, StoreMapping
from kvcore.store import Store, open
from kvcore.types import HashResult, Status

__all__ = [
    "BTreeIndex", "BackupResult", "CachedEvent", "ClosedError", "Compact", "CompactedError",
    "Compare", "CorruptError", "Delete", "DeleteResult", "DuplicateKeyError", "EmptyKeyError",
    "EmptyRangeError", "Error", "Event", "EventBatch", "ForkedError", "Future",
    "FutureRevisionError", "Get", "GrantResult", "HashResult", "InvalidArgument",
    "InvalidSortError", "KeyNotFoundError", "KeyTooLargeError", "KeyValue", "Lease",
    "LeaseExistsError", "LeaseGrant", "LeaseNotFoundError", "LeaseProvidedError", "LeaseRevoke",
    "LeaseTTLTooLargeError", "LockedError", "NewerFormatError", "NoSpaceError", "OutOfMemoryError",
    "OutcomeUnknownError", "PoisonedError", "Put", "PutResult", "Range", "RangeResult",
    "RequestTooLargeError", "RestoreResult", "Snapshot", "SnapshotMapping", "Status",
    "StorageError", "Store", "StoreMapping", "TooManyOpsError", "TransferError", "Txn", "TxnResult",
    "ValueProvidedError", "Wal", "Watch", "WatchCache", "WatchCacheStats", "WatchResponse", "open",
    "prefix_end", "restore",
]
