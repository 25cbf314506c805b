"""robots.txt of each origin: asked once, kept for a while, and what its absence means."""

from __future__ import annotations

import pytest

from penstock.errors import ItemError
from penstock.fetch.policy import robots
from penstock.fetch.policy.optout import ALLOW_ALL, RobotsRules
from penstock.fetch.policy.robots import FAILURE_LIFETIME, LIFETIME, RobotsCache, verdict_of
from penstock.records import Reason


def test_the_first_asks_and_the_others_wait() -> None:
    """One request for an origin is under way at a time, and whoever waits gets on with its answer."""
    cache: RobotsCache[str] = RobotsCache()
    assert cache.look("http://a", 0) is None
    assert [cache.wait("http://a", name) for name in ("first", "second")] == [True, False]
    assert cache.wait("http://b", "other")
    assert cache.settle("http://a", ALLOW_ALL, 0) == ["first", "second"]
    assert cache.look("http://a", 0) is ALLOW_ALL
    assert cache.look("http://b", 0) is None


@pytest.mark.parametrize(
    ("verdict", "lifetime"), [(ALLOW_ALL, LIFETIME), (ItemError(Reason.DNS_NXDOMAIN), FAILURE_LIFETIME)]
)
def test_answers_grow_old(verdict: RobotsRules | ItemError, lifetime: float) -> None:
    """Rules hold for a day, failures for a minute."""
    cache: RobotsCache[str] = RobotsCache()
    cache.settle("http://a", verdict, 10)
    assert cache.look("http://a", 9 + lifetime) is verdict
    assert cache.look("http://a", 10 + lifetime) is None


def test_origins_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of any number of hosts takes bounded memory; the oldest goes first."""
    monkeypatch.setattr(robots, "MAX_ORIGINS", 2)
    cache: RobotsCache[str] = RobotsCache()
    for origin in "abac":
        cache.settle(origin, ALLOW_ALL, 0)
    assert [cache.look(origin, 0) for origin in "abc"] == [ALLOW_ALL, None, ALLOW_ALL]


@pytest.mark.parametrize(
    ("reason", "hops", "expected"),
    [
        (Reason.HTTP_NOT_FOUND, 0, None),
        (Reason.HTTP_FORBIDDEN, 0, None),
        (Reason.HTTP_REDIRECT_LIMIT, 5, None),
        (Reason.SSRF_BLOCKED, 1, None),
        (Reason.URL_SCHEME_DENIED, 1, None),
        (Reason.BODY_EMPTY, 0, None),
        (Reason.DNS_NXDOMAIN, 0, Reason.DNS_NXDOMAIN),
        (Reason.SSRF_BLOCKED, 0, Reason.SSRF_BLOCKED),
        (Reason.TLS_CERTIFICATE, 0, Reason.TLS_CERTIFICATE),
        (Reason.CONNECT_TIMEOUT, 0, Reason.CONNECT_TIMEOUT),
        (Reason.DNS_NXDOMAIN, 1, Reason.OPTOUT_ROBOTS_UNREACHABLE),
        (Reason.HTTP_SERVER_ERROR, 0, Reason.OPTOUT_ROBOTS_UNREACHABLE),
        (Reason.HTTP_RATE_LIMITED, 0, Reason.OPTOUT_ROBOTS_UNREACHABLE),
        (Reason.TIMEOUT_IDLE, 0, Reason.OPTOUT_ROBOTS_UNREACHABLE),
        (Reason.BODY_RESET, 0, Reason.OPTOUT_ROBOTS_UNREACHABLE),
    ],
)
def test_what_a_missing_robots_txt_means(reason: Reason, hops: int, expected: Reason | None) -> None:
    """None there: all is allowed. Nobody there: the rows' own failure. Somebody who does not say: forbidden."""
    verdict = verdict_of(ItemError(reason), hops)
    assert (verdict.reason if isinstance(verdict, ItemError) else None) == expected


def test_long_rules_are_forgotten_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is bounded in characters, too: half a megabyte for each of many hosts would be all memory."""
    monkeypatch.setattr(robots, "MAX_TEXT", 150)
    cache: RobotsCache[str] = RobotsCache()
    for origin in "abcb":
        cache.settle(origin, RobotsRules.parse(b"User-agent: *\nDisallow: /" + b"x" * 30), 0)
    assert [cache.look(origin, 0) is None for origin in "abc"] == [True, False, False]
