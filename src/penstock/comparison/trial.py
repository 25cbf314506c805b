"""One strategy, run once over the rows and measured from inside: what a child process of the comparison does."""

from __future__ import annotations

import dataclasses
import io
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.comparison.results import Trial
from penstock.comparison.timeline import Reading, shares_at_work, timeline
from penstock.config import RunConfig
from penstock.engines.work import Progress
from penstock.flow import LaneStatistics
from penstock.folder import read_ledger
from penstock.image.work import Steps, Transform
from penstock.report.failures import FailedRow, read_failures
from penstock.report.report import Report
from penstock.runner import Run

__all__ = ["Measured", "Task", "cpu_seconds", "run_trial"]

TICK = 0.05
"""Seconds between two readings: fine enough for a plot, too rare to be felt (one costs 0.1 ms)."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to measure. Picklable."""

    rows: Path
    """The list, as JSON lines."""
    folder: Path
    """Where the output goes: new, and deleted by who made this task."""
    config: RunConfig
    transform: Transform | None


@dataclass(frozen=True, slots=True)
class Measured:
    """A trial, and the rows that it could not turn into images."""

    trial: Trial
    failed: tuple[FailedRow, ...]


def run_trial(task: Task) -> Measured:
    """A whole run as ``penstock run`` does it, measured.

    Raises:
        PenstockError: whatever the run raises.
    """
    _load_libraries()
    watch = _Stopwatch()
    own, children = cpu_seconds()
    run = Run(task.rows, task.folder, config=task.config, steps=Steps(task.transform), tick=TICK)
    report = run.execute(watch.look)
    wall = watch.elapsed()
    own_now, children_now = cpu_seconds()
    own_used = own_now - own
    trial = _trial(report, watch, wall, (own_used, own_used + children_now - children))
    return Measured(trial, tuple(read_failures(task.folder, read_ledger(task.folder).shards)))


def _load_libraries() -> None:
    """What every process loads once, when its first shard is committed: on a few rows it would count for much."""
    pq.write_table(pa.table({"key": ["0"]}), io.BytesIO())


def cpu_seconds() -> tuple[float, float]:
    """User and system seconds of this process, and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


class _Stopwatch:
    """Takes readings of a run; its time begins when it is made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._lane_began = float("inf")
        self._looks: list[LaneStatistics] = []
        self.first_image: float | None = None

    def elapsed(self) -> float:
        return time.perf_counter() - self._started

    def look(self, progress: Progress, statistics: LaneStatistics) -> None:
        now = self.elapsed()
        if progress.written and self.first_image is None:
            self.first_image = now
        # A look may come later than the statistics were made (a thread waits for the GIL), never sooner.
        self._lane_began = min(self._lane_began, now - statistics.seconds)
        self._looks.append(statistics)

    def readings(self) -> list[Reading]:
        """In order of the time at which the statistics were made."""
        return [
            Reading(
                self._lane_began + statistics.seconds,
                busy=statistics.crew.busy_seconds,
                occupied=statistics.crew.occupied_seconds,
                capacity=statistics.capacity_seconds,
                inside=statistics.download_seconds,
                consumer=statistics.consumer_seconds,
            )
            for statistics in self._looks
        ]


def _trial(report: Report, watch: _Stopwatch, wall: float, cpu: tuple[float, float]) -> Trial:
    readings = watch.readings()
    downloads = readings[-1].inside
    if report.fetch != "worker":
        readings = [dataclasses.replace(reading, inside=0.0) for reading in readings]  # no business of the workers
    return Trial(
        rows=report.rows,
        written=report.written,
        wall=wall,
        first_image=watch.first_image,
        cpu_seconds=cpu[1],
        own_cpu_seconds=cpu[0],
        peak_bytes=report.peak_rss_bytes,
        busy=report.stages["crew_busy"],
        workers=report.workers,
        shares=shares_at_work(readings, workers=report.workers, wall=wall, lanes=report.lanes),
        timeline=timeline(readings, workers=report.workers, wall=wall, lanes=report.lanes),
        consumer=report.stages["consumer"],
        fetching=report.stages["connections"] * report.connections,
        in_flight=downloads / wall,
        fetch=report.fetch,
        crew=report.crew,
        lanes=report.lanes,
    )
