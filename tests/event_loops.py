# SPDX-License-Identifier: Apache-2.0
"""What tests with event loops of their own share."""

from __future__ import annotations

import asyncio


async def connections_closed() -> None:
    """Until the running loop has no connections left: a session's close only begins to close
    them."""
    registered = asyncio.get_running_loop()._selector.get_map()  # type: ignore[attr-defined]
    while len(registered) > 1:               # the loop's own pipe
        await asyncio.sleep(0)
