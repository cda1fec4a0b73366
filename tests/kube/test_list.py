# SPDX-License-Identifier: Apache-2.0
"""Lists and gets: where they are read, in pages, at versions; what is refused, in which words."""

from __future__ import annotations

import asyncio
import base64
from typing import Any
from urllib.parse import quote

import orjson
import pytest
import yaml
from cache_world import PODS, Kube, StillLoop, kube, names, run, stored, turns

import kvcore
from kvcore.kube import reading
from kvcore.kube.list_options import write_token

NAMESPACED = "/api/v1/namespaces/default/pods"


def test_an_empty_list() -> None:
    async def main() -> None:
        async with kube() as k:
            assert await k.json(PODS) == {"kind": "PodList", "apiVersion": "v1",
                                          "metadata": {"resourceVersion": "1"}, "items": []}
    run(main)


def test_objects_carry_their_versions() -> None:
    async def main() -> None:
        async with kube() as k:
            revisions = {name: k.put(name, node=name) for name in ("b", "a")}
            found = await k.json(PODS)
            assert names(found) == ["a", "b"]
            assert {item["metadata"]["name"]: int(item["metadata"]["resourceVersion"])
                    for item in found["items"]} == revisions
            assert found["metadata"] == {"resourceVersion": str(k.db.revision)}
            one = await k.json(f"{NAMESPACED}/a")
            assert one == found["items"][0]
            assert await k.json(f"{NAMESPACED}/a?resourceVersion=0") == one
            assert (await k.json(f"{NAMESPACED}/c", 404))["message"] == 'pods "c" not found'
    run(main)


@pytest.mark.parametrize("codec", ["json", "msgpack", "protobuf"])
def test_codecs_side_by_side(codec: str) -> None:
    async def main() -> None:
        async with kube() as k:
            k.db.put(k.key("x"), stored("x", codec=codec, node="n"))
            k.db.put(k.key("y"), orjson.dumps(orjson.loads(stored("y")),
                                              option=orjson.OPT_INDENT_2))
            found = await k.json(f"{PODS}?fieldSelector=metadata.name!=z")
            assert names(found) == ["x", "y"]
            assert (await k.json(f"{NAMESPACED}/y"))["metadata"]["resourceVersion"] == "3"
    run(main)


def test_pages_are_of_one_version() -> None:
    """Written between two pages: not seen. The cache and the store agree on how many remain."""
    async def main() -> None:
        async with kube() as k:
            for i in range(7):
                k.put(f"p{i}", "a" if i < 3 else "b")
            seen, token, remaining = [], "", []
            while True:
                page = await k.json(f"{PODS}?limit=3&continue={token}")
                seen += names(page)
                remaining.append(page["metadata"].get("remainingItemCount"))
                assert page["metadata"]["resourceVersion"] == "8"
                k.put("p15", "a")
                k.delete("p6", "b")
                token = page["metadata"].get("continue", "")
                if not token:
                    break
            assert seen == [f"p{i}" for i in range(7)]
            assert remaining == [4, 1, None]
    run(main)


def test_no_remaining_count_with_a_selector() -> None:
    async def main() -> None:
        async with kube() as k:
            for i in range(6):
                k.put(f"p{i}", node=f"n{i % 2}")
            for more in ("", "&resourceVersion=7"):
                page = await k.json(f"{PODS}?limit=2&fieldSelector=spec.nodeName=n1{more}")
                assert names(page) == ["p1", "p3"]
                assert set(page["metadata"]) == {"resourceVersion", "continue"}
                rest = await k.json(f"{PODS}?fieldSelector=spec.nodeName=n1&continue="
                                    + page["metadata"]["continue"])
                assert names(rest) == ["p5"] and "continue" not in rest["metadata"]
    run(main)


def test_an_exact_page_is_the_last() -> None:
    async def main() -> None:
        async with kube() as k:
            k.put("a"), k.put("b")
            for more in ("", "&resourceVersion=3"):
                page = await k.json(f"{PODS}?limit=2{more}")
                assert "continue" not in page["metadata"] and len(page["items"]) == 2
    run(main)


def test_version_zero_is_the_cache_as_it_is() -> None:
    """No limit, no waiting; a consistent list comes as far as the store is."""
    async def main() -> None:
        async with kube() as k:
            k.put("a"), k.put("b")
            await k.json(PODS)
            k.put("c")
            stale = await k.json(f"{PODS}?resourceVersion=0&limit=1")
            assert names(stale) == ["a", "b"] and "continue" not in stale["metadata"]
            assert stale["metadata"]["resourceVersion"] == "3"
            assert names(await k.json(PODS)) == ["a", "b", "c"]
            assert names(await k.json(f"{PODS}?resourceVersion=3&resourceVersionMatch=Exact")) \
                == ["a", "b"]
    run(main)


def test_several_servers_over_one_store() -> None:
    async def main() -> None:
        db = kvcore.open()
        async with kube(db) as one, kube(db) as two:
            for i in range(20):
                (one if i % 2 else two).put(f"p{i:02}")
                lists = [await each.json(PODS) for each in (one, two)]
                assert lists[0] == lists[1] and len(lists[0]["items"]) == i + 1
        db.close()
    run(main)


def test_a_version_yet_to_come() -> None:
    """Waited for three seconds; writes of others end the wait."""
    loop = StillLoop()

    async def main() -> None:
        async with kube() as k:
            k.put("a")
            waiting = asyncio.create_task(k.ask(f"{PODS}?resourceVersion=4"))
            await turns()
            assert not waiting.done()
            k.db.put(b"/elsewhere", b"")
            k.put("b")
            await turns()
            assert names(orjson.loads((await waiting).body)) == ["a", "b"]

            waiting = asyncio.create_task(k.ask(f"{PODS}?resourceVersion=1000"))
            await turns()
            loop.advance(2.9)
            await turns()
            assert not waiting.done()
            loop.advance(0.2)
            answer = await waiting
            said = orjson.loads(answer.body)
            assert (answer.code, said["reason"]) == (504, "Timeout")
            assert said["message"] == "Timeout: Too large resource version: 1000, current: 4"
            assert said["details"] == {"retryAfterSeconds": 1, "causes": [
                {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}
            assert answer.headers["Retry-After"] == "1"
            exact = await k.json(f"{PODS}?resourceVersion=1000&resourceVersionMatch=Exact", 504)
            assert "retryAfterSeconds" not in exact["details"]
    run(main, loop)


def test_compacted_versions() -> None:
    async def main() -> None:
        async with kube() as k:
            for i in range(5):
                k.put(f"p{i}")
            page = await k.json(f"{PODS}?limit=2")
            k.put("p5")
            k.db.compact(k.db.revision)
            gone = await k.json(f"{PODS}?resourceVersion=3&resourceVersionMatch=Exact", 410)
            assert gone["message"] == "The resourceVersion for the provided list is too old."
            gone = await k.json(f"{PODS}?limit=2&continue={page['metadata']['continue']}", 410)
            assert gone["reason"] == "Expired"
            assert gone["message"].startswith("The provided continue parameter is too old to")
            rest = await k.json(f"{PODS}?continue={gone['metadata']['continue']}")
            assert names(rest) == ["p2", "p3", "p4", "p5"]
            assert rest["metadata"]["resourceVersion"] == str(k.db.revision)
    run(main)


def test_a_token_stays_in_its_list() -> None:
    """Whatever is written in it, only objects of the asked namespace come."""
    async def main() -> None:
        async with kube() as k:
            k.put("p", "a"), k.put("p", "b"), k.db.put(b"/registry/secrets/a/s", b"secret")
            for start in ("a/p", "../secrets/", "zzz", "\U0010ffff"):
                answer = await k.ask("/api/v1/namespaces/a/pods?continue="
                                     + write_token(k.db.revision, start.encode()))
                assert answer.code in (200, 400)
                if answer.code == 200:
                    assert all(item["metadata"]["namespace"] == "a"
                               for item in orjson.loads(answer.body)["items"])
    run(main)


def token(**said: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(said)).rstrip(b"=").decode()


@pytest.mark.parametrize(("query", "code", "words"), [
    ("resourceVersion=abc", 400, 'invalid resource version: resourceVersion: Invalid value: "abc":'
     ' strconv.ParseUint: parsing "abc": invalid syntax'),
    ("resourceVersion=-1", 400, 'invalid resource version: resourceVersion: Invalid value: "-1": '
     'strconv.ParseUint: parsing "-1": invalid syntax'),
    ("resourceVersion=99999999999999999999999", 400,
     'invalid resource version: resourceVersion: Invalid value: "99999999999999999999999": '
     'strconv.ParseUint: parsing "99999999999999999999999": value out of range'),
    ("limit=x", 400, 'strconv.ParseInt: parsing "x": invalid syntax'),
    ("limit=99999999999999999999", 400,
     'strconv.ParseInt: parsing "99999999999999999999": value out of range'),
    ("resourceVersionMatch=Exact", 422, "resourceVersionMatch: Forbidden: resourceVersionMatch is "
     "forbidden unless resourceVersion is provided"),
    ("resourceVersion=1&resourceVersionMatch=foo", 422, "resourceVersionMatch: Unsupported value: "
     '"foo": supported values: "Exact", "NotOlderThan", ""'),
    ("resourceVersion=0&resourceVersionMatch=Exact", 422, "resourceVersionMatch: Forbidden: "
     'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'),
    ("resourceVersion=1&resourceVersionMatch=NotOlderThan&continue=a", 422,
     "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is "
     "provided"),
    ("sendInitialEvents=true", 422, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden "
     "for list"),
    ("continue=abc=", 400, "invalid continue token: continue key is not valid: illegal base64 "
     "data at input byte 3"),
    ("continue=" + token(v="x"), 400, "invalid continue token: continue key is not valid: server "
     "does not recognize this encoded version x"),
    ("continue=" + token(v="meta.k8s.io/v1", rv=0, start="a"), 400, "invalid continue token: "
     "continue key is not valid: incorrect encoded start resourceVersion (version "
     "meta.k8s.io/v1)"),
    ("continue=" + token(v="meta.k8s.io/v1", rv=5, start=""), 400, "invalid continue token: "
     "continue key is not valid: encoded start key empty (version meta.k8s.io/v1)"),
    ("continue=" + token(v="meta.k8s.io/v1", rv=5, start="../a"), 400, "invalid continue token: "
     "continue key is not valid: ../a"),
    ("continue=" + token(v="meta.k8s.io/v1", rv=5, start="a") + "&resourceVersion=5", 400,
     "specifying resource version is not allowed when using continue"),
])
def test_refused(query: str, code: int, words: str) -> None:
    async def main() -> None:
        async with kube() as k:
            said = await k.json(f"{PODS}?{query}", code)
            if code == 422:
                assert said["message"] == f'ListOptions.meta.k8s.io "" is invalid: {words}'
                assert said["details"]["group"] == "meta.k8s.io"
                assert said["details"]["causes"][0]["field"] == words.split(":")[0]
            else:
                assert (said["message"], said["reason"]) == (words, "BadRequest")
    run(main)


def test_several_causes() -> None:
    async def main() -> None:
        async with kube() as k:
            said = await k.json(f"{PODS}?resourceVersionMatch=foo&continue=a", 422)
            assert said["message"].startswith('ListOptions.meta.k8s.io "" is invalid: [')
            assert [c["reason"] for c in said["details"]["causes"]] == [
                "FieldValueForbidden", "FieldValueForbidden", "FieldValueNotSupported"]
    run(main)


@pytest.mark.parametrize(("accept", "kind"), [
    ("", "json"), ("*/*", "json"), ("application/json", "json"), ("application/*", "json"),
    ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "json"),
    ("application/vnd.kubernetes.protobuf,application/json", "json"),
    ("application/yaml", "yaml"), ("application/json;q=0.1, application/yaml", "yaml"),
])
def test_accepted(accept: str, kind: str) -> None:
    async def main() -> None:
        async with kube() as k:
            k.put("a")
            for url in (PODS, f"{NAMESPACED}/a"):
                answer = await k.ask(url, accept=accept)
                assert (answer.code, answer.content_type) == (200, f"application/{kind}")
                read: Any = orjson.loads if kind == "json" else yaml.safe_load
                assert read(answer.body) == await k.json(url)
    run(main)


@pytest.mark.parametrize(("accept", "words"), [
    ("text/html", "406: Not Acceptable\n\nAvailable representations: application/json, "
     "application/yaml, application/json;stream=watch"),
    ("application/json;as=Table;v=v1;g=meta.k8s.io",
     "only the following media types are accepted: application/json, application/yaml"),
])
def test_not_acceptable(accept: str, words: str) -> None:
    async def main() -> None:
        async with kube() as k:
            for url in (PODS, f"{NAMESPACED}/a"):
                answer = await k.ask(url, accept=accept)
                said = orjson.loads(answer.body)
                assert (answer.code, said["reason"]) == (406, "NotAcceptable")
                assert said["message"] == words
    run(main)


def test_head() -> None:
    async def main() -> None:
        async with kube() as k:
            k.put("a")
            for url in (PODS, f"{NAMESPACED}/a"):
                assert (await k.ask(url, "HEAD")).body == (await k.ask(url)).body
            assert (await k.ask(f"{NAMESPACED}/b", "HEAD")).code == 404
    run(main)


DAMAGED = [b"", b"\x00", b"{", b"not an object", b'{"apiVersion":"v1","kind":"Pod"}', b"\x82\xa1",
           b'["list"]', b'{"apiVersion":"v1","kind":"Pod","metadata":{}}', b"k8s\x00\xff\xff",
           b'{"apiVersion":1,"kind":"Pod","metadata":{"name":"x"}}', b"\xc1", b"\xff" * 40,
           b'{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}']


@pytest.mark.parametrize("stored_bytes", DAMAGED)
@pytest.mark.parametrize("before", [True, False])
def test_what_is_no_object(stored_bytes: bytes, before: bool) -> None:
    """500 where it would be shown; everybody else goes on, and so does the feed."""
    async def check(k: Kube, code: int) -> None:
        for url in (PODS, f"{NAMESPACED}", f"{PODS}?limit=5", f"{PODS}?resourceVersion=0",
                    f"{NAMESPACED}/bad", f"{NAMESPACED}/bad?resourceVersion=0",
                    f"{PODS}?labelSelector=a", f"{PODS}?watch=1"):
            assert (await k.ask(url)).code == code, url
        exact = f"{PODS}?resourceVersion={k.db.revision}&resourceVersionMatch=Exact"
        assert (await k.ask(exact)).code == code

    async def main() -> None:
        async with kube() as k:
            k.put("good", "other")
            if not before:
                await k.json(PODS)
            k.db.put(k.key("bad"), stored_bytes)
            said = await k.json(PODS, 500)
            assert said["reason"] == "InternalError"
            assert "/registry/pods/default/bad" in said["message"]
            await check(k, 500)
            assert names(await k.json("/api/v1/namespaces/other/pods")) == ["good"]
            assert k.api.feed.restarts == 0
            k.put("bad")
            await check(k, 200)
            assert names(await k.json(PODS)) == ["bad", "good"]
    run(main)


def test_foreign_keys() -> None:
    """Odd keys below a resource's prefix, and others' keys beside it."""
    async def main() -> None:
        async with kube() as k:
            await k.json(PODS)
            for key in (b"/registry/", b"/registry", b"/registry/pods", b"/registry//x/y",
                        b"/registry/podsx/a/b", b"/registry/\xff\xfe", b"/registry/pods"):
                k.db.put(key, b"foreign")
            k.put("a")
            assert names(await k.json(PODS)) == ["a"]
            k.db.put(b"/registry/pods/\xff/x", stored("x"))
            assert "500" in str((await k.json(PODS, 500))["code"])
            k.db.delete(b"/registry/pods/\xff/x")
            assert names(await k.json(PODS)) == ["a"]
    run(main)


@pytest.mark.parametrize("limit", [0, 24])
def test_others_have_turns_while_a_selector_looks(limit: int,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """And what they write is not in the list, which is of one version."""
    monkeypatch.setattr(reading, "LOOKED_AT", 10)

    async def main() -> None:
        async with kube() as k:
            for n in range(25):
                k.put(f"p{n:02}", a="x")
            await k.json(PODS)
            listing = asyncio.create_task(k.json(f"{PODS}?labelSelector=a%3Dx&limit={limit}"))
            await asyncio.sleep(0)
            k.delete("p24"), k.put("p02", a="y"), k.put("p98", a="x"), k.put("p99", a="x")
            assert names(await k.json(f"{PODS}?limit=1")) == ["p00"] and not listing.done()
            found = await listing
            assert names(found) == [f"p{n:02}" for n in range(limit or 25)]
            assert found["metadata"]["resourceVersion"] == "26"
            assert ("continue" in found["metadata"]) == bool(limit)
    run(main)


def test_selectors_by_name_cost_a_look_up() -> None:
    async def main() -> None:
        async with kube() as k:
            for i in range(30):
                k.put(f"p{i}")
            field = quote("metadata.name=p7")
            assert names(await k.json(f"{NAMESPACED}?fieldSelector={field}")) == ["p7"]
            assert names(await k.json(f"{PODS}?fieldSelector={field}")) == ["p7"]
            cacher = k.api.feed.cacher(k.resource())
            asked: list[tuple[bytes, bytes]] = []
            entries = cacher.entries
            cacher.entries = lambda start, end, limit=0: (  # type: ignore[method-assign]
                asked.append((start, end)) or entries(start, end, limit))
            await k.json(f"{NAMESPACED}?fieldSelector={field}")
            assert asked == [(k.key("p7"), k.key("p7") + b"\0")]
    run(main)
