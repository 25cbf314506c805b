"""One lane: source → fetch → crew → whoever takes the settled rows.

::

                 ┌──────────────────────── hub (the caller's thread) ───────────────────────┐
     rows ─next──▶ feed ──submit──▶ fetcher ──deliver──▶ events ──▶ ready ──submit──▶ crew  │
                 │  ▲                                      ▲                          │     │
                 │  └── tickets: lookahead rows, bytes     └────────── deliver ───────┘     │
                 │                                                                          │
                 │  a result, or a failed fetch  ──▶  yield Settled                         │
                 └──────────────────────────────────────────────────────────────────────────┘

The hub is the only thread that touches the lane's state, so there is nothing to lock. Fetcher and crew have threads of
their own and speak to the hub through one queue of events. What may lie where is bounded:

* rows inside the fetcher by `lookahead` (so that rows of one slow host do not hold up the hosts behind them);
* compressed bytes, from the first byte received to the end of the work, by a `ByteBudget`;
* rows inside the crew by `CREW_DEPTH` a worker, and the results that they can turn into by `result_bytes`.

There is always a reader: the hub waits only for the queue of events, and every row inside ends in it.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from penstock.crew.arena import Place
from penstock.crew.base import Crew, CrewStatistics
from penstock.crew.clock import Area
from penstock.errors import PenstockError
from penstock.fetch.base import Fetcher, FetchStatistics
from penstock.fetch.budget import ByteBudget
from penstock.records import Failure, Fetched, Kind, Outcome, Result, Row, Settled
from penstock.report.verdict import Shares

__all__ = ["Lane", "LaneStatistics"]

CREW_DEPTH = 6
"""Rows a worker may have waiting or at work. Two keep it busy; the others cover `BATCHING`, even where a row takes but a
millisecond, and the hub being held up by the disk."""

CREW_DEPTH_MOST = 64
"""The same where rows take less than that: arrays that are read back are but copied."""

BATCHING = 0.005
"""Seconds that events may gather before the hub looks at them: each time it wakes costs more than handling another
event, and this saves a quarter of the parent's CPU."""


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """Where the time of a lane went. Shares are of the time between the first row fed and the last one settled."""

    seconds: float
    """Wall time of the lane."""
    crew_busy: float
    """Share of the workers' time, from the first result on, spent working. Above 0.8 the CPU is the bottleneck."""
    crew_waiting: float
    """Share of that time in which fetched rows stood waiting for a worker. High: downloads outrun the CPU."""
    consumer: float
    """Share of the hub's time spent by the consumer (the sink). Above 0.5 the output is the bottleneck."""
    source: float
    """Share of the hub's time spent waiting for the source's next row. Above 0.5 the source is the bottleneck."""
    fetching: float
    """Rows inside the fetcher, on average over time."""
    capacity_seconds: float
    """Time that the workers had for work: from the lane's first result to its end, times their number."""
    consumer_seconds: float
    """Time that the hub spent in the consumer."""
    download_seconds: float
    """Time that the downloads of the rows that reached the crew took, summed over the rows."""
    fetch: FetchStatistics
    crew: CrewStatistics

    def shares(self, connections: int) -> Shares:
        """What the verdict is based on, given the option ``--connections``."""
        return Shares(
            crew_busy=self.crew_busy,
            crew_waiting=self.crew_waiting,
            consumer=self.consumer,
            source=self.source,
            connections=self.fetching / connections,
        )

    @classmethod
    def average(cls, lanes: Sequence[LaneStatistics]) -> LaneStatistics:
        """Of lanes side by side: the longest wall, the mean of the shares (of those that had work), the sum of the rest."""
        worked = [lane for lane in lanes if lane.crew.busy_seconds] or lanes

        def mean(name: str) -> float:
            return float(sum(getattr(lane, name) for lane in worked) / len(worked))

        return cls(
            seconds=max(lane.seconds for lane in lanes),
            crew_busy=mean("crew_busy"),
            crew_waiting=mean("crew_waiting"),
            consumer=mean("consumer"),
            source=mean("source"),
            fetching=sum(lane.fetching for lane in lanes),
            capacity_seconds=sum(lane.capacity_seconds for lane in lanes),
            consumer_seconds=sum(lane.consumer_seconds for lane in lanes),
            download_seconds=sum(lane.download_seconds for lane in lanes),
            fetch=FetchStatistics.sum(lane.fetch for lane in lanes),
            crew=CrewStatistics(
                busy_seconds=sum(lane.crew.busy_seconds for lane in lanes),
                occupied_seconds=sum(lane.crew.occupied_seconds for lane in lanes),
                crashes=sum(lane.crew.crashes for lane in lanes),
                timeouts=sum(lane.crew.timeouts for lane in lanes),
            ),
        )


def _always() -> bool:
    return True


def _nowhere(_row: Row) -> None:
    return None


class _StoppedReadingError(BaseException):
    """`Lane.stop` was called by a signal handler while the hub waited for the source."""


_END = Row(-1, ())
"""What stands for the end of the rows."""


class Lane:
    """Settles rows: each row that enters leaves as exactly one `Settled`, in the order of completion.

    >>> with Lane(fetcher, crew, lookahead=1024, budget=ByteBudget(2**27), result_bytes=2**27) as lane:  # doctest: +SKIP
    ...     for settled in lane.settle(rows):
    ...         sink.add(settled)

    Args:
        fetcher: brings the bytes; started and closed by the lane.
        crew: does the work; started and closed by the lane.
        lookahead: rows inside the fetcher at most, in flight or waiting for their host's turn.
        budget: bound on compressed bytes.
        result_bytes: bound on the results that may be under way from the crew to the consumer.
    """

    def __init__(self, fetcher: Fetcher, crew: Crew, *, lookahead: int, budget: ByteBudget, result_bytes: int) -> None:
        self._fetcher = fetcher
        self._crew = crew
        self._lookahead = lookahead
        self._budget = budget
        self._result_bytes = result_bytes
        self._events: queue.SimpleQueue[_Fetched | _Done | PenstockError | None] = queue.SimpleQueue()
        self._ready: deque[_Fetched] = deque()
        self._fetching = 0
        self._working: dict[int, _Fetched] = {}
        """Rows inside the crew, by the row's identity: a stream can have the same row in twice, for two epochs."""
        self._largest_result = 0
        self._mean_work = BATCHING
        """Seconds that the work on a row takes, on average over the last ones."""
        self._reading: int | None = None
        """The hub's thread, while it waits for the source's next row, which may take for ever: standard input."""
        self._stop_asked = False
        self._fetcher_closed = False
        self._may_feed = _always
        self._place_for: Callable[[Row], Place | None] = _nowhere
        self._deadline: float | None = None
        self._clock = _Clock()

    def __enter__(self) -> Self:
        self._crew.start(self._on_done, self._events.put)  # first: its processes get ready while the fetcher does
        try:
            self._fetcher.start(self._on_fetched, self._budget, self._events.put)
        except BaseException:
            self._crew.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop at once; what is inside is dropped. May be called twice."""
        self._fetcher.close()
        self._crew.close()

    def stop(self, grace: float = 10.0) -> None:
        """Take no more rows and drop those still downloading; let the others settle, for `grace` seconds at most.

        Safe in a signal handler. What is dropped was not settled, so a later run will do it.
        """
        self._stop_asked = True
        self._deadline = time.monotonic() + grace
        self._events.put(None)
        if self._reading == threading.get_ident():  # a signal handler in the hub's thread, in the middle of a read
            self._reading = None
            raise _StoppedReadingError

    def wake(self) -> None:
        """Have the hub look for rows again: `rows` had none for the moment, and has some now. From any thread."""
        self._events.put(None)

    def settle(
        self,
        rows: Iterable[Row | None],
        *,
        may_feed: Callable[[], bool] = _always,
        place_for: Callable[[Row], Place | None] = _nowhere,
    ) -> Iterator[Settled]:
        """Work off `rows`, lazily and in any order of completion; ends when all that entered have left.

        Args:
            rows: what to do; None stands for "none at the moment", after which somebody has to call `wake`.
            may_feed: whether another row may enter now; asked again after each row that has left.
            place_for: where the arrays of a row's sample are to be written, asked when the row goes to the crew.

        Raises:
            WorkerError: the crew, or the fetcher, cannot work at all.
        """
        source = iter(rows)
        self._may_feed, self._place_for = may_feed, place_for
        self._clock.start()
        exhausted = False
        while True:
            if self._stop_asked:
                self._stop_fetching()
            elif not exhausted:
                exhausted = self._feed(source)
            if (exhausted or self._stop_asked) and not self._inside:
                self._clock.end()
                return
            event = self._next_event()
            if event is not None:
                for settled in self._handle(event):
                    self._clock.consumer_has_it()
                    yield settled
                    self._clock.hub_has_it()
            elif self._out_of_grace():
                return

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called: rows may have been left out."""
        return self._stop_asked

    @property
    def _inside(self) -> int:
        beyond_fetcher = len(self._ready) + len(self._working)
        return beyond_fetcher + (self._events.qsize() if self._fetcher_closed else self._fetching)

    def _stop_fetching(self) -> None:
        """Close the fetcher once; what it had delivered by then is in the queue of events, the rest is dropped."""
        if not self._fetcher_closed:
            self._fetcher_closed = True
            self._fetcher.close()

    def _feed(self, source: Iterator[Row | None]) -> bool:
        """Give the fetcher as many rows as it may hold; True when the source is at its end."""
        while not self._stop_asked and self._fetching < self._lookahead and not self._crowded() and self._may_feed():
            row = self._next_row(source)
            if row is _END:
                return True
            if row is None:
                return False
            self._fetching += 1
            self._clock.fetching(self._fetching)
            self._fetcher.submit(row)
        return False

    def _next_row(self, source: Iterator[Row | None]) -> Row | None:
        """The next row; None if there is none now, `_END` at the end, and when `stop` broke off the wait for it."""
        asked = time.perf_counter()
        self._reading = threading.get_ident()
        try:
            return next(source, _END)
        except _StoppedReadingError:
            return _END
        finally:
            self._reading = None
            self._clock.source_took(time.perf_counter() - asked)

    def _crowded(self) -> bool:
        """Whether so much waits for the crew that more would only take memory."""
        return len(self._ready) >= self._lookahead

    def _next_event(self) -> _Fetched | _Done | None:
        try:
            event = self._events.get_nowait()
        except queue.Empty:
            event = self._wait_for_event()
        if isinstance(event, PenstockError):
            raise event
        return event

    def _wait_for_event(self) -> _Fetched | _Done | PenstockError | None:
        """The next event, a moment later than could be; see `BATCHING`."""
        time.sleep(BATCHING)
        try:
            return self._events.get(timeout=self._patience())
        except queue.Empty:
            return None

    def _patience(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _out_of_grace(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _handle(self, event: _Fetched | _Done) -> Iterator[Settled]:
        if isinstance(event, _Done):
            self._clock.result_came(event.result)
            self._mean_work += 0.05 * (event.result.seconds - self._mean_work)
            fetched = self._working.pop(id(event.row))
            self._budget.release(fetched.size)
            if not isinstance(event.result.value, Failure):
                self._largest_result = max(self._largest_result, event.result.value.nbytes)
            self._submit_ready()
            yield _settled(event, fetched)
        else:
            self._fetching -= 1
            self._clock.fetching(self._fetching)
            failure = event.row.failed_by(event.parts) if event.parts else None
            if failure is None:
                self._ready.append(event)
                self._submit_ready()
            else:
                self._budget.release(event.size)
                outcome = _failed(event.row, failure, size=event.size)
                yield Settled(dataclasses.replace(outcome, parts=event.row.part_outcomes(event.parts)))

    def _submit_ready(self) -> None:
        while self._ready and self._crew_has_room():
            event = self._ready.popleft()
            self._working[id(event.row)] = event
            self._crew.submit(event.row, event.fetched, self._place_for(event.row))
        self._clock.waiting(bool(self._ready))

    def _crew_has_room(self) -> bool:
        """A place in the crew, and room for what could come out of it."""
        inside = len(self._working)
        if inside >= self._crew_depth * self._crew.width:
            return False
        return inside == 0 or (inside + 1) * self._largest_result <= self._result_bytes

    @property
    def _crew_depth(self) -> int:
        """Rows for each worker: what it can do while the hub sleeps, twice over."""
        return max(CREW_DEPTH, min(CREW_DEPTH_MOST, int(2 * BATCHING / max(self._mean_work, 1e-6))))

    def _on_fetched(self, row: Row, parts: tuple[Fetched | Failure, ...]) -> None:
        self._events.put(_Fetched(row, parts))

    def _on_done(self, row: Row, result: Result) -> None:
        self._events.put(_Done(row, result))

    def statistics(self) -> LaneStatistics:
        """Where the time went so far."""
        return self._clock.statistics(self._fetcher.statistics(), self._crew.statistics(), self._crew.width)


@dataclass(frozen=True, slots=True)
class _Fetched:
    """Event: the fetcher is done with a row."""

    row: Row
    parts: tuple[Fetched | Failure, ...]
    """One for each request; none if the worker is to fetch."""

    @property
    def fetched(self) -> tuple[Fetched, ...]:
        return tuple(part for part in self.parts if isinstance(part, Fetched))

    @property
    def size(self) -> int:
        """Bytes that the row holds of the budget."""
        return sum(len(part.data) for part in self.parts if isinstance(part, Fetched))


@dataclass(frozen=True, slots=True)
class _Done:
    """Event: the crew is done with a row."""

    row: Row
    result: Result


def _settled(event: _Done, fetched: _Fetched) -> Settled:
    result = event.result
    parts = {**(event.row.part_outcomes(fetched.parts) if fetched.parts else {}), **result.parts}
    if isinstance(result.value, Failure):
        failed = _failed(event.row, result.value, result.size, result.http_status, result.attempts)
        return Settled(dataclasses.replace(failed, downgraded=result.downgraded, parts=parts))
    outcome = Outcome(
        event.row,
        Kind.WRITTEN,
        http_status=result.http_status,
        attempts=result.attempts,
        size=result.size,
        downgraded=result.downgraded,
        parts=parts,
    )
    return Settled(outcome, result.value)


def _failed(row: Row, failure: Failure, size: int, http_status: int | None = None, attempts: int = 0) -> Outcome:
    return Outcome(
        row,
        failure.reason.kind,
        failure.reason,
        failure.detail,
        failure.http_status if failure.http_status is not None else http_status,
        failure.attempts or attempts,
        size or failure.size,
        trace=failure.trace,
    )


class _Clock:
    """Keeps the shares of `LaneStatistics`: a few additions a row."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._consumer = self._source = self._waiting = self._download = 0.0
        self._consumer_since = 0.0
        self._waiting_since: float | None = None
        self._working_since: float | None = None
        self._ended: float | None = None
        self._fetching = Area()

    def start(self) -> None:
        self._started = time.perf_counter()

    def end(self) -> None:
        """The last row has left: what comes after is no time of the lane."""
        self._ended = time.perf_counter()

    def consumer_has_it(self) -> None:
        self._consumer_since = time.perf_counter()

    def hub_has_it(self) -> None:
        self._consumer += time.perf_counter() - self._consumer_since

    def source_took(self, seconds: float) -> None:
        self._source += seconds

    def fetching(self, level: int) -> None:
        self._fetching.change(level, time.perf_counter())

    def result_came(self, result: Result) -> None:
        """From the first one on the crew is at work; before, its workers were starting, which says nothing of the work."""
        self._download += result.fetch_seconds
        if self._working_since is None:
            self._working_since = time.perf_counter()

    def waiting(self, anything: bool) -> None:
        if anything and self._waiting_since is None and self._working_since is not None:
            self._waiting_since = time.perf_counter()
        elif not anything and self._waiting_since is not None:
            self._waiting += time.perf_counter() - self._waiting_since
            self._waiting_since = None

    def statistics(self, fetch: FetchStatistics, crew: CrewStatistics, width: int) -> LaneStatistics:
        now = self._ended or time.perf_counter()
        wall = max(now - self._started, 1e-9)
        capacity = now - self._working_since if self._working_since is not None else 0.0
        at_work = max(capacity, 1e-9) if self._working_since is not None else wall
        return LaneStatistics(
            seconds=wall,
            crew_busy=min(1.0, crew.busy_seconds / (at_work * width)),
            crew_waiting=self._waiting / at_work,
            consumer=self._consumer / wall,
            source=self._source / wall,
            fetching=self._fetching.until(now) / wall,
            capacity_seconds=width * capacity,
            consumer_seconds=self._consumer,
            download_seconds=self._download,
            fetch=fetch,
            crew=crew,
        )
