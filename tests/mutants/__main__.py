# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.mutants`, from the root of the repository."""

import sys

from .run import main

sys.exit(main())
