# SPDX-License-Identifier: Apache-2.0
"""Futures: what submit() returns, for threads, callbacks and asyncio alike.

    submit ─ Request ─► native committer (never takes the GIL) ─► done ─► waker ─► event loop
                ▲                                                            └──► callback thread
             Future.result() waits on the request's own condition, without the GIL

One descriptor serves one event loop or the callback thread (_wakeups): a batch writes to it once,
however many wait for it.  Thread safety: a Future may be asked from any thread.
Ownership: request and future each hold one reference; a future dropped early loses nothing.
May not know: the index, verbs.
"""

import logging
import os
from asyncio import get_running_loop
from select import POLLIN, poll
from threading import Lock, Thread

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint64_t

from kvcore._commit cimport REQ_DONE, Commit, Request, commit_await, request_drop
from kvcore._native cimport (KV_COMPACTED, KV_OK, kv_fork_generation, kv_fork_watch, kv_mutex_lock,
                             kv_mutex_unlock, kv_raise)
from kvcore._result cimport make_answer_over, make_put
from kvcore._rows cimport Rows, rows_init
from kvcore._wakeups cimport Ready, Wakeups, loop_wakeups, ready_free, ready_new

from kvcore.errors import Error, ForkedError

kv_fork_watch()


cdef int raise_result(Request* r) except -1:
    if r.res.status == KV_OK:
        return 0
    return kv_raise(r.res.status, r.res.detail if r.res.detail or r.res.status == KV_COMPACTED
                    else None)


cdef Future make_future(object owner, Commit* c, Request* r, Pin pin):
    cdef Future f = Future.__new__(Future)
    f.owner = owner
    f.c = c
    f.r = r
    f.pin = pin
    f.fork_generation = kv_fork_generation()
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

    @cython.critical_section
    cdef int settle(self) except -1:
        """Makes the Python answer of a finished request, once."""
        cdef Rows rows
        if self.answered:
            return 0
        raise_result(self.r)
        if self.r.res.n == 0:
            self.answer = make_put(self.r.res.revision, None)
        else:
            # Making objects may run a finalizer that asks this very future: the rows move once,
            # with nothing made between look and move, and building over them is repeatable.
            rows = Rows.__new__(Rows)
            if self.rows is None:
                rows.c = self.r.res.rows
                rows_init(&self.r.res.rows)
                self.rows = rows
            answer = make_answer_over(&self.r.res, self.rows, self.pin)
            if not self.answered:
                self.answer = answer
        self.answered = True
        return 0

    cdef bint attach(self, Wakeups wakeups, object function, object argument) except -1:
        """function(self, argument) will be called there; False when the future is done already."""
        cdef Ready* ref = ready_new(wakeups.waker, (function, self, argument))
        cdef bint waiting
        kv_mutex_lock(&self.c.qlock)
        waiting = self.r.state != REQ_DONE
        if waiting:
            ref.next = self.r.wakers
            self.r.wakers = ref
        kv_mutex_unlock(&self.c.qlock)
        if not waiting:
            ready_free(ref)
        return waiting

    cdef int _usable(self) except -1:
        if self.r == NULL and not self.answered:
            raise TypeError("Future objects come from Store.submit")
        if self.r != NULL and self.fork_generation != kv_fork_generation():
            raise ForkedError()
        return 0

    def done(self):
        """Whether the operation has finished, well or not."""
        cdef bint done
        self._usable()
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
        cdef bint done
        self._usable()
        done = self.r == NULL
        if timeout is not None:
            if timeout != timeout:
                raise ValueError("timeout must be a number of seconds, not NaN")
            left = <uint64_t>(min(max(timeout, 0), 1e9) * 1e9)      # thirty years are for ever
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
        """Calls fn(self) once done: now, or later from kvcore's callback thread.

        What it raises is logged (logger "kvcore"), as concurrent.futures does.
        """
        if self.done() or not self.attach(_callbacks(), _call_back, fn):
            _call_back(self, fn)

    def __await__(self):
        loop = get_running_loop()
        waiter = loop.create_future()
        if self.done() or not self.attach(loop_wakeups(loop), _settle_waiter, waiter):
            _settle_waiter(self, waiter)
        return waiter.__await__()

    def __repr__(self):
        if self.r == NULL and not self.answered:
            return "<Future>"
        if self.r != NULL and self.fork_generation != kv_fork_generation():
            return "<Future of another process>"
        if not self.done():
            return "<Future pending>"
        error = self.exception()
        return "<Future done>" if error is None else f"<Future done, failed: {error!r}>"

    def __reduce__(self):
        raise TypeError("a future cannot be pickled; pickle its result()")


def _settle_waiter(Future future not None, waiter):
    """Hands a finished operation's outcome to an asyncio future."""
    if waiter.done():                    # cancelled meanwhile: the operation ran all the same
        return
    try:
        answer = future.result()
    except BaseException as error:
        waiter.set_exception(error)
    else:
        waiter.set_result(answer)


_log = logging.getLogger("kvcore")


def _call_back(future, fn):
    try:
        fn(future)
    except Exception:
        _log.exception("exception calling a callback of %r", future)


_callback_wakeups = None
_callback_lock = Lock()


def _callback_main(wakeups):
    waiting = poll()
    waiting.register(wakeups.read_fd, POLLIN)
    while True:
        waiting.poll()
        wakeups.ready()


def _after_fork_in_child():
    """The callback thread is the parent's."""
    global _callback_wakeups, _callback_lock
    _callback_wakeups = None
    _callback_lock = Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _callbacks():
    global _callback_wakeups
    with _callback_lock:
        if _callback_wakeups is None:
            _callback_wakeups = Wakeups()
            Thread(target=_callback_main, args=(_callback_wakeups,), name="kvcore-callbacks",
                   daemon=True).start()
        return _callback_wakeups
