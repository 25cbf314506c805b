"""The supervisor's decisions: any order of submits, results, deaths and timeouts ends every job exactly once."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.crew.roster import (
    POISON_LIMIT,
    STILLBORN_LIMIT,
    Assign,
    Break,
    Deliver,
    Instruction,
    Job,
    Kill,
    Roster,
    Spawn,
)
from penstock.crew.wire import SLOTS
from penstock.records import Failure, Reason, Request, Result, Row, Sample

TIMEOUT = 10.0
DONE = Result(Sample({"image": b""}))


def job_of(index: int) -> Job:
    return Job(Row(index, (Request("image", None),)), (), [])


def reason_of(instruction: Instruction) -> Reason:
    assert isinstance(instruction, Deliver)
    assert isinstance(instruction.result.value, Failure)
    return instruction.result.value.reason


class Crew(RuleBasedStateMachine):
    """Obeys the roster as the real crew does, with workers that do whatever Hypothesis likes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.submitted = 0
        self.delivered: Counter[int] = Counter()
        self.deaths: Counter[int] = Counter()
        self.jobs: dict[int, list[Assign]] = {}
        self.starting: set[int] = set()
        self.worked: set[int] = set()
        self.stillborn = 0
        self.has_finished = False
        self.broken = False
        self.roster = Roster(3, TIMEOUT)
        self.obey(self.roster.open(self.now))

    def obey(self, instructions: list[Instruction]) -> None:
        for instruction in sorted(instructions, key=lambda one: not isinstance(one, Kill)):  # as the real crew does
            match instruction:
                case Spawn(worker):
                    self.jobs[worker] = []
                    self.starting.add(worker)
                case Assign(worker, slot, job):
                    assert worker not in self.starting
                    assert slot not in {held.slot for held in self.jobs[worker]}
                    assert not job.suspect or worker not in self.worked, "a suspect needs a fresh worker"
                    self.jobs[worker].append(instruction)
                    self.worked.add(worker)
                case Kill(worker):
                    self.forget(worker)
                case Deliver(job, _):
                    self.delivered[job.row.index] += 1
                case Break():
                    assert not self.broken
                    self.broken = True

    def forget(self, worker: int) -> list[Assign]:
        self.starting.discard(worker)
        return self.jobs.pop(worker)

    def choose(self, data: st.DataObject, workers: list[int]) -> int:
        return data.draw(st.sampled_from(sorted(workers)))

    def busy(self) -> list[int]:
        return [worker for worker, held in self.jobs.items() if held]

    @precondition(lambda self: not self.broken)
    @rule()
    def submit(self) -> None:
        self.obey(self.roster.submit(job_of(self.submitted), self.now))
        self.submitted += 1

    @precondition(lambda self: not self.broken and self.starting)
    @rule(data=st.data())
    def become_ready(self, data: st.DataObject) -> None:
        worker = self.choose(data, list(self.starting))
        self.starting.remove(worker)
        self.stillborn = 0
        self.obey(self.roster.ready(worker, self.now))

    @precondition(lambda self: not self.broken and self.busy())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        worker = self.choose(data, self.busy())
        held = self.jobs[worker].pop(0)
        self.has_finished = True
        self.obey(self.roster.finished(worker, held.slot, DONE, self.now))

    @precondition(lambda self: not self.broken and self.jobs)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        worker = self.choose(data, list(self.jobs))
        self.stillborn += worker in self.starting
        for held in self.forget(worker)[:1]:
            self.deaths[held.job.row.index] += 1
        reason = data.draw(st.sampled_from([Reason.DECODE_CRASH, Reason.DECODE_OOM]))
        self.obey(self.roster.died(worker, reason, "its signal", self.now))
        blamed = sum(count == 2 for count in self.deaths.values())
        assert self.broken == (self.stillborn >= STILLBORN_LIMIT or (blamed >= POISON_LIMIT and not self.has_finished))

    @precondition(lambda self: not self.broken)
    @rule(seconds=st.floats(0, 2 * TIMEOUT))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.stillborn += sum(worker in self.starting for worker in self.late())
        self.obey(self.roster.tick(self.now))
        assert self.broken or self.roster.next_deadline > self.now

    @precondition(lambda self: self.broken)
    @rule()
    def rest(self) -> None:
        """A broken crew is asked nothing more."""

    def killers_at_work(self) -> int:
        return sum(assign.job.suspect is Reason.DECODE_OOM for held in self.jobs.values() for assign in held)

    def late(self) -> list[int]:
        return [number for number, worker in self.roster._workers.items() if worker.deadline <= self.now]

    @invariant()
    def nobody_holds_too_much(self) -> None:
        assert all(len(held) <= SLOTS for held in self.jobs.values())

    @invariant()
    def suspects_are_alone(self) -> None:
        assert all(len(held) == 1 for held in self.jobs.values() if any(assign.job.suspect for assign in held))

    @invariant()
    def rows_that_took_all_the_memory_are_tried_one_at_a_time(self) -> None:
        assert self.killers_at_work() <= 1

    @invariant()
    def nothing_is_delivered_twice_or_blamed_for_one_death(self) -> None:
        assert all(count == 1 for count in self.delivered.values())
        assert all(count <= 2 for count in self.deaths.values())

    @invariant()
    def the_crew_is_complete(self) -> None:
        assert self.broken or len(self.jobs) == 3

    @invariant()
    def nobody_idles_while_work_waits(self) -> None:
        idle = [worker for worker, held in self.jobs.items() if not held and worker not in self.starting]
        kept = [worker for worker in idle if worker not in self.worked]
        inside = sum(len(held) for held in self.jobs.values())
        waiting = self.submitted - len(self.delivered) - inside
        suspects = [job.suspect for job in self.roster._suspects]
        assert self.broken or len(suspects) <= len(self.starting) + len(kept), "a suspect without a fresh worker"
        if kept and suspects:
            assert self.killers_at_work() == 1, "nobody waits but for the turn of its suspect"
            assert set(suspects) == {Reason.DECODE_OOM}
        elif idle and not self.broken:
            assert waiting == len(suspects)

    def teardown(self) -> None:
        """Let everybody work in peace: then everything is delivered."""
        while not self.broken and (self.starting or self.busy()):
            if self.starting:
                worker = self.starting.pop()
                self.obey(self.roster.ready(worker, self.now))
            else:
                worker = self.busy()[0]
                self.obey(self.roster.finished(worker, self.jobs[worker].pop(0).slot, DONE, self.now))
        assert self.broken or self.delivered == Counter(range(self.submitted))


TestCrew = Crew.TestCase


@pytest.fixture
def roster() -> Roster:
    """One worker, ready."""
    roster = Roster(1, TIMEOUT)
    roster.open(0.0)
    assert roster.ready(1, 0.0) == []
    return roster


def test_the_deadline_counts_from_when_a_job_runs(roster: Roster) -> None:
    """A job that waited in the worker gets all of its time."""
    first, second = job_of(0), job_of(1)
    roster.submit(first, 0.0)
    roster.submit(second, 0.0)
    roster.finished(1, 0, DONE, 9.0)
    assert roster.next_deadline == 9.0 + TIMEOUT
    assert roster.tick(18.0) == []


def test_an_exceeded_deadline_kills_and_gives_the_waiting_job_back(roster: Roster) -> None:
    """The running row fails; the one behind it is the first that the next worker gets."""
    jobs = [job_of(index) for index in range(3)]
    for job in jobs:
        roster.submit(job, 0.0)
    kill, delivery, spawn = roster.tick(TIMEOUT)
    assert (kill, spawn) == (Kill(1), Spawn(2))
    assert reason_of(delivery) is Reason.DECODE_TIMEOUT
    assert roster.ready(2, TIMEOUT) == [Assign(2, 0, jobs[1]), Assign(2, 1, jobs[2])]
    assert roster.timeouts == 1


def test_workers_that_are_late_together_get_nothing_from_each_other() -> None:
    """What waited behind one of them is not given to the other, which is about to be killed, too."""
    roster = Roster(2, TIMEOUT)
    roster.open(0.0)
    late, waiting, late_too = (job_of(index) for index in range(3))
    roster.ready(1, 0.0)
    for job in (late, waiting):
        roster.submit(job, 0.0)
    roster.ready(2, 0.0)
    assert roster.submit(late_too, 0.0) == [Assign(2, 0, late_too)]
    instructions = roster.tick(TIMEOUT)
    assert [type(instruction) for instruction in instructions] == [Kill, Deliver, Spawn, Kill, Deliver, Spawn]
    assert roster.ready(3, TIMEOUT) == [Assign(3, 0, waiting)]


@pytest.mark.parametrize("reason", [Reason.DECODE_CRASH, Reason.DECODE_OOM])
def test_a_second_death_is_blamed(roster: Roster, reason: Reason) -> None:
    """The suspect runs alone, and the backlog waits for it."""
    poison, innocent = job_of(0), job_of(1)
    roster.submit(poison, 0.0)
    roster.submit(innocent, 0.0)
    assert roster.died(1, reason, "how", 1.0) == [Spawn(2)]
    assert roster.ready(2, 1.0) == [Assign(2, 0, poison)]
    delivery, spawn = roster.died(2, reason, "how", 2.0)
    assert reason_of(delivery) is reason
    assert spawn == Spawn(3)
    assert roster.ready(3, 2.0) == [Assign(3, 0, innocent)]
    assert roster.crashes == 2


def test_the_second_death_tells_the_reason(roster: Roster) -> None:
    """It was alone then; the first time anything may have killed the worker."""
    roster.submit(job_of(0), 0.0)
    roster.died(1, Reason.DECODE_OOM, "SIGKILL", 1.0)
    roster.ready(2, 1.0)
    assert reason_of(roster.died(2, Reason.DECODE_CRASH, "SIGSEGV", 2.0)[0]) is Reason.DECODE_CRASH


def test_after_a_lack_of_memory_rows_are_worked_off_one_at_a_time() -> None:
    """All workers were killed: the fresh ones wait for each other, and what merely crashed need not wait."""
    roster = Roster(3, TIMEOUT)
    roster.open(0.0)
    hungry, greedy, crashing, innocent = jobs = [job_of(index) for index in range(4)]
    for worker in (1, 2, 3):
        roster.ready(worker, 0.0)
    for job in jobs:
        roster.submit(job, 0.0)
    roster.died(1, Reason.DECODE_OOM, "SIGKILL", 1.0)
    roster.died(2, Reason.DECODE_OOM, "SIGKILL", 1.0)
    roster.died(3, Reason.DECODE_CRASH, "SIGSEGV", 1.0)
    assert roster.ready(4, 2.0) == [Assign(4, 0, hungry)]
    assert roster.ready(5, 2.0) == [Assign(5, 0, crashing)]
    assert roster.ready(6, 2.0) == []
    assert roster.finished(5, 0, DONE, 3.0) == [Deliver(crashing, DONE), Assign(5, 0, innocent)]
    assert roster.finished(4, 0, DONE, 3.0) == [Deliver(hungry, DONE), Assign(6, 0, greedy)]


def test_an_idle_death_is_no_crash(roster: Roster) -> None:
    """Nobody was at work."""
    assert roster.died(1, Reason.DECODE_OOM, "SIGKILL", 0.0) == [Spawn(2)]
    assert roster.crashes == 0


def crash_until_the_end(roster: Roster, rows: int) -> list[list[Instruction]]:
    """Submit rows to a single worker, of which each kills two; what the second death of each brings."""
    worker, ends = 1, []
    for index in range(rows):
        roster.submit(job_of(index), 0.0)
        roster.died(worker, Reason.DECODE_CRASH, "SIGILL", 0.0)
        roster.ready(worker + 1, 0.0)
        ends.append(roster.died(worker + 1, Reason.DECODE_CRASH, "SIGILL", 0.0))
        worker += 2
        if ends[-1][-1] == Spawn(worker):
            roster.ready(worker, 0.0)
    return ends


def test_a_decoder_that_crashes_on_every_row_breaks_the_crew(roster: Roster) -> None:
    """After five rows, of which the last is not blamed: one clear error instead of a storm."""
    *blamed, (broken,) = crash_until_the_end(roster, POISON_LIMIT)
    assert [reason_of(instructions[0]) for instructions in blamed] == [Reason.DECODE_CRASH] * (POISON_LIMIT - 1)
    assert isinstance(broken, Break)
    assert "SIGILL" in broken.why
    assert "PYTHONFAULTHANDLER" in broken.why
    assert roster.submit(job_of(99), 0.0) == []


def test_one_finished_row_clears_the_decoder(roster: Roster) -> None:
    """From then on a crash is its row's fault, however many there are."""
    roster.submit(job_of(100), 0.0)
    roster.finished(1, 0, DONE, 0.0)
    ends = crash_until_the_end(roster, 3 * POISON_LIMIT)
    assert [reason_of(instructions[0]) for instructions in ends] == [Reason.DECODE_CRASH] * 3 * POISON_LIMIT


def test_nonsense_is_ignored(roster: Roster) -> None:
    """A note about a slot that is not the running job's changes nothing."""
    assert roster.finished(1, 0, DONE, 0.0) == []
    roster.submit(job_of(0), 0.0)
    assert roster.finished(1, 1, DONE, 0.0) == []


def test_workers_that_never_become_ready_break_the_crew() -> None:
    """Dead or silent: after five in a row, whose last words are told."""
    roster = Roster(1, TIMEOUT)
    roster.open(0.0)
    for worker in range(1, STILLBORN_LIMIT):
        assert Spawn(worker + 1) in roster.died(worker, Reason.DECODE_CRASH, "exit 127", 0.0)
    kill, broken = roster.tick(math.inf)
    assert kill == Kill(STILLBORN_LIMIT)
    assert isinstance(broken, Break)
    assert "not ready" in broken.why
