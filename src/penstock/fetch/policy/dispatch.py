"""The life of a row inside a fetcher, from its URLs to its delivery.

    admit ─▶ check_url ─▶ Schedule ──next──▶ attempt (the fetcher's I/O) ─┬─succeeded─▶ Fetched ─┐
      │                      ▲                                            └─failed─▶ decide ─────┤
      │                      └───────────────── pause ──────────────────────────────┘ (final)    ▼
      └─(bad URL)──────────────────────────────────────────────────────────────▶ Failure ─▶ Done, when all parts are there

Both fetchers drive this one machine and differ only in how they carry out an attempt. Not thread-safe, apart from the
budget; time is passed in.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass

from penstock.config import FetchConfig
from penstock.errors import ItemError
from penstock.fetch.budget import ByteBudget
from penstock.fetch.policy.answers import Body
from penstock.fetch.policy.hosts import Schedule
from penstock.fetch.policy.retry import AttemptError, decide
from penstock.fetch.policy.urls import Target, check_url
from penstock.records import Failure, Fetched, Reason, Retry, Row

__all__ = ["Dispatch", "Done", "Job"]

Done = tuple[Row, tuple[Fetched | Failure, ...]]
"""A row with one entry for each of its requests."""

FIRST_GUESS = 128 * 1024
"""Bytes reserved for a body of which nothing is known; about the median of web images."""

PATIENCE = 300.0
"""Seconds. A host that asks for a longer rest is not waited for: what is queued for it fails as rate limited, without a
request, so that a later run can try again."""


@dataclass(slots=True, eq=False)
class _Ticket:
    """A row on its way."""

    row: Row
    parts: list[Fetched | Failure | None]
    missing: int


@dataclass(slots=True, eq=False)
class Job:
    """One request of a row, and what is known of it between its attempts."""

    ticket: _Ticket
    position: int
    target: Target
    attempts: int = 0
    started: float = 0.0
    """When the first attempt began."""
    reserved: int = 0
    """Bytes that the running attempt has reserved with the budget; kept by whoever runs it."""
    head_came: float = 0.0
    """When the head of the answer came whose body is wanted; kept by whoever runs the attempt."""


class Dispatch:
    """Rows in; attempts to make, and finished rows, out."""

    def __init__(
        self,
        config: FetchConfig,
        budget: ByteBudget,
        wake: Callable[[], None],
        *,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._budget = budget
        self._wake = wake
        self._uniform = uniform
        self._schedule: Schedule[Job] = Schedule(config.connections, config.per_host)
        self._guess = float(FIRST_GUESS)
        self._parked: dict[str, float] = {}
        """Hosts that asked for a rest beyond our patience, and when it ends."""

    def admit(self, row: Row, now: float) -> list[Done]:
        """Take a row; it is done at once if none of its URLs can be fetched."""
        ticket = _Ticket(row, [None] * len(row.requests), len(row.requests))
        done: list[Done] = []
        for position, request in enumerate(row.requests):
            try:
                job = Job(ticket, position, check_url(request.url))
            except ItemError as error:
                done += self._put(ticket, position, error.failure())
            else:
                self._schedule.add(job, job.target.host_key, now)
        return done

    def next(self, now: float) -> tuple[Job | None, list[Done]]:
        """The attempt to start now, with a guess of its size reserved, and rows that are done without one.

        No job means that there is none, or no room for it; `wake` is called when there is room.
        """
        guess = min(int(self._guess), self._config.max_bytes)
        done: list[Done] = []
        while self._schedule.ready(now) and self._budget.admit(guess, self._wake):
            job = self._schedule.take(now)
            assert job is not None, "ready() said so"
            job.reserved = guess
            if not job.attempts:
                job.started = now
            if not self._is_parked(job.target.host_key, now):
                job.attempts += 1
                return job, done
            refusal = ItemError(Reason.HTTP_RATE_LIMITED, f"the host asked for more than {PATIENCE:.0f} s of rest")
            done += self._end(job, refusal, now)
        return None, done

    def is_due(self, now: float) -> bool:
        """Whether `next` would give something, if there is room."""
        return self._schedule.ready(now)

    def wake_at(self) -> float | None:
        """When to ask `next` again though nothing has happened."""
        return self._schedule.wake_at()

    def succeeded(self, job: Job, body: Body, now: float) -> list[Done]:
        """An attempt brought its bytes."""
        size = len(body.data)
        self._guess += (size - self._guess) / 32  # a mean over about the last 32 bodies
        self._schedule.finished(job.target.host_key, now)
        part = job.ticket.row.requests[job.position].part
        fetched = Fetched(part, body.data, body.status, job.attempts, now - job.started, now - job.head_came)
        done = self._put(job.ticket, job.position, fetched)
        self._budget.keep(size - job.reserved)
        return done

    def failed(self, job: Job, error: ItemError, now: float) -> list[Done]:
        """An attempt failed: it is repeated later, or final."""
        retry_after = error.retry_after if isinstance(error, AttemptError) else None
        pause = decide(
            error.reason,
            job.attempts,
            retry_after=retry_after,
            elapsed=now - job.started,
            config=self._config,
            random=self._uniform,
        )
        if error.reason.retry is Retry.HOST:
            answered_by = error.host_key if isinstance(error, AttemptError) else None
            self._rest(answered_by or job.target.host_key, retry_after if pause is None else pause, now)
        if pause is None:
            return self._end(job, error, now)
        self._schedule.finished(job.target.host_key, now)
        self._schedule.add(job, job.target.host_key, now, pause=pause)
        self._budget.drop(job.reserved)
        return []

    def _end(self, job: Job, error: ItemError, now: float) -> list[Done]:
        self._schedule.finished(job.target.host_key, now)
        failure = dataclasses.replace(error.failure(job.attempts), seconds=now - job.started)
        done = self._put(job.ticket, job.position, failure)
        self._budget.drop(job.reserved)
        return done

    def _rest(self, host: str, pause: float | None, now: float) -> None:
        if pause is not None and pause > PATIENCE:
            self._parked[host] = now + pause
        elif pause is not None:
            self._schedule.hold(host, now, pause)

    def _is_parked(self, host: str, now: float) -> bool:
        until = self._parked.get(host)
        if until is not None and until <= now:
            del self._parked[host]
        return until is not None and until > now

    def _put(self, ticket: _Ticket, position: int, part: Fetched | Failure) -> list[Done]:
        """One part is settled; the row is done with its last one."""
        ticket.parts[position] = part
        ticket.missing -= 1
        if ticket.missing:
            return []
        self._budget.reserve(0)
        return [(ticket.row, tuple(part for part in ticket.parts if part is not None))]
