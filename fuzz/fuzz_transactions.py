# SPDX-License-Identifier: Apache-2.0
"""Fuzz target: operations as Python objects, turned into commands and into answers.

    bytes ─► the same operation of kvcore and of models.py ─► a store in memory, the model: the same
         answer or the same error  ─► a store on disk: its log, read by command_bytes, is that model

Encoding by the core, decoding by a reader of its own: they agree, or a hash does not.
"""

from __future__ import annotations

from typing import Any

import command_bytes as cb
import model_leases
import model_wal
import models
from common import OPTIONS, Bytes, Model, directory
from fuzz_log import NAME

import kvcore

KEYS = (b"a", b"a\0", b"b", b"c", b"\0", b"\xff", b"k" * 300, b"")
TARGETS = ("version", "create_revision", "mod_revision", "lease", "value")
SORTS = (None, "key", "-key", "version", "-mod_revision", "create_revision", "value", "nonsense")
TOKENS = (b"\3", b"\0\1", b"\4\0\0", b"\xff" * 8)


def seeds() -> list[bytes]:
    return [b"\0\0\1\0\0\0\0\2\5\1\0", b"\4\1\1\0\0\0\1\0\0\0\1\2\0\1\1\1\0\1\2\0",
            b"\0\1\3\1\2\0\0\2\0\4\1\4\2\1\1\0\2\0\0\1\0\1\0\0\0\0\1\0\2\0\0\3\0\0\1",
            b"\4\0\2\4\0\1\0\0\1\0\4\0\1\0\2\0\0\0\0\0\0\0", b"\5\2\0\0\3\1\0\0\0\5\3\2\0\0\0\0"]


def signed(rest: Bytes, size: int) -> int:
    return int.from_bytes(rest.take(size).ljust(size, b"\0"), "little", signed=True)


def span(rest: Bytes) -> tuple[Any, ...]:
    key, kind = KEYS[rest.number(1) % len(KEYS)], rest.number(1) % 4
    return (key,) if kind < 2 else (key, KEYS[rest.number(1) % len(KEYS)])


def operation(rest: Bytes, depth: int) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Name, arguments, options; those of a transaction are operations again."""
    kind = rest.number(1) % 6
    if kind in (0, 5):
        flags = rest.number(1)
        return "Put", (KEYS[rest.number(1) % len(KEYS)], rest.take(rest.number(1) % 40)), {
            "prev": bool(flags & 1), "ignore_value": flags & 14 == 2,
            "ignore_lease": flags & 14 == 4}
    if kind == 1:
        return "Delete", span(rest), {"prev": bool(rest.number(1) & 1)}
    if kind == 2:
        options: dict[str, Any] = {"limit": signed(rest, 1),
                                   "revision": rest.number(1) % 16 or None,
                                   "sort": SORTS[rest.number(1) % len(SORTS)]}
        options["min_mod_revision" if options["limit"] & 1 else "max_create_revision"] = signed(
            rest, 1)
        return "Range", span(rest), options
    if kind == 3 or depth > 4:
        return "Get", (KEYS[rest.number(1) % len(KEYS)],), {}
    compares = [("Compare", (TARGETS[rest.number(1) % 5], span(rest), rest.number(1) % 4,
                             rest.number(1) % 8), {}) for _ in range(rest.number(1) % 4)]
    branches = [[operation(rest, depth + 1) for _ in range(rest.number(1) % 4)] for _ in range(2)]
    return "Txn", (compares, *branches), {}


def made(api: Any, what: tuple[str, tuple[Any, ...], dict[str, Any]]) -> Any:
    """The operation as an object of kvcore or of models."""
    name, arguments, options = what
    if name == "Compare":
        target, place, result, operand = arguments
        compare = getattr(api.Compare, target)(*place)
        value = b"%d" % operand if target == "value" else operand
        return (compare == value, compare != value, compare < value, compare > value)[result]
    if name == "Txn":
        return api.Txn(*([made(api, inner) for inner in branch] for branch in arguments))
    return getattr(api, name)(*arguments, **options)


def answer(run: Any) -> Any:
    try:
        return models.plain(run())
    except kvcore.Error as error:
        return type(error).__name__


def one(data: bytes) -> None:
    """One input."""
    rest, model = Bytes(data), model_leases.LeaseModel()
    described = [operation(rest, 0) for _ in range(8) if rest.more()]
    path = directory().fill({})
    with kvcore.open() as memory, kvcore.open(path, **OPTIONS) as disk:
        for what in described:
            wanted = answer(lambda what=what: model.do(made(models, what)))
            for db in (memory, disk):
                got = answer(lambda what=what, db=db: perform(db, what))
                assert got == wanted, (what, got, wanted)
        assert memory.hash().hash == disk.hash().hash == model.hash().hash
        memory._check()
    replayed = Model()
    for batch in model_wal.read_segment(path / NAME)[1]:
        reader = cb.Reader(batch.payload)
        for _ in range(batch.count if batch.kind == 1 else 0):
            value = reader.value()
            assert cb.pack(value) == batch.payload[reader.began : reader.at]
            replayed.apply(value)
    assert replayed.hash().hash == model.hash().hash


def perform(db: kvcore.Store, what: tuple[str, tuple[Any, ...], dict[str, Any]]) -> Any:
    op = made(kvcore, what)
    name, arguments, options = what
    if name == "Txn":
        return db.txn(op.compare, op.success, op.failure)
    if name == "Get":
        return db.get(*arguments)
    if name == "Range":
        return db.range(*arguments, **options)
    return db.put(*arguments, **options) if name == "Put" else db.delete(*arguments, **options)
