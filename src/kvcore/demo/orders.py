# SPDX-License-Identifier: Apache-2.0
"""The index alone at four orders over the same keys: build, depth, fill, bytes, five questions.

    keys ─► BTreeIndex(16) (32) (48) (64)   built one after the other
            round: each question to each of them, then the next round, so that a noisy moment of
            the machine meets all orders

The article speaks of one million keys, so this phase has its own number of them, whatever the size
of the store was.  What comes back is compared with a sorted list of the keys.

May not know: the store.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import islice

import kvcore
from kvcore.demo.measure import (
    PAGE,
    QUESTIONS,
    Claim,
    Order,
    Report,
    Samples,
    Ui,
    figure,
    number,
)
from kvcore.demo.workload import Workload

ORDERS = (16, 32, 48, 64)
ARTICLE_MS = {32: 68, 48: 47}
ARTICLE_KEYS = 1_000_000
CHUNK = 10_000
ROUNDS = 30                  # a range over everything copies 100 MB: 50 ms each
REVISIONS = 4                # these and the following are per round
PAGES = 100
COUNTS = 100
GETS = 500


class _Index:
    """One index, what it was asked, and what it got wrong."""

    def __init__(self, order: int) -> None:
        self.tree = kvcore.BTreeIndex(order=order)
        self.samples = {question: Samples() for question in QUESTIONS}
        self.build_seconds = 0.0
        self.wrong = 0

    def build(self, keys: list[bytes], ui: Ui) -> None:
        """Inserts the keys as they come, one by one; key i at revision i + 2."""
        insert, samples = self.tree.insert, self.samples["insert"]
        with ui.phase(f"insert at order {self.tree.order}", len(keys)) as step:
            for low in range(0, len(keys), CHUNK):
                start = time.perf_counter_ns()
                for revision, key in enumerate(islice(keys, low, low + CHUNK), low + 2):
                    insert(key, revision, revision)
                took = time.perf_counter_ns() - start
                inserted = min(CHUNK, len(keys) - low)
                samples.add(took / inserted)
                self.build_seconds += took / 1e9
                step.advance(inserted)

    def everything(self, keys: int) -> None:
        """All live keys with their metadata, then only their revisions."""
        found = self.samples["everything"].call(lambda: self.tree.range_query(b"\0", b"\xff"))
        self.wrong += len(found) != keys or int(found.mod_revisions.max()) != keys + 1
        del found                            # 100 MB: one at a time
        for _ in range(REVISIONS):
            column = self.samples["revisions"].call(
                lambda: self.tree.mod_revisions(b"\0", b"\xff"))
            self.wrong += len(column) != keys or int(column.max()) != keys + 1

    def page(self, ordered: list[bytes], at: int) -> None:
        """A page from key number `at` of the sorted ones on."""
        start, end = ordered[at], b"\xff"
        began = time.perf_counter_ns()
        page = self.tree.range_at(start, end, 0, PAGE)
        self.samples["page"].add(time.perf_counter_ns() - began)
        self.wrong += page.keys() != ordered[at:at + PAGE]

    def count(self, ordered: list[bytes], one: int, other: int) -> None:
        """How many keys lie between two of the sorted ones."""
        low, high = min(one, other), max(one, other)
        start, end = ordered[low], ordered[high]
        began = time.perf_counter_ns()
        count = self.tree.count(start, end)
        self.samples["count"].add(time.perf_counter_ns() - began)
        self.wrong += count != high - low

    def get(self, keys: list[bytes], at: int) -> None:
        """One key."""
        key, get = keys[at], self.tree.get
        began = time.perf_counter_ns()
        entry = get(key)
        self.samples["get"].add(time.perf_counter_ns() - began)
        self.wrong += entry is None or entry.mod_revision != at + 2

    def result(self, keys: int) -> Order:
        """What was found."""
        stats = self.tree.stats()
        figures = {question: figure(f"{words}, order {stats.order}", unit, self.samples[question],
                                    _claim(stats.order, keys)
                                    if question in {"everything", "revisions"} else None)
                   for question, (words, unit) in QUESTIONS.items()}
        return Order(stats.order, keys, stats.depth, stats.fill, stats.bytes_per_key,
                     self.build_seconds, figures)


def orders(workload: Workload, count: int, seed: int, report: Report, ui: Ui) -> None:
    """Loads `count` keys into an index of each order and asks each of them the same."""
    keys = []
    with ui.phase(f"{count:,} keys for the index alone", count) as step:
        for index in range(count):
            keys.append(workload.key(index))
            if index % CHUNK == CHUNK - 1:
                step.advance(CHUNK)
    ordered = sorted(keys)
    indexes = [_Index(order) for order in ORDERS]
    for one in indexes:
        one.build(keys, ui)
    with ui.phase(f"range over all at orders {', '.join(map(str, ORDERS))}", ROUNDS) as step:
        for _ in range(ROUNDS):
            for one in indexes:
                one.everything(count)
            step.advance(1)
    chosen = random.Random(seed)
    with ui.phase("page, count and get at each order", ROUNDS) as step:
        for _ in range(ROUNDS):
            for one in indexes:
                _small_questions(one, keys, ordered, chosen.randrange)
            step.advance(1)
    with ui.phase("check each index", len(indexes)) as step:
        for one in indexes:
            one.tree._check()
            step.advance(1)
    for one in indexes:
        report.orders.append(one.result(count))
        report.equal(f"answers at order {one.tree.order} that were wrong", one.wrong, 0)
    _against_the_article(report, count)


def _small_questions(index: _Index, keys: list[bytes], ordered: list[bytes],
                     choose: Callable[[int], int]) -> None:
    for _ in range(PAGES):
        index.page(ordered, choose(len(ordered)))
    for _ in range(COUNTS):
        index.count(ordered, choose(len(ordered)), choose(len(ordered)))
    for _ in range(GETS):
        index.get(keys, choose(len(keys)))


def _claim(order: int, keys: int) -> Claim | None:
    if order not in ARTICLE_MS:
        return None
    return Claim(f"{ARTICLE_MS[order]} ms", ARTICLE_MS[order], unlike=_unlike(keys))


def _unlike(keys: int) -> str:
    return "" if keys == ARTICLE_KEYS else f"{keys:,} keys, not {ARTICLE_KEYS:,}"


def _against_the_article(report: Report, keys: int) -> None:
    """The lines of the closing table: the article's two orders, and its depth."""
    for found in report.orders:
        if found.order == 32:
            report.value(f"depth, {number(keys)} keys, order 32", "levels", found.depth,
                         Claim("~4", 4, unlike=_unlike(keys)))
        if found.order in ARTICLE_MS:
            report.figures += [found.figures["everything"], found.figures["revisions"]]

