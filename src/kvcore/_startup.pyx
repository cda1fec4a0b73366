# SPDX-License-Identifier: Apache-2.0
"""Startup: the newest checkpoint that proves itself, then every batch of the log behind it.

    checkpoint-9 (damaged: passed over) -> checkpoint-8 -> log from its replay_from -> its end

The replay runs the very function that live commits run; where index or revision do not agree there
is damage, and the open refuses. Thread safety: runs before the store has users. May not know:
verbs.
"""

import os
import re

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from kvcore._btree cimport bt_deinit, bt_init
from kvcore._checkpoint cimport CkInfo, CkSegment, ck_load
from kvcore._command cimport Cursor
from kvcore._commit cimport Commit
from kvcore._native cimport KV_CORRUPT, KV_NEWER_FORMAT, KV_OK, kv_plain_mem, kv_raise
from kvcore._state cimport state_apply
from kvcore._wal cimport WAL_CEILING, WAL_COMMANDS, WAL_SEAL, Log, WalBatch

from kvcore.errors import NewerFormatError


cdef int _replay(void* ctx, const WalBatch* b, const uint8_t* payload,
                 uint64_t payload_pos) noexcept nogil:
    """One batch of the log, in order, to the state machine."""
    cdef Commit* c = <Commit*>ctx
    cdef Cursor cur
    cdef uint32_t _i
    cdef int rc
    if b.kind == WAL_CEILING:
        c.ceiling = b.revision
    elif b.kind == WAL_SEAL:
        c.ceiling = 0
        if b.revision > c.state.revision:
            c.state.revision = b.revision
    elif b.kind == WAL_COMMANDS:
        if b.revision != c.state.revision or b.first_index != c.state.applied_index + 1:
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
    return KV_OK


cdef list startup(Commit* c, Log log):
    cdef uint32_t order = c.state.tree.order
    cdef CkInfo info
    cdef CkSegment* table = NULL
    cdef const char* reason = b""
    cdef uint64_t at = 0, i
    cdef int rc
    damaged = []
    names = []
    if log.path:
        names = sorted((n for n in os.listdir(log.path)
                        if re.fullmatch(r"checkpoint-[0-9a-f]{16}\.ckp", n)), reverse=True)
    if names:
        c.ck_number = int(names[0][11:27], 16)
    for name in names:
        path = os.path.join(log.path, name)
        raw = os.fsencode(path)
        memset(&info, 0, sizeof(CkInfo))
        rc = ck_load(log.c.io, raw, &info, &table, &c.state.tree, &reason, &at)
        if rc == KV_NEWER_FORMAT:
            free(table)
            raise NewerFormatError(f"kvcore: {path} has a newer format than this version reads")
        if rc == KV_OK:
            expected = {table[i].seq: (table[i].nonce, table[i].seed)
                        for i in range(info.segments)}
            free(table)
            c.state.revision = info.revision
            c.state.compact_revision = info.compact_revision
            c.state.applied_index = info.applied_index
            c.state.term = info.term
            c.ceiling = info.ceiling
            c.ck_revision = info.revision
            c.ck_applied = info.applied_index
            c.ck_pos = info.replay_from
            log.recover(info.replay_from, expected, _replay, c)
            return damaged
        free(table)
        damaged.append((path, at, reason.decode()))
        bt_deinit(&c.state.tree)
        kv_raise(bt_init(&c.state.tree, order, &kv_plain_mem))
    log.recover(0, None, _replay, c)
    return damaged
