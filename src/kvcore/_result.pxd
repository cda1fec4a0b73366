# SPDX-License-Identifier: Apache-2.0
"""What the verbs return.  A result owns its rows; values are read from the log when touched."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kvcore._native cimport KvVersion
from kvcore._rows cimport KvRows, Rows
from kvcore._pin cimport Pin


# One operation's answer, as apply leaves it: nodes in execution order, rows in one KvRows.
cdef struct KvResp:
    uint8_t kind                 # CMD_*
    uint8_t flags                # FLAG_* that shape the Python object
    bint succeeded               # TXN
    bint more                    # RANGE
    int64_t revision
    int64_t count                # RANGE: count; DELETE: deleted; LEASE_GRANT: id
    int64_t ttl                  # LEASE_GRANT
    uint64_t row_start
    uint64_t row_n
    uint32_t children            # TXN: how many answers follow, each with its own children


cdef struct KvResult:
    int status
    int64_t revision
    int64_t detail               # of an error: errno or compacted revision
    int unreadable               # a range met a value that cannot be read
    bint brief                   # a put with nothing to tell but its revision leaves no answer
    KvRows rows
    KvResp* resps
    uint32_t n
    uint32_t cap


cdef void result_init(KvResult* r) noexcept nogil
cdef void result_free(KvResult* r) noexcept nogil
# Appends an empty answer and returns its index, or -1 when memory is refused.
cdef int64_t result_add(KvResult* r, uint8_t kind, uint8_t flags) noexcept nogil


cdef class KeyValue:
    cdef KvVersion v
    cdef bytes _key
    cdef bytes _value
    cdef Rows rows
    cdef uint64_t index          # in rows; without them and a key: the length of the cell's key
    cdef Pin pin
    cdef uint32_t key_len(self)
    cdef int _read_cell(self) except -1


cdef class RangeResult:
    cdef Rows rows
    cdef Pin pin
    cdef uint64_t start
    cdef uint64_t n
    cdef bint keys_only
    cdef readonly int64_t count
    cdef readonly bint more
    cdef readonly int64_t revision
    cdef void _fetch_ahead(self, uint64_t i) noexcept
    cdef KeyValue at(self, uint64_t i)


cdef class PutResult:
    cdef readonly int64_t revision
    cdef readonly KeyValue prev


cdef class DeleteResult:
    cdef readonly int64_t revision
    cdef readonly int64_t deleted
    cdef readonly list prev


cdef class TxnResult:
    cdef readonly bint succeeded
    cdef readonly list responses
    cdef readonly int64_t revision


cdef class GrantResult:
    cdef readonly int64_t id
    cdef readonly int64_t ttl
    cdef readonly int64_t revision


cdef bytes read_value(Pin pin, uint64_t pos, uint32_t key_len, uint32_t value_len)
cdef int read_cell(Pin pin, uint64_t pos, uint32_t key_len, uint32_t value_len, list out) except -1
# Key and value are read when touched: the key from `rows`, or (both None) from the cell, then
# `index` is its length.
cdef KeyValue make_lazy_kv(bytes key, Rows rows, uint64_t index, const KvVersion* v, Pin pin)
cdef KeyValue make_kv(bytes key, const KvVersion* v, Pin pin)
cdef RangeResult make_range(Rows rows, Pin pin, uint64_t start, uint64_t n, int64_t count,
                            bint more, int64_t revision, bint keys_only)
cdef PutResult make_put(int64_t revision, KeyValue prev)
# The Python object for the whole answer; takes the rows out of `r`.
cdef object make_answer(KvResult* r, Pin pin)
# The same over rows taken out before: may be called again.
cdef object make_answer_over(KvResult* r, Rows rows, Pin pin)
