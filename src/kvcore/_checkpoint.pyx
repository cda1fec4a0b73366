# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a snapshot of the index as a file, so that an open replays little.

    header 128 | block | block | ... | segment table | lease table | footer
                 └ len crc keys 0 | shared suffix_len versions | suffix | 48 B each version | ...

    begin (snapshot taken) -> blocks -> table, footer, header -> sync -> read back -> rename
        -> sync dir

The header goes last, so a file without one was never finished.  It holds the compacted form: what
compaction at its compact revision makes invisible is left out.

Invariants: a file that has its final name was read back whole; every block and the table prove
themselves by CRC; the footer's count proves the length.
Thread safety: one writer at a time; it reads an immutable snapshot, without lock and without the
GIL.
May not know: the engine, Python objects.
"""

from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset, strdup, strlen

from kvcore._btree cimport (BTree, BtLoader, BtSnapshot, bt_dump, bt_load_begin, bt_load_end,
                            bt_load_push)
from kvcore._command cimport KvBuf, buf_free, buf_room
from kvcore._native cimport (KV_CORRUPT, KV_IO, KV_KEY_MAX_BYTES, KV_NEWER_FORMAT, KV_NOMEM,
                             KV_O_CREATE, KV_O_READ, KV_O_WRITE, KV_OK, KvIo, KvSlice, KvVersion,
                             kv_crc32c)
from kvcore._rows cimport rows_clear, rows_free, rows_init, rows_key
from kvcore._segment_table cimport table_at
from kvcore._wal cimport CELL_HEAD, WAL_HEADER_BYTES, Wal, WalSegment

cdef enum:
    CK_ROWS_PER_STEP = 4096
    CK_SYNC_BYTES = 4 << 20
    CK_FORMAT = 1
    BLOCK_HEAD = 16
    LEASE_BYTES = 16             # id, ttl
    BYTES_PER_KEY_GUESS = 96
    MIN_SEGMENT_BYTES = 1 << 16  # as docs/log-format.md says
    MAX_SEGMENT_BYTES = 1 << 30
    PHASE_OPEN = 0
    PHASE_BLOCKS = 1
    PHASE_VERIFY = 2
    PHASE_DONE = 3

cdef int64_t MAX_REVISION = <int64_t>1 << 62
cdef uint64_t MAX_POSITION = <uint64_t>1 << 62

cdef const char* MAGIC = b"KVCCKP01"
cdef const char* END_MAGIC = b"KVCCKEND"


# =================================================================================================
# Header
# =================================================================================================

cdef void _pack_header(const CkInfo* i, uint8_t* h) noexcept nogil:
    cdef uint32_t crc, fmt = CK_FORMAT
    memset(h, 0, CK_HEADER_BYTES)
    memcpy(h, MAGIC, 8)
    memcpy(h + 12, &fmt, 4)
    memcpy(h + 16, i, sizeof(CkInfo))    # 8-byte words, in file order
    crc = kv_crc32c(0, h + 12, CK_HEADER_BYTES - 12)
    memcpy(h + 8, &crc, 4)


cdef int _unpack_header(const uint8_t* h, CkInfo* i, const char** reason) noexcept nogil:
    cdef uint32_t crc, fmt
    memcpy(&crc, h + 8, 4)
    memcpy(&fmt, h + 12, 4)
    if memcmp(h, MAGIC, 8) != 0:
        reason[0] = b"not a checkpoint, or one that was never finished"
        return KV_CORRUPT
    if crc != kv_crc32c(0, h + 12, CK_HEADER_BYTES - 12):
        reason[0] = b"checkpoint header fails its checksum"
        return KV_CORRUPT
    if fmt > CK_FORMAT:
        return KV_NEWER_FORMAT
    memcpy(i, h + 16, sizeof(CkInfo))
    if (not MIN_SEGMENT_BYTES <= i.segment_bytes <= MAX_SEGMENT_BYTES
            or i.segment_bytes & (i.segment_bytes - 1) or i.replay_from < i.segment_bytes
            or i.replay_from > MAX_POSITION or not 1 <= i.revision < MAX_REVISION
            or not -1 <= i.compact_revision <= i.revision
            or not 0 <= i.ceiling < MAX_REVISION or i.applied_index > MAX_POSITION):
        reason[0] = b"checkpoint header has numbers that cannot be"
        return KV_CORRUPT
    return KV_OK


cdef int _write(CkWriter* w, const void* p, uint64_t n) noexcept nogil:
    """Appends, and syncs every few MiB so that no single sync is long."""
    cdef int rc = w.io.write_at(w.io.ctx, w.handle, p, n, w.off)
    if rc < 0:
        w.failed_errno = -rc
        return KV_IO
    w.off += n
    if w.off - w.synced >= CK_SYNC_BYTES:
        w.synced = w.off
        rc = w.io.sync(w.io.ctx, w.handle)
        if rc < 0:
            w.failed_errno = -rc
            return KV_IO
    return KV_OK


# =================================================================================================
# Writing
# =================================================================================================

cdef char* _join(const char* directory, const char* name, const char* suffix) noexcept nogil:
    cdef size_t a = strlen(directory), b = strlen(name), c = strlen(suffix)
    cdef char* p = <char*>malloc(a + b + c + 2)
    if p != NULL:
        memcpy(p, directory, a)
        p[a] = b"/"
        memcpy(p + a + 1, name, b)
        memcpy(p + a + 1 + b, suffix, c + 1)
    return p


cdef int ck_begin(CkWriter* w, const KvIo* io, const char* directory, const char* name,
                  const CkInfo* info, BtSnapshot* snap, int64_t* leases,
                  const Wal* wal) noexcept nogil:
    cdef const WalSegment* s
    cdef uint64_t i, last
    memset(w, 0, sizeof(CkWriter))
    rows_init(&w.rows)
    w.handle = -1
    w.io = io
    w.info = info[0]
    w.snap = snap
    w.leases = leases
    w.tmp_path = _join(directory, name, b".tmp")
    w.final_path = _join(directory, name, b".ckp")
    w.dir_path = strdup(directory)
    # Segments with something of what it holds; one only made ready may rightly be gone at an open.
    last = (info.replay_from - WAL_HEADER_BYTES - 1) // wal.segment_bytes
    w.first_seq = wal.first_seq
    if last >= w.first_seq:
        w.span = min(last - w.first_seq + 1, wal.segment_count)
    w.table = <CkSegment*>calloc(w.span + 1, sizeof(CkSegment))
    if w.tmp_path == NULL or w.final_path == NULL or w.dir_path == NULL or w.table == NULL:
        return KV_NOMEM
    for i in range(w.span):
        s = table_at(wal, i)                 # once: the last reader may let it go meanwhile
        if s != NULL and not s.retired:
            w.table[i].seq = s.seq
            w.table[i].nonce = s.nonce
            w.table[i].seed = s.seed
    return KV_OK


cdef int _open_file(CkWriter* w) noexcept nogil:
    w.handle = w.io.open(w.io.ctx, w.tmp_path, KV_O_WRITE | KV_O_CREATE)
    if w.handle < 0:
        w.failed_errno = -w.handle
        return KV_IO
    if w.io.truncate(w.io.ctx, w.handle, 0) < 0:
        return KV_IO
    # A hint: it may be refused.
    w.io.allocate(w.io.ctx, w.handle, CK_HEADER_BYTES + w.snap.view.live * BYTES_PER_KEY_GUESS)
    w.off = CK_HEADER_BYTES
    w.phase = PHASE_BLOCKS
    return KV_OK


cdef void _count_live(CkWriter* w, const KvVersion* v, uint64_t key_len,
                      bint newest) noexcept nogil:
    cdef uint64_t seq = v.pos // w.info.segment_bytes
    cdef CkSegment* s
    if v.version and w.first_seq <= seq < w.first_seq + w.span:
        s = &w.table[seq - w.first_seq]
        s.live_bytes += CELL_HEAD + key_len + v.len
        if not newest:
            s.history_bytes += CELL_HEAD + key_len + v.len


cdef int _add_key(CkWriter* w, KvSlice key, uint64_t first, uint32_t n) noexcept nogil:
    """One key with its n versions, rows first.. of w.rows, to the block."""
    cdef uint16_t shared = 0, suffix
    cdef uint64_t limit = key.len if key.len < w.last_key.len else w.last_key.len
    cdef uint32_t i
    cdef uint8_t* p
    while shared < limit and key.ptr[shared] == w.last_key.p[shared]:
        shared += 1
    suffix = <uint16_t>(key.len - shared)
    p = buf_room(&w.block, 8 + suffix + <uint64_t>n * sizeof(KvVersion))
    if p == NULL:
        return KV_NOMEM
    memcpy(p, &shared, 2)
    memcpy(p + 2, &suffix, 2)
    memcpy(p + 4, &n, 4)
    memcpy(p + 8, key.ptr + shared, suffix)
    p += 8 + suffix
    for i in range(n):
        memcpy(p, &w.rows.rows[first + i].v, sizeof(KvVersion))
        _count_live(w, &w.rows.rows[first + i].v, key.len, i == n - 1)
        p += sizeof(KvVersion)
    w.block.len += 8 + suffix + <uint64_t>n * sizeof(KvVersion)
    w.last_key.len = 0
    p = buf_room(&w.last_key, key.len)
    if p == NULL:
        return KV_NOMEM
    memcpy(p, key.ptr, key.len)
    w.last_key.len = key.len
    w.info.keys += 1
    w.info.versions += n
    return KV_OK


cdef inline bint _same(KvSlice a, KvSlice b) noexcept nogil:
    return a.len == b.len and memcmp(a.ptr, b.ptr, a.len) == 0


cdef int _write_block(CkWriter* w, bint* more) noexcept nogil:
    cdef KvSlice after, key
    cdef uint64_t i = 0, first
    cdef uint32_t head[4]
    cdef uint64_t keys_before = w.info.keys
    cdef int rc
    after.ptr = w.last_key.p if w.info.keys else NULL
    after.len = w.last_key.len
    rows_clear(&w.rows)
    rc = bt_dump(&w.snap.view, after, w.info.compact_revision, CK_ROWS_PER_STEP, &w.rows, more)
    if rc != KV_OK:
        return rc
    if w.rows.n == 0:
        return KV_OK
    w.block.len = BLOCK_HEAD
    if w.block.cap < BLOCK_HEAD and buf_room(&w.block, BLOCK_HEAD) == NULL:
        return KV_NOMEM
    w.last_key.len = 0                       # the first key of a block is whole
    while i < w.rows.n:
        first = i
        key = rows_key(&w.rows, first)
        while i < w.rows.n and _same(rows_key(&w.rows, i), key):
            i += 1
        rc = _add_key(w, key, first, <uint32_t>(i - first))
        if rc != KV_OK:
            return rc
    head[0] = <uint32_t>(w.block.len - BLOCK_HEAD)
    head[1] = kv_crc32c(0, w.block.p + BLOCK_HEAD, head[0])
    head[2] = <uint32_t>(w.info.keys - keys_before)
    head[3] = 0
    memcpy(w.block.p, head, BLOCK_HEAD)
    w.info.blocks += 1
    return _write(w, w.block.p, w.block.len)


cdef int _write_table(CkWriter* w, const void* table, uint64_t count,
                      uint64_t entry) noexcept nogil:
    cdef uint32_t head[2]
    cdef int rc
    head[0] = kv_crc32c(0, <const uint8_t*>table, count * entry)
    head[1] = <uint32_t>count
    rc = _write(w, head, 8)
    if rc == KV_OK and count:
        rc = _write(w, table, count * entry)
    return rc


cdef int _write_end(CkWriter* w) noexcept nogil:
    """Tables, footer, then the header that makes the file one."""
    cdef uint8_t header[CK_HEADER_BYTES]
    cdef uint8_t footer[16]
    cdef uint64_t i
    cdef int rc
    w.info.table_off = w.off
    for i in range(w.span):
        if w.table[i].seq:
            w.table[w.info.segments] = w.table[i]
            w.info.segments += 1
    memcpy(footer, END_MAGIC, 8)
    memcpy(footer + 8, &w.info.blocks, 8)
    rc = _write_table(w, w.table, w.info.segments, sizeof(CkSegment))
    if rc == KV_OK:
        rc = _write_table(w, w.leases, w.info.leases, LEASE_BYTES)
    if rc == KV_OK:
        rc = _write(w, footer, 16)
    if rc != KV_OK:
        return rc
    if w.io.truncate(w.io.ctx, w.handle, w.off) < 0:
        return KV_IO
    _pack_header(&w.info, header)
    if w.io.write_at(w.io.ctx, w.handle, header, CK_HEADER_BYTES, 0) < 0:
        return KV_IO
    if w.io.sync(w.io.ctx, w.handle) < 0:
        return KV_IO
    w.off = CK_HEADER_BYTES
    return KV_OK


cdef int _read_block(const KvIo* io, int handle, uint64_t* off, uint64_t end, KvBuf* buf,
                     uint32_t* keys, const char** reason) noexcept nogil:
    """The next block's payload into buf, checked; blocks end at `end`."""
    cdef uint32_t head[4]
    cdef int64_t got = io.read_at(io.ctx, handle, head, BLOCK_HEAD, off[0])
    if got < 0:
        return KV_IO
    if got != BLOCK_HEAD or head[0] == 0 or off[0] + BLOCK_HEAD + head[0] > end:
        reason[0] = b"checkpoint is cut short"
        return KV_CORRUPT
    buf.len = 0
    if buf_room(buf, head[0]) == NULL:
        return KV_NOMEM
    got = io.read_at(io.ctx, handle, buf.p, head[0], off[0] + BLOCK_HEAD)
    if got < 0:
        return KV_IO
    if got != head[0]:
        reason[0] = b"checkpoint is cut short"
        return KV_CORRUPT
    if head[3] != 0 or kv_crc32c(0, buf.p, head[0]) != head[1]:
        reason[0] = b"checkpoint block fails its checksum"
        return KV_CORRUPT
    buf.len = head[0]
    keys[0] = head[2]
    off[0] += BLOCK_HEAD + head[0]
    return KV_OK


cdef int _finish(CkWriter* w) noexcept nogil:
    cdef int rc = w.io.close(w.io.ctx, w.handle)
    w.handle = -1
    if rc < 0:
        return KV_IO
    if w.io.rename(w.io.ctx, w.tmp_path, w.final_path) < 0:
        return KV_IO
    if w.io.sync_dir(w.io.ctx, w.dir_path) < 0:
        return KV_IO
    return KV_OK


cdef int ck_step(CkWriter* w, bint* more) noexcept nogil:
    cdef const char* reason = NULL
    cdef uint32_t keys = 0
    cdef int rc
    more[0] = True
    if w.phase == PHASE_OPEN:
        return _open_file(w)
    if w.phase == PHASE_BLOCKS:
        rc = _write_block(w, more)
        if rc != KV_OK or more[0]:
            return rc
        more[0] = True
        w.phase = PHASE_VERIFY
        return _write_end(w)
    if w.phase == PHASE_VERIFY:
        if w.verified < w.info.blocks:
            w.verified += 1
            return _read_block(w.io, w.handle, &w.off, w.info.table_off, &w.block, &keys, &reason)
        w.phase = PHASE_DONE
        more[0] = False
        return _finish(w)
    more[0] = False
    return KV_OK


cdef void ck_end(CkWriter* w) noexcept nogil:
    if w.handle >= 0:
        w.io.close(w.io.ctx, w.handle)
        w.handle = -1
    rows_free(&w.rows)
    buf_free(&w.block)
    buf_free(&w.last_key)
    free(w.table)
    free(w.leases)
    free(w.tmp_path)
    free(w.final_path)
    free(w.dir_path)
    w.table = NULL
    w.leases = NULL
    w.tmp_path = NULL
    w.final_path = NULL
    w.dir_path = NULL


# =================================================================================================
# Loading
# =================================================================================================

cdef bint _possible(const KvVersion* v, uint32_t n, int64_t revision) noexcept nogil:
    """Whether a store at this revision may hold such versions (the loader compares their order)."""
    cdef uint32_t i
    for i in range(n):
        if (not 1 <= v[i].mod <= revision or not 0 <= v[i].create <= v[i].mod or v[i].version < 0
                or (v[i].version == 0 and (v[i].lease != 0 or v[i].len != 0))):
            return False
    return True


cdef int _load_block(BtLoader* b, const KvBuf* buf, uint32_t keys, KvBuf* key, KvBuf* versions,
                     int64_t revision) noexcept nogil:
    """Hands every key of a checked block to the loader; KV_CORRUPT when it does not parse."""
    cdef const uint8_t* p = buf.p
    cdef const uint8_t* end = buf.p + buf.len
    cdef uint16_t shared, suffix
    cdef uint32_t n, _i
    cdef uint8_t* room
    cdef KvSlice k
    cdef int rc
    key.len = 0
    for _i in range(keys):
        if end - p < 8:
            return KV_CORRUPT
        memcpy(&shared, p, 2)
        memcpy(&suffix, p + 2, 2)
        memcpy(&n, p + 4, 4)
        p += 8
        if (shared > key.len or <uint64_t>(end - p) < suffix + <uint64_t>n * sizeof(KvVersion)
                or n == 0 or not 1 <= <uint64_t>shared + suffix <= KV_KEY_MAX_BYTES):
            return KV_CORRUPT
        key.len = shared
        room = buf_room(key, suffix)
        versions.len = 0
        if room == NULL or buf_room(versions, <uint64_t>n * sizeof(KvVersion)) == NULL:
            return KV_NOMEM
        memcpy(room, p, suffix)
        key.len += suffix
        memcpy(versions.p, p + suffix, <uint64_t>n * sizeof(KvVersion))  # aligned copies
        p += suffix + <uint64_t>n * sizeof(KvVersion)
        k.ptr = key.p
        k.len = key.len
        rc = KV_CORRUPT
        if _possible(<const KvVersion*>versions.p, n, revision):
            rc = bt_load_push(b, k, <const KvVersion*>versions.p, n)
        if rc != KV_OK:
            return rc if rc == KV_NOMEM else KV_CORRUPT
    return KV_OK if p == end else KV_CORRUPT


cdef int _load_table(const KvIo* io, int handle, uint64_t count, uint64_t entry, void** table,
                     uint64_t* off) noexcept nogil:
    """A table of `count` entries; moves *off behind it."""
    cdef uint32_t head[2]
    cdef uint64_t n = count * entry
    cdef int64_t size = io.size(io.ctx, handle)      # what is asked of memory is there in the file
    if size < 0:
        return KV_IO
    if count > <uint64_t>size // entry:
        return KV_CORRUPT
    table[0] = malloc(n + 1)
    if table[0] == NULL:
        return KV_NOMEM
    if io.read_at(io.ctx, handle, head, 8, off[0]) != 8:
        return KV_CORRUPT
    if n and io.read_at(io.ctx, handle, table[0], n, off[0] + 8) != <int64_t>n:
        return KV_CORRUPT
    if head[0] != kv_crc32c(0, <const uint8_t*>table[0], n) or head[1] != count:
        return KV_CORRUPT
    off[0] += 8 + n
    return KV_OK


cdef int _load_tables(const KvIo* io, int handle, const CkInfo* info, CkSegment** table,
                      int64_t** leases, const char** reason) noexcept nogil:
    cdef uint8_t footer[16]
    cdef uint64_t off = info.table_off, blocks
    cdef int rc
    reason[0] = b"checkpoint's tables or footer are damaged"
    rc = _load_table(io, handle, info.segments, sizeof(CkSegment), <void**>table, &off)
    if rc == KV_OK:
        rc = _load_table(io, handle, info.leases, LEASE_BYTES, <void**>leases, &off)
    if rc != KV_OK:
        return rc
    if io.read_at(io.ctx, handle, footer, 16, off) != 16:
        return KV_CORRUPT
    memcpy(&blocks, footer + 8, 8)
    if memcmp(footer, END_MAGIC, 8) != 0 or blocks != info.blocks:
        return KV_CORRUPT
    return KV_OK


cdef int _load_blocks(const KvIo* io, int handle, const CkInfo* info, BTree* tree,
                      const char** reason, uint64_t* at) noexcept nogil:
    cdef BtLoader* b = bt_load_begin(tree)
    cdef KvBuf buf, key, versions
    cdef uint64_t _i
    cdef uint32_t keys = 0
    cdef int rc = KV_OK, end_rc
    if b == NULL:
        return KV_NOMEM
    memset(&buf, 0, sizeof(KvBuf))
    memset(&key, 0, sizeof(KvBuf))
    memset(&versions, 0, sizeof(KvBuf))
    at[0] = CK_HEADER_BYTES
    for _i in range(info.blocks):
        reason[0] = b"checkpoint block does not parse"
        rc = _read_block(io, handle, at, info.table_off, &buf, &keys, reason)
        if rc == KV_OK:
            rc = _load_block(b, &buf, keys, &key, &versions, info.revision)
        if rc != KV_OK:
            break
    end_rc = bt_load_end(b)
    buf_free(&buf)
    buf_free(&key)
    buf_free(&versions)
    return rc if rc != KV_OK else end_rc


cdef int ck_load(const KvIo* io, const char* path, CkInfo* info, CkSegment** table,
                 int64_t** leases, BTree* tree, const char** reason, uint64_t* at) noexcept nogil:
    cdef uint8_t header[CK_HEADER_BYTES]
    cdef int handle = io.open(io.ctx, path, KV_O_READ)
    cdef int64_t got
    cdef int rc
    table[0] = NULL
    leases[0] = NULL
    at[0] = 0
    if handle < 0:
        reason[0] = NULL                     # nothing is known of what is in it
        at[0] = <uint64_t>-handle
        return KV_NOMEM if handle == -ENOMEM else KV_IO
    got = io.read_at(io.ctx, handle, header, CK_HEADER_BYTES, 0)
    if got != CK_HEADER_BYTES:
        reason[0] = b"checkpoint is cut short" if got >= 0 else b"checkpoint cannot be read"
        rc = KV_IO if got < 0 else KV_CORRUPT
    else:
        rc = _unpack_header(header, info, reason)
    if rc == KV_OK:
        at[0] = info.table_off
        rc = KV_CORRUPT if info.table_off > MAX_POSITION else KV_OK
        reason[0] = b"checkpoint header has numbers that cannot be"
    if rc == KV_OK:
        rc = _load_tables(io, handle, info, table, leases, reason)
    if rc == KV_OK:
        rc = _load_blocks(io, handle, info, tree, reason, at)
    io.close(io.ctx, handle)
    if rc == KV_OK and (tree.keys != info.keys
                        or tree.keys + tree.chain_records != info.versions):
        reason[0] = b"checkpoint holds another number of keys or versions than it says"
        return KV_CORRUPT
    if rc == KV_OK:
        tree.floor = info.compact_revision if info.compact_revision > 0 else 0
        tree.floor_next = tree.floor
    return rc
