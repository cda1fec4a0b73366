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
from contextlib import suppress
from dataclasses import replace

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
from kvcore.kube.schema import type_of_kind
from kvcore.kube.status import ApiError, Cause
from kvcore.kube.validation import check_fields, rules
from kvcore.kube.validation.errors import Enough, forbidden, invalid, invalid_each, required
from kvcore.kube.validation.metadata import check_label_key

__all__ = ["KINDS", "REVIEWS"]

AUTHENTICATION, AUTHORIZATION = "authentication.k8s.io", "authorization.k8s.io"
SHORTEST, LONGEST = 600, 1 << 32             # seconds a token may be asked for


def _row(group: str, plural: str, kind: str, namespaced: bool = False) -> Resource:
    return Resource(group, "v1", plural, kind, namespaced, verbs=("create",))


KINDS = (                                    # TokenRequest is asked of an account
    _row(AUTHENTICATION, "selfsubjectreviews", "SelfSubjectReview"),
    _row(AUTHENTICATION, "tokenreviews", "TokenReview"),
    _row(AUTHORIZATION, "localsubjectaccessreviews", "LocalSubjectAccessReview", True),
    _row(AUTHORIZATION, "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    _row(AUTHORIZATION, "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    _row(AUTHORIZATION, "subjectaccessreviews", "SubjectAccessReview"),
)
TOKEN_REQUEST = _row(AUTHENTICATION, "tokenrequests", "TokenRequest", True)
ROWS = {row.kind: row for row in (*KINDS, TOKEN_REQUEST)}


# --- reading what is asked ------------------------------------------------------------------------

def _asked(call: Call, kind: str) -> Object:
    """The body, said to be of this kind; its fields are of their types, and metadata and spec are
    there. Errors: 400, 413, 415."""
    if not call.object:
        call.object = decode_body(call.request.body, call.request.headers.get("content-type", ""),
                                  kind)
    obj, group = call.object, ROWS[kind].group
    said = (obj.get("apiVersion") or f"{group}/v1", obj.get("kind") or kind)
    if said != (f"{group}/v1", kind):
        short = said[0].rpartition("/")[2]
        what = f'{said[1]} in version "{short}" cannot be handled as a {kind}'
        if type_of_kind(*said) is None:
            raise status.bad_request(f'{what}: no kind "{said[1]}" is registered for version '
                                     f'"{said[0]}" in scheme "pkg/runtime/scheme.go:111"')
        raise status.bad_request(f"{what}: converting ({short}.{said[1]}) to "
                                 f"({group.partition('.')[0]}.{kind}): unknown conversion")
    obj["apiVersion"], obj["kind"] = said
    check_fields(replace(call, resource=ROWS[kind]))
    for part in ("metadata", "spec"):
        obj.setdefault(part, {})
    if not ROWS[kind].namespaced:
        obj["metadata"].pop("namespace", None)
    return obj


def _created(obj: Object) -> Answer:
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
    obj = _asked(call, kind)
    spec = obj["spec"]
    _check_access(obj, spec, kind, call.namespace)
    user = call.user
    if kind != "SelfSubjectAccessReview":
        extra = spec.get("extra") or {}
        user = User(spec.get("user", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""),
                    {key: tuple(values) for key, values in extra.items()})
    decision = decision_of(call, user, _target(spec))
    obj["status"] = {"allowed": decision.allowed} | (
        {"reason": decision.reason} if decision.reason else {})
    return _created(obj)


def _target(spec: Object) -> Target:
    asked = spec.get("resourceAttributes")
    if asked is None:
        asked = spec["nonResourceAttributes"]
        return Target(*(asked.get(field, "") for field in ("verb", "path")))
    verb, group, version, resource, subresource, namespace, name = (
        asked.get(field, "") for field in (
            "verb", "group", "version", "resource", "subresource", "namespace", "name"))
    return Target(verb, "", "apis" if group else "api", group, version or "*", resource,
                  subresource, namespace, name)


NAMES = "resourceAttributes", "nonResourceAttributes"


def _check_access(obj: Object, spec: Object, kind: str, namespace: str) -> None:
    """Errors: 400, 422."""
    local = kind == "LocalSubjectAccessReview"
    resource, path = (spec.get(name) for name in NAMES)
    causes: list[Cause] = []
    if resource is not None and path is not None:
        causes.append(_wrong("spec.nonResourceAttributes", _path(path),
                             "cannot be specified in combination with resourceAttributes"))
    if resource is None and path is None:
        causes.append(_wrong("spec.resourceAttributes", "null", "exactly one of "
                             "nonResourceAttributes or resourceAttributes must be specified"))
    if kind != "SelfSubjectAccessReview" and not (spec.get("user") or spec.get("groups")):
        causes.append(_wrong("spec.user", '""', "at least one of user or group must be specified"))
    for name, check in SELECTORS.items():
        if (said := (resource or {}).get(name)) is not None:
            with suppress(Enough):
                _check_selector(causes, said, f"spec.resourceAttributes.{name}", check)
    own = obj["metadata"].setdefault("namespace", namespace) if local else ""
    metadata = {k: v for k, v in obj["metadata"].items()
                if v and k != "managedFields" and not (local and k == "namespace")}
    if metadata:
        causes.append(_wrong("metadata", _json(obj["metadata"]), "must be empty"
                             + (" except for namespace" if local else "")))
    if local:
        if own != namespace:
            raise status.bad_request("the namespace of the provided object does not match the "
                                     "namespace sent on the request")
        asked = resource.get("namespace", "") if resource is not None else namespace
        if asked != namespace:
            causes.append(_wrong("spec.resourceAttributes.namespace", orjson.dumps(asked).decode(),
                                 "must match metadata.namespace"))
        if path is not None:
            causes.append(_wrong("spec.nonResourceAttributes", _path(path),
                                 "disallowed on this kind of request"))
    if causes:
        raise _invalid(AUTHORIZATION, "", causes)


def _check_selector(causes: list[Cause], said: Object, path: str,
                    check: Callable[[list[Cause], Object, str], None]) -> None:
    """RBAC does not look at selectors; they must be right all the same."""
    raw, requirements = said.get("rawSelector", ""), said.get("requirements") or []
    if raw and requirements:
        invalid(causes, f"{path}.rawSelector", raw,
                "may not specified at the same time as requirements")
    if not raw and not requirements:
        required(causes, f"{path}.requirements",
                 f"when {path} is specified, requirements or rawSelector is required")
    for i, requirement in enumerate(requirements):
        check(causes, requirement, f"{path}.requirements[{i}]")


def _of_labels(causes: list[Cause], requirement: Object, path: str) -> None:
    _of_values(causes, requirement, path)
    check_label_key(causes, requirement.get("key", ""), f"{path}.key")
    for i, value in enumerate(requirement.get("values") or ()):
        invalid_each(causes, f"{path}.values[{i}]", value, rules.label_value(value))


def _of_fields(causes: list[Cause], requirement: Object, path: str) -> None:
    if not requirement.get("key"):
        required(causes, f"{path}.key", "must be specified")
    _of_values(causes, requirement, path)


def _of_values(causes: list[Cause], requirement: Object, path: str) -> None:
    """Operators that nobody knows may come from newer clients."""
    operator, values = requirement.get("operator"), requirement.get("values")
    if operator in ("In", "NotIn") and not values:
        required(causes, f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'")
    elif operator in ("Exists", "DoesNotExist") and values:
        forbidden(causes, f"{path}.values",
                  "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")


SELECTORS = {"fieldSelector": _of_fields, "labelSelector": _of_labels}


def _json(value: Object) -> str:
    return orjson.dumps(value).decode()


def _path(value: Object) -> str:
    """Upstream shows its own structure, of which these are the names."""
    return _json({"Path": value.get("path", ""), "Verb": value.get("verb", "")})


async def self_subject_rules_review(call: Call) -> Answer:
    kind = "SelfSubjectRulesReview"
    obj = _asked(call, kind)
    namespace = obj["spec"].get("namespace", "")
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
    return _created({"kind": kind, "apiVersion": f"{AUTHORIZATION}/v1", "metadata": {},
                           "spec": {}, "status": said})


# --- who? -----------------------------------------------------------------------------------------

async def self_subject_review(call: Call) -> Answer:
    _asked(call, "SelfSubjectReview")
    return _created({
        "kind": "SelfSubjectReview", "apiVersion": f"{AUTHENTICATION}/v1",
        "metadata": {"creationTimestamp": rfc3339(call.api.now())},
        "status": {"userInfo": call.user.info()}})


async def token_review(call: Call) -> Answer:
    obj = _asked(call, "TokenReview")
    token = obj["spec"].get("token", "")
    audiences = tuple(obj["spec"].get("audiences") or ())
    if not token:
        raise status.bad_request("token is required for TokenReview in authentication")
    said: Object = {"user": {}}
    security = call.api.security
    if security is not None:
        user, wanted, problem = security.review(token, audiences)
        if user is not None:
            said = {"authenticated": True, "user": user.info(), "audiences": list(wanted)}
        else:
            said["error"] = problem
    obj["status"] = said
    return _created(obj)


async def token_request(call: Call) -> Answer:
    """A token for a service account."""
    security = call.api.security
    if security is None or not security.signs:
        raise status.no_such_path()
    kind, account = "TokenRequest", _object(call, "serviceaccounts", call.name)
    obj = _asked(call, kind)
    metadata, spec, own = obj["metadata"], obj["spec"], account["metadata"]
    for field, wanted in (("name", call.name), ("namespace", call.namespace)):
        if (said := metadata.get(field, "")) not in ("", wanted):
            raise _invalid(AUTHENTICATION, kind, [_wrong(
                f"metadata.{field}", f'"{said}"',
                f"must match the service account {field} if specified")], call.name)
    if metadata.get("uid", "") not in ("", own["uid"]):
        raise status.conflict(
            Resource(AUTHENTICATION, "v1", kind, kind), call.name, "the UID in the token request "
            f"({metadata['uid']}) does not match the UID of the service account ({own['uid']})")
    seconds = spec.get("expirationSeconds")
    seconds = spec["expirationSeconds"] = 3600 if seconds is None else seconds
    audiences = tuple(spec.get("audiences") or ()) or security.audiences
    spec["audiences"] = list(audiences)
    spec.setdefault("boundObjectRef", None)
    if not SHORTEST <= seconds <= LONGEST:
        raise _invalid(AUTHENTICATION, kind, [_wrong(
            "spec.expirationSeconds", str(seconds), "may not specify a duration "
            + ("less than 10 minutes" if seconds < SHORTEST else "larger than 2^32 seconds"))])
    reference = spec["boundObjectRef"]
    bound = _bound(call, reference) if reference is not None else {}
    token, expires = security.sign(account, seconds, audiences, bound)
    metadata |= {"name": call.name, "namespace": call.namespace, "uid": own["uid"],
                 "creationTimestamp": rfc3339(call.api.now())}
    obj["status"] = {"token": token, "expirationTimestamp": rfc3339(expires)}
    return _created(obj)


def _bound(call: Call, reference: Object) -> dict[str, Object]:
    """Metadata of the object a token ends with, by the name its claim has."""
    kind, name, version = (reference.get(field, "") for field in ("kind", "name", "apiVersion"))
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
    uid = reference.get("uid", "")
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
