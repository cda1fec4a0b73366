# SPDX-License-Identifier: Apache-2.0
"""The audit log: a line a request, as upstream writes it at the level Metadata."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from kube_server import CONFIG_MAPS, PODS, Kube, config_map, pod
from kube_wires import H2, answer_of, connect

import kvcore
from kvcore.kube import serve
from kvcore.kube.admission import Chain
from kvcore.kube.admission.chain import review, validating
from kvcore.kube.audit import AuditLog
from kvcore.kube.request import Request, User
from kvcore.kube.security import secure
from kvcore.kube.server import Server

Object = dict[str, Any]
FILE = "audit.log"


def lines(path: Path) -> list[Object]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Logged(Kube):
    """A server without a socket and its log. `last()`: the newest line, of one that has come."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(audit=AuditLog(str(path)), **options)
        self.path, self.count = path, 0

    def last(self, more: int = 1) -> Object:
        found = lines(self.path)
        self.count += more
        assert len(found) == self.count, found
        return found[-1]


def test_a_line_is_what_upstream_writes(tmp_path: Path) -> None:
    """Compared with a kube-apiserver 1.36.3, field by field in its order."""
    with Logged(tmp_path / FILE, user=User("ann", ("devs",), "7", {"k": ("v",)})) as kube:
        kube.call("POST", f"{CONFIG_MAPS}?fieldManager=x%26y", config_map("a"),
                  headers={"user-agent": "curl/7"})
        line = kube.last()
        assert re.fullmatch("[0-9a-f-]{36}", line.pop("auditID"))
        assert [*line] == [
            "kind", "apiVersion", "level", "stage", "requestURI", "verb", "user", "userAgent",
            "objectRef", "responseStatus", "requestReceivedTimestamp", "stageTimestamp",
            "annotations"]
        assert line == {
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata",
            "stage": "ResponseComplete", "requestURI": f"{CONFIG_MAPS}?fieldManager=x%26y",
            "verb": "create",
            "user": {"username": "ann", "uid": "7", "groups": ["devs"], "extra": {"k": ["v"]}},
            "userAgent": "curl/7",
            "objectRef": {"resource": "configmaps", "namespace": "default", "name": "a",
                          "apiVersion": "v1"},
            "responseStatus": {"metadata": {}, "code": 201},
            "requestReceivedTimestamp": "2027-01-15T08:00:00.000000Z",
            "stageTimestamp": "2027-01-15T08:00:00.000000Z",
            "annotations": {"authorization.k8s.io/decision": "allow",
                            "authorization.k8s.io/reason": ""}}


@pytest.mark.parametrize("method, url, body, verb, ref, said", [
    ("POST", CONFIG_MAPS, config_map("there"), "create", {"name": "there"},
     {"status": "Failure", "message": 'configmaps "there" already exists',
      "reason": "AlreadyExists", "details": {"name": "there", "kind": "configmaps"}, "code": 409}),
    ("POST", CONFIG_MAPS, {"metadata": {"generateName": "g-"}}, "create", {}, {"code": 201}),
    ("GET", f"{CONFIG_MAPS}/there", None, "get", {"name": "there"}, {"code": 200}),
    ("GET", f"{CONFIG_MAPS}?limit=1", None, "list", {}, {"code": 200}),
    ("PUT", f"{CONFIG_MAPS}/there", config_map("there"), "update", {"name": "there"},
     {"code": 200}),
    ("DELETE", f"{CONFIG_MAPS}/there", None, "delete", {"name": "there"},
     {"status": "Success", "code": 200}),
    ("POST", CONFIG_MAPS, b"x", "create", {}, {"reason": "BadRequest", "code": 400}),
    ("DELETE", f"{PODS}/x/status", None, "delete",
     {"resource": "pods", "name": "x", "subresource": "status"},
     {"reason": "MethodNotAllowed", "code": 405}),
    ("GET", "/apis/apps/v1/namespaces/n/nope", None, "list",
     {"resource": "nope", "namespace": "n", "apiGroup": "apps"},
     {"reason": "NotFound", "code": 404}),
    ("GET", "/healthz", None, "get", None, {"code": 200})])
def test_verbs(tmp_path: Path, method: str, url: str, body: Any, verb: str, ref: Object | None,
               said: Object) -> None:
    with Logged(tmp_path / FILE) as kube:
        kube.make(CONFIG_MAPS, config_map("there"))
        kube.last()
        kube.run(kube.ask(method, url, body))
        line = kube.last()
        assert (line["verb"], line["requestURI"]) == (verb, url)
        if ref is None:
            assert "objectRef" not in line
        else:
            assert line["objectRef"] == {"resource": "configmaps", "namespace": "default",
                                         "apiVersion": "v1", **ref}
        found = line["responseStatus"]
        assert {part: found[part] for part in said} == said and found["metadata"] == {}
        assert kube.api.audit is not None and kube.api.audit.written == 2


def test_who_asked_and_what_was_decided(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("t,alice,1\nroot,root,2,system:masters\n")
    with Logged(tmp_path / FILE) as kube:
        secure(kube.api, token_auth_file=tokens)

        def asked(**headers: str) -> Object:
            kube.run(kube.api.handle(Request.of("GET", CONFIG_MAPS, headers={
                name.replace("_", "-"): value for name, value in headers.items()})))
            return kube.last()

        line = asked(authorization="Bearer wrong")
        assert line["user"] == {} and line["responseStatus"]["code"] == 401
        assert "annotations" not in line
        line = asked(authorization="Bearer t")
        assert line["user"]["username"] == "alice" and line["responseStatus"]["code"] == 403
        assert line["annotations"]["authorization.k8s.io/decision"] == "forbid"
        assert "impersonatedUser" not in line
        line = asked(authorization="Bearer root", impersonate_user="bob")
        assert line["user"]["username"] == "root"
        assert line["impersonatedUser"] == {"username": "bob", "groups": ["system:authenticated"]}
        assert line["annotations"]["authorization.k8s.io/decision"] == "forbid"
        line = asked(authorization="Bearer t", impersonate_user="bob")
        assert line["user"]["username"] == "alice" and "impersonatedUser" not in line
        assert line["annotations"]["authorization.k8s.io/decision"] == "forbid"


def test_what_admission_notes_is_there(tmp_path: Path) -> None:
    @validating("CREATE")
    def noting(call: Any) -> None:
        review(call).annotations["mine/note"] = call.name

    with Logged(tmp_path / FILE, admission=Chain([noting])) as kube:
        kube.make(PODS, pod("a"))
        assert kube.last()["annotations"]["mine/note"] == "a"


def test_a_watch_is_logged_when_it_ends(tmp_path: Path) -> None:
    with Logged(tmp_path / FILE) as kube:
        answer = kube.run(kube.ask("GET", f"{CONFIG_MAPS}?watch=1"))
        unread = kube.run(kube.ask("GET", f"{CONFIG_MAPS}?watch=1&timeoutSeconds=5"))
        for each in (answer, unread):
            assert each.chunks is not None and each.headers["Audit-Id"]
        assert lines(kube.path) == []

        async def use() -> None:
            chunks: Any = answer.chunks
            await anext(chunks)
            await chunks.aclose()
            await chunks.aclose()
        kube.run(use())
        line = kube.last()
        assert line["verb"] == "watch" and line["responseStatus"]["code"] == 200
        assert line["auditID"] == answer.headers["Audit-Id"]
        never: Any = unread.chunks
        kube.run(never.aclose())
        assert kube.last()["requestURI"].endswith("timeoutSeconds=5")


def test_a_line_that_cannot_be_written(tmp_path: Path) -> None:
    """It is counted, and its request is answered."""
    with Logged(tmp_path / FILE) as kube:
        log = kube.api.audit
        assert log is not None
        log.close()
        log._file = os.open(tmp_path / FILE, os.O_RDONLY)
        kube.make(CONFIG_MAPS, config_map("a"))
        assert (log.written, log.failed) == (1, 1)
        metrics = kube.run(kube.ask("GET", "/metrics")).body.decode()
        assert 'apiserver_audit_error_total{plugin="log"} 1' in metrics
        assert "apiserver_audit_event_total 1" in metrics


def test_what_json_cannot_say_is_counted(tmp_path: Path) -> None:
    with Logged(tmp_path / FILE) as kube:
        request = Request("GET", "/healthz", headers={"user-agent": "\ud800"})
        assert kube.run(kube.api.handle(request)).code == 200
        assert kube.api.audit is not None and kube.api.audit.failed == 1


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_servers_share_a_file(tmp_path: Path, protocol: str) -> None:
    """Two replicas append to what is there; an id that a client names is kept."""
    path = tmp_path / FILE
    path.write_text("{}\n")
    with kvcore.open() as store, \
            serve(store, replicas=2, audit_log_path=str(path)) as server:
        for i in range(4):
            assert ask(server, protocol, f"id-{i}") == f"id-{i}"
    found = lines(path)[1:]
    assert [line["auditID"] for line in found] == [f"id-{i}" for i in range(4)]
    assert {line["user"]["username"] for line in found} == {"kubernetes-admin"}
    assert all(line["sourceIPs"] == ["127.0.0.1"] for line in found)


def test_it_is_its_owners_only(tmp_path: Path) -> None:
    with kvcore.open() as store, serve(store, audit_log_path=str(tmp_path / FILE)):
        assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    with kvcore.open() as store, pytest.raises(FileNotFoundError), \
            serve(store, audit_log_path=str(tmp_path / "no" / FILE)):
        pass


def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    with kvcore.open() as store, serve(store, audit_log_path="-") as server:
        ask(server, "h2", "mine")
    line, = capfd.readouterr().out.splitlines()
    assert json.loads(line)["auditID"] == "mine"


def ask(server: Server, protocol: str, id: str) -> str:
    """A list. Returns: the id that the answer names."""
    with connect(server.port, protocol, server.pki.admin, authority=server.pki) as sock:
        if protocol == "h2":
            wire = H2(sock)
            stream = wire.ask(CONFIG_MAPS, headers=(("audit-id", id),))
            wire.answer(stream)
            return dict(wire.headers(stream))["audit-id"]
        sock.sendall(f"GET {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nAudit-Id: {id}\r\n\r\n"
                     .encode())
        answer = answer_of(sock)
        answer.read()
        return str(answer.headers["Audit-Id"])
