# SPDX-License-Identifier: Apache-2.0
from os import PathLike

from kvcore._native import Io
from kvcore._recovery import RecoveryReport

class Log:
    def __init__(
        self,
        path: str | PathLike[str] | None = None,
        *,
        io: Io | None = None,
        segment_bytes: int = ...,
        verify: bool = True,
    ) -> None: ...
    @property
    def path(self) -> str: ...
    @property
    def recovery(self) -> RecoveryReport | None: ...
    @property
    def poison_errno(self) -> int: ...
