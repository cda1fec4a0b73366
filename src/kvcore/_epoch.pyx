# SPDX-License-Identifier: Apache-2.0
"""Epochs: who may still see a block, and when it may go.

    epoch   1 ......... 2 ........... 3 .......          t.epoch counts up with each snapshot
                 snapshot P      snapshot S      now
    block born 1, retired now  -> S.dead             both see it
    S released: born 1 <= P.epoch -> P.dead          born 2 would be freed: P never saw it
    P released: freed

Invariants: epochs (docs/index-layout.md 7); every entry of a dead list was retired while that
snapshot was the newest open one; a shared node's ancestors may be unshared, its descendants not.
Thread safety: the tree's lock for all of it; readers of a snapshot need none, since nothing they
can reach changes or is freed before its release.  Ownership: a dead list owns its blocks.
May not know: keys, versions.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from kvcore._build cimport node_clone
from kvcore._native cimport KV_NOMEM, KV_OK, kv_assert, kv_likely, kv_verify
from kvcore._node cimport Node, TailBlock, inner_children, is_leaf, node_at, tail_class
from kvcore._slab cimport slab_at, slab_free, slab_heap_give, slab_heap_take
from kvcore._tree cimport (
    BT_MAX_DEPTH, BTree, BtPath, BtSnapshot, BtView, DEAD_PER_BLOCK, DeadBlock,
)


# ---- private helpers -------------------------------------------------------------------------

cdef inline uint64_t birth(const BTree* t, uint32_t slot) noexcept nogil:
    """Every block begins with the epoch it was born in."""
    return (<uint64_t*>slab_at(&t.slab, slot))[0]


cdef BtSnapshot* older_open(const BTree* t, uint64_t epoch) noexcept nogil:
    """The newest open snapshot before `epoch`."""
    cdef BtSnapshot* p = t.newest
    while p != NULL and p.epoch >= epoch:
        p = p.older
    return p


cdef void hand_over(BtSnapshot* s, BtSnapshot* p) noexcept nogil:
    """Moves the first dead block of s, what was kept of it, to p: behind p's first, which has
    room."""
    cdef DeadBlock* b = s.dead
    s.dead = b.next
    b.n = s.kept
    if p.dead == NULL:
        b.next = NULL
        p.dead = b
    else:
        b.next = p.dead.next
        p.dead.next = b


cdef uint64_t drain(BTree* t, BtSnapshot* s, uint64_t budget) noexcept nogil:
    """Looks at up to `budget` entries of a released snapshot's dead list; returns what is left."""
    cdef BtSnapshot* p = older_open(t, s.epoch)
    cdef DeadBlock* b
    cdef uint32_t i
    while budget and s.dead != NULL:
        b = s.dead
        while s.drained < b.n and budget:
            i = s.drained
            if p != NULL and birth(t, b.slot[i]) <= p.epoch:
                b.slot[s.kept] = b.slot[i]
                b.block_class[s.kept] = b.block_class[i]
                s.kept += 1
            else:
                slab_free(&t.slab, b.slot[i], b.block_class[i])
                t.dead_blocks -= 1
            s.drained += 1
            budget -= 1
        if s.drained < b.n:
            break
        if s.kept and p != NULL:
            hand_over(s, p)
        elif s.kept:
            # Those that kept them were released meanwhile: look again.
            b.n = s.kept
        else:
            s.dead = b.next
            slab_heap_give(&t.slab, b, sizeof(DeadBlock))
        s.drained = 0
        s.kept = 0
    return budget


# ---- C face ----------------------------------------------------------------------------------

cdef int reserve_dead(BTree* t, uint32_t n) noexcept nogil:
    cdef BtSnapshot* s = t.newest
    cdef DeadBlock* b
    if kv_likely(s == NULL):
        return KV_OK
    kv_assert(n <= DEAD_PER_BLOCK, "one dead block is room enough")
    if s.dead != NULL and s.dead.n + n <= DEAD_PER_BLOCK:
        return KV_OK
    b = <DeadBlock*>slab_heap_take(&t.slab, sizeof(DeadBlock))
    if b == NULL:
        return KV_NOMEM
    b.next = s.dead
    b.n = 0
    s.dead = b
    return KV_OK


cdef void retire_block(BTree* t, uint32_t slot, uint32_t block_class) noexcept nogil:
    cdef DeadBlock* b
    if birth(t, slot) > t.shared_epoch:
        slab_free(&t.slab, slot, block_class)
        return
    b = t.newest.dead
    kv_assert(b != NULL and b.n < DEAD_PER_BLOCK, "dead room was reserved")
    b.slot[b.n] = slot
    b.block_class[b.n] = <uint16_t>block_class
    b.n += 1
    t.dead_blocks += 1


cdef void retire_node(BTree* t, uint32_t slot) noexcept nogil:
    cdef Node* n = node_at(&t.slab, slot)
    if is_leaf(n):
        t.leaves -= 1
    else:
        t.inners -= 1
    retire_block(t, slot, n.block_class)


cdef void retire_tail(BTree* t, uint32_t slot) noexcept nogil:
    if slot:
        retire_block(t, slot, tail_class((<TailBlock*>slab_at(&t.slab, slot)).len))


cdef void retire_record(BTree* t, uint32_t slot) noexcept nogil:
    t.chain_records -= 1
    retire_block(t, slot, 0)


cdef void discard_node(BTree* t, uint32_t slot) noexcept nogil:
    cdef Node* n = node_at(&t.slab, slot)
    if is_leaf(n):
        t.leaves -= 1
    else:
        t.inners -= 1
    slab_free(&t.slab, slot, n.block_class)


cdef int own_path(BTree* t, BtPath* path) noexcept nogil:
    cdef uint32_t made[BT_MAX_DEPTH]
    cdef uint32_t level = 0
    cdef uint32_t first
    cdef uint32_t i
    while level < path.levels and node_at(&t.slab, path.slot[level]).epoch > t.shared_epoch:
        level += 1
    if level == path.levels:
        return KV_OK
    first = level
    if reserve_dead(t, path.levels) != KV_OK:
        return KV_NOMEM
    for level in range(first, path.levels):
        kv_verify(node_at(&t.slab, path.slot[level]).epoch <= t.shared_epoch,
                  "epochs: below a shared node all is shared")
        made[level] = node_clone(t, node_at(&t.slab, path.slot[level]))
        if made[level] == 0:
            for i in range(first, level):
                discard_node(t, made[i])
            return KV_NOMEM
    for level in range(first, path.levels):
        if level == 0:
            t.root = made[0]
        else:
            inner_children(node_at(&t.slab, path.slot[level - 1]))[path.at[level - 1]] = made[level]
        retire_node(t, path.slot[level])
        path.slot[level] = made[level]
        t.copied_nodes += 1
    return KV_OK


cdef BtView bt_view(const BTree* t) noexcept nogil:
    cdef BtView w
    w.slab = &t.slab
    w.root = t.root
    w.depth = t.depth
    w.order = t.order
    w.live = t.live
    w.floor = t.floor
    w.floor_next = t.floor_next
    return w


cdef BtSnapshot* bt_snapshot(BTree* t) noexcept nogil:
    cdef BtSnapshot* s = <BtSnapshot*>slab_heap_take(&t.slab, sizeof(BtSnapshot))
    if s == NULL:
        return NULL
    memset(s, 0, sizeof(BtSnapshot))
    s.view = bt_view(t)
    s.epoch = t.epoch
    s.older = t.newest
    if t.newest != NULL:
        t.newest.newer = s
    t.newest = s
    t.shared_epoch = s.epoch
    t.epoch += 1
    t.snapshots += 1
    return s


cdef void bt_release(BTree* t, BtSnapshot* s) noexcept nogil:
    kv_assert(t.snapshots > 0 and (s.newer != NULL or t.newest == s), "released snapshot is open")
    if s.newer != NULL:
        s.newer.older = s.older
    else:
        t.newest = s.older
        t.shared_epoch = s.older.epoch if s.older != NULL else 0
    if s.older != NULL:
        s.older.newer = s.newer
    t.snapshots -= 1
    s.newer = NULL
    s.older = t.draining
    t.draining = s


cdef bint bt_drain_step(BTree* t, uint64_t budget) noexcept nogil:
    cdef BtSnapshot* s
    while t.draining != NULL:
        s = t.draining
        budget = drain(t, s, budget)
        if s.dead != NULL:
            return True
        t.draining = s.older
        slab_heap_give(&t.slab, s, sizeof(BtSnapshot))
    return False


cdef void drop_list(BTree* t, BtSnapshot* s) noexcept nogil:
    cdef BtSnapshot* next_one
    cdef DeadBlock* b
    while s != NULL:
        next_one = s.older
        while s.dead != NULL:
            b = s.dead
            s.dead = b.next
            slab_heap_give(&t.slab, b, sizeof(DeadBlock))
        slab_heap_give(&t.slab, s, sizeof(BtSnapshot))
        s = next_one


cdef void drop_snapshots(BTree* t) noexcept nogil:
    drop_list(t, t.newest)
    drop_list(t, t.draining)
    t.newest = NULL
    t.draining = NULL
