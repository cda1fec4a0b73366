# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes API server's path over a kvcore store."""
