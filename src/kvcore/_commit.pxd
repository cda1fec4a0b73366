# SPDX-License-Identifier: Apache-2.0
"""Group commit: the queue and the committer role.  See docs/concurrency.md."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kvcore._btree cimport BtSnapshot
from kvcore._checkpoint cimport CkSegment, CkWriter
from kvcore._command cimport KvBuf
from kvcore._native cimport KvClock, KvCond, KvMutex, KvThread
from kvcore._result cimport KvResult
from kvcore._rows cimport KvRows
from kvcore._state cimport KvState
from kvcore._wakeups cimport Ready
from kvcore._wal cimport Wal
from kvcore._watchers cimport Hub

cdef enum:
    REQ_QUEUED = 0
    REQ_TAKEN = 1                # a committer has it: it can no longer be withdrawn
    REQ_ELECTED = 2              # its waiter holds the committer role
    REQ_DONE = 3

    FULL_QUOTA = 1               # segments in use reach the quota, less the reserve
    FULL_DISK = 2                # no next segment can be made, and this one is nearly full
    RESERVED_SEGMENTS = 2        # for deletes, compactions, moves

    SPACE_IDLE = 0
    SPACE_COUNTING = 1
    SPACE_MOVING = 2

    SYNC_ALWAYS = 0
    SYNC_INTERVAL = 1
    SYNC_OFF = 2

    CEILING_STEP = 1000000       # revisions promised ahead in the modes that do not sync

    CACHED_SNAPSHOTS = 4

    WAKE_AT_ONCE = 2             # waiters woken by who made news; each of them wakes one more


cdef struct Request:
    KvBuf cmd                    # encoded commands
    uint32_t count               # how many
    bint is_async                # nobody waits on cond; the native committer serves it
    bint signals                 # its waiter is the thread that signals interrupt
    bint control                 # carries no command: its waiter wants the committer role
    KvResult res
    # guarded by qlock
    int state
    int refs
    Request* next
    Request* wake_next           # done, not yet signalled
    Request* wake_prev
    bint in_wake
    Ready* wakers                # event loops and the callback thread that want to know
    bint away                    # its waiter looks for signals and may be waiting for the GIL
    KvCond cond


# A page of a list at a revision the store has moved on from.
cdef struct CachedSnapshot:
    BtSnapshot* snap
    int64_t revision
    uint64_t used_ns
    int readers


# How space comes back (_space): the newest census, and the walk under way.
cdef struct Space:
    # guarded by lock
    uint64_t number              # of the newest census: its checkpoint's, or in memory counted here
    int64_t revision             # of the store when it began
    uint64_t live_bytes          # cells of newest versions
    uint64_t history_bytes       # cells of older ones
    uint64_t counted_bytes       # of the segments it looked at
    uint64_t gone                # versions compacted when it began
    uint64_t moved_bytes
    uint64_t moved_values
    uint64_t retired_segments
    bint pressed                 # near the quota: segments are emptied that gain little
    # guarded by step_lock
    uint64_t began_gone          # of a census under way
    uint64_t reserved            # bytes of the file that keeps room for a checkpoint; 0: none
    uint64_t reserve_at_ns       # when it is tried for next
    bint may_retire
    bint may_move
    bint recount                 # segments were emptied: a census would find them
    int walking                  # SPACE_*
    BtSnapshot* snap
    int64_t walk_revision
    int64_t walk_floor
    uint64_t walk_end
    KvBuf cursor                 # last key walked over
    KvRows rows
    CkSegment* table             # of a census in memory
    uint64_t first_seq
    uint64_t span
    KvBuf batch                  # moves not yet written
    uint32_t batch_count


# What is forgotten by itself (_retention).
cdef struct Retention:
    int64_t revisions            # how many to keep; 0: not by number
    uint64_t ns                  # how long to keep them; 0: not by age
    uint64_t first               # of the samples: times, and the newest revision then
    uint64_t next
    uint64_t[64] at_ns
    int64_t[64] revision


cdef struct Commit:
    # constant after init
    Wal* wal
    const KvClock* clock
    int sync_mode
    uint64_t sync_interval_ns
    uint64_t batch_bytes         # requests taken together
    uint64_t quota               # bytes; 0: none
    double replay_target_ns      # replay an open may cost before a checkpoint is taken
    uint64_t progress_interval_ns
    # guarded by lock: index, revisions, snapshots
    KvMutex lock
    KvCond readers_gone
    KvState state
    Hub hub                      # who watches
    int readers                  # walking a snapshot without the lock
    bint closed
    CachedSnapshot cached[CACHED_SNAPSHOTS]
    # guarded by qlock: the queue and who commits
    KvMutex qlock
    Request* head
    Request* tail
    Request* wake_head
    Request* wake_tail
    int waiting_to_wake          # the wake list is not empty (atomic)
    bint busy                    # somebody holds the committer role
    bint closing                 # no new requests
    bint shut                    # close() is through
    KvCond shut_cond
    KvCond committer_wanted_cond
    bint committer_wanted
    bint committer_stop
    KvThread committer
    # guarded by the committer role
    int stopped                  # status that stopped the state machine; 0: running
    int64_t ceiling
    uint64_t replay_from         # end of the last batch applied
    uint64_t last_sync_ns
    int dirty                    # something written is not synced (atomic)
    # published
    int full                     # FULL_*: what makes the store larger is refused (atomic)
    int alarmed                  # alarms of the state (atomic)
    int64_t revision             # newest revision anybody may see
    # maintenance: one thread, or whoever calls step()
    KvMutex mlock
    KvCond mcond
    bint maint_stop
    KvThread maint
    KvMutex step_lock            # one step at a time; guards what follows
    uint64_t progress_at_ns      # when watches are told of progress next
    bint ck_active
    CkWriter ck
    BtSnapshot* ck_snap
    char* directory              # "" in memory mode
    uint64_t ck_number           # of the newest checkpoint; changes under lock too
    uint64_t ck_retry_ns         # pause after a failed one, doubled each time
    uint64_t ck_retry_at_ns
    int64_t ck_revision          # changes under lock too
    uint64_t ck_oldest           # of the oldest one that an open may go back to
    uint64_t ck_applied          # applied index and log position of the newest one
    uint64_t ck_pos
    uint64_t ck_written          # bytes of all of this run; changes under lock too
    uint64_t ck_bytes            # size of the newest one
    uint64_t ck_ended_ns         # when it ended; 0: not in this run
    Space space
    Retention retention
    int maint_status             # the newest failure of background work
    # statistics, guarded by lock
    uint64_t batches
    uint64_t commands


# `capacity`: events the ring keeps.
cdef int commit_init(Commit* c, uint32_t order, Wal* wal, uint64_t capacity) noexcept nogil
cdef void commit_deinit(Commit* c) noexcept nogil        # frees the index; threads are gone

cdef Request* request_new(bint is_async) noexcept nogil
cdef void request_drop(Request* r) noexcept nogil        # one reference less

# Queues r and waits until it is done.  0: done; 1: look for signals, then call commit_wait; or
# KV_CLOSED.
cdef int commit_call(Commit* c, Request* r) noexcept nogil
cdef int commit_wait(Commit* c, Request* r) noexcept nogil
# Takes r back; False when a committer has it already (then wait for it).
cdef bint commit_withdraw(Commit* c, Request* r) noexcept nogil
# Queues r for the native committer thread.
cdef int commit_submit(Commit* c, Request* r) noexcept nogil
# Waits up to ns for an async request (0: for ever, in slices); True when it is done.
cdef bint commit_await(Commit* c, Request* r, uint64_t ns) noexcept nogil
# Called with the GIL by a waiter that returns: wakes the next one.
cdef void commit_pass_baton(Commit* c) noexcept nogil
# The committer role for something else than commands.  `even_closing`: also after closing began.
cdef int commit_claim(Commit* c, Request* control, bint even_closing) noexcept nogil
# The same in two: True when the role is the caller's, False when it is time to look for signals;
# commit_unclaim ends it in either case.
cdef int commit_claim_begin(Commit* c, Request* control, bint even_closing) noexcept nogil
cdef bint commit_claim_wait(Commit* c, Request* control) noexcept nogil
cdef void commit_unclaim(Commit* c, Request* control) noexcept nogil

# Syncs what was written.  Takes the role itself.
cdef int commit_sync(Commit* c) noexcept nogil
# Whether the store is full, as `full` tells it.  REQUIRES: lock, or the committer role
cdef void commit_weigh(Commit* c) noexcept nogil
