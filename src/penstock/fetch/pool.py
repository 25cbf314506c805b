"""The fetcher on threads, and the same for one row at a time.

    submit ─▶ Dispatch ──next──▶ thread: one hop ─▶ urllib3's pool ─▶ _Connection ─▶ Dispatch ─▶ deliver
                                    ▲
                                    └─ watchdog thread: shuts the socket of what is overdue

urllib3 speaks HTTP and TLS and keeps the connections; its own retries, redirects and decompression are off. Two things
stay ours: the socket below a connection, which goes to an address that was judged, and the watchdog, which has that
socket in hand at every stage (a timeout for each read alone would let a server drip for ever).
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import http.client
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from urllib3 import (
    BaseHTTPResponse,
    HTTPConnectionPool,
    HTTPSConnectionPool,
    PoolManager,
    ProxyManager,
    Timeout,
    disable_warnings,
)
from urllib3 import exceptions as urllib3_exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import InsecureRequestWarning

from penstock.config import FetchConfig
from penstock.errors import ItemError
from penstock.fetch.base import Deliver, FetchStatistics, OnBroken, broken_by
from penstock.fetch.budget import ByteBudget
from penstock.fetch.connecting import connect_first
from penstock.fetch.dns import Resolver, open_resolver
from penstock.fetch.faults import translate_os_error
from penstock.fetch.policy.addresses import AddressGuard, connecting_guard, is_literal
from penstock.fetch.policy.answers import HEADERS, Body, Head, Wish, check_body, read_head
from penstock.fetch.policy.deadlines import STANDSTILL, Limits, Stage, Watch
from penstock.fetch.policy.dispatch import Dispatch
from penstock.fetch.policy.job import Done, Job
from penstock.fetch.policy.retry import AttemptError
from penstock.fetch.policy.urls import Target
from penstock.fetch.sharing import Sharing
from penstock.fetch.storage import Storage
from penstock.fetch.tls import client_context
from penstock.records import Failure, Fetched, Reason, Row

__all__ = ["SyncClient", "ThreadFetcher", "translate_error"]

KEEPALIVE = 15.0
"""Seconds since its last request after which a connection is not used again."""

CHUNK = 64 * 1024
"""Bytes of one read; more than a socket usually has ready."""

STEP = 256 * 1024
"""Bytes reserved at a time for a body of unknown length."""

SMALL = 16 * 1024
"""A refused answer with a body up to this size is read to its end, for the sake of its connection."""

_current: contextvars.ContextVar[_Attempt] = contextvars.ContextVar("penstock-attempt")
"""The attempt on whose behalf urllib3 calls us back; each thread has its own."""


class ThreadFetcher:
    """A `penstock.fetch.base.Fetcher` by threads, started as they are needed.

    Args:
        config: What may be fetched, how wide, how patiently.
        resolver: By default the system's, behind the guard that `config` asks for. One that is given stays open.
        ssl_context: By default the one that `config` asks for.
        limits: Finer than `config` has them.
        alone: See `Dispatch`.
        sharing: See `Dispatch`.
    """

    def __init__(
        self,
        config: FetchConfig,
        *,
        resolver: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        alone: bool = False,
        sharing: Sharing | None = None,
    ) -> None:
        self._sharing = sharing
        self.width = config.connections
        self._alone = alone
        limits = limits or Limits.of(config)
        connecting = connecting_guard(config)
        self._web = _Web(
            config,
            limits,
            guard=AddressGuard(config.allow_network),
            connecting_guard=connecting,
            resolver=resolver or open_resolver(config, connecting),
            storage=Storage(),
            pools=_open_pools(config, limits, ssl_context or client_context(config)),
        )
        self._owns_resolver = resolver is None
        self._condition = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._attempts: set[_Attempt] = set()

    def start(self, deliver: Deliver, budget: ByteBudget, on_broken: OnBroken, /) -> None:
        """Start the watchdog; the other threads are started by the first rows."""
        self._deliver = deliver
        self._on_broken = on_broken
        self._budget = budget
        self._dispatch = Dispatch(self._web.config, budget, self._wake, alone=self._alone, sharing=self._sharing)
        self._start_thread(self._watch, "penstock-watchdog")

    def submit(self, row: Row) -> None:
        """Take one row; blocks for no longer than it takes to note it."""
        with self._condition:
            done = self._dispatch.admit(row, time.monotonic())
        self._hand_out(done)
        self._wake()

    def statistics(self) -> FetchStatistics:
        """What was done so far."""
        return self._dispatch.statistics(time.monotonic())

    def close(self) -> None:
        """Break off what is under way, close all connections, end the threads."""
        with self._condition:
            if not self._web.closing.done():
                self._web.closing.set_result(None)
            self._condition.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._web.storage.close()
        for key in self._web.pools.pools.keys():  # noqa: SIM118 - urllib3's container refuses to be iterated over
            self._web.pools.pools[key].close()
        if self._owns_resolver:
            self._web.resolver.close()

    def _wake(self) -> None:
        """Something may be due: an idle thread looks after it, or a new one. From any thread."""
        with self._condition:
            if self._web.closing.done() or not self._dispatch.is_due(time.monotonic()):
                return
            if self._idle:
                self._condition.notify()
            elif len(self._threads) <= self.width:  # the watchdog is one of them
                self._start_thread(self._serve, f"penstock-fetch-{len(self._threads)}")

    def _start_thread(self, work: Callable[[], None], name: str) -> None:
        self._threads.append(threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True))
        self._threads[-1].start()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do the work of a thread; one that fails unforeseen says so: the flow must not wait for its rows."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is
            with self._condition:
                first = not self._web.closing.done()
                if first:
                    self._web.closing.set_result(None)
                    self._condition.notify_all()
            if first:
                self._on_broken(broken_by(error))

    def _serve(self) -> None:
        while (attempt := self._next()) is not None:
            _current.set(attempt)
            try:
                answer: Body | Target | ItemError = attempt.fetch()
            except Exception as error:  # noqa: BLE001 - whatever it is, the row must get its outcome
                answer = attempt.failure(error)
            with self._condition:
                self._attempts.discard(attempt)
                closing = self._web.closing.done()
                done = [] if closing else self._dispatch.ended(attempt.job, answer, time.monotonic())
            self._hand_out(done)

    def _next(self) -> _Attempt | None:
        """The next attempt, waited for; None at the end."""
        while True:
            attempt = None
            with self._condition:
                if self._web.closing.done():
                    return None
                now = time.monotonic()
                job, done = self._dispatch.next(now)
                if job is not None:
                    watch = Watch(self._web.limits, now, job.spent)
                    attempt = _Attempt(self._web, job, self._dispatch.wish(job), self._budget, watch)
                    self._attempts.add(attempt)
                elif not done:
                    self._idle += 1
                    self._condition.wait()
                    self._idle -= 1
            self._hand_out(done)
            if attempt is not None:
                self._wake()  # one thread wakes the next for as long as there is work
                return attempt

    def _hand_out(self, done: list[Done]) -> None:
        for row, parts in done:
            self._deliver(row, parts)

    def _watch(self) -> None:
        now = time.monotonic()
        while True:
            due = now + self._web.limits.tick
            if wait([self._web.closing], self._web.limits.tick).done:
                break
            now = time.monotonic()
            if now - due > STANDSTILL:
                for attempt in self._running():
                    attempt.watch.stood_still(now - due)
            for attempt in self._running():
                reason = attempt.watch.overdue(now, attempt.received)
                if reason is not None:
                    attempt.give_up(reason)
            self._wake()
        while attempts := self._running():  # more than once: one of them may be about to open another socket
            for attempt in attempts:
                attempt.give_up(Reason.TIMEOUT_TOTAL)  # which nobody will see
            time.sleep(0.001)

    def _running(self) -> list[_Attempt]:
        with self._condition:
            return list(self._attempts)


class SyncClient:
    """Fetches one row after the other, one request at a time: for workers that download for themselves.

    Picklable until its first use; threads and connections are opened by that.

    >>> from penstock.records import Request
    >>> with SyncClient(FetchConfig()) as client:
    ...     client.fetch(Row(0, (Request("image", "ftp://host/x"),)))[0].reason
    <Reason.URL_SCHEME_DENIED: 'url.scheme_denied'>
    """

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._budget = ByteBudget(2**62)  # one row at a time needs no bound but max_bytes
        self._answers: queue.SimpleQueue[tuple[Fetched | Failure, ...] | Exception] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Self], tuple[FetchConfig]]:
        return type(self), (self._config,)

    def fetch(self, row: Row) -> tuple[Fetched | Failure, ...]:
        """One entry for each request of the row, after all attempts that were worth it. Not from two threads at a time.

        Raises:
            RuntimeError: if the client was closed in the meantime.
            WorkerError: the fetcher failed in a way that nobody foresaw.
        """
        self._fetcher.submit(row)
        parts = self._answers.get()
        if isinstance(parts, Exception):
            self._answers.put(parts)  # for whoever asks again
            raise parts
        self._budget.release(sum(len(part.data) for part in parts if isinstance(part, Fetched)))
        return parts

    def close(self) -> None:
        """Close connections and threads, breaking off what another thread fetches. Not to be used again."""
        self._fetcher.close()
        self._answers.put(RuntimeError("the client is closed"))

    @cached_property
    def _fetcher(self) -> ThreadFetcher:
        fetcher = ThreadFetcher(dataclasses.replace(self._config, connections=1), alone=True)
        fetcher.start(lambda _, parts: self._answers.put(parts), self._budget, self._answers.put)
        return fetcher


@dataclass(frozen=True, slots=True)
class _Web:
    """What all attempts share."""

    config: FetchConfig
    limits: Limits
    guard: AddressGuard
    connecting_guard: AddressGuard
    resolver: Resolver
    storage: Storage
    pools: PoolManager
    closing: Future[None] = dataclasses.field(default_factory=Future)
    """Done when all is to end."""


class _Attempt:
    """One hop of an attempt at one request: connection, head, body, and its reservation."""

    def __init__(self, web: _Web, job: Job, wish: Wish, budget: ByteBudget, watch: Watch) -> None:
        self.job = job
        self.wish = wish
        self.watch = watch
        self.received = 0
        self.wire: socket.socket | None = None
        """The connection in use, for the watchdog."""
        self._web = web
        self._budget = budget
        self._fresh = False
        """Whether the connection in use was opened for this request."""
        self._verdict: Future[Reason] = Future()
        """Why it is to be given up; not done while it is not."""
        self._status: int | None = None
        self._room = threading.Event()

    def give_up(self, reason: Reason) -> None:
        """Make the thread that works on it fail at once. From another thread."""
        if not self._verdict.done():
            self._verdict.set_result(reason)
        wire = self.wire
        if wire is not None:
            with contextlib.suppress(OSError):  # closed, or not connected yet
                socket.socket.shutdown(wire, socket.SHUT_RDWR)  # not SSLSocket's, which drops the TLS state
        self._room.set()

    def failure(self, error: Exception) -> ItemError:
        """What the exception means, with what is known here of how far the attempt came."""
        given_up = self._verdict.done()
        failure = ItemError(self._verdict.result()) if given_up else translate_error(error, self.watch.stage)
        failure.http_status = failure.http_status or self._status
        failure.size = failure.size or self.received
        return failure

    def fetch(self) -> Body | Target:
        """The body, or where else it is to be had."""
        target = self.wish.target
        if target.stored:
            return self._fetch_stored(target)
        web = self._web
        web.guard.check_host(target.host)
        if self.job.is_probe and web.config.proxy is None and not is_literal(target.host):
            web.resolver.forget(target.host)  # it may be the resolver that is down, and a connection be kept
            web.resolver.lookup(target.host, web.limits.connect, web.closing)
        response = self._ask()
        try:
            self._status = response.status
            head = read_head(response.status, response.headers.getlist, self.wish)
            return head if isinstance(head, Target) else check_body(self._read(response, head), head, self.wish)
        finally:
            _leave(response)
            self.wire = None  # it may be another attempt's by now

    def _fetch_stored(self, target: Target) -> Body:
        """The body of an object that is no web server's."""
        self.watch.stage = Stage.STORAGE
        question = self._web.storage.ask(target, self.wish.max_bytes)
        waited: list[Future[Any]] = [question, self._verdict]
        wait(waited, return_when=FIRST_COMPLETED)
        if not question.done():
            raise ItemError(self._verdict.result())
        data = question.result()
        self._reserve(len(data))
        self.job.head_came = time.monotonic()
        return Body(data)

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection to the first vetted address that answers."""
        self._fresh = True
        self.watch.enter(Stage.DNS, time.monotonic())
        web = self._web
        deadline = time.monotonic() + min(web.limits.connect, web.limits.total)
        addresses = (host,) if is_literal(host) else web.resolver.lookup(host, deadline - time.monotonic(), web.closing)
        allowed = [address for address in addresses if web.connecting_guard.allows(address)]
        if not allowed:
            raise ItemError(Reason.SSRF_BLOCKED, "address not allowed")
        self.watch.stage = Stage.CONNECT
        self.wire = connect_first(allowed, port, deadline, self._is_over)
        self.wire.settimeout(web.limits.connect)
        self.wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.wire

    def _is_over(self) -> bool:
        return self._verdict.done() or self._web.closing.done()

    def _ask(self) -> BaseHTTPResponse:
        """Send the request and read the head of its answer."""
        target = self.wish.target
        pool = self._web.pools.connection_from_host(target.host, target.port, target.scheme)
        url = target.url if self._web.config.proxy else target.path  # what is sent, `_Connection` sees to
        while True:
            self._fresh = False
            try:
                return pool.urlopen(
                    "GET", url, headers=HEADERS, assert_same_host=False, redirect=False, preload_content=False
                )
            except urllib3_exceptions.HTTPError as error:
                # A kept connection that the server closed while it was idle: nobody's fault, and no attempt.
                if (
                    self._fresh
                    or self._verdict.done()
                    or not isinstance(_cause(error), (ConnectionError, ssl.SSLEOFError))
                ):
                    raise

    def _read(self, response: BaseHTTPResponse, head: Head) -> bytes:
        self.job.head_came = time.monotonic()
        self.watch.enter(Stage.BODY, self.job.head_came)
        if head.length is not None:
            self._reserve(head.length)
        chunks = []
        while chunk := response.read1(CHUNK, decode_content=False):
            chunks.append(chunk)
            self.received += len(chunk)
            if self.received > self.wish.max_bytes:
                if self.wish.cut:
                    break
                raise AttemptError(Reason.BODY_TOO_LARGE, "more than announced", size=self.received)
            if self.received > self.job.reserved:
                self._reserve(self.received + STEP)
        if self._verdict.done():
            raise ItemError(self._verdict.result())  # the shut socket may read like the end of the body
        return b"".join(chunks)[: self.wish.max_bytes]

    def _reserve(self, size: int) -> None:
        """Have `size` bytes reserved in all; the attempt's clock stands still while the budget has no room for them."""
        more = size - self.job.reserved
        self._room.clear()
        if more and not self._budget.grow(more, self._room.set):
            self.watch.pause(time.monotonic())
            self._room.wait()
            self.watch.resume(time.monotonic())
            if self._web.closing.done() and self._budget.cancel(self._room.set):
                raise ItemError(Reason.TIMEOUT_TOTAL)
        self.job.reserved = size


def _leave(response: BaseHTTPResponse) -> None:
    """Keep the connection if the answer has been read to its end, or nearly; else close it."""
    if response.length_remaining is not None and response.length_remaining <= SMALL:
        response.drain_conn()
    response.close()  # of no effect on a connection that has gone back to its pool
    response.release_conn()


class _Connection(HTTPConnection):
    """urllib3's connection, to addresses that were judged, in the hands of the attempt on whose behalf it works."""

    _wire: socket.socket | None = None
    _used = 0.0

    @property
    def is_connected(self) -> bool:
        """Asked before a connection is used again: too old is as good as closed."""
        return super().is_connected and time.monotonic() - self._used < KEEPALIVE

    def _new_conn(self) -> socket.socket:
        """The choke point: whatever urllib3 is about to connect to, the proxy as well, is judged here."""
        return _current.get().connect(self.host, self.port)

    def connect(self) -> None:
        """Connect, through tunnel and handshake if need be."""
        try:
            super().connect()
        except BaseException:
            wire = _current.get().wire
            if wire is not None:
                wire.close()  # one that is reset right before the handshake, `ssl` forgets to close
            raise
        self._wire = _current.get().wire

    def putrequest(self, method: str, url: str, skip_host: bool = False, skip_accept_encoding: bool = False) -> None:
        """Begin a request, with the target as policy encoded it: of a stray % sign urllib3 would make %25."""
        attempt = _current.get()
        if self.is_closed:
            self.connect()
        self._used = time.monotonic()
        attempt.wire = self._wire
        attempt.watch.enter(Stage.HEADERS, self._used)
        target = attempt.wish.target
        url = target.url if self.proxy_is_forwarding else target.path
        super().putrequest(method, url, skip_host, skip_accept_encoding)


class _TLSConnection(_Connection, HTTPSConnection):
    """The same over TLS."""


class _TLSSocket(ssl.SSLSocket):
    """Tells the attempt that it has taken the connection over from the plain socket, and of its handshake."""

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Come into being."""
        self = super().__new__(cls, *args, **options)
        attempt = _current.get(None)
        if attempt is not None:  # a context that was given may serve others as well
            attempt.wire = self
        return self

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands."""
        attempt = _current.get(None)
        if attempt is not None:
            attempt.watch.stage = Stage.TLS
        super().do_handshake(block)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


def _open_pools(config: FetchConfig, limits: Limits, context: ssl.SSLContext) -> PoolManager:
    """A pool for each scheme, host and port; the one that was used longest ago goes first, and its connections with it."""
    context.sslsocket_class = _TLSSocket
    if config.insecure:
        # There would be one for each request; the report says it once.
        disable_warnings(InsecureRequestWarning)
    per_host = min(config.per_host, config.connections)
    options: dict[str, Any] = {
        "num_pools": max(16, 2 * config.connections // per_host),  # bounds the idle connections of all hosts
        "maxsize": config.connections if config.proxy else per_host,  # all hosts are one, to a proxy
        "timeout": Timeout(connect=limits.connect, read=limits.idle),
        "retries": False,
        "ssl_context": context,
    }
    if config.proxy:
        pools: PoolManager = ProxyManager(config.proxy, proxy_ssl_context=context, **options)
    else:
        pools = PoolManager(**options)
    pools.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
    return pools


def translate_error(error: Exception, stage: Stage) -> ItemError:
    """The failure that an exception of urllib3, or of what lies below it, means at this stage of an attempt."""
    cause = _cause(error)
    if isinstance(cause, ItemError):
        return cause
    if isinstance(cause, OSError):  # http.client.RemoteDisconnected among them
        return translate_os_error(cause, stage)
    detail = f"{type(cause).__name__}: {cause}"
    for kind, reason in _REASONS:
        if isinstance(cause, kind):
            return ItemError(reason, detail)
    return ItemError(Reason.HTTP_PROTOCOL_ERROR, f"unexpected {detail}")


def _cause(error: Exception) -> Exception:
    """What urllib3 has wrapped, if anything."""
    if isinstance(error, urllib3_exceptions.TimeoutError):
        return TimeoutError(str(error))
    if isinstance(error, (urllib3_exceptions.ProtocolError, urllib3_exceptions.SSLError)) and error.args:
        return error.args[-1] if isinstance(error.args[-1], Exception) else error
    return error


# The first that fits counts.
_REASONS: tuple[tuple[type[Exception], Reason], ...] = (
    (urllib3_exceptions.InvalidChunkLength, Reason.HTTP_PROTOCOL_ERROR),
    (http.client.IncompleteRead, Reason.BODY_TRUNCATED),
    (http.client.HTTPException, Reason.HTTP_PROTOCOL_ERROR),
    (urllib3_exceptions.ProtocolError, Reason.HTTP_PROTOCOL_ERROR),
    (urllib3_exceptions.InvalidHeader, Reason.HTTP_PROTOCOL_ERROR),
    (urllib3_exceptions.ProxyError, Reason.CONNECT_UNREACHABLE),  # the proxy refused the tunnel
    (urllib3_exceptions.SSLError, Reason.TLS_PROTOCOL),
    (urllib3_exceptions.LocationValueError, Reason.URL_INVALID),
)
