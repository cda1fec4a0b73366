# SPDX-License-Identifier: Apache-2.0
"""What goes on by itself: the system's namespaces, what each has, and how one ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from kube_server import Kube, config_map, pod

import kvcore
from kvcore.errors import CompactedError, NoSpaceError
from kvcore.kube import housekeeping
from kvcore.kube.admission import Chain, forbidden
from kvcore.kube.call import Call, Object
from kvcore.kube.housekeeping import Housekeeping
from kvcore.kube.resources import Resource

NAMESPACES = "/api/v1/namespaces"
N = f"{NAMESPACES}/n"
MAPS = f"{N}/configmaps"


@contextmanager
def replicas(count: int) -> Iterator[list[Kube]]:
    """Servers over one store, on one loop."""
    store, kubes = kvcore.open(), list[Kube]()
    for _ in range(count):
        kube = Kube(store, housekeeping=True, ca="PEM")
        if kubes:
            kube.loop.close()
            kube.loop = kubes[0].loop
        kube.run(kube.api.start())
        kubes.append(kube)
    try:
        yield kubes
    finally:
        for kube in kubes:
            kube.run(kube.api.stop())
        kubes[0].loop.close()
        store.close()


def until(kube: Kube, true: Callable[[], bool]) -> None:
    """Lets the loop run until something holds; the store's changes wake it."""
    async def wait() -> None:
        with kube.store.watch(prefix=b"/registry/") as watch:
            while not true():
                await asyncio.wait_for(anext(watch), 20)
    kube.run(wait())


def stored(kube: Kube, *parts: str) -> bool:
    return kube.store.get("/".join(("/registry", *parts)).encode()) is not None


@pytest.mark.parametrize("count", [1, 3])
def test_the_systems_namespaces(count: int) -> None:
    with replicas(count) as kubes:
        kube = kubes[-1]
        names = {i["metadata"]["name"]: i for i in kube.call("GET", NAMESPACES).obj["items"]}
        assert sorted(names) == ["default", "kube-node-lease", "kube-public", "kube-system"]
        assert all(i["status"] == {"phase": "Active"} for i in names.values())
        for name in names:
            ca = kube.call("GET", f"{NAMESPACES}/{name}/configmaps/kube-root-ca.crt")
            assert ca.obj["data"] == {"ca.crt": "PEM"}
            account = kube.call("GET", f"{NAMESPACES}/{name}/serviceaccounts/default")
            assert account.code == 200
        assert kube.store.revision == 1 + 12   # each was made once


def test_a_start_over_what_is_there_writes_nothing() -> None:
    store = kvcore.open()
    for _ in range(2):
        kube = Kube(store, housekeeping=True)
        kube.run(kube.api.start())
        kube.run(kube.api.stop())
        kube.loop.close()
        assert store.revision == 13
    store.close()


def test_each_namespace_has_its_account() -> None:
    with replicas(2) as kubes:
        kubes[0].make(NAMESPACES, {"metadata": {"name": "n"}})
        until(kubes[0], lambda: stored(kubes[0], "serviceaccounts", "n", "default")
              and stored(kubes[0], "configmaps", "n", "kube-root-ca.crt"))
        assert kubes[0].store.revision == 13 + 3
        kubes[1].call("DELETE", f"{N}/serviceaccounts/default")
        until(kubes[0], lambda: stored(kubes[0], "serviceaccounts", "n", "default"))
        kubes[1].call("DELETE", f"{MAPS}/kube-root-ca.crt")
        until(kubes[0], lambda: stored(kubes[0], "configmaps", "n", "kube-root-ca.crt"))


@pytest.mark.parametrize("count", [1, 2])
def test_the_end_of_a_namespace(count: int) -> None:
    with replicas(count) as kubes:
        kube = kubes[0]
        kube.make(NAMESPACES, {"metadata": {"name": "n"}})
        kube.make(NAMESPACES, {"metadata": {"name": "nn"}})
        for number in range(100):
            kube.make(MAPS, config_map(f"c{number}"))
        kube.make(f"{N}/pods", pod("p", "lost-node", {"terminationGracePeriodSeconds": 30}))
        kube.make("/api/v1/namespaces/nn/configmaps", config_map("other"))
        kube.make(MAPS.replace("configmaps", "secrets"), {"metadata": {"name": "s"}})
        assert kube.call("DELETE", N).code == 200
        until(kube, lambda: not stored(kube, "namespaces", "n"))
        left = [kv.key for kv in kube.store.range(prefix=b"/registry/") if b"/n/" in kv.key]
        assert left == []
        assert stored(kube, "configmaps", "nn", "other")
        kube.make(NAMESPACES, {"metadata": {"name": "n"}})         # it may come again
        until(kube, lambda: stored(kube, "serviceaccounts", "n", "default"))


def test_a_namespace_waits_for_finalizers_and_for_its_pods() -> None:
    with replicas(1) as (kube,):
        kube.make("/api/v1/nodes", {"metadata": {"name": "n1"}})
        kube.make(NAMESPACES, {"metadata": {"name": "n"}})
        kube.make(MAPS, config_map("held", finalizers=["x.y/z"]))
        kube.make(f"{N}/pods", pod("p", "n1", {"terminationGracePeriodSeconds": 30}))
        kube.call("DELETE", N)
        until(kube, lambda: not stored(kube, "serviceaccounts", "n", "default"))
        until(kube, lambda: b"deletionTimestamp" in kube.store.get(b"/registry/pods/n/p").value)
        ending = kube.call("GET", f"{N}/pods/p")
        assert ending.meta["deletionGracePeriodSeconds"] == 30
        assert kube.call("GET", N).obj["status"] == {"phase": "Terminating"}
        kube.call("DELETE", f"{N}/pods/p", {"gracePeriodSeconds": 0})
        kube.settle()
        assert stored(kube, "namespaces", "n")
        kube.call("PATCH", f"{MAPS}/held", {"metadata": {"finalizers": None}}, patch="merge")
        until(kube, lambda: not stored(kube, "namespaces", "n"))


def test_what_goes_while_the_rest_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last thing that held the namespace is gone before anybody waits for it."""
    with replicas(1) as (kube,):
        keeper = kube.api.housekeeping
        assert keeper is not None
        delete = keeper._delete

        async def delete_and_free(resource: Resource, *what: str) -> None:
            await delete(resource, *what)
            if resource.plural == "secrets":   # behind the config maps
                await kube.ask("PATCH", f"{MAPS}/held", {"metadata": {"finalizers": None}},
                               headers={"content-type": "application/merge-patch+json"})
        monkeypatch.setattr(keeper, "_delete", delete_and_free)
        kube.make(NAMESPACES, {"metadata": {"name": "n"}})
        kube.make(MAPS, config_map("held", finalizers=["x.y/z"]))
        kube.make(f"{N}/secrets", {"metadata": {"name": "s"}})
        kube.call("DELETE", N)
        until(kube, lambda: not stored(kube, "namespaces", "n"))


def test_a_server_that_is_behind_plants_nothing() -> None:
    """Neither in a namespace that is gone, nor in one that goes while it plants."""
    with replicas(2) as (kube, other):
        keeper = other.api.housekeeping
        assert keeper is not None
        plant, first = keeper._plant, [True]

        async def late(resource: Resource, obj: Object, namespace: str = "") -> None:
            if namespace == "n" and first:
                first.clear()
                await kube.ask("DELETE", N)
                with kube.store.watch(prefix=b"/registry/namespaces/") as watch:
                    while stored(kube, "namespaces", "n"):
                        await anext(watch)
            await plant(resource, obj, namespace)
        keeper._plant = late                   # type: ignore[method-assign]
        kube.make(NAMESPACES, {"metadata": {"name": "n"}})
        was = kube.store.get(b"/registry/namespaces/n")
        assert was is not None
        until(kube, lambda: not stored(kube, "namespaces", "n"))
        kube.make(NAMESPACES, {"metadata": {"name": "m"}})         # behind it in the other's watch
        until(kube, lambda: stored(kube, "serviceaccounts", "m", "default")
              and stored(kube, "configmaps", "m", "kube-root-ca.crt"))
        kube.run(keeper._see(kube.store.get(b"/registry/namespaces/m").value))
        revision = kube.store.revision
        kube.run(keeper._see(was.value))
        assert kube.store.revision == revision
        assert [kv.key for kv in kube.store.range(prefix=b"/registry/") if b"/n/" in kv.key] == []


def test_a_namespace_that_comes_again_is_another() -> None:
    """A server that is still at the end of the one before takes nothing from it."""
    with replicas(2) as (kube, other):
        keeper, faster = other.api.housekeeping, kube.api.housekeeping
        assert keeper is not None and faster is not None
        begun, go_on = asyncio.Event(), asyncio.Event()
        empty, empty_faster = keeper._empty, faster._empty

        async def slow(*what: str) -> tuple[bytes, int] | None:
            begun.set()
            await go_on.wait()
            return await empty(*what)

        async def behind_it(*what: str) -> tuple[bytes, int] | None:
            await begun.wait()
            return await empty_faster(*what)
        keeper._empty = slow                   # type: ignore[method-assign]
        faster._empty = behind_it              # type: ignore[method-assign]
        kube.make(NAMESPACES, {"metadata": {"name": "n"}})
        kube.call("DELETE", N)
        until(kube, lambda: not stored(kube, "namespaces", "n"))
        kube.make(NAMESPACES, {"metadata": {"name": "n"}})
        kube.make(MAPS, config_map("mine"))
        old, = keeper._ending.values()
        go_on.set()
        kube.run(asyncio.wait_for(old, 20))
        assert stored(kube, "configmaps", "n", "mine") and finalizers(kube) == ["kubernetes"]
        kube.call("DELETE", N)                 # and has an end of its own
        until(kube, lambda: not stored(kube, "namespaces", "n"))


class Moody:
    """An admission plugin that refuses the first delete of each config map."""

    name, operations = "Moody", frozenset({"DELETE"})

    def __init__(self, code: int) -> None:
        self.code, self.seen = code, set[str]()

    def validate(self, call: Call) -> None:
        if call.resource.kind == "ConfigMap" and call.name not in self.seen:
            self.seen.add(call.name)
            error = forbidden(call, "not now")
            error.code = self.code
            raise error


@pytest.mark.parametrize("code", [403, 409])
def test_what_fails_at_the_end_is_tried_again(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A refusal, also one that sounds as if the object were another, and errors of the store."""
    monkeypatch.setattr(housekeeping, "FIRST_PAUSE", 0.0)
    with replicas(1) as (kube,):
        kube.api.admission = Chain([Moody(code)])
        remove, errors = kube.api.objects.remove, [NoSpaceError("full"), CompactedError(1, 2)]

        async def failing(key: bytes, revision: int) -> int:
            if key.endswith(b"/c2") and errors:
                raise errors.pop()
            return await remove(key, revision)
        kube.api.objects.remove = failing      # type: ignore[method-assign]
        kube.make(NAMESPACES, {"metadata": {"name": "n"}})
        for number in range(3):
            kube.make(MAPS, config_map(f"c{number}"))
        kube.call("DELETE", N)
        until(kube, lambda: not stored(kube, "namespaces", "n"))
        assert errors == []


def test_what_comes_while_the_rest_is_deleted() -> None:
    """A create that was admitted before the end began: it goes, too."""
    with replicas(1) as (kube,):
        keeper = kube.api.housekeeping
        assert keeper is not None
        delete = keeper._delete

        async def delete_and_make(resource: Resource, *what: str) -> None:
            await delete(resource, *what)
            if what[1] == "a":
                kube.store.put(b"/registry/configmaps/n/b", orjson.dumps(config_map("b")))
        keeper._delete = delete_and_make       # type: ignore[method-assign]
        kube.make(NAMESPACES, {"metadata": {"name": "n"}})
        kube.make(MAPS, config_map("a"))
        kube.call("DELETE", N)
        until(kube, lambda: not stored(kube, "namespaces", "n"))
        assert not stored(kube, "configmaps", "n", "b")


def test_what_fails_at_the_beginning_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "FIRST_PAUSE", 0.0)
    with replicas(1) as (kube,):
        keeper, errors = kube.api.housekeeping, [NoSpaceError("full")] * 3
        assert keeper is not None
        plant = keeper._plant

        async def failing(*what: Any) -> None:
            if errors and what[-1] == "n":
                raise errors.pop()
            await plant(*what)
        keeper._plant = failing                # type: ignore[method-assign]
        kube.make(NAMESPACES, {"metadata": {"name": "n"}})
        until(kube, lambda: stored(kube, "serviceaccounts", "n", "default")
              and stored(kube, "configmaps", "n", "kube-root-ca.crt"))


def test_a_watch_whose_past_is_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Housekeeping looks at everything as it is now, and goes on."""
    monkeypatch.setattr(housekeeping, "FIRST_PAUSE", 0)
    store = kvcore.open()
    with Kube(store) as kube:                  # without housekeeping
        keeper = Housekeeping(kube.api)
        kube.make(NAMESPACES, {"metadata": {"name": "n"}})
        kube.make(NAMESPACES, {"metadata": {"name": "m"}})
        kube.make(MAPS, config_map("c"))
        store.compact(store.revision)

        async def begin() -> None:
            keeper._begin(1)
        kube.run(begin())
        for name in ("n", "m"):
            until(kube, lambda name=name: stored(  # type: ignore[misc]
                kube, "serviceaccounts", name, "default"))
        kube.settle()
        kube.call("DELETE", N)
        until(kube, lambda: not stored(kube, "namespaces", "n"))
        kube.call("DELETE", "/api/v1/namespaces/m/serviceaccounts/default")
        until(kube, lambda: stored(kube, "serviceaccounts", "m", "default"))
        kube.run(keeper.stop())


def test_an_end_that_was_interrupted_goes_on() -> None:
    store = kvcore.open()
    with Kube(store) as kube:                  # without housekeeping
        kube.make(NAMESPACES, {"metadata": {"name": "n"}})
        kube.make(MAPS, config_map("a"))
        kube.call("DELETE", N)
        kube.run(kube.api.stop())
        other = Kube(store, housekeeping=True)
        other.run(other.api.start())
        until(other, lambda: not stored(other, "namespaces", "n"))
        other.run(other.api.stop())
        other.loop.close()


def test_deletes_of_pods_that_were_cut_short_are_done() -> None:
    """Behind the first of the two writes; pods that somebody holds, or that have grace, stay."""
    store, pods = kvcore.open(), "/api/v1/namespaces/default/pods"
    with Kube(store) as kube:                  # without housekeeping
        for made in (pod("cut"), pod("held", finalizers=["x.y/z"]), pod("grace", node="n"),
                     pod("other", annotations={"a": "deletionTimestamp"})):
            kube.make(pods, made)
        for name in ("held", "grace"):
            kube.call("DELETE", f"{pods}/{name}")

        async def die(key: bytes, revision: int) -> int:
            raise asyncio.CancelledError

        kube.api.objects.remove = die          # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            kube.call("DELETE", f"{pods}/cut")
        assert stored(kube, "pods", "default", "cut")
        store.put(b"/registry/pods/default/rubbish", b"deletionTimestamp")
        kube.run(kube.api.stop())
        other = Kube(store, housekeeping=True)
        other.run(other.api.start())
        assert {name: stored(other, "pods", "default", name)
                for name in ("cut", "held", "grace", "other", "rubbish")} == {
            "cut": False, "held": True, "grace": True, "other": True, "rubbish": True}
        other.run(other.api.stop())
        other.loop.close()


def test_a_foreign_finalizer_of_the_namespace_stays() -> None:
    with replicas(1) as (kube,):
        kube.make(NAMESPACES, {"metadata": {"name": "n"}, "spec": {"finalizers": ["x.y/z"]}})
        kube.call("DELETE", N)
        until(kube, lambda: finalizers(kube) == ["x.y/z"])
        last = kube.call("PUT", f"{N}/finalize", {"metadata": {"name": "n"}, "spec": {}})
        assert last.code == 200 and not stored(kube, "namespaces", "n")


def finalizers(kube: Kube) -> list[str]:
    found = kube.store.get(b"/registry/namespaces/n")
    assert found is not None
    names: list[str] = orjson.loads(found.value)["spec"].get("finalizers", [])
    return names


class Watched:
    """A store that remembers its watches, and can be told to refuse some."""

    def __init__(self, store: kvcore.Store) -> None:
        self._store, self.watches, self.refuse = store, list[Any](), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def watch(self, **options: Any) -> Any:
        if self.refuse:
            self.refuse -= 1
            raise kvcore.errors.StorageError("not now")
        self.watches.append(self._store.watch(**options))
        return self.watches[-1]


@pytest.mark.parametrize("refused", [0, 2])
def test_watches_that_end_begin_anew(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    """What happens meanwhile is not missed, nor what happens afterwards."""
    monkeypatch.setattr(housekeeping, "FIRST_PAUSE", 0)
    with replicas(1) as (kube,):
        keeper, store = kube.api.housekeeping, Watched(kube.store)
        assert keeper is not None
        kube.run(keeper.stop())
        monkeypatch.setattr(kube.api, "store", store)
        kube.run(keeper.start())
        kube.run(asyncio.sleep(0))
        assert len(store.watches) == 3
        for watch in store.watches:
            watch.cancel()
        store.refuse = refused
        kube.make(NAMESPACES, {"metadata": {"name": "n"}})
        until(kube, lambda: stored(kube, "serviceaccounts/n/default"))
        until(kube, lambda: stored(kube, "configmaps/n/kube-root-ca.crt"))

        async def again() -> None:
            while len(store.watches) < 6:
                await asyncio.sleep(0)
        kube.run(asyncio.wait_for(again(), 20))
        assert keeper.restarts == 3 + refused
        kube.call("DELETE", f"{N}/serviceaccounts/default")
        until(kube, lambda: stored(kube, "serviceaccounts/n/default"))
        kube.make(NAMESPACES, {"metadata": {"name": "m"}})
        until(kube, lambda: stored(kube, "serviceaccounts/m/default"))


@pytest.mark.parametrize("ended", [False, True])
def test_the_end_of_a_namespace_is_tried_again(monkeypatch: pytest.MonkeyPatch, ended: bool
                                               ) -> None:
    """The watch that waits for the last object does not begin, or ends; the namespace goes all the
    same."""
    monkeypatch.setattr(housekeeping, "FIRST_PAUSE", 0)
    with replicas(1) as (kube,):
        store = Watched(kube.store)
        kube.make(NAMESPACES, {"metadata": {"name": "n"}})
        kube.make(MAPS, config_map("held", finalizers=["mine/x"]))
        monkeypatch.setattr(kube.api, "store", store)
        store.refuse = 2
        kube.call("DELETE", N)

        async def waits() -> None:
            while not store.watches:
                await asyncio.sleep(0)
        kube.run(asyncio.wait_for(waits(), 20))
        if ended:
            store.watches.pop().cancel()
            kube.run(asyncio.wait_for(waits(), 20))
        kube.call("PATCH", f"{MAPS}/held", {"metadata": {"finalizers": None}}, patch="merge")
        until(kube, lambda: not stored(kube, "namespaces/n"))


def test_foreign_bytes_in_a_namespace_that_ends() -> None:
    """They stay, and so does the namespace; when they are gone it goes."""
    with replicas(1) as (kube,):
        kube.make(NAMESPACES, {"metadata": {"name": "n"}})
        kube.store.put(b"/registry/pods/n/foreign", b"\xff\x00")
        kube.make(MAPS, config_map("a"))
        kube.call("DELETE", N)
        until(kube, lambda: not stored(kube, "configmaps/n/a"))
        assert stored(kube, "pods/n/foreign") and stored(kube, "namespaces/n")
        kube.store.delete(b"/registry/pods/n/foreign")
        until(kube, lambda: not stored(kube, "namespaces/n"))


def test_a_start_that_fails_leaves_nothing() -> None:
    """Neither a task nor a watch of the store, which goes on without the server."""
    store = kvcore.open()
    kube = Kube(store, housekeeping=True)

    async def full(*what: Any) -> int:
        raise NoSpaceError("full")
    kube.api.objects.create = full             # type: ignore[method-assign]
    with pytest.raises(NoSpaceError):
        kube.run(kube.api.start())
    assert {t for t in asyncio.all_tasks(kube.loop) if not t.done()} == set()
    assert kube.api.feed._watch.cancelled
    kube.loop.close()
    store.close()


def test_stop_ends_everything() -> None:
    with replicas(1) as (kube,):
        kube.make(NAMESPACES, {"metadata": {"name": "n"}})
        kube.make(f"{N}/pods", pod("p", "n1", finalizers=["x.y/z"]))
        kube.call("DELETE", N)
        kube.run(kube.api.stop())
        assert {t for t in asyncio.all_tasks(kube.loop) if not t.done()} == set()
