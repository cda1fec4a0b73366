# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: the index written out.  Format: docs/log-format.md, last section."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kvcore._btree cimport BTree, BtSnapshot
from kvcore._command cimport KvBuf
from kvcore._native cimport KvIo
from kvcore._rows cimport KvRows
from kvcore._wal cimport Wal

cdef enum:
    CK_HEADER_BYTES = 128


cdef struct CkInfo:              # what a checkpoint's header says
    uint64_t segment_bytes
    uint64_t replay_from
    uint64_t applied_index
    uint64_t term
    int64_t revision
    int64_t compact_revision
    int64_t ceiling
    uint64_t keys
    uint64_t versions
    uint64_t blocks
    uint64_t segments
    uint64_t table_off
    uint64_t leases
    int64_t alarms


cdef struct CkSegment:
    uint64_t seq
    uint64_t nonce
    uint32_t seed
    uint32_t zero
    uint64_t live_bytes          # of cells that some version names
    uint64_t history_bytes       # of these, cells that no newest version names


cdef struct CkWriter:
    const KvIo* io
    int handle
    int phase
    char* tmp_path
    char* final_path
    char* dir_path
    CkInfo info
    BtSnapshot* snap             # borrowed from the engine, which releases it
    CkSegment* table
    int64_t* leases              # (id, ttl) of each
    uint64_t first_seq
    uint64_t span                # entries of the table while it is counted: holes too
    uint64_t off
    uint64_t synced
    KvBuf block
    KvBuf last_key
    KvRows rows
    int failed_errno             # of the call that ended it
    uint64_t verified            # blocks read back


# Begins a file at `dir/name`; paths are copied.  The snapshot must outlive the writer.  The writer
# owns `leases`, info.leases pairs (id, ttl), from here on.
cdef int ck_begin(CkWriter* w, const KvIo* io, const char* directory, const char* name,
                  const CkInfo* info, BtSnapshot* snap, int64_t* leases,
                  const Wal* wal) noexcept nogil
# One bounded piece of work; *more tells whether there is another.
cdef int ck_step(CkWriter* w, bint* more) noexcept nogil
cdef void ck_end(CkWriter* w) noexcept nogil             # frees; removes nothing
# Reads the file into an empty tree; the caller frees the tables of segments and of leases, also
# after a failure.  `reason` gets a static text when KV_CORRUPT is returned.
cdef int ck_load(const KvIo* io, const char* path, CkInfo* info, CkSegment** table,
                 int64_t** leases, BTree* tree, const char** reason, uint64_t* at) noexcept nogil
