# SPDX-License-Identifier: Apache-2.0
"""Bugs of watches, the ring and the watch cache."""

from .mutant import Mutant

WATCH = (
    Mutant(
        name="event_missed_when_overtaken",
        loses="A watch that was overtaken misses the newest change of that moment.",
        file="_watchers.pyx",
        old="    w.cursor = g.head\n    w.join_rev = revision\n",
        new="    w.cursor = g.head\n    w.join_rev = revision - 1\n",
        tests=("test_watch_edges.py::test_slow_watches_of_a_tiny_ring",),
    ),
    Mutant(
        name="end_is_inside",
        loses="A watch hears of the key at the end of its range, which is not in it.",
        file="_watchers.pyx",
        old="if t.end.ptr == NULL or compare_keys(t.end, key) > 0:",
        new="if t.end.ptr == NULL or compare_keys(t.end, key) >= 0:",
        tests=("test_watch.py::test_many_spans_side_by_side",),
    ),
    Mutant(
        name="filter_of_the_other_kind",
        loses="A watch without puts hears of puts, and of no deletion.",
        file="_watchers.pyx",
        old="WATCH_NO_PUT if rec.version else WATCH_NO_DELETE",
        new="WATCH_NO_DELETE if rec.version else WATCH_NO_PUT",
        tests=("test_watch.py::test_filters",),
    ),
    Mutant(
        name="history_filter_of_the_other_kind",
        loses="What a filtered watch reads from history is what it asked not to hear.",
        file="_tree_read.pyx",
        old="(puts if v.version else deletes)",
        new="(deletes if v.version else puts)",
        tests=("test_watch.py::test_filters",),
    ),
    Mutant(
        name="progress_too_early",
        loses="Progress says that all up to a revision was delivered, before it was.",
        file="_watchers.pyx",
        old="and rec.mod > w.asked_rev)):",
        new="and rec.mod >= w.asked_rev)):",
        tests=("test_watch.py::test_progress_when_asked",),
    ),
    Mutant(
        name="prev_kv_is_the_new_one",
        loses="The previous value of an event is its own.",
        file="_watch.pyx",
        old="bt_find_at(&view, keys[i], recs[i].mod - 1, &found[i])",
        new="bt_find_at(&view, keys[i], recs[i].mod, &found[i])",
        tests=("test_watch.py::test_prev_kv",),
    ),
    Mutant(
        name="prev_kv_of_another_event",
        loses="In a large batch, events carry the previous values of others.",
        file="_watch.pyx",
        old="keys, n, found + base)",
        new="keys, n, found)",
        tests=("test_watch_delivery.py::test_prev_kv_of_a_long_batch",),
    ),
    Mutant(
        name="prev_kv_shared_with_who_did_not_ask",
        loses="Of two watches, one with prev_kv and one without, one gets the other's event.",
        file="_event.pyx",
        old="(2 * seq + (before != NULL)) % CACHE_SLOTS",
        new="(2 * seq) % CACHE_SLOTS",
        tests=("test_watch.py::test_prev_asked_by_one_of_two",),
    ),
    Mutant(
        name="waiter_not_woken",
        loses="A thread that waits for a change sleeps on when it comes.",
        file="_watchers.pyx",
        old="        _wake_later(h, x)\n\n\n# ---- waiters",
        new="        _unpark(x)\n\n\n# ---- waiters",
        tests=("test_watch_edges.py::test_get_waits",),
        seconds=40,
    ),
    Mutant(
        name="read_up_watch_compacted",
        loses="A watch that has seen everything ends with CompactedError behind a compaction.",
        file="_watchers.pyx",
        old="        w.next_rev = rec.mod                 # it has seen all before",
        new="        pass                                 # it has seen all before",
        tests=("test_watch.py::test_read_up_watch_survives_compaction",
               "test_watch.py::test_compaction_below_the_backlog"),
    ),
    Mutant(
        name="pass_undoes_what_was_given_back",
        loses="An event that one reader could not hand out is skipped when another read history "
              "meanwhile.",
        file="_watch.pyx",
        old="rows.c.n if self.w.next_rev == self.fresh_from else 0",
        new="rows.c.n",
        tests=("test_watch_faults.py::test_given_back_during_a_pass",),
    ),
    Mutant(
        name="given_back_forwards",
        loses="Of two readers that could not hand out what they took, only the later one's is "
              "delivered again.",
        file="_watch.pyx",
        old=" and mod < self.w.next_rev:",
        new=":",
        tests=("test_watch_faults.py::test_given_back_during_a_pass",),
    ),
    Mutant(
        name="gone_watch_stays_in_a_list",
        loses="A watch that was dropped while its progress was awaited is written to.",
        file="_watchers.pyx",
        old="    hub_rouse(h, w)\n    _release_held(h, w)\n",
        new="    hub_rouse(h, w)\n",
        tests=("test_watch_edges.py::test_forgotten_while_its_progress_waits",),
    ),
    Mutant(
        name="cache_hides_its_gap",
        loses="Who resumes from a version that the cache has dropped is not told, and misses "
              "events.",
        file="_watch_cache.pyx",
        old="if q.since < q.dropped_mod:",
        new="if False:",
        tests=("test_watch_cache.py::test_the_oldest_ninth_goes_at_110_percent",),
    ),
)
