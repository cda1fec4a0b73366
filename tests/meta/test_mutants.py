# SPDX-License-Identifier: Apache-2.0
"""The list of planted bugs fits the sources and the tests; whether they are caught says `make
mutants`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from mutants import MUTANTS, Mutant
from mutants.mutant import is_test, misfits
from mutants.run import Outcome, _caught


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
    {"new": MUTANTS[0].old}, {"old": "w.io.sync(", "new": "rc = w.io.sync("},
])
def test_a_misfit_is_seen(wrong: dict[str, object]) -> None:
    assert misfits(replace(MUTANTS[0], **wrong))  # type: ignore[arg-type]


def test_names_of_tests() -> None:
    assert is_test("test_btree.py::TestLife::test_a_life")
    assert is_test("test_watch.py::test_live[memory]")
    assert is_test("test_watch.py")
    assert not is_test("test_btree.py::TestGone::test_a_life")
    assert not is_test("test_watch.py::test_liv")


@pytest.mark.parametrize(("code", "output", "caught"), [
    (0, "tests/test_a.py::test_b PASSED", (False, "")),
    (1, "FAILED tests/test_a.py::test_b[c] - assert 0", (True, "test_a.py::test_b[c]")),
    (-6, "tests/test_a.py::test_b ", (True, "test_a.py::test_b (SIGABRT)")),
    (None, "tests/test_a.py::test_b ", (True, "test_a.py::test_b (hangs: more than 180 s)")),
    (1, "tests/test_a.py::test_b \nTimeout (0:02:00)!\n",
     (True, "test_a.py::test_b (hangs: the test's own limit)")),
])
def test_what_counts_as_caught(code: int | None, output: str, caught: tuple[bool, str]) -> None:
    assert _caught(MUTANTS[0], Outcome(code, output)) == caught


@pytest.mark.parametrize(("code", "output"), [
    (1, ""), (2, "ERROR tests/test_a.py\n"), (3, ""), (4, "ERROR: not found: test_b"), (5, "")])
def test_what_does_not(code: int, output: str) -> None:
    """A module that cannot be imported, a test that is not there: the list is wrong."""
    with pytest.raises(Exception, match="no failed test"):
        _caught(MUTANTS[0], Outcome(code, output))
