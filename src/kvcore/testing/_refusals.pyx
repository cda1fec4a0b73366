# SPDX-License-Identifier: Apache-2.0
"""Memory refused to the core: at any of its calls of malloc and its kin, and of the index's slabs.

    a module of the core ──malloc──► its own table of addresses ──► here: count, refuse? ──► malloc

While a Refusals is entered, the entries for malloc, calloc, realloc, posix_memalign, strdup, free
and mmap in the tables of every loaded module of the core point here; the core is not built
differently for it, and nobody else's memory is touched.  ELF only.
The index takes chunks of reserved addresses, which malloc does not see: refuse_index.

Invariants: (restored) behind the block all tables are as they were; (counted) `held` is what the
core took and has not given back since the block was entered, in blocks.
Thread safety: counters are atomic; enter and leave while no thread of a store runs.
May not know: what memory is for.
"""

from libc.stdint cimport uint64_t

from kvcore._engine cimport Engine

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <unistd.h>

    static long kvr_left, kvr_forever, kvr_seen, kvr_refused, kvr_held;

    static int kvr_refuse(void) {
        __atomic_add_fetch(&kvr_seen, 1, __ATOMIC_RELAXED);
        if (__atomic_load_n(&kvr_left, __ATOMIC_RELAXED) <= 0) return 0;
        if (__atomic_sub_fetch(&kvr_left, 1, __ATOMIC_RELAXED) > 0) return 0;
        if (kvr_forever) __atomic_store_n(&kvr_left, 1, __ATOMIC_RELAXED);
        __atomic_add_fetch(&kvr_refused, 1, __ATOMIC_RELAXED);
        errno = ENOMEM;
        return 1;
    }
    static void *kvr_took(void *p) {
        if (p) __atomic_add_fetch(&kvr_held, 1, __ATOMIC_RELAXED);
        return p;
    }
    static void *kvr_malloc(size_t n) { return kvr_refuse() ? NULL : kvr_took(malloc(n)); }
    static void *kvr_calloc(size_t n, size_t m) {
        return kvr_refuse() ? NULL : kvr_took(calloc(n, m));
    }
    static void *kvr_realloc(void *p, size_t n) {
        if (kvr_refuse()) return NULL;
        return p ? realloc(p, n) : kvr_took(malloc(n));
    }
    static int kvr_posix_memalign(void **p, size_t a, size_t n) {
        if (kvr_refuse()) return ENOMEM;
        int rc = posix_memalign(p, a, n);
        if (rc == 0) kvr_took(*p);
        return rc;
    }
    static char *kvr_strdup(const char *s) {
        return kvr_refuse() ? NULL : (char *)kvr_took(strdup(s));
    }
    static void kvr_free(void *p) {
        if (p) __atomic_sub_fetch(&kvr_held, 1, __ATOMIC_RELAXED);
        free(p);
    }
    static void *kvr_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off) {
        if (fd < 0 && kvr_refuse()) return MAP_FAILED;
        return mmap(at, n, prot, flags, fd, off);
    }
    static const struct { const char *name; void *ours; void *theirs; } kvr_table[] = {
        {"malloc", (void *)kvr_malloc, (void *)malloc},
        {"calloc", (void *)kvr_calloc, (void *)calloc},
        {"realloc", (void *)kvr_realloc, (void *)realloc},
        {"posix_memalign", (void *)kvr_posix_memalign, (void *)posix_memalign},
        {"strdup", (void *)kvr_strdup, (void *)strdup},
        {"free", (void *)kvr_free, (void *)free},
        {"mmap", (void *)kvr_mmap, (void *)mmap},
        {"mmap64", (void *)kvr_mmap, (void *)mmap},
    };

    #if defined(__ELF__)
    #include <link.h>
    static void kvr_slots(ElfW(Addr) base, const ElfW(Rela) *r, size_t bytes,
                          const ElfW(Sym) *symbols, const char *names, int ours, int *changed) {
        long page = sysconf(_SC_PAGESIZE);
        for (size_t i = 0; r && i < bytes / sizeof *r; i++) {
            const char *name = names + symbols[
                sizeof(void *) == 8 ? r[i].r_info >> 32 : r[i].r_info >> 8].st_name;
            for (size_t k = 0; k < sizeof kvr_table / sizeof *kvr_table; k++) {
                if (strcmp(name, kvr_table[k].name) != 0) continue;
                void **slot = (void **)(base + r[i].r_offset);
                char *from = (char *)((uintptr_t)slot & ~(uintptr_t)(page - 1));
                if (mprotect(from, page, PROT_READ | PROT_WRITE) != 0) continue;
                *slot = ours ? kvr_table[k].ours : kvr_table[k].theirs;
                ++*changed;
            }
        }
    }
    struct kvr_how { int ours, changed; };
    static int kvr_module(struct dl_phdr_info *info, size_t size, void *data) {
        struct kvr_how *how = (struct kvr_how *)data;
        const ElfW(Sym) *symbols = NULL;
        const char *names = NULL;
        const ElfW(Rela) *tables[2] = {NULL, NULL};
        size_t bytes[2] = {0, 0};
        (void)size;
        if (!strstr(info->dlpi_name, "/kvcore/_")) return 0;
        for (int i = 0; i < info->dlpi_phnum; i++) {
            if (info->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
            const ElfW(Dyn) *d = (const ElfW(Dyn) *)(info->dlpi_addr
                                                     + info->dlpi_phdr[i].p_vaddr);
            for (; d->d_tag != DT_NULL; d++) {
                ElfW(Addr) at = d->d_un.d_ptr;
                if (at < info->dlpi_addr) at += info->dlpi_addr;
                if (d->d_tag == DT_SYMTAB) symbols = (const ElfW(Sym) *)at;
                else if (d->d_tag == DT_STRTAB) names = (const char *)at;
                else if (d->d_tag == DT_JMPREL) tables[0] = (const ElfW(Rela) *)at;
                else if (d->d_tag == DT_PLTRELSZ) bytes[0] = d->d_un.d_val;
                else if (d->d_tag == DT_RELA) tables[1] = (const ElfW(Rela) *)at;
                else if (d->d_tag == DT_RELASZ) bytes[1] = d->d_un.d_val;
            }
        }
        for (int i = 0; i < 2 && symbols && names; i++)
            kvr_slots(info->dlpi_addr, tables[i], bytes[i], symbols, names, how->ours,
                      &how->changed);
        return 0;
    }
    static int kvr_point(int ours) {
        struct kvr_how how = {ours, 0};
        dl_iterate_phdr(kvr_module, &how);
        return how.changed;
    }
    #else
    static int kvr_point(int ours) { (void)ours; return 0; }
    #endif
    """
    int kvr_point(int ours) nogil
    long kvr_left, kvr_forever, kvr_seen, kvr_refused, kvr_held


class Refusals:
    """While it is entered, memory can be refused to the core.  One at a time.

    Errors on entering: NotImplementedError where modules are not ELF files.

    >>> import kvcore
    >>> with Refusals() as refusals, kvcore.open() as db:
    ...     refusals.arm(1)
    ...     try:
    ...         db.put(b"/a", b"1")
    ...     except kvcore.OutOfMemoryError:
    ...         db.put(b"/a", b"2"), refusals.refused
    (PutResult(revision=2, prev=None), 1)
    """

    def __enter__(self):
        global kvr_left, kvr_forever, kvr_seen, kvr_refused, kvr_held
        kvr_left = kvr_forever = kvr_seen = kvr_refused = kvr_held = 0
        if kvr_point(1) == 0:
            raise NotImplementedError("the core's modules are not ELF files")
        return self

    def __exit__(self, *error):
        self.disarm()
        kvr_point(0)

    def arm(self, nth, *, forever=False):
        """Refuse the nth request for memory from now, and all behind it if `forever`."""
        global kvr_left, kvr_forever
        kvr_forever = forever
        kvr_left = nth

    def disarm(self):
        """Refuse nothing more."""
        global kvr_left
        kvr_left = 0

    @property
    def seen(self):
        """Requests so far."""
        return kvr_seen

    @property
    def refused(self):
        """How many of them were refused."""
        return kvr_refused

    @property
    def held(self):
        """Blocks taken and not given back."""
        return kvr_held


def refuse_index(Engine store not None, uint64_t nth):
    """Refuse the nth allocation of the store's index from now; 0: none."""
    store.c.state.tree.slab.refuse_after = nth


def index_left(Engine store not None):
    """Allocations of the index until the one that is refused; 0: it was, or none is to be."""
    return store.c.state.tree.slab.refuse_after
