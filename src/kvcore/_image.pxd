# SPDX-License-Identifier: Apache-2.0
"""A state written into a directory: checkpoint and segments.  Contracts: the module."""

from libc.stdint cimport int64_t, uint64_t

from kvcore._btree cimport BtSnapshot
from kvcore._checkpoint cimport CkInfo
from kvcore._native cimport KvIo
from kvcore._wal cimport Wal

# Writes `directory`/checkpoint-1.ckp of the snapshot, over segments that get headers of their own:
# [(seq, nonce, seed, live bytes)].  Owns `leases`, also after a failure.
cdef list image_checkpoint(const KvIo* io, bytes directory, CkInfo* info, BtSnapshot* snap,
                           int64_t* leases, const Wal* wal)
# `header`, then the segment's bytes from behind its own up to offset `upto`, as a file: their CRC.
cdef object image_segment(const KvIo* io, str path, bytes header, const Wal* wal, uint64_t seq,
                          uint64_t upto)
