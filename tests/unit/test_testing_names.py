"""The name server of the tests answers as its zone says."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from penstock.testing.names import LOOP, MANY, NODATA, NXDOMAIN, REFUSED, SERVFAIL, SILENT, FakeNameServer, Reply, Zone

HERE = Reply(("127.0.0.1", "::1"), ttl=7)
ZONE: Zone = {
    "here.test": HERE,
    "*.below.test": HERE,
    "own.below.test": NODATA,
    "gone.test": NXDOMAIN,
    "broken.test": SERVFAIL,
    "closed.test": REFUSED,
    "silent.test": SILENT,
    "late.test": Reply(("127.0.0.1",), wait=0.1),
    "alias.test": Reply(("127.0.0.1",), aliases=("a.test", "b.test")),
    "loop.test": LOOP,
    "many.test": MANY,
    "rebinding.test": [Reply(("8.8.8.8",), ttl=0), Reply(("127.0.0.1",), ttl=0)],
}


def _ask(
    names: FakeNameServer, host: str, kind: str = "A", by: Callable[..., dns.message.Message] = dns.query.udp
) -> dns.message.Message:
    address, _, port = names.address.rpartition(":")
    return by(dns.message.make_query(host, kind), address, timeout=10, port=int(port))


def _answers(response: dns.message.Message) -> list[str]:
    return [record.to_text() for records in response.answer for record in records]


@pytest.mark.parametrize(
    ("host", "kind", "rcode", "answers"),
    [
        ("here.test", "A", "NOERROR", ["127.0.0.1"]),
        ("HERE.test", "AAAA", "NOERROR", ["::1"]),
        ("here.test", "MX", "NOERROR", []),
        ("any.below.test", "A", "NOERROR", ["127.0.0.1"]),
        ("far.far.below.test", "A", "NOERROR", ["127.0.0.1"]),
        ("own.below.test", "A", "NOERROR", []),
        ("below.test", "A", "NXDOMAIN", []),
        ("gone.test", "A", "NXDOMAIN", []),
        ("broken.test", "A", "SERVFAIL", []),
        ("closed.test", "A", "REFUSED", []),
        ("late.test", "A", "NOERROR", ["127.0.0.1"]),
        ("alias.test", "A", "NOERROR", ["a.test.", "b.test.", "127.0.0.1"]),
        ("loop.test", "A", "NOERROR", ["one.loop.test.", "other.loop.test.", "one.loop.test."]),
    ],
)
def test_answers(host: str, kind: str, rcode: str, answers: list[str]) -> None:
    """Each entry of the zone has its answer, by UDP and by TCP alike; names it does not hold do not exist."""
    with FakeNameServer(ZONE) as names:
        for by in (dns.query.udp, dns.query.tcp):
            response = _ask(names, host, kind, by)
            assert (dns.rcode.to_text(response.rcode()), _answers(response)) == (rcode, answers)
        assert names.asked == {f"{kind} {host.lower()}": 2}


def test_the_time_to_live_is_told() -> None:
    """Clients learn how long an answer holds."""
    with FakeNameServer(ZONE) as names:
        assert _ask(names, "here.test").answer[0].ttl == 7


def test_what_is_too_long_for_a_datagram_is_cut_and_comes_whole_by_tcp() -> None:
    """The client is told to come again."""
    with FakeNameServer(ZONE) as names:
        cut = _ask(names, "many.test")
        assert cut.flags & dns.flags.TC
        assert len(cut.to_wire()) <= 512
        assert len(_answers(_ask(names, "many.test", by=dns.query.tcp))) == 500


def test_a_sequence_is_gone_through_by_each_kind_of_question() -> None:
    """A name rebinds at the second question, and stays so; the other kind of address has its own count."""
    with FakeNameServer(ZONE) as names:
        assert _answers(_ask(names, "rebinding.test", "AAAA")) == []
        assert [_answers(_ask(names, "rebinding.test")) for _ in range(3)] == [
            ["8.8.8.8"],
            ["127.0.0.1"],
            ["127.0.0.1"],
        ]


def test_silence_and_garbage_get_no_answer() -> None:
    """A silent name and a datagram that is no question hold up neither other questions nor the end."""
    with FakeNameServer(ZONE) as names:
        address, _, port = names.address.rpartition(":")
        with pytest.raises(dns.exception.Timeout):
            dns.query.udp(dns.message.make_query("silent.test", "A"), address, timeout=0.05, port=int(port))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
            wire.sendto(b"garbage", (address, int(port)))
        assert _answers(_ask(names, "here.test")) == ["127.0.0.1"]


def test_a_wait_is_kept() -> None:
    """A late answer does not come early."""
    with FakeNameServer(ZONE) as names:
        start = time.monotonic()
        _ask(names, "late.test")
        assert time.monotonic() - start >= 0.1
