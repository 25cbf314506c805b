"""The hub alone, with a fake fetcher and a fake crew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.fakes import FakeCrew, FakeFetcher
from penstock.errors import WorkerError
from penstock.fetch.budget import ByteBudget
from penstock.flow import CREW_DEPTH_MOST, Lane
from penstock.records import Kind, Reason, Request, Row

URLS = st.lists(st.sampled_from(["good", "lost", "broken"]), max_size=60)


def rows_of(urls: list[str]) -> list[Row]:
    return [Row(index, (Request("image", url),)) for index, url in enumerate(urls)]


@contextmanager
def lane_of(fetcher: FakeFetcher, crew: FakeCrew, *, lookahead: int = 8, limit: int = 1000) -> Iterator[Lane]:
    with Lane(fetcher, crew, lookahead=lookahead, budget=ByteBudget(limit), result_bytes=limit) as lane:
        yield lane
    assert fetcher.closed
    assert crew.closed


@given(URLS, st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 25, 1000]))
def test_each_row_is_settled_exactly_once(urls: list[str], seed: int, width: int, workers: int, limit: int) -> None:
    """Whatever the order of events and however small the bounds, each row leaves once, with its own outcome."""
    fetcher, crew = FakeFetcher(width, seed), FakeCrew(workers, seed)
    with lane_of(fetcher, crew, lookahead=width, limit=limit) as lane:
        settled = list(lane.settle(rows_of(urls)))
    outcomes = {one.outcome.row.index: one for one in settled}
    assert len(settled) == len(outcomes) == len(urls)
    for index, url in enumerate(urls):
        outcome = outcomes[index].outcome
        expected = {"good": None, "lost": Reason.HTTP_NOT_FOUND, "broken": Reason.IMAGE_CORRUPT}[url]
        assert outcome.reason is expected
        assert (outcome.kind is Kind.WRITTEN) == (expected is None) == (outcomes[index].sample is not None)
    assert fetcher.budget.used == 0


@given(URLS, st.integers(0, 10_000))
def test_bounds_hold(urls: list[str], seed: int) -> None:
    """Neither the fetcher nor the crew ever holds more rows than it may."""
    fetcher, crew = FakeFetcher(3, seed), FakeCrew(2, seed)
    with lane_of(fetcher, crew, lookahead=3) as lane:
        list(lane.settle(rows_of(urls)))
    assert fetcher.shuffler.most_inside <= 3
    assert crew.shuffler.most_inside <= CREW_DEPTH_MOST * crew.width


def test_source_is_read_lazily() -> None:
    """The lane asks for a row only when it has room for it."""
    taken: list[int] = []

    def source() -> Iterator[Row]:
        for row in rows_of(["good"] * 100):
            taken.append(row.index)
            yield row

    with lane_of(FakeFetcher(), FakeCrew(), lookahead=4) as lane:
        next(lane.settle(source()))
    assert len(taken) < 50


def test_stop_drops_what_is_downloading_and_settles_the_rest() -> None:
    """After `stop` no row is taken, held downloads are dropped, and the generator ends."""
    fetcher, crew = FakeFetcher(width=1), FakeCrew(width=1)
    with lane_of(fetcher, crew, lookahead=50) as lane:
        settled = lane.settle(rows_of(["good"] * 5 + ["hold"] * 5))
        first = [next(settled)]
        lane.stop(grace=30)
        rest = list(settled)
    assert {one.outcome.row.index for one in first + rest} == set(range(5))
    assert lane.stopped


def test_broken_crew_ends_the_lane() -> None:
    """A crew that cannot work raises in the hub instead of waiting for ever."""
    with lane_of(FakeFetcher(width=1), FakeCrew(width=1)) as lane, pytest.raises(WorkerError, match="die at once"):
        list(lane.settle(rows_of(["good", "dead", "good"])))


def test_failed_start_of_the_fetcher_closes_the_crew() -> None:
    """If the second half cannot start, the first is not left running."""

    class NoFetcher(FakeFetcher):
        def start(self, *_: object) -> None:
            raise WorkerError("no loop")

    crew = FakeCrew()
    lane = Lane(NoFetcher(), crew, lookahead=4, budget=ByteBudget(10), result_bytes=10)
    with pytest.raises(WorkerError):
        lane.__enter__()
    assert crew.closed


def test_statistics_are_shares() -> None:
    """Consumer and source shares lie between 0 and 1."""
    with lane_of(FakeFetcher(), FakeCrew()) as lane:
        list(lane.settle(rows_of(["good"] * 30)))
        statistics = lane.statistics()
    assert 0 <= statistics.consumer <= 1
    assert 0 <= statistics.source <= 1
    assert statistics.fetching >= 0
