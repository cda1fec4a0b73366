# SPDX-License-Identifier: Apache-2.0
"""What the query of a list or a watch asks for, what may not stand together, and continue tokens.

    query ──ListOptions.of──> selector, limit, continue, version and its match, initial events
    token: base64url of {"v":"meta.k8s.io/v1","rv":N,"start":"<rest of the key>\\u0000"}

A token holds what follows the prefix of the list it came from, so it cannot lead out of the list
it is given to, whatever it says.
Sources: apimachinery meta/internalversion (defaults, validation), apiserver storage/continue.go,
storage/interfaces.go. May not know: the store.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

import orjson

from kvcore.kube import status
from kvcore.kube.call import Call
from kvcore.kube.request import is_true
from kvcore.kube.selectors import Selector, parse_selector, quoted
from kvcore.kube.status import Cause

__all__ = ["ListOptions", "parse_version", "read_token", "write_token"]

EXACT, NOT_OLDER = "Exact", "NotOlderThan"
NEWEST = (1 << 63) - 1           # versions are 64 bits upstream; beyond it nothing will ever be
OF_LIST = "invalid resource version: "
TOKEN_VERSION = "meta.k8s.io/v1"


@dataclass(slots=True)
class ListOptions:
    """`initial`: sendInitialEvents; None: not given. `name`: of the one object that is asked for,
    by the path or by metadata.name."""

    selector: Selector
    name: str
    limit: int
    token: str
    version: str
    revision: int
    match: str
    initial: bool | None
    bookmarks: bool
    timeout: int

    @classmethod
    def of(cls, call: Call, *, watching: bool) -> ListOptions:
        """Errors: 400 for what cannot be read, 422 for what may not stand together."""
        query = call.request.query
        get = query.get
        selector = parse_selector(call.resource, get("labelSelector", ""),
                                  get("fieldSelector", ""))
        initial = is_true(query["sendInitialEvents"]) if "sendInitialEvents" in query else None
        version, match = get("resourceVersion", ""), get("resourceVersionMatch", "")
        if watching and initial is None and not match and version in ("", "0"):
            initial, match = True, NOT_OLDER  # what a watch from nowhere always meant
        options = cls(selector, "", _int64(get("limit", "")), get("continue", ""), version, 0,
                      match, initial, is_true(get("allowWatchBookmarks")),
                      _int64(get("timeoutSeconds", "")))
        causes = _watch_causes(options) if watching else _list_causes(options)
        if causes:
            raise options_invalid(causes)
        options.name = _name(call, selector)
        options.revision = parse_version(version, "" if watching else OF_LIST)
        return options


def _name(call: Call, selector: Selector) -> str:
    wanted = selector.field_equal("metadata.name")
    if call.name and selector.fields and wanted != call.name:
        raise status.bad_request("fieldSelector metadata.name doesn't match requested name")
    return call.name or wanted or ""


def _forbidden(field: str, why: str) -> Cause:
    return Cause(field, "FieldValueForbidden", f"Forbidden: {why}")


def _unsupported(match: str, *known: str) -> Cause:
    return Cause("resourceVersionMatch", "FieldValueNotSupported",
                 f"Unsupported value: {quoted(match)}: supported values: "
                 + ", ".join(map(quoted, known)))


WITH_CONTINUE = "resourceVersionMatch is forbidden when continue is provided"


def _list_causes(options: ListOptions) -> list[Cause]:
    causes, match, field = [], options.match, "resourceVersionMatch"
    if match:
        if not options.version:
            causes.append(_forbidden(field, "resourceVersionMatch is forbidden unless "
                                     "resourceVersion is provided"))
        if options.token:
            causes.append(_forbidden(field, WITH_CONTINUE))
        if match not in (EXACT, NOT_OLDER):
            causes.append(_unsupported(match, EXACT, NOT_OLDER, ""))
        if match == EXACT and options.version == "0":
            causes.append(_forbidden(field, 'resourceVersionMatch "exact" is forbidden for '
                                     'resourceVersion "0"'))
    if options.initial is not None:
        causes.append(_forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"))
    return causes


def _watch_causes(options: ListOptions) -> list[Cause]:
    causes, match, field = [], options.match, "resourceVersionMatch"
    if options.initial is not None and match != NOT_OLDER:
        causes.append(_forbidden(field, "sendInitialEvents requires setting resourceVersionMatch "
                                 f"to {NOT_OLDER}"))
    if match:
        if options.initial is None:
            causes.append(_forbidden(field, "resourceVersionMatch is forbidden for watch unless "
                                     "sendInitialEvents is provided"))
        if match != NOT_OLDER:
            causes.append(_unsupported(match, NOT_OLDER))
        if options.token:
            causes.append(_forbidden(field, WITH_CONTINUE))
    return causes


def options_invalid(causes: list[Cause]) -> status.ApiError:
    """422 about ListOptions, which no object is."""
    said = list(dict.fromkeys(f"{cause.field}: {cause.message}" for cause in causes))
    what = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    return status.ApiError(
        422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {what}',
        {"group": "meta.k8s.io", "kind": "ListOptions", "causes": [
            {"reason": cause.reason, "message": cause.message, "field": cause.field}
            for cause in causes]})


def _int64(text: str) -> int:
    """limit and timeoutSeconds; "" is 0. Errors: 400."""
    if not text:
        return 0
    why = "invalid syntax"
    if re.fullmatch(r"[+-]?[0-9]+", text):
        why = "value out of range"
        if len(text) < 30 and -(1 << 63) <= int(text) < 1 << 63:
            return int(text)
    raise status.bad_request(f"strconv.ParseInt: parsing {quoted(text)}: {why}")


def parse_version(text: str, prefix: str = "") -> int:
    """A resourceVersion as a number; 0 for "" and "0".

    Args: prefix: what an error's text begins with: OF_LIST for a list. Errors: 400 (upstream: 500
    for a get or a watch, with the same words).
    """
    if not text:
        return 0
    why = "invalid syntax"
    if re.fullmatch(r"[0-9]+", text):
        why = "value out of range"
        if len(text) < 30 and int(text) < 1 << 64:
            return min(int(text), NEWEST)
    raise status.bad_request(f"{prefix}resourceVersion: Invalid value: {quoted(text)}: "
                             f"strconv.ParseUint: parsing {quoted(text)}: {why}")


# --- continue tokens ----------------------------------------------------------------------------

NO_KEY = "continue key is not valid"


def write_token(revision: int, rest: bytes) -> str:
    """Args: rest: of the key to go on with, behind the list's prefix.

    >>> write_token(7, b"web")
    'eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6Nywic3RhcnQiOiJ3ZWIifQ'
    """
    text = orjson.dumps({"v": TOKEN_VERSION, "rv": revision, "start": rest.decode()})
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def read_token(token: str) -> tuple[int, bytes]:
    """The revision and the rest of the key. Errors: 400.

    >>> read_token(write_token(7, b"default/web\\0"))
    (7, b'default/web\\x00')
    """
    said = _decoded(token)
    version = said.get("v", "")
    if version != TOKEN_VERSION:
        raise _bad_token(f"{NO_KEY}: server does not recognize this encoded version {version}")
    revision, start = said.get("rv", 0), said.get("start", "")
    if type(revision) is not int or not isinstance(start, str):
        raise _bad_token(f"{NO_KEY}: json: cannot unmarshal the token")
    if not revision:
        raise _bad_token(f"{NO_KEY}: incorrect encoded start resourceVersion (version "
                         f"{TOKEN_VERSION})")
    if not start:
        raise _bad_token(f"{NO_KEY}: encoded start key empty (version {TOKEN_VERSION})")
    rest = start.removeprefix("/")
    if any(part in ("", ".", "..") for part in rest.split("/")):
        raise _bad_token(f"{NO_KEY}: {start}")
    return revision, rest.encode()


def _decoded(token: str) -> dict[str, object]:
    bad = re.search(r"[^-_A-Za-z0-9]", token)
    if bad or len(token) % 4 == 1:
        raise _bad_token(f"{NO_KEY}: illegal base64 data at input byte "
                         f"{bad.start() if bad else len(token) - 1}")
    try:
        said = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except orjson.JSONDecodeError as error:
        raise _bad_token(f"{NO_KEY}: {error}") from None
    if not isinstance(said, dict):
        raise _bad_token(f"{NO_KEY}: json: cannot unmarshal the token")
    return said


def _bad_token(why: str) -> status.ApiError:
    return status.bad_request(f"invalid continue token: {why}")
