# SPDX-License-Identifier: Apache-2.0
"""What an open may believe: from the files of a directory to the end of the log.

    load: every needed segment is there, whole headers       | seg 1 | seg 2 | seg 3 | spare |
    drop: behind the last one in use, newest first                                   ^ unlink
    walk: seg 1 to the end that seg 2 names, ... , seg 3 to the first place without a valid batch;
          a later batch that says this place was synced: damage, refused; else the end

Invariants: (end-is-known) every segment but the last ends where its successor says;
(no-silent-loss) nothing that was synced is ever taken for a tear;
(reads-only) until `start`, an open removes unused files and changes nothing else.
Thread safety: none; runs before the log is used.  May not know: what a payload means, appending.
The rules are numbered as in docs/log-format.md, "What an open believes".
"""

import os

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport ENOENT, ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from kvcore._ahead cimport ahead_keep
from kvcore._native cimport (
    KV_IO, KV_NEWER_FORMAT, KV_NOMEM, KV_NO_SPACE, KV_O_CREATE, KV_O_READ, KV_O_WRITE,
    KV_OK, KvIo, kv_raise,
)
from kvcore._segment cimport (
    batch_read, seg_bytes, seg_close_handle, seg_find_proof, seg_free, seg_left_behind,
    seg_looks_used, seg_open, seg_walk,
)
from kvcore._segment_table cimport table_push
from kvcore._wal cimport (
    WAL_HEADER_BYTES, WAL_SEAL, SegWalk, Wal, WalBatch, WalSegment, wal_replay_fn,
)

from kvcore import _directory
from kvcore.errors import CorruptError, NewerFormatError, OutOfMemoryError, StorageError

cdef enum:
    REPLAY_SLICE = 4 << 20       # bytes of log between two looks for signals

MIN_SEGMENT_BYTES = 64 * 1024
MAX_SEGMENT_BYTES = 1024 * 1024 * 1024
DEFAULT_SEGMENT_BYTES = 64 * 1024 * 1024
_FORMAT_LINE = b"kvcore 1\n"

# ---- Python face: what open found ----------------------------------------------------------------


@cython.final
cdef class RecoveryReport:
    """What an open found in a log; it does not change afterwards."""

    def __cinit__(self):
        self.clean = True
        self.cut_path = ""
        self.cut_offset = -1

    def __repr__(self):
        end = "clean" if self.clean else f"unclean, {self.torn_bytes} torn bytes"
        return (f"<RecoveryReport {end}, {self.batches} batches in {self.segments} segments, "
                f"end {self.end_position:#x}>")


# ---- private helpers ----------------------------------------------------------------------------


@cython.final
cdef class _Recovery:
    # One open, from `_load` to the report.
    cdef Wal* w
    cdef str path
    cdef RecoveryReport report
    cdef bint size_known             # segment_bytes stands in a header on disk
    cdef uint64_t synced             # the log was known to reach this position; 0: not known

    def __cinit__(self, str path):
        self.path = path
        self.report = RecoveryReport()

    cdef int run(self, uint64_t from_pos, dict expected, wal_replay_fn fn, void* ctx) except -1:
        cdef RecoveryReport report = self.report
        cdef SegWalk walk
        memset(&walk, 0, sizeof(walk))
        first = self._load(from_pos, expected)
        if self.w.segment_count > 0:
            self._drop_unused(first, from_pos)
        if self.w.segment_count > 0:
            self._replay(first, from_pos, fn, ctx, &walk)
        else:
            report.end_position = (self.w.first_seq << self.w.segment_shift) + WAL_HEADER_BYTES
        # The seal that ended the log may be damaged: behind its place nothing else was.
        if report.end_position + WAL_HEADER_BYTES < self.synced:
            self._short(report.end_position)
        report.batches = walk.batches
        report.commands = walk.commands
        report.ceiling = walk.ceiling
        report.seal_revision = walk.seal_revision
        report.segments = self.w.segment_count
        return 0

    def _corrupt(self, seq, offset, reason):
        path = _directory.segment_path(self.path, seq)
        return CorruptError(path=path, offset=offset, reason=reason)

    cdef int _short(self, uint64_t end) except -1:
        seq = (end - 1) >> self.w.segment_shift
        raise self._corrupt(seq, end - (seq << self.w.segment_shift), "the log ends here, but LOCK "
                            f"says that all up to position {self.synced:#x} was synced")

    def _load(self, from_pos, dict expected):
        """Open every segment that is needed and fill the table; returns the first one to replay."""
        found = _directory.segments(self.path)
        opened = {}
        try:
            for seq, path in found.items():
                opened[seq] = self._open_segment(seq, path)
            first = self._first_needed(from_pos)
            last = max(first, *found) if found else first
            listed = {seq for seq, entry in expected.items() if entry[2] or seq in found}
            # not more numbers than files, and the first that is missing: one may be absurd
            replayed = range(first, min(last, first + len(found)) + 1)
            wanted = sorted(listed | set(replayed))
            if not found and not expected and from_pos == 0:
                wanted = []
            self.w.first_seq = wanted[0] if wanted else 1
            for seq in wanted:
                if seq not in found:
                    raise self._corrupt(seq, 0, "the segment is missing")
                self._push(seq, opened.pop(seq), expected.get(seq))
            for seq in sorted(opened):
                self._spare(seq, opened.pop(seq))
        finally:
            for address in opened.values():
                seg_free(self.w.io, <WalSegment*><size_t>address, False)
        return first

    def _first_needed(self, from_pos):
        # A position at the very end of a full segment has the number of the next one.
        if from_pos == 0:
            return 1
        return (from_pos - 1) >> self.w.segment_shift

    def _open_segment(self, seq, path):
        cdef bytes name = os.fsencode(path)
        cdef WalSegment* s = NULL
        cdef uint64_t named = 0, size = 0
        cdef int status = KV_OK
        cdef int rc = seg_open(self.w.io, name, &s, &named, &size, &status)
        if rc != 0:
            raise_errno(rc, f"cannot open {path}")
        try:
            if status == KV_NEWER_FORMAT:
                raise NewerFormatError(f"{NewerFormatError.message} ({path})")
            if status == KV_OK and named != seq:
                raise CorruptError(path=path, offset=16, reason=f"header names segment {named}")
            if status == KV_OK and size != self.w.segment_bytes:
                if self.size_known or not MIN_SEGMENT_BYTES <= size <= MAX_SEGMENT_BYTES:
                    raise CorruptError(path=path, offset=24, reason="segment sizes differ")
                set_segment_bytes(self.w, size)
            if status == KV_OK:
                self.size_known = True       # from here on every header must agree
        except BaseException:
            seg_free(self.w.io, s, False)
            raise
        s.seq = seq
        return <size_t>s

    def _push(self, seq, address, expected):
        cdef WalSegment* s = <WalSegment*><size_t>address
        while self.w.first_seq + self.w.segment_count < seq:
            if table_push(self.w, NULL) != 0:      # moved out of and freed, says the checkpoint
                seg_free(self.w.io, s, False)
                raise OutOfMemoryError()
        if expected is not None and tuple(expected[:2]) != (s.nonce, s.seed):
            seg_free(self.w.io, s, False)
            raise self._corrupt(seq, 32, "not the segment that the checkpoint names")
        if expected is not None:
            s.live_bytes, s.empty_since = expected[2], expected[3]
        if table_push(self.w, s) != 0:
            seg_free(self.w.io, s, False)
            raise OutOfMemoryError()

    def _spare(self, seq, address):
        """The checkpoint does not know it: retired before, and only its file is left."""
        cdef WalSegment* s = <WalSegment*><size_t>address
        if s.nonce and s.file_bytes == self.w.segment_bytes and self.w.pool_count < self.w.pool_max:
            ahead_keep(self.w, s)
            return
        seg_free(self.w.io, s, False)
        remove_file(self.w, _directory.segment_path(self.path, seq))

    cdef WalSegment* _at(self, uint64_t seq):
        return self.w.segments[seq - self.w.first_seq]

    cdef const uint8_t* _bytes_of(self, const WalSegment* s, void** owned) except? NULL:
        cdef const uint8_t* base = NULL
        cdef int rc = seg_bytes(self.w.io, s, &base, owned)
        if rc != 0:
            raise_errno(rc, f"cannot read {_directory.segment_path(self.path, s.seq)}")
        return base

    def _drop_unused(self, first, from_pos):
        """Rule 3: remove segments behind the last one in use, newest first.

        One that was in use when the log was closed is not: what is in it is damaged."""
        cdef WalSegment* s
        cdef uint64_t seq = self.w.first_seq + self.w.segment_count - 1
        cdef bint replay_begins
        while seq >= <uint64_t>first:
            s = self._at(seq)
            replay_begins = seq == <uint64_t>first and from_pos > 0
            if replay_begins or self._in_use(s):
                return
            if (seq << self.w.segment_shift) + 2 * WAL_HEADER_BYTES < self.synced:
                self._short((seq << self.w.segment_shift) + WAL_HEADER_BYTES)
            if _directory.segments(self.path).get(seq):
                remove_file(self.w, _directory.segment_path(self.path, seq))
            seg_free(self.w.io, s, False)
            self.w.segments[self.w.segment_count - 1] = NULL
            self.w.segment_count -= 1
            seq -= 1

    cdef bint _in_use(self, WalSegment* s) except -1:
        cdef void* owned = NULL
        cdef const uint8_t* base = self._bytes_of(s, &owned)
        cdef WalBatch b
        cdef uint64_t proof = 0, upto = 0, torn = 0
        cdef bint used, looks = False
        with nogil:
            used = s.nonce != 0 and batch_read(s, base, self.w.segment_shift, WAL_HEADER_BYTES, &b)
            if s.nonce == 0:
                looks = seg_looks_used(base, s.file_bytes, self.w.segment_shift, s.seq)
            elif not used:
                proof = seg_find_proof(s, base, self.w.segment_shift, WAL_HEADER_BYTES, &upto)
                torn = seg_left_behind(s, base, self.w.segment_shift, WAL_HEADER_BYTES)
        free(owned)
        # Without any header it is not known how long a segment is: nothing can be told of it.
        if looks or (s.nonce == 0 and not self.size_known):
            raise self._corrupt(s.seq, 0, "the segment's header is damaged")
        if not used and s.file_bytes < self.w.segment_bytes:
            # a file has its whole length and its header before it has its name
            raise self._corrupt(s.seq, s.file_bytes, "the file is cut short")
        if proof:
            raise self._damage(s, WAL_HEADER_BYTES, proof, upto)
        if torn:
            self.report.clean = False
            self.report.torn_bytes += torn
        return used

    cdef object _damage(self, WalSegment* s, uint64_t off, uint64_t proof, uint64_t upto):
        return self._corrupt(s.seq, off, "no valid batch here, but the one at offset "
                             f"{proof} says that all up to position {upto:#x} was synced")

    cdef int _replay(self, uint64_t first, uint64_t from_pos, wal_replay_fn fn, void* ctx,
                     SegWalk* walk) except -1:
        """Rules 1 and 2: walk every segment to its end."""
        cdef uint64_t last = self.w.first_seq + self.w.segment_count - 1
        cdef uint64_t seq, end, base_pos
        cdef WalSegment* s
        for seq in range(self.w.first_seq, last + 1):
            s = self._at(seq)
            if s != NULL and s.nonce == 0:
                raise self._corrupt(seq, 0, "the segment's header is damaged")
            if s != NULL and seq < first:
                s.end = s.file_bytes             # at most
                seg_close_handle(self.w.io, s)
        for seq in range(first, last + 1):
            s = self._at(seq)
            base_pos = seq << self.w.segment_shift
            walk.off = WAL_HEADER_BYTES
            if seq == first and from_pos > base_pos + WAL_HEADER_BYTES:
                walk.off = from_pos - base_pos
            end = self._end_by_successor(seq) if seq < last else s.file_bytes
            if walk.off > end:
                raise self._corrupt(seq, walk.off, "the log ends before the replay begins")
            self.w.next_pos = base_pos + end     # the replay reads values: a compare of them
            self._walk(s, end, seq == last, fn, ctx, walk)
            s.end = walk.off
            if seq < last:
                seg_close_handle(self.w.io, s)
        self.w.proven_pos = max(from_pos, walk.durable_upto)
        return 0

    cdef uint64_t _end_by_successor(self, uint64_t seq) except? 0:
        cdef WalSegment* after = self._at(seq + 1)
        cdef uint64_t base_pos = seq << self.w.segment_shift
        cdef void* owned = NULL
        cdef const uint8_t* base = self._bytes_of(after, &owned)
        cdef WalBatch b
        cdef bint ok = batch_read(after, base, self.w.segment_shift, WAL_HEADER_BYTES, &b)
        free(owned)
        if not ok:
            raise self._corrupt(seq + 1, WAL_HEADER_BYTES,
                                "no valid first batch, but a later segment is in use")
        if not base_pos + WAL_HEADER_BYTES <= b.durable_upto <= base_pos + self.w.segment_bytes:
            raise self._corrupt(seq + 1, WAL_HEADER_BYTES + 24,
                                f"names {b.durable_upto:#x} as the end of segment {seq}")
        return b.durable_upto - base_pos

    cdef int _walk_interruptibly(self, WalSegment* s, const uint8_t* base, uint64_t end,
                                 wal_replay_fn fn, void* ctx, SegWalk* walk) except? -999:
        """A slice at a time, so that Ctrl-C ends a long replay."""
        cdef uint64_t upto
        cdef int rc = KV_OK
        while True:
            upto = min(end, walk.off + REPLAY_SLICE)
            with nogil:
                rc = seg_walk(s, base, self.w.segment_shift, upto, fn, ctx, walk)
            if rc != KV_OK or walk.off < upto or walk.off >= end:
                return rc
            PyErr_CheckSignals()

    cdef int _walk(self, WalSegment* s, uint64_t end, bint is_last, wal_replay_fn fn, void* ctx,
                   SegWalk* walk) except -1:
        cdef void* owned = NULL
        cdef const uint8_t* base = self._bytes_of(s, &owned)
        cdef uint64_t proof = 0, upto = 0, torn = 0
        cdef WalBatch seal
        cdef bint sealed = False
        cdef int rc
        walk.last_off = 0
        try:
            rc = self._walk_interruptibly(s, base, end, fn, ctx, walk)
            with nogil:
                if rc == KV_OK and is_last:
                    proof = seg_find_proof(s, base, self.w.segment_shift, walk.off, &upto)
                    torn = seg_left_behind(s, base, self.w.segment_shift, walk.off)
                    sealed = walk.off > WAL_HEADER_BYTES and batch_read(
                        s, base, self.w.segment_shift, walk.off - WAL_HEADER_BYTES, &seal)
                    sealed = sealed and seal.kind == WAL_SEAL
        finally:
            free(owned)
        if rc == KV_NOMEM or rc == KV_IO or rc == KV_NO_SPACE:
            kv_raise(rc)
        if rc != KV_OK:
            raise self._corrupt(s.seq, walk.off, "the batch contradicts what was replayed before")
        if proof:
            raise self._damage(s, walk.off, proof, upto)
        if not is_last:
            if walk.off != end:
                raise self._corrupt(s.seq, walk.off, "no valid batch here, but the next segment "
                                    f"says that this one ends at offset {end}")
            return 0
        self.report.end_position = (s.seq << self.w.segment_shift) + walk.off
        self.report.torn_bytes += torn
        # A seal with anything behind it is not the end of a clean run: what a lost write left
        # there could become valid again once a batch of the right length stands before it.
        if walk.last_off == 0 or walk.last_kind != WAL_SEAL or torn:
            self.report.clean = False
            if s.file_bytes < self.w.segment_bytes and not sealed:
                # only a segment with another behind it, or a seal at its end, is ever cut
                raise self._corrupt(s.seq, s.file_bytes, "the file is cut short: "
                                    f"{self.w.segment_bytes} bytes belong to a segment")
        if not self.report.clean:
            self.report.cut_path = _directory.segment_path(self.path, s.seq)
            self.report.cut_offset = walk.off
        return 0


cdef int _write_format(Wal* w, path) except -1:
    cdef bytes name = os.fsencode(path)
    cdef bytes tmp = name + b".tmp"
    cdef bytes line = _FORMAT_LINE
    cdef const KvIo* io = w.io
    cdef int rc
    cdef int handle = io.open(io.ctx, tmp, KV_O_WRITE | KV_O_CREATE)
    if handle < 0:
        raise_errno(handle, f"cannot create {path}")
    rc = io.write_at(io.ctx, handle, <const char*>line, len(line), 0)
    if rc == 0:
        rc = io.truncate(io.ctx, handle, len(line))
    if rc == 0:
        rc = io.sync(io.ctx, handle)
    io.close(io.ctx, handle)
    if rc == 0:
        rc = io.rename(io.ctx, tmp, name)
    if rc == 0:
        rc = io.sync_dir(io.ctx, w.directory)
    return raise_errno(rc, f"cannot write {path}")


# ---- C face (with the GIL: an open is rare) --------------------------------------------------


cdef int raise_errno(int rc, object what) except -1:
    if rc == 0:
        return 0
    if rc == -ENOMEM:
        raise OutOfMemoryError(f"kvcore: {what}")
    raise StorageError(f"kvcore: {what}", errno=-rc)


cdef int remove_file(const Wal* w, str path) except -1:
    cdef bytes name = os.fsencode(path)
    cdef int rc = w.io.unlink(w.io.ctx, name)
    if rc == 0 or rc == -ENOENT:
        rc = w.io.sync_dir(w.io.ctx, w.directory)
    return raise_errno(rc, f"cannot remove {path}")


cdef int set_segment_bytes(Wal* w, uint64_t n) noexcept:
    w.segment_bytes = n
    w.segment_shift = 0
    while <uint64_t>1 << w.segment_shift < n:
        w.segment_shift += 1
    return 0


cdef RecoveryReport recover_log(Wal* w, str path, uint64_t from_pos, dict expected,
                                wal_replay_fn fn, void* ctx, uint64_t synced):
    cdef _Recovery recovery = _Recovery(path)
    recovery.w = w
    recovery.synced = synced
    w.first_seq = 1
    if w.in_memory:
        recovery.report.end_position = (w.first_seq << w.segment_shift) + WAL_HEADER_BYTES
    else:
        recovery.run(from_pos, expected, fn, ctx)
    w.next_pos = recovery.report.end_position
    return recovery.report


cdef int check_format(Wal* w, str directory) except -1:
    path = os.path.join(directory, "FORMAT")
    cdef bytes name = os.fsencode(path)
    cdef char[65] text
    cdef const KvIo* io = w.io
    cdef int64_t n
    cdef int handle = io.open(io.ctx, name, KV_O_READ)
    if handle == -ENOENT:
        if any(name.endswith((".seg", ".ckp")) for name in os.listdir(directory)):
            raise CorruptError(path=path, offset=0, reason="FORMAT is missing beside segments")
        return _write_format(w, path)
    if handle < 0:
        raise_errno(handle, f"cannot open {path}")
    n = io.read_at(io.ctx, handle, text, 64, 0)
    io.close(io.ctx, handle)
    if n < 0:
        raise_errno(<int>n, f"cannot read {path}")
    line = text[:n].split()
    if len(line) == 2 and line[0] == b"kvcore" and line[1].isdigit() and int(line[1]) > 1:
        raise NewerFormatError(f"{NewerFormatError.message} ({path}: {int(line[1])})")
    if text[:n] != _FORMAT_LINE:
        raise CorruptError(path=path, offset=0, reason="not a kvcore FORMAT file")
    return 0
