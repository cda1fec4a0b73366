# SPDX-License-Identifier: Apache-2.0
"""The hot path as an extension type: Engine, the base of kvcore.Store."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kvcore._btree cimport BtSnapshot
from kvcore._command cimport Limits, RangeCmd
from kvcore._commit cimport CachedSnapshot, Commit, Request
from kvcore._event cimport EventCache
from kvcore._native cimport Clock, KvSlice, KvVersion
from kvcore._pin cimport Pin, Pins
from kvcore._range cimport KvReader
from kvcore._result cimport KvResult
from kvcore._wal cimport Log


cdef class Engine:
    cdef Commit c
    cdef Limits limits
    cdef Log log
    cdef Pins pins
    cdef Clock clock
    cdef EventCache events       # shared by the watches
    cdef int fork_generation
    cdef bint opened             # c is initialised and not yet shut
    cdef readonly object recovery            # what the open found: _recovery.RecoveryReport
    cdef readonly list damaged_checkpoints   # passed over by the open: (path, offset, reason)
    cdef object __weakref__
    cdef int _alive(self) except -1
    cdef int _admit(self) except -1
    cdef int _set_alarms(self, int64_t alarms) except -1
    cdef Pin _pin(self)
    cdef int _enter(self) except -1
    cdef int _enter_any(self) except -1
    cdef void _leave(self) noexcept
    cdef int _run(self, Request* r) except -1
    cdef int _turn(self) except -1
    cdef Request* _request(self, bint is_async) except NULL
    cdef int _range(self, const RangeCmd* q, KvResult* out) except -1
    cdef int _read_txn(self, const uint8_t* p, uint64_t n, Request* r) except -1
    cdef int _find_many(self, const KvSlice* keys, uint64_t n, int64_t at, KvVersion* found,
                        int* status) except -1
    cdef int _done_reading(self, CachedSnapshot* kept, BtSnapshot* snap) except -1
    cdef int _range_unlocked(self, const RangeCmd* q, BtSnapshot* snap, KvReader* r,
                             KvResult* out) except -1


# Helpers of the verbs, also for Snapshot.
cdef int not_bytes(object what, str name) except -1      # raises TypeError
cdef KvSlice slice_of(bytes b) noexcept
cdef int fill_range(RangeCmd* q, bytes key, object end) except -1
