# SPDX-License-Identifier: Apache-2.0
"""Statuses: the shape of each, beside those a kube-apiserver 1.36 gave."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from kube_server import failure

from kvcore.kube import status
from kvcore.kube.resources import Resource, Resources
from kvcore.kube.status import ApiError, Cause, shown


def resource(group: str, plural: str) -> Resource:
    found = Resources().of_path(group, "v1", plural)
    assert found is not None
    return found


PODS, DEPLOYMENTS = resource("", "pods"), resource("apps", "deployments")
TWO = [Cause.required("metadata.name", "name or generateName is required"),
       Cause.invalid("spec.replicas", -1, "must be greater than or equal to 0")]

SHAPES: list[tuple[ApiError, int, str, str, Any]] = [
    (status.bad_request("x"), 400, "BadRequest", "x", None),
    (status.unauthorized(), 401, "Unauthorized", "Unauthorized", None),
    (status.forbidden(PODS, "p", "no"), 403, "Forbidden", 'pods "p" is forbidden: no',
     {"name": "p", "kind": "pods"}),
    (status.forbidden(DEPLOYMENTS, "", "no"), 403, "Forbidden",
     "deployments.apps is forbidden: no", {"group": "apps", "kind": "deployments"}),
    (status.not_found(DEPLOYMENTS, "d"), 404, "NotFound", 'deployments.apps "d" not found',
     {"name": "d", "group": "apps", "kind": "deployments"}),
    (status.already_exists(PODS, "p"), 409, "AlreadyExists", 'pods "p" already exists',
     {"name": "p", "kind": "pods"}),
    (status.precondition(DEPLOYMENTS, "d", "UID", "x", "y"), 409, "Conflict", "Operation cannot be "
     'fulfilled on Deployment.apps "d": the UID in the precondition (x) does not match the UID in '
     "record (y). The object might have been deleted and then recreated",
     {"name": "d", "group": "apps", "kind": "Deployment"}),
    (status.invalid(DEPLOYMENTS, "d", TWO), 422, "Invalid", 'Deployment.apps "d" is invalid: '
     "[metadata.name: Required value: name or generateName is required, spec.replicas: Invalid "
     "value: -1: must be greater than or equal to 0]",
     {"name": "d", "group": "apps", "kind": "Deployment", "causes": [
         {"reason": "FieldValueRequired", "field": "metadata.name",
          "message": "Required value: name or generateName is required"},
         {"reason": "FieldValueInvalid", "field": "spec.replicas",
          "message": "Invalid value: -1: must be greater than or equal to 0"}]}),
    (status.invalid(PODS, "p", TWO[:1] * 2), 422, "Invalid", 'Pod "p" is invalid: metadata.name: '
     "Required value: name or generateName is required",
     {"name": "p", "kind": "Pod", "causes": [
         {"reason": "FieldValueRequired", "field": "metadata.name",
          "message": "Required value: name or generateName is required"}] * 2}),
    (status.unprocessable(), 422, "Invalid",
     "the server rejected our request due to an error in our request", {}),
    (status.too_large(3), 413, "RequestEntityTooLarge", "Request entity too large: limit is 3",
     None),
    (status.too_many_requests("x", 3), 429, "TooManyRequests", "x", {"retryAfterSeconds": 3}),
    (status.internal("x"), 500, "InternalError", "Internal error occurred: x",
     {"causes": [{"message": "x"}]}),
    (ApiError(500, "", "x"), 500, "", "x", None),
]


@pytest.mark.parametrize(("error", "code", "reason", "message", "details"), SHAPES)
def test_shapes(error: ApiError, code: int, reason: str, message: str, details: Any) -> None:
    said = failure(code, reason, message, details)
    assert orjson.loads(error.body()) == said
    assert list(orjson.loads(error.body())) == list(said)


def test_successes() -> None:
    assert orjson.loads(status.success(201)) == {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
    assert orjson.loads(status.deleted(DEPLOYMENTS, "d", "u")) == {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": "d", "group": "apps", "kind": "deployments", "uid": "u"}}


@pytest.mark.parametrize(("value", "text"), [
    ("a\x01b", '"a\\x01b"'), ('say "x"', '"say \\"x\\""'), ("a\nb", '"a\\nb"'), (["a", 1],
                                                                          '["a",1]'),
    (5, "5"), (True, "true"), (None, "null"), ("\\u0001", '"\\\\u0001"'), ("ü", '"ü"'),
])
def test_values_in_messages(value: object, text: str) -> None:
    assert shown(value) == text
