"""Host names to vetted addresses: one cache for all requests of a process.

The loop's default executor is not used: it is narrow (cores + 4 threads), shared with everybody, and full of hanging
lookups it shows up as false timeouts elsewhere. `concurrent.futures.ThreadPoolExecutor` is not used either: its threads
are joined when the interpreter exits, which a hanging `getaddrinfo` would then hold up for half a minute.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from penstock.config import FetchConfig
from penstock.errors import ItemError
from penstock.fetch.policy.addresses import AddressGuard
from penstock.fetch.staff import Staff
from penstock.records import Reason

__all__ = ["Answer", "Found", "Lookup", "Resolver", "open_resolver"]

TTL = 60.0
"""Seconds that addresses are kept at most, and where the record's own time is not known: as curl and many CDNs have it."""

MIN_TTL = 1.0
"""Seconds that addresses are kept at least, so that a host whose records say 0 is asked about once a second, not once a
row."""

NEGATIVE_TTL = 30.0
"""Seconds that "no such host" is kept; half, as in curl."""

MAX_HOSTS = 100_000
"""Entries kept, about 50 MB at most; the oldest goes first."""

MAX_ADDRESSES = 8
"""Of one host; some answers list hundreds."""

MAX_THREADS = 64
"""A dead name server holds a thread for up to 30 s, so a few threads would be used up by a few dead hosts."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Of this machine; `socket.getaddrinfo` reports it as an OSError that is no gaierror."""

_FOR_THE_MOMENT = frozenset({Reason.DNS_TEMPORARY, Reason.DNS_TIMEOUT, Reason.LOCAL_DESCRIPTORS})

_TEMPORARY = frozenset({socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_SYSTEM, socket.EAI_MEMORY})
_NO_ADDRESS = frozenset(
    code for name in ("EAI_NODATA", "EAI_ADDRFAMILY") if (code := getattr(socket, name, None)) is not None
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a lookup brought that knows how long it holds."""

    addresses: list[str]
    ttl: float = TTL
    """Seconds."""


Lookup = Callable[[str], "Found | list[str]"]
"""Addresses of a host, in order of preference.

Raises `socket.gaierror` as `socket.getaddrinfo` does, or an `ItemError` with a ``dns.*`` reason.
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a host: addresses that may be connected to, or why there are none."""

    addresses: tuple[str, ...] = ()
    ttl: float = TTL
    """Seconds that the addresses hold."""
    reason: Reason | None = None
    detail: str = ""

    def unwrap(self) -> tuple[str, ...]:
        """The addresses, or the reason as an `ItemError`."""
        if self.reason is not None:
            raise ItemError(self.reason, self.detail)
        return self.addresses

    @property
    def lifetime(self) -> float:
        """Seconds for which it may be reused: not at all if it is for the moment only."""
        if self.reason is None:
            return min(TTL, max(MIN_TTL, self.ttl))
        return 0.0 if self.reason in _FOR_THE_MOMENT else NEGATIVE_TTL


def system_lookup(host: str) -> list[str]:
    """Ask the system's resolver; ADDRCONFIG leaves out the family that this machine has no address of."""
    infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [str(info[4][0]) for info in infos]


def open_resolver(config: FetchConfig, guard: AddressGuard) -> Resolver:
    """The resolver that the options ask for: the system's, or the name server of ``--dns``. Close it.

    Raises:
        MissingExtraError: ``--dns`` is given and dnspython is not installed.
    """
    if config.dns is None:
        return Resolver(guard)
    from penstock.fetch.name_server import NameServer  # noqa: PLC0415 - needs the extra `dns`, and imports this module

    return Resolver(guard, NameServer(config.dns))


class Resolver:
    """Looks hosts up on daemon threads of its own; equal questions at the same time are asked once.

    Args:
        guard: Judges every address before anybody sees it.
        lookup: The resolving function; the system's, a `penstock.fetch.name_server.NameServer`, or a test's own.
        clock: Monotonic seconds.
    """

    def __init__(
        self, guard: AddressGuard, lookup: Lookup = system_lookup, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._guard = guard
        self._lookup = lookup
        self._clock = clock
        self._lock = threading.Lock()
        self._cache: dict[str, tuple[float, Answer]] = {}
        self._flights: dict[str, Future[Answer]] = {}
        self._staff: Staff[str] = Staff(self._find_out, MAX_THREADS, "penstock-dns")

    def ask(self, host: str) -> Answer | Future[Answer]:
        """What is known, or the future of what is being found out. A future that is shared: do not cancel it."""
        answer = self._cached(host)  # without the lock: reading a dict is atomic, and this is the common way
        if answer is not None:
            return answer
        with self._lock:
            answer = self._cached(host)  # again: a flight may have landed in between
            if answer is not None:
                return answer
            flight = self._flights.get(host)
            if flight is None:
                flight = self._flights[host] = Future()
                self._staff.put(host)
        return flight

    def lookup(self, host: str, timeout: float, interrupt: Future[None]) -> tuple[str, ...]:
        """Vetted addresses of a host, at least one.

        Raises:
            ItemError: ``dns.*``, ``ssrf.blocked`` or ``local.descriptors``; ``dns.timeout`` after `timeout` seconds, or
                when `interrupt` is done.
        """
        answer = self.ask(host)
        if isinstance(answer, Future):
            waited: list[Future[Any]] = [answer, interrupt]
            wait(waited, timeout, FIRST_COMPLETED)
            if not answer.done():
                raise ItemError(Reason.DNS_TIMEOUT, host)
            answer = answer.result()
        return answer.unwrap()

    async def lookup_async(self, host: str) -> tuple[str, ...]:
        """The same on an event loop; the caller sets the deadline.

        Cancellation leaves the question open for the others who wait for it.
        """
        answer = self.ask(host)
        if isinstance(answer, Future):
            answer = await asyncio.shield(asyncio.wrap_future(answer))
        return answer.unwrap()

    def forget(self, host: str) -> None:
        """Look this host up anew when it is asked for next."""
        with self._lock:
            self._cache.pop(host, None)

    def close(self) -> None:
        """Let idle threads end. One that hangs in a lookup ends when that does; being a daemon, it holds up nothing."""
        self._staff.close()

    def _cached(self, host: str) -> Answer | None:
        entry = self._cache.get(host)
        return entry[1] if entry is not None and entry[0] > self._clock() else None

    def _find_out(self, host: str) -> None:
        answer = self._resolve(host)
        with self._lock:
            flight = self._flights.pop(host)
            self._remember(host, answer)
        flight.set_result(answer)

    def _remember(self, host: str, answer: Answer) -> None:
        self._cache.pop(host, None)
        if answer.lifetime:
            self._cache[host] = (self._clock() + answer.lifetime, answer)
            if len(self._cache) > MAX_HOSTS:
                del self._cache[next(iter(self._cache))]

    def _resolve(self, host: str) -> Answer:
        try:
            found = self._lookup(host)
        except ItemError as error:
            return Answer(reason=error.reason, detail=error.detail)
        except socket.gaierror as error:
            return Answer(reason=_reason(error), detail=f"{host}: {error.strerror}")
        except Exception as error:  # noqa: BLE001 - a lookup that fails in whatever way must not take its thread along
            exhausted = isinstance(error, OSError) and error.errno in _EXHAUSTED
            reason = Reason.LOCAL_DESCRIPTORS if exhausted else Reason.DNS_TEMPORARY
            return Answer(reason=reason, detail=f"{host}: {type(error).__name__}: {error}")
        return self._vet(host, found if isinstance(found, Found) else Found(found))

    def _vet(self, host: str, found: Found) -> Answer:
        """What the guard leaves of it."""
        addresses = list(dict.fromkeys(found.addresses))
        if not addresses:
            return Answer(reason=Reason.DNS_NO_ADDRESS, detail=host)
        allowed = self._guard.filter(addresses)[:MAX_ADDRESSES]
        if not allowed:
            return Answer(reason=Reason.SSRF_BLOCKED, detail=f"{host} has the address {addresses[0]}")
        return Answer(allowed, found.ttl)


def _reason(error: socket.gaierror) -> Reason:
    code: Any = error.errno
    if code in _NO_ADDRESS:
        return Reason.DNS_NO_ADDRESS
    return Reason.DNS_TEMPORARY if code in _TEMPORARY else Reason.DNS_NXDOMAIN
