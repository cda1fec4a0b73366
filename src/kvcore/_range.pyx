# SPDX-License-Identifier: Apache-2.0
"""Ranges: one read of a span at a revision, in etcd's order: walk, filter, sort, cut, count.

    RangeCmd + KvReader (a view and its revisions) ──► rows and one answer in a KvResult

The same function serves a get under the lock, a page on a snapshot and a range inside a
transaction.  Thread safety: reads a view; whoever gives it says what protects it.
May not know: how the state changes, locks, Python.  Behaviour: etcd's (etcdserver/txn, Range).
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from kvcore._btree cimport BtFilter, bt_count, bt_find_at, bt_scan
from kvcore._command cimport (CMD_RANGE, FLAG_COUNT_ONLY, ORDER_DESCEND, ORDER_NONE, TARGET_CREATE,
                              TARGET_KEY, TARGET_MOD, TARGET_VALUE, TARGET_VERSION, RangeCmd,
                              span_bounds)
from kvcore._native cimport (KV_COMPACTED, KV_FUTURE_REV, KV_NOMEM, KV_NOTFOUND, KV_OK, KvRow,
                             KvSlice, KvVersion)
from kvcore._result cimport KvResp, KvResult, result_add
from kvcore._rows cimport KvRows, rows_grow, rows_push
from kvcore._wal cimport wal_value

cdef enum:
    KEY_BYTES_GUESS = 64         # arena room a row, made before a walk of known length


cdef struct SortKey:
    int64_t number
    KvSlice value
    void* owned
    uint64_t index


cdef int compare_slices(KvSlice a, KvSlice b) noexcept nogil:
    cdef size_t n = a.len if a.len < b.len else b.len
    cdef int c = memcmp(a.ptr, b.ptr, n) if n else 0
    if c:
        return c
    return 0 if a.len == b.len else (-1 if a.len < b.len else 1)


cdef inline int _compare_sort(const SortKey* a, const SortKey* b, int64_t target) noexcept nogil:
    if target == TARGET_VALUE:
        return compare_slices(a.value, b.value)
    return 0 if a.number == b.number else (-1 if a.number < b.number else 1)


cdef void _merge_sort(SortKey* a, SortKey* tmp, uint64_t n, int64_t target,
                      int sign) noexcept nogil:
    """Stable; sign -1 sorts descending."""
    cdef uint64_t half = n // 2, i = 0, j = half, k = 0
    if n < 2:
        return
    _merge_sort(a, tmp, half, target, sign)
    _merge_sort(a + half, tmp, n - half, target, sign)
    while i < half and j < n:
        if sign * _compare_sort(&a[j], &a[i], target) < 0:
            tmp[k] = a[j]
            j += 1
        else:
            tmp[k] = a[i]
            i += 1
        k += 1
    while i < half:
        tmp[k] = a[i]
        i += 1
        k += 1
    memcpy(a, tmp, k * sizeof(SortKey))


cdef void _reverse(KvRow* rows, uint64_t n) noexcept nogil:
    cdef uint64_t i
    cdef KvRow tmp
    for i in range(n // 2):
        tmp = rows[i]
        rows[i] = rows[n - 1 - i]
        rows[n - 1 - i] = tmp


cdef int _fill_keys(const KvReader* r, const RangeCmd* q, KvRows* rows, uint64_t first,
                    SortKey* keys, uint64_t n) noexcept nogil:
    cdef uint64_t i
    cdef KvVersion* v
    cdef int rc
    for i in range(n):
        v = &rows.rows[first + i].v
        keys[i].index = i
        keys[i].owned = NULL
        if q.target == TARGET_VERSION:
            keys[i].number = v.version
        elif q.target == TARGET_CREATE:
            keys[i].number = v.create
        elif q.target == TARGET_MOD:
            keys[i].number = v.mod
        else:
            rc = wal_value(r.wal, v.pos, rows.rows[first + i].key_len, v.len, &keys[i].value,
                           &keys[i].owned)
            if rc != KV_OK:
                return rc
    return KV_OK


cdef int _sort(const KvReader* r, const RangeCmd* q, KvRows* rows, uint64_t first) noexcept nogil:
    """Sorts the rows from `first` on by the target asked for."""
    cdef uint64_t n = rows.n - first, i
    cdef SortKey* keys
    cdef KvRow* sorted_rows
    cdef int rc = KV_NOMEM
    if q.target == TARGET_KEY:
        if q.order == ORDER_DESCEND:
            _reverse(rows.rows + first, n)
        return KV_OK
    if n < 2:
        return KV_OK
    keys = <SortKey*>malloc(2 * n * sizeof(SortKey))
    sorted_rows = <KvRow*>malloc(n * sizeof(KvRow))
    if keys != NULL and sorted_rows != NULL:
        memset(keys, 0, 2 * n * sizeof(SortKey))
        rc = _fill_keys(r, q, rows, first, keys, n)
        if rc == KV_OK:
            _merge_sort(keys, keys + n, n, q.target, -1 if q.order == ORDER_DESCEND else 1)
            for i in range(n):
                sorted_rows[i] = rows.rows[first + keys[i].index]
            memcpy(rows.rows + first, sorted_rows, n * sizeof(KvRow))
        for i in range(n):
            free(keys[i].owned)
    free(keys)
    free(sorted_rows)
    return rc


cdef inline bint _passes(const RangeCmd* q, const KvVersion* v) noexcept nogil:
    return ((q.min_mod == 0 or v.mod >= q.min_mod) and (q.max_mod == 0 or v.mod <= q.max_mod)
            and (q.min_create == 0 or v.create >= q.min_create)
            and (q.max_create == 0 or v.create <= q.max_create))


cdef int _range_one(const KvReader* r, const RangeCmd* q, KvSlice key, int64_t at,
                    KvResult* out, KvResp* a) noexcept nogil:
    cdef KvVersion v
    cdef int rc = bt_find_at(&r.view, key, at, &v)
    if rc == KV_NOTFOUND:
        return KV_OK
    if rc != KV_OK:
        return rc
    a.count = 1
    if q.flags & FLAG_COUNT_ONLY or not _passes(q, &v):
        return KV_OK
    return rows_push(&out.rows, &v, key)


cdef int _range_span(const KvReader* r, const RangeCmd* q, KvSlice start, KvSlice end, int64_t at,
                     KvResult* out, KvResp* a) noexcept nogil:
    """etcd's order: fetch in key order, filter, sort, cut."""
    cdef bint counted = at == 0              # the inner nodes know it
    cdef bint filtered = q.min_mod != 0 or q.max_mod != 0 or q.min_create != 0 or q.max_create != 0
    cdef bint sorted_whole = (q.order != ORDER_NONE and
                              not (q.target == TARGET_KEY and q.order != ORDER_DESCEND))
    cdef BtFilter f
    cdef uint64_t seen = 0, fetch = 0, got
    cdef int rc
    if q.flags & FLAG_COUNT_ONLY:
        if counted:
            a.count = bt_count(&r.view, start, end)
            return KV_OK
        rc = bt_scan(&r.view, start, end, at, NULL, 0, True, NULL, &seen)
        a.count = seen
        return rc
    f.min_mod = q.min_mod
    f.max_mod = q.max_mod
    f.min_create = q.min_create
    f.max_create = q.max_create
    if q.limit > 0 and not sorted_whole:
        fetch = <uint64_t>q.limit + 1
    elif counted and not filtered:
        a.count = bt_count(&r.view, start, end)
        rc = rows_grow(&out.rows, a.count, <uint64_t>a.count * KEY_BYTES_GUESS)
        if rc != KV_OK:
            return rc
    rc = bt_scan(&r.view, start, end, at, &f if filtered else NULL, fetch, not counted, &out.rows,
                 &seen)
    if rc != KV_OK:
        return rc
    a.count = bt_count(&r.view, start, end) if counted and fetch else seen
    if q.order != ORDER_NONE or q.target != TARGET_KEY:
        rc = _sort(r, q, &out.rows, a.row_start)
        if rc != KV_OK:
            return rc
    got = out.rows.n - a.row_start
    if q.limit > 0 and got > <uint64_t>q.limit:
        a.more = True
        out.rows.n = a.row_start + q.limit
    return KV_OK


cdef int answer_range(const KvReader* r, const RangeCmd* q, KvResult* out) noexcept nogil:
    cdef KvSlice start, end
    cdef int64_t at = q.revision if q.revision > 0 else 0
    cdef int64_t i
    cdef KvResp a
    cdef int rc
    if at > r.shown_revision:
        return KV_FUTURE_REV
    if at and at < r.compact_revision:
        out.detail = r.compact_revision
        return KV_COMPACTED
    if at >= r.revision:
        at = 0
    i = result_add(out, CMD_RANGE, <uint8_t>q.flags)
    if i < 0:
        return KV_NOMEM
    a = out.resps[i]
    a.revision = r.shown_revision
    if span_bounds(&q.span, &start, &end):
        rc = _range_one(r, q, start, at, out, &a)
    else:
        rc = _range_span(r, q, start, end, at, out, &a)
    a.row_n = out.rows.n - a.row_start
    out.resps[i] = a
    return rc
