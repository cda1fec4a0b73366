# SPDX-License-Identifier: Apache-2.0
"""Service account tokens: signed here, and believed only as long as the account is the same one.

  token ─(seen lately?)─> Verified ── exp, nbf, iat ── account, pod, secret, node: same uid ─> User
           └─ no: header, issuer, signature by the key its `kid` names

A signature is checked once in `TTL` seconds a token; times and accounts at every use. So a request
costs microseconds, an expired token is refused in the second it expires, and one whose account was
deleted (or deleted and made again) as soon as the watch cache knows.

Named invariants:
1. **one algorithm a key**: RS256 for RSA, ES256/384/512 for the curves; a token cannot choose.
2. **bounded**: at most `MOST` tokens are remembered, by their SHA-256.
3. **never past expiry**: no answer, remembered or not, at or after `exp`.
Thread safety: one event loop. Sources: kubernetes pkg/serviceaccount (claims.go, jwt.go), apiserver
authentication/serviceaccount; differs: kube-apiserver takes tokens 60 s past their end.
May not know: HTTP.
"""

from __future__ import annotations

import base64
import calendar
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kvcore.kube.request import User

__all__ = ["ISSUER", "JWKS_PATH", "Refused", "ServiceAccountTokens", "key_at", "make_key"]

ISSUER = "https://kubernetes.default.svc.cluster.local"
LEEWAY = 60.0                    # seconds the clocks of two servers may differ: nbf and iat
TTL = 10.0                       # seconds before a signature is checked again
MOST = 4096
LONGEST = 16 * 1024              # characters of a token that are looked at
CREDENTIAL = "authentication.kubernetes.io/credential-id"
ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

JWKS_PATH = "/openid/v1/jwks"
JWK = ("use", "kty", "kid", "crv", "alg", "x", "y", "n", "e")       # in upstream's order

Object = dict[str, Any]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class Refused(Exception):
    """A token that says who it is of, and is not believed."""


# --- keys -----------------------------------------------------------------------------------------

def make_key() -> bytes:
    """A new private key (P-256) in PEM. Cost: 0.1 ms; an RSA key costs a hundred."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption())


def key_at(path: Path) -> bytes:
    """The PEM in a file; made on first use, readable by its owner only. Of several who begin at
    once, one makes it."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex}")
    with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(make_key())
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(made, path)                   # fails where another was first
    except FileExistsError:
        pass
    finally:
        made.unlink()
    return path.read_bytes()


@dataclass(frozen=True, slots=True)
class _Key:
    private: PrivateKey | None
    public: PublicKey
    id: str
    algorithm: str


def _load(pem: bytes) -> _Key:
    """A private or public key. Errors: ValueError."""
    private: PrivateKey | None = None
    public: Any
    if b"PRIVATE KEY" in pem:
        loaded = serialization.load_pem_private_key(pem, None)
        public = loaded.public_key() if hasattr(loaded, "public_key") else None
        if isinstance(loaded, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey)):
            private = loaded
    else:
        public = serialization.load_pem_public_key(pem)
    if isinstance(public, rsa.RSAPublicKey):
        algorithm = "RS256"
    elif isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in ALGORITHMS:
        algorithm = ALGORITHMS[public.curve.name]
    else:
        raise ValueError("a service account key must be RSA or ECDSA (P-256, P-384, P-521)")
    der = public.public_bytes(serialization.Encoding.DER,
                              serialization.PublicFormat.SubjectPublicKeyInfo)
    return _Key(private, public, _base64(hashlib.sha256(der).digest()), algorithm)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# --- tokens ---------------------------------------------------------------------------------------

Reference = tuple[str, str, str, str]        # plural, namespace, name, uid
Look = Callable[[str, str, str, bool], Any]  # plural, namespace, name, surely -> has .body, or None


@dataclass(slots=True)
class Verified:
    """A token whose signature is right. `ours`: its audiences that are this server's;
    `references`: what must be, each with the object that was found right last."""

    user: User
    audiences: tuple[str, ...]
    ours: tuple[str, ...]
    not_before: float
    expires: float
    references: tuple[Reference, ...]
    until: float
    found: list[Any]


class ServiceAccountTokens:
    """Signs with the first key, verifies with all.

    Args: keys: PEM, the first a private one; look: (plural, namespace, name, surely) -> the stored
    object (`.body`, JSON) or None, `surely`: from the store rather than a cache; now: seconds
    since 1970.
    """

    def __init__(self, keys: Sequence[bytes], look: Look, *, issuer: str = ISSUER,
                 audiences: Sequence[str] = (), now: Callable[[], float] = time.time) -> None:
        loaded = [_load(pem) for pem in keys]
        if not loaded or loaded[0].private is None:
            raise ValueError("the first service account key must be a private one")
        self._signer = loaded[0]
        self._keys = loaded
        self.issuer, self.audiences = issuer, tuple(audiences) or (issuer,)
        self._look, self._now = look, now
        self._seen: dict[bytes, Verified] = {}

    # --- signing --------------------------------------------------------------------------------

    def sign(self, account: Object, seconds: int, audiences: Sequence[str] = (),
             bound: dict[str, Object] | None = None) -> tuple[str, float]:
        """A token for a service account and the second it ends in.

        Args: account: the ServiceAccount; bound: "pod", "secret" or "node" -> metadata of an
        object that must live as long. Cost: 0.1 ms.
        """
        signer, now = self._signer, int(self._now())
        assert signer.private is not None
        metadata = account["metadata"]
        claims: Object = {
            "aud": list(audiences or self.audiences), "exp": now + seconds, "iat": now,
            "iss": self.issuer, "jti": str(uuid.uuid4()), "nbf": now,
            "kubernetes.io": {"namespace": metadata["namespace"], "serviceaccount": {
                "name": metadata["name"], "uid": metadata["uid"]}},
            "sub": f"system:serviceaccount:{metadata['namespace']}:{metadata['name']}"}
        for kind, said in (bound or {}).items():
            claims["kubernetes.io"][kind] = {k: said[k] for k in ("name", "uid") if k in said}
        token = jwt.encode(claims, signer.private, signer.algorithm,
                           {"kid": signer.id, "typ": None})
        return token, float(now + seconds)

    def jwks(self) -> bytes:
        """The public keys as a JWK set, for `/openid/v1/jwks`."""
        keys = []
        for key in self._keys:
            algorithm = jwt.get_algorithm_by_name(key.algorithm)
            said: Object = orjson.loads(algorithm.to_jwk(key.public))
            said |= {"use": "sig", "kid": key.id, "alg": key.algorithm}
            keys.append({name: said[name] for name in JWK if name in said})
        return orjson.dumps({"keys": keys})

    def discovery(self, url: str) -> bytes:
        """What OpenID Connect says of this issuer, for `/.well-known/openid-configuration`.

        Args: url: the server's, where the keys are to be had.
        """
        return orjson.dumps({
            "issuer": self.issuer, "jwks_uri": url + JWKS_PATH,
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({key.algorithm for key in self._keys})})

    # --- verifying ------------------------------------------------------------------------------

    def verify(self, token: str, audiences: Sequence[str] = ()
               ) -> tuple[User, tuple[str, ...]] | None:
        """Who it is of and for which of the audiences (of the server, if none are named); None: a
        token of somebody else. Errors: Refused. Cost: 2 us for one seen lately, else 0.1 ms."""
        hashed = hashlib.sha256(token.encode(errors="replace")).digest()
        now = self._now()
        verified = self._seen.get(hashed)
        if verified is None or now >= verified.until:
            verified = self._verify(token, now)
            if verified is None:
                return None
            self._remember(hashed, verified)
        if now >= verified.expires:
            raise Refused("service account token has expired")
        if now + LEEWAY < verified.not_before:
            raise Refused("service account token is not valid yet")
        for_us = verified.ours if not audiences else tuple(
            a for a in verified.audiences if a in audiences)
        if not for_us:
            raise Refused(f"token audiences {_go_list(verified.audiences)} is invalid for the "
                          f"target audiences {_go_list(audiences or self.audiences)}")
        for i, reference in enumerate(verified.references):
            verified.found[i] = self._same(reference, verified.found[i], now)
        return verified.user, for_us

    def _remember(self, hashed: bytes, verified: Verified) -> None:
        self._seen.pop(hashed, None)
        if len(self._seen) >= MOST:
            del self._seen[next(iter(self._seen))]
        self._seen[hashed] = verified

    def _verify(self, token: str, now: float) -> Verified | None:
        """Header, issuer, signature, the form of the claims."""
        if len(token) > LONGEST or token.count(".") != 2:
            return None
        head, payload, _ = token.split(".")
        header, unverified = _decoded(head), _decoded(payload)
        if header is None or unverified is None or unverified.get("iss") != self.issuer:
            return None
        if "crit" in header:                  # older versions of PyJWT overlook it
            raise Refused("unsupported crit header")
        named = header.get("kid")
        keys = [key for key in self._keys if not named or key.id == named]
        if not keys:
            raise Refused("invalid signature, no keys found")
        problem = ""
        for key in keys:
            try:
                claims = jwt.decode(token, key.public, [key.algorithm], options=UNCHECKED)
                return self._understood(claims, now)
            except (jwt.InvalidTokenError, jwt.InvalidKeyError) as error:
                problem = str(error)
        raise Refused(problem)

    def _understood(self, claims: Object, now: float) -> Verified:
        said = claims.get("kubernetes.io")
        if not isinstance(said, dict) or not isinstance(said.get("serviceaccount"), dict):
            raise Refused("service account token claims could not be validated")
        namespace, account = said.get("namespace"), said["serviceaccount"]
        expires: Any = claims.get("exp")
        starts: list[Any] = [claims.get(name, 0) for name in ("nbf", "iat")]
        if not (isinstance(namespace, str) and namespace and _is_reference(account)
                and all(_is_number(at) for at in (expires, *starts))):
            raise Refused("service account token claims could not be validated")
        audiences = claims.get("aud") or self.audiences
        audiences = (audiences,) if isinstance(audiences, str) else tuple(audiences)
        references: list[Reference] = [
            ("serviceaccounts", namespace, account["name"], account["uid"])]
        extra: dict[str, tuple[str, ...]] = {}
        if isinstance(claims.get("jti"), str):
            extra[CREDENTIAL] = (f"JTI={claims['jti']}",)
        for kind in ("secret", "pod", "node"):
            bound = said.get(kind)
            if bound is None:
                continue
            if not (_is_reference(bound) or (kind == "node" and _names(bound))):
                raise Refused("service account token claims could not be validated")
            if kind != "node" or "pod" not in said:       # the node of a pod is only told
                references.append((f"{kind}s", "" if kind == "node" else namespace, bound["name"],
                                   bound.get("uid", "")))
            if kind != "secret":
                extra |= {f"authentication.kubernetes.io/{kind}-{what}": (bound[what],)
                          for what in ("name", "uid") if bound.get(what)}
        user = User(f"system:serviceaccount:{namespace}:{account['name']}",
                    ("system:serviceaccounts", f"system:serviceaccounts:{namespace}",
                     "system:authenticated"), account["uid"], extra)
        ours = tuple(a for a in audiences if a in self.audiences)
        return Verified(user, audiences, ours, max(starts), expires, tuple(references), now + TTL,
                        [None] * len(references))

    def _same(self, reference: Reference, before: Any, now: float) -> Any:
        """The object, if it is still the one of that uid. Errors: Refused."""
        plural, namespace, name, uid = reference
        found = self._look(plural, namespace, name, False)
        if found is not None and found is before:
            return found                      # the same version as last time
        problem, lasts = self._problem(found, uid, now)
        if problem:                           # perhaps the cache is behind
            lasts = False
            problem, _ = self._problem(self._look(plural, namespace, name, True), uid, now)
        if problem == "":
            return found if lasts else None
        if problem == "missing" and plural == "serviceaccounts":
            raise Refused(f'serviceaccounts "{name}" not found')
        if problem in ("missing", "deleted") and plural != "serviceaccounts":
            raise Refused("service account token has been invalidated")
        if problem == "deleted":
            raise Refused(f"service account {namespace}/{name} has been deleted")
        raise Refused(f"{WORDS[plural]} UID ({problem}) does not match "
                      f"{CLAIMS[plural]} ({uid})")

    def _problem(self, found: Any, uid: str, now: float) -> tuple[str, bool]:
        """What is wrong: missing, deleted, or the uid it has; and whether "" holds as long as the
        object is this version."""
        if found is None:
            return "missing", False
        metadata = orjson.loads(found.body)["metadata"]
        if metadata.get("uid") != uid:
            return str(metadata.get("uid")), False
        deleted = metadata.get("deletionTimestamp")
        if not deleted:
            return "", True
        return "deleted" if seconds_of(deleted) + LEEWAY < now else "", False


WORDS = {"serviceaccounts": "service account", "pods": "pod", "secrets": "secret", "nodes": "node"}
CLAIMS = {"serviceaccounts": "claim", "pods": "service account pod ref claim",
          "secrets": "service account secret ref claim", "nodes": "service account node ref claim"}
# Times and audiences are checked by `verify`, at each use, by its clock.
UNCHECKED: Any = {"verify_signature": True, "verify_exp": False, "verify_nbf": False,
                  "verify_iat": False, "verify_aud": False, "verify_iss": False,
                  "verify_sub": False, "verify_jti": False}


def _decoded(part: str) -> Object | None:
    """The JSON object of a part of a token; None if it is none."""
    try:
        said = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def _names(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str) \
        and isinstance(value.get("uid", ""), str)


def _is_reference(value: Any) -> bool:
    return _names(value) and bool(value["name"]) and bool(value.get("uid"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _go_list(values: Sequence[str]) -> str:
    return "[" + " ".join(f'"{value}"' for value in values) + "]"


def seconds_of(text: str) -> float:
    """A time of whole seconds in UTC as seconds since 1970.

    >>> seconds_of("1970-01-01T00:01:00Z")
    60.0
    """
    return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
