# SPDX-License-Identifier: Apache-2.0
"""Pins: what was found in the index stays readable in the log, also when its segment is retired.

    pin = pins.now() ── look up (lock) ── position ── result keeps pin ── value touched, or gone
                                                        └ the segment is mapped until then

One Pin object serves everybody until a segment is retired; then the next one is made.  So a result
costs a reference, and one that is kept, unread, keeps the segments retired since it was made.  The
one that waits for the next reader keeps nothing.  What else is kept for whoever comes next (events
that watches share) is forgotten then.

Without a GIL nobody can tell a Pin that only waits from one in use, nor take a reference to it that
another is about to drop: then each reader has one of its own.

Thread safety: Pins: the GIL, or nothing is shared.  Ownership: a Pin owns its log, and one pin of
its epoch.
May not know: what is read.
"""

cimport cython

from kvcore._native cimport KV_FREE_THREADED, kv_fork_generation, kv_fork_watch
from kvcore._segment_table cimport table_drop_pin, table_keep_pin, table_pin, table_unpin
from kvcore._wal cimport Log, WalEpoch

from kvcore.errors import OutOfMemoryError

kv_fork_watch()


@cython.final
@cython.no_gc
cdef class Pin:
    """One reference to the segments that were there at a time."""

    def __dealloc__(self):
        if self.epoch != NULL and self.log.fork_generation == kv_fork_generation():
            table_drop_pin(&self.log.c, <void*>self, self.epoch)


@cython.final
@cython.no_gc
cdef class Pins:
    """Hands out the newest Pin of a log."""

    def __cinit__(self, Log log):
        self.log = log

    cdef Pin fresh(self):
        cdef Pin pin = Pin.__new__(Pin)
        pin.log = self.log
        pin.epoch = table_pin(&self.log.c)
        if pin.epoch == NULL:
            raise OutOfMemoryError()
        pin.number = pin.epoch.number
        if KV_FREE_THREADED and self.seen != pin.number:
            self.seen = pin.number
            if self.forget is not None:
                self.forget()
        return pin

    cdef Pin renew(self):
        cdef Pin pin = self.fresh()
        cdef Pin old = self.newest
        table_keep_pin(&self.log.c, <void*>pin, pin.epoch)
        self.newest = pin
        del old                              # its segments may go with it
        if self.forget is not None:
            self.forget()
        return pin

    cdef Pin adopt(self, WalEpoch* e):
        cdef Pin pin = self.newest
        if pin is not None and pin.epoch == e:
            table_unpin(&self.log.c, e)
            return pin
        try:
            pin = Pin.__new__(Pin)
        except BaseException:
            table_unpin(&self.log.c, e)
            raise
        pin.log = self.log
        pin.number = e.number
        pin.epoch = e
        return pin
