# SPDX-License-Identifier: Apache-2.0
"""The Pod Security Standards: one function a check, and one table that says since when.

    CHECKS: id, level, (since version, function, baseline checks it replaces) ...
    checks_of("restricted", 35) ──> functions in upstream's order: baseline by id, restricted by id

A function takes the pod's annotations and spec, and returns None or (reason, detail) in upstream's
words. Versions are minor versions of 1.x. Thread safety: values.
Source: pod-security-admission policy/check_*.go of 1.36.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

from kvcore.kube.call import Object

__all__ = ["CHECKS", "NEWEST", "check_pod", "checks_of"]

Finding = tuple[str, str] | None
Function = Callable[[dict[str, str], Object], Finding]


class Since(NamedTuple):
    minor: int
    function: Function
    replaces: tuple[str, ...] = ()


class Check(NamedTuple):
    id: str
    level: str
    versions: tuple[Since, ...]


# --- helpers -------------------------------------------------------------------------------------

def all_containers(spec: Object) -> Iterator[Object]:
    for field in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(field) or ()


def security(holder: Object) -> dict[str, Any]:
    """The securityContext of a pod's spec or a container."""
    return holder.get("securityContext") or {}


def quoted(items: Iterable[str]) -> str:
    return ", ".join(f'"{item}"' for item in items)


def named(names: list[str], one: str = "container", many: str = "containers") -> str:
    return f"{one if len(names) == 1 else many} {quoted(names)}"


def plural(one: str, many: str, count: int) -> str:
    return one if count == 1 else many


def setters(pod: bool, names: list[str]) -> str:
    """Who set something: "pod and containers "a", "b""."""
    return " and ".join((["pod"] if pod else []) + ([named(names)] if names else []))


def on_windows(spec: Object) -> bool:
    return (spec.get("os") or {}).get("name") == "windows"


def own_users(spec: Object) -> bool:
    """Whether the pod has a user namespace: root in it is nobody on the host."""
    return spec.get("hostUsers") is False


def names_of(spec: Object, bad: Callable[[Object], Any]) -> list[str]:
    return [c.get("name", "") for c in all_containers(spec) if bad(c)]


def but(condition: Callable[[Object], bool], function: Function) -> Function:
    """The check, except for pods of which the condition holds."""
    return lambda annotations, spec: None if condition(spec) else function(annotations, spec)


# --- baseline ------------------------------------------------------------------------------------

APPARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"


def apparmor(annotations: dict[str, str], spec: Object) -> Finding:
    values: set[str] = set()

    def bad(holder: Object) -> bool:
        profile = security(holder).get("appArmorProfile")
        if profile is None or profile.get("type") in ("RuntimeDefault", "Localhost"):
            return False
        values.add(profile.get("type", ""))
        return True

    pod, names = bad(spec), names_of(spec, bad)
    forbidden = sorted(f'{key}="{value}"' for key, value in annotations.items()
                       if key.startswith(APPARMOR_ANNOTATION) and value
                       and value != "runtime/default" and not value.startswith("localhost/"))
    who = (["pod"] if pod else []) + ([named(names)] if names else [])
    if forbidden:
        who.append(plural("annotation", "annotations", len(forbidden)))
    if not who:
        return None
    found = sorted(values) + forbidden
    return (plural("forbidden AppArmor profile", "forbidden AppArmor profiles", len(found)),
            f"{' and '.join(who)} must not set AppArmor profile type to {quoted(found)}")


DEFAULT_CAPABILITIES = frozenset({
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
    "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"})


def capabilities_baseline(annotations: dict[str, str], spec: Object) -> Finding:
    added: set[str] = set()

    def bad(container: Object) -> bool:
        more = set((security(container).get("capabilities") or {}).get("add") or ()) \
            - DEFAULT_CAPABILITIES
        added.update(more)
        return bool(more)

    names = names_of(spec, bad)
    return ("non-default capabilities", f"{named(names)} must not include {quoted(sorted(added))} "
            "in securityContext.capabilities.add") if names else None


def host_namespaces(annotations: dict[str, str], spec: Object) -> Finding:
    found = [f"{field}=true" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    return ("host namespaces", ", ".join(found)) if found else None


def host_paths(annotations: dict[str, str], spec: Object) -> Finding:
    names = [v.get("name", "") for v in spec.get("volumes") or () if v.get("hostPath") is not None]
    return ("hostPath volumes", named(names, "volume", "volumes")) if names else None


def host_ports(annotations: dict[str, str], spec: Object) -> Finding:
    ports: set[str] = set()

    def bad(container: Object) -> bool:
        found = {str(p["hostPort"]) for p in container.get("ports") or () if p.get("hostPort")}
        ports.update(found)
        return bool(found)

    names = names_of(spec, bad)
    return ("hostPort", f"{named(names)} {plural('uses', 'use', len(names))} "
            f"{plural('hostPort', 'hostPorts', len(ports))} "
            f"{', '.join(sorted(ports))}") if names else None


def host_probes(annotations: dict[str, str], spec: Object) -> Finding:
    hosts: set[str] = set()

    def bad(container: Object) -> bool:
        lifecycle = container.get("lifecycle") or {}
        handlers = (container.get("livenessProbe"), container.get("readinessProbe"),
                    container.get("startupProbe"), lifecycle.get("postStart"),
                    lifecycle.get("preStop"))
        found = {action["host"] for handler in handlers if handler
                 for action in (handler.get("httpGet"), handler.get("tcpSocket"))
                 if action and action.get("host")}
        hosts.update(found)
        return bool(found)

    names = sorted(set(names_of(spec, bad)))
    what = plural("probe or lifecycle host", "probe or lifecycle hosts", len(hosts))
    return ("probe or lifecycle host", f"{named(names)} {plural('uses', 'use', len(names))} {what} "
            f"{quoted(sorted(hosts))}") if names else None


def privileged(annotations: dict[str, str], spec: Object) -> Finding:
    names = names_of(spec, lambda c: security(c).get("privileged"))
    return ("privileged", f"{named(names)} must not set securityContext.privileged=true") \
        if names else None


def proc_mount(annotations: dict[str, str], spec: Object) -> Finding:
    types: set[str] = set()

    def bad(container: Object) -> bool:
        mount = security(container).get("procMount")
        if mount is None or mount == "Default":
            return False
        types.add(mount)
        return True

    names = names_of(spec, bad)
    return ("procMount", f"{named(names)} must not set securityContext.procMount to "
            f"{quoted(sorted(types))}") if names else None


SELINUX_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t"})


def selinux(types: frozenset[str]) -> Function:
    def check(annotations: dict[str, str], spec: Object) -> Finding:
        bad_types: set[str] = set()
        also: dict[str, None] = {}

        def bad(holder: Object) -> bool:
            options = security(holder).get("seLinuxOptions")
            if options is None:
                return False
            wrong = options.get("type", "") not in types
            if wrong:
                bad_types.add(options["type"])
            for field in ("user", "role"):
                if options.get(field):
                    wrong = True
                    also[field] = None
            return wrong

        pod, names = bad(spec), names_of(spec, bad)
        if not pod and not names:
            return None
        what = [f"{plural('type', 'types', len(bad_types))} {quoted(sorted(bad_types))}"] \
            if bad_types else []
        what += [f"{field} may not be set" for field in ("user", "role") if field in also]
        return ("seLinuxOptions", f"{setters(pod, names)} set forbidden securityContext."
                f"seLinuxOptions: {'; '.join(what)}")
    return check


SECCOMP_POD = "seccomp.security.alpha.kubernetes.io/pod"
SECCOMP_CONTAINER = "container.seccomp.security.alpha.kubernetes.io/"


def seccomp_annotations(annotations: dict[str, str], spec: Object) -> Finding:
    keys = [SECCOMP_POD, *(SECCOMP_CONTAINER + c.get("name", "") for c in all_containers(spec))]
    found = sorted({f'{key}="{annotations[key]}"' for key in keys if key in annotations
                    and annotations[key] not in ("runtime/default", "docker/default")
                    and not annotations[key].startswith("localhost/")})
    return ("seccompProfile", f"forbidden {plural('annotation', 'annotations', len(found))} "
            f"{', '.join(found)}") if found else None


def seccomp(annotations: dict[str, str], spec: Object, *, needed: bool = False) -> Finding:
    """Args: needed: a profile must be set, by the pod or by each container."""
    values: set[str] = set()

    def profile(holder: Object) -> bool | None:
        """Whether it is good; None: there is none."""
        found = security(holder).get("seccompProfile")
        if found is None:
            return None
        if found.get("type") in ("RuntimeDefault", "Localhost"):
            return True
        values.add(found.get("type", ""))
        return False

    pod = profile(spec)
    states = [(c.get("name", ""), profile(c)) for c in all_containers(spec)]
    names = [name for name, good in states if good is False]
    if pod is False or names:
        return ("seccompProfile", f"{setters(pod is False, names)} must not set "
                f"securityContext.seccompProfile.type to {quoted(sorted(values))}")
    silent = [name for name, good in states if good is None] if needed and not pod else []
    return ("seccompProfile", f"pod or {named(silent)} must set securityContext.seccompProfile.type"
            ' to "RuntimeDefault" or "Localhost"') if silent else None


SYSCTLS = frozenset({
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start"})
SYSCTLS_27 = SYSCTLS | {"net.ipv4.ip_local_reserved_ports"}
SYSCTLS_29 = SYSCTLS_27 | {"net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout",
                           "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes"}
SYSCTLS_32 = SYSCTLS_29 | {"net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"}


def sysctls(allowed: frozenset[str]) -> Function:
    def check(annotations: dict[str, str], spec: Object) -> Finding:
        found = [s.get("name", "") for s in security(spec).get("sysctls") or ()
                 if s.get("name", "") not in allowed]
        return ("forbidden sysctls", ", ".join(found)) if found else None
    return check


def host_process(annotations: dict[str, str], spec: Object) -> Finding:
    def bad(holder: Object) -> Any:
        return (security(holder).get("windowsOptions") or {}).get("hostProcess")

    pod, names = bool(bad(spec)), names_of(spec, bad)
    return ("hostProcess", f"{setters(pod, names)} must not set "
            "securityContext.windowsOptions.hostProcess=true") if pod or names else None


# --- restricted ----------------------------------------------------------------------------------

def privilege_escalation(annotations: dict[str, str], spec: Object) -> Finding:
    names = names_of(spec, lambda c: security(c).get("allowPrivilegeEscalation") is not False)
    return ("allowPrivilegeEscalation != false", f"{named(names)} must set "
            "securityContext.allowPrivilegeEscalation=false") if names else None


def capabilities_restricted(annotations: dict[str, str], spec: Object) -> Finding:
    keeping: list[str] = []
    adding: list[str] = []
    added: set[str] = set()
    for container in all_containers(spec):
        found = security(container).get("capabilities") or {}
        if "ALL" not in (found.get("drop") or ()):
            keeping.append(container.get("name", ""))
        more = set(found.get("add") or ()) - {"NET_BIND_SERVICE"}
        if more:
            adding.append(container.get("name", ""))
            added |= more
    said = [f'{named(keeping)} must set securityContext.capabilities.drop=["ALL"]'] \
        if keeping else []
    if adding:
        said.append(f"{named(adding)} must not include {quoted(sorted(added))} in "
                    "securityContext.capabilities.add")
    return ("unrestricted capabilities", "; ".join(said)) if said else None


VOLUMES = ("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image",
           "persistentVolumeClaim", "projected", "secret")
RESTRICTED_VOLUMES = (
    "hostPath", "gcePersistentDisk", "awsElasticBlockStore", "gitRepo", "nfs", "iscsi",
    "glusterfs", "rbd", "flexVolume", "cinder", "cephfs", "flocker", "fc", "azureFile",
    "vsphereVolume", "quobyte", "azureDisk", "photonPersistentDisk", "portworxVolume", "scaleIO",
    "storageos")


def volume_types(annotations: dict[str, str], spec: Object) -> Finding:
    names, types = list[str](), set[str]()
    for volume in spec.get("volumes") or ():
        if all(volume.get(field) is None for field in VOLUMES):
            names.append(volume.get("name", ""))
            types.add(next((t for t in RESTRICTED_VOLUMES if volume.get(t) is not None), "unknown"))
    what = plural("restricted volume type", "restricted volume types", len(types))
    return ("restricted volume types", f"{named(names, 'volume', 'volumes')} "
            f"{plural('uses', 'use', len(names))} {what} {quoted(sorted(types))}") \
        if names else None


def non_root(annotations: dict[str, str], spec: Object) -> Finding:
    pod = security(spec).get("runAsNonRoot")
    states = [(c.get("name", ""), security(c).get("runAsNonRoot")) for c in all_containers(spec)]
    names = [name for name, value in states if value is False]
    reason = "runAsNonRoot != true"
    if pod is False or names:
        return (reason, f"{setters(pod is False, names)} must not set "
                "securityContext.runAsNonRoot=false")
    silent = [name for name, value in states if value is None] if not pod else []
    return (reason, f"pod or {named(silent)} must set securityContext.runAsNonRoot=true") \
        if silent else None


def root_user(annotations: dict[str, str], spec: Object) -> Finding:
    def bad(holder: Object) -> bool:
        user = security(holder).get("runAsUser")
        return user is not None and user == 0

    pod, names = bad(spec), names_of(spec, bad)
    return ("runAsUser=0", f"{setters(pod, names)} must not set runAsUser=0") \
        if pod or names else None


def seccomp_needed(annotations: dict[str, str], spec: Object) -> Finding:
    return seccomp(annotations, spec, needed=True)


# --- the table -----------------------------------------------------------------------------------

SECCOMP = ("seccompProfile_baseline",)
CAPABILITIES = ("capabilities_baseline",)

CHECKS: tuple[Check, ...] = (
    Check("appArmorProfile", "baseline", (Since(0, apparmor),)),
    Check("capabilities_baseline", "baseline", (Since(0, capabilities_baseline),)),
    Check("hostNamespaces", "baseline", (Since(0, host_namespaces),)),
    Check("hostPathVolumes", "baseline", (Since(0, host_paths),)),
    Check("hostPorts", "baseline", (Since(0, host_ports),)),
    Check("hostProbesAndHostLifecycle", "baseline", (Since(34, host_probes),)),
    Check("privileged", "baseline", (Since(0, privileged),)),
    Check("procMount", "baseline", (Since(0, proc_mount), Since(35, but(own_users, proc_mount)))),
    Check("seLinuxOptions", "baseline", (
        Since(0, selinux(SELINUX_TYPES)),
        Since(31, selinux(SELINUX_TYPES | {"container_engine_t"})))),
    Check("seccompProfile_baseline", "baseline", (
        Since(0, seccomp_annotations), Since(19, seccomp))),
    Check("sysctls", "baseline", (
        Since(0, sysctls(SYSCTLS)), Since(27, sysctls(SYSCTLS_27)),
        Since(29, sysctls(SYSCTLS_29)), Since(32, sysctls(SYSCTLS_32)))),
    Check("windowsHostProcess", "baseline", (Since(0, host_process),)),
    Check("allowPrivilegeEscalation", "restricted", (
        Since(8, privilege_escalation), Since(25, but(on_windows, privilege_escalation)))),
    Check("capabilities_restricted", "restricted", (
        Since(22, capabilities_restricted, CAPABILITIES),
        Since(25, but(on_windows, capabilities_restricted), CAPABILITIES))),
    Check("procMount_restricted", "restricted", (Since(35, proc_mount, ("procMount",)),)),
    Check("restrictedVolumes", "restricted", (Since(0, volume_types, ("hostPathVolumes",)),)),
    Check("runAsNonRoot", "restricted", (Since(0, non_root), Since(35, but(own_users, non_root)))),
    Check("runAsUser", "restricted", (Since(23, root_user), Since(35, but(own_users, root_user)))),
    Check("seccompProfile_restricted", "restricted", (
        Since(19, seccomp_needed, SECCOMP),
        Since(25, but(on_windows, seccomp_needed), SECCOMP))),
)

NEWEST = max(since.minor for check in CHECKS for since in check.versions)


@cache
def checks_of(level: str, minor: int) -> tuple[Function, ...]:
    """The checks of a level at a version; what is newer than the newest check is that.

    >>> len(checks_of("privileged", 30)), len(checks_of("baseline", 0)) > 0
    (0, True)
    """
    minor = min(minor, NEWEST)
    found = {check.id: since for check in CHECKS for since in check.versions
             if since.minor <= minor and (level == "restricted" or check.level == level)}
    replaced = {gone for since in found.values() for gone in since.replaces}
    order = sorted(CHECKS, key=lambda check: (check.level, check.id))
    return tuple(found[check.id].function for check in order
                 if check.id in found and check.id not in replaced)


def check_pod(level: str, minor: int, metadata: Object, spec: Object) -> list[tuple[str, str]]:
    """All findings, in order; none: it may run."""
    if level == "privileged":
        return []
    annotations = metadata.get("annotations") or {}
    return [finding for check in checks_of(level, minor)
            if (finding := check(annotations, spec)) is not None]
