# SPDX-License-Identifier: Apache-2.0
"""`kvcore.WatchCache`: the recent events of one resource, for watchers that resume from a version.

    add_event ─► checked, packed ─► record into the ring ─┬► events_since(version): copied out in
                 its log kept, or key and value to arena  │   slices, made into objects when touched
                    clock ─► interval ─► compaction ──────┘  CompactedError: older than what is kept

A store's event costs its record of 48 bytes: key and value stay where they lie in the store's log.
What lies elsewhere is copied into the ring's arena: a Kubernetes watch event (key, and its object
as msgpack), a deletion read from history, and the events of a second store.  No Python object is
kept.

Invariants (`_check`): the ring's; versions - no record is newer than `newest`, none is added that
is older; one-log - a record marked IN_LOG lies in `log`, which is set once; ceiling - at most 200 %
of capacity are held when nobody is adding.

Estimate (measured): a record and 8 bytes a chunk, 5 MB for 100,000 events beside their payload
(4.8; 7.1 with pods in the arena), 10 at the ceiling.  Adding a store's event 0.1 us (0.10), a pod
of 1.5 KB 10 us (17), nearly all of it msgpack; a call of events_since 1 us (0.17), and 0.1 us an
event (0.02 for a hundred, 0.11 for 100,000).
Thread safety: one mutex; nobody takes the GIL while holding it, and nobody waits for it with the
GIL.  Ownership: what events_since returns is a copy; it and the cache keep the log's mappings.
May not know: stores, watches, how an event came here.
"""

import collections
import operator
from collections.abc import Mapping

import msgpack

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from kvcore._event cimport Event
from kvcore._native cimport (
    KV_COMPACTED, KV_KEY_MAX_BYTES, KV_NOMEM, KV_OK, Clock, KvClock, KvMutex, kv_fork_generation,
    kv_fork_watch, kv_monotonic_clock, kv_mutex_destroy, kv_mutex_init, kv_mutex_lock,
    kv_mutex_trylock, kv_mutex_unlock, kv_raise,
)
from kvcore._pin cimport Pin
from kvcore._result cimport read_cell
from kvcore._ring cimport (
    RING_FULL, RING_INCREMENTAL, RING_MIN_CAPACITY, Ring, RingRecord, ring_after, ring_at,
    ring_check, ring_deinit, ring_due, ring_init, ring_payload, ring_payload_at, ring_push,
    ring_trim,
)
from kvcore._wal cimport Log

from kvcore._native import MONOTONIC
from kvcore.errors import (
    CompactedError, ForkedError, InvalidArgument, KeyTooLargeError, RequestTooLargeError,
)

kv_fork_watch()

cdef enum:
    SLICE_RECORDS = 4096         # copied under one hold of the lock, and kept alive together
    SLICE_BYTES = 1 << 20
    KIND_PUT = 0                 # of a record's note; indexes of _KINDS
    KIND_DELETE = 1
    KIND_OBJECT = 2              # kinds from here on are Kubernetes'
    KIND_BOOKMARK = 5            # is no record
    KIND_MASK = 7
    IN_LOG = 8                   # flag in the note: pos is a cell of the log
    OLDER = 1                    # why an event is refused; no kv_status

_KINDS = ("PUT", "DELETE", "ADDED", "MODIFIED", "DELETED", "BOOKMARK")
_KIND_OF = {name: number for number, name in enumerate(_KINDS) if number >= KIND_OBJECT}
_POLICIES = {"incremental": RING_INCREMENTAL, "full": RING_FULL}
_MAX_CAPACITY = 1 << 40
_MAX_INTERVAL = 1e9              # seconds; longer ones are as good as this
_NO_METADATA = "event object has no readable metadata"

WatchCacheStats = collections.namedtuple(
    "WatchCacheStats", "length capacity bytes peak_bytes payload_bytes compactions dropped "
    "longest_pause oldest_version newest_version", module=__name__)
WatchCacheStats.__doc__ = """What a watch cache holds and did; a plain tuple.

length, capacity, dropped: events; bytes: held now, the arena included; peak_bytes: the most ever,
both copies of a rebuild counted; payload_bytes: keys and values of the events kept, those in a
store's log, which are no part of bytes, included (a deletion may count the cell that names its
key); compactions; longest_pause: seconds the longest compaction took; oldest_version: of the events
kept, 0: none; newest_version: of events and bookmarks.
"""


# ---- what events say -----------------------------------------------------------------------------

cdef int64_t _version_of(metadata) except -1:
    version = metadata.get("resourceVersion")
    if version is None or version == "":
        raise InvalidArgument("resource version is empty")
    if isinstance(version, str) and version.isascii() and version.isdigit() and len(version) < 20:
        number = int(version)
    elif type(version) is int:
        number = version
    else:
        raise InvalidArgument(f"resource version is not a number: {version!r}")
    if not 0 < number < 1 << 63:
        raise InvalidArgument(f"resource version is out of range: {version!r}")
    return number


cdef bytes _key_of(metadata):
    """"namespace/name", or "name" of what has no namespace."""
    name = metadata.get("name")
    namespace = metadata.get("namespace")
    if not isinstance(name, str) or not name or not isinstance(namespace, str | None):
        raise InvalidArgument(_NO_METADATA)
    try:
        return (f"{namespace}/{name}" if namespace else name).encode()
    except UnicodeEncodeError:
        raise InvalidArgument(_NO_METADATA) from None


cdef bytes _pack(obj):
    try:
        return msgpack.packb(obj if isinstance(obj, dict) else dict(obj))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgument(f"event object cannot be kept: {error}") from None


# ---- what is copied out --------------------------------------------------------------------------

cdef struct Reading:             # one call of events_since
    int64_t since
    uint64_t limit               # 0: none
    uint64_t taken
    uint64_t seq                 # next to take; from here on set by the first slice
    uint64_t end
    int64_t mod                  # version taken last; 0: none
    int64_t dropped_mod


@cython.final
@cython.no_gc
cdef class _Slice:
    """Records of an answer, and the payload of those that are in no log; its events share it."""

    cdef RingRecord* recs        # pos of a record that is not IN_LOG: offset in data
    cdef uint64_t n
    cdef uint8_t* data
    cdef Pin pin                 # of what the others lie in

    def __dealloc__(self):
        free(self.recs)
        free(self.data)

    cdef int copy(self, const Ring* r, Reading* q) noexcept nogil:
        """From q.seq on; q.end comes down to where there are enough.  REQUIRES: the lock"""
        cdef uint64_t i = q.seq, used = 0, n
        cdef RingRecord* out
        while i < q.end and i - q.seq < SLICE_RECORDS and used < SLICE_BYTES:
            out = ring_at(r, i)
            if q.limit and q.taken >= q.limit and out.mod != q.mod:
                q.end = i                    # enough, and the version is whole
                break
            q.mod = out.mod
            q.taken += 1
            if not out.note & IN_LOG:
                used += <uint64_t>out.key_len + out.len
            i += 1
        self.recs = <RingRecord*>malloc((i - q.seq) * sizeof(RingRecord) + 1)
        self.data = <uint8_t*>malloc(used + 1)
        if self.recs == NULL or self.data == NULL:
            return KV_NOMEM
        used = 0
        while q.seq < i:
            out = &self.recs[self.n]
            out[0] = ring_at(r, q.seq)[0]
            if not out.note & IN_LOG:
                n = <uint64_t>out.key_len + out.len
                if n:
                    memcpy(self.data + used, ring_payload_at(r, out.pos), n)
                out.pos = used
                used += n
            self.n += 1
            q.seq += 1
        return KV_OK

    cdef int add_events(self, list events) except -1:
        cdef CachedEvent event
        cdef uint64_t i
        for i in range(self.n):
            event = CachedEvent.__new__(CachedEvent)
            event.slice = self
            event.index = i
            events.append(event)
        return 0


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class CachedEvent:
    """An event out of a watch cache; a copy, made into Python objects when touched.

    Attributes: type ("PUT", "DELETE", "ADDED", "MODIFIED", "DELETED"), key (bytes; "namespace/name"
    of a Kubernetes object), resource_version (int), value (bytes; of a Kubernetes object its
    msgpack form, of a "DELETE" b""), object (of a Kubernetes event what it was about, decoded anew
    each time; of a store's event None).
    Errors: CorruptError when what lies in a store's log does not agree with its checksum.
    Memory: up to 4,096 events of one answer share a piece of it, which goes with the last of them.

    >>> cache = WatchCache("pods")
    >>> cache.add_event({"type": "ADDED", "object": {
    ...     "metadata": {"namespace": "shop", "name": "cart", "resourceVersion": "7"}}})
    >>> [event] = cache.events_since(0)
    >>> event.type, event.key, event.resource_version, event.object["metadata"]["name"]
    ('ADDED', b'shop/cart', 7, 'cart')
    """

    cdef _Slice slice
    cdef uint64_t index
    cdef bytes _key
    cdef bytes _value

    def __init__(self):
        raise TypeError("CachedEvent objects come from a watch cache")

    cdef RingRecord* rec(self) except NULL:
        if self.slice is None:
            raise TypeError("CachedEvent objects come from a watch cache")
        return &self.slice.recs[self.index]

    @cython.critical_section
    cdef int read(self) except -1:
        """Key and value, once."""
        cdef RingRecord* rec = self.rec()
        cdef const char* data
        cdef list found = []
        if self._key is not None:
            return 0
        if rec.note & IN_LOG:
            read_cell(self.slice.pin, rec.pos, rec.key_len, rec.len, found)
            self._value = b"" if rec.note & KIND_MASK == KIND_DELETE else <bytes>found[1]
            self._key = <bytes>found[0]
            return 0
        data = <const char*>self.slice.data + rec.pos
        self._value = PyBytes_FromStringAndSize(data + rec.key_len, rec.len)
        self._key = PyBytes_FromStringAndSize(data, rec.key_len)
        return 0

    @property
    def type(self):
        """What happened."""
        return _KINDS[self.rec().note & KIND_MASK]

    @property
    def key(self):
        """Whom it happened to."""
        self.read()
        return self._key

    @property
    def resource_version(self):
        """The version, or revision, at which it happened."""
        return self.rec().mod

    @property
    def value(self):
        """The bytes that are kept: a store's value, or the object as msgpack."""
        self.read()
        return self._value

    @property
    def object(self):
        """The Kubernetes object, a new one each time; None for a store's event."""
        if self.rec().note & KIND_MASK < KIND_OBJECT:
            return None
        return msgpack.unpackb(self.value, strict_map_key=False)

    def __eq__(self, other):
        if not isinstance(other, CachedEvent):
            return NotImplemented
        return (self.resource_version == other.resource_version and self.type == other.type
                and self.key == other.key and self.value == other.value)

    def __hash__(self):
        return hash((self.rec().mod, self.key))

    def __reduce__(self):
        raise TypeError("a CachedEvent cannot be pickled; take its type, key, resource_version "
                        "and value")

    def __repr__(self):
        return (f"<CachedEvent {self.type} {self.key!r} at {self.resource_version}, "
                f"{len(self.value)} bytes>")


# ---- the cache -----------------------------------------------------------------------------------

cdef struct Counters:
    uint64_t length
    uint64_t bytes
    uint64_t peak_bytes
    uint64_t payload_bytes
    uint64_t compactions
    uint64_t dropped
    uint64_t pause_ns
    int64_t oldest
    int64_t newest


@cython.final
cdef class WatchCache:
    """The recent events of one resource, in the order of their versions.

    Args: resource, its name (str); capacity, events kept, at least 100; compaction_interval,
    seconds between two compactions at least; policy: "incremental" drops the oldest in place,
    "full" copies what is kept, to compare with; clock: another one than the system's.

    When more than 110 % of capacity are held and the interval has passed, the oldest are dropped so
    that 90 % remain; at more than 200 % whatever the interval says.

    Errors: ValueError for a capacity, interval or policy that cannot be; TypeError.
    Memory: 48 bytes an event, and the key and value of those that are not in a store's log; the log
    of the first store's event added is kept open for reading as long as the cache is there.
    Thread safety: any method from any thread; in a forked child ForkedError.
    Source: the Kubernetes API server keeps such a cache for each resource it serves.

    >>> cache = WatchCache("configmaps", capacity=1000)
    >>> for n in (1, 2, 3):
    ...     cache.add_event({"type": "MODIFIED", "object": {
    ...         "metadata": {"namespace": "shop", "name": "prices", "resourceVersion": str(n)}}})
    >>> [event.resource_version for event in cache.events_since(1)]
    [2, 3]
    >>> cache
    <kvcore.WatchCache 'configmaps': 3 of 1000 events, newest version 3>
    """

    cdef Ring ring
    cdef KvMutex guard
    cdef readonly str resource
    cdef Clock clock
    cdef const KvClock* table         # the clock's
    cdef Log log                      # of the records that are IN_LOG; set once
    cdef list pins                    # of that log: (first sequence number, Pin), in order
    cdef int fork_generation
    cdef int64_t newest
    cdef uint64_t longest_pause_ns

    def __cinit__(self, str resource not None, capacity=100_000, compaction_interval=30.0,
                  policy="incremental", Clock clock=None):
        kv_mutex_init(&self.guard)
        self.pins = []
        self.fork_generation = kv_fork_generation()
        capacity = operator.index(capacity)
        if capacity < RING_MIN_CAPACITY:
            raise ValueError(f"watch cache capacity must be at least 100, got {capacity}")
        if capacity > _MAX_CAPACITY:
            raise ValueError(f"watch cache capacity must be at most {_MAX_CAPACITY}, "
                             f"got {capacity}")
        if not compaction_interval >= 0:
            raise ValueError(f"compaction_interval must be at least 0, got {compaction_interval}")
        if not isinstance(policy, str) or policy not in _POLICIES:
            raise ValueError(f'policy must be "incremental" or "full", got {policy!r}')
        self.resource = resource
        self.clock = MONOTONIC if clock is None else clock
        self.table = self.clock.table
        kv_raise(ring_init(&self.ring, capacity, _POLICIES[policy],
                           round(min(compaction_interval, _MAX_INTERVAL) * 1e9)))

    def __dealloc__(self):
        ring_deinit(&self.ring)
        if self.fork_generation == kv_fork_generation():
            kv_mutex_destroy(&self.guard)

    cdef int _alive(self) except -1:
        if self.fork_generation != kv_fork_generation():
            raise ForkedError("kvcore: used after fork; make the watch cache where it is used")
        return 0

    # --- REQUIRES: the lock, and not the GIL ------------------------------------------------------

    cdef int _append(self, RingRecord* rec, const uint8_t* key,
                     const uint8_t* value) noexcept nogil:
        """KV_OK, KV_NOMEM, or OLDER; then nothing changed."""
        cdef uint8_t* room
        cdef int status = KV_OK
        if rec.mod < self.newest:
            return OLDER
        if rec.note != KIND_BOOKMARK:
            if not rec.note & IN_LOG:
                room = ring_payload(&self.ring, <uint64_t>rec.key_len + rec.len, &rec.pos)
                if room == NULL:
                    return KV_NOMEM
                memcpy(room, key, rec.key_len)
                memcpy(room + rec.key_len, value, rec.len)
            status = ring_push(&self.ring, rec)
        if status == KV_OK:
            self.newest = rec.mod
        return status

    cdef void _compact(self, uint64_t now_ns) noexcept nogil:
        """If it is due.  A rebuild that is refused memory drops in place: the ceiling holds."""
        cdef uint64_t began
        if ring_due(&self.ring, now_ns):
            began = kv_monotonic_clock.now_ns(NULL)
            ring_trim(&self.ring, now_ns)
            self.longest_pause_ns = max(self.longest_pause_ns,
                                        kv_monotonic_clock.now_ns(NULL) - began)

    cdef int _read(self, Reading* q, _Slice slice, bint first) noexcept nogil:
        """The next slice; KV_COMPACTED when what comes next was dropped."""
        q.dropped_mod = self.ring.dropped_mod
        if first:
            if q.since < q.dropped_mod:
                return KV_COMPACTED
            q.seq = ring_after(&self.ring, q.since)
            q.end = self.ring.next
        if q.seq < self.ring.first:          # overtaken between two slices
            return KV_COMPACTED
        return slice.copy(&self.ring, q)

    cdef void _count(self, Counters* c) noexcept nogil:
        c.length = self.ring.next - self.ring.first
        c.bytes = self.ring.bytes
        c.peak_bytes = self.ring.peak_bytes
        c.payload_bytes = self.ring.payload_bytes
        c.compactions = self.ring.compactions
        c.dropped = self.ring.dropped
        c.pause_ns = self.longest_pause_ns
        c.oldest = ring_at(&self.ring, self.ring.first).mod if c.length else 0
        c.newest = self.newest

    # --- adding -----------------------------------------------------------------------------------

    cdef int _add(self, RingRecord* rec, const uint8_t* key, const uint8_t* value) except -1:
        cdef uint64_t now_ns = self.table.now_ns(self.table.ctx)
        cdef int64_t newest = 0
        cdef int status
        self._alive()
        if kv_mutex_trylock(&self.guard):
            status = self._append(rec, key, value)
            newest = self.newest
            if status == KV_OK and ring_due(&self.ring, now_ns):
                with nogil:                  # a rebuild takes its time
                    self._compact(now_ns)
                    kv_mutex_unlock(&self.guard)
            else:
                kv_mutex_unlock(&self.guard)
        else:
            with nogil:
                kv_mutex_lock(&self.guard)
                status = self._append(rec, key, value)
                newest = self.newest
                if status == KV_OK:
                    self._compact(now_ns)
                kv_mutex_unlock(&self.guard)
        if status == OLDER:
            raise InvalidArgument(
                f"resource version {rec.mod} is smaller than the newest, {newest}")
        return kv_raise(status)

    cdef int _add_copied(self, RingRecord* rec, bytes key, bytes value) except -1:
        if len(key) > KV_KEY_MAX_BYTES:
            raise KeyTooLargeError()
        if len(value) > <uint32_t>-1:
            raise RequestTooLargeError()
        rec.key_len = <uint16_t>len(key)
        rec.len = <uint32_t>len(value)
        return self._add(rec, key, value)

    cdef int _add_object(self, event) except -1:
        cdef RingRecord rec
        kind = event.get("type")
        obj = event.get("object")
        number = _KIND_OF.get(kind) if isinstance(kind, str) else None
        if number is None:
            raise InvalidArgument(f"unknown event type {kind!r}")
        metadata = obj.get("metadata") if isinstance(obj, Mapping) else None
        if not isinstance(metadata, Mapping):
            raise InvalidArgument(_NO_METADATA)
        memset(&rec, 0, sizeof(RingRecord))
        rec.note = number
        rec.mod = _version_of(metadata)
        if rec.note == KIND_BOOKMARK:
            return self._add(&rec, NULL, NULL)
        return self._add_copied(&rec, _key_of(metadata), _pack(obj))

    @cython.critical_section
    cdef int _add_change(self, Event event) except -1:
        cdef RingRecord rec = event.rec
        if event.pin is None and event._kv is None:
            raise TypeError("Event objects come from a watch")
        rec.note = KIND_PUT if rec.version else KIND_DELETE
        if event.pin is None or (event.rows is not None and rec.version == 0):
            # It was pickled, or is a deletion of history: there is no cell of it here.
            return self._add_copied(&rec, event.kv.key, event.kv.value)
        if self.log is None:
            self.log = event.pin.log
        if event.pin.log is not self.log:
            return self._add_copied(&rec, event.kv.key, event.kv.value)
        rec.note |= IN_LOG
        self._hold(event.pin)
        return self._add(&rec, NULL, NULL)

    cdef int _hold(self, Pin pin) except -1:
        """What the records about to come name stays readable; pins that no record needs go."""
        cdef Pin last
        cdef Py_ssize_t n
        while len(self.pins) > 1 and self.pins[1][0] <= self.ring.first:
            del self.pins[0]
        n = len(self.pins)
        if n:
            last = self.pins[n - 1][1]
            if pin.number == last.number:
                return 0
            if pin.number < last.number:     # an older event: its pin keeps what the newer keeps
                self.pins[n - 1] = (self.pins[n - 1][0], pin)
                return 0
        self.pins.append((self.ring.next, pin))
        return 0

    @cython.critical_section
    cdef Pin _oldest(self, Pin known):
        """The pin that keeps the most: what all records name."""
        cdef Pin pin
        for _, held in self.pins:
            pin = held
            if known is None or pin.number < known.number:
                known = pin
        return known

    def add_event(self, event):
        """Takes in one event; returns nothing.

        event: a kvcore.Event; or a Kubernetes watch event, a mapping {"type": "ADDED", "MODIFIED"
        or "DELETED", "object": {..., "metadata": {"namespace", "name", "resourceVersion"}}}, whose
        object msgpack must be able to hold; or a "BOOKMARK", which says how far its watch is and
        only moves the newest version.

        Versions do not descend.  An equal one is another change of the same revision, as a
        transaction makes them: add them all before a reader goes on from that revision.
        Errors: InvalidArgument ("event object has no readable metadata", "resource version is
        empty", not a number, out of range, smaller than the newest; unknown type; an object that
        msgpack cannot hold), KeyTooLargeError (key over 65,535 bytes), TypeError (neither),
        OutOfMemoryError, CorruptError, ForkedError; then nothing changed.
        Cost: 0.1 us for a store's event, else O(bytes); a compaction now and then
        (`stats().longest_pause`).
        Source: Kubernetes API concepts, "Efficient detection of changes", for events and bookmarks.

        >>> cache = WatchCache("pods")
        >>> pod = {"metadata": {"namespace": "shop", "name": "cart", "resourceVersion": ""}}
        >>> cache.add_event({"type": "ADDED", "object": pod})
        Traceback (most recent call last):
        kvcore.errors.InvalidArgument: resource version is empty
        """
        if isinstance(event, Event):
            self._add_change(event)
        elif isinstance(event, Mapping):
            self._add_object(event)
        else:
            raise TypeError("an event is a kvcore.Event or a mapping with type and object, not "
                            f"{type(event).__name__}")

    # --- reading ----------------------------------------------------------------------------------

    def events_since(self, version, limit=0):
        """The events whose version is greater than `version`, oldest first: a list of CachedEvent.

        limit: enough when there are so many, 0: all; a version is never divided, so there may be
        more, and the last one's resource_version is where to go on.  A version that is yet to come
        has no events.  A cache begun in the middle does not know what was before its first event.
        Errors: CompactedError when events after `version` were dropped (`compact_revision`: the
        newest of them), also when that happens while a long answer is copied; ValueError for a
        negative limit; TypeError, OverflowError (beyond 64 bits), OutOfMemoryError, ForkedError.
        Cost: O(log n + result), one copy of it; writers wait for 1 MiB of it at most.
        Source: the "resource version too old" answer (410 Gone) of a Kubernetes watch.

        >>> cache = WatchCache("pods")
        >>> cache.events_since(0)
        []
        """
        cdef Reading q
        cdef _Slice slice
        cdef Pin pin = self._oldest(None)
        cdef list events = []
        cdef bint first = True
        cdef int64_t most = operator.index(limit)
        cdef int status
        memset(&q, 0, sizeof(Reading))
        q.since = operator.index(version)
        if most < 0:
            raise ValueError(f"limit must not be negative, got {limit}")
        q.limit = most
        self._alive()
        while first or q.seq < q.end:
            slice = _Slice.__new__(_Slice)
            if kv_mutex_trylock(&self.guard):
                status = self._read(&q, slice, first)
                kv_mutex_unlock(&self.guard)
            else:
                with nogil:
                    kv_mutex_lock(&self.guard)
                    status = self._read(&q, slice, first)
                    kv_mutex_unlock(&self.guard)
            if status == KV_COMPACTED:
                raise CompactedError(compact_revision=q.dropped_mod)
            kv_raise(status)
            pin = self._oldest(pin)          # of records that came meanwhile, too
            slice.pin = pin
            slice.add_events(events)
            first = False
        return events

    cdef int _counters(self, Counters* c) except -1:
        self._alive()
        if kv_mutex_trylock(&self.guard):
            self._count(c)
            kv_mutex_unlock(&self.guard)
        else:
            with nogil:
                kv_mutex_lock(&self.guard)
                self._count(c)
                kv_mutex_unlock(&self.guard)
        return 0

    def stats(self):
        """What it holds and did: a WatchCacheStats.  Cost: O(1).  Errors: ForkedError.

        >>> WatchCache("pods", capacity=500).stats().capacity
        500
        """
        cdef Counters c
        self._counters(&c)
        return WatchCacheStats(c.length, self.ring.capacity, c.bytes, c.peak_bytes,
                               c.payload_bytes, c.compactions, c.dropped, c.pause_ns / 1e9,
                               c.oldest, c.newest)

    def __len__(self):
        cdef Counters c
        self._counters(&c)
        return c.length

    def __bool__(self):
        return True

    def __repr__(self):
        cdef Counters c
        if self.fork_generation != kv_fork_generation():
            return f"<kvcore.WatchCache {self.resource!r}, of another process>"
        self._counters(&c)
        return (f"<kvcore.WatchCache {self.resource!r}: {c.length} of {self.ring.capacity} events, "
                f"newest version {c.newest}>")

    def __reduce__(self):
        raise TypeError("a watch cache cannot be pickled; make one where it is needed")

    cdef const char* _broken(self) noexcept nogil:
        """REQUIRES: the lock"""
        cdef const char* broken = ring_check(&self.ring)
        cdef uint64_t seq
        if broken != NULL:
            return broken
        for seq in range(self.ring.first, self.ring.next):
            if ring_at(&self.ring, seq).mod > self.newest:
                return b"watch cache, versions: a record is newer than the newest"
            if ring_at(&self.ring, seq).note & IN_LOG and <void*>self.log == <void*>None:
                return b"watch cache, one-log: a record lies in a log that is not kept"
        if self.ring.next - self.ring.first > 2 * self.ring.capacity:
            return b"watch cache, ceiling: more than 200 % of capacity"
        return NULL

    def _check(self):
        """Raises AssertionError when an invariant does not hold.  Cost: O(n)."""
        cdef const char* broken
        self._alive()
        with nogil:
            kv_mutex_lock(&self.guard)
            broken = self._broken()
            kv_mutex_unlock(&self.guard)
        if broken != NULL:
            raise AssertionError(broken.decode())
