"""One connection to the image server: reads requests, plays answers, counts.

A raw `asyncio.Protocol`, because it shares the machine with what is measured: what a framework costs for a request
would be taken from the decoders. Prebuilt heads and bodies go to the transport uncopied.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import cast

from penstock.testing.answers import Answer, End, Step, whole
from penstock.testing.behaviours import Behaviours

__all__ = ["Connection", "Service", "Statistics"]

MAX_HEAD = 2**14
"""Bytes of a request at most; also what may wait unread behind a request in service."""

WRITE_BUFFER = 2**20
"""Bytes that may wait for a slow reader. More than a picture, so that serving one takes no second step."""

_REQUEST = re.compile(
    rb"(GET|HEAD) (?:http://[^/ ]+)?(/[!-~]*) HTTP/1\.([01])\r\n"  # the absolute form is what a proxy gets
    rb"(?:[!-9;-~]+:[^\r\n]*\r\n)*"
)
_CLOSE = re.compile(rb"\nconnection:[^\r\n]*close", re.IGNORECASE)
_KEPT = (End.KEEP, End.LEAVE)
_LINGER_NOT = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Statistics:
    """What the server has done since its start; ``/statistics`` and the connections that ask for it are left out."""

    requests: int = 0
    """Of everything but ``/robots.txt``."""
    robots_requests: int = 0
    by_prefix: dict[str, int] = field(default_factory=Counter)
    """Requests by the first segment of their path: ``{"image": 1000, "flaky": 3}``."""
    by_target: dict[str, int] = field(default_factory=Counter)
    """Requests by path and query. A count above 1 is a retry, or a row fetched twice."""
    connections_opened: int = 0
    """Near `requests`: the client does not reuse its connections. Over TLS: handshakes that succeeded."""
    connections_open: int = 0
    requests_open: int = 0
    """In service now: arrived, and not yet handed to the network whole."""
    peak_requests: int = 0
    """Most requests in service at the same time; says something only with a latency."""
    bytes_sent: int = 0
    """Heads and bodies, as they were handed to the network."""
    cpu_seconds: float = 0.0
    """User and system time of the server's process, including its start: compare two readings."""


class Service:
    """What all connections share.

    Args:
        behaviours: What to answer.
        latency: Seconds from a request to its answer.
        jitter: Up to as many seconds more, uniformly distributed.
        seed: Of the jitter.
    """

    def __init__(self, behaviours: Behaviours, *, latency: float, jitter: float, seed: int) -> None:
        self.statistics = Statistics()
        self.connections: set[Connection] = set()
        self._behaviours = behaviours
        self._latency, self._jitter = latency, jitter
        self._random = random.Random(seed)  # noqa: S311 - spreads answers in time, guards nothing

    def answer(self, target: str) -> Answer:
        """The answer to a request that counts."""
        statistics = self.statistics
        statistics.requests += 1
        statistics.by_target[target] += 1
        statistics.by_prefix[target.split("/", 2)[1].partition("?")[0]] += 1
        statistics.requests_open += 1
        statistics.peak_requests = max(statistics.peak_requests, statistics.requests_open)
        return self._behaviours.answer(target)

    def robots(self, target: str) -> Answer:
        """The answer to a request of ``/robots.txt``: who counts rows does not want to count these."""
        self.statistics.robots_requests += 1
        return self._behaviours.answer(target)

    def latency(self) -> float:
        """Seconds that the next request has to wait."""
        return self._latency + (self._random.uniform(0, self._jitter) if self._jitter else 0.0)

    def report(self) -> Answer:
        """The statistics, as they are now."""
        self.statistics.cpu_seconds = time.process_time()
        values = {spec.name: getattr(self.statistics, spec.name) for spec in fields(self.statistics)}
        return whole(200, "application/json", json.dumps(values).encode())

    def close(self) -> None:
        """Drop every connection."""
        for connection in tuple(self.connections):
            connection.abort()


class Connection(asyncio.Protocol):
    """Serves the requests of one connection one after the other; pipelined ones wait their turn."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._unread = b""
        self._script: Iterator[Step] | None = None
        """What is left of the answer in service; None between requests."""
        self._end = End.KEEP
        self._timer: asyncio.TimerHandle | None = None
        self._full = False
        """The client reads more slowly than we write."""
        self._counts = True
        """False once the connection has asked for the statistics."""
        self._request_counts = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new client."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._service.connections.add(self)
        self._service.statistics.connections_opened += 1
        self._service.statistics.connections_open += 1

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it ended makes no difference here
        """Forget the client, and what it was waiting for."""
        self._service.connections.discard(self)
        self._service.statistics.connections_open -= self._counts
        self._cancel_timer()
        self._leave_service()

    def data_received(self, data: bytes) -> None:
        """Serve what is there, unless a request is in service: then it waits."""
        if self._end is End.LEAVE and self._script is None:
            self._transport.close()
            return
        self._unread += data
        self._serve()

    def pause_writing(self) -> None:
        """The client does not keep up: no further step."""
        self._full = True

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._full = False
        self._go_on()

    def abort(self) -> None:
        """Drop the client."""
        self._transport.abort()

    def _serve(self) -> None:
        """Begin requests as long as each can be answered at once."""
        while self._script is None and not self._full and not self._transport.is_closing():
            head, found, rest = self._unread.partition(b"\r\n\r\n")
            if not found:
                break
            self._unread = rest
            self._begin(head + b"\r\n")
        self._limit_unread()

    def _limit_unread(self) -> None:
        if self._transport.is_closing():
            return
        if len(self._unread) <= MAX_HEAD:
            self._transport.resume_reading()
        elif self._script is None and not self._full:
            self._refuse(431)
        else:
            self._transport.pause_reading()

    def _begin(self, head: bytes) -> None:
        request = _REQUEST.fullmatch(head)
        if request is None or len(head) > MAX_HEAD:
            self._refuse(400 if request is None else 431)
            return
        answer, wait = self._answer(request[2].decode("ascii"))
        if request[1] == b"HEAD":
            answer = answer.headers_only()
        last = request[3] == b"0" or _CLOSE.search(head) is not None
        self._start(answer, wait, End.CLOSE if last and answer.end in _KEPT else answer.end)

    def _answer(self, target: str) -> tuple[Answer, float]:
        """The answer, and how long it has to wait."""
        if target == "/statistics":
            self._request_counts = False
            self._stop_counting()
            return self._service.report(), 0.0
        self._request_counts = not target.startswith("/robots.txt")
        answer = self._service.answer(target) if self._request_counts else self._service.robots(target)
        return answer, answer.wait + self._service.latency()

    def _refuse(self, status: int) -> None:
        self._request_counts = False
        self._start(whole(status, "text/plain", f"{status}\n".encode(), Connection="close"), 0.0, End.CLOSE)

    def _start(self, answer: Answer, wait: float, end: End) -> None:
        self._script = itertools.chain((answer.head,), answer.body)
        self._end = end
        if wait:
            self._timer = self._loop.call_later(wait, self._time_is_up)
        else:
            self._play()

    def _time_is_up(self) -> None:
        self._timer = None
        self._go_on()

    def _go_on(self) -> None:
        if self._full or self._timer is not None:
            return
        if self._script is not None:
            self._play()
        self._serve()

    def _play(self) -> None:
        """Send what the answer has before its next wait, or its end: in one system call, where the socket has room."""
        assert self._script is not None
        ready: list[bytes] = []
        for step in self._script:
            if isinstance(step, float):
                self._timer = self._loop.call_later(step, self._time_is_up)
                break
            ready.append(step)
        self._transport.writelines(ready)
        self._service.statistics.bytes_sent += sum(map(len, ready)) if self._request_counts else 0
        if self._timer is None:
            self._finish()

    def _finish(self) -> None:
        if self._end is End.HANG:
            return
        self._leave_service()
        if self._end is End.CLOSE:
            self._transport.close()
        elif self._end is End.RESET:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self._transport.abort()

    def _leave_service(self) -> None:
        if self._script is not None:
            self._script = None
            self._service.statistics.requests_open -= self._request_counts

    def _stop_counting(self) -> None:
        self._service.statistics.connections_opened -= self._counts
        self._service.statistics.connections_open -= self._counts
        self._counts = False

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
