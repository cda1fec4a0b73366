# SPDX-License-Identifier: Apache-2.0
"""The whole parts of a damaged checkpoint, as a checkpoint of their own.

    header | block | (damaged) | block | tables  ─►  header' | block | block | tables | footer

A part is whole when its own checksum says so. What is missing is told by its neighbours' keys.

Thread safety: functions of bytes.  Format: docs/log-format.md.  May not know: files, the log.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from kvcore._native import crc32c

__all__ = ["sound_parts"]

CK_HEADER = 128
WITHOUT_END = 9_000_000_000

def sound_parts(raw: bytes) -> tuple[bytes, int, list[str]] | None:
    """A checkpoint made of the parts that prove themselves, its revision, and what is missing; None
    when its header does not."""
    if len(raw) < CK_HEADER or raw[:8] != b"KVCCKP01" or (
            crc32c(raw[12:CK_HEADER]) != int.from_bytes(raw[8:12], "little")):
        return None
    words = list(struct.unpack_from("<14Q", raw, 16))
    blocks, lost = _sound_blocks(raw[: words[11]])
    tables, at = [], words[11]
    for number, (count, size) in enumerate(((words[10], 40), (words[12], 16))):
        head = raw[at : at + 8]
        body = raw[at + 8 : at + 8 + count * size]
        if len(head) < 8 or len(body) < count * size or (
                struct.pack("<II", crc32c(body), count) != head):
            body = b"" if number == 0 else _leases_named(blocks)
            lost.append("the checkpoint's table of " + ("leases: those of its keys are granted "
                        "again, without an end" if number else "segments is damaged"))
        tables.append(struct.pack("<II", crc32c(body), len(body) // size) + body)
        at += 8 + count * size
    # keys, versions, blocks, segments, where the tables begin, leases
    words[7], words[9] = sum(int.from_bytes(b[8:12], "little") for b in blocks), len(blocks)
    words[8] = sum(versions for block in blocks for *_, versions in _entries(block))
    words[10], words[12] = (len(tables[0]) - 8) // 40, (len(tables[1]) - 8) // 16
    words[11] = CK_HEADER + sum(map(len, blocks))
    rest = struct.pack("<I14Q", 1, *words)
    header = b"KVCCKP01" + struct.pack("<I", crc32c(rest)) + rest
    made = [header, *blocks, *tables, b"KVCCKEND", struct.pack("<Q", len(blocks))]
    return b"".join(made), words[4], lost


def _sound_blocks(raw: bytes) -> tuple[list[bytes], list[str]]:
    """Blocks that prove themselves, and the keys beside which one does not."""
    blocks, lost, at = list[bytes](), list[str](), CK_HEADER
    while at < len(raw):
        block = _block_at(raw, at)
        if block is not None:
            blocks.append(block)
            at += len(block)
            continue
        found = raw.find(b"\0\0\0\0", at + 13)
        while found >= 0 and _block_at(raw, found - 12) is None:
            found = raw.find(b"\0\0\0\0", found + 1)
        behind = f"{_keys(blocks[-1])[-1]!r}" if blocks else "the first key"
        at = found - 12 if found >= 0 else len(raw)
        following = _block_at(raw, at)
        before = f"{_keys(following)[0]!r}" if following else "the last key"
        lost.append(f"a block of the checkpoint is damaged: keys between {behind} and {before}")
    return blocks, lost


def _block_at(raw: bytes, at: int) -> bytes | None:
    if at + 16 > len(raw):
        return None
    length, crc, keys, zero = struct.unpack_from("<IIII", raw, at)
    if zero or not keys or length < keys * 56 or at + 16 + length > len(raw) or (
            crc32c(raw[at + 16 : at + 16 + length]) != crc):
        return None
    return raw[at : at + 16 + length]


def _entries(block: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Each key of a block, the lease of its newest version, and how many there are."""
    at, key = 16, b""
    while at < len(block):
        shared, suffix, versions = struct.unpack_from("<HHI", block, at)
        key = key[:shared] + block[at + 8 : at + 8 + suffix]
        at += 8 + suffix + versions * 48
        yield key, int(struct.unpack_from("<q", block, at - 48 + 24)[0]), versions


def _keys(block: bytes) -> list[bytes]:
    return [key for key, *_ in _entries(block)]


def _leases_named(blocks: list[bytes]) -> bytes:
    ids = sorted({lease for block in blocks for _, lease, _ in _entries(block) if lease})
    return b"".join(struct.pack("<qq", lease, WITHOUT_END) for lease in ids)
