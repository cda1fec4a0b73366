# SPDX-License-Identifier: Apache-2.0
"""Slabs: fixed-size blocks of many size classes in one reserved address range.

    base ─┬─ chunk 0 (class 64 B) ─┬─ chunk 1 (class 2048 B) ─┬─ ... unreserved
          │ blk blk blk blk ...    │ blk blk ...              │
    slot = (address - base) / 64, so that a reference is four bytes and addresses never move.
    Slot 0 is never handed out: it means "none".
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kvcore._native cimport KvMem

cdef enum:
    SLAB_UNIT = 64               # bytes a slot counts in
    SLAB_CHUNK = 262144          # bytes a class takes at a time (larger for larger classes)
    SLAB_CLASSES = 96            # upper bound of the number of classes


cdef struct SlabChunk:
    uint32_t next                # chunk lists: partial chunks of a class, or free chunks
    uint32_t prev
    uint32_t free_head           # first free block (slot), 0 none
    uint32_t bump                # blocks handed out so far from the untouched end
    uint32_t live                # blocks in use
    uint32_t blocks              # blocks that fit
    uint16_t class_index         # class + 1; 0: chunk is free; 0xFFFF: continuation of a big chunk
    uint16_t span                # chunks this one spans


cdef struct Slab:
    uint8_t* base                # constant after init
    uint64_t reserved_bytes      # constant after init
    const KvMem* mem             # constant after init
    SlabChunk* chunks            # guarded by the owner's lock, as all below
    uint32_t chunk_count         # chunks ever used
    uint32_t chunk_cap
    uint32_t partial[SLAB_CLASSES]
    uint32_t free_chunks
    uint64_t live_blocks
    uint64_t live_bytes          # block bytes in use
    uint64_t chunk_bytes         # bytes in chunks that are not free


cdef int slab_init(Slab* s, const KvMem* mem) noexcept nogil
cdef void slab_deinit(Slab* s) noexcept nogil
# Rounds up to a class: the class index for `nbytes`, and the block bytes of a class.
cdef uint32_t slab_class_of(uint32_t nbytes) noexcept nogil
cdef uint32_t slab_class_bytes(uint32_t class_index) noexcept nogil
# A block of the class, not zeroed; 0 when memory is refused or the range is used up.
cdef uint32_t slab_alloc(Slab* s, uint32_t class_index) noexcept nogil
# REQUIRES: slot came from slab_alloc with this class and is not free.
cdef void slab_free(Slab* s, uint32_t slot, uint32_t class_index) noexcept nogil
cdef inline void* slab_at(const Slab* s, uint32_t slot) noexcept nogil:
    return s.base + <uint64_t>slot * SLAB_UNIT
# Walks every chunk; returns a message or NULL.  O(blocks).
cdef const char* slab_check(const Slab* s) noexcept nogil
