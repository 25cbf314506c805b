"""When an attempt is given up."""

from __future__ import annotations

import pytest

from penstock.config import FetchConfig
from penstock.fetch.policy.deadlines import Limits, Stage, Watch
from penstock.records import Reason

LIMITS = Limits(total=30, connect=10, idle=5, window=10, floor=1000)


@pytest.mark.parametrize(
    ("stage", "reason"),
    [(Stage.DNS, Reason.DNS_TIMEOUT), (Stage.CONNECT, Reason.CONNECT_TIMEOUT), (Stage.TLS, Reason.TLS_TIMEOUT)],
)
def test_one_time_for_all_of_connecting(stage: Stage, reason: Reason) -> None:
    """Name, connection and TLS share a deadline, and the phase in which it falls is blamed."""
    watch = Watch(LIMITS, 0)
    watch.stage = stage
    assert watch.overdue(9.9) is None
    assert watch.overdue(10) is reason


def test_the_next_hop_connects_anew() -> None:
    """A redirect's connection has its own time, inside the attempt's."""
    watch = Watch(LIMITS, 27, spent=27)
    assert watch.overdue(29) is None
    assert watch.overdue(30) is Reason.TIMEOUT_TOTAL


def test_a_kept_connection_that_breaks_is_replaced_in_time() -> None:
    """A connection that is made in the middle of an attempt has its own time, too."""
    watch = Watch(LIMITS, 0)
    watch.enter(Stage.HEADERS, 1)
    watch.enter(Stage.DNS, 4)
    assert watch.overdue(13.9) is None
    assert watch.overdue(14) is Reason.DNS_TIMEOUT


@pytest.mark.parametrize("late", [0.0, 0.1, 5.0])
def test_a_host_that_is_not_there_is_told_from_a_slow_one(late: float) -> None:
    """Where both limits are the same, connecting is blamed if there was nothing else, however late its thread begins."""
    watch = Watch(Limits(total=10, connect=10), 0)
    watch.enter(Stage.DNS, late)
    watch.stage = Stage.CONNECT
    assert watch.overdue(9.9) is None
    assert watch.overdue(10.0) is Reason.CONNECT_TIMEOUT


def test_silence_counts_from_the_last_byte() -> None:
    """Each byte that comes starts the idle time anew; headers have it as well."""
    watch = Watch(LIMITS, 0)
    watch.enter(Stage.HEADERS, 1)
    assert watch.overdue(6) is Reason.TIMEOUT_IDLE
    watch.enter(Stage.BODY, 4)
    assert watch.overdue(8, 10_000) is None
    assert watch.overdue(12.9, 10_000) is None
    assert watch.overdue(13, 10_000) is Reason.TIMEOUT_IDLE


def test_the_floor_is_an_average() -> None:
    """A burst pays for a lull in the same window, and not in the next."""
    watch = Watch(LIMITS, 0)
    watch.enter(Stage.BODY, 0)
    assert [watch.overdue(t, n) for t, n in [(3, 9_999), (7, 10_000), (10, 10_001)]] == [None, None, None]
    assert [watch.overdue(t, n) for t, n in [(14, 10_002), (18, 10_003)]] == [None, None]
    assert watch.overdue(20, 10_004) is Reason.TIMEOUT_LOW_SPEED


def test_waiting_for_us_does_not_count() -> None:
    """While the attempt waits for the budget no deadline moves, and all of them go on afterwards."""
    watch = Watch(LIMITS, 0)
    watch.enter(Stage.BODY, 0)
    watch.pause(4)
    assert watch.overdue(1000) is None
    watch.resume(1000)
    assert watch.overdue(1000.9) is None
    assert watch.overdue(1001) is Reason.TIMEOUT_IDLE


def test_limits_of_the_options() -> None:
    """A short --timeout bounds everything else."""
    limits = Limits.of(FetchConfig(timeout=0.5, connect_timeout=10))
    assert (limits.total, limits.connect, limits.idle) == (0.5, 10, 0.5)
    watch = Watch(limits, 0)
    assert watch.overdue(0.5) is Reason.DNS_TIMEOUT
