"""Host slots over many lanes: never more than the host's limit, whatever is lost; and nobody starves."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.fetch.policy.shares import LEASE, HostSlots, LaneShares, Need

PER_HOST = 3
LANES = st.sampled_from(["first", "second", "third", "fourth", "fifth"])
HOSTS = st.sampled_from("ab")


class Lane:
    """A lane that starts whatever it may, and its line to the coordinator."""

    def __init__(self, per_host: int = PER_HOST) -> None:
        self.shares = LaneShares(per_host)
        self.active: Counter[str] = Counter()
        self.queued: Counter[str] = Counter()
        self.anew = True

    def note(self, host: str) -> bool:
        return self.shares.note(host, self.active[host], self.queued[host])

    def start(self, host: str) -> None:
        while self.queued[host] and self.active[host] < self.shares.limit(host):
            self.queued[host] -= 1
            self.active[host] += 1
        self.note(host)

    def finish(self, host: str) -> None:
        self.active[host] -= 1
        self.note(host)

    def exchange(self, slots: HostSlots, name: str, now: float, *, lost: bool = False) -> None:
        limits = slots.exchange(name, self.shares.changes(), now, anew=self.anew)
        self.anew = lost
        if lost:
            self.shares.forget()
        else:
            self.shares.heard(limits)


class Slots(RuleBasedStateMachine):
    """Any order of needs, words, lost words, lost answers and deaths."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = HostSlots(PER_HOST)
        self.lanes: dict[str, Lane] = {}
        self.now = 0.0

    def lane(self, name: str) -> Lane:
        return self.lanes.setdefault(name, Lane())

    @rule(name=LANES, host=HOSTS, count=st.integers(1, 6))
    def want(self, name: str, host: str, count: int) -> None:
        lane = self.lane(name)
        lane.queued[host] += count
        lane.note(host)

    @rule(name=LANES, host=HOSTS)
    def start(self, name: str, host: str) -> None:
        self.lane(name).start(host)

    @precondition(lambda self: any(lane.active.total() for lane in self.lanes.values()))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        under_way = [(name, host) for name, lane in self.lanes.items() for host in "ab" if lane.active[host]]
        name, host = data.draw(st.sampled_from(under_way))
        self.lanes[name].finish(host)

    @rule(name=LANES, lost=st.sampled_from([False, False, False, True]))
    def exchange(self, name: str, lost: bool) -> None:
        self.lane(name).exchange(self.slots, name, self.now, lost=lost)

    @rule(name=LANES)
    def lose_word(self, name: str) -> None:
        lane = self.lane(name)
        lane.shares.changes()
        lane.shares.forget()
        lane.anew = True

    @rule(name=LANES)
    def end(self, name: str) -> None:
        if self.lanes.pop(name, None):
            self.slots.drop(name)

    @rule(seconds=st.sampled_from([0.1, 1.0, LEASE, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def no_host_sees_more(self) -> None:
        for host in "ab":
            assert sum(lane.active[host] for lane in self.lanes.values()) <= PER_HOST
            # Not only what runs: what could run at once, if every lane started all that it may.
            could = sum(max(lane.active[host], lane.shares.limit(host)) for lane in self.lanes.values())
            assert could <= PER_HOST

    def teardown(self) -> None:
        """From any state, everything gets done, and nothing is remembered then."""
        for _ in range(400):
            if not any(lane.active.total() + lane.queued.total() for lane in self.lanes.values()):
                break
            for name, lane in self.lanes.items():
                for host in "ab":
                    lane.start(host)
                    if lane.active[host]:
                        lane.finish(host)
                lane.exchange(self.slots, name, self.now)
            self.no_host_sees_more()
            self.now += LEASE / 3
        for name, lane in self.lanes.items():
            assert not lane.queued.total(), f"{name} starved"
            lane.exchange(self.slots, name, self.now)
        assert len(self.slots) == 0


TestSlots = Slots.TestCase


def test_a_lane_alone_has_all_slots() -> None:
    slots, lane = HostSlots(8), Lane(8)
    lane.queued["a"] = 20
    assert lane.note("a"), "worth saying at once"
    lane.exchange(slots, "one", now=0)
    assert lane.shares.limit("a") == 8


def test_a_newcomer_gets_its_share_when_the_other_has_heard() -> None:
    """And not before: the other may be using all of it."""
    slots, one, two = HostSlots(8), Lane(8), Lane(8)
    for lane in (one, two):
        lane.queued["a"] = 20
        lane.note("a")
    one.exchange(slots, "one", now=0)
    one.start("a")
    two.exchange(slots, "two", now=1)
    assert two.shares.limit("a") == 0
    one.exchange(slots, "one", now=2)  # hears that it has 4
    assert one.shares.limit("a") == 4
    for _ in range(4):
        one.finish("a")
    one.exchange(slots, "one", now=3)
    two.exchange(slots, "two", now=4)
    assert two.shares.limit("a") == 4


def test_slots_that_nobody_else_wants() -> None:
    slots, small, large = HostSlots(8), Lane(8), Lane(8)
    small.queued["a"], large.queued["a"] = 1, 20
    for now in range(4):
        for name, lane in (("small", small), ("large", large)):
            lane.note("a")
            lane.exchange(slots, name, float(now))
    assert (small.shares.limit("a"), large.shares.limit("a")) == (1, 7)


def test_more_lanes_than_slots_take_turns() -> None:
    slots = HostSlots(1)
    lanes = {str(number): Lane(1) for number in range(4)}
    served: Counter[str] = Counter()
    for step in range(400):
        for name, lane in lanes.items():
            lane.queued["a"] += lane.queued["a"] < 3
            lane.note("a")
            lane.start("a")
            if lane.active["a"]:
                served[name] += 1
                lane.finish("a")
            lane.exchange(slots, name, step * 0.25)
    assert len(served) == 4
    assert max(served.values()) < 1.5 * min(served.values())


def test_an_idle_host_is_said_once_and_forgotten() -> None:
    lane = Lane()
    lane.queued["a"] = 1
    lane.note("a")
    assert lane.shares.changes() == {"a": Need(0, 1)}
    lane.queued["a"] = 0
    lane.note("a")
    assert lane.shares.changes() == {"a": Need(0, 0)}
    assert lane.shares.changes() == {}
