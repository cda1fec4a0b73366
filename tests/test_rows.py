# SPDX-License-Identifier: Apache-2.0
"""Rows: keys, columns, and who keeps the memory."""

import gc
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcore._btree import BTreeIndex
from kvcore._rows import Rows

row = st.tuples(st.binary(max_size=300), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1),
                st.integers(0, 2**63 - 1), st.integers(-2**63, 2**63 - 1),
                st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))


@given(st.lists(row, max_size=50))
def test_columns_are_what_was_pushed(items):
    rows = Rows.of(items)
    assert len(rows) == len(items) and rows.keys() == [i[0] for i in items]
    columns = (rows.mod_revisions, rows.create_revisions, rows.versions, rows.leases,
               rows.positions, rows.lengths)
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == [i[1:] for i in items]
    assert all(rows.key(-1 - i) == rows.keys()[-1 - i] for i in range(len(items)))


def test_views_are_read_only_and_keep_the_rows_alive():
    view = Rows.of([(b"k%d" % i, i, i, i) for i in range(1000)]).mod_revisions
    gc.collect()
    Rows.of([(b"z", -1, -1, -1)] * 1000)
    assert view.tolist() == list(range(1000))
    with pytest.raises(ValueError):
        view[0] = 1
    with pytest.raises((ValueError, BufferError)):
        view.flags.writeable = True


def test_no_row_no_key():
    rows = Rows.of([])
    with pytest.raises(IndexError):
        rows.key(0)
    assert rows.mod_revisions.shape == (0,) and rows.mod_revisions.dtype == "int64"


def test_oversized_key_is_refused():
    with pytest.raises(ValueError):
        Rows.of([(b"x" * 65536, 1, 1, 1)])


def test_numpy_is_imported_only_when_a_column_is_asked_for():
    code = ("import sys; from kvcore._btree import BTreeIndex; t = BTreeIndex(); t.insert(b'a', 1);"
            "r = t.range_query(b'a'); r[0].key; assert 'numpy' not in sys.modules;"
            "r.versions; assert 'numpy' in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_index_range_is_a_sequence():
    t = BTreeIndex()
    for i in range(5):
        t.insert(b"k%d" % i, i + 1, lease=i, position=64 * i, length=i)
    r = t.range_query(b"k")
    assert [e.key for e in r] == r.keys() == [r[i].key for i in range(5)]
    assert [e.key for e in r[1:3]] == [b"k1", b"k2"] and r[-1].mod_revision == 5
    assert r.leases.tolist() == [e.lease for e in r] == [0, 1, 2, 3, 4]
    assert r.lengths.tolist() == [e.length for e in r] and r.positions[2] == 128
    assert r[1] == t.get(b"k1") and r[1] != r[2] and len({r[1], t.get(b"k1")}) == 1
    with pytest.raises(IndexError):
        r[5]
