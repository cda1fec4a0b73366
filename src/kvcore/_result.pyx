# SPDX-License-Identifier: Apache-2.0
"""Results: KeyValue, RangeResult, PutResult, DeleteResult, TxnResult, GrantResult.

    RangeResult ── Rows: | record | record | ...  and one arena of keys     (copied under the lock)
         │            └── columns as NumPy views
         └── Pin: values stay where they are until somebody touches one     (mapped, CRC compared)

A range of 500 costs the copy of 500 records; bytes objects are made for what is looked at.
Thread safety: immutable but for caches filled once (a race fills twice with equal objects).
Ownership: a result keeps its rows and the segments mapped, also after the store is closed.
None of these classes can be part of a reference cycle, so the collector does not track them.
May not know: index, engine.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from kvcore._command cimport (CMD_DELETE, CMD_LEASE_GRANT, CMD_PUT, CMD_RANGE, CMD_TXN,
                              FLAG_KEYS_ONLY, FLAG_PREV, FLAG_SINGLE)
from kvcore._native cimport KV_CORRUPT, KvRow, KvSlice, KvVersion, kv_prefetch, kv_raise
from kvcore._rows cimport Rows, rows_free, rows_init
from kvcore._pin cimport Pin
from kvcore._wal cimport wal_ptr, wal_value

from kvcore._directory import segment_path
from kvcore.errors import CorruptError

cdef enum:
    VALUE_HEAD = 5               # bytes between a cell's key and its value
    AHEAD_ROWS = 3
    AHEAD_BYTES = 1280

# =================================================================================================
# C face
# =================================================================================================

cdef void result_init(KvResult* r) noexcept nogil:
    memset(r, 0, sizeof(KvResult))
    rows_init(&r.rows)


cdef void result_free(KvResult* r) noexcept nogil:
    rows_free(&r.rows)
    free(r.resps)
    r.resps = NULL
    r.n = 0
    r.cap = 0


cdef int64_t result_add(KvResult* r, uint8_t kind, uint8_t flags) noexcept nogil:
    cdef KvResp* grown
    if r.n == r.cap:
        grown = <KvResp*>realloc(r.resps, (r.cap * 2 + 4) * sizeof(KvResp))
        if grown == NULL:
            return -1
        r.resps = grown
        r.cap = r.cap * 2 + 4
    memset(&r.resps[r.n], 0, sizeof(KvResp))
    r.resps[r.n].kind = kind
    r.resps[r.n].flags = flags
    r.resps[r.n].row_start = r.rows.n
    r.n += 1
    return r.n - 1


# =================================================================================================
# Python face
# =================================================================================================

cdef int _unreadable(Pin pin, uint64_t pos, int status) except -1:
    """Raises for a cell that cannot be read: one that is damaged is named by file and offset."""
    cdef uint64_t seq = pos >> pin.log.c.segment_shift
    if status != KV_CORRUPT:
        return kv_raise(status)
    if not pin.log.path:
        raise CorruptError(f"kvcore: corrupt: value at log position {pos:#x} (memory)")
    raise CorruptError(path=segment_path(pin.log.path, seq),
                       offset=pos - (seq << pin.log.c.segment_shift),
                       reason="the value that is here fails its checksum")


cdef int read_cell(Pin pin, uint64_t pos, uint32_t key_len, uint32_t value_len, list out) except -1:
    """Key and value of a cell, appended to `out`; CorruptError when they do not agree with their
    CRC."""
    cdef KvSlice value
    cdef void* owned = NULL
    cdef int status = wal_value(&pin.log.c, pos, key_len, value_len, &value, &owned)
    if status != 0:
        _unreadable(pin, pos, status)
    try:
        out.append(PyBytes_FromStringAndSize(<const char*>value.ptr - VALUE_HEAD - key_len,
                                             key_len))
        out.append(PyBytes_FromStringAndSize(<const char*>value.ptr, value.len))
    finally:
        free(owned)
    return 0


cdef bytes read_value(Pin pin, uint64_t pos, uint32_t key_len, uint32_t value_len):
    """The value of a cell as bytes; CorruptError when it does not agree with its CRC."""
    cdef KvSlice value
    cdef void* owned = NULL
    cdef int status = wal_value(&pin.log.c, pos, key_len, value_len, &value, &owned)
    if status != 0:
        _unreadable(pin, pos, status)
    try:
        return PyBytes_FromStringAndSize(<const char*>value.ptr, value.len)
    finally:
        free(owned)


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class KeyValue:
    """One version of one key.

    Attributes: key, value (bytes; the value is read and verified when first touched),
    create_revision, mod_revision, version, lease (ints).
    """

    def __init__(self):
        raise TypeError("KeyValue objects come from a store")

    @property
    @cython.critical_section
    def key(self):
        """The key."""
        if self._key is None:
            if self.rows is not None:
                self._key = self.rows.key_at(self.index)
            else:
                self._read_cell()
        return self._key

    cdef int _read_cell(self) except -1:
        """Key and value together, where the key is known by its cell alone."""
        cdef list found = []
        if self.pin is None:
            raise TypeError("KeyValue objects come from a store")
        read_cell(self.pin, self.v.pos, <uint32_t>self.index, self.v.len, found)
        self._value = <bytes>found[1]
        self._key = <bytes>found[0]
        self.pin = None
        return 0

    cdef uint32_t key_len(self):
        """Without making the key."""
        if self._key is None and self.rows is not None:
            return self.rows.c.rows[self.index].key_len
        return len(self.key)

    @property
    @cython.critical_section
    def value(self):
        """The value; b"" in a result of keys_only."""
        if self._value is None and self._key is None and self.rows is None:
            self._read_cell()
        if self._value is None:
            self._value = read_value(self.pin, self.v.pos, self.key_len(), self.v.len)
            self.pin = None                  # from here on it holds no segment of the log
        return self._value

    @property
    def create_revision(self):
        """Revision at which this generation of the key began."""
        return self.v.create

    @property
    def mod_revision(self):
        """Revision of this version."""
        return self.v.mod

    @property
    def version(self):
        """1 at creation, one more with each put."""
        return self.v.version

    @property
    def lease(self):
        """Id of the lease the key is attached to; 0: none."""
        return self.v.lease

    def __eq__(self, other):
        if not isinstance(other, KeyValue):
            return NotImplemented
        cdef KeyValue o = <KeyValue>other
        return (self.v.mod == o.v.mod and self.v.create == o.v.create
                and self.v.version == o.v.version and self.v.lease == o.v.lease
                and self.key == o.key and self.value == o.value)

    def __hash__(self):
        return hash((self.key, self.v.mod))

    def __repr__(self):
        return (f"KeyValue(key={self.key!r}, value={self.value!r}, "
                f"create_revision={self.v.create}, mod_revision={self.v.mod}, "
                f"version={self.v.version}, lease={self.v.lease})")

    def __reduce__(self):
        return (_restore_key_value, (self.key, self.value, self.v.create, self.v.mod,
                                     self.v.version, self.v.lease))


def _restore_key_value(bytes key not None, bytes value not None, int64_t create, int64_t mod,
                       int64_t version, int64_t lease):
    """A pickled KeyValue: one that has read its value, and knows no log."""
    cdef KeyValue kv = KeyValue.__new__(KeyValue)
    kv._key = key
    kv._value = value
    kv.v.create = create
    kv.v.mod = mod
    kv.v.version = version
    kv.v.lease = lease
    return kv


cdef KeyValue make_lazy_kv(bytes key, Rows rows, uint64_t index, const KvVersion* v, Pin pin):
    cdef KeyValue kv = KeyValue.__new__(KeyValue)
    kv.v = v[0]
    kv._key = key
    kv.rows = rows
    kv.index = index
    kv.pin = pin
    return kv


cdef KeyValue make_kv(bytes key, const KvVersion* v, Pin pin):
    """A KeyValue with its value read now, so that damage shows in the call that met it."""
    cdef KeyValue kv = KeyValue.__new__(KeyValue)
    kv.v = v[0]
    kv._key = key
    kv._value = read_value(pin, v.pos, len(key), v.len)
    return kv


@cython.final
@cython.no_gc
cdef class _RangeIterator:
    cdef RangeResult result
    cdef uint64_t next

    def __iter__(self):
        return self

    def __next__(self):
        if self.next >= self.result.n:
            raise StopIteration
        if not self.result.keys_only:
            self.result._fetch_ahead(self.next)
        self.next += 1
        return self.result.at(self.next - 1)


@cython.final
@cython.no_gc
cdef class RangeResult:
    """A sequence of KeyValue in the order asked for.

    Attributes: count (live keys of the range, before filters and limit), more (the limit cut it),
    revision (of the store when it answered, also for a read of the past).
    """

    def __init__(self):
        raise TypeError("RangeResult objects come from a store")

    cdef void _fetch_ahead(self, uint64_t i) noexcept:
        """A value's lines, a few rows ahead."""
        cdef KvRow* r
        cdef const uint8_t* p
        cdef uint64_t n, k = 0
        if i + AHEAD_ROWS >= self.n:
            return
        r = &self.rows.c.rows[self.start + i + AHEAD_ROWS]
        n = 13 + <uint64_t>r.key_len + r.v.len
        p = wal_ptr(&self.pin.log.c, r.v.pos, n)
        if p != NULL:
            n = min(n, <uint64_t>AHEAD_BYTES)
            while k < n:
                kv_prefetch(p + k)
                k += 64

    cdef KeyValue at(self, uint64_t i):
        cdef KeyValue kv = KeyValue.__new__(KeyValue)
        kv.v = self.rows.c.rows[self.start + i].v
        kv.rows = self.rows
        kv.index = self.start + i
        kv.pin = self.pin
        if self.keys_only:
            kv._value = b""
        return kv

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        cdef int64_t k
        if isinstance(i, slice):
            return [self.at(j) for j in range(*i.indices(self.n))]
        k = i
        if k < 0:
            k += <int64_t>self.n
        if k < 0 or k >= <int64_t>self.n:
            raise IndexError("RangeResult index out of range")
        return self.at(k)

    def __iter__(self):
        cdef _RangeIterator it = _RangeIterator.__new__(_RangeIterator)
        it.result = self
        return it

    def __eq__(self, other):
        if not isinstance(other, RangeResult):
            return NotImplemented
        return (self.count == other.count and self.more == other.more
                and self.revision == other.revision and list(self) == list(other))

    __hash__ = None

    def keys(self):
        """All keys, as a list of bytes."""
        return [self.rows.key_at(self.start + i) for i in range(self.n)]

    def values(self):
        """All values, as a list of bytes."""
        cdef KvRow* r
        cdef uint64_t i
        if self.keys_only:
            return [b""] * self.n
        out = [None] * self.n
        for i in range(self.n):
            self._fetch_ahead(i)
            r = &self.rows.c.rows[self.start + i]
            out[i] = read_value(self.pin, r.v.pos, r.key_len, r.v.len)
        return out

    @property
    def mod_revisions(self):
        """int64 array (n,), read-only."""
        return self.rows.mod_revisions[self.start:self.start + self.n]

    @property
    def create_revisions(self):
        """int64 array (n,), read-only."""
        return self.rows.create_revisions[self.start:self.start + self.n]

    @property
    def versions(self):
        """int64 array (n,), read-only."""
        return self.rows.versions[self.start:self.start + self.n]

    @property
    def leases(self):
        """int64 array (n,), read-only."""
        return self.rows.leases[self.start:self.start + self.n]

    def __repr__(self):
        return (f"<RangeResult of {self.n} keys, count={self.count}, more={self.more}, "
                f"revision={self.revision}>")

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        raise TypeError("a RangeResult cannot be pickled, its values lie in the store's log; "
                        "pickle list(result)")


cdef RangeResult make_range(Rows rows, Pin pin, uint64_t start, uint64_t n, int64_t count,
                            bint more, int64_t revision, bint keys_only):
    cdef RangeResult r = RangeResult.__new__(RangeResult)
    r.rows = rows
    r.pin = pin
    r.start = start
    r.n = n
    r.count = count
    r.more = more
    r.revision = revision
    r.keys_only = keys_only
    return r


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class PutResult:
    """revision: of the put; prev: the KeyValue it replaced, if asked for and there was one."""

    def __init__(self):
        raise TypeError("PutResult objects come from a store")

    def __eq__(self, other):
        if not isinstance(other, PutResult):
            return NotImplemented
        return self.revision == other.revision and self.prev == other.prev

    __hash__ = None

    def __repr__(self):
        return f"PutResult(revision={self.revision}, prev={self.prev!r})"


@cython.final
@cython.no_gc
cdef class DeleteResult:
    """revision: of the store; deleted: how many keys; prev: their KeyValues, if asked for."""

    def __init__(self):
        raise TypeError("DeleteResult objects come from a store")

    def __eq__(self, other):
        if not isinstance(other, DeleteResult):
            return NotImplemented
        return (self.revision == other.revision and self.deleted == other.deleted
                and self.prev == other.prev)

    __hash__ = None

    def __repr__(self):
        return (f"DeleteResult(revision={self.revision}, deleted={self.deleted}, "
                f"prev={self.prev!r})")


@cython.final
@cython.no_gc
cdef class TxnResult:
    """succeeded: what the compares said; responses: one per operation of the branch taken."""

    def __init__(self):
        raise TypeError("TxnResult objects come from a store")

    def __eq__(self, other):
        if not isinstance(other, TxnResult):
            return NotImplemented
        return (self.succeeded == other.succeeded and self.revision == other.revision
                and self.responses == other.responses)

    __hash__ = None

    def __repr__(self):
        return (f"TxnResult(succeeded={self.succeeded}, responses={self.responses!r}, "
                f"revision={self.revision})")


@cython.final
@cython.no_gc
cdef class GrantResult:
    """id: of the lease granted; ttl: its seconds, at least the minimum; revision: of the store."""

    def __init__(self):
        raise TypeError("GrantResult objects come from a store")

    def __repr__(self):
        return f"GrantResult(id={self.id}, ttl={self.ttl}, revision={self.revision})"


cdef PutResult make_put(int64_t revision, KeyValue prev):
    cdef PutResult r = PutResult.__new__(PutResult)
    r.revision = revision
    r.prev = prev
    return r


cdef object _answer(KvResult* r, uint32_t* i, Rows rows, Pin pin):
    """The object for answer *i and, for a transaction, for those below it; moves *i behind them."""
    cdef KvResp* a = &r.resps[i[0]]
    cdef RangeResult found = make_range(rows, pin, a.row_start, a.row_n, a.count, a.more,
                                        a.revision, a.flags & FLAG_KEYS_ONLY != 0)
    cdef DeleteResult deleted
    cdef TxnResult txn
    cdef GrantResult grant
    cdef uint32_t k
    i[0] += 1
    if a.kind == CMD_PUT:
        return make_put(a.revision, found.at(0) if a.row_n else None)
    if a.kind == CMD_RANGE:
        if a.flags & FLAG_SINGLE:
            return found.at(0) if a.row_n else None
        return found
    if a.kind == CMD_DELETE:
        deleted = DeleteResult.__new__(DeleteResult)
        deleted.revision = a.revision
        deleted.deleted = a.count
        deleted.prev = [found.at(k) for k in range(a.row_n)] if a.flags & FLAG_PREV else []
        return deleted
    if a.kind == CMD_TXN:
        txn = TxnResult.__new__(TxnResult)
        txn.revision = a.revision
        txn.succeeded = a.succeeded
        txn.responses = [_answer(r, i, rows, pin) for _ in range(a.children)]
        return txn
    if a.kind == CMD_LEASE_GRANT:
        grant = GrantResult.__new__(GrantResult)
        grant.id = a.count
        grant.ttl = a.ttl
        grant.revision = a.revision
        return grant
    return a.revision                    # COMPACT


cdef object make_answer(KvResult* r, Pin pin):
    cdef Rows rows = Rows.__new__(Rows)
    rows.c = r.rows                      # the object owns them from here on
    rows_init(&r.rows)
    return make_answer_over(r, rows, pin)


cdef object make_answer_over(KvResult* r, Rows rows, Pin pin):
    cdef uint32_t i = 0
    return _answer(r, &i, rows, pin)
