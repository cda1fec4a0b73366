# SPDX-License-Identifier: Apache-2.0
"""What the native modules see of _native.h, _crc32c.h and _os.h; contracts stand in the headers."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "_native.h" nogil:
    cdef enum kv_status:
        KV_OK
        KV_NOMEM
        KV_NOTFOUND
        KV_COMPACTED
        KV_FUTURE_REV
        KV_KEY_NOT_FOUND
        KV_LEASE_NOT_FOUND
        KV_NO_SPACE
        KV_IO
        KV_CORRUPT
        KV_CLOSED
        KV_POISONED
        KV_UNKNOWN_OUTCOME
        KV_FORKED
        KV_TOO_LARGE
        KV_EMPTY_KEY
        KV_DUPLICATE_KEY
        KV_TOO_MANY_OPS
        KV_BAD_COMMAND
        KV_NEWER_FORMAT
        KV_FULL
        KV_REVISION_ORDER
        KV_KEY_TOO_LARGE
        KV_LEASE_EXISTS
        KV_STATUS_COUNT

    enum:
        KV_KEY_MAX_BYTES
        KV_VERIFYING
        KV_FREE_THREADED

    ctypedef struct KvSlice:
        const uint8_t* ptr
        size_t len

    ctypedef struct KvVersion:
        int64_t mod
        int64_t create
        int64_t version
        int64_t lease
        uint64_t pos
        uint32_t len
        uint32_t sub

    ctypedef struct KvRow:
        KvVersion v
        uint16_t key_len

    uint64_t kv_row_key_off(const KvRow* row) noexcept
    void kv_row_set_key(KvRow* row, uint64_t off, uint16_t length) noexcept

    void kv_assert(bint cond, const char* what) noexcept
    void kv_verify(bint cond, const char* what) noexcept
    bint kv_likely(bint cond) noexcept
    bint kv_unlikely(bint cond) noexcept
    void kv_prefetch(const void* p) noexcept
    void kv_hide(void* p, size_t n) noexcept
    void kv_show(void* p, size_t n) noexcept
    void kv_show_read(void* p, size_t n) noexcept

    uint64_t kv_load_u64(const uint64_t* p) noexcept
    void kv_store_u64(uint64_t* p, uint64_t v) noexcept
    int64_t kv_load_i64(const int64_t* p) noexcept
    void kv_store_i64(int64_t* p, int64_t v) noexcept
    int kv_load_int(const int* p) noexcept
    void kv_store_int(int* p, int v) noexcept
    int kv_add_int(int* p, int d) noexcept

    uint16_t kv_be16(const uint8_t* p) noexcept
    uint32_t kv_be32(const uint8_t* p) noexcept
    uint64_t kv_be64(const uint8_t* p) noexcept
    void kv_put_be16(uint8_t* p, uint16_t v) noexcept
    void kv_put_be32(uint8_t* p, uint32_t v) noexcept
    void kv_put_be64(uint8_t* p, uint64_t v) noexcept

    uint64_t kv_hash(const uint8_t* p, size_t n, uint64_t seed) noexcept


cdef extern from "_crc32c.h" nogil:
    uint32_t kv_crc32c(uint32_t crc, const void* data, size_t n) noexcept
    uint32_t kv_crc32c_soft(uint32_t crc, const uint8_t* data, size_t n) noexcept
    int kv_crc32c_has_hard() noexcept


cdef extern from "_os.h" nogil:
    enum:
        KV_O_READ
        KV_O_WRITE
        KV_O_CREATE

    ctypedef struct KvIo:
        void* ctx
        int (*open)(void* ctx, const char* path, int flags) noexcept nogil
        int (*close)(void* ctx, int handle) noexcept nogil
        int64_t (*size)(void* ctx, int handle) noexcept nogil
        int (*allocate)(void* ctx, int handle, uint64_t n) noexcept nogil
        int (*write_at)(void* ctx, int handle, const void* p, size_t n, uint64_t off) noexcept nogil
        int64_t (*read_at)(void* ctx, int handle, void* p, size_t n, uint64_t off) noexcept nogil
        int (*truncate)(void* ctx, int handle, uint64_t n) noexcept nogil
        int (*sync)(void* ctx, int handle) noexcept nogil
        int (*rename)(void* ctx, const char* a, const char* b) noexcept nogil
        int (*unlink)(void* ctx, const char* path) noexcept nogil
        int (*sync_dir)(void* ctx, const char* path) noexcept nogil
        int (*map)(void* ctx, int handle, uint64_t n, void** out) noexcept nogil
        int (*unmap)(void* ctx, void* p, uint64_t n) noexcept nogil
        int (*links)(void* ctx, int handle) noexcept nogil
        int (*begin_sync)(void* ctx, int handle, uint64_t off, uint64_t n) noexcept nogil

    ctypedef struct KvClock:
        void* ctx
        uint64_t (*now_ns)(void* ctx) noexcept nogil

    ctypedef struct KvMem:
        void* ctx
        int (*take)(void* ctx, size_t n) noexcept nogil
        void (*give)(void* ctx, size_t n) noexcept nogil

    const KvIo kv_posix_io
    const KvClock kv_monotonic_clock
    const KvMem kv_plain_mem
    uint64_t kv_random_u64() noexcept

    void* kv_reserve(size_t n) noexcept
    void kv_unreserve(void* p, size_t n) noexcept
    void kv_advise_huge(void* p, size_t n) noexcept
    void* kv_big_alloc(size_t n) noexcept
    void kv_advise_unused(void* p, size_t n) noexcept

    ctypedef struct KvMutex:
        pass
    ctypedef struct KvCond:
        pass
    ctypedef struct KvThread:
        int running
    int kv_mutex_init(KvMutex* m) noexcept
    void kv_mutex_destroy(KvMutex* m) noexcept
    void kv_mutex_lock(KvMutex* m) noexcept
    int kv_mutex_trylock(KvMutex* m) noexcept
    void kv_mutex_unlock(KvMutex* m) noexcept
    int kv_cond_init(KvCond* c) noexcept
    void kv_cond_destroy(KvCond* c) noexcept
    void kv_cond_signal(KvCond* c) noexcept
    void kv_cond_broadcast(KvCond* c) noexcept
    void kv_cond_wait(KvCond* c, KvMutex* m) noexcept
    int kv_cond_wait_ns(KvCond* c, KvMutex* m, uint64_t ns) noexcept
    int kv_thread_start(KvThread* t, void* (*fn)(void*) noexcept nogil, void* arg) noexcept
    void kv_thread_join(KvThread* t) noexcept
    void kv_fork_watch() noexcept
    int kv_fork_generation() noexcept


# The tables as Python objects, so that a test can hand the core another world.  The object owns
# the table; whoever stores `table` keeps a reference to the object.
cdef class Io:
    cdef const KvIo* table

cdef class Clock:
    cdef const KvClock* table

cdef class Memory:
    cdef const KvMem* table


# Takes a lock with the GIL held, and waits for it without.  Nobody waits for the GIL with `m` held,
# save one who lost the race for it LOCK_TRIES times: that cannot lock up, since nobody waits for
# `m` with the GIL, but it may keep a committer waiting for a switch of threads.
cdef enum:
    LOCK_TRIES = 16

cdef inline void kv_mutex_lock_gil(KvMutex* m) noexcept:
    cdef int tries = 0
    while not kv_mutex_trylock(m):
        tries += 1
        with nogil:
            kv_mutex_lock(m)
            if tries < LOCK_TRIES:
                kv_mutex_unlock(m)
        if tries == LOCK_TRIES:
            return


# The only road from a status code to an exception.  REQUIRES: the GIL, no lock held.
cdef int kv_raise(int status, object detail=*) except -1
