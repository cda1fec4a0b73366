# SPDX-License-Identifier: Apache-2.0
"""How long does an open take after kill -9?

A child loads keys and is killed without closing; the parent opens what is left and reads one key.
Estimate for a million keys: checkpoint load 0.2 s (80 MB, 150 ns a key) + at most 0.3 s of replay.
Empty: 5 ms on disk, 1 ms in memory.
Size: smoke by default, real with KVCORE_BENCH=real.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import kvcore

REAL = os.environ.get("KVCORE_BENCH") == "real"
KEYS = 1_000_000 if REAL else 2_000
ROUNDS = 5 if REAL else 2

LOADER = """
import sys, kvcore
path, n = sys.argv[1], int(sys.argv[2])
db = kvcore.open(path)
db.put_many((b"/registry/pods/ns-%03d/app-%030d" % (i % 500, i * 2654435761 % 2**32), b"v" * 1024)
            for i in range(n))
print("loaded", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """A directory whose writer was killed."""
    path = tmp_path_factory.mktemp("killed") / "db"
    child = subprocess.Popen([sys.executable, "-c", LOADER, str(path), str(KEYS)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"loaded\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert child.stdin is not None
    child.stdin.close()
    return path


def test_open_after_kill(benchmark, killed: Path, tmp_path: Path) -> None:
    """Checkpoint load, replay, seal; then the first get."""
    opened: list[kvcore.Store] = []

    def setup() -> tuple[tuple[Path], dict[str, object]]:
        for db in opened:
            db.close()
        opened.clear()
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(killed, copy)
        return (copy,), {}

    def run(path: Path) -> None:
        db = kvcore.open(path)
        assert db.get(b"/registry/pods/ns-000/app-%030d" % 0) is not None
        opened.append(db)

    benchmark.pedantic(run, setup=setup, rounds=ROUNDS)
    assert opened[0].status().keys == KEYS
    benchmark.extra_info["keys"] = KEYS
    opened[0].close()


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_open_empty(benchmark, tmp_path: Path, where: str) -> None:
    """A new store, opened and closed."""
    made = iter(range(1_000_000))

    def run() -> None:
        kvcore.open(None if where == "memory" else tmp_path / str(next(made))).close()

    benchmark.pedantic(run, rounds=ROUNDS * 4, warmup_rounds=1)
