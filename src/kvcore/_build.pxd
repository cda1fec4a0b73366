# SPDX-License-Identifier: Apache-2.0
"""Builds nodes from entries, and changes single nodes in place; knows nothing of trees above a
node."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kvcore._native cimport KvSlice, KvVersion
from kvcore._node cimport EntryKey, Node
from kvcore._tree cimport BTree, InnerItem, LeafItem, NewEntry

# The inline part of `key`; the tail block is the caller's business.
cdef void entry_key(KvSlice key, EntryKey* out) noexcept nogil
# A tail block with key[256:]; KV_NOMEM.
cdef int tail_new(BTree* t, KvSlice key, uint32_t* slot) noexcept nogil
# Fresh nodes; KV_NOMEM leaves nothing behind.  `fresh` stands for the items without a source.
cdef int leaf_build(BTree* t, const LeafItem* items, uint32_t n, const NewEntry* fresh,
                    uint32_t* slot) noexcept nogil
cdef int inner_build(BTree* t, const InnerItem* items, uint32_t children, const EntryKey* fresh,
                     uint32_t* slot) noexcept nogil
# A byte-for-byte copy with today's epoch; 0 when refused.
cdef uint32_t node_clone(BTree* t, const Node* n) noexcept nogil
# In place; False when there is no room and nothing was changed.
cdef bint leaf_insert(Node* n, uint32_t order, uint32_t i, const NewEntry* e) noexcept nogil
cdef bint inner_insert(Node* n, uint32_t order, uint32_t i, const EntryKey* sep, uint32_t child,
                       uint64_t count) noexcept nogil
# Whether the key shares the node's prefix and its tail has room in the heap.
cdef bint key_fits(const Node* n, const uint8_t* heap, const EntryKey* key) noexcept nogil
cdef void leaf_remove(Node* n, uint32_t i) noexcept nogil
# Removes separator i and child i + 1.
cdef void inner_remove(Node* n, uint32_t i) noexcept nogil
# Overwrites the latest version.  REQUIRES: the leaf has an ext column when the version needs one.
cdef void leaf_set(Node* n, uint32_t i, const KvVersion* v, uint32_t older) noexcept nogil
cdef inline bint needs_ext(const KvVersion* v) noexcept nogil:
    return v.lease != 0 or (v.version >> 32) != 0
# The shortest byte string s with a < s <= b; its tail block is made when it is a long one.
cdef int separator(BTree* t, const EntryKey* a, const EntryKey* b, EntryKey* out) noexcept nogil
cdef uint64_t inner_live(const Node* n) noexcept nogil
