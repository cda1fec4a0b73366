# SPDX-License-Identifier: Apache-2.0
"""ModelStore: the naive oracle of kvcore.Store. Dicts, lists and loops; no code of the engine.

    history[key] = [Change(mod, sub, create, version, lease, value), ...]   value None: tombstone

The history is never cut: compaction only moves `compacted`, and every reader applies etcd's rule
itself. So a snapshot is two numbers, and a clone copies one list per key.

The public face is that of kvcore (same verbs, same operations, same attribute names), so that one
test can run against both; `plain()` turns the answers of either into comparable tuples. Only the
exception classes are kvcore's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from kvcore import errors

MAX_OPS = 128
_TARGETS = ("key", "version", "create_revision", "mod_revision", "value")


# --- CRC-32C -------------------------------------------------------------------------------------


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _crc_table()


def crc32c(crc: int, data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`, continued from `crc`.

    >>> hex(crc32c(0, b"123456789"))
    '0xe3069283'
    """
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _bytes_field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data if data else b""


def _int_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value) if value else b""


# --- what comes back -----------------------------------------------------------------------------


class KeyValue(NamedTuple):
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


class Change(NamedTuple):
    mod: int
    sub: int
    create: int
    version: int
    lease: int
    value: bytes | None

    def of(self, key: bytes) -> KeyValue:
        assert self.value is not None
        return KeyValue(key, self.value, self.create, self.mod, self.version, self.lease)


@dataclasses.dataclass
class PutResult:
    revision: int
    prev: KeyValue | None = None


@dataclasses.dataclass
class DeleteResult:
    revision: int
    deleted: int
    prev: list[KeyValue]


@dataclasses.dataclass
class TxnResult:
    succeeded: bool
    responses: list[Any]
    revision: int


@dataclasses.dataclass
class HashResult:
    hash: int
    compact_revision: int
    revision: int


@dataclasses.dataclass
class RangeResult:
    kvs: list[KeyValue]
    count: int
    more: bool
    revision: int

    def __len__(self) -> int:
        return len(self.kvs)

    def __iter__(self) -> Iterator[KeyValue]:
        return iter(self.kvs)

    def __getitem__(self, i: int) -> KeyValue:
        return self.kvs[i]

    def keys(self) -> list[bytes]:
        return [kv.key for kv in self.kvs]

    def values(self) -> list[bytes]:
        return [kv.value for kv in self.kvs]


def plain(answer: Any) -> Any:
    """The answer of a verb, of kvcore or of the model, as nested tuples."""
    if answer is None or isinstance(answer, int):
        return answer
    if isinstance(answer, list):
        return [plain(a) for a in answer]
    if hasattr(answer, "responses"):
        responses = [plain(r) for r in answer.responses]
        return ("txn", answer.succeeded, answer.revision, responses)
    if hasattr(answer, "deleted"):
        return ("delete", answer.revision, answer.deleted, [plain(kv) for kv in answer.prev])
    if hasattr(answer, "more"):
        rows = [plain(kv) for kv in answer]
        return ("range", answer.revision, answer.count, answer.more, rows)
    if hasattr(answer, "prev"):
        return ("put", answer.revision, plain(answer.prev))
    if hasattr(answer, "hash"):
        return ("hash", answer.hash, answer.compact_revision, answer.revision)
    if hasattr(answer, "ttl"):
        return ("grant", answer.id, answer.ttl, answer.revision)
    return (answer.key, answer.value, answer.create_revision, answer.mod_revision, answer.version,
            answer.lease)


# --- operations ----------------------------------------------------------------------------------


def prefix_end(prefix: bytes) -> bytes:
    """The first key behind all keys with this prefix, b"\\0" if there is none."""
    for cut in range(len(prefix) - 1, -1, -1):
        if prefix[cut] != 0xFF:
            return prefix[:cut] + bytes([prefix[cut] + 1])
    return b"\0"


class Span(NamedTuple):
    """etcd's (key, range_end); end b"" is the single key."""

    key: bytes
    end: bytes = b""

    def holds(self, key: bytes) -> bool:
        if self.end == b"":
            return key == self.key
        if self.end == b"\0":
            return key >= self.key
        return self.key <= key < self.end


def _span(start: bytes | None, end: bytes | None, prefix: bytes | None, everything: bool) -> Span:
    if prefix is not None:
        return Span(prefix, prefix_end(prefix)) if prefix else Span(b"\0", b"\0")
    if start is None:
        if not everything:
            raise errors.EmptyKeyError()
        return Span(b"\0", b"\0")
    return Span(start, end or b"")


@dataclasses.dataclass
class Put:
    key: bytes
    value: bytes = b""
    lease: int = 0
    prev: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False


class Delete:
    def __init__(self, key: bytes | None = None, end: bytes | None = None, *,
                 prefix: bytes | None = None, prev: bool = False) -> None:
        self.span = _span(key, end, prefix, False)
        self.prev = prev


class Range:
    single = False

    def __init__(self, start: bytes | None = None, end: bytes | None = None, *,
                 prefix: bytes | None = None, limit: int = 0, revision: int | None = None,
                 keys_only: bool = False, count_only: bool = False, sort: str | None = None,
                 min_mod_revision: int = 0, max_mod_revision: int = 0,
                 min_create_revision: int = 0, max_create_revision: int = 0) -> None:
        self.span = _span(start, end, prefix, True)
        self.limit = limit
        self.revision = revision or 0
        self.keys_only = keys_only
        self.count_only = count_only
        if sort is not None and sort.removeprefix("-") not in _TARGETS:
            raise errors.InvalidSortError()
        self.sort = sort
        self.mods = (min_mod_revision, max_mod_revision)
        self.creates = (min_create_revision, max_create_revision)

    def passes(self, kv: KeyValue) -> bool:
        for (low, high), n in ((self.mods, kv.mod_revision), (self.creates, kv.create_revision)):
            if (low != 0 and n < low) or (high != 0 and n > high):
                return False
        return True


class Get(Range):
    single = True

    def __init__(self, key: bytes, revision: int | None = None) -> None:
        super().__init__(key, revision=revision)


@dataclasses.dataclass
class Compact:
    revision: int


class Compare:
    def __init__(self, target: str, span: Span) -> None:
        self.target = target
        self.span = span
        self.result = ""
        self.operand: Any = None

    def _with(self, result: str, operand: Any) -> Compare:
        made = Compare(self.target, self.span)
        made.result, made.operand = result, operand
        return made

    def __eq__(self, other: Any) -> Any:
        return self._with("==", other)

    def __ne__(self, other: Any) -> Any:
        return self._with("!=", other)

    def __lt__(self, other: Any) -> Compare:
        return self._with("<", other)

    def __gt__(self, other: Any) -> Compare:
        return self._with(">", other)

    __hash__ = None  # type: ignore[assignment]

    def judge(self, kv: KeyValue | None) -> bool:
        """Whether one key, or the absence of one, satisfies it."""
        stored: Any
        if self.target == "value":
            if kv is None:
                return False
            stored = kv.value
        else:
            stored = getattr(kv, self.target) if kv is not None else 0
        return {"==": stored == self.operand, "!=": stored != self.operand,
                "<": stored < self.operand, ">": stored > self.operand}[self.result]


def _comparer(target: str) -> Any:
    def make(key: bytes | None = None, end: bytes | None = None, *,
             prefix: bytes | None = None) -> Compare:
        return Compare(target, _span(key, end, prefix, False))

    return staticmethod(make)


for _target in ("value", "version", "create_revision", "mod_revision", "lease"):
    setattr(Compare, _target, _comparer(_target))


class Txn:
    def __init__(self, compare: Iterable[Compare] = (), success: Iterable[Any] = (),
                 failure: Iterable[Any] = ()) -> None:
        self.compare = list(compare)
        self.success = list(success)
        self.failure = list(failure)


# --- the store -----------------------------------------------------------------------------------


class ModelStore:
    """What a store must do, in the plainest way."""

    def __init__(self, *, max_key_bytes: int = 65535, max_request_bytes: int = 1_572_864,
                 max_txn_ops: int = MAX_OPS) -> None:
        self.history: dict[bytes, list[Change]] = {}
        self.revision = 1
        self.compacted = -1
        self.max_key_bytes = max_key_bytes
        self.max_request_bytes = max_request_bytes
        self.max_txn_ops = max_txn_ops
        self._sub = 0  # changes made so far by the command under way

    def clone(self) -> ModelStore:
        """A copy; changes are immutable, so only the lists are copied."""
        twin = ModelStore(max_key_bytes=self.max_key_bytes, max_txn_ops=self.max_txn_ops,
                          max_request_bytes=self.max_request_bytes)
        twin.history = {key: list(changes) for key, changes in self.history.items()}
        twin.revision, twin.compacted = self.revision, self.compacted
        return twin

    @property
    def compact_revision(self) -> int:
        return max(self.compacted, 0)

    def close(self) -> None:
        """Nothing to close; there so that a test can treat it as a store."""

    # verbs

    def put(self, key: bytes, value: bytes = b"", **options: Any) -> PutResult:
        return self.do(Put(key, value, **options))

    def put_many(self, items: Iterable[tuple[bytes, bytes]], *, lease: int = 0) -> list[int]:
        puts = [Put(key, value, lease) for key, value in items]
        for op in puts:
            self._check_put(op)
        return [self.do(op).revision for op in puts]

    def delete(self, *args: Any, **options: Any) -> DeleteResult:
        return self.do(Delete(*args, **options))

    def get(self, key: bytes, revision: int | None = None) -> KeyValue | None:
        return self.do(Get(key, revision))

    def get_many(self, keys: Iterable[bytes],
                 revision: int | None = None) -> list[KeyValue | None]:
        keys = list(keys)
        self.range(b"k", revision=revision)  # a bad revision is an error also without keys
        return [self.get(key, revision) for key in keys]

    def range(self, *args: Any, **options: Any) -> RangeResult:
        return self.do(Range(*args, **options))

    def txn(self, compare: Iterable[Compare] = (), success: Iterable[Any] = (),
            failure: Iterable[Any] = ()) -> TxnResult:
        return self.do(Txn(compare, success, failure))

    def compact(self, revision: int, *, physical: bool = False) -> int:
        return self.do(Compact(revision))

    def snapshot(self) -> ModelSnapshot:
        return ModelSnapshot(self)

    def do(self, op: Any) -> Any:
        """Checks and runs one operation, in a revision of its own if it changes something."""
        self._validate(op)
        if isinstance(op, Compact):
            return self._compact(op.revision)
        if isinstance(op, Range):
            return self._read(op, self.revision, self.revision, self.compacted)
        if isinstance(op, Put):
            self._check_put_state(op)
        path: list[bool] = []
        if isinstance(op, Txn):
            for fault in self._plan(op, path):
                raise fault
        self._sub = 0
        answer = self._run(op, path)
        if self._sub:
            self.revision += 1
        self._sub = 0
        return answer

    # looking at the history

    def live_at(self, key: bytes, revision: int) -> KeyValue | None:
        newest = None
        for change in self.history.get(key, []):
            if change.mod <= revision:
                newest = change
        return newest.of(key) if newest is not None and newest.value is not None else None

    def live(self, span: Span, revision: int) -> list[KeyValue]:
        found = []
        for key in sorted(self.history):
            kv = self.live_at(key, revision) if span.holds(key) else None
            if kv is not None:
                found.append(kv)
        return found

    def keys(self) -> int:
        """How many keys are alive."""
        return len(self.live(Span(b"\0", b"\0"), self.revision))

    def versions(self) -> range:
        """How many versions and tombstones a finished compaction may leave.

        etcd keeps the least. kvcore also lets an invisible tombstone stand that ends a chain of
        newer versions: its chains are never rewritten.
        """
        least = extra = 0
        for changes in self.history.values():
            old = [c for c in changes if c.mod <= self.compacted]
            least += len(changes) - len(old)
            if old and (old[-1].value is not None or old[-1].mod == self.compacted):
                least += 1
            elif old and len(old) < len(changes):
                extra += 1
        return range(least, least + extra + 1)

    def hash(self, revision: int = 0) -> HashResult:
        """etcd's HashKV."""
        if revision <= 0:
            revision = self.revision
        if revision > self.revision:
            raise errors.FutureRevisionError()
        if revision < self.compacted:
            raise errors.CompactedError()
        rows = []
        for key, changes in self.history.items():
            seen = [c for c in changes if c.mod <= revision]
            for change in seen:
                kept = change is seen[-1] and change.value is not None
                if change.mod > self.compacted or kept:
                    rows.append((change.mod, change.sub, key, change))
        crc = crc32c(0, b"key")
        for mod, sub, key, change in sorted(rows, key=lambda row: row[:2]):
            crc = crc32c(crc, mod.to_bytes(8, "big") + b"_" + sub.to_bytes(8, "big"))
            if change.value is None:
                crc = crc32c(crc, b"t" + _bytes_field(1, key))
                continue
            crc = crc32c(crc, _bytes_field(1, key) + _int_field(2, change.create)
                         + _int_field(3, mod) + _int_field(4, change.version)
                         + _bytes_field(5, change.value) + _int_field(6, change.lease))
        return HashResult(crc, self.compact_revision, revision)

    # checks of the request alone

    def _validate(self, op: Any) -> None:
        self._validate_op(op, self.max_txn_ops)
        if isinstance(op, Txn):
            _check_intervals(op.success)
            _check_intervals(op.failure)
        if self._size(op) > self.max_request_bytes:
            raise errors.RequestTooLargeError()

    def _validate_op(self, op: Any, budget: int) -> None:
        if isinstance(op, Put):
            self._check_put(op)
        elif isinstance(op, Range | Delete):
            if not op.span.key:
                raise errors.EmptyKeyError()
        elif isinstance(op, Txn):
            used = max(len(op.compare), len(op.success), len(op.failure))
            if used > budget:
                raise errors.TooManyOpsError()
            for compare in op.compare:
                if not compare.span.key:
                    raise errors.EmptyKeyError()
            for inner in (*op.success, *op.failure):
                self._validate_op(inner, budget - used)

    def _check_put(self, op: Put) -> None:
        if not op.key:
            raise errors.EmptyKeyError()
        if len(op.key) > self.max_key_bytes:
            raise errors.KeyTooLargeError()
        if self._size(op) > self.max_request_bytes:
            raise errors.RequestTooLargeError()
        if op.ignore_value and op.value:
            raise errors.ValueProvidedError()
        if op.ignore_lease and op.lease:
            raise errors.LeaseProvidedError()

    def _size(self, op: Any) -> int:
        """Bytes of keys and values: what an encoding adds is left to tests of the exact limit."""
        if isinstance(op, Put):
            return len(op.key) + len(op.value)
        if isinstance(op, Txn):
            return sum(self._size(inner) for inner in (*op.success, *op.failure))
        return 0

    # checks against the state

    def _check_put_state(self, op: Put, in_txn: bool = False) -> None:
        """A put by itself looks for its lease first, one in a transaction for its key."""
        unknown = op.lease != 0
        if unknown and not in_txn:
            raise errors.LeaseNotFoundError()
        if (op.ignore_value or op.ignore_lease) and self.live_at(op.key, self.revision) is None:
            raise errors.KeyNotFoundError()
        if unknown:
            raise errors.LeaseNotFoundError()

    def _plan(self, txn: Txn, path: list[bool]) -> list[errors.Error]:
        """Decides the compares of the path taken and checks its operations, on the state before.

        Returns what is wrong with its ranges: that counts only when no put is refused.
        """
        late: list[errors.Error] = []
        verdict = all(self._holds(compare) for compare in txn.compare)
        path.append(verdict)
        for op in txn.success if verdict else txn.failure:
            if isinstance(op, Put):
                self._check_put_state(op, in_txn=True)
            elif isinstance(op, Range):
                if op.revision > self.revision:
                    late.append(errors.FutureRevisionError())
                elif op.revision != 0 and op.revision < self.compacted:
                    late.append(errors.CompactedError())
            elif isinstance(op, Txn):
                late += self._plan(op, path)
        return late

    def _holds(self, compare: Compare) -> bool:
        found = self.live(compare.span, self.revision)
        if not found:
            return compare.judge(None)
        return all(compare.judge(kv) for kv in found)

    # changes

    def _now(self) -> int:
        """The revision that the command under way shows by now."""
        return self.revision + 1 if self._sub else self.revision

    def _run(self, op: Any, path: list[bool]) -> Any:
        if isinstance(op, Put):
            return self._put(op)
        if isinstance(op, Delete):
            gone = self.live(op.span, self.revision + 1)
            for kv in gone:
                self._change(kv.key, Change(self.revision + 1, self._sub, 0, 0, 0, None))
            return DeleteResult(self._now(), len(gone), gone if op.prev else [])
        if isinstance(op, Range):
            return self._read(op, self.revision + 1, self._now(), self.compacted)
        verdict = path.pop(0)
        responses = [self._run(inner, path) for inner in (op.success if verdict else op.failure)]
        return TxnResult(verdict, responses, self._now())

    def _put(self, op: Put) -> PutResult:
        mod = self.revision + 1
        before = self.live_at(op.key, mod)
        value, lease = op.value, op.lease
        create, version = mod, 1
        if before is not None:
            create, version = before.create_revision, before.version + 1
            value = before.value if op.ignore_value else value
            lease = before.lease if op.ignore_lease else lease
        self._change(op.key, Change(mod, self._sub, create, version, lease, value))
        return PutResult(mod, before if op.prev else None)

    def _change(self, key: bytes, change: Change) -> None:
        self.history.setdefault(key, []).append(change)
        self._sub += 1

    def _compact(self, revision: int) -> int:
        if revision <= self.compacted:
            raise errors.CompactedError()
        if revision > self.revision:
            raise errors.FutureRevisionError()
        self.compacted = revision
        return self.revision

    # reading

    def _read(self, op: Range, newest: int, shown: int, compacted: int) -> Any:
        """etcd's order: fetch, count, filter, sort, cut, strip."""
        if op.revision > shown:
            raise errors.FutureRevisionError()
        if 0 < op.revision < compacted:
            raise errors.CompactedError()
        found = self.live(op.span, op.revision if op.revision > 0 else newest)
        count, more = len(found), False
        if op.single:
            return found[0] if found else None
        if op.count_only:
            return RangeResult([], count, False, shown)
        found = [kv for kv in found if op.passes(kv)]
        if op.sort is not None:
            target = op.sort.removeprefix("-")
            descending = op.sort.startswith("-")
            found.sort(key=lambda kv: getattr(kv, target), reverse=descending)
        if 0 < op.limit < len(found):
            found, more = found[: op.limit], True
        if op.keys_only:
            found = [kv._replace(value=b"") for kv in found]
        return RangeResult(found, count, more, shown)


class ModelSnapshot:
    """A store as it was: revision-bounded reads of a history that is never cut."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self.revision = store.revision
        self._compacted = store.compacted

    def get(self, key: bytes, revision: int | None = None) -> KeyValue | None:
        op = Get(key, revision)
        self._store._validate(op)
        return self._store._read(op, self.revision, self.revision, self._compacted)

    def range(self, *args: Any, **options: Any) -> RangeResult:
        op = Range(*args, **options)
        self._store._validate(op)
        return self._store._read(op, self.revision, self.revision, self._compacted)

    def count(self, *args: Any, **options: Any) -> int:
        return self.range(*args, **options, count_only=True).count

    def release(self) -> None:
        """Nothing is held."""


# --- duplicate keys ------------------------------------------------------------------------------


def _check_intervals(ops: list[Any]) -> tuple[set[bytes], list[Span]]:
    """etcd's rule, per branch: no key is put twice, or put and deleted.

    Returns the keys put and the spans deleted by the branch, for the level above.
    """
    spans = [op.span for op in ops if isinstance(op, Delete)]
    puts: set[bytes] = set()

    def add(key: bytes, allowed: set[bytes]) -> None:
        if (key in puts and key not in allowed) or any(span.holds(key) for span in spans):
            raise errors.DuplicateKeyError()

    for op in ops:
        if isinstance(op, Txn):
            then_puts, then_spans = _check_intervals(op.success)
            else_puts, else_spans = _check_intervals(op.failure)
            for key in then_puts:
                add(key, set())
            puts |= then_puts
            for key in else_puts:
                add(key, then_puts)
            puts |= else_puts
            spans = [*spans, *then_spans, *else_spans]
    for op in ops:
        if isinstance(op, Put):
            add(op.key, set())
            puts.add(op.key)
    return puts, spans
