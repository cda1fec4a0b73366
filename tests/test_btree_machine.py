# SPDX-License-Identifier: Apache-2.0
"""BTreeIndex against the naive model, step by step, with every invariant walked after each step."""

import machines
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from model_index import ModelIndex
from strategies_index import keys

from kvcore import errors
from kvcore._btree import BTreeIndex


def rows(result):
    return [(e.key, e.mod_revision, e.create_revision, e.version, e.lease, e.position, e.length)
            for e in result]


def row(entry):
    return rows([entry])[0] if entry is not None else None


class IndexMachine(RuleBasedStateMachine):
    """One rule per verb; `snapshots` holds (snapshot, deep copy of the model)."""

    order = 3
    snapshots = Bundle("snapshots")

    def __init__(self):
        super().__init__()
        self.index = BTreeIndex(self.order)
        self.model = ModelIndex()
        self.rev = 0
        self.open = 0

    @rule(key=keys, step=st.integers(1, 3), back=st.integers(0, 2),
          extra=st.sampled_from([(0, 0, 0), (0, 64, 9), (1 << 40, 128, 7)]))
    def insert(self, key, step, back, extra):
        self.rev += step
        created = max(1, self.rev - back)
        self.index.insert(key, self.rev, created, lease=extra[0], position=extra[1],
                          length=extra[2])
        self.model.insert(key, self.rev, created, extra)

    @rule(batch=st.lists(keys, min_size=5, max_size=25))
    def insert_many(self, batch):
        for key in batch:
            self.rev += 1
            self.index.insert(key, self.rev)
            self.model.insert(key, self.rev)

    @rule(base=st.integers(0, 900), n=st.integers(1, 40))
    def insert_sorted(self, base, n):
        for i in range(base, base + n):
            self.rev += 1
            self.index.insert(b"/seq/%04d" % i, self.rev)
            self.model.insert(b"/seq/%04d" % i, self.rev)

    @rule(key=keys, step=st.integers(1, 3))
    def delete(self, key, step):
        self.rev += step
        assert self.index.delete(key, self.rev) == self.model.delete(key, self.rev)

    @rule(data=st.data(), share=st.integers(1, 4))
    def delete_many(self, data, share):
        for i, key in enumerate(sorted(self.model.history)):
            if i % share == 0:
                self.rev += 1
                assert self.index.delete(key, self.rev) == self.model.delete(key, self.rev)

    @rule(key=keys)
    def rewrite_refused(self, key):
        versions = self.model.history.get(key)
        if versions:
            with pytest.raises(ValueError, match="not greater"):
                self.index.insert(key, versions[-1][0])

    @rule(a=keys, b=keys, back=st.integers(0, 20), limit=st.integers(0, 5))
    def read(self, a, b, back, limit):
        start, end = min(a, b), max(a, b)
        self.compare_reads(self.index, self.model, self.rev, start, end, back, limit)

    @rule(target=snapshots)
    def snapshot(self):
        self.open += 1
        return self.index.snapshot(), self.model.copy(), self.rev

    @rule(snap=snapshots, a=keys, b=keys, back=st.integers(0, 20), limit=st.integers(0, 5))
    def read_snapshot(self, snap, a, b, back, limit):
        snapshot, model, rev = snap
        self.compare_reads(snapshot, model, rev, min(a, b), max(a, b), back, limit)
        assert len(snapshot) == len(model.range_at(b"\0", None))

    @rule(snap=consumes(snapshots))
    def release(self, snap):
        snapshot, model, rev = snap
        assert rows(snapshot.range_query(b"\0")) == model.range_at(b"\0", None)
        snapshot.close()
        self.open -= 1
        with pytest.raises(errors.ClosedError):
            snapshot.get(b"a")

    @rule(back=st.integers(0, 30), budgets=st.lists(st.integers(1, 40), max_size=4))
    def compact(self, back, budgets):
        rev = self.rev - back
        if rev <= self.model.compacted:
            with pytest.raises(errors.CompactedError):
                self.index.compact(rev)
            return
        self.index.compact(rev, wait=False)
        self.model.compact(rev)
        for budget in budgets:
            self.index.compact_step(budget)
            self.index._check()

    @rule(budget=st.sampled_from([1, 5, 50, 100000]))
    def step(self, budget):
        self.index.compact_step(budget)

    @rule(ahead=st.integers(0, 10))
    def dump(self, ahead):
        floor = self.model.compacted + ahead
        got, after = {}, b""
        more = True
        while more:
            part, more = self.index.history(after, floor, 7)
            for e in part:
                got.setdefault(e.key, []).append((e.mod_revision, e.create_revision, e.version))
            after = part[-1].key if len(part) else after
        assert got == visible(self.model.surviving(floor), floor)

    def compare_reads(self, index, model, rev, start, end, back, limit):
        at = max(rev - back, model.compacted, 1)
        assert row(index.get(start)) == model.at(start)
        assert row(index.get(start, at)) == model.at(start, at)
        want = model.range_at(start, end)
        assert rows(index.range_query(start, end)) == want
        assert index.count(start, end) == len(want)
        assert index.mod_revisions(start, end).tolist() == [r[1] for r in want]
        assert index.range_query(start, None, at).keys() == [
            r[0] for r in model.range_at(start, None) if r[1] >= at]
        old = model.range_at(start, end, at)
        assert rows(index.range_at(start, end, at, limit)) == (old[:limit] if limit else old)
        some = [start, end, start + b"\0", *(r[0] for r in want[:20])]
        assert [row(e) for e in index.get_many(some)] == [model.at(k) for k in some]
        self.compare_scan(index, model, start, end, at, limit)
        if model.compacted > 1:
            with pytest.raises(errors.CompactedError):
                index.range_at(start, end, model.compacted - 1)

    def compare_scan(self, index, model, start, end, at, limit):
        """Filters, limit and the count of keys seen, at a revision and now."""
        for rev in (0, at):
            rows_there = model.range_at(start, end, rev)
            bounds = (at // 3, at + 1, at // 4, at)
            passing = [i for i, r in enumerate(rows_there)
                       if r[1] >= bounds[0] and r[1] <= bounds[1]
                       and r[2] >= bounds[2] and r[2] <= bounds[3]]
            stopped = limit and len(passing) >= limit
            want = [rows_there[i] for i in (passing[:limit] if limit else passing)]
            got, seen = index._scan(start, end, rev, bounds, limit)
            assert rows(got) == want
            assert seen == (passing[limit - 1] + 1 if stopped else len(rows_there))
            got, seen = index._scan(start, end, rev, bounds, limit, walk_all=True)
            assert rows(got) == want and seen == len(rows_there)
            got, seen = index._scan(start, end, rev, (0, 0, 0, 0), 0, count_only=True)
            assert len(got) == 0 and seen == len(rows_there)

    @invariant()
    def sound(self):
        machines.STEPS["index"] += 1
        self.index._check()
        stats = self.index.stats()
        live = [k for k, v in self.model.history.items() if v[-1][2]]
        assert stats.live == len(self.index) == len(live) == self.index.count(b"\0")
        assert stats.snapshots == self.open
        assert stats.keys >= len(self.model.history)

    def teardown(self):
        """Everything released and swept, the index holds what the model holds, and not a block
        more."""
        index = self.index
        while self.open:
            for snapshot in list(self.bundles["snapshots"]):
                snapshot = self.names_to_values[snapshot.name][0]
                snapshot.close()
            self.open = 0
        while index.compact_step(1000):
            pass
        index._check()
        stats = index.stats()
        assert stats.dead_blocks == 0 and stats.snapshots == 0
        assert stats.keys == len(self.model.history)
        got, _ = index.history()
        assert len(got) == sum(map(len, visible(self.model.history, self.model.compacted).values()))
        if self.rev:
            for key in list(self.model.history):
                self.rev += 1
                index.delete(key, self.rev)
            index.compact(self.rev + 1)
            index._check()
            assert index.stats().live_blocks == 0 and index.stats().versions == 0


def visible(history, floor):  # noqa: ARG001
    return {k: v for k, v in history.items() if v}


@pytest.mark.soak(weight=0.3)
@pytest.mark.parametrize("order", [3, 4, 5, 16, 32, 64, 1024])
def test_index(order, counts, soaking):
    case = type(f"IndexMachine{order}", (IndexMachine,), {"order": order})
    machines.run(case, "index", 30, 60, counts, soaking)
