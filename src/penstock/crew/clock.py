"""Time as far as this process was awake."""

from __future__ import annotations

import time
from dataclasses import dataclass

__all__ = ["TICK", "Area", "AwakeClock"]

TICK = 1.0
"""Seconds that whoever keeps an `AwakeClock` waits at most: a stop shows only as far as it outlasts a wait."""

GRACE = 1.0
"""Seconds by which a wait may overrun before the process counts as having been stopped. Arbitrary: a busy machine wakes
its waiters within a few tenths."""


class AwakeClock:
    """A monotonic clock that stands still while this process is stopped (Ctrl-Z, a debugger, a frozen container).

    Workers are stopped together with their parent, so that a deadline on the wall's clock would condemn the rows they
    hold as soon as both go on.
    """

    def __init__(self) -> None:
        self._stopped = 0.0

    def __call__(self) -> float:
        """Seconds since some moment in the past."""
        return time.monotonic() - self._stopped

    def waited(self, seconds: float, planned: float) -> None:
        """Take note of a wait of `seconds` that should have ended after `planned` at the latest."""
        if seconds - planned > GRACE:
            self._stopped += seconds - planned


@dataclass(slots=True)
class Area:
    """A level, integrated over time."""

    level: int = 0
    since: float = 0.0
    area: float = 0.0

    def change(self, level: int, now: float) -> None:
        """From `now` on it is at `level`."""
        self.area, self.level, self.since = self.until(now), level, now

    def until(self, now: float) -> float:
        """Level × seconds, summed up."""
        return self.area + self.level * (now - self.since)
