# SPDX-License-Identifier: Apache-2.0
"""Servers around a handler of the test's own, and clients that can misbehave.

    with Wire(handle) as wire:  sock = wire.connect()             raw bytes over TLS
                                client = H2(wire.connect("h2"))   the h2 library, frame by frame

Every wait has a limit, after which the test fails; none is slept through.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import h2.config
import h2.connection
import h2.events

from kvcore.kube.request import Answer, Request
from kvcore.kube.server import LoopThread
from kvcore.kube.tls import Issued, Pki, client_context, server_context
from kvcore.kube.wire import Hub, Limits

PATIENCE = 20.0                  # seconds until a wait is a failure
QUICK = Limits(tick_seconds=0.02)

Handle = Callable[[Request], Awaitable[Answer]]


@lru_cache(maxsize=1)
def pki() -> Pki:
    """One set of certificates for all tests of a process."""
    return Pki.make()


async def echo(request: Request) -> Answer:
    """Says what it was asked, in JSON."""
    import orjson
    return Answer(200, orjson.dumps([request.method, request.path, request.query,
                                     len(request.body)]))


class Wire(LoopThread):
    """A hub with a TLS port in a thread of its own."""

    def __init__(self, handle: Handle = echo, limits: Limits = QUICK, **changed: Any) -> None:
        super().__init__("wire")
        self.hub: Hub
        self.seen: list[Request] = []
        self._handle, self._limits = handle, replace(limits, **changed)
        self.port = 0

    async def _record(self, request: Request) -> Answer:
        self.seen.append(request)
        return await self._handle(request)

    async def _main(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        self.hub = Hub(self._record, self._limits)
        server = await loop.create_server(self.hub.door, "127.0.0.1", 0,
                                          ssl=server_context(pki()))
        clock = loop.create_task(self.hub.keep_time())
        self.ready.set_result(int(server.sockets[0].getsockname()[1]))
        await stop.wait()
        server.close()
        await self.hub.stop()
        clock.cancel()
        await asyncio.gather(clock, return_exceptions=True)

    def __enter__(self) -> Wire:
        self.port = self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the server does not end"
        if self.failed is not None:
            raise self.failed

    def connect(self, protocol: str = "http/1.1", client: Issued | None = None,
                receive_buffer: int = 0) -> ssl.SSLSocket:
        """A TLS connection. Args: receive_buffer: bytes the kernel may take in for us."""
        return connect(self.port, protocol, client, receive_buffer)

    def call(self, work: Callable[[], Any]) -> None:
        """Runs a function in the server's loop, soon."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(work)


def connect(port: int, protocol: str = "http/1.1", client: Issued | None = None,
            receive_buffer: int = 0, authority: Pki | None = None) -> ssl.SSLSocket:
    context = client_context((authority or pki()).ca.pem, client.chain if client else b"",
                             (protocol,))
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect(("127.0.0.1", port))
    return context.wrap_socket(sock, server_hostname="localhost")


class Events:
    """A watch of the test's own: lines are pushed from the test, and it knows how it ended."""

    def __init__(self) -> None:
        self.started, self.closed = threading.Event(), threading.Event()
        self.loop: asyncio.AbstractEventLoop
        self._queue: asyncio.Queue[bytes | None]

    async def handle(self, request: Request) -> Answer:
        if not request.path.startswith("/watch"):
            return await echo(request)
        self.loop, self._queue = asyncio.get_running_loop(), asyncio.Queue()
        return Answer(200, chunks=self._lines())

    async def _lines(self) -> AsyncIterator[bytes]:
        try:
            yield b""
            self.started.set()
            while (line := await self._queue.get()) is not None:
                yield line
        finally:
            self.closed.set()

    def push(self, line: bytes | None) -> None:
        self.loop.call_soon_threadsafe(self._queue.put_nowait, line)


class Flood:
    """A watch that never ends and has always more to say."""

    def __init__(self, chunk: bytes = b"x" * 65536) -> None:
        self.chunk, self.closed = chunk, threading.Event()
        self.said = 0                             # chunks

    async def handle(self, request: Request) -> Answer:
        return (Answer(200, chunks=self._lines()) if request.path == "/watch"
                else await echo(request))

    async def _lines(self) -> AsyncIterator[bytes]:
        try:
            while True:
                self.said += 1
                yield self.chunk
                await asyncio.sleep(0)
        finally:
            self.closed.set()


def get(sock: ssl.SSLSocket, path: str = "/x", headers: str = "") -> tuple[int, bytes]:
    """One request over HTTP/1.1: code and body."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
    answer = answer_of(sock)
    return answer.status, answer.read()


def answer_of(sock: ssl.SSLSocket, method: str = "GET") -> http.client.HTTPResponse:
    """The next answer; its body is still to be read."""
    answer = http.client.HTTPResponse(sock, method=method)
    answer.begin()
    return answer


def at_end(sock: ssl.SSLSocket) -> bool:
    """Whether the server has closed the connection, in whichever way; waits for it."""
    try:
        while sock.recv(65536):
            pass
    except (ConnectionResetError, ssl.SSLEOFError, BrokenPipeError):
        pass
    return True


class H2:
    """A client by the h2 library. `events_of(id)`: what came on a stream so far."""

    def __init__(self, sock: ssl.SSLSocket, *, first_window: int | None = None,
                 table_size: int | None = None) -> None:
        self.sock = sock
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.conn = h2.connection.H2Connection(config)
        changed: dict[Any, int] = {}
        if first_window is not None:
            changed[h2.settings.SettingCodes.INITIAL_WINDOW_SIZE] = first_window
        if table_size is not None:
            changed[h2.settings.SettingCodes.HEADER_TABLE_SIZE] = table_size
        self.conn.initiate_connection()
        if changed:
            self.conn.update_settings(changed)
        self.events: list[Any] = []
        self.give_back = True                    # whether what is read may be sent again
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.conn.data_to_send())

    def ask(self, path: str, *, method: str = "GET", body: bytes | None = None,
            headers: tuple[tuple[str, str], ...] = (), end: bool = True) -> int:
        """Sends a request. Returns: its stream."""
        id = self.conn.get_next_available_stream_id()
        self.conn.send_headers(id, [(":method", method), (":scheme", "https"),
                                    (":authority", "localhost"), (":path", path), *headers],
                               end_stream=body is None and end)
        if body is not None:
            while body:
                size = min(len(body), self.conn.local_flow_control_window(id), 16384)
                if not size:
                    self.flush()
                    self.read()
                    continue
                self.conn.send_data(id, body[:size])
                body = body[size:]
                self.flush()
                if self.ended(id):
                    return id
            if end:
                self.conn.end_stream(id)
        self.flush()
        return id

    def read(self) -> None:
        """Takes in what comes next. Errors: EOFError when nothing more comes."""
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        for event in self.conn.receive_data(data):
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived) and self.give_back:
                self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()

    def until(self, done: Callable[[], Any]) -> Any:
        """Reads until this says something true."""
        while not (found := done()):
            self.read()
        return found

    def of(self, id: int, kind: type) -> list[Any]:
        return [e for e in self.events if isinstance(e, kind) and e.stream_id == id]

    def data(self, id: int) -> bytes:
        return b"".join(e.data for e in self.of(id, h2.events.DataReceived))

    def headers(self, id: int) -> dict[str, str]:
        return dict(self.of(id, h2.events.ResponseReceived)[0].headers)

    def ended(self, id: int) -> bool:
        return bool(self.of(id, h2.events.StreamEnded) or self.of(id, h2.events.StreamReset))

    def answer(self, id: int) -> tuple[str, bytes]:
        """Status and body, once it is over."""
        self.until(lambda: self.ended(id))
        return self.headers(id)[":status"], self.data(id)
