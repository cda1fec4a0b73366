# SPDX-License-Identifier: Apache-2.0
"""The log: fixed-size segments of checksummed batches.  Format: docs/log-format.md.

Appends and syncs: one caller at a time (the committer).  Reads by position: any thread, no lock,
for positions below the end published by the last successful append.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kvcore._native cimport Io, KvIo, KvMutex, KvSlice


cdef enum:
    WAL_HEADER_BYTES = 64        # of a segment and of a batch
    WAL_COMMANDS = 1             # batch kinds
    WAL_SEAL = 2                 # an open found a tail, or a clean close: nothing of before is torn
    WAL_CEILING = 3              # revisions up to `revision` may have been shown to somebody
    WAL_MOVES = 4                # reserved: values moved out of mostly dead segments
    WAL_MARK = 5                 # a checkpoint is complete
    CELL_HEAD = 13               # crc, key length and value length around key and value of a cell


cdef struct WalBatch:            # a batch header, in memory
    uint32_t crc
    uint64_t nonce
    uint64_t pos
    uint64_t durable_upto
    uint64_t first_index
    uint64_t term
    int64_t revision
    uint32_t len                 # payload bytes
    uint32_t count               # commands
    uint8_t kind


cdef struct WalSegment:
    uint64_t seq
    uint64_t nonce
    uint32_t seed
    bint recycled                # the file was another segment before: what is behind is not zero
    int handle                   # -1 in memory mode, and once mapped and no longer appended to
    uint64_t file_bytes          # no batch reaches behind it
    const uint8_t* view          # mapping, or the memory itself; NULL: read_at
    uint64_t map_bytes           # length of the mapping
    uint64_t written_upto        # blocks below are written or claimed by the appender (zero_lock)
    uint64_t end                 # offset behind the last batch; 0 while it is appended to
    uint64_t live_bytes          # of cells that something names, when the newest census began
    uint64_t counted             # number of the newest census that counted it; 0: none did
    uint64_t empty_since         # number of the first census of a row that found none; 0: it did
    uint64_t tried_live          # live_bytes when it was last chosen to be emptied; 0: never
    bint emptied                 # its live cells are being moved, or were
    bint retired                 # nothing names it any more, but who looked before
    WalSegment* next             # of those that were retired


# A stretch of time between two retirements (_segment_table).
cdef struct WalEpoch:
    uint64_t pins
    uint64_t number
    WalEpoch* next
    WalSegment* retired          # what ended it


cdef struct Wal:
    # constant after init
    const KvIo* io
    uint64_t segment_bytes
    uint32_t segment_shift       # log2 of segment_bytes
    bint in_memory
    bint verify
    char* directory              # NULL in memory mode
    int fork_generation
    # the segment table; grows only, old tables stay until deinit so that readers need no lock
    WalSegment** segments
    uint64_t first_seq
    uint64_t segment_count
    uint64_t table_cap
    uint64_t holes               # entries without a segment
    KvMutex epoch_lock           # guards the following; a leaf
    WalEpoch* epoch              # the newest
    uint64_t epoch_number        # how many ended (atomic)
    void* idle_pin               # the Pin object kept for the next reader; NULL: none (_pin)
    WalEpoch* idle_epoch         # its epoch
    WalSegment* drained          # retired, and nobody may look at them any more
    uint64_t retired_bytes       # of what is retired and not yet taken from there (atomic)
    # guarded by the committer role
    uint8_t* staging             # header and payload of the batch being built
    uint64_t staging_cap
    uint64_t next_pos            # where the next batch begins
    uint64_t written_pos         # end of what was written
    uint64_t durable_pos         # end of what was synced
    uint64_t proven_pos          # end of what an open knows to have been synced
    int poison_errno             # 0, or the errno of the first failed write or sync
    int no_space                 # the newest try to make a segment found the disk full (atomic)
    int roll_errno               # of the newest segment that could not be made; not poison
    bint accepting               # between start and shut
    # the next segment, made ready ahead by the maintenance thread
    KvMutex spare_lock           # guards spare and spare_ready; taken before zero_lock, if both
    WalSegment* spare
    WalSegment* pool             # retired files, kept to be written again (spare_lock)
    uint64_t pool_count
    uint64_t pool_max            # constant after init
    bint spare_ready             # complete, under its final name
    KvMutex zero_lock            # held while blocks ahead of the tail are zeroed
    # statistics
    uint64_t batches
    uint64_t syncs
    uint64_t bytes
    uint64_t zeroed              # written ahead


# --- append side: REQUIRES the committer role -------------------------------------------------
# Room for a payload of up to n bytes; NULL: no memory.
cdef uint8_t* wal_stage(Wal* w, uint64_t n) noexcept nogil
# Grows the staged room to n bytes, keeping what is there; NULL: no memory.
cdef uint8_t* wal_stage_more(Wal* w, uint64_t n) noexcept nogil
# Writes the staged payload as one batch; *payload_pos gets the log position of its first byte.
# KV_OK, KV_TOO_LARGE (does not fit a segment), KV_NO_SPACE or KV_IO (no next segment could be made:
# nothing was written, it may be tried again), KV_POISONED, KV_CLOSED, KV_FORKED, or
# KV_UNKNOWN_OUTCOME (and the log is poisoned).
cdef int wal_append(Wal* w, uint8_t kind, uint64_t payload_len, uint32_t count,
                    uint64_t first_index, uint64_t term, int64_t revision,
                    uint64_t* payload_pos) noexcept nogil
# Starts writing back what was appended, so that something else may be done before wal_sync.  It
# promises nothing; a failure is one of the write.
cdef int wal_begin_sync(Wal* w) noexcept nogil
# Makes everything appended durable.  A failure poisons the log and is never retried.
cdef int wal_sync(Wal* w) noexcept nogil
cdef WalSegment* wal_current(const Wal* w) noexcept nogil        # NULL: none yet
# KV_OK, or why nothing may be written: KV_FORKED, KV_CLOSED, KV_POISONED.
cdef int wal_may_write(const Wal* w) noexcept nogil
# --- read side ------------------------------------------------------------------------------------
# The n bytes at pos, or NULL when the segment is not mapped or pos is outside the log.
cdef const uint8_t* wal_ptr(const Wal* w, uint64_t pos, uint64_t n) noexcept nogil
# Copies the n bytes at pos.  KV_OK, KV_IO, KV_CORRUPT (outside the log).
cdef int wal_read(const Wal* w, uint64_t pos, void* dst, uint64_t n) noexcept nogil
# The value of a cell, after comparing its CRC and both lengths: a pointer into the mapping when
# there is one, else into *owned (malloc'ed, the caller frees).  KV_OK, KV_CORRUPT, KV_IO, KV_NOMEM.
cdef int wal_value(const Wal* w, uint64_t pos, uint32_t key_len, uint32_t value_len, KvSlice* value,
                   void** owned) noexcept nogil
# Writes a cell (CELL_HEAD + key + value bytes) at dst; returns its size.
cdef uint64_t cell_write(uint8_t* dst, KvSlice key, KvSlice value) noexcept nogil
# Reads a cell header; 0 when it is not one or does not fit n bytes, else the cell's size.
cdef uint64_t cell_read(const uint8_t* p, uint64_t n, KvSlice* key, KvSlice* value) noexcept nogil


# One batch handed to the replayer in order.  Non-zero stops the replay with that status.
ctypedef int (*wal_replay_fn)(void* ctx, const WalBatch* batch, const uint8_t* payload,
                              uint64_t payload_pos) noexcept nogil


cdef struct SegWalk:         # a walk over the batches of one segment, and what it has seen so far
    uint64_t off             # where the next batch is expected
    uint64_t batches
    uint64_t commands
    uint64_t last_off        # of the last valid batch of this segment; 0: none yet
    int64_t ceiling          # of the newest ceiling batch
    int64_t seal_revision    # of the newest seal
    uint64_t durable_upto    # of the newest batch: up to there all was synced
    uint8_t last_kind


# Owns a Wal; the engine keeps a reference, and so does every result that reads values lazily.
cdef class Log:
    cdef Wal c
    cdef Io io
    cdef readonly str path                   # "" in memory mode
    cdef readonly object recovery            # what open found: _recovery.RecoveryReport
    cdef int fork_generation
    cdef bint is_open
    cdef object lock                         # DirectoryLock, None in memory mode
    cdef uint64_t sealed                     # the end when it was last sealed
    cdef bint recovered
    # Replays every batch from `from_pos` (0: the beginning) and readies the log for appending.
    # expected_segments: {number: (nonce, seed, live bytes, empty_since)} of a checkpoint.
    cdef int recover(self, uint64_t from_pos, dict expected_segments, wal_replay_fn fn,
                     void* ctx) except -1
    # After recover: writes the seal the recovery calls for.  `revision` is what the store
    # continues from.
    cdef int start(self, int64_t revision, uint64_t next_index, uint64_t term) except -1
    cdef int seal(self, int64_t revision, uint64_t next_index, uint64_t term) except -1
    # Closes files and gives the directory back; does not seal.  Mappings live until deallocation.
    cdef int shut(self) except -1
    # Raises ForkedError or ClosedError.
    cdef int _usable(self) except -1
    cdef int _write_again(self, WalSegment* s) except -1
    cdef int _start_behind_tear(self, uint64_t seq, int64_t revision, uint64_t next_index,
                                uint64_t term) except -1
