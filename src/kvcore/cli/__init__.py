# SPDX-License-Identifier: Apache-2.0
"""The command `kvcore`: one module per sub-command, and what they share.

    main ── parser ── sub-command(args, output) ── exit code

Exit codes: 0 fine; 1 a problem was found; 2 usage; 3 the store cannot be opened or read; 130 after
Ctrl-C and 143 after SIGTERM, both with the store closed.  What goes wrong becomes one line on
standard error.

May not know: the engine's modules; it uses the library as anybody does.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import kvcore
from kvcore.cli.output import (
    CANNOT_OPEN,
    INTERRUPTED,
    OK,
    PROBLEM,
    TERMINATED,
    USAGE,
    Output,
    UsageError,
)

__all__ = ["main", "parser"]

# command -> its module, in the order of the help; only the one that is called is loaded
COMMANDS = {"demo": "demo", "check": "check", "compact": "compact", "dump": "dump",
            "export": "transfer", "import": "transfer", "backup": "backup", "restore": "backup",
            "status": "status", "apiserver": "apiserver"}


class Terminated(BaseException):
    """SIGTERM arrived: unwinds like Ctrl-C, so that stores are closed."""


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """The argument parser with all sub-commands. Args: only: the one whose arguments are read."""
    top = argparse.ArgumentParser(
        prog="kvcore", description="An embedded, durable MVCC store with etcd's data model.",
        epilog="exit codes: 0 fine, 1 a problem was found, 2 usage, 3 cannot open or read, "
               "130 Ctrl-C")
    top.add_argument("--version", action="version", version=f"kvcore {kvcore.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    names = (COMMANDS[only],) if only in COMMANDS else dict.fromkeys(COMMANDS.values())
    for name in names:
        importlib.import_module(f"kvcore.cli.{name}").add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one sub-command; returns the exit code."""
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        args = parser(given[0] if given else None).parse_args(given)
    except SystemExit as end:                # argparse has said why
        return int(end.code or 0)
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(args)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _run(args: argparse.Namespace) -> int:
    output = Output(json=args.json)
    try:
        code = int(args.run(args, output))
        sys.stdout.flush()
        return code
    except UsageError as error:
        return _fail(f"kvcore {args.command}: {error}", USAGE)
    except BrokenPipeError:
        # The reader (head, less) has gone; nothing more to say, and no second complaint at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (kvcore.CompactedError, kvcore.FutureRevisionError) as error:
        return _fail(f"kvcore {args.command}: {error}", PROBLEM)
    except (kvcore.Error, OSError) as error:
        return _fail(f"kvcore {args.command}: {error}", CANNOT_OPEN)
    except KeyboardInterrupt:
        return _fail(f"kvcore {args.command}: interrupted", INTERRUPTED)
    except Terminated:
        return _fail(f"kvcore {args.command}: terminated", TERMINATED)


def _fail(message: str, code: int) -> int:
    print(" ".join(message.split()), file=sys.stderr)
    return code
