# SPDX-License-Identifier: Apache-2.0
"""Keys that are unkind to a prefix-truncating tree, shared by the index's tests."""

from hypothesis import strategies as st

LONG = b"/registry/" + b"x" * 250          # exactly at and beyond what a node keeps inline
pieces = st.sampled_from([b"a", b"b", b"\x00", b"\xff", b"ab", b"aaaaaaaa", b"aaaaaaaab", b"/x/"])
short = st.lists(pieces, min_size=1, max_size=3).map(b"".join)
registry = st.builds(
    lambda r, n: b"/registry/" + r + b"/ns-" + n, st.sampled_from([b"pods", b"nodes"]),
    st.integers(0, 40).map(lambda i: b"%03d" % i))
long = st.builds(
    lambda cut, tail: LONG[:cut] + tail, st.sampled_from([240, 255, 256, 257, 260]),
    st.sampled_from([b"", b"a", b"b", b"\x00", b"a" * 300, b"a" * 299 + b"b", b"c" * 40]))
keys = st.one_of(short, registry, registry, long)
