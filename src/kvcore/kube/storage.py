# SPDX-License-Identifier: Apache-2.0
"""Objects in the store: put if absent, put if unchanged, delete if unchanged; and trying again.

    create   txn( mod_revision(key) == 0  ? put )           exists -> Exists
    replace  txn( mod_revision(key) == r  ? put )           other  -> Changed(what lies there)
    remove   txn( mod_revision(key) == r  ? delete )        other  -> Changed

Each is one transaction, tried three times: only after errors that may pass (`transient`), with
pauses that double and jitter. An answer that was lost may have been a success: a create recognises
its own object by uid, a replacement by its bytes, a removal by the key's being gone. Upstream does
not try a create again; this is kvcore's own rule, safe because nothing is tried that could happen
twice.

    EventLease.take ──> the lease that events written within a minute share: they go together

Thread safety: any event loop. Source: apiserver storage/etcd3 (store.go, lease_manager.go).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from kvcore import Compare, Delete, KeyValue, LeaseGrant, Put, Range, Store, Txn, TxnResult
from kvcore.errors import OutcomeUnknownError, OutOfMemoryError, PoisonedError, StorageError
from kvcore.kube.codec import object_of

__all__ = ["Changed", "EventLease", "Exists", "ObjectStore", "Retry"]


class Exists(Exception):
    """The key is taken; `there`: by what."""

    def __init__(self, there: KeyValue) -> None:
        super().__init__("exists")
        self.there = there


class Changed(Exception):
    """The object is not the one that was read; `now`: what is there, None: nothing."""

    def __init__(self, now: KeyValue | None) -> None:
        super().__init__("changed")
        self.now = now


@dataclass(frozen=True)
class Retry:
    """How often and after which pauses: `first` seconds, doubled each time, each lengthened by up
    to `jitter` of itself."""

    attempts: int = 3
    first: float = 0.1
    jitter: float = 0.5

    def pause(self, attempt: int, rng: random.Random) -> float:
        return self.first * (1 << attempt) * (1 + self.jitter * rng.random())


def transient(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, PoisonedError):
        return False
    return isinstance(error, (OutcomeUnknownError, OutOfMemoryError, StorageError))


class ObjectStore:
    """See the module. `sleep`, `rng`: for tests. All operations go through `submit`; `observe` is
    told of each attempt of those three: its name, the key, seconds."""

    def __init__(self, store: Store, retry: Retry | None = None, *,
                 sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
                 rng: random.Random | None = None,
                 observe: Callable[[str, bytes, float], None] | None = None) -> None:
        self.store, self.retry, self._observe = store, retry or Retry(), observe
        self.retried = 0
        self._sleep, self._rng = sleep, rng or random.Random()

    async def submit(self, op: Any) -> Any:
        """One operation of the store, with others in one sync. Errors: the store's."""
        return await self.store.submit(op)

    async def create(self, key: bytes, stored: bytes, uid: str, lease: int = 0) -> int:
        """Put where nothing is. Returns: the revision. Errors: Exists, the store's."""
        op = Txn([Compare.mod_revision(key) == 0], [Put(key, stored, lease=lease)], [Range(key)])
        done, again = await self._try(op, "create", key)
        if done.succeeded:
            return int(done.revision)
        there: KeyValue = done.responses[0][0]
        if again and object_of(there.value)["metadata"].get("uid") == uid:
            return there.mod_revision          # an earlier attempt's answer was lost
        raise Exists(there)

    async def replace(self, key: bytes, stored: bytes, revision: int, lease: int = 0) -> int:
        """Put where the object is of that mod_revision. Errors: Changed, the store's."""
        op = Txn([Compare.mod_revision(key) == revision], [Put(key, stored, lease=lease)],
                 [Range(key)])
        done, again = await self._try(op, "update", key)
        if done.succeeded:
            return int(done.revision)
        now = done.responses[0][0] if done.responses[0] else None
        if again and now is not None and now.value == stored:
            return int(now.mod_revision)
        raise Changed(now)

    async def remove(self, key: bytes, revision: int) -> int:
        """Delete the object of that mod_revision. Errors: Changed, the store's."""
        op = Txn([Compare.mod_revision(key) == revision], [Delete(key)], [Range(key)])
        done, again = await self._try(op, "delete", key)
        if done.succeeded:
            return int(done.revision)
        now = done.responses[0][0] if done.responses[0] else None
        if again and now is None:
            return int(done.revision)          # ours went through, or another's did: it is gone
        raise Changed(now)

    async def _try(self, op: Txn, name: str, key: bytes) -> tuple[TxnResult, bool]:
        """The outcome, and whether there was an attempt before whose outcome is not known."""
        attempt = 0
        while True:
            before = perf_counter()
            try:
                done: TxnResult = await self.submit(op)
                return done, attempt > 0
            except Exception as error:
                failed = error
            finally:
                if self._observe is not None:
                    self._observe(name, key, perf_counter() - before)
            await self._pause(failed, attempt)
            attempt += 1

    async def _pause(self, error: Exception, attempt: int) -> None:
        """Waits before the next attempt, or raises the error when there is none."""
        if not transient(error) or attempt + 1 >= self.retry.attempts:
            raise error
        self.retried += 1
        await self._sleep(self.retry.pause(attempt, self._rng))


class EventLease:
    """Leases of `ttl` seconds and up to a minute more, each shared by what is written within that
    minute, by at most 1,000 objects."""

    SHARED_SECONDS, SHARED_OBJECTS = 60, 1000

    def __init__(self, store: Store, clock: Callable[[], float], ttl: int = 3600) -> None:
        self.store, self.ttl, self._clock = store, ttl, clock
        self._until = 0.0                      # an object written by then lives `ttl` seconds
        self._left = 0
        self._grant: asyncio.Task[int] | None = None

    async def take(self) -> int:
        """The id of a lease for one more object. Those who ask while it is granted share it."""
        if self._left <= 0 or self._clock() >= self._until or self._failed():
            extra = min(self.SHARED_SECONDS, self.ttl // 20)
            self._until, self._left = self._clock() + extra, self.SHARED_OBJECTS
            self._grant = asyncio.get_running_loop().create_task(self._new(self.ttl + extra))
        self._left -= 1
        assert self._grant is not None
        return await asyncio.shield(self._grant)

    def _failed(self) -> bool:
        grant = self._grant
        return grant is not None and grant.done() and (
            grant.cancelled() or grant.exception() is not None)

    async def _new(self, seconds: int) -> int:
        return int((await self.store.submit(LeaseGrant(seconds))).id)
