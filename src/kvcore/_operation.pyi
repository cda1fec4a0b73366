# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterable
from typing import final

def prefix_end(prefix: bytes) -> bytes: ...

@final
class Put:
    key: bytes
    value: bytes
    lease: int
    def __init__(
        self,
        key: bytes,
        value: bytes = b"",
        *,
        lease: int = 0,
        prev: bool = False,
        ignore_value: bool = False,
        ignore_lease: bool = False,
    ) -> None: ...

@final
class Delete:
    key: bytes
    end: bytes | None
    def __init__(
        self,
        key: bytes | None = None,
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        prev: bool = False,
    ) -> None: ...

class Range:
    key: bytes
    end: bytes | None
    def __init__(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        limit: int = 0,
        revision: int | None = None,
        keys_only: bool = False,
        count_only: bool = False,
        sort: str | None = None,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
    ) -> None: ...

@final
class Get(Range):
    def __init__(self, key: bytes, revision: int | None = None) -> None: ...

@final
class Compact:
    revision: int
    def __init__(self, revision: int) -> None: ...

@final
class Compare:
    key: bytes
    end: bytes | None
    @staticmethod
    def value(
        key: bytes | None = None, end: bytes | None = None, *, prefix: bytes | None = None
    ) -> Compare: ...
    @staticmethod
    def version(
        key: bytes | None = None, end: bytes | None = None, *, prefix: bytes | None = None
    ) -> Compare: ...
    @staticmethod
    def create_revision(
        key: bytes | None = None, end: bytes | None = None, *, prefix: bytes | None = None
    ) -> Compare: ...
    @staticmethod
    def mod_revision(
        key: bytes | None = None, end: bytes | None = None, *, prefix: bytes | None = None
    ) -> Compare: ...
    @staticmethod
    def lease(
        key: bytes | None = None, end: bytes | None = None, *, prefix: bytes | None = None
    ) -> Compare: ...
    def __eq__(self, other: bytes | int) -> Compare: ...  # type: ignore[override]
    def __ne__(self, other: bytes | int) -> Compare: ...  # type: ignore[override]
    def __lt__(self, other: bytes | int) -> Compare: ...
    def __gt__(self, other: bytes | int) -> Compare: ...

@final
class Txn:
    compare: list[Compare]
    success: list[Put | Range | Delete | Txn]
    failure: list[Put | Range | Delete | Txn]
    def __init__(
        self,
        compare: Iterable[Compare] = (),
        success: Iterable[Put | Range | Delete | Txn] = (),
        failure: Iterable[Put | Range | Delete | Txn] = (),
    ) -> None: ...

@final
class LeaseGrant:
    ttl: int
    id: int
    def __init__(self, ttl: int, id: int = 0) -> None: ...

@final
class LeaseRevoke:
    id: int
    def __init__(self, id: int) -> None: ...
