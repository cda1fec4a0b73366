# SPDX-License-Identifier: Apache-2.0
"""What a store says about itself: counters, checksum, checks, everything in its index.

    Store.status · hash · check ─► Engine ─► here: copy under the lock, or walk a snapshot

Thread safety: every function; long walks hold neither lock nor GIL but between pieces.
May not know: verbs.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free

from kvcore._btree cimport (BtSnapshot, BtStats, BtView, bt_check, bt_dump, bt_snapshot, bt_stats)
from kvcore._commit cimport Commit
from kvcore._engine cimport Engine, slice_of
from kvcore._hash cimport Hashing, hash_begin, hash_end, hash_step
from kvcore._leases cimport lt_check
from kvcore._native cimport (KV_COMPACTED, KV_FUTURE_REV, KV_NOMEM, KV_OK, KvSlice, kv_load_int,
                             kv_load_u64, kv_mutex_lock_gil, kv_mutex_unlock, kv_raise)
from kvcore._pin cimport Pin
from kvcore._range cimport KvReader
from kvcore._rows cimport KvRows, rows_clear, rows_free, rows_init, rows_key
from kvcore._space cimport space_used
from kvcore._state cimport ALARM_NOSPACE, state_reader
from kvcore._wal cimport wal_value
from kvcore._watchers_check cimport hub_check

from kvcore.errors import OutOfMemoryError

cdef object inspect_hash(Engine e, int64_t revision):
    """(hash, compact revision, revision hashed); -1: never compacted"""
    cdef Pin _pin = e._pin()
    cdef Commit* c = &e.c
    cdef BtSnapshot* snap
    cdef BtView view
    cdef int64_t compacted
    cdef Hashing h
    cdef int rc = KV_OK
    e._enter()
    compacted = c.state.compact_revision
    if revision > 0:
        if revision > c.state.revision:
            rc = KV_FUTURE_REV
        elif revision < compacted:
            rc = KV_COMPACTED
    else:
        revision = c.state.revision
    snap = bt_snapshot(&c.state.tree) if rc == KV_OK else NULL
    if snap != NULL:
        c.readers += 1
    e._leave()
    kv_raise(rc, compacted if rc == KV_COMPACTED else None)
    if snap == NULL:
        raise OutOfMemoryError()
    view = snap.view
    with nogil:
        rc = hash_begin(&h, &view, revision, compacted)
    try:
        while rc == KV_OK and h.at < h.n:
            PyErr_CheckSignals()
            with nogil:
                rc = hash_step(&h, &e.log.c)
    finally:
        hash_end(&h)
        e._done_reading(NULL, snap)
    kv_raise(rc)
    return h.crc, compacted, revision


cdef object inspect_stats(Engine e):
    """Counters of index, log and commit path, as a dict."""
    cdef BtStats s
    cdef Commit* c = &e.c
    cdef KvReader now
    cdef uint64_t applied, term, batches, commands
    cdef uint64_t leases, leased, watchers, events, watch_bytes, behind
    cdef uint64_t used, pinned, segments
    cdef uint64_t live, history, counted, moved, retired, number, written
    cdef int64_t alarms, counted_revision, number_revision
    cdef uint32_t order
    cdef bint compacting, stopped
    # Copied first: making objects may run finalizers that want the lock.
    e._enter_any()
    bt_stats(&c.state.tree, &s)
    now = state_reader(&c.state)
    applied, term = c.state.applied_index, c.state.term
    order = c.state.tree.order
    compacting = c.state.tree.floor_next > c.state.tree.floor
    batches, commands = c.batches, c.commands
    leases, leased = c.state.leases.leases, c.state.leases.attached
    watchers, events, behind = c.hub.watchers, c.hub.events, c.hub.behind
    watch_bytes = c.hub.ring.bytes + c.hub.match_bytes
    stopped = c.stopped != 0
    live, history, counted = c.space.live_bytes, c.space.history_bytes, c.space.counted_bytes
    counted_revision = c.space.revision
    moved, retired = c.space.moved_bytes, c.space.retired_segments
    number, number_revision, written = c.ck_number, c.ck_revision, c.ck_written
    used = space_used(c)
    pinned = kv_load_u64(&e.log.c.retired_bytes)
    segments = kv_load_u64(&e.log.c.segment_count) - kv_load_u64(&e.log.c.holes)
    alarms = c.state.alarms
    e._leave()
    kv_mutex_lock_gil(&e.log.c.spare_lock)
    used += (e.log.c.pool_count + (e.log.c.spare != NULL)) * e.log.c.segment_bytes
    kv_mutex_unlock(&e.log.c.spare_lock)
    got = {
        "revision": now.revision, "compact_revision": max(now.compact_revision, 0),
        "keys": s.live, "entries": s.keys, "versions": s.versions, "order": order,
        "depth": s.depth, "leaves": s.leaves, "inners": s.inners,
        "index_bytes": s.chunk_bytes, "index_live_bytes": s.live_bytes,
        "dead_blocks": s.dead_blocks, "snapshots": s.snapshots,
        "copied_nodes": s.copied_nodes, "applied_index": applied, "term": term,
        "compacting": compacting, "checkpoint_number": number,
        "checkpoint_revision": number_revision, "batches": batches, "commands": commands,
        "leases": leases, "leased_keys": leased, "watchers": watchers,
        "watch_events": events, "watch_bytes": watch_bytes, "watchers_behind": behind,
    }
    got.update(used_bytes=used, live_bytes=live, history_bytes=history,
               counted_revision=counted_revision, moved_bytes=moved,
               checkpoint_bytes=written, retired_segments=retired,
               pinned_bytes=pinned, zeroed_bytes=kv_load_u64(&e.log.c.zeroed),
               garbage_bytes=counted - min(counted, live + history),
               alarms=("NOSPACE",) if alarms & ALARM_NOSPACE else ())
    got.update(segments=segments, segment_bytes=e.log.c.segment_bytes,
               log_bytes=kv_load_u64(&e.log.c.bytes), syncs=kv_load_u64(&e.log.c.syncs),
               poisoned=stopped or kv_load_int(&e.log.c.poison_errno) != 0,
               background_status=kv_load_int(&c.maint_status))
    return got


cdef object inspect_check_index(Engine e):
    """The first broken invariant of index, leases and watchers, or None."""
    cdef char message[512]
    cdef const char* broken
    cdef int rc
    e._enter()
    with nogil:                          # the lock is held: only readers of it wait
        rc = bt_check(&e.c.state.tree, message, sizeof(message))
        broken = lt_check(&e.c.state.leases)
        if broken == NULL:
            broken = hub_check(&e.c.hub)
        kv_mutex_unlock(&e.c.lock)
    if rc == KV_NOMEM:                       # no room for the walk's own notes
        kv_raise(rc)
    if rc != KV_OK:
        return message.decode()
    return broken.decode() if broken != NULL else None


cdef object inspect_damaged_values(Engine e, object progress):
    """[(key, mod_revision, position), ...] of every version whose value fails its CRC."""
    cdef Pin _pin = e._pin()
    cdef Commit* c = &e.c
    cdef BtSnapshot* snap
    cdef KvRows rows
    cdef KvSlice after, key, value
    cdef bint more = True
    cdef uint64_t i
    cdef void* owned
    cdef int rc = KV_OK
    cdef bytes last = None
    bad = []
    e._enter()
    snap = bt_snapshot(&c.state.tree)
    if snap != NULL:
        c.readers += 1
    e._leave()
    if snap == NULL:
        raise OutOfMemoryError()
    rows_init(&rows)
    try:
        while more:
            after.ptr = NULL
            after.len = 0
            if last is not None:
                after = slice_of(last)
            rows_clear(&rows)
            with nogil:
                rc = bt_dump(&snap.view, after, c.state.compact_revision, 2048, &rows, &more)
            kv_raise(rc)
            for i in range(rows.n):
                if rows.rows[i].v.version == 0:
                    continue
                key = rows_key(&rows, i)
                owned = NULL
                rc = wal_value(&e.log.c, rows.rows[i].v.pos, <uint32_t>key.len,
                               rows.rows[i].v.len, &value, &owned)
                free(owned)
                if rc == KV_NOMEM:
                    kv_raise(rc)
                if rc != KV_OK:
                    bad.append((key.ptr[:key.len], rows.rows[i].v.mod, rows.rows[i].v.pos))
            if rows.n == 0:
                break
            key = rows_key(&rows, rows.n - 1)
            last = key.ptr[:key.len]
            PyErr_CheckSignals()
            if progress is not None:
                progress(rows.n)
    finally:
        rows_free(&rows)
        e._done_reading(NULL, snap)
    return bad


cdef object inspect_versions(Engine e):
    """[(key, mod, sub, create, version, lease, position), ...]: all that is in the index."""
    cdef Commit* c = &e.c
    cdef BtView view
    cdef KvRows rows
    cdef KvSlice key
    cdef bint more
    cdef uint64_t i
    cdef int rc
    cdef list out = []
    rows_init(&rows)
    key.ptr = NULL
    key.len = 0
    e._enter()
    view = state_reader(&c.state).view
    rc = bt_dump(&view, key, c.state.compact_revision, <uint64_t>-1, &rows, &more)
    e._leave()
    try:
        kv_raise(rc)
        for i in range(rows.n):
            key = rows_key(&rows, i)
            out.append((key.ptr[:key.len], rows.rows[i].v.mod, rows.rows[i].v.sub,
                        rows.rows[i].v.create, rows.rows[i].v.version, rows.rows[i].v.lease,
                        rows.rows[i].v.pos))
    finally:
        rows_free(&rows)
    return out
