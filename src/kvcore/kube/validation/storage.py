# SPDX-License-Identifier: Apache-2.0
"""Persistent volumes, claims, storage classes, CSI objects.

Thread safety: none needed. Source: kubernetes pkg/apis/core/validation, storage/validation.
May not know: requests.
"""

from __future__ import annotations

from typing import Any

import orjson

from kvcore.kube.validation.errors import (
    Errors,
    Object,
    duplicate,
    forbidden,
    invalid,
    invalid_each,
    not_supported,
    required,
    too_long,
)
from kvcore.kube.validation.metadata import IMMUTABLE, check_selector, immutable
from kvcore.kube.validation.rules import label_key, nonnegative, subdomain
from kvcore.kube.validation.scheduling import check_node_selector
from kvcore.kube.validation.volumes import check_source
from kvcore.kube.values import quantity

__all__ = ["check_claim", "check_claim_spec", "check_csi_driver", "check_csi_node",
           "check_storage_class", "check_volume", "check_volume_attachment"]

MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
RECLAIM = ("Delete", "Recycle", "Retain")
VOLUME_MODES = ("Block", "Filesystem")
POSITIVE = "must be greater than zero"


def _access(errs: Errors, spec: Object, path: str, detail: str = "") -> None:
    modes = spec.get("accessModes", ())
    if not modes:
        required(errs, f"{path}.accessModes", detail)


def _modes(errs: Errors, spec: Object, path: str) -> None:
    modes = spec.get("accessModes", ())
    for mode in modes:
        if mode not in MODES:
            not_supported(errs, f"{path}.accessModes", mode, MODES)
    if "ReadWriteOncePod" in modes and any(
            mode in MODES and mode != "ReadWriteOncePod" for mode in modes):
        forbidden(errs, f"{path}.accessModes",
                  "may not use ReadWriteOncePod with other access modes")


def _class_name(errs: Errors, spec: Object, path: str) -> None:
    name = spec.get("storageClassName")
    if name:
        invalid_each(errs, f"{path}.storageClassName", name, subdomain(name))


def _volume_mode(errs: Errors, spec: Object, path: str) -> None:
    if "volumeMode" in spec and spec["volumeMode"] not in VOLUME_MODES:
        not_supported(errs, f"{path}.volumeMode", spec["volumeMode"], VOLUME_MODES)


# --- claims ---------------------------------------------------------------------------------------

def check_claim_spec(errs: Errors, spec: Object, path: str) -> None:
    _access(errs, spec, path, "at least 1 access mode is required")
    check_selector(errs, spec.get("selector"), f"{path}.selector")
    _modes(errs, spec, path)
    wanted = spec.get("resources", {}).get("requests", {}).get("storage")
    if wanted is None:
        required(errs, f"{path}.resources[storage]")
    elif quantity(wanted) <= 0:
        invalid(errs, f"{path}.resources[storage]", wanted, POSITIVE)
    _class_name(errs, spec, path)
    _volume_mode(errs, spec, path)
    for key in ("dataSource", "dataSourceRef"):
        source = spec.get(key)
        if source is not None:
            for needed in ("name", "kind"):
                if not source.get(needed):
                    required(errs, f"{path}.{key}.{needed}")
            if not source.get("apiGroup") and source.get("kind") not in (
                    "PersistentVolumeClaim", None, ""):
                invalid(errs, f"{path}.{key}", source["kind"],
                        "must be 'PersistentVolumeClaim' when referencing the default apiGroup")


CLAIM_STAYS = ("spec is immutable after creation except resources.requests and "
               "volumeAttributesClassName for bound claims")


def check_claim(errs: Errors, obj: Object, old: Object | None = None) -> None:
    """Upstream's refusal of a change ends in a Go diff; here it names the fields."""
    spec = obj["spec"]
    check_claim_spec(errs, spec, "spec")
    if old is None:
        return
    before = old["spec"]
    free = set()
    if not before.get("volumeName"):
        free.add("volumeName")
    if not before.get("storageClassName"):
        free.add("storageClassName")
    bound = obj.get("status", {}).get("phase") == "Bound"
    if bound:
        free |= {"resources", "volumeAttributesClassName"}
    changed = sorted(key for key in (spec.keys() | before.keys()) - free
                     if spec.get(key) != before.get(key))
    if changed:
        forbidden(errs, "spec", f"{CLAIM_STAYS}\n{', '.join(f'spec.{key}' for key in changed)}")
    new_size, old_size = (s.get("resources", {}).get("requests", {}).get("storage")
                          for s in (spec, before))
    if new_size and old_size and quantity(new_size) < quantity(old_size):
        have = obj.get("status", {}).get("capacity", {}).get("storage", "0")
        if quantity(new_size) <= quantity(have):
            forbidden(errs, "spec.resources.requests.storage",
                      "field can not be less than status.capacity")


# --- volumes --------------------------------------------------------------------------------------

NOT_A_SOURCE = frozenset({
    "accessModes", "capacity", "claimRef", "mountOptions", "nodeAffinity",
    "persistentVolumeReclaimPolicy", "storageClassName", "volumeAttributesClassName",
    "volumeMode"})


def check_volume(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec, path = obj["spec"], "spec"
    _access(errs, spec, path)
    _modes(errs, spec, path)
    capacity = spec.get("capacity", {})
    if not capacity:
        required(errs, "spec.capacity")
    if "storage" not in capacity or len(capacity) > 1:
        not_supported(errs, "spec.capacity", capacity or None, ("storage",))
    for name, amount in capacity.items():
        if quantity(amount) <= 0:
            invalid(errs, f"spec.capacity[{name}]", amount, POSITIVE)
    policy = spec.get("persistentVolumeReclaimPolicy")
    if policy and policy not in RECLAIM:
        not_supported(errs, "spec.persistentVolumeReclaimPolicy", policy, RECLAIM)
    affinity = spec.get("nodeAffinity")
    if affinity is not None:
        if "required" in affinity:
            check_node_selector(errs, affinity["required"], "spec.nodeAffinity.required")
        else:
            required(errs, "spec.nodeAffinity.required", "must specify required node constraints")
    check_source(errs, {key: value for key, value in spec.items() if key not in NOT_A_SOURCE},
                 path)
    if "local" in spec and affinity is None:
        required(errs, "spec.nodeAffinity", "Local volume requires node affinity")
    if policy == "Recycle" and spec.get("hostPath", {}).get("path", "").strip("/") == "" \
            and "hostPath" in spec:
        forbidden(errs, "spec.persistentVolumeReclaimPolicy",
                  "may not be 'recycle' for a hostPath mount of '/'")
    _class_name(errs, spec, path)
    _volume_mode(errs, spec, path)
    if old is not None:
        def source(spec: Object) -> Object:
            return {key: value for key, value in spec.items() if key not in NOT_A_SOURCE}
        if source(spec) != source(old["spec"]):
            forbidden(errs, "spec.persistentvolumesource",
                      "spec.persistentvolumesource is immutable after creation")
        immutable(errs, spec.get("volumeMode"), old["spec"].get("volumeMode"), "volumeMode")


# --- classes and drivers --------------------------------------------------------------------------

BINDING = ("Immediate", "WaitForFirstConsumer")
CLASS_RECLAIM = ("Delete", "Retain")


def check_storage_class(errs: Errors, obj: Object, old: Object | None = None) -> None:
    provisioner = obj.get("provisioner", "")
    if not provisioner:
        required(errs, "provisioner")
    else:
        invalid_each(errs, "provisioner", provisioner.lower(), label_key(provisioner.lower()))
    if len(obj.get("parameters", {})) > 512:
        invalid(errs, "parameters", "Provisioner Parameters exceeded max allowed", "")
    if obj.get("reclaimPolicy", "Delete") not in CLASS_RECLAIM:
        not_supported(errs, "reclaimPolicy", obj["reclaimPolicy"], CLASS_RECLAIM)
    if obj.get("volumeBindingMode", "Immediate") not in BINDING:
        not_supported(errs, "volumeBindingMode", obj["volumeBindingMode"], BINDING)
    _topologies(errs, obj.get("allowedTopologies", ()), "allowedTopologies")
    if old is not None:
        for key in ("parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"):
            immutable(errs, obj.get(key), old.get(key), key)


def check_attributes_class(errs: Errors, obj: Object, old: Object | None = None) -> None:
    """A VolumeAttributesClass."""
    _driver_name(errs, obj.get("driverName", ""), "driverName")
    if not obj.get("parameters"):
        required(errs, "parameters", "must contain at least one key/value pair")
    if old is not None:
        for key in ("driverName", "parameters"):
            immutable(errs, obj.get(key), old.get(key), key)


def _topologies(errs: Errors, terms: Any, path: str) -> None:
    before: set[bytes] = set()
    for i, term in enumerate(terms):
        text = orjson.dumps(term, option=orjson.OPT_SORT_KEYS)
        if text in before:
            duplicate(errs, f"{path}[{i}].matchLabelExpressions", "")
        before.add(text)
        keys: set[str] = set()
        for j, rule in enumerate(term.get("matchLabelExpressions", ())):
            here = f"{path}[{i}].matchLabelExpressions[{j}]"
            values, key = rule.get("values") or (), rule.get("key", "")
            if not values:
                required(errs, f"{here}.values")
            known: set[str] = set()
            for k, value in enumerate(values):
                if value in known:
                    duplicate(errs, f"{here}.values[{k}]", value)
                known.add(value)
            invalid_each(errs, f"{here}.key", key, label_key(key))
            if key in keys:
                duplicate(errs, f"{here}.key", key)
            keys.add(key)


GROUP_POLICIES = ("ReadWriteOnceWithFSType", "File", "None")
LIFECYCLES = ("Persistent", "Ephemeral")


def check_csi_driver(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj["spec"]
    policy = spec.get("fsGroupPolicy", "")
    if policy not in GROUP_POLICIES:
        not_supported(errs, "spec.fsGroupPolicy", policy, GROUP_POLICIES)
    for mode in spec.get("volumeLifecycleModes", ()):
        if mode not in LIFECYCLES:
            not_supported(errs, "spec.volumeLifecycleModes", mode, LIFECYCLES)
    if old is not None:
        for key in ("attachRequired", "fsGroupPolicy", "volumeLifecycleModes"):
            if spec.get(key) != old["spec"].get(key):
                immutable(errs, spec.get(key), old["spec"].get(key), f"spec.{key}")


def check_csi_node(errs: Errors, obj: Object, old: Object | None = None) -> None:
    seen: set[str] = set()
    for i, driver in enumerate(obj["spec"].get("drivers") or ()):
        path, name = f"spec.drivers[{i}]", driver.get("name", "")
        _driver_name(errs, name, f"{path}.name")
        if not driver.get("nodeID"):
            required(errs, f"{path}.nodeID")
        nonnegative(errs, driver.get("allocatable") or {}, "count", f"{path}.allocatable")
        if name in seen:
            duplicate(errs, f"{path}.name", name)
        seen.add(name)
        keys: set[str] = set()
        for key in driver.get("topologyKeys") or ():
            if not key:
                required(errs, path)
            if key in keys:
                duplicate(errs, path, key)
            keys.add(key)
            invalid_each(errs, path, key, label_key(key))
    if old is not None:
        _drivers_stay(errs, obj["spec"].get("drivers") or [], old["spec"].get("drivers") or [])


def _drivers_stay(errs: Errors, drivers: list[Object], old: list[Object]) -> None:
    """What a driver has said of a node, but for how much it can hold."""
    before = {driver.get("name"): driver for driver in old}
    for driver in drivers:
        was = before.get(driver.get("name"))
        if was is not None and any(driver.get(key) != was.get(key)
                                   for key in ("nodeID", "topologyKeys")):
            # upstream shows its internal struct
            invalid(errs, "spec.drivers", {
                "Name": driver.get("name", ""), "NodeID": driver.get("nodeID", ""),
                "TopologyKeys": driver.get("topologyKeys"), "Allocatable": None}, IMMUTABLE)


def _driver_name(errs: Errors, name: str, path: str) -> None:
    if not name:
        required(errs, path)
        return
    if len(name) > 63:
        too_long(errs, path, 63)
    invalid_each(errs, path, name, subdomain(name.lower()))


def check_capacity(errs: Errors, obj: Object, old: Object | None = None) -> None:
    """A CSIStorageCapacity."""
    check_selector(errs, obj.get("nodeTopology"), "nodeTopology")
    name = obj.get("storageClassName", "")
    invalid_each(errs, "storageClassName", name, subdomain(name))
    if obj.get("capacity", "")[:1] == "-":
        invalid(errs, "capacity", obj["capacity"], "must be greater than or equal to 0")
    if old is not None:
        immutable(errs, obj.get("nodeTopology"), old.get("nodeTopology"), "nodeTopology")
        immutable(errs, name, old.get("storageClassName"), "storageClassName")


def check_volume_attachment(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj["spec"]
    _driver_name(errs, spec.get("attacher", ""), "spec.attacher")
    source, node = spec.get("source", {}), spec.get("nodeName", "")
    volume = source.get("persistentVolumeName")
    both = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
    if volume is None and "inlineVolumeSpec" not in source:
        required(errs, "spec.source", both)
    elif volume is not None and "inlineVolumeSpec" in source:
        forbidden(errs, "spec.source", both)
    elif volume == "":
        required(errs, "spec.source.persistentVolumeName",
                 "must specify non empty persistentVolumeName")
    invalid_each(errs, "spec.nodeName", node, subdomain(node))
    if volume is not None:
        invalid_each(errs, "spec.source.persistentVolumeName", volume, subdomain(volume))
    if old is not None and spec != old["spec"]:
        invalid(errs, "spec", spec, "field is immutable")
