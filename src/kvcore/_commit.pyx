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
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from kvcore._btree cimport BtView, bt_find_many, bt_view
from kvcore._command cimport Cursor, PutCmd, buf_free, next_put
from kvcore._native cimport (
    KV_CLOSED, KV_IO, KV_NOMEM, KV_OK, KV_POISONED, KV_UNKNOWN_OUTCOME, KvSlice, KvVersion,
    kv_add_int, kv_assert, kv_cond_broadcast, kv_cond_destroy, kv_cond_init, kv_cond_signal,
    kv_cond_wait, kv_cond_wait_ns, kv_load_int, kv_load_u64, kv_mutex_init, kv_mutex_lock,
    kv_mutex_unlock, kv_store_i64, kv_store_int, kv_thread_start,
)
from kvcore._result cimport result_free, result_init
from kvcore._segment_table cimport table_bytes
from kvcore._state cimport state_apply, state_deinit, state_init
from kvcore._wakeups cimport Ready, ready_fire
from kvcore._wal cimport (WAL_CEILING, WAL_COMMANDS, Wal, wal_append, wal_begin_sync, wal_stage,
                          wal_sync)
from kvcore._watchers cimport hub_deinit, hub_init, hub_wake

cdef enum:
    WAIT_SLICE_NS = 50000000     # how often a waiter looks for signals
    APPLY_SLICE = 64             # commands applied per hold of the lock
    WARM_BYTES = 16 * 1024       # of a batch that takes the disk long enough
    WARM_KEYS = 256


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
    if kv_add_int(&r.refs, -1) != 0:
        return
    kv_assert(r.wakers == NULL, "whoever waited for a request was told before it goes")
    result_free(&r.res)
    buf_free(&r.cmd)
    kv_cond_destroy(&r.cond)
    free(r)


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


cdef void _warm(Commit* c, Request* first) noexcept nogil:
    """Looks up a batch's keys while the disk writes it: applying then finds its way in the
    cache."""
    cdef KvSlice keys[WARM_KEYS]
    cdef KvVersion found[APPLY_SLICE]
    cdef int status[APPLY_SLICE]
    cdef Request* r = first
    cdef Cursor cur
    cdef PutCmd put
    cdef BtView view
    cdef uint64_t n = 0, i = 0
    while r != NULL and n < WARM_KEYS:
        cur.p = r.cmd.p
        cur.end = r.cmd.p + r.cmd.len
        cur.bad = False
        while n < WARM_KEYS and next_put(&cur, &put):
            keys[n] = put.key
            n += 1
        r = r.next
    while i < n:
        kv_mutex_lock(&c.lock)
        view = bt_view(&c.state.tree)
        bt_find_many(&view, &keys[i], min(n - i, <uint64_t>APPLY_SLICE), found, status)
        kv_mutex_unlock(&c.lock)
        i += APPLY_SLICE


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
        if total >= WARM_BYTES:
            rc = wal_begin_sync(c.wal)
            _warm(c, first)
        if rc == KV_OK:
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
        c.state.now_ns = c.clock.now_ns(c.clock.ctx)
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
        kv_store_int(&c.alarmed, <int>c.state.alarms)
        commit_weigh(c)
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


cdef void commit_weigh(Commit* c) noexcept nogil:
    cdef const Wal* w = c.wal
    cdef uint64_t used = table_bytes(w) + kv_load_u64(&c.ck_bytes)
    cdef uint64_t tail = kv_load_u64(&w.next_pos) & (w.segment_bytes - 1)
    cdef int full = 0
    if c.quota and used + RESERVED_SEGMENTS * w.segment_bytes > c.quota:
        full = FULL_QUOTA
    elif kv_load_int(&w.no_space) and tail >= w.segment_bytes - w.segment_bytes // 8:
        full = FULL_DISK
    kv_store_int(&c.full, full)


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
    cdef Ready* told
    while r != NULL:
        following = r.next
        r.next = NULL
        r.state = REQ_DONE
        if r.is_async:
            kv_cond_broadcast(&r.cond)
            while r.wakers != NULL:
                told = r.wakers
                r.wakers = told.next
                ready_fire(told)
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
    if kv_load_int(&c.hub.to_wake):          # callers first, then those who watch
        kv_mutex_unlock(&c.qlock)
        kv_mutex_lock(&c.lock)
        if not c.closed:
            hub_wake(&c.hub, WAKE_AT_ONCE)
        kv_mutex_unlock(&c.lock)
        kv_mutex_lock(&c.qlock)


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
    cdef int rc = commit_claim_begin(c, control, even_closing)
    if rc == KV_OK:
        kv_mutex_lock(&c.qlock)
        while control.state != REQ_ELECTED:
            kv_cond_wait(&control.cond, &c.qlock)
        kv_mutex_unlock(&c.qlock)
    return rc


cdef int commit_claim_begin(Commit* c, Request* control, bint even_closing) noexcept nogil:
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
    kv_mutex_unlock(&c.qlock)
    return KV_OK


cdef bint commit_claim_wait(Commit* c, Request* control) noexcept nogil:
    cdef bint mine
    kv_mutex_lock(&c.qlock)
    if control.state != REQ_ELECTED:
        kv_cond_wait_ns(&control.cond, &c.qlock, WAIT_SLICE_NS)
    mine = control.state == REQ_ELECTED
    kv_mutex_unlock(&c.qlock)
    return mine


cdef void commit_unclaim(Commit* c, Request* control) noexcept nogil:
    cdef bint mine
    kv_mutex_lock(&c.qlock)
    mine = control.state == REQ_ELECTED
    _unlink(c, control)
    if mine:
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
# Life
# =================================================================================================

cdef int commit_init(Commit* c, uint32_t order, Wal* wal, uint64_t capacity) noexcept nogil:
    cdef int rc
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
    rc = hub_init(&c.hub, capacity)
    if rc == KV_OK:
        rc = state_init(&c.state, order, wal)
        if rc != KV_OK:
            hub_deinit(&c.hub)
    return rc


cdef void commit_deinit(Commit* c) noexcept nogil:
    hub_deinit(&c.hub)
    state_deinit(&c.state)
