# SPDX-License-Identifier: Apache-2.0
"""What is written ahead of the log's tail.  Contracts: here and in the module."""

from libc.stdint cimport uint64_t

from kvcore._wal cimport Wal, WalSegment

# The next segment: the spare as far as it got, else a file of the pool or a new one whose blocks
# are only reserved.  0 or -errno.  REQUIRES: spare_lock
cdef int ahead_next(Wal* w, uint64_t seq, WalSegment** out) noexcept nogil
# Forgets the spare.  REQUIRES: spare_lock, or nobody else
cdef void ahead_drop(Wal* w) noexcept nogil
# One out of the pool.  REQUIRES: spare_lock, or nobody else; one is there
cdef WalSegment* ahead_take(Wal* w) noexcept nogil
# Writes blocks ahead of the tail, makes the next segment ready; True when there is more to do.
cdef bint ahead_step(Wal* w, uint64_t budget_bytes, int* status) noexcept nogil
# A retired segment that nobody may look at any more is written again, or its file removed, or its
# memory given back.
cdef int ahead_release(Wal* w, WalSegment* s) noexcept nogil
cdef void ahead_keep(Wal* w, WalSegment* s) noexcept nogil       # into the pool
