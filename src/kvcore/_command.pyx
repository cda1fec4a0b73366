# SPDX-License-Identifier: Apache-2.0
"""Operations (Put, Get, Range, Delete, Txn, Compact, Compare) and their msgpack form.

    kvcore.Put(b"/a", b"1") -- encode_op --> 96 01 00 00 | ce crc c5 0002 /a c6 00000001 1
                                             kind flags lease └────────── cell ──────────┘

Encoding checks everything etcd checks before consensus (empty keys, sizes, number of operations,
duplicate keys); what is left can only fail at apply, and then fails identically on replay.

Invariants: every encoded command decodes to itself; a decoder never reads behind its end, whatever
the bytes (`bad` becomes true and stays).  Thread safety: operations are immutable; buffers belong
to their caller.  May not know: index, log, engine.
"""

from operator import index

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from kvcore._native cimport (KV_KEY_MAX_BYTES, KvSlice, kv_be16, kv_be32, kv_be64, kv_crc32c,
                             kv_put_be16, kv_put_be32, kv_put_be64)

from kvcore.errors import (DuplicateKeyError, EmptyKeyError, InvalidArgument, InvalidSortError,
                           KeyTooLargeError, LeaseProvidedError, OutOfMemoryError,
                           RequestTooLargeError, TooManyOpsError, ValueProvidedError)

# =================================================================================================
# Decoding
# =================================================================================================

cdef inline bint _need(Cursor* c, uint64_t n) noexcept nogil:
    if c.bad or <uint64_t>(c.end - c.p) < n:
        c.bad = True
        return False
    return True


cdef uint32_t mp_array(Cursor* c) noexcept nogil:
    cdef uint32_t n
    if not _need(c, 1):
        return 0
    if (c.p[0] & 0xF0) == 0x90:
        n = c.p[0] & 0x0F
        c.p += 1
        return n
    if c.p[0] == 0xDC and _need(c, 3):
        n = kv_be16(c.p + 1)
        c.p += 3
        return n
    c.bad = True
    return 0


cdef int64_t mp_int(Cursor* c) noexcept nogil:
    cdef int64_t v
    if not _need(c, 1):
        return 0
    if c.p[0] < 0x80:
        v = c.p[0]
        c.p += 1
        return v
    if c.p[0] == 0xD3 and _need(c, 9):
        v = <int64_t>kv_be64(c.p + 1)
        c.p += 9
        return v
    if c.p[0] == 0xCE and _need(c, 5):
        v = kv_be32(c.p + 1)
        c.p += 5
        return v
    c.bad = True
    return 0


cdef KvSlice mp_bin(Cursor* c) noexcept nogil:
    cdef KvSlice s
    cdef uint64_t n, head
    s.ptr = NULL
    s.len = 0
    if not _need(c, 1):
        return s
    if c.p[0] == 0xC0:
        c.p += 1
        return s
    if c.p[0] == 0xC5 and _need(c, 3):
        head = 3
        n = kv_be16(c.p + 1)
    elif c.p[0] == 0xC6 and _need(c, 5):
        head = 5
        n = kv_be32(c.p + 1)
    else:
        c.bad = True
        return s
    if not _need(c, head + n):
        return s
    s.ptr = c.p + head
    s.len = n
    c.p += head + n
    return s


cdef void mp_skip(Cursor* c) noexcept nogil:
    """Steps over one value of the kinds commands are made of."""
    cdef uint64_t left = 1
    while left and _need(c, 1):
        left -= 1
        if (c.p[0] & 0xF0) == 0x90 or c.p[0] == 0xDC:
            left += mp_array(c)
        elif c.p[0] == 0xC0 or c.p[0] == 0xC5 or c.p[0] == 0xC6:
            mp_bin(c)
        else:
            mp_int(c)


cdef void decode_put(Cursor* c, PutCmd* out) noexcept nogil:
    out.flags = mp_int(c)
    out.lease = mp_int(c)
    out.cell = c.p
    mp_int(c)
    out.key = mp_bin(c)
    out.value = mp_bin(c)
    if out.key.ptr == NULL or out.value.ptr == NULL or out.key.len == 0:
        c.bad = True


cdef void _decode_span(Cursor* c, SpanCmd* out) noexcept nogil:
    out.key = mp_bin(c)
    out.end = mp_bin(c)
    if out.key.ptr == NULL or out.key.len == 0:
        c.bad = True


cdef void decode_delete(Cursor* c, int64_t* flags, SpanCmd* out) noexcept nogil:
    flags[0] = mp_int(c)
    _decode_span(c, out)


cdef void decode_range(Cursor* c, RangeCmd* out) noexcept nogil:
    out.flags = mp_int(c)
    _decode_span(c, &out.span)
    out.limit = mp_int(c)
    out.revision = mp_int(c)
    out.order = mp_int(c)
    out.target = mp_int(c)
    out.min_mod = mp_int(c)
    out.max_mod = mp_int(c)
    out.min_create = mp_int(c)
    out.max_create = mp_int(c)


cdef void decode_compare(Cursor* c, CompareCmd* out) noexcept nogil:
    if mp_array(c) != 5:
        c.bad = True
    out.target = mp_int(c)
    out.result = mp_int(c)
    out.number = 0
    out.value.ptr = NULL
    out.value.len = 0
    if out.target == CMP_VALUE:
        out.value = mp_bin(c)
    else:
        out.number = mp_int(c)
    _decode_span(c, &out.span)


cdef bint span_bounds(const SpanCmd* s, KvSlice* start, KvSlice* end) noexcept nogil:
    start[0] = s.key
    end[0] = s.end
    if s.end.ptr == NULL:
        return True
    if s.end.len == 1 and s.end.ptr[0] == 0:
        end.ptr = NULL
        end.len = 0
        if s.key.len == 1 and s.key.ptr[0] == 0:
            start.len = 0            # "\0" to "\0" is everything
    return False


# =================================================================================================
# Encoding
# =================================================================================================

cdef void buf_free(KvBuf* b) noexcept nogil:
    free(b.p)
    b.p = NULL
    b.len = 0
    b.cap = 0


cdef uint8_t* buf_room(KvBuf* b, uint64_t n) noexcept nogil:
    """Room for n bytes at the end; the caller moves `len`."""
    cdef uint64_t cap = b.cap
    cdef uint8_t* p
    if b.len + n > cap:
        cap = b.len + n + (b.len >> 1) + 64
        p = <uint8_t*>realloc(b.p, cap)
        if p == NULL:
            return NULL
        b.p = p
        b.cap = cap
    return b.p + b.len


cdef inline uint8_t* _room(KvBuf* b, uint64_t n) except NULL:
    cdef uint8_t* p = buf_room(b, n)
    if p == NULL:
        raise OutOfMemoryError()
    return p


cdef inline uint8_t* _put_int(uint8_t* p, int64_t v) noexcept nogil:
    if 0 <= v < 0x80:
        p[0] = <uint8_t>v
        return p + 1
    p[0] = 0xD3
    kv_put_be64(p + 1, <uint64_t>v)
    return p + 9


cdef int _add_int(KvBuf* b, int64_t v) except -1:
    cdef uint8_t* p = _room(b, 9)
    b.len += _put_int(p, v) - p
    return 0


cdef int _add_array(KvBuf* b, uint64_t n) except -1:
    cdef uint8_t* p = _room(b, 3)
    if n < 16:
        p[0] = <uint8_t>(0x90 | n)
        b.len += 1
    else:
        p[0] = 0xDC
        kv_put_be16(p + 1, <uint16_t>n)
        b.len += 3
    return 0


cdef int _add_bin(KvBuf* b, object data) except -1:
    """bytes as bin 16 or bin 32, None as nil."""
    cdef uint8_t* p
    cdef uint64_t n
    if data is None:
        _room(b, 1)[0] = 0xC0
        b.len += 1
        return 0
    n = PyBytes_GET_SIZE(<bytes>data)
    p = _room(b, n + 5)
    if n <= 0xFFFF:
        p[0] = 0xC5
        kv_put_be16(p + 1, <uint16_t>n)
        memcpy(p + 3, PyBytes_AS_STRING(<bytes>data), n)
        b.len += n + 3
    else:
        p[0] = 0xC6
        kv_put_be32(p + 1, <uint32_t>n)
        memcpy(p + 5, PyBytes_AS_STRING(<bytes>data), n)
        b.len += n + 5
    return 0


cdef inline int _check_key(const Limits* lim, bytes key) except -1:
    cdef Py_ssize_t n = PyBytes_GET_SIZE(key)
    if n == 0:
        raise EmptyKeyError()
    if n > lim.max_key_bytes:
        raise KeyTooLargeError(
            f"kvcore: key is too large: {n} bytes, at most {lim.max_key_bytes}")
    return 0


cdef int _check_end(object end) except -1:
    if end is not None and len(<bytes>end) > KV_KEY_MAX_BYTES:
        raise KeyTooLargeError(f"kvcore: range end is too large: {len(<bytes>end)} bytes")
    return 0


cdef int check_request(const KvBuf* b, const Limits* lim) except -1:
    if b.len > lim.max_request_bytes:
        raise RequestTooLargeError()
    return 0


cdef int encode_put(KvBuf* b, const Limits* lim, bytes key, bytes value, int64_t lease,
                    int64_t flags) except -1:
    cdef uint64_t klen = PyBytes_GET_SIZE(key)
    cdef uint64_t vlen = PyBytes_GET_SIZE(value)
    cdef uint8_t* p
    cdef uint8_t* cell
    _check_key(lim, key)
    if klen + vlen > lim.max_request_bytes:      # before any copy of it is made
        raise RequestTooLargeError()
    if flags & FLAG_IGNORE_VALUE and vlen:
        raise ValueProvidedError()
    if flags & FLAG_IGNORE_LEASE and lease:
        raise LeaseProvidedError()
    p = _room(b, 3 + 9 + 13 + klen + vlen)
    cell = p
    p[0] = 0x96
    p[1] = CMD_PUT
    p[2] = <uint8_t>flags
    p = _put_int(p + 3, lease)
    b.len += (p - cell) + 13 + klen + vlen
    cell = p
    p[5] = 0xC5
    kv_put_be16(p + 6, <uint16_t>klen)
    memcpy(p + 8, PyBytes_AS_STRING(key), klen)
    p += 8 + klen
    p[0] = 0xC6
    kv_put_be32(p + 1, <uint32_t>vlen)
    memcpy(p + 5, PyBytes_AS_STRING(value), vlen)
    cell[0] = 0xCE
    kv_put_be32(cell + 1, kv_crc32c(0, cell + 5, 8 + klen + vlen))
    return 0


cdef int encode_delete(KvBuf* b, const Limits* lim, bytes key, object end, int64_t flags) except -1:
    _check_key(lim, key)
    _check_end(end)
    _add_array(b, 4)
    _add_int(b, CMD_DELETE)
    _add_int(b, flags)
    _add_bin(b, key)
    return _add_bin(b, end)


cdef int encode_compact(KvBuf* b, int64_t revision) except -1:
    _add_array(b, 2)
    _add_int(b, CMD_COMPACT)
    return _add_int(b, revision)


cdef int _encode_range(KvBuf* b, const Limits* lim, Range op) except -1:
    _check_key(lim, op.key)
    _check_end(op.end)
    _add_array(b, 12)
    _add_int(b, CMD_RANGE)
    _add_int(b, op.spec.flags)
    _add_bin(b, op.key)
    _add_bin(b, op.end)
    _add_int(b, op.spec.limit)
    _add_int(b, op.spec.revision)
    _add_int(b, op.spec.order)
    _add_int(b, op.spec.target)
    _add_int(b, op.spec.min_mod)
    _add_int(b, op.spec.max_mod)
    _add_int(b, op.spec.min_create)
    return _add_int(b, op.spec.max_create)


cdef int _encode_compare(KvBuf* b, const Limits* lim, Compare c) except -1:
    _check_key(lim, c.key)
    _check_end(c.end)
    if c.result < 0:
        raise InvalidArgument("kvcore: a compare needs an operator: Compare.version(key) == 1")
    _add_array(b, 5)
    _add_int(b, c.target)
    _add_int(b, c.result)
    if c.target == CMP_VALUE:
        _add_bin(b, c.operand)
    else:
        _add_int(b, c.operand)
    _add_bin(b, c.key)
    return _add_bin(b, c.end)


cdef int _encode_ops(KvBuf* b, const Limits* lim, object ops, int64_t budget,
                     bint* read_only) except -1:
    _add_array(b, len(ops))
    for op in ops:
        if isinstance(op, Txn):
            read_only[0] = False     # as in etcd, a nested transaction counts as a write
            encode_txn(b, lim, (<Txn>op).compare, (<Txn>op).success, (<Txn>op).failure, budget,
                       read_only)
        elif isinstance(op, Compact):
            raise TypeError("a transaction cannot hold a Compact")
        else:
            encode_op(b, lim, op, read_only)
    return 0


cdef int encode_txn(KvBuf* b, const Limits* lim, object compare, object success, object failure,
                    int64_t budget, bint* read_only) except -1:
    cdef int64_t ops = max(len(compare), len(success), len(failure))
    if ops > budget:
        raise TooManyOpsError()
    _add_array(b, 4)
    _add_int(b, CMD_TXN)
    _add_array(b, len(compare))
    for c in compare:
        if not isinstance(c, Compare):
            raise TypeError(f"compare takes Compare objects, not {type(c).__name__}")
        _encode_compare(b, lim, <Compare>c)
    _encode_ops(b, lim, success, budget - ops, read_only)
    return _encode_ops(b, lim, failure, budget - ops, read_only)


cdef int encode_op(KvBuf* b, const Limits* lim, object op, bint* read_only) except -1:
    cdef Put put
    if isinstance(op, Put):
        read_only[0] = False
        put = <Put>op
        return encode_put(b, lim, put.key, put.value, put.lease, put.flags)
    if isinstance(op, Range):
        return _encode_range(b, lim, <Range>op)
    if isinstance(op, Delete):
        read_only[0] = False
        return encode_delete(b, lim, (<Delete>op).key, (<Delete>op).end, (<Delete>op).flags)
    if isinstance(op, Txn):
        encode_txn(b, lim, (<Txn>op).compare, (<Txn>op).success, (<Txn>op).failure,
                   lim.max_txn_ops, read_only)
        return check_txn((<Txn>op).success, (<Txn>op).failure)
    if isinstance(op, Compact):
        read_only[0] = False
        return encode_compact(b, (<Compact>op).revision)
    raise TypeError(f"not an operation: {type(op).__name__}")


# =================================================================================================
# Duplicate keys: etcd's interval check
# =================================================================================================

cdef bint _covered(list dels, bytes key):
    for start, end in dels:
        if end is None:
            if key == start:
                return True
        elif key >= start and (end == b"\0" or key < end):
            return True
    return False


cdef int _add_puts(set puts, list dels, set mine, set allowed) except -1:
    """`mine` joins `puts`; a key already there, unless allowed, or deleted, is a duplicate."""
    for key in mine:
        if (key in puts and key not in allowed) or _covered(dels, key):
            raise DuplicateKeyError()
    puts |= mine
    return 0


cdef tuple _intervals(object ops):
    """The keys put and the spans deleted by a branch; raises when one key would change twice."""
    cdef set puts = set()
    cdef list dels = []
    for op in ops:
        if isinstance(op, Delete):
            dels.append(((<Delete>op).key, (<Delete>op).end))
    for op in ops:
        if isinstance(op, Txn):
            then_puts, then_dels = _intervals((<Txn>op).success)
            else_puts, else_dels = _intervals((<Txn>op).failure)
            _add_puts(puts, dels, then_puts, set())
            _add_puts(puts, dels, else_puts, then_puts)      # only one of the branches runs
            dels += then_dels
            dels += else_dels
    for op in ops:
        if isinstance(op, Put):
            _add_puts(puts, dels, {(<Put>op).key}, set())
    return puts, dels


cdef int check_txn(object success, object failure) except -1:
    if len(success) > 1 or (len(success) == 1 and isinstance(success[0], Txn)):
        _intervals(success)
    if len(failure) > 1 or (len(failure) == 1 and isinstance(failure[0], Txn)):
        _intervals(failure)
    return 0


# =================================================================================================
# Operations
# =================================================================================================

cdef bytes _bytes(object what, str name):
    if type(what) is not bytes:
        if isinstance(what, str):
            raise TypeError(f"{name} must be bytes, not str: encode it, for instance "
                            f"{name}.encode()")
        raise TypeError(f"{name} must be bytes, not {type(what).__name__}")
    return <bytes>what


cdef int64_t as_int(object what) except? -1:
    return index(what)


def prefix_end(bytes prefix not None):
    """The end of the range of all keys that begin with `prefix`; b"\\0" when there is no bound.

    >>> prefix_end(b"/a/")
    b'/a0'
    >>> prefix_end(b"a\\xff")
    b'b'
    >>> prefix_end(b"\\xff")
    b'\\x00'
    """
    cdef bytes cut = prefix.rstrip(b"\xff")
    if not cut:
        return b"\0"
    return cut[:len(cut) - 1] + bytes((cut[len(cut) - 1] + 1,))


cdef tuple make_span(object start, object end, object prefix, bint all_when_empty):
    """(key, end) as the wire has them, from start, end and prefix as people write them."""
    if prefix is not None:
        if start is not None or end is not None:
            raise TypeError("give either a prefix or start and end, not both")
        _bytes(prefix, "prefix")
        return (prefix, prefix_end(prefix)) if prefix else (b"\0", b"\0")
    if start is None:
        if end is not None:
            raise TypeError("end without start; from the first key on is start=b'\\0'")
        if not all_when_empty:
            raise EmptyKeyError()
        return (b"\0", b"\0")
    _bytes(start, "key")
    if end is None or (_bytes(end, "end") == b""):
        return (start, None)
    return (start, end)


cdef dict _TARGETS = {"key": TARGET_KEY, "version": TARGET_VERSION,
                      "create_revision": TARGET_CREATE, "mod_revision": TARGET_MOD,
                      "value": TARGET_VALUE}


cdef tuple make_sort(object sort):
    """(order, target) from None, "mod_revision", "-mod_revision", ..."""
    if sort is None:
        return (ORDER_NONE, TARGET_KEY)
    if not isinstance(sort, str):
        raise TypeError(f"sort must be a str, not {type(sort).__name__}")
    target = _TARGETS.get(sort[1:] if sort.startswith("-") else sort)
    if target is None:
        raise InvalidSortError(f"etcdserver: invalid sort option: {sort!r}; one of "
                               f"{', '.join(_TARGETS)}, with '-' in front for descending")
    return (ORDER_DESCEND if sort.startswith("-") else ORDER_ASCEND, target)


@cython.final
@cython.freelist(64)
cdef class Put:
    """Give `key` a new value: an operation for txn() and submit().

    >>> Put(b"/a", b"1")
    Put(b'/a', b'1')
    """

    def __init__(self, key, value=b"", *, lease=0, bint prev=False,
                 bint ignore_value=False, bint ignore_lease=False):
        self.key = _bytes(key, "key")
        self.value = _bytes(value, "value")
        self.lease = as_int(lease)
        self.flags = ((FLAG_PREV if prev else 0) | (FLAG_IGNORE_VALUE if ignore_value else 0)
                      | (FLAG_IGNORE_LEASE if ignore_lease else 0))

    def __repr__(self):
        return f"Put({self.key!r}, {self.value!r})"


@cython.final
cdef class Delete:
    """Delete one key, [key, end), or a prefix.

    >>> Delete(prefix=b"/a/")
    Delete(b'/a/', b'/a0')
    """

    def __init__(self, key=None, end=None, *, prefix=None, bint prev=False):
        self.key, self.end = make_span(key, end, prefix, False)
        self.flags = FLAG_PREV if prev else 0

    def __repr__(self):
        return f"Delete({self.key!r}, {self.end!r})" if self.end else f"Delete({self.key!r})"


cdef class Range:
    """Read one key, [start, end), a prefix, or everything; options as Store.range.

    >>> Range(prefix=b"/a/", limit=10)
    Range(b'/a/', b'/a0')
    """

    def __init__(self, start=None, end=None, *, prefix=None, limit=0, revision=None,
                 bint keys_only=False, bint count_only=False, sort=None,
                 min_mod_revision=0, max_mod_revision=0,
                 min_create_revision=0, max_create_revision=0):
        self.key, self.end = make_span(start, end, prefix, True)
        self.spec.flags = ((FLAG_KEYS_ONLY if keys_only else 0)
                           | (FLAG_COUNT_ONLY if count_only else 0))
        self.spec.limit = as_int(limit)
        self.spec.revision = 0 if revision is None else as_int(revision)
        self.spec.order, self.spec.target = make_sort(sort)
        self.spec.min_mod = as_int(min_mod_revision)
        self.spec.max_mod = as_int(max_mod_revision)
        self.spec.min_create = as_int(min_create_revision)
        self.spec.max_create = as_int(max_create_revision)

    def __repr__(self):
        return f"{type(self).__name__}({self.key!r}" + (f", {self.end!r})" if self.end else ")")


@cython.final
cdef class Get(Range):
    """Read one key; answered with a KeyValue or None."""

    def __init__(self, key, revision=None):
        self.key = _bytes(key, "key")
        self.end = None
        self.spec.flags = FLAG_SINGLE
        self.spec.revision = 0 if revision is None else as_int(revision)


@cython.final
cdef class Compact:
    """Forget what only revisions before `revision` show (submit only)."""

    def __init__(self, revision):
        self.revision = as_int(revision)

    def __repr__(self):
        return f"Compact({self.revision})"


cdef dict _COMPARED = {CMP_VERSION: "version", CMP_CREATE: "create_revision",
                       CMP_MOD: "mod_revision", CMP_VALUE: "value", CMP_LEASE: "lease"}
cdef dict _OPERATORS = {CMP_EQUAL: "==", CMP_GREATER: ">", CMP_LESS: "<", CMP_NOT_EQUAL: "!="}


@cython.final
cdef class Compare:
    """A guard of a transaction, made by naming a property and an operator.

    With `end` (or `prefix`) every live key of the range must satisfy it.  A missing key counts as
    all zeros; a compare of its value is false whatever the operator, as in etcd.

    >>> Compare.mod_revision(b"/a") == 3
    Compare.mod_revision(b'/a') == 3
    >>> Compare.value(b"/a") != b"1"
    Compare.value(b'/a') != b'1'
    """

    def __init__(self):
        raise TypeError("make one by Compare.value(key), .version, .create_revision, "
                        ".mod_revision or .lease, and an operator")

    @staticmethod
    def value(key=None, end=None, *, prefix=None):
        """The value, compared with bytes."""
        return _compare(CMP_VALUE, key, end, prefix)

    @staticmethod
    def version(key=None, end=None, *, prefix=None):
        """The version: 0 when the key is missing."""
        return _compare(CMP_VERSION, key, end, prefix)

    @staticmethod
    def create_revision(key=None, end=None, *, prefix=None):
        """The revision of the key's creation: 0 when it is missing."""
        return _compare(CMP_CREATE, key, end, prefix)

    @staticmethod
    def mod_revision(key=None, end=None, *, prefix=None):
        """The revision of the key's last change: 0 when it is missing."""
        return _compare(CMP_MOD, key, end, prefix)

    @staticmethod
    def lease(key=None, end=None, *, prefix=None):
        """The lease's id: 0 when there is none, or no key."""
        return _compare(CMP_LEASE, key, end, prefix)

    def __richcmp__(self, other, int op):
        if op == 2:
            return _compared(self, CMP_EQUAL, other)
        if op == 3:
            return _compared(self, CMP_NOT_EQUAL, other)
        if op == 0:
            return _compared(self, CMP_LESS, other)
        if op == 4:
            return _compared(self, CMP_GREATER, other)
        raise TypeError("compares know ==, !=, < and >")

    __hash__ = None

    def __bool__(self):
        raise TypeError("a Compare is sent to the store, it has no truth of its own")

    def __repr__(self):
        span = f"{self.key!r}, {self.end!r}" if self.end else repr(self.key)
        text = f"Compare.{_COMPARED[self.target]}({span})"
        if self.result < 0:
            return text
        return f"{text} {_OPERATORS[self.result]} {self.operand!r}"


cdef Compare _compare(int64_t target, object key, object end, object prefix):
    cdef Compare c = Compare.__new__(Compare)
    c.key, c.end = make_span(key, end, prefix, False)
    c.target = target
    c.result = -1
    return c


cdef Compare _compared(Compare c, int64_t result, object operand):
    cdef Compare made = Compare.__new__(Compare)
    if c.target == CMP_VALUE:
        _bytes(operand, "value")
    elif not isinstance(operand, int) or isinstance(operand, bool):
        raise TypeError(f"compared with an int, not {type(operand).__name__}")
    made.key = c.key
    made.end = c.end
    made.target = c.target
    made.result = result
    made.operand = operand
    return made


@cython.final
cdef class Txn:
    """If all compares hold, the success operations, else the failure ones; all in one revision."""

    def __init__(self, compare=(), success=(), failure=()):
        self.compare = list(compare)
        self.success = list(success)
        self.failure = list(failure)

    def __repr__(self):
        return f"Txn({self.compare!r}, {self.success!r}, {self.failure!r})"
