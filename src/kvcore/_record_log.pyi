# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterable, Iterator
from os import PathLike
from types import TracebackType
from typing import Literal, NamedTuple

from typing_extensions import Self

from kvcore._native import Io
from kvcore._recovery import RecoveryReport

class WalStats(NamedTuple):
    records: int
    batches: int
    syncs: int
    bytes: int
    segments: int
    durable_position: int
    end_position: int
    poison_errno: int

class WriteAheadLog:
    def __init__(
        self,
        path: str | PathLike[str] | None,
        *,
        sync: Literal["always", "interval", "off"] = "always",
        segment_bytes: int = ...,
        io: Io | None = None,
        verify: bool = True,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    @property
    def path(self) -> str: ...
    @property
    def recovery(self) -> RecoveryReport: ...
    def append(
        self, payload: bytes | bytearray | memoryview, *, sync: bool | None = None
    ) -> int: ...
    def append_many(
        self, payloads: Iterable[bytes | bytearray | memoryview], *, sync: bool | None = None
    ) -> list[int]: ...
    def read(self, position: int) -> bytes: ...
    def replay(self) -> Iterator[tuple[int, bytes]]: ...
    def sync(self) -> None: ...
    def stats(self) -> WalStats: ...
    def close(self) -> None: ...
    def _abandon(self) -> None: ...
    def _check(self) -> None: ...
