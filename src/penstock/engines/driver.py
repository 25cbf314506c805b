"""The driver's side of a run on a cluster, whichever engine runs it.

::

    Lots ──Task──▶ Cluster.submit ─ ─ ▶ workers ─ ─ ▶ Cluster.ended ──Finished│Broken│Lost──┐
                                          │ hub                                             ▼
                                          └─ ─ ─ ─ ─▶ Cluster.drain ──reports──▶ adopt, journal, progress

A shard is adopted the first time that somebody says it is prepared, and discarded each further time. So it does not matter
how often an engine runs a task, nor whether the worker that has fallen silent is dead.
"""

from __future__ import annotations

import dataclasses
import logging
import time
import uuid
from collections.abc import Collection, Iterable
from typing import Protocol

from penstock.crew.base import CrewStatistics
from penstock.engines.hub import LaneNews, News
from penstock.engines.lots import Lot, Lots
from penstock.engines.messages import Broken, Lost
from penstock.engines.task import Finished, Task
from penstock.engines.work import Progress, Summary, Watch
from penstock.errors import AccountError, WorkerError
from penstock.fetch.base import FetchStatistics
from penstock.flow import LaneStatistics
from penstock.records import ShardReport
from penstock.report.memory import resident_bytes
from penstock.sink.shards import ShardStore

__all__ = ["Cluster", "Ending", "run_on"]

_logger = logging.getLogger("penstock")

AHEAD = 2
"""Tasks in the cluster's hands for each that it can run: so no worker waits for the driver, and an autoscaler sees that
there is more to do."""

ISOLATED_AFTER = 3
"""Deaths over a shard after which its rows are decoded in processes of their own, if the engine allows it."""

MAX_DEATHS = 6
"""Deaths over a shard after which the run is given up."""

PAUSE = 0.25
"""Seconds between two looks at the cluster."""

LONELY = 30.0
"""Seconds without any worker after which the log says so."""

Ending = Finished | Broken | Lost
"""How a task comes to an end."""


class Cluster(Protocol):
    """What an engine has to offer. Used by one thread."""

    def slots(self) -> int:
        """Tasks that can run now; 0 while there is no worker."""
        ...

    def submit(self, task: Task) -> None:
        """Have some worker run it."""
        ...

    def ended(self, timeout: float) -> list[tuple[str, Ending]]:
        """Tasks that have ended since, by lot; waits up to `timeout` seconds for the first. Nothing of them is kept."""
        ...

    def drain(self, ended: Collection[str]) -> News:
        """Ask the hub.

        Raises:
            WorkerError: it is gone.
        """
        ...

    def stop(self) -> None:
        """Have the hub tell all lanes to stop."""
        ...

    def close(self) -> None:
        """Cancel what still runs, and leave the cluster as it was."""
        ...


def run_on(
    cluster: Cluster,
    prototype: Task,
    store: ShardStore,
    lots: Lots,
    watch: Watch,
) -> Summary:
    """Have a cluster make shards, and adopt them.

    Args:
        cluster: the engine's.
        prototype: the task, but for the lot.
        store: the run's folder.
        lots: of the shards that are to be made.
        watch: is told of every shard that was adopted.

    Raises:
        WorkerError: the cluster does not work, or workers keep dying over one shard.
        PenstockError: whatever a lane raised.
    """
    driver = _Driver(cluster, prototype, store, lots, watch)
    watch.started(driver)
    return driver.run()


class _Driver:
    def __init__(self, cluster: Cluster, prototype: Task, store: ShardStore, lots: Lots, watch: Watch) -> None:
        self._cluster, self._prototype, self._store, self._watch = cluster, prototype, store, watch
        self._lots = lots
        self._open: dict[str, tuple[Lot, set[int]]] = {}
        """Lots in the cluster's hands, with their shards that are not adopted."""
        self._missing: dict[int, set[int]] = {}
        """The same by shard."""
        self._attempts: dict[int, str] = {}
        """What was adopted of the lots in the cluster's hands: their results tell of it once more."""
        self._silent: set[str] = set()
        """Those of which no lane was heard."""
        self._ended: list[str] = []
        """Lots of which the hub has to hear that they have ended."""
        self._lanes: dict[str, LaneNews] = {}
        self._adopted_of: dict[str, Progress] = {}
        """What each lane had adopted of its shards."""
        self._done = Progress()
        """All that was adopted."""
        self._statistics: LaneStatistics | None = None
        """Of lanes that have ended."""
        self._peak = self._most_lanes = 0
        self._stop_asked = self._stop_told = False
        self._lonely_since: float | None = None

    def stop(self) -> None:
        """Let the lanes end. Safe in a signal handler."""
        self._stop_asked = True

    def run(self) -> Summary:
        more = True
        while more or self._open:
            more = not self._stop_asked and self._submit()
            ended = self._cluster.ended(PAUSE)
            news = self._drain()
            # The hub first: it knows the lanes of what has ended.
            self._take([*news.reports, *((lot, report) for lot, end in ended for report in _reports_of(end))])
            for lot, end in ended:
                self._end(lot, end)
            if self._stop_asked and not self._stop_told:
                self._tell_to_stop()
            self._report()
        return self._summary()

    def _submit(self) -> bool:
        """Fill the window; whether there may be more to do later on."""
        slots = self._cluster.slots()
        self._mind_loneliness(slots)
        while len(self._open) < max(1, AHEAD * slots):
            lot = self._lots.next(slots)
            if lot is None:
                return False
            name = uuid.uuid4().hex[:16]
            missing = set(range(lot.first, lot.stop))
            self._open[name] = lot, missing
            self._missing |= dict.fromkeys(missing, missing)
            self._silent.add(name)
            isolated = lot.deaths >= ISOLATED_AFTER
            self._cluster.submit(
                dataclasses.replace(self._prototype, lot=name, first=lot.first, stop=lot.stop, isolated=isolated)
            )
        return True

    def _mind_loneliness(self, slots: int) -> None:
        now = time.monotonic()
        if slots:
            self._lonely_since = None
        elif self._lonely_since is None:
            self._lonely_since = now
        elif now - self._lonely_since > LONELY:
            _logger.warning("the cluster has had no worker for this run for %.0f s; it goes on when one comes", LONELY)
            self._lonely_since = now

    def _drain(self) -> News:
        ended, self._ended = self._ended, []
        news = self._cluster.drain(ended)
        self._silent.difference_update(news.spoken)
        self._lanes |= {lane: said for lane, said in news.lanes.items() if said.lot in self._open}
        return news

    def _take(self, prepared: Iterable[tuple[str, ShardReport]]) -> None:
        """Adopt what is new of it, in one go."""
        wanted: dict[int, tuple[str, ShardReport]] = {}
        for lane, report in prepared:
            if self._attempts.get(report.shard) == report.attempt:
                continue
            first = wanted.setdefault(report.shard, (lane, report)) if report.shard in self._missing else None
            if first is None or first[1].attempt != report.attempt:
                self._store.discard(report)  # another attempt was adopted
        if not wanted:
            return
        attempts = {shard: report.attempt for shard, (_, report) in wanted.items()}
        adopted = self._store.adopt([report for _, report in wanted.values()])
        self._watch.shards_done(adopted)
        for (lane, _), report in zip(wanted.values(), adopted, strict=True):
            self._missing.pop(report.shard).discard(report.shard)
            self._attempts[report.shard] = attempts[report.shard]
            progress = Progress.of(report)
            self._done = self._done.plus(progress)
            self._adopted_of[lane] = self._adopted_of.get(lane, Progress()).plus(progress)

    def _end(self, name: str, end: Ending) -> None:
        if name not in self._open:
            return
        lot, missing = self._open.pop(name)
        self._silent.discard(name)
        self._ended.append(name)
        self._adopted_of.pop(name, None)
        for shard in range(lot.first, lot.stop):
            self._missing.pop(shard, None)
            self._attempts.pop(shard, None)
        for lane in [lane for lane, said in self._lanes.items() if said.lot == name]:
            del self._lanes[lane]
            self._adopted_of.pop(lane, None)
        match end:
            case Broken(error):
                raise error
            case Finished(summary, _):
                self._statistics = _together(self._statistics, summary.statistics)
                self._keep_traces(summary.progress)
                if summary.complete and missing:
                    raise AccountError(f"shards {sorted(missing)[:3]} were never prepared; please report this")
            case Lost(why):
                self._lose(lot, sorted(missing), why)

    def _keep_traces(self, progress: Progress) -> None:
        self._done = self._done.plus(Progress(tracebacks=progress.tracebacks))

    def _lose(self, lot: Lot, missing: list[int], why: str) -> None:
        if not missing or self._stop_asked:
            return
        deaths = lot.deaths + 1
        _logger.warning("a worker was lost (%s); %d shards of it are made again", why, len(missing))
        if deaths >= MAX_DEATHS:
            raise WorkerError(
                f"{deaths} workers were lost over shard {missing[0]:05d}, the last one: {why}; give the workers more memory, "
                "lower --memory or --max-pixels, or run this part with --engine local"
            )
        self._lots.give_back(lot, missing)

    def _tell_to_stop(self) -> None:
        """Lanes at work end by themselves; what no lane has begun is forgotten."""
        self._stop_told = True
        self._cluster.stop()
        for name in self._silent:
            _, missing = self._open.pop(name)
            for shard in missing:
                self._missing.pop(shard, None)
            self._ended.append(name)
        self._silent.clear()

    def _report(self) -> None:
        progress = self._progress()
        self._peak = max(self._peak, progress.resident_bytes)
        self._most_lanes = max(self._most_lanes, self._at_work)
        statistics = [said.statistics for said in self._lanes.values()]
        if statistics:
            self._watch.progressed(progress, LaneStatistics.average(statistics))
        elif self._statistics is not None:
            self._watch.progressed(progress, self._statistics)

    @property
    def _at_work(self) -> int:
        return len(self._open) - len(self._silent)

    def _progress(self) -> Progress:
        progress = self._done.plus(Progress(resident_bytes=resident_bytes()))
        for lane, said in self._lanes.items():
            progress = progress.plus(said.progress.beyond(self._adopted_of.get(lane, Progress())))
        progress.lanes = self._at_work
        return progress

    def _summary(self) -> Summary:
        statistics = self._statistics or NOTHING_DONE
        return Summary(self._progress(), statistics, self._peak, not self._stop_asked, self._most_lanes)


def _reports_of(end: Ending) -> tuple[ShardReport, ...]:
    return end.reports if isinstance(end, Finished) else ()


def _together(earlier: LaneStatistics | None, later: LaneStatistics) -> LaneStatistics:
    """Of lanes that have ended: shares are means over their time, the rest is summed."""
    if earlier is None:
        return later
    seconds = earlier.seconds + later.seconds

    def mean(name: str) -> float:
        first, second = getattr(earlier, name), getattr(later, name)
        return float((first * earlier.seconds + second * later.seconds) / seconds) if seconds else 0.0

    both = LaneStatistics.average([earlier, later])
    return dataclasses.replace(
        both,
        seconds=seconds,
        crew_busy=mean("crew_busy"),
        crew_waiting=mean("crew_waiting"),
        consumer=mean("consumer"),
        source=mean("source"),
        fetching=mean("fetching"),
        fetch=dataclasses.replace(both.fetch, trouble=""),
    )


NOTHING_DONE = LaneStatistics(
    seconds=0.0,
    crew_busy=0.0,
    crew_waiting=0.0,
    consumer=0.0,
    source=0.0,
    fetching=0.0,
    capacity_seconds=0.0,
    consumer_seconds=0.0,
    download_seconds=0.0,
    fetch=FetchStatistics(),
    crew=CrewStatistics(),
)
"""Of a run that was stopped before any lane had begun."""
