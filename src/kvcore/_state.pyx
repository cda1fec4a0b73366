# SPDX-License-Identifier: Apache-2.0
"""The deterministic state machine: what each command does to index and revisions, and what it
answers.

    log bytes - decode -> checks on the state before -> changes (main, sub) -> answers (optional)

A live commit and a replay run the same function over the same bytes; a replay only drops the
answers.  So everything that may fail at apply is decided by the state and the command alone.

Invariants
1. one-revision: a command that changes something takes exactly one revision, sub = 0, 1, 2, ... in
   order of execution; one that changes nothing takes none.
2. all-or-nothing: a transaction's compares and the checks of its whole chosen path come before its
   first change; behind them only memory or a broken disk can fail, and then the machine stops.
3. indexed: applied_index grows by one per command, failed ones included.

Thread safety: the caller holds the state's lock.  May not know: queue, sync, Python.
Behaviour is etcd's (mvcc/kvstore_txn.go, etcdserver/txn): compare on missing keys, order of
range processing, quirks included.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from kvcore._btree cimport (BtFilter, BtView, bt_compact, bt_count, bt_deinit, bt_delete, bt_find,
                            bt_find_at, bt_init, bt_put, bt_scan, bt_view)
from kvcore._command cimport (CMD_COMPACT, CMD_DELETE, CMD_PUT, CMD_RANGE, CMD_TXN, CMP_CREATE,
                              CMP_EQUAL, CMP_GREATER, CMP_LEASE, CMP_LESS, CMP_MOD, CMP_VALUE,
                              CMP_VERSION, FLAG_COUNT_ONLY, FLAG_IGNORE_LEASE, FLAG_IGNORE_VALUE,
                              FLAG_PREV, ORDER_DESCEND, ORDER_NONE, TARGET_CREATE, TARGET_KEY,
                              TARGET_MOD, TARGET_VALUE, TARGET_VERSION, CompareCmd, Cursor, KvBuf,
                              PutCmd, RangeCmd, SpanCmd, buf_free, buf_room, decode_compare,
                              decode_delete, decode_put, decode_range, mp_array, mp_int, mp_skip,
                              span_bounds)
from kvcore._native cimport (KV_BAD_COMMAND, KV_COMPACTED, KV_CORRUPT, KV_IO,
                             KV_FUTURE_REV, KV_KEY_NOT_FOUND,
                             KV_LEASE_NOT_FOUND, KV_NOMEM, KV_NOTFOUND, KV_OK, KvRow, KvSlice,
                             KvVersion, kv_plain_mem)
from kvcore._result cimport KvResp, KvResult, result_add
from kvcore._rows cimport KvRows, rows_clear, rows_free, rows_grow, rows_init, rows_key, rows_push
from kvcore._wal cimport Wal, wal_value

cdef enum:
    DELETE_CHUNK = 1024          # keys collected before they are deleted
    KEY_BYTES_GUESS = 64         # arena room a row, made before a walk of known length

# The change under way: its revision and the next sub.
cdef struct Change:
    int64_t rev
    uint32_t sub
    const uint8_t* base
    uint64_t pos


cdef int state_init(KvState* s, uint32_t order, const Wal* wal) noexcept nogil:
    memset(s, 0, sizeof(KvState))
    s.wal = wal
    s.revision = 1
    s.compact_revision = -1
    return bt_init(&s.tree, order, &kv_plain_mem)


cdef void state_deinit(KvState* s) noexcept nogil:
    bt_deinit(&s.tree)


cdef KvReader state_reader(const KvState* s) noexcept nogil:
    cdef KvReader r
    r.view = bt_view(&s.tree)
    r.wal = s.wal
    r.revision = s.revision
    r.shown_revision = s.revision
    r.compact_revision = s.compact_revision
    return r


cdef inline bint _lease_known(const KvState* s, int64_t lease) noexcept nogil:
    """The room for the lease table: until it is built, only "none" is known."""
    return lease == 0


cdef inline bint _is_soft(int status) noexcept nogil:
    """Statuses a command may end with while the state machine goes on.

    KV_CORRUPT: a compare met a damaged value, before any change; a replay meets it too. KV_IO is
    not among them: what could not be read now may be readable then."""
    return (status == KV_OK or status == KV_KEY_NOT_FOUND or status == KV_LEASE_NOT_FOUND
            or status == KV_COMPACTED or status == KV_FUTURE_REV
            or status == KV_CORRUPT)


# =================================================================================================
# Put and delete
# =================================================================================================

cdef int _check_put(KvState* s, const PutCmd* p) noexcept nogil:
    """What a put may fail with, judged on the state as it is."""
    cdef KvVersion cur
    cdef BtView view
    if not _lease_known(s, p.lease):
        return KV_LEASE_NOT_FOUND
    if p.flags & (FLAG_IGNORE_VALUE | FLAG_IGNORE_LEASE):
        view = bt_view(&s.tree)
        if bt_find(&view, p.key, &cur) != KV_OK or cur.version == 0:
            return KV_KEY_NOT_FOUND
    return KV_OK


cdef int _do_put(KvState* s, Change* ch, const PutCmd* p, KvResult* out) noexcept nogil:
    cdef KvVersion v, prev
    cdef BtView view
    cdef int64_t at
    cdef int rc
    v.mod = ch.rev
    v.sub = ch.sub
    v.create = ch.rev
    v.lease = p.lease
    v.pos = ch.pos + <uint64_t>(p.cell - ch.base)
    v.len = <uint32_t>p.value.len
    if p.flags & (FLAG_IGNORE_VALUE | FLAG_IGNORE_LEASE):
        view = bt_view(&s.tree)
        rc = bt_find(&view, p.key, &prev)
        if rc != KV_OK or prev.version == 0:
            return KV_KEY_NOT_FOUND
        if p.flags & FLAG_IGNORE_VALUE:
            v.pos = prev.pos                 # the value stays where it is, exactly once
            v.len = prev.len
        if p.flags & FLAG_IGNORE_LEASE:
            v.lease = prev.lease
    rc = bt_put(&s.tree, p.key, &v, &prev)
    if rc != KV_OK:
        return rc
    ch.sub += 1
    if out == NULL or out.brief:
        return KV_OK
    at = result_add(out, CMD_PUT, <uint8_t>p.flags)
    if at < 0:
        return KV_NOMEM
    out.resps[at].revision = ch.rev
    if p.flags & FLAG_PREV and prev.version:
        out.resps[at].row_n = 1
        return rows_push(&out.rows, &prev, p.key)
    return KV_OK


cdef int _delete_one(KvState* s, Change* ch, KvSlice key, bint keep_prev, KvResult* out,
                     int64_t* deleted) noexcept nogil:
    cdef KvVersion prev
    cdef int rc = bt_delete(&s.tree, key, ch.rev, ch.sub, &prev)
    if rc == KV_NOTFOUND:
        return KV_OK
    if rc != KV_OK:
        return rc
    ch.sub += 1
    deleted[0] += 1
    if keep_prev and out != NULL:
        return rows_push(&out.rows, &prev, key)
    return KV_OK


cdef int _delete_span(KvState* s, Change* ch, KvSlice start, KvSlice end, bint keep_prev,
                      KvResult* out, int64_t* deleted) noexcept nogil:
    """Deletes in key order, a chunk of collected keys at a time."""
    cdef KvRows found
    cdef BtView view
    cdef uint64_t seen, i
    cdef int rc = KV_OK
    rows_init(&found)
    while rc == KV_OK:
        rows_clear(&found)
        view = bt_view(&s.tree)              # what was deleted is not alive: start may stay
        rc = bt_scan(&view, start, end, 0, NULL, DELETE_CHUNK, False, &found, &seen)
        if rc != KV_OK or found.n == 0:
            break
        for i in range(found.n):
            rc = _delete_one(s, ch, rows_key(&found, i), keep_prev, out, deleted)
            if rc != KV_OK:
                break
    rows_free(&found)
    return rc


cdef int _do_delete(KvState* s, Change* ch, int64_t flags, const SpanCmd* span,
                    KvResult* out) noexcept nogil:
    cdef KvSlice start, end
    cdef int64_t at = 0, deleted = 0
    cdef int rc
    if out != NULL:
        at = result_add(out, CMD_DELETE, <uint8_t>flags)
        if at < 0:
            return KV_NOMEM
    if span_bounds(span, &start, &end):
        rc = _delete_one(s, ch, start, flags & FLAG_PREV != 0, out, &deleted)
    else:
        rc = _delete_span(s, ch, start, end, flags & FLAG_PREV != 0, out, &deleted)
    if out != NULL:
        out.resps[at].count = deleted
        out.resps[at].row_n = out.rows.n - out.resps[at].row_start
        out.resps[at].revision = ch.rev if ch.sub else ch.rev - 1
    return rc


# =================================================================================================
# Range
# =================================================================================================

cdef struct SortKey:
    int64_t number
    KvSlice value
    void* owned
    uint64_t index


cdef inline int _compare_slices(KvSlice a, KvSlice b) noexcept nogil:
    cdef size_t n = a.len if a.len < b.len else b.len
    cdef int c = memcmp(a.ptr, b.ptr, n) if n else 0
    if c:
        return c
    return 0 if a.len == b.len else (-1 if a.len < b.len else 1)


cdef inline int _compare_sort(const SortKey* a, const SortKey* b, int64_t target) noexcept nogil:
    if target == TARGET_VALUE:
        return _compare_slices(a.value, b.value)
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


cdef int state_range(const KvReader* r, const RangeCmd* q, KvResult* out) noexcept nogil:
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


cdef int _do_range(KvState* s, Change* ch, const RangeCmd* q, KvResult* out) noexcept nogil:
    """A range inside a transaction: it sees what the transaction wrote so far."""
    cdef KvReader r
    cdef int rc
    if out == NULL:
        return KV_OK                         # nobody listens on replay
    r = state_reader(s)
    if ch.sub:
        r.revision = ch.rev
        r.shown_revision = ch.rev
    rc = state_range(&r, q, out)
    if rc == KV_CORRUPT or rc == KV_IO:      # sorting by values one of which cannot be read:
        out.unreadable = rc                  # the answer fails, what was changed before stays
        return KV_OK
    return rc


# =================================================================================================
# Transactions: plan on the state before, then run
# =================================================================================================

cdef int _holds_for(KvState* s, const CompareCmd* c, KvSlice key, const KvVersion* v,
                    bint* holds) noexcept nogil:
    """v == NULL: the key is missing, all zeros; a compare of its value never holds."""
    cdef int64_t number = 0
    cdef KvSlice value
    cdef void* owned = NULL
    cdef int rc, order
    if c.target == CMP_VALUE:
        holds[0] = False
        if v == NULL:
            return KV_OK
        rc = wal_value(s.wal, v.pos, <uint32_t>key.len, v.len, &value, &owned)
        if rc != KV_OK:
            return rc
        order = _compare_slices(value, c.value)
        free(owned)
    else:
        if v != NULL:
            if c.target == CMP_VERSION:
                number = v.version
            elif c.target == CMP_CREATE:
                number = v.create
            elif c.target == CMP_MOD:
                number = v.mod
            elif c.target == CMP_LEASE:
                number = v.lease
        order = 0 if number == c.number else (-1 if number < c.number else 1)
    if c.result == CMP_EQUAL:
        holds[0] = order == 0
    elif c.result == CMP_GREATER:
        holds[0] = order > 0
    elif c.result == CMP_LESS:
        holds[0] = order < 0
    else:
        holds[0] = order != 0
    return KV_OK


cdef int _holds(KvState* s, const CompareCmd* c, bint* holds) noexcept nogil:
    cdef BtView view = bt_view(&s.tree)
    cdef KvSlice start, end
    cdef KvVersion v
    cdef KvRows rows
    cdef uint64_t seen, i
    cdef int rc
    if span_bounds(&c.span, &start, &end):
        rc = bt_find_at(&view, start, 0, &v)
        if rc != KV_OK and rc != KV_NOTFOUND:
            return rc
        return _holds_for(s, c, start, &v if rc == KV_OK else NULL, holds)
    rows_init(&rows)
    rc = bt_scan(&view, start, end, 0, NULL, 0, False, &rows, &seen)
    if rc == KV_OK and rows.n == 0:
        rc = _holds_for(s, c, start, NULL, holds)
    holds[0] = holds[0] if rows.n == 0 else True
    i = 0
    while rc == KV_OK and holds[0] and i < rows.n:
        rc = _holds_for(s, c, rows_key(&rows, i), &rows.rows[i].v, holds)
        i += 1
    rows_free(&rows)
    return rc


cdef int _check_range_revision(KvState* s, KvResult* out, int64_t revision) noexcept nogil:
    if revision > s.revision:
        return KV_FUTURE_REV
    if revision != 0 and revision < s.compact_revision:
        if out != NULL:
            out.detail = s.compact_revision
        return KV_COMPACTED
    return KV_OK


cdef int _plan_op(KvState* s, Cursor* c, KvBuf* verdicts, KvResult* out, int depth) noexcept nogil:
    """Checks one operation of a chosen branch on the state before the transaction."""
    cdef int64_t kind, flags
    cdef PutCmd put
    cdef RangeCmd q
    cdef SpanCmd span
    mp_array(c)
    kind = mp_int(c)
    if kind == CMD_PUT:
        decode_put(c, &put)
        return KV_BAD_COMMAND if c.bad else _check_put(s, &put)
    if kind == CMD_RANGE:
        decode_range(c, &q)
        return KV_BAD_COMMAND if c.bad else _check_range_revision(s, out, q.revision)
    if kind == CMD_DELETE:
        decode_delete(c, &flags, &span)
        return KV_BAD_COMMAND if c.bad else KV_OK
    if kind == CMD_TXN:
        return _plan_txn(s, c, verdicts, out, depth + 1)
    return KV_BAD_COMMAND


cdef int _plan_txn(KvState* s, Cursor* c, KvBuf* verdicts, KvResult* out, int depth) noexcept nogil:
    """Decides every compare on the way and checks the chosen path; verdicts in the order met."""
    cdef CompareCmd cmp
    cdef bint verdict = True, holds = False
    cdef uint32_t _i, n
    cdef uint8_t* room = buf_room(verdicts, 1)
    cdef int rc
    if room == NULL:
        return KV_NOMEM
    if depth > 128:                          # the budget of operations ends nesting far before
        return KV_BAD_COMMAND
    verdicts.len += 1
    n = mp_array(c)
    for _i in range(n):
        decode_compare(c, &cmp)
        if c.bad:
            return KV_BAD_COMMAND
        if verdict:
            rc = _holds(s, &cmp, &holds)
            if rc != KV_OK:
                return rc
            verdict = holds
    room[0] = verdict
    if not verdict:
        mp_skip(c)
    n = mp_array(c)
    for _i in range(n):
        rc = _plan_op(s, c, verdicts, out, depth)
        if rc != KV_OK:
            return rc
    if verdict:
        mp_skip(c)
    return KV_BAD_COMMAND if c.bad else KV_OK


cdef int _run_op(KvState* s, Change* ch, Cursor* c, const uint8_t** verdict,
                 KvResult* out) noexcept nogil:
    cdef int64_t kind, flags
    cdef PutCmd put
    cdef RangeCmd q
    cdef SpanCmd span
    mp_array(c)
    kind = mp_int(c)
    if kind == CMD_PUT:
        decode_put(c, &put)
        return _do_put(s, ch, &put, out)
    if kind == CMD_RANGE:
        decode_range(c, &q)
        return _do_range(s, ch, &q, out)
    if kind == CMD_DELETE:
        decode_delete(c, &flags, &span)
        return _do_delete(s, ch, flags, &span, out)
    return _run_txn(s, ch, c, verdict, out)


cdef int _run_txn(KvState* s, Change* ch, Cursor* c, const uint8_t** verdict,
                  KvResult* out) noexcept nogil:
    cdef bint taken = verdict[0][0]
    cdef uint32_t _i, n
    cdef int64_t at = 0
    cdef int rc = KV_OK
    verdict[0] += 1
    if out != NULL:
        at = result_add(out, CMD_TXN, 0)
        if at < 0:
            return KV_NOMEM
    mp_skip(c)                               # the compares
    if not taken:
        mp_skip(c)
    n = mp_array(c)
    for _i in range(n):
        rc = _run_op(s, ch, c, verdict, out)
        if rc != KV_OK:
            return rc
    if taken:
        mp_skip(c)
    if out != NULL:
        out.resps[at].succeeded = taken
        out.resps[at].children = n
        out.resps[at].revision = ch.rev if ch.sub else ch.rev - 1
    return KV_OK


cdef int _do_txn(KvState* s, Change* ch, Cursor* c, KvResult* out) noexcept nogil:
    cdef Cursor again = c[0]
    cdef KvBuf verdicts
    cdef const uint8_t* verdict
    cdef int rc
    memset(&verdicts, 0, sizeof(KvBuf))
    rc = _plan_txn(s, c, &verdicts, out, 0)
    if rc == KV_OK:
        verdict = verdicts.p
        rc = _run_txn(s, ch, &again, &verdict, out)
        if rc == KV_KEY_NOT_FOUND:
            rc = KV_BAD_COMMAND              # the plan allowed it: this cannot be
    buf_free(&verdicts)
    return rc


cdef int state_read_txn(KvState* s, Cursor* c, KvResult* out) noexcept nogil:
    cdef Change ch
    cdef int rc
    ch.rev = s.revision + 1
    ch.sub = 0
    ch.base = c.p
    ch.pos = 0
    mp_array(c)
    mp_int(c)
    rc = _do_txn(s, &ch, c, out)
    out.revision = s.revision
    return rc if rc != KV_OK else out.unreadable


# =================================================================================================
# Compaction and dispatch
# =================================================================================================

cdef int _do_compact(KvState* s, int64_t revision, KvResult* out) noexcept nogil:
    cdef int64_t at
    cdef int rc = KV_OK
    if revision <= s.compact_revision:
        if out != NULL:
            out.detail = s.compact_revision
        return KV_COMPACTED
    if revision > s.revision:
        return KV_FUTURE_REV
    if revision > s.tree.floor_next:
        rc = bt_compact(&s.tree, revision)
        if rc != KV_OK:
            return rc
    s.compact_revision = revision
    if out != NULL:
        at = result_add(out, CMD_COMPACT, 0)
        if at < 0:
            return KV_NOMEM
        out.resps[at].revision = s.revision
    return KV_OK


cdef int state_apply(KvState* s, Cursor* c, const uint8_t* base, uint64_t pos,
                     KvResult* out) noexcept nogil:
    cdef Change ch
    cdef PutCmd put
    cdef SpanCmd span
    cdef int64_t kind, flags
    cdef const uint8_t* start = c.p
    cdef Cursor whole = c[0]
    cdef int rc
    mp_array(c)
    kind = mp_int(c)
    ch.rev = s.revision + 1
    ch.sub = 0
    ch.base = base
    ch.pos = pos
    if kind == CMD_PUT:
        decode_put(c, &put)
        if c.bad:
            return KV_BAD_COMMAND
        rc = _check_put(s, &put) if put.lease or put.flags & ~FLAG_PREV else KV_OK
        if rc == KV_OK:
            rc = _do_put(s, &ch, &put, out)
    elif kind == CMD_DELETE:
        decode_delete(c, &flags, &span)
        rc = KV_BAD_COMMAND if c.bad else _do_delete(s, &ch, flags, &span, out)
    elif kind == CMD_TXN:
        rc = _do_txn(s, &ch, c, out)
        if _is_soft(rc):
            mp_skip(&whole)                  # a failed plan stopped somewhere inside
            c[0] = whole
    elif kind == CMD_COMPACT:
        flags = mp_int(c)
        rc = KV_BAD_COMMAND if c.bad else _do_compact(s, flags, out)
    else:
        rc = KV_BAD_COMMAND
    if not _is_soft(rc):
        return rc
    if c.p == start or c.bad:
        return KV_BAD_COMMAND
    s.applied_index += 1
    if ch.sub:
        s.revision = ch.rev
    if out != NULL:
        out.status = rc if rc != KV_OK else out.unreadable
        out.revision = s.revision
    return KV_OK
