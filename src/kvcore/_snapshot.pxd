# SPDX-License-Identifier: Apache-2.0
"""The store as it was."""

from libc.stdint cimport int64_t

from kvcore._btree cimport BtSnapshot
from kvcore._engine cimport Engine
from kvcore._pin cimport Pin
from kvcore._range cimport KvReader


cdef class Snapshot:
    cdef Engine engine
    cdef Pin pin                 # of what its values lie in; None: released
    cdef BtSnapshot* snap
    cdef int readers             # reads under way; guarded by the engine's lock
    cdef bint dropped            # release() was called
    cdef readonly int64_t revision
    cdef int64_t compact_revision
    cdef Pin _begin(self, KvReader* r)
    cdef void _end(self) noexcept
