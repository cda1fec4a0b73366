# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.peers`: measures, prints the table; progress goes to standard error.

Exit codes: 0 fine; 1 stores disagreed, or a child failed; 2 usage; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.peers.measure import Wrong
from bench.peers.run import MAPS, ChildFailed, Disagreement, Settings, run
from bench.peers.store import STORES
from bench.peers.table import BASES, markdown, summary, text

REAL = os.environ.get("KVCORE_BENCH") == "real"


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--objects", type=int, default=1_000_000 if REAL else 2000,
                       help="objects in each store (default: 2,000; KVCORE_BENCH=real: a million)")
    found.add_argument("--repeat", type=int, default=3 if REAL else 1, help="repetitions")
    found.add_argument("--only", default="", metavar="NAMES",
                       help=f"comma-separated, of: {', '.join([*STORES, MAPS])}")
    found.add_argument("--directory", help="where the stores go (default: TMPDIR or /var/tmp)")
    found.add_argument("--seed", type=int, default=1)
    found.add_argument("--json", metavar="FILE", help="write all samples and the summary there")
    found.add_argument("--from", dest="source", metavar="FILE",
                       help="print the table of such a file; measure nothing")
    found.add_argument("--markdown", action="store_true", help="the table of docs/numbers.md")
    return found


def settings(options: argparse.Namespace) -> Settings:
    """Raises ValueError for what cannot be run."""
    only = tuple(name for name in options.only.split(",") if name)
    unknown = sorted(set(only) - {*STORES, MAPS})
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}")
    if options.objects < 100 or options.repeat < 1:
        raise ValueError("at least 100 objects and one repetition")
    return Settings(options.objects, options.repeat, only, options.directory, options.seed)


def tell(what: str, done: int, total: int) -> None:
    """Progress: one line that changes on a terminal, else one line each."""
    line = f"[{done:4} / {total}] {what}"
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{line}" + ("\n" if done == total else ""))
    else:
        sys.stderr.write(line + "\n")
    sys.stderr.flush()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """A new run, or an old one's file."""
    if options.source:
        old: dict[str, Any] = json.loads(Path(options.source).read_text())
        return old
    found = asdict(run(settings(options), tell))
    found["summary"] = {group: summary(found, group) for group in BASES}
    if options.json:
        path = Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    top = parser()
    options = top.parse_args(arguments)
    try:
        result = measured(options)
    except ValueError as error:
        top.error(str(error))
    except (ChildFailed, Disagreement, Wrong) as error:
        sys.stderr.write(f"\n{type(error).__name__}: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    sys.stdout.write((markdown if options.markdown else text)(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
