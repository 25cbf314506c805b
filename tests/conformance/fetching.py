"""A server of raw sockets, and fetchers let loose on it."""

from __future__ import annotations

import contextlib
import email.utils
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from penstock.config import FetchConfig
from penstock.errors import PenstockError
from penstock.fetch.base import Fetcher
from penstock.fetch.budget import ByteBudget
from penstock.fetch.client import AsyncFetcher
from penstock.fetch.policy.deadlines import Limits
from penstock.fetch.pool import ThreadFetcher
from penstock.records import Failure, Fetched, Reason, Request, Row

PICTURE = b"\xff\xd8\xff" + bytes(range(256)) * 40
LOOPBACK = ("127.0.0.0/8", "::1/128")
QUICK = Limits(total=2.0, connect=1.0, idle=0.4, window=0.5, floor=1024)


class Server:
    """Answers by path; each connection has a thread, and each request may do what it likes with the socket."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._context = context
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        self.requests: Counter[str] = Counter()
        self.accepted = 0
        self.closing = threading.Event()
        self.heads: list[bytes] = []
        self.tunnel: ssl.SSLContext | None = None
        """With which CONNECT is granted; None refuses it."""
        self.port = self._listener.getsockname()[1]
        self.base = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        self._spawn(self._accept)

    def close(self) -> None:
        self.closing.set()
        for connection in [self._listener, *self._connections]:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def open_connections(self) -> int:
        return sum(thread.is_alive() for thread in self._threads) - 1  # one listens

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        self._threads.append(threading.Thread(target=target, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.accepted += 1
                self._connections.append(connection)
                self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
                self._connections.append(connection)
            while head := self._read_head(connection):
                path = head.split()[1].decode()
                if head.startswith(b"CONNECT ") and self.tunnel is not None:  # we are a proxy, and what is behind it
                    self.reply(connection, "200 Connected", Content_Length="")
                    connection = self.tunnel.wrap_socket(connection, server_side=True)
                    self._connections.append(connection)
                    continue
                self.requests[path] += 1
                self.heads.append(head)
                if self._answer(connection, path):
                    break
        connection.close()

    def _read_head(self, connection: socket.socket) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (data := connection.recv(65536)):
                return b""
            head += data
        return head

    def _answer(self, connection: socket.socket, path: str) -> bool:
        """Play a behaviour; True if the connection is to be closed."""
        if path.startswith("http://"):  # we are a proxy
            path = "/ok"
        elif not path.startswith("/"):
            path = "/status/403"
        name, _, argument = path.partition("?")[0].strip("/").partition("/")
        return bool(getattr(self, f"do_{name}")(connection, argument, self.requests[path]))

    def reply(self, connection: socket.socket, status: str, body: bytes = b"", **headers: str) -> None:
        fields = {"Content-Length": str(len(body))} | {k.replace("_", "-"): v for k, v in headers.items()}
        lines = [f"HTTP/1.1 {status}", *(f"{k}: {v}" for k, v in fields.items() if v)]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def do_ok(self, connection: socket.socket, argument: str, count: int) -> None:
        self.reply(connection, "200 OK", PICTURE)

    def do_size(self, connection: socket.socket, argument: str, count: int) -> None:
        self.reply(connection, "200 OK", bytes(int(argument)))

    def do_status(self, connection: socket.socket, argument: str, count: int) -> None:
        self.reply(connection, f"{argument} Some", b"" if argument in {"204", "304"} else b"no")

    def do_flaky(self, connection: socket.socket, argument: str, count: int) -> None:
        """First the status, with Retry-After if there is one, then the picture."""
        status, _, after = argument.partition("-")
        if count == 1:
            self.reply(connection, f"{status} Later", b"no", Retry_After=after)
        else:
            self.reply(connection, "200 OK", PICTURE)

    def do_limited(self, connection: socket.socket, argument: str, count: int) -> None:
        self.reply(connection, "429 Later", b"no", Retry_After=argument)

    def do_date(self, connection: socket.socket, argument: str, count: int) -> None:
        if count == 1:
            self.reply(connection, "503 Later", Retry_After=email.utils.formatdate(0, usegmt=True))
        else:
            self.reply(connection, "200 OK", PICTURE)

    def do_to(self, connection: socket.socket, argument: str, count: int) -> None:
        self.reply(connection, "302 Found", b"moved", Location=argument.replace("~", "/"))

    def do_loop(self, connection: socket.socket, argument: str, count: int) -> None:
        self.reply(connection, "301 Moved", Location="/loop")

    def do_nowhere(self, connection: socket.socket, argument: str, count: int) -> None:
        self.reply(connection, "302 Found")

    def do_truncated(self, connection: socket.socket, argument: str, count: int) -> bool:
        self.reply(connection, "200 OK", PICTURE[:100], Content_Length="1000")
        return True

    def do_reset(self, connection: socket.socket, argument: str, count: int) -> bool:
        self.reply(connection, "200 OK", PICTURE[:100], Content_Length="1000")
        time.sleep(0.05)  # what was sent is to arrive: the reset throws away what is still under way
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return True

    def do_early(self, connection: socket.socket, argument: str, count: int) -> bool:
        """No answer at all."""
        return True

    def do_once(self, connection: socket.socket, argument: str, count: int) -> bool:
        """The keep-alive race: an answer, and the end of the connection without a word."""
        self.reply(connection, "200 OK", PICTURE)
        return self.accepted == 1

    def do_chunked(self, connection: socket.socket, argument: str, count: int) -> bool:
        self.reply(connection, "200 OK", Content_Length="", Transfer_Encoding="chunked")
        for start in range(0, len(PICTURE), 1000):
            part = PICTURE[start : start + 1000]
            connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        connection.sendall(b"" if argument == "cut" else b"0\r\n\r\n")
        return argument == "cut"

    def do_until_close(self, connection: socket.socket, argument: str, count: int) -> bool:
        self.reply(connection, "200 OK", PICTURE, Content_Length="", Connection="close")
        return True

    def do_announced(self, connection: socket.socket, argument: str, count: int) -> bool:
        self.reply(connection, "200 OK", Content_Length=argument)
        return True

    def do_endless(self, connection: socket.socket, argument: str, count: int) -> None:
        self.reply(connection, "200 OK", Content_Length="")
        while not self.closing.is_set():
            connection.sendall(bytes(65536))

    def do_silent(self, connection: socket.socket, argument: str, count: int) -> None:
        self.closing.wait()

    def do_stall(self, connection: socket.socket, argument: str, count: int) -> None:
        self.reply(connection, "200 OK", PICTURE[:100], Content_Length="1000")
        self.closing.wait()

    def do_drip(self, connection: socket.socket, argument: str, count: int) -> None:
        if argument == "body":
            self.reply(connection, "200 OK", Content_Length="100000")
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not self.closing.wait(0.05):
            connection.sendall(b"H" if argument == "body" else b"X-A: b\r\n")

    def do_encoded(self, connection: socket.socket, argument: str, count: int) -> None:
        body = PICTURE if argument == "lie" else b"\x1f\x8b" + bytes(50)
        self.reply(connection, "200 OK", body, Content_Encoding="gzip")

    def do_garbage(self, connection: socket.socket, argument: str, count: int) -> bool:
        connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
        return True

    def do_lengths(self, connection: socket.socket, argument: str, count: int) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!")
        return True

    def do_flood(self, connection: socket.socket, argument: str, count: int) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"X-Header: value\r\n" * 2000 + b"\r\n")
        return True


class Basket:
    """Rows as they are delivered, with the budget given back at once, as the flow does."""

    def __init__(self, limit: int = 2**27, *, keep: bool = False) -> None:
        self.budget = ByteBudget(limit)
        self.rows: dict[int, tuple[Fetched | Failure, ...]] = {}
        self.peak = 0
        self.broken: list[PenstockError] = []
        self._keep = keep
        self._condition = threading.Condition()

    def deliver(self, row: Row, parts: tuple[Fetched | Failure, ...]) -> None:
        self.peak = max(self.peak, self.budget.used)
        with self._condition:
            assert row.index not in self.rows, "delivered twice"
            self.rows[row.index] = parts
            self._condition.notify_all()
        if not self._keep:
            self.give_back(parts)

    def give_back(self, parts: tuple[Fetched | Failure, ...]) -> None:
        self.budget.release(sum(len(part.data) for part in parts if isinstance(part, Fetched)))

    def wait(self, count: int, seconds: float = 20) -> None:
        with self._condition:
            assert self._condition.wait_for(lambda: len(self.rows) >= count, seconds), f"{len(self.rows)} of {count}"


FETCHERS: dict[str, Callable[..., Fetcher]] = {"asyncio": AsyncFetcher, "threads": ThreadFetcher}


def config(**options: Any) -> FetchConfig:
    chosen: dict[str, Any] = {"allow_network": LOOPBACK, "retries": 0, "robots": "ignore"} | options
    return FetchConfig(**chosen)


def rows_of(*urls: str | None) -> list[Row]:
    return [Row(index, (Request("image", url),)) for index, url in enumerate(urls)]


def fetch(
    make: Callable[..., Fetcher], *urls: str | None, options: FetchConfig | None = None, **arguments: Any
) -> list[Fetched | Failure]:
    """The outcome of each URL, fetched at the same time."""
    basket = Basket()
    fetcher = make(options or config(), **{"limits": QUICK} | arguments)
    fetcher.start(basket.deliver, basket.budget, basket.broken.append)
    try:
        for row in rows_of(*urls):
            fetcher.submit(row)
        basket.wait(len(urls))
    finally:
        fetcher.close()
    assert not basket.broken
    assert basket.budget.used == 0, "the reservation of a row is the size of its bytes"
    return [basket.rows[index][0] for index in range(len(urls))]


def reason_of(outcome: Fetched | Failure) -> Reason | None:
    return outcome.reason if isinstance(outcome, Failure) else None
