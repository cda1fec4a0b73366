# SPDX-License-Identifier: Apache-2.0
"""A copy of sources and tests outside the repository, built once, where mutants are planted.

    TREE/                  LOCK · src · tests · setup.py · pyproject.toml · build/verify/lib
    plant   the text changes, setup.py builds the one module that it is compiled into
    take    the module's files of before come back, then the text: nothing is built again

Kept between runs, so that one that follows builds what changed since. A copy of what was planted by
a run that was killed differs from the source, and is written anew.

Thread safety: one process, by LOCK. May not know: tests, mutants but for text and file.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .mutant import ROOT, Mutant

# setup.py as it is, but for one module: to look at fifty of them takes longer than to build one.
ONE_MODULE = """
import sys
import Cython.Build
cythonize = Cython.Build.cythonize
only = sys.argv.pop(1)
Cython.Build.cythonize = lambda modules, **more: cythonize(
    [module for module in modules if module.name == only], **more)
sys.argv[0] = "setup.py"
exec(compile(open("setup.py").read(), "setup.py", "exec"), {"__name__": "__main__"})
"""

COPIED = ("src", "tests", "setup.py", "pyproject.toml")
LEFT_OUT = {"__pycache__", ".hypothesis", ".pytest_cache"}


class TreeError(Exception):
    """The tree cannot be had, or does not build."""


class Tree:
    """The copy at `path`; made, or brought up to date, when it is entered."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lib = path / "build" / "verify" / "lib"
        self.scratch = path / "scratch"

    def __enter__(self) -> Tree:
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path / "LOCK", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise TreeError(f"{self.path} is in use by another run") from None
        for name in COPIED:
            _copy(ROOT / name, self.path / name)
        shutil.rmtree(self.path / ".hypothesis", ignore_errors=True)
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)
        os.close(self._lock)

    def build(self, only: str = "") -> None:
        """Whatever is older than its sources; or only one module of those in C."""
        env = {**os.environ, "KVCORE_VERIFY": "1", "CCACHE_NOHASHDIR": "1"}
        if "CC" not in env and shutil.which("ccache"):
            env["CC"] = "ccache gcc"
        script = ["-c", ONE_MODULE, only] if only else ["setup.py"]
        command = [sys.executable, *script, "-q", "build", "--build-base", "build/verify",
                   "--build-lib", "build/verify/lib"]
        done = subprocess.run(command, cwd=self.path, env=env, capture_output=True, text=True)
        if done.returncode:
            raise TreeError(f"the build failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

    @contextmanager
    def planted(self, mutant: Mutant) -> Iterator[None]:
        """Builds with the bug in it; behind it everything is as it was."""
        source = self.path / "src" / "kvcore" / mutant.file
        text = source.read_text()
        if text.count(mutant.old) != 1:
            raise TreeError(f"{mutant.name}: its text stands {text.count(mutant.old)} times in "
                            f"{mutant.file}, must once")
        kept = [source, *self._made_of(source)]
        before = [(path, path.read_bytes(), path.stat()) for path in kept]
        source.write_text(text.replace(mutant.old, mutant.new))
        try:
            self.build(_module(source.relative_to(self.path / "src")))
            yield
        finally:
            for path, content, stat in reversed(before):     # the text last: see above
                path.unlink()
                path.write_bytes(content)
                path.chmod(stat.st_mode)
                os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def _made_of(self, source: Path) -> list[Path]:
        """C, object and module of a source; of a .py its copy."""
        stem = source.name.split(".")[0] + "."
        return [path for path in (self.path / "build").rglob(f"{stem}*")
                if path.is_file() and path.parent.name == source.parent.name
                and "__pycache__" not in path.parts]


def _module(path: Path) -> str:
    """The name that setup.py has for a source; that of a .py, which it builds none of, selects
    none."""
    return ".".join(path.with_suffix("").parts)


def _copy(source: Path, target: Path) -> None:
    """Brings `target` up to date. What is copied is younger than anything built."""
    if target.is_symlink():
        target.unlink()
    if source.is_dir():
        target.mkdir(exist_ok=True)
        names = {path.name for path in source.iterdir()
                 if path.name not in LEFT_OUT and path.suffix not in {".so", ".egg-info"}}
        for path in target.iterdir():
            if path.name not in names | LEFT_OUT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in sorted(names):
            _copy(source / name, target / name)
    elif not target.exists() or target.read_bytes() != source.read_bytes():
        target.write_bytes(source.read_bytes())
