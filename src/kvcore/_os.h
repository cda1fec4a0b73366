/* SPDX-License-Identifier: Apache-2.0
 *
 * The outside world behind tables of C functions: files (KvIo), clock (KvClock), memory (KvMem);
 * beside them locks and threads.  The production tables are at the end of the file; a fault layer
 * or a simulator passes its own.  Every function returns 0 or a count on success, -errno on
 * failure.
 * May not know: segments, batches, trees.
 */
#ifndef KVCORE_OS_H
#define KVCORE_OS_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- tables ------------------------------------------------------------------------------ */
enum { KV_O_READ = 0, KV_O_WRITE = 1, KV_O_CREATE = 2 };

typedef struct KvIo {
    void *ctx;
    int (*open)(void *ctx, const char *path, int flags);            /* -> handle or -errno */
    int (*close)(void *ctx, int handle);
    int64_t (*size)(void *ctx, int handle);                         /* -> bytes or -errno */
    int (*allocate)(void *ctx, int handle, uint64_t bytes);         /* reserve blocks, extend */
    int (*write_at)(void *ctx, int handle, const void *p, size_t n,
                    uint64_t off);                                  /* all or -errno */
    int64_t (*read_at)(void *ctx, int handle, void *p, size_t n,
                       uint64_t off);                               /* -> bytes read */
    int (*truncate)(void *ctx, int handle, uint64_t bytes);
    int (*sync)(void *ctx, int handle);                             /* data durable, or -errno */
    int (*rename)(void *ctx, const char *from, const char *to);
    int (*unlink)(void *ctx, const char *path);
    int (*sync_dir)(void *ctx, const char *path);                   /* directory entries durable */
    int (*map)(void *ctx, int handle, uint64_t bytes,
               void **out);                       /* read-only view; -ENOSYS: use read_at */
    int (*unmap)(void *ctx, void *p, uint64_t bytes);
    int (*links)(void *ctx, int handle);          /* names of the file, or -errno */
    int (*begin_sync)(void *ctx, int handle, uint64_t off,
                      uint64_t bytes);            /* start writing back; promises nothing; may be
                                                     NULL */
} KvIo;

typedef struct KvClock {
    void *ctx;
    uint64_t (*now_ns)(void *ctx); /* monotonic */
} KvClock;

/* Asked before memory is taken, told when it is given back: accounting and fault injection. */
typedef struct KvMem {
    void *ctx;
    int (*take)(void *ctx, size_t bytes); /* 0, or KV_NOMEM to refuse */
    void (*give)(void *ctx, size_t bytes);
} KvMem;

/* ---- production tables --------------------------------------------------------------------- */
static int kv_px_open(void *ctx, const char *path, int flags) {
    (void)ctx;
    /* a pipe in the place of a file is refused, not waited for */
    int f = O_CLOEXEC | O_NONBLOCK | ((flags & KV_O_WRITE) ? O_RDWR : O_RDONLY);
    if (flags & KV_O_CREATE) f |= O_CREAT;
    int fd;
    struct stat st = {0};
    do fd = open(path, f, 0644); while (fd < 0 && errno == EINTR);
    if (fd < 0) return -errno;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) return fd;
    close(fd);
    return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
}
static int kv_px_close(void *ctx, int h) { (void)ctx; return close(h) ? -errno : 0; }
static int64_t kv_px_size(void *ctx, int h) {
    (void)ctx;
    struct stat st;
    return fstat(h, &st) ? -errno : (int64_t)st.st_size;
}
static int kv_px_allocate(void *ctx, int h, uint64_t n) {
    (void)ctx;
#if defined(__linux__)
    int rc;
    do rc = fallocate(h, 0, 0, (off_t)n); while (rc && errno == EINTR);
    if (rc == 0) return 0;
    if (errno != EOPNOTSUPP && errno != ENOSYS) return -errno;
#endif
    return ftruncate(h, (off_t)n) ? -errno : 0;
}
static int kv_px_write_at(void *ctx, int h, const void *p, size_t n, uint64_t off) {
    (void)ctx;
    const char *c = (const char *)p;
    while (n) {
        ssize_t w = pwrite(h, c, n, (off_t)off);
        if (w < 0) {
            if (errno == EINTR) continue;
            return -errno;
        }
        if (w == 0) return -EIO;
        c += w; n -= (size_t)w; off += (uint64_t)w;
    }
    return 0;
}
static int64_t kv_px_read_at(void *ctx, int h, void *p, size_t n, uint64_t off) {
    (void)ctx;
    char *c = (char *)p;
    size_t got = 0;
    while (got < n) {
        ssize_t r = pread(h, c + got, n - got, (off_t)(off + got));
        if (r < 0) {
            if (errno == EINTR) continue;
            return -errno;
        }
        if (r == 0) break;
        got += (size_t)r;
    }
    return (int64_t)got;
}
static int kv_px_truncate(void *ctx, int h, uint64_t n) {
    (void)ctx;
    return ftruncate(h, (off_t)n) ? -errno : 0;
}
static int kv_px_sync(void *ctx, int h) {
    (void)ctx;
#if defined(__APPLE__)
    return fcntl(h, F_FULLFSYNC) == -1 ? -errno : 0; /* fsync alone stops at the drive's cache */
#else
    return fdatasync(h) ? -errno : 0; /* never retried: a second call would lie */
#endif
}
static int kv_px_rename(void *ctx, const char *a, const char *b) {
    (void)ctx;
    return rename(a, b) ? -errno : 0;
}
static int kv_px_unlink(void *ctx, const char *p) { (void)ctx; return unlink(p) ? -errno : 0; }
static int kv_px_sync_dir(void *ctx, const char *p) {
    (void)ctx;
    int fd = open(p, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (fd < 0) return -errno;
    int rc = fsync(fd) ? -errno : 0;
    close(fd);
    return rc;
}
static int kv_px_map(void *ctx, int h, uint64_t n, void **out) {
    (void)ctx;
    void *p = mmap(NULL, (size_t)n, PROT_READ, MAP_SHARED, h, 0);
    if (p == MAP_FAILED) return -errno;
    *out = p;
    return 0;
}
static int kv_px_unmap(void *ctx, void *p, uint64_t n) {
    (void)ctx; return munmap(p, (size_t)n) ? -errno : 0;
}
static int kv_px_begin_sync(void *ctx, int h, uint64_t off, uint64_t n) {
    (void)ctx;
#if defined(__linux__)
    /* Without the WAIT flags it takes no error away from the fdatasync that follows. */
    if (sync_file_range(h, (off_t)off, (off_t)n, SYNC_FILE_RANGE_WRITE) && errno != ENOSYS
        && errno != EINVAL && errno != ESPIPE) return -errno;
#else
    (void)h; (void)off; (void)n;
#endif
    return 0;
}
static int kv_px_links(void *ctx, int h) {
    (void)ctx;
    struct stat st;
    return fstat(h, &st) ? -errno : (int)st.st_nlink;
}

__attribute__((unused)) static const KvIo kv_posix_io = {
    NULL, kv_px_open, kv_px_close, kv_px_size, kv_px_allocate, kv_px_write_at, kv_px_read_at,
    kv_px_truncate, kv_px_sync, kv_px_rename, kv_px_unlink, kv_px_sync_dir, kv_px_map, kv_px_unmap,
    kv_px_links, kv_px_begin_sync,
};

static uint64_t kv_px_now(void *ctx) {
    (void)ctx;
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
__attribute__((unused)) static const KvClock kv_monotonic_clock = {NULL, kv_px_now};

static int kv_px_take(void *ctx, size_t n) { (void)ctx; (void)n; return 0; }
static void kv_px_give(void *ctx, size_t n) { (void)ctx; (void)n; }
__attribute__((unused)) static const KvMem kv_plain_mem = {NULL, kv_px_take, kv_px_give};

__attribute__((unused)) static uint64_t kv_random_u64(void) {
    uint64_t v = 0;
    FILE *f = fopen("/dev/urandom", "rb");
    size_t n = f ? fread(&v, sizeof v, 1, f) : 0;
    if (f) fclose(f);
    if (n != 1) v = kv_px_now(NULL) * 0x9E3779B97F4A7C15u ^ (uint64_t)getpid();
    return v ? v : 1;
}

/* ---- reserved address range, backed by huge pages when the kernel offers them --------------- */
static inline void *kv_reserve(size_t n) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
    flags |= MAP_NORESERVE;
#endif
    size_t huge = (size_t)2 << 20; /* over-reserve so that the base is aligned to a huge page */
    char *p = (char *)mmap(NULL, n + huge, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == (char *)MAP_FAILED) return NULL;
    char *a = (char *)(((uintptr_t)p + huge - 1) & ~(uintptr_t)(huge - 1));
    if (a > p) munmap(p, (size_t)(a - p));
    size_t tail = (size_t)((p + n + huge) - (a + n));
    if (tail) munmap(a + n, tail);
    return a;
}
static inline void kv_unreserve(void *p, size_t n) { munmap(p, n); }
static inline void kv_advise_huge(void *p, size_t n) {
#if defined(MADV_HUGEPAGE)
    (void)madvise(p, n, MADV_HUGEPAGE);
#else
    (void)p; (void)n;
#endif
}
/* A large buffer that free() takes: whole huge pages, so that filling it faults once per 2 MiB. */
static inline void *kv_big_alloc(size_t n) {
    size_t huge = (size_t)2 << 20;
    void *p = NULL;
    size_t bytes = (n + huge - 1) & ~(huge - 1);
    if (posix_memalign(&p, huge, bytes) != 0) return NULL;
    kv_advise_huge(p, bytes);
    return p;
}
static inline void kv_advise_unused(void *p, size_t n) { (void)madvise(p, n, MADV_DONTNEED); }

/* ---- locks: pthread, so that waiting needs no interpreter ----------------------------------- */
typedef struct KvMutex { pthread_mutex_t m; } KvMutex;
typedef struct KvCond { pthread_cond_t c; } KvCond;
static inline int kv_mutex_init(KvMutex *m) { return pthread_mutex_init(&m->m, NULL); }
static inline void kv_mutex_destroy(KvMutex *m) { pthread_mutex_destroy(&m->m); }
static inline void kv_mutex_lock(KvMutex *m) { pthread_mutex_lock(&m->m); }
static inline int kv_mutex_trylock(KvMutex *m) { return pthread_mutex_trylock(&m->m) == 0; }
static inline void kv_mutex_unlock(KvMutex *m) { pthread_mutex_unlock(&m->m); }
static inline int kv_cond_init(KvCond *c) {
#if defined(__linux__)
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    int rc = pthread_cond_init(&c->c, &a);
    pthread_condattr_destroy(&a);
    return rc;
#else
    return pthread_cond_init(&c->c, NULL);
#endif
}
static inline void kv_cond_destroy(KvCond *c) { pthread_cond_destroy(&c->c); }
static inline void kv_cond_signal(KvCond *c) { pthread_cond_signal(&c->c); }
static inline void kv_cond_broadcast(KvCond *c) { pthread_cond_broadcast(&c->c); }
static inline void kv_cond_wait(KvCond *c, KvMutex *m) { pthread_cond_wait(&c->c, &m->m); }
/* -> 1 when signalled (or spuriously woken), 0 when ns nanoseconds passed */
static inline int kv_cond_wait_ns(KvCond *c, KvMutex *m, uint64_t ns) {
    struct timespec ts;
#if defined(__linux__)
    clock_gettime(CLOCK_MONOTONIC, &ts);
#else
    clock_gettime(CLOCK_REALTIME, &ts);
#endif
    uint64_t t = (uint64_t)ts.tv_nsec + ns % 1000000000u;
    ts.tv_sec += (time_t)(ns / 1000000000u + t / 1000000000u);
    ts.tv_nsec = (long)(t % 1000000000u);
    return pthread_cond_timedwait(&c->c, &m->m, &ts) != ETIMEDOUT;
}

/* ---- threads that never take the interpreter lock ------------------------------------------- */
typedef struct KvThread { pthread_t t; int running; } KvThread;
static inline int kv_thread_start(KvThread *t, void *(*fn)(void *), void *arg) {
    pthread_attr_t a;
    sigset_t all, old;
    pthread_attr_init(&a);
    pthread_attr_setstacksize(&a, 512 * 1024);
    sigfillset(&all); /* signals belong to the interpreter's threads */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&t->t, &a, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&a);
    t->running = rc == 0;
    return -rc;
}
static inline void kv_thread_join(KvThread *t) {
    if (t->running) pthread_join(t->t, NULL);
    t->running = 0;
}

/* ---- fork: objects remember the generation they were made in -------------------------------- */
static int kv_fork_count = 0;
static void kv_fork_in_child(void) { kv_fork_count++; }
__attribute__((unused)) static void kv_fork_watch(void) {
    static int once = 0;
    if (!once) { once = 1; pthread_atfork(NULL, NULL, kv_fork_in_child); }
}
static inline int kv_fork_generation(void) { return kv_fork_count; }

#endif
