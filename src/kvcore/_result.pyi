# SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence
from typing import Any, final, overload

import numpy as np
from numpy.typing import NDArray

@final
class KeyValue:
    @property
    def key(self) -> bytes: ...
    @property
    def value(self) -> bytes: ...
    @property
    def create_revision(self) -> int: ...
    @property
    def mod_revision(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def lease(self) -> int: ...
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

@final
class RangeResult(Sequence[KeyValue]):
    count: int  # type: ignore[assignment]  # a number here, as the answer has it
    more: bool
    revision: int
    @overload
    def __getitem__(self, i: int) -> KeyValue: ...
    @overload
    def __getitem__(self, i: slice) -> list[KeyValue]: ...
    def __len__(self) -> int: ...
    def keys(self) -> list[bytes]: ...
    def values(self) -> list[bytes]: ...
    @property
    def mod_revisions(self) -> NDArray[np.int64]: ...
    @property
    def create_revisions(self) -> NDArray[np.int64]: ...
    @property
    def versions(self) -> NDArray[np.int64]: ...
    @property
    def leases(self) -> NDArray[np.int64]: ...

@final
class PutResult:
    revision: int
    prev: KeyValue | None

@final
class DeleteResult:
    revision: int
    deleted: int
    prev: list[KeyValue]

@final
class TxnResult:
    succeeded: bool
    responses: list[Any]
    revision: int

@final
class GrantResult:
    id: int
    ttl: int
    revision: int
