# SPDX-License-Identifier: Apache-2.0
"""What an object must be before it is stored: its fields, its metadata, the rules of its kind.

    check_fields      400  unknown, repeated, ill-typed fields         (fields.py)
    validate_create   422  every cause: metadata, then the kind's own  (KINDS)
    validate_update   422  the same, and what may not change
    validate_status   422  metadata only: status belongs to controllers

A kind without a row in KINDS has its fields and metadata checked, nothing more.
Thread safety: one event loop's thread; check_fields of a large body runs in another. Source:
kubernetes pkg/apis/*/validation, apimachinery api/validation. May not know: HTTP, the store.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from kvcore.kube import status
from kvcore.kube.call import Call
from kvcore.kube.decode import YAML, media_of, repeated_keys
from kvcore.kube.fields import IllTyped, may_repeat, ok, settle, strict_errors
from kvcore.kube.schema import type_of_kind
from kvcore.kube.validation import (
    core,
    metadata,
    networking,
    policy,
    storage,
    webhooks,
    workloads,
)
from kvcore.kube.validation.errors import Enough, Errors, Object
from kvcore.kube.validation.pods import check_pod, check_pod_update
from kvcore.kube.validation.services import check_service

__all__ = ["check_fields", "validate_create", "validate_status", "validate_update"]

Check = Callable[[Errors, Object, "Object | None"], None]


def _pod(errs: Errors, obj: Object, old: Object | None) -> None:
    if old is None:
        check_pod(errs, obj)
    else:
        check_pod_update(errs, obj, old)


# What a kind asks beyond its metadata: a function of the causes, the object, and the old one.
KINDS: dict[str, Check] = {
    "ClusterRole": policy.check_cluster_role,
    "ClusterRoleBinding": policy.check_cluster_binding,
    "CertificateSigningRequest": policy.check_signing_request,
    "ConfigMap": core.check_config_map,
    "ControllerRevision": workloads.check_revision,
    "CronJob": workloads.check_cron_job,
    "CSIDriver": storage.check_csi_driver,
    "CSINode": storage.check_csi_node,
    "CSIStorageCapacity": storage.check_capacity,
    "DaemonSet": workloads.check_daemon_set,
    "Deployment": workloads.check_deployment,
    "Endpoints": core.check_endpoints,
    "EndpointSlice": networking.check_endpoint_slice,
    "Event": core.check_event,
    "HorizontalPodAutoscaler": policy.check_autoscaler,
    "Ingress": networking.check_ingress,
    "IngressClass": networking.check_ingress_class,
    "Job": workloads.check_job,
    "Lease": policy.check_lease,
    "LimitRange": core.check_limit_range,
    "MutatingWebhookConfiguration": webhooks.check_webhooks,
    "Namespace": core.check_namespace,
    "NetworkPolicy": networking.check_network_policy,
    "Node": core.check_node,
    "PersistentVolume": storage.check_volume,
    "PersistentVolumeClaim": storage.check_claim,
    "Pod": _pod,
    "PodDisruptionBudget": policy.check_budget,
    "PodTemplate": core.check_pod_template,
    "PriorityClass": policy.check_priority_class,
    "ReplicaSet": workloads.check_replica_set,
    "ReplicationController": workloads.check_replication_controller,
    "ResourceQuota": core.check_quota,
    "Role": policy.check_role,
    "RoleBinding": policy.check_binding,
    "RuntimeClass": policy.check_runtime_class,
    "Secret": core.check_secret,
    "Service": check_service,
    "StatefulSet": workloads.check_stateful_set,
    "StorageClass": storage.check_storage_class,
    "ValidatingWebhookConfiguration": webhooks.check_webhooks,
    "VolumeAttachment": storage.check_volume_attachment,
    "VolumeAttributesClass": storage.check_attributes_class,
}


# Upstream looks at the metadata of these only when nothing else is wrong.
METADATA_LAST = frozenset({"Event", "PodDisruptionBudget"})

# --- fields ---------------------------------------------------------------------------------------

def check_fields(call: Call) -> None:
    """Makes the object what upstream's decoder would make of it: known fields only, quantities and
    times in their one spelling, nothing null.

    fieldValidation Strict: unknown and repeated fields are refused; Warn: the answer warns of them;
    Ignore: they are dropped. Best called before anything else touches the object, for repeated
    fields are found by comparing it with the body. Errors: 400. Cost: 10 us for a small pod.
    """
    if call.checked:
        return
    obj, resource = call.object, call.resource
    name = type_of_kind(obj.get("apiVersion") or resource.api_version,
                        obj.get("kind") or resource.kind)
    if name is None:
        return
    told = call.options.field_validation != "Ignore"
    body = call.request.body
    is_json = told and call.request.method in ("POST", "PUT") and body[:1] == b"{"
    is_yaml = told and media_of(call.request.headers.get("content-type", "")) == YAML
    known = call.known_spec is not None       # such a spec has passed here before
    seen = {key: value for key, value in obj.items() if key != "spec"} if known else obj
    if ok(name)(seen) and not is_yaml and not (is_json and may_repeat(body, obj)):
        return
    call.sent_spec, call.known_spec = b"", None
    found, yaml_keys = [], list[str]()
    if told:
        found = strict_errors(name, body if is_json else None, obj)
        if is_yaml:
            yaml_keys = repeated_keys(body) if call.repeated is None else call.repeated
    try:
        settle(name, obj)
    except IllTyped as error:
        raise _cannot(call, str(error)) from None
    if call.options.field_validation == "Strict" and (found or yaml_keys):
        if yaml_keys:
            found.insert(0, "yaml: unmarshal errors:\n  " + "\n  ".join(yaml_keys))
        raise _cannot(call, f"strict decoding error: {', '.join(found)}")
    for text in yaml_keys + found:
        call.warn(text)


def _cannot(call: Call, why: str) -> status.ApiError:
    kind = call.object.get("kind") or call.resource.kind
    return status.bad_request(f'{kind} in version "{call.resource.version}" cannot be handled as a '
                              f"{call.resource.kind}: {why}")


# --- objects --------------------------------------------------------------------------------------

def validate_create(call: Call) -> None:
    """Errors: 422 with every cause. Cost: 15 us for a small pod."""
    errs: Errors = []
    obj, resource = call.object, call.resource
    check = KINDS.get(resource.kind)
    with suppress(Enough):
        if check is not None and resource.kind in METADATA_LAST:
            check(errs, obj, None)
            check = None
        if not errs:
            metadata.check_create(errs, obj["metadata"], resource.names, resource.namespaced)
        if check is not None:
            check(errs, obj, None)
    if errs:
        raise status.invalid(resource, obj["metadata"].get("name") or "", errs)


def validate_update(call: Call, old: Object) -> None:
    """The object against the one it replaces. Errors: 422 with every cause."""
    errs: Errors = []
    obj, resource = call.object, call.resource
    with suppress(Enough):
        metadata.check_update(errs, obj["metadata"], old["metadata"])
        check = KINDS.get(resource.kind)
        if check is not None:
            check(errs, obj, old)
    if errs:
        raise status.invalid(resource, obj["metadata"].get("name") or "", errs)


def validate_status(call: Call, old: Object) -> None:
    """An update of the status subresource. Errors: 422 with every cause."""
    errs: Errors = []
    with suppress(Enough):
        metadata.check_update(errs, call.object["metadata"], old["metadata"])
    if errs:
        raise status.invalid(call.resource, call.object["metadata"].get("name") or "", errs)
