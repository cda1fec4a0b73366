# SPDX-License-Identifier: Apache-2.0
"""Clocks for tests: time passes when the test says so.

May not know: what is timed with them.
"""

from kvcore.testing._clocks import ManualClock

__all__ = ["ManualClock"]
