# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1: llhttp (through httptools) reads, one task a connection answers in order.

    bytes ─> HttpRequestParser ─> queue of Requests ─> handle ─> bytes
                                  (pipelined ones wait their turn)

A refusal by the transport itself (400, 413, 431) stands in the queue like an answer, behind those
of the requests before it, and is the connection's last: what the client still sends is thrown away
for a moment, so that it reads the answer before the connection is reset.
Thread safety: the event loop's thread. May not know: Kubernetes, but for Request, Answer, Status.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from functools import lru_cache
from http import HTTPStatus
from typing import Literal

import httptools

from kvcore.kube import status
from kvcore.kube.request import Answer, Request, joined
from kvcore.kube.wire import (
    FOREVER,
    LENGTH_DIGITS,
    LINGER_SECONDS,
    Connection,
    Hub,
    clean,
    close_chunks,
    squeeze,
)

__all__ = ["Http1"]

FIELD_BYTES = 32                 # what a header counts beside its letters, as in HTTP/2
PIPELINED = 16                   # requests read ahead of the one being answered


class _TooLarge(Exception):
    """The headers or the body pass their limit; raised through the parser."""


class Http1(Connection):
    """One connection."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[tuple[Request | Answer, bool, bool]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._streaming = self._ending = False
        self._deaf = False                    # nothing more is read as HTTP
        self._at: Literal["between", "head", "body"] = "between"     # which part is read
        self._head_bytes = 0
        self._url = b""
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._body_bytes = 0
        self._reading_paused = False

    # --- reading ---------------------------------------------------------------------------------

    def opened(self) -> None:
        """Nothing to say first."""

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:   # the request counts, what follows it does not
            self._deaf = True
            if self._queue:
                item, _, chunked = self._queue.pop()
                self._queue.append((item, False, chunked))
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _TooLarge):
                raise
            self._refuse(_too_large(self.limits.body_bytes, in_head=self._at == "head"))
        except httptools.HttpParserError:
            self._refuse(plain(400))
        else:
            if self._at == "head":            # a header without an end, which has no callback
                self._head_bytes += len(data)
                if self._head_bytes > self.limits.header_bytes:
                    self._refuse(plain(431))

    def on_message_begin(self) -> None:
        self._url, self._headers, self._parts = b"", {}, []
        self._at, self._head_bytes, self._body_bytes = "head", 0, 0
        self.deadline = self.loop.time() + self.limits.header_seconds

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > self.limits.header_bytes:
            raise _TooLarge

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + FIELD_BYTES
        if self._head_bytes > self.limits.header_bytes:
            raise _TooLarge
        if self._at == "body":                # trailers are read and dropped
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        known = self._headers.get(key)
        self._headers[key] = text if known is None else joined(key, known, text)

    def on_headers_complete(self) -> None:
        self._at = "body"
        self.deadline = self.loop.time() + self.limits.body_seconds
        length = self._headers.get("content-length", "").lstrip("0")
        if length.isdigit() and int(length[:LENGTH_DIGITS]) > self.limits.body_bytes:
            raise _TooLarge
        if "expect" in self._headers and not self._queue and self._task is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self.limits.body_bytes:
            raise _TooLarge
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self._at = "between"
        self.deadline = FOREVER
        parser = self._parser
        try:
            url = self._url.decode()
        except UnicodeDecodeError:
            return self._refuse(plain(400))
        item: Request | Answer = Request.of(
            parser.get_method().decode(), url, headers=self._headers, body=b"".join(self._parts),
            certificate=self.certificate, address=self.address)
        if not url.startswith("/"):
            item = plain(400)
        self._parts = []
        self._put(item, parser.should_keep_alive(), parser.get_http_version() == "1.1")

    def _refuse(self, answer: Answer) -> None:
        self._deaf = True
        self._put(answer, False, True)

    def _put(self, item: Request | Answer, keep: bool, chunked: bool) -> None:
        self._queue.append((item, keep, chunked))
        if self._task is None:
            self._task = self.loop.create_task(self._work())
        elif len(self._queue) >= PIPELINED and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    # --- answering -------------------------------------------------------------------------------

    async def _work(self) -> None:
        keep = True
        try:
            while self._queue and keep:
                item, keep, chunked = self._queue.popleft()
                if isinstance(item, Answer):
                    self.transport.write(head(item, len(item.body), close=True) + item.body)
                    continue
                answer = await self.hub.handle(item)
                keep = keep and not self.hub.closing
                if answer.chunks is not None:
                    keep = await self._stream(item, answer, answer.chunks, keep and chunked)
                else:
                    await squeeze(item, answer)
                    await self._send(item, answer, keep)
                if self._reading_paused and len(self._queue) < PIPELINED:
                    self._reading_paused = False
                    self.transport.resume_reading()
                if self._queue:               # one read may bring thousands: others have turns
                    await asyncio.sleep(0)
        finally:
            self._task = None
        if self._deaf:
            self.deadline = self.loop.time() + LINGER_SECONDS
        elif not keep or self.hub.closing:
            self.transport.close()
        elif self._at == "between":
            self.deadline = self.loop.time() + self.limits.idle_seconds

    async def _send(self, request: Request, answer: Answer, keep: bool) -> None:
        body = answer.body
        start = head(answer, len(body), close=not keep)
        if request.method == "HEAD":
            self.transport.write(start)
        elif len(body) < 65536:
            self.transport.write(start + body)
        else:
            self.transport.writelines((start, body))
        if self._paused:
            await self.drained()

    async def _stream(self, request: Request, answer: Answer, chunks: AsyncIterator[bytes],
                      chunked: bool) -> bool:
        """Sends chunk after chunk. Returns: whether the connection may be used again."""
        try:
            start = head(answer, -1 if chunked else -2, close=not chunked)
            if request.method == "HEAD":
                self.transport.write(start)
                return chunked
            self._streaming = True
            async for chunk in chunks:
                piece = b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked and chunk else chunk
                if start or piece:
                    self.transport.write(start + piece)
                start = b""
                if self._paused:
                    await self.drained()
                if self.hub.closing:
                    break
        except asyncio.CancelledError:
            if not self._ending:              # the client is gone
                raise
        finally:
            self._streaming = False
            await close_chunks(chunks)
        self.transport.write(start + (b"0\r\n\r\n" if chunked else b""))
        return chunked and not self.hub.closing

    # --- ends ------------------------------------------------------------------------------------

    def left(self) -> None:
        self._queue.clear()
        self._deaf = True
        del self._parser                      # a cycle: TLS's buffers would wait for the collector
        if self._task is not None:
            self._task.cancel()

    def working(self) -> bool:
        return self._task is not None

    def expire(self) -> None:
        """Too slow a header or body, an idle connection, or a refusal read by now."""
        if self._task is None:
            self.transport.close()
        else:
            self._deaf = True

    def wind_up(self) -> None:
        if self._task is None:
            self.transport.close()
        elif self._streaming:
            self._ending = True
            self._task.cancel()


# --- bytes ---------------------------------------------------------------------------------------

@lru_cache(maxsize=256)
def _first_lines(code: int, content_type: str) -> bytes:
    try:
        phrase = HTTPStatus(code).phrase
    except ValueError:
        phrase = ""
    return b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\n" % (code, phrase.encode(),
                                                        clean(content_type))


def head(answer: Answer, length: int, *, close: bool) -> bytes:
    """Status line and headers. Args: length: bytes; -1 chunked; -2: until the connection's end."""
    start = _first_lines(answer.code, answer.content_type)
    for name, value in answer.lines():
        start += b"%b: %b\r\n" % (name.encode(), clean(value))
    if close:
        start += b"Connection: close\r\n"
    if length >= 0:
        return b"%bContent-Length: %d\r\n\r\n" % (start, length)
    return start + (b"Transfer-Encoding: chunked\r\n\r\n" if length == -1 else b"\r\n")


def plain(code: int) -> Answer:
    """What net/http says itself of a request that it cannot read, in its words."""
    text = f"{code} {HTTPStatus(code).phrase}"
    return Answer(code, text.encode(), "text/plain; charset=utf-8")


def _too_large(limit: int, *, in_head: bool) -> Answer:
    return plain(431) if in_head else Answer(413, status.too_large(limit).body())
