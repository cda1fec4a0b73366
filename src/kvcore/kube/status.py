# SPDX-License-Identifier: Apache-2.0
"""Errors as Kubernetes says them: an exception that is a Status object.

    raise not_found(resource, "web-1")
        └─> ApiError ── .status() ──> {"kind": "Status", "code": 404, "reason": "NotFound", ...}

Texts, codes, reasons and details are those of apimachinery (api/errors, util/validation/field):
clients compare them. One function an error; nothing else in the package makes a Status.
Thread safety: none needed, values only. May not know: the store, HTTP.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import orjson

from kvcore.kube.resources import Resource

__all__ = ["ApiError", "Cause", "shown"]


@dataclass(frozen=True)
class Cause:
    """What is wrong with one field. `reason`: FieldValueRequired, FieldValueInvalid, ..."""

    field: str
    reason: str
    message: str

    @classmethod
    def invalid(cls, field: str, value: object, why: str) -> Cause:
        """A malformed value; `value` is shown as upstream shows it.

        >>> Cause.invalid("spec.replicas", -1, "must not be negative").message
        'Invalid value: -1: must not be negative'
        """
        return cls(field, "FieldValueInvalid", f"Invalid value: {shown(value)}: {why}")

    @classmethod
    def required(cls, field: str, why: str = "") -> Cause:
        return cls(field, "FieldValueRequired", f"Required value: {why}" if why else
                   "Required value")

    @classmethod
    def forbidden(cls, field: str, why: str) -> Cause:
        return cls(field, "FieldValueForbidden", f"Forbidden: {why}")

    @classmethod
    def unsupported(cls, field: str, value: object, *supported: str) -> Cause:
        """A value that is none of the supported ones."""
        known = ", ".join(f'"{text}"' for text in supported)
        return cls(field, "FieldValueNotSupported",
                   f"Unsupported value: {shown(value)}: supported values: {known}")


def shown(value: object) -> str:
    """A value in a message: JSON, with the escapes of Go's %q for strings.

    >>> print(shown("a\x01b"), shown(["x", 1]))
    "a\\x01b" ["x",1]
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return CONTROL.sub(r"\1\\x\2", text) if isinstance(value, str) else text


CONTROL = re.compile(r"(?<!\\)((?:\\\\)*)\\u00([0-9a-f]{2})")


class ApiError(Exception):
    """A refusal with its HTTP code, reason and details."""

    def __init__(self, code: int, reason: str, message: str,
                 details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details
        self.user: Any = None                   # who asked to be somebody else, and may not
        self.metadata: dict[str, Any] = {}      # an expired list's token to go on with

    def status(self) -> dict[str, Any]:
        """The Status object, as it stands in an answer or in an ERROR event."""
        status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": self.metadata,
                                  "status": "Failure", "message": self.message}
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = self.details
        status["code"] = self.code
        return status

    def body(self) -> bytes:
        return orjson.dumps(self.status())


def _of(resource: Resource, name: str = "") -> dict[str, Any]:
    details: dict[str, Any] = {}
    if name:
        details["name"] = name
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.plural
    return details


# --- the request itself --------------------------------------------------------------------------

def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: Resource | None, name: str, why: str) -> ApiError:
    """Args: resource: None for a path that is no resource, which `name` then is."""
    if resource is None:
        return ApiError(403, "Forbidden", f'forbidden: {why}', {})
    what = f'{resource.qualified} "{name}"' if name else resource.qualified
    return ApiError(403, "Forbidden", f"{what} is forbidden: {why}", _of(resource, name))


def no_such_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def method_not_allowed() -> ApiError:
    return ApiError(405, "MethodNotAllowed",
                    "the server does not allow this method on the requested resource", {})


def not_acceptable(accepted: str) -> ApiError:
    return ApiError(406, "NotAcceptable",
                    f"only the following media types are accepted: {accepted}")


def too_large(limit: int) -> ApiError:
    return entity_too_large(f"limit is {limit}")


def entity_too_large(why: str) -> ApiError:
    return ApiError(413, "RequestEntityTooLarge", f"Request entity too large: {why}")


def unsupported_media_type(accepted: str) -> ApiError:
    return ApiError(415, "UnsupportedMediaType", "the body of the request was in an unknown format"
                    f" - accepted media types include: {accepted}")


# --- objects ------------------------------------------------------------------------------------

def not_found(resource: Resource, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{resource.qualified} "{name}" not found',
                    _of(resource, name))


def already_exists(resource: Resource, name: str) -> ApiError:
    return ApiError(409, "AlreadyExists", f'{resource.qualified} "{name}" already exists',
                    _of(resource, name))


def name_conflict(resource: Resource, name: str) -> ApiError:
    """A name from generateName that is taken."""
    return ApiError(409, "AlreadyExists",
                    f'{resource.qualified} "{name}" already exists, the server was not able to '
                    "generate a unique name for the object",
                    _of(resource, name) | {"retryAfterSeconds": 1})


MODIFIED = ("the object has been modified; please apply your changes to the latest version and "
            "try again")


def conflict(resource: Resource, name: str, why: str = MODIFIED) -> ApiError:
    return ApiError(409, "Conflict",
                    f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}',
                    _of(resource, name))


def precondition(resource: Resource, name: str, kind: str, asked: str, found: str) -> ApiError:
    """A delete's precondition that does not hold. Args: kind: "UID" or "ResourceVersion".

    Upstream names the kind here, not the resource.
    """
    happened = "deleted and then recreated" if kind == "UID" else "modified"
    qualified = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    return ApiError(409, "Conflict",
                    f'Operation cannot be fulfilled on {qualified} "{name}": the {kind} in the '
                    f"precondition ({asked}) does not match the {kind} in record ({found}). "
                    f"The object might have been {happened}",
                    _of(resource, name) | {"kind": resource.kind})


def store_precondition(key: bytes, asked: str, found: str, kind: str = "UID") -> str:
    """The words of a conflict when a write names another object's uid, or another version."""
    shown_key = key.decode().removeprefix("/registry")
    return (f"StorageError: invalid object, Code: 4, Key: {shown_key}, ResourceVersion: 0, "
            f"AdditionalErrorMsg: Precondition failed: {kind} in precondition: {asked}, {kind} in "
            f"object meta: {found}")


def invalid(resource: Resource, name: str, causes: list[Cause]) -> ApiError:
    """422 with every cause. The message lists them in order, in brackets when there are several."""
    return invalid_kind(resource.group, resource.kind, name, causes)


def invalid_options(kind: str, causes: list[Cause]) -> ApiError:
    """422 about CreateOptions, DeleteOptions, ..."""
    return invalid_kind("meta.k8s.io", kind, "", causes)


def invalid_kind(group: str, kind: str, name: str, causes: list[Cause]) -> ApiError:
    """As `invalid`, where there is no resource; kind "": a patch that makes no object."""
    said = list(dict.fromkeys(f"{c.field}: {c.message}" for c in causes))
    what = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    qualified = f"{kind}.{group}" if group else kind
    details: dict[str, Any] = {k: v for k, v in (("name", name), ("group", group), ("kind", kind))
                               if v}
    details["causes"] = [{"reason": c.reason, "message": c.message, "field": c.field}
                         for c in causes]
    return ApiError(422, "Invalid", f'{qualified} "{name}" is invalid: {what}', details)


def unprocessable() -> ApiError:
    """A JSON patch that does not apply: upstream says no more than this."""
    return ApiError(422, "Invalid",
                    "the server rejected our request due to an error in our request", {})


def success(code: int = 0, details: dict[str, Any] | None = None) -> bytes:
    """The Status of something done that has no object to show; `code` 0: not said."""
    said: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {},
                            "status": "Success"}
    if details is not None:
        said["details"] = details
    if code:
        said["code"] = code
    return orjson.dumps(said)


def deleted(resource: Resource, name: str, uid: str) -> bytes:
    """The Status of a delete, of kinds whose delete does not show the object."""
    return success(details=_of(resource, name) | {"uid": uid})


# --- versions -----------------------------------------------------------------------------------

def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def too_old(asked: int, oldest: int) -> ApiError:
    """A watch from before what is kept."""
    return expired(f"too old resource version: {asked} ({oldest})")


def too_new(asked: int, current: int, *, retry: bool = True) -> ApiError:
    """A version that no write has reached: clients know it by the cause, and try again."""
    details: dict[str, Any] = {"causes": [{"reason": "ResourceVersionTooLarge",
                                           "message": "Too large resource version"}]}
    if retry:
        details["retryAfterSeconds"] = 1
    return ApiError(504, "Timeout", "Timeout: Too large resource version: "
                    f"{asked}, current: {current}", details)


# --- the server ---------------------------------------------------------------------------------

def too_many_requests(message: str, seconds: int = 1) -> ApiError:
    return ApiError(429, "TooManyRequests", message, {"retryAfterSeconds": seconds})


def internal(message: str) -> ApiError:
    return ApiError(500, "InternalError", f"Internal error occurred: {message}",
                    {"causes": [{"message": message}]})


def unavailable(message: str) -> ApiError:
    return ApiError(503, "ServiceUnavailable", message)
