"""From counters to shares of the workers' time: arithmetic with known answers, and its invariants."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.comparison.results import Shares
from penstock.comparison.timeline import SLICES, Reading, shares_after, timeline


def parts(shares: Shares) -> dict[str, float]:
    """The shares that are not nothing, rounded."""
    return {name: round(value, 3) for name, value in dataclasses.asdict(shares).items() if value > 1e-9}


def test_known_run() -> None:
    """Two workers for ten seconds: each kind of time ends where it belongs."""
    readings = [
        Reading(2.0),
        Reading(
            6.0, busy=4.0, occupied=6.0, inside=1.0, consumer=2.0
        ),  # 8 s of workers: 2 idle, half of it by the sink
        Reading(10.0, busy=12.0, occupied=14.0, inside=1.0, consumer=2.0),
    ]
    shares = shares_after(readings, workers=2, first_result=2.0, wall=10.0)
    # 2, 12, 1 and 1 of 16
    assert parts(shares) == {"waiting": 0.125, "decoding": 0.75, "handover": 0.062, "output": 0.062}


def test_time_before_the_first_result_is_the_start() -> None:
    """Workers that start count neither as waiting nor as anything else."""
    slices = timeline([Reading(1.0), Reading(2.0, busy=1.0, occupied=1.0)], workers=1, first_result=1.0, wall=2.0)
    assert parts(slices[0].shares) == {"starting": 1.0}
    assert parts(slices[-1].shares) == {"decoding": 1.0}


def test_after_the_last_reading_only_output_is_left() -> None:
    """The commit of the last shard is time in the output."""
    slices = timeline([Reading(1.0, busy=1.0, occupied=1.0)], workers=1, first_result=0.0, wall=2.0)
    assert parts(slices[-1].shares) == {"output": 1.0}


def test_work_that_is_booked_at_its_end_is_spread_over_its_time() -> None:
    """One row of four seconds is four seconds of decoding, not a peak and a hole."""
    readings = [Reading(float(second), busy=4.0 * (second == 4), occupied=float(second)) for second in range(1, 5)]
    slices = timeline(readings, workers=1, first_result=0.0, wall=4.0)
    assert all(piece.shares.decoding == pytest.approx(1.0) for piece in slices)


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Reading], int, float, float]:
    """Readings whose counters grow, however absurdly."""
    steps = draw(st.lists(st.tuples(*[st.floats(0, 5)] * 5), min_size=0, max_size=12))
    sums = [list(itertools.accumulate(column)) for column in zip(*steps, strict=True)]
    readings = [Reading(*values) for values in zip(*sums, strict=True)]
    wall = (readings[-1].at if readings else 0.0) + draw(st.floats(0.01, 3))
    return readings, draw(st.integers(1, 9)), draw(st.floats(0, wall)), wall


@given(runs())
def test_slices_cover_the_run_and_shares_sum_to_one(run: tuple[list[Reading], int, float, float]) -> None:
    """Whatever the counters say, no time is lost and none is counted twice."""
    readings, workers, first_result, wall = run
    slices = timeline(readings, workers=workers, first_result=first_result, wall=wall)
    assert 1 <= len(slices) <= SLICES
    assert slices[0].start == 0.0
    assert slices[-1].stop == pytest.approx(wall)
    assert all(before.stop == after.start for before, after in itertools.pairwise(slices))
    for piece in slices:
        values = dataclasses.astuple(piece.shares)
        assert sum(values) == pytest.approx(1.0, abs=1e-6)
        assert all(value >= 0 for value in values)
