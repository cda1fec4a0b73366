# SPDX-License-Identifier: Apache-2.0
"""What a mutant is, and what must hold of it before it is planted."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "kvcore"
TESTS = ROOT / "tests"


@dataclass(frozen=True)
class Mutant:
    """One bug.

    name: a word or a few; loses: what somebody who uses kvcore would lose by it, in one sentence;
    file: below src/kvcore, a .pyx or .py (what a .pxd says is compiled into many modules); old:
    stands exactly once in it; new: in its place; tests: pytest's names below tests/, run in this
    order until one fails; seconds: a run of them that takes longer hangs, which is a way to fail.
    """

    name: str
    loses: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    seconds: int = 180


def misfits(mutant: Mutant) -> list[str]:
    """Why it cannot be planted: the sources or the tests have moved."""
    wrong = []
    if Path(mutant.file).suffix not in {".pyx", ".py"}:
        wrong.append(f"{mutant.name}: {mutant.file} is neither .pyx nor .py")
        return wrong
    text = (SOURCE / mutant.file).read_text() if (SOURCE / mutant.file).exists() else ""
    if text.count(mutant.old) != 1:
        wrong.append(f"{mutant.name}: its text stands {text.count(mutant.old)} times in "
                     f"{mutant.file}, must once: {mutant.old!r}")
    if mutant.old in mutant.new and mutant.new in text:
        wrong.append(f"{mutant.name}: {mutant.file} holds the bug itself: {mutant.new!r}")
    if mutant.old == mutant.new:
        wrong.append(f"{mutant.name}: changes nothing")
    if mutant.file.endswith(".py") and not wrong:
        try:
            ast.parse(text.replace(mutant.old, mutant.new))
        except SyntaxError as error:
            wrong.append(f"{mutant.name}: {mutant.file} would be no Python: {error}")
    if not mutant.tests:
        wrong.append(f"{mutant.name}: no test must fail")
    return wrong + [f"{mutant.name}: there is no test {test}" for test in mutant.tests
                    if not is_test(test)]


def is_test(node: str) -> bool:
    """Whether a file of tests has the function, and the class, that a name of pytest's names."""
    path, *parts = node.split("[")[0].split("::")
    if not (TESTS / path).is_file():
        return False
    text = (TESTS / path).read_text()
    *classes, function = parts or [""]
    heads = [rf"^class {name}\b" for name in classes]
    if function:
        heads.append(rf"^\s*(?:async )?def {function}\(")
    return all(re.search(head, text, re.M) for head in heads)
