# SPDX-License-Identifier: Apache-2.0
"""The store's checksum, as etcd's HashKV computes it."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from kvcore._btree cimport BtView
from kvcore._native cimport KvVersion
from kvcore._rows cimport KvRows
from kvcore._wal cimport Wal


cdef struct HashChange:
    KvVersion v
    uint64_t row


cdef struct Hashing:             # a checksum under way
    KvRows rows
    HashChange* changes          # in order of their revisions
    uint64_t n
    uint64_t at                  # of the next change
    uint32_t crc


# CRC-32C over the changes up to `revision` that compaction at `compact_revision` leaves: begun,
# some values at a time until at == n, ended in any case.
cdef int hash_begin(Hashing* h, const BtView* view, int64_t revision,
                    int64_t compact_revision) noexcept nogil
cdef int hash_step(Hashing* h, const Wal* wal) noexcept nogil
cdef void hash_end(Hashing* h) noexcept nogil
