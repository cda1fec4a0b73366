# SPDX-License-Identifier: Apache-2.0
"""The structs of the index; _btree.pxd is the face that other modules cimport."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kvcore._native cimport KvSlice, KvVersion
from kvcore._node cimport EntryKey, Node
from kvcore._slab cimport Slab


cdef enum:
    BT_MIN_ORDER = 3
    BT_MAX_ORDER = 1024
    BT_MAX_DEPTH = 48
    DEAD_PER_BLOCK = 510


# What a reader needs: a root that does not change under it.
cdef struct BtView:
    const Slab* slab
    uint32_t root                # 0: empty
    uint32_t depth               # levels, leaves included
    uint32_t order
    uint64_t live                # live keys at the view's newest revision
    int64_t floor                # compaction revision already applied to every key
    int64_t floor_next           # newest compaction revision asked for (== floor when none is)


cdef struct DeadBlock:       # retired blocks: where and of which class; the epoch is in the block
    DeadBlock* next
    uint32_t n
    uint32_t zero
    uint32_t slot[DEAD_PER_BLOCK]
    uint16_t block_class[DEAD_PER_BLOCK]


cdef struct BtSnapshot:
    BtView view
    uint64_t epoch               # nodes born at or before it are shared with it
    BtSnapshot* older            # open snapshots, newest first (draining: the next one released)
    BtSnapshot* newer
    DeadBlock* dead              # retired while this was the newest
    uint32_t drained             # draining: entries of the first block looked at ...
    uint32_t kept                # ... and those of them that an older snapshot still sees


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
    uint64_t snapshots           # open ones
    uint64_t dead_blocks         # entries of all dead lists
    int64_t floor                # applied to every key
    int64_t floor_next           # the newest asked for
    int64_t sweep_floor          # of the sweep under way: applied to the keys before the cursor
    uint8_t* compact_cursor      # next key the compaction looks at; NULL: none under way
    uint32_t compact_cursor_len
    uint32_t cut_slot            # first record of a chain cut off and not yet retired; 0: none
    int64_t cut_floor            # ... which ends by this floor
    void* scratch                # items of the node under construction
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
    uint64_t free_bytes          # memory held and not in use
    uint64_t chunk_bytes         # memory held
    uint64_t live_blocks
    uint64_t dead_blocks         # retired, waiting for a snapshot's release
    uint64_t snapshots
    uint64_t copied_nodes


cdef struct BtFilter:            # inclusive bounds; 0 = no bound
    int64_t min_mod
    int64_t max_mod
    int64_t min_create
    int64_t max_create


# Where a key is: the nodes from the root to its leaf, and in each the child taken (leaf: the
# entry).
cdef struct BtPath:
    uint32_t levels
    uint32_t slot[BT_MAX_DEPTH]
    uint32_t at[BT_MAX_DEPTH]


# An entry on its way into a leaf.
cdef struct NewEntry:
    EntryKey key
    KvVersion v
    uint32_t older


# One entry of the leaf under construction, and one child of the inner node under construction with
# the separator before it.  src == NULL: a fresh one.
cdef struct LeafItem:
    const Node* src
    uint32_t idx


cdef struct InnerItem:
    const Node* src
    uint64_t count
    uint32_t idx
    uint32_t child
