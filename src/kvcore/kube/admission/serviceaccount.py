# SPDX-License-Identifier: Apache-2.0
"""ServiceAccount: a pod has an account that exists, and its token where it expects it.

    pod created   serviceAccountName: "default" ──> the account (cache, store; default: a moment)
                  volume kube-api-access-xxxxx, mounted into every container that has none
                  imagePullSecrets of the account, unless the pod names some
    validate      mirror pods name no account and no secrets; annotated accounts: only their secrets

The "default" account of a new namespace is made by a controller, so it is waited for: ten looks,
100-200 ms apart. Thread safety: the server's event loop.
Source: kubernetes plugin/pkg/admission/serviceaccount.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from kvcore.kube import meta
from kvcore.kube.admission.chain import WRITES, forbidden
from kvcore.kube.admission.lookups import Lister
from kvcore.kube.call import Call, Object

__all__ = ["ServiceAccount"]

MIRROR = "kubernetes.io/config.mirror"
ENFORCE_SECRETS = "kubernetes.io/enforce-mountable-secrets"
VOLUME_PREFIX = "kube-api-access-"
MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_SECONDS = 3607
LOOKS = 10                                       # for the account "default"
# One a process (upstream: one a pod): it need only differ from a pod's other volumes, and pods made
# from one template stay equal.
_volume_name = meta.generate_name(VOLUME_PREFIX)


def token_volume(name: str) -> Object:
    """The projected volume: token, the cluster's certificate, the namespace."""
    return {"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt",
                       "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {
            "apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}}


class ServiceAccount:
    """Args: sleep: how it waits for a default account, for tests."""

    name = "ServiceAccount"
    operations = WRITES

    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._accounts = Lister("", "v1", "serviceaccounts")
        self._sleep = sleep

    def admit(self, call: Call) -> Awaitable[None] | None:
        if call.resource.qualified != "pods" or call.operation != "CREATE" \
                or call.target.subresource:
            return None
        spec = call.object.get("spec")
        if not isinstance(spec, dict):
            return None
        if is_mirror(call.object):
            self.validate(call)
            return None
        name = spec.get("serviceAccountName")
        if not name:
            name = spec["serviceAccountName"] = spec["serviceAccount"] = "default"
        account = self._find(call, name)
        if account is not None:
            self._equip(call, spec, account)
            return None
        if name != "default":
            raise missing(call, name)
        return self._wait(call, spec)

    def _find(self, call: Call, name: str) -> Object | None:
        return self._accounts.get(call.api, call.namespace, name) \
            or self._accounts.live(call.api, call.namespace, name)

    async def _wait(self, call: Call, spec: Object) -> None:
        pause = random.uniform(0.1, 0.2)
        for _ in range(LOOKS - 1):
            await self._sleep(pause)
            account = self._find(call, "default")
            if account is not None:
                self._equip(call, spec, account)
                return
        raise missing(call, "default")

    def _equip(self, call: Call, spec: Object, account: Object) -> None:
        automount = spec.get("automountServiceAccountToken")
        if automount is None:
            automount = account.get("automountServiceAccountToken")
        if automount is not False:
            mount_token(spec)
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = [{"name": secret.get("name", "")}
                                        for secret in account["imagePullSecrets"]]
        self._limit(call, spec, account)

    def validate(self, call: Call) -> None:
        if call.resource.qualified != "pods":
            return
        spec = call.object.get("spec") or {}
        if call.target.subresource == "ephemeralcontainers" and call.operation == "UPDATE":
            account = self._account(call, spec)
            if enforces_secrets(account):
                refuse_secrets(call, account, (("ephemeral container", c) for c in
                                               spec.get("ephemeralContainers") or ()))
            return
        if call.target.subresource or call.operation != "CREATE":
            return
        if is_mirror(call.object):
            refuse_mirror(call, spec)
            return
        self._limit(call, spec, self._account(call, spec))

    def _account(self, call: Call, spec: Object) -> Object:
        name = spec.get("serviceAccountName")
        if not name:
            pod = call.object["metadata"].get("name", "")
            raise forbidden(call, f"no service account specified for pod {call.namespace}/{pod}")
        account = self._find(call, name)
        if account is None:
            raise missing(call, name)
        return account

    def _limit(self, call: Call, spec: Object, account: Object) -> None:
        if not enforces_secrets(account):
            return
        name = account["metadata"]["name"]
        known = {secret.get("name") for secret in account.get("secrets") or ()}
        for volume in spec.get("volumes") or ():
            secret = (volume.get("secret") or {}).get("secretName")
            if volume.get("secret") is not None and secret not in known:
                raise forbidden(call, f'volume with secret.secretName="{secret or ""}" is not '
                                f"allowed because service account {name} does not reference that "
                                "secret")
        refuse_secrets(call, account, kinds_of_containers(spec))
        pulled = {secret.get("name") for secret in account.get("imagePullSecrets") or ()}
        for i, secret in enumerate(spec.get("imagePullSecrets") or ()):
            if secret.get("name") not in pulled:
                raise forbidden(call, f'imagePullSecrets[{i}].name="{secret.get("name", "")}" is '
                                f"not allowed because service account {name} does not reference "
                                "that imagePullSecret")


def missing(call: Call, name: str) -> Exception:
    return forbidden(call, f"error looking up service account {call.namespace}/{name}: "
                     f'serviceaccount "{name}" not found')


def is_mirror(pod: Object) -> bool:
    return MIRROR in (pod["metadata"].get("annotations") or ())


def enforces_secrets(account: Object) -> bool:
    annotations = account["metadata"].get("annotations") or {}
    return annotations.get(ENFORCE_SECRETS) in ("1", "t", "T", "true", "TRUE", "True")


def mount_token(spec: Object) -> None:
    """The volume, unless there is one already, and its mounts, where nothing is mounted yet."""
    volumes = spec.get("volumes") or []
    name, found = _volume_name, False
    for volume in volumes:
        if volume.get("name", "").startswith(VOLUME_PREFIX):
            name, found = volume["name"], True
            break
    mounted = False
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        mounts = container.get("volumeMounts") or []
        for mount in mounts:
            if mount.get("mountPath") == MOUNT_PATH:
                break
        else:
            container["volumeMounts"] = [*mounts, {"name": name, "readOnly": True,
                                                   "mountPath": MOUNT_PATH}]
            mounted = True
    if mounted and not found:
        spec["volumes"] = [*volumes, token_volume(name)]


# --- secrets -------------------------------------------------------------------------------------

def kinds_of_containers(spec: Object) -> Iterator[tuple[str, Object]]:
    for container in spec.get("initContainers") or ():
        yield "init container", container
    for container in spec.get("containers") or ():
        yield "container", container


def refuse_secrets(call: Call, account: Object, containers: Iterator[tuple[str, Object]]) -> None:
    """403 when an environment takes a secret that the account does not list."""
    name = account["metadata"]["name"]
    known = {secret.get("name") for secret in account.get("secrets") or ()}
    tail = f"is not allowed because service account {name} does not reference that secret"
    for kind, container in containers:
        for env in container.get("env") or ():
            ref = (env.get("valueFrom") or {}).get("secretKeyRef")
            if ref is not None and ref.get("name") not in known:
                raise forbidden(call, f'{kind} {container.get("name")} with envVar '
                                f'{env.get("name")} referencing secret.secretName='
                                f'"{ref.get("name", "")}" {tail}')
        for source in container.get("envFrom") or ():
            ref = source.get("secretRef")
            if ref is not None and ref.get("name") not in known:
                raise forbidden(call, f'{kind} {container.get("name")} with envFrom referencing '
                                f'secret.secretName="{ref.get("name", "")}" {tail}')


def refuse_mirror(call: Call, spec: Object) -> None:
    """403 when a mirror pod, which a kubelet reports, takes what only the API server gives."""
    if spec.get("serviceAccountName"):
        raise forbidden(call, "a mirror pod may not reference service accounts")
    if mentions_secret(spec):
        raise forbidden(call, "a mirror pod may not reference secrets")
    for volume in spec.get("volumes") or ():
        for source in (volume.get("projected") or {}).get("sources") or ():
            if source.get("serviceAccountToken") is not None:
                raise forbidden(call, "a mirror pod may not use ServiceAccountToken volume "
                                "projections")


SECRET_FIELDS = frozenset({"secretKeyRef", "secretRef", "imagePullSecrets", "secret",
                           "nodePublishSecretRef"})


def mentions_secret(value: Any) -> bool:
    """Whether a pod's spec names a secret anywhere."""
    if isinstance(value, dict):
        return any((key in SECRET_FIELDS and bool(inner)) or mentions_secret(inner)
                   for key, inner in value.items())
    if isinstance(value, list):
        return any(mentions_secret(inner) for inner in value)
    return False
