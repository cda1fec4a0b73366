# SPDX-License-Identifier: Apache-2.0
"""Watches: where they begin, what they tell, bookmarks and ends, who is too slow."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from cache_world import PODS, Kube, StillLoop, kube, pod, run, short, stored, turns

from kvcore.kube import watcher as watcher_module
from kvcore.kube import watching

BOOKMARKS = "allowWatchBookmarks=true"


def test_from_nowhere() -> None:
    """All objects, the annotated bookmark if it may be, then changes."""
    async def main() -> None:
        async with kube() as k:
            k.put("b"), k.put("a")
            plain, marked = await k.watch(), await k.watch(BOOKMARKS)
            assert short(await plain.events()) == [("ADDED", "a", 3), ("ADDED", "b", 2)]
            events = await marked.events()
            assert short(events)[2] == ("BOOKMARK", "", 3)
            assert events[2]["object"] == {
                "kind": "Pod", "apiVersion": "v1", "metadata": {
                    "resourceVersion": "3", "creationTimestamp": None,
                    "annotations": {"k8s.io/initial-events-end": "true"}}}
            k.put("a"), k.delete("b"), k.put("c")
            for stream in (plain, marked):
                assert short(await stream.events()) == [
                    ("MODIFIED", "a", 4), ("DELETED", "b", 5), ("ADDED", "c", 6)]
                await stream.close()
    run(main)


def test_deleted_carries_the_last_state() -> None:
    async def main() -> None:
        async with kube() as k:
            k.put("a", node="n1", phase="Running")
            stream = await k.watch("resourceVersion=2")
            k.delete("a")
            [event] = await stream.events()
            metadata = {"resourceVersion": "3", **pod("a")["metadata"]}
            assert event == {"type": "DELETED", "object": {
                **pod("a", node="n1", phase="Running"), "metadata": metadata}}
            await stream.close()
    run(main)


@pytest.mark.parametrize(("query", "told"), [
    ("resourceVersion=0", [("ADDED", "a", 2)]),
    ("resourceVersion=0&sendInitialEvents=false&resourceVersionMatch=NotOlderThan",
     [("ADDED", "b", 3)]),
    ("resourceVersion=&sendInitialEvents=false&resourceVersionMatch=NotOlderThan", []),
    ("resourceVersion=1", [("ADDED", "a", 2), ("ADDED", "b", 3)]),
    ("resourceVersion=2", [("ADDED", "b", 3)]),
    ("resourceVersion=3", []),
    ("resourceVersion=5", []),
    ("resourceVersion=2&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
     [("ADDED", "a", 2)]),
])
def test_beginnings(query: str, told: list[tuple[str, str, int]]) -> None:
    """The cache has come to version 2, the store to 3; then 4 and 5 are written, and 6."""
    async def main() -> None:
        async with kube() as k:
            k.put("a")
            await k.json(PODS)
            k.put("b")
            stream = await k.watch(query)
            assert short(await stream.events()) in (told, told + [("ADDED", "b", 3)])
            k.api.feed.catch_up()
            seen = short(await stream.events())
            k.put("a"), k.put("c"), k.put("d")
            after = [("MODIFIED", "a", 4), ("ADDED", "c", 5), ("ADDED", "d", 6)]
            if query == "resourceVersion=5":
                after = after[2:]
            assert (seen + short(await stream.events()))[-len(after):] == after
            await stream.close()
    run(main)


def test_selector_transitions() -> None:
    """What comes to match is ADDED, what ceases to match is DELETED with its last matching state
    at the version of the change; live and out of the past alike."""
    async def main() -> None:
        async with kube() as k:
            k.put("a")
            query = "labelSelector=app=web&fieldSelector=spec.nodeName=n1"
            live = await k.watch(f"{query}&resourceVersion=2")
            assert await live.events() == []
            k.put("a", node="n1", app="web"), k.put("a", node="n1", app="web", tier="x")
            k.put("a", node="n2", app="web"), k.put("a", node="n1", app="web"), k.delete("a")
            past = await k.watch(f"{query}&resourceVersion=2")
            for stream in (live, past):
                events = await stream.events()
                assert short(events) == [
                    ("ADDED", "a", 3), ("MODIFIED", "a", 4), ("DELETED", "a", 5),
                    ("ADDED", "a", 6), ("DELETED", "a", 7)]
                assert events[2]["object"]["spec"]["nodeName"] == "n1"
                assert events[2]["object"]["metadata"]["labels"]["tier"] == "x"
                await stream.close()
    run(main)


def test_namespaces_and_names() -> None:
    """Also where a watcher stands under a field's value, only its namespace's objects come."""
    async def main() -> None:
        async with kube() as k:
            everything = await k.watch("resourceVersion=1")
            of_a = await k.watch("resourceVersion=1", "/api/v1/namespaces/a/pods")
            on_node = await k.watch("resourceVersion=1&fieldSelector=spec.nodeName=n",
                                    "/api/v1/namespaces/a/pods")
            named = await k.watch("resourceVersion=1&fieldSelector=metadata.name=p",
                                  "/api/v1/namespaces/a/pods")
            by_path = await k.watch("resourceVersion=1", "/api/v1/watch/namespaces/a/pods/p")
            streams = (everything, of_a, on_node, named, by_path)
            for stream in streams:
                await stream.events()
            k.put("p", "a", node="n"), k.put("p", "b", node="n"), k.put("p1", "a")
            k.put("p", "aa", node="n"), k.delete("p", "a")
            got = [[revision for _, _, revision in short(await s.events())] for s in streams]
            assert got == [[2, 3, 4, 5, 6], [2, 4, 6], [2, 6], [2, 6], [2, 6]]
            for stream in streams:
                await stream.close()
    run(main)


def test_others_have_turns_while_a_selector_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOKED_AT", 10)

    async def main() -> None:
        async with kube() as k:
            for n in range(25):
                k.put(f"p{n:02}", a="x" if n in (3, 24) else "y")
            stream = await k.watch("labelSelector=a%3Dx")
            first = asyncio.ensure_future(anext(stream.chunks))
            await asyncio.sleep(0)
            assert not first.done()
            k.put("p24", a="y"), k.delete("p03")
            lines = [orjson.loads(line) for line in (await first).splitlines()]
            lines += await stream.events()
            assert short(lines) == [("ADDED", "p03", 5), ("ADDED", "p24", 26),
                                    ("DELETED", "p24", 27), ("DELETED", "p03", 28)]
            await stream.close()
    run(main)


@pytest.mark.parametrize("known", [False, True])
def test_the_past_of_one_name(known: bool) -> None:
    """What begins with the same letters is another object, in the past too."""
    async def main() -> None:
        async with kube() as k:
            if known:                          # else it comes from the store's history
                k.api.feed.cacher(k.resource())
            k.put("p", "a"), k.put("p1", "a"), k.delete("p1", "a"), k.delete("p", "a")
            stream = await k.watch("resourceVersion=1", "/api/v1/watch/namespaces/a/pods/p")
            assert short(await stream.events()) == [("ADDED", "p", 2), ("DELETED", "p", 5)]
            await stream.close()
    run(main)


def test_the_path_and_the_selector_must_agree() -> None:
    async def main() -> None:
        async with kube() as k:
            for field in ("metadata.name=b", "spec.nodeName=n"):
                answer = await k.ask(f"/api/v1/watch/namespaces/a/pods/p?fieldSelector={field}")
                assert answer.code == 400
                assert orjson.loads(answer.body)["message"] == \
                    "fieldSelector metadata.name doesn't match requested name"
    run(main)


@pytest.mark.parametrize(("query", "words"), [
    ("sendInitialEvents=true", "resourceVersionMatch: Forbidden: sendInitialEvents requires "
     "setting resourceVersionMatch to NotOlderThan"),
    ("resourceVersionMatch=NotOlderThan", "resourceVersionMatch: Forbidden: resourceVersionMatch "
     "is forbidden for watch unless sendInitialEvents is provided"),
    ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&continue=a",
     "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is "
     "provided"),
    ("sendInitialEvents=true&resourceVersionMatch=Exact", "[resourceVersionMatch: Forbidden: "
     "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan, "
     'resourceVersionMatch: Unsupported value: "Exact": supported values: "NotOlderThan"]'),
])
def test_options_refused(query: str, words: str) -> None:
    async def main() -> None:
        async with kube() as k:
            said = await k.json(f"{PODS}?watch=1&{query}", 422)
            assert said["message"] == f'ListOptions.meta.k8s.io "" is invalid: {words}'
    run(main)


@pytest.mark.parametrize(("query", "code", "words"), [
    ("resourceVersion=abc", 400, 'resourceVersion: Invalid value: "abc": strconv.ParseUint: '
     'parsing "abc": invalid syntax'),
    ("timeoutSeconds=x", 400, 'strconv.ParseInt: parsing "x": invalid syntax'),
])
def test_refused_before_it_begins(query: str, code: int, words: str) -> None:
    async def main() -> None:
        async with kube() as k:
            assert (await k.json(f"{PODS}?watch=1&{query}", code))["message"] == words
            answer = await k.ask(f"{PODS}?watch=1", accept="application/yaml")
            assert answer.code == 406 and b"application/json;stream=watch" in answer.body
    run(main)


def test_bookmarks_by_the_clock() -> None:
    """Within a minute each, two seconds before the end, and the end on time."""
    loop = StillLoop()

    async def main() -> None:
        async with kube() as k:
            stream = await k.watch(f"{BOOKMARKS}&timeoutSeconds=130&resourceVersion=1")
            silent = await k.watch("timeoutSeconds=130&resourceVersion=1")
            assert await stream.events() == [] == await silent.events()
            said, began = [], loop.now
            while not stream.ended:
                if loop.now - began == 60:
                    k.db.put(b"/elsewhere", b"")
                    k.api.feed.catch_up()
                loop.advance(1)
                said += [(loop.now - began, revision) for _, _, revision
                         in short(await stream.events())]
                assert await silent.events() == []
            assert said == [(55, 1), (110, 2), (128, 2)]
            assert loop.now - began == 130 and silent.ended
    run(main, loop)


def test_an_end_too_near_for_a_bookmark() -> None:
    loop = StillLoop()

    async def main() -> None:
        async with kube() as k:
            stream = await k.watch(f"{BOOKMARKS}&timeoutSeconds=1&resourceVersion=1")
            assert await stream.events() == []
            loop.advance(1)
            assert await stream.events() == [] and stream.ended
    run(main, loop)


def test_a_bookmark_waits_for_the_lines_before_it() -> None:
    """Due at the very moment a change arrives: the change first."""
    loop = StillLoop()

    async def main() -> None:
        async with kube() as k:
            stream = await k.watch(f"{BOOKMARKS}&resourceVersion=1")
            assert await stream.events() == []
            revision = k.put("a")
            k.api.feed.catch_up()
            loop.advance(100)
            assert short(await stream.events()) == [("ADDED", "a", revision),
                                                    ("BOOKMARK", "", revision)]
            await stream.close()
    run(main, loop)


def test_between_the_pieces_of_a_long_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written while the initial objects are being sent: told behind them, once."""
    monkeypatch.setattr(watching, "CHUNK_BYTES", 100)

    async def main() -> None:
        async with kube() as k:
            for i in range(5):
                k.put(f"p{i}")
            answer = await k.ask(f"{PODS}?watch=1&{BOOKMARKS}")
            assert answer.chunks is not None
            lines, i = [], 0
            while not lines or lines[-1]["object"]["metadata"].get("name") != "last":
                chunk = await anext(answer.chunks)
                lines += [orjson.loads(line) for line in chunk.splitlines()]
                if i < 5:
                    k.put(f"p{i}")
                    k.api.feed.catch_up()
                    i += 1
                elif i == 5:
                    k.put("last")
                    i += 1
            assert short(lines) == [
                *[("ADDED", f"p{i}", i + 2) for i in range(5)], ("BOOKMARK", "", 6),
                *[("MODIFIED", f"p{i}", i + 7) for i in range(5)], ("ADDED", "last", 12)]
            await answer.chunks.aclose()       # type: ignore[attr-defined]
    run(main)


def test_between_the_slices_of_a_long_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the ring, and from the store's history, while others write."""
    monkeypatch.setattr(watching, "SLICE", 2)

    async def read(k: Kube, until: int) -> list[int]:
        answer = await k.ask(f"{PODS}?watch=1&resourceVersion=1")
        assert answer.chunks is not None
        seen: list[int] = []
        async for chunk in answer.chunks:
            seen += [int(orjson.loads(line)["object"]["metadata"]["resourceVersion"])
                     for line in chunk.splitlines()]
            if k.db.revision < until:
                k.put("a")
            if seen and seen[-1] == until:
                break
        await answer.chunks.aclose()           # type: ignore[attr-defined]
        return seen

    async def main() -> None:
        async with kube() as k:
            await k.json(PODS)
            for _ in range(5):
                k.put("a")
            assert await read(k, 10) == list(range(2, 11))
        async with kube() as k:
            for _ in range(5):
                k.put("a")
            await k.json(PODS)                 # the cache begins here, and knows nothing older
            assert await read(k, 10) == list(range(2, 11))
    run(main)


def test_the_history_is_ahead_of_the_feed() -> None:
    """What the store's history told is not told again when the feed comes to it."""
    async def main() -> None:
        async with kube() as k:
            k.put("a")
            await k.json(PODS)
            assert k.api.feed._task is not None
            k.api.feed._task.cancel()          # from here on it takes what it is told to take
            revision = k.put("b")
            stream = await k.watch("resourceVersion=1")
            assert short(await stream.events()) == [("ADDED", "a", 2), ("ADDED", "b", 3)]
            assert k.api.feed.revision < revision
            k.put("c")
            k.api.feed.catch_up()
            assert short(await stream.events()) == [("ADDED", "c", 4)]
            await stream.close()
    run(main)


def test_too_old() -> None:
    """410 in the stream, which ends, and nothing is left behind."""
    async def main() -> None:
        async with kube() as k:
            for _ in range(5):
                k.put("a")
            k.db.compact(5)
            stream = await k.watch("resourceVersion=2")
            [event] = await stream.events()
            assert event == {"type": "ERROR", "object": {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "too old resource version: 2 (5)", "reason": "Expired", "code": 410}}
            assert stream.ended and k.api.feed.cacher(k.resource()).watchers == 0
            good = await k.watch("resourceVersion=5")
            assert short(await good.events()) == [("MODIFIED", "a", 6)]
            await good.close()
    run(main)


@pytest.mark.parametrize("limit", ["lines", "bytes"])
def test_who_does_not_read_is_closed(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed without an ERROR, its lines dropped; others hear everything."""
    monkeypatch.setattr(watcher_module, "BACKLOG_LINES", 10 if limit == "lines" else 10_000)
    monkeypatch.setattr(watcher_module, "BACKLOG_BYTES", 3000 if limit == "bytes" else 1 << 30)

    async def main() -> None:
        async with kube() as k:
            quick = await k.watch("resourceVersion=1")
            assert await quick.events() == []
            slow = (await k.ask(f"{PODS}?watch=1&resourceVersion=1")).chunks
            assert slow is not None and await anext(slow) == b""
            cacher = k.api.feed.cacher(k.resource())
            told: list[Any] = []
            for i in range(40):
                k.put(f"p{i}")
                k.api.feed.catch_up()
                assert cacher.terminated == (i >= 10) or limit == "bytes"
                told += await quick.events()
            assert len(told) == 40 and (cacher.watchers, cacher.terminated) == (1, 1)
            assert [chunk async for chunk in slow] == []
            await quick.close()
            assert cacher.watchers == 0
    run(main)


def test_an_answer_nobody_reads_holds_nothing() -> None:
    async def main() -> None:
        async with kube() as k:
            answer = await k.ask(f"{PODS}?watch=1")
            assert k.api.feed.cacher(k.resource()).watchers == 0
            await answer.chunks.aclose()       # type: ignore[union-attr]
            left = await k.watch()
            await left.events()
            assert k.api.feed.cacher(k.resource()).watchers == 1
            await left.close()
            assert k.api.feed.cacher(k.resource()).watchers == 0
    run(main)


def test_damage_is_no_deletion() -> None:
    """Bytes that are no object: nobody is told; what comes next is told against what was."""
    async def main() -> None:
        async with kube() as k:
            k.put("a", app="web")
            stream = await k.watch("labelSelector=app=web&resourceVersion=2")
            await stream.events()
            k.db.put(k.key("a"), b"damage")
            k.db.put(k.key("b"), b"damage")
            assert await stream.events() == []
            k.put("a", app="web")
            k.db.put(k.key("a"), b"damage"), k.delete("a"), k.delete("b")
            past = await k.watch("labelSelector=app=web&resourceVersion=2")
            for each in (stream, past):
                assert short(await each.events()) == [("MODIFIED", "a", 5), ("DELETED", "a", 7)]
                assert k.api.feed.restarts == 0 and not each.ended
                await each.close()
    run(main)


def test_believed_and_not_json() -> None:
    """Bytes that begin and end as ours do are sent as they are; a selector that looks into them
    finds nothing, and the feed lives."""
    async def main() -> None:
        async with kube() as k:
            streams = [await k.watch(f"{query}&resourceVersion=1") for query in (
                "fieldSelector=spec.nodeName=n", "labelSelector=app=web")]
            for each in streams:
                await each.events()
            k.db.put(k.key("a"), stored("a", app="web").replace(b"containers", b'contain"ers'))
            k.db.put(k.key("c"), b'{"apiVersion":"v1","kind":{"metadata":{"name":"c"}}}')
            k.put("b", node="n", app="web")
            for each in streams:
                assert [name for _, name, _ in short(await each.events())] == ["b"]
                await each.close()
            assert k.api.feed.restarts == 0
            assert [item["metadata"]["name"] for item in (
                await k.json(f"{PODS}?labelSelector=app=web"))["items"]] == ["b"]
    run(main)


def test_an_answer_that_is_read_too_late() -> None:
    """The server has stopped before the first chunk was asked for: the watch ends."""
    async def main() -> None:
        async with kube() as k:
            k.put("a")
            late = [await k.watch(query) for query in ("", "resourceVersion=1")]
            await k.api.stop()
            for stream in late:
                assert await stream.events() == [] and stream.ended
    run(main)


def test_feeds_end(caplog: pytest.LogCaptureFixture) -> None:
    """The store is closed under a server: watchers end, reads are refused, nobody hangs."""
    async def main() -> None:
        async with kube() as k:
            k.put("a")
            stream = await k.watch()
            await stream.events()
            waiting = asyncio.create_task(k.ask(f"{PODS}?resourceVersion=100"))
            await turns()
            k.db.close()
            assert (await waiting).code == 503
            await stream.events()
            assert stream.ended
            for url in (PODS, f"{PODS}?resourceVersion=0", f"{PODS}?watch=1"):
                assert (await k.ask(url)).code == 503
    run(main)
