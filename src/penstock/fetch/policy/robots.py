"""robots.txt of each origin: its rules, why there are none, or who waits for it.

One request for an origin is under way at a time; rows of that origin wait for its answer. Decides and does no I/O.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from penstock.errors import ItemError
from penstock.fetch.policy.optout import ALLOW_ALL, RobotsRules
from penstock.records import Reason

__all__ = ["LONGEST_DELAY", "RobotsCache", "Verdict", "verdict_of"]

T = TypeVar("T")

Verdict = RobotsRules | ItemError
"""What holds for an origin: rules, or why nothing of it may or can be fetched."""

LIFETIME = 24 * 3600.0
"""Seconds that rules hold: the most that RFC 9309 allows."""

FAILURE_LIFETIME = 60.0
"""Seconds that a failure holds, so that rows to come do not each ask again."""

MAX_ORIGINS = 100_000
"""Of which something is known; the oldest goes first. Most have nothing to say and share one object."""

MAX_TEXT = 2**26
"""Characters of rules that are kept for all of them together."""

LONGEST_DELAY = 30.0
"""Seconds. A Crawl-delay beyond it is as good as a refusal for whoever wants more than a handful of pictures."""

_NONE_THERE = frozenset(
    {
        Reason.HTTP_NOT_FOUND,
        Reason.HTTP_GONE,
        Reason.HTTP_LEGAL,
        Reason.HTTP_FORBIDDEN,
        Reason.HTTP_CLIENT_ERROR,
        Reason.HTTP_UNEXPECTED,
        Reason.HTTP_REDIRECT_LIMIT,
        Reason.HTTP_REDIRECT_INVALID,
        Reason.HTTP_ENCODING,
        Reason.BODY_EMPTY,
    }
)
"""RFC 9309, 2.3.1: unavailable, so that everything is allowed; also what holds nothing that could be read."""

_LED_NOWHERE = ("url", "ssrf", "policy")
"""Phases of a redirect that is not followed."""

_NOBODY_THERE = ("dns", "ssrf", "connect", "tls", "host")
"""Phases in which the rows themselves would fail the same way."""


class RobotsCache(Generic[T]):
    """What is known of each origin; `T` is whatever waits."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Verdict]] = {}
        self._text = 0
        """Characters of all the rules that are known."""
        self._waiting: dict[str, list[T]] = {}

    def look(self, origin: str, now: float) -> Verdict | None:
        """What holds for the origin; None if it has to be asked."""
        until, verdict = self._known.get(origin, (now, None))
        return verdict if until > now else None

    def wait(self, origin: str, waiter: T) -> bool:
        """Have `waiter` wait for the origin's answer; True if it is the first, so that somebody has to ask."""
        waiting = self._waiting.setdefault(origin, [])
        waiting.append(waiter)
        return len(waiting) == 1

    def settle(self, origin: str, verdict: Verdict, now: float) -> list[T]:
        """The origin has answered, or not; who has waited for it."""
        lifetime = FAILURE_LIFETIME if isinstance(verdict, ItemError) else LIFETIME
        if origin in self._known:
            self._forget(origin)
        self._known[origin] = (now + lifetime, verdict)
        self._text += _length(verdict)
        while len(self._known) > MAX_ORIGINS or self._text > MAX_TEXT:
            self._forget(next(iter(self._known)))
        return self._waiting.pop(origin, [])

    def _forget(self, origin: str) -> None:
        self._text -= _length(self._known.pop(origin)[1])


def _length(verdict: Verdict) -> int:
    return len(verdict.text) if isinstance(verdict, RobotsRules) else 0


def verdict_of(error: ItemError, hops: int) -> Verdict:
    """What it means that a robots.txt could not be fetched.

    Args:
        error: why.
        hops: redirects that were followed before.
    """
    phase = error.reason.phase
    if error.reason in _NONE_THERE or (hops and phase in _LED_NOWHERE):
        return ALLOW_ALL
    if not hops and phase in _NOBODY_THERE:
        return error
    return ItemError(Reason.OPTOUT_ROBOTS_UNREACHABLE, f"robots.txt: {error.reason.value} {error.detail}")
