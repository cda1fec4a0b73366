# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C in every blocking call: KeyboardInterrupt comes promptly, and the store is sound.

Promptly is proven without a clock: what the call waits for never comes before it was interrupted,
or stands at a gate of the fault layer until the signal has arrived and must not be finished then.
The cases are in signals_child.py, each in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import signals_child

ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


@pytest.mark.parametrize("case", signals_child.CASES)
def test_ctrl_c(case: str, ram_dir: Path) -> None:
    command = [sys.executable, "-W", "error", signals_child.__file__, case, str(ram_dir / "db")]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (0, "fine\n")
