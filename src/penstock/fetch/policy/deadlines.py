"""When an attempt has taken too long: one watch for all its phases, read at intervals by whoever runs it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Self

from penstock.config import FetchConfig
from penstock.records import Reason

__all__ = ["STANDSTILL", "Limits", "Stage", "Watch"]

STANDSTILL = 1.0
"""Seconds by which whoever reads the watches may be late before the process counts as having been stopped (Ctrl-Z, a frozen
container): the servers have gone on meanwhile, and what they sent has not been looked at yet. Arbitrary."""


class Stage(enum.Enum):
    """Where an attempt stands."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    HEADERS = "headers"
    BODY = "body"
    STORAGE = "storage"


_LATE = {Stage.DNS: Reason.DNS_TIMEOUT, Stage.CONNECT: Reason.CONNECT_TIMEOUT, Stage.TLS: Reason.TLS_TIMEOUT}


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an attempt may take, in seconds, and how slow it may be."""

    total: float
    connect: float
    """For name, connection and TLS together; anew for each redirect."""
    idle: float = 10.0
    """Without a single byte. Also the longest wait for the headers."""
    window: float = 15.0
    """Time over which the speed is averaged. Longer than `idle`, so that silence is not taken for slowness."""
    floor: float = 1024.0
    """Bytes per second, averaged over `window`; slower is given up."""

    @classmethod
    def of(cls, config: FetchConfig) -> Self:
        """The limits that the options ask for."""
        return cls(total=config.timeout, connect=config.connect_timeout, idle=min(10.0, config.timeout))

    @property
    def tick(self) -> float:
        """How often watches should be read: the precision of all these limits."""
        return min(0.25, self.total / 10, self.connect / 10, self.idle / 10)


class Watch:
    """The time of one attempt. Times are monotonic seconds, passed in.

    Args:
        limits: how long it may take.
        now: the present.
        spent: seconds that its earlier hops took.
    """

    __slots__ = ("_connecting", "_limits", "_mark", "_paused", "_progress", "_received", "_started", "stage")

    def __init__(self, limits: Limits, now: float, spent: float = 0.0) -> None:
        self._limits = limits
        self._started = now - spent
        self._connecting = self._progress = now
        self._mark = (now, 0)
        self._received = 0
        self._paused: float | None = None
        self.stage = Stage.DNS

    def enter(self, stage: Stage, now: float) -> None:
        """A phase begins."""
        if stage is Stage.DNS and self.stage is not stage:  # it begins with that: a thread may be late to say so
            self._connecting = now
        if stage is Stage.BODY:
            self._mark = (now, 0)
            self._received = 0
        self._progress = now
        self.stage = stage

    def overdue(self, now: float, received: int = 0) -> Reason | None:
        """Why the attempt is to be given up now; None if it may go on.

        Args:
            now: The time.
            received: Bytes of the body that have arrived.
        """
        if self._paused is not None:
            return None
        if self.stage in _LATE and now - self._connecting >= min(self._limits.connect, self._limits.total):
            return _LATE[self.stage]
        if now - self._started >= self._limits.total:
            return Reason.TIMEOUT_TOTAL
        if self.stage in _LATE or self.stage is Stage.STORAGE:
            return None
        return self._slow(now, received)

    def pause(self, now: float) -> None:
        """Stop the clock: the attempt waits for us, not for the server."""
        self._paused = now

    def resume(self, now: float) -> None:
        """Let the clock go on."""
        if self._paused is None:
            return
        waited, self._paused = now - self._paused, None
        self.stood_still(waited)

    def stood_still(self, seconds: float) -> None:
        """The process was stopped for so long, which counts for nobody. In a pause nothing counts anyway."""
        if self._paused is not None:
            return
        self._started += seconds
        self._connecting += seconds
        self._progress += seconds
        self._mark = (self._mark[0] + seconds, self._mark[1])

    def _slow(self, now: float, received: int) -> Reason | None:
        if received > self._received:
            self._received = received
            self._progress = now
        elif now - self._progress >= self._limits.idle:
            return Reason.TIMEOUT_IDLE
        since, before = self._mark
        if self.stage is Stage.BODY and now - since >= self._limits.window:
            if received - before < self._limits.floor * (now - since):
                return Reason.TIMEOUT_LOW_SPEED
            self._mark = (now, received)
        return None
