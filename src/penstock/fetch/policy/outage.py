"""Whether it is the hosts that do not answer, or this machine that does not reach them.

A machine off the network would write ten minutes' worth of false failures. So attempts are watched::

    well ──most of the last `ATTEMPTS` reached nobody, over many hosts──▶ suspected ──a probe fails──▶ outage
      ▲                                                                       │                          │
      └────────────────────── somebody answers ───────────────────────────────┴──────────────────────────┘

A probe asks a host that has answered before, if there is one: the end of a list may well be nothing but dead hosts. While an outage is
suspected or lasts, nothing else begins.

Decides and does no I/O; time is passed in.
"""

from __future__ import annotations

from collections import Counter, deque

from penstock.records import Reason

__all__ = ["DOUBTFUL", "Outage"]

ATTEMPTS = 200
"""That are looked at, the last ones."""

SHARE = 0.8
"""Of them that must have failed."""

HOSTS = 20
"""Over which the failures must be spread: a few dead hosts are no outage."""

PROBE_EVERY = 1.0
"""Seconds between the first probe and the second; then twice as long each time."""

SLOWEST_PROBE = 30.0
"""Seconds."""

_NAMES = frozenset({Reason.DNS_TEMPORARY, Reason.DNS_TIMEOUT})

UNREACHED = _NAMES | {Reason.CONNECT_TIMEOUT, Reason.CONNECT_UNREACHABLE}
"""What attempts fail with on a machine that is off the network. A name that does not exist, and a refusal, are answers."""

DOUBTFUL = UNREACHED | {
    Reason.CONNECT_RESET,
    Reason.TLS_TIMEOUT,
    Reason.BODY_RESET,
    Reason.TIMEOUT_IDLE,
    Reason.TIMEOUT_TOTAL,
    Reason.TIMEOUT_LOW_SPEED,
    Reason.HOST_UNAVAILABLE,
}
"""Failures that an outage may have caused; every other end of an attempt proves that somebody was reached."""


class Outage:
    """Watches attempts.

    Args:
        unreached: reasons that count as not having reached anybody.
    """

    def __init__(self, unreached: frozenset[Reason] = UNREACHED) -> None:
        self._unreached = unreached
        self._last: deque[tuple[str, Reason | None]] = deque()
        self._failures: Counter[str] = Counter()
        self._failed = self._names = 0
        """Of the last attempts: failures, and those among them that concern names."""
        self._interval = PROBE_EVERY
        self._probing = False
        self._probe_at = 0.0
        self.reason: Reason | None = None
        """Why nothing is reached, as it seems; None while all is well."""
        self.confirmed = False
        """It is more than a suspicion."""

    def reached(self, host: str) -> bool:
        """An attempt at this host reached somebody; True if that ends an outage."""
        ended = self.confirmed
        if self.reason is not None:
            self.reason, self.confirmed, self._probing = None, False, False
            self._forget()
        self._remember(host, None)
        return ended

    def failed(self, host: str, reason: Reason, now: float) -> bool:
        """An attempt at this host came to a doubtful end; True if that makes an outage suspected."""
        if self.reason is not None:
            return False
        self._remember(host, reason if reason in self._unreached else None)
        if len(self._last) < ATTEMPTS or self._failed <= SHARE * ATTEMPTS or len(self._failures) < HOSTS:
            return False
        self.reason = Reason.LOCAL_DNS_DOWN if 2 * self._names > self._failed else Reason.LOCAL_NETWORK_DOWN
        self._interval, self._probe_at = PROBE_EVERY, now
        return True

    def confirm(self) -> bool:
        """The suspicion was right; True the first time."""
        first, self.confirmed = not self.confirmed, True
        return first

    def may_start(self, now: float) -> bool:
        """Whether an attempt may begin: any while all is well, single ones now and then otherwise."""
        return self.reason is None or (not self._probing and self._probe_at <= now)

    def started(self) -> bool:
        """An attempt begins; True if it is a probe."""
        self._probing = self.reason is not None
        return self._probing

    def probe_failed(self, now: float) -> None:
        """The probe reached nobody."""
        self._probing = False
        self._probe_at = now + self._interval
        self._interval = min(SLOWEST_PROBE, 2 * self._interval)

    def wake_at(self) -> float | None:
        """When the next probe is due; None if one is under way."""
        return None if self._probing else self._probe_at

    def _remember(self, host: str, failure: Reason | None) -> None:
        self._last.append((host, failure))
        if failure is not None:
            self._failures[host] += 1
            self._failed += 1
            self._names += failure in _NAMES
        if len(self._last) > ATTEMPTS:
            earlier, gone = self._last.popleft()
            if gone is not None:
                self._names -= gone in _NAMES
                self._failed -= 1
                self._failures[earlier] -= 1
                if not self._failures[earlier]:
                    del self._failures[earlier]

    def _forget(self) -> None:
        self._last.clear()
        self._failures.clear()
        self._failed = self._names = 0
