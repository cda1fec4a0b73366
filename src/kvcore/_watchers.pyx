# SPDX-License-Identifier: Apache-2.0
"""The index of watchers: from an event's key to the groups it concerns, to the watchers of these.

    event ─► hash of exact keys ─┐            record into the ring (only if anybody is concerned)
          └► treap of ranges ────┴► Group: its number appended · parked waiters to the wake list
    watcher: cursor ──────────────► takes what came since, or goes back to history

One group for each distinct span, so that a thousand watchers of one prefix cost an event no more
than one.  The treap is ordered by (start, end) and knows for every subtree which end comes last, so
that "which ranges hold this key" costs O(log groups + matches).  Nobody here blocks a writer: a
group's list of matches is bounded (all together by MATCH_BYTES); what is overwritten in it, or
dropped by the ring, sends the watcher back to history.

Invariants
1. order: a group's matches ascend; those at tail and behind it are kept.
2. join: a watcher's matches from its cursor on are exactly the events behind join_rev.
3. treap: (start, end) ascends in order, `order` is a heap, `widest` is true.
4. parked: a parked waiter's watcher has no news; a waiter is in one list at most.

Estimate: an event that nobody watches costs one compare; with 1,000 ranges ~10 compares of hot keys
in the treap and one probe of the table, 0.3 us; each match one append, 5 ns.
Thread safety: the owner's lock.  May not know: index, log, Python.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from kvcore._native cimport (KV_NOMEM, KV_OK, KvSlice, kv_assert, kv_cond_signal, kv_hash,
                             kv_store_int)
from kvcore._ring cimport (RING_INCREMENTAL, RingRecord, ring_at, ring_deinit, ring_init,
                           ring_push, ring_trim)
from kvcore._wakeups cimport ready_fire

cdef enum:
    FIRST_MATCHES = 8
    KEEP_MATCHES = 64            # a list no longer than this is kept when it is empty
    MATCH_BYTES = 16 << 20       # of all groups' lists together


# ---- the treap of ranges -------------------------------------------------------------------------

cdef inline void _set_widest(Group* g) noexcept nogil:
    cdef Group* w = g
    if g.left != NULL and compare_ends(g.left.widest.end, w.end) > 0:
        w = g.left.widest
    if g.right != NULL and compare_ends(g.right.widest.end, w.end) > 0:
        w = g.right.widest
    g.widest = w


cdef Group* _treap_insert(Group* t, Group* g) noexcept nogil:
    cdef Group* child
    if t == NULL:
        g.widest = g
        return g
    if compare_spans(t, g.start, g.end) > 0:
        t.left = _treap_insert(t.left, g)
        child = t.left
        if child.order < t.order:
            t.left = child.right
            child.right = t
            _set_widest(t)
            t = child
    else:
        t.right = _treap_insert(t.right, g)
        child = t.right
        if child.order < t.order:
            t.right = child.left
            child.left = t
            _set_widest(t)
            t = child
    _set_widest(t)
    return t


cdef Group* _treap_merge(Group* a, Group* b) noexcept nogil:
    """All of a comes before all of b."""
    if a == NULL:
        return b
    if b == NULL:
        return a
    if a.order < b.order:
        a.right = _treap_merge(a.right, b)
        _set_widest(a)
        return a
    b.left = _treap_merge(a, b.left)
    _set_widest(b)
    return b


cdef Group* _treap_remove(Group* t, Group* g) noexcept nogil:
    if t == g:
        return _treap_merge(t.left, t.right)
    if compare_spans(t, g.start, g.end) > 0:
        t.left = _treap_remove(t.left, g)
    else:
        t.right = _treap_remove(t.right, g)
    _set_widest(t)
    return t


cdef void _stab(Hub* h, Group* t, KvSlice key, const RingRecord* rec) noexcept nogil:
    """Every range that holds the key."""
    while t != NULL:
        if t.widest.end.ptr != NULL and compare_keys(t.widest.end, key) <= 0:
            return
        if t.left != NULL:
            _stab(h, t.left, key, rec)
        if compare_keys(t.start, key) > 0:
            return
        if t.end.ptr == NULL or compare_keys(t.end, key) > 0:
            _match(h, t, rec)
        t = t.right


# ---- groups --------------------------------------------------------------------------------------

cdef Group* _group_new(KvSlice start, KvSlice end, bint exact, uint64_t order) noexcept nogil:
    cdef Group* g = <Group*>calloc(1, sizeof(Group) + start.len + end.len)
    cdef uint8_t* bytes = <uint8_t*>g + sizeof(Group)
    if g == NULL:
        return NULL
    if start.len:
        memcpy(bytes, start.ptr, start.len)
    g.start.ptr = bytes
    g.start.len = start.len
    if end.ptr != NULL:
        memcpy(bytes + start.len, end.ptr, end.len)
        g.end.ptr = bytes + start.len
        g.end.len = end.len
    g.exact = exact
    g.order = order
    return g


cdef void _matches_free(Hub* h, Group* g) noexcept nogil:
    h.match_bytes -= g.slots * 8
    free(g.matches)
    g.matches = NULL
    g.slots = 0
    g.tail = g.head


cdef void _group_free(Hub* h, Group* g) noexcept nogil:
    _matches_free(h, g)
    free(g)


cdef int _grow_table(Hub* h) noexcept nogil:
    cdef uint64_t slots = h.slots * 2 if h.slots else 16
    cdef Group** grown = <Group**>calloc(slots, sizeof(Group*))
    cdef Group** old = h.table
    cdef Group* g
    cdef uint64_t i
    if grown == NULL:
        return KV_NOMEM
    for i in range(h.slots):
        while old[i] != NULL:
            g = old[i]
            old[i] = g.left
            g.left = grown[g.order & (slots - 1)]
            grown[g.order & (slots - 1)] = g
    free(old)
    h.table = grown
    h.slots = slots
    return KV_OK


cdef Group* _find_exact(const Hub* h, KvSlice key, uint64_t hash) noexcept nogil:
    cdef Group* g
    if h.slots == 0:
        return NULL
    g = h.table[hash & (h.slots - 1)]
    while g != NULL and not (g.order == hash and g.start.len == key.len
                             and memcmp(g.start.ptr, key.ptr, key.len) == 0):
        g = g.left
    return g


cdef Group* _find_range(const Hub* h, KvSlice start, KvSlice end) noexcept nogil:
    cdef Group* g = h.root
    cdef int c
    while g != NULL:
        c = compare_spans(g, start, end)
        if c == 0:
            return g
        g = g.left if c > 0 else g.right
    return NULL


cdef Group* _group_of(Hub* h, KvSlice start, KvSlice end, bint exact) noexcept nogil:
    """The group of a span, made if there is none; NULL: no memory."""
    cdef uint64_t hash = kv_hash(start.ptr, start.len, 0)
    cdef Group* g
    if exact:
        g = _find_exact(h, start, hash)
    else:
        g = _find_range(h, start, end)
        hash = kv_hash(end.ptr, end.len, hash)
    if g != NULL:
        return g
    if exact and h.exact_groups >= h.slots and _grow_table(h) != KV_OK:
        return NULL
    g = _group_new(start, end, exact, hash)
    if g == NULL:
        return NULL
    g.epoch = h.epoch
    if exact:
        g.left = h.table[hash & (h.slots - 1)]
        h.table[hash & (h.slots - 1)] = g
        h.exact_groups += 1
    else:
        h.root = _treap_insert(h.root, g)
        h.range_groups += 1
    return g


cdef void _group_drop(Hub* h, Group* g) noexcept nogil:
    cdef Group** p
    if g.exact:
        p = &h.table[g.order & (h.slots - 1)]
        while p[0] != g:
            p = &p[0].left
        p[0] = g.left
        h.exact_groups -= 1
    else:
        h.root = _treap_remove(h.root, g)
        h.range_groups -= 1
    _group_free(h, g)


# ---- matches -------------------------------------------------------------------------------------

cdef bint _grow_matches(Hub* h, Group* g) noexcept nogil:
    """Twice as many; False when there may not be more."""
    cdef uint64_t slots = g.slots * 2 if g.slots else FIRST_MATCHES
    cdef uint64_t* grown
    cdef uint64_t i
    if slots > h.max_slots or h.match_bytes + (slots - g.slots) * 8 > MATCH_BYTES:
        return False
    grown = <uint64_t*>malloc(slots * 8)
    if grown == NULL:
        return False
    for i in range(g.tail, g.head):
        grown[i & (slots - 1)] = g.matches[i & (g.slots - 1)]
    h.match_bytes += (slots - g.slots) * 8
    free(g.matches)
    g.matches = grown
    g.slots = slots
    return True


cdef void _make_room(Hub* h, Group* g) noexcept nogil:
    """The list is full: what everybody has seen goes, or what the ring has dropped; else it grows;
    else its older half goes, and who needed it falls back to history."""
    cdef Watcher* w = g.first
    cdef uint64_t low = g.head
    while w != NULL:
        if g.tail <= w.cursor < low:
            low = w.cursor
        w = w.next
    while low < g.head and g.matches[low & (g.slots - 1)] < h.ring.first:
        low += 1
    g.tail = low
    if g.head - low > g.slots // 2 and not _grow_matches(h, g):
        g.tail = g.head - g.slots // 2       # half is free: the next look is that far away


cdef inline bint _is_live(const Watcher* w) noexcept nogil:
    """All it has not seen is in the group's matches."""
    return w.next_rev > w.join_rev and not w.held_rows and not w.reading


cdef inline bint _unwanted(const Watcher* w, const RingRecord* rec) noexcept nogil:
    return w.flags & (WATCH_NO_PUT if rec.version else WATCH_NO_DELETE)


cdef void _match(Hub* h, Group* g, const RingRecord* rec) noexcept nogil:
    cdef Waiter* x
    cdef Watcher* w = g.first
    if g.watchers == 1 and _unwanted(w, rec):
        return                               # nor does it take the room of what is wanted
    if not h.pushed:
        h.pushed = True
        h.interest = 0
        h.push_status = ring_push(&h.ring, rec)
        h.events += 1
    h.interest += g.watchers
    if g.watchers == 1 and w.cursor == g.head and w.next_rev < rec.mod and _is_live(w):
        w.next_rev = rec.mod                 # it has seen all before: a compaction may take that
    if g.epoch != h.epoch:                   # the first match since a compaction
        g.epoch = h.epoch
        g.head_then = g.head
    if g.head - g.tail >= g.slots:
        if g.slots:
            _make_room(h, g)
        else:
            _grow_matches(h, g)
    if h.push_status == KV_OK and g.slots:
        g.matches[g.head & (g.slots - 1)] = h.ring.next - 1
        g.head += 1
    else:                                    # no memory: all of its watchers read history
        g.head += 1
        g.tail = g.head
    while g.parked != NULL:
        x = g.parked
        if x.watcher.next_rev < rec.mod and _is_live(x.watcher):
            x.watcher.next_rev = rec.mod     # it had seen everything before
        _wake_later(h, x)


# ---- waiters -------------------------------------------------------------------------------------

cdef void _unpark(Waiter* x) noexcept nogil:
    """Out of the group's list."""
    if x.prev == NULL:
        x.watcher.group.parked = x.next
    else:
        x.prev.next = x.next
    if x.next != NULL:
        x.next.prev = x.prev


cdef void _forget_sibling(Waiter* x) noexcept nogil:
    cdef Waiter** p = &x.watcher.waiters
    while p[0] != x:
        p = &p[0].sibling
    p[0] = x.sibling


cdef void _wake_later(Hub* h, Waiter* x) noexcept nogil:
    """From the group's list to the hub's."""
    _unpark(x)
    x.state = WAITER_WAKING
    x.next = NULL
    x.prev = NULL
    if x.cond == NULL:
        x.next = h.fire_head
        if h.fire_head != NULL:
            h.fire_head.prev = x
        h.fire_head = x
    else:
        x.prev = h.wake_tail
        if h.wake_tail == NULL:
            h.wake_head = x
        else:
            h.wake_tail.next = x
        h.wake_tail = x
    kv_store_int(&h.to_wake, 1)


cdef void _wake_unlink(Hub* h, Waiter* x) noexcept nogil:
    """Out of the hub's list."""
    if x.cond == NULL:
        if x.prev == NULL:
            h.fire_head = x.next
        else:
            x.prev.next = x.next
        if x.next != NULL:
            x.next.prev = x.prev
        return
    if x.prev == NULL:
        h.wake_head = x.next
    else:
        x.prev.next = x.next
    if x.next == NULL:
        h.wake_tail = x.prev
    else:
        x.next.prev = x.prev


cdef void hub_park(Hub* h, Watcher* w, Waiter* x) noexcept nogil:
    x.watcher = w
    x.state = WAITER_PARKED
    x.sibling = w.waiters
    w.waiters = x
    x.prev = NULL
    x.next = w.group.parked
    if x.next != NULL:
        x.next.prev = x
    w.group.parked = x


cdef void hub_unpark(Hub* h, Waiter* x) noexcept nogil:
    """Whichever list it is in.  A loop's may have been fired already: that is its waker's."""
    if x.state == WAITER_PARKED:
        _unpark(x)
        _forget_sibling(x)
        x.state = WAITER_FREE
    elif x.state == WAITER_WAKING:
        _wake_unlink(h, x)
        _forget_sibling(x)
        x.state = WAITER_FREE


cdef void hub_rouse(Hub* h, Watcher* w) noexcept nogil:
    cdef Waiter* x = w.waiters
    while x != NULL:
        if x.state == WAITER_PARKED:
            _wake_later(h, x)
        x = x.sibling


cdef void hub_wake(Hub* h, int threads) noexcept nogil:
    cdef Waiter* x
    while h.fire_head != NULL:
        x = h.fire_head
        _wake_unlink(h, x)
        _forget_sibling(x)
        x.state = WAITER_FIRED
        ready_fire(&x.ready)
    while threads and h.wake_head != NULL:
        x = h.wake_head
        _wake_unlink(h, x)
        _forget_sibling(x)
        x.state = WAITER_FREE
        kv_cond_signal(x.cond)
        threads -= 1
    if h.wake_head == NULL:
        kv_store_int(&h.to_wake, 0)


# ---- the writer's side ---------------------------------------------------------------------------

cdef void hub_event(Hub* h, KvSlice key, const RingRecord* rec) noexcept nogil:
    cdef Group* g
    if h.watchers == 0:
        return
    h.pushed = False
    if h.exact_groups:
        g = _find_exact(h, key, kv_hash(key.ptr, key.len, 0))
        if g != NULL:
            _match(h, g, rec)
    if h.root != NULL:
        _stab(h, h.root, key, rec)
    if not h.pushed:
        return
    h.matched += h.interest
    if h.push_status == KV_OK:
        ring_at(&h.ring, h.ring.next - 1).note = <uint8_t>min(h.interest, <uint64_t>255)
        ring_trim(&h.ring, 0)


cdef void hub_published(Hub* h, int64_t revision) noexcept nogil:
    cdef Watcher* w = h.held
    cdef Watcher* following
    while w != NULL:                         # rare: progress asked of a watch of the future
        following = w.held_next
        if w.start_rev <= revision:
            _release_held(h, w)
            w.asked_rev = revision           # nothing is told of what was before its start
            hub_rouse(h, w)
        w = following


cdef void hub_compacted(Hub* h, int64_t revision) noexcept nogil:
    h.epoch += 1
    h.epoch_rev = revision


cdef void hub_tick(Hub* h, int64_t revision) noexcept nogil:
    cdef Watcher* w = h.notify
    while w != NULL:
        if (not w.told and _is_live(w) and w.cursor == w.group.head
                and w.start_rev <= revision):
            hub_ask(h, w, revision)
        w.told = False
        w = w.notify_next


# ---- the watcher's side --------------------------------------------------------------------------

cdef int hub_add(Hub* h, Watcher* w, KvSlice start, KvSlice end, bint exact) noexcept nogil:
    cdef Group* g = _group_of(h, start, end, exact)
    if g == NULL:
        return KV_NOMEM
    w.group = g
    w.prev = NULL
    w.next = g.first
    if g.first != NULL:
        g.first.prev = w
    g.first = w
    g.watchers += 1
    h.watchers += 1
    w.cursor = g.head
    if w.flags & WATCH_NOTIFY:
        w.notify_prev = NULL
        w.notify_next = h.notify
        if h.notify != NULL:
            h.notify.notify_prev = w
        h.notify = w
    return KV_OK


cdef void _release_held(Hub* h, Watcher* w) noexcept nogil:
    if not w.held:
        return
    w.held = False
    if w.held_prev == NULL:
        h.held = w.held_next
    else:
        w.held_prev.held_next = w.held_next
    if w.held_next != NULL:
        w.held_next.held_prev = w.held_prev


cdef void hub_remove(Hub* h, Watcher* w) noexcept nogil:
    cdef Group* g = w.group
    if g == NULL:
        return
    hub_rouse(h, w)
    _release_held(h, w)
    if w.flags & WATCH_NOTIFY:
        if w.notify_prev == NULL:
            h.notify = w.notify_next
        else:
            w.notify_prev.notify_next = w.notify_next
        if w.notify_next != NULL:
            w.notify_next.notify_prev = w.notify_prev
    if w.prev == NULL:
        g.first = w.next
    else:
        w.prev.next = w.next
    if w.next != NULL:
        w.next.prev = w.prev
    w.group = NULL
    g.watchers -= 1
    h.watchers -= 1
    if g.watchers == 0:
        _group_drop(h, g)


cdef void hub_ask(Hub* h, Watcher* w, int64_t revision) noexcept nogil:
    w.asked = True
    w.asked_rev = revision
    if w.start_rev > revision:
        if not w.held:
            w.held = True
            w.held_prev = NULL
            w.held_next = h.held
            if h.held != NULL:
                h.held.held_prev = w
            h.held = w
        return
    hub_rouse(h, w)


cdef void taken_free(Taken* t) noexcept nogil:
    free(t.recs)
    free(t.seqs)
    memset(t, 0, sizeof(Taken))


cdef int taken_push(Taken* t, const RingRecord* rec, uint64_t seq) noexcept nogil:
    cdef void* p
    cdef uint64_t cap
    if t.n == t.cap:
        cap = t.cap * 2 + 4
        p = realloc(t.recs, cap * sizeof(RingRecord))
        if p == NULL:
            return KV_NOMEM
        t.recs = <RingRecord*>p
        p = realloc(t.seqs, cap * 8)
        if p == NULL:
            return KV_NOMEM
        t.seqs = <uint64_t*>p
        t.cap = cap
    t.recs[t.n] = rec[0]
    t.seqs[t.n] = seq
    t.n += 1
    return KV_OK


cdef void _fall_behind(Hub* h, Watcher* w, int64_t revision) noexcept nogil:
    """What it has not seen comes from history, up to now."""
    cdef Group* g = w.group
    cdef uint64_t then = g.head_then if g.epoch == h.epoch else g.head
    if h.epoch and w.cursor >= then and w.next_rev <= h.epoch_rev:
        w.next_rev = h.epoch_rev + 1         # it had nothing left to see at the compaction
    w.cursor = g.head
    w.join_rev = revision
    h.behind += 1


cdef int hub_take(Hub* h, Watcher* w, int64_t revision, uint64_t limit, Taken* out) noexcept nogil:
    cdef Group* g = w.group
    cdef RingRecord* rec
    cdef uint64_t i = w.cursor, seq
    cdef int64_t last = 0
    out.n = 0
    out.progress = False
    out.in_history = False
    if w.next_rev <= w.join_rev:
        return TAKE_HISTORY
    if i < g.tail:
        _fall_behind(h, w, revision)
        return TAKE_HISTORY if w.next_rev <= w.join_rev else TAKE_OK
    while i < g.head:
        seq = g.matches[i & (g.slots - 1)]
        rec = ring_at(&h.ring, seq)
        if rec == NULL:
            kv_assert(out.n == 0, "the ring drops the oldest first")
            _fall_behind(h, w, revision)
            return TAKE_HISTORY if w.next_rev <= w.join_rev else TAKE_OK
        if rec.mod != last and (out.n >= limit or (w.asked and not w.held
                                                   and rec.mod > w.asked_rev)):
            break
        i += 1
        last = rec.mod
        if rec.mod < w.next_rev or _unwanted(w, rec):
            continue
        if taken_push(out, rec, seq) != KV_OK:
            return KV_NOMEM                  # nothing was taken
    w.cursor = i
    if i == g.head:
        out.bookmark = revision
        if g.watchers == 1 and g.slots > KEEP_MATCHES:
            _matches_free(h, g)
    else:
        out.bookmark = last if last else w.asked_rev
    if out.n:
        w.told = True
    elif w.asked and not w.held:
        out.progress = True
        # Filtered events may lie before the question, delivered ones behind it.
        out.bookmark = max(max(out.bookmark, w.asked_rev), w.next_rev - 1)
        w.asked = False
    if w.asked and not w.held and out.n and limit > 1 and out.bookmark >= w.asked_rev:
        w.asked = False                      # a batch carries its bookmark with it
    if w.next_rev <= out.bookmark:
        w.next_rev = out.bookmark + 1
    return TAKE_OK


cdef bint hub_has_news(const Hub* h, const Watcher* w) noexcept nogil:
    if w.group == NULL or w.held_rows:
        return True
    return not w.reading and (w.next_rev <= w.join_rev or w.cursor < w.group.head
                              or (w.asked and not w.held))


# ---- life ----------------------------------------------------------------------------------------

cdef int hub_init(Hub* h, uint64_t capacity) noexcept nogil:
    memset(h, 0, sizeof(Hub))
    h.max_slots = FIRST_MATCHES
    while h.max_slots < 2 * capacity and h.max_slots < MATCH_BYTES:
        h.max_slots *= 2
    return ring_init(&h.ring, capacity, RING_INCREMENTAL, 0)


cdef void _close_group(Hub* h, Group* g) noexcept nogil:
    """Recursive on the treap, iterative on a hash chain (right is NULL there)."""
    cdef Group* following
    while g != NULL:
        if g.right != NULL:
            _close_group(h, g.right)
        following = g.left
        while g.first != NULL:
            g.first.held = False
            hub_rouse(h, g.first)
            g.first.group = NULL
            g.first = g.first.next
        _group_free(h, g)
        g = following


cdef void hub_close(Hub* h) noexcept nogil:
    cdef uint64_t i
    if h.closed:
        return
    h.closed = True
    for i in range(h.slots):
        _close_group(h, h.table[i])
    _close_group(h, h.root)
    free(h.table)
    h.table = NULL
    h.slots = 0
    h.root = NULL
    h.exact_groups = 0
    h.range_groups = 0
    h.watchers = 0
    h.notify = NULL
    h.held = NULL
    hub_wake(h, -1)


cdef void hub_deinit(Hub* h) noexcept nogil:
    hub_close(h)
    ring_deinit(&h.ring)
