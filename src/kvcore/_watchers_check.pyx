# SPDX-License-Identifier: Apache-2.0
"""Walks the index of watchers and names the first invariant of _watchers that does not hold.

Thread safety: the owner's lock.  May not know: how it changes.
"""

from libc.stdint cimport uint64_t

from kvcore._watchers cimport (WAITER_PARKED, Group, Hub, Waiter, Watcher, compare_ends,
                               compare_spans, hub_has_news)


cdef const char* _check_group(const Hub* h, const Group* g, uint64_t* watchers,
                              uint64_t* bytes) noexcept nogil:
    cdef const Watcher* w = g.first
    cdef const Waiter* x = g.parked
    cdef uint64_t n = 0, i
    while w != NULL:
        if w.group != g or w.cursor > g.head:
            return b"watchers: a watcher is not its group's, or ahead of it"
        n += 1
        w = w.next
    while x != NULL:
        if x.state != WAITER_PARKED or hub_has_news(h, x.watcher):
            return b"watchers, parked: somebody waits although there is news"
        x = x.next
    if n == 0 or n != g.watchers:
        return b"watchers: a group has another number of watchers than it says"
    if g.tail > g.head or g.head - g.tail > g.slots:
        return b"watchers, order: a group keeps more matches than it has room for"
    i = g.tail + 1
    while i < g.head:
        if g.matches[i & (g.slots - 1)] <= g.matches[(i - 1) & (g.slots - 1)]:
            return b"watchers, order: a group's matches do not ascend"
        i += 1
    watchers[0] += n
    bytes[0] += g.slots * 8
    return NULL


cdef const char* _check_treap(const Hub* h, const Group* g, const Group** before, uint64_t* groups,
                              uint64_t* watchers, uint64_t* bytes) noexcept nogil:
    cdef const char* broken
    cdef const Group* w = g
    if g.left != NULL:
        if g.left.order < g.order:
            return b"watchers, treap: a child has precedence over its parent"
        broken = _check_treap(h, g.left, before, groups, watchers, bytes)
        if broken != NULL:
            return broken
        if compare_ends(g.left.widest.end, w.end) > 0:
            w = g.left.widest
    if before[0] != NULL and compare_spans(before[0], g.start, g.end) >= 0:
        return b"watchers, treap: spans do not ascend"
    before[0] = g
    groups[0] += 1
    broken = _check_group(h, g, watchers, bytes)
    if broken != NULL:
        return broken
    if g.right != NULL:
        if g.right.order < g.order:
            return b"watchers, treap: a child has precedence over its parent"
        broken = _check_treap(h, g.right, before, groups, watchers, bytes)
        if broken != NULL:
            return broken
        if compare_ends(g.right.widest.end, w.end) > 0:
            w = g.right.widest
    if compare_ends(w.end, g.widest.end) != 0:
        return b"watchers, treap: a subtree does not know its last end"
    return NULL


cdef const char* hub_check(const Hub* h) noexcept nogil:
    cdef uint64_t watchers = 0, bytes = 0, groups = 0, i
    cdef const Group* before = NULL
    cdef const Group* g
    cdef const char* broken = NULL
    for i in range(h.slots):
        g = h.table[i]
        while g != NULL and broken == NULL:
            if (g.order & (h.slots - 1)) != i:
                return b"watchers: a group is in another slot than its hash says"
            broken = _check_group(h, g, &watchers, &bytes)
            groups += 1
            g = g.left
    if broken == NULL and groups != h.exact_groups:
        return b"watchers: another number of exact groups than it says"
    groups = 0
    if broken == NULL and h.root != NULL:
        broken = _check_treap(h, h.root, &before, &groups, &watchers, &bytes)
    if broken == NULL and (groups != h.range_groups or watchers != h.watchers
                           or bytes != h.match_bytes):
        return b"watchers: the counters do not agree with what is there"
    return broken
