# SPDX-License-Identifier: Apache-2.0
"""BTreeIndex: errors, unusual keys, memory refused, threads; the state machine does the rest."""

import array
import doctest
import gc
import random
import threading

import pytest
from model_index import ModelIndex

from kvcore import _btree, _rows, _slab, errors
from kvcore._btree import BTreeIndex, IndexEntry, IndexSnapshot
from kvcore._slab import MemoryLimit

ORDERS = (3, 4, 5, 16, 32, 64, 1024)


def filled(order=4, n=200):
    t = BTreeIndex(order)
    for i in range(n):
        t.insert(b"/k/%04d" % (i * 7 % n), i + 1)
    return t


@pytest.mark.parametrize("module", [_btree, _rows, _slab])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


class TestErrors:
    @pytest.mark.parametrize(("order", "message"), [
        (2, "B-tree order must be at least 3, got 2"), (-1, "at least 3, got -1"),
        (1025, "B-tree order must be at most 1024, got 1025"), (2**70, "at most 1024")])
    def test_order(self, order, message):
        with pytest.raises(ValueError, match=message):
            BTreeIndex(order)
        with pytest.raises(TypeError, match="order must be int, got str"):
            BTreeIndex("32")

    def test_keys_are_bytes(self):
        t = BTreeIndex()
        calls = (lambda: t.insert("k", 1), lambda: t.get("k"), lambda: t.delete("k", 1),
                 lambda: t.range_query("a"), lambda: t.range_query(b"a", "b"), lambda: t.count("a"),
                 lambda: t.get_many([b"a", "b"]), lambda: t.insert(None, 1),
                 lambda: t.bulk_load(["a"], array.array("q", [1])))
        for call in calls:
            with pytest.raises(TypeError, match="bytes|None"):
                call()

    def test_ranges(self):
        t = filled()
        for read in (t.range_query, t.count, t.mod_revisions, lambda a, b: t.range_at(a, b, 0)):
            with pytest.raises(ValueError, match="start key cannot be empty"):
                read(b"", b"x")
            with pytest.raises(ValueError, match="end key must be >= start key"):
                read(b"b", b"a")
            nothing = read(b"/k/0001", b"/k/0001")
            assert (nothing if isinstance(nothing, int) else len(nothing)) == 0
        with pytest.raises(ValueError, match="revision must be >= 0"):
            t.range_at(b"a", None, -1)

    def test_revisions(self):
        t = BTreeIndex()
        t.insert(b"k", 5)
        for bad in (5, 4):
            with pytest.raises(ValueError, match="not greater than the key's latest"):
                t.insert(b"k", bad)
            with pytest.raises(ValueError, match="not greater"):
                t.delete(b"k", bad)
        for args in ((b"k", 0), (b"k", -1), (b"k", 7, 8), (b"k", 7, 0)):
            with pytest.raises(ValueError, match="revisions begin at 1"):
                t.insert(*args)
        assert t.stats().versions == 1 and t.get(b"k").mod_revision == 5

    def test_empty_and_oversized_keys(self):
        t = BTreeIndex()
        with pytest.raises(errors.EmptyKeyError):
            t.insert(b"", 1)
        with pytest.raises(errors.KeyTooLargeError):
            t.insert(b"x" * 65536, 1)
        t.insert(b"x" * 65535, 1)
        assert t.get(b"") is None and t.get(b"x" * 65536) is None
        assert t.get(b"x" * 65535).version == 1
        t._check()

    def test_compacted(self):
        t = BTreeIndex()
        for rev in range(1, 10):
            t.insert(b"k", rev)
        t.compact(5)
        for read in (lambda: t.get(b"k", 4), lambda: t.range_at(b"k", None, 4),
                     lambda: t.compact(5), lambda: t.compact(4)):
            with pytest.raises(errors.CompactedError) as caught:
                read()
            assert caught.value.compact_revision == 5
        assert t.get(b"k", 5).mod_revision == 5 and t.compacted_revision == 5

    def test_closed_snapshot(self):
        t = filled()
        s = t.snapshot()
        s.close()
        s.close()
        for read in (lambda: s.get(b"a"), lambda: s.get_many([b"a"]), lambda: s.count(b"a"),
                     lambda: s.range_query(b"a"), lambda: s.range_at(b"a", None, 0),
                     lambda: s.mod_revisions(b"a"), lambda: s.history(), lambda: len(s),
                     s.__enter__):
            with pytest.raises(errors.ClosedError):
                read()
        with pytest.raises(TypeError, match="made by"):
            IndexSnapshot()


class TestLife:
    def test_a_life(self):
        """The one in docs/index-layout.md, line by line."""
        t = BTreeIndex()

        def seen():
            return [(e.mod_revision, e.version, e.create_revision) for e in t.history()[0]]

        t.insert(b"a", 2)
        t.insert(b"a", 3)
        assert seen() == [(2, 1, 2), (3, 2, 2)]
        t.delete(b"a", 4)
        t.insert(b"a", 6)
        assert seen() == [(2, 1, 2), (3, 2, 2), (4, 0, 0), (6, 1, 6)]
        t.compact(4)
        assert seen() == [(4, 0, 0), (6, 1, 6)] and t.stats().versions == 2
        t.compact(5)
        assert seen() == [(6, 1, 6)] and t.stats().versions == 2
        t.compact(6)
        assert seen() == [(6, 1, 6)] and t.stats().versions == 1
        t._check()

    def test_a_tombstone_at_the_floor_stays_until_the_next(self):
        t = BTreeIndex()
        t.insert(b"a", 1)
        t.delete(b"a", 2)
        t.compact(2)
        assert t.stats().keys == 1 and len(t) == 0 and t.stats().versions == 1
        t.compact(3)
        assert t.stats().keys == 0 and t.stats().live_blocks == 0 and t.stats().depth == 0

    def test_compactions_queue(self):
        t = BTreeIndex(3)
        for rev in range(1, 301):
            t.insert(b"k%02d" % (rev % 30), rev)
        t.compact(100, wait=False)
        t.compact_step(40)
        t.compact(200, wait=False)
        t._check()
        while t.compact_step(7):
            t._check()
        assert t.stats().versions == 30 + 100 and t.compacted_revision == 200

    def test_a_long_chain_is_retired_in_steps(self):
        t = BTreeIndex()
        for rev in range(1, 10001):
            t.insert(b"k", rev)
        t.compact(10000, wait=False)
        left = []
        while t.compact_step(1000):
            left.append(t.stats().versions)
            t._check()
        assert len(left) >= 9 and max(a - b for a, b in zip(left, left[1:], strict=False)) <= 1000
        assert t.stats().versions == 1

    def test_snapshot_outlives_compaction_and_deletion(self):
        t = filled(5, 300)
        before = [(e.key, e.mod_revision) for e in t.range_query(b"/")]
        s = t.snapshot()
        for i in range(300):
            t.delete(b"/k/%04d" % i, 1000 + i)
        t.compact(5000)
        assert t.stats().keys == 0
        t._check()
        assert [(e.key, e.mod_revision) for e in s.range_query(b"/")] == before
        assert s.get(b"/k/0007", 300).mod_revision == 2 and len(s) == 300
        s.close()
        while t.compact_step(100):
            pass
        assert t.stats().live_blocks == 0
        t._check()

    def test_counts_follow_deletions_and_returns(self):
        t = filled(5, 300)
        for i in range(0, 300, 2):
            t.delete(b"/k/%04d" % i, 1000 + i)
        for i in range(0, 300, 4):
            t.insert(b"/k/%04d" % i, 2000 + i)
        for first in range(0, 300, 20):
            assert t.count(b"/k/%04d" % first, b"/k/%04d" % (first + 20)) == 15
        assert t.count(b"/k/") == len(t) == 225
        t._check()

    def test_the_older_of_two_snapshots_keeps_what_it_shows(self):
        t = filled(5, 300)
        older = t.snapshot()
        before = [(e.key, e.mod_revision) for e in older.range_query(b"/")]
        newer = t.snapshot()
        for i in range(300):
            t.insert(b"/k/%04d" % i, 1000 + i)
        newer.close()
        for i in range(300):
            t.insert(b"/m/%04d" % i, 2000 + i)
        t._check()
        assert [(e.key, e.mod_revision) for e in older.range_query(b"/")] == before
        older.close()
        while t.compact_step(100):
            pass
        assert t.stats().dead_blocks == 0
        t._check()

    def test_writes_work_off_released_snapshots(self):
        t = filled(32, 30000)
        s = t.snapshot()
        for i in range(30000):
            t.insert(b"/k/%04d" % i, 100000 + i)
        assert t.stats().dead_blocks > 500
        s.close()
        for i in range(3000):
            t.insert(b"/k/%04d" % i, 200000 + i)
        assert t.stats().dead_blocks == 0
        t._check()

    def test_sub_orders_changes_within_a_revision(self):
        t = BTreeIndex()
        t.insert(b"k", 5)
        t.insert(b"k", 5, sub=1)
        with pytest.raises(ValueError, match="not greater"):
            t.insert(b"k", 5, sub=1)
        assert t.get(b"k", 5).version == 2 and t.stats().versions == 2
        t._check()
        t.compact(5)
        assert t.stats().versions == 1
        t._check()

    def test_a_snapshot_closed_under_a_reader_goes_when_the_read_ends(self):
        t = filled(8, 20000)
        for _ in range(10):
            snapshot = t.snapshot()
            outcome = []

            def read(snapshot=snapshot, outcome=outcome):
                try:
                    while True:
                        assert len(snapshot.history()[0]) == 20000
                except errors.ClosedError:
                    outcome.append("closed")

            thread = threading.Thread(target=read)
            thread.start()
            t.get(b"/k/0001")
            snapshot.close()
            thread.join()
            assert outcome == ["closed"] and t.stats().snapshots == 0
        t._check()

    def test_a_write_that_changes_nothing_copies_nothing(self):
        t = filled()
        with t.snapshot():
            assert not t.delete(b"absent", 5000)
            with pytest.raises(ValueError):
                t.insert(b"/k/0000", 1)
            assert t.stats().copied_nodes == 0

    def test_memory_is_given_back(self):
        memory = MemoryLimit(1 << 40)
        t = BTreeIndex(32, memory=memory)
        for i in range(60000):
            t.insert(b"/registry/pods/%08d" % (i * 7919 % 60000), i + 1)
        full = memory.held
        for i in range(60000):
            t.delete(b"/registry/pods/%08d" % i, 60001 + i)
        t.compact(1 << 40)
        assert t.stats().live_blocks == 0 and memory.held < full / 2
        t._check()
        del t
        gc.collect()
        assert memory.held == 0


class TestKeys:
    @pytest.mark.parametrize("order", ORDERS)
    def test_zero_bytes_prefixes_and_long_keys(self, order):
        rng = random.Random(order)
        t, model = BTreeIndex(order), ModelIndex()
        alphabet = [b"\0", b"a", b"\xff", b"aaaaaaaa", b"b" * 120, b"b" * 256, b"c" * 5000]
        for rev in range(1, 1500):
            key = b"".join(rng.choices(alphabet, k=rng.randint(1, 4)))
            t.insert(key, rev)
            model.insert(key, rev)
        t._check()
        want = model.range_at(b"\0", None)
        assert t.range_query(b"\0").keys() == [r[0] for r in want]
        for i in range(0, len(want) - 5, 7):
            a, b = want[i][0], want[i + 5][0]
            assert t.count(a, b) == 5
            assert t.range_query(a, b).keys() == [r[0] for r in want[i:i + 5]]
            assert t.get(a).mod_revision == want[i][1]
            assert t.get(a + b"\0") is None or model.at(a + b"\0")

    @pytest.mark.parametrize("order", (3, 32, 1024))
    def test_lease_and_version_beyond_32_bits_reach_the_ext_column(self, order):
        t = filled(order, 100)
        plain = t.stats().live_bytes
        t.insert(b"/k/0050", 1000, lease=2**62)
        assert t.get(b"/k/0050").lease == 2**62 and t.stats().live_bytes > plain
        t._check()
        t.insert(b"/k/0050", 1001)
        t.insert(b"/k/0051x", 1002, lease=7)
        t._check()
        assert [e.lease for e in t.history()[0] if e.lease] == [2**62, 7]
        assert t.get(b"/k/0050", 1000).lease == 2**62 and t.get(b"/k/0050").lease == 0

    def test_move_changes_the_position_of_one_version(self):
        t = BTreeIndex()
        for rev in (1, 2, 3):
            t.insert(b"k", rev, position=rev * 64)
        assert t.move(b"k", 2, 128, 999) and not t.move(b"k", 2, 128, 5)
        assert not t.move(b"k", 9, 0, 1) and not t.move(b"x", 1, 0, 1)
        assert [e.position for e in t.history()[0]] == [64, 999, 192]
        t.compact(3)
        assert not t.move(b"k", 1, 64, 5) and t.move(b"k", 3, 192, 7)


class TestBulkLoad:
    @pytest.mark.parametrize("order", ORDERS)
    def test_equals_insertion(self, order):
        keys = sorted({b"/r/%06d" % (i * 31 % 5000) for i in range(3000)} | {b"z" * 300 + b"%d" % i
                                                                          for i in range(50)})
        revs = array.array("q", [i % 900 + 1 for i in range(len(keys))])
        t = BTreeIndex(order)
        t.bulk_load(keys, revs, array.array("q", [1] * len(keys)))
        t._check()
        assert t.range_query(b"\0").keys() == keys and t.count(b"\0") == len(keys)
        assert t.mod_revisions(b"\0").tolist() == list(revs)
        assert t.range_query(b"\0").create_revisions.max() == 1
        for i, key in enumerate(keys[::3]):
            t.insert(key + b"+", 1000 + i)
            t.delete(key, 5000 + i)
        t._check()
        t.compact(9000)
        t._check()
        assert len(t) == len(keys)

    def test_refusals_take_nothing(self):
        t = BTreeIndex()
        one = array.array("q", [1])
        for keys, revs in (([b"b", b"a"], [1, 2]), ([b"a", b"a"], [1, 2]), ([b"a"], [0]),
                           ([b"a", b"b"], [1]), ([b""], [1]), ([b"x" * 65536], [1])):
            with pytest.raises(ValueError):
                t.bulk_load(keys, array.array("q", revs))
            assert len(t) == 0
        t.bulk_load([], array.array("q"))
        t.bulk_load([b"a"], one)
        with pytest.raises(ValueError, match="only an empty index"):
            t.bulk_load([b"b"], one)


def observed(t):
    return [(e.key, e.mod_revision, e.create_revision, e.version, e.lease) for e in t.history()[0]]


@pytest.mark.parametrize("order", (3, 4, 16))
@pytest.mark.parametrize("held", (False, True))
def test_every_refused_allocation_leaves_the_index_as_it_was(order, held):
    """Each write is tried with its 1st, 2nd, ... allocation refused until none is left to
    refuse."""
    rng = random.Random(order)
    t, rev, refused = BTreeIndex(order), 0, 0
    snapshots = []
    pool = [b"/k/%02d" % i for i in range(40)] + [b"L" * 256 + b"%03d" % i * 40 for i in range(20)]
    for step in range(220):
        rev += 1
        key = rng.choice(pool)
        kind = rng.choice("iiiidds" if step < 160 else "idddc")
        lease = rng.choice([0, 0, 0, 9])
        for n in range(1, 100):
            before = observed(t)
            t._refuse_after(n)
            try:
                if kind == "i":
                    t.insert(key, rev, lease=lease)
                elif kind == "d":
                    t.delete(key, rev)
                elif kind == "s" and held:
                    snapshots.append(t.snapshot())
                elif kind == "c" and rev - 5 > t.compacted_revision:
                    t.compact(rev - 5)
                while t.compact_step(50):
                    pass
            except errors.OutOfMemoryError:
                refused += 1
                t._refuse_after(0)
                t._check()
                if kind != "c" and t.compacted_revision == 0:
                    assert observed(t) == before
                if kind == "c" and rev - 5 <= t.compacted_revision:
                    kind = "resume"
                continue
            t._refuse_after(0)
            break
        t._check()
        if len(snapshots) > 3:
            snapshots.pop(rng.randrange(4)).close()
    assert refused > 100
    for s in snapshots:
        s.close()
    while t.compact_step(1000):
        pass
    t._check()
    assert t.stats().dead_blocks == 0


def test_a_memory_limit_stops_growth_and_reads_go_on():
    memory = MemoryLimit(2 << 20)
    t = BTreeIndex(32, memory=memory)
    n = 0
    with pytest.raises(MemoryError):
        while True:
            t.insert(b"/registry/pods/%08d" % n, n + 1)
            n += 1
    t._check()
    assert len(t) == n and t.get(b"/registry/pods/%08d" % (n - 1)).mod_revision == n
    memory.limit = 1 << 40
    t.insert(b"/registry/pods/%08d" % n, n + 1)


def test_snapshots_are_read_without_the_lock_while_a_writer_works():
    t = filled(16, 3000)
    failures = []

    def read(snapshot, want, n):
        try:
            for _ in range(n):
                got = snapshot.range_query(b"/")
                assert got.mod_revisions.tolist() == want and snapshot.count(b"/") == len(want)
                assert snapshot.history()[0].mod_revisions.tolist() == want
            snapshot.close()
        except BaseException as e:
            failures.append(e)

    rev = 10000
    for _ in range(6):
        threads = []
        for _ in range(3):
            snapshot = t.snapshot()
            want = [e.mod_revision for e in t.range_query(b"/")]
            threads.append(threading.Thread(target=read, args=(snapshot, want, 8)))
        for thread in threads:
            thread.start()
        for i in range(3000):
            rev += 1
            t.insert(b"/k/%04d" % (i * 13 % 4000), rev)
        t.compact(rev, wait=False)
        while t.compact_step(500):
            pass
        for thread in threads:
            thread.join()
    assert not failures
    while t.compact_step(1000):
        pass
    t._check()


def test_many_threads_share_one_index():
    t = BTreeIndex(8)
    failures = []

    def work(base):
        try:
            for i in range(2000):
                t.insert(b"%d/%05d" % (base, i), i + 1)
                assert t.get(b"%d/%05d" % (base, i)).mod_revision == i + 1
                if i % 200 == 0:
                    assert len(t.range_query(b"%d/" % base, b"%d0" % base)) == i + 1
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(t) == 8000
    t._check()


def test_entries_are_values():
    t = filled()
    e = t.get(b"/k/0000")
    assert isinstance(e, IndexEntry) and not gc.is_tracked(e)
    t.insert(b"/k/0000", 9000)
    assert e.mod_revision == 1
    with pytest.raises(AttributeError):
        e.key = b"x"
