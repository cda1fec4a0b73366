/* SPDX-License-Identifier: Apache-2.0
 *
 * Layouts, status codes, atomics and assertions shared by the native modules.
 *
 * Header only, no control flow worth a test: what Cython cannot say (static asserts, acquire and
 * release, alignment) and the plain structs that cross module borders.  crc32c lives in _crc32c.h,
 * locks, clocks and files in _os.h.  May not know: any structure above it (index, log, engine).
 */
#ifndef KVCORE_NATIVE_H
#define KVCORE_NATIVE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- status codes: 0 ok, negative says why; errors.py holds the table code -> exception ---- */
enum kv_status {
    KV_OK = 0,
    KV_NOMEM = -1,           /* allocation refused */
    KV_NOTFOUND = -2,        /* absent; never reaches a user as an error */
    KV_COMPACTED = -3,       /* required revision has been compacted */
    KV_FUTURE_REV = -4,      /* required revision is a future revision */
    KV_KEY_NOT_FOUND = -5,   /* ignore_value / ignore_lease on a missing key */
    KV_LEASE_NOT_FOUND = -6, /* requested lease not found */
    KV_NO_SPACE = -7,        /* database space exceeded */
    KV_IO = -8,              /* a system call failed; errno kept beside */
    KV_CORRUPT = -9,         /* bytes on disk contradict their checksum or each other */
    KV_CLOSED = -10,         /* verb on a closed object */
    KV_POISONED = -11,       /* the log failed earlier; first errno kept */
    KV_UNKNOWN_OUTCOME = -12,/* the write or sync of this very batch failed */
    KV_FORKED = -13,         /* used in a child of the process that opened it */
    KV_TOO_LARGE = -14,      /* request is too large */
    KV_EMPTY_KEY = -15,      /* key is not provided */
    KV_DUPLICATE_KEY = -16,  /* duplicate key given in txn request */
    KV_TOO_MANY_OPS = -17,   /* too many operations in txn request */
    KV_BAD_COMMAND = -18,    /* command bytes do not decode */
    KV_NEWER_FORMAT = -19,   /* directory written by a newer kvcore */
    KV_FULL = -20,           /* the index reached the end of its address range */
    KV_REVISION_ORDER = -21, /* revision not greater than the key's latest (a caller's bug) */
    KV_KEY_TOO_LARGE = -22,  /* key longer than KV_KEY_MAX_BYTES or the option */
    KV_LEASE_EXISTS = -23,   /* lease already exists */
    KV_STATUS_COUNT = 24
};

#define KV_KEY_MAX_BYTES 65535u

/* A borrowed byte string: valid until the owner's next write or the release of its lock. */
typedef struct KvSlice {
    const uint8_t *ptr;
    size_t len;
} KvSlice;

/* One version of one key, as it travels between modules.  version == 0 is a tombstone. */
typedef struct KvVersion {
    int64_t mod;     /* main revision of the change (mod_revision) */
    int64_t create;  /* revision that began this generation; 0 in a tombstone */
    int64_t version; /* 1, 2, ... within the generation; 0 in a tombstone */
    int64_t lease;   /* 0: none */
    uint64_t pos;    /* log position of the cell that holds crc, key and value */
    uint32_t len;    /* bytes of the value */
    uint32_t sub;    /* order of the change within its main revision */
} KvVersion;

/* One row of a result: the version and where its key lies in the result's own arena. */
typedef struct KvRow {
    KvVersion v;
    uint32_t key_off_lo; /* low 32 bits of the arena offset */
    uint16_t key_off_hi; /* high 16 bits */
    uint16_t key_len;
} KvRow;

_Static_assert(sizeof(KvVersion) == 48, "KvVersion is 48 bytes");
_Static_assert(sizeof(KvRow) == 56, "KvRow is 56 bytes");

static inline uint64_t kv_row_key_off(const KvRow *r) {
    return (uint64_t)r->key_off_lo | ((uint64_t)r->key_off_hi << 32);
}
static inline void kv_row_set_key(KvRow *r, uint64_t off, uint16_t len) {
    r->key_off_lo = (uint32_t)off;
    r->key_off_hi = (uint16_t)(off >> 32);
    r->key_len = len;
}

/* ---- assertions -------------------------------------------------------------------------
 * KV_ASSERT: always on, O(1), memory-safety facts only.  KV_VERIFY: compiled in by
 * KVCORE_VERIFY=1.  Both print where and abort: a broken invariant must not reach the disk. */
static inline void kv_assert_failed(const char *what, const char *file, int line) {
    fprintf(stderr, "kvcore: invariant broken: %s (%s:%d)\n", what, file, line);
    fflush(stderr);
    abort();
}
#define KV_ASSERT(cond) \
    do { if (__builtin_expect(!(cond), 0)) kv_assert_failed(#cond, __FILE__, __LINE__); } while (0)
#ifdef KVCORE_VERIFY
#define KV_VERIFY(cond) KV_ASSERT(cond)
#define KV_VERIFYING 1
#else
#define KV_VERIFY(cond) ((void)0)
#define KV_VERIFYING 0
#endif
/* Cython sees functions, the compiler sees the macro's test inlined. */
static inline void kv_assert(int cond, const char *what) {
    if (__builtin_expect(!cond, 0)) kv_assert_failed(what, "cython", 0);
}
static inline void kv_verify(int cond, const char *what) {
#ifdef KVCORE_VERIFY
    if (__builtin_expect(!cond, 0)) kv_assert_failed(what, "cython", 0);
#else
    (void)cond; (void)what;
#endif
}
#define kv_likely(x) __builtin_expect(!!(x), 1)
#define kv_unlikely(x) __builtin_expect(!!(x), 0)
static inline void kv_prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }

/* ---- memory checkers ----------------------------------------------------------------------
 * Blocks of our own allocators look like one large mapping to them: these say what is whose.
 * kv_hide: nobody may touch it; kv_show: it may be written, and what is in it means nothing;
 * kv_show_read: it may be read. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
static inline void kv_hide(void *p, size_t n) { __asan_poison_memory_region(p, n); }
static inline void kv_show(void *p, size_t n) { __asan_unpoison_memory_region(p, n); }
static inline void kv_show_read(void *p, size_t n) { __asan_unpoison_memory_region(p, n); }
#elif defined(KVCORE_VALGRIND)
#include <valgrind/memcheck.h>
static inline void kv_hide(void *p, size_t n) { (void)VALGRIND_MAKE_MEM_NOACCESS(p, n); }
static inline void kv_show(void *p, size_t n) { (void)VALGRIND_MAKE_MEM_UNDEFINED(p, n); }
static inline void kv_show_read(void *p, size_t n) { (void)VALGRIND_MAKE_MEM_DEFINED(p, n); }
#else
static inline void kv_hide(void *p, size_t n) { (void)p; (void)n; }
static inline void kv_show(void *p, size_t n) { (void)p; (void)n; }
static inline void kv_show_read(void *p, size_t n) { (void)p; (void)n; }
#endif

/* ---- atomics ---------------------------------------------------------------------------- */
static inline uint64_t kv_load_u64(const uint64_t *p) {
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
static inline void kv_store_u64(uint64_t *p, uint64_t v) {
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
static inline int64_t kv_load_i64(const int64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void kv_store_i64(int64_t *p, int64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline int kv_load_int(const int *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void kv_store_int(int *p, int v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline int kv_add_int(int *p, int d) { return __atomic_add_fetch(p, d, __ATOMIC_ACQ_REL); }

/* Whether the interpreter runs Python threads side by side. */
#ifdef Py_GIL_DISABLED
#define KV_FREE_THREADED 1
#else
#define KV_FREE_THREADED 0
#endif

/* ---- byte order -------------------------------------------------------------------------- */
static inline uint16_t kv_be16(const uint8_t *p) { return (uint16_t)((p[0] << 8) | p[1]); }
static inline uint32_t kv_be32(const uint8_t *p) {
    uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v);
}
static inline uint64_t kv_be64(const uint8_t *p) {
    uint64_t v; memcpy(&v, p, 8); return __builtin_bswap64(v);
}
static inline void kv_put_be16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v;
}
static inline void kv_put_be32(uint8_t *p, uint32_t v) {
    v = __builtin_bswap32(v); memcpy(p, &v, 4);
}
static inline void kv_put_be64(uint8_t *p, uint64_t v) {
    v = __builtin_bswap64(v); memcpy(p, &v, 8);
}

/* A hash of bytes for tables in memory: eight at a time through a 64x64 -> 128 bit product. */
static inline uint64_t kv_hash(const uint8_t *p, size_t n, uint64_t seed) {
    uint64_t h = seed ^ (n * 0x9E3779B97F4A7C15u), x;
    unsigned __int128 m;
    while (n >= 8) {
        memcpy(&x, p, 8);
        m = (unsigned __int128)(h ^ x) * 0xD6E8FEB86659FD93u;
        h = (uint64_t)m ^ (uint64_t)(m >> 64);
        p += 8; n -= 8;
    }
    x = 0;
    if (n) memcpy(&x, p, n);
    m = (unsigned __int128)(h ^ x ^ 0xA0761D6478BD642Fu) * 0xE7037ED1A0B428DBu;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "kvcore's disk format and key heads assume a little-endian machine"
#endif

#endif
