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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from penstock.config import FetchConfig, ImageConfig, RunConfig, StreamConfig, available_cores
from penstock.crew.arena import Landing
from penstock.crew.base import Work
from penstock.crew.choose import gil_enabled, make_crew, processes_possible
from penstock.errors import ConfigError
from penstock.fetch.base import Fetcher
from penstock.fetch.budget import ByteBudget
from penstock.fetch.deferred import DeferredFetcher
from penstock.fetch.descriptors import raise_limit
from penstock.fetch.none import NoFetcher
from penstock.fetch.policy.robots import LONGEST_DELAY
from penstock.fetch.policy.urls import UrlRules
from penstock.fetch.sharing import Sharing
from penstock.flow import Lane
from penstock.image.parts_work import PartsWork
from penstock.image.work import ImageTransformWork, ImageWork, InitializedWork, Steps, TransformWork
from penstock.parts import Part, request_names, sampled

__all__ = ["Setup", "build_lane", "build_work", "check_fetchable", "choose", "worker_memory"]

CORES_PER_LANE = 6
"""One event loop and one hub fill a core at about this many decoders (0.5 ms against 4 ms a row)."""

LOOKAHEAD = 4
"""Rows inside the fetcher for each connection: those in flight, and those waiting for their host's turn."""

BUDGET_SHARE = 8
"""Of ``--memory``, one part in eight for compressed bytes and one for results, so that at the defaults the whole
process tree, interpreters and decoders included, stays below 600 MB."""

BYTES_PER_PIXEL = 20
"""What decoding takes of memory at most: measured for a WebP with transparency; other kinds take 4 to 16."""

MEMORY_BESIDES = 2**29
"""Bytes for all that does not grow with the image: modules that are loaded late, metadata, what malloc keeps."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How the flow is set: what a strategy means on this machine."""

    fetch: Literal["asyncio", "threads", "worker"]
    crew: Literal["processes", "threads"]
    workers: int
    """Decoders, over all lanes."""
    lanes: int

    def workers_of(self, lane: int) -> int:
        """Decoders of one lane; the first lanes take what cannot be divided."""
        return self.workers // self.lanes + (lane < self.workers % self.lanes)


def choose(
    config: RunConfig | StreamConfig,
    *,
    cores: int | None = None,
    splittable: bool = True,
    isolated: bool | None = None,
) -> Setup:
    """What this strategy means here.

    Where processes are impossible, threads stand in for them. ``auto`` takes worker processes, since isolation costs
    nothing, unless the interpreter has no GIL, where threads are simply better; and more lanes where one event loop would
    be full. There are never more lanes than workers, nor more than connections.

    Args:
        config: the options.
        cores: cores to use; default: those this process may use.
        splittable: the source can be read by several lanes.
        isolated: worker processes are allowed; default: where this process may start any.
    """
    workers = config.workers or cores or available_cores()
    lanes = config.lanes or (math.ceil(workers / CORES_PER_LANE) if config.strategy == "auto" else 1)
    lanes = min(lanes, workers, config.connections) if splittable else 1
    isolated = processes_possible() if isolated is None else isolated
    match config.strategy:
        case "processes" if isolated:
            return Setup("worker", "processes", workers, lanes)
        case "threads" | "processes":
            return Setup("threads", "threads", workers, lanes)
        case "hybrid":
            return Setup("threads", "processes" if isolated else "threads", workers, lanes)
        case "asyncio":
            return Setup("asyncio", "processes" if isolated else "threads", workers, lanes)
        case "auto":
            return Setup("asyncio", "processes" if isolated and gil_enabled() else "threads", workers, lanes)


def check_fetchable(config: FetchConfig) -> None:
    """See that the options of fetching make sense together with this machine, before anything is begun.

    Raises:
        MissingExtraError: a package is missing; the message has the pip line.
        ConfigError: a scheme of ``--allow-scheme`` is none of a storage, or ``--deny-hosts`` names what is no host.
    """
    UrlRules.of(config)
    if config.allow_scheme:
        from penstock.fetch.storage import check_schemes

        check_schemes(config.allow_scheme)
    if config.dns is not None:
        from penstock.fetch.name_server import NameServer

        NameServer(config.dns)


def build_work(config: RunConfig | StreamConfig, steps: Steps, *, as_array: bool) -> Work:
    """What is done with each row: decode and resize, the user's transform, or both.

    Args:
        config: the options.
        steps: the user's functions.
        as_array: images are wanted as arrays, not as files.

    Raises:
        ConfigError: the options and the functions exclude each other.
    """
    if config.parts is None:
        work = _row_work(config.part(ImageConfig), steps, as_array=as_array)
    else:
        work = _parts_work(config, config.parts, steps, as_array=as_array)
    return work if steps.initializer is None else InitializedWork(work, steps.initializer)


def _parts_work(
    config: RunConfig | StreamConfig, parts: Mapping[str, Part], steps: Steps, *, as_array: bool
) -> PartsWork:
    if steps.transform is not None:
        raise ConfigError("transform gets the bytes of rows of one image; with parts, give transform_image")
    endings = False
    if isinstance(config, RunConfig):
        parts = sampled(parts, config.format)
        endings = config.format in ("webdataset", "files")
    return PartsWork(parts, config.part(ImageConfig), as_array, steps.transform_image, endings=endings)


def _row_work(config: ImageConfig, steps: Steps, *, as_array: bool) -> Work:
    if steps.transform is not None:
        return TransformWork(steps.transform)
    if steps.transform_image is not None:
        return ImageTransformWork(config, steps.transform_image, as_array=as_array)
    return ImageWork(config, as_array=as_array)


def worker_memory(config: RunConfig | StreamConfig, work: Work) -> int | None:
    """Bytes that a worker process may take: what the user says, else what an image within the limits can need.

    A user's own functions have no bound by themselves: what they need is their own, and libraries such as torch reserve
    far more address space than they ever use.
    """
    bounded = isinstance(work, ImageWork) or (isinstance(work, PartsWork) and work.transform_image is None)
    if config.worker_memory is not None or not bounded:
        return config.worker_memory
    pixels = config.max_pixels + config.size**2
    requests = len(request_names(config.parts)) if config.parts else 1
    return BYTES_PER_PIXEL * pixels + 2 * config.max_bytes * requests + MEMORY_BESIDES


def build_lane(
    setup: Setup,
    config: RunConfig | StreamConfig,
    work: Work,
    *,
    lane: int = 0,
    landing: Landing | None = None,
    fetcher: Fetcher | None = None,
    sharing: Sharing | None = None,
) -> Lane:
    """Wire one of the setup's lanes; nothing is started until it is entered.

    Args:
        setup: how wide.
        config: the options.
        work: what is done with each row.
        lane: which of the setup's lanes.
        landing: by which workers write arrays where they are wanted.
        fetcher: what brings the bytes, if it is not the network.
        sharing: of the limit at each host with the other lanes; without it each lane has its part of the limit.
    """
    fetch_config = _fetch_share(config.part(FetchConfig), setup.lanes, shared=sharing is not None)
    memory = config.memory // setup.lanes // BUDGET_SHARE
    workers = setup.workers_of(lane)
    deadline = config.decode_timeout
    bound = worker_memory(config, work)
    if setup.fetch == "worker" and fetcher is None:
        from penstock.crew.fetching import FetchingWork

        work = FetchingWork(fetch_config, work)
        # What `Dispatch` allows a row that is alone; what may begin right before its end, at robots.txt; a last rest.
        deadline += 2 * fetch_config.row_timeout + 3 * fetch_config.timeout + LONGEST_DELAY
    poison = None if config.keep_poison is None else Path(config.keep_poison)
    crew = make_crew(setup.crew, work, workers, deadline, memory=bound, keep_poison=poison, landing=landing)
    if fetcher is None:
        fetcher = NoFetcher(workers) if setup.fetch == "worker" else _make_fetcher(setup.fetch, fetch_config, sharing)
    return Lane(fetcher, crew, lookahead=LOOKAHEAD * fetcher.width, budget=ByteBudget(memory), result_bytes=memory)


def _fetch_share(config: FetchConfig, lanes: int, *, shared: bool) -> FetchConfig:
    """One lane's part of the connections; together the lanes keep to the limits that the user gave.

    Args:
        config: the options.
        lanes: how many there are.
        shared: a coordinator hands out host slots, of which a lane may get all.
    """
    per_host = config.per_host if shared else max(1, config.per_host // lanes)
    return dataclasses.replace(config, connections=config.connections // lanes, per_host=per_host)


def _make_fetcher(kind: Literal["asyncio", "threads"], config: FetchConfig, sharing: Sharing | None) -> Fetcher:
    raise_limit()
    if kind == "asyncio":
        return DeferredFetcher(config.connections, partial(_make_async_fetcher, config, sharing))
    from penstock.fetch.pool import ThreadFetcher

    return ThreadFetcher(config, sharing=sharing)


def _make_async_fetcher(config: FetchConfig, sharing: Sharing | None) -> Fetcher:
    from penstock.fetch.client import AsyncFetcher

    return AsyncFetcher(config, sharing=sharing)
