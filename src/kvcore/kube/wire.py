# SPDX-License-Identifier: Apache-2.0
"""What every connection has, whichever HTTP it speaks: limits, deadlines, back-pressure, its end.

    TCP ─ TLS ─> Door ── ALPN ──┬─> Http1 (http1.py)   ──┐
                                └─> Http2 (http2.py)   ──┴─> hub.handle(Request) -> Answer

A Hub is one event loop's: its connections, and a tick each `tick_seconds` that closes those whose
time is over. No timer is made a request.

Named invariants:
1. **bounded**: a connection holds at most the limits' bytes of what was sent to it.
2. **nobody waits for a reader**: who stops reading is cut off after `write_seconds` without any
   progress; only their own answers wait until then.
3. **chunks are closed**: the generator behind an answer is closed in whichever way it ends.
Thread safety: the event loop's thread. May not know: Kubernetes, but for Request, Answer, Status.
"""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from kvcore.kube.request import Answer, Request

__all__ = ["Connection", "Door", "Hub", "Limits"]

FOREVER = float("inf")
LINGER_SECONDS = 1.0             # what comes behind a refusal is read so long, and thrown away
LENGTH_DIGITS = 20               # of a Content-Length: what has more is larger than any body
STOP_STEP = 0.005                # seconds between looks at who is still busy
GZIP_FROM = 128 * 1024           # upstream's; smaller answers cost more than they save
GZIP_LEVEL = 1                   # upstream's too

Handler = Callable[[Request], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take: bytes, and seconds until it is cut off.

    Where kube-apiserver has one, its value: 3 MiB bodies, 1 MiB headers, 32 s for headers, 90 s
    idle, 1,000 streams.
    """

    header_bytes: int = 1 << 20
    body_bytes: int = 3 << 20
    held_bytes: int = 64 << 20            # of unfinished bodies on one HTTP/2 connection
    streams: int = 1000                   # at once on one HTTP/2 connection
    header_seconds: float = 32.0
    body_seconds: float = 60.0
    idle_seconds: float = 90.0
    write_seconds: float = 30.0           # without any progress
    grace_seconds: float = 5.0            # for requests in flight when the server stops
    tick_seconds: float = 1.0


class Hub:
    """The connections of one event loop, and what they share."""

    def __init__(self, handle: Handler, limits: Limits | None = None) -> None:
        self.handle, self.limits = handle, limits or Limits()
        self.connections: set[Connection] = set()
        self.closing = False
        self.closed_slow = 0                   # connections and streams cut off for not reading

    def door(self) -> Door:
        """A protocol for a new connection: create_server's factory."""
        return Door(self)

    async def keep_time(self) -> None:
        """Ticks until cancelled. Cost: one look at each connection and stream a tick."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.limits.tick_seconds)
            self._tick(loop.time())

    def _tick(self, now: float) -> None:
        """By itself, so that nobody keeps hold of the last connection."""
        for connection in tuple(self.connections):
            connection.tick(now)

    def forget(self, connection: Connection) -> None:
        self.connections.discard(connection)

    async def stop(self) -> None:
        """End watches, finish what is in flight, close; abort what is left after the grace."""
        self.closing = True
        for connection in tuple(self.connections):
            connection.wind_up()
        loop = asyncio.get_running_loop()
        end = loop.time() + self.limits.grace_seconds
        while any(c.busy() for c in self.connections) and loop.time() < end:
            await asyncio.sleep(STOP_STEP)
        for connection in tuple(self.connections):
            connection.transport.abort()       # many wait only for their client's goodbye
        await asyncio.sleep(0)                 # connection_lost comes in the next turn


class Connection(asyncio.Protocol):
    """The part of a connection that both protocols have. `deadline`: when `expire` is called."""

    transport: asyncio.Transport

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.limits = hub.limits
        self.loop = asyncio.get_running_loop()
        self.certificate: bytes | None = None
        self.address = ""                      # the peer's
        self.deadline = FOREVER
        self.lost = False
        self._paused = False
        self._backlog, self._since = 0, 0.0
        self._waiting: list[asyncio.Future[None]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.certificate = tls.getpeercert(binary_form=True)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        self.hub.connections.add(self)
        self.deadline = self.loop.time() + self.limits.header_seconds
        self.opened()
        if self.hub.closing:
            self.wind_up()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._release()
        self.left()
        self.hub.forget(self)

    # --- back-pressure ---------------------------------------------------------------------------

    def pause_writing(self) -> None:
        self._paused = True
        self._backlog = self.transport.get_write_buffer_size()
        self._since = self.loop.time()

    def resume_writing(self) -> None:
        self._paused = False
        self._release()

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def drained(self) -> None:
        """Until the client has read enough of what was written, or is gone."""
        while self._paused and not self.lost:
            future = self.loop.create_future()
            self._waiting.append(future)
            await future

    def tick(self, now: float) -> None:
        """Cuts off a client that does not read, or whose deadline is over."""
        if self._paused:
            left = self.transport.get_write_buffer_size()
            if left < self._backlog:
                self._backlog, self._since = left, now
            elif now - self._since > self.limits.write_seconds:
                self.hub.closed_slow += 1
                self.transport.abort()
                return
        if now > self.deadline:
            self.deadline = FOREVER
            self.expire()

    def busy(self) -> bool:
        """Whether something is worked on or not yet written."""
        return self.working() or self.transport.get_write_buffer_size() > 0

    # --- what a protocol adds --------------------------------------------------------------------

    def opened(self) -> None:
        """The transport is there."""
        raise NotImplementedError

    def left(self) -> None:
        """The client is gone: end what is done for it."""
        raise NotImplementedError

    def working(self) -> bool:
        """Whether an answer is owed."""
        raise NotImplementedError

    def expire(self) -> None:
        """The deadline is over."""
        raise NotImplementedError

    def wind_up(self) -> None:
        """The server stops: end watches, take nothing new, close when the rest is answered."""
        raise NotImplementedError


class Door(asyncio.Protocol):
    """Stands in until the handshake has said which protocol is spoken, then hands over."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        from kvcore.kube.http1 import Http1
        from kvcore.kube.http2 import Http2
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        chosen = tls.selected_alpn_protocol() if tls is not None else None
        protocol = Http2(self._hub) if chosen == "h2" else Http1(self._hub)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


async def close_chunks(chunks: AsyncIterator[bytes]) -> None:
    """Runs the generator's `finally`."""
    close: Any = getattr(chunks, "aclose", None)
    if close is not None:
        await close()


def clean(text: str) -> bytes:
    """A header's value that cannot end the header: control characters become spaces."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return text.encode()


async def squeeze(request: Request, answer: Answer) -> None:
    """Compress a large answer for a client that accepts it, in a thread: nobody else waits.

    Watches are never compressed: clients read them line by line as they come.
    """
    if (len(answer.body) < GZIP_FROM or request.method != "GET" or answer.chunks is not None
            or not accepts_gzip(request.headers.get("accept-encoding", ""))):
        return
    answer.body = await asyncio.to_thread(gzip.compress, answer.body, GZIP_LEVEL, mtime=0)
    answer.headers["Content-Encoding"] = "gzip"
    answer.headers["Vary"] = "Accept-Encoding"


def accepts_gzip(header: str) -> bool:
    """Whether Accept-Encoding names gzip, and not as ";q=0".

    >>> accepts_gzip("deflate, gzip;q=1.0"), accepts_gzip("gzip;q=0"), accepts_gzip("identity")
    (True, False, False)
    """
    for part in header.split(","):
        name, _, quality = part.replace(" ", "").lower().partition(";")
        if name in ("gzip", "*"):
            return not quality.startswith("q=0") or quality.strip("q=0.") != ""
    return False
