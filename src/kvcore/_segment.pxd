# SPDX-License-Identifier: Apache-2.0
"""Segment files: making, opening, and telling valid batches from everything else.

Functions return 0 or -errno unless a line says otherwise.  Nothing here locks; the caller owns the
segment it passes.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kvcore._native cimport KvIo
from kvcore._wal cimport SegWalk, Wal, WalBatch, WalSegment, wal_replay_fn


# A new segment file under a temporary name: blocks reserved, nonce and seed drawn, no header yet.
cdef int seg_create(const KvIo* io, const char* tmp, uint64_t seq, uint64_t segment_bytes,
                    WalSegment** out) noexcept nogil
# An anonymous segment for memory mode; NULL: no memory.
cdef WalSegment* seg_create_memory(uint64_t seq, uint64_t segment_bytes) noexcept nogil
# Writes zeros from written_upto to `upto`.
cdef int seg_zero(const KvIo* io, WalSegment* s, uint64_t upto) noexcept nogil
# Header, sync, rename to `path`, directory sync, mapping.  After it the segment is complete.
cdef int seg_complete(const KvIo* io, WalSegment* s, const char* directory, const char* tmp,
                      const char* path, uint64_t segment_bytes) noexcept nogil
# Begins segment `seq` in the file of `s`, retired and read by nobody: `path` becomes `tmp`, with no
# header of its own yet.  Its blocks are written already.  -errno: nothing of `s` may be used, and
# the caller frees it; -EMLINK: the file has another name, so that it may not be written to.
cdef int seg_recycle(const KvIo* io, WalSegment* s, const char* directory, const char* path,
                     const char* tmp, uint64_t seq, uint64_t segment_bytes) noexcept nogil
# Opens an existing file, reads its header and maps it.  *status: KV_OK, KV_CORRUPT (header; nonce
# and seed are 0), KV_NEWER_FORMAT.
cdef int seg_open(const KvIo* io, const char* path, WalSegment** out, uint64_t* seq,
                  uint64_t* segment_bytes, int* status) noexcept nogil
# Closes, unmaps (or gives the memory back) and frees.
cdef void seg_free(const KvIo* io, WalSegment* s, bint in_memory) noexcept nogil
# Closes the handle, unless reads need it.
cdef void seg_close_handle(const KvIo* io, WalSegment* s) noexcept nogil
# The whole file: the mapping, or *owned with a copy that the caller frees.
cdef int seg_bytes(const KvIo* io, const WalSegment* s, const uint8_t** base,
                   void** owned) noexcept nogil

# Whether a valid batch begins at `off`; then *b describes it.
cdef bint batch_read(const WalSegment* s, const uint8_t* base, uint32_t shift, uint64_t off,
                     WalBatch* b) noexcept nogil
# Fills a header whose payload stands behind it, with its CRC unless `seed` is NULL.
cdef void batch_write(uint8_t* header, const WalBatch* b, const uint32_t* seed) noexcept nogil
cdef inline uint64_t batch_bytes(uint64_t payload_len) noexcept nogil:
    return 64 + ((payload_len + 63) & ~<uint64_t>63)
# Walks valid batches from walk.off to `upto` at most; fn may be NULL.  KV_OK, or what fn returned.
cdef int seg_walk(const WalSegment* s, const uint8_t* base, uint32_t shift, uint64_t upto,
                  wal_replay_fn fn, void* ctx, SegWalk* walk) noexcept nogil
# Offset of a valid batch behind `off` that says more than all up to `off` was synced; 0: none.
cdef uint64_t seg_find_proof(const WalSegment* s, const uint8_t* base, uint32_t shift, uint64_t off,
                             uint64_t* durable_upto) noexcept nogil
# Whether anything looks like a batch of segment `seq`, for a file whose nonce cannot be known.
cdef bint seg_looks_used(const uint8_t* base, uint64_t n, uint32_t shift,
                         uint64_t seq) noexcept nogil
# Bytes from `off` to the end of the last one that a batch of this segment may have left there.
cdef uint64_t seg_left_behind(const WalSegment* s, const uint8_t* base, uint32_t shift,
                              uint64_t off) noexcept nogil
