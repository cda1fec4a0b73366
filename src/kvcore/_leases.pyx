# SPDX-License-Identifier: Apache-2.0
"""The lease table: leases by id, their keys, and a heap of what ends next.

    grant(7, 10 s) ─► put(k, lease=7) ─► attach ─► renew ... ─► due ─► revoke (a command) ─► remove

Two halves.  Which leases exist and what hangs on them is state: changed by commands alone, equal
after a replay.  When they end is local: a keep-alive only moves `expiry_ns`, and the heap learns
of it when the lease comes up under its old time (one sift instead of one for each keep-alive).

Invariants
1. one-lease: a key hangs on one lease at most; `attached` counts the keys of all.
2. queued: a lease is in the heap at `heap_at` unless it is marked expired; queued <= expiry.
3. heap: no lease is queued before its parent, by (queued, id).
4. room: the heap has room for every lease there is, so that putting one back cannot fail.

Cost: 100 B a lease, 64 B and the key for each key; all but lists and removals are O(1) or
O(log leases).  Thread safety: the owner's lock.  May not know: index, log, clocks.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcmp, memcpy, memset

from kvcore._native cimport (KV_LEASE_EXISTS, KV_LEASE_NOT_FOUND, KV_NOMEM, KV_OK, KvSlice,
                             kv_hash)

cdef enum:
    FIRST_SLOTS = 16

cdef uint64_t NS = 1000000000


cdef inline uint64_t _end_of(int64_t ttl, uint64_t now_ns) noexcept nogil:
    """Saturates: never is late enough."""
    if <uint64_t>ttl > (<uint64_t>-1 - now_ns) // NS:
        return <uint64_t>-1
    return now_ns + <uint64_t>ttl * NS


cdef inline uint64_t _id_slot(const LeaseTable* t, int64_t id) noexcept nogil:
    return kv_hash(<const uint8_t*>&id, 8, 0) & (t.id_slots - 1)


cdef inline uint8_t* _key_of(const Attached* a) noexcept nogil:
    return <uint8_t*>a + sizeof(Attached)


# ---- the heap ------------------------------------------------------------------------------------

cdef inline bint _sooner(const Lease* a, const Lease* b) noexcept nogil:
    return a.queued_ns < b.queued_ns or (a.queued_ns == b.queued_ns and a.id < b.id)


cdef inline void _heap_set(LeaseTable* t, uint64_t i, Lease* x) noexcept nogil:
    t.heap[i] = x
    x.heap_at = i


cdef void _sift_up(LeaseTable* t, Lease* x) noexcept nogil:
    cdef uint64_t i = x.heap_at
    while i and _sooner(x, t.heap[(i - 1) // 2]):
        _heap_set(t, i, t.heap[(i - 1) // 2])
        i = (i - 1) // 2
    _heap_set(t, i, x)


cdef void _sift_down(LeaseTable* t, Lease* x) noexcept nogil:
    cdef uint64_t i = x.heap_at
    cdef uint64_t child
    while True:
        child = 2 * i + 1
        if child >= t.heap_n:
            break
        if child + 1 < t.heap_n and _sooner(t.heap[child + 1], t.heap[child]):
            child += 1
        if not _sooner(t.heap[child], x):
            break
        _heap_set(t, i, t.heap[child])
        i = child
    _heap_set(t, i, x)


cdef void _heap_add(LeaseTable* t, Lease* x) noexcept nogil:
    x.heap_at = t.heap_n
    t.heap_n += 1
    _heap_set(t, x.heap_at, x)
    _sift_up(t, x)


cdef void _heap_remove(LeaseTable* t, Lease* x) noexcept nogil:
    cdef Lease* last
    t.heap_n -= 1
    last = t.heap[t.heap_n]
    if last == x:
        return
    _heap_set(t, x.heap_at, last)
    _sift_up(t, last)
    _sift_down(t, last)


# ---- the two hash tables -------------------------------------------------------------------------

cdef int _grow_ids(LeaseTable* t) noexcept nogil:
    cdef uint64_t slots = t.id_slots * 2 if t.id_slots else FIRST_SLOTS
    cdef Lease** old = t.ids
    cdef uint64_t old_slots = t.id_slots, i, at
    cdef Lease* x
    cdef Lease** grown = <Lease**>calloc(slots, sizeof(Lease*))
    if grown == NULL:
        return KV_NOMEM
    t.ids = grown
    t.id_slots = slots
    for i in range(old_slots):
        while old[i] != NULL:
            x = old[i]
            old[i] = x.hash_next
            at = _id_slot(t, x.id)
            x.hash_next = grown[at]
            grown[at] = x
    free(old)
    return KV_OK


cdef int _grow_keys(LeaseTable* t) noexcept nogil:
    cdef uint64_t slots = t.key_slots * 2 if t.key_slots else FIRST_SLOTS
    cdef Attached** old = t.keys
    cdef uint64_t old_slots = t.key_slots, i, at
    cdef Attached* a
    cdef Attached** grown = <Attached**>calloc(slots, sizeof(Attached*))
    if grown == NULL:
        return KV_NOMEM
    t.keys = grown
    t.key_slots = slots
    for i in range(old_slots):
        while old[i] != NULL:
            a = old[i]
            old[i] = a.hash_next
            at = a.hash & (slots - 1)
            a.hash_next = grown[at]
            grown[at] = a
    free(old)
    return KV_OK


cdef Attached* _find_key(const LeaseTable* t, KvSlice key, uint64_t hash) noexcept nogil:
    cdef Attached* a
    if t.key_slots == 0:
        return NULL
    a = t.keys[hash & (t.key_slots - 1)]
    while a != NULL and not (a.hash == hash and a.key_len == key.len
                             and memcmp(_key_of(a), key.ptr, key.len) == 0):
        a = a.hash_next
    return a


cdef void _link(Lease* lease, Attached* a) noexcept nogil:
    a.lease = lease
    a.prev = NULL
    a.next = lease.first
    if lease.first != NULL:
        lease.first.prev = a
    lease.first = a
    lease.keys += 1


cdef void _unlink(Attached* a) noexcept nogil:
    if a.prev == NULL:
        a.lease.first = a.next
    else:
        a.prev.next = a.next
    if a.next != NULL:
        a.next.prev = a.prev
    a.lease.keys -= 1


cdef void _drop_key(LeaseTable* t, Attached* a) noexcept nogil:
    cdef Attached** p = &t.keys[a.hash & (t.key_slots - 1)]
    while p[0] != a:
        p = &p[0].hash_next
    p[0] = a.hash_next
    _unlink(a)
    free(a)
    t.attached -= 1


# ---- C face --------------------------------------------------------------------------------------

cdef void lt_init(LeaseTable* t) noexcept nogil:
    memset(t, 0, sizeof(LeaseTable))


cdef void lt_deinit(LeaseTable* t) noexcept nogil:
    cdef uint64_t i
    cdef Lease* x
    cdef Attached* a
    for i in range(t.id_slots):
        while t.ids[i] != NULL:
            x = t.ids[i]
            t.ids[i] = x.hash_next
            while x.first != NULL:
                a = x.first
                x.first = a.next
                free(a)
            free(x)
    free(t.ids)
    free(t.keys)
    free(t.heap)
    memset(t, 0, sizeof(LeaseTable))


cdef Lease* lt_find(const LeaseTable* t, int64_t id) noexcept nogil:
    cdef Lease* x
    if t.id_slots == 0:
        return NULL
    x = t.ids[_id_slot(t, id)]
    while x != NULL and x.id != id:
        x = x.hash_next
    return x


cdef int lt_grant(LeaseTable* t, int64_t id, int64_t ttl, uint64_t now_ns) noexcept nogil:
    cdef Lease* x
    cdef Lease** heap
    cdef uint64_t at
    if lt_find(t, id) != NULL:
        return KV_LEASE_EXISTS
    if t.leases >= t.id_slots and _grow_ids(t) != KV_OK:
        return KV_NOMEM
    if t.leases == t.heap_cap:
        heap = <Lease**>realloc(t.heap, (t.heap_cap * 2 + FIRST_SLOTS) * sizeof(Lease*))
        if heap == NULL:
            return KV_NOMEM
        t.heap = heap
        t.heap_cap = t.heap_cap * 2 + FIRST_SLOTS
    x = <Lease*>calloc(1, sizeof(Lease))
    if x == NULL:
        return KV_NOMEM
    x.id = id
    x.ttl = ttl
    x.expiry_ns = _end_of(ttl, now_ns)
    x.queued_ns = x.expiry_ns
    at = _id_slot(t, id)
    x.hash_next = t.ids[at]
    t.ids[at] = x
    t.leases += 1
    _heap_add(t, x)
    return KV_OK


cdef void lt_remove(LeaseTable* t, Lease* lease) noexcept nogil:
    cdef Lease** p = &t.ids[_id_slot(t, lease.id)]
    while lease.first != NULL:
        _drop_key(t, lease.first)
    while p[0] != lease:
        p = &p[0].hash_next
    p[0] = lease.hash_next
    if not lease.expired:
        _heap_remove(t, lease)
    t.leases -= 1
    free(lease)


cdef int lt_attach(LeaseTable* t, int64_t id, KvSlice key) noexcept nogil:
    cdef Lease* lease = lt_find(t, id)
    cdef uint64_t hash = kv_hash(key.ptr, key.len, 0)
    cdef Attached* a
    if lease == NULL:
        return KV_LEASE_NOT_FOUND
    a = _find_key(t, key, hash)
    if a != NULL:
        _unlink(a)
        _link(lease, a)
        return KV_OK
    if t.attached >= t.key_slots and _grow_keys(t) != KV_OK:
        return KV_NOMEM
    a = <Attached*>malloc(sizeof(Attached) + key.len)
    if a == NULL:
        return KV_NOMEM
    a.hash = hash
    a.key_len = <uint32_t>key.len
    memcpy(_key_of(a), key.ptr, key.len)
    a.hash_next = t.keys[hash & (t.key_slots - 1)]
    t.keys[hash & (t.key_slots - 1)] = a
    _link(lease, a)
    t.attached += 1
    return KV_OK


cdef void lt_detach(LeaseTable* t, KvSlice key) noexcept nogil:
    cdef Attached* a = _find_key(t, key, kv_hash(key.ptr, key.len, 0))
    if a != NULL:
        _drop_key(t, a)


cdef int _compare_keys(const void* pa, const void* pb) noexcept nogil:
    cdef const KvSlice* a = <const KvSlice*>pa
    cdef const KvSlice* b = <const KvSlice*>pb
    cdef int c = memcmp(a.ptr, b.ptr, a.len if a.len < b.len else b.len)
    if c:
        return c
    return 0 if a.len == b.len else (-1 if a.len < b.len else 1)


cdef KvSlice* lt_keys(const Lease* lease) noexcept nogil:
    cdef KvSlice* out = <KvSlice*>malloc(lease.keys * sizeof(KvSlice) + 1)
    cdef const Attached* a = lease.first
    cdef uint64_t n = 0
    if out == NULL:
        return NULL
    while a != NULL:
        out[n].ptr = _key_of(a)
        out[n].len = a.key_len
        n += 1
        a = a.next
    if n:
        qsort(out, n, sizeof(KvSlice), _compare_keys)
    return out


cdef void lt_renew(LeaseTable* t, Lease* lease, uint64_t now_ns) noexcept nogil:
    lease.expiry_ns = _end_of(lease.ttl, now_ns)
    if lease.expiry_ns < lease.queued_ns:    # the clock went back
        lease.queued_ns = lease.expiry_ns
        _sift_up(t, lease)


cdef uint64_t lt_due(LeaseTable* t, uint64_t now_ns, uint64_t most, int64_t* out) noexcept nogil:
    cdef uint64_t n = 0
    cdef Lease* x
    while n < most and t.heap_n and t.heap[0].queued_ns <= now_ns:
        x = t.heap[0]
        if x.queued_ns < x.expiry_ns:        # it was renewed meanwhile
            x.queued_ns = x.expiry_ns
            _sift_down(t, x)
            continue
        _heap_remove(t, x)
        x.expired = True
        out[n] = x.id
        n += 1
    return n


cdef void lt_requeue(LeaseTable* t, int64_t id, uint64_t at_ns) noexcept nogil:
    cdef Lease* x = lt_find(t, id)
    if x == NULL or not x.expired:
        return
    x.expired = False
    x.expiry_ns = at_ns
    x.queued_ns = at_ns
    _heap_add(t, x)


cdef void lt_restart(LeaseTable* t, uint64_t now_ns) noexcept nogil:
    cdef uint64_t i
    cdef Lease* x
    t.heap_n = 0
    for i in range(t.id_slots):
        x = t.ids[i]
        while x != NULL:
            x.expired = False
            x.expiry_ns = _end_of(x.ttl, now_ns)
            x.queued_ns = x.expiry_ns
            _heap_add(t, x)
            x = x.hash_next


# ---- lists ---------------------------------------------------------------------------------------

cdef int _compare_ids(const void* a, const void* b) noexcept nogil:
    cdef int64_t x = (<const int64_t*>a)[0], y = (<const int64_t*>b)[0]
    return (x > y) - (x < y)


cdef int _compare_expiries(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const uint64_t*>a)[0], y = (<const uint64_t*>b)[0]
    if x != y:
        return -1 if x < y else 1
    return _compare_ids(<const int64_t*>a + 1, <const int64_t*>b + 1)


cdef int64_t* _pairs(const LeaseTable* t, bint by_expiry) noexcept nogil:
    """Sorted pairs: (expiry, id), or (id, ttl)."""
    cdef int64_t* out = <int64_t*>malloc(t.leases * 16 + 1)
    cdef uint64_t n = 0, i
    cdef const Lease* x
    if out == NULL:
        return NULL
    for i in range(t.id_slots):
        x = t.ids[i]
        while x != NULL:
            out[2 * n] = <int64_t>x.expiry_ns if by_expiry else x.id
            out[2 * n + 1] = x.id if by_expiry else x.ttl
            n += 1
            x = x.hash_next
    qsort(out, n, 16, _compare_expiries if by_expiry else _compare_ids)
    return out


cdef int64_t* lt_dump(const LeaseTable* t) noexcept nogil:
    return _pairs(t, False)


cdef int64_t* lt_by_expiry(const LeaseTable* t) noexcept nogil:
    cdef int64_t* out = _pairs(t, True)
    cdef uint64_t i
    if out != NULL:
        for i in range(t.leases):
            out[i] = out[2 * i + 1]
    return out


# ---- check ---------------------------------------------------------------------------------------

cdef const char* _check_lease(const LeaseTable* t, const Lease* x, uint64_t* keys) noexcept nogil:
    cdef const Attached* a = x.first
    cdef KvSlice key
    cdef uint64_t n = 0
    while a != NULL:
        key.ptr = _key_of(a)
        key.len = a.key_len
        if a.lease != x or _find_key(t, key, kv_hash(key.ptr, key.len, 0)) != a:
            return b"leases, one-lease: a key is not where its hash says, or on another lease"
        n += 1
        a = a.next
    if n != x.keys:
        return b"leases, one-lease: a lease has another number of keys than it says"
    keys[0] += n
    if not x.expired and (x.heap_at >= t.heap_n or t.heap[x.heap_at] != x
                          or x.queued_ns > x.expiry_ns):
        return b"leases, queued: a lease is not in its place in the heap"
    return NULL


cdef const char* lt_check(const LeaseTable* t) noexcept nogil:
    cdef uint64_t i, leases = 0, keys = 0, expired = 0
    cdef const Lease* x
    cdef const char* broken
    for i in range(t.id_slots):
        x = t.ids[i]
        while x != NULL:
            broken = _check_lease(t, x, &keys)
            if broken != NULL:
                return broken
            leases += 1
            expired += x.expired
            x = x.hash_next
    if leases != t.leases or keys != t.attached or leases - expired != t.heap_n:
        return b"leases: the counters do not agree with what is there"
    if t.leases > t.heap_cap:
        return b"leases, room: the heap is too small"
    for i in range(1, t.heap_n):
        if _sooner(t.heap[i], t.heap[(i - 1) // 2]):
            return b"leases, heap: a lease is queued before its parent"
    return NULL
