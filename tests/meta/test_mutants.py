# SPDX-License-Identifier: Apache-2.0
"""The list of planted bugs fits the sources and the tests; whether they are caught says `make
mutants`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mutants import MUTANTS, Mutant, run
from mutants.mutant import ROOT, is_test, misfits
from mutants.run import Outcome, Verdict, _caught, main
from mutants.tree import Tree, TreeError, _copy


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_can_be_planted(mutant: Mutant) -> None:
    """Its text stands exactly once in its file, it is not in it already, its tests are there."""
    assert misfits(mutant) == []


def test_names_are_names() -> None:
    assert [name for name, n in Counter(m.name for m in MUTANTS).items() if n > 1] == []
    assert all(m.name.isidentifier() and m.loses.endswith(".") for m in MUTANTS)


@pytest.mark.parametrize("wrong", [
    {"old": "no such text"}, {"old": "cdef"}, {"file": "_gone.pyx"}, {"file": "_node.pxd"},
    {"tests": ()}, {"tests": ("test_gone.py",)}, {"tests": ("test_wal.py::test_gone",)},
    {"new": MUTANTS[0].old}, {"new": " " + MUTANTS[0].old},
])
def test_a_misfit_is_seen(wrong: dict[str, object]) -> None:
    assert misfits(replace(MUTANTS[0], **wrong))  # type: ignore[arg-type]


def test_a_mutant_that_is_no_python_is_seen() -> None:
    plain = next(mutant for mutant in MUTANTS if mutant.file.endswith(".py"))
    said = misfits(replace(plain, new=f"({plain.new}"))
    assert len(said) == 1 and "no Python" in said[0]


def test_their_tests_are_collected() -> None:
    """With the parameters that are named."""
    nodes = sorted({f"tests/{test}" for mutant in MUTANTS for test in mutant.tests})
    done = subprocess.run([sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p",
                           "no:cacheprovider", *nodes], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_names_of_tests() -> None:
    assert is_test("test_btree.py::TestLife::test_a_life")
    assert is_test("test_watch.py::test_live[memory]")
    assert is_test("test_watch.py")
    assert not is_test("test_btree.py::TestGone::test_a_life")
    assert not is_test("test_watch.py::test_liv")


@pytest.mark.parametrize(("code", "output", "caught"), [
    (0, "tests/test_a.py::test_b PASSED", (False, "", "")),
    (1, "FAILED tests/test_a.py::test_b[c] - assert 0", (True, "test_a.py::test_b[c]", "assert 0")),
    (1, "ERROR tests/test_a.py::test_b", (True, "test_a.py::test_b", "")),
    (-6, "tests/test_a.py::test_b ", (True, "test_a.py::test_b", "SIGABRT")),
    (None, "tests/test_a.py::test_b ", (True, "test_a.py::test_b", "hangs: more than 180 s")),
    (1, "tests/test_a.py::test_b \nTimeout (0:02:00)!\n",
     (True, "test_a.py::test_b", "hangs: the test's own limit")),
])
def test_what_counts_as_caught(code: int | None, output: str,
                               caught: tuple[bool, str, str]) -> None:
    assert _caught(MUTANTS[0], Outcome(code, output)) == caught


@pytest.mark.parametrize(("code", "output"), [
    (1, ""), (2, "ERROR tests/test_a.py\n"), (3, ""), (4, "ERROR: not found: test_b"), (5, "")])
def test_what_does_not(code: int, output: str) -> None:
    """A module that cannot be imported, a test that is not there: the list is wrong."""
    with pytest.raises(Exception, match="no failed test"):
        _caught(MUTANTS[0], Outcome(code, output))


# --- the tree -------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """One source, and what a build made of it, both of yesterday."""
    for name in ("src/kvcore/_a.pyx", "build/c/src/kvcore/_a.c", "build/verify/lib/kvcore/_a.so",
                 "build/verify/lib/kvcore/_b.so"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
        os.utime(tmp_path / name, (10**9, 10**9))
    return Tree(tmp_path)


def seen(tree: Tree) -> dict[str, tuple[str, int]]:
    return {str(path): (path.read_text(), path.stat().st_mtime_ns)
            for path in tree.path.rglob("*_*") if path.is_file()}


def test_what_is_planted_is_taken_out(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, what was built of it, and times: nothing is built again behind it."""
    before = seen(tree)
    asked = []

    def build(self: Tree, only: str = "") -> None:
        asked.append(only)
        for path in (tree.path / "build").rglob("_a.*"):
            path.write_text((tree.path / "src/kvcore/_a.pyx").read_text())

    monkeypatch.setattr(Tree, "build", build)
    mutant = Mutant("m", "Nothing.", "_a.pyx", "x = 1", "x = 2", ("test_wal.py",))
    with pytest.raises(KeyboardInterrupt), tree.planted(mutant):
        assert Counter(text for text, _ in seen(tree).values()) == {"x = 2\n": 3, "x = 1\n": 1}
        raise KeyboardInterrupt
    assert (seen(tree), asked) == (before, ["kvcore._a"])
    with pytest.raises(TreeError, match="stands 0 times"), tree.planted(replace(mutant, old="y")):
        raise AssertionError


def test_a_copy_is_younger_than_what_was_built(tmp_path: Path) -> None:
    """Also of a source that is old: what differs was planted, or is of another commit."""
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, text in ((source, "right"), (target, "wrong")):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "a.py").write_text(text)
        (folder / "deep" / "same.py").write_text("same")
        os.utime(folder / "deep" / "a.py", (10**9, 10**9))
        os.utime(folder / "deep" / "same.py", (10**9, 10**9))
    (target / "deep" / "gone.py").write_text("")
    _copy(source, target)
    assert {path.name: path.read_text() for path in (target / "deep").iterdir()} == {
        "a.py": "right", "same.py": "same"}
    assert (target / "deep" / "a.py").stat().st_mtime > 10**9
    assert (target / "deep" / "same.py").stat().st_mtime == 10**9


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("caught", "code"), [([True, True], 0), ([True, False], 1)])
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: Any, caught: list[bool],
                    code: int) -> None:
    verdicts = [Verdict(f"m{i}", ok, "test" if ok else "", "", 1, 2) for i, ok in enumerate(caught)]
    monkeypatch.setattr(run, "run", lambda path, chosen: verdicts)
    assert main([]) == code
    assert ("SURVIVED" in capsys.readouterr().out) == (code == 1)
    assert main(["--json"]) == code
    assert [entry["caught"] for entry in json.loads(capsys.readouterr().out)] == caught


def test_a_list_that_does_not_fit_runs_nothing(monkeypatch: pytest.MonkeyPatch, capsys: Any,
                                               tmp_path: Path) -> None:
    assert main(["--only", "no_such_mutant"]) == 2
    monkeypatch.setattr(run, "MUTANTS", (replace(MUTANTS[0], old="no such text"),))
    assert main(["--tree", str(tmp_path / "tree")]) == 2
    assert "stands 0 times" in capsys.readouterr().err
    assert not (tmp_path / "tree").exists()


def test_the_list_is_shown(capsys: Any) -> None:
    assert main(["--list", "--only", MUTANTS[0].name]) == 0
    assert MUTANTS[0].name in capsys.readouterr().out
    assert main(["--list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(MUTANTS)
