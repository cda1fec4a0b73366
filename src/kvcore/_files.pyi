# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

from kvcore._native import Io

def copy_file(
    io: Io | None,
    source: str,
    target: str | None,
    upto: int,
    progress: Callable[[int], None] | None = None,
) -> int: ...
def write_file(io: Io | None, path: str, data: bytes) -> None: ...
def rename(io: Io | None, source: str, target: str) -> None: ...
def sync_dir(io: Io | None, path: str) -> None: ...
