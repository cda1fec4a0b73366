# SPDX-License-Identifier: Apache-2.0
"""What keeps the log's segments mapped for those who may read them.  Contracts: the module."""

from libc.stdint cimport uint64_t

from kvcore._native cimport KV_FREE_THREADED, kv_load_u64
from kvcore._wal cimport Log, WalEpoch


cdef class Pin:
    cdef Log log
    cdef WalEpoch* epoch
    cdef uint64_t number


cdef class Pins:
    cdef readonly Log log
    cdef Pin newest
    cdef uint64_t seen           # without a GIL: the epoch for which `forget` was called
    cdef object forget           # called when a segment was retired: what is kept for nobody goes
    cdef Pin renew(self)
    cdef Pin fresh(self)
    # The Pin object for a pin taken natively, which becomes its own, or is given back.
    cdef Pin adopt(self, WalEpoch* e)

    # Take it before the look-up that leads to a position.
    cdef inline Pin now(self):
        if KV_FREE_THREADED:
            return self.fresh()
        if self.newest is not None and self.newest.number == kv_load_u64(&self.log.c.epoch_number):
            return self.newest
        return self.renew()
