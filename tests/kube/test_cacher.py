# SPDX-License-Identifier: Apache-2.0
"""The cache's parts: keys in order, whom a change concerns, lines shared, the feed's life."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import threading
from typing import Any

import orjson
import pytest
from cache_world import PODS, StillLoop, kube, names, pod, run, short, stored, turns
from hypothesis import given
from hypothesis import strategies as st

import kvcore
from kvcore.kube import caching, entry
from kvcore.kube.caching import SortedKeys
from kvcore.kube.entry import Change, Damaged, Entry, readable
from kvcore.kube.feed import parse_cache_sizes
from kvcore.kube.status import ApiError
from kvcore.kube.watcher import Watcher

keys = st.binary(max_size=3)


@given(st.lists(st.tuples(st.booleans(), keys), max_size=200),
       st.lists(st.tuples(keys, keys, st.integers(0, 5)), max_size=20))
def test_sorted_keys(steps: list[tuple[bool, bytes]],
                     spans: list[tuple[bytes, bytes, int]]) -> None:
    """Against a set, in blocks of two so that they split and empty."""
    block, caching.BLOCK = caching.BLOCK, 2
    try:
        model, tested = set[bytes](), SortedKeys()
        for add, key in steps:
            if add and key not in model:
                model.add(key)
                tested.add(key)
            elif not add and key in model:
                model.remove(key)
                tested.remove(key)
            assert list(tested) == sorted(model) and len(tested) == len(model)
        for start, end, limit in spans:
            between = sorted(key for key in model if start <= key < end)
            assert tested.span(start, end, limit) == (between[:limit] if limit else between)
            assert tested.count(start, end) == len(between)
        assert list(SortedKeys(model)) == sorted(model)
    finally:
        caching.BLOCK = block


def test_entries_decode_when_asked() -> None:
    item = Entry(b"k", 7, stored("a", node="n", app="web"), "Pod")
    assert orjson.loads(item.body)["metadata"]["resourceVersion"] == "7"
    assert item.labels == {"app": "web"} and "n" in item.fields
    assert item.object is item.object and item.object["spec"]["nodeName"] == "n"
    with pytest.raises(AttributeError):
        item.object = {}                       # type: ignore[misc]


@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_damaged(data: bytes) -> None:
    for whole in (data, b'{"apiVersion":"' + data + b"}", b"k8s\x00" + data):
        try:
            body = readable(whole, 7)
        except Damaged:
            continue
        assert b'"resourceVersion":"7"' in body


def test_a_brace_in_a_text() -> None:
    """As many braces as are opened are closed, or it is parsed: texts may hold what they like."""
    obj = pod("a")
    obj["metadata"]["annotations"] = {"note": "{{ not closed"}
    body = readable(orjson.dumps(obj), 7)
    assert orjson.loads(body)["metadata"]["annotations"] == {"note": "{{ not closed"}
    with pytest.raises(Damaged):
        readable(orjson.dumps(obj)[:-1], 7)


def test_a_change_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand watchers of everything share one line."""
    made: list[str] = []
    line = entry.event_line
    monkeypatch.setattr(entry, "event_line", lambda type, body: made.append(type) or
                        line(type, body))
    change = Change(5, Entry(b"/registry/pods/a/p", 5, stored("p"), "Pod"), None)
    watchers = [Watcher(b"/registry/pods/") for _ in range(1000)]
    assert all(each.offer(change) for each in watchers)
    lines = [each.take()[0] for each in watchers]
    assert made == ["ADDED"] and len({id(text) for text in lines}) == 1


def test_a_kubelet_costs_only_its_own_pods() -> None:
    """A thousand watches by node: a pod's write is offered to one of them, a move to two."""
    async def main() -> None:
        async with kube() as k:
            cacher = k.api.feed.cacher(k.resource())
            kubelets = [await k.watch(f"resourceVersion=1&fieldSelector=spec.nodeName=n{i}")
                        for i in range(1000)]
            firsts = [asyncio.create_task(anext(each.chunks)) for each in kubelets]
            assert set(await asyncio.gather(*firsts)) == {b""}
            assert cacher.watchers == 1000

            def offered(write: Any) -> int:
                before = cacher.offered
                write()
                k.api.feed.catch_up()
                return cacher.offered - before

            assert offered(lambda: k.put("p", node="n7")) == 1
            assert offered(lambda: k.put("p", node="n7", phase="Running")) == 1
            assert offered(lambda: k.put("p", node="n8")) == 2
            assert offered(lambda: k.put("q")) == 0
            assert offered(lambda: k.delete("p")) == 1
            cacher.check(k.db)
            assert short(await kubelets[7].events()) == [
                ("ADDED", "p", 2), ("MODIFIED", "p", 3), ("DELETED", "p", 4)]
            assert short(await kubelets[8].events()) == [("ADDED", "p", 4), ("DELETED", "p", 6)]
            assert await kubelets[9].events() == []
            for each in kubelets:
                await each.close()
            assert cacher.watchers == 0 and not cacher._places and not cacher._triggered
    run(main)


def test_names_and_namespaces_are_found() -> None:
    async def main() -> None:
        async with kube() as k:
            cacher = k.api.feed.cacher(k.resource())
            for i in range(50):
                watcher = Watcher(k.key(f"p{i}", "a"), namespace="a", name=f"p{i}")
                cacher.watch(watcher, 1)
                cacher.watch(Watcher(f"/registry/pods/ns{i}/".encode(), namespace=f"ns{i}"), 1)
            k.put("p7", "a"), k.put("p7", "ns3")
            k.api.feed.catch_up()
            assert cacher.offered == 2
            cacher.check(k.db)
    run(main)


def test_a_cache_begins_where_the_feed_is() -> None:
    """What is written before the first list is in it, and its version says so."""
    async def main() -> None:
        async with kube() as k:
            k.put("a")
            cacher = k.api.feed.cacher(k.resource())
            assert cacher.revision == cacher.oldest == k.api.feed.revision == 2
            k.put("b")
            found = await k.json(PODS)
            assert (names(found), found["metadata"]["resourceVersion"]) == (["a", "b"], "3")
            cacher.check(k.db)
    run(main)


def test_a_transaction_is_seen_whole() -> None:
    async def main() -> None:
        async with kube() as k:
            stream = await k.watch("resourceVersion=1")
            await stream.events()
            k.db.txn(success=[kvcore.Put(k.key(f"p{i}"), stored(f"p{i}")) for i in range(3)])
            assert short(await stream.events()) == [("ADDED", f"p{i}", 2) for i in range(3)]
            await stream.close()
    run(main)


def test_a_watch_that_ends_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    """Reads are put off with 429 meanwhile, watchers closed; afterwards all is as the store is."""
    loop = StillLoop()

    async def main() -> None:
        async with kube() as k:
            k.put("a"), k.put("b")
            stream = await k.watch()
            await stream.events()
            waiting = asyncio.create_task(k.ask(f"{PODS}?resourceVersion=100"))
            await turns()
            k.api.feed._watch.cancel()
            k.delete("b"), k.put("c")
            answer = await waiting
            assert (answer.code, answer.headers["Retry-After"]) == (429, "1")
            assert orjson.loads(answer.body)["message"] == "storage is (re)initializing"
            assert (await k.ask(PODS)).code == 429
            assert (await k.ask(f"{PODS}?watch=1")).code == 429
            assert await stream.events() == [] and stream.ended
            loop.advance(1)
            await turns()
            assert names(await k.json(PODS)) == ["a", "c"] and k.api.feed.restarts == 1
            k.api.feed.cacher(k.resource()).check(k.db)
            back = await k.watch("resourceVersion=3")
            assert short(await back.events()) == [("DELETED", "b", 4), ("ADDED", "c", 5)]
            await back.close()
    run(main, loop)


def test_an_event_that_cannot_be_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong inside: begun anew, not left behind silently."""
    loop = StillLoop()

    async def main() -> None:
        async with kube() as k:
            cacher = k.api.feed.cacher(k.resource())
            monkeypatch.setattr(cacher, "apply", lambda *event: 1 / 0)
            k.put("a"), k.put("b")
            assert (await k.ask(PODS)).code == 429
            monkeypatch.undo()
            loop.advance(1)
            await turns()
            assert names(await k.json(PODS)) == ["a", "b"]
            cacher.check(k.db)
    run(main, loop)


def test_beginning_anew_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = StillLoop()

    async def main() -> None:
        async with kube() as k:
            k.put("a")
            await k.json(PODS)
            fill, tries = k.api.feed._fill, list[int]()

            def failing(*args: Any) -> None:
                tries.append(1)
                if len(tries) < 4:
                    raise OSError("input/output error")
                fill(*args)

            monkeypatch.setattr(k.api.feed, "_fill", failing)
            k.api.feed._watch.cancel()
            for _ in range(6):
                await turns()
                loop.advance(1)
            await turns()
            assert len(tries) == 4 and names(await k.json(PODS)) == ["a"]
    run(main, loop)


def test_closed_while_it_is_to_begin_anew() -> None:
    """A store that is closed does not come back: 503, not 429 for ever."""
    loop = StillLoop()

    async def main() -> None:
        async with kube() as k:
            k.api.feed._watch.cancel()
            assert (await k.ask(PODS)).code == 429
            k.db.close()
            loop.advance(1)
            await turns()
            assert (await k.ask(f"{PODS}?resourceVersion=0")).code == 503
    run(main, loop)


def test_who_gave_up_is_forgotten() -> None:
    """Versions that never come, asked for again and again, are nothing that is kept."""
    loop = StillLoop()

    async def main() -> None:
        async with kube() as k:
            for _ in range(3):
                asked = [asyncio.create_task(k.ask(f"{PODS}?resourceVersion={10 ** 9 + n}"))
                         for n in range(100)]
                await turns()
                assert len(k.api.feed._waiting) == 100
                for task in asked[:50]:
                    task.cancel()
                loop.advance(4)
                await asyncio.wait(asked)
                assert {task.result().code for task in asked[50:]} == {504}
                assert k.api.feed._waiting == []
            came = asyncio.create_task(k.ask(f"{PODS}?resourceVersion=2"))
            await turns()
            k.put("a")
            assert (await came).code == 200
    run(main, loop)


def test_another_thread_is_refused() -> None:
    async def main() -> None:
        async with kube() as k:
            said: list[BaseException] = []

            def elsewhere() -> None:
                try:
                    k.api.feed.cacher(k.resource())
                except RuntimeError as error:
                    said.append(error)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert "another thread" in str(said[0])
    run(main)


def test_stopped() -> None:
    async def main() -> None:
        async with kube() as k:
            stream = await k.watch()
            await stream.events()
            waiting = asyncio.create_task(k.ask(f"{PODS}?resourceVersion=100"))
            await turns()
            await k.api.stop()
            await k.api.stop()
            assert (await waiting).code == 503 and (await k.ask(PODS)).code == 503
            await stream.events()
            assert stream.ended
            with pytest.raises(ApiError):
                await k.api.feed.reach(100)
    run(main)


@pytest.mark.parametrize(("text", "sizes"), [
    ("", {}), ("pods#200000,deployments.apps#50000", {"pods": 200000, "deployments.apps": 50000}),
    ("pods#0", {"pods": 0}),
])
def test_cache_sizes(text: str, sizes: dict[str, int]) -> None:
    assert parse_cache_sizes(text) == sizes


@pytest.mark.parametrize(("text", "words"), [
    ("pods", "invalid value of watch cache size: pods"),
    ("pods#1#2", "invalid value of watch cache size: pods#1#2"),
    ("pods#x", "invalid size of watch cache size: pods#x"),
    ("pods#", "invalid size of watch cache size: pods#"),
    ("nodes#1,pods#-1", "watch cache size cannot be negative: pods#-1"),
])
def test_cache_sizes_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_cache_sizes(text)
    assert str(refused.value) == words


@pytest.mark.parametrize("name", ["caching", "codec", "entry", "feed", "metrics",
                                  "list_options", "negotiation", "selectable", "selectors",
                                  "watcher"])
def test_examples(name: str) -> None:
    """Those of the docstrings."""
    done = doctest.testmod(importlib.import_module(f"kvcore.kube.{name}"))
    assert (done.failed, done.attempted > 0) == (0, True)


@pytest.mark.parametrize("policy", ["incremental", "full"])
def test_sizes_are_used(policy: Any) -> None:
    """By resource, the rest by default; 0 still answers lists and watches."""
    async def main() -> None:
        async with kube(capacities={"pods": 0, "deployments": 300}, capacity=200,
                        policy=policy) as k:
            of = k.api.feed.cacher
            assert of(k.resource("nodes")).recent.stats().capacity == 200
            assert of(k.resource("deployments", "apps")).recent.stats().capacity == 300
            k.put("a")
            page = await k.json(f"{PODS}?limit=1")
            assert names(page) == ["a"] and page["metadata"]["resourceVersion"] == "2"
            for i in range(300):
                k.put("b", i=str(i))
            stream = await k.watch("resourceVersion=1")
            assert len(await stream.events()) == 301
            await stream.close()
    run(main)
