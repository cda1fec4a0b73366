# SPDX-License-Identifier: Apache-2.0
"""Looking at leases, and renewing them: what does not go through the log."""

from libc.stdint cimport int64_t

from kvcore._commit cimport Commit

# Each REQUIRES the lock and lets it go.
cdef object lease_renew(Commit* c, int64_t id)
cdef object lease_look(Commit* c, int64_t id)
cdef object lease_ids(Commit* c)
