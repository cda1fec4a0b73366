# SPDX-License-Identifier: Apache-2.0
"""Containers: ports, environment, probes, resources, security.

Order of the checks is upstream's, since the order of causes is part of the message.
Thread safety: none needed. Source: kubernetes pkg/apis/core/validation. May not know: pods.
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
    not_supported,
    required,
)
from kvcore.kube.validation.rules import (
    PORT_RANGE,
    check_port,
    dns_label,
    env_name,
    header_name,
    label_key,
    nonnegative,
    port_name,
    subdomain,
)
from kvcore.kube.validation.volumes import (
    check_devices,
    check_field_ref,
    check_key_ref,
    check_mounts,
)
from kvcore.kube.values import nano, quantity

__all__ = ["check_containers", "check_init_containers", "check_requirements"]

PROTOCOLS = ("SCTP", "TCP", "UDP")
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
SCHEMES = ("HTTP", "HTTPS")
ENV_FIELDS = ("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
              "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP",
              "status.podIPs")
ENV_SOURCES = ("must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, "
               "`secretKeyRef` or `fileKeyRef`")
RESOURCE_FIELDS = ("limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu",
                   "requests.ephemeral-storage", "requests.memory")
Volumes = dict[str, Object]


def check_containers(errs: Errors, containers: list[Object], volumes: Volumes, path: str) -> None:
    """The containers of a pod, at least one."""
    if not containers:
        required(errs, path)
        return
    names: set[str] = set()
    for i, container in enumerate(containers):
        here = f"{path}[{i}]"
        _common(errs, container, volumes, here)
        name = container.get("name", "")
        if name in names:
            duplicate(errs, f"{here}.name", name)
        names.add(name)
        _hooks_and_probes(errs, container, here)
        if container.get("restartPolicy") not in (None, "Always", "Never", "OnFailure"):
            not_supported(errs, f"{here}.restartPolicy", container["restartPolicy"],
                          ("Always", "Never", "OnFailure"))
    _host_ports(errs, containers, path)


NOT_FOR_INIT = "may not be set for init containers without restartPolicy=Always"


def check_init_containers(errs: Errors, containers: list[Object], regular: list[Object],
                          volumes: Volumes, path: str) -> None:
    names = {container.get("name", "") for container in regular}
    for i, container in enumerate(containers):
        here = f"{path}[{i}]"
        _common(errs, container, volumes, here)
        if container.get("restartPolicy") not in (None, "Always", "Never", "OnFailure"):
            not_supported(errs, f"{here}.restartPolicy", container["restartPolicy"],
                          ("Always", "Never", "OnFailure"))
        name = container.get("name", "")
        if name in names:
            duplicate(errs, f"{here}.name", name)
        elif name:
            names.add(name)
        _host_ports(errs, [container], path)
        if container.get("restartPolicy") == "Always":
            _hooks_and_probes(errs, container, here)
            continue
        for key in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
            if key in container:
                forbidden(errs, f"{here}.{key}", NOT_FOR_INIT)


def _common(errs: Errors, container: Object, volumes: Volumes, path: str) -> None:
    get = container.get
    name = get("name", "")
    if not name:
        required(errs, f"{path}.name")
    else:
        invalid_each(errs, f"{path}.name", name, dns_label(name))
    if not get("image"):
        required(errs, f"{path}.image")
    policy = get("terminationMessagePolicy", "")
    if policy not in ("File", "FallbackToLogsOnError"):
        if policy:
            not_supported(errs, f"{path}.terminationMessagePolicy", policy,
                          ("File", "FallbackToLogsOnError"))
        else:
            required(errs, f"{path}.terminationMessagePolicy")
    if "ports" in container:
        _ports(errs, container["ports"], f"{path}.ports")
    if "env" in container:
        _env(errs, container["env"], f"{path}.env")
    if "envFrom" in container:
        _env_from(errs, container["envFrom"], f"{path}.envFrom")
    if "volumeMounts" in container:
        check_mounts(errs, container, volumes, f"{path}.volumeMounts")
    if "volumeDevices" in container:
        check_devices(errs, container, volumes, f"{path}.volumeDevices")
    pull = get("imagePullPolicy", "")
    if pull not in PULL_POLICIES:
        if pull:
            not_supported(errs, f"{path}.imagePullPolicy", pull, PULL_POLICIES)
        else:
            required(errs, f"{path}.imagePullPolicy")
    if get("resources"):
        check_requirements(errs, container["resources"], f"{path}.resources")
    if "securityContext" in container:
        check_security(errs, container["securityContext"], f"{path}.securityContext")


def _hooks_and_probes(errs: Errors, container: Object, path: str) -> None:
    lifecycle = container.get("lifecycle")
    if lifecycle:
        for key in ("postStart", "preStop"):
            if key in lifecycle:
                _handler(errs, lifecycle[key], f"{path}.lifecycle.{key}")
    for key in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(key)
        if probe is not None:
            _probe(errs, probe, f"{path}.{key}")
            if key != "readinessProbe" and probe.get("successThreshold") != 1:
                invalid(errs, f"{path}.{key}.successThreshold", probe.get("successThreshold", 0),
                        "must be 1")


# --- ports ----------------------------------------------------------------------------------------

def _ports(errs: Errors, ports: list[Object], path: str) -> None:
    names: set[str] = set()
    for i, port in enumerate(ports):
        name = port.get("name")
        if name:
            faults = port_name(name)
            if faults:
                invalid_each(errs, f"{path}[{i}].name", name, faults)
            elif name in names:
                duplicate(errs, f"{path}[{i}].name", name)
            names.add(name)
        for key in ("containerPort", "hostPort"):
            number = port.get(key, 0)
            if not number and key == "containerPort":
                required(errs, f"{path}[{i}].{key}")
            elif number and not 1 <= number <= 65535:
                invalid(errs, f"{path}[{i}].{key}", number, PORT_RANGE)
        protocol = port.get("protocol", "")
        if protocol not in PROTOCOLS:
            if protocol:
                not_supported(errs, f"{path}[{i}].protocol", protocol, PROTOCOLS)
            else:
                required(errs, f"{path}[{i}].protocol")


def _host_ports(errs: Errors, containers: list[Object], path: str) -> None:
    taken: set[str] = set()
    for i, container in enumerate(containers):
        for j, port in enumerate(container.get("ports", ())):
            number = port.get("hostPort", 0)
            if number:
                what = f"{port.get('protocol', '')}/{port.get('hostIP', '')}/{number}"
                if what in taken:
                    duplicate(errs, f"{path}[{i}].ports[{j}].hostPort", what)
                taken.add(what)


# --- environment ----------------------------------------------------------------------------------

def _env(errs: Errors, variables: list[Object], path: str) -> None:
    for i, variable in enumerate(variables):
        name = variable.get("name", "")
        if not name:
            required(errs, f"{path}[{i}].name")
        else:
            faults = env_name(name)
            if faults:
                invalid_each(errs, f"{path}[{i}].name", name, faults)
        source = variable.get("valueFrom")
        if source is not None:
            _value_from(errs, source, bool(variable.get("value")), f"{path}[{i}].valueFrom")


def _value_from(errs: Errors, source: Object, has_value: bool, path: str) -> None:
    if "fieldRef" in source:
        check_field_ref(errs, source["fieldRef"], ENV_FIELDS, f"{path}.fieldRef")
    if "resourceFieldRef" in source:
        wanted = source["resourceFieldRef"].get("resource", "")
        here = f"{path}.resourceFieldRef"
        if not wanted:
            required(errs, f"{here}.resource")
        elif wanted not in RESOURCE_FIELDS and not wanted.startswith(
                ("requests.hugepages-", "limits.hugepages-")):
            not_supported(errs, f"{here}.resource", wanted, RESOURCE_FIELDS)
    for key in ("configMapKeyRef", "secretKeyRef"):
        if key in source:
            check_key_ref(errs, source[key], f"{path}.{key}")
    if not source:
        invalid(errs, path, "", ENV_SOURCES)
    elif has_value:
        invalid(errs, path, "", "may not be specified when `value` is not empty")
    elif len(source) > 1:
        invalid(errs, path, "", "may not have more than one field specified at a time")


def _env_from(errs: Errors, sources: list[Object], path: str) -> None:
    for i, source in enumerate(sources):
        if source.get("prefix"):
            invalid_each(errs, f"{path}[{i}].prefix", source["prefix"], env_name(source["prefix"]))
        found = [key for key in ("configMapRef", "secretRef") if key in source]
        for key in found:
            name = source[key].get("name", "")
            if not name:
                required(errs, f"{path}[{i}].{key}.name")
            else:
                invalid_each(errs, f"{path}[{i}].{key}.name", name, subdomain(name))
        if not found:
            invalid(errs, path, "", "must specify one of: `configMapRef` or `secretRef`")
        elif len(found) > 1:
            invalid(errs, path, "", "may not have more than one field specified at a time")


# --- probes ---------------------------------------------------------------------------------------

def _probe(errs: Errors, probe: Object, path: str) -> None:
    _handler(errs, probe, path)
    for key in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold",
                "failureThreshold"):
        if probe.get(key, 0) < 0:
            nonnegative(errs, probe, key, path)
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None and grace <= 0:
        invalid(errs, f"{path}.terminationGracePeriodSeconds", grace, "must be greater than 0")


def _exec(errs: Errors, action: Object, path: str) -> None:
    if not action.get("command"):
        required(errs, f"{path}.command")


def _http(errs: Errors, action: Object, path: str) -> None:
    if not action.get("path"):
        required(errs, f"{path}.path")
    port = action.get("port", 0)
    if port.__class__ is str or not 1 <= port <= 65535:
        check_port(errs, port, f"{path}.port")
    if action.get("scheme", "") not in SCHEMES:
        not_supported(errs, f"{path}.scheme", action.get("scheme", ""), SCHEMES)
    for header in action.get("httpHeaders", ()):
        name = header.get("name", "")
        invalid_each(errs, f"{path}.httpHeaders", name, header_name(name))


def _tcp(errs: Errors, action: Object, path: str) -> None:
    check_port(errs, action.get("port", 0), f"{path}.port")


def _sleep(errs: Errors, action: Object, path: str) -> None:
    if action.get("seconds", 0) < 0:
        invalid(errs, path, action["seconds"], "must be non-negative")


HANDLERS: dict[str, Callable[[Errors, Object, str], None]] = {
    "exec": _exec, "httpGet": _http, "tcpSocket": _tcp, "grpc": _tcp, "sleep": _sleep}


def _handler(errs: Errors, holder: Object, path: str) -> None:
    """Exactly one of the ways to ask or to act."""
    found = 0
    for key, check in HANDLERS.items():
        if key in holder:
            if found:
                forbidden(errs, f"{path}.{key}", "may not specify more than 1 handler type")
            else:
                check(errs, holder[key], f"{path}.{key}")
            found += 1
    if not found:
        required(errs, path, "must specify a handler type")


# --- resources ------------------------------------------------------------------------------------

STANDARD = frozenset({"cpu", "memory", "ephemeral-storage"})


def check_requirements(errs: Errors, resources: Object, path: str) -> None:
    """limits and requests of a container."""
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for name, amount in limits.items():
        _amount(errs, name, amount, f"{path}.limits[{name}]")
    for name, amount in requests.items():
        _amount(errs, name, amount, f"{path}.requests[{name}]")
        limit = limits.get(name)
        overcommit = name in STANDARD or _native(name) and not name.startswith("hugepages-")
        if limit is None:
            if not overcommit:
                required(errs, f"{path}.limits",
                         "Limit must be set for non overcommitable resources")
        elif limit != amount and not overcommit and nano(amount) != nano(limit):
            invalid(errs, f"{path}.requests", amount,
                    f"must be equal to {name} limit of {limit}")
        elif limit != amount and nano(amount) > nano(limit):
            invalid(errs, f"{path}.requests", amount,
                    f"must be less than or equal to {name} limit of {limit}")
    used = limits.keys() | requests.keys() if limits or requests else ()
    if not STANDARD.issuperset(used) and "cpu" not in used and "memory" not in used and any(
            name.startswith("hugepages-") for name in used):
        forbidden(errs, path, "HugePages require cpu or memory")


def _amount(errs: Errors, name: str, amount: str, path: str) -> None:
    if name not in STANDARD:
        resource_name(errs, name, path)
    check_amount(errs, name, amount, path)


def resource_name(errs: Errors, name: str, path: str) -> None:
    """The name of something that a container can ask for."""
    faults = label_key(name)
    invalid_each(errs, path, name, faults)
    if name.startswith("hugepages-"):
        return
    if "/" not in name:
        if not faults and name not in COMPUTE:
            invalid(errs, path, name, "must be a standard resource type or fully qualified")
        invalid(errs, path, name, "must be a standard resource for containers")
    elif not _native(name) and (name.startswith("requests.") or label_key(f"requests.{name}")):
        invalid(errs, path, name, "doesn't follow extended resource name standard")


COMPUTE = frozenset({
    "cpu", "memory", "ephemeral-storage", "storage", "pods", "services", "secrets", "configmaps",
    "replicationcontrollers", "resourcequotas", "persistentvolumeclaims", "requests.cpu",
    "requests.memory", "requests.storage", "requests.ephemeral-storage", "limits.cpu",
    "limits.memory", "limits.ephemeral-storage", "services.nodeports", "services.loadbalancers"})
COUNTED = frozenset({"pods", "services", "secrets", "configmaps", "replicationcontrollers",
                     "resourcequotas", "persistentvolumeclaims", "services.nodeports",
                     "services.loadbalancers"})


def _native(name: str) -> bool:
    return "/" not in name or "kubernetes.io/" in name


def check_amount(errs: Errors, name: str, amount: str, path: str) -> None:
    if amount[:1] == "-":
        invalid(errs, path, amount, "must be greater than or equal to 0")
    whole = name in COUNTED or ("/" in name and not _native(name))
    if whole and quantity(amount).denominator != 1:
        invalid(errs, path, amount, "must be an integer")


# --- security -------------------------------------------------------------------------------------

ID_RANGE = "must be between 0 and 2147483647, inclusive"
SECCOMP = ("Localhost", "RuntimeDefault", "Unconfined")


def check_id(errs: Errors, holder: Object, key: str, path: str) -> None:
    value = holder.get(key)
    if value is not None and not 0 <= value <= 2147483647:
        invalid(errs, f"{path}.{key}", value, ID_RANGE)


def check_security(errs: Errors, context: Object, path: str) -> None:
    """The securityContext of a container."""
    check_id(errs, context, "runAsUser", path)
    check_id(errs, context, "runAsGroup", path)
    mount = context.get("procMount")
    if mount is not None and mount not in ("Default", "Unmasked"):
        not_supported(errs, f"{path}.procMount", mount, ("Default", "Unmasked"))
    check_profile(errs, context.get("seccompProfile"), f"{path}.seccompProfile")
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged"):
            invalid(errs, path, context,
                    "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
        for capability in context.get("capabilities", {}).get("add", ()):
            if capability == "CAP_SYS_ADMIN":
                invalid(errs, path, context, "cannot set `allowPrivilegeEscalation` to false and "
                        "`capabilities.Add` CAP_SYS_ADMIN")
    check_profile(errs, context.get("appArmorProfile"), f"{path}.appArmorProfile")


def check_profile(errs: Errors, profile: Object | None, path: str) -> None:
    """A seccomp or AppArmor profile."""
    if profile is None:
        return
    kind, local = profile.get("type", ""), profile.get("localhostProfile")
    if kind == "Localhost":
        if not local:
            required(errs, f"{path}.localhostProfile",
                     "must be set when seccomp type is Localhost" if "seccomp" in path
                     else "must be set when AppArmor type is Localhost")
    elif local is not None:
        invalid(errs, f"{path}.localhostProfile", local,
                "can only be set when seccomp type is Localhost" if "seccomp" in path
                else "can only be set when AppArmor type is Localhost")
    if not kind:
        required(errs, f"{path}.type", "type is required when seccompProfile is set"
                 if "seccomp" in path else "type is required when appArmorProfile is set")
    elif kind not in SECCOMP:
        not_supported(errs, f"{path}.type", kind, SECCOMP)
