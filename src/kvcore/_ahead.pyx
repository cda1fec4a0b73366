# SPDX-License-Identifier: Apache-2.0
"""What is written ahead of the tail: zeroed blocks, the next segment, and files kept for it.

    current:  | batches |....4 MiB of zeros....|  reserved
    spare:    made when the tail is past the middle: from the pool, else a new file, zeroed
    pool:     retired files, under their old names, whose blocks are written already

A sync of blocks never written pays for their allocation (1.7 x); so does a batch whose segment is
not there yet.  Invariants: (no-collision) blocks below written_upto are never zeroed again;
(takes-over) a file of the pool loses its old name for good before its old header is overwritten.
Thread safety: spare_lock for spare and pool, before zero_lock for blocks of the current segment.
May not know: batches, who commits.  Format: docs/log-format.md, "Written ahead".
"""

from libc.errno cimport ENOMEM, ENOSPC
from libc.stdint cimport uint64_t
from libc.stdio cimport snprintf

from kvcore._native cimport (
    KV_IO, KV_NO_SPACE, KV_OK, kv_assert, kv_fork_generation, kv_fork_watch, kv_load_int,
    kv_load_u64, kv_mutex_lock, kv_mutex_unlock, kv_store_int, kv_store_u64,
)
from kvcore._segment cimport (seg_complete, seg_create, seg_create_memory, seg_free, seg_recycle,
                              seg_zero)
from kvcore._wal cimport Wal, WalSegment, wal_current, wal_may_write

kv_fork_watch()

cdef enum:
    AHEAD_BYTES = 4 * 1024 * 1024    # blocks written ahead of the tail, in steps of
    AHEAD_STEP = 1024 * 1024
    CHUNK_BYTES = 256 * 1024         # zeroed under one hold of a lock
    PATH_BYTES = 4096
    SPARE_SYNC_BYTES = 4 * 1024 * 1024


# ---- the next segment.  REQUIRES: spare_lock -----------------------------------------------------

cdef void _segment_name(const Wal* w, uint64_t seq, bint tmp, char* out) noexcept nogil:
    snprintf(out, PATH_BYTES, b"%s/wal-%016llu.seg%s", w.directory, <unsigned long long>seq,
             <const char*>b".tmp" if tmp else <const char*>b"")


cdef WalSegment* ahead_take(Wal* w) noexcept nogil:
    # REQUIRES: spare_lock, a segment in the pool
    cdef WalSegment* s = w.pool
    w.pool = s.next
    s.next = NULL
    w.pool_count -= 1
    return s


cdef int _spare_begin(Wal* w, uint64_t seq) noexcept nogil:
    # REQUIRES: spare_lock
    cdef char[PATH_BYTES] tmp
    cdef char[PATH_BYTES] path
    cdef WalSegment* s
    cdef int rc
    _segment_name(w, seq, True, tmp)
    w.spare_ready = False
    while w.pool != NULL:
        s = ahead_take(w)
        _segment_name(w, s.seq, False, path)
        if seg_recycle(w.io, s, w.directory, path, tmp, seq, w.segment_bytes) == 0:
            w.spare = s
            kv_store_int(&w.no_space, 0)
            return 0
        seg_free(w.io, s, False)             # it was only a gain: another file does it too
        w.io.unlink(w.io.ctx, path)
    rc = seg_create(w.io, tmp, seq, w.segment_bytes, &w.spare)
    kv_store_int(&w.no_space, rc == -ENOSPC)
    return rc


cdef int _spare_complete(Wal* w) noexcept nogil:
    # REQUIRES: spare_lock, a spare
    cdef char[PATH_BYTES] tmp
    cdef char[PATH_BYTES] path
    cdef int rc
    _segment_name(w, w.spare.seq, True, tmp)
    _segment_name(w, w.spare.seq, False, path)
    rc = seg_complete(w.io, w.spare, w.directory, tmp, path, w.segment_bytes)
    w.spare_ready = rc == 0
    return rc


cdef void ahead_drop(Wal* w) noexcept nogil:
    # REQUIRES: spare_lock
    cdef char[PATH_BYTES] tmp
    if w.spare != NULL:
        # in a child of fork the file is the parent's, who goes on with it
        if not w.spare_ready and w.fork_generation == kv_fork_generation():
            _segment_name(w, w.spare.seq, True, tmp)
            w.io.unlink(w.io.ctx, tmp)
        seg_free(w.io, w.spare, w.in_memory)
    w.spare = NULL
    w.spare_ready = False


cdef int ahead_next(Wal* w, uint64_t seq, WalSegment** out) noexcept nogil:
    # The spare as far as it got, or a new file whose blocks are only reserved.
    # REQUIRES: spare_lock
    cdef int rc = 0
    if w.in_memory:
        out[0] = seg_create_memory(seq, w.segment_bytes)
        return 0 if out[0] != NULL else -ENOMEM
    if w.spare == NULL:
        rc = _spare_begin(w, seq)
    if rc == 0 and not w.spare_ready:
        rc = _spare_complete(w)
    if rc == 0:
        kv_assert(w.spare.seq == seq and not w.spare.retired, "the spare is the next segment")
        out[0] = w.spare
        w.spare = NULL
        w.spare_ready = False
    else:
        ahead_drop(w)
    return rc


# ---- the step, and what is kept ------------------------------------------------------------------

cdef int _zero_ahead(Wal* w, uint64_t* budget, bint* more) noexcept nogil:
    # The lock is held over one chunk, so an appender that outruns the zeroes waits for one at most.
    cdef WalSegment* s
    cdef uint64_t target, upto
    cdef int rc = 0
    more[0] = True
    while rc == 0 and budget[0] > 0 and more[0]:
        kv_mutex_lock(&w.zero_lock)
        s = wal_current(w)
        target = kv_load_u64(&w.next_pos) - (s.seq << w.segment_shift) + AHEAD_BYTES
        target = min(s.file_bytes, target - target % AHEAD_STEP)     # not a sliver per append
        more[0] = s.written_upto < target and w.accepting and not kv_load_int(&w.poison_errno)
        if more[0]:
            upto = min(target, s.written_upto + min(<uint64_t>CHUNK_BYTES, budget[0]))
            budget[0] -= upto - s.written_upto
            kv_store_u64(&w.zeroed, w.zeroed + upto - s.written_upto)
            rc = seg_zero(w.io, s, upto)
        kv_mutex_unlock(&w.zero_lock)
    return rc


cdef int _spare_step(Wal* w, uint64_t* budget, bint* more) noexcept nogil:
    # One chunk of the next segment; begun when the tail is past the middle of the current one.
    cdef WalSegment* s
    cdef uint64_t upto, tail
    cdef int rc = 0
    kv_mutex_lock(&w.spare_lock)
    s = wal_current(w)
    tail = kv_load_u64(&w.next_pos) - (s.seq << w.segment_shift)
    if not w.accepting or w.spare_ready or (w.spare == NULL and tail < w.segment_bytes // 2):
        more[0] = False
    elif w.spare == NULL:
        more[0] = True
        rc = _spare_begin(w, s.seq + 1)
    elif w.spare.written_upto < w.segment_bytes:
        more[0] = True
        upto = min(w.segment_bytes, w.spare.written_upto + min(<uint64_t>CHUNK_BYTES, budget[0]))
        budget[0] -= upto - w.spare.written_upto
        kv_store_u64(&w.zeroed, w.zeroed + upto - w.spare.written_upto)
        rc = seg_zero(w.io, w.spare, upto)
        if rc == 0 and upto % SPARE_SYNC_BYTES == 0:
            rc = w.io.sync(w.io.ctx, w.spare.handle)
    else:
        more[0] = False
        rc = _spare_complete(w)
    if rc != 0:
        ahead_drop(w)                   # a failed file is not tried again; the appender makes one
        more[0] = False
    kv_mutex_unlock(&w.spare_lock)
    return rc


cdef bint ahead_step(Wal* w, uint64_t budget_bytes, int* status) noexcept nogil:
    cdef uint64_t budget = budget_bytes
    cdef bint more = False
    cdef int rc = 0
    status[0] = wal_may_write(w)
    if w.in_memory or status[0] != KV_OK:
        return False
    rc = _zero_ahead(w, &budget, &more)
    while rc == 0 and not more and budget > 0:
        rc = _spare_step(w, &budget, &more)
        if not more:
            break
        more = False if budget > 0 else True
    if rc != 0:
        status[0] = KV_NO_SPACE if rc == -ENOSPC else KV_IO
        return False
    return more


cdef void ahead_keep(Wal* w, WalSegment* s) noexcept nogil:
    kv_mutex_lock(&w.spare_lock)
    s.next = w.pool
    w.pool = s
    w.pool_count += 1
    kv_mutex_unlock(&w.spare_lock)


cdef int ahead_release(Wal* w, WalSegment* s) noexcept nogil:
    cdef char[PATH_BYTES] path
    cdef bint keep
    cdef int rc
    kv_mutex_lock(&w.spare_lock)
    keep = (w.accepting and not w.in_memory and w.pool_count < w.pool_max
            and s.file_bytes == w.segment_bytes)
    kv_mutex_unlock(&w.spare_lock)
    if keep:
        ahead_keep(w, s)
        return KV_OK
    if w.in_memory:
        seg_free(w.io, s, True)
        return KV_OK
    _segment_name(w, s.seq, False, path)
    seg_free(w.io, s, False)
    rc = w.io.unlink(w.io.ctx, path)
    return KV_OK if rc == 0 else KV_IO
