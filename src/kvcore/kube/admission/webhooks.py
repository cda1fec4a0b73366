# SPDX-License-Identifier: Apache-2.0
"""MutatingAdmissionWebhook and ValidatingAdmissionWebhook.

    mutating     one after another, by configuration and place in it; each sees what the one before
                 made of the object. A change makes all plugins run once more; a webhook is then
                 asked again if its reinvocationPolicy is IfNeeded and the object has changed since.
    validating   all at once; the first to refuse is what the client is told

    allowed ──> go on        denied ──> its Status: admission webhook "x" denied the request: ...
    failed  ──> failurePolicy Ignore: go on; Fail: 500 failed calling webhook "x": ...

Webhook configurations themselves are admitted without being asked about, so that a bad one can be
taken back. With dryRun only webhooks without side effects are asked; others refuse with 400.
Named invariants: **others go on**: a webhook that hangs holds up the requests it matches, until its
timeoutSeconds, and nothing else; **one object**: a patch is applied to a copy, which becomes the
object only if it is still the same kind, in the same namespace.
Thread safety: the server's event loop. Source: apiserver admission/plugin/webhook.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import orjson

from kvcore.kube import rfc6902, status
from kvcore.kube.admission.chain import ALL_OPERATIONS, review
from kvcore.kube.admission.lookups import Derived, Lister
from kvcore.kube.admission.webhook_client import (
    CallFailed,
    Client,
    Resolver,
    Verdict,
    no_object,
    no_such_kind,
)
from kvcore.kube.admission.webhook_match import EXEMPT_GROUP, Webhook, hooks_of
from kvcore.kube.call import Call, Object
from kvcore.kube.defaults import apply_defaults
from kvcore.kube.fields import IllTyped, ok, settle
from kvcore.kube.gojson import json_type, syntax_problem
from kvcore.kube.schema import type_of_kind

if TYPE_CHECKING:
    from kvcore.kube.api import Api

__all__ = ["MutatingAdmissionWebhook", "ValidatingAdmissionWebhook", "patched"]

_log = logging.getLogger("kvcore.kube.admission")

class _Webhooks:
    """What both have: the webhooks in force, and whom to ask."""

    operations = ALL_OPERATIONS

    def __init__(self, plural: str, resolve: Resolver | None = None) -> None:
        self.namespaces = Lister("", "v1", "namespaces")
        self._services = Lister("", "v1", "services")
        self._hooks = Derived(Lister(EXEMPT_GROUP, "v1", plural), hooks_of)
        self._api: Api | None = None
        self.client = Client(resolve or self._service)

    async def stop(self) -> None:
        await self.client.stop()

    def about(self, call: Call) -> list[Webhook]:
        """The webhooks of which a rule matches."""
        hooks = self._hooks.get(call.api)
        if not hooks or call.resource.group == EXEMPT_GROUP:
            return []
        self._api = call.api
        return [hook for hook in hooks if hook.about(call)]

    async def _service(self, namespace: str, name: str, port: int) -> tuple[str, int]:
        """A Service's cluster IP or external name: what a host in the cluster's network reaches."""
        assert self._api is not None
        found = self._services.live(self._api, namespace, name)
        if found is None:
            raise LookupError(f'service "{name}" not found')
        spec = found.get("spec") or {}
        if spec.get("type") == "ExternalName":
            return str(spec.get("externalName") or ""), port
        address = spec.get("clusterIP") or ""
        if address in ("", "None"):
            raise LookupError(f'no endpoints available for service "{name}"')
        return str(address), port

    async def ask(self, hook: Webhook, call: Call, index: int, *,
                  mutating: bool) -> tuple[Verdict | None, status.ApiError | None]:
        """The verdict, or what to refuse with; neither: it failed and is ignored."""
        if call.options.dry_run and hook.side_effects not in ("None", "NoneOnDryRun"):
            return None, status.bad_request(
                f'admission webhook "{hook.name}" does not support dry run')
        try:
            verdict = await self.client.ask(hook, call, mutating=mutating)
        except CallFailed as failed:
            return None, self.failed(hook, call, index, failed, mutating=mutating)
        for key, value in verdict.annotations.items():
            review(call).annotations[f"{hook.name}/{key}"] = value
        for text in filter(None, verdict.warnings):
            call.warn(text)
        return verdict, None if verdict.allowed else denied(hook.name, verdict.status)

    def failed(self, hook: Webhook, call: Call, index: int, why: CallFailed, *,
               mutating: bool) -> status.ApiError | None:
        """As its failurePolicy says."""
        said = f'failed calling webhook "{hook.name}": {why}'
        _log.warning("%s (%s)", said, "ignored" if hook.ignore else "refused")
        if not hook.ignore:
            return status.internal(said)
        phase = "mutation" if mutating else "validating"
        review(call).annotations[f"failed-open.{phase}.webhook.admission.k8s.io/"
                                 f"round_{review(call).round}_index_{index}"] = hook.name
        return None


def denied(name: str, said: Object) -> status.ApiError:
    """A webhook's refusal: its own Status, with who it was in front of its message."""
    code = said.get("code")
    code = code if isinstance(code, int) and 400 <= code <= 599 else 400
    reason, message = str(said.get("reason") or ""), str(said.get("message") or "")
    who = f'admission webhook "{name}" denied the request'
    details = said.get("details")
    return status.ApiError(
        code, reason,
        f"{who}: {message or reason}" if message or reason else f"{who} without explanation",
        details if isinstance(details, dict) else None)


# --- mutating ------------------------------------------------------------------------------------

class Invoked:
    """What is remembered between the two rounds of a request."""

    def __init__(self) -> None:
        self.output = b""                        # the object as the last round left it
        self.reinvocable: set[str] = set()       # asked, and may be asked again
        self.again: set[str] = set()             # to be asked in the second round

    def changed(self) -> None:
        self.again |= self.reinvocable
        self.reinvocable = set()


class MutatingAdmissionWebhook(_Webhooks):
    """Args: resolve: the address of a Service (its cluster IP, if none is given)."""

    name = "MutatingAdmissionWebhook"

    def __init__(self, resolve: Resolver | None = None) -> None:
        super().__init__("mutatingwebhookconfigurations", resolve)

    def admit(self, call: Call) -> Awaitable[None] | None:
        hooks = self.about(call)
        return self._dispatch(call, hooks) if hooks else None

    async def _dispatch(self, call: Call, hooks: list[Webhook]) -> None:
        own = review(call)
        invoked: Invoked = own.values.setdefault(self.name, Invoked())
        if own.round and invoked.output != snapshot(call.object):
            invoked.changed()
        for index, hook in enumerate(hooks):
            if not hook.matches(call, self.namespaces):
                continue
            if own.round and hook.uid not in invoked.again:
                continue
            changed = await self._one(hook, call, index)
            if changed:
                invoked.changed()
                own.again = own.round == 0
            if hook.reinvoke:
                invoked.reinvocable.add(hook.uid)
        invoked.output = snapshot(call.object)

    async def _one(self, hook: Webhook, call: Call, index: int) -> bool:
        """Whether it changed the object. Errors: ApiError."""
        verdict, refusal = await self.ask(hook, call, index, mutating=True)
        if refusal is not None:
            raise refusal
        changed = False
        if verdict is not None and verdict.patch:
            try:
                new = patched(call.object if call.operation != "DELETE" else None, verdict,
                              hook.name)
            except CallFailed as failed:
                wrong = self.failed(hook, call, index, failed, mutating=True)
                if wrong is not None:
                    raise wrong from None
                return False
            check_same(call, new)
            apply_defaults(new)
            changed = new != call.object
            call.object = new
        key = f"round_{review(call).round}_index_{index}"
        review(call).annotations[f"mutation.webhook.admission.k8s.io/{key}"] = orjson.dumps({
            "configuration": hook.configuration, "webhook": hook.name,
            "mutated": changed}).decode()
        return changed


def snapshot(obj: Object) -> bytes:
    return orjson.dumps(obj, option=orjson.OPT_SORT_KEYS)


def patched(obj: Object | None, verdict: Verdict, name: str) -> Object:
    """A copy of the object with a JSON patch applied.

    Errors: CallFailed when the patch cannot be read; 500 when it does not apply.
    """
    operations = operations_of(verdict.patch)
    if not operations and obj is not None:
        return obj
    if obj is None:
        raise status.internal(f'admission webhook "{name}" attempted to modify the object, which '
                              "is not supported for this operation")
    if verdict.patch_type != "JSONPatch":
        raise CallFailed(f'unsupported patch type "{verdict.patch_type}"')
    try:
        new: Object = rfc6902.apply(orjson.loads(orjson.dumps(obj)), operations)
    except rfc6902.Misfit as error:
        raise status.internal(str(error)) from None
    return new


def operations_of(patch: bytes) -> list[Object | None]:
    """What a patch consists of. Errors: CallFailed."""
    said, wrong = "received undecodable patch in webhook response: ", "json: cannot unmarshal {} " \
        "into Go value of type jsonpatch.{}"
    try:
        operations = orjson.loads(patch)
    except orjson.JSONDecodeError:
        raise CallFailed(f"{said}{syntax_problem(patch)}") from None
    if operations is None:
        return []
    if not isinstance(operations, list):
        raise CallFailed(said + wrong.format(json_type(operations), "Patch"))
    for operation in operations:
        if not isinstance(operation, dict) and operation is not None:
            raise CallFailed(said + wrong.format(json_type(operation), "Operation"))
    return operations


def check_same(call: Call, new: Any) -> None:
    """A patched object is still of its kind and in its namespace; what its fields cannot hold is
    refused, and what is no field of it is dropped. Errors: ApiError."""
    resource = call.resource
    if not isinstance(new, dict):
        raise status.internal(no_object(new))
    shown = call.shown
    version, kind = new.get("apiVersion") or shown[0], new.get("kind") or shown[1]
    if (version, kind) != shown:
        version, kind = str(version), str(kind)
        if call.api.resources.of_kind(version, kind) is None:
            raise status.internal(no_such_kind(version, kind))
        own = shown[0].rpartition("/")[0].partition(".")[0] or "core"
        raise status.ApiError(500, "", f"converting ({version.rpartition('/')[2]}.{kind}) to "
                              f"({own}.{shown[1]}): unknown conversion")
    new["apiVersion"], new["kind"] = version, kind
    settled(version, kind, new)
    metadata = new.setdefault("metadata", {})
    said = metadata.get("namespace")
    if resource.namespaced and said != call.namespace and (said or call.operation != "CREATE"):
        raise status.bad_request("the namespace of the provided object does not match the "
                                 "namespace sent on the request")


def settled(version: str, kind: str, obj: Object) -> None:
    """As a decoder would have made it. Errors: 500."""
    name = type_of_kind(version, kind)
    if name is None or ok(name)(obj):
        return
    try:
        settle(name, obj)
    except IllTyped as error:
        raise status.internal(str(error)) from None


# --- validating ----------------------------------------------------------------------------------

class ValidatingAdmissionWebhook(_Webhooks):
    """Args: resolve: the address of a Service (its cluster IP, if none is given)."""

    name = "ValidatingAdmissionWebhook"

    def __init__(self, resolve: Resolver | None = None) -> None:
        super().__init__("validatingwebhookconfigurations", resolve)

    def validate(self, call: Call) -> Awaitable[None] | None:
        hooks = [hook for hook in self.about(call) if hook.matches(call, self.namespaces)]
        return self._dispatch(call, hooks) if hooks else None

    async def _dispatch(self, call: Call, hooks: list[Webhook]) -> None:
        refusals: list[status.ApiError] = []

        async def one(index: int, hook: Webhook) -> None:
            _, refusal = await self.ask(hook, call, index, mutating=False)
            if refusal is not None:
                refusals.append(refusal)

        await asyncio.gather(*(one(index, hook) for index, hook in enumerate(hooks)))
        if refusals:
            raise refusals[0]
