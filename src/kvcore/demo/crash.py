# SPDX-License-Identifier: Apache-2.0
"""Kills a loading child with SIGKILL, opens its directory, and looks for what it was promised.

Every object the child had an answer for must be there, with the value it wrote at the revision it
was told.  An object without an answer may be there, then whole, or not.  Nothing else may have
changed, and `check` must find the directory sound.
"""

from __future__ import annotations

import json
import os
import random
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import kvcore
from kvcore.demo.measure import Report, Samples, Step, Ui
from kvcore.demo.store import open_store
from kvcore.demo.workload import Workload

ACKNOWLEDGED = 20_000        # objects after which the child is killed, at most
BEYOND = 100                 # times as many objects as it may create before it ends by itself
PATIENCE_SECONDS = 120.0
CHUNK = 1000
SAMPLE = 5000


def crash(job: dict[str, Any], workload: Workload, count: int, turns: dict[int, int],
          report: Report, ui: Ui) -> None:
    """Runs the child on objects from `count` on, kills it, opens the directory, and checks it."""
    target = min(ACKNOWLEDGED, max(100, count // 10))
    last = count + target * BEYOND
    with ui.phase("kill a loading child", target) as step:
        acknowledged, ended = _load_and_kill({**job, "first": count, "last": last}, target, step)
    report.equal("the child was killed while it loaded", ended, "")
    opening, first = Samples(), Samples()
    with ui.phase("open after the kill", 1) as step:
        db = opening.call(lambda: open_store(job["path"], job["order"]))
        step.advance(1)
    with db:
        first.call(lambda: db.get(workload.key(0)))
        report.time(f"open after SIGKILL, {count:,} objects", "ms", opening)
        report.time("first get after it", "us", first)
        _compare(db, workload, count, last, acknowledged, report, ui)
        _compare_old(db, workload, count, turns, report)
        with ui.phase("read every value, compare checksums", db.status().versions) as step:
            report.equal("problems found by check()", db.check(step.advance), [])


def _load_and_kill(job: dict[str, Any], target: int, step: Step) -> tuple[dict[int, int], str]:
    """What the child was told (index -> revision), and what went wrong with it ("": nothing)."""
    command = [sys.executable, "-m", "kvcore.demo.loader", json.dumps(job)]
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        try:
            data, in_time = _listen(child, target, step)
            alive = child.poll() is None
            child.kill()
            assert child.stdout is not None
            data += child.stdout.read()
        finally:
            child.kill()
            code = child.wait()
            if child.stdout is not None:
                child.stdout.close()
        errors.seek(0)
        complaint = errors.read().decode(errors="replace").strip().splitlines()[-1:]
    lines = data[:data.rfind(b"\n") + 1].splitlines()
    acknowledged = {int(index): int(revision) for index, revision in map(bytes.split, lines)}
    if not in_time:
        return acknowledged, f"it said too little in {PATIENCE_SECONDS:.0f} s"
    if not alive or code != -signal.SIGKILL:
        return acknowledged, f"it ended by itself with code {code} {' '.join(complaint)}"
    return acknowledged, ""


def _listen(child: subprocess.Popen[bytes], target: int, step: Step) -> tuple[bytes, bool]:
    """Reads the child's lines until there are `target` of them or its end; False: time is up."""
    assert child.stdout is not None
    pieces, lines = list[bytes](), 0
    deadline = time.monotonic() + PATIENCE_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while lines < target:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return b"".join(pieces), False
            piece = os.read(child.stdout.fileno(), 1 << 16)
            if not piece:
                break
            pieces.append(piece)
            lines += piece.count(b"\n")
            step.advance(piece.count(b"\n"))
    return b"".join(pieces), True


def _compare(db: kvcore.Store, workload: Workload, count: int, last: int,
             acknowledged: dict[int, int], report: Report, ui: Ui) -> None:
    """Every acknowledged object, every other one the child may have sent, and their number."""
    end = min(last, max(acknowledged, default=count) + 1 + 10 * CHUNK)
    lost = damaged = unanswered = 0
    with ui.phase("check every acknowledged write", end - count) as step:
        for low in range(count, end, CHUNK):
            indices = range(low, min(end, low + CHUNK))
            items = [workload.item(index) for index in indices]
            found = db.get_many([key for key, _ in items])
            for index, (_, value), kv in zip(indices, items, found, strict=True):
                if index in acknowledged:
                    lost += kv is None or kv.mod_revision != acknowledged[index]
                else:
                    unanswered += kv is not None
                damaged += kv is not None and (kv.value != value or kv.version != 1)
            step.advance(len(indices))
    report.value("acknowledged writes of the killed child, checked", "", len(acknowledged))
    report.equal("acknowledged writes lost, or at another revision", lost, 0)
    report.equal("objects of the killed child with another value than it wrote", damaged, 0)
    present = db.range(prefix=b"", count_only=True).count
    report.equal("objects in the store after the kill", present,
                 count + len(acknowledged) + unanswered)


def _compare_old(db: kvcore.Store, workload: Workload, count: int, turns: dict[int, int],
                 report: Report) -> None:
    chosen = random.Random(count)
    sample = [chosen.randrange(count) for _ in range(min(SAMPLE, count))]
    wrong = 0
    for low in range(0, len(sample), CHUNK):
        items = [workload.item(index, turns.get(index, 0)) for index in sample[low:low + CHUNK]]
        found = db.get_many([key for key, _ in items])
        wrong += sum(kv is None or kv.value != value
                     for kv, (_, value) in zip(found, items, strict=True))
    report.equal("older objects that the kill changed", wrong, 0)
