# SPDX-License-Identifier: Apache-2.0
"""docs/differences-from-etcd.md and the table from which comparisons learn what to overlook say the
same: a section for each name, a name for each section, and a reason and what it means in each.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "differences-from-etcd.md"
TABLE = Path(__file__).parents[1] / "etcd_differences.py"
PARTS = ("etcd 3.5.1:", "kvcore:", "Reason:")


def sections(text: str) -> dict[str, str]:
    """Name -> text, of the sections whose heading is a name in backticks."""
    found = re.split(r"^### `([\w-]+)`$", text, flags=re.M)
    return dict(zip(found[1::2], found[2::2], strict=True))


def names(text: str) -> list[str]:
    """The names of the table."""
    table = re.search(r"^DIFFERENCES: .*?^}", text, re.M | re.S)
    assert table is not None
    return re.findall(r'^    "([\w-]+)": Difference\(', table.group(), re.M)


def incomplete(found: dict[str, str]) -> list[str]:
    """Sections in which a part is missing."""
    return [f"{name}: no {part!r}" for name, text in found.items() for part in PARTS
            if part not in text]


def test_the_page_and_the_table_have_the_same_names() -> None:
    assert sorted(sections(PAGE.read_text())) == sorted(names(TABLE.read_text()))


def test_each_section_says_what_both_do_and_why() -> None:
    assert incomplete(sections(PAGE.read_text())) == []


def test_what_is_missing_is_found() -> None:
    page = "# T\n\n### `one`\netcd 3.5.1: a. kvcore: b. Reason: c.\n### `two`\nkvcore: b.\n"
    table = 'DIFFERENCES: dict = {\n    "one": Difference(f),\n    "three": Difference(),\n}\n'
    assert sorted(sections(page)) == ["one", "two"] and names(table) == ["one", "three"]
    assert incomplete(sections(page)) == ["two: no 'etcd 3.5.1:'", "two: no 'Reason:'"]
