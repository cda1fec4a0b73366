# SPDX-License-Identifier: Apache-2.0
"""The create path: every stage of a POST, by name, in order.

    tls             by the transport, before there is a Request
    authenticate    who asks: client certificate, token, anonymous         api.handle
    authorize       may they: RBAC                                         api.handle
    decode          body -> object; kind, namespace and name agree with the path
    default         what upstream's defaulting fills in
    mutate          mutating admission
    prepare         name from generateName, uid, creationTimestamp, generation
    validate        roles and bindings grant only what their writer holds; names, required and
                    unknown fields, the kind's own rules
    admit           validating admission
    encode          storage codec: bytes that say how they are written
    store           key; put if absent, in one transaction; tried again (storage.py)
    observe         wait until the watch cache has come so far
    respond         201 and the object with its resourceVersion

`CREATE` is this table; each stage's time is in `apiserver_kvcore_stage_duration_seconds`.
Authorisation comes before decoding, as upstream: who may not create is not told what is wrong with
the body. Source: apiserver endpoints/handlers/create.go, registry/rest/create.go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter

from kvcore.kube import meta, status
from kvcore.kube.authorization import check_escalation
from kvcore.kube.call import Call
from kvcore.kube.codec import json_of, with_version
from kvcore.kube.decode import decode_body
from kvcore.kube.defaults import apply_defaults
from kvcore.kube.request import Answer
from kvcore.kube.storage import Exists
from kvcore.kube.validation import check_fields, validate_create

__all__ = ["CREATE", "create"]

Stage = Callable[[Call], Awaitable[None] | None]


def decode(call: Call) -> None:
    """The object; what the path says is filled in where the body is silent, and must agree."""
    if not call.object:
        call.object = decode_body(call.request.body, call.request.headers.get("content-type", ""))
        check_identity(call)
        check_fields(call)


def check_identity(call: Call) -> None:
    """apiVersion, kind, namespace and name of the body against those of the path."""
    obj, resource = call.object, call.resource
    version, kind = obj.setdefault("apiVersion", resource.api_version), obj.get("kind")
    if kind is None:
        obj["kind"] = kind = resource.kind
    if (version, kind) != (resource.api_version, resource.kind):
        raise status.bad_request(
            f"{kind} in version \"{version}\" cannot be handled as a {resource.kind}: the API "
            f"version in the data ({version}) does not match the expected API version "
            f"({resource.api_version})" if kind == resource.kind else
            f"{kind} in version \"{version}\" cannot be handled as a {resource.kind}")
    metadata = obj.get("metadata")
    if metadata is None:
        metadata = obj["metadata"] = {}
    if not isinstance(metadata, dict):
        raise status.bad_request(f"{kind} in version \"{version}\" cannot be handled as a "
                                 f"{resource.kind}: metadata must be an object")
    if resource.namespaced:
        namespace = metadata.setdefault("namespace", call.namespace) or call.namespace
        metadata["namespace"] = namespace
        if namespace != call.namespace:
            raise status.bad_request("the namespace of the provided object does not match the "
                                     "namespace sent on the request")
    elif metadata.get("namespace"):
        raise status.bad_request("the namespace of the provided object does not match the "
                                 "namespace sent on the request")


def default(call: Call) -> None:
    apply_defaults(call.object)


def mutate(call: Call) -> Awaitable[None] | None:
    return call.api.admission.mutate(call)


def prepare(call: Call) -> None:
    """What the server alone decides of a new object."""
    metadata = call.object["metadata"]
    if metadata.get("resourceVersion"):
        raise status.ApiError(500, "", "resourceVersion should not be set on objects to be created")
    for unset in ("resourceVersion", "selfLink", "deletionTimestamp",
                  "deletionGracePeriodSeconds"):
        metadata.pop(unset, None)
    if metadata.get("generateName") and not metadata.get("name"):
        metadata["name"] = meta.generate_name(metadata["generateName"])
    metadata["uid"] = meta.new_uid()
    metadata["creationTimestamp"] = meta.rfc3339(call.api.now())
    metadata["generation"] = 1
    call.name = metadata.get("name") or ""


def validate(call: Call) -> None:
    check_escalation(call)
    validate_create(call)


def admit(call: Call) -> Awaitable[None] | None:
    return call.api.admission.validate(call)


def encode(call: Call) -> None:
    call.encoded = call.api.codec.encode(call.object)


async def store(call: Call) -> None:
    """One transaction; a clash of a generated name takes another name, eight times at most."""
    api, metadata = call.api, call.object["metadata"]
    if call.options.dry_run:
        return _dry(call)
    generated = bool(metadata.get("generateName")) and not call.request.headers.get("x-named")
    for left in reversed(range(meta.GENERATED_TRIES if generated else 1)):
        call.key = api.layout.key(call.resource, call.namespace, call.name)
        try:
            call.revision = await api.objects.create(call.key, call.encoded, metadata["uid"])
            return
        except Exists:
            if not left:
                raise status.already_exists(call.resource, call.name) from None
        metadata["name"] = call.name = meta.generate_name(metadata["generateName"])
        encode(call)


def _dry(call: Call) -> None:
    call.key = call.api.layout.key(call.resource, call.namespace, call.name)
    if call.api.store.get(call.key) is not None:
        raise status.already_exists(call.resource, call.name)


async def observe(call: Call) -> None:
    if call.revision:
        await call.api.feed.reach(call.revision, mine=True)


CREATE: tuple[tuple[str, Stage], ...] = (
    ("decode", decode), ("default", default), ("mutate", mutate), ("prepare", prepare),
    ("validate", validate), ("admit", admit), ("encode", encode), ("store", store),
    ("observe", observe))


async def create(call: Call) -> Answer:
    """All stages, each timed."""
    times = call.api.metrics.stages
    before = perf_counter()
    for name, stage in CREATE:
        waiting = stage(call)
        if waiting is not None:
            await waiting
        now = perf_counter()
        times.observe(name, now - before)
        before = now
    body = json_of(call.encoded)
    return Answer(201, with_version(body, call.revision) if call.revision else body)
