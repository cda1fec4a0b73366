# SPDX-License-Identifier: Apache-2.0
"""Three plugins that fill something in or let everything (nothing) through.

    DefaultTolerationSeconds  a pod stays 300 s on a node that is not ready or not reachable
    DefaultStorageClass       a claim without a class takes the newest default class
    AlwaysAdmit, AlwaysDeny   for tests

Thread safety: the server's event loop. Sources: kubernetes plugin/pkg/admission
(defaulttolerationseconds, storage/storageclass/setdefault, admit, deny), pkg/volume/util.
"""

from __future__ import annotations

from kvcore.kube.admission.chain import ALL_OPERATIONS, WRITES, forbidden
from kvcore.kube.admission.lookups import Derived, Lister
from kvcore.kube.call import Call, Object

__all__ = ["AlwaysAdmit", "AlwaysDeny", "DefaultStorageClass", "DefaultTolerationSeconds"]

NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
DEFAULT_CLASS = ("storageclass.kubernetes.io/is-default-class",
                 "storageclass.beta.kubernetes.io/is-default-class")
CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"


class DefaultTolerationSeconds:
    """Args: not_ready, unreachable: seconds (--default-not-ready-toleration-seconds, ...)."""

    name = "DefaultTolerationSeconds"
    operations = WRITES

    def __init__(self, not_ready: int = 300, unreachable: int = 300) -> None:
        self.seconds = {NOT_READY: not_ready, UNREACHABLE: unreachable}

    def admit(self, call: Call) -> None:
        if call.resource.qualified != "pods" or call.target.subresource:
            return
        spec = call.object.get("spec")
        if not isinstance(spec, dict):
            return
        tolerations = spec.get("tolerations") or []
        missing = dict(self.seconds)
        for toleration in tolerations:
            if toleration.get("effect") in ("NoExecute", "", None):
                key = toleration.get("key")
                if not key:
                    return
                missing.pop(key, None)
        if missing:
            spec["tolerations"] = tolerations + [
                {"key": key, "operator": "Exists", "effect": "NoExecute",
                 "tolerationSeconds": seconds} for key, seconds in missing.items()]


class DefaultStorageClass:
    name = "DefaultStorageClass"
    operations = frozenset({"CREATE"})

    def __init__(self) -> None:
        self._default = Derived(Lister("storage.k8s.io", "v1", "storageclasses"), default_class)

    def admit(self, call: Call) -> None:
        if call.resource.qualified != "persistentvolumeclaims" or call.target.subresource:
            return
        annotations = call.object["metadata"].get("annotations") or {}
        spec = call.object.setdefault("spec", {})
        if CLASS_ANNOTATION in annotations or spec.get("storageClassName") is not None:
            return
        name = self._default.get(call.api)
        if name:
            spec["storageClassName"] = name


def default_class(classes: tuple[Object, ...]) -> str:
    """The name of the newest default class; of several made in one second the first by name."""
    found = ""
    newest = ""
    for each in classes:                                     # by name
        metadata = each["metadata"]
        annotations = metadata.get("annotations") or {}
        if any(annotations.get(key) == "true" for key in DEFAULT_CLASS):
            created = metadata.get("creationTimestamp") or ""
            if not found or created > newest:
                found, newest = metadata["name"], created
    return found


class AlwaysAdmit:
    name = "AlwaysAdmit"
    operations = ALL_OPERATIONS

    def admit(self, call: Call) -> None:
        """Nothing against it."""

    def validate(self, call: Call) -> None:
        """Nothing against it."""


class AlwaysDeny:
    name = "AlwaysDeny"
    operations = ALL_OPERATIONS

    def admit(self, call: Call) -> None:
        raise forbidden(call, "admission control is denying all modifications")

    validate = admit
