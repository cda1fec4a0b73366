# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from typing import Any, TypeVar, final, overload

from kvcore._result import KeyValue, RangeResult
from kvcore.mapping import SnapshotMapping

K = TypeVar("K")
V = TypeVar("V")

@final
class Snapshot:
    revision: int
    def get(self, key: bytes, revision: int | None = None) -> KeyValue | None: ...
    def range(
        self, start: bytes | None = None, end: bytes | None = None, **options: Any
    ) -> RangeResult: ...
    def count(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
    ) -> int: ...
    @overload
    def mapping(self, prefix: bytes = b"") -> SnapshotMapping[bytes, bytes]: ...
    @overload
    def mapping(self, prefix: bytes = b"", *, encode: Callable[[V], bytes],
                decode: Callable[[bytes], V]) -> SnapshotMapping[bytes, V]: ...
    @overload
    def mapping(self, prefix: bytes = b"", *, key_encode: Callable[[K], bytes],
                key_decode: Callable[[bytes], K]) -> SnapshotMapping[K, bytes]: ...
    @overload
    def mapping(self, prefix: bytes = b"", *, encode: Callable[[V], bytes],
                decode: Callable[[bytes], V], key_encode: Callable[[K], bytes],
                key_decode: Callable[[bytes], K]) -> SnapshotMapping[K, V]: ...
    def release(self) -> None: ...
    def __enter__(self) -> Snapshot: ...
    def __exit__(self, *exc: object) -> None: ...
