"""The crew of one: the work is done where it is submitted."""

from __future__ import annotations

from penstock.crew.arena import Landing
from penstock.crew.base import CrewStatistics, Deliver, OnBroken, Work, attempt, prepare
from penstock.crew.wire import Place
from penstock.records import Fetched, Row

__all__ = ["InlineCrew"]


class InlineCrew:
    """Works off each row inside `submit`: for debugging, for tests, and where somebody else does the parallel part."""

    def __init__(self, work: Work, *, landing: Landing | None = None) -> None:
        self.width = 1
        self._landing = landing
        self._work = work
        self._deliver: Deliver | None = None
        self._busy_seconds = 0.0

    def start(self, deliver: Deliver, _on_broken: OnBroken, /) -> None:
        """Remember where results go.

        Raises:
            WorkerError: the work cannot make itself ready.
        """
        prepare(self._work)
        self._deliver = deliver

    def submit(self, row: Row, fetched: tuple[Fetched, ...], place: Place | None = None) -> None:
        """Do the work here and now, then deliver."""
        if self._deliver is None:
            return
        result = attempt(self._work, row, fetched)
        self._busy_seconds += result.seconds
        if self._landing is not None and place is not None:
            result = self._landing.land(result, place)
        self._deliver(row, result)

    def statistics(self) -> CrewStatistics:
        """What was done so far."""
        return CrewStatistics(self._busy_seconds, self._busy_seconds)

    def close(self) -> None:
        """Deliver nothing more."""
        self._deliver = None
