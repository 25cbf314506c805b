"""The life of a row inside a fetcher, from its URLs to its delivery.

    admit ─▶ check_url ─▶ Schedule ──next──▶ gate ──▶ attempt (the fetcher's I/O) ─┬─succeeded─▶ Fetched ─┐
      │                    ▲ ▲ ▲ ▲            │ │                                  │                      │
      │                    │ │ │ └── robots ──┘ │                                  ├─moved: a redirect    │
      │                    │ │ └────────────────┼──────────────────────────────────┘                      │
      │                    │ └── pause ─────────┼──────── decide ◀─────────────────┴─failed               │
      │                    └── an outage ended ─┼─── limbo ◀──┤ (final)                                   │
      └─(bad URL)──────────────────────────────┴─────────┴───┴───▶ Failure ──────────────────────────────▶ Done

Done is a row, when all its parts are there. Both fetchers drive this one machine and differ only in how they carry out an
attempt. Not thread-safe, apart from the budget; time is passed in.

A failure that an outage of this machine may have caused stays in *limbo* until somebody answers: then it counts. If nobody
does, not even hosts that have answered before, it is this machine (`Outage`), and all such attempts are given back.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable

from penstock.config import FetchConfig
from penstock.errors import ItemError, LocalError
from penstock.fetch.base import FetchStatistics
from penstock.fetch.budget import ByteBudget
from penstock.fetch.policy.answers import Body, Wish
from penstock.fetch.policy.hosts import Schedule
from penstock.fetch.policy.job import Done, Job, Ticket
from penstock.fetch.policy.manners import Manners
from penstock.fetch.policy.optout import RobotsRules
from penstock.fetch.policy.outage import DOUBTFUL, UNREACHED, Outage
from penstock.fetch.policy.retry import AttemptError, RetryBudget, decide
from penstock.fetch.policy.robots import LONGEST_DELAY, RobotsCache, Verdict, verdict_of
from penstock.fetch.policy.trouble import Trouble
from penstock.fetch.policy.urls import Target, UrlRules, check_url
from penstock.fetch.sharing import Sharing
from penstock.records import Failure, Fetched, Reason, Retry, Row

__all__ = ["Dispatch"]

FIRST_GUESS = 128 * 1024
"""Bytes reserved for a body of which nothing is known; about the median of web images."""

PATIENCE = 300.0
"""Seconds. A host that asks for a longer rest is not waited for: what is queued for it fails as rate limited, without a
request, so that a later run can try again."""

LOCAL_PAUSE = 0.5
"""Seconds before an attempt for which this machine had no descriptor, port or buffer is made again. Arbitrary: other
attempts end meanwhile, and give theirs back."""

LOCAL_PATIENCE = 60.0
"""Seconds of such attempts without a single success after which waiting is pointless."""

RECHECK_SHARE, RECHECK_LEAST, RECHECK_PAUSE = 0.2, 200, 31.0
"""When more than this share of at least so many attempts found no such name, the resolver may be at fault: then each name is
looked up a second time, after so many seconds, when the first answer has left the cache."""

KNOWN_GOOD = 8
"""Hosts that have answered last, and are asked first whether this machine is still on the network."""

MAX_PARKED = 65_536
"""Hosts that are remembered for having asked for a long rest; the oldest goes first."""

_SHORTAGES = (Reason.LOCAL_DESCRIPTORS, Reason.LOCAL_PORTS)
_OVERLOAD = frozenset({Reason.HTTP_RATE_LIMITED, Reason.CONNECT_TIMEOUT, Reason.TLS_TIMEOUT})
_UNANSWERED = (DOUBTFUL - {Reason.HOST_UNAVAILABLE}) | {Reason.CONNECT_REFUSED}


class Dispatch:
    """Rows in; attempts to make, and finished rows, out.

    Args:
        config: what may be fetched, how wide, how patiently.
        budget: bounds the bytes of all attempts.
        wake: called, from any thread, when there is room again for an attempt.
        alone: it serves one row at a time, whose worker is under a deadline and does nothing else meanwhile: so no host is
            waited for longer than an attempt may take, an outage cannot be told from a dead host, and what this machine
            lacks is waited for as long as the deadline allows.
        sharing: of the limits at each host with other lanes of the run; None if there are no others.
        uniform: random numbers in [0, 1), for the pauses.
    """

    def __init__(
        self,
        config: FetchConfig,
        budget: ByteBudget,
        wake: Callable[[], None],
        *,
        alone: bool = False,
        sharing: Sharing | None = None,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._rules = UrlRules.of(config)
        self._config = config
        self._budget = budget
        self._wake = wake
        self._uniform = uniform
        self._manners = Manners(config.per_host)
        self._sharing = sharing
        self._schedule = self._make_schedule()
        self._robots: RobotsCache[Job] | None = RobotsCache() if config.robots == "respect" else None
        self._retries = RetryBudget()
        self._trouble = Trouble()
        # A proxy that is gone refuses: for whoever has one, that is an outage.
        unreached = UNREACHED | {Reason.CONNECT_REFUSED} if config.proxy else UNREACHED
        self._doubtful = DOUBTFUL | unreached
        self._outage = Outage(unreached) if config.outage == "wait" and not alone else None
        self._known_good: dict[str, Target] = {}
        """What was asked last of each of these hosts; the host that was asked longest ago comes first."""
        self._patience = min(PATIENCE, config.timeout) if alone else PATIENCE
        self._allowance = config.row_timeout if alone else math.inf
        self._short_since: float | None = None
        """Since when this machine has lacked descriptors or ports, without a connection in between."""
        self._outages = 0
        self._back_at = -1.0
        """When the last outage ended."""
        self._limbo: list[tuple[Job, ItemError]] = []
        self._guess = float(FIRST_GUESS)
        self._parked: dict[str, float] = {}
        """Hosts that asked for a rest beyond our patience, and when it ends."""
        self._attempts = self._nameless = self._given_back = 0

    def _make_schedule(self) -> Schedule[Job]:
        sharing, manners = self._sharing, self._manners
        if sharing is None:
            return Schedule(self._config.connections, manners.limit)
        sharing.attach(self._wake)

        def note(host: str, active: int, queued: int) -> None:
            """Claim no more than the host would be asked for if this lane were alone."""
            sharing.note(host, active, min(queued, max(0, manners.limit(host) - active)))

        return Schedule(
            self._config.connections,
            lambda host: min(manners.limit(host), sharing.limit(host)),
            note=note,
            lock=sharing.lock,
        )

    def admit(self, row: Row, now: float) -> list[Done]:
        """Take a row; it is done at once if none of its URLs can be fetched."""
        ticket = Ticket(row, [None] * len(row.requests), len(row.requests), now)
        done: list[Done] = []
        for position, request in enumerate(row.requests):
            try:
                if request.refused is not None:
                    raise ItemError(request.refused)  # noqa: TRY301 - one way out
                target = check_url(request.url, self._rules)
            except ItemError as error:
                done += self._put(ticket, position, error.failure())
            else:
                self._schedule.add(Job(target, self._config.max_bytes, ticket, position), target.host_key, now)
        return done

    def next(self, now: float) -> tuple[Job | None, list[Done]]:
        """The attempt to start now, with a guess of its size reserved, and rows that are done without one.

        No job means that there is none, or no room for it; `wake` is called when there is room.
        """
        guess = min(int(self._guess), self._config.max_bytes)
        done: list[Done] = []
        while self.is_due(now) and self._budget.admit(guess, self._wake):
            if self._must_probe:
                return self._probe(guess, now), done
            job = self._schedule.take(now)
            if job is None:  # a slot was given back in between
                self._budget.drop(guess)
                continue
            job.reserved = guess
            answer = self._gate(job, now)
            if isinstance(answer, Job):
                self._begin(answer, now)
                return answer, done
            if answer is not None:
                done += self._end(job, answer, now)
            else:
                self._leave(job, now)
        return None, done + self._release_if_idle(now)

    def is_due(self, now: float) -> bool:
        """Whether `next` would give something, if there is room."""
        for host in self._sharing.raised() if self._sharing is not None else ():
            self._schedule.look(host, now)
        may_start = self._outage is None or self._outage.may_start(now)
        return may_start and (self._must_probe or self._schedule.ready(now))

    def wake_at(self) -> float | None:
        """When to ask `next` again though nothing has happened."""
        rested = self._schedule.wake_at()
        if self._outage is None or self._outage.reason is None:
            return rested
        probe = self._outage.wake_at()
        if probe is None or self._must_probe or self._schedule.offers:
            return probe
        return None if rested is None else max(probe, rested)

    def wish(self, job: Job) -> Wish:
        """What the present attempt asks for."""
        heed = self._config.opt_outs == "respect" and not job.origin
        return Wish(job.target, job.hops, job.max_bytes, cut=bool(job.origin), heed=heed, rules=self._rules)

    def ended(self, job: Job, answer: Body | Target | ItemError, now: float) -> list[Done]:
        """A hop of an attempt is over, in one of three ways.

        Raises:
            LocalError: this machine lacks something that does not come back.
        """
        if job.is_probe:
            return self._probed(job, answer, now)
        if isinstance(answer, Body):
            return self._succeeded(job, answer, now)
        return self._moved(job, answer, now) if isinstance(answer, Target) else self._failed(job, answer, now)

    def statistics(self, now: float) -> FetchStatistics:
        """What was done beside fetching. From any thread."""
        return FetchStatistics(
            retries=self._retries.spent,
            given_back=self._given_back,
            trouble=self._trouble.reason.value if self._trouble.reason else "",
            trouble_seconds=self._trouble.seconds(now),
        )

    def _succeeded(self, job: Job, body: Body, now: float) -> list[Done]:
        """An attempt brought its bytes."""
        done = self._reached(job.target, now, good=True)
        self._manners.succeeded(job.target.host_key, now)
        if job.origin:
            self._settle_origin(job, RobotsRules.parse(body.data), now)
            self._leave(job, now)
            return done
        size = len(body.data)
        self._guess += (size - self._guess) / 32  # a mean over about the last 32 bodies
        self._schedule.finished(job.target.host_key, now)
        done += self._fill(job, job.fetched(body, now))
        self._budget.keep(size - job.reserved)
        return done

    def _moved(self, job: Job, target: Target, now: float) -> list[Done]:
        """An attempt was sent elsewhere: it goes on there, in that host's turn."""
        done = self._reached(job.target, now, good=True)
        self._manners.succeeded(job.target.host_key, now)
        self._leave(job, now)
        job.follow(target, now)
        self._schedule.add(job, target.host_key, now)
        return done

    def _failed(self, job: Job, error: ItemError, now: float) -> list[Done]:
        """An attempt failed: it is repeated later, or final.

        Raises:
            LocalError: this machine lacks something that does not come back.
        """
        if error.reason.retry is Retry.LOCAL:
            self._give_back(job, error, now)
            return []
        doubtful = error.reason in self._doubtful
        if doubtful and self._in_outage(job, error.reason, now):
            self._refund(job, now)
            return []
        self._learn(job, error, now)
        done = [] if doubtful else self._reached(job.target, now, good=error.http_status is not None)
        retry_after = error.retry_after if isinstance(error, AttemptError) else None
        pause = self._pause(job, error, retry_after, now)
        if error.reason.retry is Retry.HOST:
            self._rest(job.target.host_key, retry_after if pause is None else pause, now)
        if pause is None:
            return done + self._end(job, error, now)
        self._again(job, now, pause)
        return done

    def _gate(self, job: Job, now: float) -> Job | ItemError | None:
        """What the turn of a job is used for: an attempt (its own, or one at robots.txt), a failure, or nothing yet."""
        refusal = self._refusal(job, now)
        if refusal is not None:
            return refusal
        if self._robots is None or job.origin or job.target.stored:
            return job
        verdict = self._robots.look(job.target.origin, now)
        if verdict is not None:
            return self._judged(job, verdict)
        if not self._robots.wait(job.target.origin, job):
            return None
        asking = Job.for_robots(job.target)
        asking.reserved, job.reserved = job.reserved, 0  # it takes the turn over
        return asking

    def _refusal(self, job: Job, now: float) -> ItemError | None:
        """Why a job does not get its turn, if it does not."""
        host = job.target.host_key
        if job.ticket is not None and now - job.ticket.admitted > self._allowance:
            return ItemError(Reason.TIMEOUT_TOTAL, f"all attempts, redirects and rests took {self._allowance:g} s")
        if self._is_parked(host, now):
            return ItemError(Reason.HTTP_RATE_LIMITED, f"the host asked for more than {self._patience:.0f} s of rest")
        return ItemError(Reason.HOST_UNAVAILABLE, host) if self._manners.is_given_up(host, now) else None

    def _judged(self, job: Job, rules: Verdict) -> Job | ItemError:
        if isinstance(rules, ItemError):
            job.attempts = job.attempts or rules.attempts
            return ItemError(rules.reason, rules.detail, http_status=rules.http_status)
        if not rules.allows(job.target.url):
            return ItemError(Reason.OPTOUT_ROBOTS, f"{job.target.origin}/robots.txt")
        if rules.delay > LONGEST_DELAY:
            return ItemError(Reason.OPTOUT_ROBOTS, f"{job.target.origin}/robots.txt: Crawl-delay {rules.delay:g}")
        if rules.delay:
            self._manners.pace(job.target.host_key, rules.delay)
        return job

    def _begin(self, job: Job, now: float) -> None:
        if job.outages != self._outages:  # whatever failed before has failed by the outage
            job.attempts, job.outages = min(job.hops, 1), self._outages
        if not job.attempts:
            job.started = now
        if not job.hops:
            job.attempts += 1
            self._attempts += 1
            self._retries.earn()
        job.began = now
        job.is_trial = self._outage is not None and self._outage.started()
        delay = self._manners.delay(job.target.host_key)
        if delay:
            self._schedule.hold(job.target.host_key, now, delay)

    def _learn(self, job: Job, error: ItemError, now: float) -> None:
        """What a failure says about its host."""
        host = job.target.host_key
        if error.reason in _OVERLOAD or error.reason.phase == "timeout" or error.http_status == 503:
            self._manners.overloaded(host)
        if error.http_status is None and error.reason in _UNANSWERED:
            self._manners.unanswered(host, job.began, now)
        else:
            self._manners.answered(host, now)

    def _pause(self, job: Job, error: ItemError, retry_after: float | None, now: float) -> float | None:
        """Seconds until the next attempt, or None if there is none."""
        if error.reason is Reason.DNS_NXDOMAIN:
            return self._recheck(job)
        pause = decide(
            error.reason,
            job.attempts,
            retry_after=retry_after,
            elapsed=now - job.started,
            config=self._config,
            random=self._uniform,
        )
        return pause if pause is not None and self._retries.spend() else None

    def _recheck(self, job: Job) -> float | None:
        self._nameless += 1
        many = self._nameless > RECHECK_SHARE * max(self._attempts, RECHECK_LEAST)
        return RECHECK_PAUSE if many and job.attempts == 1 and self._config.retries and self._retries.spend() else None

    def _again(self, job: Job, now: float, pause: float = 0.0) -> None:
        """Another attempt, from the beginning."""
        self._leave(job, now)
        job.restart()
        self._schedule.add(job, job.target.host_key, now, pause=pause)

    def _leave(self, job: Job, now: float) -> None:
        """Give a job's turn and its reservation back."""
        self._schedule.finished(job.target.host_key, now)
        self._budget.drop(job.reserved)
        job.reserved = 0

    def _end(self, job: Job, error: ItemError, now: float) -> list[Done]:
        """A failure is final, unless it is doubtful: then somebody has to answer first, or nobody be left to do so."""
        if self._outage is not None and error.reason in self._doubtful:
            self._leave(job, now)
            self._limbo.append((job, error))
            return self._release_if_idle(now)
        done = self._conclude(job, error, now)
        self._leave(job, now)
        return done + self._release_if_idle(now)

    def _conclude(self, job: Job, error: ItemError, now: float) -> list[Done]:
        if job.origin:
            verdict = verdict_of(error, job.hops)
            if isinstance(verdict, ItemError):  # the attempts that were made for the sake of the rows
                verdict.attempts = job.attempts
            self._settle_origin(job, verdict, now)
            return []
        failure = dataclasses.replace(error.failure(job.attempts), seconds=now - job.started if job.started else 0.0)
        return self._fill(job, failure)

    def _settle_origin(self, job: Job, verdict: Verdict, now: float) -> None:
        """Whoever has waited for an origin's robots.txt stands in line again."""
        assert self._robots is not None
        for waiter in self._robots.settle(job.origin, verdict, now):
            self._schedule.add(waiter, waiter.target.host_key, now)

    def _reached(self, target: Target, now: float, *, good: bool) -> list[Done]:
        """Somebody answered: so whatever failed before, failed by its own fault. `good` if it was this very host."""
        if good:
            self._recover(now)
        if self._outage is None:
            return []
        if good and not target.stored:
            self._known_good.pop(target.host_key, None)
            self._known_good[target.host_key] = target
            if len(self._known_good) > KNOWN_GOOD:
                del self._known_good[next(iter(self._known_good))]
        if self._outage.reached(target.host_key):
            self._trouble.end(now)
            self._back_at = now
        return self._release(now)

    def _release_if_idle(self, now: float) -> list[Done]:
        """What is in doubt counts when nobody is left who could answer."""
        probing = self._outage is not None and self._outage.reason is not None
        return [] if self._schedule.active or self._schedule.waiting or probing else self._release(now)

    def _release(self, now: float) -> list[Done]:
        limbo, self._limbo = self._limbo, []
        return [done for job, error in limbo for done in self._conclude(job, error, now)]

    def _in_outage(self, job: Job, reason: Reason, now: float) -> bool:
        """Whether an attempt that came to a doubtful end did so because of an outage, which may begin with it."""
        if self._outage is None:
            return False
        if job.is_trial:
            self._outage.probe_failed(now)
        elif self._outage.failed(job.target.host_key, reason, now) and not self._known_good:
            self._confirm_outage(now)  # nobody has ever answered, so that nobody could be asked
        return self._outage.confirmed or job.began <= self._back_at

    @property
    def _must_probe(self) -> bool:
        """Whether the next attempt is one at a host that has answered before."""
        return self._outage is not None and self._outage.reason is not None and bool(self._known_good)

    def _probe(self, guess: int, now: float) -> Job:
        """Ask one of the hosts that have answered before; the next time another one."""
        assert self._outage is not None
        host = next(iter(self._known_good))
        target = self._known_good[host] = self._known_good.pop(host)
        job = Job.for_probe(target)
        job.reserved, job.began = guess, now
        self._outage.started()
        return job

    def _probed(self, job: Job, answer: Body | Target | ItemError, now: float) -> list[Done]:
        assert self._outage is not None
        self._budget.drop(job.reserved)
        reason = answer.reason if isinstance(answer, ItemError) else None
        if reason is not None and (reason in self._doubtful or reason.retry is Retry.LOCAL):
            if self._outage.reason is not None:  # it has not ended meanwhile
                self._outage.probe_failed(now)
                self._confirm_outage(now)
            return []
        return self._reached(job.target, now, good=True)

    def _confirm_outage(self, now: float) -> None:
        """It is this machine: all that has failed so far without an answer begins anew."""
        assert self._outage is not None
        assert self._outage.reason is not None
        if not self._outage.confirm():
            return
        self._trouble.begin(self._outage.reason, now)
        self._outages += 1
        self._manners.forgive()
        limbo, self._limbo = self._limbo, []
        self._given_back += len(limbo)
        for held, _ in limbo:
            held.restart()
            self._schedule.add(held, held.target.host_key, now)

    def _refund(self, job: Job, now: float) -> None:
        """The attempt does not count."""
        job.attempts = max(0, job.attempts - 1)
        self._given_back += 1
        self._again(job, now)

    def _give_back(self, job: Job, error: ItemError, now: float) -> None:
        """This machine had nothing left for the attempt: fewer at a time from now on."""
        self._trouble.begin(error.reason, now)
        self._short_since = now if self._short_since is None else self._short_since
        if now - self._short_since > LOCAL_PATIENCE and math.isinf(self._allowance):
            raise LocalError(error.reason, error.detail)
        if job.is_trial and self._outage is not None:
            self._outage.probe_failed(now)
        job.attempts = max(0, job.attempts - 1)
        self._given_back += 1
        self._again(job, now, LOCAL_PAUSE)
        self._schedule.width = max(1, self._schedule.active)

    def _recover(self, now: float) -> None:
        """A connection stood: perhaps more at a time are possible again."""
        self._short_since = None
        if self._schedule.width < self._config.connections:
            self._schedule.width += 1
        if self._trouble.reason in _SHORTAGES:
            self._trouble.end(now)

    def _rest(self, host: str, pause: float | None, now: float) -> None:
        if pause is not None and pause > self._patience:
            self._parked[host] = now + pause
            if len(self._parked) > MAX_PARKED:
                del self._parked[next(iter(self._parked))]
        elif pause is not None:
            self._schedule.hold(host, now, pause)

    def _is_parked(self, host: str, now: float) -> bool:
        until = self._parked.get(host)
        if until is not None and until <= now:
            del self._parked[host]
        return until is not None and until > now

    def _fill(self, job: Job, part: Fetched | Failure) -> list[Done]:
        assert job.ticket is not None, "requests of robots.txt end elsewhere"
        return self._put(job.ticket, job.position, part)

    def _put(self, ticket: Ticket, position: int, part: Fetched | Failure) -> list[Done]:
        """One part is settled; the row is done with its last one."""
        ticket.parts[position] = part
        ticket.missing -= 1
        if ticket.missing:
            return []
        self._budget.reserve(0)
        return [(ticket.row, tuple(part for part in ticket.parts if part is not None))]
