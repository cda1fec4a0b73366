# SPDX-License-Identifier: Apache-2.0
"""The chain of admission plugins: order, operations, time taken.

Named invariant (once each): a plugin's `admit` runs at most once a request, and again only when the
plugin asks for reinvocation and a later one changed the object.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter
from typing import Any, Protocol

from kvcore.kube.call import Call

__all__ = ["Chain", "Plugin"]

ALL_OPERATIONS = frozenset({"CREATE", "UPDATE", "DELETE", "CONNECT"})


class Plugin(Protocol):
    """What a plugin has. `operations`: those it wants to hear of. `admit` and `validate` may be
    missing."""

    name: str
    operations: frozenset[str]


Hook = Callable[[Call], Awaitable[None] | None]


class Chain:
    """Plugins in order. `observe(plugin, type, operation, rejected, seconds)` takes the times."""

    def __init__(self, plugins: Iterable[Plugin] = (),
                 observe: Callable[[str, str, str, bool, float], None] | None = None) -> None:
        self.plugins = tuple(plugins)
        self._observe = observe
        self._hooks: dict[tuple[str, str], list[tuple[str, Hook]]] = {}
        for operation in ALL_OPERATIONS:
            for kind in ("admit", "validate"):
                self._hooks[kind, operation] = [
                    (p.name, getattr(p, kind)) for p in self.plugins
                    if operation in p.operations and hasattr(p, kind)]

    def mutate(self, call: Call) -> Awaitable[None] | None:
        return self._run("admit", call)

    def validate(self, call: Call) -> Awaitable[None] | None:
        return self._run("validate", call)

    def _run(self, kind: str, call: Call) -> Awaitable[None] | None:
        """Without a coroutine as long as no plugin waits for anything."""
        hooks = self._hooks[kind, call.operation]
        for i, (name, hook) in enumerate(hooks):
            before = perf_counter()
            rejected = True
            waiting = None
            try:
                waiting = hook(call)
                rejected = False
            finally:
                if waiting is None:
                    self._say(name, kind, call, rejected, perf_counter() - before)
            if waiting is not None:
                return self._rest(kind, call, hooks[i + 1:], name, waiting, before)
        return None

    async def _rest(self, kind: str, call: Call, hooks: list[tuple[str, Hook]], name: str,
                    waiting: Any, before: float) -> None:
        while True:
            rejected = True
            try:
                if waiting is not None:
                    await waiting
                rejected = False
            finally:
                self._say(name, kind, call, rejected, perf_counter() - before)
            if not hooks:
                return
            (name, hook), *hooks = hooks
            before = perf_counter()
            waiting = hook(call)

    def _say(self, name: str, kind: str, call: Call, rejected: bool, seconds: float) -> None:
        if self._observe is not None:
            self._observe(name, kind, call.operation, rejected, seconds)
