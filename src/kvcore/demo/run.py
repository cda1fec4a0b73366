# SPDX-License-Identifier: Apache-2.0
"""The order of the phases, the directory they run in, and what they ran on.

    run ─► phases ─ each through _Phases ─► Report.phases: how long, how far, how much memory

May not know: how anything is shown or printed.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from kvcore.demo.apiserver import api_server
from kvcore.demo.crash import crash
from kvcore.demo.creating import create, disk
from kvcore.demo.measure import Phase, Report, Step, Ui
from kvcore.demo.orders import orders
from kvcore.demo.reading import read
from kvcore.demo.store import open_store
from kvcore.demo.system import anonymous_memory, machine
from kvcore.demo.updating import update
from kvcore.demo.workload import Workload, build

MIN_OBJECTS = 100
INDEX_KEYS = 1_000_000       # the article's number
BYTES_PER_OBJECT = 3000      # on disk, updates and checkpoints included: to refuse early


@dataclass(frozen=True)
class Settings:
    """What to run; the defaults are those of the command line, which puts itself in `command`."""

    objects: int = 1_000_000
    manifests: tuple[str, ...] = ()
    data_dir: str | None = None
    seconds: float = 5.0
    seed: int = 1
    order: int = 32
    nodes: int = 1000
    namespaces: int = 500
    index_keys: int | None = None
    command: str = ""


class _Phases:
    """Shows phases where they are shown, and writes down in the report how far each came."""

    def __init__(self, ui: Ui, report: Report) -> None:
        self._ui = ui
        self._report = report

    @contextmanager
    def phase(self, title: str, total: int) -> Iterator[Step]:
        """A phase; one that is left by an exception is where the report stopped."""
        start = time.monotonic()
        counted = _Counted()
        try:
            with self._ui.phase(title, total) as step:
                counted.shown = step.advance
                yield counted
            self._report.phases.append(
                Phase(title, total, time.monotonic() - start, anonymous_memory()))
        except BaseException:
            self._report.stopped = f"in {title!r}, at {counted.done:,} of {total:,}"
            raise


class _Counted:
    """A step that knows how far it is."""

    def __init__(self) -> None:
        self.shown: Callable[[int], None] | None = None
        self.done = 0

    def advance(self, count: int) -> None:
        """Counts and passes on."""
        self.done += count
        if self.shown is not None:
            self.shown(count)


def run(settings: Settings, ui: Ui, report: Report) -> None:
    """Runs every phase; fills the report with figures and checks.

    The directory is removed afterwards when it was a temporary one.  KeyboardInterrupt and other
    exceptions pass through with the store closed and the child, if any, killed; the report then
    has what was found so far, is not `complete`, and says where it stopped.
    """
    began = time.monotonic()
    phases = _Phases(ui, report)
    workload, found = build(settings.manifests, seed=settings.seed, nodes=settings.nodes,
                            namespaces=settings.namespaces)
    report.problems = [str(problem) for problem in found.problems]
    gc.freeze()                  # the templates stay to the end: the collector need not visit them
    try:
        with _directory(settings) as path:
            report.setting = _setting(settings, path, found.files, len(found.manifests))
            _store(settings, path, workload, report, phases)
        keys = settings.index_keys
        if keys is None:
            keys = INDEX_KEYS if settings.objects >= INDEX_KEYS // 10 else settings.objects
        orders(workload, keys, settings.seed, report, phases)
        report.complete = True
    except BaseException:
        if not report.stopped and report.phases:
            report.stopped = f"after {report.phases[-1].title!r}"
        raise
    finally:
        gc.unfreeze()
        report.setting["seconds"] = time.monotonic() - began


def _store(settings: Settings, path: str, workload: Workload, report: Report,
           phases: _Phases) -> None:
    """Everything that happens to the store in this directory."""
    disk(path, report, phases)
    with open_store(path, settings.order) as db:
        create(db, workload, settings.objects, report, phases)
        read(db, workload, settings.objects, settings.seed, report, phases)
        turns = update(db, workload, settings.objects, settings.seconds, report, phases)
    job = {"path": path, "manifests": settings.manifests, "seed": settings.seed,
           "nodes": settings.nodes, "namespaces": settings.namespaces, "order": settings.order}
    crash(job, workload, settings.objects, turns, report, phases)
    api_server(path, workload, settings.objects, report, phases)


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
        **machine(path),
        "started": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": settings.command,
        "objects": settings.objects,
        "namespaces": settings.namespaces,
        "nodes": settings.nodes,
        "order": settings.order,
        "sync": "always",
        "seed": settings.seed,
        "manifest_files": files,
        "manifests": manifests,
    }
