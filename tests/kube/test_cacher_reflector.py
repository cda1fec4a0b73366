# SPDX-License-Identifier: Apache-2.0
"""client-go's reflector against the server: its copy becomes the server's under random writes,
closed watches, compactions, lost feeds and forged versions, with WatchList and with LIST."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable

import pytest
from cache_world import PODS, Kube, StillLoop, kube, run, turns
from reflector import Reflector, key

QUERIES = [("", PODS), ("fieldSelector=spec.nodeName=n1", PODS),
           ("labelSelector=app+in+(web)", "/api/v1/namespaces/a/pods")]


def write(k: Kube, rng: random.Random) -> None:
    name, namespace = f"p{rng.randrange(6)}", rng.choice("ab")
    if rng.random() < 0.3:
        k.delete(name, namespace)
    else:
        k.put(name, namespace, node=rng.choice(["", "n1", "n2"]), app=rng.choice(["web", "db"]))


async def disturb(k: Kube, each: Reflector, rng: random.Random, loop: StillLoop) -> None:
    match rng.randrange(8):
        case 0:
            await each.close()                # the connection is lost
        case 1:
            k.db.compact(k.db.revision)
        case 2:
            k.api.feed._watch.cancel()
            await turns()
            loop.advance(10)
            await turns()
        case 3:
            loop.advance(60)
        case 4:
            loop.advance(400)                 # the watch's time is over
        case 5:
            await each.close()
            each.relist, each.version = True, str(k.db.revision + 1000)   # of another cluster


async def patiently(step: Awaitable[None], loop: StillLoop) -> None:
    """Waits for what may take seconds."""
    task = asyncio.ensure_future(step)
    while not task.done():
        await turns()
        loop.advance(1)
    await task


async def converge(k: Kube, each: Reflector, loop: StillLoop) -> None:
    """The server's objects, after at most a few steps without new writes."""
    for _ in range(8):
        await patiently(each.step(), loop)
        loop.advance(5)
        await turns()
    found = await k.json(f"{each.path}?{each.query}")
    assert each.store == {key(item): item for item in found["items"]}


@pytest.mark.parametrize("watch_list", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_the_copy_becomes_the_servers(watch_list: bool, seed: int) -> None:
    loop = StillLoop()

    async def main() -> None:
        rng = random.Random(seed)
        async with kube(capacity=100) as k:
            query, path = QUERIES[seed % len(QUERIES)]
            each = Reflector(k, path, query, watch_list=watch_list)
            for _ in range(40):
                for _ in range(rng.randrange(4)):
                    write(k, rng)
                await patiently(each.step(), loop)
                if rng.random() < 0.3:
                    await disturb(k, each, rng, loop)
                if rng.random() < 0.3:
                    await converge(k, each, loop)
            await converge(k, each, loop)
            assert each.lists >= 1
            await each.close()
    run(main, loop)


def test_too_large_a_version() -> None:
    """Of a cluster that was there before: told after three seconds, and listed anew."""
    loop = StillLoop()

    async def main() -> None:
        async with kube() as k:
            k.put("a")
            each = Reflector(k, PODS, watch_list=False)
            each.version = "1000"
            await patiently(each.step(), loop)
            assert each.unavailable and each.store == {}
            await each.step()
            assert set(each.store) == {("default", "a")} and each.version == "2"
            await each.close()
    run(main, loop)


def test_a_410_is_answered_by_a_list() -> None:
    async def main() -> None:
        async with kube() as k:
            k.put("a")
            each = Reflector(k, PODS)
            await each.step()
            await each.close()
            for _ in range(3):
                k.put("b"), k.delete("a"), k.put("a")
            k.api.feed.catch_up()              # or they were live, and nothing is too old
            k.db.compact(k.db.revision)
            for _ in range(4):
                await each.step()
            assert each.lists == 2 and set(each.store) == {("default", "a"), ("default", "b")}
            await each.close()
    run(main)
