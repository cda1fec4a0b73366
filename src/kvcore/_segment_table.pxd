# SPDX-License-Identifier: Apache-2.0
"""The table of a log's segments, and when one that left it may go.  Contracts: the module."""

from libc.stdint cimport uint64_t

from kvcore._native cimport kv_load_u64
from kvcore._wal cimport Wal, WalEpoch, WalSegment

# Publishes s (NULL: a hole) as the next entry.  REQUIRES: the committer role.
cdef int table_push(Wal* w, WalSegment* s) noexcept nogil
# Segment `seq` is no more the log's, and leaves the table when nobody may look at it.  REQUIRES:
# the lock under which positions are looked up, and that none in it can be looked up any more.
# KV_OK, KV_NOMEM (nothing happened).
cdef int table_retire(Wal* w, uint64_t seq) noexcept nogil
# One retired segment that nobody may look at, now the caller's; NULL: there is none.
cdef WalSegment* table_take_drained(Wal* w) noexcept nogil
# Who looks up positions holds a pin from before that until it has read what they name.  NULL: no
# memory.
cdef WalEpoch* table_pin(Wal* w) noexcept nogil
cdef void table_unpin(Wal* w, WalEpoch* e) noexcept nogil
# `pin`, a Pin object of epoch e, is kept for the next reader: alone it keeps no segment.
cdef void table_keep_pin(Wal* w, void* pin, WalEpoch* e) noexcept nogil
# It goes: unpins, and is kept no more.
cdef void table_drop_pin(Wal* w, void* pin, WalEpoch* e) noexcept nogil
# Frees every segment and every table.  REQUIRES: no reader any more.
cdef void table_free(Wal* w) noexcept nogil
# How many entries there are, and each: for who is neither committer nor under epoch_lock.
cdef inline uint64_t table_count(const Wal* w) noexcept nogil:
    return kv_load_u64(&w.segment_count)
cdef inline WalSegment* table_at(const Wal* w, uint64_t i) noexcept nogil:
    cdef WalSegment** table = <WalSegment**>kv_load_u64(<const uint64_t*>&w.segments)
    return <WalSegment*>kv_load_u64(<const uint64_t*>&table[i])
# Bytes of the segments in it, whole.
cdef inline uint64_t table_bytes(const Wal* w) noexcept nogil:
    return (table_count(w) - kv_load_u64(&w.holes)) * w.segment_bytes
