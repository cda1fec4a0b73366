# SPDX-License-Identifier: Apache-2.0
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, final

from kvcore._event import Event
from kvcore._native import Clock

class WatchCacheStats(NamedTuple):
    length: int
    capacity: int
    bytes: int
    peak_bytes: int
    payload_bytes: int
    compactions: int
    dropped: int
    longest_pause: float
    oldest_version: int
    newest_version: int

@final
class CachedEvent:
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
    @property
    def type(self) -> Literal["PUT", "DELETE", "ADDED", "MODIFIED", "DELETED"]: ...
    @property
    def key(self) -> bytes: ...
    @property
    def resource_version(self) -> int: ...
    @property
    def value(self) -> bytes: ...
    @property
    def object(self) -> dict[str, Any] | None: ...

@final
class WatchCache:
    resource: str
    def __init__(
        self,
        resource: str,
        capacity: int = 100_000,
        compaction_interval: float = 30.0,
        policy: Literal["incremental", "full"] = "incremental",
        clock: Clock | None = None,
    ) -> None: ...
    def add_event(self, event: Event | Mapping[str, Any]) -> None: ...
    def events_since(self, version: int, limit: int = 0) -> list[CachedEvent]: ...
    def stats(self) -> WatchCacheStats: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def _check(self) -> None: ...
