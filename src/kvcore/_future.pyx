# SPDX-License-Identifier: Apache-2.0
"""Futures: what submit() returns, for threads, callbacks and asyncio alike.

    submit ─ Request ─► native committer (never takes the GIL) ─► done ─► pipe ──► event loop
                ▲                                                           └────► callback thread
             Future.result() waits on the request's own condition, without the GIL

One pipe serves one event loop (or the callback thread): a batch writes to it once, the reader then
settles every future that is done.  Thread safety: a Future may be asked from any thread.
Ownership: request and future each hold one reference; a future dropped early loses nothing.
May not know: the index, verbs.
"""

import os
from asyncio import get_running_loop
from collections import deque
from threading import Thread

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc

from kvcore._commit cimport (REQ_DONE, Commit, Request, Waker, commit_await, request_drop,
                             waker_drop)
from kvcore._native cimport (KV_COMPACTED, KV_OK, kv_add_int, kv_mutex_lock, kv_mutex_unlock,
                             kv_raise, kv_store_int)
from kvcore._result cimport make_answer, make_put
from kvcore._wal cimport Log

from kvcore.errors import Error, OutOfMemoryError


cdef int raise_result(Request* r) except -1:
    if r.res.status == KV_OK:
        return 0
    return kv_raise(r.res.status, r.res.detail if r.res.detail or r.res.status == KV_COMPACTED
                    else None)


cdef Future make_future(object owner, Commit* c, Request* r, Log log):
    cdef Future f = Future.__new__(Future)
    f.owner = owner
    f.c = c
    f.r = r
    f.log = log
    return f


cdef Future ready_future(object answer):
    cdef Future f = Future.__new__(Future)
    f.answer = answer
    f.answered = True
    return f


@cython.final
@cython.no_gc
cdef class Future:
    """The answer-to-be of a submitted operation.

    `result()` blocks, `await` suspends, `add_done_callback()` calls back; each may be used many
    times.  An operation once submitted cannot be cancelled: its place in the log may be taken
    already.
    """

    def __init__(self):
        raise TypeError("Future objects come from Store.submit")

    def __dealloc__(self):
        if self.r != NULL:
            request_drop(self.r)

    cdef int settle(self) except -1:
        """Makes the Python answer of a finished request, once."""
        if not self.answered:
            raise_result(self.r)
            if self.r.res.n == 0:
                self.answer = make_put(self.r.res.revision, None)
            else:
                self.answer = make_answer(&self.r.res, self.log)
            self.answered = True
        return 0

    def done(self):
        """Whether the operation has finished, well or not."""
        cdef bint done
        if self.r == NULL:
            return True
        kv_mutex_lock(&self.c.qlock)
        done = self.r.state == REQ_DONE
        kv_mutex_unlock(&self.c.qlock)
        return done

    def cancelled(self):
        """Always False: a submitted operation runs."""
        return False

    def running(self):
        """Whether the answer is still to come."""
        return not self.done()

    def cancel(self):
        """Always False: a submitted operation runs."""
        return False

    def result(self, timeout=None):
        """The operation's result object; its error is raised; TimeoutError after `timeout`
        seconds."""
        cdef uint64_t left = 0, slice_ns
        cdef bint done = self.r == NULL
        if timeout is not None:
            left = <uint64_t>(max(timeout, 0) * 1e9)
        while not done:
            slice_ns = 50000000
            if timeout is not None and left < slice_ns:
                slice_ns = left + 1
            with nogil:
                done = commit_await(self.c, self.r, slice_ns)
            PyErr_CheckSignals()
            if timeout is not None and not done:
                if left <= slice_ns:
                    raise TimeoutError("the operation has not finished yet")
                left -= slice_ns
        self.settle()
        return self.answer

    def exception(self, timeout=None):
        """The operation's error, or None when it went well."""
        try:
            self.result(timeout)
        except Error as error:
            return error
        return None

    def add_done_callback(self, fn):
        """Calls fn(self) once done: now, or later from kvcore's callback thread."""
        if self.done() or not (<Wakeups>_callbacks()).attach(self, fn):
            fn(self)

    def __await__(self):
        loop = get_running_loop()
        waiter = loop.create_future()
        if self.done() or not (<Wakeups>_loop_wakeups(loop)).attach(self, waiter):
            _settle_waiter(self, waiter)
        return waiter.__await__()

    def __repr__(self):
        return f"<Future {'done' if self.done() else 'pending'}>"


@cython.final
cdef class Wakeups:
    """A pipe that finished requests write to, and who waits for them."""

    def __cinit__(self, deliver, *args):
        cdef int write_fd
        self.pending = deque()
        self.deliver = deliver
        self.read_fd, write_fd = os.pipe()
        os.set_blocking(write_fd, False)
        self.waker = <Waker*>calloc(1, sizeof(Waker))
        if self.waker == NULL:
            raise OutOfMemoryError()
        self.waker.fd = write_fd
        self.waker.refs = 1

    def __dealloc__(self):
        if self.waker != NULL:
            waker_drop(self.waker)
        if self.read_fd:
            os.close(self.read_fd)

    def attach(self, Future future not None, target):
        """Registers `target` to be told; False when the future is done already."""
        cdef bint waiting
        self.pending.append((future, target))
        kv_mutex_lock(&future.c.qlock)
        waiting = future.r.state != REQ_DONE
        if waiting:
            if future.r.waker != self.waker:
                if future.r.waker != NULL:
                    waker_drop(future.r.waker)
                kv_add_int(&self.waker.refs, 1)
                future.r.waker = self.waker
        kv_mutex_unlock(&future.c.qlock)
        if not waiting:
            self.pending.remove((future, target))
        return waiting

    def ready(self):
        """Empties the pipe and delivers every future that is done."""
        os.read(self.read_fd, 4096)
        kv_store_int(&self.waker.signalled, 0)
        waiting = self.pending
        for _ in range(len(waiting)):
            future, target = waiting[0]
            if (<Future>future).done():
                waiting.popleft()
                self.deliver(future, target)
            else:
                waiting.rotate(-1)


def _settle_waiter(Future future not None, waiter):
    """Hands a finished operation's outcome to an asyncio future."""
    if waiter.done():                    # cancelled meanwhile: the operation ran all the same
        return
    try:
        waiter.set_result(future.result())
    except Error as error:
        waiter.set_exception(error)


_by_loop = {}


def _loop_wakeups(loop):
    for old in [known for known in _by_loop if known.is_closed()]:
        del _by_loop[old]
    wakeups = _by_loop.get(loop)
    if wakeups is None:
        wakeups = Wakeups(_settle_waiter)
        os.set_blocking(wakeups.read_fd, True)
        loop.add_reader(wakeups.read_fd, wakeups.ready)
        _by_loop[loop] = wakeups
    return wakeups


_callback_wakeups = None


def _call_back(future, fn):
    fn(future)


def _callback_main(wakeups):
    while True:
        wakeups.ready()


def _callbacks():
    global _callback_wakeups
    if _callback_wakeups is None:
        _callback_wakeups = Wakeups(_call_back)
        Thread(target=_callback_main, args=(_callback_wakeups,), name="kvcore-callbacks",
               daemon=True).start()
    return _callback_wakeups
