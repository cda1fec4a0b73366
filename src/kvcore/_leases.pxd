# SPDX-License-Identifier: Apache-2.0
"""The lease table: which leases live, when they end on this clock, which keys hang on them.

    ids:   hash ─► Lease ─► Attached ⇄ Attached ⇄ ...       keys of one lease
    keys:  hash ─────────────┘                              a key hangs on one lease at most
    heap:  leases by (queued time, id)                      keep-alives do not move them

Thread safety: the owner's lock.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kvcore._native cimport KvSlice


cdef struct Attached:            # a key on a lease; the bytes follow
    Attached* hash_next
    Attached* prev
    Attached* next
    Lease* lease
    uint64_t hash
    uint32_t key_len


cdef struct Lease:
    int64_t id
    int64_t ttl                  # seconds granted
    uint64_t expiry_ns           # on the store's clock
    uint64_t queued_ns           # what the heap knows: at most expiry_ns
    uint64_t heap_at             # place in the heap
    bint expired                 # taken out of the heap: its revoke is under way
    Lease* hash_next
    Attached* first
    uint64_t keys


cdef struct LeaseTable:
    Lease** ids
    uint64_t id_slots            # power of two; 0: no table yet
    Attached** keys
    uint64_t key_slots
    Lease** heap
    uint64_t heap_n
    uint64_t heap_cap            # room for every lease there is
    uint64_t leases
    uint64_t attached


cdef void lt_init(LeaseTable* t) noexcept nogil
cdef void lt_deinit(LeaseTable* t) noexcept nogil
cdef Lease* lt_find(const LeaseTable* t, int64_t id) noexcept nogil
# KV_OK, KV_LEASE_EXISTS or KV_NOMEM
cdef int lt_grant(LeaseTable* t, int64_t id, int64_t ttl, uint64_t now_ns) noexcept nogil
# Forgets the lease and detaches its keys.
cdef void lt_remove(LeaseTable* t, Lease* lease) noexcept nogil
# Moves the key to the lease, from whichever it hung on.  KV_OK, KV_LEASE_NOT_FOUND or KV_NOMEM
# (then it hangs where it did).
cdef int lt_attach(LeaseTable* t, int64_t id, KvSlice key) noexcept nogil
cdef void lt_detach(LeaseTable* t, KvSlice key) noexcept nogil
# The keys in order; the caller frees the array, the bytes belong to the table.  NULL: no memory.
cdef KvSlice* lt_keys(const Lease* lease) noexcept nogil
# Full TTL again from now on.  REQUIRES: not expired
cdef void lt_renew(LeaseTable* t, Lease* lease, uint64_t now_ns) noexcept nogil
# Takes up to `most` leases that have expired by now, soonest first, and marks them.
cdef uint64_t lt_due(LeaseTable* t, uint64_t now_ns, uint64_t most, int64_t* out) noexcept nogil
# A lease whose revoke could not be written comes up again at `at_ns`.
cdef void lt_requeue(LeaseTable* t, int64_t id, uint64_t at_ns) noexcept nogil
# Every lease has its full TTL again from now on.
cdef void lt_restart(LeaseTable* t, uint64_t now_ns) noexcept nogil
# (id, ttl) of every lease, 2 x leases numbers, by id.  NULL: no memory.  The caller frees.
cdef int64_t* lt_dump(const LeaseTable* t) noexcept nogil
# Ids by expiry, then id.  NULL: no memory.  The caller frees.
cdef int64_t* lt_by_expiry(const LeaseTable* t) noexcept nogil
# The first broken invariant, or NULL.
cdef const char* lt_check(const LeaseTable* t) noexcept nogil
