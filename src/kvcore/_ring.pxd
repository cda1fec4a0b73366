# SPDX-License-Identifier: Apache-2.0
"""The ring: the recent window of events, as fixed-size records in chunks, and their payload arena.

    seq:     first ............................ next          48 bytes a record
    chunks:  | 1024 records | 1024 records | ... |            the oldest are dropped by the policy
                     └ pos: where key and value lie: the owner's business (the log, or the arena)
    arena:   | 64 KiB | 64 KiB | ...                          blocks, which go with their records

A sequence number is never given twice; a record is addressed by it for as long as it is kept.
Thread safety: the owner's lock.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    RING_CHUNK_BITS = 10
    RING_CHUNK = 1024
    RING_BLOCK_BITS = 16
    RING_BLOCK = 65536
    RING_MIN_CAPACITY = 100
    RING_INCREMENTAL = 0
    RING_FULL = 1
    RING_NONE = 0                # payload position of nothing


cdef struct RingRecord:          # 48 bytes (asserted)
    int64_t mod                  # main revision, or resource version
    int64_t create               # 0 in a deletion
    int64_t version              # 0: a deletion
    int64_t lease
    uint64_t pos                 # of the payload
    uint32_t len                 # bytes of the value
    uint16_t key_len
    uint16_t note                # the owner's


cdef struct RingChunk:
    uint64_t payload             # bytes of keys and values of those of its records that are kept
    RingRecord[RING_CHUNK] records


cdef struct RingBlock:           # `size` payload bytes stand behind it
    uint64_t last                # newest record that uses it
    uint64_t size
    uint64_t used


cdef struct Ring:
    uint64_t first               # oldest record kept
    uint64_t next                # sequence number of the next record; next - first is the length
    uint64_t capacity            # constant after init
    int policy                   # constant after init
    uint64_t interval_ns         # constant after init
    uint64_t compacted_ns        # time of the last compaction
    bint compacted_once
    void** chunks                # chunk c at c % chunk_slots, c = seq / RING_CHUNK
    uint64_t chunk_slots         # a power of two, or 0
    void** blocks                # block b at b % block_slots
    uint64_t block_slots         # a power of two, or 0
    uint64_t block_first         # oldest block held; numbers begin at 1
    uint64_t block_next          # number of the next block
    uint64_t bytes               # held now: chunks, arena, tables
    uint64_t peak_bytes
    uint64_t payload_bytes       # keys and values of the records kept, wherever they lie
    uint64_t compactions
    uint64_t dropped
    int64_t dropped_mod          # mod of the newest record dropped; 0: none yet
    uint64_t refuse_after        # tests: the n-th request for memory from now is refused; 0: none


cdef int ring_init(Ring* r, uint64_t capacity, int policy, uint64_t interval_ns) noexcept nogil
cdef void ring_deinit(Ring* r) noexcept nogil
# Appends; returns KV_OK or KV_NOMEM (then nothing changed).  The record's sequence number is
# r.next - 1 afterwards.  REQUIRES: mod is not smaller than that of the record before.
cdef int ring_push(Ring* r, const RingRecord* rec) noexcept nogil
# The record, or NULL when it was dropped or is yet to come.  Valid until the next push or
# compaction.
cdef RingRecord* ring_at(const Ring* r, uint64_t seq) noexcept nogil
# First sequence number whose mod is > version (== next when there is none).  O(log n)
cdef uint64_t ring_after(const Ring* r, int64_t version) noexcept nogil
# Whether ring_trim would compact.  O(1)
cdef bint ring_due(const Ring* r, uint64_t now_ns) noexcept nogil
# Compacts if the policy says so; KV_OK or KV_NOMEM (full rebuild refused memory: then it drops
# incrementally instead, so the ceiling holds).
cdef int ring_trim(Ring* r, uint64_t now_ns) noexcept nogil
# Drops the records before `first`, whatever the policy says.
cdef void ring_drop(Ring* r, uint64_t first) noexcept nogil
# Room for n payload bytes that live as long as the record pushed next; *pos names them.  NULL: no
# memory.  The pointer is good until the next call; n = 0: nothing to write to, and RING_NONE.
cdef uint8_t* ring_payload(Ring* r, uint64_t n, uint64_t* pos) noexcept nogil
# NULL for RING_NONE.  Valid until the next ring_payload or compaction.
cdef const uint8_t* ring_payload_at(const Ring* r, uint64_t pos) noexcept nogil
# The first broken invariant, or NULL.
cdef const char* ring_check(const Ring* r) noexcept nogil
