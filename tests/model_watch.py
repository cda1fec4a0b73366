# SPDX-License-Identifier: Apache-2.0
"""ModelWatch: what a watch must deliver, from the whole history of a naive store.

    history, sorted by (mod, sub) ──► of the span, not filtered, from `next` on ──► by revision

A compaction may leave it a choice, and only these:
    what was due to the watch and is older than the compaction   delivered whole, or CompactedError
    the pair before an event, older than the compaction          there or not
    a change followed by another of its key in one revision      there or not
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple

import models

from kvcore import errors


class Event(NamedTuple):
    """Of the model, and what `plain` makes of kvcore's."""

    type: str
    kv: models.KeyValue
    prev_kv: models.KeyValue | None
    is_create: bool


def plain(event: Any) -> Event:
    """kvcore's event as tuples, its values read."""
    before = None if event.prev_kv is None else _pair(event.prev_kv)
    return Event(event.type, _pair(event.kv), before, event.is_create)


def _pair(kv: Any) -> models.KeyValue:
    return models.KeyValue(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version,
                           kv.lease)


def span_of(key: bytes | None = None, end: bytes | None = None, *,
            prefix: bytes | None = None) -> models.Span:
    """The span of a watch's arguments: etcd reads an empty key as the smallest one."""
    if prefix is None and key is not None:
        return models.Span(key or b"\0", end or b"")
    return models.Range(prefix=prefix).span


class ModelWatch:
    """A watch on a model; `next` is the first revision that was not delivered yet."""

    def __init__(self, model: models.ModelStore, span: models.Span, start_revision: int = 0, *,
                 prev_kv: bool = False, no_put: bool = False, no_delete: bool = False) -> None:
        if start_revision < 0:
            raise errors.CompactedError()
        self.model = model
        self.span = span
        self.start = start_revision or model.revision + 1
        self.next = self.start
        self.prev_kv = prev_kv
        self.no_put = no_put
        self.no_delete = no_delete
        self.compacted = 0 < start_revision < model.compacted
        self.joined = self.start > model.revision  # has read all of the history it began with

    def due(self) -> list[tuple[int, list[Event]]]:
        """What is to come, a revision at a time."""
        rows = sorted((change.mod, change.sub, key, change)
                      for key, changes in self.model.history.items() if self.span.holds(key)
                      for change in changes if change.mod >= self.next and self._wanted(change))
        return [(mod, [self._event(key, change) for _, _, key, change in group])
                for mod, group in groupby(rows, key=lambda row: row[0])]

    def may_be_compacted(self) -> bool:
        """Whether CompactedError is an answer: something to come, or not yet looked at, is gone.

        A watch that a small ring overtook may not know that all it passed over was filtered away
        (docs/watch.md): what counts is where it stands."""
        if self.compacted or self.next < self.model.compacted:
            return True
        return any(mod < self.model.compacted for mod, _ in self.due())

    def accept(self, revision: int, events: list[Event]) -> None:
        """The next revision was delivered, or this is an AssertionError."""
        due = self.due()
        assert due, f"revision {revision} was delivered, nothing was due"
        wanted, expected = due[0]
        assert revision == wanted, f"revision {revision} was delivered, {wanted} was due"
        if revision <= self.model.compacted:
            expected = self._without_optional(expected, events)
        assert [e._replace(prev_kv=None) for e in events] == [
            e._replace(prev_kv=None) for e in expected]
        for event, model in zip(events, expected, strict=True):
            may_miss = event.prev_kv is None and revision - 1 < self.model.compacted
            assert event.prev_kv == model.prev_kv or may_miss, (event, model)
        self.next = revision + 1

    def quiet(self, revision: int) -> None:
        """Everything up to the revision was delivered, or this is an AssertionError."""
        late = [mod for mod, _ in self.due() if mod <= revision]
        assert not late, f"said to be delivered up to {revision}, missing {late}"
        self.next = max(self.next, revision + 1)
        self.joined = self.joined or self.next > self.model.revision

    def _without_optional(self, expected: list[Event], events: list[Event]) -> list[Event]:
        keys = [e.kv.key for e in expected]
        got = [(e.kv.key, e.type) for e in events]
        return [e for i, e in enumerate(expected)
                if e.kv.key not in keys[i + 1:] or (e.kv.key, e.type) in got]

    def _wanted(self, change: models.Change) -> bool:
        return not (self.no_delete if change.value is None else self.no_put)

    def _event(self, key: bytes, change: models.Change) -> Event:
        before = self.model.live_at(key, change.mod - 1) if self.prev_kv else None
        if change.value is None:
            return Event("DELETE", models.KeyValue(key, b"", 0, change.mod, 0, 0), before, False)
        return Event("PUT", change.of(key), before, change.version == 1)
