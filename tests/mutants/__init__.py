# SPDX-License-Identifier: Apache-2.0
"""Planted bugs, each of which a named test must find: `make mutants`.

    mutant = name · what a user would lose · file · text -> other text · the tests that must fail
    run:  build the sources as they are ─ the named tests pass ─ for each mutant: plant, build,
          run its tests until one fails, restore ─ table

A suite that is green says little by itself; here it says that it would have been red.

Invariants: fits - the text of a mutant stands exactly once in its file (tests/meta/test_mutants.py,
at every run of the tests); honest - a test that fails without the bug catches nothing; apart - the
sources are never touched, a copy outside the repository is.
"""

from .table import MUTANTS, Mutant

__all__ = ["MUTANTS", "Mutant"]
