"""What the supervisor of worker processes decides; it does none of it itself.

    events                        roster                           instructions
    submit ready finished  ──▶  backlog, suspects, workers  ──▶  Spawn Assign Kill Deliver Break
    died tick                     (no I/O, no clock)               (carried out by `processes.ProcessCrew`)

The way of a job::

    submit ─▶ backlog ─▶ waiting in a worker ─▶ running in it ─┬─ finished ──────────────────────────▶ delivered
                 ▲              │                              ├─ exceeds the deadline ─▶ killed ─▶ delivered: timeout
                 └── its worker is gone                        └─ worker dies ─▶ suspect ─▶ alone in a fresh worker
                                                                                    └─ it dies again ─▶ delivered: crash

A worker holds up to `SLOTS` jobs, works them off in the order in which it got them, and only the first of them can have
killed it. A suspect is given to a worker that has done nothing yet and gets nothing else meanwhile. There is always one on
its way: every suspect comes from a death, every death is followed by a spawn, and while a suspect waits no fresh worker is
given anything else.

Suspects whose worker was killed, as the kernel does when memory runs out, have their second attempt one at a time. The
workers that were spawned for the others wait with them: after one such death the crew goes on with one worker less, and when
memory ran out for all of them, it works off one row at a time. The rest need not stop for it, else any row could halt the
crew for as long as the deadline allows.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from penstock.crew.wire import SLOTS, Packed
from penstock.records import Failure, Fetched, Reason, Result, Row

__all__ = ["Assign", "Break", "Deliver", "Instruction", "Job", "Kill", "Roster", "Spawn"]

STILLBORN_LIMIT = 5
"""Workers in a row that may die before they are ready; after that they all will."""

POISON_LIMIT = 5
"""Rows that may kill two workers each before any row is finished; more of them, and it is not the rows. Arbitrary."""

START_TIMEOUT = 120.0
"""Seconds for a worker to become ready. Far more than any import takes on a slow network drive."""


@dataclass(eq=False, slots=True)
class Job:
    """A submitted row."""

    row: Row
    fetched: tuple[Fetched, ...]
    parcel: Packed
    """Both of them, ready to be sent; nothing is copied for it."""
    suspect: Reason | None = None
    """How a worker has died of it, as it seems: `Reason.DECODE_CRASH` or `Reason.DECODE_OOM`."""


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker process, to be known by this number."""

    worker: int


@dataclass(frozen=True, slots=True)
class Assign:
    """Put the job into the worker's slot."""

    worker: int
    slot: int
    job: Job


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill the worker process, before anything else of the same decision; nothing that it still says counts."""

    worker: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """The job is done."""

    job: Job
    result: Result


@dataclass(frozen=True, slots=True)
class Break:
    """Give up: no worker can be had, or none is of use."""

    why: str


Instruction = Spawn | Assign | Kill | Deliver | Break


@dataclass(eq=False, slots=True)
class _Worker:
    number: int
    deadline: float
    """By which it has to be ready or, later, to have finished its running job; infinite while it has none."""
    ready: bool = False
    fresh: bool = True
    """Has not been given a job yet."""
    jobs: deque[tuple[int, Job]] = field(default_factory=deque)
    """Slot and job, the running one first."""

    @property
    def room(self) -> int:
        """Further jobs that it may be given."""
        return SLOTS - len(self.jobs) if self.ready and self.suspicion is None else 0

    @property
    def suspicion(self) -> Reason | None:
        """Of the suspect that it holds, if it does: then it holds nothing else."""
        return self.jobs[0][1].suspect if self.jobs else None

    @property
    def free_slot(self) -> int:
        taken = {slot for slot, _ in self.jobs}
        return next(slot for slot in range(SLOTS) if slot not in taken)


class Roster:
    """Who works on what.

    Every event method takes the time `now` in seconds and returns what is to be done, in order.

    Args:
        width: workers.
        decode_timeout: seconds that a running job may take.
    """

    def __init__(self, width: int, decode_timeout: float) -> None:
        self.crashes = 0
        """Workers that died while they had a job."""
        self.timeouts = 0
        """Workers that were killed for exceeding the deadline."""
        self._width = width
        self._decode_timeout = decode_timeout
        self._workers: dict[int, _Worker] = {}
        self._spawned = 0
        self._stillborn = 0
        self._blamed = 0
        self._has_finished = False
        self._backlog: deque[Job] = deque()
        self._suspects: deque[Job] = deque()
        self._broken = False

    @property
    def occupied(self) -> int:
        """Workers that have a job."""
        return sum(bool(worker.jobs) for worker in self._workers.values())

    def open(self, now: float) -> list[Instruction]:
        """The crew starts."""
        return [self._spawn(now) for _ in range(self._width)]

    def submit(self, job: Job, now: float) -> list[Instruction]:
        """A row came in."""
        self._backlog.append(job)
        return self._assign(now)

    def ready(self, worker: int, now: float) -> list[Instruction]:
        """A worker has loaded the work and waits for jobs."""
        self._stillborn = 0
        self._workers[worker].ready = True
        self._workers[worker].deadline = math.inf
        return self._assign(now)

    def finished(self, worker: int, slot: int, result: Result, now: float) -> list[Instruction]:
        """A worker has finished its running job. A note about any other slot is nonsense, and ignored."""
        seat = self._workers[worker]
        if not seat.jobs or seat.jobs[0][0] != slot:
            return []
        self._has_finished = True
        _, job = seat.jobs.popleft()
        seat.deadline = now + self._decode_timeout if seat.jobs else math.inf
        return [Deliver(job, result), *self._assign(now)]

    def died(self, worker: int, reason: Reason, how: str, now: float) -> list[Instruction]:
        """A worker process has ended by itself (`Reason.DECODE_CRASH`) or was killed (`Reason.DECODE_OOM`)."""
        seat = self._workers.pop(worker)
        if not seat.ready:
            return self._after_stillbirth(f"it died as it started: {how}", now)
        if not seat.jobs:
            return [self._spawn(now)]
        self.crashes += 1
        job = self._reclaim(seat)
        if job.suspect is not None:
            return self._after_second_death(job, reason, how, now)
        job.suspect = reason
        self._suspects.append(job)
        return [self._spawn(now), *self._assign(now)]

    def tick(self, now: float) -> list[Instruction]:
        """Time has passed."""
        late = [worker for worker in self._workers.values() if worker.deadline <= now]
        for worker in late:  # all of them first, so that none gets what another one has to give back
            del self._workers[worker.number]
        return [instruction for worker in late for instruction in self._after_deadline(worker, now)]

    @property
    def next_deadline(self) -> float:
        """The time of the next `tick` that will do something; infinite if there is none."""
        return min((worker.deadline for worker in self._workers.values()), default=math.inf)

    def _after_deadline(self, seat: _Worker, now: float) -> list[Instruction]:
        kill = Kill(seat.number)
        if not seat.ready:
            return [kill, *self._after_stillbirth(f"it was not ready after {START_TIMEOUT:g} s", now)]
        self.timeouts += 1
        job = self._reclaim(seat)
        timeout = _blame(job, Reason.DECODE_TIMEOUT, f"not done after {self._decode_timeout:g} s", self._decode_timeout)
        return [kill, timeout, self._spawn(now), *self._assign(now)]

    def _after_stillbirth(self, how: str, now: float) -> list[Instruction]:
        self._stillborn += 1
        if self._stillborn < STILLBORN_LIMIT:
            return [self._spawn(now)]
        return self._break(f"the workers cannot be started: {how}")

    def _after_second_death(self, job: Job, reason: Reason, how: str, now: float) -> list[Instruction]:
        self._blamed += 1
        if self._has_finished or self._blamed < POISON_LIMIT:
            return [_blame(job, reason, how), self._spawn(now), *self._assign(now)]
        return self._break(
            f"the workers die at their first row, whichever it is: {how}; a library that decodes may be broken or built for "
            "another machine, or there is too little memory; PYTHONFAULTHANDLER=1 shows where a worker dies"
        )

    def _break(self, why: str) -> list[Instruction]:
        if self._broken:
            return []
        self._broken = True
        return [Break(why)]

    def _reclaim(self, seat: _Worker) -> Job:
        """The running job of a lost worker; the one that waited goes back to where it came from."""
        (_, running), *waiting = seat.jobs
        self._backlog.extendleft(job for _, job in reversed(waiting))
        return running

    def _spawn(self, now: float) -> Spawn:
        self._spawned += 1
        self._workers[self._spawned] = _Worker(self._spawned, now + START_TIMEOUT)
        return Spawn(self._spawned)

    def _assign(self, now: float) -> list[Instruction]:
        """Suspects to workers that have done nothing yet; the backlog to whoever has most room."""
        instructions: list[Instruction] = self._assign_suspects(now) if self._suspects else []
        while self._backlog and not self._broken:
            roomiest = max(self._workers.values(), key=self._room)
            if not self._room(roomiest):
                break
            instructions.append(self._give(roomiest, self._backlog.popleft(), now))
        return instructions

    def _assign_suspects(self, now: float) -> list[Instruction]:
        instructions: list[Instruction] = []
        for worker in [worker for worker in self._workers.values() if worker.ready and worker.fresh]:
            suspect = self._next_suspect()
            if suspect is not None:
                self._suspects.remove(suspect)
                instructions.append(self._give(worker, suspect, now))
        return instructions

    def _next_suspect(self) -> Job | None:
        """The first whose turn it is: of those whose worker was killed, one at a time."""
        taken = any(worker.suspicion is Reason.DECODE_OOM for worker in self._workers.values())
        return next((job for job in self._suspects if not (taken and job.suspect is Reason.DECODE_OOM)), None)

    def _room(self, worker: _Worker) -> int:
        """Jobs of the backlog that it may be given; a fresh worker is kept for the suspects that wait."""
        return 0 if worker.fresh and self._suspects else worker.room

    def _give(self, worker: _Worker, job: Job, now: float) -> Assign:
        if not worker.jobs:
            worker.deadline = now + self._decode_timeout
        assign = Assign(worker.number, worker.free_slot, job)
        worker.jobs.append((assign.slot, job))
        worker.fresh = False
        return assign


def _blame(job: Job, reason: Reason, detail: str, seconds: float = 0.0) -> Deliver:
    return Deliver(job, Result.of(Failure(reason, detail), job.fetched, seconds))
