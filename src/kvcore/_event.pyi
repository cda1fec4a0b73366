# SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence
from typing import Literal, final, overload

import numpy as np
from numpy.typing import NDArray

from kvcore._result import KeyValue

@final
class Event:
    @property
    def type(self) -> Literal["PUT", "DELETE"]: ...
    @property
    def kv(self) -> KeyValue: ...
    @property
    def prev_kv(self) -> KeyValue | None: ...
    @property
    def is_create(self) -> bool: ...

@final
class WatchResponse:
    revision: int
    events: tuple[Event, ...]
    @property
    def is_progress(self) -> bool: ...

@final
class EventBatch(Sequence[Event]):
    revision: int
    @overload
    def __getitem__(self, i: int) -> Event: ...
    @overload
    def __getitem__(self, i: slice) -> list[Event]: ...
    def __len__(self) -> int: ...
    def keys(self) -> list[bytes]: ...
    @property
    def mod_revisions(self) -> NDArray[np.int64]: ...

@final
class EventCache:
    def forget(self) -> None: ...
