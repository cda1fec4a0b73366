# SPDX-License-Identifier: Apache-2.0
"""The table of segments: who is in it, and when one that was taken out may go.

    table    [ (gone) | seg 2, retired | seg 3 | seg 4 ]  read without a lock
    epochs   e7 ─────────► e8 ─────────► e9              e9: now; a pin holds its epoch,
             └ seg 2       └ (nothing)                   an epoch the one after it
             goes when e7 has no pin: whoever pinned e7 or before may know a position in seg 2

A reader pins, then looks up a position, then reads it.  To retire a segment ends an epoch; later
pins cannot lead to it, since nothing names it any more.

Invariants
1. grows-only: an entry is set once, and cleared once when its segment may go; old tables stay, so
   that readers need no lock.
2. pinned: a retired segment is mapped until every pin of its epoch, and of older ones, is gone.
3. counted: an epoch's `pins` are the Pin objects of it, one of the epoch before it, and one of the
   log while it is the newest.

Thread safety: epoch_lock for epochs and what is retired; it is a leaf and held for a few pointers.
May not know: why a segment is retired, what becomes of it.
"""

from libc.errno cimport ENOMEM
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from kvcore._native cimport (KV_NOMEM, KV_OK, kv_assert, kv_fork_generation, kv_fork_watch,
                             kv_mutex_lock, kv_mutex_unlock, kv_store_u64)
from kvcore._segment cimport seg_free
from kvcore._wal cimport Wal, WalEpoch, WalSegment

kv_fork_watch()

cdef extern from *:
    """
    /* Without the interpreter's lock: see _drain_idle for why a count that changes is no matter. */
    __attribute__((noinline, no_sanitize("thread")))
    static int kv_has_other_owners(void *o) {
    #ifdef Py_GIL_DISABLED
        (void)o;
        return 1;                            /* counts are split among threads: cannot be told */
    #else
        return ((PyObject *)o)->ob_refcnt != 1;
    #endif
    }
    """
    bint kv_has_other_owners(void* o) noexcept nogil

cdef enum:
    FIRST_TABLE = 64                 # segments in the first table


# ---- epochs.  REQUIRES: epoch_lock ---------------------------------------------------------------

cdef WalEpoch* _newest(Wal* w) noexcept nogil:
    """The first one is made when it is asked for."""
    if w.epoch == NULL:
        w.epoch = <WalEpoch*>calloc(1, sizeof(WalEpoch))
        if w.epoch != NULL:
            w.epoch.pins = 1
    return w.epoch


cdef void _drain(Wal* w, WalEpoch* e) noexcept nogil:
    cdef WalSegment* s = e.retired
    if s != NULL:
        kv_store_u64(<uint64_t*>&w.segments[s.seq - w.first_seq], 0)
        kv_store_u64(&w.holes, w.holes + 1)
        s.next = w.drained
        w.drained = s
        e.retired = NULL


cdef void _drain_idle(Wal* w) noexcept nogil:
    """A pin that is only kept for the next reader keeps nothing.

    Whoever knew a position in what its epoch retired took its reference before that, under the
    lock of the look-up; one who takes it now looks up later, and is not led there."""
    cdef WalEpoch* e = w.idle_epoch
    if w.idle_pin == NULL or e.pins != 1 or kv_has_other_owners(w.idle_pin):
        return
    while e != NULL and e.pins == 1 and e != w.epoch:
        _drain(w, e)
        e = e.next


cdef void _unpin(Wal* w, WalEpoch* e) noexcept nogil:
    """The last pin of the oldest epoch lets its segment go, and its pin of the next."""
    cdef WalEpoch* following
    e.pins -= 1
    while e.pins == 0:
        following = e.next
        kv_assert(following != NULL, "the newest epoch is the log's")
        _drain(w, e)
        free(e)
        e = following
        e.pins -= 1


# ---- C face --------------------------------------------------------------------------------------

cdef WalEpoch* table_pin(Wal* w) noexcept nogil:
    cdef WalEpoch* e
    kv_mutex_lock(&w.epoch_lock)
    e = _newest(w)
    if e != NULL:
        e.pins += 1
    kv_mutex_unlock(&w.epoch_lock)
    return e


cdef void table_unpin(Wal* w, WalEpoch* e) noexcept nogil:
    kv_mutex_lock(&w.epoch_lock)
    _unpin(w, e)
    kv_mutex_unlock(&w.epoch_lock)


cdef void table_keep_pin(Wal* w, void* pin, WalEpoch* e) noexcept nogil:
    kv_mutex_lock(&w.epoch_lock)
    w.idle_pin = pin
    w.idle_epoch = e
    kv_mutex_unlock(&w.epoch_lock)


cdef void table_drop_pin(Wal* w, void* pin, WalEpoch* e) noexcept nogil:
    kv_mutex_lock(&w.epoch_lock)
    if w.idle_pin == pin:
        w.idle_pin = NULL
    _unpin(w, e)
    kv_mutex_unlock(&w.epoch_lock)


cdef int table_retire(Wal* w, uint64_t seq) noexcept nogil:
    cdef uint64_t i = seq - w.first_seq
    cdef WalEpoch* following = <WalEpoch*>calloc(1, sizeof(WalEpoch))
    cdef WalEpoch* e
    if following == NULL:
        return KV_NOMEM
    kv_mutex_lock(&w.epoch_lock)
    kv_assert(i + 1 < w.segment_count and w.segments[i] != NULL, "a closed segment is retired")
    e = _newest(w)
    if e == NULL:
        kv_mutex_unlock(&w.epoch_lock)
        free(following)
        return KV_NOMEM
    e.retired = w.segments[i]
    e.next = following
    following.number = e.number + 1
    following.pins = 2                       # the log's, and of the epoch before
    kv_store_u64(&w.retired_bytes, w.retired_bytes + e.retired.map_bytes)
    e.retired.retired = True
    w.epoch = following
    kv_store_u64(&w.epoch_number, w.epoch_number + 1)
    _unpin(w, e)
    kv_mutex_unlock(&w.epoch_lock)
    return KV_OK


cdef WalSegment* table_take_drained(Wal* w) noexcept nogil:
    cdef WalSegment* s
    kv_mutex_lock(&w.epoch_lock)
    _drain_idle(w)
    s = w.drained
    if s != NULL:
        w.drained = s.next
        s.next = NULL
        kv_store_u64(&w.retired_bytes, w.retired_bytes - s.map_bytes)
    kv_mutex_unlock(&w.epoch_lock)
    return s


cdef int table_push(Wal* w, WalSegment* s) noexcept nogil:
    # The slot behind the last one of a table keeps the table before it, half as long.
    cdef WalSegment** table
    cdef uint64_t cap = w.table_cap * 2 if w.table_cap else FIRST_TABLE
    kv_mutex_lock(&w.epoch_lock)             # an entry may be cleared meanwhile
    if w.segment_count == w.table_cap:
        table = <WalSegment**>calloc(cap + 1, sizeof(WalSegment*))
        if table == NULL:
            kv_mutex_unlock(&w.epoch_lock)
            return -ENOMEM
        if w.segment_count:
            memcpy(table, w.segments, w.segment_count * sizeof(WalSegment*))
        table[cap] = <WalSegment*>w.segments
        kv_store_u64(<uint64_t*>&w.segments, <uint64_t>table)
        w.table_cap = cap
    if s == NULL:
        kv_store_u64(&w.holes, w.holes + 1)
    kv_store_u64(<uint64_t*>&w.segments[w.segment_count], <uint64_t>s)
    kv_store_u64(&w.segment_count, w.segment_count + 1)
    kv_mutex_unlock(&w.epoch_lock)
    return 0


cdef void table_free(Wal* w) noexcept nogil:
    cdef WalSegment** older
    cdef WalEpoch* e = w.epoch
    cdef WalSegment* s
    cdef uint64_t i
    if e != NULL:                            # without pins it is the only one
        kv_assert(e.pins == 1 or w.fork_generation != kv_fork_generation(), "no reader any more")
        free(e)                              # in a forked child the parent's pins stay: lost
        w.epoch = NULL
    while w.drained != NULL:
        s = w.drained
        w.drained = s.next
        seg_free(w.io, s, w.in_memory)
    for i in range(w.segment_count):
        seg_free(w.io, w.segments[i], w.in_memory)
    w.segment_count = 0
    while w.segments != NULL:
        older = <WalSegment**>w.segments[w.table_cap]
        free(w.segments)
        w.segments = older
        w.table_cap //= 2
