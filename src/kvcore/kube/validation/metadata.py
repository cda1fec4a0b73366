# SPDX-License-Identifier: Apache-2.0
"""metadata of every kind, on a create and on an update; label selectors.

Thread safety: none needed. Source: apimachinery api/validation (objectmeta.go),
apis/meta/v1/validation. May not know: kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from kvcore.kube.meta import name_problem
from kvcore.kube.validation.errors import (
    WHOLE,
    Errors,
    Object,
    forbidden,
    invalid,
    invalid_each,
    required,
    too_long,
)
from kvcore.kube.validation.rules import (
    MUST_BE_NONNEGATIVE,
    check_label_key,
    check_labels,
    label_key,
    label_value,
)

__all__ = ["check_create", "check_label_key", "check_selector", "check_set_operator",
           "check_update", "immutable"]

ANNOTATIONS_MAX = 256 * 1024
IMMUTABLE = "field is immutable"
MANAGER_MAX = 128
FINALIZERS = ("kubernetes", "orphan", "foregroundDeletion")
SUBRESOURCE_MAX = 256


# Namespaces and prefixes: few of them, seen again and again.
known_problem = lru_cache(4096)(name_problem)


def check_create(errs: Errors, meta: Object, names: str, namespaced: bool) -> None:
    """Args: names: the rule of the kind's names (kvcore.kube.meta.name_problem)."""
    prefix = meta.get("generateName")
    if prefix:
        # what is generated ends in letters: a dash at the end of the prefix is none at the end
        whole = prefix[:-2] + "a" if len(prefix) > 1 and prefix[-1] == "-" else prefix
        problem = known_problem(whole, names)
        if problem:
            invalid(errs, "metadata.generateName", prefix, problem)
    name = meta.get("name")
    if not name:
        required(errs, "metadata.name", "name or generateName is required")
    else:
        problem = name_problem(name, names)
        if problem:
            invalid(errs, "metadata.name", name, problem)
    if namespaced:
        namespace = meta.get("namespace")
        if not namespace:
            required(errs, "metadata.namespace")
        else:
            problem = known_problem(namespace, "label")
            if problem:
                invalid(errs, "metadata.namespace", namespace, problem)
    elif meta.get("namespace"):
        forbidden(errs, "metadata.namespace", "not allowed on this type")
    if meta.get("generation", 0) < 0:
        invalid(errs, "metadata.generation", meta["generation"], MUST_BE_NONNEGATIVE)
    check_common(errs, meta)


def check_common(errs: Errors, meta: Object) -> None:
    """What holds on creates and updates alike."""
    labels = meta.get("labels")
    if labels:
        check_labels(errs, labels, "metadata.labels")
    annotations = meta.get("annotations")
    if annotations:
        check_annotations(errs, annotations, "metadata.annotations")
    if "ownerReferences" in meta:
        _check_owners(errs, meta["ownerReferences"], "metadata.ownerReferences")
    if "finalizers" in meta:
        _check_finalizers(errs, meta["finalizers"])
    if "managedFields" in meta:
        for i, entry in enumerate(meta["managedFields"]):
            _check_managed(errs, entry, f"metadata.managedFields[{i}]")
    for i, finalizer in enumerate(meta.get("finalizers", ())):
        if "/" not in finalizer and finalizer not in FINALIZERS:
            invalid(errs, f"metadata.finalizers[{i}]", finalizer,
                    "name is neither a standard finalizer name nor is it fully qualified")


def check_annotations(errs: Errors, annotations: Object, path: str) -> None:
    size = 0
    for key, value in annotations.items():
        size += len(key) + len(value)
        faults = label_key(key) and label_key(key.lower())
        if faults:
            invalid_each(errs, path, key, faults)
    if size > ANNOTATIONS_MAX or 4 * size > ANNOTATIONS_MAX and _bytes(annotations):
        too_long(errs, path, ANNOTATIONS_MAX)


def _bytes(annotations: Object) -> bool:
    """Whether they are too many bytes, counted as UTF-8."""
    return sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items()) > ANNOTATIONS_MAX


def _check_owners(errs: Errors, owners: list[Object], path: str) -> None:
    controller, further = "", 0
    for owner in owners:
        group, _, version = owner.get("apiVersion", "").rpartition("/")
        if not version or "/" in group:
            invalid(errs, f"{path}.apiVersion", owner.get("apiVersion", ""),
                    "version must not be empty")
        for key in ("kind", "name", "uid"):
            if not owner.get(key):
                invalid(errs, f"{path}.{key}", "", "must not be empty")
        if (group, version, owner.get("kind")) == ("", "v1", "Event"):
            invalid(errs, path, owner, "/v1, Kind=Event is disallowed from being an owner")
        if owner.get("controller"):
            this = f"{owner.get('kind', '')}/{owner.get('name', '')}"
            if controller:
                further += 1
                if further > WHOLE:            # each shows all owners
                    continue
                invalid(errs, path, owners, "Only one reference can have Controller set to true. "
                        f'Found "true" in references for {controller} and {this}')
            else:
                controller = this


def _check_finalizers(errs: Errors, finalizers: list[str]) -> None:
    path = "metadata.finalizers"
    for finalizer in finalizers:
        check_label_key(errs, finalizer, path)
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        invalid(errs, path, finalizers,
                "finalizer orphan and foregroundDeletion cannot be both set")


def _check_managed(errs: Errors, entry: Object, path: str) -> None:
    operation = entry.get("operation", "")
    if operation not in ("Apply", "Update"):
        invalid(errs, f"{path}.operation", operation, "must be `Apply` or `Update`")
    if entry.get("fieldsType", "FieldsV1") != "FieldsV1":
        invalid(errs, f"{path}.fieldsType", entry["fieldsType"], "must be `FieldsV1`")
    manager = entry.get("manager", "")
    if len(manager) > MANAGER_MAX:
        too_long(errs, f"{path}.manager", MANAGER_MAX)
    for i, letter in enumerate(manager[:MANAGER_MAX]):
        if not letter.isprintable():
            invalid(errs, f"{path}.manager", manager[:2 * MANAGER_MAX],
                    f"invalid character {letter!r} (at position {i}): only printable characters "
                    "are allowed")
    if len(entry.get("subresource", "")) > SUBRESOURCE_MAX:
        too_long(errs, f"{path}.subresource", SUBRESOURCE_MAX)


# --- updates --------------------------------------------------------------------------------------

SYSTEM_FIELDS = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp",
                 "deletionGracePeriodSeconds")


def check_update(errs: Errors, meta: Object, old: Object) -> None:
    """What nobody may change. Absent fields of the system count as unchanged, for patches and
    old clients leave them out; a resourceVersion is not asked for."""
    if old.get("deletionTimestamp"):
        extra = sorted(set(meta.get("finalizers", ())) - set(old.get("finalizers", ())))
        if extra:
            found = ", ".join(f'"{name}"' for name in extra)
            forbidden(errs, "metadata.finalizers", "no new finalizers can be added if the object "
                      f"is being deleted, found new finalizers []string{{{found}}}")
    if meta.get("generation", 0) < old.get("generation", 0) and meta.get("generation"):
        invalid(errs, "metadata.generation", meta["generation"], "must not be decremented")
    for key in SYSTEM_FIELDS:
        value = meta.get(key)
        if value is not None and value != old.get(key):
            invalid(errs, f"metadata.{key}", value, IMMUTABLE)
    check_common(errs, meta)


def immutable(errs: Errors, new: Any, old: Any, path: str) -> None:
    if new != old and (new or old):
        invalid(errs, path, "" if new is None and isinstance(old, str) else new, IMMUTABLE)


# --- selectors ------------------------------------------------------------------------------------

def check_set_operator(errs: Errors, operator: str, values: Sequence[str], path: str) -> bool:
    """What the four operators that all selectors have want of their values.

    Returns: whether it is one of them."""
    if operator in ("In", "NotIn"):
        if not values:
            required(errs, f"{path}.values",
                     "must be specified when `operator` is 'In' or 'NotIn'")
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            forbidden(errs, f"{path}.values",
                      "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
    else:
        return False
    return True


def check_selector(errs: Errors, selector: Object | None, path: str) -> None:
    """A metav1.LabelSelector."""
    if not selector:
        return
    check_labels(errs, selector.get("matchLabels") or {}, f"{path}.matchLabels")
    for i, term in enumerate(selector.get("matchExpressions") or ()):
        here = f"{path}.matchExpressions[{i}]"
        operator, values = term.get("operator", ""), term.get("values") or ()
        if not check_set_operator(errs, operator, values, here):
            invalid(errs, f"{here}.operator", operator, "not a valid selector operator")
        check_label_key(errs, term.get("key", ""), f"{here}.key")
        for j, value in enumerate(values):
            invalid_each(errs, f"{here}.values[{j}]", value, label_value(value))


def selects(selector: Object | None, labels: Object) -> bool | None:
    """Whether a selector matches; None when it is broken."""
    if selector is None:
        return False
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for term in selector.get("matchExpressions") or ():
        operator, values = term.get("operator"), term.get("values") or ()
        there = labels.get(term.get("key", ""))
        if operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            return None
        matches = {"In": there in values, "NotIn": there not in values, "Exists": there is not None,
                   "DoesNotExist": there is None}[operator]
        if not matches:
            return False
    return True
