# SPDX-License-Identifier: Apache-2.0
"""Pods and pod templates: the spec, and what of a pod may change.

    check_pod ── check_pod_spec ── volumes.py, containers.py, scheduling.py

Thread safety: none needed. Source: kubernetes pkg/apis/core/validation. May not know: requests.
"""

from __future__ import annotations

from typing import Any

import orjson

from kvcore.kube.templates import Memo
from kvcore.kube.validation.containers import (
    check_containers,
    check_id,
    check_init_containers,
    check_profile,
    check_requirements,
)
from kvcore.kube.validation.errors import (
    Errors,
    Object,
    forbidden,
    invalid,
    invalid_each,
    not_supported,
    required,
)
from kvcore.kube.validation.metadata import check_annotations
from kvcore.kube.validation.rules import (
    check_ip,
    check_labels,
    dns_label,
    label_key,
    subdomain,
    underscored,
)
from kvcore.kube.validation.scheduling import check_affinity, check_tolerations, check_topology
from kvcore.kube.validation.volumes import check_volumes

__all__ = ["check_pod", "check_pod_spec", "check_pod_update", "check_template"]

RESTART = ("Always", "OnFailure", "Never")
DNS = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
DEADLINE_MAX = 2147483647


# Specs without a fault. What an ephemeral volume is called hangs on the pod's name; such a spec is
# looked at each time.
_sound: Memo[bool] = Memo()


def check_pod(errs: Errors, obj: Object) -> None:
    """A new pod, its metadata aside. Cost: 40 us a spec that was not seen before, 5 us one that
    was."""
    spec = obj["spec"]
    said = orjson.dumps(spec)
    if not _sound.get(said):
        check_pod_spec(errs, spec, "spec", obj["metadata"].get("name", ""), is_pod=True)
        if not errs and b'"ephemeral":' not in said:
            _sound.put(said, True)
    if spec.get("ephemeralContainers"):
        forbidden(errs, "spec.ephemeralContainers", "cannot be set on create")
    if spec.get("nodeName") and spec.get("schedulingGates"):
        forbidden(errs, "spec.nodeName",
                  "cannot be set until all schedulingGates have been cleared")


def check_template(errs: Errors, template: Object, path: str) -> None:
    """A PodTemplateSpec."""
    meta = template.get("metadata", {})
    check_labels(errs, meta.get("labels", {}), f"{path}.labels")
    check_annotations(errs, meta.get("annotations", {}), f"{path}.annotations")
    spec = template.get("spec", {})
    check_pod_spec(errs, spec, f"{path}.spec")
    if spec.get("ephemeralContainers"):
        forbidden(errs, f"{path}.spec.ephemeralContainers",
                  "ephemeral containers not allowed in pod template")


def check_pod_spec(errs: Errors, spec: Object, path: str, name: str = "", *,
                   is_pod: bool = False) -> None:
    get = spec.get
    if "terminationGracePeriodSeconds" not in spec:
        required(errs, f"{path}.terminationGracePeriodSeconds")
    volumes = check_volumes(errs, spec["volumes"], f"{path}.volumes", name) \
        if "volumes" in spec else {}
    containers = get("containers") or []
    check_containers(errs, containers, volumes, f"{path}.containers")
    if "initContainers" in spec:
        check_init_containers(errs, spec["initContainers"], containers, volumes,
                              f"{path}.initContainers")
    if "resources" in spec:
        check_requirements(errs, spec["resources"], f"{path}.resources")
    if get("hostNetwork"):
        _host_network(errs, containers, f"{path}.containers", is_pod)
    _one_of(errs, get("restartPolicy", ""), RESTART, f"{path}.restartPolicy")
    _one_of(errs, get("dnsPolicy", ""), DNS, f"{path}.dnsPolicy")
    if "nodeSelector" in spec:
        check_labels(errs, spec["nodeSelector"], f"{path}.nodeSelector")
    if get("securityContext"):
        _security(errs, spec["securityContext"], f"{path}.securityContext")
    if "affinity" in spec:
        check_affinity(errs, spec["affinity"], f"{path}.affinity")
    if "dnsConfig" in spec or get("dnsPolicy") == "None":
        _dns_config(errs, get("dnsConfig"), get("dnsPolicy", ""), f"{path}.dnsConfig")
    for i, gate in enumerate(get("readinessGates", ())):
        kind = gate.get("conditionType", "")
        invalid_each(errs, f"{path}.readinessGates[{i}].conditionType", kind, label_key(kind))
    if "schedulingGates" in spec:
        _gates(errs, spec["schedulingGates"], f"{path}.schedulingGates")
    if "topologySpreadConstraints" in spec:
        check_topology(errs, spec["topologySpreadConstraints"], f"{path}.topologySpreadConstraints")
    _names(errs, spec, path)


def _names(errs: Errors, spec: Object, path: str) -> None:
    """The second half: names and numbers."""
    get = spec.get
    for key, rule in (("serviceAccountName", subdomain), ("nodeName", subdomain)):
        if key in spec:
            invalid_each(errs, f"{path}.{key}", spec[key], rule(spec[key]))
    deadline = get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= DEADLINE_MAX:
        invalid(errs, f"{path}.activeDeadlineSeconds", deadline,
                f"must be between 1 and {DEADLINE_MAX}, inclusive")
    for key in ("hostname", "subdomain"):
        if key in spec:
            invalid_each(errs, f"{path}.{key}", spec[key], dns_label(spec[key]))
    if "tolerations" in spec:
        check_tolerations(errs, spec["tolerations"], f"{path}.tolerations")
    for i, alias in enumerate(get("hostAliases", ())):
        check_ip(errs, alias.get("ip", ""), f"{path}.hostAliases[{i}].ip")
        for j, name in enumerate(alias.get("hostnames", ())):
            invalid_each(errs, f"{path}.hostAliases[{i}].hostnames[{j}]", name, subdomain(name))
    for key in ("priorityClassName", "runtimeClassName"):
        if spec.get(key):
            invalid_each(errs, f"{path}.{key}", spec[key], subdomain(spec[key]))
    if "preemptionPolicy" in spec:
        _one_of(errs, spec["preemptionPolicy"], ("PreemptLowerPriority", "Never"),
                f"{path}.preemptionPolicy")
    if "os" in spec and spec["os"].get("name") not in ("linux", "windows"):
        if spec["os"].get("name"):
            not_supported(errs, f"{path}.os.name", spec["os"]["name"], ("linux", "windows"))
        else:
            required(errs, f"{path}.os.name", "cannot be empty")


def _one_of(errs: Errors, value: str, values: tuple[str, ...], path: str) -> None:
    if value not in values:
        if value:
            not_supported(errs, path, value, values)
        else:
            required(errs, path)


def _host_network(errs: Errors, containers: list[Object], path: str, is_pod: bool) -> None:
    for i, container in enumerate(containers):
        for j, port in enumerate(container.get("ports", ())):
            host, own = port.get("hostPort", 0), port.get("containerPort", 0)
            if (host or is_pod) and host != own:
                invalid(errs, f"{path}[{i}].ports[{j}].hostPort", host,
                        "must match `containerPort` when `hostNetwork` is true")


def _security(errs: Errors, context: Object, path: str) -> None:
    for key in ("fsGroup", "runAsUser", "runAsGroup"):
        check_id(errs, context, key, path)
    for i, group in enumerate(context.get("supplementalGroups", ())):
        if not 0 <= group <= DEADLINE_MAX:
            invalid(errs, f"{path}.supplementalGroups[{i}]", group,
                    f"must be between 0 and {DEADLINE_MAX}, inclusive")
    check_profile(errs, context.get("seccompProfile"), f"{path}.seccompProfile")
    policy = context.get("fsGroupChangePolicy")
    if policy is not None:
        _one_of(errs, policy, ("Always", "OnRootMismatch"), f"{path}.fsGroupChangePolicy")
    check_profile(errs, context.get("appArmorProfile"), f"{path}.appArmorProfile")


NAMESERVERS_MAX, SEARCHES_MAX, SEARCH_CHARS_MAX = 3, 32, 2048


def _dns_config(errs: Errors, config: Object | None, policy: str, path: str) -> None:
    servers = (config or {}).get("nameservers", ())
    if policy == "None":
        if config is None:
            required(errs, path, "must provide `dnsConfig` when `dnsPolicy` is None")
            return
        if not servers:
            required(errs, f"{path}.nameservers", "must provide at least one DNS nameserver when "
                     "`dnsPolicy` is None")
            return
    config = config or {}
    if len(servers) > NAMESERVERS_MAX:
        invalid(errs, f"{path}.nameservers", servers,
                f"must not have more than {NAMESERVERS_MAX} nameservers")
    for i, server in enumerate(servers):
        check_ip(errs, server, f"{path}.nameservers[{i}]")
    searches = config.get("searches", ())
    if len(searches) > SEARCHES_MAX:
        invalid(errs, f"{path}.searches", searches,
                f"must not have more than {SEARCHES_MAX} search paths")
    if len(" ".join(searches)) > SEARCH_CHARS_MAX:
        invalid(errs, f"{path}.searches", searches, f"must not have more than {SEARCH_CHARS_MAX} "
                "characters (including spaces) in the search list")
    for i, search in enumerate(searches):
        if search != ".":
            name = search.removesuffix(".")
            invalid_each(errs, f"{path}.searches[{i}]", name, underscored(name))
    for i, option in enumerate(config.get("options", ())):
        if not option.get("name"):
            required(errs, f"{path}.options[{i}]", "must not be empty")


def _gates(errs: Errors, gates: list[Object], path: str) -> None:
    seen: set[str] = set()
    for i, gate in enumerate(gates):
        name = gate.get("name", "")
        if not name:
            required(errs, f"{path}[{i}].name")
        else:
            invalid_each(errs, f"{path}[{i}].name", name, label_key(name))
        if name in seen:
            from kvcore.kube.validation.errors import duplicate
            duplicate(errs, f"{path}[{i}]", name)
        seen.add(name)


# --- updates --------------------------------------------------------------------------------------

MAY_CHANGE = ("pod updates may not change fields other than `spec.containers[*].image`,"
              "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` "
              "(only additions to existing tolerations),`spec.terminationGracePeriodSeconds` "
              "(allow it to be set to 1 if it was previously negative)")


def check_pod_update(errs: Errors, obj: Object, old: Object) -> None:
    """What of a pod's spec may change: images, a shorter deadline, more tolerations, fewer gates.

    Upstream's message ends in a Go diff of both specs; here it names the fields.
    """
    spec, before = obj["spec"], old["spec"]
    check_pod_spec(errs, spec, "spec", obj["metadata"].get("name", ""), is_pod=True)
    if spec == before:
        return
    for key in ("containers", "initContainers"):
        if len(spec.get(key, ())) != len(before.get(key, ())):
            forbidden(errs, f"spec.{key}", "pod updates may not add or remove containers")
            return
    _deadline(errs, spec.get("activeDeadlineSeconds"), before.get("activeDeadlineSeconds"))
    for toleration in before.get("tolerations", ()):
        if not any(_same_toleration(toleration, new) for new in spec.get("tolerations", ())):
            forbidden(errs, "spec.tolerations",
                      "existing toleration can not be modified except its tolerationSeconds")
            break
    gates = [gate.get("name") for gate in before.get("schedulingGates", ())]
    for i, gate in enumerate(spec.get("schedulingGates", ())):
        if gate.get("name") not in gates:
            forbidden(errs, f"spec.schedulingGates[{i}].name",
                      "only deletion is allowed, but found new scheduling gate "
                      f"'{gate.get('name')}'")
    mine, theirs = _fixed(spec, before), _fixed(before, before)
    if mine != theirs:
        changed = sorted(key for key in mine.keys() | theirs.keys()
                         if mine.get(key) != theirs.get(key))
        forbidden(errs, "spec", f"{MAY_CHANGE}\n{', '.join(f'spec.{key}' for key in changed)}")


def _same_toleration(old: Object, new: Object) -> bool:
    def rest(toleration: Object) -> Object:
        return {key: value for key, value in toleration.items() if key != "tolerationSeconds"}
    return rest(old) == rest(new)


def _deadline(errs: Errors, new: int | None, old: int | None) -> None:
    path = "spec.activeDeadlineSeconds"
    if new is not None:
        if old is not None and old < new:
            invalid(errs, path, new, "must be less than or equal to previous value")
    elif old is not None:
        invalid(errs, path, None, "must not update from a positive integer to nil value")


def _fixed(spec: Object, old: Object) -> Object:
    """The part of a spec that must stay."""
    free = {"activeDeadlineSeconds", "tolerations", "schedulingGates"}
    if old.get("schedulingGates"):
        free |= {"nodeSelector", "affinity"}
    if old.get("terminationGracePeriodSeconds", 0) < 0 \
            and spec.get("terminationGracePeriodSeconds") == 1:
        free.add("terminationGracePeriodSeconds")

    def without_image(containers: list[Object]) -> list[Any]:
        return [{key: value for key, value in container.items() if key != "image"}
                for container in containers]

    return {key: without_image(value) if key in ("containers", "initContainers") else value
            for key, value in spec.items() if key not in free and key != "ephemeralContainers"}
