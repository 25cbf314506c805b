"""The address guard against lists of addresses that other guards are tested with."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import FetchConfig
from penstock.errors import ItemError
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
::ffff:0:127.0.0.1 ::ffff:0:10.0.0.1
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


@given(st.integers(0, 2**32 - 1))
def test_embedding_changes_nothing(number: int) -> None:
    """An IPv4 address is judged the same in each form that carries it."""
    guard = AddressGuard()
    plain = guard.allows(str(ipaddress.IPv4Address(number)))
    for prefix in ("::", "::ffff:0:0", "::ffff:0:0:0", "64:ff9b::"):
        embedded = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) + number)
        assert guard.allows(str(embedded)) == plain


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
