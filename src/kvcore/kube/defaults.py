# SPDX-License-Identifier: Apache-2.0
"""What upstream fills in where an object is silent."""

from __future__ import annotations

from typing import Any

__all__ = ["apply_defaults"]


def apply_defaults(obj: dict[str, Any]) -> None:
    """Fills in defaults in place."""
