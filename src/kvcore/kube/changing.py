# SPDX-License-Identifier: Apache-2.0
"""Changing objects: PUT and PATCH, of an object or of a part of it.

    current    what is stored now                                    404; or a create, of few kinds
    make       PUT: the body.  PATCH: the stored object, patched     400, 415, 422
    identify   kind, name and namespace agree with the path; uid     400, 409
    default    what upstream's defaulting fills in
    mutate     mutating admission
    version    the resourceVersion that was sent is the stored one   409, 422
    prepare    system fields stay; status, generation (views.py)
    validate   the object, and its metadata beside the stored one    422
    admit      validating admission
    encode     storage codec
    store      nothing, if nothing changed; a delete, if the last finalizer of an object that is
               being deleted is gone; else a replacement of exactly what was read
    observe    wait until the watch cache has come so far

`UPDATE` is this table. When somebody else was faster (`Changed`) it is run again from `current`:
without an end, as upstream, because each time somebody has got further. A request that names a
resourceVersion ends with 409 instead, at `version`.

Named invariants:
1. **no-op**: an update that changes nothing writes nothing; its answer has the stored version.
2. **one generation**: it counts changes of what is wanted, never of status or metadata.
3. **no way back**: an update neither removes a deletionTimestamp nor adds finalizers behind one.
Source: apiserver endpoints/handlers (update.go, patch.go), registry/rest/update.go,
registry/generic/registry/store.go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import orjson

from kvcore import KeyValue
from kvcore.kube import create as creating
from kvcore.kube import meta, status, views
from kvcore.kube.authorization import check_escalation
from kvcore.kube.caching import Blame
from kvcore.kube.call import LARGE_BODY, Call, Object
from kvcore.kube.codec import canonical, json_of, object_of, with_version
from kvcore.kube.create import (
    Stage,
    check_kind,
    check_named,
    check_namespace,
    encode,
    observe,
    run,
)
from kvcore.kube.decode import BODY_LIMIT, decode_body
from kvcore.kube.defaults import apply_defaults
from kvcore.kube.patch import Patch, reader_of
from kvcore.kube.request import Answer
from kvcore.kube.status import Cause
from kvcore.kube.storage import Changed
from kvcore.kube.validation import check_fields, validate_status, validate_update

__all__ = ["UPDATE", "View", "change", "patch", "read_patch", "update"]


@dataclass(frozen=True, slots=True)
class View:
    """What of an object a subresource shows and writes. `read(stored)` is what a client sees,
    `write(seen, stored)` what is stored then; `kind` and `api_version` of what is seen, "": the
    object's own; `check(seen)`: what is wrong with it beyond the fields."""

    read: Callable[[Object], Object]
    write: Callable[[Object, Object], Object]
    api_version: str = ""
    kind: str = ""
    check: Callable[[Object, Object], list[Cause]] = lambda seen, stored: []
    typed: Callable[[Object], None] = lambda seen: None


def _itself(obj: Object) -> Object:
    return obj


VIEWS: dict[str, View] = {name: View(_itself, write, check=views.CHECKS.get(name, views.nothing))
                          for name, write in views.VIEWS.items()}


PARTS = frozenset({"status", "approval", "finalize"})


class Change:
    """One PUT or PATCH under way: the call, and what its attempts share. `make(call, seen)`: the
    new object, as the view shows it, from what is stored, of which it may not change a part."""

    __slots__ = ("call", "view", "make", "stored", "old", "seen", "gone", "plain")

    def __init__(self, call: Call, view: View, make: Callable[[Call, Object], Object]) -> None:
        self.call, self.view, self.make = call, view, make
        self.stored: KeyValue
        self.old: Object = {}                  # the whole object, with its resourceVersion
        self.seen: Object = {}                 # the part of it that the view shows
        self.gone = False                      # the change was the object's end
        self.plain = not view.kind             # the view shows the object's own kind


def current(change: Change) -> None:
    """What is stored. Errors: 404."""
    call = change.call
    found = call.api.store.get(call.key)
    if found is None:
        raise status.not_found(call.resource, call.name)
    change.stored = found
    change.old = object_of(found.value, found.mod_revision)
    change.seen = call.old = change.view.read(change.old)
    call.revision = 0


def make(change: Change) -> Awaitable[None] | None:
    """A patch that is large, or of a large object, is applied in a thread: nobody else waits."""
    call = change.call
    if call.target.verb == "patch" and max(
            len(call.request.body), len(change.stored.value)) > LARGE_BODY:
        return asyncio.to_thread(_make, change)
    _make(change)
    return None


def _make(change: Change) -> None:
    change.call.object = change.make(change.call, change.seen)
    if change.call.target.verb == "update":
        creating.drop_repeated_owners(change.call)


def identify(change: Change) -> None:
    """The uid of a PUT's body is a precondition. Errors: 409."""
    call, stored = change.call, change.old["metadata"].get("uid", "")
    uid = call.object["metadata"].get("uid")
    if uid and uid != stored and call.target.verb == "update":
        raise status.conflict(call.resource, call.name,
                              status.store_precondition(call.key, uid, stored))


def checked(call: Call, view: View) -> Object:
    """The call's object, which must be what the path says: kind, fields, namespace, name.

    Errors: 400.
    """
    resource = call.resource
    api_version, kind = view.api_version or resource.api_version, view.kind or resource.kind
    check_named(call, call.object, kind)
    check_types(call, view)
    check_kind(call, call.object, api_version, kind)
    metadata = call.object["metadata"]
    check_namespace(call, metadata.get("namespace") or "")
    meta.tidy(metadata)
    if call.namespace:
        metadata["namespace"] = call.namespace
    else:
        metadata.pop("namespace", None)
    name = metadata.get("name")
    if not name:
        raise status.bad_request(f"the name of the object ({call.name} based on URL) was "
                                 "undeterminable: name must be provided")
    if name != call.name:
        raise status.bad_request(f"the name of the object ({name}) does not match the name on the "
                                 f"URL ({call.name})")
    return call.object


def check_types(call: Call, view: View) -> None:
    """Errors: 400 for fields that are unknown or of other types."""
    if view.kind:
        view.typed(call.object)
    else:
        check_fields(call)


def default(change: Change) -> None:
    if change.plain:
        apply_defaults(change.call.object)


def version(change: Change) -> None:
    """Errors: 409 for another than the stored one; 422 for none, of kinds that need it."""
    call, kind = change.call, change.call.resource.kind
    sent = call.object["metadata"].get("resourceVersion") or "0"
    number = sent.isascii() and sent.isdigit()
    if not number or len(sent) > 20 or int(sent) >= 1 << 64:
        raise status.ApiError(500, "", f"strconv.ParseUint: parsing {status.shown(sent)}: "
                              + ("value out of range" if number else "invalid syntax"))
    if int(sent):
        if int(sent) != change.stored.mod_revision:
            raise status.conflict(call.resource, call.name)
    elif kind in views.NEEDS_VERSION:
        raise status.invalid_kind(call.resource.group, call.resource.plural, call.name, [
            Cause.invalid("metadata.resourceVersion", 0, "must be specified for an update")])


def prepare(change: Change) -> None:
    """The object that is to be stored; where the client has no say, what is stored stays."""
    call, view = change.call, change.view
    view.typed(call.object)                    # admission may have changed it
    causes = view.check(call.object, change.old)
    if causes:
        group = (view.api_version or call.resource.api_version).rpartition("/")[0]
        raise status.invalid_kind(group, view.kind or call.resource.kind, call.name, causes)
    creating.drop_repeated_owners(call, " after mutating admission happens")
    if change.plain:
        meta.keep_system_fields(call.object["metadata"], change.old["metadata"])
    call.object = view.write(call.object, change.old)
    call.old = change.old


def validate(change: Change) -> None:
    """The whole object beside the stored one; of parts that controllers write, the metadata."""
    check_escalation(change.call)
    check = validate_status if change.call.subresource in PARTS else validate_update
    check(change.call, change.old)


async def store(change: Change) -> None:
    """Errors: Changed, when somebody else was faster."""
    call, stored = change.call, change.stored
    metadata = call.object["metadata"]
    if ends(call.object, change.old):
        change.gone = True
        metadata["resourceVersion"] = str(stored.mod_revision)
        if not call.options.dry_run:
            call.revision = await call.api.objects.remove(call.key, stored.mod_revision)
        return
    if unchanged(call.object, change.old):
        call.encoded = stored.value
        return
    if not call.options.dry_run:
        call.revision = await call.api.objects.replace(
            call.key, call.encoded, stored.mod_revision, await creating.lease_of(call))


def ends(new: Object, old: Object) -> bool:
    """Whether an update is the end of the object: it was being deleted, and nothing holds it."""
    metadata, old_metadata = new["metadata"], old["metadata"]
    return ("deletionTimestamp" in old_metadata and not metadata.get("finalizers")
            and not old_metadata.get("deletionGracePeriodSeconds")
            and not (new["kind"] == "Namespace" and (new.get("spec") or {}).get("finalizers")))


def unchanged(new: Object, old: Object) -> bool:
    """Whether both say the same, in whatever order. Cost: that of `==` where they differ."""
    new, old = canonical(new), canonical(old)
    return new == old and (orjson.dumps(new, option=orjson.OPT_SORT_KEYS)
                           == orjson.dumps(old, option=orjson.OPT_SORT_KEYS))


def _of_call(stage: Stage) -> Callable[[Change], object]:
    return lambda change: stage(change.call)


def _mutate(change: Change) -> object:
    return change.call.api.admission.mutate(change.call)


def _admit(change: Change) -> object:
    """Admission sees what the client sees: of /scale, scales."""
    call = change.call
    if change.plain:
        return call.api.admission.validate(call)
    return _admit_view(change)


async def _admit_view(change: Change) -> None:
    call, view = change.call, change.view
    whole, call.object, call.old = call.object, view.read(call.object), change.seen
    waiting = call.api.admission.validate(call)
    if waiting is not None:
        await waiting
    call.object, call.old = whole, change.old


UPDATE: tuple[tuple[str, Callable[[Change], object]], ...] = (
    ("current", current), ("make", make), ("identify", identify), ("default", default),
    ("mutate", _mutate), ("version", version), ("prepare", prepare), ("validate", validate),
    ("admit", _admit), ("encode", _of_call(encode)), ("store", store),
    ("observe", _of_call(observe)))


async def change(call: Call, view: View, make: Callable[[Call, Object], Object]) -> Answer:
    """All stages, again as long as others are faster. Returns: 200 and the object; 201 when the
    update was a create."""
    call.operation = "UPDATE"
    call.key = call.api.layout.key(call.resource, call.namespace, call.name)
    with Blame(call.api.store, call.key):
        return await _change(call, Change(call, view, make))


async def _change(call: Call, work: Change) -> Answer:
    times = call.api.metrics.stages
    while True:
        try:
            await run(work, UPDATE, times)
            break
        except Changed:
            creating.finish(call)
            continue
        except status.ApiError as error:
            if not (error.code == 404 and call.target.verb == "update" and not call.subresource
                    and call.resource.kind in views.CREATED_BY_UPDATE
                    and call.api.store.get(call.key) is None):
                raise
        made = await _create_instead(call, work.make)
        if made is not None:
            return made
    return Answer(200, _answer(work))


def _answer(work: Change) -> bytes:
    call, view = work.call, work.view
    if work.gone:                              # as it would have been stored, at its last version
        return orjson.dumps(view.read(call.object))
    revision = call.revision or work.stored.mod_revision
    if view.kind:
        return orjson.dumps(view.read(object_of(call.encoded, revision)))
    return with_version(json_of(call.encoded), revision)


async def _create_instead(call: Call, make: Callable[[Call, Object], Object]) -> Answer | None:
    """A PUT of something that is not there, of a kind that may be made so. Returns: None when it
    is there after all."""
    call.api.authorize(call.user, replace(call.target, verb="create"))
    call.object, call.old, call.operation = make(call, {}), None, "CREATE"
    metadata = call.object["metadata"]
    if metadata.get("uid"):
        raise status.conflict(call.resource, call.name, status.store_precondition(
            call.key, metadata["uid"], ""))
    metadata.pop("resourceVersion", None)
    try:
        return await creating.create(call)
    except status.ApiError as error:
        if error.reason != "AlreadyExists":
            raise
    call.operation = "UPDATE"
    return None


# --- the verbs ------------------------------------------------------------------------------------

def read_body(call: Call, view: View) -> Callable[[Call, Object], Object]:
    """A body of PUT, read once; each attempt gets an object of its own. Errors: 400, 413, 415."""
    if not call.object:                        # else a caller in process has brought it
        call.object = decode_body(call.request.body, call.request.headers.get("content-type", ""),
                                  view.kind or call.resource.kind)
    text = orjson.dumps(checked(call, view))
    return lambda call, seen: orjson.loads(text)


async def update(call: Call) -> Answer:
    """PUT."""
    view = VIEWS[call.subresource]
    return await change(call, view, read_body(call, view))


async def patch(call: Call) -> Answer:
    """PATCH."""
    view = VIEWS[call.subresource]
    return await change(call, view, _patched(call.parsed or read_patch(call), view))


def read_patch(call: Call) -> Patch:
    """What a PATCH's body makes of objects. Errors: 400, 413, 415, 422."""
    body = call.request.body
    read = reader_of(call.request.headers.get("content-type", ""))
    if "force" in call.request.query:
        raise status.invalid_options("PatchOptions", [
            Cause.forbidden("force", "may not be specified for non-apply patch")])
    if len(body) > BODY_LIMIT:
        raise status.too_large(BODY_LIMIT)
    return read(body)


def _patched(apply: Patch, view: View) -> Callable[[Call, Object], Object]:
    """The stored object with a patch in it. What is no object of its kind then is the patch's
    fault: 422."""
    def make(call: Call, seen: Object) -> Object:
        call.object = apply(orjson.loads(orjson.dumps(seen)))
        said = orjson.dumps(call.object)
        try:
            check_named(call, call.object, seen["kind"])
            check_types(call, view)
            check_kind(call, call.object, seen["apiVersion"], seen["kind"])
        except status.ApiError as error:
            if error.code != 400:
                raise
            what, _, why = error.message.partition(": ")
            raise status.invalid_kind("", "", "", [Cause.invalid(
                "patch", said.decode(),
                why if " cannot be handled as a " in what else error.message)]) from None
        return checked(call, view)
    return make
