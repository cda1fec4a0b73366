# SPDX-License-Identifier: Apache-2.0
"""What a watch delivers: events, responses, batches; and the cache that shares events."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from kvcore._native cimport KvVersion
from kvcore._result cimport KeyValue
from kvcore._ring cimport RingRecord
from kvcore._rows cimport Rows
from kvcore._pin cimport Pin


cdef class Event:
    cdef RingRecord rec
    cdef KvVersion before        # the version it replaced; version 0: unknown or none
    cdef uint64_t seq            # in the ring; in `rows` when there are some
    cdef Rows rows
    cdef Pin pin
    cdef KeyValue _kv
    cdef KeyValue _prev
    cdef bytes key_of(self)
    cdef KeyValue prev_of(self, bytes key)


cdef class WatchResponse:
    cdef readonly int64_t revision
    cdef readonly tuple events


cdef class EventBatch:
    cdef RingRecord* recs
    cdef uint64_t* seqs
    cdef KvVersion* before       # NULL: previous versions were not asked for
    cdef uint64_t n
    cdef Rows rows
    cdef Pin pin
    cdef EventCache cache
    cdef readonly int64_t revision
    cdef Event at(self, uint64_t i)


# Events of the ring that several watchers get, made once.
cdef class EventCache:
    cdef list slots
    cdef uint64_t epoch          # of the log, of the events kept
    cdef void clear(self)
    cdef Event known(self, uint64_t slot, uint64_t seq, uint64_t epoch)
    cdef void keep(self, uint64_t slot, Event e)


cdef Event make_event(EventCache cache, const RingRecord* rec, uint64_t seq, Rows rows, Pin pin,
                      const KvVersion* before)
cdef WatchResponse make_response(int64_t revision, tuple events)
