# SPDX-License-Identifier: Apache-2.0
"""An I/O table that does what the operating system does, writes down every call, and can fail one.

    log --KvIo--> RecordingIo --> kv_posix_io
                      └ entries: open 5 "wal-1.tmp" | write 5 @0 | sync 5 | rename | marker | ...

Invariants: (in-order) entries stand in the order in which the calls took effect, since one mutex is
held over call and entry; (as-done) a call that was made to fail is recorded with its errno, and a
short write with the bytes that were written.
Thread safety & ownership: any thread; never takes the GIL.  Entries live until `clear` or the end.
May not know: segments, crashes (faults.py builds those from the entries).
"""

from dataclasses import dataclass

from libc.errno cimport ENOSYS
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset, strdup

from kvcore._native cimport (
    Io, KvIo, KvMutex, kv_mutex_destroy, kv_mutex_init, kv_mutex_lock, kv_mutex_unlock, kv_posix_io,
)

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
    READ = 10           # never recorded, may be failed
    MAP = 11            # the same
    KINDS = 12
    PLANS = 16

_KINDS = ("open", "close", "write", "allocate", "truncate", "sync", "rename", "unlink", "sync_dir",
          "marker", "read", "map")

cdef struct Entry:
    int kind
    int handle
    int error            # 0, or the errno the call returned
    uint64_t off         # flags of an open; size of an allocate or truncate; a marker's number
    uint64_t n           # bytes of a write
    uint8_t* data        # NULL: zeros
    char* path
    char* to

cdef struct Plan:        # fail the call of this kind after `left` more of them
    int kind
    int64_t left
    int error
    uint64_t short_bytes

cdef struct Recorder:
    KvMutex lock
    Entry* entries
    uint64_t n
    uint64_t cap
    Plan[PLANS] plans
    int plan_count
    uint64_t[KINDS] calls
    bint can_map
    bint can_sync
    bint out_of_memory


# ---- private helpers, REQUIRE the recorder's lock ------------------------------------------------


cdef int _planned(Recorder* r, int kind, uint64_t* short_bytes) noexcept nogil:
    # The errno that this call is to fail with; 0: none.  A plan strikes once.
    cdef int i
    r.calls[kind] += 1
    for i in range(r.plan_count):
        if r.plans[i].kind == kind:
            r.plans[i].left -= 1
            if r.plans[i].left < 0:
                short_bytes[0] = r.plans[i].short_bytes
                kind = r.plans[i].error
                r.plan_count -= 1
                r.plans[i] = r.plans[r.plan_count]
                return kind
    return 0


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
    cdef uint64_t short_bytes
    cdef int rc
    kv_mutex_lock(&r.lock)
    rc = -_planned(r, kind, &short_bytes)
    if rc == 0 and kind == CLOSE:
        rc = kv_posix_io.close(NULL, handle)
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
    cdef uint64_t short_bytes
    cdef Entry* e
    cdef int rc
    kv_mutex_lock(&r.lock)
    rc = -_planned(r, kind, &short_bytes)
    if rc == 0 and kind == RENAME:
        rc = kv_posix_io.rename(NULL, path, to)
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
    cdef uint64_t short_bytes
    cdef Entry* e
    cdef int handle
    kv_mutex_lock(&r.lock)
    handle = -_planned(r, OPEN, &short_bytes)
    if handle == 0:
        handle = kv_posix_io.open(NULL, path, flags)
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


cdef int rec_write_at(void* ctx, int handle, const void* p, size_t n, uint64_t off) noexcept nogil:
    cdef Recorder* r = <Recorder*>ctx
    cdef uint64_t done = n, short_bytes = 0
    cdef int rc, wrote = 0
    kv_mutex_lock(&r.lock)
    rc = -_planned(r, WRITE, &short_bytes)
    if rc != 0:
        done = min(<uint64_t>n, short_bytes)
    if done > 0:
        wrote = kv_posix_io.write_at(NULL, handle, p, done, off)
    if rc == 0:
        rc = wrote
    _keep_data(r, _entry(r, WRITE, handle, rc, off), <const uint8_t*>p, done)
    kv_mutex_unlock(&r.lock)
    return rc


cdef int64_t rec_read_at(void* ctx, int handle, void* p, size_t n, uint64_t off) noexcept nogil:
    cdef Recorder* r = <Recorder*>ctx
    cdef uint64_t short_bytes
    cdef int rc
    kv_mutex_lock(&r.lock)
    rc = -_planned(r, READ, &short_bytes)
    kv_mutex_unlock(&r.lock)
    return rc if rc != 0 else kv_posix_io.read_at(NULL, handle, p, n, off)


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
    cdef uint64_t short_bytes
    cdef int rc
    kv_mutex_lock(&r.lock)
    rc = -_planned(r, MAP, &short_bytes)
    kv_mutex_unlock(&r.lock)
    if rc == 0 and not r.can_map:
        rc = -ENOSYS
    return rc if rc != 0 else kv_posix_io.map(NULL, handle, n, out)


cdef int rec_unmap(void* ctx, void* p, uint64_t n) noexcept nogil:
    return kv_posix_io.unmap(NULL, p, n)


cdef int rec_links(void* ctx, int handle) noexcept nogil:
    return kv_posix_io.links(NULL, handle)


# ---- Python face ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Op:
    """One recorded call.  `data` is bytes, or an int: so many zeros; `error` is 0 or its errno."""

    kind: str
    handle: int = -1
    error: int = 0
    offset: int = 0
    data: object = b""
    path: str = ""
    to: str = ""


cdef class RecordingIo(Io):
    """The operating system's files, with every change written down.

    map=False makes every read go through read_at; sync=False records syncs without waiting for the
    disk, for tests that build images of what it may hold.  Thread safety: any thread.

    >>> io = RecordingIo()
    >>> io.marker(7)
    >>> [(op.kind, op.offset) for op in io.ops()]
    [('marker', 7)]
    """

    cdef KvIo own
    cdef Recorder r

    def __cinit__(self, *, map=True, sync=True):
        memset(&self.r, 0, sizeof(Recorder))
        kv_mutex_init(&self.r.lock)
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
        self.table = &self.own

    def __dealloc__(self):
        self._clear()
        free(self.r.entries)
        kv_mutex_destroy(&self.r.lock)

    def marker(self, number):
        """Write down that the caller reached point `number`."""
        cdef uint64_t n = number
        with nogil:
            kv_mutex_lock(&self.r.lock)
            _entry(&self.r, MARKER, -1, 0, n)
            kv_mutex_unlock(&self.r.lock)

    def fail(self, kind, nth, errno, *, short_bytes=0):
        """Make the nth call of a kind from now (1: the next one) fail with `errno`, once.

        kind: "open", "write", "sync", ...  short_bytes: how much a failing write writes before.
        Errors: ValueError for an unknown kind; IndexError for too many plans.
        """
        if kind not in _KINDS or kind == "marker":
            raise ValueError(f"no call of kind {kind!r}")
        if self.r.plan_count == PLANS:
            raise IndexError("too many planned failures")
        cdef Plan plan
        plan.kind = _KINDS.index(kind)
        plan.left = nth - 1
        plan.error = errno
        plan.short_bytes = short_bytes
        kv_mutex_lock(&self.r.lock)
        self.r.plans[self.r.plan_count] = plan
        self.r.plan_count += 1
        kv_mutex_unlock(&self.r.lock)

    def calls(self, kind):
        """How many calls of a kind there were, failed ones included."""
        return self.r.calls[_KINDS.index(kind)]

    def ops(self):
        """Everything recorded so far, as a list of Op; MemoryError when something was lost."""
        cdef uint64_t i
        kv_mutex_lock(&self.r.lock)
        try:
            if self.r.out_of_memory:
                raise MemoryError("the recording is incomplete")
            return [self._op(&self.r.entries[i]) for i in range(self.r.n)]
        finally:
            kv_mutex_unlock(&self.r.lock)

    def clear(self):
        """Forget what was recorded; planned failures stay."""
        kv_mutex_lock(&self.r.lock)
        self._clear()
        kv_mutex_unlock(&self.r.lock)

    cdef object _op(self, Entry* e):
        data = b""
        if e.kind == WRITE:
            data = e.data[:e.n] if e.data != NULL else e.n
        return Op(_KINDS[e.kind], e.handle, e.error, e.off, data,
                  e.path.decode() if e.path != NULL else "", e.to.decode() if e.to != NULL else "")

    cdef void _clear(self) noexcept:
        cdef uint64_t i
        for i in range(self.r.n):
            free(self.r.entries[i].data)
            free(self.r.entries[i].path)
            free(self.r.entries[i].to)
        self.r.n = 0
