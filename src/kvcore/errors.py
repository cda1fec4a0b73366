# SPDX-License-Identifier: Apache-2.0
"""Every exception kvcore raises on its own account, and the table from native status codes to them.

    Error
    ├── InvalidArgument (also ValueError)
    │   ├── EmptyKeyError          key is not provided
    │   ├── KeyTooLargeError       key longer than max_key_bytes
    │   ├── RequestTooLargeError   request is too large
    │   ├── TooManyOpsError        too many operations in txn request
    │   ├── DuplicateKeyError      duplicate key given in txn request
    │   ├── KeyNotFoundError       key not found (ignore_value, ignore_lease)
    │   ├── ValueProvidedError     value is provided (with ignore_value)
    │   ├── LeaseProvidedError     lease is provided (with ignore_lease)
    │   ├── InvalidSortError       invalid sort option
    │   ├── EmptyRangeError        watcher range is empty
    │   └── LeaseTTLTooLargeError  too large lease TTL
    ├── CompactedError             required revision has been compacted
    ├── FutureRevisionError        required revision is a future revision
    ├── LeaseNotFoundError         requested lease not found
    ├── LeaseExistsError           lease already exists
    ├── NoSpaceError               database space exceeded
    ├── ClosedError                verb on a closed object
    ├── ForkedError                used in a child of the process that opened it
    ├── OutOfMemoryError (also MemoryError)
    ├── StorageError (also OSError)
    │   ├── OutcomeUnknownError    the write or sync of this very request failed
    │   └── PoisonedError          the log failed earlier; nothing is written any more
    ├── LockedError                another process has the directory open
    ├── CorruptError               bytes on disk contradict their checksum or each other
    ├── NewerFormatError           directory written by a newer kvcore
    └── TransferError              an export that is cut, changed, or none

Where etcd has a wording, the message is etcd's.  May not know: any other module of kvcore.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = [
    "ClosedError", "CompactedError", "CorruptError", "DuplicateKeyError", "EmptyKeyError",
    "EmptyRangeError", "Error", "ForkedError", "FutureRevisionError", "InvalidArgument",
    "InvalidSortError", "KeyNotFoundError", "KeyTooLargeError", "LeaseExistsError",
    "LeaseNotFoundError", "LeaseProvidedError", "LeaseTTLTooLargeError", "LockedError",
    "NewerFormatError", "NoSpaceError", "OutOfMemoryError", "OutcomeUnknownError", "PoisonedError",
    "RequestTooLargeError", "StorageError", "TooManyOpsError", "TransferError",
    "ValueProvidedError",
]


class Error(Exception):
    """Base of all of them."""

    message = "kvcore error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.message)


class InvalidArgument(Error, ValueError):
    """The request itself is wrong; the store is as it was."""

    message = "etcdserver: invalid argument"


class EmptyKeyError(InvalidArgument):
    """A key was empty."""

    message = "etcdserver: key is not provided"


class KeyTooLargeError(InvalidArgument):
    """A key was longer than the store's max_key_bytes."""

    message = "kvcore: key is too large"


class RequestTooLargeError(InvalidArgument):
    """An encoded request was longer than the store's max_request_bytes."""

    message = "etcdserver: request is too large"


class TooManyOpsError(InvalidArgument):
    """A transaction had more compares or operations than max_txn_ops."""

    message = "etcdserver: too many operations in txn request"


class DuplicateKeyError(InvalidArgument):
    """A transaction would change one key twice."""

    message = "etcdserver: duplicate key given in txn request"


class KeyNotFoundError(InvalidArgument):
    """ignore_value or ignore_lease on a key that is not there."""

    message = "etcdserver: key not found"


class ValueProvidedError(InvalidArgument):
    """ignore_value together with a value."""

    message = "etcdserver: value is provided"


class LeaseProvidedError(InvalidArgument):
    """ignore_lease together with a lease."""

    message = "etcdserver: lease is provided"


class InvalidSortError(InvalidArgument):
    """A sort target or order that does not exist."""

    message = "etcdserver: invalid sort option"


class EmptyRangeError(InvalidArgument):
    """A watch on a range whose end does not come behind its start."""

    message = "mvcc: watcher range is empty"


class LeaseTTLTooLargeError(InvalidArgument):
    """A lease of more than 9,000,000,000 seconds."""

    message = "etcdserver: too large lease TTL"


class CompactedError(Error):
    """The revision asked for is older than the compacted one (`compact_revision`)."""

    message = "etcdserver: mvcc: required revision has been compacted"

    def __init__(self, message: str | None = None, compact_revision: int = 0) -> None:
        super().__init__(message)
        self.compact_revision = compact_revision


class FutureRevisionError(Error):
    """The revision asked for has not happened yet."""

    message = "etcdserver: mvcc: required revision is a future revision"


class LeaseNotFoundError(Error):
    """The lease does not exist (any more)."""

    message = "etcdserver: requested lease not found"


class LeaseExistsError(Error):
    """The id asked for is that of a living lease."""

    message = "etcdserver: lease already exists"


class NoSpaceError(Error):
    """The quota, or the index's address range, is used up."""

    message = "etcdserver: mvcc: database space exceeded"


class ClosedError(Error):
    """A verb on an object that was closed."""

    message = "kvcore: closed"


class ForkedError(Error):
    """A store, log or snapshot was used in a child of the process that opened it; open it anew
    there."""

    message = "kvcore: used after fork; open the store in the process that uses it"


class OutOfMemoryError(Error, MemoryError):
    """The core was refused memory."""

    message = "kvcore: out of memory"


class StorageError(Error, OSError):
    """A system call on the store's files failed; `errno` and `strerror` say how."""

    message = "kvcore: input/output error"

    def __init__(self, message: str | None = None, errno: int = 0) -> None:
        text = message or self.message
        if errno:
            text = f"{text}: {os.strerror(errno)}"
        Exception.__init__(self, text)
        self.errno = errno or None
        self.strerror = os.strerror(errno) if errno else None

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_storage_error, (type(self), str(self), self.errno, self.__dict__)


def _restore_storage_error(kind: type[StorageError], text: str, errno: int | None,
                           more: dict[str, Any]) -> StorageError:
    """A pickled StorageError; its text has the errno's already."""
    error = kind(text)
    if errno:
        error.errno = errno
        error.strerror = os.strerror(errno)
    error.__dict__.update(more)
    return error


class OutcomeUnknownError(StorageError):
    """The write or sync of this very request failed: it may or may not be there after a reopen."""

    message = "kvcore: the log failed while this request was written; its outcome is unknown"


class PoisonedError(StorageError):
    """The log failed earlier; reads go on, nothing is written until the store is opened again."""

    message = "kvcore: the log failed earlier and takes no more writes"


class LockedError(Error):
    """Another process (or this one) has the directory open."""

    message = "kvcore: directory is in use"


class CorruptError(Error):
    """Damage on disk: `path`, `offset` in the file, `reason`; the text also says what to do."""

    message = "kvcore: corrupt; kvcore check names what is damaged"
    remedy = "restore a backup, or save what can be saved (kvcore check --repair)"

    def __init__(
        self, message: str | None = None, path: str = "", offset: int = -1, reason: str = "",
        remedy: str = "",
    ) -> None:
        where = f"{path} at offset {offset}: " if path else ""
        then = remedy or (self.remedy if path else "")
        super().__init__(message or f"kvcore: corrupt: {where}{reason}{then and '; '}{then}")
        self.path = path
        self.offset = offset
        self.reason = reason


class NewerFormatError(Error):
    """The directory was written by a kvcore with a newer format."""

    message = "kvcore: the directory has a newer format than this version reads"


class TransferError(Error):
    """An export that cannot be imported: `line` (from 1; 0: none), `reason`, and `keys`, how many
    were imported before, in whole batches."""

    message = "kvcore: the export cannot be read"

    def __init__(
        self, message: str | None = None, line: int = 0, reason: str = "", keys: int = 0
    ) -> None:
        if reason and not message:
            done = f" ({keys:,} keys before it were imported)" if keys else ""
            message = f"line {line}: {reason}{done}" if line else f"{reason}{done}"
        super().__init__(message)
        self.line = line
        self.reason = reason
        self.keys = keys


# The native core's status codes (enum kv_status in _native.h).
BY_STATUS: dict[int, type[Error]] = {
    -1: OutOfMemoryError,
    -3: CompactedError,
    -4: FutureRevisionError,
    -5: KeyNotFoundError,
    -6: LeaseNotFoundError,
    -7: NoSpaceError,
    -8: StorageError,
    -9: CorruptError,
    -10: ClosedError,
    -11: PoisonedError,
    -12: OutcomeUnknownError,
    -13: ForkedError,
    -14: RequestTooLargeError,
    -15: EmptyKeyError,
    -16: DuplicateKeyError,
    -17: TooManyOpsError,
    -18: CorruptError,
    -19: NewerFormatError,
    -20: NoSpaceError,
    -21: InvalidArgument,
    -22: KeyTooLargeError,
    -23: LeaseExistsError,
}


def from_status(status: int, detail: object = None) -> Error:
    """The exception for a native status code.

    `detail` is an errno (StorageError and below), a compacted revision (CompactedError), or a
    message.
    """
    kind = BY_STATUS.get(status)
    if kind is None:
        return Error(f"kvcore: unexpected native status {status}")
    if isinstance(detail, int) and issubclass(kind, StorageError):
        return kind(errno=detail)
    if isinstance(detail, int) and kind is CompactedError:
        return CompactedError(compact_revision=detail)
    return kind(str(detail)) if detail is not None else kind()
