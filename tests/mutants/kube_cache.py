# SPDX-License-Identifier: Apache-2.0
"""Bugs of the API server's watch cache, lists and watches."""

from .mutant import Mutant

KUBE_CACHE = (
    Mutant(
        name="kube_seam_after_initial",
        loses="The first change behind a watch's initial objects is not told.",
        file="kube/watching.py",
        old="    cacher.watch(watcher, revision)\n    lines, size",
        new="    cacher.watch(watcher, revision + 1)\n    lines, size",
        tests=("kube/test_watch_kube.py::test_from_nowhere",),
    ),
    Mutant(
        name="kube_seam_after_the_past",
        loses="What is written while a watch catches up is not told.",
        file="kube/watching.py",
        old="        if reached == revision:\n            cacher.watch(watcher, revision)",
        new="        if len(changes) < SLICE:\n"
            "            cacher.watch(watcher, call.api.feed.revision + 1)",
        tests=("kube/test_watch_kube.py::test_beginnings",),
    ),
    Mutant(
        name="kube_history_without_floor",
        loses="What a watch was told out of the store's history it is told once more.",
        file="kube/watching.py",
        old="        revision = max(revision, reached)\n",
        new="",
        tests=("kube/test_watch_kube.py::test_the_history_is_ahead_of_the_feed",),
    ),
    Mutant(
        name="kube_prev_not_looked_at",
        loses="A selector's watcher is not told that an object ceased to match.",
        file="kube/watcher.py",
        old="before = self.wants(change.prev)",
        new="before = False",
        tests=("kube/test_watch_kube.py::test_selector_transitions",),
    ),
    Mutant(
        name="kube_bookmark_ahead",
        loses="A client that comes back with a bookmark's version misses a change.",
        file="kube/watching.py",
        old="            if watcher.lines:\n",
        new="            if watcher.lines and clock() < min(due, last_one):\n",
        tests=("kube/test_watch_kube.py::test_a_bookmark_waits_for_the_lines_before_it",),
    ),
    Mutant(
        name="kube_namespace_not_checked",
        loses="A kubelet's watch of one namespace shows the pods of others.",
        file="kube/watcher.py",
        old="entry is not None and entry.key.startswith(self.scope)",
        new="entry is not None",
        tests=("kube/test_watch_kube.py::test_namespaces_and_names",),
    ),
    Mutant(
        name="kube_trigger_of_the_new_only",
        loses="A kubelet is not told that its pod was moved to another node.",
        file="kube/caching.py",
        old="for entry in (change.entry, change.prev)\n",
        new="for entry in (change.entry or change.prev,)\n",
        tests=("kube/test_watch_kube.py::test_selector_transitions",),
    ),
    Mutant(
        name="kube_list_ahead_of_its_version",
        loses="A list holds what its resourceVersion does not: a watch from there tells it again.",
        file="kube/feed.py",
        old="            self.catch_up()                   # the store may have compacted what is "
            "older\n",
        new="            self.revision = self.store.revision - 1\n",
        tests=("kube/test_cacher.py::test_a_cache_begins_where_the_feed_is",),
    ),
    Mutant(
        name="kube_ring_before_it_began",
        loses="A watch from before the cache began misses what was before it, without a 410.",
        file="kube/caching.py",
        old="        if revision < self.oldest:\n",
        new="        if revision < 0:\n",
        tests=("kube/test_watch_kube.py::test_beginnings",),
    ),
    Mutant(
        name="kube_watchers_kept_over_a_restart",
        loses="Watchers that missed changes while the feed was down go on as if nothing was.",
        file="kube/feed.py",
        old="        for cacher in self.cachers.values():\n            cacher.close_all()\n",
        new="",
        tests=("kube/test_watch_kube.py::test_feeds_end",
               "kube/test_cacher.py::test_a_watch_that_ends_begins_anew"),
    ),
    Mutant(
        name="kube_slow_watcher_kept",
        loses="A client that does not read takes the server's memory.",
        file="kube/watcher.py",
        old="            self.too_slow = True\n            return False\n",
        new="            self.too_slow = True\n",
        tests=("kube/test_watch_kube.py::test_who_does_not_read_is_closed",),
    ),
    Mutant(
        name="kube_damage_is_a_deletion",
        loses="A list leaves out an object whose bytes are damaged, and controllers delete what "
              "hangs on it.",
        file="kube/caching.py",
        old="        if not self.damaged:\n            return\n",
        new="        return\n",
        tests=("kube/test_list.py::test_what_is_no_object",),
    ),
)
