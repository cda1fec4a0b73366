# SPDX-License-Identifier: Apache-2.0
"""The documentation is true where a machine can tell: links lead somewhere, the examples of the
README and of docs/ print what they say, the commands listed are the commands there are.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from pathlib import Path

import pytest

from kvcore.cli import parser

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"),
                    *(ROOT / "examples").rglob("*.md")])


def broken_links(text: str, folder: Path) -> list[str]:
    """Relative links to files that are not there, and to headings that no file has."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.M | re.S)
    broken = []
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, heading = target.partition("#")
        path = folder / file if file else None
        content = text if path is None else path.read_text() if path.is_file() else None
        if content is None and not (path is not None and path.is_dir()):
            broken.append(target)
        elif heading and content is not None and heading not in headings(content):
            broken.append(target)
    return broken


def headings(text: str) -> set[str]:
    """The anchors a Markdown file gives its headings."""
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-")
            for line in re.findall(r"^#+ +(.*)$", text, re.M)}


def examples(text: str) -> list[tuple[str, str]]:
    """(program, what it prints) of each block of Python; a block of text right below is its output.
    """
    found = re.findall(r"^```python\n(.*?)^```\n(?:^```text\n(.*?)^```$)?", text, re.M | re.S)
    assert len(found) == text.count("```python")
    return found


def printed(code: str, names: dict[str, object]) -> str:
    """What a program prints, run with and leaving these names."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, names)
    return out.getvalue()


def listed_commands(text: str) -> dict[str, set[str]]:
    """Sub-command -> options, from the README's table of commands."""
    rows = re.findall(r"^\| `kvcore (\w+)[^`]*` \|[^|]*\|([^|]*)\|", text, re.M)
    return {name: set(re.findall(r"`(--[\w-]+)`", options)) for name, options in rows}


def real_commands(top: argparse.ArgumentParser) -> dict[str, set[str]]:
    """Sub-command -> options, from the parser."""
    actions = [a for a in top._actions if isinstance(a, argparse._SubParsersAction)]
    return {name: {option for action in command._actions for option in action.option_strings
                   if option.startswith("--") and option != "--help"}
            for name, command in actions[0].choices.items()}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links(path: Path) -> None:
    assert broken_links(path.read_text(), path.parent) == []


def test_the_examples_print_what_the_readme_says(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text()
    examples = re.findall(r"```python\n(.*?)```.*?```text\n(.*?)```", text, re.S)
    assert len(examples) == text.count("```python") == 2
    monkeypatch.chdir(tmp_path)
    for code, expected in examples:
        assert len([line for line in code.splitlines() if line.strip()]) <= 16
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, {})
        assert printed.getvalue() == expected


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if p.parent.name == "docs"
                                  and "```python" in p.read_text()], ids=lambda path: path.name)
@pytest.mark.usefixtures("nothing_hangs")
def test_the_examples_of_a_document_print_what_it_says(
        path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a document are one program."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code, expected in examples(path.read_text()):
        assert printed(code, names) == expected, code


def test_the_cookbook_has_its_recipes() -> None:
    text = (ROOT / "docs" / "cookbook.md").read_text()
    assert len(re.findall(r"^## ", text, re.M)) == 4 and len(examples(text)) == 8
    assert "(docs/cookbook.md)" in (ROOT / "README.md").read_text()


def test_an_example_and_its_output_are_found() -> None:
    text = ("# T\n```python\nx = 1\n```\nwords\n```python\nprint(x)\n```\n```text\n1\n```\n"
            "```text\nnobody's\n```\n")
    assert examples(text) == [("x = 1\n", ""), ("print(x)\n", "1\n")]
    names: dict[str, object] = {}
    assert [printed(code, names) for code, _ in examples(text)] == ["", "1\n"]


def test_the_readme_lists_the_commands() -> None:
    assert listed_commands((ROOT / "README.md").read_text()) == real_commands(parser())


def test_the_readme_opens_with_the_two_commands() -> None:
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.strip()]
    assert lines[1].split()[:2] == ["make", "demo"]
    assert lines[2].split()[:2] == ["make", "test"]


def test_the_makefile_has_the_targets_the_readme_names() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`?make (\w+)", (ROOT / "README.md").read_text()))
    assert named - targets == set()


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading: with `code`\n")
    text = ("[a](there.md) [b](gone.md) [c](there.md#a-heading-with-code) [d](there.md#no)"
            " [e](https://example.org/x) `[f](code.md)`")
    assert broken_links(text, tmp_path) == ["gone.md", "there.md#no"]


def test_a_command_that_is_not_listed_is_found() -> None:
    table = "| `kvcore check DIR` | reads | `--json` |\n| `kvcore gone` | was | |\n"
    assert listed_commands(table) == {"check": {"--json"}, "gone": set()}
