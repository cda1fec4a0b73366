# SPDX-License-Identifier: Apache-2.0
"""An I/O table that does what the operating system does, writes down every call, and spoils some.

    log --KvIo--> RecordingIo --> plans: fail | flip a bit | stand at a gate | take long
                      │              └ none strikes ──► kv_posix_io
                      └ entries: open 5 "wal-1.tmp" | write 5 @0 | sync 5 | rename | marker | ...

Invariants: (in-order) entries stand in the order in which the calls took effect, since one mutex is
held over call and entry, but not while a call stands at a gate or takes long; (as-done) a call that
was made to fail is recorded with its errno, a short write with the bytes that were written, a
flipped one with what was stored; (all-count) every plan counts every call that matches it.
Thread safety & ownership: any thread, GIL or not.  Entries live until `clear` or the end.
May not know: segments, crashes (faults.py builds those from the entries).
"""

from libc.errno cimport EIO, ENOSYS, errno as last_errno
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset, strcmp, strdup, strrchr

from kvcore._native cimport (
    Io, KvCond, KvIo, KvMutex, kv_cond_broadcast, kv_cond_destroy, kv_cond_init, kv_cond_wait,
    kv_cond_wait_ns, kv_load_u64, kv_mutex_destroy, kv_mutex_init, kv_mutex_lock, kv_mutex_unlock,
    kv_posix_io, kv_store_u64,
)

from kvcore.testing._ops import Op

cdef extern from "time.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int nanosleep(const timespec* wanted, timespec* left)
cdef extern from "fnmatch.h" nogil:
    int fnmatch(const char* pattern, const char* name, int flags)
cdef extern from "sys/mman.h" nogil:
    int PROT_READ, PROT_WRITE, MAP_PRIVATE
    void* MAP_FAILED
    void* mmap(void* at, size_t n, int protection, int flags, int handle, long off)
cdef extern from "Python.h" nogil:
    int PyGILState_Check()
    void* PyEval_SaveThread()
    void PyEval_RestoreThread(void* state)

cdef enum:
    OPEN = 0
    CLOSE = 1
    WRITE = 2
    ALLOCATE = 3
    TRUNCATE = 4
    SYNC = 5
    RENAME = 6
    UNLINK = 7
    SYNC_DIR = 8
    MARKER = 9
    READ = 10           # never recorded, may be spoiled
    MAP = 11            # the same
    BEGIN_SYNC = 12     # the same: it promises nothing
    KINDS = 13
    PLANS = 32
    PATTERN_BYTES = 64
    FAIL = 0            # what a plan does
    FLIP = 1
    GATE = 2
    DELAY = 3

_KINDS = ("open", "close", "write", "allocate", "truncate", "sync", "rename", "unlink", "sync_dir",
          "marker", "read", "map", "begin_sync")

cdef struct Entry:
    int kind
    int handle
    int error            # 0, or the errno the call returned
    uint64_t off         # flags of an open; size of an allocate or truncate; a marker's number
    uint64_t n           # bytes of a write
    uint8_t* data        # NULL: zeros
    char* path
    char* to

cdef struct GateState:
    KvMutex lock
    KvCond cond
    int standing         # calls that came to it
    bint opened

cdef struct Plan:        # strikes `times` calls, after `left` more that match
    int does
    int kind
    int64_t left
    int64_t times        # -1: all of them
    char[PATTERN_BYTES] pattern      # of the file's name; "": every file
    int error            # FAIL
    uint64_t short_bytes
    uint64_t at          # FLIP
    uint8_t mask
    GateState* gate      # GATE
    uint64_t ns          # DELAY

cdef struct Call:        # a call that is about to be made
    int kind
    int handle           # -1: it names a path
    const char* path
    const char* to
    uint64_t off         # of a read, write or map: what it touches
    uint64_t n

cdef struct Verdict:     # what the plans make of it
    int error
    uint64_t short_bytes
    uint64_t at
    uint8_t mask         # 0: no flip
    GateState* gate
    uint64_t ns

cdef struct Recorder:
    KvMutex lock
    Entry* entries
    uint64_t n
    uint64_t cap
    Plan[PLANS] plans
    int plan_count
    char** names         # path by handle, NULL: not open
    int name_cap
    uint64_t[KINDS] calls        # atomic, as struck
    uint64_t struck      # calls that a plan made fail
    int dead             # errno of everything since the power was cut; 0: there is power
    bint can_map
    bint can_sync
    bint out_of_memory


# ---- private helpers, REQUIRE the recorder's lock ------------------------------------------------

cdef inline const char* _last_name(const char* path) noexcept nogil:
    cdef const char* slash = strrchr(path, 47)
    return slash + 1 if slash != NULL else path


cdef bint _matches(Recorder* r, const Plan* p, const Call* c) noexcept nogil:
    cdef const char* path = c.path
    if p.kind != c.kind:
        return False
    if p.does == FLIP and not c.off <= p.at < c.off + c.n:
        return False
    if p.pattern[0] == 0:
        return True
    if c.handle >= 0:
        path = r.names[c.handle] if c.handle < r.name_cap else NULL
    if path == NULL:
        return False
    return (fnmatch(p.pattern, _last_name(path), 0) == 0
            or (c.to != NULL and fnmatch(p.pattern, _last_name(c.to), 0) == 0))


cdef void _judge(Recorder* r, const Call* c, Verdict* v) noexcept nogil:
    cdef int i = 0
    cdef Plan* p
    memset(v, 0, sizeof(Verdict))
    kv_store_u64(&r.calls[c.kind], r.calls[c.kind] + 1)
    while i < r.plan_count:
        p = &r.plans[i]
        i += 1
        if not _matches(r, p, c):
            continue
        p.left -= 1
        if p.left >= 0:
            continue
        if p.does == FAIL and v.error == 0:
            v.error = p.error
            v.short_bytes = p.short_bytes
        elif p.does == FLIP:
            v.at = p.at
            v.mask = p.mask
        elif p.does == GATE:
            v.gate = p.gate
        elif p.does == DELAY:
            v.ns += p.ns
        if p.times > 0:
            p.times -= 1
        if p.times == 0:
            i -= 1
            r.plan_count -= 1
            r.plans[i] = r.plans[r.plan_count]


cdef void _stand(const Verdict* v) noexcept nogil:
    # WITHOUT the recorder's lock.  A test needs the GIL to open the gate: it is given away.
    cdef timespec span
    cdef void* gil = PyEval_SaveThread() if PyGILState_Check() else NULL
    if v.gate != NULL:
        kv_mutex_lock(&v.gate.lock)
        v.gate.standing += 1
        kv_cond_broadcast(&v.gate.cond)
        while not v.gate.opened:
            kv_cond_wait(&v.gate.cond, &v.gate.lock)
        kv_mutex_unlock(&v.gate.lock)
    if v.ns:
        span.tv_sec = v.ns // 1000000000
        span.tv_nsec = v.ns % 1000000000
        nanosleep(&span, NULL)
    if gil != NULL:
        PyEval_RestoreThread(gil)


cdef int _begin(Recorder* r, const Call* c, Verdict* v) noexcept nogil:
    # Takes the lock; 0, or -errno that the call is to fail with.
    kv_mutex_lock(&r.lock)
    _judge(r, c, v)
    if v.gate != NULL or v.ns:
        kv_mutex_unlock(&r.lock)
        _stand(v)
        kv_mutex_lock(&r.lock)
    if r.dead and c.kind != CLOSE:
        return -r.dead
    kv_store_u64(&r.struck, r.struck + (v.error != 0))
    return -v.error


cdef void _named(Recorder* r, int handle, const char* path) noexcept nogil:
    # The handle stands for this path from now on; NULL: for none.
    cdef int cap = r.name_cap
    cdef char** grown
    if handle < 0:
        return
    if handle >= cap:
        grown = <char**>realloc(r.names, (handle + 64) * sizeof(char*))
        if grown == NULL:
            r.out_of_memory = True
            return
        memset(grown + cap, 0, (handle + 64 - cap) * sizeof(char*))
        r.names = grown
        r.name_cap = handle + 64
    free(r.names[handle])
    r.names[handle] = strdup(path) if path != NULL else NULL


cdef void _renamed(Recorder* r, const char* path, const char* to) noexcept nogil:
    cdef int i
    for i in range(r.name_cap):
        if r.names[i] != NULL and strcmp(r.names[i], path) == 0:
            _named(r, i, to)
            return


cdef Entry* _entry(Recorder* r, int kind, int handle, int rc, uint64_t off) noexcept nogil:
    cdef uint64_t cap = r.cap * 2 if r.cap else 1024
    cdef Entry* grown
    cdef Entry* e
    if r.n == r.cap:
        grown = <Entry*>realloc(r.entries, cap * sizeof(Entry))
        if grown == NULL:
            r.out_of_memory = True
            return NULL
        r.entries = grown
        r.cap = cap
    e = &r.entries[r.n]
    memset(e, 0, sizeof(Entry))
    e.kind = kind
    e.handle = handle
    e.error = -rc if rc < 0 else 0
    e.off = off
    r.n += 1
    return e


cdef void _keep_data(Recorder* r, Entry* e, const uint8_t* p, uint64_t n) noexcept nogil:
    if e == NULL:
        return
    e.n = n
    if n == 0 or (p[0] == 0 and memcmp(p, p + 1, n - 1) == 0):
        return
    e.data = <uint8_t*>malloc(n)
    if e.data == NULL:
        r.out_of_memory = True
        return
    memcpy(e.data, p, n)


cdef int _on_handle(void* ctx, int kind, int handle, uint64_t n) noexcept nogil:
    cdef Recorder* r = <Recorder*>ctx
    cdef Verdict v
    cdef Call c = Call(kind, handle, NULL, NULL, 0, 0)
    cdef int rc = _begin(r, &c, &v)
    if kind == CLOSE:                        # one that fails has closed all the same, as on Linux
        kv_posix_io.close(NULL, handle)
        _named(r, handle, NULL)
    elif rc == 0 and kind == ALLOCATE:
        rc = kv_posix_io.allocate(NULL, handle, n)
    elif rc == 0 and kind == TRUNCATE:
        rc = kv_posix_io.truncate(NULL, handle, n)
    elif rc == 0 and kind == SYNC and r.can_sync:
        rc = kv_posix_io.sync(NULL, handle)
    _entry(r, kind, handle, rc, n)
    kv_mutex_unlock(&r.lock)
    return rc


cdef int _on_path(void* ctx, int kind, const char* path, const char* to) noexcept nogil:
    cdef Recorder* r = <Recorder*>ctx
    cdef Verdict v
    cdef Entry* e
    cdef Call c = Call(kind, -1, path, to, 0, 0)
    cdef int rc = _begin(r, &c, &v)
    if rc == 0 and kind == RENAME:
        rc = kv_posix_io.rename(NULL, path, to)
        if rc == 0:
            _renamed(r, path, to)
    elif rc == 0 and kind == UNLINK:
        rc = kv_posix_io.unlink(NULL, path)
    elif rc == 0 and kind == SYNC_DIR and r.can_sync:
        rc = kv_posix_io.sync_dir(NULL, path)
    e = _entry(r, kind, -1, rc, 0)
    if e != NULL:
        e.path = strdup(path)
        e.to = strdup(to) if to != NULL else NULL
    kv_mutex_unlock(&r.lock)
    return rc


# ---- C face: the table ---------------------------------------------------------------------------

cdef int rec_open(void* ctx, const char* path, int flags) noexcept nogil:
    cdef Recorder* r = <Recorder*>ctx
    cdef Verdict v
    cdef Entry* e
    cdef Call c = Call(OPEN, -1, path, NULL, 0, 0)
    cdef int handle = _begin(r, &c, &v)
    if handle == 0:
        handle = kv_posix_io.open(NULL, path, flags)
        _named(r, handle, path)
    e = _entry(r, OPEN, handle, handle, <uint64_t>flags)
    if e != NULL:
        e.path = strdup(path)
    kv_mutex_unlock(&r.lock)
    return handle


cdef int rec_close(void* ctx, int handle) noexcept nogil:
    return _on_handle(ctx, CLOSE, handle, 0)


cdef int64_t rec_size(void* ctx, int handle) noexcept nogil:
    return kv_posix_io.size(NULL, handle)


cdef int rec_allocate(void* ctx, int handle, uint64_t n) noexcept nogil:
    return _on_handle(ctx, ALLOCATE, handle, n)


cdef int _store(Recorder* r, int handle, const uint8_t* p, uint64_t n, uint64_t off,
                const Verdict* v, int rc) noexcept nogil:
    # Writes n bytes, with a bit flipped if the verdict says so, and records what was stored.
    cdef uint8_t* spoiled = NULL
    cdef int wrote = 0
    if v.mask and n and off <= v.at < off + n:
        spoiled = <uint8_t*>malloc(n)
        if spoiled == NULL:
            return -EIO
        memcpy(spoiled, p, n)
        spoiled[v.at - off] ^= v.mask
        p = spoiled
    if n > 0:
        wrote = kv_posix_io.write_at(NULL, handle, p, n, off)
    if rc == 0:
        rc = wrote
    _keep_data(r, _entry(r, WRITE, handle, rc, off), p, n)
    free(spoiled)
    return rc


cdef int rec_write_at(void* ctx, int handle, const void* p, size_t n, uint64_t off) noexcept nogil:
    cdef Recorder* r = <Recorder*>ctx
    cdef Verdict v
    cdef Call c = Call(WRITE, handle, NULL, NULL, off, n)
    cdef int rc = _begin(r, &c, &v)
    cdef uint64_t done = n if rc == 0 else min(<uint64_t>n, 0 if r.dead else v.short_bytes)
    rc = _store(r, handle, <const uint8_t*>p, done, off, &v, rc)
    kv_mutex_unlock(&r.lock)
    return rc


cdef int64_t rec_read_at(void* ctx, int handle, void* p, size_t n, uint64_t off) noexcept nogil:
    cdef Recorder* r = <Recorder*>ctx
    cdef Verdict v
    cdef Call c = Call(READ, handle, NULL, NULL, off, n)
    cdef int64_t got = _begin(r, &c, &v)
    kv_mutex_unlock(&r.lock)
    if got != 0:
        return got
    got = kv_posix_io.read_at(NULL, handle, p, n, off)
    if v.mask and off <= v.at and <int64_t>(v.at - off) < got:
        (<uint8_t*>p)[v.at - off] ^= v.mask
    return got


cdef int rec_truncate(void* ctx, int handle, uint64_t n) noexcept nogil:
    return _on_handle(ctx, TRUNCATE, handle, n)


cdef int rec_sync(void* ctx, int handle) noexcept nogil:
    return _on_handle(ctx, SYNC, handle, 0)


cdef int rec_rename(void* ctx, const char* path, const char* to) noexcept nogil:
    return _on_path(ctx, RENAME, path, to)


cdef int rec_unlink(void* ctx, const char* path) noexcept nogil:
    return _on_path(ctx, UNLINK, path, NULL)


cdef int rec_sync_dir(void* ctx, const char* path) noexcept nogil:
    return _on_path(ctx, SYNC_DIR, path, NULL)


cdef int rec_map(void* ctx, int handle, uint64_t n, void** out) noexcept nogil:
    cdef Recorder* r = <Recorder*>ctx
    cdef Verdict v
    cdef Call c = Call(MAP, handle, NULL, NULL, 0, n)
    cdef int rc = _begin(r, &c, &v)
    kv_mutex_unlock(&r.lock)
    if rc == 0 and not r.can_map:
        rc = -ENOSYS
    if rc != 0 or v.mask == 0:
        return rc if rc != 0 else kv_posix_io.map(NULL, handle, n, out)
    out[0] = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE, handle, 0)
    if out[0] == MAP_FAILED:
        return -last_errno
    (<uint8_t*>out[0])[v.at] ^= v.mask       # a page of its own from now on; the others are shared
    return 0


cdef int rec_unmap(void* ctx, void* p, uint64_t n) noexcept nogil:
    return kv_posix_io.unmap(NULL, p, n)


cdef int rec_begin_sync(void* ctx, int handle, uint64_t off, uint64_t n) noexcept nogil:
    cdef Recorder* r = <Recorder*>ctx
    cdef Verdict v
    cdef Call c = Call(BEGIN_SYNC, handle, NULL, NULL, off, n)
    cdef int rc = _begin(r, &c, &v)
    kv_mutex_unlock(&r.lock)
    return rc if rc != 0 or not r.can_sync else kv_posix_io.begin_sync(NULL, handle, off, n)


cdef int rec_links(void* ctx, int handle) noexcept nogil:
    return kv_posix_io.links(NULL, handle)


# ---- Python face ---------------------------------------------------------------------------------

cdef class Gate:
    """Where a call stands until the test lets it go on: a sync that takes long, without a clock.

    Made by RecordingIo.gate.  As a context manager it opens at the end.  Thread safety: any thread.
    """

    cdef GateState state

    def __cinit__(self):
        memset(&self.state, 0, sizeof(GateState))
        kv_mutex_init(&self.state.lock)
        kv_cond_init(&self.state.cond)

    def __init__(self):
        raise TypeError("Gate objects come from RecordingIo.gate")

    def __dealloc__(self):
        kv_cond_destroy(&self.state.cond)
        kv_mutex_destroy(&self.state.lock)

    def wait(self, timeout=60.0, *, calls=1):
        """Until so many calls have come to the gate; TimeoutError after `timeout` seconds."""
        cdef uint64_t ns = <uint64_t>(timeout * 1e9)
        cdef int wanted = calls
        cdef bint came
        with nogil:
            kv_mutex_lock(&self.state.lock)
            while self.state.standing < wanted:
                if not kv_cond_wait_ns(&self.state.cond, &self.state.lock, ns):
                    break
            came = self.state.standing >= wanted
            kv_mutex_unlock(&self.state.lock)
        if not came:
            raise TimeoutError(f"no call came to the gate in {timeout} s")

    def open(self):
        """Who stands there goes on, and nobody stands there any more."""
        kv_mutex_lock(&self.state.lock)
        self.state.opened = True
        kv_cond_broadcast(&self.state.cond)
        kv_mutex_unlock(&self.state.lock)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.open()


cdef class RecordingIo(Io):
    """The operating system's files, with every change written down, and failures to order.

    map=False makes every read go through read_at; sync=False records syncs without waiting for the
    disk, for tests that build images of what it may hold.  Thread safety: any thread.

    A plan (fail, flip, gate, delay) is for calls of one kind: "open", "close", "write",
    "allocate", "truncate", "sync", "begin_sync", "rename", "unlink", "sync_dir", "read", "map".
    nth: the first call it strikes (1: the next one that matches); times: how many from there on
    (None: all, until heal()); path: a pattern of the file's name, such as "wal-*" (None: any).
    Errors: ValueError for an unknown kind or a pattern of more than 63 bytes; IndexError for the
    33rd plan.

    >>> import errno, kvcore, tempfile
    >>> io = RecordingIo()
    >>> with tempfile.TemporaryDirectory() as name, kvcore.open(name, io=io) as db:
    ...     _ = db.put(b"/a", b"1")
    ...     io.fail("sync", 1, errno.EIO, path="wal-*")
    ...     try:
    ...         db.put(b"/a", b"2")
    ...     except kvcore.OutcomeUnknownError:
    ...         db.get(b"/a").value, io.struck
    (b'1', 1)
    """

    cdef KvIo own
    cdef Recorder r
    cdef list gates

    def __cinit__(self, *, map=True, sync=True):
        memset(&self.r, 0, sizeof(Recorder))
        kv_mutex_init(&self.r.lock)
        self.gates = []
        self.r.can_map = map
        self.r.can_sync = sync
        self.own.ctx = &self.r
        self.own.open = rec_open
        self.own.close = rec_close
        self.own.size = rec_size
        self.own.allocate = rec_allocate
        self.own.write_at = rec_write_at
        self.own.read_at = rec_read_at
        self.own.truncate = rec_truncate
        self.own.sync = rec_sync
        self.own.rename = rec_rename
        self.own.unlink = rec_unlink
        self.own.sync_dir = rec_sync_dir
        self.own.map = rec_map
        self.own.unmap = rec_unmap
        self.own.links = rec_links
        self.own.begin_sync = rec_begin_sync
        self.table = &self.own

    def __dealloc__(self):
        cdef int i
        self._clear()
        for i in range(self.r.name_cap):
            free(self.r.names[i])
        free(self.r.names)
        free(self.r.entries)
        kv_mutex_destroy(&self.r.lock)

    def marker(self, number):
        """Write down that the caller reached point `number`: an Op of kind "marker"."""
        cdef uint64_t n = number
        with nogil:
            kv_mutex_lock(&self.r.lock)
            _entry(&self.r, MARKER, -1, 0, n)
            kv_mutex_unlock(&self.r.lock)

    # -- plans --

    def fail(self, kind, nth, errno, *, times=1, path=None, short_bytes=0):
        """Make calls fail with `errno`.  short_bytes: how much a failing write writes before.

        A sync that failed is not made up for by the next one that succeeds: what it should have
        written stays a maybe in the images (faults), as Linux drops such pages.
        """
        cdef Plan plan
        self._plan(&plan, FAIL, kind, nth, times, path)
        plan.error = errno
        plan.short_bytes = short_bytes
        self._add(plan)

    def flip(self, kind, at, bit=0, *, nth=1, times=1, path=None):
        """Flip a bit of the file's byte `at`: in what a "read" or "map" returns, or a "write"
        stores.

        Only calls that touch the byte count.  A map does not see later writes to that page.
        """
        cdef Plan plan
        self._plan(&plan, FLIP, kind, nth, times, path)
        if kind not in ("read", "map", "write"):
            raise ValueError(f"a {kind} has no bits to flip")
        plan.at = at
        plan.mask = 1 << bit
        self._add(plan)

    def gate(self, kind, nth=1, *, times=1, path=None):
        """A Gate before which calls stand until it is opened.

        >>> io = RecordingIo()
        >>> with io.gate("sync") as gate:
        ...     pass                     # start a thread that puts; gate.wait(); look; open
        """
        cdef Plan plan
        cdef Gate gate = Gate.__new__(Gate)
        self._plan(&plan, GATE, kind, nth, times, path)
        self.gates.append(gate)          # calls may come as long as this table lives
        plan.gate = &gate.state
        self._add(plan)
        return gate

    def delay(self, kind, seconds, *, times=None, path=None):
        """Make calls take `seconds` longer, for who wants to feel a slow disk; tests use gates."""
        cdef Plan plan
        self._plan(&plan, DELAY, kind, 1, times, path)
        plan.ns = <uint64_t>(seconds * 1e9)
        self._add(plan)

    def heal(self):
        """Forget all plans, open all gates; not a power cut."""
        kv_mutex_lock(&self.r.lock)
        self.r.plan_count = 0
        kv_mutex_unlock(&self.r.lock)
        for gate in self.gates:
            gate.open()

    def cut(self, int errno=EIO):
        """From now on every call fails with `errno`, but those that close or unmap."""
        kv_mutex_lock(&self.r.lock)
        self.r.dead = errno
        kv_mutex_unlock(&self.r.lock)
        self.heal()

    cdef int _plan(self, Plan* plan, int does, kind, nth, times, path) except -1:
        cdef bytes pattern = b"" if path is None else path.encode()
        memset(plan, 0, sizeof(Plan))
        if kind not in _KINDS or kind == "marker":
            raise ValueError(f"no call of kind {kind!r}")
        if len(pattern) >= PATTERN_BYTES:
            raise ValueError("the pattern is too long")
        plan.does = does
        plan.kind = _KINDS.index(kind)
        plan.left = nth - 1
        plan.times = -1 if times is None else times
        memcpy(plan.pattern, <const char*>pattern, len(pattern))
        return 0

    cdef int _add(self, Plan plan) except -1:
        if self.r.plan_count == PLANS:
            raise IndexError("too many plans")
        kv_mutex_lock(&self.r.lock)
        self.r.plans[self.r.plan_count] = plan
        self.r.plan_count += 1
        kv_mutex_unlock(&self.r.lock)
        return 0

    # -- what happened --

    def calls(self, kind):
        """How many calls of a kind there were, failed ones included."""
        return kv_load_u64(&self.r.calls[<int>_KINDS.index(kind)])

    @property
    def struck(self):
        """How many calls a plan made fail."""
        return kv_load_u64(&self.r.struck)

    def ops(self):
        """Everything recorded so far, as a list of Op; MemoryError when something was lost."""
        cdef uint64_t i
        if self.r.out_of_memory:
            raise MemoryError("the recording is incomplete")
        kv_mutex_lock(&self.r.lock)
        try:
            return [self._op(&self.r.entries[i]) for i in range(self.r.n)]
        finally:
            kv_mutex_unlock(&self.r.lock)

    def clear(self):
        """Forget what was recorded; plans stay."""
        self._clear()

    cdef void _clear(self) noexcept:
        cdef uint64_t i
        kv_mutex_lock(&self.r.lock)
        for i in range(self.r.n):
            free(self.r.entries[i].data)
            free(self.r.entries[i].path)
            free(self.r.entries[i].to)
        self.r.n = 0
        kv_mutex_unlock(&self.r.lock)

    cdef object _op(self, Entry* e):
        data = b""
        if e.kind == WRITE:
            data = e.data[:e.n] if e.data != NULL else e.n
        return Op(_KINDS[e.kind], e.handle, e.error, e.off, data,
                  e.path.decode() if e.path != NULL else "", e.to.decode() if e.to != NULL else "")
