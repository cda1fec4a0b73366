# SPDX-License-Identifier: Apache-2.0
"""The API server without a socket: a Request in, an Answer out.

    handle(request): authenticate -> target -> authorize -> verb (VERBS) -> Answer
        create  create.py      get, list  reading.py     watch  watching.py
        update, patch, delete, deletecollection          changing.py

Transports (HTTP/1.1, HTTP/2) and callers in process use the same `handle`. Refusals are ApiErrors
inside and Status answers outside. Everything belongs to one event loop; several Apis over one store
agree through the store.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import orjson

from kvcore import Store
from kvcore.errors import ClosedError, NoSpaceError, RequestTooLargeError
from kvcore.kube import status
from kvcore.kube.admission import Chain
from kvcore.kube.authorization import named
from kvcore.kube.caching import Feed
from kvcore.kube.call import Call, Object, Options
from kvcore.kube.codec import CODECS
from kvcore.kube.create import create
from kvcore.kube.keys import KeyLayout
from kvcore.kube.metrics import Metrics
from kvcore.kube.reading import get, list_objects
from kvcore.kube.request import ADMIN, ANONYMOUS, Answer, Request, Target, User, parse_target
from kvcore.kube.resources import Resource, Resources
from kvcore.kube.reviews import KINDS, REVIEWS
from kvcore.kube.storage import ObjectStore
from kvcore.kube.watching import watch

if TYPE_CHECKING:
    from kvcore.kube.security import Security

__all__ = ["Api"]

_log = logging.getLogger("kvcore.kube")

Verb = Callable[[Call], Awaitable[Answer]]
VERBS: dict[str, Verb] = {"create": create, "get": get, "list": list_objects, "watch": watch}


class Api:
    """All verbs over one store. `await start()` first, `await stop()` last."""

    def __init__(self, store: Store, *, key_layout: Any = "grouped", storage_codec: str = "json",
                 admission: Chain | None = None, resources: Resources | None = None,
                 capacity: int = 100_000, capacities: dict[str, int] | None = None,
                 clock: Callable[[], float] = time.monotonic,
                 now: Callable[[], float] = time.time) -> None:
        if storage_codec not in CODECS:
            raise ValueError(f"storage_codec must be one of {', '.join(CODECS)}, "
                             f"got {storage_codec!r}")
        self.store, self.codec = store, CODECS[storage_codec]
        self.layout = KeyLayout(key_layout)
        self.resources = resources or Resources()
        self.objects = ObjectStore(store)
        self.feed = Feed(store, self.layout, capacity=capacity, capacities=capacities)
        self.metrics = Metrics()
        self.admission = admission or Chain()
        self.clock, self.now = clock, now
        for review in KINDS:
            self.resources.add(review)
        self.security: Security | None = None          # set by kvcore.kube.security.secure
        self.authenticate: Callable[[Request], User] = lambda request: ANONYMOUS
        self.authorize: Callable[[User, Target], None] = lambda user, target: None

    async def start(self) -> None:
        self.feed.start()

    async def stop(self) -> None:
        await self.feed.stop()

    async def handle(self, request: Request) -> Answer:
        """Never raises, but for CancelledError: what goes wrong is a Status answer."""
        warnings: list[str] = []
        try:
            answer = await self._serve(request, warnings)
        except status.ApiError as error:
            answer = refusal(error)
        except Exception as error:
            answer = refusal(self._unexpected(error, request))
        for text in warnings:
            answer.headers.setdefault("Warning", f'299 - "{text}"')
        return answer

    async def _serve(self, request: Request, warnings: list[str]) -> Answer:
        user = request.user or self.authenticate(request)
        target = parse_target(request)
        selected = request.query.get("fieldSelector")
        self.authorize(user, named(target, selected) if selected else target)
        if not target.is_resource:
            return self._plain(target)
        resource = self.resources.of_path(target.group, target.version, target.resource)
        if resource is None or not reachable(resource, target):
            raise status.no_such_path()
        verb = VERBS.get(target.verb)
        if verb is create:
            verb = REVIEWS.get((resource.qualified, target.subresource), create)
            if verb is create and target.name:
                raise status.method_not_allowed()
        if verb is None or target.verb not in resource.verbs:
            raise status.method_not_allowed()
        if resource.namespaced and not target.namespace and target.verb not in ("list", "watch"):
            raise status.no_such_path()
        namespace = target.namespace if resource.namespaced else ""
        call = Call(self, request, target, resource, user, "CREATE", namespace, target.name,
                    options=Options.of(request.query), warnings=warnings)
        return await verb(call)

    def _plain(self, target: Target) -> Answer:
        if target.path in ("/healthz", "/livez", "/readyz"):
            return Answer(200, b"ok", "text/plain")
        raise status.no_such_path()

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

        Errors: ApiError.
        """
        target = Target("create", "", "api", resource.group, resource.version, resource.plural,
                        "", namespace)
        self.authorize(user, target)
        request = Request("POST", "", body=orjson.dumps(obj))
        call = Call(self, request, target, resource, user, "CREATE", namespace)
        return (await create(call)).body


def reachable(resource: Resource, target: Target) -> bool:
    """Whether a path can lead to a resource: authorisation asked about exactly this path, so what
    it says beyond the resource must mean something."""
    if target.subresource and target.subresource not in resource.subresources:
        return False
    return resource.namespaced or not target.namespace or target.resource == "namespaces"


def refusal(error: status.ApiError) -> Answer:
    """The Status as an answer, with Retry-After where the Status says so."""
    answer = Answer(error.code, error.body())
    if error.details and "retryAfterSeconds" in error.details:
        answer.headers["Retry-After"] = str(error.details["retryAfterSeconds"])
    return answer
