# SPDX-License-Identifier: Apache-2.0
"""Causes: what is wrong with a field, in the words of apimachinery's field errors.

    invalid(errs, "spec.replicas", -1, "must be greater than or equal to 0")
        └─> Cause("spec.replicas", "FieldValueInvalid", "Invalid value: -1: must be greater ...")

Every checking function of this package takes the list of causes first and appends to it, until
there are as many as are told: then Enough ends the checks.
Thread safety: values only. Source: apimachinery util/validation/field. May not know: kinds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from kvcore.kube.status import Cause

__all__ = ["Enough", "Errors", "Object", "duplicate", "forbidden", "invalid", "invalid_each",
           "not_found", "not_supported", "required", "too_long", "too_many"]

Errors = list[Cause]
Object = dict[str, Any]

CAUSES_MAX = 10_000              # that are told; upstream has no end
WHOLE, SHOWN_MAX = 10, 1024      # causes that show long values; characters of others


class Enough(Exception):
    """As many causes as are told: what is left need not be looked at. Whoever refuses with the list
    ends there; whoever checks lets it pass."""


def _add(errs: Errors, path: str, reason: str, text: str) -> None:
    if len(errs) >= CAUSES_MAX:
        raise Enough
    errs.append(Cause(path, reason, text))


def said(value: Any) -> str:
    """A value as it stands in a message: strings quoted, anything else as JSON."""
    if value.__class__ is float or value.__class__ is int and not -2 ** 63 <= value < 2 ** 64:
        return str(value)
    return orjson.dumps(value).decode()


def _detailed(text: str, detail: str) -> str:
    return f"{text}: {detail}" if detail else text


def required(errs: Errors, path: str, detail: str = "") -> None:
    _add(errs, path, "FieldValueRequired", _detailed("Required value", detail))


def invalid(errs: Errors, path: str, value: Any, detail: str) -> None:
    if len(errs) >= CAUSES_MAX:
        raise Enough
    text = said(value)
    if len(errs) >= WHOLE and len(text) > SHOWN_MAX:
        text = text[:SHOWN_MAX] + " ..."
    errs.append(Cause(path, "FieldValueInvalid", _detailed(f"Invalid value: {text}", detail)))


def invalid_each(errs: Errors, path: str, value: Any, details: Iterable[str]) -> None:
    """One cause for each detail."""
    for detail in details:
        invalid(errs, path, value, detail)


def not_supported(errs: Errors, path: str, value: Any, supported: Iterable[str]) -> None:
    listed = ", ".join(said(one) for one in supported)
    _add(errs, path, "FieldValueNotSupported",
         f"Unsupported value: {said(value)}: supported values: {listed}")


def duplicate(errs: Errors, path: str, value: Any, detail: str = "") -> None:
    _add(errs, path, "FieldValueDuplicate",
         _detailed(f"Duplicate value: {said(value)}", detail))


def not_found(errs: Errors, path: str, value: Any) -> None:
    _add(errs, path, "FieldValueNotFound", f"Not found: {said(value)}")


def forbidden(errs: Errors, path: str, detail: str) -> None:
    _add(errs, path, "FieldValueForbidden", _detailed("Forbidden", detail))


def too_long(errs: Errors, path: str, limit: int) -> None:
    _add(errs, path, "FieldValueTooLong",
         f"Too long: may not be more than {limit} bytes")


def too_many(errs: Errors, path: str, count: int, limit: int) -> None:
    items = "item" if limit == 1 else "items"
    _add(errs, path, "FieldValueTooMany",
         f"Too many: {count}: must have at most {limit} {items}")
