# SPDX-License-Identifier: Apache-2.0
"""What can be saved of a damaged directory: the lenient twin of an open.

    segments, mapped to be read ─► checkpoint, or an empty index ─► batches that prove themselves,
    in order, over gaps ─► sift: versions whose cells prove themselves ─► written by _image

    exact    nothing was lost so far: a command does what it did
    inexact  behind a gap: only what is known of each command without what was lost

What is known behind a gap: a batch says the revision it began at, so the next one says how many of
its commands changed something: a plain put always did, and when the rest adds up to all or none,
each command's answer is known. A transaction that changed something took the branch that can; when
both can, or the batch's numbers do not decide, it is left out and told. So is what would copy an
older value that may have been replaced (ignore_value), and a lease's end. A lease that is named
and not known was granted in the gap: it is granted again, so that its keys are kept.

Invariants: nothing-invented - a version in the index comes from a batch that proves itself, at the
revision it was given; never-below - `revision` is at least what the log says was reached; told -
every revision left out is in `notes`.
Thread safety: none.  Ownership: maps of the files, read-only, until the object goes.
May not know: which files, what is done with the notes.
"""

import os

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from kvcore._btree cimport (BtLoader, BtSnapshot, BtView, BTree, bt_deinit, bt_dump, bt_find,
                            bt_find_at, bt_init, bt_load_begin, bt_load_end, bt_load_push, bt_move,
                            bt_release, bt_snapshot, bt_view)
from kvcore._checkpoint cimport CkInfo, CkSegment, ck_load
from kvcore._command cimport (CMD_ALARM, CMD_COMPACT, CMD_DELETE, CMD_LEASE_GRANT,
                              CMD_LEASE_REVOKE, CMD_PUT, CMD_RANGE, CMD_TXN, FLAG_IGNORE_LEASE,
                              FLAG_IGNORE_VALUE, Cursor, KvBuf, PutCmd, buf_free, buf_room,
                              decode_put, mp_array, mp_int, mp_skip)
from kvcore._image cimport image_checkpoint, image_segment
from kvcore._leases cimport lt_dump, lt_find, lt_grant
from kvcore._native cimport (KV_CORRUPT, KV_IO, KV_NEWER_FORMAT, KV_NOMEM, KV_OK, KV_O_READ, Io,
                             KvIo, KvSlice, KvVersion, kv_crc32c, kv_plain_mem, kv_raise)
from kvcore._recovery cimport raise_errno
from kvcore._result cimport KvResult, result_free, result_init
from kvcore._rows cimport KvRows, rows_clear, rows_free, rows_init, rows_key
from kvcore._segment cimport batch_bytes, batch_read, seg_find_proof, seg_left_behind
from kvcore._segment_table cimport table_push
from kvcore._startup cimport restore_leases
from kvcore._state cimport KvState, state_apply, state_deinit, state_init
from kvcore._wal cimport (CELL_HEAD, WAL_CEILING, WAL_COMMANDS, WAL_HEADER_BYTES, WAL_MARK,
                          WAL_MOVES, WAL_SEAL, Log, Wal, WalBatch, WalSegment, cell_read,
                          wal_value)

from kvcore._native import POSIX_IO
from kvcore.errors import CorruptError, NewerFormatError, OutOfMemoryError

cdef int64_t MAX_REVISION = <int64_t>1 << 62

cdef enum:
    ORDER = 32
    ROWS_PER_STEP = 4096
    MOVE_HEAD = 24               # as in _space
    WITHOUT_END = 9000000000     # seconds: the longest TTL there is
    ALL = 1                      # whether a batch's uncertain commands changed something
    NONE = 0
    UNKNOWN = -1


class BatchHead:
    """What a valid batch says of itself; `end`: the offset behind it."""

    __slots__ = ("kind", "revision", "first_index", "count", "durable_upto", "end")

    def __init__(self, kind, revision, first_index, count, durable_upto, end):
        self.kind, self.revision, self.first_index = kind, revision, first_index
        self.count, self.durable_upto, self.end = count, durable_upto, end


@cython.final
@cython.no_gc_clear                      # the log must outlive the state that reads it
cdef class Salvage:
    """One directory's segments, and the index that is got out of them."""

    cdef Log log
    cdef Wal* w
    cdef const KvIo* io
    cdef KvState state
    cdef bint made
    cdef bint exact                      # the state is what it was at this revision
    cdef int64_t gap_end                 # newest revision that was lost
    cdef readonly int64_t ceiling
    cdef readonly list notes             # (first, last revision lost, why); first > last: no change

    def __init__(self, uint64_t segment_bytes):
        self.log = Log(None, segment_bytes=segment_bytes)
        self.w = &self.log.c
        self.io = (<Io>POSIX_IO).table
        kv_raise(state_init(&self.state, ORDER, self.w))
        self.w.first_seq = 1
        self.made = self.exact = True
        self.notes = []

    def __dealloc__(self):
        if self.made:
            state_deinit(&self.state)

    @property
    def revision(self):
        """The newest revision that is known to have been reached."""
        return self.state.revision

    # --- files ----------------------------------------------------------------------------------

    def load(self, path):
        """A checkpoint that proves itself, into the index: (replay_from, {seq: (nonce, seed,
        live bytes)}).  CorruptError otherwise, and the index is empty."""
        cdef bytes name = os.fsencode(path)
        cdef CkInfo info
        cdef CkSegment* table = NULL
        cdef int64_t* leases = NULL
        cdef const char* reason = b""
        cdef uint64_t at = 0, i
        cdef int rc
        memset(&info, 0, sizeof(CkInfo))
        rc = ck_load(self.io, name, &info, &table, &leases, &self.state.tree, &reason, &at)
        if rc == KV_OK and info.segment_bytes != self.w.segment_bytes:
            reason = b"segment sizes differ"
            rc = KV_CORRUPT
        if rc == KV_OK:
            rc = restore_leases(&self.state, leases, info.leases)
            if rc == KV_CORRUPT:
                reason = b"checkpoint's leases and keys do not agree"
        listed = {table[i].seq: (table[i].nonce, table[i].seed, table[i].live_bytes)
                  for i in range(info.segments)} if rc == KV_OK else {}
        free(table)
        free(leases)
        if rc == KV_OK:
            self.state.revision = info.revision
            self.state.compact_revision = info.compact_revision
            self.state.applied_index = info.applied_index
            self.state.term = info.term
            self.state.alarms = info.alarms
            self.ceiling = info.ceiling
            return info.replay_from, listed
        state_deinit(&self.state)
        kv_raise(state_init(&self.state, ORDER, self.w))
        if rc == KV_NEWER_FORMAT:
            raise NewerFormatError(f"{NewerFormatError.message} ({path})")
        if rc == KV_CORRUPT:
            raise CorruptError(path=path, offset=at, reason=reason.decode())
        kv_raise(rc)

    def add_segment(self, uint64_t seq, path):
        """Maps a file (in ascending order of seq): (nonce, seed, segment_bytes) of its header,
        zeros when that is damaged; None when there is nothing in it."""
        cdef bytes name = os.fsencode(path)
        cdef WalSegment* s
        cdef int64_t size
        cdef void* view = NULL
        cdef int rc
        cdef int handle = self.io.open(self.io.ctx, name, KV_O_READ)
        if handle < 0:
            raise_errno(handle, f"cannot open {path}")
        size = self.io.size(self.io.ctx, handle)
        rc = <int>size if size < 0 else 0
        size = min(size, <int64_t>self.w.segment_bytes)
        if size > WAL_HEADER_BYTES:
            rc = self.io.map(self.io.ctx, handle, size, &view)
        self.io.close(self.io.ctx, handle)
        raise_errno(rc, f"cannot read {path}")
        if view == NULL:
            return None
        s = <WalSegment*>calloc(1, sizeof(WalSegment))
        if s == NULL or self._push(seq, s) != 0:
            free(s)
            self.io.unmap(self.io.ctx, view, size)
            raise OutOfMemoryError()
        s.seq = seq
        s.handle = -1
        s.view = <const uint8_t*>view
        s.map_bytes = s.file_bytes = size
        s.recycled = s.view[44] & 1          # then only batches of its own count as left behind
        return _header_of(s)

    cdef int _push(self, uint64_t seq, WalSegment* s) noexcept:
        if self.w.segment_count == 0:
            self.w.first_seq = seq
        while self.w.first_seq + self.w.segment_count < seq:
            if table_push(self.w, NULL) != 0:
                return -1
        self.w.next_pos = (seq + 1) << self.w.segment_shift
        return table_push(self.w, s)

    cdef WalSegment* _at(self, uint64_t seq) noexcept:
        if not self.w.first_seq <= seq < self.w.first_seq + self.w.segment_count:
            return NULL
        return self.w.segments[seq - self.w.first_seq]

    def identify(self, uint64_t seq, uint64_t nonce, uint32_t seed):
        """What a segment's batches are checked by."""
        cdef WalSegment* s = self._at(seq)
        s.nonce, s.seed = nonce, seed

    cdef bint _read(self, uint64_t seq, uint64_t off, WalBatch* b, WalSegment** out) noexcept:
        cdef WalSegment* s = self._at(seq)
        out[0] = s
        return (s != NULL and s.nonce != 0
                and batch_read(s, s.view, self.w.segment_shift, off, b))

    def batch(self, uint64_t seq, uint64_t offset):
        """The valid batch there, or None."""
        cdef WalBatch b
        cdef WalSegment* s
        if not self._read(seq, offset, &b, &s):
            return None
        return BatchHead(b.kind, b.revision, b.first_index, b.count, b.durable_upto,
                         offset + batch_bytes(b.len))

    def find(self, uint64_t seq, uint64_t offset, *, bint proof=False):
        """Offset of the first valid batch behind `offset`; 0: none.  proof: of one that says more
        than all up to `offset` was synced."""
        cdef WalSegment* s = self._at(seq)
        cdef WalBatch b
        cdef uint64_t at = offset + WAL_HEADER_BYTES, upto = 0
        if s == NULL or s.nonce == 0:
            return 0
        if proof:
            return seg_find_proof(s, s.view, self.w.segment_shift, offset, &upto)
        while at + WAL_HEADER_BYTES <= s.file_bytes:
            if batch_read(s, s.view, self.w.segment_shift, at, &b):
                return at
            at += WAL_HEADER_BYTES
        return 0

    def left_behind(self, uint64_t seq, uint64_t offset):
        """Bytes from there to the end of what a batch of this segment may have left."""
        cdef WalSegment* s = self._at(seq)
        return 0 if s == NULL else seg_left_behind(s, s.view, self.w.segment_shift, offset)

    def bytes_at(self, uint64_t seq, uint64_t offset, uint64_t count):
        """Bytes of a segment as they are; fewer at its end."""
        cdef WalSegment* s = self._at(seq)
        if s == NULL or offset >= s.file_bytes:
            return b""
        count = min(count, s.file_bytes - offset)
        return s.view[offset:offset + count]

    # --- replay ---------------------------------------------------------------------------------

    def replay(self, uint64_t seq, uint64_t offset, int64_t following):
        """The valid batch there.  following: revision behind it, -1: not known.  False: it
        contradicts what is known by now, and was left out."""
        cdef WalBatch b
        cdef WalSegment* s
        if not self._read(seq, offset, &b, &s):
            raise CorruptError(reason="no valid batch")
        if b.revision < 0 or b.revision >= MAX_REVISION or b.first_index > MAX_REVISION:
            return False
        if b.kind == WAL_MARK:
            return True
        if b.kind == WAL_CEILING and b.first_index > self.state.applied_index:
            self.ceiling = b.revision
            return True
        if b.kind != WAL_COMMANDS and b.kind != WAL_SEAL and b.kind != WAL_MOVES:
            return False
        if b.kind == WAL_COMMANDS and b.count == 0:
            return False
        if b.first_index <= self.state.applied_index or b.revision < self.state.revision:
            # told already, where it is of revisions that were passed over
            return b.first_index > self.state.applied_index and b.revision < self.gap_end
        self._gap(b.first_index, b.revision)
        if b.kind == WAL_SEAL:
            self.ceiling = 0
        elif b.kind == WAL_MOVES:
            return self._moves(s.view + offset + WAL_HEADER_BYTES, b.len,
                               b.pos + WAL_HEADER_BYTES)
        else:
            self._commands(&b, s.view + offset + WAL_HEADER_BYTES, following)
        return True

    def lose(self, int64_t count, why):
        """So many revisions behind the newest may have been there."""
        self._lost(self.state.revision + count, why)

    def doubt(self, int64_t first, int64_t last, why):
        """Something of these revisions is missing in what was loaded."""
        self.notes.append((first, last, why))
        self.gap_end = last
        self.exact = False

    cdef _gap(self, uint64_t first_index, int64_t revision):
        """Entries may be missing before `first_index`, at which the store was at `revision`."""
        if first_index != self.state.applied_index + 1:
            self._lost(revision, "entries of the log are lost")
            self.exact = False
        self.state.applied_index = first_index - 1
        self.state.revision = revision

    cdef _lost(self, int64_t upto, why):
        """Revisions from the next one up to `upto` are lost."""
        self.notes.append((self.state.revision + 1, upto, why))
        if upto > self.state.revision:
            self.state.revision = self.gap_end = upto
            self.exact = False

    cdef bint _moves(self, const uint8_t* p, uint64_t n, uint64_t pos) except? False:
        """As moves_apply, but a move whose predecessor was lost is followed too; False: not all of
        it are moves."""
        cdef BtView view
        cdef KvSlice key, value
        cdef KvVersion v
        cdef int64_t mod
        cdef uint32_t sub, cell
        cdef uint64_t off = 0
        while off + MOVE_HEAD < n:
            memcpy(&mod, p + off + 8, 8)
            memcpy(&sub, p + off + 16, 4)
            memcpy(&cell, p + off + 20, 4)
            off += MOVE_HEAD
            if cell > n - off or cell_read(p + off, cell, &key, &value) != cell:
                return False
            view = bt_view(&self.state.tree)
            if (bt_find_at(&view, key, max(mod, view.floor_next), &v) == KV_OK
                    and v.mod == mod and v.sub == sub):
                bt_move(&self.state.tree, key, mod, sub, v.pos, pos + off)
            off += cell
        return off == n

    cdef _commands(self, const WalBatch* b, const uint8_t* payload, int64_t following):
        cdef Cursor cur, start
        cdef uint64_t pos = b.pos + WAL_HEADER_BYTES
        cdef int64_t first = self.state.revision
        cdef int verdict = self._verdict(b, payload, following)
        cdef uint32_t _i, left = b.count
        cdef bint known = True
        cur.p = payload
        cur.end = payload + b.len
        cur.bad = False
        for _i in range(b.count):
            start = cur
            mp_skip(&cur)
            if cur.bad:
                known = False
            if known:
                known = self._command(start, payload, pos, verdict)
            if not known:
                break
            left -= 1
        if following < 0 and not known:
            self._lost(self.state.revision + left, "what came behind in its batch is not known")
        elif following > self.state.revision and following - first <= b.count:
            self._lost(following, "what came behind in its batch is not known" if not known
                       else "a change could not be made again")
        if known and cur.p != cur.end:
            self.notes.append((self.state.revision + 1, self.state.revision,
                               "bytes behind the last command of a batch"))
        self.state.applied_index = b.first_index + b.count - 1

    cdef int _verdict(self, const WalBatch* b, const uint8_t* payload, int64_t following) noexcept:
        """Whether all or none of the commands that may change something did."""
        cdef Cursor cur, one
        cdef PutCmd put
        cdef int64_t sure = 0, unsure = 0, kind
        cdef uint32_t _i
        cur.p = payload
        cur.end = payload + b.len
        cur.bad = False
        for _i in range(b.count):
            one = cur
            mp_array(&one)
            kind = mp_int(&one)
            if kind == CMD_PUT:
                decode_put(&one, &put)
                if put.lease == 0 and not put.flags & (FLAG_IGNORE_VALUE | FLAG_IGNORE_LEASE):
                    sure += 1
                else:
                    unsure += 1
            elif kind == CMD_DELETE or kind == CMD_TXN or kind == CMD_LEASE_REVOKE:
                unsure += 1
            mp_skip(&cur)
        if cur.bad:
            return UNKNOWN
        if unsure == 0 or (following >= 0 and following - b.revision == sure):
            return NONE
        return ALL if following >= 0 and following - b.revision == sure + unsure else UNKNOWN

    cdef bint _command(self, Cursor cur, const uint8_t* payload, uint64_t pos,
                       int verdict) except? False:
        """One command; False when it is not known whether it changed something."""
        cdef KvState* s = &self.state
        cdef Cursor one = cur, begin = cur
        cdef KvResult out
        cdef int64_t kind, before = s.revision
        cdef PutCmd put
        cdef bint sure = False, tried
        cdef int rc, status
        mp_array(&one)
        kind = mp_int(&one)
        if kind == CMD_PUT:
            decode_put(&one, &put)
            sure = put.lease == 0 and not put.flags & (FLAG_IGNORE_VALUE | FLAG_IGNORE_LEASE)
        if self.exact or sure or kind in (CMD_COMPACT, CMD_LEASE_GRANT, CMD_ALARM, CMD_RANGE):
            result_init(&out)
            out.brief = True
            rc = state_apply(s, &cur, payload, pos, &out)
            status = out.status
            result_free(&out)
            if rc == KV_NOMEM or rc == KV_IO:
                kv_raise(rc)
            if rc != KV_OK:
                return False
            if not (self.exact and status == KV_CORRUPT):
                return True
        if verdict != ALL:
            return verdict == NONE           # it changed nothing then
        if kind == CMD_TXN:
            tried = self._force(begin, payload, pos)
        elif kind == CMD_DELETE or (kind == CMD_PUT and self._fresh(&put)):
            if kind == CMD_PUT:
                self._hold(put.lease)
            state_apply(s, &begin, payload, pos, NULL)
            tried = kind == CMD_DELETE
        else:
            tried = False
        if s.revision == before and tried:
            s.revision += 1                  # it deleted what is not there any more
        elif s.revision == before:
            self._lost(before + 1, "it depends on what was lost or is damaged")
        return True

    cdef bint _fresh(self, const PutCmd* put) noexcept:
        """Whether what a put takes over from the version before is known."""
        cdef BtView view = bt_view(&self.state.tree)
        cdef KvVersion v
        if not put.flags & (FLAG_IGNORE_VALUE | FLAG_IGNORE_LEASE):
            return True
        return bt_find(&view, put.key, &v) == KV_OK and v.version and v.mod > self.gap_end

    cdef int _hold(self, int64_t lease) except -1:
        """A lease whose grant was lost is granted again, without an end."""
        if lease == 0 or lt_find(&self.state.leases, lease) != NULL:
            return 0
        kv_raise(lt_grant(&self.state.leases, lease, WITHOUT_END, 0))
        self.notes.append((self.state.revision + 1, self.state.revision,
                           f"the grant of lease {lease}; it is granted again, without an end"))
        return 0

    cdef int _hold_all(self, Cursor cur) except -1:
        """The leases that the puts of a branch name."""
        cdef Cursor one
        cdef PutCmd put
        cdef uint32_t _i, n = mp_array(&cur)
        for _i in range(n):
            one = cur
            mp_skip(&cur)
            mp_array(&one)
            if mp_int(&one) == CMD_PUT:
                decode_put(&one, &put)
                self._hold(put.lease)
        return 0

    cdef int _writes(self, Cursor cur) noexcept:
        """Of a branch: 0 nothing, 1 deletes, 2 puts too, -1 cannot be told."""
        cdef Cursor one
        cdef PutCmd put
        cdef int64_t kind
        cdef int most = 0
        cdef uint32_t _i, n = mp_array(&cur)
        for _i in range(n):
            one = cur
            mp_skip(&cur)
            mp_array(&one)
            kind = mp_int(&one)
            if kind == CMD_TXN:
                return -1
            if kind == CMD_DELETE:
                most = max(most, 1)
            if kind == CMD_PUT:
                decode_put(&one, &put)
                if not self._fresh(&put):
                    return -1
                most = 2
        return -1 if cur.bad else most

    cdef bint _force(self, Cursor cur, const uint8_t* payload, uint64_t pos) except? True:
        """A transaction that changed something: the branch that can, without its compares.

        True when it is done, or deleted what is not there."""
        cdef Cursor yes, no, one
        cdef KvBuf b
        cdef uint8_t* p
        cdef int a, c
        cdef uint64_t n
        cdef int64_t before = self.state.revision
        mp_array(&cur)
        mp_int(&cur)
        mp_skip(&cur)
        yes = no = cur
        mp_skip(&no)
        a, c = self._writes(yes), self._writes(no)
        if a < 0 or c < 0 or (a > 0) == (c > 0):
            return False
        one = yes if a else no
        self._hold_all(one)
        cur = one
        mp_skip(&cur)
        n = cur.p - one.p
        memset(&b, 0, sizeof(KvBuf))
        p = buf_room(&b, n + 4)
        if p == NULL:
            raise OutOfMemoryError()
        p[0], p[1], p[2], p[n + 3] = 0x94, CMD_TXN, 0x90, 0x90
        memcpy(p + 3, one.p, n)
        cur.p = p
        cur.end = p + n + 4
        # positions are counted from where the branch's bytes stand in the log
        state_apply(&self.state, &cur, p + 3 - (one.p - payload), pos, NULL)
        buf_free(&b)
        return self.state.revision > before or max(a, c) == 1

    # --- what is readable -----------------------------------------------------------------------

    def sift(self, progress=None):
        """Leaves out every version whose cell is damaged: [(key, mod_revision, position,
        mod_revision that the key shows now; 0: none)]."""
        cdef BTree fresh
        cdef BtLoader* loader
        cdef BtView view = bt_view(&self.state.tree)
        cdef KvRows rows
        cdef KvSlice after
        cdef bint more = True
        cdef bytes last = b""
        cdef list damaged = []
        cdef int rc, end_rc
        kv_raise(bt_init(&fresh, ORDER, &kv_plain_mem))
        loader = bt_load_begin(&fresh)
        rows_init(&rows)
        rc = KV_OK if loader != NULL else KV_NOMEM
        try:
            while rc == KV_OK and more:
                after.ptr = <const uint8_t*>last if last else NULL
                after.len = len(last)
                rows_clear(&rows)
                rc = bt_dump(&view, after, self.state.compact_revision, ROWS_PER_STEP, &rows,
                             &more)
                if rc != KV_OK or rows.n == 0:
                    break
                rc = self._sift_rows(loader, &rows, damaged)
                after = rows_key(&rows, rows.n - 1)
                last = after.ptr[:after.len]
                if progress is not None:
                    progress(rows.n)
        finally:
            rows_free(&rows)
            end_rc = bt_load_end(loader) if loader != NULL else KV_OK
        if rc == KV_OK:
            rc = end_rc
        if rc != KV_OK:
            bt_deinit(&fresh)
            kv_raise(rc)
        fresh.floor = fresh.floor_next = max(self.state.compact_revision, 0)
        bt_deinit(&self.state.tree)
        self.state.tree = fresh
        return damaged

    cdef int _sift_rows(self, void* loader, KvRows* rows, list damaged) except? -1:
        cdef KvSlice key
        cdef uint64_t i = 0, end
        cdef int rc = KV_OK
        while rc == KV_OK and i < rows.n:
            key = rows_key(rows, i)
            end = i
            while end < rows.n and rows_key(rows, end).len == key.len and memcmp(
                    rows_key(rows, end).ptr, key.ptr, key.len) == 0:
                end += 1
            rc = self._sift_key(loader, rows, i, end, key, damaged)
            i = end
        return rc

    cdef int _sift_key(self, void* loader, KvRows* rows, uint64_t first, uint64_t end,
                       KvSlice key, list damaged) except? -1:
        """The versions [first, end) of one key, those that are kept moved to the front."""
        cdef uint64_t i, n = 0
        cdef KvVersion* v
        cdef KvVersion* kept = <KvVersion*>calloc(end - first, sizeof(KvVersion))
        cdef list lost = []
        cdef int64_t shows = 0
        cdef int rc = KV_OK
        if kept == NULL:
            return KV_NOMEM
        for i in range(first, end):
            v = &rows.rows[i].v
            if v.version and not self._readable(key, v):
                lost.append((v.mod, v.pos))
            elif v.version or not lost or (n and kept[n - 1].version):
                kept[n] = v[0]               # no tombstone without a life before it, once cut
                n += 1
        if n:
            v = kept + n - 1
            if v.lease and lt_find(&self.state.leases, v.lease) == NULL:
                v.lease = 0                  # an older version's, which ended since
            shows = v.mod if v.version else 0
            rc = bt_load_push(<BtLoader*>loader, key, kept, <uint32_t>n)
        for mod, pos in lost:
            damaged.append((key.ptr[:key.len], mod, pos, shows))
        free(kept)
        return rc

    cdef bint _readable(self, KvSlice key, const KvVersion* v) except? False:
        cdef KvSlice value
        cdef void* owned = NULL
        cdef WalSegment* s
        cdef uint64_t end
        cdef int rc = wal_value(self.w, v.pos, <uint32_t>key.len, v.len, &value, &owned)
        free(owned)
        if rc != KV_OK or memcmp(value.ptr - 5 - key.len, key.ptr, key.len) != 0:
            return False
        s = self._at(v.pos >> self.w.segment_shift)
        end = v.pos + CELL_HEAD + key.len + v.len - (s.seq << self.w.segment_shift)
        if s.end < end:
            s.end = end
        return True

    def counts(self):
        """(live keys, versions and tombstones, compact revision)"""
        cdef BTree* t = &self.state.tree
        cdef BtView view = bt_view(t)
        return view.live, t.keys + t.chain_records, max(self.state.compact_revision, 0)

    # --- out ------------------------------------------------------------------------------------

    def write(self, directory):
        """The sifted index as a checkpoint: (numbers of its header, segment table, {seq: bytes of
        it that matter})."""
        cdef CkInfo info
        cdef BtSnapshot* snap
        cdef int64_t* leases
        cdef uint64_t i
        memset(&info, 0, sizeof(CkInfo))
        info.segment_bytes = self.w.segment_bytes
        info.replay_from = (((self.w.first_seq + self.w.segment_count) << self.w.segment_shift)
                            + WAL_HEADER_BYTES)
        info.applied_index = self.state.applied_index
        info.term = self.state.term
        info.revision = max(self.state.revision, self.ceiling)
        info.compact_revision = self.state.compact_revision
        info.leases = self.state.leases.leases
        info.alarms = self.state.alarms
        snap = bt_snapshot(&self.state.tree)
        leases = lt_dump(&self.state.leases)
        if snap == NULL or leases == NULL:
            free(leases)
            raise OutOfMemoryError()
        try:
            table = image_checkpoint(self.io, os.fsencode(directory), &info, snap, leases, self.w)
        finally:
            bt_release(&self.state.tree, snap)
        ends = {self.w.first_seq + i: self.w.segments[i].end
                for i in range(self.w.segment_count) if self.w.segments[i] != NULL}
        return {"segment_bytes": info.segment_bytes, "replay_from": info.replay_from,
                "applied_index": info.applied_index, "term": info.term,
                "revision": info.revision}, table, ends

    def write_segment(self, path, header, seq, upto):
        """A segment as a file that begins with `header`; its CRC-32C."""
        return image_segment(self.io, path, header, self.w, seq, upto)


cdef object _header_of(const WalSegment* s):
    """(nonce, seed, segment_bytes) of a segment's header; zeros when it is damaged."""
    cdef uint32_t crc, seed
    cdef uint64_t seq, nonce, size
    memcpy(&crc, s.view + 8, 4)
    memcpy(&seq, s.view + 16, 8)
    memcpy(&size, s.view + 24, 8)
    memcpy(&nonce, s.view + 32, 8)
    memcpy(&seed, s.view + 40, 4)
    if (memcmp(s.view, b"KVCSEG01", 8) != 0 or seq != s.seq
            or crc != kv_crc32c(0, s.view + 12, WAL_HEADER_BYTES - 12)):
        return 0, 0, 0
    return nonce, seed, size
