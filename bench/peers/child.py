# SPDX-License-Identifier: Apache-2.0
"""A fresh process that asks one store one question: `python -m bench.peers.child JOB`.

    JOB (JSON) ──► measure.QUESTIONS[question] ──► one line of JSON on standard output

After a load it kills itself with SIGKILL as soon as it has answered, the store still open: what
`open` then finds is what a crash of the process leaves.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from bench.peers.measure import QUESTIONS, job_of
from bench.peers.store import Store, find


def main(text: str) -> None:
    """Asks and answers."""
    job = job_of(json.loads(text))
    kind = find(job.store)
    alive: list[Store] = []              # a store that lost its last reference might close itself

    def make() -> Store:
        alive.append(kind(Path(job.directory), job.capacity))
        return alive[-1]

    answer = QUESTIONS[job.question][0](make, job)
    sys.stdout.write(json.dumps(asdict(answer)) + "\n")
    sys.stdout.flush()
    if job.question == "load":
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
