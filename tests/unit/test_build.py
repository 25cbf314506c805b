"""What a strategy means on a machine, and how a lane is wired."""

from __future__ import annotations

import logging
import multiprocessing
from typing import Any

import pytest

from penstock import build
from penstock.build import CORES_PER_LANE, LOOKAHEAD, Setup, build_lane, choose
from penstock.config import FetchConfig, ImageConfig, RunConfig
from penstock.crew.processes import ProcessCrew
from penstock.crew.threads import ThreadCrew
from penstock.fetch.deferred import DeferredFetcher
from penstock.fetch.none import NoFetcher
from penstock.fetch.pool import ThreadFetcher
from penstock.image.work import ImageWork

MEANINGS = {
    "threads": ("threads", "threads"),
    "processes": ("worker", "processes"),
    "hybrid": ("threads", "processes"),
    "asyncio": ("asyncio", "processes"),
    "auto": ("asyncio", "processes"),
}
"""Strategy → who downloads, who decodes, on an ordinary machine."""


@pytest.fixture
def daemonic(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as a DataLoader's worker or a Dask one: it may have no children."""
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]  # as multiprocessing sets it


def setup(strategy: str, cores: int = 2, *, splittable: bool = True, **options: Any) -> Setup:
    return choose(RunConfig(strategy=strategy, **options), cores=cores, splittable=splittable)  # type: ignore[arg-type]  # any text


@pytest.mark.parametrize("strategy", MEANINGS)
def test_meaning_of_a_strategy(strategy: str) -> None:
    """Each is a setting of the same flow, with a decoder for each core, in one lane."""
    assert setup(strategy) == Setup(*MEANINGS[strategy], workers=2, lanes=1)  # type: ignore[arg-type]  # from the table


@pytest.mark.parametrize("strategy", MEANINGS)
def test_workers_are_the_users_to_choose(strategy: str) -> None:
    """--workers wins over the number of cores."""
    assert setup(strategy, cores=64, workers=3).workers == 3


@pytest.mark.parametrize(("cores", "lanes"), [(1, 1), (CORES_PER_LANE, 1), (CORES_PER_LANE + 1, 2), (32, 6)])
def test_auto_takes_more_lanes_where_one_event_loop_is_full(cores: int, lanes: int) -> None:
    """One lane feeds so many decoders and no more."""
    chosen = setup("auto", cores)
    assert chosen.lanes == lanes
    assert sum(chosen.workers_of(lane) for lane in range(lanes)) == chosen.workers == cores


@pytest.mark.parametrize("strategy", [name for name in MEANINGS if name != "auto"])
def test_only_auto_takes_lanes_by_itself(strategy: str) -> None:
    """A named strategy has one lane on any machine, unless --lanes asks for more."""
    assert setup(strategy, cores=64).lanes == 1
    assert setup(strategy, cores=64, lanes=4).lanes == 4


def test_list_that_cannot_be_split_has_one_lane() -> None:
    """What one process alone can read goes through one lane, with all the workers."""
    chosen = setup("auto", cores=32, splittable=False)
    assert (chosen.lanes, chosen.workers) == (1, 32)
    assert setup("auto", cores=32, splittable=False, lanes=3).lanes == 1


def test_lane_has_a_worker() -> None:
    """No more lanes than workers."""
    assert setup("asyncio", workers=2, lanes=5) == Setup("asyncio", "processes", 2, 2)


@pytest.mark.usefixtures("daemonic")
@pytest.mark.parametrize("strategy", MEANINGS)
def test_threads_where_there_can_be_no_children(strategy: str) -> None:
    """In a daemonic process threads decode."""
    assert setup(strategy).crew == "threads"


def test_threads_where_there_is_no_global_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """On free-threaded Python threads are simply better, and auto takes them; who names processes gets them."""
    monkeypatch.setattr(build, "gil_enabled", lambda: False)
    assert setup("auto").crew == "threads"
    assert setup("asyncio").crew == "processes"


def test_workers_that_cannot_be_divided() -> None:
    """The first lanes take one more; none is lost and none is added."""
    chosen = setup("asyncio", workers=8, lanes=3)
    assert [chosen.workers_of(lane) for lane in range(3)] == [3, 3, 2]


def test_no_more_lanes_than_connections() -> None:
    """Each lane needs one of its own. Those to a host they share, so that even one is enough for all."""
    assert setup("asyncio", cores=8, lanes=8, connections=2).lanes == 2
    assert setup("asyncio", cores=8, lanes=8, per_host=1).lanes == 8


@pytest.mark.parametrize(
    ("fetch", "fetcher", "crew", "workers"),
    [
        ("asyncio", DeferredFetcher, "processes", ProcessCrew),
        ("threads", ThreadFetcher, "threads", ThreadCrew),
        ("worker", NoFetcher, "processes", ProcessCrew),
    ],
)
def test_lane_is_wired_from_its_setup(fetch: Any, fetcher: type, crew: Any, workers: type) -> None:
    """The fetcher and the crew are those of the setup, and nothing is started yet."""
    config = RunConfig(connections=10, memory=2**24)
    lane = build_lane(Setup(fetch, crew, 3, 1), config, ImageWork(config.part(ImageConfig), as_array=False))
    assert type(lane._fetcher) is fetcher
    assert type(lane._crew) is workers
    assert lane._crew.width == 3
    assert lane._lookahead == LOOKAHEAD * lane._fetcher.width
    assert lane._budget.limit == lane._result_bytes == 2**24 // build.BUDGET_SHARE


@pytest.mark.usefixtures("daemonic")
def test_lane_in_a_daemonic_process(caplog: pytest.LogCaptureFixture) -> None:
    """A setup made elsewhere works with threads where there can be no children."""
    config = RunConfig()
    with caplog.at_level(logging.CRITICAL):  # the warning comes once a process, and is tested with the crews
        lane = build_lane(
            Setup("asyncio", "processes", 2, 1), config, ImageWork(config.part(ImageConfig), as_array=False)
        )
    assert type(lane._crew) is ThreadCrew


@pytest.mark.parametrize(("lanes", "connections", "per_host"), [(1, 256, 8), (2, 128, 4), (8, 32, 1)])
def test_lanes_share_the_limits(lanes: int, connections: int, per_host: int) -> None:
    """Together the lanes keep to what the user allowed."""
    share = build._fetch_share(FetchConfig(), lanes, shared=False)
    assert (share.connections, share.per_host) == (connections, per_host)
    assert share.connections * lanes <= 256
    assert share.per_host * lanes <= 8
