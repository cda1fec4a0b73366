# SPDX-License-Identifier: Apache-2.0
"""Store: the public face of the engine, and open().

    Store (here: open, close, status, leases, mapping, hash, check, backup)
      └── _engine.Engine (native: put, get, range, delete, txn, put_many, get_many, submit, ...)

Hot verbs are methods of the extension type itself: a Python frame would cost more than a look-up.
Logger "kvcore.store": a directory opened and closed (info); an end that was not clean, a checkpoint
passed over or not taken (warning); never an operation.
Thread safety: every method. One process per directory. May not know: CLI, servers.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from operator import index
from types import TracebackType
from typing import Any, TypeVar, overload

from kvcore._directory import segment_path
from kvcore._engine import Engine
from kvcore._operation import LeaseGrant
from kvcore.backup import BackupResult, backup
from kvcore.errors import ClosedError, ForkedError, from_status
from kvcore.lease import Lease
from kvcore.mapping import StoreMapping
from kvcore.types import HashResult, Status
from kvcore.verify import damaged_files

__all__ = ["Store", "open"]

# A logger of its own: "kvcore" also carries the failures of callbacks, which must be seen without
# any set-up.
_log = logging.getLogger("kvcore.store")
_log.addHandler(logging.NullHandler())

K = TypeVar("K")
V = TypeVar("V")


class Store(Engine):
    """A durable, watchable, versioned key-value store; made by kvcore.open().

    Keys and values are bytes. Every change takes a revision; reads may name one.

    >>> import kvcore
    >>> with kvcore.open() as db:
    ...     _ = db.put(b"/a", b"1")
    ...     _ = db.put(b"/a", b"2")
    ...     db.get(b"/a").value, db.get(b"/a", revision=2).value
    (b'2', b'1')
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, **options: Any) -> None:
        self._sync_mode = str(options.get("sync", "always"))
        super().__init__(None if path is None else os.fspath(path), **options)
        if self.log_path:
            self._tell_open()

    def _tell_open(self) -> None:
        if not self.recovery.clean:
            _log.warning("%s was not closed: %d batches replayed, %d torn bytes cut off",
                         self.log_path, self.recovery.batches, self.recovery.torn_bytes)
        for path, at, reason in self.damaged_checkpoints:
            _log.warning("checkpoint %s passed over: %s at offset %d", path, reason, at)
        _log.info("%s opened at revision %d", self.log_path, self.revision)

    def close(self) -> None:
        """Seal the log and free everything; results already returned stay usable. Idempotent."""
        path = "" if self.closed else self.log_path
        try:
            status = self._stats()["background_status"] if path else 0
        except ClosedError:                     # another thread was first
            status = 0
        super().close()
        if status:
            _log.warning("%s: background work failed: %s", path, from_status(status))
        if path:
            _log.info("%s closed", path)

    def status(self) -> Status:
        """Revisions, sizes and counters, taken at one instant.

        >>> import kvcore
        >>> kvcore.open().status().revision
        1
        """
        s = self._stats()
        entries, leaves = s.pop("entries"), s.pop("leaves")
        for unused in ("inners", "copied_nodes", "term"):
            s.pop(unused)
        fill = entries / (leaves * s["order"]) if leaves else 0.0
        asked = s["log_bytes"] - s["moved_bytes"]
        written = s["log_bytes"] + s["checkpoint_bytes"]
        return Status(path=self.log_path, sync=self._sync_mode, fill=fill, format=1,
                      write_amplification=written / asked if asked else 1.0, **s)

    def lease(self, ttl: int, id: int = 0) -> Lease:
        """Grant a lease: keys put with its id are deleted when it ends.

        Args: ttl: seconds, raised to min_lease_ttl; id: 0 for a random one.
        Errors: LeaseExistsError, LeaseTTLTooLargeError (above 9,000,000,000 s).
        Cost: as put. Source: etcd LeaseGrant. A reopen begins every lease's full TTL again: it
        may live longer, never shorter.

        >>> import kvcore
        >>> kvcore.open().lease(30, id=7)
        <kvcore.Lease id=7>
        """
        granted = self._call(LeaseGrant(ttl, id))
        return Lease(self, granted.id, granted.ttl)

    def leases(self) -> list[Lease]:
        """All leases, soonest expiry first."""
        return [Lease(self, id) for id in self._lease_ids()]

    def lease_of(self, id: int) -> Lease:
        """A handle of the lease with this id, whether it lives or not."""
        return Lease(self, index(id))

    @overload
    def mapping(self, prefix: bytes = b"") -> StoreMapping[bytes, bytes]: ...
    @overload
    def mapping(self, prefix: bytes = b"", *, encode: Callable[[V], bytes],
                decode: Callable[[bytes], V]) -> StoreMapping[bytes, V]: ...
    @overload
    def mapping(self, prefix: bytes = b"", *, key_encode: Callable[[K], bytes],
                key_decode: Callable[[bytes], K]) -> StoreMapping[K, bytes]: ...
    @overload
    def mapping(self, prefix: bytes = b"", *, encode: Callable[[V], bytes],
                decode: Callable[[bytes], V], key_encode: Callable[[K], bytes],
                key_decode: Callable[[bytes], K]) -> StoreMapping[K, V]: ...
    def mapping(self, prefix: bytes = b"", **codecs: Any) -> StoreMapping[Any, Any]:
        """The keys below a prefix as a dictionary: bytes to bytes, or what the codecs make of them.

        Args: prefix: b"" for all keys; encode, decode: a value to bytes and back; key_encode,
        key_decode: a key, without the prefix. Ready ones in kvcore.mapping: text_keys, json_values.
        Returns: a kvcore.StoreMapping, which holds nothing. Cost: none.

        >>> import kvcore
        >>> from kvcore.mapping import text_keys
        >>> colours = kvcore.open().mapping(b"/colour/", **text_keys)
        >>> colours["sky"] = b"blue"
        >>> colours["sky"], list(colours), "sea" in colours
        (b'blue', ['sky'], False)
        """
        return StoreMapping(self, prefix, **codecs)

    def hash(self, revision: int = 0) -> HashResult:
        """CRC-32C over all changes up to `revision` (0: now), equal to etcd's HashKV.

        Errors: CompactedError, FutureRevisionError, CorruptError. Cost: reads every value.
        It does not change while a compaction sweeps, nor by a restart.

        >>> import kvcore
        >>> kvcore.open().hash().revision
        1
        """
        crc, compacted, at = self._hash(revision)
        return HashResult(hash=crc, compact_revision=max(compacted, 0), revision=at)

    def check(self, progress: Callable[[int], None] | None = None) -> list[str]:
        """Read every value of every version, every batch of the log that an open may replay and
        both checkpoints, and walk the index; the problems found, [] when sound.

        Args: progress: called with the number of versions read since the last call.
        """
        problems = [
            f"{path} at offset {at}: {reason} (passed over)"
            for path, at, reason in self.damaged_checkpoints
        ]
        broken = self._check_index()
        if broken is not None:
            problems.append(f"index: {broken}")
        damaged = self._damaged_values(progress)
        size = self.status().segment_bytes
        for key, mod, pos in damaged:
            where = (f"{segment_path(self.log_path, pos // size)} at offset {pos % size}"
                     if self.log_path else f"log position {pos:#x}")
            problems.append(f"{where}: the value of {key!r} at revision {mod} fails its checksum")
        passed_over = {path for path, _, _ in self.damaged_checkpoints}
        return problems + damaged_files(self, passed_over, [pos for *_, pos in damaged])

    def backup(self, path: str | os.PathLike[str], *, link: bool = True,
               progress: Callable[[int, int], None] | None = None) -> BackupResult:
        """Make a directory that holds the store at one revision, while writing goes on.

        Args: path: must be missing or an empty directory; it gets its name when all in it is
        durable. link: share closed log files with the store by hard links where the file system
        can; False: copy everything, so that no damaged block hits both. progress: called with
        bytes done and bytes in all.
        Returns: BackupResult(path, revision, bytes, linked_bytes, files). kvcore.restore() makes a
        store of it.
        Errors: StorageError (also: path is there), ClosedError (closed meanwhile), PoisonedError;
        then nothing is left at path.
        Cost: a checkpoint, one read of the log's live segments, a write of what is not linked. No
        lock is held over I/O; space is given back again when the backup is through.

        >>> import kvcore, os, tempfile
        >>> with tempfile.TemporaryDirectory() as there, kvcore.open() as db:
        ...     _ = db.put(b"/a", b"1")
        ...     db.backup(os.path.join(there, "backup")).revision
        2
        """
        return backup(self, path, link=link, progress=progress)

    def _check(self) -> None:
        """Assert the named invariants of the index."""
        broken = self._check_index()
        assert broken is None, broken

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self.closed:
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            finally:
                self.close()

    def __repr__(self) -> str:
        where = self.log_path or "memory"
        try:
            return f"<kvcore.Store {where!r} at revision {self.revision}>"
        except ClosedError:
            return f"<kvcore.Store {where!r}, closed>"
        except ForkedError:
            return f"<kvcore.Store {where!r}, of another process>"


def open(path: str | os.PathLike[str] | None = None, **options: Any) -> Store:
    """Open the store in a directory (made if missing), or a new one in memory.

    Args:
        path: the directory; None: in memory.
        order: children of an index node at most, 3..1024 (default 32).
        sync: "always" (default: what is acknowledged is durable), "interval" (synced every
            sync_interval seconds), "off" (the operating system decides). In the last two a crash
            may lose the newest changes, but never lets a revision be given twice.
        segment_bytes: size of a log segment; fixed when the directory is made (64 MiB).
        max_key_bytes, max_request_bytes, max_txn_ops: limits (65535; 1.5 MiB; 128).
        verify: compare every value read with its CRC (True).
        maintenance: run background work in a thread (True); else call step().
        history: forget by itself: an int keeps that many revisions, a timedelta what was current so
            long ago or later (None: nothing is forgotten until compact()).
        quota: bytes of segments in use and newest checkpoint, at least four segments (0: none);
            two segments of it are reserved for deletes, compaction and moves. Beyond it: alarms().
        replay_target: seconds of replay an open may cost before a checkpoint is taken (0.3; 0:
            never, and then no space comes back in a directory).
        watch_capacity: events kept for watches that are a little behind, at least 100 (100,000,
            48 bytes each); who is further behind reads the index.
        progress_interval: seconds between the progress notes of watches that want them (600).
        min_lease_ttl: shorter leases are granted this many seconds (2).
        clock, io: tables of the outside world, for tests.

    Returns: a Store.
    Errors: LockedError, CorruptError, NewerFormatError, OSError, ValueError.
    Cost: milliseconds when empty; with a million keys a checkpoint's load and the replay behind it.

    >>> import kvcore
    >>> db = kvcore.open()
    >>> db.put(b"/a", b"1")
    PutResult(revision=2, prev=None)
    """
    return Store(path, **options)
