# SPDX-License-Identifier: Apache-2.0
"""The habits of the API: results as sequences and arrays, laziness, lifetimes, reprs, doctests."""

from __future__ import annotations

import contextlib
import doctest
import gc
import importlib
import inspect
import io
import os
import pkgutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import kvcore
from kvcore import Compare, Delete, Get, Put, Range, Txn

Opener = Callable[..., kvcore.Store]


# --- the store -----------------------------------------------------------------------------------


def test_context_manager(open_store: Opener) -> None:
    with open_store() as db:
        assert db.put(b"k", b"v").revision == 2
        assert not db.closed
    assert db.closed
    with pytest.raises(ZeroDivisionError), open_store() as db:
        _ = 1 / 0
    assert db.closed


def test_reopen(opened: Any, ram_dir: Path) -> None:
    """A directory is made with its parents' consent only; what was put is there again."""
    with opened(str(ram_dir / "new")) as db:
        db.put(b"k", b"v")
        assert db.log_path == str(ram_dir / "new")
    db = opened(ram_dir / "new")
    kv = db.get(b"k")
    assert (db.revision, kv.value, kv.mod_revision) == (2, b"v", 2)


def test_unclosed_store_warns() -> None:
    db = kvcore.open()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del db
        gc.collect()
    assert [w.category for w in caught] == [ResourceWarning]
    assert "unclosed" in str(caught[0].message)


def test_status(open_store: Opener) -> None:
    db = open_store(order=7)
    db.put_many([(b"%03d" % i, b"v" * 100) for i in range(100)])
    db.delete(b"000")
    status = db.status()
    assert (status.revision, status.compact_revision) == (102, 0)
    assert (status.keys, status.versions, status.order) == (99, 101, 7)
    assert status.applied_index == 101
    assert (status.snapshots, status.poisoned, status.background_status) == (0, False, 0)
    assert status.depth >= 3
    assert 0 < status.fill <= 1
    assert 0 < status.index_live_bytes <= status.index_bytes
    with db.snapshot(), db.snapshot():
        assert db.status().snapshots == 2
    assert db.status().snapshots == 0
    with pytest.raises(AttributeError):
        status.keys = 5  # type: ignore[misc]


def test_checkpoint_and_sync(opened: Any, ram_dir: Path) -> None:
    db = opened(ram_dir, maintenance=False)
    db.put(b"k", b"v")
    assert db.checkpoint() == 1
    assert db.checkpoint() == 2
    db.sync()
    status = db.status()
    assert (status.checkpoint_number, status.checkpoint_revision) == (2, 2)
    assert opened().checkpoint() == 0


def test_step_reports_more(open_store: Opener) -> None:
    """A compaction's sweep in small pieces; then nothing is left to do."""
    db = open_store(maintenance=False)
    db.put_many([(b"%04d" % (i % 1500), b"v") for i in range(6000)])
    db.compact(db.revision)
    assert db.status().compacting
    assert db.step(budget=1)
    assert 1500 < db.status().versions
    while db.step(budget=10):
        db._check()
    assert not db.step()
    assert not db.status().compacting
    assert db.status().versions == 1500


def test_reprs(db: kvcore.Store) -> None:
    put = db.put(b"k", b"v")
    kv = "KeyValue(key=b'k', value=b'v', create_revision=2, mod_revision=2, version=1, lease=0)"
    assert repr(put) == "PutResult(revision=2, prev=None)"
    assert repr(db.get(b"k")) == kv
    assert repr(db.range()) == "<RangeResult of 1 keys, count=1, more=False, revision=2>"
    assert repr(db.txn([], [Get(b"k")])) == (
        f"TxnResult(succeeded=True, responses=[{kv}], revision=2)")
    assert repr(db.delete(b"x")) == "DeleteResult(revision=2, deleted=0, prev=[])"
    assert repr(db.snapshot()) == "<Snapshot at revision 2>"
    assert f"{db.log_path or 'memory'!r} at revision 2" in repr(db)
    assert repr(Put(b"k", b"v")) == "Put(b'k', b'v')"
    assert repr(Delete(b"k")) == "Delete(b'k')"
    assert repr(Range(b"a", b"b")) == "Range(b'a', b'b')"
    assert repr(Get(b"k")) == "Get(b'k')"
    assert repr(kvcore.Compact(5)) == "Compact(5)"
    assert repr(Compare.value(b"k") == b"v") == "Compare.value(b'k') == b'v'"
    assert repr(Txn([], [Put(b"k")])) == "Txn([], [Put(b'k', b'')], [])"


def test_equality(db: kvcore.Store) -> None:
    """Results are equal when all they say is."""
    db.put(b"k", b"v")
    db.put(b"l", b"v")
    assert db.get(b"k") == db.get(b"k")
    assert db.get(b"k") != db.get(b"l")
    assert db.get(b"k") != (b"k", b"v")
    assert len({db.get(b"k"), db.get(b"k"), db.get(b"l")}) == 2
    assert db.range() == db.range()
    assert db.range() != db.range(limit=1)
    assert db.range(keys_only=True) != db.range()
    before = db.get(b"k")
    db.put(b"k", b"v")
    assert db.get(b"k") != before


# --- RangeResult ---------------------------------------------------------------------------------


@pytest.fixture
def page(db: kvcore.Store) -> kvcore.RangeResult:
    db.put_many([(b"%d" % i, b"v%d" % i) for i in range(8)])
    db.put(b"3", b"new")
    return db.range(b"1", b"8", limit=6)


def test_sequence(page: kvcore.RangeResult) -> None:
    assert (len(page), page.count, page.more, page.revision) == (6, 7, True, 10)
    keys = [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert page.keys() == keys
    assert [kv.key for kv in page] == keys
    assert [kv.key for kv in reversed(page)] == keys[::-1]
    assert (page[0].key, page[-1].key, page[-6].key) == (b"1", b"6", b"1")
    assert [kv.key for kv in page[1:4]] == keys[1:4]
    assert [kv.key for kv in page[::-2]] == keys[::-2]
    assert page[5:2] == []
    assert isinstance(page[:2], list)
    assert page[2] in page
    assert page.values() == [b"v1", b"v2", b"new", b"v4", b"v5", b"v6"]
    first, *rest = page
    assert (first.key, len(rest)) == (b"1", 5)
    assert list(iter(page)) == list(page)
    for wrong in (6, -7, 1 << 40):
        with pytest.raises(IndexError):
            page[wrong]
    with pytest.raises(TypeError):
        page["1"]  # type: ignore[call-overload]


def test_columns(page: kvcore.RangeResult) -> None:
    """NumPy views, read-only, in step with the rows, alive behind the result."""
    columns = {"mod_revisions": [3, 4, 10, 6, 7, 8], "create_revisions": [3, 4, 5, 6, 7, 8],
               "versions": [1, 1, 2, 1, 1, 1], "leases": [0] * 6}
    for name, wanted in columns.items():
        column = getattr(page, name)
        assert isinstance(column, np.ndarray)
        assert (column.dtype, column.shape) == (np.int64, (6,))
        assert column.tolist() == wanted
        assert not column.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1
        with pytest.raises(ValueError):
            column.flags.writeable = True
    kept = page.mod_revisions
    del page
    gc.collect()
    assert kept.tolist() == columns["mod_revisions"]


def test_empty_result(db: kvcore.Store) -> None:
    page = db.range()
    assert (len(page), page.count, page.more, page.revision) == (0, 0, False, 1)
    assert (page.keys(), page.values(), list(page), page[:]) == ([], [], [], [])
    assert page.mod_revisions.shape == (0,)
    assert not page


def test_columns_of_results_in_a_txn(db: kvcore.Store) -> None:
    """Several ranges share one answer; each has its own rows."""
    db.put_many([(b"a%d" % i, b"A%d" % i) for i in range(3)])
    one, two, kv, none = db.txn([], [
        Range(prefix=b"a", sort="-key"), Range(prefix=b"a", limit=1), Get(b"a1"), Get(b"b"),
    ]).responses
    assert (one.keys(), one.mod_revisions.tolist()) == ([b"a2", b"a1", b"a0"], [4, 3, 2])
    assert (two.keys(), two.values(), two.mod_revisions.tolist()) == ([b"a0"], [b"A0"], [2])
    assert (kv.key, kv.value, none) == (b"a1", b"A1", None)


# --- laziness ------------------------------------------------------------------------------------


def churn(db: kvcore.Store) -> None:
    """Many writes, deletes, a compaction and its sweep: everything old is garbage behind it."""
    for _ in range(3):
        db.put_many([(b"%03d" % (i % 300), b"new" * 50) for i in range(1000)])
    db.delete(b"\0", b"\0")
    db.compact(db.revision, physical=True)
    if db.log_path:
        db.checkpoint()
        db.checkpoint()
    while db.step():
        pass


def results(db: kvcore.Store) -> dict[str, Callable[[], list[bytes]]]:
    """Everything that reads values lazily, taken now, to be read later."""
    page, sliced = db.range(), db.range()[:]
    txn = db.txn([], [Range(), Delete(b"none")])
    with db.snapshot() as snap:
        snapped = snap.range()
    return {
        "range": page.values, "slice": lambda: [kv.value for kv in sliced],
        "txn": lambda: txn.responses[0].values(), "snapshot": snapped.values,
        "future": db.submit(Range()).result().values,
    }


@pytest.mark.parametrize("close", [False, True])
def test_values_read_late(open_store: Opener, close: bool) -> None:
    """A result taken long ago still reads its own values: behind churn, and behind close()."""
    db = open_store(segment_bytes=65536, max_request_bytes=16384)
    wanted = [b"old%03d" % i * 20 for i in range(300)]
    db.put_many([(b"%03d" % i, value) for i, value in enumerate(wanted)])
    late = results(db)
    touched = db.range()
    first = [kv.value for kv in touched]
    churn(db)
    if close:
        db.close()
    for name, read in late.items():
        assert read() == wanted, name
    assert first == wanted
    assert touched.keys()[:2] == [b"000", b"001"]


def test_prev_read_late(db: kvcore.Store) -> None:
    db.put(b"k", b"one")
    put = db.put(b"k", b"two", prev=True)
    gone = db.delete(b"k", prev=True)
    churn(db)
    db.close()
    assert (put.prev.value, gone.prev[0].value) == (b"one", b"two")


def test_value_is_read_once(db: kvcore.Store) -> None:
    db.put(b"k", b"v" * 1000)
    kv = db.range()[0]
    assert kv.value is kv.value
    assert kv.key is kv.key


# --- batches -------------------------------------------------------------------------------------


def test_put_many(db: kvcore.Store) -> None:
    """One revision per item, repeated keys included; any iterable; none is fine."""
    assert db.put_many([]) == []
    assert db.put_many([(b"a", b"1"), (b"a", b"2"), (b"b", b"3")]) == [2, 3, 4]
    assert db.put_many((b"g%d" % i, b"") for i in range(3)) == [5, 6, 7]
    assert db.put_many({b"d": b"v"}.items()) == [8]
    assert db.get(b"a").version == 2
    assert db.get(b"a", revision=2).value == b"1"


def test_put_many_in_chunks(open_store: Opener) -> None:
    """More than a chunk (4 MiB, or what a segment holds) is split; revisions stay dense."""
    db = open_store(segment_bytes=65536, max_request_bytes=16384)
    before = db.status().batches
    assert db.put_many([(b"%04d" % i, b"x" * 5000) for i in range(100)]) == list(range(2, 102))
    assert db.status().batches - before > 3
    assert db.range(count_only=True).count == 100


def test_get_many(db: kvcore.Store) -> None:
    db.put_many([(b"%03d" % i, b"%d" % i) for i in range(200)])
    db.put(b"100", b"new")
    wanted = [b"%03d" % i for i in range(190, 210)] + [b"100", b"100"]
    found = db.get_many(wanted)
    assert [kv and kv.value for kv in found] == (
        [b"%d" % i for i in range(190, 200)] + [None] * 10 + [b"new", b"new"])
    assert [kv and kv.key for kv in found[:10]] == wanted[:10]
    assert [kv.value for kv in db.get_many([b"100"], revision=201)] == [b"100"]
    assert db.get_many([]) == []
    assert db.get_many(key for key in [b"000"]) == [db.get(b"000")]


# --- snapshots -----------------------------------------------------------------------------------


def test_snapshot_stays(open_store: Opener) -> None:
    """A snapshot reads as it was, behind writes and compaction."""
    db = open_store(order=3)
    db.put_many([(b"%02d" % i, b"old") for i in range(50)])
    with db.snapshot() as snap:
        churn(db)
        assert (snap.revision, snap.count()) == (51, 50)
        assert snap.range().values() == [b"old"] * 50
        assert (snap.range().revision, snap.range(limit=3).more) == (51, True)
        assert snap.get(b"07").value == b"old"
        assert snap.get(b"07", revision=5) is None
        assert snap.count(b"10", b"20") == 10
        assert snap.count(prefix=b"1") == 10
        assert db.get(b"07") is None
        with pytest.raises(kvcore.FutureRevisionError):
            snap.get(b"07", revision=52)
    assert "released" in repr(snap)
    assert db.status().snapshots == 0


def test_snapshots_leave_nothing_behind(open_store: Opener) -> None:
    """Released in any order, and behind the background's work, no block is kept for them."""
    db = open_store(order=3, maintenance=False)
    db.put_many([(b"%03d" % i, b"v") for i in range(200)])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        snaps = []
        for _ in range(4):
            snaps.append(db.snapshot())
            db.put_many([(b"%03d" % i, b"w") for i in range(0, 200, 3)])
            db.delete(b"05", b"06")
        for i in order:
            snaps[i].release()
        while db.step():
            pass
        status = db.status()
        assert (status.snapshots, status.dead_blocks) == (0, 0)
        db._check()


def test_forgotten_snapshot_is_released(db: kvcore.Store) -> None:
    db.put(b"k", b"v")
    snap = db.snapshot()
    del snap
    gc.collect()
    assert db.status().snapshots == 0


# --- memory --------------------------------------------------------------------------------------


def test_errors_leak_nothing(open_store: Opener) -> None:
    """Ten thousand refused requests of 10 KB each; the process does not keep them."""
    db = open_store()

    def refuse(times: int) -> None:
        big = b"v" * 10_000
        for _ in range(times):
            for op in (lambda: db.put(b"k", big, lease=9),
                       lambda: db.txn([], [Put(b"a", big), Put(b"a", big)]),
                       lambda: db.put_many([(b"k", big), (b"", big)])):
                with contextlib.suppress(kvcore.Error):
                    op()
                    raise AssertionError("not refused")

    def resident() -> int:
        fields = Path("/proc/self/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGESIZE")

    refuse(300)
    before = resident()
    refuse(1500)
    assert db.revision == 1
    if sys.platform == "linux":
        written = 1500 * 10_000 if db.log_path == "" else 0  # failed puts are in the log as well
        assert resident() - before < 12_000_000 + written


# --- doctests ------------------------------------------------------------------------------------


def modules() -> Iterator[ModuleType]:
    """Every module of the package, native ones included; none that is only a command line."""
    yield kvcore
    for found in pkgutil.walk_packages(kvcore.__path__, "kvcore."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def documented(module: ModuleType) -> Iterator[tuple[str, str]]:
    """(name, docstring) of a module, its classes and functions, without relying on inspect's
    opinion of compiled ones."""
    yield module.__name__, module.__doc__ or ""
    for name, what in sorted(vars(module).items()):
        if getattr(what, "__module__", None) != module.__name__:
            continue
        yield f"{module.__name__}.{name}", getattr(what, "__doc__", None) or ""
        if inspect.isclass(what):
            for inner, member in sorted(vars(what).items()):
                doc = getattr(member, "__doc__", None)
                yield f"{module.__name__}.{name}.{inner}", doc if isinstance(doc, str) else ""


def run_doctests(runner: doctest.DocTestRunner, output: io.StringIO) -> None:
    parser, seen = doctest.DocTestParser(), set()
    for module in modules():
        for name, doc in documented(module):
            if ">>>" in doc and doc not in seen:
                seen.add(doc)
                test = parser.get_doctest(doc, dict(vars(module)), name, None, 0)
                runner.run(test, out=output.write)


def test_doctests() -> None:
    """Every example in a docstring runs as written; none is overlooked."""
    runner, output = doctest.DocTestRunner(), io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # examples do not close what they open
        run_doctests(runner, output)
        gc.collect()
    assert runner.summarize(verbose=False).failed == 0, output.getvalue()
    in_source = 0
    for path in Path(kvcore.__file__).parent.rglob("*.py*"):
        if path.suffix in (".py", ".pyx"):
            in_source += path.read_text().count(">>> ")
    assert runner.summarize(verbose=False).attempted >= in_source > 50


def test_threads_end(open_store: Opener) -> None:
    """close() ends the store's own threads."""
    before = set(os.listdir("/proc/self/task"))
    db = open_store()
    db.submit(Put(b"k")).result(60)
    db.close()
    python = {str(t.native_id) for t in threading.enumerate()}
    assert set(os.listdir("/proc/self/task")) - before - python == set()
