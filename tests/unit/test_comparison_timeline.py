"""From counters to shares of the workers' time: arithmetic with known answers, and its invariants."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.comparison.results import Shares
from penstock.comparison.timeline import SLICES, Reading, shares_at_work, timeline


def parts(shares: Shares) -> dict[str, float]:
    """The shares that are not nothing, rounded."""
    return {name: round(value, 3) for name, value in dataclasses.asdict(shares).items() if value > 1e-9}


def test_known_run() -> None:
    """Two workers for ten seconds: each kind of time ends where it belongs."""
    readings = [
        Reading(2.0),
        # 8 s of workers: 2 idle, half of them by the sink; 4 in the work, 1 in downloads of their own, 1 more held
        Reading(6.0, busy=4.0, occupied=6.0, capacity=8.0, inside=1.0, consumer=2.0),
        Reading(10.0, busy=12.0, occupied=14.0, capacity=16.0, inside=1.0, consumer=2.0),
    ]
    shares = shares_at_work(readings, workers=2, wall=10.0)
    # 2, 12, 1 and 1 of 16
    assert parts(shares) == {"waiting": 0.125, "decoding": 0.75, "handover": 0.062, "output": 0.062}


def test_time_without_capacity_is_the_start() -> None:
    """Workers that start count neither as waiting nor as anything else, and in no share of the work."""
    readings = [Reading(1.0), Reading(2.0, busy=1.0, occupied=1.0, capacity=1.0)]
    slices = timeline(readings, workers=1, wall=2.0)
    assert parts(slices[0].shares) == {"starting": 1.0}
    assert parts(slices[-1].shares) == {"decoding": 1.0}
    assert parts(shares_at_work(readings, workers=1, wall=2.0)) == {"decoding": 1.0}


def test_lane_that_starts_later_does_not_wait() -> None:
    """Half of the workers begin at half of the time: until then they start."""
    readings = [Reading(1.0, 1.0, 1.0, 1.0), Reading(2.0, 3.0, 3.0, 3.0)]
    slices = timeline(readings, workers=2, wall=2.0, lanes=2)
    assert parts(slices[0].shares) == {"starting": 0.5, "decoding": 0.5}
    assert parts(slices[-1].shares) == {"decoding": 1.0}


def test_sinks_of_several_lanes_are_averaged() -> None:
    """One of two lanes in its sink is half of an output."""
    readings = [Reading(4.0, capacity=8.0, consumer=4.0)]
    assert parts(shares_at_work(readings, workers=2, wall=4.0, lanes=2)) == {"waiting": 0.5, "output": 0.5}


def test_after_the_last_reading_only_output_is_left() -> None:
    """The commit of the last shard is time in the output."""
    slices = timeline([Reading(1.0, busy=1.0, occupied=1.0, capacity=1.0)], workers=1, wall=2.0)
    assert parts(slices[-1].shares) == {"output": 1.0}


def test_work_that_is_booked_at_its_end_is_spread_over_its_time() -> None:
    """One row of four seconds is four seconds of decoding, not a peak and a hole."""
    seconds = (1.0, 2.0, 3.0, 4.0)
    readings = [Reading(second, 4.0 * (second == 4.0), occupied=second, capacity=second) for second in seconds]
    slices = timeline(readings, workers=1, wall=4.0)
    assert all(piece.shares.decoding == pytest.approx(1.0) for piece in slices)


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Reading], int, int, float]:
    """Readings whose counters grow, however absurdly."""
    steps = draw(st.lists(st.tuples(*[st.floats(0, 5)] * 6), min_size=0, max_size=12))
    sums = [list(itertools.accumulate(column)) for column in zip(*steps, strict=True)]
    readings = [Reading(*values) for values in zip(*sums, strict=True)]
    wall = (readings[-1].at if readings else 0.0) + draw(st.floats(0.0, 3)) + 0.01
    return readings, draw(st.integers(1, 9)), draw(st.integers(1, 3)), wall


@given(runs())
def test_slices_cover_the_run_and_shares_sum_to_one(run: tuple[list[Reading], int, int, float]) -> None:
    """Whatever the counters say, no time is lost and none is counted twice."""
    readings, workers, lanes, wall = run
    slices = timeline(readings, workers=workers, wall=wall, lanes=lanes)
    assert 1 <= len(slices) <= SLICES
    assert slices[0].start == 0.0
    assert slices[-1].stop == pytest.approx(wall)
    assert all(before.stop == after.start for before, after in itertools.pairwise(slices))
    for piece in slices:
        values = dataclasses.astuple(piece.shares)
        assert sum(values) == pytest.approx(1.0, abs=1e-6)
        assert all(value >= 0 for value in values)
