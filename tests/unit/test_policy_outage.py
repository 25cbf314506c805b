"""Dead hosts, or a dead network here?"""

from __future__ import annotations

import itertools

import pytest

from penstock.fetch.policy.outage import ATTEMPTS, DOUBTFUL, HOSTS, PROBE_EVERY, SLOWEST_PROBE, UNREACHED, Outage
from penstock.records import Reason, Retry


def fail(outage: Outage, count: int, reason: Reason = Reason.CONNECT_TIMEOUT, hosts: int = 50) -> list[bool]:
    """So many failures, spread over hosts."""
    return [outage.failed(f"host{index % hosts}", reason, 0.0) for index in range(count)]


def test_an_outage_is_many_failures_over_many_hosts() -> None:
    """It begins once, with enough attempts to tell."""
    outage = Outage()
    began = fail(outage, ATTEMPTS + 5)
    assert [index for index, began in enumerate(began) if began] == [ATTEMPTS - 1]
    assert outage.reason is Reason.LOCAL_NETWORK_DOWN


def test_names_that_fail_are_the_resolver_s() -> None:
    """The reason tells where to look."""
    outage = Outage()
    fail(outage, ATTEMPTS, Reason.DNS_TEMPORARY)
    assert outage.reason is Reason.LOCAL_DNS_DOWN


def test_few_dead_hosts_are_no_outage() -> None:
    """A list of one dead host proves nothing about the network."""
    outage = Outage()
    assert not any(fail(outage, 10 * ATTEMPTS, hosts=HOSTS - 1))


@pytest.mark.parametrize(
    "reason", [Reason.DNS_NXDOMAIN, Reason.CONNECT_REFUSED, Reason.HTTP_NOT_FOUND, Reason.HOST_UNAVAILABLE]
)
def test_answers_are_no_outage(reason: Reason) -> None:
    """No such name, refused, not found: somebody was reached. And who was not asked proves nothing."""
    assert not any(fail(Outage(), 10 * ATTEMPTS, reason))


def test_a_fifth_of_answers_is_no_outage() -> None:
    """Most failures are not enough, nearly all have to be."""
    outage = Outage()
    for index in range(10 * ATTEMPTS):
        host = f"host{index % 50}"
        assert not (outage.reached(host) if index % 5 == 0 else outage.failed(host, Reason.CONNECT_TIMEOUT, 0))


def test_probes_come_one_at_a_time_and_more_slowly() -> None:
    """In an outage nothing starts but a probe, and an answer ends it at once."""
    outage = Outage()
    assert outage.may_start(0)
    assert not outage.started()
    fail(outage, ATTEMPTS)
    assert (outage.reason, outage.confirmed) == (Reason.LOCAL_NETWORK_DOWN, False)
    assert [outage.confirm(), outage.confirm()] == [True, False]
    now, gaps = 0.0, []
    for _ in range(8):
        wake_at = outage.wake_at()
        assert wake_at is not None
        gaps.append(wake_at - now)
        now = wake_at
        assert outage.may_start(now)
        assert outage.started()
        assert not outage.may_start(now + 1000)
        assert outage.wake_at() is None
        outage.probe_failed(now)
    assert gaps[:3] == [0, PROBE_EVERY, 2 * PROBE_EVERY]
    assert gaps[-1] == SLOWEST_PROBE
    assert outage.reached("host")
    assert outage.reason is None
    assert not any(fail(outage, ATTEMPTS - 2)), "what was before is forgotten, and one has answered"


def test_a_suspicion_is_no_outage() -> None:
    """An answer ends it, and nothing has been out."""
    outage = Outage()
    fail(outage, ATTEMPTS)
    assert not outage.reached("host")
    assert outage.reason is None


def test_old_attempts_do_not_count() -> None:
    """Only the last ones do: a good hour before does not hide an outage, nor a bad one before make one."""
    outage = Outage()
    for index in range(5 * ATTEMPTS):
        outage.reached(f"host{index}")
    assert sum(fail(outage, ATTEMPTS)) == 1


def test_what_an_outage_may_have_caused_is_worth_another_run() -> None:
    """A doubtful failure is never one that would fail the same way again."""
    assert all(reason.worth_retrying for reason in DOUBTFUL)
    assert UNREACHED < DOUBTFUL
    assert not any(reason.retry is Retry.LOCAL for reason in DOUBTFUL)
    assert not set(itertools.chain(DOUBTFUL)) & {Reason.DNS_NXDOMAIN, Reason.HTTP_NOT_FOUND}
