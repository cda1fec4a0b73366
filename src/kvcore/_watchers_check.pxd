# SPDX-License-Identifier: Apache-2.0
"""The check of the index of watchers."""

from kvcore._watchers cimport Hub

# The first broken invariant, or NULL.
cdef const char* hub_check(const Hub* h) noexcept nogil
