"""The image server does what its paths say, and leaves nothing behind."""

from __future__ import annotations

import gzip
import http.client
import itertools
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import trustme

from penstock.testing.answers import End
from penstock.testing.bad_images import BAD_IMAGES
from penstock.testing.behaviours import ROBOTS, SILENCE, Behaviours, Robots
from penstock.testing.images import make_images
from penstock.testing.ports import PORTS
from penstock.testing.server import ImageServer, _parser

PATIENCE = 10.0
"""Seconds after which a test gives up on the server."""

PICTURES = {"a.jpg": 20_000, "b c.png": 300, "sub/ü.webp": 150_000}
"""Files of the corpus and their sizes."""

HALF_OF_A = len(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 20000\r\n\r\n") + 10_000
"""Bytes on the wire of an answer that breaks off in the middle of a.jpg."""


def _bytes_of(name: str) -> bytes:
    return random.Random(name).randbytes(PICTURES[name])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "sub").mkdir()
    for name in PICTURES:
        (folder / name).write_bytes(_bytes_of(name))
    return folder


@pytest.fixture(scope="module")
def server(corpus: Path) -> Iterator[ImageServer]:
    with ImageServer(corpus=corpus) as running:
        yield running


@pytest.fixture
def client(server: ImageServer) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=PATIENCE)
    yield connection
    connection.close()


@pytest.fixture
def wire(server: ImageServer) -> Iterator[socket.socket]:
    """A bare connection to the server."""
    with _connect(server) as connection:
        yield connection


def _connect(server: ImageServer) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE)


def _get(client: http.client.HTTPConnection, target: str, method: str = "GET") -> http.client.HTTPResponse:
    client.request(method, target)
    return client.getresponse()


def _read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(2**16), b""))


def _read(connection: socket.socket, size: int) -> bytes:
    with connection.makefile("rb") as file:
        return file.read(size)


@pytest.mark.parametrize(
    ("name", "content_type"), [("a.jpg", "image/jpeg"), ("b c.png", "image/png"), ("sub/ü.webp", "image/webp")]
)
def test_image_is_served_with_its_type(client: http.client.HTTPConnection, name: str, content_type: str) -> None:
    """A picture comes as it is, whatever the query says."""
    answer = _get(client, f"/image/{quote(name)}?i=823")
    assert (answer.status, answer.headers["Content-Type"]) == (200, content_type)
    assert answer.read() == _bytes_of(name)


def test_head_has_no_body(client: http.client.HTTPConnection) -> None:
    """HEAD tells the length, sends no body and leaves the connection in step."""
    answer = _get(client, "/image/a.jpg", "HEAD")
    assert (answer.headers["Content-Length"], answer.read()) == ("20000", b"")
    assert _get(client, "/image/a.jpg").read() == _bytes_of("a.jpg")


def test_connection_is_kept(server: ImageServer, client: http.client.HTTPConnection) -> None:
    """Requests after one another share a connection, and each is counted once, by prefix and by target."""
    before = server.statistics()
    for index in range(3):
        _get(client, f"/image/a.jpg?kept={index}").read()
    after = server.statistics()
    assert after.connections_opened - before.connections_opened == 1
    assert after.by_prefix["image"] - before.by_prefix.get("image", 0) == after.requests - before.requests == 3
    assert [after.by_target[f"/image/a.jpg?kept={index}"] for index in range(3)] == [1, 1, 1]
    assert after.bytes_sent - before.bytes_sent > 3 * PICTURES["a.jpg"]


def test_asking_for_statistics_does_not_count(server: ImageServer) -> None:
    """Reading the statistics changes none of the counters."""
    first, second = server.statistics(), server.statistics()
    assert (first.requests, first.connections_opened, first.connections_open, first.bytes_sent) == (
        second.requests,
        second.connections_opened,
        second.connections_open,
        second.bytes_sent,
    )
    assert second.cpu_seconds >= first.cpu_seconds > 0


def test_pipelined_requests_are_answered_in_order(wire: socket.socket) -> None:
    """Thousands of requests sent at once, more than the server reads ahead, are answered one after the other."""
    count = 3000
    requests = [f"GET /text/n{index} HTTP/1.1\r\nHost: x\r\n\r\n" for index in range(count)]
    requests.append("GET /empty HTTP/1.1\r\nConnection: close\r\n\r\n")
    wire.sendall("".join(requests).encode())
    bodies = [piece.partition(b"HTTP/1.1")[0] for piece in _read_all(wire).split(b"\r\n\r\n")[1:]]
    assert bodies == [b"n%d" % index for index in range(count)] + [b""]


def test_request_may_come_in_pieces(wire: socket.socket) -> None:
    """A request that arrives byte by byte is one request."""
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in b"GET /text/whole HTTP/1.0\r\nHost: x\r\n\r\n":
        wire.sendall(bytes([byte]))
    assert _read_all(wire).endswith(b"\r\n\r\nwhole")


@pytest.mark.parametrize("request_line", ["GET /text/x HTTP/1.0", "GET /text/x HTTP/1.1\r\nConnection: Close"])
def test_connection_ends_when_it_should(wire: socket.socket, request_line: str) -> None:
    """An old client, and one that says so, gets its answer and the end of the connection."""
    wire.sendall(f"{request_line}\r\n\r\n".encode())
    assert _read_all(wire).endswith(b"x")


def test_absolute_form(wire: socket.socket) -> None:
    """What a client sends to a proxy is answered too."""
    wire.sendall(b"GET http://example.org:8080/text/by-proxy HTTP/1.0\r\n\r\n")
    assert _read_all(wire).endswith(b"by-proxy")


def test_truncated_looks_complete(client: http.client.HTTPConnection) -> None:
    """A truncated picture is half of its bytes under an honest Content-Length."""
    answer = _get(client, "/truncated/a.jpg")
    assert answer.headers["Content-Length"] == "10000"
    assert answer.read() == _bytes_of("a.jpg")[:10_000]


def test_short_ends_before_its_announced_end(client: http.client.HTTPConnection) -> None:
    """A short body lacks the second half of what was announced."""
    with pytest.raises(http.client.IncompleteRead) as caught:
        _get(client, "/short/a.jpg").read()
    assert (len(caught.value.partial), caught.value.expected) == (10_000, 10_000)


def test_stall_falls_silent(server: ImageServer) -> None:
    """A stalled body stops in its middle, and the request stays open until the client goes."""
    with _connect(server) as wire:
        wire.sendall(b"GET /stall/a.jpg HTTP/1.1\r\n\r\n")
        assert _read(wire, HALF_OF_A).endswith(_bytes_of("a.jpg")[:10_000])
        wire.settimeout(0.1)
        with pytest.raises(TimeoutError):
            wire.recv(1)
        assert server.statistics().requests_open == 1
    _wait_for_no_requests(server)


def test_reset_in_the_middle(wire: socket.socket) -> None:
    """Half of the body arrives, then the connection is reset."""
    wire.sendall(b"GET /reset/a.jpg HTTP/1.1\r\n\r\n")
    assert _read(wire, HALF_OF_A).endswith(_bytes_of("a.jpg")[:10_000])
    with pytest.raises(ConnectionResetError):
        wire.recv(1)


def test_chunked(client: http.client.HTTPConnection) -> None:
    """A chunked picture has no length and is complete."""
    answer = _get(client, f"/chunked/{quote('sub/ü.webp')}")
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in answer.headers
    assert answer.read() == _bytes_of("sub/ü.webp")


def test_gzip(client: http.client.HTTPConnection) -> None:
    """A picture comes compressed without having been asked for so."""
    answer = _get(client, "/gzip/a.jpg")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.read()) == _bytes_of("a.jpg")


@pytest.mark.parametrize("status", [200, 204, 302, 404, 418, 429, 503, 524, 599])
def test_status(client: http.client.HTTPConnection, status: int) -> None:
    """Any final status can be had, and the connection stays in step."""
    answer = _get(client, f"/status/{status}")
    assert (answer.status, answer.read()) == (status, b"" if status == 204 else f"{status}\n".encode())
    assert _get(client, "/text/next").read() == b"next"


def test_retry_after(client: http.client.HTTPConnection) -> None:
    """Retry-After says what it was told to say."""
    answer = _get(client, "/status/503?retry_after=1")
    assert (answer.status, answer.headers["Retry-After"], answer.read()) == (503, "1", b"503\n")


def test_flaky_fails_as_often_as_told(client: http.client.HTTPConnection) -> None:
    """Each id fails twice, then succeeds, apart from every other id."""

    def ask(name: str) -> int:
        answer = _get(client, f"/flaky/2/a.jpg?id={name}")
        answer.read()
        return answer.status

    assert [ask("one"), ask("two"), ask("one"), ask("one"), ask("one"), ask("two"), ask("two")] == [
        *(503, 503, 503, 200, 200, 503, 200)
    ]


def _follow(client: http.client.HTTPConnection, target: str) -> tuple[list[str], bytes]:
    visited: list[str] = []
    while True:
        answer = _get(client, target)
        body = answer.read()
        if answer.status != 302:
            return visited, body
        target = answer.headers["Location"]
        visited.append(target)


@pytest.mark.parametrize("hops", [0, 1, 4])
def test_redirects_lead_to_the_image(client: http.client.HTTPConnection, hops: int) -> None:
    """After exactly n hops there is the picture."""
    visited, body = _follow(client, f"/redirect/{hops}/{quote('b c.png')}")
    assert (len(visited), body) == (hops, _bytes_of("b c.png"))


def test_redirect_to(client: http.client.HTTPConnection) -> None:
    """A redirect may lead anywhere."""
    answer = _get(client, "/redirect-to?url=" + quote("ftp://example.org/ü?a=b&c=d"))
    assert answer.headers["Location"].encode("latin-1").decode() == "ftp://example.org/ü?a=b&c=d"


def test_slow_waits_before_the_head(client: http.client.HTTPConnection) -> None:
    """The head takes at least the time asked for."""
    start = time.monotonic()
    answer = _get(client, "/slow/0.2/a.jpg")
    assert time.monotonic() - start >= 0.2
    assert answer.read() == _bytes_of("a.jpg")


def test_drip_keeps_its_rate(client: http.client.HTTPConnection) -> None:
    """The body is complete, and took at least its size over the rate (less the first drop)."""
    start = time.monotonic()
    assert _get(client, "/drip/100000/a.jpg").read() == _bytes_of("a.jpg")
    assert time.monotonic() - start >= 0.1


@pytest.mark.parametrize(
    ("target", "status", "seconds"),
    [
        ("/replay/0.2/0/a.jpg", 200, 0.2),
        ("/replay/0/100000/a.jpg", 200, 0.2),
        ("/replay/0.1/200000/a.jpg", 200, 0.2),
        ("/replay/0/100000000/a.jpg", 200, 0.0),
        ("/replay/0.2/0/gone", 404, 0.2),
    ],
)
def test_replay_takes_its_time(client: http.client.HTTPConnection, target: str, status: int, seconds: float) -> None:
    """Wait and size over speed, both or either, pass before the last byte; an unknown picture is 404 after the wait."""
    start = time.monotonic()
    answer = _get(client, target)
    body = answer.read()
    assert time.monotonic() - start >= seconds * 0.95  # each timer may be half a millisecond early
    assert (answer.status, body) == (status, _bytes_of("a.jpg") if status == 200 else b"404\n")


@pytest.mark.parametrize("rate", [1.0, 30.5, 10_000.0, 1e6])
def test_replay_is_smooth(rate: float) -> None:
    """Pieces come every 50 ms (and a byte, as none is divided), each after its own time, the last when all is due."""
    data = bytes(range(256)) * 100
    steps = list(Behaviours({"x": data}).answer(f"/replay/0/{rate}/x").body)
    waits, pieces = steps[::2], steps[1::2]
    assert b"".join(piece for piece in pieces if isinstance(piece, bytes)) == data
    assert sum(wait for wait in waits if isinstance(wait, float)) == pytest.approx(len(data) / rate)
    assert max(wait for wait in waits if isinstance(wait, float)) <= 0.05 + 1 / rate


@pytest.mark.parametrize("rate", ["0", "6000000"])
def test_replay_of_a_quick_body_is_one_piece(rate: str) -> None:
    """Without a speed, or where it would take next to no time, the body comes with its head."""
    assert list(Behaviours({"x": bytes(20_000)}).answer(f"/replay/0/{rate}/x").body) == [bytes(20_000)]


def test_replay_breaks_long_silences() -> None:
    """A long wait is shared between redirects, of a picture that is there and of one that is not."""
    behaviours = Behaviours({"b c": b"picture"})
    answer = behaviours.answer("/replay/20.5/0.25/b%20c")
    assert answer.wait == SILENCE
    assert b"\r\nLocation: /replay/12.500000/0.25/b%20c\r\n" in answer.head
    assert b" 302 " in behaviours.answer("/replay/20.5/0/gone").head
    assert behaviours.answer(f"/replay/{SILENCE}/0/gone").wait == SILENCE


# ---- faults of HTTP: what goes over the wire, at most so many steps of it

PICTURE = bytes(range(256)) * 4
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"


def _wire(target: str, steps: int = 10_000) -> bytes:
    answer = Behaviours({"a.jpg": PICTURE}).answer(target)
    body = (step for step in itertools.islice(answer.body, steps) if isinstance(step, bytes))
    return answer.head + b"".join(body)


@pytest.mark.parametrize(
    ("target", "wire"),
    [
        ("/silent", b""),
        ("/no-answer", b""),
        ("/reset-before-head", b""),
        ("/reset-in-head", b"HTTP/1.1 200 OK\r\nContent-Type: image/j"),
        ("/garbage", b"SSH-2.0-OpenSSH_9.9\r\n\r\n"),
        ("/race/a.jpg", HEAD + b"Content-Length: 1024\r\n\r\n" + PICTURE),
        ("/drip-head/0.1/a.jpg", HEAD + b"Content-Length: 1024\r\n\r\n" + PICTURE),
        ("/announce/-5", HEAD + b"Content-Length: -5\r\n\r\n"),
        ("/two-lengths/a.jpg", HEAD + b"Content-Length: 1024\r\nContent-Length: 512\r\n\r\n" + PICTURE),
        (
            "/length-and-chunked/a.jpg",
            HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n" + PICTURE + b"\r\n0\r\n\r\n",
        ),
        ("/surplus/a.jpg", HEAD + b"Content-Length: 512\r\n\r\n" + PICTURE),
        ("/unfinished-chunks/a.jpg", HEAD + b"Transfer-Encoding: chunked\r\n\r\n400\r\n" + PICTURE + b"\r\n"),
        (
            "/chunk-extension?size=2",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;name=xx\r\nx\r\n0\r\n\r\n",
        ),
        ("/many-headers?count=2", b"HTTP/1.1 200 OK\r\nX-Flood-0: 0\r\nX-Flood-1: 0\r\n\r\n"),
        ("/long-header?size=2", b"HTTP/1.1 200 OK\r\nX-Long: xx\r\n\r\n"),
        ("/claimed/br/a.jpg", HEAD + b"Content-Length: 1024\r\nContent-Encoding: br\r\n\r\n" + PICTURE),
        ("/header/a.jpg?X-A=b&X-A=c", HEAD + b"Content-Length: 1024\r\nX-A: b\r\nX-A: c\r\n\r\n" + PICTURE),
        ("/header/a.jpg?content-type=", b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n" + PICTURE),
    ],
)
def test_faults_of_http(target: str, wire: bytes) -> None:
    """Each of these paths sends exactly what it is there for."""
    assert _wire(target) == wire


@pytest.mark.parametrize(
    ("target", "end"),
    [
        ("/silent", End.HANG),
        ("/no-answer", End.CLOSE),
        ("/reset-before-head", End.RESET),
        ("/race/a.jpg", End.LEAVE),
        ("/surplus/a.jpg", End.CLOSE),
        ("/chunked/a.jpg", End.KEEP),
    ],
)
def test_ends_of_faults(target: str, end: End) -> None:
    """What becomes of the connection is part of the fault."""
    assert Behaviours({"a.jpg": PICTURE}).answer(target).end is end


def test_floods_are_as_large_as_told() -> None:
    """A hundred thousand header fields, a megabyte in one, fifty cookies."""
    assert _wire("/many-headers").count(b"\r\n") == 100_002
    assert len(_wire("/long-header")) > 1_000_000
    assert _wire("/cookies/50/a.jpg").count(b"\r\nSet-Cookie: name") == 50


@pytest.mark.parametrize("target", ["/interim/103", "/endless-chunks", "/endless"])
def test_some_answers_never_end(target: str) -> None:
    """However much of it was read, more comes."""
    assert len(_wire(target, 200)) > len(_wire(target, 100))


def test_interim_answers_are_interim() -> None:
    """Nothing but 1xx comes."""
    assert set(_wire("/interim/100", 50).split(b"\r\n\r\n")) == {b"HTTP/1.1 100 Continue", b""}


def test_codings_are_honest() -> None:
    """gzip and deflate give the picture back, also twenty times over; an unknown coding hides it; half a stream is half."""

    def body(target: str) -> bytes:
        return _wire(target).partition(b"\r\n\r\n")[2]

    stacked = body("/stacked/20/a.jpg")
    for _ in range(20):
        stacked = gzip.decompress(stacked)
    assert stacked == zlib.decompress(body("/encoded/deflate/a.jpg")) == PICTURE
    assert body("/encoded/rot13/a.jpg") == bytes(255 - byte for byte in PICTURE)
    assert gzip.decompress(zlib.decompress(body("/encoded/gzip,deflate/a.jpg"))) == PICTURE
    assert b"Content-Encoding: gzip, deflate\r\n" in _wire("/encoded/gzip,deflate/a.jpg")
    assert body("/gzip/a.jpg").startswith(body("/cut-gzip/a.jpg"))


def test_brotli_without_brotli() -> None:
    """The stream is one block: its length less one in 16 bits, from the fifth bit on, then the picture, then the end."""
    stream = _wire("/encoded/br/a.jpg").partition(b"\r\n\r\n")[2]
    assert int.from_bytes(stream[:3], "little") == (len(PICTURE) - 1) << 4 | 1 << 20
    assert stream[3:] == PICTURE + b"\x03"


def test_a_bomb_is_small() -> None:
    """Of ten million zeros, ten thousand bytes or so go over the wire."""
    bomb = _wire("/gzip-bomb?size=10000000").partition(b"\r\n\r\n")[2]
    assert len(bomb) < 12_000
    assert gzip.decompress(bomb) == bytes(10_000_000)


def test_bad_images_are_served(client: http.client.HTTPConnection) -> None:
    """The files of `bad_images` lie below /bad, with the type of their ending."""
    answer = _get(client, "/bad/picture.svg")
    assert (answer.headers["Content-Type"], answer.read()) == ("image/svg+xml", BAD_IMAGES["picture.svg"].data)
    assert _get(client, "/bad/unknown.jpg").status == 404


def test_the_race_is_lost(server: ImageServer) -> None:
    """A kept connection is closed when its next request comes, without an answer."""
    with _connect(server) as wire:
        wire.sendall(b"GET /race/a.jpg HTTP/1.1\r\n\r\n")
        whole = HALF_OF_A + 10_000
        assert len(_read(wire, whole)) == whole
        wire.sendall(b"GET /image/a.jpg HTTP/1.1\r\n\r\n")
        assert wire.recv(1) == b""


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        ("none", 404, b"404\n"),
        ("allow", 200, b"User-agent: *\nAllow: /\n"),
        ("forbid", 200, b"User-agent: *\nDisallow: /\n"),
        ("error", 503, b"503\n"),
        ("redirect", 302, b"302\n"),
    ],
)
def test_robots(kind: Robots, status: int, text: bytes) -> None:
    """What /robots.txt answers is what the server was told."""
    wire = Behaviours({}, kind).answer("/robots.txt")
    assert wire.head.startswith(b"HTTP/1.1 %d " % status)
    assert b"".join(step for step in wire.body if isinstance(step, bytes)) == text


def test_odd_robots() -> None:
    """One never comes, one forbids behind two megabytes, one has no meaning, and a redirect leads to one that forbids."""
    forbids = b"User-agent: *\nDisallow: /\n"
    assert Behaviours({}, "slow").answer("/robots.txt").end is End.HANG

    def text(kind: Robots, target: str) -> bytes:
        return b"".join(step for step in Behaviours({}, kind).answer(target).body if isinstance(step, bytes))

    huge, garbage = text("huge", "/robots.txt"), text("garbage", "/robots.txt")
    assert huge.endswith(forbids)
    assert huge.index(forbids) > 10**6
    assert len(garbage) == 10_000
    assert text("redirect", "/robots.txt?moved=1") == forbids


def test_every_robots_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    """The command line takes each kind, and no other."""
    for kind in ROBOTS:
        assert _parser().parse_args(["--robots", kind]).robots == kind
    with pytest.raises(SystemExit):
        _parser().parse_args(["--robots", "maybe"])
    assert "maybe" in capsys.readouterr().err


def test_robots_are_counted_apart(corpus: Path) -> None:
    """Requests of robots.txt are in no count of requests, and have one of their own."""
    with ImageServer(corpus=corpus, robots="forbid") as server:
        client = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=PATIENCE)
        assert _get(client, "/robots.txt").read() == b"User-agent: *\nDisallow: /\n"
        _get(client, "/image/a.jpg").read()
        client.close()
        statistics = server.statistics()
    assert (statistics.requests, statistics.robots_requests, statistics.requests_open) == (1, 1, 0)
    assert set(statistics.by_prefix) == {"image"}


# ---- ports


def _reach(url: str, timeout: float = PATIENCE) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=timeout)


def test_ports_have_urls(server: ImageServer) -> None:
    """Each port has its URL and its number; without TLS the plain one is the server itself."""
    urls = [getattr(server, f"{name}_url") for name in PORTS]
    assert len(set(urls)) == len(PORTS)
    assert [urlsplit(url).scheme for url in urls] == list(PORTS.values())
    assert server.plain_url == server.url


def test_refused(server: ImageServer) -> None:
    """Nobody listens there."""
    with pytest.raises(ConnectionRefusedError):
        _reach(server.refused_url)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue refuses, or takes more than it was told")
def test_blackhole(server: ImageServer) -> None:
    """Nothing comes back, at the first attempt and at later ones."""
    for _ in range(2):
        with pytest.raises(TimeoutError):
            _reach(server.blackhole_url, timeout=0.1)


def test_silent(server: ImageServer) -> None:
    """It takes what it is sent, and says nothing."""
    with _reach(server.silent_url) as wire:
        wire.sendall(b"GET / HTTP/1.1\r\n\r\n")
        wire.settimeout(0.1)
        with pytest.raises(TimeoutError):
            wire.recv(1)


def test_reset_at_once(server: ImageServer) -> None:
    """The connection is there, and torn down."""
    with pytest.raises(ConnectionResetError), _reach(server.reset_url) as wire:
        wire.recv(1)


def test_plain_on_tls(server: ImageServer) -> None:
    """A handshake gets an answer in HTTP."""
    with _reach(server.plain_on_tls_url) as wire:
        wire.sendall(b"\x16\x03\x01")
        assert _read_all(wire).startswith(b"HTTP/1.1 400 ")


def _wait_for_no_requests(server: ImageServer) -> None:
    deadline = time.monotonic() + PATIENCE
    while server.statistics().requests_open:
        assert time.monotonic() < deadline, "the server still serves a client that has gone"


def test_endless_serves_others_too_and_ends_with_its_client(server: ImageServer) -> None:
    """An endless body does not starve other requests, and ends when the client goes, also one that does not read."""
    with _connect(server) as reader, _connect(server) as sleeper:
        for wire in (reader, sleeper):
            wire.sendall(b"GET /endless HTTP/1.1\r\n\r\n")
        assert len(_read(reader, 3_000_000)) == 3_000_000
        assert server.statistics().requests_open == 2
    _wait_for_no_requests(server)


@pytest.mark.parametrize("size", [0, 1, 65536, 1_000_001])
def test_big_has_the_size_asked_for(client: http.client.HTTPConnection, size: int) -> None:
    """What is announced is what comes."""
    answer = _get(client, f"/big?size={size}")
    assert (answer.headers["Content-Length"], len(answer.read())) == (str(size), size)


def test_what_is_no_image(client: http.client.HTTPConnection) -> None:
    """A page, a text and nothing at all come with 200."""
    page = _get(client, "/html")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.read().startswith(b"<!doctype html>")
    assert _get(client, f"/text/{quote('a/b ü')}").read().decode() == "a/b ü"
    empty = _get(client, "/empty")
    assert (empty.status, empty.read()) == (200, b"")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/robots.txt", 404),
        ("/", 404),
        ("/image/unknown.jpg", 404),
        ("/slow/1/unknown.jpg", 404),
        ("/slow/nan/a.jpg", 400),
        ("/drip/0/a.jpg", 400),
        ("/replay/0.1", 400),
        ("/replay/0.1/a.jpg", 400),
        ("/replay/0.1/fast/a.jpg", 400),
        ("/status/103", 400),
        ("/interim/200", 400),
        ("/many-headers?count=-1", 400),
        ("/stacked/x/a.jpg", 400),
        ("/encoded/gzip/unknown.jpg", 404),
        ("/status/-1", 400),
        ("/big?size=many", 400),
    ],
)
def test_paths_that_mean_nothing(client: http.client.HTTPConnection, target: str, status: int) -> None:
    """An unknown path is 404, a number that is none 400."""
    assert _get(client, target).status == status


@pytest.mark.parametrize(
    "request_head",
    [
        "POST /image/a.jpg HTTP/1.1\r\nHost: x",
        "GET image/a.jpg HTTP/1.1\r\nHost: x",
        "GET /image/a.jpg HTTP/2\r\nHost: x",
        "GET /image/a b.jpg HTTP/1.1\r\nHost: x",
        "GET /image/ü.jpg HTTP/1.1\r\nHost: x",
        "GET /image/a.jpg HTTP/1.1\r\nno colon",
        "hello",
    ],
)
def test_bad_requests_are_refused(wire: socket.socket, request_head: str) -> None:
    """What is no request that we serve is answered with 400 and the end of the connection."""
    wire.sendall(f"{request_head}\r\n\r\n".encode())
    assert _read_all(wire).startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize("end", ["", "\r\n\r\n"])
def test_head_is_bounded(wire: socket.socket, end: str) -> None:
    """A head of more than 16 KiB is refused, whether or not its end is there."""
    wire.sendall(f"GET / HTTP/1.1\r\nX: {'x' * 2**14}{end}".encode())
    assert _read_all(wire).startswith(b"HTTP/1.1 431 ")


def test_image_urls_are_distinct(server: ImageServer, client: http.client.HTTPConnection) -> None:
    """The pictures come round again, in their order; the URLs do not."""
    urls = server.image_urls(7)
    assert len(set(urls)) == 7
    bodies = [_get(client, url.removeprefix(server.url)).read() for url in urls]
    assert bodies == [_bytes_of(name) for name in itertools.islice(itertools.cycle(sorted(PICTURES)), 7)]


def test_latency_and_peak(corpus: Path) -> None:
    """Every request waits for the latency, and all of them at the same time."""
    with ImageServer(corpus=corpus, latency=0.3, jitter=0.1) as server:
        wires = [_connect(server) for _ in range(5)]
        start = time.monotonic()
        for wire in wires:
            wire.sendall(b"GET /text/x HTTP/1.0\r\n\r\n")
        assert all(_read_all(wire).endswith(b"x") for wire in wires)
        assert time.monotonic() - start >= 0.3
        for wire in wires:
            wire.close()
        statistics = server.statistics()
        assert (statistics.peak_requests, statistics.requests_open, statistics.connections_opened) == (5, 0, 5)


def test_made_pictures_depend_on_the_seed() -> None:
    """Without a corpus the server serves the pictures of `make_images`, from the same seed."""
    expected = {picture.name: picture.data for picture in make_images(3, seed=7, mean_bytes=4_000)}
    with ImageServer(count=3, seed=7, mean_bytes=4_000) as server:
        assert server.pictures == tuple(expected)
        client = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=PATIENCE)
        assert {name: _get(client, f"/image/{name}").read() for name in server.pictures} == expected
        client.close()


def test_tls(corpus: Path, tmp_path: Path) -> None:
    """With a certificate the server speaks TLS, and still tells its statistics."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.private_key_pem.write_to_path(key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    with ImageServer(corpus=corpus, certificate=chain, key=key) as server:
        assert server.url.startswith("https://127.0.0.1:")
        client = http.client.HTTPSConnection(urlsplit(server.url).netloc, timeout=PATIENCE, context=context)
        assert _get(client, "/image/a.jpg").read() == _bytes_of("a.jpg")
        client.close()
        assert server.statistics().by_prefix == {"image": 1}
        plain = http.client.HTTPConnection(urlsplit(server.plain_url).netloc, timeout=PATIENCE)
        assert _get(plain, "/image/a.jpg").read() == _bytes_of("a.jpg")
        plain.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corpus": Path("/nowhere")}, "there are no files in this folder"),
        ({"host": "192.0.2.1"}, r"with status 1; .*'192\.0\.2\.1'"),
        ({"start_timeout": 0.01}, r"not ready after 0\.01 s"),
    ],
)
def test_start_failure_is_explained(options: dict[str, object], message: str) -> None:
    """A server that does not start raises with its own words, and leaves no process."""
    with pytest.raises(RuntimeError, match=f"(?s){message}"), ImageServer(**{"count": 1, **options}):  # type: ignore[arg-type]  # parametrized
        pass


def test_block_that_raises_ends_the_server(corpus: Path) -> None:
    """The process is gone and reaped after the block, whatever ended it; closing again does nothing."""
    server = ImageServer(corpus=corpus)
    with suppress(ZeroDivisionError), server:
        pid = server.pid
        raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    server.close()
    with pytest.raises(RuntimeError, match="not running"):
        server.statistics()


def test_server_that_does_not_listen_is_killed(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped server, deaf to SIGTERM, is ended by force."""
    monkeypatch.setattr("penstock.testing.server.GRACE", 0.05)
    with ImageServer(corpus=corpus) as server:
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_interrupt_key_does_not_reach_the_server(image_server: ImageServer) -> None:
    """The server is in a session of its own: Ctrl-C ends the client, which then ends the server in good order."""
    assert os.getsid(image_server.pid) == image_server.pid


@pytest.mark.parametrize("how", ["end of input", signal.SIGTERM, signal.SIGINT])
def test_server_by_hand_ends_in_good_order(corpus: Path, how: str | signal.Signals) -> None:
    """It prints one line of JSON, and ends with 0 at the end of its input and on a signal, open connections or not."""
    command = [sys.executable, "-m", "penstock.testing.server", "--corpus", str(corpus)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["pictures"] == sorted(PICTURES)
        parts = urlsplit(ready["url"])
        with socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE) as wire:
            wire.sendall(b"GET /stall/a.jpg HTTP/1.1\r\n\r\n")
            assert wire.recv(1) == b"H"
            process.stdin.close() if isinstance(how, str) else process.send_signal(how)
            assert process.wait(PATIENCE) == 0
        assert process.stdout.read() == b""


def test_server_does_not_outlive_a_killed_parent(corpus: Path) -> None:
    """When the parent dies by SIGKILL, the server goes too."""
    program = (
        "import sys, time; from pathlib import Path; from penstock.testing.server import ImageServer\n"
        "with ImageServer(corpus=Path(sys.argv[1])) as server:\n"
        "    print(server.url, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(corpus)], stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            parts = urlsplit(parent.stdout.readline().decode().strip())
            wire = socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE)
        finally:
            parent.kill()
    with wire:
        assert wire.recv(1) == b""


def test_texts_in_an_encoding() -> None:
    """The bytes are in the encoding of the path, whatever the Content-Type says; one that there is not is a bad request."""
    behaviours = Behaviours({})
    answer = behaviours.answer("/charset/latin-1/caf%C3%A9?type=text/plain;%20charset=utf-8")
    assert (
        b"".join(piece for piece in answer.body if isinstance(piece, bytes)),
        answer.head.count(b"charset=utf-8"),
    ) == (
        b"caf\xe9",
        1,
    )
    assert b" 400 " in behaviours.answer("/charset/ascii/caf%C3%A9").head
    assert b" 404 " in behaviours.answer("/charset/nix/x").head
