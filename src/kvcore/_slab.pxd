# SPDX-License-Identifier: Apache-2.0
"""Slabs: fixed-size blocks of many size classes in one reserved address range.

    base ─┬─ chunk 0 (unused) ─┬─ chunk 1 (class 64 B) ─┬─ chunk 2 (class 2048 B) ─┬─ ...
          │                    │ blk blk blk blk ...    │ blk blk ...              │
    slot = (address - base) / 64, so that a reference is four bytes and addresses never move.
    Slot 0 is never handed out: it means "none".
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from kvcore._native cimport KvMem, Memory

cdef enum:
    SLAB_UNIT = 64               # bytes a slot counts in
    SLAB_CHUNK = 262144          # bytes a class takes at a time (larger for larger classes)
    SLAB_CHUNK_SLOTS = 4096
    SLAB_CLASSES = 96            # upper bound of the number of classes
    SLAB_USED_CLASSES = 88       # 64 B .. 512 KiB
    SLAB_MAX_BYTES = 524288      # the largest class
    SLAB_SPANS = 9               # a chunk spans 1..8 units of SLAB_CHUNK
    SLAB_WARM = 8                # free chunks that keep their pages


cdef struct SlabChunk:
    uint32_t next                # chunk lists: partial chunks of a class, or free chunks
    uint32_t prev                # in a continuation: the first chunk of the span
    uint32_t free_head           # first free block (slot), 0 none
    uint32_t bump                # blocks handed out so far from the untouched end
    uint32_t live                # blocks in use
    uint32_t blocks              # blocks that fit
    uint16_t class_index         # class + 1; 0: chunk is free; 0xFFFF: continuation of a big chunk
    uint8_t span                 # units this one spans
    uint8_t warm                 # free, but its pages are still held


cdef struct Slab:
    uint8_t* base                # constant after init
    uint64_t reserved_bytes      # constant after init
    const KvMem* mem             # constant after init
    SlabChunk* chunks            # guarded by the owner's lock, as all below
    uint32_t chunk_count         # chunks ever used, chunk 0 included
    uint32_t chunk_cap
    uint32_t huge_chunks         # chunks below it are advised to be huge pages
    uint32_t warm_chunks
    uint32_t partial[SLAB_CLASSES]      # chunks of the class with room
    uint32_t free_chunks[SLAB_SPANS]    # by span
    uint64_t live_blocks
    uint64_t live_bytes          # block bytes in use
    uint64_t chunk_bytes         # bytes in chunks that hold pages: in use, or free and warm
    uint64_t refuse_after        # tests: the n-th allocation from now is refused; 0: never


cdef int slab_init(Slab* s, const KvMem* mem) noexcept nogil
cdef void slab_deinit(Slab* s) noexcept nogil
# Rounds up to a class: the class index for `nbytes`, and the block bytes of a class.
cdef inline uint32_t slab_class_of(uint32_t nbytes) noexcept nogil:
    cdef uint32_t shift
    if nbytes <= 1024:
        return (nbytes + 63) // 64 - (1 if nbytes else 0)
    shift = 31 - <uint32_t>__builtin_clz(nbytes - 1)     # 2^shift < nbytes <= 2^(shift+1)
    return 16 + (shift - 10) * 8 + ((nbytes - 1 - (<uint32_t>1 << shift)) >> (shift - 3))
cdef inline uint32_t slab_class_bytes(uint32_t class_index) noexcept nogil:
    cdef uint32_t shift
    if class_index < 16:
        return (class_index + 1) * 64
    shift = 10 + (class_index - 16) // 8
    return (<uint32_t>1 << shift) + ((class_index - 16) % 8 + 1) * (<uint32_t>1 << (shift - 3))
# A block of the class, not zeroed; 0 when memory is refused or the range is used up.
cdef uint32_t slab_alloc(Slab* s, uint32_t class_index) noexcept nogil
# REQUIRES: slot came from slab_alloc with this class and is not free.
cdef void slab_free(Slab* s, uint32_t slot, uint32_t class_index) noexcept nogil
cdef inline void* slab_at(const Slab* s, uint32_t slot) noexcept nogil:
    return s.base + <uint64_t>slot * SLAB_UNIT
# True when a test asked for this allocation to be refused.
cdef inline bint slab_refuses(Slab* s) noexcept nogil:
    if s.refuse_after == 0:
        return False
    s.refuse_after -= 1
    return s.refuse_after == 0
# Ordinary memory behind the same table; NULL when refused.  The size is named again on return.
cdef void* slab_heap_take(Slab* s, size_t nbytes) noexcept nogil
cdef void slab_heap_give(Slab* s, void* p, size_t nbytes) noexcept nogil
# Walks every chunk; returns a message or NULL.  O(blocks).  `marks` (may be NULL) has a bit per
# slot: a free block whose bit is set is an error.
cdef const char* slab_check(const Slab* s, const uint8_t* marks) noexcept nogil


cdef extern from *:
    int __builtin_clz(unsigned int) noexcept nogil


cdef struct LimitState:
    uint64_t limit
    uint64_t held


# Counts what the core holds and refuses what goes beyond `limit`.
cdef class MemoryLimit(Memory):
    cdef KvMem own
    cdef LimitState state
