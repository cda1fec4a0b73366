# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C in every blocking call: KeyboardInterrupt comes promptly, and the store is sound.

SIGTERM and Ctrl-C end a command with 143 and 130, its store closed, nothing left by half.

Promptly is proven without a clock: what the call waits for never comes before it was interrupted,
or stands at a gate of the fault layer until the signal has arrived and must not be finished then.
The cases are in signals_child.py, each in a process of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import signals_child
from test_cli import command

import kvcore

ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


@pytest.mark.parametrize("case", signals_child.CASES)
def test_ctrl_c(case: str, ram_dir: Path) -> None:
    command = [sys.executable, "-W", "error", signals_child.__file__, case, str(ram_dir / "db")]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (0, "fine\n")


@pytest.fixture
def store(ram_dir: Path) -> Path:
    """A directory whose export is larger than any pipe."""
    with kvcore.open(ram_dir / "db", maintenance=False) as db:
        db.put_many([(b"%05d" % i, b"v" * 400) for i in range(9000)])
    return ram_dir / "db"


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("into", ["file", "pipe"])
def test_export_ends(store: Path, number: int, code: int, into: str) -> None:
    """While it writes: the process stands before a pipe that nobody empties."""
    file = store.with_name("export")
    partial = store.with_name("export.partial")
    if into == "file":
        os.mkfifo(partial)
    process = command("export", store, *[file][: into == "file"])
    assert process.stdout is not None
    with open(partial) if into == "file" else process.stdout as out:
        assert out.readline()
        process.send_signal(number)
        out.read()                               # what was buffered, to the end
    _, err = process.communicate()
    assert process.returncode == code, err
    assert err.splitlines()[-1].startswith("kvcore export: ") and "Traceback" not in err
    assert not partial.exists() and not file.exists()
    with kvcore.open(store) as db:
        assert db.check() == []


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_import_ends_while_it_reads(ram_dir: Path, number: int, code: int) -> None:
    """From a pipe that goes on for ever: no directory is made."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kvcore", "import", str(ram_dir / "new"), "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert process.stdin is not None
    process.stdin.write(b"x" * (4 << 20))        # more than a pipe holds: it is reading
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == code, err
    assert err.splitlines() and b"Traceback" not in err
    assert not (ram_dir / "new").exists()
