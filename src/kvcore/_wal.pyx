# SPDX-License-Identifier: Apache-2.0
"""The log: fixed-size segments of checksummed batches; append, sync, read by position.

    staging: | header | payload |  --one write_at-->  segment 3: | h | b | b | b |....zeros....|
    position = seq x segment_bytes + offset                       tail ^           ^ written_upto
    table:   [ seg 1 | seg 2 | seg 3 ]  published by segment_count; old tables stay until the end

Invariants: (one-in-flight) with sync="always" a batch is written only when all before is durable;
(end-is-known) the first batch of a segment names, as durable_upto, where the one before ends;
(no-collision) blocks below written_upto are never zeroed again, and the appender raises it first;
(value-proof) bytes returned for a cell agree with its CRC and with the caller's lengths;
(first-error-stays) after the first failed write or sync nothing is written.
Thread safety & ownership: appends and syncs by one caller at a time (the committer);
ahead_step (_ahead) by one other thread; reads by any thread, without a lock, below the end that the
last append published.  Locks: spare_lock before zero_lock; none is held while waiting for the GIL.
A Log owns its Wal; mappings live until the Log is deallocated, so results may outlive `shut`.
May not know: what a payload means, who waits for it, indexes, checkpoints.
Format: docs/log-format.md.
"""

import os

cimport cython
from libc.errno cimport EIO, ENOMEM, ENOSPC
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strdup

from kvcore._native cimport (
    Io, KV_CLOSED, KV_CORRUPT, KV_FORKED, KV_IO, KV_NOMEM, KV_NO_SPACE, KV_OK, KV_O_WRITE,
    KV_POISONED, KV_TOO_LARGE, KV_UNKNOWN_OUTCOME, KvSlice, kv_assert, kv_be16, kv_be32,
    kv_crc32c, kv_fork_generation, kv_fork_watch, kv_load_int, kv_load_u64, kv_mutex_destroy,
    kv_mutex_init, kv_mutex_lock, kv_mutex_unlock, kv_put_be16, kv_put_be32, kv_raise,
    kv_store_int, kv_store_u64, kv_unlikely,
)
from kvcore._ahead cimport ahead_drop, ahead_next, ahead_take
from kvcore._recovery cimport check_format, raise_errno, recover_log, remove_file, set_segment_bytes
from kvcore._segment cimport batch_bytes, batch_write, seg_close_handle, seg_free
from kvcore._segment_table cimport table_free, table_push

from kvcore import _directory
from kvcore._native import POSIX_IO
from kvcore._recovery import DEFAULT_SEGMENT_BYTES, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES
from kvcore.errors import OutOfMemoryError

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** out, size_t alignment, size_t n)

cdef enum:
    PATH_BYTES = 4096
    POOL_MAX = 2                     # retired files kept to be written again
    AGAIN_BYTES = 256 * 1024

kv_fork_watch()

# ---- private helpers: the table of segments ------------------------------------------------------


cdef inline WalSegment* _segment_of(const Wal* w, uint64_t pos) noexcept nogil:
    # count before table: a table read later holds at least that many
    cdef uint64_t count = kv_load_u64(&w.segment_count)
    cdef WalSegment** table = <WalSegment**>kv_load_u64(<const uint64_t*>&w.segments)
    cdef uint64_t seq = pos >> w.segment_shift
    if seq < w.first_seq or seq - w.first_seq >= count:
        return NULL
    return table[seq - w.first_seq]


cdef WalSegment* wal_current(const Wal* w) noexcept nogil:
    cdef uint64_t count = kv_load_u64(&w.segment_count)
    if count == 0:
        return NULL
    return (<WalSegment**>kv_load_u64(<const uint64_t*>&w.segments))[count - 1]


# ---- private helpers: rolling over to the next segment -------------------------------------------


cdef int _roll_locked(Wal* w, uint64_t seq) noexcept nogil:
    # REQUIRES: spare_lock, all the way: between taking the spare and publishing it as the current
    # segment, maintenance would begin another file for the same number.
    cdef WalSegment* last = wal_current(w)
    cdef WalSegment* s = NULL
    cdef int rc = ahead_next(w, seq, &s)
    if rc != 0:
        return rc
    kv_mutex_lock(&w.zero_lock)          # nobody zeroes blocks of the old one any more
    rc = table_push(w, s)
    if rc == 0:
        if last != NULL:
            kv_store_u64(&last.end, w.next_pos - (last.seq << w.segment_shift))
            if not w.in_memory:
                seg_close_handle(w.io, last)
        kv_store_u64(&w.next_pos, (seq << w.segment_shift) + WAL_HEADER_BYTES)
    kv_mutex_unlock(&w.zero_lock)
    if rc != 0:
        seg_free(w.io, s, w.in_memory)
    return rc


cdef int _roll(Wal* w, uint64_t seq) noexcept nogil:
    # Makes segment `seq` the current one.  REQUIRES: everything before it is durable.
    cdef int rc
    kv_mutex_lock(&w.spare_lock)
    rc = _roll_locked(w, seq)
    kv_mutex_unlock(&w.spare_lock)
    return rc


# ---- private helpers: state ----------------------------------------------------------------------


cdef int _poison(Wal* w, int rc) noexcept nogil:
    if kv_load_int(&w.poison_errno) == 0:
        kv_store_int(&w.poison_errno, -rc if rc < 0 else EIO)
    return KV_UNKNOWN_OUTCOME


cdef int wal_may_write(const Wal* w) noexcept nogil:
    if kv_unlikely(w.fork_generation != kv_fork_generation()):
        return KV_FORKED
    if kv_unlikely(not w.accepting):
        return KV_CLOSED
    if kv_unlikely(kv_load_int(&w.poison_errno) != 0):
        return KV_POISONED
    return KV_OK


cdef void _claim(Wal* w, WalSegment* s, uint64_t upto) noexcept nogil:
    # Raises written_upto before the appender writes there; waits for a zeroing chunk in flight.
    if upto <= kv_load_u64(&s.written_upto):
        return
    kv_mutex_lock(&w.zero_lock)
    if upto > s.written_upto:
        kv_store_u64(&s.written_upto, upto)
    kv_mutex_unlock(&w.zero_lock)


# ---- C face: append side, REQUIRES the committer role --------------------------------------------


cdef uint8_t* wal_stage(Wal* w, uint64_t n) noexcept nogil:
    cdef uint64_t need = batch_bytes(n)
    cdef uint64_t cap = w.staging_cap if w.staging_cap else 4096
    cdef void* p = NULL
    if kv_unlikely(need > w.staging_cap):
        while cap < need:
            cap *= 2
        if posix_memalign(&p, 64, cap) != 0:
            return NULL
        free(w.staging)
        w.staging = <uint8_t*>p
        w.staging_cap = cap
    return w.staging + WAL_HEADER_BYTES


cdef uint8_t* wal_stage_more(Wal* w, uint64_t n) noexcept nogil:
    cdef uint8_t* old = w.staging
    cdef uint64_t kept = w.staging_cap
    if batch_bytes(n) <= kept:
        return old + WAL_HEADER_BYTES
    w.staging = NULL                     # so that wal_stage leaves the old room alone
    if wal_stage(w, n) == NULL:
        w.staging = old
        return NULL
    if old != NULL:
        memcpy(w.staging, old, kept)
        free(old)
    return w.staging + WAL_HEADER_BYTES


cdef int wal_append(Wal* w, uint8_t kind, uint64_t payload_len, uint32_t count,
                    uint64_t first_index, uint64_t term, int64_t revision,
                    uint64_t* payload_pos) noexcept nogil:
    cdef uint64_t need = batch_bytes(payload_len)
    cdef WalSegment* s = wal_current(w)
    cdef uint64_t off
    cdef WalBatch b
    cdef int rc = wal_may_write(w)
    if rc != KV_OK:
        return rc
    if payload_len >= w.segment_bytes or need > w.segment_bytes - WAL_HEADER_BYTES:
        return KV_TOO_LARGE
    kv_assert(need <= w.staging_cap and s != NULL, "payload was staged, log was started")
    kv_assert(count < 1 << 24, "count of commands has 24 bits")
    off = w.next_pos - (s.seq << w.segment_shift)
    if kv_unlikely(off + need > s.file_bytes):
        rc = wal_sync(w)                 # so that durable_upto of the next batch names this end
        if rc != KV_OK:
            return rc
        rc = _roll(w, s.seq + 1)
        if rc != 0:                      # nothing was written: known not to be done, may be retried
            kv_store_int(&w.roll_errno, -rc)
            if rc == -ENOMEM:
                return KV_NOMEM
            return KV_NO_SPACE if rc == -ENOSPC else KV_IO
        s = wal_current(w)
        off = WAL_HEADER_BYTES
    b.nonce = s.nonce
    b.pos = (s.seq << w.segment_shift) + off
    b.durable_upto = w.durable_pos
    b.first_index = first_index
    b.term = term
    b.revision = revision
    b.len = <uint32_t>payload_len
    b.count = count
    b.kind = kind
    memset(w.staging + WAL_HEADER_BYTES + payload_len, 0, need - WAL_HEADER_BYTES - payload_len)
    if w.in_memory:
        batch_write(w.staging, &b, NULL)
        memcpy(<uint8_t*>s.view + off, w.staging, need)
    else:
        batch_write(w.staging, &b, &s.seed)
        _claim(w, s, off + need)
        rc = w.io.write_at(w.io.ctx, s.handle, w.staging, need, off)
        if kv_unlikely(rc != 0):
            return _poison(w, rc)
    kv_store_u64(&w.next_pos, b.pos + need)
    w.written_pos = b.pos + need
    kv_store_u64(&w.batches, w.batches + 1)
    kv_store_u64(&w.bytes, w.bytes + need)
    payload_pos[0] = b.pos + WAL_HEADER_BYTES
    return KV_OK


cdef int wal_begin_sync(Wal* w) noexcept nogil:
    cdef WalSegment* s = wal_current(w)
    cdef uint64_t start = max(w.durable_pos, s.seq << w.segment_shift)
    cdef int rc = wal_may_write(w)
    if rc == KV_OK and not w.in_memory and w.io.begin_sync != NULL and w.written_pos > start:
        rc = w.io.begin_sync(w.io.ctx, s.handle, start - (s.seq << w.segment_shift),
                             w.written_pos - start)
        if kv_unlikely(rc != 0):
            return _poison(w, rc)
    return rc


cdef int wal_sync(Wal* w) noexcept nogil:
    cdef int rc = wal_may_write(w)
    if rc != KV_OK:
        return rc
    if w.durable_pos == w.written_pos:
        return KV_OK
    if not w.in_memory:
        rc = w.io.sync(w.io.ctx, wal_current(w).handle)
        if kv_unlikely(rc != 0):
            return _poison(w, rc)
        kv_store_u64(&w.syncs, w.syncs + 1)
        if kv_unlikely(kv_load_int(&w.poison_errno) != 0):
            return KV_UNKNOWN_OUTCOME
    w.durable_pos = w.written_pos
    return KV_OK


# ---- C face: read side ---------------------------------------------------------------------------


cdef const uint8_t* wal_ptr(const Wal* w, uint64_t pos, uint64_t n) noexcept nogil:
    cdef const WalSegment* s = _segment_of(w, pos)
    cdef uint64_t off
    if s == NULL or s.view == NULL:
        return NULL
    off = pos - (s.seq << w.segment_shift)
    if n > s.file_bytes or off > s.file_bytes - n or pos + n > kv_load_u64(&w.next_pos):
        return NULL
    return s.view + off


cdef int wal_read(const Wal* w, uint64_t pos, void* dst, uint64_t n) noexcept nogil:
    cdef const uint8_t* p = wal_ptr(w, pos, n)
    cdef const WalSegment* s
    cdef uint64_t off
    cdef int64_t got
    if p != NULL:
        memcpy(dst, p, n)
        return KV_OK
    s = _segment_of(w, pos)
    if s == NULL or s.handle < 0:
        return KV_CORRUPT
    off = pos - (s.seq << w.segment_shift)
    if n > s.file_bytes or off > s.file_bytes - n or pos + n > kv_load_u64(&w.next_pos):
        return KV_CORRUPT
    got = w.io.read_at(w.io.ctx, s.handle, dst, n, off)
    if got < 0:
        return KV_IO
    return KV_OK if <uint64_t>got == n else KV_CORRUPT


cdef int wal_value(const Wal* w, uint64_t pos, uint32_t key_len, uint32_t value_len, KvSlice* value,
                   void** owned) noexcept nogil:
    cdef uint64_t n = <uint64_t>CELL_HEAD + key_len + value_len
    cdef const uint8_t* p = wal_ptr(w, pos, n)
    cdef void* copy = NULL
    cdef int rc
    owned[0] = NULL
    if p == NULL:
        if n > w.segment_bytes:
            return KV_CORRUPT
        copy = malloc(n)
        if copy == NULL:
            return KV_NOMEM
        rc = wal_read(w, pos, copy, n)
        if rc != KV_OK:
            free(copy)
            return rc
        p = <const uint8_t*>copy
    if (p[0] != 0xCE or p[5] != 0xC5 or p[8 + key_len] != 0xC6 or kv_be16(p + 6) != key_len
            or kv_be32(p + 9 + key_len) != value_len
            or (w.verify and kv_crc32c(0, p + 5, n - 5) != kv_be32(p + 1))):
        free(copy)
        return KV_CORRUPT
    value.ptr = p + CELL_HEAD + key_len
    value.len = value_len
    owned[0] = copy
    return KV_OK


cdef uint64_t cell_write(uint8_t* dst, KvSlice key, KvSlice value) noexcept nogil:
    cdef uint64_t n = CELL_HEAD + key.len + value.len
    kv_assert(key.len <= 0xFFFF and value.len >> 32 == 0, "lengths fit their heads")
    dst[0] = 0xCE
    dst[5] = 0xC5
    kv_put_be16(dst + 6, <uint16_t>key.len)
    if key.len:
        memcpy(dst + 8, key.ptr, key.len)
    dst[8 + key.len] = 0xC6
    kv_put_be32(dst + 9 + key.len, <uint32_t>value.len)
    if value.len:
        memcpy(dst + CELL_HEAD + key.len, value.ptr, value.len)
    kv_put_be32(dst + 1, kv_crc32c(0, dst + 5, n - 5))
    return n


cdef uint64_t cell_read(const uint8_t* p, uint64_t n, KvSlice* key, KvSlice* value) noexcept nogil:
    if n < CELL_HEAD or p[0] != 0xCE or p[5] != 0xC5:
        return 0
    key.len = kv_be16(p + 6)
    key.ptr = p + 8
    if CELL_HEAD + key.len > n or p[8 + key.len] != 0xC6:
        return 0
    value.len = kv_be32(p + 9 + key.len)
    value.ptr = p + CELL_HEAD + key.len
    if CELL_HEAD + key.len + value.len > n:
        return 0
    return CELL_HEAD + key.len + value.len


# ---- Python face: the log's owner ----------------------------------------------------------------


@cython.no_gc_clear                      # the I/O table must live until __dealloc__ has unmapped
cdef class Log:
    """The segments of one directory, or of memory: holds the lock, opens, replays, shuts.

    `Log(path)` takes the directory and nothing more; `recover` and `start` (native) make it usable.
    Errors: LockedError, NewerFormatError, CorruptError, StorageError; ValueError for segment_bytes.
    """

    def __cinit__(self, *args, **kwargs):
        memset(&self.c, 0, sizeof(Wal))
        kv_mutex_init(&self.c.spare_lock)
        kv_mutex_init(&self.c.zero_lock)
        kv_mutex_init(&self.c.epoch_lock)

    def __init__(self, path=None, *, Io io=None, segment_bytes=DEFAULT_SEGMENT_BYTES, verify=True):
        if self.c.io != NULL:
            raise RuntimeError("a Log is opened once")
        size = int(segment_bytes)
        if not MIN_SEGMENT_BYTES <= size <= MAX_SEGMENT_BYTES or size & (size - 1):
            raise ValueError(
                f"segment_bytes must be a power of two from 64 KiB to 1 GiB, got {size}")
        self.path = "" if path is None else os.path.abspath(os.fsdecode(path))
        self.io = POSIX_IO if io is None else io
        self.c.in_memory = path is None
        self.c.verify = verify
        self.c.pool_max = POOL_MAX
        self.c.fork_generation = self.fork_generation = kv_fork_generation()
        set_segment_bytes(&self.c, size)
        self.c.io = self.io.table
        if path is not None:
            self._enter_directory()
        self.is_open = True

    def __del__(self):
        if self.is_open and self.fork_generation == kv_fork_generation():
            self.shut()

    def __dealloc__(self):
        cdef Wal* w = &self.c
        if w.io != NULL:
            ahead_drop(w)
            while w.pool != NULL:
                seg_free(w.io, ahead_take(w), w.in_memory)
            table_free(w)
        free(w.staging)
        free(w.directory)
        kv_mutex_destroy(&w.spare_lock)
        kv_mutex_destroy(&w.zero_lock)
        kv_mutex_destroy(&w.epoch_lock)

    @property
    def poison_errno(self):
        """The errno of the first failed write or sync; 0 while there was none."""
        return kv_load_int(&self.c.poison_errno)

    # -- opening: directory, FORMAT, segments --

    def _enter_directory(self):
        cdef bytes name = os.fsencode(self.path)
        cdef int rc
        if len(name) > PATH_BYTES - 64:
            raise ValueError("path is too long")
        made = not os.path.isdir(self.path)
        os.makedirs(self.path, exist_ok=True)
        self.lock = _directory.DirectoryLock(self.path)
        try:
            self.c.directory = strdup(name)
            if self.c.directory == NULL:
                raise OutOfMemoryError()
            if made:
                parent = os.fsencode(os.path.dirname(self.path))
                rc = self.c.io.sync_dir(self.c.io.ctx, <const char*>parent)
                if rc != 0:
                    raise_errno(rc, "sync of the parent directory")
            check_format(&self.c, self.path)
            for path in _directory.unfinished(self.path):
                remove_file(&self.c, path)
        except BaseException:
            self.lock.release()
            raise

    cdef int _usable(self) except -1:
        if self.fork_generation != kv_fork_generation():
            kv_raise(KV_FORKED)
        if not self.is_open:
            kv_raise(KV_CLOSED)
        return 0

    cdef int recover(self, uint64_t from_pos, dict expected_segments, wal_replay_fn fn,
                     void* ctx) except -1:
        self._usable()
        if self.recovered:
            raise RuntimeError("a log is recovered once")
        self.recovery = recover_log(&self.c, self.path, from_pos, expected_segments or {}, fn, ctx,
                                    0 if self.lock is None else self.lock.synced)
        self.recovered = True
        return 0

    # -- ready for appending, and the end --

    cdef int start(self, int64_t revision, uint64_t next_index, uint64_t term) except -1:
        cdef Wal* w = &self.c
        cdef WalSegment* s
        cdef int rc
        self._usable()
        if not self.recovered or w.accepting:
            raise RuntimeError("a log is started once, after recover")
        w.written_pos = w.durable_pos = w.next_pos
        if w.segment_count == 0:
            rc = _roll(w, w.first_seq)
            if rc != 0:
                raise_errno(rc, "cannot make the first segment")
            w.written_pos = w.durable_pos = w.next_pos
            w.accepting = True
            return 0
        s = wal_current(w)
        self._write_again(s)
        rc = w.io.sync(w.io.ctx, s.handle)
        if rc != 0:
            raise_errno(rc, "sync of the last segment")
        s.written_upto = s.file_bytes if s.recycled else s.end
        if self.recovery.clean:
            s.end = 0
            w.accepting = True
            return 0
        return self._start_behind_tear(s.seq, revision, next_index, term)

    cdef int _write_again(self, WalSegment* s) except -1:
        """What was read may be in the page cache only, and no sync may tell: a sync that fails
        lets go of what it could not write, and the next one succeeds.  Written again it is new."""
        cdef Wal* w = &self.c
        cdef uint64_t base = s.seq << w.segment_shift
        cdef uint64_t pos = max(w.proven_pos, base + WAL_HEADER_BYTES), n
        cdef void* buf = NULL
        cdef int rc = 0
        if pos >= base + s.end:
            return 0
        buf = malloc(AGAIN_BYTES)
        if buf == NULL:
            raise OutOfMemoryError()
        while rc == 0 and pos < base + s.end:
            n = min(<uint64_t>AGAIN_BYTES, base + s.end - pos)
            rc = -EIO if wal_read(w, pos, buf, n) != KV_OK else (
                w.io.write_at(w.io.ctx, s.handle, buf, n, pos - base))
            pos += n
        free(buf)
        return raise_errno(rc, "cannot write the end of the log again")

    cdef int _start_behind_tear(self, uint64_t seq, int64_t revision, uint64_t next_index,
                                uint64_t term) except -1:
        """Rule 4: fresh segment, seal, sync; only then is the old file cut."""
        cdef Wal* w = &self.c
        cdef WalSegment* torn = self.c.segments[seq - self.c.first_seq]
        cdef bytes path = os.fsencode(_directory.segment_path(self.path, seq))
        cdef uint64_t end = torn.end
        cdef int rc, handle
        rc = _roll(w, seq + 1)
        if rc != 0:
            raise_errno(rc, "cannot make a segment")
        w.accepting = True
        try:
            self.seal(revision, next_index, term)
            handle = w.io.open(w.io.ctx, path, KV_O_WRITE)
            if handle < 0:
                raise_errno(handle, "cannot open the torn segment")
            torn.file_bytes = end
            rc = w.io.truncate(w.io.ctx, handle, end)
            if rc == 0:
                rc = w.io.sync(w.io.ctx, handle)
            w.io.close(w.io.ctx, handle)
            if rc != 0:
                raise_errno(rc, "cannot cut the torn segment")
        except BaseException:
            w.accepting = False
            raise
        return 0

    cdef int seal(self, int64_t revision, uint64_t next_index, uint64_t term) except -1:
        cdef uint64_t pos
        cdef int rc
        self._usable()
        with nogil:
            rc = KV_NOMEM
            if wal_stage(&self.c, 0) != NULL:
                rc = wal_append(&self.c, WAL_SEAL, 0, 0, next_index, term, revision, &pos)
            if rc == KV_OK:
                rc = wal_sync(&self.c)
        if rc == KV_OK:
            self.sealed = self.c.durable_pos
        return kv_raise(rc, self._detail(rc))

    def _detail(self, rc):
        failed = rc == KV_POISONED or rc == KV_UNKNOWN_OUTCOME
        return kv_load_int(&self.c.poison_errno) if failed else None

    cdef int shut(self) except -1:
        cdef uint64_t i
        if self.fork_generation != kv_fork_generation():
            kv_raise(KV_FORKED)
        if not self.is_open:
            return 0
        self.is_open = False
        with nogil:
            kv_mutex_lock(&self.c.spare_lock)
            kv_mutex_lock(&self.c.zero_lock)
            self.c.accepting = False
            ahead_drop(&self.c)
            for i in range(self.c.segment_count):
                if self.c.segments[i] != NULL and not self.c.in_memory:
                    seg_close_handle(self.c.io, self.c.segments[i])
            kv_mutex_unlock(&self.c.zero_lock)
            kv_mutex_unlock(&self.c.spare_lock)
        if self.lock is not None:
            self.lock.release(self.sealed if self.sealed == self.c.next_pos else 0)
        return 0
