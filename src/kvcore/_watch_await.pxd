# SPDX-License-Identifier: Apache-2.0
"""The next response of a watch, awaited by one task."""

from kvcore._watch cimport Watch
from kvcore._watchers cimport Waiter


cdef class NextResponse:
    cdef Watch watch
    cdef Waiter x
    cdef bint armed              # x.ready is initialised
    cdef object future
    cdef int _disarm(self) except -1
    cdef bint _park(self) except -1


cdef NextResponse make_next(Watch watch)
