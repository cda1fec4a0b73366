# SPDX-License-Identifier: Apache-2.0
"""All mutants, by subject."""

from .commit import COMMIT
from .index import INDEX
from .kube_api import KUBE_API
from .kube_cache import KUBE_CACHE
from .mutant import Mutant
from .space import SPACE
from .watch import WATCH

MUTANTS: tuple[Mutant, ...] = (
    COMMIT + INDEX + KUBE_API + KUBE_CACHE + SPACE + WATCH)
