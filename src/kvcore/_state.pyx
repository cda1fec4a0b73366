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

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from kvcore._btree cimport (BtView, bt_compact, bt_deinit, bt_delete, bt_find, bt_find_at, bt_init,
                            bt_put, bt_scan, bt_view)
from kvcore._command cimport (CMD_ALARM, CMD_COMPACT, CMD_DELETE, CMD_LEASE_GRANT,
                              CMD_LEASE_REVOKE, CMD_PUT, CMD_RANGE, CMD_TXN, CMP_CREATE,
                              CMP_EQUAL, CMP_GREATER, CMP_LEASE, CMP_LESS, CMP_MOD,
                              CMP_VALUE, CMP_VERSION, FLAG_IGNORE_LEASE, FLAG_IGNORE_VALUE,
                              FLAG_PREV, CompareCmd, Cursor, KvBuf, PutCmd,
                              RangeCmd, SpanCmd, buf_free, buf_room, decode_compare, decode_delete,
                              decode_put, decode_range, mp_array, mp_command, mp_int, mp_skip,
                              span_bounds)
from kvcore._leases cimport (Lease, lt_attach, lt_deinit, lt_detach, lt_find, lt_grant, lt_init,
                             lt_keys, lt_remove)
from kvcore._native cimport (KV_BAD_COMMAND, KV_COMPACTED, KV_CORRUPT, KV_FUTURE_REV, KV_IO,
                             KV_KEY_NOT_FOUND, KV_LEASE_EXISTS, KV_LEASE_NOT_FOUND, KV_NOMEM,
                             KV_NOTFOUND, KV_OK, KvSlice, KvVersion, kv_plain_mem)
from kvcore._range cimport KvReader, answer_range, compare_slices
from kvcore._result cimport KvResult, result_add
from kvcore._ring cimport RingRecord
from kvcore._rows cimport KvRows, rows_clear, rows_free, rows_init, rows_key, rows_push
from kvcore._wal cimport Wal, wal_value
from kvcore._watchers cimport hub_compacted, hub_event, hub_published

cdef enum:
    DELETE_CHUNK = 1024          # keys collected before they are deleted
    MAX_LEASE_TTL = 9000000000   # seconds, as in etcd

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
    lt_init(&s.leases)
    return bt_init(&s.tree, order, &kv_plain_mem)


cdef void state_deinit(KvState* s) noexcept nogil:
    bt_deinit(&s.tree)
    lt_deinit(&s.leases)


cdef KvReader state_reader(const KvState* s) noexcept nogil:
    cdef KvReader r
    r.view = bt_view(&s.tree)
    r.wal = s.wal
    r.revision = s.revision
    r.shown_revision = s.revision
    r.compact_revision = s.compact_revision
    return r


cdef inline bint _lease_known(const KvState* s, int64_t lease) noexcept nogil:
    return lease == 0 or lt_find(&s.leases, lease) != NULL


cdef inline bint _is_soft(int status) noexcept nogil:
    """Statuses a command may end with while the state machine goes on.

    KV_CORRUPT: a compare met a damaged value, before any change; a replay meets it too. KV_IO is
    not among them: what could not be read now may be readable then."""
    return (status == KV_OK or status == KV_KEY_NOT_FOUND or status == KV_LEASE_NOT_FOUND
            or status == KV_COMPACTED or status == KV_FUTURE_REV
            or status == KV_LEASE_EXISTS or status == KV_CORRUPT)


# =================================================================================================
# Put and delete
# =================================================================================================

cdef int _check_put(KvState* s, const PutCmd* p, bint in_txn) noexcept nogil:
    """What a put may fail with, judged on the state as it is.

    Of two faults a put by itself tells that of its lease, one in a transaction that of its key."""
    cdef bint known = _lease_known(s, p.lease)
    cdef KvVersion cur
    cdef BtView view
    if not known and not in_txn:
        return KV_LEASE_NOT_FOUND
    if p.flags & (FLAG_IGNORE_VALUE | FLAG_IGNORE_LEASE):
        view = bt_view(&s.tree)
        if bt_find(&view, p.key, &cur) != KV_OK or cur.version == 0:
            return KV_KEY_NOT_FOUND
    return KV_OK if known else KV_LEASE_NOT_FOUND


cdef void _tell(KvState* s, KvSlice key, const KvVersion* v, const KvVersion* cell) noexcept nogil:
    """Those who watch the key; `cell` is the version whose cell holds its bytes."""
    cdef RingRecord rec
    if s.hub == NULL or s.hub.watchers == 0:
        return
    rec.mod = v.mod
    rec.create = v.create
    rec.version = v.version
    rec.lease = v.lease
    rec.pos = cell.pos
    rec.len = cell.len
    rec.key_len = <uint16_t>key.len
    rec.note = 0
    hub_event(s.hub, key, &rec)


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
    if v.lease:
        rc = lt_attach(&s.leases, v.lease, p.key)
        if rc != KV_OK:
            return rc if rc == KV_NOMEM else KV_BAD_COMMAND
    elif prev.version and prev.lease:
        lt_detach(&s.leases, p.key)
    _tell(s, p.key, &v, &v)
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
    cdef KvVersion prev, tomb
    cdef int rc = bt_delete(&s.tree, key, ch.rev, ch.sub, &prev)
    if rc == KV_NOTFOUND:
        return KV_OK
    if rc != KV_OK:
        return rc
    memset(&tomb, 0, sizeof(KvVersion))
    tomb.mod = ch.rev
    _tell(s, key, &tomb, &prev)
    ch.sub += 1
    deleted[0] += 1
    if keep_prev and out != NULL:
        rc = rows_push(&out.rows, &prev, key)
    if prev.lease:
        lt_detach(&s.leases, key)            # last: the bytes may be the lease table's
    return rc


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
# Transactions: plan on the state before, then run
# =================================================================================================

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
    rc = answer_range(&r, q, out)
    if rc == KV_CORRUPT or rc == KV_IO:      # sorting by values one of which cannot be read:
        out.unreadable = rc                  # the answer fails, what was changed before stays
        return KV_OK
    return rc


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
        order = compare_slices(value, c.value)
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


cdef int _check_range_revision(KvState* s, int64_t revision) noexcept nogil:
    if revision > s.revision:
        return KV_FUTURE_REV
    return KV_COMPACTED if revision != 0 and revision < s.compact_revision else KV_OK


cdef int _plan_op(KvState* s, Cursor* c, KvBuf* verdicts, int* late, int depth) noexcept nogil:
    """Checks one operation of a chosen branch on the state before the transaction.

    What is wrong with a range counts when no put is refused, also behind it: kept in `late`."""
    cdef int64_t kind, flags
    cdef PutCmd put
    cdef RangeCmd q
    cdef SpanCmd span
    kind = mp_command(c)
    if kind == CMD_PUT:
        decode_put(c, &put)
        return KV_BAD_COMMAND if c.bad else _check_put(s, &put, True)
    if kind == CMD_RANGE:
        decode_range(c, &q)
        if not c.bad and late[0] == KV_OK:
            late[0] = _check_range_revision(s, q.revision)
        return KV_BAD_COMMAND if c.bad else KV_OK
    if kind == CMD_DELETE:
        decode_delete(c, &flags, &span)
        return KV_BAD_COMMAND if c.bad else KV_OK
    if kind == CMD_TXN:
        return _plan_txn(s, c, verdicts, late, depth + 1)
    return KV_BAD_COMMAND


cdef int _plan_txn(KvState* s, Cursor* c, KvBuf* verdicts, int* late, int depth) noexcept nogil:
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
        rc = _plan_op(s, c, verdicts, late, depth)
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
    kind = mp_command(c)
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
    cdef int rc, late = KV_OK
    memset(&verdicts, 0, sizeof(KvBuf))
    rc = _plan_txn(s, c, &verdicts, &late, 0)
    if rc == KV_OK:
        rc = late
        if rc == KV_COMPACTED and out != NULL:
            out.detail = s.compact_revision
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
# Leases
# =================================================================================================

cdef bint lease_possible(int64_t lease, int64_t ttl) noexcept nogil:
    return lease != 0 and 1 <= ttl <= MAX_LEASE_TTL


cdef int _do_lease_grant(KvState* s, int64_t lease, int64_t ttl, KvResult* out) noexcept nogil:
    cdef int64_t at
    cdef int rc = lt_grant(&s.leases, lease, ttl, s.now_ns)
    if rc != KV_OK or out == NULL:
        return rc
    at = result_add(out, CMD_LEASE_GRANT, 0)
    if at < 0:
        return KV_NOMEM
    out.resps[at].revision = s.revision
    out.resps[at].count = lease
    out.resps[at].ttl = ttl
    return KV_OK


cdef int _do_lease_revoke(KvState* s, Change* ch, int64_t id, KvResult* out) noexcept nogil:
    """The lease and its keys, in their order, in one revision."""
    cdef Lease* lease = lt_find(&s.leases, id)
    cdef KvSlice* keys
    cdef uint64_t n, i
    cdef int64_t at, deleted = 0
    cdef int rc = KV_OK
    if lease == NULL:
        return KV_LEASE_NOT_FOUND
    n = lease.keys
    keys = lt_keys(lease)
    if keys == NULL:
        return KV_NOMEM
    for i in range(n):
        rc = _delete_one(s, ch, keys[i], False, NULL, &deleted)
        if rc != KV_OK:
            break
    free(keys)
    if rc != KV_OK:
        return rc
    if <uint64_t>deleted != n:
        return KV_BAD_COMMAND                # a key hangs on a lease that does not live
    lt_remove(&s.leases, lease)
    if out == NULL or out.brief:
        return KV_OK
    at = result_add(out, CMD_DELETE, 0)
    if at < 0:
        return KV_NOMEM
    out.resps[at].count = deleted
    out.resps[at].revision = ch.rev if ch.sub else ch.rev - 1
    return KV_OK


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
    if s.hub != NULL:
        hub_compacted(s.hub, s.revision)
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
    cdef int64_t kind, flags, lease
    cdef const uint8_t* start = c.p
    cdef Cursor whole = c[0]
    cdef int rc
    kind = mp_command(c)
    ch.rev = s.revision + 1
    ch.sub = 0
    ch.base = base
    ch.pos = pos
    if kind == CMD_PUT:
        decode_put(c, &put)
        if c.bad:
            return KV_BAD_COMMAND
        rc = _check_put(s, &put, False) if put.lease or put.flags & ~FLAG_PREV else KV_OK
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
    elif kind == CMD_ALARM:
        flags = mp_int(c)
        rc = KV_BAD_COMMAND if c.bad else KV_OK
        s.alarms = flags if rc == KV_OK else s.alarms
    elif kind == CMD_LEASE_GRANT:
        lease = mp_int(c)
        flags = mp_int(c)
        rc = (KV_BAD_COMMAND if c.bad or not lease_possible(lease, flags)
              else _do_lease_grant(s, lease, flags, out))
    elif kind == CMD_LEASE_REVOKE:
        lease = mp_int(c)
        rc = KV_BAD_COMMAND if c.bad else _do_lease_revoke(s, &ch, lease, out)
    else:
        rc = KV_BAD_COMMAND
    if not _is_soft(rc):
        return rc
    if c.p == start or c.bad:
        return KV_BAD_COMMAND
    s.applied_index += 1
    if ch.sub:
        s.revision = ch.rev
        if s.hub != NULL:
            hub_published(s.hub, ch.rev)
    if out != NULL:
        out.status = rc if rc != KV_OK else out.unreadable
        out.revision = s.revision
    return KV_OK
