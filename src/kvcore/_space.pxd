# SPDX-License-Identifier: Apache-2.0
"""How space comes back: census, moves, retirement.  Contracts: the module."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kvcore._btree cimport BTree
from kvcore._checkpoint cimport CkSegment
from kvcore._commit cimport Commit

# Applies a batch of moves; a value that is elsewhere, or gone, is passed over.  *moved counts the
# others.  KV_OK, or KV_CORRUPT when the payload does not parse.  REQUIRES: lock
cdef int moves_apply(BTree* t, const uint8_t* payload, uint64_t n, uint64_t payload_pos,
                     uint64_t* moved) noexcept nogil
# Takes in what a census found: cells that somebody names, per segment.  `number` ascends; `end` is
# the log position up to which it counted, `gone` and `appended` what the counters said when it
# began.  REQUIRES: step_lock
cdef void space_counted(Commit* c, const CkSegment* table, uint64_t n, uint64_t number,
                        int64_t revision, uint64_t end) noexcept nogil
# What the counters say now, for the census that begins.  REQUIRES: lock, step_lock
cdef void space_census_begins(Commit* c) noexcept nogil
# One bounded piece; True when there is more.  REQUIRES: step_lock
cdef bint space_step(Commit* c, uint64_t now_ns) noexcept nogil
# Whether a checkpoint would give space back.  REQUIRES: step_lock
cdef bint space_wants_checkpoint(Commit* c) noexcept nogil
# Gives up the room kept for a checkpoint; False when there is none.  REQUIRES: step_lock
cdef bint space_give_reserve(Commit* c) noexcept nogil
# Ends a walk under way.  REQUIRES: step_lock
cdef void space_stop(Commit* c) noexcept nogil
# Bytes of segments in use: the table's, the next one's and those kept.  REQUIRES: lock
cdef uint64_t space_used(const Commit* c) noexcept nogil
