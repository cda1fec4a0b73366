# SPDX-License-Identifier: Apache-2.0
"""Events, the responses and batches they come in, and the cache that shares them.

    ring record ─ make_event ─► Event ─ .kv touched ─► KeyValue: key and value from the cell
    history row ─ make_event ─► Event ─ .kv touched ─► KeyValue: key from the rows

An event that a thousand watchers get is one object: made, read and verified once.
Invariants: shared - an event of the cache was made for this sequence number and with, or without,
its previous version; immutable - nothing seen once changes.
Thread safety: immutable but for caches filled once.  Ownership: an event keeps the log's mappings.
May not know: index, hub, engine.
"""

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from kvcore._native cimport KvVersion, kv_load_u64
from kvcore._result cimport KeyValue, make_lazy_kv, read_cell
from kvcore._ring cimport RingRecord
from kvcore._rows cimport Rows
from kvcore._pin cimport Pin

cdef enum:
    CACHE_SLOTS = 1024           # recent events shared
    SHARED_BYTES = 16384         # larger values are read again by each, not kept


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class Event:
    """One change of one key.

    Attributes: type ("PUT" or "DELETE"), kv (of a deletion: key and mod_revision only), prev_kv
    (the version replaced, when the watch asked for it and it is not compacted), is_create.
    """

    def __init__(self):
        raise TypeError("Event objects come from a watch")

    def __reduce__(self):
        return (_restore_event, (self.kv, self.prev_kv))

    @property
    def type(self):
        """"PUT" or "DELETE"."""
        return "PUT" if self.rec.version else "DELETE"

    @property
    def is_create(self):
        """Whether the put began a generation of the key."""
        return self.rec.version == 1

    cdef bytes key_of(self):
        cdef list found
        if self.rows is not None:
            return self.rows.key_at(self.seq)
        found = []
        read_cell(self.pin, self.rec.pos, self.rec.key_len, self.rec.len, found)
        return <bytes>found[0]

    @property
    @cython.critical_section
    def kv(self):
        """The key as it is now; value and key are read, and verified, when first touched."""
        cdef KvVersion v
        cdef KeyValue kv
        if self._kv is None:
            memset(&v, 0, sizeof(KvVersion))
            v.mod = self.rec.mod
            if self.rec.version == 0:
                kv = make_lazy_kv(self.key_of(), None, 0, &v, self.pin)
                kv._value = b""
            else:
                v.create = self.rec.create
                v.version = self.rec.version
                v.lease = self.rec.lease
                v.pos = self.rec.pos
                v.len = self.rec.len
                kv = make_lazy_kv(None, self.rows,
                                  self.seq if self.rows is not None else self.rec.key_len, &v,
                                  self.pin)
            self._kv = kv
        return self._kv

    @property
    def prev_kv(self):
        """The version before this change, or None."""
        return self.prev_of(self.kv.key) if self.before.version else None

    @cython.critical_section
    cdef KeyValue prev_of(self, bytes key):
        if self._prev is None:
            self._prev = make_lazy_kv(key, None, 0, &self.before, self.pin)
        return self._prev

    def __eq__(self, other):
        if not isinstance(other, Event):
            return NotImplemented
        return (self.type == other.type and self.kv == other.kv
                and self.prev_kv == other.prev_kv)

    def __hash__(self):
        return hash((self.rec.mod, self.kv.key))

    def __repr__(self):
        prev = f", prev_kv={self.prev_kv!r}" if self.before.version else ""
        return f"Event({self.type}, {self.kv!r}{prev})"


def _restore_event(KeyValue kv not None, KeyValue prev):
    """A pickled Event: one that has read what it tells, and knows no log."""
    cdef Event e = Event.__new__(Event)
    e.rec.mod = kv.v.mod
    e.rec.create = kv.v.create
    e.rec.version = kv.v.version
    e.rec.lease = kv.v.lease
    e._kv = kv
    if prev is not None:
        e.before = prev.v
        e._prev = prev
    return e


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class WatchResponse:
    """All events of one revision that a watch asked for; or, without events, progress.

    Attributes: revision; events (tuple, in the order of the changes); is_progress: every event up
    to `revision` was delivered before.
    """

    def __init__(self):
        raise TypeError("WatchResponse objects come from a watch")

    def __reduce__(self):
        return (_restore_response, (self.revision, self.events))

    @property
    def is_progress(self):
        """Whether it only says how far the watch is."""
        return not self.events

    def __eq__(self, other):
        if not isinstance(other, WatchResponse):
            return NotImplemented
        return self.revision == other.revision and self.events == other.events

    __hash__ = None

    def __repr__(self):
        if not self.events:
            return f"<WatchResponse: progress, revision {self.revision}>"
        return f"<WatchResponse: {len(self.events)} events of revision {self.revision}>"


def _restore_response(int64_t revision, tuple events not None):
    """A pickled WatchResponse."""
    return make_response(revision, events)


cdef WatchResponse make_response(int64_t revision, tuple events):
    cdef WatchResponse r = WatchResponse.__new__(WatchResponse)
    r.revision = revision
    r.events = events
    return r


@cython.final
@cython.no_gc
cdef class EventBatch:
    """A sequence of Event: whole revisions, in order; objects are made for what is looked at.

    Attributes: revision: every event up to it is in this batch or was delivered before.
    """

    def __init__(self):
        raise TypeError("EventBatch objects come from a watch")

    def __reduce__(self):
        raise TypeError("an EventBatch cannot be pickled, its values lie in the store's log; "
                        "pickle list(batch)")

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __dealloc__(self):
        free(self.recs)
        free(self.seqs)
        free(self.before)

    cdef Event at(self, uint64_t i):
        return make_event(self.cache, &self.recs[i], self.seqs[i], self.rows, self.pin,
                          &self.before[i] if self.before != NULL else NULL)

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        cdef int64_t k
        if isinstance(i, slice):
            return [self.at(j) for j in range(*i.indices(self.n))]
        k = i
        if k < 0:
            k += <int64_t>self.n
        if k < 0 or k >= <int64_t>self.n:
            raise IndexError("EventBatch index out of range")
        return self.at(k)

    def __iter__(self):
        cdef uint64_t i
        for i in range(self.n):
            yield self.at(i)

    def keys(self):
        """The events' keys, as a list of bytes."""
        cdef uint64_t i
        return [self.at(i).key_of() for i in range(self.n)]

    @property
    def mod_revisions(self):
        """int64 array (n,): each event's revision."""
        import numpy
        cdef uint64_t i
        cdef int64_t[::1] view
        out = numpy.empty(self.n, dtype=numpy.int64)
        view = out
        for i in range(self.n):
            view[i] = self.recs[i].mod
        out.flags.writeable = False
        return out

    def __repr__(self):
        return f"<EventBatch of {self.n} events, complete up to revision {self.revision}>"


@cython.final
@cython.no_gc
cdef class EventCache:
    """Direct-mapped by sequence number; a newer event takes the place of an older."""

    def __cinit__(self):
        self.slots = [None] * CACHE_SLOTS

    @cython.critical_section
    cdef void clear(self):
        cdef list old = self.slots
        self.slots = [None] * CACHE_SLOTS
        del old

    def forget(self):
        """Drops all of them: they hold segments that were retired."""
        self.clear()

    @cython.critical_section
    cdef Event known(self, uint64_t slot, uint64_t seq, uint64_t epoch):
        """The event of that number, or None."""
        cdef Event e
        if self.epoch < epoch:               # what is kept there holds segments that were retired
            self.clear()
            self.epoch = epoch
        found = self.slots[slot]
        if found is None:
            return None
        e = <Event>found
        return e if e.seq == seq else None

    @cython.critical_section
    cdef void keep(self, uint64_t slot, Event e):
        self.slots[slot] = e


cdef Event make_event(EventCache cache, const RingRecord* rec, uint64_t seq, Rows rows, Pin pin,
                      const KvVersion* before):
    cdef bint shared = (rows is None and rec.note > 1 and rec.len <= SHARED_BYTES
                        and pin.number == kv_load_u64(&pin.log.c.epoch_number))
    cdef uint64_t slot = (2 * seq + (before != NULL)) % CACHE_SLOTS
    cdef Event e
    if shared:
        e = cache.known(slot, seq, pin.number)
        if e is not None:
            return e
    e = Event.__new__(Event)
    e.rec = rec[0]
    e.seq = seq
    e.rows = rows
    e.pin = pin
    if before != NULL:
        e.before = before[0]
    if shared:
        cache.keep(slot, e)
    return e
