# SPDX-License-Identifier: Apache-2.0
"""What the package exports exists, is documented, and is what its stubs say.

A stub and its module must name the same public classes and functions, and the same public methods
in each class; a native module without a stub exports nothing to Python.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import kvcore

SOURCE = Path(__file__).parents[2] / "src" / "kvcore"
MADE = SOURCE / "etcd" / "messages.pyi"  # of descriptors: tests/test_etcd_oracle_messages.py
STUBS = sorted(path for path in SOURCE.rglob("*.pyi") if path != MADE)


def stub_names(text: str) -> dict[str, set[str] | None]:
    """Public names of a stub: class -> its public attributes, inherited ones too; else -> None."""
    found: dict[str, set[str] | None] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef):
            members = {name for item in node.body for name in _names(item)}
            for base in node.bases:
                members |= (isinstance(base, ast.Name) and found.get(base.id)) or set()
            found[node.name] = {name for name in members if not name.startswith("_")}
        else:
            found.update(dict.fromkeys(_names(node)))
    return found


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def module_names(module: ModuleType) -> dict[str, Any]:
    """Public classes and functions that a module defines itself."""
    return {name: value for name, value in vars(module).items()
            if not name.startswith("_") and callable(value)
            and getattr(value, "__module__", None) == module.__name__}


def differences(stub: dict[str, set[str] | None], module: ModuleType) -> list[str]:
    """Where a stub and its module disagree."""
    own = module_names(module)
    stub = {name: members for name, members in stub.items() if not name.startswith("_")}
    found = [f"{name}: only in the stub" for name in stub if not hasattr(module, name)]
    found += [f"{name}: not in the stub" for name in own if name not in stub]
    for name, members in stub.items():
        value = getattr(module, name, None)
        if members is None or not inspect.isclass(value):
            continue
        real = {m for m in vars(value) if not m.startswith("_")}
        known = set(dir(value)) | set(getattr(value, "__annotations__", ()))
        found += [f"{name}.{m}: only in the stub" for m in sorted(members - known)]
        found += [f"{name}.{m}: not in the stub" for m in sorted(real - members)]
    return found


def undocumented(name: str, value: Any) -> list[str]:
    """Public things in a class or function without a docstring, itself included."""
    found = [] if inspect.getdoc(value) else [name]
    if inspect.isclass(value) and not issubclass(value, Exception):
        for member, thing in vars(value).items():
            if not member.startswith("_") and callable(thing) and not inspect.getdoc(thing):
                found.append(f"{name}.{member}")
    return found


def test_everything_exported_exists_and_is_documented() -> None:
    assert kvcore.__all__ == sorted(kvcore.__all__)
    values = {name: getattr(kvcore, name) for name in kvcore.__all__}
    assert [u for name, value in values.items() for u in undocumented(name, value)] == []


def test_nothing_public_is_forgotten() -> None:
    public = {name for name, value in vars(kvcore).items()
              if not name.startswith("_") and not isinstance(value, ModuleType)}
    assert public - set(kvcore.__all__) == set()


@pytest.mark.parametrize("path", STUBS, ids=lambda path: path.stem)
def test_stub_and_module_agree(path: Path) -> None:
    module = importlib.import_module(
        "kvcore." + ".".join(path.relative_to(SOURCE).with_suffix("").parts))
    assert differences(stub_names(path.read_text()), module) == []


def test_layers_without_a_stub_export_nothing() -> None:
    bare = [path for path in SOURCE.glob("*.pyx") if not path.with_suffix(".pyi").exists()]
    exporting = {}
    for path in bare:
        module = importlib.import_module(
            "kvcore." + ".".join(path.relative_to(SOURCE).with_suffix("").parts))
        if names := sorted(module_names(module)):
            exporting[path.name] = names
    assert exporting == {}


def test_a_difference_is_found() -> None:
    module = ModuleType("sample")
    exec("class A:\n    def f(self): ...\n    def g(self): ...\ndef h(): ...\n", vars(module))
    assert differences(stub_names("class A:\n    def f(self): ...\ndef i() -> int: ...\n"),
                       module) == ["i: only in the stub", "h: not in the stub",
                                   "A.g: not in the stub"]
    assert undocumented("A", vars(module)["A"]) == ["A", "A.f", "A.g"]
