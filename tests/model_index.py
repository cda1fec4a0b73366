# SPDX-License-Identifier: Apache-2.0
"""The naive index the real one is compared with: a dict of lists, no cleverness anywhere.

    {key: [(mod, create, version), ...]}     oldest first; version 0 is a tombstone
"""

from __future__ import annotations

import copy


class ModelIndex:
    """etcd's semantics, written down once more without any structure."""

    def __init__(self) -> None:
        self.history: dict[bytes, list[tuple[int, int, int]]] = {}
        self.extra: dict[tuple[bytes, int], tuple[int, int, int]] = {}
        self.compacted = 0

    def insert(self, key, rev, created=None, extra=(0, 0, 0)):
        versions = self.history.setdefault(key, [])
        if versions and versions[-1][2]:
            versions.append((rev, versions[-1][1], versions[-1][2] + 1))
        else:
            versions.append((rev, created if created is not None else rev, 1))
        self.extra[key, rev] = extra

    def delete(self, key, rev):
        versions = self.history.get(key)
        if not versions or not versions[-1][2]:
            return False
        versions.append((rev, 0, 0))
        return True

    def at(self, key, rev=0):
        seen = None
        for version in self.history.get(key, ()):
            if rev == 0 or version[0] <= rev:
                seen = version
        return (key, *seen, *self.extra[key, seen[0]]) if seen and seen[2] else None

    def range_at(self, start, end, rev=0):
        keys = sorted(k for k in self.history if start <= k and (end is None or k < end))
        return [row for row in (self.at(k, rev) for k in keys) if row]

    def surviving(self, rev):
        """The history that compaction at `rev` leaves visible: newest version <= rev and all
        newer."""
        out = {}
        for key, versions in self.history.items():
            old = [v for v in versions if v[0] <= rev][-1:]
            if old and old[0][2] == 0 and old[0][0] < rev:
                old = []
            kept = old + [v for v in versions if v[0] > rev]
            if kept:
                out[key] = kept
        return out

    def compact(self, rev):
        self.compacted = rev
        self.history = self.surviving(rev)

    def copy(self):
        return copy.deepcopy(self)
