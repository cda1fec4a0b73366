# SPDX-License-Identifier: Apache-2.0
"""The create path: every stage of a POST, by name, in order.

    tls             by the transport, before there is a Request
    authenticate    who asks: client certificate, token, anonymous         api.handle
    authorize       may they: RBAC                                         api.handle
    decode          body -> object; kind, namespace and name agree with the path
    default         what upstream's defaulting fills in
    mutate          mutating admission; the namespace stays
    prepare         uid, creationTimestamp, name from generateName, status, generation
    validate        roles and bindings grant only what their writer holds; names, the kind's rules
    admit           validating admission
    encode          storage codec: bytes that say how they are written
    store           key; put if absent, in one transaction; tried again (storage.py)
    observe         wait until the watch cache has come so far
    respond         201 and the object with its resourceVersion

`CREATE` is this table; each stage's time is in `apiserver_kvcore_stage_duration_seconds`.
Authorisation comes before decoding, as upstream: who may not create is not told what is wrong with
the body. Named invariant (own key): what is written lies at the key of the namespace in the path
and of a name that is one path segment.
Source: apiserver endpoints/handlers/create.go, registry/rest/create.go, registry/generic/registry.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from kvcore.kube import meta, status, strategy
from kvcore.kube.authorization import check_escalation
from kvcore.kube.call import Call, Object
from kvcore.kube.codec import json_of, object_of, with_version
from kvcore.kube.decode import decode_body
from kvcore.kube.defaults import apply_defaults
from kvcore.kube.entry import why_damaged
from kvcore.kube.gojson import json_type
from kvcore.kube.metrics import Histogram
from kvcore.kube.request import ADMIN, Answer, Request, Target
from kvcore.kube.resources import Resource
from kvcore.kube.storage import Exists
from kvcore.kube.templates import fill_in, recall
from kvcore.kube.validation import check_fields, validate_create
from kvcore.kube.views import renamed

if TYPE_CHECKING:
    from kvcore.kube.api import Api

__all__ = ["CREATE", "create", "finish", "plant", "run"]

T = TypeVar("T")
Stage = Callable[[Call], Awaitable[None] | None]

NOT_OF_THE_PATH = ("the namespace of the provided object does not match the namespace sent on the "
                   "request")
WIPED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink")


def decode(call: Call) -> None:
    """The object; what the path says is filled in where the body is silent, and must agree."""
    if not call.object:
        call.object = decode_body(call.request.body, call.request.headers.get("content-type", ""),
                                  call.resource.kind)
    check_named(call, call.object, call.resource.kind)
    if call.resource.kind == "Pod":
        recall(call)
    check_fields(call)                         # before anything else has touched the object
    check_identity(call)
    metadata = call.object["metadata"]
    for part in WIPED:
        metadata.pop(part, None)
    meta.tidy(metadata)
    drop_repeated_owners(call)
    call.name = metadata.get("name") or ""


def drop_repeated_owners(call: Call, when: str = "") -> None:
    """Of owner references that are the same, one stays; the client is warned."""
    owners = call.object["metadata"].get("ownerReferences") or ()
    if len(owners) < 2:
        return
    kept: dict[bytes, Object] = {}
    repeated = []
    for owner in owners:
        text = orjson.dumps(owner, option=orjson.OPT_SORT_KEYS)
        if text in kept:
            repeated.append(owner.get("uid", ""))
        kept.setdefault(text, owner)
    if repeated:
        call.object["metadata"]["ownerReferences"] = [*kept.values()]
        call.warn(f".metadata.ownerReferences contains duplicate entries{when}; API server dedups "
                  "owner references in 1.20+, and may reject such requests as early as 1.24; "
                  f"please fix your requests; duplicate UID(s) observed: {', '.join(repeated)}")


def check_identity(call: Call) -> None:
    """apiVersion, kind and namespace of the body against those of the path. Errors: 400."""
    resource = call.resource
    check_kind(call, call.object, resource.api_version, resource.kind)
    metadata = call.object["metadata"]
    check_namespace(call, metadata.get("namespace") or "")
    if resource.namespaced:
        metadata["namespace"] = call.namespace
    else:
        metadata.pop("namespace", None)


def check_namespace(call: Call, namespace: str) -> None:
    """Against the path's; where that has none, whatever is said counts for nothing. Errors: 400."""
    if namespace and call.namespace and namespace != call.namespace:
        raise status.bad_request(NOT_OF_THE_PATH)


def check_named(call: Call, obj: Object, kind: str) -> None:
    """What the body says it is are texts. Errors: 400."""
    for part in ("apiVersion", "kind"):
        said = obj.get(part)
        if said is not None and not isinstance(said, str):
            body = call.request.body
            begins = body[:30].decode(errors="replace") + (" ..." if len(body) > 30 else "")
            raise status.bad_request(
                f"the object provided is unrecognized (must be of type {kind}): couldn't get "
                f"version/kind; json parse error: json: cannot unmarshal {json_type(said)} into Go "
                f"struct field .{part} of type string ({begins})")


def check_kind(call: Call, obj: Object, api_version: str, kind: str) -> None:
    """The body must be what the path serves; a body that is silent is taken to be. Errors: 400."""
    said_version, said_kind = obj.get("apiVersion") or api_version, obj.get("kind") or kind
    if said_version != api_version or said_kind != kind:
        version = said_version.rpartition("/")[2]
        if call.api.resources.of_kind(said_version, said_kind) is None:
            raise cannot(said_version, said_kind, kind, f'no kind "{said_kind}" is registered for '
                         f'version "{said_version}" in scheme "pkg/runtime/scheme.go:111"')
        group = api_version.rpartition("/")[0].partition(".")[0] or "core"
        raise cannot(said_version, said_kind, kind, f"converting ({version}.{said_kind}) to "
                     f"({group}.{kind}): unknown conversion")
    obj["apiVersion"], obj["kind"] = said_version, said_kind
    metadata = obj.get("metadata")
    if metadata is None:
        obj["metadata"] = metadata = {}
    elif not isinstance(metadata, dict):
        raise cannot(said_version, kind, kind, f"json: cannot unmarshal {json_type(metadata)} into "
                     f"Go struct field {kind}.metadata of type v1.ObjectMeta")
    for part in ("name", "namespace", "generateName", "uid", "resourceVersion"):
        value = metadata.get(part)
        if value is not None and not isinstance(value, str):
            raise cannot(said_version, kind, kind, f"json: cannot unmarshal {json_type(value)} "
                         f"into Go struct field ObjectMeta.metadata.{part} of type string")


def cannot(api_version: str, kind: str, wanted: str, why: str) -> status.ApiError:
    """400: what a body says it is, or how it says it."""
    version = api_version.rpartition("/")[2]
    return status.bad_request(f'{kind} in version "{version}" cannot be handled as a {wanted}: '
                              f"{why}")


def default(call: Call) -> None:
    if call.resource.kind == "Pod":
        fill_in(call)
    else:
        apply_defaults(call.object)


def mutate(call: Call) -> Awaitable[None] | None:
    return call.api.admission.mutate(call)


def prepare(call: Call) -> None:
    """What the server alone decides of a new object."""
    drop_repeated_owners(call, " after mutating admission happens")
    metadata = call.object["metadata"]
    name = metadata.get("name") or ""          # admission may have given another one,
    if call.target.name and name != call.target.name:
        raise status.internal("admission may not change metadata.name")    # but not to a PUT
    call.name = name
    check_namespace(call, metadata.get("namespace") or "")
    if call.resource.namespaced:
        metadata["namespace"] = call.namespace
    if not name and metadata.get("generateName"):
        call.generated = True
        metadata["name"] = call.name = meta.generate_name(metadata["generateName"])
    metadata["uid"] = meta.new_uid()
    metadata["creationTimestamp"] = meta.rfc3339(call.api.now())
    strategy.prepare_create(call)


def validate(call: Call) -> None:
    check_escalation(call)
    validate_create(call)
    meta.check_segment(call.name)


def admit(call: Call) -> Awaitable[None] | None:
    return call.api.admission.validate(call)


def encode(call: Call) -> None:
    try:
        call.encoded = call.api.codec.encode(call.object)
    except (orjson.JSONEncodeError, UnicodeEncodeError) as error:
        raise status.bad_request(f"the object cannot be written as JSON: {error}") from None


async def store(call: Call) -> None:
    """One transaction; a clash of a generated name takes another name, eight times at most."""
    api, metadata = call.api, call.object["metadata"]
    sent = metadata.get("resourceVersion") or ""
    if sent.isdigit() and int(sent) and not call.options.dry_run:
        # upstream takes no notice of what is no number, nor in a dry run
        raise status.ApiError(500, "", "resourceVersion should not be set on objects to be created")
    for left in reversed(range(meta.GENERATED_TRIES if call.generated else 1)):
        call.key = api.layout.key(call.resource, call.namespace, call.name)
        try:
            if call.options.dry_run:
                there = api.store.get(call.key)
                if there is not None:
                    raise Exists(there)
            else:
                call.revision = await api.objects.create(call.key, call.encoded, metadata["uid"],
                                                         await lease_of(call))
            return
        except Exists as taken:
            if not left:
                raise clash(call, taken.there.value) from None
        before, call.name = call.name, meta.generate_name(metadata["generateName"])
        metadata["name"] = call.name
        renamed(call.object, before)
        encode(call)


def clash(call: Call, there: bytes) -> status.ApiError:
    """409 AlreadyExists, in upstream's three wordings. Args: there: what is stored, whatever it is.
    """
    make = status.name_conflict if call.object["metadata"].get("generateName") else \
        status.already_exists
    error = make(call.resource, call.name)
    if b"deletionTimestamp" in there and not why_damaged(there) \
            and "deletionTimestamp" in object_of(there)["metadata"]:
        error.message = f"object is being deleted: {error.message}"
    return error


async def lease_of(call: Call) -> int:
    """The lease of kinds that vanish by themselves (events, after an hour); 0: none."""
    if call.resource.kind != "Event":
        return 0
    return await call.api.event_lease.take()


async def observe(call: Call) -> None:
    if call.revision:
        await call.api.feed.reach(call.revision, mine=True)


CREATE: tuple[tuple[str, Stage], ...] = (
    ("decode", decode), ("default", default), ("mutate", mutate), ("prepare", prepare),
    ("validate", validate), ("admit", admit), ("encode", encode), ("store", store),
    ("observe", observe))
PLANT = tuple(stage for stage in CREATE if stage[0] not in ("mutate", "admit", "observe"))


async def run(subject: T, stages: Iterable[tuple[str, Callable[[T], Any]]],
              times: Histogram) -> None:
    """Stage after stage, each timed."""
    before = perf_counter()
    for name, stage in stages:
        waiting = stage(subject)
        if waiting is not None:
            await waiting
        now = perf_counter()
        times.observe(("create", name), now - before)
        before = now


async def create(call: Call) -> Answer:
    """All stages. Returns: 201 and the object."""
    try:
        await run(call, CREATE, call.api.metrics.stages)
    finally:
        finish(call)
    body = json_of(call.encoded)
    return Answer(201, with_version(body, call.revision) if call.revision else body)


def finish(call: Call) -> None:
    """Tells admission how a call, or one attempt of it, ended; nothing the second time."""
    if call.admission is not None:
        call.admission.finish(call.revision > 0)


async def plant(api: Api, resource: Resource, obj: Object, namespace: str = "") -> bool:
    """An object of the server's own: no admission, nobody waits for the caches.

    Returns: whether it was not there.
    """
    target = Target("create", "", "api", resource.group, resource.version, resource.plural, "",
                    namespace)
    call = Call(api, Request("POST", ""), target, resource, ADMIN, "CREATE", namespace, object=obj)
    try:
        await run(call, PLANT, api.metrics.stages)
    except status.ApiError as error:
        if error.reason == "AlreadyExists":
            return False
        raise
    return True
