# SPDX-License-Identifier: Apache-2.0
"""Wake-ups of event loops (and of the thread that runs callbacks): one descriptor each.

    committer ── ready_fire ──► list ──► eventfd ──► loop polls ──► ready(): pops one by one, calls

Many things become ready between two looks of a loop: the first of them writes to the descriptor,
the others only join the list, so that a batch costs one system call however many wait for it.

Invariants: listed - a node is in its waker's list exactly while `listed`; signalled - a list that
is not empty has a readable descriptor, or its reader is about to look again.
Thread safety: nodes may be fired by any thread, without the GIL; they are taken by the reader, with
it.  Ownership: a node holds a reference to its waker and one to its target.
May not know: stores, futures, watches.
"""

import os

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.unistd cimport close as posix_close
from posix.unistd cimport read as posix_read
from posix.unistd cimport write as posix_write

from kvcore._native cimport (kv_add_int, kv_fork_generation, kv_fork_watch, kv_mutex_destroy,
                             kv_mutex_init, kv_mutex_lock, kv_mutex_unlock)

from kvcore.errors import OutOfMemoryError

kv_fork_watch()


cdef void _waker_drop(Waker* w) noexcept nogil:
    if kv_add_int(&w.refs, -1) == 0:
        posix_close(w.fd)
        kv_mutex_destroy(&w.lock)
        free(w)


# =================================================================================================
# Nodes
# =================================================================================================

cdef void ready_init(Ready* r, Waker* w, void* target) noexcept:
    memset(r, 0, sizeof(Ready))
    kv_add_int(&w.refs, 1)
    r.waker = w
    r.target = target
    Py_INCREF(<object>target)


cdef Ready* ready_new(Waker* w, object target) except NULL:
    cdef Ready* r = <Ready*>calloc(1, sizeof(Ready))
    if r == NULL:
        raise OutOfMemoryError()
    ready_init(r, w, <void*>target)
    r.disposable = True
    return r


cdef void ready_free(Ready* r) noexcept:
    cdef void* target = r.target
    _waker_drop(r.waker)
    r.waker = NULL
    r.target = NULL
    if r.disposable:
        free(r)
    Py_DECREF(<object>target)            # last: it may run anything


cdef void ready_fire(Ready* r) noexcept nogil:
    cdef Waker* w = r.waker
    cdef uint64_t one = 1
    kv_mutex_lock(&w.lock)
    r.listed = True
    r.next = NULL
    r.prev = w.tail
    if w.tail == NULL:
        w.head = r
        posix_write(w.fd, &one, 8)       # a full counter is a pending wake-up: nothing is lost
    else:
        w.tail.next = r
    w.tail = r
    kv_mutex_unlock(&w.lock)


cdef void _unlist(Waker* w, Ready* r) noexcept nogil:
    """REQUIRES: the waker's lock; listed."""
    if r.prev == NULL:
        w.head = r.next
    else:
        r.prev.next = r.next
    if r.next == NULL:
        w.tail = r.prev
    else:
        r.next.prev = r.prev
    r.listed = False


cdef void ready_take_back(Ready* r) noexcept nogil:
    cdef Waker* w = r.waker
    kv_mutex_lock(&w.lock)
    if r.listed:
        _unlist(w, r)
    kv_mutex_unlock(&w.lock)


# =================================================================================================
# The reader's side
# =================================================================================================

cdef class Wakeups:
    """A descriptor that becomes readable when something is ready, and `ready()` to call then."""

    def __cinit__(self):
        cdef int fd = -1
        self.fork_generation = kv_fork_generation()
        self.read_fd = -1
        if hasattr(os, "eventfd"):
            self.read_fd = fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:                            # a pipe: its other end is the waker's alone
            self.read_fd, fd = os.pipe()
            os.set_blocking(self.read_fd, False)
            os.set_blocking(fd, False)
        self.waker = <Waker*>calloc(1, sizeof(Waker))
        if self.waker == NULL:
            raise OutOfMemoryError()
        kv_mutex_init(&self.waker.lock)
        self.waker.refs = 1
        self.waker.fd = os.dup(fd) if fd == self.read_fd else fd

    def __dealloc__(self):
        cdef void* target = NULL
        if self.fork_generation != kv_fork_generation():
            return                       # a child's copy: its lock may be held for ever
        if self.waker != NULL:
            while self._pop(&target):    # what nobody will be told any more
                Py_DECREF(<object>target)
            _waker_drop(self.waker)
        if self.read_fd >= 0:
            posix_close(self.read_fd)

    cdef bint _pop(self, void** target) noexcept:
        """The target of the first one, with a reference; the node may be gone when this returns."""
        cdef Waker* w = self.waker
        cdef Ready* r
        cdef bint found, disposable = False
        kv_mutex_lock(&w.lock)           # a leaf, held for a few pointers
        r = w.head
        found = r != NULL
        if found:
            _unlist(w, r)
            disposable = r.disposable
            target[0] = r.target
            Py_INCREF(<object>r.target)
        kv_mutex_unlock(&w.lock)
        if disposable:
            ready_free(r)
        return found

    def ready(self):
        """Calls what became ready.  One by one: what is called may take others back."""
        cdef char counter[512]
        cdef void* target = NULL
        while posix_read(self.read_fd, counter, sizeof(counter)) == sizeof(counter):
            pass                         # a pipe with more to read; an eventfd gives 8 bytes
        while self._pop(&target):
            function, first, second = <object>target
            Py_DECREF(<object>target)
            function(first, second)


_by_loop = {}


cdef Wakeups loop_wakeups(object loop):
    wakeups = _by_loop.get(loop)
    if wakeups is None:
        for old in [known for known in list(_by_loop) if known.is_closed()]:
            _by_loop.pop(old, None)
        wakeups = Wakeups()
        loop.add_reader(wakeups.read_fd, wakeups.ready)
        _by_loop[loop] = wakeups
    return <Wakeups>wakeups


# The descriptors are the parent's.
os.register_at_fork(after_in_child=_by_loop.clear)
