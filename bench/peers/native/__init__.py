# SPDX-License-Identifier: Apache-2.0
"""Peers that are not Python's: a C++ and a Go program with one command line, and their build."""
