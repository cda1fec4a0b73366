# SPDX-License-Identifier: Apache-2.0
"""What a type checker makes of programs that use kvcore: types inferred, and misuse seen."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SAMPLE = '''
import kvcore
from kvcore.mapping import json_values, text_keys

db = kvcore.open()
reveal_type(db.mapping(b"/a/"))
reveal_type(db.mapping(b"/a/", **text_keys))
reveal_type(db.mapping(b"/a/", **json_values))
reveal_type(db.mapping(b"/a/", **text_keys, **json_values))
numbers = db.mapping(encode=lambda n: b"%d" % n, decode=int)
reveal_type(numbers)
reveal_type(numbers.get(b"a"))
reveal_type(numbers.get_with_revision(b"a"))
reveal_type([item for item in numbers.items()])
reveal_type(db.snapshot().mapping(b"", **text_keys)["a"])
reveal_type(numbers.pop(b"a", None))
numbers.update({b"a": 1}), numbers.update([(b"a", 1)])
db.mapping(**text_keys, **json_values).update(a=1)
numbers["a"] = 1
numbers.update({"a": 1})
numbers.update(a=1)
db.snapshot().mapping()[b"a"] = b""
'''
REVEALED = [
    "StoreMapping[bytes, bytes]", "StoreMapping[str, bytes]", "StoreMapping[bytes, Any]",
    "StoreMapping[str, Any]", "StoreMapping[bytes, int]", "int | None", "tuple[int | None, int]",
    "list[tuple[bytes, int]]", "bytes", "int | None",
]


def plain(text: str) -> str:
    """A revealed type without what versions of mypy write differently."""
    text = re.sub(r"Union\[(\w+(?:\.\w+)?), None\]", r"\1 | None", text)
    return text.replace("builtins.", "").replace("kvcore.mapping.", "")


def test_mappings_are_inferred(tmp_path: Path) -> None:
    sample = tmp_path / "sample.py"
    sample.write_text(SAMPLE)
    run = subprocess.run([sys.executable, "-m", "mypy", "--strict", str(sample)], text=True,
                         capture_output=True, cwd=ROOT)
    assert run.stderr == ""
    revealed = [plain(line.split('"')[1]) for line in run.stdout.splitlines()
                if "Revealed type" in line]
    assert revealed == REVEALED, run.stdout
    errors = [line for line in run.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 4, run.stdout
    assert 'Invalid index type "str" for "StoreMapping[bytes, int]"' in errors[0]
    assert "incompatible type" in errors[1] or "No overload variant" in errors[1]
    assert "Invalid self argument" in errors[2] or "No overload variant" in errors[2]
    assert "Unsupported target for indexed assignment" in errors[3]
