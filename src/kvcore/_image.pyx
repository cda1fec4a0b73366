# SPDX-License-Identifier: Apache-2.0
"""A state written into a directory: what a backup and a repair need of the core.

    on disk     pin ─► checkpoint (its own) ─► segment_ends: how much of each file matters
    in memory   pin ─► write_checkpoint: the index, naming segments with headers made up here
                   └─► write_segment: such a header, and the bytes behind it

The log of what is written here begins at the segment behind the last one, which only holds a seal:
nothing is replayed, so that old batches need not be valid under the new headers.

Invariants: a snapshot is walked while no moves can change the positions it shows (step_lock).
Locks: step_lock -> committer role -> lock.  Thread safety: every function.
May not know: manifests, names of files but the checkpoint's.
"""

import os

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from kvcore._btree cimport BtSnapshot, bt_release, bt_snapshot
from kvcore._checkpoint cimport CkInfo, CkWriter, ck_begin, ck_end, ck_step
from kvcore._commit cimport Commit, Request, commit_claim, commit_unclaim
from kvcore._engine cimport Engine
from kvcore._leases cimport lt_dump
from kvcore._native cimport (KV_CLOSED, KV_NOMEM, KV_OK, KV_O_CREATE, kv_load_u64,
                             KV_O_WRITE, KvIo, kv_cond_signal, kv_crc32c, kv_mutex_lock,
                             kv_mutex_unlock, kv_raise, kv_random_u64)
from kvcore._recovery cimport raise_errno
from kvcore._segment_table cimport table_at, table_count
from kvcore._wal cimport WAL_HEADER_BYTES, Wal, WalSegment

cdef enum:
    CHUNK_BYTES = 4 << 20


# ---- C face --------------------------------------------------------------------------------------

cdef list image_checkpoint(const KvIo* io, bytes directory, CkInfo* info, BtSnapshot* snap,
                           int64_t* leases, const Wal* wal):
    cdef CkWriter w
    cdef const char* where = directory
    cdef bint more = True
    cdef uint64_t i
    cdef int rc
    with nogil:
        rc = ck_begin(&w, io, where, b"checkpoint-0000000000000001", info, snap, leases, wal)
        for i in range(w.span if rc == KV_OK else 0):
            if w.table[i].seq:
                w.table[i].nonce = kv_random_u64()
                w.table[i].seed = <uint32_t>kv_random_u64()
    try:
        while rc == KV_OK and more:
            with nogil:
                rc = ck_step(&w, &more)
            PyErr_CheckSignals()
        kv_raise(rc, w.failed_errno or None)
        return [(w.table[i].seq, w.table[i].nonce, w.table[i].seed, w.table[i].live_bytes)
                for i in range(w.info.segments)]
    finally:
        ck_end(&w)


cdef object image_segment(const KvIo* io, str path, bytes header, const Wal* wal, uint64_t seq,
                          uint64_t upto):
    cdef bytes name = os.fsencode(path)
    cdef const char* head = header
    cdef WalSegment* s = wal.segments[seq - wal.first_seq]
    cdef uint64_t off = WAL_HEADER_BYTES, n
    cdef uint32_t crc = kv_crc32c(0, head, WAL_HEADER_BYTES)
    cdef int rc
    cdef int handle = io.open(io.ctx, name, KV_O_WRITE | KV_O_CREATE)
    if handle < 0:
        raise_errno(handle, f"cannot open {path}")
    try:
        with nogil:
            rc = io.write_at(io.ctx, handle, head, WAL_HEADER_BYTES, 0)
        while rc == 0 and off < upto:
            n = min(<uint64_t>CHUNK_BYTES, upto - off)
            with nogil:
                crc = kv_crc32c(crc, s.view + off, n)
                rc = io.write_at(io.ctx, handle, s.view + off, n, off)
                if rc == 0:
                    rc = io.sync(io.ctx, handle)
            off += n
            PyErr_CheckSignals()
        if rc == 0:
            with nogil:
                rc = io.sync(io.ctx, handle)
    finally:
        io.close(io.ctx, handle)
    raise_errno(rc, f"cannot write {path}")
    return crc


# ---- Python face: a store ------------------------------------------------------------------------

def take_pin(Engine e):
    """What keeps every segment retired from now on, and its file, as it is."""
    return e._pin()


def store_io(Engine e):
    """The I/O table of the store."""
    e._alive()
    return e.log.io


def segment_ends(Engine e):
    """How many bytes of each segment may hold something: {seq: bytes}."""
    cdef const Wal* w = &e.log.c
    cdef const WalSegment* s
    cdef uint64_t i, end, upto
    cdef list found = []
    e._enter()
    try:
        for i in range(table_count(w)):
            s = table_at(w, i)               # a reader that goes may clear it, the committer end it
            if s == NULL:
                continue
            # A segment that was begun for a batch that could not be written holds nothing.
            upto = s.seq << w.segment_shift
            upto = e.c.replay_from - upto if e.c.replay_from > upto else 0
            end = kv_load_u64(&s.end)
            end = end if end and i + 1 < table_count(w) else s.file_bytes
            found.append((s.seq, min(end, upto)))
    finally:
        e._leave()
    return dict(found)


def write_checkpoint(Engine e, str directory):
    """The index of a store in memory, as a checkpoint: (numbers of its header, segment table)."""
    cdef Commit* c = &e.c
    cdef CkInfo info
    cdef BtSnapshot* snap = NULL
    cdef int64_t* leases = NULL
    cdef int rc
    e._alive()
    with nogil:
        kv_mutex_lock(&c.step_lock)          # in memory nothing waits for it but sweeps and expiry
        rc = _begin(c, &info, &snap, &leases)
    try:
        kv_raise(rc)
        table = image_checkpoint(e.log.io.table, os.fsencode(directory), &info, snap, leases,
                                 c.wal)
        return _numbers(&info), table
    finally:
        with nogil:
            kv_mutex_lock(&c.lock)
            if snap != NULL:
                bt_release(&c.state.tree, snap)
                c.readers -= 1
                if c.readers == 0:
                    kv_cond_signal(&c.readers_gone)
            kv_mutex_unlock(&c.lock)
            kv_mutex_unlock(&c.step_lock)


def write_segment(Engine e, str path, bytes header, uint64_t seq, uint64_t upto):
    """A segment of a store in memory as a file that begins with `header`; its CRC-32C."""
    e._alive()
    return image_segment(e.log.io.table, path, header, &e.log.c, seq, upto)


cdef dict _numbers(const CkInfo* info):
    return {"segment_bytes": info.segment_bytes, "replay_from": info.replay_from,
            "applied_index": info.applied_index, "term": info.term, "revision": info.revision}


cdef int _begin(Commit* c, CkInfo* info, BtSnapshot** snap, int64_t** leases) noexcept nogil:
    """Snapshot and numbers of one instant.  REQUIRES: step_lock"""
    cdef Request control
    cdef int rc = commit_claim(c, &control, False)
    if rc != KV_OK:
        return rc
    memset(info, 0, sizeof(CkInfo))
    kv_mutex_lock(&c.lock)
    rc = KV_CLOSED if c.closed else c.stopped
    if rc == KV_OK:
        snap[0] = bt_snapshot(&c.state.tree)
        leases[0] = lt_dump(&c.state.leases)
        info.segment_bytes = c.wal.segment_bytes
        info.replay_from = (((c.wal.first_seq + c.wal.segment_count) << c.wal.segment_shift)
                            + WAL_HEADER_BYTES)
        info.applied_index = c.state.applied_index
        info.term = c.state.term
        info.revision = c.state.revision
        info.compact_revision = c.state.compact_revision
        info.leases = c.state.leases.leases
        info.alarms = c.state.alarms
        if snap[0] != NULL:
            c.readers += 1
        if snap[0] == NULL or leases[0] == NULL:
            rc = KV_NOMEM
            free(leases[0])
            leases[0] = NULL
    kv_mutex_unlock(&c.lock)
    commit_unclaim(c, &control)
    return rc
