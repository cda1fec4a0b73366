# SPDX-License-Identifier: Apache-2.0
"""Commands: the msgpack form of what changes the store, as the log keeps it.

    PUT     [1, flags, lease, crc, key, value]      crc, key, value are a cell (docs/log-format.md)
    DELETE  [2, flags, key, end | nil]
    TXN     [3, [compare...], [op...], [op...]]
    COMPACT [4, revision]
    RANGE   [5, flags, key, end | nil, limit, revision, order, target,
             min_mod, max_mod, min_create, max_create]
    GRANT   [6, lease, ttl]
    REVOKE  [7, lease]
    compare [target, result, operand, key, end | nil]
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kvcore._native cimport KvSlice


cdef enum:
    CMD_PUT = 1
    CMD_DELETE = 2
    CMD_TXN = 3
    CMD_COMPACT = 4
    CMD_RANGE = 5
    CMD_LEASE_GRANT = 6
    CMD_LEASE_REVOKE = 7
    CMD_ALARM = 8

    FLAG_PREV = 1
    FLAG_IGNORE_VALUE = 2
    FLAG_IGNORE_LEASE = 4
    FLAG_KEYS_ONLY = 8
    FLAG_COUNT_ONLY = 16
    FLAG_SINGLE = 32             # a Get: answered with one KeyValue or None

    ORDER_NONE = 0
    ORDER_ASCEND = 1
    ORDER_DESCEND = 2
    TARGET_KEY = 0               # sort targets, numbered as etcd's
    TARGET_VERSION = 1
    TARGET_CREATE = 2
    TARGET_MOD = 3
    TARGET_VALUE = 4

    CMP_EQUAL = 0                # compare results and targets, numbered as etcd's
    CMP_GREATER = 1
    CMP_LESS = 2
    CMP_NOT_EQUAL = 3
    CMP_VERSION = 0
    CMP_CREATE = 1
    CMP_MOD = 2
    CMP_VALUE = 3
    CMP_LEASE = 4


# --- decoding: a cursor over bytes; `bad` is sticky --------------------------------------------
cdef struct Cursor:
    const uint8_t* p
    const uint8_t* end
    bint bad


cdef struct PutCmd:
    int64_t flags
    int64_t lease
    KvSlice key
    KvSlice value
    const uint8_t* cell          # where the cell begins


cdef struct SpanCmd:             # the keys an operation is about
    KvSlice key
    KvSlice end                  # ptr NULL: single key; one zero byte: no upper bound


cdef struct RangeCmd:
    int64_t flags
    SpanCmd span
    int64_t limit
    int64_t revision
    int64_t order
    int64_t target
    int64_t min_mod
    int64_t max_mod
    int64_t min_create
    int64_t max_create


cdef struct CompareCmd:
    int64_t target
    int64_t result
    int64_t number
    KvSlice value
    SpanCmd span


cdef uint32_t mp_array(Cursor* c) noexcept nogil
cdef int64_t mp_int(Cursor* c) noexcept nogil
cdef KvSlice mp_bin(Cursor* c) noexcept nogil            # nil: ptr NULL
cdef void mp_skip(Cursor* c) noexcept nogil
# Array and kind of a command; 0 and bad when it is unknown, or has another number of parts.
cdef int64_t mp_command(Cursor* c) noexcept nogil
# Reads what follows the kind of the command; bad also for what no store writes: unknown flags,
# compares and orders, cells of other forms.
cdef void decode_put(Cursor* c, PutCmd* out) noexcept nogil
cdef void decode_delete(Cursor* c, int64_t* flags, SpanCmd* out) noexcept nogil
cdef void decode_range(Cursor* c, RangeCmd* out) noexcept nogil
cdef void decode_compare(Cursor* c, CompareCmd* out) noexcept nogil
# The next put between here and the end, inside transactions too; False: none.
cdef bint next_put(Cursor* c, PutCmd* out) noexcept nogil
# True: the span is one key.  Otherwise [start, end) with end.ptr == NULL for no bound.
cdef bint span_bounds(const SpanCmd* s, KvSlice* start, KvSlice* end) noexcept nogil


# --- encoding ------------------------------------------------------------------------------------
cdef struct KvBuf:
    uint8_t* p
    uint64_t len
    uint64_t cap


cdef struct Limits:
    uint32_t max_key_bytes
    uint64_t max_request_bytes
    uint32_t max_txn_ops
    int64_t min_lease_ttl        # seconds


cdef void buf_free(KvBuf* b) noexcept nogil
cdef uint8_t* buf_room(KvBuf* b, uint64_t n) noexcept nogil      # NULL: no memory
cdef int encode_put(KvBuf* b, const Limits* lim, bytes key, bytes value, int64_t lease,
                    int64_t flags) except -1
cdef int encode_delete(KvBuf* b, const Limits* lim, bytes key, object end, int64_t flags) except -1
cdef int encode_compact(KvBuf* b, int64_t revision) noexcept nogil         # KV_OK or KV_NOMEM
cdef int encode_alarm(KvBuf* b, int64_t alarms) noexcept nogil             # the same
cdef int encode_lease_grant(KvBuf* b, int64_t lease, int64_t ttl) except -1
cdef int encode_lease_revoke(KvBuf* b, int64_t lease) noexcept nogil       # KV_OK or KV_NOMEM
# The pieces they are made of.
cdef int add_int(KvBuf* b, int64_t v) except -1
cdef int add_array(KvBuf* b, uint64_t n) except -1
cdef int add_bin(KvBuf* b, object data) except -1        # None: nil
cdef int check_key(const Limits* lim, bytes key) except -1
cdef int check_end(object end) except -1
cdef int check_request(const KvBuf* b, const Limits* lim) except -1
