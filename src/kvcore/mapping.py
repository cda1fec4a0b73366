# SPDX-License-Identifier: Apache-2.0
"""The keys below a prefix as a dictionary: StoreMapping of a store, SnapshotMapping of a snapshot.

    m = db.mapping(b"/app/", **text_keys, **json_values)

    m["a"] = [1]   ─ key codec ─► b"a" ─ prefix ─► b"/app/a"      ─► db.put
                     value codec ─► b"[1]" ──────────────────────────┘
    for k in m     ─► db.snapshot() ─► pages of 500 ─ prefix off ─ key codec ─► "a", ...

Invariants: a mapping holds nothing but its source, its prefix and its codecs, so any number of them
may look at the same keys; what changes something is one request to the store (update: one
put_many), so other threads see it whole.
Thread safety: as the source.  May not know: the engine (it is given one).
"""

from __future__ import annotations

import json
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    ValuesView,
)
from typing import Any, Generic, NoReturn, Protocol, TypedDict, TypeVar, cast, overload

from kvcore._operation import Compare, Delete, Put, Range, Txn, prefix_end
from kvcore._result import DeleteResult, KeyValue, PutResult, RangeResult, TxnResult

__all__ = ["SnapshotMapping", "StoreMapping", "json_values", "text_keys"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
V_co = TypeVar("V_co", covariant=True)

PAGE = 500                   # rows taken from a snapshot at a time
_MISSING: Any = object()


class Readable(Protocol):
    """What both a store and a snapshot have."""

    def get(self, key: bytes, /) -> KeyValue | None:
        """As Store.get."""

    def range(self, start: bytes, end: bytes | None = None, /, *, limit: int = 0,
              keys_only: bool = False, count_only: bool = False) -> RangeResult:
        """As Store.range."""


class Pinned(Readable, Protocol):
    """A snapshot."""

    def release(self) -> None:
        """As Snapshot.release."""


class Writable(Readable, Protocol):
    """A store."""

    def put(self, key: bytes, value: bytes, /) -> PutResult:
        """As Store.put."""

    def put_many(self, items: Iterable[tuple[bytes, bytes]], /) -> list[int]:
        """As Store.put_many."""

    def delete(self, key: bytes, end: bytes | None = None, /) -> DeleteResult:
        """As Store.delete."""

    def txn(self, compare: Iterable[Compare], success: Iterable[Put | Range | Delete | Txn],
            failure: Iterable[Put | Range | Delete | Txn] = (), /) -> TxnResult:
        """As Store.txn."""

    def snapshot(self) -> Pinned:
        """As Store.snapshot."""


class SupportsKeys(Protocol[K, V_co]):
    """What dict.update takes as a mapping."""

    def keys(self) -> Iterable[K]:
        """Its keys."""

    def __getitem__(self, key: K, /) -> V_co: ...


# --- codecs ---------------------------------------------------------------------------------------

class KeyCodec(TypedDict):
    """Keys that are text."""

    key_encode: Callable[[str], bytes]
    key_decode: Callable[[bytes], str]


class ValueCodec(TypedDict):
    """Values of any type that JSON knows."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def _text_encode(key: str) -> bytes:
    if not isinstance(key, str):
        raise TypeError(f"a key of this mapping is str, not {type(key).__name__}")
    return key.encode()


def _json_encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


text_keys: KeyCodec = {"key_encode": _text_encode, "key_decode": bytes.decode}
"""Keys as str, stored in UTF-8: db.mapping(prefix, **text_keys)."""

json_values: ValueCodec = {"encode": _json_encode, "decode": json.loads}
"""Values as what JSON can say, stored in UTF-8: db.mapping(prefix, **json_values)."""


# --- reading --------------------------------------------------------------------------------------

class _Reading(Mapping[K, V], Generic[K, V]):
    """What may be asked of both kinds."""

    __slots__ = ("_decode", "_encode", "_end", "_key_decode", "_key_encode", "_source", "_start",
                 "prefix")

    def __init__(self, source: Readable, prefix: bytes = b"", *,
                 encode: Callable[[V], bytes] | None = None,
                 decode: Callable[[bytes], V] | None = None,
                 key_encode: Callable[[K], bytes] | None = None,
                 key_decode: Callable[[bytes], K] | None = None) -> None:
        if not isinstance(prefix, bytes):
            raise TypeError(f"prefix must be bytes, not {type(prefix).__name__}")
        if (encode is None) != (decode is None):
            raise TypeError("encode and decode go together: give both or neither")
        if (key_encode is None) != (key_decode is None):
            raise TypeError("key_encode and key_decode go together: give both or neither")
        self._source = source
        self.prefix = prefix
        """What every key in the store begins with; a key of the mapping is the rest."""
        self._start = prefix or b"\0"
        self._end = prefix_end(prefix) if prefix else b"\0"
        self._encode = encode
        self._decode = decode
        self._key_encode = key_encode
        self._key_decode = key_decode

    def __getitem__(self, key: K) -> V:
        found = self._find(key)
        if found is None:
            raise KeyError(key)
        return self._value_of(found.value)

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, /, default: V | T) -> V | T: ...
    def get(self, key: K, /, default: Any = None) -> Any:
        """The value of `key`, or `default`."""
        found = self._find(key)
        return default if found is None else self._value_of(found.value)

    def get_with_revision(self, key: K) -> tuple[V | None, int]:
        """The value of `key` and the mod_revision of its last change; (None, 0) when there is none.

        The revision is what StoreMapping.compare_and_set expects.
        """
        found = self._find(key)
        return (None, 0) if found is None else (self._value_of(found.value), found.mod_revision)

    def __contains__(self, key: object) -> bool:
        full = self._full(cast(K, key))
        return bool(full) and self._source.range(full, count_only=True).count > 0

    def __len__(self) -> int:
        return self._source.range(self._start, self._end, count_only=True).count

    def __iter__(self) -> Iterator[K]:
        return (self._key_of(kv.key) for kv in self._rows(keys_only=True))

    def keys(self) -> KeysView[K]:
        """The keys, in order."""
        return _Keys(self)

    def values(self) -> ValuesView[V]:
        """The values, in the order of the keys."""
        return _Values(self)

    def items(self) -> ItemsView[K, V]:
        """(key, value) pairs, in the order of the keys."""
        return _Items(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled: take dict(mapping) "
                        "for what is in it, or make another one from the store")

    def __repr__(self) -> str:
        return f"<kvcore.{type(self).__name__} of {self.prefix!r} in {self._source!r}>"

    # --- keys and values as bytes -------------------------------------------------------------

    def _full(self, key: K) -> bytes:
        raw: object = key if self._key_encode is None else self._key_encode(key)
        if isinstance(raw, bytes):
            return self.prefix + raw
        if self._key_encode is not None:
            raise TypeError(f"key_encode must return bytes, not {type(raw).__name__}")
        hint = ("; make the mapping with kvcore.mapping.text_keys, or encode it"
                if isinstance(raw, str) else "")
        raise TypeError(f"a key of this mapping is bytes, not {type(raw).__name__}{hint}")

    def _key_of(self, full: bytes) -> K:
        raw = full[len(self.prefix):]
        return cast(K, raw) if self._key_decode is None else self._key_decode(raw)

    def _raw(self, value: V) -> bytes:
        raw: object = value if self._encode is None else self._encode(value)
        if not isinstance(raw, bytes):
            what = "a value of this mapping is" if self._encode is None else "encode must return"
            raise TypeError(f"{what} bytes, not {type(raw).__name__}")
        return raw

    def _value_of(self, raw: bytes) -> V:
        return cast(V, raw) if self._decode is None else self._decode(raw)

    def _find(self, key: K) -> KeyValue | None:
        full = self._full(key)
        return self._source.get(full) if full else None      # no store has the empty key

    def _rows(self, *, keys_only: bool = False) -> Iterator[KeyValue]:
        return _pages(self._source, self._start, self._end, keys_only)


class SnapshotMapping(_Reading[K, V]):
    """The keys of a snapshot below a prefix, read only; made by Snapshot.mapping().

    Keys are in the order of their bytes. `len` costs O(log n); iteration, `keys()`, `values()` and
    `items()` go page by page. A key that is not there is a KeyError. Errors: what the codecs
    raise; ClosedError once the snapshot is released.

    >>> import kvcore
    >>> db = kvcore.open()
    >>> _ = db.put_many([(b"/a/1", b"x"), (b"/a/2", b"y"), (b"/b", b"z")])
    >>> with db.snapshot() as snap:
    ...     _ = db.put(b"/a/1", b"later")
    ...     dict(snap.mapping(b"/a/"))
    {b'1': b'x', b'2': b'y'}
    """

    __slots__ = ()


def _pages(source: Readable, start: bytes, end: bytes, keys_only: bool,
           pinned: Pinned | None = None) -> Iterator[KeyValue]:
    """Rows of a source that does not change; `pinned` is released behind them."""
    try:
        while True:
            page = source.range(start, end, limit=PAGE, keys_only=keys_only)
            yield from page
            if not page.more:
                return
            start = page[-1].key + b"\0"
    finally:
        if pinned is not None:
            pinned.release()


class _Keys(KeysView[K]):
    _mapping: _Reading[K, Any]

    def __iter__(self) -> Iterator[K]:
        return iter(self._mapping)

    def __repr__(self) -> str:
        return f"<keys of {self._mapping!r}>"


class _Values(ValuesView[V]):
    _mapping: _Reading[Any, V]

    def __iter__(self) -> Iterator[V]:
        m = self._mapping
        return (m._value_of(kv.value) for kv in m._rows())

    def __contains__(self, value: object) -> bool:
        return any(found is value or found == value for found in self)

    def __repr__(self) -> str:
        return f"<values of {self._mapping!r}>"


class _Items(ItemsView[K, V]):
    _mapping: _Reading[K, V]

    def __iter__(self) -> Iterator[tuple[K, V]]:
        m = self._mapping
        return ((m._key_of(kv.key), m._value_of(kv.value)) for kv in m._rows())

    def __repr__(self) -> str:
        return f"<items of {self._mapping!r}>"


# --- writing --------------------------------------------------------------------------------------

class StoreMapping(_Reading[K, V], MutableMapping[K, V]):
    """The keys of a store below a prefix, as a dictionary; made by Store.mapping().

    As a dict, but: keys come in the order of their bytes; iteration shows the store as it was when
    it began, so that changing it meanwhile is safe; every change is durable when the statement is
    over, and atomic among threads. `popitem` takes the first key, each item once, whoever else
    does. Errors: as Store.put and Store.get; what the codecs raise, before anything is written.
    Cost: m[k], `in`: a get; m[k] = v: a put; del: a delete; pop, popitem, setdefault: a get and a
    transaction; clear: one delete of the prefix, one revision; ==: reads everything.

    >>> import kvcore
    >>> from kvcore.mapping import json_values, text_keys
    >>> db = kvcore.open()
    >>> settings = db.mapping(b"/settings/", **text_keys, **json_values)
    >>> settings["workers"] = 4
    >>> settings.update(queue="high", retries=[1, 5, 30])
    >>> len(settings), list(settings.items())
    (3, [('queue', 'high'), ('retries', [1, 5, 30]), ('workers', 4)])
    >>> value, revision = settings.get_with_revision("workers")
    >>> settings.compare_and_set("workers", revision, value + 1), settings["workers"]
    (5, 5)
    """

    __slots__ = ()
    _source: Writable

    def __init__(self, source: Writable, prefix: bytes = b"", *,
                 encode: Callable[[V], bytes] | None = None,
                 decode: Callable[[bytes], V] | None = None,
                 key_encode: Callable[[K], bytes] | None = None,
                 key_decode: Callable[[bytes], K] | None = None) -> None:
        super().__init__(source, prefix, encode=encode, decode=decode, key_encode=key_encode,
                         key_decode=key_decode)

    def __setitem__(self, key: K, value: V) -> None:
        self._source.put(self._full(key), self._raw(value))

    def __delitem__(self, key: K) -> None:
        full = self._full(key)
        if not full or self._source.delete(full).deleted == 0:
            raise KeyError(key)

    def compare_and_set(self, key: K, expected_mod_revision: int, value: V) -> int:
        """Set `key` if its last change is still the expected one.

        Args: expected_mod_revision: from get_with_revision; 0: the key must not be there.
        Returns: the revision of the change, which the next call may expect; 0: somebody else was
        first, and nothing was changed. Cost: one transaction.

        >>> import kvcore
        >>> m = kvcore.open().mapping(b"/lock/")
        >>> m.compare_and_set(b"a", 0, b"mine"), m.compare_and_set(b"a", 0, b"yours")
        (2, 0)
        """
        full = self._full(key)
        answer = self._source.txn([Compare.mod_revision(full) == expected_mod_revision],
                                  [Put(full, self._raw(value))])
        return answer.revision if answer.succeeded else 0

    @overload
    def pop(self, key: K, /) -> V: ...
    @overload
    def pop(self, key: K, /, default: V) -> V: ...
    @overload
    def pop(self, key: K, /, default: T) -> V | T: ...
    def pop(self, key: K, /, default: Any = _MISSING) -> Any:
        """Delete `key` and return its value; `default`, or a KeyError, when there is none.

        A value that its codec refuses stays where it is.
        """
        while (found := self._find(key)) is not None:
            value = self._value_of(found.value)
            if self._take(found):
                return value
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[K, V]:
        """Delete the first key, in order, and return it and its value; KeyError when empty."""
        while len(page := self._source.range(self._start, self._end, limit=1)):
            item = self._key_of(page[0].key), self._value_of(page[0].value)
            if self._take(page[0]):
                return item
        raise KeyError("popitem(): the mapping is empty")

    @overload
    def setdefault(self: StoreMapping[K, T | None], key: K, default: None = None,
                   /) -> T | None: ...
    @overload
    def setdefault(self, key: K, default: V, /) -> V: ...
    def setdefault(self, key: K, default: Any = None, /) -> Any:
        """The value of `key`, which is set to `default` first if it is not there.

        Of callers that race, one sets it and all return what it set.
        """
        while (found := self._find(key)) is None:
            raw = self._raw(default)
            full = self._full(key)
            answer = self._source.txn([Compare.version(full) == 0], [Put(full, raw)])
            if answer.succeeded:
                return self._value_of(raw)
        return self._value_of(found.value)

    @overload
    def update(self, other: SupportsKeys[K, V], /) -> None: ...
    @overload
    def update(self: StoreMapping[str, V], other: SupportsKeys[str, V], /,
               **named: V) -> None: ...
    @overload
    def update(self, other: Iterable[tuple[K, V]], /) -> None: ...
    @overload
    def update(self: StoreMapping[str, V], other: Iterable[tuple[str, V]] = (), /,
               **named: V) -> None: ...
    def update(self, other: Any = (), /, **named: Any) -> None:
        """Set many keys, from a mapping, from (key, value) pairs, and from keywords.

        One put_many: any number of pairs, a revision each, up to 4 MiB of them a sync; a
        transaction would be all or nothing, but only up to max_txn_ops pairs. So it is here as with
        a dict: what is wrong with a pair is found before anything is written, but after a failing
        disk the first pairs may be there. For all or nothing use Store.txn.
        """
        if isinstance(other, Mapping):
            pairs: Iterable[tuple[Any, Any]] = other.items()
        elif hasattr(other, "keys"):
            pairs = ((key, other[key]) for key in other.keys())
        else:
            pairs = other
        items = [(self._full(key), self._raw(value)) for key, value in pairs]
        items += [(self._full(cast(K, key)), self._raw(value)) for key, value in named.items()]
        self._source.put_many(items)

    def clear(self) -> None:
        """Delete all keys of the mapping, in one revision."""
        self._source.delete(self._start, self._end)

    def _take(self, kv: KeyValue) -> bool:
        """Deletes a key if it is as it was seen."""
        return self._source.txn([Compare.mod_revision(kv.key) == kv.mod_revision],
                                [Delete(kv.key)]).succeeded

    def _rows(self, *, keys_only: bool = False) -> Iterator[KeyValue]:
        pinned = self._source.snapshot()
        return _pages(pinned, self._start, self._end, keys_only, pinned)
