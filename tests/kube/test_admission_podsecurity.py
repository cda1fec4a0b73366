# SPDX-License-Identifier: Apache-2.0
"""Pod Security: each check of the standards, versions, labels, exemptions, words."""

from __future__ import annotations

from typing import Any

import pytest
from admission_world import Object, World, forbidden, namespace, pod, said, thing

from kvcore.kube.admission.podchecks import CHECKS, NEWEST, check_pod, checks_of
from kvcore.kube.admission.podsecurity import Exemptions, PodSecurity, Policy, Standard
from kvcore.kube.request import User

PREFIX = "pod-security.kubernetes.io/"
GOOD: Object = {"allowPrivilegeEscalation": False, "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}


def one(context: Object | None = None, **rest: Any) -> Object:
    """A container that a restricted namespace takes, with something changed."""
    return {"name": "c", "image": "i", "securityContext": GOOD | (context or {})} | rest


def spec(context: Object | None = None, **rest: Any) -> Object:
    return {"containers": [one(context)]} | rest


def findings(level: str, podspec: Object, minor: int = NEWEST,
             annotations: dict[str, str] | None = None) -> list[tuple[str, str]]:
    return check_pod(level, minor, {"annotations": annotations or {}}, podspec)


C = 'container "c"'
CASES: list[tuple[str, Object, list[tuple[str, str]]]] = [
    ("restricted", spec(), []),
    ("baseline", {"containers": [{"name": "c"}]}, []),
    ("baseline", spec(hostNetwork=True, hostIPC=True),
     [("host namespaces", "hostNetwork=true, hostIPC=true")]),
    ("baseline", spec(volumes=[{"name": "a", "hostPath": {}}, {"name": "b", "hostPath": {}}]),
     [("hostPath volumes", 'volumes "a", "b"')]),
    ("restricted", spec(volumes=[{"name": "a", "hostPath": {}}, {"name": "b", "nfs": {}}]),
     [("restricted volume types",
       'volumes "a", "b" use restricted volume types "hostPath", "nfs"')]),
    ("restricted", spec(volumes=[{"name": "a", "odd": {}}]),
     [("restricted volume types", 'volume "a" uses restricted volume type "unknown"')]),
    ("restricted", spec(volumes=[{"name": "a", "configMap": {}}, {"name": "b", "emptyDir": {}}]),
     []),
    ("baseline", {"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 9}]},
                                 {"name": "b", "ports": [{"hostPort": 0}]}]},
     [("hostPort", 'container "a" uses hostPorts 80, 9')]),
    ("baseline", {"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "h"}}},
                                 {"name": "b", "lifecycle": {"preStop": {
                                     "tcpSocket": {"host": "g"}}}}]},
     [("probe or lifecycle host",
       'containers "a", "b" use probe or lifecycle hosts "g", "h"')]),
    ("baseline", spec({"privileged": True}),
     [("privileged", f"{C} must not set securityContext.privileged=true")]),
    ("baseline", spec({"procMount": "Unmasked"}),
     [("procMount", f'{C} must not set securityContext.procMount to "Unmasked"')]),
    ("baseline", spec({"procMount": "Unmasked"}, hostUsers=False), []),
    ("baseline", spec({"capabilities": {"add": ["NET_RAW", "CHOWN"]}}),
     [("non-default capabilities",
       f'{C} must not include "NET_RAW" in securityContext.capabilities.add')]),
    ("restricted", spec({"capabilities": {"add": ["NET_RAW", "NET_BIND_SERVICE"]}}),
     [("unrestricted capabilities", f'{C} must set securityContext.capabilities.drop=["ALL"]; {C} '
       'must not include "NET_RAW" in securityContext.capabilities.add')]),
    ("baseline", spec({"seLinuxOptions": {"type": "x", "user": "u", "role": "r"}},
                      securityContext={"seLinuxOptions": {"type": "y"}}),
     [("seLinuxOptions", f'pod and {C} set forbidden securityContext.seLinuxOptions: types "x", '
       '"y"; user may not be set; role may not be set')]),
    ("baseline", spec({"seLinuxOptions": {"type": "container_engine_t"}}), []),
    ("baseline", spec({"seccompProfile": {"type": "Unconfined"}}),
     [("seccompProfile",
       f'{C} must not set securityContext.seccompProfile.type to "Unconfined"')]),
    ("restricted", spec({"seccompProfile": None}),
     [("seccompProfile", f"pod or {C} must set securityContext.seccompProfile.type to "
       '"RuntimeDefault" or "Localhost"')]),
    ("restricted", spec({"seccompProfile": None},
                        securityContext={"seccompProfile": {"type": "Localhost"}}), []),
    ("baseline", spec(securityContext={"sysctls": [{"name": "kernel.x"},
                                                   {"name": "net.ipv4.tcp_rmem"}]}),
     [("forbidden sysctls", "kernel.x")]),
    ("baseline", spec(securityContext={"windowsOptions": {"hostProcess": True}}),
     [("hostProcess", "pod must not set securityContext.windowsOptions.hostProcess=true")]),
    ("baseline", spec({"appArmorProfile": {"type": "Unconfined"}}),
     [("forbidden AppArmor profile", f'{C} must not set AppArmor profile type to "Unconfined"')]),
    ("restricted", spec({"allowPrivilegeEscalation": None}),
     [("allowPrivilegeEscalation != false",
       f"{C} must set securityContext.allowPrivilegeEscalation=false")]),
    ("restricted", spec({"allowPrivilegeEscalation": None}, os={"name": "windows"}), []),
    ("restricted", spec({"runAsNonRoot": False}, securityContext={"runAsNonRoot": False}),
     [("runAsNonRoot != true", f"pod and {C} must not set securityContext.runAsNonRoot=false")]),
    ("restricted", spec({"runAsNonRoot": None}),
     [("runAsNonRoot != true", f"pod or {C} must set securityContext.runAsNonRoot=true")]),
    ("restricted", spec({"runAsNonRoot": None}, securityContext={"runAsNonRoot": True}), []),
    ("restricted", spec({"runAsUser": 0}, securityContext={"runAsUser": 0}),
     [("runAsUser=0", f"pod and {C} must not set runAsUser=0")]),
    ("restricted", spec({"runAsUser": 0}, hostUsers=False), []),
    ("restricted", {"containers": [one()], "initContainers": [one({"privileged": True}, name="i")],
                    "ephemeralContainers": [one({"privileged": True}, name="e")]},
     [("privileged",
       'containers "i", "e" must not set securityContext.privileged=true')]),
    ("privileged", spec({"privileged": True}), []),
]


@pytest.mark.parametrize(("level", "podspec", "found"), CASES)
def test_checks(level: str, podspec: Object, found: list[tuple[str, str]]) -> None:
    assert findings(level, podspec) == found


def test_every_check_has_failed_in_a_case() -> None:
    """So that none is forgotten: the functions of both levels, each with a pod it refuses."""
    for level in ("baseline", "restricted"):
        for check in checks_of(level, NEWEST):
            assert any(check({}, podspec) for _, podspec, _ in CASES), check


def test_annotations() -> None:
    apparmor = "container.apparmor.security.beta.kubernetes.io/c"
    assert findings("baseline", spec(), annotations={apparmor: "unconfined"}) == [
        ("forbidden AppArmor profile",
         f'annotation must not set AppArmor profile type to "{apparmor}="unconfined""')]
    for fine in ("runtime/default", "localhost/x", ""):
        assert findings("baseline", spec(), annotations={apparmor: fine}) == []
    seccomp = "seccomp.security.alpha.kubernetes.io/pod"
    assert findings("baseline", spec(), 18, {seccomp: "unconfined"}) == [
        ("seccompProfile", f'forbidden annotation {seccomp}="unconfined"')]
    assert findings("baseline", spec(), 19, {seccomp: "unconfined"}) == []


@pytest.mark.parametrize(("level", "minor", "count"), [
    ("baseline", 0, 11), ("baseline", 34, 12), ("restricted", 0, 12), ("restricted", 8, 13),
    ("restricted", 22, 13), ("restricted", 23, 14), ("restricted", 35, 15), ("restricted", 99, 15),
    ("privileged", 35, 0)])
def test_versions(level: str, minor: int, count: int) -> None:
    """Baseline has 11 checks from the start; restricted ones replace some and add others."""
    assert len(checks_of(level, minor)) == count
    assert NEWEST == 35 and len(CHECKS) == 19


# --- the plugin -----------------------------------------------------------------------------------

def labelled(**labels: str) -> Object:
    made = namespace()
    made["metadata"]["labels"] = {PREFIX + key.replace("_", "-"): v for key, v in labels.items()}
    return made


def test_enforced() -> None:
    with World(PodSecurity()) as world:
        world.admit(pod(hostNetwork=True))
        world.store(labelled(enforce="restricted"))
        found = world.refused(pod())
        assert said(found) == forbidden('pods "web"', (
            'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false '
            '(container "web" must set securityContext.allowPrivilegeEscalation=false), '
            'unrestricted capabilities (container "web" '
            'must set securityContext.capabilities.drop=["ALL"]), '
            'runAsNonRoot != true (pod or container "web" must set '
            'securityContext.runAsNonRoot=true), seccompProfile (pod or container "web" must set '
            'securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'))
        assert found["details"] == {"name": "web", "kind": "pods"}
        world.admit(pod(**spec()))
        assert world.last and world.last.admission and world.last.admission.annotations == {
            f"{PREFIX}enforce-policy": "restricted:latest"}
        world.store(labelled(enforce="baseline", enforce_version="v1.30"))
        assert said(world.refused(pod(hostPID=True))) == forbidden(
            'pods "web"', 'violates PodSecurity "baseline:v1.30": host namespaces (hostPID=true)')


def test_warned_and_audited() -> None:
    with World(PodSecurity()) as world:
        world.store(labelled(warn="baseline", audit="baseline"))
        world.admit(pod(hostPID=True))
        text = 'would violate PodSecurity "baseline:latest": host namespaces (hostPID=true)'
        assert world.warnings == [text]
        assert world.last and world.last.admission
        assert world.last.admission.annotations[f"{PREFIX}audit-violations"] == text
        for kind, holder in (("Deployment", {"template": {"spec": {"hostPID": True}}}),
                             ("CronJob", {"jobTemplate": {"spec": {
                                 "template": {"spec": {"hostPID": True}}}}})):
            world.admit(thing(kind, "w", spec=holder))
            assert world.warnings == [text]
        world.store(labelled(enforce="baseline"))              # warns of templates, too
        world.admit(thing("Deployment", "d", spec={"template": {"spec": {"hostPID": True}}}))
        assert world.warnings == [text]


def test_only_what_matters_of_an_update() -> None:
    with World(PodSecurity()) as world:
        world.store(labelled(enforce="restricted"))
        world.admit(pod(nodeName="n"), pod(), operation="UPDATE")
        other = pod(containers=[{"name": "web", "image": "other"}])
        assert said(world.refused(other, pod(), operation="UPDATE"))[0] == 403
        world.admit(other, pod(), operation="UPDATE", subresource="status")
        debug = pod(ephemeralContainers=[{"name": "d", "image": "x"}])
        assert said(world.refused(debug, pod(), operation="UPDATE",
                                  subresource="ephemeralcontainers"))[0] == 403


def test_exemptions() -> None:
    exempt = Exemptions(frozenset({"root"}), frozenset({"system"}), frozenset({"vm"}))
    with World(PodSecurity(Policy(Standard("restricted")), exempt)) as world:
        world.store(namespace("system"))
        assert said(world.refused(pod()))[0] == 403
        for admitted, user, why in ((pod("a", "system"), User("x"), "namespace"),
                                    (pod(), User("root"), "user"),
                                    (pod(runtimeClassName="vm"), User("x"), "runtimeClass")):
            world.admit(admitted, user=user)
            assert world.last and world.last.admission
            assert world.last.admission.annotations == {f"{PREFIX}exempt": why}
        warned = labelled(enforce="baseline")
        warned["metadata"]["name"] = "system"
        world.admit(warned)
        assert world.warnings == ['namespace "system" is exempt from Pod Security, and the policy '
                                  "(enforce=baseline:latest) will be ignored"]


def test_labels_that_mean_nothing() -> None:
    with World(PodSecurity()) as world:
        wrong = labelled(enforce="strict", warn_version="1")
        found = world.refused(wrong)
        assert said(found) == (422, "Invalid", (
            'Namespace "default" is invalid: [metadata.labels[pod-security.kubernetes.io/enforce]: '
            'Invalid value: "strict": must be one of privileged, baseline, restricted, '
            'metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: "1": must be '
            '"latest" or "v1.x"]'))
        assert said(world.refused(wrong, namespace(), operation="UPDATE"))[0] == 422
        world.admit(wrong, wrong, operation="UPDATE")          # it was wrong before
        world.store(wrong)                                     # then the strictest is enforced
        assert 'violates PodSecurity "restricted:latest"' in said(world.refused(pod()))[2]


def test_a_stricter_namespace_warns_of_its_pods() -> None:
    with World(PodSecurity()) as world:
        owned = pod("c", hostPID=True)
        owned["metadata"]["ownerReferences"] = [{"controller": True, "uid": "1"}]
        world.store(pod("b", hostPID=True), pod("a", hostPID=True), owned, pod("fine"),
                    pod("z", hostPID=True, hostIPC=True, volumes=[{"name": "v", "hostPath": {}}]))
        world.admit(labelled(enforce="baseline"), namespace(), operation="UPDATE")
        assert world.warnings == [
            'existing pods in namespace "default" violate the new PodSecurity enforce level '
            '"baseline:latest"', "a (and 2 other pods): host namespaces",
            "z: host namespaces, hostPath volumes"]
        world.admit(namespace(), labelled(enforce="baseline"), operation="UPDATE")
        assert world.warnings == []


def test_a_pod_in_no_namespace() -> None:
    with World(PodSecurity(Policy(Standard("baseline")))) as world:
        assert said(world.refused(pod("a", "none"))) == (
            500, "InternalError", 'Internal error occurred: failed to lookup namespace "none"')
