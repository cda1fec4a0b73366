# SPDX-License-Identifier: Apache-2.0
"""Reading: look-ups, scans, counts and dumps of a view."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kvcore._native cimport KvSlice, KvVersion
from kvcore._rows cimport KvRows
from kvcore._tree cimport BtFilter, BtView

# The latest version (tombstones included), or KV_NOTFOUND.
cdef int bt_find(const BtView* w, KvSlice key, KvVersion* out) noexcept nogil
# The version seen at `rev`: newest with mod <= rev; tombstone or none: KV_NOTFOUND.  rev == 0:
# latest.  REQUIRES: rev == 0 or rev >= floor_next.
cdef int bt_find_at(const BtView* w, KvSlice key, int64_t rev, KvVersion* out) noexcept nogil
# As bt_find for many keys, interleaved so that the cache misses overlap; status[i] per key.
cdef void bt_find_many(const BtView* w, const KvSlice* keys, uint64_t n, KvVersion* out,
                       int* status) noexcept nogil
# Live keys of [start, end) at `rev` (0: latest) into `rows` (NULL: only count), at most `limit`
# rows (0: no limit).  end.ptr == NULL: no upper bound.  `filter` may be NULL.  *seen counts the
# live keys passed before the filters up to the point where the walk stopped; walk_all makes it go
# on counting.
cdef int bt_scan(const BtView* w, KvSlice start, KvSlice end, int64_t rev, const BtFilter* filter,
                 uint64_t limit, bint walk_all, KvRows* rows, uint64_t* seen) noexcept nogil
# Live keys of [start, end) at the view's newest revision; O(log n).
cdef uint64_t bt_count(const BtView* w, KvSlice start, KvSlice end) noexcept nogil
# Every version and tombstone of every key, keys ascending and versions oldest first, those that
# compaction at `floor` makes invisible left out (also where the sweep has not come yet).  Starts
# behind key `after` (NULL: at the beginning), stops once `budget` rows are passed, at a key's end;
# *more says whether keys are left.  Rows of one key share its bytes in the arena.
cdef int bt_dump(const BtView* w, KvSlice after, int64_t floor, uint64_t budget, KvRows* rows,
                 bint* more) noexcept nogil
# Copies the mod_revision column of the live keys of [start, end): the fastest look at everything.
# Stops at `cap`; *n says how many.
cdef int bt_mods(const BtView* w, KvSlice start, KvSlice end, int64_t* out, uint64_t cap,
                 uint64_t* n) noexcept nogil
# Every version and tombstone of [start, end) with from_rev <= mod <= upto_rev into `rows`, by (mod,
# sub); deletions and puts as asked for.  Beyond `most` rows the newest are left out again, whole
# revisions, and *covered says up to which revision the rows are all there is (upto_rev when nothing
# was left out).  REQUIRES: from_rev >= floor_next.
cdef int bt_history(const BtView* w, KvSlice start, KvSlice end, int64_t from_rev, int64_t upto_rev,
                    bint puts, bint deletes, uint64_t most, KvRows* rows,
                    int64_t* covered) noexcept nogil
# Live keys that have a lease, keys ascending, from behind `after` on; stops and says *more once
# `budget` rows are there.
cdef int bt_leased(const BtView* w, KvSlice after, uint64_t budget, KvRows* rows,
                   bint* more) noexcept nogil
