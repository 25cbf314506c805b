"""The address guard: which IP addresses may be connected to.

Own tables, because `ipaddress.is_global` is no policy: it is True for NAT64 and IPv4-compatible forms of 127.0.0.1,
for multicast, and for Azure's metadata server, and its answers change between Python versions.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Iterable

from penstock.config import FetchConfig
from penstock.errors import ItemError
from penstock.fetch.own import is_own
from penstock.records import Reason

__all__ = ["AddressGuard", "connecting_guard", "is_literal"]

_BLOCKED_4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; 100.100.100.200 is Alibaba's metadata server
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's metadata server, in the middle of a public range
        "169.254.0.0/16",  # link-local; 169.254.169.254 is the metadata server of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is Oracle's metadata server
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)

# Inside 2000::/3, the only part of IPv6 that is global unicast. fc00::/7, fe80::/10, ff00::/8, 100::/64, 5f00::/16 and
# 64:ff9b:1::/48 lie outside and need no entry.
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")
_BLOCKED_6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # Teredo, ORCHID and other protocol assignments
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: carries an IPv4 address through relays that nobody controls
        "3fff::/20",  # documentation
    )
)

# Prefixes whose last 32 bits are the IPv4 address that is meant. A network with DNS64 returns the first one for every
# host that has IPv4 only, so the address inside is judged, not the prefix.
_EMBEDDING = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "64:ff9b::/96",  # NAT64
        "::ffff:0:0/96",  # mapped
        "::ffff:0:0:0/96",  # translated
        "::/96",  # compatible; holds :: and ::1 as well, which become 0.0.0.0 and 0.0.0.1: blocked
    )
)

# Upper half of the last 64 bits of an ISATAP address, whose last 32 bits are an IPv4 address. Any prefix may stand before
# it, and who is sent there is sent on into the prefix's own network.
_ISATAP = (0x00005EFE, 0x02005EFE)

_CACHED = 65_536
"""Verdicts kept; a plain number, some MiB at most."""


def _nobodys(address: str) -> bool:  # noqa: ARG001 - stands in for `is_own`
    return False


class AddressGuard:
    """Judges addresses: the public internet is allowed, and what `allow_network` names.

    Args:
        allow_network: Networks that are allowed whatever they are.
        is_own: Whether an address belongs to this machine, which is not the internet even where it is public. Asked
            about addresses that are allowed otherwise; may raise OSError if it cannot be found out now.

    >>> AddressGuard(("10.1.0.0/16",)).filter(["10.1.2.3", "10.2.3.4", "8.8.8.8"])
    ('10.1.2.3', '8.8.8.8')
    """

    allows: Callable[[str], bool]
    """Whether this address, given as text, may be connected to; False for what is no address.

    Raises what `is_own` raises; only verdicts are kept.
    """

    def __init__(self, allow_network: Iterable[str] = (), *, is_own: Callable[[str], bool] = _nobodys) -> None:
        self._holes = tuple(ipaddress.ip_network(text) for text in allow_network)
        self._is_own = is_own
        self.allows = functools.lru_cache(_CACHED)(self._judge)

    def filter(self, addresses: Iterable[str]) -> tuple[str, ...]:
        """Those that may be connected to, in their order; also those that cannot be judged now, for they are again."""
        return tuple(address for address in addresses if self._may_pass(address))

    def check_host(self, host: str) -> None:
        """Refuse a host that is a forbidden IP literal; a name passes, for its addresses are judged when it is resolved.

        Raises:
            ItemError: ``ssrf.blocked``.
        """
        if is_literal(host) and not self._may_pass(host):
            raise ItemError(Reason.SSRF_BLOCKED, host)

    def _may_pass(self, address: str) -> bool:
        try:
            return self.allows(address)
        except OSError:
            return True

    def _judge(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return False
        return self._allowed(address)

    def _allowed(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        if any(address in hole for hole in self._holes):
            return True
        if any(address in network for network in _EMBEDDING):
            return self._allowed(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        return _is_public(address) and not self._is_own(str(address))


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _BLOCKED_4)
    if int(address) >> 32 & 0xFFFFFFFF in _ISATAP:
        return False
    return address in _GLOBAL_6 and not any(address in network for network in _BLOCKED_6)


def is_literal(host: str) -> bool:
    """Whether a host, as `check_url` gives it, is an IP address rather than a name."""
    return ":" in host or host.rpartition(".")[2].isdigit()


def connecting_guard(config: FetchConfig) -> AddressGuard:
    """The guard of the addresses that are really connected to.

    This machine's own addresses are judged here only, so that they are looked for once. With a proxy the addresses are
    the proxy's own, which the user has named; where it connects to is for the proxy to judge.
    """
    return AddressGuard(("0.0.0.0/0", "::/0") if config.proxy else config.allow_network, is_own=is_own)
