# SPDX-License-Identifier: Apache-2.0
"""Volumes of a pod, and where containers mount them.

Sources have at most one kind each; what a source needs is a table, the few with rules of their own
have a function. Thread safety: none needed. Source: kubernetes pkg/apis/core/validation.
May not know: pods.
"""

from __future__ import annotations

from collections.abc import Callable

from kvcore.kube.validation.errors import (
    Errors,
    Object,
    duplicate,
    forbidden,
    invalid,
    invalid_each,
    not_found,
    not_supported,
    required,
)
from kvcore.kube.validation.rules import config_key, dns_label, label_key, subdomain
from kvcore.kube.values import quantity

__all__ = ["check_mounts", "check_volumes", "check_source"]

MODE_RULE = "must be a number between 0 and 0777 (octal), both inclusive"
ONE_TYPE = "may not specify more than 1 volume type"
HOST_PATH_TYPES = ("", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File",
                   "FileOrCreate", "Socket")
DOWNWARD_FIELDS = ("metadata.annotations", "metadata.labels", "metadata.name",
                   "metadata.namespace", "metadata.uid")
# Fields that a source cannot do without, by the source's name.
NEEDED: dict[str, tuple[str, ...]] = {
    "gcePersistentDisk": ("pdName",), "awsElasticBlockStore": ("volumeID",),
    "gitRepo": ("repository",), "nfs": ("server", "path"), "glusterfs": ("endpoints", "path"),
    "persistentVolumeClaim": ("claimName",), "flexVolume": ("driver",),
    "cephfs": ("monitors",), "cinder": ("volumeID",), "azureFile": ("secretName", "shareName"),
    "vsphereVolume": ("volumePath",), "quobyte": ("registry", "volume"),
    "azureDisk": ("diskName", "diskURI"), "photonPersistentDisk": ("pdID",),
    "portworxVolume": ("volumeID",), "scaleIO": ("gateway", "system", "volumeName"),
    "csi": ("driver",), "rbd": ("monitors", "image"), "iscsi": ("targetPortal", "iqn"),
}


def check_volumes(errs: Errors, volumes: list[Object], path: str,
                  pod_name: str = "") -> dict[str, Object]:
    """The good ones by name: what may be mounted."""
    made = {f"{pod_name}-{v.get('name', '')}" for v in volumes if "ephemeral" in v} \
        if pod_name else set()
    good: dict[str, Object] = {}
    for i, volume in enumerate(volumes):
        here, before = f"{path}[{i}]", len(errs)
        name = volume.get("name", "")
        check_source(errs, volume, here)
        if pod_name and name and "ephemeral" in volume:
            claim = f"{pod_name}-{name}"
            invalid_each(errs, f"{here}.name", name,
                         [f'PVC name "{claim}": {fault}' for fault in subdomain(claim)])
        if not name:
            required(errs, f"{here}.name")
        else:
            invalid_each(errs, f"{here}.name", name, dns_label(name))
        if name in good:
            duplicate(errs, f"{here}.name", name)
        if len(errs) == before:
            good[name] = volume
        claim = volume.get("persistentVolumeClaim", {}).get("claimName", "")
        if claim in made:
            invalid(errs, f"{here}.persistentVolumeClaim.claimName", claim,
                    "must not reference a PVC that gets created for an ephemeral volume")
    return good


def check_source(errs: Errors, volume: Object, path: str) -> None:
    """The one source of a volume."""
    found = 0
    for kind, source in volume.items():
        if kind == "name":
            continue
        if found:
            forbidden(errs, f"{path}.{kind}", ONE_TYPE)
            continue
        found += 1
        here = f"{path}.{kind}"
        for key in NEEDED.get(kind, ()):
            if not source.get(key):
                required(errs, f"{here}.{key}")
        special = SPECIAL.get(kind)
        if special is not None:
            special(errs, source, here)
    if not found:
        required(errs, path, "must specify a volume type")


# --- sources with rules of their own --------------------------------------------------------------

def local_path(errs: Errors, value: str, path: str) -> None:
    """A path below something, and not out of it."""
    if value.startswith("/"):
        invalid(errs, path, value, "must be a relative path")
    no_backsteps(errs, value, path)


def no_backsteps(errs: Errors, value: str, path: str) -> None:
    if ".." in value and ".." in value.split("/"):
        invalid(errs, path, value, "must not contain '..'")


def _unreserved(errs: Errors, value: str, path: str) -> None:
    local_path(errs, value, path)
    if value.startswith("..") and not value.startswith("../"):
        invalid(errs, path, value, "must not start with '..'")


def _mode(errs: Errors, holder: Object, key: str, path: str) -> None:
    mode = holder.get(key)
    if mode is not None and not 0 <= mode <= 0o777:
        invalid(errs, f"{path}.{key}", mode, MODE_RULE)


def _items(errs: Errors, source: Object, path: str) -> None:
    for i, item in enumerate(source.get("items", ())):
        here = f"{path}.items[{i}]"
        for key in ("key", "path"):
            if not item.get(key):
                required(errs, f"{here}.{key}")
        _unreserved(errs, item.get("path", ""), f"{here}.path")
        _mode(errs, item, "mode", here)


def _config_map(errs: Errors, source: Object, path: str) -> None:
    if not source.get("name"):
        required(errs, f"{path}.name")
    _mode(errs, source, "defaultMode", path)
    _items(errs, source, path)


def _secret(errs: Errors, source: Object, path: str) -> None:
    if not source.get("secretName"):
        required(errs, f"{path}.secretName")
    _mode(errs, source, "defaultMode", path)
    _items(errs, source, path)


def _empty_dir(errs: Errors, source: Object, path: str) -> None:
    if "sizeLimit" in source and quantity(source["sizeLimit"]) < 0:
        forbidden(errs, f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity")


def _host_path(errs: Errors, source: Object, path: str) -> None:
    if not source.get("path"):
        required(errs, f"{path}.path")
    no_backsteps(errs, source.get("path", ""), f"{path}.path")
    kind = source.get("type", "")
    if kind not in HOST_PATH_TYPES:
        not_supported(errs, f"{path}.type", kind, HOST_PATH_TYPES)


def _downward(errs: Errors, source: Object, path: str) -> None:
    _mode(errs, source, "defaultMode", path)
    for item in source.get("items", ()):
        check_downward_file(errs, item, path)


def check_downward_file(errs: Errors, item: Object, path: str) -> None:
    if not item.get("path"):
        required(errs, f"{path}.path")
    _unreserved(errs, item.get("path", ""), f"{path}.path")
    if "fieldRef" in item:
        check_field_ref(errs, item["fieldRef"], DOWNWARD_FIELDS, f"{path}.fieldRef")
        if "resourceFieldRef" in item:
            invalid(errs, path, "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously")
    elif "resourceFieldRef" in item:
        if not item["resourceFieldRef"].get("containerName"):
            required(errs, f"{path}.resourceFieldRef.containerName")
    else:
        required(errs, path, "one of fieldRef and resourceFieldRef is required")
    _mode(errs, item, "mode", path)


POD_FIELDS = frozenset({
    "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace",
    "metadata.uid", "spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName",
    "spec.schedulerName", "status.phase", "status.hostIP", "status.hostIPs", "status.podIP",
    "status.podIPs"})


def check_field_ref(errs: Errors, ref: Object, fields: tuple[str, ...], path: str) -> None:
    """A field of the pod that a container or a file may show."""
    field = ref.get("fieldPath", "")
    if not ref.get("apiVersion"):
        required(errs, f"{path}.apiVersion")
    if not field:
        required(errs, f"{path}.fieldPath")
        return
    if field in fields:
        return
    base, bracket, rest = field.partition("['")
    known = field == "spec.host" or (base if bracket else field) in POD_FIELDS
    if not known:
        invalid(errs, f"{path}.fieldPath", field,
                f"error converting fieldPath: field label not supported: {base}")
        not_supported(errs, f"{path}.fieldPath", "", fields)
    elif bracket and rest.endswith("']"):
        key = rest[:-2]
        if base == "metadata.annotations":
            invalid_each(errs, path, key.lower(), label_key(key.lower()))
        elif base == "metadata.labels":
            invalid_each(errs, path, key, label_key(key))
        else:
            invalid(errs, path, base, "does not support subscript")
    else:
        not_supported(errs, f"{path}.fieldPath", field, fields)


def _projected(errs: Errors, source: Object, path: str) -> None:
    _mode(errs, source, "defaultMode", path)
    paths: set[str] = set()
    for i, part in enumerate(source.get("sources", ())):
        here = f"{path}.sources[{i}]"
        for kind in ("secret", "configMap"):
            if kind in part:
                if not part[kind].get("name"):
                    required(errs, f"{here}.{kind}.name")
                _items(errs, part[kind], f"{here}.{kind}")
                _unique(errs, part[kind], paths, path, part[kind].get("name", ""))
        if "downwardAPI" in part:
            for item in part["downwardAPI"].get("items", ()):
                check_downward_file(errs, item, f"{here}.downwardAPI")
            _unique(errs, part["downwardAPI"], paths, path, None)
        token = part.get("serviceAccountToken")
        if token is not None:
            _token(errs, token, f"{here}.serviceAccountToken", path)
        if len(part) > 1:
            forbidden(errs, here, "may not specify more than 1 volume type per source")


def _unique(errs: Errors, part: Object, paths: set[str], path: str, name: str | None) -> None:
    for item in part.get("items", ()):
        where = item.get("path")
        if where in paths:
            invalid(errs, path, where if name is None else name, "conflicting duplicate paths")
        elif where:
            paths.add(where)


def _token(errs: Errors, token: Object, path: str, parent: str) -> None:
    seconds = token.get("expirationSeconds", 3600)
    if seconds < 600:
        invalid(errs, f"{path}.expirationSeconds", seconds,
                "may not specify a duration less than 10 minutes")
    if seconds > 1 << 32:
        invalid(errs, f"{path}.expirationSeconds", seconds,
                "may not specify a duration larger than 2^32 seconds")
    if not token.get("path"):
        required(errs, f"{parent}.path")
    else:
        _unreserved(errs, token["path"], f"{parent}.path")


def _nfs(errs: Errors, source: Object, path: str) -> None:
    if not source.get("path", "").startswith("/"):
        invalid(errs, f"{path}.path", source.get("path", ""), "must be an absolute path")


def _ephemeral(errs: Errors, source: Object, path: str) -> None:
    if "volumeClaimTemplate" not in source:
        required(errs, f"{path}.volumeClaimTemplate")
        return
    from kvcore.kube.validation.storage import check_claim_spec
    check_claim_spec(errs, source["volumeClaimTemplate"].get("spec", {}),
                     f"{path}.volumeClaimTemplate.spec")


SPECIAL: dict[str, Callable[[Errors, Object, str], None]] = {
    "configMap": _config_map, "secret": _secret, "emptyDir": _empty_dir, "hostPath": _host_path,
    "downwardAPI": _downward, "projected": _projected, "ephemeral": _ephemeral,
    "nfs": _nfs,
}

# --- mounts ---------------------------------------------------------------------------------------

PROPAGATIONS = ("Bidirectional", "HostToContainer", "None")


def check_mounts(errs: Errors, container: Object, volumes: dict[str, Object], path: str) -> None:
    """volumeMounts of a container."""
    devices = container.get("volumeDevices", ())
    points: set[str] = set()
    for i, mount in enumerate(container.get("volumeMounts", ())):
        here = f"{path}[{i}]"
        name, point = mount.get("name", ""), mount.get("mountPath", "")
        if not name:
            required(errs, f"{here}.name")
        if name not in volumes:
            not_found(errs, f"{here}.name", name)
        if not point:
            required(errs, f"{here}.mountPath")
        if point in points:
            invalid(errs, f"{here}.mountPath", point, "must be unique")
        points.add(point)
        if any(device.get("name") == name for device in devices):
            invalid(errs, f"{here}.name", name, "must not already exist in volumeDevices")
        if "subPath" in mount:
            local_path(errs, mount["subPath"], f"{path}.subPath")
        if "subPathExpr" in mount:
            if "subPath" in mount:
                invalid(errs, f"{here}.subPathExpr", mount["subPathExpr"],
                        "subPathExpr and subPath are mutually exclusive")
            local_path(errs, mount["subPathExpr"], f"{path}.subPathExpr")
        if "mountPropagation" in mount:
            _propagation(errs, mount["mountPropagation"], container, f"{path}.mountPropagation")


def _propagation(errs: Errors, value: str, container: Object, path: str) -> None:
    if value not in PROPAGATIONS:
        not_supported(errs, path, value, PROPAGATIONS)
    if value == "Bidirectional" and not container.get("securityContext", {}).get("privileged"):
        forbidden(errs, path,
                  "Bidirectional mount propagation is available only to privileged containers")


def check_devices(errs: Errors, container: Object, volumes: dict[str, Object], path: str) -> None:
    """volumeDevices of a container: claims of block mode."""
    points: set[str] = set()
    mounted = {mount.get("mountPath") for mount in container.get("volumeMounts", ())}
    for i, device in enumerate(container.get("volumeDevices", ())):
        here, name, point = f"{path}[{i}]", device.get("name", ""), device.get("devicePath", "")
        if not name:
            required(errs, f"{here}.name")
        if name in volumes and not {"persistentVolumeClaim", "ephemeral"} & volumes[name].keys():
            invalid(errs, f"{here}.name", name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for "
                    "block mode")
        if name not in volumes:
            not_found(errs, f"{here}.name", name)
        if not point:
            required(errs, f"{here}.devicePath")
        if point in points:
            invalid(errs, f"{here}.devicePath", point, "must be unique")
        if point in mounted:
            invalid(errs, f"{here}.devicePath", point,
                    "must not already exist as a path in volumeMounts")
        no_backsteps(errs, point, f"{here}.devicePath")
        points.add(point)


def check_key_ref(errs: Errors, ref: Object, path: str) -> None:
    """A key of a ConfigMap or a Secret."""
    name, key = ref.get("name", ""), ref.get("key", "")
    invalid_each(errs, f"{path}.name", name, subdomain(name))
    if not key:
        required(errs, f"{path}.key")
    else:
        invalid_each(errs, f"{path}.key", key, config_key(key))
