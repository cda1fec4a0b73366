# SPDX-License-Identifier: Apache-2.0
"""A watch as Python sees it."""

from libc.stdint cimport int64_t, uint64_t

from kvcore._commit cimport Commit
from kvcore._event cimport EventCache
from kvcore._native cimport KvSlice, KvVersion
from kvcore._ring cimport RingRecord
from kvcore._pin cimport Pin, Pins
from kvcore._rows cimport KvRows, Rows
from kvcore._watchers cimport Taken, Watcher


cdef class Watch:
    cdef object owner            # the store: keeps c alive
    cdef Commit* c
    cdef Pins pins
    cdef EventCache cache
    cdef int fork_generation
    cdef bint prev_kv
    cdef int64_t begins          # the first revision it is about
    cdef readonly bytes key
    cdef readonly bytes end      # None: one key; b"\0": no upper bound
    cdef bytes _after            # the first key behind a single one
    cdef KvSlice first           # the span as the index has it
    cdef KvSlice last
    # guarded by the store's lock
    cdef Watcher w
    cdef bint cancelled_
    cdef bint compacted          # and stays so
    cdef int64_t compacted_at
    cdef KvRows fresh            # of a pass that is through, until they are Python's
    cdef int64_t fresh_from
    cdef int64_t fresh_upto
    cdef uint64_t fresh_epoch    # the log's, when the pass began
    cdef Rows history            # what a pass over history found
    cdef uint64_t history_at
    cdef int64_t history_upto
    cdef uint64_t history_epoch  # its rows are good as long as no segment was retired since
    cdef int _alive(self) except -1
    cdef int _lock(self) except -1
    cdef int _look(self, uint64_t limit, Taken* out, bint with_gil) noexcept nogil
    cdef void _take_history(self, uint64_t limit, Taken* out) noexcept nogil
    cdef int _pass(self, uint64_t limit) noexcept nogil
    cdef int _wait(self, uint64_t limit, uint64_t ns, Taken* out) noexcept nogil
    cdef int _install(self) except -1
    cdef int _abandon(self) except -1
    cdef int _fetch(self, uint64_t limit, uint64_t ns, Taken* out) except -2
    cdef void _done(self, Taken* t)
    cdef int _fail(self, int status) except -1
    cdef object _response(self, Taken* t)
    cdef object _batch(self, Taken* t)
    cdef KvVersion* _before(self, Taken* t, Rows rows) except? NULL
    cdef int _keep(self, Taken* out, Pin pin) except -1
    cdef int _find_before(self, const RingRecord* recs, const KvSlice* keys, uint64_t n,
                          KvVersion* found) except -1
    cdef void _give_back(self, int64_t mod) noexcept
    cdef object _next_response(self)
    cdef object _get(self, uint64_t limit, object timeout, bint batch)


cdef Watch make_watch(object owner, Commit* c, Pins pins, EventCache cache, bytes key, bytes end,
                      int64_t start, bint prev_kv, int flags)
