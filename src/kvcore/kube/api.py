# SPDX-License-Identifier: Apache-2.0
"""The API server without a socket: a Request in, an Answer out.

    handle(request): authenticate -> target -> authorize -> verb (VERBS) -> Answer
        create  create.py      get, list  reading.py     watch  watching.py
        update, patch  changing.py     delete, deletecollection  deletion.py
        pods/x/binding, deployments/x/scale, ...  subresources.py

    await api.create(pods, {...}, "default")       the same verbs for callers in the process
    await api.patch(pods, "web", {...}, "default")

Transports (HTTP/1.1, HTTP/2) and callers in process use the same `handle`. Refusals are ApiErrors
inside and Status answers outside. Everything belongs to one event loop; several Apis over one store
agree through the store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import orjson

from kvcore import Store
from kvcore.errors import ClosedError, NoSpaceError, RequestTooLargeError
from kvcore.kube import meta, negotiation, status
from kvcore.kube.admission import Chain
from kvcore.kube.audit import AuditLog, Trail, audited
from kvcore.kube.authorization import named
from kvcore.kube.caching import Policy
from kvcore.kube.call import LARGE_BODY, Call, Object, Options
from kvcore.kube.changing import patch, read_patch, update
from kvcore.kube.codec import CODECS
from kvcore.kube.create import create, finish
from kvcore.kube.decode import YAML, decode_body, media_of, repeated_keys
from kvcore.kube.deletion import DeleteOptions, delete, delete_collection
from kvcore.kube.feed import Feed
from kvcore.kube.housekeeping import Housekeeping
from kvcore.kube.keys import KeyLayout
from kvcore.kube.metrics import CONTENT_TYPE, Metrics, render
from kvcore.kube.reading import get, list_objects
from kvcore.kube.request import (
    ADMIN,
    ANONYMOUS,
    Answer,
    Request,
    Target,
    User,
    parse_target,
    shortened,
)
from kvcore.kube.resources import Resource, Resources
from kvcore.kube.reviews import KINDS, REVIEWS
from kvcore.kube.storage import EventLease, ObjectStore
from kvcore.kube.subresources import SUBRESOURCES, bind
from kvcore.kube.validation import check_fields
from kvcore.kube.watching import watch

if TYPE_CHECKING:
    from kvcore.kube.security import Security

__all__ = ["Api"]

_log = logging.getLogger("kvcore.kube")

Verb = Callable[[Call], Awaitable[Answer]]
Texts = list[str]                       # `list` is a verb inside of Api
VERBS: dict[str, Verb] = {
    "create": create, "get": get, "list": list_objects, "watch": watch, "update": update,
    "patch": patch, "delete": delete, "deletecollection": delete_collection}
LARGE_ANSWER = 4 * 1024              # bytes of one that is not written in YAML in the event loop
LARGE_AT_ONCE = 2                    # threads for that, and for large bodies
KINDS_SENT = {"binding": "Binding", "eviction": "Eviction", "scale": "Scale",
              "token": "TokenRequest"}
ON_COLLECTIONS = frozenset({"create", "list", "watch", "deletecollection"})
OF_ALL_NAMESPACES = frozenset({"list", "watch"})
OPTIONS = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}


class Api:
    """All verbs over one store. `await start()` first, `await stop()` last.

    Args: housekeeping: whether this one makes the system's namespaces, empties those that are
    deleted, and gives each its ServiceAccount and the cluster's CA (`ca`, PEM). audit: where
    requests are logged.
    """

    def __init__(self, store: Store, *, key_layout: Any = "grouped", storage_codec: str = "json",
                 admission: Chain | None = None, resources: Resources | None = None,
                 capacity: int = 100_000, capacities: dict[str, int] | None = None,
                 policy: Policy = "incremental",
                 clock: Callable[[], float] = time.monotonic,
                 now: Callable[[], float] = time.time,
                 housekeeping: bool = True, ca: str = "", audit: AuditLog | None = None) -> None:
        if storage_codec not in CODECS:
            raise ValueError(f"storage_codec must be one of {', '.join(CODECS)}, "
                             f"got {storage_codec!r}")
        self.store, self.codec = store, CODECS[storage_codec]
        self.layout = KeyLayout(key_layout)
        self.resources = resources or Resources()
        self.objects = ObjectStore(store, observe=self._wrote)
        self.event_lease = EventLease(store, clock)
        self.feed = Feed(store, self.layout, capacity=capacity, capacities=capacities,
                         policy=policy)
        self.metrics = Metrics()
        self.admission = admission or Chain(observe=self.metrics.of_admission)
        self.clock, self.now = clock, now
        self._large_bodies = asyncio.Semaphore(LARGE_AT_ONCE)
        self.housekeeping = Housekeeping(self, ca) if housekeeping else None
        for review in KINDS:
            self.resources.add(review)
        self.audit = audit
        self.certificates: dict[str, float] = {}        # when the server's end, set by it
        self.url = ""                                   # where clients find it, set by a server
        self.security: Security | None = None          # set by kvcore.kube.security.secure
        self.authenticate: Callable[[Request], User] = lambda request: ANONYMOUS
        self.authorize: Callable[[User, Target], None] = lambda user, target: None

    async def start(self) -> None:
        if self.audit is not None:
            self.audit.open()
        self.feed.start()
        try:
            await self.admission.start(self)
            if self.housekeeping is not None:
                await self.housekeeping.start()
        except BaseException:
            await self.stop()                  # the store goes on without us
            raise

    async def stop(self) -> None:
        if self.housekeeping is not None:
            await self.housekeeping.stop()
        await self.admission.stop()
        await self.feed.stop()
        if self.audit is not None:
            self.audit.close()

    async def handle(self, request: Request) -> Answer:
        """Never raises, but for CancelledError: what goes wrong is a Status answer."""
        if self.audit is not None:
            return await audited(self, self.audit, request)
        return await self.answer(request, parse_target(request))

    async def answer(self, request: Request, target: Target, trail: Trail | None = None) -> Answer:
        """As `handle`, and leaves a trail for the audit log."""
        warnings: Texts = []
        before = time.perf_counter()
        try:
            answer = await self._serve(request, target, warnings, trail)
        except status.ApiError as error:
            answer = refusal(error)
        except Exception as error:
            answer = refusal(self._unexpected(error, request))
        accept = request.headers.get("accept", "")
        if ("yaml" in accept and answer.chunks is None and answer.content_type == negotiation.JSON
                and (target.is_resource or answer.code >= 400)):
            await self._respell(answer, accept)
        if warnings:
            answer.warnings.extend(shortened(warnings))
        self.metrics.of_request(
            target.verb, self.resources.of_path(target.group, target.version, target.resource),
            target.subresource, target.namespace, target.name,
            request.query.get("dryRun") == "All", answer.code, time.perf_counter() - before)
        return answer

    async def _serve(self, request: Request, target: Target, warnings: Texts,
                     trail: Trail | None) -> Answer:
        user = request.user or self.authenticate(request) if trail is None else \
            self._known(request, trail)
        selected = request.query.get("fieldSelector")
        asked = named(target, selected) if selected else target
        if trail is None:
            self.authorize(user, asked)
        else:
            self._allowed(user, asked, trail)
        if not target.is_resource:
            return self._plain(target)
        resource = self.resources.of_path(target.group, target.version, target.resource)
        if resource is None:
            raise status.no_such_path()
        verb = self._verb(resource, target)
        options = OPTIONS.get(target.verb)
        call = Call(self, request, target, resource, user, "CREATE",
                    target.namespace if resource.namespaced else "", target.name,
                    options=Options.of(request.query, options) if options else Options(),
                    warnings=warnings)
        if trail is not None:
            trail.call = call
        if target.verb != "watch":                      # which is a stream, and says so itself
            negotiation.negotiate(request.headers.get("accept", ""))
        if target.verb == "watch" and request.method not in ("GET", "HEAD"):
            raise status.method_not_allowed()           # /api/v1/watch/... is a path of any method
        if len(request.body) > LARGE_BODY and target.verb in READ_APART:
            async with self._large_bodies:
                await asyncio.to_thread(READ_APART[target.verb], call)
        return await _to_the_end(verb, call)

    async def _respell(self, answer: Answer, accept: str) -> None:
        """In YAML, for a client that likes it better; a large one in a thread."""
        if negotiation.accepted(accept) == negotiation.YAML:
            if len(answer.body) < LARGE_ANSWER:
                negotiation.as_yaml(answer)
            else:
                async with self._large_bodies:
                    await asyncio.to_thread(negotiation.as_yaml, answer)

    def _known(self, request: Request, trail: Trail) -> User:
        """Who asks; the trail has it also if they may not be who they want to be."""
        try:
            trail.user = request.user or self.authenticate(request)
        except status.ApiError as error:
            trail.user = error.user
            if error.code == 403:
                trail.allowed = False
            raise
        return trail.user

    def _allowed(self, user: User, target: Target, trail: Trail) -> None:
        try:
            self.authorize(user, target)
            trail.allowed = True
        except status.ApiError:
            trail.allowed = False
            raise
        finally:
            if self.security is not None:
                trail.reason = self.security.authorizer.decide(user, target).reason

    def _verb(self, resource: Resource, target: Target) -> Verb:
        """What serves a target; its name and namespace can be parts of a key.

        Errors: 404 for paths that nothing has, 405 for verbs that this one has not, 400.
        """
        if resource.namespaced:
            if not target.namespace and (target.name or target.subresource):
                raise status.no_such_path()
        elif target.namespace and not (resource.kind == "Namespace"
                                       and target.name == target.namespace):
            raise status.no_such_path()
        if target.rest:
            raise status.no_such_path()
        review = REVIEWS.get((resource.qualified, target.subresource))
        if review is not None:
            whole = not target.subresource
            if whole and target.name or resource.namespaced and not target.namespace:
                raise status.no_such_path()
            if target.verb != "create":
                raise status.method_not_allowed()
            verb: Verb | None = review
        elif target.subresource:
            if target.verb == "watch":                  # only the old spelling can say this
                raise status.no_such_path()
            verbs = SUBRESOURCES.get(target.subresource)
            if verbs is None or target.subresource not in resource.subresources:
                raise status.no_such_path()
            verb = verbs.get(target.verb)
        elif target.verb not in resource.verbs:
            raise status.method_not_allowed()
        else:
            verb = bind if resource.kind == "Binding" else VERBS.get(target.verb)
            if (not target.name) != (target.verb in ON_COLLECTIONS) and target.verb != "watch":
                raise status.method_not_allowed()
            if (resource.namespaced and not target.namespace
                    and target.verb not in OF_ALL_NAMESPACES):
                raise status.method_not_allowed()
        if verb is None:
            raise status.method_not_allowed()
        if target.name and not target.name.isalnum():
            meta.check_segment(target.name)
        if target.namespace in (".", ".."):
            raise status.ApiError(500, "", "invalid key: " + status.shown(
                f"/{resource.plural}/{target.namespace}/{target.name}"))
        return verb

    def _plain(self, target: Target) -> Answer:
        if target.path in ("/healthz", "/livez", "/readyz"):
            return Answer(200, b"ok", "text/plain")
        if target.path == "/metrics":
            return Answer(200, render(self), CONTENT_TYPE)
        published = self.security and self.security.published(target.path, self.url)
        if published:
            if target.verb != "get":
                raise status.method_not_allowed()
            return published
        raise status.no_such_path()

    def _wrote(self, operation: str, key: bytes, seconds: float) -> None:
        resource = self.layout.resource_of(key)
        if resource is not None:
            self.metrics.of_store(operation, resource, seconds)

    def _unexpected(self, error: Exception, request: Request) -> status.ApiError:
        if isinstance(error, RequestTooLargeError):
            return status.ApiError(500, "", "etcdserver: request is too large")
        if isinstance(error, (ClosedError, NoSpaceError)):
            return status.unavailable(str(error))
        _log.error("%s %s failed", request.method, request.path, exc_info=error)
        return status.internal(str(error) or type(error).__name__)

    # --- in process -----------------------------------------------------------------------------

    async def create(self, resource: Resource, obj: Object, namespace: str = "",
                     user: User = ADMIN) -> bytes:
        """The create path without a transport. Takes the object; returns JSON.

        Errors: ApiError. Cost: 130 us with default admission, 100 more when no pod with the same
        spec was made before, and a sync shared with others.
        """
        call = self._call("create", resource, namespace, "", user)
        call.object = obj
        return (await create(call)).body

    async def get(self, resource: Resource, name: str, namespace: str = "",
                  user: User = ADMIN) -> bytes:
        """JSON of one object, as the store has it. Errors: ApiError 404."""
        return (await get(self._call("get", resource, namespace, name, user))).body

    async def list(self, resource: Resource, namespace: str = "", user: User = ADMIN,
                   **query: str) -> bytes:
        """JSON of a list. Args: query: as in a URL (labelSelector, limit, ...)."""
        return (await list_objects(self._call("list", resource, namespace, "", user, query))).body

    async def update(self, resource: Resource, obj: Object, namespace: str = "",
                     user: User = ADMIN, subresource: str = "") -> bytes:
        """Replaces an object, or a part of it. Takes the object; returns JSON.

        Errors: ApiError: 404, 409 if it names another version than the stored one.
        """
        name = (obj.get("metadata") or {}).get("name") or ""
        call = self._call("update", resource, namespace, name, user, subresource=subresource)
        call.object = obj
        return (await _to_the_end(self._verb(resource, call.target), call)).body

    async def patch(self, resource: Resource, name: str, patch: Any, namespace: str = "",
                    user: User = ADMIN, subresource: str = "") -> bytes:
        """A merge patch (a dict) or a JSON patch (a list). Returns: JSON of the object."""
        call = self._call("patch", resource, namespace, name, user, subresource=subresource)
        call.request.body = orjson.dumps(patch)
        call.request.headers["content-type"] = (
            "application/json-patch+json" if isinstance(patch, (tuple, type([])))
            else "application/merge-patch+json")
        return (await _to_the_end(self._verb(resource, call.target), call)).body

    async def delete(self, resource: Resource, name: str, namespace: str = "",
                     user: User = ADMIN, **query: str) -> bytes:
        """Args: query: as in a URL (propagationPolicy, gracePeriodSeconds). Returns: JSON of what
        DELETE answers. Errors: ApiError 404."""
        call = self._call("delete", resource, namespace, name, user, query)
        return (await _to_the_end(delete, call)).body

    async def watch(self, resource: Resource, namespace: str = "", user: User = ADMIN,
                    **query: str) -> AsyncIterator[bytes]:
        """Chunks of JSON lines, as a watch sends them; the first one may be empty.

        Close it (`aclose`). Args: query: as in a URL (resourceVersion, labelSelector, ...).
        """
        answer = await watch(self._call("watch", resource, namespace, "", user, query))
        assert answer.chunks is not None
        return answer.chunks

    def _call(self, verb: str, resource: Resource, namespace: str, name: str, user: User,
              query: dict[str, str] | None = None, subresource: str = "") -> Call:
        """Errors: ApiError: what `authorize` says."""
        target = Target(verb, "", "apis" if resource.group else "api", resource.group,
                        resource.version, resource.plural, subresource, namespace, name)
        self.authorize(user, target)
        self._verb(resource, target)
        return Call(self, Request("", "", query or {}), target, resource, user, "CREATE",
                    namespace if resource.namespaced else "", name)


def _read_object(call: Call) -> None:
    """What a body says, and whether its fields are known, of a call whose own thread shall not
    wait for that."""
    body, said = call.request.body, call.request.headers.get("content-type", "")
    kind = KINDS_SENT.get(call.subresource, call.resource.kind)
    call.object = decode_body(body, said, kind)
    call.repeated = repeated_keys(body) if media_of(said) == YAML else None
    if kind == call.resource.kind and kind != "Binding":
        check_fields(call)
        call.checked = True


def _read_patch(call: Call) -> None:
    call.parsed = read_patch(call)


def _read_delete(call: Call) -> None:
    call.parsed = DeleteOptions.read(call)


READ_APART: dict[str, Callable[[Call], None]] = {
    "create": _read_object, "update": _read_object, "patch": _read_patch, "delete": _read_delete,
    "deletecollection": _read_delete}


async def _to_the_end(verb: Verb, call: Call) -> Answer:
    """Runs a verb; admission is told how it ended."""
    try:
        return await verb(call)
    finally:
        finish(call)


def refusal(error: status.ApiError) -> Answer:
    """The Status as an answer, with Retry-After where the Status says so."""
    answer = Answer(error.code, error.body())
    if error.details and "retryAfterSeconds" in error.details:
        answer.headers["Retry-After"] = str(error.details["retryAfterSeconds"])
    return answer
