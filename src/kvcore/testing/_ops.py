# SPDX-License-Identifier: Apache-2.0
"""What a recording of calls is made of.  May not know: who records, what for."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Op:
    """One recorded call.  `data` is bytes, or an int: so many zeros; `error` is 0 or its errno."""

    kind: str
    handle: int = -1
    error: int = 0
    offset: int = 0
    data: bytes | int = b""
    path: str = ""
    to: str = ""
