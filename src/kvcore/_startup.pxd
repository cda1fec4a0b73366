# SPDX-License-Identifier: Apache-2.0
"""What an open does before the store has users."""

from libc.stdint cimport int64_t, uint64_t

from kvcore._commit cimport Commit
from kvcore._state cimport KvState
from kvcore._wal cimport Log


# Loads and replays into c.state; returns the checkpoints passed over: [(path, offset, reason)].
cdef list startup(Commit* c, Log log)
# Grants a checkpoint's leases, n pairs (id, TTL), and hangs the index's keys on them.  KV_OK,
# KV_NOMEM, or KV_CORRUPT: a key names another one.
cdef int restore_leases(KvState* s, const int64_t* leases, uint64_t n) noexcept nogil
