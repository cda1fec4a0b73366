# SPDX-License-Identifier: Apache-2.0
"""A clock that stands still until a test moves it.

    test --advance(s)--> one u64 of nanoseconds <--now_ns-- any thread of the core, without the GIL

Invariants: (whole) a reader sees the time before a step or behind it, never a part of it.
Thread safety & ownership: read by any thread, moved by those that hold the GIL; whoever stores
the table keeps the object.  May not know: what is timed with it.
"""

from libc.stdint cimport uint64_t

from kvcore._native cimport Clock, KvClock, kv_load_u64, kv_store_u64

_SECOND = 1_000_000_000


cdef uint64_t _now_ns(void* ctx) noexcept nogil:
    return kv_load_u64(<uint64_t*>ctx)


cdef uint64_t _nanoseconds(seconds) except? 0:
    if seconds < 0:
        raise ValueError(f"seconds must not be negative, got {seconds!r}")
    return round(seconds * _SECOND)


cdef class ManualClock(Clock):
    """A clock for tests: it tells the time it was set to.

    Args: seconds, a number >= 0, the time it begins with; kept in whole nanoseconds.
    Errors: ValueError when negative or not a number, OverflowError beyond 584 years.
    Thread safety: any method from any thread.

    >>> clock = ManualClock(1.5)
    >>> clock.advance(0.25)
    >>> clock.seconds, clock.now_ns()
    (1.75, 1750000000)
    """

    cdef KvClock own
    cdef uint64_t ns

    def __cinit__(self, seconds=0.0):
        self.ns = _nanoseconds(seconds)
        self.own.ctx = &self.ns
        self.own.now_ns = _now_ns
        self.table = &self.own

    @property
    def seconds(self):
        """The time, in seconds."""
        return kv_load_u64(&self.ns) / _SECOND

    def advance(self, seconds):
        """Moves the time forward by `seconds` >= 0.  Errors: the class's."""
        total = kv_load_u64(&self.ns) + <object>_nanoseconds(seconds)
        kv_store_u64(&self.ns, total)

    def set(self, seconds):
        """Sets the time to `seconds` >= 0; it may go back.  Errors: the class's."""
        kv_store_u64(&self.ns, _nanoseconds(seconds))

    def __repr__(self):
        return f"ManualClock({self.seconds!r})"
