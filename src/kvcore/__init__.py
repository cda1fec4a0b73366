# SPDX-License-Identifier: Apache-2.0
"""kvcore: an etcd you can import.

    store     Store and open(): the library
    _command  the operations: Put, Get, Range, Delete, Txn, Compact, Compare
    _result   what comes back: KeyValue, RangeResult, PutResult, DeleteResult, TxnResult
    _btree    BTreeIndex, the MVCC index alone;  _record_log: Wal, the log alone
    errors    every exception, below Error

See ARCHITECTURE.md for the house, docs/ for its formats.
"""

from kvcore._btree import BTreeIndex
from kvcore._command import Compact, Compare, Delete, Get, Put, Range, Txn, prefix_end
from kvcore._engine import Snapshot
from kvcore._future import Future
from kvcore._record_log import WriteAheadLog as Wal
from kvcore._result import DeleteResult, KeyValue, PutResult, RangeResult, TxnResult
from kvcore.errors import (
    ClosedError,
    CompactedError,
    CorruptError,
    DuplicateKeyError,
    EmptyKeyError,
    Error,
    ForkedError,
    FutureRevisionError,
    InvalidArgument,
    InvalidSortError,
    KeyNotFoundError,
    KeyTooLargeError,
    LeaseNotFoundError,
    LeaseProvidedError,
    LockedError,
    NewerFormatError,
    NoSpaceError,
    OutcomeUnknownError,
    OutOfMemoryError,
    PoisonedError,
    RequestTooLargeError,
    StorageError,
    TooManyOpsError,
    ValueProvidedError,
)
from kvcore.store import Store, open
from kvcore.types import HashResult, Status

__version__ = "0.1.0"

__all__ = [
    "BTreeIndex", "ClosedError", "Compact", "CompactedError", "Compare", "CorruptError", "Delete",
    "DeleteResult", "DuplicateKeyError", "EmptyKeyError", "Error", "ForkedError", "Future",
    "FutureRevisionError", "Get", "HashResult", "InvalidArgument", "InvalidSortError",
    "KeyNotFoundError", "KeyTooLargeError", "KeyValue", "LeaseNotFoundError", "LeaseProvidedError",
    "LockedError", "NewerFormatError", "NoSpaceError", "OutOfMemoryError", "OutcomeUnknownError",
    "PoisonedError", "Put", "PutResult", "Range", "RangeResult", "RequestTooLargeError", "Snapshot",
    "Status", "StorageError", "Store", "TooManyOpsError", "Txn", "TxnResult", "ValueProvidedError",
    "Wal", "open", "prefix_end",
]
