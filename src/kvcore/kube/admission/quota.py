# SPDX-License-Identifier: Apache-2.0
"""ResourceQuota: what a namespace has used, counted before it is used.

    create ──> waits for the worker of its namespace ──┐ several at once
    worker:  quotas as they are (cache, own last write) <┘
             each request against them, one after another: 403 or counted in
             one write a quota (put if unchanged); changed by others: read it, and once more
    QuotaStatus (quota_status.py) counts from nothing when a quota appears or objects go

Named invariants:
1. **never above**: status.used of a quota is written by compare-and-set and only to values within
   status.hard, so requests that come at once share what is left and no more.
2. **counted before stored**: a request in flight (counted, not yet in the cache) is in `inflight`,
   and a recount adds it.
3. **given back**: what was counted for a request that is not stored is subtracted again.
With several servers over one store 1 holds for their requests; but a recount of one does not know
what another has in flight, so after a deletion a quota may be exceeded by that much (upstream's
kube-controller-manager counts beside the API server in the same way).
Thread safety: the server's event loop; several servers agree through the store.
Source: apiserver admission/plugin/resourcequota (controller.go).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvcore import Range, Txn
from kvcore.kube import status
from kvcore.kube.admission.chain import WRITES, forbidden, review
from kvcore.kube.admission.lookups import Lister
from kvcore.kube.admission.podresources import Amounts, add, amounts
from kvcore.kube.admission.quota_status import Inflight, QuotaStatus
from kvcore.kube.admission.usage import (
    Evaluator,
    Scope,
    evaluator,
    exceeding,
    matches,
    scopes_of,
    subtract,
)
from kvcore.kube.call import Call, Object
from kvcore.kube.codec import object_of
from kvcore.kube.storage import Changed

if TYPE_CHECKING:
    from kvcore.kube.api import Api

__all__ = ["Limited", "ResourceQuota"]

_log = logging.getLogger("kvcore.kube.admission")

ATTEMPTS = 4                             # writes of a quota that others change meanwhile
TIMEOUT_SECONDS = 10.0
WRITTEN_MAX = 1000


@dataclass(frozen=True)
class Limited:
    """What may only be had where a quota covers it (ResourceQuotaConfiguration)."""

    group: str
    resource: str
    contains: tuple[str, ...] = ()
    scopes: tuple[Scope, ...] = ()

    @property
    def qualified(self) -> str:
        return f"{self.resource}.{self.group}" if self.group else self.resource


@dataclass
class State:
    """A quota as a worker sees it; `used` runs ahead of what is stored."""

    key: bytes
    object: Object
    revision: int
    hard: Amounts
    used: Amounts
    dirty: bool = False

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])

    @classmethod
    def of(cls, key: bytes, obj: Object, revision: int) -> State:
        now = obj.get("status") or {}
        return cls(key, obj, revision, amounts(now.get("hard")), amounts(now.get("used")))


@dataclass
class Waiter:
    call: Call
    evaluator: Evaluator
    done: asyncio.Future[None]
    used: dict[bytes, Amounts] = field(default_factory=dict)     # by quota's key


@dataclass
class Namespace:
    """The work of one namespace; there is a task as long as there is some."""

    waiting: list[Waiter] = field(default_factory=list)
    returned: list[Inflight] = field(default_factory=list)
    recount: bool = False


class ResourceQuota:
    """Args: limited: resources that need a quota."""

    name = "ResourceQuota"
    operations = WRITES

    def __init__(self, limited: Iterable[Limited] = ()) -> None:
        self.limited = tuple(limited)
        self.quotas = Lister("", "v1", "resourcequotas")
        self._work: dict[str, Namespace] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._inflight: dict[str, dict[int, Inflight]] = {}
        self._written: dict[bytes, tuple[int, Object]] = {}
        self._status: QuotaStatus | None = None

    async def start(self, api: Api) -> None:
        """Begin to keep status.used of all quotas right."""
        self._status = QuotaStatus(api, self.quotas,
                                   lambda namespace: self._recount(api, namespace))
        self._status.start()

    async def stop(self) -> None:
        if self._status is not None:
            await self._status.stop()
            self._status = None
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def validate(self, call: Call) -> Awaitable[None] | None:
        namespace = call.namespace
        if not namespace or call.resource.qualified == "namespaces":
            return None
        if not self.quotas.all(call.api, namespace) and not self.limited:
            return None
        found = evaluator(call.resource)
        if found is None or not found.handles(call):
            return None
        return self._evaluate(call, found)

    async def _evaluate(self, call: Call, found: Evaluator) -> None:
        waiter = Waiter(call, found, asyncio.get_running_loop().create_future())
        self._namespace(call.api, call.namespace).waiting.append(waiter)
        try:
            await asyncio.wait_for(waiter.done, TIMEOUT_SECONDS)
        except asyncio.TimeoutError:
            raise status.internal("resource quota evaluation timed out") from None

    # --- the worker of a namespace ---------------------------------------------------------------

    def _namespace(self, api: Api, name: str) -> Namespace:
        work = self._work.get(name)
        if work is None:
            work = self._work[name] = Namespace()
            task = asyncio.get_running_loop().create_task(self._serve(api, name, work))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return work

    def _recount(self, api: Api, namespace: str) -> None:
        self._namespace(api, namespace).recount = True

    async def _serve(self, api: Api, name: str, work: Namespace) -> None:
        try:
            while work.waiting or work.recount or work.returned:
                if work.returned:
                    returned, work.returned = work.returned, []
                    await self._give_back(api, name, returned)
                if work.recount:
                    work.recount = False
                    await self._count(name)
                batch, work.waiting = work.waiting, []
                try:
                    await self._check(api, name, batch)
                except Exception as error:       # of the store: all of the batch are told
                    for waiter in batch:
                        if not waiter.done.done():
                            waiter.done.set_exception(error)
        finally:
            del self._work[name]
            for waiter in work.waiting:
                waiter.done.cancel()

    async def _count(self, name: str) -> None:
        if self._status is None:
            return                               # nobody keeps the status: it is only counted up
        inflight = self._inflight.get(name) or {}
        try:
            for key, obj, revision in await self._status.recount(name, inflight):
                self._written[key] = revision, obj
        except Exception as error:               # the next change counts again
            _log.warning("quotas of %s could not be counted: %s", name, error)

    async def _check(self, api: Api, name: str, batch: list[Waiter]) -> None:
        states, pending = self._states(api, name), batch
        for attempt in reversed(range(ATTEMPTS)):
            pending = [w for w in pending if self._request(w, name, states)]
            changed, wrong = await self._write(api, [s for s in states if s.dirty])
            if wrong is None:
                for waiter in pending:
                    self._accept(waiter, name)
                return
            if not attempt:
                for waiter in pending:
                    self._drop(waiter, name, states)
                    refuse(waiter, wrong)
                return
            for waiter in pending:               # of those not written it is asked again
                waiter.used = {key: used for key, used in waiter.used.items()
                               if not any(s.dirty and s.key == key for s in states)}
            states = changed

    def _states(self, api: Api, namespace: str) -> list[State]:
        """The quotas, by name: the cache's, or what this worker wrote if that is newer."""
        cacher = self.quotas.cacher(api)
        if cacher is None:
            return []
        start = self.quotas.key(namespace, "")
        states = []
        for entry in cacher.entries(start, start[:-1] + b"0"):
            revision, obj = self._written.get(entry.key, (0, entry.object))
            if revision <= entry.revision:
                self._written.pop(entry.key, None)
                revision, obj = entry.revision, entry.object
            states.append(State.of(entry.key, obj, revision))
        return states

    def _request(self, waiter: Waiter, namespace: str, states: list[State]) -> bool:
        """Counts the request in; False: it is answered already."""
        if waiter.done.done():                   # nobody waits any more
            self._drop(waiter, namespace, [])
            return False
        try:
            used = check_request(waiter.call, waiter.evaluator, states, self.limited)
        except status.ApiError as refusal:
            waiter.done.set_exception(refusal)
            self._drop(waiter, namespace, [])
            return False
        if waiter.call.options.dry_run or not used and not waiter.used:
            waiter.done.set_result(None)
            return False
        waiter.used |= used
        for state in states:
            if state.key in used:
                state.used, state.dirty = add(state.used, used[state.key]), True
        return True

    async def _write(self, api: Api,
                     states: list[State]) -> tuple[list[State], status.ApiError | None]:
        """Writes them; those that others changed, as they are now, and what to say of that."""
        changed: list[State] = []
        wrong: status.ApiError | None = None
        for state in states:
            now = {**(state.object.get("status") or {}),
                   "used": {name: str(q) for name, q in sorted(state.used.items())}}
            obj = {**state.object, "status": now}
            try:
                revision = await api.objects.replace(state.key, api.codec.encode(obj),
                                                     state.revision)
            except Changed as other:
                resource = self.quotas.resource
                wrong = status.conflict(resource, state.name) if resource else status.internal("")
                if other.now is not None:
                    changed.append(State.of(state.key, object_of(other.now.value),
                                            other.now.mod_revision))
                continue
            state.dirty = False
            self._written[state.key] = revision, obj
        if len(self._written) > WRITTEN_MAX:     # what the cache has is not needed here
            self._written = {key: last for key, last in self._written.items()
                             if last[0] > api.feed.revision}
        return changed, wrong

    def _accept(self, waiter: Waiter, namespace: str) -> None:
        call = waiter.call
        if waiter.done.done():                   # it gave up while the quota was written
            self._drop(waiter, namespace, [])
            return
        if call.operation == "CREATE":
            self._inflight.setdefault(namespace, {})[id(call)] = Inflight(call, waiter.used)
            review(call).after.append(lambda stored: self._over(call, namespace, stored))
        waiter.done.set_result(None)

    def _drop(self, waiter: Waiter, namespace: str, unwritten: list[State]) -> None:
        """Gives back what was written for a request that will not go on."""
        dirty = {state.key for state in unwritten if state.dirty}
        used = {key: amount for key, amount in waiter.used.items() if key not in dirty}
        if used:
            self._namespace(waiter.call.api, namespace).returned.append(
                Inflight(waiter.call, used))

    def _over(self, call: Call, namespace: str, stored: bool) -> None:
        """The call has ended: it is in the cache, or it will hardly be stored."""
        inflight = self._inflight[namespace]
        if not stored:                           # it stays in flight until it is given back
            self._namespace(call.api, namespace).returned.append(inflight[id(call)])
            return
        del inflight[id(call)]
        if not inflight:
            del self._inflight[namespace]

    async def _give_back(self, api: Api, namespace: str, returned: list[Inflight]) -> None:
        """Subtracts exactly what was counted: another server may have requests in flight, too."""
        try:
            await api.objects.submit(Txn([], [Range(self.quotas.prefix)], []))   # behind all writes
            lost = [each for each in returned if not is_stored(api, each.call)]
            states = self._states(api, namespace)
            for _ in range(ATTEMPTS):
                for state in states:
                    for each in lost:
                        if state.key in each.used:
                            less = subtract(state.used, each.used[state.key])
                            state.used, state.dirty = state.used | {
                                name: less[name] for name in each.used[state.key]}, True
                states, wrong = await self._write(api, [s for s in states if s.dirty])
                if wrong is None:
                    break
        except Exception as error:               # the next recount finds it
            _log.warning("what is not used of quotas of %s was not given back: %s", namespace,
                         error)
        finally:
            inflight = self._inflight.get(namespace, {})
            for each in returned:
                inflight.pop(id(each.call), None)
            if not inflight:
                self._inflight.pop(namespace, None)


def is_stored(api: Api, call: Call) -> bool:
    """Whether the object of a call lies in the store, though the call failed (it was cancelled)."""
    found = api.store.get(call.key) if call.key else None
    uid = (call.object.get("metadata") or {}).get("uid")
    return found is not None and bool(uid) \
        and object_of(found.value)["metadata"].get("uid") == uid


def refuse(waiter: Waiter, error: Exception) -> None:
    if not waiter.done.done():
        waiter.done.set_exception(error)


# --- one request ---------------------------------------------------------------------------------

def check_request(call: Call, found: Evaluator, states: list[State],
                  limited: tuple[Limited, ...]) -> dict[bytes, Amounts]:
    """What it uses of each quota, by key; nothing is changed. Errors: 403."""
    now, obj = call.api.now(), call.object
    concerned: list[State] = []
    covered: set[str] = set()
    covered_scopes: set[str] = set()
    for state in states:
        if found.scoped:
            covered_scopes |= {scope["scopeName"] for scope in scopes_of(state.object)
                               if found.scope(scope, obj)}
        if not matches(found, state.object, state.hard, obj):
            continue
        names = [name for name in state.hard if found.counts(name)]
        silent = found.needs(names, obj)
        if silent:
            raise forbidden(call, f"failed quota: {state.name}: {silent}")
        if any(name not in state.used for name in names):
            raise forbidden(call, f"status unknown for quota: {state.name}, resources: "
                            f"{','.join(sorted(names))}")
        concerned.append(state)
        covered |= set(names)
    usage = found.usage(obj, now)
    negative = sorted(name for name, quantity in usage.items() if quantity.unscaled < 0)
    if negative:
        raise forbidden(call, f"quota usage is negative for resource(s): {','.join(negative)}")
    before = call.old if call.operation == "UPDATE" else None
    grown = usage if before is None else subtract(usage, found.usage(before, now))
    if limited and any(grown.values()):
        check_covered(call, found, limited, usage, covered, covered_scopes)
    used: dict[bytes, Amounts] = {}
    for state in concerned:
        more = grown if before is not None and matches(found, state.object, state.hard, before) \
            else usage
        requested = {name: quantity for name, quantity in more.items()
                     if quantity and name in state.hard}
        over = exceeding(requested, state.used, state.hard) \
            if call.target.subresource != "status" else []
        if over:
            raise forbidden(call, f"exceeded quota: {state.name}, "
                            f"requested: {listed(requested, over)}, "
                            f"used: {listed(state.used, over)}, "
                            f"limited: {listed(state.hard, over)}")
        if requested:
            used[state.key] = requested
    return used


def listed(values: Amounts, names: list[str]) -> str:
    return ",".join(f"{name}={values[name]}" for name in names if name in values)


def check_covered(call: Call, found: Evaluator, limited: tuple[Limited, ...], usage: Amounts,
                  covered: set[str], scopes: set[str]) -> None:
    """Resources and scopes that the configuration limits need a quota that covers them."""
    wanted = {name for each in limited if each.qualified == call.resource.qualified
              for name, quantity in usage.items() if quantity.unscaled > 0
              and any(part in name for part in each.contains)}
    if wanted - covered:
        raise forbidden(call, "insufficient quota to consume: "
                        f"{','.join(sorted(wanted - covered))}")
    for each in limited if found.scoped else ():
        missing = [scope for scope in each.scopes
                   if found.scope(scope, call.object) and scope["scopeName"] not in scopes]
        if missing:
            said = " ".join(f"{{{s['scopeName']} {s.get('operator', '')} "
                            f"[{' '.join(s.get('values') or ())}]}}" for s in missing)
            raise status.internal(f"insufficient quota to match these scopes: [{said}]")
