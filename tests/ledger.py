# SPDX-License-Identifier: Apache-2.0
"""What a store may hold when some of its calls failed: for each key, every value that is possible.

    write acknowledged ─► exactly that value       write failed ─► that value, or what was before
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import kvcore


class Ledger:
    """Asks a store, and keeps the book.  `errors`: what calls may raise here."""

    def __init__(self, *errors: type[BaseException]) -> None:
        self.errors = errors
        self.may: dict[bytes, set[bytes | None]] = {}
        self.failed: list[BaseException] = []

    def ask(self, call: Callable[[], Any]) -> Any:
        """Its answer, or None when it raised one of the errors."""
        try:
            return call()
        except self.errors as error:
            self.failed.append(error.with_traceback(None))       # it would hold the store
            return None

    def write(self, changes: Mapping[bytes, bytes | None], call: Callable[[], Any]) -> Any:
        """Asks; afterwards each key has its new value, or, if that failed, perhaps the old one."""
        failed = len(self.failed)
        answer = self.ask(call)
        for key, value in changes.items():
            old = self.may.get(key, {None})
            self.may[key] = {value} if failed == len(self.failed) else old | {value}
        return answer

    def same(self, key: bytes, found: kvcore.KeyValue | None) -> None:
        """A key that was read has a value that it may have."""
        assert (found.value if found else None) in self.may.get(key, {None}), key

    def holds(self, db: kvcore.Store) -> None:
        """All keys have values that they may have, and there are no others."""
        found = {kv.key: kv.value for kv in db.range()}
        for key, values in self.may.items():
            assert found.pop(key, None) in values, key
        assert found == {}
