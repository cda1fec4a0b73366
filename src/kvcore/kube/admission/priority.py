# SPDX-License-Identifier: Apache-2.0
"""Priority: a pod's class becomes its number; there is one default class at most.

    pod created        priorityClassName ──> priority, preemptionPolicy
                       none named: the default class, or else 0 and PreemptLowerPriority
    pod updated        what was computed stays when the update leaves it out
    class written      a second one with globalDefault is refused

The two system classes are known even before somebody stored them. Thread safety: the server's event
loop. Source: kubernetes plugin/pkg/admission/priority, pkg/apis/scheduling.
"""

from __future__ import annotations

from kvcore.kube.admission.chain import WRITES, forbidden
from kvcore.kube.admission.lookups import Derived, Lister
from kvcore.kube.call import Call, Object

__all__ = ["SYSTEM_CLASSES", "Priority"]

SYSTEM_CLASSES: dict[str, Object] = {
    "system-node-critical": {"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000},
    "system-cluster-critical": {"metadata": {"name": "system-cluster-critical"},
                                "value": 2_000_000_000},
}
POLICY = "PreemptLowerPriority"                 # upstream's default of a class without one
NO_DEFAULT: Object = {"value": 0, "preemptionPolicy": POLICY}


class Priority:
    name = "Priority"
    operations = WRITES

    def __init__(self) -> None:
        self._classes = Lister("scheduling.k8s.io", "v1", "priorityclasses")
        self._default = Derived(self._classes, default_class)

    def admit(self, call: Call) -> None:
        if call.resource.qualified != "pods" or call.target.subresource:
            return
        spec = call.object.get("spec")
        if not isinstance(spec, dict):
            return
        if call.operation == "UPDATE":
            before = (call.old or {}).get("spec") or {}
            for field in ("priority", "preemptionPolicy"):
                if spec.get(field) is None and before.get(field) is not None:
                    spec[field] = before[field]
            return
        found = self._class(call, spec.get("priorityClassName") or "")
        if "metadata" in found:
            spec["priorityClassName"] = found["metadata"]["name"]
        self._set(call, spec, found)

    def _class(self, call: Call, name: str) -> Object:
        if not name:
            return self._default.get(call.api) or NO_DEFAULT
        found = self._classes.get(call.api, "", name) or SYSTEM_CLASSES.get(name)
        if found is None:
            raise forbidden(call, f"no PriorityClass with name {name} was found")
        return found

    def _set(self, call: Call, spec: Object, found: Object) -> None:
        value, asked = found.get("value") or 0, spec.get("priority")
        if asked is not None and asked != value:
            raise forbidden(
                call, f"the integer value of priority ({asked}) must not be provided in pod spec; "
                f"priority admission controller computed {value} from the given PriorityClass name")
        spec["priority"] = value
        policy, asked = found.get("preemptionPolicy") or POLICY, spec.get("preemptionPolicy")
        if asked is not None and asked != policy:
            raise forbidden(
                call, f"the string value of PreemptionPolicy ({asked}) must not be provided in pod "
                f"spec; priority admission controller computed {policy} from the given "
                "PriorityClass name")
        spec["preemptionPolicy"] = policy

    def validate(self, call: Call) -> None:
        if call.resource.qualified != "priorityclasses.scheduling.k8s.io" \
                or call.target.subresource or call.object.get("globalDefault") is not True:
            return
        default = self._default.get(call.api)
        if default is None:
            return
        name = default["metadata"]["name"]
        if call.operation == "CREATE" or name != call.object["metadata"].get("name"):
            raise forbidden(call, f"PriorityClass {name} is already marked as default. Only one "
                            "default can exist")


def default_class(classes: tuple[Object, ...]) -> Object | None:
    """The class marked as default; should there be several, the least of them."""
    marked = [each for each in classes if each.get("globalDefault") is True]
    return min(marked, key=lambda each: int(each.get("value") or 0), default=None)
