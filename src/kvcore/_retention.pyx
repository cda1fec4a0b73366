# SPDX-License-Identifier: Apache-2.0
"""Retention: compaction by itself, by number of revisions or by their age.

    by number   ......|<------ n ------>| now     compact to now - n, once a sixteenth more is there
    by age      s1 s2 s3 ... s48 now              samples (time, newest revision then): the newest
                   ^ older than `ns`                that is old enough is where to compact to

Invariants: never-early - a revision that was the newest less than `ns` ago, or is one of the newest
n + 1, can be read; one-at-a-time - nothing is asked for while a sweep is under way.
A reopened store knows no times: it keeps longer, never shorter.
Thread safety: REQUIRES step_lock.  May not know: Python.  Source: etcd --auto-compaction-mode.
"""

from libc.stdint cimport int64_t, uint64_t

from kvcore._command cimport encode_compact
from kvcore._commit cimport Commit, Request, Retention, commit_call, request_drop, request_new
from kvcore._native cimport KV_OK, kv_mutex_lock, kv_mutex_unlock

cdef enum:
    SAMPLES = 64
    SAMPLES_PER_AGE = 48
    SLACK_PART = 16              # of what is kept may pile up before it is compacted


cdef int64_t _by_number(const Retention* k, int64_t revision, int64_t floor) noexcept nogil:
    if revision - k.revisions <= floor + k.revisions // SLACK_PART:
        return 0
    return revision - k.revisions


cdef int64_t _by_age(Retention* k, int64_t revision, uint64_t now_ns) noexcept nogil:
    cdef int64_t target = 0
    if k.next == k.first or now_ns >= k.at_ns[(k.next - 1) % SAMPLES] + k.ns // SAMPLES_PER_AGE:
        if k.next - k.first == SAMPLES:
            k.first += 1
        k.at_ns[k.next % SAMPLES] = now_ns
        k.revision[k.next % SAMPLES] = revision
        k.next += 1
    while k.first < k.next and k.at_ns[k.first % SAMPLES] + k.ns <= now_ns:
        target = k.revision[k.first % SAMPLES]
        k.first += 1
    return target


cdef void retention_step(Commit* c, uint64_t now_ns) noexcept nogil:
    cdef Retention* k = &c.retention
    cdef Request* r
    cdef int64_t revision, floor, target
    if k.revisions == 0 and k.ns == 0:
        return
    kv_mutex_lock(&c.lock)
    revision = 0 if c.closed or c.stopped or c.state.tree.floor_next > c.state.tree.floor else (
        c.state.revision)
    floor = c.state.compact_revision if c.state.compact_revision > 1 else 1
    kv_mutex_unlock(&c.lock)
    if revision == 0:
        return
    target = _by_age(k, revision, now_ns) if k.ns else _by_number(k, revision, floor)
    if target <= floor:
        return
    r = request_new(False)
    if r == NULL:
        return
    r.count = 1
    if encode_compact(&r.cmd, target) == KV_OK:
        commit_call(c, r)                    # when it fails the next one forgets more
    request_drop(r)
