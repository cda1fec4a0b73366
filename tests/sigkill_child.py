# SPDX-License-Identifier: Apache-2.0
"""The process that test_sigkill.py kills: eight writers, compaction and checkpoints, and a line per
acknowledgement: `thread seq revision`. What a writer does at each seq is `step()` below, so that the parent
can follow."""

from __future__ import annotations

import os
import sys
import threading

WRITERS = 8
OPTIONS = {"segment_bytes": 1 << 20, "max_request_bytes": 1 << 16, "replay_target": 0.002}


def step(run: int, thread: int, seq: int) -> dict[bytes, bytes | None]:
    """The changes of one request: key to value, None: deleted. All of them or none."""
    name = b"/t/%d/%%s" % thread
    value = b"%d.%d:" % (run, seq) + b"x" * (seq * 37 % 400)
    kind = seq % 5
    if kind < 3:
        return {name % (b"%d" % (seq % 7)): value}
    if kind == 3:
        return {name % b"x": value, name % b"y": value}
    return {name % (b"%d" % (seq // 5 % 7)): None}


def write(db: object, run: int, thread: int) -> None:
    """Requests for ever, each acknowledged by a line once it returned."""
    import kvcore

    assert isinstance(db, kvcore.Store)
    seq = 0
    while True:
        changes = step(run, thread, seq)
        if len(changes) == 2:
            revision = db.txn([], [kvcore.Put(k, v or b"") for k, v in changes.items()]).revision
        else:
            ((key, value),) = changes.items()
            if value is None:
                done = db.delete(key)
                revision = done.revision if done.deleted else 0
            else:
                revision = db.put(key, value).revision
        os.write(1, b"%d %d %d\n" % (thread, seq, revision))
        seq += 1


def main() -> None:
    """Arguments: directory, number of the run."""
    import kvcore

    db = kvcore.open(sys.argv[1], **OPTIONS)
    run = int(sys.argv[2])
    for thread in range(WRITERS):
        threading.Thread(target=write, args=(db, run, thread), daemon=True).start()
    while True:
        target = db.revision - 100
        if target > db.compact_revision:
            db.compact(target, physical=True)
        db.checkpoint()


if __name__ == "__main__":
    main()
