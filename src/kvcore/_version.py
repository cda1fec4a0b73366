# SPDX-License-Identifier: Apache-2.0
"""The version of kvcore, for what has to name it below the package itself."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
