# SPDX-License-Identifier: Apache-2.0
"""Nodes: where the columns are, how keys compare, and the search in one node.

    leaf:  | head 32 | head[cap] 8 | meta[cap] 4 | mod[cap] 8 | rec[cap] 32 | ext[cap] 16? | heap |
    inner: | head 32 | head[cap] 8 | count[cap+2] 8 | meta[cap] 4 | child[cap+2] 4 | heap |
    key i: prefix (heap[0:prefix_len]) + head[i] + heap[offset : offset + suffix - 8] (+ tail block)

Everything is inline: a function cimported from another module is called through a pointer, and
these run several times per look-up.  The bytes are fixed by docs/index-layout.md.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from kvcore._native cimport (KvSlice, KvVersion, kv_be64, kv_load_u64, kv_prefetch, kv_put_be64,
                             kv_unlikely)
from kvcore._slab cimport Slab, slab_at, slab_class_of


cdef extern from "_node.h" nogil:
    ctypedef struct Node:
        uint64_t epoch
        uint16_t n
        uint16_t cap
        uint16_t live
        uint8_t kind
        uint8_t prefix_len
        uint32_t heap_used
        uint32_t heap_cap
        uint32_t heap_dead
        uint32_t block_class

    ctypedef struct LeafRec:
        uint64_t pos
        int64_t create           # 0: tombstone
        uint32_t version
        uint32_t len
        uint32_t sub
        uint32_t older

    ctypedef struct LeafExt:
        int64_t lease
        uint32_t version_high
        uint32_t zero

    ctypedef struct ChainRec:
        uint64_t epoch
        int64_t mod
        int64_t create
        int64_t version
        int64_t lease
        uint64_t pos
        uint32_t len
        uint32_t sub
        uint32_t older
        uint32_t zero

    ctypedef struct TailBlock:
        uint64_t epoch
        uint32_t len
        uint32_t zero
        uint8_t* bytes


cdef enum:
    NODE_HEAD = 32
    NODE_LEAF = 1
    NODE_INNER = 2
    NODE_EXT = 0x80
    INLINE_MAX = 256             # key bytes kept in the node; the rest goes to a tail block
    TAIL_HEAD = 16
    META_OFFSET = 0xFFFFF        # meta: heap offset (20 bits), suffix length (11), long flag (1)
    META_LEN = 0x7FF
    META_LEN_SHIFT = 20
    META_LONG_SHIFT = 31


# The inline part of a key on its own, zero-padded by 8 so that a head can be read anywhere.
cdef struct EntryKey:
    uint32_t len
    uint32_t tail_slot           # 0: not a long key
    uint8_t bytes[INLINE_MAX + 8]


# ---- columns ---------------------------------------------------------------------------------

cdef inline bint is_leaf(const Node* n) noexcept nogil:
    return n.kind & NODE_LEAF


cdef inline bint has_ext(const Node* n) noexcept nogil:
    return n.kind & NODE_EXT


cdef inline uint64_t* node_heads(const Node* n) noexcept nogil:
    return <uint64_t*>(<uint8_t*>n + NODE_HEAD)


cdef inline uint32_t* leaf_metas(const Node* n) noexcept nogil:
    return <uint32_t*>(<uint8_t*>n + NODE_HEAD + 8 * <size_t>n.cap)


cdef inline int64_t* leaf_mods(const Node* n) noexcept nogil:
    return <int64_t*>(<uint8_t*>n + NODE_HEAD + 12 * <size_t>n.cap)


cdef inline LeafRec* leaf_recs(const Node* n) noexcept nogil:
    return <LeafRec*>(<uint8_t*>n + NODE_HEAD + 20 * <size_t>n.cap)


cdef inline LeafExt* leaf_exts(const Node* n) noexcept nogil:
    return <LeafExt*>(<uint8_t*>n + NODE_HEAD + 52 * <size_t>n.cap)


cdef inline uint32_t leaf_fixed(uint32_t cap, bint ext) noexcept nogil:
    return NODE_HEAD + (68 if ext else 52) * cap


cdef inline uint8_t* leaf_heap(const Node* n) noexcept nogil:
    return <uint8_t*>n + leaf_fixed(n.cap, has_ext(n))


cdef inline uint64_t* inner_counts(const Node* n) noexcept nogil:
    return <uint64_t*>(<uint8_t*>n + NODE_HEAD + 8 * <size_t>n.cap)


cdef inline uint32_t* inner_metas(const Node* n) noexcept nogil:
    return <uint32_t*>(<uint8_t*>n + NODE_HEAD + 16 + 16 * <size_t>n.cap)


cdef inline uint32_t* inner_children(const Node* n) noexcept nogil:
    return <uint32_t*>(<uint8_t*>n + NODE_HEAD + 16 + 20 * <size_t>n.cap)


cdef inline uint32_t inner_fixed(uint32_t cap) noexcept nogil:
    return NODE_HEAD + 24 + 24 * cap


cdef inline uint8_t* inner_heap(const Node* n) noexcept nogil:
    return <uint8_t*>n + inner_fixed(n.cap)


cdef inline uint32_t* node_metas(const Node* n) noexcept nogil:
    return leaf_metas(n) if is_leaf(n) else inner_metas(n)


cdef inline uint8_t* node_heap(const Node* n) noexcept nogil:
    return leaf_heap(n) if is_leaf(n) else inner_heap(n)


cdef inline Node* node_at(const Slab* s, uint32_t slot) noexcept nogil:
    return <Node*>slab_at(s, slot)


# ---- keys ------------------------------------------------------------------------------------

cdef inline uint32_t suffix_len(uint32_t meta) noexcept nogil:
    return meta >> META_LEN_SHIFT & META_LEN


cdef inline bint is_long(uint32_t meta) noexcept nogil:
    return meta >> META_LONG_SHIFT


cdef inline uint32_t tail_len(uint32_t meta) noexcept nogil:
    """Suffix bytes behind the head."""
    cdef uint32_t n = suffix_len(meta)
    return n - 8 if n > 8 else 0


cdef inline uint32_t heap_len(uint32_t meta) noexcept nogil:
    """Heap bytes of a key: the inline tail, and the slot of the tail block."""
    return tail_len(meta) + (4 if is_long(meta) else 0)


cdef inline uint32_t tail_slot_of(const uint8_t* heap, uint32_t meta) noexcept nogil:
    """The tail block of a key; 0 when it is not long."""
    cdef uint32_t slot = 0
    if is_long(meta):
        memcpy(&slot, heap + (meta & META_OFFSET) + tail_len(meta), 4)
    return slot


cdef inline uint32_t tail_class(uint32_t nbytes) noexcept nogil:
    return slab_class_of(TAIL_HEAD + nbytes)


cdef inline uint64_t head_of(const uint8_t* p, size_t n) noexcept nogil:
    """The first eight bytes as a number that compares as they do."""
    cdef uint64_t x = 0
    if n >= 8:
        return kv_be64(p)
    if n:
        memcpy(&x, p, n)
        return kv_be64(<const uint8_t*>&x)
    return 0


cdef inline void node_key(const Node* n, uint32_t i, EntryKey* out) noexcept nogil:
    """Puts the inline part of key `i` together."""
    cdef const uint8_t* heap = node_heap(n)
    cdef uint32_t meta = node_metas(n)[i]
    cdef uint32_t plen = n.prefix_len
    memcpy(out.bytes, heap, plen)
    kv_put_be64(out.bytes + plen, node_heads(n)[i])
    out.len = plen + suffix_len(meta)
    if tail_len(meta):
        memcpy(out.bytes + plen + 8, heap + (meta & META_OFFSET), tail_len(meta))
    memset(out.bytes + out.len, 0, 8)
    out.tail_slot = tail_slot_of(heap, meta)


cdef inline size_t key_len_at(const Slab* s, const Node* n, uint32_t i) noexcept nogil:
    cdef uint32_t meta = node_metas(n)[i]
    cdef size_t total = <size_t>n.prefix_len + suffix_len(meta)
    if is_long(meta):
        total += (<TailBlock*>slab_at(s, tail_slot_of(node_heap(n), meta))).len
    return total


cdef inline void copy_small(uint8_t* out, const uint8_t* p, uint32_t n) noexcept nogil:
    """memcpy for a few dozen bytes: inline moves, the last one overlapping, and never a byte
    more."""
    cdef uint32_t i = 0
    if n >= 16:
        while i + 16 <= n:
            memcpy(out + i, p + i, 16)
            i += 16
        memcpy(out + n - 16, p + n - 16, 16)
    elif n >= 8:
        memcpy(out, p, 8)
        memcpy(out + n - 8, p + n - 8, 8)
    elif n >= 4:
        memcpy(out, p, 4)
        memcpy(out + n - 4, p + n - 4, 4)
    else:
        for i in range(n):
            out[i] = p[i]


cdef inline void key_write(const Slab* s, const Node* n, const uint8_t* heap, uint32_t meta,
                           uint64_t head, uint8_t* out) noexcept nogil:
    """Writes a whole key; `out` has room for its length and not a byte more."""
    cdef uint32_t plen = n.prefix_len
    cdef uint32_t slen = suffix_len(meta)
    cdef uint64_t x
    cdef const TailBlock* tail
    copy_small(out, heap, plen)
    if slen >= 8:
        kv_put_be64(out + plen, head)
        copy_small(out + plen + 8, heap + (meta & META_OFFSET), slen - 8)
    elif slen:
        kv_put_be64(<uint8_t*>&x, head)
        memcpy(out + plen, &x, slen)
    if kv_unlikely(is_long(meta)):
        tail = <const TailBlock*>slab_at(s, tail_slot_of(heap, meta))
        memcpy(out + plen + slen, <const uint8_t*>tail + TAIL_HEAD, tail.len)


cdef inline int compare_tail(const Slab* s, const Node* n, const uint8_t* heap, uint32_t meta,
                             KvSlice key) noexcept nogil:
    """Sign of key - entry, given that prefix and head are equal."""
    cdef uint32_t slen = suffix_len(meta)
    cdef uint32_t klen = <uint32_t>(key.len if key.len < INLINE_MAX else INLINE_MAX) - n.prefix_len
    cdef uint32_t m = slen if slen < klen else klen
    cdef const TailBlock* tail
    cdef size_t rest
    cdef int c
    if m > 8:
        c = memcmp(key.ptr + n.prefix_len + 8, heap + (meta & META_OFFSET), m - 8)
        if c:
            return c
    if klen != slen:
        return -1 if klen < slen else 1
    rest = key.len - INLINE_MAX if key.len > INLINE_MAX else 0
    if not is_long(meta):
        return 1 if rest else 0
    if rest == 0:
        return -1
    tail = <const TailBlock*>slab_at(s, tail_slot_of(heap, meta))
    c = memcmp(key.ptr + INLINE_MAX, <const uint8_t*>tail + TAIL_HEAD,
               rest if rest < tail.len else tail.len)
    if c:
        return c
    if rest == tail.len:
        return 0
    return -1 if rest < tail.len else 1


cdef inline uint32_t lower_head(const uint64_t* heads, uint32_t n, uint64_t h) noexcept nogil:
    """First i with heads[i] >= h.  No branch depends on the data: the halves are picked by
    arithmetic, so that the processor runs ahead of the loads."""
    cdef uint32_t base = 0
    cdef uint32_t half
    while n > 1:
        half = n >> 1
        base += half * (heads[base + half - 1] < h)
        n -= half
    return base + (n == 1 and heads[base] < h)


cdef inline uint32_t search(const Slab* s, const Node* n, const uint8_t* heap,
                            const uint32_t* metas, KvSlice key, bint* found) noexcept nogil:
    """First i with key i >= key; *found when they are equal."""
    cdef uint32_t plen = n.prefix_len
    cdef const uint64_t* heads = node_heads(n)
    cdef uint64_t h
    cdef uint32_t lo
    cdef uint32_t hi
    cdef uint32_t mid
    cdef int c
    found[0] = False
    if plen:
        c = 0
        if key.len:                                           # an empty start has no bytes at all
            c = memcmp(key.ptr, heap, plen if plen < key.len else key.len)
        if c < 0 or (c == 0 and key.len < plen):
            return 0
        if c > 0:
            return n.n
    h = head_of(key.ptr + plen, (key.len if key.len < INLINE_MAX else INLINE_MAX) - plen)
    lo = lower_head(heads, n.n, h)
    if lo == n.n or heads[lo] != h:
        return lo
    if lo + 1 == n.n or heads[lo + 1] != h:                   # the usual case: one candidate
        c = compare_tail(s, n, heap, metas[lo], key)
        found[0] = c == 0
        return lo + (c > 0)
    hi = n.n if h == <uint64_t>-1 else lo + lower_head(heads + lo, n.n - lo, h + 1)
    while lo < hi:
        mid = (lo + hi) >> 1
        c = compare_tail(s, n, heap, metas[mid], key)
        if c == 0:
            found[0] = True
            return mid
        if c > 0:
            lo = mid + 1
        else:
            hi = mid
    return lo


cdef inline uint32_t leaf_search(const Slab* s, const Node* n, KvSlice key,
                                 bint* found) noexcept nogil:
    return search(s, n, leaf_heap(n), leaf_metas(n), key, found)


cdef inline uint32_t leaf_find(const Slab* s, const Node* n, KvSlice key,
                               bint* found) noexcept nogil:
    """As leaf_search when only an equal key matters.  The heads are searched before the prefix is
    compared, so that prefix, tail and record - three lines far apart - are fetched at once."""
    cdef uint32_t plen = n.prefix_len
    cdef const uint64_t* heads = node_heads(n)
    cdef const uint8_t* heap = leaf_heap(n)
    cdef uint64_t h
    cdef uint32_t lo
    kv_prefetch(heap)
    found[0] = False
    if key.len < plen:
        return 0
    h = head_of(key.ptr + plen, (key.len if key.len < INLINE_MAX else INLINE_MAX) - plen)
    lo = lower_head(heads, n.n, h)
    if lo == n.n or heads[lo] != h:
        return 0
    kv_prefetch(heap + (leaf_metas(n)[lo] & META_OFFSET))
    kv_prefetch(&leaf_recs(n)[lo])
    kv_prefetch(&leaf_mods(n)[lo])
    if memcmp(key.ptr, heap, plen) != 0:
        return 0
    if lo + 1 == n.n or heads[lo + 1] != h:
        found[0] = compare_tail(s, n, heap, leaf_metas(n)[lo], key) == 0
        return lo
    return leaf_search(s, n, key, found)


cdef inline uint32_t inner_search(const Slab* s, const Node* n, KvSlice key) noexcept nogil:
    """The child to look for `key` in: a separator belongs to the right."""
    cdef bint found
    cdef uint32_t i = search(s, n, inner_heap(n), inner_metas(n), key, &found)
    return i + found


# ---- versions --------------------------------------------------------------------------------

cdef inline bint is_alive(const Node* n, uint32_t i) noexcept nogil:
    return leaf_recs(n)[i].create != 0


cdef inline void leaf_version(const Node* n, uint32_t i, KvVersion* out) noexcept nogil:
    """The latest version of entry `i`."""
    cdef const LeafRec* r = &leaf_recs(n)[i]
    cdef const LeafExt* x
    out.mod = leaf_mods(n)[i]
    out.create = r.create
    out.version = r.version
    out.lease = 0
    out.pos = kv_load_u64(&r.pos)            # bt_move may change it meanwhile
    out.len = r.len
    out.sub = r.sub
    if has_ext(n):
        x = &leaf_exts(n)[i]
        out.lease = x.lease
        out.version |= <int64_t>x.version_high << 32


cdef inline void chain_version(const ChainRec* r, KvVersion* out) noexcept nogil:
    out.mod = r.mod
    out.create = r.create
    out.version = r.version
    out.lease = r.lease
    out.pos = kv_load_u64(&r.pos)            # bt_move may change it meanwhile
    out.len = r.len
    out.sub = r.sub


cdef inline void prefetch_node(const void* p, uint32_t order, bint leaf) noexcept nogil:
    """Starts the loads of the lines a search will touch: head, heads, and metas of a small node.
    At most ten lines, as many misses as the processor keeps in flight."""
    cdef uint32_t lines = (NODE_HEAD + 12 * order) // 64 + 1
    cdef uint32_t i
    if lines > 8:
        lines = 8
    for i in range(lines):
        kv_prefetch(<const uint8_t*>p + i * 64)
