# SPDX-License-Identifier: Apache-2.0
"""A request before anybody looked into it, what its path means, and an answer.

    HTTP/1.1, HTTP/2, a call in process ──> Request ──> Target (verb, resource, namespace, name)
                                                │
                                                └──> Answer (whole body, or chunks for a watch)

Transports make Requests and send Answers; they know nothing else of Kubernetes.
Source of the path's grammar: k8s.io/apiserver endpoints/request/requestinfo.go.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

__all__ = ["Answer", "Request", "Target", "User", "parse_target", "shortened"]


@dataclass(frozen=True, slots=True)
class User:
    """Who asks. `extra`: what an authenticator knows beside (for example the pod of a token);
    `by`: who it is that is seen as this user (impersonation)."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: dict[str, tuple[str, ...]] = field(default_factory=dict)
    by: User | None = field(default=None, compare=False)

    def info(self) -> dict[str, Any]:
        """As reviews show a user: authentication.k8s.io UserInfo."""
        said: dict[str, Any] = {"username": self.name}
        if self.uid:
            said["uid"] = self.uid
        if self.groups:
            said["groups"] = list(self.groups)
        if self.extra:
            said["extra"] = {key: list(values) for key, values in self.extra.items()}
        return said


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
ADMIN = User("kubernetes-admin", ("system:masters", "system:authenticated"))


@dataclass(slots=True)
class Request:
    """Method, path, parameters, headers (names in lower case), body; the client's certificate in
    DER when TLS brought one. `user`: set by a caller in process, who needs no authentication.
    `url`: path and parameters as they came; `address`: the peer's."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    certificate: bytes | None = None
    user: User | None = None
    url: str = ""
    address: str = ""

    @classmethod
    def of(cls, method: str, url: str, **rest: Any) -> Request:
        """From the request line: the path unquoted, the query parsed.

        The first parameter of a name wins. Only of `dryRun` all count: lines, if they differ.
        """
        path, _, query = url.partition("?")
        if "%" in path:
            path = unquote(path)
        if not query:
            return cls(method, path, {}, url=url, **rest)
        pairs = parse_qsl(query, keep_blank_values=True)
        said = dict(reversed(pairs))
        if len(said) < len(pairs) and "dryRun" in said:
            dry = [value for name, value in pairs if name == "dryRun"]
            said["dryRun"] = dry[0] if len({*dry}) == 1 else "\n".join(dry)
        return cls(method, path, said, url=url, **rest)


def joined(name: str, before: str, value: str) -> str:
    """The value of a header that came more than once. Of two content types the first counts, and
    so it is with tokens; names of groups may have commas in them.

    >>> joined("accept", "a", "b"), joined("content-type", "a", "b")
    ('a, b', 'a')
    """
    if name == "content-type":
        return before
    if name.startswith("impersonate-") or name == "authorization":
        return f"{before}\n{value}"
    return f"{before}; {value}" if name == "cookie" else f"{before}, {value}"


@dataclass(slots=True)
class Answer:
    """Status code, body and content type; `chunks`: instead of a body, sent as they come, each
    flushed (a watch). A transport that loses its client closes `chunks`. `warnings`: sent as a
    Warning header each; `lines()` has them and all other headers."""

    code: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    chunks: AsyncIterator[bytes] | None = None
    warnings: list[str] = field(default_factory=list)

    def lines(self) -> list[tuple[str, str]]:
        """The header lines beside those of the body's length and type, which the transport makes.

        >>> Answer(200, warnings=['a "b"', "c"]).lines()
        [('Warning', '299 - "a \\\\"b\\\\""'), ('Warning', '299 - "c"')]
        """
        return [*self.headers.items(), *(("Warning", warning_value(w)) for w in self.warnings)]


WARNINGS_MAX, WARNING_MAX = 4096, 256        # characters of all; of each, once all are too many


def shortened(warnings: list[str]) -> list[str]:
    """As many warnings as upstream sends, and as much of each.

    >>> [len(text) for text in shortened(["a" * 5000, "b"])], len(shortened(["a" * 256] * 99))
    ([256, 1], 16)
    """
    if sum(map(len, warnings)) <= WARNINGS_MAX:
        return warnings
    short, written = list[str](), 0
    for text in warnings:
        if written >= WARNINGS_MAX:
            break
        short.append(text[:WARNING_MAX])
        written += len(short[-1])
    return short


def warning_value(text: str) -> str:
    """The value of a Warning header. Control characters would end the line: they are left out,
    where upstream leaves the whole warning out."""
    if not text.isprintable():
        text = "".join(c for c in text if c >= " " and not "\x7f" <= c <= "\x9f")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'299 - "{escaped}"'


@dataclass(slots=True)
class Target:
    """What a path and method mean. For a path that is no resource only verb and path are set."""

    verb: str                    # create get list watch update patch delete deletecollection
    path: str
    prefix: str = ""             # "api" or "apis"; "": no resource
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    rest: str = ""               # behind the subresource: a proxy's path

    @property
    def is_resource(self) -> bool:
        return bool(self.resource)


VERBS = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch",
         "DELETE": "delete"}
NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})


def is_true(text: str | None) -> bool:
    """A boolean parameter as upstream's query decoder reads it: "" counts as given."""
    return text is not None and text.lower() not in ("false", "0")


def parse_target(request: Request) -> Target:
    """The path's meaning; it need not exist.

    >>> t = parse_target(Request.of("GET", "/api/v1/namespaces/default/pods/web/status"))
    >>> t.verb, t.resource, t.subresource, t.namespace, t.name
    ('get', 'pods', 'status', 'default', 'web')
    >>> parse_target(Request.of("GET", "/apis/apps/v1/deployments?watch=1")).verb
    'watch'
    """
    method, path = request.method, request.path
    parts = path.strip("/").split("/")
    if (parts[0] not in ("api", "apis") or len(parts) < (3 if parts[0] == "api" else 4)
            or "" in parts):
        return Target(method.lower(), path)
    target = Target(VERBS.get(method, ""), path, parts[0])
    if parts[0] == "api":
        target.version, parts = parts[1], parts[2:]
    else:
        target.group, target.version, parts = parts[1], parts[2], parts[3:]
    watching = parts[0] == "watch"           # /api/v1/watch/...: the old spelling
    if watching:
        parts = parts[1:]
    if parts and parts[0] == "namespaces" and len(parts) > 1:
        target.namespace = parts[1]
        if len(parts) > 2 and parts[2] not in NAMESPACE_SUBRESOURCES:
            parts = parts[2:]
    _fill(target, parts)
    if target.verb in ("get", "delete") and not target.name:
        target.verb = "list" if target.verb == "get" else "deletecollection"
    if watching or (target.verb == "list" and is_true(request.query.get("watch"))):
        target.verb = "watch"
    return target


def _fill(target: Target, parts: list[str]) -> None:
    if parts:
        target.resource = parts[0]
    if len(parts) > 1:
        target.name = parts[1]
    if len(parts) > 2:
        target.subresource, target.rest = parts[2], "/".join(parts[3:])
