# SPDX-License-Identifier: Apache-2.0
"""What an object must be before it is stored."""

from __future__ import annotations

from typing import Any

from kvcore.kube import meta, status
from kvcore.kube.call import Call

__all__ = ["check_fields", "validate_create", "validate_status", "validate_update"]


def check_fields(call: Call) -> None:
    """Unknown and ill-typed fields, as fieldValidation says. Errors: 400."""


def validate_create(call: Call) -> None:
    """Errors: 422 with every cause."""
    name = call.object["metadata"].get("name")
    if not name:
        raise status.invalid(call.resource, "", [status.Cause(
            "metadata.name", "FieldValueRequired",
            "Required value: name or generateName is required")])
    problem = meta.name_problem(name, call.resource.names)
    if problem:
        raise status.invalid(call.resource, name, [status.Cause(
            "metadata.name", "FieldValueInvalid", f'Invalid value: "{name}": {problem}')])


def validate_update(call: Call, old: dict[str, Any]) -> None:
    """The object against the one it replaces. Errors: 422 with every cause."""
    causes = meta.update_causes(call.object["metadata"], old["metadata"])
    if causes:                                 # upstream looks twice, and lists each cause twice
        raise status.invalid(call.resource, call.name, causes * 2)


def validate_status(call: Call, old: dict[str, Any]) -> None:
    """An update of a part that is not for users. Errors: 422 with every cause."""
    validate_update(call, old)
