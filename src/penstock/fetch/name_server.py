"""Lookups at a name server of the user's choice, in place of the system's resolver (``--dns``).

The system's resolver is made for a desktop: many fall over under the ten thousand names a second that a list of URLs
asks for, and none tells how long an answer holds. This asks one recursive name server, such as an unbound on the same
machine, directly::

    ┌─ A ────▶ one UDP socket, ──▶ addresses of both kinds, in turn
    └─ AAAA ─▶ a new one each time     (what did not fit comes again over TCP)
"""

from __future__ import annotations

import itertools
import socket
import time
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from penstock.errors import ItemError, MissingExtraError
from penstock.fetch.dns import TTL, Found
from penstock.records import Reason

try:
    import dns.exception
    import dns.flags
    import dns.message
    import dns.name
    import dns.query
    import dns.rcode
    import dns.rdatatype
except ImportError as error:
    raise MissingExtraError("--dns needs dnspython: pip install 'penstock[dns]'") from error

__all__ = ["NameServer"]

TIMEOUT = 5.0
"""Seconds for one try; as the system's resolvers have it."""

TRIES = 2
"""A datagram may be lost; two in a row hardly are."""

MAX_DATAGRAM = 65_535

_Type: TypeAlias = dns.rdatatype.RdataType

# What to say when no kind of record brought an address: the first of these that was met.
_BY_WEIGHT = (Reason.DNS_NXDOMAIN, Reason.DNS_TEMPORARY, Reason.DNS_TIMEOUT, Reason.DNS_NO_ADDRESS)


@dataclass(frozen=True, slots=True)
class _Records:
    """The answer to one question: addresses, or why there are none."""

    addresses: tuple[str, ...] = ()
    ttl: float = TTL
    reason: Reason = Reason.DNS_NO_ADDRESS


class NameServer:
    """A `penstock.fetch.dns.Lookup`: blocks for 10 seconds at most; may be called from many threads.

    Query ids are random (dnspython) and so are source ports (a new socket each time, by the kernel), which is what keeps
    others from answering in the server's place.

    Args:
        address: Of a recursive name server, ``127.0.0.1:5353`` or ``[::1]:53``.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(f"//{address}")
        self._host, self._port = parts.hostname or "", parts.port or 53
        self._family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self._types = [_Type.A, _Type.AAAA] if _has_ipv6() else [_Type.A]

    def __call__(self, host: str) -> Found:
        """Addresses of `host` and how long they hold.

        Raises:
            ItemError: ``dns.*``.
            OSError: The name server cannot be reached, or this machine has no socket left.
        """
        name = dns.name.from_text(host)
        records: dict[_Type, _Records] = {}
        for _ in range(TRIES):
            records |= self._ask([dns.message.make_query(name, kind) for kind in self._types if kind not in records])
            if any(found.addresses for found in records.values()) or len(records) == len(self._types):
                break
        return _together(host, [records.get(kind, _Records(reason=Reason.DNS_TIMEOUT)) for kind in self._types])

    def _ask(self, queries: list[dns.message.Message]) -> dict[_Type, _Records]:
        """What was answered in time, by type."""
        records: dict[_Type, _Records] = {}
        deadline = time.monotonic() + TIMEOUT
        with socket.socket(self._family, socket.SOCK_DGRAM) as wire:
            wire.connect((self._host, self._port))  # from now on the kernel drops what others send
            for query in queries:
                wire.send(query.to_wire())
            while len(records) < len(queries) and (left := deadline - time.monotonic()) > 0:
                wire.settimeout(left)
                try:
                    data = wire.recv(MAX_DATAGRAM)
                except TimeoutError:
                    break
                records |= self._read(queries, data, deadline)
        return records

    def _read(self, queries: list[dns.message.Message], data: bytes, deadline: float) -> dict[_Type, _Records]:
        """What a datagram answers: one of the queries, or none, if it is garbage."""
        try:
            response = dns.message.from_wire(data, raise_on_truncation=True)
        except dns.message.Truncated as error:
            response = error.kwargs["message"]
        except dns.exception.DNSException:
            return {}
        query = next((query for query in queries if query.is_response(response)), None)
        if query is None:
            return {}
        if response.flags & dns.flags.TC:
            try:
                response = dns.query.tcp(query, self._host, max(0.001, deadline - time.monotonic()), self._port)
            except dns.exception.Timeout:
                return {}
        return {query.question[0].rdtype: _records(response)}


def _records(response: dns.message.Message) -> _Records:
    if response.rcode() == dns.rcode.NXDOMAIN:
        return _Records(reason=Reason.DNS_NXDOMAIN)
    if response.rcode() != dns.rcode.NOERROR or not isinstance(response, dns.message.QueryMessage):
        return _Records(reason=Reason.DNS_TEMPORARY)
    try:
        chain = response.resolve_chaining()  # follows 16 aliases at most
    except dns.exception.DNSException:
        return _Records()
    addresses = tuple(record.address for record in chain.answer or ())
    return _Records(addresses, chain.minimum_ttl)


def _together(host: str, records: list[_Records]) -> Found:
    """Both kinds of addresses in turn, the newer one first: whoever takes only the first few has some of each."""
    rounds = itertools.zip_longest(*(found.addresses for found in reversed(records)))
    addresses = [address for address in itertools.chain.from_iterable(rounds) if address is not None]
    if addresses:
        return Found(addresses, min(found.ttl for found in records if found.addresses))
    reasons = {found.reason for found in records}
    raise ItemError(next(reason for reason in _BY_WEIGHT if reason in reasons), host)


def _has_ipv6() -> bool:
    """Whether this machine has a way to the IPv6 internet: without one, AAAA records would be asked for in vain."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as wire:
            wire.connect(("2000::", 53))  # sends nothing
    except OSError:
        return False
    return True
