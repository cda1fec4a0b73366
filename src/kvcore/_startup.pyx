# SPDX-License-Identifier: Apache-2.0
"""Startup: the newest checkpoint that proves itself, then every batch of the log behind it.

    checkpoint-9 (damaged: passed over) -> checkpoint-8 -> log from its replay_from -> its end

The replay runs the very function that live commits run; where index or revision do not agree there
is damage, and the open refuses. Thread safety: runs before the store has users. May not know:
verbs.
"""

import os
import re

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from kvcore._btree cimport BtView, bt_deinit, bt_init, bt_leased, bt_view
from kvcore._checkpoint cimport CkInfo, CkSegment, ck_load
from kvcore._command cimport Cursor
from kvcore._commit cimport Commit
from kvcore._leases cimport lt_attach, lt_deinit, lt_grant, lt_restart
from kvcore._native cimport (KV_CORRUPT, KV_IO, KV_LEASE_NOT_FOUND, KV_NEWER_FORMAT, KV_NOMEM,
                             KV_OK, KvIo, KvSlice, kv_plain_mem, kv_raise)
from kvcore._recovery cimport raise_errno
from kvcore._rows cimport KvRows, rows_clear, rows_free, rows_init, rows_key
from kvcore._space cimport moves_apply
from kvcore._state cimport KvState, lease_possible, state_apply
from kvcore._wal cimport WAL_CEILING, WAL_COMMANDS, WAL_MARK, WAL_MOVES, WAL_SEAL, Log, WalBatch

from kvcore.errors import CorruptError, NewerFormatError

cdef int64_t MAX_REVISION = <int64_t>1 << 62

cdef enum:
    LEASED_AT_ONCE = 4096        # keys attached per walk


cdef int _replay(void* ctx, const WalBatch* b, const uint8_t* payload,
                 uint64_t payload_pos) noexcept nogil:
    """One batch of the log, in order, to the state machine."""
    cdef Commit* c = <Commit*>ctx
    cdef Cursor cur
    cdef uint32_t _i
    cdef int rc
    if b.revision < 0 or b.revision >= MAX_REVISION:
        return KV_CORRUPT
    # every kind but commands says the index of the next command, as commands do
    if b.first_index != c.state.applied_index + 1:
        return KV_CORRUPT
    if b.kind == WAL_CEILING:
        c.ceiling = b.revision
    elif b.kind == WAL_SEAL:
        c.ceiling = 0
        if b.revision > c.state.revision:
            c.state.revision = b.revision
    elif b.kind == WAL_COMMANDS:
        if b.revision != c.state.revision or b.count == 0:
            return KV_CORRUPT
        cur.p = payload
        cur.end = payload + b.len
        cur.bad = False
        for _i in range(b.count):
            rc = state_apply(&c.state, &cur, payload, payload_pos, NULL)
            if rc != KV_OK:
                return rc
        if cur.p != cur.end:
            return KV_CORRUPT
    elif b.kind == WAL_MOVES:
        return moves_apply(&c.state.tree, payload, b.len, payload_pos, &c.space.moved_values)
    elif b.kind != WAL_MARK:
        return KV_CORRUPT                # something newer wrote it
    return KV_OK


cdef int _attach_leased(KvState* s) noexcept nogil:
    """Every live key of the index that names a lease hangs on it again."""
    cdef BtView view = bt_view(&s.tree)
    cdef KvRows rows[2]                      # a piece, and the one before it with the key to go on
    cdef KvRows* piece = &rows[0]
    cdef KvSlice after
    cdef bint more = True
    cdef uint64_t i
    cdef int rc = KV_OK
    after.ptr = NULL
    after.len = 0
    rows_init(&rows[0])
    rows_init(&rows[1])
    while rc == KV_OK and more:
        rows_clear(piece)
        rc = bt_leased(&view, after, LEASED_AT_ONCE, piece, &more)
        i = 0
        while rc == KV_OK and i < piece.n:
            after = rows_key(piece, i)
            rc = lt_attach(&s.leases, piece.rows[i].v.lease, after)
            i += 1
        piece = &rows[1] if piece == &rows[0] else &rows[0]
    rows_free(&rows[0])
    rows_free(&rows[1])
    return KV_CORRUPT if rc == KV_LEASE_NOT_FOUND else rc


cdef int restore_leases(KvState* s, const int64_t* leases, uint64_t n) noexcept nogil:
    cdef uint64_t i
    cdef int rc = KV_OK
    for i in range(n):
        if not lease_possible(leases[2 * i], leases[2 * i + 1]):
            return KV_CORRUPT
        rc = lt_grant(&s.leases, leases[2 * i], leases[2 * i + 1], 0)
        if rc != KV_OK:
            return rc if rc == KV_NOMEM else KV_CORRUPT
    return _attach_leased(s)


cdef int _load(Commit* c, Log log, bytes path, uint64_t number, CkInfo* info, dict expected,
               const char** reason, uint64_t* at) except? -1:
    """One checkpoint into the state; its segments into `expected`."""
    cdef CkSegment* table = NULL
    cdef int64_t* leases = NULL
    cdef uint64_t i
    cdef int rc
    memset(info, 0, sizeof(CkInfo))
    rc = ck_load(log.c.io, path, info, &table, &leases, &c.state.tree, reason, at)
    if rc == KV_IO and reason[0] == NULL:    # too many open files, say: it may be as good as any
        raise_errno(-<int>at[0], f"cannot open {os.fsdecode(path)}")
    if rc == KV_OK:
        rc = restore_leases(&c.state, leases, info.leases)
        if rc == KV_CORRUPT:
            reason[0] = b"checkpoint's leases and keys do not agree"
    if rc == KV_OK:
        c.space.live_bytes = c.space.history_bytes = 0
        for i in range(info.segments):
            c.space.live_bytes += table[i].live_bytes - table[i].history_bytes
            c.space.history_bytes += table[i].history_bytes
            expected[table[i].seq] = (table[i].nonce, table[i].seed, table[i].live_bytes,
                                      number if table[i].live_bytes == 0 and table[i].seq
                                      < info.replay_from // info.segment_bytes else 0)
    free(table)
    free(leases)
    return rc


cdef int _forget_older(Log log, list names, uint64_t oldest) except -1:
    """A crash may bring back checkpoints that newer ones replaced: they name segments that are gone
    or written again, and no open may go back to them."""
    cdef const KvIo* io = log.c.io
    cdef bytes there = os.fsencode(log.path), path
    older = [name for name in names if int(name[11:27], 16) < oldest]
    if older:
        raise_errno(io.sync_dir(io.ctx, there), f"cannot sync {log.path}")
    for name in older:
        path = os.fsencode(os.path.join(log.path, name))
        io.unlink(io.ctx, path)              # if it fails the next open tries
    return 0


cdef int _without_checkpoint(Commit* c, Log log, list damaged) except -1:
    """The log alone; where it is not enough, why it had to be."""
    try:
        log.recover(0, None, _replay, c)
    except CorruptError as error:
        if not damaged:
            raise
        path, at, reason = damaged[0]
        raise CorruptError(path=error.path, offset=error.offset, reason=f"{error.reason} (needed, "
                           f"since {path} at offset {at}: {reason})") from error
    return 0


cdef list startup(Commit* c, Log log):
    cdef uint32_t order = c.state.tree.order
    cdef CkInfo info
    cdef const char* reason = b""
    cdef uint64_t at = 0
    cdef int rc
    cdef dict expected = {}
    damaged = []
    names = []
    if log.path:
        names = sorted((n for n in os.listdir(log.path)
                        if re.fullmatch(r"checkpoint-[0-9a-f]{16}\.ckp", n)), reverse=True)
    # the next one is numbered behind the newest; a number that no store reaches is not its
    c.ck_number = max([int(name[11:27], 16) for name in names
                       if int(name[11:27], 16) < MAX_REVISION], default=0)
    for name in names:
        path = os.path.join(log.path, name)
        number = int(name[11:27], 16)
        expected.clear()
        rc = _load(c, log, os.fsencode(path), number, &info, expected, &reason, &at)
        if rc == KV_NOMEM:
            kv_raise(rc)
        if rc == KV_NEWER_FORMAT:
            raise NewerFormatError(f"kvcore: {path} has a newer format than this version reads")
        if rc == KV_OK:
            c.state.revision = info.revision
            c.state.compact_revision = info.compact_revision
            c.state.applied_index = info.applied_index
            c.state.term = info.term
            c.state.alarms = info.alarms
            c.ceiling = info.ceiling
            c.ck_revision = info.revision
            c.ck_applied = info.applied_index
            c.ck_pos = info.replay_from
            c.ck_bytes = info.table_off
            c.ck_oldest = number - 1
            c.space.number = number
            c.space.revision = info.revision
            log.recover(info.replay_from, expected, _replay, c)
            if log.c.segment_bytes != info.segment_bytes:
                raise CorruptError(path=path, offset=16, reason="segment sizes differ")
            _forget_older(log, names, c.ck_oldest)
            break
        if rc == KV_NOMEM:
            kv_raise(rc)
        damaged.append((path, at, reason.decode()))
        bt_deinit(&c.state.tree)
        lt_deinit(&c.state.leases)
        kv_raise(bt_init(&c.state.tree, order, &kv_plain_mem))
    else:
        _without_checkpoint(c, log, damaged)
    lt_restart(&c.state.leases, c.clock.now_ns(c.clock.ctx))
    return damaged
