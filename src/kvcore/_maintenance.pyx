# SPDX-License-Identifier: Apache-2.0
"""Background work of a store, a bounded piece at a time: by one thread, or by who calls step().

    step: cached snapshots · progress of watches · leases that expired (revoked through the log)
          · compaction sweep and dead lists · log written ahead · interval sync · checkpoint

Invariants: no-pause - a hold of the lock does a slice of work; never-early - a lease is revoked at
or behind its expiry on the store's clock; two-checkpoints - one goes when a newer was read back.
Locks: step_lock -> committer role -> lock.  Thread safety: every function.
May not know: Python.
"""

from libc.errno cimport ENOSPC
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memset

from kvcore._ahead cimport ahead_step
from kvcore._btree cimport bt_compact_step, bt_drain_step, bt_release, bt_snapshot
from kvcore._checkpoint cimport CkInfo, ck_begin, ck_end, ck_step
from kvcore._command cimport encode_lease_revoke
from kvcore._commit cimport (CACHED_SNAPSHOTS, SPACE_IDLE, SYNC_INTERVAL, WAKE_AT_ONCE, Commit,
                             Request, commit_call, commit_claim, commit_sync, commit_unclaim,
                             request_drop, request_new)
from kvcore._leases cimport lt_due, lt_dump, lt_requeue
from kvcore._native cimport (KV_CLOSED, KV_IO, KV_NOMEM, KV_OK, KV_POISONED, kv_cond_signal,
                             kv_cond_wait_ns, kv_load_int, kv_mutex_lock, kv_mutex_unlock,
                             kv_store_int, kv_store_u64, kv_thread_join, kv_thread_start)
from kvcore._retention cimport retention_step
from kvcore._space cimport (space_census_begins, space_counted, space_give_reserve, space_step,
                            space_stop, space_wants_checkpoint)
from kvcore._wal cimport wal_sync
from kvcore._watchers cimport hub_tick, hub_wake

cdef enum:
    COMPACT_SLICE = 512          # keys looked at per hold of the lock
    LEASES_AT_ONCE = 1024        # revoked with one sync
    MAINT_IDLE_NS = 50000000
    CACHED_FOR_NS = 5000000000   # an unused cached snapshot is let go after this
    CK_STRETCH = 5               # times the replay target that a large checkpoint may wait
    SPACE_PAUSE_NS = 10000000000  # between checkpoints that are taken for the space they free
    RETRY_MIN_NS = 1000000000    # a failed checkpoint is tried again after 1 s, 2 s, ... 60 s
    RETRY_MAX_NS = 60000000000
    LEASE_RETRY_NS = 1000000000  # and a revoke that could not be written

cdef double REPLAY_NS_PER_COMMAND = 700.0
cdef double REPLAY_NS_PER_BYTE = 0.3
cdef double CK_LOG_PER_BYTE = 12.0    # bytes of log for each byte of checkpoint


# =================================================================================================
# Checkpoints
# =================================================================================================

cdef int _checkpoint_begin(Commit* c) noexcept nogil:
    """Snapshot and log position of one instant: the committer role stops both."""
    cdef Request control
    cdef CkInfo info
    cdef int64_t* leases = NULL
    cdef char name[64]
    cdef int rc = commit_claim(c, &control, False)
    if rc != KV_OK:
        return rc
    rc = c.stopped
    if rc == KV_OK and kv_load_int(&c.wal.poison_errno):
        rc = KV_POISONED                     # the log's end is not known: nothing may name it
    if rc == KV_OK and kv_load_int(&c.dirty):
        rc = wal_sync(c.wal)                 # the values it names must be durable before it is
        kv_store_int(&c.dirty, rc != KV_OK)
    if rc == KV_OK:
        memset(&info, 0, sizeof(CkInfo))
        kv_mutex_lock(&c.lock)
        c.ck_snap = bt_snapshot(&c.state.tree)
        info.segment_bytes = c.wal.segment_bytes
        info.replay_from = c.replay_from
        info.applied_index = c.state.applied_index
        info.term = c.state.term
        info.revision = c.state.revision
        info.compact_revision = c.state.compact_revision
        info.ceiling = c.ceiling
        info.leases = c.state.leases.leases
        info.alarms = c.state.alarms
        space_census_begins(c)
        leases = lt_dump(&c.state.leases)
        kv_mutex_unlock(&c.lock)
        rc = KV_OK if c.ck_snap != NULL and leases != NULL else KV_NOMEM
    if rc == KV_OK:
        snprintf(name, sizeof(name), b"checkpoint-%016llx",
                 <unsigned long long>(c.ck_number + 1))
        rc = ck_begin(&c.ck, c.wal.io, c.directory, name, &info, c.ck_snap, leases,
                      c.wal)
        c.ck_active = True
    else:
        free(leases)
    commit_unclaim(c, &control)
    return rc


cdef void _checkpoint_end(Commit* c, int rc) noexcept nogil:
    if rc == KV_OK:
        kv_store_int(&c.maint_status, KV_OK)
        c.ck_retry_ns = 0
        c.ck_oldest = c.ck_number            # 0: none
        kv_mutex_lock(&c.lock)               # status() looks at these three
        c.ck_number += 1
        c.ck_revision = c.ck.info.revision
        c.ck_written += c.ck.info.table_off
        kv_mutex_unlock(&c.lock)
        c.ck_applied = c.ck.info.applied_index
        c.ck_pos = c.ck.info.replay_from
        kv_store_u64(&c.ck_bytes, c.ck.info.table_off)
        c.ck_ended_ns = c.clock.now_ns(c.clock.ctx)
        space_counted(c, c.ck.table, c.ck.info.segments, c.ck_number, c.ck.info.revision,
                      c.ck.info.replay_from)
    if c.ck_active:
        if rc != KV_OK and c.ck.tmp_path != NULL:
            c.wal.io.unlink(c.wal.io.ctx, c.ck.tmp_path)     # what it reserved is free again
        ck_end(&c.ck)
        c.ck_active = False
    if c.ck_snap != NULL:
        kv_mutex_lock(&c.lock)
        bt_release(&c.state.tree, c.ck_snap)
        kv_mutex_unlock(&c.lock)
        c.ck_snap = NULL
    if rc == KV_OK and c.ck_number > 2:
        _forget_checkpoint(c, c.ck_number - 2)           # two are kept


cdef void _forget_checkpoint(Commit* c, uint64_t number) noexcept nogil:
    cdef char path[4096]
    if snprintf(path, sizeof(path), b"%s/checkpoint-%016llx.ckp", c.directory,
                <unsigned long long>number) < <int>sizeof(path):
        c.wal.io.unlink(c.wal.io.ctx, path)


cdef bint _checkpoint_due(Commit* c, uint64_t now_ns) noexcept nogil:
    """Whether replaying what came since the last one would take too long, or space waits for it.

    A large one waits for as much log as keeps write amplification down, a few times longer at
    most."""
    cdef double cost
    cdef uint64_t bytes
    if c.replay_target_ns <= 0 or c.directory[0] == 0 or c.space.walking != SPACE_IDLE:
        return False
    kv_mutex_lock(&c.lock)
    cost = (<double>(c.state.applied_index - c.ck_applied) * REPLAY_NS_PER_COMMAND
            + <double>(c.replay_from - c.ck_pos) * REPLAY_NS_PER_BYTE)
    bytes = c.replay_from - c.ck_pos
    kv_mutex_unlock(&c.lock)
    if cost > c.replay_target_ns and (bytes >= CK_LOG_PER_BYTE * c.ck_bytes
                                      or cost > CK_STRETCH * c.replay_target_ns):
        return True
    return (c.ck_ended_ns == 0 or now_ns >= c.ck_ended_ns + SPACE_PAUSE_NS) and (
        space_wants_checkpoint(c))


cdef bint _checkpoint_step(Commit* c, uint64_t now_ns) noexcept nogil:
    cdef bint more = True, full
    cdef int rc = KV_OK
    if not c.ck_active:
        if now_ns < c.ck_retry_at_ns or not _checkpoint_due(c, now_ns):
            return False
        rc = _checkpoint_begin(c)
        more = rc == KV_OK
    else:
        rc = ck_step(&c.ck, &more)
    full = rc == KV_IO and c.ck.failed_errno == ENOSPC
    if rc != KV_OK or not more:
        _checkpoint_end(c, rc)
        more = False
    if full and space_give_reserve(c):
        return True
    if full and c.ck_oldest < c.ck_number:
        _forget_checkpoint(c, c.ck_number - 1)           # the disk is full: its room for a new one
        c.ck_oldest = c.ck_number
        c.space.may_retire = True
        return True
    if rc != KV_OK and rc != KV_CLOSED:
        kv_store_int(&c.maint_status, rc)    # told by status(); tried again, ever more slowly
        c.ck_retry_ns = min(max(2 * c.ck_retry_ns, <uint64_t>RETRY_MIN_NS),
                            <uint64_t>RETRY_MAX_NS)
        c.ck_retry_at_ns = now_ns + c.ck_retry_ns
    return more


cdef bint _closing(Commit* c) noexcept nogil:
    cdef bint closing
    kv_mutex_lock(&c.qlock)
    closing = c.closing
    kv_mutex_unlock(&c.qlock)
    return closing


cdef int _checkpoint_now(Commit* c, uint64_t* mine) noexcept nogil:
    """A piece of the checkpoint under way, or the beginning of one; *mine is its number once begun.

    REQUIRES: step_lock"""
    cdef bint more = True
    cdef int rc = KV_OK
    if _closing(c):
        return KV_CLOSED
    if c.ck_active:
        rc = ck_step(&c.ck, &more)
    elif mine[0] == 0:
        space_stop(c)                        # it begins again behind the census
        rc = _checkpoint_begin(c)
        mine[0] = c.ck_number + 1
    else:
        # Another thread ended it.
        rc = kv_load_int(&c.maint_status) if c.ck_number < mine[0] else KV_OK
    if rc != KV_OK or not more:
        _checkpoint_end(c, rc)
    return rc


cdef int maint_checkpoint(Commit* c, uint64_t* mine, bint* done) noexcept nogil:
    cdef int rc
    kv_mutex_lock(&c.step_lock)
    rc = _checkpoint_now(c, mine)
    done[0] = mine[0] != 0 and c.ck_number >= mine[0]
    kv_mutex_unlock(&c.step_lock)
    return rc


# =================================================================================================
# Index, leases, watches
# =================================================================================================

cdef bint _index_step(Commit* c, uint64_t budget) noexcept nogil:
    """Compaction sweep and dead lists, a slice per hold of the lock."""
    cdef bint more = True
    cdef int rc = KV_OK
    cdef uint64_t done = 0, piece
    while more and done < budget:
        piece = min(budget - done, <uint64_t>COMPACT_SLICE)
        kv_mutex_lock(&c.lock)
        more = False
        if not c.closed:
            if c.state.tree.floor_next > c.state.tree.floor:
                more = bt_compact_step(&c.state.tree, piece, &rc)
            if c.state.tree.draining != NULL:
                more = bt_drain_step(&c.state.tree, piece) or more
        kv_mutex_unlock(&c.lock)
        done += piece
        if rc != KV_OK:
            return False                     # no memory: tried again at the next step
    return more


cdef void _expire_cached(Commit* c, uint64_t now_ns) noexcept nogil:
    cdef int i
    kv_mutex_lock(&c.lock)
    for i in range(CACHED_SNAPSHOTS if not c.closed else 0):
        if (c.cached[i].snap != NULL and c.cached[i].readers == 0
                and now_ns > c.cached[i].used_ns + CACHED_FOR_NS):
            bt_release(&c.state.tree, c.cached[i].snap)
            c.cached[i].snap = NULL
    kv_mutex_unlock(&c.lock)


cdef void _put_back(Commit* c, const int64_t* due, uint64_t n, uint64_t at_ns) noexcept nogil:
    cdef uint64_t i
    kv_mutex_lock(&c.lock)
    for i in range(n if not c.closed else 0):
        lt_requeue(&c.state.leases, due[i], at_ns)
    kv_mutex_unlock(&c.lock)


cdef bint _lease_step(Commit* c, uint64_t now_ns) noexcept nogil:
    """What has expired is revoked through the log like any command: soonest first, a revision
    each."""
    cdef int64_t due[LEASES_AT_ONCE]
    cdef Request* r
    cdef uint64_t n, i
    kv_mutex_lock(&c.lock)
    n = 0 if c.closed or c.stopped else lt_due(&c.state.leases, now_ns, LEASES_AT_ONCE, due)
    kv_mutex_unlock(&c.lock)
    if n == 0:
        return False
    r = request_new(False)
    if r != NULL:
        r.res.brief = True
        r.count = <uint32_t>n
        i = 0
        while i < n and encode_lease_revoke(&r.cmd, due[i]) == KV_OK:
            i += 1
        if i == n:
            commit_call(c, r)
        request_drop(r)
    _put_back(c, due, n, now_ns + LEASE_RETRY_NS)    # those that could not be written
    return n == LEASES_AT_ONCE


cdef void _progress_step(Commit* c, uint64_t now_ns) noexcept nogil:
    if now_ns < c.progress_at_ns:
        return
    c.progress_at_ns = now_ns + c.progress_interval_ns
    kv_mutex_lock(&c.lock)
    if not c.closed and not c.stopped:
        hub_tick(&c.hub, c.state.revision)
        hub_wake(&c.hub, WAKE_AT_ONCE)
    kv_mutex_unlock(&c.lock)


cdef bint maint_step(Commit* c, uint64_t now_ns, uint64_t budget) noexcept nogil:
    cdef bint more
    cdef int rc = KV_OK
    kv_mutex_lock(&c.step_lock)
    if _closing(c):                          # it may be closed, and freed, since the caller looked
        kv_mutex_unlock(&c.step_lock)
        return False
    _expire_cached(c, now_ns)
    _progress_step(c, now_ns)
    more = _lease_step(c, now_ns)
    retention_step(c, now_ns)
    if _index_step(c, budget):
        more = True
    if space_step(c, now_ns):
        more = True
    if not c.wal.in_memory:
        if ahead_step(c.wal, 1 << 20, &rc):
            more = True
        if rc != KV_OK and kv_load_int(&c.maint_status) == KV_OK:
            kv_store_int(&c.maint_status, rc)
        if (c.sync_mode == SYNC_INTERVAL and kv_load_int(&c.dirty)
                and now_ns - c.last_sync_ns >= c.sync_interval_ns):
            commit_sync(c)
        if _checkpoint_step(c, now_ns):
            more = True
    kv_mutex_unlock(&c.step_lock)
    return more


cdef void* _maintenance_main(void* arg) noexcept nogil:
    cdef Commit* c = <Commit*>arg
    cdef uint64_t began, spent
    cdef bint more
    kv_mutex_lock(&c.mlock)
    while not c.maint_stop:
        kv_mutex_unlock(&c.mlock)
        began = c.clock.now_ns(c.clock.ctx)
        more = maint_step(c, began, COMPACT_SLICE)
        spent = c.clock.now_ns(c.clock.ctx) - began
        kv_mutex_lock(&c.mlock)
        if c.maint_stop:
            break
        if not more:
            kv_cond_wait_ns(&c.mcond, &c.mlock, MAINT_IDLE_NS)
        elif spent > 0:
            # Half the time is left to the callers: the disk's journal is shared with their syncs.
            kv_cond_wait_ns(&c.mcond, &c.mlock, spent if spent < MAINT_IDLE_NS else MAINT_IDLE_NS)
    kv_mutex_unlock(&c.mlock)
    return NULL


cdef int maint_start(Commit* c) noexcept nogil:
    return KV_OK if kv_thread_start(&c.maint, _maintenance_main, c) == 0 else KV_NOMEM


cdef void maint_wake(Commit* c) noexcept nogil:
    kv_mutex_lock(&c.mlock)
    kv_cond_signal(&c.mcond)
    kv_mutex_unlock(&c.mlock)


cdef void maint_stop(Commit* c) noexcept nogil:
    kv_mutex_lock(&c.mlock)
    c.maint_stop = True
    kv_cond_signal(&c.mcond)
    kv_mutex_unlock(&c.mlock)
    kv_thread_join(&c.maint)
    kv_mutex_lock(&c.qlock)
    c.committer_stop = True
    kv_cond_signal(&c.committer_wanted_cond)
    kv_mutex_unlock(&c.qlock)
    kv_thread_join(&c.committer)
    kv_mutex_lock(&c.step_lock)              # a step() or checkpoint() of another thread ends first
    if c.ck_active:
        _checkpoint_end(c, KV_CLOSED)
    space_stop(c)
    space_give_reserve(c)
    kv_mutex_unlock(&c.step_lock)
