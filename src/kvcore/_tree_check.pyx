# SPDX-License-Identifier: Apache-2.0
"""Statistics, and the check that walks every named invariant of docs/index-layout.md.

    live root: every block marked once -> dead lists: marked once -> snapshots: all marked already
    -> marks = live blocks of the slab, and no free list holds a marked block

Written from the page, not from the writer: keys are put together and compared as bytes, counts are
recounted, chains are followed by the floor rule.
Thread safety: the tree's lock.  Ownership: its notes are freed before it returns.
May not know: how anything came to be.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memset

from kvcore._native cimport KV_CORRUPT, KV_KEY_MAX_BYTES, KV_NOMEM, KV_OK, KvVersion
from kvcore._node cimport (
    ChainRec, META_OFFSET, Node, TailBlock, chain_version, heap_len, inner_children,
    inner_counts, inner_fixed, is_leaf, is_long, has_ext, key_len_at, key_write, leaf_fixed,
    leaf_recs, leaf_version, node_at, node_heads, node_heap, node_metas, suffix_len, tail_class,
    tail_slot_of,
)
from kvcore._slab cimport SLAB_CHUNK_SLOTS, slab_at, slab_check, slab_class_bytes
from kvcore._tree cimport BTree, BtSnapshot, BtStats, DeadBlock


cdef struct Checker:
    const BTree* t
    uint8_t* marks               # a bit per slot
    uint8_t* last                # the last key or separator met
    uint8_t* key
    size_t last_len
    bint last_is_separator
    uint64_t marked
    uint64_t keys
    uint64_t live
    uint64_t records
    uint64_t leaves
    uint64_t inners
    const BtSnapshot* snapshot   # NULL: the live tree
    char* buf
    size_t size


# ---- private helpers -------------------------------------------------------------------------

cdef int wrong(Checker* c, const char* message, uint64_t where) noexcept nogil:
    snprintf(c.buf, c.size, "%s (slot %llu)", message, <unsigned long long>where)
    return KV_CORRUPT


cdef int mark(Checker* c, uint32_t slot, uint32_t block_class) noexcept nogil:
    """One more reference to a block: the first in the live tree, a known one in a snapshot."""
    cdef uint32_t chunk = slot // SLAB_CHUNK_SLOTS
    cdef uint8_t bit = <uint8_t>(1 << (slot & 7))
    cdef uint64_t born
    if slot == 0 or chunk >= c.t.slab.chunk_count:
        return wrong(c, "reachable-xor-free: slot out of range", slot)
    if c.t.slab.chunks[chunk].class_index == 0xFFFF:
        chunk = c.t.slab.chunks[chunk].prev
    if c.t.slab.chunks[chunk].class_index != block_class + 1:
        return wrong(c, "reachable-xor-free: block of another class", slot)
    born = (<uint64_t*>slab_at(&c.t.slab, slot))[0]
    if born > c.t.epoch:
        return wrong(c, "epochs: born in the future", slot)
    if c.snapshot != NULL:
        if born > c.snapshot.epoch:
            return wrong(c, "epochs: a snapshot reaches a block born after it", slot)
        if not c.marks[slot >> 3] & bit:
            return wrong(c, "epochs: a snapshot reaches a block neither live nor dead", slot)
        return KV_OK
    if c.marks[slot >> 3] & bit:
        return wrong(c, "reachable-xor-free: reached twice", slot)
    c.marks[slot >> 3] |= bit
    c.marked += 1
    return KV_OK


cdef int check_order(Checker* c, const Node* n, uint32_t i, bint is_separator) noexcept nogil:
    """The next key or separator of the walk is greater than the last one (a key may equal its
    separator)."""
    cdef size_t length = key_len_at(&c.t.slab, n, i)
    cdef uint8_t* spare
    cdef size_t m = length if length < c.last_len else c.last_len
    cdef int d
    key_write(&c.t.slab, n, node_heap(n), node_metas(n)[i], node_heads(n)[i], c.key)
    d = memcmp(c.last, c.key, m)
    if d == 0:
        d = -1 if c.last_len < length else (1 if c.last_len > length else 0)
    if d > 0 or (d == 0 and (is_separator or not c.last_is_separator)):
        return wrong(c, "ordered: keys do not ascend", i)
    spare = c.last
    c.last = c.key
    c.key = spare
    c.last_len = length
    c.last_is_separator = is_separator
    return KV_OK


cdef int check_heap(Checker* c, const Node* n, uint32_t slot) noexcept nogil:
    """Heap and head rules, and the tail blocks."""
    cdef const uint32_t* metas = node_metas(n)
    cdef uint32_t used = n.prefix_len + n.heap_dead
    cdef uint32_t fixed = leaf_fixed(n.cap, has_ext(n)) if is_leaf(n) else inner_fixed(n.cap)
    cdef uint32_t i
    cdef uint32_t tail
    cdef uint32_t slen
    cdef int status
    for i in range(n.n):
        slen = suffix_len(metas[i])
        used += heap_len(metas[i])
        if heap_len(metas[i]) and (metas[i] & META_OFFSET) + heap_len(metas[i]) > n.heap_used:
            return wrong(c, "heap: a key lies outside", slot)
        if slen < 8 and node_heads(n)[i] << (8 * slen):
            return wrong(c, "prefix: a head is not zero-padded", slot)
        if is_long(metas[i]):
            if n.prefix_len + slen != 256:
                return wrong(c, "heap: a long key is not 256 bytes inline", slot)
            tail = tail_slot_of(node_heap(n), metas[i])
            if tail == 0:
                return wrong(c, "heap: a long key without a tail block", slot)
            status = mark(c, tail, tail_class((<TailBlock*>slab_at(&c.t.slab, tail)).len))
            if status != KV_OK:
                return status
    if used != n.heap_used or n.heap_used > n.heap_cap:
        return wrong(c, "heap: used bytes do not add up", slot)
    if fixed + <uint64_t>n.heap_cap > slab_class_bytes(n.block_class) or n.n > n.cap:
        return wrong(c, "heap: the node is larger than its block", slot)
    return KV_OK


cdef bint before_cursor(const Checker* c) noexcept nogil:
    """Whether the key just met has been compacted to sweep_floor already."""
    cdef const BTree* t = c.t
    cdef size_t m = c.last_len if c.last_len < t.compact_cursor_len else t.compact_cursor_len
    cdef int d
    if t.compact_cursor == NULL:
        return False
    d = memcmp(c.last, t.compact_cursor, m)
    return d < 0 or (d == 0 and c.last_len < t.compact_cursor_len)


cdef int check_chain(Checker* c, const Node* leaf, uint32_t i) noexcept nogil:
    cdef int64_t floor = c.t.sweep_floor if before_cursor(c) else c.t.floor
    cdef uint32_t slot = leaf_recs(leaf)[i].older
    cdef KvVersion v
    cdef KvVersion newer
    cdef const ChainRec* r
    cdef int status
    if c.snapshot != NULL:
        floor = c.snapshot.view.floor_next
    leaf_version(leaf, i, &v)
    while True:
        if (v.version == 0) != (v.create == 0) or (v.create == 0 and (v.len or v.lease)):
            return wrong(c, "chains: a malformed version", slot)
        if v.create > v.mod or v.version < 0:
            return wrong(c, "chains: created after its change", slot)
        if slot == 0 or v.mod <= floor:
            return KV_OK
        status = mark(c, slot, 0)
        if status != KV_OK:
            return status
        if c.snapshot == NULL:
            c.records += 1
        newer = v
        r = <const ChainRec*>slab_at(&c.t.slab, slot)
        chain_version(r, &v)
        slot = r.older
        if v.mod > newer.mod or (v.mod == newer.mod and v.sub >= newer.sub):
            return wrong(c, "chains: revisions do not fall", slot)
        # Versions rise by one, but where a repair has left out what was damaged.
        if newer.create and v.create and (
                newer.create != v.create or newer.version <= v.version):
            return wrong(c, "chains: a generation is broken", slot)
        if v.create == 0 and newer.create < v.mod:
            return wrong(c, "chains: what follows a tombstone", slot)


cdef int check_leaf(Checker* c, const Node* n, uint32_t slot, uint64_t* live) noexcept nogil:
    cdef uint32_t i
    cdef uint32_t alive = 0
    cdef int status
    for i in range(n.n):
        status = check_order(c, n, i, False)
        if status == KV_OK:
            status = check_chain(c, n, i)
        if status != KV_OK:
            return status
        alive += leaf_recs(n)[i].create != 0
    if alive != n.live:
        return wrong(c, "counts: live of a leaf", slot)
    if c.snapshot == NULL:
        c.keys += n.n
        c.live += alive
        c.leaves += 1
    live[0] = alive
    return KV_OK


cdef int check_node(Checker* c, uint32_t slot, uint32_t levels, bint root, bint right,
                    uint64_t* live) noexcept nogil:
    """A subtree of `levels` levels; *live gets its live keys."""
    cdef const Node* n = node_at(&c.t.slab, slot)
    cdef uint32_t order = c.t.order
    cdef uint32_t least
    cdef uint64_t below
    cdef uint32_t i
    cdef int status = mark(c, slot, n.block_class)
    if status == KV_OK:
        status = check_heap(c, n, slot)
    if status != KV_OK:
        return status
    if is_leaf(n) != (levels == 1):
        return wrong(c, "balance: a leaf at another depth", slot)
    if is_leaf(n):
        least = 1 if root or right else order // 2
        if n.n < least or n.n > order:
            return wrong(c, "balance: keys of a leaf", slot)
        return check_leaf(c, n, slot, live)
    least = 2 if root or right else (order + 1) // 2
    if <uint32_t>n.n + 1 < least or <uint32_t>n.n + 1 > order:
        return wrong(c, "balance: children of an inner node", slot)
    if c.snapshot == NULL:
        c.inners += 1
    live[0] = 0
    for i in range(<uint32_t>n.n + 1):
        if i:
            status = check_order(c, n, i - 1, True)
            if status != KV_OK:
                return status
        status = check_node(c, inner_children(n)[i], levels - 1, False, right and i == n.n, &below)
        if status != KV_OK:
            return status
        if below != inner_counts(n)[i]:
            return wrong(c, "counts: live keys below a child", slot)
        live[0] += below
    return KV_OK


cdef int check_dead(Checker* c, const BtSnapshot* s, uint64_t* dead) noexcept nogil:
    """Marks the entries of the dead lists of a list of snapshots."""
    cdef const DeadBlock* b
    cdef uint32_t i
    cdef int status
    while s != NULL:
        b = s.dead
        while b != NULL:
            for i in range(b.n):
                if b == s.dead and i >= s.kept and i < s.drained:
                    continue
                status = mark(c, b.slot[i], b.block_class[i])
                if status != KV_OK:
                    return status
                dead[0] += 1
            b = b.next
        s = s.older
    return KV_OK


cdef int check_cut(Checker* c) noexcept nogil:
    """The chain that is cut off and not yet retired."""
    cdef uint32_t slot = c.t.cut_slot
    cdef const ChainRec* r
    cdef int status
    while slot:
        status = mark(c, slot, 0)
        if status != KV_OK:
            return status
        c.records += 1
        r = <const ChainRec*>slab_at(&c.t.slab, slot)
        slot = r.older if r.mod > c.t.cut_floor else 0
    return KV_OK


cdef int check_snapshots(Checker* c) noexcept nogil:
    cdef const BtSnapshot* s = c.t.newest
    cdef uint64_t live
    cdef int status
    while s != NULL:
        c.snapshot = s
        c.last_len = 0
        c.last_is_separator = False
        live = 0
        if s.view.root:
            status = check_node(c, s.view.root, s.view.depth, True, True, &live)
            if status != KV_OK:
                return status
        if live != s.view.live:
            return wrong(c, "counts: live keys of a snapshot", s.view.root)
        if s.older != NULL and s.older.epoch >= s.epoch:
            return wrong(c, "epochs: snapshots out of order", 0)
        s = s.older
    c.snapshot = NULL
    return KV_OK


cdef int check_tree(Checker* c) noexcept nogil:
    cdef const BTree* t = c.t
    cdef const char* message
    cdef uint64_t live = 0
    cdef uint64_t dead = 0
    cdef int status = KV_OK
    if (t.root == 0) != (t.depth == 0):
        return wrong(c, "balance: depth of an empty tree", t.root)
    if t.shared_epoch != (t.newest.epoch if t.newest != NULL else 0) or t.shared_epoch >= t.epoch:
        return wrong(c, "epochs: shared_epoch is the newest snapshot's", 0)
    if t.root:
        status = check_node(c, t.root, t.depth, True, True, &live)
    if status == KV_OK:
        status = check_cut(c)
    if status == KV_OK and (c.keys != t.keys or live != t.live or c.live != t.live
                            or c.records != t.chain_records or c.leaves != t.leaves
                            or c.inners != t.inners):
        status = wrong(c, "counts: totals of the tree", t.root)
    if status == KV_OK:
        status = check_dead(c, t.newest, &dead)
    if status == KV_OK:
        status = check_dead(c, t.draining, &dead)
    if status == KV_OK and dead != t.dead_blocks:
        status = wrong(c, "counts: dead blocks", dead)
    if status == KV_OK:
        status = check_snapshots(c)
    if status == KV_OK and c.marked != t.slab.live_blocks:
        status = wrong(c, "reachable-xor-free: blocks neither reachable, dead nor free",
                       t.slab.live_blocks - c.marked)
    if status == KV_OK:
        message = slab_check(&t.slab, c.marks)
        if message != NULL:
            status = wrong(c, message, 0)
    return status


# ---- C face ----------------------------------------------------------------------------------

cdef void bt_stats(const BTree* t, BtStats* out) noexcept nogil:
    out.keys = t.keys
    out.live = t.live
    out.versions = t.keys + t.chain_records
    out.leaves = t.leaves
    out.inners = t.inners
    out.depth = t.depth
    out.live_bytes = t.slab.live_bytes
    out.chunk_bytes = t.slab.chunk_bytes
    out.free_bytes = t.slab.chunk_bytes - t.slab.live_bytes
    out.live_blocks = t.slab.live_blocks
    out.dead_blocks = t.dead_blocks
    out.snapshots = t.snapshots
    out.copied_nodes = t.copied_nodes


cdef int bt_check(const BTree* t, char* buf, size_t size) noexcept nogil:
    cdef Checker c
    cdef int status
    memset(&c, 0, sizeof(c))
    c.t = t
    c.buf = buf
    c.size = size
    c.marks = <uint8_t*>calloc(<size_t>t.slab.chunk_count * SLAB_CHUNK_SLOTS // 8, 1)
    c.last = <uint8_t*>malloc(KV_KEY_MAX_BYTES)
    c.key = <uint8_t*>malloc(KV_KEY_MAX_BYTES)
    if c.marks == NULL or c.last == NULL or c.key == NULL:
        status = KV_NOMEM
    else:
        status = check_tree(&c)
    free(c.marks)
    free(c.last)
    free(c.key)
    return status
