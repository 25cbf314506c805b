"""What was learnt of each host: how many requests it takes at a time, and whether it answers at all.

::

    requests at a time   2 ──+1 for each success──▶ … first trouble: halved; then +1 for every 20 ──▶ --per-host
    circuit breaker      closed ──5 attempts in a row without an answer──▶ open ──60 s──▶ one at a time ─┬─answer─▶ closed
                                                                             ▲──────twice as long────────┘

The start is that of TCP: doubling with each round trip, so that a host that bears it is at its full width within a few of
them. Decides and does no I/O; time is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Manners"]

LEAST = 2
"""Requests at a time at which a host begins, and below which it is not held."""

PATIENCE = 20
"""Successes for one more request at a time, once a host has shown its limit."""

DEAD = 5
"""Attempts in a row that nobody answered, after which a host is left alone."""

REST = 60.0
"""Seconds for which it is left alone first; then twice as long each time."""

LONGEST_REST = 900.0
"""Seconds."""

MAX_HOSTS = 65_536
"""Of which something is remembered; the oldest goes first. About 10 MB."""


@dataclass(slots=True)
class _Host:
    window: float = LEAST
    """Requests at a time."""
    cautious: bool = False
    """It has shown its limit."""
    spared: int = 0
    """Results that may come without the window being halved again: they were on their way when it was."""
    answered_at: float = -1.0
    """When it answered last."""
    unanswered: int = 0
    """Attempts in a row that nobody answered."""
    open_until: float = 0.0
    """Nothing is asked of it earlier than this."""
    rest: float = REST
    delay: float = 0.0
    """Seconds between two requests, as its robots.txt wants it."""


class Manners:
    """How each host is to be treated.

    Args:
        per_host: the most requests at a time.
    """

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._hosts: dict[str, _Host] = {}

    def limit(self, host: str) -> int:
        """Requests at a time."""
        known = self._hosts.get(host)
        if known is None:
            return min(LEAST, self._per_host)
        if known.delay or known.unanswered >= DEAD:
            return 1
        return min(int(known.window), self._per_host)

    def answered(self, host: str, now: float) -> None:
        """Somebody is there, whatever he said."""
        known = self._known(host)
        known.answered_at = now
        if known.unanswered:
            known.unanswered, known.rest, known.open_until = 0, REST, 0.0

    def succeeded(self, host: str, now: float) -> None:
        """A request went well."""
        self.answered(host, now)
        known = self._known(host)
        known.spared = max(0, known.spared - 1)
        if known.window < self._per_host:
            known.window += 1 / PATIENCE if known.cautious else 1

    def overloaded(self, host: str) -> None:
        """A request was too much: 429, 503 or a time-out."""
        known = self._known(host)
        if known.spared:
            known.spared -= 1
            return
        known.cautious = True
        known.spared = int(known.window)
        known.window = max(LEAST, known.window / 2)

    def unanswered(self, host: str, began: float, now: float) -> None:
        """An attempt that began then ended without a sign of life; it says nothing where others were answered meanwhile."""
        known = self._known(host)
        if known.answered_at >= began:
            return
        known.unanswered += 1
        if known.unanswered >= DEAD and known.open_until <= now:
            known.open_until = now + known.rest
            known.rest = min(LONGEST_REST, 2 * known.rest)

    def is_given_up(self, host: str, now: float) -> bool:
        """Whether the host is to be left alone."""
        known = self._hosts.get(host)
        return known is not None and known.open_until > now

    def pace(self, host: str, delay: float) -> None:
        """Ask the host one at a time, with so many seconds between two requests."""
        self._known(host).delay = delay

    def delay(self, host: str) -> float:
        """Seconds between two requests."""
        known = self._hosts.get(host)
        return known.delay if known is not None else 0.0

    def forgive(self) -> None:
        """Nobody was to blame for not answering: this machine was off the network."""
        for known in self._hosts.values():
            known.unanswered, known.rest, known.open_until = 0, REST, 0.0

    def _known(self, host: str) -> _Host:
        known = self._hosts.get(host)
        if known is None:
            known = self._hosts[host] = _Host()
            if len(self._hosts) > MAX_HOSTS:
                del self._hosts[next(iter(self._hosts))]
        return known
