# SPDX-License-Identifier: Apache-2.0
"""Compaction in steps, and the bulk load."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from kvcore._native cimport KvSlice, KvVersion
from kvcore._tree cimport BTree

# Begins to drop what is invisible at revisions >= rev.  REQUIRES: rev > floor_next.  If a sweep is
# still under way it is finished first by bt_compact_step (compactions queue: only floor_next moves
# on).
cdef int bt_compact(BTree* t, int64_t rev) noexcept nogil
# True when there is more to do.  A step costs O(budget) and frees nothing an open snapshot can see.
# *status: KV_OK, or KV_NOMEM when a step could not go on (try again later).
cdef bint bt_compact_step(BTree* t, uint64_t budget, int* status) noexcept nogil

# Bulk load into an empty tree: keys ascending, versions of a key oldest first.  Leaves are filled
# to `order`.  bt_load_end joins the spine; after an error the tree holds what came before it.
cdef struct BtLoader
cdef BtLoader* bt_load_begin(BTree* t) noexcept nogil
# KV_REVISION_ORDER: keys or versions out of order; nothing of this key was taken.
cdef int bt_load_push(BtLoader* b, KvSlice key, const KvVersion* versions,
                      uint32_t n) noexcept nogil
cdef int bt_load_end(BtLoader* b) noexcept nogil          # frees the loader, also after an error
