"""Lookups at a name server: what each of its answers means, and how long it holds."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from penstock.config import FetchConfig
from penstock.errors import ItemError
from penstock.fetch import name_server
from penstock.fetch.dns import Found, open_resolver
from penstock.fetch.name_server import NameServer
from penstock.fetch.policy.addresses import AddressGuard
from penstock.records import Reason
from penstock.testing.names import LOOP, MANY, NODATA, NXDOMAIN, REFUSED, SERVFAIL, SILENT, FakeNameServer, Reply, Zone

ZONE: Zone = {
    "four.test": Reply(("8.8.8.8", "8.8.4.4"), ttl=7),
    "six.test": Reply(("2001:4860::1",)),
    "both.test": Reply(("8.8.8.8", "8.8.4.4", "1.1.1.1", "2001:4860::1", "2001:4860::2")),
    "alias.test": Reply(("8.8.8.8",), aliases=("a.test", "b.test")),
    "many.test": MANY,
    "loop.test": LOOP,
    "empty.test": NODATA,
    "gone.test": NXDOMAIN,
    "broken.test": SERVFAIL,
    "closed.test": REFUSED,
    "silent.test": SILENT,
    "once.silent.test": [SILENT, Reply(("8.8.8.8",))],
}

SetTypes = Callable[[bool], None]


@pytest.fixture(autouse=True)
def ipv6(monkeypatch: pytest.MonkeyPatch) -> SetTypes:
    """Whether this machine seems to have IPv6: it does, unless a test says otherwise."""

    def pretend(there: bool) -> None:
        monkeypatch.setattr(name_server, "_has_ipv6", lambda: there)

    pretend(True)
    return pretend


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A try takes a moment, long enough for a local answer."""
    monkeypatch.setattr(name_server, "TIMEOUT", 0.2)


def look(host: str) -> Found | Reason:
    with FakeNameServer(ZONE) as names:
        try:
            return NameServer(names.address)(host)
        except ItemError as error:
            return error.reason


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("four.test", ["8.8.8.8", "8.8.4.4"]),
        ("six.test", ["2001:4860::1"]),
        ("both.test", ["8.8.8.8", "8.8.4.4", "1.1.1.1", "2001:4860::1", "2001:4860::2"]),
        ("alias.test", ["8.8.8.8"]),
        ("many.test", list(MANY.addresses)),
    ],
)
def test_addresses(host: str, addresses: list[str]) -> None:
    """Addresses of both kinds are found, through aliases, and over TCP where they are many. (Servers shuffle them.)"""
    found = look(host)
    assert isinstance(found, Found)
    assert sorted(found.addresses) == sorted(addresses)


def test_kinds_come_in_turn() -> None:
    """Whoever takes the first two addresses has one of each kind."""
    found = look("both.test")
    assert isinstance(found, Found)
    assert [":" in address for address in found.addresses] == [True, False, True, False, False]


def test_how_long_they_hold() -> None:
    """The records' own time is reported."""
    found = look("four.test")
    assert isinstance(found, Found)
    assert found.ttl == 7


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("gone.test", Reason.DNS_NXDOMAIN),
        ("unknown.test", Reason.DNS_NXDOMAIN),
        ("broken.test", Reason.DNS_TEMPORARY),
        ("closed.test", Reason.DNS_TEMPORARY),
        ("empty.test", Reason.DNS_NO_ADDRESS),
        ("loop.test", Reason.DNS_NO_ADDRESS),
    ],
)
def test_reasons(host: str, reason: Reason) -> None:
    """Each way of having no address has its reason."""
    assert look(host) is reason


@pytest.mark.usefixtures("impatient")
def test_silence_is_a_timeout() -> None:
    """A server that says nothing is asked twice, then given up."""
    with FakeNameServer(ZONE) as names:
        with pytest.raises(ItemError) as error:
            NameServer(names.address)("silent.test")
        assert error.value.reason is Reason.DNS_TIMEOUT
        assert names.asked == {"A silent.test": 2, "AAAA silent.test": 2}


@pytest.mark.usefixtures("impatient")
def test_a_lost_datagram_costs_a_try() -> None:
    """What was not answered is asked again."""
    assert look("once.silent.test") == Found(["8.8.8.8"], 60)


def test_without_ipv6_only_one_kind_is_asked(ipv6: SetTypes) -> None:
    """A machine without IPv6 does not ask for what it could not use."""
    ipv6(False)
    with FakeNameServer(ZONE) as names:
        assert sorted(NameServer(names.address)("both.test").addresses) == ["1.1.1.1", "8.8.4.4", "8.8.8.8"]
        assert names.asked == {"A both.test": 1}


def test_ids_and_ports_differ() -> None:
    """Whoever wants to answer in the server's place has to guess both."""
    seen = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def refuse() -> None:
            for _ in range(8):
                data, sender = server.recvfrom(512)
                seen.append((data[:2], sender[1]))
                server.sendto(bytes([*data[:2], 0x81, 0x85]) + data[4:], sender)

        thread = threading.Thread(target=refuse)
        thread.start()
        lookup = NameServer(f"127.0.0.1:{server.getsockname()[1]}")
        for _ in range(4):
            with pytest.raises(ItemError):
                lookup("a.test")
        thread.join()
    assert len({identity for identity, _ in seen}) > 4
    assert len({port for _, port in seen}) > 2


def test_answers_to_other_questions_do_not_count() -> None:
    """Only what has our id and our question is an answer; garbage and others' answers are passed over."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def answer() -> None:
            for _ in range(2):
                data, sender = server.recvfrom(512)
                refused = bytes([*data[:2], 0x81, 0x85]) + data[4:]
                missing = bytes([*data[:2], 0x81, 0x83]) + data[4:]
                server.sendto(b"\0\0" + missing[2:], sender)
                server.sendto(missing.replace(b"mine", b"your"), sender)
                server.sendto(b"garbage", sender)
                server.sendto(refused, sender)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ItemError) as error:
            NameServer(f"127.0.0.1:{server.getsockname()[1]}")("mine.test")
        thread.join()
    assert error.value.reason is Reason.DNS_TEMPORARY


def test_a_dead_server_is_no_fault_of_the_name() -> None:
    """Nobody listens there: for the moment nothing can be resolved."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        port.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{port.getsockname()[1]}"
    resolver = open_resolver(FetchConfig(dns=address), AddressGuard())
    with pytest.raises(ItemError) as error:
        resolver.lookup("a.test", 10, Future())
    resolver.close()
    assert error.value.reason is Reason.DNS_TEMPORARY


def test_the_resolver_of_the_options() -> None:
    """``--dns`` is asked, and the guard judges what it says."""
    with FakeNameServer(ZONE) as names:
        resolver = open_resolver(FetchConfig(dns=names.address), AddressGuard())
        assert sorted(resolver.lookup("four.test", 10, Future())) == ["8.8.4.4", "8.8.8.8"]
        with pytest.raises(ItemError) as error:
            resolver.lookup("many.test", 10, Future())
        resolver.close()
    assert error.value.reason is Reason.SSRF_BLOCKED


def test_a_server_on_ipv6() -> None:
    """The name server itself may have either kind of address."""
    try:
        with FakeNameServer(ZONE, "::1") as names:
            assert NameServer(names.address)("six.test").addresses == ["2001:4860::1"]
    except OSError:
        pytest.skip("this machine has no ::1")


def test_without_dnspython_the_extra_is_named() -> None:
    """The message has the pip line."""
    program = (
        "import sys; sys.modules['dns'] = None\n"
        "from penstock.config import FetchConfig; from penstock.errors import MissingExtraError\n"
        "from penstock.fetch.dns import open_resolver; from penstock.fetch.policy.addresses import AddressGuard\n"
        "try: open_resolver(FetchConfig(dns='127.0.0.1'), AddressGuard())\n"
        "except MissingExtraError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, timeout=30, capture_output=True, text=True)
    assert "pip install 'penstock[dns]'" in said.stdout
