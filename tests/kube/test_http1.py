# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 on the wire: framing, limits, watches flushed at once, clients that misbehave."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import threading
import weakref
from typing import Any

import pytest
from kube_wires import H2, PATIENCE, Events, Flood, Wire, answer_of, at_end, echo, get, pki

from kvcore.kube.request import Answer, Request
from kvcore.kube.wire import Limits, accepts_gzip


def test_a_connection_is_used_again() -> None:
    with Wire() as wire, wire.connect() as sock:
        for number in range(3):
            code, body = get(sock, f"/a%20b/{number}?x=1&y=%2F&x=2")
            assert (code, json.loads(body)) == (
                200, ["GET", f"/a b/{number}", {"x": "1", "y": "/"}, 0])
        assert len(wire.hub.connections) == 1


def test_the_content_type_is_exact() -> None:
    with Wire() as wire, wire.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        answer = answer_of(sock)
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Content-Length"] == str(len(answer.read()))


def test_a_request_brings_headers_body_and_certificate() -> None:
    admin = pki().admin
    with Wire() as wire, wire.connect(client=admin) as sock:
        sock.sendall(b"POST /p HTTP/1.1\r\nAuthorization: Bearer t\r\nX-A: 1\r\nx-a: 2\r\n"
                     b"Content-Length: 5\r\n\r\nhello")
        assert answer_of(sock).status == 200
        request = wire.seen[0]
    assert request.body == b"hello" and request.method == "POST"
    assert request.headers["authorization"] == "Bearer t" and request.headers["x-a"] == "1, 2"
    assert request.certificate == admin.certificate.public_bytes(_der())


def _der() -> object:
    from cryptography.hazmat.primitives.serialization import Encoding
    return Encoding.DER


def test_pipelined_requests_are_answered_in_order() -> None:
    with Wire() as wire, wire.connect() as sock:
        sock.sendall(b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % n for n in range(100)))
        for number in range(100):
            assert json.loads(answer_of(sock).read())[1] == f"/{number}"


def test_a_body_in_chunks() -> None:
    with Wire() as wire, wire.connect() as sock:
        sock.sendall(b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                     b"5\r\nhello\r\n6\r\n world\r\n")
        sock.sendall(b"0\r\n\r\n")
        assert answer_of(sock).status == 200
        assert wire.seen[0].body == b"hello world"


def test_a_client_that_waits_before_its_body() -> None:
    with Wire() as wire, wire.connect() as sock:
        sock.sendall(b"POST /e HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"ok")
        assert json.loads(answer_of(sock).read())[3] == 2


def test_head_has_no_body() -> None:
    with Wire() as wire, wire.connect() as sock:
        sock.sendall(b"HEAD /h HTTP/1.1\r\n\r\n")
        answer = answer_of(sock, "HEAD")
        assert answer.read() == b"" and int(answer.headers["Content-Length"]) > 0
        assert get(sock, "/next")[0] == 200


@pytest.mark.parametrize("bad", [
    b"NONSENSE\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"GET / HTTP/1.1\r\nA\x00: b\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"GET http://elsewhere/ HTTP/1.1\r\n\r\n",
])
def test_what_is_no_request(bad: bytes) -> None:
    with Wire() as wire, wire.connect() as good, wire.connect() as sock:
        sock.sendall(b"GET /before HTTP/1.1\r\n\r\n" + bad)
        assert json.loads(answer_of(sock).read())[1] == "/before"
        answer = answer_of(sock)
        assert (answer.status, answer.read()) == (400, b"400 Bad Request")
        assert [r.path for r in wire.seen] == ["/before"]
        assert get(good)[0] == 200


@pytest.mark.parametrize("head", [
    b"".join(b"H%d: %b\r\n" % (n, b"v" * 1000) for n in range(40)), b"H: " + b"v" * 40_000,
    b"H" * 40_000])
def test_headers_that_are_too_large(head: bytes) -> None:
    with Wire(header_bytes=32_768) as wire, wire.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n" + head)
        assert answer_of(sock).status == 431
        assert wire.seen == []


def test_a_url_that_is_too_large() -> None:
    with Wire(header_bytes=32_768) as wire, wire.connect() as sock:
        sock.sendall(b"GET /" + b"x" * 40_000)
        assert answer_of(sock).status == 431


def test_a_content_length_of_thousands_of_digits() -> None:
    with Wire() as wire, wire.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: " + b"0" * 5000 + b"2\r\n\r\n{}")
        assert answer_of(sock).status == 200
        assert wire.seen[0].body == b"{}"


def test_others_have_turns_between_pipelined_requests() -> None:
    turns: list[str] = []

    async def handle(request: Request) -> Answer:
        turns.append(request.path)
        asyncio.get_running_loop().call_soon(turns.append, "another")
        return Answer(200, b"{}")

    with Wire(handle) as wire, wire.connect() as sock:
        sock.sendall(b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % n for n in range(5)))
        for _ in range(5):
            assert answer_of(sock).read() == b"{}"
    assert turns[:8:2] == ["/0", "/1", "/2", "/3"] and set(turns[1:8:2]) == {"another"}


def test_trailers_are_no_headers() -> None:
    with Wire() as wire, wire.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
                     b"2\r\n{}\r\n0\r\nX-A: 2\r\nX-B: 3\r\n\r\n")
        assert answer_of(sock).status == 200
        headers = wire.seen[0].headers
        assert headers["x-a"] == "1" and "x-b" not in headers


def test_small_headers_count_more_than_their_letters() -> None:
    with Wire(header_bytes=32_768) as wire, wire.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n" + b"A:b\r\n" * 1000 + b"\r\n")
        assert answer_of(sock).status == 431
        assert wire.seen == []


def test_a_body_announced_too_large_is_not_waited_for() -> None:
    with Wire(body_bytes=1000) as wire, wire.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n")
        answer = answer_of(sock)
        status = json.loads(answer.read())
        assert answer.status == status["code"] == 413 and wire.seen == []
        assert status["reason"] == "RequestEntityTooLarge"
        assert status["message"] == "Request entity too large: limit is 1000"


def test_a_body_that_grows_too_large() -> None:
    with Wire(body_bytes=1000) as wire, wire.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                     + b"100\r\n%b\r\n" % (b"x" * 256) * 4)
        assert answer_of(sock).status == 413 and wire.seen == []


def test_a_body_of_the_limit_is_taken() -> None:
    with Wire() as wire, wire.connect() as sock:
        size = Limits().body_bytes
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        assert json.loads(answer_of(sock).read())[3] == size == 3 * 1024 * 1024


def test_a_watch_is_flushed_at_once_and_ends() -> None:
    events = Events()
    with Wire(events.handle) as wire, wire.connect() as sock:
        sock.sendall(b"GET /watch HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n")
        answer = answer_of(sock)                  # the headers come before any event
        assert answer.status == 200 and "Content-Encoding" not in answer.headers
        for line in (b"one\n", b"two\n"):
            events.push(line)
            assert answer.readline() == line
        events.push(None)
        assert answer.read() == b"" and events.closed.wait(PATIENCE)
        assert get(sock)[0] == 200


@pytest.mark.parametrize("header", [b"", b"Connection: keep-alive\r\n"])
def test_an_old_client_watches_until_the_connection_ends(header: bytes) -> None:
    events = Events()
    with Wire(events.handle) as wire, wire.connect() as sock:
        sock.sendall(b"GET /watch HTTP/1.0\r\n%b\r\n" % header)
        answer = answer_of(sock)
        assert answer.headers["Transfer-Encoding"] is None
        events.push(b"line\n")
        assert answer.readline() == b"line\n"
        events.push(None)
        assert answer.read() == b"" and at_end(sock)


def test_a_client_that_leaves_closes_its_watch() -> None:
    events = Events()
    with Wire(events.handle) as wire:
        with wire.connect() as sock:
            sock.sendall(b"GET /watch HTTP/1.1\r\n\r\n")
            assert answer_of(sock).status == 200
        assert events.closed.wait(PATIENCE)


def test_a_client_that_stops_reading_is_cut_off_and_nobody_waits() -> None:
    flood = Flood()
    with Wire(flood.handle, write_seconds=0.1) as wire, wire.connect() as good:
        with wire.connect(receive_buffer=4096) as stuck:
            stuck.sendall(b"GET /watch HTTP/1.1\r\n\r\n")
            while not flood.closed.is_set():
                assert get(good)[0] == 200
            assert wire.hub.closed_slow == 1 and at_end(stuck)
            assert get(good)[0] == 200


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_what_nobody_reads_is_not_made(protocol: str) -> None:
    """A watch makes a chunk a turn of the loop, or none while its client does not read."""
    flood = Flood(b"x" * (1 << 20))
    with Wire(flood.handle) as wire, wire.connect() as good:
        with wire.connect(protocol, receive_buffer=4096) as stuck:
            if protocol == "h2":
                client = H2(stuck, first_window=1 << 30)
                client.conn.increment_flow_control_window(1 << 30)
                client.ask("/watch")
            else:
                stuck.sendall(b"GET /watch HTTP/1.1\r\n\r\n")
            for _ in range(200):
                assert get(good)[0] == 200
            assert 0 < flood.said < 50


def test_an_answer_that_nobody_reads_is_cut_off() -> None:
    async def large(request: Request) -> Answer:
        return Answer(200, b"x" * (32 << 20)) if request.path == "/large" else await echo(request)

    with Wire(large, write_seconds=0.1) as wire, wire.connect() as good:
        with wire.connect(receive_buffer=4096) as stuck:
            stuck.sendall(b"GET /large HTTP/1.1\r\n\r\n" * 3)
            while not wire.hub.closed_slow:
                assert get(good)[0] == 200
            assert at_end(stuck)


@pytest.mark.parametrize(("part", "limit"), [
    (b"", "header_seconds"), (b"GET / HTTP/1.1\r\nA: ", "header_seconds"),
    (b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhal", "body_seconds"),
    (b"GET / HTTP/1.1\r\n\r\n", "idle_seconds")])
def test_a_client_that_dawdles_is_closed(part: bytes, limit: str) -> None:
    with Wire(**{limit: 0.1}) as wire, wire.connect() as sock:
        sock.sendall(part)
        assert at_end(sock)
    assert len(wire.seen) == (1 if limit == "idle_seconds" else 0)


def test_a_slow_handler_is_not_cut_off() -> None:
    """Deadlines are for clients: while an answer is made there is none."""
    release = threading.Event()

    async def slow(request: Request) -> Answer:
        if request.path == "/slow":
            import asyncio
            await asyncio.to_thread(release.wait, PATIENCE)
        return await echo(request)

    with Wire(slow, header_seconds=0.2, body_seconds=0.05, idle_seconds=0.2) as wire:
        with wire.connect() as sock, wire.connect() as idle:
            sock.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
            assert at_end(idle)                   # so the deadlines are over
            release.set()
            assert answer_of(sock).status == 200


def test_large_answers_are_compressed_for_who_accepts_it() -> None:
    body = b'{"items":[' + b'"0123456789",' * 20_000 + b"0]}"

    async def large(request: Request) -> Answer:
        return Answer(200, body if request.path == "/large" else b"{}")

    with Wire(large) as wire, wire.connect() as sock:
        sock.sendall(b"GET /large HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n")
        answer = answer_of(sock)
        assert answer.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(answer.read()) == body
        for accepted, path in ((b"identity", b"/large"), (b"gzip", b"/small")):
            sock.sendall(b"GET %b HTTP/1.1\r\nAccept-Encoding: %b\r\n\r\n" % (path, accepted))
            answer = answer_of(sock)
            assert answer.headers["Content-Encoding"] is None
            assert answer.read() == (body if path == b"/large" else b"{}")


@pytest.mark.parametrize(("header", "accepted"), [
    ("gzip", True), ("deflate, gzip", True), ("GZIP;q=0.5", True), ("*", True), ("", False),
    ("gzip;q=0", False), ("gzip; q=0.00", False), ("br", False), ("gzip;q=1", True)])
def test_accept_encoding(header: str, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


def test_a_value_cannot_end_its_header() -> None:
    async def evil(request: Request) -> Answer:
        return Answer(200, b"{}", headers={"Warning": '299 - "a\r\nX-Evil: 1\r\n\r\n<html>"'})

    with Wire(evil) as wire, wire.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        answer = answer_of(sock)
        assert answer.headers["X-Evil"] is None and answer.read() == b"{}"
        assert answer.headers["Warning"] == '299 - "a  X-Evil: 1    <html>"'


def test_an_upgrade_is_not_taken() -> None:
    with Wire() as wire, wire.connect() as sock:
        sock.sendall(b"GET /exec HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nxx")
        answer = answer_of(sock)
        assert answer.status == 200 and answer.headers["Connection"] == "close"
        assert at_end(sock)


def test_the_end_finishes_requests_and_ends_watches() -> None:
    events, entered, release = Events(), threading.Event(), threading.Event()

    async def handle(request: Request) -> Answer:
        if request.path == "/slow":
            import asyncio
            entered.set()
            await asyncio.to_thread(release.wait, PATIENCE)
        return await events.handle(request)

    with Wire(handle) as wire:
        watching, slow, idle = wire.connect(), wire.connect(), wire.connect()
        watching.sendall(b"GET /watch HTTP/1.1\r\n\r\n")
        slow.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        assert get(idle)[0] == 200
        watch = answer_of(watching)
        assert entered.wait(PATIENCE)
        wire.stop()
        assert at_end(idle)
        assert watch.read() == b"" and events.closed.wait(PATIENCE) and at_end(watching)
        release.set()
        answer = answer_of(slow)
        assert answer.status == 200 and answer.read() and at_end(slow)
        for sock in (watching, slow, idle):
            sock.close()


def test_what_does_not_end_is_aborted_after_the_grace() -> None:
    async def never(request: Request) -> Answer:
        import asyncio
        return await asyncio.get_running_loop().create_future()

    with Wire(never, grace_seconds=0.05) as wire:
        sock = wire.connect()
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while not wire.seen:
            pass
    assert at_end(sock)
    sock.close()


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_a_closed_connection_is_freed_at_once(protocol: str) -> None:
    """Not when the collector comes round: it keeps TLS's buffers, some 300 KiB."""
    held: list[weakref.ref[Any]] = []
    gone = threading.Event()
    with Wire() as wire:
        forget = wire.hub.forget

        def forgotten(connection: Any) -> None:
            forget(connection)
            held.append(weakref.ref(connection, lambda _: gone.set()))
        wire.hub.forget = forgotten              # type: ignore[method-assign]
        gc.disable()
        try:
            with wire.connect(protocol) as sock:
                if protocol == "h2":
                    client = H2(sock)
                    client.answer(client.ask("/x"))
                else:
                    get(sock)
            assert gone.wait(PATIENCE)
        finally:
            gc.enable()
