# SPDX-License-Identifier: Apache-2.0
"""Real processes, really killed: what was acknowledged is there, the rest is whole or absent.

A directory lives through many kills. Behind each, the parent reopens it and compares it with the
acknowledgements it read from the child's pipe; then the next child goes on where this one died.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sigkill_child
from soak import Soaking

import kvcore

CHILD = Path(sigkill_child.__file__)
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
KILLS = 100
DIRECTORIES = 4


class Ack:
    """One acknowledgement."""

    def __init__(self, line: bytes) -> None:
        what, thread, seq, revision = line.split()
        self.what = what.decode()
        self.thread = int(thread) if thread != b"-" else -1
        self.seq = int(seq) if seq != b"-" else -1
        self.revision = int(revision)


class Killed:
    """What one child said before it died."""

    def __init__(self, directory: Path, generation: int, sync: str, acks_wanted: int) -> None:
        self.generation = generation
        command = [sys.executable, str(CHILD), str(directory), str(generation), sync]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env=ENV)
        assert child.stdout is not None
        data = b""
        while data.count(b"\n") < acks_wanted:
            more = os.read(child.stdout.fileno(), 65536)
            assert more, f"the child ended by itself, {child.wait()}"
            data += more
        child.send_signal(signal.SIGKILL)
        data += child.stdout.read()
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        assert data.endswith(b"\n")  # one write(2) a line: none is torn
        self.acks = [Ack(line) for line in data.splitlines()]

    def value(self, ack: Ack) -> bytes:
        return sigkill_child.value(self.generation, ack.thread, ack.seq)

    def by_thread(self, *kinds: str) -> Iterator[list[Ack]]:
        """Each thread's acknowledgements of these kinds, in its order."""
        for thread in range(sigkill_child.THREADS):
            yield [a for a in self.acks if a.thread == thread and a.what in kinds]


def check_pairs(db: kvcore.Store, killed: Killed, upto: int) -> None:
    """A transaction's two keys never differ, and none acknowledged is lost."""
    for thread, acks in enumerate(killed.by_thread("txn")):
        one, two = db.get(b"x%d/a" % thread), db.get(b"x%d/b" % thread)
        if one is None or two is None:
            assert one is two
            assert not acks
            continue
        assert (one.value, one.mod_revision) == (two.value, two.mod_revision)
        assert one.mod_revision <= upto
        assert not acks or one.mod_revision >= acks[-1].revision
        if acks and one.mod_revision == acks[-1].revision:
            assert one.value == killed.value(acks[-1])


def check_keys(db: kvcore.Store, killed: Killed) -> None:
    """Each key holds its thread's last acknowledged write, or one that was in flight behind it."""
    for acks in killed.by_thread("put", "delete"):
        newest = {sigkill_child.key(a.thread, a.seq): a for a in acks}
        last_seq = acks[-1].seq if acks else 0
        for key, ack in newest.items():
            kv = db.get(key)
            if kv is not None and kv.mod_revision > ack.revision:
                told = kv.value.split(b"/", 3)[:3]  # in flight when the child died
                assert told[:2] == [b"%d" % killed.generation, b"%d" % ack.thread]
                seq = int(told[2])
                assert seq > last_seq
                assert kv.value == sigkill_child.value(killed.generation, ack.thread, seq)
            elif kv is None:
                in_flight = (last_seq + 1, last_seq + 2)  # a txn's acks are not in this list
                assert ack.what == "delete" or any(
                    seq % 9 == 0 and sigkill_child.key(ack.thread, seq) == key
                    for seq in in_flight)
            else:
                assert (ack.what, kv.mod_revision, kv.value) == (
                    "put", ack.revision, killed.value(ack))


def check_backup(directory: Path, counts: Counter[str]) -> None:
    """One that has its name is whole, whatever became of the process and of the source's files."""
    backup = directory.with_name(directory.name + "-backup")
    if backup.is_dir() and (backup / "MANIFEST").exists():
        restored = directory.with_name(directory.name + "-restored")
        kvcore.restore(backup, restored)
        with kvcore.open(restored, maintenance=False) as db:
            assert db.check() == []
        shutil.rmtree(restored)
        counts["backups restored behind a kill"] += 1


def check(directory: Path, killed: Killed, sync: str, highest: int,
          counts: Counter[str]) -> int:
    """Reopens behind a kill; returns the highest revision shown so far."""
    changes = [a for a in killed.acks if a.what in ("put", "txn")]
    revisions = [a.revision for a in changes]
    assert len(set(revisions)) == len(revisions)
    assert all(revision > highest for revision in revisions)
    assert killed.acks[0].revision >= highest
    shown = max(a.revision for a in killed.acks)
    with kvcore.open(directory, segment_bytes=65536, max_request_bytes=16384, order=8,
                     maintenance=False) as db:
        assert db.revision >= max(shown, highest)
        assert db.check() == []
        db._check()
        check_pairs(db, killed, db.revision)
        compacts = [a.revision for a in killed.acks if a.what == "compact"]
        assert sync != "always" or not compacts or db.compact_revision >= compacts[-1]
        check_keys(db, killed)  # in every mode: a killed process loses nothing the kernel has
        assert db.get(b"wrong") is None
        revision = db.put(b"parent", b"%d" % killed.generation).revision
        assert revision > max(shown, highest)
        db.hash()
    check_backup(directory, counts)
    return revision


@pytest.mark.soak(weight=0.5)
@pytest.mark.parametrize("number", range(DIRECTORIES))
def test_sigkill(number: int, counts: Counter[str], soaking: Soaking) -> None:
    """Kills at random moments of one directory's life; the last directory is on a real disk."""
    rng = random.Random(number)
    sync = ["always", "interval", "off", "always"][number]
    base = "/dev/shm" if os.path.isdir("/dev/shm") and number < DIRECTORIES - 1 else None
    parent = Path(tempfile.mkdtemp(prefix="kvcore-kill-", dir=base))
    directory = parent / "store"
    highest = 1
    for generation in soaking(KILLS // DIRECTORIES):
        killed = Killed(directory, generation, sync, rng.choice([2, 20, 200, 600, 1500]))
        highest = check(directory, killed, sync, highest, counts)
        counts["kills survived"] += 1
    assert number < DIRECTORIES - 1 or counts["backups restored behind a kill"] > 0
    shutil.rmtree(parent)  # kept when something failed: it is the evidence
