"""The fetcher on an event loop: one thread, one aiohttp session, as many requests in flight as wanted.

    submit ─▶ inbox ─▶ Dispatch ──next──▶ task of one hop ──▶ Dispatch ─▶ deliver
                                            │      ▲
                            connector: resolver,   └─ watches, read at intervals, cancel what is overdue
                            socket factory (guard)

aiohttp's own timeouts, redirects, cookies, proxies of the environment and decompression are all off: what they decide is
decided by `penstock.fetch.policy`, for both fetchers alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import os
import re
import socket
import ssl
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import cast

import aiohappyeyeballs
import aiohttp
import yarl
from aiohttp import http_exceptions
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from penstock.config import FetchConfig
from penstock.errors import ItemError
from penstock.fetch.base import Deliver, FetchStatistics, OnBroken, broken_by
from penstock.fetch.budget import ByteBudget
from penstock.fetch.descriptors import open_socket
from penstock.fetch.dns import Resolver, open_resolver
from penstock.fetch.faults import BlockedAddressError, translate_os_error
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
from penstock.records import Reason, Retry, Row

try:
    import uvloop
except ImportError:  # no wheel for this system: asyncio's own loop does the same, a little slower
    new_event_loop = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop

__all__ = ["AsyncFetcher", "new_event_loop", "translate_error"]

KEEPALIVE = 15.0
"""Seconds that an idle connection is kept."""

STEP = 256 * 1024
"""Bytes reserved at a time for a body of unknown length."""

_current: contextvars.ContextVar[_Attempt] = contextvars.ContextVar("penstock-attempt")
"""The attempt on whose behalf aiohttp calls us back; each attempt is a task, with a context of its own."""


class AsyncFetcher:
    """A `penstock.fetch.base.Fetcher` by asyncio and aiohttp.

    Args:
        config: What may be fetched, how wide, how patiently.
        resolver: By default the system's, behind the guard that `config` asks for. One that is given stays open.
        ssl_context: By default the one that `config` asks for.
        limits: Finer than `config` has them.
        sharing: See `Dispatch`.
    """

    def __init__(
        self,
        config: FetchConfig,
        *,
        resolver: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        self._sharing = sharing
        self.width = config.connections
        self._config = config
        self._limits = limits or Limits.of(config)
        self._given_resolver = resolver
        self._ssl_context = ssl_context
        self._inbox: deque[Row] = deque()
        self._attempts: dict[asyncio.Task[None], _Attempt] = {}
        self._notified = False
        self._loop_lag = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event

    def start(self, deliver: Deliver, budget: ByteBudget, on_broken: OnBroken, /) -> None:
        """Start the loop's thread."""
        self._on_broken = on_broken
        self._deliver = deliver
        self._budget = budget
        self._dispatch = Dispatch(self._config, budget, self._notify, sharing=self._sharing)
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, args=(started,), name="penstock-fetch", daemon=True)
        self._thread.start()
        started.result()

    def submit(self, row: Row) -> None:
        """Take one row; never blocks."""
        self._inbox.append(row)
        self._notify()

    def statistics(self) -> FetchStatistics:
        """What was done so far."""
        return dataclasses.replace(self._dispatch.statistics(time.monotonic()), loop_lag=self._loop_lag)

    def close(self) -> None:
        """Cancel what is under way, close all connections, end the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._stopping.set)
        if thread is not threading.current_thread():
            thread.join()

    def _notify(self) -> None:
        """Have the loop look at the inbox and the schedule; once is enough until it does. From any thread."""
        if not self._notified:
            self._notified = True
            with contextlib.suppress(RuntimeError):  # closed in the meantime
                self._loop.call_soon_threadsafe(self._turn)

    def _serve(self, started: Future[None]) -> None:
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(self._main(started))
        except BaseException as error:  # noqa: BLE001 - whoever waits has to know of it
            if started.done():
                self._break(error)
            else:
                started.set_exception(error)

    def _break(self, error: BaseException) -> None:
        """Nothing more will be delivered: the flow must not wait for it."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._on_broken(broken_by(error))

    async def _main(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        resolver = self._given_resolver or open_resolver(self._config, connecting_guard(self._config))
        storage = Storage()
        async with _open_session(self._config, resolver, self._ssl_context) as session:
            guard = AddressGuard(self._config.allow_network)
            self._web = _Web(session, self._config, guard, self._budget, self._loop, resolver, storage)
            ticker = asyncio.create_task(self._look())
            started.set_result(None)
            await self._stopping.wait()
            tasks = [ticker, *self._attempts]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._alarm is not None:
            self._alarm.cancel()
        if resolver is not self._given_resolver:
            resolver.close()
        storage.close()

    async def _look(self) -> None:
        """Cancel attempts that are overdue."""
        now = time.monotonic()
        while True:
            due = now + self._limits.tick
            await asyncio.sleep(self._limits.tick)
            now = time.monotonic()
            self._loop_lag = max(self._loop_lag, now - due)
            if now - due > STANDSTILL:
                for attempt in self._attempts.values():
                    attempt.watch.stood_still(now - due)
            for task, attempt in self._attempts.items():
                if attempt.verdict is None and attempt.judge(now):
                    task.cancel()

    def _turn(self) -> None:
        """Take in what was submitted, start what may start. On the loop."""
        self._notified = False
        if self._stopping.is_set():
            return
        try:
            self._take_turn()
        except Exception as error:  # noqa: BLE001 - nobody awaits a callback
            self._break(error)

    def _take_turn(self) -> None:
        now = time.monotonic()
        while self._inbox:
            self._hand_out(self._dispatch.admit(self._inbox.popleft(), now))
        while True:
            job, done = self._dispatch.next(now)
            self._hand_out(done)
            if job is None:
                break
            attempt = _Attempt(self._web, job, self._dispatch.wish(job), Watch(self._limits, now, job.spent))
            task = self._loop.create_task(self._run(attempt))
            self._attempts[task] = attempt
        self._set_alarm(now)

    def _set_alarm(self, now: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        wake_at = self._dispatch.wake_at()
        self._alarm = None if wake_at is None else self._loop.call_later(max(0.0, wake_at - now) + 0.001, self._turn)

    async def _run(self, attempt: _Attempt) -> None:
        """One hop of an attempt, from its start to what follows from it."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        _current.set(attempt)
        try:
            answer: Body | Target | ItemError = await attempt.fetch()
        except asyncio.CancelledError:
            if attempt.verdict is None or self._stopping.is_set():
                raise
            task.uncancel()
            answer = attempt.failure(ItemError(attempt.verdict))
        except Exception as error:  # noqa: BLE001 - whatever it is, the row must get its outcome
            answer = attempt.failure(error)
        finally:
            del self._attempts[task]
            attempt.disown_closed()
        try:
            self._hand_out(self._dispatch.ended(attempt.job, answer, time.monotonic()))
        except Exception as error:  # noqa: BLE001 - nobody awaits the task
            self._break(error)
        self._turn()

    def _hand_out(self, done: list[Done]) -> None:
        for row, parts in done:
            self._deliver(row, parts)


@dataclass(frozen=True, slots=True)
class _Web:
    """What all attempts share."""

    session: aiohttp.ClientSession
    config: FetchConfig
    guard: AddressGuard
    budget: ByteBudget
    loop: asyncio.AbstractEventLoop
    resolver: Resolver
    storage: Storage


class _Attempt:
    """One hop of an attempt at one request: connection, head, body, and its reservation."""

    def __init__(self, web: _Web, job: Job, wish: Wish, watch: Watch) -> None:
        self.job = job
        self.watch = watch
        self.verdict: Reason | None = None
        """Why it is being cancelled, if it is."""
        self.sockets: dict[socket.socket, int] = {}
        """Opened for it, with their inodes; none if it goes over a connection that was kept."""
        self.refusal: OSError | None = None
        """Of this machine, to open another socket: then the host had no fair chance, whatever its other addresses do."""
        self._web = web
        self._wish = wish
        self._status: int | None = None
        self._content: aiohttp.StreamReader | None = None
        self._room: asyncio.Future[None] | None = None

    @property
    def _received(self) -> int:
        return self._content.total_bytes if self._content is not None else 0

    def judge(self, now: float) -> bool:
        """Whether it is overdue; then `verdict` says why."""
        if self.watch.stage is Stage.CONNECT and any(map(_is_connected, self.sockets)):
            self.watch.stage = Stage.TLS  # aiohttp has no hook between the two
        self.verdict = self.watch.overdue(now, self._received)
        return self.verdict is not None

    def failure(self, error: Exception) -> ItemError:
        """What the exception means, with what is known here of how far the attempt came."""
        ipv6 = bool(self.sockets) and next(reversed(self.sockets)).family == socket.AF_INET6
        failure = translate_error(self.refusal or error, self.watch.stage, ipv6=ipv6)
        failure.http_status = failure.http_status or self._status
        failure.size = failure.size or self._received
        return failure

    def disown_closed(self) -> None:
        """Have no socket close a descriptor that is somebody else's by now.

        When a connection breaks while uvloop takes a socket over (seen in 0.23), it closes the descriptor and leaves its
        number with the socket object, which would close it a second time: a spool's, another connection's.
        """
        for opened, inode in self.sockets.items():
            if opened.fileno() >= 0 and not _is_inode(opened.fileno(), inode):
                opened.detach()

    async def fetch(self) -> Body | Target:
        """The body, or where else it is to be had.

        Cancellation closes the connection in use and takes back a correction that waits for the budget.
        """
        target = self._wish.target
        if target.stored:
            return await self._fetch_stored(target)
        web = self._web
        web.guard.check_host(target.host)
        if self.job.is_probe and web.config.proxy is None and not is_literal(target.host):
            web.resolver.forget(target.host)  # it may be the resolver that is down, and a connection be kept
            await web.resolver.lookup_async(target.host)
        url = yarl.URL(target.url, encoded=True)
        response = await web.session.get(url, allow_redirects=False, proxy=web.config.proxy)
        try:
            self._status = response.status
            head = read_head(response.status, lambda name: response.headers.getall(name, ()), self._wish)
            return head if isinstance(head, Target) else check_body(await self._read(response, head), head, self._wish)
        except aiohttp.ClientPayloadError as error:
            if _broke_off(response):
                raise ItemError(Reason.BODY_RESET, str(error)) from error
            raise
        finally:
            response.release()  # closes the connection unless the answer has been read to its end

    async def _fetch_stored(self, target: Target) -> Body:
        """The body of an object that is no web server's."""
        self.watch.stage = Stage.STORAGE
        question = self._web.storage.ask(target, self._wish.max_bytes)
        data = await asyncio.shield(asyncio.wrap_future(question))
        await self._reserve(len(data))
        self.job.head_came = time.monotonic()
        return Body(data)

    async def _read(self, response: aiohttp.ClientResponse, head: Head) -> bytes:
        content = self._content = response.content
        self.job.head_came = time.monotonic()
        self.watch.enter(Stage.BODY, self.job.head_came)
        if head.length is not None:
            await self._reserve(head.length)
            if head.length <= STEP:  # fits into aiohttp's own buffer: one wake-up at its end, not one for each packet
                if (error := content.exception()) is not None:
                    raise error
                await content.wait_eof()
                return content.read_nowait()
        chunks, size = [], 0
        while chunk := await content.readany():
            chunks.append(chunk)
            size += len(chunk)
            if size > self._wish.max_bytes:
                if self._wish.cut:
                    break
                raise AttemptError(Reason.BODY_TOO_LARGE, "more than announced", http_status=head.status, size=size)
            if size > self.job.reserved:
                await self._reserve(size + STEP)
        return b"".join(chunks)[: self._wish.max_bytes]

    async def _reserve(self, size: int) -> None:
        """Have `size` bytes reserved in all; the attempt's clock stands still while the budget has no room for them."""
        more = size - self.job.reserved
        self._room = self._web.loop.create_future() if more > 0 else None
        if more and not self._web.budget.grow(more, self._grant):
            assert self._room is not None, "only growth has to wait"
            self.watch.pause(time.monotonic())
            try:
                await self._room
            except asyncio.CancelledError:
                if self._web.budget.cancel(self._grant):
                    size = self.job.reserved
                raise
            finally:
                self.job.reserved = size
                self.watch.resume(time.monotonic())
        self.job.reserved = size

    def _grant(self) -> None:
        """The budget has room. From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop was closed in the meantime
            self._web.loop.call_soon_threadsafe(self._go_on)

    def _go_on(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class _Connector(aiohttp.TCPConnector):
    """Tells the attempt's watch when a connection stands, and bounds aiohttp's silent repetitions."""

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> Connection:
        attempt = _current.get()
        # aiohttp repeats a request once when its connection breaks before the answer. For a connection that had been
        # kept that is right: the server may have closed it at that moment. A new one that breaks is a failed attempt.
        if attempt.sockets:
            raise ItemError(Reason.CONNECT_RESET, "the connection broke before an answer came")
        connection = await super().connect(req, traces, timeout)
        attempt.refusal = None
        attempt.watch.enter(Stage.HEADERS, time.monotonic())
        return connection


class _Names(AbstractResolver):
    """aiohttp's view of our resolver."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - aiohttp's signature
    ) -> list[ResolveResult]:
        addresses = await self._resolver.lookup_async(host)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """The fetcher closes it."""


def _open_session(config: FetchConfig, resolver: Resolver, ssl_context: ssl.SSLContext | None) -> aiohttp.ClientSession:
    guard = connecting_guard(config)

    def make_socket(info: aiohappyeyeballs.AddrInfoType) -> socket.socket:
        """The choke point: whatever aiohttp is about to connect to is judged here, IP literals as well."""
        family, kind, protocol, _, address = info
        if not guard.allows(str(address[0])):
            raise BlockedAddressError("address not allowed")
        attempt = _current.get()
        attempt.watch.stage = Stage.CONNECT
        try:
            opened = open_socket(family, kind, protocol)
        except OSError as error:
            if translate_os_error(error, Stage.CONNECT).reason.retry is Retry.LOCAL:
                attempt.refusal = error
            raise
        attempt.sockets[opened] = os.fstat(opened.fileno()).st_ino
        return opened

    connector = _Connector(
        limit=0,  # the schedule counts
        resolver=_Names(resolver),
        use_dns_cache=False,
        socket_factory=make_socket,
        keepalive_timeout=KEEPALIVE,
        ssl=ssl_context or client_context(config),
    )
    return aiohttp.ClientSession(
        connector=connector,
        headers=HEADERS,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
        auto_decompress=False,
        trust_env=False,
    )


def _broke_off(response: aiohttp.ClientResponse) -> bool:
    """Whether the connection ended by an error: for one inside a body, aiohttp tells that only here."""
    protocol = response.connection.protocol if response.connection is not None else None
    return protocol is not None and isinstance(protocol.exception(), aiohttp.ClientOSError)


def _is_inode(descriptor: int, inode: int) -> bool:
    try:
        return os.fstat(descriptor).st_ino == inode
    except OSError:
        return False


def _is_connected(opened: socket.socket) -> bool:
    try:
        opened.getpeername()
    except OSError:
        return False
    return True


def translate_error(error: BaseException, stage: Stage, *, ipv6: bool = False) -> ItemError:
    """The failure that an exception of aiohttp, or of what lies below it, means at this stage of an attempt."""
    if isinstance(error, ItemError):
        return error
    if isinstance(error, aiohttp.ClientConnectorError):
        return translate_os_error(_first_cause(error.os_error), stage, ipv6=ipv6)
    detail = f"{type(error).__name__}: {error}"
    for kind, before, inside in _REASONS:
        if isinstance(error, kind):
            return ItemError(inside if stage is Stage.BODY else before, detail)
    if isinstance(error, aiohttp.ClientPayloadError):
        cut = isinstance(error.__cause__, (http_exceptions.ContentLengthError, http_exceptions.TransferEncodingError))
        return ItemError(Reason.BODY_TRUNCATED if cut else Reason.HTTP_PROTOCOL_ERROR, detail)
    if isinstance(error, OSError):
        return translate_os_error(error, stage, ipv6=ipv6)
    return ItemError(Reason.HTTP_PROTOCOL_ERROR, f"unexpected {detail}")


def _first_cause(error: OSError) -> OSError:
    """The first of several errors, of several addresses, which aiohappyeyeballs puts into one text."""
    number = re.search(r"\[Errno (\d+)\]", str(error)) if error.errno is None else None
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else error


# Exception, reason before the body, reason inside it; the first that fits counts.
_REASONS: tuple[tuple[type[BaseException], Reason, Reason], ...] = (
    (aiohttp.ServerTimeoutError, Reason.TIMEOUT_IDLE, Reason.TIMEOUT_IDLE),
    (aiohttp.ServerFingerprintMismatch, Reason.TLS_CERTIFICATE, Reason.TLS_CERTIFICATE),
    (aiohttp.ServerDisconnectedError, Reason.CONNECT_RESET, Reason.BODY_TRUNCATED),
    (aiohttp.ClientHttpProxyError, Reason.CONNECT_UNREACHABLE, Reason.CONNECT_UNREACHABLE),
    (aiohttp.ClientResponseError, Reason.HTTP_PROTOCOL_ERROR, Reason.HTTP_PROTOCOL_ERROR),
    (http_exceptions.HttpProcessingError, Reason.HTTP_PROTOCOL_ERROR, Reason.HTTP_PROTOCOL_ERROR),
    (aiohttp.InvalidURL, Reason.URL_INVALID, Reason.URL_INVALID),
    (aiohttp.NonHttpUrlClientError, Reason.URL_SCHEME_DENIED, Reason.URL_SCHEME_DENIED),
    (aiohttp.RedirectClientError, Reason.HTTP_REDIRECT_INVALID, Reason.HTTP_REDIRECT_INVALID),
)
