# SPDX-License-Identifier: Apache-2.0
"""What an open did not look at: the other checkpoint, and batches that only another open reads.

    checkpoints    8 (older)          9 (newest: what was opened)
    log       ...... | b b b b b b b b | b b b b b |  end
                     └ replayed when 9 is damaged  └ replayed by this open

Before the older checkpoint's place in the log only values count, which are read one by one
elsewhere: what else lies there may be damaged, or no batch at all (a repaired or restored store
begins so).

Invariants: read-only; what is retired meanwhile keeps its files until the look is over (a Pin).
Thread safety: any thread, beside writers.  May not know: the index.
"""

from __future__ import annotations

import os
import re
from collections.abc import Set
from typing import TYPE_CHECKING

from kvcore._directory import segment_path, synced_mark
from kvcore._image import segment_ends, take_pin
from kvcore._salvage import Salvage
from kvcore.errors import CorruptError, NewerFormatError, StorageError

if TYPE_CHECKING:
    from kvcore._engine import Engine

__all__ = ["damaged_files"]

HEADER = 64


def damaged_files(engine: Engine, passed_over: Set[str], known: list[int]) -> list[str]:
    """Damage in checkpoints and batches, a line each.

    passed_over: checkpoints told already; known: positions of values told already, whose batches
    are not told again.
    """
    if not engine.log_path:
        return []
    pin = take_pin(engine)
    size = int(engine._stats()["segment_bytes"])
    problems, begins = list[str](), list[int]()
    for path in _checkpoints(engine.log_path, passed_over):
        try:
            begin, named = Salvage(size).load(path)
            begins.append(begin)
            problems += [f"{path} at offset 0: {segment_path(engine.log_path, seq)} is not the "
                         "segment that it names" for seq, entry in named.items()
                         if entry[2] and entry[:2] != _header(segment_path(engine.log_path, seq))]
        except CorruptError as error:
            problems.append(f"{path} at offset {error.offset}: {error.reason}")
        except (StorageError, NewerFormatError) as error:
            if os.path.lexists(path):            # else a newer one took its place meanwhile
                problems.append(f"{path}: {error}")
    problems += _lost_seal(engine, size)
    salvage, begin, ends = Salvage(size), min(begins, default=0), dict[int, int]()
    for seq, end in segment_ends(engine).items():
        if seq * size + end <= begin:
            continue
        path = segment_path(engine.log_path, seq)
        try:
            header = salvage.add_segment(seq, path)
        except StorageError as error:
            problems.append(f"{path}: {error}")
            continue
        if header is None or header[0] == 0:
            problems.append(f"{path} at offset 0: the segment's header is damaged")
            continue
        salvage.identify(seq, *header[:2])
        ends[seq] = end
    for seq, end in ends.items():
        following = salvage.batch(seq + 1, HEADER)       # it says where this one ends
        end = end if following is None else following.durable_upto - seq * size
        problems += _batches(salvage, segment_path(engine.log_path, seq), seq,
                             max(HEADER, begin - seq * size), end,
                             [pos - seq * size for pos in known])
    del pin
    return problems


def _checkpoints(directory: str, passed_over: Set[str]) -> list[str]:
    """The two that an open may go back to; an older one that could not be removed names segments
    that are gone."""
    try:
        names = sorted(name for name in os.listdir(directory)
                       if re.fullmatch(r"checkpoint-[0-9a-f]{16}\.ckp", name))
    except FileNotFoundError:
        return []                                # so are the segments, and each is told
    return [path for path in (os.path.join(directory, name) for name in names)
            if path not in passed_over][-2:]


def _header(path: str) -> tuple[int, int]:
    """Nonce and seed of a segment; zeros when it is missing."""
    if not os.path.isfile(path):
        return 0, 0
    with open(path, "rb") as file:
        raw = file.read(HEADER).ljust(HEADER, b"\0")
    return int.from_bytes(raw[32:40], "little"), int.from_bytes(raw[40:44], "little")


def _lost_seal(engine: Engine, size: int) -> list[str]:
    """The log was sealed when it was last closed, and the open found no seal."""
    end = engine.recovery.end_position
    if end >= synced_mark(engine.log_path):
        return []
    seq = (end - 1) // size
    return [f"{segment_path(engine.log_path, seq)} at offset {end - seq * size}: the seal that "
            "ended the log is damaged"]


def _batches(salvage: Salvage, path: str, seq: int, off: int, end: int,
             known: list[int]) -> list[str]:
    """Places of one segment, up to its end, that should hold a batch and do not."""
    problems = []
    while off < end:
        head = salvage.batch(seq, off)
        if head is not None:
            off = head.end
            continue
        behind = min(salvage.find(seq, off) or end, end)
        if not any(off <= at < behind for at in known):
            problems.append(f"{path} at offset {off}: no valid batch up to offset {behind}")
        off = behind
    return problems
