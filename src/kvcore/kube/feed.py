# SPDX-License-Identifier: Apache-2.0
"""One watch of the store for all caches of a server, and how far it has come.

    store.watch("/registry/") ──> Feed ──> Cacher of pods, Cacher of nodes, ...
                                   └── revision: how far everything has come; who waits for more

All caches of a server are at one revision, so a list waits for one number, and several servers over
one store agree, because each follows the store and not its own writes. A Cacher is made when its
resource is first listed or watched. Whoever needs a revision takes what is there at once, in its
own step (`catch_up`), and waits only for what the store has not delivered.

A feed's life:
    start ──> following ──> stop                      reads: 503
                 └── the watch ends (compacted, cancelled, a read failed)
                        └── reads wait and watchers: 429 and closed ──> begun anew, pauses double
                 └── the store is closed              reads: 503, for ever

Named invariants:
1. **one revision**: between two steps of the loop every cacher's state is the store's at
   `revision`.
2. **nobody hangs**: when the feed dies, all who wait are told why.
Thread safety: the thread of the event loop it was started in; others are refused.
Source: apiserver storage/cacher. May not know: HTTP, verbs.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from kvcore import Event, Store
from kvcore.errors import ClosedError
from kvcore.kube import status
from kvcore.kube.caching import Cacher, Policy
from kvcore.kube.keys import ROOT, KeyLayout
from kvcore.kube.resources import Resource

__all__ = ["DEFAULT_CAPACITY", "Feed", "parse_cache_sizes"]

_log = logging.getLogger("kvcore.kube")

DEFAULT_CAPACITY = 100_000
FRESH_SECONDS = 3.0              # how long a read waits for a revision that has not come yet
BATCH = 1000                     # events taken from the store's watch at once
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
INITIALIZING = "storage is (re)initializing"
STOPPED = "apiserver cacher is stopped"


def parse_cache_sizes(text: str) -> dict[str, int]:
    """What --watch-cache-sizes says: resource[.group]#size, comma separated.

    0 keeps no events beside those of the store's own history: lists are read from the store, and
    watches work as ever. (Upstream: any other number means "sized by the server"; here it is the
    number of events kept.) Errors: ValueError in upstream's words.

    >>> parse_cache_sizes("pods#200000,deployments.apps#50000")
    {'pods': 200000, 'deployments.apps': 50000}
    >>> parse_cache_sizes("pods=1")
    Traceback (most recent call last):
    ...
    ValueError: invalid value of watch cache size: pods=1
    """
    sizes = {}
    for part in filter(None, text.split(",")):
        name, *rest = part.split("#")
        if len(rest) != 1:
            raise ValueError(f"invalid value of watch cache size: {part}")
        number = rest[0]
        if not number.removeprefix("-").removeprefix("+").isdecimal() or not number.isascii():
            raise ValueError(f"invalid size of watch cache size: {part}")
        if int(number) < 0:
            raise ValueError(f"watch cache size cannot be negative: {part}")
        sizes[name] = int(number)
    return sizes


class Feed:
    """See the module. `capacities`: events kept, by resource[.group] or the bare plural.

    Attributes: revision, cachers (key prefix to Cacher), restarts. Errors of `reach` and `cacher`:
    429 while the feed begins anew, 503 when it ended, RuntimeError in another thread.
    """

    def __init__(self, store: Store, layout: KeyLayout, *, capacity: int = DEFAULT_CAPACITY,
                 capacities: dict[str, int] | None = None, policy: Policy = "incremental",
                 sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.store, self.layout, self.policy = store, layout, policy
        self.capacity, self.capacities = capacity, capacities or {}
        self.cachers: dict[bytes, Cacher] = {}
        self.revision = store.revision
        self.restarts = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._ticket = self._gave_up = 0
        self._watch: Any = None
        self._task: asyncio.Task[None] | None = None
        self._thread = 0
        self._down: Callable[[], status.ApiError] | None = _stopped
        self._sleep = sleep

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to follow the store; in the event loop's thread. Idempotent."""
        if self._task is None:
            self._thread = threading.get_ident()
            self._begin()
            self._task = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        """End all watches; idempotent."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._watch.cancel()
            self._fail(_stopped)

    def _begin(self) -> None:
        """A watch of the store from now on, and every cache as the store is now."""
        revision = self.store.revision
        watch = self.store.watch(prefix=f"{ROOT}/".encode(), start_revision=revision + 1)
        try:
            for cacher in self.cachers.values():
                self._fill(cacher, revision)
        except BaseException:
            watch.cancel()
            raise
        self._watch, self._down = watch, None
        self._arrived(revision)

    def _fill(self, cacher: Cacher, revision: int) -> None:
        rows = self.store.range(prefix=cacher.prefix, revision=revision)
        cacher.begin(((kv.key, kv.mod_revision, kv.value) for kv in rows), revision)

    async def _follow(self) -> None:
        """Until the store is closed; whatever else ends the watch, it begins anew."""
        pause = FIRST_PAUSE
        while True:
            try:
                if self._down is not None:
                    self._begin()
                    self.restarts += 1
                async for response in self._watch:
                    self._take(response.events, response.revision)
                    pause = FIRST_PAUSE
                    self._drain(BATCH)
                raise ClosedError("the store's watch was cancelled")
            except ClosedError as error:
                if self.store.closed or not self._watch.cancelled:
                    self._fail(partial(status.unavailable, str(error)))
                    return
                self._broke(error)
            except Exception as error:
                self._broke(error)
            await self._sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _broke(self, error: Exception) -> None:
        """Something ended the watch, or an event could not be taken in: `_follow` begins anew."""
        if self._down is None:
            _log.warning("the watch cache begins anew: %s", error, exc_info=error)
        self._watch.cancel()
        self._fail(_initializing)

    def _fail(self, why: Callable[[], status.ApiError]) -> None:
        """Tells all who wait; watchers are closed, and come back."""
        self._down = why
        waiting, self._waiting = self._waiting, []
        for _, _, future in waiting:
            if not future.done():
                future.set_exception(why())
        for cacher in self.cachers.values():
            cacher.close_all()

    # --- following ------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Takes what the store's watch holds, without waiting.

        Errors: those of the class. Cost: 1 us when nothing is there, 5 us an event.
        """
        self.usable()
        try:
            self._drain()
        except ClosedError as error:
            if not self._watch.cancelled:
                raise status.unavailable(str(error)) from None
            self._broke(error)
        except Exception as error:
            self._broke(error)
        self.usable()

    def _drain(self, most: int = 0) -> None:
        """What is there; up to some `most` events, 0: all."""
        taken = 0
        while True:
            batch = self._watch.get_batch(BATCH, 0)
            self._take(batch, batch.revision)
            taken += len(batch)
            if not len(batch) or (most and taken >= most):
                return

    def _take(self, events: Iterable[Event], revision: int) -> None:
        if self.cachers:
            find = self.cachers.get
            for event in events:
                kv = event.kv
                key = kv.key
                # /registry/<resource>/ of a core kind, else one part longer
                third = key.find(b"/", len(ROOT) + 1) + 1
                cacher = find(key[:third]) or find(key[:key.find(b"/", third) + 1])
                if cacher is not None:
                    cacher.apply(event, kv)
        if revision > self.revision:
            self._arrived(revision)

    def _arrived(self, revision: int) -> None:
        self.revision = revision
        waiting = self._waiting
        while waiting and waiting[0][0] <= revision:
            future = heapq.heappop(waiting)[2]
            if not future.done():
                future.set_result(None)

    # --- reading --------------------------------------------------------------------------------

    def usable(self) -> None:
        """Errors: those of the class, at once."""
        if threading.get_ident() != self._thread and self._thread:
            raise RuntimeError("an Api belongs to the event loop it was started in, and was "
                               "called from another thread")
        if self._down is not None:
            raise self._down()

    def cacher(self, resource: Resource) -> Cacher:
        """The cache of a resource; begun now if nobody asked before. Cost then: one read of all
        its objects, 3 us each."""
        self.usable()
        prefix = self.layout.prefix(resource)
        found = self.cachers.get(prefix)
        if found is None:
            found = Cacher(resource, prefix, self._capacity(resource), self.policy)
            self.catch_up()                   # the store may have compacted what is older
            self._fill(found, self.revision)
            self.cachers[prefix] = found
        return found

    def _capacity(self, resource: Resource) -> int:
        named = self.capacities.get(resource.qualified, self.capacities.get(resource.plural))
        return self.capacity if named is None else named

    async def reach(self, revision: int, *, mine: bool = False) -> None:
        """Until everything up to a revision is in the caches. Cost: nothing to wait for when the
        store is that far.

        Args: mine: the revision changed an object, so the feed hears of it by itself.
        Errors: 504 with cause ResourceVersionTooLarge after 3 seconds; those of the class.
        """
        if revision <= self.revision and self._down is None:
            return
        self.catch_up()
        if revision <= self.revision:
            return
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._ticket += 1
        heapq.heappush(self._waiting, (revision, self._ticket, future))
        timer = loop.call_later(FRESH_SECONDS, _give_up, future)
        try:
            if not mine:                      # other keys may take it: the feed must hear of them
                self._watch.progress()
            await future
        except TimeoutError:
            raise status.too_new(revision, self.revision) from None
        finally:
            timer.cancel()
            if revision > self.revision:
                self._forget()

    def _forget(self) -> None:
        """One more does not wait any longer for a revision that has not come: when half of them
        do not, they are left out."""
        self._gave_up += 1
        if 2 * self._gave_up > len(self._waiting):
            self._waiting = [one for one in self._waiting if not one[2].done()]
            heapq.heapify(self._waiting)
            self._gave_up = 0


def _stopped() -> status.ApiError:
    return status.unavailable(STOPPED)


def _initializing() -> status.ApiError:
    return status.too_many_requests(INITIALIZING)


def _give_up(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
