# SPDX-License-Identifier: Apache-2.0
"""Python face of the MVCC index: `BTreeIndex`, its snapshots and results.

    BTreeIndex ── lock ── BTree (C)        every verb: lock, one C call, unlock, then Python objects
        └ snapshot() ── IndexSnapshot      the same reads on an immutable view, without the lock
    get -> IndexEntry   range_query, range_at -> IndexRange (rows + arena)   mod_revisions -> array

Rules: 1 no Python object is made or dropped while the lock is held (either may run arbitrary code
that comes back here); 2 the interpreter lock is never waited for while the tree's lock is held;
3 work on more than LONG_WORK rows runs without the interpreter lock.
Thread safety: all methods of all classes.  A snapshot closed while another thread reads it is
released when that read ends.  Ownership: results own compact copies; snapshots keep their index
alive.
May not know: values, logs.  The format is docs/index-layout.md, the C face _btree.pxd.
"""

from collections import namedtuple as _namedtuple
from threading import Lock as _Lock

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memset

from kvcore._btree cimport (
    BT_MAX_ORDER, BT_MIN_ORDER, BTree, BtFilter, BtLoader, BtSnapshot, BtStats, BtView,
    bt_check, bt_compact, bt_compact_step, bt_count, bt_deinit, bt_delete, bt_drain_step,
    bt_dump, bt_find_at, bt_find_many, bt_init, bt_load_begin, bt_load_end, bt_load_push,
    bt_mods, bt_move, bt_put, bt_release, bt_scan, bt_snapshot, bt_stats, bt_view,
)
from kvcore._native cimport (
    KV_CORRUPT, KV_NOMEM, KV_NOTFOUND, KV_OK, KV_REVISION_ORDER, KvMutex, KvSlice, KvVersion,
    Memory, kv_mutex_destroy, kv_mutex_init, kv_mutex_lock, kv_mutex_lock_gil, kv_mutex_unlock,
    kv_prefetch, kv_raise,
)
from kvcore._rows cimport Rows, rows_grow

from kvcore import errors as _errors
from kvcore._native import PLAIN_MEMORY as _PLAIN_MEMORY

cdef extern from "Python.h":
    PyObject* PyTuple_GET_ITEM(tuple p, Py_ssize_t i) noexcept

cdef enum:
    LONG_WORK = 2000             # rows a call may touch with the interpreter lock held
    DRAIN_ON_RELEASE = 4096      # dead blocks a closing snapshot works off itself
    SWEEP_STEP = 4096            # budget of one locked step of compact()
    LOAD_AHEAD = 12              # keys a bulk load fetches ahead


# ---- constants and private helpers -----------------------------------------------------------

IndexStats = _namedtuple("IndexStats", (
    "order", "keys", "live", "versions", "leaves", "inners", "depth", "fill", "bytes_per_key",
    "live_bytes", "free_bytes", "held_bytes", "live_blocks", "dead_blocks", "snapshots",
    "copied_nodes", "compacted_revision",
), module=__name__)
IndexStats.__doc__ = "Counters of a BTreeIndex at one moment; see BTreeIndex.stats."

cdef object _frombuffer = None   # numpy is imported when the first array is asked for
cdef object _once = _Lock()


cdef inline KvSlice slice_of(bytes key) noexcept:
    """The bytes, borrowed; None is the slice without a pointer (no bound)."""
    cdef KvSlice s
    if key is None:
        s.ptr = NULL
        s.len = 0
    else:
        s.ptr = <const uint8_t*>PyBytes_AS_STRING(key)
        s.len = PyBytes_GET_SIZE(key)
    return s


cdef int check_range(bytes start, bytes end) except -1:
    if PyBytes_GET_SIZE(start) == 0:
        raise ValueError("start key cannot be empty")
    if end is not None and end < start:
        raise ValueError("end key must be >= start key")
    return 0


cdef int raise_for(int status, int64_t rev) except -1:
    if status == KV_REVISION_ORDER:
        kv_raise(status, f"revision {rev} is not greater than the key's latest")
    return kv_raise(status)


@cython.final
@cython.freelist(256)
cdef class IndexEntry:
    """One version of one key: `key`, `mod_revision`, `create_revision`, `version`, `lease`,
    `position`, `length`.  Immutable; numbers become Python ints when touched.
    """

    cdef readonly bytes key
    cdef KvVersion v

    @property
    def mod_revision(self):
        """Revision of this change."""
        return self.v.mod

    @property
    def create_revision(self):
        """Revision that began the key's generation."""
        return self.v.create

    @property
    def version(self):
        """1, 2, ... within the generation."""
        return self.v.version

    @property
    def lease(self):
        """Lease id; 0: none."""
        return self.v.lease

    @property
    def position(self):
        """Log position of the value."""
        return self.v.pos

    @property
    def length(self):
        """Bytes of the value."""
        return self.v.len

    cdef tuple as_tuple(self):
        return (self.key, self.v.mod, self.v.create, self.v.version, self.v.lease, self.v.pos,
                self.v.len)

    def __eq__(self, other):
        if type(other) is not IndexEntry:
            return NotImplemented
        return self.as_tuple() == (<IndexEntry>other).as_tuple()

    def __hash__(self):
        return hash(self.as_tuple())

    def __repr__(self):
        return (f"IndexEntry(key={self.key!r}, mod_revision={self.v.mod}, "
                f"create_revision={self.v.create}, version={self.v.version})")


cdef inline IndexEntry entry_of(bytes key, const KvVersion* v):
    cdef IndexEntry e = IndexEntry.__new__(IndexEntry)
    e.key = key
    e.v = v[0]
    return e


@cython.final
cdef class IndexRange(Rows):
    """A finished range: a sequence of IndexEntry whose columns are read-only NumPy views.

    `mod_revisions`, `create_revisions`, `versions`, `leases`, `positions`, `lengths` copy nothing;
    an entry or a key is made when asked for.  Immutable.
    """

    def __getitem__(self, index):
        cdef Py_ssize_t n = <Py_ssize_t>self.c.n
        cdef Py_ssize_t i
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(n))]
        i = index
        if i < 0:
            i += n
        if i < 0 or i >= n:
            raise IndexError("row index out of range")
        return entry_of(self.key_at(i), &self.c.rows[i].v)

    def __iter__(self):
        cdef uint64_t i
        for i in range(self.c.n):
            yield entry_of(self.key_at(i), &self.c.rows[i].v)

    def __repr__(self):
        return f"<IndexRange of {self.c.n} keys>"


@cython.final
cdef class _Column:
    """A block of int64 that lends its memory to one array."""

    cdef int64_t* data
    cdef Py_ssize_t n

    def __dealloc__(self):
        free(self.data)

    def __getbuffer__(self, Py_buffer* view, int flags):
        if flags & PyBUF_WRITABLE == PyBUF_WRITABLE:
            raise BufferError("the column is read-only")
        PyBuffer_FillInfo(view, self, self.data, self.n * 8, 1, flags)


cdef object array_of(_Column column):
    global _frombuffer
    if _frombuffer is None:
        import numpy
        with _once:
            if _frombuffer is None:
                _frombuffer = numpy.frombuffer
    if column.n == 0:
        return _frombuffer(b"\0" * 8, "<i8")[:0]
    return _frombuffer(column, "<i8")


# ---- reads, on the live tree and on snapshots ------------------------------------------------

cdef class _Reader:
    """The reads both a BTreeIndex and an IndexSnapshot have."""

    cdef KvMutex* guard          # NULL: an immutable view

    cdef int enter(self, BtView* w) except -1:
        """A view that does not change before `leave`."""
        raise NotImplementedError

    cdef void leave(self) noexcept:
        """Ends what enter began, but for the lock (unlocked by the caller: some do it without the
        GIL)."""

    cdef inline void unlock(self) noexcept nogil:
        if self.guard != NULL:
            kv_mutex_unlock(self.guard)

    cdef int scan(self, IndexRange out, bytes start, bytes end, int64_t rev, const BtFilter* f,
                  uint64_t limit) except -1:
        cdef BtView w
        cdef KvSlice a = slice_of(start)
        cdef KvSlice b = slice_of(end)
        cdef uint64_t seen = 0
        cdef uint64_t n
        cdef int64_t floor = 0
        cdef int status
        self.enter(&w)
        if rev and rev < w.floor_next:
            floor = w.floor_next
            self.unlock()
            self.leave()
            raise _errors.CompactedError(compact_revision=floor)
        n = bt_count(&w, a, b)
        if limit and limit < n:
            n = limit
        if n <= LONG_WORK and rev == 0:
            status = rows_grow(&out.c, n, n * 64) if f == NULL else KV_OK
            if status == KV_OK:
                status = bt_scan(&w, a, b, rev, f, limit, False, &out.c, &seen)
            self.unlock()
        else:
            with nogil:
                status = rows_grow(&out.c, n, n * 64) if f == NULL else KV_OK
                if status == KV_OK:
                    status = bt_scan(&w, a, b, rev, f, limit, False, &out.c, &seen)
                self.unlock()
        self.leave()
        return kv_raise(status)

    def get(self, bytes key not None, int64_t rev=0):
        """The key's latest version, or the one seen at `rev`; None when there is none or it is
        deleted.

        Raises CompactedError when `rev` is below the compacted revision.  O(log n).

        >>> t = BTreeIndex()
        >>> t.insert(b"k", 5); t.insert(b"k", 7)
        >>> t.get(b"k"), t.get(b"k", 6).version, t.get(b"nope")
        (IndexEntry(key=b'k', mod_revision=7, create_revision=5, version=2), 1, None)
        """
        cdef BtView w
        cdef KvVersion v
        cdef int64_t floor
        cdef int status
        self.enter(&w)
        floor = w.floor_next
        status = KV_NOTFOUND
        if rev == 0 or rev >= floor:
            status = bt_find_at(&w, slice_of(key), rev, &v)
        self.unlock()
        self.leave()
        if rev and rev < floor:
            raise _errors.CompactedError(compact_revision=floor)
        return entry_of(key, &v) if status == KV_OK else None

    def get_many(self, keys not None):
        """`[get(k) for k in keys]` in one crossing, with the cache misses overlapped.

        >>> t = BTreeIndex()
        >>> t.insert(b"a", 1)
        >>> [e and e.mod_revision for e in t.get_many([b"a", b"b"])]
        [1, None]
        """
        cdef tuple held = tuple(keys)
        cdef uint64_t n = len(held)
        cdef uint64_t i
        cdef KvSlice* slices
        cdef KvVersion* out
        cdef int* status
        cdef BtView w
        cdef bytes key
        cdef list result
        slices = <KvSlice*>malloc((n + 1) * (sizeof(KvSlice) + sizeof(KvVersion) + sizeof(int)))
        if slices == NULL:
            raise MemoryError
        out = <KvVersion*>(slices + n)
        status = <int*>(out + n)
        try:
            for i in range(n):
                if type(held[i]) is not bytes:
                    raise TypeError(f"keys must be bytes, got {type(held[i]).__name__}")
                key = held[i]
                slices[i] = slice_of(key)
                if slices[i].len == 0:
                    raise _errors.EmptyKeyError
            self.enter(&w)
            if n <= LONG_WORK:
                bt_find_many(&w, slices, n, out, status)
                self.unlock()
            else:
                with nogil:
                    bt_find_many(&w, slices, n, out, status)
                    self.unlock()
            self.leave()
            result = [None] * n
            for i in range(n):
                if status[i] == KV_OK and out[i].create:
                    result[i] = entry_of(held[i], &out[i])
            return result
        finally:
            free(slices)

    def range_query(self, bytes start not None, bytes end=None, int64_t min_rev=0):
        """Live keys of [start, end) whose latest revision is at least `min_rev`, as an IndexRange.

        `end` None: no upper bound.  ValueError when start is empty or end < start.  O(log n + rows
        passed).

        >>> t = BTreeIndex()
        >>> for rev, k in enumerate([b"a", b"b", b"c"], 1): t.insert(k, rev)
        >>> [e.key for e in t.range_query(b"a", b"c")], t.range_query(b"a", min_rev=3).keys()
        ([b'a', b'b'], [b'c'])
        """
        cdef IndexRange out
        cdef BtFilter f
        check_range(start, end)
        out = IndexRange.__new__(IndexRange)
        memset(&f, 0, sizeof(f))
        f.min_mod = min_rev
        self.scan(out, start, end, 0, &f if min_rev > 0 else NULL, 0)
        return out

    def range_at(self, bytes start not None, bytes end, int64_t rev, uint64_t limit=0):
        """What lived in [start, end) at revision `rev` (0: now), at most `limit` keys (0: all).

        CompactedError when `rev` is below the compacted revision; a future revision reads as now.

        >>> t = BTreeIndex()
        >>> t.insert(b"a", 1); t.insert(b"a", 2); t.delete(b"a", 3)
        True
        >>> t.range_at(b"a", None, 2)[0], len(t.range_at(b"a", None, 3))
        (IndexEntry(key=b'a', mod_revision=2, create_revision=1, version=2), 0)
        """
        cdef IndexRange out
        check_range(start, end)
        if rev < 0:
            raise ValueError(f"revision must be >= 0, got {rev}")
        out = IndexRange.__new__(IndexRange)
        self.scan(out, start, end, rev, NULL, limit)
        return out

    def mod_revisions(self, bytes start not None, bytes end=None):
        """The latest revisions of the live keys of [start, end), in key order, as an int64 array.

        >>> t = BTreeIndex()
        >>> t.insert(b"a", 4); t.insert(b"b", 2)
        >>> t.mod_revisions(b"a").tolist()
        [4, 2]
        """
        cdef _Column column
        cdef BtView w
        cdef KvSlice a = slice_of(start)
        cdef KvSlice b = slice_of(end)
        cdef uint64_t n = 0
        cdef uint64_t cap
        check_range(start, end)
        column = _Column.__new__(_Column)
        self.enter(&w)
        with nogil:
            cap = bt_count(&w, a, b)
            column.data = <int64_t*>malloc(8 * cap + 8)
            if column.data != NULL:
                bt_mods(&w, a, b, column.data, cap, &n)
            self.unlock()
        self.leave()
        if column.data == NULL:
            kv_raise(KV_NOMEM)
        column.n = n
        return array_of(column)

    def count(self, bytes start not None, bytes end=None):
        """Live keys of [start, end).  O(log n).

        >>> t = BTreeIndex()
        >>> t.insert(b"a", 1); t.insert(b"b", 2)
        >>> t.count(b"a"), t.count(b"a", b"b")
        (2, 1)
        """
        cdef BtView w
        cdef uint64_t n
        check_range(start, end)
        self.enter(&w)
        n = bt_count(&w, slice_of(start), slice_of(end))
        self.unlock()
        self.leave()
        return n

    def history(self, bytes after=b"", int64_t floor=0, uint64_t budget=(1 << 62)):
        """Every version that compaction at `floor` leaves, keys ascending, oldest first, tombstones
        included (version 0), behind key `after`, until `budget` rows are passed at a key's end.

        Comes back as (IndexRange, more).  What a checkpoint writes.

        >>> t = BTreeIndex()
        >>> t.insert(b"a", 1); t.insert(b"a", 2)
        >>> [e.mod_revision for e in t.history()[0]]
        [1, 2]
        >>> [e.mod_revision for e in t.history(floor=2)[0]]
        [2]
        """
        cdef IndexRange out = IndexRange.__new__(IndexRange)
        cdef KvSlice a = slice_of(after)
        cdef BtView w
        cdef bint more
        cdef int status
        self.enter(&w)
        with nogil:
            status = bt_dump(&w, a, floor, budget, &out.c, &more)
            self.unlock()
        self.leave()
        kv_raise(status)
        return out, bool(more)

    def _scan(self, bytes start, bytes end, int64_t rev, tuple bounds, uint64_t limit, *,
              bint walk_all=False, bint count_only=False):
        """Tests: bt_scan with all it can do; bounds = (min_mod, max_mod, min_create, max_create).

        Comes back as (IndexRange, keys seen).
        """
        cdef IndexRange out = IndexRange.__new__(IndexRange)
        cdef BtFilter f
        cdef BtView w
        cdef uint64_t seen = 0
        cdef int status
        f.min_mod, f.max_mod, f.min_create, f.max_create = bounds
        self.enter(&w)
        status = bt_scan(&w, slice_of(start), slice_of(end), rev, &f, limit, walk_all,
                         NULL if count_only else &out.c, &seen)
        self.unlock()
        self.leave()
        kv_raise(status)
        return out, seen


# ---- Python face -----------------------------------------------------------------------------

@cython.final
cdef class BTreeIndex(_Reader):
    """An in-memory B+-tree of keys, each with its versions: etcd's index on its own.

    A write names its revision; revisions of one key ascend.  A key is created, changed
    (version + 1), deleted (a tombstone) and may live again (version 1).  `compact` drops what is
    invisible from a revision on; `snapshot` is O(1).

    >>> t = BTreeIndex(order=32)
    >>> t.insert(b"/pods/a", 1); t.insert(b"/pods/b", 2); t.delete(b"/pods/a", 3)
    True
    >>> t.range_query(b"/pods/", b"/pods0").keys(), t.count(b"/pods/"), len(t)
    ([b'/pods/b'], 1, 1)
    """

    cdef BTree c
    cdef KvMutex mutex
    cdef Memory memory           # the table c.slab.mem points into
    cdef bint ready

    def __cinit__(self, order=32, *, Memory memory=None):
        if not isinstance(order, int):
            raise TypeError(f"order must be int, got {type(order).__name__}")
        if order < BT_MIN_ORDER:
            raise ValueError(f"B-tree order must be at least 3, got {order}")
        if order > BT_MAX_ORDER:
            raise ValueError(f"B-tree order must be at most 1024, got {order}")
        self.memory = memory if memory is not None else _PLAIN_MEMORY
        kv_raise(bt_init(&self.c, order, self.memory.table))
        kv_mutex_init(&self.mutex)
        self.guard = &self.mutex
        self.ready = True

    def __dealloc__(self):
        if self.ready:
            bt_deinit(&self.c)
            kv_mutex_destroy(&self.mutex)

    def __len__(self):
        return self.c.live

    def __reduce__(self):
        raise TypeError("an index cannot be pickled; insert its keys where another is needed")

    def __repr__(self):
        return f"<kvcore.BTreeIndex of {self.c.live} keys, order {self.c.order}>"

    def __contains__(self, bytes key not None):
        return self.get(key) is not None

    cdef int enter(self, BtView* w) except -1:
        kv_mutex_lock_gil(&self.mutex)
        w[0] = bt_view(&self.c)
        return 0

    @property
    def order(self):
        """Keys in a leaf and children of an inner node, at most."""
        return self.c.order

    @property
    def compacted_revision(self):
        """The newest revision asked to be compacted; older ones cannot be read."""
        return self.c.floor_next

    def get(self, bytes key not None, int64_t rev=0):
        """The key's latest version, or the one seen at `rev`; None when there is none or it is
        deleted.

        Raises CompactedError when `rev` is below the compacted revision.  O(log n).

        >>> t = BTreeIndex()
        >>> t.insert(b"k", 5)
        >>> t.get(b"k")
        IndexEntry(key=b'k', mod_revision=5, create_revision=5, version=1)
        """
        cdef BtView w
        cdef KvVersion v
        cdef int status
        kv_mutex_lock_gil(&self.mutex)
        w = bt_view(&self.c)
        if rev and rev < w.floor_next:
            kv_mutex_unlock(&self.mutex)
            raise _errors.CompactedError(compact_revision=w.floor_next)
        status = bt_find_at(&w, slice_of(key), rev, &v)
        kv_mutex_unlock(&self.mutex)
        return entry_of(key, &v) if status == KV_OK else None

    def insert(self, bytes key not None, int64_t rev, created=None, *, int64_t lease=0,
               uint64_t position=0, uint32_t length=0, uint32_t sub=0):
        """Gives the key a new latest version at `rev` (`sub` orders changes within one revision).

        A key that lives keeps its create_revision and counts its version up; a new or deleted one
        begins a generation at `created` (default: rev).  ValueError when `rev` is not greater than
        the key's latest revision, or the key is empty or longer than 65,535 bytes; the index is as
        it was.  O(log n).

        >>> t = BTreeIndex()
        >>> t.insert(b"k", 5); t.insert(b"k", 6); t.get(b"k").version
        2
        """
        cdef KvVersion v
        cdef int status
        v.create = rev if created is None else created
        if rev < 1 or v.create < 1 or v.create > rev:
            raise ValueError("revisions begin at 1, and created must not be after rev")
        v.mod = rev
        v.version = 0
        v.lease = lease
        v.pos = position
        v.len = length
        v.sub = sub
        kv_mutex_lock_gil(&self.mutex)
        status = bt_put(&self.c, slice_of(key), &v, NULL)
        kv_mutex_unlock(&self.mutex)
        if status != KV_OK:
            raise_for(status, rev)

    def delete(self, bytes key not None, int64_t rev):
        """Deletes the key at `rev`; whether it was alive.  Its older versions stay until compacted.

        >>> t = BTreeIndex()
        >>> t.insert(b"k", 5); t.delete(b"k", 6), t.delete(b"k", 7)
        (True, False)
        """
        cdef int status
        if rev < 1:
            raise ValueError("revisions begin at 1")
        kv_mutex_lock_gil(&self.mutex)
        status = bt_delete(&self.c, slice_of(key), rev, 0, NULL)
        kv_mutex_unlock(&self.mutex)
        if status == KV_NOTFOUND:
            return False
        if status != KV_OK:
            raise_for(status, rev)
        return True

    def move(self, bytes key not None, int64_t rev, uint64_t old_position, uint64_t new_position):
        """Replaces the log position of the version (key, rev) if it still is `old_position`.

        >>> t = BTreeIndex()
        >>> t.insert(b"k", 5, position=64); t.move(b"k", 5, 64, 128), t.get(b"k").position
        (True, 128)
        """
        cdef int status
        kv_mutex_lock_gil(&self.mutex)
        status = bt_move(&self.c, slice_of(key), rev, 0, old_position, new_position)
        kv_mutex_unlock(&self.mutex)
        return status == KV_OK

    def compact(self, int64_t rev, *, wait=True):
        """Drops versions and tombstones that no read at a revision >= `rev` can see.

        CompactedError when `rev` is not above the compacted revision.  With `wait` False it only
        begins: `compact_step` does the work.  Snapshots taken before stay readable.

        >>> t = BTreeIndex()
        >>> t.insert(b"k", 5); t.insert(b"k", 6); t.compact(6); t.stats().versions
        1
        """
        cdef int status
        cdef bint more = True
        kv_mutex_lock_gil(&self.mutex)
        if rev <= self.c.floor_next:
            kv_mutex_unlock(&self.mutex)
            raise _errors.CompactedError(compact_revision=self.c.floor_next)
        status = bt_compact(&self.c, rev)
        kv_mutex_unlock(&self.mutex)
        while wait and more and status == KV_OK:
            with nogil:
                kv_mutex_lock(&self.mutex)
                more = bt_compact_step(&self.c, SWEEP_STEP, &status)
                more |= bt_drain_step(&self.c, SWEEP_STEP)
                kv_mutex_unlock(&self.mutex)
        kv_raise(status)

    def compact_step(self, uint64_t budget):
        """Works on what compactions and released snapshots left, O(budget); whether more is left.

        >>> t = BTreeIndex()
        >>> t.insert(b"k", 5); t.compact(5, wait=False); t.compact_step(100)
        False
        """
        cdef int status
        cdef bint more
        with nogil:
            kv_mutex_lock(&self.mutex)
            more = bt_compact_step(&self.c, budget, &status)
            more |= bt_drain_step(&self.c, budget)
            kv_mutex_unlock(&self.mutex)
        kv_raise(status)
        return bool(more)

    def snapshot(self):
        """The index as it is now, for reading at leisure; a context manager.  O(1).

        >>> t = BTreeIndex()
        >>> t.insert(b"k", 5)
        >>> with t.snapshot() as s:
        ...     t.insert(b"k", 6); s.get(b"k").mod_revision
        5
        """
        cdef IndexSnapshot s = IndexSnapshot.__new__(IndexSnapshot)
        cdef BtSnapshot* c
        kv_mutex_lock_gil(&self.mutex)
        c = bt_snapshot(&self.c)
        kv_mutex_unlock(&self.mutex)
        if c == NULL:
            kv_raise(KV_NOMEM)
        s.index = self
        s.c = c
        return s

    def bulk_load(self, keys not None, const int64_t[::1] revisions not None,
                  const int64_t[::1] created=None):
        """Fills an empty index from ascending keys and their revisions (int64 arrays).

        ValueError when the index is not empty, the lengths differ, keys do not ascend, or a
        revision is not positive: nothing is taken.  OutOfMemoryError leaves what came before.
        O(n).

        >>> import array
        >>> t = BTreeIndex()
        >>> t.bulk_load([b"a", b"b"], array.array("q", [7, 9])); t.get(b"b").mod_revision
        9
        """
        cdef tuple held = tuple(keys)
        cdef uint64_t n = len(held)
        cdef KvSlice* slices
        cdef int status
        if <uint64_t>revisions.shape[0] != n or (
                created is not None and <uint64_t>created.shape[0] != n):
            raise ValueError("keys, revisions and created must have one length")
        slices = <KvSlice*>malloc((n + 1) * sizeof(KvSlice))
        if slices == NULL:
            raise MemoryError
        try:
            check_load(held, slices, revisions, created)
            with nogil:
                kv_mutex_lock(&self.mutex)
                status = KV_CORRUPT
                if self.c.root == 0:
                    status = load(&self.c, slices, n, revisions, created)
                kv_mutex_unlock(&self.mutex)
        finally:
            free(slices)
        if status == KV_CORRUPT:
            raise ValueError("only an empty index can be loaded")
        kv_raise(status)

    def stats(self):
        """Counters as an IndexStats.

        `live_bytes` are blocks in use (what bytes_per_key divides), `held_bytes` what is taken from
        the system, `free_bytes` the difference; `fill` is keys / (leaves * order).

        >>> s = BTreeIndex().stats(); s.keys, s.depth
        (0, 0)
        """
        cdef BtStats s
        cdef int64_t compacted
        kv_mutex_lock_gil(&self.mutex)
        bt_stats(&self.c, &s)
        compacted = self.c.floor_next
        kv_mutex_unlock(&self.mutex)
        return IndexStats(
            self.c.order, s.keys, s.live, s.versions, s.leaves, s.inners, s.depth,
            s.keys / (s.leaves * <double>self.c.order) if s.leaves else 0.0,
            s.live_bytes / <double>s.keys if s.keys else 0.0,
            s.live_bytes, s.free_bytes, s.chunk_bytes, s.live_blocks, s.dead_blocks, s.snapshots,
            s.copied_nodes, compacted)

    def _check(self):
        """Walks every named invariant of docs/index-layout.md; AssertionError names the first
        broken."""
        cdef char message[200]
        cdef int status
        with nogil:
            kv_mutex_lock(&self.mutex)
            status = bt_check(&self.c, message, sizeof(message))
            kv_mutex_unlock(&self.mutex)
        if status == KV_CORRUPT:
            raise AssertionError(message.decode())
        kv_raise(status)

    def _refuse_after(self, uint64_t n):
        """Tests: makes the n-th allocation from now fail; 0: none."""
        self.c.slab.refuse_after = n


cdef int check_load(tuple held, KvSlice* slices, const int64_t[::1] revisions,
                    const int64_t[::1] created) except -1:
    """Everything a bulk load may refuse, before anything is loaded."""
    cdef uint64_t n = len(held)
    cdef uint64_t i
    cdef size_t m
    cdef int c
    for i in range(n):
        if i + LOAD_AHEAD < n:       # keys lie all over the memory: two lines each, fetched early
            kv_prefetch(<uint8_t*>PyTuple_GET_ITEM(held, i + LOAD_AHEAD))
            kv_prefetch(<uint8_t*>PyTuple_GET_ITEM(held, i + LOAD_AHEAD) + 64)
        if not PyBytes_CheckExact(<object>PyTuple_GET_ITEM(held, i)):
            raise TypeError(f"keys must be bytes, got {type(held[i]).__name__}")
        slices[i] = slice_of(<bytes>PyTuple_GET_ITEM(held, i))
        if slices[i].len == 0:
            raise _errors.EmptyKeyError
        if slices[i].len > 65535:
            raise _errors.KeyTooLargeError
        if revisions[i] < 1 or (created is not None
                                and (created[i] < 1 or created[i] > revisions[i])):
            raise ValueError("revisions begin at 1, and created must not be after rev")
        if i:
            m = min(slices[i - 1].len, slices[i].len)
            c = memcmp(slices[i - 1].ptr, slices[i].ptr, m)
            if c > 0 or (c == 0 and slices[i - 1].len >= slices[i].len):
                raise ValueError("keys must ascend")
    return 0


cdef int load(BTree* t, const KvSlice* slices, uint64_t n, const int64_t[::1] revisions,
              const int64_t[::1] created) noexcept nogil:
    """One version per key."""
    cdef BtLoader* b = bt_load_begin(t)
    cdef KvVersion v
    cdef uint64_t i
    cdef int status = KV_OK
    cdef int ended
    cdef bint own = created.shape[0] == <Py_ssize_t>n and n > 0
    if b == NULL:
        return KV_NOMEM
    memset(&v, 0, sizeof(v))
    v.version = 1
    for i in range(n):
        if i + LOAD_AHEAD < n:
            kv_prefetch(slices[i + LOAD_AHEAD].ptr)
        v.mod = revisions[i]
        v.create = created[i] if own else v.mod
        status = bt_load_push(b, slices[i], &v, 1)
        if status != KV_OK:
            break
    ended = bt_load_end(b)
    return status if status != KV_OK else ended


@cython.final
@cython.no_gc_clear              # __dealloc__ needs the index
cdef class IndexSnapshot(_Reader):
    """A BTreeIndex as it was: the same reads, unaffected by writes and compactions since.

    Close it (or leave its `with` block) so that memory held for it can go.  After that every read
    raises ClosedError.
    """

    cdef BTreeIndex index
    cdef BtSnapshot* c
    cdef int readers             # reads under way, guarded by the interpreter lock
    cdef bint closing

    def __init__(self):
        raise TypeError("snapshots are made by BTreeIndex.snapshot()")

    def __dealloc__(self):
        self.release()

    cdef int enter(self, BtView* w) except -1:
        if self.c == NULL or self.closing:
            raise _errors.ClosedError
        self.readers += 1
        w[0] = self.c.view
        return 0

    cdef void leave(self) noexcept:
        self.readers -= 1
        if self.closing and self.readers == 0:
            self.release()

    cdef void release(self) noexcept:
        cdef BtSnapshot* c = self.c
        if c == NULL:
            return
        self.c = NULL
        kv_mutex_lock_gil(&self.index.mutex)
        bt_release(&self.index.c, c)
        bt_drain_step(&self.index.c, DRAIN_ON_RELEASE)
        kv_mutex_unlock(&self.index.mutex)

    def close(self):
        """Releases the snapshot; once more does nothing."""
        self.closing = True
        if self.readers == 0:
            self.release()

    def __len__(self):
        if self.c == NULL or self.closing:
            raise _errors.ClosedError
        return self.c.view.live

    def __reduce__(self):
        raise TypeError("an index's snapshot cannot be pickled; take what it shows")

    def __repr__(self):
        if self.c == NULL or self.closing:
            return "<IndexSnapshot, closed>"
        return f"<IndexSnapshot of {self.c.view.live} keys>"

    def __enter__(self):
        if self.c == NULL or self.closing:
            raise _errors.ClosedError
        return self

    def __exit__(self, *error):
        self.close()
