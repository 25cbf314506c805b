"""The resolver: cache, single flight, reasons, guard."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from penstock.errors import ItemError
from penstock.fetch import dns
from penstock.fetch.dns import MAX_ADDRESSES, MIN_TTL, NEGATIVE_TTL, TTL, Found, Lookup, Resolver
from penstock.fetch.policy.addresses import AddressGuard
from penstock.records import Reason

Make = Callable[[Lookup], Resolver]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Iterator[Make]:
    resolvers: list[Resolver] = []

    def make(lookup: Lookup) -> Resolver:
        resolvers.append(Resolver(AddressGuard(), lookup, clock=clock))
        return resolvers[-1]

    yield make
    for resolver in resolvers:
        resolver.close()


def look(resolver: Resolver, host: str = "host.example", timeout: float = 10) -> tuple[str, ...] | Reason:
    try:
        return resolver.lookup(host, timeout, Future())
    except ItemError as error:
        return error.reason


def raising(error: Exception) -> Lookup:
    def lookup(host: str) -> list[str]:
        raise error

    return lookup


def failing(code: int) -> Lookup:
    return raising(socket.gaierror(code, "no"))


def out_of(code: int) -> Lookup:
    return raising(OSError(code, os.strerror(code)))


@pytest.mark.parametrize(
    ("lookup", "reason"),
    [
        (failing(socket.EAI_NONAME), Reason.DNS_NXDOMAIN),
        (failing(socket.EAI_AGAIN), Reason.DNS_TEMPORARY),
        (failing(socket.EAI_FAIL), Reason.DNS_TEMPORARY),
        (failing(socket.EAI_NODATA), Reason.DNS_NO_ADDRESS),
        (lambda host: [], Reason.DNS_NO_ADDRESS),
        (lambda host: ["10.0.0.1", "fd00::1"], Reason.SSRF_BLOCKED),
        (lambda host: [str(1 / 0)], Reason.DNS_TEMPORARY),
        (raising(ItemError(Reason.DNS_TIMEOUT)), Reason.DNS_TIMEOUT),
        (out_of(errno.ECONNREFUSED), Reason.DNS_TEMPORARY),
        *(
            (out_of(code), Reason.LOCAL_DESCRIPTORS)
            for code in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
        ),
    ],
)
def test_reasons(make: Make, lookup: Lookup, reason: Reason) -> None:
    """Each way of having no address has its reason, and no error takes the thread along."""
    resolver = make(lookup)
    assert look(resolver) == reason
    assert look(resolver, "other.example") == reason


def test_only_vetted_addresses_and_few(make: Make) -> None:
    """Of a mixed answer the public addresses remain, in their order, once each, up to a number."""
    many = [f"8.8.{i}.8" for i in range(50)]
    assert look(make(lambda host: ["10.0.0.1", "8.8.8.8", "8.8.8.8", "127.0.0.1", "1.1.1.1"])) == ("8.8.8.8", "1.1.1.1")
    assert look(make(lambda host: many)) == tuple(many[:MAX_ADDRESSES])


@pytest.mark.parametrize(
    ("lookup", "lifetime"),
    [
        (lambda host: ["8.8.8.8"], TTL),
        (lambda host: Found(["8.8.8.8"], 7.0), 7.0),
        (lambda host: Found(["8.8.8.8"], 86_400.0), TTL),
        (lambda host: Found(["8.8.8.8"], 0.0), MIN_TTL),
        (failing(socket.EAI_NONAME), NEGATIVE_TTL),
        (raising(ItemError(Reason.DNS_NXDOMAIN)), NEGATIVE_TTL),
        (failing(socket.EAI_AGAIN), 0.0),
        (raising(ItemError(Reason.DNS_TIMEOUT)), 0.0),
        (out_of(errno.EMFILE), 0.0),
    ],
)
def test_lifetimes(make: Make, clock: Clock, lookup: Lookup, lifetime: float) -> None:
    """Addresses are kept as long as they hold, within bounds; "no such host" 30 s; what is for the moment not at all."""
    asked: list[float] = []

    def counted(host: str) -> Found | list[str]:
        asked.append(clock.now)
        return lookup(host)

    resolver = make(counted)
    look(resolver)
    clock.now = lifetime - 0.1
    look(resolver)
    clock.now = lifetime
    look(resolver)
    assert asked == ([0.0, lifetime] if lifetime else [0.0, -0.1, 0.0])


def test_the_cache_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest entry goes first."""
    monkeypatch.setattr(dns, "MAX_HOSTS", 2)
    asked: list[str] = []

    def lookup(host: str) -> list[str]:
        asked.append(host)
        return ["8.8.8.8"]

    resolver = make(lookup)
    for host in ("a", "b", "c", "c", "b", "a"):
        look(resolver, host)
    assert asked == ["a", "b", "c", "a"]


def test_equal_questions_are_asked_once(make: Make) -> None:
    """Many wait for one lookup, on threads and on a loop, and all get its answer."""
    gate = threading.Event()
    asked: list[str] = []

    def lookup(host: str) -> list[str]:
        asked.append(host)
        gate.wait()
        return ["8.8.8.8"]

    resolver = make(lookup)
    first = resolver.ask("host.example")
    assert resolver.ask("host.example") is first

    async def several() -> list[tuple[str, ...]]:
        waiting = [asyncio.ensure_future(resolver.lookup_async("host.example")) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*waiting[1:])

    assert asyncio.run(several()) == [("8.8.8.8",)] * 2
    assert asked == ["host.example"]


def test_a_slow_lookup_times_out_and_still_fills_the_cache(make: Make) -> None:
    """Who waits has a deadline; the answer serves the next."""
    gate = threading.Event()
    resolver = make(lambda host: ["8.8.8.8"] if gate.wait() else [])
    assert look(resolver, timeout=0.01) == Reason.DNS_TIMEOUT
    gate.set()
    assert look(resolver) == ("8.8.8.8",)


def test_an_interrupt_ends_the_wait(make: Make) -> None:
    """A fetcher that closes does not wait for the name server."""
    gate = threading.Event()
    resolver = make(lambda host: ["8.8.8.8"] if gate.wait() else [])
    interrupt: Future[None] = Future()
    interrupt.set_result(None)
    with pytest.raises(ItemError):
        resolver.lookup("host.example", 60, interrupt)
    gate.set()


def test_a_slow_host_holds_up_no_other(make: Make) -> None:
    """Another host is resolved while the first one hangs."""
    gate = threading.Event()
    resolver = make(lambda host: ["8.8.8.8"] if host == "quick" or gate.wait() else [])
    slow = resolver.ask("slow")
    assert look(resolver, "quick") == ("8.8.8.8",)
    assert isinstance(slow, Future)
    assert not slow.done()
    gate.set()


@pytest.mark.slow
def test_a_hanging_lookup_does_not_hold_up_the_exit() -> None:
    """The interpreter ends while a lookup hangs for ever."""
    program = (
        "import threading; from penstock.fetch.dns import Resolver; from penstock.fetch.policy.addresses import *\n"
        "Resolver(AddressGuard(), lambda host: threading.Event().wait()).ask('host')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
