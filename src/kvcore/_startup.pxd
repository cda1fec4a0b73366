# SPDX-License-Identifier: Apache-2.0
"""What an open does before the store has users."""

from kvcore._commit cimport Commit
from kvcore._wal cimport Log


# Loads and replays into c.state; returns the checkpoints passed over: [(path, offset, reason)].
cdef list startup(Commit* c, Log log)
