# SPDX-License-Identifier: Apache-2.0
"""What the demo runs on, as far as the system says: processor, memory, file system, versions.

Everything comes from files under /proc; where there are none, the answer is "" or None.

May not know: the store, the phases.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

import kvcore


def machine(path: str) -> dict[str, Any]:
    """Machine and versions, for the report's setting; `path` is where the store will be."""
    return {
        "kvcore": kvcore.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": numpy.__version__,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": next(_fields("/proc/cpuinfo", "model name"), ""),
        "cpus": os.cpu_count(),
        "memory_mib": _memory("/proc/meminfo", "MemTotal"),
        "filesystem": filesystem(path),
    }


def anonymous_memory(status: str = "/proc/self/status") -> float | None:
    """This process's memory in MB that is not the mapped log (which the system can drop)."""
    return _memory(status, "RssAnon")


def _memory(path: str, name: str) -> float | None:
    return next((int(text.split()[0]) / 1024 for text in _fields(path, name)), None)


def _fields(path: str, name: str) -> Iterator[str]:
    """The values of this field in a file of lines `name: value`."""
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            yield value.strip()


def filesystem(path: str, mounts: str = "/proc/mounts") -> str:
    """The type of the file system below a path."""
    try:
        lines = Path(mounts).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind
