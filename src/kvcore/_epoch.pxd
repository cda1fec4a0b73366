# SPDX-License-Identifier: Apache-2.0
"""Snapshots, dead lists, and the copying of shared nodes."""

from libc.stdint cimport uint32_t, uint64_t

from kvcore._slab cimport slab_at
from kvcore._tree cimport BTree, BtPath, BtSnapshot, BtView

# Room for `n` more retired blocks, so that retiring cannot fail; KV_NOMEM.
cdef int reserve_dead(BTree* t, uint32_t n) noexcept nogil
# Frees a block nobody can reach any more, or keeps it for the snapshots that still can.
# REQUIRES: reserve_dead counted it.
cdef void retire_block(BTree* t, uint32_t slot, uint32_t block_class) noexcept nogil
cdef void retire_node(BTree* t, uint32_t slot) noexcept nogil
cdef void retire_tail(BTree* t, uint32_t slot) noexcept nogil
cdef void retire_record(BTree* t, uint32_t slot) noexcept nogil
# Frees a node that was never linked.
cdef void discard_node(BTree* t, uint32_t slot) noexcept nogil
# Copies whatever on the path is shared; afterwards it may be changed in place.  KV_NOMEM: nothing
# done.
cdef int own_path(BTree* t, BtPath* path) noexcept nogil

cdef BtView bt_view(const BTree* t) noexcept nogil
# O(1).  The snapshot stays valid until bt_release; releases may come in any order.  NULL: no
# memory.
cdef BtSnapshot* bt_snapshot(BTree* t) noexcept nogil
cdef void bt_release(BTree* t, BtSnapshot* s) noexcept nogil
# Works off the dead lists of released snapshots; True when entries are left.
cdef bint bt_drain_step(BTree* t, uint64_t budget) noexcept nogil
# At the end of the tree's life: forgets every snapshot, open ones included.
cdef void drop_snapshots(BTree* t) noexcept nogil
