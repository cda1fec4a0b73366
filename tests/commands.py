# SPDX-License-Identifier: Apache-2.0
"""The command line for tests: in this process, through the `run` fixture.

    code, out, err = run("check", directory, "--json")
"""

from __future__ import annotations

from typing import Protocol

import pytest

from kvcore.cli import main


class Run(Protocol):
    """Runs the command: (exit code, standard output, standard error)."""

    def __call__(self, *arguments: object) -> tuple[int, str, str]: ...


def runner(capsys: pytest.CaptureFixture[str]) -> Run:
    """A Run that reads what pytest captured."""
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err
    return call
