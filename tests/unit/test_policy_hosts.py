"""The schedule: bounds, fairness, pauses."""

from __future__ import annotations

import time
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from penstock.fetch.policy.hosts import Schedule

WIDTH, PER_HOST = 5, 2
HOSTS = st.sampled_from("abcd")


class ScheduleMachine(RuleBasedStateMachine):
    """Any order of events: the bounds hold, holds are respected, and everything comes out once."""

    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.schedule: Schedule[tuple[str, int]] = Schedule(WIDTH, lambda _: PER_HOST)
        self.now = 100.0
        self.waiting: dict[tuple[str, int], float] = {}
        self.active: Counter[str] = Counter()
        self.held: dict[str, float] = {}
        self.serial = 0

    @rule(host=HOSTS, pause=st.sampled_from([0.0, 0.0, 0.5, 3.0]))
    def add(self, host: str, pause: float) -> None:
        self.serial += 1
        self.schedule.add((host, self.serial), host, self.now, pause=pause)
        self.waiting[host, self.serial] = self.now + pause

    @rule(target=taken)
    def take(self) -> tuple[str, int] | None:
        ready = self.schedule.ready(self.now)
        request = self.schedule.take(self.now)
        assert (request is not None) == ready
        if request is None:
            assert not self.could_start()
            return None
        host = request[0]
        assert self.waiting.pop(request) <= self.now
        assert self.held.get(host, 0) <= self.now
        self.active[host] += 1
        return request

    @rule(request=consumes(taken))
    def finish(self, request: tuple[str, int] | None) -> None:
        if request is not None:
            self.active[request[0]] -= 1
            self.schedule.finished(request[0], self.now)

    @rule(host=HOSTS, pause=st.floats(0, 5))
    def hold(self, host: str, pause: float) -> None:
        self.schedule.hold(host, self.now, pause)
        self.held[host] = max(self.held.get(host, 0), self.now + pause)
        assert abs(self.schedule.held(host, self.now) - (self.held[host] - self.now)) < 1e-9

    @rule(seconds=st.floats(0, 4))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.schedule.wake_at() is not None)
    @rule()
    def wait_for_wake(self) -> None:
        self.now = max(self.now, self.schedule.wake_at() or 0)

    def could_start(self) -> bool:
        return sum(self.active.values()) < WIDTH and any(
            due <= self.now and self.active[host] < PER_HOST and self.held.get(host, 0) <= self.now
            for (host, _), due in self.waiting.items()
        )

    @invariant()
    def bounds_hold(self) -> None:
        assert max(self.active.values(), default=0) <= PER_HOST
        assert self.schedule.active == sum(self.active.values()) <= WIDTH
        assert len(self.schedule) <= 4

    def teardown(self) -> None:
        """Everything that was added is taken in the end, and no host is remembered."""
        for host, count in self.active.items():
            for _ in range(count):
                self.schedule.finished(host, self.now)
        while (request := self.schedule.take(self.now)) is not None or self.schedule.wake_at() is not None:
            if request is None:
                self.now = max(self.now, self.schedule.wake_at() or 0)
            else:
                del self.waiting[request]
                self.schedule.finished(request[0], self.now)
        assert not self.waiting
        assert len(self.schedule) == 0


TestSchedule = ScheduleMachine.TestCase


@given(st.integers(1, 200))
def test_hosts_take_turns(crowd: int) -> None:
    """A host with few requests waits for one of each other host at most, however many those have."""
    schedule: Schedule[str] = Schedule(1, lambda _: 8)
    for _ in range(crowd):
        schedule.add("crowded", "crowded", 0)
    schedule.add("small", "small", 0)
    first = [schedule.take(0)]
    schedule.finished("crowded", 0)
    first.append(schedule.take(0))
    assert first == ["crowded", "small"]


def test_a_request_that_pauses_takes_no_slot() -> None:
    """While one request waits for its next attempt, another of the same host runs."""
    schedule: Schedule[str] = Schedule(1, lambda _: 1)
    schedule.add("first", "host", 0, pause=10)
    schedule.add("second", "host", 0)
    assert (schedule.take(0), schedule.take(0), schedule.wake_at()) == ("second", None, 10)
    schedule.finished("host", 5)
    assert (schedule.take(5), schedule.take(10)) == (None, "first")


def test_a_hundred_thousand_hosts_cost_the_same_each() -> None:
    """A hundred times as many hosts take about a hundred times as long: no operation looks at all of them."""

    def seconds(hosts: int) -> float:
        started = time.process_time()
        schedule: Schedule[int] = Schedule(hosts, lambda _: 1)
        for i in range(hosts):
            schedule.add(i, str(i), 0, pause=i % 2)
        while (taken := schedule.take(1)) is not None:
            schedule.finished(str(taken), 1)
        assert len(schedule) == 0
        return time.process_time() - started

    few = min(seconds(1000) for _ in range(3))
    assert seconds(100_000) < 100 * few * 10, "10: room for caches and the heap's logarithm; quadratic would be 100"
