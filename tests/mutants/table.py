# SPDX-License-Identifier: Apache-2.0
"""All mutants, by subject."""

from .commit import COMMIT
from .index import INDEX
from .mutant import Mutant
from .space import SPACE
from .watch import WATCH

MUTANTS: tuple[Mutant, ...] = COMMIT + INDEX + SPACE + WATCH
