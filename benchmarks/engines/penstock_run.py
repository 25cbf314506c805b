"""`penstock.run` on this machine, on Ray and on Dask, with the same options."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import penstock
from engines.job import CONNECTIONS, SHARD, SIZE, WARM_ROWS, Course, Figures, Job, Run
from penstock.engines import Dask, Ray
from penstock.engines.work import Progress
from penstock.flow import LaneStatistics

OPTIONS: dict[str, Any] = {
    "size": SIZE,
    "shard_size": SHARD,
    "connections": CONNECTIONS,
    "per_host": CONNECTIONS,
    "allow_network": ("127.0.0.0/8",),
}


@contextmanager
def local(job: Job) -> Iterator[Run]:
    """One lane with a decoder process for each core: what ``auto`` takes."""
    yield lambda: shards(job)


@contextmanager
def lanes(job: Job) -> Iterator[Run]:
    """A lane for each core, as a cluster has them, but each with its decoder in a process of its own."""
    yield lambda: shards(job, lanes=job.cores)


@contextmanager
def on_ray(job: Job) -> Iterator[Run]:
    """On a cluster of this machine's cores."""
    from engines.ray_data import cluster  # noqa: PLC0415 - Ray takes a second to import

    with cluster(job):
        warm(job, engine=Ray())
        yield lambda: shards(job, engine=Ray())


@contextmanager
def on_dask(job: Job) -> Iterator[Run]:
    """On a `LocalCluster` with a worker of one thread for each core."""
    import distributed  # noqa: PLC0415 - as Ray

    with (
        distributed.LocalCluster(
            n_workers=job.cores, threads_per_worker=1, dashboard_address=None, silence_logs=logging.ERROR
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        warm(job, engine=Dask(client))
        yield lambda: shards(job, engine=Dask(client))


def shards(job: Job, **options: Any) -> Figures:
    """The run that is measured."""
    course = Course(job.rows)

    def progressed(progress: Progress, statistics: LaneStatistics) -> None:
        course.done(progress.settled)

    report = penstock.run(job.listing, job.folder / "out", on_progress=progressed, **OPTIONS, **options)
    assert report.written == job.rows, report.reasons
    return course.figures()


def warm(job: Job, **options: Any) -> None:
    """A run of many small shards into another folder, so that every worker gets some."""
    penstock.run(job.warm, job.folder / "warm", **OPTIONS | {"shard_size": WARM_ROWS // (8 * job.cores)}, **options)
