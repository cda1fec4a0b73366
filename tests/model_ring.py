# SPDX-License-Identifier: Apache-2.0
"""The ring as a list: what is kept, and what the policy drops when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class ModelRing(Generic[T]):
    """Records are anything; the caller says which mod each has."""

    capacity: int
    interval: float = 0
    first: int = 0
    rows: list[tuple[int, T]] = field(default_factory=list)     # (mod, record)
    compactions: int = 0
    dropped_mod: int = 0
    compacted_at: float | None = None

    @property
    def next(self) -> int:
        return self.first + len(self.rows)

    def push(self, mod: int, row: T) -> None:
        self.rows.append((mod, row))

    def due(self, now: float) -> bool:
        if len(self.rows) <= self.capacity * 1.1:
            return False
        return (len(self.rows) > 2 * self.capacity or self.compacted_at is None
                or now - self.compacted_at >= self.interval)

    def trim(self, now: float) -> None:
        if not self.due(now):
            return
        gone = len(self.rows) - self.capacity * 9 // 10
        self.dropped_mod = self.rows[gone - 1][0]
        self.first += gone
        del self.rows[:gone]
        self.compactions += 1
        self.compacted_at = now

    def at(self, seq: int) -> tuple[int, T] | None:
        return self.rows[seq - self.first] if self.first <= seq < self.next else None

    def after(self, version: int) -> int:
        return self.first + sum(mod <= version for mod, _ in self.rows)
