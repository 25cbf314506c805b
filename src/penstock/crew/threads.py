"""Threads as workers: right for native decoders, which release the GIL, and on interpreters that have none.

    submit ──▶ queue ──▶ worker thread ─┬─ in time ──────────────▶ deliver
                              ▲         └─ too late: dropped          ▲
                              │ replaces                              │
                           watcher ── past the deadline: DECODE_TIMEOUT

A thread cannot be killed. One that exceeds the deadline is abandoned: its row is delivered as failed, a new thread takes its
seat, and what it returns later is dropped; until then it goes on using its core. Two things are beyond this crew, and
are what the process crew is for: a crash in native code, and a native loop that never releases the GIL.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from queue import SimpleQueue

from penstock.crew.arena import Landing
from penstock.crew.base import CrewStatistics, Deliver, OnBroken, Work, attempt_shielded, prepare
from penstock.crew.clock import TICK, AwakeClock
from penstock.crew.wire import Place
from penstock.errors import WorkerError
from penstock.records import Failure, Fetched, Reason, Result, Row

__all__ = ["ThreadCrew"]

CLOSING_PATIENCE = 2.0
"""Seconds that `close` waits for threads to finish the row in hand; those that take longer are left behind."""


@dataclass(frozen=True, slots=True)
class _Job:
    row: Row
    fetched: tuple[Fetched, ...]
    place: Place | None


@dataclass(eq=False, slots=True)
class _Seat:
    """One worker thread, and the job in its hands. A seat without a job that was abandoned stays without one."""

    thread: threading.Thread | None = None
    job: _Job | None = None
    since: float = 0.0
    """When it took the job."""
    deadline: float = 0.0
    abandoned: bool = False
    landing: threading.Lock = field(default_factory=threading.Lock)
    """Held while the thread writes a result to its place."""


class ThreadCrew:
    """A crew of `width` daemon threads.

    Args:
        work: what to do with each row; called from several threads at a time.
        width: threads.
        decode_timeout: seconds of work for one row; None for no limit.
        landing: writes the arrays of rows that are submitted with a place.
    """

    def __init__(
        self, work: Work, width: int, decode_timeout: float | None = None, *, landing: Landing | None = None
    ) -> None:
        self.width = width
        self._work = work
        self._landing = landing
        self._decode_timeout = decode_timeout
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()  # bounded by the flow: a few rows for each worker
        self._clock = AwakeClock()
        self._lock = threading.Lock()
        self._seats: list[_Seat] = []
        self._watcher: threading.Thread | None = None
        self._closing = threading.Event()
        self._preparing = threading.Lock()
        """One thread after the other: what makes the work ready may well set up what all of them use."""
        self._error: WorkerError | None = None
        self._busy_seconds = self._occupied_seconds = 0.0
        self._timeouts = 0

    def start(self, deliver: Deliver, on_broken: OnBroken, /) -> None:
        """Start the threads; every result goes to `deliver`. Returns before they are ready."""
        self._deliver = deliver
        self._on_broken = on_broken
        with self._lock:
            for _ in range(self.width):
                self._fill_seat()
        if self._decode_timeout is not None:
            arguments = (self._decode_timeout,)
            self._watcher = threading.Thread(target=self._watch, args=arguments, name="penstock-watcher", daemon=True)
            self._watcher.start()

    def submit(self, row: Row, fetched: tuple[Fetched, ...], place: Place | None = None) -> None:
        """Hand over one row; never blocks.

        Raises:
            WorkerError: the work cannot be made ready.
        """
        if self._error is not None:
            raise WorkerError(str(self._error))
        if not self._closing.is_set():
            self._jobs.put(_Job(row, fetched, place))

    def statistics(self) -> CrewStatistics:
        """What was done so far."""
        with self._lock:
            now = self._clock()
            held = sum(now - seat.since for seat in self._seats if seat.job is not None)
            return CrewStatistics(self._busy_seconds, self._occupied_seconds + held, timeouts=self._timeouts)

    def close(self) -> None:
        """Stop at once: what is inside is dropped.

        Waits up to two seconds for threads in the middle of a row, and not at all for abandoned ones.
        """
        with self._lock:
            self._closing.set()
            seats, self._seats = self._seats, []
        for seat in seats:
            with seat.landing:
                pass  # without patience: the arena may be closed next, and its descriptor become another file's
        threads = [seat.thread for seat in seats if seat.thread is not None]
        for _ in threads:
            self._jobs.put(None)
        if self._watcher is not None:
            threads.append(self._watcher)
        patience_ends = time.monotonic() + CLOSING_PATIENCE
        for thread in threads:
            thread.join(max(0.0, patience_ends - time.monotonic()))

    def _fill_seat(self) -> None:
        seat = _Seat()
        seat.thread = threading.Thread(target=self._serve, args=(seat,), name="penstock-worker", daemon=True)
        self._seats.append(seat)
        seat.thread.start()

    def _serve(self, seat: _Seat) -> None:
        if not self._is_prepared():
            return
        while not seat.abandoned and (job := self._jobs.get()) is not None:
            if not self._take(seat, job):
                return
            result = attempt_shielded(self._work, job.row, job.fetched)
            with seat.landing:
                # A thread that is late must not write: its place may be another row's by now. Once it has claimed its
                # job it is not late any more, however long the writing takes.
                wanted = self._claim(seat, result)
                if wanted and self._landing is not None and job.place is not None:
                    result = self._landing.land(result, job.place)
            if wanted:
                self._deliver(job.row, result)

    def _is_prepared(self) -> bool:
        """Make the work ready for this thread, before it has a row with a deadline; the first failure breaks the crew."""
        with self._preparing:
            if self._closing.is_set() or self._error is not None:
                return False
            try:
                prepare(self._work)
            except WorkerError as error:
                self._error = error
                self._on_broken(error)
        return self._error is None

    def _take(self, seat: _Seat, job: _Job) -> bool:
        """Put the job into the seat's hands; False if the crew is closing."""
        with self._lock:
            if self._closing.is_set():
                return False
            seat.since = self._clock()
            seat.deadline = seat.since + (self._decode_timeout or 0.0)
            seat.job = job
            return True

    def _claim(self, seat: _Seat, result: Result) -> bool:
        """Whether the result is still wanted: not after the deadline, not after `close`."""
        with self._lock:
            wanted = seat.job is not None and not self._closing.is_set()
            seat.job = None
            if wanted:
                self._busy_seconds += result.seconds
                self._occupied_seconds += self._clock() - seat.since
            return wanted

    def _watch(self, timeout: float) -> None:
        """Abandon the threads that exceed the deadline, until the crew closes."""
        while not self._wait_for_deadline(timeout):
            for job in self._abandon_late(timeout):
                failure = Failure(Reason.DECODE_TIMEOUT, f"not done after {timeout:g} s; its thread was abandoned")
                self._deliver(job.row, Result.of(failure, job.fetched, timeout))

    def _wait_for_deadline(self, timeout: float) -> bool:
        """Sleep until the next deadline, known or not: a job taken from now on has its own no sooner than that."""
        with self._lock:
            known = [seat.deadline - self._clock() for seat in self._seats if seat.job is not None]
        planned = max(0.0, min([TICK, timeout, *known]))
        started = time.monotonic()
        closing = self._closing.wait(planned)
        self._clock.waited(time.monotonic() - started, planned)
        return closing

    def _abandon_late(self, timeout: float) -> list[_Job]:
        with self._lock:
            if self._closing.is_set():
                return []
            now = self._clock()
            late = [seat for seat in self._seats if seat.job is not None and seat.deadline <= now]
            jobs = [seat.job for seat in late if seat.job is not None]
            for seat in late:
                seat.job, seat.abandoned = None, True
                self._seats.remove(seat)
                self._fill_seat()
            self._timeouts += len(late)
            self._busy_seconds += timeout * len(late)
            self._occupied_seconds += sum(now - seat.since for seat in late)
            return jobs
