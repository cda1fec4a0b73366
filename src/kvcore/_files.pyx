# SPDX-License-Identifier: Apache-2.0
"""Whole files through an I/O table: copied, read, written, named, each made durable.

    copy_file:  source ──read 1 MiB──► CRC ──write──► target ── sync (every 4 MiB, and at the end)

Invariants: what returned is durable, names not before `sync_dir`; a copy is exactly as long as
asked for, or an error.  Thread safety: every function; no GIL while the disk works.
May not know: what is in a file.
"""

import os

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EIO
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from kvcore._native cimport KV_O_CREATE, KV_O_READ, KV_O_WRITE, Io, KvIo, kv_crc32c
from kvcore._recovery cimport raise_errno

from kvcore._native import POSIX_IO
from kvcore.errors import OutOfMemoryError, StorageError

cdef enum:
    CHUNK_BYTES = 1 << 20
    SYNC_BYTES = 4 << 20


cdef const KvIo* _table(Io io):
    return io.table if io is not None else (<Io>POSIX_IO).table


cdef int _open(const KvIo* io, path, int flags) except -1:
    cdef bytes name = os.fsencode(path)
    cdef int handle = io.open(io.ctx, name, flags)
    if handle < 0:
        raise_errno(handle, f"cannot open {path}")
    return handle


def copy_file(Io io, str source, target, uint64_t upto, progress=None):
    """The first `upto` bytes of `source` into a new file (None: only read); their CRC-32C.

    Errors: StorageError, also when the source is shorter.  Cost: a read, a write and the syncs.
    """
    cdef const KvIo* t = _table(io)
    cdef uint8_t* buf = <uint8_t*>malloc(CHUNK_BYTES)
    cdef uint64_t off = 0, n = 0, synced = 0
    cdef uint32_t crc = 0
    cdef int from_handle = -1, to_handle = -1
    cdef int64_t rc = 0
    if buf == NULL:
        raise OutOfMemoryError()
    try:
        from_handle = _open(t, source, KV_O_READ)
        if target is not None:
            to_handle = _open(t, target, KV_O_WRITE | KV_O_CREATE)
        while off < upto:
            n = min(<uint64_t>CHUNK_BYTES, upto - off)
            with nogil:
                rc = t.read_at(t.ctx, from_handle, buf, n, off)
                if rc == <int64_t>n:
                    crc = kv_crc32c(crc, buf, n)
            if rc != <int64_t>n:
                raise StorageError(f"kvcore: cannot read {source}", errno=-rc if rc < 0 else EIO)
            if to_handle >= 0:
                with nogil:
                    rc = t.write_at(t.ctx, to_handle, buf, n, off)
                    if rc == 0 and (off + n - synced >= SYNC_BYTES or off + n == upto):
                        synced = off + n
                        rc = t.sync(t.ctx, to_handle)
                raise_errno(<int>rc, f"cannot write {target}")
            off += n
            PyErr_CheckSignals()
            if progress is not None:
                progress(n)
        return crc
    finally:
        free(buf)
        if from_handle >= 0:
            t.close(t.ctx, from_handle)
        if to_handle >= 0:
            t.close(t.ctx, to_handle)


def write_file(Io io, str path, bytes data):
    """A new file with these bytes."""
    cdef const KvIo* t = _table(io)
    cdef int handle = _open(t, path, KV_O_WRITE | KV_O_CREATE)
    cdef const uint8_t* p = data
    cdef uint64_t n = len(data)
    cdef int rc
    with nogil:
        rc = t.write_at(t.ctx, handle, p, n, 0)
        if rc == 0:
            rc = t.sync(t.ctx, handle)
        t.close(t.ctx, handle)
    raise_errno(rc, f"cannot write {path}")


def rename(Io io, str source, str target):
    """Gives a file or directory another name; not durable before the directory is synced."""
    cdef const KvIo* t = _table(io)
    cdef bytes a = os.fsencode(source), b = os.fsencode(target)
    raise_errno(t.rename(t.ctx, a, b), f"cannot rename {source} to {target}")


def sync_dir(Io io, str path):
    """Makes the names in a directory durable."""
    cdef const KvIo* t = _table(io)
    cdef bytes name = os.fsencode(path)
    raise_errno(t.sync_dir(t.ctx, name), f"cannot sync {path}")
