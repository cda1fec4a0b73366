# SPDX-License-Identifier: Apache-2.0
"""Writes and syncs timed without the interpreter between: through a table, and without one.

    through_table: io.write_at(ctx, ...)  io.sync(ctx, ...)      what the log does
    direct:        pwrite(...)            fdatasync(...)         what it would do without a table

Thread safety: stateless.  May not know: the log.
"""

from libc.errno cimport errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from kvcore._native cimport Io, KvIo, kv_monotonic_clock

cdef extern from "unistd.h" nogil:
    ssize_t pwrite(int handle, const void* p, size_t n, long off)
    int fdatasync(int handle)


cdef inline uint64_t _now() noexcept nogil:
    return kv_monotonic_clock.now_ns(NULL)


cdef int _run(const KvIo* io, int handle, const void* p, size_t n, uint64_t calls, uint64_t span,
              bint sync, uint64_t* took) noexcept nogil:
    """One time for each call; io NULL: without a table."""
    cdef uint64_t i, began, off = 0
    cdef int rc = 0
    for i in range(calls):
        began = _now()
        if io != NULL:
            rc = io.write_at(io.ctx, handle, p, n, off)
            if rc == 0 and sync:
                rc = io.sync(io.ctx, handle)
        else:
            rc = 0 if pwrite(handle, p, n, <long>off) == <ssize_t>n else -errno
            if rc == 0 and sync:
                rc = 0 if fdatasync(handle) == 0 else -errno
        took[i] = _now() - began
        if rc != 0:
            return rc
        off = (off + n) % span
    return 0


def write_times(Io io, int handle, bytes record, uint64_t calls, *, uint64_t span, bint sync):
    """Nanoseconds of each of `calls` writes of `record`, one behind the other, around after `span`
    bytes, each synced if `sync`.

    io: the table (None: straight to the operating system); handle: an open file's descriptor.
    Errors: OSError.
    """
    cdef uint64_t* took = <uint64_t*>calloc(calls + 1, sizeof(uint64_t))
    cdef const char* p = record
    cdef size_t n = len(record)
    cdef const KvIo* table = io.table if io is not None else NULL
    cdef int rc
    if took == NULL:
        raise MemoryError
    try:
        with nogil:
            rc = _run(table, handle, p, n, calls, span, sync, took)
        if rc != 0:
            raise OSError(-rc, "write or sync failed")
        return [took[i] for i in range(calls)]
    finally:
        free(took)
