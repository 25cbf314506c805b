"""The crew of one: the work is done where it is submitted."""

from __future__ import annotations

from penstock.crew.base import CrewStatistics, Deliver, OnBroken, Work, attempt
from penstock.records import Fetched, Row

__all__ = ["InlineCrew"]


class InlineCrew:
    """Works off each row inside `submit`: for debugging, for tests, and where somebody else does the parallel part."""

    def __init__(self, work: Work) -> None:
        self.width = 1
        self._work = work
        self._deliver: Deliver | None = None
        self._busy_seconds = 0.0

    def start(self, deliver: Deliver, _on_broken: OnBroken, /) -> None:
        """Remember where results go."""
        self._deliver = deliver

    def submit(self, row: Row, fetched: tuple[Fetched, ...]) -> None:
        """Do the work here and now, then deliver."""
        if self._deliver is None:
            return
        result = attempt(self._work, row, fetched)
        self._busy_seconds += result.seconds
        self._deliver(row, result)

    def statistics(self) -> CrewStatistics:
        """What was done so far."""
        return CrewStatistics(self._busy_seconds, self._busy_seconds)

    def close(self) -> None:
        """Deliver nothing more."""
        self._deliver = None
