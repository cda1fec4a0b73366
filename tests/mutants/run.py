# SPDX-License-Identifier: Apache-2.0
"""Plants one mutant after the other and says which test found it.

    python -m tests.mutants [--only NAME ...] [--list] [--json] [--tree DIR]

Exit codes: 0 every mutant was caught, 1 one survived, 2 usage, or the list does not fit the
sources, or a named test fails without a bug, 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from .mutant import ROOT, Mutant, misfits
from .table import MUTANTS
from .tree import Tree, TreeError

CAUGHT, SURVIVED, WRONG, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
ALL_SECONDS = 1800               # the named tests, without a bug
PLAIN_WIDTH = 120


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    name: str
    caught: bool
    by: str
    """The test that failed; "" when none did."""
    how: str
    """What it says, or that it hangs, or the signal that ended it."""
    build_seconds: float
    test_seconds: float


class ListError(Exception):
    """The list and the sources, or the tests, do not fit."""


# --- running tests --------------------------------------------------------------------------------

@dataclass(frozen=True)
class Outcome:
    """Of one run of pytest: its exit code (None: it hung), and what it printed."""

    code: int | None
    output: str

    def failed(self) -> list[tuple[str, str]]:
        """The tests it says have failed, and what they say."""
        return re.findall(r"^(?:FAILED|ERROR) (?:tests/)?(\S+)(?: - (.*))?", self.output, re.M)

    def last(self) -> str:
        """The test it was at when it ended."""
        begun = re.findall(r"^(?:tests/)?(\S+\.py::\S+)", self.output, re.M)
        return begun[-1] if begun else "no test yet"


def pytest(tree: Tree, tests: Sequence[str], seconds: float, *options: str) -> Outcome:
    """Runs tests of the tree on its build; whatever they leave behind is removed."""
    shutil.rmtree(tree.scratch, ignore_errors=True)
    tree.scratch.mkdir()
    with _ram_dir() as ram:
        env = {**os.environ, "PYTHONPATH": str(tree.lib), "KVCORE_RAM_DIR": str(ram),
               "TMPDIR": str(tree.scratch), "PYTHONDONTWRITEBYTECODE": "1",
               "COLUMNS": "300"}             # so that a message is told whole
        command = [sys.executable, "-m", "pytest", "-vv", "--tb=short", "-p", "no:cacheprovider",
                   "--hypothesis-seed=0", *options, *(f"tests/{test}" for test in tests)]
        with open(tree.scratch / "output", "w+b") as output:
            process = subprocess.Popen(command, cwd=tree.path, env=env, stdout=output,
                                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                       start_new_session=True)
            try:
                code: int | None = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(process)
            output.seek(0)
            return Outcome(code, output.read().decode(errors="replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of its session stays, children of tests neither."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


@contextmanager
def _ram_dir() -> Iterator[str]:
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="kvcore-mutants-", dir=base) as path:
        yield path


# --- judging --------------------------------------------------------------------------------------

def judge(tree: Tree, mutant: Mutant) -> Verdict:
    """Plants it, and runs its tests until one fails."""
    began = time.monotonic()
    with tree.planted(mutant):
        built = time.monotonic()
        outcome = pytest(tree, mutant.tests, mutant.seconds, "-x")
        return Verdict(mutant.name, *_caught(mutant, outcome), round(built - began, 1),
                       round(time.monotonic() - built, 1))


def _caught(mutant: Mutant, outcome: Outcome) -> tuple[bool, str, str]:
    failed = outcome.failed()
    if outcome.code is None:
        return True, outcome.last(), f"hangs: more than {mutant.seconds} s"
    if outcome.code == 0:
        return False, "", ""
    if outcome.code < 0:
        return True, outcome.last(), signal.Signals(-outcome.code).name
    if outcome.code == 1 and failed and "::" in failed[0][0]:
        return True, *failed[0]
    if outcome.code == 1 and "Timeout (" in outcome.output:
        return True, outcome.last(), "hangs: the test's own limit"
    raise ListError(f"{mutant.name}: pytest ended with {outcome.code}, which is no failed test:\n"
                    + outcome.output[-3000:])


def without_a_bug(tree: Tree, mutants: Sequence[Mutant]) -> None:
    """A test that fails anyway would catch everything."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    outcome = pytest(tree, tests, ALL_SECONDS)
    if outcome.code != 0:
        raise ListError("without a bug these fail: "
                        f"{', '.join(name for name, _ in outcome.failed()) or outcome.last()}\n"
                        f"{outcome.output[-3000:]}")


# --- the command ----------------------------------------------------------------------------------

def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", default=[],
                        help="this mutant; may be given again")
    parser.add_argument("--list", action="store_true", help="name the mutants and run nothing")
    parser.add_argument("--json", action="store_true", help="JSON on standard output, no table")
    parser.add_argument("--tree", type=Path, default=_default_tree(), metavar="DIR",
                        help="where the copy is built (%(default)s)")
    return parser


def _default_tree() -> Path:
    number = zlib.crc32(os.fsencode(ROOT))
    return Path(tempfile.gettempdir()) / f"kvcore-mutants-{os.getuid()}-{number:08x}"


def main(arguments: Sequence[str] | None = None) -> int:
    args = options().parse_args(arguments)
    known = {mutant.name: mutant for mutant in MUTANTS}
    for name in args.only:
        if name not in known:
            print(f"there is no mutant {name}; --list names them", file=sys.stderr)
            return WRONG
    chosen = [known[name] for name in dict.fromkeys(args.only)] or list(MUTANTS)
    if args.list:
        print_list(chosen, args.json)
        return CAUGHT
    try:
        verdicts = run(args.tree, chosen)
    except (TreeError, ListError) as error:
        print(error, file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        return INTERRUPTED
    print_verdicts(verdicts, args.json)
    return CAUGHT if all(verdict.caught for verdict in verdicts) else SURVIVED


def run(path: Path, chosen: Sequence[Mutant]) -> list[Verdict]:
    """All of it; on a terminal standard error says how far it is, else it gets a line for each."""
    wrong = [text for mutant in chosen for text in misfits(mutant)]
    if wrong:
        raise ListError("\n".join(wrong))
    console = Console(stderr=True, highlight=False)
    verdicts = []
    with _ended_by_sigterm(), Tree(path) as tree, console.status("") as status:
        status.update("building the sources as they are")
        tree.build()
        status.update("running the named tests without a bug")
        without_a_bug(tree, chosen)
        for number, mutant in enumerate(chosen, 1):
            status.update(f"{number} of {len(chosen)}: {mutant.name}")
            verdicts.append(judge(tree, mutant))
            if not verdicts[-1].caught:
                console.print(f"{mutant.name} SURVIVED: {mutant.loses}", soft_wrap=True,
                              markup=False)
            elif not console.is_terminal:
                console.print(f"{mutant.name}: {verdicts[-1].by} - {verdicts[-1].how}",
                              soft_wrap=True, markup=False)
    return verdicts


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """So that what is planted is taken out, and no test goes on."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def print_list(chosen: Sequence[Mutant], as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(mutant) for mutant in chosen], indent=2))
        return
    print_table(("mutant", "file", "what would be lost"),
                [(mutant.name, mutant.file, mutant.loses) for mutant in chosen])


def print_verdicts(verdicts: Sequence[Verdict], as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(verdict) for verdict in verdicts], indent=2))
        return
    print_table(("mutant", "caught by", "build s", "tests s"),
                [(v.name, _by(v), f"{v.build_seconds:.0f}", f"{v.test_seconds:.0f}")
                 for v in verdicts])
    caught = sum(verdict.caught for verdict in verdicts)
    print(f"{caught} of {len(verdicts)} caught, "
          f"{sum(v.build_seconds + v.test_seconds for v in verdicts):.0f} s")


def _by(v: Verdict) -> str:
    """Its line in the table; what a test that just failed says is in the JSON."""
    if not v.caught:
        return "SURVIVED"
    return f"{v.by} ({v.how})" if v.how.startswith(("hangs", "SIG")) else v.by


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    terminal = sys.stdout.isatty()
    table = Table(box=SIMPLE)
    for heading in headings:
        table.add_column(heading, justify="right" if heading.endswith(" s") else "left",
                         overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if terminal else PLAIN_WIDTH, highlight=False, markup=False,
            no_color=None if terminal else True).print(table)
