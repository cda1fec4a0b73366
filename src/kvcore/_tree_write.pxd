# SPDX-License-Identifier: Apache-2.0
"""The writing verbs of the index, and the structural changes below them."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kvcore._native cimport KvMem, KvSlice, KvVersion
from kvcore._node cimport EntryKey
from kvcore._tree cimport BTree, BtPath

cdef int bt_init(BTree* t, uint32_t order, const KvMem* mem) noexcept nogil
cdef void bt_deinit(BTree* t) noexcept nogil

# Gives `key` a new latest version.  `v` names mod, sub, lease, pos, len, and in `create` the
# revision a new generation begins with (0: mod); create and version are worked out and written back
# into `v`.  `prev` (may be NULL) gets the version that was latest; prev.version == 0 when there was
# none alive.  KV_EMPTY_KEY, KV_KEY_TOO_LARGE, KV_REVISION_ORDER, KV_NOMEM: nothing has happened.
cdef int bt_put(BTree* t, KvSlice key, KvVersion* v, KvVersion* prev) noexcept nogil
# Gives `key` a tombstone (its pos is 0 until bt_move).  KV_NOTFOUND, and nothing happens, when it
# is not alive.
cdef int bt_delete(BTree* t, KvSlice key, int64_t mod, uint32_t sub, KvVersion* prev) noexcept nogil
# Replaces the log position of the version (key, mod, sub) when it still is `old_pos`; else
# KV_NOTFOUND.
cdef int bt_move(BTree* t, KvSlice key, int64_t mod, uint32_t sub, uint64_t old_pos,
                 uint64_t new_pos) noexcept nogil

# For the loader and the sweep: the path to the leaf of `key`, *found when the key is there.
cdef void find_path(const BTree* t, KvSlice key, BtPath* path, bint* found) noexcept nogil
# Takes entry path.at[leaf] out of the tree; its tail block is retired, its chain is the caller's.
# REQUIRES: not alive.  KV_NOMEM: nothing done.
cdef int remove_entry(BTree* t, BtPath* path) noexcept nogil
# Hangs a fresh leaf behind the last one.  REQUIRES: its keys are greater than all others.
cdef int append_leaf(BTree* t, uint32_t slot) noexcept nogil
# Links a new latest version behind `older` into a record; 0: refused.
cdef uint32_t record_new(BTree* t, const KvVersion* v, uint32_t older) noexcept nogil
