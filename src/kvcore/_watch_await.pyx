# SPDX-License-Identifier: Apache-2.0
"""`async for` over a watch: one awaitable a response, which is its own iterator.

    __next__ ─ something there ─► StopIteration(response): no hop through the loop
        └ nothing ─► parked in the hub, an asyncio future handed to the task
    event ─► hub ─► the loop's list (_wakeups) ─► _resume sets the future ─► __next__ again

One descriptor serves a loop, however many watches its tasks await.
Invariant: armed - `x.ready` is initialised, and x is in one list at most, exactly while `armed`.
Thread safety: belongs to its task; the hub's lists are under the store's lock.
Ownership: an abandoned one leaves its list when it is dropped.  May not know: the engine.
"""

from asyncio import get_running_loop

cimport cython
from libc.string cimport memset

from kvcore._commit cimport Commit
from kvcore._native cimport kv_fork_generation, kv_mutex_lock_gil, kv_mutex_unlock
from kvcore._wakeups cimport Wakeups, loop_wakeups, ready_free, ready_init, ready_take_back
from kvcore._watch cimport Watch
from kvcore._watchers cimport WAITER_FIRED, Waiter, hub_has_news, hub_park, hub_unpark

from kvcore.errors import ClosedError


@cython.final
@cython.no_gc_clear                       # its watch is needed to leave the lists
cdef class NextResponse:
    """What `async for` awaits: its own iterator, so that a response costs one object."""

    def __init__(self):
        raise TypeError("made by `async for` over a watch")

    def __dealloc__(self):
        if self.armed and self.watch.fork_generation == kv_fork_generation():
            self._disarm()

    cdef int _disarm(self) except -1:
        """Out of whichever list it is in."""
        cdef Commit* c = self.watch.c
        if not self.armed:
            return 0
        kv_mutex_lock_gil(&c.lock)
        if self.x.state == WAITER_FIRED:
            ready_take_back(&self.x.ready)
        else:
            hub_unpark(&c.hub, &self.x)
        kv_mutex_unlock(&c.lock)
        self.armed = False
        ready_free(&self.x.ready)
        return 0

    cdef bint _park(self) except -1:
        """False when there may be something to take after all."""
        cdef Watch w = self.watch
        cdef Wakeups wakeups
        cdef bint parked
        loop = get_running_loop()
        wakeups = loop_wakeups(loop)
        future = loop.create_future()
        target = (_resume, future, None)
        memset(&self.x, 0, sizeof(Waiter))
        ready_init(&self.x.ready, wakeups.waker, <void*>target)
        self.armed = True
        kv_mutex_lock_gil(&w.c.lock)
        parked = not w.c.closed and not w.c.stopped and not hub_has_news(&w.c.hub, &w.w)
        if parked:
            hub_park(&w.c.hub, &w.w, &self.x)
        kv_mutex_unlock(&w.c.lock)
        if parked:
            self.future = future
            return True
        self.armed = False
        ready_free(&self.x.ready)
        return False

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        self._disarm()
        self.future = None
        while True:
            try:
                response = self.watch._next_response()
            except ClosedError:
                if self.watch.cancelled_:
                    raise StopAsyncIteration from None
                raise
            if response is not None:
                raise StopIteration(response)
            if self._park():
                break
        future = self.future
        future._asyncio_future_blocking = True
        return future

    def send(self, value):
        """Part of the awaitable protocol."""
        return self.__next__()

    def throw(self, kind, value=None, trace=None):
        """Part of the awaitable protocol: the task was cancelled."""
        self.close()
        if value is None:
            value = kind() if isinstance(kind, type) else kind
        raise value

    def close(self):
        """Part of the awaitable protocol: nobody waits any more."""
        self._disarm()
        self.future = None


def _resume(future, _):
    if not future.done():
        future.set_result(None)


cdef NextResponse make_next(Watch watch):
    cdef NextResponse n = NextResponse.__new__(NextResponse)
    n.watch = watch
    return n
