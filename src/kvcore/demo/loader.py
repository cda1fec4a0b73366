# SPDX-License-Identifier: Apache-2.0
"""The child that is killed: creates objects and tells its parent about each acknowledged one.

Run as `python -m kvcore.demo.loader` with its job as JSON in the only argument.  It writes one line
`index revision` per acknowledged object to standard output, after the store has said so, and goes
on until it is killed (or until `last`, which its parent does not mean it to reach).
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from typing import Any

from kvcore.demo.creating import create_op
from kvcore.demo.store import open_store
from kvcore.demo.workload import build

WINDOW = 256


def main(job: dict[str, Any]) -> None:
    """Creates objects `first` to `last` - 1 in the store of the job's directory."""
    workload, _ = build(job["manifests"], seed=job["seed"], nodes=job["nodes"],
                        namespaces=job["namespaces"])
    flight: deque[tuple[int, Any]] = deque()
    with open_store(job["path"], job["order"]) as db:
        for index in range(job["first"], job["last"]):
            flight.append((index, db.submit(create_op(*workload.item(index)))))
            if len(flight) == WINDOW:
                _acknowledge(flight)
        while flight:
            _acknowledge(flight)


def _acknowledge(flight: deque[tuple[int, Any]]) -> None:
    """Waits for the oldest request, then reports all that are done."""
    lines: list[bytes] = []
    while flight and (not lines or flight[0][1].done()):
        index, future = flight.popleft()
        lines.append(b"%d %d\n" % (index, future.result().revision))
    data = b"".join(lines)
    while data:
        data = data[os.write(sys.stdout.fileno(), data):]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
