# SPDX-License-Identifier: Apache-2.0
"""Lease: a handle for a lease of a store; keys attached to it go when it ends.

    db.lease(10) ─► db.put(key, value, lease=lease.id) ─► keepalive() ... ─► revoke or expiry

Thread safety: every method. May not know: how a store keeps its leases.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from kvcore._operation import LeaseRevoke
from kvcore.errors import LeaseNotFoundError

if TYPE_CHECKING:
    from kvcore._engine import Engine
    from kvcore._result import DeleteResult

__all__ = ["Lease"]


class Lease:
    """A lease by its id; made by Store.lease(), Store.leases() and Store.lease_of().

    As a context manager it is revoked at the end.

    >>> import kvcore
    >>> db = kvcore.open()
    >>> with db.lease(60) as lease:
    ...     _ = db.put(b"/lock", b"me", lease=lease.id)
    ...     lease.keys(), lease.granted_ttl
    ([b'/lock'], 60)
    >>> db.get(b"/lock") is None
    True
    """

    __slots__ = ("_db", "_granted", "id")

    def __init__(self, db: Engine, id: int, granted: int = 0) -> None:
        self._db = db
        self._granted = granted
        self.id = id
        """int64, not 0."""

    @property
    def granted_ttl(self) -> int:
        """Seconds granted; 0 when it is the handle of a lease that never was."""
        if not self._granted:
            found = self._db._lease_look(self.id)
            self._granted = found[0] if found else 0
        return self._granted

    def keepalive(self) -> int:
        """Begin the full TTL again. Returns: its seconds; 0 when the lease has ended.

        Not logged: a reopened store begins every TTL anew. Cost: about 1 us. Source: etcd
        LeaseKeepAlive, which also waits for the revoke of a lease that expired.
        """
        ttl = self._db._lease_renew(self.id)
        if ttl < 0:
            try:
                self._db._call(LeaseRevoke(self.id))
            except LeaseNotFoundError:      # it was revoked meanwhile
                return 0
        return max(ttl, 0)

    def revoke(self) -> DeleteResult:
        """End the lease and delete its keys, in one revision, in the order of the keys.

        Errors: LeaseNotFoundError.
        """
        answer: DeleteResult = self._db._call(LeaseRevoke(self.id))
        return answer

    def ttl(self) -> int:
        """Whole seconds left; -1 when the lease is gone. Source: etcd LeaseTimeToLive."""
        found = self._db._lease_look(self.id)
        return found[1] if found else -1

    def keys(self) -> list[bytes]:
        """The keys attached, in order."""
        found = self._db._lease_look(self.id)
        return found[2] if found else []

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._db._lease_look(self.id) is not None:
            try:
                self.revoke()
            except LeaseNotFoundError:      # it expired at this very moment
                return

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Lease) and self._db is other._db and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a lease cannot be pickled; pickle its id, and call Store.lease_of(id)")

    def __repr__(self) -> str:
        return f"<kvcore.Lease id={self.id}>"
