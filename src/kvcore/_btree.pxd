# SPDX-License-Identifier: Apache-2.0
"""The MVCC index: a B+-tree over keys, each with its versions.  Layout: docs/index-layout.md.

This is the face other modules cimport; each function's contract stands in the file it comes from.

    _tree.pxd     the structs                 _tree_write   bt_put, bt_delete, bt_move
    _node.pxd     columns, search (inline)    _tree_read    bt_find.., bt_scan, bt_count, bt_history
    _build        nodes from entries          _tree_sweep   bt_compact.., bt_load..
    _epoch        snapshots, dead lists       _tree_check   bt_stats, bt_check

All functions are nogil, raise nothing, return a kv_status.  The caller holds the tree's lock for
every function that takes `BTree*` without const; those that take a `BtView` read an immutable
snapshot and need no lock, or read the live root and need it.
"""

from kvcore._epoch cimport bt_drain_step, bt_release, bt_snapshot, bt_view
from kvcore._tree cimport (
    BT_MAX_DEPTH, BT_MAX_ORDER, BT_MIN_ORDER, BTree, BtFilter, BtSnapshot, BtStats, BtView,
)
from kvcore._tree_check cimport bt_check, bt_stats
from kvcore._tree_read cimport (
    bt_count, bt_dump, bt_find, bt_find_at, bt_find_many, bt_history, bt_leased, bt_mods, bt_scan,
)
from kvcore._tree_sweep cimport (
    BtLoader, bt_compact, bt_compact_step, bt_load_begin, bt_load_end, bt_load_push,
)
from kvcore._tree_write cimport bt_deinit, bt_delete, bt_init, bt_move, bt_put
