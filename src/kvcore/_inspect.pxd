# SPDX-License-Identifier: Apache-2.0
"""What a store says about itself.  Contracts: the module."""

from libc.stdint cimport int64_t

from kvcore._engine cimport Engine

cdef object inspect_hash(Engine e, int64_t revision)
cdef object inspect_stats(Engine e)
cdef object inspect_check_index(Engine e)
cdef object inspect_damaged_values(Engine e, object progress)
cdef object inspect_versions(Engine e)
