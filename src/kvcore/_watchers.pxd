# SPDX-License-Identifier: Apache-2.0
"""The index of watchers: which watchers an event concerns, and what each has yet to see.

    Hub ── exact keys: hash ──► Group ──► Watcher ⇄ Watcher        one group for each distinct span
        └─ ranges: treap ─────► Group      └ cursor into the group's matches
    Group.matches:  | seq | seq | seq |  ──► records of the ring

Thread safety: the owner's lock, for all of it.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp

from kvcore._native cimport KvCond, KvSlice
from kvcore._ring cimport Ring, RingRecord
from kvcore._wakeups cimport Ready
from kvcore._wal cimport WalEpoch

cdef enum:
    WATCH_NO_PUT = 1
    WATCH_NO_DELETE = 2
    WATCH_NOTIFY = 4             # wants periodic progress

    WAITER_FREE = 0
    WAITER_PARKED = 1            # in its group's list
    WAITER_WAKING = 2            # in the hub's list
    WAITER_FIRED = 3             # handed to its loop

    TAKE_OK = 0
    TAKE_HISTORY = 1             # the next events come from the index: next_rev .. join_rev


# Somebody who waits for a watcher's next event: a blocked thread, or a loop.
cdef struct Waiter:
    Watcher* watcher
    Waiter* next
    Waiter* prev
    Waiter* sibling              # of the same watcher
    int state
    KvCond* cond                 # a thread's; NULL: a loop's
    Ready ready                  # a loop's


cdef struct Watcher:
    Group* group                 # NULL: not (or no longer) watching
    Watcher* next                # of the group
    Watcher* prev
    Watcher* notify_next         # of those that want periodic progress
    Watcher* notify_prev
    Watcher* held_next           # of those whose progress waits for their first revision
    Watcher* held_prev
    Waiter* waiters
    uint64_t cursor              # number of the group's next match to look at
    int64_t start_rev            # events before it are not wanted
    int64_t next_rev             # events before it are delivered
    int64_t join_rev             # up to here from history, behind it from the group's matches
    int64_t asked_rev            # newest revision when progress was asked for
    bint asked
    bint held
    bint told                    # something was delivered since the last tick
    bint reading                 # somebody reads history for it: others wait
    uint64_t held_rows           # of a pass over history, not delivered yet
    uint32_t flags


cdef struct Group:
    Group* left                  # ranges: treap by (start, end); exact keys: left is the hash chain
    Group* right
    Group* widest                # of the subtree: whose end comes last
    uint64_t order               # hash of the span: place in the table, priority in the treap
    Watcher* first
    uint64_t watchers
    Waiter* parked
    uint64_t* matches            # ring sequence numbers; power of two of them
    uint64_t slots
    uint64_t head                # matches ever
    uint64_t tail                # those before it are gone
    uint64_t epoch               # hub's when head_then was taken
    uint64_t head_then           # head when the newest compaction was applied
    KvSlice start                # bytes behind the struct
    KvSlice end                  # ptr NULL: no bound
    bint exact


cdef struct Hub:
    Ring ring
    Group** table                # exact keys
    uint64_t slots
    uint64_t exact_groups
    Group* root                  # ranges
    uint64_t range_groups
    uint64_t watchers
    uint64_t match_bytes         # of all groups' matches
    uint64_t held_rows           # of all passes over history
    uint64_t max_slots           # of one group
    Waiter* wake_head            # threads to be signalled, a few at a time
    Waiter* wake_tail
    Waiter* fire_head            # loops to be told, all at once
    int to_wake                  # either list is not empty (atomic)
    Watcher* notify
    Watcher* held
    uint64_t epoch               # compactions applied
    int64_t epoch_rev            # newest revision when the newest of them was
    bint closed
    # of the event under way
    bint pushed
    int push_status
    uint64_t interest
    # statistics
    uint64_t events              # that concerned somebody
    uint64_t matched             # (event, watcher) pairs
    uint64_t behind              # times a watcher had to go back to history


# What one look takes: records in order.
cdef struct Taken:
    RingRecord* recs
    uint64_t* seqs
    uint64_t n
    uint64_t cap
    int64_t bookmark             # every event up to it is delivered with these
    bint progress                # nothing but a bookmark that was asked for
    bint in_history              # seqs are rows of a pass over history, which `owner` holds
    void* owner
    void* pin                    # a Pin object: what the records name stays readable
    WalEpoch* epoch              # the same, taken without the GIL


cdef int hub_init(Hub* h, uint64_t capacity) noexcept nogil
cdef void hub_deinit(Hub* h) noexcept nogil
# Nobody watches any more; whoever waits is woken.
cdef void hub_close(Hub* h) noexcept nogil

# --- the writer's side ----------------------------------------------------------------------------
# One change, before or after it is in the index; `rec` names its payload.
cdef void hub_event(Hub* h, KvSlice key, const RingRecord* rec) noexcept nogil
# A command is through; the newest revision is now `revision`.
cdef void hub_published(Hub* h, int64_t revision) noexcept nogil
cdef void hub_compacted(Hub* h, int64_t revision) noexcept nogil
# Wakes every loop and up to `threads` threads; each of those wakes one more.
cdef void hub_wake(Hub* h, int threads) noexcept nogil
# Periodic progress for those that got nothing since the last tick.
cdef void hub_tick(Hub* h, int64_t revision) noexcept nogil

# --- the watcher's side ---------------------------------------------------------------------------
# Starts to watch [start, end) (exact: the key `start`); next_rev, join_rev and flags are set.
cdef int hub_add(Hub* h, Watcher* w, KvSlice start, KvSlice end, bint exact) noexcept nogil
cdef void hub_remove(Hub* h, Watcher* w) noexcept nogil
cdef void hub_ask(Hub* h, Watcher* w, int64_t revision) noexcept nogil
# The next events, whole revisions, until there are `limit` (at least one revision).  `revision` is
# the newest.  TAKE_OK, TAKE_HISTORY or KV_NOMEM.
cdef int hub_take(Hub* h, Watcher* w, int64_t revision, uint64_t limit, Taken* out) noexcept nogil
# Whether hub_take would have something to say.
cdef bint hub_has_news(const Hub* h, const Watcher* w) noexcept nogil
# REQUIRES: no news.  The waiter is in the group's list until it is woken or unparked.
cdef void hub_park(Hub* h, Watcher* w, Waiter* x) noexcept nogil
cdef void hub_unpark(Hub* h, Waiter* x) noexcept nogil
cdef void hub_rouse(Hub* h, Watcher* w) noexcept nogil           # wakes whoever waits for w
cdef int taken_push(Taken* t, const RingRecord* rec, uint64_t seq) noexcept nogil
cdef void taken_free(Taken* t) noexcept nogil

# --- spans ---------------------------------------------------------------------------------------

cdef inline int compare_keys(KvSlice a, KvSlice b) noexcept nogil:
    cdef size_t n = a.len if a.len < b.len else b.len
    cdef int c = memcmp(a.ptr, b.ptr, n) if n else 0
    if c:
        return c
    return 0 if a.len == b.len else (-1 if a.len < b.len else 1)


cdef inline int compare_ends(KvSlice a, KvSlice b) noexcept nogil:
    """No bound comes last."""
    if a.ptr == NULL or b.ptr == NULL:
        return (a.ptr == NULL) - (b.ptr == NULL)
    return compare_keys(a, b)


cdef inline int compare_spans(const Group* a, KvSlice start, KvSlice end) noexcept nogil:
    cdef int c = compare_keys(a.start, start)
    return c if c else compare_ends(a.end, end)
