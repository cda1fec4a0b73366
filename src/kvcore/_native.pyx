# SPDX-License-Identifier: Apache-2.0
"""Python face of the native leaves: the production tables, CRC-32C, and the status bridge.

    core (nogil) -- status code --> kv_raise -- errors.BY_STATUS --> exception

Thread safety: stateless.  May not know: any structure above it.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t

from kvcore import errors as _errors


@cython.final
cdef class _PosixIo(Io):
    """The operating system's files."""

    def __cinit__(self):
        self.table = &kv_posix_io


cdef class Io:
    """A table of C functions through which the core does I/O; subclasses fill it natively."""


cdef class Clock:
    """A table that tells the time in nanoseconds, monotonic."""

    def __cinit__(self, *args, **kwargs):
        self.table = &kv_monotonic_clock

    def now_ns(self):
        """The clock's reading in nanoseconds."""
        return self.table.now_ns(self.table.ctx)


cdef class Memory:
    """A table that is asked before the core takes memory."""

    def __cinit__(self, *args, **kwargs):
        self.table = &kv_plain_mem


POSIX_IO = _PosixIo()
MONOTONIC = Clock()
PLAIN_MEMORY = Memory()
VERIFYING = bool(KV_VERIFYING)


cdef int kv_raise(int status, object detail=None) except -1:
    """Raise the exception that stands for `status` in errors.BY_STATUS; 0 returns quietly."""
    if status == KV_OK:
        return 0
    raise _errors.from_status(status, detail)


def crc32c(const uint8_t[::1] data not None, uint32_t seed=0):
    """CRC-32C of `data`, continuing from `seed`.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    cdef size_t n = data.shape[0]
    return kv_crc32c(seed, &data[0] if n else NULL, n)


def crc32c_software(const uint8_t[::1] data not None, uint32_t seed=0):
    """The table-driven twin of `crc32c`, for machines without the instruction and for tests."""
    cdef size_t n = data.shape[0]
    return kv_crc32c_soft(seed, &data[0] if n else NULL, n)


def crc32c_in_hardware():
    """Whether this processor computes CRC-32C itself."""
    return bool(kv_crc32c_has_hard())
