# SPDX-License-Identifier: Apache-2.0
"""Other objects, as admission needs them: out of the watch cache, in about a microsecond.

    Lister("", "v1", "namespaces").get(api, "", "default")     state[key].object
                                  .live(api, "", "default")    the store itself
                                  .all(api, "web")             one tuple until something changes

Named invariants: **shared**: what comes back is the cache's own and is only read; **same tuple**:
as long as nothing of the resource has changed `all` gives the same tuple, so that what a plugin
makes of it may be kept beside it (`Derived`).
Thread safety: the server's event loop. May not know: plugins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakKeyDictionary, ref

import orjson

from kvcore.kube.caching import Cacher, damage
from kvcore.kube.call import Object
from kvcore.kube.entry import Damaged, readable
from kvcore.kube.resources import Resource

if TYPE_CHECKING:
    from kvcore.kube.api import Api

__all__ = ["Derived", "Lister", "namespace", "objects"]

KEPT = 4096                       # namespaces of which a Lister remembers the objects
T = TypeVar("T")
NONE: tuple[Object, ...] = ()


class Lister:
    """Objects of one resource. Of a resource that the server does not serve there are none."""

    __slots__ = ("path", "resource", "prefix", "_api", "_memo")

    def __init__(self, group: str, version: str, plural: str) -> None:
        self.path = group, version, plural
        self.resource: Resource | None = None
        self.prefix = b""
        self._api: ref[Api] | None = None      # weak: `_listers` must not keep an Api alive
        self._memo: dict[str, tuple[Cacher, int, tuple[Object, ...]]] = {}

    def cacher(self, api: Api) -> Cacher | None:
        """The watch cache of the resource. Cost: 0.1 us; the first time one read of all of it."""
        if self._api is None or self._api() is not api:
            self._api, self._memo = ref(api), {}
            self.resource = api.resources.of_path(*self.path)
            self.prefix = api.layout.prefix(self.resource) if self.resource else b""
        if self.resource is None:
            return None
        return api.feed.cachers.get(self.prefix) or api.feed.cacher(self.resource)

    def key(self, namespace: str, name: str) -> bytes:
        """After `cacher`, which finds the prefix."""
        return self.prefix + (f"{namespace}/{name}" if namespace else name).encode()

    def get(self, api: Api, namespace: str, name: str) -> Object | None:
        """As the cache has it."""
        cacher = self.cacher(api)
        if cacher is None:
            return None
        entry = cacher.state.get(self.key(namespace, name))
        return None if entry is None else entry.object

    def live(self, api: Api, namespace: str, name: str) -> Object | None:
        """As the store has it now; the caller's own copy. Errors: 500 for bytes that are none."""
        if self.cacher(api) is None:
            return None
        key = self.key(namespace, name)
        found = api.store.get(key)
        if found is None:
            return None
        assert self.resource is not None
        try:
            obj: Object = orjson.loads(readable(found.value, found.mod_revision,
                                                self.resource.kind))
        except Damaged as error:
            raise damage(key, str(error)) from None
        return obj

    def all(self, api: Api, namespace: str = "") -> tuple[Object, ...]:
        """All objects, or those of a namespace, by name."""
        cacher = self.cacher(api)
        if cacher is None or not cacher.state:
            return NONE
        memo = self._memo.get(namespace)
        if memo is not None and memo[0] is cacher and memo[1] == cacher.revision:
            return memo[2]
        start = b"%b%b/" % (self.prefix, namespace.encode()) if namespace else self.prefix
        found = tuple(e.object for e in cacher.entries(start, start[:-1] + b"0"))
        if memo is not None and same(memo[2], found):
            found = memo[2]
        if len(self._memo) >= KEPT:
            self._memo.clear()
        self._memo[namespace] = cacher, cacher.revision, found
        return found


def same(a: tuple[Object, ...], b: tuple[Object, ...]) -> bool:
    """Whether both hold the very same objects."""
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


class Derived(Generic[T]):
    """What a function makes of all objects (of a namespace), made anew when they have changed."""

    __slots__ = ("lister", "make", "_made")

    def __init__(self, lister: Lister, make: Callable[[tuple[Object, ...]], T]) -> None:
        self.lister, self.make = lister, make
        self._made: dict[str, tuple[tuple[Object, ...], T]] = {}

    def get(self, api: Api, namespace: str = "") -> T:
        found = self.lister.all(api, namespace)
        made = self._made.get(namespace)
        if made is not None and made[0] is found:
            return made[1]
        if len(self._made) >= KEPT:
            self._made.clear()
        value = self.make(found)
        self._made[namespace] = found, value
        return value


_listers: WeakKeyDictionary[Any, dict[Resource, Lister]] = WeakKeyDictionary()


def _lister(api: Api, resource: Resource) -> Lister:
    known = _listers.setdefault(api, {})
    lister = known.get(resource)
    if lister is None:
        lister = known[resource] = Lister(resource.group, resource.version, resource.plural)
    return lister


def objects(api: Api, resource: Resource, namespace: str = "") -> tuple[Object, ...]:
    """All objects of a resource (in a namespace), by name; shared, only to be read."""
    return _lister(api, resource).all(api, namespace)


def namespace(api: Api, name: str) -> Object | None:
    """A Namespace: the cache's, or else the store's; None if there is none."""
    resource = api.resources.of_path("", "v1", "namespaces")
    if resource is None:
        return None
    lister = _lister(api, resource)
    return lister.get(api, "", name) or lister.live(api, "", name)
