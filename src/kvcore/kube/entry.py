# SPDX-License-Identifier: Apache-2.0
"""An object at one version, and what happened to it: the bytes that lists and watches send.

    stored bytes ──readable──> JSON with resourceVersion ──> Entry.body      (no dict on this way)
    Change(entry, prev) ──line──> {"type":"MODIFIED","object":...}\\n         (once a type)

An Entry decodes itself only when a selector asks for labels or fields, or a caller for `object`.
Whatever lies below /registry was not necessarily written by this package: bytes that are no object
raise Damaged here and nowhere else.

Named invariants:
1. **one line**: an event is encoded at most once a type, however many watchers take it.
2. **readable**: a body is JSON of an object; foreign spellings were encoded anew. What begins and
   ends as this package writes it, with as many braces closed as opened, is believed, not parsed;
   but not of kinds that the server itself lives by (READ_HERE). A namespace's fields must be of
   their types too; of what forbids (quotas, webhooks) they need not: it would forbid nothing.
Thread safety: one event loop's thread. Source: apiserver storage/cacher (caching_object.go).
May not know: the store, HTTP, verbs.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import msgpack
import orjson

from kvcore.kube.codec import ENVELOPE, canonical, json_of, with_version
from kvcore.kube.fields import IllTyped, ok, settle
from kvcore.kube.schema import type_of_kind
from kvcore.kube.selectable import values_of

__all__ = ["Change", "Damaged", "Entry", "event_line", "readable", "why_damaged"]

_log = logging.getLogger("kvcore.kube")

EventType = Literal["ADDED", "MODIFIED", "DELETED"]

# How every object begins that this package wrote, and how its metadata does.
OWN_HEAD, OWN_METADATA = b'{"apiVersion":"', b'"metadata":{"'
# Kinds that the server itself reads, for every request: their bytes are always parsed.
READ_HERE = frozenset({
    "ClusterRole", "ClusterRoleBinding", "LimitRange", "MutatingWebhookConfiguration", "Namespace",
    "PriorityClass", "ResourceQuota", "Role", "RoleBinding", "ServiceAccount", "StorageClass",
    "ValidatingWebhookConfiguration"})
# What decoders raise of bytes that are no object.
NOT_READABLE = (ValueError, IndexError, TypeError, OverflowError, RecursionError,
                msgpack.exceptions.UnpackException)
NO_OBJECT = "it is no Kubernetes object"
NO_LABELS: dict[str, str] = {}


class Damaged(ValueError):
    """Bytes that are no object; the text says why."""


def readable(stored: bytes, revision: int, kind: str = "") -> bytes:
    """The object as JSON with its resourceVersion.

    Args: kind: those of READ_HERE are not believed. Errors: Damaged.
    Cost: 0.6 us for bytes of the json codec, a decode for others' spelling.

    >>> readable(b'{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}', 7)[32:]
    b'"metadata":{"resourceVersion":"7","name":"a"}}'
    >>> readable(b'{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}}', 7)[32:]
    b'"metadata":{"resourceVersion":"7","name":"a"}}'
    """
    try:
        body = json_of(stored)
        if kind in READ_HERE or not (
                body.startswith(OWN_HEAD) and body.endswith(b"}") and OWN_METADATA in body
                and body.count(b"{") == body.count(b"}")):
            body = _spelled_anew(body, typed=kind == "Namespace")
        return with_version(body, revision)
    except Damaged:
        raise
    except NOT_READABLE as error:
        raise Damaged(_in_words(stored, error)) from None


def _in_words(stored: bytes, error: Exception) -> str:
    """What a decoder's error says of bytes; of those in no known form, that they are."""
    if not stored:
        return "nothing is stored there"
    known = stored[0] in b"{\xde\xdf" or 0x80 <= stored[0] <= 0x8f or stored.startswith(ENVELOPE)
    return str(error) or type(error).__name__ if known else NO_OBJECT


def _spelled_anew(body: bytes, *, typed: bool) -> bytes:
    """What another program wrote, or what has a brace in a text, as this package writes it.

    Args: typed: what its kind's fields cannot hold is no object either.
    """
    obj = orjson.loads(body)
    if not (isinstance(obj, dict) and isinstance(obj.get("apiVersion"), str)
            and isinstance(obj.get("kind"), str) and isinstance(obj.get("metadata"), dict)
            and isinstance(obj["metadata"].get("name"), str)):
        raise Damaged(NO_OBJECT)
    if typed and (why := ill_typed(obj)):
        raise Damaged(why)
    return orjson.dumps(canonical(obj))


def ill_typed(obj: dict[str, Any]) -> str:
    """What of an object its kind's fields cannot hold, in the words of upstream's decoder; "":
    nothing. The object is not changed.

    >>> ill_typed({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}, "status": 5})
    'json: cannot unmarshal number into Go struct field Namespace.status of type v1.NamespaceStatus'
    """
    name = type_of_kind(obj["apiVersion"], obj["kind"])
    if name is None or ok(name)(obj):
        return ""
    try:
        settle(name, orjson.loads(orjson.dumps(obj)))
    except IllTyped as error:
        return str(error)
    return ""


def why_damaged(stored: bytes) -> str:
    """Why stored bytes are no object of their kind; "": they are one. Nothing is believed."""
    try:
        body = json_of(stored)
        _spelled_anew(body, typed=True)
    except Damaged as error:
        return str(error)
    except NOT_READABLE as error:
        return _in_words(stored, error)
    return ""


class Entry:
    """One object at one version. Immutable; shared by the cache and everybody who sends it.

    Attributes: key (as stored), revision (its mod_revision), body (JSON), kind.
    Errors: making one: Damaged. Memory: 80 bytes beside key and body; labels and fields, once a
    selector has asked for them, some 500 more.
    """

    __slots__ = ("key", "revision", "body", "kind", "_labels", "_fields", "_object")

    def __init__(self, key: bytes, revision: int, stored: bytes, kind: str) -> None:
        self.key, self.revision, self.kind = key, revision, kind
        self.body = readable(stored, revision, kind)
        self._labels: dict[str, str] | None = None
        self._fields: tuple[str, ...] | None = None
        self._object: dict[str, Any] | None = None

    @property
    def object(self) -> dict[str, Any]:
        """The object as a dictionary, decoded once and kept; shared: nobody may change it. For
        kinds of which there are few (namespaces, quotas, classes), since it is ten times the body.
        """
        if self._object is None:
            self._object = orjson.loads(self.body)
        return self._object

    def _look(self) -> None:
        try:
            obj = self._object or orjson.loads(self.body)
            labels = obj["metadata"].get("labels")
        except (ValueError, KeyError, AttributeError) as error:
            _log.error("what lies at %r was believed to be an object: %s", self.key, error)
            obj, labels = {}, None            # no selector finds it
        self._labels = labels if labels and isinstance(labels, dict) else NO_LABELS
        self._fields = values_of(self.kind, obj)

    @property
    def labels(self) -> dict[str, str]:
        if self._labels is None:
            self._look()
        return self._labels or NO_LABELS

    @property
    def fields(self) -> tuple[str, ...]:
        """The values of the kind's selectable fields, in the order of kvcore.kube.selectable."""
        if self._fields is None:
            self._look()
        return self._fields or ()


class Change:
    """What happened to one object at one revision: `entry` None: deleted; `prev` None: created."""

    __slots__ = ("revision", "entry", "prev", "_lines")

    def __init__(self, revision: int, entry: Entry | None, prev: Entry | None) -> None:
        self.revision, self.entry, self.prev = revision, entry, prev
        self._lines: dict[str, bytes] = {}

    @property
    def key(self) -> bytes:
        some = self.entry or self.prev
        assert some is not None
        return some.key

    def line(self, type: EventType) -> bytes:
        """The event as a watch sends it. DELETED carries the last state, at this revision."""
        line = self._lines.get(type)
        if line is None:
            if type == "DELETED":
                assert self.prev is not None
                body = _reversioned(self.prev.body, self.prev.revision, self.revision)
            else:
                assert self.entry is not None
                body = self.entry.body
            line = self._lines[type] = event_line(type, body)
        return line


def event_line(type: str, body: bytes) -> bytes:
    """One line of a watch, JSON and a newline."""
    return b'{"type":"%b","object":%b}\n' % (type.encode(), body)


def _reversioned(body: bytes, old: int, new: int) -> bytes:
    """The same object said to be of another version: the first one named is the object's own."""
    return body.replace(b'"resourceVersion":"%d"' % old, b'"resourceVersion":"%d"' % new, 1)
