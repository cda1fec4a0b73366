# SPDX-License-Identifier: Apache-2.0
"""Watch: the changes of a span of keys, in order, from any revision that is not compacted.

    watch(start) ─► registered: join_rev = newest revision; the group's matches begin behind it
       └ history  a pass over the index for [next_rev, join_rev], on a snapshot, without lock or GIL
       └ live     matches from the cursor on; overtaken by the ring: join_rev = now, history again
    get ─ try ─ nothing ─► parked: a thread on its condition, a task on its loop's descriptor

Invariants
1. in-order: what is delivered ascends by revision; a revision is delivered whole or not yet.
2. once: next_rev moves past what was taken, under the lock, before anybody sees it.
3. no-gap: history covers up to join_rev, the matches everything behind it.
4. light: a watch that is not read holds a cursor, and at most one pass of history.

Thread safety: every method; of several readers of one watch each event reaches one.
Ownership: keeps its store alive; its Watcher leaves the hub when it is cancelled or dropped.
May not know: verbs, the engine.  Source of the behaviour: etcd's watch, without its stream.
"""

from operator import index
from threading import main_thread

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from kvcore._btree cimport (BtSnapshot, BtView, bt_count, bt_find_at, bt_history, bt_release,
                            bt_snapshot, bt_view)
from kvcore._commit cimport Commit
from kvcore._event cimport EventBatch, EventCache, make_event, make_response
from kvcore._native cimport (
    KV_CLOSED, KV_COMPACTED, KV_NOMEM, KV_OK, KvCond, KvSlice, KvVersion,
    kv_cond_destroy, kv_cond_init, kv_cond_signal, kv_cond_wait, kv_cond_wait_ns,
    kv_fork_generation, kv_fork_watch, kv_load_int, kv_monotonic_clock, kv_mutex_lock,
    kv_mutex_lock_gil, kv_mutex_unlock, kv_raise,
)
from kvcore._pin cimport Pin, Pins
from kvcore._ring cimport RingRecord
from kvcore._rows cimport KvRows, Rows, rows_free, rows_init, rows_key
from kvcore._segment_table cimport table_pin
from kvcore._wal cimport WalEpoch, wal_value
from kvcore._watch_await cimport make_next
from kvcore._watchers cimport (
    TAKE_HISTORY, TAKE_OK, WAITER_FREE, WATCH_NO_DELETE, WATCH_NO_PUT, Taken,
    Waiter, hub_add, hub_ask, hub_has_news, hub_park, hub_remove, hub_rouse, hub_take, hub_unpark,
    hub_wake, taken_free, taken_push,
)

from kvcore.errors import ClosedError, ForkedError, OutOfMemoryError

kv_fork_watch()

cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident() noexcept nogil

cdef unsigned long _main_thread = main_thread().ident

cdef enum:
    LOOK_GOT = 0
    LOOK_NOTHING = 1
    LOOK_PASS = 2                # history has to be read
    LOOK_CANCELLED = 3
    LOOK_ROWS = 4                # rows of history are there: to be taken with the GIL

    PASS_MIN = 1024              # events a pass over history collects
    PASS_MAX = 16384
    PASS_SHARE = 16              # of the keys of the span, between the two
    HELD_MAX = 1 << 20           # events held by all passes; beyond it they are short
    BEFORE_AT_ONCE = 64          # previous versions looked up per hold of the lock
    VALUE_HEAD = 5               # bytes between a cell's key and its value
    SLICE_NS = 50000000          # how often the thread that signals interrupt looks for them

cdef uint64_t FOREVER = <uint64_t>-1


cdef inline uint64_t _now() noexcept nogil:
    return kv_monotonic_clock.now_ns(kv_monotonic_clock.ctx)


cdef uint64_t _deadline(object timeout) except? 0:
    """On the machine's clock; FOREVER without a timeout."""
    if timeout is None:
        return FOREVER
    if timeout != timeout:
        raise ValueError("timeout must be a number of seconds, not NaN")
    return _now() + <uint64_t>(min(max(timeout, 0), 1e9) * 1e9)


@cython.final
@cython.no_gc_clear                       # the store must outlive the watcher in its hub
cdef class Watch:
    """Made by Store.watch: iterate over it, `async for`, or call get().

    Attributes: key, end (the span: end None is one key, b"\\0" no upper bound), cancelled,
    start_revision, next_revision, compact_revision.
    """

    def __init__(self):
        raise TypeError("Watch objects come from Store.watch")

    def __cinit__(self):
        self.fork_generation = kv_fork_generation()
        rows_init(&self.fresh)

    def __dealloc__(self):
        if self.c == NULL or self.fork_generation != kv_fork_generation():
            return
        kv_mutex_lock_gil(&self.c.lock)
        if self.w.group != NULL:
            hub_remove(&self.c.hub, &self.w)
        if self.history is not None:
            self.c.hub.held_rows -= self.history.c.n
        kv_mutex_unlock(&self.c.lock)
        rows_free(&self.fresh)

    # --- under the lock, without the GIL ----------------------------------------------------------

    cdef int _look(self, uint64_t limit, Taken* out, bint with_gil) noexcept nogil:
        """What is there to deliver.  REQUIRES: lock"""
        cdef int rc
        if self.c.closed:
            return KV_CLOSED
        if self.c.stopped:
            return self.c.stopped
        if self.cancelled_:
            return LOOK_CANCELLED
        if self.compacted:
            return KV_COMPACTED
        if self.w.group == NULL:
            return LOOK_CANCELLED
        if self.w.held_rows and self.history_epoch != self.c.wal.epoch_number:
            self.w.held_rows = 0             # what they name may have moved: read it again
        if self.w.held_rows:
            if not with_gil:
                return LOOK_ROWS
            self._take_history(limit, out)
            return LOOK_GOT if out.n else KV_NOMEM
        while not self.w.reading:
            rc = hub_take(&self.c.hub, &self.w, self.c.state.revision, limit, out)
            if rc == TAKE_HISTORY:
                if self.w.next_rev >= self.c.state.compact_revision:
                    return LOOK_PASS
                self.compacted = True
                self.compacted_at = self.c.state.compact_revision
                hub_remove(&self.c.hub, &self.w)
                hub_wake(&self.c.hub, 2)
                return KV_COMPACTED
            if rc != TAKE_OK:
                return rc
            if out.n or out.progress:
                return LOOK_GOT
            if not hub_has_news(&self.c.hub, &self.w):
                break
        return LOOK_NOTHING

    cdef void _take_history(self, uint64_t limit, Taken* out) noexcept nogil:
        """Whole revisions of what the last pass found.  REQUIRES: lock"""
        cdef KvRows* rows = &self.history.c
        cdef RingRecord rec
        cdef uint64_t i = self.history_at
        cdef KvVersion* v
        out.n = 0
        out.progress = False
        out.in_history = True
        memset(&rec, 0, sizeof(RingRecord))
        while i < rows.n:
            v = &rows.rows[i].v
            if out.n >= limit and v.mod != rec.mod:
                break
            rec.mod = v.mod
            rec.create = v.create
            rec.version = v.version
            rec.lease = v.lease
            rec.pos = v.pos
            rec.len = v.len
            rec.key_len = rows.rows[i].key_len
            if taken_push(out, &rec, i) != KV_OK:
                out.n = 0                    # nothing was taken
                return
            i += 1
        self.history_at = i
        self.w.held_rows = rows.n - i
        self.w.told = True
        out.bookmark = rec.mod if i < rows.n else self.history_upto
        self.w.next_rev = out.bookmark + 1

    cdef int _pass(self, uint64_t limit) noexcept nogil:
        """Reads a piece of history into `fresh`.  Holds the lock at entry and exit only."""
        cdef Commit* c = self.c
        cdef BtSnapshot* snap = bt_snapshot(&c.state.tree)
        cdef int64_t from_rev = self.w.next_rev, upto = self.w.join_rev
        cdef uint64_t most = min(max(limit, <uint64_t>PASS_MIN), <uint64_t>PASS_MAX)
        cdef bint many = c.hub.held_rows < HELD_MAX
        cdef int rc
        if snap == NULL:
            return KV_NOMEM
        c.readers += 1
        self.w.reading = True
        self.fresh_from = from_rev
        self.fresh_epoch = c.wal.epoch_number
        kv_mutex_unlock(&c.lock)
        if many:
            most = min(max(bt_count(&snap.view, self.first, self.last) // PASS_SHARE, most),
                       <uint64_t>PASS_MAX)
        rc = bt_history(&snap.view, self.first, self.last, from_rev, upto,
                        self.w.flags & WATCH_NO_PUT == 0, self.w.flags & WATCH_NO_DELETE == 0,
                        most, &self.fresh, &self.fresh_upto)
        kv_mutex_lock(&c.lock)
        bt_release(&c.state.tree, snap)
        c.readers -= 1
        if c.readers == 0:
            kv_cond_signal(&c.readers_gone)
        if rc == KV_OK and self.w.next_rev == from_rev:
            if self.fresh.n:
                return KV_OK                 # `reading` until the rows are Python's
            self.w.next_rev = self.fresh_upto + 1
        rows_free(&self.fresh)
        self.w.reading = False
        if not c.closed:
            hub_rouse(&c.hub, &self.w)
        return rc

    cdef int _wait(self, uint64_t limit, uint64_t ns, Taken* out) noexcept nogil:
        """Takes the lock, looks, reads history, waits up to ns (FOREVER: until there is news)."""
        cdef Commit* c = self.c
        cdef Waiter x
        cdef KvCond cond
        cdef int rc
        kv_cond_init(&cond)
        kv_mutex_lock(&c.lock)
        while True:
            rc = self._look(limit, out, False)
            if rc == LOOK_PASS:
                rc = self._pass(limit)
                if rc == KV_OK and self.fresh.n == 0:
                    continue
                rc = LOOK_PASS if rc == KV_OK else rc
            if rc == LOOK_GOT:
                out.epoch = table_pin(c.wal)
            if rc != LOOK_NOTHING or ns == 0:
                break
            memset(&x, 0, sizeof(Waiter))
            x.cond = &cond
            hub_park(&c.hub, &self.w, &x)
            while x.state != WAITER_FREE:
                if ns == FOREVER:
                    kv_cond_wait(&cond, &c.lock)
                elif not kv_cond_wait_ns(&cond, &c.lock, ns):
                    hub_unpark(&c.hub, &x)
                    ns = 0                   # one look more
        if kv_load_int(&c.hub.to_wake):      # the baton of those woken a few at a time
            hub_wake(&c.hub, 1)
        kv_mutex_unlock(&c.lock)
        kv_cond_destroy(&cond)
        return rc

    # --- guards -----------------------------------------------------------------------------------

    cdef int _alive(self) except -1:
        if self.c == NULL:
            raise TypeError("Watch objects come from Store.watch")
        if self.fork_generation != kv_fork_generation():
            raise ForkedError()
        return 0

    cdef int _lock(self) except -1:
        self._alive()
        kv_mutex_lock_gil(&self.c.lock)
        return 0

    cdef int _fail(self, int status) except -1:
        if status == LOOK_CANCELLED:
            raise ClosedError("kvcore: the watch was cancelled")
        return kv_raise(status, self.compacted_at if status == KV_COMPACTED else None)

    # --- taking -----------------------------------------------------------------------------------

    cdef int _install(self) except -1:
        """The rows of a pass become Python's; then others may take from them."""
        cdef Rows rows, old
        try:
            rows = Rows.__new__(Rows)
        except BaseException:
            self._abandon()
            raise
        self._lock()
        old = self.history                   # dropped behind the lock
        if old is not None:
            self.c.hub.held_rows -= old.c.n
        rows.c = self.fresh
        rows_init(&self.fresh)
        self.history = rows
        self.history_at = 0
        self.history_upto = self.fresh_upto
        self.history_epoch = self.fresh_epoch
        # Something was given back meanwhile: the pass begins again, before these rows.
        self.w.held_rows = rows.c.n if self.w.next_rev == self.fresh_from else 0
        self.c.hub.held_rows += rows.c.n
        self.w.reading = False
        if self.w.group != NULL:
            hub_rouse(&self.c.hub, &self.w)
            hub_wake(&self.c.hub, 2)         # no write may come to do it
        kv_mutex_unlock(&self.c.lock)
        return 0

    cdef int _abandon(self) except -1:
        """The rows of a pass are dropped; the next reader reads them again."""
        self._lock()
        rows_free(&self.fresh)
        self.w.reading = False
        if self.w.group != NULL:
            hub_rouse(&self.c.hub, &self.w)
            hub_wake(&self.c.hub, 2)
        kv_mutex_unlock(&self.c.lock)
        return 0

    cdef int _fetch(self, uint64_t limit, uint64_t ns, Taken* out) except -2:
        """LOOK_GOT, or LOOK_NOTHING after ns; everything else is raised.

        Rows of history are taken with the GIL, so that the reference to them is too, before
        another reader puts the next pass in their place."""
        cdef Pin pin
        cdef int rc
        while True:
            self._alive()
            pin = self.pins.now()
            self._lock()
            rc = self._look(limit, out, True)
            if rc == LOOK_GOT and out.in_history:
                out.owner = <void*>self.history
                Py_INCREF(self.history)
            kv_mutex_unlock(&self.c.lock)
            if rc == LOOK_PASS or (rc == LOOK_NOTHING and ns):
                pin = None                   # a wait may be long
                with nogil:
                    rc = self._wait(limit, ns, out)
            if rc == LOOK_GOT:
                self._keep(out, pin)
                return rc
            if rc == LOOK_NOTHING:
                return rc
            if rc == LOOK_PASS:
                self._install()
            elif rc != LOOK_ROWS:
                self._fail(rc)

    cdef int _keep(self, Taken* out, Pin pin) except -1:
        """What was taken names places in the log: these stay."""
        cdef WalEpoch* epoch = out.epoch
        out.epoch = NULL
        try:
            if pin is None:
                if epoch == NULL:
                    raise OutOfMemoryError()
                pin = self.pins.adopt(epoch)
        except BaseException:
            if out.n:
                self._give_back(out.recs[0].mod)
            raise
        out.pin = <void*>pin
        Py_INCREF(pin)
        return 0

    cdef void _done(self, Taken* t):
        """What was taken is handed out, or lost to an error."""
        cdef void* owner = t.owner
        cdef void* pin = t.pin
        taken_free(t)
        if owner != NULL:
            Py_DECREF(<object>owner)
        if pin != NULL:
            Py_DECREF(<object>pin)

    cdef object _next_response(self):
        """The next response, or None when there is none yet."""
        cdef Taken t
        memset(&t, 0, sizeof(Taken))
        try:
            if self._fetch(1, 0, &t) != LOOK_GOT:
                return None
            return self._response(&t)
        finally:
            self._done(&t)

    cdef int _find_before(self, const RingRecord* recs, const KvSlice* keys, uint64_t n,
                          KvVersion* found) except -1:
        """The versions at mod - 1, where they are not compacted."""
        cdef BtView view
        cdef uint64_t i
        self._lock()
        if self.c.closed:
            kv_mutex_unlock(&self.c.lock)
            raise ClosedError()
        view = bt_view(&self.c.state.tree)
        for i in range(n):
            found[i].version = 0
            if recs[i].version == 1 or recs[i].mod - 1 < self.c.state.compact_revision:
                continue
            if bt_find_at(&view, keys[i], recs[i].mod - 1, &found[i]) != KV_OK:
                found[i].version = 0
        kv_mutex_unlock(&self.c.lock)
        return 0

    cdef KvVersion* _before(self, Taken* t, Rows rows) except? NULL:
        """The previous version of each event taken (version 0: none); the caller frees.

        A key of the ring is read, and verified, where its cell lies."""
        cdef KvVersion* found = <KvVersion*>calloc(t.n, sizeof(KvVersion))
        cdef Pin pin = <Pin>t.pin
        cdef KvSlice keys[BEFORE_AT_ONCE]
        cdef void* owned[BEFORE_AT_ONCE]
        cdef uint64_t base = 0, i, n
        cdef int rc = KV_OK
        if found == NULL:
            raise OutOfMemoryError()
        try:
            while base < t.n:
                n = min(t.n - base, <uint64_t>BEFORE_AT_ONCE)
                memset(owned, 0, sizeof(owned))
                try:
                    for i in range(n):
                        if rows is not None:
                            keys[i] = rows_key(&rows.c, t.seqs[base + i])
                            continue
                        rc = wal_value(&pin.log.c, t.recs[base + i].pos, t.recs[base + i].key_len,
                                       t.recs[base + i].len, &keys[i], &owned[i])
                        kv_raise(rc)
                        keys[i].ptr -= VALUE_HEAD + t.recs[base + i].key_len
                        keys[i].len = t.recs[base + i].key_len
                    self._find_before(t.recs + base, keys, n, found + base)
                finally:
                    for i in range(n):
                        free(owned[i])
                base += n
        except BaseException:
            free(found)
            raise
        return found

    cdef void _give_back(self, int64_t mod) noexcept:
        """What could not be handed out is delivered again, from history."""
        kv_mutex_lock_gil(&self.c.lock)
        # Another reader may have given back what is before it: then this comes again anyway.
        if self.w.group != NULL and not self.c.closed and mod < self.w.next_rev:
            self.w.next_rev = mod
            self.w.join_rev = self.c.state.revision
            self.w.cursor = self.w.group.head
            self.w.held_rows = 0
            hub_rouse(&self.c.hub, &self.w)
            hub_wake(&self.c.hub, 2)
        kv_mutex_unlock(&self.c.lock)

    cdef object _response(self, Taken* t):
        cdef KvVersion* before = NULL
        cdef Rows rows = <Rows>t.owner if t.owner != NULL else None
        cdef Pin pin = <Pin>t.pin
        cdef list events
        cdef uint64_t i
        if t.n == 0:
            return make_response(t.bookmark, ())
        try:
            if self.prev_kv:
                before = self._before(t, rows)
            if t.n == 1:
                return make_response(t.recs[0].mod, (make_event(
                    self.cache, &t.recs[0], t.seqs[0], rows, pin, before),))
            events = [make_event(self.cache, &t.recs[i], t.seqs[i], rows, pin,
                                 &before[i] if before != NULL else NULL) for i in range(t.n)]
            return make_response(t.recs[0].mod, tuple(events))
        except BaseException:
            self._give_back(t.recs[0].mod)
            raise
        finally:
            free(before)

    cdef object _batch(self, Taken* t):
        """Takes over the records."""
        cdef EventBatch b
        try:
            b = EventBatch.__new__(EventBatch)
            if t.owner != NULL:
                b.rows = <Rows>t.owner
            if self.prev_kv and t.n:
                b.before = self._before(t, b.rows)
        except BaseException:
            if t.n:
                self._give_back(t.recs[0].mod)
            raise
        b.recs = t.recs
        b.seqs = t.seqs
        b.n = t.n
        b.pin = <Pin>t.pin if t.pin != NULL else None
        b.cache = self.cache
        b.revision = t.bookmark
        t.recs = NULL
        t.seqs = NULL
        return b

    # --- Python face ------------------------------------------------------------------------------

    cdef object _get(self, uint64_t limit, object timeout, bint batch):
        cdef Taken t
        cdef uint64_t ends = _deadline(timeout), left = 0, ns
        cdef bint signals = PyThread_get_thread_ident() == _main_thread
        cdef int rc
        self._alive()
        memset(&t, 0, sizeof(Taken))
        try:
            while True:
                if ends != FOREVER:
                    ns = _now()
                    left = ends - ns if ends > ns else 0
                ns = FOREVER if ends == FOREVER else left
                if signals and ns > SLICE_NS:
                    ns = SLICE_NS
                rc = self._fetch(limit, ns, &t)
                if rc == LOOK_GOT:
                    return self._batch(&t) if batch else self._response(&t)
                if ns == left and ends != FOREVER:
                    if not batch:
                        return None
                    t.bookmark = self.next_revision - 1
                    return self._batch(&t)
                PyErr_CheckSignals()
        finally:
            self._done(&t)

    def get(self, timeout=None):
        """The next WatchResponse: all events of one revision, or progress.

        Args: timeout: seconds to wait (None: for ever; 0: only look). Returns: None after it.
        Errors: CompactedError (what comes next is compacted; compact_revision says up to where;
        every later call raises it too), ClosedError (the watch was cancelled, the store closed).
        Cost: 0.5 us when there is one; a wait costs no processor time. Source: etcd Watch.

        >>> import kvcore
        >>> db = kvcore.open()
        >>> watch = db.watch(prefix=b"/a/")
        >>> _ = db.put(b"/a/1", b"x"), db.put(b"/b", b"y")
        >>> response = watch.get()
        >>> response.revision, [(e.type, e.kv.key, e.kv.value) for e in response.events]
        (2, [('PUT', b'/a/1', b'x')])
        >>> watch.get(timeout=0) is None
        True
        """
        return self._get(1, timeout, False)

    def get_batch(self, limit=1000, timeout=None):
        """The next events as an EventBatch: whole revisions until there are `limit` events.

        Args: limit: events, at least one revision is taken; timeout: as get. Returns: an
        EventBatch, empty after the timeout or when all that is new is progress; shorter than
        `limit` also where a piece of history ends.
        Errors: as get. Cost: ~20 ns an event; objects are made when one is looked at.

        >>> import kvcore
        >>> db = kvcore.open()
        >>> watch = db.watch()
        >>> _ = db.put_many([(b"/%d" % i, b"x") for i in range(5)])
        >>> batch = watch.get_batch()
        >>> len(batch), batch.revision, batch.keys()[:2]
        (5, 6, [b'/0', b'/1'])
        """
        cdef int64_t most = index(limit)
        if most < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        return self._get(most, timeout, True)

    def progress(self):
        """Ask how far this watch is: a response without events comes behind all events up to its
        revision. Of a watch that begins in the future it comes when the store is there."""
        self._lock()
        if self.w.group != NULL:
            hub_ask(&self.c.hub, &self.w, self.c.state.revision)
            hub_wake(&self.c.hub, 2)
        kv_mutex_unlock(&self.c.lock)

    def cancel(self):
        """Stop watching; whoever waits in get() is woken with ClosedError. Idempotent."""
        if self.fork_generation != kv_fork_generation():
            return
        self._lock()
        self.cancelled_ = True
        if self.w.group != NULL:
            hub_remove(&self.c.hub, &self.w)
            hub_wake(&self.c.hub, 2)
        kv_mutex_unlock(&self.c.lock)

    @property
    def cancelled(self):
        """Whether cancel() was called."""
        return self.cancelled_

    @property
    def start_revision(self):
        """The first revision this watch is about."""
        return self.begins

    @property
    def compact_revision(self):
        """The store's compact revision when this watch met it; 0: it did not."""
        return self.compacted_at

    @property
    def next_revision(self):
        """A watch with this start_revision goes on where this one is."""
        cdef int64_t revision
        self._lock()
        revision = self.w.next_rev
        if (self.w.group != NULL and not self.w.held_rows and not self.w.reading
                and not hub_has_news(&self.c.hub, &self.w)):
            revision = max(revision, self.c.state.revision + 1)
        kv_mutex_unlock(&self.c.lock)
        return revision

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return self._get(1, None, False)
        except ClosedError:
            if self.cancelled_:
                raise StopIteration from None
            raise

    def __aiter__(self):
        return self

    def __anext__(self):
        self._alive()
        return make_next(self)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.cancel()

    def __reduce__(self):
        raise TypeError("a watch cannot be pickled; open one where it is needed")

    def __repr__(self):
        if self.c == NULL:
            return "<kvcore.Watch>"
        span = repr(self.key) if self.end is None else f"{self.key!r}..{self.end!r}"
        if self.cancelled_:
            return f"<kvcore.Watch of {span}, cancelled>"
        return f"<kvcore.Watch of {span} from revision {self.begins}>"


cdef Watch make_watch(object owner, Commit* c, Pins pins, EventCache cache, bytes key, bytes end,
                      int64_t start, bint prev_kv, int flags):
    """REQUIRES: nothing locked; the span is not empty."""
    cdef Watch w = Watch.__new__(Watch)
    cdef int rc
    w.owner = owner
    w.pins = pins
    w.cache = cache
    w.prev_kv = prev_kv
    w.key = key
    w.end = end
    w.first.ptr = key
    w.first.len = len(key)
    w._after = key + b"\0" if end is None else end
    w.last.ptr = w._after
    w.last.len = len(w._after)
    if end == b"\0":
        w.last.ptr = NULL
        w.last.len = 0
        if key == b"\0":
            w.first.len = 0
    kv_mutex_lock_gil(&c.lock)
    if c.closed or c.stopped:
        rc = KV_CLOSED if c.closed else c.stopped
    else:
        w.w.flags = flags
        w.w.join_rev = c.state.revision
        w.w.next_rev = start if start else c.state.revision + 1
        w.w.start_rev = start                # 0: no progress is held back
        w.begins = w.w.next_rev
        rc = hub_add(&c.hub, &w.w, w.first, w.last, end is None)
        w.c = c
    kv_mutex_unlock(&c.lock)
    kv_raise(rc)
    return w
