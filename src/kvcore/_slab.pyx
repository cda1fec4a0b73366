# SPDX-License-Identifier: Apache-2.0
"""Slab allocator: blocks of 88 size classes, cut from chunks of one reserved address range.

    class 0   64 B   chunk 1  [b b b . . . . . .]     b live, . untouched behind `bump`
    class 23  2 KiB  chunk 2  [b f b b f . . . .]     f on the chunk's free list (LIFO)
                     chunk 3  [. . . . . . . . .]     class 0: on the free list of its span

A chunk is 256 KiB; a class larger than a quarter of that takes spans of up to 8 of them.  A chunk
whose last block goes returns to the common free list; beyond SLAB_WARM of them the pages go back to
the system and the memory table is told.

Invariants (`slab_check`): 1 free + live + untouched = blocks of the chunk; 2 a chunk with room is
on its class's partial list, a full one on none; 3 live_blocks, live_bytes, chunk_bytes add up.
Thread safety: none of its own, the owner's lock guards a Slab; `base` is constant, so that blocks
may be read by whoever knows they are alive.  Ownership: the Slab owns the range, callers own
blocks.
May not know: what lies in a block (but for the free link in a free one's first word).
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

from kvcore._native cimport (
    KV_NOMEM, KV_OK, KvMem, Memory, kv_advise_huge, kv_advise_unused, kv_assert, kv_hide, kv_raise,
    kv_reserve, kv_show, kv_show_read, kv_unlikely, kv_unreserve,
)

cdef enum:
    LINK_BYTES = 8               # of a free block, which lead to the next one
    RESERVE_FLOOR_BITS = 26      # less than 64 MiB of addresses is no use
    RESERVE_BITS = 36
    HUGE_CHUNKS = 8              # chunks in a huge page
    CONTINUATION = 0xFFFF


# ---- private helpers -------------------------------------------------------------------------

cdef inline uint8_t* chunk_at(const Slab* s, uint32_t i) noexcept nogil:
    return s.base + <uint64_t>i * SLAB_CHUNK


cdef inline uint32_t next_free(const Slab* s, uint32_t slot) noexcept nogil:
    """What a free block's link says; memory checkers let nobody else read it."""
    cdef uint32_t* link = <uint32_t*>slab_at(s, slot)
    cdef uint32_t following
    kv_show_read(link, LINK_BYTES)
    following = link[0]
    kv_hide(link, LINK_BYTES)
    return following


cdef inline uint32_t span_of(uint32_t class_bytes) noexcept nogil:
    """Units in a chunk of the class: at least four blocks each."""
    if class_bytes <= SLAB_CHUNK // 4:
        return 1
    return (class_bytes * 4 + SLAB_CHUNK - 1) // SLAB_CHUNK


cdef void list_remove(Slab* s, uint32_t* head, uint32_t i) noexcept nogil:
    cdef SlabChunk* c = &s.chunks[i]
    if c.prev:
        s.chunks[c.prev].next = c.next
    else:
        kv_assert(head[0] == i, "chunk list head")
        head[0] = c.next
    if c.next:
        s.chunks[c.next].prev = c.prev
    c.next = 0
    c.prev = 0


cdef void list_push(Slab* s, uint32_t* head, uint32_t i) noexcept nogil:
    cdef SlabChunk* c = &s.chunks[i]
    c.prev = 0
    c.next = head[0]
    if head[0]:
        s.chunks[head[0]].prev = i
    head[0] = i


cdef uint32_t chunk_new(Slab* s, uint32_t span) noexcept nogil:
    """A never used chunk from the end of the range, or 0."""
    cdef uint32_t first = s.chunk_count
    cdef uint32_t cap = s.chunk_cap
    cdef uint32_t i
    cdef SlabChunk* more
    if (<uint64_t>first + span) * SLAB_CHUNK > s.reserved_bytes:
        return 0
    while cap < first + span:
        cap *= 2
    if cap != s.chunk_cap:
        more = <SlabChunk*>realloc(s.chunks, cap * sizeof(SlabChunk))
        if more == NULL:
            return 0
        s.chunks = more
        s.chunk_cap = cap
    if s.mem.take(s.mem.ctx, <size_t>span * SLAB_CHUNK) != 0:
        return 0
    # The first huge page's worth stays on small pages: a small tree should not cost 2 MiB.
    while s.huge_chunks < first + span:
        if (<uint64_t>s.huge_chunks + HUGE_CHUNKS) * SLAB_CHUNK <= s.reserved_bytes:
            kv_advise_huge(chunk_at(s, s.huge_chunks), HUGE_CHUNKS * SLAB_CHUNK)
        s.huge_chunks += HUGE_CHUNKS
    s.chunk_count = first + span
    for i in range(first, first + span):
        memset(&s.chunks[i], 0, sizeof(SlabChunk))
        if i > first:
            s.chunks[i].class_index = CONTINUATION
            s.chunks[i].prev = first
    s.chunks[first].span = <uint8_t>span
    kv_hide(chunk_at(s, first), <size_t>span * SLAB_CHUNK)
    s.chunk_bytes += <uint64_t>span * SLAB_CHUNK
    return first


cdef uint32_t chunk_take(Slab* s, uint32_t class_index) noexcept nogil:
    """A chunk with room for the class, on its partial list; 0 when refused."""
    cdef uint32_t class_bytes = slab_class_bytes(class_index)
    cdef uint32_t span = span_of(class_bytes)
    cdef uint32_t i = s.free_chunks[span]
    cdef SlabChunk* c
    if i:
        if not s.chunks[i].warm:
            if s.mem.take(s.mem.ctx, <size_t>span * SLAB_CHUNK) != 0:
                return 0
            s.chunk_bytes += <uint64_t>span * SLAB_CHUNK
        else:
            s.warm_chunks -= span
        list_remove(s, &s.free_chunks[span], i)
    else:
        i = chunk_new(s, span)
        if i == 0:
            return 0
    c = &s.chunks[i]
    c.free_head = 0
    c.bump = 0
    c.live = 0
    c.warm = 0
    c.blocks = span * SLAB_CHUNK // class_bytes
    c.class_index = <uint16_t>(class_index + 1)
    list_push(s, &s.partial[class_index], i)
    return i


cdef void chunk_give(Slab* s, uint32_t i) noexcept nogil:
    """Puts an empty chunk, already off its partial list, on the free list."""
    cdef SlabChunk* c = &s.chunks[i]
    cdef uint32_t span = c.span
    c.class_index = 0
    if s.warm_chunks + span <= SLAB_WARM:
        c.warm = 1
        s.warm_chunks += span
    else:
        kv_advise_unused(chunk_at(s, i), <size_t>span * SLAB_CHUNK)
        s.mem.give(s.mem.ctx, <size_t>span * SLAB_CHUNK)
        s.chunk_bytes -= <uint64_t>span * SLAB_CHUNK
    list_push(s, &s.free_chunks[span], i)


# ---- C face ----------------------------------------------------------------------------------

cdef int slab_init(Slab* s, const KvMem* mem) noexcept nogil:
    cdef int bits = RESERVE_BITS
    memset(s, 0, sizeof(Slab))
    s.mem = mem
    s.chunk_cap = 64
    s.chunks = <SlabChunk*>malloc(s.chunk_cap * sizeof(SlabChunk))
    if s.chunks == NULL:
        return KV_NOMEM
    memset(s.chunks, 0, sizeof(SlabChunk))
    while bits >= RESERVE_FLOOR_BITS:
        s.reserved_bytes = <uint64_t>1 << bits
        s.base = <uint8_t*>kv_reserve(s.reserved_bytes)
        if s.base != NULL:
            break
        bits -= 1
    if s.base == NULL:
        free(s.chunks)
        s.chunks = NULL
        return KV_NOMEM
    s.chunk_count = 1            # chunk 0 holds slot 0 and is never used
    s.huge_chunks = HUGE_CHUNKS
    return KV_OK


cdef void slab_deinit(Slab* s) noexcept nogil:
    if s.base != NULL:
        kv_show(s.base, <size_t>s.chunk_count * SLAB_CHUNK)
        kv_unreserve(s.base, s.reserved_bytes)
        if s.chunk_bytes:
            s.mem.give(s.mem.ctx, s.chunk_bytes)
    free(s.chunks)
    s.base = NULL
    s.chunks = NULL
    s.chunk_bytes = 0


cdef uint32_t slab_alloc(Slab* s, uint32_t class_index) noexcept nogil:
    cdef uint32_t i
    cdef uint32_t slot
    cdef SlabChunk* c
    kv_assert(class_index < SLAB_USED_CLASSES, "slab class in range")
    if kv_unlikely(slab_refuses(s)):
        return 0
    i = s.partial[class_index]
    if i == 0:
        i = chunk_take(s, class_index)
        if i == 0:
            return 0
    c = &s.chunks[i]
    slot = c.free_head
    if slot:
        c.free_head = next_free(s, slot)
    else:
        slot = i * SLAB_CHUNK_SLOTS + c.bump * (slab_class_bytes(class_index) // SLAB_UNIT)
        c.bump += 1
    c.live += 1
    if c.free_head == 0 and c.bump == c.blocks:
        list_remove(s, &s.partial[class_index], i)
    s.live_blocks += 1
    s.live_bytes += slab_class_bytes(class_index)
    kv_show(slab_at(s, slot), slab_class_bytes(class_index))
    return slot


cdef void slab_free(Slab* s, uint32_t slot, uint32_t class_index) noexcept nogil:
    cdef uint32_t i = slot // SLAB_CHUNK_SLOTS
    cdef SlabChunk* c
    cdef bint was_full
    kv_assert(slot != 0 and i < s.chunk_count, "freed slot in range")
    if s.chunks[i].class_index == CONTINUATION:
        i = s.chunks[i].prev
    c = &s.chunks[i]
    kv_assert(c.class_index == class_index + 1 and c.live > 0, "freed slot has its class")
    was_full = c.free_head == 0 and c.bump == c.blocks
    (<uint32_t*>slab_at(s, slot))[0] = c.free_head
    kv_hide(slab_at(s, slot), slab_class_bytes(class_index))
    c.free_head = slot
    c.live -= 1
    s.live_blocks -= 1
    s.live_bytes -= slab_class_bytes(class_index)
    if c.live == 0:
        if not was_full:
            list_remove(s, &s.partial[class_index], i)
        chunk_give(s, i)
    elif was_full:
        list_push(s, &s.partial[class_index], i)


cdef void* slab_heap_take(Slab* s, size_t nbytes) noexcept nogil:
    cdef void* p
    if kv_unlikely(slab_refuses(s)) or s.mem.take(s.mem.ctx, nbytes) != 0:
        return NULL
    p = malloc(nbytes)
    if p == NULL:
        s.mem.give(s.mem.ctx, nbytes)
    return p


cdef void slab_heap_give(Slab* s, void* p, size_t nbytes) noexcept nogil:
    if p != NULL:
        free(p)
        s.mem.give(s.mem.ctx, nbytes)


cdef const char* chunk_check(const Slab* s, uint32_t i, const uint8_t* marks) noexcept nogil:
    """One chunk in use: its free list and counts."""
    cdef const SlabChunk* c = &s.chunks[i]
    cdef uint32_t units = slab_class_bytes(c.class_index - 1) // SLAB_UNIT
    cdef uint32_t first = i * SLAB_CHUNK_SLOTS
    cdef uint32_t slot = c.free_head
    cdef uint32_t free_blocks = 0
    while slot:
        if slot < first or (slot - first) % units or (slot - first) // units >= c.bump:
            return "reachable-xor-free: a free list leaves its chunk"
        if marks != NULL and marks[slot >> 3] >> (slot & 7) & 1:
            return "reachable-xor-free: a reachable block is on a free list"
        free_blocks += 1
        if free_blocks > c.bump:
            return "reachable-xor-free: a free list has a cycle"
        slot = next_free(s, slot)
    if free_blocks + c.live != c.bump or c.bump > c.blocks:
        return "reachable-xor-free: free and live blocks do not add up"
    return NULL


cdef const char* slab_check(const Slab* s, const uint8_t* marks) noexcept nogil:
    cdef uint64_t live = 0
    cdef uint64_t live_bytes = 0
    cdef uint64_t held = 0
    cdef uint64_t roomy = 0
    cdef uint32_t i = 1
    cdef uint32_t k
    cdef const char* message
    while i < s.chunk_count:
        if s.chunks[i].class_index:
            message = chunk_check(s, i, marks)
            if message != NULL:
                return message
            live += s.chunks[i].live
            live_bytes += <uint64_t>s.chunks[i].live * slab_class_bytes(s.chunks[i].class_index - 1)
            if s.chunks[i].live < s.chunks[i].blocks:
                roomy += 1
        if s.chunks[i].class_index or s.chunks[i].warm:
            held += <uint64_t>s.chunks[i].span * SLAB_CHUNK
        i += s.chunks[i].span
    for k in range(SLAB_CLASSES):
        i = s.partial[k]
        while i:
            if s.chunks[i].class_index != k + 1 or s.chunks[i].live == s.chunks[i].blocks:
                return "slab: a partial list holds a stranger"
            roomy -= 1
            i = s.chunks[i].next
    if roomy:
        return "slab: a chunk with room is on no partial list"
    if live != s.live_blocks or live_bytes != s.live_bytes or held != s.chunk_bytes:
        return "slab: totals do not add up"
    return NULL


# ---- Python face -----------------------------------------------------------------------------

cdef int limit_take(void* ctx, size_t nbytes) noexcept nogil:
    cdef LimitState* m = <LimitState*>ctx
    if m.held + nbytes > m.limit:
        return KV_NOMEM
    m.held += nbytes
    return 0


cdef void limit_give(void* ctx, size_t nbytes) noexcept nogil:
    cdef LimitState* m = <LimitState*>ctx
    m.held -= nbytes


cdef class MemoryLimit(Memory):
    """A memory table that counts what is held and refuses what would exceed `limit` bytes.

    Thread safety: one owner at a time (the tables are called under the owner's lock).

    >>> m = MemoryLimit(1 << 20)
    >>> m.held, m.limit
    (0, 1048576)
    """

    def __cinit__(self, uint64_t limit):
        self.state.limit = limit
        self.state.held = 0
        self.own.ctx = &self.state
        self.own.take = limit_take
        self.own.give = limit_give
        self.table = &self.own

    @property
    def held(self):
        """Bytes taken and not given back."""
        return self.state.held

    @property
    def limit(self):
        """Bytes that may be held at most; may be changed at any time."""
        return self.state.limit

    @limit.setter
    def limit(self, uint64_t value):
        self.state.limit = value


@cython.final
cdef class SlabProbe:
    """A bare slab for tests: every function of the C face as a method.

    >>> s = SlabProbe()
    >>> a = s.alloc(0)
    >>> s.free(a, 0); s.check(); s.stats()["live_blocks"]
    0
    """

    cdef Slab c
    cdef Memory memory

    def __cinit__(self, Memory memory=None):
        from kvcore._native import PLAIN_MEMORY
        self.memory = memory if memory is not None else PLAIN_MEMORY
        kv_raise(slab_init(&self.c, self.memory.table))

    def __dealloc__(self):
        slab_deinit(&self.c)

    @staticmethod
    def class_of(uint32_t nbytes):
        """The class for `nbytes`."""
        return slab_class_of(nbytes)

    @staticmethod
    def class_bytes(uint32_t class_index):
        """Block bytes of a class."""
        return slab_class_bytes(class_index)

    def alloc(self, uint32_t class_index):
        """A slot, 0 when refused."""
        return slab_alloc(&self.c, class_index)

    def free(self, uint32_t slot, uint32_t class_index):
        """Gives a block back."""
        slab_free(&self.c, slot, class_index)

    def fill(self, uint32_t slot, uint32_t class_index, uint8_t value):
        """Overwrites a block."""
        memset(slab_at(&self.c, slot), value, slab_class_bytes(class_index))

    def read(self, uint32_t slot, uint32_t class_index):
        """The bytes of a block."""
        return (<char*>slab_at(&self.c, slot))[:slab_class_bytes(class_index)]

    def refuse_after(self, uint64_t n):
        """Makes the n-th allocation from now fail."""
        self.c.refuse_after = n

    def check(self):
        """Raises AssertionError when an invariant does not hold."""
        cdef const char* message = slab_check(&self.c, NULL)
        if message != NULL:
            raise AssertionError(message.decode())

    def stats(self):
        """Counters."""
        return {"live_blocks": self.c.live_blocks, "live_bytes": self.c.live_bytes,
                "chunk_bytes": self.c.chunk_bytes, "chunk_count": self.c.chunk_count,
                "warm_chunks": self.c.warm_chunks}
