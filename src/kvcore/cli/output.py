# SPDX-License-Identifier: Apache-2.0
"""What the sub-commands share: exit codes, progress, tables, and opening a directory that is there.

Colours and bars appear on a terminal only.  With --json, standard output carries JSON and nothing
else; progress goes to standard error in any case.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

import kvcore

OK, PROBLEM, USAGE, CANNOT_OPEN, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143

PLAIN_WIDTH = 120            # columns of a table that goes into a file or a pipe


class UsageError(Exception):
    """Arguments that the parser accepts and the command does not."""


class _Silent:
    def advance(self, count: int) -> None:
        """Nothing is shown."""

    def reach(self, done: int, total: int) -> None:
        """Nothing is shown."""


class _Bar:
    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress, self._task = progress, task

    def advance(self, count: int) -> None:
        """Moves the bar."""
        self._progress.advance(self._task, count)

    def reach(self, done: int, total: int) -> None:
        """Moves the bar to a place."""
        self._progress.update(self._task, completed=done, total=total)


class Output:
    """Where a command writes: `out` is standard output, progress goes to standard error."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        terminal = sys.stdout.isatty()
        self.console = Console(width=None if terminal else PLAIN_WIDTH, highlight=False,
                               no_color=None if terminal else True)
        self._errors = Console(stderr=True, highlight=False)

    @contextmanager
    def phase(self, title: str, total: int) -> Iterator[Any]:
        """A bar on a terminal; elsewhere one line when the phase is over."""
        if self._errors.is_terminal:
            columns = (TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(),
                       TimeElapsedColumn())
            with Progress(*columns, console=self._errors) as progress:
                task = progress.add_task(title, total=total)
                yield _Bar(progress, task)
                progress.update(task, completed=total)
            return
        start = time.monotonic()
        yield _Silent()
        took = time.monotonic() - start
        print(f"{title}: {total:,} in {took:.2f} s", file=sys.stderr, flush=True)

    @contextmanager
    def growing(self, title: str) -> Iterator[Any]:
        """A bar whose length the work tells: reach(done, total); elsewhere nothing."""
        if not self._errors.is_terminal:
            yield _Silent()
            return
        columns = (TextColumn("{task.description:<36}"), BarColumn(), DownloadColumn(),
                   TimeElapsedColumn())
        with Progress(*columns, console=self._errors) as progress:
            yield _Bar(progress, progress.add_task(title, total=None))

    def document(self, value: object) -> None:
        """Writes one JSON document, indented."""
        print(json.dumps(value, indent=2))

    def line(self, value: object) -> None:
        """Writes one JSON document on a line of its own."""
        print(json.dumps(value))

    def table(self, title: str, columns: list[tuple[str, str]], rows: list[list[str]]) -> None:
        """Writes a table; columns are (heading, "left" | "right")."""
        table = Table(title=title, title_justify="left", box=SIMPLE)
        for heading, side in columns:
            table.add_column(heading, justify="right" if side == "right" else "left",
                             overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)


def add_json(command: argparse.ArgumentParser) -> None:
    """The option that every sub-command has."""
    command.add_argument("--json", action="store_true", help="print JSON, for a program")


def is_store(path: str, *, damaged: bool = False) -> None:
    """OSError unless it is a directory of kvcore's; damaged: FORMAT may be gone."""
    if not os.path.isdir(path):
        raise OSError(2, "no such directory", path)
    if not os.path.exists(os.path.join(path, "FORMAT")) and not (
            damaged and any(name.endswith((".seg", ".ckp")) for name in os.listdir(path))):
        raise OSError(2, "not a kvcore directory (it has no FORMAT file)", path)


@contextmanager
def opened(path: str) -> Iterator[kvcore.Store]:
    """An existing store, without background work; a directory that is none is not made one."""
    is_store(path)
    with kvcore.open(path, maintenance=False) as db:
        yield db
