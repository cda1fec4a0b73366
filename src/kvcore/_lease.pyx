# SPDX-License-Identifier: Apache-2.0
"""Leases as a caller sees them: keep-alive, time to live, keys, ids.

Grants and revokes are commands (_operation); what stands here is local to this process and is not
logged.  Each function is called with the store's lock held and lets it go before it makes an
object.
Thread safety: by that lock.  May not know: the engine.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from kvcore._commit cimport Commit
from kvcore._leases cimport Lease, lt_by_expiry, lt_find, lt_keys, lt_renew
from kvcore._native cimport KvSlice, kv_mutex_unlock

from kvcore.errors import OutOfMemoryError

cdef enum:
    NS = 1000000000


cdef object lease_renew(Commit* c, int64_t id):
    cdef Lease* lease = lt_find(&c.state.leases, id)
    cdef uint64_t now = c.clock.now_ns(c.clock.ctx)
    cdef int64_t ttl = 0
    if lease != NULL:
        ttl = lease.ttl
        if lease.expired or lease.expiry_ns <= now:
            ttl = -1
        else:
            lt_renew(&c.state.leases, lease, now)
    kv_mutex_unlock(&c.lock)
    return ttl


cdef object lease_look(Commit* c, int64_t id):
    cdef Lease* lease = lt_find(&c.state.leases, id)
    cdef uint64_t now = c.clock.now_ns(c.clock.ctx), n = 0, i, used = 0
    cdef int64_t ttl = 0, left = 0
    cdef KvSlice* keys = NULL
    cdef uint8_t* copy = NULL
    if lease == NULL:
        kv_mutex_unlock(&c.lock)
        return None
    ttl = lease.ttl
    if lease.expiry_ns > now and not lease.expired:
        left = <int64_t>((lease.expiry_ns - now) // NS)
    n = lease.keys
    keys = lt_keys(lease)
    if keys != NULL:                         # the bytes are the table's: copied under the lock
        for i in range(n):
            used += keys[i].len
        copy = <uint8_t*>malloc(used + 1)
    if copy != NULL:
        used = 0
        for i in range(n):
            memcpy(copy + used, keys[i].ptr, keys[i].len)
            used += keys[i].len
    kv_mutex_unlock(&c.lock)
    try:
        if copy == NULL:
            raise OutOfMemoryError()
        names = []
        used = 0
        for i in range(n):
            names.append(PyBytes_FromStringAndSize(<const char*>copy + used, keys[i].len))
            used += keys[i].len
        return ttl, left, names
    finally:
        free(keys)
        free(copy)


cdef object lease_ids(Commit* c):
    cdef int64_t* ids = lt_by_expiry(&c.state.leases)
    cdef uint64_t n = c.state.leases.leases, i
    kv_mutex_unlock(&c.lock)
    if ids == NULL:
        raise OutOfMemoryError()
    try:
        return [ids[i] for i in range(n)]
    finally:
        free(ids)
