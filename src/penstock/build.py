"""From options to a lane: which kind of concurrency, how wide, and the wiring.

A strategy is a setting of one flow, not a program of its own:

============  ==========================  =================  =====
strategy      fetch                       CPU work           lanes
============  ==========================  =================  =====
threads       thread pool                 thread pool        1
processes     inside each worker process  the same process   1
hybrid        thread pool                 process crew       1
asyncio       event loop                  process crew       1
auto          event loop                  see `choose`       ≥ 1
============  ==========================  =================  =====
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from penstock.config import FetchConfig, FlowConfig, RunConfig, available_cores
from penstock.crew.base import Work
from penstock.crew.choose import gil_enabled, make_crew, processes_possible
from penstock.fetch.base import Fetcher
from penstock.fetch.budget import ByteBudget
from penstock.fetch.descriptors import raise_limit
from penstock.fetch.none import NoFetcher
from penstock.flow import Lane

__all__ = ["Setup", "build_lane", "choose"]

CORES_PER_LANE = 6
"""One event loop and one hub fill a core at about this many decoders (0.5 ms against 4 ms a row)."""

LOOKAHEAD = 4
"""Rows inside the fetcher for each connection: those in flight, and those waiting for their host's turn."""

BUDGET_SHARE = 8
"""Of ``--memory``, one part in eight for compressed bytes and one for results, so that at the defaults the whole
process tree, interpreters and decoders included, stays below 600 MB."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How the flow is set: what a strategy means on this machine."""

    fetch: Literal["asyncio", "threads", "worker"]
    crew: Literal["processes", "threads"]
    workers: int
    """CPU workers of one lane."""
    lanes: int

    @property
    def total_workers(self) -> int:
        """Over all lanes."""
        return self.workers * self.lanes

    def as_one_lane(self) -> Setup:
        """All the workers in a single lane."""
        return dataclasses.replace(self, workers=self.total_workers, lanes=1)


def choose(config: FlowConfig, *, cores: int | None = None, splittable: bool = True) -> Setup:
    """What this strategy means here.

    Where processes are impossible, threads stand in for them.  ``auto`` takes worker processes, since isolation costs nothing, unless the parent may have no children or the
    interpreter has no GIL, where threads are simply better; and more lanes where one event loop would be full.

    Args:
        config: the options.
        cores: cores to use; default: those this process may use.
        splittable: the source can be read by several lanes.
    """
    cores = cores or available_cores()
    workers = config.workers or cores
    lanes = config.lanes or (math.ceil(workers / CORES_PER_LANE) if config.strategy == "auto" else 1)
    if not splittable:
        lanes = 1
    lanes = min(lanes, workers)
    per_lane = math.ceil(workers / lanes)
    match config.strategy:
        case "processes" if processes_possible():
            return Setup("worker", "processes", per_lane, lanes)
        case "hybrid":
            return Setup("threads", "processes", per_lane, lanes)
        case "threads" | "processes":
            return Setup("threads", "threads", per_lane, lanes)
        case "asyncio":
            return Setup("asyncio", "processes", per_lane, lanes)
        case "auto":
            isolated = gil_enabled() and processes_possible()
            return Setup("asyncio", "processes" if isolated else "threads", per_lane, lanes)


def build_lane(setup: Setup, config: RunConfig, work: Work) -> Lane:
    """Wire one lane; nothing is started until it is entered."""
    fetch_config = _fetch_share(config.part(FetchConfig), setup.lanes)
    memory = config.memory // setup.lanes // BUDGET_SHARE
    deadline = config.decode_timeout
    if setup.fetch == "worker":
        from penstock.crew.fetching import FetchingWork

        work = FetchingWork(fetch_config, work)
        deadline += fetch_config.row_timeout
    crew = make_crew(setup.crew, work, setup.workers, deadline)
    fetcher = _make_fetcher(setup, fetch_config)
    return Lane(fetcher, crew, lookahead=LOOKAHEAD * fetcher.width, budget=ByteBudget(memory), result_bytes=memory)


def _fetch_share(config: FetchConfig, lanes: int) -> FetchConfig:
    """One lane's part of the connections; together the lanes keep to the limits that the user gave."""
    return dataclasses.replace(
        config, connections=math.ceil(config.connections / lanes), per_host=max(1, config.per_host // lanes)
    )


def _make_fetcher(setup: Setup, config: FetchConfig) -> Fetcher:
    raise_limit()
    match setup.fetch:
        case "asyncio":
            from penstock.fetch.client import AsyncFetcher

            return AsyncFetcher(config)
        case "threads":
            from penstock.fetch.pool import ThreadFetcher

            return ThreadFetcher(config)
        case "worker":
            return NoFetcher(setup.workers)
