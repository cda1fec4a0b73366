# SPDX-License-Identifier: Apache-2.0
"""Prints what the benchmarks measured besides time (ratios, bytes per key, depth), one line
each."""

from __future__ import annotations


def pytest_terminal_summary(terminalreporter, config) -> None:
    """The extra columns, under pytest-benchmark's own table."""
    session = getattr(config, "_benchmarksession", None)
    rows = [b for b in getattr(session, "benchmarks", []) if b.extra_info]
    if not rows:
        return
    terminalreporter.section("beside the times")
    width = max(len(b.name) for b in rows)
    for b in rows:
        info = "  ".join(f"{k}={v}" for k, v in b.extra_info.items())
        terminalreporter.write_line(f"{b.name:{width}}  {info}")
