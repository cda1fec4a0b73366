# SPDX-License-Identifier: Apache-2.0
"""Segment files: making, opening, and telling valid batches from everything else.

    | header 64 B | batch | batch | ... | batch |  zeros (written ahead)  |  reserved blocks  |
    0             64                            ^ tail           written_upto ^         file_bytes ^
    batch = | header 64 B: crc, nonce, own position, durable_upto, ... | payload | padding to 64 |

Invariants: (self-naming) a batch is valid only at the position and in the file (nonce) it names;
(named-when-complete) a file gets its name only after its header is durable.
Thread safety: none; the caller owns the segment it passes.  Batches of a mapped segment may be read
by any thread below the published end.
May not know: the committer, what a payload means.  Format: docs/log-format.md.
"""

from libc.errno cimport EIO, EMLINK, ENOENT, ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from kvcore._native cimport (
    KV_CORRUPT, KV_NEWER_FORMAT, KV_O_CREATE, KV_O_WRITE, KV_OK, KvIo, kv_assert,
    kv_crc32c, kv_random_u64, kv_reserve, kv_store_u64, kv_unreserve,
)
from kvcore._wal cimport (
    WAL_CEILING, WAL_COMMANDS, WAL_HEADER_BYTES, WAL_SEAL, SegWalk, WalBatch, WalSegment,
    wal_replay_fn,
)

cdef enum:
    FORMAT = 1
    ZERO_CHUNK = 256 * 1024

cdef uint8_t[ZERO_CHUNK] ZEROS

# ---- private helpers -----------------------------------------------------------------------------


cdef inline uint32_t _get32(const uint8_t* p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return v


cdef inline uint64_t _get64(const uint8_t* p) noexcept nogil:
    cdef uint64_t v
    memcpy(&v, p, 8)
    return v


cdef void _header_write(uint8_t* h, const WalSegment* s, uint64_t segment_bytes) noexcept nogil:
    cdef uint32_t crc, format = FORMAT
    memset(h, 0, WAL_HEADER_BYTES)
    memcpy(h, b"KVCSEG01", 8)
    memcpy(h + 12, &format, 4)
    memcpy(h + 16, &s.seq, 8)
    memcpy(h + 24, &segment_bytes, 8)
    memcpy(h + 32, &s.nonce, 8)
    memcpy(h + 40, &s.seed, 4)
    h[44] = s.recycled
    crc = kv_crc32c(0, h + 12, WAL_HEADER_BYTES - 12)
    memcpy(h + 8, &crc, 4)


cdef int _map(const KvIo* io, WalSegment* s) noexcept nogil:
    # A table that cannot map is no failure: reads then go through read_at.
    cdef void* view = NULL
    if io.map(io.ctx, s.handle, s.file_bytes, &view) == 0:
        s.view = <const uint8_t*>view
        s.map_bytes = s.file_bytes
    return 0


# ---- C face: files -------------------------------------------------------------------------------


cdef int seg_create(const KvIo* io, const char* tmp, uint64_t seq, uint64_t segment_bytes,
                    WalSegment** out) noexcept nogil:
    cdef WalSegment* s
    cdef int rc = io.unlink(io.ctx, tmp)    # what a failed attempt left must not shine through
    if rc != 0 and rc != -ENOENT:
        return rc
    s = <WalSegment*>calloc(1, sizeof(WalSegment))
    if s == NULL:
        return -ENOMEM
    s.seq = seq
    s.nonce = kv_random_u64()
    s.seed = <uint32_t>kv_random_u64()
    s.file_bytes = segment_bytes
    s.written_upto = WAL_HEADER_BYTES
    s.handle = io.open(io.ctx, tmp, KV_O_WRITE | KV_O_CREATE)
    if s.handle < 0:
        rc = s.handle
        free(s)
        return rc
    rc = io.allocate(io.ctx, s.handle, segment_bytes)
    if rc != 0:
        seg_free(io, s, False)
        io.unlink(io.ctx, tmp)
        return rc
    out[0] = s
    return 0


cdef WalSegment* seg_create_memory(uint64_t seq, uint64_t segment_bytes) noexcept nogil:
    cdef WalSegment* s = <WalSegment*>calloc(1, sizeof(WalSegment))
    if s == NULL:
        return NULL
    s.view = <const uint8_t*>kv_reserve(segment_bytes)
    if s.view == NULL:
        free(s)
        return NULL
    s.seq = seq
    s.handle = -1
    s.file_bytes = segment_bytes
    s.map_bytes = segment_bytes
    s.written_upto = segment_bytes
    return s


cdef int seg_zero(const KvIo* io, WalSegment* s, uint64_t upto) noexcept nogil:
    cdef uint64_t n, off = s.written_upto
    cdef int rc
    kv_assert(upto <= s.file_bytes, "zeroes stay inside the segment")
    while off < upto:
        # chunks end at multiples of their size, so that most writes are whole blocks
        n = min(ZERO_CHUNK - off % ZERO_CHUNK, upto - off)
        rc = io.write_at(io.ctx, s.handle, ZEROS, n, off)
        if rc != 0:
            return rc
        off += n
        kv_store_u64(&s.written_upto, off)
    return 0


cdef int seg_complete(const KvIo* io, WalSegment* s, const char* directory, const char* tmp,
                      const char* path, uint64_t segment_bytes) noexcept nogil:
    cdef uint8_t[WAL_HEADER_BYTES] h
    cdef int rc
    _header_write(h, s, segment_bytes)
    rc = io.write_at(io.ctx, s.handle, h, WAL_HEADER_BYTES, 0)
    if rc == 0:
        rc = io.sync(io.ctx, s.handle)
    if rc == 0:
        rc = io.rename(io.ctx, tmp, path)
    if rc == 0:
        rc = io.sync_dir(io.ctx, directory)
    if rc == 0:
        rc = _map(io, s)
    return rc


cdef int seg_recycle(const KvIo* io, WalSegment* s, const char* directory, const char* path,
                     const char* tmp, uint64_t seq, uint64_t segment_bytes) noexcept nogil:
    cdef int rc = 0
    if s.view != NULL:
        io.unmap(io.ctx, <void*>s.view, s.map_bytes)
        s.view = NULL
    if s.handle < 0:
        s.handle = io.open(io.ctx, path, KV_O_WRITE)
        if s.handle < 0:
            return s.handle
    rc = io.links(io.ctx, s.handle)
    if rc != 1:
        return rc if rc < 0 else -EMLINK
    # The old name is gone for good before the old header is: else it would name another segment.
    rc = io.rename(io.ctx, path, tmp)
    if rc == 0:
        rc = io.sync_dir(io.ctx, directory)
    if rc != 0:
        return rc
    s.seq = seq
    s.nonce = kv_random_u64()
    s.seed = <uint32_t>kv_random_u64()
    s.recycled = True
    s.written_upto = segment_bytes
    s.end = 0
    s.live_bytes = s.counted = s.empty_since = s.tried_live = 0
    s.emptied = s.retired = False
    return 0


cdef int seg_open(const KvIo* io, const char* path, WalSegment** out, uint64_t* seq,
                  uint64_t* segment_bytes, int* status) noexcept nogil:
    cdef uint8_t[WAL_HEADER_BYTES] h
    cdef WalSegment* s = <WalSegment*>calloc(1, sizeof(WalSegment))
    cdef int64_t n
    status[0] = KV_CORRUPT
    if s == NULL:
        return -ENOMEM
    s.handle = io.open(io.ctx, path, KV_O_WRITE)
    if s.handle < 0:
        n = s.handle
        free(s)
        return <int>n
    n = io.size(io.ctx, s.handle)
    if n >= 0:
        s.file_bytes = <uint64_t>n
        memset(h, 0, WAL_HEADER_BYTES)
        n = io.read_at(io.ctx, s.handle, h, WAL_HEADER_BYTES, 0)
    if n < 0:
        seg_free(io, s, False)
        return <int>n
    out[0] = s
    if s.file_bytes > 0:
        _map(io, s)
    if n < WAL_HEADER_BYTES or memcmp(h, b"KVCSEG", 6) != 0:
        return 0
    if _get32(h + 8) != kv_crc32c(0, h + 12, WAL_HEADER_BYTES - 12):
        return 0
    if memcmp(h, b"KVCSEG01", 8) != 0 or _get32(h + 12) > FORMAT:
        status[0] = KV_NEWER_FORMAT
        return 0
    seq[0] = _get64(h + 16)
    segment_bytes[0] = _get64(h + 24)
    s.seq = seq[0]
    s.nonce = _get64(h + 32)
    s.seed = _get32(h + 40)
    s.recycled = h[44] & 1
    status[0] = KV_OK
    return 0


cdef void seg_close_handle(const KvIo* io, WalSegment* s) noexcept nogil:
    if s.handle >= 0 and s.view != NULL:
        io.close(io.ctx, s.handle)
        s.handle = -1


cdef void seg_free(const KvIo* io, WalSegment* s, bint in_memory) noexcept nogil:
    if s == NULL:
        return
    if s.view != NULL:
        if in_memory:
            kv_unreserve(<void*>s.view, s.map_bytes)
        else:
            io.unmap(io.ctx, <void*>s.view, s.map_bytes)
    if s.handle >= 0:
        io.close(io.ctx, s.handle)
    free(s)


cdef int seg_bytes(const KvIo* io, const WalSegment* s, const uint8_t** base,
                   void** owned) noexcept nogil:
    cdef int64_t n
    owned[0] = NULL
    base[0] = s.view
    if s.view != NULL or s.file_bytes == 0:
        return 0
    owned[0] = malloc(s.file_bytes)
    if owned[0] == NULL:
        return -ENOMEM
    n = io.read_at(io.ctx, s.handle, owned[0], s.file_bytes, 0)
    if n != <int64_t>s.file_bytes:
        free(owned[0])
        owned[0] = NULL
        return <int>n if n < 0 else -EIO
    base[0] = <const uint8_t*>owned[0]
    return 0


# ---- C face: batches -----------------------------------------------------------------------------


cdef bint batch_read(const WalSegment* s, const uint8_t* base, uint32_t shift, uint64_t off,
                     WalBatch* b) noexcept nogil:
    cdef const uint8_t* h = base + off
    if off + WAL_HEADER_BYTES > s.file_bytes or memcmp(h, b"KVB1", 4) != 0:
        return False
    b.nonce = _get64(h + 8)
    b.pos = _get64(h + 16)
    b.len = _get32(h + 56)
    if b.nonce != s.nonce or b.pos != (s.seq << shift) + off:
        return False
    if off + batch_bytes(b.len) > s.file_bytes:
        return False
    b.crc = _get32(h + 4)
    if b.crc != kv_crc32c(s.seed, h + 8, 56 + <size_t>b.len):
        return False
    b.durable_upto = _get64(h + 24)
    b.first_index = _get64(h + 32)
    b.term = _get64(h + 40)
    b.revision = <int64_t>_get64(h + 48)
    b.count = _get32(h + 60) & 0xFFFFFF
    b.kind = h[63]
    return True


cdef void batch_write(uint8_t* h, const WalBatch* b, const uint32_t* seed) noexcept nogil:
    cdef uint32_t count_and_kind = b.count | (<uint32_t>b.kind << 24)
    cdef uint32_t crc = 0
    memcpy(h, b"KVB1", 4)
    memcpy(h + 8, &b.nonce, 8)
    memcpy(h + 16, &b.pos, 8)
    memcpy(h + 24, &b.durable_upto, 8)
    memcpy(h + 32, &b.first_index, 8)
    memcpy(h + 40, &b.term, 8)
    memcpy(h + 48, &b.revision, 8)
    memcpy(h + 56, &b.len, 4)
    memcpy(h + 60, &count_and_kind, 4)
    if seed != NULL:
        crc = kv_crc32c(seed[0], h + 8, 56 + <size_t>b.len)
    memcpy(h + 4, &crc, 4)


cdef int seg_walk(const WalSegment* s, const uint8_t* base, uint32_t shift, uint64_t upto,
                  wal_replay_fn fn, void* ctx, SegWalk* walk) noexcept nogil:
    cdef WalBatch b
    cdef int rc
    while walk.off < upto and batch_read(s, base, shift, walk.off, &b):
        if fn != NULL:
            rc = fn(ctx, &b, base + walk.off + WAL_HEADER_BYTES, b.pos + WAL_HEADER_BYTES)
            if rc != 0:
                return rc
        if b.kind == WAL_COMMANDS:
            walk.commands += b.count
        elif b.kind == WAL_CEILING:
            walk.ceiling = b.revision
        elif b.kind == WAL_SEAL:
            walk.seal_revision = b.revision
        walk.batches += 1
        walk.durable_upto = b.durable_upto
        walk.last_kind = b.kind
        walk.last_off = walk.off
        walk.off += batch_bytes(b.len)
    return KV_OK


cdef uint64_t seg_find_proof(const WalSegment* s, const uint8_t* base, uint32_t shift, uint64_t off,
                             uint64_t* durable_upto) noexcept nogil:
    cdef uint64_t at = off + WAL_HEADER_BYTES
    cdef uint64_t here = (s.seq << shift) + off
    cdef WalBatch b
    while at + WAL_HEADER_BYTES <= s.file_bytes:
        if batch_read(s, base, shift, at, &b) and b.durable_upto > here:
            durable_upto[0] = b.durable_upto
            return at
        at += WAL_HEADER_BYTES
    return 0


cdef bint seg_looks_used(const uint8_t* base, uint64_t n, uint32_t shift,
                         uint64_t seq) noexcept nogil:
    cdef uint64_t at = WAL_HEADER_BYTES
    while at + WAL_HEADER_BYTES <= n:
        if memcmp(base + at, b"KVB1", 4) == 0 and _get64(base + at + 16) == (seq << shift) + at:
            return True
        at += WAL_HEADER_BYTES
    return False


cdef uint64_t _to_last_nonzero(const uint8_t* base, uint64_t off, uint64_t n) noexcept nogil:
    cdef uint64_t end = n, step
    # whole chunks of zeros are skipped from the back, the rest is counted byte by byte
    while end > off:
        step = min(<uint64_t>4096, end - off)
        if memcmp(base + end - step, ZEROS, step) != 0:
            break
        end -= step
    while end > off and base[end - 1] == 0:
        end -= 1
    return end - off


cdef uint64_t seg_left_behind(const WalSegment* s, const uint8_t* base, uint32_t shift,
                              uint64_t off) noexcept nogil:
    # In a file that was another segment before, batches of that one do not count: they name
    # another nonce, and can never become valid here.
    cdef uint64_t at = (off + 63) & ~<uint64_t>63, end = 0
    cdef const uint8_t* h
    if not s.recycled:
        return _to_last_nonzero(base, off, s.file_bytes) if s.file_bytes > off else 0
    while at + WAL_HEADER_BYTES <= s.file_bytes:
        h = base + at
        if (memcmp(h, b"KVB1", 4) == 0 and _get64(h + 8) == s.nonce
                and _get64(h + 16) == (s.seq << shift) + at):
            end = min(s.file_bytes, at + batch_bytes(_get32(h + 56)))
        at += WAL_HEADER_BYTES
    return end - off if end else 0
