# SPDX-License-Identifier: Apache-2.0
"""serve() and `kvcore apiserver`: starts, ends, replicas, real clients, the process and signals."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import yaml
from commands import Run
from kube_wires import H2, PATIENCE, answer_of, at_end, connect, get

import kvcore
from kvcore.kube import serve
from kvcore.kube.meta import rfc3339
from kvcore.kube.options import OptionError, Options
from kvcore.kube.server import Server


def bare(store: kvcore.Store, **options: Any) -> Server:
    """A server that puts nothing into a store by itself but roles, and asks for no namespace."""
    return serve(store, housekeeping=False, disable_admission_plugins=("NamespaceLifecycle",),
                 **options)


CONFIGMAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
def api() -> Iterator[Server]:
    """A server over a store in memory."""
    with kvcore.open() as store, bare(store) as server:
        yield server


def to(server: Server, protocol: str = "http/1.1") -> ssl.SSLSocket:
    return connect(server.port, protocol, server.pki.admin, authority=server.pki)


def create(sock: ssl.SSLSocket, name: str) -> dict[str, Any]:
    body = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
    sock.sendall(f"POST {CONFIGMAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                 f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
    answer = answer_of(sock)
    made: dict[str, Any] = json.loads(answer.read())
    assert answer.status == 201, made
    return made


def test_objects_over_both_protocols(api: Server) -> None:
    with to(api) as one, to(api, "h2") as two:
        made = create(one, "a")
        client = H2(two)
        code, body = client.answer(client.ask(f"{CONFIGMAPS}/a"))
        assert code == "200" and json.loads(body) == made
        id = client.ask(CONFIGMAPS, method="POST", body=json.dumps(
            {"metadata": {"name": "b"}}).encode(), headers=(("content-type", "application/json"),))
        assert client.answer(id)[0] == "201"
        assert [o["metadata"]["name"] for o in json.loads(get(one, CONFIGMAPS)[1])["items"]] == [
            "a", "b"]


def test_refusals_are_statuses(api: Server) -> None:
    with to(api) as sock:
        code, body = get(sock, f"{CONFIGMAPS}/gone")
        status = json.loads(body)
        assert code == status["code"] == 404 and status["reason"] == "NotFound"


def test_an_open_watch_ends_with_the_server() -> None:
    with kvcore.open() as store:
        with bare(store) as api:
            sock, other = to(api), to(api, "h2")
            sock.sendall(f"GET {CONFIGMAPS}?watch=1 HTTP/1.1\r\n\r\n".encode())
            watch, client = answer_of(sock), H2(other)
            client.ask(f"{CONFIGMAPS}?watch=1")
            with to(api) as writer:
                create(writer, "a")
            event = json.loads(watch.readline())
            assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "a")
        assert watch.read() == b"" and at_end(sock) and at_end(other)
        sock.close()
        other.close()
        assert store.put(b"k", b"v")


def test_two_servers_in_one_process() -> None:
    with kvcore.open() as first, kvcore.open() as second, bare(first) as a, bare(second) as b:
        with to(a) as one, to(b) as two:
            create(one, "a")
            assert get(one, f"{CONFIGMAPS}/a")[0] == 200 and get(two, f"{CONFIGMAPS}/a")[0] == 404


def test_a_server_again_over_the_same_store() -> None:
    with kvcore.open() as store:
        for number in range(3):
            with bare(store) as api, to(api) as sock:
                create(sock, f"n{number}")
        assert len(store.range(prefix=b"/registry/configmaps/default/")) == 3


def test_a_port_in_use(api: Server) -> None:
    before = threading.active_count()
    with pytest.raises(OSError):
        Server(api.store, Options(secure_port=api.port)).start()
    assert threading.active_count() == before


def test_an_error_of_the_start_comes_back() -> None:
    with kvcore.open() as store:
        with pytest.raises(TypeError):
            serve(store, no_such_keyword=1).start()
        with pytest.raises(OptionError, match="storage-codec"):
            serve(store, storage_codec="xml").start()
        with pytest.raises(FileNotFoundError):
            serve(store, client_ca_file="nowhere.pem").start()


def test_an_error_that_ends_a_thread_comes_back() -> None:
    async def fail() -> None:
        raise RuntimeError("the clock is broken")

    with kvcore.open() as store:
        server = bare(store).start()
        replica = server.replicas[0]

        async def break_clock() -> None:
            replica.hub.connections.add(object())              # type: ignore[arg-type]

        server.run(break_clock())
        assert server.wait(PATIENCE)
        replica.hub.connections.clear()
        with pytest.raises(AttributeError):
            server.close()


def test_keywords_reach_the_api() -> None:
    at = time.time() + 3600               # while the certificates are good
    with kvcore.open() as store, bare(store, key_layout="kubernetes", storage_codec="protobuf",
                                      now=lambda: at) as api, to(api) as sock:
        assert create(sock, "a")["metadata"]["creationTimestamp"] == rfc3339(at)
        assert store.range(prefix=b"/registry/configmaps/")[0].value.startswith(b"k8s\0")


def test_work_from_another_thread(api: Server) -> None:
    async def length() -> int:
        return len(api.api.resources.of_path("", "v1", "pods").plural)  # type: ignore[union-attr]

    assert api.run(length()) == 4


# --- with everything that is on by default ------------------------------------------------------

def test_a_pod_through_a_whole_server() -> None:
    """Authentication, RBAC, admission, housekeeping: nobody has named any of it."""
    with kvcore.open() as store, serve(store) as api, to(api) as sock:
        core = kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config_dict(
            api.kubeconfig))
        made = core.create_namespaced_pod("default", {
            "metadata": {"generateName": "web-"},
            "spec": {"containers": [{"name": "main", "image": "registry.example/web:1"}]}})
        assert made.spec.service_account_name == "default"
        assert made.spec.volumes[0].name.startswith("kube-api-access-")
        assert {t.key for t in made.spec.tolerations} == {
            "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
        assert (made.status.phase, made.status.qos_class) == ("Pending", "BestEffort")
        token = core.create_namespaced_service_account_token("default", "default", {"spec": {}})
        auth = f"Authorization: Bearer {token.status.token}\r\n"
        with connect(api.port, "http/1.1", authority=api.pki) as other:
            code, body = get(other, f"/api/v1/namespaces/default/pods/{made.metadata.name}", auth)
        assert code == 403 and json.loads(body)["message"] == (
            f'pods "{made.metadata.name}" is forbidden: User '
            '"system:serviceaccount:default:default" cannot get resource "pods" in API group "" '
            'in the namespace "default"')
        core.api_client.close()
        assert get(sock, "/metrics")[0] == 200


# --- the kubeconfig -------------------------------------------------------------------------------

def test_the_kubeconfig(api: Server, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("old")
    api.write_kubeconfig(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["config"]
    config = yaml.safe_load(path.read_text())
    assert config == api.kubeconfig and config["current-context"] == "kubernetes-admin@kvcore"
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    assert cluster["server"] == api.url
    assert base64.b64decode(cluster["certificate-authority-data"]) == api.ca
    assert base64.b64decode(user["client-certificate-data"]) == api.pki.admin.pem


def test_the_official_client(api: Server, tmp_path: Path) -> None:
    api.write_kubeconfig(tmp_path / "config")
    with kubernetes.config.new_client_from_config(str(tmp_path / "config")) as client:
        core = kubernetes.client.CoreV1Api(client)
        core.create_namespaced_config_map("default", {"metadata": {"name": "a"},
                                                      "data": {"k": "v"}})
        assert core.read_namespaced_config_map("a", "default").data == {"k": "v"}
        with pytest.raises(kubernetes.client.ApiException) as caught:
            core.read_namespaced_config_map("b", "default")
        assert caught.value.status == 404
        watch = kubernetes.watch.Watch()
        for event in watch.stream(core.list_namespaced_config_map, "default"):
            assert event["object"].metadata.name == "a"
            watch.stop()


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl(api: Server, tmp_path: Path, version: str) -> None:
    for name, data in (("ca", api.ca), ("cert", api.pki.admin.pem),
                       ("key", api.pki.admin.key_pem)):
        (tmp_path / name).write_bytes(data)
    body = json.dumps({"metadata": {"name": "a"}, "data": {"x": "y" * 100_000}})
    (tmp_path / "body").write_text(body)
    base = ["curl", "-sS", version, "--cacert", tmp_path / "ca", "--cert", tmp_path / "cert",
            "--key", tmp_path / "key", "-H", "Authorization: Bearer t", "-w",
            "\n%{http_code} %{http_version} %{content_type}"]
    made = subprocess.run([*base, "-H", "Content-Type: application/json", "--data-binary",
                           f"@{tmp_path / 'body'}", api.url + CONFIGMAPS],
                          capture_output=True, text=True, check=True)
    spoken = "2" if version == "--http2" else "1.1"
    text, _, said = made.stdout.rpartition("\n")
    assert said == f"201 {spoken} application/json"
    read = subprocess.run([*base, "--compressed", f"{api.url}{CONFIGMAPS}/a"],
                          capture_output=True, text=True, check=True).stdout
    assert json.loads(read.rpartition("\n")[0]) == json.loads(text)


# --- replicas -------------------------------------------------------------------------------------

def test_replicas_see_each_others_writes() -> None:
    with kvcore.open() as store, bare(store, replicas=2) as api:
        with to(api) as one, to(api) as two:
            front = api._front
            assert front is not None
            assert [front.balancer.served[r.address] for r in api.replicas] == [1, 1]
            two.sendall(f"GET {CONFIGMAPS}?watch=1 HTTP/1.1\r\n\r\n".encode())
            watch = answer_of(two)
            for number in range(20):
                made = create(one, f"n{number}")
                event = json.loads(watch.readline())
                assert event == {"type": "ADDED", "object": made}
        with to(api) as one, to(api) as two:
            made = create(one, "last")
            code, body = get(two, CONFIGMAPS)
            assert json.loads(body)["items"][0]["metadata"]["name"] == "last"
            version = made["metadata"]["resourceVersion"]
            assert get(two, f"{CONFIGMAPS}/last?resourceVersion={version}")[0] == 200


def test_the_certificate_passes_through() -> None:
    with kvcore.open() as store, bare(store, replicas=2) as api, to(api) as sock:
        seen = []
        for replica in api.replicas:
            replica.api.authenticate = lambda asked: seen.append(asked.certificate)  # type: ignore
        get(sock, "/healthz")
        assert seen and ssl.DER_cert_to_PEM_cert(seen[0]).encode() == api.pki.admin.pem


def test_a_replica_that_stops_is_taken_out() -> None:
    with kvcore.open() as store, bare(store, replicas=2) as api:
        api.replicas[0].stop()
        api.replicas[0].thread.join(PATIENCE)
        for number in range(6):
            with to(api) as sock:
                create(sock, f"n{number}")
        front = api._front
        assert front is not None and front.balancer.served[api.replicas[1].address] == 6
        assert not api.wait(0)


# --- the command ----------------------------------------------------------------------------------

class Command:
    """`kvcore apiserver` as a process of its own, ready."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kvcore", "apiserver", "--secure-port", "0", "--json",
             *map(str, arguments)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()
        self.ready = json.loads(line)

    def end(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE)
        assert out == ""
        return self.process.returncode, err


@pytest.mark.parametrize(("number", "code", "said"), [
    (signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")])
@pytest.mark.parametrize("replicas", [1, 2])
def test_the_command_ends_cleanly(tmp_path: Path, run: Run, number: int, code: int, said: str,
                                  replicas: int) -> None:
    data, config = tmp_path / "data", tmp_path / "config"
    for attempt in range(2):
        command = Command("--data-dir", data, "--write-kubeconfig", config, "--replicas", replicas)
        assert command.ready["ready"] and command.ready["replicas"] == replicas
        assert stat.S_IMODE(os.stat(config).st_mode) == 0o600
        with kubernetes.config.new_client_from_config(str(config)) as client:
            core = kubernetes.client.CoreV1Api(client)
            core.create_namespaced_config_map("default", {"metadata": {"name": f"a{attempt}"}})
            with socket.create_connection(("127.0.0.1", command.ready["port"]), PATIENCE):
                answer = core.list_namespaced_config_map("default", watch=True,
                                                         _preload_content=False)
                assert answer.readline()
                assert command.end(number) == (code, f"kvcore apiserver: {said}\n")
                answer.close()
    assert run("check", data)[0] == 0
    with kvcore.open(data) as store:
        assert len(store.range(prefix=b"/registry/configmaps/default/a")) == 2


@pytest.mark.parametrize("arguments", [
    ["--storage-codec", "xml"], ["--key-layout", "x"], ["--secure-port", "70000"],
    ["--secure-port", "x"], ["--replicas", "0"], ["--watch-cache-sizes", "pods"],
    ["--watch-cache-sizes", "pods#many"], ["--authorization-mode", "ABAC"],
    ["--enable-admission-plugins", "NoSuchPlugin"], ["--disable-admission-plugins", "NoSuchPlugin"],
    ["--default-watch-cache-size", "-1"], ["--client-ca-file", "nowhere.pem"],
    ["--client-crl-file", "nowhere.pem"], ["--token-auth-file", "nowhere.csv"],
    ["--anonymous-auth", "perhaps"], ["--what"]])
def test_usage(run: Run, arguments: list[str]) -> None:
    code, out, err = run("apiserver", "--secure-port", 0, *arguments)
    assert (code, out) == (2, "") and err and "Traceback" not in err


def test_files_that_are_no_certificates(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rubbish").write_text("rubbish")
    code, _, err = run("apiserver", "--secure-port", 0, "--client-ca-file", tmp_path / "rubbish")
    assert code == 2 and err.count("\n") == 1
    (tmp_path / "d" / "pki").mkdir(parents=True)
    for name in ("ca.crt", "ca.key"):
        (tmp_path / "d" / "pki" / name).write_text("rubbish")
    assert run("apiserver", "--secure-port", 0, "--data-dir", tmp_path / "d")[0] == 2


def test_what_cannot_be_opened(run: Run, tmp_path: Path) -> None:
    with kvcore.open(tmp_path / "d"):
        assert run("apiserver", "--secure-port", 0, "--data-dir", tmp_path / "d")[0] == 3
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run("apiserver", "--secure-port", taken.getsockname()[1])[0] == 3
    assert run("apiserver", "--secure-port", 0, "--write-kubeconfig",
               tmp_path / "no" / "where")[0] == 3
