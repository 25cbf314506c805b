"""The life of a row inside a fetcher, without any I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import FetchConfig
from penstock.errors import ItemError, LocalError
from penstock.fetch.budget import ByteBudget
from penstock.fetch.policy import dispatch as dispatch_policy
from penstock.fetch.policy import outage as outage_policy
from penstock.fetch.policy.answers import Body
from penstock.fetch.policy.dispatch import FIRST_GUESS, LOCAL_PATIENCE, LOCAL_PAUSE, PATIENCE, Dispatch
from penstock.fetch.policy.job import Done, Job
from penstock.fetch.policy.manners import DEAD, REST
from penstock.fetch.policy.outage import ATTEMPTS, PROBE_EVERY
from penstock.fetch.policy.retry import AttemptError
from penstock.fetch.policy.urls import check_url
from penstock.records import Failure, Fetched, Kind, Reason, Request, Retry, Row


def row_of(index: int, *urls: str | None) -> Row:
    return Row(index, tuple(Request(f"part{i}", url) for i, url in enumerate(urls)))


def nothing() -> None:
    pass


def make(**options: Any) -> tuple[Dispatch, ByteBudget]:
    budget = ByteBudget(10 * FIRST_GUESS)
    config = FetchConfig(**{"robots": "ignore", **options})
    return Dispatch(config, budget, nothing, uniform=lambda: 0.5), budget


def take(dispatch: Dispatch, now: float = 0) -> Job:
    job, done = dispatch.next(now)
    assert job is not None
    assert not done
    return job


def test_a_bad_url_is_done_at_once() -> None:
    """No attempt, no slot, and the reason of the policy; the flow may release it like any other row."""
    dispatch, budget = make()
    ((row, parts),) = dispatch.admit(row_of(0, "ftp://host/"), 0)
    assert row.index == 0
    assert parts == (Failure(Reason.URL_SCHEME_DENIED, "ftp:"),)
    assert dispatch.next(0) == (None, [])
    budget.release(0)
    assert budget.used == 0


def test_attempts_and_seconds_add_up() -> None:
    """The outcome counts all attempts, and the time from the start of the first one, not from the queue."""
    dispatch, budget = make(retries=2)
    dispatch.admit(row_of(0, "http://host/"), 0)
    assert dispatch.ended(take(dispatch, 10), AttemptError(Reason.HTTP_SERVER_ERROR), 11) == []
    assert dispatch.next(11.4) == (None, [])
    assert dispatch.wake_at() == 11.5
    job = take(dispatch, 11.5)
    job.head_came = 12.5
    ((_, parts),) = dispatch.ended(job, Body(b"data", 200), 14)
    assert parts == (Fetched("part0", b"data", 200, 2, 4.0, 1.5),)
    assert budget.used == 4


def test_a_failure_took_all_of_its_attempts() -> None:
    """Its time goes from the start of the first attempt to the end of the last, with the pause between them."""
    dispatch, _ = make(retries=1)
    dispatch.admit(row_of(0, "http://host/"), 0)
    dispatch.ended(take(dispatch, 10), AttemptError(Reason.HTTP_SERVER_ERROR), 11)
    ((_, parts),) = dispatch.ended(take(dispatch, 11.5), AttemptError(Reason.HTTP_SERVER_ERROR), 14)
    assert parts == (Failure(Reason.HTTP_SERVER_ERROR, attempts=2, seconds=4.0),)


def test_a_row_waits_for_all_of_its_parts() -> None:
    """Parts run at the same time, and keep their order whatever the order of their ends."""
    dispatch, budget = make()
    assert dispatch.admit(row_of(0, "http://a/", None, "http://b/"), 0) == []
    first, second = take(dispatch), take(dispatch)
    assert dispatch.ended(second, Body(b"second", 200), 1) == []
    ((_, parts),) = dispatch.ended(first, Body(b"first", 200), 2)
    assert [part.data if isinstance(part, Fetched) else part.reason for part in parts] == [
        b"first",
        Reason.URL_MISSING,
        b"second",
    ]
    assert budget.used == len(b"firstsecond")


def test_the_limited_host_of_a_redirect_is_held() -> None:
    """Who answered 429 is left alone, not who redirected there."""
    dispatch, _ = make(retries=1, per_host=1)
    for index, host in enumerate(["from", "from", "to"]):
        dispatch.admit(row_of(index, f"http://{host}/"), 0)
    first = take(dispatch)
    waiting = take(dispatch)
    assert waiting.target.host == "to"
    dispatch.ended(waiting, AttemptError(Reason.CONNECT_REFUSED), 0)
    dispatch.ended(first, check_url("http://to/"), 0)
    assert take(dispatch).target.host == "from"
    dispatch.ended(take(dispatch), AttemptError(Reason.HTTP_RATE_LIMITED, retry_after=20), 0)
    assert dispatch.next(19) == (None, [])
    assert take(dispatch, 20).target.host == "to"


def test_a_host_that_asks_for_hours_is_not_waited_for() -> None:
    """Its other rows fail without a request until the time is over; those of other hosts go on."""
    dispatch, _ = make(per_host=1, retries=1)
    for index, host in enumerate(["limited", "limited", "limited", "free"]):
        dispatch.admit(row_of(index, f"http://{host}/"), 0)
    job = take(dispatch)
    (done,) = dispatch.ended(job, AttemptError(Reason.HTTP_RATE_LIMITED, retry_after=PATIENCE + 1), 0)
    assert isinstance(done[1][0], Failure)
    next_job, done_without = dispatch.next(0)
    assert next_job is not None
    assert next_job.target.host == "free"
    rest = done_without + dispatch.next(0)[1]
    failures = [parts[0] for _, parts in rest]
    assert [(f.reason, f.attempts) for f in failures if isinstance(f, Failure)] == [(Reason.HTTP_RATE_LIMITED, 0)] * 2
    dispatch.admit(row_of(4, "http://limited/"), PATIENCE + 2)
    assert take(dispatch, PATIENCE + 2).target.host == "limited"


def test_no_room_no_attempt() -> None:
    """An attempt begins only with a guess of its size reserved; the guess follows what comes."""
    woken: list[int] = []
    budget = ByteBudget(2 * FIRST_GUESS)
    dispatch = Dispatch(FetchConfig(robots="ignore"), budget, lambda: woken.append(1))
    for index in range(3):
        dispatch.admit(row_of(index, f"http://host{index}/"), 0)
    first, _ = take(dispatch), take(dispatch)
    assert dispatch.next(0) == (None, [])
    dispatch.ended(first, Body(b"x", 200), 1)
    assert woken == []
    budget.release(1)
    assert woken == [1]
    assert take(dispatch).reserved < FIRST_GUESS


def _play(
    draw: Callable[[st.SearchStrategy[int]], int],
    dispatch: Dispatch,
    rows: int,
    reasons: Sequence[Reason],
    patience: int,
) -> list[Done]:
    """Let every attempt end in a way of its own until nothing is left; after `patience` failures all goes well."""
    done: list[Done] = []
    for index in range(rows):
        done += dispatch.admit(row_of(index, *[f"http://host{draw(st.integers(0, 2))}/"] * (1 + index % 3)), 0)
    now, running = 0.0, []
    for _ in range(10_000):  # an attempt that ends leads on: it cannot take more
        job, without = dispatch.next(now)
        done += without
        if job is not None:
            running.append(job)
        elif running:
            job = running.pop(draw(st.integers(0, len(running) - 1)))
            kind = draw(st.integers(0, len(reasons))) if patience else len(reasons)
            if kind == len(reasons):
                done += dispatch.ended(job, Body(b"x" * 1000, 200), now)
            else:
                patience -= 1
                after = [None, 0.0, 5.0, 1000.0][draw(st.integers(0, 3))]
                done += dispatch.ended(job, AttemptError(reasons[kind], retry_after=after), now)
                now += draw(st.integers(0, 5))
        elif (wake_at := dispatch.wake_at()) is not None:
            now = max(now, wake_at)
        else:
            return done
    raise AssertionError("it never ends")


@given(st.data(), st.integers(1, 8))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.too_slow])
def test_every_row_is_delivered_once(data: st.DataObject, rows: int) -> None:
    """Whatever happens to the attempts, each row is delivered once, and its reservation is the size of its bytes."""
    dispatch, budget = make(
        retries=2, per_host=2, connections=4, robots=data.draw(st.sampled_from(["ignore", "respect"]))
    )
    reasons = [reason for reason in Reason if reason.retry is not Retry.LOCAL]
    done = _play(data.draw, dispatch, rows, reasons, 1000)
    assert sorted(row.index for row, _ in done) == list(range(rows))
    assert all(len(parts) == len(row.requests) for row, parts in done)
    sizes = [len(part.data) for _, parts in done for part in parts if isinstance(part, Fetched)]
    assert budget.used == sum(sizes)
    assert all(part.attempts <= 3 for _, parts in done for part in parts)


@given(st.data(), st.integers(3, 8))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large])
def test_every_row_is_delivered_once_whatever_outages_come(data: st.DataObject, rows: int) -> None:
    """The same where a few failures make an outage, and this machine lacks things at times."""
    reasons = [Reason.CONNECT_UNREACHABLE, Reason.DNS_TEMPORARY, Reason.LOCAL_DESCRIPTORS, Reason.HTTP_NOT_FOUND]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outage_policy, "ATTEMPTS", 4)
        patch.setattr(outage_policy, "HOSTS", 2)
        patch.setattr(dispatch_policy, "LOCAL_PATIENCE", math.inf)
        dispatch, budget = make(retries=1, connections=4)
        done = _play(data.draw, dispatch, rows, reasons, 40)
    assert sorted(row.index for row, _ in done) == list(range(rows))
    assert budget.used == sum(len(part.data) for _, parts in done for part in parts if isinstance(part, Fetched))
    assert not any(part.reason.retry is Retry.LOCAL for _, parts in done for part in parts if isinstance(part, Failure))


def reasons_of(done: list[Done]) -> list[tuple[int, Reason | None]]:
    return [(row.index, part.reason if isinstance(part, Failure) else None) for row, (part,) in done]


def test_robots_txt_is_asked_before_the_first_row_of_an_origin() -> None:
    """Once; rows wait for it, and what it forbids is skipped without a request."""
    dispatch, budget = make(robots="respect")
    for index, path in enumerate(["good.jpg", "private/x.jpg", "also.jpg"]):
        dispatch.admit(row_of(index, f"http://host/{path}"), 0)
    asking = take(dispatch)
    assert asking.target.url == "http://host/robots.txt"
    assert dispatch.wish(asking).cut
    assert dispatch.next(0) == (None, [])
    assert dispatch.ended(asking, Body(b"User-agent: *\nDisallow: /private", 200), 1) == []
    assert take(dispatch, 1).target.path == "/good.jpg"
    job, done = dispatch.next(1)
    assert job is not None
    assert job.target.path == "/also.jpg"
    assert reasons_of(done) == [(1, Reason.OPTOUT_ROBOTS)]
    assert Reason.OPTOUT_ROBOTS.kind is Kind.SKIPPED
    assert budget.used == 2 * job.reserved


def test_rows_of_a_host_that_is_not_there_share_the_failure_of_its_robots_txt() -> None:
    """They would fail the same way: so they do, with its attempts, and without one of their own."""
    dispatch, budget = make(robots="respect", retries=1)
    for index in range(3):
        dispatch.admit(row_of(index, f"http://host/{index}"), 0)
    for now in (0, 1):
        assert dispatch.ended(take(dispatch, now), AttemptError(Reason.CONNECT_REFUSED), now) == []
    job, done = dispatch.next(1)
    assert job is None
    assert reasons_of(done) == [(index, Reason.CONNECT_REFUSED) for index in range(3)]
    assert {part.attempts for _, parts in done for part in parts} == {2}
    assert budget.used == 0


def test_a_crawl_delay_is_kept() -> None:
    """One request at a time, with the pause that the host asks for; one that is too long is a refusal."""
    dispatch, _ = make(robots="respect")
    for index in range(3):
        dispatch.admit(row_of(index, f"http://slow/{index}"), 0)
    dispatch.admit(row_of(3, "http://never/"), 0)
    for delay in (b"10", b"3600"):
        job = take(dispatch)
        assert dispatch.ended(job, Body(b"User-agent: *\nCrawl-delay: " + delay, 200), 0) == []
    first, done = dispatch.next(0)
    assert first is not None
    rest = done + dispatch.next(0)[1]
    assert reasons_of(rest) == [(3, Reason.OPTOUT_ROBOTS)]
    dispatch.ended(first, Body(b"x", 200), 1)
    assert dispatch.next(9) == (None, [])
    assert dispatch.wake_at() == 10
    take(dispatch, 10)
    assert dispatch.next(25) == (None, []), "one at a time"


def test_a_redirect_waits_for_its_host_s_turn_and_its_robots_txt() -> None:
    """The hop is the target's request: its limits hold, its robots.txt is asked, and the attempt is the same one."""
    dispatch, _ = make(robots="respect", retries=0)
    dispatch.admit(row_of(0, "https://from/"), 0)
    dispatch.ended(take(dispatch), Body(b"", 200), 0)
    job = take(dispatch, 1)
    assert dispatch.ended(job, check_url("http://to/x"), 3) == []
    asking = take(dispatch, 3)
    assert asking.target.url == "http://to/robots.txt"
    dispatch.ended(asking, AttemptError(Reason.HTTP_NOT_FOUND, http_status=404), 4)
    again = take(dispatch, 4)
    assert (again, again.hops, again.attempts, again.spent) == (job, 1, 1, 2)
    ((_, (part,)),) = dispatch.ended(job, Body(b"x", 200), 5)
    assert isinstance(part, Fetched)
    assert part.downgraded
    assert part.attempts == 1


def test_a_failed_hop_begins_again_at_the_beginning() -> None:
    """The next attempt asks the row's own URL."""
    dispatch, _ = make(retries=1)
    dispatch.admit(row_of(0, "http://from/"), 0)
    job = take(dispatch)
    dispatch.ended(job, check_url("http://to/"), 0)
    assert take(dispatch).target.host == "to"
    dispatch.ended(job, AttemptError(Reason.HTTP_SERVER_ERROR, http_status=500), 0)
    assert take(dispatch, 10).target.host == "from"
    assert (job.attempts, job.hops) == (2, 0)


def test_rows_of_a_dead_host_cost_five_attempts() -> None:
    """Then the rest fails at once, without a request, until the host has had its rest."""
    dispatch, budget = make(retries=0)
    for index in range(100):
        dispatch.admit(row_of(index, "http://dead/"), 0)
    dispatch.admit(row_of(100, "http://alive/"), 0)
    done: list[Done] = []
    attempts = 0
    while True:
        job, without = dispatch.next(0)
        done += without
        if job is None:
            break
        attempts += 1
        if job.target.host == "alive":
            done += dispatch.ended(job, Body(b"x", 200), 0)
        else:
            done += dispatch.ended(job, AttemptError(Reason.CONNECT_TIMEOUT), 0)
    reasons = [reason for _, reason in reasons_of(done)]
    assert attempts == DEAD + 1
    assert reasons.count(Reason.CONNECT_TIMEOUT) == DEAD
    assert reasons.count(Reason.HOST_UNAVAILABLE) == 100 - DEAD
    assert budget.used == 1
    dispatch.admit(row_of(101, "http://dead/"), REST)
    assert take(dispatch, REST).target.host == "dead"


def test_a_failure_in_doubt_counts_when_somebody_answers() -> None:
    """A host that does not answer may be our own fault: until another one answers nobody knows."""
    dispatch, _ = make(retries=0)
    for index, host in enumerate(["dead", "alive", "dead2"]):
        dispatch.admit(row_of(index, f"http://{host}/"), 0)
    dead, alive, other = take(dispatch), take(dispatch), take(dispatch)
    assert dispatch.ended(dead, AttemptError(Reason.CONNECT_TIMEOUT), 1) == []
    done = dispatch.ended(alive, AttemptError(Reason.HTTP_NOT_FOUND, http_status=404), 2)
    assert reasons_of(done) == [(0, Reason.CONNECT_TIMEOUT), (1, Reason.HTTP_NOT_FOUND)]
    assert reasons_of(dispatch.ended(other, AttemptError(Reason.DNS_TIMEOUT), 3)) == [(2, Reason.DNS_TIMEOUT)], (
        "the last"
    )


def outage(dispatch: Dispatch, rows: int) -> None:
    """The network goes down under so many rows, each of another host; one host has answered before."""
    dispatch.admit(row_of(rows, "http://good/"), 0)
    dispatch.ended(take(dispatch), AttemptError(Reason.HTTP_NOT_FOUND, http_status=404), 0)
    for index in range(rows):
        dispatch.admit(row_of(index, f"http://host{index}/"), 0)
    for _ in range(ATTEMPTS - 1):
        assert dispatch.ended(take(dispatch), AttemptError(Reason.CONNECT_UNREACHABLE), 0) == []
    probe = take(dispatch)
    assert probe.target.url == "http://good/robots.txt"
    assert dispatch.next(0) == (None, []), "nothing else begins"
    assert dispatch.ended(probe, AttemptError(Reason.CONNECT_UNREACHABLE), 0) == []


def test_an_outage_fails_no_row() -> None:
    """All attempts of an outage are given back: when the network is back, every row has all of its own."""
    dispatch, budget = make(retries=0, connections=ATTEMPTS)
    outage(dispatch, ATTEMPTS + 10)
    assert dispatch.next(0) == (None, [])
    assert dispatch.statistics(5).trouble == "local.network_down"
    assert dispatch.wake_at() == PROBE_EVERY
    probe = take(dispatch, PROBE_EVERY)
    assert dispatch.next(PROBE_EVERY + 1) == (None, []), "one probe at a time"
    assert dispatch.ended(probe, AttemptError(Reason.CONNECT_UNREACHABLE), 2) == []
    now = dispatch.wake_at()
    assert now is not None
    done = dispatch.ended(take(dispatch, now), AttemptError(Reason.HTTP_NOT_FOUND, http_status=404), now)
    for job in iter(lambda: dispatch.next(now)[0], None):
        done += dispatch.ended(job, Body(b"x", 200), now)
        budget.release(1)
    assert sorted(reasons_of(done)) == [(index, None) for index in range(ATTEMPTS + 10)]
    assert {part.attempts for _, parts in done for part in parts} == {1}
    statistics = dispatch.statistics(now)
    assert statistics.trouble == ""
    assert statistics.trouble_seconds == {"local.network_down": now}
    assert statistics.given_back == ATTEMPTS - 1


def test_many_dead_hosts_are_no_outage_while_one_answers() -> None:
    """The end of a list may be nothing but dead hosts: one that has answered before is asked, and so they count."""
    dispatch, _ = make(retries=0, connections=1000)
    dispatch.admit(row_of(1000, "http://good/"), 0)
    dispatch.ended(take(dispatch), Body(b"x", 200), 0)
    for index in range(ATTEMPTS + 50):
        dispatch.admit(row_of(index, f"http://dead{index}/"), 0)
    done: list[Done] = []
    now = 0.0
    while len(done) < ATTEMPTS + 50:
        job, without = dispatch.next(now)
        done += without
        assert job is not None
        now += 1
        answer = Body(b"", 200) if job.target.host == "good" else AttemptError(Reason.CONNECT_TIMEOUT)
        done += dispatch.ended(job, answer, now)
    assert sorted(reasons_of(done)) == [(index, Reason.CONNECT_TIMEOUT) for index in range(ATTEMPTS + 50)]
    assert dispatch.statistics(now).trouble_seconds == {}


def test_a_proxy_that_dies_is_an_outage() -> None:
    """It refuses every connection: no row fails by that."""
    dispatch, _ = make(retries=0, proxy="http://127.0.0.1:1")
    for index in range(ATTEMPTS + 10):
        dispatch.admit(row_of(index, f"http://host{index}/"), 0)
    for _ in range(ATTEMPTS):
        assert dispatch.ended(take(dispatch), AttemptError(Reason.CONNECT_REFUSED), 0) == []
    assert dispatch.statistics(0).trouble == "local.network_down"


def test_a_robots_txt_in_doubt_does_not_keep_its_rows_for_ever() -> None:
    """Where a host has one request at a time, its second row comes to wait when nobody is left who could answer."""
    dispatch, _ = make(robots="respect", retries=0, per_host=1)
    for index in range(2):
        dispatch.admit(row_of(index, "http://dead/"), 0)
    assert dispatch.ended(take(dispatch), AttemptError(Reason.CONNECT_TIMEOUT), 0) == []
    done: list[Done] = []
    for _ in range(4):
        job, without = dispatch.next(0)
        assert job is None
        done += without
    assert sorted(reasons_of(done)) == [(index, Reason.CONNECT_TIMEOUT) for index in range(2)]


def test_what_began_in_an_outage_and_failed_after_it_is_forgiven() -> None:
    """Attempts that were under way when the network came back had no chance either."""
    budget = ByteBudget(1000 * FIRST_GUESS)
    config = FetchConfig(retries=0, connections=ATTEMPTS + 10, robots="ignore")
    dispatch = Dispatch(config, budget, nothing)
    outage_rows = ATTEMPTS + 2
    for index in range(outage_rows):
        dispatch.admit(row_of(index, f"http://host{index}/"), 0)
    jobs = [take(dispatch) for _ in range(outage_rows)]
    for job in jobs[:ATTEMPTS]:
        dispatch.ended(job, AttemptError(Reason.CONNECT_UNREACHABLE), 0)
    assert dispatch.statistics(1).trouble == "local.network_down", "nobody has ever answered"
    done = dispatch.ended(jobs[-2], Body(b"x", 200), 1)
    assert dispatch.ended(jobs[-1], AttemptError(Reason.CONNECT_TIMEOUT), 2) == []
    for again in iter(lambda: dispatch.next(2)[0], None):
        done += dispatch.ended(again, Body(b"x", 200), 2)
        budget.release(1)
    assert sorted(reasons_of(done)) == [(index, None) for index in range(outage_rows)]


def test_an_outage_can_be_ignored() -> None:
    """Then every failure counts at once."""
    dispatch, _ = make(retries=0, connections=ATTEMPTS, outage="ignore")
    for index in range(ATTEMPTS + 10):
        dispatch.admit(row_of(index, f"http://host{index}/"), 0)
        done = dispatch.ended(take(dispatch), AttemptError(Reason.CONNECT_UNREACHABLE), 0)
        assert reasons_of(done) == [(index, Reason.CONNECT_UNREACHABLE)]


def test_a_lack_of_descriptors_is_nobody_s_failure() -> None:
    """The attempt is given back and made again with fewer at a time; successes widen it."""
    dispatch, _ = make(retries=0, connections=8)
    for index in range(8):
        dispatch.admit(row_of(index, f"http://host{index}/"), 0)
    jobs = [take(dispatch) for _ in range(8)]
    for job in jobs[4:]:
        assert dispatch.ended(job, ItemError(Reason.LOCAL_DESCRIPTORS, "EMFILE"), 0) == []
    assert dispatch.statistics(1).trouble == "local.descriptors"
    done = dispatch.ended(jobs[0], Body(b"x", 200), LOCAL_PAUSE)
    assert dispatch.statistics(LOCAL_PAUSE).trouble == ""
    taken = list(iter(lambda: dispatch.next(LOCAL_PAUSE)[0], None))
    assert len(taken) == 2, "three still run, and five may"
    for job in (*jobs[1:4], *taken):
        done += dispatch.ended(job, Body(b"x", 200), 1)
    for job in iter(lambda: dispatch.next(1)[0], None):
        done += dispatch.ended(job, Body(b"x", 200), 1)
    assert sorted(reasons_of(done)) == [(index, None) for index in range(8)]
    assert {part.attempts for _, parts in done for part in parts} == {1}


def test_a_lack_that_lasts_stops_the_run() -> None:
    """Waiting for ever would be a hang."""
    dispatch, _ = make()
    dispatch.admit(row_of(0, "http://host/"), 0)
    dispatch.ended(take(dispatch), ItemError(Reason.LOCAL_DESCRIPTORS, "EMFILE"), 0)
    with pytest.raises(LocalError, match="ulimit"):
        dispatch.ended(take(dispatch, 1), ItemError(Reason.LOCAL_DESCRIPTORS, "EMFILE"), LOCAL_PATIENCE + 1)


def test_names_are_looked_up_again_when_very_many_do_not_exist() -> None:
    """A resolver in trouble may say so of every name; a second look is cheap, and comes once."""
    dispatch, _ = make(retries=2, connections=512)
    for index in range(60):
        dispatch.admit(row_of(index, f"http://host{index}/"), 0)
    ended = [bool(dispatch.ended(take(dispatch), AttemptError(Reason.DNS_NXDOMAIN), 0)) for _ in range(60)]
    assert ended == [True] * 40 + [False] * 20
    job = take(dispatch, 40)
    assert job.attempts == 2
    assert reasons_of(dispatch.ended(job, AttemptError(Reason.DNS_NXDOMAIN), 40))


def test_a_row_in_doubt_does_not_wait_for_ever() -> None:
    """When the last row ends without an attempt, nobody is left who could answer: so all that is in doubt counts."""
    dispatch, _ = make(robots="respect", retries=0)
    dispatch.admit(row_of(0, "http://silent/"), 0)
    dispatch.admit(row_of(1, "http://refused/"), 0)
    silent, refused = take(dispatch), take(dispatch)
    assert dispatch.ended(refused, AttemptError(Reason.CONNECT_REFUSED), 0) == []
    assert dispatch.ended(silent, AttemptError(Reason.DNS_TEMPORARY), 0) == []
    job, done = dispatch.next(0)
    assert job is None
    assert sorted(reasons_of(done)) == [(0, Reason.DNS_TEMPORARY), (1, Reason.CONNECT_REFUSED)]
