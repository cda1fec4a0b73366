# SPDX-License-Identifier: Apache-2.0
"""Rows of a result: one 56-byte record per key and one arena that holds the keys.

    rows:  | KvRow 0 | KvRow 1 | ...           arena: | key 0 | key 1 | ...
               └ key_off, key_len ───────────────────────┘

The owner of a KvRows frees it.  Pointers into it are valid until the next rows_reserve.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kvcore._native cimport KvRow, KvSlice, KvVersion


cdef struct KvRows:
    KvRow* rows
    uint64_t n
    uint64_t cap
    uint8_t* arena
    uint64_t used
    uint64_t arena_cap


cdef void rows_init(KvRows* r) noexcept nogil
cdef void rows_free(KvRows* r) noexcept nogil
cdef void rows_clear(KvRows* r) noexcept nogil          # keeps the memory
# Makes room for one more row with a key of key_len bytes; KV_OK or KV_NOMEM.
cdef int rows_grow(KvRows* r, uint64_t more_rows, uint64_t more_key_bytes) noexcept nogil
# Appends a row and returns where its key_len key bytes go; NULL when memory is refused.
cdef inline uint8_t* rows_reserve(KvRows* r, const KvVersion* v, uint16_t key_len) noexcept nogil:
    cdef KvRow* row
    cdef uint8_t* at
    if r.n == r.cap or r.used + key_len > r.arena_cap:
        if rows_grow(r, 1, key_len) != 0:
            return NULL
    row = &r.rows[r.n]
    row.v = v[0]
    kv_row_set_key(row, r.used, key_len)
    at = r.arena + r.used
    r.n += 1
    r.used += key_len
    return at
cdef int rows_push(KvRows* r, const KvVersion* v, KvSlice key) noexcept nogil
cdef inline KvSlice rows_key(const KvRows* r, uint64_t i) noexcept nogil:
    cdef KvSlice s
    s.ptr = r.arena + kv_row_key_off(&r.rows[i])
    s.len = r.rows[i].key_len
    return s


# A Python object that owns a KvRows and lends NumPy views of it.
cdef class Rows:
    cdef KvRows c
    cdef bytes key_at(self, uint64_t i)


cdef extern from "_native.h" nogil:
    uint64_t kv_row_key_off(const KvRow* row) noexcept
    void kv_row_set_key(KvRow* row, uint64_t off, uint16_t length) noexcept
