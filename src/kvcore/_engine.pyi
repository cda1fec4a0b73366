# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from kvcore._future import Future
from kvcore._native import Clock, Io
from kvcore._operation import (
    Compact,
    Compare,
    Delete,
    LeaseGrant,
    LeaseRevoke,
    Put,
    Range,
    Txn,
)
from kvcore._recovery import RecoveryReport
from kvcore._result import DeleteResult, KeyValue, PutResult, RangeResult, TxnResult
from kvcore._snapshot import Snapshot
from kvcore._watch import Watch

class Engine:
    recovery: RecoveryReport
    damaged_checkpoints: list[tuple[str, int, str]]
    def __init__(
        self,
        path: str | None = None,
        *,
        order: int = 32,
        sync: str = "always",
        sync_interval: float = 0.1,
        segment_bytes: int = 67108864,
        max_key_bytes: int = 65535,
        max_request_bytes: int = 1572864,
        max_txn_ops: int = 128,
        verify: bool = True,
        maintenance: bool = True,
        replay_target: float = 0.3,
        watch_capacity: int = 100_000,
        progress_interval: float = 600.0,
        min_lease_ttl: int = 2,
        history: int | timedelta | None = None,
        quota: int = 0,
        clock: Clock | None = None,
        io: Io | None = None,
    ) -> None: ...
    def put(
        self,
        key: bytes,
        value: bytes = b"",
        *,
        lease: int = 0,
        prev: bool = False,
        ignore_value: bool = False,
        ignore_lease: bool = False,
    ) -> PutResult: ...
    def put_many(self, items: Iterable[tuple[bytes, bytes]], *, lease: int = 0) -> list[int]: ...
    def delete(
        self,
        key: bytes | None = None,
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        prev: bool = False,
    ) -> DeleteResult: ...
    def txn(
        self,
        compare: Iterable[Compare] = (),
        success: Iterable[Put | Range | Delete | Txn] = (),
        failure: Iterable[Put | Range | Delete | Txn] = (),
    ) -> TxnResult: ...
    def compact(self, revision: int, *, physical: bool = False) -> int: ...
    def submit(
        self, op: Put | Range | Delete | Txn | Compact | LeaseGrant | LeaseRevoke
    ) -> Future: ...
    def watch(
        self,
        key: bytes | None = None,
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        start_revision: int = 0,
        prev_kv: bool = False,
        no_put: bool = False,
        no_delete: bool = False,
        progress_notify: bool = False,
    ) -> Watch: ...
    def _call(self, op: Put | Delete | Txn | Compact | LeaseGrant | LeaseRevoke) -> Any: ...
    def _lease_renew(self, id: int) -> int: ...
    def _lease_look(self, id: int) -> tuple[int, int, list[bytes]] | None: ...
    def _lease_ids(self) -> list[int]: ...
    def _versions(self) -> list[tuple[bytes, int, int, int, int, int, int]]: ...
    def get(self, key: bytes, revision: int | None = None) -> KeyValue | None: ...
    def get_many(
        self, keys: Iterable[bytes], revision: int | None = None
    ) -> list[KeyValue | None]: ...
    def range(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        limit: int = 0,
        revision: int | None = None,
        keys_only: bool = False,
        count_only: bool = False,
        sort: str | None = None,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
    ) -> RangeResult: ...
    def snapshot(self) -> Snapshot: ...
    @property
    def revision(self) -> int: ...
    @property
    def compact_revision(self) -> int: ...
    @property
    def log_path(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    def step(self, now: float | None = None, budget: int = 4096) -> bool: ...
    def sync(self) -> None: ...
    def alarms(self) -> tuple[str, ...]: ...
    def disarm(self) -> None: ...
    def checkpoint(self) -> int: ...
    def close(self) -> None: ...
    def _hash(self, revision: int) -> tuple[int, int, int]: ...
    def _stats(self) -> dict[str, Any]: ...
    def _check_index(self) -> str | None: ...
    def _damaged_values(
        self, progress: Callable[[int], None] | None = None
    ) -> list[tuple[bytes, int, int]]: ...
