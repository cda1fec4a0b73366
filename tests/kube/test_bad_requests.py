# SPDX-License-Identifier: Apache-2.0
"""A whole server, as `serve` starts it, and clients who mean it no good: over both protocols each
gets its Status, nothing is stored, and others are served on."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from kube_wires import H2, answer_of, connect, get

import kvcore
from kvcore.kube import decode, patch, serve, validation
from kvcore.kube.request import ADMIN, Request
from kvcore.kube.server import Server
from kvcore.kube.status import Cause
from kvcore.kube.validation.errors import Enough
from kvcore.kube.validation.metadata import check_common

PROTOCOLS = ("http/1.1", "h2")
Object = dict[str, Any]
Headers = tuple[tuple[str, str], ...]

NS = "/api/v1/namespaces/default"
MAPS, PODS, NOBODY = f"{NS}/configmaps", f"{NS}/pods", "/api/v1/namespaces/kube-system/secrets"
G = "rbac.authorization.k8s.io"
ROLES, BINDINGS = f"/apis/{G}/v1/clusterroles", f"/apis/{G}/v1/clusterrolebindings"
REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
ALICE: Headers = (("authorization", "Bearer secret"),)
JSON: Headers = (("content-type", "application/json"),)
YAML: Headers = (("content-type", "application/yaml"),)
MERGE: Headers = (("content-type", "application/merge-patch+json"),)
PATCH: Headers = (("content-type", "application/json-patch+json"),)
ENVELOPE = b"k8s\0"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with all defaults, an unprivileged user alice, and a ConfigMap and a pod to harm."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.csv"
    tokens.write_text("secret,alice,1,devs\n")
    with kvcore.open() as store, serve(store, token_auth_file=tokens) as server:
        make(server, MAPS, {"metadata": {"name": "there"}, "data": {"a": "1"}})
        make(server, PODS, {"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "image": "i"}]}})
        make(server, f"/apis/{G}/v1/namespaces/default/roles", {
            "metadata": {"name": "writer"}, "rules": [
                {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "update"]},
                {"apiGroups": [G], "resources": ["roles", "rolebindings"],
                 "verbs": ["create", "update", "patch"]}]})
        make(server, f"/apis/{G}/v1/namespaces/default/rolebindings", {
            "metadata": {"name": "writer"}, "subjects": [{"kind": "User", "name": "alice"}],
            "roleRef": {"apiGroup": G, "kind": "Role", "name": "writer"}})
        yield server


def make(server: Server, url: str, body: Object) -> None:
    code, made = ask(server, "http/1.1", "POST", url, json.dumps(body).encode(), JSON)
    assert code == 201, made


def ask(server: Server, protocol: str, method: str, url: str, body: bytes | None = None,
        headers: Headers = JSON, admin: bool = True) -> tuple[int, Object]:
    """Code and Status (or object) of one request on a connection of its own."""
    client = server.pki.admin if admin else None
    with connect(server.port, protocol, client, authority=server.pki) as sock:
        if protocol == "h2":
            wire = H2(sock)
            code, said = wire.answer(wire.ask(url, method=method, body=body, headers=headers))
            return int(code), decoded(said)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        sock.sendall(f"{method} {url} HTTP/1.1\r\nHost: x\r\n{lines}{length}\r\n".encode()
                     + (body or b""))
        answer = answer_of(sock, method)
        return answer.status, decoded(answer.read())


def decoded(body: bytes) -> Object:
    return json.loads(body) if body[:1] == b"{" else {"text": body.decode()}


def nested(levels: int, begin: bytes = b'{"a":', end: bytes = b"}") -> bytes:
    return begin * levels + b"1" + end * levels


def fields(levels: int) -> bytes:
    """A ConfigMap with levels in the one place where anything may stand."""
    return (b'{"metadata":{"name":"x","managedFields":[{"manager":"m","operation":"Update",'
            b'"apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":%b}]}}' % nested(levels))


def token(**said: Any) -> str:
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": 1, "start": "a\0", **said}).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


class Bad(NamedTuple):
    """A request and what is said to it; `message`: a part of it."""

    method: str
    url: str
    body: bytes | None
    headers: Headers
    code: int
    reason: str | None
    message: str = ""
    admin: bool = True


NO_PATH, NO_METHOD = "could not find the requested resource", "does not allow this method"
NO_TYPE = "unknown format - accepted media types include: application/json"
BAD: dict[str, Bad] = {
    # paths
    "empty segment": Bad("GET", "/api/v1//pods", None, (), 404, "NotFound", NO_PATH),
    "cluster kind in a namespace": Bad("GET", f"{NS}/nodes", None, (), 404, "NotFound", NO_PATH),
    "namespace in another": Bad("GET", f"{NS}/namespaces/kube-system", None, (), 404, "NotFound"),
    "name is the parent": Bad("GET", f"{MAPS}/%2e%2e", None, (), 400, "BadRequest", "'..'"),
    "name with a percent": Bad("GET", f"{MAPS}/%25", None, (), 400, "BadRequest", "'%'"),
    "too many parts": Bad("GET", f"{MAPS}/there/x/y", None, (), 404, "NotFound", NO_PATH),
    "PUT of a collection": Bad("PUT", MAPS, b"{}", JSON, 405, "MethodNotAllowed", NO_METHOD),
    "POST of a name": Bad("POST", f"{MAPS}/x", b"{}", JSON, 405, "MethodNotAllowed", NO_METHOD),
    "DELETE of all namespaces'": Bad("DELETE", "/api/v1/configmaps", None, (), 405,
                                     "MethodNotAllowed", NO_METHOD),
    "OPTIONS": Bad("OPTIONS", MAPS, None, (), 405, "MethodNotAllowed", NO_METHOD),
    "PUT of a binding": Bad("PUT", f"{PODS}/p/binding", b"{}", JSON, 405, "MethodNotAllowed"),
    "GET of a token": Bad("GET", f"{NS}/serviceaccounts/default/token", None, (), 405,
                          "MethodNotAllowed"),
    "a named review": Bad("POST", f"{REVIEW}/x", b"{}", JSON, 404, "NotFound"),
    # who asks
    "anonymous": Bad("GET", NOBODY, None, (), 403, "Forbidden", "system:anonymous", False),
    "anonymous metrics": Bad("GET", "/metrics", None, (), 403, "Forbidden", "path", False),
    "unknown token": Bad("GET", MAPS, None, (("authorization", "Bearer x"),), 401, "Unauthorized",
                         "", False),
    "second token": Bad("GET", MAPS, None, (("authorization", "Bearer x"), *ALICE), 401,
                        "Unauthorized", "", False),
    "unsigned token": Bad("GET", MAPS, None, (("authorization", "Bearer eyJhbGciOiJub25lIn0.e30."),
                                              ), 401, "Unauthorized", "", False),
    "not told what is wrong": Bad("POST", PODS, b"{", (*JSON, *ALICE), 403, "Forbidden",
                                  'User "alice" cannot create resource "pods"', False),
    "not told what is there": Bad("GET", f"{PODS}/p", None, ALICE, 403, "Forbidden", "", False),
    "a PUT may not create": Bad(
        "PUT", f"/apis/{G}/v1/namespaces/default/roles/more", json.dumps({
            "metadata": {"name": "more"}, "rules": [
                {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}).encode(),
        (*JSON, *ALICE), 403, "Forbidden", "is attempting to grant RBAC permissions", False),
    "a PATCH may not grant": Bad(
        "PATCH", f"/apis/{G}/v1/namespaces/default/roles/writer", json.dumps([
            {"op": "add", "path": "/rules/-", "value": {
                "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}}]).encode(),
        (*PATCH, *ALICE), 403, "Forbidden", "is attempting to grant RBAC permissions", False),
    "a binding may not grant": Bad(
        "POST", f"/apis/{G}/v1/namespaces/default/rolebindings", json.dumps({
            "metadata": {"name": "x"}, "subjects": [{"kind": "User", "name": "alice"}],
            "roleRef": {"apiGroup": G, "kind": "ClusterRole", "name": "cluster-admin"}}).encode(),
        (*JSON, *ALICE), 403, "Forbidden", "is attempting to grant RBAC permissions", False),
    "impersonation": Bad("GET", MAPS, None, (*ALICE, ("impersonate-user", "admin")), 403,
                         "Forbidden", 'users "admin" is forbidden', False),
    "the second group too": Bad(
        "GET", MAPS, None, (*ALICE, ("impersonate-user", "alice"), ("impersonate-group", "devs"),
                            ("impersonate-group", "system:masters")), 403, "Forbidden", "", False),
    # bodies
    "over 3 MiB": Bad("POST", MAPS, b" " * (3 << 20) + b"{", JSON, 413, "RequestEntityTooLarge"),
    "no JSON": Bad("POST", MAPS, b'{"a":1,}', JSON, 400, "BadRequest", "invalid character '}'"),
    "NaN": Bad("POST", MAPS, b'{"a":NaN}', JSON, 400, "BadRequest", "invalid character 'N'"),
    "two values": Bad("POST", MAPS, b"{}{}", JSON, 400, "BadRequest", "after top-level value"),
    "half a surrogate": Bad("POST", MAPS, b'{"metadata":{"name":"\\ud800"}}', JSON, 400,
                            "BadRequest"),
    "unknown type": Bad("POST", MAPS, b"{}", (("content-type", "text/plain"),), 415,
                        "UnsupportedMediaType", NO_TYPE),
    "patch of no type": Bad("PATCH", f"{MAPS}/there", b"{}", JSON, 415, "UnsupportedMediaType"),
    "unknown field": Bad("POST", f"{MAPS}?fieldValidation=Strict",
                         b'{"metadata":{"name":"x"},"zz":1}', JSON, 400, "BadRequest",
                         'unknown field "zz"'),
    "a field twice": Bad("POST", f"{MAPS}?fieldValidation=Strict",
                         b'{"metadata":{"name":"x"},"data":{"a":"1","a":"2"}}', JSON, 400,
                         "BadRequest", 'duplicate field "data.a"'),
    "deep JSON": Bad("POST", MAPS, fields(100_000), JSON, 400, "BadRequest"),
    "too deep to write": Bad("POST", MAPS, fields(300), JSON, 400, "BadRequest", "max depth"),
    "deep YAML": Bad("POST", MAPS, nested(3000, b"[", b"]"), YAML, 400, "BadRequest"),
    "deep PUT": Bad("PUT", f"{MAPS}/there", fields(300).replace(b'"x"', b'"there"'), JSON, 400,
                    "BadRequest", "max depth"),
    "deep merge patch": Bad("PATCH", f"{MAPS}/there", fields(300), MERGE, 400, "BadRequest",
                            "max depth"),
    "deep by moves": Bad("PATCH", f"{MAPS}/there", json.dumps(300 * [
        {"op": "move", "from": "/metadata", "path": "/m"},
        {"op": "add", "path": "/metadata", "value": {}},
        {"op": "move", "from": "/m", "path": "/metadata/annotations"}]).encode(), PATCH, 422,
        "Invalid"),
    "deep review": Bad("POST", REVIEW, b'{"spec":{},"zz":%b}' % nested(300), JSON, 400,
                       "BadRequest", "max depth"),
    "a huge number in YAML": Bad("POST", MAPS, b"metadata: {name: x, generation: 0x%b}" % (
        b"f" * 5000), YAML, 400, "BadRequest", "64-bit"),
    "a YAML bomb": Bad("POST", MAPS, b"a0: &a0 x\n" + b"".join(
        b"a%d: &a%d [%b]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 9)),
        YAML, 400, "BadRequest", "excessive aliasing"),
    "a tag that lies": Bad("POST", MAPS, b'data: {a: !!bool "x"}', YAML, 400, "BadRequest"),
    "a time that is none": Bad("POST", MAPS, b'data: {a: !!timestamp "x"}', YAML, 400,
                               "BadRequest"),
    "a number that is none": Bad("POST", MAPS, b'data: {a: !!int ""}', YAML, 400, "BadRequest"),
    "an object of Python": Bad("POST", MAPS, b'!!python/object/apply:os.getcwd []', YAML, 400,
                               "BadRequest"),
    "an envelope of nothing": Bad("POST", MAPS, ENVELOPE + b"\xff\xff\xff\xff", (
        ("content-type", "application/vnd.kubernetes.protobuf"),), 400, "BadRequest"),
    "a pointer that is none": Bad("PATCH", f"{MAPS}/there", b'[{"op":"remove","path":null}]', PATCH,
                                  422, "Invalid"),
    "NUL in a name": Bad("POST", MAPS, b'{"metadata":{"name":"a\\u0000b"}}', JSON, 422, "Invalid"),
    "a slash in a name": Bad("POST", MAPS, b'{"metadata":{"name":"a/b"}}', JSON, 422, "Invalid"),
    "another namespace": Bad("POST", MAPS, b'{"metadata":{"name":"x","namespace":"kube-system"}}',
                             JSON, 400, "BadRequest", "does not match the namespace"),
    # the old spelling of a watch is a path of any method
    **{f"{method} of a watch": Bad(method, f"/api/v1/watch/namespaces/default/configmaps{name}",
                                   b"{}", headers, 405, "MethodNotAllowed")
       for method, name, headers in (("POST", "", JSON), ("PUT", "/there", JSON),
                                     ("PATCH", "/there", MERGE), ("DELETE", "", JSON))},
    "a watch of a part": Bad("GET", "/api/v1/watch/namespaces/default/pods/p/status", None, (), 404,
                             "NotFound"),
    "POST of a watch of nothing": Bad("POST", "/api/v1/watch/nope", b"{}", JSON, 404, "NotFound"),
    "POST of a watch that is not allowed": Bad(
        "POST", "/api/v1/watch/namespaces/default/secrets", b"{}", (*JSON, *ALICE), 403,
        "Forbidden", 'cannot watch resource "secrets"', False),
    # parts
    "target of a binding": Bad("POST", f"{PODS}/p/binding", b'{"metadata":{"name":"p"},"target":5}',
                               JSON, 400, "BadRequest", "unmarshal number"),
    "name of a node": Bad("POST", f"{NS}/bindings",
                          b'{"metadata":{"name":"p"},"target":{"name":["n"]}}', JSON, 400,
                          "BadRequest", "unmarshal array"),
    "labels of a binding": Bad("POST", f"{PODS}/p/binding", b'{"metadata":{"name":"p",'
                               b'"labels":"x"},"target":{"name":"n"}}', JSON, 400, "BadRequest",
                               "unmarshal string"),
    "another pod's binding": Bad("POST", f"{NS}/bindings", b'{"metadata":{"name":"../x"},'
                                 b'"target":{"name":"n"}}', JSON, 400, "BadRequest"),
    "options of an eviction": Bad("POST", f"{PODS}/p/eviction", b'{"metadata":{"name":"p"},'
                                  b'"deleteOptions":[1]}', JSON, 400, "BadRequest",
                                  "unmarshal array"),
    # versions, tokens, uids
    "forged version": Bad("PUT", f"{MAPS}/there", b'{"metadata":{"name":"there",'
                          b'"resourceVersion":"1"}}', JSON, 409, "Conflict"),
    "forged uid": Bad("PUT", f"{MAPS}/there", b'{"metadata":{"name":"there","uid":"x"}}', JSON, 409,
                      "Conflict"),
    "uid of a delete": Bad("DELETE", f"{MAPS}/there", b'{"preconditions":{"uid":"x"}}', JSON, 409,
                           "Conflict"),
    "version of nothing": Bad("GET", f"{MAPS}?resourceVersion=x", None, (), 400, "BadRequest"),
    "token that is none": Bad("GET", f"{MAPS}?continue=%00", None, (), 400, "BadRequest"),
    "token out of the list": Bad("GET", f"{MAPS}?limit=1&continue={token(start='../../secrets/x')}",
                                 None, (), 400, "BadRequest"),
    "the first of two counts": Bad("POST", f"{MAPS}?dryRun=x&dryRun=All",
                                   b'{"metadata":{"name":"x"}}', JSON, 422, "Invalid"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", BAD)
def test_refused_and_nothing_stored(api: Server, name: str, protocol: str) -> None:
    method, url, body, headers, code, reason, message, admin = BAD[name]
    before = api.store.revision
    said, status = ask(api, protocol, method, url, body, headers, admin)
    assert (said, status.get("code"), status.get("reason")) == (code, code, reason), status
    assert status["kind"] == "Status" and message in status.get("message", ""), status
    assert api.store.revision == before
    assert ask(api, protocol, "GET", f"{MAPS}/there")[0] == 200


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_of_two_tokens_the_first_counts(api: Server, protocol: str) -> None:
    headers = (*JSON, *ALICE, ("authorization", "Bearer x"))
    code, who = ask(api, protocol, "POST", WHO, b"{}", headers, admin=False)
    assert code == 201 and who["status"]["userInfo"]["username"] == "alice"


@pytest.mark.parametrize("method, url, begin, end, headers", [
    ("POST", MAPS, b'{"metadata":{"name":"x"},"zz":', b"}", JSON),
    ("POST", MAPS, b"metadata: {name: x}\nzz: ", b"", YAML),
    ("PUT", f"{MAPS}/there", b'{"metadata":{"name":"there"},"zz":', b"}", JSON),
    ("PATCH", f"{MAPS}/there", b'{"zz":', b"}", MERGE),
    ("PATCH", f"{MAPS}/there", b'[{"op":"test","path":"/zz","value":', b"}]", PATCH),
    ("DELETE", f"{MAPS}/there", b'{"zz":', b"}", JSON)])
def test_levels_of_a_body(api: Server, method: str, url: str, begin: bytes, end: bytes,
                          headers: Headers) -> None:
    """250, and with a webhook's review around them they can still be written."""
    around = 2 if begin[:1] == b"[" else 1
    codes = [ask(api, "h2", method, f"{url}?dryRun=All" if method != "DELETE" else f"{url}x",
                 begin + nested(levels - around) + end, headers)[0] for levels in (250, 251)]
    assert codes[0] not in (400, 500) and codes[1] == 400, codes
    deep = json.loads(nested(250))
    assert orjson.dumps({"request": {"object": deep}}) and not decode.unwritable(deep)
    assert "max depth" in decode.unwritable([deep])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("said, code", [
    (("application/json", "text/plain"), 201), (("text/plain", "application/json"), 415),
    (("application/yaml", "application/json"), 201), (("Application/JSON;charset=utf-8",), 201)])
def test_of_two_content_types_the_first_counts(api: Server, protocol: str, said: tuple[str, ...],
                                               code: int) -> None:
    headers = tuple(("content-type", value) for value in said)
    body = b"metadata: {name: x}" if "yaml" in said[0] else b'{"metadata":{"name":"x"}}'
    answer = ask(api, protocol, "POST", f"{MAPS}?dryRun=All", body, headers)
    assert answer[0] == code, answer


@pytest.mark.parametrize("method, url, headers", [
    ("POST", MAPS, JSON), ("PUT", f"{MAPS}/there", JSON), ("DELETE", f"{MAPS}/there", JSON),
    ("DELETE", MAPS, JSON), ("PATCH", f"{MAPS}/there", MERGE), ("PATCH", f"{PODS}/p/status", PATCH),
    ("POST", f"{PODS}/p/eviction", JSON), ("POST", REVIEW, JSON)])
def test_a_large_body_is_read_in_a_thread(api: Server, monkeypatch: pytest.MonkeyPatch, method: str,
                                          url: str, headers: Headers) -> None:
    """Those who are served by the loop meanwhile do not wait for it."""
    threads = []

    def seen(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def reader(body: bytes) -> Any:
            threads.append(threading.get_ident())
            return read(body)
        return reader
    monkeypatch.setattr(decode, "syntax_problem", seen(decode.syntax_problem))
    for kind, read in patch.PATCHES.items():
        monkeypatch.setitem(patch.PATCHES, kind, seen(read))
    body = b'{"a":"%b' % (b"x" * (200 << 10))
    code, said = ask(api, "h2", method, url, body, headers)
    assert (code, said["reason"]) == (400, "BadRequest"), said
    assert len(threads) == 1 and threads[0] != api.replicas[0].thread.ident


@pytest.mark.parametrize("method, url", [("POST", MAPS), ("PUT", f"{MAPS}/there"),
                                         ("PUT", f"{PODS}/p/status")])
def test_the_fields_of_a_large_body_are_looked_at_in_a_thread(
        api: Server, monkeypatch: pytest.MonkeyPatch, method: str, url: str) -> None:
    """Repeated and unknown ones make that slow. What is told of them is what is told of others."""
    threads, told = [], []
    strict = validation.strict_errors

    def seen(*args: Any) -> list[str]:
        threads.append(threading.get_ident())
        told.append(strict(*args))
        return told[-1]
    monkeypatch.setattr(validation, "strict_errors", seen)
    name = "p" if "/p/" in url else "there"
    for filler in (1, 200 << 10):
        body = (b'{"metadata":{"name":"%b","labels":{"a":"1","a":"2"}},"zz":"%b"}'
                % (name.encode(), b"x" * filler))
        code, said = ask(api, "h2", method, f"{url}?dryRun=All&fieldValidation=Strict", body)
        assert code == 400 and said["message"].endswith(
            'strict decoding error: duplicate field "metadata.labels.a", unknown field "zz"')
    loop = api.replicas[0].thread.ident
    assert len(told) == 2 and told[0] == told[1]
    assert threads[0] == loop != threads[1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_large_bodies_that_are_right(api: Server, protocol: str) -> None:
    """What a thread has read is what the verb does."""
    filler = json.dumps({"x": "y" * (200 << 10)})[1:-1].encode()
    for method, url, body, headers in (
            ("POST", MAPS, b'{"metadata":{"name":"large"},"data":{%b}}' % filler, JSON),
            ("PATCH", f"{MAPS}/large", b'{"metadata":{"labels":{"a":"b"}},"data":{%b}}' % filler,
             MERGE),
            ("PUT", f"{MAPS}/large", b'{"metadata":{"name":"large","labels":{"a":"c"}},'
             b'"data":{%b}}' % filler, JSON)):
        code, made = ask(api, protocol, method, url, body, headers)
        assert code in (200, 201) and len(made["data"]["x"]) == 200 << 10, made
    assert made["metadata"]["labels"] == {"a": "c"}
    code, said = ask(api, protocol, "DELETE", f"{MAPS}/large", b'{"preconditions":{"uid":"x"},%b}'
                     % filler)
    assert code == 409, said
    uid = made["metadata"]["uid"].encode()
    for path in ("/large", "?labelSelector=a%3Dc"):
        code, said = ask(api, protocol, "DELETE", f"{MAPS}{path}",
                         b'{"dryRun":["All"],"preconditions":{"uid":"%b"},%b}' % (uid, filler))
        assert code == 200, said
        assert ask(api, protocol, "GET", f"{MAPS}/large")[0] == 200
    assert ask(api, protocol, "DELETE", f"{MAPS}/large", b"{%b}" % filler)[0] == 200
    assert ask(api, protocol, "GET", f"{MAPS}/large")[0] == 404


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_token_ends_on_a_connection_that_goes_on(api: Server, protocol: str) -> None:
    """Each request is asked anew for who it is of."""
    make(api, f"{NS}/serviceaccounts", {"metadata": {"name": "gone"}})
    _, made = ask(api, protocol, "POST", f"{NS}/serviceaccounts/gone/token", b'{"spec":{}}')
    header = ("authorization", f"Bearer {made['status']['token']}")
    with connect(api.port, protocol, authority=api.pki) as sock:
        wire = H2(sock) if protocol == "h2" else None

        def code() -> int:
            if wire is not None:
                return int(wire.answer(wire.ask(MAPS, headers=(header,)))[0])
            return get(sock, MAPS, f"{header[0]}: {header[1]}\r\n")[0]
        assert code() == 403
        assert ask(api, protocol, "DELETE", f"{NS}/serviceaccounts/gone")[0] == 200
        assert code() == 401


def test_many_repeated_keys_are_told_as_upstream_tells_them(api: Server) -> None:
    body = b"metadata: {name: q}\ndata:\n" + b"  k: v\n" * 30_000
    with connect(api.port, client=api.pki.admin, authority=api.pki) as sock:
        sock.sendall(f"POST {MAPS}?dryRun=All HTTP/1.1\r\nHost: x\r\n"
                     f"Content-Type: application/yaml\r\nContent-Length: {len(body)}\r\n\r\n"
                     .encode() + body)
        head = sock.recv(1 << 20).partition(b"\r\n\r\n")[0]
        assert head.startswith(b"HTTP/1.1 201") and head.count(b"\r\nWarning: ") == 100


def test_what_clients_make_up_makes_no_series(api: Server) -> None:
    """A method and a subresource are anybody's to invent, without a name or a right."""
    def series() -> int:
        return len(api.api.metrics.requests.values)
    with connect(api.port, "h2", authority=api.pki) as sock:
        wire = H2(sock)

        def invent(word: str) -> None:
            wire.answer(wire.ask(f"{PODS}/p/{word}", method=word.upper()))
            wire.answer(wire.ask(f"{NS}/{word}/x/{word}"))
        invent("first")
        before = series()
        for word in ("second", "third", "fourth"):
            invent(word)
        assert series() == before


@pytest.mark.parametrize("stored", [
    b'{"apiVersion":"v1","kind":"X","metadata":{"name":"e"},"rules":rubbish}',
    b'{"apiVersion":"v1","kind":"X","x":{"metadata":{"a":1}}}',
    b'{"apiVersion":"v1","kind":"X","metadata":{"name":"e","namespace":["n"]}}',
    b"\xff\x00", b"[]", b""])
@pytest.mark.parametrize("where", [f"{G}/clusterroles/e", f"{G}/clusterrolebindings/e",
                                   f"{G}/roles/default/e", f"{G}/rolebindings/default/e",
                                   "namespaces/e"])
def test_foreign_bytes_stop_nobody(tmp_path: Path, where: str, stored: bytes) -> None:
    tokens = tmp_path / "tokens.csv"
    tokens.write_text("secret,alice,1\n")
    with kvcore.open() as store:
        for _ in range(2):                        # put beneath a server, and found by one
            with serve(store, token_auth_file=tokens) as server:
                store.put(f"/registry/{where}".encode(), stored)
                for protocol in PROTOCOLS:
                    assert ask(server, protocol, "GET", MAPS, None, ALICE, admin=False)[0] == 403
                name = f"n{store.revision}"
                make(server, "/api/v1/namespaces", {"metadata": {"name": name}})
                server.run(server.api.feed.reach(store.revision))
                make(server, f"/api/v1/namespaces/{name}/configmaps", {"metadata": {"name": "x"}})


def test_an_object_without_a_uid_can_be_changed_and_deleted(api: Server) -> None:
    api.store.put(b"/registry/configmaps/default/bare",
                  b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bare",'
                  b'"namespace":"default"}}')
    assert ask(api, "h2", "PATCH", f"{MAPS}/bare", b'{"data":{"a":"1"}}', MERGE)[0] == 200
    assert ask(api, "h2", "DELETE", f"{MAPS}/bare")[0] == 200


def test_a_large_body_is_read_beside_the_loop(api: Server) -> None:
    """Others are answered while it is read: their requests come and go within its own."""
    body = b"metadata: {name: q}\ndata:\n" + b"".join(b"  k%d: v\n" % i for i in range(20_000))

    async def both() -> tuple[int, int]:
        task = asyncio.ensure_future(api.api.handle(Request.of(
            "POST", f"{MAPS}?dryRun=All", body=body, user=ADMIN, headers=dict(YAML))))
        turns = 0
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        return task.result().code, turns
    code, turns = api.run(both())
    assert code == 201 and turns > 20


def test_a_patch_of_a_large_object_is_applied_beside_the_loop(
        api: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large patch, and a small one of an object that is large."""
    threads = []
    merge = patch.merge

    def seen(target: Any, said: Object) -> Object:
        threads.append(threading.get_ident())
        return merge(target, said)
    monkeypatch.setattr(patch, "merge", seen)
    make(api, MAPS, {"metadata": {"name": "grown"}})
    for text in ("a", "x" * (200 << 10), "b"):
        said = json.dumps({"data": {text[0]: text}}).encode()
        assert ask(api, "h2", "PATCH", f"{MAPS}/grown", said, MERGE)[0] == 200
    loop = api.replicas[0].thread.ident
    outer = [threads[at] for at in range(0, len(threads), 2)]       # data is merged within
    assert [thread == loop for thread in outer] == [True, False, False]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("query, code", [
    ("dryRun=All&dryRun=x", 422), ("dryRun=x&dryRun=All", 422), ("dryRun=All&dryRun=All", 200)])
def test_every_dry_run_counts(api: Server, protocol: str, query: str, code: int) -> None:
    values = json.dumps([pair.partition("=")[2] for pair in query.split("&")])
    for method, body, headers in (("PATCH", b'{"data":{"a":"2"}}', MERGE), ("DELETE", None, ())):
        answer, said = ask(api, protocol, method, f"{MAPS}/there?{query}", body, headers)
        assert answer == code
        if code == 422:
            assert f"Unsupported value: {values.replace(' ', '')}: supp" in said["message"]


def map_of(**metadata: Any) -> bytes:
    return json.dumps({"metadata": {"name": "x", **metadata}}).encode()


# Each cause of these shows the whole of what is wrong: all together they would fill the memory.
SQUARED = {
    "field manager": (f"{REVIEW}?fieldManager={'%01' * 20_000}",
                      b'{"spec":{"resourceAttributes":{"verb":"get"}}}'),
    "manager": (MAPS, map_of(managedFields=[{"manager": "\u0080" * 50_000, "operation": "Update",
                                             "fieldsType": "FieldsV1"}])),
    "controllers": (MAPS, map_of(ownerReferences=[
        {"apiVersion": "v1", "kind": "Pod", "name": f"p{i}", "uid": "u", "controller": True}
        for i in range(1500)])),
    "annotations": (MAPS, map_of(annotations={f"-{i}": "" for i in range(30_000)})),
    "scopes": (MAPS.replace("configmaps", "resourcequotas"), json.dumps(
        {"metadata": {"name": "x"}, "spec": {"scopes": ["x"] * 12_000}}).encode()),
}


@pytest.mark.parametrize("what", SQUARED)
def test_a_refusal_is_not_much_larger_than_its_request(api: Server, what: str) -> None:
    url, body = SQUARED[what]
    code, said = ask(api, "h2", "POST", url, body, JSON)
    assert (code, said["reason"]) == (422, "Invalid")
    assert len(said["details"]["causes"]) <= 10_000
    assert len(json.dumps(said)) < 8 << 20


class Counted(list[str]):
    """A list that knows how many of it were looked at."""

    looked_at = 0

    def __iter__(self) -> Iterator[str]:
        for one in super().__iter__():
            self.looked_at += 1
            yield one


def test_checks_end_with_the_last_cause_that_is_told() -> None:
    finalizers, errs = Counted(["!"] * 30_000), list[Cause]()
    with pytest.raises(Enough):
        check_common(errs, {"finalizers": finalizers})
    assert len(errs) == 10_000 and finalizers.looked_at == 10_001


@pytest.mark.parametrize("url", [REVIEW, MAPS])
def test_a_refusal_of_more_than_is_told(api: Server, url: str) -> None:
    body = map_of(finalizers=["!"] * 12_000) if url == MAPS else json.dumps(
        {"spec": {"resourceAttributes": {"labelSelector": {"requirements": [{}] * 12_000}}}}
    ).encode()
    code, said = ask(api, "h2", "POST", url, body, JSON)
    assert (code, said["reason"], len(said["details"]["causes"])) == (422, "Invalid", 10_000)


def test_a_text_behind_many_aliases_is_a_bomb(api: Server) -> None:
    body = b"metadata: {name: x}\nimmutable: &a %b\ndata: [%b]" % (b"x" * 2**20, b"*a," * 70)
    code, said = ask(api, "h2", "POST", MAPS, body, YAML)
    assert (code, "excessive aliasing" in said["message"]) == (400, True), said["message"]


def own(kind: str, name: str, rest: str) -> bytes:
    return (f'{{"apiVersion":"v1","kind":"{kind}","metadata":{{"name":"{name}",'
            f'"namespace":"default","uid":"u"}},{rest}}}').encode()


# What lies in the store -> what the refusal says of it.
STORED = {
    "garbage": (b"\xff\x00", ""), "text": (b"nonsense", ""), "nothing": (b"", ""),
    "an envelope of nothing": (b"k8s\0garbage", ""), "a list": (b"[]", "no Kubernetes object"),
    "no object": (b'{"a":1}', "no Kubernetes object"),
    "no metadata": (b'{"apiVersion":"v1","kind":"Pod"}', "no Kubernetes object"),
    "metadata": (b'{"apiVersion":"v1","kind":"Pod","metadata":5}', "no Kubernetes object"),
    "labels": (b'{"apiVersion":"v1","kind":"Pod","metadata":{"name":"f","labels":7}}',
               "cannot unmarshal number into Go struct field ObjectMeta.metadata.labels"),
    "spec": (own("Pod", "f", '"spec":"x"'),
             "cannot unmarshal string into Go struct field Pod.spec"),
    "status": (own("Pod", "f", '"spec":{"nodeName":"n","containers":[{"name":"c","image":"i"}]},'
                   '"status":[1]'), "cannot unmarshal array into Go struct field Pod.status"),
}
CHANGES: dict[str, tuple[str, str, bytes | None, Headers]] = {
    "PUT": ("PUT", "", b'{"metadata":{"name":"f"},"spec":{"nodeName":"n","containers":['
            b'{"name":"c","image":"i"}]}}', JSON),
    "PUT status": ("PUT", "/status", b'{"metadata":{"name":"f"},"status":{"phase":"Running"}}',
                   JSON),
    "merge": ("PATCH", "", b'{"metadata":{"annotations":{"a":"b"}}}', MERGE),
    "JSON patch": ("PATCH", "", b"[]", PATCH),
    "DELETE": ("DELETE", "", None, ()),
    "bind": ("POST", "/binding", b'{"metadata":{"name":"f"},"target":{"name":"n"}}', JSON),
    "evict": ("POST", "/eviction", b'{"metadata":{"name":"f"}}', JSON),
}
# Changes for which it does not matter what a part of the stored object is.
DONE = {("labels", "PUT"), ("labels", "DELETE"), ("labels", "bind"), ("spec", "PUT status"),
        ("status", "PUT status"), ("status", "bind")}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", STORED)
def test_a_change_of_what_is_no_object(api: Server, name: str, change: str) -> None:
    """Refused in words that name the key and the reason; others are not concerned."""
    stored, why = STORED[name]
    method, part, body, headers = CHANGES[change]
    api.store.put(b"/registry/pods/default/f", stored)
    before = api.store.revision
    code, said = ask(api, "h2", method, f"{PODS}/f{part}", body, headers)
    if code != 500:
        assert (name, change) in DONE, said
    else:
        assert said["reason"] == "InternalError" and said["message"].startswith(
            "Internal error occurred: unable to decode the object stored at "
            "/registry/pods/default/f: "), said
        assert why in said["message"] and api.store.revision == before, said
        assert ask(api, "h2", "POST", PODS, b'{"metadata":{"name":"f"},"spec":{"containers":['
                   b'{"name":"c","image":"i"}]}}')[1]["reason"] == "AlreadyExists"
    api.store.delete(b"/registry/pods/default/f")
    code, said = ask(api, "h2", "PATCH", f"{PODS}/p", b"{}", MERGE)
    assert code == 200, said


@pytest.mark.parametrize("name, stored, why", [
    ("spoilt1", own("Namespace", "spoilt1", '"spec":{},"status":5'),
     "json: cannot unmarshal number into Go struct field Namespace.status of type "
     "v1.NamespaceStatus"),
    ("spoilt2", own("Namespace", "spoilt2", '"spec":{},"status":{"phase":[]}'),
     "cannot unmarshal array into Go struct field NamespaceStatus.status.phase"),
    ("spoilt3", own("Namespace", "spoilt3", '"spec":"x"'), "Namespace.spec"),
    ("spoilt4", b'{"apiVersion":"v1","kind":"Namespace","metadata":7}', "no Kubernetes object")])
def test_a_namespace_of_wrong_types(api: Server, name: str, stored: bytes, why: str) -> None:
    """Creates in it are refused as upstream refuses them, and it can be made good again."""
    key = f"/registry/namespaces/{name}".encode()
    for known in (False, True):
        if known:
            make(api, "/api/v1/namespaces", {"metadata": {"name": name}})
            make(api, f"/api/v1/namespaces/{name}/configmaps", {"metadata": {"name": "x"}})
        api.store.put(key, stored)
        for body, url in ((b'{"metadata":{"name":"y"}}', "configmaps"),
                          (b'{"metadata":{"name":"y"},"spec":{"containers":[{"name":"c",'
                           b'"image":"i"}]}}', "pods")):
            code, said = ask(api, "h2", "POST", f"/api/v1/namespaces/{name}/{url}", body)
            assert (code, said["reason"]) == (500, "InternalError"), said
            assert why in said["message"] and key.decode() in said["message"], said
        code, said = ask(api, "h2", "GET", f"/api/v1/namespaces/{name}")
        assert code == 500 and why in said["message"], said
        make(api, MAPS, {"metadata": {"generateName": "fine-"}})
        api.store.delete(key)
        assert ask(api, "h2", "GET", "/api/v1/namespaces")[0] == 200
