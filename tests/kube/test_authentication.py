# SPDX-License-Identifier: Apache-2.0
"""Who asks: certificates, token files, headers, anonymous, impersonation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from secured import (
    RBAC,
    START,
    Clock,
    ask,
    certificate,
    made,
    named,
    role_ref,
    rule,
    server,
    subject,
)

from kvcore.kube import authentication
from kvcore.kube.authentication import bearer_token, read_token_file
from kvcore.kube.authorization import Authorizer
from kvcore.kube.rbac import Policy
from kvcore.kube.request import Request, User

WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
UNAUTHORIZED = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "Unauthorized", "reason": "Unauthorized", "code": 401}


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.csv"
    path.write_text('admin-token,admin,1,"system:masters"\nsecret,jane,uid-2,"devs,ops"\n'
                    "plain,joe,3\n,nobody,4\nsecret2,old,5\nsecret2,new,6\n")
    return path


async def who(api: Any, **rest: Any) -> tuple[int, Any]:
    """The user that the server sees, or its refusal."""
    code, obj = await ask(api, "POST", WHO, {}, user=None, **rest)
    return code, obj["status"]["userInfo"] if code == 201 else obj


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


# --- certificates ---------------------------------------------------------------------------------

def test_a_certificate_names_the_user_and_each_of_its_groups() -> None:
    async def lives() -> None:
        async with server(authorization_mode=["AlwaysAllow"]) as api:
            code, user = await who(api, certificate=certificate("jane", ["devs", "b,c", "ops"]))
            assert (code, user["username"]) == (201, "jane")
            assert user["groups"] == ["devs", "b,c", "ops", "system:authenticated"]
            credential, = user["extra"]["authentication.kubernetes.io/credential-id"]
            assert credential.startswith("X509SHA256=")
    run(lives())


@pytest.mark.parametrize(("der", "code"), [
    (certificate("jane", end=START + 5), 401),
    (certificate("jane", start=START + 20), 401),
    (certificate("jane", usage=ExtendedKeyUsageOID.SERVER_AUTH), 401),
    (b"no certificate", 401), (b"", 401),
    (certificate("", ["system:masters"]), 403),       # names nobody: anonymous
    (certificate("jane", usage=ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE), 201),
])
def test_certificates_that_are_no_use_now(der: bytes, code: int) -> None:
    async def lives() -> None:
        clock = Clock()
        async with server(clock) as api:
            await made(api, f"{RBAC}/clusterroles", named("who", rules=[
                rule("create", "authentication.k8s.io", "selfsubjectreviews")]))
            await made(api, f"{RBAC}/clusterrolebindings", named("who", roleRef=role_ref("who"),
                       subjects=[subject("Group", "system:authenticated")]))
            clock.seconds += 10
            assert (await who(api, certificate=der))[0] == code
    run(lives())


def test_a_certificate_that_ends_during_its_connection_is_refused() -> None:
    async def lives() -> None:
        clock = Clock()
        der = certificate("jane", end=START + 100)
        async with server(clock, authorization_mode=["AlwaysAllow"]) as api:
            assert (await who(api, certificate=der))[0] == 201
            clock.seconds = START + 101
            assert await who(api, certificate=der) == (401, UNAUTHORIZED)
    run(lives())


def test_of_several_names_the_last_counts() -> None:
    user = authentication.certificate_user(certificate("first", ["g"], last="last")).user
    assert user is not None
    assert (user.name, user.groups) == ("last", ("g", "system:authenticated"))


def test_certificates_are_parsed_once_and_only_so_many_are_kept(
        monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    real = authentication.certificate_user

    def counted(der: bytes) -> authentication.Certificate:
        parsed.append(der)
        return real(der)
    monkeypatch.setattr(authentication, "MOST_CERTIFICATES", 3)
    monkeypatch.setattr(authentication, "certificate_user", counted)

    async def lives() -> None:
        async with server(authorization_mode=["AlwaysAllow"]) as api:
            first = certificate("u0")
            for _ in range(3):
                await who(api, certificate=first)
            assert len(parsed) == 1
            for i in range(10):
                assert (await who(api, certificate=certificate(f"u{i}")))[1]["username"] == f"u{i}"
            assert len(api.authenticate._certificates) == 3  # type: ignore[attr-defined]
    run(lives())


# --- the token file and headers -------------------------------------------------------------------

def test_a_token_file(tokens: Path) -> None:
    users = read_token_file(tokens)
    assert users["secret"] == User("jane", ("devs", "ops"), "uid-2")
    assert users["plain"] == User("joe", (), "3")
    assert users["secret2"].name == "new"
    assert "" not in users


@pytest.mark.parametrize("text", ["token,user\n", "a,b,c\nx\n"])
def test_a_token_file_of_too_few_columns_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="must have at least 3 columns"):
        read_token_file(path)


@pytest.mark.parametrize(("header", "code", "name"), [
    ("Bearer secret", 201, "jane"), ("bearer secret", 201, "jane"),
    ("  BEARER secret more", 201, "jane"), ("Bearer secret\nBearer plain", 201, "jane"),
    ("Bearer wrong", 401, ""), ("Bearer secret2x", 401, ""), ("Bearer a.b.c", 401, ""),
    ("Bearer", 201, "system:anonymous"), ("Bearer ", 201, "system:anonymous"),
    ("Bearer  secret", 201, "system:anonymous"), ("Basic c2VjcmV0", 201, "system:anonymous"),
    ("secret", 201, "system:anonymous"), ("Bearer\tsecret", 201, "system:anonymous"),
    ("", 201, "system:anonymous"),
])
def test_authorization_headers(tokens: Path, header: str, code: int, name: str) -> None:
    async def lives() -> None:
        async with server(token_auth_file=tokens) as api:
            await made(api, f"{RBAC}/clusterroles", named("who", rules=[
                rule("create", "authentication.k8s.io", "selfsubjectreviews")]))
            await made(api, f"{RBAC}/clusterrolebindings", named("who", roleRef=role_ref("who"),
                       subjects=[subject("Group", "system:authenticated"),
                                 subject("Group", "system:unauthenticated")]))
            got, user = await who(api, headers={"authorization": header})
            assert got == code
            if code == 201:
                assert user["username"] == name
                last = "un" * (name == "system:anonymous")
                assert user["groups"][-1] == f"system:{last}authenticated"
            else:
                assert user == UNAUTHORIZED
    run(lives())


def test_the_word_bearer_and_one_blank() -> None:
    assert bearer_token("Bearer x y") == "x"
    assert bearer_token("Bearer \t x") == "\t"


def test_without_anonymous_nobody_comes_in_without_a_name(tokens: Path) -> None:
    async def lives() -> None:
        async with server(token_auth_file=tokens, anonymous_auth=False) as api:
            assert await who(api) == (401, UNAUTHORIZED)
            assert (await who(api, headers=bearer("admin-token")))[0] == 201
        async with server(token_auth_file=tokens, authorization_mode=["AlwaysAllow"]) as api:
            assert await who(api) == (401, UNAUTHORIZED)     # nor where all is allowed
    run(lives())


def test_a_good_certificate_comes_before_a_bad_token(tokens: Path) -> None:
    async def lives() -> None:
        async with server(token_auth_file=tokens, authorization_mode=["AlwaysAllow"]) as api:
            code, user = await who(api, certificate=certificate("jane"), headers=bearer("wrong"))
            assert (code, user["username"]) == (201, "jane")
            code, user = await who(api, certificate=certificate("jane", end=START - 1),
                                   headers=bearer("plain"))
            assert (code, user["username"]) == (201, "joe")
    run(lives())


# --- impersonation --------------------------------------------------------------------------------

async def impersonator(api: Any, *rules: Any) -> None:
    await made(api, f"{RBAC}/clusterroles", named("imp", rules=[
        *rules, rule("create", "authentication.k8s.io", "selfsubjectreviews")]))
    await made(api, f"{RBAC}/clusterrolebindings", named("imp", roleRef=role_ref("imp"), subjects=[
        subject("Group", "system:authenticated"), subject("Group", "system:unauthenticated"),
        subject("Group", "g")]))


@pytest.mark.parametrize(("headers", "user"), [
    ({"impersonate-user": "bob"}, {"username": "bob", "groups": ["system:authenticated"]}),
    ({"impersonate-user": "bob", "impersonate-group": "g\nh", "impersonate-uid": "7",
      "impersonate-extra-a%2fb": "1\n2", "impersonate-extra-c": "3"},
     {"username": "bob", "uid": "7", "groups": ["g", "h", "system:authenticated"],
      "extra": {"a/b": ["1", "2"], "c": ["3"]}}),
    ({"impersonate-user": "bob", "impersonate-group": "g\nsystem:unauthenticated"},
     {"username": "bob", "groups": ["g", "system:unauthenticated"]}),
    ({"impersonate-user": "system:anonymous"},
     {"username": "system:anonymous", "groups": ["system:unauthenticated"]}),
    ({"impersonate-user": "system:serviceaccount:n1:a"},
     {"username": "system:serviceaccount:n1:a", "groups": [
         "system:serviceaccounts", "system:serviceaccounts:n1", "system:authenticated"]}),
    ({"impersonate-user": "system:serviceaccount:n1:a", "impersonate-group": "g"},
     {"username": "system:serviceaccount:n1:a", "groups": ["g", "system:authenticated"]}),
])
def test_impersonation(tokens: Path, headers: dict[str, str], user: Any) -> None:
    async def lives() -> None:
        async with server(token_auth_file=tokens) as api:
            await impersonator(api)
            assert await who(api, headers=bearer("admin-token") | headers) == (201, user)
    run(lives())


@pytest.mark.parametrize(("headers", "message"), [
    ({"impersonate-user": "alice"},
     'users "alice" is forbidden: User "joe" cannot impersonate resource "users" in API group "" '
     "at the cluster scope"),
    ({"impersonate-user": "bob", "impersonate-group": "system:masters"},
     'groups "system:masters" is forbidden: User "joe" cannot impersonate resource "groups" in '
     'API group "" at the cluster scope'),
    ({"impersonate-user": "system:serviceaccount:n1:a"},
     'serviceaccounts "a" is forbidden: User "joe" cannot impersonate resource "serviceaccounts" '
     'in API group "" in the namespace "n1"'),
    ({"impersonate-user": "bob", "impersonate-extra-k": "v"},
     'userextras.authentication.k8s.io "v" is forbidden: User "joe" cannot impersonate resource '
     '"userextras/k" in API group "authentication.k8s.io" at the cluster scope'),
    ({"impersonate-user": "bob", "impersonate-uid": "1"},
     'uids.authentication.k8s.io "1" is forbidden: User "joe" cannot impersonate resource "uids" '
     'in API group "authentication.k8s.io" at the cluster scope'),
])
def test_each_part_of_impersonation_must_be_allowed(tokens: Path, headers: dict[str, str],
                                                    message: str) -> None:
    async def lives() -> None:
        async with server(token_auth_file=tokens) as api:
            await impersonator(api, rule("impersonate", "core", "users", "bob"))
            code, said = await who(api, headers=bearer("plain") | headers)
            assert (code, said["message"]) == (403, message)
            assert (await who(api, headers=bearer("plain") | {"impersonate-user": "bob"}))[0] == 201
    run(lives())


@pytest.mark.parametrize(("headers", "said"), [
    ({"impersonate-group": "a"}, 'Groups:[]string{"a"}, Extra:map[string][]string(nil)'),
    ({"impersonate-uid": "a"}, 'UID:"a", Groups:[]string(nil)'),
    ({"impersonate-extra-k": "v", "impersonate-user": ""},
     'Extra:map[string][]string{"k":[]string{"v"}}'),
])
def test_somebody_must_be_named(tokens: Path, headers: dict[str, str], said: str) -> None:
    async def lives() -> None:
        async with server(token_auth_file=tokens) as api:
            code, answer = await who(api, headers=bearer("admin-token") | headers)
            assert code == 400
            assert answer["message"].startswith("requested &user.DefaultInfo{")
            assert answer["message"].endswith(" without impersonating a user name")
            assert said in answer["message"]
    run(lives())


def test_who_is_impersonated_has_the_rights_and_not_those_of_the_impersonator(
        tokens: Path) -> None:
    async def lives() -> None:
        async with server(token_auth_file=tokens) as api:
            code, answer = await ask(api, "GET", "/api/v1/nodes", user=None,
                                     headers=bearer("admin-token") | {"impersonate-user": "bob"})
            assert code == 403
            assert answer["message"].startswith('nodes is forbidden: User "bob" cannot list')
    run(lives())


# --- options --------------------------------------------------------------------------------------

@pytest.mark.parametrize("modes", [[], ["Rbac"], ["RBAC", "Node"], ["RBAC", "RBAC"]])
def test_unknown_modes_are_refused(modes: list[str]) -> None:
    with pytest.raises(ValueError, match="authorization modes must be"):
        Authorizer(modes, Policy(lambda: pytest.fail("not asked")))


def test_the_first_mode_that_allows_allows() -> None:
    async def lives() -> None:
        for modes, code in ((["AlwaysDeny"], 403), (["RBAC", "AlwaysDeny"], 403),
                            (["AlwaysDeny", "AlwaysAllow"], 200), (["RBAC", "AlwaysAllow"], 200)):
            async with server(authorization_mode=modes) as api:
                got, answer = await ask(api, "GET", "/api/v1/nodes", user=User("u"))
                assert got == code
                if modes == ["AlwaysDeny"]:
                    assert answer["message"].endswith(": Everything is forbidden.")
                assert (await ask(api, "GET", "/api/v1/nodes",
                                  user=User("u", ("system:masters",))))[0] == 200
    run(lives())


def test_a_user_given_by_a_caller_in_process_is_not_asked_for_credentials() -> None:
    async def lives() -> None:
        async with server(anonymous_auth=False) as api:
            request = Request.of("GET", "/api/v1/nodes", headers=bearer("wrong"),
                                 user=User("u", ("system:masters",)))
            assert (await api.handle(request)).code == 200
    run(lives())
