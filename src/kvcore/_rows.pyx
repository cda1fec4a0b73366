# SPDX-License-Identifier: Apache-2.0
"""Rows of a result: records beside an arena of keys, and the Python object that lends NumPy views.

    rows:  | mod create version lease pos len sub key_off key_len | ...    56 bytes each
    arena: | key 0 | key 1 | ...                                           rows may share key bytes

Growth is by half more, and the first growth takes what is asked for exactly: a caller that knows
the size pays one allocation.
Invariants: 1 n <= cap, used <= arena_cap; 2 every row's key lies in [0, used).
Thread safety: none; one owner.  Ownership: a KvRows owns both blocks, `Rows` owns a KvRows and is
complete before Python sees it, so that views never move.  May not know: trees, logs.
"""

from threading import Lock

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from kvcore._native cimport (
    KV_NOMEM, KV_OK, KvRow, KvSlice, KvVersion, kv_assert, kv_big_alloc,
)

cdef enum:
    BIG_BYTES = 4 << 20          # results from here on live on huge pages


# ---- C face ----------------------------------------------------------------------------------

cdef void rows_init(KvRows* r) noexcept nogil:
    memset(r, 0, sizeof(KvRows))


cdef void rows_free(KvRows* r) noexcept nogil:
    free(r.rows)
    free(r.arena)
    memset(r, 0, sizeof(KvRows))


cdef void rows_clear(KvRows* r) noexcept nogil:
    r.n = 0
    r.used = 0


cdef void* _regrow(void* old, uint64_t used, uint64_t n) noexcept nogil:
    """realloc, on huge pages from BIG_BYTES on: a million rows are 27,000 small page faults."""
    cdef void* p
    if n < BIG_BYTES:
        return realloc(old, n)
    p = kv_big_alloc(n)
    if p != NULL:
        if used:
            memcpy(p, old, used)
        free(old)
    return p


cdef int rows_grow(KvRows* r, uint64_t more_rows, uint64_t more_key_bytes) noexcept nogil:
    cdef uint64_t cap = r.n + more_rows
    cdef uint64_t arena_cap = r.used + more_key_bytes
    cdef void* p
    if cap > r.cap:
        if cap < r.cap + r.cap // 2:
            cap = r.cap + r.cap // 2
        p = _regrow(r.rows, r.n * sizeof(KvRow), cap * sizeof(KvRow))
        if p == NULL:
            return KV_NOMEM
        r.rows = <KvRow*>p
        r.cap = cap
    if arena_cap > r.arena_cap or r.arena == NULL:        # never NULL once a row was asked for
        if arena_cap < r.arena_cap + r.arena_cap // 2 + 1024:
            arena_cap = r.arena_cap + r.arena_cap // 2 + 1024
        p = _regrow(r.arena, r.used, arena_cap)
        if p == NULL:
            return KV_NOMEM
        r.arena = <uint8_t*>p
        r.arena_cap = arena_cap
    return KV_OK


cdef int rows_push(KvRows* r, const KvVersion* v, KvSlice key) noexcept nogil:
    cdef uint8_t* at
    kv_assert(key.len <= 65535, "key length fits a row")
    at = rows_reserve(r, v, <uint16_t>key.len)
    if at == NULL:
        return KV_NOMEM
    memcpy(at, key.ptr, key.len)
    return KV_OK


# ---- Python face -----------------------------------------------------------------------------

cdef object _dtype = None        # numpy is imported when the first column is asked for
cdef object _frombuffer = None
cdef object _once = Lock()


cdef int import_numpy() except -1:
    global _dtype, _frombuffer
    import numpy
    with _once:
        if _dtype is not None:
            return 0
        _frombuffer = numpy.frombuffer
        _dtype = _dtype_of(numpy)            # last: it is what others look for
    return 0


cdef object _dtype_of(numpy):
    return numpy.dtype({
        "names": ["mod_revision", "create_revision", "version", "lease", "position", "length",
                  "sub", "key_length"],
        "formats": ["<i8", "<i8", "<i8", "<i8", "<u8", "<u4", "<u4", "<u2"],
        "offsets": [0, 8, 16, 24, 32, 40, 44, 54],
        "itemsize": 56,
    })


cdef class Rows:
    """A finished result: a sequence of rows whose columns are read-only NumPy views.

    The views keep the Rows alive; nothing is copied.  Key bytes are made when asked for.
    Thread safety: immutable once Python sees it.

    >>> r = Rows.of([(b"k", 7, 5, 2)])
    >>> len(r), r.key(0), r.mod_revisions.tolist(), r.versions.tolist()
    (1, b'k', [7], [2])
    """

    def __cinit__(self):
        rows_init(&self.c)

    def __dealloc__(self):
        rows_free(&self.c)

    def __len__(self):
        return self.c.n

    def __getbuffer__(self, Py_buffer* view, int flags):
        if flags & PyBUF_WRITABLE == PyBUF_WRITABLE:
            raise BufferError("rows are read-only")
        PyBuffer_FillInfo(view, self, self.c.rows, self.c.n * sizeof(KvRow), 1, flags)

    @staticmethod
    def of(items):
        """Rows from (key, mod, create, version[, lease[, position[, length]]]) tuples; for
        tests."""
        cdef Rows r = Rows.__new__(Rows)
        cdef KvVersion v
        cdef KvSlice s
        cdef bytes key
        for item in items:
            key = item[0]
            memset(&v, 0, sizeof(v))
            v.mod, v.create, v.version = item[1], item[2], item[3]
            v.lease = item[4] if len(item) > 4 else 0
            v.pos = item[5] if len(item) > 5 else 0
            v.len = item[6] if len(item) > 6 else 0
            s.ptr = <const uint8_t*><const char*>key
            s.len = len(key)
            if s.len > 65535:
                raise ValueError("key longer than 65535 bytes")
            if rows_push(&r.c, &v, s) != KV_OK:
                raise MemoryError
        return r

    cdef bytes key_at(self, uint64_t i):
        cdef KvSlice s = rows_key(&self.c, i)
        return PyBytes_FromStringAndSize(<const char*>s.ptr, s.len)

    def key(self, Py_ssize_t i):
        """Key of row `i` as bytes (a copy).  IndexError when there is no such row."""
        if i < 0:
            i += <Py_ssize_t>self.c.n
        if i < 0 or i >= <Py_ssize_t>self.c.n:
            raise IndexError("row index out of range")
        return self.key_at(i)

    def keys(self):
        """All keys as a list of bytes.  O(n)."""
        return [self.key_at(i) for i in range(self.c.n)]

    @property
    def columns(self):
        """The rows as one read-only structured array of the row's fields."""
        if _dtype is None:
            import_numpy()
        if self.c.n == 0:
            return _frombuffer(b"\0" * 56, _dtype)[:0]
        return _frombuffer(self, _dtype)

    @property
    def mod_revisions(self):
        """int64: revision of each row's last change."""
        return self.columns["mod_revision"]

    @property
    def create_revisions(self):
        """int64: revision that began each row's generation."""
        return self.columns["create_revision"]

    @property
    def versions(self):
        """int64: 1, 2, ... within the generation; 0 for a tombstone."""
        return self.columns["version"]

    @property
    def leases(self):
        """int64: lease id, 0 for none."""
        return self.columns["lease"]

    @property
    def positions(self):
        """uint64: log position of each row's value."""
        return self.columns["position"]

    @property
    def lengths(self):
        """uint32: bytes of each row's value."""
        return self.columns["length"]
