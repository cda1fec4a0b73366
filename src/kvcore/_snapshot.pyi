# SPDX-License-Identifier: Apache-2.0
from typing import Any, final

from kvcore._result import KeyValue, RangeResult

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
    def release(self) -> None: ...
    def __enter__(self) -> Snapshot: ...
    def __exit__(self, *exc: object) -> None: ...
