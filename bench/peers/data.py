# SPDX-License-Identifier: Apache-2.0
"""The objects of a run: keys of a cluster in random order, values of which half compresses.

    keys(n) ── bench.workload.registry_keys ──► a file, one key a line ──► each child, each program
    value(i) ── 512 seeded random bytes, 512 of repeated JSON; a pure function of i

The file spares a hundred children the making of the same million keys.  Its first `objects` lines
are loaded; those behind are what the put questions put.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.workload import registry_keys

RANDOM_BYTES = 512
TEXT = b'{"apiVersion":"v1","kind":"Pod"}' * 16

Item = tuple[bytes, bytes]


@dataclass(frozen=True)
class Sizes:
    """How often each question is asked; grows with the number of objects, up to a limit.

    >>> Sizes.of(1_000_000).lone, Sizes.of(300).lone
    (2000, 20)
    """

    objects: int
    lone: int
    threads: int
    per_thread: int
    batches: int
    batch: int
    gets: int
    pages: int
    page: int
    load_batch: int

    @classmethod
    def of(cls, objects: int) -> Sizes:
        """The sizes for so many objects."""
        def share(divisor: int, low: int, high: int) -> int:
            return max(low, min(high, objects // divisor))

        return cls(objects=objects, lone=share(50, 20, 2000), threads=64,
                   per_thread=share(1000, 2, 100), batches=share(1000, 3, 200), batch=100,
                   gets=share(5, 100, 20_000), pages=share(500, 3, 100), page=500,
                   load_batch=1000)

    @property
    def extra(self) -> int:
        """Objects that the put questions add."""
        return self.lone + self.threads * self.per_thread + self.batches * self.batch

    def as_dict(self) -> dict[str, Any]:
        """For a job, and for the report."""
        return asdict(self)


def value(index: int) -> bytes:
    """The value of object `index`: 1 KiB, about half of it compresses away.

    >>> len(value(1)), value(1) == value(1), value(1) == value(2)
    (1024, True, False)
    """
    return hashlib.shake_128(b"%d" % index).digest(RANDOM_BYTES) + TEXT


def write_keys(path: Path, sizes: Sizes, seed: int) -> None:
    """Makes the keys of a run, once."""
    path.write_bytes(b"\n".join(registry_keys(sizes.objects + sizes.extra, seed)) + b"\n")


def read_keys(path: Path, first: int, count: int) -> list[bytes]:
    """`count` keys from number `first` on."""
    lines = path.read_bytes().splitlines()
    return lines[first:first + count]


def checksum(items: Iterable[Item]) -> int:
    """CRC-32 over keys and values, in the order given.

    >>> checksum([(b"a", b"1"), (b"b", b"2")]) == checksum([(b"b", b"2"), (b"a", b"1")])
    False
    """
    crc = 0
    for key, found in items:
        crc = zlib.crc32(found, zlib.crc32(b"%d:%d:%b" % (len(key), len(found), key), crc))
    return crc
