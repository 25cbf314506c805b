"""`penstock.stream`: a list → batches in a training loop.

::

    options ─▶ StreamConfig       list ─▶ Source | ShardSource
                     ╲             ╱
                      ▼           ▼
                Plan: what is to be done, and where     ◀── State (what the user has received)
                             │
                             ▼
          ChildHost | ThreadHost ──Assembled──▶ Stream.__next__ ──▶ Batch
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import logging
import os
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterator
from collections.abc import Mapping as AnyMapping
from types import TracebackType
from typing import Any, Self

import penstock
from penstock.config import StreamConfig
from penstock.crew.arena import Mapping
from penstock.crew.script import stop_if_in_worker
from penstock.errors import PenstockError, StateRefusedError, WorkerError
from penstock.flow import LaneStatistics
from penstock.image.work import ImageTransform, Initializer, Steps, Transform
from penstock.reading import ShardSource
from penstock.records import MAX_TRACEBACKS, Kind, Outcome, Trace
from penstock.report.report import Report
from penstock.report.verdict import verdict
from penstock.streaming.assembling import MOST_FALLEN
from penstock.streaming.batch import Batch
from penstock.streaming.hosts import DiedError, Host
from penstock.streaming.messages import Assembled, Broken, Ended, EpochEnded, Fallen, Logged, Message, Tick
from penstock.streaming.order import StreamRow
from penstock.streaming.planning import Plan, make_plan
from penstock.streaming.state import State

__all__ = ["Stream", "stream"]

MAX_DEATHS = 3
"""Times that the stream's process may die before the stream is given up: one death is an accident, three are a cause."""

_logger = logging.getLogger("penstock")


def stream(
    source: Any,
    *,
    transform: Transform | None = None,
    transform_image: ImageTransform | None = None,
    initializer: Initializer | None = None,
    split: tuple[int, int] = (0, 1),
    even: bool = False,
    config: StreamConfig | None = None,
    **options: Any,
) -> Stream:
    """Batches of images straight from a list of URLs, with no dataset on disk in between.

    Example::

        with penstock.stream("urls.parquet", size=128, batch_size=64, shuffle=10_000, epochs=3) as batches:
            for batch in batches:
                train(batch.as_float(), batch.fields)
        print(batches.report.reasons)

    Everything works in a process of its own, so that the training loop only receives. It begins with the first batch
    that is asked for, and ends with the loop, with the ``with`` block, or when nobody holds the stream any more.

    Args:
        source: a list, as `penstock.run` takes it; or a folder that `penstock.run` has written, which is then read back:
            its own size and resize are the default there.
        transform: a picklable function ``(bytes, row) -> dict of arrays or bytes`` in place of decode and resize.
        transform_image: a picklable function ``((H, W, 3) uint8, row) -> array or dict of arrays or bytes`` behind them.
        initializer: a picklable function without arguments, called once in each worker before its first row.
        split: this stream's part of the rows, as ``(i, n)``: every n-th from the i-th on, in the order of the epoch.
        even: every part gives the same number of batches, whatever fails: rows come again where there are too few.
        config: all the options at once; or give them one by one:
        **options: fields of `StreamConfig`.

    Raises:
        ConfigError: an option cannot be used.
        SourceError: the list cannot be read.
        MissingExtraError: an optional package is needed.

    *Cancellation*: leaving the block, an exception in it, Ctrl-C and garbage collection all end every thread and process of
    the stream; so does leaving the loop, if nobody else holds the stream.
    """
    stop_if_in_worker()
    steps = Steps(transform, transform_image, initializer)
    return Stream(make_plan(source, steps, split=split, even=even, config=config, options=options))


class Stream:
    """An iterator of `Batch`, made by `stream`. For one thread at a time.

    Args:
        plan: what it gives.
        epoch: where it begins.
    """

    def __init__(self, plan: Plan, epoch: int = 0) -> None:
        self.config = plan.config
        self._plan = plan
        self._state = State({}, epoch)
        """Its identity is asked of the plan when it is needed: it may cost a pass over the list."""
        self._receiver: _Receiver | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._account = _Account()
        self._clock = _Clock()
        self._statistics: LaneStatistics | None = None
        self._peak = 0
        self._deaths = 0
        self._fallen: deque[Outcome] = deque(maxlen=MOST_FALLEN)
        """Rows that came to nothing without a batch to tell of them: the next one does, of the last ones. All are counted."""
        self._ended = self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        """The stream itself: it is gone through once; ``epochs=`` says how often that goes through the list.

        Raises:
            PenstockError: it is at its end, or closed.
        """
        if self._ended:
            raise PenstockError("the stream has come to its end; give epochs=N, or call penstock.stream again")
        self._begin()
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            RowFailedError: a row has failed, and `on_failure` is ``raise``.
            TooManyFailuresError: a smaller share of the rows gave an image than `min_success` asks for.
            NoImagesError: a whole epoch gave none.
            ConfigError: a transform has returned arrays of different shapes.
            SourceError: the list is damaged further down, or its generator has raised an exception.
            WorkerError: the workers cannot work at all.
        """
        while not self._ended:
            batch = self._advance(self._begin())
            if batch is not None:
                return batch
        raise StopIteration

    def __repr__(self) -> str:
        how = "at its end" if self._ended else "closed" if self._closed else f"in epoch {self._state.epoch}"
        return f"<Stream of {self._plan.source.description}, {how}, {self._account.kinds.total()} rows received>"

    def close(self) -> None:
        """End every thread and process of the stream; batches that are held stay as they are. May be called twice."""
        self._clock.stop()
        self._closed = True
        self._dismiss()

    @property
    def report(self) -> Report:
        """What has become of the rows so far: those of the batches that were handed out, and those that fell out before.

        ``rows = written + failed + skipped`` at any time; `written` are the images that were handed out.
        """
        plan, account, seconds = self._plan, self._account, self._clock.seconds
        report = Report(
            rows=account.kinds.total(),
            written=account.kinds[Kind.WRITTEN],
            failed=account.kinds[Kind.FAILED],
            skipped=account.kinds[Kind.SKIPPED],
            seconds=round(seconds, 3),
            images_per_second=round(account.kinds[Kind.WRITTEN] / seconds, 1) if seconds else 0.0,
            bytes_downloaded=account.downloaded,
            reasons=dict(account.reasons.most_common()),
            verdict="none: nothing has come yet",
            strategy=plan.config.strategy,
            workers=plan.setup.workers,
            connections=plan.config.connections,
            peak_rss_bytes=self._peak,
            format="stream",
            finished=self._ended,
            rows_settled=account.kinds.total(),
            fetch=plan.setup.fetch,
            crew=plan.setup.crew,
            ignored=plan.config.ignored,
            tracebacks=account.tracebacks,
            started=self._clock.started,
            version=penstock.__version__,
        )
        return report if self._statistics is None else _with_statistics(report, self._statistics, plan)

    def state_dict(self) -> dict[str, Any]:
        """How far the loop has come: which rows of the epoch it has received. JSON types; may be asked at any moment.

        What it has not received by now will be delivered to whoever goes on from here, and nothing else of this epoch.
        """
        return {**self._state.as_dict(), "identity": self._plan.identity}

    def load_state_dict(self, state: AnyMapping[str, Any]) -> None:
        """Go on from there; before the first batch.

        Raises:
            StateRefusedError: the state is of another list or other options, or this stream has begun already.
        """
        if self._clock.started:
            raise StateRefusedError("this stream has begun: load a state before the first batch is asked for")
        self._state = State.of(state, self._plan.identity)

    def _begin(self) -> _Receiver:
        """What receives the batches; started if need be."""
        if self._closed:
            raise PenstockError("the stream is closed; call penstock.stream again, and load its state_dict() to go on")
        if self._receiver is None:
            self._clock.start()
            self._receiver = _opened(self._plan.open_host(self._state))
            self._finalizer = weakref.finalize(self, self._receiver.close)
        return self._receiver

    def _dismiss(self) -> None:
        finalizer, self._finalizer, self._receiver = self._finalizer, None, None
        if finalizer is not None:
            finalizer()

    def _advance(self, receiver: _Receiver) -> Batch | None:
        """Take one message; a batch if it was one."""
        receiver.host.wait()
        try:
            return self._take(receiver, receiver.host.receive())
        except DiedError as died:
            self._start_again(died)
            return None
        except BaseException:
            # An interrupt may have lost a message, or half of one. What the loop has received is known, so the next batch
            # comes from a new host, as after a death.
            self._closed |= not self._plan.source.rereadable
            self._dismiss()
            raise

    def _take(self, receiver: _Receiver, message: Message) -> Batch | None:
        match message:
            case Tick(statistics, resident):
                self._statistics = statistics
                self._peak = max(self._peak, resident)
            case Assembled():
                batch = receiver.batch_of(message, self._plan, fallen=tuple(self._fallen))
                self._fallen.clear()
                self._state.received(message.epoch, message.positions, batch=True)
                self._account.add(message)
                self._fell_out(message.epoch, message.outcomes, ended=message.last)
                return batch
            case Fallen(epoch, outcomes):
                self._fell_out(epoch, outcomes, ended=False)
                self._fallen.extend(outcomes)
            case EpochEnded(epoch, outcomes):
                self._fell_out(epoch, outcomes, ended=True)
                self._fallen.extend(outcomes)
            case Ended():
                self._clock.stop()
                self._ended = True
                self._dismiss()
            case Logged(level, text):
                _logger.log(level, "%s", text)
            case Broken(error, outcomes):
                self._account.add_outcomes(outcomes)
                self.close()
                raise error
        return None

    def _fell_out(self, epoch: int, outcomes: tuple[Outcome, ...], *, ended: bool) -> None:
        self._account.add_outcomes(outcomes)
        positions = [outcome.row.position for outcome in outcomes if isinstance(outcome.row, StreamRow)]
        self._state.received(epoch, positions, batch=False)
        if ended:
            self._state.finished(epoch)

    def _start_again(self, error: DiedError) -> None:
        """In a new process, from where the loop is: what the old one had in hand was not received, so nothing is lost."""
        self._deaths += 1
        self._dismiss()
        source = self._plan.source
        if not source.rereadable:
            self.close()
            raise WorkerError(
                f"{error}; {source.description} can be read only once, so the stream cannot go on"
            ) from error
        if self._deaths >= MAX_DEATHS:
            self.close()
            raise error
        _logger.warning(
            "%s; another one goes on from here", str(error)
        )  # its frames have batches: nobody is to keep them


def _opened(host: Host) -> _Receiver:
    try:
        return _Receiver(host)
    except BaseException as error:
        host.close()
        if isinstance(error, OSError):
            raise WorkerError(f"the stream's memory cannot be opened: {error.strerror}") from error
        raise


class _Receiver:
    """Takes batches from a host, and gives their memory back when nobody holds it any more."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._mapping = Mapping(os.dup(host.descriptor))
        self._freed: deque[int] = deque()
        """Filled by finalisers, in whichever thread they run."""

    def close(self) -> None:
        """End the host."""
        self.host.close()
        self._mapping.close()

    def batch_of(self, message: Assembled, plan: Plan, *, fallen: tuple[Outcome, ...]) -> Batch:
        """The batch, which tells of those that have fallen before, too; and a word to the host that it was taken."""
        layout, slab = message.layout, message.inline
        if message.slab is not None:
            slab = self._mapping.array(message.slab, layout.size, functools.partial(self._freed.append, message.slab))
        arrays = {} if slab is None else layout.arrays(slab, len(message.keys))
        del slab
        self.host.taken(tuple(_drained(self._freed)))
        return Batch(
            keys=message.keys,
            parts=plan.parts_of({**arrays, **message.loose}, len(message.keys)),
            fields=plan.fields_of(message.fields),
            captions=message.captions if plan.captioned else None,
            part_outcomes=message.part_outcomes,
            outcomes=(*fallen, *message.outcomes),
            epoch=message.epoch,
        )


def _drained(freed: deque[int]) -> Iterator[int]:
    while freed:
        yield freed.popleft()


class _Clock:
    """Wall time from the first batch that was asked for to the end."""

    def __init__(self) -> None:
        self.started = ""
        """ISO 8601, UTC; empty before."""
        self._began = self._stopped = 0.0

    def start(self) -> None:
        if not self.started:
            self.started = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
            self._began = time.perf_counter()

    def stop(self) -> None:
        if self.started and not self._stopped:
            self._stopped = time.perf_counter()

    @property
    def seconds(self) -> float:
        return (self._stopped or time.perf_counter()) - self._began if self.started else 0.0


class _Account:
    """Rows by how they ended, as far as the loop has received them."""

    def __init__(self) -> None:
        self.kinds: Counter[Kind] = Counter()
        self.reasons: Counter[str] = Counter()
        self.downloaded = 0
        self.tracebacks: dict[str, str] = {}
        """Of the user's code, by kind."""

    def add(self, batch: Assembled) -> None:
        self.kinds[Kind.WRITTEN] += len(batch.keys)
        self.downloaded += batch.downloaded

    def add_outcomes(self, outcomes: tuple[Outcome, ...]) -> None:
        for outcome in outcomes:
            self.kinds[outcome.kind] += 1
            self.downloaded += outcome.size
            if outcome.reason is not None:
                self.reasons[outcome.reason.value] += 1
            if outcome.trace is not None:
                self._tell(outcome.trace)

    def _tell(self, trace: Trace) -> None:
        if trace.kind not in self.tracebacks and len(self.tracebacks) < MAX_TRACEBACKS:
            self.tracebacks[trace.kind] = trace.text
            _logger.warning("the transform failed; told once for each kind of error\n%s", trace.text)


def _with_statistics(report: Report, statistics: LaneStatistics, plan: Plan) -> Report:
    config = plan.config
    shares, fetch = statistics.shares(config.connections), statistics.fetch
    said = verdict(
        shares,
        workers=report.workers,
        connections=config.connections,
        per_host=config.per_host,
        consumer="training loop: the stream waited {share:.0%} of the time for the next batch to be asked for",
    )
    if isinstance(plan.source, ShardSource) and said.startswith("network"):
        said = f"reading: the decoders were busy {shares.crew_busy:.0%} of the time and waited for the shards otherwise"
    return dataclasses.replace(
        report,
        verdict=said if report.written else "none: no image was handed out; the reasons tell why",
        retries=fetch.retries,
        attempts_given_back=fetch.given_back,
        waits={reason: round(seconds, 1) for reason, seconds in fetch.trouble_seconds.items()},
        loop_lag_seconds=round(fetch.loop_lag, 3),
        stages=dataclasses.asdict(shares),
    )
