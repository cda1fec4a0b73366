# SPDX-License-Identifier: Apache-2.0
"""Objects in the store: put if absent, put if unchanged, delete if unchanged; and trying again.

    create   txn( mod_revision(key) == 0  ? put )           exists -> Exists
    replace  txn( mod_revision(key) == r  ? put )           other  -> Changed(what lies there)
    remove   txn( mod_revision(key) == r  ? delete )        other  -> Changed

Each is one transaction, tried three times: only after errors that may pass (`TRANSIENT`), with
pauses that double and jitter. An answer that was lost may have been a success: a create recognises
its own object by uid, a replacement by its bytes. Upstream does not try a create again; this is
kvcore's own rule (the article's, made safe).
Thread safety: any event loop. Source of the transactions: apiserver storage/etcd3/store.go.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kvcore import Compare, Delete, KeyValue, Put, Range, Store, Txn
from kvcore.errors import OutcomeUnknownError, OutOfMemoryError, PoisonedError, StorageError
from kvcore.kube.codec import object_of

__all__ = ["Changed", "Exists", "ObjectStore", "Retry"]


class Exists(Exception):
    """The key is taken."""


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
    """See the module. `sleep`, `rng`: for tests."""

    def __init__(self, store: Store, retry: Retry | None = None, *,
                 sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
                 rng: random.Random | None = None) -> None:
        self.store, self.retry = store, retry or Retry()
        self.retried = 0
        self._sleep, self._rng = sleep, rng or random.Random()

    async def create(self, key: bytes, stored: bytes, uid: str, lease: int = 0) -> int:
        """Put where nothing is. Returns: the revision. Errors: Exists, the store's."""
        op = Txn([Compare.mod_revision(key) == 0], [Put(key, stored, lease=lease)], [Range(key)])
        for attempt in range(self.retry.attempts):
            try:
                done = await self.store.submit(op)
            except Exception as error:
                await self._pause(error, attempt)
                continue
            if done.succeeded:
                return int(done.revision)
            there: KeyValue = done.responses[0][0]
            if attempt and object_of(there.value)["metadata"].get("uid") == uid:
                return there.mod_revision          # an earlier attempt's answer was lost
            raise Exists
        raise AssertionError("the last attempt raises")

    async def replace(self, key: bytes, stored: bytes, revision: int, lease: int = 0) -> int:
        """Put where the object is of that mod_revision. Errors: Changed, the store's."""
        op = Txn([Compare.mod_revision(key) == revision], [Put(key, stored, lease=lease)],
                 [Range(key)])
        for attempt in range(self.retry.attempts):
            try:
                done = await self.store.submit(op)
            except Exception as error:
                await self._pause(error, attempt)
                continue
            if done.succeeded:
                return int(done.revision)
            now = done.responses[0][0] if done.responses[0] else None
            if attempt and now is not None and now.value == stored:
                return int(now.mod_revision)
            raise Changed(now)
        raise AssertionError("the last attempt raises")

    async def remove(self, key: bytes, revision: int) -> int:
        """Delete the object of that mod_revision. Errors: Changed, the store's."""
        op = Txn([Compare.mod_revision(key) == revision], [Delete(key)], [Range(key)])
        for attempt in range(self.retry.attempts):
            try:
                done = await self.store.submit(op)
            except Exception as error:
                await self._pause(error, attempt)
                continue
            if done.succeeded:
                return int(done.revision)
            now = done.responses[0][0] if done.responses[0] else None
            if attempt and now is None:
                return int(done.revision)          # ours went through: nobody else knew of a retry
            raise Changed(now)
        raise AssertionError("the last attempt raises")

    async def _pause(self, error: Exception, attempt: int) -> None:
        """Waits before the next attempt, or raises the error when there is none."""
        if not transient(error) or attempt + 1 >= self.retry.attempts:
            raise error
        self.retried += 1
        await self._sleep(self.retry.pause(attempt, self._rng))
