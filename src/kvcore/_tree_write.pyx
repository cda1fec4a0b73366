# SPDX-License-Identifier: Apache-2.0
"""Writing: put, delete, move, and how splits and merges climb the tree.

    put into a full leaf L       build L1, L2 beside it  parent: L -> L1 | sep | L2
    (nothing linked yet)         (a refusal frees both)  room: in place, done
                                                         none: build the parent's successors, climb

One rule makes every refusal harmless: *fresh blocks first, one change in place last*.  A structural
change is a `Swap`: one or two neighbouring children give way to one or two.  It climbs until a
parent takes it in place (or the root changes); only then is anything that readers reach altered,
only then are the old blocks retired.
Snapshots: the path to the leaf is made unshared first (`own_path`), so that nothing here asks
again.
Invariants kept: ordered, counts, balance (docs/index-layout.md).  The right spine may be thin: a
leaf there holds at least one key, an inner node two children.
Thread safety: the tree's lock.  Ownership: the tree owns all blocks.  May not know: compaction.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from kvcore._build cimport (
    entry_key, inner_build, inner_insert, inner_live, inner_remove, key_fits, leaf_build,
    leaf_insert, leaf_remove, leaf_set, needs_ext, separator, tail_new,
)
from kvcore._epoch cimport (
    bt_drain_step, discard_node, drop_snapshots, own_path, reserve_dead, retire_node,
    retire_tail,
)
from kvcore._native cimport (
    KV_EMPTY_KEY, KV_KEY_MAX_BYTES, KV_KEY_TOO_LARGE, KV_NOMEM, KV_NOTFOUND, KV_OK,
    KV_REVISION_ORDER, KvMem, KvSlice, KvVersion, kv_assert, kv_load_u64, kv_store_u64,
    kv_unlikely,
)
from kvcore._node cimport (
    ChainRec, EntryKey, INLINE_MAX, LeafRec, Node, TailBlock, has_ext, inner_children,
    inner_counts, inner_heap, inner_metas, inner_search, is_alive, is_leaf, leaf_heap,
    leaf_metas, leaf_mods, leaf_recs, leaf_search, leaf_version, node_at, node_key,
    prefetch_node, tail_class, tail_slot_of,
)
from kvcore._slab cimport (
    slab_alloc, slab_at, slab_deinit, slab_free, slab_heap_give, slab_heap_take, slab_init,
)
from kvcore._tree cimport (
    BT_MAX_DEPTH, BT_MAX_ORDER, BT_MIN_ORDER, BTree, BtPath, InnerItem, LeafItem, NewEntry,
)

cdef enum:
    CHANGES_MAX = 4 * BT_MAX_DEPTH + 8
    DRAIN_PER_WRITE = 4          # dead entries a write works off


# What a structural change has made and what it will make superfluous.
cdef struct Change:
    uint32_t n_fresh
    uint32_t n_old
    uint32_t n_tails
    uint32_t fresh[CHANGES_MAX]  # nodes
    uint32_t old[CHANGES_MAX]    # nodes
    uint32_t tails[4]            # superfluous tail blocks
    uint32_t made_tail           # tail block of a fresh separator; 0: none


# `n_old` children of a node from `at` on give way to `n_new`.
cdef struct Swap:
    uint32_t at
    uint32_t n_old
    uint32_t n_new
    uint32_t slot[2]
    uint64_t count[2]
    EntryKey sep                 # between the two new ones


# ---- private helpers: paths ------------------------------------------------------------------

cdef inline Node* leaf_of(const BTree* t, const BtPath* path) noexcept nogil:
    return node_at(&t.slab, path.slot[path.levels - 1])


cdef void add_counts(BTree* t, const BtPath* path, uint32_t levels, int64_t delta) noexcept nogil:
    """The live count of the child taken changes by delta in the first `levels` nodes of the
    path."""
    cdef uint32_t level
    if delta:
        for level in range(levels):
            inner_counts(node_at(&t.slab, path.slot[level]))[path.at[level]] += <uint64_t>delta


cdef bint on_right_spine(const BTree* t, const BtPath* path, uint32_t level) noexcept nogil:
    cdef uint32_t k
    for k in range(level):
        if path.at[k] != node_at(&t.slab, path.slot[k]).n:
            return False
    return True


cdef inline uint32_t min_keys(const BTree* t) noexcept nogil:
    return t.order // 2


cdef inline uint32_t min_children(const BTree* t) noexcept nogil:
    return (t.order + 1) // 2


# ---- private helpers: changes ----------------------------------------------------------------

cdef inline void change_init(Change* c) noexcept nogil:
    c.n_fresh = 0
    c.n_old = 0
    c.n_tails = 0
    c.made_tail = 0


cdef int abort(BTree* t, Change* c) noexcept nogil:
    """Frees what was made; returns KV_NOMEM."""
    cdef uint32_t i
    for i in range(c.n_fresh):
        discard_node(t, c.fresh[i])
    if c.made_tail:
        slab_free(&t.slab, c.made_tail,
                  tail_class((<TailBlock*>slab_at(&t.slab, c.made_tail)).len))
    return KV_NOMEM


cdef void finish(BTree* t, Change* c) noexcept nogil:
    """Retires what the change made superfluous."""
    cdef uint32_t i
    for i in range(c.n_old):
        retire_node(t, c.old[i])
    for i in range(c.n_tails):
        retire_tail(t, c.tails[i])


cdef inline int make_leaf(BTree* t, Change* c, const LeafItem* items, uint32_t n,
                          const NewEntry* fresh, Swap* s, uint32_t k) noexcept nogil:
    """Builds new child k of a swap."""
    if leaf_build(t, items, n, fresh, &s.slot[k]) != KV_OK:
        return KV_NOMEM
    c.fresh[c.n_fresh] = s.slot[k]
    c.n_fresh += 1
    s.count[k] = node_at(&t.slab, s.slot[k]).live
    return KV_OK


cdef inline int make_inner(BTree* t, Change* c, const InnerItem* items, uint32_t n,
                           const EntryKey* fresh, Swap* s, uint32_t k) noexcept nogil:
    if inner_build(t, items, n, fresh, &s.slot[k]) != KV_OK:
        return KV_NOMEM
    c.fresh[c.n_fresh] = s.slot[k]
    c.n_fresh += 1
    s.count[k] = inner_live(node_at(&t.slab, s.slot[k]))
    return KV_OK


cdef bint swap_in_place(BTree* t, const BtPath* path, uint32_t level, Change* c,
                        const Swap* s) noexcept nogil:
    """Lets the node at `level` take the swap as it is; False when it cannot."""
    cdef Node* p = node_at(&t.slab, path.slot[level])
    cdef uint32_t least = min_children(t)
    if s.n_new > s.n_old:
        if not inner_insert(p, t.order, s.at, &s.sep, s.slot[1], s.count[1]):
            return False
    elif s.n_new < s.n_old:
        if level == 0 and p.n == 1:                  # the root's last two became one
            t.root = s.slot[0]
            t.depth -= 1
            c.old[c.n_old] = path.slot[0]
            c.n_old += 1
            return True
        if level > 0 and p.n < least and not (p.n >= 2 and on_right_spine(t, path, level)):
            return False
        inner_remove(p, s.at)
    elif s.n_new == 2:
        if not key_fits(p, inner_heap(p), &s.sep):
            return False
        inner_remove(p, s.at)
        kv_assert(inner_insert(p, t.order, s.at, &s.sep, s.slot[1], s.count[1]), "room was made")
    inner_children(p)[s.at] = s.slot[0]
    inner_counts(p)[s.at] = s.count[0]
    return True


cdef inline void put_item(InnerItem* item, const Node* src, uint32_t idx, uint32_t child,
                          uint64_t count) noexcept nogil:
    item.src = src
    item.idx = idx
    item.child = child
    item.count = count


cdef uint32_t list_children(const Node* p, const Swap* s, InnerItem* items) noexcept nogil:
    """The children of p as the swap leaves them; `s` may be NULL.  The first item has no
    separator."""
    cdef uint32_t n = 0
    cdef uint32_t i = 0
    while i <= p.n:
        if s != NULL and i == s.at:
            put_item(&items[n], p, i - 1, s.slot[0], s.count[0])
            n += 1
            if s.n_new == 2:
                put_item(&items[n], NULL, 0, s.slot[1], s.count[1])
                n += 1
            i += s.n_old
            continue
        put_item(&items[n], p, i - 1, inner_children(p)[i], inner_counts(p)[i])
        n += 1
        i += 1
    return n


cdef int cut_in_two(BTree* t, Change* c, const InnerItem* items, uint32_t n, uint32_t left,
                    const Swap* s, Swap* up) noexcept nogil:
    """Builds two inner nodes from n children; the separator between them moves up."""
    up.n_new = 2
    if items[left].src == NULL:
        up.sep = s.sep
    else:
        node_key(items[left].src, items[left].idx, &up.sep)
    if make_inner(t, c, items, left, &s.sep, up, 0) != KV_OK:
        return KV_NOMEM
    return make_inner(t, c, items + left, n - left, &s.sep, up, 1)


cdef int swap_rebuilt(BTree* t, const BtPath* path, uint32_t level, Change* c, const Swap* s,
                      Swap* up) noexcept nogil:
    """Builds the successors of the node at `level` under swap s; `up` is what its parent is to
    do."""
    cdef Node* p = node_at(&t.slab, path.slot[level])
    cdef InnerItem* items = <InnerItem*>t.scratch
    cdef Node* q
    cdef Node* grand
    cdef uint32_t n = p.n + 1 - s.n_old + s.n_new
    cdef uint32_t mine
    cdef bint right = on_right_spine(t, path, level)
    up.at = path.at[level - 1] if level else 0
    up.n_old = 1
    up.n_new = 1
    c.old[c.n_old] = path.slot[level]
    c.n_old += 1
    if n > t.order:
        list_children(p, s, items)
        if right and s.at == p.n:
            return cut_in_two(t, c, items, n, n - 2, s, up)
        return cut_in_two(t, c, items, n, n // 2, s, up)
    if level == 0 or n >= min_children(t) or (right and n >= 2):
        list_children(p, s, items)
        return make_inner(t, c, items, n, &s.sep, up, 0)
    # Too few: together with a neighbour, whose separator comes down between them.
    grand = node_at(&t.slab, path.slot[level - 1])
    up.n_old = 2
    if up.at > 0:
        up.at -= 1
        q = node_at(&t.slab, inner_children(grand)[up.at])
        c.old[c.n_old] = inner_children(grand)[up.at]
        mine = list_children(q, NULL, items)
        n = mine + list_children(p, s, items + mine)
    else:
        q = node_at(&t.slab, inner_children(grand)[1])
        c.old[c.n_old] = inner_children(grand)[1]
        mine = list_children(p, s, items)
        n = mine + list_children(q, NULL, items + mine)
    c.n_old += 1
    items[mine].src = grand
    items[mine].idx = up.at
    if n <= t.order:
        return make_inner(t, c, items, n, &s.sep, up, 0)
    return cut_in_two(t, c, items, n, n // 2, s, up)


cdef int new_root(BTree* t, Change* c, const Swap* s) noexcept nogil:
    """The root itself gave way: to one node, or to two under a new root."""
    cdef InnerItem items[2]
    cdef Swap up
    if s.n_new == 1:
        t.root = s.slot[0]
        return KV_OK
    if t.depth == BT_MAX_DEPTH:
        return KV_NOMEM
    put_item(&items[0], NULL, 0, s.slot[0], s.count[0])
    put_item(&items[1], NULL, 0, s.slot[1], s.count[1])
    if make_inner(t, c, items, 2, &s.sep, &up, 0) != KV_OK:
        return KV_NOMEM
    t.root = up.slot[0]
    t.depth += 1
    return KV_OK


cdef int climb(BTree* t, const BtPath* path, Change* c, Swap* s, int64_t delta) noexcept nogil:
    """Carries a swap of leaves up until it is done, then retires the old blocks."""
    cdef int64_t level = <int64_t>path.levels - 2
    cdef Swap up
    if reserve_dead(t, 3 * path.levels + 8) != KV_OK:
        return abort(t, c)
    while level >= 0:
        if swap_in_place(t, path, <uint32_t>level, c, s):
            add_counts(t, path, <uint32_t>level, delta)
            finish(t, c)
            return KV_OK
        if swap_rebuilt(t, path, <uint32_t>level, c, s, &up) != KV_OK:
            return abort(t, c)
        s[0] = up
        level -= 1
    if new_root(t, c, s) != KV_OK:
        return abort(t, c)
    finish(t, c)
    return KV_OK


cdef int leaf_separator(BTree* t, Change* c, const LeafItem* items, uint32_t left,
                        const NewEntry* fresh, Swap* s) noexcept nogil:
    """The separator between items left - 1 and left."""
    cdef EntryKey a
    cdef EntryKey b
    cdef const LeafItem* x = &items[left - 1]
    if x.src == NULL:
        a = fresh[x.idx].key
    else:
        node_key(x.src, x.idx, &a)
    x = &items[left]
    if x.src == NULL:
        b = fresh[x.idx].key
    else:
        node_key(x.src, x.idx, &b)
    if separator(t, &a, &b, &s.sep) != KV_OK:
        return KV_NOMEM
    c.made_tail = s.sep.tail_slot
    return KV_OK


cdef inline uint32_t list_entries(const Node* p, uint32_t lo, uint32_t hi,
                                  LeafItem* items) noexcept nogil:
    cdef uint32_t i
    for i in range(lo, hi):
        items[i - lo].src = p
        items[i - lo].idx = i
    return hi - lo


# ---- private helpers: entries ----------------------------------------------------------------

cdef int two_leaves(BTree* t, Change* c, const LeafItem* items, uint32_t n, uint32_t left,
                    const NewEntry* fresh, Swap* s) noexcept nogil:
    s.n_new = 2
    if make_leaf(t, c, items, left, fresh, s, 0) != KV_OK:
        return KV_NOMEM
    if make_leaf(t, c, items + left, n - left, fresh, s, 1) != KV_OK:
        return KV_NOMEM
    return leaf_separator(t, c, items, left, fresh, s)


cdef int insert_built(BTree* t, const BtPath* path, const NewEntry* e) noexcept nogil:
    """Inserts where the leaf must be built anew: growth, another prefix, ext column, split."""
    cdef LeafItem* items = <LeafItem*>t.scratch
    cdef uint32_t slot = path.slot[path.levels - 1]
    cdef Node* leaf = node_at(&t.slab, slot)
    cdef uint32_t i = path.at[path.levels - 1]
    cdef uint32_t n = leaf.n
    cdef Change c
    cdef Swap s
    cdef int status
    change_init(&c)
    list_entries(leaf, 0, i, items)
    items[i].src = NULL
    items[i].idx = 0
    list_entries(leaf, i, n, items + i + 1)
    s.at = path.at[path.levels - 2] if path.levels > 1 else 0
    s.n_old = 1
    s.n_new = 1
    if n < t.order:
        status = make_leaf(t, &c, items, n + 1, e, &s, 0)
    elif i == n and on_right_spine(t, path, path.levels - 1):
        s.n_new = 2                                  # sorted input: leave the full leaf as it is
        s.slot[0] = slot
        s.count[0] = leaf.live
        status = make_leaf(t, &c, items + n, 1, e, &s, 1)
        if status == KV_OK:
            status = leaf_separator(t, &c, items, n, e, &s)
    else:
        status = two_leaves(t, &c, items, n + 1, (n + 1) // 2, e, &s)
    if status != KV_OK:
        return abort(t, &c)
    if s.n_new == 1 or s.slot[0] != slot:
        c.old[0] = slot
        c.n_old = 1
    return climb(t, path, &c, &s, e.v.create != 0)


cdef int set_built(BTree* t, const BtPath* path, const KvVersion* v, uint32_t older,
                   int64_t delta) noexcept nogil:
    """Overwrites an entry of a leaf that lacks the ext column."""
    cdef LeafItem* items = <LeafItem*>t.scratch
    cdef Node* leaf = leaf_of(t, path)
    cdef uint32_t i = path.at[path.levels - 1]
    cdef NewEntry e
    cdef Change c
    cdef Swap s
    change_init(&c)
    list_entries(leaf, 0, leaf.n, items)
    items[i].src = NULL
    items[i].idx = 0
    node_key(leaf, i, &e.key)
    e.v = v[0]
    e.older = older
    s.at = path.at[path.levels - 2] if path.levels > 1 else 0
    s.n_old = 1
    s.n_new = 1
    if make_leaf(t, &c, items, leaf.n, &e, &s, 0) != KV_OK:
        return abort(t, &c)
    c.old[0] = path.slot[path.levels - 1]
    c.n_old = 1
    return climb(t, path, &c, &s, delta)


cdef int first_key(BTree* t, const NewEntry* e) noexcept nogil:
    cdef LeafItem item
    item.src = NULL
    item.idx = 0
    if leaf_build(t, &item, 1, e, &t.root) != KV_OK:
        t.root = 0
        return KV_NOMEM
    t.depth = 1
    return KV_OK


cdef int put_new(BTree* t, BtPath* path, KvSlice key, const KvVersion* v) noexcept nogil:
    """A key the tree has no entry of."""
    cdef NewEntry e
    cdef int status = KV_OK
    entry_key(key, &e.key)
    e.v = v[0]
    e.older = 0
    if t.root and t.shared_epoch:
        status = own_path(t, path)
    if status == KV_OK and key.len > INLINE_MAX:
        status = tail_new(t, key, &e.key.tail_slot)
    if status != KV_OK:
        return status
    if t.root == 0:
        status = first_key(t, &e)
    elif leaf_insert(leaf_of(t, path), t.order, path.at[path.levels - 1], &e):
        add_counts(t, path, path.levels - 1, v.create != 0)
    else:
        status = insert_built(t, path, &e)
    if status != KV_OK:
        if e.key.tail_slot:
            slab_free(&t.slab, e.key.tail_slot, tail_class(<uint32_t>(key.len - INLINE_MAX)))
        return status
    t.keys += 1
    t.live += v.create != 0
    return KV_OK


cdef int put_over(BTree* t, BtPath* path, const KvVersion* v,
                  const KvVersion* latest) noexcept nogil:
    """A new latest version of an entry; the old one goes to the head of the chain."""
    cdef uint32_t i = path.at[path.levels - 1]
    cdef int64_t delta = <int64_t>(v.create != 0) - <int64_t>(latest.create != 0)
    cdef uint32_t slot
    cdef int status
    cdef Node* leaf
    if t.shared_epoch and own_path(t, path) != KV_OK:
        return KV_NOMEM
    leaf = leaf_of(t, path)
    slot = record_new(t, latest, leaf_recs(leaf)[i].older)
    if slot == 0:
        return KV_NOMEM
    if kv_unlikely(needs_ext(v) and not has_ext(leaf)):
        status = set_built(t, path, v, slot, delta)
        if status != KV_OK:
            t.chain_records -= 1
            slab_free(&t.slab, slot, 0)
            return status
    else:
        leaf_set(leaf, i, v, slot)
        leaf.live = <uint16_t>(leaf.live + delta)
        add_counts(t, path, path.levels - 1, delta)
    t.live += <uint64_t>delta
    return KV_OK


cdef int remove_merging(BTree* t, const BtPath* path) noexcept nogil:
    """Removes the entry under the path where its leaf becomes too small: one leaf, or two even
    ones, of what remains and the neighbour."""
    cdef LeafItem* items = <LeafItem*>t.scratch
    cdef uint32_t last = path.levels - 1
    cdef uint32_t i = path.at[last]
    cdef Node* leaf = leaf_of(t, path)
    cdef Node* parent = node_at(&t.slab, path.slot[last - 1])
    cdef Node* q
    cdef uint32_t n
    cdef int status
    cdef Change c
    cdef Swap s
    change_init(&c)
    s.at = path.at[last - 1]
    s.n_old = 2
    s.n_new = 1
    if s.at > 0:
        s.at -= 1
        q = node_at(&t.slab, inner_children(parent)[s.at])
        n = list_entries(q, 0, q.n, items)
        n += list_entries(leaf, 0, i, items + n)
        n += list_entries(leaf, i + 1, leaf.n, items + n)
    else:
        q = node_at(&t.slab, inner_children(parent)[1])
        n = list_entries(leaf, 0, i, items)
        n += list_entries(leaf, i + 1, leaf.n, items + n)
        n += list_entries(q, 0, q.n, items + n)
    c.old[0] = inner_children(parent)[s.at]
    c.old[1] = inner_children(parent)[s.at + 1]
    c.n_old = 2
    c.tails[0] = tail_slot_of(inner_heap(parent), inner_metas(parent)[s.at])
    c.n_tails = 1
    if n <= t.order:
        status = make_leaf(t, &c, items, n, NULL, &s, 0)
    else:
        status = two_leaves(t, &c, items, n, n // 2, NULL, &s)
    if status != KV_OK:
        return abort(t, &c)
    return climb(t, path, &c, &s, 0)


cdef inline bint after(int64_t mod, uint32_t sub, const KvVersion* latest) noexcept nogil:
    return mod > latest.mod or (mod == latest.mod and sub > latest.sub)


# ---- C face ----------------------------------------------------------------------------------

cdef int bt_init(BTree* t, uint32_t order, const KvMem* mem) noexcept nogil:
    kv_assert(order >= BT_MIN_ORDER and order <= BT_MAX_ORDER, "order in range")
    memset(t, 0, sizeof(BTree))
    if slab_init(&t.slab, mem) != KV_OK:
        return KV_NOMEM
    t.order = order
    t.epoch = 1
    t.scratch = slab_heap_take(&t.slab, (2 * order + 8) * sizeof(InnerItem))
    if t.scratch == NULL:
        slab_deinit(&t.slab)
        return KV_NOMEM
    return KV_OK


cdef void bt_deinit(BTree* t) noexcept nogil:
    if t.scratch == NULL:
        return
    drop_snapshots(t)
    slab_heap_give(&t.slab, t.compact_cursor, KV_KEY_MAX_BYTES + 1)
    slab_heap_give(&t.slab, t.scratch, (2 * t.order + 8) * sizeof(InnerItem))
    t.compact_cursor = NULL
    t.scratch = NULL
    slab_deinit(&t.slab)


cdef void find_path(const BTree* t, KvSlice key, BtPath* path, bint* found) noexcept nogil:
    cdef uint32_t slot = t.root
    cdef uint32_t level = 0
    cdef uint32_t last = t.depth - 1
    cdef Node* n
    kv_assert(t.root != 0 and t.depth <= BT_MAX_DEPTH, "a path needs a root")
    path.levels = t.depth
    while level < last:
        n = node_at(&t.slab, slot)
        path.slot[level] = slot
        path.at[level] = inner_search(&t.slab, n, key)
        slot = inner_children(n)[path.at[level]]
        prefetch_node(node_at(&t.slab, slot), t.order, level + 1 == last)
        level += 1
    path.slot[level] = slot
    path.at[level] = leaf_search(&t.slab, node_at(&t.slab, slot), key, found)


cdef uint32_t record_new(BTree* t, const KvVersion* v, uint32_t older) noexcept nogil:
    cdef uint32_t slot = slab_alloc(&t.slab, 0)
    cdef ChainRec* r
    if slot == 0:
        return 0
    r = <ChainRec*>slab_at(&t.slab, slot)
    r.epoch = t.epoch
    r.mod = v.mod
    r.create = v.create
    r.version = v.version
    r.lease = v.lease
    r.pos = v.pos
    r.len = v.len
    r.sub = v.sub
    r.older = older
    r.zero = 0
    t.chain_records += 1
    return slot


cdef int bt_put(BTree* t, KvSlice key, KvVersion* v, KvVersion* prev) noexcept nogil:
    cdef BtPath path
    cdef KvVersion latest
    cdef KvVersion made = v[0]
    cdef bint found = False
    cdef int status
    if kv_unlikely(key.len == 0):
        return KV_EMPTY_KEY
    if kv_unlikely(key.len > KV_KEY_MAX_BYTES):
        return KV_KEY_TOO_LARGE
    if t.draining != NULL:
        bt_drain_step(t, DRAIN_PER_WRITE)
    if t.root:
        find_path(t, key, &path, &found)
    if found:
        leaf_version(leaf_of(t, &path), path.at[path.levels - 1], &latest)
        if kv_unlikely(not after(v.mod, v.sub, &latest)):
            return KV_REVISION_ORDER
    else:
        memset(&latest, 0, sizeof(latest))
    if latest.create:
        made.create = latest.create
        made.version = latest.version + 1
    else:
        made.create = v.create if v.create > 0 else v.mod
        made.version = 1
    if found:
        status = put_over(t, &path, &made, &latest)
    else:
        status = put_new(t, &path, key, &made)
    if status != KV_OK:
        return status
    v[0] = made
    if prev != NULL:
        prev[0] = latest
    return KV_OK


cdef int bt_delete(BTree* t, KvSlice key, int64_t mod, uint32_t sub,
                   KvVersion* prev) noexcept nogil:
    cdef BtPath path
    cdef KvVersion latest
    cdef KvVersion tomb
    cdef bint found
    cdef int status
    if kv_unlikely(key.len == 0):
        return KV_EMPTY_KEY
    if t.draining != NULL:
        bt_drain_step(t, DRAIN_PER_WRITE)
    if t.root == 0:
        return KV_NOTFOUND
    find_path(t, key, &path, &found)
    if not found or not is_alive(leaf_of(t, &path), path.at[path.levels - 1]):
        return KV_NOTFOUND
    leaf_version(leaf_of(t, &path), path.at[path.levels - 1], &latest)
    if kv_unlikely(not after(mod, sub, &latest)):
        return KV_REVISION_ORDER
    memset(&tomb, 0, sizeof(tomb))
    tomb.mod = mod
    tomb.sub = sub
    status = put_over(t, &path, &tomb, &latest)
    if status == KV_OK and prev != NULL:
        prev[0] = latest
    return status


cdef int bt_move(BTree* t, KvSlice key, int64_t mod, uint32_t sub, uint64_t old_pos,
                 uint64_t new_pos) noexcept nogil:
    cdef BtPath path
    cdef bint found
    cdef LeafRec* rec
    cdef ChainRec* r
    cdef uint64_t* word
    cdef uint32_t slot
    cdef int64_t at
    if t.root == 0:
        return KV_NOTFOUND
    find_path(t, key, &path, &found)
    if not found:
        return KV_NOTFOUND
    rec = &leaf_recs(leaf_of(t, &path))[path.at[path.levels - 1]]
    at = leaf_mods(leaf_of(t, &path))[path.at[path.levels - 1]]
    word = &rec.pos
    slot = rec.older
    if at != mod or rec.sub != sub:
        word = NULL
        while word == NULL and at > t.floor_next and at >= mod and slot:
            r = <ChainRec*>slab_at(&t.slab, slot)
            at = r.mod
            if at == mod and r.sub == sub:
                word = &r.pos
            slot = r.older
    if word == NULL or kv_load_u64(word) != old_pos:
        return KV_NOTFOUND
    kv_store_u64(word, new_pos)
    return KV_OK


cdef int remove_entry(BTree* t, BtPath* path) noexcept nogil:
    cdef uint32_t last = path.levels - 1
    cdef uint32_t i = path.at[last]
    cdef Node* leaf
    cdef uint32_t tail
    cdef uint32_t n
    if t.shared_epoch and own_path(t, path) != KV_OK:
        return KV_NOMEM
    if reserve_dead(t, 3 * path.levels + 8) != KV_OK:
        return KV_NOMEM
    leaf = leaf_of(t, path)
    kv_assert(i < leaf.n and not is_alive(leaf, i), "only dead entries are removed")
    tail = tail_slot_of(leaf_heap(leaf), leaf_metas(leaf)[i])
    n = leaf.n - 1
    if n == 0 and last == 0:
        retire_node(t, t.root)
        t.root = 0
        t.depth = 0
    elif last == 0 or n >= min_keys(t) or (n >= 1 and on_right_spine(t, path, last)):
        leaf_remove(leaf, i)
    elif remove_merging(t, path) != KV_OK:
        return KV_NOMEM
    retire_tail(t, tail)
    t.keys -= 1
    return KV_OK


cdef int append_leaf(BTree* t, uint32_t slot) noexcept nogil:
    cdef BtPath path
    cdef uint32_t level = 0
    cdef uint32_t at = t.root
    cdef LeafItem items[2]
    cdef Node* n
    cdef Change c
    cdef Swap s
    change_init(&c)
    c.fresh[0] = slot
    c.n_fresh = 1
    if t.root == 0:
        t.root = slot
        t.depth = 1
        return KV_OK
    path.levels = t.depth
    while True:
        n = node_at(&t.slab, at)
        path.slot[level] = at
        path.at[level] = n.n
        if is_leaf(n):
            break
        at = inner_children(n)[n.n]
        level += 1
    if t.shared_epoch and own_path(t, &path) != KV_OK:
        return abort(t, &c)
    at = path.slot[level]
    n = node_at(&t.slab, at)
    s.at = path.at[level - 1] if level else 0
    s.n_old = 1
    s.n_new = 2
    s.slot[0] = at
    s.slot[1] = slot
    s.count[0] = n.live
    s.count[1] = node_at(&t.slab, slot).live
    list_entries(n, n.n - 1, n.n, items)
    list_entries(node_at(&t.slab, slot), 0, 1, items + 1)
    if leaf_separator(t, &c, items, 1, NULL, &s) != KV_OK:
        return abort(t, &c)
    return climb(t, &path, &c, &s, <int64_t>s.count[1])
