# SPDX-License-Identifier: Apache-2.0
"""What a store forgets by itself.  Contract: the module."""

from libc.stdint cimport uint64_t

from kvcore._commit cimport Commit

# Compacts, when there is enough to forget.  REQUIRES: step_lock
cdef void retention_step(Commit* c, uint64_t now_ns) noexcept nogil
