# SPDX-License-Identifier: Apache-2.0
"""Commands: the msgpack form of what goes into the log, and the bytes' way back.

    PUT  96 01 00 00 | ce crc c5 0002 /a c6 00000001 1
         kind flags lease └────────── cell ──────────┘

Invariants: every encoded command decodes to itself; a decoder never reads behind its end, whatever
the bytes (`bad` becomes true and stays).  Thread safety: buffers belong to their caller.
May not know: operations as Python objects (_operation), index, log, engine.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from kvcore._native cimport (KV_KEY_MAX_BYTES, KV_NOMEM, KV_OK, KvSlice, kv_be16, kv_be32, kv_be64,
                             kv_crc32c, kv_put_be16, kv_put_be32, kv_put_be64)

from kvcore.errors import (EmptyKeyError, KeyTooLargeError, LeaseProvidedError, OutOfMemoryError,
                           RequestTooLargeError, ValueProvidedError)

cdef enum:
    CELL_BYTES = 13              # of a cell without key and value
    PUT_FLAGS = FLAG_PREV | FLAG_IGNORE_VALUE | FLAG_IGNORE_LEASE
    RANGE_FLAGS = FLAG_KEYS_ONLY | FLAG_COUNT_ONLY | FLAG_SINGLE

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


cdef int64_t mp_command(Cursor* c) noexcept nogil:
    cdef uint32_t n = mp_array(c), wanted = 0
    cdef int64_t kind = mp_int(c)
    if kind == CMD_PUT:
        wanted = 6
    elif kind == CMD_DELETE or kind == CMD_TXN:
        wanted = 4
    elif kind == CMD_RANGE:
        wanted = 12
    elif kind == CMD_LEASE_GRANT:
        wanted = 3
    elif kind == CMD_COMPACT or kind == CMD_LEASE_REVOKE or kind == CMD_ALARM:
        wanted = 2
    if n != wanted:
        c.bad = True
    return 0 if c.bad else kind


cdef void decode_put(Cursor* c, PutCmd* out) noexcept nogil:
    memset(out, 0, sizeof(PutCmd))
    out.flags = mp_int(c)
    out.lease = mp_int(c)
    out.cell = c.p
    # a cell has heads of its own: of other forms its position would lead to no value
    if not _need(c, CELL_BYTES) or c.p[0] != 0xCE or c.p[5] != 0xC5:
        c.bad = True
        return
    mp_int(c)
    out.key = mp_bin(c)
    if not _need(c, 1) or c.p[0] != 0xC6:
        c.bad = True
        return
    out.value = mp_bin(c)
    if c.bad or out.key.len == 0 or out.flags & ~PUT_FLAGS:
        c.bad = True


cdef void _decode_span(Cursor* c, SpanCmd* out) noexcept nogil:
    out.key = mp_bin(c)
    out.end = mp_bin(c)
    if out.key.ptr == NULL or out.key.len == 0:
        c.bad = True


cdef void decode_delete(Cursor* c, int64_t* flags, SpanCmd* out) noexcept nogil:
    flags[0] = mp_int(c)
    _decode_span(c, out)
    if flags[0] & ~<int64_t>FLAG_PREV:
        c.bad = True


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
    if (out.flags & ~RANGE_FLAGS or not ORDER_NONE <= out.order <= ORDER_DESCEND
            or not TARGET_KEY <= out.target <= TARGET_VALUE):
        c.bad = True


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
    if (not CMP_EQUAL <= out.result <= CMP_NOT_EQUAL or not CMP_VERSION <= out.target <= CMP_LEASE
            or (out.target == CMP_VALUE and out.value.ptr == NULL)):
        c.bad = True


cdef bint next_put(Cursor* c, PutCmd* out) noexcept nogil:
    """Commands and operations are arrays that begin with a number, lists of them arrays that do
    not."""
    cdef uint32_t n
    cdef int64_t kind
    while not c.bad and c.p < c.end:
        n = mp_array(c)
        if c.bad or n == 0 or c.p == c.end or (c.p[0] & 0xF0) == 0x90 or c.p[0] == 0xDC:
            continue
        kind = mp_int(c)
        if n == 6 and kind == CMD_PUT:
            decode_put(c, out)
            return not c.bad
        if n == 4 and kind == CMD_TXN:
            continue                         # its three lists follow
        while n > 1:
            mp_skip(c)
            n -= 1
    return False


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


cdef int add_int(KvBuf* b, int64_t v) except -1:
    cdef uint8_t* p = _room(b, 9)
    b.len += _put_int(p, v) - p
    return 0


cdef int add_array(KvBuf* b, uint64_t n) except -1:
    cdef uint8_t* p = _room(b, 3)
    if n < 16:
        p[0] = <uint8_t>(0x90 | n)
        b.len += 1
    else:
        p[0] = 0xDC
        kv_put_be16(p + 1, <uint16_t>n)
        b.len += 3
    return 0


cdef int add_bin(KvBuf* b, object data) except -1:
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


cdef int check_key(const Limits* lim, bytes key) except -1:
    cdef Py_ssize_t n = PyBytes_GET_SIZE(key)
    if n == 0:
        raise EmptyKeyError()
    if n > lim.max_key_bytes:
        raise KeyTooLargeError(
            f"kvcore: key is too large: {n} bytes, at most {lim.max_key_bytes}")
    return 0


cdef int check_end(object end) except -1:
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
    check_key(lim, key)
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
    check_key(lim, key)
    check_end(end)
    add_array(b, 4)
    add_int(b, CMD_DELETE)
    add_int(b, flags)
    add_bin(b, key)
    return add_bin(b, end)


cdef int _put_ints(KvBuf* b, uint8_t kind, int64_t argument) noexcept nogil:
    """A command of one argument."""
    cdef uint8_t* p = buf_room(b, 11)
    if p == NULL:
        return KV_NOMEM
    p[0] = 0x92
    p[1] = kind
    b.len += _put_int(p + 2, argument) - p
    return KV_OK


cdef int encode_compact(KvBuf* b, int64_t revision) noexcept nogil:
    return _put_ints(b, CMD_COMPACT, revision)


cdef int encode_alarm(KvBuf* b, int64_t alarms) noexcept nogil:
    return _put_ints(b, CMD_ALARM, alarms)


cdef int encode_lease_grant(KvBuf* b, int64_t lease, int64_t ttl) except -1:
    add_array(b, 3)
    add_int(b, CMD_LEASE_GRANT)
    add_int(b, lease)
    return add_int(b, ttl)


cdef int encode_lease_revoke(KvBuf* b, int64_t lease) noexcept nogil:
    return _put_ints(b, CMD_LEASE_REVOKE, lease)
