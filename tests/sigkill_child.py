# SPDX-License-Identifier: Apache-2.0
"""A child to be killed: eight writers, compaction and checkpoints, acknowledgements down a pipe.

    python sigkill_child.py DIRECTORY GENERATION SYNC

Each line on stdout is an acknowledgement, written with one write(2) behind the answer:

    open REVISION                          the store is open at this revision
    put THREAD SEQ REVISION                key t<THREAD>/<SEQ % 40> has the value of SEQ
    delete THREAD SEQ REVISION             ... is deleted
    txn THREAD SEQ REVISION                x<THREAD>/a and x<THREAD>/b both have the value of SEQ
    compact - - REVISION
"""

from __future__ import annotations

import os
import shutil
import sys
import threading

import kvcore
from kvcore import Compare, Put

THREADS = 8
KEYS = 40


def value(generation: int, thread: int, seq: int) -> bytes:
    """Unique, and of varying length."""
    return b"%d/%d/%d/" % (generation, thread, seq) + b"x" * (seq * 37 % 600)


def key(thread: int, seq: int) -> bytes:
    return b"t%d/%02d" % (thread, seq % KEYS)


def tell(what: str, thread: object, seq: object, revision: int) -> None:
    os.write(1, f"{what} {thread} {seq} {revision}\n".encode())


def write(db: kvcore.Store, generation: int, thread: int) -> None:
    """Puts, deletes and transactions of one thread, each acknowledged before the next."""
    seq = 0
    while True:
        seq += 1
        data = value(generation, thread, seq)
        if seq % 9 == 0:
            tell("delete", thread, seq, db.delete(key(thread, seq)).revision)
        elif seq % 5 == 0:
            pair = [Put(b"x%d/a" % thread, data), Put(b"x%d/b" % thread, data)]
            done = db.txn([Compare.version(b"never") == 0], pair, [Put(b"wrong")])
            tell("txn", thread, seq, done.revision)
        else:
            tell("put", thread, seq, db.put(key(thread, seq), data).revision)


def back_up(db: kvcore.Store, target: str) -> None:
    """Takes the place of the last one, which is never there by half."""
    if os.path.isdir(target):
        shutil.rmtree(target + "-old", ignore_errors=True)      # a kill may have left it
        os.rename(target, target + "-old")
        shutil.rmtree(target + "-old")
    db.backup(target)


def main() -> None:
    directory, generation, sync = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    db = kvcore.open(directory, sync=sync, segment_bytes=65536, max_request_bytes=16384,
                     order=8, replay_target=0.0005)
    os.write(1, b"open - - %d\n" % db.revision)
    for thread in range(THREADS):
        threading.Thread(target=write, args=(db, generation, thread), daemon=True).start()
    last = db.revision
    while True:
        if db.revision > last + 200:
            last = db.revision
            db.compact(last - 100)
            tell("compact", "-", "-", last - 100)
            if last % 3 == 0:
                db.checkpoint()
            if last % 2 == 0:
                back_up(db, directory + "-backup")
        else:
            db.step()


if __name__ == "__main__":
    main()
