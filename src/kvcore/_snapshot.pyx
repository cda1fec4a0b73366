# SPDX-License-Identifier: Apache-2.0
"""Snapshot: the store as it was at one revision, read without the lock.

    snapshot() ─ O(1) ─► pinned while a read is under way ─► released: the index lets its nodes go

Thread safety: every method; a release() that comes during a read is carried out by the last reader.
Ownership: keeps its store's object alive, and what it shows in the index.
May not know: commands, the queue.
"""

cimport cython
from libc.stdint cimport int64_t

from kvcore._btree cimport BtSnapshot, bt_find_at, bt_release
from kvcore._command cimport RangeCmd
from kvcore._commit cimport Commit
from kvcore._engine cimport fill_range, not_bytes, slice_of
from kvcore._maintenance cimport maint_wake
from kvcore._native cimport (KV_COMPACTED, KV_FUTURE_REV, KV_NOTFOUND, KV_OK, KvVersion,
                             kv_cond_signal, kv_fork_generation, kv_mutex_lock,
                             kv_mutex_lock_gil, kv_mutex_unlock, kv_raise)
from kvcore._operation cimport Range, as_int
from kvcore._range cimport KvReader, answer_range
from kvcore._result cimport KvResult, make_answer, make_kv, result_free, result_init

from kvcore.errors import ClosedError, EmptyKeyError
from kvcore.mapping import SnapshotMapping


@cython.final
cdef class Snapshot:
    """A store as it was at `revision`; get, range, count. Thread-safe. Release it when done."""

    def __init__(self):
        raise TypeError("Snapshot objects come from Store.snapshot")

    cdef Pin _begin(self, KvReader* r):
        """Keeps the index from being freed by close() while it is read without the lock; the
        result's pin."""
        cdef Pin pin
        if self.engine is None:
            raise TypeError("Snapshot objects come from Store.snapshot")
        self.engine._enter()
        if self.snap == NULL or self.dropped:
            self.engine._leave()
            raise ClosedError("kvcore: the snapshot was released")
        self.engine.c.readers += 1
        self.readers += 1
        r.view = self.snap.view
        pin = self.pin
        self.engine._leave()
        r.wal = &self.engine.log.c
        r.revision = self.revision
        r.shown_revision = self.revision
        r.compact_revision = self.compact_revision
        return pin

    cdef void _end(self) noexcept:
        """A release() that came meanwhile is carried out by the last reader."""
        cdef Commit* c = &self.engine.c
        with nogil:
            kv_mutex_lock(&c.lock)
            self.readers -= 1
            if self.dropped and self.readers == 0:
                bt_release(&c.state.tree, self.snap)
                self.snap = NULL
            c.readers -= 1
            if c.readers == 0:
                kv_cond_signal(&c.readers_gone)
            kv_mutex_unlock(&c.lock)

    def get(self, key, revision=None):
        """The KeyValue of `key` in the snapshot, or at a revision before it; or None."""
        cdef KvReader r
        cdef KvVersion v
        cdef Pin pin
        cdef int64_t at = 0 if revision is None else as_int(revision)
        cdef int rc = KV_OK
        if type(key) is not bytes:
            not_bytes(key, "key")
        if not key:
            raise EmptyKeyError()
        pin = self._begin(&r)
        if at > r.revision:
            rc = KV_FUTURE_REV
        elif 0 < at < r.compact_revision:
            rc = KV_COMPACTED
        elif at >= r.revision or at < 0:
            at = 0
        if rc == KV_OK:
            rc = bt_find_at(&r.view, slice_of(<bytes>key), at, &v)
        self._end()
        if rc == KV_NOTFOUND:
            return None
        kv_raise(rc, r.compact_revision if rc == KV_COMPACTED else None)
        return make_kv(<bytes>key, &v, pin)

    def range(self, start=None, end=None, **options):
        """As Store.range, on the snapshot."""
        cdef Range op = Range(start, end, **options)
        cdef RangeCmd q = op.spec
        cdef KvReader r
        cdef KvResult res
        cdef Pin pin
        fill_range(&q, op.key, op.end)
        pin = self._begin(&r)
        result_init(&res)
        try:
            with nogil:
                res.status = answer_range(&r, &q, &res)
        finally:
            self._end()
        try:
            kv_raise(res.status, res.detail if res.status == KV_COMPACTED else None)
            return make_answer(&res, pin)
        finally:
            result_free(&res)

    def count(self, start=None, end=None, *, prefix=None):
        """How many live keys, in O(log n)."""
        return self.range(start, end, prefix=prefix, count_only=True).count

    def mapping(self, prefix=b"", **codecs):
        """The keys below a prefix as a read-only mapping; arguments as Store.mapping."""
        return SnapshotMapping(self, prefix, **codecs)

    def release(self):
        """Let go of what only the snapshot shows. Idempotent."""
        cdef Commit* c = &self.engine.c
        cdef BtSnapshot* snap = NULL
        cdef Pin _pin
        if self.engine.fork_generation != kv_fork_generation():
            return
        kv_mutex_lock_gil(&c.lock)
        self.dropped = True
        if self.readers == 0:
            snap = self.snap
            self.snap = NULL
            if snap != NULL and not c.closed:
                bt_release(&c.state.tree, snap)
        _pin = self.pin                      # dropped behind the lock; readers have their own
        self.pin = None
        kv_mutex_unlock(&c.lock)
        if snap != NULL:
            maint_wake(c)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.release()

    def __del__(self):
        if self.engine is not None:
            self.release()

    def __reduce__(self):
        raise TypeError("a snapshot cannot be pickled; take one where it is needed, or pickle "
                        "list(snapshot.range())")

    def __repr__(self):
        return f"<Snapshot at revision {self.revision}{' (released)' if self.dropped else ''}>"
