# SPDX-License-Identifier: Apache-2.0
"""Stores for tests, Hypothesis profiles, and the counts printed at the end of a session.

Every store made by a factory here is checked (`_check()`) and closed after its test. Every watch of
every store, also of those opened elsewhere, is recorded; what it delivered is checked at the end.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import commands
import hypothesis
import pytest
import soak
import watch_checker
from stores import Stores

import kvcore

STDERR = os.fdopen(os.dup(2), "w")        # where a captured test's last words are seen
COUNTS: pytest.StashKey[Counter[str]] = pytest.StashKey()

hypothesis.settings.register_profile("dev", max_examples=20, deadline=None, print_blob=True)
hypothesis.settings.register_profile(
    "ci", deadline=None, print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "soak", hypothesis.settings.get_profile("ci"), max_examples=1_000_000,
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or (
    "soak" if "KVCORE_SOAK_SECONDS" in os.environ else "ci"))


@pytest.fixture
def ram_dir() -> Iterator[Path]:
    """An empty directory, on a RAM disk where there is one, or below KVCORE_RAM_DIR."""
    base = os.environ.get("KVCORE_RAM_DIR") or ("/dev/shm" if os.path.isdir("/dev/shm") else None)
    directory = Path(tempfile.mkdtemp(prefix="kvcore-test-", dir=base))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def recording(counts: Counter[str]) -> Iterator[watch_checker.Recording]:
    """What the watches of this test deliver; autouse, so that none escapes its check."""
    recorded = watch_checker.Recording()
    with recorded.patched():
        yield recorded
    recorded.finish(counts)


@pytest.fixture(autouse=True)
def opened(ram_dir: Path, recording: watch_checker.Recording) -> Iterator[Stores]:
    """The factory of this test's stores; autouse, so that none escapes its check.

    It needs ram_dir so that the stores are closed before their directory is removed.
    """
    stores = Stores()
    yield stores
    stores.finish()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> commands.Run:
    """Runs a command line in this process."""
    return commands.runner(capsys)


@pytest.fixture
def nothing_hangs() -> Iterator[None]:
    """A hang ends the run, with the stack of every thread."""
    faulthandler.dump_traceback_later(120, exit=True, file=STDERR)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(params=["memory", "durable"])
def open_store(request: pytest.FixtureRequest, opened: Stores,
               ram_dir: Path) -> Callable[..., kvcore.Store]:
    """Opens a store of the kind the test runs for."""
    if request.param == "memory":
        return opened
    number = iter(range(1000))

    def durable(**options: Any) -> kvcore.Store:
        return opened(ram_dir / f"store{next(number)}", **options)

    return durable


@pytest.fixture
def db(open_store: Callable[..., kvcore.Store]) -> kvcore.Store:
    """An empty store, in memory and durable."""
    return open_store()


@pytest.fixture
def soaking(request: pytest.FixtureRequest) -> soak.Soaking:
    """Numbers to go on with, in a soak for this test's share of its seconds."""
    return soak.share(request.node, request.session.items)


@pytest.fixture(scope="session")
def counts(pytestconfig: pytest.Config) -> Counter[str]:
    """Where tests count steps, images and kills."""
    return pytestconfig.stash[COUNTS]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[COUNTS] = Counter()
    config.addinivalue_line("filterwarnings", "error")
    config.addinivalue_line("markers", soak.MARK)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for name, number in sorted(config.stash[COUNTS].items()):
        terminalreporter.write_line(f"{name}: {number:,}")
