# SPDX-License-Identifier: Apache-2.0
"""Compaction in budgeted steps, and the bulk load of an empty tree.

    keys:   a  b  c  d | e  f  g            cursor before e: a..d are compacted to sweep_floor,
                       ^ cursor             e..g still end at `floor`
    chain of d:  9 -> 7 -> 4 -> 2           sweep_floor 8: 7 stays as the last version,
                      └ cut                 4 -> 2 are cut off at once and retired in steps

Compaction writes into no leaf and no record: where a chain ends follows from the floor alone, so
that snapshots need no copies.  Only a key that is removed changes its leaf.
Invariants: keys before the cursor end at sweep_floor, the others at floor; what is cut and not yet
retired hangs on cut_slot alone.
Thread safety: the tree's lock.  Ownership: a BtLoader owns what it was given until it is linked.
May not know: who asks for a compaction and why.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from kvcore._build cimport entry_key, leaf_build, tail_new
from kvcore._epoch cimport reserve_dead, retire_record
from kvcore._native cimport (
    KV_EMPTY_KEY, KV_KEY_MAX_BYTES, KV_KEY_TOO_LARGE, KV_NOMEM, KV_OK, KV_REVISION_ORDER, KvSlice,
    KvVersion, kv_assert,
)
from kvcore._node cimport (
    ChainRec, INLINE_MAX, LeafRec, Node, TailBlock, key_len_at, key_write, leaf_mods, leaf_recs,
    node_at, node_heads, node_heap, node_metas, tail_class,
)
from kvcore._slab cimport slab_at, slab_free, slab_heap_give, slab_heap_take
from kvcore._tree cimport BTree, BtPath, LeafItem, NewEntry
from kvcore._tree_write cimport append_leaf, find_path, record_new, remove_entry

cdef enum:
    CURSOR_BYTES = KV_KEY_MAX_BYTES + 1


cdef struct BtLoader:
    BTree* tree
    uint32_t n                   # entries gathered
    uint32_t last_len
    NewEntry* entries            # `order` of them
    uint8_t* last                # the greatest key so far


# ---- private helpers: the sweep --------------------------------------------------------------

cdef inline bint set_cursor(BTree* t, const Node* n, uint32_t i, bint behind) noexcept nogil:
    """The cursor goes to key i of a node, or to the smallest key behind it."""
    cdef size_t length = key_len_at(&t.slab, n, i)
    key_write(&t.slab, n, node_heap(n), node_metas(n)[i], node_heads(n)[i], t.compact_cursor)
    if behind:
        t.compact_cursor[length] = 0
        length += 1
    kv_assert(length <= CURSOR_BYTES, "the cursor has room for every key")
    t.compact_cursor_len = <uint32_t>length
    return True


cdef uint32_t find_cut(const BTree* t, const Node* leaf, uint32_t i,
                       uint64_t* budget) noexcept nogil:
    """The first record behind the newest version <= sweep_floor; 0 when none is kept behind it."""
    cdef int64_t mod = leaf_mods(leaf)[i]
    cdef uint32_t slot = leaf_recs(leaf)[i].older
    cdef const ChainRec* r
    while slot and mod > t.sweep_floor:
        r = <const ChainRec*>slab_at(&t.slab, slot)
        mod = r.mod
        slot = r.older
        if budget[0] > 1:
            budget[0] -= 1
    return slot if mod > t.floor else 0


cdef void end_sweep(BTree* t) noexcept nogil:
    t.floor = t.sweep_floor
    if t.floor_next > t.floor:                       # asked for meanwhile: begin again
        t.sweep_floor = t.floor_next
        t.compact_cursor_len = 0
        return
    slab_heap_give(&t.slab, t.compact_cursor, CURSOR_BYTES)
    t.compact_cursor = NULL
    t.compact_cursor_len = 0


cdef int cut_records(BTree* t, uint64_t* budget) noexcept nogil:
    """Retires the records that hang on cut_slot."""
    cdef uint32_t slot
    cdef ChainRec* r
    while t.cut_slot and budget[0]:
        if reserve_dead(t, 1) != KV_OK:
            return KV_NOMEM
        slot = t.cut_slot
        r = <ChainRec*>slab_at(&t.slab, slot)
        t.cut_slot = r.older if r.mod > t.cut_floor else 0
        retire_record(t, slot)
        t.compacted_versions += 1
        budget[0] -= 1
    return KV_OK


cdef int remove_key(BTree* t, BtPath* path, uint64_t* budget) noexcept nogil:
    """The entry under the path is a tombstone older than sweep_floor: it goes, and its chain."""
    cdef Node* leaf = node_at(&t.slab, path.slot[path.levels - 1])
    cdef uint32_t i = path.at[path.levels - 1]
    cdef uint32_t cut = leaf_recs(leaf)[i].older
    if leaf_mods(leaf)[i] <= t.floor:
        cut = 0
    set_cursor(t, leaf, i, False)
    if remove_entry(t, path) != KV_OK:
        return KV_NOMEM
    t.compacted_versions += 1
    t.cut_slot = cut
    t.cut_floor = t.floor
    return KV_OK


cdef void next_leaf(BTree* t, const BtPath* path) noexcept nogil:
    """The cursor goes to the separator right of the leaf, or the sweep ends."""
    cdef uint32_t level = path.levels - 1
    while level > 0:
        level -= 1
        if path.at[level] < node_at(&t.slab, path.slot[level]).n:
            set_cursor(t, node_at(&t.slab, path.slot[level]), path.at[level], False)
            return
    end_sweep(t)


cdef int sweep_leaf(BTree* t, uint64_t* budget) noexcept nogil:
    """Looks at the entries of one leaf from the cursor on; stops at the first that changes
    something."""
    cdef BtPath path
    cdef KvSlice key
    cdef Node* leaf
    cdef const LeafRec* rec
    cdef uint32_t i
    cdef uint32_t cut
    cdef bint found
    if t.root == 0:
        end_sweep(t)
        return KV_OK
    key.ptr = t.compact_cursor
    key.len = t.compact_cursor_len
    find_path(t, key, &path, &found)
    leaf = node_at(&t.slab, path.slot[path.levels - 1])
    i = path.at[path.levels - 1]
    while i < leaf.n and budget[0]:
        budget[0] -= 1
        rec = &leaf_recs(leaf)[i]
        if rec.create == 0 and leaf_mods(leaf)[i] < t.sweep_floor:
            path.at[path.levels - 1] = i
            return remove_key(t, &path, budget)
        if rec.older and leaf_mods(leaf)[i] > t.floor:
            cut = find_cut(t, leaf, i, budget)
            if cut:
                set_cursor(t, leaf, i, True)
                t.cut_slot = cut
                t.cut_floor = t.floor
                return KV_OK
        i += 1
    if i < leaf.n:
        set_cursor(t, leaf, i, False)
    else:
        next_leaf(t, &path)
    return KV_OK


# ---- private helpers: the loader -------------------------------------------------------------

cdef int load_flush(BtLoader* b) noexcept nogil:
    """Makes a leaf of what was gathered."""
    cdef BTree* t = b.tree
    cdef LeafItem* items = <LeafItem*>t.scratch
    cdef uint32_t slot
    cdef uint32_t live
    cdef uint32_t i
    if b.n == 0:
        return KV_OK
    for i in range(b.n):
        items[i].src = NULL
        items[i].idx = i
    if leaf_build(t, items, b.n, b.entries, &slot) != KV_OK:
        return KV_NOMEM
    live = node_at(&t.slab, slot).live
    if append_leaf(t, slot) != KV_OK:
        return KV_NOMEM
    t.keys += b.n
    t.live += live
    b.n = 0
    return KV_OK


cdef void drop_chain(BTree* t, uint32_t slot) noexcept nogil:
    """Frees the records of an entry that was never linked."""
    cdef uint32_t older
    while slot:
        older = (<ChainRec*>slab_at(&t.slab, slot)).older
        slab_free(&t.slab, slot, 0)
        t.chain_records -= 1
        slot = older


cdef bint load_order_ok(const BtLoader* b, KvSlice key, const KvVersion* versions,
                        uint32_t n) noexcept nogil:
    """Whether the key is greater than the last one, and its versions are sound and ascend: of one
    generation as long as no tombstone lies between them."""
    cdef size_t m = key.len if key.len < b.last_len else b.last_len
    cdef int c = memcmp(key.ptr, b.last, m)
    cdef uint32_t i
    if c < 0 or (c == 0 and key.len <= b.last_len) or n == 0:
        return False
    for i in range(n):
        if (versions[i].create == 0) != (versions[i].version == 0):
            return False
    for i in range(1, n):
        if versions[i].mod < versions[i - 1].mod or (
                versions[i].mod == versions[i - 1].mod and versions[i].sub <= versions[i - 1].sub):
            return False
        if versions[i].create and versions[i - 1].create and (
                versions[i].create != versions[i - 1].create
                or versions[i].version <= versions[i - 1].version):
            return False
    return True


# ---- C face ----------------------------------------------------------------------------------

cdef int bt_compact(BTree* t, int64_t rev) noexcept nogil:
    kv_assert(rev > t.floor_next, "compaction revisions ascend")
    if t.compact_cursor == NULL:
        t.compact_cursor = <uint8_t*>slab_heap_take(&t.slab, CURSOR_BYTES)
        if t.compact_cursor == NULL:
            return KV_NOMEM
        t.compact_cursor_len = 0
        t.sweep_floor = rev
    t.floor_next = rev
    return KV_OK


cdef bint bt_compact_step(BTree* t, uint64_t budget, int* status) noexcept nogil:
    status[0] = KV_OK
    while budget and status[0] == KV_OK:
        if t.cut_slot:
            status[0] = cut_records(t, &budget)
        elif t.compact_cursor != NULL:
            status[0] = sweep_leaf(t, &budget)
        else:
            break
    return t.cut_slot != 0 or t.compact_cursor != NULL


cdef BtLoader* bt_load_begin(BTree* t) noexcept nogil:
    cdef BtLoader* b
    kv_assert(t.root == 0, "only an empty tree is loaded")
    b = <BtLoader*>slab_heap_take(&t.slab, sizeof(BtLoader))
    if b == NULL:
        return NULL
    b.tree = t
    b.n = 0
    b.last_len = 0
    b.entries = <NewEntry*>slab_heap_take(&t.slab, t.order * sizeof(NewEntry))
    b.last = <uint8_t*>slab_heap_take(&t.slab, CURSOR_BYTES)
    if b.entries == NULL or b.last == NULL:
        bt_load_end(b)
        return NULL
    return b


cdef int bt_load_push(BtLoader* b, KvSlice key, const KvVersion* versions,
                      uint32_t n) noexcept nogil:
    cdef BTree* t = b.tree
    cdef NewEntry* e
    cdef uint32_t chain = 0
    cdef uint32_t slot
    cdef uint32_t i
    if key.len == 0:
        return KV_EMPTY_KEY
    if key.len > KV_KEY_MAX_BYTES:
        return KV_KEY_TOO_LARGE
    if not load_order_ok(b, key, versions, n):
        return KV_REVISION_ORDER
    if b.n == t.order and load_flush(b) != KV_OK:
        return KV_NOMEM
    for i in range(n - 1):
        slot = record_new(t, &versions[i], chain)
        if slot == 0:
            drop_chain(t, chain)
            return KV_NOMEM
        chain = slot
    e = &b.entries[b.n]
    entry_key(key, &e.key)
    if key.len > INLINE_MAX and tail_new(t, key, &e.key.tail_slot) != KV_OK:
        drop_chain(t, chain)
        return KV_NOMEM
    e.v = versions[n - 1]
    e.older = chain
    memcpy(b.last, key.ptr, key.len)
    b.last_len = <uint32_t>key.len
    b.n += 1
    return KV_OK


cdef int bt_load_end(BtLoader* b) noexcept nogil:
    cdef BTree* t = b.tree
    cdef int status = load_flush(b)
    cdef uint32_t i
    cdef uint32_t tail
    for i in range(b.n):                             # a refused flush: what was not linked goes
        drop_chain(t, b.entries[i].older)
        tail = b.entries[i].key.tail_slot
        if tail:
            slab_free(&t.slab, tail, tail_class((<TailBlock*>slab_at(&t.slab, tail)).len))
    slab_heap_give(&t.slab, b.entries, t.order * sizeof(NewEntry))
    slab_heap_give(&t.slab, b.last, CURSOR_BYTES)
    slab_heap_give(&t.slab, b, sizeof(BtLoader))
    return status
