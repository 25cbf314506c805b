"""Which cluster a run uses, and how it is put to work there."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from penstock.config import RunConfig
from penstock.engines.base import Plan
from penstock.engines.driver import Cluster, run_on
from penstock.engines.lots import Lots
from penstock.engines.task import Task
from penstock.engines.work import Job, Summary, Watch
from penstock.errors import ConfigError, OutputError
from penstock.folder import STAGED
from penstock.image.work import Steps
from penstock.location import Location
from penstock.sink import objects
from penstock.sink.disk import remove, writing
from penstock.source import SourceSpec
from penstock.source.staged import StagedRow, StagedSpec, stage

__all__ = ["Choice", "ClusterEngine", "Dask", "Ray", "chosen", "cores_of"]


class Choice(Protocol):
    """A cluster that the user has chosen, not connected to yet."""

    @property
    def name(self) -> str:
        """As ``--engine`` has it."""
        ...

    def check(self, config: RunConfig) -> None:
        """See that the package is there and that the options go together with it.

        Raises:
            MissingExtraError: the message has the pip line.
            ConfigError: the engine has no use for an option.
        """
        ...

    def connect(self, config: RunConfig) -> Cluster:
        """Connect to it, or start it here.

        Raises:
            ConfigError: it is not there.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ray:
    """A Ray cluster: the one that this process is connected to already, or that of `address`.

    A task asks for as many CPUs as ``workers`` says (default: 1), and decodes with as many threads.

    Args:
        address: as `ray.init` takes it: ``auto`` for a cluster that must exist, ``ray://host:port``, ``host:port``; None for
            the one that ``RAY_ADDRESS`` names, or one that is started on this machine, and ended with the run.
    """

    address: str | None = None
    name: ClassVar[str] = "ray"

    def check(self, config: RunConfig) -> None:
        """See `Choice.check`."""
        import penstock.engines.ray  # noqa: F401, PLC0415 - only where it is chosen

        _refuse_lanes(config)

    def connect(self, config: RunConfig) -> Cluster:
        """See `Choice.connect`."""
        from penstock.engines.ray import RayCluster  # noqa: PLC0415 - only where it is chosen

        return RayCluster(self.address, cores=cores_of(config), per_host=config.per_host)


@dataclass(frozen=True, slots=True)
class Dask:
    """A Dask cluster.

    A task counts as one thread of its worker, and decodes with one.

    Args:
        cluster: a `distributed.Client`, a cluster (`LocalCluster`, `SLURMCluster`, `KubeCluster` …), a scheduler's address
            (``tcp://host:port``) or its ``.json`` file; None for the scheduler that Dask's configuration names
            (``DASK_SCHEDULER_ADDRESS``), or a `LocalCluster` that is started for the run and ended with it. What is given
            stays open.
    """

    cluster: Any = None
    name: ClassVar[str] = "dask"

    def check(self, config: RunConfig) -> None:
        """See `Choice.check`."""
        import penstock.engines.dask  # noqa: F401, PLC0415 - only where it is chosen

        _refuse_lanes(config)
        if cores_of(config) > 1:
            raise ConfigError(
                f"--workers {config.workers}: a task has one thread of a Dask worker; for more lanes give the workers more threads"
            )

    def connect(self, config: RunConfig) -> Cluster:
        """See `Choice.connect`."""
        from penstock.engines.dask import DaskCluster  # noqa: PLC0415 - only where it is chosen

        return DaskCluster(self.cluster, per_host=config.per_host)


def chosen(config: RunConfig) -> Choice | None:
    """What ``--engine`` and ``--address`` say; None for this machine."""
    match config.engine:
        case "local":
            return None
        case "ray":
            return Ray(config.address)
        case "dask":
            return Dask(config.address)


def _refuse_lanes(config: RunConfig) -> None:
    if config.lanes is not None:
        raise ConfigError(
            f"--lanes {config.lanes} is for this machine; a cluster has a lane for each task that it can run"
        )


def cores_of(config: RunConfig) -> int:
    """Cores of each task."""
    return config.workers or 1


class ClusterEngine:
    """A `penstock.engines.base.Engine` on somebody's cluster.

    Args:
        choice: which.
        steps: the user's own functions.
    """

    def __init__(self, choice: Choice, steps: Steps) -> None:
        self._choice = choice
        self._steps = steps
        self._stop_asked = False

    def stop(self) -> None:
        """Before there are lanes."""
        self._stop_asked = True

    def run(self, job: Job, plan: Plan, watch: Watch) -> Summary:
        """Do all the rows of the plan."""
        watch.started(self)
        try:
            source, shards = self._openable(plan, job)
            task = Task(
                lot="",
                first=0,
                stop=0,
                source=source,
                config=dataclasses.replace(job.config, engine="local", address=None),
                steps=self._steps,
                folder=str(job.folder.absolute()),
                run_id=job.run_id,
                cores=cores_of(job.config),
                kept_schema=job.kept_schema,
                parts=job.parts,
                owner=job.owner,
            )
            with contextlib.closing(self._choice.connect(job.config)) as cluster:
                return run_on(cluster, task, job.store(), Lots(shards, plan.committed, plan.shard_size), watch)
        finally:
            _remove_staged(job.folder)

    def _openable(self, plan: Plan, job: Job) -> tuple[SourceSpec | StagedSpec, range]:
        """How a worker opens the plan's rows, and which shards they make."""
        if plan.retry is None and plan.source.seekable:
            spec, count = plan.source.spec, plan.source.count
            assert spec is not None
            assert count is not None
            return spec, range(-(-count // plan.shard_size))
        staged_as = self._stage(plan, job)
        first = staged_as.first_shard
        return staged_as, range(first, first - (-staged_as.open().count // plan.shard_size))

    def _stage(self, plan: Plan, job: Job) -> StagedSpec:
        """Write the list down where the workers see it."""
        folder, rows = job.folder, map(self._unless_stopped, _staged_rows(plan))
        if isinstance(folder, Path):
            with writing(folder):
                return stage(rows, (folder / STAGED).absolute(), first_shard=plan.first_new)
        assert job.work_folder is not None
        with writing(job.work_folder):
            staged_as = stage(rows, job.work_folder / "list.parquet", first_shard=plan.first_new)
        with objects.storing(folder):
            objects.put([(Path(staged_as.path), STAGED)], folder)
        return dataclasses.replace(staged_as, path=str(folder / STAGED))

    def _unless_stopped(self, row: StagedRow) -> StagedRow:
        if self._stop_asked:
            raise KeyboardInterrupt
        return row


def _remove_staged(folder: Location) -> None:
    if isinstance(folder, Path):
        with writing(folder):
            remove(folder / STAGED)
    else:
        # What is left there is replaced by the next list; an error here would hide the one that ends the run.
        with contextlib.suppress(OutputError), objects.storing(folder):
            objects.remove([STAGED], folder)


def _staged_rows(plan: Plan) -> Iterator[StagedRow]:
    if plan.retry is not None:
        return ((placed.row, placed.earlier_reason) for placed in plan.retry)
    return ((row, None) for row in plan.source.rows())
