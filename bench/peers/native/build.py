# SPDX-License-Identifier: Apache-2.0
"""Builds the native peers into build/peers, each with one command of its own toolchain.

    build("absl_btree")   ──► g++ -O3 absl_btree.cc          needs g++ and Abseil (libabsl-dev)
    build("google_btree") ──► go build, in its own module    needs go, and its module proxy once

A toolchain that is not there, or a build that fails, raises Absent with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from bench.peers.store import Absent

HERE = Path(__file__).parent
OUT = HERE.parents[2] / "build" / "peers"


def build(name: str, out: Path = OUT) -> Path:
    """The program, built anew if its source is newer."""
    program = out / name
    if name == "absl_btree":
        tool, source = os.environ.get("CXX", "g++"), HERE / "absl_btree.cc"
        arguments = ["-O3", "-DNDEBUG", "-std=c++17", str(source), "-o", str(program),
                     "-labsl_throw_delegate"]
        hint = "Abseil's headers: libabsl-dev"
    else:
        tool, source = "go", HERE / "google_btree.go"
        arguments = ["build", "-o", str(program), source.name]
        hint = "github.com/google/btree comes from Go's module proxy"
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return program
    if shutil.which(tool) is None:
        raise Absent(f"{tool} is not installed")
    out.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([tool, *arguments], cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Absent(f"{tool}: {lines[0]} ({hint})")
    return program
