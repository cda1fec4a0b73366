# SPDX-License-Identifier: Apache-2.0
"""Service account tokens: expired, forged, revoked; requested, bound, reviewed, remembered."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import http.client
import json
import stat
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from kube_wires import answer_of, connect, get
from secured import KEY, START, Clock, ask, made, named, server

import kvcore
from kvcore.kube import serve, tokens
from kvcore.kube.request import Request, User
from kvcore.kube.tls import Issued
from kvcore.kube.tokens import ISSUER, Refused, ServiceAccountTokens, key_at, make_key

Object = dict[str, Any]
ACCOUNTS = "/api/v1/namespaces/n1/serviceaccounts"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def private(key: Any) -> bytes:
    pem: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                   serialization.NoEncryption())
    return pem


def public(pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(pem, None).public_key()
    return key.public_bytes(serialization.Encoding.PEM,
                            serialization.PublicFormat.SubjectPublicKeyInfo)


RSA = private(rsa.generate_private_key(65537, 2048))
OTHER = make_key()


class Objects:
    """What `look` finds, and how often it was asked."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str, str], Any] = {}
        self.asked = 0

    def put(self, plural: str, namespace: str, name: str, **metadata: Any) -> Object:
        obj = {"metadata": {"name": name, "namespace": namespace, **metadata}}
        self.found[plural, namespace, name] = type("Stored", (), {"body": orjson.dumps(obj)})()
        return obj

    def __call__(self, plural: str, namespace: str, name: str, surely: bool) -> Any:
        self.asked += 1
        return self.found.get((plural, namespace, name))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def objects() -> Objects:
    return Objects()


@pytest.fixture
def account(objects: Objects) -> Object:
    return objects.put("serviceaccounts", "n1", "a", uid="u-1")


@pytest.fixture
def ours(objects: Objects, clock: Clock) -> ServiceAccountTokens:
    return ServiceAccountTokens([KEY], objects, now=clock)


def claims_of(token: str) -> Object:
    part = token.split(".")[1]
    claims: Object = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


def part(obj: Object | bytes) -> str:
    data = obj if isinstance(obj, bytes) else orjson.dumps(obj)
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# --- signing and verifying ------------------------------------------------------------------------

@pytest.mark.parametrize(("pem", "algorithm"), [
    (KEY, "ES256"), (RSA, "RS256"), (private(ec.generate_private_key(ec.SECP384R1())), "ES384")])
def test_a_token_says_who_it_is_of(account: Object, objects: Objects, clock: Clock, pem: bytes,
                                   algorithm: str) -> None:
    signer = ServiceAccountTokens([pem], objects, now=clock)
    token, expires = signer.sign(account, 600)
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    claims = claims_of(token)
    assert claims["sub"] == "system:serviceaccount:n1:a"
    assert (claims["iss"], claims["aud"]) == (ISSUER, [ISSUER])
    assert (claims["iat"], claims["nbf"], claims["exp"]) == (START, START, START + 600)
    assert claims["kubernetes.io"] == {"namespace": "n1", "serviceaccount": {
        "name": "a", "uid": "u-1"}}
    assert expires == START + 600
    assert signer.verify(token) == (User(
        "system:serviceaccount:n1:a", ("system:serviceaccounts", "system:serviceaccounts:n1",
                                       "system:authenticated"), "u-1",
        {"authentication.kubernetes.io/credential-id": (f"JTI={claims['jti']}",)}), (ISSUER,))
    public_only = ServiceAccountTokens([OTHER, public(pem)], objects, now=clock)
    assert public_only.verify(token) == signer.verify(token)


@pytest.mark.parametrize("keys", [
    [], [public(KEY)], [private(ed25519.Ed25519PrivateKey.generate())],
    [private(ec.generate_private_key(ec.SECP256K1()))], [b"no key"]])
def test_keys_that_cannot_sign_are_refused(objects: Objects, keys: list[bytes]) -> None:
    with pytest.raises(ValueError):
        ServiceAccountTokens(keys, objects)


def test_a_key_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "pki" / "sa.key"
    first = key_at(path)
    assert key_at(path) == first
    assert b"PRIVATE KEY" in first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["sa.key"]


# --- times ----------------------------------------------------------------------------------------

def test_a_token_ends_in_its_last_second_remembered_or_not(
        ours: ServiceAccountTokens, account: Object, clock: Clock) -> None:
    token, _ = ours.sign(account, 600)
    clock.seconds = START + 599.9
    assert ours.verify(token)                  # remembered for ten seconds from here
    assert len(ours._seen) == 1
    clock.seconds = START + 600
    with pytest.raises(Refused, match="service account token has expired"):
        ours.verify(token)
    ours._seen.clear()
    with pytest.raises(Refused, match="service account token has expired"):
        ours.verify(token)


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_of_the_future(objects: Objects, ours: ServiceAccountTokens, account: Object,
                               clock: Clock, claim: str) -> None:
    token = signed(account, {claim: START + 100})
    with pytest.raises(Refused, match="not valid yet"):
        ours.verify(token)
    clock.seconds = START + 41                # clocks of two servers may differ by a minute
    assert ours.verify(token)


def test_a_signature_is_checked_again_after_a_while(
        ours: ServiceAccountTokens, account: Object, clock: Clock,
        monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    real = jwt.decode

    def counted(*args: Any, **more: Any) -> Any:
        checked.append(1)
        return real(*args, **more)
    monkeypatch.setattr(jwt, "decode", counted)
    token, _ = ours.sign(account, 3600)
    for _ in range(5):
        ours.verify(token)
    assert len(checked) == 1
    clock.seconds += tokens.TTL
    ours.verify(token)
    assert len(checked) == 2


def test_only_so_many_tokens_are_remembered(ours: ServiceAccountTokens, account: Object,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST", 3)
    for _ in range(6):
        ours.verify(ours.sign(account, 600)[0])
    assert len(ours._seen) == 3
    for i in range(5):                        # what is refused is not remembered at all
        with pytest.raises(Refused):
            ours.verify(signed(account, {"exp": START - i - 1}, OTHER))
    assert len(ours._seen) == 3


# --- forgeries ------------------------------------------------------------------------------------

def signed(account: Object, changed: Object, pem: bytes = KEY, algorithm: str = "ES256",
           header: Object | None = None) -> str:
    metadata = account["metadata"]
    claims = {"aud": [ISSUER], "exp": START + 600, "iat": START, "nbf": START, "iss": ISSUER,
              "sub": "system:serviceaccount:n1:a", "kubernetes.io": {
                  "namespace": "n1", "serviceaccount": {"name": metadata["name"],
                                                        "uid": metadata["uid"]}}}
    kept = {k: v for k, v in (claims | changed).items() if v is not None}
    return jwt.encode(kept, serialization.load_pem_private_key(pem, None),  # type: ignore[arg-type]
                      algorithm, header)


def hmac_with_public_key(token: str, pem: bytes, head: Object) -> str:
    text = f"{part(head)}.{token.split('.')[1]}"
    return f"{text}.{part(hmac.digest(pem, text.encode(), hashlib.sha256))}"


def forged(token: str, kind: str) -> str:
    head, body, signature = token.split(".")
    kid = jwt.get_unverified_header(token)["kid"]
    other = claims_of(token) | {"sub": "system:serviceaccount:n1:b"}
    other["kubernetes.io"]["serviceaccount"]["name"] = "b"
    return {
        "alg none": f"{part({'alg': 'none', 'typ': 'JWT'})}.{body}.",
        "alg None": f"{part({'alg': 'None', 'kid': kid})}.{body}.{signature}",
        "no signature": f"{head}.{body}.",
        "public key as secret": hmac_with_public_key(token, public(KEY), {"alg": "HS256"}),
        "the same with kid": hmac_with_public_key(token, public(KEY), {"alg": "HS256",
                                                                       "kid": kid}),
        "altered claims": f"{head}.{part(other)}.{signature}",
        "another algorithm": f"{part({'alg': 'ES384', 'kid': kid})}.{body}.{signature}",
        "crit": f"{part({'alg': 'ES256', 'kid': kid, 'crit': ['exp']})}.{body}.{signature}",
        "a key of one's own": f"{part({'alg': 'ES256', 'kid': 'x'})}.{body}.{signature}",
        "zeros": f"{head}.{body}.{part(bytes(64))}",
        "no base64": f"{head}.{body}.***",
    }[kind]


@pytest.mark.parametrize("kind", [
    "alg none", "alg None", "no signature", "public key as secret", "the same with kid",
    "altered claims", "another algorithm", "crit", "a key of one's own", "zeros", "no base64"])
def test_forged_tokens(ours: ServiceAccountTokens, objects: Objects, account: Object,
                       kind: str) -> None:
    objects.put("serviceaccounts", "n1", "b", uid="u-1")
    token, _ = ours.sign(account, 600)
    assert ours.verify(token)
    with pytest.raises(Refused):
        ours.verify(forged(token, kind))


@pytest.mark.parametrize("token", [
    "", ".", "..", "a.b.c", "a.b", "a.b.c.d", "{}", "e30.e30.e30", "é.é.é", "\ud800.a.b",
    f"e30.{part(b'[]')}.x", f"e30.{part({'iss': [ISSUER]})}.x", "x" * 100_000])
def test_what_is_no_token_of_ours(ours: ServiceAccountTokens, token: str) -> None:
    assert ours.verify(token) is None


def test_a_token_of_another_issuer_or_key(ours: ServiceAccountTokens, account: Object) -> None:
    assert ours.verify(signed(account, {"iss": "https://other"})) is None
    with pytest.raises(Refused):
        ours.verify(signed(account, {}, OTHER))
    with pytest.raises(Refused):
        ours.verify(signed(account, {}, RSA, "RS256"))
    assert ours.verify(signed(account, {}))


def test_what_a_header_calls_critical_must_be_understood(ours: ServiceAccountTokens,
                                                         account: Object) -> None:
    with pytest.raises(Refused, match="crit"):
        ours.verify(signed(account, {}, header={"crit": ["exp"]}))


@pytest.mark.parametrize("changed", [
    {"exp": None}, {"exp": "never"}, {"exp": True}, {"nbf": "now"}, {"kubernetes.io": None},
    {"kubernetes.io": []}, {"kubernetes.io": {"namespace": "n1"}},
    {"kubernetes.io": {"namespace": "", "serviceaccount": {"name": "a", "uid": "u-1"}}},
    {"kubernetes.io": {"namespace": "n1", "serviceaccount": {"name": "a"}}},
    {"kubernetes.io": {"namespace": "n1", "serviceaccount": {"name": "a", "uid": ""}}},
    {"kubernetes.io": {"namespace": "n1", "serviceaccount": {"name": ["a"], "uid": "u-1"}}},
    {"kubernetes.io": {"namespace": "n1", "serviceaccount": {"name": "a", "uid": "u-1"},
                       "pod": {"name": "p"}}},
    {"kubernetes.io": {"namespace": "n1", "serviceaccount": {"name": "a", "uid": "u-1"},
                       "pod": "p"}},
])
def test_well_signed_claims_of_another_form(ours: ServiceAccountTokens, account: Object,
                                            changed: Object) -> None:
    with pytest.raises(Refused):
        ours.verify(signed(account, changed))


# --- audiences ------------------------------------------------------------------------------------

def test_audiences(ours: ServiceAccountTokens, account: Object) -> None:
    token, _ = ours.sign(account, 600, ["vault", ISSUER])
    assert ours.verify(token, ["x", "vault"])[1] == ("vault",)  # type: ignore[index]
    assert ours.verify(token)[1] == (ISSUER,)  # type: ignore[index]
    token, _ = ours.sign(account, 600, ["vault"])
    with pytest.raises(Refused, match=r'token audiences \["vault"\] is invalid'):
        ours.verify(token)
    assert ours.verify(signed(account, {"aud": ISSUER}))
    assert ours.verify(signed(account, {"aud": None}))


# --- what a token is bound to ---------------------------------------------------------------------

def test_an_account_deleted_or_made_again(ours: ServiceAccountTokens, objects: Objects,
                                          account: Object) -> None:
    token, _ = ours.sign(account, 600)
    assert ours.verify(token)
    objects.put("serviceaccounts", "n1", "a", uid="u-2")
    with pytest.raises(Refused, match=r"service account UID \(u-2\) does not match claim \(u-1\)"):
        ours.verify(token)
    del objects.found["serviceaccounts", "n1", "a"]
    with pytest.raises(Refused, match='serviceaccounts "a" not found'):
        ours.verify(token)


def test_an_account_that_is_going_is_believed_for_a_minute(
        ours: ServiceAccountTokens, objects: Objects, account: Object, clock: Clock) -> None:
    token, _ = ours.sign(account, 600)
    objects.put("serviceaccounts", "n1", "a", uid="u-1", deletionTimestamp="2023-11-14T22:13:20Z")
    assert ours.verify(token)
    clock.seconds = START + 60
    assert ours.verify(token)
    clock.seconds = START + 61
    with pytest.raises(Refused, match="has been deleted"):
        ours.verify(token)


@pytest.mark.parametrize("kind", ["pod", "secret", "node"])
def test_a_bound_token_ends_with_its_object(ours: ServiceAccountTokens, objects: Objects,
                                            account: Object, kind: str) -> None:
    where = "" if kind == "node" else "n1"
    bound = objects.put(f"{kind}s", where, "x", uid="x-1")["metadata"]
    token, _ = ours.sign(account, 600, bound={kind: bound})
    user, _ = ours.verify(token)  # type: ignore[misc]
    if kind != "secret":
        assert user.extra[f"authentication.kubernetes.io/{kind}-name"] == ("x",)
        assert user.extra[f"authentication.kubernetes.io/{kind}-uid"] == ("x-1",)
    objects.put(f"{kind}s", where, "x", uid="x-2")
    with pytest.raises(Refused, match=rf"{kind} UID \(x-2\) does not match"):
        ours.verify(token)
    del objects.found[f"{kind}s", where, "x"]
    with pytest.raises(Refused, match="service account token has been invalidated"):
        ours.verify(token)


def test_the_node_of_a_pod_is_only_told(ours: ServiceAccountTokens, objects: Objects,
                                        account: Object) -> None:
    pod = objects.put("pods", "n1", "p", uid="p-1")["metadata"]
    token, _ = ours.sign(account, 600, bound={"pod": pod, "node": {"name": "gone"}})
    user, _ = ours.verify(token)  # type: ignore[misc]
    assert user.extra["authentication.kubernetes.io/node-name"] == ("gone",)


def test_a_cache_that_is_behind_is_not_believed_against_the_store(
        objects: Objects, account: Object, clock: Clock) -> None:
    class Behind(Objects):
        def __call__(self, plural: str, namespace: str, name: str, surely: bool) -> Any:
            return self.found.get((plural, namespace, name)) if surely else None
    behind = Behind()
    behind.put("serviceaccounts", "n1", "a", uid="u-1")
    ours = ServiceAccountTokens([KEY], behind, now=clock)
    token, _ = ours.sign(account, 600)
    assert ours.verify(token)
    behind.found.clear()
    with pytest.raises(Refused):
        ours.verify(token)


# --- through a server -----------------------------------------------------------------------------

async def request(api: Any, body: Object | None = None, name: str = "a", **rest: Any
                  ) -> tuple[int, Object]:
    return await ask(api, "POST", f"{ACCOUNTS}/{name}/token", body or {}, **rest)


def authenticated(api: Any, token: str) -> User:
    user: User = api.authenticate(Request.of("GET", "/", headers={
        "authorization": f"Bearer {token}"}))
    return user


async def refused(api: Any, token: str) -> bool:
    code, _ = await ask(api, "GET", "/healthz", user=None,
                        headers={"authorization": f"Bearer {token}"})
    return code == 401


def test_a_requested_token_works_until_its_account_is_another() -> None:
    async def lives() -> None:
        async with server() as api:
            account = await made(api, ACCOUNTS, named("a"))
            code, answer = await request(api)
            assert code == 201
            assert answer["kind"] == "TokenRequest"
            assert answer["metadata"] == {
                "name": "a", "namespace": "n1", "uid": account["metadata"]["uid"],
                "creationTimestamp": "2023-11-14T22:13:20Z"}
            assert answer["spec"] == {"audiences": [ISSUER], "expirationSeconds": 3600,
                                      "boundObjectRef": None}
            assert answer["status"]["expirationTimestamp"] == "2023-11-14T23:13:20Z"
            token = answer["status"]["token"]
            assert authenticated(api, token).name == "system:serviceaccount:n1:a"
            resource = api.resources.of_path("", "v1", "serviceaccounts")
            assert resource is not None
            api.store.delete(api.layout.key(resource, "n1", "a"))
            await api.feed.reach(api.store.revision)
            assert await refused(api, token)
            await made(api, ACCOUNTS, named("a"))
            assert await refused(api, token)
            assert authenticated(api, (await request(api))[1]["status"]["token"])
    run(lives())


def test_a_server_without_a_key_gives_no_tokens() -> None:
    async def lives() -> None:
        async with server(service_account_key=()) as api:
            await made(api, ACCOUNTS, named("a"))
            assert (await request(api))[0] == 404
    run(lives())


@pytest.mark.parametrize(("body", "code", "message"), [
    ({"spec": {"expirationSeconds": 599}}, 422, 'TokenRequest.authentication.k8s.io "" is invalid: '
     "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes"),
    ({"spec": {"expirationSeconds": 1 << 33}}, 422, 'TokenRequest.authentication.k8s.io "" is '
     "invalid: spec.expirationSeconds: Invalid value: 8589934592: may not specify a duration "
     "larger than 2^32 seconds"),
    ({"metadata": {"name": "b"}}, 422, 'TokenRequest.authentication.k8s.io "a" is invalid: '
     'metadata.name: Invalid value: "b": must match the service account name if specified'),
    ({"metadata": {"uid": "no"}}, 409, None),
    ({"spec": {"expirationSeconds": "600"}}, 400, None), ({"spec": []}, 400, None),
    ({"spec": {"audiences": [1]}}, 400, None), ({"kind": "Pod", "apiVersion": "v1"}, 400, None),
    ({"spec": {"boundObjectRef": {"kind": "ConfigMap", "apiVersion": "v1", "name": "x"}}}, 400,
     "cannot bind token to object of type /v1, Kind=ConfigMap"),
    ({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "x"}}}, 404,
     'pods "x" not found'),
    ({"spec": {"boundObjectRef": {"kind": "Secret", "name": "s", "uid": "no"}}}, 409, None),
])
def test_token_requests_that_are_refused(body: Object, code: int, message: str | None) -> None:
    async def lives() -> None:
        async with server() as api:
            await made(api, ACCOUNTS, named("a"))
            await made(api, "/api/v1/namespaces/n1/secrets", named("s"))
            before = api.store.revision
            got, answer = await request(api, body)
            assert got == code, answer
            assert message in (None, answer["message"])
            assert api.store.revision == before
            assert (await request(api, name="b"))[1]["message"] == 'serviceaccounts "b" not found'
    run(lives())


def test_a_token_bound_to_a_pod_of_the_account() -> None:
    async def lives() -> None:
        async with server() as api:
            await made(api, ACCOUNTS, named("a"))
            for name, account in (("p", "a"), ("q", "b")):
                await made(api, "/api/v1/namespaces/n1/pods", named(name, spec={
                    "serviceAccountName": account, "nodeName": "m",
                    "containers": [{"name": "c", "image": "i"}]}))
            def bound(pod: str) -> Object:
                return {"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1",
                                                    "name": pod}}}
            code, answer = await request(api, bound("p"))
            assert code == 201
            extra = authenticated(api, answer["status"]["token"]).extra
            assert extra["authentication.kubernetes.io/pod-name"] == ("p",)
            assert extra["authentication.kubernetes.io/node-name"] == ("m",)
            assert (await request(api, bound("q")))[1]["message"] == (
                'cannot bind token for serviceaccount "a" to pod running with different '
                "serviceaccount name.")
    run(lives())


def test_token_reviews(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text('secret,jane,7,"devs"\n')
    async def lives() -> None:
        clock = Clock()
        async with server(clock, token_auth_file=path) as api:
            async def review(**spec: Any) -> Object:
                code, answer = await ask(api, "POST", REVIEWS, {"spec": spec})
                assert code == 201
                status: Object = answer["status"]
                return status
            assert await review(token="secret") == {
                "authenticated": True, "audiences": [ISSUER], "user": {
                    "username": "jane", "uid": "7", "groups": ["devs", "system:authenticated"]}}
            bad = {"user": {}, "error": "invalid bearer token"}
            assert await review(token="other") == bad
            assert await review(token="secret", audiences=["x"]) == bad
            await made(api, ACCOUNTS, named("a"))
            token = (await request(api, {"spec": {"audiences": ["x"]}}))[1]["status"]["token"]
            assert (await review(token=token, audiences=["x", "y"]))["audiences"] == ["x"]
            assert "is invalid for the target audiences" in (await review(token=token))["error"]
            clock.seconds += 3600
            assert (await review(token=token, audiences=["x"]))["error"] == (
                "[invalid bearer token, service account token has expired]")
            code, answer = await ask(api, "POST", REVIEWS, {"spec": {}})
            assert (code, answer["message"]) == (
                400, "token is required for TokenReview in authentication")
    run(lives())


def test_public_keys_as_a_key_set(ours: ServiceAccountTokens, account: Object) -> None:
    token, _ = ours.sign(account, 600)
    key, = jwt.PyJWKSet.from_json(ours.jwks().decode()).keys
    assert jwt.get_unverified_header(token)["kid"] == key.key_id
    assert jwt.decode(token, key, ["ES256"], options={"verify_exp": False}, audience=ISSUER,
                      issuer=ISSUER)["sub"] == "system:serviceaccount:n1:a"
    assert b'"d"' not in ours.jwks()


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_server_publishes_its_issuer(replicas: int) -> None:
    """What an OpenID Connect client needs to verify a service account's token by itself."""
    with kvcore.open() as store, serve(store, replicas=replicas) as api:
        admin = api.pki.admin

        def asked(path: str, method: str = "GET", token: str = "", client: Issued | None = admin
                  ) -> tuple[http.client.HTTPResponse, Any]:
            with connect(api.port, client=client, authority=api.pki) as sock:
                header = f"Authorization: Bearer {token}\r\n" if token else ""
                body = b'{"spec":{}}' if method == "POST" else b""
                sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: elsewhere\r\n{header}"
                             f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
                answer = answer_of(sock, method)
                return answer, json.loads(answer.read())
        answer, made = asked("/api/v1/namespaces/default/serviceaccounts/default/token", "POST")
        assert answer.status == 201
        token = made["status"]["token"]
        for slash in ("", "/"):
            answer, said = asked(f"/.well-known/openid-configuration{slash}", token=token,
                               client=None)
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "application/json"
            assert answer.headers["Cache-Control"] == "public, max-age=3600"
            assert said == {
                "issuer": ISSUER, "jwks_uri": f"{api.url}/openid/v1/jwks",
                "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"]}
            path = said["jwks_uri"].removeprefix(api.url)
            answer, keys = asked(f"{path}{slash}", token=token, client=None)
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "application/jwk-set+json"
            assert [*keys["keys"][0]] == ["use", "kty", "kid", "crv", "alg", "x", "y"]
            key, = jwt.PyJWKSet.from_dict(keys).keys
            assert jwt.decode(token, key, said["id_token_signing_alg_values_supported"],
                              audience=ISSUER, issuer=said["issuer"])["sub"] == \
                "system:serviceaccount:default:default"
            assert asked(path + slash, client=None)[0].status == 403
            assert asked(path + slash, "POST")[0].status == 405
        assert asked("/openid/v1")[0].status == 404


def test_nothing_is_published_of_an_issuer_that_is_no_url() -> None:
    with kvcore.open() as store, serve(store, service_account_issuer="me") as api, \
            connect(api.port, client=api.pki.admin, authority=api.pki) as sock:
        assert get(sock, "/openid/v1/jwks")[0] == 404


def test_an_rsa_key_as_upstream_shows_it() -> None:
    accounts = ServiceAccountTokens([RSA], lambda *asked: None)
    shown, = json.loads(accounts.jwks())["keys"]
    assert [*shown] == ["use", "kty", "kid", "alg", "n", "e"] and shown["e"] == "AQAB"
    assert b'["RS256"]' in accounts.discovery("https://x:1")
