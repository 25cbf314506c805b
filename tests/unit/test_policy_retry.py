"""What a failed attempt means, and when the next one comes."""

from __future__ import annotations

import email.utils
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import FetchConfig
from penstock.fetch.policy.retry import (
    BASE,
    CAP,
    MAX_RETRY_AFTER,
    classify_status,
    decide,
    parse_retry_after,
)
from penstock.records import Reason, Retry

CONFIG = FetchConfig(retries=3, timeout=30)


@pytest.mark.parametrize(
    "value", [None, "", "-1", "NaN", "inf", "1e400", "1.5", "soon", "١٢", "Mon, 99 Foo 2020", "0x10"]
)
def test_nonsense_is_ignored(value: str | None) -> None:
    """A header that makes no sense counts as none."""
    assert parse_retry_after(value, now=0) is None


@given(st.text())
def test_any_header_is_finite(value: str) -> None:
    """Whatever the server sends, the wait is none or a sane number."""
    wait = parse_retry_after(value, now=0)
    assert wait is None or 0 <= wait <= MAX_RETRY_AFTER


@given(st.integers(0, 10**30))
def test_seconds(seconds: int) -> None:
    """Whole seconds are taken at their word, up to the cap."""
    assert parse_retry_after(f" {seconds} ") == min(seconds, MAX_RETRY_AFTER)


@given(st.integers(-(10**6), 10**6))
def test_dates(offset: int) -> None:
    """A date is a wait from now on; a past one is none at all."""
    now = 1_700_000_000
    value = email.utils.formatdate(now + offset, usegmt=True)
    assert parse_retry_after(value, now=now) == min(max(0, offset), MAX_RETRY_AFTER)


@given(st.integers(0, 999))
def test_only_200_is_a_success(status: int) -> None:
    """Every status has its reason, of the phase http."""
    reason = classify_status(status, None)
    assert (reason is None) == (status == 200)
    assert reason is None or reason.phase == "http"


def test_503_with_a_date_is_a_limit() -> None:
    """503 is the server's error, and a limit if it says when to come back."""
    assert classify_status(503, None) == Reason.HTTP_SERVER_ERROR
    assert classify_status(503, "junk") == Reason.HTTP_SERVER_ERROR
    assert classify_status(503, "1") == Reason.HTTP_RATE_LIMITED


def pause(
    reason: Reason, attempts: int, *, after: float | None = None, elapsed: float = 0, r: float = 0.5
) -> float | None:
    return decide(reason, attempts, retry_after=after, elapsed=elapsed, config=CONFIG, random=lambda: r)


@given(st.sampled_from(Reason), st.integers(1, 200), st.floats(0, 1, exclude_max=True))
def test_attempts_are_bounded(reason: Reason, attempts: int, r: float) -> None:
    """The reason and --retries bound the attempts; a pause lies within the back-off's bounds."""
    allowed = {Retry.NEVER: 0, Retry.ONCE: 1}.get(reason.retry, CONFIG.retries)
    result = pause(reason, attempts, r=r)
    assert (result is not None) == (attempts <= allowed)
    assert result is None or 0 <= result <= min(CAP, BASE * 2 ** (attempts - 1))


def test_no_retries_means_none() -> None:
    """--retries 0 holds for reasons that are worth one more attempt as well."""
    for reason in Reason:
        config = FetchConfig(retries=0)
        assert decide(reason, 1, retry_after=0.0, elapsed=0, config=config, random=lambda: 0.0) is None


def test_the_back_off_grows() -> None:
    """Twice the pause for each attempt, for the same luck."""
    assert [pause(Reason.DNS_TEMPORARY, n) for n in (1, 2, 3)] == [0.5, 1.0, 2.0]


def test_the_servers_word_wins() -> None:
    """Retry-After replaces our own pause, shorter or longer."""
    assert pause(Reason.HTTP_RATE_LIMITED, 1, after=17) == 17
    assert pause(Reason.HTTP_RATE_LIMITED, 1, after=0) == 0


def test_the_row_has_a_deadline() -> None:
    """No attempt starts when the row's time is over, whoever asks for the wait."""
    assert CONFIG.row_timeout == 120
    assert pause(Reason.HTTP_RATE_LIMITED, 1, after=100, elapsed=19) == 100
    assert pause(Reason.HTTP_RATE_LIMITED, 1, after=100, elapsed=20) is None
    assert pause(Reason.HTTP_SERVER_ERROR, 1, elapsed=math.inf) is None
