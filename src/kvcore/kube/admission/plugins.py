# SPDX-License-Identifier: Apache-2.0
"""All admission plugins there are, in upstream's order; and a chain of those that are wanted.

    PLUGINS            name, on by default here, how it is made (None: Kubernetes knows it, kvcore
                       does not have it), since when it is gone
    build_chain(...)   defaults + enable - disable, configured; plugins of one's own come behind the
                       webhooks and before ResourceQuota, which counts what will really be stored

Order matters: NamespaceLifecycle before what needs the namespace, LimitRanger before the quota that
counts what it fills in, ServiceAccount before PodSecurity that looks at the volume it mounts.
Thread safety: none needed at start. Source: kubernetes pkg/kubeapiserver/options/plugins.go.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from kvcore.kube.admission import config as configs
from kvcore.kube.admission.chain import Chain, Observe, Plugin, as_plugin
from kvcore.kube.admission.defaulting import (
    AlwaysAdmit,
    AlwaysDeny,
    DefaultStorageClass,
    DefaultTolerationSeconds,
)
from kvcore.kube.admission.lifecycle import NamespaceLifecycle
from kvcore.kube.admission.limits import LimitRanger
from kvcore.kube.admission.podsecurity import PodSecurity
from kvcore.kube.admission.priority import Priority
from kvcore.kube.admission.quota import ResourceQuota
from kvcore.kube.admission.serviceaccount import ServiceAccount
from kvcore.kube.admission.webhook_client import Resolver
from kvcore.kube.admission.webhooks import MutatingAdmissionWebhook, ValidatingAdmissionWebhook

if TYPE_CHECKING:
    from kvcore.kube.api import Api

__all__ = ["PLUGINS", "Row", "build_chain"]

Make = Callable[["Settings"], Plugin]


class Settings(NamedTuple):
    """What plugins are made from. `own`: the plugin's configuration, {} if there is none."""

    own: dict[str, Any]
    where: str
    resolve: Resolver | None


class Row(NamedTuple):
    name: str
    default: bool = False
    make: Make | None = None
    removed: str = ""                            # in which version of Kubernetes, and why


def _plain(make: Callable[[], Plugin]) -> Make:
    """A plugin that takes no configuration."""
    def made(settings: Settings) -> Plugin:
        configs.refuse_any(settings.own, settings.where)
        return make()
    return made


def _pod_security(settings: Settings) -> Plugin:
    return PodSecurity(*configs.pod_security(settings.own, settings.where))


def _quota(settings: Settings) -> Plugin:
    return ResourceQuota(configs.limited_resources(settings.own, settings.where))


def _webhooks(make: Callable[[Resolver | None], Plugin]) -> Make:
    def made(settings: Settings) -> Plugin:
        configs.webhooks(settings.own, settings.where)
        return make(settings.resolve)
    return made


PLUGINS: tuple[Row, ...] = (
    Row("AlwaysAdmit", False, _plain(AlwaysAdmit)),
    Row("NamespaceAutoProvision"),
    Row("NamespaceLifecycle", True, _plain(NamespaceLifecycle)),
    Row("NamespaceExists"),
    Row("LimitPodHardAntiAffinityTopology"),
    Row("LimitRanger", True, _plain(LimitRanger)),
    Row("ServiceAccount", True, _plain(ServiceAccount)),
    Row("NodeRestriction"),
    Row("TaintNodesByCondition"),
    Row("AlwaysPullImages"),
    Row("ImagePolicyWebhook"),
    Row("PodSecurity", True, _pod_security),
    Row("PodNodeSelector"),
    Row("Priority", True, _plain(Priority)),
    Row("DefaultTolerationSeconds", True, _plain(DefaultTolerationSeconds)),
    Row("PodTolerationRestriction"),
    Row("EventRateLimit"),
    Row("ExtendedResourceToleration"),
    Row("DefaultStorageClass", True, _plain(DefaultStorageClass)),
    Row("StorageObjectInUseProtection"),
    Row("PodGroupProtection"),
    Row("OwnerReferencesPermissionEnforcement"),
    Row("PersistentVolumeClaimResize"),
    Row("RuntimeClass"),
    Row("CertificateApproval"),
    Row("CertificateSigning"),
    Row("ClusterTrustBundleAttest"),
    Row("CertificateSubjectRestriction"),
    Row("DefaultIngressClass"),
    Row("DenyServiceExternalIPs"),
    Row("PodTopologyLabels"),
    Row("PodGroupWorkloadExists"),
    Row("NodeDeclaredFeatureValidator"),
    Row("JobValidation"),
    Row("PodResizeValidator"),
    Row("MutatingAdmissionPolicy"),
    Row("MutatingAdmissionWebhook", True, _webhooks(MutatingAdmissionWebhook)),
    Row("ValidatingAdmissionPolicy"),
    Row("ValidatingAdmissionWebhook", True, _webhooks(ValidatingAdmissionWebhook)),
    Row("ResourceQuota", True, _quota),
    Row("AlwaysDeny", False, _plain(AlwaysDeny)),
    Row("PodSecurityPolicy", removed="it was removed in Kubernetes v1.25; PodSecurity is what "
        "replaces it"),
    Row("SecurityContextDeny", removed="it was removed in Kubernetes v1.30; PodSecurity with level "
        "restricted is what replaces it"),
)
KNOWN = {row.name: row for row in PLUGINS}
AFTER_OWN = ("ResourceQuota", "AlwaysDeny")


def build_chain(enable: Iterable[str] = (), disable: Iterable[str] = (),
                config: str | os.PathLike[str] | dict[str, Any] | None = None,
                api: Api | None = None, *, plugins: Iterable[Any] = (),
                resolve: Resolver | None = None, observe: Observe | None = None,
                async_admission: bool = False) -> Chain:
    """The chain that flags and a file ask for.

    Args:
        enable, disable: as --enable-admission-plugins and --disable-admission-plugins.
        config: an AdmissionConfiguration: the path of the file, as --admission-control-config-file,
            or what would stand in it.
        api: whose metrics take the times; the Api that starts the chain, if None.
        plugins: one's own: plugins, classes of them, functions (see chain.py), in order.
        resolve: the address of a webhook's Service.
        async_admission: validate creates after the write; see docs/kube.md for what that risks.

    Errors: ValueError with everything that is wrong, OSError for files that cannot be read.

    >>> [p.name for p in build_chain(disable=["PodSecurity", "ServiceAccount"]).plugins][:3]
    ['NamespaceLifecycle', 'LimitRanger', 'Priority']
    """
    enable, disable = tuple(enable), tuple(disable)
    wrong = [*_unknown("enable", enable), *_unknown("disable", disable)]
    both = sorted(set(enable) & set(disable))
    if both:
        wrong.append(f"[{' '.join(both)}] in enable-admission-plugins and "
                     "disable-admission-plugins overlapped")
    if wrong:
        raise ValueError(wrong[0] if len(wrong) == 1 else f"[{', '.join(wrong)}]")
    found = configs.read(config, KNOWN)
    own = [as_plugin(thing) for thing in plugins]
    chosen: list[Plugin] = []
    for row in PLUGINS:
        if row.name == AFTER_OWN[0]:
            chosen += own
        if row.make is not None and row.name not in disable \
                and (row.default or row.name in enable):
            settings, where = found.get(row.name, ({}, ""))
            chosen.append(row.make(Settings(settings, where, resolve)))
    if observe is None and api is not None:
        observe = api.metrics.of_admission
    return Chain(chosen, observe, async_admission=async_admission)


def _unknown(flag: str, names: Iterable[str]) -> list[str]:
    """What is wrong with the names given to a flag, in upstream's words."""
    wrong = []
    for name in names:
        said = f'{flag}-admission-plugins plugin "{name}" is unknown'
        row = KNOWN.get(name)
        if row is None:
            wrong.append(said)
        elif row.removed:
            wrong.append(f"{said}: {row.removed}")
        elif row.make is None and flag == "enable":
            wrong.append(f"{said}: Kubernetes has it, kvcore does not")
    return wrong
