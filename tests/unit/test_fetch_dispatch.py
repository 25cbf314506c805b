"""The life of a row inside a fetcher, without any I/O."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import FetchConfig
from penstock.fetch.budget import ByteBudget
from penstock.fetch.policy.answers import Body
from penstock.fetch.policy.dispatch import FIRST_GUESS, PATIENCE, Dispatch, Done, Job
from penstock.fetch.policy.retry import AttemptError
from penstock.records import Failure, Fetched, Reason, Request, Row


def row_of(index: int, *urls: str | None) -> Row:
    return Row(index, tuple(Request(f"part{i}", url) for i, url in enumerate(urls)))


def nothing() -> None:
    pass


def make(**options: int) -> tuple[Dispatch, ByteBudget]:
    budget = ByteBudget(10 * FIRST_GUESS)
    return Dispatch(FetchConfig(**options), budget, nothing, uniform=lambda: 0.5), budget  # type: ignore[arg-type]


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
    assert dispatch.failed(take(dispatch, 10), AttemptError(Reason.HTTP_SERVER_ERROR), 11) == []
    assert dispatch.next(11.4) == (None, [])
    assert dispatch.wake_at() == 11.5
    job = take(dispatch, 11.5)
    job.head_came = 12.5
    ((_, parts),) = dispatch.succeeded(job, Body(b"data", 200), 14)
    assert parts == (Fetched("part0", b"data", 200, 2, 4.0, 1.5),)
    assert budget.used == 4


def test_a_failure_took_all_of_its_attempts() -> None:
    """Its time goes from the start of the first attempt to the end of the last, with the pause between them."""
    dispatch, _ = make(retries=1)
    dispatch.admit(row_of(0, "http://host/"), 0)
    dispatch.failed(take(dispatch, 10), AttemptError(Reason.HTTP_SERVER_ERROR), 11)
    ((_, parts),) = dispatch.failed(take(dispatch, 11.5), AttemptError(Reason.HTTP_SERVER_ERROR), 14)
    assert parts == (Failure(Reason.HTTP_SERVER_ERROR, attempts=2, seconds=4.0),)


def test_a_row_waits_for_all_of_its_parts() -> None:
    """Parts run at the same time, and keep their order whatever the order of their ends."""
    dispatch, budget = make()
    assert dispatch.admit(row_of(0, "http://a/", None, "http://b/"), 0) == []
    first, second = take(dispatch), take(dispatch)
    assert dispatch.succeeded(second, Body(b"second", 200), 1) == []
    ((_, parts),) = dispatch.succeeded(first, Body(b"first", 200), 2)
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
    dispatch.failed(waiting, AttemptError(Reason.CONNECT_REFUSED), 0)
    dispatch.failed(first, AttemptError(Reason.HTTP_RATE_LIMITED, retry_after=20, host_key="to"), 0)
    assert take(dispatch, 1).target.host == "from"
    assert dispatch.next(19) == (None, [])
    assert take(dispatch, 20).target.host == "to"


def test_a_host_that_asks_for_hours_is_not_waited_for() -> None:
    """Its other rows fail without a request until the time is over; those of other hosts go on."""
    dispatch, _ = make(per_host=1, retries=1)
    for index, host in enumerate(["limited", "limited", "limited", "free"]):
        dispatch.admit(row_of(index, f"http://{host}/"), 0)
    job = take(dispatch)
    (done,) = dispatch.failed(job, AttemptError(Reason.HTTP_RATE_LIMITED, retry_after=PATIENCE + 1), 0)
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
    dispatch = Dispatch(FetchConfig(), budget, lambda: woken.append(1))
    for index in range(3):
        dispatch.admit(row_of(index, f"http://host{index}/"), 0)
    first, _ = take(dispatch), take(dispatch)
    assert dispatch.next(0) == (None, [])
    dispatch.succeeded(first, Body(b"x", 200), 1)
    assert woken == []
    budget.release(1)
    assert woken == [1]
    assert take(dispatch).reserved < FIRST_GUESS


def _play(draw: Callable[[st.SearchStrategy[int]], int], dispatch: Dispatch, rows: int) -> list[Done]:
    """Let every attempt end in a way of its own until nothing is left."""
    done: list[Done] = []
    for index in range(rows):
        done += dispatch.admit(row_of(index, *[f"http://host{draw(st.integers(0, 2))}/"] * (1 + index % 3)), 0)
    now, running = 0.0, []
    reasons = list(Reason)
    while True:
        job, without = dispatch.next(now)
        done += without
        if job is not None:
            running.append(job)
        elif running:
            job = running.pop(draw(st.integers(0, len(running) - 1)))
            kind = draw(st.integers(0, len(reasons)))
            if kind == len(reasons):
                done += dispatch.succeeded(job, Body(b"x" * 1000, 200), now)
            else:
                after = [None, 0.0, 5.0, 1000.0][draw(st.integers(0, 3))]
                done += dispatch.failed(job, AttemptError(reasons[kind], retry_after=after), now)
        elif (wake_at := dispatch.wake_at()) is not None:
            now = max(now, wake_at)
        else:
            return done


@given(st.data(), st.integers(1, 8))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.too_slow])
def test_every_row_is_delivered_once(data: st.DataObject, rows: int) -> None:
    """Whatever happens to the attempts, each row is delivered once, and its reservation is the size of its bytes."""
    dispatch, budget = make(retries=2, per_host=2, connections=4)
    done = _play(data.draw, dispatch, rows)
    assert sorted(row.index for row, _ in done) == list(range(rows))
    assert all(len(parts) == len(row.requests) for row, parts in done)
    sizes = [len(part.data) for _, parts in done for part in parts if isinstance(part, Fetched)]
    assert budget.used == sum(sizes)
    assert all(part.attempts <= 3 for _, parts in done for part in parts)
