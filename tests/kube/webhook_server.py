# SPDX-License-Identifier: Apache-2.0
"""A webhook over HTTPS, on a thread of its own, with a certificate made for it.

    with WebhookServer() as server:
        server.answers["/deny"] = lambda review: {"allowed": False}
        server.config("deny")                     a webhook of a configuration that calls it
        server.asked                              (path, AdmissionReview) of each request

A handler returns what `response` shall hold (uid is filled in), or a web.Response to lie with.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Object = dict[str, Any]
Answer = Callable[[Object], Any]


def certificate(*names: str) -> tuple[bytes, bytes]:
    """A self-signed certificate for localhost and some names: PEM of it and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "webhook")])
    now = datetime.datetime.now(datetime.timezone.utc)
    alternatives: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")), *(x509.DNSName(n) for n in names)]
    made = (x509.CertificateBuilder().subject_name(name).issuer_name(name)
            .public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256()))
    return made.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption())


class WebhookServer:
    """See the module. `release`: lets handlers of "/hang" go on."""

    def __init__(self, directory: Path) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, Object]] = []
        self.arrived = threading.Semaphore(0)         # released by each request
        self.bundle, key = certificate("hook.default.svc")
        (directory / "tls.pem").write_bytes(self.bundle + key)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(directory / "tls.pem")
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self.port = 0

    def __enter__(self) -> WebhookServer:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop, self.release = asyncio.Event(), asyncio.Event()
        app = web.Application()
        app.router.add_post("/{path:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._context)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._stop.wait()
        self.release.set()
        for handler in runner.server.connections if runner.server else ():
            if handler.transport is not None:     # clients may keep theirs open
                handler.transport.abort()
        await runner.cleanup()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)
        await asyncio.sleep(0)                    # what abort has scheduled

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        review: Object = orjson.loads(await request.read())
        self.asked.append((request.path, review))
        self.arrived.release()
        if request.path == "/hang":
            await self.release.wait()
        answer = self.answers.get(request.path, lambda review: {"allowed": True})(review)
        if isinstance(answer, web.StreamResponse):
            return answer
        whole = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                 "response": {"uid": review["request"]["uid"]} | answer}
        return web.json_response(whole)

    def url(self, path: str) -> str:
        return f"https://127.0.0.1:{self.port}/{path}"

    def hook(self, path: str, **more: Any) -> Object:
        """A webhook about creates of pods that is answered at a path."""
        return {"name": f"{path}.example.com", "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": self.url(path),
                                 "caBundle": base64.b64encode(self.bundle).decode()},
                "rules": [{"operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": [""],
                           "apiVersions": ["v1"], "resources": ["pods"]}]} | more


def patch(*operations: Object, allowed: bool = True) -> Object:
    """A response with a JSON patch."""
    return {"allowed": allowed, "patchType": "JSONPatch",
            "patch": base64.b64encode(orjson.dumps(list(operations))).decode()}
