# SPDX-License-Identifier: Apache-2.0
"""Parts of objects with verbs of their own.

    status, approval, finalize   PUT, PATCH of the object through a view         changing.py
    scale                        an autoscaling/v1 Scale, read from and written to spec.replicas
    pods/x/binding, bindings     POST: the pod is given to a node, once
    pods/x/eviction              POST: a delete, if no disruption budget is against it

`SUBRESOURCES` says which verbs each has; which resources have it is in their rows (resources.py).
Source: kubernetes pkg/registry/core/pod/storage (storage.go, eviction.go), pkg/registry/apps.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson

from kvcore.kube import changing, meta, status, views
from kvcore.kube.caching import Blame, damage
from kvcore.kube.call import Call, Object
from kvcore.kube.changing import View
from kvcore.kube.codec import object_of
from kvcore.kube.create import check_kind, check_named, check_namespace
from kvcore.kube.decode import decode_body
from kvcore.kube.deletion import DeleteOptions, delete_object
from kvcore.kube.entry import why_damaged
from kvcore.kube.gojson import json_type
from kvcore.kube.reading import get
from kvcore.kube.request import Answer
from kvcore.kube.selectors import Requirement
from kvcore.kube.status import ApiError, Cause
from kvcore.kube.storage import Changed
from kvcore.kube.validation import check_fields

__all__ = ["SUBRESOURCES", "bind", "evict"]

Verb = Callable[[Call], Awaitable[Answer]]


# --- scale ----------------------------------------------------------------------------------------

def scale_of(obj: Object) -> Object:
    """The Scale of an object that has replicas.

    >>> scale_of({"metadata": {"name": "d", "namespace": "n", "uid": "u"},
    ...           "spec": {"replicas": 2}})["spec"]
    {'replicas': 2}
    """
    metadata, spec, now = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    seen: Object = {part: metadata[part] for part in ("name", "namespace", "uid", "resourceVersion",
                                                      "creationTimestamp") if part in metadata}
    replicas = spec.get("replicas")
    wanted = {"replicas": replicas} if replicas else {}
    state: Object = {"replicas": now.get("replicas") or 0}
    selector = selector_text(spec.get("selector"))
    if selector:
        state["selector"] = selector
    return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": seen, "spec": wanted,
            "status": state}


def selector_text(selector: Any) -> str:
    """A selector of an object in the words of a query, sorted.

    >>> selector_text({"matchLabels": {"b": "1", "a": "2"},
    ...                "matchExpressions": [{"key": "c", "operator": "Exists"}]})
    'a=2,b=1,c'
    """
    if not isinstance(selector, dict):
        return ""
    if not ("matchLabels" in selector or "matchExpressions" in selector):
        selector = {"matchLabels": selector}               # of a ReplicationController
    words = [(key, f"{key}={value}") for key, value in (selector.get("matchLabels") or {}).items()]
    for wanted in selector.get("matchExpressions") or ():
        key, listed = wanted["key"], ",".join(sorted(wanted.get("values") or ()))
        words.append((key, {"In": f"{key} in ({listed})", "NotIn": f"{key} notin ({listed})",
                            "Exists": key, "DoesNotExist": f"!{key}"}[wanted["operator"]]))
    return ",".join(text for _, text in sorted(words, key=lambda word: word[0]))


def _scaled(scale: Object, old: Object) -> Object:
    made: Object = orjson.loads(orjson.dumps(old))
    made.setdefault("spec", {})["replicas"] = (scale.get("spec") or {}).get("replicas") or 0
    sent = scale["metadata"].get("resourceVersion")
    if sent:
        made["metadata"]["resourceVersion"] = sent
    return views.whole(made, old)


def _check_scale(scale: Object, stored: Object) -> list[Cause]:
    replicas = (scale.get("spec") or {}).get("replicas") or 0
    if replicas < 0:
        return [Cause.invalid("spec.replicas", replicas, "must be greater than or equal to 0")]
    return []


INT32 = 2 ** 31


def _typed_scale(scale: Object) -> None:
    """Errors: 400 for replicas that are no number of 32 bits."""
    for part in ("spec", "status"):
        value = scale.get(part)
        if value is not None and not isinstance(value, dict):
            raise _cannot("Scale", "autoscaling/v1", value, part, "object")
    spec = scale.get("spec")
    replicas = spec.get("replicas") if isinstance(spec, dict) else spec
    if replicas is not None and not (type(replicas) is int and -INT32 <= replicas < INT32):
        named = json_type(replicas)
        if named == "number":
            named += f" {replicas}"
        raise status.bad_request('Scale in version "v1" cannot be handled as a Scale: json: cannot '
                                 f"unmarshal {named} into Go struct field ScaleSpec.spec.replicas "
                                 "of type int32")


changing.VIEWS["scale"] = View(scale_of, _scaled, "autoscaling/v1", "Scale", _check_scale,
                               _typed_scale)


async def get_scale(call: Call) -> Answer:
    answer = await get(call)
    return Answer(200, orjson.dumps(scale_of(orjson.loads(answer.body))))


# --- bindings -------------------------------------------------------------------------------------

async def bind(call: Call) -> Answer:
    """POST of a Binding: the pod is on that node from now on. Returns: 201 and a Status.

    Errors: 409 when it is on a node already, is being deleted, or is another pod (uid).
    """
    binding = _sent(call, "v1", "Binding")
    metadata, target = binding["metadata"], binding.get("target") or {}
    name, node = metadata.get("name") or "", target.get("name") or ""
    if call.resource.kind == "Pod" and name != call.name:
        raise status.bad_request("name in URL does not match name in Binding object")
    pods = call.api.resources.of_path("", "v1", "pods")
    assert pods is not None
    wrong = []
    if target.get("kind") not in (None, "", "Node"):
        wrong.append(f'target.kind: Unsupported value: {status.shown(target["kind"])}: supported '
                     'values: "Node", "<empty>"')
    if not node:
        wrong.append("target.name: Required value")
    if wrong:
        raise ApiError(500, "", wrong[0] if len(wrong) == 1 else f"[{', '.join(wrong)}]")
    meta.check_segment(name)
    await _admit(call)
    binding = call.object                      # admission may have made another one of it
    node = (binding.get("target") or {}).get("name") or node
    pod = replace(call, resource=pods, name=name)
    pod.key = call.api.layout.key(pods, call.namespace, name)
    await _rewrite(pod, lambda stored: _bound(pod, stored, binding, node))
    call.revision = pod.revision
    return Answer(201, status.success(201))


def _bound(call: Call, pod: Object, binding: Object, node: str) -> None:
    """The stored pod on its node. Errors: 409."""
    metadata, wanted = pod["metadata"], binding["metadata"]
    uid, sent = wanted.get("uid"), wanted.get("resourceVersion")
    if uid and uid != metadata.get("uid", ""):
        raise status.conflict(call.resource, call.name, status.store_precondition(
            call.key, uid, metadata.get("uid", "")))
    if sent and sent != metadata["resourceVersion"]:
        raise status.conflict(call.resource, call.name, status.store_precondition(
            call.key, sent, metadata["resourceVersion"], "ResourceVersion"))
    spec = pod.setdefault("spec", {})
    why = ""
    if "deletionTimestamp" in metadata:
        why = f"pod {call.name} is being deleted, cannot be assigned to a host"
    elif spec.get("nodeName"):
        why = f'pod {call.name} is already assigned to node "{spec["nodeName"]}"'
    elif spec.get("schedulingGates"):
        why = f"pod {call.name} has non-empty .spec.schedulingGates"
    if why:
        raise ApiError(409, "Conflict", "Operation cannot be fulfilled on pods/binding "
                       f'"{call.name}": {why}', {"name": call.name, "kind": "pods/binding"})
    spec["nodeName"] = node
    for part in ("annotations", "labels"):
        if wanted.get(part):
            metadata[part] = {**(metadata.get(part) or {}), **wanted[part]}
    state = pod.setdefault("status", {})
    state.pop("nominatedNodeName", None)
    set_condition(state, call, {"type": "PodScheduled", "status": "True"})


def set_condition(state: Object, call: Call, condition: Object) -> None:
    """Puts a condition into a status; its time is that of the last change of its `status`."""
    conditions = state.setdefault("conditions", [])
    condition = {"lastProbeTime": None, "lastTransitionTime": meta.rfc3339(call.api.now()),
                 **condition}
    for at, there in enumerate(conditions):
        if there.get("type") == condition["type"]:
            if there.get("status") == condition["status"]:
                condition["lastTransitionTime"] = there.get("lastTransitionTime")
            conditions[at] = condition
            return
    conditions.append(condition)


def _sent(call: Call, api_version: str, kind: str) -> Object:
    """The body of a POST to a subresource. Errors: 400."""
    if not call.object:
        call.object = decode_body(call.request.body, call.request.headers.get("content-type", ""),
                                  kind)
    check_named(call, call.object, kind)
    check_kind(call, call.object, api_version, kind)
    # a binding's labels and annotations become the pod's
    check_fields(replace(call, resource=call.api.resources.of_kind(api_version, kind)
                         or call.resource))
    metadata = call.object["metadata"]
    check_namespace(call, metadata.get("namespace") or "")
    for holder, part in ((call.object, "target"), (call.object, "deleteOptions"),
                         (metadata, "labels"), (metadata, "annotations")):
        value = holder.get(part)
        if value is not None and not isinstance(value, dict):
            raise _cannot(kind, api_version, value, part, "object")
    for part in ("kind", "name"):
        value = (call.object.get("target") or {}).get(part)
        if value is not None and not isinstance(value, str):
            raise _cannot(kind, api_version, value, f"target.{part}", "string")
    metadata["namespace"] = call.namespace
    return call.object


def _cannot(kind: str, api_version: str, value: Any, field: str, wanted: str) -> ApiError:
    version = api_version.rpartition("/")[2]
    return status.bad_request(f'{kind} in version "{version}" cannot be handled as a {kind}: json: '
                              f"cannot unmarshal {json_type(value)} into Go struct field "
                              f"{kind}.{field} of type {wanted}")


async def _admit(call: Call) -> None:
    for chain in (call.api.admission.mutate, call.api.admission.validate):
        waiting = chain(call)
        if waiting is not None:
            await waiting


async def _rewrite(call: Call, change: Callable[[Object], None]) -> None:
    """Reads, changes and replaces the call's object, again as long as others are faster.

    Errors: 404, what `change` raises.
    """
    api = call.api
    with Blame(api.store, call.key):
        while True:
            found = api.store.get(call.key)
            if found is None:
                raise status.not_found(call.resource, call.name)
            obj = object_of(found.value, found.mod_revision)
            change(obj)
            if call.options.dry_run:
                return
            stored = api.codec.encode(obj)
            if stored == found.value:
                call.revision = 0
                return
            try:
                call.revision = await api.objects.replace(call.key, stored, found.mod_revision)
                break
            except Changed:
                continue
    await api.feed.reach(call.revision, mine=True)


# --- evictions ------------------------------------------------------------------------------------

async def evict(call: Call) -> Answer:
    """POST of an Eviction: deletes the pod, if its disruption budget allows it, and says so in the
    budget's status. Returns: 201 and a Status. Errors: 429 when it does not."""
    eviction = _sent(call, "policy/v1", "Eviction")
    if eviction["metadata"].get("name") != call.name:
        raise status.bad_request("name in URL does not match name in Eviction object")
    options = DeleteOptions.of_object(eviction.get("deleteOptions") or {})
    options.dry_run = options.dry_run or call.options.dry_run
    await _admit(call)
    call.key = call.api.layout.key(call.resource, call.namespace, call.name)
    found = call.api.store.get(call.key)
    if found is None:
        raise status.not_found(call.resource, call.name)
    if why := why_damaged(found.value):       # before anything is written
        raise damage(call.key, why)
    pod = object_of(found.value, found.mod_revision)
    state = pod.get("status") or {}
    if not (state.get("phase") in ("Succeeded", "Failed", "Pending")
            or "deletionTimestamp" in pod["metadata"]):
        budget = _budget_of(call, pod)
        if budget is not None and not _unhealthy_may_go(state, budget):
            await _take_from(call, budget, options.dry_run)
    if not options.dry_run and "deletionTimestamp" not in pod["metadata"]:
        await _rewrite(call, lambda stored: _disrupted(call, stored, options))
        options.revision = None
    await delete_object(replace(call, object={}), options)
    return Answer(201, status.success(201))


def _disrupted(call: Call, pod: Object, options: DeleteOptions) -> None:
    metadata = pod["metadata"]
    if options.uid and options.uid != metadata.get("uid", ""):
        raise status.precondition(call.resource, call.name, "UID", options.uid,
                                  metadata.get("uid", ""))
    if options.revision and options.revision != metadata["resourceVersion"]:
        raise status.precondition(call.resource, call.name, "ResourceVersion", options.revision,
                                  metadata["resourceVersion"])
    set_condition(pod.setdefault("status", {}), call, {
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting"})


def _budget_of(call: Call, pod: Object) -> Call | None:
    """The one budget that selects the pod, as a call of its own with `old`. Errors: 500 for two."""
    api = call.api
    budgets = api.resources.of_path("policy", "v1", "poddisruptionbudgets")
    if budgets is None:
        return None
    labels, chosen = pod["metadata"].get("labels") or {}, []
    for found in api.store.range(prefix=api.layout.prefix(budgets, call.namespace)):
        with Blame(api.store, found.key):
            budget = object_of(found.value, found.mod_revision)
            if selects((budget.get("spec") or {}).get("selector"), labels):
                chosen.append(replace(call, resource=budgets, name=budget["metadata"]["name"],
                                      old=budget, key=found.key, object={}))
    if len(chosen) > 1:
        raise ApiError(500, "", "This pod has more than one PodDisruptionBudget, which the "
                       "eviction subresource does not support.")
    return chosen[0] if chosen else None


def selects(selector: Any, labels: dict[str, str]) -> bool:
    """Whether a selector of an object matches; none at all matches nothing, an empty one all."""
    if not isinstance(selector, dict):
        return False
    wanted = [Requirement(key, "in", (value,))
              for key, value in (selector.get("matchLabels") or {}).items()]
    wanted += [Requirement(e["key"], OPERATORS[e["operator"]], tuple(e.get("values") or ()))
               for e in selector.get("matchExpressions") or ()]
    return all(requirement.matches(labels) for requirement in wanted)


OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}


def _unhealthy_may_go(state: Object, budget: Call) -> bool:
    """A pod that is not ready counts for no budget, if its policy says so or the budget is met."""
    if any(c.get("type") == "Ready" and c.get("status") == "True"
           for c in state.get("conditions") or ()):
        return False
    assert budget.old is not None
    if budget.old["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    counted = budget.old.get("status") or {}
    desired = counted.get("desiredHealthy") or 0
    return desired > 0 and (counted.get("currentHealthy") or 0) >= desired


async def _take_from(call: Call, budget: Call, dry_run: bool) -> None:
    """One disruption less in the budget's status. Errors: 403, 429."""
    budget.options = replace(call.options, dry_run=dry_run)
    await _rewrite(budget, lambda stored: _decrement(call, stored))


def _decrement(call: Call, budget: Object) -> None:
    name = budget["metadata"]["name"]
    state = budget.setdefault("status", {})
    allowed = state.get("disruptionsAllowed") or 0
    if (state.get("observedGeneration") or 0) < (budget["metadata"].get("generation") or 0):
        raise _refused(f"The disruption budget {name} is still being processed by the server.", 10)
    if allowed < 0:
        raise ApiError(403, "Forbidden", f'poddisruptionbudget.policy "{name}" is forbidden: pdb '
                       "disruptions allowed is negative",
                       {"name": name, "group": "policy", "kind": "poddisruptionbudget"})
    if allowed == 0:
        desired, healthy = state.get("desiredHealthy") or 0, state.get("currentHealthy") or 0
        raise _refused(
            f"The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
            if healthy <= desired else
            f"The disruption budget {name} does not allow evicting pods currently", 0)
    state["disruptionsAllowed"] = allowed - 1
    state["disruptedPods"] = {**(state.get("disruptedPods") or {}),
                              call.name: meta.rfc3339(call.api.now())}


def _refused(why: str, seconds: int) -> ApiError:
    details: dict[str, Any] = {"causes": [{"reason": "DisruptionBudget", "message": why}]}
    if seconds:
        details["retryAfterSeconds"] = seconds
    return ApiError(429, "TooManyRequests",
                    "Cannot evict pod as it would violate the pod's disruption budget.", details)


READ_WRITE: dict[str, Verb] = {"get": get, "update": changing.update, "patch": changing.patch}
SUBRESOURCES: dict[str, dict[str, Verb]] = {
    "status": READ_WRITE,
    "approval": READ_WRITE,
    "finalize": {"update": changing.update},
    "scale": {**READ_WRITE, "get": get_scale},
    "binding": {"create": bind},
    "eviction": {"create": evict},
}
