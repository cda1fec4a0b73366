# SPDX-License-Identifier: Apache-2.0
"""Node construction: fresh leaves and inner nodes from the entries of old ones, and changes in
place.

    items: (leaf A, 0) (leaf A, 1) (new) (leaf A, 2) ...   -->   one fresh block:
           common prefix of first and last · heads behind it · columns · tails in the heap

Splits, merges, growth and prefix changes are all the same act: list the items, build.  Nothing is
changed in a source, so a failed allocation has nothing to undo.
Invariants kept: prefix and heap (docs/index-layout.md 3, 8).  A block is sized for n + max(2, n/8)
entries and its class's slack goes to the heap.
Thread safety: the owner's lock.  Ownership: a built block belongs to the caller until it is linked;
tail blocks and chain records move with the entry that names them and are never copied.
May not know: paths, roots, snapshots (but for the epoch a block is born in).
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

from kvcore._native cimport KV_NOMEM, KV_OK, KvSlice, KvVersion, kv_assert, kv_be64
from kvcore._node cimport (
    EntryKey, INLINE_MAX, LeafExt, LeafRec, META_LEN_SHIFT, META_LONG_SHIFT, META_OFFSET,
    NODE_EXT, NODE_INNER, NODE_LEAF, Node, TAIL_HEAD, TailBlock, has_ext, heap_len,
    inner_children, inner_counts, inner_fixed, inner_heap, inner_metas, is_leaf, is_long,
    leaf_exts, leaf_fixed, leaf_heap, leaf_metas, leaf_mods, leaf_recs, node_at, node_heads,
    node_heap, node_key, node_metas, suffix_len, tail_class,
)
from kvcore._slab cimport (
    SLAB_MAX_BYTES, slab_alloc, slab_at, slab_class_bytes, slab_class_of,
)
from kvcore._tree cimport BTree, InnerItem, LeafItem, NewEntry

cdef enum:
    PREFIX_MAX = 255


# ---- private helpers -------------------------------------------------------------------------

cdef inline uint32_t common_prefix(const EntryKey* a, const EntryKey* b) noexcept nogil:
    cdef uint32_t n = a.len if a.len < b.len else b.len
    cdef uint32_t i = 0
    while i < n and a.bytes[i] == b.bytes[i]:
        i += 1
    return i


cdef inline uint32_t source_len(const Node* src, uint32_t idx) noexcept nogil:
    """Bytes of the inline part of a source's key."""
    return src.prefix_len + suffix_len(node_metas(src)[idx])


cdef inline uint32_t tail_room(uint32_t inline_len, uint32_t plen, bint long_key) noexcept nogil:
    """Heap bytes of a key of which `inline_len` bytes are inline, behind a prefix of `plen`."""
    cdef uint32_t slen = inline_len - plen
    return (slen - 8 if slen > 8 else 0) + (4 if long_key else 0)


cdef inline uint32_t roomy(uint32_t n, uint32_t most) noexcept nogil:
    """Array capacity for n entries: an eighth to grow, even, not beyond `most`."""
    cdef uint32_t cap = n + (n // 8 if n > 16 else 2)
    if cap > most:
        cap = most
    if cap < n:
        cap = n
    return (cap + 1) & ~<uint32_t>1


cdef void put_key(Node* dst, uint8_t* heap, uint32_t* metas, uint32_t i,
                  const EntryKey* key) noexcept nogil:
    """Writes key i of a node whose prefix stands."""
    cdef const uint8_t* suffix = key.bytes + dst.prefix_len
    cdef uint32_t slen = key.len - dst.prefix_len
    cdef uint32_t off = dst.heap_used
    cdef uint32_t tail = slen - 8 if slen > 8 else 0
    kv_assert(off + tail + 4 * (key.tail_slot != 0) <= dst.heap_cap, "key fits the heap")
    node_heads(dst)[i] = kv_be64(suffix)
    metas[i] = off | slen << META_LEN_SHIFT | <uint32_t>(key.tail_slot != 0) << META_LONG_SHIFT
    if tail:
        memcpy(heap + off, suffix + 8, tail)
    if key.tail_slot:
        memcpy(heap + off + tail, &key.tail_slot, 4)
        tail += 4
    dst.heap_used = off + tail


cdef inline void copy_key(Node* dst, uint8_t* heap, uint32_t* metas, uint32_t i, const Node* src,
                          uint32_t idx) noexcept nogil:
    """Copies a source's key.  Equal prefix lengths mean equal prefixes: both begin the same key."""
    cdef EntryKey key
    cdef uint32_t meta
    cdef uint32_t nbytes
    if src.prefix_len != dst.prefix_len:
        node_key(src, idx, &key)
        put_key(dst, heap, metas, i, &key)
        return
    meta = node_metas(src)[idx]
    nbytes = heap_len(meta)
    kv_assert(dst.heap_used + nbytes <= dst.heap_cap, "key fits the heap")
    node_heads(dst)[i] = node_heads(src)[idx]
    memcpy(heap + dst.heap_used, node_heap(src) + (meta & META_OFFSET), nbytes)
    metas[i] = (meta & ~<uint32_t>META_OFFSET) | dst.heap_used
    dst.heap_used += nbytes


cdef uint32_t node_new(BTree* t, uint8_t kind, uint32_t fixed, uint32_t cap, uint32_t plen,
                       uint32_t tails, uint32_t n) noexcept nogil:
    """A block with its head filled in: `tails` heap bytes for n keys, and in proportion for
    `cap`."""
    cdef uint64_t total = fixed + plen + (<uint64_t>tails * cap + n - 1) // (n if n else 1)
    cdef uint32_t block_class
    cdef uint32_t slot
    cdef Node* node
    if total > SLAB_MAX_BYTES:
        total = SLAB_MAX_BYTES
    block_class = slab_class_of(<uint32_t>total)
    slot = slab_alloc(&t.slab, block_class)
    if slot == 0:
        return 0
    node = node_at(&t.slab, slot)
    node.epoch = t.epoch
    node.n = 0
    node.cap = <uint16_t>cap
    node.live = 0
    node.kind = kind
    node.prefix_len = <uint8_t>plen
    node.heap_used = 0
    node.heap_cap = slab_class_bytes(block_class) - fixed
    if node.heap_cap > META_OFFSET:
        node.heap_cap = META_OFFSET
    node.heap_dead = 0
    node.block_class = block_class
    return slot


cdef inline void item_key(const LeafItem* item, const NewEntry* fresh,
                          EntryKey* out) noexcept nogil:
    if item.src == NULL:
        out[0] = fresh[item.idx].key
    else:
        node_key(item.src, item.idx, out)


cdef bint leaf_measure(const LeafItem* items, uint32_t n, const NewEntry* fresh, uint32_t plen,
                       uint32_t* tails) noexcept nogil:
    """Adds up the heap bytes; returns whether an ext column is needed."""
    cdef uint32_t i
    cdef uint32_t total = 0
    cdef uint32_t meta
    cdef bint ext = False
    cdef const LeafItem* item
    cdef const LeafExt* x
    for i in range(n):
        item = &items[i]
        if item.src == NULL:
            total += tail_room(fresh[item.idx].key.len, plen, fresh[item.idx].key.tail_slot != 0)
            ext |= fresh[item.idx].v.lease != 0 or (fresh[item.idx].v.version >> 32) != 0
        else:
            meta = leaf_metas(item.src)[item.idx]
            total += tail_room(item.src.prefix_len + suffix_len(meta), plen, is_long(meta))
            if has_ext(item.src):
                x = &leaf_exts(item.src)[item.idx]
                ext |= x.lease != 0 or x.version_high != 0
    tails[0] = total
    return ext


cdef void leaf_fill(Node* d, const LeafItem* items, uint32_t n,
                    const NewEntry* fresh) noexcept nogil:
    """Copies the entries into a fresh leaf whose prefix stands."""
    cdef uint8_t* heap = leaf_heap(d)
    cdef uint32_t* metas = leaf_metas(d)
    cdef int64_t* mods = leaf_mods(d)
    cdef LeafRec* recs = leaf_recs(d)
    cdef LeafExt* exts = leaf_exts(d)
    cdef bint ext = has_ext(d)
    cdef uint32_t live = 0
    cdef uint32_t i
    cdef uint32_t j
    cdef const Node* src
    d.n = <uint16_t>n
    for i in range(n):
        src = items[i].src
        j = items[i].idx
        if src == NULL:
            put_key(d, heap, metas, i, &fresh[j].key)
            leaf_set(d, i, &fresh[j].v, fresh[j].older)
        else:
            copy_key(d, heap, metas, i, src, j)
            mods[i] = leaf_mods(src)[j]
            recs[i] = leaf_recs(src)[j]
            if ext:
                if has_ext(src):
                    exts[i] = leaf_exts(src)[j]
                else:
                    memset(&exts[i], 0, sizeof(LeafExt))
        live += recs[i].create != 0
    d.live = <uint16_t>live


# ---- C face ----------------------------------------------------------------------------------

cdef void entry_key(KvSlice key, EntryKey* out) noexcept nogil:
    out.len = <uint32_t>(key.len if key.len < INLINE_MAX else INLINE_MAX)
    memcpy(out.bytes, key.ptr, out.len)
    memset(out.bytes + out.len, 0, 8)
    out.tail_slot = 0


cdef int tail_new(BTree* t, KvSlice key, uint32_t* slot) noexcept nogil:
    cdef uint32_t nbytes = <uint32_t>(key.len - INLINE_MAX)
    cdef TailBlock* tail
    kv_assert(key.len > INLINE_MAX, "only a long key has a tail block")
    slot[0] = slab_alloc(&t.slab, tail_class(nbytes))
    if slot[0] == 0:
        return KV_NOMEM
    tail = <TailBlock*>slab_at(&t.slab, slot[0])
    tail.epoch = t.epoch
    tail.len = nbytes
    tail.zero = 0
    memcpy(<uint8_t*>tail + TAIL_HEAD, key.ptr + INLINE_MAX, nbytes)
    return KV_OK


cdef int leaf_build(BTree* t, const LeafItem* items, uint32_t n, const NewEntry* fresh,
                    uint32_t* slot) noexcept nogil:
    cdef EntryKey first
    cdef EntryKey last
    cdef uint32_t plen = 0
    cdef uint32_t tails
    cdef uint32_t cap = roomy(n, t.order)
    cdef bint ext
    cdef Node* d
    kv_assert(n > 0 and n <= t.order, "a leaf holds 1 to order keys")
    if n > 1:
        item_key(&items[0], fresh, &first)
        item_key(&items[n - 1], fresh, &last)
        plen = common_prefix(&first, &last)
        if plen > PREFIX_MAX:
            plen = PREFIX_MAX
    ext = leaf_measure(items, n, fresh, plen, &tails)
    slot[0] = node_new(t, NODE_LEAF | (NODE_EXT if ext else 0), leaf_fixed(cap, ext), cap, plen,
                       tails, n)
    if slot[0] == 0:
        return KV_NOMEM
    d = node_at(&t.slab, slot[0])
    if plen:
        memcpy(leaf_heap(d), first.bytes, plen)
        d.heap_used = plen
    leaf_fill(d, items, n, fresh)
    t.leaves += 1
    return KV_OK


cdef int inner_build(BTree* t, const InnerItem* items, uint32_t children, const EntryKey* fresh,
                     uint32_t* slot) noexcept nogil:
    cdef EntryKey first
    cdef EntryKey last
    cdef uint32_t n = children - 1
    cdef uint32_t plen = 0
    cdef uint32_t tails = 0
    cdef uint32_t cap = roomy(n, t.order - 1)
    cdef uint32_t i
    cdef Node* d
    kv_assert(children > 1 and children <= t.order, "an inner node has 2 to order children")
    if n > 1:
        if items[1].src == NULL:
            first = fresh[0]
        else:
            node_key(items[1].src, items[1].idx, &first)
        if items[n].src == NULL:
            last = fresh[0]
        else:
            node_key(items[n].src, items[n].idx, &last)
        plen = common_prefix(&first, &last)
        if plen > PREFIX_MAX:
            plen = PREFIX_MAX
    for i in range(1, children):
        if items[i].src == NULL:
            tails += tail_room(fresh.len, plen, fresh.tail_slot != 0)
        else:
            tails += tail_room(source_len(items[i].src, items[i].idx), plen,
                               is_long(inner_metas(items[i].src)[items[i].idx]))
    slot[0] = node_new(t, NODE_INNER, inner_fixed(cap), cap, plen, tails, n)
    if slot[0] == 0:
        return KV_NOMEM
    d = node_at(&t.slab, slot[0])
    if plen:
        memcpy(inner_heap(d), first.bytes, plen)
        d.heap_used = plen
    d.n = <uint16_t>n
    for i in range(children):
        inner_counts(d)[i] = items[i].count
        inner_children(d)[i] = items[i].child
        if i:
            if items[i].src == NULL:
                put_key(d, inner_heap(d), inner_metas(d), i - 1, fresh)
            else:
                copy_key(d, inner_heap(d), inner_metas(d), i - 1, items[i].src, items[i].idx)
    t.inners += 1
    return KV_OK


cdef uint32_t node_clone(BTree* t, const Node* n) noexcept nogil:
    cdef uint32_t slot = slab_alloc(&t.slab, n.block_class)
    cdef Node* d
    if slot == 0:
        return 0
    d = node_at(&t.slab, slot)
    memcpy(d, n, <size_t>(node_heap(n) - <uint8_t*>n) + n.heap_used)
    d.epoch = t.epoch
    if is_leaf(n):
        t.leaves += 1
    else:
        t.inners += 1
    return slot


cdef bint key_fits(const Node* n, const uint8_t* heap, const EntryKey* key) noexcept nogil:
    if key.len < n.prefix_len or memcmp(key.bytes, heap, n.prefix_len) != 0:
        return False
    return n.heap_used + tail_room(key.len, n.prefix_len, key.tail_slot != 0) <= n.heap_cap


cdef bint leaf_insert(Node* n, uint32_t order, uint32_t i, const NewEntry* e) noexcept nogil:
    cdef uint32_t rest = n.n - i
    kv_assert(i <= n.n, "leaf index in range")
    if n.n >= n.cap or n.n >= order or not key_fits(n, leaf_heap(n), &e.key):
        return False
    if needs_ext(&e.v) and not has_ext(n):
        return False
    if rest:
        memmove(node_heads(n) + i + 1, node_heads(n) + i, 8 * rest)
        memmove(leaf_metas(n) + i + 1, leaf_metas(n) + i, 4 * rest)
        memmove(leaf_mods(n) + i + 1, leaf_mods(n) + i, 8 * rest)
        memmove(leaf_recs(n) + i + 1, leaf_recs(n) + i, 32 * rest)
        if has_ext(n):
            memmove(leaf_exts(n) + i + 1, leaf_exts(n) + i, 16 * rest)
    put_key(n, leaf_heap(n), leaf_metas(n), i, &e.key)
    leaf_set(n, i, &e.v, e.older)
    n.n += 1
    n.live += e.v.create != 0
    return True


cdef void leaf_remove(Node* n, uint32_t i) noexcept nogil:
    cdef uint32_t rest = n.n - i - 1
    kv_assert(i < n.n, "leaf index in range")
    n.heap_dead += heap_len(leaf_metas(n)[i])
    n.live -= leaf_recs(n)[i].create != 0
    if rest:
        memmove(node_heads(n) + i, node_heads(n) + i + 1, 8 * rest)
        memmove(leaf_metas(n) + i, leaf_metas(n) + i + 1, 4 * rest)
        memmove(leaf_mods(n) + i, leaf_mods(n) + i + 1, 8 * rest)
        memmove(leaf_recs(n) + i, leaf_recs(n) + i + 1, 32 * rest)
        if has_ext(n):
            memmove(leaf_exts(n) + i, leaf_exts(n) + i + 1, 16 * rest)
    n.n -= 1


cdef bint inner_insert(Node* n, uint32_t order, uint32_t i, const EntryKey* sep, uint32_t child,
                       uint64_t count) noexcept nogil:
    """Separator i, and the child right of it."""
    cdef uint32_t rest = n.n - i
    kv_assert(i <= n.n, "separator index in range")
    if n.n >= n.cap or n.n + 1 >= order or not key_fits(n, inner_heap(n), sep):
        return False
    if rest:
        memmove(node_heads(n) + i + 1, node_heads(n) + i, 8 * rest)
        memmove(inner_metas(n) + i + 1, inner_metas(n) + i, 4 * rest)
        memmove(inner_counts(n) + i + 2, inner_counts(n) + i + 1, 8 * rest)
        memmove(inner_children(n) + i + 2, inner_children(n) + i + 1, 4 * rest)
    put_key(n, inner_heap(n), inner_metas(n), i, sep)
    inner_counts(n)[i + 1] = count
    inner_children(n)[i + 1] = child
    n.n += 1
    return True


cdef void inner_remove(Node* n, uint32_t i) noexcept nogil:
    cdef uint32_t rest = n.n - i - 1
    kv_assert(i < n.n, "separator index in range")
    n.heap_dead += heap_len(inner_metas(n)[i])
    if rest:
        memmove(node_heads(n) + i, node_heads(n) + i + 1, 8 * rest)
        memmove(inner_metas(n) + i, inner_metas(n) + i + 1, 4 * rest)
        memmove(inner_counts(n) + i + 1, inner_counts(n) + i + 2, 8 * rest)
        memmove(inner_children(n) + i + 1, inner_children(n) + i + 2, 4 * rest)
    n.n -= 1


cdef void leaf_set(Node* n, uint32_t i, const KvVersion* v, uint32_t older) noexcept nogil:
    cdef LeafRec* r = &leaf_recs(n)[i]
    cdef LeafExt* x
    leaf_mods(n)[i] = v.mod
    r.pos = v.pos
    r.create = v.create
    r.version = <uint32_t>v.version
    r.len = v.len
    r.sub = v.sub
    r.older = older
    if has_ext(n):
        x = &leaf_exts(n)[i]
        x.lease = v.lease
        x.version_high = <uint32_t>(v.version >> 32)
        x.zero = 0
    else:
        kv_assert(not needs_ext(v), "the leaf has the ext column this version needs")


cdef int separator(BTree* t, const EntryKey* a, const EntryKey* b, EntryKey* out) noexcept nogil:
    cdef uint32_t n = common_prefix(a, b)
    cdef uint32_t slot
    cdef uint32_t i = 0
    cdef const TailBlock* ta
    cdef const TailBlock* tb
    cdef TailBlock* made
    memcpy(out.bytes, b.bytes, INLINE_MAX)
    if n < b.len:
        out.len = n + 1
        out.tail_slot = 0
        memset(out.bytes + out.len, 0, 8)
        return KV_OK
    # Equal inline parts: b is a long key, and its tail goes beyond a's.
    kv_assert(b.tail_slot != 0 and b.len == INLINE_MAX, "neighbours differ")
    tb = <const TailBlock*>slab_at(&t.slab, b.tail_slot)
    if a.tail_slot:
        ta = <const TailBlock*>slab_at(&t.slab, a.tail_slot)
        while i < ta.len and (<uint8_t*>ta)[TAIL_HEAD + i] == (<uint8_t*>tb)[TAIL_HEAD + i]:
            i += 1
    kv_assert(i < tb.len, "neighbours differ")
    slot = slab_alloc(&t.slab, tail_class(i + 1))
    if slot == 0:
        return KV_NOMEM
    made = <TailBlock*>slab_at(&t.slab, slot)
    made.epoch = t.epoch
    made.len = i + 1
    made.zero = 0
    memcpy(<uint8_t*>made + TAIL_HEAD, <uint8_t*>tb + TAIL_HEAD, i + 1)
    out.len = INLINE_MAX
    out.tail_slot = slot
    memset(out.bytes + INLINE_MAX, 0, 8)
    return KV_OK


cdef uint64_t inner_live(const Node* n) noexcept nogil:
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(<uint32_t>n.n + 1):
        total += inner_counts(n)[i]
    return total
