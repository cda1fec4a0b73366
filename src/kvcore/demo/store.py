# SPDX-License-Identifier: Apache-2.0
"""How the demo opens its store: one place for its options, whoever opens it.

May not know: what is done with the store.
"""

from __future__ import annotations

from datetime import timedelta

import kvcore


def open_store(path: str, order: int) -> kvcore.Store:
    """The demo's store: durable, an index of this order, five minutes of history."""
    return kvcore.open(path, order=order, history=timedelta(minutes=5))
