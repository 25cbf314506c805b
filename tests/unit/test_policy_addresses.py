"""The address guard against lists of addresses that other guards are tested with."""

from __future__ import annotations

import errno
import ipaddress
import os

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from penstock.config import FetchConfig
from penstock.errors import ItemError
from penstock.fetch.own import is_own
from penstock.fetch.policy.addresses import AddressGuard, connecting_guard
from penstock.records import Reason

PUBLIC = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 168.63.129.15
168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0 192.88.98.255 192.88.100.0
192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0 223.255.255.255
2606:4700:4700::1111 2001:4860:4860::8888 2a00:1450:4001::200e 2400:cb00:: 2003:: 3ffe:: 2001:200::
64:ff9b::808:808 ::ffff:8.8.8.8 ::ffff:0:8.8.8.8 ::8.8.8.8
"""

INNER = """
0.0.0.0 0.1.2.3 10.0.0.0 10.255.255.255 100.64.0.0 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.255
168.63.129.16 169.254.0.0 169.254.169.254 169.254.170.2 172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.192 192.0.2.1
192.88.99.1 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255
240.0.0.1 255.255.255.255
:: ::1 100::1 2001::1 2001:0:7f00:1:: 2001:10::1 2001:1ff:ffff:: 2001:db8::1 2002:7f00:1:: 2002:808:808:: 3fff::1 5f00::1
fc00::1 fd00:ec2::254 fd20:ce::254 fdff:: fe80::1 fe80::1%eth0 fec0::1 ff02::1 4000::1 1000::1
64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::7f00:1 64:ff9b:1::808:808 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:169.254.169.254
::ffff:0:127.0.0.1 ::ffff:0:10.0.0.1 2606:4700::5efe:7f00:1 2606:4700::200:5efe:808:808
"""


@pytest.mark.parametrize("address", PUBLIC.split())
def test_the_internet_is_allowed(address: str) -> None:
    """Public addresses, the neighbours of every blocked range, and public ones inside IPv6."""
    assert AddressGuard().allows(address)


@pytest.mark.parametrize("address", INNER.split())
def test_the_rest_is_blocked(address: str) -> None:
    """Private, local, reserved and metadata addresses, in all their disguises."""
    assert not AddressGuard().allows(address)


@pytest.mark.parametrize("text", ["", "host", "127.1", "2130706433", "[::1]", "8.8.8.8/32", "::1::"])
def test_what_is_no_address_is_blocked(text: str) -> None:
    """The guard never guesses."""
    assert not AddressGuard(("0.0.0.0/0", "::/0")).allows(text)


def test_holes_are_exact() -> None:
    """--allow-network opens the network that it names, and its addresses inside IPv6, and nothing beside them."""
    guard = AddressGuard(("127.0.0.8/30", "fd00::/64"))
    allowed = ["127.0.0.8", "127.0.0.11", "::ffff:127.0.0.9", "64:ff9b::7f00:9", "fd00::1"]
    assert guard.filter(["127.0.0.7", *allowed, "127.0.0.12", "fd00:0:0:1::"]) == tuple(allowed)


BLOCKED = """
0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
"""
BLOCKED_NETWORKS = tuple(map(ipaddress.IPv4Network, BLOCKED.split()))

FORMS = ("::", "::ffff:0:0", "::ffff:0:0:0", "64:ff9b::")
"""Prefixes under which an IPv4 address is meant: compatible, mapped, translated, NAT64."""


def forms(address: ipaddress.IPv4Address) -> list[str]:
    """The address by itself, and in all that may carry it."""
    carried = [ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) + int(address)) for prefix in FORMS]
    return [str(address), *map(str, carried)]


@given(st.sampled_from(BLOCKED_NETWORKS).flatmap(lambda network: st.ip_addresses(network=network)))
def test_blocked_in_every_form(address: ipaddress.IPv4Address) -> None:
    """No form of a blocked IPv4 address gets through."""
    assert AddressGuard().filter(forms(address)) == ()


@given(st.ip_addresses(v=4))
def test_public_in_every_form(address: ipaddress.IPv4Address) -> None:
    """Networks with DNS64 answer with such forms, so a public address is allowed in each."""
    assume(not any(address in network for network in BLOCKED_NETWORKS))
    assert AddressGuard().filter(forms(address)) == tuple(forms(address))


@given(st.ip_addresses(v=4), st.integers(0, 2**64 - 1), st.sampled_from([0x5EFE, 0x2005EFE]))
def test_isatap_is_blocked(address: ipaddress.IPv4Address, prefix: int, mark: int) -> None:
    """Whatever the prefix, and the address inside."""
    isatap = ipaddress.IPv6Address(prefix << 64 | mark << 32 | int(address))
    assert not AddressGuard().allows(str(isatap))


@given(st.ip_addresses(), st.sampled_from(["", "%eth0", "%1", "%"]))
def test_spelling_changes_nothing(address: ipaddress.IPv4Address | ipaddress.IPv6Address, zone: str) -> None:
    """Upper case, zeros written out, and zones name the same address."""
    guard = AddressGuard(("2001:db8::/33", "10.0.0.0/9"))
    spellings = [str(address), address.exploded, str(address).upper(), address.exploded.upper() + zone]
    assert len({guard.allows(spelling) for spelling in spellings}) == 1


@given(st.ip_addresses())
def test_what_python_calls_private_is_blocked(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Our tables are no wider than the standard library's, but for a few IPv6 forms that carry IPv4."""
    carries = isinstance(address, ipaddress.IPv6Address) and not ipaddress.IPv6Network("2000::/3").supernet_of(
        ipaddress.IPv6Network(address)
    )
    if AddressGuard().allows(str(address)):
        assert address.is_global or carries


def test_literal_hosts_are_judged_and_names_are_not() -> None:
    """A name waits for its addresses."""
    guard = AddressGuard()
    for name in ("host.example", "1.example", "example.c0m1"):
        guard.check_host(name)
    for literal in ("127.0.0.1", "::1"):
        with pytest.raises(ItemError) as caught:
            guard.check_host(literal)
        assert caught.value.reason == Reason.SSRF_BLOCKED


def test_a_proxy_may_be_anywhere() -> None:
    """The proxy's address is the user's choice; without one the options decide."""
    assert connecting_guard(FetchConfig(proxy="http://10.0.0.1:3128")).allows("10.0.0.1")
    assert not connecting_guard(FetchConfig()).allows("10.0.0.1")


def test_own_addresses_are_blocked() -> None:
    """A machine's own public address is not the internet, whatever carries it; a hole may cover it."""
    own = {"8.8.8.8", "2606:4700::1"}
    carried = ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "2606:4700::1", "2606:4700:0:0::1%eth0"]
    assert AddressGuard(is_own=own.__contains__).filter([*carried, "8.8.4.4"]) == ("8.8.4.4",)
    assert AddressGuard(("8.8.8.8",), is_own=own.__contains__).filter(carried) == tuple(carried[:3])


def test_only_public_addresses_are_looked_for() -> None:
    """What is blocked or allowed anyway costs no system call, and nothing is looked for twice."""
    asked: list[str] = []

    def look(address: str) -> bool:
        asked.append(address)
        return False

    guard = AddressGuard(("127.0.0.0/8",), is_own=look)
    for _ in range(2):
        guard.filter(["10.0.0.1", "127.0.0.1", "fe80::1", "8.8.8.8", "2606:4700::1"])
    assert asked == ["8.8.8.8", "2606:4700::1"]


def test_no_verdict_without_descriptors() -> None:
    """A machine without descriptors judges later: nothing is connected to meanwhile, and nothing called blocked."""
    full = True

    def look(address: str) -> bool:
        if full:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return address == "8.8.8.8"

    guard = AddressGuard(is_own=look)
    with pytest.raises(OSError, match="Too many open files"):
        guard.allows("8.8.8.8")
    assert guard.filter(["8.8.8.8", "8.8.4.4", "10.0.0.1"]) == ("8.8.8.8", "8.8.4.4")
    guard.check_host("8.8.8.8")
    full = False
    assert guard.filter(["8.8.8.8", "8.8.4.4"]) == ("8.8.4.4",)


def test_the_systems_own_addresses() -> None:
    """Loopback is ours; documentation's addresses are nobody's."""
    assert is_own("127.0.0.1")
    assert not any(map(is_own, ["192.0.2.1", "198.51.100.7", "2001:db8::1", "2606:4700::1111"]))


def test_a_system_that_binds_anything_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ip_nonlocal_bind every address would look like ours, so none does."""
    from penstock.fetch import own

    own._binds_anything.cache_clear()
    monkeypatch.setattr(own, "_can_bind", lambda family, address: True)
    assert not is_own("8.8.8.8")
    own._binds_anything.cache_clear()


def test_the_guard_of_connections_knows_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the one that asks the system."""
    from penstock.fetch import own

    monkeypatch.setattr(own, "_can_bind", lambda family, address: address == "8.8.8.8")
    assert connecting_guard(FetchConfig()).filter(["8.8.8.8", "8.8.4.4"]) == ("8.8.4.4",)
    assert connecting_guard(FetchConfig(allow_network=("8.8.8.0/24",))).allows("8.8.8.8")
