# SPDX-License-Identifier: Apache-2.0
"""The engine: index, log and watchers under one lock; each verb of the store one native call.

    get    ─ try lock ─ find, copy the record ─ unlock ─ read and verify the value
    put    ─ encode ─ queue ─ (commit without the GIL) ─ revision
    range  ─ up to 2,000 rows under the lock; more on a snapshot, without lock and GIL

Invariants: the GIL is never taken while the lock is held, and never waited for with it: a verb
tries the lock with the GIL and, failing, lets the GIL go first.  Nothing here keeps a pointer past
unlock but into snapshots (pinned) and the log (mapped for as long as the Log object lives).
Thread safety: every verb may be called from any thread.  Ownership: kvcore.store.Store is the
public subclass; results own copies.  May not know: CLI, Kubernetes, etcd.
"""

import os
from datetime import timedelta
from threading import main_thread

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset, strdup

from kvcore._btree cimport (BtSnapshot, BtView, bt_find_at, bt_find_many, bt_release, bt_snapshot)
from kvcore._command cimport (
    Cursor, FLAG_COUNT_ONLY, FLAG_IGNORE_LEASE, FLAG_IGNORE_VALUE, FLAG_KEYS_ONLY, FLAG_PREV,
    ORDER_ASCEND, ORDER_NONE, RangeCmd, TARGET_KEY, check_request, encode_alarm, encode_compact,
    encode_delete, encode_put,
)
from kvcore._commit cimport (
    CACHED_SNAPSHOTS, FULL_QUOTA, SYNC_ALWAYS, SYNC_INTERVAL, SYNC_OFF, CachedSnapshot, Commit,
    Request, Retention,
    commit_call, commit_claim, commit_claim_begin, commit_claim_wait, commit_deinit, commit_init,
    commit_pass_baton, commit_submit, commit_sync, commit_unclaim, commit_wait, commit_weigh,
    commit_withdraw, request_drop, request_new,
)
from kvcore._event cimport EventCache
from kvcore._future cimport make_future, raise_result, ready_future
from kvcore._inspect cimport (inspect_check_index, inspect_damaged_values, inspect_hash,
                              inspect_stats, inspect_versions)
from kvcore._lease cimport lease_ids, lease_look, lease_renew
from kvcore._maintenance cimport maint_checkpoint, maint_start, maint_step, maint_stop, maint_wake
from kvcore._native cimport (
    KV_COMPACTED, KV_FUTURE_REV, KV_IO, KV_NOTFOUND, KV_OK, KV_POISONED, Clock, Io, KvSlice,
    KvVersion,
    kv_cond_broadcast, kv_cond_signal, kv_cond_wait, kv_fork_generation, kv_fork_watch,
    kv_load_i64, kv_load_int, kv_mutex_lock, kv_mutex_lock_gil, kv_mutex_unlock,
    kv_prefetch, kv_raise,
)
from kvcore._operation cimport (Put, Range, as_int, check_txn, encode_op, encode_txn, make_sort,
                                make_span, op_grows, ops_grow)
from kvcore._pin cimport Pin, Pins
from kvcore._range cimport KvReader, answer_range
from kvcore._result cimport KvResult, make_answer, make_kv, make_put, result_free, result_init
from kvcore._ring cimport RING_MIN_CAPACITY
from kvcore._snapshot cimport Snapshot
from kvcore._startup cimport startup
from kvcore._state cimport ALARM_NOSPACE, KvState, state_read_txn, state_reader
from kvcore._wal cimport Log, wal_ptr
from kvcore._watch cimport make_watch
from kvcore._watchers cimport WATCH_NO_DELETE, WATCH_NO_PUT, WATCH_NOTIFY, hub_close

from kvcore import _native
from kvcore.errors import (ClosedError, EmptyKeyError, EmptyRangeError, ForkedError, NoSpaceError,
                           OutOfMemoryError)

kv_fork_watch()

cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident() noexcept nogil

# Only this thread runs signal handlers; the others wait without looking for signals.
cdef unsigned long _main_thread = main_thread().ident

cdef enum:
    MIN_QUOTA_SEGMENTS = 4       # one in use, two in reserve, and room for a change
    LOCKED_ROWS = 2000           # a range of more rows walks a snapshot instead
    PAGE_ROWS = 100              # a cut list of as many rows is a page: others will follow
    BATCH_BYTES = 4 << 20        # a sync carries up to this much
    MANY_CHUNK = 256
    SIGNALS_EVERY = 16384        # objects made between two looks for signals
    MAX_WATCH_CAPACITY = 1 << 30

cdef dict _SYNC_MODES = {"always": SYNC_ALWAYS, "interval": SYNC_INTERVAL, "off": SYNC_OFF}


cdef int not_bytes(object what, str name) except -1:
    if isinstance(what, str):
        raise TypeError(f"{name} must be bytes, not str: encode it, for instance {name}.encode()")
    raise TypeError(f"{name} must be bytes, not {type(what).__name__}")


cdef KvSlice slice_of(bytes b) noexcept:
    cdef KvSlice s
    s.ptr = <const uint8_t*>PyBytes_AS_STRING(b)
    s.len = PyBytes_GET_SIZE(b)
    return s


cdef int fill_range(RangeCmd* q, bytes key, object end) except -1:
    if not key:
        raise EmptyKeyError()
    q.span.key = slice_of(key)
    q.span.end.ptr = NULL
    q.span.end.len = 0
    if end is not None:
        q.span.end = slice_of(<bytes>end)
    return 0


# =================================================================================================
# Engine
# =================================================================================================

@cython.no_gc_clear                       # the log must outlive the threads that write to it
cdef class Engine:
    """The verbs of kvcore.Store; use kvcore.open()."""

    def __cinit__(self, *args, **kwargs):
        self.fork_generation = kv_fork_generation()
        self.opened = False

    def __init__(self, path=None, *, int order=32, str sync="always", double sync_interval=0.1,
                 uint64_t segment_bytes=64 << 20, uint32_t max_key_bytes=65535,
                 uint64_t max_request_bytes=1572864, uint32_t max_txn_ops=128, bint verify=True,
                 bint maintenance=True, double replay_target=0.3, int64_t watch_capacity=100_000,
                 double progress_interval=600.0, int64_t min_lease_ttl=2, history=None,
                 uint64_t quota=0, Clock clock=None, Io io=None):
        if self.opened or self.log is not None:
            raise TypeError("a store is opened once")
        if order < 3:
            raise ValueError(f"B-tree order must be at least 3, got {order}")
        if order > 1024:
            raise ValueError(f"B-tree order must be at most 1024, got {order}")
        if sync not in _SYNC_MODES:
            raise ValueError(f"sync must be one of {', '.join(_SYNC_MODES)}, got {sync!r}")
        if not (0 <= sync_interval < 1e9 and 0 <= replay_target < 1e9):
            raise ValueError("sync_interval and replay_target are seconds, not negative")
        if not 1 <= max_key_bytes <= 65535:
            raise ValueError(f"max_key_bytes must be in 1..65535, got {max_key_bytes}")
        if not 64 <= max_request_bytes <= segment_bytes // 2:
            raise ValueError(f"max_request_bytes must be in 64..segment_bytes/2, "
                             f"got {max_request_bytes}")
        if not 1 <= max_txn_ops <= 65535:
            raise ValueError(f"max_txn_ops must be in 1..65535, got {max_txn_ops}")
        if watch_capacity < RING_MIN_CAPACITY:
            raise ValueError(f"watch cache capacity must be at least {RING_MIN_CAPACITY}, "
                             f"got {watch_capacity}")
        if watch_capacity > MAX_WATCH_CAPACITY:
            raise ValueError(f"watch cache capacity must be at most {MAX_WATCH_CAPACITY}, "
                             f"got {watch_capacity}")
        if not 0 < progress_interval < 1e9:
            raise ValueError("progress_interval is in seconds, more than 0")
        if not 1 <= min_lease_ttl < 1e9:
            raise ValueError(f"min_lease_ttl is in seconds, at least 1, got {min_lease_ttl}")
        if quota and quota < MIN_QUOTA_SEGMENTS * segment_bytes:
            raise ValueError(f"quota must be at least {MIN_QUOTA_SEGMENTS} segments of "
                             f"{segment_bytes} bytes, got {quota}")
        self.limits.max_key_bytes = max_key_bytes
        self.limits.min_lease_ttl = min_lease_ttl
        self.limits.max_request_bytes = max_request_bytes
        self.limits.max_txn_ops = max_txn_ops
        self.clock = clock or _native.MONOTONIC
        _set_history(&self.c.retention, history)
        self.log = Log(path, io=io, segment_bytes=segment_bytes, verify=verify)
        self.pins = Pins(self.log)
        try:
            self._start(order, _SYNC_MODES[sync], sync_interval, replay_target, maintenance,
                        watch_capacity, progress_interval, quota)
        except BaseException:
            self.log.shut()
            raise

    def _start(self, int order, int sync_mode, double sync_interval, double replay_target,
               bint maintenance, uint64_t watch_capacity, double progress_interval,
               uint64_t quota):
        cdef Commit* c = &self.c
        cdef int64_t revision
        cdef Retention retention = c.retention
        kv_raise(commit_init(c, order, &self.log.c, watch_capacity))
        c.retention = retention
        c.quota = quota
        self.opened = True
        self.events = EventCache()
        self.pins.forget = self.events.forget
        try:
            c.clock = self.clock.table
            c.sync_mode = sync_mode
            c.sync_interval_ns = <uint64_t>(sync_interval * 1e9)
            c.replay_target_ns = replay_target * 1e9
            c.progress_interval_ns = <uint64_t>(progress_interval * 1e9)
            c.progress_at_ns = c.clock.now_ns(c.clock.ctx) + c.progress_interval_ns
            c.directory = strdup(os.fsencode(self.log.path))
            if c.directory == NULL:
                raise OutOfMemoryError()
            self.damaged_checkpoints = startup(c, self.log)
            self.recovery = self.log.recovery
            # The directory's segments may be smaller than the argument says.
            self.limits.max_request_bytes = min(self.limits.max_request_bytes,
                                                self.log.c.segment_bytes // 2)
            c.batch_bytes = min(<uint64_t>BATCH_BYTES,
                                (self.log.c.segment_bytes - self.limits.max_request_bytes) // 2)
            revision = c.state.revision
            if not self.log.recovery.clean and c.ceiling > revision:
                revision = c.ceiling     # a revision somebody may have seen is never given again
            c.ceiling = 0
            c.state.revision = revision
            self.log.start(revision, c.state.applied_index + 1, c.state.term)
            c.replay_from = self.log.c.next_pos
            if c.ck_pos == 0:
                c.ck_pos = c.replay_from
                c.ck_applied = 0
            c.revision = revision
            c.alarmed = <int>c.state.alarms
            commit_weigh(c)
            c.state.hub = &c.hub             # nobody watches a replay
            if maintenance:
                kv_raise(maint_start(c))
        except BaseException:
            self._abandon()
            raise

    cdef int _admit(self) except -1:
        """What makes the store larger is refused while it is full, or until disarm()."""
        cdef int full = kv_load_int(&self.c.full)
        if full == 0 and kv_load_int(&self.c.alarmed) == 0:
            return 0
        if full == FULL_QUOTA and kv_load_int(&self.c.alarmed) == 0:
            self._set_alarms(ALARM_NOSPACE)
        raise NoSpaceError()

    cdef int _set_alarms(self, int64_t alarms) except -1:
        cdef Request* r = self._request(False)
        try:
            kv_raise(encode_alarm(&r.cmd, alarms))
            self._run(r)
        finally:
            request_drop(r)
        return 0

    # --- guards ---------------------------------------------------------------------------------

    cdef int _alive(self) except -1:
        if self.fork_generation != kv_fork_generation():
            raise ForkedError()
        if not self.opened:
            raise ClosedError()
        return 0

    cdef Pin _pin(self):
        """Before a look-up: what it leads to in the log stays readable."""
        self._alive()
        return self.pins.now()

    cdef int _enter(self) except -1:
        """Takes the lock; never waits for it with the GIL held."""
        cdef int stopped
        self._enter_any()
        if self.c.stopped:                   # a durable change is applied by half: show nothing
            stopped = self.c.stopped
            kv_mutex_unlock(&self.c.lock)
            kv_raise(stopped)
        return 0

    cdef int _enter_any(self) except -1:
        """The same for what may be asked of a store that stopped."""
        if self.fork_generation != kv_fork_generation():
            raise ForkedError()
        if not self.opened:
            raise ClosedError()
        kv_mutex_lock_gil(&self.c.lock)
        if self.c.closed:
            kv_mutex_unlock(&self.c.lock)
            raise ClosedError()
        return 0

    cdef void _leave(self) noexcept:
        kv_mutex_unlock(&self.c.lock)

    # --- writes -----------------------------------------------------------------------------------

    cdef Request* _request(self, bint is_async) except NULL:
        cdef Request* r
        self._alive()
        r = request_new(is_async)
        if r == NULL:
            raise OutOfMemoryError()
        r.count = 1
        r.signals = PyThread_get_thread_ident() == _main_thread
        return r

    cdef int _run(self, Request* r) except -1:
        """Commits r and waits; Ctrl-C takes it back, or waits for it if a committer has it."""
        cdef Commit* c = &self.c
        cdef bint back
        cdef int rc
        with nogil:
            rc = commit_call(c, r)
        while rc == 1:
            try:
                PyErr_CheckSignals()
            except BaseException:
                with nogil:
                    back = commit_withdraw(c, r)
                    while not back and commit_wait(c, r) == 1:
                        pass
                commit_pass_baton(c)
                raise
            with nogil:
                rc = commit_wait(c, r)
        if rc != KV_OK:
            kv_raise(rc)
        commit_pass_baton(c)
        return raise_result(r)

    cdef int _turn(self) except -1:
        """Waits until those are through who commit now.  What a call does next for itself cannot be
        interrupted; the disk's time for others can: Ctrl-C leaves the queue."""
        cdef Request control
        cdef bint mine = False
        if PyThread_get_thread_ident() != _main_thread:
            return 0
        if commit_claim_begin(&self.c, &control, False) != KV_OK:
            return 0                         # closing: what follows says so
        try:
            while True:
                with nogil:
                    mine = commit_claim_wait(&self.c, &control)
                if mine:
                    break
                PyErr_CheckSignals()
        finally:
            commit_unclaim(&self.c, &control)
        return 0

    def put(self, key, value=b"", *, lease=0, bint prev=False, bint ignore_value=False,
            bint ignore_lease=False):
        """Give `key` a new value; returns when it is durable (sync="always") and visible.

        Args: key, value: bytes. lease: id of a lease the key shall live with (0: none, and an
        earlier one is detached). prev: return the KeyValue replaced. ignore_value, ignore_lease:
        keep the old one.
        Returns: PutResult(revision, prev).
        Errors: EmptyKeyError, KeyTooLargeError, RequestTooLargeError, LeaseNotFoundError,
        KeyNotFoundError (ignore_* on a missing key), OutcomeUnknownError, PoisonedError,
        ClosedError.
        Cost: one write and one sync, shared by all callers waiting meanwhile. Source: etcd Put.

        >>> import kvcore
        >>> db = kvcore.open()
        >>> db.put(b"/a", b"1").revision
        2
        >>> db.put(b"/a", b"2", prev=True).prev.value
        b'1'
        """
        cdef Pin pin = self._pin()
        cdef Request* r
        cdef int64_t flags = 0
        if type(key) is not bytes:
            not_bytes(key, "key")
        if type(value) is not bytes:
            not_bytes(value, "value")
        if prev:
            flags = FLAG_PREV
        if ignore_value:
            flags |= FLAG_IGNORE_VALUE
        if ignore_lease:
            flags |= FLAG_IGNORE_LEASE
        self._admit()
        r = self._request(False)
        try:
            encode_put(&r.cmd, &self.limits, <bytes>key, <bytes>value, as_int(lease),
                       flags)
            check_request(&r.cmd, &self.limits)
            r.res.brief = not prev
            self._run(r)
            if not prev:
                return make_put(r.res.revision, None)
            return make_answer(&r.res, pin)
        finally:
            request_drop(r)

    def put_many(self, items, *, lease=0):
        """Put (key, value) pairs, one revision each; up to 4 MiB of them share one sync.

        Args: items: iterable of (bytes, bytes). Returns: list of their revisions, in order.
        Errors: as put; on one, pairs of earlier chunks are in the store. Cost: ~0.5 us a pair and
        the disk.

        >>> import kvcore
        >>> kvcore.open().put_many([(b"/a", b"1"), (b"/b", b"2")])
        [2, 3]
        """
        cdef Request* r = NULL
        cdef int64_t lease_id = as_int(lease)
        cdef list revisions = []
        try:
            for key, value in items:
                if type(key) is not bytes:
                    not_bytes(key, "key")
                if type(value) is not bytes:
                    not_bytes(value, "value")
                if r == NULL:
                    self._admit()
                    r = self._request(False)
                    r.count = 0
                    r.res.brief = True
                encode_put(&r.cmd, &self.limits, <bytes>key, <bytes>value, lease_id, 0)
                r.count += 1
                if r.cmd.len >= self.c.batch_bytes:
                    self._run(r)
                    PyErr_CheckSignals()
                    revisions.extend(range(r.res.revision - r.count + 1, r.res.revision + 1))
                    request_drop(r)
                    r = NULL
            if r != NULL:
                self._run(r)
                revisions.extend(range(r.res.revision - r.count + 1, r.res.revision + 1))
            else:
                self._alive()
        finally:
            if r != NULL:
                request_drop(r)
        return revisions

    def delete(self, key=None, end=None, *, prefix=None, bint prev=False):
        """Delete one key, the keys of [key, end), or those with a prefix, in one revision.

        Returns: DeleteResult(revision, deleted, prev); deleting nothing is not an error and takes
        no revision.
        Cost: as put, and O(log n) a key. Source: etcd DeleteRange.

        >>> import kvcore
        >>> db = kvcore.open()
        >>> db.delete(b"/a").deleted
        0
        """
        cdef Pin pin = self._pin()
        cdef Request* r
        first, last = make_span(key, end, prefix, False)
        r = self._request(False)
        try:
            encode_delete(&r.cmd, &self.limits, <bytes>first, last, FLAG_PREV if prev else 0)
            check_request(&r.cmd, &self.limits)
            self._run(r)
            return make_answer(&r.res, pin)
        finally:
            request_drop(r)

    def txn(self, compare=(), success=(), failure=()):
        """If all compares hold run the success operations, else the failure ones, in one revision.

        Args: compare: Compare objects; success, failure: Put, Get, Range, Delete, Txn.
        Returns: TxnResult(succeeded, responses, revision).
        Errors: TooManyOpsError, DuplicateKeyError, and what its operations raise; then nothing
        happened.
        Cost: as put; one that cannot write takes no log entry. Source: etcd Txn.

        >>> import kvcore
        >>> from kvcore import Compare, Put
        >>> db = kvcore.open()
        >>> db.txn([Compare.version(b"/a") == 0], [Put(b"/a", b"1")]).succeeded
        True
        """
        cdef Pin pin = self._pin()
        cdef Request* r = self._request(False)
        cdef bint read_only = True
        try:
            compare, success, failure = list(compare), list(success), list(failure)
            encode_txn(&r.cmd, &self.limits, compare, success, failure, self.limits.max_txn_ops,
                       &read_only)
            check_txn(success, failure)
            check_request(&r.cmd, &self.limits)
            if ops_grow(success) or ops_grow(failure):
                self._admit()
            if read_only:
                self._read_txn(r.cmd.p, r.cmd.len, r)
            else:
                self._run(r)
            return make_answer(&r.res, pin)
        finally:
            request_drop(r)

    cdef int _read_txn(self, const uint8_t* p, uint64_t n, Request* r) except -1:
        cdef Cursor cur
        cur.p = p
        cur.end = p + n
        cur.bad = False
        self._enter()
        with nogil:                          # it may walk far; only users of the lock wait
            r.res.status = state_read_txn(&self.c.state, &cur, &r.res)
            kv_mutex_unlock(&self.c.lock)
        return raise_result(r)

    def compact(self, revision, *, bint physical=False):
        """Forget what only revisions before `revision` show; it stays readable itself.

        Args: physical: wait until the memory is free. Returns: the store's revision.
        Errors: CompactedError (already compacted there), FutureRevisionError.
        Cost: one log entry; the sweep runs in the background. Source: etcd Compact.

        >>> import kvcore
        >>> db = kvcore.open()
        >>> _ = db.put(b"/a", b"1"), db.put(b"/a", b"2")
        >>> db.compact(3)
        3
        """
        cdef int64_t target = as_int(revision)
        cdef Request* r = self._request(False)
        cdef bint more = True
        try:
            kv_raise(encode_compact(&r.cmd, target))
            self._run(r)
            maint_wake(&self.c)
            while physical and more:
                with nogil:
                    maint_step(&self.c, self.c.clock.now_ns(self.c.clock.ctx), 4096)
                PyErr_CheckSignals()
                self._enter()
                more = self.c.state.tree.floor < target
                self._leave()
            return r.res.revision
        finally:
            request_drop(r)

    def submit(self, op):
        """Queue any operation (Put, Delete, Txn, Compact, Get, Range) and return its Future at
        once.

        Many in flight share one sync. Errors of the request itself are raised here, others by the
        Future.

        >>> import kvcore
        >>> db = kvcore.open()
        >>> db.submit(kvcore.Put(b"/a", b"1")).result().revision
        2
        """
        cdef Pin pin = self._pin()
        cdef Request* r
        cdef bint read_only = True
        cdef int rc
        if isinstance(op, Range):
            return self._submit_read(op)
        r = self._request(True)
        try:
            encode_op(&r.cmd, &self.limits, op, &read_only)
            check_request(&r.cmd, &self.limits)
            if op_grows(op):
                self._admit()
            r.res.brief = isinstance(op, Put) and (<Put>op).flags & FLAG_PREV == 0
            if not read_only:
                rc = commit_submit(&self.c, r)
                if rc != KV_OK:
                    kv_raise(rc)
        except BaseException:
            request_drop(r)
            request_drop(r)
            raise
        if not read_only:
            return make_future(self, &self.c, r, pin)
        try:
            self._read_txn(r.cmd.p, r.cmd.len, r)
            return ready_future(make_answer(&r.res, pin))
        finally:
            request_drop(r)
            request_drop(r)

    def _submit_read(self, Range op):
        cdef Pin pin = self._pin()
        cdef RangeCmd q = op.spec
        cdef KvResult res
        fill_range(&q, op.key, op.end)
        result_init(&res)
        try:
            self._range(&q, &res)
            return ready_future(make_answer(&res, pin))
        finally:
            result_free(&res)

    # --- reads ------------------------------------------------------------------------------------

    def get(self, key, revision=None):
        """The KeyValue of `key`, now or at a revision; None when there is none.

        Errors: CompactedError, FutureRevisionError, CorruptError (the value fails its CRC),
        ClosedError.
        Cost: one descent and one read of the value, ~2.5 us among a million keys. Source: etcd
        Range.

        >>> import kvcore
        >>> db = kvcore.open()
        >>> db.get(b"/a") is None
        True
        """
        cdef Pin pin = self._pin()
        cdef KvVersion v
        cdef BtView view
        cdef int64_t at = 0
        cdef int rc
        if type(key) is not bytes:
            not_bytes(key, "key")
        if PyBytes_GET_SIZE(<bytes>key) == 0:
            raise EmptyKeyError()
        if revision is not None:
            at = as_int(revision)
        self._enter()
        if at > 0:
            rc = _resolve(&self.c.state, &at)
            if rc != KV_OK:
                at = self.c.state.compact_revision
                self._leave()
                kv_raise(rc, at if rc == KV_COMPACTED else None)
        else:
            at = 0
        view = state_reader(&self.c.state).view
        rc = bt_find_at(&view, slice_of(<bytes>key), at, &v)
        self._leave()
        if rc == KV_NOTFOUND:
            return None
        if rc != KV_OK:
            kv_raise(rc)
        return make_kv(<bytes>key, &v, pin)

    def get_many(self, keys, revision=None):
        """[KeyValue | None, ...] for many keys, all as of one revision, in one crossing.

        Cost: the look-ups' cache misses overlap: ~0.35 us a key and the value's read.

        >>> import kvcore
        >>> db = kvcore.open()
        >>> _ = db.put(b"/a", b"1")
        >>> [kv and kv.value for kv in db.get_many([b"/a", b"/b"])]
        [b'1', None]
        """
        cdef Pin pin = self._pin()
        cdef list wanted = list(keys)
        cdef Py_ssize_t n = len(wanted), i
        cdef int64_t at = 0 if revision is None else as_int(revision)
        cdef KvSlice* slices
        cdef KvVersion* found
        cdef int* status
        for key in wanted:
            if type(key) is not bytes:
                not_bytes(key, "key")
            if not key:
                raise EmptyKeyError()
        slices = <KvSlice*>malloc(n * sizeof(KvSlice) + 1)
        found = <KvVersion*>malloc(n * sizeof(KvVersion) + 1)
        status = <int*>malloc(n * sizeof(int) + 1)
        try:
            if slices == NULL or found == NULL or status == NULL:
                raise OutOfMemoryError()
            for i in range(n):
                slices[i] = slice_of(<bytes>wanted[i])
            self._find_many(slices, n, at, found, status)
            return _many(wanted, found, status, n, pin)
        finally:
            free(slices)
            free(found)
            free(status)

    cdef int _find_many(self, const KvSlice* keys, uint64_t n, int64_t at, KvVersion* found,
                        int* status) except -1:
        """A few under the lock; many on a snapshot, without lock and GIL."""
        cdef BtView view
        cdef BtSnapshot* snap = NULL
        cdef int64_t compacted
        cdef int rc = KV_OK
        self._enter()
        if at > 0:
            rc = _resolve(&self.c.state, &at)
        compacted = self.c.state.compact_revision
        view = state_reader(&self.c.state).view
        if rc == KV_OK and n > MANY_CHUNK:
            snap = bt_snapshot(&self.c.state.tree)
        if snap != NULL:
            view = snap.view
            self.c.readers += 1
        elif rc == KV_OK:
            _find_all(&view, keys, n, at, found, status)
        self._leave()
        if snap != NULL:
            with nogil:
                _find_all(&view, keys, n, at, found, status)
            self._done_reading(NULL, snap)
        return kv_raise(rc, compacted if rc == KV_COMPACTED else None)

    def range(self, start=None, end=None, *, prefix=None, limit=0, revision=None,
              bint keys_only=False, bint count_only=False, sort=None, min_mod_revision=0,
              max_mod_revision=0, min_create_revision=0, max_create_revision=0):
        """The live keys of [start, end), of a prefix, or all, now or at a revision.

        Args: start alone: that one key; end b"\\0": no upper bound; limit: rows at most (0: all);
        sort: "key", "version", "create_revision", "mod_revision" or "value", "-" in front for
        descending; min_*, max_*: inclusive bounds, 0 = none.
        Returns: RangeResult. end before start is an empty result.
        Cost: O(log n + rows); count costs O(log n) at the newest revision. Source: etcd Range.

        >>> import kvcore
        >>> db = kvcore.open()
        >>> _ = db.put_many([(b"/a/%d" % i, b"x") for i in range(5)])
        >>> page = db.range(prefix=b"/a/", limit=2)
        >>> page.keys(), page.count, page.more
        ([b'/a/0', b'/a/1'], 5, True)
        """
        cdef Pin pin = self._pin()
        cdef RangeCmd q
        cdef KvResult res
        memset(&q, 0, sizeof(RangeCmd))
        first, last = make_span(start, end, prefix, True)
        fill_range(&q, first, last)
        q.flags = (FLAG_KEYS_ONLY if keys_only else 0) | (FLAG_COUNT_ONLY if count_only else 0)
        q.limit = as_int(limit)
        if revision is not None:
            q.revision = as_int(revision)
        if sort is not None:
            q.order, q.target = make_sort(sort)
        q.min_mod = as_int(min_mod_revision)
        q.max_mod = as_int(max_mod_revision)
        q.min_create = as_int(min_create_revision)
        q.max_create = as_int(max_create_revision)
        result_init(&res)
        try:
            self._range(&q, &res)
            return make_answer(&res, pin)
        finally:
            result_free(&res)

    cdef int _range(self, const RangeCmd* q, KvResult* out) except -1:
        """Under the lock when it is short, on a snapshot when not."""
        cdef KvReader r
        cdef BtSnapshot* snap
        cdef CachedSnapshot* kept
        cdef bint at_past, short
        cdef int rc
        self._enter()
        r = state_reader(&self.c.state)
        at_past = 0 < q.revision < r.revision
        short = (q.span.end.ptr == NULL or (q.flags & FLAG_COUNT_ONLY and not at_past)
                 or (_is_page(q) and not at_past) or self.c.state.tree.keys <= LOCKED_ROWS)
        if not short:
            kept = _cached(&self.c, q.revision) if at_past else NULL
            snap = kept.snap if kept != NULL else bt_snapshot(&self.c.state.tree)
            if snap != NULL:
                if kept != NULL:
                    kept.readers += 1
                    r.revision = kept.revision
                self.c.readers += 1
                self._leave()
                self._range_unlocked(q, snap, &r, out)
                self._done_reading(kept, snap)
                return kv_raise(out.status, out.detail if out.status == KV_COMPACTED else None)
        rc = answer_range(&r, q, out)
        if rc == KV_OK and q.limit >= PAGE_ROWS and out.resps[0].more and not at_past:
            _keep_for_pages(&self.c)
        self._leave()
        return kv_raise(rc, out.detail if rc == KV_COMPACTED else None)

    cdef int _range_unlocked(self, const RangeCmd* q, BtSnapshot* snap, KvReader* r,
                             KvResult* out) except -1:
        r.view = snap.view
        with nogil:
            out.status = answer_range(r, q, out)
        return 0

    cdef int _done_reading(self, CachedSnapshot* kept, BtSnapshot* snap) except -1:
        cdef Commit* c = &self.c
        with nogil:
            kv_mutex_lock(&c.lock)
            if kept != NULL:
                kept.readers -= 1
                kept.used_ns = c.clock.now_ns(c.clock.ctx)
            elif snap != NULL:
                bt_release(&c.state.tree, snap)
            c.readers -= 1
            if c.readers == 0:
                kv_cond_signal(&c.readers_gone)
            kv_mutex_unlock(&c.lock)
        return 0

    def snapshot(self):
        """The store as it is now: O(1), does not block writers, readable also after compaction.

        Use it as a context manager, or release() it: while it is open, what it shows is kept.

        >>> import kvcore
        >>> db = kvcore.open()
        >>> _ = db.put(b"/a", b"1")
        >>> with db.snapshot() as snap:
        ...     _ = db.put(b"/a", b"2")
        ...     snap.get(b"/a").value
        b'1'
        """
        cdef Snapshot s = Snapshot.__new__(Snapshot)
        s.pin = self._pin()
        self._enter()
        s.snap = bt_snapshot(&self.c.state.tree)
        s.revision = self.c.state.revision
        s.compact_revision = self.c.state.compact_revision
        self._leave()
        if s.snap == NULL:
            raise OutOfMemoryError()
        s.engine = self
        return s

    # --- watches and leases -----------------------------------------------------------------------

    def watch(self, key=None, end=None, *, prefix=None, start_revision=0, bint prev_kv=False,
              bint no_put=False, bint no_delete=False, bint progress_notify=False):
        """Watch one key, [key, end), a prefix, or everything: a Watch that delivers each change.

        Args: start_revision: deliver what happened from there on (0: from now on; in the future:
        what happens before it is left out); prev_kv: events carry the version replaced; no_put,
        no_delete: leave these out; progress_notify: say how far it is every progress_interval
        seconds without events.
        Returns: a Watch: iterate, `async for`, get(), get_batch(). Cancel it when done.
        Errors: EmptyRangeError (key >= end), ClosedError. A start that is compacted is told by the
        first get().
        Cost: O(log watchers); an event costs the writer O(log watchers + matches), and a watch
        that does not read costs nobody anything. Source: etcd Watch.

        >>> import kvcore
        >>> db = kvcore.open()
        >>> _ = db.put(b"/a", b"1"), db.delete(b"/a")
        >>> with db.watch(b"/a", start_revision=2) as watch:
        ...     [watch.get().events[0].type for _ in range(2)]
        ['PUT', 'DELETE']
        """
        cdef int64_t start = as_int(start_revision)
        cdef int flags = ((WATCH_NO_PUT if no_put else 0) | (WATCH_NO_DELETE if no_delete else 0)
                          | (WATCH_NOTIFY if progress_notify else 0))
        if isinstance(key, bytes) and not key:
            key = b"\0"
        first, last = make_span(key, end, prefix, True)
        if last is not None and last != b"\0" and first >= last:
            raise EmptyRangeError()
        self._alive()
        if start < 0:
            kv_raise(KV_COMPACTED, 0)
        return make_watch(self, &self.c, self.pins, self.events, first, last, start, prev_kv, flags)

    def _call(self, op):
        """Any operation that writes, and its answer."""
        cdef Pin pin = self._pin()
        cdef Request* r = self._request(False)
        cdef bint read_only = True
        try:
            encode_op(&r.cmd, &self.limits, op, &read_only)
            check_request(&r.cmd, &self.limits)
            if op_grows(op):
                self._admit()
            self._run(r)
            return make_answer(&r.res, pin)
        finally:
            request_drop(r)

    def _lease_renew(self, int64_t id):
        """Seconds granted again; 0: unknown; -1: expired, its revoke is due."""
        self._enter()
        return lease_renew(&self.c, id)

    def _lease_look(self, int64_t id):
        """(seconds granted, seconds left, keys) of a lease; None when there is none."""
        self._enter()
        return lease_look(&self.c, id)

    def _lease_ids(self):
        """Ids of all leases, soonest expiry first."""
        self._enter()
        return lease_ids(&self.c)

    # --- state ------------------------------------------------------------------------------------

    @property
    def revision(self):
        """The newest revision anybody can see; 1 when nothing was written yet."""
        self._alive()
        return kv_load_i64(&self.c.revision)

    @property
    def compact_revision(self):
        """Reads below it raise CompactedError; 0 when never compacted."""
        self._enter()
        cdef int64_t revision = self.c.state.compact_revision
        self._leave()
        return max(revision, 0)

    def step(self, now=None, uint64_t budget=4096):
        """One bounded piece of background work; returns whether there is more.

        Args: now: seconds on the store's clock (None: ask it); budget: keys a sweep may look at.
        """
        cdef uint64_t ns
        cdef bint more
        self._alive()
        ns = self.c.clock.now_ns(self.c.clock.ctx) if now is None else <uint64_t>(now * 1e9)
        with nogil:
            more = maint_step(&self.c, ns, budget)
        return more

    def sync(self):
        """Make everything written so far durable (a no-op in sync="always")."""
        cdef int rc
        self._alive()
        self._turn()
        with nogil:
            rc = commit_sync(&self.c)
        kv_raise(rc, self.log.c.poison_errno or None)

    def alarms(self):
        """The alarms raised and not disarmed, as a tuple of names: () or ("NOSPACE",).

        While there is one, what makes the store larger raises NoSpaceError; reads, deletes and
        compaction go on. It survives a reopen. Source: etcd Alarm.

        >>> import kvcore
        >>> kvcore.open().alarms()
        ()
        """
        self._enter()
        cdef int64_t alarms = self.c.state.alarms
        self._leave()
        return ("NOSPACE",) if alarms & ALARM_NOSPACE else ()

    def disarm(self):
        """Take all alarms back; one whose cause is still there is raised again by the next put."""
        self._alive()
        if kv_load_int(&self.c.alarmed):
            self._set_alarms(0)

    def checkpoint(self):
        """Write a checkpoint now; returns its number. In memory there is none: 0.

        After Ctrl-C it is left begun: background work, step() or the next call goes on with it.
        """
        cdef uint64_t mine = 0
        cdef bint done = False
        cdef int rc
        self._alive()
        if not self.log.path:
            return 0
        self._turn()
        while not done:
            with nogil:
                rc = maint_checkpoint(&self.c, &mine, &done)
            if rc == KV_IO:
                kv_raise(rc, self.c.ck.failed_errno or None)
            kv_raise(rc, self.log.c.poison_errno or None if rc == KV_POISONED else None)
            PyErr_CheckSignals()
        return mine

    def _hash(self, int64_t revision):
        """(hash, compact revision, revision hashed); -1: never compacted"""
        return inspect_hash(self, revision)

    def _stats(self):
        """Counters of index, log and commit path, as a dict."""
        return inspect_stats(self)

    def _check_index(self):
        """The first broken invariant of index, leases and watchers, or None."""
        return inspect_check_index(self)

    def _damaged_values(self, progress=None):
        """[(key, mod_revision, position), ...] of every version whose value fails its CRC."""
        return inspect_damaged_values(self, progress)

    def _versions(self):
        """[(key, mod, sub, create, version, lease, position), ...]: all that is in the index."""
        return inspect_versions(self)

    # --- end --------------------------------------------------------------------------------------

    @property
    def log_path(self):
        """The directory; "" in memory."""
        return self.log.path if self.log is not None else ""

    @property
    def closed(self):
        """Whether close() was called; true in a forked child, whose store it is not."""
        return not self.opened or self.fork_generation != kv_fork_generation()

    def close(self):
        """Seal the log and free everything; results already returned stay usable. Idempotent."""
        cdef Commit* c = &self.c
        cdef Request control
        cdef bint first
        if not self.opened:
            return
        if self.fork_generation != kv_fork_generation():
            self.opened = False              # the parent's store: nothing of it is ours to end
            return
        self._turn()
        kv_mutex_lock(&c.qlock)
        first = not c.closing
        c.closing = True
        kv_mutex_unlock(&c.qlock)
        if not first:                        # another thread closes: closed means through
            with nogil:
                kv_mutex_lock(&c.qlock)
                while not c.shut:
                    kv_cond_wait(&c.shut_cond, &c.qlock)
                kv_mutex_unlock(&c.qlock)
            return
        with nogil:
            commit_claim(c, &control, True)  # behind everything queued before
            commit_unclaim(c, &control)
            maint_stop(c)
        try:
            if not c.stopped and not self.log.c.poison_errno:
                self.log.seal(c.state.revision, c.state.applied_index + 1, c.state.term)
        finally:
            self._abandon()
            try:
                self.log.shut()
            finally:
                kv_mutex_lock(&c.qlock)
                c.shut = True
                kv_cond_broadcast(&c.shut_cond)
                kv_mutex_unlock(&c.qlock)

    def _abandon(self):
        """Frees the index and leaves the log as it is."""
        cdef Commit* c = &self.c
        if not self.opened:
            return
        with nogil:
            maint_stop(c)
            kv_mutex_lock(&c.lock)
            c.closed = True
            hub_close(&c.hub)                # whoever waits for events is woken
            while c.readers:
                kv_cond_wait(&c.readers_gone, &c.lock)
            kv_mutex_unlock(&c.lock)
            commit_deinit(c)
        self.events.forget()
        self.opened = False

    def __dealloc__(self):
        if self.opened and self.fork_generation == kv_fork_generation():
            maint_stop(&self.c)
            commit_deinit(&self.c)
        free(self.c.directory)

    def __reduce__(self):
        raise TypeError("a store cannot be pickled; open it where it is needed")


cdef int _set_history(Retention* k, object history) except -1:
    k.revisions = 0
    k.ns = 0
    if history is None:
        return 0
    if isinstance(history, timedelta):
        if not timedelta(0) < history < timedelta(days=36500):
            raise ValueError("history must be a positive age, below a hundred years")
        k.ns = <uint64_t>(history.total_seconds() * 1e9)
        return 0
    k.revisions = as_int(history)
    if k.revisions < 1:
        raise ValueError(f"history must be at least 1 revision, got {history}")
    return 0


cdef inline bint _is_page(const RangeCmd* q) noexcept nogil:
    """Whether the walk ends after `limit` rows, and these are few."""
    return (0 < q.limit <= LOCKED_ROWS and q.target == TARGET_KEY
            and (q.order == ORDER_NONE or q.order == ORDER_ASCEND)
            and q.min_mod == 0 and q.max_mod == 0 and q.min_create == 0 and q.max_create == 0)


cdef void _find_all(const BtView* view, const KvSlice* keys, uint64_t n, int64_t at,
                    KvVersion* found, int* status) noexcept nogil:
    cdef uint64_t i
    if at <= 0:
        bt_find_many(view, keys, n, found, status)
        return
    for i in range(n):
        status[i] = bt_find_at(view, keys[i], at, &found[i])


cdef inline int _resolve(const KvState* s, int64_t* at) noexcept nogil:
    """An explicit revision against the state: 0 when it is the newest."""
    if at[0] > s.revision:
        return KV_FUTURE_REV
    if at[0] < s.compact_revision:
        return KV_COMPACTED
    if at[0] == s.revision:
        at[0] = 0
    return KV_OK


cdef list _many(list keys, const KvVersion* found, const int* status, Py_ssize_t n, Pin pin):
    """KeyValues of a batched look-up, the next values' loads started ahead."""
    cdef list out = [None] * n
    cdef Py_ssize_t i
    cdef const uint8_t* p
    for i in range(n):
        if i % SIGNALS_EVERY == SIGNALS_EVERY - 1:
            PyErr_CheckSignals()
        if i + 6 < n and status[i + 6] == KV_OK:
            p = wal_ptr(&pin.log.c, found[i + 6].pos, 64)
            if p != NULL:
                kv_prefetch(p)
        if status[i] == KV_OK and found[i].version:
            out[i] = make_kv(<bytes>keys[i], &found[i], pin)
        elif status[i] != KV_OK and status[i] != KV_NOTFOUND:
            kv_raise(status[i])
    return out


# --- snapshots kept for the next pages of a list.  REQUIRES: lock ---------------------------------

cdef CachedSnapshot* _cached(Commit* c, int64_t revision) noexcept nogil:
    cdef int i
    for i in range(CACHED_SNAPSHOTS):
        if c.cached[i].snap != NULL and c.cached[i].revision == revision:
            return &c.cached[i]
    return NULL


cdef void _keep_for_pages(Commit* c) noexcept nogil:
    """A first page was cut: its revision will be asked for again, perhaps after more writes."""
    cdef CachedSnapshot* slot = NULL
    cdef int i
    if _cached(c, c.state.revision) != NULL:
        return
    for i in range(CACHED_SNAPSHOTS):
        if c.cached[i].readers == 0 and (slot == NULL or c.cached[i].snap == NULL or (
                slot.snap != NULL and c.cached[i].used_ns < slot.used_ns)):
            slot = &c.cached[i]
    if slot == NULL:
        return
    if slot.snap != NULL:
        bt_release(&c.state.tree, slot.snap)
    slot.snap = bt_snapshot(&c.state.tree)
    slot.revision = c.state.revision
    slot.used_ns = c.clock.now_ns(c.clock.ctx)
