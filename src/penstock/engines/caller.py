"""A lane's end of its line to the hub, or to its parent on this machine: it talks from a thread of its own."""

from __future__ import annotations

import threading
import time
import uuid
from types import TracebackType
from typing import Protocol, Self

from penstock.engines.hub import DRIVER_GRACE, LEAST_INTERVAL, Reply, Word
from penstock.engines.work import Progress, Stoppable, Watch
from penstock.fetch.sharing import Sharing
from penstock.flow import LaneStatistics
from penstock.records import ShardReport

__all__ = ["Caller", "Line", "UnansweredError"]

BREATH = 0.1
"""Of the interval between two words: the pause that a lane makes after each, however much it needs."""


class UnansweredError(ConnectionError):
    """The other end has not answered in time, and may be alive."""


class Line(Protocol):
    """How an engine carries a word to the hub and the reply back."""

    def exchange(self, word: Word) -> Reply:
        """One round trip.

        Raises:
            UnansweredError: nobody has answered in time.
            ConnectionError: it could not be made, or nobody knows whether it was.
        """
        ...

    def leave(self, lane: str) -> None:
        """Say that a lane has come to its end; without an answer, and no matter if it is lost."""
        ...


class Caller(Watch):
    """Says what a lane has done and needs, and does what it is told. Entering it makes the first exchange.

    Args:
        line: to the hub.
        lot: what the lane works on.
        sharing: the fetcher's host slots; None where it has none.

    Raises:
        ConnectionError: on entering, if the hub cannot be reached.
    """

    def __init__(self, line: Line, lot: str, sharing: Sharing | None) -> None:
        self._line = line
        self._lot = lot
        self._sharing = sharing
        self._name = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._untold: list[ShardReport] = []
        self._tick: tuple[Progress, LaneStatistics] | None = None
        self._lane: Stoppable | None = None
        self._anew = True
        self._turn = 0
        self._closing = False
        self._urgent = threading.Event() if sharing is None else sharing.wanted
        self._heard = time.monotonic()
        self._interval = LEAST_INTERVAL
        self._thread = threading.Thread(target=self._talk, name="penstock-caller", daemon=True)
        self.reports: list[ShardReport] = []
        """All shards that the lane has prepared."""
        self.stopped = False
        """Whether the lane was told to stop."""
        self.done: tuple[int, ...] = ()
        """Shards of the lot that need not be made."""

    def __enter__(self) -> Self:
        reply = self._greet()
        self._follow(reply)
        self.done = reply.done
        self._anew = False
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._urgent.set()
        self._thread.join()
        self._line.leave(self._name)

    def _greet(self) -> Reply:
        """The first word. A hub that many lanes speak to at once, on a busy machine, may take long to answer."""
        while True:
            try:
                return self._line.exchange(Word(self._name, self._lot, anew=True))
            except UnansweredError:
                if time.monotonic() - self._heard > DRIVER_GRACE:
                    raise

    def started(self, lane: Stoppable) -> None:
        """Keep what can be stopped."""
        self._lane = lane
        if self.stopped:
            lane.stop()

    def shard_done(self, report: ShardReport) -> None:
        """Pass it on with the next word: nobody has to wait, since it lies under a name of its own."""
        with self._lock:
            self.reports.append(report)
            self._untold.append(report)

    def progressed(self, progress: Progress, statistics: LaneStatistics) -> None:
        """Pass it on with the next word."""
        with self._lock:
            self._tick = progress.plus(Progress()), statistics  # a copy: the lane goes on counting

    def _talk(self) -> None:
        while not self._closing:
            self._urgent.wait(self._interval)
            self._urgent.clear()
            try:
                self._exchange()
            except ConnectionError:
                self._lose_contact()
            time.sleep(BREATH * self._interval)

    def _exchange(self) -> None:
        with self._lock:
            reports, self._untold = self._untold, []
            tick, self._tick = self._tick, None
        progress, statistics = tick or (None, None)
        needs = {} if self._sharing is None else self._sharing.changes()
        self._turn += 1
        word = Word(self._name, self._lot, tuple(reports), progress, statistics, needs, self._anew, self._turn)
        try:
            reply = self._line.exchange(word)
        except ConnectionError:
            with self._lock:
                self._untold = [*reports, *self._untold]
            raise
        self._anew = False
        self._follow(reply)

    def _follow(self, reply: Reply) -> None:
        self._heard = time.monotonic()
        self._interval = reply.interval
        if reply.forget or reply.stop:
            self._give_up_slots()
        elif self._sharing is not None:
            self._sharing.heard(reply.limits)
        if reply.stop:
            self._stop()

    def _give_up_slots(self) -> None:
        self._anew = True
        if self._sharing is not None:
            self._sharing.forget()

    def _lose_contact(self) -> None:
        """Whoever cannot ask for slots has none; and whoever hears nothing for long has lost its driver."""
        self._give_up_slots()
        if time.monotonic() - self._heard > DRIVER_GRACE:
            self._stop()

    def _stop(self) -> None:
        self.stopped = True
        if self._lane is not None:
            self._lane.stop()
