# SPDX-License-Identifier: Apache-2.0
"""Futures of submitted operations."""

from kvcore._commit cimport Commit, Request
from kvcore._rows cimport Rows
from kvcore._wakeups cimport Wakeups
from kvcore._pin cimport Pin


cdef class Future:
    cdef Commit* c
    cdef Request* r              # NULL: was answered at once
    cdef object owner            # the store: keeps c alive
    cdef Pin pin
    cdef Rows rows               # of the request's result, once it was asked for
    cdef object answer
    cdef bint answered
    cdef int fork_generation
    cdef int _usable(self) except -1
    cdef int settle(self) except -1
    cdef bint attach(self, Wakeups wakeups, object function, object argument) except -1


# The exception for a finished request, if it failed.  REQUIRES: the GIL.
cdef int raise_result(Request* r) except -1
cdef Future make_future(object owner, Commit* c, Request* r, Pin pin)
cdef Future ready_future(object answer)
