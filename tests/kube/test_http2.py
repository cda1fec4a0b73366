# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 on the wire, against the h2 library as client, and frames that no client should send."""

from __future__ import annotations

import asyncio
import json
import struct
import threading

import h2.events
import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st
from kube_wires import H2, PATIENCE, Events, Flood, Wire, at_end, echo, get, pki

from kvcore.kube import frames
from kvcore.kube.frames import Fatal, HeaderReader, Reset, header_block, parse_headers
from kvcore.kube.request import Answer, Request

PREFACE = frames.PREFACE + frames.settings(())


def asking(path: str) -> bytes:
    """The header block of a GET, without use of the dynamic table."""
    return Encoder().encode([(":method", "GET", True), (":scheme", "https", True),
                             (":path", path, True)])


REQUEST = asking("/raw")


def test_a_request_and_its_answer() -> None:
    admin = pki().admin
    with Wire() as wire, wire.connect("h2", admin) as sock:
        client = H2(sock)
        id = client.ask("/a%20b?x=1", headers=(("authorization", "Bearer t"), ("x-a", "1"),
                                               ("x-a", "2"), ("cookie", "a"), ("cookie", "b")))
        code, body = client.answer(id)
        assert (code, json.loads(body)) == ("200", ["GET", "/a b", {"x": "1"}, 0])
        assert client.headers(id) == {":status": "200", "content-type": "application/json",
                                      "content-length": str(len(body))}
        request = wire.seen[0]
    assert request.headers == {"host": "localhost", "authorization": "Bearer t", "x-a": "1, 2",
                               "cookie": "a; b"}
    assert request.certificate is not None


def test_streams_are_served_at_once() -> None:
    """All wait for each other: one after the other, none would be answered."""
    here: list[asyncio.Event] = []
    count = 0

    async def together(request: Request) -> Answer:
        nonlocal count
        if not here:
            here.append(asyncio.Event())
        count += 1
        if count == 100:
            here[0].set()
        await here[0].wait()
        return await echo(request)

    with Wire(together) as wire, wire.connect("h2") as sock:
        client = H2(sock)
        ids = [client.ask(f"/{n}") for n in range(100)]
        assert [json.loads(client.answer(id)[1])[1] for id in ids] == [f"/{n}" for n in range(100)]


def test_bodies_up_and_down() -> None:
    async def back(request: Request) -> Answer:
        return Answer(201, request.body)

    body = bytes(range(256)) * 12_288                       # 3 MiB: the limit
    with Wire(back) as wire, wire.connect("h2") as sock:
        client = H2(sock)
        for _ in range(8):                                  # more than the connection's window
            assert client.answer(client.ask("/", method="POST", body=body)) == ("201", body)


def test_no_body_of_length_zero() -> None:
    with Wire() as wire, wire.connect("h2") as sock:
        client = H2(sock)
        assert json.loads(client.answer(client.ask("/", method="POST", body=b""))[1])[3] == 0


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large(announced: bool) -> None:
    headers = (("content-length", "5000000"),) if announced else ()
    with Wire(body_bytes=100_000) as wire, wire.connect("h2") as sock:
        client = H2(sock)
        id = client.ask("/", method="POST", body=b"x" * 200_000, headers=headers, end=False)
        code, body = client.answer(id)
        assert code == "413" and json.loads(body)["reason"] == "RequestEntityTooLarge"
        assert wire.seen == [] and client.answer(client.ask("/next"))[0] == "200"
        connection = next(iter(wire.hub.connections))
        assert connection._held == 0                        # type: ignore[attr-defined]


def test_too_many_unfinished_bodies() -> None:
    with Wire(held_bytes=500_000) as wire, wire.connect("h2") as sock:
        client = H2(sock)
        with pytest.raises((EOFError, ConnectionError)):
            for _ in range(20):
                client.ask("/", method="POST", body=b"x" * 100_000, end=False)
            client.until(lambda: False)
        assert wire.seen == []


def test_head_has_no_body() -> None:
    with Wire() as wire, wire.connect("h2") as sock:
        client = H2(sock)
        id = client.ask("/", method="HEAD")
        assert client.answer(id)[1] == b"" and int(client.headers(id)["content-length"]) > 0


def test_a_watch_is_flushed_at_once_and_ends() -> None:
    events = Events()
    with Wire(events.handle) as wire, wire.connect("h2") as sock:
        client = H2(sock)
        id = client.ask("/watch")
        client.until(lambda: client.of(id, h2.events.ResponseReceived))
        for line in (b"one\n", b"two\n"):
            events.push(line)
            client.until(lambda line=line: client.data(id).endswith(line))
        assert client.answer(client.ask("/beside"))[0] == "200"
        events.push(None)
        assert client.answer(id)[1] == b"one\ntwo\n" and events.closed.wait(PATIENCE)


def test_a_client_that_resets_closes_its_watch_only() -> None:
    events = Events()
    with Wire(events.handle) as wire, wire.connect("h2") as sock:
        client = H2(sock)
        id = client.ask("/watch")
        client.until(lambda: client.of(id, h2.events.ResponseReceived))
        assert events.started.wait(PATIENCE)
        client.conn.reset_stream(id)
        client.flush()
        assert events.closed.wait(PATIENCE)
        assert client.answer(client.ask("/next"))[0] == "200"


def test_a_client_that_leaves_closes_its_watch() -> None:
    events = Events()
    with Wire(events.handle) as wire:
        with wire.connect("h2") as sock:
            client = H2(sock)
            client.ask("/watch")
            assert events.started.wait(PATIENCE)
        assert events.closed.wait(PATIENCE)


def test_windows_are_kept() -> None:
    """The h2 library raises when more comes than it has allowed."""
    async def large(request: Request) -> Answer:
        return Answer(200, bytes(300_000))

    with Wire(large) as wire, wire.connect("h2") as sock:
        client = H2(sock, first_window=1000)
        ids = [client.ask("/") for _ in range(3)]
        assert [len(client.answer(id)[1]) for id in ids] == [300_000] * 3


def test_the_window_of_the_connection_is_kept() -> None:
    async def large(request: Request) -> Answer:
        return Answer(200, bytes(300_000))

    with Wire(large) as wire, wire.connect("h2") as sock:
        client = H2(sock, first_window=1 << 20)
        client.give_back = False
        ids = [client.ask("/") for _ in range(3)]
        for more, allowed in ((0, 65_535), (1000, 66_535), (1 << 20, 900_000)):
            if more:
                client.conn.increment_flow_control_window(more)
                client.flush()
            client.until(lambda allowed=allowed: sum(map(len, map(client.data, ids))) >= allowed)
            client.conn.ping(b"12345678")
            client.flush()
            client.until(lambda: client.events.pop() if isinstance(
                client.events[-1], h2.events.PingAckReceived) else None)
            assert sum(map(len, map(client.data, ids))) == allowed


def test_a_window_that_shrinks_below_nothing() -> None:
    flood = Flood(b"x" * 1000)
    with Wire(flood.handle) as wire, wire.connect("h2") as sock:
        client = H2(sock, first_window=40_000)
        client.conn.increment_flow_control_window(1 << 20)
        client.give_back = False
        id = client.ask("/watch")
        client.until(lambda: len(client.data(id)) == 40_000)
        client.conn.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100})
        client.flush()
        client.until(lambda: any(isinstance(e, h2.events.SettingsAcknowledged) and any(
            c.new_value == 100 for c in e.changed_settings.values()) for e in client.events))
        client.conn.increment_flow_control_window(50_000, id)     # of -39,900
        client.flush()
        client.until(lambda: len(client.data(id)) >= 50_100)
        assert client.answer(client.ask("/beside"))[0] == "200"
        assert len(client.data(id)) == 50_100


def test_a_setting_that_gives_room() -> None:
    with Wire() as wire, wire.connect("h2") as sock:
        client = H2(sock, first_window=0)
        id = client.ask("/")
        client.until(lambda: client.of(id, h2.events.ResponseReceived))
        client.conn.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000})
        client.flush()
        assert json.loads(client.answer(id)[1])[1] == "/"


def test_a_body_announced_too_large_is_not_waited_for() -> None:
    with Wire(body_bytes=1000) as wire, wire.connect("h2") as sock:
        client = H2(sock)
        id = client.ask("/", method="POST", headers=(("content-length", "1001"),), end=False)
        assert client.answer(id)[0] == "413" and wire.seen == []


def test_a_stream_that_is_not_read_is_reset_and_nobody_waits() -> None:
    flood = Flood()
    with Wire(flood.handle, write_seconds=0.1) as wire, wire.connect("h2") as sock:
        client = H2(sock, first_window=40_000)
        client.give_back = False
        id = client.ask("/watch")
        client.until(lambda: len(client.data(id)) == 40_000)
        while not client.ended(id):
            assert client.answer(client.ask("/beside"))[0] == "200"
        assert client.of(id, h2.events.StreamReset)[0].error_code == frames.CANCEL
        assert flood.closed.wait(PATIENCE) and wire.hub.closed_slow == 1


def test_a_connection_that_is_not_read_is_cut_off() -> None:
    flood = Flood()
    with Wire(flood.handle, write_seconds=0.1) as wire, wire.connect() as good:
        with wire.connect("h2", receive_buffer=4096) as sock:
            client = H2(sock, first_window=1 << 30)
            client.conn.increment_flow_control_window(1 << 30)
            client.ask("/watch")
            while not flood.closed.is_set():
                assert get(good)[0] == 200
            assert wire.hub.closed_slow == 1 and at_end(sock)


def test_the_end_says_goodbye_finishes_and_ends_watches() -> None:
    events, entered, release = Events(), threading.Event(), threading.Event()

    async def handle(request: Request) -> Answer:
        if request.path == "/slow":
            entered.set()
            await asyncio.to_thread(release.wait, PATIENCE)
        return await events.handle(request)

    with Wire(handle) as wire, wire.connect("h2") as sock:
        sock.sendall(PREFACE + headers_frame(1, asking("/watch"))
                     + headers_frame(3, asking("/slow")))
        assert events.started.wait(PATIENCE) and entered.wait(PATIENCE)
        wire.stop()
        assert events.closed.wait(PATIENCE)
        release.set()
        got = parsed(all_of(sock))
        end = [(kind, id) for kind, flags, id, _ in got
               if kind == frames.GOAWAY or kind == frames.DATA and flags & frames.END_STREAM]
        assert end == [(frames.GOAWAY, 0), (frames.DATA, 1), (frames.DATA, 3), (frames.GOAWAY, 0)]
        assert all(data[4:8] == bytes(4) for kind, _, _, data in got if kind == frames.GOAWAY)


# --- what no client should send -------------------------------------------------------------------

def parsed(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each frame received."""
    found = []
    while len(data) >= (length := 9 + int.from_bytes(data[:3], "big")) > 0 and len(data) >= 9:
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9:length]))
        data = data[length:]
    return found


def goaway(data: bytes) -> list[int]:
    """The codes of all GOAWAYs in what was received."""
    return [int.from_bytes(payload[4:8], "big") for kind, _, _, payload in parsed(data)
            if kind == frames.GOAWAY]


def all_of(sock: object) -> bytes:
    found = b""
    try:
        while data := sock.recv(65536):                     # type: ignore[attr-defined]
            found += data
    except OSError:
        pass
    return found


def headers_frame(id: int, block: bytes = REQUEST, flags: int = 5) -> bytes:
    return frames.frame(frames.HEADERS, flags, id, block)


BAD = {
    "no preface": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", frames.PROTOCOL_ERROR),
    "a frame too long": (PREFACE + b"\x00\x40\x01\x00\x00" + bytes(4), frames.FRAME_SIZE_ERROR),
    "an even stream": (PREFACE + headers_frame(2), frames.PROTOCOL_ERROR),
    "a stream again": (PREFACE + headers_frame(1) + headers_frame(1), frames.STREAM_CLOSED),
    "no HPACK": (PREFACE + headers_frame(1, b"\xff\xff\xff\xff\xff\xff"),
                 frames.COMPRESSION_ERROR),
    "DATA of nothing": (PREFACE + frames.frame(frames.DATA, 0, 7, b"x"), frames.PROTOCOL_ERROR),
    "too much padding": (PREFACE + headers_frame(1, b"\xff" + REQUEST, 13), frames.PROTOCOL_ERROR),
    "CONTINUATION of nothing": (PREFACE + frames.frame(frames.CONTINUATION, 4, 1, b""),
                                frames.PROTOCOL_ERROR),
    "something between headers": (PREFACE + headers_frame(1, REQUEST[:2], 1)
                                  + frames.frame(frames.PING, 0, 0, bytes(8)),
                                  frames.PROTOCOL_ERROR),
    "a push": (PREFACE + frames.frame(frames.PUSH_PROMISE, 4, 1, bytes(4)), frames.PROTOCOL_ERROR),
    "a short PING": (PREFACE + frames.frame(frames.PING, 0, 0, bytes(7)),
                     frames.FRAME_SIZE_ERROR),
    "a window of too much": (PREFACE + frames.frame(frames.WINDOW_UPDATE, 0, 0,
                                                    b"\x7f\xff\xff\xff"),
                             frames.FLOW_CONTROL_ERROR),
    "a window of nothing": (PREFACE + frames.frame(frames.WINDOW_UPDATE, 0, 0, bytes(4)),
                            frames.PROTOCOL_ERROR),
    "a wrong setting": (PREFACE + frames.settings(((frames.ENABLE_PUSH, 2),)),
                        frames.PROTOCOL_ERROR),
    "a flood of PINGs": (PREFACE + frames.frame(frames.PING, 0, 0, bytes(8)) * 20_000,
                         frames.ENHANCE_YOUR_CALM),
    "a flood of values in few SETTINGS": (PREFACE + frames.settings(
        ((frames.INITIAL_WINDOW_SIZE, 100),) * 2000) * 4, frames.ENHANCE_YOUR_CALM),
    "windows of many streams that change again and again": (
        PREFACE + b"".join(headers_frame(2 * n + 1, REQUEST, 4) for n in range(160))
        + frames.settings(((frames.INITIAL_WINDOW_SIZE, 100),) * 600), frames.ENHANCE_YOUR_CALM),
    "streams opened and reset": (PREFACE + b"".join(
        headers_frame(2 * n + 1) + frames.frame(frames.RST_STREAM, 0, 2 * n + 1, bytes(4))
        for n in range(20_000)), frames.ENHANCE_YOUR_CALM),
    "headers without end": (PREFACE + headers_frame(1, REQUEST, 0) + frames.frame(
        frames.CONTINUATION, 0, 1, bytes(16_000)) * 140, frames.ENHANCE_YOUR_CALM),
}


@pytest.mark.parametrize("name", BAD)
def test_what_ends_a_connection(name: str) -> None:
    data, code = BAD[name]
    with Wire(tick_seconds=PATIENCE) as wire, wire.connect() as good:
        with wire.connect("h2") as sock:
            sock.sendall(data)
            found = b""
            while not goaway(found):
                found += sock.recv(65536)
            assert goaway(found) == [code]
        assert get(good)[0] == 200


@pytest.mark.parametrize("part", [
    b"", frames.PREFACE[:10], PREFACE + b"\0\0", PREFACE + headers_frame(1, REQUEST[:1], 1),
    PREFACE + headers_frame(1, REQUEST, 4)])
def test_a_client_that_dawdles_is_closed(part: bytes) -> None:
    """The last one: a request without the end of its body."""
    with Wire(header_seconds=0.1, body_seconds=0.1, idle_seconds=0.1) as wire:
        with wire.connect("h2") as sock:
            sock.sendall(part)
            assert at_end(sock)
        assert wire.seen == []


FIELDS = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/")]


@pytest.mark.parametrize("fields", [
    FIELDS[1:], FIELDS[:2], FIELDS + [(b":method", b"GET")], FIELDS + [(b":new", b"")],
    FIELDS + [(b"Upper", b"")], FIELDS + [(b"connection", b"close")],
    FIELDS + [(b"te", b"gzip")], [(b"a", b"b"), *FIELDS], FIELDS + [(b"a", b"b\nc: d")],
    [*FIELDS[:2], (b":path", b"relative")], [*FIELDS[:2], (b":path", b"/\xff")],
    [(b":method", b"\xff"), *FIELDS[1:]], FIELDS + [(b"", b"")]])
def test_header_fields_that_may_not_be(fields: list[tuple[bytes, bytes]]) -> None:
    assert parse_headers(1, FIELDS) == ("GET", "/", {})
    with pytest.raises(Reset) as caught:
        parse_headers(1, fields)
    assert caught.value.code == frames.PROTOCOL_ERROR


@pytest.mark.parametrize("length", ["4", "6", "x", "-5"])
def test_a_content_length_that_is_wrong(length: str) -> None:
    with Wire() as wire, wire.connect("h2") as sock:
        client = H2(sock)
        id = client.ask("/", method="POST", body=b"hello", headers=(("content-length", length),))
        client.until(lambda: client.ended(id))
        assert client.of(id, h2.events.StreamReset) and wire.seen == []


@pytest.mark.parametrize(("length", "code"), [("0" * 5000 + "5", "200"), ("9" * 5000, "413")])
def test_a_content_length_of_thousands_of_digits(length: str, code: str) -> None:
    with Wire() as wire, wire.connect("h2") as sock:
        client = H2(sock)
        id = client.ask("/", method="POST", body=b"hello" if code == "200" else b"",
                        headers=(("content-length", length),), end=code == "200")
        assert client.answer(id)[0] == code


def test_more_streams_than_allowed_are_refused() -> None:
    events = Events()
    with Wire(events.handle, streams=1) as wire, wire.connect("h2") as sock:
        sock.sendall(PREFACE + headers_frame(1, asking("/watch")) + headers_frame(3))
        found = b""
        wanted = frames.frame(frames.RST_STREAM, 0, 3, struct.pack(">I", frames.REFUSED_STREAM))
        while wanted not in found:
            found += sock.recv(65536)
        assert events.started.wait(PATIENCE) and len(wire.seen) == 1


def test_large_headers() -> None:
    with Wire(header_bytes=60_000) as wire, wire.connect("h2") as sock:
        client = H2(sock)
        fits = tuple((f"h{n}", "v" * 10_000) for n in range(5))
        assert client.answer(client.ask("/", headers=fits))[0] == "200"
        assert wire.seen[0].headers["h4"] == "v" * 10_000
        over = tuple((f"h{n}", "v" * 10_000) for n in range(7))
        assert client.answer(client.ask("/", headers=over))[0] == "431" and len(wire.seen) == 1
        assert client.answer(client.ask("/next"))[0] == "200"


def test_trailers_end_a_request() -> None:
    with Wire() as wire, wire.connect("h2") as sock:
        client = H2(sock)
        id = client.ask("/", method="POST", body=b"hello", end=False)
        client.conn.send_headers(id, [("x-trailer", "1")], end_stream=True)
        client.flush()
        assert json.loads(client.answer(id)[1])[3] == 5
        assert "x-trailer" not in wire.seen[0].headers


# --- header blocks --------------------------------------------------------------------------------

NAMES = st.sampled_from([":path", "accept", "x-one", "x-two", "authorization"])
VALUES = st.sampled_from(["", "a", "b", "/api/v1/pods", "x" * 50, "long" * 400])


@given(st.lists(st.tuples(st.lists(st.tuples(NAMES, VALUES), max_size=4), st.booleans(),
                          st.sampled_from([None, 0, 200, 4096])), max_size=25))
def test_a_remembered_block_means_what_it_did(
        blocks: list[tuple[list[tuple[str, str]], bool, int | None]]) -> None:
    """A reader that remembers beside a decoder that does not."""
    encoder, plain, reader = Encoder(), Decoder(), HeaderReader(1 << 20)
    for fields, huffman, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        for block in (encoder.encode(fields, huffman=huffman), ):
            wanted = [(bytes(n), bytes(v)) for n, v in plain.decode(block, raw=True)]
            assert reader.fields(block)[0] == wanted


def test_a_block_is_remembered_until_the_table_changes() -> None:
    reader, encoder = HeaderReader(1 << 20), Encoder()
    first = encoder.encode([("x-name", "one")])
    again = encoder.encode([("x-name", "one")])
    assert reader.fields(first)[0] == reader.fields(again)[0] == [(b"x-name", b"one")]
    assert reader.fields(again) is reader.fields(again)
    other = encoder.encode([("x-name", "two")])             # moves "one" down by one
    assert reader.fields(other)[0] == reader.fields(again)[0] == [(b"x-name", b"two")]


def test_a_broken_block() -> None:
    with pytest.raises(Fatal):
        HeaderReader(100).fields(b"\x80")


@given(st.sampled_from([200, 201, 204, 304, 404, 410, 431, 503]),
       st.sampled_from(["application/json", "text/plain", "x" * 300]),
       st.dictionaries(st.sampled_from(["Warning", "Retry-After", "Location", "h" * 200]),
                       st.text(max_size=300)), st.sampled_from([-1, 0, 9, 10, 123_456_789]))
def test_an_answer_is_decoded_as_it_was_meant(code: int, kind: str, headers: dict[str, str],
                                              length: int) -> None:
    block = header_block(code, kind, list(headers.items()), length)
    got = list(Decoder().decode(frames.TABLE_SIZE_ZERO + block, raw=True))
    values = [value for _, value in got]
    assert got[0] == (b":status", b"%d" % code) and got[1] == (b"content-type", kind.encode())
    assert [name for name, _ in got[2:2 + len(headers)]] == [n.lower().encode() for n in headers]
    assert not any(byte in value for value in values for byte in b"\r\n\0")
    assert got[2 + len(headers):] == ([] if length < 0 else [(b"content-length", b"%d" % length)])


def test_a_client_without_a_table() -> None:
    with Wire() as wire, wire.connect("h2") as sock:
        client = H2(sock, table_size=0)
        assert [client.answer(client.ask("/"))[0] for _ in range(3)] == ["200"] * 3
