"""The work that every engine runs: some rows of a list, through one lane, into shards.

An engine decides where this is called and with which rows; there is one implementation of the work itself.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from penstock.build import Setup, build_lane
from penstock.config import RunConfig
from penstock.crew.base import Work
from penstock.engines.filling import Filling, Placed
from penstock.fetch.sharing import Sharing
from penstock.flow import LaneStatistics
from penstock.location import Location
from penstock.records import MAX_TRACEBACKS, Kind, Settled, ShardReport
from penstock.report.memory import resident_bytes
from penstock.scheduling import in_no_hurry
from penstock.sink.shards import ShardStore

__all__ = ["TICK", "Job", "Progress", "Stoppable", "Summary", "Watch", "do_work"]

TICK = 0.2
"""Seconds between two reports of progress."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a lane needs to know, whichever rows it gets. Picklable, and small."""

    config: RunConfig
    setup: Setup
    """Of all lanes."""
    folder: Location
    run_id: str
    work: Work
    kept_schema: Any
    """Arrow schema of the kept columns; None if the source does not know it."""
    parts: tuple[str, ...]
    """Names of the parts that every sample will have; empty if only a user's transform knows."""
    lane: int = 0
    """Which of the setup's lanes this is."""
    tick: float = TICK
    """Seconds between two reports of progress."""
    work_folder: Path | None = None
    """For what is not whole yet, where the output has no place for it; see `ShardStore`."""
    prepares: bool = False
    """On a cluster: shards that are whole are left for the driver to adopt."""
    owner: str = ""
    """Of the output, where that is a store; see `ShardStore`."""

    def store(self) -> ShardStore:
        """The folder's shards."""
        return ShardStore(
            self.folder,
            self.config,
            run_id=self.run_id,
            kept_schema=self.kept_schema,
            parts=self.parts,
            work_folder=self.work_folder,
            prepares=self.prepares,
            owner=self.owner,
        )


@dataclass(slots=True)
class Progress:
    """Rows settled so far, by outcome: small, cheap to copy and to add."""

    written: int = 0
    failed: int = 0
    skipped: int = 0
    bytes_downloaded: int = 0
    recovered: int = 0
    """Rows taken over from an interrupted run; they are in none of the other counters."""
    resident_bytes: int = 0
    """Memory of the lane's processes now."""
    reasons: Counter[str] = field(default_factory=Counter)
    tracebacks: dict[str, str] = field(default_factory=dict)
    """Of the user's own code, one for each kind of exception, and at most `MAX_TRACEBACKS`."""
    lanes: int | None = None
    """At work on a cluster's workers; None elsewhere."""

    @classmethod
    def of(cls, report: ShardReport) -> Progress:
        """What a shard counts for."""
        return cls(
            written=report.written,
            failed=report.failed,
            skipped=report.skipped,
            bytes_downloaded=report.size_downloaded,
            reasons=Counter(report.reasons),
        )

    def beyond(self, earlier: Progress) -> Progress:
        """What is more of it than of `earlier`, which may be a little ahead."""
        return Progress(
            max(0, self.written - earlier.written),
            max(0, self.failed - earlier.failed),
            max(0, self.skipped - earlier.skipped),
            max(0, self.bytes_downloaded - earlier.bytes_downloaded),
            self.recovered,
            self.resident_bytes,
            self.reasons - earlier.reasons,
            self.tracebacks,
        )

    @property
    def settled(self) -> int:
        """Rows that this run has settled."""
        return self.written + self.failed + self.skipped

    def plus(self, other: Progress) -> Progress:
        """Both together."""
        return Progress(
            self.written + other.written,
            self.failed + other.failed,
            self.skipped + other.skipped,
            self.bytes_downloaded + other.bytes_downloaded,
            self.recovered + other.recovered,
            self.resident_bytes + other.resident_bytes,
            self.reasons + other.reasons,
            dict(itertools.islice((self.tracebacks | other.tracebacks).items(), MAX_TRACEBACKS)),
            self.lanes if other.lanes is None else other.lanes,
        )

    def add(self, settled: Settled) -> None:
        """Count one row."""
        outcome = settled.outcome
        self.bytes_downloaded += outcome.size
        if outcome.trace is not None and len(self.tracebacks) < MAX_TRACEBACKS:
            self.tracebacks.setdefault(outcome.trace.kind, outcome.trace.text)
        if outcome.kind is Kind.WRITTEN:
            self.written += 1
            return
        if outcome.kind is Kind.FAILED:
            self.failed += 1
        else:
            self.skipped += 1
        if outcome.reason is not None:
            self.reasons[outcome.reason.value] += 1


@dataclass(frozen=True, slots=True)
class Summary:
    """What a lane has to say at its end."""

    progress: Progress
    statistics: LaneStatistics
    peak_resident_bytes: int
    complete: bool
    """Every row that it was given is settled and its shards are committed."""
    lanes: int = 0
    """On a cluster: the most that were at work at a time; 0 elsewhere."""

    def followed_by(self, later: Summary) -> Summary:
        """Both together; where the time went is taken from the one that settled more rows."""
        longer = max(self, later, key=lambda summary: summary.progress.settled)
        return Summary(
            self.progress.plus(later.progress),
            longer.statistics,
            max(self.peak_resident_bytes, later.peak_resident_bytes),
            self.complete and later.complete,
            max(self.lanes, later.lanes),
        )


class Stoppable(Protocol):
    """Something at work that can be ended early."""

    def stop(self) -> None:
        """Take no more rows. Safe in a signal handler."""
        ...


class Watch:
    """How the caller of `do_work` looks on, and stops it. Subclass what is of interest."""

    def shard_done(self, report: ShardReport) -> None:
        """A shard has its final names; when this returns it counts as committed. Called on the committer's thread."""

    def shards_done(self, reports: Sequence[ShardReport]) -> None:
        """The same of several shards at a time."""
        for report in reports:
            self.shard_done(report)

    def progressed(self, progress: Progress, statistics: LaneStatistics) -> None:
        """Called a few times a second and at the end, on the hub's thread."""

    def started(self, lane: Stoppable) -> None:
        """Called once before the first row."""


def do_work(
    job: Job,
    placed: Iterator[Placed],
    watch: Watch,
    *,
    committed: Mapping[int, str],
    check_digests: bool = False,
    sharing: Sharing | None = None,
) -> Summary:
    """Settle these rows and commit their shards.

    *Cancellation*: `Lane.stop` settles what is past the network, commits what is whole and returns with
    ``complete=False``; an exception (KeyboardInterrupt too) stops at once. Either way the rows that are settled stay
    in their spools, and a later call with the same rows takes them over.

    Raises:
        OutputError: the disk refuses.
        WorkerError: the crew cannot work at all.
        AccountError: a row was lost or settled twice.
    """
    progress = Progress()
    peak = 0
    due = 0.0

    def tick() -> LaneStatistics:
        nonlocal peak
        statistics = lane.statistics()
        progress.recovered = filling.recovered
        progress.resident_bytes = resident_bytes(statistics.crew.pids)
        peak = max(peak, progress.resident_bytes)
        watch.progressed(progress, statistics)
        return statistics

    with contextlib.ExitStack() as stack:
        stack.enter_context(in_no_hurry())
        filling = stack.enter_context(
            Filling(
                job.store(),
                committed=committed,
                announce=watch.shard_done,
                check_digests=check_digests,
            )
        )
        lane = stack.enter_context(build_lane(job.setup, job.config, job.work, lane=job.lane, sharing=sharing))
        watch.started(lane)
        for settled in lane.settle(filling.feed(placed)):
            progress.add(filling.add(settled))
            first_image = settled.sample is not None and progress.written == 1
            if first_image or time.monotonic() >= due:  # the first image is somebody's wait: reported at once
                due = time.monotonic() + job.tick
                tick()
        statistics = tick()
        lane.close()
        if lane.stopped:
            filling.commit_whole()
        else:
            filling.finish()
    return Summary(progress, statistics, peak, complete=not lane.stopped)
