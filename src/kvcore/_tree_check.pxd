# SPDX-License-Identifier: Apache-2.0
"""Statistics, and the walk that proves the named invariants."""

from kvcore._tree cimport BTree, BtStats

cdef void bt_stats(const BTree* t, BtStats* out) noexcept nogil
# Walks every named invariant; the first violation as a message in `buf`, or 0 when all hold.
# KV_CORRUPT: violated; KV_NOMEM: no room for the walk's own notes.
cdef int bt_check(const BTree* t, char* buf, size_t size) noexcept nogil
