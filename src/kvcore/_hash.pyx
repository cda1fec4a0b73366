# SPDX-License-Identifier: Apache-2.0
"""HashKV: CRC-32C over every change in order of (revision, sub), equal to etcd's for equal
histories.

    "key" | 8 B main _ 8 B sub [t] | protobuf KeyValue | ... next change ...

Of the changes at or below the compact revision only those count that are still the live version of
their key at the hashed revision, so the value is the same before, during and after a sweep.
(etcd leaves that filter out when no key is alive at all; kvcore does not.)

Cost: all versions put in order, one read of every value.  Thread safety: reads an immutable view.
May not know: the engine.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcmp, memset

from kvcore._btree cimport BtView, bt_dump
from kvcore._native cimport (KV_NOMEM, KV_OK, KvSlice, KvVersion, kv_crc32c, kv_put_be64)
from kvcore._rows cimport KvRows, rows_free, rows_init, rows_key
from kvcore._wal cimport Wal, wal_value


cdef enum:
    HASH_STEP = 16384            # changes of a step


cdef int _by_revision(const void* a, const void* b) noexcept nogil:
    cdef const KvVersion* x = &(<const HashChange*>a).v
    cdef const KvVersion* y = &(<const HashChange*>b).v
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


cdef bint _sort_by_counting(Hashing* h) noexcept nogil:
    """Revisions stand close together, but where much was compacted: each can be given its place.

    Faster than comparing; False: they do not, or there is no memory for it."""
    cdef int64_t low = h.changes[0].v.mod, high = low
    cdef uint64_t i, at
    cdef uint64_t* ends
    cdef HashChange* placed
    for i in range(h.n):
        low = min(low, h.changes[i].v.mod)
        high = max(high, h.changes[i].v.mod)
    if <uint64_t>(high - low) >= 4 * h.n:
        return False
    ends = <uint64_t*>calloc(<size_t>(high - low) + 2, sizeof(uint64_t))
    placed = <HashChange*>malloc(h.n * sizeof(HashChange))
    if ends == NULL or placed == NULL:
        free(ends)
        free(placed)
        return False
    for i in range(h.n):
        ends[h.changes[i].v.mod - low + 1] += 1
    for i in range(<uint64_t>(high - low) + 1):
        ends[i + 1] += ends[i]
    for i in range(h.n):
        at = h.changes[i].v.mod - low
        placed[ends[at]] = h.changes[i]
        ends[at] += 1
    at = 0
    for i in range(<uint64_t>(high - low) + 1):      # those of one revision, by sub
        if ends[i] - at > 1:
            qsort(placed + at, ends[i] - at, sizeof(HashChange), &_by_revision)
        at = ends[i]
    free(ends)
    free(h.changes)
    h.changes = placed
    return True


cdef int hash_begin(Hashing* h, const BtView* view, int64_t revision,
                    int64_t compact_revision) noexcept nogil:
    cdef KvSlice after
    cdef bint more = False
    cdef uint64_t i
    cdef int rc
    memset(h, 0, sizeof(Hashing))
    after.ptr = NULL
    after.len = 0
    rows_init(&h.rows)
    h.crc = kv_crc32c(0, b"key", 3)
    rc = bt_dump(view, after, compact_revision, <uint64_t>1 << 62, &h.rows, &more)
    if rc != KV_OK:
        return rc
    h.changes = <HashChange*>realloc(NULL, (h.rows.n + 1) * sizeof(HashChange))
    if h.changes == NULL:
        return KV_NOMEM
    for i in range(h.rows.n):
        if _counts(&h.rows, i, revision, compact_revision):
            h.changes[h.n].v = h.rows.rows[i].v
            h.changes[h.n].row = i
            h.n += 1
    if h.n and not _sort_by_counting(h):
        qsort(h.changes, h.n, sizeof(HashChange), &_by_revision)
    return KV_OK


cdef int hash_step(Hashing* h, const Wal* wal) noexcept nogil:
    cdef uint64_t end = min(h.n, h.at + HASH_STEP)
    cdef KvSlice key, value
    cdef void* owned
    cdef KvVersion* v
    cdef int rc
    while h.at < end:
        v = &h.changes[h.at].v
        key = rows_key(&h.rows, h.changes[h.at].row)
        owned = NULL
        value.ptr = NULL
        value.len = 0
        if v.version:
            rc = wal_value(wal, v.pos, <uint32_t>key.len, v.len, &value, &owned)
            if rc != KV_OK:
                return rc
        h.crc = _hash_change(h.crc, v, key, value)
        free(owned)
        h.at += 1
    return KV_OK


cdef void hash_end(Hashing* h) noexcept nogil:
    free(h.changes)
    h.changes = NULL
    rows_free(&h.rows)
