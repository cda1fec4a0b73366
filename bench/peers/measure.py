# SPDX-License-Identifier: Apache-2.0
"""The questions: each opens one store in this process, asks, and returns what it found.

    load ── all objects into an empty directory; the process is killed afterwards, not ended
    open ── what the kill left, until the first get has its value
    check · get · page · scan · memory ── the loaded store, read only
    put · batch · threads ── objects that are not there yet; each then read back

Only the store's own calls are timed: keys and values are made before.  A question that reads
returns a checksum of what it read, to be compared with that of every other store.

May not know: which store it asks; the floor, against which each is held, is known by name.
"""

from __future__ import annotations

import gc
import random
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.peers.data import Item, Sizes, checksum, read_keys, value
from bench.peers.store import Store
from bench.peers.store_floor import Floor

CHUNK = 50                   # gets per reading of the clock, which costs a twentieth of one
WITNESSES = 100              # gets, and
BLOCK = 20                   # puts between which the floor is measured
PAGES = 3                    # pages that are compared among stores


class Wrong(Exception):
    """A store did not return what was put into it."""


@dataclass(frozen=True)
class Job:
    """One question to one store."""

    store: str
    question: str
    directory: str
    keys: str
    sizes: Sizes
    seed: int

    @property
    def capacity(self) -> int:
        """Objects that the directory may come to hold."""
        return self.sizes.objects + self.sizes.extra

    def items(self, first: int, count: int) -> list[Item]:
        """Objects `first` and following."""
        keys = read_keys(Path(self.keys), first, count)
        return [(key, value(first + i)) for i, key in enumerate(keys)]

    def sample(self, count: int) -> list[bytes]:
        """Keys that were loaded; the same for every store, others in every repetition."""
        keys = read_keys(Path(self.keys), 0, self.sizes.objects)
        return random.Random(self.seed).choices(keys, k=count)


@dataclass
class Answer:
    """Figures by name, and the checksum of what was read (None: nothing was)."""

    figures: dict[str, float] = field(default_factory=dict)
    digest: int | None = None


Open = Callable[[], Store]


@contextmanager
def opened(make: Open) -> Iterator[Store]:
    """The store, with the collector out of the way; closed at the end."""
    store = make()
    gc.collect()
    gc.freeze()
    try:
        yield store
    finally:
        store.close()


def load(make: Open, job: Job) -> Answer:
    """Everything, in batches; the store is left open."""
    items = job.items(0, job.sizes.objects)
    size = job.sizes.load_batch
    batches = [items[at:at + size] for at in range(0, len(items), size)]
    store = make()
    gc.collect()
    gc.freeze()
    began = time.perf_counter()
    for batch in batches:
        store.load(batch)
    took = time.perf_counter() - began
    return Answer({"load": took / len(items) * 1e6})


def first_get(make: Open, job: Job) -> Answer:
    """From the open to the first value."""
    key = job.sample(1)[0]
    began = time.perf_counter()
    store = make()
    found = store.get(key)
    took = time.perf_counter() - began
    store.close()
    if found is None:
        raise Wrong(f"{key!r} is lost")
    return Answer({"open": took * 1e3}, checksum([(key, found)]))


def check(make: Open, job: Job) -> Answer:
    """Everything in order, for the checksum alone."""
    with opened(make) as store:
        return Answer(digest=checksum(store.scan()))


def get(make: Open, job: Job) -> Answer:
    """Random objects that are there; each value is made, looked at and dropped."""
    probes = job.sample(job.sizes.gets)
    with opened(make) as store:
        digest = checksum((key, store.get(key) or b"") for key in probes[:WITNESSES])
        took = []
        for at in range(0, len(probes) - CHUNK + 1, CHUNK):
            chunk = probes[at:at + CHUNK]
            began = time.perf_counter_ns()
            for key in chunk:
                store.get(key)
            took.append((time.perf_counter_ns() - began) / CHUNK)
    return Answer({"get": statistics.median(took) / 1e3}, digest)


def page(make: Open, job: Job) -> Answer:
    """Pages from random objects on."""
    starts = job.sample(job.sizes.pages)
    limit = job.sizes.page
    with opened(make) as store:
        digest = checksum(item for start in starts[:PAGES] for item in store.page(start, limit))
        took = []
        for start in starts:
            began = time.perf_counter_ns()
            rows = store.page(start, limit)
            took.append(time.perf_counter_ns() - began)
            del rows
    return Answer({"page": statistics.median(took) / 1e3}, digest)


def scan(make: Open, job: Job) -> Answer:
    """Everything in order, each object made and dropped."""
    with opened(make) as store:
        began = time.perf_counter()
        deque(store.scan(), maxlen=0)
        took = time.perf_counter() - began
    return Answer({"scan": took / job.sizes.objects * 1e6})


def memory(make: Open, job: Job) -> Answer:
    """What the process grew by when it had opened and read everything.

    The growth from before the open: neither the interpreter nor the libraries count.
    """
    before = memory_of_this_process()
    with opened(make) as store:
        deque(store.scan(), maxlen=0)
        after = memory_of_this_process()
    return Answer({name: (after[name] - before[name]) / 1e6 for name in after})


def memory_of_this_process(path: str = "/proc/self/smaps_rollup") -> dict[str, int]:
    """Bytes by figure; nothing where the system does not say."""
    if not Path(path).exists():
        return {}
    fields = dict(line.split(":", 1) for line in Path(path).read_text().splitlines()[1:])
    return {figure: int(fields[name].split()[0]) * 1024
            for figure, name in (("anonymous", "Anonymous"), ("resident", "Rss"))}


def put(make: Open, job: Job) -> Answer:
    """One caller, one object at a time; between them the floor, under the same conditions."""
    items = job.items(job.sizes.objects, job.sizes.lone)
    took, floor_took = list[int](), list[int]()
    with opened(make) as store, floor_beside(job) as floor:
        for at in range(0, len(items), BLOCK):
            took += timed_puts(store, items[at:at + BLOCK])
            floor_took += timed_puts(floor, items[at:at + BLOCK])
        require(store, items)
    took.sort()
    median = statistics.median(took)
    return Answer({"put": median / 1e3, "put_p99": took[int(len(took) * 0.99)] / 1e3,
                   "put_floor": median / statistics.median(floor_took)})


@contextmanager
def floor_beside(job: Job) -> Iterator[Store]:
    """The floor in the same file system, for a while."""
    with TemporaryDirectory(dir=job.directory) as path:
        floor = Floor(Path(path), 0)
        try:
            yield floor
        finally:
            floor.close()


def timed_puts(store: Store, items: Sequence[Item]) -> list[int]:
    """Nanoseconds of each put."""
    took = []
    for key, data in items:
        began = time.perf_counter_ns()
        store.put(key, data)
        took.append(time.perf_counter_ns() - began)
    return took


def batch(make: Open, job: Job) -> Answer:
    """One caller, batches that are there whole or not at all."""
    sizes = job.sizes
    items = job.items(sizes.objects + sizes.lone, sizes.batches * sizes.batch)
    took, floor_took = list[int](), list[int]()
    with opened(make) as store, floor_beside(job) as floor:
        for at in range(0, len(items), sizes.batch):
            some = items[at:at + sizes.batch]
            for one, into in ((store, took), (floor, floor_took)):
                began = time.perf_counter_ns()
                one.put_batch(some)
                into.append(time.perf_counter_ns() - began)
        require(store, items)
    median = statistics.median(took)
    return Answer({"batch": sizes.batch * 1e9 / median,
                   "batch_floor": median / statistics.median(floor_took)})


def threads(make: Open, job: Job) -> Answer:
    """Many blocking callers."""
    sizes = job.sizes
    first = sizes.objects + sizes.lone + sizes.batches * sizes.batch
    items = job.items(first, sizes.threads * sizes.per_thread)
    start = threading.Barrier(sizes.threads + 1)
    done: list[int] = []

    def caller(some: Sequence[Item]) -> None:
        start.wait()
        done.extend(timed_puts(store, some))

    with opened(make) as store:
        callers = [threading.Thread(target=caller, args=(items[n::sizes.threads],))
                   for n in range(sizes.threads)]
        for thread in callers:
            thread.start()
        start.wait()
        began = time.perf_counter()
        for thread in callers:
            thread.join()
        took = time.perf_counter() - began
        if len(done) != len(items):
            raise Wrong(f"{len(done)} of {len(items)} puts returned")
        require(store, items)
    return Answer({"threads": len(items) / took})


def require(store: Store, items: Sequence[Item]) -> None:
    """What was put is there."""
    for key, data in items if store.reads else ():
        if store.get(key) != data:
            raise Wrong(f"{key!r} has another value than was put")


# In the order they are asked; the second field: whether only stores that find keys are asked.
QUESTIONS: dict[str, tuple[Callable[[Open, Job], Answer], bool]] = {
    "load": (load, False),
    "open": (first_get, True),
    "check": (check, False),
    "get": (get, True),
    "page": (page, True),
    "scan": (scan, True),
    "memory": (memory, True),
    "put": (put, False),
    "batch": (batch, False),
    "threads": (threads, True),
}


def job_of(raw: dict[str, Any]) -> Job:
    """From what `dataclasses.asdict` made of it."""
    return Job(**{**raw, "sizes": Sizes(**raw["sizes"])})
