# SPDX-License-Identifier: Apache-2.0
"""The stores of a test: opened by one factory, checked and closed at its end."""

from __future__ import annotations

import os
from typing import Any

import kvcore


class Stores:
    """Opens stores and remembers them."""

    def __init__(self) -> None:
        self.opened: list[kvcore.Store] = []

    def __call__(self, path: str | os.PathLike[str] | None = None, **options: Any) -> kvcore.Store:
        store = kvcore.open(path, **options)
        self.opened.append(store)
        return store

    def finish(self) -> None:
        """Checks and closes whatever is still open; all are closed even when one is unsound."""
        broken = []
        for store in self.opened:
            if store.closed:
                continue
            try:
                store._check()
            except AssertionError as error:
                broken.append(f"{store!r}: {error}")
            store.close()
        self.opened.clear()
        assert not broken, broken
