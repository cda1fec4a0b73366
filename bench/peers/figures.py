# SPDX-License-Identifier: Apache-2.0
"""What is asked: the figures, with the estimate each was given before it was measured.

    FIGURES ── of the stores, ratio to kvcore       MAP_FIGURES ── of the index alone, ratio to
                                                                   orders 32 and 64

An estimate comes from the floors of a machine of this kind: pwrite + fdatasync of 1 KiB into blocks
written before 140-180 us, of 64 KiB 210 us; 270 MB/s into a growing file with a sync per MiB; a
random access to DRAM 450 ns, to L3 165 ns; copying 8 GB/s; CRC-32C of 1 KiB 0.12 us; a bytes object
of 1 KiB made and dropped 0.1 us, made and kept 1.4 us; a turn of the GIL 5-10 us.

May not know: any store.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    title: str
    unit: str
    estimate: str
    limit: str = ""
    """What limits kvcore there now."""
    more_is_better: bool = False

    def ratio(self, peer: float, base: float) -> float | None:
        """How many times better the base is than the peer; below 1 the peer is ahead.

        None when there is nothing to divide by.

        >>> Figure("a", "a", "us", "").ratio(30.0, 10.0)
        3.0
        >>> Figure("a", "a", "/s", "", more_is_better=True).ratio(30.0, 10.0)
        0.3333333333333333
        """
        top, bottom = (base, peer) if self.more_is_better else (peer, base)
        return top / bottom if bottom else None


FIGURES = (
    Figure("put", "durable put, one caller, median", "us",
           "the floor's write and sync + 5 us: 145-185",
           "the sync; kvcore adds a write of the batch, encoding and two system calls"),
    Figure("put_floor", "durable put over the floor's, taken in turns", "x",
           "(160 + 5) / 160: 1.03",
           "what is not the sync: encoding, applying, the GIL given up and taken again"),
    Figure("put_p99", "durable put, one caller, 99th percentile", "us",
           "the floor's, 300-700: one sync a put, nothing else waits",
           "not analysed yet"),
    Figure("threads", "durable puts, 64 threads", "puts/s",
           "two GIL turns of 10 us a put: 40,000-50,000",
           "the GIL: two hand-overs a put; the syncs are shared",
           more_is_better=True),
    Figure("batch", "durable puts, all-or-nothing batches of 100", "puts/s",
           "110 KiB a sync, 250-350 us, + 100 x 1.5 us of Python: 200,000-250,000",
           "the sync of 110 KiB, then 1.2 us a put to encode and apply",
           more_is_better=True),
    Figure("batch_floor", "durable batches of 100 over the floor's, taken in turns", "x",
           "(300 + 150) / 300: 1.5",
           "encoding and applying 100 puts while the disk waits"),
    Figure("get", "random get, value as bytes", "us",
           "index 0.8 us, two misses in the mapped log 0.9, CRC and copy 0.4, Python 0.4: 2.5",
           "cache misses, in the index and in the mapped log"),
    Figure("page", "page of 500, keys and values as bytes", "us",
           "index 20 us + 500 x (two misses, CRC, two objects kept = 1.5 us): 750",
           "1,000 bytes objects, and a miss or two for each value: values lie in the order "
           "they were written, not in that of their keys"),
    Figure("scan", "everything in key order, per object", "us",
           "as a page's objects, prefetch helps at small sizes: 1.0-1.5",
           "as the page; in LMDB and LevelDB values lie beside their keys"),
    Figure("load", "load, durable batches of 1,000, random key order, per object", "us",
           "1.1 KiB at 270 MB/s = 4.2 us, + 1 us of index and Python: 5-6",
           "the disk: all bytes once, a sync for each 1.1 MiB"),
    Figure("open", "open and first get after kill -9", "ms",
           "checkpoint 0.2 us a key + replay, at most 300 ms: 100-150 for 100,000 keys, "
           "500 for a million",
           "the index is built anew: checkpoint load and replay; LMDB and SQLite keep "
           "their trees on disk and give nothing up here"),
    Figure("disk", "bytes on disk, per object", "B",
           "1,024 + key 53 + cell 30 + checkpoint 80 + a preallocated segment (64 MiB, shared by "
           "all objects): 1,190 for a million, 1,800 for 100,000",
           "values are not compressed, as RocksDB's and LevelDB's are; one segment is "
           "allocated ahead"),
    Figure("anonymous", "memory after reading everything, anonymous", "MB",
           "80 B a key + 20 MB: 28 for 100,000 keys, 100 for a million",
           "the whole index is in memory; the peers' are in their files, or in caches of a "
           "fixed size"),
    Figure("resident", "memory after reading everything, mapped files included", "MB",
           "the whole log is mapped and was touched: 1,110 B an object more: 140 for 100,000, "
           "1,200 for a million",
           "the mapped log: page cache, which the system takes back when it needs it"),
)

MAP_FIGURES = (
    Figure("insert_random", "insert, random order", "ns",
           "three misses and a shift of half a leaf: 1,300",
           "cache misses"),
    Figure("insert_sorted", "insert, sorted", "ns",
           "the rightmost leaf is in L1, the key is not (its object lies anywhere): 300-400",
           "the call from Python and the miss on the key object"),
    Figure("get", "get hit", "ns", "two dependent misses: 900",
           "cache misses, the call, and the entry object it makes"),
    Figure("scan", "500 entries in order", "us",
           "20-25 leaves in sequence, prefetched, rows copied out: 10-20",
           "each row is copied out with all its metadata; the peers are only walked"),
    Figure("bytes", "memory per key", "B",
           "head 8, meta 4, mod 8, record 32, tail 19, at 70 % fill shared headers 10: 81",
           "head (8 B) and version record (32 B), which the peers do not have"),
)
