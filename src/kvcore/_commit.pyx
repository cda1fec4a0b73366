# SPDX-License-Identifier: Apache-2.0
"""Group commit: callers queue encoded commands; one of them at a time writes, syncs, applies.

    caller ─ encode ─ queue ┐            ┌ election of the next committer (it needs no GIL)
    caller ─ encode ─ queue ┼ committer: take all · one write · one sync · apply each · mark done ┤
    submit ─ encode ─ queue ┘            └ waiters woken two at a time, each passing the baton

A lone caller is its own committer: one write, one sync, no hand-over.  A finished committer elects
the waiter at the head of the queue, or wakes the native committer thread when that is a submitted
one.

Invariants
1. one-committer: `busy` is true exactly while somebody holds the role; log and stop state are
   theirs.
2. log-first: a command is applied only after the log (and the sync, in "always") returned.
3. first-come: requests are applied in the order of the queue; a batch is a prefix of it.
4. no-lost-wake: whoever marks a request done, or leaves the role with a queue, signals under qlock.
5. never-skip: after a command could not be applied (memory) nothing more is (`stopped`).

Locks: qlock, lock, mlock and step_lock are leaves but for step_lock -> role -> lock; none is held
while another caller's code runs, and the GIL is never taken here.  May not know: Python.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport close as posix_close
from posix.unistd cimport write as posix_write

from kvcore._btree cimport bt_compact_step, bt_drain_step, bt_release, bt_snapshot
from kvcore._checkpoint cimport CkInfo, ck_begin, ck_end, ck_step
from kvcore._command cimport Cursor, buf_free
from kvcore._native cimport (
    KV_CLOSED, KV_IO, KV_NOMEM, KV_OK, KV_POISONED, KV_UNKNOWN_OUTCOME, kv_add_int,
    kv_cond_broadcast, kv_cond_destroy, kv_cond_init, kv_cond_signal, kv_cond_wait,
    kv_cond_wait_ns, kv_load_int, kv_mutex_init, kv_mutex_lock, kv_mutex_unlock, kv_store_i64,
    kv_store_int, kv_thread_join, kv_thread_start,
)
from kvcore._result cimport result_free, result_init
from kvcore._state cimport state_apply, state_deinit, state_init
from kvcore._wal cimport (WAL_CEILING, WAL_COMMANDS, Wal, wal_append, wal_prepare_step, wal_stage,
                          wal_sync)

cdef enum:
    WAIT_SLICE_NS = 50000000     # how often a waiter looks for signals
    WAKE_AT_ONCE = 2             # waiters woken by a committer; each of them wakes one more
    APPLY_SLICE = 64             # commands applied per hold of the lock
    COMPACT_SLICE = 512          # keys looked at per hold of the lock
    MAINT_IDLE_NS = 50000000
    CACHED_FOR_NS = 5000000000   # an unused cached snapshot is let go after this
    RETRY_MIN_NS = 1000000000    # a failed checkpoint is tried again after 1 s, 2 s, ... 60 s
    RETRY_MAX_NS = 60000000000

cdef double REPLAY_NS_PER_COMMAND = 1000.0
cdef double REPLAY_NS_PER_BYTE = 0.5


# =================================================================================================
# Requests
# =================================================================================================

cdef Request* request_new(bint is_async) noexcept nogil:
    cdef Request* r = <Request*>calloc(1, sizeof(Request))
    if r == NULL:
        return NULL
    result_init(&r.res)
    kv_cond_init(&r.cond)
    r.is_async = is_async
    r.refs = 2 if is_async else 1        # the future's and the committer's
    return r


cdef void request_drop(Request* r) noexcept nogil:
    cdef WakeRef* ref
    if kv_add_int(&r.refs, -1) != 0:
        return
    result_free(&r.res)
    buf_free(&r.cmd)
    kv_cond_destroy(&r.cond)
    while r.wakers != NULL:
        ref = r.wakers
        r.wakers = ref.next
        waker_drop(ref.waker)
        free(ref)
    free(r)


cdef void waker_drop(Waker* w) noexcept nogil:
    if kv_add_int(&w.refs, -1) == 0:
        posix_close(w.fd)
        free(w)


cdef void _waker_signal(Waker* w) noexcept nogil:
    cdef uint64_t one = 1
    if kv_load_int(&w.signalled) == 0:
        kv_store_int(&w.signalled, 1)
        posix_write(w.fd, &one, 8)       # a full pipe is a pending wake-up: nothing is lost


# =================================================================================================
# Committing a batch.  REQUIRES: the committer role.
# =================================================================================================

cdef int _raise_ceiling(Commit* c, uint32_t count) noexcept nogil:
    """Before revisions are shown unsynced, a durable promise never to give them again."""
    cdef uint64_t pos = 0
    cdef int rc
    if c.state.revision + count <= c.ceiling:
        return KV_OK
    if wal_stage(c.wal, 0) == NULL:
        return KV_NOMEM
    rc = wal_append(c.wal, WAL_CEILING, 0, 0, c.state.applied_index + 1, c.state.term,
                    c.state.revision + count + CEILING_STEP, &pos)
    if rc == KV_OK:
        rc = wal_sync(c.wal)
    if rc == KV_OK:
        c.ceiling = c.state.revision + count + CEILING_STEP
    return rc


cdef int _write_batch(Commit* c, Request* first, uint64_t total, uint32_t count,
                      uint64_t* pos) noexcept nogil:
    cdef Request* r = first
    cdef uint8_t* p
    cdef int rc
    if c.stopped:
        return c.stopped
    if c.sync_mode != SYNC_ALWAYS and not c.wal.in_memory:
        rc = _raise_ceiling(c, count)
        if rc != KV_OK:
            return rc
    p = wal_stage(c.wal, total)
    if p == NULL:
        return KV_NOMEM
    while r != NULL:
        memcpy(p, r.cmd.p, r.cmd.len)
        p += r.cmd.len
        r = r.next
    rc = wal_append(c.wal, WAL_COMMANDS, total, count, c.state.applied_index + 1, c.state.term,
                    c.state.revision, pos)
    if rc == KV_OK and c.sync_mode == SYNC_ALWAYS:
        rc = wal_sync(c.wal)
    else:
        kv_store_int(&c.dirty, 1)
    return rc


cdef int _apply_request(Commit* c, Request* r, uint64_t pos) noexcept nogil:
    """REQUIRES: lock, which is let go now and then in a long request."""
    cdef Cursor cur
    cdef uint32_t i
    cdef int rc
    cdef int first_failure = KV_OK
    cur.p = r.cmd.p
    cur.end = r.cmd.p + r.cmd.len
    cur.bad = False
    for i in range(r.count):
        if i and i % APPLY_SLICE == 0:
            kv_store_i64(&c.revision, c.state.revision)
            kv_mutex_unlock(&c.lock)
            kv_mutex_lock(&c.lock)
        rc = state_apply(&c.state, &cur, r.cmd.p, pos, &r.res)
        if rc != KV_OK:
            return rc
        if r.res.status != KV_OK and first_failure == KV_OK:
            first_failure = r.res.status
    r.res.status = first_failure
    return KV_OK


cdef void _commit_batch(Commit* c, Request* first, uint64_t total, uint32_t count) noexcept nogil:
    cdef Request* r = first
    cdef uint64_t pos = 0
    cdef uint32_t since = 0
    cdef int rc = _write_batch(c, first, total, count, &pos)
    if rc == KV_OK:
        kv_mutex_lock(&c.lock)
        while r != NULL:
            rc = _apply_request(c, r, pos)
            if rc != KV_OK:
                break                        # durable, but not applied: stop, never skip
            pos += r.cmd.len
            since += r.count
            if since >= APPLY_SLICE:
                since = 0
                kv_store_i64(&c.revision, c.state.revision)
                kv_mutex_unlock(&c.lock)
                kv_mutex_lock(&c.lock)
            r = r.next
        if rc == KV_OK:
            c.replay_from = c.wal.next_pos
        else:
            c.stopped = KV_POISONED if rc == KV_IO else rc
        kv_store_i64(&c.revision, c.state.revision)
        c.batches += 1
        c.commands += count
        kv_mutex_unlock(&c.lock)
        if rc != KV_OK:
            rc = KV_UNKNOWN_OUTCOME          # durable: the next open applies it
    while r != NULL:                         # those that were not applied
        r.res.status = rc
        if rc == KV_POISONED or rc == KV_UNKNOWN_OUTCOME:
            r.res.detail = c.wal.poison_errno
        elif rc == KV_IO:
            r.res.detail = c.wal.roll_errno
        r = r.next


# =================================================================================================
# The queue.  REQUIRES: qlock, unless said otherwise.
# =================================================================================================

cdef void _push(Commit* c, Request* r) noexcept nogil:
    r.state = REQ_QUEUED
    r.next = NULL
    if c.tail == NULL:
        c.head = r
    else:
        c.tail.next = r
    c.tail = r


cdef void _unlink(Commit* c, Request* r) noexcept nogil:
    cdef Request* before = NULL
    cdef Request* at = c.head
    while at != r:
        before = at
        at = at.next
    if before == NULL:
        c.head = r.next
    else:
        before.next = r.next
    if c.tail == r:
        c.tail = before
    r.next = NULL


cdef void _wake_add(Commit* c, Request* r) noexcept nogil:
    kv_store_int(&c.waiting_to_wake, 1)
    r.in_wake = True
    r.wake_next = NULL
    r.wake_prev = c.wake_tail
    if c.wake_tail == NULL:
        c.wake_head = r
    else:
        c.wake_tail.wake_next = r
    c.wake_tail = r


cdef void _wake_remove(Commit* c, Request* r) noexcept nogil:
    if r.wake_prev == NULL:
        c.wake_head = r.wake_next
    else:
        r.wake_prev.wake_next = r.wake_next
    if r.wake_next == NULL:
        c.wake_tail = r.wake_prev
    else:
        r.wake_next.wake_prev = r.wake_prev
    r.in_wake = False


cdef void _wake(Commit* c, int n) noexcept nogil:
    cdef Request* r
    while n and c.wake_head != NULL:
        r = c.wake_head
        _wake_remove(c, r)
        kv_cond_signal(&r.cond)
        n -= 1
    if c.wake_head == NULL:
        kv_store_int(&c.waiting_to_wake, 0)


cdef void _elect(Commit* c) noexcept nogil:
    """Hands the role on; the one chosen needs no interpreter to begin.

    A waiter that is away (it looks for signals, and may be waiting for the GIL) is passed over for
    any other, at last for the native thread: a round serves the head of the queue whoever runs it.
    """
    cdef Request* r = c.head
    if r == NULL:
        c.busy = False
        return
    while r != NULL and not r.control and (r.is_async or r.away):
        r = r.next
    if r != NULL and (r == c.head or not (r.control or c.head.is_async)):
        r.state = REQ_ELECTED
        kv_cond_signal(&r.cond)
    elif c.committer.running or kv_thread_start(&c.committer, _committer_main, c) == 0:
        c.committer_wanted = True
        kv_cond_signal(&c.committer_wanted_cond)
    else:
        c.head.state = REQ_ELECTED           # no thread to be had: it begins when it is back
        kv_cond_signal(&c.head.cond)


cdef void _finish(Commit* c, Request* first, Request* mine) noexcept nogil:
    """Marks a batch done; its waiters go to the wake list, futures are told."""
    cdef Request* r = first
    cdef Request* following
    cdef WakeRef* ref
    while r != NULL:
        following = r.next
        r.next = NULL
        r.state = REQ_DONE
        if r.is_async:
            kv_cond_broadcast(&r.cond)
            ref = r.wakers
            while ref != NULL:
                _waker_signal(ref.waker)
                ref = ref.next
            request_drop(r)
        elif r != mine:
            _wake_add(c, r)
        r = following


cdef void _round(Commit* c, Request* mine) noexcept nogil:
    """One batch from the head of the queue, then the election.  Holds qlock at entry and exit only.

    REQUIRES: the role.  Gives it away, unless the head of the queue is a control request of
    `mine`."""
    cdef Request* first = c.head
    cdef Request* last = NULL
    cdef Request* r = c.head
    cdef uint64_t total = 0
    cdef uint32_t count = 0
    while r != NULL and not r.control and (last == NULL or total + r.cmd.len <= c.batch_bytes):
        total += r.cmd.len
        count += r.count
        r.state = REQ_TAKEN
        last = r
        r = r.next
    if last != NULL:
        c.head = r
        if r == NULL:
            c.tail = NULL
        last.next = NULL
        kv_mutex_unlock(&c.qlock)
        _commit_batch(c, first, total, count)
        kv_mutex_lock(&c.qlock)
        _finish(c, first, mine)
    _elect(c)
    _wake(c, WAKE_AT_ONCE)


cdef int _wait_locked(Commit* c, Request* r) noexcept nogil:
    """Until r is done; 1 when it is time to look for signals (only where some arrive)."""
    r.away = False
    while r.state != REQ_DONE:
        if r.state == REQ_ELECTED:
            r.state = REQ_QUEUED             # a round may end before it comes to r
            _round(c, r)
        elif not r.signals:
            kv_cond_wait(&r.cond, &c.qlock)
        elif not kv_cond_wait_ns(&r.cond, &c.qlock, WAIT_SLICE_NS):
            if r.state == REQ_QUEUED or r.state == REQ_TAKEN:
                r.away = True
                return 1
    if r.in_wake:
        _wake_remove(c, r)
    return 0


cdef int commit_call(Commit* c, Request* r) noexcept nogil:
    cdef int rc
    kv_mutex_lock(&c.qlock)
    if c.closing:
        kv_mutex_unlock(&c.qlock)
        return KV_CLOSED
    _push(c, r)
    if not c.busy:
        c.busy = True
        r.state = REQ_ELECTED
    rc = _wait_locked(c, r)
    kv_mutex_unlock(&c.qlock)
    return rc


cdef int commit_wait(Commit* c, Request* r) noexcept nogil:
    cdef int rc
    kv_mutex_lock(&c.qlock)
    rc = _wait_locked(c, r)
    kv_mutex_unlock(&c.qlock)
    return rc


cdef bint commit_withdraw(Commit* c, Request* r) noexcept nogil:
    cdef bint mine = False
    kv_mutex_lock(&c.qlock)
    r.away = False
    if r.state == REQ_QUEUED or r.state == REQ_ELECTED:
        mine = True
        _unlink(c, r)
        if r.state == REQ_ELECTED:
            _elect(c)
    kv_mutex_unlock(&c.qlock)
    return mine


cdef void commit_pass_baton(Commit* c) noexcept nogil:
    if kv_load_int(&c.waiting_to_wake) == 0:
        return
    kv_mutex_lock(&c.qlock)
    _wake(c, 1)
    kv_mutex_unlock(&c.qlock)


# =================================================================================================
# The native committer thread, for requests nobody waits on
# =================================================================================================

cdef void* _committer_main(void* arg) noexcept nogil:
    cdef Commit* c = <Commit*>arg
    kv_mutex_lock(&c.qlock)
    while True:
        if c.committer_wanted:
            c.committer_wanted = False
            _round(c, NULL)
        elif c.committer_stop:
            break
        else:
            kv_cond_wait(&c.committer_wanted_cond, &c.qlock)
    kv_mutex_unlock(&c.qlock)
    return NULL


cdef int commit_submit(Commit* c, Request* r) noexcept nogil:
    cdef int rc = KV_OK
    kv_mutex_lock(&c.qlock)
    if c.closing:
        rc = KV_CLOSED
    elif not c.committer.running and kv_thread_start(&c.committer, _committer_main, c) != 0:
        rc = KV_NOMEM
    else:
        _push(c, r)
        if not c.busy:
            c.busy = True
            c.committer_wanted = True
            kv_cond_signal(&c.committer_wanted_cond)
    kv_mutex_unlock(&c.qlock)
    return rc


cdef bint commit_await(Commit* c, Request* r, uint64_t ns) noexcept nogil:
    cdef bint done
    kv_mutex_lock(&c.qlock)
    if r.state != REQ_DONE:
        kv_cond_wait_ns(&r.cond, &c.qlock, ns if 0 < ns < WAIT_SLICE_NS else WAIT_SLICE_NS)
    done = r.state == REQ_DONE
    kv_mutex_unlock(&c.qlock)
    return done


# =================================================================================================
# The role for other work: syncs, checkpoints, seals
# =================================================================================================

cdef int commit_claim(Commit* c, Request* control, bint even_closing) noexcept nogil:
    """Waits its turn in the queue.  On return the caller is the committer until commit_unclaim."""
    memset(control, 0, sizeof(Request))
    kv_cond_init(&control.cond)
    control.control = True
    kv_mutex_lock(&c.qlock)
    if c.closing and not even_closing:
        kv_mutex_unlock(&c.qlock)
        kv_cond_destroy(&control.cond)
        return KV_CLOSED
    _push(c, control)
    if not c.busy:
        c.busy = True
        control.state = REQ_ELECTED
    while control.state != REQ_ELECTED:
        kv_cond_wait(&control.cond, &c.qlock)
    kv_mutex_unlock(&c.qlock)
    return KV_OK


cdef void commit_unclaim(Commit* c, Request* control) noexcept nogil:
    kv_mutex_lock(&c.qlock)
    _unlink(c, control)
    _elect(c)
    kv_mutex_unlock(&c.qlock)
    kv_cond_destroy(&control.cond)


cdef int commit_sync(Commit* c) noexcept nogil:
    cdef Request control
    cdef int rc = commit_claim(c, &control, False)
    if rc != KV_OK:
        return rc
    rc = wal_sync(c.wal)
    if rc == KV_OK:
        kv_store_int(&c.dirty, 0)
        c.last_sync_ns = c.clock.now_ns(c.clock.ctx)
    commit_unclaim(c, &control)
    return rc


# =================================================================================================
# Background work
# =================================================================================================

cdef int _checkpoint_begin(Commit* c) noexcept nogil:
    """Snapshot and log position of one instant: the committer role stops both."""
    cdef Request control
    cdef CkInfo info
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
        kv_mutex_unlock(&c.lock)
        rc = KV_OK if c.ck_snap != NULL else KV_NOMEM
    if rc == KV_OK:
        snprintf(name, sizeof(name), b"checkpoint-%016llx",
                 <unsigned long long>(c.ck_number + 1))
        rc = ck_begin(&c.ck, c.wal.io, c.directory, name, &info, c.ck_snap, c.wal)
        c.ck_active = True
    commit_unclaim(c, &control)
    return rc


cdef void _checkpoint_end(Commit* c, int rc) noexcept nogil:
    if rc == KV_OK:
        kv_store_int(&c.maint_status, KV_OK)
        c.ck_retry_ns = 0
        c.ck_number += 1
        c.ck_revision = c.ck.info.revision
        c.ck_applied = c.ck.info.applied_index
        c.ck_pos = c.ck.info.replay_from
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
    if rc == KV_OK:
        _forget_checkpoint(c, c.ck_number)


cdef void _forget_checkpoint(Commit* c, uint64_t newest) noexcept nogil:
    """Two are kept."""
    cdef char path[4096]
    if newest < 3:
        return
    if snprintf(path, sizeof(path), b"%s/checkpoint-%016llx.ckp", c.directory,
                <unsigned long long>(newest - 2)) < <int>sizeof(path):
        c.wal.io.unlink(c.wal.io.ctx, path)


cdef bint _checkpoint_due(Commit* c) noexcept nogil:
    """Whether replaying what came since the last checkpoint would take too long."""
    cdef double cost
    if c.replay_target_ns <= 0 or c.directory[0] == 0:
        return False
    kv_mutex_lock(&c.lock)
    cost = (<double>(c.state.applied_index - c.ck_applied) * REPLAY_NS_PER_COMMAND
            + <double>(c.replay_from - c.ck_pos) * REPLAY_NS_PER_BYTE)
    kv_mutex_unlock(&c.lock)
    return cost > c.replay_target_ns


cdef bint _checkpoint_step(Commit* c, uint64_t now_ns) noexcept nogil:
    cdef bint more = True
    cdef int rc = KV_OK
    if not c.ck_active:
        if now_ns < c.ck_retry_at_ns or not _checkpoint_due(c):
            return False
        rc = _checkpoint_begin(c)
        more = rc == KV_OK
    else:
        rc = ck_step(&c.ck, &more)
    if rc != KV_OK or not more:
        _checkpoint_end(c, rc)
        more = False
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
        rc = _checkpoint_begin(c)
        mine[0] = c.ck_number + 1
    else:
        # Another thread ended it.
        rc = kv_load_int(&c.maint_status) if c.ck_number < mine[0] else KV_OK
    if rc != KV_OK or not more:
        _checkpoint_end(c, rc)
    return rc


cdef int commit_checkpoint(Commit* c) noexcept nogil:
    """One that is under way is finished first: it may be older than the caller's last write."""
    cdef uint64_t mine = 0
    cdef int rc = KV_OK
    cdef bint done = False
    while rc == KV_OK and not done:
        kv_mutex_lock(&c.step_lock)
        rc = _checkpoint_now(c, &mine)
        done = mine != 0 and c.ck_number >= mine
        kv_mutex_unlock(&c.step_lock)
    return rc


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


cdef bint commit_step(Commit* c, uint64_t now_ns, uint64_t budget) noexcept nogil:
    cdef bint more
    cdef int rc = KV_OK
    kv_mutex_lock(&c.step_lock)
    _expire_cached(c, now_ns)
    more = _index_step(c, budget)
    if not c.wal.in_memory:
        if wal_prepare_step(c.wal, 1 << 20, &rc):
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
        more = commit_step(c, began, COMPACT_SLICE)
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


cdef int commit_start_maintenance(Commit* c) noexcept nogil:
    return KV_OK if kv_thread_start(&c.maint, _maintenance_main, c) == 0 else KV_NOMEM


cdef void commit_wake_maintenance(Commit* c) noexcept nogil:
    kv_mutex_lock(&c.mlock)
    kv_cond_signal(&c.mcond)
    kv_mutex_unlock(&c.mlock)


cdef void commit_stop_threads(Commit* c) noexcept nogil:
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
    kv_mutex_unlock(&c.step_lock)


# =================================================================================================
# Life
# =================================================================================================

cdef int commit_init(Commit* c, uint32_t order, Wal* wal) noexcept nogil:
    memset(c, 0, sizeof(Commit))
    c.wal = wal
    kv_mutex_init(&c.lock)
    kv_mutex_init(&c.qlock)
    kv_mutex_init(&c.mlock)
    kv_mutex_init(&c.step_lock)
    kv_cond_init(&c.readers_gone)
    kv_cond_init(&c.committer_wanted_cond)
    kv_cond_init(&c.shut_cond)
    kv_cond_init(&c.mcond)
    return state_init(&c.state, order, wal)


cdef void commit_deinit(Commit* c) noexcept nogil:
    state_deinit(&c.state)
