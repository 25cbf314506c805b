"""Several lanes on this machine, each in a process of its own.

::

    parent                                      lane process (`penstock.engines.lane`)
    ──────                                      ──────────────────────────────────────
    Start(job, source, committed)        ──▶    opens the list for itself
    Lot(first, stop) | None              ◀─▶    Want(ended): asks when it has fed its last lot
    Committed(shard)                     ◀─▶    Shard(report): waits for the journal's line
    Reply(limits)                        ◀─▶    Word(needs): asks for host slots (`penstock.engines.caller`)
    Stop()                               ──▶    stops feeding
                                         ◀──    Tick(progress), Ended(summary), Broken(error)

A lot is the rows of one shard, named by their positions, so that nothing is sent but numbers. A lane that dies gives its
lots back, and its host slots; whoever gets the lots next takes the rows over that are in the spools.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait

from penstock.crew.interpreter import ending, start_partner
from penstock.crew.script import script_of
from penstock.engines.base import Plan
from penstock.engines.hub import Reply, Word
from penstock.engines.messages import Broken, Committed, Ended, Lot, Shard, Start, Stop, Tick, Want
from penstock.engines.work import Job, Progress, Summary, Watch
from penstock.errors import WorkerError
from penstock.fetch.policy.shares import HostSlots
from penstock.flow import LaneStatistics
from penstock.report.memory import resident_bytes
from penstock.source import SourceSpec

__all__ = ["run_lanes"]

AHEAD = 1
"""Lots that a lane may have in hand beyond the one with the least, and still get another: enough to feed it, and small
shards, of which a lane could swallow all before the others have started, go round."""

INTERVAL = 0.05
"""Seconds between two words of a lane that needs nothing: so soon a slot that one does not need is another's. Arbitrary: in
runs of 1,000 rows the words could not be found in the CPU time."""

MAX_DEATHS = 3
"""Lanes that may die in a run before it is given up: one death is an accident, three are a cause."""


@dataclass(eq=False)
class _Lane:
    """A lane process, as its parent sees it."""

    number: int
    process: subprocess.Popen[bytes]
    connection: Connection
    lots: list[Lot] = field(default_factory=list)
    """Dealt, and not known to be committed."""
    asks: bool = False
    """It has asked for a lot and has to wait for it."""
    dismissed: bool = False
    """It was told that there are no more."""
    committed_rows: int = 0
    """Rows of the shards that it has committed."""
    progress: Progress = field(default_factory=Progress)
    statistics: LaneStatistics | None = None
    summary: Summary | None = None

    @property
    def name(self) -> str:
        """Under which it has host slots."""
        return str(self.number)

    @property
    def left_progress(self) -> Progress:
        """What counts of a lane that has died: whoever takes its spooled rows over will call them recovered."""
        spooled = max(0, self.progress.settled + self.progress.recovered - self.committed_rows)
        return dataclasses.replace(self.progress, recovered=self.progress.recovered - spooled, resident_bytes=0)


def run_lanes(job: Job, plan: Plan, watch: Watch) -> Summary:
    """Deal the plan's shards to `job.setup.lanes` processes until all are committed.

    The plan's source must have a `spec`, by which the lanes open it.

    Raises:
        WorkerError: lanes keep dying.
        PenstockError: whatever a lane raised.
    """
    with contextlib.closing(_Dealer(job, plan, watch)) as dealer:
        watch.started(dealer)
        return dealer.run()


class _Dealer:
    def __init__(self, job: Job, plan: Plan, watch: Watch) -> None:
        assert plan.source.spec is not None
        self._job, self._plan, self._watch = job, plan, watch
        self._source: SourceSpec = plan.source.spec
        self._lots = _lots(plan)
        self._given_back: list[Lot] = []
        self._lanes: list[_Lane] = []
        self._slots = HostSlots(job.config.per_host)
        self._deaths = 0
        self._left = Progress()
        """Of lanes that have died."""
        self._peak = 0
        self._stop_asked = False
        self._waker, self._wake = socket.socketpair()
        self._wake.setblocking(False)

    def stop(self) -> None:
        """Let every lane stop feeding. Safe in a signal handler."""
        self._stop_asked = True
        with contextlib.suppress(OSError):
            self._wake.send(b"x")

    def run(self) -> Summary:
        for number in range(self._job.setup.lanes):
            self._start(number)
        while working := [lane for lane in self._lanes if lane.summary is None]:
            for ready in wait([self._waker, *(lane.connection for lane in working)]):
                if ready is self._waker:
                    self._waker.recv(64)
                    self._tell_to_stop(working)
                else:
                    self._listen(next(lane for lane in working if lane.connection is ready))
        self._report()
        return self._summary()

    def close(self) -> None:
        """End what still runs."""
        for lane in self._lanes:
            lane.connection.close()
            lane.process.kill()
            lane.process.wait()
        self._waker.close()
        self._wake.close()

    def _start(self, number: int) -> None:
        lane = _Lane(number, *start_partner("penstock.engines.lane", "a lane process"))
        self._lanes.append(lane)
        pickled = pickle.dumps(dataclasses.replace(self._job, lane=number))
        with contextlib.suppress(OSError):  # it is dead already, which its connection will tell
            lane.connection.send(
                Start(pickled, script_of(pickled), self._source, dict(self._plan.committed), os.getpid())
            )

    def _tell_to_stop(self, lanes: list[_Lane]) -> None:
        for lane in lanes:
            self._send(lane, Stop())
        self._deal()

    def _send(self, lane: _Lane, message: object) -> None:
        with contextlib.suppress(OSError):  # its end is noticed where messages are received
            lane.connection.send(message)

    def _listen(self, lane: _Lane) -> None:
        try:
            message = lane.connection.recv()
        except (EOFError, OSError):
            self._bury(lane)
            return
        match message:
            case Want(ended):
                if ended:
                    self._lots = iter(())
                lane.asks = True
                self._deal()
            case Shard(report):
                self._watch.shard_done(report)
                lane.lots = [lot for lot in lane.lots if lot.shard != report.shard]
                lane.committed_rows += report.rows
                self._send(lane, Committed(report.shard))
                self._deal()
            case Word(needs=needs, anew=anew):
                limits = self._slots.exchange(lane.name, needs, time.monotonic(), anew=anew)
                self._send(lane, Reply(limits, stop=False, interval=INTERVAL))
            case Tick(progress, statistics):
                lane.progress, lane.statistics = progress, statistics
                self._report()
            case Ended(summary):
                lane.summary, lane.progress, lane.statistics = summary, summary.progress, summary.statistics
                lane.process.wait()
                self._slots.drop(lane.name)
            case Broken(error):
                raise error

    def _deal(self) -> None:
        """Answer the lanes that ask, those with the least in hand first."""
        while asking := [lane for lane in self._lanes if lane.asks]:
            lane = min(asking, key=lambda lane: len(lane.lots))
            if len(lane.lots) > self._least_in_hand() + AHEAD and not self._stop_asked:
                return  # until another lane asks, or this one has committed something
            lane.asks = False
            lot = None if self._stop_asked else self._given_back.pop() if self._given_back else next(self._lots, None)
            if lot is not None:
                lane.lots.append(lot)
            lane.dismissed = lot is None
            self._send(lane, lot)

    def _least_in_hand(self) -> int:
        return min(len(lane.lots) for lane in self._lanes if not lane.dismissed)

    def _bury(self, lane: _Lane) -> None:
        """A lane has died: its lots go back, and another takes its place."""
        how = ending(lane.process.wait())
        lane.connection.close()
        self._slots.drop(lane.name)
        self._lanes.remove(lane)
        self._given_back += lane.lots
        self._left = self._left.plus(lane.left_progress)
        self._deaths += 1
        if self._deaths >= MAX_DEATHS:
            raise WorkerError(f"{self._deaths} lane processes have died, the last one: {how}")
        self._start(lane.number)

    def _report(self) -> None:
        progress = self._progress()
        self._peak = max(self._peak, progress.resident_bytes)
        known = [lane.statistics for lane in self._lanes if lane.statistics is not None]
        self._watch.progressed(progress, LaneStatistics.average(known))

    def _progress(self) -> Progress:
        progress = self._left.plus(Progress(resident_bytes=resident_bytes()))
        for lane in self._lanes:
            progress = progress.plus(lane.progress)
        return progress

    def _summary(self) -> Summary:
        summaries = [lane.summary for lane in self._lanes if lane.summary is not None]
        peak = max(self._peak, sum(summary.peak_resident_bytes for summary in summaries))
        return Summary(
            self._progress(),
            LaneStatistics.average([summary.statistics for summary in summaries]),
            peak,
            all(summary.complete for summary in summaries) and not self._stop_asked,
        )


def _lots(plan: Plan) -> Iterator[Lot]:
    """The shards that are not there yet, without end unless the list's length is known."""
    shard, size, count = plan.first_row // plan.shard_size, plan.shard_size, plan.source.count
    while count is None or shard * size < count:
        if shard not in plan.committed:
            yield Lot(shard, shard * size, (shard + 1) * size)
        shard += 1
