# SPDX-License-Identifier: Apache-2.0
"""Fuzz target: leases as the log and a checkpoint keep them.

    command 1 | its numbers ... : grants, revokes, attached and detached keys, a checkpoint between

The commands go into a log; the store that opens on it, and again after a checkpoint of its own, has
the model's leases with the model's keys.
"""

from __future__ import annotations

import command_bytes as cb
from common import OPTIONS, REFUSALS, Bytes, directory, judge, log_of
from fuzz_log import NAME

import kvcore

KEYS = (b"a", b"b", b"b\0", b"c" * 300, b"\xff")
TOKENS = (b"\0\1", b"\1\1", b"\2\1", (9_000_000_000).to_bytes(8, "little"), b"\xff" * 8)


def seeds() -> list[bytes]:
    return [b"\0\1\x3c\2\0\1\2\1\1\1\1", b"\0\1\x3c\0\2\x3c\2\0\1\2\0\2\1\1\4\0\1\2",
            b"\x40" + b"\1" * 8 + b"\x3c" * 8 + b"\2\1\0\3\1\2\2\1"]


def commands(data: bytes) -> list[bytes]:
    """The first byte of each says which, and (0x40) that numbers have 8 bytes."""
    rest, made = Bytes(data), list[bytes]()
    while rest.more() and len(made) < 60:
        head = rest.number(1)
        size = 8 if head & 0x40 else 1
        kind = head & 7

        def number(size: int = size) -> int:
            value = rest.number(size)
            return value - (1 << 64) if value >= 1 << 63 else value

        key = KEYS[rest.number(1) % len(KEYS)] if kind >= 2 else b""
        made.append({
            0: lambda: cb.pack([6, number(), number()]),
            1: lambda: cb.pack([7, number()]),
            2: lambda key=key: cb.put(key, b"v", 0, number()),
            3: lambda key=key: cb.put(key, b"w"),
            4: lambda key=key: cb.pack([2, 0, key, b"\0"]),
            5: lambda key=key: cb.put(key, b"", 4),
            6: lambda key=key: cb.put(key, b"", 2, number()),
            7: lambda key=key: cb.pack([3, [[4, 0, number(), key, None]],
                                        [cb.Raw(cb.put(key, b"t", 0, number()))], []]),
        }[kind]())
    return made


def one(data: bytes) -> None:
    """One input."""
    made = commands(data)
    raw, model, decided = log_of([(1, 1, command, {}) for command in made])
    path = directory().fill({NAME: raw})
    try:
        with kvcore.open(path, **OPTIONS) as db:
            if made:
                db.checkpoint()
    except REFUSALS:
        path = directory().fill({NAME: raw})
    judge(path, model, decided, again=len(data) % 5 == 0)
