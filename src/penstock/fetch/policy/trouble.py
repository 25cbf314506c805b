"""For how long this machine's own troubles have kept us waiting."""

from __future__ import annotations

from penstock.records import Reason

__all__ = ["Trouble"]


class Trouble:
    """One trouble at a time: what comes while another lasts is counted as that."""

    def __init__(self) -> None:
        self.reason: Reason | None = None
        """Of the present trouble; None while there is none."""
        self._since = 0.0
        self._seconds: dict[str, float] = {}

    def begin(self, reason: Reason, now: float) -> None:
        """There is trouble."""
        if self.reason is None:
            self.reason, self._since = reason, now

    def end(self, now: float) -> None:
        """It is over, if there was any."""
        if self.reason is not None:
            self._seconds = self.seconds(now)
            self.reason = None

    def seconds(self, now: float) -> dict[str, float]:
        """Seconds so far, by reason."""
        seconds = dict(self._seconds)
        if self.reason is not None:
            seconds[self.reason.value] = seconds.get(self.reason.value, 0.0) + now - self._since
        return seconds
