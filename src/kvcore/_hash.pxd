# SPDX-License-Identifier: Apache-2.0
"""The store's checksum, as etcd's HashKV computes it."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from kvcore._btree cimport BtView
from kvcore._wal cimport Wal


# CRC-32C over the changes up to `revision` that compaction at `compact_revision` leaves.
cdef int hash_view(const BtView* view, const Wal* wal, int64_t revision, int64_t compact_revision,
                   uint32_t* out) noexcept nogil
