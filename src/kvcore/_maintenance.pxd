# SPDX-License-Identifier: Apache-2.0
"""Background work: checkpoints, sweeps, expiry, progress.  See docs/concurrency.md."""

from libc.stdint cimport uint64_t

from kvcore._commit cimport Commit

# One bounded piece of background work; True when there is more.
cdef bint maint_step(Commit* c, uint64_t now_ns, uint64_t budget) noexcept nogil
# A piece of one: called with the same *mine (0 at first) until *done.  One that is under way is
# finished first: it may be older than the caller's last write.
cdef int maint_checkpoint(Commit* c, uint64_t* mine, bint* done) noexcept nogil
cdef int maint_start(Commit* c) noexcept nogil           # the thread
cdef void maint_wake(Commit* c) noexcept nogil
cdef void maint_stop(Commit* c) noexcept nogil           # this thread and the native committer
