# SPDX-License-Identifier: Apache-2.0
"""Real processes killed with SIGKILL: every acknowledged change is there, others whole or absent.

A directory lives through many kills; what was recovered after one is where the next child begins. The parent kills
after a random number of acknowledgements, so that no clock decides.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sigkill_child import OPTIONS, WRITERS, step

import kvcore

CHILD = Path(__file__).with_name("sigkill_child.py")
DIRECTORIES, KILLS = 4, 25


def killed_run(directory: Path, run: int, after: int) -> list[tuple[int, int, int]]:
    """Runs a child and kills it behind `after` acknowledgements; all it wrote: (thread, seq, revision)."""
    child = subprocess.Popen([sys.executable, str(CHILD), str(directory), str(run)],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    lines = []
    for line in child.stdout:
        lines.append(line)
        if len(lines) == after:
            child.kill()
    errors = child.stderr.read()
    child.stdout.close()
    child.stderr.close()
    assert child.wait() == -9, errors.decode()
    numbers = [tuple(map(int, line.split())) for line in lines if line.endswith(b"\n")]
    return [(thread, seq, revision) for thread, seq, revision in numbers]


def apply(state: dict[bytes, bytes], changes: dict[bytes, bytes | None]) -> dict[bytes, bytes]:
    """The state after a request's changes."""
    new = dict(state)
    for key, value in changes.items():
        if value is None:
            new.pop(key, None)
        else:
            new[key] = value
    return new


def check_thread(db: kvcore.Store, run: int, thread: int, before: dict[bytes, bytes],
                 acks: list[tuple[int, int]]) -> dict[bytes, bytes]:
    """One writer's keys: as after its last acknowledged request, or as after the one behind it."""
    state = before
    written_at: dict[bytes, int] = {}
    for seq, revision in acks:
        changes = step(run, thread, seq)
        state = apply(state, changes)
        written_at.update(dict.fromkeys(changes, revision))
    unacknowledged = step(run, thread, len(acks))
    found = {kv.key: kv for kv in db.range(prefix=b"/t/%d/" % thread)}
    content = {key: kv.value for key, kv in found.items()}
    assert content in (state, apply(state, unacknowledged)), f"writer {thread} of run {run}"
    for key, revision in written_at.items():
        if key in found and content[key] == state.get(key):
            assert found[key].mod_revision == revision
    return content


@pytest.mark.parametrize("number", range(DIRECTORIES))
def test_acknowledged_writes_survive(ram_dir: Path, counts: Counter[str], number: int) -> None:
    """25 kills of one directory."""
    rng = random.Random(number)
    states: list[dict[bytes, bytes]] = [{} for _ in range(WRITERS)]
    newest = 1
    for run in range(KILLS):
        lines = killed_run(ram_dir / "db", run, rng.randrange(20, 600))
        revisions = [revision for _, _, revision in lines if revision]
        assert len(set(revisions)) == len(revisions), "a revision was given twice"
        assert min(revisions) > newest, "a revision was given again"
        with kvcore.open(ram_dir / "db", maintenance=False, **OPTIONS) as db:
            db._check()
            assert db.check() == []
            assert db.revision >= max(revisions)
            for thread in range(WRITERS):
                acks = sorted((seq, revision) for t, seq, revision in lines if t == thread)
                assert [seq for seq, _ in acks] == list(range(len(acks)))
                states[thread] = check_thread(db, run, thread, states[thread], acks)
            newest = db.put(b"/parent", b"%d" % run).revision
            assert newest > max(revisions)
        counts["SIGKILLs"] += 1
