"""A task of a cluster: a lot of shards, made by one lane inside a worker that belongs to somebody else.

The shards are prepared in the output, which all nodes see, and adopted by the driver; the spools of open shards are private,
on the worker's own disk.
"""

from __future__ import annotations

import dataclasses
import pickle
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.build import Setup, build_work, choose
from penstock.config import RunConfig
from penstock.crew.allocator import keep_freed_memory
from penstock.crew.choose import processes_possible
from penstock.engines.base import Plan
from penstock.engines.caller import Caller, Line
from penstock.engines.filling import Placed
from penstock.engines.messages import Broken
from penstock.engines.work import Job, Summary, do_work
from penstock.errors import ConfigError, PenstockError, WorkerError
from penstock.fetch.sharing import Sharing
from penstock.folder import check_same_run
from penstock.image.work import Steps
from penstock.location import location_of
from penstock.records import ShardReport
from penstock.sink import objects
from penstock.sink.private import private_folder
from penstock.source import Source, SourceSpec
from penstock.source.staged import StagedList, StagedSpec

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["Finished", "Task", "lane_setup", "pickled_task", "run_task", "serve_task"]


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is told: less than a kilobyte, whatever the length of the list."""

    lot: str
    """Names the task within its run."""
    first: int
    """The first shard."""
    stop: int
    """The shard after the last."""
    source: SourceSpec | StagedSpec
    config: RunConfig
    steps: Steps
    folder: str
    """The output: a path that all nodes see, or the URL of a store."""
    run_id: str
    cores: int
    """Of the worker, that the task has for itself."""
    kept_schema: Any
    parts: tuple[str, ...]
    owner: str = ""
    """Of the output, where that is a store; see `penstock.sink.shards.ShardStore`."""
    isolated: bool = False
    """Workers have died over this shard: decode in processes, if that is allowed, so that only the row dies."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a task."""

    summary: Summary
    reports: tuple[ShardReport, ...]
    """All shards that it has prepared."""


def run_task(task: Task, line: Line) -> Finished | Broken:
    """Make the task's shards. What only the driver can judge comes back as a value, with the name of this machine.

    *Cancellation*: the hub may tell the lane to stop; then the summary is not complete. A worker that is killed leaves
    nothing but names that the run sweeps.
    """
    try:
        return _run(task, line)
    except PenstockError as error:
        return Broken(_named(error))
    except ConnectionError as error:
        return Broken(_named(WorkerError(f"the run's coordinator does not answer: {error}")))
    except Exception as error:  # noqa: BLE001 - whatever it is: engines would wrap it in something unreadable
        return Broken(_named(WorkerError(f"a task failed: {error!r}; please report this with your command")))


def _named(error: PenstockError) -> PenstockError:
    return type(error)(f"on {platform.node()}: {error}")


def _run(task: Task, line: Line) -> Finished:
    _limit_native_pools(task.cores)
    keep_freed_memory()
    folder = location_of(task.folder)
    check_same_run(folder, task.run_id)
    setup = lane_setup(task.config, task.cores, isolated=task.isolated)
    sharing = Sharing(task.config.per_host)
    config = dataclasses.replace(task.config, workers=task.cores, lanes=None)
    with private_folder() as work, Caller(line, task.lot, sharing) as caller:
        job = Job(
            config=config,
            setup=setup,
            folder=folder,
            run_id=task.run_id,
            work=build_work(config, task.steps, as_array=config.format == "arrays"),
            kept_schema=task.kept_schema,
            parts=task.parts,
            work_folder=work,
            prepares=True,
            owner=task.owner,
        )
        done = dict.fromkeys(caller.done, "")
        placed = _placed(task) if isinstance(folder, Path) else _placed_from(folder, task)
        summary = do_work(job, placed, caller, committed=done, sharing=sharing)
    return Finished(summary, tuple(caller.reports))


_opened = threading.local()
"""The list that this thread has opened last, so that not every task has to look at all its files anew."""


def _placed(task: Task) -> Iterator[Placed]:
    """The task's rows."""
    if getattr(_opened, "key", None) != (task.run_id, task.source):
        _opened.list, _opened.key = task.source.open(), (task.run_id, task.source)
    opened: Source | StagedList = _opened.list
    size = task.config.shard_size
    if isinstance(opened, StagedList):
        return _staged(opened, (task.first - opened.first_shard) * size, (task.stop - opened.first_shard) * size, size)
    return Plan(opened, size, {}).placed(task.first * size, task.stop * size)


def _placed_from(root: UPath, task: Task) -> Iterator[Placed]:
    """The same, where the list may have been written down in a store."""
    with objects.storing(root, "read the list in"):
        yield from _placed(task)


def _staged(opened: StagedList, start: int, stop: int, size: int) -> Iterator[Placed]:
    for position, (row, earlier_reason) in enumerate(opened.rows(start, stop), start):
        yield Placed(opened.first_shard + position // size, row, earlier_reason)


def lane_setup(config: RunConfig, cores: int, *, isolated: bool = False) -> Setup:
    """How a lane works in a worker of a cluster: with threads, since the engine knows nothing of processes of ours.

    Args:
        config: the options.
        cores: that the lane has.
        isolated: decode in processes all the same, where that is allowed.
    """
    setup = choose(dataclasses.replace(config, workers=cores), splittable=False, isolated=False)
    return dataclasses.replace(setup, crew="processes") if isolated and processes_possible() else setup


def _limit_native_pools(cores: int) -> None:
    """Have the native libraries that are loaded use no more threads than the task has cores."""
    import pyarrow as pa  # noqa: PLC0415 - beside the others

    pa.set_cpu_count(cores)
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(cores)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(cores)


def pickled_task(task: Task, dumps: Callable[[Any], bytes]) -> bytes:
    """A task for its way to a worker.

    Args:
        task: what is to be done.
        dumps: a pickler that takes functions of scripts and notebooks by value.

    Raises:
        ConfigError: the user's functions hold something that cannot be sent.
    """
    try:
        return dumps(task)
    except Exception as error:
        raise ConfigError(f"the transform cannot be sent to the workers: {error}") from error


def serve_task(pickled: bytes, line: Line) -> bytes:
    """What an engine calls on its worker: `run_task`, from pickle to pickle."""
    try:
        task: Task = pickle.loads(pickled)  # noqa: S301 - by our own driver
    except Exception as error:  # noqa: BLE001 - whatever the user's modules raise
        cannot = f"cannot load the transform: {error!r}; its modules have to be on every node"
        return pickle.dumps(Broken(_named(WorkerError(cannot))))
    return pickle.dumps(run_task(task, line))
