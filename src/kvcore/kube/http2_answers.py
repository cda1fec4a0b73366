# SPDX-License-Identifier: Apache-2.0
"""The sending half of an HTTP/2 connection: streams, answers, windows, what is written when.

    Stream ──task: handle──> HEADERS, DATA ... ──> _out ──> one write a turn of the loop
                                  └─ no room in a window: wait for WINDOW_UPDATE, or be reset

Named invariants:
1. **order of bytes**: everything goes through `_out` in the order it was decided, and is written
   at the end of the loop's turn, or at once when only one stream is there.
2. **windows**: what is sent never passes the peer's windows; `_window` and `Stream.window` are
   what may still be sent.
3. **a stream is in `_streams` exactly as long as its answer is not over.**
Thread safety: the event loop's thread. May not know: how requests are read (http2.py), Kubernetes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from kvcore.kube import frames
from kvcore.kube.frames import frame, header_block
from kvcore.kube.request import Answer, Request
from kvcore.kube.wire import FOREVER, LINGER_SECONDS, Connection, Hub, close_chunks, squeeze

__all__ = ["Answers", "Stream"]

TURN_BYTES = 1 << 18             # of one answer, before others may write theirs


class Stream:
    """A request on its way in, then its answer on its way out."""

    __slots__ = ("id", "method", "url", "headers", "parts", "size", "length", "window", "complete",
                 "task", "wake", "deadline", "streaming", "ending", "answered")

    def __init__(self, id: int, method: str, url: str, headers: dict[str, str],
                 window: int) -> None:
        self.id, self.method, self.url, self.headers = id, method, url, headers
        self.parts: list[bytes] = []
        self.size = 0                             # of the body so far
        self.length = -1                          # what content-length says
        self.window = window                      # what may be sent to the peer
        self.complete = False                     # the peer has said END_STREAM
        self.task: asyncio.Task[None] | None = None
        self.wake: asyncio.Future[None] | None = None
        self.deadline = FOREVER
        self.streaming = self.ending = self.answered = False


    def wake_up(self) -> None:
        """A window may have room now."""
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)


class Answers(Connection):
    """What the peer is sent. The reading half makes the streams."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._streams: dict[int, Stream] = {}
        self._last = 0                            # the newest stream's id
        self._window = frames.DEFAULT_WINDOW
        self._frame = frames.DEFAULT_FRAME
        self._held = 0                            # bytes of unfinished bodies
        self._out: list[bytes] = []
        self._flushing = self._over = False
        self._announce = frames.TABLE_SIZE_ZERO

    # --- writing ---------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flushing = False
        if self._out and not self.lost:
            data, self._out = b"".join(self._out), []
            self.transport.write(data)

    def _soon(self) -> None:
        """Write at the end of this turn, together with what others have; at once for one alone."""
        if len(self._streams) <= 1:
            self._flush()
        elif not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def _close(self, code: int, why: str = "") -> None:
        """GOAWAY, and no more. After an error what still comes is thrown away for a moment: closed
        at once, the connection would be reset before its peer has read why."""
        if not self._over:
            self._over = True
            self._out.append(frame(frames.GOAWAY, 0, 0, self._last.to_bytes(4, "big")
                                   + code.to_bytes(4, "big") + why.encode()))
            self._flush()
            if code == frames.NO_ERROR:
                self.transport.close()
            else:
                for id in tuple(self._streams):
                    self._drop(id)
                self.loop.call_later(LINGER_SECONDS, self.transport.close)

    # --- answering -------------------------------------------------------------------------------

    async def _answer(self, stream: Stream, request: Request) -> None:
        """The task of a stream: from the whole request to the answer's last frame."""
        try:
            answer = await self.hub.handle(request)
            if answer.chunks is not None:
                await self._stream(stream, request, answer, answer.chunks)
            else:
                await squeeze(request, answer)
                size = len(answer.body)
                if request.method == "HEAD":
                    answer.body = b""
                self._head(stream, answer, size)
                await self._data(stream, answer.body, last=True)
            self._streams.pop(stream.id, None)
        except Exception as error:
            self._reset(stream.id, frames.INTERNAL_ERROR)
            self.loop.call_exception_handler({"message": "an HTTP/2 stream failed",
                                              "exception": error})
        self._soon()
        if not self._streams:
            self._quiet()

    def _quiet(self) -> None:
        """No stream is left: wait for the next, or go."""
        self.deadline = self.loop.time() + self.limits.idle_seconds
        if self.hub.closing:
            self._close(frames.NO_ERROR)

    def _refuse(self, stream: Stream, answer: Answer) -> None:
        """Answers a request that is not whole, and will not be read."""
        stream.answered, stream.deadline = True, FOREVER
        self._let_go(stream)

        async def ready() -> None:
            self._head(stream, answer, len(answer.body))
            await self._data(stream, answer.body, last=True)
            self._out.append(frame(frames.RST_STREAM, 0, stream.id, bytes(4)))
            self._drop(stream.id, cancel=False)
            self._soon()

        stream.task = self.loop.create_task(ready())

    def _head(self, stream: Stream, answer: Answer, length: int) -> None:
        block = header_block(answer.code, answer.content_type, answer.lines(), length)
        if self._announce:
            block, self._announce = self._announce + block, b""
        size, id, flag = len(block), stream.id, frames.END_HEADERS
        if size > self._frame:
            self._out.append(frame(frames.HEADERS, 0, id, block[:self._frame]))
            at = self._frame
            while size - at > self._frame:
                self._out.append(frame(frames.CONTINUATION, 0, id, block[at:at + self._frame]))
                at += self._frame
            self._out.append(frame(frames.CONTINUATION, flag, id, block[at:]))
        else:
            self._out.append(frame(frames.HEADERS, flag, id, block))

    async def _data(self, stream: Stream, body: bytes, *, last: bool) -> None:
        """All of it, as the windows allow. `last`: END_STREAM behind it."""
        if self._paused:
            await self.drained()
        size, at, turn = len(body), 0, 0
        while True:
            room = min(size - at, self._frame, self._window, stream.window)
            if room <= 0 and at < size:
                self._flush()
                await self._more(stream)
                continue
            end = at + room
            flag = frames.END_STREAM if last and end == size else 0
            if size or last:
                self._out.append(frame(frames.DATA, flag, stream.id,
                                       body if room == size else body[at:end]))
            self._window -= room
            stream.window -= room
            at, turn = end, turn + room
            if at >= size:
                break
            if turn >= TURN_BYTES:
                turn = 0
                self._flush()
                if self._paused:
                    await self.drained()
        if self._paused:
            await self.drained()

    async def _more(self, stream: Stream) -> None:
        """Until the peer's windows may have room for this stream."""
        stream.deadline = self.loop.time() + self.limits.write_seconds
        stream.wake = self.loop.create_future()
        try:
            await stream.wake
        finally:
            stream.wake, stream.deadline = None, FOREVER

    async def _stream(self, stream: Stream, request: Request, answer: Answer,
                      chunks: AsyncIterator[bytes]) -> None:
        """Chunk after chunk, each flushed."""
        try:
            self._head(stream, answer, -1)
            if request.method != "HEAD":
                stream.streaming = True
                async for chunk in chunks:
                    await self._data(stream, chunk, last=False)
                    self._soon()
                    if self.hub.closing:
                        break
        except asyncio.CancelledError:
            if not stream.ending:
                raise
        finally:
            stream.streaming = False
            await close_chunks(chunks)
        self._out.append(frame(frames.DATA, frames.END_STREAM, stream.id))

    def _reset(self, stream: int, code: int) -> None:
        self._out.append(frame(frames.RST_STREAM, 0, stream, code.to_bytes(4, "big")))
        self._drop(stream)

    def _drop(self, id: int, *, cancel: bool = True) -> None:
        """Forget a stream; who works on its answer is stopped."""
        stream = self._streams.pop(id, None)
        if stream is None:
            return
        self._let_go(stream)
        if cancel and stream.task is not None:
            stream.task.cancel()
        if not self._streams and not self.lost:
            self._quiet()

    def _let_go(self, stream: Stream) -> None:
        self._held -= stream.size
        stream.parts, stream.size = [], 0
