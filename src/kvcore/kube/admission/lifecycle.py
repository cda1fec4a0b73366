# SPDX-License-Identifier: Apache-2.0
"""NamespaceLifecycle: nothing in namespaces that are not there, or are about to go.

    create, update in a namespace   cache ── missing? ──> store ── missing? ──> 404
    create                          terminating ──> 403, cause NamespaceTerminating
    delete of a namespace           default, kube-system, kube-public ──> 403

After a namespace was deleted through this server its state is read from the store for 30 s, since
the cache may still call it active. Thread safety: the server's event loop.
Source: apiserver admission/plugin/namespace/lifecycle.
"""

from __future__ import annotations

from kvcore.kube import status
from kvcore.kube.admission.chain import forbidden
from kvcore.kube.admission.lookups import Lister
from kvcore.kube.call import Call, Object

__all__ = ["IMMORTAL", "NamespaceLifecycle"]

IMMORTAL = frozenset({"default", "kube-system", "kube-public"})
LIVE_SECONDS = 30.0
LIVE_MAX = 100                           # namespaces remembered as lately deleted
UNCHECKED = frozenset({"localsubjectaccessreviews.authorization.k8s.io"})


class NamespaceLifecycle:
    name = "NamespaceLifecycle"
    operations = frozenset({"CREATE", "UPDATE", "DELETE"})

    def __init__(self) -> None:
        self._namespaces = Lister("", "v1", "namespaces")
        self._deleted: dict[str, float] = {}

    def admit(self, call: Call) -> None:
        resource = call.resource
        if resource.kind == "Namespace" and not resource.group:
            if call.operation == "DELETE":
                self._delete(call)
            return
        if not call.namespace or call.operation == "DELETE":
            return
        if resource.qualified in UNCHECKED:
            return
        namespace = self._find(call)
        if call.operation == "CREATE" and terminating(namespace):
            text = f"namespace {call.namespace} is being terminated"
            raise forbidden(
                call, f"unable to create new content in namespace {call.namespace} because it is "
                "being terminated",
                [status.Cause("metadata.namespace", "NamespaceTerminating", text)])

    def _delete(self, call: Call) -> None:
        if call.name in IMMORTAL:
            raise status.forbidden(call.resource, call.name, "this namespace may not be deleted")
        now = call.api.clock()
        if len(self._deleted) >= LIVE_MAX:
            self._deleted = {n: until for n, until in self._deleted.items() if until > now}
            if len(self._deleted) >= LIVE_MAX:
                del self._deleted[next(iter(self._deleted))]
        self._deleted[call.name] = now + LIVE_SECONDS

    def _find(self, call: Call) -> Object:
        api, name = call.api, call.namespace
        found = self._namespaces.get(api, "", name)
        if found is not None and not self._deleted:
            return found
        if found is None or self._deleted.get(name, 0.0) > api.clock():
            found = self._namespaces.live(api, "", name)
            if found is None:
                resource = self._namespaces.resource
                raise status.not_found(resource, name) if resource else status.no_such_path()
        return found


def terminating(namespace: Object) -> bool:
    """Whether it is about to go: upstream sets the phase when it sets the deletion's time."""
    phase = (namespace.get("status") or {}).get("phase")
    return phase == "Terminating" or "deletionTimestamp" in namespace["metadata"]
