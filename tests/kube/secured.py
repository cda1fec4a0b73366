# SPDX-License-Identifier: Apache-2.0
"""A server without a socket with authentication and RBAC, and certificates for its clients."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import kvcore
from kvcore.kube.api import Api
from kvcore.kube.request import ADMIN, Request, User
from kvcore.kube.security import secure
from kvcore.kube.tokens import make_key

Object = dict[str, Any]
RBAC = "/apis/rbac.authorization.k8s.io/v1"
KEY = make_key()
START = 1_700_000_000.0


class Clock:
    """Seconds since 1970, moved by the test."""

    def __init__(self) -> None:
        self.seconds = START

    def __call__(self) -> float:
        return self.seconds


@asynccontextmanager
async def server(clock: Clock | None = None, **options: Any) -> AsyncIterator[Api]:
    """A started Api over a store in memory; options are those of `secure`."""
    with kvcore.open() as store:
        api = Api(store, housekeeping=False, now=clock or Clock())
        secure(api, **({"service_account_key": [KEY]} | options))
        await api.start()
        try:
            yield api
        finally:
            await api.stop()


async def ask(api: Api, method: str, url: str, body: Object | None = None,
              user: User | None = ADMIN, **rest: Any) -> tuple[int, Object]:
    """Code and object of an answer; user None: the request says who it is of."""
    request = Request.of(method, url, body=orjson.dumps(body) if body is not None else b"",
                         user=user, **rest)
    answer = await api.handle(request)
    return answer.code, orjson.loads(answer.body) if answer.body[:1] == b"{" else {}


async def made(api: Api, url: str, body: Object) -> Object:
    """The object that was created by an administrator."""
    code, obj = await ask(api, "POST", url, body)
    assert code == 201, obj
    return obj


def named(name: str, **rest: Any) -> Object:
    return {"metadata": {"name": name}, **rest}


def rule(verbs: str, groups: str, resources: str, names: str = "") -> Object:
    """Words apart by blanks; "core" is the group ""."""
    said = {"verbs": verbs.split(), "resources": resources.split(),
            "apiGroups": ["" if g == "core" else g for g in groups.split()]}
    return said | ({"resourceNames": names.split()} if names else {})


def role_ref(name: str, kind: str = "ClusterRole") -> Object:
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}


def subject(kind: str, name: str, namespace: str = "") -> Object:
    return {"kind": kind, "name": name} | ({"namespace": namespace} if namespace else {})


def certificate(name: str, groups: Sequence[str] = (), *, last: str = "",
                start: float = START - 60,
                end: float = START + 3600,
                usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH) -> bytes:
    """A client certificate in DER, signed by itself (whether it is trusted is TLS's business)."""
    key = ec.generate_private_key(ec.SECP256R1())
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    parts += [x509.NameAttribute(NameOID.COMMON_NAME, said) for said in (name, last) if said]
    subject = x509.Name(parts)
    built = (x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
             .public_key(key.public_key()).serial_number(x509.random_serial_number())
             .not_valid_before(datetime.datetime.fromtimestamp(start, datetime.timezone.utc))
             .not_valid_after(datetime.datetime.fromtimestamp(end, datetime.timezone.utc))
             .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
             .sign(key, hashes.SHA256()))
    return built.public_bytes(serialization.Encoding.DER)
