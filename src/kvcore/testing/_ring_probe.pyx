# SPDX-License-Identifier: Apache-2.0
"""The C face of the ring as Python methods, so that tests can play its owner.

    test --RingProbe.push(mod, payload, ...)--> ring_payload, ring_push     at(seq) -> RingRow

Thread safety: none.  May not know: anything `_ring.pxd` does not say.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from kvcore._native cimport KV_NOMEM, kv_raise
from kvcore._ring cimport (
    Ring, RingRecord, ring_after, ring_at, ring_check, ring_deinit, ring_due, ring_init,
    ring_payload, ring_payload_at, ring_push, ring_trim,
)

import collections
import time

RingRow = collections.namedtuple("RingRow", "mod create version lease note payload")


cdef class RingProbe:
    """A Ring whose payload is in its own arena."""

    cdef Ring c

    def __cinit__(self, uint64_t capacity, *, int policy=0, uint64_t interval_ns=0):
        kv_raise(ring_init(&self.c, capacity, policy, interval_ns))

    def __dealloc__(self):
        ring_deinit(&self.c)

    def push(self, int64_t mod, bytes payload=b"", *, int64_t create=0, int64_t version=0,
             int64_t lease=0, int note=0, key_len=None):
        """ring_payload and ring_push; key_len: how many of the payload's bytes are the key's."""
        cdef RingRecord rec
        cdef uint64_t n = len(payload)
        cdef char* room
        rec.mod = mod
        rec.create = create
        rec.version = version
        rec.lease = lease
        rec.note = note
        rec.key_len = min(n, <uint64_t>9) if key_len is None else key_len
        rec.len = n - rec.key_len
        room = <char*>ring_payload(&self.c, n, &rec.pos)
        if room == NULL:
            kv_raise(KV_NOMEM)
        memcpy(room, <const char*>payload, n)
        kv_raise(ring_push(&self.c, &rec))

    def room(self, uint64_t n):
        """ring_payload alone, as an owner does whose record is refused then."""
        cdef uint64_t pos
        if ring_payload(&self.c, n, &pos) == NULL:
            kv_raise(KV_NOMEM)

    def trim(self, uint64_t now_ns=0):
        """ring_trim; False when a rebuild was refused memory."""
        return ring_trim(&self.c, now_ns) == 0

    def due(self, uint64_t now_ns=0):
        """ring_due."""
        return bool(ring_due(&self.c, now_ns))

    def at(self, uint64_t seq):
        """The record and its payload, or None."""
        cdef RingRecord* rec = ring_at(&self.c, seq)
        if rec == NULL:
            return None
        payload = b""
        if rec.pos:
            payload = (<const char*>ring_payload_at(&self.c, rec.pos))[:rec.key_len + rec.len]
        return RingRow(rec.mod, rec.create, rec.version, rec.lease, rec.note, payload)

    def after(self, int64_t version):
        """ring_after."""
        return ring_after(&self.c, version)

    def refuse_after(self, uint64_t n):
        """Makes the n-th request for memory from now fail; 0: none."""
        self.c.refuse_after = n

    def check(self):
        """Raises AssertionError when an invariant does not hold."""
        cdef const char* message = ring_check(&self.c)
        if message != NULL:
            raise AssertionError(message.decode())

    def time_pushes(self, int64_t mod, uint64_t n, uint64_t payload_bytes):
        """Nanoseconds that n pushes of payloads of so many bytes take, trimming after each."""
        cdef RingRecord rec
        cdef uint64_t i
        cdef void* room
        rec.create = rec.version = 1
        rec.lease = 0
        rec.note = 0
        rec.key_len = 0
        rec.len = payload_bytes
        began = time.perf_counter_ns()
        for i in range(n):
            rec.mod = mod + <int64_t>i
            room = ring_payload(&self.c, payload_bytes, &rec.pos)
            if room == NULL or ring_push(&self.c, &rec) != 0:
                kv_raise(KV_NOMEM)
            ring_trim(&self.c, 0)
        return time.perf_counter_ns() - began

    def stats(self):
        """The counters."""
        return {"first": self.c.first, "next": self.c.next, "bytes": self.c.bytes,
                "peak_bytes": self.c.peak_bytes, "payload_bytes": self.c.payload_bytes,
                "compactions": self.c.compactions, "dropped": self.c.dropped,
                "dropped_mod": self.c.dropped_mod}
