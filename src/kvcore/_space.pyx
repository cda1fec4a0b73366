# SPDX-License-Identifier: Apache-2.0
"""Space comes back: segments mostly dead are emptied, empty ones retired, files written again.

    census      every version of a snapshot: bytes named per segment       (a checkpoint's walk;
       │                                                                in memory one for itself)
       ├─ live <= a third ─► moves: cells copied to the tail, in the log; the index follows
       └─ live = 0 ────────► two kept checkpoints say so ─► retired: out of the table
                                                              └ no pin left ─► written again

Why a third: at live share u, freeing 1 - u costs writing u again; u <= 1/3 bounds that to one byte
moved per two bytes freed, so all moving together at most halves again what callers write.
A closed segment only loses cells: a new version of a key may name the cell of the one before it
(a put that ignores the value), never one that nothing names.  So "empty" once counted stays true.

Invariants
1. named-kept: a segment in which an index version, or a checkpoint that is kept, names a cell is in
   the table; an open finds what it needs after a crash at any point.
2. moves-first: a move is in the log, durable, before the index follows it.
3. ring-true: no record of the ring names a segment that was retired.
4. bounded: a step holds the lock for one batch of moves (256 KiB) or one look over the ring.

Locks: step_lock -> committer role -> lock.  Thread safety: REQUIRES step_lock throughout.
May not know: Python, who asks for space.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from kvcore._ahead cimport ahead_release
from kvcore._btree cimport BTree, bt_dump, bt_move, bt_release, bt_snapshot
from kvcore._checkpoint cimport CkSegment
from kvcore._command cimport KvBuf, buf_free, buf_room
from kvcore._commit cimport (CACHED_SNAPSHOTS, RESERVED_SEGMENTS, SPACE_COUNTING, SPACE_IDLE,
                             SPACE_MOVING, SYNC_ALWAYS, Commit, Request, Space, commit_claim,
                             commit_unclaim, commit_weigh)
from kvcore._native cimport (KV_CORRUPT, KV_IO, KV_NOMEM, KV_O_CREATE, KV_O_WRITE, KV_OK,
                             KV_POISONED, KvRow, KvSlice, kv_load_int, kv_load_u64, kv_mutex_lock,
                             kv_mutex_unlock, kv_store_int)
from kvcore._ring cimport ring_at, ring_drop
from kvcore._rows cimport rows_clear, rows_free, rows_key
from kvcore._segment_table cimport (table_at, table_bytes, table_count, table_retire,
                                    table_take_drained)
from kvcore._wal cimport (CELL_HEAD, WAL_HEADER_BYTES, WAL_MOVES, Wal, WalSegment, cell_read,
                          wal_append, wal_stage, wal_sync, wal_value)

cdef enum:
    ROWS_PER_STEP = 2048
    MOVE_BYTES = 256 * 1024      # of one batch of moves, or a quarter of a segment
    MOVE_HEAD = 24               # old position, mod, sub, bytes of the cell; the cell follows
    DEEP = 4096                  # versions above one in its chain; a move would walk them
    TWELFTHS = 12
    MOST_LIVE = 4                # a segment is emptied when at most so many twelfths of it live
    MOST_LIVE_PRESSED = 10       # near the quota
    RETIRE_AT_ONCE = 16
    FREED_PER_BYTE = 4           # of a checkpoint that is taken for space alone ...
    LOG_PER_BYTE = 3             # ... or so much log since the last one
    RESERVE_PART = 8             # of a segment, for a checkpoint on a full disk
    RESERVE_PER_VERSION = 96
    RESERVE_RETRY_NS = 1000000000
    PATH_BYTES = 4096


# ---- moves ---------------------------------------------------------------------------------------

cdef int moves_apply(BTree* t, const uint8_t* payload, uint64_t n, uint64_t payload_pos,
                     uint64_t* moved) noexcept nogil:
    cdef const uint8_t* p = payload
    cdef const uint8_t* end = payload + n
    cdef uint64_t old_pos
    cdef int64_t mod
    cdef uint32_t sub, cell
    cdef KvSlice key, value
    while p < end:
        if <uint64_t>(end - p) < MOVE_HEAD:
            return KV_CORRUPT
        memcpy(&old_pos, p, 8)
        memcpy(&mod, p + 8, 8)
        memcpy(&sub, p + 16, 4)
        memcpy(&cell, p + 20, 4)
        p += MOVE_HEAD
        if cell > <uint64_t>(end - p) or cell_read(p, cell, &key, &value) != cell:
            return KV_CORRUPT
        if bt_move(t, key, mod, sub, old_pos, payload_pos + <uint64_t>(p - payload)) == KV_OK:
            moved[0] += 1
        p += cell
    return KV_OK


cdef inline WalSegment* _segment_at(const Wal* w, uint64_t pos) noexcept nogil:
    cdef uint64_t i = (pos >> w.segment_shift) - w.first_seq
    return table_at(w, i) if i < table_count(w) else NULL


cdef int _add_move(Commit* c, KvSlice key, const KvRow* row) noexcept nogil:
    """One cell, as it is, to the batch being built."""
    cdef KvBuf* b = &c.space.batch
    cdef uint32_t cell = CELL_HEAD + row.key_len + row.v.len
    cdef KvSlice value
    cdef void* owned = NULL
    cdef uint8_t* p
    cdef int rc = wal_value(c.wal, row.v.pos, row.key_len, row.v.len, &value, &owned)
    if rc != KV_OK:
        return KV_OK                         # damaged: it stays, and its segment with it
    p = buf_room(b, MOVE_HEAD + cell)
    if p == NULL:
        free(owned)
        return KV_NOMEM
    memcpy(p, &row.v.pos, 8)
    memcpy(p + 8, &row.v.mod, 8)
    memcpy(p + 16, &row.v.sub, 4)
    memcpy(p + 20, &cell, 4)
    memcpy(p + MOVE_HEAD, value.ptr - CELL_HEAD - row.key_len, cell)
    free(owned)
    b.len += MOVE_HEAD + cell
    c.space.batch_count += 1
    return KV_OK


cdef int _write_moves(Commit* c) noexcept nogil:
    """The batch into the log, then into the index."""
    cdef Space* s = &c.space
    cdef Request control
    cdef uint64_t pos = 0, moved = 0
    cdef uint8_t* p
    cdef int rc
    if s.batch.len == 0:
        return KV_OK
    rc = commit_claim(c, &control, False)
    if rc != KV_OK:
        return rc
    rc = c.stopped
    if rc == KV_OK and kv_load_int(&c.wal.poison_errno):
        rc = KV_POISONED
    if rc == KV_OK:
        p = wal_stage(c.wal, s.batch.len)
        rc = KV_OK if p != NULL else KV_NOMEM
    if rc == KV_OK:
        memcpy(p, s.batch.p, s.batch.len)
        rc = wal_append(c.wal, WAL_MOVES, s.batch.len, s.batch_count, c.state.applied_index + 1,
                        c.state.term, c.state.revision, &pos)
    if rc == KV_OK and c.sync_mode == SYNC_ALWAYS:
        rc = wal_sync(c.wal)
    elif rc == KV_OK:
        kv_store_int(&c.dirty, 1)
    if rc == KV_OK:
        kv_mutex_lock(&c.lock)
        rc = moves_apply(&c.state.tree, s.batch.p, s.batch.len, pos, &moved)
        c.replay_from = c.wal.next_pos
        s.moved_values += moved
        s.moved_bytes += s.batch.len
        kv_mutex_unlock(&c.lock)
    commit_unclaim(c, &control)
    s.batch.len = 0
    s.batch_count = 0
    return rc


cdef inline bint _same(KvSlice a, KvSlice b) noexcept nogil:
    return a.len == b.len and memcmp(a.ptr, b.ptr, a.len) == 0


cdef int _move_rows(Commit* c) noexcept nogil:
    """What of the rows lies in a segment to be emptied; a key's versions stand together, oldest
    first."""
    cdef Space* s = &c.space
    cdef WalSegment* home
    cdef KvSlice key
    cdef uint64_t i = 0, end = 0
    cdef uint64_t most = min(<uint64_t>MOVE_BYTES, c.wal.segment_bytes // 4)
    cdef int rc = KV_OK
    while rc == KV_OK and i < s.rows.n:
        key = rows_key(&s.rows, i)
        if i == end:
            while end < s.rows.n and _same(rows_key(&s.rows, end), key):
                end += 1
        if s.rows.rows[i].v.version and end - i <= DEEP:
            home = _segment_at(c.wal, s.rows.rows[i].v.pos)
            if home != NULL and home.emptied:
                rc = _add_move(c, key, &s.rows.rows[i])
                if rc == KV_OK and s.batch.len >= most:
                    rc = _write_moves(c)
        i += 1
    return rc


# ---- the walk: a census in memory, or moves ------------------------------------------------------

cdef void _count_rows(Commit* c) noexcept nogil:
    cdef Space* s = &c.space
    cdef KvRow* row
    cdef uint64_t i, at, n
    for i in range(s.rows.n):
        row = &s.rows.rows[i]
        at = (row.v.pos >> c.wal.segment_shift) - s.first_seq
        if row.v.version == 0 or at >= s.span:
            continue
        n = CELL_HEAD + row.key_len + row.v.len
        s.table[at].live_bytes += n
        if i + 1 < s.rows.n and _same(rows_key(&s.rows, i), rows_key(&s.rows, i + 1)):
            s.table[at].history_bytes += n


cdef int _walk_begin(Commit* c, int what) noexcept nogil:
    cdef Space* s = &c.space
    cdef uint64_t i
    kv_mutex_lock(&c.lock)
    if not c.closed and not c.stopped:
        s.snap = bt_snapshot(&c.state.tree)
        s.walk_revision = c.state.revision
        s.walk_floor = c.state.compact_revision
        s.walk_end = c.replay_from
        if what == SPACE_COUNTING:
            space_census_begins(c)
            s.first_seq = c.wal.first_seq
            s.span = table_count(c.wal)
    kv_mutex_unlock(&c.lock)
    if s.snap == NULL:
        return KV_NOMEM
    s.walking = what
    s.cursor.len = 0
    if what == SPACE_COUNTING:
        s.table = <CkSegment*>calloc(s.span + 1, sizeof(CkSegment))
        if s.table == NULL:
            space_stop(c)
            return KV_NOMEM
        for i in range(s.span):
            s.table[i].seq = s.first_seq + i
    return KV_OK


cdef int _walk_on(Commit* c, bint* more) noexcept nogil:
    cdef Space* s = &c.space
    cdef KvSlice after
    cdef uint8_t* p
    cdef int rc
    after.ptr = s.cursor.p if s.cursor.len else NULL
    after.len = s.cursor.len
    rows_clear(&s.rows)
    rc = bt_dump(&s.snap.view, after, s.walk_floor, ROWS_PER_STEP, &s.rows, more)
    if rc != KV_OK:
        return rc
    if s.rows.n:
        after = rows_key(&s.rows, s.rows.n - 1)
        s.cursor.len = 0
        p = buf_room(&s.cursor, after.len)
        if p == NULL:
            return KV_NOMEM
        memcpy(p, after.ptr, after.len)
        s.cursor.len = after.len
    if s.walking == SPACE_COUNTING:
        _count_rows(c)
        return KV_OK
    rc = _move_rows(c)
    return rc if rc != KV_OK or more[0] else _write_moves(c)


cdef bint _walk_step(Commit* c) noexcept nogil:
    cdef Space* s = &c.space
    cdef bint more = False
    cdef int what = s.walking
    cdef int rc = _walk_on(c, &more)
    if rc == KV_OK and more:
        return True
    if what == SPACE_COUNTING and rc == KV_OK:
        space_counted(c, s.table, s.span, s.number + 1, s.walk_revision, s.walk_end)
    elif what == SPACE_MOVING:
        _tried(c, rc == KV_OK)
    space_stop(c)
    return rc == KV_OK


cdef void _tried(Commit* c, bint through) noexcept nogil:
    """What is still there after moves that went well cannot be moved; after others it may be."""
    cdef WalSegment* s
    cdef uint64_t i
    kv_mutex_lock(&c.lock)
    for i in range(table_count(c.wal)):
        s = table_at(c.wal, i)
        if s != NULL and s.emptied:
            s.tried_live = s.live_bytes if through else 0
    kv_mutex_unlock(&c.lock)


cdef void space_stop(Commit* c) noexcept nogil:
    cdef Space* s = &c.space
    if s.snap != NULL:
        kv_mutex_lock(&c.lock)
        if not c.closed:
            bt_release(&c.state.tree, s.snap)
        kv_mutex_unlock(&c.lock)
    s.snap = NULL
    s.walking = SPACE_IDLE
    free(s.table)
    s.table = NULL
    rows_free(&s.rows)
    buf_free(&s.cursor)
    buf_free(&s.batch)
    s.batch_count = 0


# ---- census --------------------------------------------------------------------------------------

cdef void space_census_begins(Commit* c) noexcept nogil:
    c.space.began_gone = c.state.tree.compacted_versions


cdef uint64_t space_used(const Commit* c) noexcept nogil:
    return table_bytes(c.wal)


cdef uint64_t _mark(Commit* c, uint64_t most) noexcept nogil:
    """Marks the segments that are at most `most` twelfths live; the bytes emptying them gains."""
    cdef Wal* w = c.wal
    cdef WalSegment* s
    cdef uint64_t i, used, gain = 0, moves = 0
    for i in range(table_count(w) - 1 if table_count(w) else 0):
        s = table_at(w, i)
        if s == NULL or s.retired:
            continue
        used = s.end - WAL_HEADER_BYTES
        # One that was tried and has lost nothing since holds what cannot be moved.
        s.emptied = (s.counted == c.space.number and 0 < s.live_bytes
                     and s.live_bytes * TWELFTHS <= used * most
                     and (s.tried_live == 0 or s.live_bytes < s.tried_live))
        # Near the quota a walk moves one segment's worth: what it empties goes after checkpoints.
        if s.emptied and c.space.pressed and moves + s.live_bytes > w.segment_bytes:
            s.emptied = False
        if s.emptied:
            gain += w.segment_bytes - s.live_bytes
            moves += s.live_bytes
    return gain


cdef bint _choose(Commit* c) noexcept nogil:
    """Marks the segments worth emptying, if that gives back at least one; under pressure fuller
    ones too, but no more than it takes.  REQUIRES: lock"""
    cdef uint64_t most = MOST_LIVE
    while most <= (MOST_LIVE_PRESSED if c.space.pressed else MOST_LIVE):
        if _mark(c, most) >= c.wal.segment_bytes:
            return True
        most += 2
    _mark(c, 0)                              # not worth a walk: they wait for company
    return False


cdef void space_counted(Commit* c, const CkSegment* table, uint64_t n, uint64_t number,
                        int64_t revision, uint64_t end) noexcept nogil:
    cdef Space* s = &c.space
    cdef WalSegment* seg
    cdef uint64_t i, upto, last = end >> c.wal.segment_shift
    kv_mutex_lock(&c.lock)
    s.number = number
    s.revision = revision
    s.gone = s.began_gone
    s.live_bytes = 0
    s.history_bytes = 0
    s.counted_bytes = 0
    for i in range(n):
        seg = _segment_at(c.wal, table[i].seq << c.wal.segment_shift)
        s.live_bytes += table[i].live_bytes - table[i].history_bytes
        s.history_bytes += table[i].history_bytes
        if seg != NULL and not seg.retired:
            upto = kv_load_u64(&seg.end)     # the committer may be closing it
            s.counted_bytes += (upto if upto else c.wal.segment_bytes) - WAL_HEADER_BYTES
        if seg == NULL or table[i].seq >= last:      # it was still being written
            continue
        seg.live_bytes = table[i].live_bytes
        seg.counted = number
        if seg.live_bytes:
            seg.empty_since = 0
        elif seg.empty_since == 0:
            seg.empty_since = number
    s.may_retire = True
    s.may_move = _choose(c)
    kv_mutex_unlock(&c.lock)


cdef uint64_t _garbage_since(const Commit* c) noexcept nogil:
    """A guess: what was compacted since the newest census began.  REQUIRES: lock"""
    cdef uint64_t gone = c.state.tree.compacted_versions - c.space.gone
    cdef uint64_t there = c.state.tree.keys + c.state.tree.chain_records + gone
    return space_used(c) // there * gone if there else 0


# ---- retirement ----------------------------------------------------------------------------------

cdef inline bint _is_empty(const Commit* c, const WalSegment* s) noexcept nogil:
    """Nothing names it, and no checkpoint does that an open may go back to."""
    return (s != NULL and not s.retired and s.empty_since and s.live_bytes == 0
            and (c.wal.in_memory or s.empty_since <= c.ck_oldest))


cdef void _forget_events(Commit* c) noexcept nogil:
    """The ring lets go of records up to the newest that names a retired segment.

    Watchers that have not seen them read them from the index."""
    cdef uint64_t seq = c.hub.ring.next
    cdef WalSegment* s
    while seq > c.hub.ring.first:
        seq -= 1
        s = _segment_at(c.wal, ring_at(&c.hub.ring, seq).pos)
        if s == NULL or s.retired:
            ring_drop(&c.hub.ring, seq + 1)
            return


cdef bint _let_go_of_pages(Commit* c) noexcept nogil:
    """Snapshots kept for the next page of a list; False while one is being read.  REQUIRES: lock"""
    cdef int i
    for i in range(CACHED_SNAPSHOTS):
        if c.cached[i].readers:
            return False
    for i in range(CACHED_SNAPSHOTS):
        if c.cached[i].snap != NULL:
            bt_release(&c.state.tree, c.cached[i].snap)
            c.cached[i].snap = NULL
    return True


cdef bint _retire(Commit* c) noexcept nogil:
    """Empty segments leave the table, some at once; whether there may be more."""
    cdef Wal* w = c.wal
    cdef uint64_t found[RETIRE_AT_ONCE]
    cdef uint64_t i
    cdef int n = 0, k
    cdef bint ok
    kv_mutex_lock(&c.lock)
    for i in range(table_count(w) - 1 if table_count(w) and not c.closed else 0):
        if n < RETIRE_AT_ONCE and _is_empty(c, table_at(w, i)):
            found[n] = w.first_seq + i
            n += 1
    ok = n > 0 and _let_go_of_pages(c)
    if ok:
        for k in range(n):
            if table_retire(w, found[k]) == KV_OK:
                c.space.retired_segments += 1
        _forget_events(c)
    kv_mutex_unlock(&c.lock)
    if n == 0:
        c.space.may_retire = False
    return ok and n == RETIRE_AT_ONCE


cdef uint64_t _waiting(const Commit* c) noexcept nogil:
    """Bytes of segments that the next checkpoint lets go, or makes known as empty.

    REQUIRES: lock"""
    cdef const Wal* w = c.wal
    cdef const WalSegment* s
    cdef uint64_t i, n = 0
    for i in range(table_count(w) - 1 if table_count(w) else 0):
        s = table_at(w, i)
        if s != NULL and not s.retired and (s.emptied or s.empty_since):
            n += w.segment_bytes
    return n


cdef bint space_wants_checkpoint(Commit* c) noexcept nogil:
    """Whether one is worth taking for the space it gives back: for a good part of what is used, and
    for more than it costs to write."""
    cdef uint64_t used, waiting, garbage, written, least
    kv_mutex_lock(&c.lock)
    used = space_used(c)
    waiting = _waiting(c)
    garbage = _garbage_since(c)
    written = c.replay_from - c.ck_pos
    kv_mutex_unlock(&c.lock)
    if c.space.pressed:
        return waiting > 0 or garbage >= c.wal.segment_bytes
    least = 0 if written >= LOG_PER_BYTE * c.ck_bytes else FREED_PER_BYTE * c.ck_bytes
    return waiting > 0 and waiting * 8 >= used and waiting >= least or (
        garbage >= c.wal.segment_bytes and garbage * 4 >= used and garbage >= least)


cdef bint _census_due(Commit* c) noexcept nogil:
    """In memory, where no checkpoint counts."""
    cdef bint due
    cdef uint64_t garbage
    kv_mutex_lock(&c.lock)
    garbage = _garbage_since(c)
    due = ((garbage >= c.wal.segment_bytes
            and (garbage * 8 >= space_used(c) or c.space.pressed))
           or (c.space.recount and table_count(c.wal) > 1))
    kv_mutex_unlock(&c.lock)
    return due


cdef bint _reserve_path(const Commit* c, char* path) noexcept nogil:
    """A name that the next open removes, if a crash leaves it."""
    return snprintf(path, PATH_BYTES, b"%s/reserve.tmp", c.directory) < PATH_BYTES


cdef void _keep_reserve(Commit* c, uint64_t now_ns) noexcept nogil:
    """Blocks set aside, so that a full disk has room for the checkpoint that empties it.

    Where two checkpoints are kept, the older one is that room, and a little is enough."""
    cdef Space* s = &c.space
    cdef char path[PATH_BYTES]
    cdef uint64_t wanted = c.wal.segment_bytes // RESERVE_PART
    cdef int handle
    if (c.wal.in_memory or now_ns < s.reserve_at_ns or s.pressed
            or table_count(c.wal) < 2 or not _reserve_path(c, path)):
        return
    s.reserve_at_ns = now_ns + RESERVE_RETRY_NS
    if c.ck_oldest == 0 or c.ck_oldest == c.ck_number:
        kv_mutex_lock(&c.lock)
        wanted += (c.state.tree.keys + c.state.tree.chain_records) * RESERVE_PER_VERSION
        kv_mutex_unlock(&c.lock)
    if wanted <= s.reserved <= 2 * wanted:
        return
    handle = c.wal.io.open(c.wal.io.ctx, path, KV_O_WRITE | KV_O_CREATE)
    if handle < 0:
        return
    if s.reserved > wanted:
        c.wal.io.truncate(c.wal.io.ctx, handle, 0)
        s.reserved = 0
    if c.wal.io.allocate(c.wal.io.ctx, handle, wanted) == 0:
        s.reserved = wanted                  # else what there was stays
    c.wal.io.close(c.wal.io.ctx, handle)
    if s.reserved == 0:
        c.wal.io.unlink(c.wal.io.ctx, path)


cdef bint space_give_reserve(Commit* c) noexcept nogil:
    cdef char path[PATH_BYTES]
    if c.space.reserved == 0 or not _reserve_path(c, path):
        return False
    c.space.reserved = 0
    return c.wal.io.unlink(c.wal.io.ctx, path) == 0


cdef void _press(Commit* c) noexcept nogil:
    """Near the quota, or on a full disk, segments are emptied that gain little."""
    cdef uint64_t used
    kv_mutex_lock(&c.lock)
    commit_weigh(c)
    used = table_bytes(c.wal) + RESERVED_SEGMENTS * c.wal.segment_bytes
    c.space.pressed = (c.quota != 0 and used + c.ck_bytes > c.quota - c.quota // 4
                       or kv_load_int(&c.wal.no_space) != 0)
    kv_mutex_unlock(&c.lock)


# ---- the step ------------------------------------------------------------------------------------

cdef bint space_step(Commit* c, uint64_t now_ns) noexcept nogil:
    cdef Space* s = &c.space
    cdef WalSegment* gone = table_take_drained(c.wal)
    cdef bint more = gone != NULL
    if gone != NULL and ahead_release(c.wal, gone) != KV_OK:
        kv_store_int(&c.maint_status, KV_IO)
    if s.may_retire and _retire(c):
        more = True
    _press(c)
    _keep_reserve(c, now_ns)
    if s.walking != SPACE_IDLE:
        return _walk_step(c) or more
    if c.ck_active:
        return more                          # its snapshot names what is; moves wait
    if s.may_move:
        s.may_move = False
        s.recount = True
        return _walk_begin(c, SPACE_MOVING) == KV_OK or more
    if c.wal.in_memory and _census_due(c):
        s.recount = False
        return _walk_begin(c, SPACE_COUNTING) == KV_OK or more
    return more
