# SPDX-License-Identifier: Apache-2.0
"""Deleting objects: at once, gracefully, or once nobody holds them any more.

                        finalizers?          pods: a grace period?
    DELETE ── current ──┬─ some ── deletionTimestamp, MODIFIED ── the last finalizer goes: DELETED
                        ├─ none, grace > 0 ── deletionTimestamp in `grace` seconds, MODIFIED
                        │                      └─ DELETE with grace 0 (a kubelet's): DELETED
                        └─ none ── DELETED

A pod on no node, or one that has ended, has no grace. A delete of what is being deleted can only
shorten its grace. `propagationPolicy` puts the garbage collector's finalizers on the object
(`foregroundDeletion`, `orphan`); who takes them off is not here. Namespaces have their own way:
their phase becomes Terminating, and they go when `spec.finalizers` is empty (housekeeping.py).

Each attempt decides from what is stored and writes only if that is still there (storage.py); who
was slower decides again. Preconditions are looked at in each attempt.
Source: apiserver endpoints/handlers/delete.go, registry/rest/delete.go,
registry/generic/registry/store.go; kubernetes pkg/registry/core/{pod,namespace}.
"""

from __future__ import annotations

import asyncio
import logging
from calendar import timegm
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from time import strptime
from typing import Any

import orjson

from kvcore import KeyValue
from kvcore.kube import meta, status
from kvcore.kube.caching import Blame
from kvcore.kube.call import Call, Object, Options
from kvcore.kube.codec import object_of
from kvcore.kube.decode import decode_body
from kvcore.kube.gojson import json_type
from kvcore.kube.reading import list_objects
from kvcore.kube.request import Answer, is_true
from kvcore.kube.status import ApiError, Cause
from kvcore.kube.storage import Changed
from kvcore.kube.views import RETURNS_OBJECT

__all__ = ["DeleteOptions", "delete", "delete_collection", "delete_object"]

_log = logging.getLogger("kvcore.kube")

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
POLICIES = ("Foreground", "Background", "Orphan")
AT_ONCE = 64                                   # deletes of one collection under way together


@dataclass(slots=True)
class DeleteOptions(Options):
    """The body of a DELETE, or its query. `uid`, `revision`: preconditions."""

    grace: int | None = None                   # seconds
    policy: str | None = None                  # Foreground | Background | Orphan
    orphan: bool | None = None                 # the older way to say Orphan or Background
    uid: str | None = None
    revision: str | None = None

    @classmethod
    def read(cls, call: Call) -> DeleteOptions:
        """A body counts alone; without one the query does. Errors: 400, 415, 422."""
        if call.request.body:
            return cls.of_body(call)
        query = call.request.query
        found = cls()
        if "gracePeriodSeconds" in query:
            found.grace = _number(query["gracePeriodSeconds"])
        found.policy = query.get("propagationPolicy")
        if "orphanDependents" in query:
            found.orphan = is_true(query["orphanDependents"])
        if "dryRun" in query:
            found._dry(query["dryRun"].split("\n"))
        found.check()
        return found

    @classmethod
    def of_body(cls, call: Call) -> DeleteOptions:
        try:
            body = decode_body(call.request.body, call.request.headers.get("content-type", ""))
        except ApiError as error:
            raise _shorter(error) from None
        kind, version = body.get("kind") or "DeleteOptions", body.get("apiVersion") or "v1"
        if kind != "DeleteOptions":
            raise status.bad_request(f'no kind "{kind}" is registered for version "{version}" in '
                                     'scheme "pkg/runtime/scheme.go:111"')
        return cls.of_object(body)

    @classmethod
    def of_object(cls, body: Object) -> DeleteOptions:
        """Errors: 400 for values of other types; 422."""
        found = cls(grace=_typed(body, "gracePeriodSeconds", int),
                    policy=_typed(body, "propagationPolicy", str),
                    orphan=_typed(body, "orphanDependents", bool))
        before = _typed(body, "preconditions", dict) or {}
        found.uid = _typed(before, "uid", str)
        found.revision = _typed(before, "resourceVersion", str)
        dry_run = _typed(body, "dryRun", list)
        if dry_run:
            found._dry(dry_run)
        found.check()
        return found

    def said(self) -> Object:
        before = {"uid": self.uid, "resourceVersion": self.revision}
        fields = {"gracePeriodSeconds": self.grace, "orphanDependents": self.orphan,
                  "propagationPolicy": self.policy,
                  "preconditions": {k: v for k, v in before.items() if v is not None} or None,
                  "dryRun": ["All"] if self.dry_run else None}
        return {key: value for key, value in fields.items() if value is not None}

    def _dry(self, said: list[Any]) -> None:
        if any(value != "All" for value in said):
            raise status.invalid_options("DeleteOptions", [
                Cause.unsupported("dryRun", said, "All")])
        self.dry_run = bool(said)

    def check(self) -> None:
        causes = []
        if self.policy is not None:
            if self.orphan is not None:
                causes.append(Cause.invalid("propagationPolicy", self.policy, "orphanDependents "
                                            "and deletionPropagation cannot be both set"))
            if self.policy not in POLICIES:
                causes.append(Cause.unsupported("propagationPolicy", self.policy, *POLICIES, "nil"))
        if causes:
            raise status.invalid_options("DeleteOptions", causes)
        if self.grace is not None and self.grace < 0:
            self.grace = 1                     # upstream: less than nothing is nearly nothing


def _shorter(error: ApiError) -> ApiError:
    """Upstream does not say here what the object should have been."""
    said = "the object provided is unrecognized (must be of type Object): "
    if error.message.startswith(said):
        error.message = error.message.removeprefix(said).rpartition(" (")[0]
    return error


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise status.bad_request(f"strconv.ParseInt: parsing {status.shown(text)}: invalid "
                                 "syntax") from None


GO_TYPES = {int: "int64", str: "string", bool: "bool", list: "[]string", dict: "v1.Preconditions"}


def _typed(body: Object, name: str, kind: type) -> Any:
    value = body.get(name)
    if value is not None and type(value) is not kind:
        raise status.bad_request(f"json: cannot unmarshal {json_type(value)} into Go struct field "
                                 f"DeleteOptions.{name} of type {GO_TYPES[kind]}")
    return value


# --- one object -----------------------------------------------------------------------------------

async def delete(call: Call) -> Answer:
    """DELETE of one object. Returns: 200 with the object, or with a Status for kinds that do not
    show it; 202 if it waits for its dependents."""
    call.options = options = call.parsed or DeleteOptions.read(call)
    body, gone = await delete_object(call, options)
    return Answer(202 if not gone and options.orphan is False else 200, body)


async def delete_object(call: Call, options: DeleteOptions) -> tuple[bytes, bool]:
    """The call's object. Returns: what a DELETE answers, whether it is gone.

    Errors: 404, 409 for preconditions, whatever admission says.
    """
    api = call.api
    call.operation = "DELETE"
    call.key = api.layout.key(call.resource, call.namespace, call.name)
    work = _Deletion(call, replace(options))
    step = work.namespace if call.resource.kind == "Namespace" else work.step
    with Blame(api.store, call.key):
        while True:
            found = api.store.get(call.key)
            if found is None:
                raise status.not_found(call.resource, call.name)
            try:
                body, gone = await step(found)
                break
            except Changed:
                continue
    if call.revision:
        await api.feed.reach(call.revision, mine=True)
    return body, gone


class _Deletion:
    """One object's way out. `options` are its own: attempts change them."""

    def __init__(self, call: Call, options: DeleteOptions) -> None:
        self.call, self.options = call, options

    async def step(self, found: KeyValue) -> tuple[bytes, bool]:
        """One attempt at what is stored. Errors: Changed, when somebody else was faster."""
        call, options = self.call, self.options
        obj = object_of(found.value, found.mod_revision)
        self.check_preconditions(obj)
        await self.admit(found)
        graceful, pending = self.graceful(obj)
        if pending:
            return self.shown(obj), False
        metadata = obj["metadata"]
        set_finalizers(call.resource.kind, metadata, options)
        if metadata.get("finalizers"):
            if not metadata.get("deletionGracePeriodSeconds"):
                self.mark(metadata, 0)
            return await self.write(obj, found), False
        if graceful and (metadata["deletionGracePeriodSeconds"] or options.dry_run):
            return await self.write(obj, found), not metadata["deletionGracePeriodSeconds"]
        if graceful:
            return await _whole(self.end(obj, found)), True
        return await self.remove(found.value, found.mod_revision), True

    async def end(self, obj: Object, found: KeyValue) -> bytes:
        """The two writes of a pod that has no time: it is marked, and deleted."""
        call = self.call
        marked = await self.write(obj, found)
        self.options.revision = None           # it was held, and this write is ours
        try:
            return await self.remove(call.encoded, call.revision or found.mod_revision)
        except Changed as other:
            if other.now is not None:
                raise
            return marked                      # an update saw the mark, and was its end

    def graceful(self, obj: Object) -> tuple[bool, bool]:
        """Whether a grace period was set in the object; whether there is nothing to be done,
        because it has one already. Only pods have any."""
        if self.call.resource.kind != "Pod":
            return False, False
        metadata, options = obj["metadata"], self.options
        if "deletionTimestamp" not in metadata:
            self.mark(metadata, grace_of(obj, options.grace))
            return True, False
        left = metadata.get("deletionGracePeriodSeconds") or 0
        if left == 0:
            return False, False
        asked = options.grace
        if asked is None or asked >= left:
            return False, True
        began = timegm(strptime(metadata["deletionTimestamp"], "%Y-%m-%dT%H:%M:%SZ")) - left
        now = self.call.api.now()
        if began + asked < now and asked:      # over already, but whoever waits for it decides
            metadata["deletionGracePeriodSeconds"] = 1
        else:
            metadata["deletionGracePeriodSeconds"] = asked
        metadata["deletionTimestamp"] = meta.rfc3339(max(began + asked, now))
        return True, False

    def mark(self, metadata: Object, grace: int) -> None:
        """Sets deletionTimestamp and grace; a first one is a new generation."""
        if "deletionTimestamp" not in metadata:
            metadata["deletionTimestamp"] = meta.rfc3339(self.call.api.now() + grace)
            if metadata.get("generation"):
                metadata["generation"] += 1
        metadata["deletionGracePeriodSeconds"] = grace

    async def admit(self, found: KeyValue) -> None:
        call = self.call
        call.old, call.object = object_of(found.value, found.mod_revision), {}
        for chain in (call.api.admission.mutate, call.api.admission.validate):
            waiting = chain(call)
            if waiting is not None:
                await waiting

    def check_preconditions(self, obj: Object) -> None:
        call, metadata, options = self.call, obj["metadata"], self.options
        if options.uid is not None and options.uid != metadata.get("uid", ""):
            raise status.precondition(call.resource, call.name, "UID", options.uid,
                                      metadata.get("uid", ""))
        revision = metadata["resourceVersion"]
        if options.revision is not None and options.revision != revision:
            raise status.precondition(call.resource, call.name, "ResourceVersion",
                                      options.revision, revision)

    async def write(self, obj: Object, found: KeyValue) -> bytes:
        """Stores the marked object; nothing if it says what is stored already."""
        call = self.call
        call.encoded = call.api.codec.encode(obj)
        if not self.options.dry_run and call.encoded != found.value:
            call.revision = await call.api.objects.replace(
                call.key, call.encoded, found.mod_revision, found.lease)
            obj["metadata"]["resourceVersion"] = str(call.revision)
        return orjson.dumps(obj)

    async def remove(self, stored: bytes, revision: int) -> bytes:
        """Deletes what is stored at that revision."""
        call = self.call
        if not self.options.dry_run:
            call.revision = revision = await call.api.objects.remove(call.key, revision)
        return self.shown(object_of(stored, revision))

    def shown(self, obj: Object) -> bytes:
        """What a DELETE answers: the object, or who it was."""
        call = self.call
        if call.resource.kind in RETURNS_OBJECT:
            return orjson.dumps(obj)
        return status.deleted(call.resource, call.name, obj["metadata"].get("uid", ""))

    # --- namespaces -----------------------------------------------------------------------------

    async def namespace(self, found: KeyValue) -> tuple[bytes, bool]:
        """One attempt at a namespace: it is terminating; gone only when nothing holds it."""
        call, options = self.call, self.options
        obj = object_of(found.value, found.mod_revision)
        metadata = obj["metadata"]
        for kind, asked, stored in (("UID", options.uid, metadata.get("uid", "")),
                                    ("ResourceVersion", options.revision,
                                     metadata["resourceVersion"])):
            if asked is not None and asked != stored:
                raise status.conflict(call.resource, call.name, f"Precondition failed: {kind} in "
                                      f"precondition: {asked}, {kind} in object meta: {stored}")
        if "deletionTimestamp" in metadata:
            if obj.get("spec", {}).get("finalizers"):
                return orjson.dumps(obj), False
            return await self.step(found)
        await self.admit(found)
        metadata["deletionTimestamp"] = meta.rfc3339(call.api.now())
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
        set_finalizers("Namespace", metadata, options)
        return await self.write(obj, found), False


async def _whole(work: Coroutine[Any, Any, bytes]) -> bytes:
    """Goes on with the work when the caller is cancelled, because its client has left."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_tell)
        raise


def _tell(task: asyncio.Task[bytes]) -> None:
    """What failed when nobody waited any more; somebody else's change was its end, or is not ours.
    """
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, Changed):
        _log.error("a pod's delete was cut short", exc_info=error)


def grace_of(pod: Object, asked: int | None) -> int:
    """Seconds a pod has to end: what is asked, or what it says itself; 0 if nothing runs.

    >>> grace_of({"spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 30}}, None)
    30
    """
    spec = pod.get("spec") or {}
    if not spec.get("nodeName") or (pod.get("status") or {}).get("phase") in ("Failed",
                                                                             "Succeeded"):
        return 0
    grace = asked if asked is not None else spec.get("terminationGracePeriodSeconds") or 0
    return 1 if grace < 0 else int(grace)


def set_finalizers(kind: str, metadata: Object, options: DeleteOptions) -> None:
    """Puts the garbage collector's finalizers as the options, or else the object itself, say."""
    had = metadata.get("finalizers") or []
    if kind == "Event":                        # nothing depends on an event
        orphan = foreground = False
    elif options.orphan is not None:
        orphan, foreground = options.orphan, kind == "Namespace" and not options.orphan
    elif options.policy is not None:
        orphan, foreground = options.policy == "Orphan", options.policy == "Foreground"
    else:
        orphan, foreground = ORPHAN in had, FOREGROUND in had and ORPHAN not in had
    wanted = [name for name in had if name not in (ORPHAN, FOREGROUND)]
    wanted += [ORPHAN] * orphan + [FOREGROUND] * foreground
    if wanted:
        metadata["finalizers"] = had if set(wanted) == set(had) else wanted
    else:
        metadata.pop("finalizers", None)


# --- many -----------------------------------------------------------------------------------------

async def delete_collection(call: Call) -> Answer:
    """DELETE of all that a list with the same parameters shows; those who go meanwhile are no
    error. Returns: 200 and that list. Not atomic."""
    options = call.parsed or DeleteOptions.read(call)
    listed = await list_objects(call)
    items = orjson.loads(listed.body)["items"]
    names = iter([(item["metadata"].get("namespace", ""), item["metadata"]["name"])
                  for item in items])

    async def work() -> None:
        for namespace, name in names:
            one = replace(call, namespace=namespace, name=name, options=options, object={},
                          old=None, revision=0)
            try:
                await delete_object(one, options)
            except ApiError as error:
                if error.code != 404:
                    raise
    workers = [asyncio.ensure_future(work()) for _ in range(min(AT_ONCE, len(items)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
    return listed
