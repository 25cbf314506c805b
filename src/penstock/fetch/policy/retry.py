"""What a failed attempt means: its reason, whether another attempt follows, and when."""

from __future__ import annotations

import datetime as dt
import email.utils
import math
import re
from collections.abc import Callable

from penstock.config import FetchConfig
from penstock.errors import ItemError
from penstock.records import Reason, Retry

__all__ = ["AttemptError", "RetryBudget", "classify_status", "decide", "parse_retry_after"]

BASE = 1.0
"""Seconds; the first pause is somewhere below it."""

CAP = 60.0
"""Seconds; no pause is longer, unless the server asks for it."""

MAX_RETRY_AFTER = 6 * 3600.0
"""Seconds; what a server asks for beyond it is cut, as urllib3 does."""

BUDGET_SHARE = 0.2
"""Further attempts for each attempt, in the long run. Google's SRE book has 10 %; dead hosts alone take that on a list of
some years' age, and `manners` keeps them off as well."""

BUDGET_START = 1000.0
"""Further attempts that a run has anyway: so a short list never runs out."""

BUDGET_MOST = 10_000.0
"""Further attempts that can be saved up."""

_STATUS = {
    401: Reason.HTTP_FORBIDDEN,
    402: Reason.HTTP_FORBIDDEN,
    403: Reason.HTTP_FORBIDDEN,
    404: Reason.HTTP_NOT_FOUND,
    407: Reason.HTTP_FORBIDDEN,
    408: Reason.HTTP_SERVER_ERROR,
    410: Reason.HTTP_GONE,
    425: Reason.HTTP_SERVER_ERROR,
    429: Reason.HTTP_RATE_LIMITED,
    451: Reason.HTTP_LEGAL,
}
_CLASS = {
    2: Reason.HTTP_UNEXPECTED,
    3: Reason.HTTP_REDIRECT_INVALID,
    4: Reason.HTTP_CLIENT_ERROR,
    5: Reason.HTTP_SERVER_ERROR,
}


class AttemptError(ItemError):
    """A failed attempt, with what the answer said about the next one."""

    def __init__(
        self,
        reason: Reason,
        detail: str = "",
        *,
        http_status: int | None = None,
        size: int = 0,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason, detail, http_status=http_status, size=size)
        self.retry_after = retry_after
        """Seconds that the server asks to be left alone."""


class RetryBudget:
    """Further attempts are a share of all attempts: when everything fails, trying thrice would triple the load."""

    def __init__(self) -> None:
        self._left = BUDGET_START
        self.spent = 0
        """Further attempts so far."""

    def earn(self) -> None:
        """An attempt was made."""
        self._left = min(BUDGET_MOST, self._left + BUDGET_SHARE)

    def spend(self) -> bool:
        """Whether a further attempt may follow; it is then taken for made."""
        if self._left < 1:
            return False
        self._left -= 1
        self.spent += 1
        return True


def classify_status(status: int, retry_after: str | None) -> Reason | None:
    """Why an answer with this status is a failure; None for 200. Redirects are to be followed before."""
    if status == 200:
        return None
    if status == 503 and parse_retry_after(retry_after) is not None:
        return Reason.HTTP_RATE_LIMITED
    return _STATUS.get(status) or _CLASS.get(status // 100, Reason.HTTP_PROTOCOL_ERROR)


def parse_retry_after(value: str | None, now: float | None = None) -> float | None:
    """Seconds to wait, from a Retry-After header; None if there is none or it makes no sense.

    Args:
        value: The header: a whole number of seconds, or a date.
        now: Seconds since the epoch; by default the wall clock.

    >>> parse_retry_after("120"), parse_retry_after("-1"), parse_retry_after("Thu, 01 Jan 1970 00:01:00 GMT", now=50)
    (120.0, None, 10.0)
    """
    text = (value or "").strip()
    if re.fullmatch(r"\d+", text, re.ASCII):
        return min(float(text[:9]) if len(text) < 10 else math.inf, MAX_RETRY_AFTER)
    try:
        date = email.utils.parsedate_to_datetime(text)
        when = (date if date.tzinfo else date.replace(tzinfo=dt.UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if now is None:
        now = dt.datetime.now(dt.UTC).timestamp()
    return min(max(0.0, when - now), MAX_RETRY_AFTER)


def decide(
    reason: Reason,
    attempts: int,
    *,
    retry_after: float | None,
    elapsed: float,
    config: FetchConfig,
    random: Callable[[], float],
) -> float | None:
    """The pause in seconds before the next attempt, or None if the failure is final.

    Args:
        reason: Of the attempt that just failed.
        attempts: Made so far, that one included.
        retry_after: What the server asked for, in seconds; wins over our own back-off.
        elapsed: Seconds since the first attempt began.
        config: Its `retries` and `row_timeout` count.
        random: Uniform numbers in [0, 1).
    """
    allowed = {Retry.NEVER: 0, Retry.ONCE: min(1, config.retries)}.get(reason.retry, config.retries)
    if attempts > allowed:
        return None
    pause = retry_after
    if pause is None:  # full jitter; the exponent is bounded to keep the power finite
        pause = random() * min(CAP, BASE * 2.0 ** min(attempts - 1, 30))
    return pause if elapsed + pause < config.row_timeout else None
