"""The fetcher on threads, and the same for one row at a time.

    ThreadFetcher   threads ─┐
                             ├─▶ Dispatch ─▶ _Exchange.attempt ─▶ _Line (a connection), kept in _Lines
    SyncClient   the caller ─┘                     ▲
                                                   └─ watchdog thread: shuts the socket of what is overdue

Plain `http.client` over sockets that are connected here: the host is resolved and judged once, the connection goes to
that very address, and the watchdog has the socket in hand at every stage (a timeout for each read alone would let a
server drip for ever).
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self
from urllib.parse import urlsplit

from multidict import CIMultiDict

from penstock.config import FetchConfig
from penstock.errors import ItemError
from penstock.fetch.base import Deliver
from penstock.fetch.budget import ByteBudget
from penstock.fetch.dns import Resolver
from penstock.fetch.faults import BlockedAddressError, translate_os_error
from penstock.fetch.policy.addresses import AddressGuard, connecting_guard, is_literal
from penstock.fetch.policy.answers import HEADERS, Body, Head, check_body, read_head
from penstock.fetch.policy.deadlines import Limits, Stage, Watch
from penstock.fetch.policy.dispatch import Dispatch, Done, Job
from penstock.fetch.policy.retry import AttemptError
from penstock.fetch.policy.urls import Target
from penstock.records import Failure, Fetched, Reason, Row

__all__ = ["SyncClient", "ThreadFetcher"]

KEEPALIVE = 15.0
"""Seconds that an idle connection is kept."""

CHUNK = 64 * 1024
"""Bytes of one read; more than a socket usually has ready."""

STEP = 256 * 1024
"""Bytes reserved at a time for a body of unknown length."""

SMALL = 16 * 1024
"""A refused answer with a body up to this size is read to its end, for the sake of its connection."""


class ThreadFetcher:
    """A `penstock.fetch.base.Fetcher` by threads, started as they are needed.

    Args:
        config: What may be fetched, how wide, how patiently.
        resolver: By default the system's, behind the guard that `config` asks for. One that is given stays open.
        ssl_context: By default one that verifies against the system's authorities.
        limits: Finer than `config` has them.
    """

    def __init__(
        self,
        config: FetchConfig,
        *,
        resolver: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.width = config.connections
        self._config = config
        self._exchange = _Exchange(config, resolver, ssl_context, limits)
        self._condition = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False

    def start(self, deliver: Deliver, budget: ByteBudget) -> None:
        """Take note; threads are started by the first rows."""
        self._deliver = deliver
        self._budget = budget
        self._dispatch = Dispatch(self._config, budget, self._wake)
        self._exchange.on_tick = self._wake

    def submit(self, row: Row) -> None:
        """Take one row; blocks for no longer than it takes to note it."""
        with self._condition:
            done = self._dispatch.admit(row, time.monotonic())
        self._hand_out(done)
        self._wake()

    def close(self) -> None:
        """Break off what is under way, close all connections, end the threads."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._exchange.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _wake(self) -> None:
        """Something may be due: an idle thread looks after it, or a new one. From any thread."""
        with self._condition:
            if self._closed or not self._dispatch.is_due(time.monotonic()):
                return
            if self._idle:
                self._condition.notify()
            elif len(self._threads) < self.width:
                name = f"penstock-fetch-{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._serve, name=name, daemon=True))
                self._threads[-1].start()

    def _serve(self) -> None:
        while (job := self._next()) is not None:
            outcome = self._exchange.attempt(job, self._budget)
            if self._closed:
                return
            with self._condition:
                done = _settle(self._dispatch, job, outcome)
            self._hand_out(done)

    def _next(self) -> Job | None:
        """The next job, waited for; None at the end."""
        while True:
            with self._condition:
                if self._closed:
                    return None
                job, done = self._dispatch.next(time.monotonic())
                if job is None and not done:
                    self._idle += 1
                    self._condition.wait()
                    self._idle -= 1
            self._hand_out(done)
            if job is not None:
                self._wake()  # one thread wakes the next for as long as there is work
                return job

    def _hand_out(self, done: list[Done]) -> None:
        for row, parts in done:
            self._deliver(row, parts)


class SyncClient:
    """Fetches one row after the other, in the thread that asks: for workers that download for themselves.

    Picklable until its first use; threads and connections are opened by that.

    >>> from penstock.records import Request
    >>> with SyncClient(FetchConfig()) as client:
    ...     client.fetch(Row(0, (Request("image", "ftp://host/x"),)))[0].reason
    <Reason.URL_SCHEME_DENIED: 'url.scheme_denied'>
    """

    def __init__(self, config: FetchConfig) -> None:
        self._config = config

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, FetchConfig]:
        return {"_config": self._config}

    def fetch(self, row: Row) -> tuple[Fetched | Failure, ...]:
        """One entry for each request of the row, after all attempts that were worth it. Not from two threads at a time.

        Raises:
            RuntimeError: if the client was closed in the meantime.
        """
        dispatch, exchange = self._dispatch, self._exchange
        done = dispatch.admit(row, time.monotonic())
        while not done:
            job, done = dispatch.next(time.monotonic())
            if job is not None:
                done = _settle(dispatch, job, exchange.attempt(job, self._budget))
            elif not done:
                wake_at = dispatch.wake_at()
                exchange.sleep(wake_at - time.monotonic() if wake_at is not None else 0.0)
            if exchange.closing.done():
                raise RuntimeError("the client is closed")
        parts = done[0][1]
        self._budget.release(sum(len(part.data) for part in parts if isinstance(part, Fetched)))
        return parts

    def close(self) -> None:
        """Close connections and threads, breaking off what another thread fetches. Not to be used again."""
        self._exchange.close()

    @cached_property
    def _exchange(self) -> _Exchange:
        return _Exchange(self._config, None, None, None)

    @cached_property
    def _dispatch(self) -> Dispatch:
        return Dispatch(self._config, self._budget, lambda: None)

    @cached_property
    def _budget(self) -> ByteBudget:
        return ByteBudget(2**62)  # one row at a time needs no bound but max_bytes


def _settle(dispatch: Dispatch, job: Job, outcome: Body | ItemError) -> list[Done]:
    now = time.monotonic()
    if isinstance(outcome, Body):
        return dispatch.succeeded(job, outcome, now)
    return dispatch.failed(job, outcome, now)


class _Exchange:
    """Carries out attempts, for any number of threads."""

    def __init__(
        self,
        config: FetchConfig,
        resolver: Resolver | None,
        ssl_context: ssl.SSLContext | None,
        limits: Limits | None,
    ) -> None:
        self.config = config
        self.limits = limits or Limits.of(config)
        self.guard = AddressGuard(config.allow_network)
        self.closing: Future[None] = Future()
        self.on_tick: Callable[[], None] = lambda: None
        """Called by the watchdog, at its intervals."""
        self.lines = _Lines(max_idle=2 * config.connections)
        self._connecting_guard = connecting_guard(config)
        self._resolver = resolver or Resolver(self._connecting_guard)
        self._owns_resolver = resolver is None
        self._given_context = ssl_context
        self._attempts: set[_Attempt] = set()
        self._lock = threading.Lock()
        self._watchdog: threading.Thread | None = None

    def attempt(self, job: Job, budget: ByteBudget) -> Body | ItemError:
        """One attempt: its body, or why there is none. Never raises."""
        attempt = _Attempt(self, job, budget, Watch(self.limits, time.monotonic()))
        with self._lock:
            self._attempts.add(attempt)
            if self._watchdog is None and not self.closing.done():
                self._watchdog = threading.Thread(target=self._watch, name="penstock-watchdog", daemon=True)
                self._watchdog.start()
        try:
            return attempt.fetch()
        except Exception as error:  # noqa: BLE001 - whatever it is, the row must get its outcome
            return attempt.failure(error)
        finally:
            with self._lock:
                self._attempts.discard(attempt)

    def sleep(self, seconds: float) -> None:
        """Wait, or until `close`."""
        wait([self.closing], seconds)

    def close(self) -> None:
        """Break off all attempts, close all connections, end the watchdog. May be called twice."""
        with self._lock:
            if self.closing.done():
                return
            self.closing.set_result(None)
        if self._watchdog is not None and self._watchdog is not threading.current_thread():
            self._watchdog.join()
        self.lines.close()
        if self._owns_resolver:
            self._resolver.close()

    def connect(self, target: Target, attempt: _Attempt) -> _Line:
        """A new connection to a vetted address of the target, or to the proxy."""
        attempt.watch.enter(Stage.DNS, time.monotonic())
        deadline = time.monotonic() + min(self.limits.connect, self.limits.total)
        host, port = self._proxy or (target.host, target.port)
        connection = self._open(self._addresses(host, deadline), port, deadline, attempt)
        try:
            if self._proxy and target.scheme == "https":
                _tunnel(connection, target)
            if target.scheme == "https":
                attempt.watch.stage = Stage.TLS
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                connection = self._ssl_context.wrap_socket(connection, server_hostname=target.host)
                attempt.connection = connection
        except BaseException:
            connection.close()
            raise
        connection.settimeout(self.limits.idle)
        return _Line(connection, (target.scheme, target.host, target.port))

    def _addresses(self, host: str, deadline: float) -> tuple[str, ...]:
        if is_literal(host):
            return (host,)
        return self._resolver.lookup(host, deadline - time.monotonic(), self.closing)

    def _open(self, addresses: tuple[str, ...], port: int, deadline: float, attempt: _Attempt) -> socket.socket:
        """The first address that answers; each gets its share of the time that is left."""
        attempt.watch.stage = Stage.CONNECT
        failure: OSError = BlockedAddressError("address not allowed")
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            if not self._connecting_guard.allows(address) or self.closing.done():
                continue
            connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            attempt.connection = connection
            try:
                connection.settimeout(max(0.001, (deadline - time.monotonic()) / left))
                connection.connect((address, port))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                connection.close()
                failure = error
            else:
                return connection
        raise failure

    def _watch(self) -> None:
        while not wait([self.closing], self.limits.tick).done:
            now = time.monotonic()
            for attempt in self._running():
                reason = attempt.watch.overdue(now, attempt.received)
                if reason is not None:
                    attempt.give_up(reason)
            self.on_tick()
        while attempts := self._running():  # more than once: one of them may be about to open another socket
            for attempt in attempts:
                attempt.give_up(Reason.TIMEOUT_TOTAL)  # which nobody will see
            time.sleep(0.001)

    def _running(self) -> list[_Attempt]:
        with self._lock:
            return list(self._attempts)

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        return self._given_context or ssl.create_default_context()

    @cached_property
    def _proxy(self) -> tuple[str, int] | None:
        if self.config.proxy is None:
            return None
        parts = urlsplit(self.config.proxy)
        return parts.hostname or "", parts.port or 80

    @property
    def absolute(self) -> bool:
        """Whether plain http requests name the whole URL, as a proxy wants it."""
        return self._proxy is not None


class _Attempt:
    """One attempt at one request: redirects, the body, and its reservation."""

    def __init__(self, exchange: _Exchange, job: Job, budget: ByteBudget, watch: Watch) -> None:
        self.watch = watch
        self.received = 0
        self.connection: socket.socket | None = None
        self._exchange = exchange
        self._job = job
        self._budget = budget
        self._verdict: Reason | None = None
        self._status: int | None = None
        self._room = threading.Event()

    def give_up(self, reason: Reason) -> None:
        """Make the thread that works on it fail at once. From another thread."""
        self._verdict = self._verdict or reason
        if self.connection is not None:
            with contextlib.suppress(OSError):  # closed, or not connected yet
                socket.socket.shutdown(self.connection, socket.SHUT_RDWR)  # not SSLSocket's, which drops the TLS state
        self._room.set()

    def failure(self, error: Exception) -> ItemError:
        """What the exception means, with what is known here of how far the attempt came."""
        failure = ItemError(self._verdict) if self._verdict else translate_error(error, self.watch.stage)
        failure.http_status = failure.http_status or self._status
        failure.size = failure.size or self.received
        return failure

    def fetch(self) -> Body:
        """The body, over at most five redirects."""
        target = self._job.target
        for hops in itertools.count():
            self._exchange.guard.check_host(target.host)
            answer = self._get(target, hops)
            if isinstance(answer, Body):
                return answer
            target = answer
        raise AssertionError("redirects are bounded by policy")

    def _get(self, target: Target, hops: int) -> Body | Target:
        self._status, self.received = None, 0
        line, response = self._ask(target)
        whole = False
        try:
            self._status = response.status
            head = read_head(response.status, _headers(response), target, hops, self._exchange.config.max_bytes)
            if isinstance(head, Target):
                whole = _drain(response)
                return head
            data = self._read(response, head)
            whole = _drain(response)
            return check_body(data, head)
        except AttemptError:
            whole = self.watch.stage is Stage.HEADERS and _drain(response)
            raise
        finally:
            response.close()
            if whole and not response.will_close and self._verdict is None:
                self._exchange.lines.put(line, time.monotonic())
            else:
                line.close()

    def _ask(self, target: Target) -> tuple[_Line, http.client.HTTPResponse]:
        """Send the request and read the head of its answer, over a connection that was kept if there is one."""
        line = self._exchange.lines.take((target.scheme, target.host, target.port), time.monotonic())
        if line is not None:
            try:
                return line, self._send(line, target)
            except ConnectionError:  # closed by the server while it was idle: nobody's fault, and no attempt
                if self._verdict is not None:
                    raise
        line = self._exchange.connect(target, self)
        return line, self._send(line, target)

    def _send(self, line: _Line, target: Target) -> http.client.HTTPResponse:
        self.connection = line.socket
        self.watch.enter(Stage.HEADERS, time.monotonic())
        absolute = self._exchange.absolute and target.scheme == "http"
        try:
            return line.get(target.url if absolute else target.path, target.authority)
        except BaseException:
            line.close()
            raise

    def _read(self, response: http.client.HTTPResponse, head: Head) -> bytes:
        self.watch.enter(Stage.BODY, time.monotonic())
        if head.length is not None:
            self._reserve(head.length)
        chunks = []
        while chunk := response.read1(CHUNK):
            chunks.append(chunk)
            self.received += len(chunk)
            if self.received > self._exchange.config.max_bytes:
                raise AttemptError(Reason.BODY_TOO_LARGE, "more than announced", size=self.received)
            if self.received > self._job.reserved:
                self._reserve(self.received + STEP)
            if self.received == head.length:
                break
        if self._verdict is not None:
            raise ItemError(self._verdict)  # the shut socket may read like the end of the body
        return b"".join(chunks)

    def _reserve(self, size: int) -> None:
        """Have `size` bytes reserved in all; the attempt's clock stands still while the budget has no room for them."""
        more = size - self._job.reserved
        self._room.clear()
        if more and not self._budget.grow(more, self._room.set):
            self.watch.pause(time.monotonic())
            self._room.wait()
            self.watch.resume(time.monotonic())
            if self._exchange.closing.done() and self._budget.cancel(self._room.set):
                raise ItemError(Reason.TIMEOUT_TOTAL)
        self._job.reserved = size


def _headers(response: http.client.HTTPResponse) -> CIMultiDict[str]:
    """The answer's headers; refuses what a smuggler would send.

    Raises:
        ItemError: ``http.protocol_error`` for two different lengths.
    """
    headers = CIMultiDict(response.headers.items())
    if len(set(headers.getall("Content-Length", ()))) > 1:
        raise ItemError(Reason.HTTP_PROTOCOL_ERROR, "two lengths", http_status=response.status)
    return headers


def _drain(response: http.client.HTTPResponse) -> bool:
    """Whether the answer is read to its end, what is left of it being small."""
    if response.isclosed() or response.length == 0:
        return True
    if response.length is None or response.length > SMALL:
        return False
    try:
        return len(response.read(response.length)) > 0 or response.isclosed()
    except (OSError, http.client.HTTPException):
        return False


def _tunnel(connection: socket.socket, target: Target) -> None:
    """Have the proxy connect to the target.

    Raises:
        ItemError: ``connect.unreachable`` if it does not.
    """
    name = f"{f'[{target.host}]' if ':' in target.host else target.host}:{target.port}"
    connection.sendall(f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    response = http.client.HTTPResponse(connection, method="CONNECT")
    try:
        response.begin()
        if response.status != 200:
            raise ItemError(Reason.CONNECT_UNREACHABLE, f"the proxy answered {response.status}")
    finally:
        response.close()


@dataclass(eq=False, slots=True)
class _Line:
    """A connection: a socket, and http.client's state of what goes over it."""

    socket: socket.socket
    key: tuple[str, str, int]
    """Scheme, host and port."""
    idle_since: float = 0.0
    _client: http.client.HTTPConnection = field(init=False)

    def __post_init__(self) -> None:
        self._client = http.client.HTTPConnection(self.key[1], self.key[2])
        self._client.auto_open = 0  # connecting is ours
        self._client.sock = self.socket

    def get(self, path: str, authority: str) -> http.client.HTTPResponse:
        """Send a GET and read the head of its answer."""
        self._client.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
        self._client.putheader("Host", authority)
        for name, value in HEADERS.items():
            self._client.putheader(name, value)
        self._client.endheaders()
        return self._client.getresponse()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
        self.socket.close()


class _Lines:
    """Idle connections, to be used again; thread-safe. Old ones go first, when they are too old or too many."""

    def __init__(self, max_idle: int) -> None:
        self._max_idle = max_idle
        self._lock = threading.Lock()
        self._lines: OrderedDict[_Line, None] = OrderedDict()
        self._by_key: dict[tuple[str, str, int], list[_Line]] = {}
        self._closed = False

    def take(self, key: tuple[str, str, int], now: float) -> _Line | None:
        """The youngest connection to this host."""
        with self._lock:
            self._sweep(now)
            lines = self._by_key.get(key)
            if not lines:
                return None
            line = lines[-1]
            self._remove(line)
            return line

    def put(self, line: _Line, now: float) -> None:
        """Keep a connection over which nothing is under way."""
        line.idle_since = now
        with self._lock:
            self._lines[line] = None
            self._by_key.setdefault(line.key, []).append(line)
            self._sweep(now)

    def close(self) -> None:
        """Close all, and whatever is still given back."""
        with self._lock:
            self._closed = True
            self._sweep(0.0)

    def _sweep(self, now: float) -> None:
        while self._lines:
            oldest = next(iter(self._lines))
            if not self._closed and len(self._lines) <= self._max_idle and now - oldest.idle_since < KEEPALIVE:
                return
            self._remove(oldest)
            oldest.close()

    def _remove(self, line: _Line) -> None:
        del self._lines[line]
        lines = self._by_key[line.key]
        lines.remove(line)
        if not lines:
            del self._by_key[line.key]


def translate_error(error: Exception, stage: Stage) -> ItemError:
    """The failure that an exception of http.client, or of what lies below it, means at this stage of an attempt."""
    if isinstance(error, ItemError):
        return error
    if isinstance(error, OSError):  # http.client.RemoteDisconnected among them
        return translate_os_error(error, stage)
    detail = f"{type(error).__name__}: {error}"
    if isinstance(error, http.client.IncompleteRead):
        return ItemError(Reason.BODY_TRUNCATED, detail)
    known = isinstance(error, http.client.HTTPException)
    return ItemError(Reason.HTTP_PROTOCOL_ERROR, detail if known else f"unexpected {detail}")
