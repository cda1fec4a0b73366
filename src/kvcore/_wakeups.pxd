# SPDX-License-Identifier: Apache-2.0
"""Wake-ups of event loops: what became ready, and the one descriptor a loop polls for it."""

from libc.stdint cimport uint64_t

from kvcore._native cimport KvMutex


# Something that a loop waits for.  Guarded by the waker's lock.
cdef struct Ready:
    Ready* next
    Ready* prev
    Waker* waker                 # counted
    void* target                 # a tuple (function, argument, argument); counted
    bint listed                  # became ready and was not taken yet
    bint disposable              # the taker frees it; else it is part of something that lives on


# A descriptor somebody polls, and what became ready since they looked.  Reference counted.
cdef struct Waker:
    KvMutex lock
    int refs
    int fd
    Ready* head
    Ready* tail


cdef Ready* ready_new(Waker* w, object target) except NULL      # a disposable one
cdef void ready_init(Ready* r, Waker* w, void* target) noexcept  # REQUIRES: the GIL
cdef void ready_free(Ready* r) noexcept                          # REQUIRES: the GIL; not listed
# Lists it, and makes the descriptor readable if it was the first.
cdef void ready_fire(Ready* r) noexcept nogil
cdef void ready_take_back(Ready* r) noexcept nogil               # if it is listed


cdef class Wakeups:
    cdef Waker* waker
    cdef readonly int read_fd
    cdef int fork_generation
    cdef bint _pop(self, void** target) noexcept


# The running loop's, made when first asked for.
cdef Wakeups loop_wakeups(object loop)
