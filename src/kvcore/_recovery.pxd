# SPDX-License-Identifier: Apache-2.0
"""What an open may believe: from the files of a directory to the end of the log."""

from libc.stdint cimport int64_t, uint64_t

from kvcore._wal cimport Wal, wal_replay_fn


# What an open found.
cdef class RecoveryReport:
    cdef readonly bint clean                 # the end was a seal with nothing behind it, or nothing
    cdef readonly uint64_t end_position      # where appending continued or the seal says it ended
    cdef readonly uint64_t torn_bytes        # behind the end, up to the last byte that is not zero
    cdef readonly uint64_t batches           # replayed, of all kinds
    cdef readonly uint64_t commands          # in them
    cdef readonly int64_t ceiling            # of the newest ceiling batch; 0: none
    cdef readonly int64_t seal_revision      # of the newest seal; 0: none
    cdef readonly uint64_t segments          # in use
    cdef readonly str cut_path               # file that is cut at cut_offset by start; ""
    cdef readonly int64_t cut_offset


# Loads the segments of `path` into the table, removes unused ones, replays from `from_pos`.
# expected: seq -> (nonce, seed) of segments that must exist.
# synced: position that the log reached when it was last closed; 0: not known.
cdef RecoveryReport recover_log(Wal* w, str path, uint64_t from_pos, dict expected,
                                wal_replay_fn fn, void* ctx, uint64_t synced)
# Raises OutOfMemoryError or StorageError for a negative errno; 0 returns quietly.
cdef int raise_errno(int rc, object what) except -1
# Removes a file, if it is there, and makes that durable.
cdef int remove_file(const Wal* w, str path) except -1
cdef int set_segment_bytes(Wal* w, uint64_t n) noexcept
# Refuses a directory of a newer format; writes FORMAT into a new one.
cdef int check_format(Wal* w, str directory) except -1
