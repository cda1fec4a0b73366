# SPDX-License-Identifier: Apache-2.0
"""HashKV: CRC-32C over every change in order of (revision, sub), equal to etcd's for equal
histories.

    "key" | 8 B main _ 8 B sub [t] | protobuf KeyValue | ... next change ...

Of the changes at or below the compact revision only those count that are still the live version of
their key at the hashed revision, so the value is the same before, during and after a sweep.
(etcd leaves that filter out when no key is alive at all; kvcore does not.)

Cost: a sort of all versions and one read of every value.  Thread safety: reads an immutable view.
May not know: the engine.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memcmp

from kvcore._btree cimport BtView, bt_dump
from kvcore._native cimport (KV_NOMEM, KV_OK, KvSlice, KvVersion, kv_crc32c, kv_put_be64)
from kvcore._rows cimport KvRows, rows_free, rows_init, rows_key
from kvcore._wal cimport Wal, wal_value


cdef struct Change:
    KvVersion v
    uint64_t row


cdef int _by_revision(const void* a, const void* b) noexcept nogil:
    cdef const KvVersion* x = &(<const Change*>a).v
    cdef const KvVersion* y = &(<const Change*>b).v
    if x.mod != y.mod:
        return -1 if x.mod < y.mod else 1
    return 0 if x.sub == y.sub else (-1 if x.sub < y.sub else 1)


cdef bint _counts(const KvRows* rows, uint64_t i, int64_t revision,
                  int64_t compacted) noexcept nogil:
    """Whether version i (versions of a key stand together, oldest first) is part of the hash."""
    cdef const KvVersion* v = &rows.rows[i].v
    cdef KvSlice key, following
    if v.mod > revision:
        return False
    if v.mod > compacted:
        return True
    if v.version == 0:
        return False
    if i + 1 == rows.n or rows.rows[i + 1].v.mod > revision:
        return True
    key = rows_key(rows, i)
    following = rows_key(rows, i + 1)
    return key.len != following.len or memcmp(key.ptr, following.ptr, key.len) != 0


cdef uint8_t* _varint(uint8_t* p, uint64_t v) noexcept nogil:
    while v >= 0x80:
        p[0] = <uint8_t>(v | 0x80)
        v >>= 7
        p += 1
    p[0] = <uint8_t>v
    return p + 1


cdef uint8_t* _field(uint8_t* p, uint8_t number, int64_t v) noexcept nogil:
    """An int64 field; zero is left out."""
    if v == 0:
        return p
    p[0] = <uint8_t>(number << 3)
    return _varint(p + 1, <uint64_t>v)


cdef uint32_t _hash_change(uint32_t crc, const KvVersion* v, KvSlice key,
                           KvSlice value) noexcept nogil:
    """One row: the revision key, then the marshalled KeyValue."""
    cdef uint8_t head[96]
    cdef uint8_t* p = head
    kv_put_be64(p, <uint64_t>v.mod)
    p[8] = b"_"
    kv_put_be64(p + 9, v.sub)
    p += 17
    if v.version == 0:
        p[0] = b"t"
        p += 1
    p[0] = 1 << 3 | 2
    p = _varint(p + 1, key.len)
    crc = kv_crc32c(crc, head, p - head)
    crc = kv_crc32c(crc, key.ptr, key.len)
    if v.version == 0:
        return crc
    p = _field(head, 2, v.create)
    p = _field(p, 3, v.mod)
    p = _field(p, 4, v.version)
    if value.len:
        p[0] = 5 << 3 | 2
        p = _varint(p + 1, value.len)
    crc = kv_crc32c(crc, head, p - head)
    crc = kv_crc32c(crc, value.ptr, value.len)
    p = _field(head, 6, v.lease)
    return kv_crc32c(crc, head, p - head)


cdef int _hash_rows(const KvRows* rows, Change* changes, uint64_t n, const Wal* wal,
                    uint32_t* out) noexcept nogil:
    cdef uint32_t crc = kv_crc32c(0, b"key", 3)
    cdef KvSlice key, value
    cdef void* owned
    cdef uint64_t i
    cdef int rc
    if n:
        qsort(changes, n, sizeof(Change), &_by_revision)
    for i in range(n):
        key = rows_key(rows, changes[i].row)
        owned = NULL
        value.ptr = NULL
        value.len = 0
        if changes[i].v.version:
            rc = wal_value(wal, changes[i].v.pos, <uint32_t>key.len, changes[i].v.len, &value,
                           &owned)
            if rc != KV_OK:
                return rc
        crc = _hash_change(crc, &changes[i].v, key, value)
        free(owned)
    out[0] = crc
    return KV_OK


cdef int hash_view(const BtView* view, const Wal* wal, int64_t revision, int64_t compact_revision,
                   uint32_t* out) noexcept nogil:
    cdef KvRows rows
    cdef KvSlice after
    cdef Change* changes = NULL
    cdef uint64_t n = 0, i
    cdef bint more = False
    cdef int rc
    after.ptr = NULL
    after.len = 0
    rows_init(&rows)
    rc = bt_dump(view, after, compact_revision, <uint64_t>1 << 62, &rows, &more)
    if rc == KV_OK:
        changes = <Change*>realloc(NULL, (rows.n + 1) * sizeof(Change))
        rc = KV_OK if changes != NULL else KV_NOMEM
    if rc == KV_OK:
        for i in range(rows.n):
            if _counts(&rows, i, revision, compact_revision):
                changes[n].v = rows.rows[i].v
                changes[n].row = i
                n += 1
        rc = _hash_rows(&rows, changes, n, wal, out)
    free(changes)
    rows_free(&rows)
    return rc
