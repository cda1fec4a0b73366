# SPDX-License-Identifier: Apache-2.0
"""LeaseModel: the naive store with leases on a clock that is moved by hand.

Which keys hang on a lease is not kept anywhere: a key hangs on the lease its newest version names.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import models

from kvcore import errors

MAX_TTL = 9_000_000_000


@dataclasses.dataclass
class LeaseGrant:
    ttl: int
    id: int = 0


@dataclasses.dataclass
class LeaseRevoke:
    id: int


@dataclasses.dataclass
class GrantResult:
    id: int
    ttl: int
    revision: int


@dataclasses.dataclass
class Term:
    """What a lease was granted, and when it ends."""

    ttl: int
    expiry: float


class LeaseModel(models.ModelStore):
    """A store whose puts may name leases; expiry happens in step()."""

    def __init__(self, *, min_lease_ttl: int = 2, **limits: Any) -> None:
        super().__init__(**limits)
        self.min_lease_ttl = min_lease_ttl
        self.now = 0.0
        self.terms: dict[int, Term] = {}

    def clone(self) -> LeaseModel:
        twin = LeaseModel(min_lease_ttl=self.min_lease_ttl, max_key_bytes=self.max_key_bytes,
                          max_txn_ops=self.max_txn_ops, max_request_bytes=self.max_request_bytes)
        twin.history = {key: list(changes) for key, changes in self.history.items()}
        twin.revision, twin.compacted, twin.now = self.revision, self.compacted, self.now
        twin.terms = {id: dataclasses.replace(term) for id, term in self.terms.items()}
        return twin

    # verbs

    def lease(self, ttl: int, id: int = 0) -> Lease:
        granted = self.do(LeaseGrant(ttl, id))
        return Lease(self, granted.id, granted.ttl)

    def lease_of(self, id: int) -> Lease:
        return Lease(self, id, self.terms[id].ttl if id in self.terms else 0)

    def leases(self) -> list[Lease]:
        return [self.lease_of(id) for _, id in sorted(self._queue())]

    def do(self, op: Any) -> Any:
        if isinstance(op, LeaseGrant):
            return self._grant(op.ttl, op.id)
        if isinstance(op, LeaseRevoke):
            return self._revoke(op.id)
        return super().do(op)

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def due(self) -> list[int]:
        """The leases to be revoked by now, in the order in which it must happen."""
        return [id for expiry, id in sorted(self._queue()) if expiry <= self.now]

    def step(self) -> bool:
        """Revokes what is due."""
        for id in self.due():
            self._revoke(id)
        return False

    def restart(self, now: float | None = None) -> None:
        """A reopened store gives every lease its full time again."""
        self.now = self.now if now is None else now
        for term in self.terms.values():
            term.expiry = self.now + term.ttl

    def keys_of(self, id: int) -> list[bytes]:
        live = self.live(models.Span(b"\0", b"\0"), self.revision)
        return [kv.key for kv in live if kv.lease == id]

    # parts

    def _queue(self) -> list[tuple[float, int]]:
        return [(term.expiry, id) for id, term in self.terms.items()]

    def _check_put_state(self, op: models.Put, in_txn: bool = False) -> None:
        known = op.lease in self.terms
        super()._check_put_state(dataclasses.replace(op, lease=0) if known else op, in_txn)

    def _grant(self, ttl: int, id: int) -> GrantResult:
        if ttl > MAX_TTL:
            raise errors.LeaseTTLTooLargeError()
        if id in self.terms:
            raise errors.LeaseExistsError()
        if id == 0:
            id = 1 + max([0, *self.terms])  # the store picks at random; tests name theirs
        ttl = max(ttl, self.min_lease_ttl)
        self.terms[id] = Term(ttl, self.now + ttl)
        return GrantResult(id, ttl, self.revision)

    def _revoke(self, id: int) -> models.DeleteResult:
        if id not in self.terms:
            raise errors.LeaseNotFoundError()
        keys = self.keys_of(id)
        for sub, key in enumerate(keys):
            gone = models.Change(self.revision + 1, sub, 0, 0, 0, None)
            self.history[key].append(gone)
        self.revision += bool(keys)
        del self.terms[id]
        return models.DeleteResult(self.revision, len(keys), [])


class Lease:
    """A handle of a lease of the model."""

    def __init__(self, store: LeaseModel, id: int, granted_ttl: int) -> None:
        self.store = store
        self.id = id
        self.granted_ttl = granted_ttl

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *error: object) -> None:
        if self.id in self.store.terms:
            self.revoke()

    def keepalive(self) -> int:
        """The TTL, from now on again; 0 when the lease is gone, which an expired one then is."""
        term = self.store.terms.get(self.id)
        if term is None:
            return 0
        if term.expiry <= self.store.now:
            self.revoke()
            return 0
        term.expiry = self.store.now + term.ttl
        return term.ttl

    def revoke(self) -> models.DeleteResult:
        return self.store.do(LeaseRevoke(self.id))

    def ttl(self) -> int:
        term = self.store.terms.get(self.id)
        return -1 if term is None else max(0, int(term.expiry - self.store.now))

    def keys(self) -> list[bytes]:
        return self.store.keys_of(self.id)
