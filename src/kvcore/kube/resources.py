# SPDX-License-Identifier: Apache-2.0
"""The built-in kinds: one row each, and no code per kind.

    group/version/plural ──> Resource ──> scope, names, subresources, storage key

A row says what discovery says of it, and what the server must know to store it. Behaviour that
only some kinds have (defaults, validation, selectable fields) is found elsewhere under the row's
kind.

Not served, though GA: autoscaling/v1 and events.k8s.io/v1 (second versions of kinds that are
here; nothing converts), apiregistration, resource.k8s.io, flowcontrol and admission policies
(stored, they would promise what nobody does), servicecidrs and ipaddresses (nobody gives out
addresses). Custom resources and reviews come with their own code.
Source: the discovery documents of Kubernetes 1.36, GA versions only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

__all__ = ["BUILT_IN", "Resource", "Resources"]


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """One served resource, equal to itself only. `stored`: the last parts of its key in upstream's
    layout, where they differ from the plural; `names`: the rule of kvcore.kube.meta.name_problem.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    names: str = "subdomain"
    stored: str = ""
    verbs: tuple[str, ...] = ("create", "delete", "deletecollection", "get", "list", "patch",
                              "update", "watch")
    categories: tuple[str, ...] = ()
    qualified: str = field(init=False)         # "pods", "deployments.apps": as errors name it
    api_version: str = field(init=False)       # "v1", "apps/v1"

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "qualified", f"{self.plural}.{self.group}" if self.group else self.plural)
        put(self, "api_version", f"{self.group}/{self.version}" if self.group else self.version)


def _core() -> Iterator[Resource]:
    def row(plural: str, kind: str, *more: object, **rest: object) -> Resource:
        return Resource("", "v1", plural, kind, *more, **rest)  # type: ignore[arg-type]

    every = ("all",)
    yield row("bindings", "Binding", verbs=("create",))
    yield row("configmaps", "ConfigMap", short=("cm",))
    yield row("endpoints", "Endpoints", short=("ep",), stored="services/endpoints")
    yield row("events", "Event", short=("ev",), names="path")
    yield row("limitranges", "LimitRange", short=("limits",))
    yield row("namespaces", "Namespace", False, ("ns",), ("status", "finalize"), "label",
              verbs=("create", "delete", "get", "list", "patch", "update", "watch"))
    yield row("nodes", "Node", False, ("no",), ("status",), stored="minions")
    yield row("persistentvolumeclaims", "PersistentVolumeClaim", True, ("pvc",), ("status",))
    yield row("persistentvolumes", "PersistentVolume", False, ("pv",), ("status",))
    yield row("pods", "Pod", True, ("po",), ("status", "binding", "eviction"), categories=every)
    yield row("podtemplates", "PodTemplate")
    yield row("replicationcontrollers", "ReplicationController", True, ("rc",),
              ("status", "scale"), stored="controllers", categories=every)
    yield row("resourcequotas", "ResourceQuota", True, ("quota",), ("status",))
    yield row("secrets", "Secret")
    yield row("serviceaccounts", "ServiceAccount", True, ("sa",), ("token",))
    yield row("services", "Service", True, ("svc",), ("status",), "label",
              stored="services/specs", categories=every)


def _grouped() -> Iterator[Resource]:
    def rows(group: str, version: str, *table: tuple[object, ...]) -> Iterator[Resource]:
        for plural, kind, *more in table:
            yield Resource(group, version, plural, kind, *more)  # type: ignore[arg-type]

    scaled, status = ("status", "scale"), ("status",)
    yield from rows("apps", "v1",
                    ("controllerrevisions", "ControllerRevision"),
                    ("daemonsets", "DaemonSet", True, ("ds",), status),
                    ("deployments", "Deployment", True, ("deploy",), scaled),
                    ("replicasets", "ReplicaSet", True, ("rs",), scaled),
                    ("statefulsets", "StatefulSet", True, ("sts",), scaled, "label"))
    yield from rows("batch", "v1",
                    ("cronjobs", "CronJob", True, ("cj",), status),
                    ("jobs", "Job", True, (), status))
    yield from rows("autoscaling", "v2",
                    ("horizontalpodautoscalers", "HorizontalPodAutoscaler", True, ("hpa",),
                     status))
    yield from rows("policy", "v1",
                    ("poddisruptionbudgets", "PodDisruptionBudget", True, ("pdb",), status,
                     "path"))
    yield from rows("networking.k8s.io", "v1",
                    ("ingresses", "Ingress", True, ("ing",), status, "subdomain", "ingress"),
                    ("ingressclasses", "IngressClass", False),
                    ("networkpolicies", "NetworkPolicy", True, ("netpol",)))
    yield from rows("discovery.k8s.io", "v1", ("endpointslices", "EndpointSlice"))
    yield from rows("coordination.k8s.io", "v1", ("leases", "Lease"))
    yield from rows("scheduling.k8s.io", "v1",
                    ("priorityclasses", "PriorityClass", False, ("pc",)))
    yield from rows("node.k8s.io", "v1", ("runtimeclasses", "RuntimeClass", False))
    yield from rows("storage.k8s.io", "v1",
                    ("csidrivers", "CSIDriver", False), ("csinodes", "CSINode", False),
                    ("csistoragecapacities", "CSIStorageCapacity"),
                    ("storageclasses", "StorageClass", False, ("sc",)),
                    ("volumeattachments", "VolumeAttachment", False, (), status),
                    ("volumeattributesclasses", "VolumeAttributesClass", False, ("vac",)))
    yield from rows("rbac.authorization.k8s.io", "v1",
                    ("clusterrolebindings", "ClusterRoleBinding", False, (), (), "path"),
                    ("clusterroles", "ClusterRole", False, (), (), "path"),
                    ("rolebindings", "RoleBinding", True, (), (), "path"),
                    ("roles", "Role", True, (), (), "path"))
    yield from rows("admissionregistration.k8s.io", "v1",
                    ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration", False),
                    ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration", False))
    yield from rows("certificates.k8s.io", "v1",
                    ("certificatesigningrequests", "CertificateSigningRequest", False, ("csr",),
                     ("status", "approval"), "path"))


BUILT_IN: tuple[Resource, ...] = (*_core(), *_grouped())


class Resources:
    """The resources a server serves, found by path or by kind. New ones may be added while it
    runs (custom resources, later).

    >>> Resources().of_path("apps", "v1", "deployments").kind
    'Deployment'
    """

    def __init__(self, table: Iterable[Resource] = BUILT_IN) -> None:
        self._by_path: dict[tuple[str, str, str], Resource] = {}
        self._by_kind: dict[tuple[str, str], Resource] = {}
        for resource in table:
            self.add(resource)

    def add(self, resource: Resource) -> None:
        self._by_path[resource.group, resource.version, resource.plural] = resource
        self._by_kind[resource.api_version, resource.kind] = resource

    def of_path(self, group: str, version: str, plural: str) -> Resource | None:
        return self._by_path.get((group, version, plural))

    def of_kind(self, api_version: str, kind: str) -> Resource | None:
        return self._by_kind.get((api_version, kind))

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._by_path.values())

    def __len__(self) -> int:
        return len(self._by_path)
