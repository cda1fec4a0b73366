# SPDX-License-Identifier: Apache-2.0
"""House rules that a machine can see, each proven by a small sample that breaks it.

The limit of lines is absolute. Those of functions and files have a ratchet: what is over it today
is listed with its size and may not grow; what is not listed may not pass the limit; what has shrunk
below the limit leaves the list.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINE_MAX = 100
FUNCTION_MAX = 70
FILE_MAX = {".py": 500, ".pyx": 700, ".pxd": 400, ".h": 500, ".pyi": 400}

TEST_MAX = 700

# "path::function" -> lines
LONG_FUNCTIONS: dict[str, int] = {}
# path -> lines
LONG_FILES: dict[str, int] = {
    "src/kvcore/_btree.pyx": 900,
    "src/kvcore/_engine.pyx": 1160,
    "src/kvcore/_node.pxd": 450,
    "src/kvcore/_tree_write.pyx": 800,
    "src/kvcore/etcd/messages.pyi": 700,     # made by tests/etcd_generate.py
}

Finding = tuple[int, str]


def files(*folders: str, suffixes: tuple[str, ...]) -> list[Path]:
    found = [p for folder in folders for p in (ROOT / folder).rglob("*")
             if p.suffix in suffixes and "__pycache__" not in p.parts]
    return sorted(p for p in found if p.is_file())


def code() -> list[Path]:
    return files("src", "tests", "bench", "fuzz", suffixes=(".py", ".pyx", ".pxd", ".pyi", ".h"))


def library() -> list[Path]:
    return files("src", suffixes=(".py", ".pyx", ".pxd", ".h"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def file_max(path: str) -> int:
    """A test may be longer than what it tests: its parts do not lean on each other."""
    return TEST_MAX if path.startswith("tests/") else FILE_MAX[Path(path).suffix]


def measured() -> tuple[dict[str, int], dict[str, int]]:
    """What each ratchet compares: lengths of functions, lengths of files."""
    lengths, sizes = dict[str, int](), dict[str, int]()
    for path in code():
        text = path.read_text()
        sizes[name(path)] = len(text.splitlines())
        for function, _, size in functions(text, path.suffix):
            key = f"{name(path)}::{function}"
            lengths[key] = max(size, lengths.get(key, 0))
    return lengths, sizes


# --- the rules: text -> findings ------------------------------------------------------------------

def long_lines(text: str) -> list[Finding]:
    return [(number, f"{len(line)} columns, at most {LINE_MAX}")
            for number, line in enumerate(text.splitlines(), 1)
            if len(line) > LINE_MAX]


def functions(text: str, suffix: str) -> list[tuple[str, int, int]]:
    """(name, line, length) of every function."""
    if suffix in {".py", ".pyi"}:
        return [(node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1)
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return _cython_functions(text.splitlines())


def _cython_functions(lines: list[str]) -> list[tuple[str, int, int]]:
    head = re.compile(r"^(\s*)(?:c?p?def)\b(?!\s+(?:class|struct|enum|union|extern|packed)\b)"
                      r"[^=]*?(\w+)\s*\(")
    found = []
    for start, line in enumerate(lines):
        match = head.match(line)
        if match is None:
            continue
        margin, last, depth = len(match[1]), start, 0
        for number in range(start, len(lines)):
            text = lines[number]
            inside = depth > 0 or number == start
            depth += text.count("(") - text.count(")")
            if not text.strip() or (text.lstrip().startswith("#") and not inside):
                continue
            if not inside and len(text) - len(text.lstrip()) <= margin:
                break
            last = number
        found.append((match[2], start + 1, last - start + 1))
    return found


def missing_licence(text: str) -> list[Finding]:
    if not text or "SPDX-License-Identifier: Apache-2.0" in "\n".join(text.splitlines()[:3]):
        return []
    return [(1, "no SPDX line")]


def missing_docstring(text: str) -> list[Finding]:
    body = [line for line in text.splitlines() if not line.startswith("#") and line.strip()]
    if not body or re.match(r'[rR]?"""', body[0]):
        return []
    return [(1, "no module docstring")]


# pattern, what to do instead, where it may stand nevertheless
BANNED: tuple[tuple[str, str, str], ...] = (
    (r"^\s*(cdef|cpdef)\b.*\)\s*except\s*\*", "except -1, or noexcept and a status", ""),
    (r"^\s*DEF\s+\w", "an enum, or a constant in the header", ""),
    (r"^\s*include\s+[\"'].*\.pyx", "a module and cimport", ""),
    (r"^\s*except\s*:", "except the exceptions you mean", ""),
    (r"^\s*from\s+[\w.]+\s+c?import\s+\*", "the names", ""),
    (r"^\s*print\(", "return it, or raise; only the command line prints", "src/kvcore/cli/"),
    (r"\b(TODO|FIXME|XXX|HACK)\b", "do it, or write an issue", ""),
    (r"(?<!\w)/(tmp|work|home|root)/\w", "a path that exists on every machine", ""),
)
MACHINE_PATH = BANNED[-1][0]


def banned(text: str, path: str) -> list[Finding]:
    return [(number, f"{match.group().strip()!r}: instead: {instead}")
            for pattern, instead, exempt in BANNED if not (exempt and path.startswith(exempt))
            for number, line in enumerate(text.splitlines(), 1)
            if (match := re.search(pattern, line))]


def machine_paths(text: str) -> list[Finding]:
    return [(number, "a path of one machine") for number, line in enumerate(text.splitlines(), 1)
            if re.search(MACHINE_PATH, line)]


def skipped_tests(text: str) -> list[Finding]:
    pattern = r"pytest\.(skip|xfail|importorskip)|mark\.(skip|skipif|xfail)|unittest\.skip"
    return [(number, "a test that does not run proves nothing")
            for number, line in enumerate(text.splitlines(), 1) if re.search(pattern, line)]


def titles(text: str) -> list[Finding]:
    outside = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    count = len(re.findall(r"^# ", outside, re.M))
    return [] if count == 1 else [(1, f"{count} titles, must be one")]


def over(found: dict[str, int], limits: dict[str, int], ratchet: dict[str, int]) -> list[str]:
    """What is over its limit and its ratchet, and what needs its ratchet no more."""
    return ([f"{key}: {size}, at most {max(limits[key], ratchet.get(key, 0))}"
             for key, size in found.items() if size > max(limits[key], ratchet.get(key, 0))]
            + [f"{key}: is within its limit now, remove the exception" for key in ratchet
               if found.get(key, 0) <= limits.get(key, 0)])


# --- the project ----------------------------------------------------------------------------------

def report(paths: list[Path], rule: Callable[[str], list[Finding]]) -> list[str]:
    return [f"{name(path)}:{line}: {message}"
            for path in paths for line, message in rule(path.read_text())]


def test_lines() -> None:
    assert report(code(), long_lines) == []


def test_functions() -> None:
    found = measured()[0]
    assert over(found, dict.fromkeys(found, FUNCTION_MAX), LONG_FUNCTIONS) == []


def test_files() -> None:
    found = measured()[1]
    assert over(found, {key: file_max(key) for key in found}, LONG_FILES) == []


def test_licences() -> None:
    extra = [ROOT / "setup.py", ROOT / "Makefile", ROOT / ".ci" / "run"]
    assert report([*code(), *extra], missing_licence) == []


def test_docstrings() -> None:
    paths = [p for p in code() if p.suffix in {".py", ".pyx"}]
    assert report([*paths, ROOT / "setup.py"], missing_docstring) == []


def test_banned_words() -> None:
    assert [f"{name(path)}:{line}: {message}" for path in library()
            for line, message in banned(path.read_text(), name(path))] == []


def test_no_test_is_skipped() -> None:
    paths = [p for p in files("tests", "bench", suffixes=(".py",)) if p.parent.name != "meta"]
    assert report(paths, skipped_tests) == []


def test_nothing_names_a_machine() -> None:
    paths = [*ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "setup.py", ROOT / "pyproject.toml",
             *files("docs", "examples", "bench", "tests", suffixes=(".md", ".yaml", ".py"))]
    assert report([p for p in paths if p != Path(__file__)], machine_paths) == []


def test_markdown_titles() -> None:
    paths = [*ROOT.glob("*.md"), *files("docs", "examples", suffixes=(".md",))]
    assert report(paths, titles) == []


# --- each rule finds what it is for ---------------------------------------------------------------

@pytest.mark.parametrize(("rule", "text"), [
    (long_lines, "x" * 101),
    (long_lines, "# https://" + "x" * 91),
    (missing_licence, '"""A module."""\n'),
    (missing_docstring, "# SPDX-License-Identifier: Apache-2.0\nimport os\n"),
    (skipped_tests, "@pytest.mark.skipif(True)"),
    (machine_paths, "results in /home/me/results"),
    (titles, "# One\n\n# Two\n"),
    (titles, "no title\n```\n# a comment\n```\n"),
])
def test_a_rule_finds_its_sample(rule: Callable[[str], list[Finding]], text: str) -> None:
    assert rule(text)


@pytest.mark.parametrize("text", [
    "cdef int f(int a) except *:", "DEF SIZE = 3", 'include "parts.pyx"', "    except:",
    "from kvcore.errors import *", "    print(value)", "# TODO: later", 'open("/home/me/x")',
])
def test_a_banned_word_is_found(text: str) -> None:
    assert banned(text, "src/kvcore/_engine.pyx")


@pytest.mark.parametrize("text", [
    "cdef int f(int a) except -1:", "    except OSError:", 'x = "/var/tmp/kvcore"',
    "fingerprint(x)",
])
def test_other_words_are_not(text: str) -> None:
    assert banned(text, "src/kvcore/_engine.pyx") == []


def test_the_command_line_may_print() -> None:
    assert banned("    print(value)", "src/kvcore/cli/dump.py") == []


def test_a_line_of_the_limit_passes() -> None:
    assert long_lines("x" * 100 + "\n" + "─" * 100) == []


def test_function_lengths() -> None:
    python = "def f():\n" + "    x = 1\n" * 80
    cython = ("cdef class A:\n    cdef int f(self,\n               int a) except -1:\n"
              + "        a += 1\n" * 80 + "\n# a comment between\n\n"
              + "    def g(self):\n        return 1\n")
    assert functions(python, ".py") == [("f", 1, 81)]
    assert functions(cython, ".pyx") == [("f", 2, 82), ("g", 87, 2)]


def test_the_ratchet() -> None:
    assert over({"a": 80}, {"a": 70}, {}) == ["a: 80, at most 70"]
    assert over({"a": 80}, {"a": 70}, {"a": 80}) == []
    assert over({"a": 81}, {"a": 70}, {"a": 80}) == ["a: 81, at most 80"]
    assert over({"a": 60}, {"a": 70}, {"a": 80}) == [
        "a: is within its limit now, remove the exception"]
