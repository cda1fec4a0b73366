# SPDX-License-Identifier: Apache-2.0
"""Operations as Python objects, and their encoding into commands."""

from libc.stdint cimport int64_t

from kvcore._command cimport KvBuf, Limits, RangeCmd

# Any operation object; `read_only` is cleared when it writes.
cdef int encode_op(KvBuf* b, const Limits* lim, object op, bint* read_only) except -1
cdef int encode_txn(KvBuf* b, const Limits* lim, object compare, object success, object failure,
                    int64_t budget, bint* read_only) except -1
cdef int check_txn(object success, object failure) except -1
# An int from anything that is one; TypeError for floats.
cdef int64_t as_int(object what) except? -1
cdef tuple make_span(object start, object end, object prefix, bint all_when_empty)
cdef tuple make_sort(object sort)


cdef class Put:
    cdef readonly bytes key
    cdef readonly bytes value
    cdef readonly int64_t lease
    cdef int64_t flags


cdef class Delete:
    cdef readonly bytes key
    cdef readonly object end
    cdef int64_t flags


cdef class Range:
    cdef readonly bytes key
    cdef readonly object end
    cdef RangeCmd spec           # all but flags' key and end


cdef class Get(Range):
    pass


cdef class Compact:
    cdef readonly int64_t revision


cdef class Compare:
    cdef readonly bytes key
    cdef readonly object end
    cdef int64_t target
    cdef int64_t result
    cdef object operand


cdef class Txn:
    cdef readonly list compare
    cdef readonly list success
    cdef readonly list failure


cdef class LeaseGrant:
    cdef readonly int64_t ttl
    cdef readonly int64_t id


cdef class LeaseRevoke:
    cdef readonly int64_t id
# Whether one of them may make the store larger.
cdef bint op_grows(object op)
cdef bint ops_grow(object ops)
