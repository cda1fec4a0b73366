# SPDX-License-Identifier: Apache-2.0
"""The MVCC index: a B+-tree over keys, each with its versions.  Layout: docs/index-layout.md.

All functions are nogil, raise nothing, return a kv_status.  The caller holds the tree's lock for every
function that takes `BTree*` without const; those that take a `BtView` read an immutable snapshot and
need no lock, or read the live root and need it.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kvcore._native cimport KvMem, KvSlice, KvVersion
from kvcore._rows cimport KvRows
from kvcore._slab cimport Slab


cdef enum:
    BT_MIN_ORDER = 3
    BT_MAX_ORDER = 1024
    BT_MAX_DEPTH = 48


# What a reader needs: a root that does not change under it.
cdef struct BtView:
    const Slab* slab
    uint32_t root                # 0: empty
    uint32_t depth               # levels, leaves included
    uint64_t live                # live keys at the view's newest revision
    int64_t floor                # compaction revision already applied to every key
    int64_t floor_next           # compaction revision being applied (== floor when none is)


cdef struct BtSnapshot:
    BtView view
    uint64_t epoch               # nodes born at or before it are shared with it
    BtSnapshot* older            # open snapshots, newest first
    BtSnapshot* newer
    void* dead                   # first block of the dead list; retired while this was the newest
    uint64_t dead_bytes


cdef struct BTree:
    Slab slab
    uint32_t order               # constant after init
    uint32_t root
    uint32_t depth
    uint64_t keys                # entries, tombstoned ones included
    uint64_t live                # keys whose latest version is not a tombstone
    uint64_t chain_records       # versions kept besides the latest of each key
    uint64_t leaves
    uint64_t inners
    uint64_t epoch               # birth epoch of what is made now
    uint64_t shared_epoch        # epoch of the newest open snapshot; 0: none
    BtSnapshot* newest           # open snapshots
    BtSnapshot* draining         # released ones whose dead list is not yet worked off
    int64_t floor
    int64_t floor_next
    uint8_t* compact_cursor      # next key the compaction looks at; NULL: none under way
    uint32_t compact_cursor_len
    uint64_t copied_nodes        # statistics: copies made for snapshots
    uint64_t compacted_versions


cdef struct BtStats:
    uint64_t keys
    uint64_t live
    uint64_t versions            # all, latest and older
    uint64_t leaves
    uint64_t inners
    uint64_t depth
    uint64_t live_bytes          # blocks in use
    uint64_t free_bytes          # blocks on free lists, in chunks held
    uint64_t chunk_bytes         # memory held
    uint64_t dead_blocks         # retired, waiting for a snapshot's release
    uint64_t snapshots
    uint64_t copied_nodes


cdef struct BtFilter:            # inclusive bounds; 0 = no bound
    int64_t min_mod
    int64_t max_mod
    int64_t min_create
    int64_t max_create


cdef int bt_init(BTree* t, uint32_t order, const KvMem* mem) noexcept nogil
cdef void bt_deinit(BTree* t) noexcept nogil

# Gives `key` a new latest version.  `v` names mod, sub, lease, pos, len, and in `create` the revision a
# new generation begins with; create and version are worked out and written back into `v`.
# `prev` (may be NULL) gets the version that was latest; prev.version == 0 when there was none alive.
cdef int bt_put(BTree* t, KvSlice key, KvVersion* v, KvVersion* prev) noexcept nogil
# Gives `key` a tombstone.  KV_NOTFOUND, and nothing happens, when it is not alive.
cdef int bt_delete(BTree* t, KvSlice key, int64_t mod, uint32_t sub, KvVersion* prev) noexcept nogil
# Replaces the log position of the version (key, mod, sub) when it still is `old_pos`; else KV_NOTFOUND.
cdef int bt_move(BTree* t, KvSlice key, int64_t mod, uint32_t sub, uint64_t old_pos,
                 uint64_t new_pos) noexcept nogil

cdef BtView bt_view(const BTree* t) noexcept nogil
# The latest version (tombstones included), or KV_NOTFOUND.
cdef int bt_find(const BtView* w, KvSlice key, KvVersion* out) noexcept nogil
# Starts the loads of the leaf that holds `key`; batched look-ups call it ahead.
# The version seen at `rev`: newest with mod <= rev; tombstone or none: KV_NOTFOUND.  rev == 0: latest.
cdef int bt_find_at(const BtView* w, KvSlice key, int64_t rev, KvVersion* out) noexcept nogil
# As bt_find for many keys, interleaved so that the cache misses overlap; status[i] per key.
cdef void bt_find_many(const BtView* w, const KvSlice* keys, uint64_t n, KvVersion* out,
                       int* status) noexcept nogil
# Live keys of [start, end) at `rev` (0: latest) into `rows` (NULL: only count), at most `limit` rows
# (0: no limit).  end.ptr == NULL: no upper bound.  `filter` may be NULL.  *seen counts the live keys passed
# before the filters up to the point where the walk stopped; walk_all makes it go on counting.
cdef int bt_scan(const BtView* w, KvSlice start, KvSlice end, int64_t rev, const BtFilter* filter,
                 uint64_t limit, bint walk_all, KvRows* rows, uint64_t* seen) noexcept nogil
# Live keys of [start, end) at the view's newest revision; O(log n).
cdef uint64_t bt_count(const BtView* w, KvSlice start, KvSlice end) noexcept nogil
# Every version and tombstone of every key, keys ascending and versions oldest first, those that
# compaction at `floor` makes invisible left out (also where the sweep has not come yet).  Starts behind
# key `after` (NULL: at the beginning), stops once `budget` rows are passed, at a key's end; *more says whether keys are left.
cdef int bt_dump(const BtView* w, KvSlice after, int64_t floor, uint64_t budget, KvRows* rows,
                 bint* more) noexcept nogil
# Copies the mod_revision column of the live keys of [start, end): the fastest look at everything.
cdef int bt_mods(const BtView* w, KvSlice start, KvSlice end, int64_t* out, uint64_t cap,
                 uint64_t* n) noexcept nogil

# O(1).  The snapshot stays valid until bt_release; releases may come in any order.
cdef BtSnapshot* bt_snapshot(BTree* t) noexcept nogil
cdef void bt_release(BTree* t, BtSnapshot* s) noexcept nogil
# Works off the dead lists of released snapshots; True when entries are left.
cdef bint bt_drain_step(BTree* t, uint64_t budget) noexcept nogil

# Begins to drop what is invisible at revisions >= rev.  REQUIRES: rev > floor_next.  If a sweep is still
# under way it is finished first by bt_compact_step (compactions queue: only floor_next moves on).
cdef int bt_compact(BTree* t, int64_t rev) noexcept nogil
# True when there is more to do.  A step costs O(budget) and frees nothing an open snapshot can see.
cdef bint bt_compact_step(BTree* t, uint64_t budget, int* status) noexcept nogil

# Bulk load into an empty tree: keys ascending, versions of a key oldest first.  Leaves are filled
# to `order`.  bt_load_end joins the spine.
cdef struct BtLoader
cdef BtLoader* bt_load_begin(BTree* t) noexcept nogil
cdef int bt_load_push(BtLoader* b, KvSlice key, const KvVersion* versions, uint32_t n) noexcept nogil
cdef int bt_load_end(BtLoader* b) noexcept nogil          # frees the loader, also after an error

cdef void bt_stats(const BTree* t, BtStats* out) noexcept nogil
# Walks every named invariant; the first violation as a message in `buf`, or 0 when all hold.
cdef int bt_check(BTree* t, char* buf, size_t size) noexcept nogil
