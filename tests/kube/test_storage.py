# SPDX-License-Identifier: Apache-2.0
"""Put if absent, put and delete if unchanged; what is tried again and what is not.

A double of the store fails before or after the real one has done its work: after is an answer that
was lost. Faults of a disk that are real come last.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from kube_server import CONFIG_MAPS, Kube, config_map

import kvcore
from kvcore.errors import (
    ClosedError,
    InvalidArgument,
    NoSpaceError,
    OutcomeUnknownError,
    OutOfMemoryError,
    PoisonedError,
    StorageError,
)
from kvcore.kube.codec import CODECS
from kvcore.kube.storage import Changed, Exists, ObjectStore, Retry
from kvcore.testing.faults import RecordingIo

T = TypeVar("T")
KEY = b"/registry/configmaps/default/a"
Plan = list["tuple[str, Exception] | None"]

TRANSIENT: list[Exception] = [OutcomeUnknownError("x"), OutOfMemoryError("x"), StorageError("x")]
LASTING: list[Exception] = [PoisonedError("x"), ClosedError("x"), NoSpaceError("x"),
                            InvalidArgument("x"), ValueError("x")]


class Faulty:
    """A store whose n-th submit fails as the plan says: "before" it did anything, or "after"."""

    def __init__(self, store: kvcore.Store, plan: Plan) -> None:
        self.store, self.plan, self.calls = store, plan, 0

    def submit(self, op: Any) -> Any:
        self.calls += 1
        step = self.plan.pop(0) if self.plan else None
        return self._do(op, step)

    async def _do(self, op: Any, step: tuple[str, Exception] | None) -> Any:
        if step is not None and step[0] == "before":
            raise step[1]
        done = await self.store.submit(op)
        if step is not None:
            raise step[1]
        return done


def stored(uid: str, **data: str) -> bytes:
    return CODECS["json"].encode({"apiVersion": "v1", "kind": "ConfigMap",
                                  "metadata": {"name": "a", "uid": uid}, "data": data})


class Bench:
    """An ObjectStore over a faulty store, its pauses written down."""

    def __init__(self, store: kvcore.Store, plan: Plan) -> None:
        self.store, self.faulty = store, Faulty(store, plan)
        self.pauses: list[float] = []
        self.objects = ObjectStore(self.faulty, sleep=self._sleep,     # type: ignore[arg-type]
                                   rng=random.Random(1))

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture
def store() -> Iterator[kvcore.Store]:
    with kvcore.open() as made:
        yield made


def run(work: Callable[[Bench], Awaitable[T]], plan: Plan,
        store: kvcore.Store) -> tuple[T, Bench]:
    bench = Bench(store, plan)

    async def main() -> T:
        return await work(bench)
    return asyncio.run(main()), bench


# --- create ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("error", TRANSIENT, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("failures", [1, 2])
def test_a_create_is_tried_again(store: kvcore.Store, error: Exception, when: str,
                                 failures: int) -> None:
    """Whether or not the first attempt had done it: it is there once, at one revision."""
    plan: Plan = [(when, error)] * failures
    revision, bench = run(lambda b: b.objects.create(KEY, stored("u"), "u"), plan, store)
    found = bench.store.get(KEY)
    assert found is not None and found.value == stored("u")
    assert found.mod_revision == revision == bench.store.revision == 2 and found.version == 1
    assert bench.faulty.calls == failures + 1 and bench.objects.retried == failures
    assert len(bench.pauses) == failures


def test_three_attempts_and_no_more(store: kvcore.Store) -> None:
    plan: Plan = [("before", StorageError(str(n))) for n in range(5)]
    bench = Bench(store, plan)
    with pytest.raises(StorageError, match="2"):
        asyncio.run(bench.objects.create(KEY, stored("u"), "u"))
    assert bench.faulty.calls == 3 and bench.store.get(KEY) is None


@pytest.mark.parametrize("error", LASTING, ids=lambda e: type(e).__name__)
def test_what_lasts_is_not_tried_again(store: kvcore.Store, error: Exception) -> None:
    bench = Bench(store, [("before", error)])
    with pytest.raises(type(error)):
        asyncio.run(bench.objects.create(KEY, stored("u"), "u"))
    assert bench.faulty.calls == 1 and bench.pauses == []


def test_anothers_object_is_not_mine(store: kvcore.Store) -> None:
    """It was there before the first attempt, whose answer was lost."""
    store.put(KEY, stored("other"))
    for plan in ([], [("after", StorageError("x"))], [("before", StorageError("x"))]):
        bench = Bench(store, list(plan))
        with pytest.raises(Exists) as taken:
            asyncio.run(bench.objects.create(KEY, stored("u"), "u"))
        assert taken.value.there.value == stored("other")


def test_one_s_own_uid_without_a_lost_answer_is_a_clash(store: kvcore.Store) -> None:
    store.put(KEY, stored("u"))
    bench = Bench(store, [])
    with pytest.raises(Exists):
        asyncio.run(bench.objects.create(KEY, stored("u"), "u"))


# --- replace and remove ---------------------------------------------------------------------------

@pytest.mark.parametrize("when", ["before", "after"])
def test_a_replacement_is_tried_again(store: kvcore.Store, when: str) -> None:
    before = store.put(KEY, stored("u")).revision
    new = stored("u", x="1")
    revision, _ = run(lambda b: b.objects.replace(KEY, new, before),
                      [(when, StorageError("x"))], store)
    found = store.get(KEY)
    assert found is not None and (found.value, found.mod_revision) == (new, revision)
    assert found.version == 2


@pytest.mark.parametrize("plan", [[], [("after", StorageError("x"))]])
def test_somebody_was_faster(store: kvcore.Store, plan: Plan) -> None:
    before = store.put(KEY, stored("u")).revision
    store.put(KEY, stored("u", x="2"))
    bench = Bench(store, list(plan))
    for work in (bench.objects.replace(KEY, stored("u", x="1"), before),
                 bench.objects.remove(KEY, before)):
        with pytest.raises(Changed) as changed:
            asyncio.run(wrap(work))
        assert changed.value.now is not None and changed.value.now.value == stored("u", x="2")
    store.delete(KEY)
    with pytest.raises(Changed) as changed:
        asyncio.run(wrap(bench.objects.replace(KEY, stored("u", x="1"), before)))
    assert changed.value.now is None


async def wrap(work: Coroutine[Any, Any, T]) -> T:
    return await work


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_removal_is_tried_again(store: kvcore.Store, when: str) -> None:
    before = store.put(KEY, stored("u")).revision
    run(lambda b: b.objects.remove(KEY, before), [(when, StorageError("x"))], store)
    assert store.get(KEY) is None and store.revision == before + 1


# --- pauses ---------------------------------------------------------------------------------------

def test_pauses_double_and_differ() -> None:
    retry, rng = Retry(attempts=5, first=0.1, jitter=0.5), random.Random(1)
    for attempt in range(5):
        pauses = [retry.pause(attempt, rng) for _ in range(200)]
        least, most = 0.1 * 2 ** attempt, 0.15 * 2 ** attempt
        assert all(least <= p <= most for p in pauses) and len(set(pauses)) > 190
        assert min(pauses) < least * 1.05 and max(pauses) > most * 0.95


# --- a real disk ----------------------------------------------------------------------------------

def test_a_disk_that_is_full_for_a_moment(ram_dir: Path) -> None:
    """The write fails once; the create is tried again, or is refused whole: never half of it."""
    io = RecordingIo()
    store = kvcore.open(ram_dir / "db", io=io)
    with Kube(store) as kube:
        kube.make(CONFIG_MAPS, config_map("before"))
        io.fail("write", io.calls("write") + 1, errno.ENOSPC)
        reply = kube.call("POST", CONFIG_MAPS, config_map("a"))
        there = kube.call("GET", f"{CONFIG_MAPS}/a").code == 200
        assert (reply.code == 201) == there
        assert reply.code in (201, 500, 503)
        assert kube.call("GET", f"{CONFIG_MAPS}/before").code == 200


def test_a_store_that_is_closed(kube: Kube) -> None:
    kube.store.close()
    reply = kube.call("POST", CONFIG_MAPS, config_map("a"))
    assert (reply.code, reply.reason) == (503, "ServiceUnavailable")
