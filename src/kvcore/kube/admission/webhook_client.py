# SPDX-License-Identifier: Apache-2.0
"""One AdmissionReview over HTTPS: asked, answered, and checked.

    Call ──request──> {"request": {uid, kind, object, ...}} ──POST──> webhook
    answer ──checked──> Verdict(allowed, status, patch, warnings, annotations)

What goes wrong on the way is a CallFailed with upstream's words, for failurePolicy to judge. A
webhook is not trusted: an answer has 3 MiB, may not be compressed, and belongs to the uid that was
asked; redirects are not followed (upstream follows them: CVE-2020-8561), so nobody is sent to
another place on behalf of the server. Connections are kept, without a limit that a hanging webhook
could use up.
Thread safety: one event loop. May not know: matching, the store.
Source: apiserver admission/plugin/webhook/request, util/webhook, client-go rest/request.go.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from kvcore.kube import meta
from kvcore.kube.admission.webhook_match import Webhook
from kvcore.kube.call import Call, Object
from kvcore.kube.decode import PARSE, VERSION_AND_KIND
from kvcore.kube.fields import IllTyped, settle
from kvcore.kube.gojson import json_type, syntax_problem

if TYPE_CHECKING:                                # loaded with the first webhook: it costs 0.2 s
    import aiohttp

__all__ = ["CallFailed", "Client", "Resolver", "Verdict"]

ANSWER_LIMIT = 3 * 1024 * 1024
CONTEXTS_KEPT = 100
REVIEW, REVIEW_TYPE = "admission.k8s.io/v1", "admission.v1.AdmissionReview"
OPTIONS = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions"}

Resolver = Callable[[str, str, int], Awaitable[tuple[str, int]]]   # namespace, name, port


class CallFailed(Exception):
    """The webhook could not be asked, or did not answer as it must."""


@dataclass(frozen=True)
class Verdict:
    allowed: bool
    status: Object
    patch: bytes = b""
    patch_type: str = ""
    warnings: tuple[str, ...] = ()
    annotations: dict[str, str] = field(default_factory=dict)


class Client:
    """Args: resolve: the address of a Service; it raises OSError or LookupError with why not."""

    def __init__(self, resolve: Resolver) -> None:
        self.resolve = resolve
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def stop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(self, hook: Webhook, call: Call, *, mutating: bool) -> Verdict:
        """Errors: CallFailed."""
        if "v1" not in hook.versions:
            raise CallFailed("could not create admission objects: webhook does not accept known "
                             "AdmissionReview versions (v1)")
        uid = meta.new_uid()
        body = orjson.dumps({"kind": "AdmissionReview", "apiVersion": REVIEW,
                             "request": request_of(call, uid)})
        try:
            answer = await self._post(hook, body)
            check_kind(answer)
            check_types(answer)
        except CallFailed as failed:
            raise CallFailed(f"failed to call webhook: {failed}") from None
        try:
            return verdict(answer, uid, mutating=mutating)
        except CallFailed as failed:
            raise CallFailed(f"received invalid webhook response: {failed}") from None

    async def _post(self, hook: Webhook, body: bytes) -> Object:
        import aiohttp
        url, address, host = await self._address(hook)
        said = f'Post "{url}?timeout={int(hook.timeout)}s"'
        session = self._session
        if session is None:
            session = self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False)
        try:
            async with session.post(
                    f"{address}?timeout={int(hook.timeout)}s", data=body, allow_redirects=False,
                    ssl=self._context(hook), server_hostname=host,
                    timeout=aiohttp.ClientTimeout(total=hook.timeout),
                    headers={"Host": urlsplit(url).netloc, "Content-Type": "application/json",
                             "Accept": "application/json, */*",
                             "Accept-Encoding": "identity"}) as response:
                return decoded(response.status,
                               response.headers.get("Content-Type", "application/json"),
                               await limited(response.content))
        except asyncio.TimeoutError:
            raise CallFailed(f"{said}: context deadline exceeded") from None
        except aiohttp.ClientError as error:
            raise CallFailed(f"{said}: {reason(error)}") from None

    async def _address(self, hook: Webhook) -> tuple[str, str, str | None]:
        """The URL as it is spoken of, the one that is connected to, the certificate's name."""
        service = hook.client.get("service")
        if service is None:
            url = hook.client.get("url") or ""
            if not url:
                raise CallFailed("webhook configuration must have either service or URL")
            parts = urlsplit(url)
            if parts.scheme != "https" or not parts.netloc:
                raise CallFailed(f'Unparsable URL: "{url}" is not https://host[/path]')
            return url, url, None
        namespace, name = service.get("namespace", ""), service.get("name", "")
        port, path = int(service.get("port") or 443), service.get("path") or "/"
        host = f"{name}.{namespace}.svc"
        url = f"https://{host}:{port}/{path.lstrip('/')}"
        try:
            target, own_port = await self.resolve(namespace, name, port)
        except (OSError, LookupError) as error:
            why = error.args[0] if error.args else error
            raise CallFailed(f'Post "{url}?timeout={int(hook.timeout)}s": {why}') from None
        target = f"[{target}]" if ":" in target else target
        return url, f"https://{target}:{own_port}/{path.lstrip('/')}", host

    def _context(self, hook: Webhook) -> ssl.SSLContext:
        """For its caBundle, or for the system's certificates."""
        bundle = hook.client.get("caBundle") or ""
        context = self._contexts.get(bundle)
        if context is None:
            try:
                pem = base64.b64decode(bundle, validate=True).decode("ascii")
                context = ssl.create_default_context(cadata=pem or None)
            except (ssl.SSLError, ValueError, binascii.Error):
                raise CallFailed("could not get REST client: unable to load root certificates: "
                                 "unable to parse bytes as PEM block") from None
            if len(self._contexts) >= CONTEXTS_KEPT:
                self._contexts.clear()
            self._contexts[bundle] = context
        return context


# --- the question --------------------------------------------------------------------------------

def request_of(call: Call, uid: str) -> Object:
    """The AdmissionRequest."""
    resource, target = call.resource, call.target
    api_version, shown = call.shown
    group, _, version = api_version.rpartition("/")
    kind = {"group": group, "version": version, "kind": shown}
    path = {"group": resource.group, "version": resource.version, "resource": resource.plural}
    request: Object = {"uid": uid, "kind": kind, "resource": path}
    if target.subresource:
        request["subResource"] = target.subresource
    request |= {"requestKind": kind, "requestResource": path}
    if target.subresource:
        request["requestSubResource"] = target.subresource
    name = call.name or (call.object.get("metadata") or {}).get("name")
    if name:
        request["name"] = name
    if call.namespace:
        request["namespace"] = call.namespace
    options: Object = {"kind": OPTIONS.get(call.operation, "CreateOptions"),
                       "apiVersion": "meta.k8s.io/v1"} | call.options.said()
    if call.operation != "DELETE" and call.request.query.get("fieldValidation"):
        options["fieldValidation"] = call.options.field_validation
    return request | {
        "operation": call.operation, "userInfo": call.user.info(),
        "object": call.object if call.operation != "DELETE" else None, "oldObject": call.old,
        "dryRun": call.options.dry_run, "options": options}


# --- the answer ----------------------------------------------------------------------------------

async def limited(content: aiohttp.StreamReader) -> bytes:
    parts, size = [], 0
    async for part in content.iter_chunked(65536):
        size += len(part)
        if size > ANSWER_LIMIT:
            raise CallFailed(f"the answer is larger than {ANSWER_LIMIT} bytes")
        parts.append(part)
    return b"".join(parts)


def decoded(code: int, content_type: str, body: bytes) -> Object:
    """The answer's object, whatever its type is said to be. Errors: CallFailed, for other codes
    than 2xx too."""
    if 200 <= code <= 206:
        return _read(code, content_type, body)
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if isinstance(answer, dict) and answer.get("kind") == "Status" \
            and answer.get("status") == "Failure":
        raise CallFailed(str(answer.get("message") or ""))
    text = body[:2048].decode(errors="replace").strip() \
        if content_type.startswith("text/") else ""
    raise CallFailed(CODES.get(code) or unexplained(code, text or "unknown"))


def _read(code: int, content_type: str, body: bytes) -> Object:
    """Errors: CallFailed."""
    if not body:
        raise CallFailed(f"0-length response with status code: {code} and content type: "
                         f"{content_type}")
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        if body.lstrip()[:1] == b"{":
            raise CallFailed("couldn't get version/kind; json parse error: "
                             f"{syntax_problem(body)}") from None
        answer = ""                              # upstream reads it as YAML: a string
    if answer is None:
        return {}
    if not isinstance(answer, dict):
        raise CallFailed(no_object(answer))
    return answer


def check_kind(answer: Object) -> None:
    """What is said to be another kind is not read as an AdmissionReview; what is silent is.
    Errors: CallFailed."""
    version, kind = answer.get("apiVersion") or REVIEW, answer.get("kind") or "AdmissionReview"
    if (version, kind) == (REVIEW, "AdmissionReview"):
        return
    if (version, kind) in CONVERTIBLE:
        raise CallFailed(f"converting ({version.rpartition('/')[2]}.{kind}) to "
                         "(v1.AdmissionReview): unknown conversion")
    raise CallFailed(no_such_kind(version, kind))


CONVERTIBLE = (("admission.k8s.io/v1beta1", "AdmissionReview"), ("v1", "Status"))


def no_such_kind(version: Any, kind: Any) -> str:
    return (f'no kind "{kind}" is registered for version "{version}" in scheme '
            '"pkg/runtime/scheme.go:111"')


def check_types(answer: Object) -> None:
    """What Go's decoder would refuse of an AdmissionReview; what is null is dropped. Errors:
    CallFailed."""
    try:
        settle(REVIEW_TYPE, answer)
    except IllTyped as error:
        raise CallFailed(str(error)) from None


def no_object(value: Any) -> str:
    """What upstream says of JSON that is no object."""
    return (f"{PARSE}json: cannot unmarshal {json_type(value)} into Go value of type "
            f"{VERSION_AND_KIND}")


CODES = {                                        # apimachinery api/errors NewGenericServerResponse
    400: "the server rejected our request for an unknown reason",
    401: "the server has asked for the client to provide credentials",
    404: "the server could not find the requested resource",
    405: "the server does not allow this method on the requested resource",
    406: "the server was unable to respond with a content type that the client supports",
    409: "the server reported a conflict",
    422: "the server rejected our request due to an error in our request",
    429: "the server has received too many requests and has asked us to try again later",
    503: "the server is currently unable to handle the request",
    504: "the server was unable to return a response in the time allotted, but may still be "
         "processing the request",
}


def unexplained(code: int, said: str) -> str:
    if code in (403, 415):
        return said
    if code >= 500:
        quoted = orjson.dumps(said).decode()
        return f"an error on the server ({quoted}) has prevented the request from succeeding"
    return f"the server responded with the status code {code} but did not return more information"


def verdict(answer: Object, uid: str, *, mutating: bool) -> Verdict:
    """What an AdmissionReview says, whose types were checked. Errors: CallFailed."""
    response = answer.get("response")
    if not isinstance(response, dict):
        raise CallFailed("webhook response was absent")
    if response.get("uid") != uid:
        raise CallFailed(f'expected response.uid="{uid}", got "{response.get("uid") or ""}"')
    version, kind = answer.get("apiVersion") or "", answer.get("kind") or ""
    if (version, kind) != (REVIEW, "AdmissionReview"):
        got = version if "/" in version else f"/{version}"
        raise CallFailed(f"expected webhook response of {REVIEW}, Kind=AdmissionReview, got "
                         f"{got}, Kind={kind}")
    patch, patch_type = response.get("patch") or "", response.get("patchType")
    if mutating:
        if patch and patch_type is None:
            raise CallFailed("webhook returned response.patch but not response.patchType")
        if not patch and patch_type is not None:
            raise CallFailed("webhook returned response.patchType but not response.patch")
        if patch_type == "":
            raise CallFailed('webhook returned invalid response.patchType of ""')
    elif patch:
        raise CallFailed("validating webhook may not return response.patch")
    elif patch_type is not None:
        raise CallFailed("validating webhook may not return response.patchType")
    return Verdict(
        response.get("allowed") is True, response.get("status") or {}, base64.b64decode(patch),
        patch_type or "", tuple(response.get("warnings") or ()),
        response.get("auditAnnotations") or {})


def reason(error: aiohttp.ClientError) -> str:
    """Why there was no answer, in the words of Go's net/http where there are some."""
    import aiohttp
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "EOF"
    cause: BaseException | None = error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = CERTIFICATE.get(cause.verify_code) or cause.verify_message
        return f"tls: failed to verify certificate: x509: {why}"
    if isinstance(cause, ssl.SSLError):
        return "tls: first record does not look like a TLS handshake" \
            if cause.reason == "WRONG_VERSION_NUMBER" else f"tls: {cause.reason or cause}"
    if isinstance(cause, (ConnectionResetError, BrokenPipeError)):
        return "EOF"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {error.host}: no such host"
    if isinstance(error, aiohttp.ClientConnectorError):
        words = {errno.ECONNREFUSED: "connection refused", errno.ENETUNREACH:
                 "network is unreachable", errno.EHOSTUNREACH: "no route to host"}
        number = error.os_error.errno
        return f"dial tcp {error.host}:{error.port}: connect: {words.get(number or 0) or cause}"
    return str(error) or type(error).__name__


UNKNOWN = "certificate signed by unknown authority"
CERTIFICATE = {18: UNKNOWN, 19: UNKNOWN, 20: UNKNOWN, 21: UNKNOWN,       # X509_V_ERR_*
               9: "certificate has expired or is not yet valid",
               10: "certificate has expired or is not yet valid"}
