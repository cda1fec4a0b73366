# SPDX-License-Identifier: Apache-2.0
"""Ranges: what they read from, and their answer."""

from libc.stdint cimport int64_t

from kvcore._btree cimport BtView
from kvcore._command cimport RangeCmd
from kvcore._native cimport KvSlice
from kvcore._result cimport KvResult
from kvcore._wal cimport Wal


# What a reader needs: a view and the revisions that go with it.
cdef struct KvReader:
    BtView view
    const Wal* wal
    int64_t revision             # newest revision in the view
    int64_t shown_revision       # what a range inside a transaction reports
    int64_t compact_revision


# Answers a range as etcd does; adds one answer to `out`.  KV_OK or what is wrong with the request.
cdef int answer_range(const KvReader* r, const RangeCmd* q, KvResult* out) noexcept nogil
cdef int compare_slices(KvSlice a, KvSlice b) noexcept nogil
