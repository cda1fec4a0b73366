# SPDX-License-Identifier: Apache-2.0
"""HTTP/2: one task a stream, answers written together. This is the reading half.

    bytes ─> frames ──HEADERS, DATA──> Stream ──complete──> task: handle ─> HEADERS, DATA
                    └─WINDOW_UPDATE──> who waits for room goes on

The protocol is small enough to be here whole: frames.py (bytes), this file, http2_answers.py (the
sending half), and `hpack` for header blocks; docs/kube.md says what that saves and how it is
proven. What is not here: priorities (allowed to be ignored), server push, trailers (read and
dropped).
Thread safety: the event loop's thread. May not know: Kubernetes, but for Request, Answer, Status.
"""

from __future__ import annotations

from collections.abc import Callable

from kvcore.kube import frames, status
from kvcore.kube.frames import Fatal, HeaderReader, Reset, frame, parse_headers
from kvcore.kube.http2_answers import Answers, Stream
from kvcore.kube.request import Answer, Request
from kvcore.kube.wire import FOREVER, LENGTH_DIGITS, Hub

__all__ = ["Http2"]

RECEIVE_WINDOW = 16 << 20        # of the connection; given back a MiB at a time
GIVE_BACK = 1 << 20
CONTROL_A_TICK = 5000            # frames that ask for work and carry none: more is an attack
STREAMS_A_COST = 16              # streams that are looked at count as one such frame


class Http2(Answers):
    """One connection."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._rest = b""
        self._preface = self._partial = False
        self._reader = HeaderReader(self.limits.header_bytes)
        self._block: tuple[int, int, bytes] | None = None     # id, flags, what came of its headers
        self._first_window = frames.DEFAULT_WINDOW
        self._received = self._control = 0

    def opened(self) -> None:
        limits = self.limits
        self._out += (
            frames.settings(((frames.MAX_CONCURRENT_STREAMS, limits.streams),
                             (frames.INITIAL_WINDOW_SIZE, limits.body_bytes + GIVE_BACK),
                             (frames.MAX_HEADER_LIST_SIZE, limits.header_bytes))),
            frame(frames.WINDOW_UPDATE, 0, 0,
                  (RECEIVE_WINDOW - frames.DEFAULT_WINDOW).to_bytes(4, "big")))
        self._flush()

    # --- reading ---------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        if self._rest:
            data = self._rest + data
        try:
            at = self._read(data)
        except Fatal as error:
            self._rest = b""
            return self._close(error.code, str(error))
        self._rest = data[at:] if at < len(data) else b""
        if self._block is None and not self._rest:
            self._partial = False
            self.deadline = (FOREVER if self._streams
                             else self.loop.time() + self.limits.idle_seconds)
        elif not self._partial or (at and self._block is None):
            self._partial = True
            self.deadline = self.loop.time() + self.limits.header_seconds
        if self._out and not self._flushing:
            self._flush()

    def _read(self, data: bytes) -> int:
        """Whole frames of the data. Returns: how many bytes they were. Errors: Fatal."""
        at, size = 0, len(data)
        if not self._preface:
            if not frames.PREFACE.startswith(data[:24]):
                raise Fatal(frames.PROTOCOL_ERROR, "no HTTP/2 preface")
            if size < 24:
                return 0
            at, self._preface = 24, True
        while size - at >= 9:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if length > frames.DEFAULT_FRAME:
                raise Fatal(frames.FRAME_SIZE_ERROR, "a frame is too long")
            end = at + 9 + length
            if end > size:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5:at + 9], "big") & 0x7FFFFFFF
            payload, at = data[at + 9:end], end
            if self._block is not None and kind != frames.CONTINUATION:
                raise Fatal(frames.PROTOCOL_ERROR, "a header block is not finished")
            if kind > frames.CONTINUATION:        # of an extension
                self._cost()
                continue
            try:
                READERS[kind](self, flags, stream, payload)
            except Reset as reset:
                self._reset(reset.stream, reset.code)
            if self._over:
                return size
        return at

    def _cost(self) -> None:
        """Counts frames that make work without a request; too many within a tick end it."""
        self._control += 1
        if self._control > CONTROL_A_TICK:
            raise Fatal(frames.ENHANCE_YOUR_CALM, "too many control frames")

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream % 2:
            raise Fatal(frames.PROTOCOL_ERROR, "no client's stream")
        payload = frames.unpadded(flags, payload)
        if flags & frames.WITH_PRIORITY:
            if len(payload) < 5:
                raise Fatal(frames.FRAME_SIZE_ERROR, "HEADERS is too short")
            if int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == stream:
                flags |= 0x100                    # depends on itself: refused once decoded
            payload = payload[5:]
        if flags & frames.END_HEADERS:
            self._headers(stream, flags, payload)
        else:
            self._block = (stream, flags, payload)

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream:
            raise Fatal(frames.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._cost()
        _, first, block = self._block
        block += payload
        if len(block) > 2 * self.limits.header_bytes:
            raise Fatal(frames.ENHANCE_YOUR_CALM, "the headers are too large")
        self._block = None if flags & frames.END_HEADERS else (stream, first, block)
        if flags & frames.END_HEADERS:
            self._headers(stream, first, block)

    def _headers(self, id: int, flags: int, block: bytes) -> None:
        """A whole header block: a new stream, or the trailers of one."""
        fields, size = self._reader.fields(block)
        stream = self._streams.get(id)
        if id <= self._last:
            if stream is None or stream.complete:
                raise Fatal(frames.STREAM_CLOSED, "HEADERS on a closed stream")
            if stream.answered:
                return
            if not flags & frames.END_STREAM or any(name[:1] == b":" for name, _ in fields):
                raise Reset(id, frames.PROTOCOL_ERROR)
            return self._end(stream)
        self._last = id
        if flags & 0x100:
            raise Reset(id, frames.PROTOCOL_ERROR)
        if len(self._streams) >= self.limits.streams or self.hub.closing:
            raise Reset(id, frames.REFUSED_STREAM)
        stream = Stream(id, *parse_headers(id, fields), self._first_window)
        if size > self.limits.header_bytes:
            self._streams[id] = stream
            return self._refuse(stream, Answer(431, b"", "text/plain"))
        if "content-length" in stream.headers:
            text = stream.headers["content-length"]
            if not (text.isascii() and text.isdigit()):
                raise Reset(id, frames.PROTOCOL_ERROR)
            stream.length = int(text.lstrip("0")[:LENGTH_DIGITS] or "0")
        self._streams[id] = stream
        if flags & frames.END_STREAM:
            self._end(stream)
        elif stream.length > self.limits.body_bytes:
            self._refuse(stream, self._too_large())
        else:
            stream.deadline = self.loop.time() + self.limits.body_seconds

    def _too_large(self) -> Answer:
        return Answer(413, status.too_large(self.limits.body_bytes).body())

    def _on_data(self, flags: int, id: int, payload: bytes) -> None:
        size = len(payload)
        self._received += size
        if self._received >= GIVE_BACK:
            self._out.append(frame(frames.WINDOW_UPDATE, 0, 0, self._received.to_bytes(4, "big")))
            self._received = 0
        stream = self._streams.get(id)
        if stream is None or stream.complete or stream.answered:
            if not id or id > self._last:
                raise Fatal(frames.PROTOCOL_ERROR, "DATA of no stream")
            self._cost()
            if stream is not None and stream.answered and not stream.complete:
                return                            # refused: what is under way is thrown away
            raise Reset(id, frames.STREAM_CLOSED)
        if not size and not flags & frames.END_STREAM:
            self._cost()
        payload = frames.unpadded(flags, payload)
        stream.size += size
        self._held += size
        if stream.size > self.limits.body_bytes:
            return self._refuse(stream, self._too_large())
        if self._held > self.limits.held_bytes:
            raise Fatal(frames.ENHANCE_YOUR_CALM, "too many unfinished bodies")
        if payload:
            stream.parts.append(payload)
        if flags & frames.END_STREAM:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        """The request is whole."""
        stream.complete, stream.deadline = True, FOREVER
        body = stream.parts[0] if len(stream.parts) == 1 else b"".join(stream.parts)
        self._let_go(stream)
        if stream.length >= 0 and stream.length != len(body):
            raise Reset(stream.id, frames.PROTOCOL_ERROR)
        request = Request.of(stream.method, stream.url, headers=stream.headers, body=body,
                             certificate=self.certificate, address=self.address)
        stream.task = self.loop.create_task(self._answer(stream, request))

    def _on_priority(self, flags: int, stream: int, payload: bytes) -> None:
        self._cost()
        if not stream:
            raise Fatal(frames.PROTOCOL_ERROR, "PRIORITY of no stream")
        if len(payload) != 5:
            raise Reset(stream, frames.FRAME_SIZE_ERROR)
        if int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == stream:
            raise Reset(stream, frames.PROTOCOL_ERROR)

    def _on_rst_stream(self, flags: int, stream: int, payload: bytes) -> None:
        self._cost()
        if len(payload) != 4:
            raise Fatal(frames.FRAME_SIZE_ERROR, "RST_STREAM of a strange length")
        if not stream or stream > self._last:
            raise Fatal(frames.PROTOCOL_ERROR, "RST_STREAM of no stream")
        self._drop(stream)

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        self._cost()
        if stream:
            raise Fatal(frames.PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & frames.ACK:
            if payload:
                raise Fatal(frames.FRAME_SIZE_ERROR, "SETTINGS are acknowledged with a payload")
            return
        for name, value in frames.read_settings(payload):
            self._cost()
            if name == frames.INITIAL_WINDOW_SIZE:
                self._control += len(self._streams) // STREAMS_A_COST
                for one in self._streams.values():
                    one.window += value - self._first_window
                    if one.window > frames.LARGEST_WINDOW:
                        raise Fatal(frames.FLOW_CONTROL_ERROR, "a window is too large")
                self._first_window = value
                self._room()
            elif name == frames.MAX_FRAME_SIZE:
                self._frame = value
        self._out.append(frame(frames.SETTINGS, frames.ACK, 0))

    def _on_push_promise(self, flags: int, stream: int, payload: bytes) -> None:
        raise Fatal(frames.PROTOCOL_ERROR, "a client cannot push")

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        self._cost()
        if stream:
            raise Fatal(frames.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise Fatal(frames.FRAME_SIZE_ERROR, "PING of a strange length")
        if not flags & frames.ACK:
            self._out.append(frame(frames.PING, frames.ACK, 0, payload))

    def _on_goaway(self, flags: int, stream: int, payload: bytes) -> None:
        self._cost()
        if stream:
            raise Fatal(frames.PROTOCOL_ERROR, "GOAWAY of a stream")

    def _on_window_update(self, flags: int, id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Fatal(frames.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a strange length")
        more = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if not id:
            was, self._window = self._window, self._window + more
            if not more or self._window > frames.LARGEST_WINDOW:
                raise Fatal(frames.FLOW_CONTROL_ERROR if more else frames.PROTOCOL_ERROR,
                            "a window grows by nothing or too much")
            return self._room() if was <= 0 else None     # else nobody waits for it
        if id > self._last:
            raise Fatal(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of no stream")
        stream = self._streams.get(id)
        if not more:
            raise Reset(id, frames.PROTOCOL_ERROR)
        if stream is None:
            return self._cost()
        stream.window += more
        if stream.window > frames.LARGEST_WINDOW:
            raise Reset(id, frames.FLOW_CONTROL_ERROR)
        stream.wake_up()

    def _room(self) -> None:
        for stream in self._streams.values():
            if stream.wake is not None:
                stream.wake_up()

    # --- ends ------------------------------------------------------------------------------------

    def left(self) -> None:
        self._over = True
        for id in tuple(self._streams):
            self._drop(id)

    def tick(self, now: float) -> None:
        super().tick(now)
        self._control = 0
        for stream in [s for s in self._streams.values() if now > s.deadline]:
            if stream.complete:
                self.hub.closed_slow += 1
            self._reset(stream.id, frames.CANCEL)
        if self._out:
            self._flush()

    def working(self) -> bool:
        return bool(self._streams)

    def expire(self) -> None:
        self._close(frames.NO_ERROR)

    def wind_up(self) -> None:
        if self._over:
            return self.transport.close()
        if not self._streams:
            return self._close(frames.NO_ERROR)
        self._out.append(frame(frames.GOAWAY, 0, 0, self._last.to_bytes(4, "big") + bytes(4)))
        for stream in self._streams.values():
            if stream.streaming and stream.task is not None:
                stream.ending = True
                stream.task.cancel()
        self._flush()


READERS: tuple[Callable[[Http2, int, int, bytes], None], ...] = (
    Http2._on_data, Http2._on_headers, Http2._on_priority, Http2._on_rst_stream,
    Http2._on_settings, Http2._on_push_promise, Http2._on_ping, Http2._on_goaway,
    Http2._on_window_update, Http2._on_continuation)
