# SPDX-License-Identifier: Apache-2.0
"""Several servers over one store: for a client behind the balancer they are one.

    writers ── each on another replica ──> a few objects, by compare-and-set ──> no update is lost
    reads of "" on every replica ──> what was acknowledged anywhere
    watches on every replica ──> the same versions of an object, in the same order
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPException, HTTPSConnection
from itertools import pairwise
from typing import Any

import pytest
from kube_process import CONFIG_MAPS, PODS, ask
from kube_wires import PATIENCE

import kvcore
from kvcore.kube import serve
from kvcore.kube.server import Server

REPLICAS = 3
Object = dict[str, Any]


@pytest.fixture
def api() -> Iterator[Server]:
    with kvcore.open() as store, serve(store, replicas=REPLICAS) as server:
        yield server


def to(api: Server, replica: int | None = None) -> HTTPSConnection:
    """A connection to one replica, None: to whichever the balancer takes."""
    port = api.port if replica is None else api.replicas[replica].address[1]
    return HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=api.ssl_context())


def everywhere(work: Callable[[int], Any], count: int = REPLICAS) -> list[Any]:
    """The work of each number in a thread of its own. Returns: what they return."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def version(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])


def counter(name: str) -> Object:
    return {"metadata": {"name": name}, "data": {"n": "0", "by": ""}}


def test_no_update_is_lost(api: Server) -> None:
    """Counters by optimistic concurrency: each success builds on the version that it read."""
    names, times = ("a", "b"), 15
    with closing(to(api)) as connection:
        for name in names:
            assert ask(connection, "POST", CONFIG_MAPS, counter(name))[0] == 201

    def count(number: int) -> list[tuple[str, int, int, int]]:
        """(name, version read, version written, value) of each success."""
        done = []
        with closing(to(api, number % REPLICAS)) as connection:
            for name in names * times:
                while True:
                    _, read = ask(connection, "GET", f"{CONFIG_MAPS}/{name}")
                    value = int(read["data"]["n"]) + 1
                    written = read | {"data": {"n": str(value), "by": str(number)}}
                    code, got = ask(connection, "PUT", f"{CONFIG_MAPS}/{name}", written)
                    if code == 200:
                        done.append((name, version(read), version(got), value))
                        break
                    assert (code, got["reason"]) == (409, "Conflict")
        return done

    writers = 2 * REPLICAS
    done = [each for part in everywhere(count, writers) for each in part]
    for name in names:
        chain = sorted(each[1:] for each in done if each[0] == name)
        assert [value for _, _, value in chain] == list(range(1, writers * times + 1))
        assert all(one[1] == two[0] for one, two in pairwise(chain))


def test_patches_of_one_object_all_count(api: Server) -> None:
    """Without a version nobody conflicts, and nobody's key is lost."""
    with closing(to(api)) as connection:
        assert ask(connection, "POST", CONFIG_MAPS, counter("a"))[0] == 201

    def patch(number: int) -> None:
        with closing(to(api, number)) as connection:
            for i in range(15):
                code, got = ask(connection, "PATCH", f"{CONFIG_MAPS}/a",
                                {"data": {f"k{number}-{i}": "v"}}, "application/merge-patch+json")
                assert code == 200 and f"k{number}-{i}" in got["data"]

    everywhere(patch)
    with closing(to(api)) as connection:
        assert len(ask(connection, "GET", f"{CONFIG_MAPS}/a")[1]["data"]) == 2 + 15 * REPLICAS


def test_writes_are_read_through_every_replica(api: Server) -> None:
    """At once, by get, list and label, and gone when deleted; while others write, too."""
    stop = threading.Event()

    def load() -> None:
        with closing(to(api, 0)) as connection:
            for number in range(100_000):
                if stop.is_set():
                    return
                ask(connection, "POST", CONFIG_MAPS, counter(f"load-{number}"))

    noise = threading.Thread(target=load)
    noise.start()
    connections = [to(api, replica) for replica in range(REPLICAS)]
    try:
        for number in range(20):
            name = f"n{number}"
            writer, reader = connections[number % 3], connections[(number + 1) % 3]
            made = ask(writer, "POST", CONFIG_MAPS, {"metadata": {
                "name": name, "labels": {"v": name}}})[1]
            assert ask(reader, "GET", f"{CONFIG_MAPS}/{name}") == (200, made)
            code, listed = ask(reader, "GET", f"{CONFIG_MAPS}?labelSelector=v%3D{name}")
            assert code == 200 and listed["items"] == [made]
            assert version(listed) >= version(made)
            assert ask(writer, "DELETE", f"{CONFIG_MAPS}/{name}")[0] == 200
            assert ask(reader, "GET", f"{CONFIG_MAPS}?labelSelector=v%3D{name}")[1]["items"] == []
            assert ask(reader, "GET", f"{CONFIG_MAPS}/{name}")[0] == 404
    finally:
        stop.set()
        noise.join(PATIENCE)
        for connection in connections:
            connection.close()


def test_watches_agree(api: Server) -> None:
    """Every replica tells the same events, in the same order."""
    with closing(to(api)) as connection:
        begin = ask(connection, "GET", CONFIG_MAPS)[1]["metadata"]["resourceVersion"]

    def write(number: int) -> None:
        with closing(to(api, number)) as connection:
            for i in range(20):
                name = f"{number}-{i % 5}"
                if ask(connection, "POST", CONFIG_MAPS, counter(name))[0] == 409:
                    ask(connection, "DELETE", f"{CONFIG_MAPS}/{name}")
                ask(connection, "PATCH", f"{CONFIG_MAPS}/shared-{i % 2}", {"data": {"n": name}},
                    "application/merge-patch+json")

    def follow(replica: int) -> list[tuple[str, str, int]]:
        with closing(to(api, replica)) as connection:
            connection.request("GET", f"{CONFIG_MAPS}?watch=1&resourceVersion={begin}")
            answer, told = connection.getresponse(), []
            while not told or told[-1][1] != "last":
                event = json.loads(answer.readline())
                told.append((event["type"], event["object"]["metadata"]["name"],
                             version(event["object"])))
            return told

    with closing(to(api)) as connection:
        for number in range(2):
            ask(connection, "POST", CONFIG_MAPS, counter(f"shared-{number}"))
    with ThreadPoolExecutor(REPLICAS) as pool:
        following = [pool.submit(follow, replica) for replica in range(REPLICAS)]
        everywhere(write)
        with closing(to(api)) as connection:
            assert ask(connection, "POST", CONFIG_MAPS, counter("last"))[0] == 201
        one, *others = [each.result(PATIENCE) for each in following]
    assert len(one) > 60 and all(other == one for other in others)
    assert [each[2] for each in one] == sorted({each[2] for each in one})


def test_generated_names_are_unique(api: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas that draw the same names now and then give none twice."""
    drawn = iter(range(1_000_000))

    def draw(base: str) -> str:
        number = next(drawn)
        return f"{base}{number - (number % 8 == 1):05}"       # the second of eight is the first

    monkeypatch.setattr("kvcore.kube.meta.generate_name", draw)

    def create(number: int) -> list[str]:
        with closing(to(api, number)) as connection:
            answers = [ask(connection, "POST", CONFIG_MAPS, {"metadata": {"generateName": "g-"}})
                       for _ in range(15)]
        assert {code for code, _ in answers} == {201}
        return [made["metadata"]["name"] for _, made in answers]

    names = [name for part in everywhere(create) for name in part]
    assert len(set(names)) == len(names) == 15 * REPLICAS < next(drawn)


def test_a_name_is_given_once(api: Server) -> None:
    def create(number: int) -> list[int]:
        with closing(to(api, number)) as connection:
            return [ask(connection, "POST", CONFIG_MAPS, counter(f"n{i}"))[0] for i in range(20)]

    for codes in zip(*everywhere(create), strict=True):
        assert sorted(codes) == [201, 409, 409]


def test_a_quota_holds_across_replicas(api: Server) -> None:
    """Never more than it says; what is counted is what is there."""
    hard = 7
    with closing(to(api, 0)) as connection:
        quotas = "/api/v1/namespaces/default/resourcequotas"
        made = ask(connection, "POST", quotas, {"metadata": {"name": "q"}, "spec": {
            "hard": {"pods": str(hard)}}})[1]
        connection.request("GET", f"{quotas}?watch=1&resourceVersion={version(made)}")
        answer = connection.getresponse()
        while not json.loads(answer.readline())["object"].get("status", {}).get("used"):
            pass

    def create(number: int) -> list[int]:
        codes = []
        with closing(to(api, number % REPLICAS)) as connection:
            while len(codes) < 5:
                code, told = ask(connection, "POST", PODS, {
                    "metadata": {"name": f"p{number}-{len(codes)}"},
                    "spec": {"containers": [{"name": "c", "image": "i"}]}})
                if code == 409:                   # the quota changed all the time: once more
                    assert told["details"]["kind"] == "resourcequotas", told
                else:
                    codes.append(code)
        return codes

    codes = [code for part in everywhere(create, 2 * REPLICAS) for code in part]
    assert codes.count(201) == hard and codes.count(403) == len(codes) - hard
    with closing(to(api)) as connection:
        assert len(ask(connection, "GET", PODS)[1]["items"]) == hard
        assert ask(connection, "GET", f"{quotas}/q")[1]["status"]["used"] == {"pods": str(hard)}


def test_a_replica_that_stops_loses_nothing(api: Server) -> None:
    """In the middle of writes. Who was on it goes on through the balancer."""
    begun = threading.Semaphore(0)

    def write(number: int) -> set[str]:
        acked, connection = set(), to(api)
        for i in range(40):
            name = f"s{number}-{i}"
            while True:
                try:
                    code, _ = ask(connection, "POST", CONFIG_MAPS, counter(name))
                except (OSError, HTTPException):
                    connection.close()
                    connection = to(api)
                    continue
                assert code in (201, 409), code           # 409: the answer was lost, not the write
                break
            acked.add(name)
            begun.release()
        connection.close()
        return acked

    with ThreadPoolExecutor(2 * REPLICAS) as pool:
        writing = [pool.submit(write, number) for number in range(2 * REPLICAS)]
        for _ in range(20):
            assert begun.acquire(timeout=PATIENCE)
        api.replicas[1].stop()
        acked = set().union(*(each.result(PATIENCE) for each in writing))
    api.replicas[1].thread.join(PATIENCE)
    assert not api.replicas[1].thread.is_alive() and not api.wait(0)
    for replica in (0, 2, None):
        with closing(to(api, replica)) as connection:
            listed = ask(connection, "GET", CONFIG_MAPS)[1]["items"]
            assert acked <= {item["metadata"]["name"] for item in listed}
