"""Host slots, with both fetchers: a lane asks a host only as far as its coordinator allows, and says what it needs."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from conformance.fetching import LOOPBACK, PICTURE, Basket, Server, config
from penstock.engines.caller import Caller
from penstock.engines.hub import Hub, Reply, Word
from penstock.fetch.base import Fetcher
from penstock.fetch.dns import Resolver
from penstock.fetch.policy.addresses import AddressGuard
from penstock.fetch.policy.deadlines import Limits
from penstock.fetch.policy.manners import LEAST
from penstock.fetch.policy.shares import Need
from penstock.fetch.sharing import Sharing
from penstock.records import Fetched, Request, Row
from penstock.testing.server import ImageServer

PER_HOST = 8
PATIENT = Limits(total=60.0, connect=30.0, idle=60.0)


class Gates(Server):
    """Holds every request until it is let through, and counts those that are held, by host."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._permits: Counter[str] = Counter()
        self.arrived: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        super().__init__()

    def do_gate(self, connection: socket.socket, argument: str, count: int) -> None:
        """The picture, once there is a permit for the host; it counts until right before the answer."""
        with self._changed:
            self.arrived[argument] += 1
            self.held[argument] += 1
            self.peak[argument] = max(self.peak[argument], self.held[argument])
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._permits[argument] or self.closing.is_set())
            self._permits[argument] -= 1
            self.held[argument] -= 1
        self.reply(connection, "200 OK", PICTURE)

    def let(self, host: str, count: int) -> None:
        """Let so many requests through, those that are still to come among them."""
        with self._changed:
            self._permits[host] += count
            self._changed.notify_all()

    def wait_held(self, host: str, count: int) -> None:
        """Until so many requests are held."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.held[host] == count, 20), self.held

    def close(self) -> None:
        self.closing.set()
        with self._changed:
            self._changed.notify_all()
        super().close()


class Lane:
    """A fetcher with host slots, and the test in the place of its coordinator."""

    def __init__(self, fetcher: Fetcher, sharing: Sharing, gates: Gates) -> None:
        self.sharing, self.gates, self.basket = sharing, gates, Basket()
        self._fetcher = fetcher
        self._rows = self._delivered = 0
        fetcher.start(self.basket.deliver, self.basket.budget, self.basket.broken.append)

    def submit(self, host: str, count: int) -> None:
        """So many rows of a host."""
        for _ in range(count):
            url = f"http://{host}:{self.gates.port}/gate/{host}?row={self._rows}"
            self._fetcher.submit(Row(self._rows, (Request("image", url),)))
            self._rows += 1

    def let(self, host: str, count: int) -> None:
        """Let so many requests through, and wait until their rows are delivered."""
        self.gates.let(host, count)
        self._delivered += count
        self.basket.wait(self._delivered)

    def needs(self) -> dict[str, Need]:
        """What it says, once it finds that worth saying at once."""
        assert self.sharing.wanted.wait(20)
        self.sharing.wanted.clear()
        return self.sharing.changes()

    def pass_by(self) -> None:
        """Have rows of another host come and go: whatever could have started before has started then."""
        self.sharing.heard({"elsewhere": LEAST})
        self.submit("elsewhere", 3)
        self.let("elsewhere", 3)


@pytest.fixture
def gates() -> Iterator[Gates]:
    gates = Gates()
    yield gates
    gates.close()


@pytest.fixture
def lane(make: Callable[..., Fetcher], gates: Gates) -> Iterator[Lane]:
    sharing = Sharing(PER_HOST)
    with contextlib.closing(Resolver(AddressGuard(LOOPBACK), lambda _: ["127.0.0.1"])) as resolver:
        options = config(per_host=PER_HOST, connections=6)
        fetcher = make(options, limits=PATIENT, resolver=resolver, sharing=sharing)
        with contextlib.closing(fetcher):
            lane = Lane(fetcher, sharing, gates)
            yield lane
            assert not lane.basket.broken
    assert all(isinstance(part, Fetched) for parts in lane.basket.rows.values() for part in parts)


def test_nothing_starts_without_a_slot(lane: Lane) -> None:
    """A host of which the lane was told nothing is not asked; once it is told of slots, it is."""
    lane.submit("a", 3)
    assert lane.needs() == {"a": Need(0, LEAST)}
    lane.pass_by()
    assert lane.gates.arrived["a"] == 0
    lane.sharing.heard({"a": 1})
    lane.gates.wait_held("a", 1)
    lane.let("a", 3)
    assert lane.gates.peak["a"] == 1


def test_hosts_with_slots_do_not_wait_for_one_without(lane: Lane) -> None:
    """Not even if more rows wait for it than there are connections."""
    lane.submit("a", 40)
    lane.sharing.heard({"b": 2, "c": 2})
    lane.submit("b", 10)
    lane.submit("c", 10)
    lane.gates.let("b", 10)
    lane.gates.let("c", 10)
    lane.basket.wait(20)
    assert lane.gates.arrived == {"b": 10, "c": 10}


def test_no_more_than_was_heard(lane: Lane) -> None:
    """Whatever the host would bear, and however many rows wait; also when the limit goes up."""
    lane.submit("a", 20)
    lane.sharing.heard({"a": 3})
    lane.gates.wait_held("a", LEAST)  # the first two of any host; more when it has answered
    lane.let("a", 4)
    lane.gates.wait_held("a", 3)
    lane.pass_by()
    assert lane.gates.peak["a"] == 3
    lane.sharing.heard({"a": 5})
    lane.gates.wait_held("a", 5)
    lane.let("a", 16)
    assert lane.gates.peak["a"] == 5


def test_a_lowered_limit_holds_for_what_starts_from_then_on(lane: Lane) -> None:
    """What is under way ends in peace, and counts."""
    lane.submit("a", 12)
    lane.sharing.heard({"a": 3})
    lane.let("a", 2)
    lane.gates.wait_held("a", 3)
    lane.sharing.heard({"a": 1})
    for held in (2, 1):
        lane.let("a", 1)
        lane.pass_by()
        assert (lane.gates.held["a"], lane.gates.arrived["a"]) == (held, 5)
    lane.gates.peak.clear()
    lane.let("a", 8)
    assert lane.gates.arrived["a"] == 12
    assert lane.gates.peak["a"] == 1


def test_nothing_starts_after_contact_was_lost(lane: Lane) -> None:
    """Until the lane is told anew, which it asks for with all that it has under way and waiting."""
    lane.submit("a", 8)
    lane.sharing.heard({"a": 2})
    lane.gates.wait_held("a", 2)
    lane.sharing.forget()
    assert lane.sharing.changes() == {"a": Need(2, 2)}
    lane.let("a", 2)
    lane.pass_by()
    assert lane.gates.arrived["a"] == 2
    lane.sharing.forget()
    assert lane.sharing.changes()["a"] == Need(0, 4)  # it has answered twice
    lane.sharing.heard({"a": 2})
    lane.gates.wait_held("a", 2)
    lane.let("a", 6)


def test_a_slot_that_is_lost_before_its_turn(lane: Lane) -> None:
    """A host that has waited for a connection, and has no slot any more when there is one, does not get it."""
    others = ("b", "c", "d")
    lane.sharing.heard({**dict.fromkeys(others, 2), "a": 1})
    for host in others:
        lane.submit(host, 2)
        lane.gates.wait_held(host, 2)
    lane.submit("a", 2)
    assert lane.needs()["a"] == Need(0, 2)
    lane.sharing.forget()
    for host in others:
        lane.let(host, 2)
    lane.pass_by()
    assert lane.gates.arrived["a"] == 0
    lane.sharing.heard({"a": 2})
    lane.let("a", 2)


def test_needs_are_announced_and_returned(lane: Lane) -> None:
    """What is under way and what waits, as far as the host would be asked at once; and nothing when all is done."""
    lane.submit("a", 5)
    lane.needs()
    lane.sharing.heard({"a": PER_HOST})
    lane.gates.wait_held("a", 2)
    assert lane.sharing.changes() == {"a": Need(2, 2)}
    lane.let("a", 1)
    lane.gates.wait_held("a", 3)
    assert lane.sharing.changes() == {"a": Need(3, 3)}
    lane.let("a", 4)
    assert lane.sharing.changes() == {"a": Need(0, 0)}
    assert lane.sharing.limit("a") == 0
    lane.sharing.wanted.clear()
    lane.submit("a", 1)
    assert lane.needs() == {"a": Need(0, 1)}
    lane.pass_by()
    assert lane.gates.arrived["a"] == 5
    lane.sharing.heard({"a": 1})
    lane.let("a", 1)


class Direct:
    """A line to a hub in the same process."""

    def __init__(self, per_host: int) -> None:
        self._hub, self._lock, self._now = Hub(per_host, now=0), threading.Lock(), 0.0

    def exchange(self, word: Word) -> Reply:
        with self._lock:
            self._now += 0.01  # of a clock of its own, on which no lane falls silent
            return self._hub.exchange(word, self._now)

    def leave(self, lane: str) -> None:
        with self._lock:
            self._hub.left(lane)


@pytest.mark.slow
@pytest.mark.parametrize("per_host", [1, 3])
def test_lanes_share_a_host(make: Callable[..., Fetcher], per_host: int) -> None:
    """Two lanes and their hub: the server never sees more at a time than the limit of all, and every row comes."""
    line, rows = Direct(per_host), 20
    with ImageServer(count=2, mean_bytes=2_000, latency=0.01) as server, contextlib.ExitStack() as stack:
        baskets = []
        for _ in range(2):
            fetcher, basket = _start_lane(stack, make, line, per_host)
            baskets.append(basket)
            for index, url in enumerate(server.image_urls(rows)):
                fetcher.submit(Row(index, (Request("image", url),)))
        for basket in baskets:
            basket.wait(rows)
        assert server.statistics().peak_requests == per_host


def _start_lane(
    stack: contextlib.ExitStack, make: Callable[..., Fetcher], line: Direct, per_host: int
) -> tuple[Fetcher, Basket]:
    sharing, basket = Sharing(per_host), Basket()
    fetcher = make(config(per_host=per_host), limits=PATIENT, sharing=sharing)
    fetcher.start(basket.deliver, basket.budget, basket.broken.append)
    stack.enter_context(Caller(line, str(id(sharing)), sharing))
    stack.callback(fetcher.close)
    return fetcher, basket
