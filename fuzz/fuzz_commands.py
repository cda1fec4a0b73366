# SPDX-License-Identifier: Apache-2.0
"""Fuzz target: commands, the msgpack of a batch, on a store that has keys, history and a lease.

    count 1 | bytes of the commands

The core's decoder and state machine against tests/command_bytes.py and the naive model: both refuse
or both accept, and then agree in every version, lease and revision.
"""

from __future__ import annotations

import command_bytes as cb
from common import directory, judge, log_of
from fuzz_log import NAME

BEFORE = [cb.put(b"a", b"1"), cb.pack([6, 1, 60]), cb.put(b"b", b"22", lease=1), cb.put(b"a", b""),
          cb.pack([2, 0, b"a", None]), cb.put(b"a\0", b"x" * 40), cb.put(b"c", b"3"),
          cb.pack([4, 3])]
PUT_C = cb.Raw(cb.put(b"c", b"new"))
TOKENS = (cb.put(b"a", b"1"), cb.put(b"c", b"", 2), cb.put(b"b", b"", 4), cb.pack(b"\0"),
          b"\xc0", b"\xd3", b"\xdc\0\1", b"\x96", b"\x94\3", b"\x90", cb.cell(b"k", b"v").data,
          cb.pack([0, 0, 1, b"a", None]), cb.pack([3, 0, b"3", b"c", None]), cb.pack([7, 1]))


def seeds() -> list[bytes]:
    compares = [[target, result, b"3" if target == 3 else 1, b"c", end]
                for target in range(5) for result, end in ((0, None), (1, b"d"), (3, b"\0"))]
    commands = [
        [cb.put(b"a", b"9", flags, lease)] for flags in (0, 1, 2, 4, 6) for lease in (0, 1)
    ] + [[cb.pack([3, [compare], [PUT_C], [[2, 1, b"a", b"c"]]])] for compare in compares] + [
        [cb.pack([3, [], [[3, [], [PUT_C, [2, 0, b"c", None]], []],
                          [5, 0, b"a", b"z", 5, 0, 1, 4, 1, 0, 0, 0]], []])],
        [cb.pack([4, 5]), cb.pack([4, 4])], [cb.pack([6, 2, 9]), cb.put(b"x", b"y", 0, 2)],
        [cb.pack([7, 1]), cb.pack([7, 1])], [cb.pack([8, 1])], [cb.pack([2, 1, b"\0", b"\0"])],
        [cb.pack([5, 32, b"a", None, 0, 0, 0, 0, 0, 0, 0, 0])],
    ]
    return [bytes([len(parts)]) + b"".join(parts) for parts in commands]


def one(data: bytes) -> None:
    """One input."""
    batches = [(1, len(BEFORE), b"".join(BEFORE), dict[str, int]()), (1, data[0] if data else 0,
                                                                      data[1:], {})]
    raw, model, decided = log_of(batches)
    judge(directory().fill({NAME: raw}), model, decided, again=len(data) % 7 == 0)
