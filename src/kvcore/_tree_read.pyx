# SPDX-License-Identifier: Apache-2.0
"""Reading a view: look-ups, scans, counts, dumps.

    key -> root -> inner -> ... -> leaf        the child's first lines are fetched while its slot is
                                   | inline    all that is known; a scan fetches the next leaf ahead
                                   └ chain -> chain -> ...   for older revisions

Invariant used: a chain is read until the first version with mod <= floor_next, never beyond: what
lies behind it may be freed at any time (docs/index-layout.md, "Where a chain ends").
Thread safety: a snapshot's view needs no lock; the live view needs the tree's.
Ownership: nothing is kept; results go into the caller's memory.  May not know: how trees change.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memcpy

from kvcore._native cimport (
    KV_NOMEM, KV_NOTFOUND, KV_OK, KvRow, KvSlice, KvVersion, kv_prefetch, kv_row_set_key,
)
from kvcore._node cimport (
    ChainRec, LeafRec, Node, chain_version, has_ext, inner_children, inner_counts, inner_search,
    is_alive, key_len_at, key_write, leaf_find, leaf_heap, leaf_metas, leaf_mods, leaf_recs,
    leaf_search, leaf_version, node_at, node_heads, prefetch_node,
)
from kvcore._rows cimport (KvRows, rows_free, rows_grow, rows_init, rows_key, rows_push,
                           rows_reserve)
from kvcore._slab cimport slab_at
from kvcore._tree cimport BT_MAX_DEPTH, BtFilter, BtView

cdef enum:
    GROUP = 16                   # look-ups of bt_find_many in flight
    AHEAD_LINES = 32             # of the next leaf, fetched while a scan works on this one
    ROWS_AHEAD = 4096            # room made at once for the rows of a limited scan
    KEY_BYTES_GUESS = 64         # arena room per row, made with it


# Where a walk over the leaves is.
cdef struct Walk:
    const Node* node[BT_MAX_DEPTH]
    uint32_t at[BT_MAX_DEPTH]
    uint32_t last                # level of the leaves


# ---- private helpers -------------------------------------------------------------------------

cdef inline const Node* find_leaf(const BtView* w, KvSlice key) noexcept nogil:
    """The leaf that holds or would hold the key.  REQUIRES: a root."""
    cdef const Node* n = node_at(w.slab, w.root)
    cdef uint32_t level = w.depth
    while level > 1:
        n = node_at(w.slab, inner_children(n)[inner_search(w.slab, n, key)])
        level -= 1
        prefetch_node(n, w.order, level == 1)
    return n


cdef inline int version_at(const BtView* w, const Node* leaf, uint32_t i, int64_t rev,
                           KvVersion* out) noexcept nogil:
    """The version of entry i at rev; 0: the latest.  A tombstone is KV_NOTFOUND."""
    cdef const LeafRec* rec = &leaf_recs(leaf)[i]
    cdef int64_t mod = leaf_mods(leaf)[i]
    cdef const ChainRec* r
    cdef uint32_t slot
    if rev == 0 or mod <= rev:
        if rec.create == 0:
            return KV_NOTFOUND
        leaf_version(leaf, i, out)
        return KV_OK
    slot = rec.older
    while slot and mod > w.floor_next:
        r = <const ChainRec*>slab_at(w.slab, slot)
        mod = r.mod
        if mod <= rev:
            if r.create == 0:
                return KV_NOTFOUND
            chain_version(r, out)
            return KV_OK
        slot = r.older
    return KV_NOTFOUND


cdef void walk_seek(const BtView* w, Walk* k, KvSlice start) noexcept nogil:
    """To the first entry >= start, or behind the last entry of its leaf."""
    cdef const Node* n = node_at(w.slab, w.root)
    cdef uint32_t level = 0
    cdef bint found
    k.last = w.depth - 1
    while level < k.last:
        k.node[level] = n
        k.at[level] = inner_search(w.slab, n, start)
        n = node_at(w.slab, inner_children(n)[k.at[level]])
        prefetch_node(n, w.order, level + 1 == k.last)
        level += 1
    k.node[level] = n
    k.at[level] = leaf_search(w.slab, n, start, &found)


cdef bint walk_next(const BtView* w, Walk* k) noexcept nogil:
    """To the first entry of the next leaf; False at the end."""
    cdef uint32_t level = k.last
    cdef const Node* n
    while True:
        if level == 0:
            return False
        level -= 1
        if k.at[level] < k.node[level].n:
            break
    k.at[level] += 1
    while level < k.last:
        n = node_at(w.slab, inner_children(k.node[level])[k.at[level]])
        level += 1
        k.node[level] = n
        k.at[level] = 0
    return True


cdef inline void fetch_ahead(const BtView* w, const Walk* k) noexcept nogil:
    """Starts the loads of the leaf after this one, when the parent knows it."""
    cdef const Node* p
    cdef const uint8_t* q
    cdef uint32_t i
    if k.last == 0:
        return
    p = k.node[k.last - 1]
    i = k.at[k.last - 1]
    if i < p.n:
        q = <const uint8_t*>node_at(w.slab, inner_children(p)[i + 1])
        for i in range(AHEAD_LINES):
            kv_prefetch(q + i * 64)


cdef inline uint32_t leaf_end(const BtView* w, const Node* leaf, KvSlice end,
                              bint* last) noexcept nogil:
    """Entries of the leaf before `end`; *last when the range ends in this leaf."""
    cdef bint found
    cdef uint32_t i
    if end.ptr == NULL:
        last[0] = False
        return leaf.n
    i = leaf_search(w.slab, leaf, end, &found)
    last[0] = i < leaf.n
    return i


cdef inline bint passes(const BtFilter* f, const KvVersion* v) noexcept nogil:
    return not ((f.min_mod and v.mod < f.min_mod) or (f.max_mod and v.mod > f.max_mod)
                or (f.min_create and v.create < f.min_create)
                or (f.max_create and v.create > f.max_create))


cdef inline int emit(const BtView* w, const Node* leaf, uint32_t i, const KvVersion* v,
                     KvRows* rows) noexcept nogil:
    cdef size_t length = key_len_at(w.slab, leaf, i)
    cdef uint8_t* at = rows_reserve(rows, v, <uint16_t>length)
    if at == NULL:
        return KV_NOMEM
    key_write(w.slab, leaf, leaf_heap(leaf), leaf_metas(leaf)[i], node_heads(leaf)[i], at)
    return KV_OK


cdef int emit_run(const BtView* w, const Node* leaf, uint32_t i, uint32_t stop, uint64_t most,
                  KvRows* rows, uint64_t* taken) noexcept nogil:
    """Live entries i..stop of a leaf as rows, at most `most`: the plain page, columns kept at
    hand."""
    cdef const LeafRec* recs = leaf_recs(leaf)
    cdef const uint32_t* metas = leaf_metas(leaf)
    cdef const uint64_t* heads = node_heads(leaf)
    cdef const uint8_t* heap = leaf_heap(leaf)
    cdef KvVersion v
    cdef uint8_t* at
    cdef uint32_t meta
    cdef size_t length
    taken[0] = 0
    while i < stop and taken[0] < most:
        if recs[i].create != 0:
            meta = metas[i]
            leaf_version(leaf, i, &v)
            length = key_len_at(w.slab, leaf, i)
            at = rows_reserve(rows, &v, <uint16_t>length)
            if at == NULL:
                return KV_NOMEM
            key_write(w.slab, leaf, heap, meta, heads[i], at)
            taken[0] += 1
        i += 1
    return KV_OK


cdef uint64_t rank(const BtView* w, KvSlice key) noexcept nogil:
    """Live keys before `key`."""
    cdef const Node* n = node_at(w.slab, w.root)
    cdef const uint64_t* counts
    cdef uint32_t level = w.depth
    cdef uint64_t total = 0
    cdef uint32_t i
    cdef uint32_t j
    cdef bint found
    while level > 1:
        i = inner_search(w.slab, n, key)
        counts = inner_counts(n)
        level -= 1
        j = inner_children(n)[i]
        prefetch_node(node_at(w.slab, j), w.order, level == 1)
        n = node_at(w.slab, j)
        for j in range(i):
            total += counts[j]
    i = leaf_search(w.slab, n, key, &found)
    if n.live == n.n:
        return total + i
    for j in range(i):
        total += is_alive(n, j)
    return total


# ---- C face ----------------------------------------------------------------------------------

cdef int bt_find(const BtView* w, KvSlice key, KvVersion* out) noexcept nogil:
    cdef const Node* leaf
    cdef uint32_t i
    cdef bint found
    if w.root == 0 or key.len == 0:
        return KV_NOTFOUND
    leaf = find_leaf(w, key)
    i = leaf_find(w.slab, leaf, key, &found)
    if not found:
        return KV_NOTFOUND
    leaf_version(leaf, i, out)
    return KV_OK


cdef int bt_find_at(const BtView* w, KvSlice key, int64_t rev, KvVersion* out) noexcept nogil:
    cdef const Node* leaf
    cdef uint32_t i
    cdef bint found
    if w.root == 0 or key.len == 0:
        return KV_NOTFOUND
    leaf = find_leaf(w, key)
    i = leaf_find(w.slab, leaf, key, &found)
    if not found:
        return KV_NOTFOUND
    return version_at(w, leaf, i, rev, out)


cdef void bt_find_many(const BtView* w, const KvSlice* keys, uint64_t n, KvVersion* out,
                       int* status) noexcept nogil:
    cdef const Node* at[GROUP]
    cdef uint32_t where[GROUP]
    cdef uint64_t base = 0
    cdef uint32_t m
    cdef uint32_t i
    cdef uint32_t level
    cdef bint found
    while base < n:
        m = GROUP if n - base > GROUP else <uint32_t>(n - base)
        if w.root == 0:
            for i in range(m):
                status[base + i] = KV_NOTFOUND
            base += m
            continue
        for i in range(m):
            at[i] = node_at(w.slab, w.root)
        level = w.depth
        while level > 1:
            level -= 1
            for i in range(m):
                at[i] = node_at(w.slab, inner_children(at[i])[
                    inner_search(w.slab, at[i], keys[base + i])])
                prefetch_node(at[i], w.order, level == 1)
        for i in range(m):
            where[i] = leaf_find(w.slab, at[i], keys[base + i], &found)
            status[base + i] = KV_OK if found else KV_NOTFOUND
            if found:
                kv_prefetch(&leaf_recs(at[i])[where[i]])
                kv_prefetch(&leaf_mods(at[i])[where[i]])
        for i in range(m):
            if status[base + i] == KV_OK:
                leaf_version(at[i], where[i], &out[base + i])
        base += m


cdef int bt_scan(const BtView* w, KvSlice start, KvSlice end, int64_t rev, const BtFilter* filter,
                 uint64_t limit, bint walk_all, KvRows* rows, uint64_t* seen) noexcept nogil:
    cdef Walk k
    cdef KvVersion v
    cdef const Node* leaf
    cdef uint64_t passed = 0
    cdef uint64_t taken = 0
    cdef uint64_t run = 0
    cdef uint32_t i
    cdef uint32_t stop
    cdef bint last = False
    seen[0] = 0
    if w.root == 0:
        return KV_OK
    if rows != NULL and limit and rows_grow(rows, min(limit, ROWS_AHEAD),
                                            min(limit, ROWS_AHEAD) * KEY_BYTES_GUESS) != KV_OK:
        return KV_NOMEM
    walk_seek(w, &k, start)
    while True:
        fetch_ahead(w, &k)
        leaf = k.node[k.last]
        stop = leaf_end(w, leaf, end, &last)
        if rows != NULL and rev == 0 and filter == NULL and not walk_all:
            if emit_run(w, leaf, k.at[k.last], stop, limit - taken if limit else stop, rows,
                        &run) != KV_OK:
                return KV_NOMEM
            taken += run
            passed = taken
            if (limit and taken == limit) or last or not walk_next(w, &k):
                break
            continue
        for i in range(k.at[k.last], stop):
            if version_at(w, leaf, i, rev, &v) != KV_OK:
                continue
            passed += 1
            if (filter != NULL and not passes(filter, &v)) or (limit and taken == limit):
                continue
            if rows != NULL and emit(w, leaf, i, &v, rows) != KV_OK:
                return KV_NOMEM
            taken += 1
            if taken == limit and not (walk_all and rev):
                seen[0] = bt_count(w, start, end) if walk_all else passed
                return KV_OK
        if last or not walk_next(w, &k):
            break
    seen[0] = passed
    return KV_OK


cdef uint64_t bt_count(const BtView* w, KvSlice start, KvSlice end) noexcept nogil:
    cdef uint64_t before
    cdef uint64_t upto
    if w.root == 0:
        return 0
    before = rank(w, start) if start.len else 0
    upto = rank(w, end) if end.ptr != NULL else w.live
    return upto - before if upto > before else 0


cdef uint64_t dump_chain(const BtView* w, const Node* leaf, uint32_t i, int64_t floor,
                         KvRow* rows) noexcept nogil:
    """Writes the surviving versions of an entry, newest last, so that rows[-1] is the latest; with
    rows == NULL only counts them."""
    cdef KvVersion v
    cdef uint64_t n = 0
    cdef uint32_t slot = leaf_recs(leaf)[i].older
    cdef const ChainRec* r
    leaf_version(leaf, i, &v)
    while True:
        if v.create == 0 and v.mod < floor:
            return n
        n += 1
        if rows != NULL:
            (rows - n).v = v
        if v.mod <= floor or slot == 0:
            return n
        r = <const ChainRec*>slab_at(w.slab, slot)
        chain_version(r, &v)
        slot = r.older


cdef int dump_entry(const BtView* w, const Node* leaf, uint32_t i, int64_t floor,
                    KvRows* rows) noexcept nogil:
    cdef uint64_t n = dump_chain(w, leaf, i, floor, NULL)
    cdef size_t length = key_len_at(w.slab, leaf, i)
    cdef uint64_t j
    if n == 0:
        return KV_OK
    if rows.n + n > rows.cap or rows.used + length > rows.arena_cap:
        if rows_grow(rows, n, length) != KV_OK:
            return KV_NOMEM
    dump_chain(w, leaf, i, floor, rows.rows + rows.n + n)
    key_write(w.slab, leaf, leaf_heap(leaf), leaf_metas(leaf)[i], node_heads(leaf)[i],
              rows.arena + rows.used)
    for j in range(rows.n, rows.n + n):
        kv_row_set_key(&rows.rows[j], rows.used, <uint16_t>length)
    rows.n += n
    rows.used += length
    return KV_OK


cdef int bt_dump(const BtView* w, KvSlice after, int64_t floor, uint64_t budget, KvRows* rows,
                 bint* more) noexcept nogil:
    cdef Walk k
    cdef const Node* leaf
    cdef uint64_t first = rows.n
    cdef uint32_t i
    cdef bint found
    more[0] = False
    if w.root == 0:
        return KV_OK
    if floor < w.floor_next:
        floor = w.floor_next
    walk_seek(w, &k, after)
    if after.len:
        leaf_search(w.slab, k.node[k.last], after, &found)
        k.at[k.last] += found
    while True:
        fetch_ahead(w, &k)
        leaf = k.node[k.last]
        i = k.at[k.last]
        while i < leaf.n:
            if rows.n - first >= budget:
                more[0] = True
                return KV_OK
            if dump_entry(w, leaf, i, floor, rows) != KV_OK:
                return KV_NOMEM
            i += 1
        if not walk_next(w, &k):
            return KV_OK


cdef int bt_mods(const BtView* w, KvSlice start, KvSlice end, int64_t* out, uint64_t cap,
                 uint64_t* n) noexcept nogil:
    cdef Walk k
    cdef const Node* leaf
    cdef uint64_t m = 0
    cdef uint32_t i
    cdef uint32_t stop
    cdef bint last = False
    n[0] = 0
    if w.root == 0:
        return KV_OK
    walk_seek(w, &k, start)
    while m < cap:
        leaf = k.node[k.last]
        stop = leaf_end(w, leaf, end, &last)
        i = k.at[k.last]
        if leaf.live == leaf.n and stop >= i and m + (stop - i) <= cap:
            memcpy(out + m, leaf_mods(leaf) + i, 8 * <size_t>(stop - i))
            m += stop - i
        else:
            while i < stop and m < cap:
                out[m] = leaf_mods(leaf)[i]
                m += is_alive(leaf, i)
                i += 1
        if last or not walk_next(w, &k):
            break
    n[0] = m
    return KV_OK


# ---- history: what happened between two revisions ----------------------------------------------

cdef int compare_mods(const void* a, const void* b) noexcept nogil:
    cdef int64_t x = (<const int64_t*>a)[0], y = (<const int64_t*>b)[0]
    return (x > y) - (x < y)


cdef int compare_changes(const void* a, const void* b) noexcept nogil:
    cdef const KvVersion* x = &(<const KvRow*>a).v
    cdef const KvVersion* y = &(<const KvRow*>b).v
    if x.mod != y.mod:
        return -1 if x.mod < y.mod else 1
    return (x.sub > y.sub) - (x.sub < y.sub)


cdef int keep_oldest(KvRows* rows, uint64_t most, int64_t* bound) noexcept nogil:
    """Drops the newest rows so that about `most` are left, the last revision whole; `bound` is that
    revision."""
    cdef int64_t* mods = <int64_t*>malloc(rows.n * 8 + 1)
    cdef KvRows kept
    cdef uint64_t i
    cdef int rc = KV_OK
    if mods == NULL:
        return KV_NOMEM
    for i in range(rows.n):
        mods[i] = rows.rows[i].v.mod
    qsort(mods, rows.n, 8, compare_mods)
    bound[0] = mods[most - 1]
    free(mods)
    rows_init(&kept)
    for i in range(rows.n):
        if rows.rows[i].v.mod <= bound[0] and rc == KV_OK:
            rc = rows_push(&kept, &rows.rows[i].v, rows_key(rows, i))
    rows_free(rows)
    rows[0] = kept
    return rc


cdef int history_entry(const BtView* w, const Node* leaf, uint32_t i, int64_t from_rev,
                       int64_t upto_rev, bint puts, bint deletes, KvRows* rows) noexcept nogil:
    """What entry i says about the revisions asked for, newest first."""
    cdef KvVersion v
    cdef uint32_t slot = leaf_recs(leaf)[i].older
    cdef const ChainRec* r
    leaf_version(leaf, i, &v)
    while v.mod >= from_rev:
        if v.mod <= upto_rev and (puts if v.version else deletes):
            if emit(w, leaf, i, &v, rows) != KV_OK:
                return KV_NOMEM
        if v.mod <= w.floor_next or slot == 0:
            break
        r = <const ChainRec*>slab_at(w.slab, slot)
        chain_version(r, &v)
        slot = r.older
    return KV_OK


cdef int bt_history(const BtView* w, KvSlice start, KvSlice end, int64_t from_rev, int64_t upto_rev,
                    bint puts, bint deletes, uint64_t most, KvRows* rows,
                    int64_t* covered) noexcept nogil:
    cdef Walk k
    cdef const Node* leaf
    cdef const int64_t* mods
    cdef uint64_t full = 2 * most
    cdef uint32_t i
    cdef uint32_t stop
    cdef bint last = False
    covered[0] = upto_rev
    if w.root == 0:
        return KV_OK
    walk_seek(w, &k, start)
    while True:
        fetch_ahead(w, &k)
        leaf = k.node[k.last]
        mods = leaf_mods(leaf)
        stop = leaf_end(w, leaf, end, &last)
        for i in range(k.at[k.last], stop):
            if mods[i] < from_rev:
                continue
            if history_entry(w, leaf, i, from_rev, covered[0], puts, deletes, rows) != KV_OK:
                return KV_NOMEM
        if rows.n >= full:
            if keep_oldest(rows, most, covered) != KV_OK:
                return KV_NOMEM
            if rows.n >= full // 2:          # one revision may be larger than what was asked for
                full = 2 * rows.n
        if last or not walk_next(w, &k):
            break
    if rows.n:                           # C forbids even an empty sort of NULL
        qsort(rows.rows, rows.n, sizeof(KvRow), compare_changes)
    return KV_OK


cdef int bt_leased(const BtView* w, KvSlice after, uint64_t budget, KvRows* rows,
                   bint* more) noexcept nogil:
    cdef Walk k
    cdef const Node* leaf
    cdef KvVersion v
    cdef uint32_t i
    cdef bint found
    more[0] = False
    if w.root == 0:
        return KV_OK
    walk_seek(w, &k, after)
    if after.len:
        leaf_search(w.slab, k.node[k.last], after, &found)
        k.at[k.last] += found
    while True:
        leaf = k.node[k.last]
        for i in range(k.at[k.last], leaf.n if has_ext(leaf) else 0):
            leaf_version(leaf, i, &v)
            if v.version == 0 or v.lease == 0:
                continue
            if rows.n >= budget:
                more[0] = True
                return KV_OK
            if emit(w, leaf, i, &v, rows) != KV_OK:
                return KV_NOMEM
        if not walk_next(w, &k):
            return KV_OK
