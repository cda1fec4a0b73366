# SPDX-License-Identifier: Apache-2.0
"""A TCP balancer: connections go round over the replicas, bytes pass through as they are.

    client ──TCP──> Balancer ──TCP──> replica, which ends TLS and so sees the client's certificate

A replica that does not take a connection is left out for `RETRY_SECONDS`; the connection goes to
the next one. One that is removed gets no new connections; its old ones are its own to end.
Back-pressure: a side that does not read makes the other side's reading pause.
Thread safety: one event loop's thread. May not know: TLS, HTTP, Kubernetes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import cast

__all__ = ["Balancer"]

RETRY_SECONDS = 1.0


class Pipe(asyncio.Protocol):
    """One side of a connection that passes through; what it reads the other side writes."""

    transport: asyncio.Transport

    def __init__(self, balancer: Balancer | None = None, other: Pipe | None = None) -> None:
        self._balancer, self.other = balancer, other
        self._early: list[bytes] = []                 # what came before there was a replica
        self.gone = self.ended = False                # closed; has said that nothing more comes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._balancer is not None:                # a client: find it a replica first
            self._balancer.accepted(self)

    def join(self, other: Pipe) -> None:
        """Both sides are there."""
        self.other = other
        if self.gone:
            other.transport.close()
            return
        other.transport.writelines(self._early)
        if self.ended:
            other.transport.write_eof()
        if self._early:
            self._early = []
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)
        else:                                         # loops differ in whether a pause made in
            self._early.append(data)                  # connection_made holds: so it is made here
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Half a close passes through, too; the second half ends both."""
        self.ended = True
        if self.other is None:
            return True
        if self.other.gone or self.other.ended:
            return False
        if self.other.transport.can_write_eof():
            self.other.transport.write_eof()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        if self.other is not None and not self.other.gone:
            self.other.transport.close()
        if self._balancer is not None:
            self._balancer.clients.discard(self)

    def pause_writing(self) -> None:
        if self.other is not None and not self.other.gone:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.gone:
            self.other.transport.resume_reading()


class Balancer:
    """See the module. `backends`: (host, port) of each replica."""

    def __init__(self, backends: Iterable[tuple[str, int]] = ()) -> None:
        self.backends = list(backends)
        self.clients: set[Pipe] = set()
        self.served: dict[tuple[str, int], int] = {}      # connections each replica took
        self._out_until: dict[tuple[str, int], float] = {}
        self._next = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen. Returns: the port. Errors: OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Pipe(self), host, port, backlog=1024)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def stop(self) -> None:
        """Close everything."""
        await self.stop_listening()
        for task in tuple(self._tasks):
            task.cancel()
        for pipe in tuple(self.clients):
            pipe.transport.abort()
        await asyncio.sleep(0)

    def remove(self, backend: tuple[str, int]) -> None:
        """The replica gets no new connections."""
        if backend in self.backends:
            self.backends.remove(backend)

    def accepted(self, client: Pipe) -> None:
        self.clients.add(client)
        task = asyncio.get_running_loop().create_task(self._connect(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, client: Pipe) -> None:
        loop = asyncio.get_running_loop()
        for backend in self._order(loop.time()):
            try:
                _, pipe = await loop.create_connection(lambda: Pipe(None, client), *backend)
            except OSError:
                self._out_until[backend] = loop.time() + RETRY_SECONDS
                continue
            self.served[backend] = self.served.get(backend, 0) + 1
            return client.join(pipe)
        client.transport.abort()

    def _order(self, now: float) -> list[tuple[str, int]]:
        """Whom to try: each once, the one whose turn it is first, those left out last."""
        count = len(self.backends)
        self._next += 1
        turn = [self.backends[(self._next + i) % count] for i in range(count)]
        return sorted(turn, key=lambda backend: self._out_until.get(backend, 0.0) > now)
