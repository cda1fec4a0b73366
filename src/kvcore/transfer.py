# SPDX-License-Identifier: Apache-2.0
r"""The contents of a store as lines of JSON, and back.

    {"format": "kvcore export", "version": 1, "revision": 9, "prefix": "", "count": 2}
    {"lease": 7, "ttl": 60}                                      before the first key that has it
    {"key": "/a", "value": "text", "create_revision": 2, "mod_revision": 9, "version": 4,
     "lease": 7}                                                           (on one line)
    {"key_base64": "/w==", "value_base64": "AP8=", ...}          what is not UTF-8
    {"end": true, "count": 2, "sha256": "..."}                 over all lines before, with their \n

    export_lines: snapshot ─► pages ─► lines          import_lines: lines ─► checked ─► batches

Invariants: consistent - an export shows one revision; complete - an import that returns has read
the last line, and count and checksum were right; whole - keys go in by batches of lines that are
right, the last batch after the last line: of a wrong export whole batches are there, or nothing.
Revisions are told, not restored: what is imported is new. No history: one version of each key.
Thread safety: as the store; an iterator belongs to one thread.  May not know: files, the CLI.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kvcore._operation import prefix_end
from kvcore._result import KeyValue
from kvcore._snapshot import Snapshot
from kvcore.errors import (
    InvalidArgument,
    LeaseExistsError,
    LeaseNotFoundError,
    TransferError,
)
from kvcore.store import Store

__all__ = ["Header", "Imported", "check_lines", "export_lines", "import_lines"]

FORMAT, VERSION = "kvcore export", 1
PAGE = 500                   # rows taken from the snapshot at a time
BATCH_KEYS, BATCH_BYTES = 1000, 1 << 20
SHOWN = 60                   # characters of a wrong line in its message


@dataclass(frozen=True, slots=True)
class Header:
    """What the first line of an export says."""

    revision: int
    """The revision exported."""
    prefix: bytes
    count: int
    """Keys."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did."""

    header: Header
    keys: int
    leases: int
    """Leases granted."""
    detached: int
    """Keys that had a lease and have none now."""
    revision: int
    """Of the store afterwards."""


@dataclass(frozen=True, slots=True)
class _Lease:
    id: int
    ttl: int


@dataclass(frozen=True, slots=True)
class _Row:
    key: bytes
    value: bytes
    lease: int


# --- out ------------------------------------------------------------------------------------------

def export_lines(source: Store | Snapshot, *, prefix: bytes = b"",
                 revision: int | None = None) -> Iterator[str]:
    r"""The keys of a store or a snapshot as lines, each with its \n.

    Args: prefix: only keys that begin with it; revision: the store as it was then (default: now).
    Errors, when the first line is asked for: CompactedError, FutureRevisionError; then
    CorruptError. Cost: reads every value; memory for a page of 500. The leases of a Snapshot are
    not known: their ids are told, their ttl is not.

    >>> import kvcore
    >>> db = kvcore.open()
    >>> _ = db.put(b"/a", b"text"), db.put(b"/b", b"\x00\xff")
    >>> for line in export_lines(db, prefix=b"/b"):
    ...     print(line[:37])
    {"format": "kvcore export", "version"
    {"key": "/b", "value_base64": "AP8=",
    {"end": true, "count": 1, "sha256": "
    """
    if isinstance(source, Snapshot):
        yield from _signed(_rows(source, None, prefix, revision))
        return
    with source.snapshot() as snapshot:
        yield from _signed(_rows(snapshot, source, prefix, revision))


def _rows(snapshot: Snapshot, db: Store | None, prefix: bytes,
          revision: int | None) -> Iterator[dict[str, Any]]:
    start, end = (prefix, prefix_end(prefix)) if prefix else (b"\0", b"\0")
    count = snapshot.range(start, end, revision=revision, count_only=True).count
    yield {"format": FORMAT, "version": VERSION, "revision": revision or snapshot.revision,
           **_text("prefix", prefix), "count": count}
    told = {0}
    while True:
        page = snapshot.range(start, end, limit=PAGE, revision=revision)
        for kv in page:
            if db is not None and kv.lease not in told:
                told.add(kv.lease)
                ttl = db.lease_of(kv.lease).granted_ttl
                if ttl:                          # else it ended after the revision exported
                    yield {"lease": kv.lease, "ttl": ttl}
            yield _fields(kv)
        if not page.more:
            return
        start = page[-1].key + b"\0"


def _signed(objects: Iterator[dict[str, Any]]) -> Iterator[str]:
    digest, count = hashlib.sha256(), 0
    for fields in objects:
        line = json.dumps(fields) + "\n"
        digest.update(line.encode())
        count += "mod_revision" in fields
        yield line
    yield json.dumps({"end": True, "count": count, "sha256": digest.hexdigest()}) + "\n"


def _fields(kv: KeyValue) -> dict[str, Any]:
    return {**_text("key", kv.key), **_text("value", kv.value),
            "create_revision": kv.create_revision, "mod_revision": kv.mod_revision,
            "version": kv.version, "lease": kv.lease}


def _text(name: str, raw: bytes) -> dict[str, str]:
    try:
        return {name: raw.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(raw).decode()}


# --- in -------------------------------------------------------------------------------------------

def check_lines(lines: Iterable[str | bytes]) -> Header:
    """Read an export to its end and compare count and checksum; nothing is imported.

    Errors: TransferError with the number of the line.
    """
    header = None
    for _, record in _records(lines):
        if isinstance(record, Header):
            header = record
    assert header is not None                    # else _records has complained
    return header


def import_lines(db: Store, lines: Iterable[str | bytes], *, merge: bool = False,
                 leases: bool = False, progress: Callable[[int], None] | None = None) -> Imported:
    """Put the keys of an export into a store.

    Args: lines: as export_lines gives them, with or without their ends; merge: also into a store
    that has keys (those of the export win); leases: grant the leases of the export again, with
    their ids and full ttl, and attach their keys (default: those keys have none); progress: called
    with the number of keys put since the last call.
    Errors: TransferError (cut, changed, not an export; `line`, and `keys` put before), what putting
    raises. InvalidArgument: the store is not empty. check_lines finds out beforehand.
    Cost: put_many of up to 1,000 keys or 1 MiB each; one batch in memory.

    >>> import kvcore
    >>> one, two = kvcore.open(), kvcore.open()
    >>> _ = one.put_many([(b"/a", b"1"), (b"/b", b"2")])
    >>> import_lines(two, export_lines(one)).keys, two.range() == one.range()
    (2, True)
    """
    if not merge and db.range(count_only=True).count:
        raise InvalidArgument("the store is not empty; merge=True puts the keys beside its own")
    work = _Import(db, leases, progress)
    try:
        for number, record in _records(lines):
            work.take(number, record)
        work.flush()
    except TransferError as error:
        error = TransferError(line=error.line, reason=error.reason, keys=work.keys)
        raise error from None
    assert work.header is not None               # else _records has complained
    return Imported(work.header, work.keys, work.granted, work.detached, db.revision)


class _Import:
    """One import under way: the batch gathered, and what is through."""

    def __init__(self, db: Store, leases: bool, progress: Callable[[int], None] | None) -> None:
        self.header: Header | None = None
        self.keys = self.granted = self.detached = 0
        self._db, self._leases, self._progress = db, leases, progress
        self._batch: list[_Row] = []
        self._bytes = 0
        self._first = 0                          # line
        self._ttls: dict[int, int] = {}          # leases told
        self._known: set[int] = set()            # leases that are in the store

    def take(self, number: int, record: Header | _Lease | _Row) -> None:
        """One more line."""
        if isinstance(record, Header):
            self.header = record
        elif isinstance(record, _Lease):
            self._ttls[record.id] = record.ttl
        else:
            size = len(record.key) + len(record.value)
            if self._batch and (len(self._batch) >= BATCH_KEYS
                                or self._bytes + size > BATCH_BYTES):
                self.flush()
            self._first = self._first or number
            self._batch.append(record)
            self._bytes += size

    def flush(self) -> None:
        """Puts the batch."""
        by_lease: dict[int, list[tuple[bytes, bytes]]] = {}
        detached = 0
        for row in self._batch:
            lease = row.lease if self._leases and row.lease in self._ttls else 0
            detached += lease != row.lease
            by_lease.setdefault(lease, []).append((row.key, row.value))
        try:
            for lease in by_lease:
                self._grant(lease)
            for lease, pairs in by_lease.items():
                self._db.put_many(pairs, lease=lease)
        except (InvalidArgument, LeaseNotFoundError) as error:
            raise TransferError(line=self._first, reason="this or a line behind it does not fit "
                                f"the store: {error}") from error
        self.keys += len(self._batch)
        self.detached += detached
        if self._progress is not None:
            self._progress(len(self._batch))
        self._batch, self._bytes, self._first = [], 0, 0

    def _grant(self, lease: int) -> None:
        if lease == 0 or lease in self._known:
            return
        try:
            self._db.lease(self._ttls[lease], id=lease)
            self.granted += 1
        except LeaseExistsError:                 # of the store that is merged into: joined
            pass
        self._known.add(lease)


# --- one line -------------------------------------------------------------------------------------

def _records(lines: Iterable[str | bytes]) -> Iterator[tuple[int, Header | _Lease | _Row]]:
    """Every line but the last with its number, checked; the end only after the last was right."""
    digest, count, number, last = hashlib.sha256(), 0, 0, b""
    header, ended = None, False
    for number, line in enumerate(lines, 1):
        if ended:
            raise TransferError(line=number, reason="text behind the last line of the export")
        fields, raw = _object(number, line)
        if header is None:
            header = _header(number, fields)
            yield number, header
        elif "end" in fields:
            _check_end(number, fields, header.count, count, digest.hexdigest())
            ended = True
        elif "ttl" in fields:
            yield number, _Lease(_int(number, fields, "lease"), _int(number, fields, "ttl"))
        else:
            row = _Row(_bytes(number, fields, "key"), _bytes(number, fields, "value"),
                       _int(number, fields, "lease"))
            if row.key <= last:
                raise TransferError(line=number, reason="its key does not come behind the one "
                                                        "before")
            count, last = count + 1, row.key
            yield number, row
        digest.update(raw)
    if not ended:
        raise TransferError(line=number, reason="the export ends here, without its last line: it "
                                                "was cut" if number else "the export is empty")


def _object(number: int, line: str | bytes) -> tuple[dict[str, Any], bytes]:
    """The object of a line, and the bytes that the checksum is over."""
    raw = line.encode(errors="surrogateescape") if isinstance(line, str) else line
    raw = raw[:-1] if raw.endswith(b"\n") else raw
    try:
        found = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        shown = raw[:SHOWN].decode(errors="backslashreplace")
        raise TransferError(line=number, reason=f"not a line of JSON: {shown!r}: "
                                                f"{error}") from error
    if not isinstance(found, dict):
        raise TransferError(line=number, reason="not a JSON object")
    return found, raw + b"\n"


def _header(number: int, fields: dict[str, Any]) -> Header:
    if fields.get("format") != FORMAT:
        raise TransferError(line=number, reason=f'not an export: "format" is not "{FORMAT}"')
    version = _int(number, fields, "version")
    if version != VERSION:
        raise TransferError(line=number, reason=f"format version {version}; this kvcore reads "
                                                f"{VERSION}")
    return Header(revision=_int(number, fields, "revision"),
                  prefix=_bytes(number, fields, "prefix"), count=_int(number, fields, "count"))


def _check_end(number: int, fields: dict[str, Any], promised: int, count: int,
               digest: str) -> None:
    if fields["end"] is not True or _int(number, fields, "count") != count or promised != count:
        raise TransferError(line=number, reason=f"{count:,} keys were read, the first line "
                            f"promises {promised:,}, the last {fields.get('count')!r}")
    if fields.get("sha256") != digest:
        raise TransferError(line=number, reason="the checksum is wrong: a line before was changed")


def _int(number: int, fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not -1 << 63 <= value < 1 << 63:
        raise TransferError(line=number, reason=f'"{name}" is not a whole number of 64 bits')
    return value


def _bytes(number: int, fields: dict[str, Any], name: str) -> bytes:
    text, coded = fields.get(name), fields.get(f"{name}_base64")
    try:
        if isinstance(text, str) and coded is None:
            return text.encode()
        if isinstance(coded, str) and text is None:
            return base64.b64decode(coded, validate=True)
    except ValueError as error:                  # lone surrogates; what is not base64, or not ASCII
        raise TransferError(line=number, reason=f'"{name}": {error}') from error
    raise TransferError(line=number, reason=f'neither "{name}" nor "{name}_base64" is text')
