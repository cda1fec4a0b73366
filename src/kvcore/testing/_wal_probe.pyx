# SPDX-License-Identifier: Apache-2.0
"""The C face of the log as Python methods, so that tests can play the engine.

    test --LogProbe.append(kind, ...)--> wal_append      LogProbe.batches: what a recovery replayed

Thread safety: the C face's; `prepare_step` may run in another thread than `append`.
May not know: anything `_wal.pxd` does not say.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from kvcore._ahead cimport ahead_step
from kvcore._command cimport Cursor, PutCmd, next_put
from kvcore._native cimport KV_CORRUPT, KV_NOMEM, KV_OK, KvSlice, kv_raise
from kvcore._wal cimport (
    CELL_HEAD, Log, WalBatch, cell_write, wal_append, wal_ptr, wal_read,
    wal_stage, wal_stage_more, wal_sync, wal_value,
)

import collections

ReplayedBatch = collections.namedtuple(
    "ReplayedBatch",
    "pos durable_upto first_index term revision count kind payload payload_pos")


cdef int _collect(void* ctx, const WalBatch* b, const uint8_t* payload,
                  uint64_t payload_pos) noexcept nogil:
    with gil:
        probe = <LogProbe>ctx
        if b.pos == probe.refuse_at:
            return KV_CORRUPT
        probe.batches.append(ReplayedBatch(
            b.pos, b.durable_upto, b.first_index, b.term, b.revision, b.count, b.kind,
            payload[:b.len], payload_pos))
    return KV_OK


def put_keys(const uint8_t[::1] payload not None):
    """Keys of the puts among these commands, as the committer finds them to warm the index."""
    cdef Cursor cur
    cdef PutCmd put
    found = []
    cur.p = &payload[0]
    cur.end = cur.p + payload.shape[0]
    cur.bad = False
    while next_put(&cur, &put):
        found.append(put.key.ptr[:put.key.len])
    return found


cdef class LogProbe:
    """A Log and its C face."""

    cdef readonly Log log
    cdef readonly list batches
    cdef public object refuse_at         # position of a batch that the replay refuses

    def __init__(self, *args, **kwargs):
        self.log = Log(*args, **kwargs)
        self.batches = []
        self.refuse_at = None

    def recover(self, from_pos=0, expected=None):
        """Log.recover, collecting what is replayed into `batches`.

        expected: {segment: (nonce, seed[, live bytes])}."""
        wanted = {seq: (entry[0], entry[1], entry[2] if len(entry) > 2 else 1, 0)
                  for seq, entry in (expected or {}).items()}
        self.log.recover(from_pos, wanted, _collect, <void*>self)

    def start(self, revision=0, next_index=1, term=0):
        """Log.start."""
        self.log.start(revision, next_index, term)

    def seal(self, revision, next_index, term=0):
        """Log.seal."""
        self.log.seal(revision, next_index, term)

    def shut(self):
        """Log.shut."""
        self.log.shut()

    def append(self, kind, const uint8_t[::1] payload not None, *, count=0, first_index=0, term=0,
               revision=0, grow=False):
        """wal_stage and wal_append; the payload's position.  grow: stage it in two steps."""
        cdef uint64_t n = payload.shape[0], half = n // 2, pos = 0
        cdef uint8_t* room = wal_stage(&self.log.c, half if grow else n)
        cdef int rc = KV_NOMEM
        cdef uint8_t k = kind
        cdef uint32_t c = count
        cdef uint64_t index = first_index, t = term
        cdef int64_t rev = revision
        if room != NULL and grow:
            if half:
                memcpy(room, &payload[0], half)
            room = wal_stage_more(&self.log.c, n)
            if room != NULL and n:
                memcpy(room + half, &payload[half], n - half)
        elif room != NULL and n:
            memcpy(room, &payload[0], n)
        if room != NULL:
            with nogil:
                rc = wal_append(&self.log.c, k, n, c, index, t, rev, &pos)
        kv_raise(rc)
        return pos

    def sync(self):
        """wal_sync."""
        cdef int rc
        with nogil:
            rc = wal_sync(&self.log.c)
        kv_raise(rc)

    def prepare_step(self, budget):
        """ahead_step: (more, status)."""
        cdef int status = 0
        cdef uint64_t n = budget
        cdef bint more
        with nogil:
            more = ahead_step(&self.log.c, n, &status)
        return more, status

    def read(self, pos, n):
        """wal_read, with or without a mapping."""
        cdef bytearray out = bytearray(n)
        cdef uint8_t[::1] view = out
        kv_raise(wal_read(&self.log.c, pos, &view[0] if n else NULL, n))
        return bytes(out)

    def is_mapped(self, pos, n):
        """Whether wal_ptr gives a pointer."""
        return wal_ptr(&self.log.c, pos, n) != NULL

    def value(self, pos, key_len, value_len):
        """wal_value."""
        cdef KvSlice value
        cdef void* owned = NULL
        kv_raise(wal_value(&self.log.c, pos, key_len, value_len, &value, &owned))
        try:
            return value.ptr[:value.len]
        finally:
            free(owned)

    def segments(self):
        """seq -> (nonce, seed), as a checkpoint lists them."""
        cdef uint64_t i
        return {self.log.c.segments[i].seq: (self.log.c.segments[i].nonce,
                                             self.log.c.segments[i].seed)
                for i in range(self.log.c.segment_count) if self.log.c.segments[i] != NULL}

    @property
    def end(self):
        """Where the next batch begins."""
        return self.log.c.next_pos

    @property
    def written_upto(self):
        """Offset up to which blocks of the current segment are written or claimed."""
        return self.log.c.segments[self.log.c.segment_count - 1].written_upto

    @property
    def spare_ready(self):
        """Whether the next segment is complete."""
        return bool(self.log.c.spare_ready)


def cell(bytes key, bytes value):
    """cell_write."""
    cdef bytearray out = bytearray(CELL_HEAD + len(key) + len(value))
    cdef uint8_t[::1] view = out
    cdef KvSlice k, v
    k.ptr = key
    k.len = len(key)
    v.ptr = value
    v.len = len(value)
    cell_write(&view[0], k, v)
    return bytes(out)
