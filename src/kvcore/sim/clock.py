# SPDX-License-Identifier: Apache-2.0
"""Virtual time: an event loop whose clock jumps to the next timer when nothing is going on.

    ready callbacks ── run ──> descriptors ready? ── yes ── run
                                  │ no
                                  └── time := next timer

What other threads answer must be waited for where it is asked for (`direct`): the store's
committer answers when it is ready, and time would pass meanwhile. Then a run depends on nothing but
its inputs, however slow the machine.
Named invariant (no lost work): time moves only when no callback and no descriptor is ready.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from kvcore.kube.api import Api
from kvcore.kube.storage import ObjectStore

__all__ = ["VirtualLoop", "direct", "virtual_loop"]

T = TypeVar("T")

EPOCH = 1_700_000_000.0          # what `now` says at virtual time 0, in seconds since 1970


class _Selector(selectors.DefaultSelector):
    """Never sleeps for a timer: it moves the clock instead."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        found = super().select(0)
        if found or timeout is None:
            return found or super().select(None)
        self.loop.elapsed += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        self.elapsed = 0.0
        super().__init__(selector)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.elapsed

    def now(self) -> float:
        """Virtual seconds since 1970."""
        return EPOCH + self.elapsed


class DirectObjects(ObjectStore):
    """Operations that are through, and in the watch cache, when they return: no other thread
    decides what comes first."""

    def __init__(self, api: Api) -> None:
        super().__init__(api.store)
        self._api = api

    async def submit(self, op: Any) -> Any:
        done = self.store.submit(op).result()
        self._api.feed.catch_up()
        return done


def direct(api: Api) -> Api:
    """An Api that has not been started yet, made fit for virtual time."""
    api.objects = DirectObjects(api)
    return api


def virtual_loop(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on virtual time; returns what it returns.

    >>> import asyncio
    >>> async def hour(loop):
    ...     await asyncio.sleep(3600)
    ...     return loop.time()
    >>> virtual_loop(hour)
    3600.0
    """
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
