# SPDX-License-Identifier: Apache-2.0
"""Resources that are questions: created, answered, never stored.

    authentication.k8s.io/v1   tokenreviews               whose token is this?
                               selfsubjectreviews         who am I?
                               serviceaccounts/<x>/token  a token for this account, please
    authorization.k8s.io/v1    subjectaccessreviews       may they?     localsubjectaccessreviews
                               selfsubjectaccessreviews   may I?        selfsubjectrulesreviews

`REVIEWS` is the table: (resource, subresource) -> handler; api.py looks there before it takes a
verb of stored objects, and `KINDS` are their rows for discovery. Admission is not asked.
Thread safety: one event loop. Source: kubernetes registry/authentication, registry/authorization,
registry/core/serviceaccount/storage/token.go. May not know: HTTP, how tokens are made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from kvcore.kube import status
from kvcore.kube.authorization import Authorizer, Decision
from kvcore.kube.caching import damage
from kvcore.kube.call import Call, Object
from kvcore.kube.decode import decode_body
from kvcore.kube.entry import Damaged, readable
from kvcore.kube.meta import rfc3339
from kvcore.kube.rbac import Rule, aggregate
from kvcore.kube.request import Answer, Target, User
from kvcore.kube.resources import Resource
from kvcore.kube.status import ApiError, Cause

__all__ = ["KINDS", "REVIEWS"]

AUTHENTICATION, AUTHORIZATION = "authentication.k8s.io", "authorization.k8s.io"
SHORTEST, LONGEST = 600, 1 << 32             # seconds a token may be asked for


def _row(group: str, plural: str, kind: str, namespaced: bool = False) -> Resource:
    return Resource(group, "v1", plural, kind, namespaced, verbs=("create",))


KINDS = (
    _row(AUTHENTICATION, "selfsubjectreviews", "SelfSubjectReview"),
    _row(AUTHENTICATION, "tokenreviews", "TokenReview"),
    _row(AUTHORIZATION, "localsubjectaccessreviews", "LocalSubjectAccessReview", True),
    _row(AUTHORIZATION, "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    _row(AUTHORIZATION, "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    _row(AUTHORIZATION, "subjectaccessreviews", "SubjectAccessReview"),
)


# --- reading what is asked ------------------------------------------------------------------------

def _asked(call: Call, group: str, kind: str) -> Object:
    """The body, said to be of this kind; metadata and spec are objects. Errors: 400, 413, 415."""
    if call.object:
        obj = call.object
    else:
        obj = decode_body(call.request.body, call.request.headers.get("content-type", ""))
    version, said = obj.setdefault("apiVersion", f"{group}/v1"), obj.setdefault("kind", kind)
    if (version, said) != (f"{group}/v1", kind):
        short = str(version).rpartition("/")[2]
        raise status.bad_request(
            f'{said} in version "{version}" cannot be handled as a {kind}: converting ({short}.'
            f"{said}) to ({group.partition('.')[0]}.{kind}): unknown conversion")
    for part in ("metadata", "spec"):
        if obj.get(part) is None:
            obj[part] = {}
        _of_type(obj, part, dict, kind, kind)
    return obj


GO_TYPES: dict[type, str] = {str: "string", list: "array", dict: "object", bool: "bool",
                             int: "number", float: "number", type(None): "null"}


def _of_type(obj: Object, field: str, wanted: type, kind: str, where: str = "") -> Any:
    """A field of a type, or None where it is missing. Args: where: the structure it is a field
    of, and its path; else the spec. Errors: 400."""
    value = obj.get(field)
    if value is None or (isinstance(value, wanted) and type(value) is not bool):
        return value
    name = f"{kind}Spec" if field == "spec" else field[0].upper() + field[1:]
    raise status.bad_request(
        f'{kind} in version "v1" cannot be handled as a {kind}: json: cannot unmarshal '
        f"{GO_TYPES[type(value)]} into Go struct field {where or f'{kind}Spec.spec'}.{field} "
        f"of type {f'v1.{name}' if wanted is dict else GO_TYPES[wanted]}")


def _text(obj: Object, field: str, kind: str, where: str = "") -> str:
    return _of_type(obj, field, str, kind, where) or ""


def _texts(obj: Object, field: str, kind: str, where: str = "") -> tuple[str, ...]:
    values = _of_type(obj, field, list, kind, where) or []
    for value in values:
        _of_type({field: value}, field, str, kind, where)
    return tuple(values)


def _created(call: Call, obj: Object) -> Answer:
    return Answer(201, orjson.dumps(obj))


def _invalid(group: str, kind: str, causes: list[Cause], name: str = "") -> ApiError:
    """422; upstream names no kind where it looks at its own structures."""
    return status.invalid_kind(group, kind, name, causes)


def _wrong(field: str, value: str, why: str) -> Cause:
    return Cause(field, "FieldValueInvalid", f"Invalid value: {value}: {why}")


# --- may they? ------------------------------------------------------------------------------------

def decision_of(call: Call, user: User, target: Target) -> Decision:
    """What `api.authorize` thinks of it, whatever it is."""
    authorize = call.api.authorize
    if isinstance(authorize, Authorizer):
        return authorize.decide(user, target)
    try:
        authorize(user, target)
    except ApiError as refusal:
        return Decision(False, refusal.message)
    return Decision(True)


async def subject_access_review(call: Call) -> Answer:
    return _reviewed(call, "SubjectAccessReview")


async def local_subject_access_review(call: Call) -> Answer:
    return _reviewed(call, "LocalSubjectAccessReview")


async def self_subject_access_review(call: Call) -> Answer:
    return _reviewed(call, "SelfSubjectAccessReview")


def _reviewed(call: Call, kind: str) -> Answer:
    obj = _asked(call, AUTHORIZATION, kind)
    spec = obj["spec"]
    _check_access(obj, spec, kind, call.namespace)
    user = call.user
    if kind != "SelfSubjectAccessReview":
        extra = _of_type(spec, "extra", dict, kind) or {}
        user = User(_text(spec, "user", kind), _texts(spec, "groups", kind),
                    _text(spec, "uid", kind), {key: _texts(extra, key, kind) for key in extra})
    decision = decision_of(call, user, _target(spec, kind))
    obj["status"] = {"allowed": decision.allowed} | (
        {"reason": decision.reason} if decision.reason else {})
    return _created(call, obj)


def _target(spec: Object, kind: str) -> Target:
    asked = spec.get("resourceAttributes")
    if asked is None:
        asked, where = spec["nonResourceAttributes"], f"N{NAMES[1][1:]}.spec.{NAMES[1]}"
        return Target(*(_text(asked, field, kind, where) for field in ("verb", "path")))
    verb, group, version, resource, subresource, namespace, name = (
        _text(asked, field, kind, f"R{NAMES[0][1:]}.spec.{NAMES[0]}") for field in (
            "verb", "group", "version", "resource", "subresource", "namespace", "name"))
    return Target(verb, "", "apis" if group else "api", group, version or "*", resource,
                  subresource, namespace, name)


NAMES = "resourceAttributes", "nonResourceAttributes"


def _check_access(obj: Object, spec: Object, kind: str, namespace: str) -> None:
    """Errors: 400, 422."""
    local = kind == "LocalSubjectAccessReview"
    resource, path = (_of_type(spec, name, dict, kind) for name in NAMES)
    user, groups = _text(spec, "user", kind), _texts(spec, "groups", kind)
    causes = []
    if resource is not None and path is not None:
        causes.append(_wrong("spec.nonResourceAttributes", _path(path),
                             "cannot be specified in combination with resourceAttributes"))
    if resource is None and path is None:
        causes.append(_wrong("spec.resourceAttributes", "null", "exactly one of "
                             "nonResourceAttributes or resourceAttributes must be specified"))
    if kind != "SelfSubjectAccessReview" and not (user or groups):
        causes.append(_wrong("spec.user", '""', "at least one of user or group must be specified"))
    metadata = {k: v for k, v in obj["metadata"].items()
                if v and k != "managedFields" and not (local and k == "namespace")}
    if metadata:
        causes.append(_wrong("metadata", _json(obj["metadata"]), "must be empty"
                             + (" except for namespace" if local else "")))
    if local:
        own = obj["metadata"].setdefault("namespace", namespace)
        if own != namespace:
            raise status.bad_request("the namespace of the provided object does not match the "
                                     "namespace sent on the request")
        asked = _text(resource, "namespace", kind) if resource is not None else namespace
        if asked != namespace:
            causes.append(_wrong("spec.resourceAttributes.namespace", orjson.dumps(asked).decode(),
                                 "must match metadata.namespace"))
        if path is not None:
            causes.append(_wrong("spec.nonResourceAttributes", _path(path),
                                 "disallowed on this kind of request"))
    if causes:
        raise _invalid(AUTHORIZATION, "", causes)


def _json(value: Object) -> str:
    return orjson.dumps(value).decode()


def _path(value: Object) -> str:
    """Upstream shows its own structure, of which these are the names."""
    return _json({"Path": value.get("path", ""), "Verb": value.get("verb", "")})


async def self_subject_rules_review(call: Call) -> Answer:
    kind = "SelfSubjectRulesReview"
    obj = _asked(call, AUTHORIZATION, kind)
    namespace = _text(obj["spec"], "namespace", kind)
    if not namespace:
        raise status.bad_request("no namespace on request")
    authorize = call.api.authorize
    everything = [Rule(("*",), ("*",), ("*",)), Rule(("*",), urls=("*",))]
    rules, errors = (authorize.rules(call.user, namespace)
                     if isinstance(authorize, Authorizer) else (everything, []))
    said: Object = {
        "resourceRules": [rule.object() for rule in rules if rule.resources],
        "nonResourceRules": [rule.object() for rule in rules if rule.urls], "incomplete": False}
    if errors:
        said["evaluationError"] = aggregate(errors)
    return _created(call, {"kind": kind, "apiVersion": f"{AUTHORIZATION}/v1", "metadata": {},
                           "spec": {}, "status": said})


# --- who? -----------------------------------------------------------------------------------------

def user_info(user: User) -> Object:
    said: Object = {"username": user.name}
    if user.uid:
        said["uid"] = user.uid
    if user.groups:
        said["groups"] = list(user.groups)
    if user.extra:
        said["extra"] = {key: list(values) for key, values in user.extra.items()}
    return said


async def self_subject_review(call: Call) -> Answer:
    _asked(call, AUTHENTICATION, "SelfSubjectReview")
    return _created(call, {
        "kind": "SelfSubjectReview", "apiVersion": f"{AUTHENTICATION}/v1",
        "metadata": {"creationTimestamp": rfc3339(call.api.now())},
        "status": {"userInfo": user_info(call.user)}})


async def token_review(call: Call) -> Answer:
    obj = _asked(call, AUTHENTICATION, "TokenReview")
    token = _text(obj["spec"], "token", "TokenReview")
    audiences = _texts(obj["spec"], "audiences", "TokenReview")
    if not token:
        raise status.bad_request("token is required for TokenReview in authentication")
    said: Object = {"user": {}}
    security = call.api.security
    if security is not None:
        user, wanted, problem = security.review(token, audiences)
        if user is not None:
            said = {"authenticated": True, "user": user_info(user), "audiences": list(wanted)}
        else:
            said["error"] = problem
    obj["status"] = said
    return _created(call, obj)


async def token_request(call: Call) -> Answer:
    """A token for a service account."""
    security = call.api.security
    if security is None or not security.signs:
        raise status.no_such_path()
    kind, account = "TokenRequest", _object(call, "serviceaccounts", call.name)
    obj = _asked(call, AUTHENTICATION, kind)
    metadata, spec, own = obj["metadata"], obj["spec"], account["metadata"]
    for field, wanted in (("name", call.name), ("namespace", call.namespace)):
        if (said := _text(metadata, field, kind)) not in ("", wanted):
            raise _invalid(AUTHENTICATION, kind, [_wrong(
                f"metadata.{field}", f'"{said}"',
                f"must match the service account {field} if specified")], call.name)
    if _text(metadata, "uid", kind) not in ("", own["uid"]):
        raise status.conflict(
            Resource(AUTHENTICATION, "v1", kind, kind), call.name, "the UID in the token request "
            f"({metadata['uid']}) does not match the UID of the service account ({own['uid']})")
    seconds = _of_type(spec, "expirationSeconds", int, kind)
    seconds = spec["expirationSeconds"] = 3600 if seconds is None else seconds
    audiences = _texts(spec, "audiences", kind) or security.audiences
    spec["audiences"] = list(audiences)
    spec.setdefault("boundObjectRef", None)
    if not SHORTEST <= seconds <= LONGEST:
        raise _invalid(AUTHENTICATION, kind, [_wrong(
            "spec.expirationSeconds", str(seconds), "may not specify a duration "
            + ("less than 10 minutes" if seconds < SHORTEST else "larger than 2^32 seconds"))])
    reference = _of_type(spec, "boundObjectRef", dict, kind)
    bound = _bound(call, reference) if reference is not None else {}
    token, expires = security.sign(account, seconds, audiences, bound)
    metadata |= {"name": call.name, "namespace": call.namespace, "uid": own["uid"],
                 "creationTimestamp": rfc3339(call.api.now())}
    obj["status"] = {"token": token, "expirationTimestamp": rfc3339(expires)}
    return _created(call, obj)


def _bound(call: Call, reference: Object) -> dict[str, Object]:
    """Metadata of the object a token ends with, by the name its claim has."""
    kind, name = _text(reference, "kind", "TokenRequest"), _text(reference, "name", "TokenRequest")
    version = _text(reference, "apiVersion", "TokenRequest")
    if kind not in ("Pod", "Secret", "Node") or version not in ("", "v1"):
        group, _, short = version.rpartition("/")
        raise status.bad_request(
            f"cannot bind token to object of type {group}/{short}, Kind={kind}")
    plural = f"{kind.lower()}s"
    obj = _object(call, plural, name)
    bound = {kind.lower(): obj["metadata"]}
    if kind == "Pod":
        spec = obj.get("spec") or {}
        if spec.get("serviceAccountName") != call.name:
            raise status.bad_request(f'cannot bind token for serviceaccount "{call.name}" to pod '
                                     "running with different serviceaccount name.")
        if node := spec.get("nodeName"):
            try:
                bound["node"] = _object(call, "nodes", node)["metadata"]
            except ApiError:                  # not registered: its name is told all the same
                bound["node"] = {"name": node}
    uid = _text(reference, "uid", "TokenRequest")
    if uid not in ("", obj["metadata"]["uid"]):
        raise status.conflict(
            Resource("", "v1", kind, kind), name, f"the UID in the bound object reference ({uid}) "
            "does not match the UID in record. The object might have been deleted and then "
            "recreated")
    return bound


def _object(call: Call, plural: str, name: str) -> Object:
    """A stored object of the request's namespace, now. Errors: 404; 500 for bytes that are none."""
    api = call.api
    resource = api.resources.of_path("", "v1", plural)
    assert resource is not None
    key = api.layout.key(resource, call.namespace if resource.namespaced else "", name)
    found = api.store.get(key)
    if found is None:
        raise status.not_found(resource, name)
    try:                                      # parsed, whatever its kind
        obj: Object = orjson.loads(readable(found.value, found.mod_revision, "ServiceAccount"))
    except Damaged as error:
        raise damage(key, str(error)) from None
    return obj


REVIEWS: dict[tuple[str, str], Callable[[Call], Awaitable[Answer]]] = {
    (f"tokenreviews.{AUTHENTICATION}", ""): token_review,
    (f"selfsubjectreviews.{AUTHENTICATION}", ""): self_subject_review,
    ("serviceaccounts", "token"): token_request,
    (f"subjectaccessreviews.{AUTHORIZATION}", ""): subject_access_review,
    (f"localsubjectaccessreviews.{AUTHORIZATION}", ""): local_subject_access_review,
    (f"selfsubjectaccessreviews.{AUTHORIZATION}", ""): self_subject_access_review,
    (f"selfsubjectrulesreviews.{AUTHORIZATION}", ""): self_subject_rules_review,
}
