# SPDX-License-Identifier: Apache-2.0
"""Arrows point down: no module imports or cimports one of its own level or above.

A level is a row of parts; the files of one part may know each other, parts of one level may not. A
module that is in no part fails the test: a new file is given its place here first.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "kvcore"

INDEX = ("_slab", "_node", "_tree", "_build", "_epoch", "_tree_read", "_tree_write", "_tree_sweep",
         "_tree_check", "_btree")
LOG = ("_directory", "_segment", "_segment_table", "_ahead", "_recovery", "_wal", "_pin",
       "_record_log")
RING = ("_ring",)

LEVELS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("errors",),),
    (("_native",), ("types",), ("_version",)),
    (("_rows",), ("_wakeups",), ("_leases",), ("_parts",)),
    (INDEX, LOG, RING),
    (("_command",), ("_watchers", "_watchers_check"), ("_files",)),
    (("_operation",),),
    (("_result",),),
    (("_event",), ("_range",)),
    (("_state",), ("_checkpoint",), ("_hash",)),
    (("_commit", "_space", "_retention", "_maintenance"), ("_watch_cache",)),
    (("_future",), ("_watch", "_watch_await"), ("_lease",), ("_startup",),
     ("mapping",)),
    (("_engine", "_inspect", "_snapshot", "_image", "_salvage"),),
    (("lease",), ("backup", "repair"), ("verify",)),
    (("store",),),
    (("kvcore",),),                     # the package itself: what `import kvcore` gives
    (("manifests",), ("transfer",), ("etcd",), ("kube",)),
    (("sim",),),
    (("demo",),),
    (("cli",),),
    (("__main__",),),
)
PLACE = {name: (level, part) for level, parts in enumerate(LEVELS)
         for part in parts for name in part}
ANYTHING = "testing"                    # may import everything; nothing imports it

ARROW = re.compile(r"^[ \t]*(?:from[ \t]+(\.*[\w.]*)[ \t]+c?import[ \t]+(\([^)]*\)|[^\n#]*)"
                   r"|c?import[ \t]+(kvcore[\w.]*))", re.M)


def arrows(text: str) -> set[str]:
    """The modules of kvcore (first part of the name) that a source imports or cimports."""
    found = set()
    for source, names, plain in ARROW.findall(text):
        target = source or plain
        if target.startswith("."):
            found.add("a relative import")
        elif target == "kvcore" and source:
            for name in re.findall(r"\w+", re.sub(r"\bas\s+\w+", "", names)):
                found.add(name if name in PLACE or name == ANYTHING else "kvcore")
        elif target == "kvcore":
            found.add("kvcore")
        elif target.startswith("kvcore."):
            found.add(target.split(".")[1])
    return found


def fault(module: str, target: str) -> str | None:
    """Why a module may not know a target; None if it may."""
    if module == ANYTHING or module == target:
        return None
    if target == ANYTHING:
        return f"{module} knows testing, which no layer may"
    for name in (module, target):
        if name not in PLACE:
            return f"{name} has no place in tests/meta/test_layers.py"
    own, other = PLACE[module], PLACE[target]
    if own[1] is other[1] or other[0] < own[0]:
        return None
    return f"{module} knows {target}, which is {'beside' if own[0] == other[0] else 'above'} it"


def module_of(path: Path) -> str:
    """The part of the name that has a place: a file's stem, or its package."""
    relative = path.relative_to(SOURCE)
    if len(relative.parts) > 1:
        return relative.parts[0]
    return "kvcore" if relative.stem == "__init__" else relative.stem


def sources() -> list[Path]:
    return sorted(p for p in SOURCE.rglob("*") if p.suffix in {".py", ".pyx", ".pxd", ".pyi"})


def test_no_arrow_points_up() -> None:
    faults = [f"{path.relative_to(SOURCE)}: {reason}" for path in sources()
              for target in sorted(arrows(path.read_text()))
              if (reason := fault(module_of(path), target))]
    assert faults == []


def test_every_module_has_a_place() -> None:
    homeless = {module_of(path) for path in sources()} - set(PLACE) - {ANYTHING}
    assert homeless == set()


@pytest.mark.parametrize(("module", "text"), [
    ("_btree", "from kvcore._wal cimport Wal"),
    ("_wal", "from kvcore._tree cimport BTree"),
    ("_rows", "    from kvcore._engine import Engine"),
    ("_native", "from kvcore import store as _store"),
    ("_engine", "import kvcore"),
    ("_state", "from kvcore._hash cimport (\n    hash_all,\n)"),
    ("store", "from kvcore.testing import faults"),
    ("manifests", "from kvcore.demo.run import run"),
    ("demo", "from kvcore.cli.output import Output"),
    ("cli", "from .output import Output"),
    ("_new_file", "from kvcore._native cimport KvSlice"),
])
def test_an_arrow_up_is_found(module: str, text: str) -> None:
    assert any(fault(module, target) for target in arrows(text))


@pytest.mark.parametrize(("module", "text"), [
    ("_wal", "from kvcore._segment cimport segment_open"),
    ("_native", "from kvcore import errors as _errors"),
    ("cli", "import kvcore\nfrom kvcore.demo import run"),
    ("testing", "from kvcore._engine cimport Engine"),
    ("store", '    >>> import kvcore\n"""text about import kvcore.cli"""'),
])
def test_an_arrow_down_is_not(module: str, text: str) -> None:
    assert [fault(module, target) for target in arrows(text) if fault(module, target)] == []
