# SPDX-License-Identifier: Apache-2.0
"""The order of the phases, the directory they run in, and what they ran on."""

from __future__ import annotations

import gc
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kvcore
from kvcore.demo.crash import crash
from kvcore.demo.creating import create, disk
from kvcore.demo.measure import Report, Ui
from kvcore.demo.orders import orders
from kvcore.demo.reading import read
from kvcore.demo.updating import update
from kvcore.demo.workload import build

MIN_OBJECTS = 100
INDEX_KEYS = 1_000_000       # the article's number
BYTES_PER_OBJECT = 3000      # on disk, updates and checkpoints included: to refuse early


@dataclass(frozen=True)
class Settings:
    """What to run; the defaults are those of the command line."""

    objects: int = 1_000_000
    manifests: tuple[str, ...] = ()
    data_dir: str | None = None
    seconds: float = 5.0
    seed: int = 1
    order: int = 32
    nodes: int = 1000
    namespaces: int = 500
    index_keys: int | None = None


def run(settings: Settings, ui: Ui) -> Report:
    """Runs every phase; returns figures and checks.

    The directory is removed afterwards when it was a temporary one.  KeyboardInterrupt and other
    exceptions pass through with the store closed and the child, if any, killed.
    """
    report = Report()
    workload, found = build(settings.manifests, seed=settings.seed, nodes=settings.nodes,
                            namespaces=settings.namespaces)
    report.problems = [str(problem) for problem in found.problems]
    gc.freeze()                  # the templates stay to the end: the collector need not visit them
    with _directory(settings) as path:
        report.setting = _setting(settings, path, found.files, len(found.manifests))
        disk(path, report, ui)
        with kvcore.open(path, order=settings.order) as db:
            create(db, workload, settings.objects, report, ui)
            read(db, workload, settings.objects, settings.seed, report, ui)
            turns = update(db, workload, settings.objects, settings.seconds, report, ui)
        job = {"path": path, "manifests": settings.manifests, "seed": settings.seed,
               "nodes": settings.nodes, "namespaces": settings.namespaces, "order": settings.order}
        crash(job, workload, settings.objects, turns, report, ui)
    keys = settings.index_keys
    if keys is None:
        keys = INDEX_KEYS if settings.objects >= INDEX_KEYS // 10 else settings.objects
    orders(workload, keys, report, ui)
    return report


@contextmanager
def _directory(settings: Settings) -> Iterator[str]:
    if settings.data_dir is not None:
        os.makedirs(settings.data_dir, exist_ok=True)
        _require_room(settings.data_dir, settings.objects)
        yield settings.data_dir
        return
    base = temporary_base()
    _require_room(base, settings.objects)
    with tempfile.TemporaryDirectory(prefix="kvcore-demo-", dir=base) as path:
        yield path


def temporary_base() -> str:
    """Where a temporary store goes: TMPDIR if set, else /var/tmp, which unlike /tmp is a disk."""
    given = os.environ.get("TMPDIR")
    if given:
        return given
    return "/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir()


def _require_room(path: str, objects: int) -> None:
    space = os.statvfs(path)
    free, needed = space.f_bavail * space.f_frsize, objects * BYTES_PER_OBJECT
    if free < needed:
        raise OSError(28, f"{needed >> 20:,} MiB are needed for {objects:,} objects, "
                          f"{free >> 20:,} MiB are free", path)


def _setting(settings: Settings, path: str, files: int, manifests: int) -> dict[str, Any]:
    return {
        "kvcore": kvcore.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "filesystem": filesystem(path),
        "objects": settings.objects,
        "namespaces": settings.namespaces,
        "nodes": settings.nodes,
        "order": settings.order,
        "sync": "always",
        "seed": settings.seed,
        "manifest_files": files,
        "manifests": manifests,
    }


def filesystem(path: str, mounts: str = "/proc/mounts") -> str:
    """The type of the file system below a path; "" where the system does not say."""
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
