# SPDX-License-Identifier: Apache-2.0
from kvcore._native import Io

def write_times(io: Io | None, handle: int, record: bytes, calls: int, *, span: int,
                sync: bool) -> list[int]: ...
