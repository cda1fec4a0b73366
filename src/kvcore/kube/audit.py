# SPDX-License-Identifier: Apache-2.0
"""The audit log: who asked for what, and what became of it; one JSON line a request.

    Api.handle ── audited ──┬─ Trail: the user, the call, whether it was allowed
                            └─ AuditLog.write: an audit.k8s.io/v1 Event at ResponseComplete

Level Metadata, for every request: no bodies. A watch's line comes when the watch ends, and one of a
request whose client left before its answer has no responseStatus. Calls in process that are no
Requests are not logged. Upstream needs a policy file beside the path, and has levels and stages by
rule; here there is this one.

Each server appends whole lines by one write each, so several may share a file; who rotates it must
copy and truncate. A line that cannot be written is counted (apiserver_audit_error_total) and
reported, and the request goes on, as upstream.
Thread safety: one event loop's thread; a line to a pipe that nobody reads holds the loop up.
Source: apiserver audit (request.go), endpoints/filters/audit.go, plugin/pkg/audit/log.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import orjson

from kvcore.kube.call import Call
from kvcore.kube.request import Answer, Request, Target, User, parse_target

if TYPE_CHECKING:
    from kvcore.kube.api import Api

__all__ = ["AuditLog", "Trail", "audited"]

_log = logging.getLogger("kvcore.kube")

Object = dict[str, Any]
STDOUT = "-"
STATUS = b'{"kind":"Status"'
ID_MAX = 64                      # characters of an Audit-ID that a client names


class Trail:
    """What is learned of a request on its way. `allowed`: None: nobody was asked."""

    __slots__ = ("user", "call", "target", "allowed", "reason")

    def __init__(self, target: Target) -> None:
        self.user: User | None = None
        self.call: Call | None = None
        self.target = target
        self.allowed: bool | None = None
        self.reason = ""


class AuditLog:
    """A file that is appended to, readable by its owner only; "-": standard output."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.written = self.failed = 0
        self._file = -1

    def open(self) -> None:
        """Idempotent. Errors: OSError."""
        if self._file < 0:
            self._file = 1 if self.path == STDOUT else os.open(
                self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        file, self._file = self._file, -1
        if file > 1:
            os.close(file)

    def write(self, event: Object) -> None:
        """Cost: 5 us and a write into the page cache."""
        try:
            line = orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)
            while line:
                line = line[os.write(self._file, line):]
        except (OSError, orjson.JSONEncodeError) as error:
            self.failed += 1
            _log.error("a line of the audit log is lost: %s", error)
        self.written += 1


async def audited(api: Api, log: AuditLog, request: Request) -> Answer:
    """The answer of a request, which is logged when it is over."""
    trail, received = Trail(parse_target(request)), api.now()
    id = request.headers.get("audit-id", "")[:ID_MAX] or str(uuid.uuid4())

    def over(answer: Answer | None) -> None:
        log.write(event_of(request, trail, id, answer, received, api.now()))

    try:
        answer = await api.answer(request, trail.target, trail)
    except BaseException:
        over(None)
        raise
    answer.headers["Audit-Id"] = id
    if answer.chunks is None:
        over(answer)
    else:
        answer.chunks = _Chunks(answer.chunks, lambda: over(answer))
    return answer


class _Chunks:
    """A watch's chunks; `end` is called when they are closed, also if nobody took one."""

    def __init__(self, chunks: AsyncIterator[bytes], end: Callable[[], None]) -> None:
        self._chunks, self._end = chunks, end

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        end, self._end = self._end, lambda: None
        try:
            close: Any = getattr(self._chunks, "aclose", None)
            if close is not None:
                await close()
        finally:
            end()


# --- the event ------------------------------------------------------------------------------------

def event_of(request: Request, trail: Trail, id: str, answer: Answer | None, received: float,
             now: float) -> Object:
    """Fields in upstream's order; what is empty is left out."""
    asked, user = trail.user, trail.user
    if asked is not None and asked.by is not None:
        asked = asked.by
    event: Object = {
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": id,
        "stage": "ResponseComplete", "requestURI": request.url or request.path,
        "verb": trail.target.verb, "user": user_info(asked)}
    if user is not asked:
        event["impersonatedUser"] = user_info(user)
    if request.address:
        event["sourceIPs"] = [request.address]
    if agent := request.headers.get("user-agent"):
        event["userAgent"] = agent
    if trail.target.is_resource:
        event["objectRef"] = object_ref(trail)
    if answer is not None:
        event["responseStatus"] = response_status(answer)
    event["requestReceivedTimestamp"], event["stageTimestamp"] = micro(received), micro(now)
    if noted := notes_of(trail):
        event["annotations"] = noted
    return event


def user_info(user: User | None) -> Object:
    if user is None:
        return {}
    said = {"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra}
    return {name: value for name, value in said.items() if value}


def object_ref(trail: Trail) -> Object:
    """A create's name is the one that its body says, if it says one."""
    target, call = trail.target, trail.call
    name = target.name
    if not name and call is not None and not call.generated and call.operation == "CREATE":
        name = call.name
    said = {"resource": target.resource, "namespace": target.namespace, "name": name,
            "apiGroup": target.group, "apiVersion": target.version,
            "subresource": target.subresource}
    return {part: value for part, value in said.items() if value}


def response_status(answer: Answer) -> Object:
    """Of an answer that is a Status what it says, of others the code."""
    found: Object = {"metadata": {}}
    if answer.chunks is None and answer.body.startswith(STATUS):
        said = orjson.loads(answer.body)
        found |= {part: said[part] for part in ("status", "message", "reason", "details")
                  if part in said}
    found["code"] = answer.code
    return found


def notes_of(trail: Trail) -> dict[str, str]:
    """What authorisation decided and admission noted."""
    noted: dict[str, str] = {}
    if trail.allowed is not None:
        noted["authorization.k8s.io/decision"] = "allow" if trail.allowed else "forbid"
        noted["authorization.k8s.io/reason"] = trail.reason
    if trail.call is not None and trail.call.admission is not None:
        noted |= trail.call.admission.annotations
    return dict(sorted(noted.items()))


def micro(seconds: float) -> str:
    """
    >>> micro(0.5)
    '1970-01-01T00:00:00.500000Z'
    """
    at = datetime.fromtimestamp(seconds, timezone.utc)
    return at.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
