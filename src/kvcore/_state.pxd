# SPDX-License-Identifier: Apache-2.0
"""The deterministic state machine: commands in order in, index and revisions out."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kvcore._btree cimport BTree
from kvcore._command cimport Cursor
from kvcore._leases cimport LeaseTable
from kvcore._range cimport KvReader
from kvcore._result cimport KvResult
from kvcore._wal cimport Wal
from kvcore._watchers cimport Hub


cdef enum:
    ALARM_NOSPACE = 1


cdef struct KvState:
    BTree tree
    const Wal* wal
    int64_t revision             # newest; 1 when empty
    int64_t compact_revision     # -1: never compacted
    uint64_t applied_index       # log index of the last command applied
    uint64_t term
    LeaseTable leases
    int64_t alarms               # ALARM_* raised and not disarmed
    Hub* hub                     # NULL on replay: nobody watches
    uint64_t now_ns              # the store's clock, read once a batch: when grants begin


cdef int state_init(KvState* s, uint32_t order, const Wal* wal) noexcept nogil
cdef void state_deinit(KvState* s) noexcept nogil
cdef KvReader state_reader(const KvState* s) noexcept nogil
# Applies the command at the cursor and moves it on.  `base` is where the bytes lie in memory, `pos`
# in the log.  `out` (NULL on replay) gets status, revision and answers.  Returns KV_OK also when
# the command failed as commands may (out.status says how); anything else means the state machine
# must stop.
cdef int state_apply(KvState* s, Cursor* c, const uint8_t* base, uint64_t pos,
                     KvResult* out) noexcept nogil
# Whether a store may have granted it.
cdef bint lease_possible(int64_t lease, int64_t ttl) noexcept nogil
# A transaction that cannot write, answered from the current state.
cdef int state_read_txn(KvState* s, Cursor* c, KvResult* out) noexcept nogil
