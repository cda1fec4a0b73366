# SPDX-License-Identifier: Apache-2.0
"""The recent window of events: records in chunks, found by number; payload in blocks behind them.

    chunks  | 1024 records | 1024 records | 1024 recor. |      record seq: chunk seq / 1024
              ▲ first                              ▲ next
    blocks  |■■■■■■■■■■■■■■|■■■■■■■■■■■■■|■■■■■■........|      payload pos: block << 16 | offset
              last = 811     last = 1893   last = next - 1

Both tables are rings of pointers, indexed by number modulo their size, so that nothing is moved
when the oldest go.  Payload is written behind the newest; a block knows the newest record that
uses it and is freed when that one is dropped: its memory goes with its records, up to one block of
dead bytes at the old end.  A payload that finds no room opens a block of 64 KiB, or of its own
size if that is more; the block left behind is cut to what it holds if much of it lies idle.

Compaction, when there are more than 110 % of capacity and the interval has passed, or more than
200 % in any case, keeps the newest 90 %.  Incremental: whole chunks and blocks are freed, no record
is touched but those dropped from a chunk that stays (1,023 at most).  Full: everything kept is
copied, then everything old is freed: what a window costs that is rebuilt, kept to compare with.

Invariants (`ring_check`)
1. chunks: those from first's to next - 1's are there, none else; likewise the blocks.
2. order: mod never descends; no record kept is older than dropped_mod.
3. goes-with: `last` of the blocks never descends; the oldest block's is not behind first.
4. counters: bytes and payload_bytes are the sums of what is there; dropped == first.

Estimate (measured): 48 B a record, 8 B a chunk, so 4.8 MB for 100,000 (5.3 at 110 %), payload and
1/8 at most; push 5 ns (8.5), of which 3 are the page faults of fresh chunks; trim 1 ns when it is
not due; dropping 20,000 records: 20 chunks at 0.2 us, 1,000 records at 1 ns, a block at 0.2 us:
0.1 ms with 1.5 KB each (0.05; a full rebuild of that window 250).
Thread safety: the owner's lock.  Ownership: the Ring owns chunks, blocks and tables.
May not know: what events, keys and values are; clocks; Python.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from kvcore._native cimport KV_NOMEM, KV_OK, kv_assert, kv_verify

cdef enum:
    FIRST_SLOTS = 8


# ---- memory --------------------------------------------------------------------------------------

cdef void* _take(Ring* r, uint64_t n) noexcept nogil:
    cdef void* p
    if r.refuse_after:
        r.refuse_after -= 1
        if r.refuse_after == 0:
            return NULL
    p = malloc(n)
    if p != NULL:
        r.bytes += n
        if r.bytes > r.peak_bytes:
            r.peak_bytes = r.bytes
    return p


cdef void _give(Ring* r, void* p, uint64_t n) noexcept nogil:
    if p != NULL:
        free(p)
        r.bytes -= n


cdef inline uint64_t _chunk_end(const Ring* r) noexcept nogil:
    """One behind the newest chunk."""
    return (r.next + RING_CHUNK - 1) >> RING_CHUNK_BITS


cdef inline RingChunk* _chunk(const Ring* r, uint64_t c) noexcept nogil:
    return <RingChunk*>r.chunks[c & (r.chunk_slots - 1)]


cdef inline RingBlock* _block(const Ring* r, uint64_t b) noexcept nogil:
    return <RingBlock*>r.blocks[b & (r.block_slots - 1)]


cdef inline uint64_t _block_bytes(const RingBlock* b) noexcept nogil:
    return sizeof(RingBlock) + b.size


cdef inline uint8_t* _block_data(RingBlock* b) noexcept nogil:
    return <uint8_t*>b + sizeof(RingBlock)


cdef bint _make_slot(Ring* r, void*** table, uint64_t* slots, uint64_t first,
                     uint64_t end) noexcept nogil:
    """Room in a table for number `end`; False: no memory."""
    cdef uint64_t grown_slots = slots[0] * 2 if slots[0] else FIRST_SLOTS
    cdef uint64_t i
    cdef void** grown
    if end - first < slots[0]:
        return True
    grown = <void**>_take(r, grown_slots * sizeof(void*))
    if grown == NULL:
        return False
    for i in range(first, end):
        grown[i & (grown_slots - 1)] = table[0][i & (slots[0] - 1)]
    _give(r, table[0], slots[0] * sizeof(void*))
    table[0] = grown
    slots[0] = grown_slots
    return True


cdef void _free_chunks(Ring* r, uint64_t begin, uint64_t end) noexcept nogil:
    cdef uint64_t c
    for c in range(begin, end):
        _give(r, _chunk(r, c), sizeof(RingChunk))


cdef void _free_blocks(Ring* r, uint64_t begin, uint64_t end) noexcept nogil:
    cdef uint64_t b
    for b in range(begin, end):
        _give(r, _block(r, b), _block_bytes(_block(r, b)))


# ---- dropping ------------------------------------------------------------------------------------

cdef uint64_t _first_block_of(const Ring* r, uint64_t seq) noexcept nogil:
    """The oldest block that a record from seq on may use."""
    cdef uint64_t b = r.block_first
    while b < r.block_next and _block(r, b).last < seq:
        b += 1
    return b


cdef void _write_off(Ring* r, uint64_t first) noexcept nogil:
    """The counters, as if the records before `first` were gone already."""
    cdef uint64_t c = r.first >> RING_CHUNK_BITS
    cdef uint64_t seq = r.first, n
    cdef RingRecord* rec
    r.dropped_mod = ring_at(r, first - 1).mod
    r.dropped += first - r.first
    for c in range(r.first >> RING_CHUNK_BITS, first >> RING_CHUNK_BITS):
        r.payload_bytes -= _chunk(r, c).payload
        seq = (c + 1) << RING_CHUNK_BITS
    for seq in range(seq, first):
        rec = ring_at(r, seq)
        n = <uint64_t>rec.len + rec.key_len
        _chunk(r, seq >> RING_CHUNK_BITS).payload -= n
        r.payload_bytes -= n


cdef void _drop(Ring* r, uint64_t first) noexcept nogil:
    """In place: the chunks and blocks that nobody kept stands in."""
    cdef uint64_t b = _first_block_of(r, first)
    _free_chunks(r, r.first >> RING_CHUNK_BITS, first >> RING_CHUNK_BITS)
    _free_blocks(r, r.block_first, b)
    r.first = first
    r.block_first = b


cdef void ring_drop(Ring* r, uint64_t first) noexcept nogil:
    if r.first < first <= r.next:
        _write_off(r, first)
        _drop(r, first)


# ---- rebuilding ----------------------------------------------------------------------------------

cdef void** _copies(Ring* r, void** table, uint64_t slots, uint64_t begin, uint64_t end,
                    bint blocks) noexcept nogil:
    """A table like the one given, with copies of the numbers from begin to end; NULL: no memory."""
    cdef uint64_t mask = slots - 1
    cdef uint64_t i, made, n
    cdef void** copies = <void**>_take(r, slots * sizeof(void*))
    cdef RingBlock* b
    if copies == NULL:
        return NULL
    for i in range(begin, end):
        b = <RingBlock*>table[i & mask]
        n = _block_bytes(b) if blocks else sizeof(RingChunk)
        copies[i & mask] = _take(r, n)
        if copies[i & mask] == NULL:
            for made in range(begin, i):
                b = <RingBlock*>copies[made & mask]
                _give(r, b, _block_bytes(b) if blocks else sizeof(RingChunk))
            _give(r, copies, slots * sizeof(void*))
            return NULL
        memcpy(copies[i & mask], b, sizeof(RingBlock) + b.used if blocks else n)
    return copies


cdef int _rebuild(Ring* r, uint64_t first) noexcept nogil:
    """Into fresh memory: everything from `first` on; KV_NOMEM: nothing changed."""
    cdef uint64_t begin = first >> RING_CHUNK_BITS, end = _chunk_end(r)
    cdef uint64_t b = _first_block_of(r, first), i
    cdef void** blocks = NULL
    cdef void** chunks = _copies(r, r.chunks, r.chunk_slots, begin, end, False)
    if chunks == NULL:
        return KV_NOMEM
    if r.block_slots:
        blocks = _copies(r, r.blocks, r.block_slots, b, r.block_next, True)
        if blocks == NULL:
            for i in range(begin, end):
                _give(r, chunks[i & (r.chunk_slots - 1)], sizeof(RingChunk))
            _give(r, chunks, r.chunk_slots * sizeof(void*))
            return KV_NOMEM
    _free_chunks(r, r.first >> RING_CHUNK_BITS, end)
    _free_blocks(r, r.block_first, r.block_next)
    _give(r, r.chunks, r.chunk_slots * sizeof(void*))
    _give(r, r.blocks, r.block_slots * sizeof(void*))
    r.chunks = chunks
    r.blocks = blocks
    r.first = first
    r.block_first = b
    return KV_OK


# ---- C face --------------------------------------------------------------------------------------

cdef int ring_init(Ring* r, uint64_t capacity, int policy, uint64_t interval_ns) noexcept nogil:
    kv_assert(sizeof(RingRecord) == 48, "a record is 48 bytes")
    kv_assert(capacity > 0 and capacity < <uint64_t>1 << 56, "the ring's capacity")
    memset(r, 0, sizeof(Ring))
    r.capacity = capacity
    r.policy = policy
    r.interval_ns = interval_ns
    r.block_first = 1
    r.block_next = 1
    return KV_OK


cdef void ring_deinit(Ring* r) noexcept nogil:
    _free_chunks(r, r.first >> RING_CHUNK_BITS, _chunk_end(r))
    _free_blocks(r, r.block_first, r.block_next)
    _give(r, r.chunks, r.chunk_slots * sizeof(void*))
    _give(r, r.blocks, r.block_slots * sizeof(void*))
    memset(r, 0, sizeof(Ring))


cdef int ring_push(Ring* r, const RingRecord* rec) noexcept nogil:
    cdef uint64_t c = r.next >> RING_CHUNK_BITS
    cdef RingChunk* chunk
    kv_verify(r.next == r.first or ring_at(r, r.next - 1).mod <= rec.mod, "ring: mod ascends")
    if r.next & (RING_CHUNK - 1) == 0:
        if not _make_slot(r, &r.chunks, &r.chunk_slots, r.first >> RING_CHUNK_BITS, c):
            return KV_NOMEM
        chunk = <RingChunk*>_take(r, sizeof(RingChunk))
        if chunk == NULL:
            return KV_NOMEM
        chunk.payload = 0
        r.chunks[c & (r.chunk_slots - 1)] = chunk
    chunk = _chunk(r, c)
    chunk.records[r.next & (RING_CHUNK - 1)] = rec[0]
    chunk.payload += <uint64_t>rec.len + rec.key_len
    r.payload_bytes += <uint64_t>rec.len + rec.key_len
    r.next += 1
    return KV_OK


cdef RingRecord* ring_at(const Ring* r, uint64_t seq) noexcept nogil:
    if seq < r.first or seq >= r.next:
        return NULL
    return &_chunk(r, seq >> RING_CHUNK_BITS).records[seq & (RING_CHUNK - 1)]


cdef uint64_t ring_after(const Ring* r, int64_t version) noexcept nogil:
    cdef uint64_t low = r.first, high = r.next, mid
    while low < high:
        mid = low + (high - low) // 2
        if ring_at(r, mid).mod > version:
            high = mid
        else:
            low = mid + 1
    return low


cdef bint ring_due(const Ring* r, uint64_t now_ns) noexcept nogil:
    cdef uint64_t length = r.next - r.first
    if length * 10 <= r.capacity * 11:
        return False
    if length > 2 * r.capacity or not r.compacted_once:
        return True
    return now_ns >= r.compacted_ns and now_ns - r.compacted_ns >= r.interval_ns


cdef int ring_trim(Ring* r, uint64_t now_ns) noexcept nogil:
    cdef uint64_t first
    cdef int status = KV_NOMEM
    if not ring_due(r, now_ns):
        return KV_OK
    first = r.next - r.capacity * 9 // 10
    r.compacted_ns = now_ns
    r.compacted_once = True
    r.compactions += 1
    _write_off(r, first)
    if r.policy == RING_FULL:
        status = _rebuild(r, first)
    if status != KV_OK:
        _drop(r, first)
    return status if r.policy == RING_FULL else KV_OK


cdef uint8_t* ring_payload(Ring* r, uint64_t n, uint64_t* pos) noexcept nogil:
    cdef RingBlock* b = NULL
    cdef RingBlock* cut
    cdef uint64_t idle
    pos[0] = RING_NONE
    if n == 0:
        return <uint8_t*>r
    if r.block_next > r.block_first:
        b = _block(r, r.block_next - 1)
    if b == NULL or b.size - b.used < n:
        if b != NULL and b.size - b.used > b.size // 8:
            idle = b.size - b.used
            cut = <RingBlock*>realloc(b, sizeof(RingBlock) + b.used)
            if cut != NULL:
                cut.size -= idle
                r.bytes -= idle
                r.blocks[(r.block_next - 1) & (r.block_slots - 1)] = cut
        if not _make_slot(r, &r.blocks, &r.block_slots, r.block_first, r.block_next):
            return NULL
        b = <RingBlock*>_take(r, sizeof(RingBlock) + max(n, <uint64_t>RING_BLOCK))
        if b == NULL:
            return NULL
        b.size = max(n, <uint64_t>RING_BLOCK)
        b.used = 0
        r.blocks[r.block_next & (r.block_slots - 1)] = b
        r.block_next += 1
    pos[0] = (r.block_next - 1) << RING_BLOCK_BITS | b.used
    b.last = r.next
    b.used += n
    return _block_data(b) + (b.used - n)


cdef const uint8_t* ring_payload_at(const Ring* r, uint64_t pos) noexcept nogil:
    cdef uint64_t b = pos >> RING_BLOCK_BITS
    if pos == RING_NONE:
        return NULL
    kv_assert(b >= r.block_first and b < r.block_next, "ring: the payload's block is there")
    return _block_data(_block(r, b)) + (pos & (RING_BLOCK - 1))


# ---- check ---------------------------------------------------------------------------------------

cdef const char* _check_blocks(const Ring* r, uint64_t* bytes) noexcept nogil:
    cdef uint64_t b, last = r.first
    if r.block_next - r.block_first > r.block_slots:
        return b"ring, chunks: more blocks than their table has room for"
    for b in range(r.block_first, r.block_next):
        if _block(r, b).used > _block(r, b).size or _block(r, b).used == 0:
            return b"ring, chunks: a block holds more than its size, or nothing"
        if _block(r, b).last < last or _block(r, b).last > r.next:
            return b"ring, goes-with: a block's newest record is out of order"
        last = _block(r, b).last
        bytes[0] += _block_bytes(_block(r, b))
    return NULL


cdef const char* ring_check(const Ring* r) noexcept nogil:
    cdef uint64_t seq, payload = 0, chunk = 0
    cdef uint64_t chunks = _chunk_end(r) - (r.first >> RING_CHUNK_BITS)
    cdef uint64_t bytes = (r.chunk_slots + r.block_slots) * sizeof(void*)
    cdef int64_t mod = r.dropped_mod
    cdef RingRecord* rec
    cdef const char* broken = _check_blocks(r, &bytes)
    if broken != NULL:
        return broken
    if r.first > r.next or chunks > r.chunk_slots:
        return b"ring, chunks: first is behind next, or the table has too little room"
    for seq in range(r.first, r.next):
        rec = ring_at(r, seq)
        if rec.mod < mod:
            return b"ring, order: mod descends"
        mod = rec.mod
        chunk += <uint64_t>rec.len + rec.key_len
        if seq == r.next - 1 or (seq + 1) & (RING_CHUNK - 1) == 0:
            if _chunk(r, seq >> RING_CHUNK_BITS).payload != chunk:
                return b"ring, counters: a chunk's payload is not that of its records"
            payload += chunk
            chunk = 0
    bytes += chunks * sizeof(RingChunk)
    if bytes != r.bytes or r.bytes > r.peak_bytes or payload != r.payload_bytes:
        return b"ring, counters: the bytes do not add up"
    if r.dropped != r.first:
        return b"ring, counters: dropped is not what is missing"
    return NULL
