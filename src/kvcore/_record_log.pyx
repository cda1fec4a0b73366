# SPDX-License-Identifier: Apache-2.0
"""`kvcore.Wal`: the log on its own, for records that are bytes.

    append(b"x") -> batch | cell: crc, empty key, b"x" |  -> position of the cell
    append_many  -> a few batches, one sync               read(position) -> b"x", after its CRC

Invariants: (whole-or-absent) a record is there after a reopen entirely or not at all;
(acknowledged) with sync="always" a returned position survives any crash;
(in-order) every batch says how many records stand before it, and that is so.
Thread safety & ownership: appends, syncs and close take one mutex; reads and replay take none.
May not know: commands, revisions, checkpoints, the engine.  Format: docs/log-format.md.
"""

import collections
import warnings

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from kvcore._ahead cimport ahead_step
from kvcore._native cimport (
    KV_CORRUPT, KV_NOMEM, KV_OK, KV_TOO_LARGE,
    KvMutex, KvSlice, kv_be32, kv_load_int, kv_load_u64, kv_monotonic_clock, kv_mutex_destroy,
    kv_mutex_init, kv_mutex_lock, kv_mutex_unlock, kv_raise,
)
from kvcore._segment cimport batch_bytes, batch_read, seg_bytes, seg_left_behind
from kvcore._wal cimport (
    CELL_HEAD, WAL_COMMANDS, WAL_HEADER_BYTES, WAL_SEAL, Log, Wal, WalBatch, WalSegment, cell_read,
    cell_write, wal_append, wal_read, wal_stage, wal_sync, wal_value,
)

from kvcore._directory import segment_path
from kvcore._recovery import DEFAULT_SEGMENT_BYTES
from kvcore.errors import CorruptError, InvalidArgument

cdef enum:
    SYNC_OFF = 0
    SYNC_INTERVAL = 1
    SYNC_ALWAYS = 2
    BATCH_BYTES = 4 * 1024 * 1024            # payload at which append_many begins another batch
    MAX_RECORDS = (1 << 24) - 1              # of one batch
    PREPARE_BYTES = 1024 * 1024              # blocks written ahead in one go
    PREPARE_BELOW = 64 * 1024                # when fewer than this are left

_MODES = {"off": SYNC_OFF, "interval": SYNC_INTERVAL, "always": SYNC_ALWAYS}
_INTERVAL_NS = 100_000_000

WalStats = collections.namedtuple(
    "WalStats", "records batches syncs bytes segments durable_position end_position poison_errno",
    module=__name__)
WalStats.__doc__ = "Counters of a log since it was opened, and where it stands; a plain tuple."

# ---- private helpers, REQUIRE the log's mutex ----------------------------------------------------


cdef int _count_records(void* ctx, const WalBatch* b, const uint8_t* payload,
                        uint64_t payload_pos) noexcept nogil:
    cdef uint64_t* records = <uint64_t*>ctx
    cdef uint64_t off = 0, n
    cdef KvSlice key, value
    if b.kind != WAL_COMMANDS:
        return KV_OK
    if <uint64_t>b.revision != records[0]:
        return KV_CORRUPT
    for _ in range(b.count):
        n = cell_read(payload + off, b.len - off, &key, &value)
        if n == 0 or key.len != 0:
            return KV_CORRUPT
        off += n
    records[0] += b.count
    return KV_OK if off == b.len else KV_CORRUPT


cdef int _append_batches(Wal* w, const KvSlice* records, uint64_t n, uint64_t before,
                         uint64_t* positions) noexcept nogil:
    # As few batches as fit; a record is never divided.
    cdef uint64_t limit = min(<uint64_t>BATCH_BYTES, w.segment_bytes - 2 * WAL_HEADER_BYTES)
    cdef uint64_t i = 0, j, first, used, size, pos
    cdef uint8_t* room
    cdef KvSlice empty
    cdef int rc
    empty.ptr = NULL
    empty.len = 0
    while i < n:
        first = i
        used = 0
        while i < n and i - first < MAX_RECORDS:
            size = CELL_HEAD + records[i].len
            if i > first and used + size > limit:
                break
            used += size
            i += 1
        room = wal_stage(w, used)
        if room == NULL:
            return KV_NOMEM
        used = 0
        for j in range(first, i):
            positions[j] = used
            used += cell_write(room + used, empty, records[j])
        rc = wal_append(w, WAL_COMMANDS, used, <uint32_t>(i - first), before + first + 1, 0,
                        <int64_t>(before + first), &pos)
        if rc != KV_OK:
            return rc
        for j in range(first, i):
            positions[j] += pos
    return KV_OK


cdef void _prepare(Wal* w, uint64_t appended) noexcept nogil:
    # Syncing blocks never written costs 1.7 x; large batches do not care.
    cdef WalSegment* s = w.segments[w.segment_count - 1]
    cdef uint64_t tail = w.next_pos - (s.seq << w.segment_shift)
    cdef int ignored        # a failure to write ahead is no failure of the log
    if appended <= PREPARE_BELOW and s.written_upto < min(tail + PREPARE_BELOW, s.file_bytes):
        ahead_step(w, PREPARE_BYTES, &ignored)


cdef bytes _payload(object payload):
    if type(payload) is bytes:
        return payload
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    raise TypeError(f"a record must be bytes, not {type(payload).__name__}")


# ---- Python face ---------------------------------------------------------------------------------


@cython.final
cdef class WriteAheadLog:
    """An append-only log of byte records in a directory.

    Args: path (None: in memory); sync: "always" (an append returns when its record is durable),
    "interval" (at most 100 ms of appends may be lost), "off" (synced by `sync`, `close` and at the
    end of a segment); segment_bytes: a power of two, for a new directory; io: other files
    than the system's; verify: compare checksums on read.
    Errors: LockedError, CorruptError, NewerFormatError, StorageError, ValueError.
    Cost: opening reads what was written.  Thread safety: any method from any thread.

    >>> import tempfile
    >>> directory = tempfile.TemporaryDirectory()
    >>> with WriteAheadLog(directory.name) as wal:
    ...     position = wal.append(b"first")
    ...     wal.read(position)
    b'first'
    >>> with WriteAheadLog(directory.name) as wal:
    ...     [payload for _, payload in wal.replay()]
    [b'first']
    """

    cdef Log log
    cdef KvMutex guard
    cdef int mode
    cdef uint64_t last_sync_ns
    cdef uint64_t records
    cdef uint64_t sealed_pos          # nothing was appended while next_pos is this

    def __cinit__(self, *args, **kwargs):
        kv_mutex_init(&self.guard)

    def __init__(self, path, *, sync="always", segment_bytes=DEFAULT_SEGMENT_BYTES, io=None,
                 verify=True):
        if sync not in _MODES:
            raise ValueError(f'sync must be "always", "interval" or "off", got {sync!r}')
        self.mode = _MODES[sync]
        cdef Log log = Log(path, io=io, segment_bytes=segment_bytes, verify=verify)
        try:
            log.recover(0, None, _count_records, &self.records)
            log.start(<int64_t>self.records, self.records + 1, 0)
        except BaseException:
            log.shut()
            raise
        if not log.recovery.clean or log.recovery.batches:
            self.sealed_pos = log.c.next_pos
        self.last_sync_ns = kv_monotonic_clock.now_ns(NULL)
        self.log = log

    def __dealloc__(self):
        kv_mutex_destroy(&self.guard)

    def __del__(self):
        if self.log is not None and self.log.is_open and self.log.path:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)

    def __enter__(self):
        self.log._usable()
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __repr__(self):
        if self.log is None:
            return "<kvcore.Wal not opened>"
        where = repr(self.log.path) if self.log.path else "in memory"
        state = "" if self.log.is_open else ", closed"
        return (f"<kvcore.Wal {where}: {self.records} records, "
                f"end {kv_load_u64(&self.log.c.next_pos):#x}{state}>")

    def __reduce__(self):
        raise TypeError("a log cannot be pickled; open it where it is needed")

    @property
    def path(self):
        """The directory; "" in memory."""
        return self.log.path

    @property
    def recovery(self):
        """What the open found: a RecoveryReport."""
        return self.log.recovery

    def append(self, payload, *, sync=None):
        """Append one record; returns its position, an int.

        sync: True or False instead of the log's mode.  Errors: TypeError for anything but bytes;
        RequestTooLargeError; OutcomeUnknownError when this very write or sync failed;
        PoisonedError, ClosedError, ForkedError.  Cost: one write, and one sync if any.

        >>> wal = WriteAheadLog(None)
        >>> wal.append(b"a") < wal.append(b"b")
        True
        """
        cdef bytes data = _payload(payload)
        cdef KvSlice record
        cdef uint64_t position
        record.ptr = data
        record.len = len(data)
        self._append(&record, 1, self._mode(sync), &position)
        return position

    def append_many(self, payloads, *, sync=None):
        """Append records in order with one sync; returns the list of their positions.

        After a crash a beginning of them may be there.  Arguments and errors are `append`'s; when
        an argument is refused nothing has been appended.

        >>> len(WriteAheadLog(None).append_many([b"a", b"b"]))
        2
        """
        cdef list data = [_payload(payload) for payload in payloads]
        cdef uint64_t n = len(data), i
        cdef bytes one
        cdef KvSlice* records
        cdef uint64_t* positions
        mode = self._mode(sync)
        if n == 0:
            self.log._usable()
            return []
        records = <KvSlice*>malloc(n * sizeof(KvSlice))
        positions = <uint64_t*>malloc(n * sizeof(uint64_t))
        try:
            if records == NULL or positions == NULL:
                raise MemoryError
            for i in range(n):
                one = data[i]
                records[i].ptr = one
                records[i].len = len(one)
            self._append(records, n, mode, positions)
            return [positions[i] for i in range(n)]
        finally:
            free(records)
            free(positions)

    def read(self, uint64_t position):
        """The record at a position that `append` or `replay` gave: bytes, copied.

        Errors: InvalidArgument for a position outside the log; CorruptError when no record with a
        valid checksum stands there; ClosedError, ForkedError.  Cost: one copy and one CRC.

        >>> wal = WriteAheadLog(None)
        >>> wal.read(wal.append(b"abc"))
        b'abc'
        """
        self.log._usable()
        cdef Wal* w = &self.log.c
        cdef uint8_t[CELL_HEAD] head
        cdef KvSlice value
        cdef void* owned = NULL
        cdef int rc = wal_read(w, position, head, CELL_HEAD)
        if rc == KV_CORRUPT:
            raise InvalidArgument(f"kvcore: no record at position {position:#x}")
        if rc == KV_OK:
            rc = wal_value(w, position, 0, kv_be32(head + 9), &value, &owned)
        if rc == KV_CORRUPT:
            raise self._corrupt(position)
        kv_raise(rc)
        try:
            return value.ptr[:value.len]
        finally:
            free(owned)

    def replay(self):
        """Yield (position, record) for everything in the log when it is called, in order.

        Errors: CorruptError; ClosedError, ForkedError, also in the middle.

        >>> wal = WriteAheadLog(None)
        >>> positions = wal.append_many([b"a", b"b"])
        >>> list(wal.replay()) == list(zip(positions, [b"a", b"b"]))
        True
        """
        end = kv_load_u64(&self.log.c.next_pos)
        for _, kind, count, position in self._batches(end):
            if kind == WAL_COMMANDS:
                for _ in range(count):
                    record = self.read(position)
                    yield position, record
                    position += CELL_HEAD + len(record)

    def sync(self):
        """Make everything appended durable; returns nothing.

        Errors: OutcomeUnknownError, then PoisonedError; ClosedError, ForkedError.
        """
        cdef int rc
        self.log._usable()
        with nogil:
            kv_mutex_lock(&self.guard)
            rc = self._sync_locked()
            kv_mutex_unlock(&self.guard)
        kv_raise(rc, self.log._detail(rc))

    def stats(self):
        """Counters since the open and present positions: a WalStats."""
        cdef Wal* w = &self.log.c
        self.log._usable()
        return WalStats(self.records, w.batches, w.syncs, w.bytes, w.segment_count, w.durable_pos,
                        kv_load_u64(&w.next_pos), kv_load_int(&w.poison_errno))

    def close(self):
        """Seal, sync and give the directory back; a second call does nothing.

        A log that failed earlier is only given back.  Errors: OutcomeUnknownError, ForkedError.
        """
        cdef Log log = self.log
        cdef int rc = KV_OK
        if log is None or not log.is_open:
            return
        log._usable()
        with nogil:
            kv_mutex_lock(&self.guard)
            rc = self._seal_locked()
            kv_mutex_unlock(&self.guard)
        self._abandon()
        kv_raise(rc, log._detail(rc))

    def _abandon(self):
        """Give the directory back as it is, unsealed, as a killed process does."""
        self.log.shut()

    # -- private --

    def _corrupt(self, position):
        seq = position >> self.log.c.segment_shift
        path = segment_path(self.log.path, seq) if self.log.path else "memory"
        return CorruptError(path=path, offset=position - (seq << self.log.c.segment_shift),
                            reason="no record with a valid checksum")

    def _mode(self, sync):
        if sync is None:
            return self.mode
        return SYNC_ALWAYS if sync else SYNC_OFF

    cdef int _sync_locked(self) noexcept nogil:
        cdef int rc = wal_sync(&self.log.c)
        self.last_sync_ns = kv_monotonic_clock.now_ns(NULL)
        return rc

    cdef int _seal_locked(self) noexcept nogil:
        # Nothing to seal when nothing was appended; nothing is written to a log that failed.
        cdef Wal* w = &self.log.c
        cdef uint64_t pos
        cdef int rc = KV_OK
        if w.accepting and not kv_load_int(&w.poison_errno) and w.next_pos != self.sealed_pos:
            rc = KV_NOMEM
            if wal_stage(w, 0) != NULL:
                rc = wal_append(w, WAL_SEAL, 0, 0, self.records + 1, 0, <int64_t>self.records,
                                &pos)
            if rc == KV_OK:
                rc = wal_sync(w)
            if rc == KV_OK:
                self.log.sealed = w.durable_pos
        w.accepting = False
        return rc

    cdef int _append_locked(self, const KvSlice* records, uint64_t n, int mode,
                            uint64_t interval_ns, uint64_t* positions) noexcept nogil:
        cdef Wal* w = &self.log.c
        cdef uint64_t before = w.bytes, i
        cdef int rc = KV_OK
        for i in range(n):
            if batch_bytes(CELL_HEAD + records[i].len) > w.segment_bytes - WAL_HEADER_BYTES:
                return KV_TOO_LARGE
        rc = _append_batches(w, records, n, self.records, positions)
        if rc != KV_OK:
            return rc
        self.records += n
        if mode == SYNC_ALWAYS:
            _prepare(w, w.bytes - before)
            return self._sync_locked()
        if mode == SYNC_INTERVAL:
            if kv_monotonic_clock.now_ns(NULL) - self.last_sync_ns >= interval_ns:
                return self._sync_locked()
        return rc

    cdef int _append(self, const KvSlice* records, uint64_t n, int mode,
                     uint64_t* positions) except -1:
        cdef uint64_t interval_ns = _INTERVAL_NS
        cdef int rc
        self.log._usable()
        with nogil:
            kv_mutex_lock(&self.guard)
            rc = self._append_locked(records, n, mode, interval_ns, positions)
            kv_mutex_unlock(&self.guard)
        return kv_raise(rc, self.log._detail(rc))

    def _batches(self, uint64_t end):
        """(header position, kind, count, payload position) of every batch before `end`."""
        cdef Wal* w = &self.log.c
        cdef uint8_t[WAL_HEADER_BYTES] h
        cdef uint64_t seq, pos, stop
        cdef uint32_t length, count
        for seq in range(w.first_seq, w.first_seq + w.segment_count):
            pos = (seq << w.segment_shift) + WAL_HEADER_BYTES
            stop = w.segments[seq - w.first_seq].end
            stop = min(end, (seq << w.segment_shift) + stop) if stop else end
            while pos < stop:
                self.log._usable()
                kv_raise(wal_read(w, pos, h, WAL_HEADER_BYTES))
                length = (<uint32_t*>(<uint8_t*>h + 56))[0]
                count = (<uint32_t*>(<uint8_t*>h + 60))[0]
                yield pos, count >> 24, count & 0xFFFFFF, pos + WAL_HEADER_BYTES
                pos += batch_bytes(length)

    def _check(self):
        """Verify the named invariants on every batch; AssertionError lists all violations."""
        broken = []
        cdef Wal* w = &self.log.c
        cdef uint64_t i, records = 0
        self.log._usable()
        for i in range(w.segment_count):
            if w.segments[i] != NULL:
                self._check_segment(w.segments[i], i + 1 == w.segment_count, &records, broken)
        if records != self.records:
            broken.append(f"in-order: {records} records on disk, {self.records} counted")
        if not w.durable_pos <= w.written_pos <= w.next_pos:
            broken.append("one-in-flight: durable, written and next position out of order")
        for _, kind, count, at in self._batches(w.next_pos):
            for _ in range(count if kind == WAL_COMMANDS else 0):
                try:
                    at += CELL_HEAD + len(self.read(at))
                except CorruptError as error:
                    broken.append(f"value-proof: {error}")
                    break
        if broken:
            raise AssertionError("\n".join(broken))

    cdef int _check_segment(self, WalSegment* s, bint is_last, uint64_t* records,
                            list broken) except -1:
        cdef Wal* w = &self.log.c
        cdef void* owned = NULL
        cdef const uint8_t* base = NULL
        cdef uint64_t start = s.seq << w.segment_shift
        cdef uint64_t end = w.next_pos - start if is_last else s.end
        cdef uint64_t off = WAL_HEADER_BYTES, upto = 0
        cdef WalBatch b
        if w.in_memory:
            records[0] = self.records            # no headers worth checking
            return 0
        if seg_bytes(w.io, s, &base, &owned) != 0:
            raise MemoryError
        while off < end:
            if not batch_read(s, base, w.segment_shift, off, &b):
                broken.append(f"self-naming: segment {s.seq} has no valid batch at {off}")
                break
            if off == WAL_HEADER_BYTES and s.seq > w.first_seq:
                if b.durable_upto != (s.seq - 1 << w.segment_shift) + \
                        w.segments[s.seq - 1 - w.first_seq].end:
                    broken.append(f"end-is-known: segment {s.seq} names {b.durable_upto:#x}")
            if not upto <= b.durable_upto <= b.pos:
                broken.append(f"one-in-flight: durable_upto {b.durable_upto:#x} at {b.pos:#x}")
            upto = b.durable_upto
            if _count_records(records, &b, base + off + WAL_HEADER_BYTES, 0) != KV_OK:
                broken.append(f"in-order: {b.pos:#x} says {b.revision} records stand before it")
            off += batch_bytes(b.len)
        if off != end:
            broken.append(f"end-is-known: segment {s.seq} ends at {off}, not at {end}")
        if is_last and seg_left_behind(s, base, self.log.c.segment_shift, end):
            broken.append(f"end-is-known: something stands behind the end {end}")
        free(owned)
        return 0
