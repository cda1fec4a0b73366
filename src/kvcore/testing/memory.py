# SPDX-License-Identifier: Apache-2.0
"""Memory for tests: refused to the core where a test says so.

May not know: what it is refused for.
"""

from kvcore.testing._refusals import Refusals, index_left, refuse_index

__all__ = ["Refusals", "index_left", "refuse_index"]
