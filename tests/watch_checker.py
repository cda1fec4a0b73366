# SPDX-License-Identifier: Apache-2.0
"""Records what every watch of a test delivers, and checks it against what happened.

    Store.watch ─► RecordedWatch ─► Record: Delivery, Delivery, ...  ─┐
    Store.compact, close ─► History.take: Store._versions() ──────────┴► violations()

The rules are those of etcd's robustness suite. A finding begins with the name of its rule:
    filter        every event is of the span, of a wanted type, and not before the start
    ordered       revisions ascend, and within one the order of its changes
    unique        no event twice
    atomic        a revision in one piece, with nothing else in its response
    bookmarkable  behind "delivered up to R" comes nothing of R or before
    resumable     the first event is the first one from the start on
    reliable      no event is missing between two delivered ones, or below a bookmark
    prev_kv       the pair before the revision; none for a creation, none unless asked for
    is_create     set for the first version of a key, and for nothing else
    fields        versions, leases and revisions as they were; a DELETE has a key and a revision
    compacted     only when something to come was older than the compaction; and it stays so
A poll without an answer counts as a bookmark: what was acknowledged before it was delivered.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import threading
import weakref
from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import model_watch
import models

import kvcore


class Row(NamedTuple):
    """One change that happened."""

    mod: int
    sub: int
    key: bytes
    create: int
    version: int  # 0: a deletion
    lease: int


class Seen(NamedTuple):
    """One event as it was delivered; prev: key, create, mod, version, lease."""

    type: str
    key: bytes
    mod: int
    create: int
    version: int
    lease: int
    is_create: bool
    prev: tuple[bytes, int, int, int, int] | None


class Delivery(NamedTuple):
    """One answer of a watch.

    kind      response | batch | progress | nothing | compacted
    revision  of the response; the bookmark; the store's before a poll; the compaction's
    upto      what the watch says to be delivered by now (next_revision - 1)
    compacted the store's compact_revision afterwards
    """

    reader: tuple[int, int]
    kind: str
    revision: int
    events: tuple[Seen, ...] = ()
    upto: int = 0
    compacted: int = 0

    @property
    def bookmark(self) -> int:
        """Every event up to here is delivered."""
        if self.kind == "compacted":
            return 0
        last = self.events[-1].mod if self.events else 0
        return max(last, self.upto, 0 if self.kind == "response" else self.revision)


class Record:
    """One watch: what was asked for, and what came."""

    def __init__(self, span: models.Span, start: int, *, prev_kv: bool = False,
                 no_put: bool = False, no_delete: bool = False) -> None:
        self.span = span
        self.start = start
        self.prev_kv = prev_kv
        self.no_put = no_put
        self.no_delete = no_delete
        self.deliveries: list[Delivery] = []
        self.wrong_start = ""
        self.shares_span = False             # with other watches of its store

    def __repr__(self) -> str:
        return f"<watch {self.span} from {self.start}>"

    def wants(self, row: Row) -> bool:
        return row.mod >= self.start and not (self.no_put if row.version else self.no_delete)


class Truth:
    """All that happened, as far as it was still to be seen when somebody looked."""

    def __init__(self, rows: Iterator[Row] | list[Row] = (), known: int = 0) -> None:
        self.rows: dict[tuple[int, int], Row] = {(row.mod, row.sub): row for row in rows}
        self.known = known  # complete up to here
        self._indexed = -1

    def add(self, rows: list[Row], known: int) -> None:
        for row in rows:
            old = self.rows.setdefault((row.mod, row.sub), row)
            assert old == row, f"a change became another: {old}, {row}"
        self.known = max(self.known, known)

    def _index(self) -> None:
        if self._indexed == len(self.rows):
            return
        self._indexed = len(self.rows)
        self._of_key: dict[bytes, list[Row]] = {}
        for position in sorted(self.rows):
            row = self.rows[position]
            self._of_key.setdefault(row.key, []).append(row)
        self._keys = sorted(self._of_key)
        self._spans: dict[models.Span, list[Row]] = {}

    def of_key(self, key: bytes) -> list[Row]:
        """Its changes in order."""
        self._index()
        return self._of_key.get(key, [])

    def of_span(self, span: models.Span) -> list[Row]:
        """The changes of all its keys in order; one look for all watches of a span."""
        self._index()
        if span.end == b"":
            return self.of_key(span.key)
        if span not in self._spans:
            first = bisect.bisect_left(self._keys, span.key)
            last = (len(self._keys) if span.end == b"\0"
                    else bisect.bisect_left(self._keys, span.end))
            rows = [row for key in self._keys[first:last] for row in self._of_key[key]]
            self._spans[span] = sorted(rows)
        return self._spans[span]

    def before(self, key: bytes, revision: int) -> Row | None:
        """The pair that a read at the revision would show."""
        rows = self.of_key(key)
        at = bisect.bisect_right(rows, revision, key=lambda row: row.mod)
        return rows[at - 1] if at and rows[at - 1].version else None


# --- the rules -----------------------------------------------------------------------------------


def violations(record: Record, truth: Truth) -> list[str]:
    """What is wrong with a record, each finding with its rule in front."""
    found = [record.wrong_start] if record.wrong_start else []
    found += _order(record, truth)
    found += _events(record, truth)
    found += _whole(record, truth)
    found += _compaction(record)
    return [f"{line}; {record}" for line in found]


def _sub_of(truth: Truth, event: Seen) -> int:
    for row in truth.of_key(event.key):
        if row.mod == event.mod and (row.version != 0) == (event.type == "PUT"):
            return row.sub
    return -1


def _order(record: Record, truth: Truth) -> Iterator[str]:
    """ordered and bookmarkable, as each reader of the watch saw it."""
    last: dict[tuple[int, int], tuple[int, int]] = {}
    marks: dict[tuple[int, int], int] = {}
    shared = len({delivery.reader for delivery in record.deliveries}) > 1
    for delivery in record.deliveries:
        reader = delivery.reader
        for event in delivery.events:
            position = (event.mod, _sub_of(truth, event))
            if position <= last.get(reader, (0, -1)) and event.mod <= truth.known:
                yield f"ordered: {event} at {position}, behind {last[reader]}"
            if event.mod <= marks.get(reader, 0):
                yield f"bookmarkable: {event} behind a bookmark at {marks[reader]}"
            last[reader] = position
        if delivery.kind in ("progress", "batch") and delivery.events:
            if delivery.events[-1].mod > delivery.revision:
                yield f"bookmarkable: bookmark {delivery.revision}, {delivery.events[-1]} with it"
        if delivery.kind != "nothing" or not shared:  # another reader may be about to take it
            marks[reader] = max(marks.get(reader, 0), delivery.bookmark)


def _events(record: Record, truth: Truth) -> Iterator[str]:
    """filter, unique, atomic, and every field of every event."""
    home: dict[int, int] = {}
    seen: set[tuple[int, bytes, str]] = set()
    for number, delivery in enumerate(record.deliveries):
        mods = {event.mod for event in delivery.events}
        if delivery.kind == "response" and mods != {delivery.revision}:
            yield f"atomic: a response of revision {delivery.revision} with events of {mods}"
        if delivery.kind in ("progress", "nothing", "compacted") and mods:
            yield f"atomic: events in an answer of kind {delivery.kind}"
        for mod in mods:
            if home.setdefault(mod, number) != number:
                yield f"atomic: revision {mod} in two pieces"
        for event in delivery.events:
            if (event.mod, event.key, event.type) in seen:
                yield f"unique: {event} came twice"
            seen.add((event.mod, event.key, event.type))
            if (not record.span.holds(event.key) or event.mod < record.start
                    or (record.no_put if event.type == "PUT" else record.no_delete)):
                yield f"filter: {event} was not asked for"
            if event.mod <= truth.known:
                yield from _fields(event, record, truth, delivery.compacted)


def _fields(event: Seen, record: Record, truth: Truth, compacted: int) -> Iterator[str]:
    """One event against the change it tells of."""
    changes = [row for row in truth.of_key(event.key) if row.mod == event.mod]
    row = next((r for r in changes if (r.version != 0) == (event.type == "PUT")), None)
    if event.type not in ("PUT", "DELETE") or row is None:
        yield f"reliable: {event} never happened"
        return
    told = (event.create, event.version, event.lease)
    if told != ((row.create, row.version, row.lease) if row.version else (0, 0, 0)):
        yield f"fields: {event} is not {row}"
    if event.is_create != (row.version == 1):
        yield f"is_create: {event} is version {row.version}"
    before = truth.before(event.key, event.mod - 1)
    if not record.prev_kv or before is None:
        if event.prev is not None:
            yield f"prev_kv: {event} should have none"
    elif event.prev is None:
        if event.mod - 1 >= compacted:
            yield f"prev_kv: {event} misses {before}"
    elif event.prev != (before.key, before.create, before.mod, before.version, before.lease):
        yield f"prev_kv: {event} should have {before}"


def _whole(record: Record, truth: Truth) -> Iterator[str]:
    """resumable and reliable: everything up to the last revision or bookmark was delivered."""
    delivered: Counter[tuple[int, bytes, str]] = Counter(
        (e.mod, e.key, e.type) for d in record.deliveries for e in d.events)
    upto = min(max((d.bookmark for d in record.deliveries), default=0), truth.known)
    compacted = max((d.compacted for d in record.deliveries), default=0)
    revisions = {e.mod for d in record.deliveries for e in d.events}
    first = min(revisions, default=upto + 1)
    rows = truth.of_span(record.span)
    begin = bisect.bisect_left(rows, record.start, key=lambda row: row.mod)
    end = bisect.bisect_right(rows, upto, key=lambda row: row.mod)
    following: set[tuple[int, bytes]] = set()
    for row in reversed(rows[begin:end]):
        again = (row.mod, row.key) in following  # changed once more in the same revision
        following.add((row.mod, row.key))
        if not record.wants(row) or (again and row.mod <= compacted):
            continue
        if not delivered[(row.mod, row.key, "PUT" if row.version else "DELETE")]:
            rule = ("atomic" if row.mod in revisions
                    else "resumable" if row.mod < first and revisions else "reliable")
            yield f"{rule}: {row} is missing, delivered up to {upto}"


def _compaction(record: Record) -> Iterator[str]:
    """compacted: only for who had something to come from before it; nothing comes behind it.

    One of several watches of a span that does not read may be told so although it had seen all
    (docs/watch.md): of it only events prove how far it was."""
    resume, ended = record.start, {}
    for delivery in record.deliveries:
        if delivery.kind != "compacted":
            if delivery.reader in ended:
                yield f"compacted: {delivery.kind} {delivery.revision} behind the error"
            seen_to = (max((event.mod for event in delivery.events), default=0)
                       if record.shares_span else delivery.bookmark)
            resume = max(resume, seen_to + 1)
            continue
        ended[delivery.reader] = True
        if not resume < delivery.revision <= delivery.compacted:
            yield (f"compacted: at {delivery.revision} (the store at {delivery.compacted}), "
                   f"delivered up to {resume - 1}")


# --- the recorder --------------------------------------------------------------------------------


class History:
    """The truth about one store, and the records of its watches."""

    def __init__(self, store: kvcore.Store) -> None:
        self.name = repr(store)
        self.store = weakref.ref(store)
        self.truth = Truth()
        self.records: list[Record] = []
        self._lock = threading.Lock()

    def take(self, store: kvcore.Store) -> None:
        """Adds what the index still holds; a store closed meanwhile has been looked at already."""
        if not self.records:
            return
        with self._lock, contextlib.suppress(kvcore.ClosedError, kvcore.ForkedError):
            known = store.revision
            self.truth.add([Row(mod, sub, key, create, version, lease)
                            for key, mod, sub, create, version, lease, _ in store._versions()],
                           known)

    def revision(self) -> int:
        """The store's by now, 0 when it is closed or gone."""
        return _revision(self.store())

    def compact_revision(self) -> int:
        store = self.store()
        with contextlib.suppress(kvcore.ClosedError):
            return store.compact_revision if store is not None else 1 << 62
        return 1 << 62  # nobody can tell any more

    def verify(self, counts: Counter[str] | None = None) -> None:
        """Checks all records, and forgets them."""
        store = self.store()
        if store is not None and not store.closed:
            self.take(store)
        records, self.records = self.records, []
        spans = Counter(record.span for record in records)
        for record in records:
            record.shares_span = spans[record.span] > 1
        wrong = [line for record in records for line in violations(record, self.truth)]
        if counts is not None:
            counts["watches checked"] += len(records)
            counts["watch events checked"] += sum(
                len(d.events) for record in records for d in record.deliveries)
        assert not wrong, f"{len(wrong)} violations in {self.name}:\n" + "\n".join(wrong[:10])


def verify(store: kvcore.Store) -> None:
    """Checks and forgets the records of one store now, for tests that make many."""
    history = store.__dict__.pop("_history", None)
    if history is not None:
        history.verify()
        history.truth = Truth()


def _revision(store: kvcore.Store | None) -> int:
    with contextlib.suppress(kvcore.ClosedError, kvcore.ForkedError):
        return store.revision if store is not None else 0
    return 0


def seen(event: Any) -> Seen:
    """An event without its values, so that none is read for the record."""
    kv, prev = event.kv, event.prev_kv
    before = None
    if prev is not None:
        before = (prev.key, prev.create_revision, prev.mod_revision, prev.version, prev.lease)
    return Seen(event.type, kv.key, kv.mod_revision, kv.create_revision, kv.version, kv.lease,
                event.is_create, before)


def _reader() -> tuple[int, int]:
    """Who asks: a thread, or a task of its loop."""
    loop = asyncio._get_running_loop()
    return threading.get_ident(), id(asyncio.current_task(loop)) if loop is not None else 0


class RecordedWatch:
    """Stands for a native watch (`native`) and writes down what it says."""

    def __init__(self, native: Any, record: Record, history: History) -> None:
        self.native = native
        self._record = record
        self._history = history

    def __getattr__(self, name: str) -> Any:
        return getattr(self.native, name)

    def __repr__(self) -> str:
        return repr(self.native)

    def __enter__(self) -> RecordedWatch:
        self.native.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self.native.__exit__(*error)

    def __iter__(self) -> RecordedWatch:
        return self

    def __aiter__(self) -> RecordedWatch:
        return self

    def get(self, *args: Any, **options: Any) -> Any:
        with self._listening() as before:
            response = self.native.get(*args, **options)
        self._write(response, before)
        return response

    def get_batch(self, *args: Any, **options: Any) -> Any:
        with self._listening():
            batch = self.native.get_batch(*args, **options)
        self._add("batch", batch.revision, tuple(map(seen, batch)))
        return batch

    def __next__(self) -> Any:
        with self._listening() as before:
            response = next(self.native)
        self._write(response, before)
        return response

    def __anext__(self) -> Any:
        return _Next(self, self.native.__anext__())

    @contextlib.contextmanager
    def _listening(self) -> Iterator[int]:
        try:
            yield self._history.revision()
        except kvcore.CompactedError as error:
            self._add("compacted", error.compact_revision)
            raise

    def _write(self, response: Any, before: int) -> None:
        if response is None:
            self._add("nothing", before)
        else:
            kind = "progress" if response.is_progress else "response"
            self._add(kind, response.revision, tuple(map(seen, response.events)))

    def _add(self, kind: str, revision: int, events: tuple[Seen, ...] = ()) -> None:
        self._record.deliveries.append(Delivery(
            _reader(), kind, revision, events, self.native.next_revision - 1,
            self._history.compact_revision()))


class _Next:
    """Awaits the next response; a cancelled wait records nothing, and must lose nothing."""

    def __init__(self, watch: RecordedWatch, native: Any) -> None:
        self.watch = watch
        self.native = native

    def __await__(self) -> Generator[Any, Any, Any]:
        with self.watch._listening() as before:
            response = yield from self.native.__await__()
        self.watch._write(response, before)
        return response


class Recording:
    """Records all watches of all stores while it is entered; `finish` checks them."""

    def __init__(self) -> None:
        self.histories: list[History] = []
        self._lock = threading.Lock()

    def of(self, store: kvcore.Store) -> History:
        """The history of a store, begun with its first watch."""
        with self._lock:
            history = store.__dict__.get("_history")
            if history is None:
                history = store.__dict__["_history"] = History(store)
                self.histories.append(history)
            return history

    def finish(self, counts: Counter[str]) -> None:
        for history in self.histories:
            history.verify(counts)

    @contextlib.contextmanager
    def patched(self) -> Iterator[Recording]:
        """Stores of this time are recorded."""
        kind = kvcore.Store
        own = {name: kind.__dict__.get(name) for name in ("watch", "compact", "submit", "close")}
        watch, compact, submit, close = (getattr(kind, name) for name in own)

        def take(store: kvcore.Store) -> None:
            if "_history" in store.__dict__:
                store.__dict__["_history"].take(store)

        def watch_recorded(store: kvcore.Store, *args: Any, **options: Any) -> RecordedWatch:
            before = _revision(store)
            return self._recorded(store, watch(store, *args, **options), before, args, options)

        def compact_seen(store: kvcore.Store, *args: Any, **options: Any) -> int:
            take(store)
            return compact(store, *args, **options)

        def submit_seen(store: kvcore.Store, op: Any) -> Any:
            if isinstance(op, kvcore.Compact):
                take(store)
            return submit(store, op)

        def close_seen(store: kvcore.Store) -> None:
            take(store)
            close(store)

        patches = (watch_recorded, compact_seen, submit_seen, close_seen)
        for name, patch in zip(own, patches, strict=True):
            patch.__doc__ = getattr(kind, name).__doc__
            setattr(kind, name, patch)
        try:
            yield self
        finally:
            for name, old in own.items():
                if old is None:
                    delattr(kind, name)
                else:
                    setattr(kind, name, old)

    def _recorded(self, store: kvcore.Store, native: Any, before: int, args: tuple[Any, ...],
                  options: dict[str, Any]) -> RecordedWatch:
        asked = dict(options)
        asked.pop("progress_notify", None)
        start = asked.pop("start_revision", 0)
        span = model_watch.span_of(*args, **{name: asked.pop(name) for name in (
            "key", "end", "prefix") if name in asked})
        record = Record(span, native.start_revision, **asked)
        low, high = (start, start) if start else (before + 1, _revision(store) + 1)
        if not low <= record.start <= max(high, low):
            record.wrong_start = f"resumable: starts at {record.start}, not in {low}..{high}"
        history = self.of(store)
        history.records.append(record)
        return RecordedWatch(native, record, history)
