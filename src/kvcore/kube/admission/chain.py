# SPDX-License-Identifier: Apache-2.0
"""The chain of admission plugins: order, operations, time taken, and whose fault it was.

    mutate    admit(call) of each plugin, in order; once more when one of them asks for it
    validate  validate(call) of each plugin, in order
    deferred  (async_admission) validate after the write; a refused object is deleted again

A plugin is an object with `name`, `operations` and one or both of

    def admit(self, call):       may change call.object; create and update
    def validate(self, call):    only looks
    async def start(self, api):  before the first call          async def stop(self): after the last

Both hooks return None, or something to be awaited. To refuse, raise `forbidden(call, "because")`
or any ApiError. A function is a plugin too: see `mutating` and `validating`. What else a plugin
raises is told as 500 InternalError with the plugin's name, and logged; the server lives on.

    @validating("CREATE", resources=["pods"])
    def no_latest(call):
        for container in call.object["spec"]["containers"]:
            if container["image"].endswith(":latest"):
                raise forbidden(call, "the tag latest is not allowed")

Named invariants: **once each**: a hook runs once a request and phase, and `admit` a second time
only when a plugin set `review(call).again`; **first refusal ends it**; **nobody pays for nothing**:
a chain none of whose plugins waits makes no coroutine.
Thread safety: the server's event loop. Source: apiserver admission (chain.go, reinvocation.go,
metrics). May not know: HTTP transport.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from kvcore.kube import status
from kvcore.kube.call import Call
from kvcore.kube.storage import Changed

if TYPE_CHECKING:
    from kvcore.kube.api import Api

__all__ = ["ALL_OPERATIONS", "Chain", "FunctionPlugin", "Hook", "Observe", "Plugin", "Review",
           "as_plugin", "forbidden", "mutating", "review", "validating"]

_log = logging.getLogger("kvcore.kube.admission")

ALL_OPERATIONS = frozenset({"CREATE", "UPDATE", "DELETE", "CONNECT"})
WRITES = frozenset({"CREATE", "UPDATE"})

Hook = Callable[[Call], Awaitable[None] | None]
Seconds = Callable[[float], None]
Observe = Callable[[str, str, str, bool], Seconds]         # name, type, operation, rejected
Timed = tuple[str, Hook, Seconds]


class Plugin(Protocol):
    """What a plugin has. `operations`: those it wants to hear of. `admit`, `validate`, `start` and
    `stop` may be missing."""

    name: str
    operations: frozenset[str]


class Review:
    """What admission remembers of one call.

    `again`: run the mutating plugins once more; `round`: 0, then 1; `values`: plugins' own, by
    name; `annotations`: for the audit log; `after`: told when the call is over, whether it was
    stored.
    """

    __slots__ = ("again", "round", "values", "annotations", "after")

    def __init__(self) -> None:
        self.again, self.round = False, 0
        self.values: dict[str, Any] = {}
        self.annotations: dict[str, str] = {}
        self.after: list[Callable[[bool], None]] = []

    def finish(self, stored: bool) -> None:
        """Tells those who wait for the end of the call; once."""
        after, self.after = self.after, []
        for told in after:
            told(stored)


def review(call: Call) -> Review:
    """The call's Review, made when first asked for."""
    if call.admission is None:
        call.admission = Review()
    return call.admission


def forbidden(call: Call, why: str, causes: Iterable[status.Cause] = ()) -> status.ApiError:
    """403 as admission says it: the name, or else the generateName, or else "Unknown"."""
    metadata = call.object.get("metadata") or {}
    name = call.name or metadata.get("name") or metadata.get("generateName") or "Unknown"
    error = status.forbidden(call.resource, name, why)
    found = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    if found and error.details is not None:
        error.details["causes"] = found
    return error


class Chain:
    """Plugins in order; see the module.

    Args: observe: gives, for a hook, what takes its times; async_admission: defer validation of
    creates.
    """

    def __init__(self, plugins: Iterable[Plugin] = (), observe: Observe | None = None, *,
                 async_admission: bool = False) -> None:
        self.plugins = tuple(plugins)
        self.async_admission = async_admission
        self.rolled_back = self.kept = 0      # refused late: deleted; changed by then, so left
        self._observe = observe
        self._late: set[asyncio.Task[None]] = set()
        self._hooks: dict[tuple[str, str], list[Timed]] = {}
        self._find_hooks()

    def _find_hooks(self) -> None:
        observe = self._observe or (lambda *said: lambda seconds: None)
        for operation in ALL_OPERATIONS:
            for kind in ("admit", "validate"):
                self._hooks[kind, operation] = [
                    (p.name, getattr(p, kind), observe(p.name, kind, operation, False))
                    for p in self.plugins if operation in p.operations and hasattr(p, kind)]

    async def start(self, api: Api) -> None:
        """Begin the work of plugins that have some beside the calls; before the first call. Times
        go to the Api's metrics, unless somebody else takes them."""
        if self._observe is None:
            self._observe = api.metrics.of_admission
            self._find_hooks()
        for plugin in self.plugins:
            if hasattr(plugin, "start"):
                await plugin.start(api)

    async def stop(self) -> None:
        """End it, after deferred validation has come to an end; idempotent."""
        while self._late:
            await asyncio.gather(*self._late, return_exceptions=True)
        for plugin in self.plugins:
            if hasattr(plugin, "stop"):
                await plugin.stop()

    def mutate(self, call: Call) -> Awaitable[None] | None:
        """`admit` of all; again, once, when a plugin asked for it."""
        waiting = self._run("admit", call)
        if waiting is not None:
            return self._mutate(call, waiting)
        if call.admission is not None and call.admission.again:
            return self._again(call)
        return None

    async def _mutate(self, call: Call, waiting: Awaitable[None]) -> None:
        await waiting
        if call.admission is not None and call.admission.again:
            second = self._again(call)
            if second is not None:
                await second

    def _again(self, call: Call) -> Awaitable[None] | None:
        review(call).again, review(call).round = False, 1
        return self._run("admit", call)

    def validate(self, call: Call) -> Awaitable[None] | None:
        """`validate` of all; or a promise to do so after the write."""
        if self.async_admission and call.operation == "CREATE" and not call.options.dry_run:
            review(call).after.append(lambda stored: self._defer(call) if stored else None)
            return None
        return self._run("validate", call)

    # --- running ---------------------------------------------------------------------------------

    def _run(self, kind: str, call: Call) -> Awaitable[None] | None:
        """Without a coroutine as long as no plugin waits for anything."""
        hooks = self._hooks[kind, call.operation]
        before, at = perf_counter(), 0
        try:
            for at, (_, hook, took) in enumerate(hooks):
                waiting = hook(call)
                if waiting is not None:
                    return self._rest(kind, call, hooks[at:], waiting, before)
                now = perf_counter()
                took(now - before)
                before = now
        except Exception as error:
            raise self._refused(hooks[at][0], kind, call, error, before) from error
        return None

    async def _rest(self, kind: str, call: Call, hooks: list[Timed],
                    waiting: Awaitable[None] | None, before: float) -> None:
        """From the first hook on that waits, which it does already."""
        (name, _, took), *hooks = hooks
        try:
            while True:
                if waiting is not None:
                    await waiting
                now = perf_counter()
                took(now - before)
                before = now
                if not hooks:
                    return
                (name, hook, took), *hooks = hooks
                waiting = hook(call)
        except Exception as error:
            raise self._refused(name, kind, call, error, before) from error

    def _refused(self, name: str, kind: str, call: Call, error: Exception,
                 before: float) -> status.ApiError:
        """A refusal as it is, anything else as the plugin's failure."""
        if self._observe is not None:
            self._observe(name, kind, call.operation, True)(perf_counter() - before)
        if isinstance(error, status.ApiError):
            return error
        _log.error("admission plugin %s failed", name, exc_info=error)
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return status.internal(f'admission plugin "{name}" failed to complete: {said}')

    # --- after the write -------------------------------------------------------------------------

    def _defer(self, call: Call) -> None:
        task = asyncio.get_running_loop().create_task(self._validate_late(call))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _validate_late(self, call: Call) -> None:
        late = replace(call, admission=None)
        refusal: status.ApiError | None = None
        try:
            waiting = self._run("validate", late)
            if waiting is not None:
                await waiting
        except status.ApiError as error:
            refusal = error
            await self._roll_back(call, error)
        finally:
            if late.admission is not None:
                late.admission.finish(refusal is None)

    async def _roll_back(self, call: Call, refusal: status.ApiError) -> None:
        """Deletes the object as it was written; what others made of it since stays."""
        try:
            await call.api.objects.remove(call.key, call.revision)
        except Changed:
            self.kept += 1
            _log.warning("%s was changed before it was refused, and stays: %s",
                         call.key.decode(), refusal.message)
        else:
            self.rolled_back += 1
            _log.warning("%s was refused and deleted again: %s", call.key.decode(), refusal.message)


# --- functions as plugins ------------------------------------------------------------------------

class FunctionPlugin:
    """A function that is asked for some operations and resources."""

    def __init__(self, function: Hook, kind: str, operations: Iterable[str] = (),
                 resources: Iterable[str] = (), name: str = "") -> None:
        self.operations = frozenset(operations) or WRITES
        if unknown := self.operations - ALL_OPERATIONS:
            raise ValueError(f"operations are {', '.join(sorted(ALL_OPERATIONS))}, "
                             f"got {', '.join(sorted(unknown))}")
        self.name = name or getattr(function, "__name__", type(function).__name__)
        self.function, self.kind = function, kind
        self.resources = frozenset(resources)
        setattr(self, "admit" if kind == "mutating" else "validate", self._call)

    def _call(self, call: Call) -> Awaitable[None] | None:
        if self.resources:
            sub = call.target.subresource
            asked = f"{call.resource.qualified}/{sub}" if sub else call.resource.qualified
            if asked not in self.resources:
                return None
        return self.function(call)

    def __call__(self, call: Call) -> Awaitable[None] | None:
        return self.function(call)


def mutating(*operations: str, resources: Iterable[str] = (),
             name: str = "") -> Callable[[Hook], FunctionPlugin]:
    """A decorator: the function may change call.object.

    Args: operations: CREATE and UPDATE when none is named; resources: as errors name them, "pods",
    "deployments.apps", "pods/status"; all when none is named, subresources too; name: that of the
    function.
    """
    return lambda function: FunctionPlugin(function, "mutating", operations, resources, name)


def validating(*operations: str, resources: Iterable[str] = (),
               name: str = "") -> Callable[[Hook], FunctionPlugin]:
    """A decorator: the function may refuse. Arguments as for `mutating`."""
    return lambda function: FunctionPlugin(function, "validating", operations, resources, name)


def as_plugin(thing: Any) -> Plugin:
    """What `serve(admission=[...])` takes: a plugin, a class of one, or a function, which then
    validates creates and updates. Errors: TypeError."""
    if isinstance(thing, type):
        thing = thing()
    if hasattr(thing, "admit") or hasattr(thing, "validate"):
        if not hasattr(thing, "name"):
            thing.name = type(thing).__name__
        if not hasattr(thing, "operations"):
            thing.operations = WRITES
        plugin: Plugin = thing
        return plugin
    if callable(thing):
        return FunctionPlugin(thing, "validating")
    raise TypeError(f"an admission plugin has admit(call) or validate(call), or is a function; "
                    f"got {type(thing).__name__}")
