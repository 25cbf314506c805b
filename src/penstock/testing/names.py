"""A name server of the loopback that answers as it is told: for tests, and for the simulated web.

It speaks UDP and TCP on one free port, and answers from a zone; what is not in the zone does not exist::

    zone = {
        "*.web.test": Reply(("127.0.0.1",)),
        "gone.web.test": NXDOMAIN,
        "slow.web.test": Reply(("127.0.0.1",), wait=2.0),
        "rebinding.web.test": [Reply(("8.8.8.8",), ttl=0), Reply(("127.0.0.1",), ttl=0)],
    }
    with FakeNameServer(zone) as names:
        report = penstock.run(urls, "out/", dns=names.address, allow_network=("127.0.0.0/8",))

Needs the extra `testing`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias, cast

from penstock.errors import MissingExtraError

try:
    import dns.exception
    import dns.flags
    import dns.message
    import dns.name
    import dns.rcode
    import dns.rdatatype
    import dns.rrset
except ImportError as error:
    raise MissingExtraError("a name server for tests needs dnspython: pip install 'penstock[testing]'") from error

__all__ = [
    "LOOP",
    "MANY",
    "NODATA",
    "NXDOMAIN",
    "REFUSED",
    "SERVFAIL",
    "SILENT",
    "FakeNameServer",
    "NameService",
    "Reply",
    "Zone",
]

TRIES = 20
"""Ports to try, until one is free for both UDP and TCP."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a name resolves to. Without addresses and with no other `rcode`, it exists and has none (NODATA)."""

    addresses: tuple[str, ...] = ()
    """IPv4 and IPv6; each question gets those of its kind."""
    rcode: str = "NOERROR"
    """``NOERROR``, ``NXDOMAIN``, ``SERVFAIL`` or ``REFUSED``."""
    ttl: int = 60
    """Seconds."""
    aliases: tuple[str, ...] = ()
    """Names, each an alias of the next: of the first, the name that was asked is one, and the last has the addresses."""
    wait: float = 0.0
    """Seconds before the answer; infinity: none comes."""


NODATA = Reply()
NXDOMAIN = Reply(rcode="NXDOMAIN")
SERVFAIL = Reply(rcode="SERVFAIL")
REFUSED = Reply(rcode="REFUSED")
SILENT = Reply(wait=math.inf)
LOOP = Reply(aliases=("one.loop.test", "other.loop.test", "one.loop.test"))
MANY = Reply(tuple(f"127.0.{index // 250}.{1 + index % 250}" for index in range(500)))
"""Does not fit into a datagram: the client has to ask again over TCP."""

Zone: TypeAlias = "Mapping[str, Reply | Sequence[Reply]]"
"""By name; ``*.web.test`` stands for all names below ``web.test`` that have no entry of their own.

Of a sequence, each question of a kind gets the next reply, and the last one from then on.
"""


class NameService:
    """The server on a running event loop.

    >>> service = NameService({"a.test": SERVFAIL})
    >>> await service.start()  # doctest: +SKIP
    >>> service.address  # doctest: +SKIP
    '127.0.0.1:40535'
    >>> service.close()  # doctest: +SKIP
    """

    address: str
    """``127.0.0.1:40535``, as ``--dns`` takes it."""

    def __init__(self, zone: Zone, host: str = "127.0.0.1") -> None:
        self.asked: Counter[str] = Counter()
        """Questions so far, by kind and name: ``{"A a.test": 2}``; one that comes again over TCP counts again."""
        self._replies = {name: (reply,) if isinstance(reply, Reply) else tuple(reply) for name, reply in zone.items()}
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Bind both sockets to the same free port, and serve."""
        loop = asyncio.get_running_loop()
        for tries_left in range(TRIES - 1, -1, -1):
            self._tcp = await asyncio.start_server(self._serve_stream, self._host, 0)
            port = self._tcp.sockets[0].getsockname()[1]
            try:
                self._udp, _ = await loop.create_datagram_endpoint(
                    lambda: _Datagrams(self), local_addr=(self._host, port)
                )
            except OSError:
                self._tcp.close()
                if not tries_left:
                    raise
            else:
                break
        self.address = f"[{self._host}]:{port}" if ":" in self._host else f"{self._host}:{port}"

    def close(self) -> None:
        """Stop at once; what has not been answered is dropped."""
        self._tcp.close()
        self._udp.close()
        for task in self._tasks:
            task.cancel()

    def answer_later(self, data: bytes, sender: tuple[str, int]) -> None:
        """Answer a datagram when its time has come."""
        task = asyncio.get_running_loop().create_task(self._serve_datagram(data, sender))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve_datagram(self, data: bytes, sender: tuple[str, int]) -> None:
        answer = await self._answer(data, reliable=False)
        if answer:
            self._udp.sendto(answer, sender)

    async def _serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._tasks.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
                while True:
                    (size,) = struct.unpack("!H", await reader.readexactly(2))
                    answer = await self._answer(await reader.readexactly(size), reliable=True)
                    writer.write(struct.pack("!H", len(answer)) + answer if answer else b"")
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, data: bytes, *, reliable: bool) -> bytes:
        """The answer's wire form, in time; empty if there is none, now or ever."""
        try:
            query = dns.message.from_wire(data)
        except dns.exception.DNSException:
            return b""
        if len(query.question) != 1:
            return b""
        reply = self._reply(query.question[0])
        if math.isinf(reply.wait):
            return b""
        await asyncio.sleep(reply.wait)
        response = _response(query, reply)
        if reliable:
            return response.to_wire()
        return response.to_wire(max_size=max(512, query.payload), prefer_truncation=True)

    def _reply(self, question: dns.rrset.RRset) -> Reply:
        name = question.name.to_text(omit_final_dot=True).lower()
        key = f"{dns.rdatatype.to_text(question.rdtype)} {name}"
        self.asked[key] += 1
        for entry in _entries(name):
            replies = self._replies.get(entry)
            if replies is not None:
                return replies[min(self.asked[key], len(replies)) - 1]
        return NXDOMAIN


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, service: NameService) -> None:
        self._service = service

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._service.answer_later(data, addr)


def _entries(name: str) -> Iterator[str]:
    """Entries of a zone that may hold for a name, the nearest first: itself, then wildcards."""
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield f"*.{name}"


def _response(query: dns.message.Message, reply: Reply) -> dns.message.Message:
    response = dns.message.make_response(query, recursion_available=True)
    response.set_rcode(dns.rcode.from_text(reply.rcode))
    question = query.question[0]
    name = question.name
    for alias in reply.aliases:
        response.answer.append(dns.rrset.from_text(name, reply.ttl, "IN", "CNAME", f"{alias}."))
        name = dns.name.from_text(alias)
    version = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 6}.get(question.rdtype)
    addresses = [address for address in reply.addresses if ipaddress.ip_address(address).version == version]
    if addresses:
        response.answer.append(dns.rrset.from_text_list(name, reply.ttl, "IN", question.rdtype, addresses))
    return response


class FakeNameServer:
    """The server as a context manager, on a thread of its own.

    Args:
        zone: What it knows.
        host: Address to bind.

    Cancellation: leaving the block by any exception ends the thread.
    """

    address: str
    """``127.0.0.1:40535``, as ``--dns`` takes it."""

    def __init__(self, zone: Zone, host: str = "127.0.0.1") -> None:
        self._service = NameService(zone, host)
        self._thread: threading.Thread | None = None

    @property
    def asked(self) -> Counter[str]:
        """Questions so far, by kind and name: ``{"A a.test": 2}``; one that comes again over TCP counts again."""
        return self._service.asked

    def __enter__(self) -> Self:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(started),), name="names", daemon=True)
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._thread.join()
            raise
        self.address = self._service.address
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def _serve(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            await self._service.start()
        except OSError as error:
            started.set_exception(error)
            return
        started.set_result(None)
        await self._stopping.wait()
        self._service.close()
